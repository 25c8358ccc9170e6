//! What may change about the host while the agent is connected: the credential pools, and what is wrong with them or with a
//! workspace. Knows how often it is worth saying; refuses to know how a pool is looked at.

use crate::credentials::{Health, PoolState, Pools};
use crate::workspaces::Workspaces;
use orch_proto::v1::{self, PoolHealth, PoolKind};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Pause between two items: who uses a pool changes with every attempt, and only people look at it.
const PAUSE: Duration = Duration::from_secs(1);

/// The facts, and whether they have changed since they were last said.
#[derive(Debug)]
pub(super) struct FactsWatch {
    pools: Pools,
    changes: watch::Receiver<()>,
    workspaces: Workspaces,
    gone: watch::Receiver<BTreeSet<String>>,
    not_before: Instant,
}

impl FactsWatch {
    pub(super) fn new(pools: Pools, workspaces: Workspaces) -> Self {
        let (changes, gone) = (pools.changes(), workspaces.changes());
        Self { changes, pools, gone, workspaces, not_before: Instant::now() }
    }

    /// Waits until there is something new to say. Dropping the future loses nothing.
    pub(super) async fn changed(&mut self) {
        tokio::time::sleep_until(self.not_before).await;
        let changed = tokio::select! {
            changed = self.changes.changed() => changed,
            changed = self.gone.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending().await
        }
    }

    /// The facts of this moment; from now on only what is new counts as changed.
    pub(super) fn now(&mut self, warnings: &[String], cli_version: &str) -> v1::Facts {
        self.changes.mark_unchanged();
        self.gone.mark_unchanged();
        self.not_before = Instant::now() + PAUSE;
        let states = self.pools.states();
        let mut warnings = warnings.to_vec();
        warnings.extend(states.iter().filter_map(warning));
        warnings.extend(self.workspaces.warnings());
        let pools = states.into_iter().map(pool).collect();
        v1::Facts { warnings, pools, cli_version: cli_version.to_owned() }
    }
}

fn warning(state: &PoolState) -> Option<String> {
    match state.health {
        Health::Ready | Health::Unknown => None,
        Health::SignedOut | Health::Unusable => Some(format!("pool {}: {}", state.name, state.detail)),
    }
}

fn pool(state: PoolState) -> v1::Pool {
    let kind = match state.kind {
        "api-key" => PoolKind::ApiKey,
        "token" => PoolKind::Token,
        "login" => PoolKind::Login,
        "helper" => PoolKind::Helper,
        _ => PoolKind::Unspecified,
    };
    let health = match state.health {
        Health::Unknown => PoolHealth::Unspecified,
        Health::Ready => PoolHealth::Ready,
        Health::SignedOut => PoolHealth::SignedOut,
        Health::Unusable => PoolHealth::Unusable,
    };
    v1::Pool {
        name: state.name,
        kind: kind.into(),
        health: health.into(),
        detail: state.detail,
        workers: state.workers.into_iter().collect(),
        in_use: state.in_use,
        exclusive: state.exclusive,
        gateway: state.gateway,
        fingerprint: state.fingerprint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::health::Checker;
    use crate::credentials::settings::{PoolSettings, Source};

    fn pools(dir: &std::path::Path) -> Pools {
        let source = Source::ApiKey("/nonexistent/key".into());
        let workers = ["marie".to_owned()].into();
        let settings = PoolSettings { name: "team".into(), source, workers, base_url: None, gateway: None };
        Pools::open(&[settings], dir, Checker::default()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_said_once_and_not_more_often_than_every_second() {
        let dir = tempfile::tempdir().unwrap();
        let pools = pools(dir.path());
        let mut facts = FactsWatch::new(pools.clone(), Workspaces::default());
        let first = facts.now(&["no sandbox".into()], "2");
        assert_eq!(
            (first.pools[0].health(), first.pools[0].kind()),
            (PoolHealth::Unspecified, PoolKind::ApiKey)
        );
        assert_eq!(first.warnings, ["no sandbox"]);
        let said = Instant::now();
        pools.check().await;
        facts.changed().await;
        assert!(said.elapsed() >= PAUSE);
        let second = facts.now(&[], "2");
        assert_eq!(second.pools[0].health(), PoolHealth::Unusable);
        assert_eq!(second.pools[0].workers, ["marie"]);
        let expected = "pool team: cannot read the credential file /nonexistent/key: No such file or directory (os error 2)";
        assert_eq!(second.warnings, [expected]);
        pools.check().await;
        let silent = tokio::time::timeout(Duration::from_secs(60), facts.changed()).await;
        assert!(silent.is_err(), "the same again is nothing new");
    }
}
