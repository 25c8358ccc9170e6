//! What running tasks are doing at the moment: shown, never stored.
//! Lossy on purpose: whoever reads too slowly misses some, and nobody waits for anybody.

use std::sync::Arc;

use orch_core::state::GrantView;
use orch_core::time::Now;
use orch_proto::v1;
use tokio::sync::broadcast;

use crate::engine::AttemptActivity;
use crate::rpc::convert;

/// Activities kept for a reader that is behind. A heartbeat of an agent brings one per attempt; beyond this the oldest
/// are lost, which is what an activity is for.
const ACTIVITY_BUFFER: usize = 1_024;

/// An activity and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantActivity {
    /// Number of the tenant.
    pub tenant: u32,
    /// The activity, with sequence 0.
    pub event: v1::WatchEvent,
}

impl TenantActivity {
    /// What the attempt of `grant` is doing.
    pub(crate) fn of(now: Now, grant: &GrantView, activity: AttemptActivity) -> Self {
        let change = v1::Activity {
            task_id: grant.task_id.to_string(),
            now: activity.now,
            num_turns: activity.num_turns,
            cost_micro_usd: activity.cost_micro_usd,
            agent: activity.agent,
        };
        let event = v1::WatchEvent {
            seq: 0,
            time: Some(convert::timestamp(now.wall)),
            run_ref: grant.run_ref.to_string(),
            change: Some(v1::watch_event::Change::Activity(change)),
        };
        Self { tenant: grant.tenant.0, event }
    }
}

/// Spreads activities to whoever listens.
#[derive(Debug, Clone)]
pub struct Activities {
    sender: broadcast::Sender<Arc<TenantActivity>>,
}

/// A reader of activities.
#[derive(Debug)]
pub struct ActivityReader {
    receiver: broadcast::Receiver<Arc<TenantActivity>>,
}

impl Default for Activities {
    fn default() -> Self {
        Self { sender: broadcast::Sender::new(ACTIVITY_BUFFER) }
    }
}

impl Activities {
    /// Shows an activity to everybody who listens; to nobody, if nobody does.
    pub fn show(&self, activity: TenantActivity) {
        if self.sender.receiver_count() > 0 {
            // Fails only when the last reader has just gone.
            let _ = self.sender.send(Arc::new(activity));
        }
    }

    /// Whether anybody listens: what is not shown need not be made.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self) -> ActivityReader {
        ActivityReader { receiver: self.sender.subscribe() }
    }
}

impl ActivityReader {
    /// The next activity that was not missed; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Arc<TenantActivity>> {
        loop {
            match self.receiver.recv().await {
                Ok(activity) => return Some(activity),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity(now: &str) -> TenantActivity {
        let activity = v1::Activity { now: now.to_owned(), ..v1::Activity::default() };
        let change = Some(v1::watch_event::Change::Activity(activity));
        TenantActivity { tenant: 1, event: v1::WatchEvent { change, ..v1::WatchEvent::default() } }
    }

    #[tokio::test]
    async fn a_slow_reader_misses_the_oldest_and_goes_on() {
        let activities = Activities::default();
        assert!(!activities.wanted());
        let mut reader = activities.subscribe();
        for n in 0..=ACTIVITY_BUFFER {
            activities.show(activity(&n.to_string()));
        }
        assert_eq!(reader.next().await.as_deref(), Some(&activity("1")));
        drop(activities);
        let mut left = 0;
        while reader.next().await.is_some() {
            left += 1;
        }
        assert_eq!(left, ACTIVITY_BUFFER - 1);
    }
}
