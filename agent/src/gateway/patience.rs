//! How long an attempt goes on asking an API that fails. The CLI's retries are many behind a gateway, because a wait for a
//! limit can cost some; so what ends an attempt whose API is down is said here, in the one way the CLI takes: it should not
//! ask again. Knows times; refuses to know why requests fail.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Longest pause between two failures of one spell. The CLI pauses up to 38 s between its retries (observed: 2.1.197); what
/// it did not ask again says nothing about a request that comes minutes later.
const APART: Duration = Duration::from_secs(90);

/// How long a credential that is refused is tried: a helper may print a new one meanwhile.
const REFUSED_LIMIT: Duration = Duration::from_secs(5);

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The API failed, or there is no way to it.
    Api,
    /// It did not take the credential.
    Credential,
}

/// Failures in a row.
#[derive(Debug)]
pub struct Patience {
    limit: Duration,
    spell: Mutex<Option<Spell>>,
}

#[derive(Debug, Clone, Copy)]
struct Spell {
    /// When the first of its requests came.
    since: Instant,
    /// When the last one had failed.
    last: Instant,
}

impl Patience {
    /// Gives up after `limit`.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit, spell: Mutex::new(None) }
    }

    /// The API answered something: a spell is over.
    pub fn answered(&self) {
        *self.spell.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A request that came at `began` has failed now. Says whether it should not be asked again.
    pub fn failed(&self, failure: Failure, began: Instant, now: Instant) -> bool {
        let limit = match failure {
            Failure::Api => self.limit,
            Failure::Credential => self.limit.min(REFUSED_LIMIT),
        };
        let mut spell = self.spell.lock().unwrap_or_else(PoisonError::into_inner);
        let before = spell.filter(|spell| began.saturating_duration_since(spell.last) <= APART);
        let since = before.map_or(began, |spell| spell.since);
        *spell = Some(Spell { since, last: now });
        now.saturating_duration_since(since) >= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(150);

    #[test]
    fn the_pauses_of_the_cli_end_in_about_the_time_in_which_it_would_give_up_by_itself() {
        let (patience, start) = (Patience::new(LIMIT), Instant::now());
        // As observed, in milliseconds; each request is held for 3 s by an agent that waits for a probe.
        let pauses = [600, 1_100, 2_100, 4_900, 8_300, 18_500, 33_000, 36_000, 38_000, 38_000, 38_000];
        let mut now = start;
        let ended = pauses.iter().position(|pause| {
            let began = now;
            now += Duration::from_secs(3);
            let is_over = patience.failed(Failure::Api, began, now);
            now += Duration::from_millis(*pause);
            is_over
        });
        assert_eq!(ended, Some(9));
        let took = now - Duration::from_millis(pauses[9]) - start;
        assert!(took >= LIMIT && took < Duration::from_secs(200), "{took:?}");
    }

    #[test]
    fn an_answer_and_a_long_pause_begin_anew_and_a_refused_credential_ends_soon() {
        let (patience, start) = (Patience::new(LIMIT), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(!patience.failed(Failure::Api, at(0), at(80)));
        assert!(patience.failed(Failure::Api, at(149), at(150)));
        patience.answered();
        assert!(!patience.failed(Failure::Api, at(151), at(152)));
        assert!(!patience.failed(Failure::Api, at(243), at(305)), "another spell");
        patience.answered();
        assert!(!patience.failed(Failure::Credential, at(400), at(401)));
        assert!(patience.failed(Failure::Credential, at(405), at(406)));
    }
}
