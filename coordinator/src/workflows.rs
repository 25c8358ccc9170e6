//! Workflows: graphs of tasks with parameters, written as JSON, read in layers as workers are, and compiled into runs.
//!
//! Files are `workflows/*.json` of the directories that [`crate::prompts`] reads. A later layer replaces what an earlier one defines, by name. A file with a mistake is reported and its workflow is not in
//! force; all others are. `docs/workflows.md` describes the format, [`SCHEMA`] is it as JSON Schema.
//!
//! [`compile`] is pure: a call, the workflows in force and a day become ordinary tasks, or everything that is wrong, with
//! file, line and column. This module knows no queue, no store and no network; the rules of a run that do not need the
//! file's lines are [`crate::submission`]'s, which checks what comes out of here like any other run.
//!
//! | Module | Knows |
//! |---|---|
//! | `json` | JSON with the place of every value |
//! | `definition` | name, parameters, ids, dependencies, cycles |
//! | `parameters`, `values`, `slug` | what is given, rows of lists and rosters, names as parts of ids |
//! | `template`, `reader` | `{{name}}`, typed fields |
//! | `expand` | loops, reuse, limits of a run |
//! | `task`, `checks` | one task, its gates and publications |
//! | `in_force` | layers |

mod checks;
mod definition;
mod expand;
mod in_force;
mod json;
mod parameters;
mod problem;
mod reader;
mod slug;
mod task;
mod template;
mod values;

#[cfg(test)]
mod docs_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod shipped_tests;
#[cfg(test)]
mod tests;

pub use in_force::Workflows;

use definition::Definition;
use expand::{Expander, Outer};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use problem::{Problems, Source, shown};
use reader::Reader;
use std::sync::Arc;
use template::Scope;

/// The format of a workflow as JSON Schema.
pub const SCHEMA: &str = include_str!("../../prompts/schemas/workflow.json");

/// Longest parameters of a call, in bytes: a roster of 100,000 rows of 300 bytes each.
const MAX_PARAMETERS_BYTES: usize = 32 << 20;
/// Most tasks of a run at once, as a workflow may say it.
const MAX_PARALLEL: u32 = 100_000;

/// What a call came to.
#[derive(Debug, Default)]
pub struct Compiled {
    /// The workflow, without its definition; `None` when its definition is unusable.
    pub workflow: Option<v1::Workflow>,
    /// The run; `None` with problems, or with parameters missing where only the definition was to be checked.
    pub spec: Option<v1::RunSpec>,
    /// Everything that is wrong.
    pub problems: Vec<v1::PromptProblem>,
}

/// Makes the run of a call: ordinary tasks, the name of the workflow as its name.
///
/// # Errors
/// Everything that is wrong with the workflow, what it uses and what was given; never empty.
pub fn compile(call: &v1::WorkflowCall, in_force: &Workflows) -> Result<v1::RunSpec, Vec<v1::PromptProblem>> {
    let Compiled { spec, mut problems, .. } = examine(call, in_force, false);
    match spec {
        Some(spec) if problems.is_empty() => Ok(spec),
        Some(_) | None => {
            if problems.is_empty() {
                let mut found = Problems::default();
                found.add_whole(&call.name, ErrorCode::InvalidWorkflow, "the workflow came to nothing");
                problems = found.into_found();
            }
            Err(problems)
        }
    }
}

/// Makes the run of a call, or, with `definition_only`, looks for mistakes that show without parameters.
#[must_use]
pub fn examine(call: &v1::WorkflowCall, in_force: &Workflows, definition_only: bool) -> Compiled {
    let mut problems = Problems::default();
    let Some(definition) = called(call, in_force, &mut problems) else {
        return Compiled { problems: problems.into_found(), ..Compiled::default() };
    };
    let workflow = Some(definition.wire());
    if call.parameters.len() > MAX_PARAMETERS_BYTES {
        let message = format!("{} bytes; at most {MAX_PARAMETERS_BYTES}", call.parameters.len());
        problems.add_whole("parameters", ErrorCode::TooLarge, message);
        return Compiled { workflow, problems: problems.into_found(), spec: None };
    }
    let (spec, whole) = made(&definition, &call.parameters, definition_only, in_force, &mut problems);
    let problems = problems.into_found();
    Compiled { workflow, spec: Some(spec).filter(|_| whole && problems.is_empty()), problems }
}

/// The workflow that a call names or brings.
fn called(call: &v1::WorkflowCall, in_force: &Workflows, problems: &mut Problems) -> Option<Arc<Definition>> {
    if !call.definition.is_empty() {
        let file = if call.source.is_empty() { "workflow" } else { call.source.as_str() };
        let source = Source::new(file, call.definition.as_str());
        return Definition::read(source, problems).0.map(Arc::new);
    }
    let found = in_force.definition(&call.name);
    if found.is_none() {
        let message = match (call.name.is_empty(), in_force.is_broken(&call.name)) {
            (true, _) => "the call names no workflow and brings none".to_owned(),
            (false, true) => format!("the workflow `{}` is not in force: its file has mistakes", call.name),
            (false, false) => format!("there is no workflow `{}`", shown(&call.name)),
        };
        let noted = problems.add_whole(&call.name, ErrorCode::NotFound, message);
        noted.nearest(&call.name, in_force.names());
    }
    found
}

/// The run of a definition, and whether every value of it was known.
fn made(
    definition: &Definition,
    parameters: &str,
    lenient: bool,
    in_force: &Workflows,
    problems: &mut Problems,
) -> (v1::RunSpec, bool) {
    let values = parameters::given(&definition.source, &definition.parameters, parameters, lenient, problems);
    let whole = values.values().all(|value| !matches!(value, values::Value::Unknown));
    let scope = Scope { parameters: &values, row: None, today: in_force.today() };
    let mut reader = Reader { source: &definition.source, scope, problems };
    let root = &definition.root;
    if let Some(defaults) = root.get("defaults") {
        reader.known(defaults, "`defaults`", task::DEFAULT_FIELDS);
    }
    let policies = [
        ("fail_fast", v1::FailurePolicy::FailFast),
        ("continue", v1::FailurePolicy::Continue),
        ("best_effort", v1::FailurePolicy::BestEffort),
    ];
    let mut spec = v1::RunSpec {
        name: definition.name.clone(),
        labels: reader.text_map(root, "labels"),
        on_failure: reader.choice(root, "on_failure", &policies).unwrap_or_default().into(),
        max_parallel: reader.whole(root, "max_parallel", 0..=MAX_PARALLEL).unwrap_or(0),
        workspace: reader.text(root, "workspace").unwrap_or_default(),
        budget: reader.micro_usd(root, "budget_usd").map(|micro_usd| v1::BudgetLimit {
            micro_usd: Some(micro_usd),
            mode: v1::BudgetMode::Hard.into(),
            ..v1::BudgetLimit::default()
        }),
        ..v1::RunSpec::default()
    };
    spec.tasks = Expander::new(in_force, problems).workflow(definition, &values, &Outer::default()).tasks;
    (spec, whole)
}
