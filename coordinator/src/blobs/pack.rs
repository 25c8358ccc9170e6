//! Packs: the payloads of one submit in one file, for the price of one sync.
//!
//! A pack is its payloads one after the other and nothing else; where each one lies stands in its location. Its name
//! follows from its content, so submitting the same thing twice makes one pack.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

use super::file::{Files, io_at};
use super::{BlobError, BlobLocation, Digest, Kept, Pack, PackId, Stored};
use crate::store::Tenant;

/// Enough to make one write of a few dozen prompts.
const BUFFER_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct PackWriter {
    files: Arc<Files>,
    tenant: Tenant,
    temp: BufWriter<NamedTempFile>,
    len: u64,
    payloads: Vec<Payload>,
    places: BTreeMap<Digest, usize>,
}

#[derive(Debug)]
struct Payload {
    digest: Digest,
    offset: u64,
    len: u64,
}

impl PackWriter {
    pub(super) fn begin(files: Arc<Files>, tenant: Tenant) -> Result<Self, BlobError> {
        let temp = BufWriter::with_capacity(BUFFER_BYTES, files.temp()?);
        Ok(Self { files, tenant, temp, len: 0, payloads: Vec::new(), places: BTreeMap::new() })
    }
}

impl Pack for PackWriter {
    fn add(&mut self, payload: &[u8]) -> Result<usize, BlobError> {
        let digest = Digest::of(payload);
        if let Some(place) = self.places.get(&digest) {
            return Ok(*place);
        }
        self.temp.write_all(payload).map_err(io_at("write", self.temp.get_ref().path()))?;
        let place = self.payloads.len();
        let len = payload.len() as u64;
        self.payloads.push(Payload { digest, offset: self.len, len });
        self.places.insert(digest, place);
        self.len += len;
        Ok(place)
    }

    fn finish(self: Box<Self>) -> Result<Vec<Stored>, BlobError> {
        let Self { files, tenant, temp, len, payloads, .. } = *self;
        if payloads.is_empty() {
            return Ok(Vec::new());
        }
        crate::failpoint::failpoint!("packs::before_finish");
        let pack = name(&payloads);
        let path = files.path(tenant, &Kept::Pack(pack));
        if !files.keep_existing(&path, len)? {
            let temp = temp.into_inner().map_err(|error| io_at("write", &path)(error.into_error()))?;
            files.publish(temp, &path)?;
        }
        let stored = payloads.into_iter().map(|Payload { digest, offset, len }| {
            let location = BlobLocation::Pack { pack, offset, len, digest };
            Stored { digest, len, location }
        });
        Ok(stored.collect())
    }
}

/// Follows from digests and lengths in order, which is to say from all bytes.
fn name(payloads: &[Payload]) -> PackId {
    let mut hasher = Sha256::new();
    for payload in payloads {
        hasher.update(payload.digest.0);
        hasher.update(payload.len.to_be_bytes());
    }
    let digest: [u8; 32] = hasher.finalize().into();
    PackId(digest.first_chunk().copied().unwrap_or_default())
}
