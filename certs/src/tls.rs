//! The TLS configurations of both ends, and holders that swap them while connections go on.
//!
//! Knows rustls. Refuses to accept or dial (see [`crate::dial`]) and to decide what an authenticated role may do. Both
//! ends authenticate; the protocol is HTTP/2. Sessions are never resumed, because resumption skips the check of the
//! client certificate, so that a revoked or expired one would stay good.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::CertificateDer;

use crate::files::{self, FileError, TlsFiles};
use crate::fingerprint::{Fingerprint, fingerprint};
use crate::identity::{Identity, IdentityError, Role};
use crate::validity::{Standing, Validity, utc};

/// The one protocol offered and accepted.
const ALPN: &[u8] = b"h2";

/// Why TLS files cannot be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, is no PEM, or is a key that others can read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A section of the file is not a certificate.
    #[error("{} holds a certificate that does not parse", path.display())]
    Unparsable {
        /// Which.
        path: PathBuf,
    },
    /// The certificate's time is over.
    #[error("the certificate {} expired on {}", path.display(), utc(*not_after))]
    Expired {
        /// Which.
        path: PathBuf,
        /// Its last moment, seconds since 1970.
        not_after: i64,
    },
    /// The certificate's time has not come, or this host's clock is behind.
    #[error("the certificate {} is not valid before {}; is this host's clock right?", path.display(), utc(*not_before))]
    NotYetValid {
        /// Which.
        path: PathBuf,
        /// Its first moment, seconds since 1970.
        not_before: i64,
    },
    /// The own certificate names nobody.
    #[error("the certificate {} names no identity", path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// A server must be a coordinator, and only a server may.
    #[error("the certificate {} is for the role {found}; {wanted} is needed here", path.display())]
    WrongRole {
        /// Which.
        path: PathBuf,
        /// Its role.
        found: Role,
        /// What would do.
        wanted: &'static str,
    },
    /// The private key is not that of the certificate.
    #[error("the private key {} does not belong to the certificate {}", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate.
        cert: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// The library refuses the certificate or key, for instance for its algorithm.
    #[error("{} cannot be used", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Makes `ring` the process-wide default for libraries that look for one. For `main`; calling it again is harmless.
pub fn install_ring() {
    // The error means that a default is already set, which is what was wanted.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server configuration from files: TLS 1.3 or 1.2, HTTP/2, a client certificate required, no resumption.
///
/// # Errors
/// See [`TlsError`]; the certificate's role must be coordinator.
pub fn server_config(files: &TlsFiles, now: SystemTime) -> Result<ServerConfig, TlsError> {
    let material = Material::load(files, now)?;
    material.server_config(files)
}

/// A client configuration from files: it presents the certificate and verifies chain, dates and name of the server.
///
/// # Errors
/// See [`TlsError`]; the certificate's role must not be coordinator.
pub fn client_config(files: &TlsFiles, now: SystemTime) -> Result<ClientConfig, TlsError> {
    let material = Material::load(files, now)?;
    Ok(material.client(files)?.config)
}

/// The server's current configuration. Acceptors take [`ServerTls::current`] for each connection; a reload changes
/// what later connections get and leaves the present ones alone.
#[derive(Debug)]
pub struct ServerTls {
    files: TlsFiles,
    state: ArcSwap<ServerState>,
}

#[derive(Debug)]
struct ServerState {
    config: Arc<ServerConfig>,
    identity: Identity,
    expires: Option<SystemTime>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`server_config`].
    pub fn load(files: TlsFiles, now: SystemTime) -> Result<Self, TlsError> {
        let state = ArcSwap::from_pointee(Self::read(&files, now)?);
        Ok(Self { files, state })
    }

    /// The configuration for the next connection.
    #[must_use]
    pub fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state.load().config)
    }

    /// Who this server is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.state.load().identity.clone()
    }

    /// When its certificate ends; `None` if that is before 1970.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.state.load().expires
    }

    /// Reads the same files again. The identity may change, for instance to a new trust domain.
    ///
    /// # Errors
    /// See [`server_config`]; the configuration in use then stays as it is.
    pub fn reload(&self, now: SystemTime) -> Result<(), TlsError> {
        self.state.store(Arc::new(Self::read(&self.files, now)?));
        Ok(())
    }

    fn read(files: &TlsFiles, now: SystemTime) -> Result<ServerState, TlsError> {
        let material = Material::load(files, now)?;
        let config = Arc::new(material.server_config(files)?);
        let leaf = material.own.cert.first().and_then(|leaf| Validity::of(leaf));
        let expires = leaf.and_then(|dates| dates.ends());
        Ok(ServerState { config, identity: material.identity, expires })
    }
}

/// A client's current configuration, with what is needed to explain a refusal. See [`crate::dial::Connector`].
#[derive(Debug)]
pub struct ClientTls {
    files: TlsFiles,
    state: ArcSwap<ClientState>,
}

/// What one dial works with.
#[derive(Debug)]
pub(crate) struct ClientState {
    pub(crate) config: ClientConfig,
    pub(crate) verifier: Arc<WebPkiServerVerifier>,
    pub(crate) authorities: Vec<Fingerprint>,
    identity: Identity,
    expires: Option<SystemTime>,
}

impl ClientTls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`client_config`].
    pub fn load(files: TlsFiles, now: SystemTime) -> Result<Self, TlsError> {
        let state = Material::load(&files, now)?.client(&files)?;
        Ok(Self { files, state: ArcSwap::from_pointee(state) })
    }

    /// Who this client is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.state.load().identity.clone()
    }

    /// When its certificate expires; `None` for a date before 1970.
    #[must_use]
    pub fn expires(&self) -> Option<SystemTime> {
        self.state.load().expires
    }

    /// Fingerprints of the trusted authorities, in the order of the file.
    #[must_use]
    pub fn authorities(&self) -> Vec<Fingerprint> {
        self.state.load().authorities.clone()
    }

    /// Reads the same files again; later dials use them.
    ///
    /// # Errors
    /// See [`client_config`]; the configuration in use then stays as it is.
    pub fn reload(&self, now: SystemTime) -> Result<(), TlsError> {
        let state = Material::load(&self.files, now)?.client(&self.files)?;
        self.state.store(Arc::new(state));
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ClientState> {
        self.state.load_full()
    }
}

/// The parsed and checked content of [`TlsFiles`].
struct Material {
    authorities: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    own: Arc<CertifiedKey>,
    identity: Identity,
}

impl Material {
    fn load(files: &TlsFiles, now: SystemTime) -> Result<Self, TlsError> {
        let authorities = files::read_certificates(&files.ca)?;
        let chain = files::read_certificates(&files.cert)?;
        for (path, certificates) in [(&files.ca, &authorities), (&files.cert, &chain)] {
            for certificate in certificates {
                check_dates(path, certificate, now)?;
            }
        }
        let key = files::read_key(&files.key)?;
        let unusable = |path: &PathBuf, error: rustls::Error| TlsError::Unusable {
            path: path.clone(),
            source: Box::new(error),
        };
        let mut roots = RootCertStore::empty();
        for authority in &authorities {
            roots.add(authority.clone()).map_err(|error| unusable(&files.ca, error))?;
        }
        let leaf = chain.first().ok_or_else(|| TlsError::Unparsable { path: files.cert.clone() })?;
        let identity = Identity::from_certificate_der(leaf)
            .map_err(|source| TlsError::Identity { path: files.cert.clone(), source })?;
        let own = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| {
            if matches!(error, rustls::Error::InconsistentKeys(_)) {
                TlsError::KeyMismatch { cert: files.cert.clone(), key: files.key.clone() }
            } else {
                unusable(&files.key, error)
            }
        })?;
        Ok(Self { authorities, roots: Arc::new(roots), own: Arc::new(own), identity })
    }

    fn server_config(&self, files: &TlsFiles) -> Result<ServerConfig, TlsError> {
        self.require(files, "coordinator", |role| role == Role::Coordinator)?;
        let provider = provider();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&self.roots), Arc::clone(&provider))
                .build()
                .map_err(|error| TlsError::Unusable { path: files.ca.clone(), source: Box::new(error) })?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable { path: files.cert.clone(), source: Box::new(error) })?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.presented())));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    fn client(self, files: &TlsFiles) -> Result<ClientState, TlsError> {
        self.require(files, "client, agent or admin", |role| role != Role::Coordinator)?;
        let provider = provider();
        let verifier = WebPkiServerVerifier::builder_with_provider(self.roots, Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::Unusable { path: files.ca.clone(), source: Box::new(error) })?;
        let leaf = self.own.cert.first().and_then(|leaf| Validity::of(leaf));
        let expires = leaf.and_then(|dates| dates.ends());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Unusable { path: files.cert.clone(), source: Box::new(error) })?
            .with_webpki_verifier(Arc::clone(&verifier))
            .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(self.own)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        let authorities = self.authorities.iter().map(|der| fingerprint(der)).collect();
        Ok(ClientState { config, verifier, authorities, identity: self.identity, expires })
    }

    /// The own chain with the authority that issued it at the end. A client does not need the authority, but one that
    /// trusts another can then say which two differ; it costs some 500 bytes of each handshake.
    fn presented(&self) -> CertifiedKey {
        let mut chain = self.own.cert.clone();
        if let Some(issuer) =
            chain.last().and_then(|last| self.authorities.iter().find(|ca| issued(ca, last)))
        {
            chain.push(issuer.clone());
        }
        CertifiedKey::new(chain, Arc::clone(&self.own.key))
    }

    fn require(
        &self,
        files: &TlsFiles,
        wanted: &'static str,
        fits: fn(Role) -> bool,
    ) -> Result<(), TlsError> {
        let found = self.identity.role();
        if fits(found) {
            Ok(())
        } else {
            Err(TlsError::WrongRole { path: files.cert.clone(), found, wanted })
        }
    }
}

/// The cryptography of every configuration in this crate.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The rustls error inside an I/O error of a TLS stream.
pub(crate) fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn check_dates(path: &std::path::Path, der: &[u8], now: SystemTime) -> Result<(), TlsError> {
    let path = path.to_owned();
    let Some(validity) = Validity::of(der) else {
        return Err(TlsError::Unparsable { path });
    };
    match validity.at(now) {
        Standing::Valid => Ok(()),
        Standing::NotYet => Err(TlsError::NotYetValid { path, not_before: validity.not_before }),
        Standing::Expired => Err(TlsError::Expired { path, not_after: validity.not_after }),
    }
}

/// By name only: this chooses what to send along, it does not decide trust.
fn issued(authority: &[u8], certificate: &[u8]) -> bool {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (Ok((_, authority)), Ok((_, certificate))) =
        (X509Certificate::from_der(authority), X509Certificate::from_der(certificate))
    else {
        return false;
    };
    authority.subject().as_raw() == certificate.issuer().as_raw()
        && certificate.subject().as_raw() != certificate.issuer().as_raw()
}
