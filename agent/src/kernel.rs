//! The calls to the kernel that no library offers as a safe function, each with what makes it safe here. The only file of
//! the agent with `unsafe` in it. Knows no attempt and no sandbox.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use nix::libc;
use nix::sched::CloneFlags;
use nix::unistd::ForkResult;
use rustix::process::Pid;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Which of the two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The one that forked, with the pid of the other.
    Parent(Pid),
    /// The new one.
    Child,
}

/// What a copy may have of its own: everything else that can be asked for with it would not be a copy.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS);

bitflags::bitflags! {
    /// What a mount does not allow.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct MountAttributes: u64 {
        /// Writing.
        const READ_ONLY = libc::MOUNT_ATTR_RDONLY;
        /// Programs that run as their owner.
        const NO_SUID = libc::MOUNT_ATTR_NOSUID;
        /// Opening devices.
        const NO_DEVICES = libc::MOUNT_ATTR_NODEV;
    }
}

/// Makes a copy of this process, which must have one thread.
///
/// # Errors
/// When it has more than one, `/proc` is not mounted, or the host has no room for another process.
pub fn fork() -> io::Result<Forked> {
    have_one_thread()?;
    #[expect(unsafe_code, reason = "no library offers fork as a safe function")]
    // SAFETY: what makes fork unsafe are locks that another thread holds at this moment, which nobody would give back in the
    // copy. There is no other thread, and none can come: only this one could start it.
    let forked = unsafe { nix::unistd::fork() };
    match forked? {
        ForkResult::Child => Ok(Forked::Child),
        ForkResult::Parent { child } => {
            let pid =
                Pid::from_raw(child.as_raw()).ok_or_else(|| io::Error::other("a child without a pid"))?;
            Ok(Forked::Parent(pid))
        }
    }
}

/// The same into namespaces of the copy's own, of which a user namespace is made before the others. The parent stays where
/// it is, and the copy is the first process of a PID namespace that is made. Flags that name no namespace are not heeded.
///
/// # Errors
/// As [`fork`], or when this process may not make them.
pub fn fork_into(namespaces: CloneFlags) -> io::Result<Forked> {
    have_one_thread()?;
    let namespaces = namespaces.intersection(NAMESPACES);
    let (flags, none) = (libc::c_long::from(namespaces.bits() | libc::SIGCHLD), libc::c_long::from(0));
    #[expect(unsafe_code, reason = "no library offers fork into namespaces")]
    // SAFETY: without a stack and without CLONE_VM this is what fork is, and safe for the same reason. What glibc's own does
    // beyond that is for processes with threads, but for the thread id it keeps, which nothing asks it for.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Forked::Child),
        Ok(pid) if pid > 0 => {
            Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| io::Error::other("a child without a pid"))
        }
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Ends this process now. What a program does at its end is for one that goes back into its beginnings; a copy that has
/// done its work has nothing to give back that the kernel does not take.
pub fn leave(code: u8) -> ! {
    #[expect(unsafe_code, reason = "no library offers _exit as a safe function")]
    // SAFETY: it does not return, so nothing can miss what was not dropped.
    unsafe {
        libc::_exit(i32::from(code))
    }
}

/// Closes every descriptor of a range, its ends included, whether it is open or not. For one who knows that nobody uses them.
///
/// # Errors
/// When the kernel is older than 5.9.
pub fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    let none: libc::c_uint = 0;
    #[expect(unsafe_code, reason = "no library offers close_range")]
    // SAFETY: no memory is touched. That nobody uses the descriptors is for the caller to know, as with every closing by number.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, none) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives every mount of a tree these attributes besides those it has. An empty `path` means what `dir` itself holds.
///
/// # Errors
/// When the kernel is older than 5.12, or this process may not.
pub fn set_mount(
    dir: impl AsFd,
    path: &Path,
    attributes: MountAttributes,
    whole_tree: bool,
) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_encoded_bytes())?;
    let wanted = libc::mount_attr { attr_set: attributes.bits(), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if whole_tree { libc::AT_RECURSIVE } else { 0 };
    #[expect(unsafe_code, reason = "no library offers mount_setattr")]
    // SAFETY: both pointers lead to what lives until the call returns, and the length is that of the second.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            dir.as_fd().as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(&wanted),
            size_of_val(&wanted),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor whose readiness to be read can be waited for.
///
/// # Errors
/// When the kernel knows no readiness of it. To be called within a runtime.
pub fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(unsafe_code, reason = "tokio offers it as unsafe for types that may change their descriptor")]
    // SAFETY: an `OwnedFd` has one descriptor from its making to its end.
    let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    watched.map_err(io::Error::from)
}

fn have_one_thread() -> io::Result<()> {
    if threads()? == 1 {
        return Ok(());
    }
    Err(io::Error::other("a process with several threads cannot be copied"))
}

/// How many threads this process has: a directory has a link for each directory in it, for itself and for its own entry.
fn threads() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/self/task")?.st_nlink().saturating_sub(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || held.recv());
        assert!(threads().unwrap() > 1);
        assert!(fork().is_err());
        assert!(fork_into(CloneFlags::CLONE_NEWUTS).is_err());
        drop(hold);
        assert!(other.join().unwrap().is_err());
    }
}
