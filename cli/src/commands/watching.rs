//! Lists that are shown again whenever something changes. The coordinator says when: its events are followed, and what
//! they say is left aside. On a terminal the list is drawn in place, at most five times a second; elsewhere a changed
//! one follows the last, and of JSON lines only those that are new.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::args::Format;
use crate::args::fleet::Watching;
use crate::client::events::{Frame, Watch};
use crate::exit;
use crate::failure::Outcome;
use crate::follow::Display;
use crate::live::redraw::Redraw;
use crate::output::Out;
use crate::session::Session;

/// Least time between two pictures.
const APART: Duration = Duration::from_millis(200);
/// Longest outage that a list that is asked for again and again bears.
const OUTAGE: Duration = Duration::from_secs(60);
/// On a terminal ages grow and hosts report figures without an event.
const AGEING: Duration = Duration::from_secs(5);

/// Shows a list once, or again and again.
pub(super) async fn show(
    session: &Session,
    watching: Watching,
    print: impl AsyncFn(&Out) -> Outcome,
) -> Outcome {
    if !watching.watch {
        return print(&session.out).await;
    }
    let client = session.client()?;
    // Whatever happens after this number makes another picture.
    let mut watch = client.watch_all(client.status().await?.event_seq + 1);
    let mut picture = Picture::new(&session.out)?;
    let mut due = Instant::now();
    loop {
        let (captured, text) = session.out.captured(picture.is_live());
        match print(&captured).await {
            Ok(_) => picture.show(&session.out, &text.text())?,
            // The watch bears longer outages, and says so when it is enough.
            Err(failure) if failure.exit_code() == exit::UNREACHABLE => {}
            Err(failure) => return Err(failure),
        }
        due = Instant::now().max(due) + APART;
        change(session, &mut watch, picture.is_live()).await?;
        // What comes until the next picture is part of it.
        while let Ok(more) = tokio::time::timeout_at(due, watch.next()).await {
            more?;
        }
    }
}

/// Shows a list once, or asks for it again and again: what it holds changes without an event.
pub(super) async fn every(
    session: &Session,
    watching: Watching,
    apart: Duration,
    print: impl AsyncFn(&Out) -> Outcome,
) -> Outcome {
    if !watching.watch {
        return print(&session.out).await;
    }
    let mut picture = Picture::new(&session.out)?;
    let mut outage = Instant::now();
    loop {
        let (captured, text) = session.out.captured(picture.is_live());
        match print(&captured).await {
            Ok(_) => {
                picture.show(&session.out, &text.text())?;
                outage = Instant::now();
            }
            Err(failure) if failure.exit_code() == exit::UNREACHABLE && outage.elapsed() < OUTAGE => {}
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(apart).await;
    }
}

/// Waits for something to happen.
async fn change(session: &Session, watch: &mut Watch, live: bool) -> Outcome<()> {
    let ageing = async { if live { tokio::time::sleep(AGEING).await } else { std::future::pending().await } };
    tokio::pin!(ageing);
    loop {
        tokio::select! {
            frame = watch.next() => match frame? {
                Some(Frame::Lost(cause)) if !live => {
                    session.out.note(&format!("lost the coordinator ({cause}); trying again"));
                }
                Some(Frame::Lost(_)) => {}
                Some(Frame::Update(_) | Frame::Expired(_)) | None => return Ok(()),
            },
            () = &mut ageing => return Ok(()),
        }
    }
}

/// Where pictures go, and what the last one was.
enum Picture {
    /// Drawn in place.
    Live(Redraw),
    /// One after the other.
    Whole(Option<String>),
    /// Lines that were not in the last one.
    Lines(HashSet<String>),
}

impl Picture {
    fn new(out: &Out) -> Outcome<Self> {
        Ok(match out.format {
            Format::Jsonl => Self::Lines(HashSet::new()),
            Format::Table if Display::is_drawn(out, out.stdout()) => Self::Live(Redraw::new(out.stdout())?),
            Format::Table | Format::Json | Format::Name | Format::None => Self::Whole(None),
        })
    }

    fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }

    fn show(&mut self, out: &Out, text: &str) -> Outcome<()> {
        match self {
            Self::Live(redraw) => redraw.draw_text(text),
            Self::Whole(last) if last.as_deref() == Some(text) => Ok(()),
            Self::Whole(last) => {
                let between = match out.format {
                    Format::Json if out.encoder().is_yaml() => "---\n",
                    Format::Table | Format::Json if last.is_some() => "\n",
                    Format::Table | Format::Json | Format::Jsonl | Format::Name | Format::None => "",
                };
                out.data(&format!("{between}{text}"))?;
                *last = Some(text.to_owned());
                Ok(())
            }
            Self::Lines(last) => {
                let new: String =
                    text.lines().filter(|line| !last.contains(*line)).flat_map(|line| [line, "\n"]).collect();
                *last = text.lines().map(str::to_owned).collect();
                if new.is_empty() { Ok(()) } else { out.data(&new) }
            }
        }
    }
}
