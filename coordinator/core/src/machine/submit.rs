//! A run comes in: known already, refused, only checked, or queued.

use crate::budgets::Purse;
use crate::effect::{Action, Effects, Write};
use crate::event::{NewTask, Submit};
use crate::graph::{Graph, GraphError};
use crate::ids::{RunId, TaskIndex, TaskKey, TenantId, Token};
use crate::machine::fitting::impossible_reason;
use crate::machine::moves::tell_run;
use crate::machine::view::{finished_run_view, run_view};
use crate::machine::{budgets, flow, settle};
use crate::query::{Answer, Impossible, Refusal, RunView};
use crate::register::Request;
use crate::run::{Run, run_ref};
use crate::schedule::{self, ClassKey};
use crate::state::{Phase, RunState, State, TaskCounts, TaskState};
use crate::task::Task;
use crate::usage::Usage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Impossible tasks named in an answer; the rest is more of the same.
const IMPOSSIBLE_NAMED: usize = 100;

/// Tasks of a circle named from either end.
const CIRCLE_NAMED: usize = 10;

/// Answers a client.
pub(super) fn reply(effects: &mut Effects, token: Token, answer: Answer) {
    effects.actions.push(Action::Reply { token, answer: Box::new(answer) });
}

pub(super) fn submitted(state: &mut State, effects: &mut Effects, submit: Submit) {
    let token = submit.token;
    let answer = match known(state, &submit) {
        Some(Ok(run)) => Answer::Submitted { run: Some(run), existing: true, impossible: Vec::new() },
        Some(Err(refusal)) => Answer::Refused(refusal),
        None => match check(state, &submit) {
            Err(refusal) => Answer::Refused(refusal),
            Ok(graph) => {
                let impossible = impossible(state, &submit);
                let run = (!submit.validate_only).then(|| enter(state, effects, submit, graph));
                let run = run.and_then(|id| run_view(state, id));
                Answer::Submitted { run, existing: false, impossible }
            }
        },
    };
    reply(effects, token, answer);
}

/// The run an earlier submit with the same request id made.
fn known(state: &State, submit: &Submit) -> Option<Result<RunView, Refusal>> {
    if submit.validate_only {
        return None;
    }
    let request = state.register.requests.get(submit.tenant, &submit.request_id)?;
    let run = run_view(state, request.run).or_else(|| finished_run_view(state, request.run))?;
    let same = request.retried.is_none() && request.digest == submit.spec_digest;
    Some(if same { Ok(run) } else { Err(taken(&submit.request_id, &run)) })
}

/// The refusal of a request id that stands for something else.
pub(super) fn taken(request_id: &str, run: &RunView) -> Refusal {
    Refusal::RequestIdConflict { request_id: request_id.to_owned(), run_ref: run.run_ref.to_string() }
}

/// What only the state can refuse, and the graph.
fn check(state: &State, submit: &Submit) -> Result<Graph, Refusal> {
    if state.phase == Phase::Draining {
        return Err(Refusal::Draining);
    }
    check_room(state, submit.tenant, &submit.tasks)?;
    budgets::check_submit(state, submit.tenant, &submit.name)?;
    let name =
        |index: &TaskIndex| submit.tasks.get(index.0 as usize).map_or("?", |task| &*task.id).to_owned();
    Graph::build(submit.tasks.iter().map(|task| task.dependencies.as_slice())).map_err(|error| match error {
        GraphError::Circle(path) => Refusal::Cycle { path: shorten(path.iter().map(name).collect()) },
        // The edge resolves names to indexes, so an index without a task is its mistake; it is refused all the same.
        GraphError::Dangling => Refusal::Cycle { path: Vec::new() },
    })
}

/// Whether so many tasks, and tasks of so many kinds, fit beside what there is.
pub(super) fn check_room(state: &State, tenant: TenantId, tasks: &[NewTask]) -> Result<(), Refusal> {
    // How many would be too many, and how long it takes until so many have ended.
    let over = |active: u64, limit: usize| {
        let wanted = usize::try_from(active).unwrap_or(usize::MAX).saturating_add(tasks.len());
        let over = wanted.checked_sub(limit).filter(|over| *over > 0)?;
        Some(state.totals.time_for(over as u64, state.now.tick))
    };
    let limit = state.config.max_tasks;
    if let Some(retry_in) = over(state.totals.active_tasks(), limit) {
        return Err(Refusal::QueueFull { limit, retry_in });
    }
    let limit = state.config.max_tenant_tasks;
    if let Some(retry_in) = over(state.totals.active_of(tenant), limit) {
        return Err(Refusal::TenantFull { limit, retry_in });
    }
    let limit = state.config.max_classes;
    let classes = &state.schedule.classes;
    let new = class_keys(tenant, tasks).into_keys().filter(|key| classes.find(key).is_none());
    // Where there are many, what prompts begin with makes none.
    let new = new.map(ClassKey::without_prefix).filter(|key| classes.find(key).is_none());
    let new = new.collect::<BTreeSet<_>>().len();
    if new > 0 && classes.len() + new > limit {
        return Err(Refusal::TooManyClasses { limit });
    }
    Ok(())
}

/// A circle of 100,000 tasks is no help to anybody: the beginning and the end say what it is.
pub(super) fn shorten(mut path: Vec<String>) -> Vec<String> {
    if path.len() > 2 * CIRCLE_NAMED {
        let skipped = path.len() - 2 * CIRCLE_NAMED;
        path.splice(CIRCLE_NAMED..CIRCLE_NAMED + skipped, [format!("({skipped} more)")]);
    }
    path
}

/// The classes of tasks, each with its first.
fn class_keys(tenant: TenantId, tasks: &[NewTask]) -> BTreeMap<ClassKey, usize> {
    let mut keys: BTreeMap<ClassKey, usize> = BTreeMap::new();
    let mut last: Option<&NewTask> = None;
    for (index, task) in tasks.iter().enumerate() {
        let same = |other: &&NewTask| {
            (&other.requires, &other.pinned, other.prefetch) == (&task.requires, &task.pinned, task.prefetch)
                && (&other.meter, &other.worker) == (&task.meter, &task.worker)
        };
        if last.as_ref().is_none_or(|other| !same(other)) {
            keys.entry(ClassKey::of(tenant, task)).or_insert(index);
        }
        last = Some(task);
    }
    keys
}

/// Tasks that no known agent could run.
fn impossible(state: &State, submit: &Submit) -> Vec<Impossible> {
    let reasons: BTreeMap<ClassKey, String> = class_keys(submit.tenant, &submit.tasks)
        .into_keys()
        .filter_map(|key| impossible_reason(state, &key).map(|reason| (key, reason)))
        .collect();
    if reasons.is_empty() {
        return Vec::new();
    }
    let named = submit.tasks.iter().filter_map(|task| {
        let reason = reasons.get(&ClassKey::of(submit.tenant, task))?;
        Some(Impossible { task_id: Arc::clone(&task.id), reason: reason.clone() })
    });
    named.take(IMPOSSIBLE_NAMED).collect()
}

/// Queues the run.
fn enter(state: &mut State, effects: &mut Effects, submit: Submit, graph: Graph) -> RunId {
    let now = state.now;
    let id = state.register.next_run();
    let name = state.names.intern(&submit.name);
    let submitted_by = state.names.intern(&submit.submitted_by);
    let number = state.register.next_number(submit.tenant, name);
    state.register.enter((submit.tenant, name, number), submitted_by, id);
    let request = Request { run: id, digest: submit.spec_digest, at: now.tick, retried: None };
    state.register.requests.note(submit.tenant, &submit.request_id, request);
    let mut counts = TaskCounts::default();
    let mut tasks: Vec<Task> = Vec::with_capacity(submit.tasks.len());
    // Where readiness is recorded, everything comes from blocked.
    let plain = submit.shape.max_parallel == 0 && submit.shape.planning.is_none();
    for spec in submit.tasks {
        let ready = plain && spec.dependencies.is_empty() && !spec.flow.conditional;
        let first = if ready { TaskState::Queued } else { TaskState::Blocked };
        counts.enter(first);
        state.totals.enter(submit.tenant, first);
        tasks.push(state.new_task(submit.tenant, spec, first));
    }
    state.totals.active_runs += 1;
    let run = Run {
        tenant: submit.tenant,
        name,
        number,
        run_ref: run_ref(&submit.name, number),
        submitted_by,
        created: now,
        finished: None,
        state: if submit.shape.planning.is_some() { RunState::Planning } else { RunState::Running },
        outcome: None,
        labels: submit.labels.into(),
        request_id: submit.request_id,
        spec_digest: submit.spec_digest,
        counts,
        usage: Usage::default(),
        by_name: Run::index_names(&tasks),
        shape: submit.shape,
        detail: Arc::clone(&state.empty),
        places: Run::count_places(&tasks),
        waiting: BTreeSet::new(),
        purse: Purse::default(),
        synthesis: Run::find_synthesis(&tasks),
        tasks: tasks.into(),
        graph,
    };
    let indexes = run.indexes();
    let open = run
        .indexes()
        .filter(|index| run.task(*index).unmet == 0 && run.task(*index).state == TaskState::Blocked)
        .collect();
    state.runs.insert(id, Box::new(run));
    effects.writes.push(Write::NewRun(id));
    budgets::count_run(state, effects, submit.tenant, &submit.name);
    tell_run(state, effects, id);
    for index in indexes {
        let task = TaskKey { run: id, index };
        if state.task(task).is_some_and(|task| task.state == TaskState::Queued) {
            schedule::enqueue(state, task);
        }
    }
    flow::follow(state, effects, id, Vec::new(), open);
    settle::settle(state, effects, id, None);
    id
}
