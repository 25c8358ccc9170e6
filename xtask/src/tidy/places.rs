//! Names that may stand in one place only, so that one file shows all there is to know about an exception.

use std::collections::BTreeMap;

use super::Finding;
use super::source::{Source, Token};

const STORE_FILES: &str = "coordinator/src/store/sled";
const CLI: &str = "cli/src/";
/// What orchctl links only with its feature `dev`.
const DAEMONS: &[&str] = &["orch_coordinator", "orch_agent", "orch_standin"];

pub(super) fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings: Vec<_> = sources.iter().flat_map(sled_outside).collect();
    findings.extend(daemons_in_several_files(sources));
    findings
}

/// `sled` as a crate: not the module of that name, which is declared after `mod` and reached through a path.
fn sled_outside(source: &Source) -> Vec<Finding> {
    if source.path.starts_with(STORE_FILES) {
        return Vec::new();
    }
    let is_module = |at: usize| {
        let text = |back: usize| {
            at.checked_sub(back).and_then(|at| source.tokens.get(at)).map_or("", |t| t.text.as_str())
        };
        let rooted = matches!(text(3), "self" | "super" | "crate" | "store");
        text(1) == "mod" || (text(1) == ":" && rooted)
    };
    let named =
        source.tokens.iter().enumerate().filter(|(at, token)| token.text == "sled" && !is_module(*at));
    named
        .map(|(_, token)| {
            let what = format!("the crate sled is named outside {STORE_FILES}*; go through the Store trait");
            Finding::new(&source.path, token.line, "sled-outside-store", what)
        })
        .collect()
}

fn daemons_in_several_files(sources: &[Source]) -> Vec<Finding> {
    let mut files: BTreeMap<&str, Vec<&Token>> = BTreeMap::new();
    for source in sources.iter().filter(|source| source.path.starts_with(CLI)) {
        let named: Vec<_> =
            source.tokens.iter().filter(|token| DAEMONS.contains(&token.text.as_str())).collect();
        if !named.is_empty() {
            files.insert(&source.path, named);
        }
    }
    if files.len() < 2 {
        return Vec::new();
    }
    // The file that names them most is taken for the intended one.
    let home = files.iter().max_by_key(|(_, named)| named.len()).map(|(path, _)| *path).unwrap_or_default();
    let strays = files.iter().filter(|(path, _)| **path != home);
    strays
        .flat_map(|(path, named)| named.iter().map(move |token| (path, token)))
        .map(|(path, token)| {
            let what = format!(
                "`{}` is named here and in {home}; one file of the CLI links the daemons",
                token.text
            );
            Finding::new(path, token.line, "daemons-in-one-file", what)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let sources: Vec<_> = files.iter().map(|(path, text)| sample(path, text)).collect();
        check(&sources)
            .into_iter()
            .map(|finding| format!("{}:{} {}", finding.file, finding.line, finding.rule))
            .collect()
    }

    #[test]
    fn sled_outside_its_files_is_found() {
        let uses =
            ["use sled::Db;", "fn f(db: sled::Db) {}", "use ::sled::Db;", "fn f() { sled::open(\"x\"); }"];
        for text in uses {
            assert_eq!(
                found(&[("coordinator/src/store.rs", text)]),
                ["coordinator/src/store.rs:1 sled-outside-store"],
                "{text}"
            );
        }
        assert_eq!(found(&[("agent/tests/x.rs", "use sled::Db;")]).len(), 1);
    }

    #[test]
    fn sled_in_its_files_and_the_module_of_that_name_are_fine() {
        let files = [
            ("coordinator/src/store/sled.rs", "use sled::Db;"),
            ("coordinator/src/store/sled/recover.rs", "use sled::Db;"),
            (
                "coordinator/src/store.rs",
                "pub mod sled; use self::sled::SledStore; use crate::store::sled::X;",
            ),
            ("coordinator/src/lib.rs", "// sled\nconst NAME: &str = \"sled\";"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn daemons_named_in_two_files_of_the_cli_are_found() {
        let link = ("cli/src/linked.rs", "use orch_coordinator::a; use orch_agent::b; use orch_standin::c;");
        assert_eq!(found(&[link, ("cli/src/main.rs", "fn main() {}")]), [""; 0]);
        let stray = ("cli/src/main.rs", "\nfn main() { orch_agent::run(); }");
        assert_eq!(found(&[link, stray]), ["cli/src/main.rs:2 daemons-in-one-file"]);
        assert_eq!(found(&[link, ("tests/src/lib.rs", "use orch_agent::b;")]), [""; 0]);
    }
}
