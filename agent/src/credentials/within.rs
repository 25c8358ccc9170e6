//! Files in a directory that a child may write: opened without following a link, so that what a child puts there can
//! lead nowhere else. Knows names and bytes; refuses to know what they mean.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, fsync, open, openat, renameat, unlinkat};

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

impl Dir {
    /// Opens a directory; a link in its place is refused.
    ///
    /// # Errors
    /// When it is not there, or something else is.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self(open(path, flags, Mode::empty())?))
    }

    /// The same for a directory that a child may have closed to its own user, or the one around it. Nothing of the child
    /// runs any more.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn reclaim(path: &Path) -> io::Result<Self> {
        path.parent().into_iter().chain([path]).for_each(open_up);
        Self::open(path)
    }

    /// Reads a plain file of at most `most` bytes; `None` when there is none. A link, a pipe or a longer file counts
    /// as none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&self, name: &str, most: usize) -> io::Result<Option<Vec<u8>>> {
        self.open_plain(name)?.map_or(Ok(None), |file| Self::read_plain(file, most))
    }

    /// All of an open file, or `None` when it has more than `most` bytes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read_plain(file: File, most: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        file.take(most as u64 + 1).read_to_end(&mut bytes)?;
        Ok((bytes.len() <= most).then_some(bytes))
    }

    /// Opens a plain file to read it; `None` when there is none. A link or a pipe counts as none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_plain(&self, name: &str) -> io::Result<Option<File>> {
        // Non-blocking: a pipe in its place must not hold up the agent.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.0, name, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// Replaces a file as a whole, mode 0600, on the disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; the old one is then as it was.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let new = format!("{name}.{:016x}", rand::random::<u64>());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.0, &new, flags, Mode::RUSR | Mode::WUSR)?);
        let written = file
            .write_all(bytes)
            .and_then(|()| file.sync_all())
            .and_then(|()| Ok(renameat(&self.0, &new, &self.0, name)?))
            .and_then(|()| Ok(fsync(&self.0)?));
        if written.is_err() {
            // Nothing of a secret stays under a name that nobody looks for.
            let _ = unlinkat(&self.0, &new, AtFlags::empty());
        }
        written
    }

    /// Removes a file; one that is not there is fine. A directory in its place gets another name: it is a child's, and
    /// whatever is in it must not decide whether the name becomes free.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR) => {
                let aside = format!("{name}.{:016x}", rand::random::<u64>());
                Ok(renameat(&self.0, name, &self.0, &aside)?)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Gives its owner the rights to a directory back.
fn open_up(dir: &Path) {
    let closed = fs::symlink_metadata(dir)
        .is_ok_and(|found| found.is_dir() && found.permissions().mode() & 0o700 != 0o700);
    if closed {
        // What still cannot be used makes the opening fail, which is reported.
        let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o700));
    }
}

/// Replaces a file of the agent's own as a whole, mode 0600; a link leads to the file that is replaced.
///
/// # Errors
/// When it cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let (Some(dir), Some(name)) = (target.parent(), target.file_name().and_then(|name| name.to_str())) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    Dir::open(dir)?.write(name, bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_written_read_and_removed_as_a_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let open = Dir::open(dir.path()).unwrap();
        assert_eq!(open.read("x", 10).unwrap(), None);
        open.write("x", b"one").unwrap();
        open.write("x", b"two").unwrap();
        assert_eq!(open.read("x", 3).unwrap().unwrap(), b"two");
        assert_eq!(open.read("x", 2).unwrap(), None, "too long");
        assert_eq!(fs::metadata(dir.path().join("x")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        open.remove("x").unwrap();
        open.remove("x").unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn no_link_is_followed_and_no_pipe_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir(&inside).unwrap();
        fs::write(&outside, "secret").unwrap();
        symlink(&outside, inside.join("link")).unwrap();
        symlink(&inside, dir.path().join("alias")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, inside.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0)
            .unwrap();
        assert!(Dir::open(&dir.path().join("alias")).is_err());
        let open = Dir::open(&inside).unwrap();
        assert_eq!(open.read("link", 99).unwrap(), None);
        assert_eq!(open.read("pipe", 99).unwrap(), None);
        open.write("link", b"new").unwrap();
        assert_eq!(fs::read(&outside).unwrap(), b"secret", "the link was replaced, not followed");
        assert_eq!(open.read("link", 99).unwrap().unwrap(), b"new");
    }

    #[test]
    fn a_directory_in_the_place_of_a_file_gives_way() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("x/full")).unwrap();
        let open = Dir::open(dir.path()).unwrap();
        open.remove("x").unwrap();
        open.write("x", b"new").unwrap();
        assert_eq!(open.read("x", 9).unwrap().unwrap(), b"new");
    }

    #[test]
    fn a_directory_that_was_closed_is_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let (home, config) = (dir.path().join("home"), dir.path().join("home/config"));
        fs::create_dir_all(&config).unwrap();
        for path in [&config, &home] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o0)).unwrap();
        }
        Dir::reclaim(&config).unwrap().write("x", b"x").unwrap();
        for path in [&config, &home] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("taken")).unwrap();
        Dir::open(dir.path()).unwrap().write("taken", b"x").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_of_our_own_leads_to_what_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        fs::write(&real, "old").unwrap();
        symlink(&real, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read(&real).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
