//! The name under which bytes are found again, as text that others carry without reading it.
//!
//! ```text
//! b:<64 hex digits>                                    a blob, by its digest
//! p:<32 hex digits>:<offset>:<len>:<64 hex digits>     a stretch of a pack, with the digest of the payload
//! ```
//!
//! Each location has one spelling: lower-case digits, decimal numbers without sign or leading zeros. It comes back from
//! the wire, so parsing refuses everything else; what it may lead to is decided by the tenant, never by the text.

use std::fmt;
use std::str::FromStr;

/// SHA-256 of a payload.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// Name of a pack; follows from what is in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackId(pub [u8; 16]);

/// Where bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum BlobLocation {
    /// In a blob of their own.
    Blob(Digest),
    /// In a pack, with others.
    Pack {
        /// Which pack.
        pack: PackId,
        /// First byte in it.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// Of these bytes.
        digest: Digest,
    },
}

/// Why text is not a location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// It starts in no known way, or has too many or too few parts.
    #[error("a blob location is b:<digest> or p:<pack>:<offset>:<length>:<digest>")]
    Shape,
    /// A digest or pack id that is not lower-case hexadecimal of the right length.
    #[error("a digest in a blob location has 64 lower-case hexadecimal digits, a pack id 32")]
    Hex,
    /// A number that is not plain decimal, or too large.
    #[error("a number in a blob location is malformed")]
    Number,
}

impl BlobLocation {
    /// The digest of the bytes.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Blob(digest) | Self::Pack { digest, .. } => *digest,
        }
    }
}

impl fmt::Display for BlobLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "b:{digest}"),
            Self::Pack { pack, offset, len, digest } => write!(f, "p:{pack}:{offset}:{len}:{digest}"),
        }
    }
}

impl FromStr for BlobLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(LocationError::Shape);
        let location = match next()? {
            "b" => Self::Blob(Digest(unhex(next()?)?)),
            "p" => Self::Pack {
                pack: PackId(unhex(next()?)?),
                offset: number(next()?)?,
                len: number(next()?)?,
                digest: Digest(unhex(next()?)?),
            },
            _ => return Err(LocationError::Shape),
        };
        if parts.next().is_some() { Err(LocationError::Shape) } else { Ok(location) }
    }
}

impl FromStr for Digest {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        unhex(text).map(Self)
    }
}

impl FromStr for PackId {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, LocationError> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn unhex<const N: usize>(text: &str) -> Result<[u8; N], LocationError> {
    let mut bytes = [0; N];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    match hex::decode_to_slice(text, &mut bytes) {
        Ok(()) if lower => Ok(bytes),
        _ => Err(LocationError::Hex),
    }
}

fn number(text: &str) -> Result<u64, LocationError> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if plain { text.parse().map_err(|_| LocationError::Number) } else { Err(LocationError::Number) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn locations_have_the_documented_spelling() {
        let digest = Digest([0xAB; 32]);
        let blob = BlobLocation::Blob(digest);
        assert_eq!(blob.to_string(), format!("b:{}", "ab".repeat(32)));
        let pack = BlobLocation::Pack { pack: PackId([1; 16]), offset: 0, len: 42, digest };
        assert_eq!(pack.to_string(), format!("p:{}:0:42:{}", "01".repeat(16), "ab".repeat(32)));
    }

    #[test]
    fn any_other_spelling_is_refused() {
        let (digest, pack) = ("ab".repeat(32), "01".repeat(16));
        let check =
            |text: String, expected| assert_eq!(text.parse::<BlobLocation>(), Err(expected), "{text}");
        check(String::new(), LocationError::Shape);
        check(format!("x:{digest}"), LocationError::Shape);
        check("b".to_owned(), LocationError::Shape);
        check(format!("b:{digest}:"), LocationError::Shape);
        check(format!("b:{}", digest.to_uppercase()), LocationError::Hex);
        check(format!("b:{}", &digest[2..]), LocationError::Hex);
        check("b:../../etc/passwd".to_owned(), LocationError::Hex);
        check(format!("p:{pack}:0:1"), LocationError::Shape);
        check(format!("p:{digest}:0:1:{digest}"), LocationError::Hex);
        for number in ["", "+1", "-1", "01", "1 ", "0x1", "18446744073709551616"] {
            check(format!("p:{pack}:{number}:1:{digest}"), LocationError::Number);
            check(format!("p:{pack}:1:{number}:{digest}"), LocationError::Number);
        }
    }

    proptest! {
        #[test]
        fn a_location_comes_back_from_its_text(
            pack: Option<[u8; 16]>, offset: u64, len: u64, digest: [u8; 32],
        ) {
            let digest = Digest(digest);
            let location = match pack {
                Some(pack) => BlobLocation::Pack { pack: PackId(pack), offset, len, digest },
                None => BlobLocation::Blob(digest),
            };
            prop_assert_eq!(location.to_string().parse::<BlobLocation>(), Ok(location));
        }

        #[test]
        fn text_that_parses_is_the_one_spelling(text in "[bp]:[0-9a-f:]{0,120}") {
            if let Ok(location) = text.parse::<BlobLocation>() {
                prop_assert_eq!(location.to_string(), text);
            }
        }
    }
}
