//! Copies that nobody waits for any more, and coordinators that stop meanwhile.

use super::*;
use crate::rpc::auth::DEFAULT_TENANT;
use crate::storage;
use crate::store::EpochStep;
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::StreamBody;
use hyper::body::Frame;
use orch_certs::{Identity, Role};
use orch_core::outcome::OutcomeRules;
use orch_proto::codec::BoundedCodec;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::Codec as _;

/// Longer than anything here takes, shorter than a silent peer is waited for.
const SOON: Duration = Duration::from_secs(20);

type Sender = mpsc::Sender<Result<Frame<Bytes>, Status>>;

struct Bench {
    _dir: tempfile::TempDir,
    desk: StorageDesk,
    source: Source,
    root: std::path::PathBuf,
    draining: CancellationToken,
    again: CancellationToken,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().to_owned();
    let opened = storage::open(&root, ClusterId([7; 16]), SystemTime::now()).unwrap();
    opened.store.begin_epoch(EpochStep::Start, 1).unwrap();
    let store: Arc<dyn Store> = opened.store;
    let (blobs, transcripts) = (opened.blobs, opened.transcripts);
    let source = Source { store, blobs, transcripts };
    let (draining, again) = (CancellationToken::new(), CancellationToken::new());
    let desk = StorageDesk::new(StorageParts {
        data: opened.dir,
        store: Arc::clone(&source.store),
        blobs: Arc::clone(&source.blobs),
        transcripts: Arc::clone(&source.transcripts),
        mended: Vec::new(),
        config: Config::new(OutcomeRules(Vec::new())),
        tasks: TaskTracker::new(),
        draining: draining.clone(),
        again: again.clone(),
    });
    Bench { _dir: dir, desk, source, root, draining, again }
}

impl Bench {
    fn copy(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        storage::backup::backup(&self.root, &self.source, SystemTime::now(), &mut bytes).unwrap();
        bytes
    }

    fn is_staged(&self) -> bool {
        self.root.join("staged.json").exists()
    }

    /// Waits until nobody has the turn.
    async fn idle(&self) {
        let turn = Arc::clone(&self.desk.inner.as_ref().unwrap().turn);
        drop(tokio::time::timeout(SOON, turn.acquire_owned()).await.expect("the turn").unwrap());
    }
}

fn message(part: v1::restore_request::Part) -> Result<Frame<Bytes>, Status> {
    let message = v1::RestoreRequest { part: Some(part) }.encode_to_vec();
    let mut framed = vec![0];
    framed.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend_from_slice(&message);
    Ok(Frame::data(framed.into()))
}

fn header() -> Result<Frame<Bytes>, Status> {
    let form = BackupForm::Archive.into();
    message(v1::restore_request::Part::Header(v1::RestoreHeader { form, ..Default::default() }))
}

fn data(bytes: &[u8]) -> Result<Frame<Bytes>, Status> {
    message(v1::restore_request::Part::Data(bytes.to_vec()))
}

/// A restore under way, and where its messages are put.
fn restoring(bench: &Bench) -> (JoinSet<Result<v1::RestoreResponse, Status>>, Sender) {
    let (sender, frames) = mpsc::channel(4);
    let body = StreamBody::new(ReceiverStream::new(frames));
    let decoder = BoundedCodec::<v1::RestoreResponse, v1::RestoreRequest>::default().decoder();
    let mut request = Request::new(Streaming::new_request(decoder, body, None, None));
    let identity = Identity::new("orch.test", Role::Admin, "default", "ana").unwrap();
    request.extensions_mut().insert(Caller { identity, tenant: DEFAULT_TENANT });
    let (desk, mut tasks) = (bench.desk.clone(), JoinSet::new());
    tasks.spawn(async move { desk.restore(request).await });
    (tasks, sender)
}

#[tokio::test]
async fn a_copy_that_was_sent_whole_has_the_coordinator_start_on_it() {
    let bench = bench();
    let (mut tasks, sender) = restoring(&bench);
    sender.send(header()).await.unwrap();
    sender.send(data(&bench.copy())).await.unwrap();
    drop(sender);
    let taken = tokio::time::timeout(SOON, tasks.join_next()).await.unwrap().unwrap().unwrap().unwrap();
    assert!(taken.aside.starts_with("aside/restore-"), "{taken:?}");
    assert!(bench.is_staged() && bench.again.is_cancelled());
    assert_eq!(bench.desk.backup(BackupForm::Archive).err().unwrap().code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn nothing_is_staged_without_a_start_on_it_when_whoever_sent_the_copy_has_gone() {
    let bench = bench();
    let (mut tasks, sender) = restoring(&bench);
    sender.send(header()).await.unwrap();
    sender.send(data(&bench.copy())).await.unwrap();
    drop(sender);
    // The worker has begun, because the upload is there; it takes its time for a store.
    let begun = bench.root.join("incoming/restore");
    while !begun.exists() {
        tokio::task::yield_now().await;
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
    bench.idle().await;
    assert_eq!(bench.is_staged(), bench.again.is_cancelled(), "one without the other");
}

#[tokio::test]
async fn an_upload_that_stalls_ends_with_the_drain_and_changes_nothing() {
    for parts in 0..2 {
        let bench = bench();
        let (mut tasks, sender) = restoring(&bench);
        let copy = bench.copy();
        if parts > 0 {
            sender.send(header()).await.unwrap();
            sender.send(data(&copy[..copy.len() / 2])).await.unwrap();
        }
        bench.draining.cancel();
        let ended =
            tokio::time::timeout(SOON, tasks.join_next()).await.expect("it does not hold up the drain");
        assert_eq!(ended.unwrap().unwrap().unwrap_err().code(), tonic::Code::Unavailable);
        bench.idle().await;
        assert!(!bench.is_staged() && !bench.again.is_cancelled());
    }
}

#[tokio::test]
async fn a_copy_that_is_not_read_and_broken_off_does_not_look_like_a_whole_one() {
    let (tasks, draining) = (TaskTracker::new(), CancellationToken::new());
    let mut copy = streams::send(&tasks, draining.clone(), |to| {
        let written = (0..64).try_for_each(|_| to.write_all(&[0; 256 << 10]));
        written.map_err(CopyError::stream("write the copy"))
    });
    let first = tokio::time::timeout(SOON, copy.next()).await.unwrap();
    assert!(first.unwrap().is_ok());
    draining.cancel();
    tasks.close();
    tokio::time::timeout(SOON, tasks.wait()).await.unwrap();
    let rest: Vec<_> = copy.collect().await;
    assert!(rest.len() < 63, "{} messages", rest.len());
    assert_eq!(rest.last().unwrap().as_ref().unwrap_err().code(), tonic::Code::Unavailable);
}
