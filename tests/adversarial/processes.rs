//! Programs that end in odd ways, and places that are not as they were. Rows 29 to 31 of the list, as far as no other suite
//! has them.

use crate::siege::Siege;
use orch_proto::v1::Outcome;
use orch_tests::client::{command, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_may_end_by_any_signal_and_by_any_code_and_each_is_told() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    fleet.agent("box-1", &["--allow-command", "sh", "--slots", "4"]);
    let mut client = fleet.client().await;
    let signals = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "PIPE", "ALRM",
        "TERM",
    ];
    let mut tasks: Vec<_> = signals
        .iter()
        .map(|name| {
            command(
                &format!("by-{}", name.to_lowercase()),
                "sh",
                &["-c", &format!("kill -{name} $$; sleep 9")],
            )
        })
        .collect();
    tasks.extend(
        [1, 2, 127, 255].map(|code| command(&format!("code-{code}"), "sh", &["-c", &format!("exit {code}")])),
    );
    // Its output closed, and more to do; a pipe kept by somebody else.
    tasks.push(command("closes-and-lives-on", "sh", &["-c", "exec >&- 2>&-; sleep 0.3"]));
    tasks.push(command("leaves-a-pipe-open", "sh", &["-c", "sleep 600 & echo done"]));
    // Bytes that are no text and no document.
    tasks.push(command(
        "strange-bytes",
        "sh",
        &["-c", "printf '\\000\\033[2J\\377\\376{\"type\":\"result\",\"is_'"],
    ));
    tasks.iter_mut().for_each(|task| task.retries = Some(0));
    let attack = async {
        let submitted = client.submit(run(tasks)).await;
        client.finished(&submitted.r#ref).await;
        for task in client.tasks(&submitted.r#ref).await {
            let id = task.r#ref.rsplit('/').next().unwrap_or_default().to_owned();
            let expected = match id.split('-').next() {
                Some("by") => Outcome::Crash,
                Some("code") => Outcome::GateFailed,
                _ => Outcome::Ok,
            };
            assert_eq!((task.outcome(), task.attempt), (expected, 1), "{id}: {task:?}");
            assert!(expected == Outcome::Ok || !task.detail.is_empty(), "{id} says how it ended");
            assert!(!task.detail.contains('\u{1b}'), "{id}: {task:?}");
        }
    };
    siege.borne("programs that end by every signal", attack).await;
    assert!(fleet.agent_process("box-1").is_running());
}

fn script(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).expect("written");
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).expect("executable");
    std::fs::rename(&fresh, path).expect("in its place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cli_that_is_replaced_removed_or_broken_fails_what_comes_and_not_what_runs() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let cli = fleet.dir().join("cli").join("claude");
    std::fs::create_dir(cli.parent().expect("a directory")).expect("made");
    let good = format!("#!/bin/sh\nexec '{}' \"$@\"\n", fleet.binaries().claude.display());
    script(&cli, &good);
    fleet.agent("box-1", &["--claude-bin", &cli.display().to_string(), "--slots", "2"]);
    let mut client = fleet.client().await;
    let attack = async {
        // The CLI is at work when its tool waits at the gate.
        let gate = Gate::closed();
        let tool = serde_json::json!({"name": "Bash", "input": {"command": gate.wait(), "timeout": 60_000}});
        let running = client.submit(run(vec![worker("t", "anga", &format!("[[tool {tool}]]"))])).await;
        let waiting = gate.gather(1).await;
        for broken in
            [Some("#!/bin/sh\nexit 3\n"), Some("#!/nowhere/sh\n"), Some("#!/bin/sh\necho nonsense\n"), None]
        {
            match broken {
                Some(text) => script(&cli, text),
                None => std::fs::remove_file(&cli).expect("removed"),
            }
            let mut task = worker("t", "anga", "x");
            task.retries = Some(0);
            let later = client.submit(run(vec![task])).await;
            client.finished(&later.r#ref).await;
            let task = client.tasks(&later.r#ref).await.remove(0);
            assert!(matches!(task.outcome(), Outcome::SpawnFailed | Outcome::Crash), "{broken:?}: {task:?}");
            assert!(!task.detail.is_empty(), "{broken:?}");
        }
        gate::open(waiting);
        client.finished(&running.r#ref).await;
        let task = client.tasks(&running.r#ref).await.remove(0);
        assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "what ran goes on: {task:?}");
        script(&cli, &good);
        let again = client.submit(run(vec![worker("t", "anga", "[[text {\"text\":\"done\"}]]")])).await;
        client.finished(&again.r#ref).await;
        assert_eq!(client.tasks(&again.r#ref).await[0].outcome(), Outcome::Ok, "a good one works at once");
    };
    siege.borne("a CLI that is replaced", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn homes_that_cannot_be_made_or_lead_elsewhere_fail_the_task_and_touch_nothing() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    fleet.agent("box-1", &["--allow-command", "touch", "--slots", "1"]);
    let mut client = fleet.client().await;
    let tasks = fleet.agent_dir("box-1").join("tasks");
    let aside = fleet.dir().join("tasks-aside");
    let elsewhere = fleet.dir().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("made");
    let attack = async {
        let first = client.submit(run(vec![command("t", "touch", &["mark"])])).await;
        client.finished(&first.r#ref).await;
        std::fs::rename(&tasks, &aside).expect("moved");
        for what in ["a file", "a link to nowhere"] {
            match what {
                "a file" => std::fs::write(&tasks, b"not a directory").expect("written"),
                _ => symlink(elsewhere.join("nowhere"), &tasks).expect("linked"),
            }
            let mut task = command("t", "touch", &["mark"]);
            task.retries = Some(0);
            let submitted = client.submit(run(vec![task])).await;
            client.finished(&submitted.r#ref).await;
            let task = client.tasks(&submitted.r#ref).await.remove(0);
            assert_eq!(task.outcome(), Outcome::SpawnFailed, "{what}: {task:?}");
            assert!(!task.detail.is_empty(), "{what}");
            std::fs::remove_file(&tasks).expect("removed");
        }
        let planted = std::fs::read_dir(&elsewhere).expect("a directory").count();
        assert_eq!(planted, 0, "nothing is made where a link leads");
        std::fs::rename(&aside, &tasks).expect("moved back");
        let last = client.submit(run(vec![command("t", "touch", &["mark"])])).await;
        client.finished(&last.r#ref).await;
        assert_eq!(client.tasks(&last.r#ref).await[0].outcome(), Outcome::Ok);
    };
    siege.borne("homes that cannot be made", attack).await;
}
