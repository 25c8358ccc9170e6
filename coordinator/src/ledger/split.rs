//! The ledger, read and added up by the values of some dimensions.
//! Knows sums and how much may be in memory; refuses to know who asks.
//!
//! Sums are exact: they are signed while they are made, because what is taken back may come before, or on another day
//! than, what it takes back from; only what is shown is never below nothing.

use std::collections::{HashMap, HashSet};

use orch_proto::store::v1::LedgerEntry;
use orch_proto::v1::{ModelUsage, Outcome, Usage};

use super::page::{PageError, day_of, decode, money_of};
use super::question::{Dimension, Question};
use super::seed::FIRST_PAGE;
use crate::store::{Entity, Key, Kind, MAX_SCAN, Prefix, ReadError, Store, Tenant};

/// Most rows of an answer.
pub const MAX_ROWS: usize = 10_000;
/// Most rows that are added up: some 30 MB.
const MAX_KEYS: usize = 100_000;
/// Most pairs of row and run that are told apart, some 24 MB; beyond, runs are counted as at least so many.
const MAX_MARKS: usize = 1_000_000;
/// Between the values of a row's key: no value has it.
const BETWEEN: char = '\0';
/// Row number of the sum of everything.
const TOTAL: u32 = u32::MAX;

/// Why the ledger could not be read.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// Too many rows.
    #[error(
        "more than {MAX_KEYS} rows: ask for fewer dimensions, a shorter time, or only some with a filter"
    )]
    TooManyRows,
    /// The store refused.
    #[error("cannot read the ledger")]
    Read(#[from] ReadError),
    /// A page cannot be used.
    #[error("cannot read the ledger")]
    Page(#[from] PageError),
    /// The read did not end in order.
    #[error("the reading of the ledger was broken off")]
    BrokenOff,
}

/// Sums.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// Input tokens outside the cache.
    pub input: u64,
    /// Output tokens.
    pub output: u64,
    /// Tokens read from the cache.
    pub cache_read: u64,
    /// Tokens written to the cache.
    pub cache_write: u64,
    /// Millionths of a US dollar.
    pub micro_usd: i128,
    /// Of that: estimated.
    pub estimated: i128,
    /// Attempts.
    pub attempts: u64,
    /// Of these: ended `ok`.
    pub attempts_ok: u64,
    /// Runs.
    pub runs: u64,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Row {
    /// Values of the dimensions asked for, in their order.
    pub keys: Vec<String>,
    /// Its sums.
    pub sums: Sums,
}

/// What was spent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The dearest, dearest first; in order of days where days are asked for.
    pub rows: Vec<Row>,
    /// Of everything asked for, rows left out included.
    pub total: Sums,
    /// Rows left out.
    pub more: u64,
    /// The first moment of which an entry is kept, of anybody, unix ms; none where nothing was forgotten yet.
    pub kept_since: Option<i64>,
    /// There were too many runs to be told apart: there are at least so many.
    pub runs_at_least: bool,
}

/// Reads and adds up. Blocks on the store.
///
/// # Errors
/// [`QueryError`].
pub fn split(store: &dyn Store, question: &Question) -> Result<Answer, QueryError> {
    let mut adder = Adder::new(question);
    let prefix = Prefix::kind(Tenant::CLUSTER, Kind::Ledger);
    let kept_since = match store.scan(&prefix, None, 1)?.first() {
        // The first page of all has the first number: where it is gone, others may be.
        Some((key, payload)) if !is_first_of_all(key) => {
            page_of(key, payload)?.1.first().map(|entry| entry.recorded_ms)
        }
        Some(_) | None => None,
    };
    let first_day = question.since.map_or(0, day_of);
    let last_day = question.until.map_or(u32::MAX, day_of);
    let mut after = first_day.checked_sub(1).map(|day| Key::ledger_page(day, u64::MAX));
    'pages: loop {
        let found = store.scan(&prefix, after.as_ref(), MAX_SCAN)?;
        for (key, payload) in &found {
            let (day, entries) = page_of(key, payload)?;
            if day > last_day {
                break 'pages;
            }
            entries.iter().try_for_each(|entry| adder.add(entry))?;
        }
        if found.len() < MAX_SCAN {
            break;
        }
        after = found.into_iter().next_back().map(|(key, _)| key);
    }
    Ok(Answer { kept_since, ..adder.answer() })
}

fn is_first_of_all(key: &Key) -> bool {
    matches!(key.entity(), Ok(Entity::LedgerPage { number: FIRST_PAGE, .. }))
}

fn page_of(key: &Key, payload: &[u8]) -> Result<(u32, Vec<LedgerEntry>), PageError> {
    let Ok(Entity::LedgerPage { day, number }) = key.entity() else {
        return Err(PageError { day: 0, number: 0 });
    };
    decode(day, number, payload).map(|page| (day, page.entries))
}

struct Adder<'a> {
    question: &'a Question,
    by_model: bool,
    rows: HashMap<Box<str>, u32>,
    sums: Vec<Sums>,
    total: Sums,
    marks: HashSet<(u32, u64)>,
    runs_at_least: bool,
    key: String,
    scratch: String,
}

/// What one attempt or correction adds to a row.
struct Share {
    tokens: ModelUsage,
    micro_usd: i128,
    estimated: i128,
}

impl<'a> Adder<'a> {
    fn new(question: &'a Question) -> Self {
        Self {
            question,
            by_model: question.is_by_model(),
            rows: HashMap::new(),
            sums: Vec::new(),
            total: Sums::default(),
            marks: HashSet::new(),
            runs_at_least: false,
            key: String::new(),
            scratch: String::new(),
        }
    }

    fn add(&mut self, entry: &LedgerEntry) -> Result<(), QueryError> {
        let shares = if self.by_model { shares(entry) } else { vec![whole(entry)] };
        let apart = self.question.by.contains(&Dimension::Model);
        let mut taken: Option<Share> = None;
        for share in shares {
            if !self.question.takes(entry, &share.tokens.model, &mut self.scratch) {
                continue;
            }
            if apart {
                self.add_to_row(entry, &share)?;
            }
            match &mut taken {
                Some(taken) => taken.join(&share),
                None => taken = Some(share),
            }
        }
        let Some(taken) = taken else { return Ok(()) };
        if !apart && !self.question.by.is_empty() {
            self.add_to_row(entry, &taken)?;
        }
        let mark = self.mark(TOTAL, entry);
        self.total.add(entry, &taken, mark);
        Ok(())
    }

    fn add_to_row(&mut self, entry: &LedgerEntry, share: &Share) -> Result<(), QueryError> {
        let row = self.row(entry, &share.tokens.model)?;
        let mark = self.mark(row, entry);
        if let Some(sums) = self.sums.get_mut(row as usize) {
            sums.add(entry, share, mark);
        }
        Ok(())
    }

    fn row(&mut self, entry: &LedgerEntry, model: &str) -> Result<u32, QueryError> {
        self.key.clear();
        for (at, dimension) in self.question.by.iter().enumerate() {
            if at > 0 {
                self.key.push(BETWEEN);
            }
            dimension.write(entry, model, &self.question.tenant_name, &mut self.key);
        }
        if let Some(row) = self.rows.get(self.key.as_str()) {
            return Ok(*row);
        }
        if self.rows.len() == MAX_KEYS {
            return Err(QueryError::TooManyRows);
        }
        let row = u32::try_from(self.sums.len()).unwrap_or(TOTAL);
        self.rows.insert(self.key.as_str().into(), row);
        self.sums.push(Sums::default());
        Ok(row)
    }

    /// Whether this is the first of its run in a row.
    fn mark(&mut self, row: u32, entry: &LedgerEntry) -> bool {
        if self.marks.len() >= MAX_MARKS && !self.marks.contains(&(row, entry.run_id)) {
            self.runs_at_least = true;
            return false;
        }
        self.marks.insert((row, entry.run_id))
    }

    fn answer(self) -> Answer {
        let Self { question, rows, sums, total, runs_at_least, .. } = self;
        let named = rows.into_iter().filter_map(|(key, row)| {
            let keys = key.split(BETWEEN).map(str::to_owned).collect();
            Some(Row { keys, sums: sums.get(row as usize)?.clone() })
        });
        let mut rows: Vec<Row> = named.collect();
        rows.sort_by(|left, right| {
            right.sums.micro_usd.cmp(&left.sums.micro_usd).then_with(|| left.keys.cmp(&right.keys))
        });
        let more = rows.len().saturating_sub(question.limit) as u64;
        rows.truncate(question.limit);
        if let Some(day) = question.by.iter().position(|dimension| *dimension == Dimension::Day) {
            // Stable: within a day the dearest stay first.
            rows.sort_by(|left, right| left.keys.get(day).cmp(&right.keys.get(day)));
        }
        Answer { rows, total, more, kept_since: None, runs_at_least }
    }
}

impl Share {
    fn join(&mut self, other: &Self) {
        add_tokens(&mut self.tokens, &other.tokens);
        self.micro_usd += other.micro_usd;
        self.estimated += other.estimated;
    }
}

impl Sums {
    fn add(&mut self, entry: &LedgerEntry, share: &Share, first_of_run: bool) {
        let tokens = &share.tokens;
        self.input = self.input.saturating_add(tokens.input_tokens);
        self.output = self.output.saturating_add(tokens.output_tokens);
        self.cache_read = self.cache_read.saturating_add(tokens.cache_read_tokens);
        self.cache_write = self.cache_write.saturating_add(tokens.cache_write_tokens);
        self.micro_usd += share.micro_usd;
        self.estimated += share.estimated;
        // A correction belongs to an attempt that was counted.
        let attempt = entry.attempt > 0;
        self.attempts += u64::from(attempt);
        self.attempts_ok += u64::from(attempt && entry.outcome() == Outcome::Ok);
        self.runs += u64::from(first_of_run);
    }
}

fn add_tokens(sum: &mut ModelUsage, row: &ModelUsage) {
    sum.input_tokens = sum.input_tokens.saturating_add(row.input_tokens);
    sum.output_tokens = sum.output_tokens.saturating_add(row.output_tokens);
    sum.cache_read_tokens = sum.cache_read_tokens.saturating_add(row.cache_read_tokens);
    sum.cache_write_tokens = sum.cache_write_tokens.saturating_add(row.cache_write_tokens);
}

/// All of an entry.
fn whole(entry: &LedgerEntry) -> Share {
    let mut tokens = ModelUsage::default();
    for row in entry.usage.iter().flat_map(|usage| &usage.models) {
        add_tokens(&mut tokens, row);
    }
    let money = money_of(entry);
    Share { tokens, micro_usd: money.micro_usd, estimated: money.estimated }
}

/// An entry by models. Money that no model's row has, as that of an estimate, and what is taken back of it, is in a row
/// without a name; a difference of roundings goes to the dearest row.
fn shares(entry: &LedgerEntry) -> Vec<Share> {
    let usage = entry.usage.as_ref();
    let estimated = usage.is_some_and(|usage| usage.estimated);
    let rows = usage.map_or(&[][..], |usage: &Usage| &usage.models);
    let mut shares: Vec<Share> = rows
        .iter()
        .map(|row| {
            let micro_usd = i128::from(row.cost_micro_usd);
            let tokens = ModelUsage { cost_micro_usd: 0, ..row.clone() };
            Share { tokens, micro_usd, estimated: if estimated { micro_usd } else { 0 } }
        })
        .collect();
    let money = money_of(entry);
    let mut left = money.micro_usd - shares.iter().map(|share| share.micro_usd).sum::<i128>();
    let mut left_estimated = money.estimated - shares.iter().map(|share| share.estimated).sum::<i128>();
    let rounding = rows.len() as i128;
    if entry.taken_back_micro_usd == 0
        && left.abs() <= rounding
        && let Some(dearest) = shares.iter_mut().max_by_key(|share| share.micro_usd)
    {
        dearest.micro_usd += std::mem::take(&mut left);
        dearest.estimated += std::mem::take(&mut left_estimated);
    }
    if left != 0 || left_estimated != 0 || shares.is_empty() {
        shares.push(Share { tokens: ModelUsage::default(), micro_usd: left, estimated: left_estimated });
    }
    shares
}

#[cfg(test)]
mod tests;
