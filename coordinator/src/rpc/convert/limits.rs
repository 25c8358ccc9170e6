//! Limits and allowances, from the wire to the core's words and back.
//! Knows both forms; what an agent may say of them is judged where sessions are read.

use super::{attempt_id, attempt_key, duration, span};
use orch_core::budgets::{Allowance, Spending, Spent};
use orch_core::ids::AttemptKey;
use orch_core::limits::{
    Amounts, BucketView, LimitHeaders, LimitHit, LimitReport, LimitSignal, MeterId, PoolNotice, PoolState,
    SignalKind,
};
use orch_proto::v1;
use std::sync::Arc;

/// Amounts; absent ones are none.
#[must_use]
fn amounts_from_wire(wire: Option<&v1::Amounts>) -> Amounts {
    wire.map_or_else(Amounts::default, |wire| Amounts {
        requests: wire.requests,
        input: wire.input_tokens,
        output: wire.output_tokens,
        concurrent: wire.concurrent,
    })
}

/// Amounts.
#[must_use]
const fn amounts(amounts: Amounts) -> v1::Amounts {
    v1::Amounts {
        requests: amounts.requests,
        input_tokens: amounts.input,
        output_tokens: amounts.output,
        concurrent: amounts.concurrent,
    }
}

/// A meter.
#[must_use]
pub fn meter_from_wire(wire: &v1::MeterId) -> MeterId {
    MeterId {
        pool: Arc::from(wire.pool.as_str()),
        model_class: Arc::from(wire.model_class.as_str()),
        worker: Arc::from(wire.worker.as_str()),
    }
}

/// A meter.
#[must_use]
fn meter(meter: &MeterId) -> v1::MeterId {
    v1::MeterId {
        pool: meter.pool.to_string(),
        model_class: meter.model_class.to_string(),
        worker: meter.worker.to_string(),
    }
}

/// What became of credit of `meter`.
#[must_use]
pub fn limit_report(meter: MeterId, wire: &v1::LimitReport) -> LimitReport {
    LimitReport {
        meter,
        granted: amounts_from_wire(wire.granted.as_ref()),
        used: amounts_from_wire(wire.used.as_ref()),
        returned: amounts_from_wire(wire.returned.as_ref()),
        wanted: amounts_from_wire(wire.wanted.as_ref()),
        waiting: wire.waiting,
        headers: wire.headers.as_ref().map(limit_headers),
    }
}

const fn limit_headers(wire: &v1::LimitHeaders) -> LimitHeaders {
    LimitHeaders {
        requests_limit: wire.requests_limit,
        requests_remaining: wire.requests_remaining,
        input_limit: wire.input_limit,
        input_remaining: wire.input_remaining,
        output_limit: wire.output_limit,
        output_remaining: wire.output_remaining,
    }
}

/// What the API said, its texts as they are; `None` when this version has no word for it.
#[must_use]
pub fn limit_signal(wire: &v1::LimitSignal) -> Option<LimitSignal> {
    let kind = match wire.kind() {
        v1::LimitSignalKind::Unspecified => return None,
        v1::LimitSignalKind::Throttled => SignalKind::Throttled,
        v1::LimitSignalKind::Exhausted => SignalKind::Exhausted,
        v1::LimitSignalKind::Failing => SignalKind::Failing,
        v1::LimitSignalKind::Recovered => SignalKind::Recovered,
    };
    Some(LimitSignal {
        pool: Arc::from(wire.pool.as_str()),
        model_class: Arc::from(wire.model_class.as_str()),
        kind,
        retry_after: wire.retry_after.as_ref().map(span),
        window: Arc::from(wire.window.as_str()),
        detail: Arc::from(wire.detail.as_str()),
    })
}

/// What an attempt spends; `None` when it names no attempt.
#[must_use]
pub fn spending(wire: &v1::Spending) -> Option<Spending> {
    let money = |micro_usd, tokens| Spent { micro_usd, tokens, runs: 0 };
    Some(Spending {
        attempt: attempt_key(wire.attempt.as_ref())?,
        spent: money(wire.spent_micro_usd, wire.spent_tokens),
        bound: money(wire.bound_micro_usd, wire.bound_tokens),
        wanted: money(wire.wanted_micro_usd, wire.wanted_tokens),
        in_flight: wire.in_flight,
        estimated: wire.estimated,
        seen: wire.seen,
    })
}

/// The limit that an attempt ran into, its texts as they are.
#[must_use]
pub fn limit_hit(wire: &v1::LimitHit) -> LimitHit {
    LimitHit {
        pool: Arc::from(wire.pool.as_str()),
        window: Arc::from(wire.window.as_str()),
        exhausted: wire.exhausted,
    }
}

/// More credit.
#[must_use]
pub fn limit_grant(of: &MeterId, granted: Amounts) -> v1::LimitGrant {
    v1::LimitGrant { meter: Some(meter(of)), granted: Some(amounts(granted)) }
}

/// How a pool stands.
#[must_use]
pub const fn pool_state(state: PoolState) -> v1::PoolState {
    match state {
        PoolState::Open => v1::PoolState::Open,
        PoolState::Throttled => v1::PoolState::Throttled,
        PoolState::Exhausted => v1::PoolState::Exhausted,
        PoolState::Failing => v1::PoolState::Failing,
    }
}

/// A bucket, for people.
#[must_use]
pub fn bucket(view: &BucketView) -> v1::BucketView {
    v1::BucketView {
        model_class: view.model_class.to_string(),
        worker: view.worker.to_string(),
        unit: view.unit.to_owned(),
        limit: view.limit,
        free: view.free,
        leased: view.leased,
        used: view.used,
        source: view.source.to_owned(),
        pace_permille: view.pace_permille,
    }
}

/// What agents are told of a pool.
#[must_use]
pub fn pool_notice(notice: &PoolNotice) -> v1::PoolNotice {
    v1::PoolNotice {
        pool: notice.pool.to_string(),
        model_class: notice.model_class.to_string(),
        state: pool_state(notice.state).into(),
        left: notice.left.map(duration),
        window: notice.window.to_string(),
        metered: notice.metered,
    }
}

/// What an attempt may spend. `attempt` is `None` inside an assignment.
#[must_use]
pub fn allowance(attempt: Option<AttemptKey>, allowance: &Allowance) -> v1::Allowance {
    v1::Allowance {
        attempt: attempt.map(attempt_id),
        micro_usd: allowance.micro_usd,
        tokens: allowance.tokens,
        one_more: allowance.one_more,
        spent: allowance.spent,
        detail: allowance.detail.to_string(),
        seq: allowance.seq,
    }
}
