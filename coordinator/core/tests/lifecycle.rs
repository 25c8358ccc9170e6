//! The life of tasks and runs: what a sequence of events sends, and in what state it ends.

mod support;

use orch_core::event::HeldState;
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Refusal};
use orch_core::time::Span;
use support::*;

const NOOP: &str = "runner=noop";

#[test]
fn a_task_is_granted_accepted_and_recorded_once() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    assert_eq!(env.sent(), "welcome box-1");
    env.submit("a needs runner=noop");
    assert_eq!(env.sent(), "grant box-1 1/a#1");
    env.accept("box-1", "1/a#1");
    assert_eq!(env.state_of("1/a"), "running");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.sent(), "verdict box-1 1/a#1 recorded");
    assert_eq!(env.run(1).state.word(), "succeeded");
    assert_eq!(
        env.told(),
        "box-1 ready\nadhoc/1 running\nadhoc/1/a leased #1 box-1\nadhoc/1/a running #1 box-1\n\
         adhoc/1/a succeeded #1 box-1\nadhoc/1 succeeded"
    );
}

#[test]
fn a_report_may_come_before_the_acceptance() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded");
    env.sent();
    env.accept("box-1", "1/a#1");
    assert_eq!(env.sent(), "stop box-1 1/a#1 fenced");
    assert_eq!(env.state_of("1/a"), "succeeded");
}

#[test]
fn a_repeated_report_is_recorded_and_a_contradicting_one_a_conflict() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.report("box-1", "1/a#1", Outcome::OK);
    env.sent();
    env.report("box-1", "1/a#1", Outcome::OK);
    env.report("box-1", "1/a#1", CRASH);
    assert_eq!(env.sent(), "verdict box-1 1/a#1 recorded\nverdict box-1 1/a#1 conflict");
    assert_eq!(env.task("1/a").cost_micro_usd, 1_000, "a repetition is not paid twice");
}

#[test]
fn reports_of_older_attempts_other_agents_and_cancelled_tasks_are_fenced() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.join("box-2", 1, NOOP);
    env.submit("a");
    env.accept("box-1", "1/a#1");
    env.report("box-2", "1/a#1", Outcome::OK);
    env.leave("box-1");
    env.pass_with_heartbeats(30, &["box-2"]);
    env.accept("box-2", "1/a#2");
    env.join("box-1", 1, NOOP);
    env.sent();
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.sent(), "verdict box-1 1/a#1 fenced");
    env.cancel("1");
    env.sent();
    env.report("box-2", "1/a#2", Outcome::OK);
    assert_eq!(env.sent(), "verdict box-2 1/a#2 fenced");
    assert_eq!(env.state_of("1/a"), "cancelled");
}

#[test]
fn dependents_become_ready_one_by_one_and_the_run_succeeds_with_the_last() {
    let mut env = Env::new();
    env.join("box-1", 4, NOOP);
    env.submit("a\nb after a\nc after a\nd after b,c");
    assert_eq!(env.sent(), "welcome box-1\ngrant box-1 1/a#1");
    env.report("box-1", "1/a#1", Outcome::OK);
    env.report("box-1", "1/b#1", Outcome::OK);
    assert_eq!(env.state_of("1/d"), "blocked");
    env.report("box-1", "1/c#1", Outcome::OK);
    env.report("box-1", "1/d#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn a_failed_task_skips_what_waits_for_it_and_the_rest_goes_on() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 0\nb after a\nc after b\nd");
    env.report("box-1", "1/a#1", TIMEOUT);
    assert_eq!(
        [env.state_of("1/a"), env.state_of("1/b"), env.state_of("1/c")],
        ["failed", "skipped", "skipped"]
    );
    assert_eq!(&*env.task("1/c").detail, "it waits for b, which was skipped");
    assert_eq!(env.run(1).state.word(), "running");
    env.report("box-1", "1/d#1", Outcome::OK);
    let run = env.run(1);
    assert_eq!((run.state.word(), run.outcome), ("failed", Some(TIMEOUT)));
}

#[test]
fn retryable_outcomes_are_tried_again_after_a_growing_delay_until_retries_are_used() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 2");
    let mut delays = Vec::new();
    for attempt in 1..=3 {
        env.report("box-1", &format!("1/a#{attempt}"), API_ERROR);
        let task = env.task("1/a");
        if let Some(delay) = task.retry_in {
            delays.push(delay.0);
            env.pass_with_heartbeats(delay.0.div_ceil(1_000) + 5, &["box-1"]);
        }
    }
    assert_eq!(env.state_of("1/a"), "failed");
    assert_eq!(env.task("1/a").attempt, 3);
    assert!((2_500..=5_000).contains(&delays[0]) && (5_000..=10_000).contains(&delays[1]), "{delays:?}");
}

#[test]
fn a_report_that_knows_when_to_come_back_is_believed_within_reason() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a\nb");
    env.report_as("box-1", "1/a#1", Outcome(6), |report| report.retry_after = Some(Span::hours(3)));
    let waits = env.task("1/a").retry_in.expect("waits");
    assert!(waits >= Span::hours(3) && waits <= Span::hours(4), "{waits:?}");
    env.report_as("box-1", "1/b#1", Outcome(6), |report| report.retry_after = Some(Span(u64::MAX)));
    let waits = env.task("1/b").retry_in.expect("waits");
    assert!(waits >= Span::days(8) && waits <= Span::days(9), "{waits:?}");
}

#[test]
fn an_outcome_that_is_not_retryable_fails_at_once() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 5");
    env.report("box-1", "1/a#1", TIMEOUT);
    assert_eq!(env.state_of("1/a"), "failed");
}

#[test]
fn three_crashes_on_two_agents_are_poison_however_many_retries_are_left() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.join("box-2", 1, NOOP);
    env.submit("a retries 100");
    let (first, attempt) = env.pass_until_granted("1/a", &[]);
    env.report(&first, &attempt, CRASH);
    env.leave(&first);
    let other = if first == "box-1" { "box-2" } else { "box-1" };
    for _ in 0..2 {
        let (agent, attempt) = env.pass_until_granted("1/a", &[other]);
        env.report(&agent, &attempt, CRASH);
    }
    let task = env.task("1/a");
    assert_eq!((task.state.word(), task.outcome), ("failed", Some(Outcome::POISON)));
}

#[test]
fn on_a_fleet_of_one_the_fifth_crash_is_poison() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 100");
    for _ in 1..=5 {
        let (_, attempt) = env.pass_until_granted("1/a", &["box-1"]);
        env.report("box-1", &attempt, CRASH);
    }
    let task = env.task("1/a");
    assert_eq!((task.state.word(), task.outcome, task.attempt), ("failed", Some(Outcome::POISON), 5));
}

#[test]
fn a_person_who_retries_poison_gives_it_a_clean_slate() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 100");
    for _ in 1..=5 {
        let (_, attempt) = env.pass_until_granted("1/a", &["box-1"]);
        env.report("box-1", &attempt, CRASH);
    }
    env.retry("1/a", false);
    env.report("box-1", "1/a#6", CRASH);
    assert_eq!(env.state_of("1/a"), "waiting_retry");
}

#[test]
fn a_lost_agent_does_not_use_up_retries() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 0");
    env.accept("box-1", "1/a#1");
    env.report("box-1", "1/a#1", Outcome::LOST_AGENT);
    assert_eq!(env.state_of("1/a"), "leased");
    env.report("box-1", "1/a#2", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded");
}

#[test]
fn a_recorded_report_repeated_by_another_agent_is_fenced() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.join("box-2", 1, NOOP);
    env.submit("a");
    env.report("box-1", "1/a#1", Outcome::OK);
    env.sent();
    env.report("box-2", "1/a#1", Outcome::OK);
    assert_eq!(env.sent(), "verdict box-2 1/a#1 fenced");
}

#[test]
fn a_lost_attempt_leaves_every_retry_to_later_failures() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 1");
    env.report("box-1", "1/a#1", Outcome::LOST_AGENT);
    env.report("box-1", "1/a#2", API_ERROR);
    assert_eq!(env.state_of("1/a"), "waiting_retry");
}

#[test]
fn cancelling_a_run_ends_it_at_once_wherever_its_tasks_are() {
    let mut env = Env::new();
    env.join("box-1", 2, NOOP);
    env.submit("running\nleased\nqueued\nblocked after queued");
    env.accept("box-1", "1/running#1");
    env.sent();
    let Answer::Cancelled { run, count } = env.cancel("1") else { panic!("not cancelled") };
    assert_eq!((run.state.word(), count), ("cancelled", 4));
    assert_eq!(env.sent(), "stop box-1 1/running#1 cancelled\nstop box-1 1/leased#1 cancelled");
    let Answer::Cancelled { count, .. } = env.cancel("1") else { panic!("a repetition is fine") };
    assert_eq!(count, 0);
}

#[test]
fn cancelling_a_task_skips_what_waits_for_it() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a\nb after a\nc");
    env.cancel("1/a");
    assert_eq!([env.state_of("1/a"), env.state_of("1/b")], ["cancelled", "skipped"]);
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.state_of("1/c"), "leased", "the slot is free once the agent reported");
    env.report("box-1", "1/c#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "cancelled");
}

#[test]
fn a_stopped_attempt_keeps_its_slot_until_the_agent_no_longer_lists_it() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.accept("box-1", "1/a#1");
    env.cancel("1/a");
    env.submit("b");
    env.sent();
    env.heartbeat("box-1", &["1/a#1"]);
    assert_eq!(env.sent(), "ack box-1 unknown 1/a#1");
    env.heartbeat("box-1", &[]);
    assert_eq!(env.sent(), "ack box-1\ngrant box-1 2/b#1");
}

#[test]
fn ended_things_are_not_cancelled() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert!(matches!(env.cancel("1"), Answer::Refused(Refusal::WrongState { .. })));
    assert!(matches!(env.cancel("1/a"), Answer::Refused(Refusal::WrongState { .. })));
}

#[test]
fn retrying_a_run_reopens_what_failed_was_cancelled_or_skipped() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 0\nb after a\nc");
    env.report("box-1", "1/a#1", TIMEOUT);
    env.report("box-1", "1/c#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "failed");
    let Answer::Retried { run, count, .. } = env.retry("1", false) else { panic!("not retried") };
    assert_eq!((run.state.word(), count), ("running", 2));
    assert_eq!(
        [env.state_of("1/a"), env.state_of("1/b"), env.state_of("1/c")],
        ["leased", "blocked", "succeeded"]
    );
    env.report("box-1", "1/a#2", Outcome::OK);
    env.report("box-1", "1/b#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
    assert!(matches!(env.retry("1", false), Answer::Refused(Refusal::WrongState { .. })));
}

#[test]
fn retrying_one_task_leaves_skipped_what_another_failure_holds_back() {
    let mut env = Env::new();
    env.join("box-1", 2, NOOP);
    env.submit("a retries 0\nb retries 0\nboth after a,b\nonly after a");
    env.report("box-1", "1/a#1", TIMEOUT);
    env.report("box-1", "1/b#1", TIMEOUT);
    let Answer::Retried { count, .. } = env.retry("1/a", false) else { panic!("not retried") };
    assert_eq!(count, 2);
    assert_eq!([env.state_of("1/both"), env.state_of("1/only")], ["skipped", "blocked"]);
    let Answer::Refused(refusal) = env.retry("1/both", false) else { panic!("retried") };
    assert_eq!(refusal.to_string(), "adhoc/1/both is skipped: it waits for b: retry that first");
}

#[test]
fn a_waiting_retry_can_be_hurried() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.report("box-1", "1/a#1", API_ERROR);
    env.retry("1/a", false);
    assert_eq!(env.state_of("1/a"), "leased");
}

#[test]
fn force_takes_an_attempt_from_an_unreachable_agent_only() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a wait");
    env.accept("box-1", "1/a#1");
    assert!(matches!(env.retry("1/a", true), Answer::Refused(Refusal::WrongState { .. })));
    env.leave("box-1");
    assert!(matches!(env.retry("1/a", false), Answer::Refused(Refusal::WrongState { .. })));
    env.join("box-2", 1, NOOP);
    env.sent();
    env.retry("1/a", true);
    assert_eq!(env.sent(), "grant box-2 1/a#2");
    let old = env.attempt("1/a#1");
    env.join_as("box-1", 1, NOOP, |hello| hello.inventory = inventory(&[(old, HeldState::Running)]));
    assert_eq!(env.sent(), "welcome box-1 cancel 1/a#1");
}

#[test]
fn agents_that_are_stopped_on_purpose_make_no_poison() {
    let mut env = Env::new();
    env.submit("a retries 0");
    for attempt in 1..=6 {
        let session = env.join("box-1", 1, "");
        env.accept("box-1", &format!("1/a#{attempt}"));
        env.apply(orch_core::event::Event::AgentDraining { session });
        env.report("box-1", &format!("1/a#{attempt}"), Outcome::LOST_AGENT);
        assert_eq!(env.state_of("1/a"), "queued", "after {attempt} stops");
        env.leave("box-1");
    }
    env.join("box-1", 1, "");
    env.report("box-1", "1/a#7", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded");
}
