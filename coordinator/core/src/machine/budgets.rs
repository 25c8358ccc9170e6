//! Budgets as they are set, spent of and asked for.
//! Sums are in [`crate::budgets`]; what a spent budget means for runs and tasks is decided here.

use crate::budgets::{Budget, BudgetView, Spending};
use crate::effect::{Action, Effects};
use crate::ids::{SessionId, TenantId, Token};
use crate::query::{Answer, Refusal};
use crate::state::State;
use std::sync::Arc;

pub(super) fn reported(_state: &mut State, _effects: &mut Effects, _session: SessionId, _spending: Spending) {
}

pub(super) fn set(
    _state: &mut State,
    effects: &mut Effects,
    token: Token,
    _tenant: TenantId,
    _budget: Budget,
) {
    let answer = Box::new(Answer::Refused(Refusal::TooManyBudgets { limit: 0 }));
    effects.actions.push(Action::Reply { token, answer });
}

pub(super) fn removed(
    _state: &mut State,
    effects: &mut Effects,
    token: Token,
    _tenant: TenantId,
    name: &Arc<str>,
) {
    let answer = Box::new(Answer::Refused(Refusal::NoSuchBudget { name: name.to_string() }));
    effects.actions.push(Action::Reply { token, answer });
}

/// Budgets, for people.
pub(super) fn views(_state: &State, _tenant: TenantId, _runs: bool) -> Vec<BudgetView> {
    Vec::new()
}
