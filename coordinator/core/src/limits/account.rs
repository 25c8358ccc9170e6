//! What one session of an agent was given for one meter, and what became of it.
//! Knows totals that only rise, so that a report that is repeated, late or a lie does no harm; refuses to know buckets.

use crate::limits::Amounts;

/// The units of a limit, in the order of [`Amounts`].
pub(crate) const UNITS: usize = 4;
/// Units that a bucket limits; the last one is counted while it is held.
pub(crate) const METERED: usize = 3;
/// Index of the permits.
pub(crate) const PERMITS: usize = 3;

impl Amounts {
    /// By unit.
    pub(crate) const fn units(self) -> [u64; UNITS] {
        [self.requests, self.input, self.output, self.concurrent]
    }

    /// From units.
    pub(crate) const fn of(units: [u64; UNITS]) -> Self {
        Self { requests: units[0], input: units[1], output: units[2], concurrent: units[3] }
    }
}

/// Most of one unit that a report may ask for, and most requests: more is a mistake.
const MOST_WANTED: u64 = 1_000_000_000;
const MOST_WAITING: u32 = 10_000;

/// One unit of an account.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
struct Line {
    granted: u64,
    used: u64,
    returned: u64,
    /// Of what was granted: neither used nor returned.
    held: u64,
    /// The total it should have for everything that waits.
    wanted: u64,
}

/// What a report moved, by unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Of what was held: used.
    pub(crate) used: [u64; UNITS],
    /// Of what was held: given back.
    pub(crate) returned: [u64; UNITS],
    /// Used although it was never given.
    pub(crate) overdrawn: [u64; UNITS],
}

/// Everything between the coordinator and a session about one meter.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Account {
    lines: [Line; UNITS],
    /// Totals as they were said last.
    told: [u64; UNITS],
    /// Requests that wait.
    pub(crate) waiting: u32,
}

impl Account {
    /// Takes a report over. What is lower than before is old and changes nothing.
    pub(crate) fn report(
        &mut self,
        granted: Amounts,
        used: Amounts,
        returned: Amounts,
        wanted: Amounts,
        waiting: u32,
    ) -> Moved {
        let (granted, used, returned) = (granted.units(), used.units(), returned.units());
        let wanted = wanted.units();
        let mut moved = Moved::default();
        let old = (0..UNITS)
            .any(|unit| used[unit] < self.lines[unit].used || returned[unit] < self.lines[unit].returned);
        for unit in 0..UNITS {
            let line = &mut self.lines[unit];
            let more_used = used[unit].saturating_sub(line.used);
            let more_back = returned[unit].saturating_sub(line.returned);
            line.used = line.used.max(used[unit]);
            line.returned = line.returned.max(returned[unit]);
            let spent = more_used.min(line.held);
            line.held -= spent;
            let back = more_back.min(line.held);
            line.held -= back;
            // Nobody can use or give back what was not there: the total is raised, so that both sides agree again.
            let beyond = (more_used - spent).saturating_add(more_back - back);
            line.granted = line.granted.saturating_add(beyond);
            moved.used[unit] = spent;
            moved.returned[unit] = back;
            moved.overdrawn[unit] = more_used - spent;
            if !old {
                let wanted = wanted[unit].min(MOST_WANTED);
                line.wanted = granted[unit].min(line.granted).saturating_add(wanted);
            }
        }
        if !old {
            self.waiting = waiting.min(MOST_WAITING);
        }
        moved
    }

    /// What is lacking for everything that waits, and to pay what was used beyond what was given.
    pub(crate) fn lacking(&self) -> [u64; UNITS] {
        self.lines.map(|line| line.wanted.saturating_sub(line.granted))
    }

    /// What is owed while nothing waits: it was used already, so it is not to be waited for.
    pub(crate) fn owed(&self) -> [u64; UNITS] {
        if self.waiting == 0 { self.lacking() } else { [0; UNITS] }
    }

    /// The worth of one of the requests that wait, as far as it is known: less for what is left until the next report.
    pub(crate) fn next(&self) -> [u64; UNITS] {
        let waiting = u64::from(self.waiting.max(1));
        self.lacking().map(|lacking| lacking.div_ceil(waiting))
    }

    /// Whether a request waits for more.
    pub(crate) fn is_lacking(&self) -> bool {
        self.waiting > 0 && self.lacking() != [0; UNITS]
    }

    /// What it holds and has not used yet.
    pub(crate) fn held(&self) -> [u64; UNITS] {
        self.lines.map(|line| line.held)
    }

    /// What was used, by unit.
    pub(crate) fn used(&self) -> [u64; UNITS] {
        self.lines.map(|line| line.used)
    }

    /// Gives it more.
    pub(crate) fn grant(&mut self, amounts: [u64; UNITS]) {
        for (line, amount) in self.lines.iter_mut().zip(amounts) {
            line.granted = line.granted.saturating_add(amount);
            line.held = line.held.saturating_add(amount);
        }
    }

    /// The totals, if they are not what was said last. They count as said then.
    pub(crate) fn tell(&mut self) -> Option<Amounts> {
        let granted = self.lines.map(|line| line.granted);
        if granted == self.told {
            return None;
        }
        self.told = granted;
        Some(Amounts::of(granted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(requests: u64, input: u64) -> Amounts {
        Amounts { requests, input, ..Amounts::default() }
    }

    fn report(account: &mut Account, granted: u64, used: u64, returned: u64, wanted: u64) -> Moved {
        let of = |input| amounts(0, input);
        account.report(of(granted), of(used), of(returned), of(wanted), u32::from(wanted > 0))
    }

    #[test]
    fn a_repeated_report_changes_nothing_and_an_older_one_neither() {
        let mut account = Account::default();
        account.grant([0, 100, 0, 0]);
        assert_eq!(report(&mut account, 100, 30, 20, 0).used[1], 30);
        let before = account.clone();
        assert_eq!(report(&mut account, 100, 30, 20, 0), Moved::default());
        assert_eq!(report(&mut account, 100, 10, 0, 900), Moved::default());
        assert_eq!(account, before);
        assert_eq!(account.held()[1], 50);
    }

    #[test]
    fn what_was_used_beyond_what_was_given_is_said_and_both_sides_agree_again() {
        let mut account = Account::default();
        account.grant([0, 100, 0, 0]);
        let moved = report(&mut account, 100, 130, 50, 40);
        assert_eq!((moved.used[1], moved.returned[1], moved.overdrawn[1]), (100, 0, 30));
        assert_eq!(account.held()[1], 0);
        assert_eq!(account.tell().map(|told| told.input), Some(180));
        // It counts 80 of debt as part of what it wants.
        assert_eq!(account.lacking()[1], 0);
        report(&mut account, 100, 130, 50, 120);
        assert_eq!(account.lacking()[1], 40);
    }

    #[test]
    fn lies_of_any_size_are_only_large_numbers() {
        let mut account = Account::default();
        let all = Amounts::of([u64::MAX; UNITS]);
        account.report(all, all, all, all, u32::MAX);
        account.grant([u64::MAX; UNITS]);
        account.report(all, all, all, all, u32::MAX);
        assert_eq!(account.lacking(), [0; UNITS]);
    }

    #[test]
    fn what_waits_is_served_by_the_request() {
        let mut account = Account::default();
        account.report(Amounts::default(), Amounts::default(), Amounts::default(), amounts(4, 1_001), 4);
        assert_eq!(account.next(), [1, 251, 0, 0]);
        account.grant([1, 251, 0, 0]);
        assert_eq!(account.lacking(), [3, 750, 0, 0]);
    }
}
