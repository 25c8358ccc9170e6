//! Load for the rows: clients that submit through whatever happens and write down what they were told, a reader of the whole
//! event log, and a prober that measures what other clients feel.

use orch_certs::TlsFiles;
use orch_proto::v1::{self, RunSpec, WatchEvent};
use orch_tests::client::{Client, after, noop, run};
use orch_tests::fleet::Fleet;
use orch_tests::history::{self, Event, Log, REQUEST_LABEL, recorded_by, stored_in};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Clients on one connection: a handshake costs both sides more than a submit.
const SUBMITTERS_EACH: usize = 5;
/// Pause after a failed request: the coordinator is away.
const PAUSE: Duration = Duration::from_millis(10);
/// A request that takes longer is given up and sent again: its connection may be dead.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// Every so manieth run has three tasks in a row.
const CHAIN_EVERY: u64 = 10;

/// Clients that submit until told to stop.
pub(crate) struct Submitters {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    /// Submits acknowledged so far, each in a synced line of a log outside the store.
    pub acknowledged: Arc<AtomicU64>,
    /// Submits sent again under the same request id, because nobody knew what had become of them.
    pub resent: Arc<AtomicU64>,
    logs: PathBuf,
}

impl Submitters {
    /// Starts `count` of them against `address`; their logs go below `dir`.
    pub(crate) async fn start(count: usize, address: &str, files: &TlsFiles, dir: &Path) -> Self {
        let logs = dir.join("acknowledged");
        std::fs::create_dir_all(&logs).expect("a directory");
        let mut submitters = Self {
            tasks: JoinSet::new(),
            stop: Arc::default(),
            acknowledged: Arc::default(),
            resent: Arc::default(),
            logs,
        };
        let mut client = Client::connect(address, files).await;
        for number in 0..count {
            if number > 0 && number % SUBMITTERS_EACH == 0 {
                client = Client::connect(address, files).await;
            }
            let submitter = Submitter {
                client: client.clone(),
                name: format!("s{number}"),
                log: Log::open(&submitters.logs.join(format!("{number}.jsonl"))).expect("a log"),
                stop: Arc::clone(&submitters.stop),
                acknowledged: Arc::clone(&submitters.acknowledged),
                resent: Arc::clone(&submitters.resent),
            };
            submitters.tasks.spawn(submitter.run());
        }
        submitters
    }

    /// Submits acknowledged so far.
    pub(crate) fn count(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Lets each finish the submit it is at, and returns what they wrote down.
    pub(crate) async fn stop(mut self) -> Vec<Event> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("a submitter");
        }
        let logs = std::fs::read_dir(&self.logs).expect("logs").flatten();
        logs.flat_map(|log| history::read(&log.path()).expect("a log")).collect()
    }
}

struct Submitter {
    client: Client,
    name: String,
    log: Log,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    resent: Arc<AtomicU64>,
}

impl Submitter {
    async fn run(mut self) {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let request = format!("{}-{number}", self.name);
            self.log.write(&Event::Submitted { request: request.clone() }).expect("written");
            let run = self.until_acknowledged(&request, number).await;
            self.log.write_synced(&Event::Acknowledged { request, run }).expect("synced");
            self.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn until_acknowledged(&mut self, request: &str, number: u64) -> String {
        loop {
            let submit = v1::SubmitRunRequest {
                spec: Some(spec(&self.name, request, number)),
                request_id: request.to_owned(),
                validate_only: false,
            };
            if let Ok(Ok(answer)) =
                tokio::time::timeout(REQUEST_LIMIT, self.client.runs.submit_run(submit)).await
            {
                return answer.into_inner().run.expect("a run").r#ref;
            }
            self.resent.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn spec(name: &str, request: &str, number: u64) -> RunSpec {
    let tasks = match number % CHAIN_EVERY {
        0 => vec![noop("a"), after(noop("b"), &["a"]), after(noop("c"), &["b"])],
        _ => vec![noop("a")],
    };
    let labels = [(REQUEST_LABEL.to_owned(), request.to_owned())].into();
    RunSpec { name: name.to_owned(), labels, ..run(tasks) }
}

/// Every run there is, asked for page by page.
pub(crate) async fn all_runs(client: &mut Client) -> Vec<v1::Run> {
    let mut runs = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListRunsRequest { page_size: 1_000, page_token, ..Default::default() };
        let page = client.runs.list_runs(request).await.expect("a page of runs").into_inner();
        runs.extend(page.runs);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return runs;
        }
    }
}

/// Waits until every run has ended, for at most `patience`.
pub(crate) async fn all_ended(client: &mut Client, patience: Duration) -> Duration {
    let began = Instant::now();
    loop {
        // A list that fails while the fleet recovers is asked for again.
        let going = some_that_go_on(client).await;
        if matches!(&going, Ok(runs) if runs.is_empty()) {
            return began.elapsed();
        }
        let left = going.iter().flatten().take(3).map(|run| (&run.r#ref, &run.counts)).collect::<Vec<_>>();
        assert!(began.elapsed() < patience, "after {patience:?} there still run: {left:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The first page that has any run that has not ended. A page before it may be empty and not the last.
async fn some_that_go_on(client: &mut Client) -> Result<Vec<v1::Run>, tonic::Status> {
    let states = [v1::RunState::Running, v1::RunState::Planning, v1::RunState::Synthesizing];
    let states = states.map(|state| state.into()).to_vec();
    let mut request = v1::ListRunsRequest { page_size: 1_000, states, ..Default::default() };
    loop {
        let page = client.runs.list_runs(request.clone()).await?.into_inner();
        if !page.runs.is_empty() || page.next_page_token.is_empty() {
            return Ok(page.runs);
        }
        request.page_token = page.next_page_token;
    }
}

/// The event log from `from` to the newest event that concerns the run `last`, which has ended.
pub(crate) async fn events_until(client: &mut Client, mut from: u64, last: &str) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    loop {
        let request = v1::WatchRunsRequest { from_seq: from, ..Default::default() };
        let Ok(stream) = client.runs.watch_runs(request).await else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(frame)) = stream.message().await {
            let over = frame.events.iter().any(|event| ends(event, last));
            events.extend(frame.events);
            from = frame.next_seq;
            if over {
                return events;
            }
        }
    }
}

fn ends(event: &WatchEvent, run: &str) -> bool {
    let Some(v1::watch_event::Change::Run(changed)) = &event.change else { return false };
    event.run_ref == run && orch_tests::client::is_terminal(changed.state())
}

/// Everything that is known in the end: what clients wrote down, what the log tells, what the store holds.
pub(crate) async fn whole_history(client: &mut Client, mut told: Vec<Event>) -> Vec<Event> {
    let last = client.submit(RunSpec { name: "last".into(), ..run(vec![noop("a")]) }).await;
    client.finished(&last.r#ref).await;
    told.extend(recorded_by(&events_until(client, 1, &last.r#ref).await));
    told.extend(stored_in(&all_runs(client).await));
    told
}

/// Fails with the first violations.
pub(crate) fn holds(history: &[Event]) {
    let found = history::check(history);
    let first: Vec<String> = found.iter().take(10).map(ToString::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), first.join("\n"));
}

/// How many events are of a kind.
pub(crate) fn count(history: &[Event], kind: fn(&Event) -> bool) -> usize {
    history.iter().filter(|event| kind(event)).count()
}

/// Somebody else's small submits, one after the other, and how long each took.
pub(crate) struct Prober {
    task: JoinSet<Vec<Duration>>,
    stop: Arc<AtomicBool>,
}

impl Prober {
    /// Starts one on a connection of its own.
    pub(crate) async fn start(fleet: &Fleet) -> Self {
        let mut client = fleet.client().await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.submit(RunSpec { name: "probe".into(), ..run(vec![noop("p")]) }).await;
                took.push(began.elapsed());
                tokio::time::sleep(PAUSE).await;
            }
            took
        });
        Self { task, stop }
    }

    /// Stops it and returns what it measured.
    pub(crate) async fn stop(mut self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.join_next().await.expect("a prober").expect("joined")
    }
}

/// Memory that a process holds now, in bytes.
pub(crate) fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process that runs");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

/// How many reports of an agent were refused as stale, by its own log.
pub(crate) fn fenced_by(fleet: &Fleet, agent: &str) -> usize {
    let log = std::fs::read_to_string(fleet.dir().join(format!("{agent}.log"))).unwrap_or_default();
    log.matches("the report was fenced").count()
}

/// What the coordinator says of itself at its probe port.
pub(crate) fn metrics(fleet: &Fleet) -> String {
    let mut stream = std::net::TcpStream::connect(&fleet.ports().probe).expect("connected");
    std::io::Write::write_all(
        &mut stream,
        b"GET /metrics HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n",
    )
    .expect("asked");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("an answer");
    text
}
