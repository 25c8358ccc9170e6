//! The life of an attempt before its report: granted, accepted, rejected, taken back, lost.
//! Deadlines are in [`super::leases`], endings in [`super::reports`].

use crate::agents::{EndedHow, Lease};
use crate::effect::{Action, Effects, StopReason};
use crate::ids::{AgentKey, AttemptKey, AttemptNo, ClassId, SessionId, TaskKey};
use crate::machine::agents::refresh;
use crate::machine::leases::watch_lease;
use crate::machine::moves::{self, Told};
use crate::machine::reports::{Ending, end_attempt, is_poison};
use crate::machine::{budgets, limits, quarantine, revoke};
use crate::outcome::Outcome;
use crate::schedule::{self, Round};
use crate::state::record::EndedAttempt;
use crate::state::{State, TaskState};
use crate::time::Tick;
use crate::timers::Timer;
use crate::usage::Usage;
use std::sync::Arc;

/// Whether a round of granting would look at anything.
pub(super) fn may_grant(state: &State) -> bool {
    !state.schedule.fresh.is_empty() || !state.schedule.roomy.is_empty()
}

/// Grants what waits and what some agent has room for.
pub(super) fn grant_waiting(state: &mut State, effects: &mut Effects) {
    budgets::mark_pools(state);
    if state.phase == crate::state::Phase::Serving {
        if !state.schedule.fresh.is_empty() || !state.schedule.roomy.is_empty() {
            let mut round = Round::begin(state);
            while let Some(choice) = round.next(state) {
                if budgets::would_ignore(state, choice.agent, choice.task) {
                    pass_over(state, choice.agent, choice.task);
                } else {
                    grant(state, effects, choice.task, choice.agent);
                }
            }
        }
    } else {
        state.schedule.fresh.clear();
        state.schedule.roomy.clear();
    }
    schedule::relist(state);
}

/// Gives a task to an agent under the next attempt number.
fn grant(state: &mut State, effects: &mut Effects, key: TaskKey, agent: AgentKey) {
    schedule::unqueue(state, key);
    let now = state.now;
    let Some(tenant) = state.run(key.run).map(|run| run.tenant) else { return };
    let Some(session) = state.agents.get(agent).session() else { return };
    let (restored, taken) = state.attempt_floor;
    let floor = if key.run <= restored { taken } else { AttemptNo(0) };
    let Some(task) = state.task_mut(key) else { return };
    // Terminal is absorbing, and nothing is held twice: whatever else went wrong, it is not granted.
    debug_assert!(task.state == TaskState::Queued, "task {key} is {} and was waiting", task.state);
    if task.state != TaskState::Queued {
        return;
    }
    task.attempt = AttemptNo(task.attempt.max(floor).0 + 1);
    task.agent = Some(agent);
    task.granted = now;
    if let Some(history) = &mut task.history {
        history.note = None;
    }
    let attempt = AttemptKey { task: key, attempt: task.attempt };
    let (on_loss, timeout) = (task.on_loss, task.timeout);
    let lease = Lease::granted(attempt.attempt, now.tick, on_loss, timeout, &state.config);
    state.agents.get_mut(agent).leases.insert(key, lease);
    state.schedule.passes.charge(tenant, key.run);
    budgets::granted(state, effects, attempt, agent);
    moves::change(state, effects, key, TaskState::Leased, Told::default());
    limits::started(state, agent, attempt);
    refresh(state, agent);
    watch_lease(state, agent, key);
    effects.actions.push(Action::Grant { session, attempt });
}

/// The agent on that stream, when it holds that attempt.
pub(super) fn holder(state: &State, session: SessionId, attempt: AttemptKey) -> Option<AgentKey> {
    let agent = state.agents.on_session(session)?;
    holds(state, agent, attempt).then_some(agent)
}

/// Whether the attempt is current and that agent's.
pub(super) fn holds(state: &State, agent: AgentKey, attempt: AttemptKey) -> bool {
    state.agents.get(agent).leases.get(&attempt.task).is_some_and(|lease| lease.attempt == attempt.attempt)
}

pub(super) fn accepted(state: &mut State, effects: &mut Effects, session: SessionId, attempt: AttemptKey) {
    match holder(state, session, attempt) {
        Some(agent) => {
            super::leases::heard(state, effects, agent);
            taken_over(state, effects, agent, attempt.task);
        }
        None => fence(state, effects, session, attempt),
    }
}

/// The agent holds what it was granted: from now on it must list it.
pub(super) fn taken_over(state: &mut State, effects: &mut Effects, agent: AgentKey, key: TaskKey) {
    let now = state.now.tick;
    let Some(lease) = state.agents.get_mut(agent).leases.get_mut(&key) else { return };
    // The end of a grace may bring its deadline forward.
    let had_grace = lease.floor > Tick(0);
    lease.renew(now);
    if lease.accepted {
        if had_grace {
            watch_lease(state, agent, key);
        }
        return;
    }
    lease.accepted = true;
    lease.begun = now;
    moves::change(state, effects, key, TaskState::Running, Told::default());
    watch_lease(state, agent, key);
}

/// An agent speaks of an attempt that is not its: it must not go on with it.
pub(super) fn fence(state: &State, effects: &mut Effects, session: SessionId, attempt: AttemptKey) {
    if state.agents.on_session(session).is_some() {
        effects.actions.push(Action::Stop { session, attempt, reason: StopReason::Fenced });
    }
}

pub(super) fn rejected(
    state: &mut State,
    effects: &mut Effects,
    session: SessionId,
    attempt: AttemptKey,
    reason: &Arc<str>,
) {
    let Some(agent) = state.agents.on_session(session) else { return };
    super::leases::heard(state, effects, agent);
    state.agents.get_mut(agent).stopping.remove(&attempt);
    let held = state.agents.get(agent).leases.get(&attempt.task);
    let held = held.filter(|lease| lease.attempt == attempt.attempt);
    let (revoked, unaccepted) = held.map_or((false, false), |lease| (lease.revoked, !lease.accepted));
    if revoked {
        revoke::given_back(state, effects, agent, attempt.task);
    } else if unaccepted {
        let detail = format!("{} did not take it: {reason}", state.agents.get(agent).name);
        give_back(state, effects, agent, attempt.task, detail.into());
    }
    refresh(state, agent);
}

/// Keeps a task with a budget that stops from an agent that would not keep it.
fn pass_over(state: &mut State, agent: AgentKey, key: TaskKey) {
    let name = &state.agents.get(agent).name;
    let detail = format!("{name} keeps no budget that stops: its release is too old");
    if let Some(task) = state.task_mut(key) {
        task.history_mut().note = Some(detail.into());
        let class = task.class;
        spare(state, agent, class);
    }
}

/// Spares an agent tasks of a class for a while.
fn spare(state: &mut State, agent: AgentKey, class: ClassId) {
    let until = state.now.tick + state.config.reject_pause;
    let held = state.agents.get_mut(agent);
    held.avoid.insert(class, until);
    let first = held.avoid.values().min().copied();
    state.timers.rearm(&mut held.armed.avoid, Timer::Avoid(agent), first);
}

/// Returns an attempt that never began to the queue, and spares the agent tasks of that class for a while.
pub(super) fn give_back(
    state: &mut State,
    effects: &mut Effects,
    agent: AgentKey,
    key: TaskKey,
    detail: Arc<str>,
) {
    let Some(class) = state.task(key).map(|task| task.class) else { return };
    let held = state.agents.get_mut(agent);
    if let Some(lease) = held.leases.remove(&key) {
        budgets::given_back(&mut state.budgets, AttemptKey { task: key, attempt: lease.attempt });
    }
    spare(state, agent, class);
    refresh(state, agent);
    if let Some(task) = state.task_mut(key) {
        task.history_mut().note = Some(Arc::clone(&detail));
    }
    moves::make_ready(state, effects, key, Told { detail: Some(detail), ..Told::default() });
}

/// Ends a current attempt whose agent is lost, and queues the task again at once unless it is poison.
///
/// It does not count against the retry limit: nothing says that the task was at fault. `counts` is whether it counts
/// as a crash, which a person's impatience does not.
pub(super) fn lose(
    state: &mut State,
    effects: &mut Effects,
    agent: AgentKey,
    key: TaskKey,
    detail: &Arc<str>,
    counts: bool,
) {
    let Some(lease) = state.agents.get_mut(agent).leases.remove(&key) else { return };
    refresh(state, agent);
    let spent = Usage::estimate(lease.cost_micro_usd);
    let ended = EndedAttempt {
        number: lease.attempt,
        agent: Arc::clone(&state.agents.get(agent).name),
        started: state.task(key).map_or(state.now.wall, |task| task.granted.wall),
        finished: state.now.wall,
        outcome: Outcome::LOST_AGENT,
        detail: Arc::clone(detail),
        cost_micro_usd: lease.cost_micro_usd,
        digest: None,
        awaits_bill: true,
        duration: Some(state.now.tick - lease.granted),
    };
    let unsaid = Arc::clone(&state.empty);
    end_attempt(state, effects, key, ended, &spent, &unsaid, Ending { crash: counts, failure: false });
    if counts {
        quarantine::note(state, effects, agent, key, EndedHow::Lost);
    }
    requeue_lost(
        state,
        effects,
        key,
        Told {
            outcome: Some(Outcome::LOST_AGENT),
            detail: Some(Arc::clone(detail)),
            execution_time: Some(state.now.tick - lease.granted),
            ..Told::default()
        },
    );
}

/// Queues a task whose agent was lost, unless it is poison.
pub(super) fn requeue_lost(state: &mut State, effects: &mut Effects, key: TaskKey, told: Told) {
    if is_poison(state, key) {
        moves::finish(state, effects, key, TaskState::Failed, Outcome::POISON, told);
    } else {
        moves::make_ready(state, effects, key, told);
    }
}

/// Tells an agent to stop an attempt that is no longer its own. It keeps its slot until the agent stops listing it.
pub(super) fn stop(
    state: &mut State,
    effects: &mut Effects,
    agent: AgentKey,
    attempt: AttemptKey,
    reason: StopReason,
) {
    let held = state.agents.get_mut(agent);
    if let Some(session) = held.session() {
        held.stopping.insert(attempt);
        effects.actions.push(Action::Stop { session, attempt, reason });
    }
    refresh(state, agent);
}
