//! `batch`: a workflow over every row of a roster, as one run that the same command finds again whatever ended it.
//!
//! | Module | Holds |
//! |---|---|
//! | [`roster`] | rows from CSV, JSON or text |
//! | [`generate`] | the workflow over all rows |
//! | [`report`] | what came of each row |
//!
//! Knows how a batch is found again: a label on its run, a digest of workflow, roster and settings.

use orch_proto::v1::{FailurePolicy, RetryRunRequest, Run, RunSpec, RunState, TaskState};
use prost::Message;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::submit::{advise, attend, queued};
use super::workflows::call;
use super::workflows::source::{Source, parameters, refuse_unknown};
use crate::args::Format;
use crate::args::workflows::BatchArgs;
use crate::client::submission::Submission;
use crate::client::{Client, TaskQuery, incomplete, new_request_id};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::follow::ShowPlan;
use crate::output::figures::plural;
use crate::output::safe::one_line;
use crate::output::words::run_ended;
use crate::refs::Reference;
use crate::session::Session;

mod generate;
mod report;
pub(crate) mod roster;

use generate::Made;
use report::Report;
use roster::Roster;

/// Label that says which batch a run is of.
const LABEL: &str = "batch";
/// Newest runs of a workflow among which a batch is looked for.
const MAX_RUNS: usize = 10_000;
/// Longest text told.
const TOLD: usize = 300;

/// `orchctl batch`.
pub(crate) async fn run(session: &Session, args: BatchArgs) -> Outcome {
    let client = session.client()?;
    let mut how = args.how;
    if args.fail_fast {
        how.whole.on_failure = Some(FailurePolicy::FailFast);
    }
    let source = Source::either(args.name.as_deref(), args.file.as_deref())?;
    let mut source = source.overridden(&client, &how.whole).await?;
    let given = parameters(&args.given)?;
    let definition = parsed(&mut source, &client).await?;
    refuse_unknown(&definition, &given)?;
    let roster = roster::read(&args.roster)?;
    roster.tell(&session.out);
    let Made { definition: made, parameters, whole, notes } = generate::made(&definition, &given, &roster)?;
    for note in notes {
        session.out.hint(&format!("  {note}"));
    }
    if let Some(made) = made {
        source = Source::made(format!("{} over {}", source.shown, roster.file), pretty(&made)?);
    }
    let mut spec = call::specification(source.call(&parameters), &how);
    if how.dry_run {
        return dry_run(session, spec, &whole).await;
    }
    if let Some(workflow) = &spec.workflow {
        call::checked(&client, workflow).await?;
    }
    let batch = Batch { session, client, roster, cancel_on_interrupt: how.cancel_on_interrupt };
    let id = identity(&definition, &spec);
    spec.labels.insert(LABEL.to_owned(), id.clone());
    let name = definition["name"].as_str().unwrap_or_default();
    let (earlier, count) = if how.key.is_some() { (None, 0) } else { batch.earlier(name, &id).await? };
    let reference = match earlier.filter(|_| !args.again) {
        Some(run) => run,
        None => {
            let request_id = how.key.clone().unwrap_or_else(|| format!("batch-{id}-{count}"));
            let submission = Submission { spec, request_id, validate_only: false };
            let answer = batch.client.submit(submission).await?;
            let run = answer.run.clone().ok_or_else(|| incomplete("SubmitRun"))?;
            if how.detach && !answer.existing {
                queued(session, &answer, true)?;
                return Ok(exit::DONE);
            }
            if !answer.existing {
                session.out.hint(&format!("submitted {}", run.r#ref));
                advise(session, &answer);
                return batch.follow(&run.r#ref).await;
            }
            run
        }
    };
    batch.go_on(reference, how.detach).await
}

/// The definition as a value.
async fn parsed(source: &mut Source, client: &Client) -> Outcome<Value> {
    let text = source.text(client).await?.to_owned();
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        // What is wrong with it, a check says with its line.
        Ok(_) | Err(_) => {
            call::checked(client, &source.call(&serde_json::Map::new())).await?;
            Err(Failure::usage(format!("{} is not a workflow", one_line(&source.shown, TOLD))))
        }
    }
}

fn pretty(value: &Value) -> Outcome<String> {
    serde_json::to_string_pretty(value)
        .map_err(|error| Failure::new(exit::BUG, "a workflow could not be written").cause(error))
}

/// What makes a batch this batch: what the workflow says, with which rows, on which terms. Not where the file lies.
fn identity(definition: &Value, spec: &RunSpec) -> String {
    let mut spec = spec.clone();
    if let Some(call) = &mut spec.workflow {
        call.source.clear();
        call.name.clear();
        call.definition = definition.to_string();
    }
    let digest = Sha256::digest(spec.encode_to_vec());
    digest.iter().take(10).map(|byte| format!("{byte:02x}")).collect()
}

/// Checks everything; as JSON the generated workflow is printed, which `workflows run -f` runs as it is.
async fn dry_run(session: &Session, spec: RunSpec, whole: &Value) -> Outcome {
    let out = &session.out;
    if !out.is_json() {
        return call::dry_run(session, spec).await;
    }
    let client = session.client()?;
    if let Some(workflow) = &spec.workflow {
        call::checked(&client, workflow).await?;
    }
    client.submit(Submission { spec, request_id: new_request_id(), validate_only: true }).await?;
    match out.format {
        Format::Json if !out.encoder().is_yaml() => out.data(&format!("{}\n", pretty(whole)?))?,
        Format::Json | Format::Jsonl | Format::Table | Format::Name | Format::None => out.json(whole)?,
    }
    Ok(exit::DONE)
}

/// A batch that runs, or ran.
struct Batch<'a> {
    session: &'a Session,
    client: Client,
    roster: Roster,
    cancel_on_interrupt: bool,
}

impl Batch<'_> {
    /// The newest run of this batch, and how many there are.
    async fn earlier(&self, name: &str, id: &str) -> Outcome<(Option<Run>, usize)> {
        let (mut runs, _) = self.client.list_runs(&[], name, MAX_RUNS).await?;
        runs.retain(|run| run.labels.get(LABEL).is_some_and(|label| label == id));
        let count = runs.len();
        Ok((runs.into_iter().next(), count))
    }

    /// Goes on with a run that was found: follows it, or has what is unfinished tried again, or prints its report.
    async fn go_on(&self, run: Run, detach: bool) -> Outcome {
        let out = &self.session.out;
        let reference = run.r#ref.as_str();
        if !run_ended(run.state()) {
            out.note(&format!("{reference} is this batch, and goes on"));
        } else if is_finished(&run) {
            out.note(&format!("{reference} was this batch, and is finished; --again runs it anew"));
            return self.report(reference).await;
        } else {
            let answer = self
                .client
                .retry(RetryRunRequest { r#ref: reference.to_owned(), ..RetryRunRequest::default() })
                .await?;
            let tasks = plural(answer.retried.into(), "task");
            out.note(&format!("{reference} was this batch; {tasks} of it unfinished, queued again"));
        }
        if detach {
            out.name(reference)?;
            return Ok(exit::DONE);
        }
        self.follow(reference).await
    }

    async fn follow(&self, reference: &str) -> Outcome {
        let (_, code) = attend(self.session, reference, self.cancel_on_interrupt, ShowPlan::Never).await?;
        let reported = self.report(reference).await?;
        Ok(if code == exit::IMPOSSIBLE { code } else { reported })
    }

    /// Prints a row for each item.
    async fn report(&self, reference: &str) -> Outcome {
        let out = &self.session.out;
        let run = self.client.run(&Reference::parse(reference)?).await?;
        let tasks = self.client.tasks(&TaskQuery::all(&run.r#ref)).await?;
        let has_files = tasks.iter().any(|task| task.artifact_count > 0);
        let files = if has_files { self.client.artifacts(&run.r#ref).await? } else { Vec::new() };
        let report = Report::of(&self.roster, &run.r#ref, &tasks, &files);
        let well = report.is_well() && run.state() == RunState::Succeeded;
        match out.format {
            Format::Table => {
                out.data(&report.table().render(out.stdout()))?;
                out.hint(&report.summary(&run));
            }
            Format::Json => out.json(&report.view(&run, self.roster.skipped))?,
            Format::Jsonl => {
                report.view(&run, self.roster.skipped).items.iter().try_for_each(|item| out.json(item))?;
            }
            Format::Name => out.name(&run.r#ref)?,
            Format::None => {}
        }
        Ok(if well { exit::DONE } else { exit::SOME_FAILED })
    }
}

/// Whether nothing of a run that has ended is left to do: what a condition skipped is done.
fn is_finished(run: &Run) -> bool {
    let left = |state: TaskState| matches!(state, TaskState::Failed | TaskState::Cancelled);
    run.state() == RunState::Succeeded
        && !run.counts.iter().any(|count| count.count > 0 && left(count.state()))
}
