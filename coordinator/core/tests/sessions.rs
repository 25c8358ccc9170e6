//! Agents that come, go silent, come back, drain and pretend: leases, inventories and streams.

mod support;

use orch_core::Config;
use orch_core::effect::{Action, Write};
use orch_core::event::{Event, Heard, HeldAttempt, HeldState};
use orch_core::ids::{Epoch, RunId, TenantId};
use orch_core::outcome::Outcome;
use orch_core::query::AgentStateView;
use orch_core::time::Span;
use std::collections::BTreeMap;
use support::*;

const NOOP: &str = "runner=noop";

/// `box-1` runs `1/a` and stops talking; `box-2` could take over.
fn one_running(line: &str) -> Env {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit(line);
    env.accept("box-1", "1/a#1");
    env.join("box-2", 1, NOOP);
    env.sent();
    env
}

#[test]
fn fast_work_of_a_lost_agent_starts_elsewhere_after_25_seconds() {
    let mut env = one_running("a");
    env.leave("box-1");
    assert_eq!(env.agent("box-1").state, AgentStateView::Unreachable);
    assert_eq!(env.agent("box-1").requeue_in, Some(Span::seconds(25)));
    env.pass_with_heartbeats(20, &["box-2"]);
    assert_eq!(env.state_of("1/a"), "running");
    env.pass_with_heartbeats(5, &["box-2"]);
    assert_eq!(&*env.task("1/a").agent, "box-2");
    assert_eq!(env.agent("box-1").state, AgentStateView::Offline);
}

#[test]
fn waiting_work_of_a_lost_agent_starts_elsewhere_after_10_minutes() {
    let mut env = one_running("a wait");
    env.leave("box-1");
    env.pass_with_heartbeats(595, &["box-2"]);
    assert_eq!(&*env.task("1/a").agent, "box-1");
    env.pass_with_heartbeats(5, &["box-2"]);
    assert_eq!(&*env.task("1/a").agent, "box-2");
}

#[test]
fn an_agent_that_only_falls_silent_is_unreachable_after_15_seconds_and_comes_back_with_a_word() {
    let mut env = one_running("a");
    env.told();
    env.pass_with_heartbeats(15, &["box-2"]);
    assert_eq!(env.told(), "box-1 unreachable");
    env.heartbeat("box-1", &["1/a#1"]);
    assert_eq!(env.told(), "box-1 ready");
    assert_eq!(env.state_of("1/a"), "running");
}

#[test]
fn an_agent_that_was_answered_elsewhere_counts_as_heard_from_then_on() {
    let mut env = Env::new();
    let session = env.join("box-1", 1, NOOP);
    env.told();
    env.pass_seconds(10);
    let heard = Heard { session, at: env.now.tick, load_millis: 700 };
    env.pass_seconds(2);
    env.apply(Event::AgentsHeard(vec![heard]));
    assert_eq!(env.sent(), "welcome box-1", "the answer was given before");
    env.pass_seconds(12);
    assert_eq!(env.told(), "");
    env.pass_seconds(1);
    assert_eq!(env.told(), "box-1 offline", "15 seconds after it was heard, not after that was told");
    env.apply(Event::AgentsHeard(vec![Heard { at: env.now.tick, ..heard }, heard]));
    assert_eq!(env.told(), "box-1 ready");
    env.pass_seconds(14);
    assert_eq!(env.told(), "", "what was heard earlier does not count instead");
    env.join("box-2", 1, NOOP);
    env.apply(Event::AgentsHeard(vec![Heard { at: env.now.tick, ..heard }]));
    env.submit("a");
    assert_eq!(&*env.task("1/a").agent, "box-2", "the load counts too");
}

#[test]
fn only_an_agent_that_holds_nothing_and_stops_nothing_is_idle() {
    let mut env = one_running("a");
    let idle = |env: &mut Env, held: &[&str]| {
        let held = held.iter().map(|name| env.attempt(name));
        let held = held.map(|attempt| HeldAttempt { attempt, num_turns: 0, cost_micro_usd: 0 }).collect();
        let session = env.session("box-1");
        let beat = Event::HeartbeatReceived { session, seq: 1, held, load_millis: 0 };
        let effects = orch_core::machine::apply(&mut env.state, env.now, beat);
        let acks = effects.actions.iter().filter_map(|action| {
            if let Action::HeartbeatAck { idle, .. } = action { Some(*idle) } else { None }
        });
        acks.collect::<Vec<_>>()
    };
    assert_eq!(idle(&mut env, &["1/a#1"]), [false]);
    assert_eq!(idle(&mut env, &[]), [false], "it may have lost what it holds");
    env.cancel("1/a");
    assert_eq!(idle(&mut env, &["1/a#1"]), [false], "it has not stopped it yet");
    assert_eq!(idle(&mut env, &[]), [true]);
}

#[test]
fn work_that_a_talking_agent_no_longer_lists_is_lost_and_fenced() {
    let mut env = one_running("a");
    for _ in 0..5 {
        env.heartbeat("box-1", &[]);
        env.pass_with_heartbeats(5, &["box-2"]);
    }
    let task = env.task("1/a");
    assert_eq!((&*task.agent, task.attempt), ("box-2", 2));
    assert!(env.sent().contains("stop box-1 1/a#1 fenced"));
}

#[test]
fn a_grant_that_is_not_accepted_in_30_seconds_goes_elsewhere_and_is_no_failure() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a retries 0");
    env.join("box-2", 1, NOOP);
    env.sent();
    env.pass_with_heartbeats(30, &["box-1", "box-2"]);
    let sent = env.sent();
    assert!(sent.contains("stop box-1 1/a#1 fenced") && sent.contains("grant box-2 1/a#2"), "{sent}");
    env.report("box-2", "1/a#2", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded");
}

#[test]
fn waiting_work_that_a_talking_agent_never_accepts_goes_elsewhere_after_10_minutes_and_is_no_failure() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a wait retries 0 timeout 36000");
    env.join("box-2", 1, NOOP);
    env.sent();
    env.pass_with_heartbeats(595, &["box-1", "box-2"]);
    assert!(!env.sent().contains("stop"), "it may be on its way");
    env.pass_with_heartbeats(5, &["box-1", "box-2"]);
    let sent = env.sent();
    assert!(sent.contains("stop box-1 1/a#1 fenced") && sent.contains("grant box-2 1/a#2"), "{sent}");
    let a = env.key("1/a");
    let record = env.state.task_record(a).expect("a task");
    assert_eq!((record.crashes, record.attempts.len()), (0, 0));
    env.report("box-2", "1/a#2", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded");
}

#[test]
fn a_rejected_task_goes_elsewhere_and_the_agent_is_spared_its_kind_for_30_seconds() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a needs runner=noop retries 0");
    env.reject("box-1", "1/a#1");
    assert_eq!(env.state_of("1/a"), "queued");
    assert_eq!(&*env.task("1/a").detail, "box-1 did not take it: disk is full");
    env.submit("other");
    assert_eq!(env.state_of("2/other"), "leased", "another kind is not spared");
    env.report("box-1", "2/other#1", Outcome::OK);
    env.pass_with_heartbeats(25, &["box-1"]);
    assert_eq!(env.state_of("1/a"), "queued");
    env.pass_with_heartbeats(5, &["box-1"]);
    assert_eq!(env.state_of("1/a"), "leased");
}

#[test]
fn a_restarted_agent_is_tried_again_at_once() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.reject("box-1", "1/a#1");
    env.join("box-1", 1, NOOP);
    assert_eq!(env.state_of("1/a"), "queued", "the same process");
    env.join_as("box-1", 1, NOOP, |hello| hello.incarnation = [2; 16]);
    assert_eq!(env.state_of("1/a"), "leased");
}

#[test]
fn a_rejection_is_not_held_against_another_kind_that_comes_in_its_place() {
    let mut config = Config::new(rules());
    config.max_finished = 0;
    let mut env = Env::with(config);
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.reject("box-1", "1/a#1");
    env.cancel("1");
    env.pass_with_heartbeats(10, &["box-1"]);
    env.submit("b needs runner=noop");
    assert_eq!(env.state_of("2/b"), "leased");
}

#[test]
fn an_attempt_far_past_its_limit_is_taken_for_lost_although_it_is_listed() {
    let mut env = one_running("a timeout 60");
    env.pass_with_heartbeats(655, &["box-1", "box-2"]);
    assert_eq!(env.task("1/a").attempt, 1);
    env.pass_with_heartbeats(10, &["box-1", "box-2"]);
    assert_eq!(&*env.task("1/a").agent, "box-2");
}

#[test]
fn an_inventory_is_judged_attempt_by_attempt() {
    let mut env = Env::new();
    env.join("box-1", 4, NOOP);
    env.submit("runs\nends\nnever\nlost");
    for task in ["runs", "ends", "lost"] {
        env.accept("box-1", &format!("1/{task}#1"));
    }
    let held = [
        (env.attempt("1/runs#1"), HeldState::Running),
        (env.attempt("1/ends#1"), HeldState::Finished),
        (env.attempt("1/lost#9"), HeldState::Running),
    ];
    env.leave("box-1");
    env.sent();
    env.join_as("box-1", 5, NOOP, |hello| hello.inventory = inventory(&held));
    assert_eq!(
        env.sent(),
        "welcome box-1 keep 1/runs#1, send report 1/ends#1, cancel 1/lost#9\n\
         grant box-1 1/never#1\ngrant box-1 1/lost#2"
    );
    assert_eq!(env.agent("box-1").slots_used, 5, "what is being stopped keeps its slot");
}

#[test]
fn a_grant_that_is_sent_again_gets_the_whole_time_to_be_accepted() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.pass_with_heartbeats(20, &["box-1"]);
    env.join("box-1", 1, NOOP);
    env.sent();
    env.pass_with_heartbeats(25, &["box-1"]);
    assert!(!env.sent().contains("stop"));
    env.pass_with_heartbeats(5, &["box-1"]);
    assert!(env.sent().contains("stop box-1 1/a#1 fenced"));
}

#[test]
fn an_attempt_whose_record_is_on_its_way_is_not_called_unknown() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    env.accept("box-1", "1/a#1");
    env.report("box-1", "1/a#1", Outcome::OK);
    env.sent();
    env.heartbeat("box-1", &["1/a#1"]);
    assert_eq!(env.sent(), "ack box-1");
    env.heartbeat("box-1", &["1/a#2"]);
    assert_eq!(env.sent(), "ack box-1 unknown 1/a#2");
}

#[test]
fn accepted_work_found_in_an_inventory_counts_as_accepted() {
    let mut env = Env::new();
    env.join("box-1", 1, NOOP);
    env.submit("a");
    let held = [(env.attempt("1/a#1"), HeldState::Running)];
    env.join_as("box-1", 1, NOOP, |hello| hello.inventory = inventory(&held));
    assert_eq!(env.state_of("1/a"), "running");
}

#[test]
fn a_new_stream_supersedes_the_old_and_the_end_of_the_old_is_harmless() {
    let mut env = one_running("a");
    let old = env.session("box-1");
    let held = [(env.attempt("1/a#1"), HeldState::Running)];
    env.join_as("box-1", 1, NOOP, |hello| hello.inventory = inventory(&held));
    assert_eq!(env.sent(), "close box-1 superseded\nwelcome box-1 keep 1/a#1");
    env.apply(Event::SessionEnded { session: old });
    assert_eq!(env.agent("box-1").state, AgentStateView::Ready);
    env.apply(Event::HeartbeatReceived { session: old, seq: 1, held: Vec::new(), load_millis: 0 });
    assert_eq!(env.sent(), "", "nothing is said on a stream that ended");
}

#[test]
fn two_processes_with_one_identity_are_both_refused() {
    let mut env = Env::new();
    let join = |env: &mut Env, incarnation| {
        env.join_as("box-1", 1, NOOP, |hello| hello.incarnation = [incarnation; 16]);
    };
    for incarnation in [1, 2, 1] {
        join(&mut env, incarnation);
        env.pass_seconds(1);
    }
    env.sent();
    join(&mut env, 2);
    assert_eq!(env.sent(), "close box-1 cloned identity\nclose box-1 cloned identity");
    join(&mut env, 1);
    assert_eq!(env.sent(), "close box-1 cloned identity");
    env.pass_seconds(60);
    join(&mut env, 1);
    assert_eq!(env.sent(), "welcome box-1");
}

#[test]
fn a_second_hello_on_a_stream_is_a_violation() {
    let mut env = Env::new();
    let session = env.join("box-1", 1, NOOP);
    env.join_as("box-2", 1, NOOP, |hello| hello.session = session);
    assert_eq!(env.agent("box-1").state, AgentStateView::Offline);
}

#[test]
fn a_draining_agent_gets_nothing_new_and_finishes_what_it_has() {
    let mut env = one_running("a");
    let session = env.session("box-1");
    env.leave("box-2");
    env.apply(Event::AgentDraining { session });
    assert_eq!(env.agent("box-1").state, AgentStateView::Draining);
    env.submit("b");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!([env.state_of("1/a"), env.state_of("2/b")], ["succeeded", "queued"]);
}

#[test]
fn a_draining_coordinator_refuses_submits_and_grants_nothing() {
    let mut env = one_running("a");
    env.submit("b\nc");
    env.apply(Event::DrainStarted);
    assert_eq!(env.refused("d").to_string(), "the coordinator is shutting down");
    env.report("box-1", "1/a#1", Outcome::OK);
    assert_eq!(env.state_of("2/c"), "queued");
    assert_eq!(env.state_of("1/a"), "succeeded", "what runs is still recorded");
}

#[test]
fn the_limit_on_agents_closes_the_stream() {
    let mut config = Config::new(rules());
    config.max_agents = 1;
    let mut env = Env::with(config);
    env.join("box-1", 1, NOOP);
    env.join("box-2", 1, NOOP);
    assert_eq!(env.sent(), "welcome box-1\nclose box-2 capacity");
}

#[test]
fn agents_are_written_when_they_change_and_not_when_they_only_reconnect() {
    let mut env = Env::new();
    let writes =
        |env: &mut Env| env.written().iter().filter(|write| matches!(write, Write::Agent(_))).count();
    env.join("box-1", 1, NOOP);
    assert_eq!(writes(&mut env), 1);
    env.join("box-1", 1, NOOP);
    assert_eq!(writes(&mut env), 0);
    env.join("box-1", 2, NOOP);
    assert_eq!(writes(&mut env), 1);
    env.join("box-1", 2, "runner=noop gpu=yes");
    assert_eq!(writes(&mut env), 1);
    env.join_as("box-1", 2, "runner=noop gpu=yes", |hello| hello.incarnation = [2; 16]);
    assert_eq!(writes(&mut env), 1);
}

#[test]
fn after_a_restart_nobody_is_requeued_for_two_minutes_and_held_work_goes_on() {
    let mut env = one_running("a\nb");
    let specs = BTreeMap::from([(RunId(1), tasks("a\nb"))]);
    env.accept("box-2", "1/b#1");
    let held = env.attempt("1/a#1");
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.pass_seconds(3_600);
    again.apply(Event::Started { epoch: Epoch(2) });
    assert_eq!(again.state_of("1/a"), "running");
    again.join_as("box-1", 1, NOOP, |hello| hello.inventory = inventory(&[(held, HeldState::Running)]));
    assert_eq!(again.sent(), "welcome box-1 keep 1/a#1");
    again.pass_with_heartbeats(115, &["box-1"]);
    assert_eq!(again.state_of("1/b"), "running");
    again.report("box-1", "1/a#1", Outcome::OK);
    again.pass_with_heartbeats(5, &["box-1"]);
    let task = again.task("1/b");
    assert_eq!((&*task.agent, task.attempt), ("box-1", 2));
}

#[test]
fn a_coordinator_that_was_stopped_requeues_nobody_who_is_still_there() {
    let mut env = one_running("a\nb");
    env.accept("box-2", "1/b#1");
    env.sent();
    env.now.tick = env.now.tick + Span::minutes(3);
    env.apply(Event::Stalled { away: Span::minutes(3) });
    env.apply(Event::TimePassed);
    assert_eq!((env.state_of("1/a"), env.state_of("1/b")), ("running", "running"));
    assert_eq!(env.sent(), "");
    // One was there all the time; the other is not: it is lost 25 seconds later, and the grace of 15 after that.
    env.pass_with_heartbeats(35, &["box-1"]);
    assert_eq!((env.task("1/a").attempt, env.task("1/b").attempt), (1, 1));
    env.pass_with_heartbeats(6, &["box-1"]);
    assert_eq!(env.state_of("1/a"), "running");
    assert_eq!(env.state_of("1/b"), "queued");
}

#[test]
fn nothing_is_granted_before_the_start_is_announced() {
    let mut env = Env::unstarted(orch_core::State::new(Config::new(rules())));
    env.join("box-1", 1, NOOP);
    env.submit("a");
    assert_eq!(env.sent(), "welcome box-1");
    env.apply(Event::Started { epoch: Epoch(1) });
    assert_eq!(env.sent(), "grant box-1 1/a#1");
}

#[test]
fn an_agent_of_another_tenant_is_not_used_seen_or_heard() {
    let mut env = Env::new();
    env.submit("a needs runner=claude");
    let task = env.key("1/a");
    env.join_as("box-1", 1, "runner=claude", |hello| {
        hello.tenant = TenantId(2);
        hello.conversations = vec![task];
    });
    assert_eq!(env.state_of("1/a"), "queued");
    env.join("box-0", 1, "runner=claude");
    assert_eq!(&*env.task("1/a").agent, "box-0");
    env.cancel("1/a");
    env.leave("box-0");
    env.submit("a");
    env.join("box-2", 1, NOOP);
    env.sent();
    env.report("box-1", "2/a#1", Outcome::OK);
    assert_eq!(env.sent(), "verdict box-1 2/a#1 fenced");
    let (_, reasons, _) = env.explain("2/a");
    assert!(reasons.iter().all(|reason| !reason.text.contains("box-1")), "{reasons:?}");
}
