//! The results of a run: fetched whole, and printed for people and for scripts.
//!
//! | Module | Holds |
//! |---|---|
//! | [`told`] | a task for people: its answer, what it cost, what went wrong |
//! | [`planned`] | a planned run for people: its answer, a table of its tasks, what follows |
//!
//! Knows answers, tokens and money; how a run was followed is not its business.

use futures_util::{StreamExt, TryStreamExt};
use orch_proto::v1::{GetPlanResponse, Run, Task, TaskArtifact, TaskRole, TaskState};

use crate::args::Format;
use crate::client::{Client, TaskQuery};
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{between, moment};
use crate::output::view::RunView;
use crate::output::view::result::{ArtifactView, ResultView, RunResultView, SynthesisView};
use crate::plan::PlanView;

mod planned;
mod told;

pub(crate) use told::denied;

/// Up to so many tasks are fetched one by one, with answers of any length; of more, the list brings what it can.
const ONE_BY_ONE: usize = 500;
/// Fetched at a time.
const AT_ONCE: usize = 8;

/// A task and its answer.
#[derive(Debug, Clone)]
pub(crate) struct TaskResult {
    /// The task.
    pub(crate) task: Task,
    /// Its answer, fetched.
    pub(crate) answer: String,
    /// The files it handed over.
    pub(crate) artifacts: Vec<ArtifactView>,
}

/// A run and the results of its tasks.
#[derive(Debug, Clone)]
pub(crate) struct RunResult {
    /// The run.
    pub(crate) run: Run,
    /// Its tasks in order.
    pub(crate) tasks: Vec<TaskResult>,
    /// Nothing that is left of it can ever be placed as things stand.
    pub(crate) impossible: bool,
    /// Of a planned run of which nothing ran: its plan.
    pub(crate) plan: Option<GetPlanResponse>,
}

impl RunResult {
    /// What the last task of a planned run made of all results.
    fn synthesis(&self) -> Option<SynthesisView> {
        let task = &self.tasks.iter().find(|result| result.task.role() == TaskRole::Synthesis)?.task;
        if task.state() == TaskState::Succeeded { SynthesisView::read(&task.structured) } else { None }
    }
}

/// Fetches the results of a run.
pub(crate) async fn fetch(client: &Client, run: Run) -> Outcome<RunResult> {
    let query =
        TaskQuery { with_answers: run.task_count as usize > ONE_BY_ONE, ..TaskQuery::all(&run.r#ref) };
    let listed = client.tasks(&query).await?;
    let only_planned = run.planned && !listed.iter().any(|task| is_work(task.role()));
    let mut tasks: Vec<TaskResult> = futures_util::stream::iter(listed)
        .map(|task| fetch_task(client, task, query.with_answers))
        .buffered(AT_ONCE)
        .try_collect()
        .await?;
    if tasks.iter().any(|result| result.task.artifact_count > 0) {
        let files = client.artifacts(&run.r#ref).await?;
        for result in &mut tasks {
            result.artifacts = files_of(&run.r#ref, &result.task, &files);
        }
    }
    let plan = if only_planned { Some(client.plan(&run.r#ref).await?) } else { None };
    Ok(RunResult { run, tasks, impossible: false, plan })
}

/// What a run is about, rather than what plans, judges, publishes or sums up.
pub(crate) fn is_work(role: TaskRole) -> bool {
    matches!(role, TaskRole::Unspecified | TaskRole::Work)
}

fn files_of(run: &str, task: &Task, files: &[TaskArtifact]) -> Vec<ArtifactView> {
    files
        .iter()
        .filter(|file| file.task_id == task.task_id)
        .map(|file| ArtifactView::new(run, file))
        .collect()
}

async fn fetch_task(client: &Client, task: Task, whole: bool) -> Outcome<TaskResult> {
    // A task that does nothing, or never ran, has no answer.
    let nothing = task.runner == "noop" || task.attempt == 0;
    let task = if whole || nothing { task } else { client.task(&task.r#ref).await? };
    let answer = client.text(task.answer.as_ref()).await?;
    Ok(TaskResult { task, answer, artifacts: Vec::new() })
}

/// Fetches the result of one task.
pub(crate) async fn fetch_one(client: &Client, reference: &str) -> Outcome<TaskResult> {
    let task = client.task(reference).await?;
    let answer = client.text(task.answer.as_ref()).await?;
    let run = task.r#ref.rsplit_once('/').map(|(run, _)| run.to_owned()).unwrap_or_default();
    let files = if task.artifact_count > 0 { client.artifacts(&task.r#ref).await? } else { Vec::new() };
    let artifacts = files_of(&run, &task, &files);
    Ok(TaskResult { task, answer, artifacts })
}

/// Prints the results of a run in the format asked for.
pub(crate) fn print_run(out: &Out, result: RunResult) -> Outcome<()> {
    match out.format {
        Format::Json => out.json(&run_view(result)),
        Format::Jsonl => result.tasks.into_iter().try_for_each(|task| out.json(&task_view(task))),
        Format::Name => out.name(&result.run.r#ref),
        Format::None => Ok(()),
        Format::Table if result.run.planned => planned::print(out, &result),
        Format::Table => told::print(out, &result),
    }
}

/// Prints the result of a task in the format asked for.
pub(crate) fn print_task(out: &Out, result: TaskResult) -> Outcome<()> {
    match out.format {
        Format::Json | Format::Jsonl => out.json(&task_view(result)),
        Format::Name => out.name(&result.task.r#ref),
        Format::None => Ok(()),
        Format::Table => told::print_alone(out, &result),
    }
}

fn run_view(result: RunResult) -> RunResultView {
    let took = moment(result.run.created_at).zip(moment(result.run.finished_at));
    RunResultView {
        run: RunView::from(&result.run),
        impossible: result.impossible,
        wall_time: took.map(|(from, to)| (between(from, to).as_secs_f64() * 1e3).round() / 1e3),
        synthesis: result.synthesis(),
        plan: result.plan.as_ref().map(PlanView::from),
        results: result.tasks.into_iter().map(task_view).collect(),
    }
}

fn task_view(result: TaskResult) -> ResultView {
    ResultView::new(&result.task, result.answer, result.artifacts)
}

#[cfg(test)]
pub(crate) mod samples {
    //! Results that tests share.

    use orch_proto::v1::{Outcome as Ending, Usage};

    use super::*;
    use crate::live::model::samples;

    pub(crate) fn result(id: &str, state: TaskState, ending: Ending, answer: &str) -> TaskResult {
        let task = Task {
            state: state.into(),
            outcome: ending.into(),
            agent: "box-1".into(),
            attempt: 1,
            execution_time: Some(prost_types::Duration { seconds: 21, nanos: 0 }),
            usage: Some(samples::usage(8)),
            detail: if ending == Ending::Ok { String::new() } else { "no answer after 600 s".into() },
            ..samples::task(0, id, &[])
        };
        TaskResult { task, answer: answer.into(), artifacts: Vec::new() }
    }

    pub(crate) fn run(tasks: Vec<TaskResult>) -> RunResult {
        let usage = Some(Usage { cost_micro_usd: 160_000, ..Usage::default() });
        let run = Run {
            r#ref: "release-notes/128".into(),
            state: orch_proto::v1::RunState::Failed.into(),
            usage,
            ..Run::default()
        };
        RunResult { run, tasks, impossible: false, plan: None }
    }
}
