//! What an agent says of limits and money, checked before the core hears of it.
//! Knows how much and how long; decides nothing. An agent has few pools, few workers and sane numbers; one that has not
//! is broken or lies, and what it says would rest in the core's memory.

use crate::presence::harmless;
use crate::rpc::convert::{self, attempt_key};
use crate::rpc::status::{refuse, refuse_field};
use orch_core::event::Event;
use orch_core::ids::SessionId;
use orch_core::limits::{AgentPool, LimitHeaders, LimitHit, MeterId};
use orch_core::time::Span;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;

/// Session protocol from which on agents speak of limits and money.
pub(crate) const LIMITS: u32 = 3;
/// Most pools of an agent.
const MAX_POOLS: usize = 64;
/// Most workers that the pools of an agent name together.
const MAX_POOL_WORKERS: usize = 1_024;
/// Most meters of a session: each is a row in the core. 64 workers with 4 classes of models in 4 pools.
const MAX_METERS: usize = 1_024;
/// Longest name of a pool or a worker.
const MAX_NAME: usize = 63;
/// Longest name of a class of models.
const MAX_CLASS: usize = 64;
/// Longest name of a window.
const MAX_WINDOW: usize = 64;
/// Longest detail, in characters.
const MAX_DETAIL: usize = 400;
/// Largest amount: everything beyond it is a mistake, and sums of such ones do not overflow.
const MAX_AMOUNT: u64 = 1 << 48;
/// Longest time that a signal closes a pool, or a report keeps its task waiting: the longest window is a week.
pub(super) const MAX_RETRY_AFTER: Span = Span::days(8);
/// Bytes of a fingerprint.
const FINGERPRINT: usize = 8;

/// What was said in a session, as far as it bounds what may still be said.
#[derive(Debug)]
pub(super) struct LimitIntake {
    session: SessionId,
    protocol: u32,
    /// As they were told last.
    pools: Vec<AgentPool>,
    /// Every pool that was ever told: credit of one that is gone is still given back.
    known: BTreeSet<Arc<str>>,
    meters: BTreeSet<MeterId>,
}

impl LimitIntake {
    /// A session that began with these pools.
    pub(super) fn new(session: SessionId, protocol: u32, pools: Vec<AgentPool>) -> Self {
        let known = pools.iter().map(|pool| Arc::clone(&pool.name)).collect();
        Self { session, protocol, pools, known, meters: BTreeSet::new() }
    }

    /// What changed in the pools of the agent.
    pub(super) fn facts(&mut self, facts: &v1::Facts) -> Result<Option<Event>, Status> {
        let pools = agent_pools(&facts.pools, self.protocol)?;
        if pools == self.pools {
            return Ok(None);
        }
        self.known.extend(pools.iter().map(|pool| Arc::clone(&pool.name)));
        if self.known.len() > 2 * MAX_POOLS {
            return Err(violation("the agent had more different pools in one session than can be"));
        }
        self.pools.clone_from(&pools);
        Ok(Some(Event::PoolsChanged { session: self.session, pools }))
    }

    /// What became of credit.
    pub(super) fn report(&mut self, wire: &v1::LimitReport) -> Result<Option<Event>, Status> {
        self.speaks("LimitReport")?;
        let meter = wire.meter.as_ref().ok_or_else(|| violation("a LimitReport names no meter"))?;
        if !is_name(&meter.worker) || !is_class(&meter.model_class) || meter.model_class.is_empty() {
            return Err(violation("a LimitReport names a meter that cannot be"));
        }
        self.known(&meter.pool)?;
        let amounts = [&wire.granted, &wire.used, &wire.returned, &wire.wanted];
        if amounts.into_iter().flatten().any(too_much) {
            return Err(violation("a LimitReport has an amount that cannot be"));
        }
        let meter = convert::meter_from_wire(meter);
        if !self.meters.contains(&meter) {
            if self.meters.len() == MAX_METERS {
                return Err(violation("the agent reported of more than 1,024 meters in one session"));
            }
            self.meters.insert(meter.clone());
        }
        let mut report = Box::new(convert::limit_report(meter, wire));
        report.headers = report.headers.map(sane);
        Ok(Some(Event::LimitsReported { session: self.session, report }))
    }

    /// What the API said. A kind that a newer agent knows is passed over.
    pub(super) fn signal(&self, wire: &v1::LimitSignal) -> Result<Option<Event>, Status> {
        self.speaks("LimitSignal")?;
        self.known(&wire.pool)?;
        if !is_class(&wire.model_class) {
            return Err(violation("a LimitSignal names a class of models that cannot be"));
        }
        let Some(mut signal) = convert::limit_signal(wire) else { return Ok(None) };
        signal.retry_after = signal.retry_after.map(|wait| wait.min(MAX_RETRY_AFTER));
        signal.window = harmless(&signal.window, MAX_WINDOW).into();
        signal.detail = harmless(&signal.detail, MAX_DETAIL).into();
        Ok(Some(Event::LimitSignalled { session: self.session, signal: Box::new(signal) }))
    }

    /// What an attempt spends.
    pub(super) fn spending(&self, wire: &v1::Spending) -> Result<Option<Event>, Status> {
        self.speaks("Spending")?;
        let figures = [
            (wire.spent_micro_usd, wire.spent_tokens),
            (wire.bound_micro_usd, wire.bound_tokens),
            (wire.wanted_micro_usd, wire.wanted_tokens),
        ];
        if figures.iter().any(|(money, tokens)| *money.max(tokens) > MAX_AMOUNT) {
            return Err(violation("a Spending has an amount that cannot be"));
        }
        let spending = convert::spending(wire).ok_or_else(|| violation("a Spending names no attempt"))?;
        Ok(Some(Event::SpendingReported { session: self.session, spending }))
    }

    /// The prompt cache knows the beginning of an attempt.
    pub(super) fn warmed(&self, wire: &v1::Warmed) -> Result<Option<Event>, Status> {
        self.speaks("Warmed")?;
        let attempt = attempt_key(wire.attempt.as_ref());
        let attempt = attempt.ok_or_else(|| violation("a Warmed names no attempt"))?;
        Ok(Some(Event::AttemptWarmed { session: self.session, attempt }))
    }

    /// These words belong to protocol 3: whoever agreed on less does not know them.
    fn speaks(&self, what: &str) -> Result<(), Status> {
        if self.protocol >= LIMITS {
            return Ok(());
        }
        Err(violation(&format!("{what} in a session of protocol {}", self.protocol)))
    }

    fn known(&self, pool: &str) -> Result<(), Status> {
        if self.known.contains(pool) {
            return Ok(());
        }
        Err(violation(&format!(
            "the agent spoke of a pool `{}` that it does not have",
            harmless(pool, MAX_NAME)
        )))
    }
}

/// The pools of an agent as the core takes them: by name, each once. An agent that does not speak of limits may have said
/// anything; what cannot be is left out.
///
/// # Errors
/// Of others: which pool is wrong, or that there are too many.
pub(crate) fn agent_pools(said: &[v1::Pool], protocol: u32) -> Result<Vec<AgentPool>, Status> {
    let strict = protocol >= LIMITS;
    let bad = |message: String| refuse_field(ErrorCode::ProtocolViolation, "pools", message);
    if strict && said.len() > MAX_POOLS {
        return Err(bad(format!("{}; at most {MAX_POOLS}", said.len())));
    }
    let mut pools: Vec<AgentPool> = Vec::new();
    let mut room = MAX_POOL_WORKERS;
    for pool in said.iter().take(MAX_POOLS) {
        let whole = is_name(&pool.name) && pool.workers.iter().all(|worker| is_name(worker));
        let fits = pool.workers.len() <= room;
        if whole && fits {
            room -= pool.workers.len();
            pools.push(agent_pool(pool));
        } else if strict {
            let name = harmless(&pool.name, MAX_NAME);
            let why =
                if whole { "names too many workers" } else { "is not named, or names workers, as can be" };
            return Err(bad(format!("`{name}` {why}")));
        }
    }
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    pools.dedup_by(|one, other| one.name == other.name);
    Ok(pools)
}

fn agent_pool(pool: &v1::Pool) -> AgentPool {
    let mut workers: Vec<Arc<str>> = pool.workers.iter().map(|worker| Arc::from(worker.as_str())).collect();
    workers.sort_unstable();
    workers.dedup();
    AgentPool {
        name: Arc::from(pool.name.as_str()),
        workers,
        gateway: pool.gateway,
        fingerprint: pool.fingerprint.iter().copied().take(FINGERPRINT).collect(),
    }
}

/// The pool that a report names, and the limit it ran into; what cannot be is left out: a result is worth more than that.
pub(super) fn of_report(report: &v1::Report) -> (Arc<str>, Option<LimitHit>) {
    let pool = if is_name(&report.pool) { Arc::from(report.pool.as_str()) } else { Arc::default() };
    let hit = report
        .limit
        .as_ref()
        .filter(|hit| is_name(&hit.pool))
        .map(|hit| LimitHit { window: harmless(&hit.window, MAX_WINDOW).into(), ..convert::limit_hit(hit) });
    (pool, hit)
}

/// Whether a text can name a pool or a worker, by the rule of agents' settings.
fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= MAX_NAME
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}

/// Whether a text can be a class of models, or all of them.
fn is_class(text: &str) -> bool {
    text.len() <= MAX_CLASS && !text.chars().any(|c| c.is_control() || c.is_whitespace())
}

fn too_much(amounts: &v1::Amounts) -> bool {
    [amounts.requests, amounts.input_tokens, amounts.output_tokens, amounts.concurrent]
        .into_iter()
        .any(|amount| amount > MAX_AMOUNT)
}

/// The API, or what stands before it, may say any number: one that is too large means as much as anybody wants.
fn sane(headers: LimitHeaders) -> LimitHeaders {
    let sane = |said: Option<u64>| said.map(|amount| amount.min(MAX_AMOUNT));
    LimitHeaders {
        requests_limit: sane(headers.requests_limit),
        requests_remaining: sane(headers.requests_remaining),
        input_limit: sane(headers.input_limit),
        input_remaining: sane(headers.input_remaining),
        output_limit: sane(headers.output_limit),
        output_remaining: sane(headers.output_remaining),
    }
}

fn violation(what: &str) -> Status {
    refuse(ErrorCode::ProtocolViolation, what)
}

#[cfg(test)]
mod tests;
