//! A request in plain language, planned, done, published and combined by the real CLI: what the model says comes from the
//! stand-in of its API, which rehearses each part; everything between is real.

use super::Real;
use crate::orchestration::{REQUEST, ended, files, in_studio, structured, studio, work};
use orch_proto::v1::{RunState, TaskState};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_is_evaluated_into_its_students_folders_and_one_report() {
    let Some(mut real) = Real::without_agents("a_class_is_evaluated").await else { return };
    let studio = studio(real.fleet.dir());
    let before = files(&studio);
    let workspace = format!("dance={}", studio.display());
    for name in ["box-1", "box-2"] {
        real.agent(name, &["--slots", "2", "--workspace", &workspace]);
    }
    let mut client = real.fleet.client().await;
    let submitted = client.submit(in_studio(REQUEST)).await;
    let (run, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!(work(&tasks), ["evaluate-emma", "evaluate-lucas", "evaluate-sophia"]);
    for name in work(&tasks) {
        let task = &tasks[name];
        assert_eq!(
            (task.state(), task.attempt, task.repairs),
            (TaskState::Succeeded, 1, 0),
            "{}",
            task.detail
        );
        assert!(task.num_turns >= 3, "it read, wrote and answered");
    }
    let after = files(&studio);
    let published: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert_eq!(published.len(), 3, "{published:?}");
    assert!(before.iter().all(|(path, content)| after.get(path) == Some(content)), "nothing else changed");
    let report = structured(&tasks["synthesis"]);
    assert_eq!(report["tasks"].as_array().map(Vec::len), Some(3), "{report}");
    let spent = run.usage.expect("usage").cost_micro_usd;
    let billed: u64 =
        tasks.values().filter_map(|task| task.usage.as_ref()).map(|usage| usage.cost_micro_usd).sum();
    assert_eq!(spent, billed);
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_red_gate_is_mended_in_the_same_conversation() {
    let Some(mut real) = Real::without_agents("a_red_gate_is_mended").await else { return };
    real.agent("box-1", &["--allow-command", "test"]);
    let mut client = real.fleet.client().await;
    let bash =
        |line: &str| format!("[[tool {}]]", serde_json::json!({"name": "Bash", "input": {"command": line}}));
    let second = bash("cat a.txt > b.txt");
    let description =
        bash("echo draft > a.txt") + &format!("[[then {}]]", serde_json::json!({"prompt": second}));
    let mut task = orch_tests::client::worker("build", "anga", &description);
    task.gates = Some(orch_proto::v1::Gates {
        commands: vec![orch_proto::v1::GateCommand {
            program: "test".into(),
            args: vec!["-s".into(), "b.txt".into()],
            ..Default::default()
        }],
        ..Default::default()
    });
    let submitted = client.submit(orch_tests::client::run(vec![task])).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!((tasks["build"].repairs, tasks["build"].attempt), (1, 2));
    real.nothing_left();
}
