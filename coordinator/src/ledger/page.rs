//! Pages of the ledger: what one key holds, and what an entry says in the end.
//! Knows how entries are made of bills and packed into values; refuses to know who reads them.

use orch_core::budgets::Bill;
use orch_core::time::{Tick, Wall};
use orch_proto::store::v1::{LedgerEntry, LedgerPage};
use prost::Message as _;

use crate::persist::Draft;
use crate::persist::fit::{cut_text, cut_usage};
use crate::rpc::convert;
use crate::store::{Key, MAX_VALUE_BYTES};

/// Milliseconds of a day.
pub const MILLIS_A_DAY: i64 = 86_400_000;

/// Most models of an entry; the cheapest beyond it are one row `other`.
const MAX_MODELS: usize = 16;
/// Longest name in an entry. Names of this system are shorter; with [`MAX_MODELS`] rows five of them fit a value.
const MAX_NAME_BYTES: usize = 300;
/// What an entry costs in a page beside its own bytes: tag and length.
const ENTRY_OVERHEAD_BYTES: usize = 1 + 3;
/// What a page costs beside its entries: the tick.
const PAGE_OVERHEAD_BYTES: usize = 11;

/// Why a stored page cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("page {number} of the ledger of day {day} is malformed")]
pub struct PageError {
    /// Day since 1970.
    pub day: u32,
    /// Number of the page.
    pub number: u64,
}

/// Money of an entry, in millionths of a US dollar. Negative where more is taken back than was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Money {
    /// All of it.
    pub micro_usd: i128,
    /// Of that: estimated.
    pub estimated: i128,
}

/// What an entry adds to every sum that it belongs to. What is taken back was an estimate.
#[must_use]
pub fn money_of(entry: &LedgerEntry) -> Money {
    let usage = entry.usage.as_ref();
    let spent = i128::from(usage.map_or(0, |usage| usage.cost_micro_usd));
    let back = i128::from(entry.taken_back_micro_usd);
    let estimated = if usage.is_some_and(|usage| usage.estimated) { spent } else { 0 };
    Money { micro_usd: spent - back, estimated: estimated - back }
}

/// The entry of a bill; none for one that says nothing, as that of a task that does nothing.
pub(super) fn entry(bill: &Bill, at: Wall) -> Option<LedgerEntry> {
    let taken_back = bill.taken_back_micro_usd.unwrap_or(0);
    if bill.usage.is_zero() && taken_back == 0 {
        return None;
    }
    let name = |text: &str| {
        let mut text = text.to_owned();
        cut_text(&mut text, MAX_NAME_BYTES);
        text
    };
    let mut usage = convert::usage(&bill.usage);
    cut_usage(&mut usage, MAX_MODELS);
    Some(LedgerEntry {
        run_id: bill.run.0,
        run_ref: name(&bill.run_ref),
        task_id: name(&bill.task_id),
        attempt: if is_correction(bill) { 0 } else { bill.attempt },
        worker: name(&bill.worker),
        agent: name(&bill.agent),
        pool: name(&bill.pool),
        outcome: convert::outcome_to_wire(bill.outcome).into(),
        usage: Some(usage),
        recorded_ms: at.0,
        taken_back_micro_usd: taken_back,
        duration_ms: bill.duration.map_or(0, |span| span.0),
        tenant: bill.tenant.0,
    })
}

/// Whether the attempt has an entry already. A late bill that takes nothing back is the first one of its attempt; an
/// estimate that takes nothing back comes on top of another.
fn is_correction(bill: &Bill) -> bool {
    bill.taken_back_micro_usd.is_some_and(|back| back > 0 || bill.usage.models.is_empty())
}

/// The day, since 1970, under which something of that moment lies. Before 1970 it is always the first.
#[must_use]
pub fn day_of(millis: i64) -> u32 {
    u32::try_from(millis.max(0) / MILLIS_A_DAY).unwrap_or(u32::MAX)
}

/// Packs entries into as few pages as they fit, in order, none of which spans midnight. `next` is the number of the
/// first page, and afterwards that of the next one.
pub(super) fn pack(entries: &[LedgerEntry], tick: Tick, next: &mut u64) -> Vec<Draft> {
    let mut drafts = Vec::new();
    let mut rest = entries;
    while let [first, ..] = rest {
        let day = day_of(first.recorded_ms);
        let mut bytes = PAGE_OVERHEAD_BYTES;
        let mut fits = |entry: &LedgerEntry| {
            bytes += entry.encoded_len() + ENTRY_OVERHEAD_BYTES;
            day_of(entry.recorded_ms) == day && bytes <= MAX_VALUE_BYTES
        };
        // An entry is bounded so that it fits a page of its own.
        let count = rest.iter().take_while(|entry| fits(entry)).count().max(1);
        let (taken, more) = rest.split_at(count);
        let page = LedgerPage { entries: taken.to_vec(), tick: tick.0 };
        drafts.push(Draft::Whole { key: Key::ledger_page(day, *next), value: page.encode_to_vec() });
        *next += 1;
        rest = more;
    }
    drafts
}

/// Reads a stored page.
///
/// # Errors
/// [`PageError`].
pub fn decode(day: u32, number: u64, payload: &[u8]) -> Result<LedgerPage, PageError> {
    LedgerPage::decode(payload).map_err(|_| PageError { day, number })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::Entity;
    use orch_core::ids::{RunId, TenantId};
    use orch_core::outcome::Outcome;
    use orch_core::time::Span;
    use orch_core::usage::{ModelUsage, Usage};
    use std::sync::Arc;

    const NOON: i64 = 1_763_726_400_000;

    pub(in crate::ledger) fn usage(model: &str, input: u64, micro_usd: u64) -> Usage {
        let row = ModelUsage {
            model: Arc::from(model),
            input,
            output: input / 5,
            cache_read: 0,
            cache_write: 0,
            cost_micro_usd: micro_usd,
        };
        Usage { models: vec![row], cost_micro_usd: micro_usd, estimated: false }
    }

    pub(in crate::ledger) fn bill(run: u64, attempt: u32, usage: Usage) -> Bill {
        Bill {
            tenant: TenantId(1),
            run: RunId(run),
            run_ref: format!("adhoc/{run}").into(),
            task_id: "t".into(),
            attempt,
            worker: "marie".into(),
            agent: "box-1".into(),
            pool: "main".into(),
            outcome: Outcome::OK,
            usage,
            taken_back_micro_usd: None,
            duration: Some(Span(1_500)),
        }
    }

    fn pages(entries: &[LedgerEntry], next: &mut u64) -> Vec<(u32, u64, LedgerPage)> {
        let drafts = pack(entries, Tick(7), next);
        let read = |draft: Draft| {
            let Draft::Whole { key, value } = draft else { panic!("{draft:?}") };
            assert!(value.len() <= MAX_VALUE_BYTES, "{}", value.len());
            let Ok(Entity::LedgerPage { day, number }) = key.entity() else { panic!("{key:?}") };
            (day, number, decode(day, number, &value).unwrap())
        };
        drafts.into_iter().map(read).collect()
    }

    #[test]
    fn a_bill_that_says_nothing_makes_no_entry() {
        assert_eq!(entry(&bill(1, 1, Usage::default()), Wall(NOON)), None);
        let correction = Bill { taken_back_micro_usd: Some(5), ..bill(1, 3, Usage::default()) };
        let entry = entry(&correction, Wall(NOON)).unwrap();
        assert_eq!((entry.attempt, money_of(&entry)), (0, Money { micro_usd: -5, estimated: -5 }));
    }

    #[test]
    fn an_attempt_of_which_only_the_late_bill_says_anything_is_counted() {
        let number = |usage, back| {
            let bill = Bill { taken_back_micro_usd: back, ..bill(1, 3, usage) };
            entry(&bill, Wall(NOON)).unwrap().attempt
        };
        assert_eq!(number(usage("m", 1, 9), Some(0)), 3, "nothing was said of it before");
        assert_eq!(number(usage("m", 1, 9), Some(4)), 0);
        assert_eq!(number(Usage::estimate(9), Some(0)), 0, "on top of what its agent had said");
        assert_eq!(number(Usage::estimate(9), None), 3);
    }

    #[test]
    fn a_correction_makes_an_estimate_and_its_bill_what_was_spent() {
        let lost = entry(&bill(1, 1, Usage::estimate(700)), Wall(NOON)).unwrap();
        let exact = Bill { taken_back_micro_usd: Some(700), ..bill(1, 1, usage("claude-opus-4-8", 10, 900)) };
        let put_right = entry(&exact, Wall(NOON)).unwrap();
        let (before, after) = (money_of(&lost), money_of(&put_right));
        assert_eq!(before, Money { micro_usd: 700, estimated: 700 });
        assert_eq!(before.micro_usd + after.micro_usd, 900);
        assert_eq!(before.estimated + after.estimated, 0);
    }

    #[test]
    fn many_entries_take_several_pages_in_order_and_none_spans_midnight() {
        let late = |index: u64| if index < 90 { NOON } else { NOON + MILLIS_A_DAY / 2 };
        let entries: Vec<_> = (0..100)
            .filter_map(|index| entry(&bill(index, 1, usage("claude-opus-4-8", 10, 5)), Wall(late(index))))
            .collect();
        let mut next = 40;
        let pages = pages(&entries, &mut next);
        assert!(pages.len() > 2 && pages.len() < 12, "{}", pages.len());
        assert_eq!(next, 40 + pages.len() as u64);
        assert!(pages.iter().zip(40..).all(|((_, number, page), want)| *number == want && page.tick == 7));
        let read: Vec<_> = pages.iter().flat_map(|(_, _, page)| page.entries.clone()).collect();
        assert_eq!(read, entries);
        for (day, _, page) in &pages {
            assert!(page.entries.iter().all(|entry| day_of(entry.recorded_ms) == *day));
        }
    }

    #[test]
    fn the_longest_entry_fits_a_page_and_loses_no_cent() {
        let mut all = Usage::default();
        for index in 0..60 {
            all.add(&usage(&format!("{}{index}", "m".repeat(500)), u64::MAX / 100, u64::MAX / 100));
        }
        let name: Arc<str> = "n".repeat(5_000).into();
        let worst = Bill {
            run_ref: name.clone(),
            task_id: name.clone(),
            worker: name.clone(),
            agent: name.clone(),
            pool: name,
            taken_back_micro_usd: Some(u64::MAX),
            ..bill(u64::MAX, u32::MAX, all.clone())
        };
        let entry = entry(&worst, Wall(i64::MAX)).unwrap();
        let pages = pages(&[entry.clone(), entry], &mut 0);
        assert_eq!(pages.len(), 2);
        let usage = pages[0].2.entries[0].usage.clone().unwrap();
        assert_eq!(usage.cost_micro_usd, all.cost_micro_usd);
        let tokens: u64 = usage.models.iter().map(|row| row.input_tokens).sum();
        assert_eq!(tokens, all.models.iter().map(|row| row.input).sum::<u64>());
    }

    #[test]
    fn what_is_no_page_is_named() {
        assert_eq!(decode(3, 4, &[0xFF]), Err(PageError { day: 3, number: 4 }));
        assert_eq!(day_of(-1), 0);
    }
}
