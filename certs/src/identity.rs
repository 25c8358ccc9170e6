//! The identity of a daemon or person: one URI in a certificate, `spiffe://<domain>/<role>/<tenant>/<name>`.
//!
//! Knows the shape of that URI and how to find it. Refuses to look at the common name or any other part of the subject,
//! and decides nothing about what a role may do.

use std::fmt;
use std::str::FromStr;

use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Longest accepted identity URI in bytes, from the SPIFFE ID specification.
pub const MAX_URI_BYTES: usize = 2048;
/// Longest tenant or name in bytes: that of a DNS label, so that a name can serve as a host name.
pub const MAX_NAME_BYTES: usize = 63;
/// Longest trust domain in bytes: that of a DNS name.
pub const MAX_DOMAIN_BYTES: usize = 253;

const SCHEME: &str = "spiffe://";
/// The context tag of `uniformResourceIdentifier` in a subject alternative name (RFC 5280 section 4.2.1.6).
const URI_TAG: u32 = 6;

/// What a certificate holder is. Written in lower case wherever a person or a file sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Submits runs and reads their results.
    Client,
    /// Runs attempts on a host.
    Agent,
    /// Operates the fleet.
    Admin,
    /// Owns the queue; the only role whose certificate authenticates a server.
    Coordinator,
}

impl Role {
    /// Every role, in the order of declaration.
    pub const ALL: [Self; 4] = [Self::Client, Self::Agent, Self::Admin, Self::Coordinator];

    /// The word used in URIs, file names and output.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Agent => "agent",
            Self::Admin => "admin",
            Self::Coordinator => "coordinator",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        Self::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| IdentityError::UnknownRole { found: printable(text) })
    }
}

/// A checked identity. Two identities are the same holder exactly if they are equal.
///
/// Every part starts with `[a-z0-9]`, continues with `[a-z0-9._-]`, and contains no `..`; tenant and name have at most
/// [`MAX_NAME_BYTES`], the domain at most [`MAX_DOMAIN_BYTES`]. Upper case is refused instead of folded, so that an
/// identity has one spelling; parts are therefore safe as file names and as arguments.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    domain: String,
    role: Role,
    tenant: String,
    name: String,
}

impl Identity {
    /// Builds an identity from parts.
    ///
    /// # Errors
    /// [`IdentityError::BadPart`] names the first part that breaks the rule.
    pub fn new(domain: &str, role: Role, tenant: &str, name: &str) -> Result<Self, IdentityError> {
        check_part("domain", domain, MAX_DOMAIN_BYTES)?;
        check_part("tenant", tenant, MAX_NAME_BYTES)?;
        check_part("name", name, MAX_NAME_BYTES)?;
        Ok(Self { domain: domain.to_owned(), role, tenant: tenant.to_owned(), name: name.to_owned() })
    }

    /// Reads the identity from a certificate in DER: its one URI subject alternative name. DNS names and addresses may
    /// stand beside it; the common name is ignored.
    ///
    /// The certificate is only read here. Whether its chain, dates and usage hold is decided by the TLS handshake, which
    /// must have succeeded before the identity means anything.
    ///
    /// # Errors
    /// Anything but exactly one well-formed URI.
    pub fn from_certificate_der(der: &[u8]) -> Result<Self, IdentityError> {
        let (rest, certificate) =
            X509Certificate::from_der(der).map_err(|_| IdentityError::NotACertificate)?;
        if !rest.is_empty() {
            return Err(IdentityError::NotACertificate);
        }
        let names = certificate.subject_alternative_name().map_err(|_| IdentityError::NotACertificate)?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let mut uris = names.iter().filter_map(uri_bytes);
        let Some(uri) = uris.next() else {
            return Err(IdentityError::NoUri);
        };
        let more = uris.count();
        if more > 0 {
            return Err(IdentityError::SeveralUris { count: more + 1 });
        }
        Self::from_uri_bytes(uri)
    }

    /// The trust domain: who runs this installation.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// What the holder is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whose runs the holder may see or serve.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// The holder's name, unique within domain, role and tenant.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The URI, which is also the [`fmt::Display`] form.
    #[must_use]
    pub fn uri(&self) -> String {
        self.to_string()
    }

    fn from_uri_bytes(uri: &[u8]) -> Result<Self, IdentityError> {
        if uri.len() > MAX_URI_BYTES {
            return Err(IdentityError::TooLong { bytes: uri.len() });
        }
        match std::str::from_utf8(uri) {
            Ok(text) if text.is_ascii() => text.parse(),
            Ok(_) | Err(_) => Err(IdentityError::NotAscii),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}/{}/{}", self.domain, self.role, self.tenant, self.name)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        if uri.len() > MAX_URI_BYTES {
            return Err(IdentityError::TooLong { bytes: uri.len() });
        }
        if !uri.is_ascii() {
            return Err(IdentityError::NotAscii);
        }
        let wrong_shape = || IdentityError::WrongShape { found: printable(uri) };
        let rest = uri.strip_prefix(SCHEME).ok_or_else(wrong_shape)?;
        let mut parts = rest.split('/');
        let (Some(domain), Some(role), Some(tenant), Some(name), None) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong_shape());
        };
        Self::new(domain, role.parse()?, tenant, name)
    }
}

/// Why a certificate or text does not name an identity. Text that came from outside is escaped and shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are no certificate, or one with trailing data or a repeated extension.
    #[error("not an X.509 certificate")]
    NotACertificate,
    /// The certificate has no URI; a common name does not count.
    #[error("the certificate has no URI subject alternative name; its common name is ignored")]
    NoUri,
    /// More than one URI: it would depend on the reader who this is.
    #[error("the certificate has {count} URI subject alternative names where exactly one is allowed")]
    SeveralUris {
        /// How many it has.
        count: usize,
    },
    /// The URI has bytes outside ASCII.
    #[error("the identity URI contains bytes outside ASCII")]
    NotAscii,
    /// The URI exceeds [`MAX_URI_BYTES`].
    #[error("the identity URI has {bytes} bytes; the limit is {MAX_URI_BYTES}")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not `spiffe://` and four parts.
    #[error("the identity URI {found} has not the form spiffe://<domain>/<role>/<tenant>/<name>")]
    WrongShape {
        /// What was found.
        found: String,
    },
    /// The role is none of [`Role::ALL`].
    #[error("unknown role {found}; roles are client, agent, admin and coordinator")]
    UnknownRole {
        /// What was found.
        found: String,
    },
    /// A part breaks the rule stated at [`Identity`].
    #[error(
        "the {part} {found} is not allowed: 1 to {max} characters of a-z, 0-9, '.', '_' and '-', starting with a letter \
         or digit, without '..'"
    )]
    BadPart {
        /// `domain`, `tenant` or `name`.
        part: &'static str,
        /// What was found.
        found: String,
        /// The longest allowed, in bytes.
        max: usize,
    },
}

/// The bytes of a URI entry, including one whose bytes are not text: it still counts as a URI.
fn uri_bytes<'a>(name: &GeneralName<'a>) -> Option<&'a [u8]> {
    match name {
        GeneralName::URI(text) => Some(text.as_bytes()),
        GeneralName::Invalid(tag, bytes) if tag.0 == URI_TAG => Some(bytes),
        GeneralName::Invalid(..)
        | GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::DNSName(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_) => None,
    }
}

pub(crate) fn check_part(part: &'static str, text: &str, max: usize) -> Result<(), IdentityError> {
    let bytes = text.as_bytes();
    let starts_well = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let all_allowed =
        bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'));
    if starts_well && all_allowed && bytes.len() <= max && !text.contains("..") {
        Ok(())
    } else {
        Err(IdentityError::BadPart { part, found: printable(text), max })
    }
}

/// Foreign text for an error message: quoted, control characters escaped, at most 80 characters.
fn printable(text: &str) -> String {
    const SHOWN: usize = 80;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(uri: &str) -> Result<Identity, IdentityError> {
        uri.parse()
    }

    #[test]
    fn every_role_survives_text_and_back() {
        for role in Role::ALL {
            let identity = Identity::new("example.org", role, "default", "box-1").unwrap();
            assert_eq!(identity.uri(), format!("spiffe://example.org/{role}/default/box-1"));
            assert_eq!(parse(&identity.uri()), Ok(identity));
        }
    }

    #[test]
    fn shapes_that_are_not_four_parts_are_refused() {
        for uri in [
            "",
            "spiffe://",
            "spiffe://d/agent/t",
            "spiffe://d/agent/t/n/more",
            "spiffe://d/agent/t/n/",
            "http://d/agent/t/n",
            "SPIFFE://d/agent/t/n",
            "spiffe:/d/agent/t/n",
        ] {
            assert!(matches!(parse(uri), Err(IdentityError::WrongShape { .. })), "{uri}");
        }
    }

    #[test]
    fn parts_outside_the_rule_are_refused() {
        let long = "a".repeat(MAX_NAME_BYTES + 1);
        for name in [
            "",
            "-n",
            ".n",
            "_n",
            "N",
            "a b",
            "a\0b",
            "a\u{1b}[31m",
            "*",
            "a..b",
            "a%2fb",
            "a?b",
            long.as_str(),
        ] {
            let error = Identity::new("d", Role::Agent, "t", name).unwrap_err();
            assert!(matches!(error, IdentityError::BadPart { part: "name", .. }), "{name:?}");
            assert!(!error.to_string().contains(['\0', '\u{1b}']), "{name:?}: {error}");
        }
        let longest = "a".repeat(MAX_NAME_BYTES);
        assert!(Identity::new("d", Role::Agent, "t", &longest).is_ok());
        assert!(matches!(
            parse("spiffe://d:1/agent/t/n"),
            Err(IdentityError::BadPart { part: "domain", .. })
        ));
        assert!(matches!(parse("spiffe://d/agent/../n"), Err(IdentityError::BadPart { part: "tenant", .. })));
    }

    #[test]
    fn an_unknown_role_is_named_with_the_known_ones() {
        let error = parse("spiffe://d/root/t/n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown role \"root\"; roles are client, agent, admin and coordinator"
        );
        assert!(matches!(parse("spiffe://d/Agent/t/n"), Err(IdentityError::UnknownRole { .. })));
    }

    #[test]
    fn length_and_alphabet_of_the_uri_are_bounded() {
        let long = format!("spiffe://d/agent/t/{}", "n".repeat(MAX_URI_BYTES));
        assert!(matches!(parse(&long), Err(IdentityError::TooLong { .. })));
        assert_eq!(parse("spiffe://d/agent/t/é"), Err(IdentityError::NotAscii));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for bytes in [&b""[..], b"\0", b"-----BEGIN CERTIFICATE-----"] {
            assert_eq!(Identity::from_certificate_der(bytes), Err(IdentityError::NotACertificate));
        }
    }
}
