//! Carries out the mounts of an attempt in a mount namespace of its own: the host read-only, a `/dev` with nothing but
//! the harmless devices, a `/proc` of its own, and what its plan hides and shows. Everything that is shown is opened
//! before anything is hidden. Decides nothing; what is mounted where is for [`super::mounts`].

use std::fs::{DirBuilder, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, fstat, mkdir, mknodat};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_change, move_mount,
    open_tree,
};
use thiserror::Error;

use crate::kernel::{MountAttributes, set_mount};

use super::mounts::{Mount, PRIVATE_BYTES, What};

/// Devices that any program may use.
const DEVICES: [&str; 6] = ["full", "null", "random", "tty", "urandom", "zero"];

/// Parts of `/proc` that root may write even without capabilities, and that are the whole host's.
const OF_HOST: [&str; 4] = ["bus", "irq", "sys", "sysrq-trigger"];

/// What could not be mounted.
#[derive(Debug, Error)]
#[error("cannot {what} {}", path.display())]
pub struct ViewError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Changes what this process sees, from within the PID namespace that `/proc` is to show. `is_guarded`: landlock keeps hidden
/// places from being written.
///
/// # Errors
/// Names the first place that could not be changed; what was changed stays so.
pub(super) fn lay_out(mounts: &[Mount], is_guarded: bool) -> Result<(), ViewError> {
    let root = Path::new("/");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(root, private).map_err(failed("keep to ourselves", root))?;
    let devices = DEVICES.map(|name| Path::new("/dev").join(name));
    let devices: Vec<(PathBuf, OwnedFd)> =
        devices.into_iter().map(|path| held(&path).map(|tree| (path, tree))).collect::<Result<_, _>>()?;
    let shown = mounts.iter().map(|mount| match mount.what {
        What::Hide | What::Private => Ok(None),
        What::Read | What::Write | What::Blank => held(&mount.from).map(Some),
    });
    let shown: Vec<Option<OwnedFd>> = shown.collect::<Result<_, _>>()?;
    let closed = MountAttributes::READ_ONLY | MountAttributes::NO_DEVICES | MountAttributes::NO_SUID;
    set_mount(CWD, root, closed, true).map_err(|source| failure("close", root, source))?;
    lay_out_devices(devices)?;
    lay_out_processes()?;
    for (mount, tree) in mounts.iter().zip(shown) {
        carry_out(mount, tree)?;
    }
    for hidden in mounts.iter().filter(|mount| mount.what == What::Hide && !is_guarded) {
        set_mount(CWD, &hidden.at, MountAttributes::READ_ONLY, false)
            .map_err(|source| failure("close", &hidden.at, source))?;
    }
    Ok(())
}

fn carry_out(mount: &Mount, tree: Option<OwnedFd>) -> Result<(), ViewError> {
    let closed = MountAttributes::NO_DEVICES | MountAttributes::NO_SUID;
    let attributes = match mount.what {
        What::Hide => return empty(&mount.at, "mode=0755"),
        What::Private => return empty(&mount.at, &format!("mode=0755,size={PRIVATE_BYTES}")),
        What::Read | What::Blank => closed | MountAttributes::READ_ONLY,
        What::Write => closed,
    };
    let Some(tree) = tree else { return Ok(()) };
    change(&tree, &mount.at, attributes)?;
    // Mostly there is something to mount over.
    match move_to(&tree, &mount.at) {
        Err(Errno::NOENT) => {}
        done => return done.map_err(failed("show", &mount.at)),
    }
    // Where it came from may be hidden by now.
    let about = fstat(&tree).map_err(failed("look at", &mount.from))?;
    make_room(&mount.at, FileType::from_raw_mode(about.st_mode).is_dir())?;
    put(&tree, &mount.at)
}

fn lay_out_devices(devices: Vec<(PathBuf, OwnedFd)>) -> Result<(), ViewError> {
    let dev = Path::new("/dev");
    empty(dev, "mode=0755")?;
    for (path, tree) in devices {
        // Nothing is there yet.
        mknodat(CWD, &path, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
            .map_err(failed("make", &path))?;
        put(&tree, &path)?;
    }
    for (link, target) in [
        ("core", "/proc/kcore"),
        ("fd", "/proc/self/fd"),
        ("ptmx", "pts/ptmx"),
        ("stderr", "/proc/self/fd/2"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
    ] {
        let link = dev.join(link);
        symlink(target, &link).map_err(|source| failure("make", &link, source))?;
    }
    let (shm, pts) = (dev.join("shm"), dev.join("pts"));
    for dir in [&shm, &pts] {
        mkdir(dir, Mode::from_raw_mode(0o755)).map_err(failed("make", dir))?;
    }
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", &pts, "devpts", flags, Some(c"newinstance,ptmxmode=0666,mode=620"))
        .map_err(failed("mount a devpts at", &pts))
}

fn lay_out_processes() -> Result<(), ViewError> {
    let proc = Path::new("/proc");
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", proc, "proc", flags, None).map_err(failed("mount proc at", proc))?;
    for part in OF_HOST.map(|part| proc.join(part)) {
        if !part.exists() {
            continue;
        }
        let tree = held(&part)?;
        change(&tree, &part, MountAttributes::READ_ONLY)?;
        put(&tree, &part)?;
    }
    Ok(())
}

/// A copy of what is mounted at a place and below it, held by a descriptor and mounted nowhere yet.
fn held(place: &Path) -> Result<OwnedFd, ViewError> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, place, flags).map_err(failed("open", place))
}

fn put(tree: &OwnedFd, at: &Path) -> Result<(), ViewError> {
    move_to(tree, at).map_err(failed("show", at))
}

fn move_to(tree: &OwnedFd, at: &Path) -> rustix::io::Result<()> {
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Before it is shown at a place.
fn change(tree: &OwnedFd, at: &Path, attributes: MountAttributes) -> Result<(), ViewError> {
    set_mount(tree, Path::new(""), attributes, true).map_err(|source| failure("close", at, source))
}

fn empty(at: &Path, options: &str) -> Result<(), ViewError> {
    let options = std::ffi::CString::new(options).unwrap_or_default();
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    let tmpfs = || mount("tmpfs", at, "tmpfs", flags, Some(options.as_c_str()));
    let done = match tmpfs() {
        Err(Errno::NOENT) => make_room(at, true).map(|()| tmpfs())?,
        done => done,
    };
    done.map_err(failed("mount a tmpfs at", at))
}

/// Makes something to mount over, where an empty directory hides what was there.
fn make_room(at: &Path, is_dir: bool) -> Result<(), ViewError> {
    let make = |dir: &Path| DirBuilder::new().recursive(true).mode(0o755).create(dir);
    let made = if is_dir {
        make(at)
    } else {
        at.parent()
            .map_or(Ok(()), make)
            .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(0o644).open(at).map(drop))
    };
    made.map_err(|source| failure("make", at, source))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(Errno) -> ViewError {
    move |error| failure(what, path, error.into())
}

fn failure(what: &'static str, path: &Path, source: io::Error) -> ViewError {
    ViewError { what, path: path.to_owned(), source }
}
