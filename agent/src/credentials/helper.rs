//! Asking a command for a key. Knows a program and its one line; refuses to show what it printed.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;

use crate::secret::Secret;
use crate::supervisor::redact::Redactor;

/// Longest time a helper may take.
pub const HELPER_LIMIT: Duration = Duration::from_secs(10);

/// Most that is read of what it prints, in bytes.
const MOST_OUTPUT: u64 = 64 * 1024;

/// Longest part of its complaints that is passed on, in characters.
const LONGEST_COMPLAINT: usize = 200;

/// Beginning of every key and token of the API.
const KEY_MARK: &str = "sk-ant-";

/// Why a helper gave no key.
#[derive(Debug, Error)]
pub enum HelperError {
    /// It cannot be run.
    #[error("the helper {program} cannot be run")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the helper {program} did not end within {} s", limit.as_secs())]
    Timeout {
        /// The program.
        program: String,
        /// How long it had.
        limit: Duration,
    },
    /// It failed.
    #[error("the helper {program} ended with {how}{complaint}")]
    Failed {
        /// The program.
        program: String,
        /// Exit code or signal.
        how: String,
        /// `: ` and its last complaint without secrets, or nothing.
        complaint: String,
    },
    /// It printed no key.
    #[error("the helper {program} must print one line, the key, and nothing else")]
    NoKey {
        /// The program.
        program: String,
    },
}

/// Runs a helper: no shell, nothing on its standard input, at most `limit`.
///
/// # Errors
/// See [`HelperError`].
pub async fn ask(command: &[String], limit: Duration) -> Result<Secret, HelperError> {
    let (name, args) = command.split_first().map_or(("", &[][..]), |(name, args)| (name.as_str(), args));
    let program = || name.to_owned();
    let failed = |source| HelperError::Start { program: program(), source };
    let mut child = Command::new(name)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let run = async { tokio::join!(all(stdout), all(stderr), child.wait()) };
    let Ok((stdout, stderr, status)) = timeout(limit, run).await else {
        // Its own children too: they would hold the pipes and wait for ever.
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        return Err(HelperError::Timeout { program: program(), limit });
    };
    let status = status.map_err(failed)?;
    if !status.success() {
        let complaint = complaint(&stdout, &stderr);
        return Err(HelperError::Failed { program: program(), how: how(status), complaint });
    }
    let text = String::from_utf8(stdout).map_err(|_| HelperError::NoKey { program: program() })?;
    let key = text.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(HelperError::NoKey { program: program() });
    }
    Ok(Secret::new(key))
}

async fn all(pipe: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What cannot be read any more is what there was.
        let _ = pipe.take(MOST_OUTPUT).read_to_end(&mut bytes).await;
    }
    bytes
}

fn how(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit code".to_owned(),
    }
}

/// The last line of its standard error, without anything it printed on standard output and without whatever begins
/// like a key.
fn complaint(stdout: &[u8], stderr: &[u8]) -> String {
    let printed = String::from_utf8_lossy(stdout);
    let mut redactor = Redactor::new(printed.split_whitespace());
    let mut clean = Vec::new();
    redactor.push(stderr, &mut clean);
    redactor.finish(&mut clean);
    let text = String::from_utf8_lossy(&clean);
    let Some(line) = text.lines().rev().find(|line| !line.trim().is_empty()) else { return String::new() };
    let words = line.split_whitespace().map(|word| if word.contains(KEY_MARK) { "***" } else { word });
    let line = words.collect::<Vec<_>>().join(" ");
    format!(
        ": {}",
        line.chars().filter(|char| !char.is_control()).take(LONGEST_COMPLAINT).collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).into()
    }

    async fn error(script: &str) -> String {
        ask(&sh(script), HELPER_LIMIT).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn the_one_line_is_the_key() {
        assert_eq!(
            ask(&sh("echo noise >&2; echo '  sk-canary-1 '"), HELPER_LIMIT).await.unwrap().reveal(),
            "sk-canary-1"
        );
        for script in ["true", "echo", "echo a b", "echo a; echo b", r"printf '\377\376'"] {
            assert!(
                error(script).await.ends_with("must print one line, the key, and nothing else"),
                "{script}"
            );
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_without_any_secret() {
        let text =
            error("echo topsecret-1; echo 'vault: topsecret-1 and sk-ant-api03-abc are sealed' >&2; exit 3")
                .await;
        assert_eq!(text, "the helper /bin/sh ended with exit code 3: vault: *********** and *** are sealed");
        assert_eq!(error("exit 2").await, "the helper /bin/sh ended with exit code 2");
        let missing = ask(&["/nonexistent/helper".to_owned()], HELPER_LIMIT).await.unwrap_err();
        assert_eq!(missing.to_string(), "the helper /nonexistent/helper cannot be run");
    }

    #[tokio::test]
    async fn a_helper_that_hangs_is_ended_with_all_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let asked = ask(&sh(&script), Duration::from_millis(500)).await;
        assert!(asked.unwrap_err().to_string().starts_with("the helper /bin/sh did not end within"));
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while crate::procfs::read_stat(pid).is_some_and(|stat| !stat.is_zombie()) {
            assert!(std::time::Instant::now() < deadline, "the helper's child lives on");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
