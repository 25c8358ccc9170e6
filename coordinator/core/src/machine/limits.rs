//! What agents, the API and operators say of limits becomes credit, notices and a pool that is closed for a while.
//! Buckets are in [`crate::limits`]; who may be granted what is [`crate::schedule`]'s.

use crate::effect::Effects;
use crate::ids::{AttemptKey, SessionId};
use crate::limits::{AgentPool, LimitReport, LimitSignal, PoolSettings, PoolView};
use crate::state::State;
use std::sync::Arc;

pub(super) fn reported(
    _state: &mut State,
    _effects: &mut Effects,
    _session: SessionId,
    _report: LimitReport,
) {
}

pub(super) fn signalled(
    _state: &mut State,
    _effects: &mut Effects,
    _session: SessionId,
    _signal: &LimitSignal,
) {
}

pub(super) fn pools_changed(
    _state: &mut State,
    _effects: &mut Effects,
    _session: SessionId,
    _pools: Vec<AgentPool>,
) {
}

pub(super) fn configured(_state: &mut State, _effects: &mut Effects, _pools: Vec<(Arc<str>, PoolSettings)>) {}

pub(super) fn warmed(_state: &mut State, _effects: &mut Effects, _session: SessionId, _attempt: AttemptKey) {}

/// Pools, for people.
pub(super) fn views(_state: &State, _pool: Option<&Arc<str>>) -> Vec<PoolView> {
    Vec::new()
}
