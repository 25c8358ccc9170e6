//! The durable record: what a store promises, whichever backend keeps it.
//!
//! Above this line there are keys ([`Key`]), opaque payloads (`Vec<u8>`) and batches ([`Batch`]); beneath it a backend
//! frames payloads, makes batches durable and finds damage. The store does not know what a payload means,
//! keeps no clock and draws no random numbers.
//!
//! # Promises, the same for every backend (checked by one suite on all of them)
//!
//! 1. A batch is all or nothing, whatever happens while it is written, however many keys it has.
//! 2. When [`Store::commit`] returns `Ok`, the batch outlives a kill of the process and a loss of power.
//! 3. A commit under another epoch than the current one writes nothing.
//! 4. A read returns only what is durable: nothing a crash could still take back.
//! 5. Damage is reported, never returned as data: neither a changed record nor one that vanished goes unnoticed at a
//!    start. Records of a newer version are kept, not understood and not lost.
//!
//! # Any error is fatal
//!
//! Nothing in here is retried, least of all a failed sync: the kernel drops the pages it could not write, and the next
//! sync would succeed without them. After an error that left the outcome of a commit open the store refuses everything
//! ([`Fault::Stopped`]); the caller stops, restarts and recovers from what is durable.
//!
//! # Where to look next
//!
//! [`key`] for what lies where, [`mod@record`] for the frame, [`mod@sled`] for the backend and its rules, [`memory`] for
//! tests and simulation, [`transfer`] for export and import, [`dir`] for the data directory.

mod changes;
pub mod dir;
mod error;
pub mod hold;
pub mod key;
pub mod memory;
mod meta;
pub mod migrate;
mod read;
pub mod record;
pub mod sled;
#[cfg(any(test, feature = "test-util"))]
pub mod suite;
mod tally;
pub mod transfer;

use std::fmt;
use std::io::{BufRead, Write};

pub use self::dir::{DataDir, DiskSpace};
pub use self::error::{CommitError, ExportError, Fault, ImportError, LoadError, OpenError, ReadError};
pub use self::key::{Entity, Key, KeyError, Kind, Prefix, Tenant};
pub use self::memory::MemoryStore;
pub use self::meta::{ClusterId, Meta};
pub use self::record::{RecordError, SCHEMA};
pub use self::sled::SledStore;
#[cfg(any(test, feature = "test-util"))]
pub use self::sled::age;
pub use self::transfer::TransferReport;

/// Largest value a record may have, in bytes, before framing.
///
/// The storage engine moves a leaf over some 131,000 bytes into a file of its own that nobody syncs. A leaf holds up
/// to 17 records, so 4 KiB leaves a wide margin. Larger payloads go to [`crate::blobs`].
pub const MAX_VALUE_BYTES: usize = 4096;

/// Most records one [`Store::scan`] returns.
pub const MAX_SCAN: usize = 1000;

/// Below this share of free disk submits are refused, unless [`ENOUGH_FREE_BYTES`] are free; results are still recorded.
pub const REFUSE_SUBMITS_BELOW_FREE_PERCENT: u64 = 5;

/// So much free disk is enough however large the disk is: a million results of the usual size and a compaction beside
/// them (ADR 0022).
pub const ENOUGH_FREE_BYTES: u64 = 2 << 30;

/// A key and its payload.
pub type Record = (Key, Vec<u8>);

/// One change of a batch.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a record, new or not.
    Put {
        /// Where.
        key: Key,
        /// The payload, at most [`MAX_VALUE_BYTES`].
        value: Vec<u8>,
    },
    /// Removes a record; no error when there is none.
    Delete {
        /// Which.
        key: Key,
    },
    /// Makes a tick durable with the batch, at no further cost. A tick below the durable one changes nothing.
    SetTick(u64),
}

/// Lengths only: a payload may hold what must not stand in a log.
impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value } => write!(f, "put {key:?} ({} bytes)", value.len()),
            Self::Delete { key } => write!(f, "delete {key:?}"),
            Self::SetTick(tick) => write!(f, "set tick {tick}"),
        }
    }
}

/// Changes that become durable together. Of several operations on one key the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// The epoch the writer believes is current.
    pub expect_epoch: u64,
    /// The changes, of any number.
    pub ops: Vec<Op>,
}

/// What commits cost. Adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CommitStats {
    /// Records of the caller written or removed.
    pub keys: u64,
    /// Records of the store itself written or removed.
    pub own_keys: u64,
    /// Waits for the disk.
    pub syncs: u64,
    /// Bytes of keys and framed values handed to the backend.
    pub bytes: u64,
}

impl std::ops::AddAssign for CommitStats {
    fn add_assign(&mut self, other: Self) {
        self.keys += other.keys;
        self.own_keys += other.own_keys;
        self.syncs += other.syncs;
        self.bytes += other.bytes;
    }
}

/// Why an epoch begins, which is how far it rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochStep {
    /// A start of the coordinator: by one.
    Start,
    /// The first start on a restored export: by 1,000,000, past every epoch that was in use since the export.
    Restore,
    /// As `Restore`, and past the epoch of the coordinator that is replaced as well.
    RestoreAbove(u64),
}

impl EpochStep {
    pub(crate) const fn after(self, epoch: u64) -> u64 {
        match self {
            Self::Start => epoch.saturating_add(1),
            Self::Restore => epoch.saturating_add(1_000_000),
            Self::RestoreAbove(other) => {
                (if other > epoch { other } else { epoch }).saturating_add(1_000_000)
            }
        }
    }
}

/// What a start found in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReport {
    /// The store's own record.
    pub meta: Meta,
    /// Records handed out.
    pub records: u64,
    /// Records of kinds this version does not know. They were left where they are.
    pub unknown: u64,
    /// What opening the store had to mend.
    pub recovered: Recovery,
}

/// What opening a store had to mend after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Commits of the journal that the storage engine had not synced when the process ended, and was told again.
    pub replayed: u64,
    /// Half-written index snapshots of the storage engine that were removed.
    pub torn_snapshots: u32,
    /// Damaged index snapshots were moved aside and the index rebuilt from the log.
    pub rebuilt_index: bool,
}

/// Everything in a store, in key order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Meta, counts and what was mended.
    pub report: LoadReport,
    /// Every record of a known kind but the store's own.
    pub records: Vec<Record>,
}

/// How the store is doing. Cheap enough to ask every few seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Health {
    /// Whether the store still answers; `false` after a failure, for good.
    pub serving: bool,
    /// What the backend's files take up.
    pub bytes_on_disk: u64,
    /// Records there are.
    pub live_records: u64,
    /// Bytes of their keys and framed values.
    pub live_bytes: u64,
    /// Share of the file system that is free to us, 0 to 100.
    pub free_disk_percent: u8,
    /// Whether that is too little for new work; see [`REFUSE_SUBMITS_BELOW_FREE_PERCENT`].
    pub disk_is_low: bool,
    /// Bytes of it that are free to us; 0 where that means nothing.
    pub free_disk_bytes: u64,
    /// Commits since the store was opened.
    pub commits: u64,
    /// What they cost together.
    pub totals: CommitStats,
    /// What the last one cost.
    pub last_commit: Option<CommitStats>,
}

/// A durable, ordered map from [`Key`] to payload. See the [module documentation](self) for the promises.
///
/// Synchronous: `commit` blocks for the disk and belongs on the committer's own thread; reads may come from any thread
/// and never hold up a commit.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The store's own record, as of the last commit.
    fn meta(&self) -> Meta;

    /// Verifies every record and shows each one of a known kind to `visit`, in key order.
    ///
    /// Commits wait meanwhile; `visit` must not call the store.
    ///
    /// # Errors
    /// [`LoadError`] at the first record that is damaged or of a newer schema, or at the end when records are missing.
    fn load_with(&self, visit: &mut dyn FnMut(Key, &[u8])) -> Result<LoadReport, LoadError>;

    /// [`Store::load_with`] into memory: for tests, tools and small stores.
    ///
    /// # Errors
    /// As [`Store::load_with`].
    fn load(&self) -> Result<Snapshot, LoadError> {
        let mut records = Vec::new();
        let report = self.load_with(&mut |key, value| records.push((key, value.to_vec())))?;
        Ok(Snapshot { report, records })
    }

    /// Durably raises the epoch and sets the tick, which never falls. From here on earlier epochs are fenced off.
    ///
    /// # Errors
    /// [`CommitError::Fault`].
    fn begin_epoch(&self, step: EpochStep, tick: u64) -> Result<Meta, CommitError>;

    /// Writes a batch. Durable when it returns `Ok`; an empty batch costs nothing.
    ///
    /// # Errors
    /// [`CommitError`]. After [`CommitError::Fault`] the outcome is unknown until the store is opened again; after any
    /// other variant nothing was written.
    fn commit(&self, batch: Batch) -> Result<CommitStats, CommitError>;

    /// Durably notes that everything was shut down in order. The next commit must be a [`Store::begin_epoch`].
    ///
    /// # Errors
    /// As [`Store::commit`].
    fn mark_clean(&self, expect_epoch: u64, tick: u64) -> Result<(), CommitError>;

    /// The payload under a key.
    ///
    /// # Errors
    /// [`ReadError::Fault`] when the record is damaged or the store has stopped.
    fn get(&self, key: &Key) -> Result<Option<Vec<u8>>, ReadError>;

    /// Up to `limit` records of `prefix` behind `after`, in key order; fewer only at the end of the range.
    ///
    /// Each record is durable, but a page is no picture of one moment: use it for records that no longer change.
    /// Records of unknown kinds and the store's own are passed over.
    ///
    /// # Errors
    /// [`ReadError::Limit`] for a limit above [`MAX_SCAN`]; [`ReadError::Fault`] as [`Store::get`].
    fn scan(
        &self,
        prefix: &Prefix,
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Vec<(Key, Vec<u8>)>, ReadError>;

    /// Writes everything as text (format: [`transfer`]). Commits wait meanwhile, so that it shows one moment.
    ///
    /// # Errors
    /// [`ExportError`].
    fn export(&self, to: &mut dyn Write) -> Result<TransferReport, ExportError>;

    /// Fills an empty store from an export, cluster id, epoch and tick included.
    ///
    /// # Errors
    /// [`ImportError`]; the store then refuses to be opened again and is to be deleted.
    fn import(&self, from: &mut dyn BufRead) -> Result<TransferReport, ImportError>;

    /// Sizes and counters.
    ///
    /// # Errors
    /// [`ReadError::Fault`] when the file system does not answer.
    fn health(&self) -> Result<Health, ReadError>;
}
