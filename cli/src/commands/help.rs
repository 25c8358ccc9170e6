//! `help`: the overview, a command, a code of an error, an outcome, or their tables. Everything comes from the tables
//! that the programs themselves go by. Reads no file and dials nobody.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use clap::CommandFactory;
use orch_proto::codes::ErrorCode;
use orch_proto::outcome::{OUTCOMES, OutcomeRow};
use schemars::JsonSchema;
use serde::Serialize;

use super::shown;
use crate::args::Cli;
use crate::args::local::HelpArgs;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::table::{Cell, Column, Table};
use crate::output::words::BOLD;
use crate::session::Session;
use crate::suggest::did_you_mean;

mod why;

/// Variable that names the pager and its flags; empty or `cat`: none.
const PAGER: &str = "ORCHCTL_PAGER";
/// Pager where none is named: it ends at once when everything fits the screen.
const USUAL_PAGER: &str = "less -FRX";

/// A code of an error, explained.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorCodeView {
    code: &'static str,
    reason: &'static str,
    title: &'static str,
    why: &'static str,
    help: &'static str,
    exit_code: u8,
    /// Status code of the call, as gRPC names it.
    status: String,
}

impl From<ErrorCode> for ErrorCodeView {
    fn from(code: ErrorCode) -> Self {
        Self {
            code: code.code(),
            reason: code.reason(),
            title: code.title(),
            why: why::why(code),
            help: code.help(),
            exit_code: code.exit_code(),
            status: format!("{:?}", code.status()),
        }
    }
}

/// An outcome, explained.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct OutcomeRowView {
    outcome: &'static str,
    sentence: &'static str,
    remedy: &'static str,
    exit_code: u8,
    /// Another attempt is made while retries are left.
    retryable: bool,
    /// Counts towards giving a task up that takes its agents down.
    counts_as_crash: bool,
    /// The credential of the attempt pauses.
    pauses_pool: bool,
}

impl From<&OutcomeRow> for OutcomeRowView {
    fn from(row: &OutcomeRow) -> Self {
        Self {
            outcome: row.word,
            sentence: row.sentence,
            remedy: row.remedy,
            exit_code: row.exit_code,
            retryable: row.retryable,
            counts_as_crash: row.counts_as_crash,
            pauses_pool: row.pauses_pool,
        }
    }
}

/// `orchctl help`.
pub(crate) fn run(session: &Session, args: &HelpArgs) -> Outcome {
    let out = &session.out;
    match args.topic.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["outcomes"] => outcomes(out)?,
        ["errors"] => errors(out)?,
        [topic] if code(topic).is_some() => error(out, code(topic))?,
        [topic] if outcome(topic).is_some() => one_outcome(out, outcome(topic))?,
        path => command(out, path)?,
    }
    Ok(exit::DONE)
}

/// Everything that `help` explains, commands aside.
pub(super) fn topics() -> Vec<String> {
    let commands =
        Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect::<Vec<_>>();
    let codes = ErrorCode::ALL.iter().map(|code| code.code().to_owned());
    let words = OUTCOMES.iter().map(|row| row.word.to_owned());
    let tables = ["outcomes", "errors"].map(str::to_owned);
    commands.into_iter().chain(tables).chain(words).chain(codes).collect()
}

/// `E0405`, in either case.
fn code(topic: &str) -> Option<ErrorCode> {
    ErrorCode::from_code(&topic.to_uppercase())
}

fn outcome(topic: &str) -> Option<&'static OutcomeRow> {
    let word = topic.replace('-', "_").to_lowercase();
    OUTCOMES.iter().find(|row| row.word == word)
}

/// The help of a command, as `--help` prints it.
fn command(out: &Out, path: &[&str]) -> Outcome<()> {
    let mut command = Cli::command();
    // Flags that count everywhere, and the names in front, come about here.
    command.build();
    for (depth, name) in path.iter().enumerate() {
        let Some(inner) = command.find_subcommand(name) else {
            return Err(unknown(&command, name, depth));
        };
        command = inner.clone();
    }
    let help = command.render_help();
    let text = if out.stdout().has_color() { help.ansi().to_string() } else { help.to_string() };
    page(out, &text)
}

fn unknown(command: &clap::Command, name: &str, depth: usize) -> Failure {
    let inside = command.get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let known: Vec<String> = if depth == 0 { topics() } else { inside };
    let failure = Failure::usage(format!("there is no help on {name:?}"));
    let near = did_you_mean(name, known.iter().map(String::as_str));
    let failure = if near.is_empty() { failure } else { failure.help(near) };
    failure
        .and_help("orchctl help lists the commands, orchctl help errors and orchctl help outcomes the rest")
}

fn error(out: &Out, code: Option<ErrorCode>) -> Outcome<()> {
    let Some(code) = code else { return Ok(()) };
    shown::one(out, &ErrorCodeView::from(code), code.code(), || {
        let mut text = format!("{}  {}\n", out.paint(BOLD, code.code()), code.title());
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "\nwhy:   {}", why::why(code));
        let _ = writeln!(text, "help:  {}", code.help());
        let _ = writeln!(text, "exit:  {}, reason {} in JSON", code.exit_code(), code.reason());
        page(out, &text)
    })
}

fn errors(out: &Out) -> Outcome<()> {
    let views: Vec<_> = ErrorCode::ALL.iter().copied().map(ErrorCodeView::from).collect();
    shown::list(out, &views, views.iter().map(|view| view.code), || {
        let columns = [
            Column::Whole("CODE"),
            Column::Figures("EXIT"),
            Column::Words("WHAT"),
            Column::Extra("HELP"),
            Column::Wide("REASON"),
        ];
        let mut table = Table::new(columns);
        for view in &views {
            table.row([
                Cell::from(view.code),
                Cell::from(view.exit_code.to_string()),
                Cell::from(view.title),
                Cell::dim(view.help),
                Cell::dim(view.reason),
            ]);
        }
        page(out, &table.render(out.stdout()))
    })
}

fn one_outcome(out: &Out, row: Option<&OutcomeRow>) -> Outcome<()> {
    let Some(row) = row else { return Ok(()) };
    shown::one(out, &OutcomeRowView::from(row), row.word, || {
        let mut text = format!("{}  {}\n\n", out.paint(BOLD, row.word), row.sentence);
        let _ = writeln!(text, "help:  {}", row.remedy);
        let _ = writeln!(text, "exit:  {} from orchctl run and --wait", row.exit_code);
        let again = if row.retryable {
            "another attempt is made while retries are left"
        } else {
            "no other attempt is made"
        };
        let _ = writeln!(text, "then:  {again}");
        if row.counts_as_crash {
            let _ = writeln!(text, "       it counts towards giving a task up that takes its agents down");
        }
        if row.pauses_pool {
            let _ = writeln!(text, "       the credential of the attempt pauses");
        }
        page(out, &text)
    })
}

fn outcomes(out: &Out) -> Outcome<()> {
    let views: Vec<_> = OUTCOMES.iter().map(OutcomeRowView::from).collect();
    shown::list(out, &views, views.iter().map(|view| view.outcome), || {
        let columns = [
            Column::Whole("OUTCOME"),
            Column::Figures("EXIT"),
            Column::Words("AGAIN"),
            Column::Words("WHAT"),
            Column::Extra("REMEDY"),
        ];
        let mut table = Table::new(columns);
        for view in &views {
            table.row([
                Cell::from(view.outcome),
                Cell::from(view.exit_code.to_string()),
                Cell::from(if view.retryable { "yes" } else { "no" }),
                Cell::from(view.sentence),
                Cell::dim(view.remedy),
            ]);
        }
        page(out, &table.render(out.stdout()))
    })
}

/// Through a pager on a terminal, else as it is.
fn page(out: &Out, text: &str) -> Outcome<()> {
    let pager = std::env::var(PAGER).unwrap_or_else(|_| USUAL_PAGER.to_owned());
    let mut words = pager.split_whitespace();
    let Some(program) = words.next().filter(|program| out.pages() && *program != "cat") else {
        return out.data(text);
    };
    let child = Command::new(program).args(words).stdin(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return out.data(text) };
    if let Some(mut stdin) = child.stdin.take() {
        // A pager that was left before the end has shown what was wanted.
        let _ = stdin.write_all(text.as_bytes());
    }
    let _ = child.wait();
    Ok(())
}
