//! A coordinator and agents as real processes on loopback, with throw-away certificates in a temporary directory.

use crate::client::Client;
use crate::process::Process;
use crate::wait::until;
use orch_certs::{Ca, Identity, LeafRequest, Role, TlsFiles};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;

/// Trust domain of test fleets.
pub const DOMAIN: &str = "orch.test";

/// Paths of the test binaries; make one with [`crate::binaries!`].
#[derive(Debug, Clone)]
pub struct Binaries {
    /// The coordinator.
    pub orchd: PathBuf,
    /// The agent.
    pub agent: PathBuf,
    /// The command line.
    pub orchctl: PathBuf,
    /// The scripted CLI.
    pub claude: PathBuf,
}

/// A coordinator and its agents. Everything ends, and every file goes, when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    agents: BTreeMap<String, Process>,
    orchd: Option<Process>,
    binaries: Binaries,
    heartbeat: &'static str,
    log: &'static str,
    args: Vec<String>,
    ports: Ports,
    data: PathBuf,
    routes: BTreeMap<String, String>,
    dir: TempDir,
}

/// Addresses of the coordinator.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ports {
    /// gRPC over mTLS.
    pub grpc: String,
    /// Probes.
    pub probe: String,
}

impl Fleet {
    /// Starts a coordinator, without agents, with heartbeats every 200 ms so that deadlines pass in seconds.
    #[must_use]
    pub fn start(binaries: Binaries) -> Self {
        Self::start_with(binaries, "200ms")
    }

    /// Starts a coordinator with another heartbeat interval.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_with(binaries: Binaries, heartbeat: &'static str) -> Self {
        Self::start_logging(binaries, heartbeat, "info")
    }

    /// Starts a coordinator that logs by this filter, too.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_logging(binaries: Binaries, heartbeat: &'static str, log: &'static str) -> Self {
        Self::start_in(&std::env::temp_dir(), binaries, heartbeat, log, &[])
    }

    /// Starts a coordinator with further arguments whose files, and those of its agents, lie in a directory within
    /// `parent`.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start_in(
        parent: &Path,
        binaries: Binaries,
        heartbeat: &'static str,
        log: &'static str,
        args: &[&str],
    ) -> Self {
        let mut fleet = Self::idle_in(parent, binaries, heartbeat, log, args);
        fleet.start_coordinator();
        fleet
    }

    /// As [`Fleet::start_in`], but nothing runs yet.
    ///
    /// # Panics
    /// When there is no room for its directory.
    #[must_use]
    pub fn idle_in(
        parent: &Path,
        binaries: Binaries,
        heartbeat: &'static str,
        log: &'static str,
        args: &[&str],
    ) -> Self {
        let dir =
            tempfile::Builder::new().prefix("orch-test-").tempdir_in(parent).expect("temporary directory");
        let fleet = Self {
            agents: BTreeMap::new(),
            orchd: None,
            binaries,
            heartbeat,
            log,
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            ports: Ports { grpc: "127.0.0.1:0".into(), probe: "127.0.0.1:0".into() },
            data: dir.path().join("data"),
            routes: BTreeMap::new(),
            dir,
        };
        fleet.certificate(Role::Coordinator, "coordinator");
        fleet.certificate(Role::Admin, "admin");
        fleet.certificate(Role::Client, "ana");
        fleet
    }

    /// The fleet's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The coordinator's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.data.clone()
    }

    /// Gives the coordinator another data directory, from its next start on.
    pub fn keep_data_in(&mut self, data: PathBuf) {
        self.data = data;
    }

    /// Addresses in use.
    #[must_use]
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// The test binaries.
    #[must_use]
    pub const fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// Issues a certificate, once for each name.
    ///
    /// # Panics
    /// When the authority does not work.
    pub fn certificate(&self, role: Role, name: &str) -> TlsFiles {
        let now = SystemTime::now();
        // Made yesterday, so that a test can issue what has expired since.
        let (ca, _) =
            Ca::ensure(&self.dir().join("ca"), DOMAIN, now - Duration::from_secs(86_400)).expect("authority");
        let identity = Identity::new(DOMAIN, role, "default", name).expect("identity");
        let mut request = LeafRequest::new(identity);
        if role == Role::Coordinator {
            request = request.hosts(["127.0.0.1", "localhost"]);
        }
        let status =
            ca.ensure_leaf(&self.dir().join("certs").join(name), &request, now).expect("certificate");
        status.files().clone()
    }

    /// A client with the certificate of role client, named ana.
    pub async fn client(&self) -> Client {
        Client::connect(&self.ports.grpc, &self.certificate(Role::Client, "ana")).await
    }

    /// Starts the coordinator, on the ports it had before if it had any, and waits until it is ready.
    ///
    /// # Panics
    /// When it ends or does not become ready.
    pub fn start_coordinator(&mut self) {
        let ended = self.launch_coordinator(&[]);
        assert!(ended.is_none(), "the coordinator ended:\n{}", self.coordinator_log());
    }

    /// What coordinators printed so far.
    #[must_use]
    pub fn coordinator_log(&self) -> String {
        std::fs::read_to_string(self.dir().join("orchd.log")).unwrap_or_default()
    }

    /// The same with further variables in its environment, one that may end while it starts: then its status is returned.
    ///
    /// # Panics
    /// When it neither ends nor becomes ready.
    pub fn launch_coordinator(&mut self, environment: &[(&str, &str)]) -> Option<ExitStatus> {
        self.spawn_coordinator(environment);
        let mut orchd = self.orchd.take().expect("it was just started");
        let announced = until("the coordinator to be ready", || {
            if !orchd.is_running() {
                return Some(Err(orchd.wait()));
            }
            self.announced(orchd.id()).map(Ok)
        });
        match announced {
            Ok(ports) => self.ports = ports,
            Err(status) => return Some(status),
        }
        self.orchd = Some(orchd);
        None
    }

    /// Starts it and waits for nothing.
    pub fn spawn_coordinator(&mut self, environment: &[(&str, &str)]) {
        let ready = self.dir().join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let tls = self.certificate(Role::Coordinator, "coordinator");
        let mut command = Command::new(&self.binaries.orchd);
        command
            .args(["--listen", &self.ports.grpc, "--probe", &self.ports.probe])
            .args(["--heartbeat-interval", self.heartbeat, "--log", self.log])
            .args(&self.args)
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--ready-file")
            .arg(&ready)
            .envs(environment.iter().copied());
        tls_args(&mut command, &tls);
        self.orchd = Some(Process::start(&mut command, &self.dir().join("orchd.log")));
    }

    /// Whether the coordinator that was started last has said that it is ready.
    #[must_use]
    pub fn coordinator_is_ready(&self) -> bool {
        self.orchd.as_ref().is_some_and(|orchd| self.announced(orchd.id()).is_some())
    }

    /// What a coordinator with this process id said of its addresses.
    fn announced(&self, pid: u32) -> Option<Ports> {
        let json = read_json(&self.dir().join("ready.json")).filter(|json| json["pid"] == pid)?;
        Some(Ports { grpc: text(&json["grpc"]), probe: text(&json["probe"]) })
    }

    /// The coordinator's process.
    ///
    /// # Panics
    /// When it is not running.
    pub fn coordinator(&mut self) -> &mut Process {
        self.orchd.as_mut().expect("the coordinator runs")
    }

    /// Kills the coordinator at once, as `kill -9` does.
    pub fn kill_coordinator(&mut self) {
        if let Some(mut orchd) = self.orchd.take() {
            orchd.kill();
        }
    }

    /// Lets an agent dial `address` (`host:port`) in place of the coordinator, from its next start on.
    pub fn route(&mut self, agent: &str, address: &str) {
        self.routes.insert(agent.to_owned(), address.to_owned());
    }

    /// Starts an agent that runs the scripted CLI, and waits until it is connected.
    pub fn agent(&mut self, name: &str, extra: &[&str]) {
        self.spawn_agent(name, extra);
        self.wait_connected(name);
    }

    /// Starts an agent without waiting.
    pub fn spawn_agent(&mut self, name: &str, extra: &[&str]) {
        self.spawn_agent_in(name, extra, &[]);
    }

    /// The same with further variables in its environment.
    pub fn spawn_agent_in(&mut self, name: &str, extra: &[&str], environment: &[(&str, &str)]) {
        let status = self.status_file(name);
        let _ = std::fs::remove_file(&status);
        let tls = self.certificate(Role::Agent, name);
        let mut command = Command::new(&self.binaries.agent);
        let address = self.routes.get(name).unwrap_or(&self.ports.grpc);
        command
            .args(["--coordinator", &format!("https://{address}")])
            .arg("--data-dir")
            .arg(self.agent_dir(name))
            .arg("--runtime-dir")
            .arg(self.agent_dir(name).join("run"))
            .arg("--status-file")
            .arg(&status)
            .args(extra)
            .env("ORCH_STANDIN_DELAY_MS", "0")
            .envs(environment.iter().copied());
        if !extra.contains(&"--claude-bin") {
            command.arg("--claude-bin").arg(&self.binaries.claude);
        }
        tls_args(&mut command, &tls);
        let process = Process::start(&mut command, &self.dir().join(format!("{name}.log")));
        self.agents.insert(name.to_owned(), process);
    }

    /// Waits until an agent is connected.
    ///
    /// # Panics
    /// When it ends or does not connect.
    pub fn wait_connected(&mut self, name: &str) {
        let status = self.status_file(name);
        let process = self.agents.get_mut(name).expect("the agent was started");
        until("the agent to connect", || {
            assert!(process.is_running(), "agent {name} ended:\n{}", process.log());
            read_json(&status).filter(|json| json["state"] == "connected" && json["pid"] == process.id())
        });
    }

    /// An agent's process.
    ///
    /// # Panics
    /// When it was not started.
    pub fn agent_process(&mut self, name: &str) -> &mut Process {
        self.agents.get_mut(name).expect("the agent was started")
    }

    /// Where an agent keeps its tasks.
    #[must_use]
    pub fn agent_dir(&self, name: &str) -> PathBuf {
        self.dir().join("agents").join(name)
    }

    fn status_file(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.status.json"))
    }

    /// A command of `orchctl` as the client ana, ready to run.
    #[must_use]
    pub fn orchctl(&self, args: &[&str]) -> Command {
        let tls = self.certificate(Role::Client, "ana");
        let mut command = Command::new(&self.binaries.orchctl);
        command
            .args(args)
            .env_clear()
            .env("HOME", self.dir())
            .env("PATH", "/usr/bin:/bin")
            .env("ORCHCTL_ENDPOINT", format!("https://{}", self.ports.grpc))
            .env("ORCHCTL_TLS_CA", tls.ca)
            .env("ORCHCTL_TLS_CERT", tls.cert)
            .env("ORCHCTL_TLS_KEY", tls.key)
            .current_dir(self.dir());
        command
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        // Agents first, in order, so that their supervisors end with them and nothing is left behind.
        for agent in self.agents.values_mut() {
            agent.signal(rustix::process::Signal::TERM);
        }
        let agents = std::mem::take(&mut self.agents);
        for (_, mut agent) in agents {
            let started = std::time::Instant::now();
            while agent.is_running() && started.elapsed() < Duration::from_secs(15) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

fn tls_args(command: &mut Command, tls: &TlsFiles) {
    command.arg("--tls-ca").arg(&tls.ca).arg("--tls-cert").arg(&tls.cert).arg("--tls-key").arg(&tls.key);
}

fn read_json(path: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
