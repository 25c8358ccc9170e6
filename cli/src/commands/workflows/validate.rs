//! `workflows validate`: every mistake of a workflow with its place. The coordinator checks; without one only the
//! published schema is held against the file, and that is said.

use orch_proto::v1::PromptProblem;
use serde_json::Map;

use super::mistakes;
use super::source::Source;
use crate::args::Format;
use crate::args::workflows::ValidateWorkflowArgs;
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::output::view::operate::ProblemView;
use crate::output::view::workflow::CheckedWorkflowView;
use crate::runfile::workflow::against_schema;
use crate::session::Session;

/// Longest name told.
const TOLD: usize = 500;

/// Who checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    Coordinator,
    Schema,
}

pub(super) async fn run(session: &Session, args: &ValidateWorkflowArgs) -> Outcome {
    let out = if args.what.len() > 1 { session.out.listing() } else { session.out.clone() };
    let mut bad = 0;
    for word in &args.what {
        let source = Source::guessed(word)?;
        let (by, problems) = check(session, &source).await?;
        bad += usize::from(!problems.is_empty());
        let view = CheckedWorkflowView {
            workflow: word.clone(),
            valid: problems.is_empty(),
            checked_by: if by == By::Coordinator { "coordinator" } else { "schema" },
            problems: problems.iter().map(ProblemView::from).collect(),
        };
        match out.format {
            Format::Json | Format::Jsonl => out.json(&view)?,
            Format::Name if problems.is_empty() => out.name(word)?,
            Format::Table if problems.is_empty() => {
                let what = if by == By::Coordinator { "sound" } else { "fits the schema" };
                out.line(&format!("{}: {what}", one_line(word, TOLD)))?;
            }
            Format::Table => {
                let texts = [(source.shown.as_str(), source.at_hand().unwrap_or_default())];
                out.data(&mistakes::text(&problems, &texts))?;
                out.line(&format!("{}: {}", one_line(word, TOLD), plural(problems.len() as u64, "mistake")))?;
            }
            Format::Name | Format::None => {}
        }
        if by == By::Schema {
            out.note(
                "no coordinator can be reached: only the JSON Schema was checked, not names of workers and",
            );
            out.note("tasks, templates, loops, conditions, reuse and the graph");
        }
    }
    out.end_list(true)?;
    Ok(if bad == 0 { exit::DONE } else { exit::FAILED })
}

async fn check(session: &Session, source: &Source) -> Outcome<(By, Vec<PromptProblem>)> {
    let checked = match session.client() {
        Ok(client) => by_coordinator(&client, source).await,
        Err(failure) => Err(failure),
    };
    match checked {
        Ok(problems) => Ok((By::Coordinator, problems)),
        Err(failure) => match source.at_hand() {
            Some(text) if is_away(&failure) => Ok((By::Schema, against_schema(&source.shown, text))),
            Some(_) | None => Err(failure),
        },
    }
}

/// Nobody is there to ask: no coordinator answers, or none is named.
fn is_away(failure: &Failure) -> bool {
    use orch_proto::codes::ErrorCode;
    failure.exit_code() == exit::UNREACHABLE
        || failure.exit_code() == exit::USAGE
        || failure.code() == Some(ErrorCode::NoCertificate.code())
}

async fn by_coordinator(client: &Client, source: &Source) -> Outcome<Vec<PromptProblem>> {
    match client.compile(&source.call(&Map::new()), true).await? {
        Some(answer) => Ok(answer.problems),
        None => Err(Failure::usage(format!("{} is too large to be checked in one message", source.shown))
            .help("orchctl workflows run --dry-run checks it whole")),
    }
}
