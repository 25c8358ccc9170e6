//! Which places hold what no task may see: the agent's own, homes, sockets of the host, and well-known secrets.
//! Knows paths only; hides nothing itself.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2, readlink};

use super::fds;

/// Hidden on every host: other people's files, the sockets of the host's services (whoever reaches the one of a
/// container engine or of a service manager has left every sandbox), and the keys of orch.
const ALWAYS: [&str; 6] = ["/etc/orch", "/home", "/root", "/run", "/var/lib/orch", "/var/run"];

/// Readable for an agent that runs as root, and nobody else's business.
const OF_ROOT: [&str; 6] =
    ["/etc/gshadow", "/etc/gshadow-", "/etc/shadow", "/etc/shadow-", "/etc/ssl/private", "/var/spool/cron"];

/// Directories every program needs: a request to hide one of them, or what holds it, would hide the system.
const SYSTEM: [&str; 12] = [
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/lib64",
    "/nix/store",
    "/opt",
    "/proc",
    "/sbin",
    "/sys",
    "/tmp",
    "/usr",
];

/// Private to every attempt: what others left there is not to be seen.
pub const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

/// Everything that is to be hidden: `own` places of the agent and those of the host, as they really are, without
/// links, sorted. What does not exist is left out; so is what would hide the system itself.
#[must_use]
pub fn hidden(own: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut wanted: BTreeSet<PathBuf> = own.iter().filter_map(|path| closed_parent(path)).collect();
    wanted.extend(own);
    wanted.extend(ALWAYS.into_iter().chain(OF_ROOT).map(PathBuf::from));
    wanted.extend(std::env::home_dir());
    wanted.extend(host_keys());
    let real: BTreeSet<PathBuf> = wanted.iter().filter_map(|path| real(path).ok()).collect();
    real.into_iter().filter(|path| !holds_system(path)).collect()
}

/// A place as it really is, without links.
pub(super) fn real(path: &Path) -> io::Result<PathBuf> {
    hold(path).map(|(real, _)| real)
}

/// The same, and whether it is a directory.
pub(super) fn found(path: &Path) -> io::Result<(PathBuf, bool)> {
    let (real, held) = hold(path)?;
    let is_dir = FileType::from_raw_mode(fstat(&held)?.st_mode).is_dir();
    Ok((real, is_dir))
}

/// The kernel tells the name of what was opened, at once and not step by step. Mostly there is no link on the way, which it
/// says sooner than where a link leads.
fn hold(path: &Path) -> io::Result<(PathBuf, OwnedFd)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let is_plain = path.is_absolute() && path.components().all(|part| part != Component::ParentDir);
    if is_plain && let Ok(held) = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        return Ok((path.components().collect(), held));
    }
    let held = open(path, flags, Mode::empty())?;
    let told = readlink(fds::path(held.as_raw_fd()), Vec::new())?;
    Ok((PathBuf::from(OsString::from_vec(told.into_bytes())), held))
}

/// The directory of a secret file, when it is closed to others: then everything in it is meant for the agent, and a
/// file that replaces the secret later, or is not there yet, stays hidden too.
fn closed_parent(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let mode = fs::metadata(parent).ok()?.permissions().mode();
    (!path.is_dir() && mode & 0o007 == 0).then(|| parent.to_owned())
}

/// Whether hiding a place would hide the system.
pub(super) fn holds_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| Path::new(system).starts_with(path))
}

fn host_keys() -> Vec<PathBuf> {
    let entries = fs::read_dir("/etc/ssh").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ssh_host_") && name.ends_with("_key")
        })
        .collect()
}

/// Whether showing `dir` would show a hidden place whole: it is one, or holds one.
#[must_use]
pub fn uncovers(dir: &Path, hidden: &[PathBuf]) -> bool {
    holds_one(&real(dir).unwrap_or_else(|_| dir.to_owned()), hidden)
}

/// The same of a directory without links on its way.
fn holds_one(real: &Path, hidden: &[PathBuf]) -> bool {
    let private = PRIVATE.into_iter().map(Path::new);
    private.chain(hidden.iter().map(PathBuf::as_path)).any(|place| place.starts_with(real))
}

/// What a program needs to be read so that it can be executed: its directory, those of the links that lead to it,
/// the packages it was installed with, this very program, and the search path. Where a directory would uncover a hidden
/// place the file alone.
#[must_use]
pub fn of_program(
    program: &Path,
    search_path: &str,
    own_exe: Option<&Path>,
    hidden: &[PathBuf],
) -> Vec<PathBuf> {
    let mut found = BTreeSet::new();
    for file in links(program).into_iter().chain(real(program)).chain(own_exe.map(Path::to_owned)) {
        match file.parent() {
            Some(dir) if !uncovers(dir, hidden) => found.insert(dir.to_owned()),
            _ => found.insert(file.clone()),
        };
        found.extend(packages(&file));
    }
    let dirs = search_path.split(':').map(PathBuf::from).filter(|dir| dir.is_absolute());
    let is_given =
        |dir: &PathBuf| self::found(dir).is_ok_and(|(real, is_dir)| is_dir && !holds_one(&real, hidden));
    found.extend(dirs.filter(is_given));
    // The one file of /run that programs do need.
    found.insert(PathBuf::from("/etc/resolv.conf"));
    found.into_iter().collect()
}

/// A program, and every link on the way to it.
fn links(program: &Path) -> Vec<PathBuf> {
    /// As the kernel.
    const MOST: usize = 40;
    let mut steps = vec![program.to_owned()];
    while let Some(last) = steps.last() {
        let Ok(target) = fs::read_link(last) else { break };
        let next = last.parent().unwrap_or_else(|| Path::new("/")).join(target);
        if steps.len() >= MOST || steps.contains(&next) {
            break;
        }
        steps.push(next);
    }
    steps
}

/// The outermost `node_modules` around a file: a script there needs its neighbours.
fn packages(file: &Path) -> Option<PathBuf> {
    file.ancestors()
        .filter(|dir| dir.file_name().is_some_and(|name| name == "node_modules"))
        .last()
        .map(Path::to_owned)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_system_is_never_hidden_and_what_is_not_there_is_no_trouble() {
        let found = hidden(["/", "/usr", "/etc", "/nonexistent", "/tmp"].map(PathBuf::from).to_vec());
        for system in ["/", "/usr", "/etc", "/tmp", "/nonexistent"] {
            assert!(!found.contains(&PathBuf::from(system)), "{system}");
        }
        assert!(Path::new("/home").is_dir() == found.contains(&PathBuf::from("/home")));
    }

    #[test]
    fn a_place_is_told_by_its_real_name_whatever_leads_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("dir/file"), "x").unwrap();
        symlink("dir", root.join("link")).unwrap();
        symlink("../dir/file", root.join("dir/other")).unwrap();
        for way in ["dir/file", "dir//./file", "link/file", "dir/other", "link/../dir/file"] {
            assert_eq!(found(&root.join(way)).unwrap(), (root.join("dir/file"), false), "{way}");
        }
        assert_eq!(found(&root.join("link")).unwrap(), (root.join("dir"), true));
        assert_eq!(real(&root.join("gone")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_closed_directory_around_a_key_is_hidden_with_it_and_an_open_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        let key = real.join("key");
        fs::write(&key, "x").unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o700)).unwrap();
        assert!(hidden(vec![key.clone()]).contains(&real));
        assert!(hidden(vec![real.join("comes-later")]).contains(&real));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o755)).unwrap();
        let found = hidden(vec![key.clone()]);
        assert!(found.contains(&key) && !found.contains(&real));
    }

    #[test]
    fn a_program_behind_links_brings_every_directory_on_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        for sub in ["bin", "share", "node_modules/pkg/bin"] {
            fs::create_dir_all(real.join(sub)).unwrap();
        }
        fs::write(real.join("node_modules/pkg/bin/claude"), "").unwrap();
        symlink("../node_modules/pkg/bin/claude", real.join("share/claude")).unwrap();
        symlink("../share/claude", real.join("bin/claude")).unwrap();
        let found = of_program(&real.join("bin/claude"), "", None, &[]);
        for dir in ["bin", "bin/../share", "node_modules/pkg/bin", "node_modules"] {
            assert!(found.contains(&real.join(dir)), "{dir}: {found:?}");
        }
    }

    #[test]
    fn a_program_beside_hidden_things_comes_alone() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        let (program, data) = (real.join("claude"), real.join("data"));
        fs::write(&program, "").unwrap();
        fs::create_dir(&data).unwrap();
        let found = of_program(&program, &real.display().to_string(), None, std::slice::from_ref(&data));
        assert!(found.contains(&program) && !found.contains(&real), "{found:?}");
    }

    #[test]
    fn links_in_a_circle_end() {
        let dir = tempfile::tempdir().unwrap();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        assert!(links(&dir.path().join("a")).len() <= 3);
    }
}
