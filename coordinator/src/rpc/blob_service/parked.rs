//! Uploads whose connection was cut, kept for a while so that a large one need not begin again.
//! Knows owners, lengths and ages; refuses to know what the bytes are. Nothing here is durable or acknowledged: what a
//! restart or the limit takes is sent again from the start.

use crate::blobs::{Digest, Upload};
use crate::store::Tenant;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An upload that got less far is not worth a place: it is over again within a second.
const LEAST_BYTES: u64 = 1 << 20;
/// Uploads kept: more than agents that lose their connection within a few minutes of each other while they send something
/// large. The one untouched longest makes room.
const MAX_PARKED: usize = 64;
/// Bytes of all of them on the disk together: a few of the largest.
const MAX_BYTES: u64 = 4 << 30;
/// How long one is kept: longer than an agent takes to come back.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// What names an upload: whose, of what digest and length.
pub(super) type UploadKey = (Tenant, Digest, u64);

/// The uploads.
#[derive(Debug, Default)]
pub(super) struct Parked {
    uploads: Mutex<BTreeMap<UploadKey, Kept>>,
}

#[derive(Debug)]
struct Kept {
    upload: Box<dyn Upload>,
    since: Instant,
}

impl Parked {
    /// Bytes of this upload that are here.
    pub(super) fn received(&self, key: &UploadKey, now: Instant) -> u64 {
        let uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads
            .get(key)
            .filter(|kept| now.duration_since(kept.since) < KEPT_FOR)
            .map_or(0, |kept| kept.upload.received())
    }

    /// Takes an upload out, to go on with it or to forget it.
    pub(super) fn take(&self, key: &UploadKey, now: Instant) -> Option<Box<dyn Upload>> {
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.remove(key).filter(|kept| now.duration_since(kept.since) < KEPT_FOR).map(|kept| kept.upload)
    }

    /// Keeps an upload, and returns those that must go for it: dropping one removes a file.
    pub(super) fn park(&self, key: UploadKey, upload: Box<dyn Upload>, now: Instant) -> Vec<Box<dyn Upload>> {
        if upload.received() < LEAST_BYTES {
            return vec![upload];
        }
        let mut uploads = self.uploads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut gone: Vec<Kept> = uploads
            .extract_if(.., |_, kept| now.duration_since(kept.since) >= KEPT_FOR)
            .map(|(_, kept)| kept)
            .collect();
        gone.extend(uploads.insert(key, Kept { upload, since: now }));
        let bytes = |uploads: &BTreeMap<UploadKey, Kept>| -> u64 {
            uploads.values().map(|kept| kept.upload.received()).sum()
        };
        while uploads.len() > MAX_PARKED || bytes(&uploads) > MAX_BYTES {
            let Some(oldest) = uploads.iter().min_by_key(|(_, kept)| kept.since).map(|(key, _)| *key) else {
                break;
            };
            gone.extend(uploads.remove(&oldest));
        }
        gone.into_iter().map(|kept| kept.upload).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::{Stored, UploadError};

    /// An upload of which only the length counts.
    #[derive(Debug)]
    struct OfLength(u64);

    impl Upload for OfLength {
        fn append(&mut self, _offset: u64, bytes: &[u8]) -> Result<u64, UploadError> {
            Ok(bytes.len() as u64)
        }

        fn received(&self) -> u64 {
            self.0
        }

        fn finish(self: Box<Self>, expected: &Digest) -> Result<Stored, UploadError> {
            Err(UploadError::Digest { expected: *expected, actual: Digest([0; 32]) })
        }
    }

    fn key(number: u8) -> UploadKey {
        (Tenant::DEFAULT, Digest([number; 32]), 1 << 30)
    }

    #[test]
    fn a_cut_upload_waits_for_its_sender_and_not_for_ever() {
        let (parked, now) = (Parked::default(), Instant::now());
        assert!(parked.park(key(1), Box::new(OfLength(2 << 20)), now).is_empty());
        assert_eq!(parked.received(&key(1), now), 2 << 20);
        assert_eq!(parked.received(&key(2), now), 0);
        assert_eq!(parked.take(&key(1), now).unwrap().received(), 2 << 20);
        assert!(parked.take(&key(1), now).is_none(), "it is taken");
        parked.park(key(1), Box::new(OfLength(2 << 20)), now);
        assert_eq!(parked.received(&key(1), now + KEPT_FOR), 0);
        assert_eq!(parked.park(key(2), Box::new(OfLength(2 << 20)), now + KEPT_FOR).len(), 1);
    }

    #[test]
    fn the_disk_is_not_filled_with_what_may_never_go_on() {
        let (parked, now) = (Parked::default(), Instant::now());
        assert_eq!(parked.park(key(0), Box::new(OfLength(LEAST_BYTES - 1)), now).len(), 1);
        for number in 0..4 {
            let at = now + Duration::from_secs(u64::from(number));
            assert!(parked.park(key(number), Box::new(OfLength(1 << 30)), at).is_empty());
        }
        assert_eq!(parked.park(key(9), Box::new(OfLength(1 << 30)), now + Duration::from_secs(9)).len(), 1);
        assert_eq!((parked.received(&key(0), now), parked.received(&key(1), now)), (0, 1 << 30));
    }
}
