//! Which pages of the event log have had their time.
//! Knows ages and sizes; refuses to delete: it says what is to go, and the engine lets it ride with a batch.

use std::sync::Arc;
use std::time::Duration;

use orch_core::time::{Span, Tick};

use super::{EventLog, WatchError};

/// Most keys deleted with one batch: a deletion must never be what an acknowledgement waits for.
pub const MAX_DELETES: usize = 128;

/// How often to look. A full log deletes on at [`EAGER`].
pub const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Pause between two deletions while there is more to delete.
pub const EAGER: Duration = Duration::from_millis(100);

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRetention {
    /// Pages older than this go.
    pub age: Span,
    /// While there are more bytes than this, the oldest page goes.
    pub bytes: u64,
}

impl Default for EventRetention {
    /// 7 days, 1 GiB.
    fn default() -> Self {
        Self { age: Span::days(7), bytes: 1 << 30 }
    }
}

/// Pages to be deleted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// Sequences of their first events, which name their keys.
    pub firsts: Vec<u64>,
    /// Their bytes.
    pub bytes: u64,
    /// First sequence that stays.
    pub oldest: u64,
}

/// The oldest pages that are too many or too old, at most [`MAX_DELETES`]; `None` when there are none. The newest page
/// always stays: it says where the numbers go on.
///
/// # Errors
/// As a watch.
pub async fn due(log: &Arc<EventLog>, keep: EventRetention, now: Tick) -> Result<Option<Trim>, WatchError> {
    let extent = log.extent();
    if extent.pages <= 1 {
        return Ok(None);
    }
    let pages = log.oldest_pages(MAX_DELETES).await?;
    let mut trim = Trim { firsts: Vec::new(), bytes: 0, oldest: 0 };
    for page in pages {
        let left = extent.bytes.saturating_sub(trim.bytes);
        let newest = page.last() >= extent.newest;
        if newest || (now - page.tick() <= keep.age && left <= keep.bytes) {
            break;
        }
        trim.firsts.push(page.first());
        trim.bytes += page.bytes() as u64;
        trim.oldest = page.last() + 1;
    }
    Ok((!trim.firsts.is_empty()).then_some(trim))
}
