//! `admin compact`: the coordinator starts anew on a store without what deletions left in it.

use std::time::Duration;

use orch_proto::v1::Storage;

use crate::commands::shown;
use crate::exit;
use crate::failure::Outcome;
use crate::output::figures::{bytes, count};
use crate::output::view::storage::{CompactedView, StorageView};
use crate::session::Session;

/// Longest wait for it: every record is read and written once.
pub(super) const LIMIT: Duration = Duration::from_secs(900);

/// `orchctl admin compact`.
pub(super) async fn run(session: &Session) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let found = client.storage().await?;
    let before = client.compact().await?.unwrap_or_else(|| found.clone());
    session.when_left(
        "the coordinator compacts its store all the same; orchctl admin status shows it when it is back",
    );
    out.note("  the coordinator starts anew; agents come back by themselves");
    let status = client.started_anew(found.epoch, LIMIT).await?;
    session.when_left("");
    let after = client.storage().await?;
    let view = CompactedView {
        before: StorageView::new(&before, super::warnings(&before)),
        after: StorageView::new(&after, super::warnings(&after)),
    };
    shown::one(out, &view, &after.cluster_id, || {
        out.line(&format!("compacted: {} → {}; epoch {}", said(&before), said(&after), status.epoch))?;
        if let Some(aside) = after.aside.iter().find(|aside| !before.aside.contains(aside)) {
            out.hint(&format!("  the former store is kept in {aside}, below the data directory"));
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}

fn said(storage: &Storage) -> String {
    format!("{} for {} records", bytes(storage.store_bytes), count(storage.records))
}
