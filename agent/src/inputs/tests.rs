//! Inputs in a working directory that a former child prepared for them.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;

use super::*;
use crate::runner::InputFile;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["work", "aside", "fetched", "agent"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("agent/key"), "secret").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn fetched(&self, name: &str, bytes: &str) -> PathBuf {
        fs::write(self.path("fetched").join(name), bytes).unwrap();
        self.path("fetched").join(name)
    }

    fn input(&self, id: &str) -> Input {
        let file = self.fetched(&format!("{id}-file"), "bytes");
        let artifact = InputFile { path: "deep/er/report.md".into(), file, size: 5, executable: true };
        Input {
            id: id.into(),
            answer: Some(Content::Text("the answer".into())),
            structured: Some(Content::File { file: self.fetched(&format!("{id}-json"), "{}"), size: 2 }),
            artifacts: vec![artifact],
            ..Input::default()
        }
    }

    fn place(&self, inputs: &[Input]) -> Result<(), InputError> {
        place(&self.path("work"), &self.path("aside"), inputs)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path("work/inputs").join(name)).unwrap()
    }
}

#[test]
fn results_and_files_lie_under_the_names_of_their_tasks() {
    let at = Place::new();
    at.place(&[at.input("emma"), at.input("liam")]).unwrap();
    assert_eq!(at.read("emma/result.md"), "the answer");
    assert_eq!(at.read("liam/result.json"), "{}");
    assert_eq!(at.read("liam/artifacts/deep/er/report.md"), "bytes");
    let mode =
        fs::metadata(at.path("work/inputs/liam/artifacts/deep/er/report.md")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "what could be executed still can");
    let long = Input { summary: "s".repeat(5_000), ..Input { id: "sum".into(), ..Input::default() } };
    at.place(&[long]).unwrap();
    assert_eq!(at.read("sum/summary.md").len(), 5_000);
    assert!(!at.path("work/inputs/emma").exists(), "a former attempt's are gone");
    at.place(&[]).unwrap();
    assert!(at.path("work/inputs/sum").exists(), "without inputs nothing changes");
}

#[test]
fn a_link_that_a_former_child_planted_leads_nowhere() {
    for planted in ["inputs", "inputs/emma"] {
        let at = Place::new();
        if planted.contains('/') {
            fs::create_dir(at.path("work/inputs")).unwrap();
        }
        symlink(at.path("agent"), at.path("work").join(planted)).unwrap();
        at.place(&[at.input("emma")]).unwrap();
        assert_eq!(at.read("emma/result.md"), "the answer");
        assert!(fs::symlink_metadata(at.path("work").join(planted)).unwrap().is_dir());
        let names: Vec<_> =
            fs::read_dir(at.path("agent")).unwrap().map(|one| one.unwrap().file_name()).collect();
        assert_eq!(names, ["key"], "{planted}");
    }
}

#[test]
fn a_working_directory_that_is_a_link_is_refused() {
    let at = Place::new();
    fs::remove_dir(at.path("work")).unwrap();
    symlink(at.path("agent"), at.path("work")).unwrap();
    assert!(matches!(at.place(&[at.input("emma")]), Err(InputError::Io(_))));
    assert!(!at.path("agent/inputs").exists());
}

#[test]
fn directories_nobody_may_enter_or_follow_to_the_end_are_replaced() {
    let at = Place::new();
    let mut deep = at.path("work/inputs");
    fs::create_dir(&deep).unwrap();
    for _ in 0..200 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    fs::create_dir_all(at.path("work/inputs/locked/in")).unwrap();
    for locked in ["work/inputs/locked", "work/inputs"] {
        fs::set_permissions(at.path(locked), fs::Permissions::from_mode(0o000)).unwrap();
    }
    at.place(&[at.input("emma")]).unwrap();
    assert_eq!(at.read("emma/result.md"), "the answer");
    assert_eq!(fs::read_dir(at.path("aside")).unwrap().count(), 0);
}

#[test]
fn names_and_paths_that_lead_elsewhere_are_refused_before_anything_is_written() {
    let at = Place::new();
    for id in ["", "..", ".", "a/b", "-x", ".x", "a b", "a\n", "index.md", "ü", &"x".repeat(129)] {
        let refused = at.place(&[Input { id: id.into(), ..Input::default() }]);
        assert!(matches!(refused, Err(InputError::Id(_))), "{id:?}");
    }
    for path in ["../x", "/etc/x", "a/../../x", "", "a\nb"] {
        let mut input = at.input("emma");
        input.artifacts[0].path = path.into();
        assert!(matches!(at.place(&[input]), Err(InputError::Path { .. })), "{path:?}");
    }
    assert!(at.place(&[at.input("emma"), at.input("emma")]).is_err(), "one task twice");
    assert!(!at.path("work/x").exists() && !at.path("x").exists());
}
