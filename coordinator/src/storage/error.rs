//! What can go wrong with a data directory as a whole, and which row of the code table it is.
//! Every text says what, and what to do next.

use std::io;
use std::path::{Path, PathBuf};

use orch_proto::codes::ErrorCode;

use crate::blobs::{BlobError, OpenBlobsError};
use crate::engine::RecoverError;
use crate::store::dir::LockError;
use crate::store::{CommitError, ExportError, Fault, ImportError, LoadError, OpenError, ReadError, SCHEMA};
use crate::transcripts::TranscriptError;

/// Why a copy was not made, or not taken.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Whoever reads or writes the copy is gone, or the operating system refused.
    #[error("cannot {doing}")]
    Stream {
        /// What was tried.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file below the data directory.
    #[error("cannot {doing} {}", path.display())]
    File {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The copy is not what its own words say.
    #[error("the copy is damaged: {0}; use another one, nothing was changed")]
    Damaged(String),
    /// Made by a newer version.
    #[error(
        "the copy was made by orchd {by} with schema {found}, this version knows up to {SCHEMA}; nothing was changed"
    )]
    Newer {
        /// The version.
        by: String,
        /// Its schema.
        found: u32,
    },
    /// Not of the cluster that was expected.
    #[error("the copy is of cluster {found}, not of {expected}; nothing was changed")]
    OtherCluster {
        /// Expected.
        expected: String,
        /// Found.
        found: String,
    },
    /// Too little room.
    #[error(
        "too little room: {available} bytes are free at {}, and a twentieth of the disk or 2 GiB, whichever is less, has to stay \
         so; free space and try again", path.display()
    )]
    NoRoom {
        /// Where.
        path: PathBuf,
        /// What is free.
        available: u64,
    },
    /// The records do not make a state that a coordinator starts on.
    #[error("a coordinator would not start on this copy; nothing was changed")]
    NotLoadable(#[from] RecoverError),
    /// The records refused.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The new store refused its records.
    #[error("the records of the copy cannot be taken; nothing was changed")]
    Import(#[from] ImportError),
    /// The new store refused what it is to know of the restore.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// The new store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A store does not answer.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A store cannot be read whole.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Blobs.
    #[error(transparent)]
    Blobs(#[from] OpenBlobsError),
    /// A blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Transcripts.
    #[error(transparent)]
    Transcripts(#[from] TranscriptError),
    /// A record is not what its key says.
    #[error("a record cannot be decoded")]
    Record(#[from] prost::DecodeError),
    /// Whoever asked is gone, or the coordinator is to stop.
    #[error("it was broken off before it counted; nothing was changed")]
    Abandoned,
}

/// Why a start cannot use its data directory.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory itself.
    #[error("cannot {doing} {}", path.display())]
    Dir {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The marker of a staged change is not one.
    #[error("{} is malformed; it was not written by orchd", path.display())]
    Marker {
        /// The marker.
        path: PathBuf,
    },
    /// The store.
    #[error("cannot open the store")]
    Store(#[from] OpenError),
    /// Blobs.
    #[error("cannot open the blobs")]
    Blobs(#[from] OpenBlobsError),
    /// Transcripts.
    #[error("cannot open the transcripts")]
    Transcripts(#[from] TranscriptError),
    /// The store could not be made anew.
    #[error("cannot {doing} the store; it is as it was")]
    Anew {
        /// `migrate` or `compact`.
        doing: &'static str,
        /// Why.
        #[source]
        source: Box<CopyError>,
    },
}

impl CopyError {
    pub(crate) fn stream(doing: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Stream { doing, source }
    }

    pub(crate) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }

    /// The row of the code table.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Damaged(_) | Self::Import(_) | Self::NotLoadable(_) | Self::Record(_) => {
                ErrorCode::CopyDamaged
            }
            Self::Newer { .. } => ErrorCode::StoreNewer,
            Self::OtherCluster { .. } => ErrorCode::OtherCluster,
            Self::NoRoom { .. } => ErrorCode::DiskLow,
            Self::File { source, .. } if is_full(source) => ErrorCode::DiskLow,
            Self::File { .. } => ErrorCode::DataUnusable,
            Self::Open(error) => of_open(error),
            Self::Abandoned => ErrorCode::Draining,
            Self::Stream { .. }
            | Self::Export(_)
            | Self::Commit(_)
            | Self::Read(_)
            | Self::Load(_)
            | Self::Blobs(_)
            | Self::Blob(_)
            | Self::Transcripts(_) => ErrorCode::StoreFailed,
        }
    }
}

impl StartError {
    pub(super) fn dir(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Dir { doing, path, source }
    }

    /// The row of the code table.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Dir { .. } | Self::Marker { .. } | Self::Transcripts(_) => ErrorCode::DataUnusable,
            Self::Locked(error) => of_lock(error),
            Self::Store(error) => of_open(error),
            Self::Blobs(OpenBlobsError::Locked(error)) => of_lock(error),
            Self::Blobs(OpenBlobsError::Blob(_)) => ErrorCode::DataUnusable,
            // A start reads no copy of anybody's: what is damaged is the store.
            Self::Anew { source, .. } if source.code() == ErrorCode::CopyDamaged => ErrorCode::StoreDamaged,
            Self::Anew { source, .. } => source.code(),
        }
    }
}

const fn of_lock(error: &LockError) -> ErrorCode {
    match error {
        LockError::InUse { .. } => ErrorCode::DataInUse,
        LockError::Io { .. } => ErrorCode::DataUnusable,
    }
}

const fn of_open(error: &OpenError) -> ErrorCode {
    match error {
        OpenError::Locked(error) => of_lock(error),
        OpenError::NewerSchema { .. } => ErrorCode::StoreNewer,
        OpenError::Fault(Fault::Io { .. }) => ErrorCode::DataUnusable,
        OpenError::Damaged { .. }
        | OpenError::OlderSchema { .. }
        | OpenError::HalfCommitted { .. }
        | OpenError::UnfinishedImport { .. }
        | OpenError::Fault(
            Fault::Engine { .. }
            | Fault::Record { .. }
            | Fault::Own { .. }
            | Fault::Key(_)
            | Fault::Incomplete { .. }
            | Fault::Stopped,
        ) => ErrorCode::StoreDamaged,
    }
}

/// Whether the disk has no room, or no inodes: the kernel says the same of both.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
