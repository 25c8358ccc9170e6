//! How a fleet ends: agents first, then the coordinator, then whatever they left, and the files that promised it all.

use std::time::Duration;

use futures_util::future::join_all;

use super::super::layout::COORDINATOR;
use super::super::orphans;
use super::Fleet;

/// How long agents may take to end their children; above the agent's own limit of 12 s.
const AGENT_PATIENCE: Duration = Duration::from_secs(16);
/// How long the coordinator may take to finish what it has in hand.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(10);

impl Fleet {
    /// Stops the agents, then the coordinator, then whatever they left. Says what would not go.
    pub(crate) async fn stop(&mut self) -> Vec<String> {
        let (mut coordinator, mut agents) = (Vec::new(), Vec::new());
        for (name, member) in &mut self.members {
            let Some(daemon) = member.state.daemon() else { continue };
            if name == COORDINATOR { coordinator.push(daemon) } else { agents.push(daemon) }
        }
        join_all(agents.into_iter().map(|daemon| daemon.stop(AGENT_PATIENCE))).await;
        join_all(coordinator.into_iter().map(|daemon| daemon.stop(COORDINATOR_PATIENCE))).await;
        self.members.clear();
        self.forget().await
    }

    /// Ends everything at once.
    pub(crate) async fn kill(&mut self) {
        for member in self.members.values_mut() {
            if let Some(daemon) = member.state.daemon() {
                daemon.kill().await;
            }
        }
        self.members.clear();
        self.forget().await;
    }

    /// Ends orphans, and says which would not go.
    async fn forget(&self) -> Vec<String> {
        let mut left = Vec::new();
        let orphans = if self.owns_orphans { orphans::end_all().await } else { 0 };
        if orphans > 0 {
            left.push(format!("{orphans} processes of agents would not end"));
        }
        self.unannounce();
        left
    }

    /// Takes away the files that tell others where everything is.
    pub(super) fn unannounce(&self) {
        for path in self.ready_file.iter().chain([&self.layout.context_file()]) {
            // It may never have been written.
            let _ = std::fs::remove_file(path);
        }
    }
}
