//! Export and import: the whole store as text that outlives every backend.
//!
//! ```text
//! {"format":"orch-store-export","version":1,"schema":2,"cluster":"<hex>","epoch":7,"tick":123456}
//! {"key":"<hex>","value":"<hex>"}                              one line a record, in key order
//! {"records":1,"crc32c":"<8 hex digits>"}                      over every byte before this line
//! ```
//!
//! Values are payloads without their frame. Records of unknown kinds travel along; the store's own records do not, the
//! header says what they said. An export of an older schema is converted record by record ([`super::migrate`]). The order is fixed, so export, import, export gives the same bytes. Blobs and
//! transcripts are not part of it.

use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::MAX_VALUE_BYTES;
use super::changes::{self, Change};
use super::error::{ExportError, Fault, ImportError};
use super::key::{Key, MAX_KEY_BYTES};
use super::meta::{ClusterId, Meta};
use super::migrate::Conversion;
use super::read::{Records, every_record};
use super::tally::{Share, Tally};

const FORMAT: &str = "orch-store-export";
const VERSION: u32 = 1;

/// Longest line a valid export has: key and value in hexadecimal, and what is around them.
const MAX_LINE_BYTES: usize = 2 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 256;

/// What was written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferReport {
    /// Records in the export.
    pub records: u64,
    /// CRC-32C of everything before the trailer.
    pub crc32c: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u32,
    schema: u32,
    cluster: String,
    epoch: u64,
    tick: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    records: u64,
    crc32c: String,
}

/// Writes everything `records` holds.
pub(super) fn export(
    records: &impl Records,
    meta: &Meta,
    to: &mut dyn Write,
) -> Result<TransferReport, ExportError> {
    let mut report = TransferReport { records: 0, crc32c: 0 };
    let header = Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        schema: meta.schema,
        cluster: meta.cluster.to_string(),
        epoch: meta.epoch,
        tick: meta.tick,
    };
    put_line(to, &mut report.crc32c, &header).map_err(ExportError::Write)?;
    let mut tally = Tally::default();
    every_record(records, |key, framed, payload| {
        if key.kind().is_some_and(|kind| kind.is_store_owned()) {
            return Ok(());
        }
        let line = Line { key: hex::encode(key.as_bytes()), value: hex::encode(payload) };
        report.records += 1;
        tally.add(Share::of(&key, framed));
        put_line(to, &mut report.crc32c, &line).map_err(ExportError::Write)
    })?;
    if tally != meta.tally {
        // Without its trailer nobody takes it for an export.
        let (expected, found) = (meta.tally.records, tally.records);
        return Err(Fault::Incomplete { expected, found }.into());
    }
    let trailer = Trailer { records: report.records, crc32c: format!("{:08x}", report.crc32c) };
    put_line(to, &mut 0, &trailer).and_then(|()| to.flush()).map_err(ExportError::Write)?;
    Ok(report)
}

fn put_line(to: &mut dyn Write, crc: &mut u32, line: &impl Serialize) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    *crc = crc32c::crc32c_append(*crc, &bytes);
    to.write_all(&bytes)
}

/// Reads an export record by record and refuses whatever its trailer does not vouch for.
pub(super) struct Reader<'a> {
    from: &'a mut dyn BufRead,
    line: u64,
    meta: Meta,
    last: Option<Key>,
    report: TransferReport,
    tally: Tally,
    done: bool,
    conversion: Conversion,
}

impl<'a> Reader<'a> {
    /// Reads the header.
    pub(super) fn open(from: &'a mut dyn BufRead) -> Result<Self, ImportError> {
        let report = TransferReport { records: 0, crc32c: 0 };
        let meta = Meta::new(ClusterId([0; 16]));
        let mut reader = Self {
            from,
            line: 0,
            meta,
            last: None,
            report,
            tally: Tally::default(),
            done: false,
            conversion: Conversion::default(),
        };
        let bytes = reader.next_line()?;
        let header: Header = reader.parse(&bytes, "the header is malformed")?;
        if header.format != FORMAT || header.version != VERSION {
            return Err(reader.malformed("this is not a store export of version 1"));
        }
        let conversion = Conversion::from_schema(header.schema);
        reader.conversion = conversion.ok_or(ImportError::Schema { found: header.schema })?;
        let cluster = unhex(&header.cluster).and_then(|bytes| bytes.try_into().ok());
        let cluster = ClusterId(cluster.ok_or_else(|| reader.malformed("the cluster id is malformed"))?);
        reader.meta = Meta { epoch: header.epoch, tick: header.tick, ..Meta::new(cluster) };
        reader.report.crc32c = crc32c::crc32c(&bytes);
        Ok(reader)
    }

    /// What the header says about the store.
    pub(super) fn meta(&self) -> Meta {
        self.meta
    }

    /// What has been read; final once [`Reader::next_changes`] returned nothing.
    pub(super) fn report(&self) -> TransferReport {
        self.report
    }

    /// What the records read so far add up to.
    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// The next records, at most `limit`; none when the trailer was reached and matched.
    pub(super) fn next_changes(&mut self, limit: usize) -> Result<Vec<Change>, ImportError> {
        let mut changes = Vec::new();
        while changes.len() < limit && !self.done {
            let bytes = self.next_line()?;
            if bytes.starts_with(br#"{"key":"#) {
                changes.extend(self.record(&bytes)?);
                self.report.crc32c = crc32c::crc32c_append(self.report.crc32c, &bytes);
                self.report.records += 1;
            } else {
                self.trailer(&bytes)?;
            }
        }
        Ok(changes)
    }

    fn record(&mut self, bytes: &[u8]) -> Result<Option<Change>, ImportError> {
        let line: Line = self.parse(bytes, "the record is malformed")?;
        let key = unhex(&line.key).and_then(|key| Key::from_bytes(&key).ok());
        let key = key.ok_or_else(|| self.malformed("the key is malformed"))?;
        let value = unhex(&line.value).ok_or_else(|| self.malformed("the value is malformed"))?;
        if self.last.as_ref().is_some_and(|last| *last >= key) {
            return Err(self.malformed("the records are not in key order"));
        }
        self.last = Some(key.clone());
        let converted = self.conversion.convert(&key, value);
        let Some(value) = converted.map_err(|problem| self.malformed(problem))? else { return Ok(None) };
        let framed = changes::framed(&key, &value).map_err(ImportError::Commit)?;
        self.tally.add(Share::of(&key, &framed));
        Ok(Some((key, Some(framed))))
    }

    fn trailer(&mut self, bytes: &[u8]) -> Result<(), ImportError> {
        let trailer: Trailer = self.parse(bytes, "this is neither a record nor the trailer")?;
        let matches = trailer.records == self.report.records
            && trailer.crc32c == format!("{:08x}", self.report.crc32c)
            && self.from.fill_buf().map_err(ImportError::Read)?.is_empty();
        if !matches {
            return Err(ImportError::Damaged);
        }
        self.done = true;
        Ok(())
    }

    /// One line with its line feed. The end of the file in front of the trailer is damage.
    fn next_line(&mut self) -> Result<Vec<u8>, ImportError> {
        self.line += 1;
        let mut bytes = Vec::new();
        let mut limited = (&mut *self.from).take(MAX_LINE_BYTES as u64);
        limited.read_until(b'\n', &mut bytes).map_err(ImportError::Read)?;
        if bytes.last() != Some(&b'\n') {
            let too_long = bytes.len() == MAX_LINE_BYTES;
            return Err(if too_long { self.malformed("the line is too long") } else { ImportError::Damaged });
        }
        Ok(bytes)
    }

    fn parse<T: for<'de> Deserialize<'de>>(
        &self,
        bytes: &[u8],
        problem: &'static str,
    ) -> Result<T, ImportError> {
        serde_json::from_slice(bytes).map_err(|_| self.malformed(problem))
    }

    fn malformed(&self, problem: &'static str) -> ImportError {
        ImportError::Malformed { line: self.line, problem }
    }
}

/// Lower-case hexadecimal only: there is one spelling of each value.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.bytes().any(|byte| byte.is_ascii_uppercase()) { None } else { hex::decode(text).ok() }
}
