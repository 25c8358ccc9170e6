//! The output that all running attempts of an agent may write together. When it is used up, whoever wrote the most is
//! told to stop, so that one that floods is not paid for by another. Knows numbers; refuses to know processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What the attempts of one agent share.
#[derive(Debug, Clone)]
pub struct OutputShare(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: u64,
    seats: Mutex<Seats>,
}

#[derive(Debug, Default)]
struct Seats {
    next: u64,
    taken: BTreeMap<u64, (u64, watch::Sender<bool>)>,
}

/// One attempt's part; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    share: OutputShare,
    number: u64,
    /// Becomes true when the attempt is to stop.
    over: watch::Receiver<bool>,
}

impl OutputShare {
    /// `limit` bytes for all together.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Shared { limit, seats: Mutex::default() }))
    }

    /// A part for an attempt that has written nothing yet.
    #[must_use]
    pub fn take_seat(&self) -> Seat {
        let (tell, over) = watch::channel(false);
        let mut seats = self.seats();
        let number = seats.next;
        seats.next += 1;
        seats.taken.insert(number, (0, tell));
        drop(seats);
        Seat { share: self.clone(), number, over }
    }

    fn seats(&self) -> std::sync::MutexGuard<'_, Seats> {
        self.0.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The attempt has written `bytes` so far.
    pub fn wrote(&self, bytes: u64) {
        let mut seats = self.share.seats();
        if let Some((written, _)) = seats.taken.get_mut(&self.number) {
            *written = bytes.max(*written);
        }
        // What one that is being stopped wrote is on its way out, so it counts no more.
        let running = seats.taken.values().filter(|(_, over)| !*over.borrow());
        let total = running.clone().fold(0_u64, |sum, (written, _)| sum.saturating_add(*written));
        if total > self.share.0.limit
            && let Some((_, over)) = running.max_by_key(|(written, _)| *written)
        {
            over.send_replace(true);
        }
    }

    /// Waits until the attempt is to stop; says so once. Cancel safe.
    pub async fn over(&mut self) {
        loop {
            if self.over.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            if *self.over.borrow_and_update() {
                return;
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.share.seats().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn the_one_with_the_most_is_stopped_once_and_the_others_go_on() {
        let share = OutputShare::new(100);
        let (mut flood, mut small, mut late) = (share.take_seat(), share.take_seat(), share.take_seat());
        flood.wrote(90);
        small.wrote(10);
        assert!(flood.over().now_or_never().is_none(), "the limit itself is allowed");
        small.wrote(11);
        assert!(flood.over().now_or_never().is_some());
        assert!(small.over().now_or_never().is_none());
        late.wrote(80);
        assert!(flood.over().now_or_never().is_none(), "it was told");
        assert!(late.over().now_or_never().is_none(), "what the stopped one wrote counts no more");
        small.wrote(21);
        assert!(late.over().now_or_never().is_some());
    }

    #[test]
    fn an_attempt_that_ended_gives_its_part_back() {
        let share = OutputShare::new(100);
        let first = share.take_seat();
        first.wrote(100);
        drop(first);
        let mut second = share.take_seat();
        second.wrote(100);
        assert!(second.over().now_or_never().is_none());
    }
}
