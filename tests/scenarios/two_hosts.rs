//! README's two-machine walk-through, over two network namespaces: certificates made on one side, one directory
//! carried to the other, an agent that dials in. Skipped with one clear line without root and `ip`.

use orch_tests::process::Process;
use orch_tests::wait::until;
use std::path::Path;
use std::process::{Command, Output};

const COORDINATOR: &str = "10.231.77.1";
const AGENT: &str = "10.231.77.2";

/// Two namespaces joined by a pair of virtual cables; gone when dropped.
struct Hosts {
    names: [String; 2],
}

impl Hosts {
    fn make() -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !ip(&["-V"])?.status.success() {
            return None;
        }
        let id = std::process::id();
        let hosts = Self { names: [format!("orch-a-{id}"), format!("orch-b-{id}")] };
        let [left, right] = &hosts.names;
        let (cable, far) = (format!("oa{id}"), format!("ob{id}"));
        let made = ip(&["netns", "add", left])?.status.success()
            && ip(&["netns", "add", right])?.status.success()
            && ip(&[
                "link", "add", &cable, "netns", left, "type", "veth", "peer", "name", &far, "netns", right,
            ])?
            .status
            .success();
        if !made {
            return None;
        }
        for (name, end, address) in [(left, &cable, COORDINATOR), (right, &far, AGENT)] {
            ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", end])?;
            ip(&["-n", name, "link", "set", end, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Some(hosts)
    }

    fn on(&self, host: usize, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host]]).arg(program).env_remove("ORCHCTL_CONTEXT_FILE");
        command
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(args: &[&str]) -> Option<Output> {
    Command::new("ip").args(args).output().ok()
}

fn succeeded(mut command: Command) -> String {
    let output = command.output().expect("started");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_second_machine_joins_with_one_directory_of_certificates() {
    let Some(hosts) = Hosts::make() else {
        orch_tests::skipped(
            "a_second_machine_joins_with_one_directory_of_certificates",
            "needs root and the `ip` program",
        );
        return;
    };
    let binaries = orch_tests::binaries!();
    let dir = tempfile::tempdir().expect("temporary directory");
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    std::fs::create_dir_all(&first).expect("directory");

    // On the first machine: certificates, and the coordinator.
    let mut init = hosts.on(0, &binaries.orchctl);
    init.args(["init", "--host", COORDINATOR, "--dir"]).arg(&first).current_dir(&first).env("HOME", &first);
    succeeded(init);
    let mut issue = hosts.on(0, &binaries.orchctl);
    issue.args(["certs", "issue", "--role", "agent", "--name", "box-1", "--dir"]).arg(&first);
    issue.arg("--out").arg(&second).current_dir(&first).env("HOME", &first);
    succeeded(issue);
    let tls = |dir: &Path, role: &str| {
        [
            ("--tls-ca", dir.join("ca.pem")),
            ("--tls-cert", dir.join(format!("{role}.pem"))),
            ("--tls-key", dir.join(format!("{role}.key"))),
        ]
    };
    let mut orchd = hosts.on(0, &binaries.orchd);
    let ready = first.join("ready.json");
    orchd.args(["--listen", &format!("{COORDINATOR}:7443"), "--probe", "127.0.0.1:7481", "--data-dir"]);
    orchd.arg(first.join("data")).arg("--ready-file").arg(&ready);
    for (flag, path) in tls(&first, "coordinator") {
        orchd.arg(flag).arg(path);
    }
    let mut orchd = Process::start(&mut orchd, &first.join("orchd.log"));
    until("the coordinator to be ready", || {
        assert!(orchd.is_running(), "the coordinator ended:\n{}", orchd.log());
        ready.exists().then_some(())
    });

    // On the second machine: nothing but that one directory.
    let mut agent = hosts.on(1, &binaries.agent);
    agent.args([
        "--coordinator",
        &format!("https://{COORDINATOR}:7443"),
        "--allow-command",
        "printf",
        "--data-dir",
    ]);
    agent.arg(second.join("data")).arg("--runtime-dir").arg(second.join("run"));
    for (flag, path) in tls(&second, "agent") {
        agent.arg(flag).arg(path);
    }
    let mut agent = Process::start(&mut agent, &dir.path().join("agent.log"));

    // Back on the first machine: the client that `init` made.
    let mut run = hosts.on(0, &binaries.orchctl);
    run.args(["run", "--endpoint", &format!("https://{COORDINATOR}:7443")]);
    for (flag, path) in tls(&first, "client") {
        run.arg(flag).arg(path);
    }
    run.args(["--runner", "command", "--", "printf", "hello from the second machine"]).env("HOME", &first);
    let text = succeeded(run);
    assert!(text.contains("hello from the second machine"), "{text}");
    // And with the context that `init` wrote.
    let look = |words: &[&str]| {
        let mut look = hosts.on(0, &binaries.orchctl);
        look.args(words).env("HOME", &first).env("ORCHCTL_CONTEXT_FILE", first.join("context.json"));
        look
    };
    let text = succeeded(look(&["agents", "show", "box-1"]));
    assert!(text.contains("box-1") && text.contains("ready"), "{text}");
    // It may find fault with this agent, which has no CLI; it must have reached the coordinator to do so.
    let doctor = look(&["doctor", "-o", "json"]).output().expect("doctor runs");
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(text.contains("TLS 1.3") && text.contains("1 ready"), "{text}");
    assert!(agent.is_running(), "{}", agent.log());
    agent.signal(rustix::process::Signal::TERM);
    agent.wait();
    orchd.signal(rustix::process::Signal::TERM);
    orchd.wait();
}
