//! The names that the pure core must not speak.
//!
//! Its manifest keeps most libraries out; the standard library offers a clock and a network without any manifest.

use super::Finding;
use super::source::{Source, Token};

/// The folder of crate `orch-core`.
const CORE: &str = "coordinator/core/src/";
/// Crates and types, wherever they stand.
const WORDS: &[&str] = &["tokio", "tonic", "prost", "sled", "rustls", "rand", "HashMap", "HashSet"];
/// Functions that read a clock.
const CLOCKS: &[&str] = &["Instant", "SystemTime"];
/// Modules of `std` that reach the world.
const MODULES: &[&str] = &["fs", "net", "env", "thread", "process", "os"];

pub(super) fn check(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with(CORE) {
        return Vec::new();
    }
    let tokens = source.production_tokens();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let named = token.text.as_str();
        let path_follows = text(at + 1) == ":" && text(at + 2) == ":";
        if WORDS.contains(&named) {
            findings.push(finding(source, token, named));
        } else if CLOCKS.contains(&named) && path_follows && text(at + 3) == "now" {
            findings.push(finding(source, token, &format!("{named}::now")));
        } else if named == "std" && path_follows {
            findings.extend(
                std_modules(tokens, at + 3)
                    .map(|token| finding(source, token, &format!("std::{}", token.text))),
            );
        }
    }
    findings
}

/// The forbidden modules named after `std::`, alone or in the outermost braces.
fn std_modules(tokens: &[Token], start: usize) -> impl Iterator<Item = &Token> {
    let mut depth = 0_usize;
    let mut expects_name = true;
    let braced = tokens.get(start).is_some_and(|token| token.text == "{");
    let span = tokens.get(start..).unwrap_or_default().iter().take_while(move |token| {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > 0
    });
    let mut nested = 0_usize;
    let listed = span.filter(move |token| {
        let name = token.text.as_str();
        let outermost = nested == 1;
        let is_name = outermost && expects_name && MODULES.contains(&name);
        match name {
            "{" => nested += 1,
            "}" => nested = nested.saturating_sub(1),
            _ => {}
        }
        expects_name = matches!(name, "{" | ",") && nested == 1;
        is_name
    });
    let single = tokens.get(start).filter(|token| !braced && MODULES.contains(&token.text.as_str()));
    single.into_iter().chain(listed)
}

fn finding(source: &Source, token: &Token, name: &str) -> Finding {
    let what = format!(
        "the core names `{name}`; it is pure: take time, randomness and data as arguments, answer with effects, keep BTreeMap order"
    );
    Finding::new(&source.path, token.line, "pure-core", what)
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&sample(path, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn impure_names_are_found() {
        for text in [
            "use tokio::sync::mpsc;",
            "fn f() { let x = tonic::Status::ok(\"\"); }",
            "use std::collections::HashMap;",
            "use std::collections::{BTreeMap, HashSet};",
            "fn f() { std::time::Instant::now(); }",
            "use std::time::SystemTime; fn f() { SystemTime::now(); }",
            "use std::fs;",
            "use std::{fmt, net};",
            "use std::{collections::{BTreeMap, BTreeSet}, thread::spawn};",
            "fn f() { std::env::var(\"X\"); }",
            "macro_rules! m { () => { std::fs::read(\"x\") } }",
        ] {
            assert_eq!(lines("coordinator/core/src/x.rs", text), [1], "{text}");
        }
    }

    #[test]
    fn pure_code_comments_strings_and_tests_may_name_them() {
        for text in [
            "use std::{collections::BTreeMap, fmt::{self, Display}};",
            "// tokio\n/// HashMap\nfn f() -> &'static str { \"std::fs\" }",
            "use std::time::Duration; struct Instant; fn f(net: u8, env: u8) {}",
            "#[cfg(test)]\nmod tests { use std::collections::HashMap; }",
        ] {
            assert_eq!(lines("coordinator/core/src/x.rs", text), [0; 0], "{text}");
        }
        assert_eq!(lines("coordinator/src/x.rs", "use tokio::sync::mpsc;"), [0; 0]);
    }
}
