//! House rules that no compiler checks. Every finding reads `file:line: rule: what, and how to mend`.
//!
//! Knows which rule looks at which files. Refuses to mend anything.

use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

mod edges;
mod places;
mod pure;
mod shape;
mod source;
mod words;

use source::Source;

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    file: String,
    line: usize,
    rule: &'static str,
    what: String,
}

impl Finding {
    fn new(file: &str, line: usize, rule: &'static str, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, rule, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file, self.line, self.rule, self.what)
    }
}

/// Checks the tree below `root`; an error if anything is found.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let files = tracked(root)?;
    let mut findings = Vec::new();
    let mut sources = Vec::new();
    for path in &files {
        // Only a file that is listed and already deleted cannot be read.
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        findings.extend(words::in_any_file(path, &text, root));
        let generated = path.contains("/gen/");
        if path.ends_with(".rs") && !generated {
            match Source::parse(path, &text) {
                Ok(source) => sources.push(source),
                Err(error) => findings.push(Finding::new(path, error.line, "syntax", error.what)),
            }
        }
    }
    source::mark_test_modules(&mut sources);
    for source in &sources {
        findings.extend(shape::check(source));
        findings.extend(words::in_code(source));
        findings.extend(pure::check(source));
    }
    findings.extend(places::check(&sources));
    findings.extend(edges::check(root)?);

    findings.sort();
    for finding in &findings {
        crate::say(&finding.to_string());
    }
    if !findings.is_empty() {
        bail!("tidy: {} findings in {} files", findings.len(), files.len());
    }
    crate::say(&format!("tidy: {} files, nothing found", files.len()));
    Ok(())
}

/// Files that are in git or would be added to it, so that a finding comes before the commit.
fn tracked(root: &Path) -> anyhow::Result<Vec<String>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let list = String::from_utf8(output.stdout).context("a file name is not UTF-8")?;
    let mut files: Vec<_> = list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
    files.sort();
    files.dedup();
    Ok(files)
}
