//! Plans for people: shown with what they stand for and what speaks against them, approved as they are or edited,
//! rejected. Knows where a plan rests and the way of a decision; what makes a plan good is [`crate::planning`]'s.

use crate::engine::{Handle, Repeatable};
use crate::payloads::{Joining, PrepareError};
use crate::planning::{Examined, Objection, examine, read_plan, task_specs};
use crate::presence::harmless;
use crate::rpc::auth::Caller;
use crate::rpc::lookup::{Lookup, archive_status};
use crate::rpc::refs::{parse_ref, parse_run_ref};
use crate::rpc::status::{internal, refuse, refuse_field};
use crate::rpc::submit::{catalogue, check_request_id, estimate};
use crate::rpc::{answered, blocking, convert, gone, unexpected};
use crate::submission::{CheckedPlanning, CheckedTask, Given, PLAN};
use crate::workers::WorkersInForce;
use orch_core::event::{Expansion, PlanDecision, Target};
use orch_core::ids::{RunId, TaskIndex};
use orch_core::query::Answer;
use orch_core::time::Wall;
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::RunRecord;
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::Status;

/// Longest edited plan, in bytes.
const MAX_PLAN_BYTES: usize = 512 << 10;
/// Longest reason of a decision, in bytes.
const MAX_REASON_BYTES: usize = 1_024;
/// Longest answer, in bytes: some room is left below the message limit of 1 MiB.
const MAX_ANSWER_BYTES: usize = 960 << 10;
/// Index of the synthesis, which waits for every task of a plan.
const SYNTHESIS: TaskIndex = TaskIndex(1);

/// Shows and decides plans.
#[derive(Debug, Clone)]
pub struct Plans {
    engine: Handle,
    lookup: Lookup,
    workers: Arc<WorkersInForce>,
}

/// A planned run that somebody named.
struct Planned {
    target: Target,
    id: RunId,
    run: v1::Run,
    record: RunRecord,
    planning: CheckedPlanning,
    /// Its tasks are part of the run.
    expanded: bool,
}

impl Plans {
    /// Plans of the runs that `lookup` finds, measured by `workers` and the agents that `engine` knows.
    #[must_use]
    pub fn new(engine: Handle, lookup: Lookup, workers: Arc<WorkersInForce>) -> Self {
        Self { engine, lookup, workers }
    }

    /// The plan of a run. One whose tasks are part of the run is not measured again: workers and agents may have changed
    /// since.
    ///
    /// # Errors
    /// `INVALID_REF`, `NOT_FOUND`, or `WRONG_STATE` for a run that was not submitted as a request.
    pub async fn show(
        &self,
        caller: &Caller,
        request: v1::GetPlanRequest,
    ) -> Result<v1::GetPlanResponse, Status> {
        let planned = self.find(caller, &request.r#ref).await?;
        let plan = self.proposed(&planned).await?;
        let mut response = v1::GetPlanResponse { run: Some(planned.run.clone()), ..Default::default() };
        if plan.is_empty() {
            return Ok(response);
        }
        if planned.expanded {
            response.tasks = read_plan(&plan).map(|plan| task_specs(&plan)).unwrap_or_default();
        } else {
            match self.examined(&planned, plan.clone()).await? {
                Ok(examined) => {
                    let name = planned.run.r#ref.rsplit_once('/').map_or("", |(name, _)| name);
                    response.estimate = estimate(&self.engine, caller.tenant, name, &examined.tasks);
                    response.tasks = examined.specs;
                }
                Err(objection) => response.problems = problems(objection),
            }
        }
        response.plan = plan;
        Ok(fitting(response))
    }

    /// Answers a plan that waits for a person. Problems of an edited plan change nothing.
    ///
    /// # Errors
    /// `INVALID_REF`, `INVALID_FIELD`, `TOO_LARGE`, `NOT_FOUND`, or `WRONG_STATE` when no plan of the run waits.
    pub async fn decide(
        &self,
        caller: &Caller,
        request: v1::DecidePlanRequest,
    ) -> Result<v1::DecidePlanResponse, Status> {
        let approve = check(&request)?;
        let repeatable = Repeatable {
            request_id: Arc::from(request.request_id.as_str()),
            digest: decision_digest(&request),
        };
        if let Some(before) = self.decided_before(caller, &repeatable).await? {
            return Ok(before);
        }
        let planned = self.find(caller, &request.r#ref).await?;
        if planned.run.state() != v1::RunState::WaitingApproval {
            // The same request may have been carried out in between.
            let before = self.decided_before(caller, &repeatable).await?;
            return before.ok_or_else(|| not_waiting(&planned.run));
        }
        let edited = !request.plan.is_empty();
        let reason: Arc<str> = harmless(request.reason.trim(), MAX_REASON_BYTES).into();
        let (decision, payload) = if approve {
            self.engine.can_store().map_err(|why| refuse(ErrorCode::DiskLow, why))?;
            let plan = if edited { request.plan } else { self.proposed(&planned).await? };
            match self.examined(&planned, plan).await? {
                Ok(examined) => {
                    let (expansion, payload) = self.prepare(&planned, examined.tasks).await?;
                    (PlanDecision::Approve(Box::new(expansion)), Some(payload))
                }
                Err(objection) => {
                    let (run, problems) = (Some(planned.run), problems(objection));
                    return Ok(v1::DecidePlanResponse { run, problems });
                }
            }
        } else {
            (PlanDecision::Reject, None)
        };
        let (target, because) = (planned.target, Arc::clone(&reason));
        let asked = self.engine.decide_plan(target, decision, because, repeatable, payload).await;
        let Answer::Decided { run } = answered(asked)? else { return Err(unexpected()) };
        audited(caller, &run.run_ref, approve, edited, &reason);
        Ok(v1::DecidePlanResponse { run: Some(convert::run(&run)), problems: Vec::new() })
    }

    /// The answer to the same request when it came before.
    async fn decided_before(
        &self,
        caller: &Caller,
        request: &Repeatable,
    ) -> Result<Option<v1::DecidePlanResponse>, Status> {
        let before = self.engine.decided_before(caller.tenant, request).await.map_err(|_| gone())?;
        let Some(before) = before else { return Ok(None) };
        let Answer::Decided { run } = answered(Ok(before))? else { return Err(unexpected()) };
        // It may have left the state since: the store has all of it.
        let run = self.lookup.run(&parse_run_ref(caller.tenant, &run.run_ref)?).await?;
        Ok(Some(v1::DecidePlanResponse { run: Some(run), problems: Vec::new() }))
    }

    async fn find(&self, caller: &Caller, reference: &str) -> Result<Planned, Status> {
        let target = parse_ref(reference, caller)?;
        if target.task.is_some() {
            return Err(refuse(ErrorCode::InvalidRef, "a plan is of a run: leave the task away"));
        }
        // "The last run" may become another one in between.
        let target = self.lookup.pin(&target).await?;
        let run = self.lookup.run(&target).await?;
        let id = RunId(run.run_id);
        let record = self.engine.archive().run_record(target.tenant, id).await;
        let record = record.map_err(|error| archive_status(&error))?;
        let missing = || refuse(ErrorCode::NotFound, format!("there is no run {}", run.r#ref));
        let mut record = record.ok_or_else(missing)?;
        let Some(planning) = record.planning.take() else {
            let message = format!("run {} was not submitted as a request: it has no plan", run.r#ref);
            return Err(refuse(ErrorCode::WrongState, message));
        };
        let expanded = planning.expanded;
        let planning = CheckedPlanning::from_record(planning);
        Ok(Planned { target, id, run, record, planning, expanded })
    }

    /// What the planner answered last; empty before that.
    async fn proposed(&self, planned: &Planned) -> Result<String, Status> {
        let target = Target { task: Some(Arc::from(PLAN)), ..planned.target.clone() };
        Ok(self.lookup.task(&target).await?.structured)
    }

    async fn examined(&self, planned: &Planned, plan: String) -> Result<Result<Examined, Objection>, Status> {
        let catalogue = catalogue(&self.engine, &self.workers, planned.target.tenant).await?;
        let (workers, planning) = (Arc::clone(&self.workers), planned.planning.clone());
        let submitted = Wall(planned.record.created_ms);
        blocking(move || {
            let conversations = BTreeMap::new();
            let given =
                Given { workers: &*workers, catalogue: &catalogue, submitted, conversations: &conversations };
            examine(&plan, &planning, &given)
        })
        .await
    }

    async fn prepare(
        &self,
        planned: &Planned,
        tasks: Vec<CheckedTask>,
    ) -> Result<(Expansion, crate::payloads::SubmitPayload), Status> {
        let (tenant, count) = (planned.target.tenant, planned.record.task_count);
        let existing = self.engine.spec_reader().resting_specs(tenant, planned.id, count).await;
        let existing = existing.map_err(|error| internal("the tasks of the run cannot be read", &error))?;
        let joining = Joining::of_plan(existing, tasks, SYNTHESIS);
        let prepared = self.engine.preparer().prepare_expansion(tenant, joining).await;
        prepared.map_err(|error| match error {
            PrepareError::BrokenOff(_) => gone(),
            PrepareError::LabelsTooLong { .. } | PrepareError::Blob(_) | PrepareError::Spec(_) => {
                internal("the tasks of the plan cannot be stored", &error)
            }
        })
    }
}

/// Whether it is an approval.
fn check(request: &v1::DecidePlanRequest) -> Result<bool, Status> {
    check_request_id(&request.request_id)?;
    if request.reason.len() > MAX_REASON_BYTES {
        let message = format!("at most {MAX_REASON_BYTES} bytes");
        return Err(refuse_field(ErrorCode::TooLarge, "reason", message));
    }
    if request.plan.len() > MAX_PLAN_BYTES {
        let message = format!("{} bytes; at most {MAX_PLAN_BYTES}", request.plan.len());
        return Err(refuse_field(ErrorCode::TooLarge, "plan", message));
    }
    match v1::PlanDecision::try_from(request.decision) {
        Ok(v1::PlanDecision::Approve) => Ok(true),
        Ok(v1::PlanDecision::Reject) if request.plan.is_empty() => Ok(false),
        Ok(v1::PlanDecision::Reject) => {
            let message = "goes with an approval: a plan that is rejected is not run in another form";
            Err(refuse_field(ErrorCode::InvalidField, "plan", message))
        }
        Ok(v1::PlanDecision::Unspecified) | Err(_) => {
            Err(refuse_field(ErrorCode::InvalidField, "decision", "must be approve or reject"))
        }
    }
}

/// What tells a repetition from another decision under the same id. Over the request as it came.
fn decision_digest(request: &v1::DecidePlanRequest) -> [u8; 32] {
    let body = v1::DecidePlanRequest { request_id: String::new(), ..request.clone() };
    let mut digest = Sha256::new_with_prefix(b"orch.v1.DecidePlanRequest\0");
    digest.update(body.encode_to_vec());
    digest.finalize().into()
}

fn not_waiting(run: &v1::Run) -> Status {
    let state = convert::run_state_from_wire(run.state()).map_or_else(String::new, |state| state.to_string());
    let message = format!("run {} is {state}: it does not wait for a plan to be approved", run.r#ref);
    refuse(ErrorCode::WrongState, message)
}

fn problems(objection: Objection) -> Vec<String> {
    match objection {
        Objection::Missing(missing) => vec![format!("No plan: {missing}")],
        Objection::Problems(problems) => problems,
    }
}

/// Descriptions are in the plan already: they are left out where both together would pass the message limit.
fn fitting(mut response: v1::GetPlanResponse) -> v1::GetPlanResponse {
    if response.encoded_len() > MAX_ANSWER_BYTES {
        for task in &mut response.tasks {
            if let Some(v1::task_spec::Runner::Worker(worker)) = &mut task.runner {
                worker.description.clear();
                worker.context.clear();
            }
        }
    }
    if response.encoded_len() > MAX_ANSWER_BYTES {
        let bytes = response.plan.len();
        response.plan.clear();
        response.problems.insert(0, format!("the plan has {bytes} bytes and cannot be shown"));
    }
    response
}

/// Who decided what.
fn audited(by: &Caller, run_ref: &str, approve: bool, edited: bool, reason: &str) {
    let what = match (approve, edited) {
        (true, true) => "approve edited plan of",
        (true, false) => "approve plan of",
        (false, _) => "reject plan of",
    };
    let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    tracing::info!(target: "audit", by = by.label(), "{what} {run_ref}{because}");
}

#[cfg(test)]
mod tests;
