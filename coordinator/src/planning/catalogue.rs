//! What a plan may count on: the workers, and what agents offer.
//! Knows names and words; where they are from is the caller's.

use crate::submission::{CheckedPlanning, ORCHESTRATOR, PLAN, PinnedWorker, SYNTHESIS};
use crate::workers::WorkersInForce;
use orch_core::machine::AGENTS_OWN;
use orch_core::plan;
use orch_core::query::AgentView;
use std::collections::{BTreeMap, BTreeSet};

/// Keys that are shown, and values of each: a fleet of many labels must not crowd the request out.
const MAX_KEYS: usize = 40;
const MAX_VALUES: usize = 40;

/// The workers in force and what each known agent offers.
#[derive(Debug, Clone, Default)]
pub struct Catalogue {
    workers: BTreeMap<String, Known>,
    offers: Vec<BTreeSet<String>>,
}

/// A worker, as far as a plan needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// One line for the planner.
    pub description: String,
    /// Capabilities it needs, each `key=value`.
    pub needs: BTreeSet<String>,
}

impl Catalogue {
    /// Workers by name, and for each known agent what it offers.
    #[must_use]
    pub fn new(workers: BTreeMap<String, Known>, offers: Vec<BTreeSet<String>>) -> Self {
        Self { workers, offers }
    }

    /// The workers in force, and what `agents` offer.
    #[must_use]
    pub fn of(workers: &WorkersInForce, agents: &[AgentView]) -> Self {
        let known = |shown: orch_proto::v1::Worker| {
            use crate::submission::Workers as _;
            let needs = workers.worker(&shown.name).map(|pinned| PinnedWorker::clone(&pinned).requires);
            (shown.name, Known { description: shown.description, needs: needs.unwrap_or_default() })
        };
        let offers = agents.iter().map(|agent| agent.capabilities.iter().map(ToString::to_string).collect());
        Self::new(workers.list("", usize::MAX).into_iter().map(known).collect(), offers.collect())
    }

    /// Workers that a plan may name: `allowed`, or all but the planner when that is empty.
    pub(super) fn for_plans(&self, allowed: &[String]) -> impl Iterator<Item = (&str, &Known)> {
        let may = move |name: &str| allowed.is_empty() || allowed.iter().any(|one| one == name);
        let all = self.workers.iter().map(|(name, known)| (name.as_str(), known));
        all.filter(move |(name, _)| *name != ORCHESTRATOR && may(name))
    }

    /// What the plan compiler measures a plan by.
    pub(super) fn measure(&self, planning: &CheckedPlanning) -> plan::Catalogue {
        let workspace = (!planning.workspace.is_empty()).then(|| format!("workspace={}", planning.workspace));
        // The run's workspace takes the place of the worker's own, as it does when the task is checked.
        let needs = |known: &Known| -> BTreeSet<String> {
            let own = |word: &&String| workspace.is_none() || !word.starts_with("workspace=");
            known.needs.iter().filter(own).cloned().collect()
        };
        let with = |runner: &str| -> BTreeSet<String> {
            workspace.iter().cloned().chain([format!("runner={runner}")]).collect()
        };
        let workers = self.for_plans(&planning.workers);
        plan::Catalogue {
            planner: ORCHESTRATOR.to_owned(),
            workers: workers.map(|(name, known)| (name.to_owned(), needs(known))).collect(),
            everywhere: with("claude"),
            publication: workspace.is_some().then(|| with("publish")),
            offers: self.offers.clone(),
            taken: [PLAN, SYNTHESIS].map(str::to_owned).into(),
        }
    }

    /// What agents offer beyond what is their own (who it is, what executes a task, whose account pays, which workspaces
    /// there are: the run names the one it has), one key a line with its values, sorted; empty when it is nothing.
    pub(super) fn capabilities(&self) -> String {
        let mut by_key: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (key, value) in self.offers.iter().flatten().filter_map(|word| word.split_once('=')) {
            if !AGENTS_OWN.contains(&key) {
                by_key.entry(key).or_default().insert(value);
            }
        }
        let more = |all: usize, most: usize| match all.saturating_sub(most) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let line = |(key, values): (&&str, &BTreeSet<&str>)| {
            let shown: Vec<&str> = values.iter().take(MAX_VALUES).copied().collect();
            format!("- {key}: {}{}\n", shown.join(", "), more(values.len(), MAX_VALUES))
        };
        let mut lines: String = by_key.iter().take(MAX_KEYS).map(line).collect();
        if by_key.len() > MAX_KEYS {
            lines.push_str(&format!("-{}\n", more(by_key.len(), MAX_KEYS)));
        }
        lines
    }
}
