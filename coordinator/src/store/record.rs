//! The frame around every stored value, and the refusal of anything that is not one.
//!
//! | Field | Bytes | |
//! |---|---|---|
//! | magic | 2 | `0x6F72`, "or" |
//! | schema | 2 | of the payload; a newer one is refused |
//! | type | 1 | the [`super::Kind`] of the key |
//! | length | 4 | of the payload |
//! | payload | length | |
//! | crc32c | 4 | over the key, then all of the above |
//!
//! Integers are big-endian. The checksum starts with the key, so that a record under a key it was not written for is
//! found out too. The frame itself stays the same in every schema: what it refuses as newer is provably whole.
//! What a payload means is not known here.

use super::key::Key;

/// The schema this binary writes, and the newest it reads. What changed with each is told in [`super::migrate`].
pub const SCHEMA: u16 = 2;

const MAGIC: u16 = 0x6F72;
const HEAD_BYTES: usize = 9;
const CRC_BYTES: usize = 4;

/// What the frame adds to a payload, in bytes.
pub(super) const FRAME_BYTES: usize = HEAD_BYTES + CRC_BYTES;

/// Why a stored value is not a record of this binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Too short for a frame, or longer or shorter than its own length field says.
    #[error("the record is cut short or has bytes behind its end")]
    Length,
    /// It does not start as a record does.
    #[error("the record does not start with the magic number")]
    Magic,
    /// Damaged, or moved from another key.
    #[error("the checksum does not match: the record is damaged")]
    Checksum,
    /// Written by a newer version.
    #[error("the record has schema {found}, this version knows up to {SCHEMA}; run a newer orchd")]
    NewerSchema {
        /// The schema in the frame.
        found: u16,
    },
    /// No version ever wrote this schema.
    #[error("the record has schema 0, which does not exist")]
    NoSchema,
    /// Whole, but of another type than its key.
    #[error("the record has type {found:#04x}, its key says {expected:#04x}")]
    Type {
        /// The type in the frame.
        found: u8,
        /// The kind in the key.
        expected: u8,
    },
}

/// Frames `payload` for `key`.
pub(super) fn encode(key: &Key, payload: &[u8]) -> Vec<u8> {
    encode_as(SCHEMA, key, payload)
}

/// Frames `payload` for `key` as a version with that schema would.
pub(super) fn encode_as(schema: u16, key: &Key, payload: &[u8]) -> Vec<u8> {
    // The cap on values is far below u32::MAX; a payload that long is refused when the batch is checked.
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(FRAME_BYTES + payload.len());
    bytes.extend_from_slice(&MAGIC.to_be_bytes());
    bytes.extend_from_slice(&schema.to_be_bytes());
    bytes.push(key.kind_byte());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(payload);
    let crc = checksum(key, &bytes);
    bytes.extend_from_slice(&crc.to_be_bytes());
    bytes
}

/// The payload of the record stored under `key`.
///
/// # Errors
/// A [`RecordError`] unless the record is whole, was written for this key and has a schema this binary knows.
pub(super) fn decode<'a>(key: &Key, bytes: &'a [u8]) -> Result<&'a [u8], RecordError> {
    let (framed, crc) = bytes.split_last_chunk::<CRC_BYTES>().ok_or(RecordError::Length)?;
    let (head, payload) = framed.split_first_chunk::<HEAD_BYTES>().ok_or(RecordError::Length)?;
    let [m0, m1, s0, s1, found, length @ ..] = *head;
    if u16::from_be_bytes([m0, m1]) != MAGIC {
        return Err(RecordError::Magic);
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(payload.len()) {
        return Err(RecordError::Length);
    }
    if checksum(key, framed) != u32::from_be_bytes(*crc) {
        return Err(RecordError::Checksum);
    }
    match u16::from_be_bytes([s0, s1]) {
        0 => return Err(RecordError::NoSchema),
        newer if newer > SCHEMA => return Err(RecordError::NewerSchema { found: newer }),
        _ => {}
    }
    let expected = key.kind_byte();
    if found != expected {
        return Err(RecordError::Type { found, expected });
    }
    Ok(payload)
}

fn checksum(key: &Key, framed: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), framed)
}

/// A door for the fuzz targets: frames a payload, and opens what may be such a frame.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    use super::{Key, RecordError};

    /// [`super::encode`].
    #[must_use]
    pub fn framed(key: &Key, payload: &[u8]) -> Vec<u8> {
        super::encode(key, payload)
    }

    /// [`super::decode`].
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn opened<'a>(key: &Key, bytes: &'a [u8]) -> Result<&'a [u8], RecordError> {
        super::decode(key, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Tenant;

    fn key() -> Key {
        Key::task(Tenant::DEFAULT, 1, 2)
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        for payload in [&b""[..], b"x", &[0xAB; 4096]] {
            assert_eq!(decode(&key(), &encode(&key(), payload)), Ok(payload));
        }
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let whole = encode(&key(), b"payload");
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&key(), &damaged).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn any_cut_is_found() {
        let whole = encode(&key(), b"payload");
        for len in 0..whole.len() {
            assert!(decode(&key(), &whole[..len]).is_err(), "length {len}");
        }
        let mut longer = whole;
        longer.push(0);
        assert_eq!(decode(&key(), &longer), Err(RecordError::Length));
    }

    #[test]
    fn a_record_under_another_key_is_found() {
        let moved = encode(&key(), b"payload");
        let other = Key::task(Tenant::DEFAULT, 1, 3);
        assert_eq!(decode(&other, &moved), Err(RecordError::Checksum));
    }

    #[test]
    fn a_newer_schema_is_refused_by_name() {
        let newer = encode_as(SCHEMA + 1, &key(), b"payload");
        assert_eq!(decode(&key(), &newer), Err(RecordError::NewerSchema { found: SCHEMA + 1 }));
        assert_eq!(decode(&key(), &encode_as(0, &key(), b"")), Err(RecordError::NoSchema));
    }
}
