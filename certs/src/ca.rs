//! A small certificate authority in a directory: create, open, issue.
//!
//! Knows what each role's certificate must say. Refuses to decide who may have one: whoever can read `ca.key` can issue
//! anything. An installation with an authority of its own uses that and only the file layout of [`crate::files`].

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, ServerName};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{self, CA_CERT, CA_KEY, FileError, TlsFiles};
use crate::fingerprint::{Fingerprint, fingerprint};
use crate::identity::{Identity, IdentityError, MAX_DOMAIN_BYTES, Role, check_part};
use crate::validity::Validity;

mod reuse;

/// How long an authority lives: ten years.
pub const CA_VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a leaf certificate lives unless asked otherwise: 90 days.
pub const LEAF_VALID: Duration = Duration::from_secs(90 * 24 * 3600);
/// Certificates hold from this long before they are made, for hosts whose clocks are behind the issuer's.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// An opened authority. Its private key never appears in `Debug` output.
pub struct Ca {
    domain: String,
    cert_pem: String,
    cert_der: CertificateDer<'static>,
    not_after: i64,
    issuer: Issuer<'static, KeyPair>,
}

/// What a leaf certificate is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// Whom it names; of the authority's own domain.
    pub identity: Identity,
    /// DNS names and IP addresses under which clients dial. At least one for a coordinator, none for other roles.
    pub hosts: Vec<String>,
    /// For how long; cut to the authority's own end.
    pub valid: Duration,
}

impl LeafRequest {
    /// A request with the default period of [`LEAF_VALID`] and no hosts.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { identity, hosts: Vec::new(), valid: LEAF_VALID }
    }

    /// The same for a server that is dialled under `hosts`.
    #[must_use]
    pub fn hosts(mut self, hosts: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }
}

/// A certificate with its private key, not yet written anywhere. The key never appears in `Debug` output.
pub struct Leaf {
    /// Whom it names.
    pub identity: Identity,
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS#8 PEM.
    pub key_pem: String,
    /// The certificate of the authority that issued it, PEM.
    pub ca_pem: String,
}

/// What [`Ca::ensure_leaf`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeafStatus {
    /// The files were there and fit the request.
    Kept(TlsFiles),
    /// New files were written.
    Issued {
        /// Where.
        files: TlsFiles,
        /// Why the old ones would not do, as a clause for a person.
        because: String,
    },
}

impl LeafStatus {
    /// The files, kept or new.
    #[must_use]
    pub fn files(&self) -> &TlsFiles {
        match self {
            Self::Kept(files) | Self::Issued { files, .. } => files,
        }
    }
}

/// Why an authority cannot be created, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written, or the authority's key is readable by others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The directory already holds an authority; replacing it would cut off every certificate it issued.
    #[error("{} already holds a certificate authority", dir.display())]
    Exists {
        /// Where.
        dir: PathBuf,
    },
    /// The directory holds an authority of another trust domain.
    #[error("the certificate authority in {} is for the domain {found}, not {wanted}", dir.display())]
    OtherDomain {
        /// Where.
        dir: PathBuf,
        /// Its domain.
        found: String,
        /// The domain asked for.
        wanted: String,
    },
    /// The domain or an identity breaks the rule at [`Identity`].
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The file is not an authority made here.
    #[error("{} is not a certificate authority of orch: {why}", path.display())]
    NotAnAuthority {
        /// Which.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// Only servers are dialled under a name.
    #[error("only a coordinator certificate names hosts; this one is for the role {role}")]
    HostsNotAllowed {
        /// The role asked for.
        role: Role,
    },
    /// A server certificate without a name cannot be verified by anybody.
    #[error("a coordinator certificate must name at least one host, such as box-1.example.org or 192.0.2.7")]
    NoHosts,
    /// Neither a DNS name nor an IP address.
    #[error("{host:?} is neither a DNS name nor an IP address")]
    BadHost {
        /// What was asked for.
        host: String,
    },
    /// The authority's own time is over.
    #[error("the certificate authority expired on {}", crate::validity::utc(*not_after))]
    Expired {
        /// Its last moment, seconds since 1970.
        not_after: i64,
    },
    /// The library could not make the key or certificate.
    #[error("cannot make the certificate")]
    Make(#[source] rcgen::Error),
}

impl Ca {
    /// Creates an authority for `domain` in `dir`, making the directory (0700) if needed.
    ///
    /// # Errors
    /// [`CaError::Exists`] if there is one.
    pub fn create(dir: &Path, domain: &str, now: SystemTime) -> Result<Self, CaError> {
        match Self::ensure(dir, domain, now)? {
            (ca, true) => Ok(ca),
            (_, false) => Err(CaError::Exists { dir: dir.to_owned() }),
        }
    }

    /// Opens the authority in `dir`, or creates it; the flag says whether it was created. Two processes doing this at
    /// once end with the same authority.
    ///
    /// # Errors
    /// [`CaError::OtherDomain`] if there is one of another domain.
    pub fn ensure(dir: &Path, domain: &str, now: SystemTime) -> Result<(Self, bool), CaError> {
        check_part("domain", domain, MAX_DOMAIN_BYTES)?;
        files::make_dir(dir)?;
        let _lock = files::lock_dir(dir)?;
        // The certificate is written last. A key without one is what a crash left: nothing was issued with it.
        if dir.join(CA_CERT).exists() {
            let ca = Self::open(dir)?;
            if ca.domain != domain {
                return Err(CaError::OtherDomain {
                    dir: dir.to_owned(),
                    found: ca.domain,
                    wanted: domain.to_owned(),
                });
            }
            return Ok((ca, false));
        }
        let key = KeyPair::generate().map_err(CaError::Make)?;
        let certificate = ca_params(domain, &key, now)?.self_signed(&key).map_err(CaError::Make)?;
        files::write_key(&dir.join(CA_KEY), &key.serialize_pem())?;
        files::write_certificate(&dir.join(CA_CERT), &certificate.pem())?;
        Ok((Self::open(dir)?, true))
    }

    /// Opens the authority in `dir`. If `ca.pem` holds several certificates, the first is the one that issues.
    ///
    /// # Errors
    /// A missing file, a key readable by others, or files that are no authority with a matching key.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        let path = dir.join(CA_CERT);
        let (cert_der, cert_pem) = files::read_first_certificate(&path)?;
        let key_pem = files::read_key_pem(&dir.join(CA_KEY))?;
        let not_an_authority = |why| CaError::NotAnAuthority { path: path.clone(), why };
        let key = KeyPair::from_pem(&key_pem).map_err(|_| CaError::NotAnAuthority {
            path: dir.join(CA_KEY),
            why: "it is not a usable private key",
        })?;
        let (_, parsed) =
            X509Certificate::from_der(&cert_der).map_err(|_| not_an_authority("it is not a certificate"))?;
        if !parsed.is_ca() {
            return Err(not_an_authority("its certificate may not issue others"));
        }
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(not_an_authority("its key is not that of the certificate"));
        }
        let domain = domain_of(&parsed).ok_or_else(|| not_an_authority("it names no trust domain"))?;
        let validity = Validity::of(&cert_der).ok_or_else(|| not_an_authority("it has no dates"))?;
        let issuer = Issuer::from_ca_cert_der(&cert_der, key).map_err(CaError::Make)?;
        Ok(Self { domain, cert_pem, cert_der, not_after: validity.not_after, issuer })
    }

    /// The trust domain of everything issued here.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The certificate that others must trust, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The fingerprint by which a person recognises this authority.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        fingerprint(&self.cert_der)
    }

    /// Makes a key and its certificate. Nothing is written; see [`Leaf::write`].
    ///
    /// # Errors
    /// An identity of another domain, hosts that do not fit the role, or an expired authority.
    pub fn issue(&self, request: &LeafRequest, now: SystemTime) -> Result<Leaf, CaError> {
        let params = self.leaf_params(request, now)?;
        let key = KeyPair::generate().map_err(CaError::Make)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(CaError::Make)?;
        Ok(Leaf {
            identity: request.identity.clone(),
            cert_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            ca_pem: self.cert_pem.clone(),
        })
    }

    /// Leaves the files in `dir` alone if they fit `request` and are not due for renewal, else issues and writes new
    /// ones. Repeating it changes nothing.
    ///
    /// # Errors
    /// As [`Ca::issue`] and [`Leaf::write`]; a key readable by others is an error, not a reason to issue.
    pub fn ensure_leaf(
        &self,
        dir: &Path,
        request: &LeafRequest,
        now: SystemTime,
    ) -> Result<LeafStatus, CaError> {
        let files = TlsFiles::in_dir(dir, request.identity.role());
        // Checked first, so that a bad request fails whether or not there are files.
        self.leaf_params(request, now)?;
        match self.unfit(&files, request, now)? {
            None => Ok(LeafStatus::Kept(files)),
            Some(because) => Ok(LeafStatus::Issued { files: self.issue(request, now)?.write(dir)?, because }),
        }
    }

    fn leaf_params(&self, request: &LeafRequest, now: SystemTime) -> Result<CertificateParams, CaError> {
        let (identity, role) = (&request.identity, request.identity.role());
        if identity.domain() != self.domain {
            return Err(CaError::OtherDomain {
                dir: PathBuf::from(CA_CERT),
                found: self.domain.clone(),
                wanted: identity.domain().to_owned(),
            });
        }
        match (role, request.hosts.is_empty()) {
            (Role::Coordinator, true) => return Err(CaError::NoHosts),
            (Role::Client | Role::Agent | Role::Admin, false) => {
                return Err(CaError::HostsNotAllowed { role });
            }
            (Role::Coordinator, false) | (Role::Client | Role::Agent | Role::Admin, true) => {}
        }
        let ca_end = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(self.not_after).unwrap_or(0));
        if ca_end <= now {
            return Err(CaError::Expired { not_after: self.not_after });
        }
        let mut names = vec![SanType::URI(ia5(&identity.uri())?)];
        for host in &request.hosts {
            names.push(host_name(host)?);
        }
        let mut params = CertificateParams::default();
        params.not_before = (now - CLOCK_SKEW).into();
        params.not_after = (now + request.valid).min(ca_end).into();
        params.distinguished_name = common_name(&format!("{role} {}", identity.name()));
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match role {
            Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
            Role::Client | Role::Agent | Role::Admin => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("domain", &self.domain)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl Leaf {
    /// Writes `<role>.key`, `<role>.pem` and `ca.pem` into `dir`, each atomically; the directory is made (0700) if
    /// needed. A `ca.pem` that already lists this authority is left alone, so that a bundle of several survives.
    ///
    /// # Errors
    /// The file that could not be written. The key goes first: a crash between the files leaves a pair that does not
    /// match, which every reader refuses and a repetition mends.
    pub fn write(&self, dir: &Path) -> Result<TlsFiles, FileError> {
        files::make_dir(dir)?;
        let files = TlsFiles::in_dir(dir, self.identity.role());
        files::write_key(&files.key, &self.key_pem)?;
        files::write_certificate(&files.cert, &self.cert_pem)?;
        if !files::lists_certificate(&files.ca, &self.ca_pem) {
            files::write_certificate(&files.ca, &self.ca_pem)?;
        }
        Ok(files)
    }
}

impl fmt::Debug for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaf").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The subject carries a digest of the key, so that a verifier never takes one authority's certificate for another's.
fn ca_params(domain: &str, key: &KeyPair, now: SystemTime) -> Result<CertificateParams, CaError> {
    let tag = fingerprint(key.subject_public_key_info().as_slice()).short();
    let mut params = CertificateParams::default();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + CA_VALID).into();
    params.distinguished_name = common_name(&format!("orch authority {tag}"));
    // SPIFFE X.509-SVID section 3.2: a signing certificate names its trust domain and has no path.
    params.subject_alt_names = vec![SanType::URI(ia5(&format!("spiffe://{domain}"))?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn domain_of(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    let [GeneralName::URI(uri)] = names.value.general_names.as_slice() else {
        return None;
    };
    let domain = uri.strip_prefix("spiffe://")?;
    check_part("domain", domain, MAX_DOMAIN_BYTES).ok()?;
    Some(domain.to_owned())
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

fn host_name(host: &str) -> Result<SanType, CaError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    match ServerName::try_from(host) {
        Ok(ServerName::DnsName(name)) => Ok(SanType::DnsName(ia5(name.as_ref())?)),
        Ok(_) | Err(_) => Err(CaError::BadHost { host: host.to_owned() }),
    }
}

fn ia5(text: &str) -> Result<Ia5String, CaError> {
    Ia5String::try_from(text).map_err(CaError::Make)
}
