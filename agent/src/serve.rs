//! From settings to a running daemon: certificates, the CLI's version, signals. Knows every part by name and none by
//! heart; returns when the daemon has stopped.

use crate::assembly::Assembled;
use crate::causes::one_line;
use crate::config::Config;
use crate::config::stop::{OnStop, StopSettings};
use crate::daemon::status::StatusFile;
use crate::daemon::{Daemon, Identity, Offer, Order, Parts, Runners};
use crate::host;
use crate::runner::Runner;
use crate::runner::claude::version;
use crate::session::link::Coordinators;
use anyhow::Context as _;
use orch_certs::dial::Connector;
use orch_certs::{ClientTls, Role, TlsFiles};
use rand::Rng as _;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Runs the daemon until TERM, which does what the settings say, or INT, which ends what runs; HUP makes it read its certificate again.
///
/// # Errors
/// When a certificate, an address or the spool cannot be used.
pub async fn serve(config: &Config, agent: Assembled) -> anyhow::Result<()> {
    let files =
        TlsFiles { ca: config.tls_ca.clone(), cert: config.tls_cert.clone(), key: config.tls_key.clone() };
    let tls = Arc::new(ClientTls::load(files, SystemTime::now())?);
    let certificate = tls.identity();
    anyhow::ensure!(
        certificate.role() == Role::Agent,
        "the certificate is of role {}; an agent needs one of role agent: orchctl certs issue --role agent --name NAME",
        certificate.role()
    );
    let coordinators = Coordinators::new(&config.coordinators, Arc::new(Connector::new(Arc::clone(&tls))))?;
    let offer = offer(config, &agent).await;
    let claude = agent.claude_program.is_some().then(|| Arc::new(agent.claude) as Arc<dyn Runner>);
    let command = agent.command.map(|runner| Arc::new(runner) as Arc<dyn Runner>);
    let publish = agent.publish.map(|runner| Arc::new(runner) as Arc<dyn Runner>);
    let pools = agent.pools;
    let offered = agent.supplies.workspaces().all();
    for workspace in offered {
        tracing::info!(workspace = workspace.name, dir = %workspace.dir.display(), "workspace offered");
    }
    let offered = offered.iter().map(|workspace| workspace.name.clone()).collect();
    let parts = Parts {
        identity: Identity {
            name: certificate.name().to_owned(),
            incarnation: rand::rng().random(),
            host: host::name(),
        },
        offer,
        coordinators,
        runners: Runners::new(claude, command).supplied(agent.supplies, publish),
        pools: pools.clone(),
        homes: agent.homes,
        spool: Box::new(agent.spool),
        host: agent.probe,
        limits: agent.limits,
        status: StatusFile::new(config.status_file.clone(), certificate.name()).offering(offered),
        seed: rand::rng().random(),
    };
    let daemon = Daemon::resume(parts, agent.found);
    let (give, orders) = watch::channel(None);
    let signals = heed_signals(tls, config.stop, give)?;
    tokio::select! {
        ended = daemon.run_until(orders) => Ok(ended?),
        () = signals => Ok(()),
        () = pools.tend() => Ok(()),
    }
}

/// What the signals ask for; never ends. They are heard from the call on.
fn heed_signals(
    tls: Arc<ClientTls>,
    settings: StopSettings,
    give: watch::Sender<Option<Order>>,
) -> anyhow::Result<impl Future<Output = ()>> {
    let mut term = signal(SignalKind::terminate()).context("cannot listen for TERM")?;
    let mut int = signal(SignalKind::interrupt()).context("cannot listen for INT")?;
    let mut hup = signal(SignalKind::hangup()).context("cannot listen for HUP")?;
    let is_first = std::process::id() == 1;
    if is_first && settings.on_stop == OnStop::Leave {
        tracing::warn!("on_stop is leave, but this is the first process of a container: TERM ends what runs");
    }
    let order = settings.order(is_first);
    Ok(async move {
        loop {
            tokio::select! {
                // Whoever asks twice does not want to wait.
                _ = term.recv() => give.send_modify(|last| *last = Some(last.map_or(order, |_| Order::End))),
                _ = int.recv() => drop(give.send_replace(Some(Order::End))),
                _ = hup.recv() => reload(&tls),
            }
        }
    })
}

/// Reads the certificate again for the next connection; one that cannot be used changes nothing.
fn reload(tls: &ClientTls) {
    let before = tls.identity();
    match tls.reload(SystemTime::now()) {
        Err(error) => tracing::error!(error = one_line(&error), "the certificate in use stays"),
        Ok(()) if tls.identity() != before => {
            tracing::error!(was = %before, is = %tls.identity(), "the certificate is another agent's: restart the agent");
        }
        Ok(()) => tracing::info!("the certificate was read again"),
    }
}

async fn offer(config: &Config, agent: &Assembled) -> Offer {
    let mut capabilities: Vec<String> = config.capabilities.iter().cloned().collect();
    capabilities.extend(agent.pools.names().map(|name| format!("pool={name}")));
    capabilities.extend(config.allow_command.iter().map(|program| format!("program={program}")));
    capabilities.extend(agent.supplies.workspaces().capabilities());
    let mut runners = vec!["noop".to_owned()];
    let mut cli_version = String::new();
    if let Some(program) = &agent.claude_program {
        runners.push("claude".to_owned());
        cli_version = version::of(program).await.unwrap_or_else(|| {
            tracing::warn!(program = %program.display(), "the CLI did not say its version");
            String::new()
        });
    }
    if agent.command.is_some() {
        runners.push("command".to_owned());
    }
    if agent.publish.is_some() {
        runners.push("publish".to_owned());
    }
    Offer {
        slots: agent.slots,
        capabilities,
        cli_version,
        warnings: agent.warnings.clone(),
        runners,
        isolation: agent.sandbox.layers(),
    }
}
