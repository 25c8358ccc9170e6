//! A request in plain language, planned, done, published and combined by the real CLI: what the model says comes from the
//! stand-in of its API, which rehearses each part; everything between is real.

use super::Real;
use crate::orchestration::{REQUEST, ended, files, in_studio, request, structured, studio, work};
use orch_proto::v1::{self, RunState, TaskState};
use orch_tests::client::{answer, run, worker};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_class_is_evaluated_into_its_students_folders_and_one_report() {
    let Some(mut real) = Real::without_agents("a_class_is_evaluated").await else { return };
    let studio = studio(real.fleet.dir());
    let before = files(&studio);
    let workspace = format!("dance={}", studio.display());
    for name in ["box-1", "box-2"] {
        real.agent(name, &["--slots", "2", "--workspace", &workspace]);
    }
    let mut client = real.fleet.client().await;
    let submitted = client.submit(in_studio(REQUEST)).await;
    let (whole, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!(work(&tasks), ["evaluate-emma", "evaluate-lucas", "evaluate-sophia"]);
    for name in work(&tasks) {
        let task = &tasks[name];
        assert_eq!(
            (task.state(), task.attempt, task.repairs),
            (TaskState::Succeeded, 1, 0),
            "{}",
            task.detail
        );
        assert!(task.num_turns >= 3, "it read, wrote and answered");
    }
    let after = files(&studio);
    let published: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert_eq!(published.len(), 3, "{published:?}");
    assert!(before.iter().all(|(path, content)| after.get(path) == Some(content)), "nothing else changed");
    let report = structured(&tasks["synthesis"]);
    assert_eq!(report["tasks"].as_array().map(Vec::len), Some(3), "{report}");
    let spent = whole.usage.expect("usage").cost_micro_usd;
    let billed: u64 =
        tasks.values().filter_map(|task| task.usage.as_ref()).map(|usage| usage.cost_micro_usd).sum();
    assert_eq!(spent, billed);
    real.nothing_left();
}

/// What the tool of a first turn prints, and no prompt holds.
const PRINTED: &str = "42-from-the-first-turn";

/// What a worker is told first whose gates are red.
const FOUND: &str = "Your work was checked and is not done yet";

fn tool(name: &str, input: &serde_json::Value) -> String {
    format!("[[tool {}]]", serde_json::json!({"name": name, "input": input}))
}

fn bash(line: &str) -> String {
    tool("Bash", &serde_json::json!({"command": line}))
}

/// Prints [`PRINTED`].
fn print() -> String {
    bash("echo $((6*7))-from-the-first-turn")
}

fn says(text: &str) -> String {
    format!("[[text {}]]", serde_json::json!({"text": text}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_red_gate_is_mended_in_the_same_conversation() {
    let Some(mut real) = Real::without_agents("a_red_gate_is_mended").await else { return };
    real.agent("box-1", &["--allow-command", "test"]);
    for text in [PRINTED, FOUND] {
        real.api.look_for(text);
    }
    let mut client = real.fleet.client().await;
    let second = serde_json::json!({"prompt": bash("cat a.txt > b.txt")});
    let first = bash("echo $((6*7))-from-the-first-turn | tee a.txt");
    let mut task = worker("build", "anga", &format!("{first}[[then {second}]]"));
    task.gates = Some(v1::Gates {
        commands: vec![v1::GateCommand {
            program: "test".into(),
            args: vec!["-s".into(), "b.txt".into()],
            ..Default::default()
        }],
        ..Default::default()
    });
    let submitted = client.submit(run(vec![task])).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!((tasks["build"].repairs, tasks["build"].attempt), (1, 2));
    let requests = real.requests_of(&tasks["build"]);
    assert_eq!(requests.len(), real.api.requests().len(), "one session");
    let answers: Vec<&str> = requests.iter().map(|request| request.answer.as_str()).collect();
    assert_eq!(answers, ["tool_use", "end_turn", "tool_use", "end_turn"]);
    // What is said in the second process is what was found; the first turn comes along as history.
    assert_eq!(requests[0].found, [""; 0]);
    assert_eq!(requests[2].found, [PRINTED, FOUND]);
    assert!(requests[2].messages > requests[1].messages);
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_finished_conversation_is_continued_where_it_lives() {
    let Some(mut real) = Real::without_agents("a_finished_conversation_is_continued").await else { return };
    for name in ["box-1", "box-2"] {
        real.agent(name, &[]);
    }
    real.api.look_for(PRINTED);
    let mut client = real.fleet.client().await;
    let first = client.submit(run(vec![worker("main", "anga", &print())])).await;
    let (_, tasks) = ended(&mut client, &first.r#ref, RunState::Succeeded).await;
    let mut next = worker("main", "anga", &says("and the other half"));
    if let Some(v1::task_spec::Runner::Worker(work)) = next.runner.as_mut() {
        work.after_ref.clone_from(&tasks["main"].r#ref);
    }
    let second = client.submit(run(vec![next])).await;
    let (_, continued) = ended(&mut client, &second.r#ref, RunState::Succeeded).await;
    let (former, task) = (&tasks["main"], &continued["main"]);
    assert_eq!((answer(task), &task.agent), ("and the other half", &former.agent));
    assert_eq!(task.session_id, former.session_id);
    let requests = real.requests_of(task);
    assert_eq!(requests.len(), 3);
    assert_eq!(requests[2].found, [PRINTED], "the history came along");
    real.nothing_left();
}

/// A worker for each permission mode in which workers read files.
fn write_readers(dir: &std::path::Path) {
    std::fs::create_dir(dir.join("workers")).expect("a folder");
    // Where nobody is asked a rule has to allow what is tried.
    let rules = "tools: [Read, \"Bash(touch *)\", \"Bash(rm *)\"]";
    for (name, mode, tools) in
        [("asks-nobody", "dontAsk", rules), ("accepts-edits", "acceptEdits", "tools: [Read, Write, Bash]")]
    {
        let text = format!(
            "---\nname: {name}\ndescription: tests\nmodel: sonnet\npermission_mode: {mode}\n{tools}\n---\n\nYou test.\n"
        );
        std::fs::write(dir.join(format!("workers/{name}.md")), text).expect("a file");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workspace_is_read_in_both_modes_and_changed_in_none() {
    let test = "a_workspace_is_read_in_both_modes_and_changed_in_none";
    let prompts = tempfile::tempdir().expect("a directory");
    write_readers(prompts.path());
    let dir = prompts.path().display().to_string();
    let Some(mut real) = Real::with_coordinator(test, &["--prompts", &dir]).await else { return };
    let notes = real.fleet.dir().join("notes");
    std::fs::create_dir(&notes).expect("a folder");
    for (name, text) in [("by-path.txt", "read-by-its-path"), ("by-link.txt", "read-by-the-link")] {
        std::fs::write(notes.join(name), text).expect("a file");
        real.api.look_for(text);
    }
    let before = files(&notes);
    real.agent("box-1", &["--slots", "2", "--workspace", &format!("notes={}", notes.display())]);
    let mut client = real.fleet.client().await;
    let read = |path: &str| tool("Read", &serde_json::json!({"file_path": path}));
    let write = |path: &str| tool("Write", &serde_json::json!({"file_path": path, "content": "changed"}));
    let path = |name: &str| notes.join(name).display().to_string();
    let script = [
        read(&path("by-path.txt")),
        read("workspace/by-link.txt"),
        write(&path("new.txt")),
        write("workspace/new.txt"),
        bash("touch workspace/new.txt"),
        bash(&format!("rm -f {}", path("by-path.txt"))),
        says("tried"),
    ]
    .concat();
    let tasks = ["asks-nobody", "accepts-edits"].map(|name| {
        let mut task = worker(name, name, &script);
        "notes".clone_into(&mut task.workspace);
        task
    });
    let submitted = client.submit(run(tasks.to_vec())).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    for (name, task) in &tasks {
        let requests = real.requests_of(task);
        assert_eq!(answer(task), "tried", "{name}");
        assert_eq!(requests[2].found, ["read-by-its-path", "read-by-the-link"], "{name}");
    }
    assert_eq!(files(&notes), before);
    real.nothing_left();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planner_whose_plan_cannot_be_run_is_told_why_and_mends_it() {
    let Some(mut real) = Real::without_agents("a_planner_is_told_why").await else { return };
    real.agent("box-1", &["--slots", "2"]);
    real.api.look_for("as-nobody-foresaw");
    let mut client = real.fleet.client().await;
    let bad = serde_json::json!({"summary": "as-nobody-foresaw", "tasks": [
        {"id": "a", "worker": "anga", "description": "do a", "dependencies": ["b"]},
        {"id": "b", "worker": "anga", "description": "do b", "dependencies": ["a"]},
    ]});
    let submitted = client.submit(request(&format!("Do it [[plan {bad}]]"))).await;
    let (_, tasks) = ended(&mut client, &submitted.r#ref, RunState::Succeeded).await;
    assert_eq!((tasks["plan"].repairs, tasks["plan"].attempt), (1, 2));
    assert_eq!(work(&tasks), ["answer"], "the plan of its second answer");
    let requests = real.requests_of(&tasks["plan"]);
    assert!(requests.iter().all(|request| request.found == ["as-nobody-foresaw"]), "{requests:?}");
    real.nothing_left();
}
