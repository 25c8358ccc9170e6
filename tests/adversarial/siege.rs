//! A fleet under attack, and a client beside it that does nothing wrong: how it fares decides whether the attack was borne.
//! Knows what everybody else may expect meanwhile; refuses to know what the attack is.

use orch_certs::Role;
use orch_tests::budget::{figures, percentile};
use orch_tests::client::{Client, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::process::peak_memory;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// What the coordinator's memory may grow by, peak against what it held before.
const GROWTH: u64 = 64 << 20;
/// 99 of 100 submits of the bystander are answered within this, on a machine that runs other tests as well.
const P99: Duration = Duration::from_secs(2);
/// Warnings and errors that one kind of attack may leave in the log, however often it is repeated.
const COMPLAINTS: usize = 25;
/// Lines of any level that it may leave.
const LINES: usize = 4_000;
/// Pause between two submits of the bystander.
const PAUSE: Duration = Duration::from_millis(10);

/// What everybody else sees of a fleet.
#[derive(Debug)]
pub(crate) struct Siege {
    pid: u32,
    log: PathBuf,
    bystander: Client,
}

impl Siege {
    /// Begins to watch.
    pub(crate) async fn lay(fleet: &mut Fleet) -> Self {
        let files = fleet.certificate(Role::Client, "bystander");
        let mut bystander = Client::connect(&fleet.ports().grpc, &files).await;
        bystander.submit(run(vec![noop("before")])).await;
        Self { pid: fleet.coordinator().id(), log: fleet.dir().join("orchd.log"), bystander }
    }

    /// Carries out `attack` while somebody else works.
    ///
    /// # Panics
    /// When a submit of the bystander fails or takes too long, or the coordinator dies, swells or floods its log.
    pub(crate) async fn borne<T>(&self, what: &str, attack: impl Future<Output = T>) -> T {
        let logged = self.logged().len();
        let before = self.fresh_peak();
        let over = Arc::new(AtomicBool::new(false));
        let mut beside = JoinSet::new();
        beside.spawn(works(self.bystander.clone(), Arc::clone(&over)));
        let began = Instant::now();
        let found = attack.await;
        let took = began.elapsed();
        over.store(true, Ordering::Relaxed);
        let times =
            beside.join_next().await.expect("a bystander").expect("whoever does nothing wrong is served");
        let peak = peak_memory(self.pid).unwrap_or_else(|| panic!("{what}: the coordinator died"));
        let growth = peak.saturating_sub(before);
        let log = self.logged();
        let added = log.get(logged..).unwrap_or_default();
        let complaints: Vec<&str> = added.lines().filter(|line| is_complaint(line)).collect();
        let slowest = percentile(&times, 99);
        figures(
            &format!("adversarial: {what}"),
            &format!(
                "{took:.1?}; {} submits beside it, p99 {slowest:.1?}; memory +{} KiB; {} lines logged, {} complaints",
                times.len(),
                growth >> 10,
                added.lines().count(),
                complaints.len()
            ),
        );
        assert!(slowest <= P99, "{what}: others waited {slowest:?}");
        assert!(growth <= GROWTH, "{what}: the coordinator's memory grew by {growth} bytes");
        let last = complaints.last();
        assert!(complaints.len() <= COMPLAINTS, "{what}: {} complaints, {last:?}", complaints.len());
        assert!(added.lines().count() <= LINES, "{what}: {} lines in the log", added.lines().count());
        assert!(!added.contains("panicked at"), "{what}: a panic in the log");
        found
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log of the coordinator")
    }

    /// Memory now, from which the peak is measured anew.
    fn fresh_peak(&self) -> u64 {
        // Where the kernel does not allow it, the peak so far counts; a growth is then seen later.
        let _ = std::fs::write(format!("/proc/{}/clear_refs", self.pid), "5");
        peak_memory(self.pid).expect("the coordinator runs")
    }
}

/// Submits until it is over, at least once. How long each took.
async fn works(mut client: Client, over: Arc<AtomicBool>) -> Vec<Duration> {
    let mut times = Vec::new();
    while !over.load(Ordering::Relaxed) || times.is_empty() {
        let began = Instant::now();
        client.submit(run(vec![noop("meanwhile")])).await;
        times.push(began.elapsed());
        tokio::time::sleep(PAUSE).await;
    }
    times
}

fn is_complaint(line: &str) -> bool {
    [r#""level":"WARN""#, r#""level":"ERROR""#].iter().any(|level| line.contains(level))
}
