//! `artifacts`: the files that tasks handed over, listed and fetched. Knows which files are meant; how they are written
//! safely stands in [`beneath`].

use std::path::Path;

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{BlobRef, TaskArtifact};

use super::shown;
use crate::args::artifacts::{ArtifactsArgs, ArtifactsCommand, GetArgs, ListArgs};
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{bytes, plural};
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::result::ArtifactView;
use crate::refs::Reference;
use crate::session::Session;
use crate::suggest::did_you_mean;

mod beneath;

use beneath::Beneath;

/// Longest path told.
const TOLD: usize = 500;
/// Digits of a digest shown.
const DIGEST: usize = 12;

/// `orchctl artifacts`.
pub(crate) async fn run(session: &Session, args: ArtifactsArgs) -> Outcome {
    match args.command {
        ArtifactsCommand::List(args) => list(session, args).await,
        ArtifactsCommand::Get(args) => get(session, args).await,
    }
}

async fn list(session: &Session, args: ListArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let reference = client.resolve(&args.reference).await?;
    let files = client.artifacts(&reference.to_string()).await?;
    let views: Vec<_> = files.iter().map(|file| ArtifactView::new(&reference.run, file)).collect();
    let names: Vec<_> = views.iter().map(|view| format!("{}:{}", view.reference, view.path)).collect();
    shown::list(out, &views, names.iter().map(String::as_str), || {
        out.data(&table(&views).render(out.stdout()))?;
        if views.is_empty() {
            out.hint(&format!("{reference} handed over no file"));
        } else {
            out.hint(&format!("fetch them: orchctl artifacts get {reference} --all -d DIR"));
        }
        Ok(())
    })?;
    Ok(exit::DONE)
}

fn table(views: &[ArtifactView]) -> Table {
    let columns = [
        Column::Whole("TASK"),
        Column::Whole("PATH"),
        Column::Figures("SIZE"),
        Column::Words("PUBLISHED"),
        Column::Wide("SHA-256"),
    ];
    let mut table = Table::new(columns);
    for view in views {
        table.row([
            Cell::from(&view.task_id),
            Cell::from(&view.path),
            Cell::from(bytes(view.bytes)),
            Cell::from(view.published.as_deref().unwrap_or_default()),
            Cell::dim(&view.sha256[..DIGEST.min(view.sha256.len())]),
        ]);
    }
    table
}

async fn get(session: &Session, args: GetArgs) -> Outcome {
    let client = session.client()?;
    let (reference, path) = match args.reference.split_once(':') {
        Some((reference, path)) => (reference, Some(path)),
        None => (args.reference.as_str(), None),
    };
    let reference = client.resolve(reference).await?;
    let files = client.artifacts(&reference.to_string()).await?;
    let chosen = choose(&reference, files, path, args.all)?;
    if args.dir.as_os_str() == "-" {
        return to_stdout(&session.out, &client, &chosen).await;
    }
    write_all(session, &client, &reference, &chosen, &args).await
}

/// The files that are meant.
fn choose(
    reference: &Reference,
    files: Vec<TaskArtifact>,
    path: Option<&str>,
    all: bool,
) -> Outcome<Vec<TaskArtifact>> {
    let path_of = |file: &TaskArtifact| file.artifact.clone().unwrap_or_default().path;
    if files.is_empty() {
        return Err(Failure::coded(ErrorCode::NotFound, format!("{reference} handed over no file"))
            .help(format!("orchctl status {reference} shows what became of it")));
    }
    let Some(path) = path else {
        if all || files.len() == 1 {
            return Ok(files);
        }
        return Err(Failure::usage(format!(
            "{reference} handed over {}",
            plural(files.len() as u64, "file")
        ))
        .help("--all fetches all of them")
        .and_help(format!("orchctl artifacts list {reference} shows them; REF:PATH fetches one")));
    };
    if all {
        return Err(Failure::usage("--all and a path exclude each other"));
    }
    let known: Vec<String> = files.iter().map(path_of).collect();
    let found: Vec<_> = files.into_iter().filter(|file| path_of(file) == path).collect();
    match found.as_slice() {
        [_] => Ok(found),
        [] => {
            let failure = Failure::coded(ErrorCode::NotFound, format!("{reference} handed over no {path:?}"));
            let near = did_you_mean(path, known.iter().map(String::as_str));
            let failure = if near.is_empty() { failure } else { failure.help(near) };
            Err(failure.and_help(format!("orchctl artifacts list {reference} shows what there is")))
        }
        [..] => {
            let tasks: Vec<_> =
                found.iter().map(|file| format!("{}/{}:{path}", reference.run, file.task_id)).collect();
            Err(Failure::usage(format!("several tasks handed over {path:?}")).help(tasks.join("\n       ")))
        }
    }
}

async fn to_stdout(out: &Out, client: &Client, chosen: &[TaskArtifact]) -> Outcome {
    let [one] = chosen else {
        return Err(Failure::usage("stdout takes one file").help("name it: REF:PATH, or name a directory"));
    };
    let (artifact, blob) = parts(one)?;
    if out.stdout().is_terminal() {
        // A terminal would obey what is in it.
        let mut bytes = Vec::new();
        client.download(&blob, &mut bytes).await?;
        out.data(&crate::output::safe::safe(&String::from_utf8_lossy(&bytes)))?;
        return Ok(exit::DONE);
    }
    let mut sink = StdoutSink(out);
    client.download(&blob, &mut sink).await.map_err(|failure| {
        failure.and_help(format!("what was written of {} is not to be trusted", one_line(&artifact, TOLD)))
    })?;
    Ok(exit::DONE)
}

/// The path and where the bytes are.
fn parts(file: &TaskArtifact) -> Outcome<(String, BlobRef)> {
    let artifact = file.artifact.clone().unwrap_or_default();
    match artifact.blob {
        Some(blob) => Ok((artifact.path, blob)),
        None => Err(crate::client::incomplete("ListArtifacts")),
    }
}

/// Bytes on their way to stdout.
struct StdoutSink<'a>(&'a Out);

impl std::io::Write for StdoutSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let failed = |failure: Failure| std::io::Error::other(failure.message().to_owned());
        self.0.bytes(bytes).map_err(failed)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn write_all(
    session: &Session,
    client: &Client,
    reference: &Reference,
    chosen: &[TaskArtifact],
    args: &GetArgs,
) -> Outcome {
    let out = if chosen.len() > 1 { session.out.listing() } else { session.out.clone() };
    let beneath = Beneath::open(&args.dir)?;
    // Of a run each task has a directory of its own: two may have handed over the same path.
    let whole_run = reference.task.is_none() && chosen.iter().any(|file| file.task_id != chosen[0].task_id);
    let mut codes = Vec::new();
    for file in chosen {
        let written = write_one(client, &beneath, file, whole_run, args.force).await;
        match written {
            Ok(path) => {
                tell(&out, reference, file, &args.dir.join(path))?;
                codes.push(exit::DONE);
            }
            Err(failure) if chosen.len() == 1 => return Err(failure),
            Err(failure) => {
                session.out.failure(&failure);
                codes.push(failure.exit_code());
            }
        }
    }
    out.end_list(codes.contains(&exit::DONE))?;
    Ok(if codes.iter().all(|code| *code == exit::DONE) { exit::DONE } else { exit::SOME_FAILED })
}

async fn write_one(
    client: &Client,
    beneath: &Beneath,
    file: &TaskArtifact,
    whole_run: bool,
    force: bool,
) -> Outcome<String> {
    let (path, blob) = parts(file)?;
    let path = if whole_run { format!("{}/{path}", file.task_id) } else { path };
    let executable = file.artifact.as_ref().is_some_and(|artifact| artifact.executable);
    let mut place = beneath.create(&path, executable, force)?;
    client.download(&blob, place.sink()).await?;
    place.finish()?;
    Ok(path)
}

fn tell(out: &Out, reference: &Reference, file: &TaskArtifact, path: &Path) -> Outcome<()> {
    let view =
        ArtifactView { file: Some(path.display().to_string()), ..ArtifactView::new(&reference.run, file) };
    let path = one_line(&path.display().to_string(), TOLD);
    shown::one(out, &view, &path, || out.line(&format!("{path}  {}", bytes(view.bytes))))
}
