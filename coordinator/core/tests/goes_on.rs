//! Retries that do not pay twice: what was cut off goes on in its conversation, on the agent that keeps it.
#![expect(clippy::expect_used, reason = "a test stops at what it did not expect")]

mod support;

use orch_core::event::{Event, HeldState};
use orch_core::ids::{AttemptNo, Epoch, RunId, TaskKey};
use orch_core::outcome::Outcome;
use orch_core::state::{State, TaskState};
use std::collections::BTreeMap;
use support::{API_ERROR, CRASH, Env, TIMEOUT, inventory, reload, tasks};

const CLAUDE: &str = "runner=claude";
const X: &str = "x needs runner=claude retries 9 repairs 1";

/// The attempt in whose conversation the current one of a task may go on, as `number agent outcome`.
fn goes_on(env: &mut Env, task: &str) -> Option<String> {
    let attempt = env.task(task).attempt;
    let attempt = env.attempt(&format!("{task}#{attempt}"));
    let view = env.state.grant_view(attempt).expect("it is held");
    let ended = view.interrupted?;
    Some(format!("{} {} {}", ended.number, ended.agent, ended.outcome.0))
}

#[test]
fn what_an_agent_lost_in_a_restart_goes_on_there_although_another_is_idle() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.accept("a", "1/x#1");
    assert_eq!(goes_on(&mut env, "1/x"), None, "there is nothing before the first");
    env.join("b", 1, CLAUDE);
    let x = env.key("1/x");
    env.sent();
    env.join_as("a", 1, CLAUDE, |hello| {
        hello.incarnation = [2; 16];
        hello.conversations = vec![x];
    });
    assert!(env.sent().ends_with("grant a 1/x#2"));
    assert_eq!(goes_on(&mut env, "1/x").as_deref(), Some("1 a 16"));
    // The same again: the third goes elsewhere, so that three crashes are on two agents.
    env.accept("a", "1/x#2");
    env.join_as("a", 1, CLAUDE, |hello| {
        hello.incarnation = [3; 16];
        hello.conversations = vec![x];
    });
    assert!(env.sent().ends_with("grant b 1/x#3"));
}

#[test]
fn a_lost_attempt_waits_a_moment_for_the_agent_that_keeps_its_conversation_and_is_busy() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.accept("a", "1/x#1");
    let x = env.key("1/x");
    env.drain("a", "drained by me");
    env.join("b", 1, CLAUDE);
    let other = env.submit("y needs runner=claude pin a");
    env.resume("a");
    env.join_as("a", 1, CLAUDE, |hello| {
        hello.incarnation = [2; 16];
        hello.conversations = vec![x];
    });
    // Its pinned task is first in its queue and takes the only slot; b is idle, and x waits all the same.
    assert!(env.sent().ends_with("welcome a\ngrant a 2/y#1"));
    assert_eq!((other, env.task("1/x").state), (2, TaskState::Queued));
    env.accept("a", "2/y#1");
    env.pass_with_heartbeats(25, &["a", "b"]);
    assert!(!env.sent().contains("1/x#2"));
    env.report("a", "2/y#1", Outcome::OK);
    assert!(env.sent().ends_with("grant a 1/x#2"));
    assert_eq!(goes_on(&mut env, "1/x").as_deref(), Some("1 a 16"));
}

#[test]
fn a_lost_attempt_does_not_wait_for_ever_for_the_agent_that_keeps_its_conversation() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.accept("a", "1/x#1");
    let x = env.key("1/x");
    env.submit("y needs runner=claude pin a");
    env.join("b", 1, CLAUDE);
    env.join_as("a", 1, CLAUDE, |hello| {
        hello.incarnation = [2; 16];
        hello.conversations = vec![x];
    });
    env.accept("a", "2/y#1");
    env.sent();
    env.pass_with_heartbeats(30, &["a", "b"]);
    assert!(env.sent().contains("grant b 1/x#2"), "affinity_wait is over");
}

#[test]
fn it_is_decided_by_the_last_ending_that_began_and_starts_over_where_that_is_the_point() {
    for (outcome, expected) in [
        (API_ERROR, Some("1 a 14")),
        (TIMEOUT, Some("1 a 11")),
        (Outcome(6), Some("1 a 6")),
        (Outcome::CANCELLED, Some("1 a 17")),
        (Outcome(5), None),
        (Outcome::SCHEMA_INVALID, None),
        (Outcome(4), None),
    ] {
        let mut env = Env::new();
        env.join("a", 1, CLAUDE);
        env.submit(X);
        env.report("a", "1/x#1", outcome);
        env.retry("1/x", false);
        assert_eq!(goes_on(&mut env, "1/x").as_deref(), expected, "{outcome:?}");
        // What could not be started left the conversation as it was.
        env.report("a", "1/x#2", Outcome::SPAWN_FAILED);
        env.retry("1/x", false);
        assert_eq!(goes_on(&mut env, "1/x").as_deref(), expected, "{outcome:?}");
    }
}

#[test]
fn feedback_is_told_instead() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.report("a", "1/x#1", Outcome::GATE_FAILED);
    env.report("a", "1/x#2", API_ERROR);
    env.retry("1/x", false);
    let attempt = env.attempt("1/x#3");
    let view = env.state.grant_view(attempt).expect("it is held");
    assert!(view.sent_back && view.interrupted.is_none(), "{view:?}");
}

#[test]
fn a_retry_of_what_failed_goes_on_and_one_from_a_task_starts_over_also_after_a_restart() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.report("a", "1/x#1", TIMEOUT);
    env.retry("1", false);
    assert_eq!(goes_on(&mut env, "1/x").as_deref(), Some("1 a 11"));
    env.report("a", "1/x#2", TIMEOUT);
    env.retry_from("1", "x");
    assert_eq!(goes_on(&mut env, "1/x"), None);
    let specs = BTreeMap::from([(RunId(1), tasks(X))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    assert_eq!(goes_on(&mut again, "1/x"), None);
    env.report("a", "1/x#3", API_ERROR);
    env.retry("1/x", false);
    assert_eq!(goes_on(&mut env, "1/x").as_deref(), Some("3 a 14"), "what came after it counts");
}

#[test]
fn a_conversation_that_crashed_three_times_in_a_row_is_not_gone_on_with() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    for attempt in 1..=4 {
        let expected = (1..4).contains(&(attempt - 1)).then(|| format!("{} a 15", attempt - 1));
        let expected = expected.filter(|_| attempt < 4);
        assert_eq!(goes_on(&mut env, "1/x"), expected, "attempt {attempt}");
        env.report("a", &format!("1/x#{attempt}"), CRASH);
        env.retry("1/x", false);
    }
}

#[test]
fn the_latest_attempt_tells_who_keeps_the_conversation_not_an_older_one() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.accept("a", "1/x#1");
    env.leave("a");
    env.join("b", 1, CLAUDE);
    env.pass_with_heartbeats(30, &["b"]);
    env.accept("b", "1/x#2");
    let x = TaskKey { run: RunId(1), ..env.key("1/x") };
    let old = env.attempt("1/x#1");
    env.join_as("a", 1, CLAUDE, |hello| {
        hello.conversations = vec![x];
        hello.inventory = inventory(&[(old, HeldState::Running)]);
    });
    env.heartbeat("a", &[]);
    env.sent();
    env.report("b", "1/x#2", API_ERROR);
    env.retry("1/x", false);
    assert!(env.sent().ends_with("grant b 1/x#3"));
    assert_eq!(goes_on(&mut env, "1/x").as_deref(), Some("2 b 14"));
}

#[test]
fn whoever_asks_is_told_where_it_goes_on() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.report("a", "1/x#1", TIMEOUT);
    env.retry("1/x", false);
    env.accept("a", "1/x#2");
    let summary = env.explain("1/x").0;
    assert_eq!(summary, "runs on a for 0 s (attempt 2, goes on in the conversation of attempt 1)");
    // Elsewhere there is nothing to go on in.
    env.join("b", 1, CLAUDE);
    env.leave("a");
    env.pass_with_heartbeats(30, &["b"]);
    env.accept("b", "1/x#3");
    assert!(!env.explain("1/x").0.contains("goes on"));
}

/// Found by the model: the attempt was given back, so nothing of it but its number is kept.
#[test]
fn where_a_run_went_back_to_survives_a_restart_also_of_a_task_that_never_began() {
    let mut env = Env::new();
    env.join("a", 1, CLAUDE);
    env.submit(X);
    env.reject("a", "1/x#1");
    env.cancel("1");
    env.retry_from("1", "x");
    let x = env.key("1/x");
    let specs = BTreeMap::from([(RunId(1), tasks(X))]);
    let again = reload(&env.state, &specs);
    let afresh = |state: &State| state.task_record(x).expect("a task").afresh;
    assert_eq!((afresh(&env.state), afresh(&again)), (AttemptNo(1), AttemptNo(1)));
}
