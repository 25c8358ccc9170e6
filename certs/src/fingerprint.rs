//! The sha-256 of a certificate in DER, as people compare it.
//!
//! Knows how to compute and print it; refuses to judge a certificate.

use std::fmt;

use sha2::{Digest, Sha256};

/// Characters of the hexadecimal form in [`Fingerprint::short`]: 64 bits, enough to tell two authorities apart.
const SHORT_HEX: usize = 16;

/// The sha-256 of a certificate. Displays as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// `sha256:` and the first 16 hexadecimal digits, for messages. Not for pinning.
    #[must_use]
    pub fn short(&self) -> String {
        let mut hex = hex::encode(self.0);
        hex.truncate(SHORT_HEX);
        format!("sha256:{hex}")
    }

    /// The digest itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The fingerprint of a certificate in DER.
#[must_use]
pub fn fingerprint(certificate_der: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate_der).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_the_sha256_in_hex() {
        let print = fingerprint(b"abc");
        assert_eq!(
            print.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(print.short(), "sha256:ba7816bf8f01cfea");
    }
}
