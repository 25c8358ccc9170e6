//! What all records of a store add up to, so that a record that vanished is missed.
//!
//! A checksum finds a record that was changed. It cannot find one that is gone, or an older one in its place, and the
//! storage engine's recovery makes exactly that out of some damage: it takes a log message it cannot read for the end
//! of what is worth reading. So every commit carries forward how many records there are and the sum of their
//! checksums, in the store's own record; loading adds up again and compares.
//!
//! A log that lost its end takes the store's own record back with it. Against that the number of the last commit is
//! kept beside the engine as well, see [`super::sled`].

use super::key::Key;

/// Running totals over all records but the store's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Tally {
    /// Number of records.
    pub(super) records: u64,
    /// Bytes of their keys and framed values.
    pub(super) bytes: u64,
    /// Sum of their marks, modulo 2^64.
    pub(super) sum: u64,
}

/// One record's share of a [`Tally`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Share {
    bytes: u64,
    mark: u64,
}

impl Share {
    /// The share of a framed record.
    pub(super) fn of(key: &Key, framed: &[u8]) -> Self {
        // The frame ends with a checksum of key and content.
        let crc = framed.last_chunk().map_or(0, |crc| u32::from_be_bytes(*crc));
        let bytes = (key.as_bytes().len() + framed.len()) as u64;
        Self { bytes, mark: mix(u64::from(crc) << 32 | (bytes & 0xFFFF_FFFF)) }
    }
}

impl Tally {
    /// Counts a record in.
    pub(super) fn add(&mut self, share: Share) {
        self.records += 1;
        self.bytes += share.bytes;
        self.sum = self.sum.wrapping_add(share.mark);
    }

    /// Counts a record out that was counted in.
    pub(super) fn remove(&mut self, share: Share) {
        self.records = self.records.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(share.bytes);
        self.sum = self.sum.wrapping_sub(share.mark);
    }
}

/// The finaliser of splitmix64: spreads a checksum over 64 bits, so that sums of different sets differ.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Tenant, record};

    fn share(run: u64, value: &[u8]) -> Share {
        let key = Key::run(Tenant::DEFAULT, run);
        Share::of(&key, &record::encode(&key, value))
    }

    #[test]
    fn the_order_of_records_does_not_matter_and_what_goes_in_comes_out() {
        let (mut one, mut other) = (Tally::default(), Tally::default());
        for run in 0..100 {
            one.add(share(run, b"value"));
            other.add(share(99 - run, b"value"));
        }
        assert_eq!(one, other);
        for run in 0..100 {
            one.remove(share(run, b"value"));
        }
        assert_eq!(one, Tally::default());
    }

    #[test]
    fn a_lost_an_older_and_a_swapped_record_each_show() {
        let sum_of = |records: &[(u64, &[u8])]| {
            let mut tally = Tally::default();
            records.iter().for_each(|(run, value)| tally.add(share(*run, value)));
            tally.sum
        };
        let whole = sum_of(&[(1, b"a"), (2, b"b")]);
        for other in [&[(1, &b"a"[..])][..], &[(1, b"a"), (2, b"c")], &[(1, b"b"), (2, b"a")], &[]] {
            assert_ne!(sum_of(other), whole);
        }
    }
}
