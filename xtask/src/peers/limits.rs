//! The limits of the machine: builds the program in xtask/limits as a release and runs it. Refuses to know what it measures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::session::{Bench, CLIENT_LIMIT};
use crate::measure::process::output;
use crate::measure::results::Sample;

const PACKAGE: &str = "xtask-limits";

/// Why they cannot be measured: building is part of finding out.
pub(super) fn lacks(root: &Path) -> Option<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--release", "--quiet", "--package", PACKAGE]).current_dir(root);
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => None,
        Ok(status) => Some(format!("{PACKAGE} does not build: {status}")),
        Err(error) => Some(format!("cannot run cargo: {error}")),
    }
}

/// One measurement of all of them.
pub(super) fn measure(bench: &Bench<'_>) -> anyhow::Result<Sample> {
    let dir = bench.fresh()?;
    let mut command = Command::new(program(bench.root));
    command.arg(dir.path()).arg(bench.counts.divisor.to_string());
    let printed = output(command, &bench.log("limits"), CLIENT_LIMIT, bench.interrupt)?;
    Sample::read(&printed, PACKAGE)
}

fn program(root: &Path) -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    target.join("release").join(PACKAGE)
}
