//! `.orchctl.toml`, here or in a directory above: what a project may say about the runs that are submitted from it.
//! It may name labels, a model, a priority and a budget; never a coordinator, a certificate or a program: a cloned
//! repository must not redirect submissions. Knows that file; what a run is, the caller knows.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{BudgetMode, RunSpec};
use toml_edit::Item;

use super::Reader;
use crate::args::amounts::{self, Ceiling};
use crate::args::parse;
use crate::compose::of_an_attempt;
use crate::context::read_bounded;
use crate::failure::{Failure, Outcome};

/// Name of the file.
const FILE: &str = ".orchctl.toml";
/// What it may set.
const KEYS: [&str; 4] = ["labels", "model", "priority", "budget"];
/// What it might try to, to lead submissions elsewhere.
const NEVER: [&str; 13] = [
    "endpoint", "ca", "cert", "key", "tls_ca", "tls_cert", "tls_key", "context", "contexts", "current",
    "command", "program", "defaults",
];

/// What a project says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Project {
    /// Where it says so.
    pub(crate) path: PathBuf,
    labels: BTreeMap<String, String>,
    model: Option<String>,
    priority: Option<i32>,
    /// Over a run that is submitted from here.
    budget: Option<Ceiling>,
}

/// The nearest file, from a directory upwards; `None` if there is none, or if it belongs to somebody else than `uid`.
///
/// # Errors
/// A file that cannot be read, or that sets what it may not.
pub(crate) fn find(cwd: &Path, uid: u32) -> Outcome<Option<Project>> {
    for dir in cwd.ancestors() {
        let path = dir.join(FILE);
        let Ok(metadata) = fs::metadata(&path) else { continue };
        // A neighbour's file in a shared directory above says nothing about our runs.
        if metadata.uid() != uid {
            return Ok(None);
        }
        let text = read_bounded(&path)
            .map_err(|error| Failure::usage(format!("cannot read {}", path.display())).cause(error))?;
        return read(path, &text).map(Some);
    }
    Ok(None)
}

fn read(path: PathBuf, text: &str) -> Outcome<Project> {
    let reader = Reader { path: &path, text };
    let document = reader.document()?;
    if let Some((name, item)) = document.iter().find(|(name, _)| NEVER.contains(name)) {
        let message = format!("a project may not set {name:?}");
        let cause = "a cloned repository must not be able to redirect what is submitted from it";
        return Err(reader
            .wrong(item.span(), &message)
            .cause(cause)
            .help(format!("take it away; a project may set {}", KEYS.join(", "))));
    }
    let mut project = Project::default();
    for (name, item) in reader.entries(document.as_table(), "", &KEYS)? {
        match name {
            "labels" => {
                for (key, item) in reader.table("labels", item)?.iter() {
                    let value = reader.text(&format!("labels.{key}"), item)?;
                    project.labels.insert(key.to_owned(), value.to_owned());
                }
            }
            "model" => project.model = Some(reader.text(name, item)?.to_owned()),
            "priority" => project.priority = Some(number(&reader, name, item, parse::priority)?),
            _ => project.budget = Some(number(&reader, name, item, amounts::ceiling)?),
        }
    }
    Ok(Project { path, ..project })
}

/// A number, or a text as its flag takes it.
fn number<T>(
    reader: &Reader<'_>,
    name: &str,
    item: &Item,
    parse: fn(&str) -> Result<T, String>,
) -> Outcome<T> {
    let text = match (item.as_str(), item.as_integer(), item.as_float()) {
        (Some(text), _, _) => text.to_owned(),
        (None, Some(number), _) => number.to_string(),
        (None, None, Some(number)) => number.to_string(),
        (None, None, None) => return Err(reader.wrong(item.span(), &format!("{name} is a number or a text"))),
    };
    parse(&text).map_err(|error| reader.wrong(item.span(), &format!("{name}: {error}")))
}

impl Project {
    /// Fills in what a run leaves open. Tasks from a file say themselves on what terms they run; they get labels only.
    /// Returns what was filled in.
    pub(crate) fn apply(&self, spec: &mut RunSpec, from_file: bool) -> Vec<&'static str> {
        let mut filled = Vec::new();
        for (key, value) in &self.labels {
            if !spec.labels.contains_key(key) {
                spec.labels.insert(key.clone(), value.clone());
                filled.push("labels");
            }
        }
        let spends = spec.request.is_some()
            || spec.tasks.iter().any(|task| matches!(task.runner, Some(Runner::Worker(_))));
        let budget = self.budget.filter(|_| !from_file && spends && spec.budget.is_none());
        if let Some(ceiling) = budget {
            spec.budget = Some(ceiling.limit(BudgetMode::Hard));
            filled.push("budget");
        }
        for task in spec.tasks.iter_mut().filter(|_| !from_file) {
            if let (None, Some(priority)) = (task.priority, self.priority) {
                task.priority = Some(priority);
                filled.push("priority");
            }
            // Only a model has a name and costs money.
            let Some(Runner::Worker(work)) = &mut task.runner else { continue };
            if let (true, Some(model)) = (work.model.is_empty(), &self.model) {
                work.model.clone_from(model);
                filled.push("model");
            }
            if budget.is_some() {
                work.budget_micro_usd = of_an_attempt(spec.budget.as_ref());
            }
        }
        filled.dedup();
        filled
    }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::{BudgetLimit, NoopTask, PlannedRequest, TaskSpec, WorkerTask};

    use super::*;

    const MINE: &str = "model = \"haiku\"\npriority = \"high\"\nbudget = 0.5\n[labels]\nteam = \"dance\"\n";

    fn refused(text: &str) -> String {
        read(PathBuf::from(".orchctl.toml"), text).unwrap_err().text(false)
    }

    fn run(runner: Runner) -> RunSpec {
        let task = TaskSpec { runner: Some(runner), ..TaskSpec::default() };
        RunSpec { tasks: vec![task], ..RunSpec::default() }
    }

    #[test]
    fn a_project_fills_in_what_a_run_leaves_open() {
        let project = read(PathBuf::from(FILE), MINE).unwrap();
        let mut spec = run(Runner::Worker(WorkerTask { model: "opus".into(), ..WorkerTask::default() }));
        assert_eq!(project.apply(&mut spec, false), ["labels", "budget", "priority"]);
        assert_eq!((spec.labels["team"].as_str(), spec.tasks[0].priority), ("dance", Some(100)));
        let Some(Runner::Worker(work)) = &spec.tasks[0].runner else { panic!("a worker") };
        assert_eq!((work.model.as_str(), work.budget_micro_usd), ("opus", Some(500_000)));

        assert_eq!(spec.budget.unwrap().micro_usd, Some(500_000));
        let mut planned = RunSpec { request: Some(PlannedRequest::default()), ..RunSpec::default() };
        assert_eq!(project.apply(&mut planned, false), ["labels", "budget"]);
        assert_eq!(planned.budget.unwrap().micro_usd, Some(500_000));
        let own = BudgetLimit { tokens: Some(7), ..BudgetLimit::default() };
        let mut bounded = RunSpec { budget: Some(own), ..planned };
        assert_eq!(project.apply(&mut bounded, false), [""; 0]);
        assert_eq!(bounded.budget, Some(own), "what was said wins");

        let mut noop = run(Runner::Noop(NoopTask {}));
        assert_eq!(project.apply(&mut noop, true), ["labels"]);
        assert_eq!((noop.tasks[0].priority, noop.budget), (None, None));
    }

    #[test]
    fn a_project_never_leads_elsewhere() {
        insta::assert_snapshot!(refused("model = \"m\"\nendpoint = \"https://evil.example:7443\"\n"), @r#"
        error: .orchctl.toml:2: a project may not set "endpoint"
        cause: a cloned repository must not be able to redirect what is submitted from it
        help:  take it away; a project may set labels, model, priority, budget
        "#);
        for key in NEVER {
            assert!(refused(&format!("{key} = \"x\"")).contains("may not set"), "{key}");
        }
        assert!(refused("modle = \"m\"").contains("did you mean \"model\"?"));
        assert!(refused("budget = \"much\"").contains("budget: "));
    }

    #[test]
    fn the_nearest_file_counts_and_only_our_own() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs::create_dir_all(&below).unwrap();
        fs::write(dir.path().join(FILE), MINE).unwrap();
        let uid = fs::metadata(dir.path()).unwrap().uid();
        assert_eq!(find(&below, uid).unwrap().unwrap().path, dir.path().join(FILE));
        assert_eq!(find(&below, uid + 1).unwrap(), None);
        fs::write(dir.path().join("a").join(FILE), "").unwrap();
        assert_eq!(find(&below, uid).unwrap().unwrap().labels, BTreeMap::new());
    }
}
