//! Manifests: the list of the files that an attempt handed over, as it rests in a blob.
//! Knows what a path of a file may be and how many there may be; refuses to know what the files are.

use std::collections::BTreeSet;

use orch_proto::parts::count;
use orch_proto::v1;
use prost::Message as _;

use super::{BulkError, read};
use crate::blobs::{BlobLocation, Blobs};
use crate::store::Tenant;

/// Most files of one attempt.
pub const MAX_FILES: usize = 10_000;
/// Longest path of a file beneath `out/`, in bytes.
pub const MAX_PATH_BYTES: usize = 1_024;
/// Longest manifest: as many files as there may be, each with the longest path, its digest, its place and the framing.
const MAX_MANIFEST_BYTES: u64 = MAX_FILES as u64 * (MAX_PATH_BYTES as u64 + 160);

/// Why a manifest is refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read, or is none.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// Too many files.
    #[error("{0} files; at most {MAX_FILES}")]
    TooMany(usize),
    /// A path that a file beneath `out/` cannot have.
    #[error("`{}` is not the path of a file beneath `out/`: {why}", path.escape_debug())]
    Path {
        /// The path, cut.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Two files of one path.
    #[error("`{}` is there twice", .0.escape_debug())]
    Twice(String),
    /// The bytes of a file are not stored under this tenant, or are others than it says.
    #[error("the bytes of `{}` are not stored here", .0.escape_debug())]
    NotStored(String),
}

/// The manifest that a record names, which was checked before it was recorded.
///
/// # Errors
/// [`BulkError`].
pub fn open(blobs: &dyn Blobs, tenant: Tenant, blob: &v1::BlobRef) -> Result<v1::Manifest, BulkError> {
    Ok(v1::Manifest::decode(read(blobs, tenant, blob, MAX_MANIFEST_BYTES)?.as_slice())?)
}

/// The manifest in `blob`, each of its files checked: its path, and that its bytes are stored. They are kept from
/// sweeps until a record names them.
///
/// # Errors
/// [`ManifestError`].
pub fn open_checked(
    blobs: &dyn Blobs,
    tenant: Tenant,
    blob: &v1::BlobRef,
) -> Result<v1::Manifest, ManifestError> {
    let bytes = read(blobs, tenant, blob, MAX_MANIFEST_BYTES)?;
    // Before anything is made of them: an entry of two bytes takes a hundred in memory.
    let files = count("orch.v1.Manifest", &bytes, MAX_FILES);
    if files > MAX_FILES {
        return Err(ManifestError::TooMany(files));
    }
    let manifest = v1::Manifest::decode(bytes.as_slice()).map_err(BulkError::from)?;
    let mut seen = BTreeSet::new();
    for artifact in &manifest.artifacts {
        let path = artifact.path.as_str();
        check_path(path).map_err(|why| ManifestError::Path { path: path.chars().take(80).collect(), why })?;
        if !seen.insert(path) {
            return Err(ManifestError::Twice(path.to_owned()));
        }
        if !is_stored(blobs, tenant, artifact.blob.as_ref())? {
            return Err(ManifestError::NotStored(path.to_owned()));
        }
    }
    Ok(manifest)
}

/// Whether a path can be that of a file beneath `out/`; why not, if it cannot.
///
/// # Errors
/// In plain English.
pub fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > MAX_PATH_BYTES {
        return Err("a path has 1 to 1,024 bytes");
    }
    if path.chars().any(char::is_control) {
        return Err("it holds a control character");
    }
    if path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err("it is relative, and no part of it is empty, `.` or `..`");
    }
    Ok(())
}

/// Whether exactly what a file says of its bytes is stored.
fn is_stored(blobs: &dyn Blobs, tenant: Tenant, blob: Option<&v1::BlobRef>) -> Result<bool, BulkError> {
    let Some(blob) = blob else { return Ok(false) };
    let Ok(location @ BlobLocation::Blob(_)) = blob.location.parse::<BlobLocation>() else {
        return Ok(false);
    };
    if location.digest().0 != *blob.digest {
        return Ok(false);
    }
    Ok(blobs.keep(tenant, &location)? == Some(blob.size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blobs::FileBlobs;
    use crate::payloads::bulk::reference;

    const T: Tenant = Tenant::DEFAULT;

    fn blobs() -> (tempfile::TempDir, FileBlobs) {
        let dir = tempfile::tempdir().unwrap();
        let blobs = FileBlobs::open(dir.path()).unwrap();
        (dir, blobs)
    }

    fn check(blobs: &FileBlobs, artifacts: Vec<v1::Artifact>) -> Result<v1::Manifest, ManifestError> {
        let manifest = v1::Manifest { artifacts }.encode_to_vec();
        open_checked(blobs, T, &reference(&blobs.put(T, &manifest).unwrap()))
    }

    #[test]
    fn paths_stay_beneath_their_directory() {
        for good in ["a", "a/b.md", "...", "a b", "ünï/文.txt", ".hidden"] {
            assert_eq!(check_path(good), Ok(()), "{good}");
        }
        let long = "x".repeat(MAX_PATH_BYTES + 1);
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", ".", "..", "a\nb", "a\0", &long]
        {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_file_whose_bytes_are_not_exactly_those_of_its_tenant_is_refused() {
        let (_dir, blobs) = blobs();
        let ours = reference(&blobs.put(T, b"ours").unwrap());
        let theirs = reference(&blobs.put(Tenant::new(2), b"theirs").unwrap());
        let file = |blob| vec![v1::Artifact { path: "a".into(), blob, executable: false }];
        assert_eq!(check(&blobs, file(Some(ours.clone()))).unwrap().artifacts.len(), 1);
        let longer = v1::BlobRef { size: 5, ..ours.clone() };
        let other = v1::BlobRef { digest: vec![1; 32], ..ours.clone() };
        let packed = v1::BlobRef { location: format!("p:{}:0:4:{}", "0".repeat(32), "0".repeat(64)), ..ours };
        for blob in [None, Some(theirs), Some(longer), Some(other), Some(packed)] {
            let refused = check(&blobs, file(blob)).unwrap_err();
            assert!(matches!(refused, ManifestError::NotStored(_)), "{refused:?}");
        }
    }

    #[test]
    fn too_many_files_repetitions_and_traversals_are_refused() {
        let (_dir, blobs) = blobs();
        let blob = Some(reference(&blobs.put(T, b"x").unwrap()));
        let file = |path: String| v1::Artifact { path, blob: blob.clone(), executable: false };
        let refused = check(&blobs, vec![file("a".into()), file("a".into())]).unwrap_err();
        assert!(matches!(refused, ManifestError::Twice(_)), "{refused:?}");
        let refused = check(&blobs, vec![file("../../etc/passwd".into())]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`../../etc/passwd` is not the path of a file beneath `out/`: it is relative, and no part of it is empty, `.` \
             or `..`"
        );
        let most: Vec<_> = (0..MAX_FILES).map(|at| file(format!("{at}"))).collect();
        assert_eq!(check(&blobs, most.clone()).unwrap().artifacts.len(), MAX_FILES);
        let more = [most, vec![file("more".into())]].concat();
        assert!(matches!(check(&blobs, more).unwrap_err(), ManifestError::TooMany(10_001)));
    }
}
