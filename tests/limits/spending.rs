//! Budgets that stop a loop without end: at most one request too many, a typed ending, and what becomes of the others.

use crate::stage::{Stage, figures, micro_usd, spec};
use orch_proto::v1::{self, BudgetLimit, BudgetMode, FailurePolicy, Outcome, RunSpec, RunState, TaskState};
use orch_standin::api::{CacheRules, Entry, Latency, Setup};
use std::time::Duration;

const POOL: &str = "north";
const PATIENCE: Duration = Duration::from_secs(120);
/// A sub-agent that never ends.
const LOOP: &str =
    r#"[[api {"subagents":1,"output":50,"subagent":{"forever":true,"input":200,"output":100,"grow":100}}]]"#;
/// The ceiling, in millionths of a US dollar: some dozen requests.
const CEILING: u64 = 400_000;

async fn stage() -> Stage {
    let latency = Latency { first_byte: Duration::from_millis(20), tokens_per_second: None };
    let setup = Setup { cache: Some(CacheRules::default()), latency, ..Setup::default() };
    let mut stage = Stage::set("", setup, &[POOL]).await;
    stage.agent("box-1", POOL, &["--slots", "2"]);
    stage.agent("box-2", POOL, &["--slots", "2"]);
    stage
}

fn hard(micro_usd: u64) -> Option<BudgetLimit> {
    let mode = BudgetMode::Hard.into();
    Some(BudgetLimit { micro_usd: Some(micro_usd), mode, ..BudgetLimit::default() })
}

/// What entries cost together, and the dearest of them.
fn cost(entries: &[Entry]) -> (u64, u64) {
    (entries.iter().map(micro_usd).sum(), entries.iter().map(micro_usd).max().unwrap_or_default())
}

/// A run in which `loops` tasks loop, one waits for the first of them, and its budget.
async fn play(
    stage: &mut Stage,
    loops: usize,
    policy: FailurePolicy,
) -> (v1::Run, Vec<v1::Task>, Vec<Entry>) {
    let before = stage.api.entries().len();
    let mut directives = vec![LOOP.to_owned(); loops];
    directives.push(r#"[[api {"output":10}]]"#.to_owned());
    let mut spec = RunSpec { budget: hard(CEILING), on_failure: policy.into(), ..spec(&directives) };
    // The last waits for a free slot: loops take all of them, or it depends on one.
    spec.tasks[loops].dependencies = vec!["t0".to_owned()];
    let submitted = stage.client.submit(spec).await;
    let run = stage.ended(&submitted.r#ref, PATIENCE).await;
    let tasks = stage.client.tasks(&submitted.r#ref).await;
    let entries = stage.api.entries().split_off(before);
    (run, tasks, entries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loop_of_sub_agents_ends_with_its_runs_budget_and_at_most_one_request_too_many() {
    let mut stage = stage().await;
    for (loops, policy) in
        [(1, FailurePolicy::Continue), (1, FailurePolicy::FailFast), (3, FailurePolicy::Continue)]
    {
        let (run, tasks, entries) = play(&mut stage, loops, policy).await;
        let (spent, dearest) = cost(&entries);
        assert_eq!(run.state(), RunState::Failed, "{run:?}");
        for task in &tasks[..loops] {
            let told = (task.outcome(), task.detail.as_str());
            assert_eq!(told.0, Outcome::Budget, "{told:?}");
        }
        let sub_agents = entries.iter().filter(|entry| !entry.agent_id.is_empty()).count();
        let last = &tasks[loops];
        figures(
            "hard budget",
            &format!(
                "{loops} endless loops of sub-agents, {policy:?}: {} requests ({sub_agents} of sub-agents), {spent} of {CEILING} \
                 millionths spent ({:+.1} %), the dearest request {dearest}; outcome {:?}, what waited for it {:?}/{:?}",
                entries.len(),
                (spent as f64 / CEILING as f64 - 1.0) * 100.0,
                tasks[0].outcome(),
                last.state(),
                last.outcome(),
            ),
        );
        assert!(spent <= CEILING + dearest, "{spent} is more than one request over {CEILING}");
        assert!(spent * 10 >= CEILING * 5, "it was stopped at {spent}, long before {CEILING}");
        assert!(sub_agents > 3, "the loop never looped");
        assert!(
            matches!(last.state(), TaskState::Skipped | TaskState::Cancelled | TaskState::Failed),
            "{last:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_of_a_task_without_money_go_on_or_end_as_the_run_wants() {
    let mut stage = stage().await;
    for (policy, sibling) in
        [(FailurePolicy::Continue, TaskState::Succeeded), (FailurePolicy::FailFast, TaskState::Cancelled)]
    {
        let slow = r#"[[api {"calls":60,"output":10}]]"#.to_owned();
        let mut spec = RunSpec { on_failure: policy.into(), ..spec(&[LOOP.to_owned(), slow]) };
        if let Some(v1::task_spec::Runner::Worker(task)) = spec.tasks[0].runner.as_mut() {
            task.budget_micro_usd = Some(CEILING / 4);
        }
        let submitted = stage.client.submit(spec).await;
        stage.ended(&submitted.r#ref, PATIENCE).await;
        let tasks = stage.client.tasks(&submitted.r#ref).await;
        assert_eq!(tasks[0].outcome(), Outcome::Budget, "{:?}", tasks[0]);
        let (spent, dearest) = cost(&of_session(&stage, &tasks[0].session_id));
        assert!(spent <= CEILING / 4 + dearest, "{spent}, dearest {dearest}");
        figures(
            "budget of a task",
            &format!(
                "{policy:?}: {spent} of {} millionths spent, sibling {:?}",
                CEILING / 4,
                tasks[1].state()
            ),
        );
        assert_eq!(tasks[1].state(), sibling, "{:?}", tasks[1]);
    }
}

fn of_session(stage: &Stage, session: &str) -> Vec<Entry> {
    let mut entries = stage.api.entries();
    entries.retain(|entry| entry.session_id == session);
    entries
}
