//! Publications among links, people, other publishers and crashes.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime};

use super::*;
use crate::workspaces::Workspaces;

const OWNER: Owner<'static> = Owner { cluster: b"c", run: 7, task: 3, attempt: 1 };

struct Studio {
    dir: tempfile::TempDir,
    journal: Journal,
}

impl Studio {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["dance", "fetched", "outside"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let journal = Journal::open(&dir.path().join("journal"), &Workspaces::default(), SystemTime::now());
        Self { journal: journal.unwrap(), dir }
    }

    fn workspace(&self) -> Workspace {
        Workspace { name: "dance".into(), dir: self.path("dance") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("dance").join(name)).unwrap()
    }

    fn item(&self, to: &str, bytes: &str) -> PublishItem {
        let digest: [u8; 32] = Sha256::digest(bytes).into();
        let file = self.path("fetched").join(hex::encode(digest));
        fs::write(&file, bytes).unwrap();
        let content = Some(PublishContent { file, size: bytes.len() as u64, digest });
        PublishItem { to: to.into(), artifact: to.into(), content, replace: false }
    }

    fn replacing(&self, to: &str, bytes: &str) -> PublishItem {
        PublishItem { replace: true, ..self.item(to, bytes) }
    }

    fn publish(&self, files: &[PublishItem]) -> Result<Published, PublishError> {
        publish(&self.workspace(), files, OWNER, &self.journal)
    }

    fn refusal(&self, file: PublishItem) -> String {
        match self.publish(&[file]) {
            Err(PublishError::Refused(why)) => why,
            other => panic!("{other:?}"),
        }
    }

    /// The agent starts again.
    fn restart(&mut self) {
        let workspaces = Workspaces::new(vec![self.workspace()]);
        self.journal = Journal::open(&self.path("journal"), &workspaces, SystemTime::now()).unwrap();
    }

    fn key(&self, item: &PublishItem) -> Key {
        Key::of(OWNER, "dance", &item.to, &item.content.as_ref().unwrap().digest)
    }

    /// Everything beneath the workspace that is not finished.
    fn unfinished(&self) -> usize {
        let found = walkdir(&self.path("dance"));
        found
            .iter()
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(UNFINISHED))
            .count()
    }
}

fn walkdir(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().flatten() {
        found.push(entry.path());
        if entry.file_type().unwrap().is_dir() {
            found.extend(walkdir(&entry.path()));
        }
    }
    found
}

const WRITTEN: Published = Published { written: 1, already: 0 };
const ALREADY: Published = Published { written: 0, already: 1 };

#[test]
fn a_file_is_put_in_its_place_with_the_directories_to_it() {
    let studio = Studio::new();
    let file = studio.item("students/emma/evaluations/e.md", "good");
    assert_eq!(studio.publish(std::slice::from_ref(&file)).unwrap(), WRITTEN);
    assert_eq!(studio.read("students/emma/evaluations/e.md"), "good");
    let mode =
        fs::metadata(studio.path("dance/students/emma/evaluations/e.md")).unwrap().permissions().mode();
    assert_eq!(mode & 0o133, 0, "nobody executes it and only its owner writes it");
    assert_eq!(studio.publish(&[file]).unwrap(), ALREADY);
    assert_eq!(studio.unfinished(), 0);
}

#[test]
fn what_a_person_wrote_is_not_replaced_unless_told() {
    let studio = Studio::new();
    fs::write(studio.path("dance/e.md"), "mine").unwrap();
    let why = studio.refusal(studio.item("e.md", "theirs"));
    assert!(why.starts_with("e.md exists in the workspace") && why.contains("`replace: true`"), "{why}");
    assert_eq!(studio.read("e.md"), "mine");
    assert_eq!(studio.publish(&[studio.replacing("e.md", "theirs")]).unwrap(), WRITTEN);
    assert_eq!(studio.read("e.md"), "theirs");
}

#[test]
fn a_repeated_attempt_does_not_write_over_what_a_person_changed_since() {
    let mut studio = Studio::new();
    let file = studio.replacing("e.md", "theirs");
    studio.publish(std::slice::from_ref(&file)).unwrap();
    fs::write(studio.path("dance/e.md"), "mine now").unwrap();
    studio.restart();
    assert_eq!(studio.publish(std::slice::from_ref(&file)).unwrap(), ALREADY);
    assert_eq!(studio.read("e.md"), "mine now");
    let other = Owner { run: 8, ..OWNER };
    publish(&studio.workspace(), &[file], other, &studio.journal).unwrap();
    assert_eq!(studio.read("e.md"), "theirs", "another task's publication is another one");
}

#[test]
fn one_bad_target_keeps_the_others_from_being_written() {
    let studio = Studio::new();
    fs::write(studio.path("dance/b.md"), "mine").unwrap();
    assert!(studio.publish(&[studio.item("a.md", "x"), studio.item("b.md", "x")]).is_err());
    let missing = PublishItem { content: None, ..studio.item("c.md", "x") };
    assert!(studio.publish(&[studio.item("a.md", "x"), missing]).is_err());
    assert!(!studio.path("dance/a.md").exists());
}

#[test]
fn paths_that_lead_elsewhere_or_where_programs_look_are_refused() {
    let studio = Studio::new();
    for to in
        ["", "../x", "/etc/x", "a/../../x", "a//b", "./a", "a\nb", "a/.", &"d/".repeat(33), &"x".repeat(300)]
    {
        let why = studio.refusal(studio.item(to, "x"));
        assert!(why.starts_with("cannot publish as "), "{why}");
        assert!(!why.chars().any(char::is_control), "{why:?}");
    }
    for to in [".git/config", "a/.GIT/hooks/pre-commit", ".claude/settings.json", "a/.orch-1"] {
        assert!(studio.refusal(studio.item(to, "x")).contains("nothing is published as or beneath"), "{to}");
    }
    assert_eq!(fs::read_dir(studio.path("dance")).unwrap().count(), 0);
}

#[test]
fn nothing_is_written_through_a_link_or_over_what_is_no_file() {
    let studio = Studio::new();
    fs::write(studio.path("outside/e.md"), "theirs").unwrap();
    symlink(studio.path("outside"), studio.path("dance/link")).unwrap();
    symlink("../outside/e.md", studio.path("dance/e.md")).unwrap();
    symlink("../outside/new", studio.path("dance/dangling")).unwrap();
    fs::create_dir(studio.path("dance/dir")).unwrap();
    fs::write(studio.path("dance/file"), "x").unwrap();
    rustix::fs::mkfifoat(CWD, studio.path("dance/pipe"), rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    for (to, said) in [
        ("link/e.md", "`link` in the workspace is a link"),
        ("link/new/e.md", "`link` in the workspace is a link"),
        ("file/e.md", "`file` in the workspace is a link or no directory"),
        ("e.md", "a link of that name"),
        ("dangling", "a link of that name"),
        ("dir", "no plain file of that name"),
        ("pipe", "no plain file of that name"),
    ] {
        for file in [studio.item(to, "x"), studio.replacing(to, "x")] {
            let why = studio.refusal(file);
            assert!(why.contains(said), "{to}: {why}");
        }
    }
    assert_eq!(fs::read_dir(studio.path("outside")).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(studio.path("outside/e.md")).unwrap(), "theirs");
}

#[test]
fn a_directory_that_becomes_a_link_between_look_and_write_leads_nowhere() {
    let studio = Studio::new();
    fs::create_dir(studio.path("dance/students")).unwrap();
    let item = studio.item("students/e.md", "x");
    let (target, key) = (Target::of(&item).unwrap(), studio.key(&item));
    let root = open_root(&studio.path("dance")).unwrap();
    assert_eq!(target.look(&root).unwrap(), There::Nothing);
    fs::remove_dir(studio.path("dance/students")).unwrap();
    symlink(studio.path("outside"), studio.path("dance/students")).unwrap();
    assert!(matches!(
        target.write(&root, "dance", &studio.journal, (&key, 1)),
        Err(PublishError::Refused(_))
    ));
    assert_eq!(fs::read_dir(studio.path("outside")).unwrap().count(), 0);
}

#[test]
fn a_file_that_came_between_look_and_write_stays() {
    let studio = Studio::new();
    let root = open_root(&studio.path("dance")).unwrap();
    for (there, equal) in [("mine", false), ("x", true)] {
        let item = studio.item("e.md", "x");
        let (target, key) = (Target::of(&item).unwrap(), studio.key(&item));
        fs::write(studio.path("dance/e.md"), there).unwrap();
        let wrote = target.write(&root, "dance", &studio.journal, (&key, 1));
        assert!(if equal { matches!(wrote, Ok(false)) } else { wrote.is_err() }, "{wrote:?}");
        assert_eq!((studio.read("e.md").as_str(), studio.unfinished()), (there, 0));
        assert_eq!(studio.journal.state(&key).unwrap(), None);
    }
}

#[test]
fn of_many_publishers_of_one_path_exactly_one_wins() {
    let studio = Arc::new(Studio::new());
    let barrier = Arc::new(Barrier::new(8));
    let threads: Vec<_> = (0..8_u32)
        .map(|task| {
            let (studio, barrier) = (Arc::clone(&studio), Arc::clone(&barrier));
            std::thread::spawn(move || {
                let file = studio.item("students/e.md", &format!("by {task}"));
                barrier.wait();
                publish(&studio.workspace(), &[file], Owner { task, ..OWNER }, &studio.journal).is_ok()
            })
        })
        .collect();
    let won: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let winner = won.iter().position(|won| *won).unwrap();
    assert_eq!((studio.read("students/e.md"), studio.unfinished()), (format!("by {winner}"), 0));
}

/// Does the steps of a publication up to a crash after step `steps`.
fn crash_after(studio: &Studio, item: &PublishItem, steps: u32) {
    let (target, key) = (Target::of(item).unwrap(), studio.key(item));
    let root = open_root(&studio.path("dance")).unwrap();
    let dir = target.dir(&root, true).unwrap().unwrap();
    let done: [&dyn Fn(); 5] = [
        &|| studio.journal.note(&key, State::Preparing, ("dance", &item.to), 1).unwrap(),
        &|| fs::write(studio.path("dance/students").join(key.unfinished(1)), "hal").unwrap(),
        &|| target.fill(&dir, &key.unfinished(1)).unwrap(),
        &|| studio.journal.note(&key, State::Ready, ("dance", &item.to), 1).unwrap(),
        &|| renameat(&dir, key.unfinished(1), &dir, target.name).unwrap(),
    ];
    done.iter().take(steps as usize).for_each(|step| step());
}

#[test]
fn a_crash_between_any_two_steps_leaves_one_whole_file_or_none_and_the_repeat_ends_well() {
    for steps in 0..=5 {
        let mut studio = Studio::new();
        let item = studio.replacing("students/e.md", "whole");
        crash_after(&studio, &item, steps);
        studio.restart();
        assert_eq!(studio.unfinished(), 0, "after step {steps}");
        assert_eq!(studio.path("dance/students/e.md").exists(), steps == 5);
        if steps == 5 {
            // A person was faster than the repeat.
            fs::write(studio.path("dance/students/e.md"), "mine now").unwrap();
        }
        let again = studio.publish(std::slice::from_ref(&item)).unwrap();
        assert_eq!(again, if steps == 5 { ALREADY } else { WRITTEN }, "after step {steps}");
        assert_eq!(studio.read("students/e.md"), if steps == 5 { "mine now" } else { "whole" });
        assert_eq!(studio.publish(&[item]).unwrap(), ALREADY);
    }
}

#[test]
fn a_workspace_that_is_away_at_the_start_is_settled_by_the_repeat() {
    let mut studio = Studio::new();
    let item = studio.item("students/e.md", "whole");
    crash_after(&studio, &item, 4);
    fs::rename(studio.path("dance"), studio.path("away")).unwrap();
    studio.restart();
    fs::rename(studio.path("away"), studio.path("dance")).unwrap();
    assert_eq!(studio.unfinished(), 1);
    assert_eq!(studio.publish(&[item]).unwrap(), WRITTEN);
    assert_eq!((studio.read("students/e.md").as_str(), studio.unfinished()), ("whole", 0));
}

#[test]
fn publications_are_forgotten_after_a_week() {
    let studio = Studio::new();
    let item = studio.item("e.md", "x");
    studio.publish(std::slice::from_ref(&item)).unwrap();
    let later = |days: u64| SystemTime::now() + Duration::from_secs(days * 24 * 3_600);
    let open = |now| Journal::open(&studio.path("journal"), &Workspaces::default(), now).unwrap();
    assert_eq!(open(later(6)).state(&studio.key(&item)).unwrap(), Some(State::Done));
    assert_eq!(open(later(8)).state(&studio.key(&item)).unwrap(), None);
}

#[test]
fn a_disk_that_cannot_be_written_leaves_nothing_behind() {
    if rustix::process::geteuid().is_root() {
        // Nothing is closed to root; bytes that changed on the disk fail at the same step.
        let studio = Studio::new();
        let item = studio.item("e.md", "x");
        fs::write(&item.content.as_ref().unwrap().file, "y").unwrap();
        assert!(matches!(studio.publish(&[item]), Err(PublishError::Io { .. })));
        assert_eq!(fs::read_dir(studio.path("dance")).unwrap().count(), 0);
        return;
    }
    let studio = Studio::new();
    fs::set_permissions(studio.path("dance"), Permissions::from_mode(0o555)).unwrap();
    let refused = studio.publish(&[studio.item("e.md", "x")]);
    fs::set_permissions(studio.path("dance"), Permissions::from_mode(0o755)).unwrap();
    assert!(matches!(refused, Err(PublishError::Io { .. })), "{refused:?}");
    assert_eq!(fs::read_dir(studio.path("dance")).unwrap().count(), 0);
}

#[test]
fn an_attempt_that_was_given_up_on_another_agent_never_moves_half_of_this_ones_file() {
    let studio = Studio::new();
    let other = Journal::open(&studio.path("other"), &Workspaces::default(), SystemTime::now()).unwrap();
    let item = studio.replacing("students/e.md", "whole");
    // The other agent was stopped with its file whole and not yet in its place.
    crash_after(&studio, &item, 4);
    let second = Owner { attempt: 2, ..OWNER };
    let key = studio.key(&item);
    let unfinished = |attempt| studio.path("dance/students").join(key.unfinished(attempt));
    fs::write(unfinished(2), "hal").unwrap();
    assert_eq!(fs::read_to_string(unfinished(1)).unwrap(), "whole", "each writes its own");
    assert_eq!(publish(&studio.workspace(), &[item], second, &other).unwrap(), WRITTEN);
    assert!(unfinished(1).exists() && !unfinished(2).exists());
    assert_eq!(studio.read("students/e.md"), "whole");
}
