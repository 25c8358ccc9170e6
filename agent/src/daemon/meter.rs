//! Figures for heartbeats: of the host, and of the process tree of every attempt. Reading them takes the kernel a
//! while, so it happens beside the loop; a heartbeat carries the figures of the look before it.
//! Knows pids; refuses to know attempts.

use crate::boottime::BootMillis;
use crate::host::{AttemptFigures, HostFigures, HostProbe};
use std::collections::BTreeMap;
use tokio::task::{JoinError, JoinSet};

/// The latest figures, and at most one look under way.
#[derive(Debug)]
pub(super) struct Meter {
    /// Absent while a look is under way.
    probe: Option<HostProbe>,
    looks: JoinSet<(HostProbe, Figures)>,
    latest: Figures,
}

/// What one look found.
#[derive(Debug, Clone, Default)]
struct Figures {
    host: HostFigures,
    attempts: BTreeMap<i32, AttemptFigures>,
}

/// A look that ended.
pub(super) struct Looked(Result<(HostProbe, Figures), JoinError>);

impl Meter {
    /// Figures by `probe`, which takes a first look at the host.
    pub(super) fn new(probe: HostProbe) -> Self {
        let latest = Figures { host: probe.figures(), attempts: BTreeMap::new() };
        Self { probe: Some(probe), looks: JoinSet::new(), latest }
    }

    /// Takes a look at the host and at the trees below the given supervisors, unless one is under way.
    pub(super) fn look(&mut self, supervisors: Vec<i32>) {
        let Some(mut probe) = self.probe.take() else { return };
        crate::blocking::start(&mut self.looks, move || {
            probe.retain(|pid| supervisors.contains(&pid));
            let mut figures = Figures { host: probe.figures(), attempts: BTreeMap::new() };
            for pid in supervisors {
                figures.attempts.insert(pid, probe.attempt(pid, BootMillis::now()));
            }
            (probe, figures)
        });
    }

    /// Waits for the end of a look; for ever when none is under way. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Looked {
        match self.looks.join_next().await {
            Some(looked) => Looked(looked),
            None => std::future::pending().await,
        }
    }

    /// Takes in what a look found.
    pub(super) fn done(&mut self, Looked(looked): Looked) {
        match looked {
            Ok((probe, figures)) => {
                self.probe = Some(probe);
                self.latest = figures;
            }
            Err(error) => tracing::error!(%error, "the figures of this host are no longer updated"),
        }
    }

    /// Latest figures of the host.
    pub(super) fn host(&self) -> HostFigures {
        self.latest.host
    }

    /// Latest figures of the tree below a supervisor; zero before the first look at it.
    pub(super) fn attempt(&self, supervisor: i32) -> AttemptFigures {
        self.latest.attempts.get(&supervisor).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn figures_are_those_of_the_last_look_and_those_who_left_are_forgotten() {
        let mut meter = Meter::new(HostProbe::new("/".into()));
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(meter.host().memory_bytes > 0);
        assert_eq!(meter.attempt(me), AttemptFigures::default());
        meter.look(vec![me]);
        meter.look(Vec::new());
        let looked = meter.next().await;
        meter.done(looked);
        assert!(meter.attempt(me).memory_bytes > 0, "the second look was not taken: one was under way");
        meter.look(Vec::new());
        let looked = meter.next().await;
        meter.done(looked);
        assert_eq!(meter.attempt(me), AttemptFigures::default());
    }
}
