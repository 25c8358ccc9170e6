//! What agents say about themselves that decides nothing: versions, host figures, warnings, what a child is doing.
//! In memory only; a restart forgets it and the next Hello and heartbeat bring it back.

use orch_proto::v1;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Longest text an agent may put on a person's screen.
const MAX_TEXT: usize = 120;
/// Most warnings kept of one agent.
const MAX_WARNINGS: usize = 16;

/// What is known of one agent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Presence {
    /// Agent version.
    pub version: String,
    /// Version line of the CLI; empty when there is none.
    pub cli_version: String,
    /// Host name.
    pub host_name: String,
    /// Runners on offer.
    pub runners: Vec<String>,
    /// Missing protections and other facts.
    pub warnings: Vec<String>,
    /// Latest host figures.
    pub host: Option<v1::HostFigures>,
}

/// All agents seen since the start.
#[derive(Debug, Default)]
pub struct Registry {
    agents: Mutex<BTreeMap<String, Presence>>,
}

impl Registry {
    /// Takes what a Hello says.
    pub fn joined(&self, hello: &v1::Hello) {
        let presence = Presence {
            version: printable(&hello.version),
            cli_version: printable(&hello.cli_version),
            host_name: printable(&hello.host),
            runners: hello.runners.iter().map(|text| printable(text)).collect(),
            warnings: hello.warnings.iter().take(MAX_WARNINGS).map(|text| printable(text)).collect(),
            host: None,
        };
        self.lock().insert(hello.agent.clone(), presence);
    }

    /// Takes the figures of a heartbeat.
    pub fn heard(&self, agent: &str, host: Option<v1::HostFigures>) {
        if let Some(presence) = self.lock().get_mut(agent) {
            presence.host = host;
        }
    }

    /// What is known of `agent`.
    #[must_use]
    pub fn of(&self, agent: &str) -> Presence {
        self.lock().get(agent).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Presence>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `text` as it may reach a terminal: without control characters, at most 120 characters.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_says_is_bounded_and_harmless() {
        let registry = Registry::default();
        let hello = v1::Hello {
            agent: "box".into(),
            version: "\u{1b}[31m0.1".into(),
            warnings: vec!["w".repeat(500); 100],
            ..Default::default()
        };
        registry.joined(&hello);
        let presence = registry.of("box");
        assert_eq!(presence.version, " [31m0.1");
        assert_eq!((presence.warnings.len(), presence.warnings[0].len()), (16, 120));
        registry.heard("box", Some(v1::HostFigures { cores: 4, ..Default::default() }));
        assert_eq!(registry.of("box").host.unwrap().cores, 4);
        registry.heard("unknown", None);
        assert_eq!(registry.of("unknown"), Presence::default());
    }
}
