//! The agent's state in a file, for people, for `orchctl dev` and for health checks: agents listen on no port.
//! Also tells systemd. Knows words; refuses to know why.

use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// Where the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Connection {
    /// No session.
    Connecting,
    /// Welcomed.
    Connected,
    /// Ending its children.
    Stopping,
    /// About to exit.
    Stopped,
}

/// The file, if one is wanted.
#[derive(Debug, Clone)]
pub struct StatusFile {
    path: Option<PathBuf>,
    agent: String,
    workspaces: Vec<String>,
}

#[derive(Serialize)]
struct Status<'a> {
    state: Connection,
    agent: &'a str,
    pid: u32,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    workspaces: &'a [String],
}

impl StatusFile {
    /// Writes to `path` on every change.
    #[must_use]
    pub fn new(path: Option<PathBuf>, agent: &str) -> Self {
        Self { path, agent: agent.to_owned(), workspaces: Vec::new() }
    }

    /// The same, with the names of the workspaces on offer.
    #[must_use]
    pub fn offering(self, workspaces: Vec<String>) -> Self {
        Self { workspaces, ..self }
    }

    /// Announces a state. A file that cannot be written is logged, not fatal.
    pub fn write(&self, state: Connection) {
        notify_systemd(state);
        let Some(path) = &self.path else { return };
        let status =
            Status { state, agent: &self.agent, pid: std::process::id(), workspaces: &self.workspaces };
        if let Err(error) = replace(path, &status) {
            tracing::warn!(path = %path.display(), %error, "cannot write the status file");
        }
    }
}

fn replace(path: &Path, status: &Status<'_>) -> io::Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)?;
    serde_json::to_writer(&mut file, status)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

fn notify_systemd(state: Connection) {
    use sd_notify::NotifyState;
    let states: &[NotifyState<'_>] = match state {
        Connection::Connecting => &[NotifyState::Status("connecting")],
        Connection::Connected => &[NotifyState::Ready, NotifyState::Status("connected")],
        Connection::Stopping => &[NotifyState::Stopping],
        Connection::Stopped => return,
    };
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_always_holds_one_whole_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("status.json");
        let file = StatusFile::new(Some(path.clone()), "box-1").offering(vec!["dance".to_owned()]);
        for (state, word) in [(Connection::Connecting, "connecting"), (Connection::Connected, "connected")] {
            file.write(state);
            let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            assert_eq!((json["state"].as_str(), json["agent"].as_str()), (Some(word), Some("box-1")));
            assert_eq!(json["pid"], std::process::id());
            assert_eq!(json["workspaces"], serde_json::json!(["dance"]));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
