//! Work that blocks, off the loop's threads. In a simulation, where nothing may depend on another thread, it is done
//! where it was asked for. Refuses to know what the work is.

use tokio::task::{JoinError, JoinSet};

/// Starts `work` beside the loop; its end is told by `set`.
pub(crate) fn start<T: Send + 'static>(set: &mut JoinSet<T>, work: impl FnOnce() -> T + Send + 'static) {
    if is_in_place() {
        set.spawn(async move { work() });
    } else {
        set.spawn_blocking(work);
    }
}

/// Does `work` elsewhere and waits for it.
///
/// # Errors
/// When it panicked, or the runtime is shutting down.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if is_in_place() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

#[cfg(feature = "test-util")]
thread_local! {
    static IN_PLACE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on blocking work that is asked for on this thread is done on it: for a simulation, whose order must not
/// depend on other threads.
#[cfg(feature = "test-util")]
pub fn work_in_place() {
    IN_PLACE.set(true);
}

fn is_in_place() -> bool {
    #[cfg(feature = "test-util")]
    return IN_PLACE.get();
    #[cfg(not(feature = "test-util"))]
    return false;
}
