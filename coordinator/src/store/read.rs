//! Reading that is the same for every backend: verified records out of pages of raw bytes.

use std::ops::Bound;

use super::error::{Fault, ReadError};
use super::key::{Key, Prefix};
use super::record;
use super::tally::{Share, Tally};
use super::{LoadReport, MAX_SCAN, Meta, Record, Recovery};

/// Records read or written at a time by operations over everything.
pub(super) const PAGE: usize = 512;

/// A range of raw keys.
pub(super) type RawRange = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The least a backend must be able to do for everything else to be the same for all.
pub(super) trait Records {
    /// The framed record's share of the tally, if there is one under `key`.
    fn share(&self, key: &Key) -> Result<Option<Share>, Fault>;

    /// Up to `limit` framed records of `range`, in key order; fewer only at its end.
    fn page(&self, range: &RawRange, limit: usize) -> Result<Vec<Record>, Fault>;
}

/// The payload of a framed record.
pub(super) fn payload<'a>(key: &Key, framed: &'a [u8]) -> Result<&'a [u8], Fault> {
    record::decode(key, framed).map_err(|source| Fault::Record { key: key.clone(), source })
}

/// Verifies all records in key order, the store's own and those of unknown kinds included, and shows key, frame and
/// payload of each to `visit`.
///
/// Reads page by page: a cursor that lives long is a hazard to the engine beneath.
pub(super) fn every_record<E: From<Fault>>(
    records: &impl Records,
    mut visit: impl FnMut(Key, &[u8], &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut from = Bound::Unbounded;
    loop {
        let page = records.page(&(from, Bound::Unbounded), PAGE)?;
        let full = page.len() == PAGE;
        from = match page.last() {
            Some((last, _)) if full => Bound::Excluded(last.as_bytes().to_vec()),
            _ => Bound::Unbounded,
        };
        for (key, framed) in page {
            let payload = payload(&key, &framed)?;
            visit(key, &framed, payload)?;
        }
        if !full {
            return Ok(());
        }
    }
}

/// [`super::Store::load_with`] for any backend.
pub(super) fn load(
    records: &impl Records,
    meta: Meta,
    recovered: Recovery,
    visit: &mut dyn FnMut(Key, &[u8]),
) -> Result<LoadReport, Fault> {
    let mut report = LoadReport { meta, records: 0, unknown: 0, recovered };
    let mut tally = Tally::default();
    every_record::<Fault>(records, |key, framed, payload| {
        match key.kind() {
            Some(kind) if kind.is_store_owned() => return Ok(()),
            None => {
                tally.add(Share::of(&key, framed));
                report.unknown += 1;
            }
            Some(_) => {
                tally.add(Share::of(&key, framed));
                key.entity()?;
                report.records += 1;
                visit(key, payload);
            }
        }
        Ok(())
    })?;
    if tally == meta.tally {
        Ok(report)
    } else {
        Err(Fault::Incomplete { expected: meta.tally.records, found: tally.records })
    }
}

/// [`super::Store::scan`] for any backend.
pub(super) fn scan(
    records: &impl Records,
    prefix: &Prefix,
    after: Option<&Key>,
    limit: usize,
) -> Result<Vec<Record>, ReadError> {
    if limit > MAX_SCAN {
        return Err(ReadError::Limit { asked: limit });
    }
    let mut found = Vec::with_capacity(limit);
    let Some(mut range) = range(prefix, after) else { return Ok(found) };
    while found.len() < limit {
        let want = limit - found.len();
        let page = records.page(&range, want)?;
        let more = page.len() == want;
        if let Some((last, _)) = page.last() {
            range.0 = Bound::Excluded(last.as_bytes().to_vec());
        }
        for (key, framed) in page {
            let payload = payload(&key, &framed)?.to_vec();
            if key.kind().is_some_and(|kind| !kind.is_store_owned()) {
                found.push((key, payload));
            }
        }
        if !more {
            break;
        }
    }
    Ok(found)
}

/// What of `prefix` lies behind `after`; none when nothing can.
fn range(prefix: &Prefix, after: Option<&Key>) -> Option<RawRange> {
    let start = prefix.as_bytes();
    let end = prefix.end();
    let from = match after {
        Some(after) if end.as_deref().is_some_and(|end| after.as_bytes() >= end) => return None,
        Some(after) if after.as_bytes() >= start => Bound::Excluded(after.as_bytes().to_vec()),
        _ => Bound::Included(start.to_vec()),
    };
    Some((from, end.map_or(Bound::Unbounded, Bound::Excluded)))
}
