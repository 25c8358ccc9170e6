//! Where the peers' programs are, and how they are fetched: Debian packages, unpacked and not installed; a Python environment; a
//! folder of node modules. All by name, through whichever registries the user's own clients are set to.
//!
//! Knows names and places. Refuses to know what the programs do.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Debian packages; what they need and is not there is fetched with them.
const DEBIAN: &[&str] = &["beanstalkd", "nats-server", "postgresql", "redis-server"];
/// Versions are those that docs/benchmarks.md speaks of.
const PYTHON: &[&str] = &["celery[redis]==5.7.0", "nats-py==2.16.0"];
const NODE: &[&str] = &["bullmq@6.7.0", "ioredis@6.0.0", "graphile-worker@0.17.3"];
/// Names the program of HyperQueue, which no package holds.
const HQ: &str = "HQ_BIN";
/// How what is missing is fetched.
const FETCH: &str = "cargo xtask peers --install fetches it";

/// Something that a peer needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// A program of this name.
    Program(&'static str),
    /// A module in the Python environment.
    Python(&'static str),
    /// A package among the node modules.
    Node(&'static str),
    /// A program that [`HQ`] names.
    HyperQueue,
}

/// Everything below target/peers, and the clients in xtask/peers.
#[derive(Debug)]
pub(super) struct Tools {
    dir: PathBuf,
    clients: PathBuf,
}

impl Tools {
    pub(super) fn new(root: &Path, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), clients: root.join("xtask/peers") }
    }

    /// Why a need is not met, and what to do.
    pub(super) fn lacks(&self, need: Need) -> Option<String> {
        let (is_there, what) = match need {
            Need::Program(name) => (self.program(name).is_some(), format!("there is no {name}; {FETCH}")),
            Need::Python(name) => {
                let found = self.python().is_file() && self.has_module(name);
                (found, format!("there is no Python module {name} below target/peers; {FETCH}"))
            }
            Need::Node(name) => {
                let found = self.node_root().join("node_modules").join(name).is_dir();
                (found, format!("there is no node module {name} below target/peers; {FETCH}"))
            }
            Need::HyperQueue => {
                (hyperqueue().is_some_and(|program| program.is_file()), format!("{HQ} names no program hq"))
            }
        };
        (!is_there).then_some(what)
    }

    fn has_module(&self, name: &str) -> bool {
        let mut command = Command::new(self.python());
        command.args(["-c", &format!("import {name}")]).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// A program, of the system or unpacked.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        let unpacked = self.dir.join("debian");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut places: Vec<_> = std::env::split_paths(&path).collect();
        places.push("/usr/sbin".into());
        places.extend(["usr/bin", "usr/sbin"].map(|place| unpacked.join(place)));
        // Debian keeps versions of PostgreSQL beside each other and none on the path.
        for postgres in [PathBuf::from("/usr/lib/postgresql"), unpacked.join("usr/lib/postgresql")] {
            places.extend(entries(&postgres).into_iter().map(|version| version.join("bin")));
        }
        places.into_iter().map(|place| place.join(name)).find(|program| program.is_file())
    }

    /// A command of a program that finds the libraries that were unpacked with it.
    pub(super) fn command(&self, name: &str) -> anyhow::Result<Command> {
        let program = self.program(name).with_context(|| format!("there is no {name}"))?;
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.libraries());
        Ok(command)
    }

    /// The unpacked libraries, as `LD_LIBRARY_PATH` wants them.
    pub(super) fn libraries(&self) -> OsString {
        let triplets = entries(&self.dir.join("debian/usr/lib"));
        let triplets = triplets.into_iter().filter(|path| path.to_string_lossy().contains("-linux-"));
        std::env::join_paths(triplets).unwrap_or_default()
    }

    /// The interpreter of the environment.
    pub(super) fn python(&self) -> PathBuf {
        self.dir.join("venv/bin/python")
    }

    /// An interpreter for a client that needs the standard library only.
    pub(super) fn any_python(&self) -> PathBuf {
        let own = self.python();
        if own.is_file() { own } else { "python3".into() }
    }

    pub(super) fn node_root(&self) -> PathBuf {
        self.dir.join("npm")
    }

    /// The clients.
    pub(super) fn clients(&self) -> &Path {
        &self.clients
    }

    /// Fetches everything that is missing.
    pub(super) fn install(&self) -> anyhow::Result<()> {
        self.unpack_debian()?;
        let pip = self.dir.join("venv/bin/pip");
        if !pip.is_file() {
            done(Command::new("python3").args(["-m", "venv"]).arg(self.dir.join("venv")))?;
        }
        done(Command::new(pip).args(["install", "--quiet"]).args(PYTHON))?;
        let npm = ["install", "--silent", "--no-audit", "--no-fund", "--prefix"];
        std::fs::create_dir_all(self.node_root())?;
        done(Command::new("npm").args(npm).arg(self.node_root()).args(NODE))?;
        crate::say("fetched; HyperQueue comes in no package: HQ_BIN names its program where there is one");
        Ok(())
    }

    /// Asks apt what an installation would bring and unpacks that instead: no service starts, and nobody need be root.
    fn unpack_debian(&self) -> anyhow::Result<()> {
        let debian = self.dir.join("debian");
        std::fs::create_dir_all(&debian)?;
        let simulation = Command::new("apt-get")
            .args(["install", "--simulate", "--no-install-recommends"])
            .args(DEBIAN)
            .output()
            .context("cannot run apt-get")?;
        if !simulation.status.success() {
            let said = String::from_utf8_lossy(&simulation.stderr).trim().to_owned();
            bail!("apt-get knows no way to {DEBIAN:?}; `apt-get update` as root may help: {said}");
        }
        let wanted = new_packages(&String::from_utf8_lossy(&simulation.stdout));
        if wanted.is_empty() {
            return Ok(());
        }
        let archives = tempfile::tempdir_in(&self.dir)?;
        done(
            Command::new("apt-get").args(["download", "--quiet"]).args(&wanted).current_dir(archives.path()),
        )?;
        for archive in entries(archives.path()) {
            done(Command::new("dpkg-deb").arg("--extract").arg(archive).arg(&debian))?;
        }
        Ok(())
    }
}

/// The program that [`HQ`] names.
pub(super) fn hyperqueue() -> Option<PathBuf> {
    std::env::var_os(HQ).map(PathBuf::from)
}

/// Lines such as `Inst beanstalkd (1.12-2 Debian:12 [amd64])`; one that would be replaced has its old version in brackets.
fn new_packages(simulation: &str) -> Vec<String> {
    let words = simulation.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|words| match words.as_slice() {
            ["Inst", name, version, ..] if version.starts_with('(') => Some((*name).to_owned()),
            _ => None,
        })
        .collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}

fn done(command: &mut Command) -> anyhow::Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    crate::say(&format!("running {command:?}"));
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot run {name}"))?;
    if !status.success() {
        bail!("{name} ended with {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_that_are_not_there_are_fetched() {
        let simulation = "NOTE: this is a simulation\n\
            Inst beanstalkd (1.12-2+b1 Debian:12 [amd64])\n\
            Inst postgresql-common [248] (249 Debian:12 [all]) []\n\
            Conf beanstalkd (1.12-2+b1 Debian:12 [amd64])\n";
        assert_eq!(new_packages(simulation), ["beanstalkd"]);
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let tools = Tools::new(dir.path(), dir.path());
        assert_eq!(tools.lacks(Need::Program("sh")), None);
        for need in [Need::Program("no-such-program"), Need::Python("celery"), Need::Node("bullmq")] {
            let why = tools.lacks(need).unwrap();
            assert!(why.contains("--install"), "{why}");
        }
    }

    #[test]
    fn unpacked_programs_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("debian/usr/lib/postgresql/99/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(dir.path().join("debian/usr/lib/x86_64-linux-gnu")).unwrap();
        std::fs::write(bin.join("an-unheard-of-program"), "").unwrap();
        let tools = Tools::new(dir.path(), dir.path());
        assert_eq!(tools.program("an-unheard-of-program").unwrap(), bin.join("an-unheard-of-program"));
        assert!(tools.libraries().to_string_lossy().ends_with("x86_64-linux-gnu"));
    }
}
