//! The one way in: what happened becomes a changed state and a list of what to do.
//! Dispatches, nothing else; each arm is one call.

mod again;
mod agents;
mod answers;
mod attempts;
mod bills;
pub(crate) mod budgets;
mod cancel;
pub(crate) mod consult;
mod demand;
mod expand;
pub(crate) mod explain;
mod fitting;
pub(crate) mod flow;
mod leases;
mod limits;
pub(crate) mod moves;
pub(crate) mod nearest;
mod orders;
mod quarantine;
mod reports;
mod retention;
mod retry;
mod revoke;
mod settle;
mod start;
mod submit;
mod targets;
mod timers;
pub(crate) mod view;

pub use fitting::AGENTS_OWN;
pub use timers::next_deadline;

use crate::effect::Effects;
use crate::event::Event;
use crate::state::{Phase, State};
use crate::time::Now;

/// Applies one event. Deterministic: the same state, moment and event give the same state and effects.
///
/// `now.tick` never goes back; a smaller one counts as the latest seen.
pub fn apply(state: &mut State, now: Now, event: Event) -> Effects {
    let mut effects = Effects::default();
    state.now = Now { tick: now.tick.max(state.now.tick), wall: now.wall };
    budgets::roll(state, &mut effects);
    dispatch(state, &mut effects, event);
    budgets::settle(state, &mut effects);
    limits::settle(state, &mut effects);
    attempts::grant_waiting(state, &mut effects);
    // What was granted may have used a budget up, and what ends because of that may make room for something else.
    while (!state.budgets.touched.is_empty() || attempts::may_grant(state)) && state.phase != Phase::Loading {
        budgets::settle(state, &mut effects);
        limits::settle(state, &mut effects);
        attempts::grant_waiting(state, &mut effects);
    }
    limits::rearm(state);
    effects
}

fn dispatch(state: &mut State, effects: &mut Effects, event: Event) {
    match event {
        Event::Started { epoch } => start::started(state, effects, epoch),
        Event::Submitted(submit) => submit::submitted(state, effects, *submit),
        Event::CancelRequested { token, target, reason } => {
            cancel::requested(state, effects, token, &target, &reason);
        }
        Event::RetryRequested { token, target, force, from, dead, request_id, digest } => {
            let again = again::Again { target, force, from, dead, request_id, digest };
            again::requested(state, effects, token, &again);
        }
        Event::DrainRequested { token, tenant, agent, reason } => {
            orders::drain(state, effects, token, tenant, &agent, &reason);
        }
        Event::ResumeRequested { token, tenant, agent } => {
            orders::resume(state, effects, token, tenant, &agent);
        }
        Event::ForgetRequested { token, tenant, agent } => {
            orders::forget(state, effects, token, tenant, &agent);
        }
        Event::LabelRequested { token, tenant, agent, change } => {
            orders::label(state, effects, token, tenant, &agent, &change);
        }
        Event::Asked { token, tenant, query } => answers::asked(state, effects, token, tenant, query),
        Event::AgentJoined(hello) => agents::joined(state, effects, *hello),
        Event::HeartbeatReceived { session, seq, held, load_millis } => {
            leases::heartbeat(state, effects, session, seq, &held, load_millis);
        }
        Event::AgentsHeard(heard) => leases::heard_before(state, effects, &heard),
        Event::AttemptAccepted { session, attempt } => attempts::accepted(state, effects, session, attempt),
        Event::AttemptRejected { session, attempt, reason } => {
            attempts::rejected(state, effects, session, attempt, &reason);
        }
        Event::AttemptReported { session, report } => reports::reported(state, effects, session, *report),
        Event::AgentDraining { session } => agents::draining(state, effects, session),
        Event::SessionEnded { session } => agents::session_ended(state, effects, session),
        Event::Consulted { task, attempt, answer } => {
            consult::answered(state, effects, task, attempt, answer);
        }
        Event::PlanDecided { token, target, decision, reason, request_id, digest } => {
            let decided = expand::Decided { target, decision, reason, request_id, digest };
            expand::decided(state, effects, token, decided);
        }
        Event::RunRecalled(run) => retention::recalled(state, *run),
        Event::Stalled { away } => start::stalled(state, away),
        Event::LimitsReported { session, report } => limits::reported(state, effects, session, &report),
        Event::LimitSignalled { session, signal } => limits::signalled(state, effects, session, &signal),
        Event::PoolsChanged { session, pools } => limits::pools_changed(state, effects, session, &pools),
        Event::LimitsConfigured { pools } => limits::configured(state, pools),
        Event::AttemptWarmed { session, attempt } => limits::warmed(state, effects, session, attempt),
        Event::SpendingReported { session, spending } => {
            budgets::reported(state, effects, session, spending);
        }
        Event::BudgetSet { token, tenant, budget } => budgets::set(state, effects, token, tenant, *budget),
        Event::BudgetRemoved { token, tenant, name } => {
            budgets::removed(state, effects, token, tenant, &name);
        }
        Event::RunBudgetSet { token, target, change } => {
            budgets::set_run(state, effects, token, &target, change);
        }
        Event::TimePassed => timers::passed(state, effects),
        Event::DrainStarted => start::drain(state),
    }
}
