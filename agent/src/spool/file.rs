//! The spool on disk: a directory of numbered journal files, of which normally one exists. When it has grown
//! enough, what is still owed moves to the next file and the old one goes.
//! Knows files and records, not what an agent owes to whom.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::homes::private_dir;

use super::record::{Record, VERSION, read, write_entry, write_header};
use super::{Entry, Inventory, Spool, SpoolError, SyncJob};

/// A journal file moves on when it is this long, at least.
const SHORTEST_FILE: u64 = 16 * 1024 * 1024;

/// ... and when it is this many times as long as what is still owed.
const GARBAGE_FACTOR: u64 = 4;

/// What a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// A spool on disk.
#[derive(Debug)]
pub struct FileSpool {
    dir: PathBuf,
    boot_id: String,
    number: u64,
    file: File,
    /// Bytes in the file.
    len: u64,
    /// Bytes at which the file moves on.
    move_at: u64,
    /// Appended and not handed to the kernel yet.
    pending: Vec<u8>,
    /// Handed to the kernel since the last sync began.
    dirty: bool,
    syncing: bool,
    inventory: Inventory,
}

/// What opening a spool found, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Whether another boot wrote the journal last: every child of then is certainly dead.
    pub other_boot: bool,
    /// Bytes at the end that were no whole record: the agent or the host died while writing.
    pub torn_bytes: u64,
}

impl FileSpool {
    /// Opens the spool in `dir`, making it when it is missing, and replays its journal. `boot_id` is that of
    /// the current boot.
    ///
    /// # Errors
    /// See [`SpoolError`].
    pub fn open(dir: &Path, boot_id: &str) -> Result<(Self, Found), SpoolError> {
        private_dir(dir).map_err(|error| failed("use", dir)(io::Error::other(error)))?;
        let numbers = numbers(dir)?;
        let mut inventory = Inventory::default();
        let mut found = Found::default();
        // Each file begins with everything that was owed, so older ones count for nothing.
        if let Some(&newest) = numbers.last() {
            replay(&path(dir, newest), boot_id, &mut inventory, &mut found)?;
        }
        // Always a new file: nothing is ever written behind a torn end.
        let number = numbers.last().map_or(1, |last| last + 1);
        let (file, len) = begin(dir, number, boot_id, &inventory)?;
        for old in numbers {
            fs::remove_file(path(dir, old)).map_err(failed("tidy", dir))?;
        }
        let spool = Self {
            dir: dir.to_owned(),
            boot_id: boot_id.to_owned(),
            number,
            file,
            len,
            move_at: SHORTEST_FILE.max(len.saturating_mul(GARBAGE_FACTOR)),
            pending: Vec::new(),
            dirty: false,
            syncing: false,
            inventory,
        };
        Ok((spool, found))
    }

    fn move_on(&mut self) -> Result<(), SpoolError> {
        let next = self.number + 1;
        let (file, len) = begin(&self.dir, next, &self.boot_id, &self.inventory)?;
        let old = path(&self.dir, self.number);
        fs::remove_file(&old).map_err(failed("tidy", &old))?;
        (self.file, self.len, self.number) = (file, len, next);
        self.move_at = SHORTEST_FILE.max(len.saturating_mul(GARBAGE_FACTOR));
        // The new file was synced whole.
        self.dirty = false;
        Ok(())
    }
}

impl Spool for FileSpool {
    fn append(&mut self, entry: Entry) {
        write_entry(&entry, &mut self.pending);
        self.inventory.apply(entry);
    }

    fn flush(&mut self) -> Result<(), SpoolError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let here = path(&self.dir, self.number);
        crate::failpoint::failpoint!("spool::before_write", io).map_err(failed("write", &here))?;
        self.file.write_all(&self.pending).map_err(failed("write", &here))?;
        crate::failpoint::failpoint!("spool::after_write");
        self.len += self.pending.len() as u64;
        self.pending.clear();
        self.dirty = true;
        if self.len >= self.move_at { self.move_on() } else { Ok(()) }
    }

    fn begin_sync(&mut self) -> Result<Option<SyncJob>, SpoolError> {
        if self.syncing || !self.dirty {
            return Ok(None);
        }
        let here = path(&self.dir, self.number);
        let job = SyncJob(Some(self.file.try_clone().map_err(failed("sync", &here))?));
        (self.syncing, self.dirty) = (true, false);
        Ok(Some(job))
    }

    fn end_sync(&mut self) {
        self.syncing = false;
    }

    fn inventory(&self) -> &Inventory {
        &self.inventory
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |source| SpoolError::Io { what, path, source }
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:012}.journal"))
}

/// Numbers of the journal files, ascending. A temporary file was never finished and is removed.
fn numbers(dir: &Path) -> Result<Vec<u64>, SpoolError> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let file = entry.map_err(failed("list", dir))?.path();
        let extension = file.extension().and_then(|extension| extension.to_str());
        let stem = file.file_stem().and_then(|stem| stem.to_str());
        match extension {
            Some("journal") => numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok())),
            Some("tmp") => fs::remove_file(&file).map_err(failed("tidy", &file))?,
            Some(_) | None => {}
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Takes a file in.
fn replay(
    path: &Path,
    boot_id: &str,
    inventory: &mut Inventory,
    found: &mut Found,
) -> Result<(), SpoolError> {
    let bytes = fs::read(path).map_err(failed("read", path))?;
    let mut rest = bytes.as_slice();
    while let Some((record, length)) = read(rest) {
        rest = rest.get(length..).unwrap_or_default();
        match record {
            Record::Header(header) if header.version > VERSION => {
                return Err(SpoolError::Version { path: path.to_owned(), version: header.version });
            }
            Record::Header(header) => {
                *inventory = Inventory::default();
                found.other_boot = header.boot_id != boot_id;
            }
            Record::Entry(entry) => inventory.apply(entry),
            Record::Unknown => {}
        }
    }
    let at = bytes.len() - rest.len();
    // A file is made with its beginning durable; only what was appended later can be torn.
    if at == 0 || is_damaged(&bytes, at, found.other_boot) {
        return Err(SpoolError::Damaged { path: path.to_owned(), at: at as u64 });
    }
    found.torn_bytes += rest.len() as u64;
    Ok(())
}

/// Whether what is no record at `at` was one. A write that broke off is followed by nothing; what the disk still owed when
/// the power went may leave a hole before what it had, of whole sectors of zeros.
fn is_damaged(bytes: &[u8], at: usize, other_boot: bool) -> bool {
    let next = (at + 1..bytes.len()).find(|next| bytes.get(*next..).is_some_and(|rest| read(rest).is_some()));
    let Some(next) = next else { return false };
    let mut sectors = bytes.chunks(SECTOR).enumerate().skip(at / SECTOR);
    let is_hole = |(number, sector): (usize, &[u8])| {
        number * SECTOR < next
            && sector.iter().skip(at.saturating_sub(number * SECTOR)).all(|byte| *byte == 0)
    };
    !(other_boot && sectors.any(is_hole))
}

/// Makes a journal file that begins with `inventory`: whole or not at all, and durable.
fn begin(dir: &Path, number: u64, boot_id: &str, inventory: &Inventory) -> Result<(File, u64), SpoolError> {
    let mut bytes = Vec::new();
    write_header(boot_id, &mut bytes);
    inventory.entries().iter().for_each(|entry| write_entry(entry, &mut bytes));
    let tmp = dir.join(format!("{number:012}.tmp"));
    let mut file = OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&tmp)
        .map_err(failed("begin", &tmp))?;
    file.write_all(&bytes).map_err(failed("begin", &tmp))?;
    crate::failpoint::failpoint!("spool::before_begin");
    file.sync_all().map_err(failed("begin", &tmp))?;
    fs::rename(&tmp, path(dir, number)).map_err(failed("begin", &tmp))?;
    crate::failpoint::failpoint!("spool::after_begin");
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("begin", dir))?;
    Ok((file, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::super::super::runner::AttemptKey;
    use super::super::Phase;
    use super::*;

    fn key(task: u32) -> AttemptKey {
        AttemptKey { run: 1, task, attempt: 1 }
    }

    fn open(dir: &Path) -> (FileSpool, Found) {
        FileSpool::open(&dir.join("spool"), "boot-1").unwrap()
    }

    fn journal(dir: &Path) -> PathBuf {
        let numbers = numbers(&dir.join("spool")).unwrap();
        assert_eq!(numbers.len(), 1, "one journal file is left");
        path(&dir.join("spool"), numbers[0])
    }

    fn accepted(task: u32) -> Entry {
        Entry::Accepted { key: key(task), payload: b"spec".to_vec() }
    }

    fn finished(task: u32, report: Vec<u8>) -> Entry {
        Entry::Finished { key: key(task), report }
    }

    #[test]
    fn what_was_flushed_survives_and_what_was_settled_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, found) = open(dir.path());
        assert_eq!(found, Found::default());
        spool.append(accepted(1));
        spool.append(Entry::Started { key: key(1) });
        spool.append(accepted(2));
        spool.append(finished(2, b"report".to_vec()));
        spool.append(accepted(3));
        spool.append(Entry::Settled { key: key(3) });
        spool.append(Entry::Coordinator { epoch: 7, cluster: b"c".to_vec() });
        spool.flush().unwrap();
        spool.append(accepted(4));
        let before = spool.inventory().clone();
        assert_eq!(before.held().len(), 3);
        drop(spool);

        let (spool, _) = open(dir.path());
        let held = spool.inventory().held();
        assert_eq!(held.keys().copied().collect::<Vec<_>>(), [key(1), key(2)], "4 was never flushed");
        assert_eq!(held[&key(1)].phase, Phase::Running);
        assert_eq!(held[&key(2)].report.as_deref(), Some(&b"report"[..]));
        assert_eq!((spool.inventory().epoch(), spool.inventory().cluster()), (7, &b"c"[..]));
    }

    #[test]
    fn a_torn_end_at_any_byte_loses_only_the_torn_entry() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        spool.append(accepted(1));
        spool.flush().unwrap();
        let whole = fs::metadata(journal(dir.path())).unwrap().len();
        spool.append(finished(1, vec![7; 40]));
        spool.flush().unwrap();
        let bytes = fs::read(journal(dir.path())).unwrap();
        drop(spool);
        for end in usize::try_from(whole).unwrap()..bytes.len() {
            let torn = tempfile::tempdir().unwrap();
            fs::create_dir(torn.path().join("spool")).unwrap();
            fs::write(path(&torn.path().join("spool"), 1), &bytes[..end]).unwrap();
            let (mut spool, found) = open(torn.path());
            assert_eq!(found.torn_bytes, end as u64 - whole);
            assert_eq!(spool.inventory().held()[&key(1)].phase, Phase::Accepted);
            spool.append(finished(1, b"after".to_vec()));
            spool.flush().unwrap();
            drop(spool);
            let (spool, found) = open(torn.path());
            assert_eq!(found.torn_bytes, 0, "the torn end is gone");
            assert_eq!(spool.inventory().held()[&key(1)].report.as_deref(), Some(&b"after"[..]));
        }
    }

    #[test]
    fn damage_in_the_middle_is_no_torn_end_and_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        for task in 0..3 {
            spool.append(finished(task, vec![7; 2_000]));
        }
        spool.flush().unwrap();
        let file = journal(dir.path());
        let bytes = fs::read(&file).unwrap();
        drop(spool);
        let opened = |bytes: &[u8], boot: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::write(path(dir.path(), 1), bytes).unwrap();
            FileSpool::open(dir.path(), boot)
                .map(|(spool, found)| (spool.inventory().held().len(), found.torn_bytes))
        };
        let record = 2_000 + 25;
        let (second, third) = (bytes.len() - 2 * record, bytes.len() - record);
        let flipped = |at: usize| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 1;
            bytes
        };
        // In its length, its sum, its body; and in the first record of all.
        for (at, damaged) in [(second, second), (second + 5, second), (third - 1, second), (9, 0)] {
            for boot in ["boot-1", "boot-2"] {
                let error = opened(&flipped(at), boot).unwrap_err();
                assert!(matches!(error, SpoolError::Damaged { at, .. } if at == damaged as u64), "{error}");
                assert!(error.to_string().contains("move it away and start again"), "{error}");
            }
        }
        assert_eq!(opened(&flipped(bytes.len() - 1), "boot-1").unwrap(), (2, record as u64));
        // What a power loss leaves: a part that was never written, before one that was.
        let mut hole = bytes.clone();
        hole[second + 600..second + 1_900].fill(0);
        assert_eq!(opened(&hole, "boot-2").unwrap(), (1, 2 * record as u64));
        assert!(matches!(opened(&hole, "boot-1"), Err(SpoolError::Damaged { .. })));
    }

    #[test]
    fn a_journal_that_grew_moves_on_with_what_is_owed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        spool.append(accepted(1));
        let first = journal(dir.path());
        for task in 2..=40 {
            spool.append(finished(task, vec![1; 1024 * 1024]));
            spool.append(Entry::Settled { key: key(task) });
            spool.flush().unwrap();
        }
        assert!(!first.exists());
        assert!(fs::metadata(journal(dir.path())).unwrap().len() < 2 * SHORTEST_FILE);
        drop(spool);
        assert_eq!(open(dir.path()).0.inventory().held().len(), 1);
    }

    #[test]
    fn an_interrupted_move_is_finished_or_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        spool.append(accepted(1));
        spool.flush().unwrap();
        spool.append(Entry::Settled { key: key(1) });
        spool.append(accepted(2));
        let next = dir.path().join("spool");
        begin(&next, 9, "boot-1", spool.inventory()).unwrap();
        fs::write(next.join("000000000010.tmp"), b"half").unwrap();
        drop(spool);
        let (spool, _) = open(dir.path());
        assert_eq!(
            spool.inventory().held().keys().copied().collect::<Vec<_>>(),
            [key(2)],
            "the newest file counts"
        );
        journal(dir.path());
    }

    #[test]
    fn one_sync_is_in_flight_and_covers_everything_flushed_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let (mut spool, _) = open(dir.path());
        assert!(spool.begin_sync().unwrap().is_none(), "nothing to sync");
        spool.append(accepted(1));
        spool.flush().unwrap();
        let job = spool.begin_sync().unwrap().unwrap();
        spool.append(accepted(2));
        spool.flush().unwrap();
        assert!(spool.begin_sync().unwrap().is_none(), "one is in flight");
        job.run().unwrap();
        spool.end_sync();
        spool.begin_sync().unwrap().unwrap().run().unwrap();
        spool.end_sync();
        assert!(spool.begin_sync().unwrap().is_none());
    }

    #[test]
    fn another_boot_and_a_newer_version_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()));
        let (_, found) = FileSpool::open(&dir.path().join("spool"), "boot-2").unwrap();
        assert!(found.other_boot);
        let mut bytes = Vec::new();
        write_header("b", &mut bytes);
        bytes[17] = VERSION + 1;
        let crc = crc32c::crc32c(&bytes[8..]).to_le_bytes();
        bytes[4..8].copy_from_slice(&crc);
        fs::write(journal(dir.path()), &bytes).unwrap();
        let error = FileSpool::open(&dir.path().join("spool"), "boot-2").unwrap_err();
        assert!(error.to_string().ends_with("has version 2, this agent knows 1"), "{error}");
    }
}
