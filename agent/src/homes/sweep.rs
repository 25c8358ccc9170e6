//! Forgetting conversations: those that ended long ago, and the oldest when all together are too big.
//! Never touches one in use. Follows no symbolic link.
//!
//! Three steps, so that whoever starts attempts can be sure of what is there without waiting for a disk: a slow look
//! that says what could go, a rename for each that takes it away at once, and the slow removal of what was taken away.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::claims::Claims;
use super::{ConversationKey, Homes, private_dir};

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// How long after the end of its last attempt a conversation is kept.
    pub age: Duration,
    /// How many bytes of disk all conversations may take, those in use included.
    pub bytes: u64,
}

impl Default for Keep {
    fn default() -> Self {
        Self { age: Duration::from_secs(24 * 3_600), bytes: 20 * 1024 * 1024 * 1024 }
    }
}

/// The slow steps, for whoever does them beside the agent's loop: it does not hold the data directory for this agent, so
/// none of them keeps a later agent from it.
#[derive(Debug, Clone)]
pub struct Sweeper {
    root: PathBuf,
    claims: Claims,
}

impl Sweeper {
    /// What need not be kept at `now`: ended too long ago, then the oldest until the rest is small enough. Those in
    /// use are not among them. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// When the conversations cannot be listed.
    pub fn outdated(
        &self,
        now: SystemTime,
        keep: Keep,
        in_use: &BTreeSet<ConversationKey>,
    ) -> io::Result<Vec<ConversationKey>> {
        let mut total: u64 = 0;
        let mut idle = Vec::new();
        for key in super::kept(&self.root)? {
            let bytes = disk_usage(&self.root.join(key.name()));
            total = total.saturating_add(bytes);
            if !in_use.contains(&key) && !self.claims.holds(key) {
                idle.push((self.ended(key), key, bytes));
            }
        }
        idle.sort_unstable();
        let mut outdated = Vec::new();
        for (ended, key, bytes) in idle {
            // An end that lies ahead of a clock that was set back is no age.
            let old = now.duration_since(ended).is_ok_and(|age| age >= keep.age);
            if old || total > keep.bytes {
                outdated.push(key);
                total = total.saturating_sub(bytes);
            }
        }
        Ok(outdated)
    }

    /// Removes the files of forgotten conversations and says what could not be removed. Blocks as long as the disk
    /// takes.
    #[must_use]
    pub fn empty_bin(&self) -> Vec<String> {
        let mut trouble = Vec::new();
        for entry in fs::read_dir(bin(&self.root)).into_iter().flatten().flatten() {
            if let Err(error) = remove_tree(&entry.path()) {
                trouble.push(format!("{}: {error}", entry.path().display()));
            }
        }
        trouble
    }

    /// When the last attempt ended: the directory was changed then. An agent of an earlier version noted it in a file.
    fn ended(&self, key: ConversationKey) -> SystemTime {
        let changed = |path: &Path| fs::symlink_metadata(path).and_then(|found| found.modified()).ok();
        let dir = self.root.join(key.name());
        changed(&dir).max(changed(&dir.join("ended"))).unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl Homes {
    /// What looks for old conversations and removes forgotten ones.
    #[must_use]
    pub fn sweeper(&self) -> Sweeper {
        Sweeper { root: self.root.clone(), claims: self.claims.clone() }
    }

    /// See [`Sweeper::outdated`].
    ///
    /// # Errors
    /// When the conversations cannot be listed.
    pub fn outdated(
        &self,
        now: SystemTime,
        keep: Keep,
        in_use: &BTreeSet<ConversationKey>,
    ) -> io::Result<Vec<ConversationKey>> {
        self.sweeper().outdated(now, keep, in_use)
    }

    /// Takes a conversation away, at once. Its disk space comes back with [`Self::empty_bin`].
    ///
    /// # Errors
    /// When it cannot be renamed, or an attempt works in it, which may be one of a task that follows it up; it is then
    /// as it was.
    pub fn forget(&self, key: ConversationKey) -> io::Result<()> {
        self.claims.unless_held(key, || self.throw_away(&self.dir(key))).map_err(io::Error::other)?
    }

    /// Puts a directory into the bin, at once.
    pub(super) fn throw_away(&self, dir: &Path) -> io::Result<()> {
        let bin = bin(&self.root);
        private_dir(&bin).map_err(io::Error::other)?;
        // In one step: whoever empties the bin beside this would remove a place that waits for what is thrown away.
        let place = tempfile::Builder::new().prefix("gone").make_in(&bin, |place| fs::rename(dir, place))?;
        // From here on it belongs to the bin.
        place.keep().map(drop).map_err(|error| error.error)
    }

    /// See [`Sweeper::empty_bin`].
    #[must_use]
    pub fn empty_bin(&self) -> Vec<String> {
        self.sweeper().empty_bin()
    }
}

/// Where forgotten conversations go.
fn bin(root: &Path) -> PathBuf {
    root.with_file_name("gone")
}

/// Disk space of everything below `root`, in bytes. What cannot be read counts nothing.
#[must_use]
pub fn disk_usage(root: &Path) -> u64 {
    let mut bytes: u64 = 0;
    let mut open = vec![root.to_owned()];
    while let Some(path) = open.pop() {
        let Ok(found) = fs::symlink_metadata(&path) else { continue };
        bytes = bytes.saturating_add(found.blocks().saturating_mul(512));
        if found.is_dir() {
            open.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
    }
    bytes
}

/// Removes a tree, also where a child took the rights off its own directories. What lies in a directory is raised into the
/// root before the directory goes: a child can nest deeper than a path, a stack or a table of open files can follow.
/// Nothing of it runs any more.
pub(crate) fn remove_tree(root: &Path) -> io::Result<()> {
    let mut raised: u64 = 0;
    fs::set_permissions(root, Permissions::from_mode(0o700))?;
    while fs::read_dir(root)?.next().is_some() {
        for entry in fs::read_dir(root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                remove_level(&entry.path(), || free_name(root, &mut raised))?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    fs::remove_dir(root)
}

/// Removes a directory; those in it get new names.
fn remove_level(dir: &Path, mut name: impl FnMut() -> PathBuf) -> io::Result<()> {
    fs::set_permissions(dir, Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            // One that its owner may not write cannot be given another parent.
            fs::set_permissions(entry.path(), Permissions::from_mode(0o700))?;
            fs::rename(entry.path(), name())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// A name in `root` that is free.
fn free_name(root: &Path, raised: &mut u64) -> PathBuf {
    loop {
        *raised += 1;
        let place = root.join(format!("raised-{raised}"));
        if fs::symlink_metadata(&place).is_err() {
            return place;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn key(task: u32) -> ConversationKey {
        ConversationKey { run: 1, task }
    }

    /// Conversation `task` ended `task` hours ago and holds `bytes`.
    fn ended(homes: &Homes, task: u32, bytes: usize, now: SystemTime) {
        let conversation = homes.conversation(key(task)).unwrap();
        fs::write(conversation.work().join("data"), vec![1; bytes]).unwrap();
        homes.note_end(key(task)).unwrap();
        fs::File::open(homes.dir(key(task))).unwrap().set_modified(now - HOUR * task).unwrap();
    }

    /// Seen as conversations of another cluster that stayed.
    #[test]
    fn what_is_thrown_away_goes_also_while_the_bin_is_emptied() {
        let (_dir, homes, _) = homes();
        let sweeper = homes.sweeper();
        let is_done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(sweeper.empty_bin(), [""; 0]);
                }
            });
            let forget = || {
                for task in 0..500 {
                    homes.conversation(key(task)).map_err(io::Error::other)?;
                    homes.forget(key(task))?;
                }
                io::Result::Ok(())
            };
            let forgotten = forget();
            is_done.store(true, std::sync::atomic::Ordering::Relaxed);
            forgotten.unwrap();
        });
    }

    fn homes() -> (tempfile::TempDir, Homes, SystemTime) {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        (dir, homes, SystemTime::now())
    }

    /// All three steps.
    fn sweep(
        homes: &Homes,
        now: SystemTime,
        keep: Keep,
        in_use: &BTreeSet<ConversationKey>,
    ) -> Vec<ConversationKey> {
        let outdated = homes.outdated(now, keep, in_use).unwrap();
        for key in &outdated {
            homes.forget(*key).unwrap();
        }
        assert_eq!(homes.empty_bin(), Vec::<String>::new());
        assert_eq!(fs::read_dir(bin(&homes.root)).into_iter().flatten().count(), 0, "the bin is empty");
        outdated
    }

    #[test]
    fn old_conversations_go_and_those_in_use_stay() {
        let (_dir, homes, now) = homes();
        for task in [1, 25, 30] {
            ended(&homes, task, 10, now);
        }
        let gone = sweep(&homes, now, Keep::default(), &BTreeSet::from([key(30)]));
        assert_eq!(gone, [key(25)]);
        assert_eq!(homes.kept().unwrap(), [key(1), key(30)]);
    }

    #[test]
    fn over_the_cap_the_oldest_go_first() {
        let (_dir, homes, now) = homes();
        for task in [1, 2, 3] {
            ended(&homes, task, 1_000_000, now);
        }
        let keep = Keep { age: 24 * HOUR, bytes: 2_500_000 };
        assert_eq!(sweep(&homes, now, keep, &BTreeSet::new()), [key(3)]);
        assert_eq!(sweep(&homes, now, keep, &BTreeSet::new()), []);
    }

    #[test]
    fn a_forgotten_conversation_is_gone_at_once_and_begins_anew() {
        let (_dir, homes, now) = homes();
        for _ in 0..2 {
            ended(&homes, 1, 10, now);
            homes.forget(key(1)).unwrap();
            assert_eq!(homes.kept().unwrap(), []);
        }
        assert!(!homes.conversation(key(1)).unwrap().work().join("data").exists());
        assert_eq!(homes.empty_bin(), Vec::<String>::new());
        assert_eq!(homes.kept().unwrap(), [key(1)]);
        assert!(homes.forget(key(2)).is_err(), "there is no such conversation");
    }

    #[test]
    fn a_link_is_removed_and_not_followed() {
        let (dir, homes, now) = homes();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), vec![1; 100_000]).unwrap();
        ended(&homes, 30, 10, now);
        std::os::unix::fs::symlink(&outside, homes.dir(key(30)).join("work/link")).unwrap();
        assert!(disk_usage(&homes.dir(key(30))) < 100_000);
        assert_eq!(sweep(&homes, now, Keep::default(), &BTreeSet::new()), [key(30)]);
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn a_directory_without_rights_is_removed_all_the_same() {
        let (_dir, homes, now) = homes();
        ended(&homes, 30, 10, now);
        let locked = homes.dir(key(30)).join("work/locked");
        fs::create_dir(&locked).unwrap();
        fs::write(locked.join("x"), "").unwrap();
        fs::set_permissions(&locked, Permissions::from_mode(0o000)).unwrap();
        assert_eq!(sweep(&homes, now, Keep::default(), &BTreeSet::new()), [key(30)]);
    }

    #[test]
    fn directories_nested_deeper_than_paths_reach_are_removed() {
        let (_dir, homes, now) = homes();
        ended(&homes, 30, 10, now);
        // From the innermost outwards, because nothing can name it from the root.
        let work = homes.dir(key(30)).join("work");
        fs::create_dir(work.join("d")).unwrap();
        for _ in 0..5_000 {
            fs::create_dir(work.join("new")).unwrap();
            fs::rename(work.join("d"), work.join("new/d")).unwrap();
            fs::rename(work.join("new"), work.join("d")).unwrap();
        }
        assert_eq!(sweep(&homes, now, Keep::default(), &BTreeSet::new()), [key(30)]);
    }

    #[test]
    fn a_clock_that_was_set_back_removes_nothing() {
        let (_dir, homes, now) = homes();
        ended(&homes, 1, 10, now);
        assert_eq!(sweep(&homes, now - 1_000 * HOUR, Keep::default(), &BTreeSet::new()), []);
    }
}
