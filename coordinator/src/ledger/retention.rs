//! Which pages of the ledger have had their time.
//! Knows ages; refuses to delete: it says what is to go, and the engine lets it ride with a batch.
//!
//! The age of a page is that of its tick, not of the day in its key: a wall clock that was set to next year for a moment
//! must not delete the books. While the coordinator does not run its ticks stand still, so pages live a little longer
//! than they had to, never shorter.

use std::sync::Arc;

use orch_core::time::{Span, Tick};

use super::Ledger;
use super::page::decode;
use super::split::QueryError;
use crate::events::retention::MAX_DELETES;
use crate::store::{Entity, Key, Kind, MAX_SCAN, Prefix, Tenant};

/// How long entries are kept when nothing is said: a year, and the month to look back at it.
pub const KEEP: Span = Span::days(400);

/// The oldest pages that are older than `keep`, at most [`MAX_DELETES`].
///
/// # Errors
/// [`QueryError`].
pub async fn due(ledger: &Ledger, keep: Span, now: Tick) -> Result<Vec<Key>, QueryError> {
    let store = Arc::clone(&ledger.store);
    let looked = ledger.readers.run(move || {
        let prefix = Prefix::kind(Tenant::CLUSTER, Kind::Ledger);
        // Of several, because pages of a moment at which the clock was wrong may lie before older ones.
        let found = store.scan(&prefix, None, MAX_SCAN)?;
        let mut old = Vec::new();
        for (key, payload) in found {
            if old.len() == MAX_DELETES {
                break;
            }
            let Ok(Entity::LedgerPage { day, number }) = key.entity() else { continue };
            let page = decode(day, number, &payload)?;
            if now - Tick(page.tick) > keep {
                old.push(key);
            }
        }
        Ok(old)
    });
    looked.await.map_err(|_| QueryError::BrokenOff)?
}
