//! From settings to a serving coordinator and to a clean end, in that order. Knows every part by name and what each one
//! needs of the others; decides nothing.

pub mod again;
mod announce;
mod reload;
mod stop;
pub mod wiring;

use crate::blobs::{Blobs, FileBlobs};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::engine::{Handle, Recovered, housekeeping};
use crate::events::retention::EventRetention;
use crate::http::{Health, router};
use crate::material::{load_prompts, load_tls};
use crate::metrics::Metrics;
use crate::prices::PriceList;
use crate::retention::Retention;
use crate::rpc::server::serve as serve_rpc;
use crate::rpc::storage::{StorageDesk, StorageParts};
pub use crate::serve::again::Ended;
use crate::serve::announce::{announce, notify};
use crate::serve::reload::Reloads;
use crate::serve::stop::{Cause, DRAIN_LIMIT, finish};
use crate::serve::wiring::{Wiring, core_config, recover, span};
use crate::storage::{self, Opened, reserve, start};
use crate::store::dir::DirLock;
use crate::store::{ClusterId, DataDir, Store};
use crate::telemetry::FilterHandle;
use crate::transcripts::{RetentionPolicy, Transcripts};
use crate::workers::{PromptReloads, WorkersInForce};
use anyhow::Context as _;
use rand::Rng as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic_health::pb::health_server::{Health as GrpcHealth, HealthServer};

/// Serves until TERM or INT, until it is to start anew, or until a part fails.
///
/// # Errors
/// What keeps it from starting, or from going on.
pub async fn serve(config: Config, filter: FilterHandle) -> anyhow::Result<Ended> {
    let started = Instant::now();
    let (mut stops, mut hangups) = (Stops::listen()?, signal(SignalKind::hangup())?);
    raise_file_limit();
    let tls = Arc::new(load_tls(&config, SystemTime::now())?);
    let catalogue = {
        let config = config.clone();
        tokio::task::spawn_blocking(move || load_prompts(&config)).await??
    };
    let prices = PriceList::load(config.prices.as_deref())?;
    let workers = Arc::new(WorkersInForce::new(catalogue));
    let prompts = Arc::new(PromptReloads::new(workers, config.clone()));
    let (listen, probe) = again::same_ports((config.listen, config.probe));
    let listener = bind("--listen", listen).await?;
    let probe = bind("--probe", probe).await?;
    let addresses = (listener.local_addr()?, probe.local_addr()?);
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    metrics.set_certificate(tls.expires());
    let (health_reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health::starting(health_reporter).await;
    // Before the recovery, which may take its time: probes are to say "starting" meanwhile.
    let mut parts = Parts::new();
    let for_probes = (health.clone(), Arc::clone(&metrics), health_service.clone());
    parts.spawn(async move { ("the probe port", serve_probes(probe, for_probes).await) });
    let durable = tokio::select! {
        durable = Durable::open(&config, metrics) => durable?,
        () = stops.asked() => return Ok(Ended::ForGood),
    };
    let (live, storing) = (durable.handle.clone(), durable.handle.clone());
    health.recovered(move || live.is_live(), move || storing.can_store());
    let reloads = Reloads {
        config,
        prompts: Arc::clone(&prompts),
        tls: Arc::clone(&tls),
        filter,
        metrics: durable.handle.metrics(),
        engine: durable.handle.clone(),
    };
    durable.handle.ledger().book().prices().replace(prices);
    let mut running = Running::start(durable, &reloads.config, parts);
    reload::configure(&running.handle, reloads.config.pools.clone()).await?;
    let wiring = running.wiring(&reloads.config, prompts, Arc::clone(&tls), started);
    let director = wiring.director();
    let mut services = wiring.services(health_service);
    services.admin = services.admin.with_storage(running.storage(&reloads.config));
    running.parts.spawn(async move {
        director.run().await;
        ("the director", Ok(()))
    });
    running.serve_rpc(listener, tls, services);
    health.set_ready().await;
    announce(&reloads.config, addresses)?;

    let cause = running.wait(&mut stops, &mut hangups, &reloads).await;
    tracing::info!(%cause, "stopping");
    health.set_draining().await;
    let ended = if matches!(cause, Cause::Again) {
        // A service manager that hears of an end would wait for it.
        reload::tell_systemd(sd_notify::NotifyState::Reloading);
        Ended::Again(addresses.0, addresses.1)
    } else {
        notify(&[sd_notify::NotifyState::Stopping]);
        Ended::ForGood
    };
    let asked_meanwhile = running.stop(cause, &mut stops).await?;
    Ok(if asked_meanwhile { Ended::ForGood } else { ended })
}

/// What is on the disk, opened and recovered.
struct Durable {
    store: Arc<dyn Store>,
    disk: Disk,
    transcripts: Arc<Transcripts>,
    engine: crate::engine::Engine,
    handle: Handle,
}

impl Durable {
    async fn open(config: &Config, metrics: Arc<Metrics>) -> anyhow::Result<Self> {
        let for_thread = config.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let new_cluster = ClusterId(rand::rng().random());
            let opened = storage::open(&for_thread.data_dir, new_cluster, SystemTime::now())?;
            let Opened { dir, store, blobs, transcripts, mended, lock } = opened;
            let store: Arc<dyn Store> = store;
            let recovered =
                recover(&for_thread, Arc::clone(&store), Arc::<FileBlobs>::clone(&blobs), metrics)?;
            start::proved(dir.root());
            anyhow::Ok((store, Disk { dir, blobs, mended, _lock: lock }, transcripts, recovered))
        });
        let (store, mut disk, transcripts, recovered) = opened.await??;
        let Recovered { engine, handle, report, counts } = recovered;
        disk.mended.extend(start::describe(&report.recovered));
        tracing::info!(epoch = handle.epoch().0, records = report.records, ?counts, mended = ?disk.mended, "recovered");
        Ok(Self { store, disk, transcripts, engine, handle })
    }
}

/// The data directory, held.
struct Disk {
    dir: DataDir,
    blobs: Arc<FileBlobs>,
    mended: Vec<String>,
    _lock: DirLock,
}

/// Parts besides the engine and the gRPC server, by name.
type Parts = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Everything that runs, and how it is told to end.
struct Running {
    handle: Handle,
    store: Arc<dyn Store>,
    disk: Disk,
    blobs: Arc<dyn Blobs>,
    transcripts: Arc<Transcripts>,
    engine: JoinSet<Result<(), crate::engine::EngineError>>,
    engine_stop: CancellationToken,
    parts: Parts,
    rpc: JoinSet<anyhow::Result<()>>,
    /// Streams and the tasks behind them.
    streams: TaskTracker,
    draining: CancellationToken,
    stop: CancellationToken,
    /// Set when the coordinator is to start anew.
    again: CancellationToken,
}

impl Running {
    /// Starts the engine and what keeps house.
    fn start(durable: Durable, config: &Config, mut parts: Parts) -> Self {
        let Durable { store, disk, transcripts, engine, handle } = durable;
        let (engine_stop, stop) = (CancellationToken::new(), CancellationToken::new());
        let stopped = engine_stop.clone();
        let mut engine_task = JoinSet::new();
        engine_task.spawn(async move { engine.run(stopped.cancelled()).await });

        let keep = EventRetention { age: span(config.keep.events), bytes: config.keep.max_events.0 };
        let keep_costs = span(config.keep.costs);
        let keeper = handle.clone();
        parts.spawn(async move {
            housekeeping::run(keeper, keep, keep_costs).await;
            ("housekeeping", Ok(()))
        });
        let policy =
            RetentionPolicy { max_age: config.keep.transcripts, max_bytes: config.keep.max_transcripts.0 };
        let retention = Retention {
            store: Arc::clone(&store),
            transcripts: Arc::clone(&transcripts),
            policy,
            stop: stop.clone(),
        };
        parts.spawn(async move {
            retention.run().await;
            ("the removal of transcripts", Ok(()))
        });
        Self {
            handle,
            store,
            blobs: Arc::<FileBlobs>::clone(&disk.blobs),
            disk,
            transcripts,
            engine: engine_task,
            engine_stop,
            parts,
            rpc: JoinSet::new(),
            streams: TaskTracker::new(),
            draining: CancellationToken::new(),
            stop,
            again: CancellationToken::new(),
        }
    }

    fn storage(&self, config: &Config) -> StorageDesk {
        StorageDesk::new(StorageParts {
            data: self.disk.dir.clone(),
            store: Arc::clone(&self.store),
            blobs: Arc::clone(&self.disk.blobs),
            transcripts: Arc::clone(&self.transcripts),
            mended: self.disk.mended.clone(),
            config: core_config(config),
            tasks: self.streams.clone(),
            draining: self.draining.clone(),
            again: self.again.clone(),
        })
    }

    fn wiring<'a>(
        &'a self,
        config: &'a Config,
        prompts: Arc<PromptReloads>,
        tls: Arc<orch_certs::ServerTls>,
        started: Instant,
    ) -> Wiring<'a> {
        Wiring {
            config,
            handle: &self.handle,
            blobs: &self.blobs,
            transcripts: &self.transcripts,
            prompts,
            prices: Arc::clone(self.handle.ledger().book().prices()),
            tls,
            streams: &self.streams,
            draining: &self.draining,
            clock: Arc::new(SystemClock),
            started,
        }
    }

    fn serve_rpc<H: GrpcHealth>(
        &mut self,
        listener: TcpListener,
        tls: Arc<orch_certs::ServerTls>,
        services: crate::rpc::server::Services<H>,
    ) {
        let (handle, stop) = (self.handle.clone(), self.stop.clone());
        self.rpc.spawn(async move { serve_rpc(listener, tls, services, &handle, stop).await });
    }

    /// Waits for a reason to stop; reloads meanwhile when asked to.
    async fn wait(&mut self, stops: &mut Stops, hangups: &mut Signal, reloads: &Reloads) -> Cause {
        loop {
            tokio::select! {
                biased;
                () = stops.asked() => return Cause::Asked,
                () = self.again.cancelled() => return Cause::Again,
                Some(ended) = self.engine.join_next() => return Cause::Engine(ended),
                Some(ended) = self.rpc.join_next() => return Cause::of_server(ended),
                Some(ended) = self.parts.join_next(), if !self.parts.is_empty() => {
                    if let Some(cause) = Cause::of_part(ended) {
                        return cause;
                    }
                }
                _ = hangups.recv() => reloads.reload().await,
            }
        }
    }

    /// Ends everything, each within its time: streams first, then what they lean on, the engine last. Whoever asks for the
    /// end meanwhile, which is said, is in a hurry: peers are not waited for, what was taken is made durable all the same.
    async fn stop(mut self, cause: Cause, stops: &mut Stops) -> anyhow::Result<bool> {
        // An engine that has ended needs no news.
        let _ = self.handle.drain().await;
        self.draining.cancel();
        self.stop.cancel();
        self.streams.close();
        let drained = tokio::time::timeout(DRAIN_LIMIT, async {
            self.streams.wait().await;
            while self.rpc.join_next().await.is_some() {}
        });
        let mut asked_meanwhile = false;
        tokio::select! {
            drained = drained => if drained.is_err() {
                tracing::warn!("some peers did not let go in time");
            },
            () = stops.asked() => {
                tracing::warn!("asked to stop once more: peers are not waited for");
                asked_meanwhile = true;
            }
        }
        self.rpc.abort_all();
        self.engine_stop.cancel();
        let finished = finish(cause, self.engine).await;
        // Last, because the probes are among them: whoever asks is answered until the last commit.
        self.parts.abort_all();
        let root = self.disk.dir.root();
        match &finished {
            Ok(()) => start::ended(root),
            Err(error) if reserve::was_full(error.as_ref()) && reserve::release(root).unwrap_or(false) => {
                tracing::error!("the disk is full: the reserve is given up, so that the next start has room");
            }
            Err(_) => {}
        }
        finished.map(|()| asked_meanwhile)
    }
}

/// Who wants the coordinator to stop: a supervisor, or a person at a terminal.
struct Stops {
    term: Signal,
    int: Signal,
}

impl Stops {
    fn listen() -> anyhow::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, int: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.int.recv() => {}
        }
    }
}

type ForProbes<H> = (Health, Arc<Metrics>, HealthServer<H>);

async fn serve_probes<H: GrpcHealth>(
    listener: TcpListener,
    (health, metrics, service): ForProbes<H>,
) -> anyhow::Result<()> {
    let routes = tonic::service::Routes::new(service);
    let probes = router(health, move || metrics.encode().unwrap_or_default(), routes);
    Ok(axum::serve(listener, probes).await?)
}

async fn bind(flag: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} ({flag})"))
}

/// A fleet needs a descriptor for each connection, and the usual soft limit is 1,024.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}
