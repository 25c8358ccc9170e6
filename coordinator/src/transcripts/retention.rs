//! Removing old transcripts: by age, then the oldest until the rest fits.
//!
//! Which attempts still run is not known here; the caller says which transcripts to leave alone.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{TranscriptError, TranscriptId, Transcripts, io_at};
use crate::store::Tenant;

/// How long and how much to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Transcripts that were last written before this long ago go. Default 14 days.
    pub max_age: Duration,
    /// What all of them together may take up, in bytes. Default 20 GiB.
    pub max_bytes: u64,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { max_age: Duration::from_hours(14 * 24), max_bytes: 20 << 30 }
    }
}

/// What retention removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deleted {
    /// Transcripts.
    pub transcripts: u64,
    /// Their bytes.
    pub bytes: u64,
}

pub(super) struct Found {
    pub(super) written: SystemTime,
    pub(super) id: TranscriptId,
    pub(super) bytes: u64,
}

impl Transcripts {
    /// Removes what the policy does not keep at `now`, except transcripts that `is_live` claims.
    ///
    /// # Errors
    /// [`TranscriptError::Io`]; what was removed until then stays removed.
    pub fn retain(
        &self,
        policy: &RetentionPolicy,
        now: SystemTime,
        is_live: &mut dyn FnMut(&TranscriptId) -> bool,
    ) -> Result<Deleted, TranscriptError> {
        let mut all = self.list()?;
        all.sort_by_key(|found| (found.written, found.id));
        let mut total: u64 = all.iter().map(|found| found.bytes).sum();
        let mut deleted = Deleted::default();
        for Found { written, id, bytes } in all {
            let too_old = now.duration_since(written).is_ok_and(|age| age > policy.max_age);
            if (too_old || total > policy.max_bytes) && !is_live(&id) {
                if !self.delete(&id)? {
                    break;
                }
                deleted.transcripts += 1;
                deleted.bytes += bytes;
                total -= bytes;
            }
        }
        Ok(deleted)
    }

    pub(super) fn list(&self) -> Result<Vec<Found>, TranscriptError> {
        let mut found = Vec::new();
        for (tenant, tenant_dir) in numbered(&self.root)? {
            for (run, run_dir) in numbered(&tenant_dir)? {
                for entry in fs::read_dir(&run_dir).map_err(io_at("list", &run_dir))? {
                    let entry = entry.map_err(io_at("list", &run_dir))?;
                    let name = entry.file_name();
                    let Some((task, attempt)) = name.to_str().and_then(|name| name.split_once('.')) else {
                        continue;
                    };
                    let (Ok(task), Ok(attempt)) = (task.parse(), attempt.parse()) else { continue };
                    let meta = entry.metadata().map_err(io_at("measure", &run_dir))?;
                    let written = meta.modified().map_err(io_at("measure", &run_dir))?;
                    let id = TranscriptId { tenant: Tenant::new(tenant), run, task, attempt };
                    found.push(Found { written, id, bytes: meta.len() });
                }
            }
        }
        Ok(found)
    }
}

/// The directories in `dir` whose names are numbers.
fn numbered<N: std::str::FromStr>(dir: &Path) -> Result<Vec<(N, std::path::PathBuf)>, TranscriptError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
        let path = entry.map_err(io_at("list", dir))?.path();
        let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        if let Some(number) = number.filter(|_| path.is_dir()) {
            found.push((number, path));
        }
    }
    Ok(found)
}
