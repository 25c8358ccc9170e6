//! A window that is used up in the middle of many runs: nothing fails, nothing starts before it is reset, and every
//! conversation goes on where it was.

use crate::stage::{HEARTBEAT, Stage, figures, spec, until};
use orch_proto::v1::{self, Outcome, RunState, TaskState};
use orch_standin::api::{CacheRules, KeyRule, Latency, Setup};
use orch_tests::budget::budget;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const POOL: &str = "north";
const LASTS: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(180);

fn millis(time: Option<prost_types::Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds * 1_000 + i64::from(time.nanos) / 1_000_000)
}

/// Files that hold the messages of conversations, below `dir`.
fn conversations(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => conversations(&path, found),
            Ok(_) if path.extension().is_some_and(|end| end == "messages") => found.push(path),
            Ok(_) | Err(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conversations_are_parked_until_a_window_is_reset_and_go_on() {
    let runs = budget("ORCH_LIMITS_PARKED_RUNS", 20);
    let latency = Latency { first_byte: Duration::from_millis(150), tokens_per_second: None };
    let setup = Setup { cache: Some(CacheRules::default()), latency, ..Setup::default() };
    let mut stage = Stage::set("", setup, &[POOL]).await;
    for agent in ["box-1", "box-2", "box-3"] {
        stage.agent(agent, POOL, &["--slots", "4"]);
    }
    stage.api.exhaust(POOL, "five_hour", runs, LASTS);
    let mut submitted = Vec::new();
    for _ in 0..runs {
        let directive = r#"[[api {"calls":4,"input":300,"output":40,"grow":100}]]"#.to_owned();
        submitted.push(stage.submit(&[directive]).await.r#ref);
    }
    // When it was used up, by the API's clock and by everybody's.
    let first = until("the window to be used up", || {
        stage.api.entries().into_iter().find(|entry| entry.status == 429)
    })
    .await;
    let since = stage.api.now().checked_sub(first.came).expect("it was before now");
    let used_up = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") - since;
    let reset = used_up + LASTS;

    let mut parked = BTreeSet::new();
    while SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970") + Duration::from_millis(500)
        < reset
    {
        for run in &submitted {
            let tasks = stage.client.tasks(run).await;
            parked.extend(
                tasks.iter().filter(|task| task.state() == TaskState::Parked).map(|task| task.r#ref.clone()),
            );
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let (mut resumed, mut early, mut attempts) = (0, 0, 0);
    let quiet = (
        i64::try_from((used_up + HEARTBEAT * 2).as_millis()).expect("a time"),
        i64::try_from(reset.as_millis()).expect("a time"),
    );
    for run in &submitted {
        let ended = stage.ended(run, PATIENCE).await;
        assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
        let task_ref = format!("{run}/t0");
        let request = v1::GetTaskRequest { r#ref: task_ref.clone() };
        let task =
            stage.client.runs.get_task(request).await.expect("a task").into_inner().task.expect("a task");
        assert_eq!(task.outcome(), Outcome::Ok, "{task:?}");
        resumed += usize::from(task.attempts.len() > 1);
        attempts += task.attempts.len();
        early +=
            task.attempts.iter().filter(|one| (quiet.0..quiet.1).contains(&millis(one.started_at))).count();
        // Everything that was said of this task was said in its one conversation.
        let mine = stage
            .api
            .entries()
            .into_iter()
            .filter(|entry| entry.session_id == task.session_id && entry.status == 200);
        assert_eq!(mine.count(), 4, "{task_ref} asked for four answers and got each once");
    }
    let entries = stage.api.entries();
    let sessions: BTreeSet<_> = entries.iter().map(|entry| &entry.session_id).collect();
    assert_eq!(sessions.len() as u64, runs, "a conversation for each run, and no other");
    let late = |entry: &&orch_standin::api::Entry| {
        entry.status == 429 && entry.came > first.came + HEARTBEAT * 2 && entry.came < first.came + LASTS
    };
    let knocking = entries.iter().filter(late).count();
    let refused = crate::stage::refused(&entries);
    assert_prompts_once(&stage, runs);
    let back = entries
        .iter()
        .filter(|entry| entry.came >= first.came + LASTS && entry.status == 200)
        .map(|entry| entry.came)
        .min();
    figures(
        "window",
        &format!(
            "{runs} runs, window used up after {runs} requests for {LASTS:?}: 0 failed, {} parked seen, {resumed} went on in their own \
             conversation ({attempts} attempts), {early} started before the reset; {refused} answers 429, {knocking} of them later \
             than two heartbeats; first answer {:.1?} after the reset",
            parked.len(),
            back.map_or(Duration::ZERO, |at| at.saturating_sub(first.came + LASTS)),
        ),
    );
    assert_eq!((early, knocking), (0, 0));
    assert!(resumed > 0 && !parked.is_empty(), "nothing was parked");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_end_while_an_api_fails_and_what_is_new_succeeds_when_it_is_back() {
    let setup = Setup { cache: Some(CacheRules::default()), ..Setup::default() };
    let mut stage = Stage::set("", setup, &[POOL]).await;
    stage.agent("box-1", POOL, &["--slots", "4", "--api-patience", "2s"]);
    stage.rule(POOL, KeyRule::Refuse(500));
    let began = std::time::Instant::now();
    let mut failing = spec(&vec![r#"[[api {"output":10}]]"#.to_owned(); 3]);
    for task in &mut failing.tasks {
        task.retries = Some(0);
    }
    let run = stage.client.submit(failing).await.r#ref;
    stage.ended(&run, PATIENCE).await;
    let took = began.elapsed();
    let asked = stage.api.entries().len();
    let tasks = stage.client.tasks(&run).await;
    for task in &tasks {
        assert_eq!(task.outcome(), Outcome::ApiError, "{task:?}");
    }
    stage.rule(POOL, KeyRule::Serve);
    let began = std::time::Instant::now();
    let run = stage.submit(&[r#"[[api {"output":10}]]"#.to_owned()]).await.r#ref;
    let ended = stage.ended(&run, PATIENCE).await;
    assert_eq!(ended.state(), RunState::Succeeded, "{ended:?}");
    figures(
        "failing API",
        &format!(
            "{} attempts ended api_error after {took:.1?}, the API was asked {asked} times; when it was back, a new run took {:.1?}",
            tasks.len(),
            began.elapsed()
        ),
    );
}

/// Every conversation holds its prompt once.
fn assert_prompts_once(stage: &Stage, runs: u64) {
    let mut files = Vec::new();
    conversations(&stage.fleet.dir().join("agents"), &mut files);
    assert_eq!(files.len() as u64, runs, "{files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("messages");
        assert_eq!(text.matches("[[api").count(), 1, "{}: {text}", file.display());
    }
}
