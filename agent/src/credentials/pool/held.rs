//! A pool in the hands of one attempt: what the child is given, and how it comes back. Knows its pool; refuses to know how
//! the turn was got.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use orch_proto::v1::Outcome;
use tokio::sync::OwnedSemaphorePermit;

use super::super::login::{self, LOGIN_FILE, Lock, LoginPlace, Stored};
use super::{KEY_VARIABLE, Pool, URL_VARIABLE, told};
use crate::supervisor::spec::Secrets;

/// A pool in use by one attempt.
pub(in crate::credentials) struct Held {
    pub(super) pool: Arc<Pool>,
    pub(super) user: u64,
    pub(super) reference: String,
    pub(super) secrets: Secrets,
    pub(super) lent: Option<Lent>,
}

/// A login in use. The lock goes before the turn: whoever comes next finds it free.
pub(super) struct Lent {
    /// As it was lent; absent where that cannot be read any more.
    pub(super) stored: Option<Stored>,
    pub(super) place: LoginPlace,
    pub(super) _lock: Lock,
    pub(super) _turn: OwnedSemaphorePermit,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({} by {})", self.pool.settings.name, self.reference)
    }
}

impl Held {
    pub(in crate::credentials) fn secrets(&self, config: &Path) -> Secrets {
        let login = self.lent.as_ref().map(|_| config.join(LOGIN_FILE));
        Secrets { login, ..self.secrets.clone() }
    }

    pub(in crate::credentials) fn pool(&self) -> &str {
        &self.pool.settings.name
    }

    pub(in crate::credentials) fn place(&self, config: &Path) -> io::Result<()> {
        let Some(lent) = &self.lent else { return Ok(()) };
        let Some(stored) = &lent.stored else { return Ok(()) };
        lent.place.lend(stored, config, &self.reference)
    }

    pub(in crate::credentials) fn take_back(self, config: &Path) {
        let Some(lent) = &self.lent else { return };
        told(self.pool(), lent.place.settle());
        if let Err(error) = login::remove_stray(config) {
            tracing::warn!(dir = %config.display(), %error, "a login may still lie in a conversation");
        }
    }

    /// The API key, and where its API is when that is not the usual place; `None` where the CLI itself must hold the
    /// credential.
    pub(in crate::credentials) fn for_gateway(&self) -> Option<(&str, Option<&str>)> {
        let key = self.secrets.env.get(KEY_VARIABLE).filter(|_| self.pool.is_for_gateway())?;
        Some((key, self.secrets.env.get(URL_VARIABLE).map(String::as_str)))
    }

    pub(in crate::credentials) fn is_api_key(&self) -> bool {
        self.secrets.env.contains_key(KEY_VARIABLE)
    }

    pub(in crate::credentials) async fn renewed(&self, in_use: &str) -> String {
        self.pool.renewed(in_use).await.reveal().to_owned()
    }

    pub(in crate::credentials) fn note_outcome(&self, outcome: Outcome) {
        let refused = outcome == Outcome::Auth;
        if !refused && outcome != Outcome::Ok {
            return;
        }
        let mut inside = self.pool.inside();
        let was = std::mem::replace(&mut inside.refused, refused);
        if refused {
            inside.printed = None;
        }
        drop(inside);
        if refused {
            self.pool.signals.look.notify_one();
        }
        if was != refused {
            self.pool.changed();
        }
    }
}

impl Drop for Held {
    /// A login that was not taken back is settled by the next one to use it: its child may still run.
    fn drop(&mut self) {
        self.pool.inside().users.remove(&self.user);
        self.pool.changed();
    }
}
