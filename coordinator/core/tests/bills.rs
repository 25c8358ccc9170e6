//! What an attempt cost that was cancelled or lost: the last heartbeat's word until the report of its end comes, which is
//! fenced.

mod support;

use orch_core::effect::Write;
use orch_core::event::Event;
use orch_core::ids::{Epoch, RunId, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::usage::{ModelUsage, Usage};
use std::collections::BTreeMap;
use support::*;

const NOOP: &str = "runner=noop";

/// What the agent knows of it at the end.
fn exact(cost_micro_usd: u64) -> Usage {
    let row = ModelUsage {
        model: "sonnet".into(),
        input: 100,
        output: 20,
        cache_read: 0,
        cache_write: 0,
        cost_micro_usd,
    };
    Usage { models: vec![row], cost_micro_usd, estimated: false }
}

/// Two running tasks of one run, of which nothing was said yet.
fn two_running() -> Env {
    let mut env = Env::new();
    env.join("box-1", 2, NOOP);
    env.submit("a\nb");
    env.accept("box-1", "1/a#1");
    env.accept("box-1", "1/b#1");
    env.sent();
    env
}

fn billed(env: &mut Env, agent: &str, cost_micro_usd: u64) {
    env.report_as(agent, "1/a#1", Outcome::CANCELLED, |report| report.usage = exact(cost_micro_usd));
}

fn usage(env: &mut Env) -> (u64, Usage, Usage) {
    let key = env.key("1/a");
    let (Some(task), Some(run)) = (env.state.task_record(key), env.state.run_record(key.run)) else {
        panic!("1/a is not live")
    };
    (task.attempts[0].cost_micro_usd, task.usage.clone(), run.usage.clone())
}

#[test]
fn the_late_report_of_a_cancelled_attempt_brings_its_bill_and_nothing_else() {
    let mut env = two_running();
    env.cancel("1/a");
    assert_eq!(usage(&mut env), (0, Usage::default(), Usage::default()));
    env.sent();
    env.told();
    env.written();
    billed(&mut env, "box-1", 1_200);
    assert_eq!(env.sent(), "verdict box-1 1/a#1 fenced");
    assert_eq!(usage(&mut env), (1_200, exact(1_200), exact(1_200)));
    let task = env.task("1/a");
    assert_eq!((task.state.word(), task.outcome, task.attempt), ("cancelled", Some(Outcome::CANCELLED), 1));
    let key = env.key("1/a");
    let written = env.written();
    assert!(written.contains(&Write::Task { task: key, payload: None }), "no answer is kept: {written:?}");
    assert!(written.contains(&Write::Run(key.run)), "{written:?}");
    assert!(env.told().contains("running"), "watchers of the run hear of its bill");
}

#[test]
fn the_exact_figure_takes_the_place_of_the_estimate_once() {
    let mut env = two_running();
    env.heartbeat("box-1", &["1/a#1", "1/b#1"]);
    env.cancel("1");
    assert_eq!(usage(&mut env).1, Usage::estimate(500));
    billed(&mut env, "box-1", 1_200);
    let after = usage(&mut env);
    assert_eq!((after.0, &after.1, after.2.cost_micro_usd), (1_200, &exact(1_200), 1_700));
    assert!(after.2.estimated, "the other task's bill is open");
    env.told();
    env.written();
    billed(&mut env, "box-1", 1_200);
    billed(&mut env, "box-1", 9_999);
    assert_eq!(usage(&mut env), after);
    assert_eq!((env.told(), env.written()), (String::new(), Vec::new()));
    env.report_as("box-1", "1/b#1", Outcome::CANCELLED, |report| report.usage = exact(300));
    let run = usage(&mut env).2;
    assert_eq!((run.cost_micro_usd, run.estimated), (1_500, false));
}

#[test]
fn a_run_that_ended_is_billed_in_silence() {
    let mut env = two_running();
    env.cancel("1");
    env.told();
    billed(&mut env, "box-1", 1_200);
    assert_eq!(usage(&mut env).2, exact(1_200));
    assert_eq!(env.told(), "", "its end was told, once");
}

#[test]
fn a_bill_of_nothing_is_not_written() {
    let mut env = two_running();
    env.cancel("1/a");
    env.written();
    env.report_as("box-1", "1/a#1", Outcome::CANCELLED, |report| report.usage = Usage::default());
    assert_eq!(env.written(), Vec::new());
}

#[test]
fn only_the_attempt_that_ended_without_a_report_is_billed_and_only_by_its_agent() {
    let mut env = two_running();
    env.join("box-2", 1, NOOP);
    env.cancel("1/a");
    billed(&mut env, "box-2", 1_200);
    assert_eq!(usage(&mut env).0, 0, "another agent");
    env.leave("box-1");
    env.pass_with_heartbeats(30, &["box-2"]);
    assert_eq!(env.task("1/b").attempt, 2, "lost, not cancelled");
    env.join("box-1", 2, NOOP);
    env.report_as("box-1", "1/b#1", Outcome::OK, |report| report.usage = exact(1_200));
    assert_eq!(env.task("1/b").cost_micro_usd, 1_200, "its answer is not taken, what it cost is");
    assert_eq!(env.task("1/b").attempt, 2);
    env.report_as("box-1", "1/b#1", Outcome::OK, |report| report.usage = exact(1_200));
    assert_eq!(env.task("1/b").cost_micro_usd, 1_200, "once");
}

#[test]
fn a_bill_comes_also_after_another_try_began_and_after_a_restart() {
    let mut env = two_running();
    env.cancel("1/a");
    env.retry("1/a", false);
    let specs = BTreeMap::from([(RunId(1), tasks("a\nb"))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    again.join("box-1", 2, NOOP);
    billed(&mut again, "box-1", 1_200);
    assert_eq!(usage(&mut again), (1_200, exact(1_200), exact(1_200)));
    let key: TaskKey = again.key("1/a");
    assert!(!again.state.task_record(key).expect("a live task").state.is_terminal(), "the new try goes on");
}
