//! Removing blobs that no record names.
//!
//! A blob is written before the record that names it, so being unreferenced proves nothing about a young one. The age
//! is that of the last time somebody stored the bytes, and it is looked at again under the lock that storing takes:
//! a blob that was stored again meanwhile stays. Nothing is removed while somebody copies what is there.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::file::{Files, io_at};
use super::{BlobError, Kept, Listed, Swept};
use crate::store::Tenant;

pub(super) fn sweep(
    files: &Files,
    min_age: Duration,
    now: SystemTime,
    is_referenced: &mut dyn FnMut(Tenant, &Kept) -> bool,
) -> Result<Swept, BlobError> {
    let is_old = |meta: &Metadata| {
        let age = meta.modified().ok().and_then(|modified| now.duration_since(modified).ok());
        age.is_some_and(|age| age >= min_age)
    };
    let mut swept = Swept::default();
    for_each_entry(files.root(), &mut |tenant_dir| {
        let Some(tenant) = named(&tenant_dir).map(Tenant::new) else { return Ok(()) };
        for_each_entry(&tenant_dir.path(), &mut |group| {
            for_each_entry(&group.path(), &mut |entry| {
                let Some(kept) = kept(&group, &entry) else { return Ok(()) };
                let path = entry.path();
                let found = vanished_is_none(entry.metadata()).map_err(io_at("look up", &path))?;
                if !found.is_some_and(|meta| is_old(&meta)) || is_referenced(tenant, &kept) {
                    return Ok(());
                }
                let _names = files.lock_names();
                let again = vanished_is_none(fs::metadata(&path)).map_err(io_at("look up", &path))?;
                if let Some(meta) = again.filter(is_old) {
                    let Some(removed) = files.holds().delete(|| fs::remove_file(&path)) else {
                        return Ok(());
                    };
                    removed.map_err(io_at("remove", &path))?;
                    swept.files += 1;
                    swept.bytes += meta.len();
                }
                Ok(())
            })
        })
    })?;
    Ok(swept)
}

/// Everything that is there.
pub(super) fn list(files: &Files) -> Result<Vec<Listed>, BlobError> {
    let mut found = Vec::new();
    for_each_entry(files.root(), &mut |tenant_dir| {
        let Some(tenant) = named(&tenant_dir).map(Tenant::new) else { return Ok(()) };
        for_each_entry(&tenant_dir.path(), &mut |group| {
            for_each_entry(&group.path(), &mut |entry| {
                let Some(kept) = kept(&group, &entry) else { return Ok(()) };
                let meta = vanished_is_none(entry.metadata()).map_err(io_at("look up", &entry.path()))?;
                found.extend(meta.map(|meta| Listed { tenant, kept, len: meta.len() }));
                Ok(())
            })
        })
    })?;
    Ok(found)
}

/// Visits what is in a directory; nothing when it is none.
fn for_each_entry(
    dir: &Path,
    visit: &mut dyn FnMut(DirEntry) -> Result<(), BlobError>,
) -> Result<(), BlobError> {
    if !dir.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
        visit(entry.map_err(io_at("list", dir))?)?;
    }
    Ok(())
}

/// What a file is by its place and name; none for anything that was not made here.
fn kept(group: &DirEntry, entry: &DirEntry) -> Option<Kept> {
    if group.file_name() == "packs" { named(entry).map(Kept::Pack) } else { named(entry).map(Kept::Blob) }
}

fn named<T: std::str::FromStr>(entry: &DirEntry) -> Option<T> {
    entry.file_name().to_str()?.parse().ok()
}

fn vanished_is_none(found: io::Result<Metadata>) -> io::Result<Option<Metadata>> {
    match found {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
