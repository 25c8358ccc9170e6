//! The probe port: `/livez`, `/readyz`, `/startupz`, `/metrics` over plain HTTP, and plain `grpc.health.v1`.
//! Knows only yes, no and why; nothing else is served here, because probes cannot present certificates.

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Services whose health is reported by name, besides the empty name for the whole server.
pub const HEALTH_SERVICES: [&str; 3] = ["", "orch.v1.RunService", "orch.v1.AgentService"];

/// What the probes ask. Live looks only at progress; ready also at whether work can be taken.
#[derive(Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

struct Inner {
    started: AtomicBool,
    draining: AtomicBool,
    probes: OnceLock<Probes>,
    reporter: HealthReporter,
}

/// What can be asked once the state is recovered.
struct Probes {
    live: Box<dyn Fn() -> bool + Send + Sync>,
    can_store: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Health")
            .field("started", &self.inner.started)
            .field("draining", &self.inner.draining)
            .finish_non_exhaustive()
    }
}

impl Health {
    /// Alive, not started, not serving.
    pub async fn starting(reporter: HealthReporter) -> Self {
        let inner = Inner {
            started: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            probes: OnceLock::new(),
            reporter,
        };
        let health = Self { inner: Arc::new(inner) };
        health.report(ServingStatus::NotServing).await;
        health
    }

    /// The state is recovered: from now on `live` says whether engine and committer make progress, and `can_store`
    /// whether the store takes writes, or why not. Once for all.
    pub fn recovered(
        &self,
        live: impl Fn() -> bool + Send + Sync + 'static,
        can_store: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let probes = Probes { live: Box::new(live), can_store: Box::new(can_store) };
        // A second time says the same of the same engine.
        let _ = self.inner.probes.set(probes);
    }

    /// The store is open, the state is recovered and the listeners listen.
    pub async fn set_ready(&self) {
        self.inner.started.store(true, Ordering::Release);
        self.report(ServingStatus::Serving).await;
    }

    /// Flips ready at once; live stays until the exit.
    pub async fn set_draining(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.report(ServingStatus::NotServing).await;
    }

    async fn report(&self, status: ServingStatus) {
        for service in HEALTH_SERVICES {
            self.inner.reporter.set_service_status(service, status).await;
        }
    }

    fn not_ready_because(&self) -> Option<String> {
        if !self.inner.started.load(Ordering::Acquire) {
            return Some("starting".to_owned());
        }
        if self.inner.draining.load(Ordering::Acquire) {
            return Some("draining".to_owned());
        }
        self.inner.probes.get().and_then(|probes| (probes.can_store)().err())
    }

    /// A start may take as long as it has records to verify; it is not stuck for that.
    fn is_live(&self) -> bool {
        self.inner.probes.get().is_none_or(|probes| (probes.live)())
    }
}

/// The routes of the probe port. `metrics` renders the registry; `health_routes` is the plain gRPC service.
pub fn router(
    health: Health,
    metrics: impl Fn() -> String + Clone + Send + Sync + 'static,
    health_routes: tonic::service::Routes,
) -> Router {
    let probes = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
        .with_state(health)
        .route("/metrics", get(move || async move { metrics_response(metrics()) }));
    health_routes.into_axum_router().merge(probes)
}

/// Asks the probe port at `address` whether the coordinator is ready, as a container's health check does.
///
/// # Errors
/// When it is not, or does not answer.
pub fn check(address: SocketAddr) -> anyhow::Result<()> {
    let answer = ask_ready(address).with_context(|| format!("no answer from the probe port {address}"))?;
    anyhow::ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "not ready: {}",
        answer.lines().last().unwrap_or_default()
    );
    Ok(())
}

fn ask_ready(address: SocketAddr) -> std::io::Result<String> {
    const LIMIT: Duration = Duration::from_secs(3);
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4_096).read_to_string(&mut answer)?;
    Ok(answer)
}

async fn livez(State(health): State<Health>) -> Response {
    answer((!health.is_live()).then(|| "the engine makes no progress".to_owned()))
}

async fn readyz(State(health): State<Health>) -> Response {
    answer(health.not_ready_because())
}

async fn startupz(State(health): State<Health>) -> Response {
    let started = health.inner.started.load(Ordering::Acquire);
    answer((!started).then(|| "starting".to_owned()))
}

fn answer(problem: Option<String>) -> Response {
    match problem {
        None => (StatusCode::OK, "ok\n").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

fn metrics_response(text: String) -> Response {
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower::ServiceExt as _;

    async fn get_status(router: &Router, path: &str) -> (StatusCode, String) {
        let request = axum::extract::Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_follows_start_store_and_drain_while_live_stays() {
        let (reporter, service) = tonic_health::server::health_reporter();
        let disk_full = Arc::new(AtomicBool::new(false));
        let probe = Arc::clone(&disk_full);
        let can_store = move || {
            let full = probe.load(Ordering::Relaxed);
            if full { Err("disk nearly full".to_owned()) } else { Ok(()) }
        };
        let health = Health::starting(reporter).await;
        let router = router(health.clone(), || "# EOF\n".to_owned(), tonic::service::Routes::new(service));
        assert_eq!(get_status(&router, "/livez").await.0, StatusCode::OK);
        assert_eq!(get_status(&router, "/startupz").await.0, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            get_status(&router, "/readyz").await,
            (StatusCode::SERVICE_UNAVAILABLE, "starting\n".into())
        );
        let live = Arc::new(AtomicBool::new(true));
        let beats = Arc::clone(&live);
        health.recovered(move || beats.load(Ordering::Relaxed), can_store);
        health.set_ready().await;
        assert_eq!(get_status(&router, "/readyz").await, (StatusCode::OK, "ok\n".into()));
        assert_eq!(get_status(&router, "/startupz").await.0, StatusCode::OK);
        disk_full.store(true, Ordering::Relaxed);
        assert_eq!(get_status(&router, "/readyz").await.1, "disk nearly full\n");
        disk_full.store(false, Ordering::Relaxed);
        health.set_draining().await;
        assert_eq!(get_status(&router, "/readyz").await.1, "draining\n");
        assert_eq!(get_status(&router, "/livez").await.0, StatusCode::OK);
        assert_eq!(get_status(&router, "/metrics").await.1, "# EOF\n");
        live.store(false, Ordering::Relaxed);
        assert_eq!(get_status(&router, "/livez").await.0, StatusCode::SERVICE_UNAVAILABLE);
    }
}
