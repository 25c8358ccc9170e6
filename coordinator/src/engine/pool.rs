//! Work that blocks on a disk, off the runtime's threads and little of it at a time.
//! Knows threads and a limit; refuses to know what the work is. In a simulation, where nothing may depend on another
//! thread, it is done where it was asked for.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Pieces of work at a time. They share disk and cores with the committer, whose wait is in every task's path.
const THREADS: usize = 4;

/// A few threads for blocking work. Clones share them; whoever comes too much waits for its turn.
#[derive(Debug, Clone)]
pub struct BlockingPool {
    permits: Arc<Semaphore>,
    tracker: TaskTracker,
}

/// The work did not end in order: it panicked, or the runtime is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("work on the disk was broken off")]
pub struct BrokenOff;

impl Default for BlockingPool {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(THREADS)), tracker: TaskTracker::new() }
    }
}

impl BlockingPool {
    /// Runs `work` on one of the threads. When the caller goes away meanwhile the work is done nevertheless.
    ///
    /// # Errors
    /// [`BrokenOff`].
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BrokenOff> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| BrokenOff)?;
        if is_in_place() {
            return Ok(work());
        }
        let running = self.tracker.spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        running.await.map_err(|_| BrokenOff)
    }

    /// Returns once nothing is under way. What it worked on may be closed then.
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

#[cfg(feature = "test-util")]
thread_local! {
    static IN_PLACE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on blocking work that is asked for on this thread is done on it, at once: for a simulation, whose order must
/// not depend on other threads.
#[cfg(feature = "test-util")]
pub fn work_in_place() {
    IN_PLACE.set(true);
}

/// Whether blocking work is to be done by whoever asks for it.
pub(crate) fn is_in_place() -> bool {
    #[cfg(feature = "test-util")]
    return IN_PLACE.get();
    #[cfg(not(feature = "test-util"))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::task::JoinSet;

    #[tokio::test]
    async fn only_so_much_runs_at_a_time_and_idle_waits_for_it() {
        let pool = BlockingPool::default();
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut callers = JoinSet::new();
        for _ in 0..4 * THREADS {
            let (pool, running, most) = (pool.clone(), Arc::clone(&running), Arc::clone(&most));
            callers.spawn(async move {
                let work = move || {
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    running.fetch_sub(1, Ordering::SeqCst);
                };
                pool.run(work).await.unwrap();
            });
        }
        callers.join_all().await;
        pool.idle().await;
        assert!((1..=THREADS).contains(&most.load(Ordering::SeqCst)));
        assert_eq!(running.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_the_pool_goes_on() {
        let pool = BlockingPool::default();
        for _ in 0..2 * THREADS {
            assert_eq!(pool.run(|| panic!("on purpose")).await, Err::<(), _>(BrokenOff));
        }
        assert_eq!(pool.run(|| 7).await, Ok(7));
    }
}
