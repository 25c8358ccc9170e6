//! Planned runs: a planner, a person, tasks that join, one answer in the end.

mod support;

use orch_core::effect::Write;
use orch_core::event::{Consultation, Expansion, FailurePolicy, Planning, Submit};
use orch_core::ids::{RunId, TaskIndex};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use support::*;

const PLANNED: &str = "plan plan repairs 1\nsynthesis synthesis end after plan";

fn submit(env: &mut Env, change: impl FnOnce(&mut Submit)) {
    let planned = |submit: &mut Submit| {
        submit.shape.planning = Some(Planning::default());
        change(submit);
    };
    let answer = env.submit_as(planned, PLANNED);
    assert!(matches!(answer, Answer::Submitted { run: Some(_), .. }), "{answer:?}");
}

fn approved(env: &mut Env) {
    submit(env, |submit| submit.shape.planning = Some(Planning { approve: true, ..Planning::default() }));
}

/// Tasks of a plan, written after those that the run has; the synthesis waits for all of them.
fn plan(lines: &str) -> Expansion {
    let all = tasks(&format!("{PLANNED}\n{lines}"));
    let rest = (0..all.len() as u32).filter(|index| *index != 1).map(TaskIndex).collect();
    Expansion { tasks: all[2..].to_vec(), rewired: vec![(TaskIndex(1), rest)] }
}

fn expand(lines: &str) -> Consultation {
    Consultation::Expand(Box::new(plan(lines)))
}

fn send_back() -> Consultation {
    Consultation::SendBack { payload: Arc::from([9u8].as_slice()), detail: "two tasks are called a".into() }
}

fn planned() -> Env {
    let mut env = Env::new();
    env.join("box-1", 4, "");
    env.sent();
    submit(&mut env, |_| {});
    env
}

fn run_state(env: &mut Env) -> (&'static str, String) {
    let run = env.run(1);
    (run.state.word(), run.detail.to_string())
}

fn reloaded(env: &Env, lines: &str) -> Env {
    let mut specs = tasks(&format!("{PLANNED}\n{lines}"));
    if specs.len() > 2 {
        specs[1].dependencies = plan(lines).rewired[0].1.clone();
    }
    let mut again = Env::unstarted(reload(&env.state, &BTreeMap::from([(RunId(1), specs)])));
    again.now = env.now;
    again.apply(orch_core::event::Event::Started { epoch: orch_core::ids::Epoch(2) });
    again
}

#[test]
fn a_request_is_planned_carried_out_and_answered() {
    let mut env = planned();
    assert_eq!(run_state(&mut env), ("planning", String::new()));
    assert_eq!(env.sent(), "grant box-1 1/plan#1");
    env.report("box-1", "1/plan#1", Outcome::OK);
    assert_eq!(env.state_of("1/plan"), "verifying");
    assert_eq!(env.sent(), "consult\nverdict box-1 1/plan#1 recorded");
    assert_eq!(env.asked(), "1/plan#1 plan, 1 repairs left");
    env.written();
    env.told();
    env.consult("1/plan", expand("a\nb after a\nc"));
    assert!(env.written().contains(&Write::Expanded(RunId(1))));
    assert_eq!(env.asked(), "");
    assert_eq!(env.run(1).task_count, 5);
    assert_eq!(env.sent(), "grant box-1 1/a#1\ngrant box-1 1/c#1");
    assert_eq!(
        env.told(),
        "adhoc/1 running\nadhoc/1/plan succeeded #1 box-1\nadhoc/1/a queued #0\nadhoc/1/c queued #0\n\
         adhoc/1/a leased #1 box-1\nadhoc/1/c leased #1 box-1"
    );
    assert_eq!(env.explain("1/synthesis").0, "waits for 3 tasks: a (leased), b (blocked), c (leased)");
    for task in ["1/a#1", "1/c#1", "1/b#1"] {
        env.report("box-1", task, Outcome::OK);
    }
    assert_eq!(run_state(&mut env).0, "synthesizing");
    env.report("box-1", "1/synthesis#1", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "succeeded");
}

#[test]
fn an_answer_to_another_attempt_or_to_no_question_does_nothing() {
    let mut env = planned();
    env.consult("1/plan", expand("a"));
    assert_eq!(env.run(1).task_count, 2, "nothing was asked yet");
    env.report("box-1", "1/plan#1", Outcome::OK);
    let task = env.key("1/plan");
    let stale = |attempt| orch_core::event::Event::Consulted {
        task,
        attempt: orch_core::ids::AttemptNo(attempt),
        answer: expand("a"),
    };
    env.apply(stale(2));
    assert_eq!(env.run(1).task_count, 2);
    env.apply(stale(1));
    env.apply(stale(1));
    assert_eq!(env.run(1).task_count, 3, "and the right one counts once");
}

#[test]
fn a_bad_plan_goes_back_once_and_then_fails_the_run() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.sent();
    env.consult("1/plan", send_back());
    assert_eq!(env.sent(), "grant box-1 1/plan#2");
    let second = env.attempt("1/plan#2");
    assert!(env.state.grant_view(second).expect("a grant").sent_back);
    let view = env.task("1/plan");
    assert_eq!((view.repairs, view.state.word()), (1, "leased"));
    env.report("box-1", "1/plan#2", Outcome::OK);
    assert_eq!(env.asked(), "1/plan#2 plan, 0 repairs left");
    env.consult("1/plan", send_back());
    let view = env.task("1/plan");
    assert_eq!((view.state.word(), view.outcome), ("failed", Some(Outcome::GATE_FAILED)));
    assert_eq!(&*view.detail, "two tasks are called a");
    let synthesis = env.task("1/synthesis");
    assert_eq!((synthesis.state.word(), &*synthesis.detail), ("skipped", "it waits for plan, which failed"));
    assert_eq!(run_state(&mut env).0, "failed");
}

#[test]
fn tasks_that_cannot_join_fail_the_plan_and_say_why() {
    for (lines, expected) in [
        ("a\na", "the plan cannot be carried out: there are two tasks `a`"),
        ("plan", "the plan cannot be carried out: there are two tasks `plan`"),
        ("a after b\nb after a", "tasks wait for each other: a -> b -> a"),
        ("a after synthesis", "tasks wait for each other: synthesis -> a -> synthesis"),
    ] {
        let mut env = planned();
        env.report("box-1", "1/plan#1", Outcome::OK);
        env.consult("1/plan", expand(lines));
        let view = env.task("1/plan");
        assert_eq!((view.outcome, &*view.detail), (Some(Outcome::SCHEMA_INVALID), expected));
        assert_eq!((run_state(&mut env).0, env.run(1).task_count), ("failed", 2));
    }
}

#[test]
fn limits_hold_for_plans_too() {
    let mut config = orch_core::Config::new(rules());
    config.max_classes = 2;
    let mut env = Env::with(config);
    env.join("box-1", 4, "");
    submit(&mut env, |_| {});
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", expand("a needs x=1\nb needs x=2"));
    assert_eq!(&*env.task("1/plan").detail, "2 different sets of requirements are queued already");
}

#[test]
fn an_approved_plan_waits_for_a_person() {
    let mut env = Env::new();
    env.join("box-1", 4, "");
    approved(&mut env);
    let Answer::Refused(refusal) = env.decide(1, Some(plan("a"))) else { panic!("decided") };
    assert_eq!(refusal.to_string(), "run adhoc/1 is planning: it does not wait for a plan to be approved");
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", Consultation::Hold);
    assert_eq!(run_state(&mut env).0, "waiting_approval");
    let (summary, reasons, _) = env.explain("1/synthesis");
    assert_eq!(summary, "the plan waits for a person: orchctl approve adhoc/1");
    assert!(reasons.iter().any(|reason| reason.kind == "approval" && !reason.satisfied));
    let Answer::Refused(Refusal::Cycle { .. }) = env.decide(1, Some(plan("a after b\nb after a"))) else {
        panic!("decided")
    };
    assert_eq!(run_state(&mut env).0, "waiting_approval", "a bad edit changes nothing");
    env = reloaded(&env, "");
    env.join("box-1", 4, "");
    let Answer::Decided { run } = env.decide(1, Some(plan("a"))) else { panic!("not decided") };
    assert_eq!((run.state.word(), run.task_count), ("running", 3));
    let Answer::Refused(Refusal::NotWaiting { .. }) = env.decide(1, Some(plan("a"))) else {
        panic!("decided twice")
    };
    env.report("box-1", "1/a#1", Outcome::OK);
    env.report("box-1", "1/synthesis#1", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "succeeded");
}

#[test]
fn a_rejected_plan_cancels_the_run_and_a_retry_asks_again() {
    let mut env = Env::new();
    env.join("box-1", 4, "");
    approved(&mut env);
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", Consultation::Hold);
    assert!(matches!(env.decide(1, None), Answer::Decided { .. }));
    assert_eq!(run_state(&mut env), ("cancelled", "the plan was rejected: too dear".to_owned()));
    assert_eq!(env.state_of("1/synthesis"), "skipped");
    let mut again = reloaded(&env, "");
    let detail = again.task("1/synthesis").detail;
    assert_eq!(&*detail, "the plan was rejected: too dear", "the reason is in the record");
    assert!(matches!(env.retry("1", false), Answer::Retried { count: 1, .. }));
    assert_eq!(run_state(&mut env), ("waiting_approval", String::new()));
    assert!(matches!(env.decide(1, Some(plan("a"))), Answer::Decided { .. }));
    assert_eq!(env.state_of("1/a"), "leased");
}

#[test]
fn a_plan_that_is_all_that_was_wanted_ends_the_run() {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    submit(&mut env, |submit| {
        submit.shape.planning = Some(Planning { plan_only: true, ..Planning::default() });
    });
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", Consultation::Accept { payload: None });
    assert_eq!(run_state(&mut env).0, "succeeded");
    let synthesis = env.task("1/synthesis");
    assert_eq!((synthesis.state.word(), &*synthesis.detail), ("skipped", "only the plan was asked for"));
    let Answer::Refused(refusal) = env.retry("1", false) else { panic!("retried") };
    assert_eq!(
        refusal.to_string(),
        "adhoc/1 is succeeded: its plan was not carried out: --from plan plans anew"
    );
    assert!(matches!(env.retry_from("1", "plan"), Answer::Retried { count: 2, .. }));
    assert_eq!(run_state(&mut env).0, "planning");
}

#[test]
fn a_planner_that_failed_plans_again() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", TIMEOUT);
    assert_eq!((run_state(&mut env).0, env.state_of("1/synthesis")), ("failed", "skipped"));
    let Answer::Refused(refusal) = env.retry("1/synthesis", false) else { panic!("retried") };
    assert_eq!(refusal.to_string(), "adhoc/1/synthesis is skipped: it waits for plan: retry that first");
    assert!(matches!(env.retry("1", false), Answer::Retried { count: 2, .. }));
    assert_eq!((run_state(&mut env).0, env.state_of("1/synthesis")), ("planning", "blocked"));
    env.report("box-1", "1/plan#2", Outcome::OK);
    env.consult("1/plan", expand("a"));
    env.report("box-1", "1/a#1", Outcome::OK);
    env.report("box-1", "1/synthesis#1", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "succeeded");
    let Answer::Refused(refusal) = env.retry_from("1", "plan") else { panic!("retried") };
    assert!(refusal.to_string().contains("submit the request again"), "{refusal}");
}

#[test]
fn a_run_is_cancelled_wherever_it_is() {
    let mut env = planned();
    assert!(matches!(env.cancel("1"), Answer::Cancelled { count: 2, .. }), "while it plans");
    assert_eq!(run_state(&mut env).0, "cancelled");
    env.retry("1", false);
    env.report("box-1", "1/plan#2", Outcome::OK);
    assert_eq!(env.state_of("1/plan"), "verifying");
    assert!(matches!(env.cancel("1/plan"), Answer::Cancelled { count: 1, .. }), "while it is looked at");
    assert_eq!((run_state(&mut env).0, env.asked()), ("cancelled", String::new()));
    let mut env = Env::new();
    env.join("box-1", 4, "");
    approved(&mut env);
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", Consultation::Hold);
    assert!(matches!(env.cancel("1"), Answer::Cancelled { count: 1, .. }), "while it waits for a person");
    assert_eq!(run_state(&mut env).0, "cancelled");
    assert!(matches!(env.retry("1/synthesis", false), Answer::Retried { .. }));
    assert_eq!(run_state(&mut env).0, "waiting_approval");
}

#[test]
fn a_restart_asks_again_what_was_open_and_keeps_what_joined() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", Outcome::OK);
    let mut env = reloaded(&env, "");
    assert_eq!(env.sent(), "consult", "a start wakes whoever answers");
    assert_eq!(env.asked(), "1/plan#1 plan, 1 repairs left");
    env.join("box-1", 4, "");
    env.consult("1/plan", expand("a\nb"));
    env.report("box-1", "1/a#1", Outcome::OK);
    let mut env = reloaded(&env, "a\nb");
    assert_eq!((run_state(&mut env).0, env.asked()), ("running", String::new()));
    assert_eq!((env.state_of("1/b"), env.state_of("1/synthesis")), ("leased", "blocked"));
}

#[test]
fn without_any_success_there_is_nothing_to_combine() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", expand("a\nb after a"));
    env.report("box-1", "1/a#1", TIMEOUT);
    let synthesis = env.task("1/synthesis");
    assert_eq!(
        (synthesis.state.word(), &*synthesis.detail),
        ("skipped", "nothing succeeded, so there is nothing to combine")
    );
    assert_eq!(run_state(&mut env).0, "failed");
    assert!(matches!(env.retry("1", false), Answer::Retried { count: 3, .. }));
    env.report("box-1", "1/a#2", Outcome::OK);
    env.report("box-1", "1/b#1", Outcome::OK);
    env.report("box-1", "1/synthesis#1", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "succeeded");
}

#[test]
fn a_synthesis_is_made_of_what_there_is_and_anew_when_that_changes() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", expand("a\nb"));
    env.report("box-1", "1/a#1", TIMEOUT);
    env.report("box-1", "1/b#1", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "synthesizing");
    let Answer::Refused(refusal) = env.retry("1/a", false) else { panic!("retried") };
    assert_eq!(
        refusal.to_string(),
        "adhoc/1/synthesis is leased: it has begun with what there is: wait for its end, or cancel it"
    );
    env.report("box-1", "1/synthesis#1", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "failed", "with `continue`");
    assert!(matches!(env.retry("1/a", false), Answer::Retried { count: 2, .. }));
    assert_eq!(env.state_of("1/synthesis"), "blocked");
    env.report("box-1", "1/a#2", Outcome::OK);
    env.report("box-1", "1/synthesis#2", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "succeeded");
}

#[test]
fn best_effort_succeeds_with_its_gaps_named() {
    let mut env = Env::new();
    env.join("box-1", 4, "");
    submit(&mut env, |submit| submit.shape.policy = FailurePolicy::BestEffort);
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", expand("a\nb after a\nc\nd"));
    env.report("box-1", "1/a#1", TIMEOUT);
    env.report("box-1", "1/c#1", Outcome::OK);
    env.report("box-1", "1/d#1", Outcome::OK);
    env.report("box-1", "1/synthesis#1", Outcome::OK);
    assert_eq!(run_state(&mut env), ("succeeded", "2 of 4 tasks did not succeed: a, b".to_owned()));
    assert_eq!(env.run(1).outcome, None);
}

#[test]
fn a_synthesis_that_was_cancelled_waits_for_the_plan_when_it_is_tried_again() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", Outcome::OK);
    assert!(matches!(env.cancel("1/synthesis"), Answer::Cancelled { count: 1, .. }));
    env.consult("1/plan", expand("a"));
    assert_eq!((env.state_of("1/a"), env.state_of("1/synthesis")), ("leased", "cancelled"));
    let mut again = reloaded(&env, "a");
    for env in [&mut env, &mut again] {
        let waits_for: Vec<_> = env.task("1/synthesis").dependencies;
        assert_eq!(waits_for.iter().map(|id| &**id).collect::<Vec<_>>(), ["plan", "a"]);
        assert!(matches!(env.retry("1/synthesis", false), Answer::Retried { count: 1, .. }));
        assert_eq!(env.state_of("1/synthesis"), "blocked", "the work is not done");
    }
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!((env.state_of("1/synthesis"), run_state(&mut env).0), ("leased", "synthesizing"));
}

#[test]
fn a_synthesis_that_failed_is_made_again_and_nothing_else() {
    let mut env = planned();
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", expand("a\nb after a"));
    env.report("box-1", "1/a#1", Outcome::OK);
    env.report("box-1", "1/b#1", Outcome::OK);
    env.report("box-1", "1/synthesis#1", TIMEOUT);
    assert_eq!(run_state(&mut env).0, "failed");
    assert!(matches!(env.retry("1", false), Answer::Retried { count: 1, .. }));
    assert_eq!((env.state_of("1/b"), run_state(&mut env).0), ("succeeded", "synthesizing"));
    env.report("box-1", "1/synthesis#2", Outcome::OK);
    assert_eq!(run_state(&mut env).0, "succeeded");
    let mut again = reloaded(&env, "a\nb after a");
    again.join("box-1", 4, "");
    for env in [&mut env, &mut again] {
        assert!(matches!(env.retry_from("1", "a"), Answer::Retried { count: 3, .. }));
        assert_eq!(
            (run_state(env).0, env.state_of("1/b"), env.state_of("1/synthesis")),
            ("running", "blocked", "blocked")
        );
    }
}

#[test]
fn a_decision_under_a_request_id_is_answered_again_and_made_once() {
    let mut env = Env::new();
    env.join("box-1", 4, "");
    approved(&mut env);
    env.report("box-1", "1/plan#1", Outcome::OK);
    env.consult("1/plan", Consultation::Hold);
    let asked = |env: &mut Env, id: &str| {
        let digest = [id.len() as u8; 32];
        env.ask(Query::Decision { request_id: "r".into(), digest })
    };
    assert!(matches!(asked(&mut env, "r"), Answer::Undecided));
    assert!(matches!(env.decide_once(1, Some(plan("a")), "r"), Answer::Decided { .. }));
    assert!(matches!(asked(&mut env, "r"), Answer::Decided { .. }));
    let repeated = env.decide_once(1, Some(plan("a")), "r");
    assert!(matches!(&repeated, Answer::Decided { run } if run.task_count == 3), "{repeated:?}");
    let other = env.decide_once(1, None, "r#other");
    assert!(matches!(other, Answer::Refused(Refusal::RequestIdConflict { .. })), "{other:?}");
    let fresh = env.decide_once(1, None, "s");
    assert!(matches!(fresh, Answer::Refused(Refusal::NotWaiting { .. })), "{fresh:?}");
    assert_eq!(run_state(&mut env).0, "running");
}
