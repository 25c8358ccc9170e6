//! Writing files whose paths somebody else chose: beneath one directory, through its handle, without following a link,
//! and without replacing what is there unless that was asked for. A file appears under its name only when it is whole.
//! Knows paths and handles; refuses to know where the bytes come from.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use orch_proto::codes::ErrorCode;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::exit;
use crate::failure::{Failure, Outcome};

/// Longest part of a path that file systems take.
const LONGEST_PART: usize = 255;
/// Deepest path taken.
const DEEPEST: usize = 64;

/// A directory beneath which files are written.
pub(super) struct Beneath {
    dir: OwnedFd,
}

/// A file on its way to its name.
pub(super) struct Place {
    parent: OwnedFd,
    /// Of the file.
    name: String,
    /// Of the file while it is not whole.
    part: String,
    file: File,
    /// As it was asked for, for messages.
    path: String,
    replace: bool,
    done: bool,
}

impl Beneath {
    /// Opens the directory, which is created if it is not there. Its own path is the caller's, and may hold links.
    pub(super) fn open(dir: &Path) -> Outcome<Self> {
        let failed = |error: std::io::Error| {
            Failure::new(exit::FAILED, format!("cannot write into {}", dir.display())).cause(error)
        };
        std::fs::create_dir_all(dir).map_err(failed)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        Ok(Self { dir })
    }

    /// Begins a file.
    ///
    /// # Errors
    /// A path that leaves the directory or passes a link, and a file that is there, unless `replace`.
    pub(super) fn create(&self, path: &str, executable: bool, replace: bool) -> Outcome<Place> {
        let parts = checked(path)?;
        let failed = |error: Errno| {
            let failure = Failure::new(exit::FAILED, format!("cannot write {path:?}"));
            match error {
                Errno::LOOP | Errno::NOTDIR => {
                    failure.cause("a link or a file stands where a directory of it would be")
                }
                error => failure.cause(std::io::Error::from(error)),
            }
        };
        let Some((name, dirs)) = parts.split_last() else { return Err(refused(path, "it is empty")) };
        let mut parent = self
            .dir
            .try_clone()
            .map_err(|error| Failure::new(exit::FAILED, format!("cannot write {path:?}")).cause(error))?;
        for dir in dirs {
            match rustix::fs::mkdirat(&parent, *dir, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            parent = rustix::fs::openat(&parent, *dir, flags, Mode::empty()).map_err(failed)?;
        }
        if !replace && rustix::fs::statat(&parent, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Err(there(path));
        }
        let part = format!(".orch-{}.part", uuid::Uuid::now_v7().simple());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(if executable { 0o777 } else { 0o666 });
        let file = rustix::fs::openat(&parent, part.as_str(), flags, mode).map_err(failed)?;
        Ok(Place {
            parent,
            name: (*name).to_owned(),
            part,
            file: File::from(file),
            path: path.to_owned(),
            replace,
            done: false,
        })
    }
}

impl Place {
    /// Where its bytes go.
    pub(super) fn sink(&mut self) -> &mut (dyn Write + Send) {
        &mut self.file
    }

    /// Gives it its name: everything is there, and checked.
    pub(super) fn finish(mut self) -> Outcome<()> {
        let flags = if self.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed = rustix::fs::renameat_with(
            &self.parent,
            self.part.as_str(),
            &self.parent,
            self.name.as_str(),
            flags,
        );
        let renamed = match renamed {
            // Some file systems cannot refuse to replace; a second name can be refused everywhere.
            Err(Errno::INVAL | Errno::NOSYS) if !self.replace => self.link(),
            other => other,
        };
        match renamed {
            Ok(()) => {
                self.done = true;
                Ok(())
            }
            Err(Errno::EXIST) => Err(there(&self.path)),
            Err(error) => Err(Failure::new(exit::FAILED, format!("cannot write {:?}", self.path))
                .cause(std::io::Error::from(error))),
        }
    }

    fn link(&self) -> Result<(), Errno> {
        rustix::fs::linkat(
            &self.parent,
            self.part.as_str(),
            &self.parent,
            self.name.as_str(),
            AtFlags::empty(),
        )?;
        rustix::fs::unlinkat(&self.parent, self.part.as_str(), AtFlags::empty())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.done {
            // What is not whole is worth nothing; nobody can do anything about a leftover.
            let _ = rustix::fs::unlinkat(&self.parent, self.part.as_str(), AtFlags::empty());
        }
    }
}

/// The parts of a path that stays beneath its directory.
fn checked(path: &str) -> Outcome<Vec<&str>> {
    let parts: Vec<_> = path.split('/').collect();
    if path.is_empty() {
        return Err(refused(path, "it is empty"));
    }
    if path.starts_with('/') {
        return Err(refused(path, "it is absolute"));
    }
    if parts.len() > DEEPEST {
        return Err(refused(path, "it is too deep"));
    }
    for part in &parts {
        match *part {
            "" | "." | ".." => return Err(refused(path, "it has an empty part, . or ..")),
            part if part.len() > LONGEST_PART => return Err(refused(path, "a part of it is too long")),
            part if part.chars().any(char::is_control) => {
                return Err(refused(path, "it has control characters"));
            }
            _ => {}
        }
    }
    Ok(parts)
}

fn refused(path: &str, why: &str) -> Failure {
    Failure::coded(ErrorCode::InvalidName, format!("the path {path:?} is not written: {why}"))
        .help("REF:PATH -d - writes its bytes to stdout")
}

fn there(path: &str) -> Failure {
    Failure::new(exit::CONFLICT, format!("{path:?} is there already"))
        .help("--force replaces it, -d DIR writes elsewhere")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn write(dir: &Path, path: &str, text: &str, replace: bool) -> Outcome<()> {
        let mut place = Beneath::open(dir)?.create(path, false, replace)?;
        place.sink().write_all(text.as_bytes()).unwrap();
        place.finish()
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_written_with_its_directories() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("new/dir");
        write(&dir, "a/b/c.md", "text", false).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("a/b/c.md")).unwrap(), "text");
        let place = Beneath::open(&dir).unwrap().create("run.sh", true, false).unwrap();
        place.finish().unwrap();
        assert_ne!(std::fs::metadata(dir.join("run.sh")).unwrap().permissions().mode() & 0o100, 0);
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("in");
        let long = "x".repeat(256);
        for path in
            ["", "/etc/x", "../x", "a/../x", "a//b", "./x", "a/", "..", "a\0b", "a\nb", "\u{1b}[2J", &long]
        {
            assert_eq!(write(&dir, path, "x", true).unwrap_err().exit_code(), exit::USAGE, "{path:?}");
        }
        assert_eq!(names(home.path()), ["in"]);
        assert_eq!(names(&dir), [""; 0]);
    }

    #[test]
    fn links_are_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (dir, outside) = (home.path().join("in"), home.path().join("outside"));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::create_dir_all(&outside).unwrap();
        symlink(&outside, dir.join("door")).unwrap();
        symlink(outside.join("target"), dir.join("link.md")).unwrap();
        let through = write(&dir, "door/x.md", "x", true).unwrap_err();
        assert!(through.text(false).contains("a link or a file stands"), "{}", through.text(false));
        assert_eq!(write(&dir, "link.md", "x", false).unwrap_err().exit_code(), exit::CONFLICT);
        // Replacing a link replaces the link.
        write(&dir, "link.md", "mine", true).unwrap();
        assert_eq!(names(&outside), [""; 0]);
        assert!(std::fs::symlink_metadata(dir.join("link.md")).unwrap().is_file());
    }

    #[test]
    fn what_is_there_stays_unless_it_may_be_replaced() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("a.md"), "old").unwrap();
        assert_eq!(write(home.path(), "a.md", "new", false).unwrap_err().exit_code(), exit::CONFLICT);
        assert_eq!(std::fs::read_to_string(home.path().join("a.md")).unwrap(), "old");
        write(home.path(), "a.md", "new", true).unwrap();
        assert_eq!(std::fs::read_to_string(home.path().join("a.md")).unwrap(), "new");
        // Somebody else was quicker, after the first look.
        let place = Beneath::open(home.path()).unwrap().create("b.md", false, false).unwrap();
        std::fs::write(home.path().join("b.md"), "theirs").unwrap();
        assert_eq!(place.finish().unwrap_err().exit_code(), exit::CONFLICT);
        assert_eq!(std::fs::read_to_string(home.path().join("b.md")).unwrap(), "theirs");
        assert_eq!(names(home.path()), ["a.md", "b.md"]);
    }

    #[test]
    fn what_is_not_whole_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let mut place = Beneath::open(home.path()).unwrap().create("a.md", false, false).unwrap();
        place.sink().write_all(b"half").unwrap();
        drop(place);
        assert_eq!(names(home.path()), [""; 0]);
    }
}
