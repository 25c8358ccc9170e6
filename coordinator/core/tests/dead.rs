//! Dead letters: what ended as poison is counted, listed and tried again at a person's word, over restarts too.
#![expect(
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect; the rest of an enumeration is one case"
)]

mod support;

use orch_core::Config;
use orch_core::event::Event;
use orch_core::ids::{Epoch, RunId, TaskIndex};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Refusal};
use orch_core::state::{RestoredRun, State};
use std::collections::BTreeMap;
use support::{CRASH, Env, reload, rules, tasks};

const TOP: (RunId, TaskIndex) = (RunId(u64::MAX), TaskIndex(0));

/// Two agents with a slot each.
fn fleet() -> Env {
    let mut env = Env::new();
    env.join("a", 1, "");
    env.join("b", 1, "");
    env
}

/// Has a task crash until it is poison; whatever else is granted ends well.
fn poison(env: &mut Env, task: &str) {
    for _ in 0..40 {
        if env.task(task).outcome == Some(Outcome::POISON) {
            return;
        }
        for line in env.sent().lines() {
            let Some(granted) = line.strip_prefix("grant ") else { continue };
            let (agent, attempt) = granted.split_once(' ').expect("agent and attempt");
            let mine = attempt.split('#').next() == Some(task);
            env.report(agent, attempt, if mine { CRASH } else { Outcome::OK });
        }
        env.pass_with_heartbeats(20, &["a", "b"]);
    }
    panic!("{task} is no poison");
}

fn retried(answer: Answer) -> (u32, bool) {
    match answer {
        Answer::Retried { count, existing, .. } => (count, existing),
        other => panic!("not retried: {other:?}"),
    }
}

#[test]
fn dead_letters_are_listed_newest_run_first_page_by_page_also_of_runs_that_go_on() {
    let mut env = fleet();
    env.submit("x\ny");
    poison(&mut env, "1/x");
    env.submit("x\nz needs gpu=yes");
    poison(&mut env, "2/x");
    assert_eq!((env.run(1).state.word(), env.run(2).state.word()), ("failed", "running"));
    assert_eq!(env.dead(TOP, 10), ["2/x", "1/x"]);
    assert_eq!(env.dead(TOP, 1), ["2/x"]);
    assert_eq!(env.dead((RunId(1), TaskIndex(0)), 10), ["1/x"]);
    assert_eq!(env.dead((RunId(1), TaskIndex(1)), 10), [""; 0]);
    assert_eq!(env.status().dead, 2);
    assert_eq!(env.state.run_record(RunId(1)).expect("a live run").dead, 1);
}

/// Has every task of a run crash until nothing of it is granted any more.
fn poison_all(env: &mut Env, run: u64) {
    for _ in 0..60 {
        for line in env.sent().lines() {
            let Some(granted) = line.strip_prefix("grant ") else { continue };
            let (agent, attempt) = granted.split_once(' ').expect("agent and attempt");
            assert!(attempt.starts_with(&format!("{run}/")), "{attempt}");
            env.report(agent, attempt, CRASH);
        }
        env.pass_with_heartbeats(20, &["a", "b"]);
    }
}

#[test]
fn what_a_page_before_took_of_a_stored_run_leaves_nothing_out_of_the_next() {
    let mut env = fleet();
    env.submit("x retries 9\ny retries 9\nw retries 9\nz needs gpu=yes");
    poison_all(&mut env, 1);
    env.submit("x retries 9\ny retries 9\nw retries 9");
    poison_all(&mut env, 2);
    env.pass_with_heartbeats(700, &["a", "b"]);
    assert!(env.state.run_record(RunId(2)).is_none(), "it is in the store alone");
    assert_eq!(env.dead(TOP, 3), ["run 2: 3"]);
    // A page of three goes on behind the second: the store has one more of run 2, so run 1 must give two.
    assert_eq!(env.dead((RunId(2), TaskIndex(2)), 4), ["run 2: 3", "1/x", "1/y", "1/w"]);
}

#[test]
fn a_dead_retry_takes_what_is_poison_and_nothing_else_and_forgets_its_crashes() {
    let mut env = fleet();
    env.submit("x\nafter after x\nother retries 0");
    let failing = ["1/other#1"];
    for line in env.sent().lines() {
        let Some(granted) = line.strip_prefix("grant ") else { continue };
        let (agent, attempt) = granted.split_once(' ').expect("agent and attempt");
        env.report(agent, attempt, if failing.contains(&attempt) { Outcome::GATE_FAILED } else { CRASH });
    }
    env.pass_with_heartbeats(20, &["a", "b"]);
    poison(&mut env, "1/x");
    assert_eq!(env.state_of("1/other"), "failed");
    assert_eq!(env.state_of("1/after"), "skipped");
    assert_eq!(retried(env.retry_dead("1", "again")), (2, false));
    assert_eq!(env.state_of("1/other"), "failed", "it is no poison");
    assert_eq!((env.state_of("1/x"), env.state_of("1/after")), ("leased", "blocked"));
    let x = env.key("1/x");
    let record = env.state.task_record(x).expect("a task");
    assert_eq!((record.crashes, record.crashed_on.len()), (0, 0));
    assert_eq!(env.dead(TOP, 10), [""; 0]);
    assert_eq!(env.status().dead, 0);
    assert_eq!(retried(env.retry_dead("1", "again")), (2, true), "a repetition does nothing");
    assert!(matches!(env.retry_dead("1", ""), Answer::Refused(Refusal::WrongState { .. })));
    poison(&mut env, "1/x");
    assert_eq!(env.dead(TOP, 10), ["1/x"], "it takes three crashes again");
}

#[test]
fn a_dead_retry_of_one_task_refuses_one_that_failed_otherwise_and_a_plain_retry_takes_poison_too() {
    let mut env = fleet();
    env.submit("x\ny retries 0");
    for line in env.sent().lines() {
        let Some(granted) = line.strip_prefix("grant ") else { continue };
        let (agent, attempt) = granted.split_once(' ').expect("agent and attempt");
        env.report(agent, attempt, if attempt == "1/y#1" { Outcome::GATE_FAILED } else { CRASH });
    }
    env.pass_with_heartbeats(20, &["a", "b"]);
    poison(&mut env, "1/x");
    let Answer::Refused(Refusal::WrongState { what, hint, .. }) = env.retry_dead("1/y", "") else {
        panic!("y is no poison")
    };
    assert_eq!(what, "adhoc/1/y");
    assert!(hint.contains("orchctl ls --dead"), "{hint}");
    assert_eq!(retried(env.retry_dead("1/x", "")), (1, false));
    poison(&mut env, "1/x");
    assert_eq!(retried(env.retry("1/x", false)), (1, false));
    assert_eq!(env.dead(TOP, 10), [""; 0]);
}

#[test]
fn a_restart_knows_dead_letters_whether_their_run_is_live_or_only_in_the_store() {
    let mut env = fleet();
    env.submit("x\ny");
    poison(&mut env, "1/x");
    env.submit("x\nz needs gpu=yes");
    poison(&mut env, "2/x");
    let specs = BTreeMap::from([(RunId(1), tasks("x\ny")), (RunId(2), tasks("x\nz needs gpu=yes"))]);
    let mut again = Env::unstarted(reload(&env.state, &specs));
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    assert_eq!(again.dead(TOP, 10), ["2/x", "1/x"]);

    let record = env.state.run_record(RunId(1)).expect("a live run");
    let mut gone = State::new(Config::new(rules()));
    gone.restore_run(RestoredRun {
        id: RunId(1),
        tenant: record.tenant,
        name: record.name.clone(),
        number: record.number,
        submitted_by: record.submitted_by.clone(),
        created: record.created,
        state: record.state,
        finished: record.finished,
        labels: Vec::new(),
        request_id: record.request_id.clone(),
        spec_digest: *record.spec_digest,
        outcome: record.outcome,
        shape: record.shape.clone(),
        detail: record.detail.clone(),
        task_count: record.task_count,
        dead: record.dead,
        tasks: Vec::new(),
    });
    gone.finish_restore().expect("records fit together");
    let mut again = Env::unstarted(gone);
    again.now = env.now;
    again.apply(Event::Started { epoch: Epoch(2) });
    assert_eq!(again.dead(TOP, 10), ["run 1: 1"]);
}

#[test]
fn a_run_that_left_the_state_keeps_its_dead_letters_until_it_is_deleted() {
    let mut config = Config::new(rules());
    config.keep_runs = orch_core::time::Span::hours(1);
    let mut env = Env::with(config);
    env.join("a", 1, "");
    env.join("b", 1, "");
    env.submit("x");
    poison(&mut env, "1/x");
    env.leave("a");
    env.leave("b");
    env.pass_seconds(15 * 60);
    assert_eq!(env.dead(TOP, 10), ["run 1: 1"]);
    env.pass_seconds(3_600);
    assert_eq!(env.dead(TOP, 10), [""; 0]);
}
