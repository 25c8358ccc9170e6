//! The CLI's login of a pool: one directory, lent to one attempt at a time, also among several agents of a host.
//!
//! ```text
//! DIR/.credentials.json   the login; may be a link to where it really lies
//!    /orch.lock           held while the login is lent, or while somebody signs in
//!    /orch-lent.json      to which conversation it is lent, so that a crash loses nothing
//! ```
//!
//! A free lock beside a note means that a holder died: whoever comes next settles the note first.
//! Knows files; refuses to know workers and queues.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::login_file::{LONGEST_LOGIN, Login};
use super::within::{Dir, replace};
use crate::homes::{HomeError, private_dir};
use crate::secret::{SecretError, read_private};

/// The CLI's login file, in its configuration directory.
pub const LOGIN_FILE: &str = ".credentials.json";
const LOCK_FILE: &str = "orch.lock";
const NOTE_FILE: &str = "orch-lent.json";

/// Why a login cannot be lent.
#[derive(Debug, Error)]
pub enum LoginError {
    /// There is none.
    #[error("nobody is signed in to it: run orch-agent login --pool {pool} on its host")]
    SignedOut {
        /// The pool.
        pool: String,
    },
    /// What lies there is no login.
    #[error("{} holds no login that the CLI could use: run orch-agent login --pool {pool}", path.display())]
    Malformed {
        /// The pool.
        pool: String,
        /// The file.
        path: PathBuf,
    },
    /// Its file cannot be used.
    #[error(transparent)]
    File(#[from] SecretError),
    /// Its directory cannot be used.
    #[error(transparent)]
    Dir(#[from] HomeError),
    /// A file beside it cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Where the login of a pool lies, and on whose behalf it is lent.
#[derive(Debug, Clone)]
pub struct LoginPlace {
    pool: String,
    dir: PathBuf,
    /// Data directory of the agent.
    owner: PathBuf,
}

/// The right to the login until it is dropped, on this host.
#[derive(Debug)]
pub struct Lock(File);

impl Drop for Lock {
    /// To close the file is not enough: a process that another thread starts has a copy of it until its program begins.
    fn drop(&mut self) {
        // One that cannot be given back ends with the last copy.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

/// A login as it lies in its file.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What it says.
    pub login: Login,
    digest: String,
}

/// To whom a login is lent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Data directory of the agent that lends it.
    pub owner: PathBuf,
    /// `name/number/task`, for people.
    pub reference: String,
    /// The configuration directory it lies in.
    pub config: PathBuf,
    /// Of the login's file when it was lent: another one there means that somebody signed in meanwhile.
    digest: String,
}

/// What became of a login that was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Nothing was lent.
    NotLent,
    /// The one in the pool stays.
    Kept,
    /// The child's took its place.
    Renewed,
}

impl LoginPlace {
    /// The login of `pool` in `dir`, lent by the agent whose data lies in `owner`.
    #[must_use]
    pub fn new(pool: &str, dir: &Path, owner: &Path) -> Self {
        Self { pool: pool.to_owned(), dir: dir.to_owned(), owner: owner.to_owned() }
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes the directory when it is missing, and closes it to others.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub fn make(&self) -> Result<(), LoginError> {
        if let Some(parent) = self.dir.parent() {
            fs::create_dir_all(parent)
                .map_err(|source| LoginError::Io { path: parent.to_owned(), source })?;
        }
        Ok(private_dir(&self.dir)?)
    }

    /// The lock, if nobody has it. Makes the directory when it is missing.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub fn try_lock(&self) -> Result<Option<Lock>, LoginError> {
        self.make()?;
        let path = self.dir.join(LOCK_FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.map_err(|source| LoginError::Io { path, source })?;
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then(|| Lock(file)))
    }

    /// To whom it is lent, if it is.
    #[must_use]
    pub fn note(&self) -> Option<Note> {
        serde_json::from_slice(&fs::read(self.dir.join(NOTE_FILE)).ok()?).ok()
    }

    /// Whether a note is this agent's own.
    #[must_use]
    pub fn is_own(&self, note: &Note) -> bool {
        note.owner == self.owner
    }

    /// The login as it lies there.
    ///
    /// # Errors
    /// See [`LoginError`].
    pub fn read(&self) -> Result<Stored, LoginError> {
        let (path, pool) = (self.dir.join(LOGIN_FILE), self.pool.clone());
        match read_private(&path, LONGEST_LOGIN) {
            Ok(bytes) => match Login::parse(&bytes) {
                Some(login) => Ok(Stored { login, digest: digest(&bytes) }),
                None => Err(LoginError::Malformed { pool, path }),
            },
            Err(SecretError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(LoginError::SignedOut { pool })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts the login into a conversation. The caller holds the lock.
    ///
    /// # Errors
    /// When it cannot be written. What was written is then settled by the next one.
    pub fn lend(&self, stored: &Stored, config: &Path, reference: &str) -> io::Result<()> {
        let note = Note {
            owner: self.owner.clone(),
            reference: reference.to_owned(),
            config: config.to_owned(),
            digest: stored.digest.clone(),
        };
        // The note first: a login that lies somewhere is always one that somebody knows of.
        replace(&self.dir.join(NOTE_FILE), &serde_json::to_vec(&note)?)?;
        let dir = Dir::reclaim(config)?;
        dir.remove(LOGIN_FILE)?;
        dir.write(LOGIN_FILE, stored.login.bytes())
    }

    /// Takes back what was lent, and keeps it if it is the successor of what still lies here. The caller holds the
    /// lock, and nothing of the attempt runs any more.
    ///
    /// # Errors
    /// When the pool's file or the note cannot be written; the conversation's is then still there.
    pub fn settle(&self) -> io::Result<Settled> {
        let Some(note) = self.note() else { return Ok(Settled::NotLent) };
        let left = Dir::reclaim(&note.config);
        let found = left.as_ref().ok().and_then(|dir| dir.read(LOGIN_FILE, LONGEST_LOGIN).ok().flatten());
        let mut settled = Settled::Kept;
        if let Some(candidate) = found.as_deref().and_then(Login::parse)
            && let Ok(stored) = self.read()
            && stored.digest == note.digest
            && let Some(successor) = stored.login.successor(&candidate)
        {
            replace(&self.dir.join(LOGIN_FILE), successor.bytes())?;
            settled = Settled::Renewed;
        }
        if let Ok(dir) = left {
            dir.remove(LOGIN_FILE)?;
        }
        Dir::open(&self.dir)?.remove(NOTE_FILE)?;
        Ok(settled)
    }
}

/// Removes a login that lies in a conversation and that no note knows of.
///
/// # Errors
/// When it is there and cannot be removed.
pub fn remove_stray(config: &Path) -> io::Result<()> {
    match Dir::reclaim(config) {
        Ok(dir) => dir.remove(LOGIN_FILE),
        // No such directory, or a link that a child put there: neither holds anything of ours.
        Err(_) => Ok(()),
    }
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pool with a login, and a conversation.
    struct Scene {
        dir: tempfile::TempDir,
        place: LoginPlace,
    }

    fn text(access: &str, refresh: &str, expires: u64) -> String {
        format!(
            r#"{{"claudeAiOauth":{{"accessToken":"{access}","refreshToken":"{refresh}","expiresAt":{expires}}}}}"#
        )
    }

    impl Scene {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let place = LoginPlace::new("max", &dir.path().join("pools/max"), &dir.path().join("data"));
            drop(place.try_lock().unwrap().unwrap());
            replace(&place.dir.join(LOGIN_FILE), text("access-1", "refresh-1", 100).as_bytes()).unwrap();
            fs::create_dir(dir.path().join("config")).unwrap();
            Self { dir, place }
        }

        fn config(&self) -> PathBuf {
            self.dir.path().join("config")
        }

        fn lend(&self) {
            self.place.lend(&self.place.read().unwrap(), &self.config(), "adhoc/1/a").unwrap();
        }

        fn in_pool(&self) -> String {
            fs::read_to_string(self.place.dir.join(LOGIN_FILE)).unwrap()
        }

        fn child_writes(&self, text: &str) {
            fs::write(self.config().join(LOGIN_FILE), text).unwrap();
        }
    }

    #[test]
    fn a_login_is_lent_and_a_refreshed_one_comes_back() {
        let scene = Scene::new();
        scene.lend();
        assert!(fs::read_to_string(scene.config().join(LOGIN_FILE)).unwrap().contains("access-1"));
        assert_eq!(scene.place.note().unwrap().reference, "adhoc/1/a");
        scene.child_writes(&text("access-2", "refresh-2", 200));
        assert_eq!(scene.place.settle().unwrap(), Settled::Renewed);
        assert!(scene.in_pool().contains("access-2") && !scene.config().join(LOGIN_FILE).exists());
        assert_eq!((scene.place.note(), scene.place.settle().unwrap()), (None, Settled::NotLent));
    }

    #[test]
    fn nothing_that_a_child_puts_in_the_place_of_its_login_keeps_others_from_theirs() {
        let scene = Scene::new();
        let in_its_place = |what: &dyn Fn(&Path)| {
            scene.lend();
            fs::remove_file(scene.config().join(LOGIN_FILE)).unwrap();
            what(&scene.config().join(LOGIN_FILE));
            assert_eq!(scene.place.settle().unwrap(), Settled::Kept);
            assert_eq!((scene.place.note(), scene.config().join(LOGIN_FILE).exists()), (None, false));
        };
        in_its_place(&|file| fs::create_dir_all(file.join("full")).unwrap());
        in_its_place(&|file| std::os::unix::fs::symlink("/", file).unwrap());
        in_its_place(&|file| File::create(file).unwrap().set_len(10 << 30).unwrap());
        fs::create_dir_all(scene.config().join(LOGIN_FILE).join("full")).unwrap();
        scene.lend();
        fs::set_permissions(scene.config(), std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
        assert_eq!(scene.place.settle().unwrap(), Settled::Kept);
        assert!(!scene.config().join(LOGIN_FILE).exists());
    }

    #[test]
    fn garbage_never_replaces_a_good_login() {
        let scene = Scene::new();
        let before = scene.in_pool();
        for garbage in
            ["", "{", "{}", r#"{"claudeAiOauth":{"accessToken":""}}"#, &text("access-0", "refresh-1", 50)]
        {
            scene.lend();
            scene.child_writes(garbage);
            assert_eq!(scene.place.settle().unwrap(), Settled::Kept);
            assert_eq!(scene.in_pool(), before);
            assert!(!scene.config().join(LOGIN_FILE).exists());
        }
    }

    #[test]
    fn a_link_that_a_child_left_leads_nowhere() {
        let scene = Scene::new();
        let before = scene.in_pool();
        let other = scene.dir.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join(LOGIN_FILE), text("access-9", "refresh-9", 900)).unwrap();
        scene.lend();
        fs::remove_file(scene.config().join(LOGIN_FILE)).unwrap();
        std::os::unix::fs::symlink(other.join(LOGIN_FILE), scene.config().join(LOGIN_FILE)).unwrap();
        assert_eq!(scene.place.settle().unwrap(), Settled::Kept);
        scene.lend();
        fs::remove_dir_all(scene.config()).unwrap();
        std::os::unix::fs::symlink(&other, scene.config()).unwrap();
        assert_eq!(scene.place.settle().unwrap(), Settled::Kept);
        assert!(other.join(LOGIN_FILE).exists(), "nothing of another is removed");
        assert_eq!(scene.in_pool(), before);
    }

    #[test]
    fn who_signed_in_meanwhile_wins() {
        let scene = Scene::new();
        scene.lend();
        let fresh = text("access-new", "refresh-new", 50);
        replace(&scene.place.dir.join(LOGIN_FILE), fresh.as_bytes()).unwrap();
        scene.child_writes(&text("access-2", "refresh-2", 200));
        assert_eq!(scene.place.settle().unwrap(), Settled::Kept);
        assert_eq!(scene.in_pool(), fresh);
    }

    #[test]
    fn one_holder_at_a_time_and_what_is_missing_is_said() {
        let scene = Scene::new();
        let lock = scene.place.try_lock().unwrap().unwrap();
        assert!(scene.place.try_lock().unwrap().is_none());
        // As a process has it that is about to begin.
        let copy = lock.0.try_clone().unwrap();
        drop(lock);
        assert!(scene.place.try_lock().unwrap().is_some());
        drop(copy);
        let file = scene.place.dir.join(LOGIN_FILE);
        fs::write(&file, "{}").unwrap();
        let error = scene.place.read().unwrap_err().to_string();
        assert!(error.ends_with("run orch-agent login --pool max"), "{error}");
        fs::remove_file(file).unwrap();
        let error = scene.place.read().unwrap_err().to_string();
        assert_eq!(error, "nobody is signed in to it: run orch-agent login --pool max on its host");
    }

    #[test]
    fn a_stray_login_is_removed() {
        let scene = Scene::new();
        scene.child_writes("x");
        remove_stray(&scene.config()).unwrap();
        remove_stray(&scene.config()).unwrap();
        remove_stray(Path::new("/nonexistent")).unwrap();
        assert!(!scene.config().join(LOGIN_FILE).exists());
    }
}
