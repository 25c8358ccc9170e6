//! What the fake keeps: a store of figures, and copies that are a first line, some bytes and an end.

use futures_util::stream::iter;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::*;
use tonic::Status;

use super::Frames;
use super::admin::refused;

/// First line of an archive.
pub(in super::super) const ARCHIVE: &[u8] = b"{\"format\":\"orch-backup\",\"cluster\":\"9f3c2a71\"}\n";
/// First line of an export.
const EXPORT: &[u8] = b"{\"format\":\"orch-store-export\",\"schema\":2,\"epoch\":3}\n";
/// Last word of either.
const END: &[u8] = b"\"end\"\n";

/// The store.
pub(in super::super) struct Kept {
    pub(in super::super) now: Storage,
    /// The next copy is cut in the middle.
    pub(in super::super) cut: bool,
    /// The next copy is given back, and nobody hears of it.
    pub(in super::super) answers_lost: bool,
    pub(in super::super) restored: Vec<RestoreHeader>,
}

impl Default for Kept {
    fn default() -> Self {
        let now = Storage {
            schema: 3,
            cluster_id: "9f3c2a7141d84e6c8a0b5d2f7e11c3aa".into(),
            epoch: 3,
            records: 12_345,
            live_bytes: 34 << 20,
            store_bytes: 120 << 20,
            blob_bytes: 1_288_490_189,
            transcript_bytes: 340 << 20,
            disk_free_bytes: 12 << 30,
            disk_bytes: 40 << 30,
            commits: 4_711,
            ..Storage::default()
        };
        Self { now, cut: false, answers_lost: false, restored: Vec::new() }
    }
}

impl Kept {
    pub(super) fn copy(&mut self, form: BackupForm) -> Frames<BackupResponse> {
        let bytes = match form {
            BackupForm::Archive => [ARCHIVE, &[7; 3 << 10], END].concat(),
            BackupForm::Records => [EXPORT, b"{\"key\":\"00\",\"value\":\"ff\"}\n", END].concat(),
            BackupForm::Unspecified => panic!("a form is asked for"),
        };
        let parts: Vec<_> =
            bytes.chunks(1 << 10).map(|part| Ok(BackupResponse { data: part.to_vec() })).collect();
        if std::mem::take(&mut self.cut) {
            let cut = Err(Status::unavailable("the coordinator restarts"));
            return Box::pin(iter(parts.into_iter().take(1).chain([cut])));
        }
        Box::pin(iter(parts))
    }

    pub(super) fn take(&mut self, header: &RestoreHeader, bytes: Vec<u8>) -> Result<RestoreResponse, Status> {
        if !bytes.ends_with(END) {
            let message = "the copy ends in the middle of a record".to_owned();
            return Err(refused(ErrorCode::CopyDamaged, message));
        }
        let created = Some(prost_types::Timestamp { seconds: 1_795_200_000, nanos: 0 });
        let found = RestoreResponse {
            created,
            records: 12_001,
            blobs: 210,
            transcripts: 87,
            epoch: 2,
            ..RestoreResponse::default()
        };
        if header.validate_only {
            return Ok(found);
        }
        self.restored.push(header.clone());
        self.anew("restore");
        self.now.records = found.records;
        Ok(RestoreResponse { aside: self.now.aside.last().cloned().unwrap(), ..found })
    }

    pub(super) fn compact(&mut self) -> Storage {
        let before = self.now.clone();
        self.anew("compact");
        self.now.store_bytes = 36 << 20;
        before
    }

    fn anew(&mut self, what: &str) {
        self.now.epoch += 1;
        self.now.aside.push(format!("aside/{what}-20261120T213000Z"));
    }
}
