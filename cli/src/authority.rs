//! Certificates from an authority of ours: issued or kept, and told as such. Shared by `init`, `certs` and `dev`.
//! Knows what an authority's errors mean to a person; where its directory lies is the caller's business.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use orch_certs::ca::CaError;
use orch_certs::{Ca, Identity, LeafRequest, LeafStatus, Role, TlsFiles};
use orch_proto::codes::ErrorCode;
use schemars::JsonSchema;
use serde::Serialize;

use crate::exit;
use crate::failure::{Failure, Outcome};

/// Something that was made or kept.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Item {
    pub(crate) what: String,
    pub(crate) path: PathBuf,
    pub(crate) made: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) because: Option<String>,
}

impl Item {
    /// `made  coordinator certificate  /etc/…`
    pub(crate) fn line(&self) -> String {
        let verb = if self.made { "made" } else { "kept" };
        let because = match &self.because {
            Some(because) if because != "there was none" => format!("  ({because})"),
            Some(_) | None => String::new(),
        };
        format!("{verb}  {:<30} {}{because}", self.what, self.path.display())
    }
}

/// Issues a certificate, or keeps the one that fits.
pub(crate) fn ensure_leaf(
    ca: &Ca,
    dir: &Path,
    role: Role,
    tenant: &str,
    name: &str,
    hosts: &[String],
    now: SystemTime,
) -> Outcome<(Item, TlsFiles)> {
    let identity = Identity::new(ca.domain(), role, tenant, name)
        .map_err(|error| Failure::coded(ErrorCode::InvalidName, error.to_string()))?;
    let request = LeafRequest::new(identity).hosts(hosts);
    let status = ca.ensure_leaf(dir, &request, now).map_err(|error| ca_failure(&error))?;
    let files = status.files().clone();
    let because = match &status {
        LeafStatus::Kept(_) => None,
        LeafStatus::Issued { because, .. } => Some(because.clone()),
    };
    let what = if name == role.as_str() {
        format!("{role} certificate")
    } else {
        format!("{role} certificate {name}")
    };
    let item = Item { what, path: files.cert.clone(), made: because.is_some(), because };
    Ok((item, files))
}

/// What an authority's error means here.
pub(crate) fn ca_failure(error: &CaError) -> Failure {
    use orch_certs::files::FileError;
    let failure = match error {
        CaError::File(FileError::KeyPermissions { .. }) => {
            Failure::coded(ErrorCode::KeyPermissions, error.to_string())
        }
        CaError::File(FileError::Read { .. } | FileError::Write { .. } | FileError::NotPem { .. })
        | CaError::NotAnAuthority { .. }
        | CaError::Make(_) => Failure::new(exit::FAILED, error.to_string()),
        CaError::Exists { .. } | CaError::OtherDomain { .. } => {
            Failure::new(exit::CONFLICT, error.to_string())
        }
        CaError::Identity(_) => Failure::coded(ErrorCode::InvalidName, error.to_string()),
        CaError::HostsNotAllowed { .. } | CaError::NoHosts | CaError::BadHost { .. } => {
            Failure::usage(error.to_string())
        }
        CaError::Expired { .. } => Failure::coded(ErrorCode::UntrustedCertificate, error.to_string()),
    };
    match std::error::Error::source(error) {
        Some(source) => failure.chain(source),
        None => failure,
    }
}
