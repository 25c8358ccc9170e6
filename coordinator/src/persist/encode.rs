//! From the core's record views to store records.
//! Knows every field of both; leaves out what the state does not hold (specs, results) as gaps of a `Draft`.

use std::sync::Arc;

use orch_core::budgets::OpenBill;
use orch_core::event::Shape;
use orch_core::ids::TenantId;
use orch_core::state::{AgentRecordView, EndedAttempt, RestoredRequest, RunRecordView, TaskRecordView};
use orch_proto::store::v1 as record;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::draft::{Draft, Part};
use super::fit::{self, MAX_DETAIL_BYTES};
use super::{LONE_PAGE_BYTES, MAX_RESULT_BYTES, PART_OVERHEAD_BYTES};
use crate::rpc::convert;
use crate::store::{Key, KeyError, MAX_VALUE_BYTES, Tenant};

/// Most that the numbers of a run's record take, tags included: name number, two moments, states, counts, digest, policy,
/// limit, dead letters and a budget.
const RUN_NUMBERS_BYTES: usize = 11 + 4 * 11 + 2 * 2 + 6 + 34 + 3 + 7 + 7 + (3 + 3 * 11 + 2);

/// Most that the texts of a run take which come later or from a workflow: its detail and the workflow's name.
const RUN_LATER_BYTES: usize = 3 + MAX_DETAIL_BYTES + 2 + 63;

/// Texts of a run that lie in the head of its record.
#[derive(Debug, Clone, Copy)]
pub struct RunTexts<'a> {
    /// Name.
    pub name: &'a str,
    /// Who submitted it.
    pub submitted_by: &'a str,
    /// Idempotency key, or empty.
    pub request_id: &'a str,
    /// Labels.
    pub labels: &'a [(Arc<str>, Arc<str>)],
}

impl RunTexts<'_> {
    /// Encoded length of the labels.
    #[must_use]
    pub fn labels_bytes(&self) -> usize {
        // Entry, key and value each have a tag and a length; an entry may need two bytes for its own.
        self.labels.iter().map(|(key, value)| 1 + 2 + 2 + key.len() + 3 + value.len()).sum()
    }

    /// Most that the head of the run's record can ever take.
    fn head_bytes(&self) -> usize {
        let text = |text: &str| 1 + 2 + text.len();
        RUN_NUMBERS_BYTES
            + RUN_LATER_BYTES
            + text(self.name)
            + text(self.submitted_by)
            + text(self.request_id)
            + self.labels_bytes()
    }

    /// Longest spec page that fits the record of a run of one task.
    #[must_use]
    pub fn lone_page_bytes(&self) -> usize {
        MAX_VALUE_BYTES.saturating_sub(self.head_bytes() + PART_OVERHEAD_BYTES).min(LONE_PAGE_BYTES)
    }
}

/// The record of a run of several tasks.
pub(crate) fn run(view: &RunRecordView<'_>) -> Draft {
    let mut head = run_head(view);
    let usage = convert::usage(view.usage);
    head.usage = (!view.usage.is_zero()).then_some(usage);
    head.counts = view
        .counts
        .iter()
        .map(|(state, count)| orch_proto::v1::TaskStateCount {
            state: convert::task_state(state).into(),
            count,
        })
        .collect();
    fit::fit_run(&mut head, MAX_VALUE_BYTES);
    Draft::Whole { key: Key::run(Tenant::new(view.tenant.0), view.id.0), value: head.encode_to_vec() }
}

/// The one record of a run of one task.
pub(crate) fn lone_run(
    view: &RunRecordView<'_>,
    page: Part,
    task: &TaskRecordView<'_>,
    result: Part,
) -> Draft {
    let tenant = Tenant::new(view.tenant.0);
    Draft::Lone {
        run_key: Key::run(tenant, view.id.0),
        task_key: Key::task(tenant, view.id.0, task.key.index.0),
        head: run_head(view).encode_to_vec(),
        page,
        task: task_bytes(task),
        result,
    }
}

/// The record of a task of a run of several.
pub(crate) fn task(view: &TaskRecordView<'_>, result: Part) -> Draft {
    let key = Key::task(Tenant::new(view.tenant.0), view.key.run.0, view.key.index.0);
    Draft::Task { key, task: task_bytes(view), result }
}

/// The record of an agent.
///
/// # Errors
/// When its name does not fit a key; the names of certificates do.
pub(crate) fn agent(view: &AgentRecordView<'_>) -> Result<Draft, KeyError> {
    let mut agent = record::AgentRecord {
        slots: view.slots,
        capabilities: view.capabilities.iter().map(ToString::to_string).collect(),
        last_seen_ms: view.last_seen.0,
        labels: view.labels.iter().map(ToString::to_string).collect(),
        hidden: view.hidden.iter().map(ToString::to_string).collect(),
        drain_reason: view.drain.map(ToString::to_string).unwrap_or_default(),
        quarantine_reason: view.quarantine.map(ToString::to_string).unwrap_or_default(),
        ..record::AgentRecord::default()
    };
    fit::fit_agent(&mut agent, MAX_VALUE_BYTES);
    let key = Key::agent(Tenant::new(view.tenant.0), view.name)?;
    Ok(Draft::Whole { key, value: agent.encode_to_vec() })
}

/// Where [`agent`] lies.
///
/// # Errors
/// When its name does not fit a key.
pub(crate) fn agent_key(tenant: TenantId, name: &str) -> Result<Key, KeyError> {
    Key::agent(Tenant::new(tenant.0), name)
}

/// The record of a request that is not remembered with a run.
pub(crate) fn request(view: &RestoredRequest) -> Draft {
    let value = record::RequestRecord {
        request_id: view.id.to_string(),
        run_id: view.run.0,
        digest: view.digest.to_vec(),
        tick: view.at.0,
        retried: view.retried,
    };
    Draft::Whole { key: request_key(view.tenant, &view.id), value: value.encode_to_vec() }
}

/// Where [`request`] lies.
pub(crate) fn request_key(tenant: TenantId, id: &str) -> Key {
    Key::request(Tenant::new(tenant.0), &Sha256::digest(id).into())
}

/// The record that remembers the newest number of a name.
///
/// # Errors
/// When the name does not fit a key; the names of runs do.
pub(crate) fn name(tenant: Tenant, name: &str, last_number: u64, last_run: u64) -> Result<Draft, KeyError> {
    let key = Key::name(tenant, name)?;
    Ok(Draft::Whole { key, value: record::NameRecord { last_number, last_run }.encode_to_vec() })
}

fn run_head(view: &RunRecordView<'_>) -> record::RunRecord {
    let finished = view.finished.unwrap_or_default();
    record::RunRecord {
        name: view.name.to_string(),
        number: view.number,
        submitted_by: view.submitted_by.to_string(),
        created_ms: view.created.wall.0,
        created_tick: view.created.tick.0,
        state: convert::run_state(view.state).into(),
        finished_ms: finished.wall.0,
        finished_tick: finished.tick.0,
        task_count: view.task_count,
        labels: view.labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        request_id: view.request_id.to_string(),
        spec_digest: view.spec_digest.to_vec(),
        outcome: convert::outcome_field(view.outcome),
        on_failure: convert::failure_policy(view.shape.policy).into(),
        max_parallel: view.shape.max_parallel,
        planning: planning(view.shape),
        workflow: view.shape.workflow.as_ref().map(ToString::to_string).unwrap_or_default(),
        detail: text(view.detail),
        dead: view.dead,
        budget: view.shape.budget.as_ref().map(convert::budgets::limit),
        first_budget_micro_usd: view.shape.first_budget_micro_usd,
        ..record::RunRecord::default()
    }
}

/// How a run is planned: what the core decides by, in what the submit said beside it.
fn planning(shape: &Shape) -> Option<record::PlanningRecord> {
    let planning = shape.planning?;
    // Empty settings are those of a run that said nothing; this program encoded the others.
    let said = record::PlanningRecord::decode(&*shape.settings).unwrap_or_default();
    Some(record::PlanningRecord {
        approve: planning.approve,
        plan_only: planning.plan_only,
        expanded: planning.expanded,
        ..said
    })
}

/// A detail, no longer than its record takes.
fn text(detail: &str) -> String {
    let mut text = detail.to_owned();
    fit::cut_text(&mut text, MAX_DETAIL_BYTES);
    text
}

fn task_bytes(view: &TaskRecordView<'_>) -> Vec<u8> {
    let mut task = task_record(view);
    fit::fit_task(&mut task, MAX_VALUE_BYTES - MAX_RESULT_BYTES - PART_OVERHEAD_BYTES);
    task.encode_to_vec()
}

/// A task's record without its result, before it is made to fit.
pub(super) fn task_record(view: &TaskRecordView<'_>) -> record::TaskRecord {
    let granted = view.granted.unwrap_or_default();
    record::TaskRecord {
        state: convert::task_state(view.state).into(),
        attempt: view.attempt.0,
        agent: view.agent.map(ToString::to_string).unwrap_or_default(),
        granted_tick: granted.tick.0,
        granted_ms: granted.wall.0,
        finished_ms: view.finished.unwrap_or_default().0,
        outcome: convert::outcome_field(view.outcome),
        crashes: view.crashes,
        failures: view.failures,
        retry_tick: view.retry.unwrap_or_default().0,
        attempts: view.attempts.iter().map(attempt).collect(),
        usage: (!view.usage.is_zero()).then(|| convert::usage(view.usage)),
        result: None,
        since_tick: view.since.0,
        crashed_on: view.crashed_on.iter().map(ToString::to_string).collect(),
        repairs: view.repairs,
        note: view.note.map(|note| text(note)).unwrap_or_default(),
        afresh: view.afresh.0,
        allowed_micro_usd: view.allowed.micro_usd,
        allowed_tokens: view.allowed.tokens,
        open: view.open.iter().map(open_bill).collect(),
        pool: view.parked.map(|hit| &hit.pool).or(view.pool).map(|pool| text(pool)).unwrap_or_default(),
        window: view.parked.map(|hit| text(&hit.window)).unwrap_or_default(),
    }
}

fn open_bill(open: &OpenBill) -> record::OpenBillRecord {
    record::OpenBillRecord {
        attempt: open.attempt.0,
        micro_usd: open.most.micro_usd,
        tokens: open.most.tokens,
        pool: text(&open.pool),
    }
}

fn attempt(ended: &EndedAttempt) -> record::AttemptRecord {
    record::AttemptRecord {
        number: ended.number.0,
        agent: ended.agent.to_string(),
        started_ms: ended.started.0,
        finished_ms: ended.finished.0,
        outcome: convert::outcome_field(Some(ended.outcome)),
        detail: ended.detail.to_string(),
        cost_micro_usd: ended.cost_micro_usd,
        digest: ended.digest.map(|digest| digest.to_vec()).unwrap_or_default(),
        awaits_bill: ended.awaits_bill,
    }
}

#[cfg(test)]
mod tests;
