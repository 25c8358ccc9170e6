//! The sample studio: a small workspace that ships inside the program, for a rehearsal to work in.
//! Knows its files; refuses to overwrite anything.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

macro_rules! sample {
    ($($path:literal),+ $(,)?) => {
        &[$(($path, include_str!(concat!("../../../prompts/samples/studio/", $path)))),+]
    };
}

/// Every file, by its path beneath the studio.
const FILES: &[(&str, &str)] = sample![
    "README.md",
    "classes/hip-hop/class.md",
    "classes/hip-hop/students.csv",
    "students/emma-rodriguez/profile.md",
    "students/sophia-chen/profile.md",
    "students/lucas-martinez/profile.md",
    "tools/free-places.sh",
];

/// Where students' evaluations go, which begin empty.
const EMPTY: &[&str] = &[
    "students/emma-rodriguez/evaluations",
    "students/sophia-chen/evaluations",
    "students/lucas-martinez/evaluations",
];

/// Writes the studio into `dir`. Files that are there stay as they are.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn write(dir: &Path) -> io::Result<()> {
    for path in EMPTY {
        DirBuilder::new().recursive(true).mode(0o755).create(dir.join(path))?;
    }
    for (path, text) in FILES {
        let path = dir.join(path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => file.write_all(text.as_bytes())?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Evaluations that lie in the students' folders, by path beneath `dir`, sorted.
pub(crate) fn evaluations(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = EMPTY
        .iter()
        .filter_map(|path| fs::read_dir(dir.join(path)).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .filter_map(|path| path.strip_prefix(dir).ok().map(Path::to_owned))
        .collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_studio_is_written_once_and_what_is_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        assert!(evaluations(dir.path()).is_empty());
        let profile = dir.path().join("students/emma-rodriguez/profile.md");
        fs::write(&profile, "mine").unwrap();
        fs::write(dir.path().join("students/emma-rodriguez/evaluations/evaluation_1.md"), "x").unwrap();
        write(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(profile).unwrap(), "mine");
        assert_eq!(
            evaluations(dir.path()),
            [PathBuf::from("students/emma-rodriguez/evaluations/evaluation_1.md")]
        );
    }

    #[test]
    fn every_student_of_the_list_has_a_profile_and_a_folder() {
        let list = FILES.iter().find(|(path, _)| path.ends_with("students.csv")).unwrap().1;
        let slugs: Vec<&str> = list.lines().skip(1).map(|row| row.split(',').nth(1).unwrap()).collect();
        assert_eq!(slugs, ["emma-rodriguez", "sophia-chen", "lucas-martinez"]);
        for slug in slugs {
            assert!(FILES.iter().any(|(path, _)| *path == format!("students/{slug}/profile.md")), "{slug}");
            assert!(EMPTY.contains(&format!("students/{slug}/evaluations").as_str()), "{slug}");
        }
    }
}
