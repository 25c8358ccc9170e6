//! F9: nothing starts a CLI more often than it should, and nothing at all without work.

use super::nothing_left;
use orch_proto::v1::{self, Outcome};
use orch_tests::client::{Client, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

/// Between two starts of a task that crashes lies at least this times 2, 4, 8…, the product's 10 s shortened with the
/// heartbeat (25 times) and halved by its jitter.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_that_crash_again_and_again_start_ever_more_rarely_and_then_no_more() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "8"]);
    let mut client = fleet.client().await;
    let crashing = |at: usize| {
        let mut task = worker(&format!("t{at}"), "anga", r#"[[text {"text":"partial"}]][[exit {"code":3}]]"#);
        task.retries = Some(20);
        task
    };
    let submitted = client.submit(run((0..6).map(crashing).collect())).await;
    client.finished(&submitted.r#ref).await;
    for task in client.tasks(&submitted.r#ref).await {
        let request = v1::GetTaskRequest { r#ref: task.r#ref.clone() };
        let task = client.runs.get_task(request).await.expect("a task").into_inner().task.expect("a task");
        assert_eq!((task.outcome(), task.attempt, task.attempts.len()), (Outcome::Poison, 5, 5), "{task:?}");
        for (at, pair) in task.attempts.windows(2).enumerate() {
            let pause = nanos(pair[1].started_at.as_ref()) - nanos(pair[0].finished_at.as_ref());
            let least = LEAST_PAUSE.as_nanos() << at;
            assert!(
                pause >= i128::try_from(least).expect("small"),
                "pause {at} of {pause} ns in {}",
                task.r#ref
            );
        }
    }
    nothing_left(&fleet, "box-1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_fleet_starts_no_cli() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let (program, starts) = (fleet.dir().join("counted-claude"), fleet.dir().join("starts"));
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> '{}'\nexec '{}' \"$@\"\n",
        starts.display(),
        fleet.binaries().claude.display()
    );
    std::fs::write(&program, script).expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
    fleet.agent("box-1", &["--claude-bin", &program.display().to_string()]);
    let mut client = fleet.client().await;
    // Twenty heartbeats: what an idle fleet does it has done by then.
    let mut heard = std::collections::BTreeSet::new();
    while heard.len() < 20 {
        heard.insert(last_seen(&mut client, &heard).await);
    }
    let lines = std::fs::read_to_string(&starts).unwrap_or_default();
    assert!(!lines.lines().any(|line| line.split(' ').any(|word| word == "-p")), "{lines}");
    assert!(lines.lines().count() <= 3, "more than asking for its version and login:\n{lines}");
}

/// When the only agent was last heard of, once that is news.
async fn last_seen(client: &mut Client, known: &std::collections::BTreeSet<i128>) -> i128 {
    until_async("a heartbeat", || {
        let mut client = client.clone();
        async move {
            let agents = client.admin.list_agents(v1::ListAgentsRequest::default()).await.ok()?.into_inner();
            Some(nanos(agents.agents.first()?.last_seen.as_ref())).filter(|seen| !known.contains(seen))
        }
    })
    .await
}

fn nanos(time: Option<&prost_types::Timestamp>) -> i128 {
    let time = time.expect("a time");
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}
