//! The shipped workflows: each compiles with sample parameters, fits the sample studio, and says what it costs.

use super::*;
use crate::prompts::Catalogue;
use orch_proto::v1::task_spec::Runner;
use serde_json::json;
use std::collections::BTreeSet;

/// Each with parameters that somebody may give, and the ids of its tasks.
fn samples() -> Vec<(&'static str, serde_json::Value, &'static [&'static str])> {
    let students = json!([
        {"name": "Emma Rodriguez", "slug": "emma-rodriguez", "age": 14, "level": "beginner"},
        "Sophia Chen",
        "Lucas Martinez"
    ]);
    vec![
        (
            "batch-evaluation",
            json!({"students": students, "parallel": 2}),
            &["evaluate-emma-rodriguez", "evaluate-sophia-chen", "evaluate-lucas-martinez"],
        ),
        (
            "code-review",
            json!({"directories": ["cli", "coordinator/core"]}),
            &["review-cli", "review-coordinator-core", "report"],
        ),
        (
            "complex-choreography",
            json!({"title": "Night Bus"}),
            &["concept", "first-half", "second-half", "floor-pattern", "join", "rehearsal-plan"],
        ),
        ("marie-evaluate-student", json!({"name": "Emma Rodriguez"}), &["evaluation"]),
        ("marie-new-student", json!({"name": "Zoé Öz"}), &["profile"]),
        (
            "marie-review-and-note-students",
            json!({"students": students}),
            &[
                "evaluate-emma-rodriguez.evaluation",
                "evaluate-sophia-chen.evaluation",
                "evaluate-lucas-martinez.evaluation",
                "note-emma-rodriguez",
                "note-sophia-chen",
                "note-lucas-martinez",
                "overview",
            ],
        ),
        ("parallel-demo", json!({}), &["teaching", "tools", "words"]),
        ("sequential-workflow", json!({"words": 200}), &["outline", "draft", "correction"]),
    ]
}

fn in_force() -> Workflows {
    let catalogue = Catalogue::load(&[]).unwrap();
    Workflows::load(catalogue.workflow_files(), catalogue.names()).on("2026-11-21")
}

fn compiled(name: &str, parameters: &serde_json::Value) -> v1::RunSpec {
    let call = v1::WorkflowCall {
        name: name.to_owned(),
        parameters: parameters.to_string(),
        ..v1::WorkflowCall::default()
    };
    compile(&call, &in_force()).unwrap_or_else(|problems| panic!("{name}: {problems:#?}"))
}

fn task<'s>(spec: &'s v1::RunSpec, id: &str) -> &'s v1::TaskSpec {
    spec.tasks.iter().find(|task| task.task_id == id).unwrap_or_else(|| panic!("no {id}"))
}

#[test]
fn every_shipped_workflow_is_in_force_and_compiles() {
    let in_force = in_force();
    assert_eq!(in_force.problems(), []);
    let samples = samples();
    assert!(in_force.names().eq(samples.iter().map(|(name, ..)| *name)), "one sample for each");
    for (name, parameters, ids) in samples {
        let spec = compiled(name, &parameters);
        assert_eq!(spec.tasks.iter().map(|task| task.task_id.as_str()).collect::<Vec<_>>(), ids, "{name}");
        assert_eq!(spec.name, name);
        let known: BTreeSet<&str> = ids.iter().copied().collect();
        for task in &spec.tasks {
            assert!(task.dependencies.iter().all(|id| known.contains(id.as_str())), "{name}: {:?}", task);
            let Some(Runner::Worker(worker)) = &task.runner else { panic!("{name}: {}", task.task_id) };
            assert!(worker.budget_micro_usd > task.expected_cost_micro_usd, "{name}: {}", task.task_id);
            assert!(
                task.expected_cost_micro_usd.is_some() && task.timeout.is_some(),
                "{name}: {}",
                task.task_id
            );
            assert!(!worker.description.contains("{{"), "{name}: {}", worker.description);
            for publication in &task.publish {
                let gates = task.gates.as_ref().unwrap();
                assert!(
                    gates.required_artifacts.contains(&publication.artifact),
                    "{name}: published unchecked"
                );
            }
        }
        let shown = in_force.show(name).unwrap();
        assert!(shown.source == "shipped" && !shown.description.is_empty() && shown.digest.len() == 32);
        assert!(shown.parameters.iter().all(|parameter| !parameter.description.is_empty()), "{name}");
    }
}

#[test]
fn evaluations_go_into_the_folders_of_the_sample_studio() {
    let batch = compiled("batch-evaluation", &samples()[0].1);
    assert_eq!((batch.workspace.as_str(), batch.max_parallel), ("dance", 2));
    for slug in ["emma-rodriguez", "sophia-chen", "lucas-martinez"] {
        let task = task(&batch, &format!("evaluate-{slug}"));
        assert_eq!(task.publish[0].to, format!("students/{slug}/evaluations/evaluation_{{date}}.md"));
        let Some(Runner::Worker(worker)) = &task.runner else { panic!("no worker") };
        assert!(
            worker.description.contains(&format!("workspace/students/{slug}/")),
            "{}",
            worker.description
        );
        assert!(worker.description.contains("2026-11-21"));
    }
    let new = compiled("marie-new-student", &json!({"name": "Zoé Öz"}));
    assert_eq!(new.tasks[0].publish[0].to, "students/zoe-oz/profile.md");
    let review = compiled("marie-review-and-note-students", &json!({"students": ["Emma Rodriguez"]}));
    let evaluation = task(&review, "evaluate-emma-rodriguez.evaluation");
    assert_eq!(evaluation.publish[0].to, "students/emma-rodriguez/evaluations/evaluation_{date}.md");
    assert_eq!(evaluation.workspace, "dance");
    assert_eq!(task(&review, "note-emma-rodriguez").dependencies, ["evaluate-emma-rodriguez.evaluation"]);
    let own = json!({"students": [{"name": "Emma Rodriguez", "slug": "emma-2"}]});
    let own = compiled("marie-review-and-note-students", &own);
    let evaluation = task(&own, "evaluate-emma-2.evaluation");
    assert_eq!(evaluation.publish[0].to, "students/emma-2/evaluations/evaluation_{date}.md");
    assert_eq!(task(&own, "note-emma-2").publish[0].to, "students/emma-2/notes/note_{date}.md");
}

#[test]
fn the_shapes_are_as_their_names_say() {
    let parallel = compiled("parallel-demo", &json!({}));
    assert!(parallel.tasks.iter().all(|task| task.dependencies.is_empty()));
    let sequential = compiled("sequential-workflow", &json!({}));
    assert_eq!(task(&sequential, "correction").dependencies, ["draft"]);
    let diamond = compiled("complex-choreography", &json!({"title": "Night Bus"}));
    assert_eq!(task(&diamond, "join").dependencies, ["first-half", "second-half", "floor-pattern"]);
    assert_eq!(task(&diamond, "join").publish[0].to, "choreographies/night-bus/choreography.md");
    let review = compiled("code-review", &json!({"directories": ["a", "b/c"], "workspace": "orch"}));
    assert_eq!((review.workspace.as_str(), task(&review, "report").after()), ("orch", v1::After::End));
    assert_eq!(task(&review, "report").dependencies, ["review-a", "review-b-c"]);
}
