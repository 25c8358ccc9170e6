//! Tasks that are judged, conditional, limited in number or ended together.

mod support;

use orch_core::effect::Write;
use orch_core::event::{Consultation, FailurePolicy};
use orch_core::ids::RunId;
use orch_core::outcome::Outcome;
use orch_core::query::Answer;
use std::collections::BTreeMap;
use std::sync::Arc;
use support::*;

const REVIEWED: &str = "t reviewed repairs 1 needs runner=claude\nr reviews t\nnext after t";

fn with_slots(slots: u32) -> Env {
    let mut env = Env::new();
    env.join("box-1", slots, "runner=claude");
    env
}

fn states(env: &mut Env, tasks: &str) -> String {
    tasks.split(' ').map(|task| env.state_of(&format!("1/{task}"))).collect::<Vec<_>>().join(" ")
}

fn restarted(env: &Env, lines: &str) -> Env {
    let mut again = Env::unstarted(reload(&env.state, &BTreeMap::from([(RunId(1), tasks(lines))])));
    again.now = env.now;
    again.apply(orch_core::event::Event::Started { epoch: orch_core::ids::Epoch(2) });
    again
}

fn send_back() -> Consultation {
    Consultation::SendBack { payload: Arc::from([9u8].as_slice()), detail: "the tests are red".into() }
}

fn sent_back(env: &Env, attempt: &str) -> bool {
    env.state.grant_view(env.attempt(attempt)).is_some_and(|grant| grant.sent_back)
}

fn limited(env: &mut Env, limit: u32, lines: &str) {
    env.submit_as(|submit| submit.shape.max_parallel = limit, lines);
}

#[test]
fn a_red_gate_sends_back_to_the_agent_that_keeps_the_conversation_and_then_fails() {
    let mut env = Env::new();
    env.join("box-1", 1, "runner=claude");
    env.submit("t repairs 1 retries 0 needs runner=claude");
    env.join("box-2", 1, "runner=claude");
    env.report("box-1", "1/t#1", Outcome::GATE_FAILED);
    let view = env.task("1/t");
    assert_eq!((view.state.word(), &*view.agent, view.repairs), ("leased", "box-1", 1));
    let record = env.state.task_record(env.key("1/t")).expect("a record");
    assert_eq!((record.failures, record.repairs), (0, 1), "a repair is no retry");
    assert!(sent_back(&env, "1/t#2"));
    env.report("box-1", "1/t#2", Outcome::GATE_FAILED);
    let view = env.task("1/t");
    assert_eq!((view.state.word(), view.outcome), ("failed", Some(Outcome::GATE_FAILED)));
    env.retry("1/t", false);
    assert!(!sent_back(&env, "1/t#3"), "somebody asked for a fresh try");
    assert_eq!(env.task("1/t").repairs, 0);
}

#[test]
fn what_a_task_was_told_outlives_failures_losses_and_restarts() {
    let mut env = with_slots(1);
    let lines = "t repairs 1 needs runner=claude";
    env.submit(lines);
    env.report("box-1", "1/t#1", Outcome::GATE_FAILED);
    env.written();
    env.report("box-1", "1/t#2", API_ERROR);
    let told = |write: &Write| matches!(write, Write::Task { payload: Some(_), .. });
    assert!(!env.written().iter().any(told), "the recorded result is still the one with what is wrong");
    env.retry("1/t", false);
    assert!(sent_back(&env, "1/t#3"));
    env.accept("box-1", "1/t#3");
    env.leave("box-1");
    env.pass_seconds(26);
    let mut env = restarted(&env, lines);
    env.join("box-1", 1, "runner=claude");
    assert!(sent_back(&env, "1/t#4"));
    env.report("box-1", "1/t#4", Outcome::OK);
    assert_eq!((env.state_of("1/t"), env.task("1/t").repairs), ("succeeded", 1));
}

#[test]
fn a_reviewed_task_waits_for_the_verdict_without_an_agent() {
    let mut env = with_slots(1);
    env.submit(REVIEWED);
    env.report("box-1", "1/t#1", Outcome::OK);
    assert_eq!(states(&mut env, "t r next"), "verifying leased blocked");
    assert_eq!(env.explain("1/t").0, "waits for the verdict of r (leased)");
    assert_eq!(env.asked(), "", "the review has not ended");
    env.report("box-1", "1/r#1", Outcome::OK);
    assert_eq!(env.asked(), "1/t#1 review by r, 1 repairs left");
    assert_eq!(env.explain("1/t").0, "the verdict of r is being read");
    env.consult("1/t", Consultation::Accept { payload: None });
    assert_eq!(states(&mut env, "t r next"), "succeeded succeeded leased");
    env.report("box-1", "1/next#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn a_second_round_is_judged_again_and_a_last_refusal_skips_what_waits() {
    let mut env = with_slots(1);
    env.submit(REVIEWED);
    env.report("box-1", "1/t#1", Outcome::OK);
    env.report("box-1", "1/r#1", Outcome::OK);
    env.consult("1/t", send_back());
    assert_eq!(states(&mut env, "t r next"), "leased succeeded blocked");
    assert!(sent_back(&env, "1/t#2"));
    env.report("box-1", "1/t#2", Outcome::OK);
    assert_eq!(states(&mut env, "t r next"), "verifying leased blocked");
    env.report("box-1", "1/r#2", Outcome::OK);
    env.consult("1/t", send_back());
    assert_eq!(states(&mut env, "t r next"), "failed succeeded skipped");
    let view = env.task("1/t");
    assert_eq!((view.outcome, &*view.detail), (Some(Outcome::GATE_FAILED), "the tests are red"));
    let mut env = restarted(&env, REVIEWED);
    assert_eq!(&*env.task("1/t").detail, "the tests are red", "the reason is in the record");
    assert!(matches!(env.retry("1/t", false), Answer::Retried { count: 3, .. }));
    assert_eq!(states(&mut env, "t r next"), "queued blocked blocked");
}

#[test]
fn a_review_that_cannot_be_done_fails_its_task() {
    for end in ["report", "cancel"] {
        let mut env = with_slots(1);
        env.submit(REVIEWED);
        env.report("box-1", "1/t#1", Outcome::OK);
        if end == "report" {
            env.report("box-1", "1/r#1", TIMEOUT);
        } else {
            env.cancel("1/r");
        }
        let view = env.task("1/t");
        assert_eq!((view.state.word(), view.outcome), ("failed", Some(Outcome::GATE_FAILED)));
        let why = if end == "report" { "it went wrong" } else { "not needed" };
        assert_eq!(*view.detail, format!("its review could not be done: {why}"));
        assert_eq!((env.state_of("1/next"), env.run(1).state.word()), ("skipped", "failed"));
    }
}

#[test]
fn a_review_ends_with_the_task_it_judges() {
    let mut env = with_slots(1);
    env.submit(REVIEWED);
    env.report("box-1", "1/t#1", TIMEOUT);
    assert_eq!(states(&mut env, "t r next"), "failed skipped skipped");
    env.retry("1", false);
    env.report("box-1", "1/t#2", Outcome::OK);
    env.accept("box-1", "1/r#1");
    env.sent();
    env.cancel("1/t");
    assert_eq!(states(&mut env, "t r next"), "cancelled cancelled skipped");
    assert_eq!(env.sent(), "stop box-1 1/r#1 cancelled");
    assert_eq!(env.run(1).state.word(), "cancelled");
}

#[test]
fn judging_goes_on_where_a_restart_found_it() {
    let mut env = with_slots(1);
    env.submit(REVIEWED);
    env.report("box-1", "1/t#1", Outcome::OK);
    env.reject("box-1", "1/r#1");
    let mut env = restarted(&env, REVIEWED);
    assert_eq!(states(&mut env, "t r next"), "verifying queued blocked");
    env.join("box-1", 1, "runner=claude");
    env.report("box-1", "1/r#2", Outcome::OK);
    let mut env = restarted(&env, REVIEWED);
    assert_eq!(env.asked(), "1/t#1 review by r, 1 repairs left");
    env.consult("1/t", Consultation::Accept { payload: None });
    assert_eq!(states(&mut env, "t r next"), "succeeded succeeded queued");
}

#[test]
fn a_judged_task_that_nobody_judges_just_succeeds() {
    let mut env = with_slots(1);
    env.submit("t reviewed");
    env.report("box-1", "1/t#1", Outcome::OK);
    assert_eq!(env.state_of("1/t"), "succeeded");
}

#[test]
fn conditions_are_looked_at_when_the_time_has_come() {
    let lines = "a\nb after a conditional\nc after b\nlast after b,a end";
    let mut env = with_slots(2);
    env.submit(lines);
    assert_eq!(env.asked(), "");
    env.sent();
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.sent(), "consult\nverdict box-1 1/a#1 recorded");
    assert_eq!((env.asked().as_str(), env.state_of("1/b")), ("1/b#0 conditions, 0 repairs left", "blocked"));
    assert!(env.explain("1/b").1.iter().any(|reason| reason.kind == "condition" && !reason.satisfied));
    let mut env = restarted(&env, lines);
    assert_eq!((env.asked().as_str(), env.sent().as_str()), ("1/b#0 conditions, 0 repairs left", "consult"));
    env.join("box-1", 2, "runner=claude");
    env.consult("1/b", Consultation::Skip { detail: "a found nothing to do".into() });
    assert_eq!(states(&mut env, "b c last"), "skipped skipped leased");
    assert_eq!(&*env.task("1/b").detail, "a found nothing to do");
    env.report("box-1", "1/last#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded", "what conditions skip is no failure");
}

#[test]
fn conditions_that_hold_queue_the_task_and_are_not_asked_again() {
    let lines = "a conditional";
    let mut env = Env::new();
    env.submit(lines);
    assert_eq!(env.asked(), "1/a#0 conditions, 0 repairs left");
    env.consult("1/a", Consultation::Run);
    let mut env = restarted(&env, lines);
    assert_eq!((env.state_of("1/a"), env.asked()), ("queued", String::new()));
}

#[test]
fn no_more_tasks_than_allowed_are_under_way_and_places_go_in_order() {
    let lines = "a\nb\nc\nd\ne reviewed\nr reviews e";
    let mut env = with_slots(9);
    limited(&mut env, 2, lines);
    assert_eq!(states(&mut env, "a b c d e r"), "leased leased blocked blocked blocked blocked");
    let (summary, reasons, _) = env.explain("1/c");
    assert_eq!(summary, "waits for a place: 2 of 2 tasks of its run are under way");
    assert!(reasons.iter().any(|reason| reason.kind == "parallel" && !reason.satisfied));
    env.report("box-1", "1/b#1", API_ERROR);
    assert_eq!(env.state_of("1/c"), "blocked", "a task that waits for a retry keeps its place");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(states(&mut env, "c d"), "leased blocked");
    let mut env = restarted(&env, lines);
    assert_eq!(states(&mut env, "a b c d e"), "succeeded waiting_retry leased blocked blocked");
    env.join("box-1", 9, "runner=claude");
    env.cancel("1/b");
    env.cancel("1/c");
    assert_eq!(states(&mut env, "d e r"), "leased leased blocked");
    env.report("box-1", "1/e#1", Outcome::OK);
    assert_eq!(states(&mut env, "d e r"), "leased verifying leased", "a review uses the place of its task");
}

#[test]
fn a_place_is_asked_for_again_by_what_is_tried_again() {
    let mut env = with_slots(9);
    limited(&mut env, 1, "a\nb");
    env.cancel("1/a");
    assert_eq!(states(&mut env, "a b"), "cancelled leased");
    env.retry("1/a", false);
    assert_eq!(states(&mut env, "a b"), "blocked leased");
    env.report("box-1", "1/b#1", Outcome::OK);
    env.report("box-1", "1/a#2", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn what_waits_for_a_place_or_an_answer_waits_again_for_what_is_tried_again() {
    let mut env = with_slots(1);
    limited(&mut env, 1, "a\nb\nc after a end\nd after a end conditional");
    env.report("box-1", "1/a#1", TIMEOUT);
    assert_eq!(
        (states(&mut env, "b c d").as_str(), env.asked().is_empty()),
        ("leased blocked blocked", false)
    );
    env.retry("1/a", false);
    assert_eq!(
        (states(&mut env, "a c d").as_str(), env.asked().is_empty()),
        ("blocked blocked blocked", true)
    );
    env.report("box-1", "1/b#1", Outcome::OK);
    env.report("box-1", "1/a#2", Outcome::OK);
    assert_eq!(
        (states(&mut env, "a c d").as_str(), env.asked().is_empty()),
        ("succeeded leased blocked", false)
    );
}

#[test]
fn fail_fast_cancels_the_rest_and_stops_what_runs() {
    let mut env = with_slots(2);
    let lines = "a\nb\nc after a\nd after b\nlast after a,b end synthesis";
    env.submit_as(|submit| submit.shape.policy = FailurePolicy::FailFast, lines);
    env.accept("box-1", "1/b#1");
    env.sent();
    env.report("box-1", "1/a#1", TIMEOUT);
    assert_eq!(states(&mut env, "a b c d last"), "failed cancelled skipped cancelled cancelled");
    assert!(env.sent().contains("stop box-1 1/b#1 cancelled"));
    let run = env.run(1);
    assert_eq!((run.state.word(), run.outcome), ("failed", Some(TIMEOUT)));
    assert_eq!(&*run.detail, "a failed, and the run stops at the first failure");
    assert_eq!(run.detail, env.task("1/d").detail);
    assert!(matches!(env.retry("1", false), Answer::Retried { count: 5, .. }));
    assert_eq!(&*env.run(1).detail, "");
}

#[test]
fn continue_finishes_what_does_not_depend_on_the_failure() {
    let mut env = with_slots(2);
    env.submit("a\nb\nc after a\nd after b\nlast after c,d end");
    env.report("box-1", "1/a#1", TIMEOUT);
    env.report("box-1", "1/b#1", Outcome::OK);
    assert_eq!(states(&mut env, "a b c d last"), "failed succeeded skipped leased blocked");
    env.report("box-1", "1/d#1", Outcome::OK);
    assert_eq!(env.state_of("1/last"), "leased", "after every end, whatever it was");
    env.report("box-1", "1/last#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "failed");
}

#[test]
fn best_effort_fails_when_nothing_succeeded_and_counts_no_condition_as_a_gap() {
    let best_effort = |lines: &str| {
        let mut env = with_slots(4);
        env.submit_as(|submit| submit.shape.policy = FailurePolicy::BestEffort, lines);
        env
    };
    let mut env = best_effort("a\nb");
    env.report("box-1", "1/a#1", TIMEOUT);
    env.report("box-1", "1/b#1", TIMEOUT);
    assert_eq!(env.run(1).state.word(), "failed");
    let mut env = best_effort("a\nb conditional\nc after b");
    env.report("box-1", "1/a#1", Outcome::OK);
    env.consult("1/b", Consultation::Skip { detail: "no need".into() });
    let run = env.run(1);
    assert_eq!((run.state.word(), &*run.detail), ("succeeded", ""));
    let lines = (0..30).map(|n| format!("a-task-with-a-long-name-{n:0>24}\n")).collect::<String>() + "ok";
    let mut env = best_effort(&lines);
    env.join("box-2", 40, "");
    for n in 0..30 {
        env.cancel(&format!("1/a-task-with-a-long-name-{n:0>24}"));
    }
    let agent = env.task("1/ok").agent;
    env.report(&agent, "1/ok#1", Outcome::OK);
    let detail = env.run(1).detail;
    assert!(detail.starts_with("30 of 31 tasks did not succeed: ") && detail.len() <= 400, "{detail}");
}

#[test]
fn a_publication_is_a_task_like_any_other() {
    let mut env = with_slots(1);
    env.submit("t\np publishes t");
    env.report("box-1", "1/t#1", Outcome::OK);
    assert_eq!(env.state_of("1/p"), "leased");
    assert_eq!(env.task("1/p").of.as_deref(), Some("t"));
    env.report("box-1", "1/p#1", Outcome::OK);
    assert_eq!(env.run(1).state.word(), "succeeded");
}

#[test]
fn a_run_does_not_go_back_to_a_review_alone() {
    let mut env = with_slots(1);
    env.submit(REVIEWED);
    env.report("box-1", "1/t#1", Outcome::OK);
    env.report("box-1", "1/r#1", Outcome::OK);
    env.consult("1/t", Consultation::Accept { payload: None });
    env.report("box-1", "1/next#1", Outcome::OK);
    let Answer::Refused(refusal) = env.retry_from("1", "r") else { panic!("retried") };
    assert!(refusal.to_string().ends_with("it judges t: go back to that"), "{refusal}");
    assert!(matches!(env.retry_from("1", "t"), Answer::Retried { count: 3, .. }));
    assert_eq!(states(&mut env, "t r next"), "leased blocked blocked");
}

#[test]
fn an_attempt_is_judged_without_its_agent_being_asked_to_wait() {
    let mut env = with_slots(1);
    env.submit("t reviewed\nr needs gpu=yes reviews t\nother");
    env.report("box-1", "1/t#1", Outcome::OK);
    assert_eq!(states(&mut env, "t r other"), "verifying queued leased", "its slot is free");
    let Answer::Refused(refusal) = env.retry("1/t", false) else { panic!("retried") };
    assert!(refusal.to_string().contains("its result is being judged"), "{refusal}");
    env.cancel("1");
    assert_eq!(env.run(1).state.word(), "cancelled");
}

#[test]
fn a_condition_that_held_and_waits_for_a_place_is_asked_again_after_a_restart_and_waits_again() {
    let lines = "a\nb\nc after a conditional";
    let mut env = with_slots(4);
    limited(&mut env, 1, lines);
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(states(&mut env, "b c"), "leased blocked");
    env.consult("1/c", Consultation::Run);
    assert_eq!(states(&mut env, "b c"), "leased blocked", "it waits for a place");
    assert!(env.questions().is_empty(), "and is not asked again");
    let mut again = restarted(&env, lines);
    assert_eq!(again.questions().len(), 1, "the answer is no record");
    again.consult("1/c", Consultation::Run);
    assert_eq!(states(&mut again, "c"), "blocked");
    for env in [&mut env, &mut again] {
        env.cancel("1/b");
        assert_eq!(states(env, "b c").split_once(' ').map(|(b, _)| b), Some("cancelled"));
        assert_ne!(env.state_of("1/c"), "blocked", "its place came");
    }
}

/// A run of very many tasks, most of which wait for a place, ended by its first failure; and as many that wait for an
/// answer. Were anything done for each task at each step, either would take hours.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test measures how long the core takes; the core itself has no clock"
)]
fn runs_of_very_many_tasks_are_ended_and_asked_about_in_time() {
    const TASKS: usize = 100_000;
    let names = |more: &str| (0..TASKS).map(|at| format!("t{at}{more}\n")).collect::<String>();
    let began = std::time::Instant::now();
    let mut env = with_slots(200);
    env.checked = false;
    let fail_fast = |submit: &mut orch_core::event::Submit| {
        submit.shape.max_parallel = 100;
        submit.shape.policy = FailurePolicy::FailFast;
    };
    env.submit_as(fail_fast, &names(""));
    for at in 0..1_000 {
        env.report("box-1", &format!("1/t{at}#1"), Outcome::OK);
    }
    assert_eq!((env.state_of("1/t1099"), env.state_of("1/t1100")), ("leased", "blocked"));
    env.report("box-1", "1/t1000#1", TIMEOUT);
    assert_eq!((env.run(1).state.word(), env.state_of("1/t99999")), ("failed", "cancelled"));
    env.submit(&names(" conditional"));
    for at in 0..1_000 {
        assert_eq!(env.questions().len(), 100);
        env.consult(&format!("2/t{at}"), Consultation::Skip { detail: "no".into() });
    }
    assert_eq!(env.questions()[0].task.index.0, 1_000);
    let took = began.elapsed();
    assert!(took < std::time::Duration::from_secs(120), "{took:?}");
}
