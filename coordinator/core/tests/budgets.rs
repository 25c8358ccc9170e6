//! Budgets of runs and standing ones: what attempts may spend, what a budget that is used up means, who is told what.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test stops at what it did not expect")]

mod support;

use orch_core::budgets::{
    Allowance, Budget, BudgetChange, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, BudgetView,
    OwnBudget, Spending, Spent,
};
use orch_core::effect::Write;
use orch_core::event::{Event, FailurePolicy};
use orch_core::ids::{Epoch, RunId};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query, Refusal};
use orch_core::usage::{ModelUsage, Usage};
use std::collections::BTreeMap;
use support::*;

const CLAUDE: &str = "runner=claude";
const DAY_SECONDS: u64 = 86_400;
/// Seconds from the first moment of a test, 22:13:20 UTC, to midnight.
const TO_MIDNIGHT: u64 = 6_400;

fn usd(micro_usd: u64) -> BudgetLimit {
    BudgetLimit { micro_usd: Some(micro_usd), ..BudgetLimit::default() }
}

fn runs(runs: u64) -> BudgetLimit {
    BudgetLimit { runs: Some(runs), ..BudgetLimit::default() }
}

fn cost(cost_micro_usd: u64) -> Usage {
    let row = ModelUsage {
        model: "opus".into(),
        input: cost_micro_usd,
        output: 0,
        cache_read: 0,
        cache_write: 0,
        cost_micro_usd,
    };
    Usage { models: vec![row], cost_micro_usd, estimated: false }
}

/// Budgets as these tests say them.
trait Money {
    fn run_with(&mut self, limit: BudgetLimit, policy: FailurePolicy, lines: &str) -> u64;
    fn set(&mut self, name: &str, scope: BudgetScope, period: BudgetPeriod, limit: BudgetLimit)
    -> BudgetView;
    fn remove(&mut self, name: &str) -> Answer;
    fn budgets(&mut self) -> Vec<BudgetView>;
    fn spend(&mut self, agent: &str, attempt: &str, spent: u64, bound: u64, wanted: u64);
    fn allowance(&mut self, attempt: &str) -> Option<Allowance>;
    fn done(&mut self, agent: &str, attempt: &str, micro_usd: u64);
}

impl Money for Env {
    fn run_with(&mut self, limit: BudgetLimit, policy: FailurePolicy, lines: &str) -> u64 {
        let submitted = self.submit_as(
            |submit| {
                submit.shape.budget = Some(limit);
                submit.shape.policy = policy;
            },
            lines,
        );
        match submitted {
            Answer::Submitted { run: Some(run), .. } => number(&run),
            other => panic!("not submitted: {other:?}"),
        }
    }

    fn set(
        &mut self,
        name: &str,
        scope: BudgetScope,
        period: BudgetPeriod,
        limit: BudgetLimit,
    ) -> BudgetView {
        let budget = Box::new(Budget { name: name.into(), scope, period, limit });
        match self.answer(|token| Event::BudgetSet { token, tenant: ONE, budget }) {
            Answer::BudgetSet { view, .. } => view,
            other => panic!("not set: {other:?}"),
        }
    }

    fn remove(&mut self, name: &str) -> Answer {
        let name = name.into();
        self.answer(|token| Event::BudgetRemoved { token, tenant: ONE, name })
    }

    fn budgets(&mut self) -> Vec<BudgetView> {
        match self.ask(Query::Budgets(true)) {
            Answer::Budgets(views) => views,
            other => panic!("no budgets: {other:?}"),
        }
    }

    /// An agent that acts by the newest word says what its attempt spends.
    fn spend(&mut self, agent: &str, attempt: &str, spent: u64, bound: u64, wanted: u64) {
        let attempt = self.attempt(attempt);
        let told = self.state.grant_view(attempt).and_then(|view| view.allowance);
        let seen = told.map_or(0, |told| told.seq);
        let money = |micro_usd| Spent { micro_usd, ..Spent::default() };
        let spending = Spending {
            attempt,
            spent: money(spent),
            bound: money(bound),
            wanted: money(wanted),
            in_flight: u32::from(bound > spent),
            estimated: false,
            seen,
        };
        let session = self.session(agent);
        self.apply(Event::SpendingReported { session, spending });
    }

    /// The newest word to an attempt, after its grant.
    fn allowance(&mut self, attempt: &str) -> Option<Allowance> {
        let attempt = self.attempt(attempt);
        let at = self.allowances.iter().rposition(|(key, _)| *key == attempt)?;
        Some(self.allowances.remove(at).1)
    }

    fn done(&mut self, agent: &str, attempt: &str, micro_usd: u64) {
        self.report_as(agent, attempt, Outcome::OK, |report| report.usage = cost(micro_usd));
    }
}

/// `count` running tasks of one run with a hard budget, on one agent.
fn running(limit: u64, lines: &str) -> Env {
    let mut env = Env::new();
    env.join("box", 8, CLAUDE);
    env.run_with(usd(limit), FailurePolicy::Continue, lines);
    for attempt in env.sent().lines().filter_map(|line| line.strip_prefix("grant box ")) {
        env.accept("box", attempt);
    }
    env.written();
    env
}

#[test]
fn an_attempt_without_budgets_is_limited_by_nothing_and_reserves_nothing() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.submit("a needs runner=claude");
    let view = env.state.grant_view(env.attempt("1/a#1")).expect("granted");
    assert_eq!(view.allowance, None);
    env.accept("box", "1/a#1");
    env.sent();
    env.spend("box", "1/a#1", 10, 20, 0);
    assert_eq!(env.sent(), "", "nothing to be said");
    env.spend("box", "1/a#1", 10, 20, 30);
    let said = env.allowance("1/a#1").expect("it asked");
    assert_eq!((said.micro_usd, said.spent), (None, false));
}

#[test]
fn the_first_allowance_is_a_part_of_what_is_left_and_is_recorded_with_the_grant() {
    let env = running(8_000_000, "a needs runner=claude\nb needs runner=claude");
    let first = |name: &str| env.state.grant_view(env.attempt(name)).and_then(|view| view.allowance);
    // One of eight parts for the only attempt, then one of sixteen of the rest for the second.
    assert_eq!(first("1/a#1").and_then(|told| told.micro_usd), Some(1_000_000));
    assert_eq!(first("1/b#1").and_then(|told| told.micro_usd), Some(437_500));
    let record = env.state.task_record(env.key("1/a")).expect("live");
    assert_eq!(record.allowed.micro_usd, 1_000_000);
}

#[test]
fn more_is_given_in_the_order_of_asking_and_written_before_it_is_said() {
    let mut env = running(100, "a needs runner=claude\nb needs runner=claude\nc needs runner=claude");
    env.spend("box", "1/a#1", 0, 0, 70);
    assert_eq!(env.allowance("1/a#1").and_then(|told| told.micro_usd), Some(70));
    assert!(env.written().contains(&Write::Task { task: env.key("1/a"), payload: None }));
    env.spend("box", "1/b#1", 0, 0, 60);
    env.spend("box", "1/c#1", 0, 0, 10);
    assert_eq!(env.allowance("1/c#1").filter(|told| told.micro_usd == Some(10)), None, "b was first");
    // What a does not use is asked back; nobody has it before a says that it acts by that.
    assert_eq!(env.allowance("1/a#1").and_then(|told| told.micro_usd), Some(0));
    let promised = env.state.task_record(env.key("1/a")).expect("live").allowed.micro_usd;
    assert_eq!(promised, 70, "until a says so");
    env.spend("box", "1/a#1", 20, 20, 0);
    assert_eq!(env.allowance("1/b#1").and_then(|told| told.micro_usd), Some(60));
    assert!(env.allowance("1/c#1").and_then(|told| told.micro_usd) >= Some(10));
}

#[test]
fn what_was_taken_back_is_given_to_another_only_when_the_agent_acts_by_it() {
    let mut env = running(100, "a needs runner=claude\nb needs runner=claude");
    env.spend("box", "1/a#1", 0, 0, 80);
    env.allowance("1/a#1");
    env.spend("box", "1/b#1", 0, 0, 50);
    let (attempt, told) =
        env.allowances.iter().rev().find(|(_, told)| told.micro_usd == Some(0)).cloned().expect("a");
    assert_eq!(attempt, env.attempt("1/a#1"));
    let session = env.session("box");
    let quiet = |seen| Spending {
        attempt,
        spent: Spent::default(),
        bound: Spent::default(),
        wanted: Spent::default(),
        in_flight: 0,
        estimated: false,
        seen,
    };
    env.apply(Event::SpendingReported { session, spending: quiet(told.seq - 1) });
    assert_eq!(
        env.allowance("1/b#1").filter(|told| told.micro_usd >= Some(50)),
        None,
        "a may have begun one"
    );
    env.apply(Event::SpendingReported { session, spending: quiet(told.seq) });
    assert_eq!(env.allowance("1/b#1").and_then(|told| told.micro_usd).map(|told| told >= 50), Some(true));
}

#[test]
fn the_last_request_starts_alone_and_passes_the_budget_once() {
    let mut env = running(100, "a needs runner=claude\nb needs runner=claude");
    env.spend("box", "1/a#1", 0, 0, 90);
    env.spend("box", "1/a#1", 0, 90, 0);
    env.allowances.clear();
    env.spend("box", "1/b#1", 0, 0, 90);
    assert_eq!(env.allowance("1/b#1").filter(|told| told.one_more || told.micro_usd >= Some(90)), None);
    env.spend("box", "1/a#1", 60, 60, 0);
    // It was told before that it may come to no more than 90.
    assert_eq!(env.allowance("1/a#1").and_then(|told| told.micro_usd), Some(60));
    env.spend("box", "1/a#1", 60, 60, 0);
    let last = env.allowance("1/b#1").expect("nothing else is in flight");
    assert!(last.one_more && last.micro_usd == Some(40), "{last:?}");
    // Nobody else starts meanwhile, however little it wants.
    env.spend("box", "1/a#1", 60, 60, 61);
    assert_eq!(env.allowance("1/a#1"), None);
    env.spend("box", "1/b#1", 0, 90, 0);
    assert_eq!(env.allowance("1/a#1"), None);
    env.spend("box", "1/b#1", 85, 85, 0);
    for attempt in ["1/a#1", "1/b#1"] {
        let end = env.allowance(attempt).expect("the end is said");
        assert!(end.spent, "{attempt}: {end:?}");
        assert_eq!(&*end.detail, "budget of run adhoc/1: $0.0001 of $0.0001 spent");
    }
}

#[test]
fn a_run_whose_budget_is_used_up_ends_what_waits_and_says_why() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    let lines =
        "a needs runner=claude\nb needs runner=claude\nc needs runner=claude\nd after b needs runner=claude";
    env.run_with(usd(5_000_000), FailurePolicy::Continue, lines);
    env.accept("box", "1/a#1");
    env.done("box", "1/a#1", 5_000_000);
    assert_eq!(env.state_of("1/a"), "succeeded");
    for task in ["1/b", "1/c"] {
        let view = env.task(task);
        assert_eq!((view.state.word(), view.outcome), ("failed", Some(Outcome::BUDGET)), "{task}");
        assert_eq!(&*view.detail, "budget of run adhoc/1: $5.00 of $5.00 spent");
    }
    assert_eq!(env.state_of("1/d"), "skipped");
    let run = env.run(1);
    assert_eq!((run.state.word(), run.outcome), ("failed", Some(Outcome::BUDGET)));
    assert!(env.told().contains("nothing more of the run starts"));
}

#[test]
fn fail_fast_ends_what_runs_too_and_best_effort_keeps_what_succeeded() {
    let lines = "a needs runner=claude\nb needs runner=claude\nc needs runner=claude";
    let end = |policy| {
        let mut env = Env::new();
        env.join("box", 2, CLAUDE);
        env.run_with(usd(100), policy, lines);
        env.accept("box", "1/a#1");
        env.accept("box", "1/b#1");
        env.done("box", "1/a#1", 100);
        env
    };
    let mut env = end(FailurePolicy::FailFast);
    assert_eq!([env.state_of("1/b"), env.state_of("1/c")], ["cancelled", "failed"]);
    let mut env = end(FailurePolicy::BestEffort);
    assert_eq!([env.state_of("1/b"), env.state_of("1/c")], ["running", "failed"]);
    env.done("box", "1/b#1", 1);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn what_costs_nothing_goes_on_without_money() {
    let mut env = Env::new();
    env.join("box", 1, "runner=claude runner=noop");
    env.run_with(usd(100), FailurePolicy::Continue, "a needs runner=claude\nb after a needs runner=noop");
    env.done("box", "1/a#1", 100);
    assert_eq!(env.state_of("1/b"), "leased");
}

#[test]
fn a_run_has_as_many_attempts_as_it_may() {
    let mut env = Env::new();
    env.join("box", 4, "runner=noop");
    env.run_with(
        runs(2),
        FailurePolicy::Continue,
        "a needs runner=noop\nb needs runner=noop\nc needs runner=noop",
    );
    assert_eq!(
        [env.state_of("1/a"), env.state_of("1/b"), env.state_of("1/c")],
        ["leased", "leased", "failed"]
    );
    assert_eq!(&*env.task("1/c").detail, "budget of run adhoc/1: 2 of 2 attempts");
}

#[test]
fn tasks_under_a_standing_budget_wait_until_it_begins_anew_or_is_raised() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.set("nightly", BudgetScope::Tenant, BudgetPeriod::Day, usd(10_000_000));
    env.submit("a needs runner=claude\nb needs runner=claude\nc needs runner=claude");
    env.done("box", "1/a#1", 10_000_000);
    assert_eq!([env.state_of("1/b"), env.state_of("1/c")], ["queued", "queued"]);
    let (summary, reasons, impossible) = env.explain("1/b");
    let text = "budget nightly: $10.00 of $10.00 spent today; begins anew in 107 min";
    assert_eq!(summary, format!("{text}; now: orchctl budgets set nightly --usd 20 --per day"));
    assert!(reasons.iter().any(|reason| reason.kind == "budget" && reason.text == text) && !impossible);
    assert_eq!(env.budgets()[0].state, "tasks wait for 107 min");
    let demand = env.status().demand;
    assert_eq!(
        (demand.budgets, demand.pending_slots, demand.free_slots),
        (2, 0, 1),
        "no wish for more agents"
    );
    env.pass_with_heartbeats(TO_MIDNIGHT - 10, &["box"]);
    assert_eq!(env.state_of("1/b"), "queued");
    env.pass_with_heartbeats(20, &["box"]);
    assert_eq!(env.state_of("1/b"), "leased", "a new day");
    assert_eq!(env.budgets()[0].spent, Spent::default());
    env.done("box", "1/b#1", 10_000_000);
    assert_eq!(env.state_of("1/c"), "queued");
    env.set("nightly", BudgetScope::Tenant, BudgetPeriod::Day, usd(20_000_000));
    assert_eq!(env.state_of("1/c"), "leased", "raised; what was spent stays counted");
    assert_eq!(env.budgets()[0].spent.micro_usd, 10_000_000);
}

#[test]
fn what_stands_behind_a_budget_holds_up_nobody_else() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.set("cap", BudgetScope::Name("adhoc".into()), BudgetPeriod::Total, usd(100));
    env.submit("a needs runner=claude\nb needs runner=claude prio 100");
    env.done("box", "1/b#1", 100);
    assert_eq!(env.state_of("1/a"), "queued");
    env.submit_as(|submit| submit.name = "other".into(), "x needs runner=claude prio 1");
    assert!(env.sent().contains("grant box "), "the run of another name");
    assert_eq!(env.state_of("1/a"), "queued");
    env.remove("cap");
    let told = env.explain("1/a").0;
    assert!(told.contains("slot"), "only a slot is missing: {told}");
}

#[test]
fn a_drained_budget_lets_what_runs_finish() {
    let mut env = Env::new();
    env.join("box", 2, CLAUDE);
    let limit = BudgetLimit { mode: BudgetMode::Drain, ..usd(100) };
    env.set("cap", BudgetScope::Tenant, BudgetPeriod::Total, limit);
    env.submit("a needs runner=claude\nb needs runner=claude\nc needs runner=claude");
    assert_eq!(env.state.grant_view(env.attempt("1/a#1")).expect("granted").allowance, None);
    env.accept("box", "1/b#1");
    env.done("box", "1/a#1", 150);
    assert_eq!((env.allowance("1/b#1"), env.state_of("1/c")), (None, "queued"));
    env.done("box", "1/b#1", 50);
    assert_eq!((env.state_of("1/b"), env.state_of("1/c")), ("succeeded", "queued"));
}

#[test]
fn a_soft_budget_warns_near_its_end_and_at_it_once_a_day() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    let limit = BudgetLimit { mode: BudgetMode::Soft, ..usd(100) };
    env.set("watch", BudgetScope::Tenant, BudgetPeriod::Day, limit);
    env.submit("a needs runner=claude\nb needs runner=claude\nc needs runner=claude\nd needs runner=claude");
    let mut warned = Vec::new();
    for (task, cost) in [("a", 79), ("b", 1), ("c", 40), ("d", 40)] {
        env.done("box", &format!("1/{task}#1"), cost);
        warned.push(env.told().lines().filter(|line| line.starts_with("budget watch")).count());
    }
    assert_eq!(warned, [0, 1, 1, 0]);
    env.pass_with_heartbeats(DAY_SECONDS, &[]);
    env.submit("e needs runner=claude");
    env.join("box", 1, CLAUDE);
    env.done("box", "2/e#1", 100);
    assert_eq!(env.told().lines().filter(|line| line.starts_with("budget watch")).count(), 1);
}

#[test]
fn runs_over_a_name_are_counted_when_they_are_submitted() {
    let mut env = Env::new();
    env.set("two", BudgetScope::Name("adhoc".into()), BudgetPeriod::Day, runs(2));
    env.submit("a");
    env.submit("a");
    let refusal = env.refused("a");
    let Refusal::OverBudget { detail, retry_in } = refusal else { panic!("{refusal:?}") };
    let command = "orchctl budgets set two --runs 4 --per day --on name=adhoc";
    assert_eq!(detail, format!("budget two: 2 of 2 runs today, it begins anew in 107 min; now: {command}"));
    assert_eq!(retry_in.map(|left| left.0), Some(TO_MIDNIGHT * 1_000));
    let other = env.submit_as(|submit| submit.name = "other".into(), "a");
    assert!(matches!(other, Answer::Submitted { .. }));
}

#[test]
fn a_clock_that_goes_back_opens_no_day_again() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.set("nightly", BudgetScope::Tenant, BudgetPeriod::Day, usd(100));
    env.pass_with_heartbeats(TO_MIDNIGHT + 5, &["box"]);
    env.submit("a needs runner=claude\nb needs runner=claude\nc needs runner=claude");
    env.done("box", "1/a#1", 60);
    env.now.wall.0 -= 60_000;
    env.done("box", "1/b#1", 60);
    assert_eq!(env.budgets()[0].spent.micro_usd, 120, "both are of the new day");
    env.now.wall.0 += 120_000;
    env.pass_seconds(1);
    assert_eq!((env.budgets()[0].spent.micro_usd, env.state_of("1/c")), (120, "queued"));
}

#[test]
fn an_attempt_without_a_bill_stays_reserved_and_then_counts_as_spent() {
    let mut env = running(8_000_000, "a needs runner=claude");
    env.spend("box", "1/a#1", 300_000, 400_000, 0);
    env.leave("box");
    env.pass_seconds(30);
    let view = env.budgets().remove(0);
    assert_eq!((view.spent.micro_usd, view.reserved.micro_usd), (300_000, 700_000));
    assert_eq!(env.state.task_record(env.key("1/a")).expect("live").open[0].most.micro_usd, 700_000);
    env.pass_seconds(601);
    let view = env.budgets().remove(0);
    assert_eq!((view.spent.micro_usd, view.reserved.micro_usd), (1_000_000, 0));
    assert_eq!(view.estimated_micro_usd, 1_000_000);
}

#[test]
fn a_late_bill_takes_the_place_of_everything_that_was_kept_for_it() {
    for late in [1, 300] {
        let mut env = running(8_000_000, "a needs runner=claude");
        env.set("all", BudgetScope::Tenant, BudgetPeriod::Total, usd(50_000_000));
        env.spend("box", "1/a#1", 300_000, 300_000, 0);
        env.cancel("1/a");
        env.pass_with_heartbeats(late, &["box"]);
        env.report_as("box", "1/a#1", Outcome::CANCELLED, |report| report.usage = cost(450_000));
        let views = env.budgets();
        let all = views.iter().find(|view| view.budget.is_some()).expect("it is set");
        assert_eq!((all.spent.micro_usd, all.reserved.micro_usd), (450_000, 0), "{late}");
        assert_eq!(all.estimated_micro_usd, 0);
        let counted: i64 = env
            .bills
            .iter()
            .map(|bill| bill.usage.cost_micro_usd as i64 - bill.taken_back_micro_usd.unwrap_or(0) as i64)
            .sum();
        assert_eq!(counted, 450_000, "the ledger says the same: {:?}", env.bills);
    }
}

#[test]
fn the_ledger_has_a_bill_for_every_attempt_that_cost() {
    let mut env = Env::new();
    env.join("box", 2, "runner=claude runner=noop");
    env.submit("a needs runner=claude\nb needs runner=noop");
    env.report_as("box", "1/b#1", Outcome::OK, |report| report.usage = Usage::default());
    env.report_as("box", "1/a#1", CRASH, |report| {
        report.usage = cost(70);
        report.pool = "team".into();
    });
    let bill = env.bills.first().expect("a bill");
    assert_eq!(env.bills.len(), 1, "nothing is billed for nothing");
    assert_eq!(
        (&*bill.run_ref, &*bill.task_id, bill.attempt, &*bill.agent, &*bill.pool),
        ("adhoc/1", "a", 1, "box", "team")
    );
    assert_eq!((bill.usage.cost_micro_usd, bill.taken_back_micro_usd, bill.outcome), (70, None, CRASH));
}

#[test]
fn after_a_restart_as_much_is_reserved_as_was_promised() {
    let lines = "a needs runner=claude\nb needs runner=claude";
    let mut env = running(8_000_000, lines);
    env.set("all", BudgetScope::Tenant, BudgetPeriod::Day, usd(9_000_000));
    env.spend("box", "1/a#1", 100, 100, 3_000_000);
    let before = env.budgets();
    let specs = BTreeMap::from([(RunId(1), tasks(lines))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    let after = again.budgets();
    let reserved =
        |views: &[BudgetView]| views.iter().map(|view| view.reserved.micro_usd).collect::<Vec<_>>();
    assert_eq!(reserved(&before), reserved(&after));
    assert!(before[0].reserved.micro_usd > 3_000_000);
    // A second attempt to have it all finds no more than is free.
    again.join_as("box", 8, CLAUDE, |hello| {
        let held = [
            ("1/a#1", orch_core::event::HeldState::Running),
            ("1/b#1", orch_core::event::HeldState::Running),
        ];
        hello.inventory = inventory(&held.map(|(attempt, state)| (env.attempt(attempt), state)));
    });
    again.spend("box", "1/b#1", 0, 0, 6_000_000);
    let told = again.allowance("1/b#1").filter(|told| told.micro_usd >= Some(6_000_000));
    assert_eq!(told, None, "a was promised 3");
}

#[test]
fn a_word_that_was_lost_with_its_stream_is_said_again() {
    let mut env = running(100, "a needs runner=claude");
    let attempt = env.attempt("1/a#1");
    env.spend("box", "1/a#1", 0, 0, 50);
    let said = env.allowance("1/a#1").expect("given");
    env.leave("box");
    env.join_as("box", 8, CLAUDE, |hello| {
        hello.inventory = inventory(&[(attempt, orch_core::event::HeldState::Running)]);
    });
    env.allowances.clear();
    let wanted = Spent { micro_usd: 50, ..Spent::default() };
    let (spent, bound, seen) = (Spent::default(), Spent::default(), said.seq - 1);
    let spending = Spending { attempt, spent, bound, wanted, in_flight: 0, estimated: false, seen };
    let session = env.session("box");
    env.apply(Event::SpendingReported { session, spending });
    assert_eq!(env.allowance("1/a#1"), Some(said));
}

/// Two attempts of which each wants more than there is: the second began after it was told that its first word does not
/// hold any more, and nobody was there to hear that.
#[test]
fn a_word_that_came_before_its_attempt_had_begun_is_said_again() {
    let mut env = running(100, "a needs runner=claude\nb needs runner=claude");
    let (session, attempt) = (env.session("box"), env.attempt("1/b#1"));
    let first = env.state.grant_view(attempt).and_then(|view| view.allowance).expect("limited");
    env.spend("box", "1/a#1", 0, 0, 900);
    let missed = env.allowance("1/b#1").expect("it is asked back");
    assert!(missed.seq > first.seq && missed.micro_usd == Some(0), "{missed:?}");
    env.allowances.clear();
    let wants = |seen| Spending {
        attempt,
        spent: Spent::default(),
        bound: Spent::default(),
        wanted: Spent { micro_usd: 900, ..Spent::default() },
        in_flight: 0,
        estimated: false,
        seen,
    };
    env.apply(Event::SpendingReported { session, spending: wants(first.seq) });
    assert_eq!(env.allowance("1/b#1").map(|told| told.seq), Some(missed.seq));
    env.apply(Event::SpendingReported { session, spending: wants(missed.seq) });
    let given = env.allowance("1/a#1");
    assert!(given.as_ref().is_some_and(|told| told.one_more), "a was first: {given:?} {:?}", env.allowances);
}

#[test]
fn attempts_that_run_come_under_a_budget_that_is_set_and_out_of_one_that_is_removed() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.submit("a needs runner=claude");
    env.accept("box", "1/a#1");
    env.set("cap", BudgetScope::Worker("noop".into()), BudgetPeriod::Total, usd(100));
    let limited = env.allowance("1/a#1").expect("it is told");
    assert_eq!(limited.micro_usd, Some(0));
    env.remove("cap");
    let free = env.allowance("1/a#1").expect("it is told");
    assert!(free.micro_usd.is_none() && free.seq > limited.seq);
    assert!(matches!(env.remove("cap"), Answer::Refused(Refusal::NoSuchBudget { .. })));
}

#[test]
fn a_task_that_costs_more_than_expected_is_told_once() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    let submit = |submit: &mut orch_core::event::Submit| submit.tasks[0].expected_micro_usd = Some(1_000);
    env.submit_as(submit, "a needs runner=claude retries 5");
    let mut warned = Vec::new();
    for attempt in 1..=3 {
        env.report_as("box", &format!("1/a#{attempt}"), API_ERROR, |report| report.usage = cost(600));
        warned.push(env.told().matches("more than the").count());
        env.retry("1/a", false);
    }
    assert_eq!(warned, [0, 1, 0]);
}

#[test]
fn a_task_that_a_budget_stopped_goes_on_where_it_was() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.set("cap", BudgetScope::Tenant, BudgetPeriod::Total, usd(100));
    env.submit("a needs runner=claude");
    env.report_as("box", "1/a#1", Outcome::BUDGET, |report| report.usage = cost(100));
    assert_eq!(env.state_of("1/a"), "failed");
    env.set("cap", BudgetScope::Tenant, BudgetPeriod::Total, usd(500));
    env.retry("1/a", false);
    let view = env.state.grant_view(env.attempt("1/a#2")).expect("granted");
    assert_eq!(view.interrupted.map(|ended| ended.number.0), Some(1));
}

#[test]
fn a_run_without_money_is_not_tried_again() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.run_with(usd(100), FailurePolicy::Continue, "a needs runner=claude\nb needs runner=claude");
    env.done("box", "1/a#1", 100);
    let refused = env.retry("1/b", false);
    let Answer::Refused(Refusal::OverBudget { retry_in: None, detail }) = refused else {
        panic!("{refused:?}")
    };
    assert!(detail.ends_with("now: orchctl retry adhoc/1 --budget 0.0002usd"), "{detail}");
}

/// The ceiling of a run, changed.
fn change(env: &mut Env, run: &str, change: Option<BudgetChange>) -> Answer {
    let target = target_of(run);
    env.answer(|token| Event::RunBudgetSet { token, target, change })
}

fn dollars(micro_usd: u64) -> Option<BudgetChange> {
    Some(BudgetChange { micro_usd: Some(micro_usd), ..BudgetChange::default() })
}

#[test]
fn a_raised_budget_of_a_run_is_written_and_gives_room_to_what_waits_for_it() {
    let mut env = running(100, "a needs runner=claude\nb needs runner=claude");
    env.spend("box", "1/a#1", 0, 0, 90);
    env.spend("box", "1/a#1", 0, 90, 0);
    env.allowances.clear();
    env.spend("box", "1/b#1", 0, 0, 90);
    assert_eq!(env.allowance("1/b#1").filter(|told| told.micro_usd >= Some(90)), None);
    env.written();
    let answer = change(&mut env, "1", dollars(1_000));
    let Answer::BudgetSet { view, replaced: true } = answer else { panic!("{answer:?}") };
    assert_eq!((view.limit.micro_usd, view.limit.mode), (Some(1_000), BudgetMode::Hard));
    assert!(env.written().contains(&Write::Run(RunId(1))), "durable with the answer");
    assert!(env.allowance("1/b#1").and_then(|told| told.micro_usd) >= Some(90));
}

#[test]
fn a_budget_of_a_run_below_what_was_spent_is_used_up() {
    let mut env =
        running(1_000, "a needs runner=claude\nb needs runner=claude\nc needs runner=claude after a");
    env.done("box", "1/a#1", 400);
    env.spend("box", "1/b#1", 50, 50, 0);
    env.allowances.clear();
    let kept =
        change(&mut env, "1", Some(BudgetChange { tokens: Some(9_000_000), ..BudgetChange::default() }));
    let Answer::BudgetSet { view, .. } = kept else { panic!("{kept:?}") };
    assert_eq!(
        (view.limit.micro_usd, view.limit.tokens),
        (Some(1_000), Some(9_000_000)),
        "what is not said stays"
    );
    change(&mut env, "1", dollars(300));
    assert!(env.allowances.iter().any(|(key, told)| *key == env.attempt("1/b#1") && told.spent));
    assert!(matches!(env.retry("1", false), Answer::Refused(Refusal::OverBudget { .. })));
}

#[test]
fn a_run_that_its_budget_ended_is_tried_again_with_a_larger_one() {
    let mut env = Env::new();
    env.join("box", 1, CLAUDE);
    env.run_with(usd(100), FailurePolicy::Continue, "a needs runner=claude\nb needs runner=claude");
    env.report_as("box", "1/a#1", Outcome::BUDGET, |report| report.usage = cost(100));
    assert_eq!((env.state_of("1/a"), env.state_of("1/b")), ("failed", "failed"));
    change(&mut env, "1", dollars(500));
    assert!(matches!(env.retry("1", false), Answer::Retried { count: 2, .. }));
    let view = env.state.grant_view(env.attempt("1/a#2")).expect("granted");
    assert_eq!(
        view.allowance.and_then(|told| told.micro_usd),
        Some(50),
        "one of eight parts of what is left"
    );
    assert_eq!(view.own_budget, Some(OwnBudget { submitted: 100, becomes: Some(500) }), "a direct pool");
}

#[test]
fn without_its_budget_a_run_is_limited_by_nothing() {
    let mut env = running(100, "a needs runner=claude");
    env.spend("box", "1/a#1", 0, 0, 90);
    env.allowances.clear();
    assert!(matches!(change(&mut env, "1", None), Answer::BudgetRemoved));
    assert_eq!(env.allowance("1/a#1").map(|told| told.micro_usd), Some(None));
    assert!(env.budgets().is_empty());
    assert!(matches!(change(&mut env, "1", None), Answer::Refused(Refusal::NoSuchBudget { .. })));
}

#[test]
fn attempts_of_a_worker_are_counted_and_the_rest_waits() {
    let mut env = Env::new();
    env.join("box", 4, CLAUDE);
    env.set("three", BudgetScope::Worker("noop".into()), BudgetPeriod::Day, runs(3));
    env.submit("a needs runner=claude\nb needs runner=claude\nc needs runner=claude\nd needs runner=claude");
    let states = ["a", "b", "c", "d"].map(|task| env.state_of(&format!("1/{task}")));
    assert_eq!(states, ["leased", "leased", "leased", "queued"]);
    assert!(env.explain("1/d").0.starts_with("budget three: 3 of 3 attempts today"));
}

#[test]
fn a_budget_over_a_pool_holds_back_what_uses_it_and_nothing_else() {
    let mut env = Env::new();
    let pools = |name: &str| {
        let pool = orch_core::limits::AgentPool {
            name: name.into(),
            workers: Vec::new(),
            gateway: true,
            fingerprint: Vec::new(),
        };
        vec![pool]
    };
    env.join_as("one", 1, CLAUDE, |hello| hello.pools = pools("team"));
    env.set("team-day", BudgetScope::Pool("team".into()), BudgetPeriod::Day, usd(100));
    let meter = orch_core::limits::Meter { model_class: "opus".into(), pool: None, prefix: 0 };
    let metered = |submit: &mut orch_core::event::Submit| {
        for task in &mut submit.tasks {
            task.meter = Some(meter.clone());
        }
    };
    env.submit_as(metered, "a needs runner=claude\nb needs runner=claude\nc needs runner=claude");
    assert_eq!(env.state.task_record(env.key("1/a")).expect("live").pool.map(|pool| &**pool), Some("team"));
    env.done("one", "1/a#1", 100);
    assert_eq!([env.state_of("1/b"), env.state_of("1/c")], ["queued", "queued"]);
    let (summary, reasons, _) = env.explain("1/b");
    assert!(reasons.iter().any(|reason| reason.kind == "budget"), "{reasons:?}");
    assert!(summary.contains("budget team-day: $0.0001 of $0.0001 spent today"), "{summary}");
    env.join_as("two", 1, CLAUDE, |hello| hello.pools = pools("other"));
    assert_eq!(env.state_of("1/b"), "leased", "an agent with another pool");
    env.remove("team-day");
    assert_eq!(env.state_of("1/c"), "leased");
}
