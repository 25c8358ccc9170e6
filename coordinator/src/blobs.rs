//! Bulk bytes, kept by digest and per tenant: what is too large for a record.
//!
//! A record in the store names a blob only after the blob is durable: write, sync, then commit the location. A blob
//! nobody came to name is swept later. Blobs do not change, so reading needs no lock and never passes the engine.
//!
//! The trait is cut so that object storage fits behind it; [`FileBlobs`] keeps files in a local directory. What the
//! bytes mean and which records name them is not known here, and no clock is read: callers pass the time.

mod file;
mod location;
mod pack;
mod sweep;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

pub use self::file::FileBlobs;
pub(crate) use self::file::relative as file_path;
pub use self::location::{BlobLocation, Digest, LocationError, PackId};
use crate::store::Tenant;
use crate::store::dir::LockError;

/// How old an unreferenced blob must be before [`Blobs::sweep`] may remove it: far longer than any upload that a
/// record is still to name.
pub const SWEEP_MIN_AGE: Duration = Duration::from_hours(24);

/// Where bytes were put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// SHA-256 of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub len: u64,
    /// What to read them by.
    pub location: BlobLocation,
}

/// A blob store. Blocking; a location leads nowhere under another tenant than the one it was made for.
pub trait Blobs: fmt::Debug + Send + Sync + 'static {
    /// Stores bytes, durable when it returns. Bytes that are there already are not stored twice.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn put(&self, tenant: Tenant, bytes: &[u8]) -> Result<Stored, BlobError>;

    /// Where bytes of this digest and length are, if they are stored: durable then, and kept from a sweep as if they had
    /// been stored just now.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn find(&self, tenant: Tenant, digest: &Digest, len: u64) -> Result<Option<Stored>, BlobError>;

    /// Length of a blob that a record is about to name: it counts as stored just now, so that no sweep which has not seen that
    /// record takes it. `None` when there is no such blob, or the location points outside of its pack.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn keep(&self, tenant: Tenant, location: &BlobLocation) -> Result<Option<u64>, BlobError>;

    /// Begins an upload of at most `limit` bytes that arrive in pieces. Dropping it discards what arrived.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn begin(&self, tenant: Tenant, limit: u64) -> Result<Box<dyn Upload>, BlobError>;

    /// Begins a pack: many payloads that become durable together, at the price of one. Dropping it discards them.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn begin_pack(&self, tenant: Tenant) -> Result<Box<dyn Pack>, BlobError>;

    /// Opens a blob, packed or not, for reading in parts. It stays readable while open, even when swept.
    ///
    /// # Errors
    /// [`BlobError::NotFound`], [`BlobError::Damaged`] when the location points outside of its pack.
    fn open(&self, tenant: Tenant, location: &BlobLocation) -> Result<Box<dyn Blob>, BlobError>;

    /// Reads a whole blob of at most `limit` bytes and verifies its digest.
    ///
    /// # Errors
    /// As [`Blobs::open`], [`BlobError::TooLarge`], [`BlobError::Damaged`] when the digest does not match.
    fn read(&self, tenant: Tenant, location: &BlobLocation, limit: u64) -> Result<Vec<u8>, BlobError> {
        let blob = self.open(tenant, location)?;
        let len = blob.len();
        let fits = if len <= limit { usize::try_from(len).ok() } else { None };
        let bytes = blob.read_at(0, fits.ok_or(BlobError::TooLarge { len, limit })?)?;
        if Digest::of(&bytes) == location.digest() {
            Ok(bytes)
        } else {
            Err(BlobError::Damaged { location: location.clone() })
        }
    }

    /// Removes what is older than `min_age` at `now` and not referenced. `is_referenced` is asked per file; a pack is
    /// referenced when any of its payloads is.
    ///
    /// # Errors
    /// [`BlobError::Io`]; what was removed until then stays removed.
    fn sweep(
        &self,
        min_age: Duration,
        now: SystemTime,
        is_referenced: &mut dyn FnMut(Tenant, &Kept) -> bool,
    ) -> Result<Swept, BlobError>;
}

/// An upload under way.
pub trait Upload: fmt::Debug + Send {
    /// Takes bytes that start at `offset` and returns how many have arrived in all, which is the next offset. What
    /// arrived before is skipped, so a piece may be repeated after a lost acknowledgement.
    ///
    /// # Errors
    /// [`UploadError::Gap`], [`UploadError::TooLarge`], [`UploadError::Blob`]. The upload can go on after each.
    fn append(&mut self, offset: u64, bytes: &[u8]) -> Result<u64, UploadError>;

    /// How many bytes have arrived.
    fn received(&self) -> u64;

    /// Ends the upload: durable when it returns.
    ///
    /// # Errors
    /// [`UploadError::Digest`] when other bytes arrived than were announced; they are discarded.
    fn finish(self: Box<Self>, expected: &Digest) -> Result<Stored, UploadError>;
}

/// A pack under way.
pub trait Pack: fmt::Debug + Send {
    /// Adds a payload and returns its place in what [`Pack::finish`] returns. Equal payloads share a place.
    ///
    /// # Errors
    /// [`BlobError::Io`]; the pack is then to be dropped.
    fn add(&mut self, payload: &[u8]) -> Result<usize, BlobError>;

    /// Makes all payloads durable with one sync, and says where each one is.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn finish(self: Box<Self>) -> Result<Vec<Stored>, BlobError>;
}

/// A blob that is open for reading.
#[expect(clippy::len_without_is_empty, reason = "a blob is a stretch of bytes to read, not a collection")]
pub trait Blob: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> u64;

    /// Up to `max` bytes from `offset`; fewer only at the end. Not verified: whoever reads all of it compares digests.
    ///
    /// # Errors
    /// [`BlobError::Io`].
    fn read_at(&self, offset: u64, max: usize) -> Result<Vec<u8>, BlobError>;
}

/// What [`Blobs::sweep`] asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A blob of its own.
    Blob(Digest),
    /// A pack.
    Pack(PackId),
}

/// A file of the blob store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Whose.
    pub tenant: Tenant,
    /// Which.
    pub kept: Kept,
    /// Its bytes.
    pub len: u64,
}

/// What a sweep removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Blobs and packs.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a directory of blobs could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenBlobsError {
    /// Another process uses it.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Something beneath.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

/// Why blobs could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// There is no such blob for this tenant.
    #[error("blob {location} does not exist")]
    NotFound {
        /// Which.
        location: BlobLocation,
    },
    /// The bytes are not those that were stored.
    #[error("blob {location} is damaged")]
    Damaged {
        /// Which.
        location: BlobLocation,
    },
    /// Larger than the reader takes.
    #[error("the blob has {len} bytes, at most {limit} are read here")]
    TooLarge {
        /// Its length.
        len: u64,
        /// The reader's limit.
        limit: u64,
    },
    /// The operating system refused.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

/// Why a piece of an upload, or all of it, was refused.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The piece starts behind what has arrived.
    #[error("the piece starts at byte {offset}, only {received} have arrived")]
    Gap {
        /// Where it starts.
        offset: u64,
        /// Where to go on.
        received: u64,
    },
    /// More bytes than were agreed on.
    #[error("the upload is larger than {limit} bytes")]
    TooLarge {
        /// What was agreed on.
        limit: u64,
    },
    /// Other bytes arrived than were announced.
    #[error("the bytes have digest {actual}, {expected} was announced")]
    Digest {
        /// Announced.
        expected: Digest,
        /// Of what arrived.
        actual: Digest,
    },
    /// Something beneath.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}
