//! Whether certificate files that lie there already still fit a request.
//!
//! Knows every way in which they may not. Refuses to write anything.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, ServerName};

use super::{Ca, LeafRequest};
use crate::files::{self, FileError, TlsFiles};
use crate::identity::{Identity, Role};
use crate::tls::provider;
use crate::validity::{Validity, unix_time, utc};

impl Ca {
    /// Why `files` do not fit `request` as a clause for a person, or `None` if they do.
    pub(super) fn unfit(
        &self,
        files: &TlsFiles,
        request: &LeafRequest,
        now: SystemTime,
    ) -> Result<Option<String>, FileError> {
        let (Some(chain), Some(key)) =
            (absent(files::read_certificates(&files.cert))?, absent(files::read_key(&files.key))?)
        else {
            return Ok(Some("there was none".to_owned()));
        };
        if !files::lists_certificate(&files.ca, &self.cert_pem) {
            return Ok(Some("the directory did not list this authority".to_owned()));
        }
        let Some(leaf) = chain.first().cloned() else {
            return Ok(Some("there was none".to_owned()));
        };
        match Identity::from_certificate_der(&leaf) {
            Ok(found) if found == request.identity => {}
            Ok(found) => return Ok(Some(format!("the old one was for {found}"))),
            Err(error) => return Ok(Some(format!("the old one was unusable: {error}"))),
        }
        match Validity::of(&leaf) {
            Some(validity) if !validity.due_for_renewal(now) => {}
            Some(validity) => return Ok(Some(format!("the old one ends on {}", utc(validity.not_after)))),
            None => return Ok(Some("the old one did not parse".to_owned())),
        }
        if CertifiedKey::from_der(chain, key, &provider()).is_err() {
            return Ok(Some("the old key did not belong to the certificate".to_owned()));
        }
        Ok(self.unverified(&leaf, request, now))
    }

    /// Asks the same verifiers that the other end of a connection will ask.
    fn unverified(
        &self,
        leaf: &CertificateDer<'_>,
        request: &LeafRequest,
        now: SystemTime,
    ) -> Option<String> {
        let mut roots = RootCertStore::empty();
        if roots.add(self.cert_der.clone()).is_err() {
            return Some("this authority cannot be used as a root".to_owned());
        }
        let (roots, now) = (Arc::new(roots), unix_time(now));
        if request.identity.role() != Role::Coordinator {
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build().ok()?;
            let verdict = verifier.verify_client_cert(leaf, &[], now);
            return verdict.err().map(|error| format!("the old one does not verify: {error}"));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build().ok()?;
        request.hosts.iter().find_map(|host| {
            let name = ServerName::try_from(host.as_str()).ok()?;
            let verdict = verifier.verify_server_cert(leaf, &[], &name, &[], now);
            verdict.err().map(|_| format!("the old one does not hold for {host}"))
        })
    }
}

/// A missing or broken file is a reason to issue; an unreadable or unsafe one is the user's to look at.
fn absent<T>(read: Result<T, FileError>) -> Result<Option<T>, FileError> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(FileError::NotPem { .. }) => Ok(None),
        Err(
            error @ (FileError::Read { .. } | FileError::Write { .. } | FileError::KeyPermissions { .. }),
        ) => Err(error),
    }
}
