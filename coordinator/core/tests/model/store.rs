//! The driver's part: writes encoded from the state as they come, and a load of nothing but them.

use orch_core::Config;
use orch_core::budgets::BudgetRecordView;
use orch_core::effect::Write;
use orch_core::event::NewTask;
use orch_core::ids::{EventSeq, RunId, TaskIndex, TaskKey, TenantId};
use orch_core::state::{RestoredAgent, RestoredRequest, RestoredRun, RestoredTask, State, TaskProgress};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is durable.
#[derive(Debug, Clone, Default)]
pub struct Store {
    runs: BTreeMap<RunId, RestoredRun>,
    names: BTreeMap<(TenantId, Arc<str>), u64>,
    agents: BTreeMap<(TenantId, Arc<str>), RestoredAgent>,
    requests: BTreeMap<(TenantId, Arc<str>), RestoredRequest>,
    budgets: BTreeMap<(TenantId, Arc<str>), BudgetRecordView>,
    seq: EventSeq,
    last_run: RunId,
}

impl Store {
    /// Makes writes durable. `specs` are those of the submit, if the event was one.
    /// For tasks that joined a run they are all of it, in order.
    pub fn commit(&mut self, state: &State, writes: &[Write], specs: Option<Vec<NewTask>>) {
        let mut specs = specs;
        for write in writes {
            match write {
                Write::NewRun(run) => {
                    let tasks = specs.take().expect("a submit").into_iter();
                    let tasks = tasks.map(|spec| RestoredTask { spec, progress: None }).collect();
                    self.runs.insert(*run, header(state, *run, tasks));
                }
                Write::Expanded(run) => {
                    let known = std::mem::take(&mut self.runs.get_mut(run).expect("a known run").tasks);
                    let mut known = known.into_iter().map(|task| task.progress);
                    let specs = specs.take().expect("an expansion").into_iter();
                    let tasks =
                        specs.map(|spec| RestoredTask { spec, progress: known.next().flatten() }).collect();
                    self.runs.insert(*run, header(state, *run, tasks));
                }
                Write::Run(run) => {
                    let tasks = self.runs[run].tasks.clone();
                    self.runs.insert(*run, header(state, *run, tasks));
                }
                Write::Task { task, .. } => {
                    let record = state.task_record(*task).expect("a live task");
                    let run = self.runs.get_mut(&task.run).expect("a known run");
                    run.tasks[task.index.0 as usize].progress = Some(record.to_progress());
                }
                Write::ForgetRun { run, tenant, tasks, newest_of } => {
                    let gone = self.runs.remove(run).expect("a known run");
                    assert_eq!((gone.tenant, gone.task_count), (*tenant, *tasks));
                    if let Some((name, number)) = newest_of {
                        self.names.insert((*tenant, name.clone()), *number);
                    }
                }
                Write::Agent(key) => {
                    let agent = state.agent_record(*key).expect("a known agent");
                    let record = RestoredAgent {
                        tenant: agent.tenant,
                        name: agent.name.clone(),
                        slots: agent.slots,
                        capabilities: agent.capabilities.to_vec(),
                        last_seen: agent.last_seen,
                        labels: agent.labels.to_vec(),
                        hidden: agent.hidden.to_vec(),
                        drain: agent.drain.cloned(),
                        quarantine: agent.quarantine.cloned(),
                    };
                    self.agents.insert((agent.tenant, agent.name.clone()), record);
                }
                Write::ForgetAgent { tenant, name } => {
                    self.agents.remove(&(*tenant, name.clone())).expect("a stored agent");
                }
                Write::Request { tenant, id } => {
                    let request = state.request_record(*tenant, id).expect("a remembered request");
                    self.requests.insert((*tenant, id.clone()), request);
                }
                Write::Budget { tenant, name } => {
                    // One that was removed by the same event is no more.
                    if let Some(record) = state.budget_record(*tenant, name) {
                        self.budgets.insert((*tenant, name.clone()), record);
                    }
                }
                Write::ForgetBudget { tenant, name } => {
                    self.budgets.remove(&(*tenant, name.clone())).expect("a stored budget");
                }
                Write::ForgetRequest { tenant, id } => {
                    self.requests.remove(&(*tenant, id.clone())).expect("a stored request");
                }
            }
        }
        self.seq = state.event_seq();
        self.last_run = state.last_run();
    }

    /// A state from what is durable. Terminal runs keep their tasks only when `live`.
    pub fn load(&self, config: Config, live: bool) -> State {
        let mut state = State::new(config);
        for ((tenant, name), number) in &self.names {
            state.restore_name(*tenant, name, *number);
        }
        for agent in self.agents.values() {
            state.restore_agent(agent.clone());
        }
        for run in self.runs.values() {
            let mut run = run.clone();
            if run.state.is_terminal() && !live {
                run.tasks.clear();
            }
            state.restore_run(run);
        }
        for request in self.requests.values() {
            state.restore_request(request);
        }
        for budget in self.budgets.values() {
            state.restore_budget(budget.clone());
        }
        state.restore_seq(self.seq);
        state.restore_last_run(self.last_run);
        state.finish_restore().expect("what was written fits together");
        state
    }

    pub fn run(&self, run: RunId) -> Option<&RestoredRun> {
        self.runs.get(&run)
    }

    pub fn runs(&self) -> impl Iterator<Item = &RestoredRun> {
        self.runs.values()
    }

    /// What every live task is like now.
    pub fn tasks(&self, state: &State) -> BTreeMap<TaskKey, TaskProgress> {
        let keys = self
            .runs
            .values()
            .flat_map(|run| (0..run.task_count).map(TaskIndex).map(|index| TaskKey { run: run.id, index }));
        keys.filter_map(|key| Some((key, state.task_record(key)?.to_progress()))).collect()
    }
}

fn header(state: &State, id: RunId, tasks: Vec<RestoredTask>) -> RestoredRun {
    let run = state.run_record(id).expect("a live run");
    RestoredRun {
        id,
        tenant: run.tenant,
        name: run.name.clone(),
        number: run.number,
        submitted_by: run.submitted_by.clone(),
        created: run.created,
        state: run.state,
        finished: run.finished,
        labels: run.labels.to_vec(),
        request_id: run.request_id.clone(),
        spec_digest: *run.spec_digest,
        outcome: run.outcome,
        shape: run.shape.clone(),
        detail: run.detail.clone(),
        task_count: run.task_count,
        dead: run.dead,
        tasks,
    }
}
