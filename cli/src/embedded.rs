//! The other programs of orch inside this one: the only file that names the coordinator, the agent and the stand-in.
//! Knows which hidden first argument means which program, and how such a process is tied to the one that started it.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// Of the whole program: which one it is to be is not known before it runs.
#[global_allocator]
static ALLOCATOR: orch_coordinator::Allocator = orch_coordinator::Allocator;

/// What the environment of a coordinator says to its allocator: memory that is free goes back to the system at once.
pub(crate) const GIVE_BACK: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "0");

/// First argument that runs the coordinator.
pub(crate) const COORDINATOR: &str = "__coordinator";
/// First argument that runs an agent.
pub(crate) const AGENT: &str = "__agent";
/// First argument that runs the stand-in for the Claude CLI.
pub(crate) const STANDIN_CLAUDE: &str = "__standin-claude";
/// Variable that holds the process id a daemon is tied to: it stops when that process is gone, however it went.
pub(crate) const PARENT_VAR: &str = "ORCHCTL_DEV_PARENT";

/// Hands the process over if the first argument says so.
pub(crate) fn forward(args: &[OsString]) -> Option<ExitCode> {
    // Before anything that could start a thread: a supervisor must have none.
    if let Some(code) = orch_agent::run_hidden(args) {
        return Some(code);
    }
    match args.get(1)?.to_str()? {
        COORDINATOR => Some(tied(|| orch_coordinator::main_with_args(named("orchd", args)))),
        AGENT => Some(tied(|| orch_agent::main_with_args(named("orch-agent", args)))),
        STANDIN_CLAUDE => Some(orch_standin::claude::main_with_args(named("claude", args))),
        _ => None,
    }
}

/// The arguments as the program would have got them under its own name.
fn named(program: &str, args: &[OsString]) -> impl Iterator<Item = OsString> {
    std::iter::once(OsString::from(program)).chain(args.iter().skip(2).cloned())
}

/// Runs a daemon that ends with the process which started it. Without the variable it stands on its own.
fn tied(daemon: impl FnOnce() -> ExitCode) -> ExitCode {
    let parent = std::env::var(PARENT_VAR).ok().and_then(|text| text.parse().ok()).and_then(Pid::from_raw);
    if let Some(parent) = parent {
        // The signal comes only for deaths from now on; an earlier one shows in the parent's id.
        let armed = set_parent_process_death_signal(Some(Signal::TERM));
        if armed.is_err() || getppid() != Some(parent) {
            return ExitCode::FAILURE;
        }
    }
    daemon()
}

/// The script that an agent takes for the Claude CLI in a rehearsal. It has to be one executable file.
pub(crate) fn standin_script(program: &Path) -> String {
    let quoted = program.display().to_string().replace('\'', r"'\''");
    format!("#!/bin/sh\nexec '{quoted}' {STANDIN_CLAUDE} \"$@\"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &[&str]) -> Vec<OsString> {
        text.iter().map(OsString::from).collect()
    }

    #[test]
    fn ordinary_commands_are_not_handed_over() {
        assert!(forward(&args(&["orchctl"])).is_none());
        assert!(forward(&args(&["orchctl", "ls", "__agent"])).is_none());
    }

    #[test]
    fn daemons_see_their_own_name_and_arguments() {
        let seen: Vec<_> = named("orchd", &args(&["orchctl", "__coordinator", "--listen", "a"])).collect();
        assert_eq!(seen, args(&["orchd", "--listen", "a"]));
    }

    #[test]
    fn the_script_survives_odd_paths() {
        let script = standin_script(Path::new("/it's here/orchctl"));
        assert_eq!(script, "#!/bin/sh\nexec '/it'\\''s here/orchctl' __standin-claude \"$@\"\n");
    }
}
