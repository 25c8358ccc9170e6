//! The workers in force, pinned as runs name them: the catalogue of prompts, in the form agents take; the workflows beside
//! them; and how both are read again. Knows both forms; refuses to know files, which the catalogue reads, and the queue.

use crate::config::Config;
use crate::material::load_prompts;
use crate::prompts::{Catalogue, CatalogueError, EMBEDDED, OnDenial, OnLoss, Worker};
use crate::submission::{PinnedWorker, Workers};
use crate::workflows::Workflows;
use orch_core::time::Wall;
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// The catalogue in force; a reload replaces it whole.
#[derive(Debug)]
pub struct WorkersInForce {
    pinned: RwLock<Arc<Pinned>>,
}

#[derive(Debug)]
struct Pinned {
    catalogue: Catalogue,
    by_name: ByName,
    workflows: Workflows,
}

type ByName = BTreeMap<String, Arc<PinnedWorker>>;

impl WorkersInForce {
    /// Puts `catalogue` in force.
    #[must_use]
    pub fn new(catalogue: Catalogue) -> Self {
        Self { pinned: RwLock::new(Arc::new(Pinned::of(catalogue).told())) }
    }

    /// Puts another catalogue in force. Runs that named a worker before keep what they pinned. Says what changed.
    pub fn replace(&self, catalogue: Catalogue) -> WorkerChanges {
        let fresh = Arc::new(Pinned::of(catalogue).told());
        let mut pinned = self.pinned.write().unwrap_or_else(PoisonError::into_inner);
        let changes = WorkerChanges::between(&pinned.by_name, &fresh.by_name);
        *pinned = fresh;
        changes
    }

    /// A worker and its definition.
    #[must_use]
    pub fn show(&self, name: &str) -> Option<(v1::Worker, v1::WorkerDefinition)> {
        let pinned = self.current();
        let worker = pinned.catalogue.worker(name)?;
        let source = pinned.catalogue.origin(name);
        Some((shown(worker, source, pinned.by_name.get(name)), definition(worker)))
    }

    /// What the workers would be with `files` as a last layer over those in force, by name. Touches no disk.
    ///
    /// # Errors
    /// Every mistake.
    pub fn with_layer<P: AsRef<str>, C: AsRef<[u8]>>(
        &self,
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Result<Vec<v1::Worker>, CatalogueError> {
        let catalogue = self.current().catalogue.with_layer(files)?;
        let fresh = Pinned::of(catalogue);
        Ok(fresh.list("", usize::MAX))
    }

    /// Workers after `after`, by name, for lists.
    #[must_use]
    pub fn list(&self, after: &str, limit: usize) -> Vec<v1::Worker> {
        self.current().list(after, limit)
    }

    /// The workflows in force, with `wall` as their day.
    #[must_use]
    pub fn workflows(&self, wall: Wall) -> Workflows {
        let moment = jiff::Timestamp::from_millisecond(wall.0).unwrap_or_default();
        self.current().workflows.on(&moment.strftime("%Y-%m-%d").to_string())
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
        let workflows = Workflows::load(catalogue.workflow_files(), catalogue.names());
        Self { catalogue, by_name, workflows }
    }

    /// Workflows with mistakes are left out, which keeps nobody from serving; the log has why.
    fn told(self) -> Self {
        for problem in self.workflows.problems() {
            let v1::PromptProblem { path, line, column, message, .. } = problem;
            tracing::warn!("{path}:{line}:{column}: {message}; this workflow is not in force");
        }
        self
    }

    fn list(&self, after: &str, limit: usize) -> Vec<v1::Worker> {
        let listed = self.catalogue.workers().filter(|worker| worker.name.as_str() > after).take(limit);
        let show = |worker: &Worker| {
            shown(worker, self.catalogue.origin(&worker.name), self.by_name.get(&worker.name))
        };
        listed.map(show).collect()
    }
}

/// What a reload changed, by name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkerChanges {
    /// Workers whose definition is another one.
    pub changed: Vec<String>,
    /// New ones.
    pub added: Vec<String>,
    /// Those that are gone.
    pub removed: Vec<String>,
}

impl WorkerChanges {
    fn between(old: &ByName, new: &ByName) -> Self {
        let names = |in_one: &ByName, wanted: &dyn Fn(&PinnedWorker) -> bool| {
            in_one.values().filter(|worker| wanted(worker)).map(|worker| worker.name.clone()).collect()
        };
        // Limits and requirements are pinned beside the definition.
        let differs = |worker: &PinnedWorker| old.get(&worker.name).is_some_and(|before| **before != *worker);
        Self {
            changed: names(new, &differs),
            added: names(new, &|worker| !old.contains_key(&worker.name)),
            removed: names(old, &|worker| !new.contains_key(&worker.name)),
        }
    }
}

/// Reads prompts again, for SIGHUP and for people who ask; one at a time.
#[derive(Debug)]
pub struct PromptReloads {
    in_force: Arc<WorkersInForce>,
    /// As the start read them.
    settings: Config,
    /// Two readers at once could put the older reading in force last.
    turn: Mutex<()>,
}

impl PromptReloads {
    /// Replaces `in_force` by what `settings`, read again, name.
    #[must_use]
    pub fn new(in_force: Arc<WorkersInForce>, settings: Config) -> Self {
        Self { in_force, settings, turn: Mutex::new(()) }
    }

    /// The workers in force.
    #[must_use]
    pub fn in_force(&self) -> &Arc<WorkersInForce> {
        &self.in_force
    }

    /// Reads the prompts that the settings name now and puts them in force. Blocks on the file system.
    ///
    /// # Errors
    /// Every mistake; then everything stays as it is.
    pub fn reload(&self) -> Result<WorkerChanges, CatalogueError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let again = self.settings.again();
        let catalogue = load_prompts(again.as_ref().unwrap_or(&self.settings))?;
        Ok(self.in_force.replace(catalogue))
    }
}

/// What agents are given.
fn definition(worker: &Worker) -> v1::WorkerDefinition {
    v1::WorkerDefinition {
        name: worker.name.clone(),
        system_prompt: worker.system_prompt.clone(),
        tools: worker.tools.clone(),
        allowed_tools: worker.allowed_tools.clone(),
        disallowed_tools: worker.disallowed_tools.clone(),
        permission_mode: worker.permission_mode.as_str().to_owned(),
        subagents_json: worker.agents_json().unwrap_or_default(),
        model: worker.model.clone(),
        setting_sources: worker.setting_sources.clone(),
        settings_json: worker.settings_json.clone().unwrap_or_default(),
        mcp_config_json: worker.mcp_config_json.clone().unwrap_or_default(),
        pool: worker.pool.clone().unwrap_or_default(),
        denial_fails: worker.on_denial == OnDenial::Fail,
        fallback_model: worker.fallback.join(","),
    }
}

fn pin(worker: &Worker) -> PinnedWorker {
    let definition = definition(worker).encode_to_vec();
    let pool = worker.pool.as_ref().map(|pool| format!("pool={pool}"));
    PinnedWorker {
        name: worker.name.clone(),
        digest: Sha256::digest(&definition).into(),
        definition: Arc::from(definition),
        model: worker.model.clone(),
        max_turns: worker.max_turns.unwrap_or(0),
        budget_micro_usd: worker.budget_micro_usd,
        timeout_ms: worker.timeout_ms,
        requires: worker.requires.iter().map(|(key, value)| format!("{key}={value}")).chain(pool).collect(),
        on_loss: match worker.on_loss {
            OnLoss::Fast => v1::OnLoss::Fast,
            OnLoss::Wait => v1::OnLoss::Wait,
        },
    }
}

fn shown(worker: &Worker, source: Option<&str>, pinned: Option<&Arc<PinnedWorker>>) -> v1::Worker {
    v1::Worker {
        name: worker.name.clone(),
        description: worker.description.clone(),
        model: worker.model.clone(),
        digest: pinned.map_or_else(String::new, |pinned| hex::encode(pinned.digest)),
        requires: worker.requires.clone(),
        subagents: worker.agents.keys().cloned().collect(),
        source: source.map_or_else(String::new, |file| match file.starts_with(EMBEDDED) {
            true => "built in".to_owned(),
            false => file.to_owned(),
        }),
        context_files: worker.context_files.clone(),
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
    fn what_a_denied_tool_does_is_the_workers_to_say() {
        let workers = WorkersInForce::new(Catalogue::load(&[]).unwrap());
        let file = |key: &str| {
            let head = "---\nname: strict\ndescription: tests\nmodel: sonnet\ntools: [Bash]\n";
            [("workers/strict.md", format!("{head}{key}---\nYou test.\n"))]
        };
        for (key, fails) in [("", false), ("on_denial: warn\n", false), ("on_denial: fail\n", true)] {
            let layered = workers.current().catalogue.with_layer(file(key)).unwrap();
            assert_eq!(definition(layered.worker("strict").unwrap()).denial_fails, fails, "{key}");
        }
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

    #[test]
    fn workflows_come_in_layers_and_a_broken_one_keeps_nobody_from_serving() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("workflows")).unwrap();
        let write = |file: &str, text: &str| {
            std::fs::write(dir.path().join("workflows").join(file), text).unwrap();
        };
        let of = |name: &str, worker: &str| {
            format!(
                r#"{{"name": "{name}", "tasks": [{{"id": "t", "worker": "{worker}", "description": "{{{{date}}}}"}}]}}"#
            )
        };
        let load = || Catalogue::load(&[crate::prompts::PromptDir::required(dir.path())]).unwrap();
        write("mine.json", &of("mine", "marie"));
        write("demo.json", &of("parallel-demo", "nobody"));
        let workers = WorkersInForce::new(load());
        let day = Wall(1_763_700_000_000);
        let workflows = workers.workflows(day);
        assert!(
            workflows.has("mine") && workflows.has("batch-evaluation") && !workflows.has("parallel-demo")
        );
        assert!(workflows.problems()[0].message.contains("nobody"), "{:?}", workflows.problems());
        let call = v1::WorkflowCall { name: "mine".to_owned(), ..v1::WorkflowCall::default() };
        let spec = crate::workflows::compile(&call, &workflows).unwrap();
        let Some(v1::task_spec::Runner::Worker(worker)) = &spec.tasks[0].runner else { panic!("no worker") };
        assert_eq!(worker.description, "2025-11-21");
        write("demo.json", &of("parallel-demo", "anga"));
        write("mine.json", "{");
        workers.replace(load());
        let again = workers.workflows(day);
        assert!(again.has("parallel-demo") && !again.has("mine") && again.is_broken("mine"));
        assert!(workflows.has("mine"), "whoever has the old ones keeps them");
    }
}
