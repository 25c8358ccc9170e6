//! The end of an attempt: recorded once, or refused; and what follows from its outcome.
//! What an outcome means (retryable, a crash) comes with the configuration.

use crate::agents::EndedHow;
use crate::effect::{Action, Effects, ReportResult};
use crate::event::Report;
use crate::ids::{AgentKey, AttemptKey, SessionId, TaskKey};
use crate::machine::agents::refresh;
use crate::machine::attempts::{holds, requeue_lost};
use crate::machine::consult::{is_judged, repair, repairs_left, verify};
use crate::machine::moves::{self, Told};
use crate::machine::retry::retry_at;
use crate::machine::{bills, budgets, limits, quarantine};
use crate::outcome::Outcome;
use crate::state::record::EndedAttempt;
use crate::state::{State, TaskState};
use crate::timers::Timer;
use crate::usage::Usage;
use std::sync::Arc;

/// Agents remembered as having seen a task crash. More than are ever needed to tell poison.
const CRASH_SITES_KEPT: usize = 16;

pub(super) fn reported(state: &mut State, effects: &mut Effects, session: SessionId, report: Report) {
    let Some(agent) = state.agents.on_session(session) else { return };
    super::leases::heard(state, effects, agent);
    let attempt = report.attempt;
    let result = if holds(state, agent, attempt) {
        effects.billed = true;
        record(state, effects, agent, report);
        ReportResult::Recorded
    } else {
        bills::take(state, effects, agent, attempt, &report);
        verdict(state, agent, attempt, &report.digest)
    };
    state.agents.get_mut(agent).stopping.remove(&attempt);
    refresh(state, agent);
    effects.actions.push(Action::ReportVerdict { session, attempt, result });
}

/// What a report of an attempt that is not current is answered with.
fn verdict(state: &State, agent: AgentKey, attempt: AttemptKey, digest: &[u8; 32]) -> ReportResult {
    let name = &state.agents.get(agent).name;
    let ended = state.task(attempt.task).and_then(|task| {
        task.attempts().iter().rev().find(|ended| ended.number == attempt.attempt && ended.agent == *name)
    });
    match ended.and_then(|ended| ended.digest.as_ref()) {
        Some(recorded) if recorded == digest => ReportResult::Recorded,
        Some(_) => ReportResult::Conflict,
        None => ReportResult::Fenced,
    }
}

/// Records the report of the current attempt and decides what becomes of the task.
fn record(state: &mut State, effects: &mut Effects, agent: AgentKey, report: Report) {
    let key = report.attempt.task;
    state.agents.get_mut(agent).leases.remove(&key);
    let rule = state.config.outcomes.rule(report.outcome);
    let lost = report.outcome == Outcome::LOST_AGENT;
    // An agent that said before that it leaves has ended its children on purpose: a fleet that is upgraded makes no poison.
    let on_purpose = lost && state.agents.get(agent).draining;
    let sent_back = report.outcome == Outcome::GATE_FAILED && repairs_left(state, key);
    // A window that is used up is nobody's failure: the conversation goes on when it is reset.
    let exhausted = report.limit.filter(|hit| hit.exhausted && report.outcome == Outcome::RATE_LIMITED);
    let ending = Ending {
        crash: rule.counts_as_crash && !on_purpose,
        failure: report.outcome != Outcome::OK && !lost && !sent_back && exhausted.is_none(),
    };
    let ended = EndedAttempt {
        number: report.attempt.attempt,
        agent: Arc::clone(&state.agents.get(agent).name),
        started: state.task(key).map_or(state.now.wall, |task| task.granted.wall),
        finished: state.now.wall,
        outcome: report.outcome,
        detail: Arc::clone(&report.detail),
        cost_micro_usd: report.usage.cost_micro_usd,
        digest: Some(report.digest),
        awaits_bill: false,
        duration: Some(report.duration),
    };
    end_attempt(state, effects, key, ended, &report.usage, &report.pool, ending);
    // What was ended on purpose says nothing of the agent.
    match (report.outcome, ending.crash) {
        (Outcome::LOST_AGENT, true) => quarantine::note(state, effects, agent, key, EndedHow::Lost),
        (Outcome::LOST_AGENT | Outcome::CANCELLED, false) => {}
        (_, true) => quarantine::note(state, effects, agent, key, EndedHow::Crashed),
        (_, false) => quarantine::note(state, effects, agent, key, EndedHow::Well),
    }
    let told = Told {
        outcome: Some(report.outcome),
        detail: Some(report.detail),
        execution_time: Some(report.duration),
        retry_at: None,
        payload: Some(report.payload),
    };
    if report.outcome == Outcome::OK && is_judged(state, key) {
        verify(state, effects, key, told);
    } else if report.outcome == Outcome::OK {
        moves::finish(state, effects, key, TaskState::Succeeded, Outcome::OK, told);
    } else if report.outcome == Outcome::CANCELLED {
        moves::finish(state, effects, key, TaskState::Cancelled, Outcome::CANCELLED, told);
    } else if sent_back {
        repair(state, effects, key, told);
    } else if lost {
        let told = keep_feedback(state, key, told);
        requeue_lost(state, effects, key, told);
    } else if is_poison(state, key) {
        moves::finish(state, effects, key, TaskState::Failed, Outcome::POISON, told);
    } else if let Some(hit) = exhausted {
        limits::park(state, effects, key, agent, hit, report.retry_after, told);
    } else if rule.retryable && retries_left(state, key) {
        let at = retry_at(state, key, rule.counts_as_crash, report.retry_after);
        if let Some(task) = state.task_mut(key) {
            task.retry = at;
        }
        state.timers.set(at, Timer::Retry(key));
        let told = keep_feedback(state, key, told);
        moves::change(state, effects, key, TaskState::WaitingRetry, Told { retry_at: Some(at), ..told });
    } else {
        moves::finish(state, effects, key, TaskState::Failed, report.outcome, told);
    }
}

/// A task that was sent back keeps what it was told, in the recorded result, until an attempt judges itself by it.
pub(super) fn keep_feedback(state: &State, key: TaskKey, told: Told) -> Told {
    let sent_back = state.task(key).is_some_and(|task| task.repairs > 0);
    if sent_back { Told { payload: None, ..told } } else { told }
}

/// How an ended attempt counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ending {
    /// Towards poison.
    pub(super) crash: bool,
    /// Against the retry limit.
    pub(super) failure: bool,
}

/// Enters an ended attempt into the history of its task, and what it spent into the sums. `pool` may be empty.
pub(super) fn end_attempt(
    state: &mut State,
    effects: &mut Effects,
    key: TaskKey,
    ended: EndedAttempt,
    spent: &Usage,
    pool: &Arc<str>,
    ending: Ending,
) {
    let kept = state.config.max_attempts_kept.max(1);
    let Some(run) = state.runs.get_mut(&key.run) else { return };
    run.usage.add(spent);
    let Some(task) = run.tasks.get_mut(key.index.0 as usize) else { return };
    task.crashes += u32::from(ending.crash);
    task.failures += u32::from(ending.failure);
    let history = task.history_mut();
    history.note = None;
    history.usage.add(spent);
    if ending.crash
        && history.crashed_on.len() < CRASH_SITES_KEPT
        && !history.crashed_on.contains(&ended.agent)
    {
        history.crashed_on.push(Arc::clone(&ended.agent));
    }
    if history.attempts.len() >= kept {
        history.attempts.drain(..=history.attempts.len() - kept);
    }
    history.attempts.push(ended.clone());
    budgets::ended(state, effects, key, &ended, spent, pool);
}

/// Whether a task took down too many attempts: on several agents, or so often that one agent cannot be the cause.
pub(super) fn is_poison(state: &State, key: TaskKey) -> bool {
    let config = &state.config;
    state.task(key).is_some_and(|task| {
        let sites = task.crashed_on().len();
        (task.crashes >= config.poison_crashes && sites >= config.poison_agents as usize)
            || task.crashes >= config.poison_crashes_anywhere
    })
}

fn retries_left(state: &State, key: TaskKey) -> bool {
    state.task(key).is_some_and(|task| task.failures <= task.retries)
}
