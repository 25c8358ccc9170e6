//! A durable write: 4 KiB appended to a file and `fdatasync`. Knows one file. Refuses to know any store.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::timed;

/// A page of the usual file systems.
const BLOCK: [u8; 4096] = [7; 4096];

/// Times of `count` appends, each durable before the next begins.
pub(crate) fn appends(dir: &Path, count: usize) -> std::io::Result<Vec<Duration>> {
    let mut file = File::create(dir.join("appended"))?;
    timed(count, || {
        file.write_all(&BLOCK)?;
        file.sync_data()
    })
}
