//! Workflows from the command line: each shipped one runs to its end in the sample studio; checks show mistakes in their
//! place with and without a coordinator; what a batch generates is what it runs.

use crate::orchestration::{DANCE, agents, files, studio};
use orch_proto::v1;
use orch_proto::v1::workflow_service_client::WorkflowServiceClient;
use orch_tests::fleet::Fleet;
use prost::Message as _;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

/// Runs `orchctl` to its end.
pub(crate) fn orchctl(fleet: &Fleet, args: &[&str]) -> Output {
    fleet.orchctl(args).args(["--progress", "none"]).output().expect("orchctl runs")
}

/// What it said on both streams.
pub(crate) fn said(output: &Output) -> String {
    format!(
        "{:?}\n{}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The same, which must succeed; its value.
fn value(fleet: &Fleet, args: &[&str]) -> Value {
    let output = orchctl(fleet, &[args, &["-o", "json"]].concat());
    assert!(output.status.success(), "{args:?}: {}", said(&output));
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", said(&output)))
}

/// Takes today's evaluations out of the studio, so that the next workflow may write its own.
pub(crate) fn without_evaluations(studio: &Path) {
    for path in files(studio)
        .into_keys()
        .filter(|path| path.components().any(|part| part.as_os_str() == "evaluations"))
    {
        std::fs::remove_file(studio.join(path)).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_shipped_workflow_runs_to_success_in_the_sample_studio() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    let code = fleet.dir().join("code");
    for part in ["parser", "printer"] {
        std::fs::create_dir_all(code.join(part)).expect("a folder");
        std::fs::write(code.join(part).join("lib.rs"), "fn main() {}\n").expect("a file");
        std::fs::write(code.join(part).join("notes.md"), "# Notes\n").expect("a file");
    }
    let (dance, source) = (format!("{DANCE}={}", studio.display()), format!("code={}", code.display()));
    for name in ["box-1", "box-2"] {
        fleet.spawn_agent(name, &["--slots", "3", "--workspace", &dance, "--workspace", &source]);
    }
    fleet.wait_connected("box-1");
    fleet.wait_connected("box-2");
    let students = "students=[\"Sophia Chen\", \"Lucas Martinez\"]";
    // The stand-in looks at the files that are named to it, and the review wants three looks.
    let focus = "focus=workspace/parser/lib.rs workspace/parser/notes.md workspace/printer/lib.rs";
    let calls: [(&str, &[&str], usize); 8] = [
        ("parallel-demo", &[], 3),
        ("sequential-workflow", &["--set", "topic=counting aloud"], 3),
        ("marie-new-student", &["--set", "name=Noah Petit"], 1),
        ("marie-evaluate-student", &["--set", "name=Emma Rodriguez"], 1),
        ("batch-evaluation", &["--set", students], 2),
        ("marie-review-and-note-students", &["--set", students], 5),
        ("complex-choreography", &["--set", "title=Dawn"], 6),
        ("code-review", &["--set", "directories=[\"parser\", \"printer\"]", "--set", focus], 3),
    ];
    let listed = value(&fleet, &["workflows"]);
    let mut names: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|workflow| workflow["name"].as_str()).collect();
    let mut known: Vec<&str> = calls.iter().map(|(name, ..)| *name).collect();
    names.sort_unstable();
    known.sort_unstable();
    assert_eq!(names, known, "every shipped workflow is run here");
    for (name, given, work) in calls {
        without_evaluations(&studio);
        let result = value(&fleet, &[&["workflows", "run", name], given].concat());
        assert_eq!((&result["state"], &result["workflow"]), (&json!("succeeded"), &json!(name)), "{name}");
        let tasks = result["results"].as_array().expect("results");
        let helpers = [".publish", ".review"];
        let done = tasks.iter().filter(|task| {
            let id = task["task_id"].as_str().unwrap_or_default();
            !helpers.iter().any(|end| id.ends_with(end)) && task["status"] == "succeeded"
        });
        assert_eq!(done.count(), work, "{name}: {tasks:#?}");
    }
    assert!(studio.join("students/noah-petit/profile.md").is_file());
    assert!(studio.join("choreographies/dawn/choreography.md").is_file());
    let past = value(&fleet, &["workflows", "history", "parallel-demo"]);
    assert_eq!((&past[0]["state"], &past[0]["tasks"]["words"]), (&json!("succeeded"), &json!("succeeded")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mistakes_are_shown_in_their_place_and_nothing_is_queued() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let write = |name: &str, text: &str| std::fs::write(fleet.dir().join(name), text).expect("a file");
    write(
        "bad.json",
        "{\n  \"name\": \"bad\",\n  \"parameters\": {\"topic\": {}},\n  \"tasks\": [\n    {\"id\": \"a\", \"worker\": \"anga\", \"description\": \"{{topik}}\"}\n  ]\n}\n",
    );
    write("wrong.json", "{\"name\": \"wrong\", \"tasks\": [{\"id\": \"a\", \"wrker\": \"anga\"}]}\n");
    let checked = orchctl(&fleet, &["workflows", "validate", "bad.json"]);
    let text = said(&checked);
    assert_eq!(checked.status.code(), Some(1), "{text}");
    for wanted in ["bad.json:5:", "`topik`", "{{topic}}", "^", "bad.json: 1 mistake"] {
        assert!(text.contains(wanted), "{wanted} is missing from\n{text}");
    }
    write(
        "graph.json",
        "{\"name\": \"graph\", \"tasks\": [\n  {\"id\": \"a\", \"worker\": \"anga\", \"description\": \"x\"},\n  {\"id\": \"b\", \"worker\": \"anga\", \"description\": \"x\", \"dependencies\": [\"aa\"]}\n]}\n",
    );
    let graph = said(&orchctl(&fleet, &["workflows", "validate", "graph.json"]));
    assert!(graph.contains("graph.json:3:") && graph.contains("did you mean `a`?"), "{graph}");
    let run = orchctl(&fleet, &["workflows", "run", "-f", "bad.json", "--set", "topic=x"]);
    assert_eq!(run.status.code(), Some(2), "{}", said(&run));
    assert!(
        said(&run).contains("bad.json:5:") && said(&run).contains("nothing was submitted"),
        "{}",
        said(&run)
    );
    let run = orchctl(&fleet, &["run", "-f", "bad.json"]);
    assert!(said(&run).contains("bad.json:5:"), "{}", said(&run));
    for (args, wanted) in [
        (vec!["workflows", "run", "batch-evaluation"], "`students` must be given"),
        (vec!["workflows", "run", "batch-evaluation", "--set", "students=Emma"], "must be a list of names"),
        (vec!["workflows", "run", "sequential-workflow", "--set", "words=many"], "whole number"),
        (vec!["workflows", "run", "sequential-workflow", "--set", "wrods=3"], "did you mean `words`?"),
        (vec!["workflows", "run", "sequentialworkflow"], "did you mean `sequential-workflow`?"),
        (vec!["workflows", "show", "nothing-like-it"], "there is no workflow"),
    ] {
        let output = orchctl(&fleet, &args);
        assert!(!output.status.success() && said(&output).contains(wanted), "{args:?}: {}", said(&output));
    }
    let away = |file: &str| {
        let mut command =
            fleet.orchctl(&["workflows", "validate", file, "--endpoint", "https://127.0.0.1:1"]);
        command.output().expect("orchctl runs")
    };
    let offline = away("wrong.json");
    let text = said(&offline);
    assert_eq!(offline.status.code(), Some(1), "{text}");
    assert!(text.contains("wrong.json:1:41") && text.contains("did you mean"), "{text}");
    assert!(text.contains("only the JSON Schema was checked"), "{text}");
    let offline = away("bad.json");
    assert_eq!(offline.status.code(), Some(0), "the schema knows nothing of names: {}", said(&offline));
    assert_eq!(
        fleet
            .client()
            .await
            .runs
            .list_runs(v1::ListRunsRequest::default())
            .await
            .expect("a list")
            .into_inner()
            .runs,
        []
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_batch_generates_runs_as_it_is_and_is_what_the_batch_runs() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    agents(&mut fleet, 2, &studio);
    std::fs::write(
        fleet.dir().join("students.csv"),
        "name,class\nEmma Rodriguez,hip-hop\nSophia Chen,hip-hop\n",
    )
    .expect("a file");
    std::fs::write(
        fleet.dir().join("mixed.csv"),
        "name,class\nEmma Rodriguez,Hip-Hop\nSophia Chen,hip hop\n",
    )
    .expect("a file");
    let client = fleet.client().await;
    let mut flows = WorkflowServiceClient::new(client.channel.clone());
    for (workflow, roster) in [
        ("batch-evaluation", "students.csv"),
        ("marie-evaluate-student", "students.csv"),
        ("marie-evaluate-student", "mixed.csv"),
    ] {
        without_evaluations(&studio);
        let line = ["batch", workflow, "--roster", roster];
        let generated = orchctl(&fleet, &[&line[..], &["--dry-run", "-o", "json"]].concat());
        assert!(generated.status.success(), "{}", said(&generated));
        let text = String::from_utf8(generated.stdout).expect("text");
        let call = v1::WorkflowCall { definition: text.clone(), ..v1::WorkflowCall::default() };
        let request = v1::CompileWorkflowRequest { call: Some(call), definition_only: false };
        let compiled = flows.compile_workflow(request).await.expect("an answer").into_inner();
        assert!(compiled.problems.is_empty(), "{:?}", compiled.problems);
        let graph = compiled.spec.expect("a run");
        // The same rows given to the workflow itself, task by task.
        let mut one_by_one = Vec::new();
        for (name, class) in [("Emma Rodriguez", "Hip-Hop"), ("Sophia Chen", "hip hop")] {
            let class = if roster == "mixed.csv" { class } else { "hip-hop" };
            let parameters = if workflow == "batch-evaluation" {
                json!({"students": [name], "class": class})
            } else {
                json!({"name": name, "class": class})
            };
            let call = v1::WorkflowCall {
                name: workflow.to_owned(),
                parameters: parameters.to_string(),
                ..v1::WorkflowCall::default()
            };
            let request = v1::CompileWorkflowRequest { call: Some(call), definition_only: false };
            let single = flows.compile_workflow(request).await.expect("an answer").into_inner();
            one_by_one.extend(single.spec.unwrap_or_else(|| panic!("{:?}", single.problems)).tasks);
        }
        for (task, single) in graph.tasks.iter().zip(&one_by_one) {
            let mut same = task.clone();
            same.task_id.clone_from(&single.task_id);
            assert_eq!(same.encode_to_vec(), single.encode_to_vec(), "{task:?}\n{single:?}");
        }
        assert_eq!(graph.tasks.len(), one_by_one.len());
        // The batch itself, and the generated file as a run.
        let batch = value(&fleet, &line);
        assert_eq!((&batch["succeeded"], &batch["failed"]), (&json!(2), &json!(0)));
        let again = value(&fleet, &line);
        assert_eq!(batch["run"]["ref"], again["run"]["ref"], "a finished batch prints its report again");
        std::fs::write(fleet.dir().join("generated.json"), &text).expect("a file");
        without_evaluations(&studio);
        let run = value(&fleet, &["workflows", "run", "-f", "generated.json"]);
        assert_eq!(run["state"], "succeeded");
        let mut told = client.clone();
        let mut shapes = Vec::new();
        for reference in [&batch["run"]["ref"], &run["ref"]] {
            let tasks = told.tasks(reference.as_str().expect("a ref")).await;
            shapes.push(
                tasks
                    .into_iter()
                    .map(|task| (task.task_id, task.worker, task.dependencies, task.role))
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(shapes[0], shapes[1]);
    }
}
