//! The store's own record: which cluster, which schema, which epoch, how far time had come.
//!
//! ```text
//! schema u32 | cluster 16 bytes | epoch u64 | tick u64 | commits u64 | records u64 | bytes u64 | sum u64 | state u8
//! ```
//!
//! Big-endian. It is written with every commit, which costs one key per commit, not per task.
//!
//! It has a layout of its own, not a message of the wire, because it must be readable before anything is decided about
//! the rest of the store.

use std::fmt;

use super::EpochStep;
use super::error::Fault;
use super::key::Key;
use super::record::{self, SCHEMA};
use super::tally::Tally;

/// Identity of one cluster's data, drawn once. A copied data directory has the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The store's own record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Schema of the store, [`SCHEMA`] in every store that opens.
    pub schema: u32,
    /// Whose data this is.
    pub cluster: ClusterId,
    /// Coordinator generation. Rises at every start, never falls.
    pub epoch: u64,
    /// Core time in milliseconds that is known to have passed. Never falls.
    pub tick: u64,
    /// Whether the last process ended in order.
    pub clean: bool,
    /// Commits since the store was made.
    pub commits: u64,
    /// What the records add up to.
    pub(super) tally: Tally,
    /// Set while an import is filling the store.
    pub(super) importing: bool,
}

const PAYLOAD_BYTES: usize = 4 + 16 + 6 * 8 + 1;
const RUNNING: u8 = 0;
const CLEAN: u8 = 1;
const IMPORTING: u8 = 2;

impl Meta {
    pub(super) fn new(cluster: ClusterId) -> Self {
        Self {
            schema: SCHEMA.into(),
            cluster,
            epoch: 0,
            tick: 0,
            clean: false,
            commits: 0,
            tally: Tally::default(),
            importing: false,
        }
    }

    pub(super) fn begun(self, step: EpochStep, tick: u64) -> Self {
        Self { epoch: step.after(self.epoch), clean: false, ..self.at(tick) }
    }

    pub(super) fn at(self, tick: u64) -> Self {
        Self { tick: self.tick.max(tick), ..self }
    }

    /// The framed record.
    pub(super) fn encode(&self) -> Vec<u8> {
        self.encode_as(SCHEMA)
    }

    /// The framed record as a version with that schema would write it.
    pub(super) fn encode_as(&self, schema: u16) -> Vec<u8> {
        let state = match (self.importing, self.clean) {
            (true, _) => IMPORTING,
            (false, true) => CLEAN,
            (false, false) => RUNNING,
        };
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        payload.extend_from_slice(&self.schema.to_be_bytes());
        payload.extend_from_slice(&self.cluster.0);
        let Tally { records, bytes, sum } = self.tally;
        for number in [self.epoch, self.tick, self.commits, records, bytes, sum] {
            payload.extend_from_slice(&number.to_be_bytes());
        }
        payload.push(state);
        record::encode_as(schema, &Key::meta(), &payload)
    }

    /// Reads the framed record.
    pub(super) fn decode(framed: &[u8]) -> Result<Self, Fault> {
        let key = Key::meta();
        match record::decode(&key, framed) {
            Ok(payload) => Self::from_payload(payload).ok_or(Fault::Own { key }),
            Err(source) => Err(Fault::Record { key, source }),
        }
    }

    fn from_payload(payload: &[u8]) -> Option<Self> {
        let (schema, rest) = payload.split_first_chunk()?;
        let (cluster, rest) = rest.split_first_chunk()?;
        let (numbers, state) = rest.split_at_checked(6 * 8)?;
        let mut numbers = numbers.as_chunks().0.iter().map(|bytes| u64::from_be_bytes(*bytes));
        let (clean, importing) = match state {
            [RUNNING] => (false, false),
            [CLEAN] => (true, false),
            [IMPORTING] => (false, true),
            _ => return None,
        };
        Some(Self {
            schema: u32::from_be_bytes(*schema),
            cluster: ClusterId(*cluster),
            epoch: numbers.next()?,
            tick: numbers.next()?,
            commits: numbers.next()?,
            tally: Tally { records: numbers.next()?, bytes: numbers.next()?, sum: numbers.next()? },
            clean,
            importing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_comes_back_as_it_went_in() {
        let tally = Tally { records: 3, bytes: 4, sum: 5 };
        let meta = Meta { epoch: 7, tick: 123_456, commits: 2, tally, ..Meta::new(ClusterId([9; 16])) };
        assert_eq!(meta.encode().len(), PAYLOAD_BYTES + record::FRAME_BYTES);
        for meta in [meta, Meta { clean: true, ..meta }, Meta { importing: true, ..meta }] {
            assert_eq!(Meta::decode(&meta.encode()).unwrap(), meta);
        }
    }

    #[test]
    fn a_record_of_another_length_is_refused() {
        let framed = record::encode(&Key::meta(), &[0; PAYLOAD_BYTES - 1]);
        assert!(matches!(Meta::decode(&framed), Err(Fault::Own { .. })));
    }

    #[test]
    fn time_and_epoch_never_fall() {
        let meta = Meta::new(ClusterId([0; 16])).begun(EpochStep::Start, 50);
        assert_eq!((meta.epoch, meta.tick), (1, 50));
        let later = meta.begun(EpochStep::Restore, 10);
        assert_eq!((later.epoch, later.tick), (1_000_001, 50));
    }
}
