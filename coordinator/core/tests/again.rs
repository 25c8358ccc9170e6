//! Another try that a person asks for: from a task downwards, and asked twice.

mod support;

use orch_core::effect::Write;
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Refusal};
use orch_core::time::Span;
use support::*;

fn states(env: &mut Env, tasks: &[&str]) -> Vec<&'static str> {
    tasks.iter().map(|task| env.state_of(task)).collect()
}

/// A run of a diamond that succeeded: `a`, then `b` and `c`, then `d`; `e` by itself.
fn diamond() -> Env {
    let mut env = Env::new();
    env.join("box-1", 9, "runner=noop");
    env.submit("a\nb after a\nc after a\nd after b,c\ne");
    for task in ["a", "e", "b", "c", "d"] {
        env.report("box-1", &format!("1/{task}#1"), Outcome::OK);
    }
    assert_eq!(env.run(1).state.word(), "succeeded");
    env.sent();
    env
}

#[test]
fn a_run_goes_back_to_a_task_and_everything_below_it() {
    let mut env = diamond();
    let Answer::Retried { run, count, existing } = env.retry_from("1", "b") else { panic!("not retried") };
    assert_eq!((run.state.word(), count, existing), ("running", 2, false));
    assert_eq!(
        states(&mut env, &["1/a", "1/b", "1/c", "1/d", "1/e"]),
        ["succeeded", "leased", "succeeded", "blocked", "succeeded"]
    );
    assert_eq!(env.sent(), "grant box-1 1/b#2", "attempt numbers go on");
    let history = |env: &Env, task: &str| {
        let record = env.state.task_record(env.key(task)).expect("a task");
        record.attempts.iter().map(|ended| (ended.number.0, ended.outcome)).collect::<Vec<_>>()
    };
    assert_eq!(history(&env, "1/b"), [(1, Outcome::OK)], "earlier attempts stay");
    env.report("box-1", "1/b#1", TIMEOUT);
    assert_eq!(env.sent(), "verdict box-1 1/b#1 conflict", "and so does what was recorded of them");
    env.report("box-1", "1/b#2", Outcome::OK);
    env.report("box-1", "1/d#2", Outcome::OK);
    assert_eq!(history(&env, "1/b"), [(1, Outcome::OK), (2, Outcome::OK)]);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn going_back_to_the_root_waits_in_the_order_of_the_graph() {
    let mut env = diamond();
    let Answer::Retried { count, .. } = env.retry_from("1", "a") else { panic!("not retried") };
    assert_eq!(count, 4);
    assert_eq!(states(&mut env, &["1/a", "1/b", "1/c", "1/d"]), ["leased", "blocked", "blocked", "blocked"]);
    env.report("box-1", "1/a#2", Outcome::OK);
    assert_eq!(states(&mut env, &["1/b", "1/c", "1/d"]), ["leased", "leased", "blocked"]);
    env.report("box-1", "1/b#2", TIMEOUT);
    assert_eq!(states(&mut env, &["1/c", "1/d"]), ["leased", "skipped"]);
    env.report("box-1", "1/c#2", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "failed");
    let Answer::Retried { count, .. } = env.retry_from("1", "c") else { panic!("not retried") };
    assert_eq!(count, 1, "d stays skipped: b holds it back");
    env.report("box-1", "1/c#3", Outcome::OK);
    let Answer::Retried { count, .. } = env.retry_from("1", "b") else { panic!("not retried") };
    assert_eq!(count, 2);
    env.report("box-1", "1/b#3", Outcome::OK);
    env.report("box-1", "1/d#2", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn only_a_run_that_ended_goes_back_and_only_to_a_task_it_has() {
    let mut env = Env::new();
    env.join("box-1", 2, "runner=noop");
    env.submit("first retries 0\nsecond after first");
    let Answer::Refused(refusal) = env.retry_from("1", "first") else { panic!("retried") };
    assert_eq!(
        refusal.to_string(),
        "adhoc/1 is running: only a run that ended can go back to a task: wait for its end, or cancel it"
    );
    env.report("box-1", "1/first#1", TIMEOUT);
    let Answer::Refused(refusal) = env.retry_from("1", "second") else { panic!("retried") };
    assert_eq!(refusal.to_string(), "adhoc/1/second is skipped: it waits for first: retry that first");
    let Answer::Refused(Refusal::NoSuchTask { nearest, .. }) = env.retry_from("1", "fist") else {
        panic!("retried")
    };
    assert_eq!(nearest, ["first"]);
}

#[test]
fn a_repeated_request_is_answered_as_the_first_was_and_does_nothing() {
    let mut env = diamond();
    let ask =
        |env: &mut Env, key: &str, digest| env.retry_as(target_of("1"), false, Some("b"), key, [digest; 32]);
    assert!(matches!(ask(&mut env, "key", 1), Answer::Retried { count: 2, existing: false, .. }));
    assert!(env.written().iter().any(|write| matches!(write, Write::Request { .. })));
    env.sent();
    assert!(matches!(ask(&mut env, "key", 1), Answer::Retried { count: 2, existing: true, .. }));
    assert!(matches!(ask(&mut env, "key", 2), Answer::Refused(Refusal::RequestIdConflict { .. })));
    assert_eq!(env.sent(), "");
    assert!(env.written().is_empty());
    let answer = env.submit_as(|submit| submit.request_id = "key".into(), "a");
    assert!(matches!(answer, Answer::Refused(Refusal::RequestIdConflict { .. })), "{answer:?}");
    env.submit_as(|submit| submit.request_id = "other".into(), "a");
    assert!(matches!(ask(&mut env, "other", 7), Answer::Refused(Refusal::RequestIdConflict { .. })));
}

#[test]
fn a_request_id_is_forgotten_after_its_time_and_its_record_deleted() {
    let mut env = diamond();
    env.retry_as(target_of("1"), false, Some("b"), "key", [1; 32]);
    env.written();
    env.pass(Span::days(7));
    let forgotten = |write: &Write| matches!(write, Write::ForgetRequest { id, .. } if &**id == "key");
    assert_eq!(env.written().iter().filter(|write| forgotten(write)).count(), 1);
}

#[test]
fn a_refused_request_is_not_remembered() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=noop");
    env.submit("a");
    let ask = |env: &mut Env| env.retry_as(target_of("1"), false, Some("a"), "key", [1; 32]);
    assert!(matches!(ask(&mut env), Answer::Refused(Refusal::WrongState { .. })));
    env.report("box-1", "1/a#1", Outcome::OK);
    assert!(matches!(ask(&mut env), Answer::Retried { count: 1, existing: false, .. }));
}
