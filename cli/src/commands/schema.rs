//! `schema`: what `-o json` prints, what a run file may hold, what the configuration file may hold, as JSON Schema.
//! The schemas of outputs are derived from the very types that are printed; the other two are files of this directory,
//! which tests hold against the readers. Reads no file and dials nobody.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::shown;
use crate::args::Format;
use crate::args::local::{SchemaArgs, SchemaCommand};
use crate::exit;
use crate::failure::{ErrorView, Failure, Outcome};
use crate::live::told::EventView;
use crate::output::Out;
use crate::output::encode::schema_of;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::fleet::{AgentView, ExplainView, StatusView, WorkerView};
use crate::output::view::money::{BudgetView, CostRowView, CostsView, PoolLimitsView, RemovedBudgetView};
use crate::output::view::operate::{
    DeadView, DefinedWorkerView, DoctorView, IntroductionView, ReloadedView, ValidatedView,
};
use crate::output::view::result::{ArtifactView, ResultView, RunResultView};
use crate::output::view::storage::{CompactedView, CopyView, RemovedAgentView, RestoredView, StorageView};
use crate::output::view::workflow::{BatchView, CheckedWorkflowView, GraphView, PastView, WorkflowView};
use crate::output::view::{RunView, SubmittedView, TaskView};
use crate::plan::PlanView;
use crate::session::Session;
use crate::suggest::did_you_mean;

/// A run file.
pub(crate) const RUN: &str = include_str!("schema/run.json");
/// The configuration file.
pub(crate) const CONFIG: &str = include_str!("schema/config.json");
/// A plan, as the planner answers it, `run --plan-only -o json` prints it and `edit` takes it.
pub(crate) const PLAN: &str = include_str!("../../../prompts/schemas/plan.json");
/// The result contract.
pub(crate) const RESULT: &str = include_str!("../../../prompts/schemas/result.json");
/// The verdict of a review.
pub(crate) const REVIEW: &str = include_str!("../../../prompts/schemas/review.json");
/// The answer of a planned run.
pub(crate) const SYNTHESIS: &str = include_str!("../../../prompts/schemas/synthesis.json");
/// A workflow file.
pub(crate) const WORKFLOW: &str = crate::runfile::workflow::SCHEMA;

/// A kind of value that `-o json` prints.
pub(crate) struct Kind {
    /// Its name.
    pub(crate) name: &'static str,
    /// The commands that print it.
    pub(crate) printed_by: &'static str,
    /// Its schema.
    pub(crate) schema: fn() -> Value,
}

/// Every kind.
pub(crate) const KINDS: &[Kind] = &[
    Kind {
        name: "agent",
        printed_by: "agents list, show, drain, resume, label",
        schema: schema_of::<AgentView>,
    },
    Kind { name: "agent-removed", printed_by: "agents remove", schema: schema_of::<RemovedAgentView> },
    Kind { name: "artifact", printed_by: "artifacts list, get", schema: schema_of::<ArtifactView> },
    Kind { name: "batch", printed_by: "batch", schema: schema_of::<BatchView> },
    Kind {
        name: "bench-agents",
        printed_by: "bench agents",
        schema: schema_of::<super::bench::AgentsReport>,
    },
    Kind { name: "bench-calls", printed_by: "bench calls", schema: schema_of::<super::bench::CallsReport> },
    Kind {
        name: "bench-latency",
        printed_by: "bench latency",
        schema: schema_of::<super::bench::LatencyReport>,
    },
    Kind { name: "bench-noop", printed_by: "bench noop", schema: schema_of::<super::bench::NoopReport> },
    Kind { name: "bench-queue", printed_by: "bench queue", schema: schema_of::<super::bench::QueueReport> },
    Kind { name: "bench-spawn", printed_by: "bench spawn", schema: schema_of::<super::bench::SpawnReport> },
    Kind {
        name: "bench-submit",
        printed_by: "bench submit",
        schema: schema_of::<super::bench::SubmitReport>,
    },
    Kind { name: "bench-watch", printed_by: "bench watch", schema: schema_of::<super::bench::WatchReport> },
    Kind { name: "budget", printed_by: "budgets list, set", schema: schema_of::<BudgetView> },
    Kind { name: "budget-removed", printed_by: "budgets remove", schema: schema_of::<RemovedBudgetView> },
    Kind { name: "check", printed_by: "doctor", schema: schema_of::<DoctorView> },
    Kind { name: "compaction", printed_by: "admin compact", schema: schema_of::<CompactedView> },
    Kind {
        name: "context",
        printed_by: "context list, use, add",
        schema: schema_of::<super::context::ContextView>,
    },
    Kind { name: "copy", printed_by: "admin backup, export", schema: schema_of::<CopyView> },
    Kind { name: "cost-row", printed_by: "costs -o jsonl, csv", schema: schema_of::<CostRowView> },
    Kind { name: "costs", printed_by: "costs", schema: schema_of::<CostsView> },
    Kind {
        name: "current-context",
        printed_by: "context current",
        schema: schema_of::<super::context::CurrentContextView>,
    },
    Kind { name: "dead-letter", printed_by: "ls --dead", schema: schema_of::<DeadView> },
    Kind { name: "error", printed_by: "any command, on stderr", schema: schema_of::<ErrorView<'static>> },
    Kind {
        name: "error-code",
        printed_by: "help errors, help E0xxx",
        schema: schema_of::<super::help::ErrorCodeView>,
    },
    Kind { name: "event", printed_by: "watch, events", schema: schema_of::<EventView> },
    Kind { name: "explanation", printed_by: "explain", schema: schema_of::<ExplainView> },
    Kind { name: "introduction", printed_by: "agents test", schema: schema_of::<IntroductionView> },
    Kind { name: "log-line", printed_by: "logs", schema: schema_of::<super::logs::LogLineView<'static>> },
    Kind { name: "outcome", printed_by: "help outcomes", schema: schema_of::<super::help::OutcomeRowView> },
    Kind { name: "plan", printed_by: "run --approve that waits", schema: schema_of::<PlanView> },
    Kind { name: "pool-limits", printed_by: "limits", schema: schema_of::<PoolLimitsView> },
    Kind { name: "reload", printed_by: "workers reload", schema: schema_of::<ReloadedView> },
    Kind { name: "restore", printed_by: "admin restore, import", schema: schema_of::<RestoredView> },
    Kind {
        name: "result",
        printed_by: "result REF of a task; -o jsonl of a run",
        schema: schema_of::<ResultView>,
    },
    Kind {
        name: "run",
        printed_by: "ls, status, wait, cancel, retry, approve, reject, edit",
        schema: schema_of::<RunView>,
    },
    Kind { name: "run-result", printed_by: "run, result", schema: schema_of::<RunResultView> },
    Kind {
        name: "scale-hint",
        printed_by: "agents scale-hint",
        schema: schema_of::<super::agents::ScaleHintView>,
    },
    Kind { name: "setting", printed_by: "config view, get", schema: schema_of::<super::config::SettingView> },
    Kind { name: "status", printed_by: "status", schema: schema_of::<StatusView> },
    Kind { name: "storage", printed_by: "admin status", schema: schema_of::<StorageView> },
    Kind { name: "submission", printed_by: "submit", schema: schema_of::<SubmittedView> },
    Kind { name: "task", printed_by: "ls REF, status, wait", schema: schema_of::<TaskView> },
    Kind { name: "validation", printed_by: "workers validate", schema: schema_of::<ValidatedView> },
    Kind { name: "worker", printed_by: "workers list", schema: schema_of::<WorkerView> },
    Kind { name: "worker-definition", printed_by: "workers show", schema: schema_of::<DefinedWorkerView> },
    Kind { name: "workflow", printed_by: "workflows list", schema: schema_of::<WorkflowView> },
    Kind { name: "workflow-graph", printed_by: "workflows graph", schema: schema_of::<GraphView> },
    Kind { name: "workflow-run", printed_by: "workflows history", schema: schema_of::<PastView> },
    Kind {
        name: "workflow-validation",
        printed_by: "workflows validate",
        schema: schema_of::<CheckedWorkflowView>,
    },
];

/// A kind, as the list of kinds prints it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct KindView {
    kind: &'static str,
    printed_by: &'static str,
}

/// `orchctl schema`.
pub(crate) fn run(session: &Session, args: SchemaArgs) -> Outcome {
    let out = &session.out;
    match args.command {
        SchemaCommand::Output(args) => match args.kind {
            Some(kind) => print(out, &(find(&kind)?.schema)())?,
            None => kinds(out)?,
        },
        SchemaCommand::Run => print_text(out, RUN)?,
        SchemaCommand::Config => print_text(out, CONFIG)?,
        SchemaCommand::Plan => print_text(out, PLAN)?,
        SchemaCommand::Result => print_text(out, RESULT)?,
        SchemaCommand::Review => print_text(out, REVIEW)?,
        SchemaCommand::Synthesis => print_text(out, SYNTHESIS)?,
        SchemaCommand::Workflow => print_text(out, WORKFLOW)?,
    }
    Ok(exit::DONE)
}

fn find(name: &str) -> Outcome<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| {
        let failure = Failure::usage(format!("there is no kind of output {name:?}"));
        let near = did_you_mean(name, KINDS.iter().map(|kind| kind.name));
        let failure = if near.is_empty() { failure } else { failure.help(near) };
        failure.and_help("orchctl schema output lists them")
    })
}

fn kinds(out: &Out) -> Outcome<()> {
    let views: Vec<_> =
        KINDS.iter().map(|kind| KindView { kind: kind.name, printed_by: kind.printed_by }).collect();
    shown::list(out, &views, views.iter().map(|view| view.kind), || {
        let mut table = Table::new([Column::Whole("KIND"), Column::Words("PRINTED BY")]);
        for view in &views {
            table.row([Cell::from(view.kind), Cell::from(view.printed_by)]);
        }
        out.data(&table.render(out.stdout()))
    })
}

/// A schema is a JSON document whatever was asked for, but for YAML.
fn print(out: &Out, schema: &Value) -> Outcome<()> {
    match out.format {
        Format::Json | Format::Jsonl => out.json(schema),
        Format::Table => {
            let text = serde_json::to_string_pretty(schema)
                .map_err(|error| Failure::new(exit::BUG, "cannot write JSON").cause(error))?;
            out.line(&text)
        }
        Format::Name | Format::None => Ok(()),
    }
}

fn print_text(out: &Out, schema: &str) -> Outcome<()> {
    if out.format == Format::Table {
        return out.data(schema);
    }
    let value = serde_json::from_str(schema)
        .map_err(|error| Failure::new(exit::BUG, "a schema is no JSON").cause(error))?;
    print(out, &value)
}
