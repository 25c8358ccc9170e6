//! Attempts that a former process of the agent started and that are gone on with: over the socket of a supervisor that
//! lives, or from what one left. The agent dies here by dropping everything that follows an attempt, which is all that
//! its supervisor sees of a death. The CLI is a fake in sh.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use orch_agent::adoption::find;
use orch_agent::boottime::boot_id;
use orch_agent::procfs;
use orch_agent::runner::supervised::supervisor_id;
use orch_agent::runner::{AttemptKey, AttemptReport, AttemptSpec, ClaudeWork, Outcome, Runner, Work};
use orch_agent::spool::{Entry, Inventory};
use orch_agent::supervisor::client::{Survivor, leftovers};
use orch_agent::supervisor::record::RuntimeRecord;
use orch_agent::supervisor::stop::StopCause;
use orch_agent::supervisor::tree::signal_exactly;
use rustix::process::Signal;
use support::agent::{Agent, DONE, INIT, claude_work, command, end, gone_on_with, spec, start};
use support::until;

const KEY: AttemptKey = AttemptKey { run: 7, task: 0, attempt: 1 };

fn dir(agent: &Agent) -> PathBuf {
    agent.dir.path().join("data/tasks/7-0/attempts/1")
}

/// The note of the supervisor, while it lives.
fn supervisor(agent: &Agent) -> Option<RuntimeRecord> {
    let id = supervisor_id(agent.launcher.owner(), KEY);
    let notes = leftovers::find(agent.launcher.runtime_dir(), agent.launcher.owner()).unwrap();
    notes.into_iter().find(|note| note.id == id && note.is_alive(&boot_id()))
}

/// What a starting agent finds of this attempt.
fn found(agent: &Agent) -> Option<Survivor> {
    let mut inventory = Inventory::default();
    inventory.apply(Entry::Accepted { key: KEY, payload: Vec::new() });
    let (found, ended) = find(&inventory, &agent.homes, &agent.launcher, |_| true).unwrap();
    assert_eq!(ended, [], "nothing that is owed a report is ended");
    found.into_iter().next().map(|(_, survivor)| survivor)
}

fn processes(agent: &Agent) -> usize {
    let mark = format!("ORCH_SUPERVISOR={}", supervisor_id(agent.launcher.owner(), KEY));
    procfs::with_environment(&mark).unwrap().iter().filter(|stat| !stat.is_zombie()).count()
}

/// Starts an attempt, waits until `up` is in its working directory, and lets the agent die.
async fn left(agent: &Agent, runner: impl Runner + 'static, work: Work) {
    left_with(agent, runner, spec(work)).await;
}

async fn left_with(agent: &Agent, runner: impl Runner + 'static, spec: AttemptSpec) {
    let (_handle, mut running) = start(runner, spec);
    until("it is up", || agent.work_dir().join("up").exists()).await;
    running.shutdown().await;
}

fn without_times(report: AttemptReport) -> AttemptReport {
    AttemptReport { duration: Duration::ZERO, cpu: Duration::ZERO, peak_memory_bytes: 0, ..report }
}

fn claude() -> Work {
    Work::Claude(Box::new(claude_work("x")))
}

#[tokio::test]
async fn a_running_child_is_gone_on_with_and_reported_as_if_it_had_never_been_alone() {
    let script = |wait: &str| {
        format!(
            "read -r line; {INIT}; touch up; {wait}
             echo '{{\"type\":\"assistant\",\"message\":{{\"id\":\"m1\",\"model\":\"m\",\"content\":[{{\"type\":\"tool_use\",\"name\":\"Bash\",\"input\":{{}}}}]}}}}'
             {DONE}; echo x > ../out/file; cat >/dev/null"
        )
    };
    let unhurt = Agent::new();
    let expected = end(&unhurt.claude(&script("")), spec(claude())).await;
    assert_eq!((expected.outcome, expected.tool_calls), (Outcome::Ok, 1));
    let agent = Agent::new();
    let runner = agent.claude(&script("while ! test -e go; do sleep 0.05; done"));
    left(&agent, runner.clone(), claude()).await;
    let before = supervisor(&agent).unwrap();
    let survivor = found(&agent).unwrap();
    assert_eq!(survivor.process, Some((before.pid, before.start_ticks)));
    fs::write(agent.work_dir().join("go"), "").unwrap();
    let report = gone_on_with(&runner, KEY, survivor).await.unwrap();
    let here = |report: AttemptReport| AttemptReport { artifacts_from: None, ..without_times(report) };
    assert!(report.artifacts_from.is_some(), "its files are collected");
    assert_eq!(here(report), here(expected));
    assert_eq!(processes(&agent), 0);
}

#[tokio::test]
async fn what_the_dead_agent_had_to_say_is_said_once() {
    let structured = "{\\\"type\\\":\\\"result\\\",\\\"subtype\\\":\\\"success\\\",\\\"is_error\\\":false,\\\"num_turns\\\":2,\\\"structured_output\\\":{}}";
    for said_before in [false, true] {
        let agent = Agent::new();
        let (first, up) = if said_before { (DONE, "touch up;") } else { ("touch up; sleep 0.4; true", "") };
        // Without an agent the first result comes only after its death.
        let late = if said_before { "true" } else { DONE };
        let script = format!(
            "read -r line; {INIT}; {first}; {late}
             read -r repair; printf '%s\\n' \"$repair\" >> said; {up} sleep 0.4; echo \"{structured}\"
             while read -r more; do printf '%s\\n' \"$more\" >> said; done"
        );
        let work = ClaudeWork { output_schema: Some("{}".to_owned()), ..claude_work("x") };
        let runner = agent.claude(&script);
        left(&agent, runner.clone(), Work::Claude(Box::new(work))).await;
        let report = gone_on_with(&runner, KEY, found(&agent).unwrap()).await.unwrap();
        assert_eq!((report.outcome, report.structured.as_deref()), (Outcome::Ok, Some("{}")), "{report:?}");
        let said = fs::read_to_string(agent.work_dir().join("said")).unwrap();
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("StructuredOutput"), "{said}");
    }
}

#[tokio::test]
async fn a_supervisor_that_ended_meanwhile_is_judged_by_its_record() {
    let agent = Agent::new();
    let program = agent.command();
    left(&agent, program.clone(), command("sh", &["-c", "touch up; sleep 0.3; echo out; exit 3"]).work).await;
    until("it has ended", || supervisor(&agent).is_none()).await;
    let report = gone_on_with(&program, KEY, found(&agent).unwrap()).await.unwrap();
    assert_eq!((report.outcome, report.exit_code), (Outcome::GateFailed, Some(3)));
    assert_eq!((report.answer.as_deref(), report.transcript_bytes), (Some("out"), 4));
}

#[tokio::test]
async fn without_an_agent_the_attempt_ends_in_time_and_with_one_again_renewals_count() {
    let alone = Agent::new();
    let program = alone.command();
    let limited = |line: &str, stop_after| {
        let mut spec = command("sh", &["-c", line]);
        spec.limits.stop_after = Some(Duration::from_millis(stop_after));
        spec
    };
    left_with(&alone, program.clone(), limited("touch up; setsid sleep 656 & sleep 657", 700)).await;
    until("the dead-man switch bites", || supervisor(&alone).is_none()).await;
    assert_eq!(processes(&alone), 0, "before anybody is back");
    let lost = gone_on_with(&program, KEY, found(&alone).unwrap()).await.unwrap();
    assert_eq!(lost.outcome, Outcome::LostAgent, "{}", lost.detail);

    let agent = Agent::new();
    let program = agent.command();
    left_with(&agent, program.clone(), limited("touch up; sleep 3; echo out", 2_000)).await;
    let report = gone_on_with(&program, KEY, found(&agent).unwrap()).await.unwrap();
    assert_eq!((report.outcome, report.answer.as_deref()), (Outcome::Ok, Some("out")), "{}", report.detail);
}

#[tokio::test]
async fn a_killed_supervisor_takes_its_child_along_and_what_escaped_is_ended_at_the_start() {
    let agent = Agent::new();
    let script = format!(
        "read -r line; {INIT}; setsid sh -c 'setsid sleep 651 & sleep 652' & sleep 0.1; touch up; sleep 653"
    );
    let runner = agent.claude(&script);
    left(&agent, runner.clone(), claude()).await;
    let note = supervisor(&agent).unwrap();
    signal_exactly(note.pid, note.start_ticks, Signal::KILL).unwrap();
    until("it is gone", || supervisor(&agent).is_none()).await;
    let inventory = {
        let mut inventory = Inventory::default();
        inventory.apply(Entry::Accepted { key: KEY, payload: Vec::new() });
        inventory
    };
    let (found, _) = find(&inventory, &agent.homes, &agent.launcher, |_| true).unwrap();
    assert_eq!(processes(&agent), 0, "also what had sessions of its own");
    let survivor = found.into_iter().next().unwrap().1;
    assert_eq!(survivor.process, None);
    let report = gone_on_with(&runner, KEY, survivor).await.unwrap();
    assert_eq!(report.outcome, Outcome::Crash);
    assert_eq!(report.session_id.as_deref(), Some("s-1"), "what is known is told");
    assert!(report.usage.estimated && report.transcript_bytes > 0, "{report:?}");
}

#[tokio::test]
async fn a_stopped_supervisor_is_woken_and_gone_on_with() {
    let agent = Agent::new();
    let program = agent.command();
    left(&agent, program.clone(), command("sh", &["-c", "touch up; sleep 0.3; echo out"]).work).await;
    let note = supervisor(&agent).unwrap();
    signal_exactly(note.pid, note.start_ticks, Signal::STOP).unwrap();
    let report = gone_on_with(&program, KEY, found(&agent).unwrap()).await.unwrap();
    assert_eq!((report.outcome, report.answer.as_deref()), (Outcome::Ok, Some("out")));
}

#[tokio::test]
async fn a_supervisor_that_is_woken_by_its_agent_ends_its_attempt() {
    let agent = Agent::new();
    let (handle, mut running) = start(agent.command(), command("sh", &["-c", "touch up; sleep 659"]));
    until("it is up", || agent.work_dir().join("up").exists()).await;
    let note = supervisor(&agent).unwrap();
    signal_exactly(note.pid, note.start_ticks, Signal::STOP).unwrap();
    handle.stop.send_replace(Some(StopCause::Cancelled));
    let ended = tokio::time::timeout(Duration::from_secs(20), running.join_next()).await;
    signal_exactly(note.pid, note.start_ticks, Signal::CONT).unwrap();
    assert_eq!(ended.expect("it ends").unwrap().unwrap().outcome, Outcome::Cancelled);
}

/// A process that takes a while to leave the note of a supervisor: until then only the lock of its log shows it.
fn starting(agent: &Agent, dir: PathBuf, id: &str) -> std::thread::JoinHandle<std::process::Child> {
    fs::create_dir_all(&dir).unwrap();
    let log = fs::File::create(dir.join("supervisor.log")).unwrap();
    let child = std::process::Command::new("sleep").arg("660").spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    let note = RuntimeRecord {
        id: id.to_owned(),
        pid,
        start_ticks: procfs::read_stat(pid).unwrap().start_ticks,
        boot_id: boot_id(),
        owner: agent.launcher.owner().to_owned(),
        reference: id.to_owned(),
        attempt_dir: dir,
    };
    rustix::fs::flock(&log, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    let runtime_dir = agent.launcher.runtime_dir().to_owned();
    std::thread::spawn(move || {
        // The length of a start is what is tested.
        std::thread::sleep(Duration::from_millis(300));
        note.write(&runtime_dir).unwrap();
        drop(log);
        child
    })
}

#[tokio::test]
async fn a_supervisor_that_was_just_being_started_and_is_not_gone_on_with_is_ended() {
    let agent = Agent::new();
    let (own, gate) = (supervisor_id(agent.launcher.owner(), KEY), "0123456789abcdef0123");
    let starting = [starting(&agent, dir(&agent), &own), starting(&agent, dir(&agent).join("gate-0"), gate)];
    let mut inventory = Inventory::default();
    inventory.apply(Entry::Accepted { key: KEY, payload: Vec::new() });
    let (found, ended) = find(&inventory, &agent.homes, &agent.launcher, |_| true).unwrap();
    for child in starting {
        let mut child = child.join().unwrap();
        let status = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(status.is_some_and(|status| !status.success()), "{status:?}");
    }
    assert_eq!((found.into_iter().count(), ended.len()), (0, 2));
}

#[tokio::test]
async fn what_nobody_is_owed_a_report_of_is_ended_and_what_never_started_is_not_found() {
    let agent = Agent::new();
    let program = agent.command();
    left(&agent, program, command("sh", &["-c", "touch up; setsid sleep 654 & sleep 655"]).work).await;
    let (found, ended) = find(&Inventory::default(), &agent.homes, &agent.launcher, |_| true).unwrap();
    assert_eq!((found.into_iter().count(), ended.len(), processes(&agent)), (0, 1, 0));
    fs::remove_dir_all(dir(&agent)).unwrap();
    let mut inventory = Inventory::default();
    inventory.apply(Entry::Accepted { key: KEY, payload: Vec::new() });
    let (found, _) = find(&inventory, &agent.homes, &agent.launcher, |_| true).unwrap();
    assert_eq!(found.into_iter().count(), 0);
}
