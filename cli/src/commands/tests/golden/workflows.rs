//! A coordinator that has workflows, one of them by somebody who likes control characters, and a run of one.

use super::*;

/// A stage on which there are workflows.
pub(super) fn stage() -> Stage {
    let stage = scene::stage();
    {
        let mut held = stage.fake.held();
        let shipped = |name: &str| {
            let path = format!("{}/../prompts/workflows/{name}.json", env!("CARGO_MANIFEST_DIR"));
            (name.to_owned(), std::fs::read_to_string(path).unwrap())
        };
        held.workflows =
            ["batch-evaluation", "complex-choreography", "marie-evaluate-student"].map(shipped).to_vec();
        let hostile = serde_json::json!({
            "name": "odd", "description": "\u{1b}[2Jwipes\nthe screen",
            "parameters": {"a": {"description": "\u{202e}txet"}}, "tasks": [{"id": "x", "worker": "marie"}]
        });
        held.workflows.push(("odd".into(), hostile.to_string()));
        let count = |state: TaskState, count| TaskStateCount { state: state.into(), count };
        for number in [7, 8] {
            let reference = format!("batch-evaluation/{number}");
            let task = |index: u32, id: &str, state: TaskState| Task {
                r#ref: format!("{reference}/{id}"),
                index,
                task_id: id.into(),
                state: state.into(),
                ..Task::default()
            };
            let second = if number == 7 { TaskState::Failed } else { TaskState::Succeeded };
            let tasks =
                vec![task(0, "evaluate-emma", TaskState::Succeeded), task(1, "evaluate-lucas", second)];
            let run = Run {
                r#ref: reference.clone(),
                state: if number == 7 { RunState::Failed } else { RunState::Succeeded }.into(),
                created_at: Some(prost_types::Timestamp { seconds: 1_795_200_000 + number, nanos: 0 }),
                finished_at: Some(prost_types::Timestamp { seconds: 1_795_200_100 + number, nanos: 0 }),
                task_count: 2,
                counts: vec![count(TaskState::Succeeded, u32::try_from(number - 6).unwrap())],
                usage: Some(Usage { cost_micro_usd: 800_000, ..Usage::default() }),
                workflow: "batch-evaluation".into(),
                submitted_by: "client/default/ana".into(),
                ..Run::default()
            };
            held.runs.push((run, tasks));
            held.specs.push(RunSpec::default());
            held.request_ids.push(format!("w{number}"));
        }
    }
    stage
}

#[tokio::test]
async fn a_batch_is_found_again_and_only_what_is_unfinished_is_tried_again() {
    let stage = stage();
    let line = "batch batch-evaluation --roster src/commands/tests/students.csv --progress none";
    let first = stage.run(line).await;
    assert_eq!(first.code, exit::SOME_FAILED, "{}", first.stderr);
    let second = stage.run(line).await;
    assert!(second.stderr.contains("batch-evaluation/5 was this batch; "), "{}", second.stderr);
    assert_eq!(stage.fake.held().retried.len(), 1);
    let other = stage.run(&format!("{line} --set class=jazz -o name")).await;
    assert_eq!(other.stdout, "batch-evaluation/6\n", "other settings are another batch");
    let anew = stage.run(&format!("{line} --again -o name")).await;
    assert_eq!(anew.stdout, "batch-evaluation/7\n", "{}", anew.stderr);
}

#[tokio::test]
async fn without_a_coordinator_a_file_is_held_against_the_schema_alone_and_that_is_said() {
    let stage = stage();
    for _ in 0..20 {
        stage.fake.held().failures.push_back(Status::invalid_argument("nobody is here"));
    }
    let ran = stage.run("workflows validate src/commands/tests/bad-workflow.json").await;
    assert_eq!(ran.code, exit::FAILED);
    assert!(ran.stdout.contains("bad-workflow.json:6:7"), "{}", ran.stdout);
    assert!(ran.stderr.contains("only the JSON Schema was checked"), "{}", ran.stderr);
    let named = stage.run("workflows validate complex-choreography").await;
    assert_ne!(named.code, exit::DONE, "a name alone cannot be checked");
}

#[tokio::test]
async fn a_file_that_is_a_workflow_runs_as_one() {
    let stage = stage();
    let ran = stage
        .run("run -f ../prompts/workflows/parallel-demo.json --max-parallel 2 --progress none -o name")
        .await;
    assert_eq!((ran.code, ran.stdout.as_str()), (exit::DONE, "parallel-demo/5\n"), "{}", ran.stderr);
    let held = stage.fake.held();
    assert!(held.calls.contains(&"compile"));
}
