//! Reading a transcript from the coordinator, from an offset on, over cuts and restarts.
//! Knows bytes and offsets; refuses to know what the lines say.

use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use orch_proto::v1::{ReadTranscriptRequest, ReadTranscriptResponse};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{Client, policy};
use crate::failure::Outcome;
use crate::retry::{self, FullJitter, GaveUp};

/// A transcript being read.
pub(crate) struct Transcript {
    client: Client,
    request: ReadTranscriptRequest,
    stream: Option<Streaming<ReadTranscriptResponse>>,
    policy: FullJitter<rand::rngs::StdRng>,
    outage: Option<(Instant, u32)>,
}

impl Client {
    /// Reads the transcript of an attempt; 0 means the latest.
    pub(crate) fn transcript(&self, task: &str, attempt: u32, follow: bool) -> Transcript {
        Transcript {
            client: self.clone(),
            request: ReadTranscriptRequest { r#ref: task.to_owned(), attempt, offset: 0, follow },
            stream: None,
            policy: policy(retry::CALL),
            outage: None,
        }
    }
}

impl Transcript {
    /// The next bytes; `None` at the end, which for a followed one is the end of the attempt.
    pub(crate) async fn next(&mut self) -> Outcome<Option<Vec<u8>>> {
        loop {
            let status = match self.read().await {
                Ok(Some(part)) => {
                    self.request.offset = part.offset + part.data.len() as u64;
                    // "The latest" must not become another one in the middle.
                    self.request.attempt = part.attempt;
                    self.policy = policy(retry::FOLLOW);
                    self.outage = None;
                    return Ok(Some(part.data));
                }
                Ok(None) => return Ok(None),
                Err(status) => status,
            };
            self.stream = None;
            let (since, tries) = self.outage.get_or_insert_with(|| (Instant::now(), 0));
            *tries += 1;
            let Some(wait) = retry::delay(&mut self.policy, &status) else {
                let gave_up = GaveUp { status, tries: *tries, elapsed: since.elapsed() };
                return Err(self.client.gave_up(&gave_up));
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn read(&mut self) -> Result<Option<ReadTranscriptResponse>, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let mut service = TranscriptServiceClient::new(self.client.channel.clone());
                self.stream.insert(service.read_transcript(self.request.clone()).await?.into_inner())
            }
        };
        stream.message().await
    }
}
