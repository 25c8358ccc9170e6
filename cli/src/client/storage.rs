//! Calls about what the coordinator keeps. A copy is one stream of bytes either way; this file moves them and never
//! looks into them. Knows the wire; refuses to know files and to print.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream;
use orch_proto::v1;
use orch_proto::v1::restore_request::Part;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Status;

use super::{CALL_LIMIT, Client, incomplete, policy};
use crate::exit;
use crate::failure::status::is_temporary;
use crate::failure::{Failure, Outcome};
use crate::retry;

/// Bytes of one message of a copy: the wire's limit for it.
const PART: usize = 256 << 10;
/// Parts read ahead of the connection: enough that reading and sending overlap.
const AHEAD: usize = 4;
/// How often somebody who waits for a coordinator looks for it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Longest wait for the answer to one such look.
const LOOK: Duration = Duration::from_secs(5);

/// What has come of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes of it.
    pub(crate) bytes: u64,
    /// Lines of it.
    pub(crate) lines: u64,
    /// SHA-256 of it.
    pub(crate) digest: [u8; 32],
}

/// How an attempt to give a copy back ended.
#[derive(Debug)]
pub(crate) enum GivenBack {
    /// The coordinator answered.
    Answered(v1::RestoreResponse),
    /// All bytes were sent, and the connection ended before an answer came: it may have started anew already.
    Unanswered(Failure),
}

impl Client {
    /// The data directory and its store.
    pub(crate) async fn storage(&self) -> Outcome<v1::Storage> {
        let answer = self.call(async || self.admin().get_storage(v1::GetStorageRequest {}).await).await?;
        answer.storage.ok_or_else(|| incomplete("GetStorage"))
    }

    /// Forgets an agent.
    pub(crate) async fn forget(&self, name: &str) -> Outcome<()> {
        let request = v1::ForgetAgentRequest { name: name.to_owned() };
        self.call(async || self.admin().forget_agent(request.clone()).await).await?;
        Ok(())
    }

    /// Writes a copy of what the coordinator keeps to `sink` as it comes. `moved` is told how many bytes came so far.
    /// A cut connection ends it: two halves of different moments are no copy.
    pub(crate) async fn backup(
        &self,
        form: v1::BackupForm,
        sink: &mut (dyn Write + Send),
        moved: &mut (dyn FnMut(u64) + Send),
    ) -> Outcome<Copied> {
        let request = v1::BackupRequest { form: form.into() };
        let begin = async || {
            let begun = tokio::time::timeout(CALL_LIMIT, self.admin().backup(request)).await;
            begun.unwrap_or_else(|_| Err(Status::unavailable("the copy did not begin in time")))
        };
        let mut stream = retry::retrying(policy(retry::CALL), begin)
            .await
            .map_err(|error| self.gave_up(&error))?
            .into_inner();
        let (mut bytes, mut lines, mut digest) = (0, 0, Sha256::new());
        while let Some(part) = stream.message().await.map_err(|status| cut(&status))? {
            sink.write_all(&part.data).map_err(unwritten)?;
            digest.update(&part.data);
            bytes += part.data.len() as u64;
            lines += part.data.iter().filter(|byte| **byte == b'\n').count() as u64;
            moved(bytes);
        }
        sink.flush().map_err(unwritten)?;
        if bytes == 0 {
            return Err(incomplete("Backup"));
        }
        Ok(Copied { bytes, lines, digest: digest.finalize().into() })
    }

    /// Sends a copy to the coordinator. Is never repeated: what it does, it may have done.
    pub(crate) async fn give_back(
        &self,
        header: v1::RestoreHeader,
        source: impl Read + Send + 'static,
        moved: impl Fn(u64) + Send + Sync + 'static,
    ) -> Outcome<GivenBack> {
        let (parts, read) = mpsc::channel(AHEAD);
        let mut reader = JoinSet::new();
        reader.spawn_blocking(move || read_parts(source, &parts));
        let (failed, mut failure) = mpsc::channel(1);
        let ended = Arc::new(AtomicBool::new(false));
        let sending = Sending { read, failed, moved, sent: AtomicU64::new(0), ended: Arc::clone(&ended) };
        let first = v1::RestoreRequest { part: Some(Part::Header(header)) };
        let rest = stream::unfold(sending, next_part);
        let messages = futures_util::StreamExt::chain(stream::iter([first]), rest);
        let mut admin = self.admin();
        let answer = tokio::select! {
            answer = admin.restore(messages) => answer,
            Some(error) = failure.recv() => {
                return Err(Failure::new(exit::FAILED, "cannot read the copy").cause(error)
                    .help("nothing was changed"));
            }
        };
        match answer {
            Ok(answer) => Ok(GivenBack::Answered(answer.into_inner())),
            Err(status) => {
                let failure = Failure::from_status(&status);
                let all_sent = ended.load(Ordering::Acquire);
                if is_temporary(&status) && all_sent {
                    Ok(GivenBack::Unanswered(failure))
                } else {
                    Err(failure)
                }
            }
        }
    }

    /// Has the coordinator start anew on a compacted store; `None` if it did so before its answer arrived.
    pub(crate) async fn compact(&self) -> Outcome<Option<v1::Storage>> {
        match self.admin().compact_store(v1::CompactStoreRequest {}).await {
            Ok(answer) => Ok(answer.into_inner().storage),
            Err(status) if is_temporary(&status) => Ok(None),
            Err(status) => Err(Failure::from_status(&status)),
        }
    }

    /// Waits until a coordinator answers that is not the one of `epoch`. Each start has an epoch of its own.
    pub(crate) async fn started_anew(&self, epoch: u64, limit: Duration) -> Outcome<v1::ClusterStatus> {
        let waiting = async {
            loop {
                let asked =
                    tokio::time::timeout(LOOK, self.admin().get_status(v1::GetStatusRequest {})).await;
                if let Ok(answer) = asked {
                    let status = answer.map(|answer| answer.into_inner().status);
                    match status {
                        Ok(Some(status)) if status.epoch != epoch => return Ok(status),
                        Ok(_) => {}
                        Err(status) if is_temporary(&status) => {}
                        Err(status) => return Err(Failure::from_status(&status)),
                    }
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(found) => found,
            Err(_) => {
                let message = format!("the coordinator did not start anew within {} s", limit.as_secs());
                Err(Failure::new(exit::UNREACHABLE, message)
                    .help("its log says why; orchctl admin status asks again"))
            }
        }
    }
}

/// Bytes on their way out.
struct Sending<F> {
    read: mpsc::Receiver<std::io::Result<Vec<u8>>>,
    failed: mpsc::Sender<std::io::Error>,
    moved: F,
    sent: AtomicU64,
    ended: Arc<AtomicBool>,
}

/// The next message. A file that cannot be read on must not look like one that has ended: then nothing follows at all.
async fn next_part<F: Fn(u64) + Send + Sync>(
    mut sending: Sending<F>,
) -> Option<(v1::RestoreRequest, Sending<F>)> {
    match sending.read.recv().await {
        None => {
            sending.ended.store(true, Ordering::Release);
            None
        }
        Some(Ok(data)) => {
            let sent = sending.sent.fetch_add(data.len() as u64, Ordering::Relaxed) + data.len() as u64;
            (sending.moved)(sent);
            Some((v1::RestoreRequest { part: Some(Part::Data(data)) }, sending))
        }
        Some(Err(error)) => {
            // Whoever waits for the answer hears of it and ends the call.
            let _ = sending.failed.send(error).await;
            std::future::pending().await
        }
    }
}

/// Reads a source to its end, in parts. Runs where blocking is allowed.
fn read_parts(mut source: impl Read, parts: &mpsc::Sender<std::io::Result<Vec<u8>>>) {
    loop {
        let mut part = Vec::with_capacity(PART);
        let read = source.by_ref().take(PART as u64).read_to_end(&mut part);
        let last = !matches!(read, Ok(count) if count > 0);
        let sent = match read {
            Ok(0) => return,
            Ok(_) => parts.blocking_send(Ok(part)),
            Err(error) => parts.blocking_send(Err(error)),
        };
        if last || sent.is_err() {
            return;
        }
    }
}

fn cut(status: &Status) -> Failure {
    let failure = Failure::from_status(status);
    if is_temporary(status) {
        failure.help("the copy was cut off and is not kept; take it again")
    } else {
        failure
    }
}

/// A reader of stdout that has seen enough has not got a copy.
fn unwritten(error: std::io::Error) -> Failure {
    Failure::new(exit::FAILED, "cannot write the copy").cause(error)
}
