//! What is done now and then and decides nothing: figures for the metrics, a look at the disk, old events, old blobs.
//! Knows intervals; refuses to hold anybody up.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use orch_core::event::Event;
use orch_core::ids::TenantId;
use orch_core::query::{Answer, Query};
use orch_core::time::Span;
use tokio::time::{Instant, MissedTickBehavior};

use super::{EngineGone, Handle};
use crate::events::retention::{EAGER, EventRetention, LOOK_EVERY, MAX_DELETES, due};
use crate::ledger::retention as ledger;
use crate::payloads::references;

/// How often figures are refreshed: as often as Prometheus asks at most.
const REFRESH: Duration = Duration::from_secs(5);

/// How often blobs that no record names are looked for. Every record is read for it.
const SWEEP_EVERY: Duration = Duration::from_secs(12 * 3_600);

/// How often old pages of the ledger are looked for: they are kept for a year.
const LOOK_AT_COSTS: Duration = Duration::from_secs(3_600);

/// Keeps house until the engine has stopped.
pub async fn run(handle: Handle, keep: EventRetention, keep_costs: Span) {
    let mut refresh = tokio::time::interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_look = Instant::now() + LOOK_EVERY;
    let mut next_sweep = Instant::now() + SWEEP_EVERY;
    let mut next_page = Instant::now() + LOOK_EVERY;
    loop {
        tokio::select! {
            _ = refresh.tick() => {
                if figures(&handle).await.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep_until(next_look) => match trim(&handle, keep).await {
                Ok(true) => next_look = Instant::now() + EAGER,
                Ok(false) => next_look = Instant::now() + LOOK_EVERY,
                Err(EngineGone) => return,
            },
            () = tokio::time::sleep_until(next_page) => match forget(&handle, keep_costs).await {
                Ok(true) => next_page = Instant::now() + EAGER,
                Ok(false) => next_page = Instant::now() + LOOK_AT_COSTS,
                Err(EngineGone) => return,
            },
            () = tokio::time::sleep_until(next_sweep) => {
                sweep(&handle).await;
                next_sweep = Instant::now() + SWEEP_EVERY;
            }
        }
    }
}

async fn figures(handle: &Handle) -> Result<(), EngineGone> {
    let shared = handle.shared();
    let store = Arc::clone(&shared.store);
    // A read that is broken off means that the runtime is shutting down.
    match shared.readers.run(move || store.health()).await.map_err(|_| EngineGone)? {
        Ok(health) => {
            shared.metrics.set_store(&health);
            handle.set_disk_low(health.disk_is_low);
        }
        Err(error) => tracing::warn!(%error, "cannot look at the store's disk"),
    }
    // A new day starts at nothing, also when nothing is spent.
    shared.metrics.spent_today(0, shared.ticker.now().wall);
    let tenant = TenantId(crate::store::Tenant::DEFAULT.get());
    let asked = move |token| Event::Asked { token, tenant, query: Query::Status };
    if let Answer::Status(status) = handle.request(asked).await? {
        shared.metrics.set_status(&status);
    }
    let asked = move |token| Event::Asked { token, tenant, query: Query::Limits(None) };
    if let Answer::Limits(pools) = handle.request(asked).await? {
        shared.metrics.set_pools(&pools);
    }
    let asked = move |token| Event::Asked { token, tenant, query: Query::Budgets(false) };
    if let Answer::Budgets(budgets) = handle.request(asked).await? {
        shared.metrics.set_budgets(&budgets);
    }
    Ok(())
}

/// Deletes the oldest events if they are too old or too many. Whether there may be more.
async fn trim(handle: &Handle, keep: EventRetention) -> Result<bool, EngineGone> {
    let shared = handle.shared();
    match due(&shared.log, keep, shared.ticker.now().tick).await {
        Ok(Some(trim)) => handle.trim(trim).await.map(|()| true),
        Ok(None) => Ok(false),
        Err(error) => {
            tracing::warn!(%error, "cannot look for old events");
            Ok(false)
        }
    }
}

/// Deletes the oldest pages of the ledger if they are too old. Whether there may be more.
async fn forget(handle: &Handle, keep: Span) -> Result<bool, EngineGone> {
    let shared = handle.shared();
    match ledger::due(&shared.ledger, keep, shared.ticker.now().tick).await {
        Ok(keys) => {
            let more = keys.len() == MAX_DELETES;
            if !keys.is_empty() {
                handle.forget(keys).await?;
            }
            Ok(more)
        }
        Err(error) => {
            tracing::warn!(%error, "cannot look for old costs");
            Ok(false)
        }
    }
}

async fn sweep(handle: &Handle) {
    let shared = handle.shared();
    let (store, blobs) = (Arc::clone(&shared.store), Arc::clone(&shared.blobs));
    let wall = u64::try_from(shared.ticker.now().wall.0).unwrap_or(0);
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(wall);
    match references::sweep(store, blobs, &shared.readers, now).await {
        Ok(swept) => tracing::info!(files = swept.files, bytes = swept.bytes, "unreferenced blobs removed"),
        Err(error) => tracing::warn!(%error, "cannot remove unreferenced blobs"),
    }
}

#[cfg(test)]
mod tests;
