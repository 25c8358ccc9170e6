//! Whatever is said in whatever order, no credit is lost and nobody waits for ever.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Ask(u32, u64),
    Begun(u32, u64),
    Ended(u32, u64),
    Withdrawn(u32),
    Leave(u32),
    Grant(u64),
    Session,
    Notice(i32),
    Reconnect(u32),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let task = 0..4_u32;
    prop_oneof![
        4 => (task.clone(), 0..9_000_u64).prop_map(|(task, size)| Op::Ask(task, size)),
        2 => (task.clone(), 0..9_000_u64).prop_map(|(task, size)| Op::Begun(task, size)),
        3 => (task.clone(), 0..9_000_u64).prop_map(|(task, size)| Op::Ended(task, size)),
        1 => task.clone().prop_map(Op::Withdrawn),
        1 => task.clone().prop_map(Op::Leave),
        4 => (0..20_000_u64).prop_map(Op::Grant),
        1 => Just(Op::Session),
        1 => (1..=4_i32).prop_map(Op::Notice),
        1 => task.prop_map(Op::Reconnect),
        2 => (0..4_000_u64).prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Whatever happens in whatever order: no amount is in two places, none is lost, and once the pool is open and there is
    /// credit enough, nobody waits any more.
    #[test]
    fn no_credit_is_lost_and_nobody_is_forgotten(ops in prop::collection::vec(op(), 1..80)) {
        let mut desk = desk(true, 4);
        let (mut now, mut last, mut granted) = (10, 0, 0);
        let meter_key = MeterKey { pool: "team".into(), class: "opus".into(), worker: "marie".into() };
        let sent = |desk: &Desk, task| {
            let attempt: &Attempt = desk.attempts.get(&key(task))?;
            attempt.flights.iter().find(|(_, flight)| flight.place == Place::Sent).map(|(request, _)| *request)
        };
        for op in ops {
            now += 1;
            match op {
                Op::Ask(task, size) => {
                    last += 1;
                    desk.heard(key(task), Event::Ask(Ask { input_bound: size, ..ask(last) }), at(now));
                }
                Op::Begun(task, input) => if let Some(request) = sent(&desk, task) {
                    let tokens = Tokens { input, ..Tokens::default() };
                    desk.heard(key(task), Event::Begun { request, tokens, headers: Headers::default() }, at(now));
                },
                Op::Ended(task, input) => if let Some(request) = sent(&desk, task) {
                    desk.heard(key(task), ended(request, input), at(now));
                },
                Op::Withdrawn(task) => desk.heard(key(task), Event::Withdrawn { request: last }, at(now)),
                Op::Leave(task) => {
                    desk.leave(key(task), at(now));
                    desk.enter(entry(task), at(now));
                }
                Op::Grant(more) => {
                    granted += more;
                    desk.grant(&grant(granted, granted, granted), at(now));
                }
                Op::Session => {
                    granted = 0;
                    desk.session_down(at(now));
                    desk.session_up(3, Vec::new(), &[notice(PoolState::Open, None, true)], at(now));
                }
                Op::Notice(state) => {
                    let state = PoolState::try_from(state).unwrap();
                    desk.notice(&notice(state, Some(2), true), at(now));
                }
                Op::Reconnect(task) => {
                    let flights = desk.attempts[&key(task)].flights.values();
                    let in_flight = flights.filter(|flight| flight.place == Place::Sent).map(|flight| flight.ask.clone());
                    let in_flight = in_flight.collect();
                    desk.heard(key(task), Event::Hello { version: 1, id: String::new(), totals: vec![], in_flight }, at(now));
                }
                Op::Pass(ms) => now += ms,
            }
            desk.say(at(now));
            let credit = desk.credit(&meter_key);
            let places = credit.free().plus(credit.held()).plus(credit.used()).plus(credit.returned());
            prop_assert_eq!(places, credit.granted());
            let flights = desk.attempts.values().flat_map(|attempt| attempt.flights.values());
            let holding = flights.filter(|flight| flight.place == Place::Sent && flight.session == Some(desk.session));
            let held = holding.fold(Amounts::default(), |sum, flight| sum.plus(flight.amounts));
            prop_assert_eq!(credit.held(), held, "held by nobody");
        }
        desk.notice(&notice(PoolState::Open, None, true), at(now));
        desk.grant(&grant(u64::MAX >> 20, u64::MAX >> 20, u64::MAX >> 20), at(now));
        let waiting = desk.attempts.values().flat_map(|attempt| attempt.flights.values());
        prop_assert_eq!(waiting.filter(|flight| flight.place != Place::Sent).count(), 0, "somebody still waits");
    }
}
