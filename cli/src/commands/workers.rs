//! `workers`: the personas a coordinator has, and files of them before they are installed.

use orch_proto::v1::{PromptProblem, Worker};

use super::{bulk, shown};
use crate::args::Format;
use crate::args::fleet::{ShowWorkerArgs, ValidateArgs, WorkersArgs, WorkersCommand};
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::safe::{one_line, safe};
use crate::output::table::{Cell, Column, Table};
use crate::output::view::fleet::WorkerView;
use crate::output::view::operate::{DefinedWorkerView, ReloadedView, ValidatedView};
use crate::session::Session;

mod files;
mod problems;
mod show;

/// Longest text told.
const TOLD: usize = 500;

/// `orchctl workers`.
pub(crate) async fn run(session: &Session, args: WorkersArgs) -> Outcome {
    match args.command.unwrap_or(WorkersCommand::List) {
        WorkersCommand::List => list(session).await,
        WorkersCommand::Show(args) => show(session, &args).await,
        WorkersCommand::Validate(args) => validate(session, &args).await,
        WorkersCommand::Reload => reload(session).await,
    }
}

async fn list(session: &Session) -> Outcome {
    let out = &session.out;
    let workers = session.client()?.workers().await?;
    let views: Vec<_> = workers.iter().map(WorkerView::from).collect();
    shown::list(out, &views, workers.iter().map(|worker| worker.name.as_str()), || {
        if workers.is_empty() {
            out.note("the coordinator has no workers");
            return Ok(());
        }
        out.data(&table(&workers).render(out.stdout()))
    })?;
    Ok(exit::DONE)
}

fn table(workers: &[Worker]) -> Table {
    let mut table = Table::new([
        Column::Whole("NAME"),
        Column::Whole("MODEL"),
        Column::Words("SUB-AGENTS"),
        Column::Words("REQUIRES"),
        Column::Extra("SOURCE"),
        Column::Extra("FOR"),
        Column::Wide("CONTEXT FILES"),
        Column::Wide("DIGEST"),
    ]);
    for worker in workers {
        let requires: Vec<_> = worker.requires.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row([
            Cell::from(&worker.name),
            Cell::from(&worker.model),
            Cell::from(worker.subagents.join(",")),
            Cell::from(requires.join(",")),
            Cell::dim(&worker.source),
            Cell::dim(&worker.description),
            Cell::dim(worker.context_files.join(",")),
            Cell::dim(&worker.digest),
        ]);
    }
    table
}

async fn show(session: &Session, args: &ShowWorkerArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let (worker, definition) = match client.worker(&args.name).await {
        Ok(found) => found,
        Err(failure) => {
            return Err(bulk::explained(failure, &args.name, async || names(&client).await).await);
        }
    };
    if args.prompt && out.format == Format::Table {
        // A terminal gets control characters shown; a file gets the bytes that the model is given.
        let prompt = &definition.system_prompt;
        let newline = if prompt.ends_with('\n') { "" } else { "\n" };
        let shown = if out.stdout().is_terminal() { safe(prompt) } else { prompt.into() };
        out.data(&format!("{shown}{newline}"))?;
        return Ok(exit::DONE);
    }
    shown::one(out, &DefinedWorkerView::new(&worker, &definition), &worker.name, || {
        out.data(&show::text(out, &worker, &definition))?;
        out.hint(&format!(
            "the whole prompt: orchctl workers show {} --prompt",
            one_line(&worker.name, TOLD)
        ));
        Ok(())
    })?;
    Ok(exit::DONE)
}

/// Names of all workers.
async fn names(client: &Client) -> Outcome<Vec<String>> {
    Ok(client.workers().await?.into_iter().map(|worker| worker.name).collect())
}

async fn validate(session: &Session, args: &ValidateArgs) -> Outcome {
    let out = &session.out;
    let files = files::read(&args.dir)?;
    let client = session.client()?;
    let answer = client.validate_workers(files.clone()).await.map_err(needs_coordinator)?;
    shown::one(out, &ValidatedView::from(&answer), &args.dir.display().to_string(), || {
        if answer.problems.is_empty() {
            out.data(&table(&answer.workers).render(out.stdout()))?;
            out.hint(&format!(
                "{} without a mistake; nothing was installed",
                plural(files.len() as u64, "file")
            ));
            return Ok(());
        }
        out.data(&problems::text(&args.dir, &files, &answer.problems))?;
        out.line(&format!("{}; nothing was installed", plural(answer.problems.len() as u64, "mistake")))
    })?;
    Ok(if answer.problems.is_empty() { exit::DONE } else { exit::FAILED })
}

/// The rules for prompts are the coordinator's.
fn needs_coordinator(failure: Failure) -> Failure {
    if failure.exit_code() != exit::UNREACHABLE {
        return failure;
    }
    failure
        .and_help("files are checked by a coordinator, against the workers it has; without one: orchctl dev")
}

async fn reload(session: &Session) -> Outcome {
    let out = &session.out;
    let answer = session.client()?.reload_workers().await.map_err(bulk::needs_admin)?;
    let names = || [&answer.changed, &answer.added, &answer.removed].into_iter().flatten();
    match out.format {
        Format::Name => names().try_for_each(|name| out.name(name))?,
        Format::Json | Format::Jsonl => out.json(&ReloadedView::from(&answer))?,
        Format::None => {}
        Format::Table if answer.problems.is_empty() => {
            let mut changes =
                vec![("changed", &answer.changed), ("new", &answer.added), ("gone", &answer.removed)];
            changes.retain(|(_, names)| !names.is_empty());
            if changes.is_empty() {
                out.line("nothing has changed")?;
            } else {
                out.hint("runs that were submitted before keep the workers they were submitted with");
            }
            for (word, names) in changes {
                out.line(&format!("{word}: {}", one_line(&names.join(", "), TOLD)))?;
            }
        }
        Format::Table => told(out, &answer.problems)?,
    }
    Ok(if answer.problems.is_empty() { exit::DONE } else { exit::FAILED })
}

fn told(out: &Out, mistakes: &[PromptProblem]) -> Outcome<()> {
    // The files lie with the coordinator: there is no line to show.
    for mistake in mistakes {
        out.data(&problems::bare(mistake))?;
    }
    out.line(&format!("{}; the workers stay as they are", plural(mistakes.len() as u64, "mistake")))
}
