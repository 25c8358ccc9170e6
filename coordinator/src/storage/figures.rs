//! What lies in a data directory besides the store: sizes, and what was moved aside. Knows names and bytes, no records.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use super::ASIDE;
use crate::store::dir::{DataDir, DiskSpace, disk_usage, private_file};

/// Above this share of the disk people are told.
pub const WARN_ABOVE_USED_PERCENT: u8 = 70;

/// Sizes of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// Blobs and packs on disk.
    pub blob_bytes: u64,
    /// Transcripts on disk.
    pub transcript_bytes: u64,
    /// The file system.
    pub disk: DiskSpace,
    /// What was moved aside, below the data directory, in order of name.
    pub aside: Vec<String>,
}

impl Figures {
    /// Measures. Every file is looked at.
    ///
    /// # Errors
    /// The operating system's.
    pub fn of(dir: &DataDir) -> io::Result<Self> {
        Ok(Self {
            blob_bytes: disk_usage(&dir.blobs())?,
            transcript_bytes: disk_usage(&dir.transcripts())?,
            disk: dir.disk_space()?,
            aside: aside(dir.root())?,
        })
    }
}

/// What lies aside.
///
/// # Errors
/// The operating system's.
pub fn aside(root: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(root.join(ASIDE)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(format!("{ASIDE}/{}", entry?.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(names)
}

/// Removes what operations of that name moved aside: the new rooms have proved themselves.
///
/// # Errors
/// The operating system's.
pub fn forget_aside(root: &Path, what: &str) -> io::Result<()> {
    let prefix = format!("{ASIDE}/{what}-");
    for name in aside(root)?.into_iter().filter(|name| name.starts_with(&prefix)) {
        fs::remove_dir_all(root.join(name))?;
    }
    Ok(())
}

/// Whether a store takes up so much more than it holds that the next start makes it anew.
#[must_use]
pub const fn is_bloated(bytes_on_disk: u64, live_bytes: u64) -> bool {
    bytes_on_disk > live_bytes.saturating_mul(4).saturating_add(64 << 20)
}

/// Name of the note in a store that was made anew: how large it was then.
const MADE_ANEW: &str = "made-anew";

/// Notes in the store at `place` how large it is, now that it was made anew.
///
/// # Errors
/// The operating system's.
pub fn note_made_anew(place: &Path, bytes_on_disk: u64) -> io::Result<()> {
    let mut file = private_file().create(true).truncate(true).open(place.join(MADE_ANEW))?;
    file.write_all(bytes_on_disk.to_string().as_bytes())
}

/// Whether the next start makes the store at `place` anew: [`is_bloated`], and twice as large as when that was done last.
/// Otherwise one that cannot be smaller would be made anew by every start.
#[must_use]
pub fn compacts(place: &Path, bytes_on_disk: u64, live_bytes: u64) -> bool {
    let noted = fs::read_to_string(place.join(MADE_ANEW)).ok().and_then(|text| text.trim().parse().ok());
    is_bloated(bytes_on_disk, live_bytes) && bytes_on_disk / 2 >= noted.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_its_own_operation_moved_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(aside(dir.path()).unwrap(), [""; 0]);
        for name in ["compact-1", "restore-1", "compact-2"] {
            fs::create_dir_all(dir.path().join(ASIDE).join(name).join("store")).unwrap();
        }
        forget_aside(dir.path(), "compact").unwrap();
        assert_eq!(aside(dir.path()).unwrap(), ["aside/restore-1"]);
    }

    #[test]
    fn a_store_is_bloated_above_four_times_what_lives_and_a_margin() {
        assert!(!is_bloated(64 << 20, 0));
        assert!(is_bloated((64 << 20) + 1, 0));
        assert!(!is_bloated(68 << 20, 1 << 20));
    }

    #[test]
    fn a_store_that_did_not_become_smaller_is_not_made_anew_by_every_start() {
        let dir = tempfile::tempdir().unwrap();
        assert!(compacts(dir.path(), 100 << 20, 0));
        note_made_anew(dir.path(), 99 << 20).unwrap();
        assert!(!compacts(dir.path(), 100 << 20, 0));
        assert!(compacts(dir.path(), 198 << 20, 0), "it has doubled since");
        assert!(!compacts(dir.path(), 198 << 20, 198 << 20));
    }
}
