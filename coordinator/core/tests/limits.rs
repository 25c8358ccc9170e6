//! Limits of credential pools as tasks feel them: closed pools, parked conversations, starts, warm beginnings, circuits,
//! permits, and what people are told.

#![expect(
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod support;

use orch_core::event::{AgentHello, Event};
use orch_core::limits::{
    AgentPool, Amounts, BucketSettings, LimitHit, LimitReport, LimitSignal, Meter, MeterId, PoolSettings,
    PoolState, PoolView, SignalKind,
};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query};
use orch_core::time::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use support::*;

fn pool(name: &str, fingerprint: u8) -> AgentPool {
    AgentPool { name: name.into(), workers: Vec::new(), gateway: true, fingerprint: vec![fingerprint] }
}

fn uses(name: &'static str) -> impl FnOnce(&mut AgentHello) {
    move |hello| hello.pools = vec![pool(name, 1)]
}

/// Tasks of worker marie on opus, whose prompts begin alike unless `prefix` is 0.
fn submit(env: &mut Env, prefix: u64, lines: &str) -> u64 {
    let answer = env.submit_as(
        |submit| {
            for task in &mut submit.tasks {
                task.worker = "marie".into();
                task.meter = Some(Meter { model_class: "opus".into(), pool: None, prefix });
            }
        },
        lines,
    );
    match answer {
        Answer::Submitted { run: Some(run), .. } => number(&run),
        other => panic!("not submitted: {other:?}"),
    }
}

fn signal(env: &mut Env, agent: &str, kind: SignalKind, seconds: Option<u64>) {
    let signal = LimitSignal {
        pool: "team".into(),
        model_class: "".into(),
        kind,
        retry_after: seconds.map(Span::seconds),
        window: if kind == SignalKind::Exhausted { "five_hour".into() } else { "".into() },
        detail: "".into(),
    };
    let session = env.session(agent);
    env.apply(Event::LimitSignalled { session, signal: Box::new(signal) });
}

fn configure(env: &mut Env, settings: PoolSettings) {
    env.apply(Event::LimitsConfigured { pools: vec![("team".into(), settings)] });
}

fn buckets(requests: u64, input: u64) -> PoolSettings {
    let row = BucketSettings { requests: Some(requests), input: Some(input), output: None };
    PoolSettings { buckets: vec![("".into(), row)], ..PoolSettings::default() }
}

fn amounts(requests: u64, input: u64, concurrent: u64) -> Amounts {
    Amounts { requests, input, output: 0, concurrent }
}

fn tell(env: &mut Env, agent: &str, change: impl FnOnce(&mut LimitReport)) {
    let mut report = LimitReport {
        meter: MeterId { pool: "team".into(), model_class: "opus".into(), worker: "marie".into() },
        granted: Amounts::default(),
        used: Amounts::default(),
        returned: Amounts::default(),
        wanted: Amounts::default(),
        waiting: 0,
        headers: None,
    };
    change(&mut report);
    let session = env.session(agent);
    env.apply(Event::LimitsReported { session, report: Box::new(report) });
}

fn park(env: &mut Env, agent: &str, attempt: &str, seconds: u64) {
    env.report_as(agent, attempt, Outcome::RATE_LIMITED, |report| {
        report.retry_after = Some(Span::seconds(seconds));
        report.pool = "team".into();
        report.limit = Some(LimitHit { pool: "team".into(), window: "five_hour".into(), exhausted: true });
    });
}

fn view(env: &mut Env) -> PoolView {
    match env.ask(Query::Limits(Some("team".into()))) {
        Answer::Limits(views) => views.into_iter().next().expect("a pool"),
        other => panic!("no limits: {other:?}"),
    }
}

fn grants(sent: &str) -> Vec<&str> {
    sent.lines().filter_map(|line| line.strip_prefix("grant ")).collect()
}

#[test]
fn a_used_up_window_closes_the_pool_on_all_hosts_at_once_and_no_other_pool() {
    let mut env = Env::new();
    env.join_as("box-1", 2, "", uses("team"));
    env.join_as("box-2", 2, "", uses("team"));
    env.sent();
    signal(&mut env, "box-1", SignalKind::Exhausted, Some(250));
    assert_eq!(env.sent(), "pool box-1 team Exhausted\npool box-2 team Exhausted");
    submit(&mut env, 0, "a\nb\nc");
    assert!(grants(&env.sent()).is_empty());
    let text = "window five_hour of pool team is used up for another 4 min 10 s; an agent with another pool would help";
    let (summary, reasons, _) = env.explain("1/a");
    assert_eq!(summary, text);
    assert!(reasons.iter().any(|reason| reason.kind == "limit" && !reason.satisfied));
    assert_eq!((env.status().queued, env.status().demand.limits), (3, 3), "no demand for more agents");
    assert_eq!((env.status().demand.limits, env.status().demand.pending_slots), (3, 0));
    env.join_as("box-3", 1, "", uses("other"));
    assert_eq!(grants(&env.sent()), ["box-3 1/a#1"]);
    env.accept("box-3", "1/a#1");
    assert_eq!(env.status().demand.limits, 0, "the other pool is open and only full");
    env.join_as("box-4", 0, "", uses("team"));
    assert!(env.sent().contains("pool box-4 team Exhausted"), "who comes later is told as well");
    env.pass_with_heartbeats(245, &["box-1", "box-2", "box-3"]);
    let sent = env.sent();
    assert!(grants(&sent).is_empty(), "nothing starts before the reset: {sent}");
    env.pass_with_heartbeats(5, &["box-1", "box-2", "box-3"]);
    assert_eq!(grants(&env.sent()).len(), 2);
    assert_eq!(view(&mut env).state, PoolState::Open);
}

#[test]
fn a_conversation_that_a_limit_interrupted_is_parked_without_a_slot_and_goes_on_where_it_is_kept() {
    let mut env = Env::new();
    env.join_as("box-1", 1, "runner=claude", uses("team"));
    env.join_as("box-2", 1, "runner=claude", uses("team"));
    submit(&mut env, 0, "a needs runner=claude retries 0\nb needs runner=claude retries 0");
    let (first, second) = (env.task("1/a").agent.to_string(), env.task("1/b").agent.to_string());
    env.accept(&first, "1/a#1");
    env.accept(&second, "1/b#1");
    park(&mut env, &first, "1/a#1", 100);
    park(&mut env, &second, "1/b#1", 100);
    submit(&mut env, 0, "c needs runner=claude\nd needs runner=claude");
    env.sent();
    let task = env.task("1/a");
    assert_eq!((task.state.word(), task.outcome, env.agent(&first).slots_used), ("parked", None, 0));
    assert_eq!(view(&mut env).parked, 2);
    let (summary, reasons, _) = env.explain("1/a");
    assert!(
        summary.starts_with("parked: window five_hour of pool team is used up; goes on in 1 min 4"),
        "{summary}"
    );
    assert!(summary.ends_with(&format!("on {first}")), "{summary}");
    assert_eq!(reasons[0].help.as_deref(), Some("orchctl retry adhoc/1/a"));
    let specs =
        BTreeMap::from([(env.run_id(1), tasks("a needs runner=claude retries 0\nb needs runner=claude"))]);
    let after = reload(&env.state, &specs);
    let record = |state: &orch_core::state::State, env: &Env| {
        state.task_record(env.key("1/a")).map(|record| record.to_progress())
    };
    assert_eq!(
        record(&after, &env),
        record(&env.state, &env),
        "a restart keeps it parked, with its wake time"
    );
    env.pass_with_heartbeats(95, &["box-1", "box-2"]);
    assert!(grants(&env.sent()).is_empty(), "nothing starts before the reset");
    env.pass_seconds(8);
    let sent = env.sent();
    let mut granted = grants(&sent);
    granted.sort_unstable();
    let mut wanted = [format!("{first} 1/a#2"), format!("{second} 1/b#2")];
    wanted.sort();
    assert_eq!(granted, wanted, "who was interrupted goes on before anybody else");
    let attempt = env.attempt("1/a#2");
    let interrupted = env.state.grant_view(attempt).and_then(|grant| grant.interrupted);
    assert_eq!(interrupted.map(|ended| ended.outcome), Some(Outcome::RATE_LIMITED));
    env.report(&first, "1/a#2", Outcome::OK);
    assert_eq!(env.state_of("1/a"), "succeeded", "it used no retry");
}

#[test]
fn many_parked_conversations_do_not_wake_in_one_millisecond() {
    let mut env = Env::new();
    env.join_as("box-1", 20, "runner=claude", uses("team"));
    let lines: Vec<String> = (0..20).map(|index| format!("t{index} needs runner=claude")).collect();
    submit(&mut env, 0, &lines.join("\n"));
    for index in 0..20 {
        park(&mut env, "box-1", &format!("1/t{index}#1"), 5);
    }
    let wakes: BTreeSet<u64> =
        (0..20).filter_map(|index| env.task(&format!("1/t{index}")).retry_in).map(|left| left.0).collect();
    assert!(wakes.len() > 15 && wakes.iter().all(|wake| (5_001..7_502).contains(wake)), "{wakes:?}");
    env.pass_with_heartbeats(8, &["box-1"]);
    assert_eq!(env.agent("box-1").slots_used, 20);
}

#[test]
fn a_parked_task_can_be_cancelled_and_woken_and_waits_on_when_the_window_is_used_up_again() {
    let mut env = Env::new();
    env.join_as("box-1", 3, "", uses("team"));
    submit(&mut env, 0, "a\nb\nc");
    for task in ["a", "b", "c"] {
        park(&mut env, "box-1", &format!("1/{task}#1"), 50);
    }
    env.cancel("1/a");
    assert_eq!(env.state_of("1/a"), "cancelled");
    env.retry("1/b", false);
    assert_eq!(env.state_of("1/b"), "queued", "woken, but its pool is closed");
    env.pass_with_heartbeats(20, &["box-1"]);
    signal(&mut env, "box-1", SignalKind::Exhausted, Some(100));
    env.pass_with_heartbeats(40, &["box-1"]);
    assert_eq!(env.state_of("1/c"), "parked", "the window is used up for longer than was thought");
    env.pass_with_heartbeats(70, &["box-1"]);
    assert_eq!((env.state_of("1/b"), env.state_of("1/c")), ("leased", "leased"));
}

#[test]
fn a_throttle_is_no_used_up_window_and_stops_no_start() {
    let mut env = Env::new();
    env.join_as("box-1", 1, "", uses("team"));
    env.join_as("box-2", 1, "", uses("team"));
    env.sent();
    signal(&mut env, "box-1", SignalKind::Throttled, Some(3));
    assert_eq!(env.sent(), "pool box-1 team Throttled\npool box-2 team Throttled");
    submit(&mut env, 0, "a");
    assert_eq!(env.state_of("1/a"), "leased");
    env.pass_with_heartbeats(4, &["box-1", "box-2"]);
    assert!(env.sent().contains("pool box-1 team Open"));
    assert_eq!(view(&mut env).throttled, 1);
    env.report_as("box-1", "1/a#1", Outcome::RATE_LIMITED, |report| {
        report.limit = Some(LimitHit { pool: "team".into(), window: "".into(), exhausted: false });
    });
    assert_eq!(env.state_of("1/a"), "waiting_retry", "an ordinary failure");
}

#[test]
fn attempts_of_a_pool_start_at_the_rate_that_its_operator_set() {
    let mut env = Env::new();
    configure(&mut env, PoolSettings { starts_per_minute: Some(12), ..PoolSettings::default() });
    env.join_as("box-1", 10, "", uses("team"));
    submit(&mut env, 0, "a\nb\nc\nd");
    assert_eq!(grants(&env.sent()).len(), 1);
    let (summary, reasons, _) = env.explain("1/d");
    assert!(summary.starts_with("pool team starts 12 attempts a minute, the next in 5 s"), "{summary}");
    assert!(reasons.iter().any(|reason| reason.kind == "limit"));
    env.pass_with_heartbeats(5, &["box-1"]);
    env.pass_with_heartbeats(5, &["box-1"]);
    assert_eq!(grants(&env.sent()).len(), 2);
}

#[test]
fn of_tasks_that_begin_alike_one_starts_and_the_others_follow_its_first_answer() {
    let mut env = Env::new();
    env.join_as("box-1", 2, "", uses("team"));
    env.join_as("box-2", 2, "", uses("team"));
    submit(&mut env, 7, "a\nb\nc\nd");
    submit(&mut env, 8, "other");
    let sent = env.sent();
    assert_eq!(grants(&sent).len(), 2, "one of each beginning: {sent}");
    let (summary, reasons, _) = env.explain("1/b");
    let text =
        "waits for the first answer of adhoc/1/a, which brings their common beginning into the prompt cache";
    assert_eq!(summary, text);
    assert!(reasons.iter().any(|reason| reason.kind == "warming"));
    assert_eq!(env.status().demand.limits, 0, "that passes in seconds");
    let (agent, attempt) = (env.task("1/a").agent.to_string(), env.attempt("1/a#1"));
    let session = env.session(&agent);
    env.apply(Event::AttemptWarmed { session, attempt });
    assert_eq!(grants(&env.sent()).len(), 2, "as many as there are slots");
}

#[test]
fn a_first_attempt_that_ends_or_takes_too_long_is_not_waited_for() {
    let mut env = Env::new();
    env.join_as("box-1", 5, "", uses("team"));
    submit(&mut env, 7, "a retries 0\nb\nc\nd");
    assert_eq!(grants(&env.sent()), ["box-1 1/a#1"]);
    env.report("box-1", "1/a#1", TIMEOUT);
    assert_eq!(grants(&env.sent()), ["box-1 1/b#1"], "the next one takes its place");
    env.pass_with_heartbeats(15, &["box-1"]);
    assert!(grants(&env.sent()).is_empty());
    env.pass_with_heartbeats(5, &["box-1"]);
    assert_eq!(grants(&env.sent()), ["box-1 1/c#1", "box-1 1/d#1"]);
}

#[test]
fn an_api_that_fails_is_tried_by_one_at_a_time_until_it_answers() {
    let mut env = Env::new();
    env.join_as("box-1", 3, "", uses("team"));
    env.join_as("box-2", 3, "", uses("team"));
    for agent in ["box-1", "box-2", "box-1", "box-2", "box-1"] {
        signal(&mut env, agent, SignalKind::Failing, None);
    }
    submit(&mut env, 0, "a\nb\nc");
    assert!(grants(&env.sent()).is_empty());
    assert_eq!(view(&mut env).state, PoolState::Failing);
    env.pass_with_heartbeats(5, &["box-1", "box-2"]);
    assert_eq!(grants(&env.sent()).len(), 1, "somebody has to try");
    env.pass_with_heartbeats(5, &["box-1", "box-2"]);
    assert!(grants(&env.sent()).is_empty());
    signal(&mut env, "box-2", SignalKind::Recovered, None);
    assert_eq!(grants(&env.sent()).len(), 2);
}

#[test]
fn a_request_that_waits_tries_before_another_attempt_does() {
    let mut env = Env::new();
    configure(&mut env, buckets(100, 10_000));
    env.join_as("box-1", 3, "", uses("team"));
    tell(&mut env, "box-1", |report| (report.wanted, report.waiting) = (amounts(2, 4_000, 0), 2));
    for _ in 0..5 {
        signal(&mut env, "box-1", SignalKind::Failing, None);
    }
    submit(&mut env, 0, "a");
    env.sent();
    env.pass_with_heartbeats(6, &["box-1"]);
    let sent = env.sent();
    assert!(sent.contains("credit box-1 team Amounts { requests: 1, input: 2000,"), "{sent}");
    assert!(grants(&sent).is_empty());
}

#[test]
fn nothing_is_started_that_would_only_wait_behind_half_a_minute_of_requests() {
    let mut env = Env::new();
    configure(&mut env, buckets(1_000, 60_000));
    env.join_as("box-1", 4, "", uses("team"));
    tell(&mut env, "box-1", |report| (report.wanted, report.waiting) = (amounts(10, 40_000, 0), 10));
    submit(&mut env, 0, "a");
    assert_eq!(env.state_of("1/a"), "queued");
    assert!(env.explain("1/a").0.starts_with("requests that wait for pool team (opus)"));
    assert_eq!(env.status().demand.limits, 1);
    tell(&mut env, "box-1", |report| (report.wanted, report.waiting) = (amounts(2, 8_000, 0), 2));
    assert_eq!(env.state_of("1/a"), "leased");
}

#[test]
fn permits_of_an_agent_that_is_gone_are_free_again() {
    let mut env = Env::new();
    configure(&mut env, PoolSettings { max_concurrent: Some(2), ..PoolSettings::default() });
    env.join_as("box-1", 1, "", uses("team"));
    env.join_as("box-2", 1, "", uses("team"));
    tell(&mut env, "box-1", |report| (report.wanted, report.waiting) = (amounts(2, 10, 2), 2));
    tell(&mut env, "box-2", |report| (report.wanted, report.waiting) = (amounts(1, 10, 1), 1));
    let sent = env.sent();
    assert!(sent.contains("credit box-1") && !sent.contains("credit box-2"), "{sent}");
    assert_eq!((view(&mut env).in_flight, view(&mut env).waiting), (2, 3));
    env.leave("box-1");
    env.pass_with_heartbeats(20, &["box-2"]);
    assert!(!env.sent().contains("credit box-2"), "its gateways may go on for a while");
    env.pass_with_heartbeats(10, &["box-2"]);
    assert!(env.sent().contains("credit box-2"));
    env.leave("box-2");
    env.pass_seconds(30);
    assert_eq!(view(&mut env).in_flight, 0);
}

#[test]
fn a_worker_that_has_used_its_share_does_not_hold_up_another() {
    let mut env = Env::new();
    let share = BucketSettings { requests: None, input: Some(6_000), output: None };
    let mut settings = buckets(1_000, 600_000);
    settings.per_worker = vec![("".into(), share)];
    configure(&mut env, settings);
    env.join_as("box-1", 1, "", uses("team"));
    env.pass_with_heartbeats(60, &["box-1"]);
    let ask = |env: &mut Env, worker: &str, input: u64, requests: u64| {
        let worker: Arc<str> = worker.into();
        tell(env, "box-1", |report| {
            report.meter.worker = worker;
            (report.wanted, report.waiting) = (amounts(requests, input, 0), requests as u32);
        });
    };
    // Buckets begin empty, and both of a minute's.
    ask(&mut env, "marie", 0, 0);
    env.pass_with_heartbeats(60, &["box-1"]);
    env.sent();
    ask(&mut env, "marie", 9_000, 3);
    ask(&mut env, "paul", 1_000, 1);
    let granted = view(&mut env);
    let row = |worker: &str| {
        granted
            .buckets
            .iter()
            .find(|row| &*row.worker == worker && row.unit == "input tokens")
            .map(|row| row.leased)
    };
    assert_eq!(row("marie"), Some(5_000), "more would be above 98 % of its share");
    env.pass_with_heartbeats(11, &["box-1"]);
    assert_eq!(
        view(&mut env)
            .buckets
            .iter()
            .find(|row| &*row.worker == "paul" && row.leased > 0)
            .map(|row| row.leased),
        Some(1_000),
        "its own share filled up meanwhile"
    );
}

#[test]
fn agents_learn_that_a_pool_needs_credit_when_somebody_knows_its_limits() {
    let mut env = Env::new();
    env.join_as("box-1", 1, "", uses("team"));
    env.join("plain", 1, "");
    env.sent();
    configure(&mut env, buckets(10, 1_000));
    assert_eq!(env.sent(), "pool box-1 team Open", "and nobody else is told");
    env.join_as("box-2", 1, "", uses("team"));
    assert_eq!(env.sent(), "welcome box-2\npool box-2 team Open");
    env.apply(Event::LimitsConfigured { pools: Vec::new() });
    assert_eq!(env.sent(), "pool box-1 team Open\npool box-2 team Open");
    assert!(view(&mut env).buckets.is_empty());
}

#[test]
fn an_agent_that_tells_no_pools_is_not_limited() {
    let mut env = Env::new();
    env.join_as("box-1", 0, "", uses("team"));
    env.join("plain", 2, "");
    signal(&mut env, "box-1", SignalKind::Exhausted, Some(100));
    submit(&mut env, 7, "a\nb");
    assert_eq!((env.state_of("1/a"), env.state_of("1/b")), ("leased", "leased"));
}

#[test]
fn different_credentials_under_one_name_are_pointed_out() {
    let mut env = Env::new();
    env.join_as("box-1", 1, "", uses("team"));
    env.join_as("box-2", 1, "", |hello| hello.pools = vec![pool("team", 2)]);
    let warnings = view(&mut env).warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("2 different credentials"), "{warnings:?}");
    assert_eq!(view(&mut env).agents.len(), 2);
    let session = env.session("box-2");
    env.apply(Event::PoolsChanged { session, pools: vec![pool("other", 2)] });
    assert!(view(&mut env).warnings.is_empty());
    assert_eq!(view(&mut env).agents.len(), 1);
}
