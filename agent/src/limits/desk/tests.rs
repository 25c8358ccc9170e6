//! The desk between gateways and a coordinator that are both the test: what goes when, and what is said of it.

use orch_proto::v1::agent_item::Item;
use orch_proto::v1::{LimitSignalKind, PoolState};

use super::*;
use crate::gateway::wire::Event;

mod any_order;
mod money;

const OPUS: &str = "claude-opus-4-8";

const fn key(task: u32) -> AttemptKey {
    AttemptKey { run: 7, task, attempt: 1 }
}

const fn at(ms: u64) -> BootMillis {
    BootMillis(ms)
}

fn entry(task: u32) -> Entry {
    Entry {
        key: key(task),
        pool: "team".to_owned(),
        worker: "marie".to_owned(),
        own_micro_usd: None,
        allowance: None,
    }
}

fn ask(request: u64) -> Ask {
    Ask { request, model: OPUS.to_owned(), input_bound: 1_000, output_bound: 100, ..Ask::default() }
}

fn ended(request: u64, input: u64) -> Event {
    let tokens = Tokens { input, output: 10, ..Tokens::default() };
    Event::Ended { request, tokens, estimated: false, status: 200, headers: Headers::default() }
}

fn notice(state: PoolState, left: Option<u64>, metered: bool) -> v1::PoolNotice {
    v1::PoolNotice {
        pool: "team".to_owned(),
        state: state.into(),
        left: left.map(|seconds| prost_types::Duration { seconds: seconds.cast_signed(), nanos: 0 }),
        metered,
        ..v1::PoolNotice::default()
    }
}

fn grant(requests: u64, input: u64, output: u64) -> v1::LimitGrant {
    v1::LimitGrant { meter: Some(meter()), granted: Some(amounts(requests, input, output)) }
}

fn meter() -> v1::MeterId {
    v1::MeterId { pool: "team".to_owned(), model_class: "opus".to_owned(), worker: "marie".to_owned() }
}

const fn amounts(requests: u64, input_tokens: u64, output_tokens: u64) -> v1::Amounts {
    v1::Amounts { requests, input_tokens, output_tokens, concurrent: requests }
}

/// A desk with a session of the newest protocol and so many attempts.
fn desk(metered: bool, attempts: u32) -> Desk {
    let mut desk = Desk::default();
    desk.session_up(3, Vec::new(), &[notice(PoolState::Open, None, metered)], at(0));
    for task in 0..attempts {
        desk.enter(entry(task), at(0));
    }
    desk
}

/// Requests that were let go, and those that were refused with their status.
fn told(desk: &mut Desk, task: u32) -> (Vec<u64>, Vec<(u64, u16)>) {
    let (mut go, mut refused) = (Vec::new(), Vec::new());
    for command in desk.commands(key(task)) {
        match command {
            Command::Go { request } => go.push(request),
            Command::Refuse { request, status, .. } => refused.push((request, status)),
            Command::Hello { .. } | Command::Credential { .. } | Command::Unknown => panic!("{command:?}"),
        }
    }
    (go, refused)
}

fn gone(desk: &mut Desk, task: u32) -> Vec<u64> {
    let (go, refused) = told(desk, task);
    assert!(refused.is_empty());
    go
}

fn reports(said: Said) -> Vec<v1::LimitReport> {
    let report = |item| if let Item::Limits(report) = item { Some(report) } else { None };
    said.items.into_iter().filter_map(report).collect()
}

fn spendings(said: Said) -> Vec<v1::Spending> {
    let spending = |item| if let Item::Spending(spending) = item { Some(spending) } else { None };
    said.items.into_iter().filter_map(spending).collect()
}

#[test]
fn where_nobody_knows_a_limit_requests_go_at_once_and_nothing_is_used() {
    let mut desk = desk(false, 1);
    desk.heard(key(0), Event::Ask(ask(1)), at(1));
    assert_eq!(gone(&mut desk, 0), [1]);
    let headers = Headers { requests_limit: Some(50), ..Headers::default() };
    desk.heard(key(0), Event::Begun { request: 1, tokens: Tokens::default(), headers }, at(2));
    desk.heard(key(0), ended(1, 900), at(3));
    let report = reports(desk.say(at(1_000))).remove(0);
    assert_eq!(report.headers.unwrap().requests_limit, Some(50), "what was learned of limits is told");
    assert_eq!((report.used, report.wanted), (Some(v1::Amounts::default()), Some(v1::Amounts::default())));
}

#[test]
fn a_metered_request_waits_for_credit_and_what_it_did_not_take_serves_the_next() {
    let mut desk = desk(true, 1);
    desk.heard(key(0), Event::Ask(ask(1)), at(1));
    assert!(gone(&mut desk, 0).is_empty());
    let report = reports(desk.say(at(10))).remove(0);
    assert_eq!((report.wanted, report.waiting), (Some(amounts(1, 1_000, 100)), 1));
    desk.grant(&grant(1, 999, 100), at(11));
    assert!(gone(&mut desk, 0).is_empty(), "not enough");
    desk.grant(&grant(2, 1_400, 200), at(12));
    assert_eq!(gone(&mut desk, 0), [1]);
    let tokens = Tokens { input: 300, cache_read: 5_000, ..Tokens::default() };
    desk.heard(key(0), Event::Begun { request: 1, tokens, headers: Headers::default() }, at(13));
    // Of 1,400 it took 300: the cache is free.
    desk.heard(key(0), Event::Ask(ask(2)), at(14));
    assert_eq!(gone(&mut desk, 0), [2]);
    desk.heard(key(0), ended(1, 300), at(15));
    desk.heard(key(0), ended(2, 600), at(16));
    let report = reports(desk.say(at(500))).remove(0);
    assert_eq!(report.used, Some(v1::Amounts { concurrent: 0, ..amounts(2, 900, 20) }));
    assert_eq!(report.returned, Some(v1::Amounts::default()));
    let due = desk.due_at(at(500)).unwrap();
    assert_eq!(due, at(1_516), "what nobody uses is given back");
    let report = reports(desk.say(due)).remove(0);
    assert_eq!(report.returned, Some(v1::Amounts { requests: 0, concurrent: 2, ..amounts(0, 500, 180) }));
}

#[test]
fn attempts_take_turns_and_nobody_overtakes_whom_the_credit_does_not_suffice_for() {
    let mut desk = desk(true, 2);
    for request in [1, 2, 3] {
        desk.heard(key(0), Event::Ask(ask(request)), at(1));
    }
    desk.heard(key(1), Event::Ask(Ask { input_bound: 5_000, ..ask(1) }), at(2));
    desk.grant(&grant(9, 1_000, 900), at(3));
    assert_eq!((gone(&mut desk, 0), gone(&mut desk, 1)), (vec![1], vec![]));
    desk.grant(&grant(9, 5_000, 900), at(4));
    assert_eq!((gone(&mut desk, 0), gone(&mut desk, 1)), (vec![], vec![]), "it is the other's turn");
    desk.grant(&grant(9, 8_000, 900), at(5));
    assert_eq!((gone(&mut desk, 0), gone(&mut desk, 1)), (vec![2, 3], vec![1]));
}

#[test]
fn what_one_attempt_is_told_holds_all_others_of_the_pool_at_once() {
    let mut desk = desk(false, 2);
    desk.enter(Entry { pool: "other".to_owned(), ..entry(2) }, at(0));
    let signal = |kind, ms| Event::Signal {
        kind,
        model: OPUS.to_owned(),
        retry_after_ms: Some(ms),
        window: "five_hour".to_owned(),
        detail: "x".to_owned(),
    };
    desk.heard(key(0), signal(SignalKind::Throttled, 2_000), at(0));
    for task in 0..3 {
        desk.heard(key(task), Event::Ask(ask(1)), at(10));
    }
    assert_eq!((gone(&mut desk, 1), gone(&mut desk, 2)), (vec![], vec![1]));
    let other_model = Ask { model: "claude-haiku-4-5".to_owned(), ..ask(2) };
    desk.heard(key(1), Event::Ask(other_model), at(10));
    assert_eq!(gone(&mut desk, 1), [2], "another class of models has another rate");
    let due = desk.due_at(at(10)).unwrap();
    assert!(due <= at(10), "the signal is said at once");
    let said = desk.say(at(11)).items;
    let Some(Item::LimitSignal(said)) = said.into_iter().find(|item| matches!(item, Item::LimitSignal(_)))
    else {
        panic!("no signal")
    };
    assert_eq!((said.kind(), said.model_class.as_str()), (LimitSignalKind::Throttled, "opus"));
    assert_eq!(said.retry_after, Some(prost_types::Duration { seconds: 1, nanos: 989_000_000 }));
    while let Some(due) = desk.due_at(at(500)).filter(|due| *due < at(2_000)) {
        desk.say(due);
    }
    desk.say(at(2_000));
    assert_eq!((gone(&mut desk, 0), gone(&mut desk, 1)), (vec![1], vec![]), "slower than before");
    desk.heard(key(0), ended(1, 5), at(2_050));
    assert_eq!(gone(&mut desk, 1), [1]);
    desk.heard(key(0), signal(SignalKind::Exhausted, 9_500), at(2_100));
    desk.heard(key(1), Event::Ask(ask(3)), at(2_200));
    assert_eq!(told(&mut desk, 1), (vec![], vec![(3, 429)]));
    let window = "five_hour".to_owned();
    let tally = desk.leave(key(1), at(2_300));
    assert_eq!(tally.refusal, Some(Refusal::Exhausted { window: window.clone(), until: at(11_600) }));
    assert_eq!((tally.shut, tally.cut.len()), (Some((window, at(11_600))), 2));
}

#[test]
fn an_exhausted_pool_ends_those_that_wait_as_well() {
    let mut desk = desk(true, 1);
    desk.heard(key(0), Event::Ask(ask(1)), at(1));
    desk.notice(&notice(PoolState::Exhausted, Some(3_600), true), at(2));
    assert_eq!(told(&mut desk, 0), (vec![], vec![(1, 429)]));
    desk.notice(&notice(PoolState::Open, None, false), at(3));
    desk.heard(key(0), Event::Ask(ask(2)), at(4));
    assert_eq!(gone(&mut desk, 0), [2]);
}

#[test]
fn a_failing_api_is_tried_by_one_request_at_a_time_and_its_answer_is_told() {
    let mut desk = desk(false, 3);
    desk.notice(&notice(PoolState::Failing, None, false), at(0));
    for task in 0..3 {
        desk.heard(key(task), Event::Ask(ask(1)), at(1));
    }
    assert_eq!((gone(&mut desk, 0), gone(&mut desk, 1)), (vec![1], vec![]));
    let failed = Event::Ended {
        request: 1,
        tokens: Tokens::default(),
        estimated: false,
        status: 529,
        headers: Headers::default(),
    };
    desk.heard(key(0), failed, at(2));
    assert_eq!(gone(&mut desk, 1), [1], "the next one tries");
    desk.heard(key(1), ended(1, 5), at(3));
    assert_eq!(gone(&mut desk, 2), [1]);
    let recovered = |item: &Item| matches!(item, Item::LimitSignal(signal) if signal.kind() == LimitSignalKind::Recovered);
    assert!(desk.say(at(4)).items.iter().any(recovered));
}

#[test]
fn requests_that_wait_long_for_an_api_that_fails_are_told_so_and_may_ask_again() {
    let mut desk = desk(false, 2);
    desk.notice(&notice(PoolState::Failing, Some(60), true), at(0));
    desk.heard(key(0), Event::Ask(ask(1)), at(1_000));
    desk.heard(key(1), Event::Ask(ask(1)), at(2_000));
    // It is said again and again that it fails: that is no new beginning.
    desk.notice(&notice(PoolState::Failing, Some(60), true), at(2_500));
    assert!(desk.due_at(at(2_500)).is_some_and(|due| due <= at(4_000)));
    desk.say(at(3_999));
    assert_eq!((told(&mut desk, 0), told(&mut desk, 1)), ((vec![], vec![]), (vec![], vec![])));
    desk.say(at(4_000));
    assert_eq!((told(&mut desk, 0).1, told(&mut desk, 1).1), (vec![(1, 504)], vec![]));
    desk.say(at(5_000));
    assert_eq!(told(&mut desk, 1).1, [(1, 504)]);
    // The next one is the CLI's own retry; when the API is back, it goes.
    desk.heard(key(0), Event::Ask(ask(2)), at(6_000));
    desk.notice(&notice(PoolState::Open, None, false), at(7_000));
    assert_eq!(gone(&mut desk, 0), [2]);
    assert_eq!(desk.leave(key(0), at(8_000)).refusal, None, "no budget and no window");
}

#[test]
fn a_gateway_that_is_found_again_is_taken_as_it_is() {
    let mut desk = desk(true, 1);
    for request in [1, 2, 3] {
        desk.heard(key(0), Event::Ask(ask(request)), at(1));
    }
    desk.grant(&grant(2, 2_000, 200), at(2));
    assert_eq!(gone(&mut desk, 0), [1, 2]);
    let total = ModelTotal {
        model: OPUS.to_owned(),
        tokens: Tokens { input: 700, output: 50, ..Tokens::default() },
        requests: 1,
        ..ModelTotal::default()
    };
    let hello = Event::Hello { version: 1, id: "s".to_owned(), totals: vec![total], in_flight: vec![ask(2)] };
    // The connection broke and came back: meanwhile the first one ended.
    desk.heard(
        key(0),
        Event::Hello { version: 1, id: "s".to_owned(), totals: vec![], in_flight: vec![ask(1), ask(2)] },
        at(3),
    );
    desk.heard(key(0), hello.clone(), at(4));
    desk.heard(key(0), Event::Ask(ask(3)), at(5));
    let credit = desk.credit(&MeterKey { pool: "team".into(), class: "opus".into(), worker: "marie".into() });
    assert_eq!((credit.used().requests, credit.held().requests), (1, 1));
    assert!(gone(&mut desk, 0).is_empty(), "it asks again and waits as before");
    // An agent that is new to it holds no credit for what it finds in flight, and counts nothing twice.
    let mut new = Desk::default();
    new.session_up(3, Vec::new(), &[notice(PoolState::Open, None, true)], at(0));
    new.enter(Entry { allowance: Some(Allowance::default()), ..entry(0) }, at(0));
    new.heard(key(0), hello, at(1));
    let spent = spendings(new.say(at(10))).remove(0);
    assert_eq!((spent.spent_micro_usd, spent.spent_tokens, spent.in_flight), (4_750, 750, 1));
    new.heard(key(0), ended(2, 10), at(11));
    let spent = spendings(new.say(at(500))).remove(0);
    assert_eq!((spent.spent_micro_usd, spent.in_flight), (4_750 + 300, 0));
    let used: Vec<_> = reports(new.say(at(900))).into_iter().filter_map(|report| report.used).collect();
    assert!(used.iter().all(|used| *used == v1::Amounts::default()), "{used:?}");
}

#[test]
fn credit_does_not_outlive_its_session_and_requests_wait_for_the_next() {
    let mut desk = desk(true, 1);
    desk.grant(&grant(5, 5_000, 500), at(1));
    desk.heard(key(0), Event::Ask(ask(1)), at(2));
    assert_eq!(gone(&mut desk, 0), [1]);
    desk.session_down(at(3));
    desk.heard(key(0), Event::Ask(ask(2)), at(4));
    assert!(gone(&mut desk, 0).is_empty());
    assert!(desk.say(at(5_000)).items.is_empty());
    desk.session_up(3, Vec::new(), &[notice(PoolState::Open, None, true)], at(6_000));
    desk.heard(key(0), ended(1, 400), at(6_001));
    let report = reports(desk.say(at(6_100))).remove(0);
    assert_eq!((report.granted, report.used), (Some(v1::Amounts::default()), Some(v1::Amounts::default())));
    assert_eq!(report.waiting, 1);
    desk.grant(&grant(1, 1_000, 100), at(6_200));
    assert_eq!(gone(&mut desk, 0), [2]);
}

#[test]
fn without_a_coordinator_for_long_work_goes_on_and_an_old_one_gives_no_credit() {
    let mut desk = desk(true, 1);
    desk.session_down(at(0));
    desk.heard(key(0), Event::Ask(ask(1)), at(1));
    assert!(gone(&mut desk, 0).is_empty());
    assert_eq!(desk.due_at(at(2)), Some(at(60_000)));
    desk.say(at(60_000));
    assert_eq!(gone(&mut desk, 0), [1]);
    desk.session_up(2, Vec::new(), &[], at(61_000));
    desk.heard(key(0), Event::Ask(ask(2)), at(61_001));
    assert_eq!(gone(&mut desk, 0), [2]);
    assert!(desk.say(at(70_000)).items.is_empty(), "it would not understand a word");
}

#[test]
fn a_warm_cache_is_told_once() {
    let mut desk = desk(false, 1);
    for request in [1, 2] {
        desk.heard(key(0), Event::Ask(ask(request)), at(1));
        let tokens = Tokens { cache_write: 9, ..Tokens::default() };
        desk.heard(key(0), Event::Begun { request, tokens, headers: Headers::default() }, at(2));
    }
    let warmed = |said: Said| said.items.into_iter().filter(|item| matches!(item, Item::Warmed(_))).count();
    assert_eq!((warmed(desk.say(at(3))), warmed(desk.say(at(9_000)))), (1, 0));
}
