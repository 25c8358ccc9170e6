//! Agents that get no work: in quarantine because too much crashed there, asked for what they hold ahead, or forgotten.
#![expect(clippy::wildcard_enum_match_arm, reason = "the rest of an enumeration is one case")]

mod support;

use orch_core::effect::Write;
use orch_core::event::{Event, HeldState};
use orch_core::ids::{Epoch, RunId};
use orch_core::outcome::Outcome;
use orch_core::query::{AgentStateView, Answer, Refusal};
use std::collections::BTreeMap;
use support::{API_ERROR, CRASH, Env, ONE, inventory, reload, tasks};

/// Tasks that only `a` takes, as many as are asked for; each crashes there at once.
fn crash_on_a(env: &mut Env, count: usize) {
    for _ in 0..count {
        let run = env.submit("x pin a");
        env.sent();
        env.report("a", &format!("{run}/x#1"), CRASH);
        env.cancel(&run.to_string());
    }
}

fn state(env: &mut Env, agent: &str) -> AgentStateView {
    env.agent(agent).state
}

#[test]
fn an_agent_on_which_five_of_the_latest_attempts_crashed_gets_no_work_until_it_is_resumed() {
    let mut env = Env::new();
    env.join("a", 2, "");
    env.join("b", 0, "");
    env.join("c", 1, "");
    let held = env.submit("long pin a");
    env.accept("a", &format!("{held}/long#1"));
    crash_on_a(&mut env, 4);
    assert_eq!(state(&mut env, "a"), AgentStateView::Ready);
    env.told();
    env.written();
    crash_on_a(&mut env, 1);
    assert!(env.told().contains("a quarantined"), "watchers are told");
    let agent = env.agent("a");
    assert_eq!(agent.state, AgentStateView::Quarantined);
    assert_eq!(
        agent.quarantine.as_deref(),
        Some("5 of its last 5 attempts crashed, of 5 tasks, the latest adhoc/6/x")
    );
    assert!(env.written().iter().any(|write| matches!(write, Write::Agent(_))), "it is durable");
    assert_eq!(env.status().agents, [2, 0, 0, 0, 1]);

    let waits = env.submit("x pin a");
    let (summary, reasons, _) = env.explain(&format!("{waits}/x"));
    assert_eq!(summary, "no agent that fits takes work: a is in quarantine");
    let reason = reasons.iter().find(|reason| reason.kind == "quarantine").expect("a reason");
    assert_eq!(reason.help.as_deref(), Some("orchctl agents resume a"));
    assert_eq!(env.state_of(&format!("{held}/long")), "running", "what runs there goes on");
    env.report("a", &format!("{held}/long#1"), Outcome::OK);
    assert_eq!(env.state_of(&format!("{waits}/x")), "queued");

    env.join_as("a", 2, "", |hello| hello.incarnation = [9; 16]);
    assert_eq!(state(&mut env, "a"), AgentStateView::Quarantined, "a restart of the agent does not end it");
    let specs: BTreeMap<RunId, _> = BTreeMap::from([(RunId(waits), tasks("x pin a"))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    again.join("a", 2, "");
    assert_eq!(state(&mut again, "a"), AgentStateView::Quarantined, "nor does one of the coordinator");
    again.told();
    again.resume("a");
    assert!(again.told().contains("a ready"));
    assert_eq!(again.state_of(&format!("{waits}/x")), "leased");
    assert_eq!(again.agent("a").quarantine, None);
    env.resume("a");
    crash_on_a(&mut env, 4);
    assert_eq!(state(&mut env, "a"), AgentStateView::Ready, "it begins with a clean slate");
}

#[test]
fn what_crashes_everywhere_is_the_fault_of_the_tasks_and_takes_no_fleet_down() {
    let mut env = Env::new();
    for agent in ["a", "b", "c"] {
        env.join(agent, 4, "");
    }
    env.submit(&(0..12).map(|task| format!("t{task} retries 9\n")).collect::<String>());
    while env.run(1).state.word() == "running" {
        for line in env.sent().lines() {
            let Some(granted) = line.strip_prefix("grant ") else { continue };
            let (agent, attempt) = granted.split_once(' ').expect("agent and attempt");
            env.report(agent, attempt, CRASH);
        }
        env.pass_with_heartbeats(10, &["a", "b", "c"]);
    }
    assert_eq!(env.run(1).state.word(), "failed");
    assert!((0..12).all(|task| env.task(&format!("1/t{task}")).outcome == Some(Outcome::POISON)));
    assert!(env.status().agents[0] >= 1, "somebody still takes work: {:?}", env.status().agents);
}

#[test]
fn one_task_failures_stops_and_the_only_agent_are_no_reason() {
    let mut env = Env::new();
    env.join("a", 1, "");
    env.join("b", 1, "");
    // One task again and again.
    let run = env.submit("x pin a retries 99");
    for attempt in 1..=4 {
        env.sent();
        env.report("a", &format!("{run}/x#{attempt}"), CRASH);
        env.retry(&format!("{run}/x"), false);
    }
    env.cancel(&run.to_string());
    env.heartbeat("a", &[]);
    assert_eq!(state(&mut env, "a"), AgentStateView::Ready);
    // Failures that are no crashes, and attempts that somebody cancelled.
    for _ in 0..10 {
        let run = env.submit("x pin a retries 0");
        env.report("a", &format!("{run}/x#1"), API_ERROR);
        let run = env.submit("x pin a retries 0");
        env.report("a", &format!("{run}/x#1"), Outcome::CANCELLED);
        assert_eq!(env.run(run).state.word(), "cancelled");
    }
    assert_eq!(state(&mut env, "a"), AgentStateView::Ready);
    // A fleet of one.
    env.leave("b");
    crash_on_a(&mut env, 9);
    assert_eq!(state(&mut env, "a"), AgentStateView::Ready);
    // With somebody else there, the next crash is one too many.
    env.join("b", 1, "");
    crash_on_a(&mut env, 1);
    assert_eq!(state(&mut env, "a"), AgentStateView::Quarantined);
}

#[test]
fn a_host_that_is_lost_with_all_it_holds_is_lost_once() {
    let mut env = Env::new();
    env.join("a", 8, "");
    env.join("b", 1, "");
    for _ in 0..8 {
        let run = env.submit("x pin a");
        env.accept("a", &format!("{run}/x#1"));
    }
    env.leave("a");
    env.pass_with_heartbeats(60, &["b"]);
    env.join("a", 8, "");
    assert_eq!(state(&mut env, "a"), AgentStateView::Ready);
}

#[test]
fn a_drained_agent_gives_back_what_it_holds_ahead_and_has_not_begun() {
    let mut env = Env::new();
    env.join("a", 1, "");
    let run = env.submit("x prefetch 2\ny prefetch 2\nz prefetch 2\n");
    for task in ["x", "y", "z"] {
        env.accept("a", &format!("{run}/{task}#1"));
    }
    env.join("b", 3, "");
    env.sent();
    env.drain("a", "drained by me");
    assert_eq!(env.sent(), "stop a 1/x#1 revoked\nstop a 1/y#1 revoked\nstop a 1/z#1 revoked");
    env.heartbeat_all("a");
    assert_eq!(env.held_by("a").len(), 3, "they are its until it gives them back");
    env.sent();
    env.reject("a", "1/y#1");
    env.reject("a", "1/z#1");
    assert_eq!(env.sent(), "grant b 1/y#2\ngrant b 1/z#2");
    let y = env.key("1/y");
    let record = env.state.task_record(y).expect("a task");
    assert_eq!((record.crashes, record.failures, record.attempts.len()), (0, 0, 0), "it counts as nothing");
    env.report("a", "1/x#1", Outcome::OK);
    assert_eq!(env.state_of("1/x"), "succeeded", "what it had begun it ends");
    env.drain("a", "drained by me again");
    assert_eq!(env.sent(), "verdict a 1/x#1 recorded");
}

#[test]
fn what_was_asked_back_and_is_gone_after_a_reconnect_was_given_back() {
    let mut env = Env::new();
    env.join("a", 1, "");
    let run = env.submit("x prefetch 2\ny prefetch 2\n");
    env.accept("a", &format!("{run}/x#1"));
    env.accept("a", &format!("{run}/y#1"));
    env.drain("a", "drained by me");
    env.leave("a");
    let x = env.attempt("1/x#1");
    env.join_as("a", 1, "", |hello| hello.inventory = inventory(&[(x, HeldState::Running)]));
    let y = env.key("1/y");
    let record = env.state.task_record(y).expect("a task");
    assert_eq!((record.state.word(), record.crashes), ("queued", 0));
}

#[test]
fn what_was_asked_back_and_is_gone_with_its_process_is_lost_because_it_may_have_begun() {
    let mut env = Env::new();
    env.join("a", 1, "");
    let run = env.submit("x prefetch 2\ny prefetch 2\n");
    env.accept("a", &format!("{run}/x#1"));
    env.accept("a", &format!("{run}/y#1"));
    env.drain("a", "drained by me");
    env.leave("a");
    env.join_as("a", 1, "", |hello| hello.incarnation = [2; 16]);
    for task in ["1/x", "1/y"] {
        let key = env.key(task);
        let record = env.state.task_record(key).expect("a task");
        assert_eq!((record.state.word(), record.crashes, record.attempts.len()), ("queued", 1, 1), "{task}");
    }
}

#[test]
fn an_acceptance_cannot_be_taken_back_unasked_and_costly_work_is_not_asked_for() {
    let mut env = Env::new();
    env.join("a", 1, "");
    env.join("b", 1, "");
    let run = env.submit("x pin a");
    env.accept("a", &format!("{run}/x#1"));
    env.sent();
    env.reject("a", "1/x#1");
    assert_eq!(env.state_of("1/x"), "running");
    env.drain("a", "drained by me");
    assert_eq!(env.sent(), "");
}

#[test]
fn only_an_agent_that_is_away_and_holds_nothing_is_forgotten() {
    let mut env = Env::new();
    let hint = |answer: Answer| match answer {
        Answer::Refused(Refusal::WrongState { what, state, .. }) => format!("{what} is {state}"),
        Answer::Forgotten => "forgotten".to_owned(),
        other => panic!("{other:?}"),
    };
    assert!(matches!(env.forget("a"), Answer::Refused(Refusal::NoSuchAgent { .. })));
    env.join("a", 1, "runner=claude");
    assert_eq!(hint(env.forget("a")), "agent a is connected");
    env.submit("x needs runner=claude");
    env.accept("a", "1/x#1");
    env.drain("a", "drained by me");
    env.leave("a");
    assert_eq!(hint(env.forget("a")), "agent a is unreachable");
    let x = env.key("1/x");
    env.join_as("a", 1, "runner=claude", |hello| hello.conversations = vec![x]);
    env.leave("a");
    assert_eq!(hint(env.forget("a")), "agent a is offline", "it keeps a conversation");
    env.cancel("1");
    env.written();
    assert_eq!(hint(env.forget("a")), "forgotten");
    let gone = Write::ForgetAgent { tenant: ONE, name: "a".into() };
    assert!(env.written().contains(&gone), "its record goes");
    assert_eq!(env.status().agents, [0; 5]);
    assert!(matches!(env.forget("a"), Answer::Refused(Refusal::NoSuchAgent { .. })));
    assert_eq!(&*env.task("1/x").agent, "a", "tasks still tell where they ran");
    // A start does not bring it back, although tasks name it.
    let specs = BTreeMap::from([(RunId(1), tasks("x needs runner=claude"))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    assert_eq!(again.status().agents, [0; 5]);
    assert_eq!(&*again.task("1/x").agent, "a");
    // It is known again when it joins, without what was said of it.
    again.join("a", 1, "runner=claude");
    assert_eq!(again.agent("a").state, AgentStateView::Ready);
    env.join("a", 1, "runner=claude");
    assert_eq!(env.agent("a").drain, None);
    let next = env.submit("x needs runner=claude");
    assert_eq!(env.state_of(&format!("{next}/x")), "leased");
}
