//! Credential pools: which one an attempt uses, who waits for whom, and whether each can be used.
//! Knows files, directories and commands that hold credentials; refuses to show what is in them, and knows no coordinator.

use std::io;
use std::path::Path;

use thiserror::Error;

use crate::supervisor::spec::Secrets;

/// Why no credential could be had.
#[derive(Debug, Error)]
pub enum LeaseError {
    /// A worker asks for a pool this agent does not have.
    #[error("this agent has no credential pool {0:?}")]
    NoPool(String),
}

/// All pools of an agent.
#[derive(Debug, Clone, Default)]
pub struct Pools {}

/// The right of one attempt to use a pool until it is given back or dropped.
#[derive(Debug)]
pub struct Lease {}

impl Pools {
    /// A credential for an attempt of `worker`: that of `pool` where the worker names one, else what the agent's own
    /// mapping says. Waits while a login that serves one attempt at a time is in use. Cancel-safe.
    ///
    /// # Errors
    /// See [`LeaseError`].
    #[expect(clippy::unused_async, reason = "the room is being built")]
    pub async fn lease(&self, pool: Option<&str>, worker: &str, reference: &str) -> Result<Lease, LeaseError> {
        let _ = (pool, worker, reference);
        Ok(Lease {})
    }
}

impl Lease {
    /// Variables for the child, and every text that must not be seen in its output.
    #[must_use]
    pub fn secrets(&self) -> Secrets {
        Secrets::default()
    }

    /// Puts what the CLI expects on disk into the conversation's configuration directory, private to the user. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn place(&self, config: &Path) -> io::Result<()> {
        let _ = config;
        Ok(())
    }

    /// Takes a login that the CLI may have refreshed back into the pool and removes it from the conversation. Blocks.
    pub fn take_back(self, config: &Path) {
        let _ = config;
    }
}
