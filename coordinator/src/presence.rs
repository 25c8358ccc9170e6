//! What agents say about themselves that decides nothing: versions, isolation, credential pools, host figures, warnings.
//! In memory only; a restart forgets it and the next Hello and heartbeat bring it back.

use orch_proto::v1;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Longest text an agent may put on a person's screen.
const MAX_TEXT: usize = 120;
/// Longest detail of a pool: it may hold a command line that helps.
const MAX_POOL_DETAIL: usize = 300;
/// Longest warning: it may hold the name and the detail of a pool.
const MAX_WARNING: usize = 400;
/// Most warnings kept of one agent.
const MAX_WARNINGS: usize = 16;
/// Most layers of isolation kept of one agent.
const MAX_ISOLATION: usize = 16;
/// Most pools kept of one agent.
const MAX_POOLS: usize = 32;
/// Most workers kept of one pool.
const MAX_POOL_WORKERS: usize = 32;

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
    /// Layers between attempts and the host.
    pub isolation: Vec<String>,
    /// Credential pools.
    pub pools: Vec<v1::Pool>,
    /// Latest host figures.
    pub host: Option<v1::HostFigures>,
}

/// The place of an agent, for its session: it says too much to be looked up each time.
#[derive(Debug, Default)]
pub struct Seat(Mutex<Presence>);

impl Seat {
    /// Takes what changed since Hello. All of it replaces what was known.
    pub fn learnt(&self, facts: &v1::Facts) {
        let mut presence = self.lock();
        presence.warnings = warnings(&facts.warnings);
        presence.pools = pools(&facts.pools);
        presence.cli_version = printable(&facts.cli_version);
    }

    /// Takes the figures of a heartbeat.
    pub fn heard(&self, host: Option<v1::HostFigures>) {
        self.lock().host = host;
    }

    fn lock(&self) -> MutexGuard<'_, Presence> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All agents seen since the start.
#[derive(Debug, Default)]
pub struct Registry {
    agents: Mutex<BTreeMap<String, Arc<Seat>>>,
    /// The latest agent that had obeyed a later coordinator, and its epoch.
    ahead: Mutex<Option<(String, u64)>>,
}

impl Registry {
    /// Takes what a Hello says. What the session hears from then on goes to the place that is given back.
    pub fn joined(&self, hello: &v1::Hello) -> Arc<Seat> {
        let presence = Presence {
            version: printable(&hello.version),
            cli_version: printable(&hello.cli_version),
            host_name: printable(&hello.host),
            runners: hello.runners.iter().map(|text| printable(text)).collect(),
            warnings: warnings(&hello.warnings),
            isolation: texts(&hello.isolation, MAX_ISOLATION),
            pools: pools(&hello.pools),
            host: None,
        };
        let seat = Arc::new(Seat(Mutex::new(presence)));
        self.lock().insert(hello.agent.clone(), Arc::clone(&seat));
        seat
    }

    /// Forgets what an agent said.
    pub fn forget(&self, agent: &str) {
        self.lock().remove(agent);
    }

    /// Pools that cannot be used, each with its agent, in order.
    #[must_use]
    pub fn bad_pools(&self) -> Vec<(String, v1::Pool)> {
        let bad = |pool: &&v1::Pool| match pool.health() {
            v1::PoolHealth::SignedOut | v1::PoolHealth::Unusable => true,
            v1::PoolHealth::Ready | v1::PoolHealth::Unspecified => false,
        };
        let agents = self.lock();
        let of = |(agent, seat): (&String, &Arc<Seat>)| {
            let presence = seat.lock();
            presence.pools.iter().filter(bad).map(|pool| (agent.clone(), pool.clone())).collect::<Vec<_>>()
        };
        agents.iter().flat_map(of).collect()
    }

    /// Notes an agent that was refused because it has obeyed a later coordinator.
    pub fn ahead(&self, agent: &str, epoch: u64) {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some((agent.to_owned(), epoch));
    }

    /// The latest such agent, and the epoch it has seen.
    #[must_use]
    pub fn was_ahead(&self) -> Option<(String, u64)> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known of `agent`.
    #[must_use]
    pub fn of(&self, agent: &str) -> Presence {
        self.lock().get(agent).map(|seat| seat.lock().clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Seat>>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `text` as it may reach a terminal: without control characters, at most 120 characters.
#[must_use]
pub fn printable(text: &str) -> String {
    harmless(text, MAX_TEXT)
}

/// `text` without control characters and characters that turn the direction of writing, at most `max` characters.
#[must_use]
pub fn harmless(text: &str, max: usize) -> String {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { ' ' } else { c }).take(max).collect()
}

fn texts(said: &[String], most: usize) -> Vec<String> {
    said.iter().take(most).map(|text| printable(text)).collect()
}

fn warnings(said: &[String]) -> Vec<String> {
    said.iter().take(MAX_WARNINGS).map(|text| harmless(text, MAX_WARNING)).collect()
}

fn pools(said: &[v1::Pool]) -> Vec<v1::Pool> {
    let pool = |pool: &v1::Pool| v1::Pool {
        name: printable(&pool.name),
        // A kind or health of a newer agent is shown as unknown.
        kind: pool.kind().into(),
        health: pool.health().into(),
        detail: harmless(&pool.detail, MAX_POOL_DETAIL),
        workers: texts(&pool.workers, MAX_POOL_WORKERS),
        in_use: pool.in_use,
        exclusive: pool.exclusive,
        gateway: pool.gateway,
        fingerprint: pool.fingerprint.iter().copied().take(8).collect(),
    };
    said.iter().take(MAX_POOLS).map(pool).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_and_isolation_are_bounded_and_harmless_and_facts_replace_them() {
        let registry = Registry::default();
        let pool = v1::Pool {
            name: "studio".into(),
            kind: 99,
            health: v1::PoolHealth::SignedOut.into(),
            detail: format!("\u{1b}]0;x\u{202e}{}", "d".repeat(1_000)),
            workers: vec!["w".into(); 100],
            in_use: 1,
            exclusive: true,
            gateway: false,
            fingerprint: vec![7; 8],
        };
        let hello = v1::Hello {
            agent: "box".into(),
            isolation: vec!["mount-namespace\n".into(); 100],
            pools: vec![pool.clone(); 100],
            ..Default::default()
        };
        let seat = registry.joined(&hello);
        let presence = registry.of("box");
        assert_eq!((presence.isolation.len(), presence.isolation[0].as_str()), (16, "mount-namespace "));
        assert_eq!(presence.pools.len(), 32);
        let kept = &presence.pools[0];
        assert_eq!((kept.kind, kept.workers.len(), kept.detail.chars().count()), (0, 32, 300));
        assert!(kept.detail.starts_with(" ]0;x d"), "{:?}", kept.detail);
        assert_eq!(registry.bad_pools().len(), 32);
        let ready = v1::Pool { health: v1::PoolHealth::Ready.into(), ..pool };
        let facts = v1::Facts { pools: vec![ready], cli_version: "2.1.197".into(), ..Default::default() };
        seat.learnt(&facts);
        assert!(registry.bad_pools().is_empty());
        let presence = registry.of("box");
        assert_eq!((presence.isolation.len(), presence.cli_version.as_str()), (16, "2.1.197"));
    }

    #[test]
    fn what_an_agent_says_is_bounded_and_harmless() {
        let registry = Registry::default();
        let hello = v1::Hello {
            agent: "box".into(),
            version: "\u{1b}[31m0.1".into(),
            warnings: vec!["w".repeat(500); 100],
            ..Default::default()
        };
        let seat = registry.joined(&hello);
        let presence = registry.of("box");
        assert_eq!(presence.version, " [31m0.1");
        assert_eq!((presence.warnings.len(), presence.warnings[0].len()), (16, 400));
        seat.heard(Some(v1::HostFigures { cores: 4, ..Default::default() }));
        assert_eq!(registry.of("box").host.unwrap().cores, 4);
        registry.forget("box");
        seat.learnt(&v1::Facts::default());
        assert_eq!(registry.of("box"), Presence::default(), "an agent that was forgotten stays so");
    }
}
