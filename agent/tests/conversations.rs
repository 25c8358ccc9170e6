//! Which conversation an attempt works in: resumed, begun afresh, followed up, in use, gone. The CLI is a fake in sh that
//! leaves a session file.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use orch_agent::homes::ConversationKey;
use orch_agent::runner::{AttemptKey, AttemptSpec, ClaudeWork, Outcome, Work};
use orch_agent::supervisor::stop::StopCause;
use support::agent::{Agent, DONE, INIT, claude_work, end, joined, spec, start};
use support::until;
use uuid::Uuid;

const FIRST: ConversationKey = ConversationKey { run: 7, task: 0 };

/// A CLI that leaves its session and its arguments and lines in its home, does `act` and answers.
fn script(act: &str) -> String {
    let session = Uuid::from_u128(7);
    format!(
        "mkdir -p \"$CLAUDE_CONFIG_DIR/projects/p\"; echo '{{\"type\":\"user\"}}' >>\"$CLAUDE_CONFIG_DIR/projects/p/{session}.jsonl\"
         printf '%s ' \"$@\" >> \"$HOME/args\"; echo >> \"$HOME/args\"
         read -r line; printf '%s\\n' \"$line\" >> \"$HOME/lines\"; {INIT}; {act}; {DONE}; cat >/dev/null"
    )
}

fn attempt(number: u32, work: ClaudeWork) -> AttemptSpec {
    let key = AttemptKey { run: 7, task: 0, attempt: number };
    AttemptSpec { key, ..spec(Work::Claude(Box::new(work))) }
}

/// An attempt of another run's task that continues the conversation of the first.
fn follow_up(number: u32) -> AttemptSpec {
    let work = ClaudeWork { conversation: Some(FIRST), ..claude_work("now also the other half") };
    let key = AttemptKey { run: 9, task: 0, attempt: number };
    AttemptSpec { key, reference: "adhoc/9/main".to_owned(), ..spec(Work::Claude(Box::new(work))) }
}

/// What was said first, by the number of the process.
fn said(agent: &Agent) -> Vec<String> {
    let lines = fs::read_to_string(home(agent).join("lines")).unwrap();
    let text = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["message"]["content"][0]["text"].as_str().unwrap().to_owned()
    };
    lines.lines().map(text).collect()
}

fn home(agent: &Agent) -> PathBuf {
    agent.work_dir().with_file_name("home")
}

#[tokio::test]
async fn a_plain_retry_in_a_kept_session_says_the_task_again_and_finds_its_files() {
    let agent = Agent::new();
    let runner = agent.claude(&script("echo x >> ../out/report; echo x >> note"));
    for number in [1, 2] {
        assert_eq!(end(&runner, attempt(number, claude_work("do it"))).await.outcome, Outcome::Ok);
    }
    let said = said(&agent);
    assert!(said.len() == 2 && said.iter().all(|text| text.starts_with("\ndo it\n\n")), "{said:?}");
    assert_eq!(fs::read_to_string(agent.work_dir().with_file_name("out").join("report")).unwrap(), "x\nx\n");
    assert_eq!(fs::read_to_string(agent.work_dir().join("note")).unwrap(), "x\nx\n");
}

#[tokio::test]
async fn where_no_session_is_kept_the_task_begins_afresh_with_what_was_found() {
    let agent = Agent::new();
    let runner = agent.claude(&script("ls ../out . > \"$HOME/seen\"; echo x > ../out/report; echo x > note"));
    assert_eq!(end(&runner, attempt(1, claude_work("do it"))).await.outcome, Outcome::Ok);
    fs::remove_dir_all(home(&agent).join(".claude/projects")).unwrap();
    let work = ClaudeWork { feedback: Some("make test failed".to_owned()), ..claude_work("do it") };
    assert_eq!(end(&runner, attempt(2, work)).await.outcome, Outcome::Ok);
    let seen = fs::read_to_string(home(&agent).join("seen")).unwrap();
    assert!(!seen.contains("report") && !seen.contains("note"), "{seen}");
    let said = said(&agent);
    let text = said.last().unwrap();
    assert!(text.contains("\n\nWorking directory: "), "{text}");
    let (task, found) = text.split_once("\n\n===== What was found about an earlier attempt").unwrap();
    assert!(task == "\ndo it" && found.contains("\n\nmake test failed\n====="), "{text}");
    let args = fs::read_to_string(home(&agent).join("args")).unwrap();
    assert!(!args.contains("--resume"), "{args}");
}

#[tokio::test]
async fn an_interrupted_conversation_is_gone_on_with_by_a_note_in_place_of_the_task() {
    let agent = Agent::new();
    let runner = agent.claude(&script("echo x >> note"));
    assert_eq!(end(&runner, attempt(1, claude_work("do it"))).await.outcome, Outcome::Ok);
    let interrupted =
        || ClaudeWork { interrupted: Some("its agent was lost".to_owned()), ..claude_work("do it") };
    let report = end(&runner, attempt(2, interrupted())).await;
    // Each process counts its money from 0.
    assert_eq!((report.outcome, report.usage.cost_micro_usd), (Outcome::Ok, 250_000));
    assert_eq!(report.detail, "it went on in the conversation of the attempt before");
    let text = said(&agent).pop().unwrap();
    assert!(text.starts_with("\nYou were interrupted") && text.contains("its agent was lost"), "{text}");
    assert!(!text.contains("do it"), "the conversation knows its task: {text}");
    assert_eq!(
        fs::read_to_string(agent.work_dir().join("note")).unwrap(),
        "x\nx\n",
        "its files are as it left them"
    );

    // A CLI that was killed before it wrote down what it was told has a file and no conversation: it could neither be
    // resumed nor begun under its name.
    let session = home(&agent).join(format!(".claude/projects/p/{}.jsonl", Uuid::from_u128(7)));
    fs::write(&session, "{\"type\":\"queue-operation\"}\n{\"parentUuid\":null,\"type\":\"us").unwrap();
    let report = end(&runner, attempt(3, interrupted())).await;
    assert_eq!((report.outcome, report.detail.as_str()), (Outcome::Ok, ""));
    let text = said(&agent).pop().unwrap();
    assert!(text.starts_with("\ndo it\n\nWorking directory: "), "{text}");
    let args = fs::read_to_string(home(&agent).join("args")).unwrap();
    let resumed: Vec<bool> = args.lines().map(|line| line.contains("--resume")).collect();
    assert_eq!(resumed, [false, true, false]);
    assert_eq!(fs::read_to_string(&session).unwrap().lines().count(), 1, "the file is the new one's");
    assert_eq!(fs::read_to_string(agent.work_dir().join("note")).unwrap(), "x\n", "it begins afresh");
}

#[tokio::test]
async fn a_follow_up_continues_the_conversation_where_it_lives_and_keeps_it() {
    let agent = Agent::new();
    let runner = agent.claude(&script("echo x >> ../out/report"));
    assert_eq!(end(&runner, attempt(1, claude_work("do it"))).await.outcome, Outcome::Ok);
    let kept = agent.dir.path().join("data/tasks/7-0");
    let long_ago = SystemTime::now() - Duration::from_secs(23 * 3_600);
    fs::File::open(&kept).unwrap().set_modified(long_ago).unwrap();

    let report = end(&runner, follow_up(1)).await;
    assert_eq!((report.outcome, report.usage.cost_micro_usd), (Outcome::Ok, 250_000));
    let out = agent.work_dir().with_file_name("out");
    assert_eq!(fs::read_to_string(out.join("report")).unwrap(), "x\nx\n");
    assert_eq!(report.artifacts_from, Some(out), "all of it is handed over");
    let args = fs::read_to_string(home(&agent).join("args")).unwrap();
    assert!(args.lines().last().unwrap().contains(&format!("--resume {}", Uuid::from_u128(7))), "{args}");
    assert!(said(&agent).last().unwrap().starts_with("\nnow also the other half\n\n"));

    let tasks = agent.dir.path().join("data/tasks");
    assert!(tasks.join("9-0/attempts/1/exit.json").exists() && !tasks.join("9-0/work").exists());
    assert_eq!(fs::read_dir(tasks.join("7-0/attempts")).unwrap().count(), 1, "attempts never meet");
    let age = SystemTime::now().duration_since(fs::metadata(kept).unwrap().modified().unwrap());
    assert!(age.unwrap_or_default() < Duration::from_secs(3_600), "its time runs anew");

    let again = follow_up(2);
    let Work::Claude(mut work) = again.work else { unreachable!() };
    work.feedback = Some("one half is missing".to_owned());
    let again = AttemptSpec { work: Work::Claude(work), ..follow_up(2) };
    assert_eq!(end(&runner, again).await.outcome, Outcome::Ok);
    assert_eq!(said(&agent).last().unwrap(), "\none half is missing");
}

#[tokio::test]
async fn a_conversation_that_is_gone_cannot_be_followed_up() {
    let sentence = "this agent no longer keeps that conversation (kept 24 h after its end)";
    let agent = Agent::new();
    let runner = agent.claude(&script("touch began"));
    let report = end(&runner, follow_up(1)).await;
    assert_eq!((report.outcome, report.detail.as_str()), (Outcome::SpawnFailed, sentence));
    assert!(!agent.dir.path().join("data/tasks/7-0").exists(), "nothing is made in its place");

    assert_eq!(end(&runner, attempt(1, claude_work("do it"))).await.outcome, Outcome::Ok);
    fs::remove_dir_all(home(&agent).join(".claude/projects")).unwrap();
    let report = end(&runner, follow_up(1)).await;
    assert_eq!((report.outcome, report.detail.as_str()), (Outcome::SpawnFailed, sentence));
}

#[tokio::test]
async fn two_attempts_never_work_in_one_conversation() {
    let agent = Agent::new();
    let runner = agent.claude(&script("touch up; while [ ! -e go ]; do sleep 0.02; done; rm up go"));
    let (_handle, first) = start(runner.clone(), attempt(1, claude_work("do it")));
    until("it works", || agent.work_dir().join("up").exists()).await;
    let report = end(&runner, follow_up(1)).await;
    assert_eq!(
        (report.outcome, report.detail.as_str()),
        (Outcome::SpawnFailed, "the conversation is in use by adhoc/7/main")
    );
    // A later attempt of the same task waits for the earlier one, and can be stopped meanwhile.
    let (waits, second) = start(runner.clone(), attempt(2, claude_work("do it")));
    let (stopped, third) = start(runner.clone(), attempt(3, claude_work("do it")));
    stopped.stop.send_replace(Some(StopCause::Cancelled));
    let third = joined(third).await;
    assert_eq!(
        (third.outcome, third.detail.as_str()),
        (Outcome::Cancelled, "it was cancelled while it waited for the end of an earlier attempt")
    );
    assert!(waits.live.borrow().supervisor_pid.is_none());
    fs::write(agent.work_dir().join("go"), "").unwrap();
    assert_eq!(joined(first).await.outcome, Outcome::Ok);
    until("the second works", || agent.work_dir().join("up").exists()).await;
    fs::write(agent.work_dir().join("go"), "").unwrap();
    assert_eq!(joined(second).await.outcome, Outcome::Ok);
    let follow_up = follow_up(2);
    let (_handle, running) = start(runner, follow_up);
    until("the follow-up works", || agent.work_dir().join("up").exists()).await;
    assert!(agent.homes.forget(FIRST).unwrap_err().to_string().contains("in use by adhoc/9/main"));
    fs::write(agent.work_dir().join("go"), "").unwrap();
    assert_eq!(joined(running).await.outcome, Outcome::Ok);
}
