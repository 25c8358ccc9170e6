//! A store as another version would have written it: for tests of migrations and of refusals. Not in what ships.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::disk::DataSync;
use super::{MAX_BATCH_KEYS, Recovery, guards};
use crate::store::changes::Change;
use crate::store::error::{Fault, OpenError};
use crate::store::key::{Key, Kind};
use crate::store::meta::Meta;
use crate::store::record;
use crate::store::tally::{Share, Tally};

/// The engine's own file below the data directory `root`.
#[must_use]
pub fn engine_file(root: &Path) -> PathBuf {
    root.join("store/sled/db")
}

/// Rewrites the store in `dir`, which nobody may have open, as a version of that schema would have written it.
///
/// # Errors
/// As [`super::SledStore::open`].
pub fn rewrite_as(dir: &Path, schema: u16) -> Result<(), OpenError> {
    // What is in the journal only goes to sled when the store is opened.
    drop(super::SledStore::open(dir, crate::store::ClusterId([0; 16]))?);
    let disk = guards::open(dir, Box::new(DataSync), &mut Recovery::default())?;
    let meta = disk.meta()?.ok_or_else(|| Fault::Own { key: Key::meta() })?;
    let everything = (Bound::Unbounded, Bound::Unbounded);
    let mut tally = Tally::default();
    let mut changes: Vec<Change> = Vec::new();
    for (key, framed) in disk.range(&everything, usize::MAX)? {
        if key.kind().is_some_and(Kind::is_store_owned) {
            continue;
        }
        let payload = crate::store::read::payload(&key, &framed)?;
        let aged = record::encode_as(schema, &key, payload);
        tally.add(Share::of(&key, &aged));
        changes.push((key, Some(aged)));
    }
    for step in changes.chunks(MAX_BATCH_KEYS) {
        disk.write(step)?;
    }
    let meta = Meta { schema: schema.into(), tally, ..meta };
    disk.write(&[(Key::meta(), Some(meta.encode_as(schema)))])?;
    Ok(())
}
