//! A transcript on its way in: whose it is, what of it has arrived, what of it is durable.
//! Knows that an agent writes what was leased to it and nothing else; refuses to know what the lines say.

use super::{CHUNK_BYTES, transcript_status};
use crate::payloads::Archive;
use crate::rpc::auth::Caller;
use crate::rpc::blocking;
use crate::rpc::convert::{attempt_id, attempt_key};
use crate::rpc::lookup::archive_status;
use crate::rpc::status::{from_decoder, refuse};
use crate::store::Tenant;
use crate::transcripts::{Offsets, TranscriptError, TranscriptId, Transcripts};
use orch_core::ids::{AttemptKey, AttemptNo, RunId, TaskIndex, TaskKey, TenantId};
use orch_proto::codes::ErrorCode;
use orch_proto::store::v1::TaskRecord;
use orch_proto::v1::{AppendTranscriptRequest, AppendTranscriptResponse};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval};
use tonic::{Status, Streaming};

/// What was received is made durable at least this often.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Transcripts on one stream: an agent opens one for each, so this is generous.
const MAX_PER_STREAM: usize = 1_024;

type Answers = mpsc::Sender<Result<AppendTranscriptResponse, Status>>;

/// Takes what one stream brings.
#[derive(Debug)]
pub(super) struct Appender {
    transcripts: Arc<Transcripts>,
    archive: Archive,
    tenant: TenantId,
    agent: String,
    /// Transcripts that the agent may write, and whether something of them is not durable yet.
    allowed: BTreeMap<TranscriptId, bool>,
}

impl Appender {
    pub(super) fn new(transcripts: Arc<Transcripts>, archive: Archive, caller: &Caller) -> Self {
        let agent = caller.identity.name().to_owned();
        Self { transcripts, archive, tenant: caller.tenant, agent, allowed: BTreeMap::new() }
    }

    /// Takes chunks until either side has enough. What arrived is made durable, also when the stream broke off.
    pub(super) async fn run(mut self, mut chunks: Streaming<AppendTranscriptRequest>, answers: Answers) {
        let mut sync = interval(SYNC_EVERY);
        sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let went_on = tokio::select! {
                chunk = chunks.message() => match chunk.map_err(from_decoder) {
                    Ok(Some(chunk)) => say(&answers, self.take(chunk).await).await,
                    Ok(None) => false,
                    Err(status) => say(&answers, Err(status)).await,
                },
                _ = sync.tick() => self.sync_all(&answers).await,
                () = answers.closed() => false,
            };
            if !went_on {
                break;
            }
        }
        self.sync_all(&answers).await;
    }

    async fn take(&mut self, chunk: AppendTranscriptRequest) -> Result<AppendTranscriptResponse, Status> {
        let key = attempt_key(chunk.attempt.as_ref())
            .ok_or_else(|| refuse(ErrorCode::ProtocolViolation, "a chunk names no attempt"))?;
        if chunk.data.len() > CHUNK_BYTES {
            return Err(refuse(ErrorCode::TooLarge, format!("a chunk has at most {CHUNK_BYTES} bytes")));
        }
        let id = self.allow(key).await?;
        let AppendTranscriptRequest { offset, data, last, .. } = chunk;
        let transcripts = Arc::clone(&self.transcripts);
        let offsets = blocking(move || append(&transcripts, &id, offset, &data, last)).await?;
        let offsets = offsets.map_err(|error| transcript_status(&error))?;
        self.allowed.insert(id, offsets.durable < offsets.received);
        Ok(answer(&id, offsets))
    }

    /// Looks once at whose attempt it is. A stranger's is answered as one that does not exist.
    async fn allow(&mut self, key: AttemptKey) -> Result<TranscriptId, Status> {
        let TaskKey { run, index } = key.task;
        let tenant = Tenant::new(self.tenant.0);
        let id = TranscriptId { tenant, run: run.0, task: index.0, attempt: key.attempt.0 };
        if self.allowed.contains_key(&id) {
            return Ok(id);
        }
        let record = self.archive.task_record(self.tenant, key.task).await;
        let record = record.map_err(|error| archive_status(&error))?;
        if record.and_then(|record| leased_to(&record, key.attempt.0).map(str::to_owned)).as_ref()
            != Some(&self.agent)
        {
            let message = format!("no attempt {key} was given to this agent");
            return Err(refuse(ErrorCode::NotFound, message));
        }
        if self.allowed.len() == MAX_PER_STREAM {
            let message = format!("at most {MAX_PER_STREAM} transcripts on one stream");
            return Err(refuse(ErrorCode::ProtocolViolation, message));
        }
        self.allowed.insert(id, false);
        Ok(id)
    }

    /// Makes durable what is not, and says so. Whether the stream goes on.
    async fn sync_all(&mut self, answers: &Answers) -> bool {
        for (id, unsynced) in &mut self.allowed {
            if !std::mem::take(unsynced) {
                continue;
            }
            let (transcripts, id) = (Arc::clone(&self.transcripts), *id);
            let synced = blocking(move || transcripts.sync(&id)).await;
            let synced = synced.and_then(|synced| synced.map_err(|error| transcript_status(&error)));
            // The other transcripts are made durable, also when nobody listens any more.
            if !say(answers, synced.map(|offsets| answer(&id, offsets))).await && !answers.is_closed() {
                return false;
            }
        }
        !answers.is_closed()
    }
}

/// Says it. Whether the stream goes on: it does not after a refusal, nor without anybody who listens.
async fn say(answers: &Answers, answer: Result<AppendTranscriptResponse, Status>) -> bool {
    let refused = answer.is_err();
    answers.send(answer).await.is_ok() && !refused
}

fn append(
    transcripts: &Transcripts,
    id: &TranscriptId,
    offset: u64,
    data: &[u8],
    last: bool,
) -> Result<Offsets, TranscriptError> {
    // One that has not begun is asked about, or ends, at nothing.
    let or_nothing = |found: Result<Offsets, TranscriptError>| match found {
        Err(TranscriptError::NotFound) => Ok(Offsets::default()),
        found => found,
    };
    match (data.is_empty(), last) {
        (true, false) => or_nothing(transcripts.offsets(id)),
        (true, true) => or_nothing(transcripts.sync(id)),
        (false, false) => transcripts.append(id, offset, data),
        (false, true) => transcripts.append(id, offset, data).and_then(|_| transcripts.sync(id)),
    }
}

/// The agent that attempt `number` was given to, as far as the record remembers.
fn leased_to(task: &TaskRecord, number: u32) -> Option<&str> {
    if task.attempt == number {
        return Some(&task.agent);
    }
    task.attempts.iter().find(|attempt| attempt.number == number).map(|attempt| attempt.agent.as_str())
}

const fn answer(id: &TranscriptId, offsets: Offsets) -> AppendTranscriptResponse {
    let task = TaskKey { run: RunId(id.run), index: TaskIndex(id.task) };
    let attempt = Some(attempt_id(AttemptKey { task, attempt: AttemptNo(id.attempt) }));
    AppendTranscriptResponse { attempt, received: offsets.received, durable: offsets.durable }
}

#[cfg(test)]
mod tests {
    use super::*;
    use orch_proto::store::v1::AttemptRecord;

    #[test]
    fn an_attempt_belongs_to_the_agent_it_was_given_to_also_after_the_next_one() {
        let ended = AttemptRecord { number: 2, agent: "box-1".into(), ..Default::default() };
        let task =
            TaskRecord { attempt: 3, agent: "box-2".into(), attempts: vec![ended], ..Default::default() };
        assert_eq!(leased_to(&task, 3), Some("box-2"));
        assert_eq!(leased_to(&task, 2), Some("box-1"));
        assert_eq!(leased_to(&task, 1), None);
        assert_eq!(leased_to(&task, 4), None);
    }
}
