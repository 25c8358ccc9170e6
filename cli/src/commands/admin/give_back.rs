//! `admin restore` and `admin import`: the coordinator starts anew on a copy. What is in the copy and what it replaces
//! is shown before anything is asked, and nothing happens before somebody agreed.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{BackupForm, ClusterStatus, RestoreHeader, RestoreResponse, Storage};

use serde_json::Value;

use super::TOLD;
use super::compact::LIMIT;
use super::progress::Meter;
use crate::args::admin::GiveBackArgs;
use crate::ask::agreed_meanwhile;
use crate::client::Client;
use crate::client::storage::GivenBack;
use crate::commands::shown;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{bytes, count, moment, plural};
use crate::output::rows::Rows;
use crate::output::safe::one_line;
use crate::output::view::storage::RestoredView;
use crate::session::Session;

/// Bytes in which the first line of a copy ends.
const FIRST_LINE: u64 = 4 << 10;

/// What the coordinator holds before a copy takes its place.
struct Held {
    storage: Storage,
    status: ClusterStatus,
}

/// `orchctl admin restore` and `orchctl admin import`.
pub(super) async fn run(session: &Session, args: &GiveBackArgs, form: BackupForm) -> Outcome {
    let out = &session.out;
    let file = Copy { name: one_line(&args.file.display().to_string(), TOLD), path: &args.file, form };
    let of = file.looked_at()?;
    let client = session.client()?;
    let header = RestoreHeader {
        form: form.into(),
        cluster_id: args.cluster.map(|id| id.to_vec()).unwrap_or_default(),
        validate_only: true,
    };
    session.when_left("nothing was changed");
    // What comes from stdin comes once: it cannot be looked into first.
    let found = if file.is_stdin() && !args.check {
        None
    } else {
        Some(file.checked(out, &client, header.clone()).await.map_err(|failure| of_another(failure, &of))?)
    };
    if let (true, Some(found)) = (args.check, &found) {
        return tell_checked(session, &file, found);
    }
    let held = Held { storage: client.storage().await?, status: client.status().await? };
    out.note(&shown_before(out, &file, found.as_ref(), &held));
    let what = format!("{} replaces what the coordinator keeps", file.name);
    if !agreed_meanwhile(out, "Replace it?", &what).await? {
        out.note("nothing was changed");
        return Ok(exit::CANCELLED);
    }
    let header = RestoreHeader { validate_only: false, ..header };
    let given = file.sent(out, &client, header).await?;
    session
        .when_left("the coordinator starts anew all the same; orchctl admin status shows it when it is back");
    if let GivenBack::Unanswered(failure) = &given {
        out.note(&format!("  the connection ended before the answer came ({}); looking", failure.message()));
    }
    out.note("  the coordinator starts anew");
    let status = client.started_anew(held.storage.epoch, LIMIT).await?;
    session.when_left("");
    let found = match given {
        GivenBack::Answered(found) => found,
        GivenBack::Unanswered(failure) => surely_restored(&client, &held, found, failure).await?,
    };
    tell_restored(session, &file, &found, &held, &status)
}

/// Names the flag that takes the copy of another cluster.
fn of_another(failure: Failure, cluster: &str) -> Failure {
    if failure.code() != Some(ErrorCode::OtherCluster.code()) || cluster.is_empty() {
        return failure;
    }
    failure.help(format!("if that is what you want: add --cluster {}", one_line(cluster, 64)))
}

/// A copy that somebody named.
struct Copy<'a> {
    path: &'a Path,
    /// As it is told.
    name: String,
    form: BackupForm,
}

impl Copy<'_> {
    fn is_stdin(&self) -> bool {
        self.path.as_os_str() == "-"
    }

    /// Refuses what is no file, and the other kind of copy, before anything is sent. The cluster that the copy says it is
    /// of; none where it comes from stdin.
    fn looked_at(&self) -> Outcome<String> {
        if self.is_stdin() {
            return Ok(String::new());
        }
        let mut start = Vec::new();
        let read = self.open()?.take(FIRST_LINE).read_to_end(&mut start);
        read.map_err(|error| self.unreadable(&error))?;
        if start.is_empty() {
            return Err(Failure::usage(format!("{} is empty", self.name))
                .help("take another copy: orchctl admin backup"));
        }
        let line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let first: Value = serde_json::from_slice(line).unwrap_or_default();
        match (first["format"].as_str(), self.form) {
            (Some("orch-store-export"), BackupForm::Archive | BackupForm::Unspecified) => {
                Err(Failure::usage(format!("{} is an export, not a backup", self.name))
                    .help(format!("orchctl admin import {}", self.name)))
            }
            (Some("orch-backup"), BackupForm::Records) => {
                Err(Failure::usage(format!("{} is a backup, not an export", self.name))
                    .help(format!("orchctl admin restore {}", self.name)))
            }
            (Some("orch-backup" | "orch-store-export"), _) => {
                Ok(first["cluster"].as_str().unwrap_or_default().to_owned())
            }
            (Some(_) | None, _) => {
                Err(Failure::usage(format!("{} is neither a backup nor an export of orch", self.name))
                    .help("orchctl admin backup and orchctl admin export make them"))
            }
        }
    }

    fn open(&self) -> Outcome<File> {
        File::open(self.path).map_err(|error| self.unreadable(&error))
    }

    fn unreadable(&self, error: &std::io::Error) -> Failure {
        Failure::usage(format!("cannot read {}", self.name)).cause(error)
    }

    fn size(&self) -> Option<u64> {
        if self.is_stdin() { None } else { std::fs::metadata(self.path).ok().map(|meta| meta.len()) }
    }

    /// What is in it, as the coordinator found.
    async fn checked(&self, out: &Out, client: &Client, header: RestoreHeader) -> Outcome<RestoreResponse> {
        match self.given(out, client, header, "checked").await? {
            GivenBack::Answered(found) => Ok(found),
            GivenBack::Unanswered(failure) => Err(failure),
        }
    }

    async fn sent(&self, out: &Out, client: &Client, header: RestoreHeader) -> Outcome<GivenBack> {
        self.given(out, client, header, "sent").await
    }

    async fn given(
        &self,
        out: &Out,
        client: &Client,
        header: RestoreHeader,
        what: &'static str,
    ) -> Outcome<GivenBack> {
        let meter = Arc::new(Meter::new(out, what, self.size()));
        let moved = {
            let meter = Arc::clone(&meter);
            move |bytes| meter.moved(bytes)
        };
        if self.is_stdin() {
            client.give_back(header, std::io::stdin(), moved).await
        } else {
            client.give_back(header, self.open()?, moved).await
        }
    }

    fn noun(&self) -> &'static str {
        match self.form {
            BackupForm::Records => "export",
            BackupForm::Archive | BackupForm::Unspecified => "backup",
        }
    }
}

/// What the copy is and what it replaces.
fn shown_before(out: &Out, file: &Copy<'_>, found: Option<&RestoreResponse>, held: &Held) -> String {
    let mut rows = Rows::new(out.stderr(), 9);
    match found {
        None => rows.line("the copy comes from stdin: it is checked as it comes"),
        Some(found) => {
            let size = file.size().map(|size| format!(", {}", bytes(size))).unwrap_or_default();
            rows.line(&format!("{}: a whole {}{size}", file.name, file.noun()));
            rows.row("made", &made(out, found));
            rows.row("holds", &holds(found));
        }
    }
    let Held { storage, status } = held;
    rows.line(&format!(
        "it replaces what the coordinator keeps, cluster {}",
        one_line(&storage.cluster_id, 64)
    ));
    rows.row("now", &format!("{} records, epoch {}", count(storage.records), storage.epoch));
    let working = [
        plural(status.active_runs, "active run"),
        format!("{} queued", status.queued),
        format!("{} running", status.running),
    ];
    rows.row("at work", &working.join(", "));
    rows.line("what was submitted since the copy was made is not in it; what is replaced is moved aside, not deleted");
    if status.running > 0 {
        rows.line(
            "work that the copy does not know is stopped by its agents; what it knows as running goes on",
        );
    }
    rows.finish().trim_end().to_owned()
}

fn made(out: &Out, found: &RestoreResponse) -> String {
    match moment(found.created) {
        None => "at an unknown time".to_owned(),
        Some(at) => {
            let shown = out.times.cell(Some(at));
            let ago = out.times.title(" ago", "");
            if ago.is_empty() {
                shown
            } else {
                format!("{} ({shown}{ago})", at.strftime("%Y-%m-%d %H:%M UTC"))
            }
        }
    }
}

fn holds(found: &RestoreResponse) -> String {
    let parts = [
        plural(found.records, "record"),
        plural(found.blobs, "file"),
        plural(found.transcripts, "transcript"),
        format!("epoch {}", found.epoch),
    ];
    parts.join(", ")
}

/// Whether the coordinator, which came back without having answered, came back on the copy: then it keeps what it held
/// in a new place.
async fn surely_restored(
    client: &Client,
    held: &Held,
    found: Option<RestoreResponse>,
    failure: Failure,
) -> Outcome<RestoreResponse> {
    let now = client.storage().await?;
    match now.aside.iter().find(|aside| !held.storage.aside.contains(aside)) {
        Some(aside) => Ok(RestoreResponse { aside: aside.clone(), ..found.unwrap_or_default() }),
        None => Err(failure.help("the coordinator is back as it was: nothing was replaced; try again")),
    }
}

fn tell_checked(session: &Session, file: &Copy<'_>, found: &RestoreResponse) -> Outcome {
    let out = &session.out;
    shown::one(out, &RestoredView::new(&file.name, found, None), &file.name, || {
        out.line(&format!("{}: a whole {}: {}", file.name, file.noun(), holds(found)))?;
        out.hint(&format!("  made {}; nothing was changed", made(out, found)));
        Ok(())
    })?;
    Ok(exit::DONE)
}

fn tell_restored(
    session: &Session,
    file: &Copy<'_>,
    found: &RestoreResponse,
    held: &Held,
    status: &ClusterStatus,
) -> Outcome {
    let out = &session.out;
    shown::one(out, &RestoredView::new(&file.name, found, Some(status.epoch)), &file.name, || {
        let records = plural(found.records, "record");
        out.line(&format!(
            "restored {records} from {}; epoch {} → {}",
            file.name, held.storage.epoch, status.epoch
        ))?;
        if !found.aside.is_empty() {
            let aside = one_line(&found.aside, TOLD);
            out.hint(&format!("  what the coordinator held is kept in {aside}, below its data directory"));
        }
        out.hint("  agents come back by themselves; what they run and the copy does not know, they stop");
        out.hint("  look: orchctl agents, orchctl ls --state running; what the copy lacks: submit it again");
        Ok(())
    })?;
    Ok(exit::DONE)
}
