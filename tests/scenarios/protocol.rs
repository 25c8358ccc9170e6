//! Agents and coordinators of neighbouring versions: each speaks the older one's protocol, a mixed fleet does mixed work,
//! what one side does not know is passed over, and where there is no common version both say so.
//!
//! One build stands for all versions: in builds of the tests the range of protocols is told by environment.

use orch_certs::Role;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::{self, RunState, TaskState};
use orch_proto::{PROTOCOL_MAX, PROTOCOL_MIN};
use orch_tests::budget::figures;
use orch_tests::client::{Client, after, channel, command, noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::{PATIENCE, until};
use orch_tests::wire::{HandAgent, code, hello};
use prost::Message as _;

/// The highest protocol of an older release.
const OLDER: u32 = PROTOCOL_MAX - 1;
const MAX: &str = "ORCH_TEST_PROTOCOL_MAX";
const MIN: &str = "ORCH_TEST_PROTOCOL_MIN";
const FLAGS: [&str; 4] = ["--slots", "2", "--allow-command", "/bin/sh"];

fn idle() -> Fleet {
    Fleet::idle_in(&std::env::temp_dir(), orch_tests::binaries!(), "200ms", "info", &[])
}

fn start(fleet: &mut Fleet, highest: u32) {
    let ended = fleet.launch_coordinator(&[(MAX, &highest.to_string())]);
    assert!(ended.is_none(), "{}", fleet.coordinator_log());
}

fn join(fleet: &mut Fleet, agent: &str, highest: u32) {
    fleet.spawn_agent_in(agent, &FLAGS, &[(MAX, &highest.to_string())]);
    fleet.wait_connected(agent);
    let log = fleet.agent_process(agent).log();
    let spoken = highest.min(PROTOCOL_MAX);
    assert!(log.contains("connected"), "{log}");
    assert!(spoken >= PROTOCOL_MIN);
}

/// The protocol that an agent was told last, by its log.
fn spoken(fleet: &mut Fleet, agent: &str) -> Option<u32> {
    let log = fleet.agent_process(agent).log();
    let line = log.lines().rev().find(|line| line.contains("protocol"))?;
    let digits = line.split("protocol").nth(1)?;
    digits.chars().find(char::is_ascii_digit)?.to_digit(10)
}

/// Several workers, a program, a task of nothing, an order between them.
fn mixed() -> v1::RunSpec {
    run(vec![
        worker("draft", "anga", "[[text {\"text\":\"draft\"}]]"),
        worker("check", "fabien", "[[text {\"text\":\"check\"}]]"),
        command("build", "/bin/sh", &["-c", "echo built"]),
        noop("mark"),
        after(
            worker("join", "marie", "[[text {\"text\":\"joined\"}]]"),
            &["draft", "check", "build", "mark"],
        ),
    ])
}

/// Everything that a fleet does on a day, with its end: work, a cancellation, another try, a drain.
async fn a_day(fleet: &Fleet, agents: &[&str]) {
    let mut client = fleet.client().await;
    let work = client.submit(mixed()).await;
    assert_eq!(client.finished(&work.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&work.r#ref).await {
        assert_eq!((task.state(), task.attempt), (TaskState::Succeeded, 1), "{}", task.task_id);
    }

    let long = client.submit(run(vec![command("long", "/bin/sh", &["-c", "sleep 600"])])).await;
    client.task_in(&long.r#ref, TaskState::Running).await;
    let request = v1::CancelRunRequest { r#ref: long.r#ref.clone(), ..Default::default() };
    client.runs.cancel_run(request).await.expect("cancelled");
    assert_eq!(client.finished(&long.r#ref).await.state(), RunState::Cancelled);

    let once = "test -e tried || { touch tried; exit 1; }; echo better";
    let mut fails = command("fails", "/bin/sh", &["-c", once]);
    fails.retries = Some(0);
    let tried = client.submit(run(vec![fails])).await;
    assert_eq!(client.finished(&tried.r#ref).await.state(), RunState::Failed);
    let retry = v1::RetryRunRequest { r#ref: tried.r#ref.clone(), ..Default::default() };
    client.runs.retry_run(retry).await.expect("tried again");
    let second = orch_tests::wait::until_async("the second attempt's end", || {
        let (mut client, run_ref) = (client.clone(), tried.r#ref.clone());
        async move {
            let task = client.tasks(&run_ref).await.pop()?;
            (task.attempt == 2 && orch_tests::client::is_terminal(client.run(&run_ref).await.state()))
                .then_some(task)
        }
    })
    .await;
    assert_eq!(second.attempt, 2);

    let files = fleet.certificate(Role::Admin, "admin");
    let mut admin = AdminServiceClient::new(channel(&fleet.ports().grpc, &files));
    for name in agents {
        let request = v1::DrainAgentRequest { name: (*name).into(), reason: String::new() };
        admin.drain_agent(request).await.expect("drained");
    }
    let waits = client.submit(run(vec![noop("waits")])).await;
    assert_eq!(client.tasks(&waits.r#ref).await[0].attempt, 0);
    for name in agents {
        admin.resume_agent(v1::ResumeAgentRequest { name: (*name).into() }).await.expect("resumed");
    }
    client.finished(&waits.r#ref).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_agents_work_for_a_newer_coordinator() {
    let mut fleet = idle();
    start(&mut fleet, PROTOCOL_MAX);
    join(&mut fleet, "box-1", OLDER);
    join(&mut fleet, "box-2", OLDER);
    assert_eq!(spoken(&mut fleet, "box-1"), Some(OLDER));
    a_day(&fleet, &["box-1", "box-2"]).await;
    figures(
        "protocol",
        &format!("agents of {OLDER}, coordinator of {PROTOCOL_MAX}: a mixed day's work is done"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newer_agents_work_for_an_older_coordinator() {
    let mut fleet = idle();
    start(&mut fleet, OLDER);
    join(&mut fleet, "box-1", PROTOCOL_MAX);
    join(&mut fleet, "box-2", PROTOCOL_MAX);
    assert_eq!(spoken(&mut fleet, "box-1"), Some(OLDER));
    a_day(&fleet, &["box-1", "box-2"]).await;
    figures(
        "protocol",
        &format!("agents of {PROTOCOL_MAX}, coordinator of {OLDER}: a mixed day's work is done"),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_of_both_works_and_is_upgraded_under_its_work() {
    let mut fleet = idle();
    start(&mut fleet, OLDER);
    join(&mut fleet, "box-1", OLDER);
    join(&mut fleet, "box-2", PROTOCOL_MAX);
    a_day(&fleet, &["box-1", "box-2"]).await;

    // The coordinator first, in the middle of somebody's work.
    let mut client = fleet.client().await;
    let script = "until [ -e go ]; do sleep 0.05; done; echo released";
    let held = |name: &str| v1::TaskSpec { agent: name.into(), ..command(name, "/bin/sh", &["-c", script]) };
    let busy = client.submit(run(vec![held("box-1"), held("box-2")])).await;
    for agent in ["box-1", "box-2"] {
        client.task_in(&format!("{}/{agent}", busy.r#ref), TaskState::Running).await;
    }
    fleet.kill_coordinator();
    start(&mut fleet, PROTOCOL_MAX);
    fleet.wait_connected("box-1");
    fleet.wait_connected("box-2");
    until("the newer agent to speak the newer protocol", || {
        (spoken(&mut fleet, "box-2") == Some(PROTOCOL_MAX)).then_some(())
    });
    assert_eq!(spoken(&mut fleet, "box-1"), Some(OLDER));
    for (index, agent) in ["box-1", "box-2"].into_iter().enumerate() {
        let go = fleet.agent_dir(agent).join(format!("tasks/{}-{index}/work/go", busy.run_id));
        std::fs::write(go, "").expect("the task's working directory");
    }
    let mut client = fleet.client().await;
    assert_eq!(client.finished(&busy.r#ref).await.state(), RunState::Succeeded);
    assert!(client.tasks(&busy.r#ref).await.iter().all(|task| task.attempt == 1), "nobody began again");
    a_day(&fleet, &["box-1", "box-2"]).await;
    figures(
        "protocol",
        &format!(
            "one agent of each, coordinator upgraded {OLDER} to {PROTOCOL_MAX} under 2 running tasks: 0 begun again"
        ),
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_common_protocol_both_sides_say_so_and_neither_ends() {
    let mut fleet = idle();
    start(&mut fleet, PROTOCOL_MAX);
    let later = (PROTOCOL_MAX + 1).to_string();
    fleet.spawn_agent_in("box-9", &FLAGS, &[(MIN, &later), (MAX, &later)]);
    until("the agent to say why", || {
        let log = fleet.agent_process("box-9").log();
        let says =
            format!("speaks protocol {later} to {later}, this coordinator {PROTOCOL_MIN} to {PROTOCOL_MAX}");
        log.contains(&says).then_some(())
    });
    assert!(fleet.agent_process("box-9").is_running(), "it tries again: the coordinator may be upgraded");
    until("the coordinator to say whom it refused and why", || {
        let log = fleet.coordinator_log();
        let line = log.lines().find(|line| line.contains("speaks protocol"))?;
        line.contains("box-9").then_some(())
    });

    // Beside it, everybody else is served.
    join(&mut fleet, "box-1", PROTOCOL_MAX);
    let mut client: Client = fleet.client().await;
    let done = client.submit(run(vec![noop("a")])).await;
    assert_eq!(client.finished(&done.r#ref).await.state(), RunState::Succeeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_that_makes_no_sense_is_refused_by_its_code() {
    let fleet = Fleet::start(orch_tests::binaries!());
    for (protocol_min, protocol_max) in [(PROTOCOL_MAX + 1, u32::MAX), (0, 0), (2, 1)] {
        let hello = v1::Hello { protocol_min, protocol_max, ..hello("box-1") };
        let refused = HandAgent::join(&fleet, hello).await.expect_err("refused");
        assert_eq!(
            code(&refused),
            Some(ErrorCode::ProtocolMismatch),
            "{protocol_min}..{protocol_max}: {refused}"
        );
        assert!(refused.message().contains(&PROTOCOL_MAX.to_string()), "{refused}");
    }
}

/// A field that no version has, of every kind that the wire knows.
fn from_the_future() -> Vec<u8> {
    // Field 4,000: a number, eight bytes, text, four bytes.
    [
        &[0x80, 0xfa, 0x01, 7][..],
        &[0x81, 0xfa, 0x01, 1, 2, 3, 4, 5, 6, 7, 8],
        &[0x82, 0xfa, 0x01, 2, b'h', b'i'],
        &[0x85, 0xfa, 0x01, 1, 2, 3, 4],
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_and_fields_of_a_later_version_are_passed_over() {
    let fleet = Fleet::start(orch_tests::binaries!());
    let item = |item| v1::AgentMessage { items: vec![v1::AgentItem { item: Some(item) }] };
    let mut first = item(v1::agent_item::Item::Hello(hello("box-1"))).encode_to_vec();
    first.extend(from_the_future());
    // An item of a kind that is not known yet: field 4,000 in place of a known one.
    let unknown = from_the_future();
    let length = u8::try_from(unknown.len()).expect("short");
    let later = [&[0x0a, length][..], &unknown].concat();
    let beat = |seq| item(v1::agent_item::Item::Heartbeat(v1::Heartbeat { seq, ..Default::default() }));
    let files = fleet.certificate(Role::Agent, "box-1");
    let (say, said) = tokio::sync::mpsc::channel(8);
    say.send(first).await.expect("said");
    let method = "/orch.v1.AgentService/Session";
    let frames = tokio_stream::wrappers::ReceiverStream::new(said);
    let mut answers =
        orch_tests::wire::call(channel(&fleet.ports().grpc, &files), method, frames).await.expect("welcome");
    let mut heard = async || {
        let frame = tokio::time::timeout(PATIENCE, answers.message()).await;
        frame.expect("an answer").expect("the session goes on").expect("a frame");
    };
    // Welcome; and to each heartbeat, said after what nobody understands, an answer.
    heard().await;
    for seq in 1..=3 {
        say.send(later.clone()).await.expect("said");
        say.send(beat(seq).encode_to_vec()).await.expect("said");
        heard().await;
    }
}
