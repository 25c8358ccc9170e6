//! Gates with real processes: what is green and red, what the worker is told, and that nothing of a gate is left. The CLI
//! is a fake in sh.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::time::Duration;

use orch_agent::homes::sweep::disk_usage;
use orch_agent::procfs;
use orch_agent::runner::claude::ClaudeRunner;
use orch_agent::runner::command::AllowedPrograms;
use orch_agent::runner::limits::AgentLimits;
use orch_agent::runner::{
    AttemptReport, AttemptSpec, ClaudeWork, GateCommand, GateKind, GateResult, Gates, Outcome, Runner, Work,
    link,
};
use orch_agent::supervisor::client::leftovers;
use orch_agent::supervisor::stop::StopCause;
use support::agent::{
    Agent, DONE, INIT, claude_work, command, end, gone_on_with, joined, spec, start, without_supervisor,
};
use support::{PATIENCE, until};
use uuid::Uuid;

/// A CLI that leaves a session, does `act` and answers.
fn script(act: &str) -> String {
    let session = Uuid::from_u128(7);
    format!(
        "mkdir -p \"$CLAUDE_CONFIG_DIR/projects/p\"; echo '{{\"type\":\"user\"}}' >>\"$CLAUDE_CONFIG_DIR/projects/p/{session}.jsonl\"
         read -r line; printf '%s\\n' \"$line\" >> ../home/lines; {INIT}; {act}; {DONE}; cat >/dev/null"
    )
}

fn sh(script: &str) -> GateCommand {
    GateCommand {
        program: "sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..GateCommand::default()
    }
}

fn commands(commands: impl IntoIterator<Item = GateCommand>) -> Gates {
    Gates { commands: commands.into_iter().collect(), ..Gates::default() }
}

/// An attempt of its own name, so that its processes can be told from those of other tests.
fn gated(name: &str, gates: Gates) -> AttemptSpec {
    of(name, claude_work("do it"), gates)
}

fn of(name: &str, work: ClaudeWork, gates: Gates) -> AttemptSpec {
    let reference = format!("gates-{name}-{}/7/main", std::process::id());
    AttemptSpec { reference, gates, ..spec(Work::Claude(Box::new(work))) }
}

/// Processes of an attempt that still run.
fn processes(spec: &AttemptSpec) -> usize {
    let run = spec.reference.rsplit_once('/').unwrap().0;
    let mut all = procfs::with_environment(&format!("ORCH_RUN={run}")).unwrap();
    all.retain(|stat| !stat.is_zombie());
    all.len()
}

fn allowing_sh(runner: ClaudeRunner) -> ClaudeRunner {
    runner.allowing(AllowedPrograms::find(&["sh".to_owned()], "/bin").unwrap())
}

#[tokio::test]
async fn a_red_gate_sends_its_log_and_the_resumed_conversation_mends_what_is_there() {
    let agent = Agent::new();
    // What was handed over first is mended, not made again.
    let act =
        "if [ -e ../out/report ]; then echo fixed >> ../out/report; else echo draft > ../out/report; fi";
    let runner = allowing_sh(agent.claude(&script(act)));
    let gates =
        commands([sh("grep fixed ../out/report || { echo 'not fixed yet' >&2; exit 3; }"), sh("true")]);
    let mut attempt = gated("mend", gates);
    let red = end(&runner, attempt.clone()).await;
    assert_eq!(red.outcome, Outcome::GateFailed, "{red:?}");
    assert!(red.detail.starts_with("gate failed: sh -c grep fixed") && red.detail.ends_with(": exit code 3"));
    assert_eq!(red.gates.iter().map(|gate| gate.passed).collect::<Vec<_>>(), [false, true]);
    assert_eq!(red.gates[0].log, "exit code 3\nstandard error:\nnot fixed yet");
    let out = agent.work_dir().with_file_name("out");
    assert_eq!((red.answer.as_deref(), &red.artifacts_from), (Some("done"), &Some(out.clone())));
    let feedback = red.feedback.clone().unwrap();
    assert!(feedback.contains("1 of 2 checks failed") && feedback.contains("not fixed yet"), "{feedback}");

    let Work::Claude(work) = &mut attempt.work else { unreachable!() };
    work.feedback = Some(feedback.clone());
    attempt.key.attempt = 2;
    let green = end(&runner, attempt).await;
    assert_eq!((green.outcome, green.detail.as_str(), &green.feedback), (Outcome::Ok, "", &None));
    assert!(green.gates.len() == 2 && green.gates.iter().all(|gate| gate.passed));
    assert_eq!(fs::read_to_string(out.join("report")).unwrap(), "draft\nfixed\n");
    assert_eq!(green.usage.cost_micro_usd, 250_000, "a resumed process begins at nothing");
    let said = fs::read_to_string(agent.work_dir().with_file_name("home").join("lines")).unwrap();
    let last: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(last["message"]["content"][0]["text"], format!("\n{feedback}"));
    assert_eq!(last["message"]["content"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_structured_answer_stays_with_a_red_gate() {
    let agent = Agent::new();
    let structured = DONE.replace("\"num_turns\"", "\"structured_output\":{\"n\":3},\"num_turns\"");
    let runner = allowing_sh(agent.claude(&script("").replace(DONE, &structured).replace("; ;", ";")));
    let mut work = claude_work("x");
    work.output_schema = Some("{\"type\":\"object\"}".to_owned());
    let report = end(&runner, of("structured", work, commands([sh("false")]))).await;
    assert_eq!((report.outcome, report.structured.as_deref()), (Outcome::GateFailed, Some("{\"n\":3}")));
}

#[tokio::test]
async fn a_gate_that_hangs_is_red_at_its_limit_and_nothing_of_it_is_left() {
    let agent = Agent::new();
    let runner = allowing_sh(agent.claude(&script("true")));
    let hangs = GateCommand {
        timeout: Some(Duration::from_millis(400)),
        ..sh("echo up; trap '' TERM; setsid sleep 640 & sleep 641; sleep 642")
    };
    let attempt = gated("hang", commands([hangs, sh("echo later")]));
    let report = end(&runner, attempt.clone()).await;
    assert_eq!(report.outcome, Outcome::GateFailed);
    assert_eq!(report.gates[0].log, "it did not end within 0.4 s and was stopped\nup");
    assert_eq!(report.gates[1].log, "exit code 0\nlater", "those after it are checked all the same");
    assert_eq!(processes(&attempt), 0);
}

#[tokio::test]
async fn what_a_gate_forks_ends_with_it() {
    let agent = Agent::new();
    let runner = allowing_sh(agent.claude(&script("true")));
    let attempt = gated("daemon", commands([sh("setsid sleep 643 >/dev/null 2>&1 & echo forked")]));
    let report = end(&runner, attempt.clone()).await;
    assert_eq!((report.outcome, report.gates[0].log.as_str()), (Outcome::Ok, "exit code 0\nforked"));
    assert_eq!(processes(&attempt), 0);
}

#[tokio::test]
async fn of_a_gate_that_writes_without_end_only_the_end_is_kept() {
    let agent = Agent::new();
    let limits = AgentLimits { output_bytes: 48 << 20, ..AgentLimits::default() };
    let runner = allowing_sh(agent.limited(&script("true"), limits));
    let flood = "yes 'a line of what it writes'";
    let (handle, running) = start(runner.clone(), gated("flood", commands([sh(flood)])));
    let gate = agent.dir.path().join("data/tasks/7-0/attempts/1/gate-0");
    until("segments are let go", || {
        gate.join("stdout.000003").exists() && !gate.join("stdout.000000").exists()
    })
    .await;
    assert!(disk_usage(&gate) < 20 << 20);
    let report = joined(running).await;
    assert_eq!(report.outcome, Outcome::GateFailed);
    let log = &report.gates[0].log;
    assert!(log.starts_with("it wrote more than an attempt may\n") && log.len() <= 4_096, "{log}");
    assert!(log.contains("\na line of what it writes\n") && log.len() > 3_900);
    assert!(!gate.exists(), "its log is in the report");
    let live = handle.live.borrow();
    assert_eq!(live.transcript_bytes, report.transcript_bytes, "it is no part of the transcript");
    assert!(live.attempt_dir.as_ref().unwrap().ends_with("attempts/1"));
}

#[tokio::test]
async fn a_gate_has_the_childs_environment_without_a_credential_and_its_log_no_secret() {
    let agent = Agent::new();
    // The worker has put its key where the gate finds it.
    let runner = allowing_sh(agent.claude(&script("echo \"$ANTHROPIC_API_KEY\" > key")));
    let report = end(&runner, gated("secret", commands([sh("cat key; env | sort; pwd; exit 1")]))).await;
    let log = &report.gates[0].log;
    assert!(log.contains(&"*".repeat(20)) && !log.contains("canary"), "{log}");
    assert!(log.contains("\nORCH_ATTEMPT=1\n") && log.contains("\nTMPDIR="), "{log}");
    assert!(!log.contains("ANTHROPIC_API_KEY"), "{log}");
    let work = fs::canonicalize(agent.work_dir()).unwrap();
    assert!(log.ends_with(&format!("\n{}", work.display())), "{log}");
    assert!(!report.feedback.unwrap().contains("canary"));
}

#[tokio::test]
async fn without_a_sandbox_a_gate_that_is_not_allowed_is_refused_before_anything_is_spent() {
    let agent = Agent::new();
    let runner = agent.claude(&script("touch began"));
    for program in ["sh", "./check.sh"] {
        let gate = GateCommand { program: program.to_owned(), ..GateCommand::default() };
        let report = end(&runner, gated("refused", commands([gate]))).await;
        assert_eq!(report.outcome, Outcome::SpawnFailed);
        assert!(
            report.detail.starts_with("a gate cannot be checked: this agent has no sandbox"),
            "{}",
            report.detail
        );
        assert!(report.detail.contains("--allow-command"));
    }
    assert!(!agent.work_dir().join("began").exists());
}

#[tokio::test]
async fn tool_calls_of_sub_agents_count_as_activity() {
    let call = |id: &str, parent: &str| {
        format!(
            r#"echo '{{"type":"assistant","parent_tool_use_id":{parent},"message":{{"id":"{id}","model":"haiku","content":[{{"type":"tool_use","name":"Bash","input":{{}}}}]}}}}'"#
        )
    };
    let agent = Agent::new();
    let runner = agent.claude(&script(&format!("{}; {}", call("a", "null"), call("s", "\"t\""))));
    for (least, outcome) in [(2, Outcome::Ok), (3, Outcome::GateFailed)] {
        let report =
            end(&runner, gated("activity", Gates { min_tool_calls: least, ..Gates::default() })).await;
        assert_eq!((report.outcome, report.tool_calls), (outcome, 2));
        assert_eq!(report.gates[0].kind, GateKind::Activity);
        assert_eq!(report.gates[0].log, format!("2 of at least {least} tool calls were made"));
    }
}

#[tokio::test]
async fn files_to_hand_over_must_be_there_and_must_be_files() {
    let agent = Agent::new();
    fs::write(agent.dir.path().join("precious"), "somebody else's").unwrap();
    let act = format!(
        "mkdir -p ../out/sub ../out/dir.md; echo x > ../out/sub/report.md; : > ../out/empty.md
         ln -s {}/precious ../out/link.md; ln -s sub ../out/other",
        agent.dir.path().display()
    );
    let patterns = ["sub/*.md", "empty.md", "link.md", "other/report.md", "dir.md", "../../../../precious"];
    let required_artifacts = patterns.map(str::to_owned).to_vec();
    let attempt = gated("files", Gates { required_artifacts, ..Gates::default() });
    let report = end(&agent.claude(&script(&act)), attempt).await;
    assert_eq!(report.outcome, Outcome::GateFailed);
    let found: Vec<_> = report.gates.iter().map(|gate| (gate.name.as_str(), gate.passed)).collect();
    assert_eq!(found, patterns.map(|pattern| (pattern, pattern == "sub/*.md")));
    assert!(report.detail.ends_with("; and 4 more gates failed"), "{}", report.detail);
}

#[tokio::test]
async fn a_cancel_ends_a_gate_and_what_was_spent_stays_known() {
    let agent = Agent::new();
    let runner = allowing_sh(agent.claude(&script("true")));
    let attempt = gated("cancel", commands([sh("touch up; exec sleep 644")]));
    let (handle, running) = start(runner, attempt.clone());
    until("the gate runs", || agent.work_dir().join("up").exists()).await;
    assert_eq!(handle.live.borrow().now, "gate: sh -c touch up; exec sleep 644");
    assert!(handle.live.borrow().supervisor_pid.is_some());
    handle.stop.send_replace(Some(StopCause::Cancelled));
    let report = joined(running).await;
    assert_eq!(report.outcome, Outcome::Cancelled);
    assert_eq!(report.detail, "it was cancelled while the gate sh -c touch up; exec sleep 644 ran");
    assert_eq!((report.usage.cost_micro_usd, report.artifacts_from), (250_000, None));
    assert_eq!(processes(&attempt), 0);
}

#[tokio::test]
async fn without_renewals_a_gate_ends_like_an_attempt() {
    let agent = Agent::new();
    let runner = allowing_sh(agent.claude(&script("true")));
    let mut attempt = gated("lost", commands([sh("sleep 645")]));
    attempt.limits.stop_after = Some(Duration::from_millis(2_500));
    let report = end(&runner, attempt.clone()).await;
    assert_eq!(report.outcome, Outcome::LostAgent, "{}", report.detail);
    assert_eq!(processes(&attempt), 0);
}

#[tokio::test]
async fn a_gates_time_is_not_the_attempts() {
    let agent = Agent::new();
    let runner = allowing_sh(agent.claude(&script("true")));
    let mut attempt = gated("time", commands([sh("sleep 2")]));
    attempt.limits.timeout = Some(Duration::from_millis(1_900));
    let report = end(&runner, attempt).await;
    assert_eq!(report.outcome, Outcome::Ok, "{}", report.detail);
    assert!(report.duration >= Duration::from_secs(2));
}

#[tokio::test]
async fn after_a_restart_of_the_agent_gates_are_checked_as_ever_and_only_once_the_coordinator_agrees() {
    let agent = Agent::new();
    let dir = || agent.dir.path().join("data/tasks/7-0/attempts/1");
    let runner = allowing_sh(agent.claude(&script("true")));
    let attempt = gated("left", commands([sh("test ! -e red")]));
    let green = end(&runner, attempt.clone()).await;
    assert_eq!(green.outcome, Outcome::Ok, "{}", green.detail);
    let again = gone_on_with(&runner, attempt.key, without_supervisor(dir())).await.unwrap();
    let without_times = |report: AttemptReport| AttemptReport {
        duration: Duration::ZERO,
        gates: report.gates.into_iter().map(|gate| GateResult { duration: Duration::ZERO, ..gate }).collect(),
        ..report
    };
    assert_eq!(without_times(again), without_times(green));
    fs::write(agent.work_dir().join("red"), "").unwrap();
    let red = gone_on_with(&runner, attempt.key, without_supervisor(dir())).await.unwrap();
    assert_eq!(red.outcome, Outcome::GateFailed, "it is checked, not remembered");

    let (handle, link) = link();
    let mut unconfirmed = runner.adopt(attempt.key, without_supervisor(dir()), link).unwrap().run;
    let early = tokio::time::timeout(Duration::from_millis(300), unconfirmed.as_mut()).await;
    assert!(early.is_err(), "somebody else may have it by now: {early:?}");
    handle.stop.send_replace(Some(StopCause::Fenced));
    let fenced = tokio::time::timeout(PATIENCE, unconfirmed).await.unwrap();
    assert_eq!((fenced.outcome, fenced.gates), (Outcome::Cancelled, Vec::new()));
}

#[tokio::test]
async fn a_gate_whose_agent_died_is_ended_and_checked_anew_by_the_next_one() {
    let agent = Agent::new();
    let runner = allowing_sh(agent.claude(&script("true")));
    let attempt = gated("died", commands([sh("test -e up || { touch up; exec sleep 646; }")]));
    let (_handle, mut running) = start(runner.clone(), attempt.clone());
    until("the gate runs", || agent.work_dir().join("up").exists()).await;
    running.shutdown().await;
    let runtime = agent.launcher.runtime_dir();
    let notes = leftovers::find(runtime, agent.launcher.owner()).unwrap();
    assert_eq!(leftovers::end_all(runtime, notes, PATIENCE).len(), 1);
    assert_eq!(processes(&attempt), 0);
    let dir = agent.dir.path().join("data/tasks/7-0/attempts/1");
    let report = gone_on_with(&runner, attempt.key, without_supervisor(dir)).await.unwrap();
    assert_eq!(report.outcome, Outcome::Ok, "{}", report.detail);
}

#[tokio::test]
async fn a_programs_task_has_gates_and_no_feedback() {
    let agent = Agent::new();
    let mut attempt = command("sh", &["-c", "echo said; echo x > ../out/there"]);
    attempt.gates =
        Gates { required_artifacts: vec!["there".into()], ..commands([sh("test -s ../out/there")]) };
    let green = end(&agent.command(), attempt.clone()).await;
    assert_eq!((green.outcome, green.answer.as_deref()), (Outcome::Ok, Some("said")));
    assert_eq!(green.gates.len(), 2);
    let mut next = command("sh", &["-c", "echo said"]);
    next.gates = attempt.gates;
    next.key.attempt = 2;
    let red = end(&agent.command(), next).await;
    assert_eq!(red.outcome, Outcome::GateFailed, "what an earlier attempt handed over is gone");
    assert_eq!((red.feedback, red.gates.len()), (None, 2));
    let mut failed = command("sh", &["-c", "exit 3"]);
    failed.gates = commands([sh("touch checked")]);
    failed.key.attempt = 3;
    let failed = end(&agent.command(), failed).await;
    assert_eq!((failed.outcome, failed.gates.len()), (Outcome::GateFailed, 0));
    assert!(failed.detail.starts_with("the program ended with exit code 3"));
}

#[tokio::test]
async fn in_a_sandbox_a_gate_runs_what_the_worker_made_and_touches_only_its_tree() {
    let agent = Agent::outside_of_tmp();
    let act = "printf '#!/bin/sh\\necho made by the worker; cat %s 2>&1 || true; touch ../made; touch ok\\n' \
               \"$PWD/../../../../key\" > check.sh; chmod +x check.sh; touch ../out/x; mkdir sub; \
               ln -s ../../../../.. away";
    let Some(runner) = agent.sandboxed(&script(act)) else { return };
    let gate = |program: &str, dir: &str| GateCommand {
        program: program.to_owned(),
        dir: dir.to_owned(),
        ..GateCommand::default()
    };
    let gates = [gate("./check.sh", ""), gate("pwd", "sub"), gate("./none", ""), gate("true", "away")];
    let report = end(&runner, gated("sandbox", commands(gates))).await;
    let logs: Vec<_> = report.gates.iter().map(|gate| (gate.passed, gate.log.as_str())).collect();
    assert_eq!(logs.len(), 4, "{report:?}");
    assert!(logs[0].0 && logs[0].1.contains("made by the worker"), "{logs:?}");
    assert!(!logs[0].1.contains("canary") && !logs[0].1.contains("***"), "it does not see the key: {logs:?}");
    assert!(agent.work_dir().join("ok").exists() && !agent.work_dir().with_file_name("made").exists());
    assert!(logs[1].0 && logs[1].1.ends_with("work/sub"), "{logs:?}");
    assert_eq!(logs[2], (false, "there is no program \"./none\""));
    assert_eq!(logs[3], (false, "the directory \"away\" leads out of the working directory"));
}
