//! Room kept for a start on a full disk: a file that holds nothing, deleted when there is no room left.
//!
//! A coordinator whose disk is full stops. What is in flight then, results of paid work above all, is still on the agents
//! and comes again; to take it, and to delete what retention allows, the next start needs room. Submits are refused long
//! before. The file is made again when the disk has room for it many times over.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::FallocateFlags;

use super::error::is_full;
use crate::store::dir::{DiskSpace, private_file};

/// Its name below the data directory.
pub const NAME: &str = "reserve";
/// Its size on all but small disks.
pub const BYTES: u64 = 64 << 20;
/// It takes at most this share of a disk: 64 MiB of 10 GiB.
const SHARE: u64 = 160;
/// Less than this is no help.
const LEAST: u64 = 64 << 10;
/// It is made only when this many times as much is free.
const TIMES_FREE: u64 = 8;

/// How large it is on a disk of so many bytes; 0 means that there is none.
#[must_use]
pub fn size(total: u64) -> u64 {
    let bytes = (total / SHARE).min(BYTES);
    if bytes < LEAST { 0 } else { bytes }
}

/// Makes the file if there is room for it. Whether it is there.
///
/// # Errors
/// The operating system's; the coordinator goes on without.
pub fn make(root: &Path) -> io::Result<bool> {
    let path = root.join(NAME);
    if path.exists() {
        return Ok(true);
    }
    let space = DiskSpace::of(root)?;
    let bytes = size(space.total);
    if bytes == 0 || space.available / TIMES_FREE < bytes {
        return Ok(false);
    }
    let file = private_file().create_new(true).open(&path)?;
    let filled = fill(&file, bytes);
    if filled.is_err() {
        fs::remove_file(&path)?;
    }
    filled.map(|()| true)
}

/// Takes the blocks, not only the length.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
            let zeros = [0; 64 << 10];
            for _ in 0..bytes / zeros.len() as u64 {
                file.write_all(&zeros)?;
            }
        }
        other => other?,
    }
    file.sync_all()
}

/// Gives the room back. Whether there was any.
///
/// # Errors
/// The operating system's.
pub fn release(root: &Path) -> io::Result<bool> {
    match fs::remove_file(root.join(NAME)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an error came from a disk without room.
#[must_use]
pub fn was_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(is_full) {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn it_takes_its_share_and_gives_it_back() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!release(dir.path()).unwrap());
        if make(dir.path()).unwrap() {
            let meta = fs::metadata(dir.path().join(NAME)).unwrap();
            assert!(meta.blocks() * 512 >= meta.len() && meta.len() <= BYTES);
            assert!(make(dir.path()).unwrap(), "it is there already");
            assert!(release(dir.path()).unwrap());
        }
        assert!(!dir.path().join(NAME).exists());
    }

    #[test]
    fn a_small_disk_keeps_less_and_a_tiny_one_nothing() {
        assert_eq!(size(1 << 40), BYTES);
        assert_eq!(size(160 << 20), 1 << 20);
        assert_eq!(size(1 << 20), 0);
    }

    #[test]
    fn a_full_disk_is_found_beneath_other_words() {
        let full = io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
        let fault = crate::store::Fault::Io { doing: "sync the log to disk", source: full };
        let error = super::super::StartError::Store(crate::store::OpenError::Fault(fault));
        assert!(was_full(&error));
        assert!(!was_full(&io::Error::other("else")));
    }
}
