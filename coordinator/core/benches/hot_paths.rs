//! What the core costs where it is asked most: `cargo bench -p orch-core`, one of them with a part of its name behind `--`.
//! Everything here is the pure core: no disk, no network, no encoding. Each figure is of one event, or of the number of
//! things that its name says.

#[path = "../tests/support/mod.rs"]
mod support;

use criterion::{BatchSize, Criterion, Throughput};
use orch_core::apply;
use orch_core::effect::{Action, Effects};
use orch_core::event::{Event, HeldAttempt};
use orch_core::ids::{AttemptKey, SessionId, TaskIndex, Token};
use orch_core::outcome::Outcome;
use orch_core::query::Query;
use orch_core::state::State;
use std::hint::black_box;
use support::{Env, ONE, reload, report, run_target, submission, tasks};

/// Tasks of a large submit.
const SUBMITTED: usize = 10_000;
/// Tasks that an agent works through in one measurement.
const WORKED: usize = 1_000;
/// Leases of an agent whose heartbeats are measured.
const LEASED: usize = 1_000;
/// Tasks that a start reads back.
const RESTORED: usize = 100_000;
/// Tasks that a watcher is shown at a time.
const PAGE: usize = 1_000;

fn lines(count: usize) -> String {
    (0..count).map(|at| format!("t{at}\n")).collect()
}

/// A coordinator that checks nothing: checks take time for each task.
fn unchecked() -> Env {
    let mut env = Env::new();
    env.checked = false;
    env
}

fn submit(lines: &str) -> Event {
    Event::Submitted(Box::new(submission(Token(1), lines)))
}

fn granted(effects: &Effects) -> impl Iterator<Item = AttemptKey> + '_ {
    effects
        .actions
        .iter()
        .filter_map(|action| if let Action::Grant { attempt, .. } = action { Some(*attempt) } else { None })
}

fn submits(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("submit");
    for count in [1, SUBMITTED] {
        let event = submit(&lines(count));
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("one run of {count} tasks"), |bencher| {
            let setup = || (unchecked(), event.clone());
            bencher.iter_batched_ref(
                setup,
                |(env, event)| {
                    black_box(apply(&mut env.state, env.now, std::mem::replace(event, Event::TimePassed)))
                },
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// An agent of two slots, and a run of [`WORKED`] tasks behind `waiting` others that it cannot take.
fn at_work(waiting: usize) -> (Env, SessionId, Vec<AttemptKey>) {
    let mut env = unchecked();
    if waiting > 0 {
        let others: String = (0..waiting).map(|at| format!("o{at} needs gpu=yes\n")).collect();
        env.submit(&others);
    }
    let session = env.join("box-1", 2, "");
    let effects = apply(&mut env.state, env.now, submit(&lines(WORKED)));
    let first = granted(&effects).collect();
    (env, session, first)
}

/// Accepts and reports whatever is granted, until nothing is. Returns how many tasks that were.
fn work(env: &mut Env, session: SessionId, mut held: Vec<AttemptKey>) -> usize {
    let mut done = 0;
    while let Some(attempt) = held.pop() {
        let accepted = Event::AttemptAccepted { session, attempt };
        held.extend(granted(&apply(&mut env.state, env.now, accepted)));
        let report = Box::new(report(attempt, Outcome::OK));
        let reported = Event::AttemptReported { session, report };
        held.extend(granted(&apply(&mut env.state, env.now, reported)));
        done += 1;
    }
    done
}

fn grants(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("grant, accept and report");
    group.throughput(Throughput::Elements(WORKED as u64)).sample_size(20);
    for waiting in [0, RESTORED] {
        group.bench_function(format!("{WORKED} tasks behind {waiting} others"), |bencher| {
            bencher.iter_batched_ref(
                || at_work(waiting),
                |(env, session, held)| assert_eq!(work(env, *session, std::mem::take(held)), WORKED),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn heartbeats(criterion: &mut Criterion) {
    let mut env = unchecked();
    let session = env.join("box-1", LEASED as u32, "");
    let effects = apply(&mut env.state, env.now, submit(&lines(LEASED)));
    let held: Vec<HeldAttempt> =
        granted(&effects).map(|attempt| HeldAttempt { attempt, num_turns: 1, cost_micro_usd: 500 }).collect();
    assert_eq!(held.len(), LEASED);
    for item in &held {
        apply(&mut env.state, env.now, Event::AttemptAccepted { session, attempt: item.attempt });
    }
    let event = Event::HeartbeatReceived { session, seq: 1, held, load_millis: 0 };
    let mut group = criterion.benchmark_group("heartbeat");
    group.throughput(Throughput::Elements(LEASED as u64));
    group.bench_function(format!("{LEASED} leases"), |bencher| {
        bencher.iter_batched(
            || event.clone(),
            |event| black_box(apply(&mut env.state, env.now, event)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// What the core does for people who watch: the page of a snapshot and the figures of the status. Events are made once,
/// however many watch; they fan out beyond the core.
fn watches(criterion: &mut Criterion) {
    let mut env = unchecked();
    env.join("box-1", 2, "");
    env.submit(&lines(RESTORED));
    let page = Query::Tasks {
        target: run_target(1),
        from: TaskIndex(RESTORED as u32 / 2),
        limit: PAGE,
        states: Vec::new(),
    };
    let mut group = criterion.benchmark_group("watch");
    for (name, query) in [("a page of a run", page), ("the status", Query::Status)] {
        group.bench_function(format!("{name}, {RESTORED} tasks queued"), |bencher| {
            let asked = || Event::Asked { token: Token(2), tenant: ONE, query: query.clone() };
            bencher.iter_batched(
                asked,
                |event| black_box(apply(&mut env.state, env.now, event)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn restores(criterion: &mut Criterion) {
    let lines = lines(RESTORED);
    let mut env = unchecked();
    env.submit(&lines);
    let run = env.run_id(1);
    let specs = [(run, tasks(&lines))].into();
    let mut group = criterion.benchmark_group("restore");
    group.throughput(Throughput::Elements(RESTORED as u64)).sample_size(10);
    group.bench_function(format!("{RESTORED} queued tasks, with a copy of their records"), |bencher| {
        bencher.iter_with_large_drop(|| -> State { reload(&env.state, &specs) });
    });
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    submits(&mut criterion);
    grants(&mut criterion);
    heartbeats(&mut criterion);
    watches(&mut criterion);
    restores(&mut criterion);
    criterion.final_summary();
}
