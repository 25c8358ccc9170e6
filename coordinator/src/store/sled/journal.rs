//! The journal in front of sled: `<store>/journal.0` and `journal.1`. A commit is durable when its entry is.
//!
//! sled's own way to the disk passes through its threads and waits twice before our sync may begin, and every key costs it
//! several microseconds. An entry here is one write over blocks that are there already, and one sync. Two files take
//! turns: while one is written, sled gets what the other has; then that begins again at its start.
//!
//! ```text
//! entry   length u64 | number of the commit u64 | changes | crc32c u32 over all of the above
//! change  key length u8 | key | value length u32, u32::MAX for a removal | framed value
//! ```
//!
//! Integers are big-endian; the length is that of the changes. Numbers rise by one from entry to entry. So a file ends
//! where an entry is not whole or has not the next number, and what an earlier turn left behind is never taken for an
//! entry of this one. Entries hold final values of every key, so to apply one again changes nothing.
//!
//! Knows bytes and where they lie; refuses to know sled, and when it is whose turn.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::disk::Syncer;
use crate::store::changes::Change;
use crate::store::dir;
use crate::store::error::Fault;
use crate::store::key::Key;

const NAMES: [&str; 2] = ["journal.0", "journal.1"];

/// When it is the other file's turn. As much is in memory until sled has it, and is read again after a crash.
const FULL_BYTES: u64 = 512 << 10;

/// So many times that, and sled is too far behind: commits wait for it rather than fill the memory.
const OVERFULL: u64 = 32;

/// What a file has at least, all of it written once: to write over it moves neither its end nor its blocks.
const KEPT_BYTES: u64 = FULL_BYTES + FULL_BYTES / 4;

/// Most of an entry that is held in memory before it is written.
const CHUNK_BYTES: usize = 256 << 10;

const HEAD_BYTES: usize = 16;
const CRC_BYTES: usize = 4;
const REMOVED: u32 = u32::MAX;

/// The journal of one store. There is one writer.
#[derive(Debug)]
pub(super) struct Journal {
    files: [Turn; 2],
    /// Whose turn it is.
    active: usize,
    full_bytes: u64,
}

/// One of the files.
#[derive(Debug)]
struct Turn {
    file: File,
    /// Where the next entry begins.
    end: u64,
}

/// One commit as the journal has it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) changes: Vec<Change>,
}

impl Journal {
    /// Opens the journal in `dir`; where there is none, an empty one. [`Journal::clear`] comes before the first entry.
    pub(super) fn open(dir: &Path) -> Result<Self, Fault> {
        let open = |name| -> Result<Turn, Fault> {
            let opened = dir::private_file().read(true).create(true).truncate(false).open(dir.join(name));
            Ok(Turn { file: opened.map_err(Fault::io("open the store's journal"))?, end: 0 })
        };
        let [first, second] = NAMES;
        Ok(Self { files: [open(first)?, open(second)?], active: 0, full_bytes: FULL_BYTES })
    }

    /// The entries that were left, oldest first. Those of a file end before the first that is not whole or out of turn.
    pub(super) fn entries(&self) -> impl Iterator<Item = Result<Entry, Fault>> {
        let mut files = self.files.each_ref().map(|turn| turn.entries().peekable());
        let numbers = files.each_mut().map(|entries| match entries.peek() {
            Some(Ok(entry)) => entry.number,
            // Nothing, or what cannot be read, which is told first then.
            Some(Err(_)) | None => 0,
        });
        if numbers[0] > numbers[1] {
            files.reverse();
        }
        files.into_iter().flatten()
    }

    /// Forgets everything an earlier process left, durably, and takes the room that the files are to have. What was left
    /// must be in sled by now.
    pub(super) fn clear(&mut self, dir: &Path, syncer: &dyn Syncer) -> Result<(), Fault> {
        let zeros = vec![0; usize::try_from(KEPT_BYTES).unwrap_or(usize::MAX)];
        let cleared = self.files.iter_mut().try_for_each(|turn| {
            turn.end = 0;
            turn.file.set_len(KEPT_BYTES)?;
            turn.file.write_all_at(&zeros, 0)?;
            syncer.sync(&turn.file)
        });
        cleared.and_then(|()| dir::sync_dir(dir)).map_err(Fault::io("clear the store's journal"))
    }

    /// Notes a commit. It is durable when this returns `Ok`.
    pub(super) fn append(
        &mut self,
        number: u64,
        changes: &[Change],
        syncer: &dyn Syncer,
    ) -> Result<(), Fault> {
        let turn = &mut self.files[self.active];
        syncer.before_entry().map_err(Fault::io("write the store's journal"))?;
        crate::failpoint::failpoint!("store::write", io).map_err(Fault::io("write the store's journal"))?;
        let end = turn.write(number, changes).map_err(Fault::io("write the store's journal"))?;
        crate::failpoint::failpoint!("commit::before_sync");
        syncer.sync(&turn.file).map_err(Fault::io("sync the store's journal to disk"))?;
        turn.end = end;
        Ok(())
    }

    /// Whether it is the other file's turn.
    pub(super) fn is_full(&self) -> bool {
        self.files[self.active].end >= self.full_bytes
    }

    /// Whether no more may be noted before it is.
    pub(super) fn is_overfull(&self) -> bool {
        self.files[self.active].end >= OVERFULL * self.full_bytes
    }

    /// Goes on with the other file from its start. What that has noted must be in sled, durably.
    ///
    /// It stays there, with numbers that are lower than any that follow. Only the room that large commits took is given
    /// back; when that itself is durable does not matter.
    pub(super) fn turn(&mut self) -> Result<(), Fault> {
        self.active = 1 - self.active;
        let turn = &mut self.files[self.active];
        if turn.end > KEPT_BYTES {
            turn.file.set_len(KEPT_BYTES).map_err(Fault::io("shorten the store's journal"))?;
        }
        turn.end = 0;
        Ok(())
    }

    /// Makes it full earlier.
    #[cfg(test)]
    pub(super) fn full_at(&mut self, bytes: u64) {
        self.full_bytes = bytes;
    }
}

impl Turn {
    fn entries(&self) -> Entries<'_> {
        Entries { file: &self.file, at: 0, next: None }
    }

    /// Writes an entry behind the last one, in pieces. Returns where it ends.
    fn write(&self, number: u64, changes: &[Change]) -> io::Result<u64> {
        let length: usize = changes.iter().map(packed_bytes).sum();
        let mut writer = Chunks { file: &self.file, at: self.end, crc: 0, waiting: Vec::new() };
        writer.waiting.reserve((HEAD_BYTES + length + CRC_BYTES).min(CHUNK_BYTES));
        writer.waiting.extend_from_slice(&(length as u64).to_be_bytes());
        writer.waiting.extend_from_slice(&number.to_be_bytes());
        for change in changes {
            if writer.waiting.len() + packed_bytes(change) > CHUNK_BYTES {
                writer.write()?;
            }
            pack(change, &mut writer.waiting);
        }
        writer.finish()
    }
}

/// An entry on its way to the file.
struct Chunks<'a> {
    file: &'a File,
    at: u64,
    crc: u32,
    waiting: Vec<u8>,
}

impl Chunks<'_> {
    fn write(&mut self) -> io::Result<()> {
        self.crc = crc32c::crc32c_append(self.crc, &self.waiting);
        self.file.write_all_at(&self.waiting, self.at)?;
        self.at += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }

    /// The checksum goes out with what is left, so that a small entry is one write.
    fn finish(mut self) -> io::Result<u64> {
        let crc = crc32c::crc32c_append(self.crc, &self.waiting);
        self.waiting.extend_from_slice(&crc.to_be_bytes());
        self.write()?;
        Ok(self.at)
    }
}

/// See [`Journal::entries`].
struct Entries<'a> {
    file: &'a File,
    at: u64,
    next: Option<u64>,
}

impl Entries<'_> {
    fn read(&self) -> io::Result<Option<(Entry, u64)>> {
        let mut head = [0; HEAD_BYTES];
        let left = self.file.metadata()?.len().saturating_sub(self.at);
        let frame = (HEAD_BYTES + CRC_BYTES) as u64;
        if left < frame {
            return Ok(None);
        }
        self.file.read_exact_at(&mut head, self.at)?;
        let (length, number) = head.split_at(HEAD_BYTES / 2);
        let (length, number) = (u64_of(length), u64_of(number));
        if length == 0 || length > left - frame || self.next.is_some_and(|next| next != number) {
            return Ok(None);
        }
        let Ok(bytes) = usize::try_from(length) else { return Ok(None) };
        let mut body = vec![0; bytes + CRC_BYTES];
        self.file.read_exact_at(&mut body, self.at + HEAD_BYTES as u64)?;
        let Some((changes, crc)) = body.split_last_chunk() else { return Ok(None) };
        if crc32c::crc32c_append(crc32c::crc32c(&head), changes) != u32::from_be_bytes(*crc) {
            return Ok(None);
        }
        // What has the right checksum and cannot be read was never written by append, and is no entry either.
        Ok(unpack(changes).map(|changes| (Entry { number, changes }, self.at + frame + length)))
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Entry, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read().map_err(Fault::io("read the store's journal")) {
            Ok(Some((entry, after))) => {
                self.at = after;
                self.next = entry.number.checked_add(1);
                Some(Ok(entry))
            }
            Ok(None) => None,
            Err(fault) => Some(Err(fault)),
        }
    }
}

fn packed_bytes((key, value): &Change) -> usize {
    1 + key.as_bytes().len() + 4 + value.as_ref().map_or(0, Vec::len)
}

fn pack((key, value): &Change, into: &mut Vec<u8>) {
    let key = key.as_bytes();
    // Keys have at most 255 bytes by construction, values at most a few thousand.
    into.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
    into.extend_from_slice(key);
    let length = value.as_ref().map_or(REMOVED, |value| u32::try_from(value.len()).unwrap_or(REMOVED));
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(value.as_deref().unwrap_or_default());
}

fn unpack(mut packed: &[u8]) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    while let [key_len, rest @ ..] = packed {
        let (key, rest) = rest.split_at_checked(usize::from(*key_len))?;
        let key = Key::from_bytes(key).ok()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = match u32::from_be_bytes(*length) {
            REMOVED => (None, rest),
            length => {
                let (value, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                (Some(value.to_vec()), rest)
            }
        };
        changes.push((key, value));
        packed = rest;
    }
    Some(changes)
}

fn u64_of(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tenant;
    use crate::store::sled::DataSync;

    fn change(run: u64, value: Option<&[u8]>) -> Change {
        (Key::run(Tenant::DEFAULT, run), value.map(<[u8]>::to_vec))
    }

    fn entry(number: u64) -> Entry {
        let changes =
            vec![change(number, Some(b"value")), change(number + 1, None), change(number + 2, Some(b""))];
        Entry { number, changes }
    }

    fn append(journal: &mut Journal, entry: &Entry) {
        journal.append(entry.number, &entry.changes, &DataSync).unwrap();
    }

    fn found(dir: &Path) -> Vec<Entry> {
        Journal::open(dir).unwrap().entries().map(Result::unwrap).collect()
    }

    fn cleared(dir: &Path) -> Journal {
        let mut journal = Journal::open(dir).unwrap();
        journal.clear(dir, &DataSync).unwrap();
        journal
    }

    #[test]
    fn entries_come_back_in_order() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(found(temp.path()), []);
        let mut journal = cleared(temp.path());
        assert_eq!(found(temp.path()), []);
        let written: Vec<Entry> = (7..30).map(entry).collect();
        written.iter().for_each(|entry| append(&mut journal, entry));
        assert_eq!(found(temp.path()), written);
        drop(cleared(temp.path()));
        assert_eq!(found(temp.path()), [], "cleared");
    }

    #[test]
    fn what_an_earlier_turn_left_is_not_taken_for_an_entry_of_this_one() {
        let temp = tempfile::tempdir().unwrap();
        let mut journal = cleared(temp.path());
        (1..=20).map(entry).for_each(|entry| append(&mut journal, &entry));
        journal.turn().unwrap();
        (21..=40).map(entry).for_each(|entry| append(&mut journal, &entry));
        assert_eq!(found(temp.path()), (1..=40).map(entry).collect::<Vec<_>>());
        journal.turn().unwrap();
        // Entries of the same length, so that an old one begins where each new one ends.
        append(&mut journal, &entry(41));
        append(&mut journal, &entry(42));
        assert_eq!(found(temp.path()), (21..=42).map(entry).collect::<Vec<_>>());
    }

    #[test]
    fn an_entry_of_any_length_is_whole_and_its_room_is_given_back() {
        let temp = tempfile::tempdir().unwrap();
        let mut journal = cleared(temp.path());
        let value = vec![0xAB; 4_000];
        let large = Entry { number: 2, changes: (0..300).map(|run| change(run, Some(&value))).collect() };
        append(&mut journal, &entry(1));
        append(&mut journal, &large);
        append(&mut journal, &entry(3));
        assert!(journal.is_full());
        let mut all = vec![entry(1), large, entry(3)];
        assert_eq!(found(temp.path()), all);
        journal.turn().unwrap();
        append(&mut journal, &entry(4));
        all.push(entry(4));
        assert_eq!(found(temp.path()), all);
        journal.turn().unwrap();
        assert!(!journal.is_full());
        assert_eq!(journal.files.map(|turn| turn.file.metadata().unwrap().len()), [KEPT_BYTES; 2]);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_ends_the_journal_before_it() {
        let temp = tempfile::tempdir().unwrap();
        let mut journal = cleared(temp.path());
        append(&mut journal, &entry(1));
        let first = usize::try_from(journal.files[0].end).unwrap();
        append(&mut journal, &entry(2));
        let end = usize::try_from(journal.files[0].end).unwrap();
        let path = temp.path().join(NAMES[0]);
        let whole = std::fs::read(&path).unwrap();
        for bit in first * 8..end * 8 {
            let mut damaged = whole[..end + 100].to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, damaged).unwrap();
            assert_eq!(found(temp.path()), [entry(1)], "bit {bit}");
        }
        for length in first..end {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(found(temp.path()), [entry(1)], "length {length}");
        }
    }
}
