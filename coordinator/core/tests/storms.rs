//! Much at once: a cancel of 10,000 tasks, the loss of agents that hold 10,000, a partition that heals.
//! Measured on the core alone, in the build of the tests; an event must not hold the others up.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test stops at what it did not expect, and tells its figures, for which it needs a clock"
)]

mod support;

use orch_core::effect::{Action, Write};
use orch_core::event::{AgentHello, Event, HeldState, InventoryItem};
use orch_core::ids::{AttemptKey, SessionId, TaskIndex, TaskKey};
use orch_core::state::TaskState;
use orch_core::time::Span;
use orch_core::{apply, check_invariants, next_deadline};
use std::time::{Duration, Instant};
use support::{Env, ONE, target_of};

const TASKS: u32 = 10_000;

fn lines(count: u32) -> String {
    (0..count).map(|at| format!("t{at}\n")).collect()
}

/// A run of 10,000 tasks, all held and accepted by agents of 100 slots each.
fn held() -> Env {
    let mut env = Env::new();
    env.checked = false;
    for agent in 0..TASKS / 100 {
        env.join(&format!("agent-{agent}"), 100, "");
    }
    env.submit(&lines(TASKS));
    let run = env.run_id(1);
    for index in (0..TASKS).map(TaskIndex) {
        let task = TaskKey { run, index };
        let agent = env.state.task_record(task).expect("a task").agent.expect("granted").to_string();
        let session = env.session(&agent);
        env.apply(Event::AttemptAccepted { session, attempt: AttemptKey::new(task, 1) });
    }
    env.sent();
    env.told();
    env.written();
    env
}

/// Applies an event; what it took and wrote is told.
fn timed(env: &mut Env, what: &str, event: Event) -> (Duration, orch_core::effect::Effects) {
    let begun = Instant::now();
    let effects = apply(&mut env.state, env.now, event);
    let took = begun.elapsed();
    println!("{what}: {took:?}, {} writes, {} actions", effects.writes.len(), effects.actions.len());
    check_invariants(&env.state).expect("every rule holds");
    (took, effects)
}

#[test]
fn ten_thousand_tasks_are_cancelled_at_once_queued_or_held() {
    let mut env = Env::new();
    env.checked = false;
    env.submit(&lines(TASKS));
    let cancel = |token| Event::CancelRequested { token, target: target_of("1"), reason: "no".into() };
    let (_, effects) = timed(&mut env, "cancel of 10,000 queued", cancel(orch_core::ids::Token(9)));
    assert_eq!(tasks_written(&effects.writes), TASKS as usize);

    let mut env = held();
    let (_, effects) = timed(&mut env, "cancel of 10,000 held", cancel(orch_core::ids::Token(9)));
    let stops = effects.actions.iter().filter(|action| matches!(action, Action::Stop { .. })).count();
    assert_eq!((stops, tasks_written(&effects.writes)), (TASKS as usize, TASKS as usize));
}

fn tasks_written(writes: &[Write]) -> usize {
    writes.iter().filter(|write| matches!(write, Write::Task { .. })).count()
}

#[test]
fn ten_thousand_leases_of_a_cut_off_fleet_run_out_and_the_partition_heals() {
    let mut env = held();
    let agents = TASKS / 100;
    for agent in 0..agents {
        env.leave(&format!("agent-{agent}"));
    }
    // Nobody is left, so that everything is queued; all deadlines are within one moment.
    let mut events = 0;
    while let Some(due) = next_deadline(&env.state).filter(|due| *due <= env.now.tick + Span::seconds(60)) {
        if due > env.now.tick + Span::seconds(30) || events > 1_000 {
            break;
        }
        env.now.tick = due.max(env.now.tick);
        timed(&mut env, "leases run out", Event::TimePassed);
        events += 1;
    }
    let run = env.run_id(1);
    let state = |env: &Env, index| {
        env.state.task_record(TaskKey { run, index: TaskIndex(index) }).expect("a task").state
    };
    assert!((0..TASKS).all(|index| state(&env, index) == TaskState::Queued));
    // Everybody comes back with what was taken from it.
    let mut longest = Duration::ZERO;
    for agent in 0..agents {
        let inventory = (0..100).map(|at| InventoryItem {
            attempt: AttemptKey::new(TaskKey { run, index: TaskIndex(agent * 100 + at) }, 1),
            state: HeldState::Running,
        });
        let hello = AgentHello {
            session: SessionId(10_000 + u64::from(agent)),
            tenant: ONE,
            name: format!("agent-{agent}").into(),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots: 100,
            capabilities: Vec::new(),
            inventory: inventory.collect(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        let begun = Instant::now();
        apply(&mut env.state, env.now, Event::AgentJoined(Box::new(hello)));
        longest = longest.max(begun.elapsed());
    }
    println!("longest of {agents} joins: {longest:?}");
    // They stop what is no longer theirs and get it, or something else, anew.
    let begun = Instant::now();
    for agent in 0..agents {
        let session = SessionId(10_000 + u64::from(agent));
        let event = Event::HeartbeatReceived { session, seq: 1, held: Vec::new(), load_millis: 0 };
        apply(&mut env.state, env.now, event);
    }
    println!("10,000 grants by {agents} heartbeats: {:?}", begun.elapsed());
    check_invariants(&env.state).expect("every rule holds");
    assert!((0..TASKS).all(|index| state(&env, index) == TaskState::Leased));
}

#[test]
fn one_agent_that_is_lost_with_ten_thousand_attempts_holds_nobody_up() {
    let mut env = Env::new();
    env.checked = false;
    env.join("a", 10_000, "");
    env.submit(&lines(TASKS));
    let run = env.run_id(1);
    for index in (0..TASKS).map(TaskIndex) {
        let attempt = AttemptKey::new(TaskKey { run, index }, 1);
        env.apply(Event::AttemptAccepted { session: env.session("a"), attempt });
    }
    env.leave("a");
    env.now.tick = env.now.tick + Span::seconds(25);
    let mut steps = Vec::new();
    while next_deadline(&env.state).is_some_and(|due| due <= env.now.tick) {
        let (_, effects) = timed(&mut env, "one agent lost with 10,000", Event::TimePassed);
        steps.push(tasks_written(&effects.writes));
    }
    assert_eq!(steps, [1_000; 10], "in steps, between which others have their turn");
}
