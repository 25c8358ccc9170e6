//! Why a dial failed, told so that the reader knows which side to mend.
//!
//! Knows how the TLS library reports. Refuses to decide whether to try again.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, CertificateError};

use crate::fingerprint::Fingerprint;
use crate::tls::rustls_error;
use crate::validity::utc;

use super::verifier::Presented;

/// Why a coordinator could not be reached or trusted.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The endpoint has no host that can be dialled.
    #[error("the endpoint {endpoint:?} cannot be dialled: {why}")]
    BadEndpoint {
        /// As given.
        endpoint: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The host answers, and nothing listens on the port.
    #[error("{target} refused the connection: nothing is listening there")]
    Refused {
        /// Host and port.
        target: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The dial took too long.
    #[error("{target} did not answer within {after:?}, during {step}")]
    Timeout {
        /// Host and port.
        target: String,
        /// The limit.
        after: Duration,
        /// What was under way.
        step: &'static str,
    },
    /// Another failure of the network.
    #[error("cannot connect to {target}")]
    Connect {
        /// Host and port.
        target: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The server's certificate comes from an authority that is not trusted here.
    #[error(
        "{target} is not trusted: its certificate is from the authority {}, trusted here is {}",
        presented.map_or_else(|| "(unnamed)".to_owned(), |print| print.short()),
        shorts(trusted)
    )]
    UntrustedAuthority {
        /// Host and port.
        target: String,
        /// The authority the server sent along, if it did. It is the server's claim and proves nothing.
        presented: Option<Fingerprint>,
        /// The authorities trusted here.
        trusted: Vec<Fingerprint>,
    },
    /// The server's certificate is over.
    #[error("the certificate of {target} expired{}", on(*not_after))]
    ServerExpired {
        /// Host and port.
        target: String,
        /// Its last moment, seconds since 1970, if it could be read.
        not_after: Option<i64>,
    },
    /// The server's certificate does not hold yet.
    #[error("the certificate of {target} is not valid yet{}; is this host's clock right?", from(*not_before))]
    ServerNotYetValid {
        /// Host and port.
        target: String,
        /// Its first moment, seconds since 1970, if it could be read.
        not_before: Option<i64>,
    },
    /// The server's certificate is for other names.
    #[error("the certificate of {target} is for {}, not for the name that was dialled", names(presented))]
    WrongName {
        /// Host and port.
        target: String,
        /// The names it bears.
        presented: Vec<String>,
    },
    /// The server refused the certificate of this side.
    #[error("{target} refused our certificate: {reason}")]
    Rejected {
        /// Host and port.
        target: String,
        /// What it said.
        reason: Rejection,
    },
    /// The connection ended in the handshake, or what answers does not speak TLS.
    #[error("no TLS connection to {target}")]
    Tls {
        /// Host and port.
        target: String,
        /// What the TLS library said.
        source: io::Error,
    },
}

/// What a server said against the certificate of this side. An alert carries no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Ours is from an authority it does not trust.
    #[error("it does not trust the authority that issued it")]
    UnknownAuthority,
    /// Ours is expired, not valid yet, or its clock and ours differ.
    #[error("it is expired or not yet valid by the clock over there")]
    NotNow,
    /// None was sent.
    #[error("none was sent, and it requires one")]
    Missing,
    /// Ours was revoked.
    #[error("it was revoked")]
    Revoked,
    /// Ours serves another purpose, such as that of a server.
    #[error("it is for another purpose")]
    WrongPurpose,
    /// Anything else about it.
    #[error("it is not acceptable")]
    Other,
}

impl Rejection {
    /// The meaning of an alert about a certificate; `None` for other alerts.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum of some 30 unrelated alerts")]
    fn of(alert: AlertDescription) -> Option<Self> {
        match alert {
            AlertDescription::UnknownCA | AlertDescription::DecryptError => Some(Self::UnknownAuthority),
            AlertDescription::CertificateExpired => Some(Self::NotNow),
            AlertDescription::CertificateRequired | AlertDescription::NoCertificate => Some(Self::Missing),
            AlertDescription::CertificateRevoked => Some(Self::Revoked),
            AlertDescription::UnsupportedCertificate => Some(Self::WrongPurpose),
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied => Some(Self::Other),
            _ => None,
        }
    }
}

impl DialError {
    pub(super) fn connect(target: &str, source: io::Error) -> Self {
        let target = target.to_owned();
        if source.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused { target, source }
        } else {
            Self::Connect { target, source }
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum; the source says the rest")]
    pub(super) fn in_handshake(
        target: &str,
        source: io::Error,
        trusted: &[Fingerprint],
        presented: Option<Presented>,
    ) -> Self {
        let Some(rustls::Error::InvalidCertificate(verdict)) = rustls_error(&source) else {
            return Self::after_handshake(target, source);
        };
        let target = target.to_owned();
        match verdict {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UntrustedAuthority {
                target,
                presented: presented.and_then(|seen| seen.authority),
                trusted: trusted.to_vec(),
            },
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                Self::ServerExpired { target, not_after: presented.and_then(|seen| seen.not_after) }
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::ServerNotYetValid { target, not_before: presented.and_then(|seen| seen.not_before) }
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                Self::WrongName { target, presented: presented.clone() }
            }
            CertificateError::NotValidForName => Self::WrongName { target, presented: Vec::new() },
            _ => Self::Tls { target, source },
        }
    }

    pub(super) fn after_handshake(target: &str, source: io::Error) -> Self {
        let target = target.to_owned();
        let rejection = match rustls_error(&source) {
            Some(rustls::Error::AlertReceived(alert)) => Rejection::of(*alert),
            Some(_) | None => None,
        };
        match rejection {
            Some(reason) => Self::Rejected { target, reason },
            None => Self::Tls { target, source },
        }
    }
}

fn shorts(prints: &[Fingerprint]) -> String {
    prints.iter().map(Fingerprint::short).collect::<Vec<_>>().join(", ")
}

fn on(moment: Option<i64>) -> String {
    moment.map(|seconds| format!(" on {}", utc(seconds))).unwrap_or_default()
}

fn from(moment: Option<i64>) -> String {
    moment.map(|seconds| format!(" (from {})", utc(seconds))).unwrap_or_default()
}

/// At most a handful: the text is the server's.
fn names(presented: &[String]) -> String {
    const SHOWN: usize = 8;
    if presented.is_empty() {
        return "no host at all".to_owned();
    }
    let quoted: Vec<_> = presented.iter().take(SHOWN).map(|name| name.escape_debug().to_string()).collect();
    let more = if presented.len() > SHOWN { ", …" } else { "" };
    format!("{}{more}", quoted.join(", "))
}
