//! Submitters that go on whatever happens to the coordinator, and a log of what it acknowledged, synced on another file
//! system than the one under test before anything else is asked for. Knows runs; refuses to know faults.

use orch_proto::v1::{self, Outcome, RunState};
use orch_tests::client::{Client, answer, command, is_terminal, noop, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::until_async;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// What agents of this load must be allowed.
pub(super) const AGENT: [&str; 4] = ["--slots", "3", "--allow-command", "/bin/sh"];
/// Enough tasks that their specs fill several pages.
const LARGE: u32 = 300;
/// Longer than a record of the store, so that it goes to a pack.
const LONG_TEXT: usize = 6 << 10;
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// What one submitter submits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A task that does nothing: as fast as the store.
    Quick,
    /// A program with a long text that writes a file: a pack and a blob.
    Files,
    /// The scripted CLI: a transcript.
    Worker,
    /// Many tasks at once.
    Large,
}

/// An acknowledged submit.
#[derive(Debug, Clone)]
pub(super) struct Acknowledged {
    pub(super) kind: Kind,
    /// Its request id, also a label of the run.
    pub(super) id: String,
    pub(super) run_ref: String,
    /// The client saw its end.
    pub(super) ended: bool,
}

/// What was acknowledged, in a file and in memory.
#[derive(Debug)]
struct Log {
    file: File,
    all: BTreeMap<String, Acknowledged>,
}

/// Submitters at work.
#[derive(Debug)]
pub(super) struct Load {
    log: Arc<Mutex<Log>>,
    path: PathBuf,
    stop: CancellationToken,
    held: watch::Sender<bool>,
    submitters: JoinSet<()>,
}

impl Load {
    /// Starts submitters against `fleet`, which must have its ports: some of `waiting`, each of which waits for the end of a
    /// run before the next, and some of `hasty`, which do not.
    pub(super) async fn start(fleet: &Fleet, waiting: &[Kind], hasty: &[Kind]) -> Self {
        let path = fleet.dir().join("acknowledged.log");
        let tag = lines(&path).len();
        let file = File::options().create(true).append(true).open(&path).expect("a log");
        let log = Arc::new(Mutex::new(Log { file, all: BTreeMap::new() }));
        let (stop, mut submitters) = (CancellationToken::new(), JoinSet::new());
        let held = watch::Sender::new(false);
        let kinds = waiting.iter().map(|kind| (kind, true)).chain(hasty.iter().map(|kind| (kind, false)));
        for (place, (kind, wait)) in kinds.enumerate() {
            let client = fleet.client().await;
            let submitter = Submitter {
                tag,
                place,
                kind: *kind,
                wait,
                client,
                log: Arc::clone(&log),
                stop: stop.clone(),
                held: held.subscribe(),
            };
            submitters.spawn(submitter.run());
        }
        Self { log, path, stop, held, submitters }
    }

    /// Nothing new is submitted while `held`: what is looked at for long does not grow meanwhile.
    pub(super) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// Submits acknowledged so far.
    pub(super) async fn acknowledged(&self) -> usize {
        self.log.lock().await.all.len()
    }

    /// Everything acknowledged so far.
    pub(super) async fn so_far(&self) -> Vec<Acknowledged> {
        self.log.lock().await.all.values().cloned().collect()
    }

    /// Runs whose end was seen so far.
    pub(super) async fn ended(&self) -> usize {
        self.log.lock().await.all.values().filter(|one| one.ended).count()
    }

    /// Ends every submitter behind the acknowledgement it waits for, and returns everything acknowledged.
    pub(super) async fn stop(mut self) -> Vec<Acknowledged> {
        self.stop.cancel();
        while let Some(ended) = self.submitters.join_next().await {
            ended.expect("a submitter ends in order");
        }
        let log = self.log.lock().await;
        let lines = std::fs::read_to_string(&self.path).expect("the log");
        let logged = lines.lines().filter(|line| line.starts_with("submitted ")).count();
        assert!(logged >= log.all.len(), "every acknowledgement was written down");
        log.all.values().cloned().collect()
    }
}

struct Submitter {
    /// Of this load, so that the ids of two loads of one fleet do not meet.
    tag: usize,
    place: usize,
    kind: Kind,
    wait: bool,
    client: Client,
    log: Arc<Mutex<Log>>,
    stop: CancellationToken,
    held: watch::Receiver<bool>,
}

impl Submitter {
    async fn run(mut self) {
        for number in 0.. {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                free = self.held.wait_for(|held| !held) => {
                    if free.is_err() {
                        return;
                    }
                }
            }
            let id = format!("l{}-p{}-{number}", self.tag, self.place);
            let run_ref = self.submit(&id).await;
            let one = Acknowledged { kind: self.kind, id: id.clone(), run_ref, ended: false };
            self.note(&format!("submitted {} {}\n", one.id, one.run_ref), one.clone()).await;
            if self.wait && self.see_end(&one.run_ref).await {
                self.note(&format!("ended {}\n", one.id), Acknowledged { ended: true, ..one }).await;
            }
        }
    }

    /// Under the same id until it is acknowledged.
    async fn submit(&mut self, id: &str) -> String {
        until_async(&format!("an answer to submit {id}"), || {
            let mut client = self.client.clone();
            let request = v1::SubmitRunRequest {
                spec: Some(spec(self.kind, id)),
                request_id: id.to_owned(),
                validate_only: false,
            };
            async move {
                match tokio::time::timeout(REQUEST_LIMIT, client.runs.submit_run(request)).await {
                    Ok(Ok(answer)) => Some(answer.into_inner().run.expect("a run").r#ref),
                    Ok(Err(status)) => {
                        let code = status.code();
                        assert_ne!(code, tonic::Code::AlreadyExists, "{status}");
                        assert_ne!(code, tonic::Code::InvalidArgument, "{status}");
                        tokio::time::sleep(PAUSE).await;
                        None
                    }
                    Err(_) => None,
                }
            }
        })
        .await
    }

    /// Whether the end came before the load ended.
    async fn see_end(&mut self, run_ref: &str) -> bool {
        loop {
            let request = v1::GetRunRequest { r#ref: run_ref.to_owned() };
            let asked = tokio::time::timeout(REQUEST_LIMIT, self.client.runs.get_run(request)).await;
            if let Ok(Ok(answer)) = asked
                && is_terminal(answer.into_inner().run.expect("a run").state())
            {
                return true;
            }
            tokio::select! {
                () = self.stop.cancelled() => return false,
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn note(&self, line: &str, one: Acknowledged) {
        let mut log = self.log.lock().await;
        log.file.write_all(line.as_bytes()).and_then(|()| log.file.sync_data()).expect("the log is written");
        log.all.insert(one.id.clone(), one);
    }
}

/// What a task of [`Kind::Files`] hands over.
fn content(id: &str) -> String {
    format!("{id} ").repeat(4_000)
}

fn spec(kind: Kind, id: &str) -> v1::RunSpec {
    let tasks = match kind {
        Kind::Quick => vec![noop("t")],
        Kind::Files => {
            // The long text rides along as an argument nobody reads.
            let line = format!(
                "i=0; while [ $i -lt 4000 ]; do printf '{id} '; i=$((i+1)); done > ../out/file.txt; printf '{id}'"
            );
            vec![command("t", "/bin/sh", &["-c", &line, &"x".repeat(LONG_TEXT)])]
        }
        Kind::Worker => {
            let text = format!("{} [[text {{\"text\":\"{id}\"}}]]", "a long prompt ".repeat(LONG_TEXT / 14));
            vec![worker("t", "anga", &text)]
        }
        Kind::Large => (0..LARGE).map(|task| noop(&format!("t{task}"))).collect(),
    };
    let labels = std::iter::once(("key".to_owned(), id.to_owned())).collect();
    v1::RunSpec { name: "load".into(), labels, no_cache: true, ..run(tasks) }
}

/// Every run there is, by the request id it carries.
///
/// # Panics
/// When two runs carry the same one: a submit was taken twice.
pub(super) async fn stored(client: &mut Client) -> BTreeMap<String, v1::Run> {
    let (mut found, mut refs) = (BTreeMap::new(), BTreeSet::new());
    let mut page_token = String::new();
    loop {
        let request =
            v1::ListRunsRequest { page_size: 1_000, page_token, name: "load".into(), ..Default::default() };
        let page = client.runs.list_runs(request).await.expect("a page of runs").into_inner();
        for run in page.runs {
            assert!(refs.insert(run.r#ref.clone()), "{} is listed twice", run.r#ref);
            let id = run.labels.get("key").expect("a label").clone();
            let other = found.insert(id.clone(), run);
            assert!(other.is_none(), "request {id} was taken twice: {other:?}");
        }
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

/// The acknowledged submits that are not stored as they were acknowledged; those whose end was seen must have ended.
pub(super) async fn lost(client: &mut Client, acknowledged: &[Acknowledged]) -> Vec<String> {
    let stored = stored(client).await;
    let is_lost = |one: &&Acknowledged| match stored.get(&one.id) {
        Some(run) => run.r#ref != one.run_ref || (one.ended && !is_terminal(run.state())),
        None => true,
    };
    acknowledged.iter().filter(is_lost).map(|one| format!("{} {}", one.id, one.run_ref)).collect()
}

/// Waits until every acknowledged run has ended well, then looks at what they left: one ending each, answers, files and
/// transcripts as they must be.
///
/// # Panics
/// When anything is missing, recorded twice, or wrong.
pub(super) async fn all_end_well(client: &mut Client, acknowledged: &[Acknowledged]) {
    for one in acknowledged {
        let ended = client.finished(&one.run_ref).await;
        if ended.state() != RunState::Succeeded {
            panic!("{one:?}: {:?} {}: {:?}", ended.state(), ended.detail, client.tasks(&one.run_ref).await);
        }
        assert_eq!(ended.labels.get("key"), Some(&one.id), "the number of {one:?} is another run's");
    }
    let runs = stored(client).await;
    assert_eq!(runs.len(), acknowledged.len(), "every run there is was acknowledged in the end");
    for one in acknowledged.iter().filter(|one| one.kind != Kind::Quick) {
        let tasks = client.tasks(&one.run_ref).await;
        for task in &tasks {
            assert_eq!(task.outcome(), Outcome::Ok, "{one:?}: {task:?}");
            let good = task.attempts.iter().filter(|attempt| attempt.outcome() == Outcome::Ok).count();
            assert!(good <= 1, "recorded twice: {task:?}");
        }
        match one.kind {
            Kind::Quick | Kind::Worker => {}
            Kind::Large => assert_eq!(tasks.len(), LARGE as usize, "{one:?} has all its tasks"),
            Kind::Files => assert_eq!(files(client, &one.run_ref).await, [content(&one.id)], "{one:?}"),
        }
        if matches!(one.kind, Kind::Files | Kind::Worker) {
            assert_eq!(answer(&tasks[0]), one.id, "{one:?}");
        }
    }
}

/// Acknowledged ends of [`Kind::Files`] whose file is not there as it was.
pub(super) async fn damaged_files(client: &mut Client, acknowledged: &[Acknowledged]) -> Vec<String> {
    let mut damaged = Vec::new();
    for one in acknowledged.iter().filter(|one| one.kind == Kind::Files && one.ended) {
        match read_files(client, &one.run_ref).await {
            Ok(contents) if contents == [content(&one.id).into_bytes()] => {}
            Ok(_) => damaged.push(format!("{}: other bytes", one.run_ref)),
            Err(status) => damaged.push(format!("{}: {status}", one.run_ref)),
        }
    }
    damaged
}

/// The contents of the files that a run handed over.
async fn files(client: &mut Client, run_ref: &str) -> Vec<String> {
    let contents = read_files(client, run_ref).await.expect("the files");
    contents.into_iter().map(|bytes| String::from_utf8(bytes).expect("text")).collect()
}

async fn read_files(client: &mut Client, run_ref: &str) -> Result<Vec<Vec<u8>>, tonic::Status> {
    let request = v1::ListArtifactsRequest { r#ref: run_ref.to_owned(), ..Default::default() };
    let listed = client.runs.list_artifacts(request).await?.into_inner().artifacts;
    let mut contents = Vec::new();
    let mut blobs = v1::blob_service_client::BlobServiceClient::new(client.channel.clone());
    for artifact in listed {
        let blob = artifact.artifact.expect("an artifact").blob;
        let mut stream = blobs.get_blob(v1::GetBlobRequest { blob, offset: 0 }).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = stream.message().await? {
            bytes.extend(piece.data);
        }
        contents.push(bytes);
    }
    Ok(contents)
}

/// Ends the quarantine of an agent that a test killed many times.
pub(super) fn resume_agent(fleet: &Fleet, agent: &str) {
    let tls = fleet.certificate(orch_certs::Role::Admin, "admin");
    let mut resume = fleet.orchctl(&["agents", "resume", agent]);
    resume.env("ORCHCTL_TLS_CERT", tls.cert).env("ORCHCTL_TLS_KEY", tls.key);
    // One that is in no quarantine is not to be resumed, which is fine.
    let _ = resume.output();
}

/// The lines of a file that processes append to.
pub(super) fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}
