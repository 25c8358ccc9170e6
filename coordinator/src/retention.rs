//! Transcripts that have had their time: by age and size, and with the run they belong to.
//!
//! Knows which runs there are, from their records; refuses to delete records, which is the core's, and blobs, which go
//! with the records that name them ([`crate::payloads::references`]).

use crate::store::{Key, ReadError, Store};
use crate::transcripts::{Deleted, RetentionPolicy, TranscriptError, TranscriptId, Transcripts};
use orch_proto::store::v1::RunRecord;
use orch_proto::v1::RunState;
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_util::sync::CancellationToken;

/// How often it is looked. Transcripts are kept for days.
const EVERY: Duration = Duration::from_secs(3_600);
/// The first look waits until a start is over, which needs the disk for itself.
const FIRST: Duration = Duration::from_secs(60);

/// Why transcripts could not be looked through. What was deleted until then stays deleted.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    /// A run cannot be looked up.
    #[error("cannot look up the run of a transcript")]
    Store(#[from] ReadError),
    /// A run's record is not one.
    #[error("the record of a run cannot be decoded")]
    Malformed(#[from] prost::DecodeError),
    /// The transcripts refused.
    #[error(transparent)]
    Transcripts(#[from] TranscriptError),
}

/// Deletes transcripts that nobody needs any more.
#[derive(Debug, Clone)]
pub struct Retention {
    /// Where runs are.
    pub store: Arc<dyn Store>,
    /// What is deleted.
    pub transcripts: Arc<Transcripts>,
    /// How long and how much to keep.
    pub policy: RetentionPolicy,
    /// Set when the coordinator stops.
    pub stop: CancellationToken,
}

/// What became of the run of a transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// It may still write transcripts.
    Open,
    /// It is over.
    Over,
    /// It is not kept any more.
    Forgotten,
}

impl Retention {
    /// Looks now and then, until the coordinator stops.
    pub async fn run(self) {
        let mut looks = tokio::time::interval_at(tokio::time::Instant::now() + FIRST, EVERY);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                _ = looks.tick() => {}
            }
            let this = self.clone();
            match tokio::task::spawn_blocking(move || this.look(SystemTime::now())).await {
                Ok(Ok(deleted)) => tracing::info!(
                    transcripts = deleted.transcripts,
                    bytes = deleted.bytes,
                    "old transcripts removed"
                ),
                Ok(Err(error)) => tracing::warn!(%error, "cannot remove old transcripts"),
                Err(error) => tracing::error!(%error, "the removal of old transcripts broke off"),
            }
        }
    }

    /// Deletes what is due at `now`.
    ///
    /// # Errors
    /// [`RetentionError`].
    pub fn look(&self, now: SystemTime) -> Result<Deleted, RetentionError> {
        let mut runs = Runs { store: &*self.store, known: BTreeMap::new(), failed: None };
        let mut stays = |id: &TranscriptId| self.stop.is_cancelled() || runs.of(id) != Run::Forgotten;
        let any_age = RetentionPolicy { max_age: Duration::ZERO, max_bytes: u64::MAX };
        let mut deleted = self.transcripts.retain(&any_age, now, &mut stays)?;
        let mut is_open = |id: &TranscriptId| self.stop.is_cancelled() || runs.of(id) == Run::Open;
        let old = self.transcripts.retain(&self.policy, now, &mut is_open)?;
        deleted.transcripts += old.transcripts;
        deleted.bytes += old.bytes;
        for ((tenant, run), _) in runs.known.iter().filter(|(_, found)| **found == Run::Forgotten) {
            // The directory, which is empty now.
            self.transcripts.delete_run(*tenant, *run)?;
        }
        runs.failed.map_or(Ok(deleted), Err)
    }
}

/// Runs that transcripts belong to, each looked up once.
struct Runs<'a> {
    store: &'a dyn Store,
    known: BTreeMap<(crate::store::Tenant, u64), Run>,
    failed: Option<RetentionError>,
}

impl Runs<'_> {
    /// After a failure every run counts as open, so that nothing is deleted on a guess.
    fn of(&mut self, id: &TranscriptId) -> Run {
        let key = (id.tenant, id.run);
        if let Some(found) = self.known.get(&key) {
            return *found;
        }
        if self.failed.is_some() {
            return Run::Open;
        }
        match look_up(self.store, id) {
            Ok(found) => {
                self.known.insert(key, found);
                found
            }
            Err(error) => {
                self.failed = Some(error);
                Run::Open
            }
        }
    }
}

fn look_up(store: &dyn Store, id: &TranscriptId) -> Result<Run, RetentionError> {
    let Some(payload) = store.get(&Key::run(id.tenant, id.run))? else { return Ok(Run::Forgotten) };
    let over = match RunRecord::decode(payload.as_slice())?.state() {
        RunState::Succeeded | RunState::Failed | RunState::Cancelled => Run::Over,
        RunState::Planning
        | RunState::WaitingApproval
        | RunState::Running
        | RunState::Synthesizing
        | RunState::Unspecified => Run::Open,
    };
    Ok(over)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Batch, EpochStep, MemoryStore, Op, Tenant};

    const T: Tenant = Tenant::DEFAULT;
    const DAY: Duration = Duration::from_secs(86_400);

    struct Bench {
        retention: Retention,
        store: Arc<MemoryStore>,
        _dir: tempfile::TempDir,
    }

    fn bench() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        store.begin_epoch(EpochStep::Start, 1).unwrap();
        let retention = Retention {
            store: store.clone(),
            transcripts: Arc::new(Transcripts::open(dir.path()).unwrap()),
            policy: RetentionPolicy { max_age: 2 * DAY, max_bytes: 1_000 },
            stop: CancellationToken::new(),
        };
        Bench { retention, store, _dir: dir }
    }

    impl Bench {
        fn put_run(&self, run: u64, value: Vec<u8>) {
            let ops = vec![Op::Put { key: Key::run(T, run), value }];
            self.store.commit(Batch { expect_epoch: 1, ops }).unwrap();
        }

        fn run(&self, run: u64, state: RunState) {
            self.put_run(run, RunRecord { state: state.into(), ..Default::default() }.encode_to_vec());
        }

        fn transcript(&self, run: u64, bytes: usize) -> TranscriptId {
            let id = TranscriptId { tenant: T, run, task: 0, attempt: 1 };
            self.retention.transcripts.append(&id, 0, &vec![b'x'; bytes]).unwrap();
            id
        }

        fn look_in(&self, later: Duration) -> Deleted {
            self.retention.look(SystemTime::now() + later).unwrap()
        }

        fn is_there(&self, id: &TranscriptId) -> bool {
            self.retention.transcripts.offsets(id).is_ok()
        }
    }

    #[test]
    fn transcripts_go_with_their_run_whatever_their_age_and_leave_no_directory() {
        let bench = bench();
        bench.run(1, RunState::Succeeded);
        let (kept, gone) = (bench.transcript(1, 10), bench.transcript(2, 10));
        assert_eq!(bench.look_in(Duration::from_secs(1)), Deleted { transcripts: 1, bytes: 10 });
        assert!(bench.is_there(&kept) && !bench.is_there(&gone));
        assert!(!bench._dir.path().join("1/2").exists());
        assert!(bench._dir.path().join("1/1").exists());
    }

    #[test]
    fn old_ones_go_and_too_many_go_oldest_first_but_none_of_an_open_run() {
        let bench = bench();
        bench.run(1, RunState::Succeeded);
        bench.run(2, RunState::Running);
        let (over, open) = (bench.transcript(1, 10), bench.transcript(2, 10));
        assert_eq!(bench.look_in(DAY).transcripts, 0);
        assert_eq!(bench.look_in(3 * DAY).transcripts, 1);
        assert!(!bench.is_there(&over) && bench.is_there(&open));
        for run in 3..6 {
            bench.run(run, RunState::Failed);
            bench.transcript(run, 400);
        }
        assert_eq!(bench.look_in(Duration::from_secs(1)), Deleted { transcripts: 1, bytes: 400 });
    }

    #[test]
    fn nothing_is_deleted_on_a_guess_or_while_the_coordinator_stops() {
        let bench = bench();
        bench.put_run(1, vec![0xFF]);
        let (damaged, forgotten) = (bench.transcript(1, 10), bench.transcript(2, 10));
        let error = bench.retention.look(SystemTime::now() + 9 * DAY).unwrap_err();
        assert!(matches!(error, RetentionError::Malformed(_)), "{error}");
        assert!(bench.is_there(&damaged) && bench.is_there(&forgotten));
        bench.run(1, RunState::Succeeded);
        bench.retention.stop.cancel();
        assert_eq!(bench.look_in(9 * DAY), Deleted::default());
    }
}
