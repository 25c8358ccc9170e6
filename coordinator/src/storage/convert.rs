//! The same records in a fresh store: what migration and compaction have in common.
//! Knows no record; what an older one becomes is known in [`crate::store::migrate`].

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Seek as _, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use super::{CopyError, incoming, swap};
use crate::store::dir::{DiskSpace, create_private};
use crate::store::{ClusterId, SledStore, Store, TransferReport};

/// Copies everything `old` holds into a fresh store, checks it, and stages it as operation `what`. `old` is to be closed
/// before [`swap::carry_out`].
pub(super) fn anew(
    root: &Path,
    what: &str,
    old: &SledStore,
    now: SystemTime,
) -> Result<TransferReport, CopyError> {
    let place = incoming(root, what);
    if place.exists() {
        fs::remove_dir_all(&place).map_err(CopyError::file("remove", &place))?;
    }
    create_private(&place).map_err(CopyError::file("create", &place))?;
    room(root, old)?;
    let text = tempfile::tempfile_in(&place).map_err(CopyError::file("create a file in", &place))?;
    let mut buffered = BufWriter::with_capacity(1 << 20, text);
    let exported = old.export(&mut buffered)?;
    let flushed = buffered.into_inner().map_err(|error| CopyError::file("write", &place)(error.into_error()));
    let mut text: File = flushed?;
    text.seek(SeekFrom::Start(0)).map_err(CopyError::file("read", &place))?;
    let fresh = SledStore::open(&place.join("store"), ClusterId([0; 16]))?;
    fresh.import(&mut BufReader::with_capacity(1 << 20, text))?;
    // Read back and added up: what is put in place is known to be whole.
    fresh.load_with(&mut |_, _| ())?;
    drop(fresh);
    swap::stage(root, what, now)?;
    Ok(exported)
}

/// Text, new store and old store lie side by side for a while.
fn room(root: &Path, old: &SledStore) -> Result<(), CopyError> {
    let live = old.health()?.live_bytes;
    let space = DiskSpace::of(root).map_err(CopyError::file("measure the disk of", root))?;
    let wanted = live.saturating_mul(5).saturating_add(8 << 20);
    if space.available < wanted {
        return Err(CopyError::NoRoom { path: root.to_owned(), available: space.available });
    }
    Ok(())
}
