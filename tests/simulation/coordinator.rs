//! The coordinator of the simulation: its real engine and services, on a disk, a clock and a network that are not.

use crate::disk::Disk;
use crate::net::{COORDINATOR, DOMAIN, accept, ready_channel};
use crate::trace::{Event, Trace};
use orch_certs::{Ca, Identity, LeafRequest, Role, ServerTls};
use orch_coordinator::blobs::{Blobs, FileBlobs};
use orch_coordinator::clock::{Clock, Sleep};
use orch_coordinator::config::{Config, Flags};
use orch_coordinator::engine::{Engine, Parts, housekeeping};
use orch_coordinator::events::retention::EventRetention;
use orch_coordinator::material::load_prompts;
use orch_coordinator::metrics::Metrics;
use orch_coordinator::rpc::server::serve_connections;
use orch_coordinator::serve::wiring::{Wiring, core_config};
use orch_coordinator::store::{EpochStep, Store};
use orch_coordinator::transcripts::Transcripts;
use orch_coordinator::workers::{PromptReloads, WorkersInForce};
use orch_core::time::{Span, Wall};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Heartbeats of the simulated fleet; every deadline of the protocol is a multiple.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long a stopping coordinator waits for its peers.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);
/// Wall clock at the beginning, unix ms.
const BEGINNING: i64 = 1_790_000_000_000;

/// What every coordinator of this process needs and none changes.
struct Material {
    config: Config,
    prompts: Arc<PromptReloads>,
    tls: Arc<ServerTls>,
    _dir: tempfile::TempDir,
}

static MATERIAL: LazyLock<Material> = LazyLock::new(|| {
    orch_certs::install_ring();
    let dir = tempfile::tempdir().expect("a directory");
    let flags = Flags {
        data_dir: Some(dir.path().to_owned()),
        heartbeat_interval: Some(HEARTBEAT),
        ..Flags::default()
    };
    let config = Config::resolve(flags).expect("settings");
    let catalogue = load_prompts(&config).expect("prompts");
    let prompts = PromptReloads::new(Arc::new(WorkersInForce::new(catalogue)), config.clone());
    let now = SystemTime::now();
    let (ca, _) = Ca::ensure(&dir.path().join("ca"), DOMAIN, now).expect("an authority");
    let identity = Identity::new(DOMAIN, Role::Coordinator, "default", COORDINATOR).expect("an identity");
    let request = LeafRequest::new(identity).hosts([COORDINATOR]);
    let leaf = ca.ensure_leaf(&dir.path().join("tls"), &request, now);
    let tls = ServerTls::load(leaf.expect("a certificate").files().clone(), now).expect("certificates");
    Material { config, prompts: Arc::new(prompts), tls: Arc::new(tls), _dir: dir }
});

/// Makes what takes real time, before anything is simulated.
pub(crate) fn prepare() {
    LazyLock::force(&MATERIAL);
}

/// Simulated time, which a fault may move on as a suspended host's does.
#[derive(Debug, Clone)]
pub(crate) struct SimClock {
    trace: Trace,
    /// Milliseconds that were slept through; milliseconds by which the wall clock is wrong.
    slept: Arc<AtomicU64>,
    wrong: Arc<AtomicU64>,
}

impl SimClock {
    pub(crate) fn new(trace: Trace) -> Self {
        Self { trace, slept: Arc::default(), wrong: Arc::default() }
    }

    /// The host was suspended for `span`.
    pub(crate) fn suspend(&self, span: Duration) {
        self.slept.fetch_add(u64::try_from(span.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }

    /// Sets the wall clock wrong.
    pub(crate) fn set_wrong(&self, by: Duration) {
        self.wrong.store(u64::try_from(by.as_millis()).unwrap_or(0), Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn elapsed(&self) -> Span {
        let now = u64::try_from(self.trace.now().as_millis()).unwrap_or(u64::MAX);
        Span(now + self.slept.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Wall {
        let wrong = self.wrong.load(Ordering::Relaxed);
        Wall(BEGINNING.saturating_add_unsigned(self.elapsed().0).saturating_sub_unsigned(wrong))
    }

    fn sleep(&self, span: Span) -> Sleep<'_> {
        Box::pin(tokio::time::sleep(Duration::from_millis(span.0.min(1_000))))
    }
}

/// The host of the coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) disk: Disk,
    pub(crate) clock: SimClock,
    trace: Trace,
    dir: PathBuf,
    stop: Arc<Mutex<CancellationToken>>,
    /// The process has ended and its host is to be restarted.
    pub(crate) down: Arc<AtomicBool>,
}

impl Host {
    pub(crate) fn new(disk: Disk, trace: Trace, dir: PathBuf) -> Self {
        let clock = SimClock::new(trace.clone());
        Self { disk, clock, trace, dir, stop: Arc::default(), down: Arc::default() }
    }

    /// Asks the running coordinator to stop in order.
    pub(crate) fn stop(&self) {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    /// The process, from its start to its end; then nothing, until its host is restarted.
    pub(crate) async fn run(self) -> turmoil::Result {
        self.note("starts");
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap_or_else(PoisonError::into_inner) = stop.clone();
        self.down.store(false, Ordering::Relaxed);
        match self.serve(stop).await {
            Ok(()) => self.note("ends"),
            Err(error) => {
                tracing::info!("the coordinator ends: {error:#}");
                self.note("fails");
            }
        }
        self.down.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    fn note(&self, what: &'static str) {
        self.trace.note(Event::Process { host: COORDINATOR.to_owned(), what });
    }

    async fn serve(&self, asked: CancellationToken) -> anyhow::Result<()> {
        let material = &*MATERIAL;
        let store = self.disk.reopen();
        let blobs: Arc<dyn Blobs> = Arc::new(FileBlobs::open(&self.dir.join("blobs"))?);
        let transcripts = Arc::new(Transcripts::open(&self.dir.join("transcripts"))?);
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let recovered = Engine::open(Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            blobs: Arc::clone(&blobs),
            committer: Box::new(self.disk.committer(store)),
            clock: Arc::clone(&clock),
            config: core_config(&material.config),
            metrics: Arc::new(Metrics::new("simulated")),
            step: EpochStep::Start,
        })?;
        let (handle, engine) = (recovered.handle, recovered.engine);
        let (engine_stop, stop, draining) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let streams = TaskTracker::new();
        let wiring = Wiring {
            config: &material.config,
            handle: &handle,
            blobs: &blobs,
            transcripts: &transcripts,
            prompts: Arc::clone(&material.prompts),
            prices: Arc::default(),
            tls: Arc::clone(&material.tls),
            streams: &streams,
            draining: &draining,
            clock,
            started: std::time::Instant::now(),
        };
        let director = wiring.director();
        let (_, health) = tonic_health::server::health_reporter();
        let services = wiring.services(health);

        let mut engine_task = JoinSet::new();
        let ended = engine_stop.clone();
        engine_task.spawn(async move { engine.run(ended.cancelled()).await });
        let mut parts = JoinSet::new();
        let keep = EventRetention { age: Span::days(7), bytes: 1 << 30 };
        parts.spawn(housekeeping::run(handle.clone(), keep, Span::days(400)));
        parts.spawn(director.run());
        let (ready, connections) = ready_channel();
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(ready));
        let mut rpc = JoinSet::new();
        let (serving, until) = (handle.clone(), stop.clone());
        rpc.spawn(async move {
            serve_connections(ReceiverStream::new(connections), DOMAIN, services, &serving, until).await
        });

        tokio::select! {
            biased;
            ended = engine_task.join_next() => {
                anyhow::bail!("the engine ended: {ended:?}");
            }
            () = asked.cancelled() => {}
        }
        // As the real one stops.
        let _ = handle.drain().await;
        draining.cancel();
        stop.cancel();
        streams.close();
        let drained = async {
            streams.wait().await;
            while rpc.join_next().await.is_some() {}
        };
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
        rpc.abort_all();
        accepting.abort_all();
        parts.abort_all();
        engine_stop.cancel();
        while let Some(ended) = engine_task.join_next().await {
            ended??;
        }
        Ok(())
    }
}
