//! `orchctl dev` and `orchctl demo`: one command, real processes, and anyone may try `kill -9`.

use orch_tests::process::Process;
use orch_tests::wait::until;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

fn ready(file: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn pid(value: &Value) -> Pid {
    let raw = value.as_i64().and_then(|raw| i32::try_from(raw).ok());
    raw.and_then(Pid::from_raw).unwrap_or_else(|| panic!("{value} is no pid"))
}

fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

fn orchctl(dir: &Path) -> Command {
    let binaries = orch_tests::binaries!();
    let mut command = Command::new(&binaries.orchctl);
    command.env_clear().env("HOME", dir).env("PATH", "/usr/bin:/bin").current_dir(dir);
    command.env("ORCH_STANDIN_DELAY_MS", "0");
    command
}

#[test]
fn dev_restarts_what_dies_on_the_same_ports_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let file = dir.path().join("ready.json");
    let mut command = orchctl(dir.path());
    command.args(["dev", "--agents", "2", "--listen", "127.0.0.1:0", "--probe", "127.0.0.1:0"]);
    command.arg("--claude-bin").arg(orch_tests::binaries!().claude).arg("--ready-file").arg(&file);
    let mut dev = Process::start(&mut command, &dir.path().join("dev.log"));
    let first = until("dev to be ready", || {
        assert!(dev.is_running(), "dev ended:\n{}", dev.log());
        ready(&file).filter(|json| json["pids"]["agents"].as_object().is_some_and(|agents| agents.len() == 2))
    });
    let context = first["context"].as_str().expect("a context file").to_owned();
    let run = |args: &[&str]| {
        let output = orchctl(dir.path())
            .args(args)
            .env("ORCHCTL_CONTEXT_FILE", &context)
            .output()
            .expect("orchctl ran");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    let (status, text) = run(&["run", "--worker", "anga", "[[text {\"text\":\"hello from dev\"}]]"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("hello from dev"), "{text}");

    kill_process(pid(&first["pids"]["coordinator"]), Signal::KILL).expect("killed");
    let second = until("dev to restart the coordinator", || {
        ready(&file).filter(|json| {
            json["pids"]["coordinator"] != first["pids"]["coordinator"]
                && !json["pids"]["coordinator"].is_null()
        })
    });
    assert_eq!(second["grpc"], first["grpc"]);
    assert_eq!(second["probe"], first["probe"]);
    let (name, agent) =
        first["pids"]["agents"].as_object().and_then(|agents| agents.iter().next()).expect("an agent");
    kill_process(pid(agent), Signal::KILL).expect("killed");
    until("dev to restart the agent", || {
        ready(&file)
            .filter(|json| json["pids"]["agents"][name] != *agent && !json["pids"]["agents"][name].is_null())
    });
    let (status, text) = run(&["run", "--runner", "noop"]);
    assert_eq!(status, Some(0), "{text}");
    let (status, text) = run(&["ls"]);
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("adhoc/1"), "data survives the kill: {text}");

    let last = ready(&file).expect("the ready file");
    let pids: Vec<Pid> = std::iter::once(&last["pids"]["coordinator"])
        .chain(last["pids"]["agents"].as_object().into_iter().flatten().map(|(_, pid)| pid))
        .map(pid)
        .collect();
    dev.signal(Signal::INT);
    let status = dev.wait();
    assert!(status.success(), "{status}\n{}", dev.log());
    assert!(dev.log().contains("restart"), "dev says what it restarted:\n{}", dev.log());
    for pid in pids {
        assert!(!is_alive(pid), "{pid:?} was left behind");
    }
}

#[test]
fn the_demo_prints_every_answer_and_says_that_it_rehearses() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let kept = dir.path().join("demo");
    let output = orchctl(dir.path()).arg("demo").arg("--dir").arg(&kept).output().expect("the demo ran");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    for word in ["stand-in", "marie", "anga", "fabien", "succeeded", "tokens", "$"] {
        assert!(text.contains(word), "`{word}` is missing from\n{text}");
    }
    assert!(kept.join("coordinator").exists() || std::fs::read_dir(&kept).expect("kept").count() > 0);
}
