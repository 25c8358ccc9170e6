//! The answer to each kind of question, worked out from what the store holds.
//! Knows what to read for which question; refuses to know when it is asked and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use orch_core::event::Consultation;
use orch_core::ids::{TaskIndex, TaskKey, TenantId};
use orch_core::outcome::Outcome;
use orch_core::query::{Question, QuestionKind};
use orch_core::time::Wall;
use orch_proto::store::v1::{GateLog, ResultRecord, RunRecord};
use orch_proto::v1;
use prost::Message as _;

use super::DirectorParts;
use super::conditions::{self, Ending};
use crate::blobs::{BlobError, Blobs};
use crate::engine::pool::{BlockingPool, BrokenOff};
use crate::engine::{ApplyError, EngineGone, Handle};
use crate::payloads::{
    Archive, ArchiveError, Joining, PrepareError, Preparer, SpecError, SpecReader, SubmitPayload, bulk,
    bulk::BulkError,
};
use crate::persist::MAX_RESULT_BYTES;
use crate::persist::fit::cut_text;
use crate::planning::schemas::{PassFail, Verdict};
use crate::planning::{Judgement, judge};
use crate::presence::harmless;
use crate::rpc::convert;
use crate::rpc::submit::catalogue;
use crate::store::Tenant;
use crate::submission::{CheckedPlanning, Given};
use crate::workers::WorkersInForce;

/// Longest detail that a task keeps, in bytes.
const MAX_DETAIL_BYTES: usize = 400;
/// Longest feedback, in bytes: it is a prompt of its own.
const MAX_FEEDBACK_BYTES: usize = 64 << 10;
/// Reasons of a review that its author is told; the rest is more of the same.
const MAX_REASONS: usize = 100;
/// Longest log of the gates of a task: 96 of them with 4 KiB each.
const MAX_GATE_LOG_BYTES: u64 = 1 << 20;
/// Longest log of one gate, in bytes.
const MAX_REASONS_BYTES: usize = 4 << 10;
/// Index of the synthesis of a planned run.
const SYNTHESIS: TaskIndex = TaskIndex(1);

/// Works answers out.
#[derive(Debug)]
pub(super) struct Answers {
    engine: Handle,
    archive: Archive,
    specs: SpecReader,
    preparer: Preparer,
    workers: Arc<WorkersInForce>,
    blobs: Arc<dyn Blobs>,
    pool: BlockingPool,
}

/// An answer, and what must become durable with it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) answer: Consultation,
    pub(super) payload: Option<SubmitPayload>,
}

/// Why a question cannot be answered now.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// The engine has stopped.
    #[error(transparent)]
    Gone(#[from] EngineGone),
    /// A record cannot be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A spec cannot be read.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The tasks of a plan cannot be stored.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// What was found before cannot be read.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// What was found before is not what its reference says.
    #[error("the gates' log of a task cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// What a task is to be told cannot be stored.
    #[error("what the task is to be told cannot be stored")]
    Blob(#[from] BlobError),
    /// Work was broken off.
    #[error(transparent)]
    BrokenOff(#[from] BrokenOff),
    /// Agents cannot be listed.
    #[error("the agents cannot be listed: {0}")]
    Agents(String),
    /// The engine does not take the answer.
    #[error(transparent)]
    Refused(ApplyError),
    /// The store does not hold what the engine says is there.
    #[error("{0} is not in the store")]
    Missing(&'static str),
}

impl From<ApplyError> for Trouble {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Gone(gone) => Self::Gone(gone),
            ApplyError::PayloadTooLong { .. } => Self::Refused(error),
        }
    }
}

impl From<Consultation> for Answered {
    fn from(answer: Consultation) -> Self {
        Self { answer, payload: None }
    }
}

impl Answers {
    pub(super) fn new(parts: &DirectorParts) -> Self {
        let engine = parts.engine.clone();
        Self {
            archive: engine.archive(),
            specs: engine.spec_reader(),
            preparer: engine.preparer(),
            engine,
            workers: Arc::clone(&parts.workers),
            blobs: Arc::clone(&parts.blobs),
            pool: BlockingPool::default(),
        }
    }

    /// The answer to a question.
    pub(super) async fn to(&self, question: &Question) -> Result<Answered, Trouble> {
        match question.kind {
            QuestionKind::Conditions => self.conditions(question).await.map(Answered::from),
            QuestionKind::Review { by } => self.review(question, by).await.map(Answered::from),
            QuestionKind::Plan => self.plan(question).await,
        }
    }

    async fn conditions(&self, question: &Question) -> Result<Consultation, Trouble> {
        let Question { tenant, task, .. } = *question;
        let spec = self.specs.dispatch_spec(tenant, task).await?;
        let mut names: BTreeSet<&str> =
            spec.conditions.iter().map(|condition| condition.task_id.as_str()).collect();
        let mut endings = BTreeMap::new();
        // A condition names a dependency: looking among those costs the same however large the run is.
        for index in spec.dependencies.iter().copied().map(TaskIndex) {
            if names.is_empty() {
                break;
            }
            let key = TaskKey { run: task.run, index };
            let dependency = self.specs.dispatch_spec(tenant, key).await?;
            if names.remove(dependency.task_id.as_str()) {
                endings.insert(dependency.task_id.clone(), ending(&self.task(tenant, key).await?));
            }
        }
        Ok(match conditions::hold(&spec.conditions, |name| endings.get(name)) {
            Ok(()) => Consultation::Run,
            Err(why) => Consultation::Skip { detail: detail(&format!("its condition does not hold: {why}")) },
        })
    }

    async fn review(&self, question: &Question, by: TaskIndex) -> Result<Consultation, Trouble> {
        let Question { tenant, task, .. } = *question;
        let review = self.task(tenant, TaskKey { run: task.run, index: by }).await?;
        let verdict = match serde_json::from_str::<Verdict>(&review.structured) {
            Ok(verdict) => verdict,
            Err(error) => {
                let why = format!("the verdict of {} cannot be read: {error}", review.task_id);
                return Ok(refuse(Outcome::GATE_FAILED, &why));
            }
        };
        let reasons: Vec<String> = verdict
            .reasons
            .iter()
            .map(|reason| harmless(reason.trim(), MAX_FEEDBACK_BYTES))
            .filter(|reason| !reason.is_empty())
            .collect();
        let passed = verdict.verdict == PassFail::Pass;
        let judged = self.judged(tenant, task, judgement(&review, passed, &reasons)).await?;
        if passed {
            return Ok(Consultation::Accept { payload: judged.map(|result| result.encode_to_vec().into()) });
        }
        let said = match reasons.first() {
            Some(first) if reasons.len() > 1 => {
                let mut first = first.clone();
                cut_text(&mut first, MAX_DETAIL_BYTES / 2);
                format!("{first} ({} more)", reasons.len() - 1)
            }
            Some(first) => first.clone(),
            None => "no reason was given".to_owned(),
        };
        let why = format!("{} did not pass it: {said}", review.worker);
        if question.repairs_left == 0 {
            let payload = judged.map(|result| result.encode_to_vec().into());
            return Ok(Consultation::Refuse { outcome: Outcome::GATE_FAILED, detail: detail(&why), payload });
        }
        let result = judged.ok_or(Trouble::Missing("the result of a task"))?;
        self.send_back(tenant, result, review_feedback(&review.worker, &reasons), &why).await
    }

    /// The recorded result of a task with what its review found, after what the agent found. As it was where that does not
    /// fit; `None` without a result.
    async fn judged(
        &self,
        tenant: TenantId,
        task: TaskKey,
        found: v1::GateResult,
    ) -> Result<Option<ResultRecord>, Trouble> {
        let record = self.archive.task_record(tenant, task).await?;
        let Some(result) = record.and_then(|record| record.result) else { return Ok(None) };
        let (blobs, tenant) = (Arc::clone(&self.blobs), Tenant::new(tenant.0));
        let judged = self.pool.run(move || -> Result<_, Trouble> {
            let mut log = match &result.gates {
                Some(blob) => {
                    GateLog::decode(bulk::read(&*blobs, tenant, blob, MAX_GATE_LOG_BYTES)?.as_slice())?
                }
                None => GateLog::default(),
            };
            log.gates.push(found);
            let stored = blobs.put(tenant, &log.encode_to_vec())?;
            let judged = ResultRecord { gates: Some(bulk::reference(&stored)), ..result.clone() };
            Ok(if judged.encoded_len() <= MAX_RESULT_BYTES { judged } else { result })
        });
        judged.await?.map(Some)
    }

    async fn plan(&self, question: &Question) -> Result<Answered, Trouble> {
        let Question { tenant, task, repairs_left, .. } = *question;
        let run = self.archive.run_record(tenant, task.run).await?;
        let run = run.ok_or(Trouble::Missing("the record of the run"))?;
        let planning = run.planning.clone().ok_or(Trouble::Missing("how the run is planned"))?;
        let planning = CheckedPlanning::from_record(planning);
        let structured = self.task(tenant, task).await?.structured;
        match self.judge(tenant, &run, structured, planning, repairs_left).await? {
            Judgement::Expand(tasks) => {
                let existing = self.specs.resting_specs(tenant, task.run, run.task_count).await?;
                let joining = Joining::of_plan(existing, tasks, SYNTHESIS);
                let (expansion, payload) = self.preparer.prepare_expansion(tenant, joining).await?;
                Ok(Answered { answer: Consultation::Expand(Box::new(expansion)), payload: Some(payload) })
            }
            Judgement::Hold => Ok(Consultation::Hold.into()),
            Judgement::Accept => Ok(Consultation::Accept { payload: None }.into()),
            Judgement::SendBack { feedback, detail } => {
                let record = self.archive.task_record(tenant, task).await?;
                let result = record.and_then(|record| record.result);
                let result = result.ok_or(Trouble::Missing("the result of a task"))?;
                self.send_back(tenant, result, feedback, &detail).await.map(Answered::from)
            }
            Judgement::Refuse { outcome, detail } => {
                let outcome = convert::outcome_from_wire(outcome.into()).unwrap_or(Outcome::SCHEMA_INVALID);
                Ok(refuse(outcome, &detail).into())
            }
        }
    }

    /// The plan as it is judged now: by the workers and agents of this moment, for the day of the submit.
    async fn judge(
        &self,
        tenant: TenantId,
        run: &RunRecord,
        structured: String,
        planning: CheckedPlanning,
        repairs_left: u32,
    ) -> Result<Judgement, Trouble> {
        let catalogue = catalogue(&self.engine, &self.workers, tenant).await;
        let catalogue = catalogue.map_err(|status| Trouble::Agents(status.message().to_owned()))?;
        let (workers, submitted) = (Arc::clone(&self.workers), Wall(run.created_ms));
        // Some milliseconds for a thousand tasks.
        let judged = self.pool.run(move || {
            let conversations = BTreeMap::new();
            let given =
                Given { workers: &*workers, catalogue: &catalogue, submitted, conversations: &conversations };
            judge(&structured, &planning, repairs_left, &given)
        });
        Ok(judged.await?)
    }

    /// A task with its answers, by its place in the run.
    async fn task(&self, tenant: TenantId, key: TaskKey) -> Result<v1::Task, Trouble> {
        let page = self.archive.tasks(tenant, key.run, key.index, 1, Vec::new(), true).await?;
        let task = page.and_then(|page| page.tasks.into_iter().next());
        task.ok_or(Trouble::Missing("the record of a task"))
    }

    /// Has a task tried again: its recorded result, with what the next attempt is told.
    async fn send_back(
        &self,
        tenant: TenantId,
        mut result: ResultRecord,
        mut feedback: String,
        why: &str,
    ) -> Result<Consultation, Trouble> {
        cut_text(&mut feedback, MAX_FEEDBACK_BYTES);
        result.feedback = bulk::text(feedback.clone());
        if result.encoded_len() > MAX_RESULT_BYTES {
            let (blobs, tenant) = (Arc::clone(&self.blobs), Tenant::new(tenant.0));
            let stored = self.pool.run(move || blobs.put(tenant, feedback.as_bytes())).await??;
            result.feedback = bulk::by_reference(bulk::reference(&stored));
            make_fit(&mut result);
        }
        Ok(Consultation::SendBack { payload: result.encode_to_vec().into(), detail: detail(why) })
    }
}

/// Gives up what is only shown, until the record fits. What remains is bounded far below that.
fn make_fit(result: &mut ResultRecord) {
    let measures: [fn(&mut ResultRecord); 3] = [
        |result| result.denied_tools.clear(),
        |result| result.summary.clear(),
        |result| result.answer = None,
    ];
    for measure in measures {
        if result.encoded_len() <= MAX_RESULT_BYTES {
            return;
        }
        measure(result);
    }
}

fn refuse(outcome: Outcome, why: &str) -> Consultation {
    Consultation::Refuse { outcome, detail: detail(why), payload: None }
}

fn detail(text: &str) -> Arc<str> {
    let mut text = harmless(text, MAX_DETAIL_BYTES);
    cut_text(&mut text, MAX_DETAIL_BYTES);
    text.into()
}

fn ending(task: &v1::Task) -> Ending {
    let state = task.state().as_str_name().trim_start_matches("TASK_STATE_").to_ascii_lowercase();
    Ending {
        state,
        outcome: task.outcome().word().to_owned(),
        // One that is no JSON is none: the agent checked what it reported.
        structured: serde_json::from_str(&task.structured).ok(),
    }
}

/// A review as a gate.
fn judgement(review: &v1::Task, passed: bool, reasons: &[String]) -> v1::GateResult {
    let mut log = reasons.join("\n");
    cut_text(&mut log, MAX_REASONS_BYTES);
    v1::GateResult {
        kind: "review".to_owned(),
        name: if review.worker.is_empty() { review.task_id.clone() } else { review.worker.clone() },
        passed,
        log,
        duration: review.execution_time,
    }
}

fn review_feedback(reviewer: &str, reasons: &[String]) -> String {
    let mut list: String = reasons.iter().take(MAX_REASONS).map(|reason| format!("- {reason}\n")).collect();
    if list.is_empty() {
        list.push_str("- (no reason was given)\n");
    }
    if reasons.len() > MAX_REASONS {
        list.push_str(&format!("- and {} more of that kind\n", reasons.len() - MAX_REASONS));
    }
    format!(
        "The worker `{reviewer}` reviewed your result and did not pass it. What must change:\n\n{list}\nMend exactly this; \
         leave everything else as it is. Then give your whole answer again, in the form that was asked for at first.\n"
    )
}

#[cfg(test)]
mod tests;
