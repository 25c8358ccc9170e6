//! Budgets at the desk: what is asked for, what is spent, and who is ended.

use super::*;

#[test]
fn a_budget_of_more_than_the_task_is_asked_for_and_its_end_ends_the_attempt() {
    let mut desk = desk(false, 0);
    let allowance = Allowance { micro_usd: Some(1), ..Allowance::default() };
    desk.enter(Entry { allowance: Some(allowance.clone()), ..entry(0) }, at(0));
    desk.heard(key(0), Event::Ask(ask(1)), at(1));
    assert!(gone(&mut desk, 0).is_empty());
    // 1,000 tokens written to the cache and 100 said.
    let worst = 6_250 + 2_500;
    let wants = spendings(desk.say(at(10))).remove(0);
    assert_eq!((wants.wanted_micro_usd, wants.wanted_tokens, wants.in_flight), (worst, 1_100, 0));
    desk.allow(key(0), Allowance { micro_usd: Some(worst), seq: 1, ..allowance.clone() }, at(11));
    assert_eq!(gone(&mut desk, 0), [1]);
    let holds = spendings(desk.say(at(30))).remove(0);
    assert_eq!(
        (holds.bound_micro_usd, holds.wanted_micro_usd, holds.in_flight, holds.seen),
        (worst, 0, 1, 1)
    );
    desk.heard(key(0), ended(1, 1_000), at(31));
    desk.heard(key(0), Event::Ask(ask(2)), at(32));
    let wants = spendings(desk.say(at(60))).remove(0);
    assert_eq!((wants.spent_micro_usd, wants.wanted_micro_usd), (5_250, 5_250 + worst));
    let spent = Allowance { spent: true, detail: "budget of run a/1".to_owned(), seq: 2, ..allowance };
    desk.allow(key(0), spent, at(61));
    assert_eq!(told(&mut desk, 0), (vec![], vec![(2, 400)]));
    assert_eq!(desk.say(at(62)).stops, [key(0)], "a sub-agent's refusal would be swallowed");
    desk.heard(key(0), Event::Ask(ask(3)), at(63));
    assert_eq!((told(&mut desk, 0).1, desk.say(at(64)).stops), (vec![(3, 400)], vec![]), "once");
    assert_eq!(desk.leave(key(0), at(65)).refusal, Some(Refusal::Budget("budget of run a/1".to_owned())));
}

#[test]
fn the_budget_of_the_task_is_passed_by_one_request_at_most_whoever_asks() {
    let mut desk = desk(false, 0);
    desk.enter(Entry { own_micro_usd: Some(9_000), ..entry(0) }, at(0));
    for request in 1..=3 {
        desk.heard(key(0), Event::Ask(Ask { sub_agent: request > 1, ..ask(request) }), at(1));
    }
    assert_eq!(gone(&mut desk, 0), [1], "two of them could pass it");
    desk.heard(key(0), ended(1, 1_000), at(2));
    assert_eq!(gone(&mut desk, 0), [2]);
    desk.heard(key(0), ended(2, 1_000), at(3));
    assert_eq!(told(&mut desk, 0), (vec![], vec![(3, 400)]));
    assert_eq!(desk.say(at(4)).stops, [key(0)]);
}

#[test]
fn an_attempt_without_a_gateway_is_stopped_when_nothing_is_left() {
    let mut desk = desk(false, 0);
    let allowance = Allowance { micro_usd: Some(50_000), ..Allowance::default() };
    desk.enter(Entry { allowance: Some(allowance.clone()), ..entry(0) }, at(0));
    let spend = |micro_usd| Spend { micro_usd, tokens: micro_usd };
    desk.spent_directly(key(0), spend(30_000), at(1));
    let wants = spendings(desk.say(at(20))).remove(0);
    assert_eq!((wants.spent_micro_usd, wants.wanted_micro_usd, wants.estimated), (30_000, 60_000, true));
    desk.allow(key(0), Allowance { spent: true, detail: "b".to_owned(), seq: 1, ..allowance }, at(21));
    desk.spent_directly(key(0), spend(49_000), at(22));
    assert!(desk.say(at(23)).stops.is_empty());
    desk.spent_directly(key(0), spend(51_000), at(24));
    assert_eq!(desk.say(at(25)).stops, [key(0)]);
}

#[test]
fn a_request_that_caches_for_an_hour_is_bounded_by_what_that_costs() {
    let mut desk = desk(false, 0);
    desk.enter(
        Entry { allowance: Some(Allowance { micro_usd: Some(1), ..Allowance::default() }), ..entry(0) },
        at(0),
    );
    desk.heard(key(0), Event::Ask(Ask { for_an_hour: true, ..ask(1) }), at(1));
    // 1,000 tokens written to the cache for an hour, at 10 dollars a million, and 100 said, at 25.
    assert_eq!(spendings(desk.say(at(10))).remove(0).wanted_micro_usd, 10_000 + 2_500);
    desk.allow(key(0), Allowance { micro_usd: Some(12_500), seq: 1, ..Allowance::default() }, at(11));
    assert_eq!(gone(&mut desk, 0), [1]);
    let tokens = Tokens {
        input: 100,
        output: 10,
        cache_write: 800,
        cache_write_1h: 600,
        searches: 2,
        ..Tokens::default()
    };
    let ended =
        Event::Ended { request: 1, tokens, estimated: false, status: 200, headers: Headers::default() };
    desk.heard(key(0), ended, at(12));
    // 100 x 5 + 10 x 25 + 200 x 6.25 + 600 x 10, and two searches of a cent.
    let spent = spendings(desk.say(at(300))).remove(0);
    assert_eq!((spent.spent_micro_usd, spent.spent_tokens), (500 + 250 + 1_250 + 6_000 + 20_000, 910));
}
