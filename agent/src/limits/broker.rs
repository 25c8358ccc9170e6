//! The desk as the daemon and the runners share it: whoever has something for it says it in passing, nobody waits for
//! anybody. Knows who is to be woken; decides nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orch_proto::v1;
use tokio::sync::Notify;

use super::desk::{Desk, Entry, Said, Tally};
use super::purse::{Allowance, Spend};
use super::seat::Seat;
use crate::boottime::BootMillis;
use crate::gateway::wire::{Command, Event, SignalKind};
use crate::runner::AttemptKey;

/// The desk of the agent. Copies share it.
#[derive(Debug, Clone, Default)]
pub struct Broker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// The daemon has something to say or to do.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    desk: Desk,
    seats: BTreeMap<AttemptKey, Arc<Notify>>,
}

/// What a pool did, without a gateway to say it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectSignal {
    /// What.
    pub kind: SignalKind,
    /// When it makes sense to ask again.
    pub retry_after: Option<Duration>,
    /// The window, or empty.
    pub window: String,
    /// For people.
    pub detail: String,
}

impl Broker {
    /// A seat for an attempt, for as long as it asks the API.
    #[must_use]
    pub fn enter(&self, entry: Entry) -> Seat {
        let (key, pool, wake) = (entry.key, entry.pool.clone(), Arc::new(Notify::new()));
        let mut state = self.state();
        state.seats.insert(key, Arc::clone(&wake));
        state.desk.enter(entry, BootMillis::now());
        drop(state);
        self.shared.changed.notify_one();
        Seat::new(self.clone(), key, pool, wake)
    }

    pub(super) fn leave(&self, key: AttemptKey, wake: &Arc<Notify>) -> Tally {
        let tally = self.with(|desk| desk.leave(key, BootMillis::now()));
        let mut state = self.state();
        if state.seats.get(&key).is_some_and(|seat| Arc::ptr_eq(seat, wake)) {
            state.seats.remove(&key);
        }
        tally
    }

    pub(super) fn heard(&self, key: AttemptKey, event: Event) {
        self.with(|desk| desk.heard(key, event, BootMillis::now()));
    }

    pub(super) fn commands(&self, key: AttemptKey) -> Vec<Command> {
        self.state().desk.commands(key)
    }

    pub(super) fn waits_for(&self, key: AttemptKey) -> Option<String> {
        self.state().desk.waits_for(key, BootMillis::now())
    }

    pub(super) fn spent_directly(&self, key: AttemptKey, total: Spend) {
        self.with(|desk| desk.spent_directly(key, total, BootMillis::now()));
    }

    pub(super) fn warmed_directly(&self, key: AttemptKey) {
        self.with(|desk| desk.warmed_directly(key));
    }

    pub(super) fn signalled(&self, pool: &str, model: &str, signal: &DirectSignal) {
        let DirectSignal { kind, retry_after, window, detail } = signal;
        self.with(|desk| {
            desk.signalled(pool, model, *kind, *retry_after, window, detail, BootMillis::now());
        });
    }

    /// A session began.
    pub fn session_up(&self, protocol: u32, prices: Vec<v1::ModelPrice>, pools: &[v1::PoolNotice]) {
        self.with(|desk| desk.session_up(protocol, prices, pools, BootMillis::now()));
    }

    /// It is over.
    pub fn session_down(&self) {
        self.with(|desk| desk.session_down(BootMillis::now()));
    }

    /// More credit.
    pub fn grant(&self, grant: &v1::LimitGrant) {
        self.with(|desk| desk.grant(grant, BootMillis::now()));
    }

    /// How a pool stands.
    pub fn notice(&self, notice: &v1::PoolNotice) {
        self.with(|desk| desk.notice(notice, BootMillis::now()));
    }

    /// What an attempt may spend.
    pub fn allow(&self, key: AttemptKey, allowance: Allowance) {
        self.with(|desk| desk.allow(key, allowance, BootMillis::now()));
    }

    /// A heartbeat is about to be sent.
    pub fn heartbeat(&self) {
        self.with(|desk| desk.heartbeat(BootMillis::now()));
    }

    /// The prices in force.
    #[must_use]
    pub fn prices(&self) -> orch_proto::prices::Prices {
        self.state().desk.prices().clone()
    }

    /// Waits until there is something to be said or done. Dropping the future loses nothing.
    pub async fn due(&self) {
        loop {
            let now = BootMillis::now();
            let at = self.state().desk.due_at(now);
            let pause = match at {
                Some(at) if at <= now => return,
                Some(at) => at.since(now),
                None => Duration::MAX,
            };
            tokio::select! {
                () = self.shared.changed.notified() => {}
                () = tokio::time::sleep(pause), if at.is_some() => {}
            }
        }
    }

    /// What is to be said and done now.
    pub fn say(&self) -> Said {
        self.with(|desk| desk.say(BootMillis::now()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says something to the desk, and wakes whoever has something to do by that.
    fn with<T>(&self, say: impl FnOnce(&mut Desk) -> T) -> T {
        let mut state = self.state();
        let said = say(&mut state.desk);
        for key in state.desk.told() {
            if let Some(seat) = state.seats.get(&key) {
                seat.notify_one();
            }
        }
        drop(state);
        self.shared.changed.notify_one();
        said
    }
}
