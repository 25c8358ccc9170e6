//! What can go wrong in a store, per operation. Every variant is fatal to the caller; the types exist so that the last
//! line of the log says what to do.

use std::io;
use std::path::PathBuf;

use super::dir::LockError;
use super::key::{Key, KeyError};
use super::record::{RecordError, SCHEMA};
use super::{MAX_SCAN, MAX_VALUE_BYTES};

/// A failure beneath any operation.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// The storage engine refused.
    #[error(
        "the storage engine could not {doing}: {detail}; restart, and if it says so again, restore the last export into a new data directory"
    )]
    Engine {
        /// What was tried.
        doing: &'static str,
        /// Its own words.
        detail: String,
    },
    /// A record that cannot be used.
    #[error("the record under key {key:?} cannot be used; restore the last export into a new data directory")]
    Record {
        /// Which.
        key: Key,
        /// Why.
        #[source]
        source: RecordError,
    },
    /// A record whose content the store itself should understand and does not.
    #[error(
        "the store's own record under key {key:?} is malformed; restore the last export into a new data directory"
    )]
    Own {
        /// Which.
        key: Key,
    },
    /// Stored under bytes that are no key.
    #[error("a record lies under bytes that are no key; restore the last export into a new data directory")]
    Key(#[from] KeyError),
    /// Records have vanished, or older ones are in their place.
    #[error(
        "the store is not what was committed: it should hold {expected} records and holds {found}, or older ones; \
         restore the last export into a new data directory"
    )]
    Incomplete {
        /// Records there should be.
        expected: u64,
        /// Records there are.
        found: u64,
    },
    /// An earlier operation failed.
    #[error("the store stopped after an earlier failure; restart to recover what is durable")]
    Stopped,
}

impl Fault {
    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { doing, source }
    }
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The files are damaged beyond what opening can mend.
    #[error("the store in {} is damaged ({detail}); restore the last export into a new data directory", dir.display())]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Written by a newer version.
    #[error(
        "the store was written by {by} with schema {found}, this is orchd {} and knows up to schema {SCHEMA}; run that \
         version or a later one, nothing was changed", env!("CARGO_PKG_VERSION")
    )]
    NewerSchema {
        /// The version that opened it last, as far as it left its name.
        by: String,
        /// The schema of the store.
        found: u32,
    },
    /// Written by a version that this one does not know how to migrate from.
    #[error("the store has schema {found}, which this version (schema {SCHEMA}) cannot migrate")]
    OlderSchema {
        /// The schema of the store.
        found: u32,
    },
    /// An import did not reach its end.
    #[error("an import into {} was not finished; delete the directory and import again", dir.display())]
    UnfinishedImport {
        /// The directory.
        dir: PathBuf,
    },
    /// A version before the journal was killed in the middle of a large commit, which only such a version can end.
    #[error(
        "a large commit was under way when orchd was killed in {}; start the version of orchd that ran there once more \
         and stop it in order, then start this one; nothing was changed", dir.display()
    )]
    HalfCommitted {
        /// The directory.
        dir: PathBuf,
    },
    /// Something beneath.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why the records could not be loaded.
#[derive(Debug, thiserror::Error)]
#[error("cannot load the store")]
pub struct LoadError(#[from] pub Fault);

/// Why a batch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another coordinator has begun a later epoch, or this one has not begun its own. Nothing was written.
    #[error("fenced off: the batch is of epoch {expected}, the store is at epoch {actual}")]
    Fenced {
        /// The epoch in the batch.
        expected: u64,
        /// The epoch of the store.
        actual: u64,
    },
    /// A value over [`MAX_VALUE_BYTES`]. Nothing was written.
    #[error(
        "the value under key {key:?} has {bytes} bytes; at most {MAX_VALUE_BYTES} fit, more belongs into a blob"
    )]
    ValueTooLarge {
        /// Which.
        key: Key,
        /// Its length.
        bytes: usize,
    },
    /// A key only the store itself may write. Nothing was written.
    #[error("key {key:?} belongs to the store itself")]
    Reserved {
        /// Which.
        key: Key,
    },
    /// The store was marked as cleanly shut down. Nothing was written.
    #[error("the store was marked as cleanly shut down; begin an epoch first")]
    Closed,
    /// It is not known whether the batch is durable.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More records asked for than a scan returns.
    #[error("a scan returns at most {MAX_SCAN} records, {asked} were asked for")]
    Limit {
        /// How many were asked for.
        asked: usize,
    },
    /// Something beneath.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why an export was not written.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The receiver refused.
    #[error("cannot write the export")]
    Write(#[source] io::Error),
    /// Something beneath.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// There is something in the store already.
    #[error("an import needs an empty store")]
    NotEmpty,
    /// The export cannot be read.
    #[error("cannot read the export")]
    Read(#[source] io::Error),
    /// A line is not what the format says.
    #[error("line {line} of the export: {problem}")]
    Malformed {
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        problem: &'static str,
    },
    /// The export has another schema.
    #[error("the export has schema {found}, this version imports schema 1 to {SCHEMA}")]
    Schema {
        /// The schema in its header.
        found: u32,
    },
    /// It ends before its trailer, or the trailer does not match.
    #[error("the export is cut short or damaged: its trailer does not match")]
    Damaged,
    /// The store refused a record.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Something beneath.
    #[error(transparent)]
    Fault(#[from] Fault),
}
