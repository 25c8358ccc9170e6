//! Certificates and keys on disk: where they lie, how they are written, which key files are refused.
//!
//! Knows paths, modes and PEM. Refuses to judge what a certificate says. One directory holds what a host needs:
//!
//! | File | Mode | Holds |
//! |---|---|---|
//! | `ca.pem` | 0644 | the authority's certificate; several while authorities change over |
//! | `<role>.pem` | 0644 | the certificate of `client`, `agent`, `admin` or `coordinator` |
//! | `<role>.key` | 0600 | its private key |
//! | `ca.key` | 0600 | the authority's private key; only where certificates are issued, never on a second host |

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::identity::Role;

/// File name of the authority's certificate.
pub const CA_CERT: &str = "ca.pem";
/// File name of the authority's private key.
pub const CA_KEY: &str = "ca.key";

const KEY_MODE: u32 = 0o600;
const CERT_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o700;
/// The permission bits a private key must not have: anything for group or others.
const FOREIGN_BITS: u32 = 0o077;
/// Largest certificate or key file read: a chain of dozens fits, a wrong path such as a disk image does not.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The three files one end of a connection needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates of the authorities that are trusted, PEM.
    pub ca: PathBuf,
    /// The own certificate, PEM, followed by intermediates if there are any.
    pub cert: PathBuf,
    /// The private key of the own certificate, PEM; readable by its owner alone.
    pub key: PathBuf,
}

impl TlsFiles {
    /// The files of `role` in a directory laid out as [`crate::files`] says. Nothing is read.
    #[must_use]
    pub fn in_dir(dir: &Path, role: Role) -> Self {
        Self {
            ca: dir.join(CA_CERT),
            cert: dir.join(format!("{role}.pem")),
            key: dir.join(format!("{role}.key")),
        }
    }
}

/// Why a certificate or key file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file or directory could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file or directory could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A private key that others on the host can read is not private.
    #[error(
        "the private key {} has mode {mode:04o}: others can read it; mend with: chmod 600 {}",
        path.display(),
        shell_quoted(path)
    )]
    KeyPermissions {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no readable PEM section of the wanted kind.
    #[error("{} holds no {wanted} in PEM form: {why}", path.display())]
    NotPem {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// What the parser said.
        why: String,
    },
}

/// Reads every certificate of a PEM file; at least one.
pub(crate) fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = open(path).and_then(|file| read_bounded(path, file))?;
    let not_pem =
        |error| FileError::NotPem { path: path.to_owned(), wanted: "certificate", why: pem_text(&error) };
    let certificates =
        CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(not_pem)?;
    if certificates.is_empty() { Err(not_pem(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}

/// Reads the first certificate of a PEM file with its text.
pub(crate) fn read_first_certificate(path: &Path) -> Result<(CertificateDer<'static>, String), FileError> {
    const END: &str = "-----END CERTIFICATE-----";
    let bytes = open(path).and_then(|file| read_bounded(path, file))?;
    let text = String::from_utf8_lossy(&bytes);
    let end = text.find(END).map_or(text.len(), |at| at + END.len());
    let start = text.find("-----BEGIN CERTIFICATE-----").unwrap_or(0).min(end);
    let section = text.get(start..end).unwrap_or_default();
    let der = CertificateDer::from_pem_slice(section.as_bytes()).map_err(|error| FileError::NotPem {
        path: path.to_owned(),
        wanted: "certificate",
        why: pem_text(&error),
    })?;
    Ok((der, format!("{section}\n")))
}

/// Reads a private key as PEM text, unless somebody but its owner may touch the file.
pub(crate) fn read_key_pem(path: &Path) -> Result<String, FileError> {
    let file = open(path)?;
    let mode = file.metadata().map_err(|source| read_error(path, source))?.permissions().mode() & 0o7777;
    if mode & FOREIGN_BITS != 0 {
        return Err(FileError::KeyPermissions { path: path.to_owned(), mode });
    }
    let bytes = read_bounded(path, file)?;
    String::from_utf8(bytes).map_err(|_| FileError::NotPem {
        path: path.to_owned(),
        wanted: "private key",
        why: "it is not text".to_owned(),
    })
}

/// Reads a private key under the rule of [`read_key_pem`].
pub(crate) fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read_key_pem(path)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| FileError::NotPem {
        path: path.to_owned(),
        wanted: "private key",
        why: pem_text(&error),
    })
}

/// Makes `dir` and its parents, mode 0700. A directory that exists keeps its mode: it may be the user's own.
pub(crate) fn make_dir(dir: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(dir)
        .map_err(|source| FileError::Write { path: dir.to_owned(), source })
}

/// Holds off other processes that set up the same directory, until the value is dropped.
pub(crate) fn lock_dir(dir: &Path) -> Result<File, FileError> {
    let handle = open(dir)?;
    rustix::fs::flock(&handle, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| FileError::Write { path: dir.to_owned(), source: error.into() })?;
    Ok(handle)
}

/// Whether the PEM file holds the certificate of `pem`. An unreadable file does not.
pub(crate) fn lists_certificate(path: &Path, pem: &str) -> bool {
    let (Ok(listed), Ok(wanted)) = (read_certificates(path), CertificateDer::from_pem_slice(pem.as_bytes()))
    else {
        return false;
    };
    listed.contains(&wanted)
}

/// Writes a private key, mode 0600 from its first moment.
pub(crate) fn write_key(path: &Path, pem: &str) -> Result<(), FileError> {
    write_atomic(path, pem.as_bytes(), KEY_MODE)
}

/// Writes a certificate, mode 0644.
pub(crate) fn write_certificate(path: &Path, pem: &str) -> Result<(), FileError> {
    write_atomic(path, pem.as_bytes(), CERT_MODE)
}

/// Replaces `path` as a whole: after a crash there is the old file or the new one.
fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let attempt = || -> io::Result<()> {
        // The builder's mode passes through the umask; the second call makes the mode exact.
        let mut file = tempfile::Builder::new()
            .prefix(".orch-certs-")
            .permissions(fs::Permissions::from_mode(mode & KEY_MODE))
            .tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    attempt().map_err(|source| FileError::Write { path: path.to_owned(), source })
}

fn open(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(|source| read_error(path, source))
}

fn read_bounded(path: &Path, file: File) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(|source| read_error(path, source))?;
    Ok(bytes)
}

fn read_error(path: &Path, source: io::Error) -> FileError {
    FileError::Read { path: path.to_owned(), source }
}

/// The parser's own text prints expected markers as byte arrays.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign, open enum whose other texts are fit to print")]
fn pem_text(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "no such section".to_owned(),
        pem::Error::MissingSectionEnd { .. } => "a section has no end line".to_owned(),
        pem::Error::IllegalSectionStart { .. } => "a section starts with a broken line".to_owned(),
        other => other.to_string(),
    }
}

/// A path as it can be pasted into a shell.
fn shell_quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | ':' | '@');
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_private_and_certificates_readable() {
        let dir = tempfile::tempdir().unwrap();
        let nested = dir.path().join("a/b");
        make_dir(&nested).unwrap();
        let (key, cert) = (nested.join("x.key"), nested.join("x.pem"));
        write_key(&key, "k").unwrap();
        write_certificate(&cert, "c").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(&nested), mode(&key), mode(&cert)), (0o700, 0o600, 0o644));
        let left: Vec<_> = fs::read_dir(&nested).unwrap().collect();
        assert_eq!(left.len(), 2, "temporary files remain: {left:?}");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_command_that_mends_it() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("it's a.key");
        write_key(&key, "secret").unwrap();
        for mode in [0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
            let error = read_key_pem(&key).unwrap_err();
            assert!(matches!(error, FileError::KeyPermissions { mode: found, .. } if found == mode));
            let text = error.to_string();
            assert!(text.contains("chmod 600 '") && text.contains(r"it'\''s a.key'"), "{text}");
        }
        fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read_key_pem(&key).unwrap(), "secret");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        write_certificate(&path, "old").unwrap();
        let missing = dir.path().join("missing/x.pem");
        assert!(matches!(write_certificate(&missing, "new"), Err(FileError::Write { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }

    #[test]
    fn files_without_the_wanted_section_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pem");
        for text in [
            "",
            "hello",
            "-----BEGIN CERTIFICATE-----\nAAAA\n",
            "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
        ] {
            write_certificate(&path, text).unwrap();
            let error = read_certificates(&path).unwrap_err();
            assert!(matches!(error, FileError::NotPem { .. }), "{text:?}: {error}");
            assert!(error.to_string().contains("x.pem"), "{error}");
        }
    }
}
