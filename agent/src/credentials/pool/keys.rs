//! Keys that come and go while attempts run, and what tells a key from another without showing it. Knows helpers and
//! digests; refuses to know who uses a key.

use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::super::health::Credential;
use super::super::settings::Source;
use super::Pool;
use crate::causes::one_line;
use crate::secret::Secret;

/// First and longest pause before a helper is asked again that gave no key while an attempt runs with an old one.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_RENEWAL_PAUSE: Duration = Duration::from_secs(300);

/// Stands before a key in its digest, so that the digest is of no use anywhere else.
const FINGERPRINT_OF: &[u8] = b"orch credential pool fingerprint 1\0";
/// Bytes of the digest that are shown.
const FINGERPRINT_BYTES: usize = 8;

impl Pool {
    /// Tells what this pool holds from what pools of the same name hold elsewhere. Keys of a helper come and go, and of a
    /// login only the tokens are known, which do so too.
    pub(super) fn fingerprint(&self, credential: &Credential) -> Vec<u8> {
        match (credential, &self.settings.source) {
            (Credential::Variable(_, secret), Source::ApiKey(_) | Source::Token(_)) => fingerprint(secret),
            (Credential::Variable(..) | Credential::Login(_), _) => Vec::new(),
        }
    }

    /// Waits until the helper prints another key than `in_use`; for ever where there is no helper. The helper is asked when
    /// what it printed is not to be used any more.
    pub(in crate::credentials) async fn renewed(&self, in_use: &str) -> Secret {
        let Source::Helper { command, ttl } = &self.settings.source else {
            return std::future::pending().await;
        };
        let mut pause = RENEWAL_PAUSE;
        loop {
            let known = self.inside().printed.clone();
            match known {
                Some((secret, _)) if secret.reveal() != in_use => return secret,
                Some((_, until)) if until > Instant::now() => tokio::time::sleep_until(until).await,
                Some(_) | None => {
                    if let Err(error) = self.ask_helper(command, *ttl).await {
                        tracing::warn!(pool = self.settings.name, error = one_line(&error), "no new key yet");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(LONGEST_RENEWAL_PAUSE);
                    } else if self.inside().printed.is_none() {
                        // It was refused meanwhile.
                        tokio::time::sleep(pause).await;
                    }
                }
            }
        }
    }
}

fn fingerprint(secret: &Secret) -> Vec<u8> {
    let digest = Sha256::new().chain_update(FINGERPRINT_OF).chain_update(secret.reveal()).finalize();
    digest.iter().copied().take(FINGERPRINT_BYTES).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::super::settings::PoolSettings;
    use super::*;

    #[test]
    fn equal_keys_look_alike_and_nothing_of_a_key_is_shown() {
        let of = |key: &str| fingerprint(&Secret::new(key));
        assert_eq!((of("sk-a").len(), of("sk-a") == of("sk-a"), of("sk-a") == of("sk-b")), (8, true, false));
    }

    #[tokio::test]
    async fn a_helper_that_prints_another_key_is_noticed_when_the_old_one_has_had_its_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        std::fs::write(&file, "sk-one").unwrap();
        let command = vec!["/bin/cat".to_owned(), file.to_str().unwrap().to_owned()];
        let source = Source::Helper { command, ttl: Duration::from_millis(30) };
        let pool = Arc::new(Pool::new(PoolSettings::new("h", source), Path::new("/"), Arc::default()));
        let (_, first) = pool.read_variable().await.unwrap();
        std::fs::write(&file, "sk-two").unwrap();
        let renewed =
            tokio::time::timeout(Duration::from_secs(20), pool.renewed(first.reveal())).await.unwrap();
        assert_eq!(renewed.reveal(), "sk-two");
    }
}
