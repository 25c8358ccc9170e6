//! The fake's bytes: by digest, and cut in the middle as often as was asked for.

use orch_proto::v1::blob_service_server::BlobService;
use sha2::{Digest, Sha256};

use super::*;

/// Bytes of a part; small, so that a cut falls between two.
const PART: usize = 4;

impl Held {
    /// A task of a run hands over a file.
    pub(in super::super) fn hand_over(
        &mut self,
        run: &str,
        task: &str,
        path: &str,
        bytes: &[u8],
        published: &str,
    ) {
        let digest = Sha256::digest(bytes).to_vec();
        let blob = BlobRef { digest: digest.clone(), size: bytes.len() as u64, location: String::new() };
        self.blobs.insert(digest, bytes.to_vec());
        let artifact = Artifact { path: path.into(), blob: Some(blob), executable: false };
        let file =
            TaskArtifact { task_id: task.into(), artifact: Some(artifact), published: published.into() };
        self.artifacts.push((run.to_owned(), file));
        for (held, tasks) in &mut self.runs {
            for task in tasks.iter_mut().filter(|one| held.r#ref == run && one.task_id == task) {
                task.artifact_count += 1;
            }
        }
    }
}

#[tonic::async_trait]
impl BlobService for Fake {
    async fn put_blob(
        &self,
        _: Request<Streaming<PutBlobRequest>>,
    ) -> Result<Response<PutBlobResponse>, Status> {
        Err(Status::unimplemented("agents only"))
    }

    async fn find_blob(&self, _: Request<FindBlobRequest>) -> Result<Response<FindBlobResponse>, Status> {
        Err(Status::unimplemented("agents only"))
    }

    type GetBlobStream = Frames<GetBlobResponse>;

    async fn get_blob(
        &self,
        request: Request<GetBlobRequest>,
    ) -> Result<Response<Self::GetBlobStream>, Status> {
        let request = request.into_inner();
        let mut held = self.call("get_blob")?;
        held.read_from.push(request.offset);
        let digest = request.blob.unwrap_or_default().digest;
        let bytes = held.blobs.get(&digest).cloned().ok_or_else(|| Status::not_found("no such bytes"))?;
        let from = usize::try_from(request.offset).unwrap();
        let cut = held.cuts > 0;
        held.cuts = held.cuts.saturating_sub(1);
        let mut frames: Vec<Result<GetBlobResponse, Status>> = Vec::new();
        for (nth, part) in bytes[from..].chunks(PART).enumerate() {
            if cut && nth == 1 {
                frames.push(Err(Status::unavailable("the coordinator restarts")));
                break;
            }
            let offset = (from + nth * PART) as u64;
            frames.push(Ok(GetBlobResponse { offset, data: part.to_vec() }));
        }
        Ok(Response::new(Box::pin(iter(frames))))
    }
}
