//! Calls that fail or wait: a small library in front of the C library, built from `shim.c` when a test begins. Knows how it
//! is told what to do; refuses to know whose calls they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// What is to happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    /// `write`, `fsync`, `fdatasync`, `sync` for both, `range`, `rename` or `open`.
    pub(super) call: &'static str,
    /// Which call of that kind, from 1.
    pub(super) nth: u64,
    /// What it fails with; 0 when it only waits.
    pub(super) errno: i32,
    /// Every later call, too.
    pub(super) lasting: bool,
    /// How long it waits before.
    pub(super) sleep_ms: u64,
}

/// The library.
#[derive(Debug)]
pub(super) struct Shim {
    library: PathBuf,
    log: PathBuf,
    _dir: TempDir,
}

impl Shim {
    /// Builds it, or says why there is none here.
    pub(super) fn build() -> Result<Self, String> {
        let dir =
            tempfile::Builder::new().prefix("orch-shim-").tempdir().map_err(|error| error.to_string())?;
        let (source, library) = (dir.path().join("shim.c"), dir.path().join("shim.so"));
        std::fs::write(&source, include_str!("shim.c")).map_err(|error| error.to_string())?;
        let built = Command::new("gcc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(&source)
            .arg("-ldl")
            .output();
        let built = built.map_err(|error| format!("needs gcc: {error}"))?;
        if !built.status.success() {
            return Err(format!("gcc cannot build the shim: {}", String::from_utf8_lossy(&built.stderr)));
        }
        Ok(Self { library, log: dir.path().join("fired"), _dir: dir })
    }

    /// The environment of a process to which `fault` happens below `dir`. What fired before is forgotten.
    pub(super) fn environment(&self, dir: &Path, fault: &Fault) -> Vec<(String, String)> {
        let _ = std::fs::remove_file(&self.log);
        // The library sees paths without links.
        let dir = std::fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let variables = [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("ORCH_SHIM_DIR", dir.display().to_string()),
            ("ORCH_SHIM_CALL", fault.call.to_owned()),
            ("ORCH_SHIM_NTH", fault.nth.to_string()),
            ("ORCH_SHIM_ERRNO", fault.errno.to_string()),
            ("ORCH_SHIM_ON", u8::from(fault.lasting).to_string()),
            ("ORCH_SHIM_SLEEP", fault.sleep_ms.to_string()),
            ("ORCH_SHIM_LOG", self.log.display().to_string()),
        ];
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Paths of the calls it happened to, in order.
    pub(super) fn fired(&self) -> Vec<String> {
        let lines = super::load::lines(&self.log);
        lines.iter().filter_map(|line| line.splitn(3, ' ').nth(2).map(str::to_owned)).collect()
    }
}

/// An environment as [`orch_tests::fleet::Fleet`] takes it.
pub(super) fn borrowed(environment: &[(String, String)]) -> Vec<(&str, &str)> {
    environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}
