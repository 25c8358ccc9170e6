//! The state as its records: what the driver reads when it encodes a write or an assignment.

use crate::budgets::{BudgetRecordView, BudgetView, Spent};
use crate::ids::{AgentKey, AttemptKey, AttemptNo, RunId, TaskKey, TenantId};
use crate::machine::budgets;
use crate::state::State;
use crate::state::record::{AgentRecordView, GrantView, RestoredRequest, RunRecordView, TaskRecordView};
use std::sync::Arc;

impl State {
    /// What a run's record says now; `None` when it is not live.
    #[must_use]
    pub fn run_record(&self, id: RunId) -> Option<RunRecordView<'_>> {
        let run = self.run(id)?;
        Some(RunRecordView {
            id,
            tenant: run.tenant,
            name: self.names.word(run.name),
            number: run.number,
            submitted_by: self.names.word(run.submitted_by),
            created: run.created,
            state: run.state,
            finished: run.finished,
            task_count: run.task_count(),
            labels: &run.labels,
            request_id: &run.request_id,
            spec_digest: &run.spec_digest,
            outcome: run.outcome,
            usage: &run.usage,
            counts: run.counts,
            shape: &run.shape,
            detail: &run.detail,
            dead: self.register.dead.get(&(run.tenant, id)).copied().unwrap_or(0),
        })
    }

    /// What a task's record says now; `None` when its run is not live.
    #[must_use]
    pub fn task_record(&self, key: TaskKey) -> Option<TaskRecordView<'_>> {
        let run = self.run(key.run)?;
        let task = run.tasks.get(key.index.0 as usize)?;
        let granted = (task.attempt.0 > 0).then_some(task.granted);
        let hold = self.budgets.holds.get(&AttemptKey { task: key, attempt: task.attempt });
        let hold = hold.filter(|hold| hold.ended.is_none());
        Some(TaskRecordView {
            key,
            tenant: run.tenant,
            task_count: run.task_count(),
            task_id: &task.id,
            state: task.state,
            attempt: task.attempt,
            agent: task.agent.map(|agent| &self.agents.get(agent).name),
            granted,
            finished: task.finished,
            outcome: task.outcome,
            crashes: task.crashes,
            failures: task.failures,
            retry: task.state.waits_for_time().then_some(task.retry),
            parked: task.parked(),
            attempts: task.attempts(),
            usage: task.usage(),
            since: task.since,
            crashed_on: task.crashed_on(),
            repairs: task.repairs,
            afresh: task.history.as_ref().map_or(AttemptNo(0), |history| history.afresh),
            note: if task.state.is_terminal() { task.note() } else { None },
            allowed: hold.map_or_else(Spent::default, |hold| hold.promised.into()),
            pool: hold.map(|hold| &hold.pool).filter(|pool| !pool.is_empty()),
            open: budgets::open_bills(self, key),
        })
    }

    /// What the record of a standing budget says; `None` when there is none of that name.
    #[must_use]
    pub fn budget_record(&self, tenant: TenantId, name: &Arc<str>) -> Option<BudgetRecordView> {
        budgets::record(self, tenant, name)
    }

    /// The records of a tenant's standing budgets, by name.
    #[must_use]
    pub fn budgets(&self, tenant: TenantId) -> Vec<BudgetRecordView> {
        let names = self.budgets.of_tenant(tenant).map(|(name, _)| name);
        names.filter_map(|name| budgets::record(self, tenant, name)).collect()
    }

    /// The budget of a live run and how far it is used.
    #[must_use]
    pub fn run_budget(&self, id: RunId) -> Option<BudgetView> {
        budgets::run_budget(self, id)
    }

    /// What an agent's record says now.
    #[must_use]
    pub fn agent_record(&self, key: AgentKey) -> Option<AgentRecordView<'_>> {
        let agent = self.agents.known(key)?;
        Some(AgentRecordView {
            tenant: agent.tenant,
            name: &agent.name,
            slots: agent.slots,
            capabilities: &agent.own,
            last_seen: agent.last_seen,
            labels: &agent.orders.labels,
            hidden: &agent.orders.hidden,
            drain: agent.orders.drain.as_ref(),
            quarantine: agent.quarantine.as_ref(),
        })
    }

    /// What the record of a request says; `None` when it is not remembered, or remembered with its run.
    #[must_use]
    pub fn request_record(&self, tenant: TenantId, id: &Arc<str>) -> Option<RestoredRequest> {
        let request = self.register.requests.get(tenant, id)?;
        Some(RestoredRequest {
            tenant,
            id: Arc::clone(id),
            run: request.run,
            digest: request.digest,
            at: request.at,
            retried: request.retried?,
        })
    }

    /// What an assignment says; `None` when the attempt is no longer current.
    #[must_use]
    pub fn grant_view(&self, attempt: AttemptKey) -> Option<GrantView> {
        let run = self.run(attempt.task.run)?;
        let task = run.tasks.get(attempt.task.index.0 as usize)?;
        if !task.state.is_held() || task.attempt != attempt.attempt {
            return None;
        }
        Some(GrantView {
            tenant: run.tenant,
            run_ref: Arc::clone(&run.run_ref),
            task_count: run.task_count(),
            task_id: Arc::clone(&task.id),
            worker: Arc::clone(self.names.word(task.worker)),
            agent: Arc::clone(&self.agents.get(task.agent?).name),
            timeout: task.timeout,
            on_loss: task.on_loss,
            epoch: self.epoch,
            sent_back: task.repairs > 0,
            allowance: budgets::allowance(self, attempt),
            own_budget: budgets::own_budget(self, attempt.task, task.agent?),
            interrupted: task.interrupted(&self.config).filter(|_| task.repairs == 0).cloned(),
        })
    }
}
