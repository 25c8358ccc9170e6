//! The files that tell others where everything is: the ready file of `--ready-file`, the context of `orchctl`, and what
//! daemons announce to `dev`. Written as a whole or not at all, mode 0600. Knows JSON, no process.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::layout::Layout;
use crate::context::ContextFile;
use crate::failure::Outcome;
use crate::private_file::{to_json, write_private};

/// Addresses of a coordinator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Endpoints {
    /// gRPC.
    pub(crate) grpc: SocketAddr,
    /// Probes and metrics.
    pub(crate) probe: SocketAddr,
}

/// Process ids of a fleet.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Pids {
    /// Of the coordinator.
    pub(crate) coordinator: u32,
    /// Of each agent.
    pub(crate) agents: BTreeMap<String, u32>,
}

/// The ready file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Notice {
    #[serde(flatten)]
    pub(crate) endpoints: Endpoints,
    /// The context file.
    pub(crate) context: PathBuf,
    /// Process ids.
    pub(crate) pids: Pids,
}

/// What a coordinator announces when it is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct CoordinatorReady {
    #[serde(flatten)]
    pub(crate) endpoints: Endpoints,
    pub(crate) pid: u32,
}

/// What an agent announces whenever its state changes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct AgentStatus {
    pub(crate) state: String,
    pub(crate) pid: u32,
}

/// The state of an agent that takes work.
const CONNECTED: &str = "connected";

impl AgentStatus {
    /// Whether it takes work.
    pub(crate) fn is_connected(&self) -> bool {
        self.state == CONNECTED
    }
}

/// Reads what a daemon announced; `None` until there is something whole.
pub(crate) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a value for others to read.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> Outcome<()> {
    write_private(path, &to_json(value)?)
}

/// Writes the context by which `orchctl` finds the fleet.
pub(crate) fn write_context(layout: &Layout, endpoints: Endpoints) -> Outcome<()> {
    let tls = layout.admin_tls();
    let context = ContextFile {
        endpoint: Some(format!("https://{}", endpoints.grpc)),
        tls_ca: Some(tls.ca),
        tls_cert: Some(tls.cert),
        tls_key: Some(tls.key),
    };
    write(&layout.context_file(), &context)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_ready_file_has_the_documented_shape() {
        let notice = Notice {
            endpoints: Endpoints {
                grpc: ([127, 0, 0, 1], 7443).into(),
                probe: ([127, 0, 0, 1], 7481).into(),
            },
            context: "/d/context.json".into(),
            pids: Pids { coordinator: 10, agents: BTreeMap::from([("local-1".to_owned(), 11)]) },
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ready");
        write(&path, &notice).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        insta::assert_snapshot!(std::fs::read_to_string(path).unwrap(), @r#"
        {
          "grpc": "127.0.0.1:7443",
          "probe": "127.0.0.1:7481",
          "context": "/d/context.json",
          "pids": {
            "coordinator": 10,
            "agents": {
              "local-1": 11
            }
          }
        }
        "#);
    }

    #[test]
    fn what_daemons_announce_is_read_and_half_a_file_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        assert_eq!(read::<CoordinatorReady>(&path), None);
        std::fs::write(&path, r#"{"grpc":"127.0.0.1:1","probe":"127.0.0.1:2","#).unwrap();
        assert_eq!(read::<CoordinatorReady>(&path), None);
        std::fs::write(&path, r#"{"grpc":"127.0.0.1:1","probe":"127.0.0.1:2","pid":3,"more":true}"#).unwrap();
        assert_eq!(read::<CoordinatorReady>(&path).unwrap().pid, 3);
        std::fs::write(&path, r#"{"state":"connected","agent":"local-1","pid":4}"#).unwrap();
        assert!(read::<AgentStatus>(&path).unwrap().is_connected());
    }

    #[test]
    fn the_context_is_what_orchctl_reads() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { data_dir: dir.path().into() };
        write_context(
            &layout,
            Endpoints { grpc: ([127, 0, 0, 1], 9).into(), probe: ([127, 0, 0, 1], 8).into() },
        )
        .unwrap();
        let context = crate::context::read_context(&layout.context_file()).unwrap();
        assert_eq!(context.endpoint.as_deref(), Some("https://127.0.0.1:9"));
        assert_eq!(context.tls_key, Some(dir.path().join("certs/admin.key")));
    }
}
