//! Which request of which attempt may go: first the purse of its attempt, then the standing of its pool, then credit; in
//! fair order, one attempt after the other. Everything that was said is an argument, so is the time; what is to be said is
//! gathered. Pure: knows no socket and no session.
//!
//! A request is in one of three places: with its attempt's purse, in the queue of its meter, or sent. It leaves the first
//! two also by a refusal, and all three when its attempt does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use orch_proto::prices::{Prices, WEB_SEARCH_MICRO_USD};
use orch_proto::v1::{self, LimitSignalKind};

use super::amounts::Amounts;
use super::credit::Credit;
use super::learned::Learned;
use super::purse::{Allowance, Purse, Spend};
use super::standing::Standing;
use crate::boottime::BootMillis;
use crate::gateway::wire::{Ask, Command, Headers, ModelTotal, SignalKind, Tokens};
use crate::runner::AttemptKey;

mod decide;
mod hear;
mod session;
#[cfg(test)]
mod tests;

pub use self::session::Said;

/// Whose credit it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MeterKey {
    pool: String,
    class: String,
    worker: String,
}

/// An attempt that asks the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub key: AttemptKey,
    /// Its credential pool; empty without one: nobody counts then.
    pub pool: String,
    /// Its worker.
    pub worker: String,
    /// Ceiling of its task, where the gateway is to keep it, in millionths of a US dollar.
    pub own_micro_usd: Option<u64>,
    /// What it may spend from the start.
    pub allowance: Option<Allowance>,
}

/// Why requests of an attempt were refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// A budget is spent: it is named.
    Budget(String),
    /// A window of its pool is used up until then.
    Exhausted {
        /// The window, or empty.
        window: String,
        /// When it is reset.
        until: BootMillis,
    },
}

/// What is known of an attempt that left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Why requests of it were refused.
    pub refusal: Option<Refusal>,
    /// Requests whose end was not heard of, with what was known of them.
    pub cut: Vec<(Ask, Option<Tokens>)>,
    /// Everything of those whose end was, by model.
    pub totals: Vec<ModelTotal>,
    /// The window of its pool that is used up now, and until when.
    pub shut: Option<(String, BootMillis)>,
}

/// When something is due to be said; the earlier of two counts.
#[derive(Debug, Clone, Copy, Default)]
struct Due {
    at: Option<BootMillis>,
    said: BootMillis,
}

#[derive(Debug, Default)]
struct Meter {
    credit: Credit,
    learned: Learned,
    /// Attempts with requests in the queue, in the order of their turns.
    turns: VecDeque<AttemptKey>,
    headers: Option<Headers>,
    last_used: BootMillis,
    due: Due,
}

#[derive(Debug)]
struct Attempt {
    entry: Entry,
    purse: Purse,
    flights: BTreeMap<u64, Flight>,
    totals: BTreeMap<String, ModelTotal>,
    /// Its gateway was heard before in this process.
    greeted: bool,
    warmed: bool,
    refusal: Option<Refusal>,
    asked_to_stop: bool,
    out: VecDeque<Command>,
    due: Due,
}

#[derive(Debug)]
struct Flight {
    ask: Ask,
    meter: MeterKey,
    worst: Spend,
    /// What of the meter's credit it holds, while it is sent; what it needs before.
    amounts: Amounts,
    place: Place,
    begun: Option<Tokens>,
    /// When it was asked.
    asked: BootMillis,
    /// The session whose credit it holds; `None` for none.
    session: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Purse,
    Queue,
    Sent,
}

/// A signal that is to be said.
#[derive(Debug, Clone)]
struct Signal {
    kind: LimitSignalKind,
    until: Option<BootMillis>,
    window: String,
    detail: String,
}

/// The desk of an agent.
#[derive(Debug, Default)]
pub struct Desk {
    prices: Prices,
    /// Number of the session, and its protocol while there is one.
    session: u64,
    protocol: Option<u32>,
    /// Since when there is no session.
    alone: BootMillis,
    attempts: BTreeMap<AttemptKey, Attempt>,
    meters: BTreeMap<MeterKey, Meter>,
    /// By pool and class; an empty class is for all.
    standings: BTreeMap<(String, String), Standing>,
    /// By pool and class: the latest of each counts.
    signals: BTreeMap<(String, String), Signal>,
    warmed: BTreeSet<AttemptKey>,
    stops: BTreeSet<AttemptKey>,
    /// Attempts that have something to be told.
    told: BTreeSet<AttemptKey>,
}

impl Desk {
    /// The prices in force.
    #[must_use]
    pub const fn prices(&self) -> &Prices {
        &self.prices
    }

    /// An attempt begins to ask. One that was here before under the same key is forgotten.
    pub fn enter(&mut self, entry: Entry, now: BootMillis) {
        self.leave(entry.key, now);
        let purse = Purse::new(entry.own_micro_usd, entry.allowance.clone());
        let due = Due { at: purse.is_counted().then_some(now), ..Due::default() };
        let attempt = Attempt {
            purse,
            flights: BTreeMap::new(),
            totals: BTreeMap::new(),
            greeted: false,
            warmed: false,
            refusal: None,
            asked_to_stop: false,
            out: VecDeque::new(),
            due,
            entry,
        };
        self.attempts.insert(attempt.entry.key, attempt);
    }

    /// An attempt is over: nothing of it asks any more. What its requests in flight held counts as used: the API may have
    /// served them.
    pub fn leave(&mut self, key: AttemptKey, now: BootMillis) -> Tally {
        let Some(attempt) = self.attempts.remove(&key) else { return Tally::default() };
        self.told.remove(&key);
        self.stops.remove(&key);
        let mut cut = Vec::new();
        for flight in attempt.flights.into_values() {
            if flight.place == Place::Sent {
                let took = Amounts { concurrent: 0, ..flight.amounts };
                self.settle(&flight, took, now);
                cut.push((flight.ask, flight.begun));
            }
        }
        for meter in self.meters.values_mut() {
            meter.turns.retain(|waiting| *waiting != key);
        }
        let shut = self.shut(&attempt.entry.pool, now);
        Tally { refusal: attempt.refusal, cut, totals: attempt.totals.into_values().collect(), shut }
    }

    /// A request that held credit has taken so much.
    fn settle(&mut self, flight: &Flight, took: Amounts, now: BootMillis) {
        if flight.session != Some(self.session) {
            return;
        }
        if let Some(meter) = self.meters.get_mut(&flight.meter) {
            meter.credit.settle(flight.amounts, took);
            meter.last_used = now;
            meter.due.later(now);
        }
    }

    /// What an attempt has spent, from what its gateway counted.
    fn reckon(&mut self, key: AttemptKey, now: BootMillis) {
        let Some(attempt) = self.attempts.get_mut(&key) else { return };
        let mut spent = Spend::default();
        for total in attempt.totals.values() {
            spent = spent.plus(cost(&self.prices, &total.model, total.tokens));
        }
        let estimated = attempt.totals.values().any(|total| total.estimated_requests > 0);
        attempt.purse.spend(spent, estimated);
        self.spending_changed(key, now);
    }

    fn spending_changed(&mut self, key: AttemptKey, now: BootMillis) {
        if let Some(attempt) = self.attempts.get_mut(&key)
            && attempt.purse.is_counted()
        {
            attempt.due.later(now);
        }
    }

    /// The API said something that concerns everybody who uses a pool: it counts here at once.
    #[expect(clippy::too_many_arguments, reason = "the fields of one signal")]
    pub fn signalled(
        &mut self,
        pool: &str,
        model: &str,
        kind: SignalKind,
        wait: Option<std::time::Duration>,
        window: &str,
        detail: &str,
        now: BootMillis,
    ) {
        // Whether the credential is taken is its pool's to know.
        if pool.is_empty() || kind == SignalKind::Refused {
            return;
        }
        let of_model = class(&self.prices, model);
        // Windows are of the account, but for those that name a model; an API that fails does so for all.
        let class = match kind {
            SignalKind::Throttled => of_model,
            SignalKind::Exhausted if window.contains(&of_model) => of_model,
            SignalKind::Exhausted | SignalKind::Failing | SignalKind::Refused => String::new(),
        };
        let in_flight = self.sent(pool, &class);
        let at = (pool.to_owned(), class);
        let standing = self.standings.entry(at.clone()).or_default();
        let kind = match kind {
            SignalKind::Throttled => {
                standing.throttled(wait, in_flight, now);
                LimitSignalKind::Throttled
            }
            SignalKind::Exhausted => {
                standing.exhausted(wait, window, detail, now);
                LimitSignalKind::Exhausted
            }
            SignalKind::Failing | SignalKind::Refused => {
                standing.failed(wait, now);
                LimitSignalKind::Failing
            }
        };
        let (window, detail) = (window.to_owned(), detail.to_owned());
        let signal = Signal { kind, until: wait.map(|wait| now.plus(wait)), window, detail };
        // Of two that wait to be said the worse one counts.
        let is_worse =
            |before: &Signal| before.kind == LimitSignalKind::Exhausted && before.until > Some(now);
        if !self.signals.get(&at).is_some_and(is_worse) || kind == LimitSignalKind::Exhausted {
            self.signals.insert(at, signal);
        }
        self.decide(now);
    }

    /// The API answered for a meter.
    fn answered(&mut self, meter: &MeterKey, now: BootMillis) {
        let mut had_failed = false;
        for class in ["", meter.class.as_str()] {
            if let Some(standing) = self.standings.get_mut(&(meter.pool.clone(), class.to_owned())) {
                had_failed |= standing.answered();
            }
        }
        if had_failed {
            let signal = Signal {
                kind: LimitSignalKind::Recovered,
                until: None,
                window: String::new(),
                detail: "the API answers again".to_owned(),
            };
            self.signals.insert((meter.pool.clone(), String::new()), signal);
        }
        if let Some(meter) = self.meters.get_mut(meter) {
            meter.last_used = now;
        }
    }

    fn note_headers(&mut self, key: AttemptKey, request: u64, headers: Headers, now: BootMillis) {
        if headers == Headers::default() {
            return;
        }
        let Some(attempt) = self.attempts.get(&key) else { return };
        let meter = attempt.flights.get(&request).map(|flight| flight.meter.clone());
        let Some(meter) = meter.and_then(|meter| self.meters.get_mut(&meter)) else { return };
        meter.headers = Some(headers);
        meter.due.later(now);
    }
}

/// The class of a model for limits, as a word that travels: at most 64 bytes.
fn class(prices: &Prices, model: &str) -> String {
    prices.class_of(model).to_owned()
}

/// The most a request can cost: everything it sends is written to the cache, and it says as much as it may. How often it
/// lets the API search the web is not known.
fn worst(prices: &Prices, ask: &Ask) -> Spend {
    let tokens = Tokens { output: ask.output_bound, ..written(ask.input_bound, ask.for_an_hour) };
    cost(prices, &ask.model, tokens)
}

/// So many tokens written to the cache.
pub(super) fn written(cache_write: u64, for_an_hour: bool) -> Tokens {
    let cache_write_1h = if for_an_hour { cache_write } else { 0 };
    Tokens { cache_write, cache_write_1h, ..Tokens::default() }
}

/// What tokens and searches cost by list prices.
pub(super) fn cost(prices: &Prices, model: &str, tokens: Tokens) -> Spend {
    let Tokens { input, output, cache_read, cache_write, cache_write_1h, searches } = tokens;
    let usage = v1::ModelUsage {
        model: model.to_owned(),
        input_tokens: input,
        output_tokens: output,
        cache_read_tokens: cache_read,
        cache_write_tokens: cache_write,
        cost_micro_usd: 0,
    };
    Spend {
        micro_usd: prices
            .cost_with(&usage, cache_write_1h)
            .saturating_add(searches.saturating_mul(WEB_SEARCH_MICRO_USD)),
        tokens: input.saturating_add(output).saturating_add(cache_read).saturating_add(cache_write),
    }
}

fn sum(one: Tokens, other: Tokens) -> Tokens {
    Tokens {
        input: one.input.saturating_add(other.input),
        output: one.output.saturating_add(other.output),
        cache_read: one.cache_read.saturating_add(other.cache_read),
        cache_write: one.cache_write.saturating_add(other.cache_write),
        cache_write_1h: one.cache_write_1h.saturating_add(other.cache_write_1h),
        searches: one.searches.saturating_add(other.searches),
    }
}

fn difference(before: Tokens, after: Tokens) -> Tokens {
    Tokens {
        input: after.input.saturating_sub(before.input),
        output: after.output.saturating_sub(before.output),
        cache_read: after.cache_read.saturating_sub(before.cache_read),
        cache_write: after.cache_write.saturating_sub(before.cache_write),
        cache_write_1h: after.cache_write_1h.saturating_sub(before.cache_write_1h),
        searches: after.searches.saturating_sub(before.searches),
    }
}
