//! What the rows play on: the API stand-in at three addresses, keys in files, workers of a certain length, and a fleet whose
//! agents each hold one key and ask through their gateways.

use orch_proto::v1::cost_service_client::CostServiceClient;
use orch_proto::v1::{self, RunSpec};
use orch_standin::api::{ApiHandle, ApiStandin, Entry, KeyRule, Setup};
use orch_tests::client::{Client, run, worker};
use orch_tests::files::private_file;
use orch_tests::fleet::Fleet;
use orch_tests::wait::PATIENCE;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tonic::transport::Channel;

/// The worker that most rows use.
pub(crate) const WORKER: &str = "scribe";
/// Its model's class.
pub(crate) const CLASS: &str = "opus";
/// Bytes of its prompt: long enough for the prompt cache to keep it.
const PROMPT: usize = 16_000;
/// Addresses that agents reach the API at.
const ADDRESSES: [&str; 3] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
/// Agents are told of a signal, and their leases renewed, this often.
pub(crate) const HEARTBEAT: Duration = Duration::from_millis(400);

/// A stage. Fields are dropped in order: processes end before their files go.
pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
    pub(crate) client: Client,
    pub(crate) api: ApiHandle,
    urls: Vec<String>,
    /// Keys, limits and prompts, outside the fleet's own directory.
    files: tempfile::TempDir,
}

/// The credential of a pool. Its name as the API knows it is that of the pool.
pub(crate) fn credential(pool: &str) -> String {
    format!("sk-ant-canary-{pool}-Mk7qLx2vRz9TnW4bYc8JdF6h")
}

/// Where files lie: not in the usual temporary directory, which a sandbox replaces as a whole. A socket's path must stay
/// short, though.
fn place() -> PathBuf {
    let own = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if own.as_os_str().len() < 48 { own.to_owned() } else { std::env::temp_dir() }
}

/// The limits of one pool as an operator writes them.
pub(crate) fn table(pool: &str, requests: u64, input: u64, output: u64) -> String {
    format!(
        "[pools.{pool}]\nrequests_per_minute = {requests}\ninput_tokens_per_minute = {input}\noutput_tokens_per_minute = {output}\n"
    )
}

impl Stage {
    /// A coordinator with these limits of pools (TOML; none when empty), and the API behind it.
    pub(crate) async fn set(limits: &str, setup: Setup, pools: &[&str]) -> Self {
        Self::set_with(limits, setup, pools, &[]).await
    }

    /// The same with further arguments of the coordinator.
    pub(crate) async fn set_with(limits: &str, setup: Setup, pools: &[&str], orchd: &[&str]) -> Self {
        let files = tempfile::Builder::new().prefix("orch-keys-").tempdir_in(place()).expect("a directory");
        let prompts = files.path().join("prompts");
        let table = files.path().join("limits.toml");
        write_worker(&prompts);
        let prompts = prompts.display().to_string();
        let path = table.display().to_string();
        let mut args = vec!["--prompts", prompts.as_str()];
        if !limits.is_empty() {
            std::fs::write(&table, limits).expect("the table of limits");
            args.extend(["--limits", path.as_str()]);
        }
        args.extend(orchd);
        // Its buckets fill from now on: before the coordinator begins to count.
        let (api, urls) = serve().await;
        api.set_up(setup);
        let fleet = Fleet::start_in(&place(), orch_tests::binaries!(), "400ms", "info", &args);
        let client = fleet.client().await;
        for pool in pools {
            api.set_key(pool, &credential(pool), KeyRule::Serve);
            private_file(&files.path().join(pool), &credential(pool));
        }
        Self { fleet, client, api, urls, files }
    }

    /// Starts an agent with the key of `pool`.
    pub(crate) fn agent(&mut self, name: &str, pool: &str, extra: &[&str]) {
        self.spawn_agent(name, pool, extra);
        self.fleet.wait_connected(name);
    }

    /// The same without waiting.
    pub(crate) fn spawn_agent(&mut self, name: &str, pool: &str, extra: &[&str]) {
        let at = name.bytes().map(usize::from).sum::<usize>() % self.urls.len();
        let key = format!("{pool}=api-key:{}", self.files.path().join(pool).display());
        let url = self.urls[at].clone();
        let args = ["--pool", &key, "--api-base-url", &url];
        self.fleet.spawn_agent(name, &[&args[..], extra].concat());
    }

    /// Submits a run of a task for the worker for each of these directives.
    pub(crate) async fn submit(&mut self, directives: &[String]) -> v1::Run {
        self.client.submit(spec(directives)).await
    }

    /// Waits until a run has ended, for at most `patience`.
    pub(crate) async fn ended(&mut self, run_ref: &str, patience: Duration) -> v1::Run {
        let began = Instant::now();
        loop {
            let run = self.client.run(run_ref).await;
            if orch_tests::client::is_terminal(run.state()) {
                return run;
            }
            if began.elapsed() > patience {
                let waits = self.explained(run_ref).await;
                panic!("{run_ref} goes on after {patience:?}: {:?}\n{waits}", run.counts);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Why tasks of a run that have not ended wait, as `orchctl explain` says it.
    async fn explained(&mut self, run_ref: &str) -> String {
        let tasks = self.client.tasks(run_ref).await;
        let going = tasks.iter().filter(|task| task.finished_at.is_none()).take(3);
        let said = going.map(|task| {
            let output = self.fleet.orchctl(&["explain", &task.r#ref]).output().expect("orchctl runs");
            String::from_utf8_lossy(&output.stdout).into_owned()
        });
        said.collect()
    }

    /// A client of the costs.
    pub(crate) fn costs(&self) -> CostServiceClient<Channel> {
        CostServiceClient::new(self.client.channel.clone())
    }

    /// What requests with the key of a pool get from now on.
    pub(crate) fn rule(&self, pool: &str, rule: KeyRule) {
        self.api.set_key(pool, &credential(pool), rule);
    }

    /// What the API took of a key.
    pub(crate) fn entries(&self, pool: &str) -> Vec<Entry> {
        let mut entries = self.api.entries();
        entries.retain(|entry| entry.key == pool);
        entries
    }

    /// Directory with the keys.
    pub(crate) fn files(&self) -> &Path {
        self.files.path()
    }
}

/// A run of a task for the worker for each of these directives.
pub(crate) fn spec(directives: &[String]) -> RunSpec {
    let task =
        |(at, text): (usize, &String)| worker(&format!("t{at}"), WORKER, &format!("Part {at}. {text}"));
    run(directives.iter().enumerate().map(task).collect())
}

/// The API at several addresses of this machine.
async fn serve() -> (ApiHandle, Vec<String>) {
    let bind = |address: &'static str| tokio::net::TcpListener::bind((address, 0));
    let api = ApiStandin::start(bind(ADDRESSES[0]).await.expect("a port")).expect("the stand-in API");
    let mut urls = vec![api.url()];
    for address in &ADDRESSES[1..] {
        let listener = bind(address).await.expect("a port");
        urls.push(format!("http://{}", api.also_on(listener).expect("served")));
    }
    (api, urls)
}

fn write_worker(prompts: &Path) {
    let dir = prompts.join("workers");
    std::fs::create_dir_all(&dir).expect("a directory");
    let rules = "Write plainly, check what you write, and say what you could not check.\n";
    let text = format!(
        "---\nname: {WORKER}\ndescription: \"Writes what it is asked for.\"\nmodel: opus\ntools: [Agent, Bash, Glob, Grep, Read, Write]\n\
         permission_mode: acceptEdits\nsubagents: [test-runner]\n---\n\n# Scribe\n\n{}",
        rules.repeat(PROMPT.div_ceil(rules.len()))
    );
    std::fs::write(dir.join("SCRIBE.md"), text).expect("a worker");
}

/// Waits for a condition of the API or the fleet.
pub(crate) async fn until<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    until_within(what, PATIENCE, check).await
}

/// The same with another patience.
pub(crate) async fn until_within<T>(
    what: &str,
    patience: Duration,
    mut check: impl FnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(began.elapsed() < patience, "waited {patience:?} in vain for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a row measured.
pub(crate) fn figures(row: &str, measured: &str) {
    orch_tests::budget::say("limits", row, measured);
}

/// Input tokens of an entry that count for limits.
pub(crate) fn counted(entry: &Entry) -> u64 {
    entry.usage.input + entry.usage.cache_write
}

/// Answers 429 among entries.
pub(crate) fn refused(entries: &[Entry]) -> usize {
    entries.iter().filter(|entry| entry.status == 429).count()
}

/// List price of an entry, in millionths of a US dollar.
pub(crate) fn micro_usd(entry: &Entry) -> u64 {
    (orch_standin::models::cost_usd(&entry.model, entry.usage) * 1e6).round() as u64
}
