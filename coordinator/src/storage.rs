//! The data directory as a whole: opened by a start, copied while it serves, given back, compacted, migrated, checked.
//!
//! ```text
//! <data>/lock               held by the one coordinator; names its pid
//! <data>/store/             records, see crate::store
//! <data>/blobs/             bulk bytes, see crate::blobs
//! <data>/transcripts/       see crate::transcripts
//! <data>/incoming/<what>/   rooms that are being made; worth nothing without the marker
//! <data>/staged.json        marker: the next start puts these rooms in place
//! <data>/aside/<what>-<utc>/  rooms that were replaced
//! <data>/compact            the next start compacts the store
//! <data>/raised.json        how far restores have gone
//! <data>/reserve            room for a start on a full disk
//! ```
//!
//! Whatever replaces a room is made beside it, synced, and then named by the marker in one rename; from there on a start
//! carries it out, however often it is interrupted ([`swap`]). Nothing that was replaced is deleted before the new one
//! has proved itself.
//!
//! Knows files and the order of things; what records mean is known in [`counters`] alone.

pub mod archive;
pub mod backup;
pub mod check;
mod convert;
pub mod counters;
mod error;
pub mod figures;
pub mod offline;
pub mod reserve;
pub mod restore;
pub mod start;
pub mod swap;
mod unpack;

pub use self::error::{CopyError, StartError};
pub use self::start::{Opened, open};

use orch_proto::codes::ErrorCode;

use crate::engine::RecoverError;

use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Rooms under way, below the data directory.
const INCOMING: &str = "incoming";
/// Rooms that were replaced.
const ASIDE: &str = "aside";
/// Asks the next start to compact the store.
const COMPACT: &str = "compact";

#[cfg(test)]
mod tests;

/// The row of the code table for an error that kept a coordinator from starting or going on with its data.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> Option<ErrorCode> {
    // What the disk refuses is no damage, and a backup would not help.
    let refused = error.chain().any(|cause| cause.is::<std::io::Error>());
    let unrecovered = if refused { ErrorCode::DataUnusable } else { ErrorCode::StoreDamaged };
    error.chain().find_map(|cause| {
        let start = cause.downcast_ref::<StartError>().map(StartError::code);
        let copy = || cause.downcast_ref::<CopyError>().map(CopyError::code);
        let recover = || cause.is::<RecoverError>().then_some(unrecovered);
        start.or_else(copy).or_else(recover)
    })
}

/// Where a room named `room` of the operation `what` is made.
fn incoming(root: &Path, what: &str) -> PathBuf {
    root.join(INCOMING).join(what)
}

/// A name for what is moved aside at `now`, free below `root`: `restore-20261121T091500Z`.
fn aside_name(root: &Path, what: &str, now: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(now).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let name = format!("{what}-{}", at.strftime("%Y%m%dT%H%M%SZ"));
    let taken = |name: &String| root.join(ASIDE).join(name).exists();
    if !taken(&name) {
        return name;
    }
    // Within one second a directory is replaced once or twice.
    (2_u32..).map(|nth| format!("{name}-{nth}")).find(|name| !taken(name)).unwrap_or(name)
}
