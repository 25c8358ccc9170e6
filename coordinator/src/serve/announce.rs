//! Where the coordinator is, said to whoever started it: log, ready file, systemd.

use crate::check::parent_of;
use crate::config::Config;
use anyhow::Context as _;
use sd_notify::NotifyState;
use std::net::SocketAddr;

/// Says that the coordinator is ready, and where: gRPC first, then probes.
pub(super) fn announce(config: &Config, (grpc, probe): (SocketAddr, SocketAddr)) -> anyhow::Result<()> {
    tracing::info!(%grpc, %probe, data = %config.data_dir.display(), "ready");
    if let Some(path) = &config.ready_file {
        let ready = serde_json::json!({
            "grpc": grpc.to_string(),
            "probe": probe.to_string(),
            "pid": std::process::id(),
        });
        let mut file =
            tempfile::NamedTempFile::new_in(parent_of(path)).context("cannot write the ready file")?;
        serde_json::to_writer(&mut file, &ready)?;
        file.persist(path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    notify(&[NotifyState::Ready]);
    Ok(())
}

/// Tells systemd, where it listens.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}
