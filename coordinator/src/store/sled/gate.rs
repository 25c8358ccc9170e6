//! Between the beginning of a commit and the moment it is durable: readers wait here, and the committer never.
//!
//! A reader must not hand out a result that a crash then takes back, nor one of two commits the later alone. So
//! a read looks first and then waits until every commit that had begun by the time it looked is durable. It waits for
//! one commit at most, and holds nothing while it reads, so a slow reader delays nobody.
//!
//! A commit that ends in any other way than durable stops the gate for good.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::store::error::Fault;

#[derive(Debug, Default)]
pub(super) struct Gate {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    begun: u64,
    durable: u64,
    stopped: bool,
    /// What stopped it, if that was not a commit: for whoever writes next.
    cause: Option<Fault>,
}

/// A commit between its first write and its last sync. Dropping it unfinished stops the store.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    gate: &'a Gate,
    finished: bool,
}

impl Gate {
    /// Announces a commit. Callers hold the writer's lock, so there is one at a time.
    pub(super) fn begin(&self) -> UnderWay<'_> {
        self.lock().begun += 1;
        UnderWay { gate: self, finished: false }
    }

    /// Runs `look` and returns what it saw once that is durable.
    pub(super) fn read<T, E: From<Fault>>(&self, look: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let seen = look()?;
        let mut progress = self.lock();
        let begun = progress.begun;
        while progress.durable < begun && !progress.stopped {
            progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
        }
        if progress.stopped { Err(Fault::Stopped.into()) } else { Ok(seen) }
    }

    /// Stops the store for good, whoever is at it.
    pub(super) fn stop(&self, cause: Option<Fault>) {
        let mut progress = self.lock();
        progress.stopped = true;
        progress.cause = progress.cause.take().or(cause);
        drop(progress);
        self.changed.notify_all();
    }

    /// The words for a refusal: in place of [`Fault::Stopped`] what stopped it, told once. Who writes next ends the process
    /// with it.
    pub(super) fn why(&self, refused: Fault) -> Fault {
        if matches!(refused, Fault::Stopped) { self.lock().cause.take().unwrap_or(refused) } else { refused }
    }

    pub(super) fn refuse_if_stopped(&self) -> Result<(), Fault> {
        if self.lock().stopped { Err(Fault::Stopped) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UnderWay<'_> {
    /// The commit is on disk.
    pub(super) fn durable(mut self) {
        self.finished = true;
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut progress = self.gate.lock();
        if self.finished {
            progress.durable = progress.begun;
        } else {
            progress.stopped = true;
        }
        drop(progress);
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_read_that_saw_a_commit_waits_until_it_is_durable() {
        let gate = Gate::default();
        let (looked, has_looked) = sync_channel(1);
        let (answered, answer) = sync_channel(1);
        std::thread::scope(|scope| {
            let under_way = gate.begin();
            scope.spawn(|| {
                let seen = gate.read::<_, Fault>(|| {
                    looked.send(()).unwrap();
                    Ok(7)
                });
                answered.send(seen.unwrap()).unwrap();
            });
            has_looked.recv().unwrap();
            // It cannot answer however long it is given; a short while is enough to catch a gate that lets it.
            assert_eq!(answer.recv_timeout(Duration::from_millis(20)), Err(RecvTimeoutError::Timeout));
            under_way.durable();
            assert_eq!(answer.recv(), Ok(7));
        });
    }

    #[test]
    fn a_commit_that_is_not_finished_stops_reads_and_writes() {
        let gate = Gate::default();
        drop(gate.begin());
        assert!(matches!(gate.read::<_, Fault>(|| Ok(())), Err(Fault::Stopped)));
        assert!(matches!(gate.refuse_if_stopped(), Err(Fault::Stopped)));
    }
}
