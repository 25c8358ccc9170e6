//! Coordinator and agents are killed at random while many requests wait and budgets run out: afterwards nothing is lent to
//! anybody, nothing is held for anybody, and nobody spent more than a request too much.

use crate::stage::{Stage, figures, micro_usd, refused, spec, table};
use orch_proto::v1::{self, BudgetLimit, BudgetMode, RunSpec};
use orch_standin::api::{CacheRules, Ending, Entry, Latency, Limit, Rates, Setup};
use orch_tests::budget::budget;
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until_async;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeSet;
use std::time::Duration;

const POOL: &str = "north";
const AGENTS: [&str; 3] = ["box-1", "box-2", "box-3"];
const EXTRA: [&str; 2] = ["--slots", "3"];
const PATIENCE: Duration = Duration::from_secs(240);
/// Between two kills.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 300..=1_500;
/// The API sees within this time that somebody hung up.
const SEEN: Duration = Duration::from_millis(200);
/// Somebody asks something within this time, if anybody still has something to do.
const ANSWERED: Duration = Duration::from_secs(2);
/// Of each looping run, in millionths of a US dollar.
const CEILING: u64 = 300_000;

const LOOP: &str =
    r#"[[api {"subagents":1,"output":40,"subagent":{"forever":true,"input":200,"output":60,"grow":60}}]]"#;
const WORK: &str = r#"[[api {"calls":5,"input":400,"output":60,"grow":100}]]"#;

fn setup() -> (Setup, String) {
    let rates = Rates { requests: Some(1_500), input: Some(400_000), output: Some(200_000) };
    let latency = Latency { first_byte: Duration::from_millis(40), tokens_per_second: Some(200) };
    let setup = Setup { limits: vec![Limit::of(POOL, rates)], cache: Some(CacheRules::default()), latency };
    (setup, table(POOL, 1_500, 400_000, 200_000))
}

/// How often what was killed.
#[derive(Default)]
struct Killed {
    coordinators: u64,
    agents: u64,
    hosts: u64,
}

/// The conversations that a run has had.
type Sessions = Vec<BTreeSet<String>>;

/// Kills one after the other. Before each, notes the conversations of `loops`: an attempt that is lost may be followed by one
/// with another.
async fn torment(
    stage: &mut Stage,
    kills: u64,
    rng: &mut StdRng,
    (loops, sessions): (&[String], &mut Sessions),
) -> Killed {
    let mut killed = Killed::default();
    for number in 0..kills {
        tokio::time::sleep(Duration::from_millis(rng.random_range(PAUSE_MS))).await;
        note(stage, loops, sessions).await;
        match number % 3 {
            0 => {
                killed.coordinators += 1;
                stage.fleet.kill_coordinator();
                stage.fleet.start_coordinator();
            }
            1 => {
                killed.agents += 1;
                let agent = AGENTS[rng.random_range(0..AGENTS.len())];
                stage.fleet.agent_process(agent).kill();
                stage.spawn_agent(agent, POOL, &EXTRA);
            }
            _ => killed.hosts += crash(stage, rng).await,
        }
    }
    for agent in AGENTS {
        stage.fleet.wait_connected(agent);
    }
    killed
}

async fn note(stage: &mut Stage, loops: &[String], sessions: &mut Sessions) {
    for (run, known) in loops.iter().zip(sessions) {
        let tasks = stage.client.tasks(run).await;
        known.extend(tasks.into_iter().map(|task| task.session_id).filter(|session| !session.is_empty()));
    }
}

/// Everything of a host ends at once, answers under way among it: of another, too, where none was. Gives how many.
async fn crash(stage: &mut Stage, rng: &mut StdRng) -> u64 {
    let before = cut_off(stage);
    let first = rng.random_range(0..AGENTS.len());
    for number in 0..AGENTS.len() {
        let agent = AGENTS[(first + number) % AGENTS.len()];
        let dir = stage.fleet.agent_dir(agent);
        answering(stage).await;
        stage.fleet.agent_process(agent).kill();
        for pid in supervisors_in(&dir).into_iter().chain(at_home_in(&dir)) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
            // One that is gone by now needs no signal.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        tokio::time::sleep(SEEN).await;
        stage.spawn_agent(agent, POOL, &EXTRA);
        if cut_off(stage) > before {
            return number as u64 + 1;
        }
    }
    AGENTS.len() as u64
}

/// Waits for an answer that is under way, if there is one soon.
async fn answering(stage: &Stage) {
    let began = std::time::Instant::now();
    let is_answering = |entry: &Entry| entry.ending == Ending::Open && entry.begun.is_some();
    while !stage.api.entries().iter().any(is_answering) && began.elapsed() < ANSWERED {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn cut_off(stage: &Stage) -> usize {
    stage.api.entries().iter().filter(|entry| entry.ending == Ending::HungUp).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_kills_under_load_nothing_is_leaked_and_no_budget_passed() {
    let kills = budget("ORCH_LIMITS_KILLS", 6);
    let seed = budget("ORCH_TORTURE_SEED", rand::random());
    figures("kills", &format!("seed {seed}"));
    let mut rng = StdRng::seed_from_u64(seed);
    let (setup, told) = setup();
    let mut stage = Stage::set(&told, setup, &[POOL]).await;
    for agent in AGENTS {
        stage.agent(agent, POOL, &EXTRA);
    }
    let limit =
        BudgetLimit { micro_usd: Some(CEILING), mode: BudgetMode::Hard.into(), ..BudgetLimit::default() };
    let mut loops = Vec::new();
    for _ in 0..2 {
        let spec = RunSpec { budget: Some(limit), ..spec(&[LOOP.to_owned(), LOOP.to_owned()]) };
        loops.push(stage.client.submit(spec).await.r#ref);
    }
    let work = stage.submit(&vec![WORK.to_owned(); usize::try_from(kills * 10).expect("few")]).await.r#ref;
    let mut sessions = vec![BTreeSet::new(); loops.len()];
    let killed = torment(&mut stage, kills, &mut rng, (&loops, &mut sessions)).await;

    for run in loops.iter().chain([&work]) {
        stage.ended(run, PATIENCE).await;
    }
    crate::stage::until("every request to end", || {
        stage.api.entries().iter().all(|entry| entry.ending != Ending::Open).then_some(())
    })
    .await;
    note(&mut stage, &loops, &mut sessions).await;
    let leaked = nothing_leaked(&stage).await;
    let mut worst = 0.0_f64;
    let mut over = Vec::new();
    for (run, known) in loops.iter().zip(&sessions) {
        let (spent, dearest) = spent(&stage.api.entries(), known);
        worst = worst.max(spent as f64 / CEILING as f64);
        if spent > CEILING + dearest {
            over.push(format!("{run} spent {spent} of {CEILING}, its dearest request {dearest}"));
        }
    }
    let entries = stage.api.entries();
    let hung_up = cut_off(&stage);
    figures(
        "kills",
        &format!(
            "{} of the coordinator, {} of agents, {} of hosts under {} requests ({hung_up} cut off, {} answered 429): leased and \
             reserved 0 after {leaked:.1?}; dearest run at {:.1} % of its budget",
            killed.coordinators,
            killed.agents,
            killed.hosts,
            entries.len(),
            refused(&entries),
            worst * 100.0
        ),
    );
    assert!(over.is_empty(), "{over:?}");
    assert!(
        killed.coordinators > 0 && killed.agents > 0 && killed.hosts > 0 && hung_up > 0,
        "one never fired"
    );
}

/// What conversations cost, and the dearest request of them.
fn spent(entries: &[Entry], sessions: &BTreeSet<String>) -> (u64, u64) {
    let mine = |entry: &&Entry| sessions.contains(&entry.session_id);
    let costs: Vec<u64> = entries.iter().filter(mine).map(micro_usd).collect();
    (costs.iter().sum(), costs.iter().copied().max().unwrap_or_default())
}

/// Waits until nothing is lent or held; gives how long that took.
async fn nothing_leaked(stage: &Stage) -> Duration {
    let began = std::time::Instant::now();
    let costs = stage.costs();
    until_async("leases and reservations to be given back", || {
        let mut costs = costs.clone();
        async move {
            let pools = costs.get_limits(v1::GetLimitsRequest::default()).await.ok()?.into_inner().pools;
            let budgets =
                costs.list_budgets(v1::ListBudgetsRequest { runs: true }).await.ok()?.into_inner().budgets;
            let leased = pools.iter().flat_map(|pool| &pool.buckets).any(|bucket| bucket.leased > 0);
            let waiting = pools.iter().any(|pool| pool.waiting > 0 || pool.in_flight > 0);
            let held = |used: &v1::BudgetUse| {
                used.reserved.as_ref().is_some_and(|held| held.micro_usd > 0 || held.tokens > 0)
            };
            (!leased && !waiting && !budgets.iter().any(held)).then_some(())
        }
    })
    .await;
    began.elapsed()
}
