//! A copy on its way in: its parts written below `incoming/`, checked as they come.
//! Knows where each part goes; refuses to know what records mean.

use std::fs::File;
use std::io::{BufRead, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::CopyError;
use super::archive::{Entry, Header, Next, Reader, Totals};
use crate::blobs::file_path;
use crate::store::dir::{DiskSpace, create_private, private_file};

/// Bytes between two looks at the disk.
const LOOK_EVERY: u64 = 16 << 20;

/// Name of the export among the parts.
pub(super) const RECORDS: &str = "records.jsonl";

/// What a whole backup said.
#[derive(Debug)]
pub(super) struct Unpacked {
    pub(super) header: Header,
    pub(super) totals: Totals,
}

/// Refuses bytes before the disk is full: so much of it stays free as for submits.
#[derive(Debug)]
pub(super) struct Room {
    at: PathBuf,
    since: u64,
}

impl Room {
    /// Looks at once.
    pub(super) fn at(path: &Path) -> Result<Self, CopyError> {
        let room = Self { at: path.to_owned(), since: 0 };
        room.look()?;
        Ok(room)
    }

    pub(super) fn take(&mut self, bytes: usize) -> Result<(), CopyError> {
        self.since += bytes as u64;
        if self.since >= LOOK_EVERY {
            self.since = 0;
            self.look()?;
        }
        Ok(())
    }

    fn look(&self) -> Result<(), CopyError> {
        let space = DiskSpace::of(&self.at).map_err(CopyError::file("measure the disk of", &self.at))?;
        let no_room = || CopyError::NoRoom { path: self.at.clone(), available: space.available };
        if space.is_low() { Err(no_room()) } else { Ok(()) }
    }
}

/// Writes every part of a backup below `into`. Worth something only when it returns `Ok`.
pub(super) fn unpack(from: &mut dyn BufRead, into: &Path) -> Result<Unpacked, CopyError> {
    let mut room = Room::at(into)?;
    let mut reader = Reader::open(from)?;
    for name in ["blobs", "transcripts"] {
        let dir = into.join(name);
        create_private(&dir).map_err(CopyError::file("create", &dir))?;
    }
    let mut first = true;
    loop {
        let (entry, bytes) = match reader.advance()? {
            Next::End(totals) if !first => return Ok(Unpacked { header: reader.header().clone(), totals }),
            Next::End(_) => return Err(CopyError::Damaged("it has no records".to_owned())),
            Next::Entry(entry, bytes) => (entry, bytes),
        };
        if first != (entry == Entry::Records) {
            return Err(CopyError::Damaged("its records are not where they should be".to_owned()));
        }
        first = false;
        let path = into.join(place(&entry));
        let mut file = create(&path)?;
        let write = |part: &[u8]| {
            room.take(part.len())?;
            file.write_all(part).map_err(CopyError::file("write", &path))
        };
        let mut write = write;
        reader.body(entry, bytes, &mut write)?;
        file.flush().map_err(CopyError::file("write", &path))?;
    }
}

/// Writes an export as it comes.
pub(super) fn receive_records(from: &mut dyn BufRead, into: &Path) -> Result<(), CopyError> {
    let mut room = Room::at(into)?;
    let path = into.join(RECORDS);
    let mut file = create(&path)?;
    loop {
        let part = from.fill_buf().map_err(CopyError::stream("read the copy"))?;
        if part.is_empty() {
            break;
        }
        let taken = part.len();
        room.take(taken)?;
        file.write_all(part).map_err(CopyError::file("write", &path))?;
        from.consume(taken);
    }
    file.flush().map_err(CopyError::file("write", &path))
}

fn place(entry: &Entry) -> PathBuf {
    match entry {
        Entry::Records => PathBuf::from(RECORDS),
        Entry::Bulk(tenant, kept) => Path::new("blobs").join(file_path(*tenant, kept)),
        Entry::Transcript(id) => Path::new("transcripts").join(id.path()),
    }
}

fn create(path: &Path) -> Result<BufWriter<File>, CopyError> {
    if let Some(parent) = path.parent() {
        create_private(parent).map_err(CopyError::file("create", parent))?;
    }
    let created = private_file().create_new(true).open(path).map_err(CopyError::file("create", path))?;
    Ok(BufWriter::new(created))
}
