//! Credential pools: which one an attempt uses, who waits for whom, and whether each can be used.
//! Knows files, directories and commands that hold credentials; refuses to show what is in them, and knows no coordinator.
//!
//! | Module | Holds |
//! |---|---|
//! | [`settings`] | which pools an operator wants; pure |
//! | [`pool`] | one pool: its users, its turn, its key |
//! | [`login`], [`login_file`] | the CLI's login: lent to one attempt at a time, taken back |
//! | [`helper`] | a command that prints a key |
//! | [`health`] | what the CLI says of a credential |
//! | [`within`] | files in directories that a child may write |
//! | [`tool`] | `orch-agent login` and `orch-agent pools` |

use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use orch_proto::v1::Outcome;
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;

use self::health::Checker;
use self::helper::HelperError;
use self::login::LoginError;
use self::pool::{Held, Pool};
use self::settings::{DEFAULT_POOL, PoolSettings};
use crate::homes::{ConversationKey, HomeError, Homes, private_dir};
use crate::secret::SecretError;
use crate::supervisor::spec::Secrets;

pub use self::health::Health;
pub use self::pool::PoolState;

pub mod health;
pub mod helper;
pub mod login;
pub mod login_file;
pub mod pool;
pub mod settings;
pub mod tool;
pub mod within;

/// How often every pool is looked at.
const CHECK_EVERY: Duration = Duration::from_secs(600);

/// Pause before a look that somebody asked for: what fails at once, fails for many attempts at once.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// Why no credential could be had.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// A worker asks for a pool this agent does not have.
    #[error(
        "this agent has no credential pool {0:?}: name another in the worker, or start the agent with --pool"
    )]
    NoPool(String),
    /// No pool is for this worker.
    #[error(
        "no credential pool of this agent serves worker {worker} (it has {pools}): name one of them in the worker, or the worker in one of them"
    )]
    NoneFor {
        /// The worker.
        worker: String,
        /// The pools there are.
        pools: String,
    },
    /// Its file cannot be used.
    #[error("credential pool {pool}")]
    File {
        /// The pool.
        pool: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// Its login cannot be used.
    #[error("credential pool {pool}")]
    Login {
        /// The pool.
        pool: String,
        /// Why.
        #[source]
        source: LoginError,
    },
    /// Its helper gave no key.
    #[error("credential pool {pool}")]
    Helper {
        /// The pool.
        pool: String,
        /// Why.
        #[source]
        source: HelperError,
    },
}

impl LeaseError {
    /// How an attempt ends that could not have a credential.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        Outcome::Auth
    }
}

/// All pools of an agent.
#[derive(Debug, Clone, Default)]
pub struct Pools {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    pools: BTreeMap<String, Arc<Pool>>,
    checker: Checker,
    /// Directory of the pools of this agent; empty without one.
    dir: PathBuf,
    signals: Arc<Signals>,
}

/// What pools tell whoever watches them.
#[derive(Debug)]
pub(crate) struct Signals {
    /// A pool looks different than before. Only that it does: the value counts nothing.
    changed: watch::Sender<()>,
    /// A look is asked for.
    look: Notify,
}

impl Default for Signals {
    fn default() -> Self {
        Self { changed: watch::channel(()).0, look: Notify::new() }
    }
}

/// The right of one attempt to use a pool until it is given back or dropped.
#[derive(Debug, Default)]
pub struct Lease {
    held: Option<Held>,
}

impl Pools {
    /// The pools of the agent whose data lies in `data_dir`. What cannot be used is said by [`Self::states`], not here.
    ///
    /// # Errors
    /// When the directory of the pools cannot be made.
    pub fn open(settings: &[PoolSettings], data_dir: &Path, checker: Checker) -> Result<Self, HomeError> {
        let dir = make_pools_dir(data_dir)?;
        let signals = Arc::new(Signals::default());
        let pools = settings.iter().map(|settings| {
            let pool = Pool::new(settings.clone(), data_dir, Arc::clone(&signals));
            pool.make_place();
            (settings.name.clone(), Arc::new(pool))
        });
        let checker = Checker { scratch: dir.clone(), ..checker };
        Ok(Self { inner: Arc::new(Inner { pools: pools.collect(), checker, dir, signals }) })
    }

    /// A credential for an attempt of `worker`: that of `pool` where the worker names one, else what the agent's own
    /// mapping says. Waits while a login that serves one attempt at a time is in use. Cancel-safe.
    ///
    /// An agent without any pool gives an empty lease: the CLI says itself what it lacks.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub async fn lease(
        &self,
        pool: Option<&str>,
        worker: &str,
        reference: &str,
    ) -> Result<Lease, LeaseError> {
        self.lease_telling(pool, worker, reference, |_| {}).await
    }

    /// As [`Self::lease`]; `tell` hears what is waited for, in plain English, whenever that changes.
    ///
    /// # Errors
    /// See [`LeaseError`].
    pub async fn lease_telling(
        &self,
        pool: Option<&str>,
        worker: &str,
        reference: &str,
        tell: impl Fn(&str) + Send + Sync,
    ) -> Result<Lease, LeaseError> {
        match self.choose(pool.filter(|name| !name.is_empty()), worker)? {
            Some(pool) => {
                let held = pool.lease(reference, &tell).await;
                // What people are shown is not to lag behind what attempts see.
                if held.is_err() || pool.is_shown_unfit() {
                    self.inner.signals.look.notify_one();
                }
                Ok(Lease { held: Some(held?) })
            }
            None => Ok(Lease::default()),
        }
    }

    /// The credential of an attempt that a former process of this agent started, so that it is known what must not be seen,
    /// and so that a login comes back at its end. Never waits for another attempt, and never fails: the attempt has what it
    /// has, and only shows less of it.
    pub async fn lease_again(&self, config: &Path, pool: &str, worker: &str, reference: &str) -> Lease {
        let lent = self.inner.pools.values().find_map(|pool| pool.take_lent(config, reference));
        if lent.is_some() {
            return Lease { held: lent };
        }
        let Ok(Some(pool)) = self.choose(Some(pool).filter(|name| !name.is_empty()), worker) else {
            return Lease::default();
        };
        if pool.is_login() {
            return Lease::default();
        }
        Lease { held: pool.lease(reference, &|_: &str| ()).await.ok() }
    }

    /// The pool for a worker: the one it names, the one that names it, `default`, the only one that names nobody.
    fn choose(&self, named: Option<&str>, worker: &str) -> Result<Option<&Arc<Pool>>, LeaseError> {
        let pools = &self.inner.pools;
        if let Some(name) = named {
            return pools.get(name).map(Some).ok_or_else(|| LeaseError::NoPool(name.to_owned()));
        }
        if pools.is_empty() {
            return Ok(None);
        }
        let serving = pools.values().find(|pool| pool.settings().workers.contains(worker));
        let free = |pool: &&Arc<Pool>| pool.settings().workers.is_empty();
        let default = pools.get(DEFAULT_POOL).filter(free);
        let mut others = pools.values().filter(free);
        let only = match (others.next(), others.next()) {
            (Some(only), None) => Some(only),
            (None | Some(_), _) => None,
        };
        serving.or(default).or(only).map(Some).ok_or_else(|| LeaseError::NoneFor {
            worker: worker.to_owned(),
            pools: pools.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The names of all pools, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.inner.pools.keys().map(String::as_str)
    }

    /// What people may know of every pool, in order of their names.
    #[must_use]
    pub fn states(&self) -> Vec<PoolState> {
        self.inner.pools.values().map(|pool| pool.state()).collect()
    }

    /// Tells of every change of [`Self::states`].
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.inner.signals.changed.subscribe()
    }

    /// Looks at every pool now.
    pub async fn check(&self) {
        for pool in self.inner.pools.values() {
            pool.check(&self.inner.checker).await;
        }
    }

    /// Looks at every pool now, every ten minutes, and when an attempt saw another state than people are shown. Never
    /// ends.
    pub async fn tend(&self) {
        loop {
            self.check().await;
            tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => {}
                () = self.inner.signals.look.notified() => tokio::time::sleep(CHECK_PAUSE).await,
            }
        }
    }

    /// Takes back what a former process of this agent had lent, and removes logins from conversations, but for those
    /// `in_use`: there an attempt of that process goes on, and the login it has stays lent to it, and to nobody else, until
    /// [`Self::lease_again`] gives it to whoever follows that attempt. Nothing of any other attempt may run. Blocks.
    pub fn sweep(&self, homes: &Homes, in_use: &BTreeSet<ConversationKey>) {
        health::remove_left(&self.inner.dir);
        let in_use: BTreeSet<PathBuf> = in_use.iter().map(|key| homes.config_dir(*key)).collect();
        for pool in self.inner.pools.values() {
            pool.settle_own(&in_use);
        }
        pool::settle_forgotten(&self.inner.dir, self.inner.pools.keys(), &in_use);
        for key in homes.kept().unwrap_or_default() {
            let config = homes.config_dir(key);
            if in_use.contains(&config) {
                continue;
            }
            if let Err(error) = login::remove_stray(&config) {
                tracing::warn!(dir = %config.display(), %error, "a login may still lie in a conversation");
            }
        }
    }
}

/// Where an agent keeps its pools.
#[must_use]
pub fn pools_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("pools")
}

/// The same, made when it is missing and closed to others.
///
/// # Errors
/// When it cannot be made.
pub fn make_pools_dir(data_dir: &Path) -> Result<PathBuf, HomeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(data_dir);
    made.map_err(|source| HomeError::Io { path: data_dir.to_owned(), source })?;
    let dir = pools_dir(data_dir);
    private_dir(&dir)?;
    Ok(dir)
}

impl Lease {
    /// Variables for the child, every text that must not be seen in its output, and where more of them may appear: the
    /// login that lies in the conversation's configuration directory.
    #[must_use]
    pub fn secrets(&self, config: &Path) -> Secrets {
        self.held.as_ref().map(|held| held.secrets(config)).unwrap_or_default()
    }

    /// Puts what the CLI expects on disk into the conversation's configuration directory, private to the user. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn place(&self, config: &Path) -> io::Result<()> {
        self.held.as_ref().map_or(Ok(()), |held| held.place(config))
    }

    /// Takes a login that the CLI may have refreshed back into the pool and removes it from the conversation. Blocks.
    /// Nothing of the attempt runs any more.
    pub fn take_back(self, config: &Path) {
        if let Some(held) = self.held {
            held.take_back(config);
        }
    }

    /// Hears how the attempt ended. A refusal of the credential is shown with the pool, makes a helper be asked again and
    /// the pool be looked at; a success clears that.
    pub fn note_outcome(&self, outcome: Outcome) {
        if let Some(held) = &self.held {
            held.note_outcome(outcome);
        }
    }

    /// The API key for a gateway, and where its API is when that is not the usual place; `None` where requests pass none.
    #[must_use]
    pub fn for_gateway(&self) -> Option<(&str, Option<&str>)> {
        self.held.as_ref()?.for_gateway()
    }

    /// Whether the CLI pays by an API key rather than by a subscription; also where it brings its own credential.
    #[must_use]
    pub fn is_api_key(&self) -> bool {
        self.held.as_ref().is_none_or(Held::is_api_key)
    }

    /// Waits until there is another API key than `in_use`; for ever where keys do not change by themselves. Cancel-safe.
    pub async fn renewed(&self, in_use: &str) -> String {
        match &self.held {
            Some(held) => held.renewed(in_use).await,
            None => std::future::pending().await,
        }
    }

    /// The API refused the credential.
    pub fn note_refused(&self) {
        self.note_outcome(Outcome::Auth);
    }

    /// Name of the pool, where there is one.
    #[must_use]
    pub fn pool(&self) -> Option<&str> {
        self.held.as_ref().map(Held::pool)
    }
}

/// Runs something short that touches the disk; a mistake in it becomes an error.
async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)
}

#[cfg(test)]
mod tests;
