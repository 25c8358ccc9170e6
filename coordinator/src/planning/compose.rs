//! What the planner and the synthesis are told.
//! Knows the prompts; refuses to know what comes back.
//!
//! What is the same for every request stands first, so that the API's prompt cache serves it after the system prompt:
//! rules, then workers. What differs between runs follows, and the request comes last.

use super::catalogue::Known;
use super::{Catalogue, limits, schemas};
use crate::submission::{DEFAULT_PLANNED_TASKS, SpecError, Workers};
use orch_core::plan::Limits;
use orch_proto::codes::ErrorCode;
use orch_proto::v1;

/// What is the same for every plan.
const PLAN_RULES: &str = include_str!("compose/plan.md");
/// What is the same for every synthesis.
const SYNTHESIS_RULES: &str = include_str!("compose/synthesis.md");

/// Bytes behind `<` in which an end mark is looked for.
const MARK_BYTES: usize = 32;

/// The two tasks of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedTasks {
    /// Turns the request into a plan.
    pub plan: Asked,
    /// Makes one answer of all results.
    pub synthesis: Asked,
}

/// What a worker is asked, and the form of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The prompt.
    pub prompt: String,
    /// JSON Schema.
    pub output_schema: String,
}

/// Writes the prompts of a request. `spec` is the run without the request; text, context and the names of workers are
/// checked already.
///
/// # Errors
/// There is no worker that a plan could name.
pub fn compose(
    request: &v1::PlannedRequest,
    spec: &v1::RunSpec,
    workers: &dyn Workers,
    catalogue: &Catalogue,
) -> Result<PlannedTasks, SpecError> {
    // A worker that a reload took away in between is not offered.
    let known: Vec<(&str, &Known)> =
        catalogue.for_plans(&request.workers).filter(|(name, _)| workers.worker(name).is_some()).collect();
    if known.is_empty() {
        let message = "there is no worker that a plan could name: docs/workers.md says how to add one";
        return Err(SpecError::new(ErrorCode::UnknownWorker, "request.workers", message));
    }
    let material = material(request);
    let plan = [PLAN_RULES, &listed(&known), &this_run(request, spec, catalogue), &material].concat();
    let synthesis = [SYNTHESIS_RULES, &material].concat();
    Ok(PlannedTasks {
        plan: Asked { prompt: plan, output_schema: schemas::PLAN.to_owned() },
        synthesis: Asked { prompt: synthesis, output_schema: schemas::SYNTHESIS.to_owned() },
    })
}

fn listed(known: &[(&str, &Known)]) -> String {
    let line = |(name, known): &(&str, &Known)| {
        let needs: Vec<&str> =
            known.needs.iter().map(String::as_str).filter(|word| !word.starts_with("pool=")).collect();
        let needs = if needs.is_empty() { String::new() } else { format!(" Needs {}.", needs.join(", ")) };
        format!("- `{name}`: {}{needs}\n", known.description)
    };
    format!("\n## Workers of this request\n\n{}", known.iter().map(line).collect::<String>())
}

fn this_run(request: &v1::PlannedRequest, spec: &v1::RunSpec, catalogue: &Catalogue) -> String {
    let max_tasks = if request.max_tasks == 0 { DEFAULT_PLANNED_TASKS } else { request.max_tasks };
    let Limits { max_tasks, max_depth, max_fan_out, max_cost_micro_usd } = limits(max_tasks);
    let mut text = format!(
        "\n## This run\n\n- At most {max_tasks} tasks, at most {max_depth} in a row, at most {max_fan_out} that depend \
         directly on one, expected to cost at most ${} together. These are ceilings, not aims.\n",
        max_cost_micro_usd / 1_000_000
    );
    text.push_str(&match spec.workspace.as_str() {
        "" => "- No workspace: a plan cannot publish anything.\n".to_owned(),
        name => format!(
            "- Workspace `{name}`: you and every task see it, read-only, as the directory `workspace/` in the working \
             directory. Look there before you plan. In descriptions name its files from there, such as \
             `workspace/notes.md`. Files of results get into it by `publish` alone; `to` counts from the workspace, such as \
             `notes/summary.md`.\n"
        ),
    });
    let offered = catalogue.capabilities();
    if !offered.is_empty() {
        text.push_str("\nWhat agents offer at the moment:\n\n");
        text.push_str(&offered);
    }
    text
}

/// Context and request, delimited. An end mark inside is written so that it ends nothing.
fn material(request: &v1::PlannedRequest) -> String {
    let context = match inside(&request.context) {
        context if context.is_empty() => String::new(),
        context => format!("\n<context>\n{context}\n</context>\n"),
    };
    format!("{context}\n<request>\n{}\n</request>\n", inside(&request.text))
}

/// The text with nothing in it that reads as an end mark: in small letters or large, and with blanks in it too, because who
/// reads it is no parser.
fn inside(text: &str) -> String {
    let ends = |rest: &str| {
        let name = rest.trim_start().trim_start_matches('/').trim_start();
        ["context", "request"]
            .iter()
            .any(|mark| name.get(..mark.len()).is_some_and(|head| head.eq_ignore_ascii_case(mark)))
    };
    let mut safe = String::with_capacity(text.len());
    let mut rest = text.trim();
    while let Some((before, after)) = rest.split_once('<') {
        safe.push_str(before);
        safe.push('<');
        // Blanks are looked through only as far as anybody writes them, so that no text takes long.
        let near = &after[..after.floor_char_boundary(MARK_BYTES)];
        if near.trim_start().starts_with('/') && ends(near) {
            safe.push('\\');
        }
        rest = after;
    }
    safe.push_str(rest);
    safe
}

#[cfg(test)]
mod tests;
