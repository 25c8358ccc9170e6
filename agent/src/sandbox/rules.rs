//! Landlock: which places a process may read and write from now on, and that it reaches only processes and abstract
//! sockets of its own kind. Landlock knows permissions only, so hidden places are left out by naming what lies
//! around them. Reads directories; knows no mount.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::Plan;
use super::places::PRIVATE;

/// The newest that is known here; of an older kernel as much as it has.
const NEWEST: ABI = ABI::V9;

/// Devices any program may write.
const DEVICES: [&str; 8] = [
    "/dev/full",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/random",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

/// What may be read and written; everything else may not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rules {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

/// Why the rules are not in force.
#[derive(Debug, Error)]
pub enum RestrictError {
    /// The kernel refused them.
    #[error("cannot use landlock")]
    Ruleset(#[from] RulesetError),
    /// The kernel has no landlock any more, or never had.
    #[error("landlock is not in force")]
    NotEnforced,
}

impl Rules {
    /// Inside the mounts of an attempt, which hide what is to be hidden: a second hold on what may be written.
    #[must_use]
    pub fn inside(plan: &Plan) -> Self {
        let own = ["/dev", "/proc"].into_iter().chain(PRIVATE).map(PathBuf::from);
        Self { read: vec![PathBuf::from("/")], write: plan.writable.iter().cloned().chain(own).collect() }
    }

    /// Where landlock stands alone. `also`: more places to read.
    #[must_use]
    pub fn alone(plan: &Plan, also: &[PathBuf]) -> Self {
        let private = PRIVATE.into_iter().filter_map(|path| fs::canonicalize(path).ok());
        let hidden: Vec<PathBuf> = plan.hidden.iter().cloned().chain(private).collect();
        let mut read = Vec::new();
        open_up(Path::new("/"), &hidden, &mut read);
        for place in plan.readable.iter().chain(also) {
            let Ok(real) = fs::canonicalize(place) else { continue };
            let deeper: Vec<PathBuf> =
                hidden.iter().filter(|path| path.starts_with(&real) && **path != real).cloned().collect();
            open_up(&real, &deeper, &mut read);
        }
        let devices = DEVICES.into_iter().map(PathBuf::from);
        Self { read, write: plan.writable.iter().cloned().chain(devices).collect() }
    }

    /// Puts the calling thread, and every program it becomes or starts, under these rules for good.
    ///
    /// # Errors
    /// When nothing is in force.
    pub fn restrict(&self) -> Result<(), RestrictError> {
        let all = AccessFs::from_all(NEWEST);
        let status = Ruleset::default()
            .handle_access(all)?
            .scope(Scope::from_all(NEWEST))?
            .create()?
            .add_rules(path_beneath_rules(&self.read, AccessFs::from_read(NEWEST)))?
            .add_rules(path_beneath_rules(&self.write, all))?
            .restrict_self()?;
        match status.ruleset {
            RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => Ok(()),
            RulesetStatus::NotEnforced => Err(RestrictError::NotEnforced),
        }
    }
}

/// Allows `place` but for what is hidden: whole where nothing in it is, else entry by entry. A link is no entry: what
/// it leads to is allowed by its own name or not at all.
fn open_up(place: &Path, hidden: &[PathBuf], allowed: &mut Vec<PathBuf>) {
    if hidden.iter().any(|path| path == place) {
        return;
    }
    if !hidden.iter().any(|path| path.starts_with(place)) {
        allowed.push(place.to_owned());
        return;
    }
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| !kind.is_symlink()) {
            open_up(&entry.path(), hidden, allowed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_around_a_hidden_place_is_allowed_and_links_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        for sub in ["a/deep/secret", "a/deep/open", "a/side", "b"] {
            fs::create_dir_all(root.join(sub)).unwrap();
        }
        std::os::unix::fs::symlink("a/deep/secret", root.join("link")).unwrap();
        let mut allowed = Vec::new();
        open_up(&root, &[root.join("a/deep/secret")], &mut allowed);
        allowed.sort();
        assert_eq!(allowed, ["a/deep/open", "a/side", "b"].map(|sub| root.join(sub)));
    }

    #[test]
    fn rules_hold_for_the_thread_that_asked() {
        if super::super::probe::landlock() == super::super::probe::Landlock::Missing {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (open, closed) = (dir.path().join("open"), dir.path().join("closed"));
        fs::create_dir(&open).unwrap();
        fs::create_dir(&closed).unwrap();
        let rules = Rules { read: vec!["/usr".into()], write: vec![open.clone()] };
        let (within, without) = (open.join("x"), closed.join("x"));
        let inside = std::thread::spawn(move || {
            rules.restrict().unwrap();
            (fs::write(&within, "x").is_ok(), fs::write(&without, "x").is_ok(), fs::read_dir("/usr").is_ok())
        });
        assert_eq!(inside.join().unwrap(), (true, false, true));
        assert!(fs::write(closed.join("y"), "y").is_ok());
    }
}
