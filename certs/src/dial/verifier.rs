//! The standard verifier of server certificates, with a memory of what it refused.
//!
//! Knows what to note for an error message. Refuses to change any verdict: every question is passed on.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::fingerprint::{Fingerprint, fingerprint};
use crate::validity::Validity;

/// What a refused server said of itself; claims, not facts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Presented {
    pub(super) authority: Option<Fingerprint>,
    pub(super) not_before: Option<i64>,
    pub(super) not_after: Option<i64>,
}

/// Serves one handshake.
pub(super) struct Recording {
    inner: Arc<WebPkiServerVerifier>,
    refused: OnceLock<Presented>,
}

impl Recording {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>) -> Self {
        Self { inner, refused: OnceLock::new() }
    }

    /// What was refused, if anything was.
    pub(super) fn presented(&self) -> Option<Presented> {
        self.refused.get().copied()
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording").field("refused", &self.refused).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Recording {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if verdict.is_err() {
            let validity = Validity::of(end_entity);
            // A second refusal in one handshake does not happen; the first would stand.
            let _ = self.refused.set(Presented {
                authority: intermediates.last().map(|der| fingerprint(der)),
                not_before: validity.map(|v| v.not_before),
                not_after: validity.map(|v| v.not_after),
            });
        }
        verdict
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
