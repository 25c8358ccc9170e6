//! From a plan to the mounts of one attempt, as a list and as arguments of bubblewrap. The deepest place wins: a hidden directory, a
//! readable one in it, a hidden file in that. Every path inside is the same as outside, because a resumed
//! conversation needs the same working directory.
//! Looks at the disk for what exists; mounts nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Plan;
use super::places::{self, PRIVATE};

/// Largest private directory in bytes. It is memory; tasks have disk below their home, where `TMPDIR` points.
pub(super) const PRIVATE_BYTES: u64 = 1024 * 1024 * 1024;

/// What all attempts share: the namespaces, no capability, and a read-only view of the host with its own `/proc` and
/// a `/dev` that holds no device but the harmless ones.
#[must_use]
pub fn namespaces() -> Vec<&'static str> {
    let namespaces = "--unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try";
    let life = "--die-with-parent --new-session --as-pid-1 --cap-drop ALL";
    // bubblewrap leaves /proc/sys as it is, because nobody may write that directory itself; root may write what is in it.
    let view = "--ro-bind / / --dev /dev --proc /proc --ro-bind-try /proc/sys /proc/sys";
    [namespaces, life, view].into_iter().flat_map(str::split_ascii_whitespace).collect()
}

/// What is done with a place. Of two at the same place the later one in this list wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// An empty directory that nobody can write.
    Hide,
    /// An empty directory of the attempt's own.
    Private,
    /// The place as it is, read-only.
    Read,
    /// The place as it is.
    Write,
    /// A device on a mount that allows none: it cannot even be opened.
    Blank,
}

/// One place of an attempt's view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where.
    pub(super) at: PathBuf,
    /// What is shown there, unless something empty is.
    pub(super) from: PathBuf,
    /// How.
    pub(super) what: What,
}

/// What shows the attempt what `plan` allows, and `also`: more places to read. Each comes after what it lies in.
pub(super) fn wanted(plan: &Plan, also: &[PathBuf]) -> Vec<Mount> {
    needed(collect(plan, also))
}

/// Arguments that show the attempt what `plan` allows, and `also`: more places to read.
#[must_use]
pub fn arguments(plan: &Plan, also: &[PathBuf]) -> Vec<OsString> {
    let sizes = plan.bwrap.as_ref().is_some_and(|bwrap| bwrap.sizes);
    let mounts = wanted(plan, also);
    let mut args: Vec<OsString> = Vec::new();
    for mount in &mounts {
        let Mount { at, from, what } = mount;
        match what {
            What::Hide => args.extend(["--tmpfs".into(), at.into()]),
            What::Private => {
                if sizes {
                    args.extend(["--size".into(), PRIVATE_BYTES.to_string().into()]);
                }
                args.extend(["--tmpfs".into(), at.into()]);
            }
            What::Read | What::Blank => args.extend(["--ro-bind".into(), from.into(), at.into()]),
            What::Write => args.extend(["--bind".into(), from.into(), at.into()]),
        }
    }
    // Last, because places to show have to be made in them first. Landlock lets nobody write in them either, and bubblewrap
    // reads the list of all mounts anew for each it changes.
    for mount in mounts.into_iter().filter(|mount| mount.what == What::Hide && !plan.landlock) {
        args.extend(["--remount-ro".into(), mount.at.into()]);
    }
    args
}

fn collect(plan: &Plan, also: &[PathBuf]) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for private in PRIVATE.map(PathBuf::from) {
        // A link to another of them is covered by that one.
        if places::found(&private).is_ok_and(|(real, is_dir)| real == private && is_dir) {
            mounts.push(Mount { from: private.clone(), at: private, what: What::Private });
        }
    }
    for place in &plan.hidden {
        let Ok((real, is_dir)) = places::found(place) else { continue };
        let (from, what) =
            if is_dir { (real.clone(), What::Hide) } else { (PathBuf::from("/dev/null"), What::Blank) };
        mounts.push(Mount { at: real, from, what });
    }
    for place in plan.readable.iter().chain(also) {
        mounts.extend(shown(place, &plan.hidden, What::Read));
    }
    for place in &plan.writable {
        mounts.extend(shown(place, &plan.hidden, What::Write));
    }
    mounts
}

/// A place under its real name and, where a link inside a hidden place leads to it, under that name too: the link
/// itself is hidden.
fn shown(place: &Path, hidden: &[PathBuf], what: What) -> Vec<Mount> {
    let Ok(real) = places::real(place) else { return Vec::new() };
    let mut mounts = vec![Mount { at: real.clone(), from: real.clone(), what }];
    let covers = hidden.iter().map(PathBuf::as_path).chain(PRIVATE.map(Path::new));
    let is_covered = covers.into_iter().any(|cover| place.starts_with(cover));
    let is_plain = place.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if is_covered && is_plain && place != real {
        mounts.push(Mount { at: place.to_owned(), from: real, what });
    }
    mounts
}

/// Sorts mounts so that each comes after what it lies in, and leaves out those that change nothing.
fn needed(mut mounts: Vec<Mount>) -> Vec<Mount> {
    mounts.sort_by_cached_key(|mount| (mount.at.components().count(), mount.at.clone(), mount.what));
    let mut kept: Vec<Mount> = Vec::new();
    for mount in mounts {
        if kept.last().is_some_and(|last| last.at == mount.at) {
            kept.pop();
        }
        let around = kept.iter().rev().find(|outer| mount.at.starts_with(&outer.at)).map(|outer| outer.what);
        let is_needed = match (mount.what, around) {
            (What::Hide | What::Blank, Some(What::Hide | What::Private)) => false,
            // The host is readable as a whole.
            (What::Read, None | Some(What::Read)) | (What::Write, Some(What::Write)) => false,
            _ => true,
        };
        if is_needed {
            kept.push(mount);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn mount(at: &str, what: What) -> Mount {
        Mount { at: at.into(), from: at.into(), what }
    }

    fn places(mounts: Vec<Mount>) -> Vec<String> {
        needed(mounts).into_iter().map(|mount| format!("{:?} {}", mount.what, mount.at.display())).collect()
    }

    #[test]
    fn the_deepest_place_wins_whatever_the_order() {
        let mounts = vec![
            mount("/home/u/tool/key", What::Blank),
            mount("/data/tasks/7-0/home", What::Write),
            mount("/home/u/tool", What::Read),
            mount("/data", What::Hide),
            mount("/home", What::Hide),
        ];
        let sorted = [
            "Hide /data",
            "Hide /home",
            "Read /home/u/tool",
            "Write /data/tasks/7-0/home",
            "Blank /home/u/tool/key",
        ];
        assert_eq!(places(mounts), sorted);
    }

    #[test]
    fn what_changes_nothing_is_left_out() {
        let mounts = vec![
            mount("/usr/bin", What::Read),
            mount("/home", What::Hide),
            mount("/home/u/.ssh", What::Hide),
            mount("/home/u/key", What::Blank),
            mount("/home/u/bin", What::Read),
            mount("/home/u/bin/x", What::Read),
            mount("/tmp", What::Private),
            mount("/tmp/data", What::Hide),
        ];
        assert_eq!(places(mounts), ["Hide /home", "Private /tmp", "Read /home/u/bin"]);
    }

    #[test]
    fn of_two_wishes_for_one_place_the_stronger_holds() {
        let both =
            |one, other| places(vec![mount("/a", What::Hide), mount("/a/b", one), mount("/a/b", other)]);
        assert_eq!(both(What::Write, What::Read), ["Hide /a", "Write /a/b"]);
        assert_eq!(both(What::Blank, What::Read), ["Hide /a"], "a secret file stays one");
    }

    #[test]
    fn hidden_places_are_closed_after_everything_is_in_them() {
        let dir = tempfile::tempdir().unwrap();
        let home = fs::canonicalize(dir.path()).unwrap().join("data/home");
        fs::create_dir_all(&home).unwrap();
        let plan = Plan {
            bwrap: None,
            by_itself: false,
            landlock: false,
            hidden: vec!["/root".into(), "/usr/share".into()],
            writable: vec![home.clone()],
            readable: Vec::new(),
        };
        let args = |plan: &Plan| -> Vec<String> {
            arguments(plan, &[]).into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect()
        };
        let under_landlock = args(&Plan { landlock: true, ..plan.clone() });
        assert!(!under_landlock.iter().any(|arg| arg == "--remount-ro"), "nobody can write there");
        let args = args(&plan);
        let at = |wanted: &[&str]| args.windows(wanted.len()).position(|window| window == wanted);
        let home = home.to_string_lossy();
        assert!(at(&["--tmpfs", "/usr/share"]).is_some());
        assert!(at(&["--bind", &home, &home]) < at(&["--remount-ro", "/usr/share"]));
        assert!(at(&["--bind", &home, &home]).is_some());
    }
}
