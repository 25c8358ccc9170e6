//! The binary as a person or a script meets it: exit codes, closed pipes, and with the feature `dev` whole fleets of
//! real processes that are started, killed and stopped.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn orchctl(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orchctl"));
    command.env_clear().env("HOME", home).env("TMPDIR", home).current_dir(home).stdin(Stdio::null());
    command
}

fn run(home: &Path, args: &[&str]) -> Output {
    orchctl(home).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_is_data_and_usage_errors_are_not() {
    let home = tempfile::tempdir().unwrap();
    let help = run(home.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("Start here") && help.stderr.is_empty());
    for args in [&["statsu"][..], &[], &["run", "--worker"], &["run"]] {
        let wrong = run(home.path(), args);
        assert_eq!(wrong.status.code(), Some(2), "{args:?}");
        assert!(wrong.stdout.is_empty() && !wrong.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn without_a_coordinator_the_exit_code_is_5_and_json_errors_are_json() {
    let home = tempfile::tempdir().unwrap();
    let failed = run(home.path(), &["status", "-o", "json"]);
    assert_eq!(failed.status.code(), Some(5));
    let error: serde_json::Value = serde_json::from_slice(&failed.stderr).unwrap();
    assert_eq!(
        (error["error"]["code"].as_str(), error["error"]["exit_code"].as_u64()),
        (Some("E0501"), Some(5))
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(run(home.path(), &["init", "--host", "localhost", "--dir", "ca"]).status.code(), Some(0));
    let mut child = orchctl(home.path())
        .args(["certs", "show", "ca"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));
}

#[cfg(feature = "dev")]
mod fleet {
    use std::fs;
    use std::process::Child;
    use std::time::{Duration, Instant};

    use rustix::process::{Pid, Signal, kill_process};
    use serde_json::Value;

    use super::*;

    /// Longest wait for anything here; a loaded machine builds and tests at the same time.
    const DEADLINE: Duration = Duration::from_secs(60);

    fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(start.elapsed() < DEADLINE, "{what} did not happen in time");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn signal(pid: &Value, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(pid.as_i64().unwrap()).unwrap()).unwrap(), signal).unwrap();
    }

    /// A dead process that nobody has buried yet is not alive.
    fn is_alive(pid: &Value) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    /// Processes whose command line names something below a directory: the supervisors of a fleet, and its daemons.
    fn processes_of(dir: &Path) -> Vec<String> {
        let dir = dir.display().to_string();
        let entries = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.contains(&dir)).map(|line| line.replace('\0', " ")).collect()
    }

    struct Dev {
        home: tempfile::TempDir,
        child: Child,
    }

    impl Dev {
        fn start(args: &[&str]) -> Self {
            let home = tempfile::tempdir().unwrap();
            let log = fs::File::create(home.path().join("dev.log")).unwrap();
            let child = orchctl(home.path())
                .args(["dev", "--ready-file", "ready", "--listen", "127.0.0.1:0", "--probe", "127.0.0.1:0"])
                .args(args)
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let dev = Self { home, child };
            wait_for("readiness", || dev.ready());
            dev
        }

        fn ready(&self) -> Option<Value> {
            serde_json::from_slice(&fs::read(self.home.path().join("ready")).ok()?).ok()
        }

        fn log(&self) -> String {
            fs::read_to_string(self.home.path().join("dev.log")).unwrap_or_default()
        }

        fn stop(&mut self, with: Signal) -> Option<i32> {
            kill_process(Pid::from_child(&self.child), with).unwrap();
            wait_for("the end of dev", || self.child.try_wait().unwrap()).code()
        }
    }

    impl Drop for Dev {
        fn drop(&mut self) {
            // Its daemons follow it, however it ends.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }

    #[test]
    fn a_fleet_is_found_from_below_survives_kills_and_leaves_nothing() {
        let mut dev = Dev::start(&["--agents", "2", "--allow-command", "echo", "--allow-command", "sleep"]);
        let home = dev.home.path().to_owned();
        let below = home.join("some/project");
        fs::create_dir_all(&below).unwrap();
        let answer = orchctl(&home)
            .current_dir(&below)
            .args(["run", "--runner", "command", "--", "echo", "hi"])
            .output();
        let answer = answer.unwrap();
        assert_eq!(
            (answer.status.code(), text(&answer.stdout).as_str()),
            (Some(0), "hi\n"),
            "{}",
            text(&answer.stderr)
        );

        let before = dev.ready().unwrap();
        let submitted = run(&home, &["submit", "--runner", "noop", "-o", "name"]);
        signal(&before["pids"]["coordinator"], Signal::KILL);
        let reference = text(&submitted.stdout).trim().to_owned();
        let waited = run(&home, &["wait", &reference, "--timeout", "50s"]);
        assert_eq!(waited.status.code(), Some(0), "{}", text(&waited.stderr));
        let after = wait_for("a new coordinator", || {
            dev.ready().filter(|ready| ready["pids"]["coordinator"] != before["pids"]["coordinator"])
        });
        assert_eq!((&before["grpc"], &before["probe"]), (&after["grpc"], &after["probe"]));

        signal(&after["pids"]["agents"]["local-1"], Signal::KILL);
        wait_for("a new agent", || {
            dev.ready()
                .filter(|ready| ready["pids"]["agents"]["local-1"] != after["pids"]["agents"]["local-1"])
        });
        assert!(dev.log().contains("local-1 ended (signal 9)"), "{}", dev.log());

        let sleeper = run(&home, &["submit", "--runner", "command", "-o", "name", "--", "sleep", "600"]);
        let sleeper = text(&sleeper.stdout).trim().to_owned();
        let running = run(&home, &["wait", &sleeper, "--for", "running", "--timeout", "50s"]);
        assert_eq!(running.status.code(), Some(0), "{}", text(&running.stderr));
        assert_eq!(dev.stop(Signal::INT), Some(0), "{}", dev.log());
        assert_eq!(processes_of(&home), Vec::<String>::new());
        assert!(!home.join("ready").exists() && !home.join(".orch-dev/context.json").exists());
    }

    #[test]
    fn a_fleet_does_not_outlive_its_terminal_nor_its_dev() {
        let mut dev = Dev::start(&["--agents", "1"]);
        assert_eq!(dev.stop(Signal::HUP), Some(0));
        assert_eq!(processes_of(dev.home.path()), Vec::<String>::new());

        let mut dev = Dev::start(&["--agents", "1"]);
        let pids = dev.ready().unwrap()["pids"].clone();
        dev.stop(Signal::KILL);
        wait_for("the end of the daemons", || {
            (!is_alive(&pids["coordinator"]) && !is_alive(&pids["agents"]["local-1"])).then_some(())
        });
    }

    #[test]
    fn a_rehearsal_says_what_it_is_and_cleans_up() {
        let home = tempfile::tempdir().unwrap();
        let demo = run(home.path(), &["demo"]);
        let (data, talk) = (text(&demo.stdout), text(&demo.stderr));
        assert_eq!(demo.status.code(), Some(0), "{talk}");
        assert!(talk.contains("REHEARSAL") && data.contains("This was a rehearsal"), "{talk}\n{data}");
        for worker in ["marie", "anga", "fabien"] {
            assert!(data.contains(worker), "{data}");
        }
        assert!(data.contains("5 of 5 tasks done  $"), "{data}");
        assert_eq!(processes_of(home.path()), Vec::<String>::new());
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_rehearsal_in_a_directory_leaves_it_to_look_at() {
        let home = tempfile::tempdir().unwrap();
        let demo = run(home.path(), &["demo", "--dir", "d", "-o", "json"]);
        assert_eq!(demo.status.code(), Some(0), "{}", text(&demo.stderr));
        let json: Value = serde_json::from_slice(&demo.stdout).unwrap();
        let results = json["results"].as_array().unwrap();
        // Beside the work there are its plan, its publications and what sums it up.
        assert_eq!(results.iter().filter(|result| result["role"].is_null()).count(), 5);
        assert!(results.iter().all(|result| result["outcome"] == "ok"), "{results:?}");
        assert!(home.path().join("d/fleet/logs/coordinator.log").exists());
        assert_eq!(processes_of(home.path()), Vec::<String>::new());
    }
}
