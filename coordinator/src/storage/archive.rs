//! The form of a backup: lines of JSON that say what follows, and the bytes that follow.
//!
//! ```text
//! {"format":"orch-backup","version":1,"schema":2,"cluster":"<hex>","epoch":7,"created_ms":…,"orchd":"0.1.0"}
//! {"entry":"records","name":"records.jsonl","bytes":1234}
//! <1234 bytes>
//! {"crc32c":"<8 hex digits>"}
//! {"entry":"blob","name":"1/<64 hex digits>","bytes":…}              … and packs, and transcripts
//! {"records":…,"blobs":…,"transcripts":…,"bytes":…,"sha256":"<64 hex digits>"}
//! ```
//!
//! The checksum of an entry says where damage is; the digest at the end, over every byte before it, says that there is
//! none. Each line has one spelling, so that a flipped bit in one shows as well.
//!
//! Not `tar`: its checksums cover names only, it does not know that it was cut at an entry, and its names are paths.
//! Here a name is parsed into what it names, and no path is ever taken from a copy.

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::CopyError;
use crate::blobs::{Digest, Kept, PackId};
use crate::store::{SCHEMA, Tenant};
use crate::transcripts::TranscriptId;

const FORMAT: &str = "orch-backup";
const VERSION: u32 = 1;
/// Longest line.
const MAX_LINE_BYTES: u64 = 1024;
/// Bytes moved at a time.
const STEP: usize = 256 << 10;

/// What a backup says of itself first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    version: u32,
    /// Schema of the records.
    pub schema: u32,
    /// Whose data it is, in hexadecimal.
    pub cluster: String,
    /// Epoch of the coordinator that made it.
    pub epoch: u64,
    /// When, unix ms.
    pub created_ms: u64,
    /// By which version.
    pub orchd: String,
}

impl Header {
    /// Of a backup that this version makes.
    #[must_use]
    pub fn new(cluster: String, epoch: u64, created_ms: u64) -> Self {
        let orchd = env!("CARGO_PKG_VERSION").to_owned();
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            schema: SCHEMA.into(),
            cluster,
            epoch,
            created_ms,
            orchd,
        }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The export of the records; the first entry.
    Records,
    /// A blob or a pack.
    Bulk(Tenant, Kept),
    /// A transcript.
    Transcript(TranscriptId),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryLine {
    entry: String,
    name: String,
    bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CrcLine {
    crc32c: String,
}

/// What a whole backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    /// Records.
    pub records: u64,
    /// Blobs and packs.
    pub blobs: u64,
    /// Transcripts.
    pub transcripts: u64,
    /// Bytes of all entries.
    pub bytes: u64,
    sha256: String,
}

impl Totals {
    /// With the digest of every byte before the line, and of the line without it.
    fn vouched(&self, before: &Sha256) -> Result<Self, CopyError> {
        let mut digest = before.clone();
        digest.update(spelled(&Self { sha256: String::new(), ..self.clone() })?);
        Ok(Self { sha256: hex::encode(digest.finalize()), ..self.clone() })
    }
}

impl Entry {
    const fn word(&self) -> &'static str {
        match self {
            Self::Records => "records",
            Self::Bulk(_, Kept::Blob(_)) => "blob",
            Self::Bulk(_, Kept::Pack(_)) => "pack",
            Self::Transcript(_) => "transcript",
        }
    }

    fn parse(word: &str, name: &str) -> Option<Self> {
        let two = || name.split_once('/');
        let entry = match word {
            "records" => Self::Records,
            "blob" => {
                let (tenant, digest) = two()?;
                Self::Bulk(number(tenant).map(Tenant::new)?, Kept::Blob(Digest::from_str(digest).ok()?))
            }
            "pack" => {
                let (tenant, pack) = two()?;
                Self::Bulk(number(tenant).map(Tenant::new)?, Kept::Pack(PackId::from_str(pack).ok()?))
            }
            "transcript" => {
                let (tenant, rest) = two()?;
                let (run, rest) = rest.split_once('/')?;
                let (task, attempt) = rest.split_once('.')?;
                let tenant = number(tenant).map(Tenant::new)?;
                let (run, task, attempt) = (number(run)?, number(task)?, number(attempt)?);
                Self::Transcript(TranscriptId { tenant, run, task, attempt })
            }
            _ => return None,
        };
        // One spelling each.
        (entry.to_string() == name).then_some(entry)
    }
}

fn number<N: FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records => f.write_str("records.jsonl"),
            Self::Bulk(tenant, Kept::Blob(digest)) => write!(f, "{tenant}/{digest}"),
            Self::Bulk(tenant, Kept::Pack(pack)) => write!(f, "{tenant}/{pack}"),
            Self::Transcript(TranscriptId { tenant, run, task, attempt }) => {
                write!(f, "{tenant}/{run}/{task}.{attempt}")
            }
        }
    }
}

/// Writes a backup.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    digest: Sha256,
    totals: Totals,
}

impl<W: Write> Writer<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// [`CopyError::Stream`].
    pub fn begin(to: W, header: &Header) -> Result<Self, CopyError> {
        let mut writer = Self { to, digest: Sha256::new(), totals: Totals::default() };
        writer.line(header)?;
        Ok(writer)
    }

    /// Adds an entry: `bytes` bytes of `from`.
    ///
    /// # Errors
    /// [`CopyError::Stream`]; [`CopyError::Damaged`] when `from` has fewer.
    pub fn entry(&mut self, entry: Entry, bytes: u64, from: &mut dyn Read) -> Result<(), CopyError> {
        self.line(&EntryLine { entry: entry.word().to_owned(), name: entry.to_string(), bytes })?;
        let (mut left, mut crc) = (bytes, 0);
        let mut buffer = vec![0; STEP];
        while left > 0 {
            let want = usize::try_from(left).map_or(STEP, |left| left.min(STEP));
            let part = buffer.get_mut(..want).unwrap_or_default();
            let read = from.read(part).map_err(CopyError::stream("read what is copied"))?;
            if read == 0 {
                return Err(CopyError::Damaged(format!("{entry} ends {left} bytes too early")));
            }
            let part = part.get(..read).unwrap_or_default();
            crc = crc32c::crc32c_append(crc, part);
            self.bytes(part)?;
            left -= read as u64;
        }
        self.line(&CrcLine { crc32c: format!("{crc:08x}") })?;
        self.totals.bytes += bytes;
        match entry {
            Entry::Records => {}
            Entry::Bulk(..) => self.totals.blobs += 1,
            Entry::Transcript(_) => self.totals.transcripts += 1,
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`CopyError::Stream`].
    pub fn finish(mut self, records: u64) -> Result<Totals, CopyError> {
        self.totals.records = records;
        let totals = self.totals.vouched(&self.digest)?;
        self.line(&totals)?;
        self.to.flush().map_err(CopyError::stream("write the copy"))?;
        Ok(totals)
    }

    fn line(&mut self, line: &impl Serialize) -> Result<(), CopyError> {
        self.bytes(&spelled(line)?)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), CopyError> {
        self.digest.update(bytes);
        self.to.write_all(bytes).map_err(CopyError::stream("write the copy"))
    }
}

/// The one spelling of a line.
fn spelled(line: &impl Serialize) -> Result<Vec<u8>, CopyError> {
    let mut bytes =
        serde_json::to_vec(line).map_err(|error| CopyError::stream("write the copy")(error.into()))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a backup and refuses whatever its checksums do not vouch for. What it hands out is worth nothing before
/// [`Reader::advance`] has returned the end.
pub struct Reader<R> {
    from: R,
    digest: Sha256,
    header: Header,
    seen: Totals,
}

/// What comes next in a backup.
#[derive(Debug)]
pub enum Next {
    /// An entry of so many bytes, to be read with [`Reader::body`].
    Entry(Entry, u64),
    /// The end, and the whole is as it was written.
    End(Totals),
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`CopyError::Damaged`], [`CopyError::Newer`], [`CopyError::Stream`].
    pub fn open(from: R) -> Result<Self, CopyError> {
        let header = Header::new(String::new(), 0, 0);
        let mut reader = Self { from, digest: Sha256::new(), header, seen: Totals::default() };
        let bytes = reader.line("it does not begin as a backup does")?;
        let shape: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let text =
            |name: &str| shape.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let count = |name: &str| shape.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
        let schema = u32::try_from(count("schema")).unwrap_or(u32::MAX);
        if text("format") == FORMAT && (count("version") > u64::from(VERSION) || schema > u32::from(SCHEMA)) {
            return Err(CopyError::Newer { by: text("orchd"), found: schema });
        }
        let header: Header = parsed(&bytes, "it does not begin as a backup does")?;
        if header.format != FORMAT || header.version != VERSION || header.schema == 0 {
            return Err(damaged("it does not begin as a backup does"));
        }
        reader.digest.update(&bytes);
        reader.header = header;
        Ok(reader)
    }

    /// What the backup says of itself.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The next entry, or the end.
    ///
    /// # Errors
    /// [`CopyError::Damaged`], [`CopyError::Stream`].
    pub fn advance(&mut self) -> Result<Next, CopyError> {
        let bytes = self.line("it is cut short")?;
        if bytes.starts_with(br#"{"entry":"#) {
            let line: EntryLine = parsed(&bytes, "an entry is not announced as it should be")?;
            let entry = Entry::parse(&line.entry, &line.name);
            let entry = entry.ok_or_else(|| damaged("an entry has no name that this version knows"))?;
            self.digest.update(&bytes);
            return Ok(Next::Entry(entry, line.bytes));
        }
        let totals: Totals = parsed(&bytes, "there is neither an entry nor the end where one should be")?;
        self.seen.records = totals.records;
        if totals != self.seen.vouched(&self.digest)? {
            return Err(damaged("its digest does not match"));
        }
        let rest = self.from.fill_buf().map_err(CopyError::stream("read the copy"))?;
        if rest.is_empty() { Ok(Next::End(totals)) } else { Err(damaged("bytes follow behind its end")) }
    }

    /// Hands the bytes of the entry that [`Reader::advance`] returned to `to`, part by part.
    ///
    /// # Errors
    /// As [`Reader::advance`], and what `to` says.
    pub fn body(
        &mut self,
        entry: Entry,
        bytes: u64,
        to: &mut dyn FnMut(&[u8]) -> Result<(), CopyError>,
    ) -> Result<(), CopyError> {
        let (mut left, mut crc) = (bytes, 0);
        while left > 0 {
            let available = self.from.fill_buf().map_err(CopyError::stream("read the copy"))?;
            let take = usize::try_from(left).map_or(available.len(), |left| left.min(available.len()));
            let part = available.get(..take).unwrap_or_default();
            if part.is_empty() {
                return Err(damaged(&format!("it is cut short within {entry}")));
            }
            crc = crc32c::crc32c_append(crc, part);
            self.digest.update(part);
            to(part)?;
            self.from.consume(take);
            left -= take as u64;
        }
        let line = self.line("it is cut short")?;
        let expected: CrcLine = parsed(&line, "a checksum is not where it should be")?;
        if expected.crc32c != format!("{crc:08x}") {
            return Err(damaged(&format!("{entry} does not have its checksum")));
        }
        self.digest.update(&line);
        self.seen.bytes += bytes;
        match entry {
            Entry::Records => {}
            Entry::Bulk(..) => self.seen.blobs += 1,
            Entry::Transcript(_) => self.seen.transcripts += 1,
        }
        Ok(())
    }

    fn line(&mut self, missing: &str) -> Result<Vec<u8>, CopyError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.from).take(MAX_LINE_BYTES);
        limited.read_until(b'\n', &mut bytes).map_err(CopyError::stream("read the copy"))?;
        if bytes.last() == Some(&b'\n') { Ok(bytes) } else { Err(damaged(missing)) }
    }
}

impl<R> fmt::Debug for Reader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("header", &self.header)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

/// A line that has its one spelling.
fn parsed<T: for<'de> Deserialize<'de> + Serialize>(bytes: &[u8], problem: &str) -> Result<T, CopyError> {
    let line: T = serde_json::from_slice(bytes).map_err(|_| damaged(problem))?;
    if spelled(&line)? == bytes { Ok(line) } else { Err(damaged(problem)) }
}

fn damaged(what: &str) -> CopyError {
    CopyError::Damaged(what.to_owned())
}

/// Reads from whoever sends parts; an error of the sender ends it.
pub(crate) struct Parts<N> {
    next: N,
    part: Vec<u8>,
    at: usize,
}

impl<N: FnMut() -> io::Result<Option<Vec<u8>>>> Parts<N> {
    /// `next` waits for the next part; `None` is the end.
    pub(crate) const fn new(next: N) -> Self {
        Self { next, part: Vec::new(), at: 0 }
    }
}

impl<N: FnMut() -> io::Result<Option<Vec<u8>>>> Read for Parts<N> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let take = available.len().min(buffer.len());
        if let (Some(to), Some(from)) = (buffer.get_mut(..take), available.get(..take)) {
            to.copy_from_slice(from);
        }
        self.consume(take);
        Ok(take)
    }
}

impl<N: FnMut() -> io::Result<Option<Vec<u8>>>> BufRead for Parts<N> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at >= self.part.len() {
            let Some(part) = (self.next)()? else { return Ok(&[]) };
            (self.part, self.at) = (part, 0);
        }
        Ok(self.part.get(self.at..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.at += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transcript(run: u64) -> Entry {
        Entry::Transcript(TranscriptId { tenant: Tenant::DEFAULT, run, task: 3, attempt: 2 })
    }

    fn archive() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = Writer::begin(&mut bytes, &Header::new("ab".repeat(16), 7, 1)).unwrap();
        writer.entry(Entry::Records, 7, &mut &b"records"[..]).unwrap();
        let blob = Entry::Bulk(Tenant::DEFAULT, Kept::Blob(Digest::of(b"blob")));
        writer.entry(blob, 4, &mut &b"blob"[..]).unwrap();
        let pack = Entry::Bulk(Tenant::DEFAULT, Kept::Pack(PackId([5; 16])));
        writer.entry(pack, 0, &mut &b""[..]).unwrap();
        writer.entry(transcript(1), 5, &mut &b"lines and more"[..]).unwrap();
        writer.finish(3).unwrap();
        bytes
    }

    type Seen = (Vec<(String, Vec<u8>)>, Totals);

    fn read(bytes: &[u8]) -> Result<Seen, CopyError> {
        let mut reader = Reader::open(bytes)?;
        let mut entries = Vec::new();
        loop {
            match reader.advance()? {
                Next::End(totals) => return Ok((entries, totals)),
                Next::Entry(entry, bytes) => {
                    let mut body = Vec::new();
                    reader.body(entry, bytes, &mut |part| {
                        body.extend_from_slice(part);
                        Ok(())
                    })?;
                    entries.push((entry.to_string(), body));
                }
            }
        }
    }

    #[test]
    fn what_goes_in_comes_out() {
        let (entries, totals) = read(&archive()).unwrap();
        assert_eq!((totals.records, totals.blobs, totals.transcripts, totals.bytes), (3, 2, 1, 16));
        assert_eq!(entries[0], ("records.jsonl".to_owned(), b"records".to_vec()));
        assert_eq!(entries[3], ("1/1/3.2".to_owned(), b"lines".to_vec()));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let whole = archive();
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read(&flipped).is_err(), "bit {bit}: {}", String::from_utf8_lossy(&flipped));
        }
        for len in 0..whole.len() {
            assert!(read(&whole[..len]).is_err(), "length {len}");
        }
        let longer = [whole.as_slice(), b"x"].concat();
        assert!(matches!(read(&longer), Err(CopyError::Damaged(_))));
    }

    #[test]
    fn a_name_leads_only_where_it_says() {
        for (word, name) in [
            ("blob", "1/../../etc/passwd".to_owned()),
            ("blob", format!("01/{}", "ab".repeat(32))),
            ("pack", format!("1/{}", "AB".repeat(16))),
            ("transcript", "1/2/../3.4".to_owned()),
            ("transcript", "1/2/+3.4".to_owned()),
            ("records", "../store".to_owned()),
            ("key", "1/2".to_owned()),
        ] {
            assert_eq!(Entry::parse(word, &name), None, "{word} {name}");
        }
        assert_eq!(Entry::parse("transcript", "1/9/3.2"), Some(transcript(9)));
    }

    #[test]
    fn a_source_that_shrank_and_a_newer_version_are_refused() {
        let mut writer = Writer::begin(Vec::new(), &Header::new(String::new(), 1, 1)).unwrap();
        let refused = writer.entry(Entry::Records, 9, &mut &b"short"[..]);
        assert!(matches!(refused, Err(CopyError::Damaged(_))));
        let newer = String::from_utf8(archive()).unwrap().replacen("\"schema\":2", "\"schema\":9", 1);
        assert!(matches!(read(newer.as_bytes()), Err(CopyError::Newer { found: 9, .. })));
    }

    #[test]
    fn parts_read_as_one() {
        let mut parts = vec![b"ab".to_vec(), Vec::new(), b"c".to_vec()].into_iter();
        let mut text = String::new();
        Parts::new(|| Ok(parts.next())).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
    }
}
