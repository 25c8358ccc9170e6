//! What is read from files, at the start and again on a reload: certificates and prompts.
//! Knows where the settings say they are; refuses to know when they are read.

use crate::config::Config;
use crate::prompts::{Catalogue, CatalogueError, PromptDir, SYSTEM_PROMPT_DIR};
use orch_certs::{ServerTls, TlsError, TlsFiles};
use std::time::SystemTime;

/// The certificates of the settings, as they are at `now`.
///
/// # Errors
/// The file at fault and what is wrong with it; a certificate of another role than coordinator.
pub fn load_tls(config: &Config, now: SystemTime) -> Result<ServerTls, TlsError> {
    let files =
        TlsFiles { ca: config.tls_ca.clone(), cert: config.tls_cert.clone(), key: config.tls_key.clone() };
    ServerTls::load(files, now)
}

/// Workers and sub-agents in force: built in, then of the system, then of the settings.
///
/// # Errors
/// Every file at fault with line and reason.
pub fn load_prompts(config: &Config) -> Result<Catalogue, CatalogueError> {
    let mut dirs = vec![PromptDir::optional(SYSTEM_PROMPT_DIR)];
    dirs.extend(config.prompts.clone().map(PromptDir::required));
    Catalogue::load(&dirs)
}
