//! Agents of releases that know no budgets, beside budgets that stop: what is kept from them, and until when.

mod support;

use orch_core::budgets::{Budget, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope};
use orch_core::event::Event;
use support::*;

const CLAUDE: &str = "runner=claude";

fn usd(micro_usd: u64) -> BudgetLimit {
    BudgetLimit { micro_usd: Some(micro_usd), ..BudgetLimit::default() }
}

fn with_budget(env: &mut Env, lines: &str) {
    env.submit_as(|submit| submit.shape.budget = Some(usd(1_000)), lines);
}

fn set(env: &mut Env, limit: BudgetLimit) {
    let (name, scope, period) = ("cap".into(), BudgetScope::Tenant, BudgetPeriod::Total);
    let budget = Box::new(Budget { name, scope, period, limit });
    env.answer(|token| Event::BudgetSet { token, tenant: ONE, budget });
}

#[test]
fn an_agent_that_keeps_no_budgets_is_given_nothing_that_a_budget_must_stop() {
    let mut env = Env::new();
    env.join_as("old", 2, CLAUDE, |hello| hello.keeps_allowances = false);
    with_budget(&mut env, "a needs runner=claude");
    env.submit("x needs runner=claude");
    let sent = env.sent();
    assert!(sent.contains("grant old 2/x#1") && !sent.contains("/a#"), "only what no budget is over: {sent}");
    let (summary, reasons, impossible) = env.explain("1/a");
    assert!(summary.contains("no agent that fits keeps budgets"), "{summary}");
    assert!(reasons.iter().any(|reason| reason.kind == "budget") && !impossible);

    env.join("new", 1, CLAUDE);
    assert!(env.sent().contains("grant new 1/a#1"), "one that keeps them came");
    // The next waits for that one, though the other has room.
    with_budget(&mut env, "b needs runner=claude");
    assert_eq!(env.state_of("3/b"), "queued");
    let told = env.explain("3/b").1;
    assert!(told.iter().any(|reason| reason.text.contains("old keeps no budget that stops")), "{told:?}");
}

#[test]
fn what_nobody_would_stop_starts_once_nothing_has_to_be_stopped() {
    let mut env = Env::new();
    env.join_as("old", 2, CLAUDE, |hello| hello.keeps_allowances = false);
    set(&mut env, usd(1_000));
    env.submit("a needs runner=claude");
    assert_eq!(env.state_of("1/a"), "queued");
    let soft = BudgetLimit { mode: BudgetMode::Soft, ..usd(1_000) };
    set(&mut env, soft);
    assert_eq!(env.state_of("1/a"), "leased");
}
