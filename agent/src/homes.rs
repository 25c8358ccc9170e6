//! Directories of conversations and attempts, private to the agent's user.
//!
//! ```text
//! DATA/tasks/RUN-TASK        its time is when the last attempt ended
//!                    /home   HOME of the child; home/.claude is the CLI's configuration
//!                    /work   its working directory; a resumed conversation needs the same one
//!                    /out    what it hands over
//!                    /attempts/N   spec, segments, exit record: outside what the child is shown
//!                    /attempts/N/given   system prompt, settings, tool servers: the child reads them
//! DATA/gone          forgotten conversations whose files are being removed
//! ```
//!
//! A task that follows up another one's conversation has no `home`, `work` and `out` of its own: it works in those of that
//! conversation, and only its `attempts` lie in its own directory, so that the attempts of two tasks never meet.
//!
//! Names are made of numbers the coordinator gave, never of anything a person or a model chose.
//! Knows no process; [`claims`] lets one attempt at a time into a conversation, [`sessions`] says whether the CLI can resume
//! it, [`sweep`] forgets what is old.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW, flock, utimensat};
use rustix::io::Errno;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use self::claims::Claims;

pub mod claims;
pub mod sessions;
pub mod sweep;

/// How long another agent's lock is waited for, and how often it is tried.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A task's conversation: the run's number and the task's index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConversationKey {
    /// Coordinator's number of the run.
    pub run: u64,
    /// Index of the task within the run.
    pub task: u32,
}

impl ConversationKey {
    fn name(self) -> String {
        format!("{}-{}", self.run, self.task)
    }

    fn from_name(name: &str) -> Option<Self> {
        let (run, task) = name.split_once('-')?;
        let key = Self { run: run.parse().ok()?, task: task.parse().ok()? };
        (key.name() == name).then_some(key)
    }
}

/// Why a directory cannot be used.
#[derive(Debug, Error)]
pub enum HomeError {
    /// It cannot be made or read.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something else stands in its place.
    #[error("{} is not a directory of this user", path.display())]
    NotOurs {
        /// Which one.
        path: PathBuf,
    },
    /// Somebody else works in the conversation.
    #[error("the conversation is in use by {by}")]
    InUse {
        /// `name/number/task`.
        by: String,
    },
    /// The conversation to be followed up is not here any more, or never was.
    #[error("this agent no longer keeps that conversation (kept 24 h after its end)")]
    Gone,
    /// Another agent runs on the same data.
    #[error("another agent already uses {}", path.display())]
    Locked {
        /// The data directory.
        path: PathBuf,
    },
}

/// All conversations of an agent.
#[derive(Debug)]
pub struct Homes {
    root: PathBuf,
    claims: Claims,
    /// Held for the agent's life: two agents on one directory would end each other's children.
    _lock: File,
}

/// One conversation's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversation {
    dir: PathBuf,
}

impl Homes {
    /// Takes the data directory for this agent alone, making it when it is missing.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn open(data_dir: &Path) -> Result<Self, HomeError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir)
            .map_err(|source| HomeError::Io { path: data_dir.to_owned(), source })?;
        let lock_file = data_dir.join("agent.lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_file)
            .map_err(|source| HomeError::Io { path: lock_file, source })?;
        take_lock(&lock).map_err(|_| HomeError::Locked { path: data_dir.to_owned() })?;
        let root = data_dir.join("tasks");
        private_dir(&root)?;
        Ok(Self { root, claims: Claims::new(), _lock: lock })
    }

    /// The directories of a conversation with the CLI, made when they are missing.
    ///
    /// # Errors
    /// See [`HomeError`]. A symbolic link or another user's directory in their place is refused.
    pub fn conversation(&self, key: ConversationKey) -> Result<Conversation, HomeError> {
        let conversation = self.workplace(key)?;
        private_dir(&conversation.config())?;
        Ok(conversation)
    }

    /// The same for a program that is not the CLI, and has no configuration of it.
    ///
    /// # Errors
    /// As [`Self::conversation`].
    pub fn workplace(&self, key: ConversationKey) -> Result<Conversation, HomeError> {
        let conversation = Conversation { dir: self.root.join(key.name()) };
        let dirs = [
            conversation.dir.clone(),
            conversation.home(),
            conversation.tmp(),
            conversation.work(),
            conversation.out(),
            conversation.dir.join("attempts"),
        ];
        for dir in &dirs {
            private_dir(dir)?;
        }
        Ok(conversation)
    }

    /// The directories of a conversation that is to be followed up, as they were left.
    ///
    /// # Errors
    /// [`HomeError::Gone`] when there is none; else as [`Self::conversation`].
    pub fn kept_conversation(&self, key: ConversationKey) -> Result<Conversation, HomeError> {
        let conversation = Conversation { dir: self.dir(key) };
        // The directory of a task that itself followed up another conversation has no home.
        if fs::symlink_metadata(conversation.home()).is_err() {
            return Err(HomeError::Gone);
        }
        self.conversation(key)
    }

    /// The directory of an attempt, empty, in the directory of its own task. What a start that never got far left there
    /// is removed; the caller has made sure that nothing of it runs.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn fresh_attempt(&self, task: ConversationKey, attempt: u32) -> Result<PathBuf, HomeError> {
        let own = Conversation { dir: self.dir(task) };
        private_dir(&own.dir)?;
        private_dir(&own.dir.join("attempts"))?;
        own.fresh_attempt(attempt)
    }

    /// Empties the given directories of a conversation, however much is in them: what was there goes where forgotten
    /// conversations go, and its disk space comes back with [`Self::empty_bin`]. Nothing runs in them.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn start_afresh(&self, dirs: &[PathBuf]) -> Result<(), HomeError> {
        for dir in dirs {
            let io = |source| HomeError::Io { path: dir.clone(), source };
            if fs::read_dir(dir).map_err(io)?.next().is_some() {
                self.throw_away(dir).map_err(io)?;
                private_dir(dir)?;
            }
        }
        Ok(())
    }

    /// The conversations that are kept, in ascending order.
    ///
    /// # Errors
    /// When the directory cannot be listed.
    pub fn kept(&self) -> io::Result<Vec<ConversationKey>> {
        kept(&self.root)
    }

    /// Notes that the last attempt of a conversation has ended now.
    ///
    /// # Errors
    /// When the note cannot be written.
    pub fn note_end(&self, key: ConversationKey) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        Ok(utimensat(CWD, self.root.join(key.name()), &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// The directory of an attempt, whether it exists or not.
    #[must_use]
    pub fn attempt_dir(&self, key: ConversationKey, attempt: u32) -> PathBuf {
        Conversation { dir: self.dir(key) }.attempt(attempt)
    }

    /// The CLI's configuration directory of a conversation, whether it exists or not.
    #[must_use]
    pub fn config_dir(&self, key: ConversationKey) -> PathBuf {
        Conversation { dir: self.dir(key) }.config()
    }

    /// The attempts that have a directory, in ascending order. What cannot be listed is left out.
    #[must_use]
    pub fn attempts(&self) -> Vec<(ConversationKey, u32)> {
        let mut found = Vec::new();
        for key in self.kept().unwrap_or_default() {
            let dirs = fs::read_dir(self.dir(key).join("attempts")).into_iter().flatten().flatten();
            let mut numbers: Vec<u32> =
                dirs.filter_map(|dir| dir.file_name().to_str()?.parse().ok()).collect();
            numbers.sort_unstable();
            found.extend(numbers.into_iter().map(|number| (key, number)));
        }
        found
    }

    fn dir(&self, key: ConversationKey) -> PathBuf {
        self.root.join(key.name())
    }
}

impl Conversation {
    /// `HOME` of the child.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// Configuration and session files of the CLI.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("home/.claude")
    }

    /// Temporary files of the child.
    #[must_use]
    pub fn tmp(&self) -> PathBuf {
        self.dir.join("home/tmp")
    }

    /// Working directory of the child.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// What the child hands over.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// The directory of an attempt, empty. What a start that never got far left there is removed; the caller
    /// has made sure that nothing of it runs.
    ///
    /// # Errors
    /// See [`HomeError`].
    pub fn fresh_attempt(&self, attempt: u32) -> Result<PathBuf, HomeError> {
        let dir = self.attempt(attempt);
        match fs::remove_dir_all(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(HomeError::Io { path: dir, source }),
        }
        private_dir(&dir)?;
        Ok(dir)
    }

    /// The directory of an attempt.
    #[must_use]
    pub fn attempt(&self, attempt: u32) -> PathBuf {
        self.dir.join("attempts").join(attempt.to_string())
    }
}

/// The conversations in `root`, in ascending order.
fn kept(root: &Path) -> io::Result<Vec<ConversationKey>> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(root)? {
        kept.extend(entry?.file_name().to_str().and_then(ConversationKey::from_name));
    }
    kept.sort_unstable();
    Ok(kept)
}

/// Locks for this process alone. A former agent that was just killed may have left a child between its birth and its
/// program, which holds the lock a moment longer.
fn take_lock(lock: &File) -> rustix::io::Result<()> {
    let began = Instant::now();
    loop {
        match flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) if began.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_PAUSE),
            done => return done,
        }
    }
}

/// Makes a directory that only this user may enter, or checks that it is one.
///
/// # Errors
/// See [`HomeError`].
pub fn private_dir(path: &Path) -> Result<(), HomeError> {
    let io = |source| HomeError::Io { path: path.to_owned(), source };
    match DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(io(source)),
    }
    let found = fs::symlink_metadata(path).map_err(io)?;
    if !found.is_dir() || found.uid() != geteuid().as_raw() {
        return Err(HomeError::NotOurs { path: path.to_owned() });
    }
    if found.permissions().mode() & 0o7777 != 0o700 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ConversationKey = ConversationKey { run: 129, task: 3 };

    fn homes() -> (tempfile::TempDir, Homes) {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(&dir.path().join("data")).unwrap();
        (dir, homes)
    }

    #[test]
    fn every_directory_is_private_and_named_by_numbers() {
        let (dir, homes) = homes();
        let conversation = homes.conversation(KEY).unwrap();
        let attempt = conversation.fresh_attempt(2).unwrap();
        assert_eq!(attempt, dir.path().join("data/tasks/129-3/attempts/2"));
        assert_eq!((homes.attempt_dir(KEY, 2), homes.attempts()), (attempt.clone(), vec![(KEY, 2)]));
        for path in [&attempt, &conversation.home(), &conversation.work(), &conversation.config()] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700, "{}", path.display());
        }
        assert_eq!(homes.kept().unwrap(), [KEY]);
    }

    #[test]
    fn a_conversation_is_found_again_with_what_it_held_and_closed_to_others() {
        let (_dir, homes) = homes();
        let conversation = homes.conversation(KEY).unwrap();
        fs::write(conversation.work().join("note"), "x").unwrap();
        fs::set_permissions(conversation.work(), Permissions::from_mode(0o755)).unwrap();
        let again = homes.conversation(KEY).unwrap();
        assert_eq!(fs::read(again.work().join("note")).unwrap(), b"x");
        assert_eq!(fs::metadata(again.work()).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_link_or_a_file_in_the_place_of_a_directory_is_refused() {
        let (dir, homes) = homes();
        let conversation = homes.conversation(KEY).unwrap();
        fs::remove_dir(conversation.work()).unwrap();
        std::os::unix::fs::symlink(dir.path(), conversation.work()).unwrap();
        assert!(matches!(homes.conversation(KEY), Err(HomeError::NotOurs { .. })));
        fs::remove_file(conversation.work()).unwrap();
        fs::write(conversation.work(), "").unwrap();
        assert!(matches!(homes.conversation(KEY), Err(HomeError::NotOurs { .. })));
    }

    #[test]
    fn a_conversation_to_be_followed_up_must_be_there_and_is_left_as_it_is() {
        let (dir, homes) = homes();
        assert!(matches!(homes.kept_conversation(KEY), Err(HomeError::Gone)));
        let follow_up = ConversationKey { run: 130, task: 0 };
        let attempt = homes.fresh_attempt(follow_up, 1).unwrap();
        assert_eq!(attempt, dir.path().join("data/tasks/130-0/attempts/1"));
        assert!(matches!(homes.kept_conversation(follow_up), Err(HomeError::Gone)), "it has only attempts");
        fs::write(homes.conversation(KEY).unwrap().work().join("note"), "x").unwrap();
        assert!(homes.kept_conversation(KEY).unwrap().work().join("note").exists());
    }

    #[test]
    fn what_starts_afresh_is_empty_also_after_a_tree_nobody_may_enter() {
        let (_dir, homes) = homes();
        let conversation = homes.conversation(KEY).unwrap();
        let locked = conversation.work().join("locked");
        fs::create_dir(&locked).unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        fs::write(conversation.home().join("kept"), "x").unwrap();
        homes.start_afresh(&[conversation.work(), conversation.out()]).unwrap();
        assert_eq!(fs::read_dir(conversation.work()).unwrap().count(), 0);
        assert!(conversation.home().join("kept").exists());
        assert_eq!(homes.empty_bin(), Vec::<String>::new());
    }

    #[test]
    fn an_attempt_starts_empty() {
        let (_dir, homes) = homes();
        let conversation = homes.conversation(KEY).unwrap();
        let attempt = conversation.fresh_attempt(1).unwrap();
        fs::write(attempt.join("exit.json"), "{}").unwrap();
        assert_eq!(fs::read_dir(conversation.fresh_attempt(1).unwrap()).unwrap().count(), 0);
    }

    #[test]
    fn one_data_directory_serves_one_agent() {
        let (dir, homes) = homes();
        let error = Homes::open(&dir.path().join("data")).unwrap_err();
        assert!(error.to_string().starts_with("another agent already uses "), "{error}");
        drop(homes);
        Homes::open(&dir.path().join("data")).unwrap();
    }

    #[test]
    fn a_session_is_known_by_its_file() {
        let (_dir, homes) = homes();
        let conversation = homes.conversation(KEY).unwrap();
        let project = conversation.config().join("projects/-data-work");
        assert!(!conversation.has_session("5a5a").unwrap());
        fs::create_dir_all(&project).unwrap();
        fs::write(project.join("5a5a.jsonl"), "{\"type\":\"user\"}\n").unwrap();
        assert!(conversation.has_session("5a5a").unwrap() && !conversation.has_session("5b5b").unwrap());
    }

    #[test]
    fn only_names_we_made_are_conversations() {
        assert_eq!(ConversationKey::from_name("129-3"), Some(KEY));
        for name in ["129", "-3", "129-", "0129-3", "+1-2", "a-b", "1-2-3", "../x"] {
            assert_eq!(ConversationKey::from_name(name), None, "{name}");
        }
    }
}
