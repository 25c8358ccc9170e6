//! Commits of more keys than one batch may have: written in steps, visible as one after any crash.
//!
//! A redo log, the simplest thing that can be shown to be right. Every step is one batch and is on disk before the
//! next one begins, so a crash leaves the store in exactly one of these lines:
//!
//! | Step | On disk when it ends | A crash here leaves | Opening then |
//! |---|---|---|---|
//! | 1 stage | marker `open`; all changes, packed into pages of their own keys | no record touched | drops the pages: as if never begun |
//! | 2 seal | marker `sealed` with the number of pages | the whole commit in pages | applies all pages: the commit happened |
//! | 3 apply | the changes themselves, 512 keys a step | some applied, all in pages | applies all again: the same result |
//! | 4 retire | marker gone, then the pages | all applied, pages without a marker | drops the pages |
//!
//! Step 2 is the point of no return, and the only one. Updates and deletions need no undo because nothing is applied
//! before everything is known and durable. Applying twice is harmless because a page holds final values, and no other
//! commit can come between: there is one writer, and it returns only after step 4 removed the marker.
//!
//! A commit is large when it has more keys or more bytes than one batch may have.
//!
//! Pages are cheap: a key costs the engine far more than a byte does, and some 30 changes share a page's key.

use std::ops::Bound;

use super::disk::Disk;
use super::{MAX_BATCH_BYTES, MAX_BATCH_KEYS, Recovery};
use crate::store::changes::Change;
use crate::store::error::Fault;
use crate::store::key::{Key, Kind, Prefix, Tenant};
use crate::store::{CommitStats, read, record};

/// A page is closed before it grows beyond this; one change alone may be longer by a key and a frame.
const PAGE_BYTES: usize = 4096;

/// Pages in one step of staging: 256 KiB, half of a sled segment.
const STAGE_STEP: usize = 64;

const PUT: u8 = 1;
const DELETE: u8 = 0;
const OPEN: u8 = 1;
const SEALED: u8 = 2;

/// Changes in the fewest batches, in order, that keep both bounds. One change always fits.
pub(super) fn steps(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let mut rest = changes;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |(key, value): &&Change| {
            bytes += key.as_bytes().len() + value.as_ref().map_or(0, Vec::len);
            bytes <= MAX_BATCH_BYTES
        };
        let count = rest.iter().take(MAX_BATCH_KEYS).take_while(fits).count();
        let (step, after) = rest.split_at_checked(count.max(1))?;
        rest = after;
        Some(step)
    })
}

/// Commits any number of changes.
pub(super) fn commit(disk: &Disk, changes: &[Change]) -> Result<CommitStats, Fault> {
    let staged = stage_changes(changes);
    let pages = staged.len();
    let mut stats = CommitStats::default();
    stats += disk.write(&[marker(OPEN, pages)])?;
    for step in staged.chunks(STAGE_STEP) {
        stats += disk.write(step)?;
    }
    crate::failpoint::failpoint!("large::before_seal");
    stats += disk.write(&[marker(SEALED, pages)])?;
    crate::failpoint::failpoint!("large::after_seal");
    stats += apply(disk, changes)?;
    crate::failpoint::failpoint!("large::after_apply");
    stats += retire(disk)?;
    Ok(stats)
}

/// Finishes or drops the commit that a crash interrupted, if there is one.
pub(super) fn recover(disk: &Disk, recovered: &mut Recovery) -> Result<(), Fault> {
    let key = Key::commit_marker();
    let Some(framed) = disk.get(&key)? else { return remove_pages(disk).map(drop) };
    match read::payload(&key, &framed)? {
        [OPEN, ..] => recovered.dropped_commit = true,
        [SEALED, pages @ ..] => {
            let pages = pages.try_into().map(u32::from_be_bytes).map_err(|_| Fault::Own { key })?;
            for page in 0..pages {
                let key = Key::staged(page);
                let framed = disk.get(&key)?.ok_or_else(|| Fault::Own { key: key.clone() })?;
                let changes = unpack(read::payload(&key, &framed)?).ok_or(Fault::Own { key })?;
                apply(disk, &changes)?;
            }
            recovered.completed_commit = true;
        }
        _ => return Err(Fault::Own { key }),
    }
    retire(disk).map(drop)
}

fn apply(disk: &Disk, changes: &[Change]) -> Result<CommitStats, Fault> {
    let mut stats = CommitStats::default();
    for step in steps(changes) {
        stats += disk.write(step)?;
        crate::failpoint::failpoint!("large::after_step");
    }
    Ok(stats)
}

/// The marker first: pages without a marker mean nothing, a marker without its pages would be damage.
fn retire(disk: &Disk) -> Result<CommitStats, Fault> {
    let mut stats = disk.write(&[(Key::commit_marker(), None)])?;
    stats += remove_pages(disk)?;
    Ok(stats)
}

fn remove_pages(disk: &Disk) -> Result<CommitStats, Fault> {
    let pages = Prefix::kind(Tenant::CLUSTER, Kind::Staged);
    let end = pages.end().map_or(Bound::Unbounded, Bound::Excluded);
    let range = (Bound::Included(pages.as_bytes().to_vec()), end);
    let mut stats = CommitStats::default();
    loop {
        let found = disk.range(&range, MAX_BATCH_KEYS)?;
        if found.is_empty() {
            return Ok(stats);
        }
        let removals: Vec<Change> = found.into_iter().map(|(key, _)| (key, None)).collect();
        stats += disk.write(&removals)?;
    }
}

fn marker(state: u8, pages: usize) -> Change {
    let mut payload = vec![state];
    payload.extend_from_slice(&u32_of(pages).to_be_bytes());
    let key = Key::commit_marker();
    let framed = record::encode(&key, &payload);
    (key, Some(framed))
}

/// Packs changes, in order, into as few pages as hold them.
fn stage_changes(changes: &[Change]) -> Vec<Change> {
    let mut pages: Vec<Vec<u8>> = Vec::new();
    for change in changes {
        let packed = pack(change);
        match pages.last_mut() {
            Some(page) if page.len() + packed.len() <= PAGE_BYTES => page.extend_from_slice(&packed),
            _ => pages.push(packed),
        }
    }
    let staged = pages.into_iter().enumerate().map(|(number, page)| {
        let key = Key::staged(u32_of(number));
        let framed = record::encode(&key, &page);
        (key, Some(framed))
    });
    staged.collect()
}

/// `op u8 | key length u8 | key`, and for a put `value length u32 | framed value`.
fn pack((key, value): &Change) -> Vec<u8> {
    let key = key.as_bytes();
    let mut packed = vec![if value.is_some() { PUT } else { DELETE }];
    // Keys have at most 255 bytes by construction.
    packed.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
    packed.extend_from_slice(key);
    if let Some(value) = value {
        packed.extend_from_slice(&u32_of(value.len()).to_be_bytes());
        packed.extend_from_slice(value);
    }
    packed
}

fn unpack(mut page: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while let [op, key_len, rest @ ..] = page {
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let key = Key::from_bytes(key).ok()?;
        let (value, rest) = match *op {
            DELETE => (None, rest),
            PUT => {
                let (len, rest) = rest.split_first_chunk()?;
                let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
                (Some(value.to_vec()), rest)
            }
            _ => return None,
        };
        changes.push((key, value));
        page = rest;
    }
    page.is_empty().then_some(changes)
}

fn u32_of(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_hold_all_changes_in_order_and_stay_small() {
        let value = |byte, len| Some(vec![byte; len]);
        let mut changes =
            vec![(Key::run(Tenant::DEFAULT, 0), value(1, 4109)), (Key::run(Tenant::DEFAULT, 1), None)];
        changes.extend((2..500).map(|run| (Key::run(Tenant::DEFAULT, run), value(2, 113))));
        let staged = stage_changes(&changes);
        assert!(staged.len() < 500 / 25, "{} pages", staged.len());
        let mut unpacked = Vec::new();
        for (key, framed) in &staged {
            let framed = framed.as_ref().unwrap();
            assert!(framed.len() <= PAGE_BYTES + 512, "a page of {} bytes", framed.len());
            unpacked.extend(unpack(read::payload(key, framed).unwrap()).unwrap());
        }
        assert_eq!(unpacked, changes);
    }

    #[test]
    fn a_step_keeps_both_bounds_and_no_change_is_left_out() {
        let small = |run| (Key::run(Tenant::DEFAULT, run), Some(vec![0; 10]));
        let big = |run| (Key::run(Tenant::DEFAULT, run), Some(vec![0; 4109]));
        let changes: Vec<Change> = (0..600).map(small).chain((600..900).map(big)).collect();
        let found: Vec<&[Change]> = steps(&changes).collect();
        assert_eq!(found.concat(), changes);
        assert_eq!(found[0].len(), MAX_BATCH_KEYS);
        for step in &found {
            let bytes: usize =
                step.iter().map(|(key, value)| key.as_bytes().len() + value.as_ref().unwrap().len()).sum();
            assert!(
                step.len() <= MAX_BATCH_KEYS && bytes <= MAX_BATCH_BYTES,
                "{} keys, {bytes} bytes",
                step.len()
            );
        }
        assert!(found.len() <= 6, "{} steps", found.len());
        assert_eq!(steps(&[]).count(), 0);
    }

    #[test]
    fn a_page_with_bytes_missing_is_refused() {
        let page = pack(&(Key::run(Tenant::DEFAULT, 1), Some(vec![1, 2, 3])));
        for len in 1..page.len() {
            assert_eq!(unpack(&page[..len]), None, "length {len}");
        }
    }
}
