//! A token bucket in whole numbers: what may be given away now, and what is with agents.
//! Knows amounts and time; refuses to know who uses it.
//!
//! **The rule.** `level + outstanding <= capacity`, always, and refilling stops there. The bucket of the API is debited when
//! a request arrives (or ends), which is after its credit became outstanding here and before it is reported as used; it
//! is refilled at least as fast and has at least that capacity. So it always holds at least `level + outstanding`, and
//! whoever was given credit finds it there: with known limits nobody is answered 429. It was so once the sum was small
//! enough at one moment, which is why every bucket begins empty.
//!
//! **Exactness.** The level is kept in parts of a unit ([`SCALE`]) in which a millisecond of refill is a whole number,
//! so that nothing is lost or won by how often it is looked at.

use crate::time::{Span, Tick};

/// Parts of a unit: milliseconds of a minute, times thousandths of the rate, times thousandths of the pace.
const SCALE: i128 = 60_000 * 1_000 * 1_000;
/// Part of the limit that is refilled, in thousandths. The rest is for clocks that differ; what the API then has more is
/// taken up by what its answers say is left ([`Bucket::remaining`]).
const RATE_PERMILLE: u64 = 990;
/// Part of a minute's limit that a bucket holds, in thousandths: a margin for estimates that were too low.
const CAPACITY_PERMILLE: u64 = 980;
/// The same where the limit is only guessed: nobody knows what the API's bucket holds.
const LEARNED_PERMILLE: u64 = 500;
/// The full pace, in thousandths.
pub(crate) const FULL_PACE: u32 = 1_000;
/// How far back an answer may have been written that is read now: answers travel, and reports wait to be gathered.
const STALE_SECONDS: u64 = 2;
/// Answers are compared with the level for so long before it is lowered: part of what is outstanding was debited
/// already, which looks like too high a level for a moment.
const COMPARE: Span = Span::seconds(3);

/// The whole of a limit, in thousandths.
pub(crate) const WHOLE: u32 = 1_000;

/// Where a limit comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) enum Source {
    /// An operator.
    #[default]
    Configured,
    /// The API's headers.
    Headers,
    /// What was refused.
    Learned,
}

impl Source {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Headers => "headers",
            Self::Learned => "learned",
        }
    }
}

/// What was used in each of the last 60 seconds.
#[derive(Debug, Clone, Hash)]
struct Seconds {
    newest: u64,
    counts: [u64; 60],
}

impl Seconds {
    fn turn(&mut self, now: Tick) {
        let second = now.0 / 1_000;
        let passed = second.saturating_sub(self.newest).min(60);
        for step in 1..=passed {
            let at = (second - passed + step) % 60;
            self.counts[at as usize] = 0;
        }
        self.newest = self.newest.max(second);
    }

    fn note(&mut self, amount: u64, now: Tick) {
        self.turn(now);
        let cell = &mut self.counts[(self.newest % 60) as usize];
        *cell = cell.saturating_add(amount);
    }

    /// In the last `seconds`, and in the current one.
    fn since(&self, seconds: u64, now: Tick) -> u64 {
        let second = now.0 / 1_000;
        let first = second.saturating_sub(seconds.min(59));
        let known = |at: &u64| *at <= self.newest && *at + 60 > self.newest;
        let cells = (first..=second).filter(known).map(|at| self.counts[(at % 60) as usize]);
        cells.fold(0, u64::saturating_add)
    }
}

/// One bucket. Without a limit it only counts.
#[derive(Debug, Clone, Hash)]
pub(crate) struct Bucket {
    limit: Option<(u64, Source)>,
    /// The part of the limit that may be used, in thousandths: the rest is for whoever else uses the account.
    share: u32,
    /// In parts of a unit; below 0 after more was used than was given.
    level: i128,
    /// With agents, in units.
    outstanding: u64,
    /// When it was refilled last.
    at: Tick,
    used: Seconds,
    /// Since when answers are compared, and the least by which the level was too high.
    compared: Option<(Tick, u64)>,
}

impl Bucket {
    pub(crate) fn new(now: Tick) -> Self {
        let used = Seconds { newest: now.0 / 1_000, counts: [0; 60] };
        Self { limit: None, share: WHOLE, level: 0, outstanding: 0, at: now, used, compared: None }
    }

    /// The limit of the account, and where it is from.
    pub(crate) const fn limit(&self) -> Option<(u64, Source)> {
        self.limit
    }

    /// What of the limit may be used a minute; at least one.
    pub(crate) fn in_force(&self) -> Option<u64> {
        let part = |limit: u64| u128::from(limit) * u128::from(self.share) / u128::from(WHOLE);
        self.limit.map(|(limit, _)| u64::try_from(part(limit)).unwrap_or(limit).max(1))
    }

    /// Uses this part of whatever its limit is.
    pub(crate) fn set_share(&mut self, share: u32) {
        self.share = share.clamp(1, WHOLE);
        if self.limit.is_some() {
            self.level = self.level.min(self.ceiling());
        }
    }

    pub(crate) const fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// Whole units that may be given away now.
    pub(crate) fn free(&self) -> u64 {
        u64::try_from((self.level / SCALE).max(0)).unwrap_or(u64::MAX)
    }

    pub(crate) fn used_since(&self, seconds: u64, now: Tick) -> u64 {
        self.used.since(seconds, now)
    }

    /// Most that it holds, in units; at least one.
    pub(crate) fn capacity(&self) -> u64 {
        let Some((limit, (_, source))) = self.in_force().zip(self.limit) else { return u64::MAX };
        let part = if source == Source::Learned { LEARNED_PERMILLE } else { CAPACITY_PERMILLE };
        let margin = u128::from(limit) * u128::from(1_000 - part) / 1_000;
        limit.saturating_sub(u64::try_from(margin).unwrap_or(limit)).max(1)
    }

    /// The level may not be above this.
    fn ceiling(&self) -> i128 {
        (i128::from(self.capacity()) - i128::from(self.outstanding)) * SCALE
    }

    /// Parts a millisecond.
    fn rate(&self, pace: u32) -> i128 {
        self.in_force().map_or(0, |limit| i128::from(limit) * i128::from(RATE_PERMILLE) * i128::from(pace))
    }

    /// Lets it fill up for the time that passed at this pace.
    pub(crate) fn refill(&mut self, now: Tick, pace: u32) {
        let passed = now - self.at;
        self.at = self.at.max(now);
        if self.limit.is_none() {
            return;
        }
        let more = self.rate(pace).saturating_mul(i128::from(passed.0));
        let ceiling = self.ceiling();
        if self.level < ceiling {
            self.level = self.level.saturating_add(more).min(ceiling);
        }
    }

    /// Another limit, or none. What it has stays as far as it fits; a bucket that was not limited begins empty.
    pub(crate) fn set_limit(&mut self, limit: Option<(u64, Source)>) {
        if self.limit.is_none() {
            self.level = 0;
        }
        self.limit = limit.map(|(limit, source)| (limit.max(1), source));
        self.compared = None;
        if self.limit.is_some() {
            self.level = self.level.min(self.ceiling());
        }
    }

    /// Whether so much may be given away. What is more than it can ever hold waits for a full bucket.
    pub(crate) fn has(&self, amount: u64) -> bool {
        self.limit.is_none() || amount == 0 || self.level >= self.target(amount)
    }

    fn target(&self, amount: u64) -> i128 {
        i128::from(amount.min(self.capacity())) * SCALE
    }

    /// When what was drained is filled up again, if the API fills its bucket at the full rate.
    pub(crate) fn recovered_at(&self, now: Tick) -> Tick {
        let rate = self.rate(FULL_PACE).max(1);
        let millis = (-self.level).max(0) / rate;
        now + Span(u64::try_from(millis).unwrap_or(0))
    }

    /// When it will have so much; `None` when not by the passing of time alone.
    pub(crate) fn ready_at(&self, amount: u64, now: Tick, pace: u32) -> Option<Tick> {
        let target = self.target(amount);
        let rate = self.rate(pace);
        if target > self.ceiling() || rate <= 0 {
            return None;
        }
        let lacking = (target - self.level).max(0);
        let millis = (lacking + rate - 1) / rate;
        Some(now + Span(u64::try_from(millis).unwrap_or(u64::MAX).max(1)))
    }

    /// Gives so much away.
    pub(crate) fn give(&mut self, amount: u64) {
        self.outstanding = self.outstanding.saturating_add(amount);
        self.debit(amount);
    }

    fn debit(&mut self, amount: u64) {
        if self.limit.is_none() {
            return;
        }
        self.level = self.level.saturating_sub(i128::from(amount) * SCALE);
        // Whatever somebody says was used beyond what was given: it is forgotten after a minute at the latest.
        self.level = self.level.max(-(i128::from(self.capacity()) * SCALE)).min(self.ceiling());
    }

    /// So much of what is outstanding was used.
    pub(crate) fn consume(&mut self, amount: u64, now: Tick) {
        self.outstanding = self.outstanding.saturating_sub(amount);
        self.used.note(amount, now);
    }

    /// So much was used that was never given away.
    pub(crate) fn overdraw(&mut self, amount: u64, now: Tick) {
        self.used.note(amount, now);
        self.debit(amount);
    }

    /// So much comes back unused.
    pub(crate) fn take_back(&mut self, amount: u64) {
        self.outstanding = self.outstanding.saturating_sub(amount);
        if self.limit.is_some() {
            self.level = self.level.saturating_add(i128::from(amount) * SCALE).min(self.ceiling());
        }
    }

    /// So much of what is outstanding will not be heard of any more: it counts as used.
    pub(crate) fn write_off(&mut self, amount: u64, now: Tick) {
        self.consume(amount, now);
    }

    /// Nothing is there, whatever was thought: somebody was answered 429. What is outstanding is owed, then.
    pub(crate) fn drain(&mut self) {
        if self.limit.is_some() {
            self.level = self.level.min(-i128::from(self.outstanding) * SCALE);
            self.debit(0);
        }
    }

    /// The API said how much is left.
    ///
    /// It raises the level at once where everything that may have been debited since leaves that much, and lowers it
    /// when answers agree for a while that it is too high: others use the same limit, or an estimate was wrong.
    /// Tokens are rounded to thousands in answers. Where only a part of the limit is ours, what is left is not ours to take.
    pub(crate) fn remaining(&mut self, left: u64, rounded: bool, now: Tick) {
        let Some((limit, source)) = self.limit else { return };
        let rounding = if rounded && left.is_multiple_of(1_000) && limit >= 20_000 { 500 } else { 0 };
        let gone = self.used.since(STALE_SECONDS, now).saturating_add(self.outstanding);
        let sure = i128::from(left) - i128::from(gone) - rounding;
        if source != Source::Learned && self.share == WHOLE {
            let sure = (sure * SCALE).min(self.ceiling());
            self.level = self.level.max(sure);
        }
        let thought = self.level / SCALE + i128::from(self.outstanding);
        let excess = u64::try_from(thought - i128::from(left) - rounding).unwrap_or(0);
        let (since, least) = self.compared.map_or((now, excess), |(since, least)| (since, least.min(excess)));
        self.compared = (excess > 0).then_some((since, least));
        if excess > 0 && now - since >= COMPARE {
            let lower = self.level - i128::from(least) * SCALE;
            self.level = lower.max(0).min(self.level);
            self.compared = None;
        }
    }

    /// What does not hold.
    pub(crate) fn inconsistency(&self) -> Option<String> {
        let broken = self.limit.is_some() && self.level > self.ceiling();
        let (level, outstanding) = (self.level / SCALE, self.outstanding);
        broken.then(|| format!("{level} and {outstanding} outstanding of {}", self.capacity()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Tick = Tick(1_000_000);

    fn bucket(limit: u64) -> Bucket {
        let mut bucket = Bucket::new(START);
        bucket.set_limit(Some((limit, Source::Configured)));
        bucket
    }

    #[test]
    fn of_a_limit_that_is_shared_only_the_part_is_used_whatever_the_api_says_is_left() {
        let mut part = bucket(1_000);
        part.set_share(250);
        part.refill(START + Span::minutes(9), FULL_PACE);
        assert_eq!((part.in_force(), part.free()), (Some(250), 245));
        part.give(245);
        part.consume(245, START + Span::minutes(9));
        // The API has 755 left: they are somebody else's.
        let later = START + Span::minutes(9) + Span::seconds(10);
        part.remaining(755, false, later);
        assert_eq!(part.free(), 0);
        part.refill(later, FULL_PACE);
        assert_eq!(part.free(), 41, "a sixth of the part");
        // It holds for a limit that the API tells, too, and less of it takes effect at once.
        part.set_limit(Some((400, Source::Headers)));
        part.refill(later + Span::minutes(5), FULL_PACE);
        assert_eq!((part.in_force(), part.free()), (Some(100), 98));
        part.set_share(100);
        assert_eq!((part.in_force(), part.free(), part.inconsistency()), (Some(40), 40, None));
    }

    #[test]
    fn it_begins_empty_and_nothing_is_lost_by_looking_often() {
        let (mut often, mut once) = (bucket(7), bucket(7));
        for millis in 1..=60_000 {
            often.refill(START + Span(millis), FULL_PACE);
        }
        once.refill(START + Span::minutes(1), FULL_PACE);
        assert_eq!(often.level, once.level);
        assert_eq!(once.level, 7 * 990 * SCALE / 1_000, "99 % of the rate");
        assert_eq!(bucket(7).free(), 0);
    }

    #[test]
    fn level_and_what_is_outstanding_stay_within_98_percent_of_a_minute() {
        let mut bucket = bucket(1_000);
        bucket.refill(START + Span::minutes(5), FULL_PACE);
        assert_eq!(bucket.free(), 980);
        bucket.give(500);
        bucket.refill(START + Span::minutes(10), FULL_PACE);
        assert_eq!(
            (bucket.free(), bucket.outstanding()),
            (480, 500),
            "what is outstanding may still be debited"
        );
        bucket.consume(300, START);
        bucket.take_back(200);
        assert_eq!((bucket.free(), bucket.outstanding()), (680, 0));
        bucket.refill(START + Span::minutes(20), FULL_PACE);
        assert_eq!(bucket.free(), 980);
    }

    #[test]
    fn debts_are_paid_off_and_never_last_longer_than_a_minute() {
        let mut bucket = bucket(600);
        bucket.overdraw(100, START);
        assert_eq!(bucket.free(), 0);
        assert!(!bucket.has(1) && bucket.has(0));
        let ready = bucket.ready_at(1, START, FULL_PACE).expect("it fills");
        bucket.refill(Tick(ready.0 - 1), FULL_PACE);
        assert!(!bucket.has(1));
        bucket.refill(ready, FULL_PACE);
        assert!(bucket.has(1));
        bucket.overdraw(u64::MAX, START);
        assert!(bucket.ready_at(1, ready, FULL_PACE).expect("it fills") <= ready + Span::seconds(61));
    }

    #[test]
    fn what_is_more_than_it_holds_waits_for_a_full_bucket() {
        let mut bucket = bucket(100);
        bucket.give(1);
        assert_eq!(bucket.ready_at(500, START, FULL_PACE), None, "not while anything is outstanding");
        bucket.consume(1, START);
        let ready = bucket.ready_at(500, START, FULL_PACE).expect("it fills");
        bucket.refill(ready, FULL_PACE);
        assert!(bucket.has(500));
        bucket.give(500);
        assert!(!bucket.has(1));
    }

    #[test]
    fn what_the_api_says_is_left_raises_the_level_less_what_may_have_been_debited_since() {
        let mut bucket = bucket(10_000);
        bucket.refill(START + Span::seconds(6), FULL_PACE);
        bucket.give(500);
        bucket.consume(200, START + Span::seconds(6));
        bucket.remaining(9_999, true, START + Span::seconds(6));
        assert_eq!((bucket.free(), bucket.outstanding()), (9_499, 300));
        bucket.remaining(100, true, START + Span::seconds(6));
        assert_eq!(bucket.free(), 9_499, "one answer may be older than what was reported since");
        bucket.remaining(1_100, true, START + Span::seconds(10));
        assert_eq!(bucket.free(), 800, "answers agree: others use the limit, too");
    }

    #[test]
    fn the_last_minute_is_remembered_by_the_second() {
        let mut bucket = bucket(100);
        bucket.overdraw(5, START);
        bucket.overdraw(7, START + Span::seconds(30));
        assert_eq!(bucket.used_since(2, START + Span::seconds(31)), 7);
        assert_eq!(bucket.used_since(60, START + Span::seconds(31)), 12);
        assert_eq!(bucket.used_since(60, START + Span::seconds(80)), 7);
        assert_eq!(bucket.used_since(60, START + Span::minutes(9)), 0);
    }
}
