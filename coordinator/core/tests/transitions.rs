//! Every state against every event, compared with the tables people read in `docs/states.md`.

mod support;

use orch_core::event::Consultation;
use orch_core::limits::LimitHit;
use orch_core::outcome::Outcome;
use orch_core::state::{RunState, TaskState};
use orch_core::time::Span;
use std::fmt::Write;
use std::sync::Arc;
use support::*;

const DOCUMENT: &str = include_str!("../../../docs/states.md");

/// What happens to an environment, and what it is called.
type Step = (&'static str, fn(&mut Env));

/// States that can be reached now, each with how to bring task `t` of run 1 into it. `d` is its dependency.
const STATES: [Step; 11] = [
    ("blocked", |env| {
        env.submit("d\nt after d");
    }),
    ("queued", |env| {
        env.submit("d\nt");
        env.report("box-1", "1/d#1", Outcome::OK);
        env.cancel("1/t");
        env.retry("1/t", false);
    }),
    ("leased", |env| {
        env.submit("t");
    }),
    ("running", |env| {
        env.submit("t");
        env.accept("box-1", "1/t#1");
    }),
    ("verifying", |env| {
        env.submit("t reviewed repairs 1\nr reviews t");
        env.report("box-1", "1/t#1", Outcome::OK);
    }),
    ("waiting_retry", |env| {
        env.submit("t");
        env.report("box-1", "1/t#1", API_ERROR);
    }),
    ("parked", |env| {
        env.submit("t");
        use_up(env);
    }),
    ("succeeded", |env| {
        env.submit("t");
        env.report("box-1", "1/t#1", Outcome::OK);
    }),
    ("failed", |env| {
        env.submit("t");
        env.report("box-1", "1/t#1", TIMEOUT);
    }),
    ("cancelled", |env| {
        env.submit("t");
        env.accept("box-1", "1/t#1");
        env.cancel("1/t");
    }),
    ("skipped", |env| {
        env.submit("d retries 0\nt after d");
        env.report("box-1", "1/d#1", TIMEOUT);
    }),
];

/// Events, each as it happens to task `t` at its first attempt.
const EVENTS: [Step; 16] = [
    ("dependency succeeds", |env| dependency(env, Outcome::OK)),
    ("dependency fails", |env| dependency(env, TIMEOUT)),
    ("accepted", |env| env.accept("box-1", "1/t#1")),
    ("rejected", |env| env.reject("box-1", "1/t#1")),
    ("report `ok`", |env| env.report("box-1", "1/t#1", Outcome::OK)),
    ("report, retryable", |env| env.report("box-1", "1/t#1", API_ERROR)),
    ("report: a window is used up", use_up),
    ("report, not retryable", |env| env.report("box-1", "1/t#1", TIMEOUT)),
    ("judged: it holds", |env| judge(env, Consultation::Accept { payload: None })),
    ("judged: sent back", |env| {
        judge(env, Consultation::SendBack { payload: Arc::from([2u8].as_slice()), detail: "no".into() });
    }),
    ("judged: refused", |env| {
        judge(
            env,
            Consultation::Refuse { outcome: Outcome::GATE_FAILED, detail: "no".into(), payload: None },
        );
    }),
    ("report of another attempt", |env| env.report("box-1", "1/t#7", Outcome::OK)),
    ("agent lost", |env| {
        env.leave("box-1");
        env.pass_seconds(26);
    }),
    ("30 s pass", |env| env.pass_with_heartbeats(30, &["box-1"])),
    ("cancel", |env| drop(env.cancel("1/t"))),
    ("retry", |env| drop(env.retry("1/t", false))),
];

fn use_up(env: &mut Env) {
    env.report_as("box-1", "1/t#1", Outcome::RATE_LIMITED, |report| {
        report.retry_after = Some(Span::seconds(20));
        report.limit = Some(LimitHit { pool: "team".into(), window: "five_hour".into(), exhausted: true });
    });
}

fn dependency(env: &mut Env, outcome: Outcome) {
    if env.has("1/d") && env.state_of("1/d") == "leased" {
        env.report("box-1", "1/d#1", outcome);
    }
}

/// The review of `t` ends, and the driver reads it.
fn judge(env: &mut Env, answer: Consultation) {
    if env.has("1/r") {
        env.report("box-1", "1/r#1", Outcome::OK);
        env.consult("1/t", answer);
    }
}

/// One agent with one slot. It takes nothing new where a grant would hide the state that is looked for.
fn bring(state: &str, reach: fn(&mut Env)) -> Env {
    let mut env = Env::new();
    env.join("box-1", 1, "");
    reach(&mut env);
    if ["queued", "waiting_retry", "parked"].contains(&state) || env.run(1).state.is_terminal() {
        let session = env.session("box-1");
        env.apply(orch_core::event::Event::AgentDraining { session });
    }
    env
}

#[test]
fn the_document_has_what_happens_in_every_state_at_every_event() {
    let mut table = String::from("| |");
    for (state, _) in STATES {
        let _ = write!(table, " {state} |");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(STATES.len()));
    for (event, happen) in EVENTS {
        let _ = write!(table, "\n| {event} |");
        for (state, reach) in STATES {
            let mut env = bring(state, reach);
            assert_eq!(env.state_of("1/t"), state, "the way to {state}");
            happen(&mut env);
            let after = env.state_of("1/t");
            let shown = if after == state { "·" } else { after };
            let _ = write!(table, " {shown} |");
        }
    }
    assert!(DOCUMENT.contains(&table), "docs/states.md lacks this table:\n{table}");
}

#[test]
fn the_document_has_the_transitions_of_the_code() {
    let tasks = table(&TaskState::ALL, TaskState::may_become);
    assert!(DOCUMENT.contains(&tasks), "docs/states.md lacks this table:\n{tasks}");
    let runs = table(&RunState::ALL, RunState::may_become);
    assert!(DOCUMENT.contains(&runs), "docs/states.md lacks this table:\n{runs}");
}

/// From states down, to states across.
fn table<S: Copy + std::fmt::Display>(states: &[S], may_become: fn(S, S) -> bool) -> String {
    let mut table = String::from("| from \\ to |");
    for state in states {
        let _ = write!(table, " {state} |");
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(states.len()));
    for from in states {
        let _ = write!(table, "\n| {from} |");
        for to in states {
            table.push_str(if may_become(*from, *to) { " yes |" } else { " |" });
        }
    }
    table
}
