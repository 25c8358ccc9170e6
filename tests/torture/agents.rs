//! An agent is killed, also while it starts, or leaves in order and comes back, while children run: none of them notices, and
//! what each says and how it ends is reported as if the agent had never been away.

use orch_proto::v1::{self, Outcome, TaskState};
use orch_tests::budget::{budget, figures, seed};
use orch_tests::client::{answer, command, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use orch_tests::process::{at_home_in, started, supervisors_in};
use orch_tests::wait::until;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

const ROW: &str = "agents";
const AGENT: &str = "box-1";
const CHILDREN: usize = 4;
/// What the program of each round that fails exits with.
const CODE: i32 = 7;
/// Deadlines of the product: an attempt is given to somebody else 25 s after the last heartbeat of its agent.
const HEARTBEAT: &str = "5s";
const AGENT_ARGS: [&str; 6] = ["--slots", "4", "--allow-command", "bash", "--on-stop", "leave"];
/// After the start of an agent, when it is killed while it starts.
const STARTING_MS: std::ops::RangeInclusive<u64> = 0..=400;

/// How an agent goes, each kind in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Goes {
    /// Killed.
    Killed,
    /// Killed, and once more while it starts again.
    KilledTwice,
    /// Told to leave.
    Left,
    /// Killed; its children end before it is back.
    KilledForLong,
}

const KINDS: [Goes; 4] = [Goes::KilledTwice, Goes::Left, Goes::KilledForLong, Goes::Killed];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_an_agent_that_is_killed_run_on_and_are_reported() {
    let rounds = budget("ORCH_TORTURE_AGENT_KILLS", 3);
    let mut rng = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), HEARTBEAT);
    fleet.agent(AGENT, &AGENT_ARGS);
    let dir = fleet.agent_dir(AGENT);
    let mut client = fleet.client().await;
    let mut fired: BTreeMap<Goes, u64> = BTreeMap::new();
    let mut recovered = 0;
    for round in 0..rounds {
        let kind = KINDS[usize::try_from(round).unwrap_or_default() % KINDS.len()];
        *fired.entry(kind).or_default() += 1;
        let gate = Gate::closed();
        let submitted = client.submit(run(tasks(round, &gate))).await;
        let waiting = gate.gather(CHILDREN).await;
        for at in 0..CHILDREN {
            client.task_in(&format!("{}/t{at}", submitted.r#ref), TaskState::Running).await;
        }
        let before = processes(&dir);
        assert!(before.len() >= CHILDREN, "{before:?}");
        go(&mut fleet, kind);
        if kind == Goes::KilledTwice {
            fleet.spawn_agent(AGENT, &AGENT_ARGS);
            std::thread::sleep(Duration::from_millis(rng.random_range(STARTING_MS)));
            fleet.agent_process(AGENT).kill();
        }
        assert_eq!(processes(&dir), before, "{kind:?}: the same processes, by id and start");
        let mut waiting = Some(waiting);
        if kind == Goes::KilledForLong {
            gate::open(waiting.take().unwrap_or_default());
            until("the children to end", || supervisors_in(&dir).is_empty().then_some(()));
        }
        fleet.spawn_agent(AGENT, &AGENT_ARGS);
        fleet.wait_connected(AGENT);
        if let Some(waiting) = waiting {
            assert_eq!(processes(&dir), before, "{kind:?}: also after the start");
            gate::open(waiting);
        }
        client.finished(&submitted.r#ref).await;
        for (at, task) in client.tasks(&submitted.r#ref).await.into_iter().enumerate() {
            check(round, at, &task);
            recovered += 1;
        }
        until("the children to be gone", || at_home_in(&dir).is_empty().then_some(()));
        until("the supervisors to be gone", || supervisors_in(&dir).is_empty().then_some(()));
    }
    figures(
        ROW,
        &format!(
            "{rounds} ends of an agent ({fired:?}) with {CHILDREN} children each: {recovered}/{} exit codes and outputs \
             recovered, 0 attempts raised, 0 orphans",
            rounds * CHILDREN as u64
        ),
    );
    assert!(rounds < KINDS.len() as u64 || fired.len() == KINDS.len(), "{fired:?}");
}

/// Two programs, one of which fails, and two conversations.
fn tasks(round: u64, gate: &Gate) -> Vec<v1::TaskSpec> {
    let says = |at: usize| format!("{}; echo {}", gate.wait(), word(round, at));
    let talks = |at: usize| {
        let tool = serde_json::json!({"name": "Bash", "input": {"command": says(at), "timeout": 120_000}});
        worker(&format!("t{at}"), "anga", &format!("[[tool {tool}]]"))
    };
    vec![
        command("t0", "bash", &["-c", &says(0)]),
        command("t1", "bash", &["-c", &format!("{} >&2; exit {CODE}", says(1))]),
        talks(2),
        talks(3),
    ]
}

/// What a child says at its end.
fn word(round: u64, at: usize) -> String {
    format!("word-{round}-{at}")
}

fn check(round: u64, at: usize, task: &v1::Task) {
    assert_eq!(task.attempt, 1, "{task:?}");
    let word = word(round, at);
    match at {
        1 => {
            assert_eq!(task.outcome(), Outcome::GateFailed, "{task:?}");
            assert_eq!(task.detail, format!("the program ended with exit code {CODE}: {word}"));
        }
        _ => {
            assert_eq!(task.outcome(), Outcome::Ok, "{task:?}");
            let said = answer(task).trim();
            assert_eq!(said.strip_prefix("done: ").unwrap_or(said), word);
        }
    }
}

fn go(fleet: &mut Fleet, kind: Goes) {
    let agent = fleet.agent_process(AGENT);
    match kind {
        Goes::Killed | Goes::KilledTwice | Goes::KilledForLong => drop(agent.kill()),
        Goes::Left => {
            agent.signal(Signal::TERM);
            assert!(agent.wait().success(), "{}", agent.log());
        }
    }
}

/// Every process of every attempt, by id and time of start: an id that was given again is another process.
fn processes(dir: &Path) -> BTreeSet<(u32, u64)> {
    at_home_in(dir).into_iter().filter_map(|pid| Some((pid, started(pid)?))).collect()
}
