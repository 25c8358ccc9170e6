//! The tasks of a spec: ids, dependencies, limits, and what each of them needs.
//! Knows a task as a whole; its runner, gates, publications and conditions are checked next door.

use super::derived::{Followers, derive};
use super::rules::{self, check_name, check_requirement};
use super::runner::check_runner;
use super::{
    CheckedRunner, CheckedTask, Conversation, DEFAULT_PRIORITY, DEFAULT_RETRIES, DEFAULT_TIMEOUT_MS, Given,
    MAX_DEPENDENCIES, MAX_EDGES, MAX_PRIORITY, MAX_REQUIREMENTS, MAX_RETRIES, MAX_TASKS, MAX_TIMEOUT_MS,
    SpecError, conditions, gates, publish,
};
use orch_proto::codes::ErrorCode;
use orch_proto::v1;
use std::collections::{BTreeMap, BTreeSet};

/// Most that a task may be expected to cost: a million US dollars. More is a slip of the unit.
const MAX_EXPECTED_COST: u64 = 1_000_000_000_000;

/// The run that tasks become part of.
#[derive(Debug, Clone, Copy)]
pub struct Frame<'a> {
    /// Index of the first of them.
    pub first: u32,
    /// Names that tasks of the run have already. These tasks may not depend on them.
    pub taken: &'a BTreeSet<String>,
    /// Workspace of the run, or empty.
    pub workspace: &'a str,
    /// No recorded result is to be used.
    pub no_cache: bool,
}

/// Checks tasks, and adds those that follow from them: reviews and publications.
///
/// # Errors
/// The first rule that one of them breaks.
pub fn check_tasks(
    tasks: Vec<v1::TaskSpec>,
    frame: &Frame<'_>,
    given: &Given<'_>,
) -> Result<Vec<CheckedTask>, SpecError> {
    let mut indexes = index_ids(&tasks, frame)?;
    let edges: usize = tasks.iter().map(|task| task.dependencies.len()).sum();
    if edges > MAX_EDGES {
        let message = format!("{edges} dependencies in all; a run has at most {MAX_EDGES}");
        return Err(SpecError::new(ErrorCode::TooLarge, "tasks", message));
    }
    let (mut checked, mut followers) = (Vec::with_capacity(tasks.len()), Vec::new());
    for (at, task) in tasks.into_iter().enumerate() {
        let parts = Parts { field: format!("tasks[{at}]"), indexes: &indexes, frame, given };
        let (task, follow) = parts.check(task)?;
        if !follow.is_empty() {
            followers.push((at, follow));
        }
        checked.push(task);
    }
    for (at, follow) in followers {
        derive(&mut checked, at, follow, frame, &mut indexes, given)?;
    }
    let all = checked.len() + frame.first as usize;
    if all > MAX_TASKS {
        let message =
            format!("{all} tasks with their reviews and publications; a run has at most {MAX_TASKS}");
        return Err(SpecError::new(ErrorCode::TooManyTasks, "tasks", message));
    }
    publish::check_collisions(&checked, frame.first)?;
    Ok(checked)
}

fn index_ids(tasks: &[v1::TaskSpec], frame: &Frame<'_>) -> Result<BTreeMap<String, u32>, SpecError> {
    let mut indexes = BTreeMap::new();
    for (at, task) in tasks.iter().enumerate() {
        let field = format!("tasks[{at}].task_id");
        check_name(&field, &task.task_id, rules::NameStyle::Task)?;
        if frame.taken.contains(&task.task_id) {
            let message = format!("the run has a task `{}` already", task.task_id);
            return Err(SpecError::new(ErrorCode::DuplicateTaskId, field, message));
        }
        let index = frame.first.saturating_add(u32::try_from(at).unwrap_or(u32::MAX));
        if let Some(other) = indexes.insert(task.task_id.clone(), index) {
            let other = other - frame.first;
            let message = format!("`{}` is also the id of tasks[{other}]", task.task_id);
            return Err(SpecError::new(ErrorCode::DuplicateTaskId, field, message));
        }
    }
    Ok(indexes)
}

/// What the parts of one task are checked with.
struct Parts<'a> {
    /// Where the task stands, for example `tasks[3]`.
    field: String,
    indexes: &'a BTreeMap<String, u32>,
    frame: &'a Frame<'a>,
    given: &'a Given<'a>,
}

/// Figures that have a default and bounds.
struct Figures {
    priority: i32,
    retries: u32,
    on_loss: v1::OnLoss,
    after: v1::After,
}

impl Parts<'_> {
    fn check(&self, mut task: v1::TaskSpec) -> Result<(CheckedTask, Followers), SpecError> {
        let field = self.field.as_str();
        let dependencies = self.check_dependencies(&task)?;
        let figures = self.check_figures(&task)?;
        let mut requires = self.check_requires(&task.requires)?;
        let conversation = self.conversation(&task)?;
        let agent = self.check_agent(std::mem::take(&mut task.agent), conversation)?;
        let runner = check_runner(field, task.runner.take(), self.given, conversation)?;
        let workspace = self.workspace(&task.workspace, &runner, conversation)?;
        let (timeout_default, on_loss_default) = defaults(&runner);
        require(&mut requires, &runner, &workspace);
        let timeout_ms = self.check_timeout(task.timeout, timeout_default)?;
        let gates = gates::check(field, task.gates.take(), &runner)?;
        let conditions = conditions::check(field, std::mem::take(&mut task.conditions), &task.dependencies)?;
        let publish = publish::check(
            field,
            &publish::Of { task_id: &task.task_id, workspace: &workspace, runner: &runner },
            std::mem::take(&mut task.publish),
            self.given.submitted,
        )?;
        self.check_cost(task.expected_cost_micro_usd)?;
        let cache = self.check_cache(task.cache, &runner)?;
        let checked = CheckedTask {
            id: task.task_id,
            dependencies,
            priority: figures.priority,
            timeout_ms,
            retries: figures.retries,
            requires,
            on_loss: [figures.on_loss, on_loss_default]
                .into_iter()
                .find(|choice| *choice != v1::OnLoss::Unspecified)
                .unwrap_or(v1::OnLoss::Fast),
            agent,
            runner,
            after: figures.after,
            role: v1::TaskRole::Work,
            of: None,
            repairs: gates.repairs,
            reviewed: gates.review.is_some(),
            gates: gates.on_agent,
            workspace,
            conditions,
            cache,
            expected_cost_micro_usd: task.expected_cost_micro_usd,
        };
        Ok((checked, Followers { review: gates.review, publish }))
    }

    fn refuse<T>(&self, code: ErrorCode, part: &str, message: impl Into<String>) -> Result<T, SpecError> {
        Err(SpecError::new(code, format!("{}.{part}", self.field), message))
    }

    fn check_dependencies(&self, task: &v1::TaskSpec) -> Result<Vec<u32>, SpecError> {
        if task.dependencies.len() > MAX_DEPENDENCIES {
            let message = format!("{} dependencies; at most {MAX_DEPENDENCIES}", task.dependencies.len());
            return self.refuse(ErrorCode::TooLarge, "dependencies", message);
        }
        let mut found = BTreeSet::new();
        for (at, name) in task.dependencies.iter().enumerate() {
            let Some(index) = self.indexes.get(name) else {
                let hint = rules::nearest(name, self.indexes.keys())
                    .map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
                let message = format!(
                    "task `{}` depends on `{}`, which is not in the run{hint}",
                    task.task_id,
                    rules::shown(name)
                );
                return self.refuse(ErrorCode::UnknownDependency, &format!("dependencies[{at}]"), message);
            };
            found.insert(*index);
        }
        Ok(found.into_iter().collect())
    }

    fn check_figures(&self, task: &v1::TaskSpec) -> Result<Figures, SpecError> {
        let priority = task.priority.unwrap_or(DEFAULT_PRIORITY);
        if !(-MAX_PRIORITY..=MAX_PRIORITY).contains(&priority) {
            let message = format!("{priority}; between -{MAX_PRIORITY} and {MAX_PRIORITY}");
            return self.refuse(ErrorCode::InvalidField, "priority", message);
        }
        let retries = task.retries.unwrap_or(DEFAULT_RETRIES);
        if retries > MAX_RETRIES {
            let message = format!("{retries}; at most {MAX_RETRIES}");
            return self.refuse(ErrorCode::InvalidField, "retries", message);
        }
        let Ok(on_loss) = v1::OnLoss::try_from(task.on_loss) else {
            let message = format!("unknown value {}", task.on_loss);
            return self.refuse(ErrorCode::InvalidField, "on_loss", message);
        };
        let after = match v1::After::try_from(task.after) {
            Ok(v1::After::End) => v1::After::End,
            Ok(v1::After::Unspecified | v1::After::Success) => v1::After::Success,
            Err(_) => {
                let message = format!("unknown value {}; success or end", task.after);
                return self.refuse(ErrorCode::InvalidField, "after", message);
            }
        };
        Ok(Figures { priority, retries, on_loss, after })
    }

    fn check_requires(&self, requires: &BTreeMap<String, String>) -> Result<BTreeSet<String>, SpecError> {
        if requires.len() > MAX_REQUIREMENTS {
            let message = format!("{} requirements; at most {MAX_REQUIREMENTS}", requires.len());
            return self.refuse(ErrorCode::TooLarge, "requires", message);
        }
        let field = format!("{}.requires", self.field);
        requires.iter().map(|(key, value)| check_requirement(&field, key, value)).collect()
    }

    /// The conversation that it continues, if any. It was looked up before the spec is checked.
    fn conversation(&self, task: &v1::TaskSpec) -> Result<Option<&Conversation>, SpecError> {
        let Some(v1::task_spec::Runner::Worker(worker)) = &task.runner else { return Ok(None) };
        if worker.after_ref.is_empty() {
            return Ok(None);
        }
        match self.given.conversations.get(&worker.after_ref) {
            Some(conversation) => Ok(Some(conversation)),
            None => self.refuse(
                ErrorCode::NotContinuable,
                "worker.after_ref",
                "a conversation can be continued only by a task that somebody submits",
            ),
        }
    }

    fn check_agent(
        &self,
        asked: String,
        conversation: Option<&Conversation>,
    ) -> Result<Option<String>, SpecError> {
        if let Some(conversation) = conversation {
            if !asked.is_empty() && asked != conversation.agent {
                let message = format!(
                    "agent {} keeps the conversation: only there it can be continued",
                    conversation.agent
                );
                return self.refuse(ErrorCode::NotContinuable, "agent", message);
            }
            return Ok(Some(conversation.agent.clone()));
        }
        if asked.is_empty() {
            return Ok(None);
        }
        check_name(&format!("{}.agent", self.field), &asked, rules::NameStyle::Run)?;
        Ok(Some(asked))
    }

    /// The workspace it sees: its own, else that of its conversation or its run, else that of its worker.
    fn workspace(
        &self,
        asked: &str,
        runner: &CheckedRunner,
        conversation: Option<&Conversation>,
    ) -> Result<String, SpecError> {
        rules::check_workspace(&format!("{}.workspace", self.field), asked)?;
        let worker = match runner {
            CheckedRunner::Worker(task) => Some(&task.worker),
            CheckedRunner::Command(_) => None,
            CheckedRunner::Noop | CheckedRunner::Publish(_) if asked.is_empty() => return Ok(String::new()),
            CheckedRunner::Noop | CheckedRunner::Publish(_) => {
                let message = "a task that does nothing sees no workspace";
                return self.refuse(ErrorCode::InvalidField, "workspace", message);
            }
        };
        let of_worker = worker.and_then(|worker| {
            worker.requires.iter().find_map(|word| word.strip_prefix("workspace=").map(str::to_owned))
        });
        let named = [
            asked.to_owned(),
            conversation.map_or_else(String::new, |conversation| conversation.workspace.clone()),
            self.frame.workspace.to_owned(),
        ];
        Ok(named.into_iter().find(|name| !name.is_empty()).or(of_worker).unwrap_or_default())
    }

    fn check_timeout(&self, asked: Option<prost_types::Duration>, default: u64) -> Result<u64, SpecError> {
        let Some(asked) = asked else { return Ok(default) };
        match rules::millis(asked).filter(|millis| (1..=MAX_TIMEOUT_MS).contains(millis)) {
            Some(millis) => Ok(millis),
            None => self.refuse(ErrorCode::InvalidField, "timeout", "between 1 ms and 7 days"),
        }
    }

    fn check_cost(&self, expected: Option<u64>) -> Result<(), SpecError> {
        if expected.is_some_and(|expected| expected > MAX_EXPECTED_COST) {
            let message = "more than a million US dollars; it is in millionths of one";
            return self.refuse(ErrorCode::InvalidField, "expected_cost_micro_usd", message);
        }
        Ok(())
    }

    /// What a conversation answers depends on all that was said before, which no key covers.
    fn check_cache(&self, asked: bool, runner: &CheckedRunner) -> Result<bool, SpecError> {
        let continues = matches!(runner, CheckedRunner::Worker(task) if task.continues.is_some());
        if asked && continues {
            let message = "the answer of a conversation that is continued cannot be used again";
            return self.refuse(ErrorCode::InvalidField, "cache", message);
        }
        let works = matches!(runner, CheckedRunner::Worker(_) | CheckedRunner::Command(_));
        Ok(asked && works && !self.frame.no_cache)
    }
}

/// Limit of an attempt, and what to do on loss, when a task says neither.
pub(super) fn defaults(runner: &CheckedRunner) -> (u64, v1::OnLoss) {
    match runner {
        CheckedRunner::Worker(task) => {
            (task.worker.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS), task.worker.on_loss)
        }
        CheckedRunner::Command(_) | CheckedRunner::Noop | CheckedRunner::Publish(_) => {
            (DEFAULT_TIMEOUT_MS, v1::OnLoss::Unspecified)
        }
    }
}

/// Adds what follows from the runner and the workspace. A worker's own workspace is a default, so that another one takes
/// its place.
pub(super) fn require(requires: &mut BTreeSet<String>, runner: &CheckedRunner, workspace: &str) {
    match runner {
        CheckedRunner::Worker(task) => {
            let others = task.worker.requires.iter().filter(|word| !word.starts_with("workspace="));
            requires.extend(others.cloned());
        }
        CheckedRunner::Command(command) => drop(requires.insert(format!("program={}", command.program))),
        CheckedRunner::Noop | CheckedRunner::Publish(_) => {}
    }
    if !workspace.is_empty() {
        requires.insert(format!("workspace={workspace}"));
    }
    requires.insert(format!("runner={}", runner.word()));
}
