//! The folders of the bridge: which task files are there, where results go, and how files change places so that whoever
//! looks sees the old or the new and nothing in between. Knows no task and no coordinator.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, OFlags, flock};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::taskfile::MAX_BYTES;
use crate::args::bridge::BridgeArgs;
use crate::exit;
use crate::failure::{Failure, Outcome};

/// A file younger than this may still be written: what cannot be read of it is no mistake yet.
const YOUNG: Duration = Duration::from_secs(2);

/// Longest result that another task is given.
const MAX_RESULT: u64 = 64 << 20;

/// Task files looked at in one round; the rest waits for the next.
const MAX_FILES: usize = 10_000;

/// Folders of a worker that hold no task files.
const OWN_FOLDERS: [&str; 2] = ["done", "bad"];

/// The folders of one bridge.
#[derive(Debug)]
pub(super) struct Folders {
    tasks: PathBuf,
    results: PathBuf,
    suffix: String,
    keep: bool,
    known: BTreeMap<PathBuf, Found>,
    /// Held for as long as this bridge works: one folder, one bridge.
    _lock: File,
}

/// A task file that is there.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) worker: String,
    /// Name without `.json`.
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    pub(super) bytes: Arc<[u8]>,
    /// Somebody may still be writing it.
    pub(super) is_young: bool,
    /// It is longer than a task can be, and was not read.
    pub(super) is_too_large: bool,
}

/// What makes a file this file and no other: the same name dropped again later is another task.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Identity([u8; 32]);

/// A result that was written earlier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Earlier {
    pub(super) is_complete: bool,
    /// What the worker said.
    pub(super) text: String,
}

impl Identity {
    fn of(worker: &str, name: &str, meta: &Metadata, bytes: &[u8]) -> Self {
        let mut digest = Sha256::new_with_prefix(b"orch bridge\0");
        for part in [worker.as_bytes(), &[0], name.as_bytes(), &[0]] {
            digest.update(part);
        }
        for number in [meta.dev(), meta.ino(), meta.size()] {
            digest.update(number.to_be_bytes());
        }
        digest.update(meta.mtime().to_be_bytes());
        digest.update(meta.mtime_nsec().to_be_bytes());
        digest.update(bytes);
        Self(digest.finalize().into())
    }

    /// The idempotency key under which the file is submitted, however often.
    pub(super) fn request_id(&self) -> String {
        let hex: String = self.0.iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        format!("bridge-{hex}")
    }
}

impl Found {
    /// A name that a task may have.
    pub(super) fn task_id(&self) -> String {
        let fits = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        let id: String = self.name.chars().map(fits).take(62).collect();
        if id.starts_with(|c: char| c.is_ascii_alphanumeric()) { id } else { format!("t{id}") }
    }

    /// For people.
    pub(super) fn shown(&self) -> String {
        format!("{}/{}.json", self.worker, self.name)
    }
}

impl Folders {
    /// The folders that the flags name; that of results is made.
    pub(super) fn open(args: &BridgeArgs) -> Outcome<Self> {
        if !args.tasks.is_dir() {
            return Err(Failure::usage(format!("there is no folder {}", args.tasks.display())));
        }
        if args.suffix.contains(['/', '\0']) {
            return Err(Failure::usage("--suffix must not contain a slash"));
        }
        fs::create_dir_all(&args.results).map_err(|error| cannot("make", &args.results, &error))?;
        let lock = File::open(&args.tasks).map_err(|error| cannot("read", &args.tasks, &error))?;
        // A file system without locks is one on which nobody else can be seen.
        if let Err(rustix::io::Errno::WOULDBLOCK) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let message = format!("another bridge is at work on {}", args.tasks.display());
            return Err(Failure::new(exit::CONFLICT, message)
                .help("end it first; it takes up its work at the next start"));
        }
        Ok(Self {
            tasks: args.tasks.clone(),
            results: args.results.clone(),
            suffix: args.suffix.clone(),
            keep: args.keep,
            known: BTreeMap::new(),
            _lock: lock,
        })
    }

    /// Every task file, by worker and name. What is no ordinary file, and what begins with a dot, is left alone.
    pub(super) fn scan(&mut self) -> Outcome<Vec<Found>> {
        let mut now = BTreeMap::new();
        for worker in names(&self.tasks, true).map_err(|error| cannot("read", &self.tasks, &error))? {
            let dir = self.tasks.join(&worker);
            // A folder may go while it is read.
            for file in names(&dir, false).unwrap_or_default() {
                let Some(name) = file.strip_suffix(".json").filter(|name| !name.is_empty()) else { continue };
                if now.len() >= MAX_FILES {
                    break;
                }
                if let Some(found) = self.look(&worker, name, &dir.join(&file)) {
                    now.insert(found.path.clone(), found);
                }
            }
        }
        self.known = now;
        Ok(self.known.values().cloned().collect())
    }

    /// The file at `path`, read only when it is not the one read before. `None` when it is gone or cannot be read now.
    fn look(&self, worker: &str, name: &str, path: &Path) -> Option<Found> {
        let mut file = OpenOptions::new().read(true).custom_flags(PLAIN).open(path).ok()?;
        let meta = file.metadata().ok().filter(Metadata::is_file)?;
        let age = meta.modified().ok().and_then(|time| SystemTime::now().duration_since(time).ok());
        let is_young = age.is_some_and(|age| age < YOUNG);
        let mut bytes = Vec::new();
        if let Some(known) = self.known.get(path)
            && known.identity == Identity::of(worker, name, &meta, &known.bytes)
        {
            return Some(Found { is_young, ..known.clone() });
        }
        if meta.len() <= MAX_BYTES {
            (&mut file).take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
        }
        Some(Found {
            worker: worker.to_owned(),
            name: name.to_owned(),
            path: path.to_owned(),
            identity: Identity::of(worker, name, &meta, &bytes),
            bytes: bytes.into(),
            is_young,
            is_too_large: meta.len() > MAX_BYTES,
        })
    }

    /// The result of the task file of this name, whichever worker did it.
    pub(super) fn result_of(&self, name: &str) -> Outcome<Option<Earlier>> {
        let file = format!("{name}{}.json", self.suffix);
        if file.contains('/') {
            return Ok(None);
        }
        let workers = names(&self.results, true).map_err(|error| cannot("read", &self.results, &error))?;
        for worker in workers {
            let Some(text) = plain_text(&self.results.join(worker).join(&file)) else { continue };
            let Ok(value) = serde_json::from_str::<Value>(&text) else { continue };
            return Ok(Some(Earlier {
                is_complete: value["status"] == "complete",
                text: value["result"].as_str().unwrap_or_default().to_owned(),
            }));
        }
        Ok(None)
    }

    /// Where the files of a result are gathered before anybody sees them.
    pub(super) fn prepare_artifacts(&self, found: &Found) -> Outcome<Gathered> {
        let dir = self.results.join(&found.worker);
        fs::create_dir_all(&dir).map_err(|error| cannot("make", &dir, &error))?;
        let gathered = dir.join(format!(".{}.files.new", found.name));
        remove_dir(&gathered)?;
        fs::create_dir(&gathered).map_err(|error| cannot("make", &gathered, &error))?;
        let place = dir.join(format!("{}{}.files", found.name, self.suffix));
        Ok(Gathered { gathered, place, paths: Vec::new() })
    }

    /// Writes a result as a whole, durably.
    pub(super) fn write_result(&self, found: &Found, result: &Value) -> Outcome<()> {
        let dir = self.results.join(&found.worker);
        let path = dir.join(format!("{}{}.json", found.name, self.suffix));
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .prefix(".orch-")
                .permissions(PermissionsExt::from_mode(0o644))
                .tempfile_in(&dir)?;
            file.write_all(format!("{result:#}\n").as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            File::open(&dir)?.sync_all()
        };
        write().map_err(|error| cannot("write", &path, &error))
    }

    /// The task file is done with, unless it is another one by now.
    pub(super) fn retire(&mut self, found: &Found) -> Outcome<()> {
        if self.look(&found.worker, &found.name, &found.path).is_none_or(|now| now.identity != found.identity)
        {
            return Ok(());
        }
        if self.keep {
            return self.move_beside(found, "done").map(drop);
        }
        match fs::remove_file(&found.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(cannot("remove", &found.path, &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Moves a file that cannot be used out of the way, with the reason beside it.
    pub(super) fn put_aside(&self, found: &Found, why: &str) -> Outcome<()> {
        let path = self.move_beside(found, "bad")?;
        let mut beside = path.into_os_string();
        beside.push(".error");
        fs::write(&beside, format!("{why}\n")).map_err(|error| cannot("write", Path::new(&beside), &error))
    }

    /// Moves a task file to the same place beneath `dir`.
    pub(super) fn export(&self, found: &Found, dir: &Path) -> Outcome<()> {
        let to = dir.join(&found.worker);
        fs::create_dir_all(&to).map_err(|error| cannot("make", &to, &error))?;
        let to = to.join(format!("{}.json", found.name));
        let stays =
            fs::canonicalize(&found.path).is_ok_and(|path| fs::canonicalize(&to).is_ok_and(|to| to == path));
        if !stays && fs::read(&to).is_ok_and(|there| *there != *found.bytes) {
            let message = format!("{} is there already, and says something else", to.display());
            return Err(Failure::new(exit::CONFLICT, message).help("name an empty folder with --export"));
        }
        // A copy that is whole before the other goes. Where it stays it becomes a file of its own all the same: a bridge
        // that starts later takes it for new, not for what was cancelled.
        let write = || -> io::Result<()> {
            let mut file = tempfile::Builder::new()
                .prefix(".orch-")
                .permissions(PermissionsExt::from_mode(0o644))
                .tempfile_in(to.parent().unwrap_or(dir))?;
            file.write_all(&found.bytes)?;
            file.as_file().sync_all()?;
            file.persist(&to).map_err(|error| error.error)?;
            if stays { Ok(()) } else { fs::remove_file(&found.path) }
        };
        write().map_err(|error| cannot("write", &to, &error))
    }

    fn move_beside(&self, found: &Found, folder: &str) -> Outcome<PathBuf> {
        let dir = self.tasks.join(&found.worker).join(folder);
        fs::create_dir_all(&dir).map_err(|error| cannot("make", &dir, &error))?;
        let path = dir.join(format!("{}.json", found.name));
        match fs::rename(&found.path, &path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("move", &found.path, &error)),
            Ok(()) | Err(_) => Ok(path),
        }
    }
}

/// Files of a result, gathered where nobody looks.
#[derive(Debug)]
pub(super) struct Gathered {
    gathered: PathBuf,
    place: PathBuf,
    paths: Vec<String>,
}

impl Gathered {
    /// A new file. The path is somebody else's word: it stays beneath the folder or is refused.
    pub(super) fn create(&mut self, path: &str) -> Outcome<File> {
        let plain =
            !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(Failure::new(exit::FAILED, format!("a file of the task has the path {path:?}")));
        }
        let to = self.gathered.join(path);
        let make = || -> io::Result<File> {
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            OpenOptions::new().write(true).create_new(true).open(&to)
        };
        let file = make().map_err(|error| cannot("write", &to, &error))?;
        self.paths.push(path.to_owned());
        Ok(file)
    }

    /// Puts the folder in its place; without files there is none.
    pub(super) fn publish(&self) -> Outcome<()> {
        remove_dir(&self.place)?;
        if self.paths.is_empty() {
            return remove_dir(&self.gathered);
        }
        fs::rename(&self.gathered, &self.place).map_err(|error| cannot("move", &self.gathered, &error))
    }

    /// The paths as the result names them, beneath the folder of its worker.
    pub(super) fn shown(&self) -> Vec<String> {
        let folder =
            self.place.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        self.paths.iter().map(|path| format!("{folder}/{path}")).collect()
    }
}

/// The text of an ordinary file of bearable length.
fn plain_text(path: &Path) -> Option<String> {
    let file = OpenOptions::new().read(true).custom_flags(PLAIN).open(path).ok()?;
    file.metadata().ok().filter(|meta| meta.is_file() && meta.len() <= MAX_RESULT)?;
    let mut text = String::new();
    file.take(MAX_RESULT).read_to_string(&mut text).ok()?;
    Some(text)
}

/// A link is not followed, a FIFO is not waited for.
const PLAIN: i32 = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).bits().cast_signed();

/// Names in a folder: of folders, or of ordinary files. Hidden ones are somebody's work in progress.
fn names(dir: &Path, folders: bool) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let wanted = if folders { kind.is_dir() } else { kind.is_file() };
        let Ok(name) = entry.file_name().into_string() else { continue };
        if wanted && !name.starts_with('.') && !(folders && OWN_FOLDERS.contains(&name.as_str())) {
            found.push(name);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn remove_dir(dir: &Path) -> Outcome<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", dir, &error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::new(exit::FAILED, format!("cannot {what} {}", path.display())).cause(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(dir: &Path, keep: bool) -> Folders {
        let args = BridgeArgs {
            tasks: dir.join("tasks"),
            results: dir.join("results"),
            suffix: "-result".into(),
            keep,
            once: true,
            export: None,
            interval: Duration::from_millis(50),
        };
        fs::create_dir_all(args.tasks.join("marie")).unwrap();
        Folders::open(&args).unwrap()
    }

    #[test]
    fn only_ordinary_files_of_workers_count_and_a_file_dropped_again_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = folders(dir.path(), false);
        let marie = dir.path().join("tasks/marie");
        fs::write(marie.join("a.json"), "{}").unwrap();
        fs::write(marie.join(".hidden.json"), "{}").unwrap();
        fs::write(marie.join("a.txt"), "{}").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", marie.join("link.json")).unwrap();
        fs::create_dir_all(marie.join("bad")).unwrap();
        let found = folders.scan().unwrap();
        assert_eq!(found.iter().map(Found::shown).collect::<Vec<_>>(), ["marie/a.json"]);
        let first = found[0].clone();
        assert_eq!(folders.scan().unwrap()[0].identity, first.identity);
        folders.retire(&first).unwrap();
        assert!(folders.scan().unwrap().is_empty());
        fs::write(marie.join("other"), "").unwrap();
        fs::write(marie.join("a.json"), "{} ").unwrap();
        assert_ne!(folders.scan().unwrap()[0].identity, first.identity);
        // It is not the file that was done with.
        folders.retire(&first).unwrap();
        assert_eq!(folders.scan().unwrap().len(), 1);
    }

    #[test]
    fn results_and_their_files_appear_whole_and_hostile_paths_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = folders(dir.path(), true);
        fs::write(dir.path().join("tasks/marie/a.json"), "{}").unwrap();
        let found = folders.scan().unwrap().remove(0);
        let mut files = folders.prepare_artifacts(&found).unwrap();
        for path in ["../x", "/etc/x", "", "a/../../x", "./x"] {
            assert!(files.create(path).is_err(), "{path}");
        }
        files.create("deep/note.md").unwrap().write_all(b"text").unwrap();
        files.publish().unwrap();
        let result = serde_json::json!({"status": "complete", "result": "said", "artifacts": files.shown()});
        folders.write_result(&found, &result).unwrap();
        folders.retire(&found).unwrap();
        let results = dir.path().join("results/marie");
        assert_eq!(fs::read_to_string(results.join("a-result.files/deep/note.md")).unwrap(), "text");
        assert_eq!(files.shown(), ["a-result.files/deep/note.md"]);
        assert_eq!(
            folders.result_of("a").unwrap(),
            Some(Earlier { is_complete: true, text: "said".to_owned() })
        );
        assert!(dir.path().join("tasks/marie/done/a.json").exists());
        assert_eq!(fs::read_dir(&results).unwrap().count(), 2, "nothing half-done is left");
    }

    #[test]
    fn a_bad_file_goes_aside_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = folders(dir.path(), false);
        fs::write(dir.path().join("tasks/marie/a.json"), "{").unwrap();
        let found = folders.scan().unwrap().remove(0);
        assert!(found.is_young);
        folders.put_aside(&found, "it is broken").unwrap();
        let bad = dir.path().join("tasks/marie/bad");
        assert_eq!(fs::read_to_string(bad.join("a.json.error")).unwrap(), "it is broken\n");
        assert!(bad.join("a.json").exists() && folders.scan().unwrap().is_empty());
    }

    #[test]
    fn any_file_name_makes_a_name_that_a_task_may_have() {
        let dir = tempfile::tempdir().unwrap();
        let mut folders = folders(dir.path(), false);
        fs::write(dir.path().join("tasks/marie/évaluer Léa.json"), "{}").unwrap();
        let found = folders.scan().unwrap().remove(0);
        assert_eq!(found.task_id(), "t-valuer-L-a");
        let long = Found { name: "x".repeat(300), ..found };
        assert_eq!(long.task_id().len(), 62);
    }
}
