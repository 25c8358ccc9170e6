//! From a submitted spec to an acknowledged run: checked, its bulk made durable, handed to the engine.
//! Knows the order of the steps and what may block; the rules of a spec are [`crate::submission`]'s.

mod follow_up;

use self::follow_up::FollowUps;
use crate::blobs::Blobs;
use crate::clock::Clock;
use crate::engine::{Handle, SubmitError};
use crate::ledger::EstimateTask;
use crate::payloads::{PrepareError, Preparer, Request as Prepare, SubmitPayload};
use crate::persist::fit::cut_text;
use crate::planning::Catalogue;
use crate::rpc::auth::Caller;
use crate::rpc::lookup::Lookup;
use crate::rpc::status::{from_spec_error, internal, refuse, refuse_field};
use crate::rpc::{answered, ask, blocking, convert, gone, unexpected};
use crate::submission::{CheckedRun, CheckedRunner, CheckedTask, Conversation, Given};
use crate::workers::WorkersInForce;
use crate::workflows;
use orch_core::event::{Flow, NewTask, OnLoss, Shape, Submit};
use orch_core::ids::{TaskIndex, TenantId, Token};
use orch_core::query::{AgentView, Answer, Query};
use orch_core::time::Span;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, SubmitRunRequest, SubmitRunResponse};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::Status;

/// Longest idempotency key.
const MAX_REQUEST_ID: usize = 128;
/// A spec up to this length is digested and checked where it arrived: some 50 µs, less than a trip to another thread.
const SMALL_SPEC_BYTES: usize = 16 << 10;
/// Agents whose capabilities a planner is told of; and of these, asked for at a time.
const MAX_CATALOGUE_AGENTS: usize = 1_000;
const AGENTS_AT_A_TIME: usize = 250;

/// Longest workflow that comes with its call.
const MAX_DEFINITION_BYTES: usize = 4 << 20;
/// Problems of a workflow that a refusal names, and their length together: a status travels in a header.
const MAX_PROBLEMS_SAID: usize = 10;
const MAX_PROBLEM_BYTES: usize = 3_000;

/// Submits runs.
#[derive(Debug, Clone)]
pub struct Submitter {
    parts: SubmitParts,
    preparer: Preparer,
    follow_ups: FollowUps,
}

/// What submits lean on.
#[derive(Debug, Clone)]
pub struct SubmitParts {
    /// Takes runs in.
    pub engine: Handle,
    /// The workers that tasks may name.
    pub workers: Arc<WorkersInForce>,
    /// Finds the tasks whose conversations go on.
    pub lookup: Lookup,
    /// Where what they were begun with lies.
    pub blobs: Arc<dyn Blobs>,
    /// Tells the day.
    pub clock: Arc<dyn Clock>,
}

impl Submitter {
    /// Submits to the engine of `parts`.
    #[must_use]
    pub fn new(parts: SubmitParts) -> Self {
        let preparer = parts.engine.preparer();
        let follow_ups = FollowUps::new(parts.clone());
        Self { parts, preparer, follow_ups }
    }

    /// Submits a run. When this returns it is durable.
    ///
    /// # Errors
    /// What the spec breaks, or why nothing is taken now.
    pub async fn submit(
        &self,
        caller: &Caller,
        request: SubmitRunRequest,
    ) -> Result<SubmitRunResponse, Status> {
        let SubmitRunRequest { spec, request_id, validate_only } = request;
        check_request_id(&request_id)?;
        let spec = spec.ok_or_else(|| refuse_field(ErrorCode::InvalidField, "spec", "is missing"))?;
        let (spec, spec_digest) = digest(spec).await?;
        let prepare = Prepare {
            tenant: caller.tenant,
            submitted_by: Arc::from(caller.label()),
            request_id: Arc::from(request_id),
            spec_digest,
            validate_only,
        };
        // Both are large, and what waits for them would be larger still.
        let checked = match Box::pin(self.check(caller, spec)).await {
            Ok(checked) => checked,
            Err(refusal) => return self.known(prepare).await.ok_or(refusal),
        };
        if !validate_only {
            // Also asked by the engine; here before anything is written to that disk.
            self.parts.engine.can_store().map_err(|why| refuse(ErrorCode::DiskLow, why))?;
        }
        let estimate = self.estimate(caller, &checked);
        let prepared = Box::pin(self.preparer.prepare(prepare, checked)).await;
        let (submit, payload) = prepared.map_err(|error| prepare_status(&error))?;
        let answer = self.parts.engine.submit(submit, payload).await;
        let response = submitted(answered(Ok(answer.map_err(|error| submit_status(&error))?))?)?;
        Ok(SubmitRunResponse { estimate: estimate.filter(|_| !response.existing), ..response })
    }

    /// What earlier work of the same kind says the run will cost; tasks that a plan adds are not in it.
    fn estimate(&self, caller: &Caller, run: &CheckedRun) -> Option<v1::CostEstimate> {
        estimate(&self.parts.engine, caller.tenant, &run.name, &run.tasks)
    }

    /// Checks a spec against everything that it is about: workflows, conversations, agents, workers.
    async fn check(&self, caller: &Caller, mut spec: v1::RunSpec) -> Result<CheckedRun, Status> {
        let mut workflow = String::new();
        if let Some(call) = spec.workflow.take() {
            (spec, workflow) = self.compile(spec, call).await?;
        }
        let conversations = self.follow_ups.find(caller, &spec).await?;
        let catalogue = match spec.request {
            Some(_) => catalogue(&self.parts.engine, &self.parts.workers, caller.tenant).await?,
            None => Catalogue::default(),
        };
        let wanted = Wanted {
            catalogue,
            workers: Arc::clone(&self.parts.workers),
            conversations,
            clock: Arc::clone(&self.parts.clock),
        };
        let small = spec.encoded_len() <= SMALL_SPEC_BYTES;
        let checked = if small { wanted.check(spec) } else { blocking(move || wanted.check(spec)).await? };
        Ok(CheckedRun { workflow, ..checked? })
    }

    /// The spec that a workflow stands for, and the workflow's name. What the workflow does not say is taken from the spec
    /// that calls it.
    async fn compile(
        &self,
        outer: v1::RunSpec,
        call: v1::WorkflowCall,
    ) -> Result<(v1::RunSpec, String), Status> {
        if !outer.tasks.is_empty() || outer.request.is_some() {
            let message = "a run is a workflow, a request to be planned, or tasks: only one of them";
            return Err(refuse_field(ErrorCode::InvalidField, "workflow", message));
        }
        if call.definition.len() > MAX_DEFINITION_BYTES {
            let message = format!("{} bytes; at most {MAX_DEFINITION_BYTES}", call.definition.len());
            return Err(refuse_field(ErrorCode::TooLarge, "workflow.definition", message));
        }
        let in_force = self.parts.workers.workflows(self.parts.clock.wall());
        let compiled = blocking(move || workflows::compile(&call, &in_force)).await?;
        let compiled =
            compiled.map_err(|problems| refuse_field(code_of(&problems), "workflow", in_lines(&problems)))?;
        let name = compiled.name.clone();
        Ok((joined(outer, compiled), name))
    }

    /// The run that the same submit made before. What was right then may be refused now: a worker or a workflow is gone,
    /// a conversation went on, `@last` has become another run. The engine is asked with a task that waits for itself: it
    /// knows the request, or it refuses.
    async fn known(&self, request: Prepare) -> Option<SubmitRunResponse> {
        if request.request_id.is_empty() || request.validate_only {
            return None;
        }
        let circle = NewTask {
            id: Arc::from("known"),
            worker: Arc::from("noop"),
            dependencies: vec![TaskIndex(0)],
            priority: 0,
            timeout: Span(1),
            retries: 0,
            requires: Vec::new(),
            pinned: None,
            on_loss: OnLoss::Fast,
            prefetch: 0,
            flow: Flow::default(),
            meter: None,
            expected_micro_usd: None,
        };
        let submit = Submit {
            token: Token::default(),
            tenant: request.tenant,
            name: Arc::from("known"),
            submitted_by: request.submitted_by,
            request_id: request.request_id,
            spec_digest: request.spec_digest,
            labels: Vec::new(),
            tasks: vec![circle],
            validate_only: false,
            shape: Shape::default(),
        };
        let answer = self.parts.engine.submit(submit, SubmitPayload::default()).await.ok()?;
        submitted(answer).ok().filter(|response| response.existing)
    }
}

/// The workers in force and what the agents of a tenant offer now, as far as a planner is told.
pub(crate) async fn catalogue(
    engine: &Handle,
    workers: &WorkersInForce,
    tenant: TenantId,
) -> Result<Catalogue, Status> {
    let mut agents: Vec<AgentView> = Vec::new();
    while agents.len() < MAX_CATALOGUE_AGENTS {
        let after = agents.last().map(|agent| Arc::clone(&agent.name));
        let query = Query::Agents { after, limit: AGENTS_AT_A_TIME };
        let Answer::Agents(page) = ask(engine, tenant, query).await? else { return Err(unexpected()) };
        let last = page.len() < AGENTS_AT_A_TIME;
        agents.extend(page);
        if last {
            break;
        }
    }
    Ok(Catalogue::of(workers, &agents))
}

/// What earlier work of the same kind says that tasks of a run of this name will cost.
pub(super) fn estimate(
    engine: &Handle,
    tenant: TenantId,
    name: &str,
    tasks: &[CheckedTask],
) -> Option<v1::CostEstimate> {
    let tasks = tasks.iter().filter_map(|task| match &task.runner {
        CheckedRunner::Worker(worker) => {
            Some(EstimateTask { worker: &worker.worker.name, model: &worker.model, task_id: &task.id })
        }
        CheckedRunner::Command(_) | CheckedRunner::Noop | CheckedRunner::Publish(_) => None,
    });
    engine.ledger().book().estimate(tenant, name, tasks)
}

/// The compiled workflow, with what only its caller says.
fn joined(outer: v1::RunSpec, compiled: v1::RunSpec) -> v1::RunSpec {
    let mut labels = compiled.labels;
    labels.extend(outer.labels);
    let or = |own: i32, other: i32| if own == 0 { other } else { own };
    v1::RunSpec {
        labels,
        context_files: if compiled.context_files.is_empty() {
            outer.context_files
        } else {
            compiled.context_files
        },
        on_failure: or(compiled.on_failure, outer.on_failure),
        budget: outer.budget.or(compiled.budget),
        max_parallel: if compiled.max_parallel == 0 { outer.max_parallel } else { compiled.max_parallel },
        workspace: if compiled.workspace.is_empty() { outer.workspace } else { compiled.workspace },
        no_cache: outer.no_cache || compiled.no_cache,
        ..compiled
    }
}

/// A single problem has its own row of the code table; several are a workflow that cannot be used.
fn code_of(problems: &[v1::PromptProblem]) -> ErrorCode {
    let only = match problems {
        [only] => ErrorCode::from_code(&only.code),
        _ => None,
    };
    only.unwrap_or(ErrorCode::InvalidWorkflow)
}

/// Problems of a workflow as one message; who wants all of them, with their places apart, asks `CompileWorkflow`.
fn in_lines(problems: &[v1::PromptProblem]) -> String {
    let line = |problem: &v1::PromptProblem| {
        let v1::PromptProblem { path, line, column, message, help, .. } = problem;
        let help = if help.is_empty() { String::new() } else { format!("; {help}") };
        match line {
            0 => format!("{path}: {message}{help}"),
            _ => format!("{path}:{line}:{column}: {message}{help}"),
        }
    };
    let mut lines: Vec<String> = problems.iter().take(MAX_PROBLEMS_SAID).map(line).collect();
    if problems.len() > MAX_PROBLEMS_SAID {
        lines.push(format!("and {} more", problems.len() - MAX_PROBLEMS_SAID));
    }
    let mut text = lines.join("\n");
    cut_text(&mut text, MAX_PROBLEM_BYTES);
    text
}

/// A spec with its digest, which is over the spec as this version writes it, so that it does not depend on how a client
/// encodes.
async fn digest(spec: v1::RunSpec) -> Result<(v1::RunSpec, [u8; 32]), Status> {
    let digested = |spec: v1::RunSpec| {
        let digest = Sha256::digest(spec.encode_to_vec()).into();
        (spec, digest)
    };
    if spec.encoded_len() <= SMALL_SPEC_BYTES {
        return Ok(digested(spec));
    }
    blocking(move || digested(spec)).await
}

/// What a spec is checked against, owned: the check may be made on another thread.
struct Wanted {
    workers: Arc<WorkersInForce>,
    catalogue: Catalogue,
    conversations: BTreeMap<String, Conversation>,
    clock: Arc<dyn Clock>,
}

impl Wanted {
    fn check(&self, spec: v1::RunSpec) -> Result<CheckedRun, Status> {
        let given = Given {
            workers: &*self.workers,
            catalogue: &self.catalogue,
            submitted: self.clock.wall(),
            conversations: &self.conversations,
        };
        CheckedRun::check(spec, &given).map_err(|error| from_spec_error(&error))
    }
}

fn submitted(answer: Answer) -> Result<SubmitRunResponse, Status> {
    let Answer::Submitted { run, existing, impossible } = answer else { return Err(unexpected()) };
    Ok(SubmitRunResponse {
        run: run.as_ref().map(convert::run),
        existing,
        impossible: convert::impossible(&impossible),
        estimate: None,
    })
}

/// Checks an idempotency key; an empty one means none.
///
/// # Errors
/// `INVALID_REQUEST_ID`.
pub fn check_request_id(id: &str) -> Result<(), Status> {
    if id.len() <= MAX_REQUEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let message = format!("1 to {MAX_REQUEST_ID} printable ASCII characters without blanks");
    Err(refuse_field(ErrorCode::InvalidRequestId, "request_id", message))
}

fn prepare_status(error: &PrepareError) -> Status {
    match error {
        PrepareError::LabelsTooLong { .. } => refuse_field(ErrorCode::TooLarge, "labels", error.to_string()),
        PrepareError::Blob(_) | PrepareError::BrokenOff(_) | PrepareError::Spec(_) => {
            internal("the run cannot be stored", error)
        }
    }
}

fn submit_status(error: &SubmitError) -> Status {
    match error {
        SubmitError::Gone(_) => gone(),
        SubmitError::DiskLow => refuse(ErrorCode::DiskLow, error.to_string()),
        SubmitError::PlanningTooLong { .. } => refuse(ErrorCode::TooLarge, error.to_string()),
    }
}

#[cfg(test)]
mod tests;
