//! Limits in a random world: agents that report, signal and lie about pools.

use crate::support::ONE;
use orch_core::apply;
use orch_core::effect::Action;
use orch_core::event::Event;
use orch_core::ids::{SessionId, Token};
use orch_core::limits::{
    AgentPool, Amounts, BucketSettings, LimitHeaders, LimitReport, LimitSignal, Meter, MeterId, PoolSettings,
    PoolState, PoolView, SignalKind,
};
use orch_core::query::{Answer, Query};
use orch_core::state::State;
use orch_core::time::{Now, Span};

/// What an agent says of its pools: two share one, the third has one of its own.
pub fn pools(agent: usize) -> Vec<AgentPool> {
    let name = if agent < 2 { "team" } else { "other" };
    vec![AgentPool {
        name: name.into(),
        workers: Vec::new(),
        gateway: true,
        fingerprint: vec![agent as u8 / 2],
    }]
}

/// Whose limits tasks of a kind use.
pub fn meter(kind: u8) -> Option<Meter> {
    let prefix = u64::from(kind);
    matches!(kind % 6, 3 | 5).then(|| Meter { model_class: "opus".into(), pool: None, prefix })
}

fn amounts(number: u16) -> Amounts {
    let part = |shift: u16| u64::from(number >> shift & 0xf);
    if number == u16::MAX {
        return Amounts { requests: u64::MAX, input: u64::MAX, output: u64::MAX, concurrent: u64::MAX };
    }
    Amounts { requests: part(0), input: part(4) * 97, output: part(8) * 31, concurrent: part(12) % 4 }
}

/// Something about limits that an agent or an operator says.
pub fn event(agent: usize, session: Option<SessionId>, kind: u8, number: u16) -> Option<Event> {
    let name = pools(agent).remove(0).name;
    if kind == 0 {
        let limit = |shift: u16| Some(u64::from(number >> shift & 0xff) * 10).filter(|limit| *limit > 0);
        let row = BucketSettings { requests: limit(0), input: limit(4), output: limit(8) };
        let settings = PoolSettings {
            buckets: vec![("".into(), row)],
            per_worker: vec![(
                "opus".into(),
                BucketSettings { input: limit(2), ..BucketSettings::default() },
            )],
            max_concurrent: number.is_multiple_of(3).then(|| u32::from(number % 7)),
            starts_per_minute: number.is_multiple_of(5).then(|| u32::from(number % 60)),
            share_permille: number.is_multiple_of(7).then(|| u32::from(number % 1_000) + 1),
        };
        let pools = if number.is_multiple_of(4) { Vec::new() } else { vec![("*".into(), settings)] };
        return Some(Event::LimitsConfigured { pools });
    }
    let session = session?;
    let signal = |kind: SignalKind| {
        let signal = LimitSignal {
            pool: name.clone(),
            model_class: if number.is_multiple_of(2) { "".into() } else { "opus".into() },
            kind,
            retry_after: (!number.is_multiple_of(5)).then(|| Span(u64::from(number))),
            window: "five_hour".into(),
            detail: "".into(),
        };
        Event::LimitSignalled { session, signal: Box::new(signal) }
    };
    Some(match kind {
        1 => signal(SignalKind::Throttled),
        2 => signal(SignalKind::Exhausted),
        3 | 4 => signal(SignalKind::Failing),
        5 => signal(SignalKind::Recovered),
        6 => {
            let pools = if number.is_multiple_of(3) { Vec::new() } else { pools(usize::from(number % 3)) };
            Event::PoolsChanged { session, pools }
        }
        _ => {
            let known = number.is_multiple_of(4);
            let headers = LimitHeaders {
                input_limit: known.then(|| u64::from(number % 900)),
                input_remaining: Some(u64::from(number % 1_200)),
                ..LimitHeaders::default()
            };
            Event::LimitsReported {
                session,
                report: Box::new(LimitReport {
                    meter: MeterId {
                        pool: name,
                        model_class: "opus".into(),
                        worker: if number.is_multiple_of(2) { "noop".into() } else { "marie".into() },
                    },
                    granted: amounts(number.rotate_left(3)),
                    used: amounts(number),
                    returned: amounts(number.rotate_left(7)),
                    wanted: amounts(number.rotate_left(11)),
                    waiting: u32::from(number % 5),
                    headers: number.is_multiple_of(3).then_some(headers),
                }),
            }
        }
    })
}

/// How pools stand. A question changes nothing.
pub fn views(state: &mut State, now: Now) -> Vec<PoolView> {
    let token = Token(u64::MAX);
    let effects = apply(state, now, Event::Asked { token, tenant: ONE, query: Query::Limits(None) });
    let found = effects.actions.into_iter().find_map(|action| {
        let Action::Reply { answer, .. } = action else { return None };
        if let Answer::Limits(views) = *answer { Some(views) } else { None }
    });
    found.expect("views of pools")
}

/// Nothing that asks an API is granted to an agent whose pool is used up.
pub fn check_grants(state: &mut State, now: Now, granted: &[String]) {
    if granted.is_empty() {
        return;
    }
    for view in views(state, now).iter().filter(|view| view.state == PoolState::Exhausted) {
        let stray = granted.iter().find(|agent| view.agents.iter().any(|user| **user == ***agent));
        assert!(stray.is_none(), "{stray:?} was granted something while {} is {}", view.pool, view.detail);
    }
}
