//! Work that was cut off goes on in its conversation where that is kept, and starts afresh where it is not: what is said to
//! the CLI, what it costs, and what people are told. With the scripted CLI, which writes down every prompt it is given.

use orch_certs::Role;
use orch_proto::v1::admin_service_client::AdminServiceClient;
use orch_proto::v1::{self, Outcome, RunState, TaskState, task_spec::Runner};
use orch_tests::client::{Client, answer, channel, command, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::{until, until_async};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What the prompt of every task here holds, and no note.
pub(crate) const TASK: &str = "the whole task";
/// What the note in place of a prompt begins with.
const NOTE: &str = "You were interrupted while you worked on this task";
/// What an attempt that went on says of itself.
pub(crate) const WENT_ON: &str = "it went on in the conversation of the attempt before";
/// Sleeps for ever, but only once in a working directory.
const ONCE: &str = "test -e once || { touch once; sleep 600; }";
const HELD: &str = "until [ -e go ]; do sleep 0.05; done";

/// A directive.
pub(crate) fn says(text: &str) -> String {
    format!("[[text {}]]", json!({"text": text}))
}

pub(crate) fn bash(line: &str) -> String {
    let input = json!({"command": line, "description": "x", "timeout": 600_000});
    format!("[[tool {}]]", json!({"name": "Bash", "input": input}))
}

fn then(prompt: &str) -> String {
    format!("[[then {}]]", json!({"prompt": prompt}))
}

pub(crate) fn task(id: &str, directives: &str) -> v1::TaskSpec {
    worker(id, "anga", &format!("{TASK} {directives}"))
}

fn within(seconds: i64, task: v1::TaskSpec) -> v1::TaskSpec {
    v1::TaskSpec { timeout: Some(prost_types::Duration { seconds, nanos: 0 }), ..task }
}

/// Everything that was said to the CLI in a conversation, oldest first, by its session file.
pub(crate) fn said(conversation: &Path) -> Vec<String> {
    let mut files = Vec::new();
    session_files(&conversation.join("home"), &mut files);
    let texts = files.iter().map(|file| std::fs::read_to_string(file).expect("a session file"));
    texts.flat_map(|text| text.lines().filter_map(said_in).collect::<Vec<_>>()).collect()
}

fn session_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            session_files(&path, found);
        } else if path.extension().is_some_and(|end| end == "jsonl") {
            found.push(path);
        }
    }
}

fn said_in(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line).ok()?;
    let content = &line.get("message").filter(|_| line["type"] == "user")?["content"];
    let blocks = content.as_array().into_iter().flatten();
    let text: String = blocks.filter_map(|block| block["text"].as_str()).chain(content.as_str()).collect();
    [TASK, NOTE].iter().any(|known| text.contains(known)).then_some(text)
}

/// Which of what was said is the whole task, and which a note.
pub(crate) fn kinds(said: &[String]) -> Vec<&'static str> {
    let kind = |text: &String| match (text.contains(TASK), text.trim_start().starts_with(NOTE)) {
        (true, false) => "task",
        (false, true) => "note",
        (_, _) => "both",
    };
    said.iter().map(kind).collect()
}

fn conversation(fleet: &Fleet, agent: &str, run: &v1::Run, index: u32) -> PathBuf {
    fleet.agent_dir(agent).join(format!("tasks/{}-{index}", run.run_id))
}

async fn whole(client: &mut Client, task_ref: &str) -> v1::Task {
    let request = v1::GetTaskRequest { r#ref: task_ref.into() };
    client.runs.get_task(request).await.expect("the task").into_inner().task.expect("the task")
}

async fn ended(client: &mut Client, run: &v1::Run) -> Vec<v1::Task> {
    client.finished(&run.r#ref).await;
    client.tasks(&run.r#ref).await
}

/// What `orchctl` prints.
pub(crate) fn orchctl(fleet: &Fleet, args: &[&str]) -> String {
    let output = fleet.orchctl(args).output().expect("orchctl runs");
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn nothing_left(dir: &Path) {
    until("every process of every attempt to be gone", || {
        (at_home_in(dir).is_empty() && supervisors_in(dir).is_empty()).then_some(())
    });
}

fn outcomes(task: &v1::Task) -> Vec<Outcome> {
    task.attempts.iter().map(v1::Attempt::outcome).collect()
}

fn cost(usage: Option<&v1::Usage>) -> (u64, u64, u64) {
    let models = usage.iter().flat_map(|usage| &usage.models);
    let (input, output) =
        models.fold((0, 0), |sum, model| (sum.0 + model.input_tokens, sum.1 + model.output_tokens));
    (input, output, usage.map_or(0, |usage| usage.cost_micro_usd))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_out_of_time_goes_on_with_a_note_and_is_paid_once() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    for agent in ["box-1", "box-2"] {
        fleet.agent(agent, &["--slots", "2"]);
    }
    let mut client = fleet.client().await;
    let rest = then(&format!("{}{}", bash(HELD), says("went on")));
    let spec = within(3, task("t", &format!("{}[[hang]]{rest}", bash("echo x >> begun"))));
    let submitted = client.submit(run(vec![spec])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    let cut_off = ended(&mut client, &submitted).await.remove(0);
    assert_eq!((cut_off.outcome(), cut_off.attempt), (Outcome::Timeout, 1));
    let agent = cut_off.agent;

    orchctl(&fleet, &["retry", &submitted.r#ref]);
    let running = client.task_in(&task_ref, TaskState::Running).await;
    assert_eq!((running.attempt, &running.agent), (2, &agent), "the other agent is as idle");
    for words in [&["status", &task_ref][..], &["explain", &task_ref]] {
        let told = orchctl(&fleet, words);
        assert!(told.contains("goes on in the conversation of attempt 1"), "{words:?}: {told}");
    }
    let dir = conversation(&fleet, &agent, &submitted, 0);
    std::fs::write(dir.join("work/go"), "").expect("the task's working directory");
    let done = ended(&mut client, &submitted).await.remove(0);
    assert_eq!((done.outcome(), done.attempt, answer(&done)), (Outcome::Ok, 2, "went on"));
    assert!(orchctl(&fleet, &["status", &task_ref]).contains(WENT_ON));

    let said = said(&dir);
    assert_eq!(kinds(&said), ["task", "note"]);
    assert!(said[1].contains(&format!("attempt 1 on {agent} was cut off after")), "{}", said[1]);
    assert!(said[1].contains("time limit"), "{}", said[1]);
    assert_eq!(std::fs::read_to_string(dir.join("work/begun")).expect("its file"), "x\n");

    let task = whole(&mut client, &task_ref).await;
    let costs: Vec<_> = task.attempts.iter().map(|attempt| cost(attempt.usage.as_ref())).collect();
    assert_eq!(costs.iter().map(|cost| cost.2).collect::<Vec<_>>(), [600, 1_200], "each from zero");
    assert_eq!(cost(task.usage.as_ref()), (300, 60, 1_800));
    assert_eq!(cost(client.run(&submitted.r#ref).await.usage.as_ref()).2, 1_800);
    nothing_left(&fleet.dir().join("agents"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_whose_supervisor_is_killed_goes_on_with_a_note() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![task("t", &format!("{}{}", bash(ONCE), says("went on")))])).await;
    let dir = conversation(&fleet, "box-1", &submitted, 0);
    until("the tool to run", || dir.join("work/once").exists().then_some(()));
    let supervisors = supervisors_in(&fleet.agent_dir("box-1"));
    assert_eq!(supervisors.len(), 1, "one attempt runs");
    let pid = i32::try_from(supervisors[0]).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL).expect("killed");
    let done = ended(&mut client, &submitted).await.remove(0);
    let task = whole(&mut client, &done.r#ref).await;
    let first = outcomes(&task)[0];
    assert!([Outcome::Crash, Outcome::LostAgent].contains(&first), "{task:?}");
    assert_eq!((task.outcome(), task.attempt, answer(&done)), (Outcome::Ok, 2, "went on"), "{task:?}");
    let said = said(&dir);
    assert_eq!(kinds(&said), ["task", "note"]);
    assert!(said[1].contains("attempt 1 on box-1 was cut off"), "{}", said[1]);
    nothing_left(&fleet.dir().join("agents"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_keeps_that_stays_away_starts_afresh_elsewhere() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![task("t", &format!("{}{}", bash(HELD), says("done")))])).await;
    let task_ref = format!("{}/t", submitted.r#ref);
    client.task_in(&task_ref, TaskState::Running).await;
    fleet.agent("box-2", &["--slots", "2"]);
    fleet.agent_process("box-1").kill();
    until_async("the task to run elsewhere", || {
        let (mut client, task_ref) = (client.clone(), task_ref.clone());
        async move {
            let task = whole(&mut client, &task_ref).await;
            (task.agent == "box-2" && task.state() == TaskState::Running).then_some(())
        }
    })
    .await;
    assert!(!orchctl(&fleet, &["explain", &task_ref]).contains("goes on in"), "nothing is kept there");
    let dir = conversation(&fleet, "box-2", &submitted, 0);
    until("its directory", || std::fs::write(dir.join("work/go"), "").ok());
    let done = ended(&mut client, &submitted).await.remove(0);
    assert_eq!((done.outcome(), done.attempt, answer(&done)), (Outcome::Ok, 2, "done"));
    assert_eq!(outcomes(&whole(&mut client, &task_ref).await), [Outcome::LostAgent, Outcome::Ok]);
    assert_eq!(kinds(&said(&dir)), ["task"]);
    // Back again, it ends what nobody waits for.
    fleet.agent("box-1", &["--slots", "2"]);
    nothing_left(&fleet.dir().join("agents"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_of_the_first_protocol_is_given_the_task_again() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.spawn_agent_in("box-1", &["--slots", "2"], &[("ORCH_TEST_PROTOCOL_MAX", "1")]);
    fleet.wait_connected("box-1");
    let mut client = fleet.client().await;
    let spec = within(3, task("t", &format!("{}{}", bash(ONCE), says("again"))));
    let submitted = client.submit(run(vec![spec])).await;
    assert_eq!(ended(&mut client, &submitted).await[0].outcome(), Outcome::Timeout);
    orchctl(&fleet, &["retry", &submitted.r#ref]);
    let done = ended(&mut client, &submitted).await.remove(0);
    assert_eq!((done.outcome(), done.attempt, answer(&done)), (Outcome::Ok, 2, "again"));
    assert_eq!(kinds(&said(&conversation(&fleet, "box-1", &submitted, 0))), ["task", "task"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_on_must_still_fit_its_schema_and_pass_its_gates() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4", "--allow-command", "test"]);
    let mut client = fleet.client().await;
    let cut_off =
        |id: &str, rest: &str| within(3, task(id, &format!("{}[[hang]]{}", bash("echo begun"), then(rest))));
    let structured = |id: &str, rest: &str| {
        let mut task = cut_off(id, rest);
        let Some(Runner::Worker(worker)) = &mut task.runner else { panic!("a worker's task") };
        worker.output_schema =
            r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#.into();
        task
    };
    // The second of its turns after the interruption makes the file that the gate wants.
    let late = bash("if [ -e seen ]; then cp seen b.txt; else echo x > seen; fi");
    let mut gated = cut_off("gated", &format!("{late}{}", says("gated")));
    let gate = v1::GateCommand {
        program: "test".into(),
        args: vec!["-s".into(), "b.txt".into()],
        ..Default::default()
    };
    gated.gates = Some(v1::Gates { commands: vec![gate], ..Default::default() });
    let tasks =
        vec![structured("fits", r#"[[structured {"n":3}]]"#), structured("not", &says("three")), gated];
    let submitted = client.submit(run(tasks)).await;
    for task in ended(&mut client, &submitted).await {
        assert_eq!((task.outcome(), task.attempt), (Outcome::Timeout, 1), "{}", task.task_id);
    }
    orchctl(&fleet, &["retry", &submitted.r#ref]);
    let [fits, not, gated] = ended(&mut client, &submitted).await.try_into().expect("three tasks");
    assert_eq!((fits.outcome(), fits.attempt, fits.structured.as_str()), (Outcome::Ok, 2, r#"{"n":3}"#));
    assert_eq!((not.outcome(), not.attempt), (Outcome::SchemaInvalid, 2), "{}", not.detail);
    assert_eq!((gated.outcome(), gated.attempt, gated.repairs), (Outcome::Ok, 3, 1), "{}", gated.detail);
    for index in 0..3 {
        let said = said(&conversation(&fleet, "box-1", &submitted, index));
        assert_eq!(kinds(&said)[..2], ["task", "note"], "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_goes_on_and_one_from_the_task_says_it_again() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "2"]);
    let mut client = fleet.client().await;
    let spec = within(3, task("t", &format!("{}{}", bash(ONCE), says("done"))));
    let submitted = client.submit(run(vec![spec])).await;
    assert_eq!(ended(&mut client, &submitted).await[0].outcome(), Outcome::Timeout);
    let dir = conversation(&fleet, "box-1", &submitted, 0);
    orchctl(&fleet, &["retry", &submitted.r#ref]);
    assert_eq!(ended(&mut client, &submitted).await[0].outcome(), Outcome::Ok);
    assert_eq!(kinds(&said(&dir)), ["task", "note"]);
    orchctl(&fleet, &["retry", &submitted.r#ref, "--from", "t"]);
    let done = ended(&mut client, &submitted).await.remove(0);
    assert_eq!((done.outcome(), done.attempt, done.detail.as_str()), (Outcome::Ok, 3, ""));
    assert_eq!(kinds(&said(&dir)), ["task", "note", "task"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_drained_agent_holds_ahead_runs_elsewhere_at_once_and_counts_as_nothing() {
    const SLOTS: [&str; 4] = ["--slots", "1", "--allow-command", "/bin/sh"];
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &SLOTS);
    let mut client = fleet.client().await;
    let sh = |id: &str, line: &str| command(id, "/bin/sh", &["-c", line]);
    let busy = client.submit(run(vec![sh("busy", HELD)])).await;
    client.task_in(&format!("{}/busy", busy.r#ref), TaskState::Running).await;
    let quick = |at: usize| v1::TaskSpec { retries: Some(0), ..sh(&format!("quick-{at}"), "true") };
    let ahead = client.submit(run((0..8).map(quick).collect())).await;
    until_async("box-1 to hold them all ahead", || {
        let (mut client, ahead) = (client.clone(), ahead.r#ref.clone());
        async move {
            let tasks = client.tasks(&ahead).await;
            // Once a heartbeat has named it, what was taken over counts as running, though its child waits for the slot.
            let held = |state| matches!(state, TaskState::Leased | TaskState::Running);
            tasks.iter().all(|task| held(task.state()) && task.agent == "box-1").then_some(())
        }
    })
    .await;
    fleet.agent("box-2", &SLOTS);
    let files = fleet.certificate(Role::Admin, "admin");
    let mut admin = AdminServiceClient::new(channel(&fleet.ports().grpc, &files));
    let request = v1::DrainAgentRequest { name: "box-1".into(), reason: String::new() };
    admin.drain_agent(request).await.expect("drained");
    let tasks = ended(&mut client, &ahead).await;
    for task in &tasks {
        let task = whole(&mut client, &task.r#ref).await;
        assert_eq!((task.state(), task.agent.as_str()), (TaskState::Succeeded, "box-2"), "{task:?}");
        assert_eq!(outcomes(&task), [Outcome::Ok], "what was given back is no attempt that failed");
    }
    let still = client.tasks(&busy.r#ref).await.remove(0);
    assert_eq!((still.state(), still.attempt, still.agent.as_str()), (TaskState::Running, 1, "box-1"));
    let go = conversation(&fleet, "box-1", &busy, 0).join("work/go");
    std::fs::write(go, "").expect("the task's working directory");
    assert_eq!(client.finished(&busy.r#ref).await.state(), RunState::Succeeded);
}
