//! The directories of this host that the agent offers under a name: shown to tasks read-only, and published into.
//! Knows which are there now; refuses to know what lies in them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, readlinkat, symlinkat, unlinkat};
use rustix::io::Errno;
use thiserror::Error;
use tokio::sync::watch;

use crate::beneath::{kind, look, open_root};
use crate::inputs::set_aside;
use crate::runner::Workspace;

pub mod checks;

/// Name of the link in a working directory that leads to the workspace.
pub const LINK: &str = "workspace";

/// Variable of the child that says where its workspace is.
pub const VARIABLE: &str = "ORCH_WORKSPACE";

/// Why a workspace cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WorkspaceError {
    /// The agent offers none of that name.
    #[error("this agent has no workspace {0:?}; it is started with --workspace NAME=DIR for each")]
    Unknown(String),
    /// Its directory is not there any more.
    #[error(
        "the directory of the workspace {name}, {dir}, is not there any more; put it back or restart the agent without it"
    )]
    Vanished {
        /// Its name.
        name: String,
        /// The directory.
        dir: String,
    },
}

/// The workspaces of an agent.
#[derive(Debug, Clone)]
pub struct Workspaces {
    all: Arc<[Workspace]>,
    /// Names of those that were not there when they were asked for last.
    gone: watch::Sender<BTreeSet<String>>,
}

impl Default for Workspaces {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Workspaces {
    /// These workspaces, which were there a moment ago.
    #[must_use]
    pub fn new(all: Vec<Workspace>) -> Self {
        Self { all: all.into(), gone: watch::channel(BTreeSet::new()).0 }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Workspace] {
        &self.all
    }

    /// What the agent offers by them, each `workspace=NAME`.
    pub fn capabilities(&self) -> impl Iterator<Item = String> + '_ {
        self.all.iter().map(|workspace| format!("workspace={}", workspace.name))
    }

    /// Looks whether the workspace `name` is there.
    ///
    /// # Errors
    /// See [`WorkspaceError`]; that it vanished is also among the warnings from then on.
    pub fn find(&self, name: &str) -> Result<&Workspace, WorkspaceError> {
        let found = self.all.iter().find(|workspace| workspace.name == name);
        let workspace = found.ok_or_else(|| WorkspaceError::Unknown(name.to_owned()))?;
        // A link in its place is another directory than the one that was offered.
        let is_there = fs::symlink_metadata(&workspace.dir).is_ok_and(|found| found.is_dir());
        self.gone.send_if_modified(
            |gone| {
                if is_there { gone.remove(name) } else { gone.insert(name.to_owned()) }
            },
        );
        if is_there {
            return Ok(workspace);
        }
        let dir = workspace.dir.display().to_string();
        Err(WorkspaceError::Vanished { name: name.to_owned(), dir })
    }

    /// One line for people for each that vanished.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let gone = self.gone.borrow();
        let lost = self.all.iter().filter(|workspace| gone.contains(&workspace.name));
        lost.map(|workspace| {
            format!("workspace {}: {} is not there any more", workspace.name, workspace.dir.display())
        })
        .collect()
    }

    /// Changes when the warnings do.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<BTreeSet<String>> {
        self.gone.subscribe()
    }
}

/// Shows a workspace in the working directory `work`, as a link. What stands in its place and is another thing is put
/// aside into `aside`, a directory of the attempt that the child is not shown. Nothing of the conversation runs.
///
/// # Errors
/// When the link cannot be made.
pub fn show(work: &Path, workspace: &Workspace, aside: &Path) -> io::Result<()> {
    let work = open_root(work)?;
    match look(&work, LINK.as_ref())? {
        None => {}
        Some(found) if kind(&found) == FileType::Symlink => {
            let leads = readlinkat(&work, LINK, Vec::new())?;
            if leads.to_bytes() == workspace.dir.as_os_str().as_bytes() {
                return Ok(());
            }
            unlinkat(&work, LINK, AtFlags::empty())?;
        }
        Some(_) => set_aside(&work, LINK.as_ref(), aside)?,
    }
    match symlinkat(&workspace.dir, &work, LINK) {
        Err(Errno::EXIST) => {
            Err(io::Error::other("something made a file where the workspace is to be shown"))
        }
        done => Ok(done?),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn workspace(dir: &Path) -> Workspace {
        Workspace { name: "dance".into(), dir: dir.to_owned() }
    }

    #[test]
    fn one_that_vanished_is_refused_and_warned_of_until_it_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("dance");
        fs::create_dir(&place).unwrap();
        let all = Workspaces::new(vec![workspace(&place)]);
        let mut changes = all.changes();
        assert_eq!(all.capabilities().collect::<Vec<_>>(), ["workspace=dance"]);
        assert!(all.find("dance").is_ok() && all.warnings().is_empty() && !changes.has_changed().unwrap());
        assert_eq!(all.find("music"), Err(WorkspaceError::Unknown("music".into())));
        fs::remove_dir(&place).unwrap();
        assert!(matches!(all.find("dance"), Err(WorkspaceError::Vanished { .. })));
        assert_eq!(all.warnings(), [format!("workspace dance: {} is not there any more", place.display())]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        symlink(dir.path(), &place).unwrap();
        assert!(all.find("dance").is_err() && !changes.has_changed().unwrap(), "the same is said once");
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        assert!(all.find("dance").is_ok() && all.warnings().is_empty() && changes.has_changed().unwrap());
    }

    #[test]
    fn it_is_shown_whatever_a_former_child_left_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let (work, aside) = (dir.path().join("work"), dir.path().join("aside"));
        let (place, other) = (dir.path().join("dance"), dir.path().join("other"));
        for dir in [&work, &aside, &place, &other] {
            fs::create_dir(dir).unwrap();
        }
        fs::write(other.join("kept"), "x").unwrap();
        let link = work.join(LINK);
        let shown = || {
            show(&work, &workspace(&place), &aside).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), place);
            assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);
        };
        shown();
        shown();
        fs::remove_file(&link).unwrap();
        symlink(&other, &link).unwrap();
        shown();
        assert!(other.join("kept").exists(), "what the link led to is not touched");
        fs::remove_file(&link).unwrap();
        fs::write(&link, "x").unwrap();
        shown();
        fs::remove_file(&link).unwrap();
        fs::create_dir_all(link.join("deep/er")).unwrap();
        fs::set_permissions(link.join("deep"), std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
        shown();
    }
}
