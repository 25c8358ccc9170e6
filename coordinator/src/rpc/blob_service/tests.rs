//! Uploads: refused before they cost anything, acknowledged when durable, gone on with after a cut.

use super::*;
use crate::engine::tests::support::Bench;
use sha2::{Digest as _, Sha256};
use tonic_types::StatusExt as _;

const T: Tenant = Tenant::DEFAULT;

struct Service {
    blobber: Blobber,
    bench: Bench,
}

async fn service() -> Service {
    let bench = Bench::start().await;
    let blobber = Blobber::new(bench.blobs.blobs.clone(), bench.handle.clone(), TaskTracker::new());
    Service { blobber, bench }
}

/// The first message of an upload of `bytes`.
fn first(bytes: &[u8], offset: usize) -> PutBlobRequest {
    PutBlobRequest {
        digest: Sha256::digest(bytes).to_vec(),
        size: bytes.len() as u64,
        offset: offset as u64,
        ..PutBlobRequest::default()
    }
}

/// What follows, in chunks, from `offset` up to below `end`.
fn rest(bytes: &[u8], offset: usize, end: usize) -> Vec<Result<PutBlobRequest, Status>> {
    bytes[offset..end]
        .chunks(256 << 10)
        .map(|data| Ok(PutBlobRequest { data: data.to_vec(), ..PutBlobRequest::default() }))
        .collect()
}

impl Service {
    async fn put(&self, items: Vec<Result<PutBlobRequest, Status>>) -> Result<BlobRef, Status> {
        self.blobber.receive(T, tokio_stream::iter(items)).await
    }

    fn read(&self, blob: &BlobRef) -> Vec<u8> {
        self.bench.blobs.blobs.read(T, &blob.location.parse().unwrap(), 1 << 30).unwrap()
    }
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn a_file_beyond_the_limit_is_refused_by_its_first_message() {
    let service = service().await;
    let header = PutBlobRequest { size: 1 << 40, ..first(b"x", 0) };
    let never = tokio_stream::iter([Ok(header)]).chain(tokio_stream::pending());
    let status = service.blobber.receive(T, never).await.unwrap_err();
    assert_eq!(reason(&status), "TOO_LARGE");
    assert!(status.message().contains("1099511627776 bytes"), "{status:?}");
}

#[tokio::test]
async fn what_is_stored_is_answered_without_the_rest() {
    let service = service().await;
    let bytes = vec![7; 3 << 20];
    let mut items = vec![Ok(first(&bytes, 0))];
    items.extend(rest(&bytes, 0, bytes.len()));
    let stored = service.put(items).await.unwrap();
    assert_eq!(service.read(&stored), bytes);
    let never = tokio_stream::iter([Ok(first(&bytes, 0))]).chain(tokio_stream::pending());
    assert_eq!(service.blobber.receive(T, never).await.unwrap(), stored);
    let theirs = tokio_stream::iter([Ok(first(&bytes, 0))]);
    let status = service.blobber.receive(Tenant::new(2), theirs).await.unwrap_err();
    assert_eq!(reason(&status), "DIGEST_MISMATCH", "another tenant has to send them");
}

#[tokio::test]
async fn an_upload_that_was_cut_goes_on_where_it_was() {
    let service = service().await;
    let bytes: Vec<u8> = (0..3 << 20).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let key = upload_key(T, &Sha256::digest(&bytes), bytes.len() as u64).unwrap();
    let cut = 2 << 20;
    let mut items = vec![Ok(first(&bytes, 0))];
    items.extend(rest(&bytes, 0, cut));
    items.push(Err(Status::unavailable("the connection was cut")));
    let status = service.put(items).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    let received = usize::try_from(service.blobber.parked.received(&key, Instant::now())).unwrap();
    assert_eq!(received, cut);
    // The sender knows of less than arrived: the repeated bytes are passed over.
    let from = received - 1_000;
    let mut items = vec![Ok(first(&bytes, from))];
    items.extend(rest(&bytes, from, bytes.len()));
    let stored = service.put(items).await.unwrap();
    assert_eq!(service.read(&stored), bytes);
    assert_eq!(service.blobber.parked.received(&key, Instant::now()), 0);
    let unknown = vec![Ok(first(b"never begun", 5))];
    assert_eq!(reason(&service.put(unknown).await.unwrap_err()), "UPLOAD_GAP");
}

#[tokio::test]
async fn a_full_disk_takes_results_and_no_files() {
    let service = service().await;
    service.bench.handle.set_disk_low(true);
    let file = PutBlobRequest { artifact: true, ..first(b"a file", 0) };
    assert_eq!(reason(&service.put(vec![Ok(file)]).await.unwrap_err()), "DISK_LOW");
    let large = PutBlobRequest { size: MAX_WHEN_LOW + 1, ..first(b"x", 0) };
    assert_eq!(reason(&service.put(vec![Ok(large)]).await.unwrap_err()), "DISK_LOW");
    let answer = PutBlobRequest { data: b"an answer".to_vec(), ..first(b"an answer", 0) };
    service.put(vec![Ok(answer)]).await.unwrap();
}

#[tokio::test]
async fn other_bytes_than_announced_are_refused_and_leave_nothing() {
    let service = service().await;
    let lie = PutBlobRequest { data: b"other".to_vec(), ..first(b"these", 0) };
    assert_eq!(reason(&service.put(vec![Ok(lie)]).await.unwrap_err()), "DIGEST_MISMATCH");
    let more = PutBlobRequest { data: b"these and more".to_vec(), ..first(b"these", 0) };
    assert_eq!(reason(&service.put(vec![Ok(more)]).await.unwrap_err()), "TOO_LARGE");
    let found = service.blobber.find(upload_key(T, &Sha256::digest(b"these"), 5).unwrap()).await;
    assert_eq!(found.unwrap(), None);
}

#[tokio::test]
async fn over_the_wire_bytes_that_are_stored_are_answered_while_their_sender_still_sends() {
    use crate::rpc::auth::DEFAULT_TENANT;
    use orch_proto::v1::blob_service_client::BlobServiceClient;
    use orch_proto::v1::blob_service_server::BlobServiceServer;
    let service = service().await;
    let identity =
        orch_certs::Identity::new("orch.local", orch_certs::Role::Agent, "default", "box-1").unwrap();
    let caller = Caller { identity, tenant: DEFAULT_TENANT };
    let blobs =
        BlobServiceServer::with_interceptor(service.blobber.clone(), move |mut request: Request<()>| {
            request.extensions_mut().insert(caller.clone());
            Ok(request)
        });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let mut serving = tokio::task::JoinSet::new();
    serving.spawn(tonic::transport::Server::builder().add_service(blobs).serve_with_incoming(incoming));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = BlobServiceClient::new(endpoint.connect().await.unwrap());

    let bytes = vec![3; 6 << 20];
    let find = FindBlobRequest { digest: Sha256::digest(&bytes).to_vec(), size: bytes.len() as u64 };
    assert_eq!(client.find_blob(find.clone()).await.unwrap().into_inner(), FindBlobResponse::default());
    let mut items = vec![first(&bytes, 0)];
    items.extend(rest(&bytes, 0, bytes.len()).into_iter().map(Result::unwrap));
    let stored = client.put_blob(tokio_stream::iter(items.clone())).await.unwrap().into_inner().blob;
    for _ in 0..3 {
        let again = client.put_blob(tokio_stream::iter(items.clone())).await.unwrap().into_inner().blob;
        assert_eq!(again, stored);
    }
    let never = tokio_stream::iter([first(&bytes, 0)]).chain(tokio_stream::pending());
    assert_eq!(client.put_blob(never).await.unwrap().into_inner().blob, stored);
    assert_eq!(client.find_blob(find).await.unwrap().into_inner().blob, stored);
    let get = GetBlobRequest { blob: stored, offset: bytes.len() as u64 - 3 };
    let chunk = client.get_blob(get).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert_eq!(chunk.data, [3, 3, 3]);
}
