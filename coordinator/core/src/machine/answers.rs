//! Questions about live state, answered with copies.

use crate::effect::Effects;
use crate::event::Target;
use crate::ids::{RunId, TaskIndex, TaskKey, TenantId, Token};
use crate::machine::consult::questions;
use crate::machine::expand::known_decision;
use crate::machine::explain::explain;
use crate::machine::submit::reply;
use crate::machine::targets::{agent_of, run_of, task_of};
use crate::machine::view::{agent_view, run_view, status_view, task_view};
use crate::outcome::Outcome;
use crate::query::{Answer, DeadView, Query, Refusal};
use crate::state::{RunState, State, TaskState};
use std::sync::Arc;

pub(super) fn asked(state: &State, effects: &mut Effects, token: Token, tenant: TenantId, query: Query) {
    let answer = match query {
        Query::Run(target) => run(state, &target),
        Query::Runs { below, limit, states, name } => {
            Ok(runs(state, tenant, below, limit, &states, name.as_ref()))
        }
        Query::Tasks { target, from, limit, states } => tasks(state, &target, from, limit, &states),
        Query::Task(target) => task(state, &target),
        Query::Explain(target) => task_of(state, &target).and_then(|key| explain(state, key)),
        Query::Agents { after, limit } => Ok(Answer::Agents(
            state
                .agents
                .by_name(tenant, after.as_ref())
                .take(limit)
                .map(|key| agent_view(state, key))
                .collect(),
        )),
        Query::Agent(name) => agent_of(state, tenant, &name).map(|key| Answer::Agent(agent_view(state, key))),
        Query::Dead { from, limit } => Ok(Answer::Dead(dead(state, tenant, from, limit))),
        Query::Status => Ok(Answer::Status(status_view(state, tenant))),
        Query::Limits(pool) => {
            Ok(Answer::Limits(crate::machine::limits::views(state, tenant, pool.as_ref())))
        }
        Query::Budgets(runs) => Ok(Answer::Budgets(crate::machine::budgets::views(state, tenant, runs))),
        Query::Questions { limit } => Ok(Answer::Questions(questions(state, limit))),
        Query::Decision { request_id, digest } => known_decision(state, tenant, &request_id, &digest),
    };
    reply(effects, token, answer.unwrap_or_else(Answer::Refused));
}

fn run(state: &State, target: &Target) -> Result<Answer, Refusal> {
    let id = run_of(state, target)?;
    run_view(state, id).map(Answer::Run).ok_or(Refusal::RunNotLive)
}

fn runs(
    state: &State,
    tenant: TenantId,
    below: Option<RunId>,
    limit: usize,
    states: &[RunState],
    name: Option<&Arc<str>>,
) -> Answer {
    let below = below.unwrap_or(RunId(u64::MAX));
    let wanted = |id: &RunId| {
        *id < below
            && state
                .run(*id)
                .is_some_and(|run| run.tenant == tenant && (states.is_empty() || states.contains(&run.state)))
    };
    let view = |id: RunId| run_view(state, id);
    let page = match name {
        None => {
            let live = state.runs.range(..below).rev().map(|(id, _)| *id);
            live.filter(wanted).filter_map(view).take(limit).collect()
        }
        Some(name) => {
            let named = state.names.find(name).into_iter();
            let ids = named.flat_map(|name| state.register.by_name(tenant, name));
            ids.filter(wanted).filter_map(view).take(limit).collect()
        }
    };
    Answer::Runs(page)
}

/// Runs with tasks that ended as poison, until so many of those are found.
fn dead(state: &State, tenant: TenantId, from: (RunId, TaskIndex), limit: usize) -> Vec<DeadView> {
    let (first, index) = from;
    let mut found = 0;
    let mut views = Vec::new();
    for (id, count) in state.register.dead_from(tenant, first) {
        if found >= limit {
            break;
        }
        let begin = if id == first { index } else { TaskIndex(0) };
        let live = run_view(state, id).zip(state.run(id)).map(|(view, run)| {
            let dead = |at: &TaskIndex| *at >= begin && run.task(*at).outcome == Some(Outcome::POISON);
            let keys = run.indexes().filter(dead).map(|index| TaskKey { run: id, index });
            // All that one page may need: of the runs before this one, some may be of no use to the page any more.
            (view, keys.filter_map(|key| task_view(state, key)).take(limit).collect::<Vec<_>>())
        });
        found += live.as_ref().map_or(count as usize, |(_, tasks)| tasks.len());
        views.push(DeadView { run: id, count, live });
    }
    views
}

fn tasks(
    state: &State,
    target: &Target,
    from: TaskIndex,
    limit: usize,
    states: &[TaskState],
) -> Result<Answer, Refusal> {
    let id = run_of(state, target)?;
    let run = state.run(id).ok_or(Refusal::RunNotLive)?;
    let wanted = |index: &TaskIndex| states.is_empty() || states.contains(&run.tasks[index.0 as usize].state);
    let tasks = run
        .indexes()
        .skip(from.0 as usize)
        .filter(wanted)
        .filter_map(|index| task_view(state, TaskKey { run: id, index }))
        .take(limit)
        .collect();
    Ok(Answer::Tasks { run: run_view(state, id).ok_or(Refusal::RunNotLive)?, tasks })
}

fn task(state: &State, target: &Target) -> Result<Answer, Refusal> {
    let key = task_of(state, target)?;
    let run = run_view(state, key.run).ok_or(Refusal::RunNotLive)?;
    let task = task_view(state, key).ok_or(Refusal::RunNotLive)?;
    Ok(Answer::Task { run, task })
}
