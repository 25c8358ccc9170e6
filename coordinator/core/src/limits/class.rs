//! The limits of one class of models in a pool: its buckets, the shares of workers, and the accounts of everybody who
//! asks. Gives credit away in a fair order; when and to whom it is told is [`super::pool`]'s.
//!
//! **Order.** Whoever was given the smaller part of the limits so far is next (a pass that rises by the largest part a
//! request took), one request's worth at a time. What lacks the whole class's credit is waited for: otherwise large
//! requests would starve. What lacks only its worker's share is passed over.
//!
//! **Ahead.** While nobody waits and a quarter of every bucket is there, an agent that used something is topped up to
//! [`AHEAD`] requests of its usual size beyond those in flight, so that the next ones need no round trip.

use crate::ids::SessionId;
use crate::limits::account::{Account, METERED, Moved, PERMITS, UNITS};
use crate::limits::bucket::{Bucket, FULL_PACE, Source};
use crate::limits::gate::Pace;
use crate::limits::{BucketSettings, LimitHeaders, LimitReport};
use crate::time::{Span, Tick};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Requests that an agent may have credit for ahead of its need.
const AHEAD: u64 = 2;
/// Waiting requests are worth so many seconds of the limit: then nothing more is started that would wait, too.
const CONGESTED_SECONDS: u64 = 30;
/// And so few when they no longer are.
const RELIEVED_SECONDS: u64 = 15;
/// Shares of workers that are kept for one class: more is a mistake.
const MOST_SHARES: usize = 1_024;

/// After so long a request goes that would otherwise wait for what others have and do not use: they may wait for the same.
const STUCK: Span = Span::seconds(3);
/// Longest pause for what agents have and the API has not.
const LONGEST_RECOVERY: Span = Span::seconds(15);

/// The three buckets of a limit: requests, input tokens, output tokens.
pub(crate) type Buckets = [Bucket; METERED];

/// Whose account: a session and a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Holder {
    pub(crate) session: SessionId,
    pub(crate) worker: Arc<str>,
}

/// An account and its place among those that wait.
#[derive(Debug, Default, Hash)]
pub(crate) struct Held {
    pub(crate) account: Account,
    pass: u64,
}

/// Requests at a time, over all classes of a pool.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(crate) struct Permits {
    pub(crate) most: Option<u64>,
    pub(crate) held: u64,
}

impl Permits {
    fn has(self, amount: u64) -> bool {
        self.most.is_none_or(|most| amount == 0 || self.held.saturating_add(amount) <= most.max(1))
    }
}

/// One class of models.
#[derive(Debug, Hash)]
pub(crate) struct ModelClass {
    pub(crate) buckets: Buckets,
    pub(crate) shares: BTreeMap<Arc<str>, Buckets>,
    pub(crate) accounts: BTreeMap<Holder, Held>,
    waiting: BTreeSet<(u64, Holder)>,
    /// The pass of whoever was served last.
    pass: u64,
    pub(crate) pace: Pace,
    /// So much waits that nothing is to be started.
    pub(crate) congested: bool,
    /// The same of the shares of workers.
    pub(crate) tight: BTreeSet<Arc<str>>,
    /// When something was used first.
    first_use: Option<Tick>,
    /// The API's headers were seen.
    told: bool,
    /// Since when the next request waits for what only agents could give back.
    stuck: Option<Tick>,
}

pub(crate) fn buckets(now: Tick) -> Buckets {
    [Bucket::new(now), Bucket::new(now), Bucket::new(now)]
}

fn by_unit(settings: BucketSettings) -> [Option<u64>; METERED] {
    [settings.requests, settings.input, settings.output]
}

impl ModelClass {
    pub(crate) fn new(now: Tick) -> Self {
        Self {
            buckets: buckets(now),
            shares: BTreeMap::new(),
            accounts: BTreeMap::new(),
            waiting: BTreeSet::new(),
            pass: 0,
            pace: Pace::new(now),
            congested: false,
            tight: BTreeSet::new(),
            first_use: None,
            told: false,
            stuck: None,
        }
    }

    pub(crate) fn is_limited(&self) -> bool {
        let any = |buckets: &Buckets| buckets.iter().any(|bucket| bucket.limit().is_some());
        any(&self.buckets) || self.shares.values().any(any)
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// An operator's limits, in place of those before, and the part of whatever limit is in force that is used. What the
    /// API itself said stays.
    pub(crate) fn configure(&mut self, settings: BucketSettings, share: u32) {
        self.buckets.iter_mut().for_each(|bucket| bucket.set_share(share));
        for (bucket, limit) in self.buckets.iter_mut().zip(by_unit(settings)) {
            match bucket.limit() {
                Some((_, Source::Headers)) => {}
                Some((_, Source::Learned)) if limit.is_none() => {}
                Some((before, Source::Configured)) if limit == Some(before) => {}
                Some(_) | None => bucket.set_limit(limit.map(|limit| (limit, Source::Configured))),
            }
        }
    }

    /// The share of a worker.
    pub(crate) fn share(&mut self, worker: &Arc<str>, settings: BucketSettings, now: Tick) {
        let limits = by_unit(settings);
        if limits == [None; METERED] {
            self.shares.remove(worker);
            self.tight.remove(worker);
            return;
        }
        if !self.shares.contains_key(worker) && self.shares.len() >= MOST_SHARES {
            return;
        }
        let share = self.shares.entry(Arc::clone(worker)).or_insert_with(|| buckets(now));
        for (bucket, limit) in share.iter_mut().zip(limits) {
            if bucket.limit().map(|(limit, _)| limit) != limit {
                bucket.set_limit(limit.map(|limit| (limit, Source::Configured)));
            }
        }
    }

    /// What the API said of its limits holds, whatever was thought.
    pub(crate) fn headers(&mut self, headers: LimitHeaders, now: Tick) {
        let said = [
            (headers.requests_limit, headers.requests_remaining),
            (headers.input_limit, headers.input_remaining),
            (headers.output_limit, headers.output_remaining),
        ];
        for (unit, (bucket, (limit, left))) in self.buckets.iter_mut().zip(said).enumerate() {
            if let Some(limit) = limit.filter(|limit| *limit > 0) {
                let known = bucket.limit();
                if known.is_none_or(|(before, source)| before != limit || source == Source::Learned) {
                    bucket.set_limit(Some((limit, Source::Headers)));
                }
                if !self.told {
                    self.told = true;
                    self.pace.know(now);
                }
            }
            if let Some(left) = left {
                bucket.remaining(left, unit > 0, now);
            }
        }
    }

    /// Somebody was answered 429; the pause ends at `until`. Where nobody knows a limit, what got through in the last
    /// minute tells: at most what a full bucket held and what came in meanwhile. Returns until when it is better to wait:
    /// agents have credit that the API does not have, and would all use it at once.
    pub(crate) fn throttled(&mut self, now: Tick, until: Tick) -> Tick {
        let unknown = self.buckets.iter().all(|bucket| bucket.limit().is_none());
        if unknown {
            let since = self.first_use.map_or(1, |first| (now - first).0.div_ceil(1_000)).clamp(1, 60);
            for bucket in &mut self.buckets {
                let used = bucket.used_since(59, now);
                if used > 0 {
                    let limit = used.saturating_mul(60) / (60 + since);
                    bucket.set_limit(Some((limit.max(1), Source::Learned)));
                    bucket.drain();
                }
            }
            self.pace.grope(now, until);
        } else if self.pace.halve(now, until, self.told) {
            self.refill(now);
            for bucket in &mut self.buckets {
                bucket.drain();
            }
        } else {
            return until;
        }
        let recovered = self.buckets.iter().filter(|bucket| bucket.limit().is_some());
        let recovered = recovered.map(|bucket| bucket.recovered_at(now)).max().unwrap_or(until);
        recovered.min(now + LONGEST_RECOVERY).max(until)
    }

    /// Takes a report over. Returns what it moved.
    pub(crate) fn report(&mut self, holder: &Holder, report: &LimitReport, now: Tick) -> Moved {
        self.refill(now);
        let held = self.accounts.entry(holder.clone()).or_default();
        self.waiting.remove(&(held.pass, holder.clone()));
        let LimitReport { granted, used, returned, wanted, waiting, .. } = report;
        let moved = held.account.report(*granted, *used, *returned, *wanted, *waiting);
        let owed = held.account.owed();
        held.account.grant(owed);
        let waits = held.account.is_lacking();
        if waits {
            held.pass = held.pass.max(self.pass);
            self.waiting.insert((held.pass, holder.clone()));
        }
        if moved.used[0] > 0 && self.first_use.is_none() {
            self.first_use = Some(now);
        }
        for buckets in std::iter::once(&mut self.buckets).chain(self.shares.get_mut(&holder.worker)) {
            for (unit, bucket) in buckets.iter_mut().enumerate() {
                bucket.consume(moved.used[unit], now);
                bucket.overdraw(moved.overdrawn[unit], now);
                bucket.take_back(moved.returned[unit]);
                bucket.give(owed[unit]);
            }
        }
        moved
    }

    fn refill(&mut self, now: Tick) {
        self.pace.ramp(now);
        let pace = self.pace.permille();
        self.buckets.iter_mut().for_each(|bucket| bucket.refill(now, pace));
        for share in self.shares.values_mut() {
            share.iter_mut().for_each(|bucket| bucket.refill(now, FULL_PACE));
        }
    }

    /// Gives credit to whoever waits. Returns who was given some, and when there will be more for those that still wait.
    pub(crate) fn deal(&mut self, now: Tick, permits: &mut Permits) -> (BTreeSet<Holder>, Option<Tick>) {
        self.refill(now);
        let (mut served, mut due) = (BTreeSet::new(), None);
        let mut after = None;
        loop {
            let next = match &after {
                None => self.waiting.first().cloned(),
                Some(after) => {
                    let rest = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
                    self.waiting.range::<(u64, Holder), _>(rest).next().cloned()
                }
            };
            let Some(place) = next else { break };
            let Some(held) = self.accounts.get(&place.1) else {
                self.waiting.remove(&place);
                continue;
            };
            let amounts = Self::worth(held);
            let soonest = |due: Option<Tick>, at: Option<Tick>| due.into_iter().chain(at).min();
            if let Some(share) = self.shares.get(&place.1.worker)
                && let Some(at) = lacks(share, &amounts, now, FULL_PACE)
            {
                due = soonest(due, at);
                after = Some(place);
                continue;
            }
            if let Some(at) = lacks(&self.buckets, &amounts, now, self.pace.permille()) {
                let since = at.is_none().then(|| self.stuck.unwrap_or(now));
                self.stuck = since;
                if since.is_none_or(|since| now - since < STUCK) {
                    due = soonest(due, at.or_else(|| since.map(|since| since + STUCK)));
                    break;
                }
            }
            if !permits.has(amounts[PERMITS]) {
                break;
            }
            self.serve(&place, amounts, permits);
            served.insert(place.1);
        }
        (served, due)
    }

    /// One request's worth for a holder: all of it at once, because a part of it would be of no use to anybody.
    fn worth(held: &Held) -> [u64; UNITS] {
        let mut amounts = held.account.next();
        amounts[PERMITS] = amounts[PERMITS].min(1);
        amounts
    }

    fn serve(&mut self, place: &(u64, Holder), amounts: [u64; UNITS], permits: &mut Permits) {
        self.waiting.remove(place);
        self.stuck = None;
        let part = |unit: usize| match self.buckets[unit].in_force() {
            Some(limit) => u128::from(amounts[unit]) * 1_000_000 / u128::from(limit),
            None => 1,
        };
        let cost = (0..METERED).map(part).max().unwrap_or(1).max(1);
        self.pass = self.pass.max(place.0);
        self.give(&place.1, amounts, permits);
        let Some(held) = self.accounts.get_mut(&place.1) else { return };
        held.pass = place.0.saturating_add(u64::try_from(cost).unwrap_or(u64::MAX));
        if held.account.is_lacking() {
            self.waiting.insert((held.pass, place.1.clone()));
        }
    }

    fn give(&mut self, holder: &Holder, amounts: [u64; UNITS], permits: &mut Permits) {
        let Some(held) = self.accounts.get_mut(holder) else { return };
        held.account.grant(amounts);
        permits.held = permits.held.saturating_add(amounts[PERMITS]);
        for buckets in std::iter::once(&mut self.buckets).chain(self.shares.get_mut(&holder.worker)) {
            for (bucket, amount) in buckets.iter_mut().zip(amounts) {
                bucket.give(amount);
            }
        }
    }

    /// One request's worth for whoever waits longest, whatever the buckets hold: to try whether the API is back.
    pub(crate) fn probe(&mut self, permits: &mut Permits) -> Option<Holder> {
        let place = self.waiting.first()?.clone();
        let amounts = Self::worth(self.accounts.get(&place.1)?);
        self.serve(&place, amounts, permits);
        Some(place.1)
    }

    /// Credit ahead of need for somebody who has just used some, while there is plenty.
    pub(crate) fn ahead(&mut self, holder: &Holder, permits: &mut Permits) -> bool {
        let Some(held) = self.accounts.get(holder) else { return false };
        let (used, has) = (held.account.used(), held.account.held());
        let (true, requests) = (self.waiting.is_empty(), used[0]) else { return false };
        if requests == 0 {
            return false;
        }
        let flying = has[PERMITS].saturating_sub(has[0]);
        let mut amounts = [0; UNITS];
        for unit in 0..UNITS {
            // A quarter more than usual: what is kept back is given back when the request turns out smaller.
            let usual =
                if unit == 0 || unit == PERMITS { 1 } else { (used[unit] / requests).saturating_mul(5) / 4 };
            let count =
                if unit == METERED - 1 || unit == PERMITS { flying.saturating_add(AHEAD) } else { AHEAD };
            amounts[unit] = usual.saturating_mul(count).saturating_sub(has[unit]);
        }
        let plenty = |buckets: &Buckets| {
            buckets.iter().zip(amounts).all(|(bucket, amount)| {
                let quarter = bucket.capacity() / 4;
                bucket.limit().is_none() || (bucket.free() >= quarter && amount <= bucket.free() / 4)
            })
        };
        let room = permits.most.is_none_or(|most| permits.held.saturating_add(amounts[PERMITS]) <= most / 2);
        let share = self.shares.get(&holder.worker);
        if amounts == [0; UNITS] || !room || !plenty(&self.buckets) || !share.is_none_or(plenty) {
            return false;
        }
        self.give(holder, amounts, permits);
        true
    }

    /// Sees whether so much waits that nothing more is to be started. Says whether that ended.
    pub(crate) fn judge(&mut self) -> bool {
        let mut all = [0u64; METERED];
        let mut by_worker: BTreeMap<Arc<str>, [u64; METERED]> = BTreeMap::new();
        for (_, holder) in &self.waiting {
            let Some(held) = self.accounts.get(holder) else { continue };
            let lacking = held.account.lacking();
            let of_worker = self.shares.contains_key(&holder.worker);
            let mine = of_worker.then(|| by_worker.entry(Arc::clone(&holder.worker)).or_default());
            for (sum, lacking) in all.iter_mut().zip(lacking) {
                *sum = sum.saturating_add(lacking);
            }
            for (sum, lacking) in mine.into_iter().flatten().zip(lacking) {
                *sum = sum.saturating_add(lacking);
            }
        }
        let before = (self.congested, self.tight.clone());
        self.congested = is_congested(&self.buckets, &all, self.congested);
        for (worker, share) in &self.shares {
            let lacking = by_worker.get(worker).copied().unwrap_or_default();
            if is_congested(share, &lacking, self.tight.contains(worker)) {
                self.tight.insert(Arc::clone(worker));
            } else {
                self.tight.remove(worker);
            }
        }
        (before.0 && !self.congested) || !before.1.is_subset(&self.tight)
    }

    /// Whether a session has an account.
    pub(crate) fn has_credit(&self, session: SessionId) -> bool {
        let first = Holder { session, worker: Arc::default() };
        self.accounts.range(first..).next().is_some_and(|(holder, _)| holder.session == session)
    }

    /// A session ended long ago: what it held counts as used. Returns the permits that are free now.
    pub(crate) fn forget(&mut self, session: SessionId, now: Tick) -> u64 {
        let first = Holder { session, worker: Arc::default() };
        let of_it = |holder: &&Holder| holder.session == session;
        let gone: Vec<Holder> =
            self.accounts.range(first..).map(|(holder, _)| holder).take_while(of_it).cloned().collect();
        let mut permits = 0u64;
        for holder in gone {
            let Some(held) = self.accounts.remove(&holder) else { continue };
            let has = held.account.held();
            permits = permits.saturating_add(has[PERMITS]);
            for buckets in std::iter::once(&mut self.buckets).chain(self.shares.get_mut(&holder.worker)) {
                for (bucket, amount) in buckets.iter_mut().zip(has) {
                    bucket.write_off(amount, now);
                }
            }
            self.waiting.remove(&(held.pass, holder));
        }
        permits
    }

    /// What does not hold.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        for (holder, held) in &self.accounts {
            let waits = self.waiting.contains(&(held.pass, holder.clone()));
            if waits != held.account.is_lacking() {
                return Some(format!("{holder:?} waits: {waits}"));
            }
        }
        let stray = self.waiting.iter().find(|(_, holder)| !self.accounts.contains_key(holder));
        if let Some(stray) = stray {
            return Some(format!("{stray:?} waits and has no account"));
        }
        let held = |worker: Option<&Arc<str>>, unit: usize| {
            let mine =
                self.accounts.iter().filter(|(holder, _)| worker.is_none_or(|at| *at == holder.worker));
            mine.fold(0u64, |sum, (_, held)| sum.saturating_add(held.account.held()[unit]))
        };
        for unit in 0..METERED {
            let (is, kept) = (held(None, unit), self.buckets[unit].outstanding());
            if is != kept {
                return Some(format!("unit {unit}: {is} with agents, kept {kept}"));
            }
        }
        let all = std::iter::once(&self.buckets).chain(self.shares.values());
        all.flatten().find_map(Bucket::inconsistency)
    }
}

/// Whether buckets have too little, and when they will have enough, where time alone does that.
fn lacks(buckets: &Buckets, amounts: &[u64; UNITS], now: Tick, pace: u32) -> Option<Option<Tick>> {
    let lacking = || (0..METERED).filter(|unit| !buckets[*unit].has(amounts[*unit]));
    lacking().next()?;
    let ready = lacking().map(|unit| buckets[unit].ready_at(amounts[unit], now, pace));
    // All of them are needed.
    Some(ready.collect::<Option<Vec<Tick>>>().and_then(|ready| ready.into_iter().max()))
}

fn is_congested(buckets: &Buckets, lacking: &[u64; METERED], before: bool) -> bool {
    let seconds = if before { RELIEVED_SECONDS } else { CONGESTED_SECONDS };
    buckets.iter().zip(lacking).any(|(bucket, lacking)| {
        bucket.in_force().is_some_and(|limit| *lacking > limit.saturating_mul(seconds) / 60)
    })
}
