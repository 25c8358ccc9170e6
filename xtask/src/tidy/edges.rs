//! Which of our crates may depend on which, and what each must not link. The table is that of the design document.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::Finding;

/// A row of the table.
struct Row {
    package: &'static str,
    manifest: &'static str,
    /// Internal dependencies of any kind.
    may: &'static [&'static str],
    /// Internal dependencies that only a feature brings.
    optional: &'static [&'static str],
    /// Packages, or `package feature "name"`, that must not be in what ships.
    must_not_link: &'static [&'static str],
    /// Arguments that select the features that ship.
    features: &'static [&'static str],
}

const RUNTIME: &str = "tokio feature \"rt\"";
const ALL: &[&str] =
    &["orch-proto", "orch-certs", "orch-core", "orch-coordinator", "orch-agent", "orchctl", "orch-standin"];

const TABLE: &[Row] = &[
    Row {
        package: "orch-core",
        manifest: "coordinator/core/Cargo.toml",
        may: &[],
        optional: &[],
        must_not_link: &[
            "tokio",
            "tonic",
            "prost",
            "sled",
            "rustls",
            "rand",
            "chrono",
            "jiff",
            "time",
            "tracing-subscriber",
        ],
        features: &[],
    },
    Row {
        package: "orch-proto",
        manifest: "proto/Cargo.toml",
        may: &[],
        optional: &[],
        must_not_link: &[RUNTIME, "sled", "chrono", "jiff", "time"],
        features: &[],
    },
    Row {
        package: "orch-certs",
        manifest: "certs/Cargo.toml",
        may: &[],
        optional: &[],
        must_not_link: &["tonic", "sled"],
        features: &[],
    },
    Row {
        package: "orch-standin",
        manifest: "tests/standin/Cargo.toml",
        may: &[],
        optional: &[],
        must_not_link: &["sled"],
        features: &[],
    },
    Row {
        package: "orch-coordinator",
        manifest: "coordinator/Cargo.toml",
        may: &["orch-core", "orch-proto", "orch-certs"],
        optional: &[],
        must_not_link: &["orch-agent", "orchctl"],
        features: &[],
    },
    Row {
        package: "orch-agent",
        manifest: "agent/Cargo.toml",
        may: &["orch-proto", "orch-certs"],
        optional: &[],
        must_not_link: &["orch-core", "orch-coordinator", "sled"],
        features: &[],
    },
    Row {
        package: "orchctl",
        manifest: "cli/Cargo.toml",
        may: &["orch-proto", "orch-certs"],
        optional: &["orch-coordinator", "orch-agent", "orch-standin"],
        must_not_link: &["orch-coordinator", "orch-agent", "orch-standin", "sled"],
        features: &["--no-default-features"],
    },
    Row {
        package: "orch-tests",
        manifest: "tests/Cargo.toml",
        may: ALL,
        optional: &[],
        must_not_link: &[],
        features: &[],
    },
    Row {
        package: "xtask",
        manifest: "xtask/Cargo.toml",
        may: &[],
        optional: &[],
        must_not_link: &[],
        features: &[],
    },
    Row {
        package: "xtask-limits",
        manifest: "xtask/limits/Cargo.toml",
        may: &["orch-certs"],
        optional: &[],
        must_not_link: &["sled"],
        features: &[],
    },
];

/// Asks cargo and compares.
pub(super) fn check(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let metadata = cargo(root, &["metadata", "--locked", "--no-deps", "--format-version", "1"])?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata answered no JSON")?;
    let mut findings = declared(&metadata);
    for row in TABLE.iter().filter(|row| !row.must_not_link.is_empty()) {
        let mut arguments = vec![
            "tree",
            "--locked",
            "--package",
            row.package,
            "--edges",
            "features,no-dev",
            "--prefix",
            "none",
        ];
        arguments.extend(row.features);
        findings.extend(linked(row, &cargo(root, &arguments)?));
    }
    Ok(findings)
}

fn cargo(root: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output =
        Command::new(cargo).args(arguments).current_dir(root).output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Manifests against the table.
fn declared(metadata: &Value) -> Vec<Finding> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: BTreeSet<_> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(row) = TABLE.iter().find(|row| row.package == name) else {
            let what = format!(
                "the package {name} is not in the table of rooms; add a row in xtask/src/tidy/edges.rs"
            );
            findings.push(Finding::new("Cargo.toml", 1, "rooms", what));
            continue;
        };
        for dependency in package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let on = dependency["name"].as_str().unwrap_or_default();
            if !names.contains(on) || row.may.contains(&on) {
                continue;
            }
            let is_optional = dependency["optional"].as_bool().unwrap_or_default();
            let what = match (row.optional.contains(&on), is_optional) {
                (true, true) => continue,
                (true, false) => format!("{name} may depend on {on} only behind a feature; make it optional"),
                (false, _) => {
                    format!("{name} must not depend on {on}; move what is shared to a room both may use")
                }
            };
            findings.push(Finding::new(row.manifest, 1, "rooms", what));
        }
    }
    findings
}

/// The output of `cargo tree` against the row: lines such as `tokio v1.54.1 (*)` and `tokio feature "rt"`.
fn linked(row: &Row, tree: &str) -> Vec<Finding> {
    let mut present = BTreeSet::new();
    for line in tree.lines() {
        let line = line.trim_end_matches(" (*)");
        present.insert(line.split(' ').next().unwrap_or_default());
        present.insert(line);
    }
    let unwanted = row.must_not_link.iter().filter(|name| present.contains(**name));
    unwanted
        .map(|name| {
            let features =
                if row.features.is_empty() { String::new() } else { format!(" {}", row.features.join(" ")) };
            let what = format!(
                "{}{features} links {name}; see why: cargo tree -p {}{features} -e features,no-dev -i {}",
                row.package,
                row.package,
                name.split(' ').next().unwrap_or_default()
            );
            Finding::new(row.manifest, 1, "must-not-link", what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(package: &str) -> &'static Row {
        TABLE.iter().find(|row| row.package == package).unwrap()
    }

    fn breaches(package: &str, on: &str, optional: bool) -> Vec<String> {
        let metadata = json!({"packages": [
            {"name": package, "dependencies": [{"name": on, "optional": optional}, {"name": "serde", "optional": false}]},
            {"name": on, "dependencies": []},
        ]});
        declared(&metadata).into_iter().map(|finding| finding.to_string()).collect()
    }

    #[test]
    fn edges_outside_the_table_are_found() {
        assert_eq!(breaches("orch-coordinator", "orch-core", false), [""; 0]);
        assert_eq!(
            breaches("orch-agent", "orch-core", false),
            [
                "agent/Cargo.toml:1: rooms: orch-agent must not depend on orch-core; move what is shared to a room both may use"
            ]
        );
        assert_eq!(breaches("orch-agent", "orch-coordinator", true).len(), 1);
        assert_eq!(breaches("orch-core", "orch-proto", false).len(), 1);
        assert_eq!(breaches("xtask", "orch-proto", false).len(), 1);
    }

    #[test]
    fn the_cli_links_daemons_behind_a_feature_only() {
        assert_eq!(breaches("orchctl", "orch-coordinator", true), [""; 0]);
        assert_eq!(
            breaches("orchctl", "orch-coordinator", false),
            [
                "cli/Cargo.toml:1: rooms: orchctl may depend on orch-coordinator only behind a feature; make it optional"
            ]
        );
        assert_eq!(breaches("orchctl", "orch-core", true).len(), 1);
    }

    #[test]
    fn a_package_without_a_row_is_found() {
        let found = declared(&json!({"packages": [{"name": "orch-extra", "dependencies": []}]}));
        assert_eq!(found.len(), 1);
        assert!(found[0].what.starts_with("the package orch-extra is not in the table"), "{}", found[0]);
    }

    #[test]
    fn linked_packages_and_features_are_found() {
        let links =
            |package, tree| linked(row(package), tree).into_iter().map(|f| f.what).collect::<Vec<_>>();
        let clean = "orch-proto v0.1.0 (/x/proto)\ntokio feature \"sync\"\ntokio v1.54.1\ntime-core v0.1.0\n";
        assert_eq!(links("orch-proto", clean), [""; 0]);
        let found = links("orch-proto", "tokio feature \"rt\" (*)\n");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("orch-proto links tokio feature \"rt\"; see why: cargo tree -p orch-proto"),
            "{found:?}"
        );
        assert_eq!(links("orch-certs", "tonic v0.14.9 (*)\n").len(), 1);
        assert!(
            links("orchctl", "sled v0.34.7\n")[0].starts_with("orchctl --no-default-features links sled")
        );
    }
}
