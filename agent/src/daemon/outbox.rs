//! What goes up: items gathered into frames, reports whose texts are too long for one, and transcripts.
//! Knows the connection of the moment; what must not be lost is in the table and its spool, never here alone.

use crate::artifacts::{self, Kept};
use crate::daemon::table::Table;
use crate::homes::ConversationKey;
use crate::runner::{AttemptKey, Live};
use crate::session::bulk::{self, BulkError};
use crate::session::convert::INLINE_BYTES;
use crate::session::convert::material::are_stored;
use crate::session::link::Bulk;
use crate::session::transcript::{self, Upload, UploadError};
use orch_proto::v1::{self, agent_item::Item, text::Body};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tonic::Code;
use tracing::Instrument as _;

/// Reports sent and not yet answered; more wait here. The protocol's bound.
const MAX_UNANSWERED: usize = 1_024;
/// Items that may wait to be sent. What a coordinator can have asked for is far less, so it does not read: the stream
/// is closed, which is an ordinary reconnect.
const MAX_ITEMS: usize = 65_536;
/// A frame is closed when it would pass this: half of the message limit.
const FRAME_BYTES: usize = 512 << 10;
/// Transcripts of attempts that have ended which are sent at once: after a long cut there may be hundreds, each with a
/// window of its own.
const UPLOADS: usize = 16;
/// Files of attempts that are stored at once, whichever report they belong to: for small ones the coordinator's answer takes
/// longer than their bytes, and each takes a thread.
const FILES: usize = 16;
/// Pause before bulk that failed is tried again on the same connection.
const BULK_PAUSE: Duration = Duration::from_secs(1);

/// What goes up.
#[derive(Debug)]
pub(super) struct Outbox {
    items: VecDeque<v1::AgentItem>,
    /// The latest heartbeat, until it is sent: an older one says nothing that it does not.
    heartbeat: Option<v1::Heartbeat>,
    bulk: Option<Bulk>,
    unanswered: BTreeSet<AttemptKey>,
    held_back: BTreeSet<AttemptKey>,
    long_reports: JoinSet<LongReport>,
    transcripts: BTreeMap<AttemptKey, watch::Receiver<Live>>,
    uploads: JoinSet<Uploaded>,
    /// Where transcripts lie that were sent whole and are still needed here.
    sent: BTreeMap<AttemptKey, PathBuf>,
    /// Turns of transcripts that have ended.
    turns: Arc<Semaphore>,
    /// Turns of files.
    files: Arc<Semaphore>,
    /// Files that reports speak of, until they are stored.
    kept: Option<Kept>,
    /// Removals of those that were.
    removals: JoinSet<(AttemptKey, std::io::Result<()>)>,
}

impl Outbox {
    /// Nothing to be said yet. `kept`: where the files lie that reports speak of.
    pub(super) fn new(kept: Option<Kept>) -> Self {
        Self {
            kept,
            removals: JoinSet::new(),
            items: VecDeque::new(),
            heartbeat: None,
            bulk: None,
            unanswered: BTreeSet::new(),
            held_back: BTreeSet::new(),
            long_reports: JoinSet::new(),
            transcripts: BTreeMap::new(),
            uploads: JoinSet::new(),
            sent: BTreeMap::new(),
            turns: Arc::new(Semaphore::new(UPLOADS)),
            files: Arc::new(Semaphore::new(FILES)),
        }
    }
}

impl Default for Outbox {
    fn default() -> Self {
        Self::new(None)
    }
}

type LongReport = (AttemptKey, Result<Box<v1::Report>, BulkError>);
type Uploaded = (AttemptKey, Result<(), UploadError>);

/// Something of the bulk connection ended.
#[derive(Debug)]
pub(super) enum BulkDone {
    Report(Result<LongReport, JoinError>),
    Transcript(Result<Uploaded, JoinError>),
    Removed(Result<(AttemptKey, std::io::Result<()>), JoinError>),
}

impl Outbox {
    /// A session was welcomed.
    pub(super) fn session_up(&mut self, bulk: Bulk) {
        self.bulk = Some(bulk);
        let keys: Vec<_> = self.transcripts.keys().copied().collect();
        for key in keys {
            self.upload(key, Duration::ZERO);
        }
    }

    /// The session is over: what was to be said in it is settled by the next Hello.
    pub(super) fn session_down(&mut self) {
        self.items.clear();
        self.heartbeat = None;
        self.bulk = None;
        self.unanswered.clear();
        self.held_back.clear();
        // Not merely ended: what they brought belongs to a session that is gone.
        self.long_reports = JoinSet::new();
        self.uploads = JoinSet::new();
    }

    /// The connection for bulk, when there is one.
    pub(super) fn bulk_client(&self) -> Option<Bulk> {
        self.bulk.clone()
    }

    /// Says something. Without a session nothing is said.
    pub(super) fn push(&mut self, item: Item) {
        if self.bulk.is_some() {
            self.items.push_back(v1::AgentItem { item: Some(item) });
        }
    }

    /// Says that the agent is alive, in place of a heartbeat that was not sent yet.
    pub(super) fn push_heartbeat(&mut self, heartbeat: v1::Heartbeat) {
        self.heartbeat = Some(heartbeat);
    }

    /// Whether something waits to be sent.
    pub(super) fn has_items(&self) -> bool {
        !self.items.is_empty() || self.heartbeat.is_some()
    }

    /// Whether more waits than any reader can have asked for.
    pub(super) fn is_overflowing(&self) -> bool {
        self.items.len() > MAX_ITEMS
    }

    /// Sends what gathered, up to a frame. The heartbeat goes first: what it lists is older than what is reported.
    pub(super) fn flush(&mut self, permit: mpsc::OwnedPermit<v1::AgentMessage>) {
        permit.send(self.frame());
    }

    /// What gathered, up to a frame.
    pub(super) fn frame(&mut self) -> v1::AgentMessage {
        let heartbeat = self.heartbeat.take().map(|beat| v1::AgentItem { item: Some(Item::Heartbeat(beat)) });
        let mut frame = v1::AgentMessage { items: Vec::from_iter(heartbeat) };
        let mut bytes = frame.encoded_len();
        while let Some(item) = self.items.front() {
            bytes += item.encoded_len();
            if bytes > FRAME_BYTES && !frame.items.is_empty() {
                break;
            }
            frame.items.extend(self.items.pop_front());
        }
        frame
    }

    /// Sends the report of `key`, once more if need be. Without a session nothing: the next Hello lists it.
    pub(super) fn report(&mut self, key: AttemptKey, table: &Table) {
        self.report_after(key, table, Duration::ZERO);
    }

    /// The same after a pause, where the report has to be put elsewhere first.
    fn report_after(&mut self, key: AttemptKey, table: &Table, pause: Duration) {
        let (Some(bulk), Some(report)) = (&self.bulk, table.report(key)) else { return };
        if self.unanswered.len() >= MAX_UNANSWERED && !self.unanswered.contains(&key) {
            self.held_back.insert(key);
            return;
        }
        crate::failpoint::failpoint!("session::before_report");
        self.unanswered.insert(key);
        let texts = [&report.answer, &report.structured, &report.feedback];
        if report.artifacts.is_none() && texts.into_iter().all(|text| is_short(text.as_ref())) {
            let report = report.clone();
            self.push(Item::Report(report));
        } else {
            let (bulk, report) = (bulk.clone(), Box::new(report.clone()));
            let keep = self.kept.as_ref().map(|kept| kept.of(key)).unwrap_or_default();
            let files = Arc::clone(&self.files);
            self.long_reports.spawn(async move {
                tokio::time::sleep(pause).await;
                (key, with_blobs(bulk, report, &keep, &files).await)
            });
        }
    }

    /// A report was answered; others may go. What it spoke of is not needed any more.
    pub(super) fn answered(&mut self, key: AttemptKey, table: &Table) {
        if let Some(keep) = self.kept.as_ref().map(|kept| kept.of(key)).filter(|keep| keep.exists()) {
            crate::blocking::start(&mut self.removals, move || (key, artifacts::clear(&keep)));
        }
        crate::failpoint::failpoint!("session::after_answer");
        self.unanswered.remove(&key);
        self.held_back.remove(&key);
        while self.unanswered.len() < MAX_UNANSWERED
            && let Some(next) = self.held_back.pop_first()
        {
            self.report(next, table);
        }
    }

    /// Sends the transcript of an attempt as it grows.
    pub(super) fn follow(&mut self, key: AttemptKey, live: watch::Receiver<Live>) {
        self.transcripts.insert(key, live);
        self.upload(key, Duration::ZERO);
    }

    /// Lets go of transcripts that were sent whole, as soon as what their attempts ended with is kept as well.
    pub(super) fn let_go(&mut self, table: &Table) {
        for (key, dir) in self.sent.extract_if(.., |key, _| !table.is_under_way(*key)) {
            crate::blocking::start(&mut self.removals, move || {
                transcript::let_go(&dir);
                (key, Ok(()))
            });
        }
    }

    /// Conversations whose transcripts are still to be sent.
    pub(super) fn conversations(&self) -> BTreeSet<ConversationKey> {
        self.transcripts.keys().map(|key| ConversationKey { run: key.run, task: key.task }).collect()
    }

    /// Whether a transcript is still to be sent.
    pub(super) fn has_transcripts(&self) -> bool {
        !self.transcripts.is_empty()
    }

    /// Sends no transcript that was begun before now: they are another cluster's.
    pub(super) fn drop_transcripts(&mut self) {
        self.transcripts.clear();
        self.uploads = JoinSet::new();
    }

    fn upload(&mut self, attempt: AttemptKey, pause: Duration) {
        let (Some(bulk), Some(live)) = (&self.bulk, self.transcripts.get(&attempt)) else { return };
        let (client, upload) = (bulk.transcripts.clone(), Upload { attempt, live: live.clone() });
        // One that still grows is never kept waiting: the coordinator shows it as it grows.
        let turns = upload.live.has_changed().is_err().then(|| Arc::clone(&self.turns));
        let run = async move {
            tokio::time::sleep(pause).await;
            let _turn = match turns {
                Some(turns) => turns.acquire_owned().await.ok(),
                None => None,
            };
            (attempt, upload.run(client).await)
        };
        self.uploads.spawn(run.instrument(attempt.span()));
    }

    /// The next thing that ended on the bulk connection; never, when nothing is under way. Dropping the future loses
    /// nothing.
    pub(super) async fn next_bulk(&mut self) -> BulkDone {
        tokio::select! {
            Some(done) = self.long_reports.join_next(), if !self.long_reports.is_empty() => BulkDone::Report(done),
            Some(done) = self.uploads.join_next(), if !self.uploads.is_empty() => BulkDone::Transcript(done),
            Some(done) = self.removals.join_next(), if !self.removals.is_empty() => BulkDone::Removed(done),
            else => std::future::pending().await,
        }
    }

    /// Goes on after something ended. Gives an attempt whose report cannot be sent, because what it speaks of is gone.
    pub(super) fn bulk_done(&mut self, done: BulkDone, table: &Table) -> Option<AttemptKey> {
        match done {
            BulkDone::Report(Ok((_, Ok(report)))) => self.push(Item::Report(*report)),
            BulkDone::Report(Ok((key, Err(BulkError::Lost(path))))) => {
                tracing::error!(path = %path.display(), "a kept file is gone or damaged");
                return Some(key);
            }
            BulkDone::Removed(Ok((_, Ok(())))) => {}
            BulkDone::Removed(Ok((key, Err(error)))) => {
                let _span = key.span().entered();
                tracing::warn!(%error, "files that were stored cannot be removed");
            }
            BulkDone::Report(Ok((key, Err(error)))) => {
                let _span = key.span().entered();
                tracing::warn!(%error, "the long texts of a report could not be sent; they will be tried again");
                self.report_after(key, table, BULK_PAUSE);
            }
            BulkDone::Transcript(Ok((key, Ok(())))) => {
                let live = self.transcripts.remove(&key);
                // Of an attempt that said nothing there is nothing to let go of.
                let said = live.filter(|live| live.borrow().transcript_bytes > 0);
                let dir = said.and_then(|live| live.borrow().attempt_dir.clone());
                self.sent.extend(dir.map(|dir| (key, dir)));
            }
            BulkDone::Transcript(Ok((key, Err(UploadError::Read(error))))) => {
                let _span = key.span().entered();
                tracing::warn!(%error, "a transcript cannot be read and is given up");
                self.transcripts.remove(&key);
            }
            // Not this agent's, or forgotten: trying again would get the same answer for ever.
            BulkDone::Transcript(Ok((key, Err(UploadError::Call(status)))))
                if status.code() == Code::NotFound =>
            {
                let _span = key.span().entered();
                tracing::warn!(reason = status.message(), "the coordinator does not want a transcript");
                self.transcripts.remove(&key);
            }
            BulkDone::Transcript(Ok((key, Err(error @ (UploadError::Call(_) | UploadError::Ended))))) => {
                let _span = key.span().entered();
                tracing::debug!(%error, "a transcript stream broke off");
                self.upload(key, BULK_PAUSE);
            }
            BulkDone::Report(Err(error))
            | BulkDone::Transcript(Err(error))
            | BulkDone::Removed(Err(error)) => {
                tracing::error!(%error, "sending bulk broke off; the next session does it again");
            }
        }
        None
    }
}

fn is_short(text: Option<&v1::Text>) -> bool {
    match text.and_then(|text| text.body.as_ref()) {
        Some(Body::Inline(text)) => text.len() <= INLINE_BYTES,
        Some(Body::Blob(_)) | None => true,
    }
}

/// Moves long texts of a report to blobs, and stores the files it speaks of, which lie in `keep`. The digest stays: it
/// speaks of texts and files, not of where they are.
async fn with_blobs(
    mut bulk: Bulk,
    mut report: Box<v1::Report>,
    keep: &Path,
    files: &Arc<Semaphore>,
) -> Result<Box<v1::Report>, BulkError> {
    if let Some(artifacts) = report.artifacts.as_mut().filter(|artifacts| !are_stored(artifacts)) {
        artifacts.manifest = Some(store(&mut bulk, artifacts.manifest.as_ref(), keep, files).await?);
    }
    let texts = [&mut report.answer, &mut report.structured, &mut report.feedback];
    for text in texts.into_iter().flatten() {
        if let Some(Body::Inline(inline)) = &mut text.body
            && inline.len() > INLINE_BYTES
        {
            let bytes = std::mem::take(inline).into_bytes();
            text.body = Some(Body::Blob(bulk::put(&mut bulk.blobs, bytes).await?));
        }
    }
    Ok(report)
}

/// Stores the files in `keep`, then the list of them, and says where that is.
async fn store(
    bulk: &mut Bulk,
    expected: Option<&v1::BlobRef>,
    keep: &Path,
    files: &Arc<Semaphore>,
) -> Result<v1::BlobRef, BulkError> {
    let lost = |_| BulkError::Lost(keep.to_owned());
    let mut manifest = artifacts::kept(keep).map_err(lost)?;
    let digest = Sha256::digest(manifest.encode_to_vec());
    if expected.is_none_or(|expected| expected.digest != digest.as_slice()) {
        return Err(BulkError::Lost(keep.to_owned()));
    }
    let blobs = || manifest.artifacts.iter().filter_map(|artifact| artifact.blob.clone());
    let distinct = blobs().map(|blob| (blob.digest.clone(), blob)).collect();
    let stored = store_files(bulk, distinct, keep, files).await?;
    for blob in manifest.artifacts.iter_mut().filter_map(|artifact| artifact.blob.as_mut()) {
        *blob = stored.get(&blob.digest).cloned().ok_or(BulkError::WrongDigest)?;
    }
    bulk::put(&mut bulk.blobs, manifest.encode_to_vec()).await
}

/// Stores files, some at once, and says where each is, by digest.
async fn store_files(
    bulk: &Bulk,
    wanted: BTreeMap<Vec<u8>, v1::BlobRef>,
    keep: &Path,
    files: &Arc<Semaphore>,
) -> Result<BTreeMap<Vec<u8>, v1::BlobRef>, BulkError> {
    let (mut wanted, mut stored) = (wanted.into_values(), BTreeMap::new());
    let mut under_way = JoinSet::new();
    loop {
        while under_way.len() < FILES
            && let Some(blob) = wanted.next()
        {
            let (mut client, path) = (bulk.blobs.clone(), artifacts::kept_file(keep, &blob.digest));
            let files = Arc::clone(files);
            under_way.spawn(async move {
                let _turn = files.acquire_owned().await.ok();
                bulk::put_file(&mut client, &blob, &path).await
            });
        }
        let Some(done) = under_way.join_next().await else { return Ok(stored) };
        // Nothing else ends them, so they did not come to an end by themselves.
        let placed = done.unwrap_or_else(|error| std::panic::resume_unwind(Box::new(error)))?;
        stored.insert(placed.digest.clone(), placed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::{AttemptReport, Outcome};
    use crate::session::convert;
    use crate::spool::Entry;
    use crate::spool::Spool as _;
    use crate::spool::memory::MemorySpool;
    use orch_proto::v1::blob_service_client::BlobServiceClient;
    use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
    use tonic::transport::Endpoint;

    const fn key(task: u32) -> AttemptKey {
        AttemptKey { run: 7, task, attempt: 1 }
    }

    /// A connection that fails when it is used: nothing listens there.
    fn nowhere() -> Bulk {
        let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        Bulk {
            blobs: BlobServiceClient::new(channel.clone()),
            transcripts: TranscriptServiceClient::new(channel),
        }
    }

    /// A table with so many reports of that answer.
    fn ended(count: u32, answer: &str) -> Table {
        let mut spool = MemorySpool::default();
        for task in 0..count {
            let mut report = AttemptReport::of(Outcome::Ok, "");
            report.answer = Some(answer.to_owned());
            let report = convert::report(key(task), report).encode_to_vec();
            spool.append(Entry::Finished { key: key(task), report });
        }
        Table::new(Box::new(spool), 1, |key, _| panic!("{key} has a report")).0
    }

    fn reported(outbox: &mut Outbox) -> usize {
        let mut count = 0;
        while outbox.has_items() {
            count += outbox.frame().items.len();
        }
        count
    }

    #[tokio::test]
    async fn no_more_reports_are_on_their_way_than_allowed_and_answers_make_room() {
        let most = u32::try_from(MAX_UNANSWERED).unwrap();
        let table = ended(most + 3, "");
        let mut outbox = Outbox::default();
        outbox.session_up(nowhere());
        for task in 0..most + 3 {
            outbox.report(key(task), &table);
        }
        assert_eq!(reported(&mut outbox), MAX_UNANSWERED);
        outbox.report(key(most), &table);
        assert_eq!(reported(&mut outbox), 0, "one that waits goes on waiting");
        outbox.report(key(0), &table);
        assert_eq!(reported(&mut outbox), 1, "one that was sent may be sent once more");
        for task in [0, 1] {
            outbox.answered(key(task), &table);
        }
        assert_eq!(reported(&mut outbox), 2);
        outbox.answered(key(2), &ended(most + 2, ""));
        assert_eq!(reported(&mut outbox), 0, "the last one is not owed any more, and holds up nothing");
        assert!(outbox.held_back.is_empty());
    }

    #[tokio::test]
    async fn without_a_session_nothing_gathers_and_a_new_one_begins_empty() {
        let table = ended(1, "");
        let mut outbox = Outbox::default();
        outbox.push(Item::Draining(v1::Draining {}));
        outbox.report(key(0), &table);
        assert!(!outbox.has_items());
        outbox.session_up(nowhere());
        outbox.report(key(0), &table);
        outbox.push_heartbeat(v1::Heartbeat::default());
        outbox.session_down();
        outbox.session_up(nowhere());
        assert!(!outbox.has_items() && outbox.unanswered.is_empty());
    }

    #[tokio::test]
    async fn only_the_latest_heartbeat_waits_and_it_goes_first() {
        let mut outbox = Outbox::default();
        outbox.session_up(nowhere());
        outbox.push(Item::Draining(v1::Draining {}));
        for seq in [1, 2] {
            outbox.push_heartbeat(v1::Heartbeat { seq, ..v1::Heartbeat::default() });
        }
        let items: Vec<_> = outbox.frame().items.into_iter().filter_map(|item| item.item).collect();
        let latest = Item::Heartbeat(v1::Heartbeat { seq: 2, ..v1::Heartbeat::default() });
        assert_eq!(items, [latest, Item::Draining(v1::Draining {})]);
    }

    #[tokio::test]
    async fn frames_stay_below_the_message_limit() {
        let table = ended(20, &"x".repeat(INLINE_BYTES));
        let mut outbox = Outbox::default();
        outbox.session_up(nowhere());
        for task in 0..20 {
            outbox.report(key(task), &table);
        }
        let mut frames = 0;
        while outbox.has_items() {
            assert!(outbox.frame().encoded_len() <= crate::session::link::MAX_MESSAGE_BYTES);
            frames += 1;
        }
        assert!(frames > 1);
    }

    #[tokio::test]
    async fn a_coordinator_that_does_not_read_is_noticed() {
        let mut outbox = Outbox::default();
        outbox.session_up(nowhere());
        for _ in 0..=MAX_ITEMS {
            assert!(!outbox.is_overflowing());
            outbox.push(Item::Draining(v1::Draining {}));
        }
        assert!(outbox.is_overflowing());
    }

    #[tokio::test]
    async fn a_long_report_whose_texts_cannot_be_sent_is_tried_again_in_the_same_session() {
        let table = ended(1, &"x".repeat(INLINE_BYTES + 1));
        let mut outbox = Outbox::default();
        outbox.session_up(nowhere());
        outbox.report(key(0), &table);
        let done = outbox.next_bulk().await;
        assert!(matches!(done, BulkDone::Report(Ok((_, Err(_))))), "{done:?}");
        outbox.bulk_done(done, &table);
        assert!(!outbox.long_reports.is_empty() && outbox.unanswered.contains(&key(0)));
        outbox.session_down();
        assert!(outbox.long_reports.is_empty());
    }

    #[tokio::test]
    async fn a_transcript_that_nobody_wants_is_given_up_and_one_that_was_cut_is_not() {
        let (mut outbox, table) = (Outbox::default(), ended(0, ""));
        outbox.session_up(nowhere());
        let (_live, seen) = watch::channel(Live::default());
        outbox.follow(key(1), seen);
        let answered = |status: tonic::Status| BulkDone::Transcript(Ok((key(1), Err(status.into()))));
        outbox.bulk_done(answered(tonic::Status::unavailable("cut")), &table);
        assert!(outbox.has_transcripts());
        outbox.bulk_done(answered(tonic::Status::not_found("not yours")), &table);
        assert!(!outbox.has_transcripts());
    }
}
