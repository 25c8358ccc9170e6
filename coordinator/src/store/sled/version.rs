//! Which version of orchd opened a store last: `<store>/version`. For people only; what decides is the schema.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;

use crate::store::dir;

const NAME: &str = "version";
const MOST_BYTES: usize = 64;

fn this() -> String {
    format!("orchd {}", env!("CARGO_PKG_VERSION"))
}

/// Leaves this version's name.
pub(super) fn note(dir: &Path) -> io::Result<()> {
    let path = dir.join(NAME);
    if fs::read_to_string(&path).is_ok_and(|noted| noted == this()) {
        return Ok(());
    }
    dir::private_file().create(true).truncate(true).open(path)?.write_all(this().as_bytes())
}

/// The name that was left, if it is one.
pub(super) fn noted(dir: &Path) -> String {
    let noted = fs::read_to_string(dir.join(NAME)).unwrap_or_default();
    let plain = noted.len() <= MOST_BYTES && noted.starts_with("orchd ") && !noted.contains(char::is_control);
    if plain { noted } else { "a newer orchd".to_owned() }
}
