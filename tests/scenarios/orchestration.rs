//! Orchestration: a request in plain language becomes a checked plan, parallel work on several hosts, gates, files in their
//! place and one answer. With the scripted CLI; `real_cli` has the same with the real one.

use orch_proto::v1::{self, RunState, TaskRole};
use orch_tests::client::Client;
use orch_tests::fleet::Fleet;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

mod data;
mod failures;
mod gates;
mod many_files;
mod planned;
mod plans;

/// The workspace of the sample studio.
pub(crate) const DANCE: &str = "dance";

/// What the sample studio is asked for.
pub(crate) const REQUEST: &str = "Evaluate all students in my hip-hop class";

/// A copy of the sample studio in `dir`.
pub(crate) fn studio(dir: &Path) -> PathBuf {
    let sample = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../prompts/samples/studio"));
    let studio = dir.join("studio");
    copy(sample, &studio);
    for student in ["emma-rodriguez", "sophia-chen", "lucas-martinez"] {
        std::fs::create_dir_all(studio.join("students").join(student).join("evaluations")).expect("a folder");
    }
    studio
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

/// Every file beneath `dir`, by path, with its content.
pub(crate) fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).expect("beneath").to_owned();
                found.insert(name, std::fs::read(&path).expect("a file"));
            }
        }
    }
    found
}

/// Agents `box-1` to `box-N` of two slots that all offer the studio.
pub(crate) fn agents(fleet: &mut Fleet, count: usize, studio: &Path) {
    let workspace = format!("{DANCE}={}", studio.display());
    for number in 1..=count {
        fleet.spawn_agent(&format!("box-{number}"), &["--slots", "2", "--workspace", &workspace]);
    }
    for number in 1..=count {
        fleet.wait_connected(&format!("box-{number}"));
    }
}

/// A request to be planned.
pub(crate) fn request(text: &str) -> v1::RunSpec {
    let request = v1::PlannedRequest { text: text.to_owned(), ..Default::default() };
    v1::RunSpec { request: Some(request), ..Default::default() }
}

/// The same in the sample studio.
pub(crate) fn in_studio(text: &str) -> v1::RunSpec {
    v1::RunSpec { workspace: DANCE.to_owned(), ..request(text) }
}

/// Tasks of a run by name.
pub(crate) async fn by_name(client: &mut Client, run_ref: &str) -> BTreeMap<String, v1::Task> {
    client.tasks(run_ref).await.into_iter().map(|task| (task.task_id.clone(), task)).collect()
}

/// The ended run, which must be in `state`, and its tasks by name.
pub(crate) async fn ended(
    client: &mut Client,
    run_ref: &str,
    state: RunState,
) -> (v1::Run, BTreeMap<String, v1::Task>) {
    let run = client.finished(run_ref).await;
    let tasks = by_name(client, run_ref).await;
    let told: Vec<String> =
        tasks.values().map(|task| format!("{} {:?}: {}", task.task_id, task.state(), task.detail)).collect();
    assert_eq!(run.state(), state, "{}: {}\n{}", run.r#ref, run.detail, told.join("\n"));
    (run, tasks)
}

/// Names of the tasks that do the work of a run.
pub(crate) fn work(tasks: &BTreeMap<String, v1::Task>) -> Vec<&str> {
    let work = tasks.values().filter(|task| matches!(task.role(), TaskRole::Work | TaskRole::Unspecified));
    work.map(|task| task.task_id.as_str()).collect()
}

/// The structured answer of a task.
pub(crate) fn structured(task: &v1::Task) -> serde_json::Value {
    serde_json::from_str(&task.structured).unwrap_or_else(|error| panic!("{error}: {}", task.structured))
}
