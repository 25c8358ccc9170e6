//! The coordinator goes away and comes back, in order and by a kill, while children run: none of them notices.

use orch_proto::v1::{self, AgentState, Outcome, RunState, TaskState};
use orch_tests::budget::{budget, figures, percentile, seed};
use orch_tests::client::{Client, command, run};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use orch_tests::process::{at_home_in, started};
use orch_tests::wait::until;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const ROW: &str = "restarts";
const AGENTS: usize = 4;
const SLOTS: usize = 5;
const CHILDREN: usize = AGENTS * SLOTS;
/// Back-off and deadlines of the product: agents that hold work come back within 5 s.
const HEARTBEAT: &str = "5s";
/// Between the end of a coordinator and the start of the next.
const AWAY_MS: std::ops::RangeInclusive<u64> = 0..=2_000;
/// A coordinator that is told to end has ended by then.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// 99 of 100 agents are back so long after the coordinator listens.
const BACK_LIMIT: Duration = Duration::from_secs(10);

fn agent(number: usize) -> String {
    format!("box-{number}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_run_on_while_the_coordinator_goes_and_comes() {
    let restarts = budget("ORCH_TORTURE_RESTARTS", 4);
    let mut rng = StdRng::seed_from_u64(seed(ROW));
    let mut fleet = Fleet::start_with(orch_tests::binaries!(), HEARTBEAT);
    let slots = SLOTS.to_string();
    for number in 0..AGENTS {
        fleet.spawn_agent(&agent(number), &["--slots", &slots, "--allow-command", "bash"]);
    }
    for number in 0..AGENTS {
        fleet.wait_connected(&agent(number));
    }
    let mut client = fleet.client().await;
    let gate = Gate::closed();
    let line = format!("{}; echo attempt $ORCH_ATTEMPT", gate.wait());
    let tasks = (0..CHILDREN).map(|at| command(&format!("t{at}"), "bash", &["-c", &line]));
    let submitted = client.submit(run(tasks.collect())).await;
    let waiting = gate.gather(CHILDREN).await;
    for at in 0..CHILDREN {
        client.task_in(&format!("{}/t{at}", submitted.r#ref), TaskState::Running).await;
    }
    let children = processes(&fleet);
    assert!(children.len() >= CHILDREN, "{children:?}");

    let (mut back, mut stops) = (Vec::new(), Vec::new());
    for restart in 0..restarts {
        if restart % 2 == 0 {
            stops.push(stop_in_order(&mut fleet));
        }
        fleet.kill_coordinator();
        std::thread::sleep(Duration::from_millis(rng.random_range(AWAY_MS)));
        fleet.start_coordinator();
        client = fleet.client().await;
        back.extend(all_back(&mut client).await);
    }
    assert_eq!(processes(&fleet), children, "the same processes, by id and start");
    gate::open(waiting);
    assert_eq!(client.finished(&submitted.r#ref).await.state(), RunState::Succeeded);
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.attempt, task.outcome()), (1, Outcome::Ok), "{task:?}");
        assert_eq!(orch_tests::client::answer(&task).trim(), "attempt 1");
    }
    for number in 0..AGENTS {
        let dir = fleet.agent_dir(&agent(number));
        until("the children to be gone", || at_home_in(&dir).is_empty().then_some(()));
    }
    let p99 = percentile(&back, 99);
    figures(
        ROW,
        &format!(
            "{restarts} restarts, {} of them in order (worst {:?} to end); {CHILDREN}/{CHILDREN} children kept their pid, \
             {CHILDREN}/{CHILDREN} results recorded, 0 attempts raised; agents back after it listened: p50 {:?}, p99 {p99:?} of {}",
            stops.len(),
            stops.iter().max(),
            percentile(&back, 50),
            back.len(),
        ),
    );
    assert!(p99 <= BACK_LIMIT, "{back:?}");
}

/// Tells the coordinator to end, and waits for it.
fn stop_in_order(fleet: &mut Fleet) -> Duration {
    let began = Instant::now();
    let coordinator = fleet.coordinator();
    coordinator.signal(Signal::TERM);
    assert!(coordinator.wait().success(), "{}", coordinator.log());
    assert!(began.elapsed() <= STOP_LIMIT, "{:?}", began.elapsed());
    began.elapsed()
}

/// When each agent holds its attempts again, counted from now.
async fn all_back(client: &mut Client) -> Vec<Duration> {
    let began = Instant::now();
    let mut back: BTreeMap<String, Duration> = BTreeMap::new();
    while back.len() < AGENTS {
        let listed =
            client.admin.list_agents(v1::ListAgentsRequest::default()).await.expect("agents").into_inner();
        for agent in listed.agents {
            // Full slots are no reason not to be ready.
            if agent.state() == AgentState::Ready && agent.running.len() == SLOTS {
                back.entry(agent.name).or_insert_with(|| began.elapsed());
            }
        }
        assert!(began.elapsed() < orch_tests::wait::PATIENCE, "only {back:?} are back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    back.into_values().collect()
}

/// Every process of every attempt, by id and time of start: an id that was given again is another process.
fn processes(fleet: &Fleet) -> BTreeSet<(u32, u64)> {
    let dirs = (0..AGENTS).map(|number| fleet.agent_dir(&agent(number)));
    let pids = dirs.flat_map(|dir| at_home_in(&dir));
    pids.filter_map(|pid| Some((pid, started(pid)?))).collect()
}
