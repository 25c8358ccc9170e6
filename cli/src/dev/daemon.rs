//! One daemon: how it is started, when it is ready, how it is stopped. It runs this very program through a descriptor
//! held since the start, so that a rebuild in between does not mix versions. Knows no other daemon.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::embedded::{COORDINATOR, GIVE_BACK, PARENT_VAR};
use crate::exit;
use crate::failure::{Failure, Outcome};

/// How much of the end of a log is shown when a daemon does not come up.
const LOG_TAIL: u64 = 2048;
/// Beginnings of variables that configure daemons or credentials: a daemon of `dev` gets everything by flags, and the
/// credential as a file.
const NOT_INHERITED: [&str; 3] = ["ORCH_", "ANTHROPIC_", "CLAUDE_"];
/// Log filters stay the caller's to set.
const INHERITED: [&str; 2] = ["ORCH_LOG", "ORCH_AGENT_LOG"];

/// The program that daemons run.
#[derive(Debug)]
pub(crate) struct Program {
    executable: Executable,
    /// Words before the arguments of the daemon, for example `__agent`.
    role: &'static str,
}

#[derive(Debug)]
enum Executable {
    Held(File),
    #[cfg(test)]
    Named(PathBuf),
}

impl Program {
    /// This very program in another role.
    pub(crate) fn own(role: &'static str) -> Outcome<Self> {
        let file = File::open("/proc/self/exe").map_err(|error| {
            Failure::new(exit::FAILED, "cannot open /proc/self/exe to start daemons").cause(error)
        })?;
        Ok(Self { executable: Executable::Held(file), role })
    }

    /// Another program, for tests.
    #[cfg(test)]
    pub(crate) fn named(path: PathBuf, role: &'static str) -> Self {
        Self { executable: Executable::Named(path), role }
    }

    /// Valid in this process and in a child of it until its `execve`, which closes the descriptor.
    fn path(&self) -> PathBuf {
        match &self.executable {
            Executable::Held(file) => PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())),
            #[cfg(test)]
            Executable::Named(path) => path.clone(),
        }
    }
}

/// A daemon that runs, or did.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    pid: u32,
}

impl Daemon {
    /// Starts a daemon. Its output goes to the end of `log`; the state it announced before is removed.
    ///
    /// Call it on the main thread: the daemon is told to stop when the thread that started it ends.
    pub(crate) fn start(program: &Program, args: &[OsString], log: &Path, state: &Path) -> Outcome<Self> {
        let failed =
            |what: &str, error: io::Error| Failure::new(exit::FAILED, format!("cannot {what}")).cause(error);
        if let Err(error) = fs::remove_file(state)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(failed(&format!("remove {}", state.display()), error));
        }
        let open_log = || OpenOptions::new().create(true).append(true).mode(0o600).open(log);
        let stdout = open_log().map_err(|error| failed(&format!("write {}", log.display()), error))?;
        let stderr = stdout.try_clone().map_err(|error| failed("share the log", error))?;
        let mut command = Command::new(program.path());
        command.arg0("orchctl").arg(program.role).args(args);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        // A group of its own: Ctrl-C is for `dev`, which stops its daemons in order.
        command.process_group(0).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if NOT_INHERITED.iter().any(|prefix| text.starts_with(prefix))
                && !INHERITED.contains(&text.as_ref())
            {
                command.env_remove(&name);
            }
        }
        command.env(PARENT_VAR, std::process::id().to_string());
        if program.role == COORDINATOR {
            command.env(GIVE_BACK.0, GIVE_BACK.1);
        }
        let child = command.spawn().map_err(|error| failed("start a daemon", error))?;
        let pid = child.id().unwrap_or_default();
        Ok(Self { child, pid })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Waits for its end. Dropping the future loses nothing.
    pub(crate) async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => how(status),
            Err(error) => format!("it cannot be waited for: {error}"),
        }
    }

    /// Asks it to end, and ends it if it has not by then.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        self.signal(Signal::TERM);
        if tokio::time::timeout(patience, self.child.wait()).await.is_err() {
            self.kill().await;
        }
    }

    /// Ends it.
    pub(crate) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        // Only a child that cannot be waited for fails here, and nothing more can be done about it.
        let _ = self.child.wait().await;
    }

    /// Signals it unless it was waited for already, after which the number may be somebody else's.
    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process(pid, signal);
        }
    }
}

fn how(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown end".to_owned(),
    }
}

/// The last lines of a log, for people.
pub(crate) fn log_tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
