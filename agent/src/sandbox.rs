//! What stands between an attempt and the host: which layers this host offers, and the plan of one attempt.
//! Knows paths and layers; refuses to know the CLI, the coordinator and whose credential a file holds.
//!
//! ```text
//! supervisor ─▶ bwrap ─▶ __sandbox-init (PID 1, landlock) ─▶ program
//!      ├─ for a child without secrets ─▶ orch-first (PID 1, landlock) ─▶ program
//!      └─ where bwrap does not work ─▶ __supervise-child: landlock, no capabilities ─exec─▶ program
//! ```
//!
//! The second is the first made of a copy of the supervisor ([`namespaces`], [`view`]), with the same namespaces and mounts.
//! The plan is made by the daemon, carried out by the supervisor or by the copy between it and the program ([`confine`]),
//! and finished inside by the first process of the new PID namespace ([`init`]).

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::probe::Landlock;

pub mod confine;
pub mod fds;
pub mod init;
pub mod mounts;
pub mod namespaces;
pub mod places;
pub mod probe;
pub mod rules;
pub mod view;

/// What the operator demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// Use what the host offers and warn about the rest.
    #[default]
    Auto,
    /// Refuse to start where attempts could not be confined.
    Require,
    /// Confine nothing.
    Off,
}

/// What one attempt may touch. Everything else of the host is readable at most, what belongs to the agent not even that.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bounds {
    /// Directories it may write: its home, work and out.
    pub writable: Vec<PathBuf>,
    /// Files and directories below hidden places that it may read: what it is given, its program. One that would
    /// uncover a whole hidden place is left out; the program itself, and the search path, are added at the start.
    pub readable: Vec<PathBuf>,
}

/// How the supervisor confines a child; part of its specification.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The namespaces, where they can be made.
    pub bwrap: Option<Bwrap>,
    /// Whether the supervisor makes them itself for a child without secrets, which costs a tenth; see [`namespaces`].
    pub by_itself: bool,
    /// Whether the kernel has landlock.
    pub landlock: bool,
    /// Directories and files that are not to be seen.
    pub hidden: Vec<PathBuf>,
    /// See [`Bounds::writable`].
    pub writable: Vec<PathBuf>,
    /// See [`Bounds::readable`].
    pub readable: Vec<PathBuf>,
}

/// A bubblewrap that was seen to work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bwrap {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Whether it can limit the size of a private directory; older ones cannot.
    pub sizes: bool,
}

/// What a sandbox is made from.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What the operator demands.
    pub mode: SandboxMode,
    /// Files and directories of the agent: data, sockets, certificates, credentials. Homes and well-known places of
    /// secrets are added.
    pub hidden: Vec<PathBuf>,
    /// Places below hidden ones that every attempt may read.
    pub readable: Vec<PathBuf>,
    /// Directories that are hidden from every attempt but those that are given one of them to read.
    pub workspaces: Vec<PathBuf>,
    /// Where bwrap is looked for.
    pub search_path: String,
    /// This program, to try whether its supervisors can make namespaces themselves; absent: they do not.
    pub exe: Option<PathBuf>,
}

/// Why an agent that must confine its attempts cannot start.
#[derive(Debug, Error)]
#[error("attempts cannot be confined on this host, and the sandbox is required: {}; allow it with --sandbox auto", .0.join("; "))]
pub struct Refusal(Vec<String>);

/// What this host offers, found out once at the start of the agent. The default offers nothing.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    bwrap: Option<Bwrap>,
    by_itself: bool,
    landlock: Landlock,
    in_force: bool,
    /// Of the settings.
    own: Vec<PathBuf>,
    /// Those and others that were there at the start.
    hidden: Vec<PathBuf>,
    readable: Vec<PathBuf>,
    workspaces: Vec<PathBuf>,
    missing: Vec<String>,
}

impl Sandbox {
    /// Tries every layer once. Blocks for some milliseconds.
    ///
    /// # Errors
    /// When a sandbox is required and neither namespaces nor a landlock that also holds back signals can be had.
    pub fn probe(settings: Settings) -> Result<Self, Refusal> {
        if settings.mode == SandboxMode::Off {
            let off = "no sandbox: it is switched off by --sandbox off, so tasks can read and change whatever the \
                       agent's user can";
            return Ok(Self { missing: vec![off.to_owned()], ..Self::default() });
        }
        let bwrap = probe::bwrap(&settings.search_path);
        let landlock = probe::landlock();
        let missing = missing_layers(bwrap.as_ref().err(), landlock);
        let confined = bwrap.is_ok() || landlock == Landlock::WithSignals;
        if settings.mode == SandboxMode::Require && !confined {
            return Err(Refusal(missing));
        }
        let own = settings.exe.as_deref().filter(|_| bwrap.is_ok());
        let by_itself = own.is_some_and(|exe| match probe::by_itself(exe, &settings.search_path) {
            Ok(()) => true,
            Err(why) => {
                tracing::info!(why, "supervisors make no namespaces themselves; bubblewrap does");
                false
            }
        });
        Ok(Self {
            bwrap: bwrap.ok(),
            by_itself,
            landlock,
            in_force: true,
            hidden: places::hidden(settings.hidden.clone()),
            own: settings.hidden,
            readable: settings.readable,
            workspaces: settings.workspaces,
            missing,
        })
    }

    /// The same as on a host whose bubblewrap does not work.
    #[must_use]
    pub fn without_namespaces(mut self) -> Self {
        self.bwrap = None;
        self.by_itself = false;
        self
    }

    /// The same as on a host where only bubblewrap may make namespaces.
    #[must_use]
    pub fn by_bubblewrap_alone(mut self) -> Self {
        self.by_itself = false;
        self
    }

    /// The same as on a host whose kernel has no landlock.
    #[must_use]
    pub fn without_landlock(mut self) -> Self {
        self.landlock = Landlock::Missing;
        self
    }

    /// Names of the layers in force, such as `mount-namespace`.
    #[must_use]
    pub fn layers(&self) -> Vec<String> {
        let mut layers = Vec::new();
        if self.bwrap.is_some() {
            layers.extend(["mount-namespace", "pid-namespace", "ipc-namespace", "uts-namespace"]);
        }
        if self.landlock != Landlock::Missing {
            layers.push("landlock");
        }
        if self.in_force {
            layers.push("no-capabilities");
        }
        layers.extend(["no-new-privs", "rlimits"]);
        layers.into_iter().map(str::to_owned).collect()
    }

    /// One line for people for each layer that is missing, and why.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    /// What may not be seen and would be, if `dir` were shown to attempts; `None` where it can be shown.
    #[must_use]
    pub fn uncovered_by(&self, dir: &Path) -> Option<PathBuf> {
        let hidden = if self.in_force { self.secret_now() } else { Vec::new() };
        let is_covered = !places::uncovers(dir, &hidden);
        let first =
            || hidden.into_iter().find(|place| place.starts_with(dir)).unwrap_or_else(|| dir.to_owned());
        (self.in_force && !is_covered).then(first)
    }

    /// Whether attempts are kept from writing where they may not.
    #[must_use]
    pub const fn is_in_force(&self) -> bool {
        self.in_force && (self.bwrap.is_some() || !matches!(self.landlock, Landlock::Missing))
    }

    /// The plan of an attempt; `None` where no layer is to be had and the operator allows that.
    #[must_use]
    pub fn plan(&self, bounds: Bounds) -> Option<Plan> {
        if !self.in_force {
            return None;
        }
        let secret = self.secret_now();
        let mut readable = bounds.readable;
        readable.retain(|path| !path.is_dir() || !places::uncovers(path, &secret));
        let mut hidden = secret;
        // Each attempt sees no workspace but its own; one that holds another shows the rest.
        hidden.extend(self.workspaces.iter().filter(|dir| !places::holds_system(dir)).cloned());
        hidden.sort();
        hidden.dedup();
        readable.extend(self.readable.iter().cloned());
        Some(Plan {
            bwrap: self.bwrap.clone(),
            by_itself: self.by_itself,
            landlock: self.landlock != Landlock::Missing,
            hidden,
            writable: bounds.writable,
            readable,
        })
    }

    /// A key file may have come, or have been put elsewhere behind a link, since the agent was started.
    fn secret_now(&self) -> Vec<PathBuf> {
        let mut hidden = places::hidden(self.own.clone());
        hidden.extend(self.hidden.iter().cloned());
        hidden.sort();
        hidden.dedup();
        hidden
    }
}

fn missing_layers(no_bwrap: Option<&String>, landlock: Landlock) -> Vec<String> {
    let mut missing = Vec::new();
    if let Some(why) = no_bwrap {
        missing.push(format!("no mount and PID namespaces: {why}"));
    }
    match landlock {
        Landlock::WithSignals => {}
        Landlock::FilesOnly => missing.push(
            "no landlock for signals and abstract sockets: the kernel is older than 6.12; update it".to_owned(),
        ),
        Landlock::Missing => missing.push(
            "no landlock: the kernel has none or it is not switched on; use Linux 5.13 or later (6.12 for signals) \
             with landlock in the boot option lsm="
                .to_owned(),
        ),
    }
    if no_bwrap.is_some() && landlock == Landlock::Missing {
        missing.push(
            "no sandbox: tasks of this agent can read each other's files and the agent's keys".to_owned(),
        );
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_is_switched_off_says_so_and_plans_nothing() {
        let sandbox = Sandbox::probe(Settings { mode: SandboxMode::Off, ..Settings::default() }).unwrap();
        assert_eq!(sandbox.layers(), ["no-new-privs", "rlimits"]);
        assert_eq!(sandbox.plan(Bounds::default()), None);
        assert!(sandbox.missing()[0].starts_with("no sandbox: it is switched off"));
    }

    #[test]
    fn every_missing_layer_has_its_line_with_a_remedy() {
        let none =
            missing_layers(Some(&"bwrap was not found; install bubblewrap".to_owned()), Landlock::Missing);
        assert_eq!(none.len(), 3);
        assert_eq!(none[0], "no mount and PID namespaces: bwrap was not found; install bubblewrap");
        assert!(none[1].starts_with("no landlock: ") && none[2].starts_with("no sandbox: "));
        assert_eq!(missing_layers(None, Landlock::FilesOnly).len(), 1);
        assert_eq!(missing_layers(None, Landlock::WithSignals), Vec::<String>::new());
    }

    #[test]
    fn a_key_that_came_after_the_start_is_hidden_from_the_next_attempt() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let key = std::fs::canonicalize(dir.path()).unwrap().join("key");
        let settings = Settings { hidden: vec![key.clone()], ..Settings::default() };
        let sandbox = Sandbox::probe(settings).unwrap();
        std::fs::write(&key, "x").unwrap();
        assert!(sandbox.plan(Bounds::default()).unwrap().hidden.contains(&key));
    }

    #[test]
    fn a_directory_that_would_uncover_a_hidden_place_is_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let (data, given) = (dir.path().join("data"), dir.path().join("data/given"));
        std::fs::create_dir_all(&given).unwrap();
        let sandbox = Sandbox { in_force: true, hidden: vec![data.clone()], ..Sandbox::default() };
        let readable = vec![dir.path().to_owned(), data, given.clone()];
        let plan = sandbox.plan(Bounds { readable, ..Bounds::default() }).unwrap();
        assert_eq!(plan.readable, [given]);
    }
}
