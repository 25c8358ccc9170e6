//! Processes of a measurement: started in a group of their own, ended by number, and never left behind, not even by Ctrl-C.
//!
//! Knows pids and ports. Refuses to know what runs.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a process is looked at; a client measures time itself, so this adds to no figure.
const LOOK: Duration = Duration::from_millis(20);
/// What a process has to end by itself; PostgreSQL and Celery take seconds.
const TO_END: Duration = Duration::from_secs(20);
/// What a server has until it listens.
const TO_START: Duration = Duration::from_secs(60);

/// Whether somebody asked this program to end.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, Ctrl-C and a plain `kill` only set the flag.
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("cannot listen for signals")?;
        }
        Ok(Self(flag))
    }

    /// An error once it was asked.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Waits until `ready`, an interruption, or the limit.
    pub(crate) fn wait(
        &self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while !ready()? {
            self.check()?;
            if Instant::now() > end {
                bail!("{what}: not within {} s", limit.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }
}

/// A process that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    name: String,
    log: PathBuf,
    ending: Signal,
}

impl Daemon {
    /// Starts a process whose output goes to `log`; `ending` is the signal at which it ends quickly and in order.
    pub(crate) fn start(mut command: Command, log: &Path, ending: Signal) -> anyhow::Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Self::spawn(command, log, ending)
    }

    fn spawn(mut command: Command, log: &Path, ending: Signal) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        // Ctrl-C at a terminal reaches this program alone, which then ends them in order.
        let child = command.process_group(0).spawn().with_context(|| format!("cannot run {name}"))?;
        Ok(Self { child, name, log: log.to_owned(), ending })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it with KILL, as a crash would.
    pub(crate) fn kill(mut self) {
        self.ending = Signal::KILL;
    }

    /// An error if it ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; see {}", self.name, self.log.display()),
        }
    }

    /// Waits until it accepts connections.
    pub(crate) fn wait_for_port(&mut self, port: u16, interrupt: &Interrupt) -> anyhow::Result<()> {
        let what = format!("{} listens", self.name);
        interrupt.wait(&what, TO_START, || {
            self.check()?;
            Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())
        })
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself; it was not waited for, so the number is still its own.
            let _ = kill_process(pid, signal);
        }
    }

    fn ended_within(&mut self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < end => std::thread::sleep(LOOK),
                Ok(ended) => return ended.is_some(),
                Err(_) => return true,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
            return;
        }
        self.signal(self.ending);
        if !self.ended_within(TO_END) {
            crate::say(&format!("{} does not end; it is killed", self.name));
            self.signal(Signal::KILL);
            self.ended_within(TO_END);
        }
    }
}

/// Runs a client to its end and gives what it printed.
pub(crate) fn output(
    mut command: Command,
    log: &Path,
    limit: Duration,
    interrupt: &Interrupt,
) -> anyhow::Result<String> {
    // Through a file: nobody reads a pipe while this waits.
    let printed = tempfile::NamedTempFile::new().context("cannot make a file for the output")?;
    let errors = File::options().create(true).append(true).open(log);
    let errors = errors.with_context(|| format!("cannot write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(printed.reopen()?).stderr(errors);
    let mut client = Daemon::spawn(command, log, Signal::TERM)?;
    let mut status: Option<ExitStatus> = None;
    interrupt.wait(&client.name.clone(), limit, || {
        status = client.child.try_wait()?;
        Ok(status.is_some())
    })?;
    match status {
        Some(status) if status.success() => Ok(std::fs::read_to_string(printed.path())?),
        Some(status) => bail!("{status}: {}", complaint(log)),
        None => bail!("it was not waited for"),
    }
}

/// The last line that speaks of an error, or the last one.
fn complaint(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let said = || text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let line = said().find(|line| line.contains("rror:")).or_else(|| said().next());
    line.map_or_else(|| format!("it said nothing; see {}", log.display()), str::to_owned)
}

/// A port that is free now. Another program could take it before the server does, and the server would say so.
pub(crate) fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Interrupt {
        Interrupt(Arc::new(AtomicBool::new(false)))
    }

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_client_gives_what_it_printed_and_a_failed_one_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let run = |script: &str| output(shell(script), &dir.path().join("log"), TO_END, &quiet());
        assert_eq!(run("echo found; echo aside >&2").unwrap(), "found\n");
        let error = run("echo 'error: why' >&2; echo bye >&2; exit 3").unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("error: why"), "{error}");
    }

    #[test]
    fn a_daemon_ends_when_it_is_dropped_and_a_client_when_it_is_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let daemon = Daemon::start(shell("exec sleep 600"), &log, Signal::TERM).unwrap();
        let pid = i32::try_from(daemon.pid()).ok().and_then(Pid::from_raw).unwrap();
        assert!(rustix::process::test_kill_process(pid).is_ok());
        drop(daemon);
        assert!(rustix::process::test_kill_process(pid).is_err());

        let interrupt = quiet();
        interrupt.0.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let error = output(shell("exec sleep 600"), &log, TO_END, &interrupt).unwrap_err();
        assert_eq!(error.to_string(), "interrupted");
        assert!(began.elapsed() < TO_END);
    }

    #[test]
    fn a_server_that_ends_at_once_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut daemon = Daemon::start(shell("exit 1"), &dir.path().join("log"), Signal::TERM).unwrap();
        let error = daemon.wait_for_port(free_port().unwrap(), &quiet()).unwrap_err().to_string();
        assert!(error.contains("sh ended with exit status: 1"), "{error}");
    }
}
