//! Coordinators and agents of a measurement: certificates made once, every daemon in an empty directory below target, ended
//! by its number.
//!
//! Knows command lines of daemons. Refuses to know what is measured on them.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};
use serde_json::Value;
use tempfile::TempDir;

use super::Options;
use crate::measure::orchctl::{connection, plain, read};
use crate::measure::process::{Daemon, Interrupt, free_port, output};
use crate::measure::results::Sample;

/// The longest client: a million tasks through two slots.
const CLIENT_LIMIT: Duration = Duration::from_secs(300);
/// Until a daemon is ready; a start with a million tasks is measured within this.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// Until what just happened has come to rest.
const SETTLE: Duration = Duration::from_millis(1_500);
/// Tasks that may wait and run: the most that the coordinator can be told.
const MAX_TASKS: &str = "1000000";

/// What every part shares.
pub(super) struct Stage<'a> {
    pub(super) root: &'a Path,
    pub(super) orchctl: PathBuf,
    /// The agent by itself, if there is one.
    pub(super) orch_agent: Option<PathBuf>,
    pub(super) quick: bool,
    pub(super) interrupt: &'a Interrupt,
    /// On the file system of everything that is measured; removed at the end.
    data: TempDir,
    logs: PathBuf,
}

impl<'a> Stage<'a> {
    pub(super) fn new(
        root: &'a Path,
        dir: &Path,
        options: &Options,
        interrupt: &'a Interrupt,
    ) -> anyhow::Result<Self> {
        let orchctl = root.join(&options.orchctl);
        if !orchctl.is_file() {
            let path = orchctl.display();
            bail!("there is no {path}; cargo build --release --locked --bin orchctl builds it");
        }
        let beside = orchctl.with_file_name("orch-agent");
        let orch_agent = match &options.orch_agent {
            Some(named) => Some(root.join(named)),
            None => beside.is_file().then_some(beside),
        };
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(dir);
        let data = data.with_context(|| format!("cannot make a directory in {}", dir.display()))?;
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs)?;
        open_many_files();
        let stage = Self { root, orchctl, orch_agent, quick: options.quick, interrupt, data, logs };
        let mut init = plain(&stage.orchctl);
        init.args(["init", "--host", "127.0.0.1", "--no-input", "--dir"]).arg(stage.certs());
        output(init, &stage.log("init"), READY_LIMIT, interrupt)?;
        Ok(stage)
    }

    /// A count in earnest, or a tiny one.
    pub(super) const fn count(&self, full: u32, tiny: u32) -> u32 {
        if self.quick { tiny } else { full }
    }

    pub(super) fn logs(&self) -> &Path {
        &self.logs
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.logs.join(format!("{name}.log"))
    }

    /// Lets what just happened come to rest.
    pub(super) fn settle(&self) {
        std::thread::sleep(SETTLE);
    }

    fn certs(&self) -> PathBuf {
        self.data.path().join("certs")
    }

    fn tls(&self, who: &str) -> [OsString; 3] {
        let file = |flag: &str, name: String| {
            let mut word = OsString::from(format!("--tls-{flag}="));
            word.push(self.certs().join(name));
            word
        };
        [
            file("ca", "ca.pem".to_owned()),
            file("cert", format!("{who}.pem")),
            file("key", format!("{who}.key")),
        ]
    }
}

/// Ten thousand sessions are as many files, in the daemon as in the client; both take this limit over.
fn open_many_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Whoever needs a file that cannot be opened says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A coordinator that can be ended and started again in its place.
pub(super) struct Coordinator<'a> {
    daemon: Option<Daemon>,
    stage: &'a Stage<'a>,
    port: u16,
    probe: u16,
    connection: Vec<OsString>,
    dir: TempDir,
}

impl<'a> Coordinator<'a> {
    /// A coordinator in an empty directory, ready.
    pub(super) fn start(stage: &'a Stage<'a>) -> anyhow::Result<Self> {
        // Gone with the stage: what is deleted before the next part makes new files slow for minutes on ext4.
        let dir = tempfile::Builder::new().disable_cleanup(true).tempdir_in(stage.data.path())?;
        let (port, probe) = (free_port()?, free_port()?);
        let mut context = read(&stage.certs().join("context.json")).context("init wrote no context")?;
        context["endpoint"] = Value::String(format!("https://127.0.0.1:{port}"));
        let connection = connection(&context);
        let mut coordinator = Self { daemon: None, stage, port, probe, connection, dir };
        coordinator.start_again()?;
        Ok(coordinator)
    }

    /// Starts it in its place. Gives the time from before the start until it says that it is ready.
    pub(super) fn start_again(&mut self) -> anyhow::Result<Duration> {
        let ready = self.dir.path().join("ready.json");
        let _ = std::fs::remove_file(&ready);
        let mut command = plain(&self.stage.orchctl);
        command.arg("__coordinator").args(self.stage.tls("coordinator"));
        command.arg(format!("--listen=127.0.0.1:{}", self.port));
        command.arg(format!("--probe=127.0.0.1:{}", self.probe));
        command.args(["--max-tasks", MAX_TASKS, "--max-tenant-tasks", MAX_TASKS, "--data-dir"]);
        command.arg(self.data_dir()).arg("--ready-file").arg(&ready).current_dir(self.dir.path());
        // As `orchctl dev` and the service do.
        command.env("MIMALLOC_PURGE_DELAY", "0");
        let start = Instant::now();
        let mut daemon = Daemon::start(command, &self.stage.log("coordinator"), Signal::TERM)?;
        self.stage.interrupt.wait("the coordinator is ready", READY_LIMIT, || {
            daemon.check()?;
            Ok(read(&ready).is_some())
        })?;
        self.daemon = Some(daemon);
        Ok(start.elapsed())
    }

    /// Ends it in order.
    pub(super) fn end(&mut self) {
        self.daemon = None;
    }

    /// Ends it as a crash would.
    pub(super) fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill();
        }
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        self.daemon.as_ref().map(Daemon::pid).context("the coordinator does not run")
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// orchctl that asks it.
    pub(super) fn orchctl(&self) -> Command {
        let mut command = plain(&self.stage.orchctl);
        command.args(&self.connection).current_dir(self.dir.path());
        command
    }

    /// What orchctl prints.
    pub(super) fn ask(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.orchctl();
        command.args(words);
        output(command, &self.stage.log("client"), CLIENT_LIMIT, self.stage.interrupt)
    }

    /// A value that orchctl prints.
    pub(super) fn value(&self, words: &[&str]) -> anyhow::Result<Value> {
        let printed = self.ask(&[words, &["-o", "json"]].concat())?;
        serde_json::from_str(&printed).with_context(|| format!("orchctl {} printed no JSON", words.join(" ")))
    }

    /// One scenario of `orchctl bench`.
    pub(super) fn bench(&self, words: &[&str]) -> anyhow::Result<Sample> {
        let printed = self.ask(&[&["bench", "-o", "json"], words].concat())?;
        Sample::read(&printed, &format!("orchctl bench {}", words.join(" ")))
    }

    /// The command of such a scenario, to be run beside something else.
    pub(super) fn bench_aside(&self, words: &[&str]) -> Command {
        let mut command = self.orchctl();
        command.args(["bench", "-o", "json"]).args(words);
        command
    }

    /// Waits until so many agents are connected.
    pub(super) fn wait_for_agents(&self, count: u64) -> anyhow::Result<()> {
        self.wait_for("agents are connected", |status| {
            status["agents"]["ready"].as_u64().unwrap_or_default() >= count
        })
    }

    /// Waits until the coordinator's own view says so.
    pub(super) fn wait_for(&self, what: &str, holds: impl Fn(&Value) -> bool) -> anyhow::Result<()> {
        self.stage.interrupt.wait(what, READY_LIMIT, || {
            // It may be away for a moment.
            Ok(self.value(&["status"]).is_ok_and(|status| holds(&status)))
        })
    }
}

/// An agent daemon. Ends when this is dropped.
pub(super) struct Agent {
    daemon: Daemon,
    dir: PathBuf,
}

impl Agent {
    /// An agent with so many slots that may start `programs`, connected.
    pub(super) fn start(
        coordinator: &Coordinator<'_>,
        slots: u32,
        programs: &[&str],
        more: &[OsString],
    ) -> anyhow::Result<Self> {
        let stage = coordinator.stage;
        let dir = coordinator.dir().join("agent");
        let mut command = match &stage.orch_agent {
            Some(program) => plain(program),
            None => {
                let mut command = plain(&stage.orchctl);
                command.arg("__agent");
                command
            }
        };
        command.arg(format!("--coordinator=https://127.0.0.1:{}", coordinator.port));
        command.args(stage.tls("agent")).arg(format!("--slots={slots}"));
        command.args(programs.iter().map(|program| format!("--allow-command={program}"))).args(more);
        command.arg("--data-dir").arg(&dir).arg("--runtime-dir").arg(dir.join("run"));
        command.current_dir(coordinator.dir());
        let mut daemon = Daemon::start(command, &stage.log("agent"), Signal::TERM)?;
        daemon.check()?;
        let agent = Self { daemon, dir };
        coordinator.wait_for_agents(1)?;
        Ok(agent)
    }

    pub(super) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Where its attempts lie.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}
