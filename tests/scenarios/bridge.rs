//! The bridge: task files become runs, exactly once, whatever is killed; results become files; hostile files hurt nobody;
//! what is unfinished can be taken back.

use crate::workflows::said;
use orch_proto::v1::{self, RunState};
use orch_tests::client::Client;
use orch_tests::fleet::Fleet;
use orch_tests::process::Process;
use orch_tests::wait::{until, until_async};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

/// How soon a file must be taken.
const TAKEN_WITHIN: Duration = Duration::from_secs(5);

struct Folders {
    tasks: PathBuf,
    results: PathBuf,
}

impl Folders {
    fn new(fleet: &Fleet) -> Self {
        let folders = Self { tasks: fleet.dir().join("tasks"), results: fleet.dir().join("results") };
        for worker in ["anga", "marie", "fabien"] {
            std::fs::create_dir_all(folders.tasks.join(worker)).expect("a folder");
        }
        folders
    }

    fn drop_in(&self, name: &str, task: &Value) -> PathBuf {
        let path = self.tasks.join(name);
        let part = path.with_extension("part");
        std::fs::write(&part, task.to_string()).expect("a file");
        std::fs::rename(&part, &path).expect("a file");
        path
    }

    fn result(&self, name: &str) -> Option<Value> {
        let text = std::fs::read(self.results.join(name)).ok()?;
        Some(serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{name} is not whole: {error}")))
    }

    /// The result, once it is there and the task file is not.
    fn finished(&self, name: &str) -> Value {
        until(&format!("the result {name}"), || self.result(name).filter(|_| !self.tasks.join(name).exists()))
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let tasks = self.tasks.display().to_string();
        let results = self.results.display().to_string();
        let all = ["bridge", "--tasks", &tasks, "--results", &results, "--interval", "100ms"];
        all.iter().chain(more).map(|&arg| arg.to_owned()).collect()
    }

    fn start(&self, fleet: &Fleet, more: &[&str]) -> Process {
        let args = self.args(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        Process::start(&mut fleet.orchctl(&args), &fleet.dir().join("bridge.log"))
    }

    /// Runs it until nothing is left to do.
    fn once(&self, fleet: &Fleet, more: &[&str]) -> Output {
        let args = self.args(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fleet.orchctl(&args).output().expect("orchctl runs")
    }
}

async fn runs(client: &Client) -> Vec<v1::Run> {
    let mut client = client.clone();
    client.runs.list_runs(v1::ListRunsRequest::default()).await.expect("a list").into_inner().runs
}

/// Waits for so many runs.
async fn have_runs(client: &Client, count: usize) -> Vec<v1::Run> {
    until_async("the runs to be there", || async {
        Some(runs(client).await).filter(|runs| runs.len() >= count)
    })
    .await
}

fn says(text: &str) -> Value {
    json!({"description": format!("[[text {}]]", json!({"text": text}))})
}

fn waits(ms: u64, text: &str) -> Value {
    json!({"description": format!("[[sleep {}]][[text {}]]", json!({"ms": ms}), json!({"text": text}))})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_file_is_run_exactly_once_whenever_the_bridge_or_the_coordinator_is_killed() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4"]);
    let folders = Folders::new(&fleet);
    let mut client = fleet.client().await;
    // Killed before it could take anything.
    folders.drop_in("anga/early.json", &says("early"));
    folders.start(&fleet, &[]).kill();
    let mut bridge = folders.start(&fleet, &[]);
    assert_eq!(folders.finished("anga/early.json")["result"], "early");
    let count = runs(&client).await.len();
    assert_eq!(count, 1);
    // Taken soon; killed while the task runs, and the result is written by the next bridge.
    let dropped = Instant::now();
    folders.drop_in("marie/slow.json", &waits(700, "slow"));
    have_runs(&client, 2).await;
    assert!(dropped.elapsed() < TAKEN_WITHIN, "{:?}", dropped.elapsed());
    bridge.kill();
    assert!(folders.tasks.join("marie/slow.json").exists());
    // It ends while nobody looks, and the coordinator is another one by then.
    let slow = runs(&client).await.remove(0).r#ref;
    client.finished(&slow).await;
    assert!(folders.result("marie/slow.json").is_none());
    fleet.kill_coordinator();
    let mut bridge = folders.start(&fleet, &[]);
    // While the coordinator is away a file arrives.
    folders.drop_in("anga/away.json", &says("away"));
    fleet.start_coordinator();
    let client = fleet.client().await;
    assert_eq!(folders.finished("marie/slow.json")["result"], "slow");
    assert_eq!(folders.finished("anga/away.json")["result"], "away");
    // Killed when the result was written and the file had not gone: the very same file is there again.
    let path = folders.drop_in("anga/late.json", &waits(300, "late"));
    let link = fleet.dir().join("late");
    std::fs::hard_link(&path, &link).expect("a link");
    let first = folders.finished("anga/late.json");
    bridge.kill();
    std::fs::hard_link(&link, &path).expect("a link");
    let once = folders.once(&fleet, &["--once"]);
    assert!(once.status.success(), "{}", said(&once));
    assert_eq!(folders.finished("anga/late.json"), first);
    assert_eq!(runs(&client).await.len(), 4, "four files are four runs");
    // The same name dropped again is another task.
    folders.drop_in("anga/late.json", &says("another"));
    let once = folders.once(&fleet, &["--once"]);
    assert!(once.status.success(), "{}", said(&once));
    assert_eq!(folders.finished("anga/late.json")["result"], "another");
    assert_eq!(runs(&client).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_have_the_earlier_form_with_files_dependencies_and_both_names() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "4"]);
    let folders = Folders::new(&fleet);
    let write = json!({"name": "Write", "input": {"file_path": "../out/deep/note.md", "content": "whole"}});
    folders.drop_in(
        "marie/eval-1.json",
        &json!({"task_id": "eval-1", "worker": "marie", "description": format!("[[tool {write}]][[text {{\"text\":\"evaluated\"}}]]"),
            "context": {"class": "hip-hop"}, "priority": "high", "timeout": 300, "created_at": "2025-01-01T00:00:00Z"}),
    );
    folders.drop_in("fabien/letter.json", &json!({"description": "[[echo]]", "dependencies": ["eval-1"]}));
    folders.drop_in(
        "anga/broken.json",
        &json!({"description": "[[result {\"is_error\":true}]][[exit {\"code\":3}]]"}),
    );
    folders.drop_in("anga/after-broken.json", &json!({"description": "never", "dependencies": ["broken"]}));
    let once = folders.once(&fleet, &["--once", "--suffix", "-result", "--keep"]);
    assert_eq!(once.status.code(), Some(8), "{}", said(&once));
    let evaluated = folders.result("marie/eval-1-result.json").expect("a result");
    assert_eq!(
        (&evaluated["task_id"], &evaluated["worker"], &evaluated["status"], &evaluated["outcome"]),
        (&json!("eval-1"), &json!("marie"), &json!("complete"), &json!("ok"))
    );
    assert_eq!(
        (&evaluated["result"], &evaluated["artifacts"]),
        (&json!("evaluated"), &json!(["eval-1-result.files/deep/note.md"]))
    );
    let note = folders.results.join("marie/eval-1-result.files/deep/note.md");
    assert_eq!(std::fs::read_to_string(note).expect("a file"), "whole");
    let letter = folders.result("fabien/letter-result.json").expect("a result");
    assert!(letter["result"].as_str().is_some_and(|text| text.contains("evaluated")), "{letter}");
    let broken = folders.result("anga/broken-result.json").expect("a result");
    assert_eq!(broken["status"], "failed");
    assert!(broken["error"].is_string() && broken["outcome"] != "ok");
    let after = folders.result("anga/after-broken-result.json").expect("a result");
    assert_eq!((&after["status"], &after["outcome"]), (&json!("failed"), &json!("skipped")));
    for name in ["marie/done/eval-1.json", "fabien/done/letter.json", "anga/done/broken.json"] {
        assert!(folders.tasks.join(name).is_file(), "{name} is kept");
    }
    assert!(!folders.tasks.join("marie/eval-1.json").exists());
    let help = fleet.orchctl(&["bridge", "--help"]).output().expect("orchctl runs");
    let first = String::from_utf8_lossy(&help.stdout).lines().next().unwrap_or_default().to_owned();
    assert!(first.contains("each is removed once its result is written"), "{first}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_files_are_left_alone_or_put_aside_with_the_reason() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &[]);
    let folders = Folders::new(&fleet);
    let anga = folders.tasks.join("anga");
    std::os::unix::fs::symlink("/etc/passwd", anga.join("link.json")).expect("a link");
    std::os::unix::fs::symlink("/etc", folders.tasks.join("linked")).expect("a link");
    rustix::fs::mkfifoat(rustix::fs::CWD, anga.join("pipe.json"), rustix::fs::Mode::RUSR).expect("a pipe");
    std::fs::create_dir_all(anga.join("folder.json")).expect("a folder");
    std::fs::write(anga.join("large.json"), format!("{{\"description\":\"{}\"}}", "x".repeat(10 << 20)))
        .expect("a file");
    std::fs::write(anga.join("bytes.json"), b"{\"description\":\"\xff\"}").expect("a file");
    std::fs::write(anga.join("list.json"), "[\"do it\"]").expect("a file");
    std::fs::write(anga.join("other.json"), "{\"description\":\"x\",\"worker\":\"marie\"}").expect("a file");
    std::fs::write(anga.join("deep.json"), "[".repeat(200_000)).expect("a file");
    std::fs::write(anga.join("..up.json"), "{\"description\":\"x\"}").expect("a file");
    std::fs::create_dir_all(folders.tasks.join("nobody")).expect("a folder");
    folders.drop_in("nobody/task.json", &says("x"));
    folders.drop_in(
        "anga/up.json",
        &json!({"description": "[[text]]", "dependencies": ["../../../etc/passwd"]}),
    );
    std::fs::write(anga.join("half.json"), "{\"description\":").expect("a file");
    let mut bridge = folders.start(&fleet, &[]);
    folders.drop_in("anga/good.json", &says("good"));
    assert_eq!(folders.finished("anga/good.json")["result"], "good");
    // Written on before it was old enough to be a mistake.
    std::fs::write(anga.join("half.json"), says("whole").to_string()).expect("a file");
    assert_eq!(folders.finished("anga/half.json")["result"], "whole");
    for (name, why) in [
        ("anga/bad/large.json", "larger than 9 MiB"),
        ("anga/bad/bytes.json", "not UTF-8"),
        ("anga/bad/list.json", "JSON object"),
        ("anga/bad/other.json", "marie"),
        ("anga/bad/deep.json", "JSON object"),
        ("nobody/bad/task.json", "nobody"),
    ] {
        let beside = folders.tasks.join(format!("{name}.error"));
        let reason = until(&format!("the reason of {name}"), || {
            std::fs::read_to_string(&beside).ok().filter(|text| text.ends_with('\n'))
        });
        assert!(reason.contains(why), "{name}: {reason}");
        assert!(folders.tasks.join(name).is_file(), "{name} is put aside");
    }
    for name in ["link.json", "pipe.json", "folder.json", "..up.json", "up.json"] {
        assert!(anga.join(name).symlink_metadata().is_ok(), "{name} is left alone");
    }
    assert!(bridge.is_running());
    let said = bridge.log();
    assert!(said.contains("waits for `../../../etc/passwd`"), "{said}");
    assert_eq!(runs(&fleet.client().await).await.len(), 2);
    assert!(!fleet.dir().join("etc").exists());
    let second = folders.once(&fleet, &["--once"]);
    assert_eq!(second.status.code(), Some(6), "one folder, one bridge: {}", crate::workflows::said(&second));
    bridge.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unfinished_is_taken_back_and_never_in_both() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "1"]);
    let folders = Folders::new(&fleet);
    let client = fleet.client().await;
    folders.drop_in("anga/ended.json", &says("ended"));
    let mut bridge = folders.start(&fleet, &[]);
    folders.finished("anga/ended.json");
    let running = folders.drop_in("anga/running.json", &waits(60_000, "never"));
    have_runs(&client, 2).await;
    folders.drop_in("marie/queued.json", &says("queued"));
    have_runs(&client, 3).await;
    // It ends between the end of the bridge and the export: its result counts.
    bridge.kill();
    let untaken = folders.drop_in("fabien/untaken.json", &says("untaken"));
    let content = [&running, &folders.tasks.join("marie/queued.json"), &untaken]
        .map(|path| std::fs::read(path).expect("a file"));
    let back = fleet.dir().join("back");
    let exported = folders.once(&fleet, &["--export", &back.display().to_string()]);
    assert!(exported.status.success(), "{}", said(&exported));
    for (name, content) in
        ["anga/running.json", "marie/queued.json", "fabien/untaken.json"].iter().zip(content)
    {
        assert_eq!(std::fs::read(back.join(name)).expect("a file"), content, "{name}");
        assert!(!folders.tasks.join(name).exists() && folders.result(name).is_none(), "{name} is in both");
    }
    let states: Vec<RunState> = runs(&client).await.iter().map(v1::Run::state).collect();
    assert_eq!(states, [RunState::Cancelled, RunState::Cancelled, RunState::Succeeded], "newest first");
    let again = folders.once(&fleet, &["--export", &back.display().to_string()]);
    assert!(again.status.success() && said(&again).contains("0 task files"), "{}", said(&again));
    // What was taken back and is dropped in again runs.
    let path = folders.tasks.join("marie/queued.json");
    std::fs::rename(back.join("marie/queued.json"), path).expect("a file");
    let once = folders.once(&fleet, &["--once"]);
    assert!(once.status.success(), "{}", said(&once));
    assert_eq!(folders.result("marie/queued.json").expect("a result")["result"], "queued");
    assert!(Path::new(&back).join("anga/running.json").is_file());
}
