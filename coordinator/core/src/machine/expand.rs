//! Plans: their tasks join the run, wait for a person, are all that was wanted, or are refused.
//! Knows graphs and limits; what a plan says and which workers there are is the driver's.

use crate::effect::{Effects, Write};
use crate::event::{Expansion, PlanDecision, Target};
use crate::graph::{Graph, GraphError};
use crate::ids::{RunId, TaskIndex, TaskKey, TenantId, Token};
use crate::machine::moves::{self, Told};
use crate::machine::submit::{check_room, reply, shorten};
use crate::machine::targets::run_of;
use crate::machine::view::run_view;
use crate::machine::{again, consult, flow, settle};
use crate::outcome::Outcome;
use crate::query::{Answer, Refusal};
use crate::register::Request;
use crate::run::Run;
use crate::state::{RunState, State, TaskState};
use crate::task::Task;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The plan holds: its tasks join the run. One that cannot be carried out fails its planner.
pub(super) fn carry_out(state: &mut State, effects: &mut Effects, plan: TaskKey, expansion: Expansion) {
    match check(state, plan.run, &expansion) {
        Ok(graph) => {
            let joined = expand(state, effects, plan.run, expansion, graph);
            end_plan(state, effects, plan);
            flow::follow(state, effects, plan.run, vec![plan.index], joined);
            settle::settle(state, effects, plan.run, None);
        }
        Err(refusal) => {
            let detail: Arc<str> = refusal.to_string().into();
            consult::refuse(state, effects, plan, Outcome::SCHEMA_INVALID, None, &detail);
        }
    }
}

/// The plan holds and waits for a person.
pub(super) fn hold(state: &mut State, effects: &mut Effects, plan: TaskKey) {
    end_plan(state, effects, plan);
    if state.run(plan.run).is_some_and(|run| run.state == RunState::Planning) {
        moves::change_run(state, effects, plan.run, RunState::WaitingApproval);
    }
    moves::after_end(state, effects, plan);
}

/// The plan is all that was wanted.
pub(super) fn accept(state: &mut State, effects: &mut Effects, plan: TaskKey) {
    end_plan(state, effects, plan);
    skip_rest(state, effects, plan.run, &Arc::from("only the plan was asked for"));
    settle::settle(state, effects, plan.run, None);
}

fn end_plan(state: &mut State, effects: &mut Effects, plan: TaskKey) {
    let told = Told { outcome: Some(Outcome::OK), ..Told::default() };
    moves::end_one(state, effects, plan, TaskState::Succeeded, told);
}

fn skip_rest(state: &mut State, effects: &mut Effects, id: RunId, detail: &Arc<str>) {
    let Some(run) = state.run(id) else { return };
    let blocked: Vec<TaskIndex> =
        run.indexes().filter(|index| run.task(*index).state == TaskState::Blocked).collect();
    for index in blocked {
        flow::skip_one(state, effects, TaskKey { run: id, index }, detail);
    }
}

/// What a person answered.
pub(super) struct Decided {
    pub(super) target: Target,
    pub(super) decision: PlanDecision,
    pub(super) reason: Arc<str>,
    pub(super) request_id: Arc<str>,
    pub(super) digest: [u8; 32],
}

/// A person answered a plan.
pub(super) fn decided(state: &mut State, effects: &mut Effects, token: Token, decided: Decided) {
    let Decided { target, decision, reason, request_id, digest } = decided;
    let known = again::known_request(state, target.tenant, &request_id, &digest);
    let answer = known.map(|known| known.map(|(run, _)| run)).unwrap_or_else(|| {
        let id = waiting(state, &target)?;
        carry_out_decision(state, effects, id, decision, &reason)?;
        again::remember(state, effects, target.tenant, &request_id, Request::answered(id, digest, 0));
        run_view(state, id).ok_or(Refusal::RunNotLive)
    });
    reply(effects, token, answer.map_or_else(Answer::Refused, |run| Answer::Decided { run }));
}

/// The answer to an earlier decision with this request id: nothing is decided.
pub(super) fn known_decision(
    state: &State,
    tenant: TenantId,
    request_id: &Arc<str>,
    digest: &[u8; 32],
) -> Result<Answer, Refusal> {
    match again::known_request(state, tenant, request_id, digest) {
        None => Ok(Answer::Undecided),
        Some(known) => known.map(|(run, _)| Answer::Decided { run }),
    }
}

fn carry_out_decision(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    decision: PlanDecision,
    reason: &Arc<str>,
) -> Result<(), Refusal> {
    match decision {
        PlanDecision::Approve(expansion) => {
            let graph = check(state, id, &expansion)?;
            let joined = expand(state, effects, id, *expansion, graph);
            flow::follow(state, effects, id, Vec::new(), joined);
            settle::settle(state, effects, id, None);
        }
        PlanDecision::Reject => reject(state, effects, id, reason),
    }
    Ok(())
}

/// The run, if it waits for a word on its plan.
fn waiting(state: &State, target: &Target) -> Result<RunId, Refusal> {
    let id = run_of(state, target)?;
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    if run.state == RunState::WaitingApproval {
        return Ok(id);
    }
    Err(Refusal::NotWaiting { run_ref: run.run_ref.to_string(), state: run.state.to_string() })
}

fn reject(state: &mut State, effects: &mut Effects, id: RunId, reason: &Arc<str>) {
    let detail = if reason.is_empty() {
        Arc::from("the plan was rejected")
    } else {
        settle::cut(&format!("the plan was rejected: {reason}"))
    };
    skip_rest(state, effects, id, &detail);
    if let Some(run) = state.runs.get_mut(&id) {
        run.detail = detail;
    }
    settle::settle(state, effects, id, Some(RunState::Cancelled));
}

/// The graph with the tasks of a plan, if they can join the run.
fn check(state: &State, id: RunId, expansion: &Expansion) -> Result<Graph, Refusal> {
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    let bad = |detail: String| Refusal::BadPlan { detail };
    if !run.is_unplanned() {
        return Err(bad("its tasks are part of the run already".to_owned()));
    }
    check_room(state, run.tenant, &expansion.tasks)?;
    let known = run.tasks.len();
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (index, task) in (run.task_count()..).map(TaskIndex).zip(&expansion.tasks) {
        if run.find(&task.id).is_some() || !names.insert(&task.id) {
            return Err(bad(format!("there are two tasks `{}`", task.id)));
        }
        if task.flow.of.is_some_and(|of| of == index || !task.dependencies.contains(&of)) {
            return Err(bad(format!("`{}` does not wait for what it belongs to", task.id)));
        }
    }
    let mut rows: Vec<Cow<'_, [TaskIndex]>> =
        run.indexes().map(|index| Cow::Borrowed(run.graph.dependencies(index))).collect();
    for (index, row) in &expansion.rewired {
        let task = run.tasks.get(index.0 as usize);
        match task.map(|task| task.state) {
            // One that somebody cancelled meanwhile waits for them should it be tried again: its spec says so, too.
            Some(held) if held == TaskState::Blocked || held.is_terminal() => {
                rows[index.0 as usize] = Cow::Owned(sorted(row));
            }
            Some(_) | None => return Err(bad(format!("task {index} cannot wait for others now"))),
        }
    }
    rows.extend(expansion.tasks.iter().map(|task| Cow::Owned(sorted(&task.dependencies))));
    let name = |index: &TaskIndex| {
        let at = index.0 as usize;
        let name = if at < known {
            Some(&run.tasks[at].id)
        } else {
            expansion.tasks.get(at - known).map(|task| &task.id)
        };
        name.map_or_else(|| "?".to_owned(), ToString::to_string)
    };
    Graph::build(rows.iter().map(AsRef::as_ref)).map_err(|error| match error {
        GraphError::Circle(path) => Refusal::Cycle { path: shorten(path.iter().map(name).collect()) },
        GraphError::Dangling => bad("a task waits for one that does not exist".to_owned()),
    })
}

fn sorted(row: &[TaskIndex]) -> Vec<TaskIndex> {
    let mut row = row.to_vec();
    row.sort_unstable();
    row.dedup();
    row
}

/// Adds the tasks of a plan, blocked, and sets the run going. Returns what may be ready now.
fn expand(
    state: &mut State,
    effects: &mut Effects,
    id: RunId,
    expansion: Expansion,
    graph: Graph,
) -> BTreeSet<TaskIndex> {
    let Some(run) = state.runs.get_mut(&id) else { return BTreeSet::new() };
    let (tenant, created, first) = (run.tenant, run.created.tick, run.task_count());
    let mut tasks = std::mem::take(&mut run.tasks).into_vec();
    for spec in expansion.tasks {
        let mut task = state.new_task(tenant, spec, TaskState::Blocked);
        // As a task is that has no record yet.
        task.since = created;
        state.totals.enter(tenant, TaskState::Blocked);
        tasks.push(task);
    }
    let Some(run) = state.runs.get_mut(&id) else { return BTreeSet::new() };
    for _ in first as usize..tasks.len() {
        run.counts.enter(TaskState::Blocked);
    }
    Task::count_unmet(&graph, &mut tasks);
    run.by_name = Run::index_names(&tasks);
    run.synthesis = Run::find_synthesis(&tasks);
    run.tasks = tasks.into();
    run.graph = graph;
    if let Some(planning) = &mut run.shape.planning {
        planning.expanded = true;
    }
    let joined = run.indexes().filter(|index| run.task(*index).state == TaskState::Blocked).collect();
    effects.writes.push(Write::Expanded(id));
    moves::change_run(state, effects, id, RunState::Running);
    joined
}
