//! Entries as bytes: `length u32, crc32c u32, body`, little endian, where body is a kind, a key and the
//! rest. A record that does not check out ends the journal: what follows a torn write means nothing.
//! Pure.

use crate::runner::AttemptKey;

use super::Entry;

/// Version of the journal's layout.
pub const VERSION: u8 = 1;

/// Longest body that is believed. An answer of 16 MiB fits; a length beyond is damage.
const LONGEST_BODY: usize = 64 * 1024 * 1024;

/// Bytes before the body.
const PREFIX: usize = 8;

/// Bytes of kind and key.
const FIXED: usize = 1 + 8 + 4 + 4;

const MAGIC: &[u8; 8] = b"orchspol";

const HEADER: u8 = 0;
const ACCEPTED: u8 = 1;
const STARTED: u8 = 2;
const FINISHED: u8 = 3;
const SETTLED: u8 = 4;
const COORDINATOR: u8 = 5;
const PUT_BACK: u8 = 6;

/// The first record of a file: which layout, and which boot wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// Layout of the file.
    pub version: u8,
    /// Boot that wrote it.
    pub boot_id: String,
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The first of a file.
    Header(Header),
    /// Something to remember.
    Entry(Entry),
    /// A kind that a newer agent knows; passed over.
    Unknown,
}

/// Appends a header.
pub fn write_header(boot_id: &str, out: &mut Vec<u8>) {
    let mut body = vec![HEADER];
    body.extend_from_slice(MAGIC);
    body.push(VERSION);
    body.extend_from_slice(boot_id.as_bytes());
    frame(&body, out);
}

/// Appends an entry.
pub fn write_entry(entry: &Entry, out: &mut Vec<u8>) {
    const NO_KEY: AttemptKey = AttemptKey { run: 0, task: 0, attempt: 0 };
    let (kind, key, rest): (u8, AttemptKey, &[u8]) = match entry {
        Entry::Accepted { key, payload } => (ACCEPTED, *key, payload),
        Entry::Started { key } => (STARTED, *key, &[]),
        Entry::PutBack { key } => (PUT_BACK, *key, &[]),
        Entry::Finished { key, report } => (FINISHED, *key, report),
        Entry::Settled { key } => (SETTLED, *key, &[]),
        Entry::Coordinator { epoch, cluster } => (COORDINATOR, AttemptKey { run: *epoch, ..NO_KEY }, cluster),
    };
    let mut body = Vec::with_capacity(FIXED + rest.len());
    body.push(kind);
    body.extend_from_slice(&key.run.to_le_bytes());
    body.extend_from_slice(&key.task.to_le_bytes());
    body.extend_from_slice(&key.attempt.to_le_bytes());
    body.extend_from_slice(rest);
    frame(&body, out);
}

/// Reads the record at the beginning of `bytes` and says how long it is; `None` when there is no whole,
/// undamaged record.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<(Record, usize)> {
    let length = usize::try_from(u32::from_le_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let expected = u32::from_le_bytes(bytes.get(4..PREFIX)?.try_into().ok()?);
    if length > LONGEST_BODY {
        return None;
    }
    let body = bytes.get(PREFIX..PREFIX + length)?;
    if crc32c::crc32c(body) != expected {
        return None;
    }
    Some((parse(body)?, PREFIX + length))
}

fn frame(body: &[u8], out: &mut Vec<u8>) {
    // A body that long cannot be made: the largest part is an answer, which is cut at 16 MiB.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    out.extend_from_slice(body);
}

fn parse(body: &[u8]) -> Option<Record> {
    let (&kind, rest) = body.split_first()?;
    if kind == HEADER {
        let rest = rest.strip_prefix(MAGIC)?;
        let (&version, boot_id) = rest.split_first()?;
        let boot_id = String::from_utf8_lossy(boot_id).into_owned();
        return Some(Record::Header(Header { version, boot_id }));
    }
    let key = AttemptKey {
        run: u64::from_le_bytes(rest.get(..8)?.try_into().ok()?),
        task: u32::from_le_bytes(rest.get(8..12)?.try_into().ok()?),
        attempt: u32::from_le_bytes(rest.get(12..16)?.try_into().ok()?),
    };
    let payload = rest.get(16..)?.to_vec();
    Some(match kind {
        ACCEPTED => Record::Entry(Entry::Accepted { key, payload }),
        STARTED => Record::Entry(Entry::Started { key }),
        PUT_BACK => Record::Entry(Entry::PutBack { key }),
        FINISHED => Record::Entry(Entry::Finished { key, report: payload }),
        SETTLED => Record::Entry(Entry::Settled { key }),
        COORDINATOR => Record::Entry(Entry::Coordinator { epoch: key.run, cluster: payload }),
        _ => Record::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entries() -> Vec<Entry> {
        let key = AttemptKey { run: u64::MAX, task: 7, attempt: 1 };
        vec![
            Entry::Accepted { key, payload: b"spec".to_vec() },
            Entry::Started { key },
            Entry::PutBack { key },
            Entry::Finished { key, report: vec![0; 1_000] },
            Entry::Settled { key },
            Entry::Coordinator { epoch: 9, cluster: b"cluster".to_vec() },
        ]
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut bytes = Vec::new();
        write_header("boot", &mut bytes);
        entries().iter().for_each(|entry| write_entry(entry, &mut bytes));
        let mut found = Vec::new();
        let mut rest = bytes.as_slice();
        while let Some((record, length)) = read(rest) {
            found.push(record);
            rest = &rest[length..];
        }
        assert!(rest.is_empty());
        let header = Record::Header(Header { version: VERSION, boot_id: "boot".to_owned() });
        let expected: Vec<Record> =
            std::iter::once(header).chain(entries().into_iter().map(Record::Entry)).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_torn_record_and_a_flipped_bit_are_noticed() {
        for entry in entries() {
            let mut bytes = Vec::new();
            write_entry(&entry, &mut bytes);
            for end in 0..bytes.len() {
                assert_eq!(read(&bytes[..end]), None);
            }
            for at in 4..bytes.len().min(60) {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1;
                assert_eq!(read(&flipped), None, "bit in byte {at}");
            }
        }
    }

    #[test]
    fn a_kind_of_a_newer_agent_is_passed_over() {
        let mut bytes = Vec::new();
        frame(&[200; 40], &mut bytes);
        assert_eq!(read(&bytes), Some((Record::Unknown, 48)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&bytes);
        }
    }
}
