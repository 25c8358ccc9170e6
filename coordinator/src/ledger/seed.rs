//! What a start reads of the ledger: the number of the next page, the newest entries, and what was spent by the hour.
//! Knows pages as they come; refuses to keep more of them than it says.

use std::collections::VecDeque;

use orch_core::ids::TenantId;
use orch_core::time::Wall;
use orch_proto::store::v1::LedgerEntry;

use super::pace::{Pace, SEED_DAYS};
use super::page::{PageError, day_of, decode, money_of};

/// Number of the first page of all.
pub const FIRST_PAGE: u64 = 1;

/// Newest entries of which histories and hit rates are made.
const RECENT: usize = 20_000;

/// See the [module](self). Takes pages in the order of their keys.
#[derive(Debug)]
pub struct Seed {
    next: u64,
    today: u32,
    recent: VecDeque<LedgerEntry>,
    pace: Pace,
}

impl Seed {
    /// Before the first page.
    #[must_use]
    pub fn new(now: Wall) -> Self {
        Self { next: FIRST_PAGE, today: day_of(now.0), recent: VecDeque::new(), pace: Pace::default() }
    }

    /// Takes a page.
    ///
    /// # Errors
    /// [`PageError`].
    pub fn visit(&mut self, day: u32, number: u64, payload: &[u8]) -> Result<(), PageError> {
        self.next = self.next.max(number.saturating_add(1));
        // Older ones tell nothing that is needed; who asks for their costs reads them.
        if day.saturating_add(SEED_DAYS) < self.today {
            return Ok(());
        }
        for entry in decode(day, number, payload)?.entries {
            self.pace.add(TenantId(entry.tenant), entry.recorded_ms, money_of(&entry).micro_usd);
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(entry);
        }
        Ok(())
    }

    /// Number of the next page.
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// What was spent on the day of `now`, of everybody.
    #[must_use]
    pub fn spent_on(&self, now: Wall) -> u64 {
        self.pace.on_day_of(now.0)
    }

    pub(super) fn into_parts(self) -> (Pace, VecDeque<LedgerEntry>) {
        (self.pace, self.recent)
    }
}

#[cfg(test)]
mod tests {
    use super::super::page::tests::{bill, usage};
    use super::super::page::{MILLIS_A_DAY, entry};
    use super::*;
    use orch_proto::store::v1::LedgerPage;
    use prost::Message as _;

    #[test]
    fn numbers_go_on_behind_the_highest_even_when_the_clock_went_back() {
        let now = 100 * MILLIS_A_DAY;
        let mut seed = Seed::new(Wall(now));
        let page = |at| LedgerPage {
            entries: entry(&bill(1, 1, usage("m", 1, 50)), Wall(at)).into_iter().collect(),
            tick: 1,
        };
        seed.visit(1, 3, b"not looked at: too old").unwrap();
        seed.visit(99, 9, &page(99 * MILLIS_A_DAY).encode_to_vec()).unwrap();
        seed.visit(100, 4, &page(now).encode_to_vec()).unwrap();
        assert_eq!(seed.next(), 10);
        assert_eq!(seed.spent_on(Wall(now + 5)), 50);
        assert!(seed.visit(100, 5, b"\xFF").is_err());
        assert_eq!(seed.into_parts().1.len(), 2);
    }
}
