//! `admin`: what the coordinator keeps, and what can be done about it. Knows what to say of a store; the bytes of copies
//! pass through unread.

use orch_proto::v1::{BackupForm, Storage};

use super::{bulk, shown};
use crate::args::admin::{AdminArgs, AdminCommand};
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{bytes, count};
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::view::storage::StorageView;
use crate::output::words::{BOLD, WARN};
use crate::session::Session;

mod compact;
mod copy;
mod give_back;
mod part;
mod progress;

#[cfg(test)]
pub(super) use copy::usual_name;

/// Longest text told.
const TOLD: usize = 300;
/// A store this many times as large as what it holds is worth compacting,
const BLOATED: u64 = 3;
/// if it is larger than this.
const WORTH_IT: u64 = 256 << 20;
/// Percent of a disk below which attention is due; below 5 the coordinator refuses submits.
const SCARCE: u64 = 10;

/// `orchctl admin`.
pub(crate) async fn run(session: &Session, args: AdminArgs) -> Outcome {
    let done = match args.command.unwrap_or(AdminCommand::Status) {
        AdminCommand::Status => status(session).await,
        AdminCommand::Backup(args) => Box::pin(copy::run(session, &args, BackupForm::Archive)).await,
        AdminCommand::Export(args) => Box::pin(copy::run(session, &args, BackupForm::Records)).await,
        AdminCommand::Restore(args) => Box::pin(give_back::run(session, &args, BackupForm::Archive)).await,
        AdminCommand::Import(args) => Box::pin(give_back::run(session, &args, BackupForm::Records)).await,
        AdminCommand::Compact => compact::run(session).await,
    };
    done.map_err(bulk::needs_admin)
}

async fn status(session: &Session) -> Outcome {
    let out = &session.out;
    let storage = session.client()?.storage().await?;
    let found = warnings(&storage);
    let view = StorageView::new(&storage, found.clone());
    shown::one(out, &view, &storage.cluster_id, || out.data(&text(out, &storage, &found)))?;
    Ok(exit::DONE)
}

/// The screen.
fn text(out: &Out, storage: &Storage, warnings: &[String]) -> String {
    let mut rows = Rows::new(out.stdout(), 11);
    rows.line(&out.paint(BOLD, &format!("cluster {}", one_line(&storage.cluster_id, 64))));
    rows.row("epoch", &storage.epoch.to_string());
    rows.row("records", &format!("{} in {}", count(storage.records), bytes(storage.live_bytes)));
    rows.row("store", &format!("{} on disk, schema {}", bytes(storage.store_bytes), storage.schema));
    rows.row("files", &format!("{} of answers, prompts and artifacts", bytes(storage.blob_bytes)));
    rows.row("transcripts", &bytes(storage.transcript_bytes));
    if storage.disk_bytes > 0 {
        let free = format!("{} free of {}", bytes(storage.disk_free_bytes), bytes(storage.disk_bytes));
        rows.row("disk", &free);
    }
    rows.row("commits", &format!("{} since the start", count(storage.commits)));
    for (index, aside) in storage.aside.iter().enumerate() {
        rows.row(if index == 0 { "aside" } else { "" }, &one_line(aside, TOLD));
    }
    for warning in warnings {
        rows.line(&out.paint(WARN, &format!("! {}", one_line(warning, TOLD))));
    }
    rows.finish()
}

/// What wants attention.
pub(super) fn warnings(storage: &Storage) -> Vec<String> {
    let mut found = Vec::new();
    if storage.disk_bytes > 0 && storage.disk_free_bytes < storage.disk_bytes / 100 * SCARCE {
        let percent = storage.disk_free_bytes.saturating_mul(100) / storage.disk_bytes;
        found.push(format!(
            "{percent} % of the disk is free; below 5 % the coordinator takes no submits: make room, or shorten the retention"
        ));
    }
    found.extend(storage.mended.iter().map(|mended| format!("at the last start: {mended}")));
    if storage.compacts_at_start {
        found.push("the next start compacts the store; orchctl admin compact does it now".to_owned());
    } else if storage.store_bytes > WORTH_IT
        && storage.store_bytes > storage.live_bytes.saturating_mul(BLOATED)
    {
        let times = storage.store_bytes / storage.live_bytes.max(1);
        found.push(format!("the store is {times} times as large as what it holds: orchctl admin compact"));
    }
    if !storage.aside.is_empty() {
        let what = match storage.aside.len() {
            1 => "a directory was".to_owned(),
            several => format!("{several} directories were"),
        };
        found.push(format!("{what} moved aside: remove what is no longer needed, it takes room"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn healthy() -> Storage {
        Storage {
            records: 10,
            live_bytes: 1 << 20,
            store_bytes: 2 << 20,
            disk_bytes: 100 << 30,
            disk_free_bytes: 50 << 30,
            ..Storage::default()
        }
    }

    #[test]
    fn a_healthy_store_warns_of_nothing() {
        assert_eq!(warnings(&healthy()), [""; 0]);
        // A small store may be many times as large as what it holds.
        assert_eq!(warnings(&Storage { live_bytes: 1, ..healthy() }), [""; 0]);
        // A coordinator that does not know its disk says 0.
        assert_eq!(warnings(&Storage { disk_bytes: 0, disk_free_bytes: 0, ..healthy() }), [""; 0]);
    }

    #[test]
    fn each_trouble_is_named_with_what_to_do() {
        let scarce = Storage { disk_free_bytes: 6 << 30, ..healthy() };
        assert!(warnings(&scarce)[0].starts_with("6 % of the disk is free"), "{:?}", warnings(&scarce));
        let bloated = Storage { store_bytes: 1 << 30, ..healthy() };
        assert!(warnings(&bloated)[0].contains("1024 times as large"), "{:?}", warnings(&bloated));
        let due = Storage { compacts_at_start: true, ..bloated };
        assert_eq!(warnings(&due).len(), 1);
        let aside = Storage { aside: vec!["aside/restore-1".into(), "aside/compact-2".into()], ..healthy() };
        assert!(warnings(&aside)[0].starts_with("2 directories"), "{:?}", warnings(&aside));
        let mended = Storage { mended: vec!["a torn snapshot was moved aside".into()], ..healthy() };
        assert_eq!(warnings(&mended), ["at the last start: a torn snapshot was moved aside"]);
    }
}
