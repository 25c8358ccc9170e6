//! Moments that come together, and clocks that show anything: what must not depend on either.

mod support;

use orch_core::event::{Event, HeldState};
use orch_core::ids::{AttemptKey, AttemptNo};
use orch_core::outcome::Outcome;
use orch_core::query::AgentStateView;
use orch_core::time::{Span, Wall};
use support::*;

const NOOP: &str = "runner=noop";

/// `1/a` runs on `box-1`, whose stream has ended; `box-2` would take it over.
fn about_to_be_lost() -> Env {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.accept("box-1", "1/a#1");
    env.join("box-2", 1, NOOP);
    env.sent();
    env
}

#[test]
fn a_report_and_the_end_of_its_lease_in_one_millisecond_have_one_winner() {
    // 25 s of silence end the lease of fast work: a millisecond before, at the very one, and after.
    for (before, recorded) in [(1, true), (0, false)] {
        let mut env = about_to_be_lost();
        for _ in 0..4 {
            env.pass_seconds(5);
            env.heartbeat_all("box-2");
        }
        env.pass(Span(5_000 - before));
        env.sent();
        env.report("box-1", "1/a#1", Outcome::OK);
        let said = env.sent();
        assert_eq!(said.contains("recorded"), recorded, "{before} ms before: {said}");
        assert_eq!(said.contains("fenced"), !recorded, "{before} ms before: {said}");
        let task = env.task("1/a");
        assert_eq!(task.attempt, if recorded { 1 } else { 2 }, "{before} ms before");
        if !recorded {
            env.accept("box-2", "1/a#2");
        }
        // Whatever came first, the other changes nothing more.
        env.pass_with_heartbeats(60, &["box-2"]);
        assert_eq!(env.task("1/a").attempt, task.attempt);
    }
}

#[test]
fn wall_clocks_that_jump_change_nothing_but_what_is_shown() {
    const DAY: i64 = 86_400_000;
    let mut stories = Vec::new();
    for jump in [
        0,
        DAY,
        -DAY,
        365 * DAY,
        -365 * DAY,
        i64::MIN / 4,
        i64::MAX / 4,
        -1_700_000_000_000,
        2_600_000_000_000,
    ] {
        let mut env = Env::new();
        env.join("box-1", 1, NOOP);
        env.submit("a retries 1\nb after a");
        env.accept("box-1", "1/a#1");
        let shift = |env: &mut Env| env.now.wall = Wall(env.now.wall.0.saturating_add(jump));
        shift(&mut env);
        env.pass_with_heartbeats(10, &["box-1"]);
        assert_eq!(env.agent("box-1").state, AgentStateView::Ready, "{jump}");
        env.report("box-1", "1/a#1", API_ERROR);
        shift(&mut env);
        let (_, again) = env.pass_until_granted("1/a", &["box-1"]);
        env.accept("box-1", &again);
        env.now.wall = Wall(1_700_000_000_000);
        env.report("box-1", &again, Outcome::OK);
        env.pass_with_heartbeats(5, &["box-1"]);
        assert_eq!(env.state_of("1/b"), "leased", "{jump}");
        stories.push((env.now.tick, env.sent()));
    }
    assert!(stories.iter().all(|story| *story == stories[0]), "every clock tells the same story");
}

/// `1/a` is the second attempt on `box-1`; the first was rejected by it.
fn second_attempt() -> Env {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.reject("box-1", "1/a#1");
    let (agent, attempt) = env.pass_until_granted("1/a", &["box-1"]);
    assert_eq!((&*agent, &*attempt), ("box-1", "1/a#2"));
    env.accept("box-1", "1/a#2");
    env.sent();
    env
}

#[test]
fn attempt_numbers_that_were_never_given_out_are_cancelled_and_raise_nothing() {
    let mut env = second_attempt();
    // Descending, with numbers from below the first to beyond the last, and one attempt twice.
    let numbers = [u32::MAX, u32::MAX - 1, 3, 2, 2, 1, 0];
    let key = |number| AttemptKey { task: env.key("1/a"), attempt: AttemptNo(number) };
    let held: Vec<_> = numbers.iter().map(|number| (key(*number), HeldState::Running)).collect();
    let listed: Vec<_> = held.iter().map(|(attempt, _)| *attempt).collect();
    env.leave("box-1");
    env.sent();
    env.join_as("box-1", 1, NOOP, |hello| hello.inventory = inventory(&held));
    assert_eq!(
        env.sent(),
        "welcome box-1 cancel 1/a#4294967295, cancel 1/a#4294967294, cancel 1/a#3, keep 1/a#2, keep 1/a#2, \
         cancel 1/a#1, cancel 1/a#0"
    );
    env.heartbeat_keys("box-1", listed);
    assert_eq!(
        env.sent(),
        "ack box-1 unknown 1/a#4294967295, unknown 1/a#4294967294, unknown 1/a#3, unknown 1/a#1, unknown 1/a#0"
    );
    for (attempt, _) in &held {
        if attempt.attempt != AttemptNo(2) {
            let event = Event::AttemptAccepted { session: env.session("box-1"), attempt: *attempt };
            env.apply(event);
            assert!(env.sent().ends_with("fenced"), "{attempt}");
        }
    }
    assert_eq!((env.state_of("1/a"), env.task("1/a").attempt), ("running", 2));
    env.report("box-1", "1/a#2", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded");
}

#[test]
fn an_acceptance_that_comes_twice_or_late_is_harmless() {
    let mut env = second_attempt();
    env.written();
    env.told();
    env.accept("box-1", "1/a#2");
    assert_eq!((env.sent(), env.told(), env.written().len()), (String::new(), String::new(), 0));
    env.report("box-1", "1/a#2", Outcome::OK);
    env.sent();
    env.accept("box-1", "1/a#2");
    assert_eq!(env.sent(), "stop box-1 1/a#2 fenced");
    assert_eq!(env.state_of("1/a"), "succeeded");
}

#[test]
fn words_after_the_end_of_a_lease_bring_nothing_back() {
    let mut env = about_to_be_lost();
    env.pass_with_heartbeats(25, &["box-2"]);
    assert_eq!((env.task("1/a").attempt, &*env.task("1/a").agent), (2, "box-2"));
    env.join("box-1", 1, NOOP);
    env.sent();
    env.heartbeat("box-1", &["1/a#1"]);
    assert_eq!(env.sent(), "ack box-1 unknown 1/a#1");
    env.accept("box-1", "1/a#1");
    assert_eq!(env.sent(), "stop box-1 1/a#1 fenced");
    env.reject("box-1", "1/a#1");
    env.reject("box-1", "1/a#2");
    assert_eq!(
        (env.task("1/a").attempt, &*env.task("1/a").agent, env.state_of("1/a")),
        (2, "box-2", "leased")
    );
    env.report("box-1", "1/a#2", Outcome::OK);
    assert!(env.sent().contains("fenced"), "the number of another's attempt");
    assert_eq!(env.state_of("1/a"), "leased");
}
