//! Files beneath a directory that somebody else may write in: every step goes through a handle of the directory before
//! it, by one plain name, and follows no link. So nothing outside can be reached, whatever is renamed meanwhile.
//! Knows names and handles; refuses to know what the files are for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, mkdirat, openat, statat};
use rustix::io::Errno;

/// Deepest directory of a path that is taken from or given to others.
pub const DEEPEST: usize = 32;
/// Longest such path in bytes.
pub const LONGEST_PATH: usize = 1_024;
/// Longest name in bytes: that of every file system.
pub const LONGEST_NAME: usize = 255;

/// Opens a directory by its whole path; its last part must be no link.
///
/// # Errors
/// When it is not there, or is something else.
pub fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, directory(), Mode::empty())?)
}

/// Opens the directory `name` in `parent`.
///
/// # Errors
/// When it is not there, or is something else, a link among them.
pub fn open_dir(parent: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(parent, plain(name)?, directory(), Mode::empty())?)
}

/// The same, made when it is not there. `mode` is subject to the umask.
///
/// # Errors
/// As [`open_dir`], or when it cannot be made.
pub fn make_dir(parent: impl AsFd, name: &OsStr, mode: u32) -> io::Result<OwnedFd> {
    match mkdirat(&parent, plain(name)?, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(Errno::EXIST) => open_dir(parent, name),
        Err(error) => Err(error.into()),
    }
}

/// Opens the plain file `name` in `parent` for reading, with what is known of it. Never waits: a pipe has no reader's end.
///
/// # Errors
/// When it is not there, or is something else.
pub fn open_file(parent: impl AsFd, name: &OsStr) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(parent, plain(name)?, flags, Mode::empty())?);
    let found = fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"));
    }
    Ok((file, found))
}

/// Makes the plain file `name` in `parent`, which must not be there. `mode` is subject to the umask.
///
/// # Errors
/// When something of that name is there, or it cannot be made.
pub fn create_file(parent: impl AsFd, name: &OsStr, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(openat(parent, plain(name)?, flags, Mode::from_raw_mode(mode))?))
}

/// What stands at `name` in `parent`, a link as itself; `None` when nothing does.
///
/// # Errors
/// When it cannot be looked at.
pub fn look(parent: impl AsFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match statat(parent, plain(name)?, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The kind of what was looked at.
#[must_use]
pub fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// The parts of a path that may be used beneath a directory.
///
/// # Errors
/// What is wrong with it, to be read after `it`.
pub fn parts(path: &str) -> Result<Vec<&str>, &'static str> {
    if path.is_empty() {
        return Err("is empty");
    }
    if path.len() > LONGEST_PATH {
        return Err("is longer than 1,024 bytes");
    }
    if path.chars().any(char::is_control) {
        return Err("holds control characters");
    }
    if path.starts_with('/') {
        return Err("is not relative");
    }
    let parts: Vec<&str> = path.split('/').collect();
    if parts.len() > DEEPEST {
        return Err("is deeper than 32 directories");
    }
    for part in &parts {
        match *part {
            "" => return Err("has an empty part"),
            "." | ".." => return Err("holds `.` or `..`"),
            part if part.len() > LONGEST_NAME => return Err("has a part longer than 255 bytes"),
            _ => {}
        }
    }
    Ok(parts)
}

/// One plain name: what makes every function here stay beneath.
fn plain(name: &OsStr) -> io::Result<&OsStr> {
    let bytes = name.as_bytes();
    if matches!(bytes, b"" | b"." | b"..") || bytes.contains(&b'/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain name"));
    }
    Ok(name)
}

fn directory() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// How much is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Reach {
    /// Entries of any kind.
    pub entries: usize,
    /// Directories one in another, the root not counted.
    pub depth: usize,
}

/// Something that was found on a walk.
#[derive(Debug)]
pub struct Found<'a> {
    /// Handle of the directory it is in.
    pub parent: BorrowedFd<'a>,
    /// Its name.
    pub name: &'a OsStr,
    /// Its path beneath the root, with `/`.
    pub path: &'a OsStr,
    /// What is known of it; a link is a link.
    pub stat: &'a Stat,
    /// A directory that cannot be looked into.
    pub closed: bool,
}

/// Why a walk ended early.
#[derive(Debug)]
pub enum WalkError<E> {
    /// More entries than the reach allows.
    TooMany,
    /// A directory deeper than the reach allows; its path.
    TooDeep(OsString),
    /// The root cannot be listed.
    Io(io::Error),
    /// The visitor wanted no more.
    Stopped(E),
}

/// What a visitor says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// Look into it, if it is a directory.
    On,
    /// Do not look into it.
    Past,
}

/// Visits everything beneath `root`, a directory before what is in it, names in the order of their bytes.
/// What vanishes meanwhile is passed over.
///
/// # Errors
/// See [`WalkError`].
pub fn walk<E>(
    root: impl AsFd,
    reach: Reach,
    visit: &mut dyn FnMut(&Found<'_>) -> Result<Go, E>,
) -> Result<(), WalkError<E>> {
    let mut walker = Walker { left: reach.entries, depth: reach.depth, visit };
    let names = walker.names(root.as_fd())?;
    walker.level(root.as_fd(), OsStr::new(""), names, 0)
}

struct Walker<'a, E> {
    left: usize,
    depth: usize,
    visit: &'a mut dyn FnMut(&Found<'_>) -> Result<Go, E>,
}

impl<E> Walker<'_, E> {
    fn level(
        &mut self,
        dir: BorrowedFd<'_>,
        at: &OsStr,
        names: Vec<OsString>,
        depth: usize,
    ) -> Result<(), WalkError<E>> {
        for name in names {
            let Ok(Some(stat)) = look(dir, &name) else { continue };
            let mut path = at.to_owned();
            if !at.is_empty() {
                path.push("/");
            }
            path.push(&name);
            let is_dir = kind(&stat) == FileType::Directory;
            let inside = if is_dir { open_dir(dir, &name).ok() } else { None };
            let found = Found {
                parent: dir,
                name: &name,
                path: &path,
                stat: &stat,
                closed: is_dir && inside.is_none(),
            };
            let go = (self.visit)(&found).map_err(WalkError::Stopped)?;
            let Some(inside) = inside.filter(|_| go == Go::On) else { continue };
            if depth >= self.depth {
                return Err(WalkError::TooDeep(path));
            }
            let names = self.names(inside.as_fd())?;
            self.level(inside.as_fd(), &path, names, depth + 1)?;
        }
        Ok(())
    }

    /// The names in a directory, sorted; no more than are left to be looked at.
    fn names(&mut self, dir: BorrowedFd<'_>) -> Result<Vec<OsString>, WalkError<E>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(dir).map_err(|error| WalkError::Io(error.into()))? {
            let entry = entry.map_err(|error| WalkError::Io(error.into()))?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            self.left = self.left.checked_sub(1).ok_or(WalkError::TooMany)?;
            names.push(OsStr::from_bytes(name).to_owned());
        }
        names.sort_unstable();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const REACH: Reach = Reach { entries: 100, depth: 3 };

    fn paths(root: &Path, reach: Reach) -> Result<Vec<String>, WalkError<Infallible>> {
        let mut paths = Vec::new();
        walk(open_root(root).unwrap(), reach, &mut |found| {
            paths.push(found.path.to_string_lossy().into_owned());
            Ok(Go::On)
        })?;
        Ok(paths)
    }

    #[test]
    fn a_walk_is_sorted_and_looks_through_no_link() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(other.path().join("secret"), "x").unwrap();
        fs::create_dir_all(dir.path().join("b/c")).unwrap();
        for file in ["b/c/z", "b/y", "a"] {
            fs::write(dir.path().join(file), "x").unwrap();
        }
        symlink(other.path(), dir.path().join("link")).unwrap();
        assert_eq!(paths(dir.path(), REACH).unwrap(), ["a", "b", "b/c", "b/c/z", "b/y", "link"]);
    }

    #[test]
    fn a_walk_ends_where_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("1/2/3/4/5")).unwrap();
        let deep = paths(dir.path(), REACH).unwrap_err();
        assert!(matches!(&deep, WalkError::TooDeep(path) if path == "1/2/3/4"), "{deep:?}");
        for name in 0..40 {
            fs::write(dir.path().join(format!("f{name}")), "").unwrap();
        }
        let many = paths(dir.path(), Reach { entries: 40, depth: 9 }).unwrap_err();
        assert!(matches!(many, WalkError::TooMany));
    }

    #[test]
    fn only_plain_files_are_opened_and_nothing_waits() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        symlink(".", dir.path().join("here")).unwrap();
        rustix::fs::mkfifoat(CWD, dir.path().join("pipe"), Mode::from_raw_mode(0o600)).unwrap();
        let root = open_root(dir.path()).unwrap();
        assert!(open_file(&root, OsStr::new("file")).is_ok());
        for name in ["link", "pipe", "here", "..", ".", "", "x/../file", "/etc/passwd"] {
            assert!(open_file(&root, OsStr::new(name)).is_err(), "{name}");
            assert!(open_dir(&root, OsStr::new(name)).is_err(), "{name}");
        }
        assert!(make_dir(&root, OsStr::new("here"), 0o755).is_err(), "a link is not used as a directory");
        assert!(create_file(&root, OsStr::new("link"), 0o644).is_err());
    }

    #[test]
    fn paths_that_lead_elsewhere_have_a_reason() {
        assert_eq!(parts("a/b c/ü.md").unwrap(), ["a", "b c", "ü.md"]);
        for bad in ["", "/a", "a//b", "a/", "./a", "a/../b", "..", "a\nb", "a\0b", "\u{9b}x"] {
            assert!(parts(bad).is_err(), "{bad:?}");
        }
        assert!(parts(&"a/".repeat(32)).is_err() && parts(&["a"; 33].join("/")).is_err());
        assert!(parts(&["a"; 32].join("/")).is_ok());
        assert!(parts(&"x".repeat(256)).is_err() && parts(&"x".repeat(255)).is_ok());
        assert!(parts(&["x".repeat(200).as_str(); 6].join("/")).is_err());
    }
}
