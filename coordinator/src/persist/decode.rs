//! From store records back to what the core restores and what readers show.
//! Knows every field of both; refuses what a field cannot be, and says of which record it was.

use std::collections::HashSet;
use std::sync::Arc;

use orch_core::budgets::{OpenBill, Spent};
use orch_core::effect::Payload;
use orch_core::event::{After, Flow, NewTask, Planning, Role, Shape};
use orch_core::ids::{AttemptNo, RunId, TaskIndex, TenantId};
use orch_core::limits::LimitHit;
use orch_core::outcome::Outcome;
use orch_core::state::{
    EndedAttempt, RestoredAgent, RestoredRequest, RestoredRun, RestoredTask, RunState, TaskProgress,
};
use orch_core::time::{Now, Span, Tick, Wall};
use orch_proto::store::v1::{self as record, stored_spec};
use orch_proto::v1;

use prost::Message as _;

use super::meter::meter;
use crate::rpc::convert;

/// Commands that an agent may hold beyond its slots: enough that a slot never waits for the way there and back of a short one.
pub(crate) const PREFETCH: u32 = 16;

/// The same of tasks that do nothing, of which one ends before the next can be sent. They share commits and frames, so the
/// more of them are on their way the less each costs.
const NOOP_PREFETCH: u32 = 128;

/// Why a record cannot be restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {value}, which this version does not know")]
pub struct FieldError {
    field: &'static str,
    value: i64,
}

impl FieldError {
    pub(super) const fn new(field: &'static str, value: i64) -> Self {
        Self { field, value }
    }
}

/// Shares equal texts: names of agents, workers and requirements repeat a million times.
#[derive(Debug, Default)]
pub struct Interner {
    known: HashSet<Arc<str>>,
}

/// Texts an [`Interner`] keeps; one more and it starts afresh. Ids of tasks pass through it once each.
const MAX_INTERNED: usize = 65_536;

impl Interner {
    /// The shared copy of `text`.
    pub fn intern(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return Arc::clone(known);
        }
        if self.known.len() == MAX_INTERNED {
            self.known.clear();
        }
        let fresh: Arc<str> = Arc::from(text);
        self.known.insert(Arc::clone(&fresh));
        fresh
    }

    fn all(&mut self, texts: &[String]) -> Vec<Arc<str>> {
        texts.iter().map(|text| self.intern(text)).collect()
    }
}

/// A run without its tasks.
///
/// # Errors
/// [`FieldError`].
pub fn run(
    tenant: TenantId,
    id: RunId,
    stored: &record::RunRecord,
    shared: &mut Interner,
) -> Result<RestoredRun, FieldError> {
    let labels: Vec<_> =
        stored.labels.iter().map(|(key, value)| (shared.intern(key), shared.intern(value))).collect();
    let digest = stored.spec_digest.as_slice();
    Ok(RestoredRun {
        id,
        tenant,
        name: shared.intern(&stored.name),
        number: stored.number,
        submitted_by: shared.intern(&stored.submitted_by),
        created: now(stored.created_tick, stored.created_ms),
        state: run_state(stored)?,
        finished: moment(stored.finished_tick, stored.finished_ms),
        labels,
        request_id: Arc::from(stored.request_id.as_str()),
        spec_digest: digest
            .try_into()
            .map_err(|_| FieldError { field: "the length of spec_digest", value: length(digest.len()) })?,
        outcome: outcome("the run's outcome", stored.outcome)?,
        shape: shape(stored, shared),
        detail: Arc::from(stored.detail.as_str()),
        task_count: stored.task_count,
        dead: stored.dead,
        tasks: Vec::new(),
    })
}

/// How the tasks of a run go together. A policy of a later version counts as the ordinary one.
fn shape(stored: &record::RunRecord, shared: &mut Interner) -> Shape {
    let policy = v1::FailurePolicy::try_from(stored.on_failure).unwrap_or_default();
    Shape {
        policy: convert::failure_policy_from_wire(policy),
        max_parallel: stored.max_parallel,
        planning: stored.planning.as_ref().map(|planning| Planning {
            approve: planning.approve,
            plan_only: planning.plan_only,
            expanded: planning.expanded,
        }),
        workflow: (!stored.workflow.is_empty()).then(|| shared.intern(&stored.workflow)),
        budget: stored.budget.as_ref().and_then(convert::budgets::limit_from_wire),
        first_budget_micro_usd: stored.first_budget_micro_usd,
        settings: stored.planning.clone().map(settings).unwrap_or_default(),
    }
}

/// What is kept of how a run is planned, as it was submitted.
#[must_use]
pub fn settings(planning: record::PlanningRecord) -> Payload {
    record::PlanningRecord { expanded: false, ..planning }.encode_to_vec().into()
}

/// State of a run.
///
/// # Errors
/// [`FieldError`].
pub fn run_state(stored: &record::RunRecord) -> Result<RunState, FieldError> {
    let error = FieldError { field: "the run's state", value: stored.state.into() };
    let state = v1::RunState::try_from(stored.state).ok().and_then(convert::run_state_from_wire);
    state.ok_or(error)
}

/// A task with what became of it.
///
/// # Errors
/// [`FieldError`].
pub fn task(
    spec: &record::StoredSpec,
    progress: Option<&record::TaskRecord>,
    shared: &mut Interner,
) -> Result<RestoredTask, FieldError> {
    let progress = progress.map(|stored| task_progress(stored, shared)).transpose()?;
    Ok(RestoredTask { spec: new_task(spec, shared)?, progress })
}

/// A task as it was submitted.
///
/// # Errors
/// [`FieldError`].
pub fn new_task(spec: &record::StoredSpec, shared: &mut Interner) -> Result<NewTask, FieldError> {
    let (worker, prefetch) = match &spec.runner {
        Some(stored_spec::Runner::Worker(task)) => (task.worker.as_str(), 0),
        Some(stored_spec::Runner::Command(_) | stored_spec::Runner::PackedCommand(_)) => {
            ("command", PREFETCH)
        }
        Some(stored_spec::Runner::Noop(_)) => ("noop", NOOP_PREFETCH),
        Some(stored_spec::Runner::Publish(_)) => ("publish", 0),
        None => return Err(FieldError { field: "the task's runner", value: 0 }),
    };
    let on_loss = v1::OnLoss::try_from(spec.on_loss)
        .map_err(|_| FieldError { field: "the task's on_loss", value: spec.on_loss.into() })?;
    Ok(NewTask {
        id: Arc::from(spec.task_id.as_str()),
        worker: shared.intern(worker),
        dependencies: spec.dependencies.iter().copied().map(TaskIndex).collect(),
        priority: spec.priority,
        timeout: Span(spec.timeout_ms),
        retries: spec.retries,
        requires: shared.all(&spec.requires),
        pinned: (!spec.agent.is_empty()).then(|| shared.intern(&spec.agent)),
        on_loss: convert::on_loss_from_wire(on_loss),
        prefetch,
        flow: flow(spec),
        meter: meter(spec, shared),
        expected_micro_usd: spec.expected_cost_micro_usd,
    })
}

/// A task's part in its run. Numbers of a later version count as the ordinary ones.
fn flow(spec: &record::StoredSpec) -> Flow {
    let role = match v1::TaskRole::try_from(spec.role) {
        Ok(v1::TaskRole::Plan) => Role::Plan,
        Ok(v1::TaskRole::Synthesis) => Role::Synthesis,
        Ok(v1::TaskRole::Review) => Role::Review,
        Ok(v1::TaskRole::Publish) => Role::Publish,
        Ok(v1::TaskRole::Unspecified | v1::TaskRole::Work) | Err(_) => Role::Work,
    };
    Flow {
        role,
        after: if spec.after == i32::from(v1::After::End) { After::End } else { After::Success },
        conditional: !spec.conditions.is_empty(),
        reviewed: spec.reviewed,
        repairs: spec.repairs,
        of: matches!(role, Role::Review | Role::Publish).then_some(TaskIndex(spec.of)),
    }
}

/// The changing part of a task.
///
/// # Errors
/// [`FieldError`].
pub fn task_progress(stored: &record::TaskRecord, shared: &mut Interner) -> Result<TaskProgress, FieldError> {
    let state = v1::TaskState::try_from(stored.state).ok().and_then(convert::task_state_from_wire);
    let usage = stored.usage.as_ref().map(convert::usage_from_wire).unwrap_or_default();
    let unknown = FieldError { field: "the task's state", value: stored.state.into() };
    Ok(TaskProgress {
        state: state.ok_or(unknown)?,
        attempt: AttemptNo(stored.attempt),
        agent: (!stored.agent.is_empty()).then(|| shared.intern(&stored.agent)),
        granted: (stored.attempt > 0).then(|| now(stored.granted_tick, stored.granted_ms)),
        finished: (stored.finished_ms != 0).then_some(Wall(stored.finished_ms)),
        outcome: outcome("the task's outcome", stored.outcome)?,
        crashes: stored.crashes,
        failures: stored.failures,
        retry: (stored.retry_tick != 0).then_some(Tick(stored.retry_tick)),
        attempts: stored.attempts.iter().map(|ended| attempt(ended, shared)).collect::<Result<_, _>>()?,
        usage,
        since: Tick(stored.since_tick),
        crashed_on: shared.all(&stored.crashed_on),
        repairs: stored.repairs,
        afresh: AttemptNo(stored.afresh),
        note: (!stored.note.is_empty()).then(|| Arc::from(stored.note.as_str())),
        parked: (stored.state == i32::from(v1::TaskState::Parked)).then(|| LimitHit {
            pool: shared.intern(&stored.pool),
            window: shared.intern(&stored.window),
            exhausted: true,
        }),
        allowed: money(stored.allowed_micro_usd, stored.allowed_tokens),
        pool: (stored.state != i32::from(v1::TaskState::Parked) && !stored.pool.is_empty())
            .then(|| shared.intern(&stored.pool)),
        open: stored.open.iter().map(|open| open_bill(open, shared)).collect(),
    })
}

fn open_bill(stored: &record::OpenBillRecord, shared: &mut Interner) -> OpenBill {
    OpenBill {
        attempt: AttemptNo(stored.attempt),
        most: money(stored.micro_usd, stored.tokens),
        pool: shared.intern(&stored.pool),
    }
}

const fn money(micro_usd: u64, tokens: u64) -> Spent {
    Spent { micro_usd, tokens, runs: 0 }
}

/// An agent.
#[must_use]
pub fn agent(
    tenant: TenantId,
    name: &str,
    stored: &record::AgentRecord,
    shared: &mut Interner,
) -> RestoredAgent {
    RestoredAgent {
        tenant,
        name: shared.intern(name),
        slots: stored.slots,
        capabilities: shared.all(&stored.capabilities),
        last_seen: Wall(stored.last_seen_ms),
        labels: shared.all(&stored.labels),
        hidden: shared.all(&stored.hidden),
        drain: (!stored.drain_reason.is_empty()).then(|| Arc::from(stored.drain_reason.as_str())),
        quarantine: (!stored.quarantine_reason.is_empty())
            .then(|| Arc::from(stored.quarantine_reason.as_str())),
    }
}

/// A request that is not remembered with a run.
///
/// # Errors
/// [`FieldError`].
pub fn request(tenant: TenantId, stored: &record::RequestRecord) -> Result<RestoredRequest, FieldError> {
    let digest = stored.digest.as_slice();
    let error = FieldError { field: "the length of a request's digest", value: length(digest.len()) };
    Ok(RestoredRequest {
        tenant,
        id: Arc::from(stored.request_id.as_str()),
        run: RunId(stored.run_id),
        digest: digest.try_into().map_err(|_| error)?,
        at: Tick(stored.tick),
        retried: stored.retried,
    })
}

fn attempt(stored: &record::AttemptRecord, shared: &mut Interner) -> Result<EndedAttempt, FieldError> {
    let field = "the attempt's outcome";
    let outcome = outcome(field, stored.outcome)?;
    let digest = stored.digest.as_slice();
    let digest = (!digest.is_empty()).then(|| {
        let error = FieldError { field: "the length of an attempt's digest", value: length(digest.len()) };
        digest.try_into().map_err(|_| error)
    });
    Ok(EndedAttempt {
        number: AttemptNo(stored.number),
        agent: shared.intern(&stored.agent),
        started: Wall(stored.started_ms),
        finished: Wall(stored.finished_ms),
        outcome: outcome.ok_or(FieldError { field, value: 0 })?,
        detail: Arc::from(stored.detail.as_str()),
        cost_micro_usd: stored.cost_micro_usd,
        digest: digest.transpose()?,
        awaits_bill: stored.awaits_bill,
        duration: None,
    })
}

fn outcome(field: &'static str, number: i32) -> Result<Option<Outcome>, FieldError> {
    match convert::outcome_from_wire(number) {
        None if number != 0 => Err(FieldError { field, value: number.into() }),
        outcome => Ok(outcome),
    }
}

fn now(tick: u64, wall: i64) -> Now {
    Now { tick: Tick(tick), wall: Wall(wall) }
}

/// A moment that may be absent; 1970 at tick 0 is no moment.
fn moment(tick: u64, wall: i64) -> Option<Now> {
    (tick != 0 || wall != 0).then(|| now(tick, wall))
}

fn length(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
