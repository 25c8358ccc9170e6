//! `admin backup` and `admin export`: everything the coordinator keeps, or its records alone, into a file or to stdout.

use std::io::Write;
use std::path::{Path, PathBuf};

use orch_proto::v1::{BackupForm, Storage};

use super::TOLD;
use super::part::Part;
use super::progress::Meter;
use crate::args::admin::CopyArgs;
use crate::client::Client;
use crate::client::storage::Copied;
use crate::commands::shown;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{bytes, plural};
use crate::output::safe::one_line;
use crate::output::times::Times;
use crate::output::view::storage::CopyView;
use crate::session::Session;

/// Digits of a cluster's id in a file name.
const CLUSTER: usize = 8;

/// `orchctl admin backup` and `orchctl admin export`.
pub(super) async fn run(session: &Session, args: &CopyArgs, form: BackupForm) -> Outcome {
    let client = session.client()?;
    session.when_left("the copy was not finished; nothing is kept of it");
    if args.file.as_deref().is_some_and(|file| file.as_os_str() == "-") {
        return to_stdout(session, &client, form).await;
    }
    let storage = client.storage().await?;
    let file = match &args.file {
        Some(file) => file.clone(),
        None => usual_name(form, &storage, &session.out.times),
    };
    let mut part = Part::begin(&file, args.force)?;
    let meter = Meter::new(&session.out, "copied", None);
    let copied = client.backup(form, part.sink(), &mut |moved| meter.moved(moved)).await;
    let copied = copied.map_err(|failure| no_room(failure, &file))?;
    part.finish()?;
    drop(meter);
    session.when_left("");
    tell(session, form, &file, &storage, &copied)
}

async fn to_stdout(session: &Session, client: &Client, form: BackupForm) -> Outcome {
    let out = &session.out;
    if out.stdout().is_terminal() && form == BackupForm::Archive {
        return Err(Failure::usage("a backup is no text, and stdout is a terminal")
            .help("name a file, or send it on: orchctl admin backup - > FILE"));
    }
    let storage = client.storage().await?;
    let copied = client.backup(form, &mut Stdout(out), &mut |_| {}).await?;
    session.when_left("");
    out.note(&summary(form, &storage, &copied));
    Ok(exit::DONE)
}

/// `orch-backup-9f3c2a71-20261120T213000Z.orch`, in the working directory.
pub(in crate::commands) fn usual_name(form: BackupForm, storage: &Storage, times: &Times) -> PathBuf {
    let cluster: String =
        storage.cluster_id.chars().filter(char::is_ascii_alphanumeric).take(CLUSTER).collect();
    let at = times.now().strftime("%Y%m%dT%H%M%SZ");
    let (what, kind) = match form {
        BackupForm::Records => ("export", "jsonl"),
        BackupForm::Archive | BackupForm::Unspecified => ("backup", "orch"),
    };
    PathBuf::from(format!("orch-{what}-{cluster}-{at}.{kind}"))
}

fn tell(session: &Session, form: BackupForm, file: &Path, storage: &Storage, copied: &Copied) -> Outcome {
    let out = &session.out;
    let name = one_line(&file.display().to_string(), TOLD);
    let view = CopyView {
        form: word(form),
        file: Some(file.display().to_string()),
        bytes: copied.bytes,
        records: records(form, storage, copied),
        epoch: storage.epoch,
        cluster_id: storage.cluster_id.clone(),
        sha256: hex(&copied.digest),
    };
    shown::one(out, &view, &name, || {
        // The name alone on stdout, so that a script has it.
        out.line(&name)?;
        out.hint(&format!("  {}", summary(form, storage, copied)));
        match form {
            BackupForm::Records => {
                out.hint("  files, transcripts and long texts are not in it: orchctl admin backup has them");
            }
            BackupForm::Archive | BackupForm::Unspecified => {
                out.hint(&format!("  check it, any time: orchctl admin restore {name} --check"));
            }
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}

fn summary(form: BackupForm, storage: &Storage, copied: &Copied) -> String {
    let records = plural(records(form, storage, copied), "record");
    format!("{}, {records}, epoch {}, sha256 {}", bytes(copied.bytes), storage.epoch, hex(&copied.digest))
}

/// Records in a copy: an export has a line for each, between its first and its last; of an archive, what the store held
/// as it began.
fn records(form: BackupForm, storage: &Storage, copied: &Copied) -> u64 {
    match form {
        BackupForm::Records => copied.lines.saturating_sub(2),
        BackupForm::Archive | BackupForm::Unspecified => storage.records,
    }
}

fn word(form: BackupForm) -> &'static str {
    match form {
        BackupForm::Records => "records",
        BackupForm::Archive | BackupForm::Unspecified => "archive",
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names the disk that is full: it is this host's, not the coordinator's.
fn no_room(failure: Failure, file: &Path) -> Failure {
    if failure.causes().iter().any(|cause| cause.contains("No space left") || cause.contains("quota")) {
        return failure.help(format!("there is no room left where {} is to be", file.display()));
    }
    failure
}

/// Bytes on their way to stdout.
struct Stdout<'a>(&'a Out);

impl Write for Stdout<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // A reader that has gone has got no copy: that must not look like success.
        self.0.bytes(bytes).map_err(|failure| {
            let why = if failure.is_silent() { "whoever read it has gone" } else { failure.message() };
            std::io::Error::other(why.to_owned())
        })?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
