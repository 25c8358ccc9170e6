//! The checks of what the coordinator said: its clock, versions, agents, isolation, credentials, workers and queue.
//! Pure: everything it judges was asked before.

use std::fmt::Display;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use orch_proto::v1::{Agent, AgentState, ClusterStatus, PoolHealth, PoolLimits, PoolState, Storage, Worker};

use super::local::expiry;
use super::{ok, skip, wrong};
use crate::commands::admin::warnings;
use crate::commands::agents::{login, missing};
use crate::output::figures::{bytes, count, moment, plural, short};
use crate::output::view::operate::{CheckState, CheckView};

/// Greatest difference of two clocks that is nobody's trouble.
const SKEW: Duration = Duration::from_secs(2);
/// Differences are told from here on; below, the way of the answer hides them.
const CLOSE: Duration = Duration::from_millis(100);
/// Below so much free, a disk wants attention.
const FREE: u64 = 1 << 30;
/// Things named one by one; the others are counted.
const NAMED: usize = 5;
/// Version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What the coordinator said.
pub(super) struct Fleet {
    pub(super) status: ClusterStatus,
    pub(super) agents: Vec<Agent>,
    pub(super) workers: Vec<Worker>,
    /// Queued tasks that can run nowhere, each with its reason.
    pub(super) impossible: Vec<String>,
    /// What the coordinator keeps; `None` from one that does not say.
    pub(super) storage: Option<Storage>,
    /// Tasks that were given up for taking their agents down, as far as they were counted; `None` as above.
    pub(super) dead: Option<usize>,
    /// How the credential pools stand; `None` as above.
    pub(super) limits: Option<Vec<PoolLimits>>,
    pub(super) asked: Asked,
}

/// When the status was asked for, and how long the answer took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) sent: Timestamp,
    pub(super) round_trip: Duration,
}

/// Every check there is, in order.
const NAMES: [&str; 13] = [
    "coordinator",
    "clock",
    "versions",
    "agents",
    "isolation",
    "claude",
    "credentials",
    "limits",
    "workers",
    "queue",
    "dead letters",
    "disk",
    "store",
];

/// The checks.
pub(super) fn checks(fleet: &Fleet) -> Vec<CheckView> {
    vec![
        coordinator(fleet),
        clock(fleet),
        versions(fleet),
        agents(fleet),
        isolation(fleet),
        claude(fleet),
        credentials(fleet),
        limits(fleet),
        workers(fleet),
        queue(fleet),
        dead(fleet),
        disk(fleet),
        store(fleet),
    ]
}

/// The same, when nobody could be asked; the first is left to whoever knows why.
pub(super) fn skipped(why: &str) -> Vec<CheckView> {
    NAMES.into_iter().skip(1).map(|name| skip(name, why)).collect()
}

impl Fleet {
    /// Agents that are there.
    fn connected(&self) -> impl Iterator<Item = &Agent> {
        self.agents.iter().filter(|agent| match agent.state() {
            AgentState::Ready | AgentState::Draining | AgentState::Quarantined => true,
            AgentState::Unspecified | AgentState::Unreachable | AgentState::Offline => false,
        })
    }

    fn names(&self, state: AgentState) -> Vec<&str> {
        self.agents.iter().filter(|agent| agent.state() == state).map(|agent| agent.name.as_str()).collect()
    }
}

fn coordinator(fleet: &Fleet) -> CheckView {
    let status = &fleet.status;
    let mut found = format!("answers in {}", short(fleet.asked.round_trip));
    if status.draining {
        found.push_str("; it is draining and takes no submits");
        let fix = "it is being stopped; start it again to go on".to_owned();
        return wrong("coordinator", CheckState::Warning, found, [fix]);
    }
    let expires = moment(status.certificate_expires).map(SystemTime::from);
    let fix = "orchctl init on its host renews it";
    expiry(
        "coordinator",
        &format!("{found}; its certificate"),
        expires,
        SystemTime::from(fleet.asked.sent),
        fix,
    )
}

fn clock(fleet: &Fleet) -> CheckView {
    const NAME: &str = "clock";
    let Some(theirs) = moment(fleet.status.now) else {
        return skip(NAME, "the coordinator does not tell the time");
    };
    // The coordinator read its clock somewhere between question and answer.
    let half = fleet.asked.round_trip / 2;
    let skew =
        fleet.asked.sent.duration_since(theirs) + jiff::SignedDuration::try_from(half).unwrap_or_default();
    let apart = skew.unsigned_abs();
    if apart <= SKEW + half {
        return ok(NAME, format!("agrees with the coordinator's to {}", short(apart.max(CLOSE))));
    }
    let side = if skew.is_negative() { "behind" } else { "ahead of" };
    let found = format!("this host is {} {side} the coordinator", short(apart));
    wrong(NAME, CheckState::Warning, found, ["enable NTP on both: timedatectl set-ntp true".to_owned()])
}

fn versions(fleet: &Fleet) -> CheckView {
    const NAME: &str = "versions";
    let coordinator = &fleet.status.version;
    let mut others: Vec<_> = fleet
        .connected()
        .filter(|agent| agent.version != *coordinator)
        .map(|agent| format!("{} {}", agent.name, agent.version))
        .collect();
    let found = format!("orchctl {VERSION}, coordinator {coordinator}");
    if others.is_empty() && coordinator == VERSION {
        let same = plural(fleet.connected().count() as u64, "agent");
        return ok(NAME, format!("{found}, {same} the same"));
    }
    others.truncate(NAMED);
    let others = if others.is_empty() { String::new() } else { format!(", agents {}", others.join(", ")) };
    let fix = "neighbouring versions work together; upgrade the coordinator first, then agents, then orchctl";
    wrong(NAME, CheckState::Warning, format!("{found}{others}"), [fix.to_owned()])
}

fn agents(fleet: &Fleet) -> CheckView {
    const NAME: &str = "agents";
    let (ready, draining) = (fleet.names(AgentState::Ready), fleet.names(AgentState::Draining));
    let (lost, offline) = (fleet.names(AgentState::Unreachable), fleet.names(AgentState::Offline));
    let kept = fleet.names(AgentState::Quarantined);
    let groups = [
        (&ready, "ready"),
        (&draining, "draining"),
        (&kept, "quarantined"),
        (&lost, "unreachable"),
        (&offline, "offline"),
    ];
    let found: Vec<_> = groups
        .iter()
        .filter(|(names, _)| !names.is_empty())
        .map(|(names, word)| match *word {
            "ready" => format!("{} {word}", names.len()),
            word => format!("{} {word} ({})", names.len(), listed(names)),
        })
        .collect();
    let found = if found.is_empty() { "none has ever connected".to_owned() } else { found.join(", ") };
    let mut fixes = Vec::new();
    if ready.is_empty() && draining.is_empty() && kept.is_empty() {
        fixes.push(
            "start one: orch-agent --coordinator URL; for a try on this machine: orchctl dev".to_owned(),
        );
    }
    let shows = lost.iter().take(NAMED).map(|name| format!("orchctl agents show {name}"));
    let resumes = draining.iter().take(NAMED).map(|name| format!("orchctl agents resume {name}"));
    let crashed = fleet.agents.iter().filter(|agent| agent.state() == AgentState::Quarantined).take(NAMED);
    let ends = crashed.map(|agent| {
        let name = &agent.name;
        format!("{name}: {}; once that is mended: orchctl agents resume {name}", agent.quarantine_reason)
    });
    fixes.extend(shows.chain(resumes).chain(ends));
    let well = draining.is_empty() && offline.is_empty() && kept.is_empty();
    let state = match (ready.is_empty() || !lost.is_empty(), well) {
        (true, _) => CheckState::Failed,
        (false, false) => CheckState::Warning,
        (false, true) => CheckState::Ok,
    };
    wrong(NAME, state, found, fixes)
}

fn isolation(fleet: &Fleet) -> CheckView {
    const NAME: &str = "isolation";
    let mut poor = Vec::new();
    let mut fixes = Vec::new();
    for agent in fleet.connected() {
        let warnings: Vec<_> = agent.warnings.iter().filter(|warning| is_about_isolation(warning)).collect();
        if agent.isolation.is_empty() || !warnings.is_empty() {
            poor.push(agent.name.as_str());
            fixes.extend(warnings.iter().take(NAMED).map(|warning| format!("{}: {warning}", agent.name)));
        }
    }
    match (poor.is_empty(), fleet.connected().next()) {
        (_, None) => skip(NAME, "no agent is connected"),
        (true, Some(_)) => ok(NAME, "every agent has every layer"),
        (false, Some(_)) => {
            let found = format!("layers are missing on {}", listed(&poor));
            if fixes.is_empty() {
                fixes.push("orchctl agents show NAME says which".to_owned());
            }
            wrong(NAME, CheckState::Warning, found, fixes)
        }
    }
}

/// Missing layers are told as warnings, among others.
fn is_about_isolation(warning: &str) -> bool {
    const WORDS: [&str; 7] = ["sandbox", "isolat", "namespace", "landlock", "bwrap", "bubblewrap", "cgroup"];
    let warning = warning.to_lowercase();
    WORDS.iter().any(|word| warning.contains(word))
}

/// The CLI where it is needed.
fn claude(fleet: &Fleet) -> CheckView {
    const NAME: &str = "claude";
    let wants = |agent: &&Agent| agent.runners.iter().any(|runner| runner == "claude");
    let without: Vec<_> = fleet
        .connected()
        .filter(|agent| agent.cli_version.is_empty())
        .map(|agent| agent.name.as_str())
        .collect();
    let mut versions: Vec<_> = fleet
        .connected()
        .map(|agent| agent.cli_version.as_str())
        .filter(|version| !version.is_empty())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    let fix = "install it there, or name it: orch-agent --claude-bin FILE".to_owned();
    match (fleet.connected().next(), versions.is_empty(), without.is_empty()) {
        (None, _, _) => skip(NAME, "no agent is connected"),
        (Some(_), true, _) => wrong(NAME, CheckState::Failed, "no agent has found the CLI", [fix]),
        (Some(_), false, true) => ok(NAME, versions.join(", ")),
        (Some(_), false, false) => {
            let found = format!("{}; none on {}", versions.join(", "), listed(&without));
            let state = if fleet.connected().filter(wants).any(|agent| agent.cli_version.is_empty()) {
                CheckState::Failed
            } else {
                CheckState::Warning
            };
            wrong(NAME, state, found, [fix])
        }
    }
}

fn credentials(fleet: &Fleet) -> CheckView {
    const NAME: &str = "credentials";
    let mut fixes = Vec::new();
    let (mut ready, mut bad, mut unchecked) = (0, Vec::new(), 0);
    for agent in fleet.connected() {
        for pool in &agent.pools {
            let name = format!("{} of {}", pool.name, agent.name);
            match pool.health() {
                PoolHealth::Ready => ready += 1,
                PoolHealth::Unspecified => unchecked += 1,
                PoolHealth::SignedOut => {
                    fixes.push(format!("{} ({})", login(&pool.name), agent.name));
                    bad.push(format!("{name} is signed out"));
                }
                PoolHealth::Unusable => {
                    fixes.push(format!("{name}: {}", pool.detail));
                    bad.push(format!("{name} cannot be used"));
                }
            }
        }
    }
    let none: Vec<_> = fleet
        .connected()
        .filter(|agent| agent.pools.is_empty() && !agent.cli_version.is_empty())
        .map(|agent| agent.name.as_str())
        .collect();
    if fleet.connected().next().is_none() {
        return skip(NAME, "no agent is connected");
    }
    if bad.is_empty() && none.is_empty() && ready + unchecked == 0 {
        return skip(NAME, "no agent has the CLI");
    }
    let mut found = bad.clone();
    if !none.is_empty() {
        found.push(format!("no pool on {}", listed(&none)));
        fixes.push("on the agent's host: orch-agent login --pool NAME, or an API key file".to_owned());
    }
    if unchecked > 0 {
        found.push(format!("{} not checked yet", plural(unchecked, "pool")));
    }
    if ready > 0 {
        found.push(format!("{} ready", plural(ready, "pool")));
    }
    let state = match (bad.is_empty(), none.is_empty()) {
        (false, _) => CheckState::Failed,
        (true, false) => CheckState::Warning,
        (true, true) => CheckState::Ok,
    };
    wrong(NAME, state, found.join("; "), fixes)
}

/// Whether requests are counted, against which limits, and whether a pool is closed.
fn limits(fleet: &Fleet) -> CheckView {
    const NAME: &str = "limits";
    let Some(pools) = &fleet.limits else { return skip(NAME, "the coordinator does not say") };
    if pools.is_empty() {
        return skip(NAME, "no agent has told of a credential pool");
    }
    let unknown: Vec<_> =
        pools.iter().filter(|pool| pool.buckets.is_empty()).map(|pool| pool.pool.as_str()).collect();
    let mut direct: Vec<_> = fleet
        .connected()
        .flat_map(|agent| &agent.pools)
        .filter(|pool| !pool.gateway)
        .map(|pool| pool.name.as_str())
        .collect();
    direct.sort_unstable();
    direct.dedup();
    let mut found = vec![plural(pools.len() as u64, "pool")];
    // Both are as they may be, and worth knowing.
    if !unknown.is_empty() {
        found.push(format!("no limit known of {} until the API names one", listed(&unknown)));
    }
    if !direct.is_empty() {
        found.push(format!("without gateway, so counted late: {}", listed(&direct)));
    }
    let closed = pools.iter().filter_map(|pool| match pool.state() {
        PoolState::Exhausted => Some(format!("pool {} is used up: orchctl limits {}", pool.pool, pool.pool)),
        PoolState::Failing => {
            Some(format!("the API fails for pool {}: orchctl limits {}", pool.pool, pool.pool))
        }
        PoolState::Unspecified | PoolState::Open | PoolState::Throttled => None,
    });
    let warned =
        pools.iter().flat_map(|pool| pool.warnings.iter().map(|text| format!("pool {}: {text}", pool.pool)));
    let fixes: Vec<_> = closed.chain(warned).collect();
    let state = if fixes.is_empty() { CheckState::Ok } else { CheckState::Warning };
    wrong(NAME, state, found.join("; "), fixes)
}

/// Workers that nobody who is there can serve.
fn workers(fleet: &Fleet) -> CheckView {
    const NAME: &str = "workers";
    if fleet.connected().next().is_none() {
        return skip(NAME, "no agent is connected");
    }
    let idle: Vec<_> = fleet
        .workers
        .iter()
        .filter(|worker| !fleet.connected().any(|agent| serves(agent, worker)))
        .map(|worker| (worker.name.as_str(), lacks(fleet, worker)))
        .collect();
    if idle.is_empty() {
        return ok(
            NAME,
            format!("{}, each with an agent that can run it", plural(fleet.workers.len() as u64, "worker")),
        );
    }
    let names: Vec<_> = idle.iter().map(|(name, _)| *name).collect();
    let fixes = idle.iter().take(NAMED).map(|(name, lacks)| format!("{name} needs {lacks}"));
    wrong(NAME, CheckState::Warning, format!("no agent can run {}", listed(&names)), fixes)
}

fn serves(agent: &Agent, worker: &Worker) -> bool {
    missing(agent, worker).is_none() && has_pool(agent, worker)
}

/// Whether one of the agent's pools is for the worker. An agent that reports none does not say.
fn has_pool(agent: &Agent, worker: &Worker) -> bool {
    let serves = |workers: &[String]| workers.is_empty() || workers.contains(&worker.name);
    agent.pools.is_empty() || agent.pools.iter().any(|pool| serves(&pool.workers))
}

fn lacks(fleet: &Fleet, worker: &Worker) -> String {
    let first = fleet.connected().find_map(|agent| missing(agent, worker));
    first.unwrap_or_else(|| "a credential pool that serves it".to_owned())
}

fn queue(fleet: &Fleet) -> CheckView {
    const NAME: &str = "queue";
    let status = &fleet.status;
    if fleet.impossible.is_empty() {
        return ok(NAME, format!("{} queued, {} running", status.queued, status.running));
    }
    let found =
        format!("{} can run nowhere as things stand", plural(fleet.impossible.len() as u64, "queued task"));
    wrong(NAME, CheckState::Warning, found, fleet.impossible.iter().take(NAMED).cloned())
}

fn disk(fleet: &Fleet) -> CheckView {
    const NAME: &str = "disk";
    let status = &fleet.status;
    let mut found = format!("store {}", bytes(status.store_bytes));
    // A coordinator that does not say sends 0.
    let mut tight = Vec::new();
    if status.disk_free_bytes > 0 {
        found.push_str(&format!(", {} free there", bytes(status.disk_free_bytes)));
        if status.disk_free_bytes < FREE {
            tight.push(format!(
                "free space where the coordinator's data lies: {}",
                bytes(status.disk_free_bytes)
            ));
        }
    }
    for (agent, host) in fleet.connected().filter_map(|agent| Some((agent, agent.host.as_ref()?))) {
        if host.disk_free_bytes < FREE {
            tight.push(format!("free space on {}: {}", agent.name, bytes(host.disk_free_bytes)));
        }
    }
    let state = if tight.is_empty() { CheckState::Ok } else { CheckState::Warning };
    wrong(NAME, state, found, tight)
}

fn dead(fleet: &Fleet) -> CheckView {
    const NAME: &str = "dead letters";
    match fleet.dead {
        None => skip(NAME, "the coordinator does not list them"),
        Some(0) => ok(NAME, "none"),
        Some(letters) => {
            let found = format!("{} given up for taking their agents down", plural(letters as u64, "task"));
            wrong(NAME, CheckState::Warning, found, ["orchctl ls --dead".to_owned()])
        }
    }
}

/// What the coordinator keeps: whether the last start had to mend it, and what takes room for nothing.
fn store(fleet: &Fleet) -> CheckView {
    const NAME: &str = "store";
    let Some(storage) = &fleet.storage else { return skip(NAME, "the coordinator does not say") };
    let found = format!("{} records, {} on disk", count(storage.records), bytes(storage.store_bytes));
    let warnings = warnings(storage);
    let state = if warnings.is_empty() { CheckState::Ok } else { CheckState::Warning };
    wrong(NAME, state, found, warnings)
}

/// Names for a sentence, not too many.
fn listed(names: &[impl Display]) -> String {
    let shown: Vec<_> = names.iter().take(NAMED).map(ToString::to_string).collect();
    let more = names.len().saturating_sub(NAMED);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

#[cfg(test)]
mod tests;
