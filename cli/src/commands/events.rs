//! `events`: what happens everywhere, in the order in which it was recorded, from a sequence number on.

use crate::args::fleet::EventsArgs;
use crate::args::{Format, Progress};
use crate::exit;
use crate::failure::Outcome;
use crate::follow::{Display, Everything, follow_all};
use crate::session::Session;

/// Events told when nothing says from where.
const RECENT: u64 = 100;

/// `orchctl events`. Here the events are the data, so they go to stdout.
pub(crate) async fn run(session: &Session, args: EventsArgs) -> Outcome {
    let out = if args.follow { session.out.clone() } else { session.out.listing() };
    let client = session.client()?;
    let newest = client.status().await?.event_seq;
    let from = match (args.since, args.follow) {
        (Some(since), _) => since,
        (None, true) => newest + 1,
        (None, false) => newest.saturating_sub(RECENT - 1).max(1),
    };
    let display = match (out.format, out.progress) {
        (Format::Json | Format::Jsonl, _) | (_, Progress::Jsonl) => Display::values(&out),
        (Format::Table | Format::Name, _) => Display::plain(&out, out.stdout()),
        (Format::None, _) => Display::Hidden,
    };
    let last = if args.follow { None } else { Some(newest) };
    if let Some(since) = args.since.filter(|since| *since > newest && !args.follow) {
        out.note(&format!("nothing is recorded from {since} on; the newest event is {newest}"));
    }
    let waits = || match last {
        Some(_) => out.waits("the coordinator has not answered yet; waiting"),
        None => out.waits("nothing has happened yet; waiting, Ctrl-C leaves"),
    };
    let told = follow_all(&client, &display, Everything { from, last }, waits).await;
    if matches!(display, Display::Jsonl(..)) {
        out.end_list(told.is_ok())?;
    }
    told?;
    Ok(exit::DONE)
}
