//! A blob store in memory that can be told to fail or to wait, and counts what it was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use orch_proto::v1;
use orch_proto::v1::blob_service_server::BlobService;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// How it behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Well,
    /// Every upload fails.
    Refusing,
    /// Uploads wait.
    Waiting,
}

#[derive(Debug, Clone)]
pub(crate) struct Blobs {
    stored: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u8>>>>,
    /// Bytes of uploads that arrived.
    pub(crate) received: Arc<Mutex<u64>>,
    pub(crate) mood: Arc<watch::Sender<Mood>>,
}

impl Default for Blobs {
    fn default() -> Self {
        let mood = Arc::new(watch::channel(Mood::Well).0);
        Self { stored: Arc::default(), received: Arc::default(), mood }
    }
}

impl Blobs {
    pub(crate) fn put(&self, bytes: &[u8]) -> v1::BlobRef {
        let digest = Sha256::digest(bytes).to_vec();
        self.stored.lock().unwrap().insert(digest.clone(), bytes.to_vec());
        let location = format!("at:{}", hex::encode(&digest));
        v1::BlobRef { digest, size: bytes.len() as u64, location }
    }

    /// The bytes at a place that this store named.
    pub(crate) fn get(&self, blob: &v1::BlobRef) -> Option<Vec<u8>> {
        (blob.location == format!("at:{}", hex::encode(&blob.digest))).then_some(())?;
        self.stored.lock().unwrap().get(&blob.digest).cloned()
    }
}

#[tonic::async_trait]
impl BlobService for Blobs {
    type GetBlobStream = ReceiverStream<Result<v1::GetBlobResponse, Status>>;

    async fn find_blob(
        &self,
        request: Request<v1::FindBlobRequest>,
    ) -> Result<Response<v1::FindBlobResponse>, Status> {
        let found = self.stored.lock().unwrap().get(&request.into_inner().digest).cloned();
        Ok(Response::new(v1::FindBlobResponse { blob: found.map(|bytes| self.put(&bytes)), received: 0 }))
    }

    async fn put_blob(
        &self,
        request: Request<Streaming<v1::PutBlobRequest>>,
    ) -> Result<Response<v1::PutBlobResponse>, Status> {
        let mut mood = self.mood.subscribe();
        let mood = *mood.wait_for(|mood| *mood != Mood::Waiting).await.unwrap();
        if mood == Mood::Refusing {
            return Err(Status::unavailable("not now"));
        }
        let (mut chunks, mut bytes, mut digest) = (request.into_inner(), Vec::new(), Vec::new());
        while let Some(chunk) = chunks.message().await? {
            if !chunk.digest.is_empty() {
                digest = chunk.digest;
            }
            bytes.extend(chunk.data);
        }
        *self.received.lock().unwrap() += bytes.len() as u64;
        let blob = self.put(&bytes);
        if blob.digest != digest {
            return Err(Status::data_loss("another digest"));
        }
        Ok(Response::new(v1::PutBlobResponse { blob: Some(blob) }))
    }

    async fn get_blob(
        &self,
        request: Request<v1::GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let blob = request.into_inner().blob.unwrap_or_default();
        let bytes = self.get(&blob).ok_or_else(|| Status::not_found("no such bytes"))?;
        let (chunks, stream) = tokio::sync::mpsc::channel(bytes.len() / 1_000 + 1);
        for (number, data) in bytes.chunks(1_000).enumerate() {
            let chunk = v1::GetBlobResponse { offset: number as u64 * 1_000, data: data.to_vec() };
            chunks.try_send(Ok(chunk)).unwrap();
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
