//! How each peer's server, worker and client are called. Knows their command lines. Refuses to know when they run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use rustix::process::Signal;

use super::subject::Peer;
use super::tools::{Need, Tools, hyperqueue};
use crate::measure::machine::said;
use crate::measure::process::free_port;

/// `nobody`: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;
/// Where HyperQueue's server keeps its address, below its directory.
const HQ_DIR: &str = "server";

/// A peer in a directory of its own, on a port of its own.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) peer: Peer,
    pub(super) tools: &'a Tools,
    pub(super) dir: PathBuf,
    pub(super) port: u16,
}

impl<'a> Place<'a> {
    /// A place below `dir`, which is empty.
    pub(super) fn new(peer: Peer, tools: &'a Tools, dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { peer, tools, dir: dir.to_owned(), port: free_port()? })
    }

    /// What has to happen before the first start.
    pub(super) fn prepare(&self) -> anyhow::Result<Option<Command>> {
        let Peer::Graphile { .. } = self.peer else { return Ok(None) };
        if is_root() {
            std::os::unix::fs::chown(&self.dir, Some(NOBODY), Some(NOBODY))
                .context("cannot give a directory away")?;
        }
        let mut command = self.as_nobody("initdb")?;
        // Trust: it listens on loopback and holds nothing.
        command
            .args(["--auth=trust", "--username=postgres", "--no-sync", "--pgdata"])
            .arg(self.dir.join("data"));
        Ok(Some(command))
    }

    /// The server, and the signal at which it ends quickly.
    pub(super) fn server(&self) -> anyhow::Result<(Command, Signal)> {
        let port = self.port.to_string();
        let mut ending = Signal::TERM;
        let command = match self.peer {
            Peer::Beanstalkd { sync } => {
                let mut command = self.tools.command("beanstalkd")?;
                command.args(["-l", "127.0.0.1", "-p", &port]);
                if sync {
                    command.arg("-b").arg(&self.dir).arg("-f0");
                }
                command
            }
            Peer::JetStream => {
                let mut command = self.tools.command("nats-server")?;
                command.args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd"]).arg(&self.dir);
                command
            }
            Peer::BullMq { sync } => self.redis(&port, sync)?,
            Peer::Celery => self.redis(&port, true)?,
            Peer::Graphile { .. } => {
                // At the other signal it waits for its clients.
                ending = Signal::INT;
                let mut command = self.as_nobody("postgres")?;
                command.args(["-h", "127.0.0.1", "-p", &port, "-k", "", "-c", "max_connections=150", "-D"]);
                command.arg(self.dir.join("data"));
                command
            }
            Peer::HyperQueue => {
                let mut command = self.hq()?;
                command
                    .args(["server", "start", "--host", "localhost", "--journal"])
                    .arg(self.dir.join("journal"));
                command
            }
        };
        Ok((command, ending))
    }

    /// The workers; together they run two tasks at a time.
    pub(super) fn workers(&self) -> anyhow::Result<Vec<Command>> {
        let two = |worker: &dyn Fn() -> anyhow::Result<Command>| Ok(vec![worker()?, worker()?]);
        match self.peer {
            Peer::Beanstalkd { .. } | Peer::JetStream => two(&|| self.client("work", 0)),
            Peer::BullMq { .. } | Peer::Graphile { .. } => Ok(vec![self.client("work", 0)?]),
            Peer::Celery => {
                let mut command = self.interpreter(self.tools.python());
                command.args(["-m", "celery", "-A", "celery_redis", "worker", "-c", "2", "-l", "ERROR"]);
                command.args(["--without-gossip", "--without-mingle", "--without-heartbeat"]);
                Ok(vec![command])
            }
            Peer::HyperQueue => two(&|| {
                let mut command = self.hq()?;
                command.args(["worker", "start", "--cpus", "1", "--on-server-lost", "stop"]);
                Ok(command)
            }),
        }
    }

    /// The client that measures a row, or that works.
    pub(super) fn client(&self, row: &str, count: u32) -> anyhow::Result<Command> {
        let (file, mut command) = match self.peer {
            Peer::Beanstalkd { .. } => ("beanstalkd.py", self.interpreter(self.tools.any_python())),
            Peer::JetStream => ("jetstream.py", self.interpreter(self.tools.python())),
            Peer::Celery => ("celery_redis.py", self.interpreter(self.tools.python())),
            Peer::HyperQueue => ("hyperqueue.py", self.interpreter(self.tools.any_python())),
            Peer::BullMq { .. } => ("bullmq.mjs", self.interpreter("node".into())),
            Peer::Graphile { .. } => ("graphile.mjs", self.interpreter("node".into())),
        };
        command.arg(self.tools.clients().join(file)).arg(row);
        command.args(["--port", &self.port.to_string(), "--count", &count.to_string()]);
        Ok(command)
    }

    /// Whether there are tables to be made before workers and clients race to make them.
    pub(super) const fn migrates(&self) -> bool {
        matches!(self.peer, Peer::Graphile { .. })
    }

    /// Whether a port shows that the server is up; HyperQueue's client shows it otherwise.
    pub(super) const fn listens(&self) -> bool {
        !matches!(self.peer, Peer::HyperQueue)
    }

    /// Asks the server of HyperQueue whether it is there.
    pub(super) fn probe(&self) -> anyhow::Result<Command> {
        let mut command = self.hq()?;
        command.args(["server", "info"]);
        Ok(command)
    }

    fn interpreter(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command
            .env("PYTHONPATH", self.tools.clients())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("C_FORCE_ROOT", "1")
            .env("CELERY_PORT", self.port.to_string())
            .env("NODE_ROOT", self.tools.node_root())
            .env("HQ_DIR", self.dir.join(HQ_DIR))
            .current_dir(&self.dir);
        if self.peer == (Peer::Graphile { tuned: true }) {
            command.env("GRAPHILE_TUNED", "1");
        }
        command
    }

    fn redis(&self, port: &str, sync: bool) -> anyhow::Result<Command> {
        let mut command = self.tools.command("redis-server")?;
        command.args([
            "--bind",
            "127.0.0.1",
            "--port",
            port,
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ]);
        command.args(["--appendonly", if sync { "yes" } else { "no" }, "--appendfsync", "always", "--dir"]);
        command.arg(&self.dir);
        Ok(command)
    }

    fn hq(&self) -> anyhow::Result<Command> {
        let mut command = Command::new(hyperqueue().context("HQ_BIN names no program")?);
        command.arg("--server-dir").arg(self.dir.join(HQ_DIR)).args(["--colors", "never"]);
        Ok(command)
    }

    /// A program of PostgreSQL, as somebody else if this is root.
    fn as_nobody(&self, name: &str) -> anyhow::Result<Command> {
        if !is_root() {
            return self.tools.command(name);
        }
        let program = self.tools.program(name).with_context(|| format!("there is no {name}"))?;
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
        command.arg(program).env("LD_LIBRARY_PATH", self.tools.libraries()).current_dir("/");
        Ok(command)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What a peer needs to be measured.
pub(super) const fn needs(peer: Peer) -> &'static [Need] {
    match peer {
        Peer::Beanstalkd { .. } => &[Need::Program("beanstalkd"), Need::Program("python3")],
        Peer::JetStream => &[Need::Program("nats-server"), Need::Python("nats")],
        Peer::BullMq { .. } => &[
            Need::Program("redis-server"),
            Need::Program("node"),
            Need::Node("bullmq"),
            Need::Node("ioredis"),
        ],
        Peer::Graphile { .. } => &[
            Need::Program("postgres"),
            Need::Program("initdb"),
            Need::Program("node"),
            Need::Node("graphile-worker"),
        ],
        Peer::Celery => &[Need::Program("redis-server"), Need::Python("celery"), Need::Python("redis")],
        Peer::HyperQueue => &[Need::HyperQueue, Need::Program("python3")],
    }
}

/// What was measured, by its own word.
pub(super) fn version(peer: Peer, tools: &Tools) -> String {
    let of = |name: &str, flag: &str| {
        let command = tools.command(name).ok().map(|mut command| {
            command.arg(flag);
            command
        });
        let output = command.and_then(|mut command| command.output().ok());
        let output = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or_default().trim().to_owned()
    };
    let redis = || {
        let line = of("redis-server", "--version");
        line.split(" sha=").next().unwrap_or_default().to_owned()
    };
    let node = |package: &str| {
        let path = tools.node_root().join("node_modules").join(package).join("package.json");
        let text = std::fs::read(path).unwrap_or_default();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        format!("{package} {}", value["version"].as_str().unwrap_or_default())
    };
    match peer {
        Peer::Beanstalkd { .. } => of("beanstalkd", "-v"),
        Peer::JetStream => of("nats-server", "--version"),
        Peer::BullMq { .. } => format!("{}, {}", node("bullmq"), redis()),
        Peer::Graphile { .. } => format!("{}, {}", node("graphile-worker"), of("postgres", "--version")),
        Peer::Celery => {
            let celery = said(tools.python(), &["-c", "import celery; print(celery.__version__)"]);
            format!("celery {celery}, {}", redis())
        }
        Peer::HyperQueue => hyperqueue().map(|program| said(program, &["--version"])).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_called_with_its_row_and_its_port() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tools = Tools::new(&root, Path::new("/nowhere"));
        for peer in [
            Peer::Beanstalkd { sync: true },
            Peer::JetStream,
            Peer::BullMq { sync: true },
            Peer::Graphile { tuned: true },
            Peer::Celery,
            Peer::HyperQueue,
        ] {
            let place = Place { peer, tools: &tools, dir: "/nowhere".into(), port: 7 };
            let command = place.client("noop", 3).unwrap();
            let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
            assert!(Path::new(&words[0]).is_file(), "{words:?}");
            assert_eq!(words[1..], ["noop", "--port", "7", "--count", "3"]);
        }
    }
}
