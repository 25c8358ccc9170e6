//! An agent is cut off without a word to anybody, for a while or for good: who waits, who goes on, whose result counts.

use crate::load::fenced_by;
use orch_proto::v1::{self, OnLoss, Outcome, RunState, TaskState};
use orch_tests::budget::figures;
use orch_tests::client::{Client, command, run};
use orch_tests::faults::proxy::Proxy;
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use orch_tests::process::at_home_in;
use orch_tests::wait::{until, until_async};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Heartbeats of `wait` rows, whose deadlines are 96 and 120 of them.
const SHORT: Duration = Duration::from_millis(100);
/// Heartbeats of `fast` rows, whose deadline is five of them: a busy machine may be late by some.
const LONG: Duration = Duration::from_millis(400);
/// `lost_after`, in heartbeats.
const LOST_AFTER: u32 = 120;
/// `stop_after`, in heartbeats.
const STOP_AFTER: u32 = 96;
/// A lost `fast` attempt is requeued within 30 s at heartbeats of 5 s: in so many heartbeats.
const FAST: u32 = 6;
/// How late a busy machine may be.
const SLACK: Duration = Duration::from_secs(2);

/// Two agents, the first of them behind a proxy.
async fn fleet(heartbeat: &'static str, extra: &[&str]) -> (Fleet, Proxy) {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), heartbeat);
    let proxy = Proxy::start(&fleet.ports().grpc).await;
    fleet.route("box-1", &proxy.address());
    let args = [&["--slots", "4", "--allow-command", "bash"], extra].concat();
    fleet.agent("box-1", &args);
    (fleet, proxy)
}

/// Adds the second agent, once the first has the work.
fn second_agent(fleet: &mut Fleet, extra: &[&str]) {
    let args = [&["--slots", "4", "--allow-command", "bash"], extra].concat();
    fleet.agent("box-2", &args);
}

fn bash(id: &str, line: &str, on_loss: OnLoss) -> v1::TaskSpec {
    let mut task = command(id, "bash", &["-c", line]);
    task.on_loss = on_loss.into();
    task
}

/// Waits until a task has an attempt of this number that runs.
async fn attempt_runs(client: &Client, task_ref: &str, attempt: u32) -> v1::Task {
    until_async("the attempt to run", || {
        let mut client = client.clone();
        async move {
            let request = v1::GetTaskRequest { r#ref: task_ref.to_owned() };
            let task = client.runs.get_task(request).await.ok()?.into_inner().task?;
            (task.attempt == attempt && task.state() == TaskState::Running).then_some(task)
        }
    })
    .await
}

/// The working directory of the only task of an agent.
fn only_work(fleet: &Fleet, agent: &str) -> PathBuf {
    let mut found = std::fs::read_dir(fleet.agent_dir(agent).join("tasks")).expect("tasks").flatten();
    let task = found.next().expect("a task").path();
    assert!(found.next().is_none(), "more than one task on {agent}");
    task.join("work")
}

/// First and last line of a child's own log: seconds since the boot, on the one clock that all processes of a host share.
fn alive(log: &Path) -> (f64, f64) {
    let text = std::fs::read_to_string(log).expect("a child's log");
    let mut lines = text.lines().filter_map(|line| line.parse::<f64>().ok());
    let first = lines.next().expect("a line");
    (first, lines.next_back().unwrap_or(first))
}

/// A child that notes every so often that it lives; the second attempt ends at once.
const NOTES: &str = "while :; do read -r up rest < /proc/uptime; echo $up >> alive; [ $ORCH_ATTEMPT = 2 ] && exit 0; sleep 0.02; done";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_waits_outlives_a_short_partition_and_is_dead_before_its_successor_after_a_long_one() {
    let (mut fleet, proxy) = fleet("100ms", &[]).await;
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![bash("t", NOTES, OnLoss::Wait)])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    client.task_in(&task_ref, TaskState::Running).await;
    second_agent(&mut fleet, &[]);

    // Far longer than what `fast` waits for, shorter than `stop_after`.
    proxy.partition();
    tokio::time::sleep(SHORT * (STOP_AFTER / 3)).await;
    proxy.heal();
    fleet.wait_connected("box-1");
    let listed = until_async("the agent to be heard of again", || {
        let mut client = client.clone();
        async move {
            let agents =
                client.admin.list_agents(v1::ListAgentsRequest::default()).await.ok()?.into_inner().agents;
            let agent = agents.into_iter().find(|agent| agent.name == "box-1")?;
            (agent.state() == v1::AgentState::Ready).then_some(agent)
        }
    })
    .await;
    assert_eq!(listed.running, std::slice::from_ref(&task_ref));
    let task = client.task_in(&task_ref, TaskState::Running).await;
    assert_eq!((task.attempt, task.attempts.len().max(1)), (1, 1), "requeued by a short partition: {task:?}");

    proxy.partition();
    let began = Instant::now();
    let finished = client.finished(&submitted.r#ref).await;
    let took = began.elapsed();
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!(
        (finished.state(), task.attempt, task.agent.as_str()),
        (RunState::Succeeded, 2, "box-2"),
        "{task:?}"
    );
    let (_, old_end) = alive(&only_work(&fleet, "box-1").join("alive"));
    let (new_start, _) = alive(&only_work(&fleet, "box-2").join("alive"));
    assert!(old_end < new_start, "the old child wrote at {old_end}, the new one began at {new_start}");
    assert!(at_home_in(&fleet.agent_dir("box-1")).is_empty(), "the old tree is still there");
    let lost_after = SHORT * LOST_AFTER;
    assert!(
        took >= lost_after - SHORT * 2 && took <= lost_after + SHORT * 10 + SLACK,
        "requeued after {took:?}"
    );
    proxy.heal();
    figures(
        "partitions",
        &format!(
            "on_loss wait, heartbeat {SHORT:?}: {:?} cut off, 0 requeues; cut off for longer than lost_after {lost_after:?}: \
             ended elsewhere after {took:?}; the old child's last sign {:.2} s before the new one's first",
            SHORT * (STOP_AFTER / 3),
            new_start - old_end
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_attempts_that_both_end_one_is_recorded_and_published_and_the_other_fenced() {
    let studio = tempfile::tempdir().expect("a directory");
    let workspace = format!("studio={}", studio.path().display());
    let extra = ["--workspace", workspace.as_str()];
    let (mut fleet, proxy) = fleet("400ms", &extra).await;
    let mut client = fleet.client().await;
    let (old, early, late) = (Gate::closed(), Gate::closed(), Gate::closed());
    // The first attempt waits at one gate, its successor at another.
    let task = |id: &str, gate: &Gate| {
        let line = format!(
            "if [ $ORCH_ATTEMPT = 1 ]; then {}; else {}; fi; echo attempt $ORCH_ATTEMPT > ../out/note.md",
            old.wait(),
            gate.wait()
        );
        let mut task = bash(id, &line, OnLoss::Fast);
        "studio".clone_into(&mut task.workspace);
        task.publish =
            vec![v1::Publication { artifact: "note.md".into(), to: "{task}.md".into(), replace: false }];
        task
    };
    let submitted = client.submit(run(vec![task("early", &early), task("late", &late)])).await;
    let refs = ["early", "late"].map(|id| format!("{}/{id}", submitted.r#ref));
    let first = old.gather(2).await;
    for task_ref in &refs {
        client.task_in(task_ref, TaskState::Running).await;
    }
    second_agent(&mut fleet, &extra);

    proxy.partition();
    let began = Instant::now();
    for task_ref in &refs {
        attempt_runs(&client, task_ref, 2).await;
    }
    let took = began.elapsed();
    assert!(took <= LONG * FAST + SLACK, "{took:?}");
    // One of the new attempts ends before the old ones are heard of again, the other after.
    gate::open(early.gather(1).await);
    client.task_in(&refs[0], TaskState::Succeeded).await;
    gate::open(first);
    let homes = fleet.agent_dir("box-1");
    until("the old children to end", || at_home_in(&homes).is_empty().then_some(()));
    proxy.heal();
    until("both late reports to be fenced", || (fenced_by(&fleet, "box-1") == 2).then_some(()));
    gate::open(late.gather(1).await);

    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&submitted.r#ref).await {
        let publishes = task.task_id.ends_with(".publish");
        assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, if publishes { 1 } else { 2 }), "{task:?}");
    }
    let mut published: Vec<_> = std::fs::read_dir(studio.path()).expect("the workspace").flatten().collect();
    published.sort_by_key(std::fs::DirEntry::file_name);
    let names: Vec<_> = published.iter().map(std::fs::DirEntry::file_name).collect();
    assert_eq!(names, ["early.md", "late.md"]);
    for file in &published {
        assert_eq!(std::fs::read_to_string(file.path()).expect("a note"), "attempt 2\n");
    }
    let heartbeats = took.as_secs_f64() / LONG.as_secs_f64();
    figures(
        "partitions",
        &format!(
            "on_loss fast, heartbeat {LONG:?}: 2 attempts run elsewhere {took:?} after the cut ({heartbeats:.1} heartbeats; {:.1} s \
             at 5 s); both attempts of both tasks ended, 2 recorded, 2 fenced, 2 files published once",
            heartbeats * 5.0
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_killed_for_good_leaves_nothing_behind_after_stop_after() {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), "200ms");
    let heartbeat = Duration::from_millis(200);
    fleet.agent("box-1", &["--slots", "4", "--allow-command", "bash"]);
    let mut client = fleet.client().await;
    let line = "if [ $ORCH_ATTEMPT = 1 ]; then sleep 600; fi";
    let tasks = (0..4).map(|at| bash(&format!("t{at}"), line, OnLoss::Fast));
    let submitted = client.submit(run(tasks.collect())).await;
    for at in 0..4 {
        client.task_in(&format!("{}/t{at}", submitted.r#ref), TaskState::Running).await;
    }
    let homes = fleet.agent_dir("box-1");
    until("the children to run", || (at_home_in(&homes).len() >= 4).then_some(()));
    second_agent(&mut fleet, &[]);

    fleet.agent_process("box-1").kill();
    let began = Instant::now();
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    let elsewhere = began.elapsed();
    assert!(elsewhere <= heartbeat * FAST + SLACK, "{elsewhere:?}");
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.attempt, task.agent.as_str()), (2, "box-2"), "{task:?}");
    }
    until("the old trees to be gone", || at_home_in(&homes).is_empty().then_some(()));
    let gone = began.elapsed();
    let stop_after = heartbeat * STOP_AFTER;
    assert!(gone <= stop_after + SLACK, "{gone:?}");
    figures(
        "partitions",
        &format!(
            "agent killed for good, heartbeat {heartbeat:?}: 4 tasks ended elsewhere after {elsewhere:?}; its 4 trees gone after \
             {gone:?}, stop_after being {stop_after:?}"
        ),
    );
}
