//! `workflows`: graphs of tasks with parameters: listed, shown, checked, drawn, run, and what became of their runs.
//!
//! | Module | Holds |
//! |---|---|
//! | [`source`] | where a workflow comes from, and what it is called with |
//! | [`mistakes`] | what is wrong with one, as text |
//! | [`validate`], [`graph`], [`history`], [`call`] | the commands |
//!
//! Refuses to know what a workflow means: that is the coordinator's.

use orch_proto::v1::{Workflow, WorkflowParameter};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{bulk, shown};
use crate::args::Format;
use crate::args::workflows::{ShowWorkflowArgs, WorkflowsArgs, WorkflowsCommand};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::rows::Rows;
use crate::output::safe::{one_line, safe};
use crate::output::table::{Cell, Column, Table};
use crate::output::view::workflow::{WorkflowView, hex};
use crate::output::words::BOLD;
use crate::session::Session;

pub(super) mod call;
mod graph;
mod history;
pub(super) mod mistakes;
pub(super) mod source;
mod validate;

/// Longest text told.
const TOLD: usize = 500;

/// `orchctl workflows`.
pub(crate) async fn run(session: &Session, args: WorkflowsArgs) -> Outcome {
    match args.command.unwrap_or(WorkflowsCommand::List) {
        WorkflowsCommand::List => list(session).await,
        WorkflowsCommand::Show(args) => show(session, &args).await,
        WorkflowsCommand::Validate(args) => validate::run(session, &args).await,
        WorkflowsCommand::Run(args) => call::run(session, *args).await,
        WorkflowsCommand::Graph(args) => graph::run(session, &args).await,
        WorkflowsCommand::History(args) => history::run(session, &args).await,
    }
}

async fn list(session: &Session) -> Outcome {
    let out = &session.out;
    let answer = session.client()?.workflows().await?;
    let workflows = &answer.workflows;
    let views: Vec<_> = workflows.iter().map(WorkflowView::from).collect();
    shown::list(out, &views, workflows.iter().map(|workflow| workflow.name.as_str()), || {
        if workflows.is_empty() {
            out.note("the coordinator has no workflows");
            return Ok(());
        }
        let mut table = Table::new([
            Column::Whole("NAME"),
            Column::Words("PARAMETERS"),
            Column::Words("FOR"),
            Column::Wide("SOURCE"),
            Column::Wide("DIGEST"),
        ]);
        for workflow in workflows {
            let names: Vec<_> = workflow.parameters.iter().map(called).collect();
            table.row([
                Cell::from(&workflow.name),
                Cell::from(names.join(" ")),
                Cell::dim(&workflow.description),
                Cell::dim(&workflow.source),
                Cell::dim(hex(&workflow.digest)),
            ]);
        }
        out.data(&table.render(out.stdout()))
    })?;
    for problem in &answer.problems {
        out.note(mistakes::bare(problem).trim_end());
    }
    if !answer.problems.is_empty() {
        let count = plural(answer.problems.len() as u64, "mistake");
        out.note(&format!("{count} in files whose workflows are not in force"));
    }
    Ok(exit::DONE)
}

/// A parameter in one word: in brackets what need not be given.
fn called(parameter: &WorkflowParameter) -> String {
    if parameter.default.is_empty() { parameter.name.clone() } else { format!("[{}]", parameter.name) }
}

async fn show(session: &Session, args: &ShowWorkflowArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let workflow = match client.workflow(&args.name).await {
        Ok(found) => found,
        Err(failure) => {
            return Err(bulk::explained(failure, &args.name, async || source::names(&client).await).await);
        }
    };
    if out.is_json() && !args.definition {
        print_definition(out, &workflow.definition)?;
        return Ok(exit::DONE);
    }
    match out.format {
        Format::Name => out.name(&workflow.name)?,
        Format::None => {}
        Format::Table | Format::Json | Format::Jsonl if args.definition => {
            // A terminal gets control characters shown; a file gets the bytes of its author.
            let text = &workflow.definition;
            let newline = if text.ends_with('\n') { "" } else { "\n" };
            let text = if out.stdout().is_terminal() { safe(text) } else { text.into() };
            out.data(&format!("{text}{newline}"))?;
        }
        Format::Table | Format::Json | Format::Jsonl => {
            out.data(&screen(out, &workflow))?;
            out.hint(&format!("run it: {}", example(&workflow)));
        }
    }
    Ok(exit::DONE)
}

/// A definition as its author wrote it; on one line where that is asked for.
fn print_definition(out: &Out, text: &str) -> Outcome<()> {
    let bug = |error| Failure::new(exit::BUG, "a definition is no JSON").cause(error);
    if out.format == Format::Jsonl {
        return out.json(&serde_json::from_str::<Value>(text).map_err(bug)?);
    }
    out.json(&serde_json::from_str::<&RawValue>(text).map_err(bug)?)
}

/// A workflow in one screen.
fn screen(out: &Out, workflow: &Workflow) -> String {
    let told = |text: &str| one_line(text, TOLD);
    let mut screen = Rows::new(out.stdout(), 10);
    screen.line(&format!("{}  {}", out.paint(BOLD, &told(&workflow.name)), told(&workflow.description)));
    screen.row("source", &told(&workflow.source));
    for parameter in &workflow.parameters {
        let mut text = format!("{}: {}", parameter.name, parameter.r#type);
        if parameter.default.is_empty() {
            text.push_str(", must be given");
        } else {
            text.push_str(&format!(" = {}", parameter.default));
        }
        if !parameter.values.is_empty() {
            text.push_str(&format!(" of {}", parameter.values.join(", ")));
        }
        if !parameter.description.is_empty() {
            text.push_str(&format!(". {}", parameter.description));
        }
        screen.row("parameter", &told(&text));
    }
    let mut text = screen.finish();
    text.push('\n');
    text.push_str(&graph::table(&graph::of_definition(&workflow.definition)).render(out.stdout()));
    text
}

/// A line that runs a workflow, with what must be given.
fn example(workflow: &Workflow) -> String {
    let mut line = format!("orchctl workflows run {}", one_line(&workflow.name, TOLD));
    for parameter in workflow.parameters.iter().filter(|parameter| parameter.default.is_empty()) {
        let name = one_line(&parameter.name, TOLD);
        line.push_str(&match parameter.r#type.as_str() {
            "roster" => " --roster FILE".to_owned(),
            "list" => format!(" --set '{name}=[\"…\"]'"),
            _ => format!(" --set {name}=…"),
        });
    }
    line
}
