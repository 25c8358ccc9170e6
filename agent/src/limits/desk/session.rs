//! What the desk and the coordinator say to each other. All totals are of the session, so that a word that comes twice or
//! late does no harm; what changes often is said only as it is when it is said.

use super::{Amounts, Desk, Due, Meter, MeterKey, Place, Refusal, Spend};
use crate::boottime::BootMillis;
use crate::gateway::wire::{Command, Headers};
use crate::limits::credit::Credit;
use crate::limits::purse::{Admission, Allowance};
use crate::limits::standing::Gate;
use crate::runner::AttemptKey;
use crate::session::convert;
use orch_proto::prices::Prices;
use orch_proto::v1::{self, LimitSignalKind, PoolState, agent_item::Item};
use std::time::Duration;

/// The first protocol in which a coordinator gives credit and allowances.
pub(super) const GIVES_CREDIT: u32 = 3;
/// Something that a request waits for is not said more often than this: what comes together goes together.
const SOON: Duration = Duration::from_millis(5);
/// Something that nothing waits for.
const LATER: Duration = Duration::from_millis(200);
/// How long credit that nobody uses is kept for the next request.
const IDLE: Duration = Duration::from_millis(1_500);
/// What was learned of a meter that nobody used for so long is forgotten when a session begins.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// What is to be said and done.
#[derive(Debug, Default)]
pub struct Said {
    /// To the coordinator.
    pub items: Vec<Item>,
    /// Attempts to be ended: their budget is spent.
    pub stops: Vec<AttemptKey>,
}

impl Due {
    /// A request waits for it.
    pub(super) fn soon(&mut self, now: BootMillis) {
        let earliest = self.said.plus(SOON).max(now);
        self.at = Some(self.at.map_or(earliest, |at| at.min(earliest)));
    }

    /// Nothing waits for it.
    pub(super) fn later(&mut self, now: BootMillis) {
        self.at.get_or_insert_with(|| now.plus(LATER));
    }

    fn take(&mut self, now: BootMillis) -> bool {
        let is_due = self.at.is_some_and(|at| at <= now);
        if is_due {
            *self = Self { at: None, said: now };
        }
        is_due
    }
}

impl Desk {
    /// A session with a coordinator of this protocol began, which knows these prices and says how the pools stand that are
    /// not simply open. No credit of a former session counts any more.
    pub fn session_up(
        &mut self,
        protocol: u32,
        prices: Vec<v1::ModelPrice>,
        pools: &[v1::PoolNotice],
        now: BootMillis,
    ) {
        self.begin_session(now);
        self.protocol = Some(protocol);
        self.prices = Prices::new(prices);
        for standing in self.standings.values_mut() {
            standing.unlisted();
        }
        for notice in pools {
            self.take_notice(notice, now);
        }
        for meter in self.meters.values_mut().filter(|meter| !meter.turns.is_empty()) {
            meter.due.soon(now);
        }
        self.heartbeat(now);
        self.decide(now);
    }

    /// The session is over. What was not used of its credit is dropped.
    pub fn session_down(&mut self, now: BootMillis) {
        if self.protocol.take().is_some() {
            self.alone = now;
        }
        self.begin_session(now);
    }

    fn begin_session(&mut self, now: BootMillis) {
        self.session += 1;
        // Meters of workers that are long gone are forgotten here.
        self.meters.retain(|_, meter| !meter.turns.is_empty() || now.since(meter.last_used) < FORGOTTEN);
        for meter in self.meters.values_mut() {
            (meter.credit, meter.due) = (Credit::default(), Due::default());
        }
    }

    /// More credit.
    pub fn grant(&mut self, grant: &v1::LimitGrant, now: BootMillis) {
        let Some(meter) = grant.meter.as_ref() else { return };
        let key = MeterKey {
            pool: meter.pool.clone(),
            class: meter.model_class.clone(),
            worker: meter.worker.clone(),
        };
        let total = grant.granted.map(Amounts::from).unwrap_or_default();
        let meter = self.meters.entry(key.clone()).or_default();
        if meter.credit.grant(total) {
            // Credit that comes when nobody waits any more is not kept longer than any other.
            meter.last_used = now;
            meter.due.later(now);
        }
        self.decide(now);
        // What requests take is known better by now than when it was asked for.
        if let Some(meter) = self.meters.get_mut(&key).filter(|meter| !meter.turns.is_empty()) {
            meter.due.soon(now);
        }
    }

    /// How a pool stands.
    pub fn notice(&mut self, notice: &v1::PoolNotice, now: BootMillis) {
        self.take_notice(notice, now);
        self.decide(now);
    }

    fn take_notice(&mut self, notice: &v1::PoolNotice, now: BootMillis) {
        let left = notice.left.as_ref().and_then(convert::duration);
        let at = (notice.pool.clone(), notice.model_class.clone());
        let state = match notice.state() {
            PoolState::Unspecified => PoolState::Open,
            state @ (PoolState::Open | PoolState::Throttled | PoolState::Exhausted | PoolState::Failing) => {
                state
            }
        };
        self.standings.entry(at).or_default().told(state, left, &notice.window, notice.metered, now);
        // Whoever waits here may have to ask for credit from now on.
        let waits =
            |(key, meter): &(&MeterKey, &mut Meter)| key.pool == notice.pool && !meter.turns.is_empty();
        for (_, meter) in self.meters.iter_mut().filter(waits) {
            meter.due.soon(now);
        }
    }

    /// What an attempt may spend. It is answered at once.
    pub fn allow(&mut self, key: AttemptKey, allowance: Allowance, now: BootMillis) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        attempt.purse.allow(allowance);
        attempt.due.soon(now);
        self.decide(now);
    }

    /// What every attempt that has an allowance has spent is said with the next heartbeat.
    pub fn heartbeat(&mut self, now: BootMillis) {
        for attempt in self.attempts.values_mut().filter(|attempt| attempt.purse.is_counted()) {
            attempt.due.soon(now);
        }
    }

    /// An attempt without a gateway has spent so much so far, as far as its events tell.
    pub fn spent_directly(&mut self, key: AttemptKey, total: Spend, now: BootMillis) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        attempt.purse.spend(total, true);
        if !attempt.purse.is_counted() {
            return;
        }
        match attempt.purse.goes_on() {
            Admission::Go => attempt.due.later(now),
            Admission::Wait { .. } => attempt.due.soon(now),
            Admission::Spent(budget) => {
                attempt.refuse_for_budget(budget);
                attempt.due.soon(now);
                if !std::mem::replace(&mut attempt.asked_to_stop, true) {
                    self.stops.insert(key);
                }
            }
        }
    }

    /// The first answer of an attempt without a gateway has used or written the cache.
    pub fn warmed_directly(&mut self, key: AttemptKey) {
        if let Some(attempt) = self.attempts.get_mut(&key)
            && !std::mem::replace(&mut attempt.warmed, true)
        {
            self.warmed.insert(key);
        }
    }

    /// Why requests of an attempt were refused so far.
    #[must_use]
    pub fn refusal(&self, key: AttemptKey) -> Option<&Refusal> {
        self.attempts.get(&key)?.refusal.as_ref()
    }

    /// What the requests of an attempt wait for, in plain English; `None` when none waits.
    #[must_use]
    pub fn waits_for(&self, key: AttemptKey, now: BootMillis) -> Option<String> {
        let attempt = self.attempts.get(&key)?;
        let first = attempt.flights.values().find(|flight| flight.place != Place::Sent)?;
        let pool = &first.meter.pool;
        Some(match (first.place, self.gate(&first.meter, now)) {
            (Place::Purse, _) => "waiting for more of its budget".to_owned(),
            (_, Gate::Held) => format!("waiting: credential pool {pool} is throttled or fails"),
            (_, Gate::Probe) => format!("waiting: the API fails for credential pool {pool}"),
            (_, Gate::Open | Gate::Shut) => format!("waiting for the rate limit of credential pool {pool}"),
        })
    }

    /// Commands for the gateway of an attempt.
    pub fn commands(&mut self, key: AttemptKey) -> Vec<Command> {
        self.told.remove(&key);
        self.attempts.get_mut(&key).map(|attempt| attempt.out.drain(..).collect()).unwrap_or_default()
    }

    /// Attempts for whose gateways there is something, since this was asked last.
    pub(in crate::limits) fn told(&mut self) -> Vec<AttemptKey> {
        std::mem::take(&mut self.told).into_iter().collect()
    }

    /// When there is something to be said or decided that time alone brings about.
    #[must_use]
    pub fn due_at(&self, now: BootMillis) -> Option<BootMillis> {
        let speaks = self.protocol.is_some_and(|protocol| protocol >= GIVES_CREDIT);
        let at_once =
            !self.stops.is_empty() || (speaks && !(self.signals.is_empty() && self.warmed.is_empty()));
        let waits = || self.meters.values().any(|meter| !meter.turns.is_empty());
        let reports = self.meters.values().filter(|_| speaks).filter_map(|meter| meter.due.at);
        let spending = self.attempts.values().filter(|_| speaks).filter_map(|attempt| attempt.due.at);
        let idle =
            self.meters.values().filter(|meter| meter.is_idle()).map(|meter| meter.last_used.plus(IDLE));
        let standings =
            self.standings.values().filter(|_| waits()).filter_map(|standing| standing.changes_at(now));
        let alone = Some(self.alone.plus(super::decide::ALONE_LIMIT));
        let alone = alone.filter(|at| self.protocol.is_none() && *at > now && waits());
        let all = reports.chain(spending).chain(idle).chain(standings).chain(alone).chain(self.failing_due());
        all.chain(at_once.then_some(now)).min()
    }

    /// Decides what time has brought about, and says what is due.
    pub fn say(&mut self, now: BootMillis) -> Said {
        self.decide(now);
        self.return_idle(now);
        let stops = std::mem::take(&mut self.stops).into_iter().collect();
        let mut items = Vec::new();
        if self.protocol.is_some_and(|protocol| protocol >= GIVES_CREDIT) {
            self.say_signals(&mut items, now);
            let warmed = std::mem::take(&mut self.warmed).into_iter();
            items.extend(
                warmed.map(|key| Item::Warmed(v1::Warmed { attempt: Some(convert::attempt_id(key)) })),
            );
            self.say_spending(&mut items, now);
            self.say_reports(&mut items, now);
        }
        Said { items, stops }
    }

    fn say_signals(&mut self, items: &mut Vec<Item>, now: BootMillis) {
        for ((pool, model_class), signal) in std::mem::take(&mut self.signals) {
            let left = signal.until.map(|until| until.since(now));
            if left.is_some_and(|left| left.is_zero()) && signal.kind != LimitSignalKind::Throttled {
                continue;
            }
            items.push(Item::LimitSignal(v1::LimitSignal {
                pool,
                model_class,
                kind: signal.kind.into(),
                retry_after: left.and_then(|left| prost_types::Duration::try_from(left).ok()),
                window: signal.window,
                detail: signal.detail,
            }));
        }
    }

    fn say_spending(&mut self, items: &mut Vec<Item>, now: BootMillis) {
        for (key, attempt) in &mut self.attempts {
            if !attempt.due.take(now) {
                continue;
            }
            let purse = &attempt.purse;
            let (spent, bound, wanted) = (purse.spent(), purse.bound(), purse.wanted());
            items.push(Item::Spending(v1::Spending {
                attempt: Some(convert::attempt_id(*key)),
                spent_micro_usd: spent.micro_usd,
                spent_tokens: spent.tokens,
                bound_micro_usd: bound.micro_usd,
                bound_tokens: bound.tokens,
                wanted_micro_usd: wanted.micro_usd,
                wanted_tokens: wanted.tokens,
                in_flight: purse.in_flight(),
                estimated: purse.is_estimated(),
                seen: purse.seen(),
            }));
        }
    }

    fn say_reports(&mut self, items: &mut Vec<Item>, now: BootMillis) {
        let due: Vec<MeterKey> = self
            .meters
            .iter_mut()
            .filter_map(|(key, meter)| meter.due.take(now).then(|| key.clone()))
            .collect();
        for key in due.into_iter().filter(|key| !key.pool.is_empty()) {
            let needs_credit = self.needs_credit(&key, now);
            let (waiting, need) = self.needs(&key);
            let Some(meter) = self.meters.get_mut(&key) else { continue };
            let wanted = if needs_credit { meter.credit.missing(need) } else { Amounts::default() };
            items.push(Item::Limits(v1::LimitReport {
                meter: Some(v1::MeterId { pool: key.pool, model_class: key.class, worker: key.worker }),
                granted: Some(meter.credit.granted().into()),
                used: Some(meter.credit.used().into()),
                returned: Some(meter.credit.returned().into()),
                wanted: Some(wanted.into()),
                waiting,
                headers: meter.headers.take().map(headers),
            }));
        }
    }

    /// Requests in the queue of a meter, and what they need.
    fn needs(&self, key: &MeterKey) -> (u32, Amounts) {
        let Some(meter) = self.meters.get(key) else { return (0, Amounts::default()) };
        let of_turn = meter.turns.iter().filter_map(|key| self.attempts.get(key));
        let queued = of_turn
            .flat_map(|attempt| attempt.flights.values())
            .filter(|flight| flight.place == Place::Queue && flight.meter == *key);
        queued.fold((0, Amounts::default()), |(count, sum), flight| {
            (count + 1, sum.plus(meter.learned.need(&flight.ask)))
        })
    }

    /// Gives back what nobody used for a while; and at once what nobody can use, because the pool is not open.
    fn return_idle(&mut self, now: BootMillis) {
        let keys: Vec<MeterKey> =
            self.meters.iter().filter(|(_, meter)| meter.has_free()).map(|(key, _)| key.clone()).collect();
        for key in keys {
            let is_open = self.gate(&key, now) == Gate::Open;
            let keep = self.needs(&key).1;
            let Some(meter) = self.meters.get_mut(&key) else { continue };
            let is_idle = meter.is_idle() && now.since(meter.last_used) >= IDLE;
            if (is_idle || !is_open) && meter.credit.give_back(keep) {
                meter.due.soon(now);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn credit(&self, key: &MeterKey) -> Credit {
        self.meters.get(key).map(|meter| meter.credit).unwrap_or_default()
    }
}

impl Meter {
    fn has_free(&self) -> bool {
        !self.credit.free().is_nothing()
    }

    fn is_idle(&self) -> bool {
        self.turns.is_empty() && self.has_free()
    }
}

const fn headers(headers: Headers) -> v1::LimitHeaders {
    v1::LimitHeaders {
        requests_limit: headers.requests_limit,
        requests_remaining: headers.requests_remaining,
        input_limit: headers.input_limit,
        input_remaining: headers.input_remaining,
        output_limit: headers.output_limit,
        output_remaining: headers.output_remaining,
    }
}
