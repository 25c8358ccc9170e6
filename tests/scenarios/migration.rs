//! The page about moving from the earlier system: every line of its table is run as it stands, in the sample studio.

use crate::orchestration::{DANCE, studio};
use crate::workflows::{said, without_evaluations};
use orch_certs::Role;
use orch_tests::fleet::Fleet;
use orch_tests::process::Process;
use orch_tests::wait::until;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const PAGE: &str = include_str!("../../docs/migration.md");

/// What the earlier system had.
const EARLIER: [&str; 17] = [
    "batch-evaluate.sh",
    "create-evaluation.sh",
    "evaluate-student.sh",
    "generate-batch-workflow.sh",
    "marie-add-student.sh",
    "test-agent-introduction.sh",
    "make cli-setup",
    "make cli-auth",
    "make cli-start",
    "make cli-stop",
    "make cli-status",
    "make cli-logs",
    "make cli-test-parallel",
    "make cli-test-sequential",
    "make orchestration-start",
    "make batch-evaluate",
    "make orchestration-cli-submit-tasks",
];

/// Rows of the first table: what it was, and the line that replaces it.
fn rows() -> Vec<(String, String)> {
    let table = PAGE.lines().skip_while(|line| !line.starts_with("| Earlier")).skip(2);
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    table
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 3, "{line}");
            (cell(cells[0]), cell(cells[2]))
        })
        .collect()
}

/// The words of a line as a shell reads them, as far as these lines go: blanks separate, double quotes do not.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for char in line.chars() {
        match char {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty())),
            _ => word.push(char),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}

struct Place {
    fleet: Fleet,
    studio: std::path::PathBuf,
    running: Vec<Process>,
}

impl Place {
    fn new() -> Self {
        let mut fleet = Fleet::start(orch_tests::binaries!());
        let studio = studio(fleet.dir());
        let workspace = format!("{DANCE}={}", studio.display());
        fleet.spawn_agent("box-1", &["--slots", "3", "--workspace", &workspace]);
        fleet.wait_connected("box-1");
        let write = |name: &str, text: String| std::fs::write(fleet.dir().join(name), text).expect("a file");
        write("students.csv", "name\nEmma Rodriguez\nSophia Chen\nLucas Martinez\n".to_owned());
        let tasks = json!([
            {"task_id": "draft", "worker": "fabien", "description": "Write about counting aloud."},
            {"task_id": "check", "worker": "anga", "description": "Check it.", "dependencies": ["draft"]}
        ]);
        write("tasks.json", tasks.to_string());
        let tls = fleet.certificate(Role::Agent, "box-2");
        let path = |path: &Path| path.display().to_string();
        let config = format!(
            "coordinator = [\"https://{}\"]\ntls_ca = {:?}\ntls_cert = {:?}\ntls_key = {:?}\ndata_dir = {:?}\n\
             runtime_dir = {:?}\nclaude_bin = {:?}\nslots = 2\nstatus_file = {:?}\n\
             [pools.max]\nkind = \"login\"\n[workspaces]\ndance = {:?}\n",
            fleet.ports().grpc,
            path(&tls.ca),
            path(&tls.cert),
            path(&tls.key),
            path(&fleet.dir().join("box-2-data")),
            path(&fleet.dir().join("box-2-run")),
            path(&fleet.binaries().claude),
            path(&fleet.dir().join("box-2.json")),
            path(&studio),
        );
        write("agent.toml", config);
        Self { fleet, studio, running: Vec::new() }
    }

    /// The program of a line with its arguments.
    fn command(&self, line: &[String]) -> Command {
        let args: Vec<&str> = line[1..].iter().map(String::as_str).collect();
        let mut command = match line[0].as_str() {
            "orchctl" => self.fleet.orchctl(&args),
            "orch-agent" => {
                let mut command = Command::new(&self.fleet.binaries().agent);
                command.args(&args).env_clear().env("HOME", self.fleet.dir()).env("PATH", "/usr/bin:/bin");
                command.current_dir(self.fleet.dir());
                command
            }
            other => panic!("{other} is neither orchctl nor orch-agent"),
        };
        command.env("ORCH_STANDIN_DELAY_MS", "0");
        // Whoever stops and starts hosts is an administrator.
        if line[1] == "agents" {
            let tls = self.fleet.certificate(Role::Admin, "admin");
            command.env("ORCHCTL_TLS_CERT", tls.cert).env("ORCHCTL_TLS_KEY", tls.key);
        }
        command
    }

    /// Runs a line to its end. `> FILE` at its end is where stdout goes.
    fn run(&self, line: &str) -> Output {
        let (line, file) = match line.split_once(" > ") {
            Some((line, file)) => (line, Some(file)),
            None => (line, None),
        };
        let output = self.command(&words(line)).output().expect("it runs");
        assert!(output.status.success(), "{line}: {}", said(&output));
        if let Some(file) = file {
            std::fs::write(self.fleet.dir().join(file), &output.stdout).expect("a file");
        }
        output
    }

    /// Starts a line that goes on.
    fn start(&mut self, line: &str, more: &[&str]) {
        let log = self.fleet.dir().join(format!("line-{}.log", self.running.len()));
        let process = Process::start(self.command(&words(line)).args(more), &log);
        self.running.push(process);
    }

    fn evaluations(&self) -> usize {
        let paths = crate::orchestration::files(&self.studio).into_keys();
        paths.filter(|path| path.to_string_lossy().contains("/evaluations/evaluation_")).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for process in &mut self.running {
            process.signal(rustix::process::Signal::TERM);
            let started = std::time::Instant::now();
            while process.is_running() && started.elapsed() < std::time::Duration::from_secs(15) {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_page_names_every_script_and_target_once() {
    let named: Vec<String> = rows().into_iter().map(|(earlier, _)| earlier).collect();
    assert_eq!(named, EARLIER);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_line_of_the_table_does_what_is_said_of_it() {
    let mut place = Place::new();
    let rows = rows();
    for (earlier, line) in &rows {
        without_evaluations(&place.studio);
        match earlier.as_str() {
            "batch-evaluate.sh" | "make batch-evaluate" => {
                let told = text(&place.run(line));
                assert!(
                    told.contains("Emma Rodriguez") && told.contains("1/1") || told.contains("2/2"),
                    "{told}"
                );
                assert_eq!(place.evaluations(), 3, "{earlier}");
            }
            "create-evaluation.sh" => {
                place.run(line);
                assert_eq!(place.evaluations(), 1);
            }
            "generate-batch-workflow.sh" => {
                place.run(line);
                place.run("orchctl workflows run -f batch.json");
                assert_eq!(place.evaluations(), 3);
            }
            "marie-add-student.sh" => {
                place.run(line);
                assert!(place.studio.join("students/noah-petit/profile.md").is_file());
            }
            "test-agent-introduction.sh" => assert!(text(&place.run(line)).contains("marie")),
            "make cli-setup" => {
                place.run(line);
                let made = crate::orchestration::files(&place.fleet.dir().join("orch")).into_keys();
                let named = |path: std::path::PathBuf| Some(path.file_name()?.to_string_lossy().into_owned());
                let names: Vec<_> = made.filter_map(named).collect();
                for name in ["ca.pem", "coordinator.pem", "agent.pem", "client.pem"] {
                    assert!(names.iter().any(|made| made == name), "{name} is missing: {names:?}");
                }
            }
            "make cli-auth" => {
                place.run(line);
                let pools = text(&place.run("orch-agent --config agent.toml pools"));
                assert!(pools.contains("max") && pools.contains("ready"), "{pools}");
            }
            "make cli-start" => {
                place.start(line, &[]);
                let status = place.fleet.dir().join("box-2.json");
                until("the agent to connect", || {
                    let json: Value = serde_json::from_slice(&std::fs::read(&status).ok()?).ok()?;
                    (json["state"] == "connected").then_some(())
                });
            }
            "make cli-stop" => {
                place.run(line);
                assert!(text(&place.run("orchctl agents show box-1")).contains("draining"));
                place.run("orchctl agents resume box-1");
            }
            "make cli-status" => assert!(text(&place.run(line)).contains("agents")),
            "make orchestration-start" => {
                let ready = place.fleet.dir().join("dev.json");
                let claude = place.fleet.binaries().claude.display().to_string();
                let file = ready.display().to_string();
                let more = [
                    "--listen",
                    "127.0.0.1:0",
                    "--probe",
                    "127.0.0.1:0",
                    "--claude-bin",
                    &claude,
                    "--ready-file",
                    &file,
                ];
                place.start(line, &more);
                until("everything to be ready", || {
                    let json: Value = serde_json::from_slice(&std::fs::read(&ready).ok()?).ok()?;
                    json["pids"]["agents"].as_object().filter(|agents| agents.len() == 2).map(|_| ())
                });
            }
            "evaluate-student.sh"
            | "make cli-logs"
            | "make cli-test-parallel"
            | "make cli-test-sequential"
            | "make orchestration-cli-submit-tasks" => {
                assert!(!text(&place.run(line)).trim().is_empty(), "{earlier} prints something");
            }
            other => panic!("{other} is not known here"),
        }
    }
}
