//! A copy of everything while it serves. Knows the order that makes it consistent; refuses to know who reads it.
//!
//! First nothing may be deleted, then the records are written as of one moment, then every blob that is there: all that
//! the records name were durable before the records were. Commits go on meanwhile; each waits for a page of records at
//! most. The records go to a file, not to whoever reads the copy. Transcripts only grow; each is cut at what is durable.

use std::fs::File;
use std::io::{BufWriter, Seek as _, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::archive::{Entry, Header, Totals, Writer};
use super::{CopyError, INCOMING};
use crate::blobs::FileBlobs;
use crate::store::{Store, TransferReport, dir};
use crate::transcripts::Transcripts;

/// What is copied.
#[derive(Debug, Clone)]
pub struct Source {
    /// Records.
    pub store: Arc<dyn Store>,
    /// Blobs and packs.
    pub blobs: Arc<FileBlobs>,
    /// Transcripts.
    pub transcripts: Arc<Transcripts>,
}

/// Writes everything to `to`. The records wait in a file without a name below `root` meanwhile.
///
/// # Errors
/// [`CopyError`]; what was written until then is no backup.
pub fn backup(
    root: &Path,
    source: &Source,
    now: SystemTime,
    to: &mut dyn Write,
) -> Result<Totals, CopyError> {
    let _blobs = source.blobs.holds().hold();
    let _transcripts = source.transcripts.holds().hold();
    let meta = source.store.meta();
    let (mut records, report) = records(root, &*source.store)?;
    let header = Header::new(meta.cluster.to_string(), meta.epoch, millis(now));
    let mut archive = Writer::begin(to, &header)?;
    let bytes = records.metadata().map_err(CopyError::stream("measure the records"))?.len();
    archive.entry(Entry::Records, bytes, &mut records)?;
    let mut listed = source.blobs.list()?;
    listed.sort_by_key(|listed| source.blobs.path_of(listed.tenant, &listed.kept));
    for listed in listed {
        let mut file = source.blobs.open_whole(listed.tenant, &listed.kept)?;
        archive.entry(Entry::Bulk(listed.tenant, listed.kept), listed.len, &mut file)?;
    }
    for (id, offsets) in source.transcripts.all()? {
        let mut file = source.transcripts.open_whole(&id)?;
        archive.entry(Entry::Transcript(id), offsets.durable, &mut file)?;
    }
    archive.finish(report.records)
}

/// The export of the records in a file that vanishes by itself.
///
/// # Errors
/// [`CopyError`].
pub fn records(root: &Path, store: &dyn Store) -> Result<(File, TransferReport), CopyError> {
    let place = root.join(INCOMING);
    dir::create_private(&place).map_err(CopyError::file("create", &place))?;
    let file = tempfile::tempfile_in(&place).map_err(CopyError::file("create a file in", &place))?;
    let begun = Instant::now();
    let mut buffered = BufWriter::with_capacity(1 << 20, file);
    let report = store.export(&mut buffered)?;
    tracing::info!(records = report.records, took = ?begun.elapsed(), "records copied");
    let flushed = buffered.into_inner().map_err(|error| CopyError::file("write", &place)(error.into_error()));
    let mut file = flushed?;
    file.seek(SeekFrom::Start(0)).map_err(CopyError::file("read", &place))?;
    Ok((file, report))
}

/// Unix time.
pub(super) fn millis(now: SystemTime) -> u64 {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
