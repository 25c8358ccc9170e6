//! Words that must not stay: unfinished work, silenced lints without a reason, paths and hosts of one machine.

use std::path::Path;

use super::Finding;
use super::source::{Source, Token};

/// Assembled, so that this file does not break its own rule.
const UNFINISHED: &str = concat!("FIX", "ME");
/// Where this software is developed.
const WORKSHOP: &str = concat!("/wo", "rk/");
/// Hosts of package registries: they belong into lock files and into the user's own settings.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("npmjs", "."),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("proxy.golang", ".org"),
];
const LOCK_FILES: &[&str] = &["Cargo.lock", "package-lock.json"];

/// Rules over the text of every tracked file.
pub(super) fn in_any_file(path: &str, text: &str, root: &Path) -> Vec<Finding> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if LOCK_FILES.contains(&name) {
        return Vec::new();
    }
    let checkout = format!("{}/", root.display());
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if let Some(found) = [checkout.as_str(), WORKSHOP].into_iter().find(|place| names_path(line, place)) {
            let what =
                format!("the path {found} exists on one machine only; use a relative path or a variable");
            findings.push(Finding::new(path, at + 1, "machine-path", what));
        }
        if let Some(found) = REGISTRIES.iter().find(|host| line.contains(**host)) {
            let what = format!("the registry host {found} is the user's to configure; name the package only");
            findings.push(Finding::new(path, at + 1, "registry-host", what));
        }
        if name.ends_with(".rs") && line.contains(UNFINISHED) {
            let what = format!(
                "{UNFINISHED} marks unfinished work; finish it or state the limit in the documentation"
            );
            findings.push(Finding::new(path, at + 1, "unfinished", what));
        }
    }
    findings
}

/// Rules over the tokens of every Rust file, tests included.
pub(super) fn in_code(source: &Source) -> Vec<Finding> {
    let tokens = &source.tokens;
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut findings = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let mut found = |rule, what: &str| findings.push(Finding::new(&source.path, token.line, rule, what));
        match token.text.as_str() {
            "todo" | "unimplemented" if text(at + 1) == "!" => {
                found("unfinished", "a macro that panics in place of work; write the work");
            }
            "#" => {
                let open = if text(at + 1) == "!" { at + 2 } else { at + 1 };
                if text(open) != "[" {
                    continue;
                }
                let attribute = group(tokens, open);
                if attribute.first().is_some_and(|word| word.text == "ignore") {
                    found("ignored-test", "a test that never runs proves nothing; make it run or delete it");
                }
                if lint_exception_without_reason(attribute) {
                    found(
                        "lint-reason",
                        "a lint is silenced without a reason; write #[expect(lint, reason = \"...\")]",
                    );
                }
            }
            _ => {}
        }
    }
    findings
}

/// Whether `place` stands in `line` as the start of a path.
fn names_path(line: &str, place: &str) -> bool {
    let inside_a_path =
        |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '}' | '>' | '*' | '/' | '~' | '$');
    line.match_indices(place).any(|(at, _)| !line.get(..at).unwrap_or_default().ends_with(inside_a_path))
}

/// The tokens inside the bracket that opens at `open`.
fn group(tokens: &[Token], open: usize) -> &[Token] {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return tokens.get(open + 1..at).unwrap_or_default();
        }
    }
    &[]
}

/// `allow(...)` or `expect(...)` without `reason =`, directly or inside `cfg_attr`.
fn lint_exception_without_reason(attribute: &[Token]) -> bool {
    let text = |at: usize| attribute.get(at).map_or("", |token| token.text.as_str());
    (0..attribute.len()).any(|at| {
        let silences = matches!(text(at), "allow" | "expect") && text(at + 1) == "(";
        let leads = at == 0 || (text(0) == "cfg_attr" && matches!(text(at - 1), "," | "("));
        silences && leads && !group(attribute, at + 1).iter().any(|token| token.text == "reason")
    })
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn in_text(path: &str, text: &str) -> Vec<&'static str> {
        in_any_file(path, text, Path::new("/somewhere/orch"))
            .into_iter()
            .map(|finding| finding.rule)
            .collect()
    }

    fn in_rust(text: &str) -> Vec<&'static str> {
        in_code(&sample("a/src/x.rs", text)).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn paths_of_one_machine_are_found() {
        for line in
            [&format!("see {WORKSHOP}notes"), &format!("\"{WORKSHOP}x\""), "cd /somewhere/orch/coordinator"]
        {
            assert_eq!(in_text("docs/x.md", line), ["machine-path"], "{line}");
        }
        for line in [
            &format!("tasks/7{WORKSHOP}out"),
            &format!("$HOME{WORKSHOP}"),
            &format!("<task>{WORKSHOP}x"),
            "/usr/bin",
        ] {
            assert_eq!(in_text("docs/x.md", line), [""; 0], "{line}");
        }
    }

    #[test]
    fn registry_hosts_are_found_outside_lock_files() {
        for host in REGISTRIES {
            let line = format!("source = \"https://{host}/x\"");
            assert_eq!(in_text("deny.toml", &line), ["registry-host"], "{host}");
            assert_eq!(in_text("Cargo.lock", &line), [""; 0], "{host}");
        }
    }

    #[test]
    fn unfinished_work_is_found() {
        assert_eq!(in_text("a/src/x.rs", &format!("// {UNFINISHED} later")), ["unfinished"]);
        // Spelled apart, or this file would hold what it looks for.
        let (later, never) = ("todo", "unimplemented");
        assert_eq!(in_rust(&format!("fn f() {{ {later}!() }}")), ["unfinished"]);
        assert_eq!(in_rust(&format!("fn f() {{ {never}!(\"x\") }}")), ["unfinished"]);
        let harmless = format!("// {later}!()\nfn {later}() {{ let s = \"{later}!()\"; }}");
        assert_eq!(in_rust(&harmless), [""; 0]);
    }

    #[test]
    fn ignored_tests_are_found() {
        let ignored = "ignore";
        assert_eq!(in_rust(&format!("#[{ignored}]\nfn f() {{}}")), ["ignored-test"]);
        assert_eq!(in_rust(&format!("#[test]\n#[{ignored} = \"slow\"]\nfn f() {{}}")), ["ignored-test"]);
    }

    #[test]
    fn lints_silenced_without_a_reason_are_found() {
        for text in [
            "#![allow(dead_code)]",
            "#[expect(clippy::unwrap_used)]\nfn f() {}",
            "#[cfg_attr(test, allow(dead_code))]\nfn f() {}",
            "mod m { fn g() { #[allow(unused)] let x = 1; } }",
        ] {
            assert_eq!(in_rust(text), ["lint-reason"], "{text}");
        }
        for text in [
            "#![expect(dead_code, reason = \"x\")]",
            "#[cfg_attr(test, allow(dead_code, reason = \"x\"))]\nfn f() {}",
            "fn f() { x.expect(\"y\"); }",
            "#[cfg(feature = \"allow\")]\nfn allow(x: u8) {}",
        ] {
            assert_eq!(in_rust(text), [""; 0], "{text}");
        }
    }
}
