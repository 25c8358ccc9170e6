//! Rules about rate limits and what is parked because of them.

use super::runs::tasks;
use super::{Violation, rule};
use crate::state::{Phase, State, TaskState};
use std::collections::BTreeSet;

pub(super) fn limits(state: &State) -> Result<(), Violation> {
    let limits = &state.limits;
    let wrong = limits.inconsistency();
    rule("limits", wrong.is_none(), || wrong.clone().unwrap_or_default())?;
    rule("limits", limits.is_settled(), || "a pool is still to be looked at")?;
    let serving = state.phase != Phase::Loading;
    rule("limits", !serving || limits.armed == limits.first_due(), || {
        format!("due {:?}, armed {:?}", limits.first_due(), limits.armed)
    })?;
    let parked: BTreeSet<_> =
        tasks(state).filter(|(_, task)| task.state == TaskState::Parked).map(|(key, _)| key).collect();
    let kept: BTreeSet<_> = limits.parked().keys().copied().collect();
    rule("limits", parked == kept, || format!("{parked:?} are parked, kept {kept:?}"))?;
    for key in limits.warming() {
        let held = state.task(key).is_some_and(|task| task.state.is_held());
        rule("limits", held, || format!("{key} is waited for and not held"))?;
    }
    let mut sessions: BTreeSet<_> = limits.gone().collect();
    for (key, agent) in state.agents.iter() {
        sessions.extend(agent.session());
        for route in &*agent.routes {
            let known = limits.get(route.pool).is_some_and(|pool| pool.users.contains_key(&key));
            rule("limits", known, || format!("a pool does not know agent {key}"))?;
        }
    }
    for (_, pool) in limits.iter() {
        for class in pool.classes.values() {
            let stray = class.accounts.keys().find(|holder| !sessions.contains(&holder.session));
            rule("limits", stray.is_none(), || format!("pool {}: credit of {stray:?}", pool.name))?;
        }
        for key in pool.users.keys() {
            let told = state.agents.get(*key).routes.iter().any(|route| {
                limits
                    .get(route.pool)
                    .is_some_and(|held| held.name == pool.name && held.tenant == pool.tenant)
            });
            rule("limits", told, || format!("pool {} has an agent {key} that does not tell it", pool.name))?;
        }
    }
    Ok(())
}
