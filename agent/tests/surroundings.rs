//! What is put around a child: results of other tasks in its working directory, and a workspace that it sees and does not
//! change. The CLI is a fake in sh.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::PathBuf;

use orch_agent::runner::{
    AttemptKey, AttemptSpec, ClaudeWork, Content, GateCommand, Gates, Input, InputFile, Outcome, Work,
    Workspace,
};
use support::agent::{Agent, DONE, INIT, claude_work, command, end, spec};
use uuid::Uuid;

/// A workspace `dance` in a hidden place of the agent's host, and an input with an answer and a file.
fn surrounded(agent: &Agent, attempt: AttemptSpec) -> AttemptSpec {
    let dir = agent.dir.path().join("secret/dance");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("roster.txt"), "Emma\n").unwrap();
    fs::write(agent.dir.path().join("secret/other"), "hidden").unwrap();
    let dir = fs::canonicalize(dir).unwrap();
    let file: PathBuf = agent.dir.path().join("fetched");
    fs::write(&file, "a chart").unwrap();
    let input = Input {
        id: "evaluate-emma".to_owned(),
        reference: "dance/3/evaluate-emma".to_owned(),
        state: "succeeded".to_owned(),
        summary: "Emma turns well.".to_owned(),
        answer: Some(Content::Text("Emma turns very well.".to_owned())),
        artifacts: vec![InputFile { path: "charts/a.txt".to_owned(), file, size: 7, executable: false }],
        ..Input::default()
    };
    let workspace = Some(Workspace { name: "dance".to_owned(), dir });
    AttemptSpec { inputs: vec![input], workspace, ..attempt }
}

const LOOK: &str = "cat inputs/evaluate-emma/result.md inputs/evaluate-emma/artifacts/charts/a.txt workspace/roster.txt; \
                    echo; readlink workspace; echo $ORCH_WORKSPACE; echo $ORCH_INPUTS; \
                    echo x 2>/dev/null > workspace/new && echo written; cat workspace/../other 2>/dev/null";

fn claude(prompt: &str) -> AttemptSpec {
    spec(Work::Claude(Box::new(claude_work(prompt))))
}

fn script(act: &str) -> String {
    let session = Uuid::from_u128(7);
    format!(
        "mkdir -p \"$CLAUDE_CONFIG_DIR/projects/p\"; echo '{{\"type\":\"user\"}}' >>\"$CLAUDE_CONFIG_DIR/projects/p/{session}.jsonl\"
         printf '%s\\n' \"$@\" > ../home/args; read -r line; printf '%s' \"$line\" > ../home/line
         {INIT}; {{ {act}; }} > ../home/seen; {DONE}; cat >/dev/null"
    )
}

#[tokio::test]
async fn the_cli_is_told_of_its_inputs_after_its_task_and_finds_them() {
    let agent = Agent::new();
    let attempt = surrounded(&agent, claude("Compare them."));
    let workspace = attempt.workspace.clone().unwrap().dir;
    assert_eq!(end(&agent.claude(&script(LOOK)), attempt).await.outcome, Outcome::Ok);
    let home = agent.work_dir().with_file_name("home");
    let read = |name: &str| fs::read_to_string(home.join(name)).unwrap();
    let seen = read("seen");
    for expected in [
        "Emma turns very well.",
        "a chart",
        "Emma\n",
        &format!("{}\n{}\n", workspace.display(), workspace.display()),
        &format!("{}/inputs\n", agent.work_dir().display()),
    ] {
        assert!(seen.contains(expected), "{expected} in {seen}");
    }
    let line: serde_json::Value = serde_json::from_str(&read("line")).unwrap();
    let text = line["message"]["content"][0]["text"].as_str().unwrap();
    let (_, section) = text.split_once("\nCompare them.\n\n").unwrap();
    assert!(section.contains("evaluate-emma") && section.contains("Emma turns well."), "{section}");
    assert!(read("args").contains(&format!("--add-dir\n{}\n", workspace.display())));
}

#[tokio::test]
async fn a_program_finds_its_inputs_and_its_workspace_too() {
    let agent = Agent::new();
    let attempt = surrounded(&agent, command("sh", &["-c", LOOK]));
    let report = end(&agent.command(), attempt).await;
    let answer = report.answer.unwrap();
    assert!(answer.contains("Emma turns very well.") && answer.contains("a chart"), "{answer}");
    assert!(answer.contains("/inputs\n") && answer.contains("/secret/dance\n"), "{answer}");
}

#[tokio::test]
async fn in_a_sandbox_a_workspace_is_seen_and_not_changed_by_worker_and_gate_also_in_a_follow_up() {
    let agent = Agent::outside_of_tmp();
    let Some(runner) = agent.sandboxed(&script(LOOK)) else { return };
    let gate = |script: &str| GateCommand {
        program: "sh".to_owned(),
        args: vec!["-c".to_owned(), script.to_owned()],
        ..GateCommand::default()
    };
    let gates = Gates { commands: vec![gate(LOOK), gate("test ! -e workspace/new")], ..Gates::default() };
    let first = AttemptSpec { gates: gates.clone(), ..surrounded(&agent, claude("Compare them.")) };
    let conversation = Some(orch_agent::homes::ConversationKey { run: 7, task: 0 });
    let work = ClaudeWork { conversation, ..claude_work("Again.") };
    let follow_up = AttemptSpec { gates, ..surrounded(&agent, spec(Work::Claude(Box::new(work)))) };
    let follow_up = AttemptSpec { key: AttemptKey { run: 9, task: 0, attempt: 1 }, ..follow_up };
    for attempt in [first, follow_up] {
        let report = end(&runner, surrounded(&agent, attempt)).await;
        assert!(report.gates.len() == 2 && report.gates[1].passed, "{report:?}");
        let seen = fs::read_to_string(agent.work_dir().with_file_name("home").join("seen")).unwrap();
        for seen in [&seen, &report.gates[0].log] {
            assert!(seen.contains("Emma turns very well.") && seen.contains("a chart"), "{seen}");
            assert!(seen.contains("Emma\n"), "the roster of the workspace: {seen}");
            assert!(!seen.contains("written") && !seen.contains("hidden"), "{seen}");
        }
    }
    assert!(!agent.dir.path().join("secret/dance/new").exists());
}
