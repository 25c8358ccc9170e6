//! What is forgotten when: finished runs leave the state, then the store; request ids leave with time.
//! Deletion is continuous and small, so that it never holds up anything else.

use crate::effect::{Effects, Write};
use crate::ids::RunId;
use crate::machine::budgets;
use crate::state::{RestoredRun, State};
use crate::time::Tick;
use std::sync::Arc;

/// Finished runs that leave the state in one event at most, so that a burst is spread.
const EVICTIONS: usize = 256;

pub(super) fn due(state: &mut State, effects: &mut Effects) {
    let now = state.now.tick;
    for (tenant, id) in state.register.requests.forget_until(now, state.config.keep_requests) {
        effects.writes.push(Write::ForgetRequest { tenant, id });
    }
    for _ in 0..EVICTIONS {
        let Some((since, run)) = state.register.finished.oldest_live() else { break };
        if leaves_at(state, since) > now {
            break;
        }
        evict(state, effects, run);
    }
    forget(state, effects);
}

/// When the finished run that stays longest leaves.
fn leaves_at(state: &State, since: Tick) -> Tick {
    let crowded = state.register.finished.live_count() > state.config.max_finished;
    since + if crowded { state.config.finished_stay_least } else { state.config.finished_stay }
}

/// Takes a finished run out of the state. Its records stay in the store.
fn evict(state: &mut State, effects: &mut Effects, id: RunId) {
    budgets::forget_run(state, effects, id);
    state.register.finished.evict(id);
    let Some(run) = state.runs.remove(&id) else { return };
    debug_assert!(run.state.is_terminal(), "run {id} is {}", run.state);
    for task in &run.tasks {
        state.totals.leave(run.tenant, task.state);
        state.schedule.release(task.class, &mut state.agents);
    }
}

/// Asks the store to delete what is old enough, a little at a time.
fn forget(state: &mut State, effects: &mut Effects) {
    let now = state.now.tick;
    if state.forget_after > now {
        return;
    }
    let mut keys: u32 = 0;
    while let Some((at, run)) = state.register.finished.oldest() {
        if at + state.config.keep_runs > now {
            break;
        }
        let Some(held) = state.register.finished.get(run) else { break };
        // A record and a spec page hold up to 30 tasks a key; counting a key a task errs on the small side.
        let cost = held.tasks.saturating_add(1);
        if keys > 0 && keys.saturating_add(cost) > state.config.forget_keys {
            break;
        }
        keys = keys.saturating_add(cost);
        evict(state, effects, run);
        forget_run(state, effects, run);
    }
    if keys > 0 {
        state.forget_after = now + state.config.forget_pause;
    }
}

fn forget_run(state: &mut State, effects: &mut Effects, id: RunId) {
    let Some(held) = state.register.finished.remove(id) else { return };
    state.register.leave(id, &held);
    state.register.dead.remove(&(held.tenant, id));
    let newest = state.register.last_number(held.tenant, held.name) == held.number;
    let newest_of = newest.then(|| (Arc::clone(state.names.word(held.name)), held.number));
    effects.writes.push(Write::ForgetRun { tenant: held.tenant, run: id, tasks: held.tasks, newest_of });
}

/// A finished run was read back from the store.
pub(super) fn recalled(state: &mut State, run: RestoredRun) {
    let id = run.id;
    let known = state.register.finished.get(id).is_some_and(|held| {
        held.tenant == run.tenant && held.state == run.state && held.tasks == run.task_count
    });
    let whole = run.tasks.len() == run.task_count as usize
        && run
            .tasks
            .iter()
            .all(|task| task.progress.as_ref().is_some_and(|progress| progress.state.is_terminal()));
    if state.runs.contains_key(&id) || !known || !whole || state.revive(run).is_err() {
        return;
    }
    state.register.finished.came_back(id, state.now.tick);
}

/// When something is to be forgotten next. May be too early, never too late.
pub(super) fn deadline(state: &State) -> Option<Tick> {
    let config = &state.config;
    let finished = &state.register.finished;
    let crowded = finished.live_count() > config.max_finished;
    let stay = if crowded { config.finished_stay_least } else { config.finished_stay };
    let requests = state.register.requests.deadline(config.keep_requests);
    let live = finished.live_deadline(stay);
    let kept = finished.kept_deadline(config.keep_runs).map(|at| at.max(state.forget_after));
    requests.into_iter().chain(live).chain(kept).min()
}
