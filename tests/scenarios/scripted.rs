//! The scripted CLI through coordinator and agent: every way in which a CLI was seen, or must be feared, to behave, and
//! what orch makes of it. The rows are data (`orch_tests::matrix::scripted`); `F…` are the failure modes they stand for.

mod floods;
mod parallel;
mod retries;
mod storms;

use orch_certs::Role;
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::{AgentState, ListAgentsRequest, ResumeAgentRequest, RunState, Task};
use orch_tests::client::{Client, channel, run};
use orch_tests::files::{private_file, without_fallback};
use orch_tests::fleet::Fleet;
use orch_tests::matrix::Row;
use orch_tests::matrix::scripted::{BOUNDED, BOUNDS, ROWS, STRICT_FILE, WITHOUT_LOGIN};
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until;
use std::convert::Infallible;
use std::time::Duration;

/// Heartbeats of fleets that are kept busy: five of them may fail to come before an attempt is given to another agent, and
/// none may be on a busy machine.
const HEARTBEAT: &str = "800ms";

/// The agents of rows that park, one for each: they have a key, as every agent that reaches an API has. The others have none,
/// so that no row closes a pool for the next.
const KEYED: [&str; 2] = ["keyed-1", "keyed-2"];

/// Plays all rows at once, as one run, and compares every ending with its row. Those that park come after it, each as a run
/// of its own, which a person would have to wait for.
async fn play(fleet: &Fleet, client: &mut Client, rows: &[Row]) -> Vec<Task> {
    let ending = rows.iter().enumerate().filter(|(_, row)| !row.parked);
    let ending = ending.map(|(at, row)| row.task(&format!("row-{at}"))).collect();
    let submitted = client.submit(run(ending)).await;
    let mut waiting = client.clone();
    let finished = tokio::select! {
        finished = waiting.finished(&submitted.r#ref) => finished,
        never = keep_out_of_quarantine(fleet) => match never {},
    };
    let ended = client.tasks(&submitted.r#ref).await;
    let cost: u64 =
        ended.iter().filter_map(|task| task.usage.as_ref()).map(|usage| usage.cost_micro_usd).sum();
    let mut ended = ended.into_iter();
    let mut tasks = Vec::with_capacity(rows.len());
    for row in rows {
        if row.parked {
            let submitted = client.submit(run(vec![row.task("parked")])).await;
            tasks.push(client.settled(&submitted.r#ref, true).await);
        } else {
            tasks.extend(ended.next());
        }
    }
    let compared = rows.iter().zip(&tasks).map(|(row, task)| row.check(task));
    let wrong: Vec<String> = compared.filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{} of {} rows differ:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    let billed = finished.usage.as_ref().map_or(0, |usage| usage.cost_micro_usd);
    assert_eq!(billed, cost, "the run's bill is that of its tasks");
    assert_eq!(finished.state(), RunState::Failed);
    tasks
}

/// Ends every quarantine: nothing is wrong with an agent whose tasks crash because their rows say so.
async fn keep_out_of_quarantine(fleet: &Fleet) -> Infallible {
    let files = fleet.certificate(Role::Admin, "admin");
    let mut admin = AdminServiceClient::new(channel(&fleet.ports().grpc, &files));
    loop {
        let agents =
            admin.list_agents(ListAgentsRequest::default()).await.expect("agents").into_inner().agents;
        for agent in agents.into_iter().filter(|agent| agent.state() == AgentState::Quarantined) {
            admin.resume_agent(ResumeAgentRequest { name: agent.name }).await.expect("resumed");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// An agent with a key and a pool of its own, whose CLI asks the API itself.
fn keyed(fleet: &mut Fleet, name: &str) {
    let key = fleet.dir().join("api.key");
    private_file(&key, "sk-stand-in-not-a-key\n");
    let pool = format!("{name}=api-key:{}", key.display());
    fleet.agent(name, &["--slots", "2", "--pool", &pool, "--no-gateway"]);
}

/// Waits until nothing of any attempt is left: no child, none of its tools' processes, no supervisor.
fn nothing_left(fleet: &Fleet, agent: &str) {
    let dir = fleet.agent_dir(agent);
    until("every process of every attempt to be gone", || at_home_in(&dir).is_empty().then_some(()));
    until("every supervisor to be gone", || supervisors_in(&dir).is_empty().then_some(()));
}

/// Whether the attempts of an agent live in namespaces of their own; a host without them isolates less.
pub(super) async fn isolated(client: &mut Client, agent: &str) -> bool {
    let agents = client.admin.list_agents(ListAgentsRequest::default()).await.expect("agents").into_inner();
    agents
        .agents
        .iter()
        .any(|found| found.name == agent && found.isolation.iter().any(|layer| layer == "mount-namespace"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ending_of_the_scripted_cli_is_told_as_its_row_says() {
    let prompts = tempfile::tempdir().expect("a directory");
    std::fs::create_dir(prompts.path().join("workers")).expect("a folder");
    std::fs::write(prompts.path().join("workers/strict.md"), STRICT_FILE).expect("a file");
    without_fallback(prompts.path());
    let dir = prompts.path().display().to_string();
    let args = ["--prompts", dir.as_str()];
    let mut fleet = Fleet::start_in(&std::env::temp_dir(), orch_tests::binaries!(), HEARTBEAT, "info", &args);
    fleet.agent("box-1", &["--slots", "8"]);
    fleet.spawn_agent_in(WITHOUT_LOGIN, &["--slots", "1"], &[("ORCH_STANDIN_REQUIRE_AUTH", "1")]);
    fleet.wait_connected(WITHOUT_LOGIN);
    for name in KEYED {
        keyed(&mut fleet, name);
    }
    let mut client = fleet.client().await;
    // Rows that do not say where they run must not get to the agent that lacks a login.
    let mut keyed = KEYED.into_iter();
    let place = |row: &Row| match row.ask.agent {
        "" if row.parked => row.on(keyed.next().expect("an agent for each")),
        "" => row.on("box-1"),
        _ => *row,
    };
    let placed: Vec<Row> = ROWS.iter().map(place).collect();
    let tasks = play(&fleet, &mut client, &placed).await;
    for (row, task) in placed.iter().zip(&tasks).filter(|(row, _)| row.prompt.contains("[[deny]]")) {
        assert_eq!(task.denied_tools, ["Bash(make)"], "{}", row.scenario);
    }
    nothing_left(&fleet, "box-1");
    nothing_left(&fleet, WITHOUT_LOGIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_passes_an_agents_limits_is_stopped_and_told_as_its_row_says() {
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), HEARTBEAT);
    fleet.agent("box-1", &[&["--slots", "8"], BOUNDS].concat());
    let mut client = fleet.client().await;
    play(&fleet, &mut client, BOUNDED).await;
    nothing_left(&fleet, "box-1");
}
