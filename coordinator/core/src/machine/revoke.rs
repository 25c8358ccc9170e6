//! Asks an agent that gets no new work for what it holds ahead of its slots and has not begun: others may be idle.
//! Only the agent knows what it has begun. It rejects the rest, which is queued again at once and counts as nothing.

use crate::effect::{Action, Effects, StopReason};
use crate::ids::{AgentKey, AttemptKey, TaskKey};
use crate::machine::agents::refresh;
use crate::machine::budgets;
use crate::machine::moves::{self, Told};
use crate::state::State;
use std::sync::Arc;

/// Attempts that are asked back at a time: an agent that holds more ahead is told in the words of a queue that is bounded.
const MOST: usize = 1_000;

/// Asks for everything that may be held ahead, while the agent holds more than it has slots.
pub(super) fn revoke(state: &mut State, effects: &mut Effects, key: AgentKey) {
    let agent = state.agents.get(key);
    let Some(session) = agent.session() else { return };
    if agent.leases.len() <= agent.slots as usize {
        return;
    }
    let ahead = |task: &TaskKey| {
        let class = state.task(*task).and_then(|task| state.schedule.classes.get(task.class));
        class.is_some_and(|class| class.key.prefetch > 0)
    };
    let asked = agent.leases.iter().filter(|(task, lease)| !lease.revoked && ahead(task));
    let asked: Vec<AttemptKey> =
        asked.map(|(task, lease)| AttemptKey { task: *task, attempt: lease.attempt }).take(MOST).collect();
    for attempt in asked {
        if let Some(lease) = state.agents.get_mut(key).leases.get_mut(&attempt.task) {
            lease.revoked = true;
        }
        effects.actions.push(Action::Stop { session, attempt, reason: StopReason::Revoked });
    }
}

/// The agent gave back what it was asked for.
pub(super) fn given_back(state: &mut State, effects: &mut Effects, agent: AgentKey, key: TaskKey) {
    let held = state.agents.get_mut(agent);
    let Some(lease) = held.leases.remove(&key) else { return };
    budgets::given_back(&mut state.budgets, AttemptKey { task: key, attempt: lease.attempt });
    let detail: Arc<str> = format!("{} gave it back before it began", held.name).into();
    refresh(state, agent);
    if let Some(task) = state.task_mut(key) {
        task.history_mut().note = Some(Arc::clone(&detail));
    }
    moves::make_ready(state, effects, key, Told { detail: Some(detail), ..Told::default() });
}
