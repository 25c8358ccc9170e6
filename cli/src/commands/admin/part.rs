//! A file that appears under its name only when it is whole and on the disk: written as `NAME.part`, for its owner alone.
//! Knows files; refuses to know what is in them.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, RenameFlags};
use rustix::io::Errno;

use crate::exit;
use crate::failure::{Failure, Outcome};

/// A file on its way to its name.
pub(super) struct Part {
    name: PathBuf,
    part: PathBuf,
    file: File,
    replace: bool,
    done: bool,
}

impl Part {
    /// Begins a file. What an earlier process left of a part is written over; what one writes now is not.
    ///
    /// # Errors
    /// A file of that name, unless `replace`; a directory that cannot be written.
    pub(super) fn begin(name: &Path, replace: bool) -> Outcome<Self> {
        if name.is_dir() {
            let inside = name.join("orch-backup.orch");
            return Err(Failure::usage(format!("{} is a directory", name.display()))
                .help(format!("name a file in it: {}", inside.display())));
        }
        // A link that leads nowhere is there, too.
        if !replace && name.symlink_metadata().is_ok() {
            return Err(there(name));
        }
        let mut part = OsString::from(name);
        part.push(".part");
        let part = PathBuf::from(part);
        let failed = |error: std::io::Error| {
            Failure::new(exit::FAILED, format!("cannot write {}", part.display())).cause(error)
        };
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        // Truncated only once it is known that nobody writes it.
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let file = options.open(&part).map_err(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(busy(&part)),
            // A file system without locks: two at once would be somebody's own doing.
            Err(_) => {}
        }
        // Whoever had it may have given it its name meanwhile.
        let (ours, named) = (file.metadata().map_err(failed)?, part.symlink_metadata().map_err(failed)?);
        if (ours.dev(), ours.ino()) != (named.dev(), named.ino()) {
            return Err(busy(&part));
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600)).map_err(|error| failed(error.into()))?;
        file.set_len(0).map_err(failed)?;
        Ok(Self { name: name.to_owned(), part, file, replace, done: false })
    }

    /// Where its bytes go.
    pub(super) fn sink(&mut self) -> &mut (dyn Write + Send) {
        &mut self.file
    }

    /// Has it on the disk, and gives it its name.
    pub(super) fn finish(mut self) -> Outcome<()> {
        let failed = |error: std::io::Error| {
            Failure::new(exit::FAILED, format!("cannot write {}", self.name.display())).cause(error)
        };
        self.file.sync_all().map_err(failed)?;
        let flags = if self.replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
        let renamed =
            rustix::fs::renameat_with(rustix::fs::CWD, &self.part, rustix::fs::CWD, &self.name, flags);
        match renamed {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(there(&self.name)),
            // Some file systems cannot refuse to replace; a second name can be refused everywhere.
            Err(Errno::INVAL | Errno::NOSYS) if !self.replace => {
                match std::fs::hard_link(&self.part, &self.name) {
                    Ok(()) => std::fs::remove_file(&self.part).map_err(failed)?,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(there(&self.name)),
                    Err(error) => return Err(failed(error)),
                }
            }
            Err(error) => return Err(failed(error.into())),
        }
        self.done = true;
        let dir =
            self.name.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.done {
            // What is not whole is worth nothing; nobody can do anything about a leftover.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

fn there(name: &Path) -> Failure {
    Failure::new(exit::CONFLICT, format!("{} is there already", name.display()))
        .help("--force replaces it; another name keeps both")
}

fn busy(part: &Path) -> Failure {
    Failure::new(exit::CONFLICT, format!("another process writes {}", part.display()))
        .help("wait for it, or choose another name")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_gets_its_name_when_it_is_whole_and_belongs_to_its_owner_alone() {
        let home = tempfile::tempdir().unwrap();
        let name = home.path().join("a.orch");
        let mut part = Part::begin(&name, false).unwrap();
        part.sink().write_all(b"whole").unwrap();
        assert_eq!(names(home.path()), ["a.orch.part"]);
        part.finish().unwrap();
        assert_eq!(names(home.path()), ["a.orch"]);
        assert_eq!(std::fs::read(&name).unwrap(), b"whole");
        assert_eq!(std::fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn what_is_not_whole_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let mut part = Part::begin(&home.path().join("a.orch"), false).unwrap();
        part.sink().write_all(b"ha").unwrap();
        drop(part);
        assert_eq!(names(home.path()), [""; 0]);
    }

    #[test]
    fn what_is_there_stays_unless_it_may_be_replaced() {
        let home = tempfile::tempdir().unwrap();
        let name = home.path().join("a.orch");
        std::fs::write(&name, "old").unwrap();
        assert_eq!(Part::begin(&name, false).err().unwrap().exit_code(), exit::CONFLICT);
        let mut part = Part::begin(&name, true).unwrap();
        part.sink().write_all(b"new").unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"old");
        part.finish().unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"new");
        // Somebody else was quicker, after the first look.
        let late = home.path().join("b.orch");
        let part = Part::begin(&late, false).unwrap();
        std::fs::write(&late, "theirs").unwrap();
        assert_eq!(part.finish().unwrap_err().exit_code(), exit::CONFLICT);
        assert_eq!(std::fs::read(&late).unwrap(), b"theirs");
        assert_eq!(names(home.path()), ["a.orch", "b.orch"]);
    }

    #[test]
    fn a_part_that_was_left_behind_is_written_over_and_one_in_use_is_not() {
        let home = tempfile::tempdir().unwrap();
        let name = home.path().join("a.orch");
        std::fs::write(home.path().join("a.orch.part"), "left by a process that was killed").unwrap();
        let mut first = Part::begin(&name, false).unwrap();
        let second = Part::begin(&name, false).err().unwrap();
        assert!(second.text(false).contains("another process writes"), "{}", second.text(false));
        first.sink().write_all(b"x").unwrap();
        first.finish().unwrap();
        assert_eq!(std::fs::read(&name).unwrap(), b"x");
    }

    #[test]
    fn a_link_in_place_of_the_part_is_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let target = home.path().join("precious");
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, home.path().join("a.orch.part")).unwrap();
        assert_eq!(Part::begin(&home.path().join("a.orch"), false).err().unwrap().exit_code(), exit::FAILED);
        assert_eq!(std::fs::read(&target).unwrap(), b"kept");
    }

    #[test]
    fn a_directory_is_no_file() {
        let home = tempfile::tempdir().unwrap();
        let refused = Part::begin(home.path(), true).err().unwrap();
        assert!(refused.text(false).contains("is a directory"), "{}", refused.text(false));
        assert_eq!(
            Part::begin(&home.path().join("no/a.orch"), false).err().unwrap().exit_code(),
            exit::FAILED
        );
    }
}
