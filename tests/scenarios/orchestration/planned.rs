//! The whole way: plan, work, publication, synthesis.

use super::{DANCE, REQUEST, agents, ended, files, in_studio, structured, studio, work};
use orch_proto::v1::{RunState, TaskRole, TaskState};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use std::collections::{BTreeMap, BTreeSet};

const STUDENTS: [(&str, &str); 3] = [
    ("evaluate-emma", "emma-rodriguez"),
    ("evaluate-lucas", "lucas-martinez"),
    ("evaluate-sophia", "sophia-chen"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_becomes_a_plan_work_side_by_side_three_files_in_three_folders_and_one_answer() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    let before = files(&studio);
    agents(&mut fleet, 3, &studio);
    let mut client = fleet.client().await;
    let submitted = client.submit(in_studio(REQUEST)).await;
    assert_eq!((submitted.state(), submitted.planned), (RunState::Planning, true));
    let (run, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;

    assert_eq!(work(&tasks), STUDENTS.map(|(task, _)| task));
    assert_eq!(tasks["plan"].role(), TaskRole::Plan);
    assert_eq!(tasks["synthesis"].role(), TaskRole::Synthesis);
    let published = only_new(&before, &files(&studio));
    assert_eq!(published.len(), 3, "{:?}", published.keys());
    for (task, folder) in STUDENTS {
        let task = &tasks[task];
        assert_eq!(
            (task.state(), task.artifact_count, task.workspace.as_str()),
            (TaskState::Succeeded, 1, DANCE)
        );
        assert_eq!(task.result_status, "complete");
        assert!(!task.summary.is_empty());
        let publication = &tasks[&format!("{}.publish", task.task_id)];
        assert_eq!((publication.role(), publication.of.as_str()), (TaskRole::Publish, task.task_id.as_str()));
        let beneath = format!("students/{folder}/evaluations/evaluation_");
        let (_, content) = published
            .iter()
            .find(|(path, _)| path.to_string_lossy().starts_with(&beneath))
            .unwrap_or_else(|| panic!("{beneath}: {:?}", published.keys()));
        assert!(String::from_utf8_lossy(content).starts_with("# "), "{folder}");
    }
    // What one student's task wrote is in that student's folder and in no other's.
    let bodies: BTreeSet<&Vec<u8>> = published.values().collect();
    assert_eq!(bodies.len(), 3);

    let report = structured(&tasks["synthesis"]);
    let lines: Vec<&str> = report["tasks"]
        .as_array()
        .expect("lines")
        .iter()
        .map(|line| line["id"].as_str().expect("id"))
        .collect();
    assert_eq!(lines, ["evaluate-emma", "evaluate-sophia", "evaluate-lucas"], "in the order of the plan");
    let sum: u64 =
        tasks.values().filter_map(|task| task.usage.as_ref()).map(|usage| usage.cost_micro_usd).sum();
    assert_eq!(run.usage.expect("usage").cost_micro_usd, sum);
    assert!(sum > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_stable_part_of_what_the_planner_sees_is_the_same_bytes_in_every_run() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    agents(&mut fleet, 1, &studio);
    let mut client = fleet.client().await;
    let mut prompts = Vec::new();
    for text in ["Say hello", "Count to ten, slowly"] {
        let mut spec = in_studio(&format!("{text} [[echo]]"));
        spec.request.as_mut().expect("a request").plan_only = true;
        let run = client.submit(spec).await;
        client.finished(&run.r#ref).await;
        let dir = fleet.agent_dir("box-1").join("tasks");
        let task = std::fs::read_dir(dir)
            .expect("tasks")
            .map(|entry| entry.expect("an entry").path())
            .find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy() == format!("{}-0", run.run_id))
            })
            .expect("the planner's directory");
        prompts.push((
            std::fs::read(task.join("attempts/1/given/system-prompt.md")).expect("a system prompt"),
            std::fs::read_to_string(task.join("attempts/1/input.jsonl")).expect("a prompt"),
        ));
    }
    assert_eq!(prompts[0].0, prompts[1].0);
    let before_the_request = |prompt: &str| {
        let (_, task) = prompt.split_once("Plan this request").expect("the rules of planning");
        let (rules, _) = task.split_once("<request>").expect("the request");
        rules.to_owned()
    };
    assert_eq!(before_the_request(&prompts[0].1), before_the_request(&prompts[1].1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_run_survives_a_killed_coordinator_at_every_stage() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let studio = studio(fleet.dir());
    agents(&mut fleet, 2, &studio);
    let before = files(&studio);
    let run = {
        let mut client = fleet.client().await;
        client.submit(in_studio(REQUEST)).await.r#ref
    };
    for stage in ["plan", "evaluate-emma", "evaluate-lucas.publish", "synthesis"] {
        let client = fleet.client().await;
        until_async("a stage to be reached", || {
            let mut client = client.clone();
            let run = run.clone();
            async move {
                let request = orch_proto::v1::GetRunRequest { r#ref: run.clone() };
                let over = client.runs.get_run(request).await.ok()?.into_inner().run?.finished_at.is_some();
                let tasks = super::by_name(&mut client, &run).await;
                (over || tasks.get(stage).is_some_and(|task| task.attempt > 0)).then_some(())
            }
        })
        .await;
        fleet.kill_coordinator();
        fleet.start_coordinator();
    }
    let mut client = fleet.client().await;
    let (_, tasks) = ended(&mut client, &run, RunState::Succeeded).await;
    assert_eq!(work(&tasks).len(), 3);
    assert_eq!(only_new(&before, &files(&studio)).len(), 3);
}

/// Files of `after` that were not there `before`; those that were must be as they were.
fn only_new(
    before: &BTreeMap<std::path::PathBuf, Vec<u8>>,
    after: &BTreeMap<std::path::PathBuf, Vec<u8>>,
) -> BTreeMap<std::path::PathBuf, Vec<u8>> {
    for (path, content) in before {
        assert_eq!(after.get(path), Some(content), "{}", path.display());
    }
    after
        .iter()
        .filter(|(path, _)| !before.contains_key(*path))
        .map(|(p, c)| (p.clone(), c.clone()))
        .collect()
}
