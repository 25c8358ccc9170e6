//! Asks the CLI for its version, once at the agent's start. Sends nothing anywhere.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

/// The CLI takes a third of a second, and two when its 235 MiB are not in memory yet.
const LIMIT: Duration = Duration::from_secs(20);

/// Longest version line that is passed on, in characters.
const LONGEST: usize = 80;

/// The first line that `program --version` prints; `None` when it cannot say.
pub async fn of(program: &Path) -> Option<String> {
    let asked = Command::new(program)
        .arg("--version")
        .env_clear()
        .envs([("DISABLE_AUTOUPDATER", "1"), ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")])
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(LIMIT, asked).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line: String = text.lines().next()?.chars().filter(|char| !char.is_control()).take(LONGEST).collect();
    (output.status.success() && !line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_without_a_version_has_none() {
        assert_eq!(of(Path::new("/nonexistent/claude")).await, None);
        assert_eq!(of(Path::new("/bin/false")).await, None);
        assert!(of(Path::new("/bin/bash")).await.is_some_and(|line| line.contains("version")));
    }
}
