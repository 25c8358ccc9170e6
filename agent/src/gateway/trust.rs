//! Whose word about the API's certificate counts: the list of public authorities that is built in, the host's own list, and
//! files that the environment names. Knows where distributions keep theirs; refuses to know who is spoken to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use thiserror::Error;

/// Variables that name files of further authorities.
const NAMED: [&str; 2] = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"];

/// Where distributions keep the host's list: Debian and its kin, Fedora and its kin, openSUSE, Alpine. The first that is there
/// counts, as it does for other programs.
pub const OF_HOST: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// A file of authorities that the environment names cannot be read.
#[derive(Debug, Error)]
#[error("cannot read the certificates in {}", path.display())]
pub struct TrustError {
    /// Which file.
    pub path: PathBuf,
    /// Why.
    #[source]
    source: pem::Error,
}

/// Everybody whose word counts. `of_host` is [`OF_HOST`], but for tests.
///
/// # Errors
/// When a file that was named cannot be read. The host's own list may be missing.
pub fn roots(env: &BTreeMap<String, String>, of_host: &[&str]) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let host = of_host.iter().find_map(|path| certificates(Path::new(path)).ok());
    // Some of a host's list may be of a kind that is not supported here.
    roots.add_parsable_certificates(host.unwrap_or_default());
    for path in NAMED.iter().filter_map(|name| env.get(*name)).map(PathBuf::from) {
        let found = certificates(&path).map_err(|source| TrustError { path, source })?;
        roots.add_parsable_certificates(found);
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, pem::Error> {
    CertificateDer::pem_file_iter(path)?.collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use orch_certs::ca::Ca;

    use super::*;

    #[test]
    fn the_hosts_own_list_and_named_files_count_and_a_missing_named_file_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let made = |name: &str| {
            let ca = Ca::create(&dir.path().join(name), "test.example", SystemTime::now()).unwrap();
            let file = dir.path().join(format!("{name}.pem"));
            std::fs::write(&file, ca.cert_pem()).unwrap();
            file.to_str().unwrap().to_owned()
        };
        let (host, other, named) = (made("host"), made("other"), made("named"));
        let env = |path: &str| BTreeMap::from([("SSL_CERT_FILE".to_owned(), path.to_owned())]);
        let built_in = roots(&BTreeMap::new(), &[]).unwrap().len();
        assert!(built_in > 50);
        let with_host = roots(&BTreeMap::new(), &["/nonexistent", &host, &other]).unwrap();
        assert_eq!(with_host.len(), built_in + 1, "the first that is there");
        assert_eq!(roots(&env(&named), &[&host]).unwrap().len(), built_in + 2);
        let error = roots(&env("/nonexistent"), &[&host]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the certificates in /nonexistent");
    }
}
