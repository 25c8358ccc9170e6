//! What the CLI's login file says, and which of two logins is to be kept. Pure. Knows the shape of the file and
//! refuses to show what is in it.

use std::fmt;

use serde_json::Value;

/// Longest login file that is believed, in bytes; the real ones have less than 1 KiB.
pub const LONGEST_LOGIN: usize = 64 * 1024;

/// The member that holds the subscription's login.
const OAUTH: &str = "claudeAiOauth";

/// Shortest text that is taken for a secret.
const SHORTEST_SECRET: usize = 6;

/// A login that can be used: an object with an access token.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    whole: Value,
    /// As they lay in the file: whoever wrote it may care for more than what JSON says.
    bytes: Vec<u8>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// Reads a login file; `None` for anything the CLI could not use.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > LONGEST_LOGIN {
            return None;
        }
        let login = Self { whole: serde_json::from_slice(bytes).ok()?, bytes: bytes.to_owned() };
        login.text("accessToken").is_some().then_some(login)
    }

    /// The file's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Every text in it that must not be seen.
    #[must_use]
    pub fn secrets(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect(&self.whole, &mut found);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The subscription's name, for example `max`.
    #[must_use]
    pub fn subscription(&self) -> Option<&str> {
        self.text("subscriptionType").filter(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric()))
    }

    /// Whether it has expired at `unix_ms` and cannot be refreshed.
    #[must_use]
    pub fn is_spent(&self, unix_ms: u64) -> bool {
        self.text("refreshToken").is_none() && self.expires().is_some_and(|at| at <= unix_ms)
    }

    /// What becomes of this login when a child leaves `other` behind: the successor, or `None` when this one is to be
    /// kept. A successor expires later or has another refresh token; one without a refresh token keeps the old one, as
    /// OAuth has it (RFC 6749, 6).
    #[must_use]
    pub fn successor(&self, other: &Self) -> Option<Self> {
        let other_refresh = other.text("refreshToken");
        let renewed = other_refresh.is_some() && other_refresh != self.text("refreshToken");
        let later = other.expires() > self.expires();
        if !renewed && !later {
            return None;
        }
        match self.oauth().and_then(|oauth| oauth.get("refreshToken")).filter(|_| other_refresh.is_none()) {
            Some(kept) => {
                Some(other.changed(|oauth| drop(oauth.insert("refreshToken".to_owned(), kept.clone()))))
            }
            None => Some(other.clone()),
        }
    }

    /// The login without what could refresh it: enough to ask whether somebody is signed in, useless to a refresh.
    #[must_use]
    pub fn without_refresh(&self) -> Self {
        self.changed(|oauth| drop(oauth.remove("refreshToken")))
    }

    fn changed(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> Self {
        let mut whole = self.whole.clone();
        if let Some(oauth) = whole.get_mut(OAUTH).and_then(Value::as_object_mut) {
            change(oauth);
        }
        Self { bytes: whole.to_string().into_bytes(), whole }
    }

    fn oauth(&self) -> Option<&Value> {
        self.whole.get(OAUTH)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.oauth()?.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// When it expires, in milliseconds of Unix time.
    fn expires(&self) -> Option<u64> {
        self.oauth()?.get("expiresAt")?.as_u64()
    }
}

/// Texts under names that speak of tokens, keys and secrets, at any depth: the file may hold logins of tool servers too.
fn collect(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.to_ascii_lowercase();
                let telling = ["token", "secret", "key", "password"].iter().any(|word| name.contains(word));
                match member.as_str() {
                    Some(text) if telling && text.len() >= SHORTEST_SECRET => found.push(text.to_owned()),
                    Some(_) => {}
                    None => collect(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login(access: &str, refresh: Option<&str>, expires: Option<u64>) -> Login {
        let mut oauth = serde_json::json!({"accessToken": access, "subscriptionType": "max"});
        if let Some(refresh) = refresh {
            oauth["refreshToken"] = refresh.into();
        }
        if let Some(expires) = expires {
            oauth["expiresAt"] = expires.into();
        }
        Login::parse(serde_json::json!({ "claudeAiOauth": oauth }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn what_the_cli_could_not_use_is_no_login() {
        let long = format!(r#"{{"claudeAiOauth":{{"accessToken":"{}"}}}}"#, "x".repeat(LONGEST_LOGIN));
        for bad in [
            "",
            "garbage{",
            "{}",
            "[]",
            r#"{"claudeAiOauth":{}}"#,
            r#"{"claudeAiOauth":{"accessToken":""}}"#,
            &long,
        ] {
            assert_eq!(Login::parse(bad.as_bytes()), None, "{:.60}", bad);
        }
        let good = login("at", None, None);
        assert_eq!(Login::parse(good.bytes()), Some(good));
    }

    #[test]
    fn a_later_expiry_or_another_refresh_token_replaces_and_nothing_else_does() {
        let old = login("at-1", Some("rt-1"), Some(100));
        let cases = [
            (login("at-2", Some("rt-1"), Some(200)), true),
            (login("at-2", Some("rt-2"), Some(100)), true),
            (login("at-2", Some("rt-2"), Some(50)), true),
            (login("at-2", Some("rt-1"), Some(100)), false),
            (login("at-2", Some("rt-1"), Some(50)), false),
            (login("at-2", None, Some(50)), false),
            (login("at-2", None, None), false),
            (old.clone(), false),
        ];
        for (other, replaces) in cases {
            assert_eq!(old.successor(&other).is_some(), replaces, "{}", other.whole);
        }
    }

    #[test]
    fn a_successor_without_a_refresh_token_keeps_the_old_one() {
        let next = login("at-1", Some("rt-1"), Some(100)).successor(&login("at-2", None, Some(200))).unwrap();
        assert_eq!((next.text("accessToken"), next.text("refreshToken")), (Some("at-2"), Some("rt-1")));
    }

    #[test]
    fn only_what_cannot_be_refreshed_is_spent() {
        assert!(login("at", None, Some(100)).is_spent(100));
        assert!(!login("at", None, Some(100)).is_spent(99));
        assert!(!login("at", Some("rt"), Some(100)).is_spent(200));
        assert!(!login("at", None, None).is_spent(200));
        assert!(login("at", Some("rt"), Some(100)).without_refresh().is_spent(100));
    }

    #[test]
    fn every_token_is_a_secret_and_debug_shows_none() {
        let text = r#"{"claudeAiOauth":{"accessToken":"access-1","refreshToken":"refresh-1","scopes":["user:inference"],
            "subscriptionType":"max"},"mcpOAuth":{"x":{"clientSecret":"client-1","serverName":"github"}}}"#;
        let login = Login::parse(text.as_bytes()).unwrap();
        assert_eq!(login.secrets(), ["access-1", "client-1", "refresh-1"]);
        assert_eq!((format!("{login:?}").as_str(), login.subscription()), ("Login", Some("max")));
    }

    proptest! {
        /// Whatever a child leaves behind, a successor can be used and never loses what refreshes it.
        #[test]
        fn a_successor_is_never_worse(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let old = login("at-1", Some("rt-1"), Some(100));
            if let Some(next) = Login::parse(&bytes).and_then(|other| old.successor(&other)) {
                prop_assert!(next.text("refreshToken").is_some() && next.text("accessToken").is_some());
            }
        }
    }
}
