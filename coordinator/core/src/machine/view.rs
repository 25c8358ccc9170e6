//! Copies of the state for people: runs, tasks, agents, the coordinator in figures.
//! Changes nothing.

use crate::agents::{EVERYBODY, Link, serves};
use crate::ids::{AgentKey, RunId, TaskKey, TenantId};
use crate::machine::fitting::impossible_reason;
use crate::machine::leases::requeue_at;
use crate::machine::moves::ended;
use crate::query::{AgentStateView, AgentView, Impossible, RunView, StatusView, TaskView};
use crate::run::run_ref;
use crate::schedule::Class;
use crate::state::{Phase, State, TaskState};
use crate::time::{Span, Wall};
use crate::usage::Usage;
use std::sync::Arc;

/// Impossible tasks named in a view of a run.
const IMPOSSIBLE_NAMED: usize = 10;
/// Tasks named in a view of an agent.
const RUNNING_NAMED: usize = 20;

/// A live run.
pub(super) fn run_view(state: &State, id: RunId) -> Option<RunView> {
    let run = state.run(id)?;
    Some(RunView {
        id,
        tenant: run.tenant,
        run_ref: Arc::clone(&run.run_ref),
        state: run.state,
        created: run.created.wall,
        finished: run.finished.map(|now| now.wall),
        counts: run.counts.iter().collect(),
        task_count: run.task_count(),
        usage: run.usage.clone(),
        labels: run.labels.to_vec(),
        submitted_by: Arc::clone(state.names.word(run.submitted_by)),
        outcome: run.outcome,
        impossible: impossible_of(state, id),
        shape: run.shape.clone(),
        detail: Arc::clone(&run.detail),
        budget: crate::machine::budgets::run_budget(state, id),
    })
}

/// A finished run that is not live: only who it is, how it ended and how large it was. The rest is in the store.
pub(super) fn finished_run_view(state: &State, id: RunId) -> Option<RunView> {
    let run = state.register.finished.get(id)?;
    Some(RunView {
        id,
        tenant: run.tenant,
        run_ref: run_ref(state.names.word(run.name), run.number),
        state: run.state,
        created: Wall(0),
        finished: None,
        counts: Vec::new(),
        task_count: run.tasks,
        usage: Usage::default(),
        labels: Vec::new(),
        submitted_by: Arc::clone(state.names.word(run.submitted_by)),
        outcome: None,
        impossible: Vec::new(),
        shape: crate::event::Shape::default(),
        detail: Arc::clone(&state.empty),
        budget: None,
    })
}

fn impossible_of(state: &State, id: RunId) -> Vec<Impossible> {
    if state.agents.len() == 0 || state.run(id).is_none_or(|run| run.state.is_terminal()) {
        return Vec::new();
    }
    let hopeless = |class: &Class| impossible_reason(state, &class.key).is_some();
    let waiting = state.schedule.classes.waiting_of(id, hopeless);
    let named = waiting.into_iter().filter_map(|index| {
        let task = state.task(TaskKey { run: id, index })?;
        let reason = impossible_reason(state, &state.schedule.classes.get(task.class)?.key)?;
        Some(Impossible { task_id: Arc::clone(&task.id), reason })
    });
    named.take(IMPOSSIBLE_NAMED).collect()
}

/// A task of a live run.
pub(super) fn task_view(state: &State, key: TaskKey) -> Option<TaskView> {
    let run = state.run(key.run)?;
    let task = state.task(key)?;
    let lease = task.agent.and_then(|agent| state.agents.get(agent).leases.get(&key));
    let spent = lease.map_or(0, |lease| lease.cost_micro_usd);
    let running = lease.map(|lease| state.now.tick - lease.granted);
    Some(TaskView {
        index: key.index,
        id: Arc::clone(&task.id),
        state: task.state,
        worker: Arc::clone(state.names.word(task.worker)),
        dependencies: run
            .graph
            .dependencies(key.index)
            .iter()
            .map(|index| Arc::clone(&run.tasks[index.0 as usize].id))
            .collect(),
        attempt: task.attempt.0,
        agent: task.agent.map_or(&state.empty, |agent| &state.agents.get(agent).name).clone(),
        outcome: task.outcome,
        detail: detail(state, key),
        granted: (task.attempt.0 > 0).then_some(task.granted.wall),
        finished: task.finished,
        execution_time: running.or_else(|| task.attempts().last().and_then(|ended| ended.duration)),
        cost_micro_usd: task.usage().cost_micro_usd.saturating_add(spent),
        retry_in: task.state.waits_for_time().then(|| task.retry - state.now.tick),
        priority: task.priority,
        since: state.now.tick - task.since,
        role: task.flow.role,
        of: task.flow.of.and_then(|of| run.tasks.get(of.0 as usize)).map(|of| Arc::clone(&of.id)),
        repairs: task.repairs,
    })
}

/// Why a task is where it is, as far as something is known: a skipped one names what it waited for.
fn detail(state: &State, key: TaskKey) -> Arc<str> {
    let Some((run, task)) = state.run(key.run).zip(state.task(key)) else { return Arc::clone(&state.empty) };
    if task.state == TaskState::Skipped && task.note().is_none() {
        let dead = |held: TaskState| held.is_terminal() && held != TaskState::Succeeded;
        let mut causes = run.graph.dependencies(key.index).iter().map(|index| &run.tasks[index.0 as usize]);
        if let Some(cause) = causes.find(|cause| dead(cause.state)) {
            return format!("it waits for {}, which {}", cause.id, ended(cause.state)).into();
        }
    }
    task.detail().unwrap_or(&state.empty).clone()
}

/// A known agent.
pub(super) fn agent_view(state: &State, key: AgentKey) -> AgentView {
    let agent = state.agents.get(key);
    let requeue_in = requeue_at(state, key).map(|at| at - state.now.tick);
    let named = agent.leases.keys().take(RUNNING_NAMED).filter_map(|task| task_ref(state, *task));
    AgentView {
        name: Arc::clone(&agent.name),
        state: agent.state(),
        slots: agent.slots,
        slots_used: agent.used(),
        capabilities: agent.capabilities.clone(),
        labels: agent.orders.labels.clone(),
        hidden: agent.orders.hidden.clone(),
        drain: agent.orders.drain.clone(),
        quarantine: agent.quarantine.clone(),
        running: named.collect(),
        last_seen: agent.last_seen,
        requeue_in,
    }
}

/// `name/number/task`.
pub(super) fn task_ref(state: &State, key: TaskKey) -> Option<String> {
    let run = state.run(key.run)?;
    Some(format!("{}/{}", run.run_ref, run.tasks.get(key.index.0 as usize)?.id))
}

/// The coordinator in figures, as a tenant sees it: runs and tasks of everybody, agents of its own.
pub(super) fn status_view(state: &State, tenant: TenantId) -> StatusView {
    let tasks = |wanted: TaskState| state.totals.tasks[wanted as usize];
    let demand = super::demand::demand(state, tenant);
    let mut view = StatusView {
        last_run: state.last_run(),
        queued: tasks(TaskState::Queued),
        blocked: tasks(TaskState::Blocked),
        running: tasks(TaskState::Leased) + tasks(TaskState::Running),
        waiting_retry: tasks(TaskState::WaitingRetry),
        parked: tasks(TaskState::Parked),
        oldest_wait: oldest_wait(state),
        active_runs: state.totals.active_runs,
        draining: state.phase == Phase::Draining,
        event_seq: state.seq.0,
        impossible: impossible_count(state),
        dead: state.register.dead_from(tenant, RunId(u64::MAX)).map(|(_, count)| u64::from(count)).sum(),
        tick: state.now.tick,
        demand,
        ..StatusView::default()
    };
    for (_, agent) in
        state.agents.iter().filter(|(_, agent)| serves(agent.tenant, tenant) || tenant == EVERYBODY)
    {
        view.agents[match agent.state() {
            AgentStateView::Ready => 0,
            AgentStateView::Draining => 1,
            AgentStateView::Unreachable => 2,
            AgentStateView::Offline => 3,
            AgentStateView::Quarantined => 4,
        }] += 1;
        let spent = agent.leases.values().map(|lease| lease.cost_micro_usd);
        view.running_micro_usd = spent.fold(view.running_micro_usd, u64::saturating_add);
        if agent.clones.refuses(state.now.tick) {
            view.cloned.push(Arc::clone(&agent.name));
        }
        if !matches!(agent.link, Link::Away) {
            view.slots += agent.slots;
            view.slots_used += agent.used();
        }
    }
    view
}

fn oldest_wait(state: &State) -> Option<Span> {
    let classes = state.schedule.classes.iter().filter_map(|(_, class)| class.queue.oldest());
    let warm = state.agents.iter().filter_map(|(_, agent)| agent.warm.oldest());
    classes.chain(warm).min().map(|since| state.now.tick - since)
}

fn impossible_count(state: &State) -> u64 {
    let waiting = state.schedule.classes.iter().filter(|(_, class)| !class.queue.is_empty());
    let hopeless = waiting.filter(|(_, class)| impossible_reason(state, &class.key).is_some());
    hopeless.map(|(_, class)| class.queue.len() as u64).sum()
}
