//! Knows windows that are used up on demand: from which request on, for how long, and what is said meanwhile. Pure: the
//! time is an argument. Refuses to know credentials: a key is a name here.

use std::time::Duration;

use super::conversation::{exhausted, window_headers};
use crate::script::steps::Failure;

/// The windows that were asked for.
#[derive(Debug, Default)]
pub(super) struct Windows {
    all: Vec<Window>,
}

#[derive(Debug)]
struct Window {
    key: String,
    claim: String,
    /// Requests that are served before it is used up.
    left: u64,
    lasts: Duration,
    /// When it is reset, once it is used up.
    until: Option<Duration>,
}

impl Windows {
    /// A key's window is used up after so many more requests, and is reset so long after that.
    pub(super) fn add(&mut self, key: &str, claim: &str, after: u64, lasts: Duration) {
        let window = Window { key: key.to_owned(), claim: claim.to_owned(), left: after, lasts, until: None };
        self.all.push(window);
    }

    /// How a request of a key fails now; `unix_now` is the time of day at `now`.
    pub(super) fn failure(
        &mut self,
        key: Option<&str>,
        now: Duration,
        unix_now: Duration,
    ) -> Option<Failure> {
        let window = self.all.iter_mut().find(|window| {
            Some(window.key.as_str()) == key && window.until.is_none_or(|until| now < until)
        })?;
        if window.until.is_none() && window.left > 0 {
            window.left -= 1;
            return None;
        }
        let until = *window.until.get_or_insert(now + window.lasts);
        let left = until.saturating_sub(now);
        let reset = whole_seconds(unix_now + left);
        let mut headers = window_headers("rejected", &window.claim, reset);
        headers.push(("retry-after".to_owned(), whole_seconds(left).max(1).to_string()));
        Some(exhausted(headers))
    }
}

/// Rounded up.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Windows;
    use crate::script::steps::Failure;

    #[test]
    fn a_window_is_used_up_from_a_request_on_and_fine_again_after_its_time() {
        let mut windows = Windows::default();
        windows.add("north", "five_hour", 2, Duration::from_secs(5));
        let mut ask = |key: &str, at: u64| {
            windows.failure(Some(key), Duration::from_secs(at), Duration::from_secs(1_000 + at))
        };
        assert!(ask("north", 0).is_none() && ask("north", 0).is_none());
        let Some(Failure::Status { status: 429, headers, .. }) = ask("north", 1) else { panic!("served") };
        let told = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(told("anthropic-ratelimit-unified-status"), Some("rejected"));
        assert_eq!(told("anthropic-ratelimit-unified-reset"), Some("1006"));
        assert_eq!(told("retry-after"), Some("5"));
        assert!(ask("south", 1).is_none());
        assert!(ask("north", 5).is_some());
        assert!(ask("north", 6).is_none() && ask("north", 60).is_none());
    }
}
