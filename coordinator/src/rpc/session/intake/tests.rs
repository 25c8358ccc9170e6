//! What agents may say of limits and money, and what ends their session.

use super::*;
use orch_core::limits::SignalKind;
use orch_proto::{PROTOCOL_MAX, v1};

const SESSION: SessionId = SessionId(7);

fn pool(name: &str, workers: &[&str]) -> v1::Pool {
    v1::Pool {
        name: name.into(),
        workers: workers.iter().map(|worker| (*worker).to_owned()).collect(),
        gateway: true,
        fingerprint: vec![9; 32],
        ..v1::Pool::default()
    }
}

fn intake() -> LimitIntake {
    LimitIntake::new(SESSION, PROTOCOL_MAX, agent_pools(&[pool("main", &[])], PROTOCOL_MAX).unwrap())
}

fn report(worker: &str) -> v1::LimitReport {
    let meter = v1::MeterId { pool: "main".into(), model_class: "opus".into(), worker: worker.into() };
    v1::LimitReport { meter: Some(meter), ..v1::LimitReport::default() }
}

fn of_one(requests: u64) -> Option<v1::Amounts> {
    Some(v1::Amounts { requests, ..v1::Amounts::default() })
}

fn signal(kind: v1::LimitSignalKind) -> v1::LimitSignal {
    v1::LimitSignal { pool: "main".into(), kind: kind.into(), ..v1::LimitSignal::default() }
}

fn is_violation<T: std::fmt::Debug>(taken: Result<T, Status>) {
    assert_eq!(taken.unwrap_err().code(), tonic::Code::InvalidArgument);
}

#[test]
fn a_report_becomes_an_event_and_headers_beyond_reason_are_as_much_as_anybody_wants() {
    let headers = v1::LimitHeaders { input_limit: Some(u64::MAX), ..v1::LimitHeaders::default() };
    let wire = v1::LimitReport {
        granted: of_one(5),
        used: of_one(3),
        wanted: Some(v1::Amounts { output_tokens: 8, concurrent: 1, ..v1::Amounts::default() }),
        waiting: 2,
        headers: Some(headers),
        ..report("marie")
    };
    let Some(Event::LimitsReported { session, report }) = intake().report(&wire).unwrap() else {
        panic!("no report")
    };
    assert_eq!((session, &*report.meter.model_class, report.waiting), (SESSION, "opus", 2));
    assert_eq!((report.granted.requests, report.used.requests), (5, 3));
    assert_eq!((report.wanted.output, report.wanted.concurrent, report.returned), (8, 1, <_>::default()));
    assert_eq!(report.headers.unwrap().input_limit, Some(MAX_AMOUNT));
}

#[test]
fn a_meter_that_cannot_be_or_an_amount_that_cannot_be_ends_the_session() {
    let with = |change: &dyn Fn(&mut v1::MeterId)| {
        let mut wire = report("marie");
        change(wire.meter.as_mut().unwrap());
        wire
    };
    let cases = [
        v1::LimitReport { meter: None, ..report("marie") },
        with(&|meter| meter.pool = "another".into()),
        with(&|meter| meter.worker = "\u{1b}[31m".into()),
        with(&|meter| meter.worker = "w".repeat(64)),
        with(&|meter| meter.model_class = String::new()),
        with(&|meter| meter.model_class = "c".repeat(65)),
        v1::LimitReport { used: of_one(u64::MAX), ..report("marie") },
        v1::LimitReport { returned: of_one(MAX_AMOUNT + 1), ..report("marie") },
        v1::LimitReport { wanted: of_one(1 << 60), ..report("marie") },
    ];
    for wire in cases {
        is_violation(intake().report(&wire));
    }
}

#[test]
fn a_session_has_so_many_meters_and_no_more() {
    let mut intake = intake();
    for at in 0..MAX_METERS {
        intake.report(&report(&format!("w{at}"))).unwrap();
        intake.report(&report(&format!("w{at}"))).unwrap();
    }
    is_violation(intake.report(&report("one-more")));
    assert!(intake.report(&report("w0")).is_ok(), "those that are known may go on");
}

#[test]
fn who_agreed_on_an_older_protocol_has_no_word_for_limits() {
    let mut older = LimitIntake::new(SESSION, LIMITS - 1, agent_pools(&[pool("main", &[])], 2).unwrap());
    is_violation(older.report(&report("marie")));
    is_violation(older.signal(&signal(v1::LimitSignalKind::Throttled)));
    is_violation(older.spending(&v1::Spending::default()));
    is_violation(older.warmed(&v1::Warmed::default()));
}

#[test]
fn a_signal_is_harmless_and_closes_a_pool_for_no_longer_than_a_window_lasts() {
    let wire = v1::LimitSignal {
        retry_after: Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
        window: "five\u{1b}hour".into(),
        detail: "d".repeat(9_000),
        ..signal(v1::LimitSignalKind::Exhausted)
    };
    let Some(Event::LimitSignalled { signal: taken, .. }) = intake().signal(&wire).unwrap() else {
        panic!("no signal")
    };
    assert_eq!((taken.kind, taken.retry_after), (SignalKind::Exhausted, Some(MAX_RETRY_AFTER)));
    assert_eq!((&*taken.window, taken.detail.len()), ("five hour", MAX_DETAIL));
    let newer = v1::LimitSignal { kind: 99, ..signal(v1::LimitSignalKind::Throttled) };
    assert!(intake().signal(&newer).unwrap().is_none(), "a newer agent's word is passed over");
    is_violation(intake().signal(&v1::LimitSignal { pool: "*".into(), ..newer }));
}

#[test]
fn spending_and_warmth_name_an_attempt_and_sane_amounts() {
    let attempt = Some(v1::AttemptId { run_id: 1, task_index: 0, attempt: 2 });
    let wire = v1::Spending { attempt, spent_micro_usd: 5, bound_tokens: 7, ..v1::Spending::default() };
    let Some(Event::SpendingReported { spending, .. }) = intake().spending(&wire).unwrap() else {
        panic!("no spending")
    };
    assert_eq!((spending.spent.micro_usd, spending.bound.tokens, spending.attempt.attempt.0), (5, 7, 2));
    is_violation(intake().spending(&v1::Spending { wanted_micro_usd: u64::MAX, ..wire }));
    is_violation(intake().spending(&v1::Spending { attempt: None, ..wire }));
    is_violation(intake().warmed(&v1::Warmed { attempt: None }));
    assert!(intake().warmed(&v1::Warmed { attempt }).unwrap().is_some());
}

#[test]
fn pools_are_told_of_when_they_change_and_credit_of_one_that_is_gone_is_given_back() {
    let mut intake = intake();
    let facts = |pools: &[v1::Pool]| v1::Facts { pools: pools.to_vec(), ..v1::Facts::default() };
    let busy = v1::Pool { in_use: 3, detail: "busy".into(), ..pool("main", &[]) };
    assert!(intake.facts(&facts(&[busy])).unwrap().is_none(), "nothing that the core decides by");
    let Some(Event::PoolsChanged { pools, .. }) =
        intake.facts(&facts(&[pool("night", &["marie", "anga", "anga"])])).unwrap()
    else {
        panic!("no change")
    };
    let workers: Vec<&str> = pools[0].workers.iter().map(|worker| &**worker).collect();
    assert_eq!((pools.len(), &*pools[0].name, workers), (1, "night", vec!["anga", "marie"]));
    assert_eq!((pools[0].gateway, pools[0].fingerprint.len()), (true, 8));
    assert!(intake.report(&report("marie")).is_ok(), "`main` was there before");
}

#[test]
fn a_session_cannot_go_through_any_number_of_pools() {
    let mut intake = intake();
    let names = |at: usize| pool(&format!("p{at}"), &[]);
    let facts = |at: usize| v1::Facts { pools: vec![names(at)], ..v1::Facts::default() };
    let refused = (0..=2 * MAX_POOLS).find(|at| intake.facts(&facts(*at)).is_err());
    assert_eq!(refused, Some(2 * MAX_POOLS - 1), "`main` counts too");
}

#[test]
fn what_cannot_be_a_pool_is_refused_and_left_out_of_what_older_agents_say() {
    let many: Vec<v1::Pool> = (0..=MAX_POOLS).map(|at| pool(&format!("p{at:02}"), &[])).collect();
    let names = vec!["marie"; MAX_POOL_WORKERS];
    let cases = [
        vec![pool("*", &[]), pool("main", &[])],
        vec![pool("main", &[]), pool("other", &["Not A Name"])],
        vec![pool("main", &names), pool("zzz", &["one-more"])],
    ];
    for case in cases {
        is_violation(agent_pools(&case, LIMITS));
        let kept = agent_pools(&case, LIMITS - 1).unwrap();
        assert_eq!((kept.len(), &*kept[0].name), (1, "main"));
    }
    is_violation(agent_pools(&many, LIMITS));
    assert_eq!(agent_pools(&many, LIMITS - 1).unwrap().len(), MAX_POOLS);
}

#[test]
fn what_a_report_says_of_a_limit_is_taken_where_it_can_be() {
    let hit = v1::LimitHit { pool: "main".into(), window: "five\nhour".into(), exhausted: true };
    let report = v1::Report { pool: "main".into(), limit: Some(hit.clone()), ..v1::Report::default() };
    let (pool, taken) = of_report(&report);
    let taken = taken.unwrap();
    assert_eq!((&*pool, &*taken.window, taken.exhausted), ("main", "five hour", true));
    let odd = v1::LimitHit { pool: String::new(), ..hit };
    let report = v1::Report { pool: "\u{1b}".into(), limit: Some(odd), ..v1::Report::default() };
    assert_eq!(of_report(&report), ("".into(), None));
}
