//! Whether any known agent could run tasks of a class, and why not: looked up when asked, by the rule the scheduler matches
//! with. Changes nothing.

use crate::agents::{Agent, key_of, serves};
use crate::schedule::{Class, ClassKey};
use crate::state::State;
use std::sync::Arc;

/// Keys that only an agent itself can offer: operators may neither set nor hide them.
pub const AGENTS_OWN: [&str; 5] = ["agent", "pool", "program", "runner", "workspace"];

/// Why no known agent, connected or not, could run a task of the class; `None` when one could.
///
/// While no agent ever joined, nothing is impossible: the first may join any moment, and it may be the pinned one.
pub(super) fn impossible_reason(state: &State, key: &ClassKey) -> Option<String> {
    let fits = |class: &Class| !class.groups.is_empty();
    if state.schedule.classes.find(key).and_then(|id| state.schedule.classes.get(id)).is_some_and(fits) {
        return None;
    }
    let mine =
        || state.agents.iter().map(|(_, agent)| agent).filter(|agent| serves(agent.tenant, key.tenant));
    mine().next()?;
    if let Some(name) = &key.pinned {
        let Some(agent) = state.agents.find_for(key.tenant, name) else {
            return Some(format!("is pinned to agent {name}, which is not known"));
        };
        let agent = state.agents.get(agent);
        let lacks = |wanted: &&Arc<str>| agent.capabilities.binary_search(wanted).is_err();
        let missing: Vec<&str> = key.requires.iter().filter(lacks).map(|wanted| &**wanted).collect();
        let taken = if taken_away(agent, key) { ": an operator took it away" } else { "" };
        return (!missing.is_empty())
            .then(|| format!("needs {}, which agent {name} does not offer{taken}", missing.join(" and ")));
    }
    if mine().any(|agent| agent.offers(&key.requires)) {
        return None;
    }
    let nobody_offers =
        |wanted: &&Arc<str>| !mine().any(|agent| agent.capabilities.binary_search(wanted).is_ok());
    let missing: Vec<&str> = key.requires.iter().filter(nobody_offers).map(|wanted| &**wanted).collect();
    let taken = mine().find(|agent| taken_away(agent, key));
    let taken = taken.map_or_else(String::new, |agent| format!(": an operator took it from {}", agent.name));
    if missing.is_empty() {
        let all: Vec<&str> = key.requires.iter().map(|wanted| &**wanted).collect();
        return Some(format!("needs {}, which no known agent offers together{taken}", all.join(" and ")));
    }
    Some(format!("needs {}, which no known agent offers{taken}", missing.join(" and ")))
}

/// Whether an agent would do, were it not for what operators hide or put in place of it.
fn taken_away(agent: &Agent, key: &ClassKey) -> bool {
    let own = |wanted: &Arc<str>| agent.own.binary_search(wanted).is_ok();
    let offers = |wanted: &Arc<str>| agent.capabilities.binary_search(wanted).is_ok();
    !agent.offers(&key.requires) && key.requires.iter().all(|wanted| own(wanted) || offers(wanted))
}

/// The command that would make a known agent fit: the one a task is pinned to, or one that an operator took something
/// from. Only they are meant for it; which other agent could offer more, a person has to know.
pub(super) fn label_that_helps(state: &State, key: &ClassKey) -> Option<String> {
    let agent = match &key.pinned {
        Some(name) => state.agents.get(state.agents.find_for(key.tenant, name)?),
        None => state
            .agents
            .iter()
            .map(|(_, agent)| agent)
            .find(|agent| serves(agent.tenant, key.tenant) && taken_away(agent, key))?,
    };
    let lacks = |wanted: &&Arc<str>| agent.capabilities.binary_search(wanted).is_err();
    let missing: Vec<&str> = key.requires.iter().filter(lacks).map(|wanted| &**wanted).collect();
    let settable = !missing.is_empty() && !missing.iter().any(|word| AGENTS_OWN.contains(&key_of(word)));
    settable.then(|| format!("orchctl agents label {} {}", agent.name, missing.join(" ")))
}
