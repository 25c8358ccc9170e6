//! What is done around sled's own opening, because a crash at the wrong moment leaves files it cannot open.
//!
//! sled keeps its records in the log (`db`); `snap.*` is only an index into it that saves reading the log from the
//! start. So an index that is torn or damaged may go, and the log never.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::disk::{Disk, Syncer, engine};
use super::{CACHE_BYTES, Recovery};
use crate::store::dir;
use crate::store::error::{Fault, OpenError};

/// How long to wait for sled's own lock. Ours is held by now, so no other store can have it: it is a store that was
/// closed in this process, whose background threads are still letting go.
const LOCK_TRIES: u32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Opens sled in `<dir>/sled`.
pub(super) fn open(dir: &Path, syncer: Box<dyn Syncer>, recovered: &mut Recovery) -> Result<Disk, OpenError> {
    let files = dir.join("sled");
    dir::create_private(&files).map_err(Fault::io("create the storage engine's directory"))?;
    recovered.torn_snapshots =
        remove_torn_snapshots(&files).map_err(Fault::io("remove a torn index snapshot"))?;
    let db = match try_open(&files) {
        Err(Refusal::Damage(_)) => {
            let aside = dir.join("aside");
            move_snapshots_aside(&files, &aside).map_err(Fault::io("move index snapshots aside"))?;
            recovered.rebuilt_index = true;
            try_open(&files)
        }
        first => first,
    };
    let db = db.map_err(|refusal| match refusal {
        Refusal::Damage(detail) => OpenError::Damaged { dir: dir.to_owned(), detail },
        Refusal::Fault(fault) => OpenError::Fault(fault),
    })?;
    let db_file = own_descriptor(&files).map_err(Fault::io("open the log beside the storage engine"))?;
    Ok(Disk::new(db, db_file, syncer))
}

/// The descriptor for our sync, once sled's files are private and their names durable.
fn own_descriptor(files: &Path) -> io::Result<File> {
    dir::restrict(files)?;
    dir::sync_dir(files)?;
    OpenOptions::new().read(true).write(true).open(files.join("db"))
}

enum Refusal {
    Damage(String),
    Fault(Fault),
}

/// sled reports some damage as an error and runs into assertions over the rest; both are damage.
fn try_open(files: &Path) -> Result<::sled::Db, Refusal> {
    let config = ::sled::Config::new().path(files).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let mut tries = LOCK_TRIES;
    loop {
        tries -= 1;
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(::sled::Error::Io(error))) if tries > 0 && is_locked(&error) => thread::sleep(LOCK_PAUSE),
            Ok(Err(error @ ::sled::Error::Corruption { .. })) => {
                return Err(Refusal::Damage(error.to_string()));
            }
            Ok(Err(error)) => return Err(Refusal::Fault(engine("open")(error))),
            Err(_) => return Err(Refusal::Damage("the storage engine failed an assertion".to_owned())),
        }
    }
}

/// sled gives this error no kind of its own.
fn is_locked(error: &io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

/// sled 0.34.7 writes `snap.<lsn>.generating`, renames it when whole, and at the next start takes a leftover for the
/// newest index.
fn remove_torn_snapshots(files: &Path) -> io::Result<u32> {
    let mut removed = 0;
    for path in snapshots(files)? {
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(&path)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Kept, not deleted: whoever looks into the damage will want them. A later one of the same name replaces an earlier.
fn move_snapshots_aside(files: &Path, aside: &Path) -> io::Result<()> {
    dir::create_private(aside)?;
    for path in snapshots(files)? {
        if let Some(name) = path.file_name() {
            fs::rename(&path, aside.join(name))?;
        }
    }
    dir::sync_dir(aside)?;
    dir::sync_dir(files)
}

fn snapshots(files: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(files)? {
        let entry = entry?;
        if entry.file_name().as_encoded_bytes().starts_with(b"snap.") {
            found.push(entry.path());
        }
    }
    Ok(found)
}
