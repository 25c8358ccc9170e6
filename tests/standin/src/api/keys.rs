//! Knows credentials by a name a test gave them, and what each one gets: service, a refusal, or the end of
//! a subscription's window. Refuses to keep any credential: only a keyed hash is held, for this process.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::time::Duration;

use http::HeaderMap;

use super::conversation::{exhausted, window_headers};
use crate::script::steps::Failure;

/// What requests with a credential get, whatever their prompt says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRule {
    /// What their prompt says.
    Serve,
    /// This status: 401 for a key that was withdrawn.
    Refuse(u16),
    /// The API's refusal when a subscription's window is used up.
    Window {
        /// Which window: `five_hour`, `seven_day`.
        claim: String,
        /// Time until it resets, from each request on.
        resets_in: Duration,
    },
}

/// The credentials that have a name.
#[derive(Debug, Default)]
pub(super) struct Keys {
    hasher: RandomState,
    named: Vec<(u64, String, KeyRule)>,
}

impl Keys {
    /// Names a credential, or changes what it gets.
    pub(super) fn set(&mut self, name: &str, credential: &str, rule: KeyRule) {
        let hash = self.hasher.hash_one(credential);
        self.named.retain(|(known, _, _)| *known != hash);
        self.named.push((hash, name.to_owned(), rule));
    }

    /// Tells credentials apart that have no name: a number that means nothing outside this process.
    pub(super) fn hash_of(&self, headers: &HeaderMap) -> u64 {
        let found =
            ["x-api-key", "authorization"].into_iter().find_map(|name| headers.get(name)?.to_str().ok());
        let plain = found.map(|value| value.strip_prefix("Bearer ").unwrap_or(value));
        self.hasher.hash_one(plain.unwrap_or_default())
    }

    /// Name and rule of the credential a request carries, if it has a name.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<(&str, &KeyRule)> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let bearer = text("authorization").map(|value| value.strip_prefix("Bearer ").unwrap_or(value));
        let known = |credential: &str| {
            let hash = self.hasher.hash_one(credential);
            self.named.iter().find(|(known, _, _)| *known == hash)
        };
        let found = text("x-api-key").and_then(known).or_else(|| bearer.and_then(known))?;
        Some((&found.1, &found.2))
    }
}

impl KeyRule {
    /// How a request fails because of its credential; `unix_now` in seconds.
    pub(super) fn failure(&self, unix_now: u64) -> Option<Failure> {
        match self {
            Self::Serve => None,
            Self::Refuse(status) => Some(Failure::Status {
                status: *status,
                message: "stand-in: this credential is refused".to_owned(),
                headers: Vec::new(),
            }),
            Self::Window { claim, resets_in } => {
                let resets_at = unix_now.saturating_add(resets_in.as_secs());
                Some(exhausted(window_headers("rejected", claim, resets_at)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::{KeyRule, Keys};

    #[test]
    fn a_credential_is_known_by_either_header_and_never_kept() {
        let mut keys = Keys::default();
        keys.set("a", "canary-a", KeyRule::Serve);
        keys.set("b", "canary-b", KeyRule::Refuse(401));
        assert!(!format!("{keys:?}").contains("canary"));
        let with = |name: &'static str, value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            headers
        };
        assert_eq!(keys.of(&with("x-api-key", "canary-a")), Some(("a", &KeyRule::Serve)));
        assert_eq!(keys.of(&with("authorization", "Bearer canary-b")), Some(("b", &KeyRule::Refuse(401))));
        assert_eq!(keys.of(&with("x-api-key", "other")), None);
        keys.set("a", "canary-a", KeyRule::Refuse(403));
        assert_eq!(keys.of(&with("x-api-key", "canary-a")), Some(("a", &KeyRule::Refuse(403))));
    }
}
