//! Very many small files: how long they take to be handed over, and that the agent is heard meanwhile.

use super::ended;
use orch_proto::v1::{self, RunState, TaskState};
use orch_tests::client::{after, answer, command, run};
use orch_tests::fleet::Fleet;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// A fifth of what a task may hand over.
const FILES: u32 = 2_000;

/// Far more than it takes, so that a loaded machine is no failure.
const MOST: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_small_files_are_handed_over_while_the_agent_goes_on() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2", "--allow-command", "sh"]);
    let mut client = fleet.client().await;
    let make = format!("cd ../out && for n in $(seq {FILES}); do echo $n > f$n; done");
    let began = Instant::now();
    let many = command("many", "sh", &["-c", &make]);
    let count = after(command("count", "sh", &["-c", "ls inputs/many/artifacts | wc -l"]), &["many"]);
    let submitted = client.submit(run(vec![many, count])).await.r#ref;
    client.task_in(&format!("{submitted}/many"), TaskState::Succeeded).await;
    let stored = began.elapsed();
    let (_, tasks) = ended(&mut client, &submitted, RunState::Succeeded).await;
    let took = began.elapsed();
    assert_eq!(answer(&tasks["count"]).trim(), FILES.to_string());
    assert_eq!((tasks["many"].attempt, tasks["many"].artifact_count), (1, FILES));
    let _ = writeln!(
        std::io::stderr(),
        "{FILES} files: stored after {stored:?}, given to another task after {took:?}"
    );
    assert!(took < MOST, "{took:?}");
    let request = v1::GetTaskRequest { r#ref: tasks["many"].r#ref.clone() };
    let whole = client.runs.get_task(request).await.expect("a task").into_inner().task.expect("a task");
    assert_eq!(whole.attempts.len(), 1, "it was never taken for lost");
}
