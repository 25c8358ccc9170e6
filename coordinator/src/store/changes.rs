//! From a batch as the engine writes it to changes as a backend applies them: checked, framed, one per key, sorted.
//!
//! All refusals that leave a store untouched happen here, so backends cannot differ in them.

use std::collections::BTreeMap;

use super::error::{CommitError, Fault};
use super::key::{Key, Kind};
use super::meta::Meta;
use super::read::Records;
use super::record;
use super::tally::Share;
use super::{Batch, CommitStats, MAX_VALUE_BYTES, Op};

/// One change of one key: a framed value, or none to remove it.
pub(super) type Change = (Key, Option<Vec<u8>>);

/// Checks a batch against the current meta. Returns its changes in key order and the meta after it, but for its tally.
pub(super) fn check(batch: Batch, meta: &Meta) -> Result<(Vec<Change>, Meta), CommitError> {
    fence(meta, batch.expect_epoch)?;
    let mut after = *meta;
    let mut changes = BTreeMap::new();
    for op in batch.ops {
        match op {
            Op::Put { key, value } => {
                let framed = framed(&key, &value)?;
                changes.insert(key, Some(framed));
            }
            Op::Delete { key } => {
                refuse_reserved(&key)?;
                changes.insert(key, None);
            }
            Op::SetTick(tick) => after = after.at(tick),
        }
    }
    Ok((changes.into_iter().collect(), after))
}

/// Brings the meta up to date with changes that are about to be written, and adds it to them.
pub(super) fn settle(
    changes: &mut Vec<Change>,
    after: &mut Meta,
    records: &impl Records,
) -> Result<(), Fault> {
    for (key, value) in &*changes {
        if let Some(before) = records.share(key)? {
            after.tally.remove(before);
        }
        if let Some(framed) = value {
            after.tally.add(Share::of(key, framed));
        }
    }
    after.commits += 1;
    changes.push(of_meta(after));
    Ok(())
}

/// The meta after a shutdown in order.
pub(super) fn closed(meta: &Meta, expect_epoch: u64, tick: u64) -> Result<Meta, CommitError> {
    fence(meta, expect_epoch)?;
    Ok(Meta { clean: true, ..meta.at(tick) })
}

/// The one change that replaces the meta record.
pub(super) fn of_meta(meta: &Meta) -> Change {
    (Key::meta(), Some(meta.encode()))
}

/// Frames a value after checking that a caller may write it.
pub(super) fn framed(key: &Key, value: &[u8]) -> Result<Vec<u8>, CommitError> {
    refuse_reserved(key)?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(CommitError::ValueTooLarge { key: key.clone(), bytes: value.len() });
    }
    Ok(record::encode(key, value))
}

/// What applying changes costs a backend that writes them once and waits for the disk once.
/// Keys of the store itself are told apart from those of the caller.
pub(super) fn cost(changes: &[Change]) -> CommitStats {
    let mut stats = CommitStats { syncs: 1, ..CommitStats::default() };
    for (key, value) in changes {
        let own = key.kind().is_some_and(Kind::is_store_owned);
        *(if own { &mut stats.own_keys } else { &mut stats.keys }) += 1;
        stats.bytes += (key.as_bytes().len() + value.as_ref().map_or(0, Vec::len)) as u64;
    }
    stats
}

fn fence(meta: &Meta, expected: u64) -> Result<(), CommitError> {
    if expected != meta.epoch {
        return Err(CommitError::Fenced { expected, actual: meta.epoch });
    }
    if meta.clean { Err(CommitError::Closed) } else { Ok(()) }
}

fn refuse_reserved(key: &Key) -> Result<(), CommitError> {
    match key.kind() {
        Some(kind) if kind.is_store_owned() => Err(CommitError::Reserved { key: key.clone() }),
        _ => Ok(()),
    }
}
