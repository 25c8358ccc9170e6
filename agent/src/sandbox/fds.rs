//! Handing open files through a foreign program: descriptors that stay open over its `execve`, addressed by number on
//! the other side. Knows no meaning of any file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::kernel::close_range;

/// Lets a descriptor stay open for whatever program is started while it is.
///
/// # Errors
/// When there is no such descriptor.
pub fn keep(fd: impl AsFd) -> io::Result<()> {
    Ok(fcntl_setfd(fd, FdFlags::empty())?)
}

/// Where an open descriptor of this process can be opened again.
#[must_use]
pub fn path(fd: RawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
}

/// Opens the pipe or device behind a kept descriptor for writing, or else for reading, as a file that no child
/// inherits, and closes the kept one.
///
/// # Errors
/// When there is no such descriptor.
pub fn take(fd: RawFd, write: bool) -> io::Result<File> {
    let file = OpenOptions::new().read(!write).write(write).open(path(fd))?;
    close(fd)?;
    Ok(file)
}

/// Closes a kept descriptor.
///
/// # Errors
/// When there is no such descriptor.
pub fn close(fd: RawFd) -> io::Result<()> {
    nix::unistd::close(fd).map_err(io::Error::from)
}

/// Closes everything but standard input, output and error: whatever was open where this program was started must not
/// be passed on to a task. For the very beginning of a program that has opened nothing itself.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn close_inherited() -> io::Result<()> {
    close_all_but(&[])
}

/// Closes everything but standard input, output and error and what is to be `kept`. For a copy of a process, in which nobody
/// uses or closes the rest.
///
/// # Errors
/// When the kernel cannot do so at once, and `/proc` cannot be read.
pub fn close_all_but(kept: &[&OwnedFd]) -> io::Result<()> {
    let mut kept: Vec<RawFd> = kept.iter().map(|fd| fd.as_raw_fd()).filter(|fd| *fd > 2).collect();
    kept.sort_unstable();
    close_between(&kept).or_else(|_| close_listed(&kept))
}

fn close_between(kept: &[RawFd]) -> io::Result<()> {
    gaps(kept).try_for_each(|(first, last)| close_range(first, last))
}

/// What lies between standard error and the `kept`, which are in ascending order, between those, and beyond.
fn gaps(kept: &[RawFd]) -> impl Iterator<Item = (RawFd, RawFd)> {
    let firsts = std::iter::once(3).chain(kept.iter().map(|fd| fd + 1));
    let lasts = kept.iter().map(|fd| fd - 1).chain(std::iter::once(RawFd::MAX));
    firsts.zip(lasts).filter(|(first, last)| first <= last)
}

/// The same on a kernel that does not know how.
fn close_listed(kept: &[RawFd]) -> io::Result<()> {
    let names: Vec<_> =
        std::fs::read_dir("/proc/self/fd")?.flatten().map(|entry| entry.file_name()).collect();
    let numbers = names.iter().filter_map(|name| name.to_str()?.parse::<RawFd>().ok());
    for fd in numbers.filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // That of the listing itself is closed already.
        let _ = close(fd);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::IntoRawFd;

    use super::*;

    /// The closing itself is for a process of its own; which ranges are closed is not.
    #[test]
    fn what_lies_between_the_kept_is_closed() {
        let ranges = |kept: &[RawFd]| gaps(kept).collect::<Vec<_>>();
        assert_eq!(ranges(&[]), [(3, RawFd::MAX)]);
        assert_eq!(ranges(&[3, 4, 7]), [(5, 6), (8, RawFd::MAX)]);
        assert_eq!(ranges(&[5]), [(3, 4), (6, RawFd::MAX)]);
    }

    #[test]
    fn a_kept_pipe_is_taken_over_and_closed() {
        let (mut reader, writer) = io::pipe().unwrap();
        keep(&writer).unwrap();
        let mut again = take(writer.into_raw_fd(), true).unwrap();
        again.write_all(b"hello").unwrap();
        drop(again);
        let mut said = String::new();
        reader.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello", "the pipe ended, so nothing held it open");
    }
}
