//! From inside a task: what it can reach of its neighbours, of its agent and of the host. Everything goes through the whole
//! system; the commands are run by the Bash tool of the scripted CLI. Where the host has no namespaces these tests say so and
//! do nothing.

mod credentials;

use crate::scripted::isolated;
use orch_certs::Role;
use orch_proto::v1::{Outcome, TaskState};
use orch_tests::client::{Client, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until;
use std::path::{Path, PathBuf};

/// A directive by which the scripted CLI runs `command` in bash.
fn bash(command: &str) -> String {
    let tool = serde_json::json!({"name": "Bash", "input": {"command": command, "timeout": 60_000}});
    format!("[[tool {tool}]]")
}

/// Where the files of a fleet lie: not in the usual temporary directory, which a sandbox replaces as a whole, so that
/// what is hidden is hidden because the agent asks for it. A socket's path must stay short, though.
fn place() -> PathBuf {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if own.as_os_str().len() < 48 { own.to_owned() } else { std::env::temp_dir() }
}

/// A fleet of one agent whose attempts are confined, and a client of it; `None` where they cannot be.
async fn confined(test: &str, orchd: &[&str], extra: &[&str]) -> Option<(Fleet, Client)> {
    let mut fleet = Fleet::start_in(&place(), orch_tests::binaries!(), "1s", "info", orchd);
    let mut args = vec!["--slots", "8"];
    args.extend(extra);
    fleet.agent("box-1", &args);
    let mut client = fleet.client().await;
    if isolated(&mut client, "box-1").await {
        return Some((fleet, client));
    }
    orch_tests::skipped(test, "the agent found no mount and PID namespaces here");
    None
}

/// Directory of a task's conversation.
fn conversation(fleet: &Fleet, run_id: u64, task: usize) -> PathBuf {
    fleet.agent_dir("box-1").join("tasks").join(format!("{run_id}-{task}"))
}

/// What a task tries, under a name. Each is a command of bash; whether it succeeds is noted in a file of the task.
struct Attempts(Vec<(String, String)>);

impl Attempts {
    fn add(&mut self, name: impl Into<String>, command: impl Into<String>) {
        self.0.push((name.into(), command.into()));
    }

    /// All of them, as one command of bash.
    fn command(&self) -> String {
        let tried = self.0.iter().enumerate().map(|(at, (_, command))| {
            format!("if timeout 10 bash -c '{command}' >/dev/null 2>&1; then echo {at} through; else echo {at} refused; fi")
        });
        format!("{{ {}; }} > report", tried.collect::<Vec<_>>().join("; "))
    }

    /// Those that went through, of the report of the task in `work`.
    fn went_through(&self, work: &Path) -> Vec<String> {
        let report = std::fs::read_to_string(work.join("report")).expect("a report");
        assert_eq!(report.lines().count(), self.0.len(), "{report}");
        let through = report.lines().filter_map(|line| line.strip_suffix(" through")?.parse::<usize>().ok());
        through.map(|at| self.0[at].0.clone()).collect()
    }
}

/// What must work, or nothing that is refused means anything.
fn own_business(attempts: &mut Attempts) {
    attempts.add("write home", "echo x > $HOME/own");
    attempts.add("write work", "echo x > own && grep -q x own");
    attempts.add("write out", "echo x > $PWD/../out/own");
    attempts.add("write a temporary file", "echo x > $TMPDIR/own");
    attempts.add("no new privileges", "grep -q ^NoNewPrivs:.*1 /proc/self/status");
    attempts.add("no core dumps", "test $(ulimit -c) = 0");
}

/// Files of others: their content must not be had, and they must stay as they are.
fn files_of_others(attempts: &mut Attempts, what: &str, file: &Path) {
    let file = file.display();
    attempts.add(format!("read {what}"), format!("head -c1 {file} | grep -q ."));
    attempts.add(format!("change {what}"), format!("echo x >> {file}"));
    attempts.add(format!("remove {what}"), format!("test -e {file} && rm -f {file}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_reaches_neither_its_neighbours_nor_its_agent_nor_the_host() {
    let test = "a_task_reaches_neither_its_neighbours_nor_its_agent_nor_the_host";
    let key = tempfile::NamedTempFile::new_in(place()).expect("a key file");
    std::fs::write(key.path(), "sk-a-key-of-the-agent\n").expect("written");
    let Some((mut fleet, mut client)) =
        confined(test, &[], &["--api-key-file", &key.path().display().to_string()]).await
    else {
        return;
    };
    let gate = Gate::closed();
    let neighbour = bash(&format!(
        "echo secret > $HOME/secret; echo secret > secret; (exec -a a-neighbours-process sleep 600) >/dev/null 2>&1 & {}; \
         cat $HOME/secret secret",
        gate.wait()
    ));
    let before = client.submit(run(vec![worker("neighbour", "anga", &neighbour)])).await;
    let waiting = gate.gather(1).await;

    let theirs = conversation(&fleet, before.run_id, 0);
    let agent_dir = fleet.agent_dir("box-1");
    let tls = fleet.certificate(Role::Agent, "box-1");
    let (agent, orchd) = (fleet.agent_process("box-1").id(), fleet.coordinator().id());
    let supervisor = supervisors_in(&agent_dir).first().copied().expect("a supervisor");
    let child = at_home_in(&theirs).first().copied().expect("a child");
    let mut attempts = Attempts(Vec::new());
    own_business(&mut attempts);
    let own = attempts.0.len();
    for (what, file) in [
        ("a neighbour's home", theirs.join("home/secret")),
        ("a neighbour's work", theirs.join("work/secret")),
        ("the agent's certificate key", tls.key.clone()),
        ("the agent's API key", key.path().to_owned()),
        ("the agent's lock", agent_dir.join("agent.lock")),
        ("a neighbour's note", theirs.join("attempts/1/note.json")),
    ] {
        files_of_others(&mut attempts, what, &file);
    }
    // Its own directories may be seen on the way to them; of its attempt only what it was given.
    for (what, dir, but) in [
        ("the neighbours", agent_dir.join("tasks"), "$(basename $(dirname $PWD))"),
        ("its own attempt", PathBuf::from("$PWD/../attempts/1"), "given"),
        ("the sockets of supervisors", agent_dir.join("run/orch"), "nothing"),
    ] {
        attempts.add(format!("list {what}"), format!("ls -A {} | grep -vx {but} | grep -q .", dir.display()));
    }
    for (what, dir) in [
        ("a neighbour's work", theirs.join("work")),
        ("a neighbour's out", theirs.join("out")),
        ("the agent's data", agent_dir.clone()),
        ("the fleet's directory", fleet.dir().to_owned()),
        ("/etc", "/etc".into()),
        ("/usr", "/usr".into()),
        ("/var", "/var".into()),
        ("/", "/".into()),
        ("the sources", env!("CARGO_MANIFEST_DIR").into()),
    ] {
        attempts
            .add(format!("write to {what}"), format!("echo x > {}/orch-planted-by-a-task", dir.display()));
    }
    for (what, pid) in
        [("agent", agent), ("coordinator", orchd), ("supervisor", supervisor), ("neighbour", child)]
    {
        attempts.add(format!("see the {what}'s environment"), format!("cat /proc/{pid}/environ | grep -q ."));
        attempts.add(
            format!("see the {what}'s files"),
            format!("ls /proc/{pid}/fd /proc/{pid}/root/ | grep -q ."),
        );
        attempts.add(format!("kill the {what}"), format!("kill -9 {pid}"));
    }
    attempts.add("see a neighbour's process", "cat /proc/[0-9]*/cmdline | grep -aq a-neighbours-[p]rocess");
    attempts.add("see the supervisor's command line", "cat /proc/[0-9]*/cmdline | grep -aq __super[v]ise");

    let tried = client.submit(run(vec![worker("tries", "anga", &bash(&attempts.command()))])).await;
    client.finished(&tried.r#ref).await;
    let task = client.tasks(&tried.r#ref).await.remove(0);
    assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "{task:?}");
    let through = attempts.went_through(&conversation(&fleet, tried.run_id, 0).join("work"));
    let expected: Vec<String> = attempts.0.iter().take(own).map(|(name, _)| name.clone()).collect();
    // Writing where nothing lasts is no harm; what is looked for below is whether it had an effect.
    let harmless =
        ["write to /", "write to /var", "write to the fleet's directory", "write to the agent's data"];
    let through: Vec<String> =
        through.into_iter().filter(|name| !harmless.contains(&name.as_str())).collect();
    assert_eq!(through, expected, "what the task could do");

    for dir in [
        &theirs.join("work"),
        &theirs.join("out"),
        &agent_dir,
        &fleet.dir().to_owned(),
        &"/etc".into(),
        &"/usr".into(),
        &"/var".into(),
        &"/".into(),
    ] {
        let planted: &PathBuf = dir;
        assert!(!planted.join("orch-planted-by-a-task").exists(), "{} was written to", planted.display());
    }
    assert!(tls.key.is_file() && std::fs::read_to_string(key.path()).expect("a key").starts_with("sk-a-key"));
    gate::open(waiting);
    client.finished(&before.r#ref).await;
    let task = client.tasks(&before.r#ref).await.remove(0);
    assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "{task:?}");
    assert_eq!(orch_tests::client::answer(&task).trim(), "done: secret\nsecret");
    assert_eq!((agent, orchd), (fleet.agent_process("box-1").id(), fleet.coordinator().id()));
    assert!(fleet.agent_process("box-1").is_running() && fleet.coordinator().is_running());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_kills_everything_it_can_kills_only_itself() {
    let test = "a_task_that_kills_everything_it_can_kills_only_itself";
    let Some((mut fleet, mut client)) = confined(test, &[], &[]).await else { return };
    let gate = Gate::closed();
    let waits = bash(&format!("{}; echo survived", gate.wait()));
    let before = client.submit(run(vec![worker("neighbour", "anga", &waits)])).await;
    let waiting = gate.gather(1).await;
    // Nothing is killed where the test has misjudged its host: outside a PID namespace of its own this would end every
    // process of the user.
    let host = std::fs::read_link("/proc/self/ns/pid").expect("a namespace").display().to_string();
    let kill = |signal: &str| {
        bash(&format!(
            "if test $(readlink /proc/self/ns/pid) != '{host}'; then kill -{signal} -1; sleep 60; else echo shared; fi"
        ))
    };
    let mut tasks = vec![worker("term", "anga", &kill("TERM")), worker("kill", "anga", &kill("KILL"))];
    tasks.iter_mut().for_each(|task| task.retries = Some(0));
    let submitted = client.submit(run(tasks)).await;
    client.finished(&submitted.r#ref).await;
    for task in client.tasks(&submitted.r#ref).await {
        assert_eq!((task.outcome(), task.attempt), (Outcome::Crash, 1), "{task:?}");
        assert!(!orch_tests::client::answer(&task).contains("shared"), "{task:?}");
    }
    gate::open(waiting);
    client.finished(&before.r#ref).await;
    let task = client.tasks(&before.r#ref).await.remove(0);
    assert_eq!(
        (task.outcome(), task.attempt, task.state()),
        (Outcome::Ok, 1, TaskState::Succeeded),
        "{task:?}"
    );
    assert!(fleet.agent_process("box-1").is_running() && fleet.coordinator().is_running());
    let dir = fleet.agent_dir("box-1");
    until("every process of every attempt to be gone", || at_home_in(&dir).is_empty().then_some(()));
}
