//! `workflows run`: a workflow with its parameters becomes a run. Checked first, so that mistakes are shown with their
//! lines; then submitted as a call, which the coordinator compiles.

use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, RunSpec, TaskSpec, WorkflowCall, task_spec};
use serde_json::Value;

use super::mistakes;
use super::source::{Source, parameters, roster_parameter};
use crate::args::Format;
use crate::args::workflows::{How, RunWorkflowArgs};
use crate::client::submission::Submission;
use crate::client::{Client, new_request_id};
use crate::commands::batch::roster;
use crate::commands::submit::{executor, queued, see_through};
use crate::commands::tables::task_name;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::figures::{dollars, plural};
use crate::output::table::{Cell, Column, Table};
use crate::output::view::money::EstimateView;
use crate::output::view::{ImpossibleView, SubmittedView};
use crate::output::words::BAD;
use crate::plan::estimated;
use crate::session::Session;

pub(super) async fn run(session: &Session, args: RunWorkflowArgs) -> Outcome {
    let client = session.client()?;
    let source = Source::either(args.name.as_deref(), args.file.as_deref())?;
    let mut source = source.overridden(&client, &args.how.whole).await?;
    let mut given = parameters(&args.given)?;
    if let Some(path) = &args.roster {
        let definition = definition(source.text(&client).await?);
        let name = roster_parameter(&definition, &given)?;
        let roster = roster::read(path)?;
        roster.tell(&session.out);
        given.insert(name, roster.value());
    }
    let spec = specification(source.call(&given), &args.how);
    let workflow = spec.workflow.as_ref().ok_or_else(|| Failure::usage("no workflow is named"))?;
    if args.how.dry_run {
        return dry_run(session, spec).await;
    }
    checked(&client, workflow).await?;
    let request_id = args.how.key.clone().unwrap_or_else(new_request_id);
    let answer = client.submit(Submission { spec, request_id, validate_only: false }).await?;
    if args.how.detach {
        queued(session, &answer, true)?;
        return Ok(exit::DONE);
    }
    see_through(session, &answer, args.how.cancel_on_interrupt, false).await
}

/// The run that calls a workflow.
pub(in crate::commands) fn specification(call: WorkflowCall, how: &How) -> RunSpec {
    RunSpec {
        workflow: Some(call),
        labels: how.labels.iter().cloned().collect(),
        no_cache: how.whole.no_cache,
        budget: how.whole.budget_limit(),
        ..RunSpec::default()
    }
}

/// A definition as a value; of one that is no JSON nothing, and the check says why.
pub(in crate::commands) fn definition(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_default()
}

/// What a call would run; `None` where that is too much to be shown.
///
/// # Errors
/// Everything that is wrong with it, with places.
pub(in crate::commands) async fn checked(client: &Client, call: &WorkflowCall) -> Outcome<Option<RunSpec>> {
    let Some(answer) = client.compile(call, false).await? else { return Ok(None) };
    if answer.problems.is_empty() { Ok(answer.spec) } else { Err(mistakes::failure(call, &answer.problems)) }
}

/// Checks a call whole, and shows what would run where. Nothing is queued.
pub(in crate::commands) async fn dry_run(session: &Session, spec: RunSpec) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let compiled = match &spec.workflow {
        Some(call) => checked(&client, call).await?,
        None => None,
    };
    let submission = Submission { spec, request_id: new_request_id(), validate_only: true };
    let answer = client.submit(submission).await?;
    let tasks = compiled.as_ref().map(|spec| spec.tasks.as_slice()).unwrap_or_default();
    match out.format {
        Format::Table if compiled.is_none() => {
            out.note("the workflow is sound; its run is too large to be shown task by task");
        }
        Format::Table => out.data(&table(tasks, &answer.impossible).render(out.stdout()))?,
        Format::Json | Format::Jsonl => out.json(&SubmittedView {
            reference: None,
            state: None,
            task_count: u32::try_from(tasks.len()).unwrap_or(u32::MAX),
            existing: answer.existing,
            dry_run: true,
            impossible: answer.impossible.iter().map(ImpossibleView::from).collect(),
            estimate: answer.estimate.as_ref().map(EstimateView::from),
        })?,
        Format::Name => tasks.iter().try_for_each(|task| out.name(task_name(task)))?,
        Format::None => {}
    }
    if let Some(estimate) = &answer.estimate {
        out.hint(&estimated(estimate));
    }
    let Some(first) = answer.impossible.first() else {
        out.hint(&summary(tasks));
        return Ok(exit::DONE);
    };
    let message = format!("{} of its tasks can run nowhere", answer.impossible.len());
    Err(Failure::coded(ErrorCode::Impossible, message).cause(format!("{}: {}", first.task_id, first.reason)))
}

fn summary(tasks: &[TaskSpec]) -> String {
    if tasks.is_empty() {
        return "nothing was queued".to_owned();
    }
    let expected: u64 = tasks.iter().filter_map(|task| task.expected_cost_micro_usd).sum();
    let cost =
        if expected == 0 { String::new() } else { format!(", expected to cost {}", dollars(expected, true)) };
    format!("{}{cost}; nothing was queued", plural(tasks.len() as u64, "task"))
}

/// Task by task: what it waits for, where it can run, what it may and is expected to cost.
fn table(tasks: &[TaskSpec], impossible: &[v1::Impossible]) -> Table {
    let mut table = Table::new([
        Column::Whole("TASK"),
        Column::Words("WORKER"),
        Column::Words("NEEDS"),
        Column::Words("RUNS ON"),
        Column::Figures("BUDGET"),
        Column::Figures("EXPECTED"),
    ]);
    for task in tasks {
        let name = task_name(task);
        let place = match (impossible.iter().find(|found| found.task_id == name), task.agent.as_str()) {
            (Some(found), _) => Cell::styled(format!("none: {}", found.reason), BAD),
            (None, "") => Cell::from("any agent that offers it"),
            (None, agent) => Cell::from(agent),
        };
        let budget = match &task.runner {
            Some(task_spec::Runner::Worker(work)) => work.budget_micro_usd,
            Some(task_spec::Runner::Command(_) | task_spec::Runner::Noop(_)) | None => None,
        };
        let money = |micro: Option<u64>| micro.map(|micro| dollars(micro, false)).unwrap_or_default();
        table.row([
            Cell::from(name),
            Cell::from(executor(task)),
            Cell::from(task.dependencies.join(",")),
            place,
            Cell::from(money(budget)),
            Cell::from(money(task.expected_cost_micro_usd)),
        ]);
    }
    table
}
