//! Files that fleets of tests are given: keys, and workers that are as they ship but for one thing.
//! Refuses to know what a row does with them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// The worker of most rows, as it ships.
const ANGA: &str = include_str!("../../prompts/workers/ANGA.md");

/// Writes that worker below `dir`, a directory of `--prompts`, without other models to fall back to: rows that end because
/// their model does not answer must not be helped by another.
///
/// # Panics
/// When it has none, or cannot be written.
pub fn without_fallback(dir: &Path) {
    let workers = dir.join("workers");
    std::fs::create_dir_all(&workers).expect("a directory");
    let lines: Vec<&str> = ANGA.lines().filter(|line| !line.starts_with("fallback:")).collect();
    assert!(lines.len() < ANGA.lines().count(), "it has no model to fall back to");
    std::fs::write(workers.join("ANGA.md"), lines.join("\n") + "\n").expect("a worker");
}

/// A file that only its owner may read.
///
/// # Panics
/// When it cannot be written.
pub fn private_file(path: &Path, text: &str) {
    std::fs::write(path, text).expect("a file");
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).expect("its mode");
}
