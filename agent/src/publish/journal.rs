//! What was published for whom: so that an attempt made again after a loss writes nothing over what a person changed
//! since, and so that what a crash left unfinished is found. One small file for each publication, durable before the
//! step it speaks of. Knows keys and states; refuses to know contents.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Owner, UNFINISHED, remove_unfinished, sync_dir};
use crate::beneath::open_root;
use crate::workspaces::Workspaces;

/// How long a publication is remembered: longer than any attempt is made again by itself.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Which publication: owner, workspace, path and content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

/// How far a publication is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// An unfinished file may be there.
    Preparing,
    /// The unfinished file is whole; if it is not there it was renamed.
    Ready,
    /// It is in its place.
    Done,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    state: State,
    workspace: String,
    to: String,
    /// The attempt that makes it.
    #[serde(default)]
    attempt: u32,
}

/// The journal of an agent.
#[derive(Debug, Clone)]
pub struct Journal {
    dir: PathBuf,
}

impl Key {
    /// The key of one file.
    #[must_use]
    pub fn of(owner: Owner<'_>, workspace: &str, to: &str, digest: &[u8; 32]) -> Self {
        let mut hash = Sha256::new();
        let numbers = [owner.run.to_le_bytes(), u64::from(owner.task).to_le_bytes()].concat();
        for part in [owner.cluster, &numbers, workspace.as_bytes(), to.as_bytes(), digest] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hex::encode(hash.finalize()))
    }

    /// The name of its file while `attempt` has not finished it.
    #[must_use]
    pub fn unfinished(&self, attempt: u32) -> String {
        let short: String = self.0.chars().take(32).collect();
        format!("{UNFINISHED}{short}-{attempt}")
    }
}

impl Journal {
    /// The journal in `dir`, made when it is missing: removes what a crash left unfinished in `workspaces`, and forgets
    /// what is old at `now`. A workspace that is not there is settled when it is.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(dir: &Path, workspaces: &Workspaces, now: SystemTime) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let journal = Self { dir: dir.to_owned() };
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.ends_with(".tmp") {
                fs::remove_file(entry.path())?;
                continue;
            }
            let key = Key(name);
            let age = now.duration_since(entry.metadata()?.modified()?).unwrap_or_default();
            match journal.read(&key)? {
                Some(Note { state: State::Done, .. }) | None if age >= REMEMBERED => journal.forget(&key)?,
                Some(note) if note.state != State::Done => {
                    let dir = workspaces.find(&note.workspace).map(|workspace| open_root(&workspace.dir));
                    if let Ok(Ok(root)) = dir {
                        journal.settle(&key, &note.workspace, &root)?;
                    }
                }
                Some(_) | None => {}
            }
        }
        Ok(journal)
    }

    /// How far a publication is; `None` when nothing is known of it.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn state(&self, key: &Key) -> io::Result<Option<State>> {
        Ok(self.read(key)?.map(|note| note.state))
    }

    /// Notes how far `attempt` is with a publication to a `place`, a workspace's name and a path in it; durable when it
    /// returns.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn note(&self, key: &Key, state: State, place: (&str, &str), attempt: u32) -> io::Result<()> {
        let (workspace, to) = place;
        let note = Note { state, workspace: workspace.to_owned(), to: to.to_owned(), attempt };
        let tmp = self.dir.join(format!("{}.tmp", key.0));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&tmp)?;
        file.write_all(&serde_json::to_vec(&note)?)?;
        file.sync_all()?;
        fs::rename(&tmp, self.dir.join(&key.0))?;
        sync_dir(&self.dir)
    }

    /// Finds out how a publication ended that a crash interrupted, in the workspace `name` at `root`. Does nothing for
    /// any other.
    ///
    /// # Errors
    /// When the journal or the workspace cannot be used.
    pub fn settle(&self, key: &Key, name: &str, root: &OwnedFd) -> io::Result<()> {
        let Some(note) = self.read(key)?.filter(|note| note.workspace == name) else { return Ok(()) };
        let unfinished = key.unfinished(note.attempt);
        match note.state {
            State::Done => Ok(()),
            State::Preparing => {
                remove_unfinished(root, &note.to, &unfinished)?;
                self.forget(key)
            }
            State::Ready if remove_unfinished(root, &note.to, &unfinished)? => self.forget(key),
            State::Ready => self.note(key, State::Done, (name, &note.to), note.attempt),
        }
    }

    /// Forgets a publication.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget(&self, key: &Key) -> io::Result<()> {
        match fs::remove_file(self.dir.join(&key.0)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn read(&self, key: &Key) -> io::Result<Option<Note>> {
        match fs::read(self.dir.join(&key.0)) {
            // One that cannot be read is as good as none: it is durable before it is named.
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
