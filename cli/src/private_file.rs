//! Files that nobody else may read, replaced as a whole or not at all. Knows modes and renames; refuses to know what
//! they hold.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde::Serialize;

use crate::exit;
use crate::failure::{Failure, Outcome};

/// A value as indented JSON with a newline.
pub(crate) fn to_json(value: &impl Serialize) -> Outcome<String> {
    let json = serde_json::to_string_pretty(value);
    json.map(|json| json + "\n").map_err(|error| Failure::new(exit::BUG, "cannot write JSON").cause(error))
}

/// Replaces a file as a whole, mode 0600.
pub(crate) fn write_private(path: &Path, text: &str) -> Outcome<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(".orchctl-")
            .permissions(fs::Permissions::from_mode(0o600))
            .tempfile_in(dir)?;
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot write {}", path.display())).cause(error))
}
