//! The workers in force, pinned as runs name them: the catalogue of prompts, in the form agents take.
//! Knows both forms; refuses to know files, which the catalogue has read, and the queue.

use crate::prompts::{Catalogue, OnLoss, Worker};
use crate::submission::{PinnedWorker, Workers};
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// The catalogue in force; a reload replaces it whole.
#[derive(Debug)]
pub struct WorkersInForce {
    pinned: RwLock<Arc<Pinned>>,
}

#[derive(Debug)]
struct Pinned {
    catalogue: Catalogue,
    by_name: BTreeMap<String, Arc<PinnedWorker>>,
}

impl WorkersInForce {
    /// Puts `catalogue` in force.
    #[must_use]
    pub fn new(catalogue: Catalogue) -> Self {
        Self { pinned: RwLock::new(Arc::new(Pinned::of(catalogue))) }
    }

    /// Puts another catalogue in force. Runs that named a worker before keep what they pinned.
    pub fn replace(&self, catalogue: Catalogue) {
        let fresh = Arc::new(Pinned::of(catalogue));
        *self.pinned.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    /// Workers after `after`, by name, for lists.
    #[must_use]
    pub fn list(&self, after: &str, limit: usize) -> Vec<v1::Worker> {
        let pinned = self.current();
        let listed = pinned.catalogue.workers().filter(|worker| worker.name.as_str() > after).take(limit);
        listed.map(|worker| shown(worker, pinned.by_name.get(&worker.name))).collect()
    }

    fn current(&self) -> Arc<Pinned> {
        Arc::clone(&self.pinned.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Workers for WorkersInForce {
    fn worker(&self, name: &str) -> Option<Arc<PinnedWorker>> {
        self.current().by_name.get(name).cloned()
    }

    fn nearest(&self, name: &str) -> Option<String> {
        self.current().catalogue.nearest(name).map(str::to_owned)
    }
}

impl Pinned {
    fn of(catalogue: Catalogue) -> Self {
        let by_name =
            catalogue.workers().map(|worker| (worker.name.clone(), Arc::new(pin(worker)))).collect();
        Self { catalogue, by_name }
    }
}

fn pin(worker: &Worker) -> PinnedWorker {
    let definition = v1::WorkerDefinition {
        name: worker.name.clone(),
        system_prompt: worker.system_prompt.clone(),
        tools: worker.tools.clone(),
        allowed_tools: worker.allowed_tools.clone(),
        disallowed_tools: worker.disallowed_tools.clone(),
        permission_mode: worker.permission_mode.as_str().to_owned(),
        subagents_json: worker.agents_json().unwrap_or_default(),
        model: worker.model.clone(),
        ..v1::WorkerDefinition::default()
    }
    .encode_to_vec();
    PinnedWorker {
        name: worker.name.clone(),
        digest: Sha256::digest(&definition).into(),
        definition: Arc::from(definition),
        model: worker.model.clone(),
        max_turns: worker.max_turns.unwrap_or(0),
        budget_micro_usd: worker.budget_micro_usd,
        timeout_ms: worker.timeout_ms,
        requires: worker.requires.iter().map(|(key, value)| format!("{key}={value}")).collect(),
        on_loss: match worker.on_loss {
            OnLoss::Fast => v1::OnLoss::Fast,
            OnLoss::Wait => v1::OnLoss::Wait,
        },
    }
}

fn shown(worker: &Worker, pinned: Option<&Arc<PinnedWorker>>) -> v1::Worker {
    v1::Worker {
        name: worker.name.clone(),
        description: worker.description.clone(),
        model: worker.model.clone(),
        digest: pinned.map_or_else(String::new, |pinned| hex::encode(pinned.digest)),
        requires: worker.requires.clone(),
        subagents: worker.agents.keys().cloned().collect(),
        ..v1::Worker::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shipped_worker_is_pinned_with_all_an_agent_needs() {
        let workers = WorkersInForce::new(Catalogue::load(&[]).unwrap());
        let anga = workers.worker("anga").unwrap();
        let definition = v1::WorkerDefinition::decode(&*anga.definition).unwrap();
        assert_eq!(definition.name, "anga");
        assert!(!definition.system_prompt.is_empty() && !definition.tools.is_empty());
        assert_eq!(<[u8; 32]>::from(Sha256::digest(&anga.definition)), anga.digest);
        assert!(workers.worker("nobody").is_none());
        assert_eq!(workers.nearest("anja").as_deref(), Some("anga"));
    }

    #[test]
    fn lists_go_on_after_a_name() {
        let workers = WorkersInForce::new(Catalogue::load(&[]).unwrap());
        let names = |after: &str, limit| {
            workers.list(after, limit).into_iter().map(|worker| worker.name).collect::<Vec<_>>()
        };
        assert_eq!(names("", 2), ["anga", "fabien"]);
        assert_eq!(names("fabien", 10), ["marie", "orchestrator"]);
    }
}
