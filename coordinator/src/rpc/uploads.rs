//! Submits too big for one message: begun, appended to, sealed.
//! Knows bytes, offsets and owners; refuses to know what a run may be. Nothing here is durable and nothing here was
//! acknowledged as a submit: an upload that a restart loses is simply begun again under the same request id.

use crate::rpc::status::{refuse, refuse_field};
use crate::submission::MAX_TASKS;
use orch_proto::codes::ErrorCode;
use orch_proto::parts::{MAX_SPEC_PARTS, MAX_SPEC_TASKS, MAX_SPEC_TEXTS, count, count_own, count_texts};
use orch_proto::v1;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tonic::Status;

/// Largest upload.
pub const MAX_UPLOAD_BYTES: u64 = 256 << 20;
/// Largest chunk.
pub const MAX_CHUNK_BYTES: usize = 512 << 10;
/// Bytes announced by all open uploads together: what the coordinator may be made to hold.
const MAX_OPEN_BYTES: u64 = 512 << 20;
/// Open uploads, however short.
const MAX_OPEN: usize = 1_024;
/// An upload that hears nothing for this long is dropped.
const IDLE_LIMIT: Duration = Duration::from_secs(600);

/// The open uploads.
#[derive(Debug, Default)]
pub struct Uploads {
    open: Mutex<BTreeMap<String, Upload>>,
}

/// What an upload was begun with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadHeader {
    /// Identity that began it; only it may go on.
    pub owner: String,
    /// Idempotency key of the submit.
    pub request_id: String,
    /// Announced length.
    pub size: u64,
    /// Announced SHA-256.
    pub digest: Vec<u8>,
    /// Only check.
    pub validate_only: bool,
}

#[derive(Debug)]
struct Upload {
    header: UploadHeader,
    bytes: Vec<u8>,
    touched: Instant,
}

impl Uploads {
    /// Opens an upload, or finds the one that the same owner opened with the same header. Returns id and offset.
    ///
    /// # Errors
    /// `TOO_LARGE`, `DIGEST_MISMATCH` for a digest that is none, `OVERLOADED` when too much is open.
    pub fn begin(
        &self,
        header: UploadHeader,
        fresh_id: String,
        now: Instant,
    ) -> Result<(String, u64), Status> {
        if header.size == 0 || header.size > MAX_UPLOAD_BYTES {
            let message = format!("{} bytes; an upload has 1 to {MAX_UPLOAD_BYTES}", header.size);
            return Err(refuse(ErrorCode::TooLarge, message));
        }
        if header.digest.len() != 32 {
            return Err(refuse(ErrorCode::DigestMismatch, "the digest is not a SHA-256"));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, upload| now.duration_since(upload.touched) < IDLE_LIMIT);
        if let Some((id, upload)) = open.iter_mut().find(|(_, upload)| upload.header == header) {
            upload.touched = now;
            return Ok((id.clone(), upload.bytes.len() as u64));
        }
        let announced: u64 = open.values().map(|upload| upload.header.size).sum();
        if announced + header.size > MAX_OPEN_BYTES || open.len() == MAX_OPEN {
            let message = format!("{} uploads of {announced} bytes are open already", open.len());
            return Err(refuse(ErrorCode::Overloaded, message));
        }
        let mut bytes = Vec::new();
        // At once, so that no append has to move what is there. Memory is taken only as bytes arrive.
        let reserved = usize::try_from(header.size).ok().and_then(|size| bytes.try_reserve_exact(size).ok());
        reserved.ok_or_else(|| refuse(ErrorCode::Overloaded, "there is no memory for the upload"))?;
        open.insert(fresh_id.clone(), Upload { header, bytes, touched: now });
        Ok((fresh_id, 0))
    }

    /// Adds bytes; repeats are cut off, gaps refused. Returns the new offset.
    ///
    /// # Errors
    /// `UPLOAD_NOT_FOUND`, `UPLOAD_GAP`, `TOO_LARGE`.
    pub fn append(
        &self,
        owner: &str,
        id: &str,
        offset: u64,
        data: &[u8],
        now: Instant,
    ) -> Result<u64, Status> {
        if data.len() > MAX_CHUNK_BYTES {
            return Err(refuse(ErrorCode::TooLarge, format!("a chunk has at most {MAX_CHUNK_BYTES} bytes")));
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = open.get_mut(id).filter(|upload| upload.header.owner == owner).ok_or_else(unknown)?;
        let received = upload.bytes.len() as u64;
        let Some(known) = received.checked_sub(offset) else {
            return Err(refuse(ErrorCode::UploadGap, format!("go on at offset {received}, not {offset}")));
        };
        let fresh = data.get(usize::try_from(known).unwrap_or(usize::MAX)..).unwrap_or_default();
        if received + fresh.len() as u64 > upload.header.size {
            return Err(refuse(ErrorCode::TooLarge, format!("{} bytes were announced", upload.header.size)));
        }
        upload.bytes.extend_from_slice(fresh);
        upload.touched = now;
        Ok(upload.bytes.len() as u64)
    }

    /// Ends an upload and returns what arrived. It stays open when it is not complete.
    ///
    /// # Errors
    /// `UPLOAD_NOT_FOUND`, `UPLOAD_GAP`.
    pub fn seal(&self, owner: &str, id: &str) -> Result<Sealed, Status> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let upload = open.get(id).filter(|upload| upload.header.owner == owner).ok_or_else(unknown)?;
        let received = upload.bytes.len() as u64;
        if received != upload.header.size {
            let message = format!("{received} of {} bytes are here; go on at {received}", upload.header.size);
            return Err(refuse(ErrorCode::UploadGap, message));
        }
        let Upload { header, bytes, .. } = open.remove(id).ok_or_else(unknown)?;
        Ok(Sealed { header, bytes })
    }
}

/// A complete upload.
#[derive(Debug)]
pub struct Sealed {
    /// What it was begun with.
    pub header: UploadHeader,
    bytes: Vec<u8>,
}

impl Sealed {
    /// The spec in it. Takes as long as its bytes are many: not for an async thread.
    ///
    /// # Errors
    /// `DIGEST_MISMATCH`, `TOO_LARGE`, `INVALID_FIELD`.
    pub fn open(self) -> Result<(UploadHeader, v1::RunSpec), Status> {
        if Sha256::digest(&self.bytes).as_slice() != self.header.digest {
            return Err(refuse(ErrorCode::DigestMismatch, "the bytes do not have the announced digest"));
        }
        self.check_parts()?;
        let spec = v1::RunSpec::decode(self.bytes.as_slice());
        let spec = spec.map_err(|error| refuse_field(ErrorCode::InvalidField, "spec", error.to_string()))?;
        Ok((self.header, spec))
    }

    /// Refuses what would take far more memory than it has bytes, before anything is made of it.
    fn check_parts(&self) -> Result<(), Status> {
        const SPEC: &str = "orch.v1.RunSpec";
        if count_own(SPEC, &self.bytes, MAX_SPEC_TASKS) > MAX_SPEC_TASKS {
            return Err(refuse_field(
                ErrorCode::TooManyTasks,
                "spec.tasks",
                format!("more than {MAX_TASKS} tasks"),
            ));
        }
        let parts = count(SPEC, &self.bytes, MAX_SPEC_PARTS) > MAX_SPEC_PARTS;
        if parts || count_texts(SPEC, &self.bytes, MAX_SPEC_TEXTS) > MAX_SPEC_TEXTS {
            let message =
                format!("more than {MAX_SPEC_PARTS} parts of tasks, or {MAX_SPEC_TEXTS} texts in them");
            return Err(refuse_field(ErrorCode::TooLarge, "spec", message));
        }
        Ok(())
    }
}

fn unknown() -> Status {
    refuse(ErrorCode::UploadNotFound, "there is no such upload of yours")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(bytes: &[u8]) -> UploadHeader {
        UploadHeader {
            owner: "client/default/ana".into(),
            request_id: "k".into(),
            size: bytes.len() as u64,
            digest: Sha256::digest(bytes).to_vec(),
            validate_only: false,
        }
    }

    const OWNER: &str = "client/default/ana";

    #[test]
    fn chunks_add_up_and_repeats_are_harmless() {
        let (uploads, now) = (Uploads::default(), Instant::now());
        let (id, offset) = uploads.begin(header(b"hello world"), "u1".into(), now).unwrap();
        assert_eq!(offset, 0);
        assert_eq!(uploads.append(OWNER, &id, 0, b"hello", now).unwrap(), 5);
        assert_eq!(uploads.append(OWNER, &id, 3, b"lo wo", now).unwrap(), 8);
        assert_eq!(uploads.append(OWNER, &id, 0, b"hello", now).unwrap(), 8);
        let again = uploads.begin(header(b"hello world"), "u2".into(), now).unwrap();
        assert_eq!(again, ("u1".to_owned(), 8), "beginning again goes on");
        assert_eq!(uploads.append(OWNER, &id, 8, b"rld", now).unwrap(), 11);
        assert_eq!(uploads.seal(OWNER, &id).unwrap().bytes, b"hello world");
        assert_eq!(uploads.seal(OWNER, &id).unwrap_err().code(), tonic::Code::NotFound);
    }

    #[test]
    fn gaps_excess_strangers_and_wrong_digests_are_refused() {
        let (uploads, now) = (Uploads::default(), Instant::now());
        let (id, _) = uploads.begin(header(b"abc"), "u1".into(), now).unwrap();
        assert_eq!(
            uploads.append(OWNER, &id, 1, b"b", now).unwrap_err().code(),
            tonic::Code::FailedPrecondition
        );
        assert_eq!(
            uploads.append(OWNER, &id, 0, b"abcd", now).unwrap_err().code(),
            tonic::Code::InvalidArgument
        );
        assert_eq!(
            uploads.append("client/default/bob", &id, 0, b"a", now).unwrap_err().code(),
            tonic::Code::NotFound
        );
        assert_eq!(uploads.seal(OWNER, &id).unwrap_err().code(), tonic::Code::FailedPrecondition);
        uploads.append(OWNER, &id, 0, b"abX", now).unwrap();
        let status = uploads.seal(OWNER, &id).unwrap().open().unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains("digest"), "{status:?}");
    }

    #[test]
    fn a_sealed_upload_is_a_spec_or_a_refusal_that_names_the_field() {
        let spec = v1::RunSpec { name: "big".into(), ..Default::default() };
        let now = Instant::now();
        let opened = |bytes: &[u8]| {
            let uploads = Uploads::default();
            let (id, _) = uploads.begin(header(bytes), "u".into(), now).unwrap();
            for (chunk, part) in (0_u64..).zip(bytes.chunks(MAX_CHUNK_BYTES)) {
                uploads.append(OWNER, &id, chunk * MAX_CHUNK_BYTES as u64, part, now).unwrap();
            }
            uploads.seal(OWNER, &id).unwrap().open()
        };
        assert_eq!(opened(&spec.encode_to_vec()).unwrap().1, spec);
        let status = opened(&[0xFF; 8]).unwrap_err();
        assert!(status.message().starts_with("spec: "), "{status:?}");
        // An empty task in two bytes, and a task of nothing but empty dependencies in two bytes each.
        let status = opened(&[0x12, 0].repeat(MAX_SPEC_TASKS + 1)).unwrap_err();
        assert!(status.message().contains("more than 100000 tasks"), "{status:?}");
        let task =
            v1::TaskSpec { dependencies: vec![String::new(); MAX_SPEC_TEXTS + 1], ..Default::default() };
        let spec = v1::RunSpec { tasks: vec![task], ..Default::default() };
        let status = opened(&spec.encode_to_vec()).unwrap_err();
        assert!(status.message().contains("4000000 texts"), "{status:?}");
    }

    #[test]
    fn only_so_many_uploads_are_open_however_short() {
        let (uploads, now) = (Uploads::default(), Instant::now());
        let small = |at: usize| UploadHeader { request_id: at.to_string(), ..header(b"x") };
        for at in 0..MAX_OPEN {
            uploads.begin(small(at), format!("u{at}"), now).unwrap();
        }
        let status = uploads.begin(small(MAX_OPEN), "one-more".into(), now).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }

    #[test]
    fn idle_uploads_are_dropped_and_the_total_is_bounded() {
        let (uploads, now) = (Uploads::default(), Instant::now());
        let big = |request_id: &str| UploadHeader {
            size: MAX_UPLOAD_BYTES,
            request_id: request_id.into(),
            ..header(b"")
        };
        uploads.begin(big("1"), "u1".into(), now).unwrap();
        uploads.begin(big("2"), "u2".into(), now).unwrap();
        let status = uploads.begin(big("3"), "u3".into(), now).unwrap_err();
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let later = now + IDLE_LIMIT;
        uploads.begin(big("3"), "u3".into(), later).unwrap();
        assert_eq!(uploads.append(OWNER, "u1", 0, b"", later).unwrap_err().code(), tonic::Code::NotFound);
    }
}
