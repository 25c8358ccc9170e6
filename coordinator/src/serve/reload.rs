//! What SIGHUP puts in force without a restart: certificates, prompts, limits, prices and the log filter.
//! Each keeps what it has when the new one will not do, and says so.

use crate::config::Config;
use crate::engine::Handle;
use crate::limits::{self, Limits};
use crate::metrics::Metrics;
use crate::prices::PriceList;
use crate::serve::announce::notify;
use crate::telemetry::{self, FilterHandle};
use crate::workers::PromptReloads;
use anyhow::Context as _;
use orch_certs::ServerTls;
use orch_core::event::Event;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::time::SystemTime;

/// What can be reloaded, and the settings of the start.
#[derive(Debug)]
pub(super) struct Reloads {
    /// As the start read them.
    pub(super) config: Config,
    pub(super) prompts: Arc<PromptReloads>,
    pub(super) tls: Arc<ServerTls>,
    pub(super) filter: FilterHandle,
    pub(super) metrics: Arc<Metrics>,
    pub(super) engine: Handle,
}

impl Reloads {
    /// Reads everything again.
    pub(super) async fn reload(&self) {
        tell_systemd(NotifyState::Reloading);
        let (tls, config, prompts) = (Arc::clone(&self.tls), self.config.clone(), Arc::clone(&self.prompts));
        let read = tokio::task::spawn_blocking(move || {
            let wanted = config.again().context("cannot read the settings");
            let prompts = prompts.reload().map_err(anyhow::Error::from);
            let prices = wanted.as_ref().ok().map(|wanted| PriceList::load(wanted.prices.as_deref()));
            (tls.reload(SystemTime::now()).map_err(anyhow::Error::from), prompts, prices, wanted)
        });
        match read.await {
            Ok((certificates, prompts, prices, wanted)) => {
                self.metrics.set_certificate(self.tls.expires());
                told("certificates", certificates);
                told("prompts", prompts.map(|changes| self.engine.workers_changed(&changes.changed)));
                if let Some(prices) = prices {
                    let prices = prices.map(|list| self.engine.ledger().book().prices().replace(list));
                    told("prices", prices.map_err(anyhow::Error::from));
                }
                let limits = wanted.as_ref().ok().map(|wanted| wanted.pools.clone());
                told("settings", wanted.and_then(|wanted| self.put_in_force(&wanted)));
                if let Some(limits) = limits {
                    told("limits", configure(&self.engine, limits).await);
                }
            }
            Err(error) => tracing::error!(%error, "the reload broke off"),
        }
        tell_systemd(NotifyState::Ready);
    }

    fn put_in_force(&self, wanted: &Config) -> anyhow::Result<()> {
        telemetry::change(&self.filter, &wanted.log)?;
        let names = self.config.needing_a_restart(wanted).join(", ");
        if !names.is_empty() {
            tracing::warn!(settings = names, "changed in the file and in force only after a restart");
        }
        Ok(())
    }
}

/// Tells the core of an operator's limits, in place of those before.
pub(super) async fn configure(engine: &Handle, pools: Limits) -> anyhow::Result<()> {
    for doubt in limits::doubts(&pools, &engine.ledger().book().prices().current().prices) {
        tracing::warn!("limits: {doubt}");
    }
    engine.apply(Event::LimitsConfigured { pools }).await.context("the engine has stopped")
}

fn told(what: &'static str, done: anyhow::Result<()>) {
    match done {
        Ok(()) => tracing::info!("{what} reloaded"),
        Err(error) => tracing::error!("{what} not reloaded, the old ones stay in force: {error:#}"),
    }
}

/// A reload is told with the time at which it began (`Type=notify-reload`).
pub(super) fn tell_systemd(state: NotifyState<'_>) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[state, now]),
        Err(error) => tracing::debug!(%error, "systemd was not told"),
    }
}
