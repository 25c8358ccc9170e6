//! Finds out what a host offers, by doing it: a bubblewrap run, and a thread that puts itself under landlock.
//! Decides nothing.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use landlock::{ABI, Access, AccessFs, LandlockStatus, Ruleset, RulesetAttr, RulesetError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::runner::program;

use super::Bwrap;
use super::mounts::namespaces;
use super::namespaces::TRY_COMMAND;

/// A bubblewrap that takes longer than this would hold up every attempt.
const LONGEST_TRY: Duration = Duration::from_secs(10);

/// Longest part of what bwrap said that is shown to people, in characters.
const LONGEST_REASON: usize = 200;

/// What the kernel's landlock can hold back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Landlock {
    /// Nothing: there is none.
    #[default]
    Missing,
    /// Access to files.
    FilesOnly,
    /// Files, signals and abstract sockets.
    WithSignals,
}

/// The bubblewrap of this host, if it can make every namespace an attempt gets.
///
/// # Errors
/// Why not and what to do, for people.
pub fn bwrap(search_path: &str) -> Result<Bwrap, String> {
    let find = |name| program::find(name, search_path).or_else(|| program::find(name, "/usr/bin:/bin"));
    let bwrap = find("bwrap").ok_or_else(|| "bwrap was not found; install bubblewrap".to_owned())?;
    let idle = find("true").ok_or_else(|| "there is no program `true` to try bwrap with".to_owned())?;
    let tried = run(Command::new(&bwrap).args(namespaces()).arg("--").arg(idle));
    match tried {
        Ok(()) => Ok(Bwrap { sizes: has_sizes(&bwrap), program: bwrap }),
        Err(why) => Err(format!("{} does not work here ({why}); {}", bwrap.display(), remedy(&why))),
    }
}

/// Whether supervisors of the program `exe` can make every namespace of an attempt themselves.
///
/// # Errors
/// Why not, for people.
pub fn by_itself(exe: &Path, search_path: &str) -> Result<(), String> {
    let idle = program::find("true", search_path).or_else(|| program::find("true", "/usr/bin:/bin"));
    let idle = idle.ok_or_else(|| "there is no program `true` to try it with".to_owned())?;
    run(Command::new(exe).arg(TRY_COMMAND).arg(idle))
}

fn remedy(why: &str) -> &'static str {
    if why.contains("mount proc") {
        // The kernel lets nobody mount a whole /proc who sees only a part of one.
        "leave /proc whole: no ProtectKernelLogs= and no ProtectKernelTunables= in the unit, no masked paths in a container"
    } else {
        "allow unprivileged user namespaces, for example with an AppArmor profile for bwrap, or in a container start it \
         with the right to make namespaces"
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let mut child = command
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    wait_for(&child);
    // One that ended already is not harmed.
    let _ = child.kill();
    let status = child.wait().map_err(|error| error.to_string())?;
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Without its words the exit status is what is told.
        let _ = stderr.read_to_string(&mut said);
    }
    let line: String = said.lines().next().unwrap_or_default().chars().take(LONGEST_REASON).collect();
    Err(if line.is_empty() { status.to_string() } else { line })
}

fn wait_for(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(held) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    let deadline = Instant::now() + LONGEST_TRY;
    loop {
        let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).ok();
        match poll(&mut [PollFd::new(&held, PollFlags::IN)], left.as_ref()) {
            // The end of another child, where somebody heeds that.
            Err(Errno::INTR) => {}
            // A poll that fails ends the try early, and with it the layer.
            Ok(_) | Err(_) => return,
        }
    }
}

fn has_sizes(bwrap: &Path) -> bool {
    let help = Command::new(bwrap).arg("--help").env_clear().stdin(Stdio::null()).output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--size "))
}

/// What the landlock of this kernel can do.
#[must_use]
pub fn landlock() -> Landlock {
    // Restricting is for good, and for the thread that does it only.
    match thread::spawn(restrict_this_thread).join() {
        Ok(Ok(LandlockStatus::Available { effective_abi, .. })) if effective_abi >= ABI::V6 => {
            Landlock::WithSignals
        }
        Ok(Ok(LandlockStatus::Available { .. })) => Landlock::FilesOnly,
        Ok(Ok(LandlockStatus::NotEnabled | LandlockStatus::NotImplemented) | Err(_)) | Err(_) => {
            Landlock::Missing
        }
    }
}

fn restrict_this_thread() -> Result<LandlockStatus, RulesetError> {
    let status = Ruleset::default().handle_access(AccessFs::from_all(ABI::V1))?.create()?.restrict_self()?;
    Ok(status.landlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_try_restricts_nobody_else() {
        let first = landlock();
        assert_eq!(landlock(), first);
        assert!(std::fs::read("/proc/self/stat").is_ok());
    }

    #[test]
    fn a_bwrap_that_fails_is_told_with_its_own_words_and_a_remedy() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let fake = dir.path().join("bwrap");
        std::fs::write(
            &fake,
            "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n",
        )
        .unwrap();
        std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let why = loop {
            match bwrap(&path) {
                // Another test that forks at this moment may still hold the file open for writing.
                Err(why) if why.contains("Text file busy") => {}
                other => break other.unwrap_err(),
            }
        };
        assert!(why.contains("(bwrap: No permissions to create new namespace); allow "), "{why}");
        assert!(
            remedy("bwrap: Can't mount proc on /newroot/proc: Operation not permitted")
                .starts_with("leave /proc")
        );
    }
}
