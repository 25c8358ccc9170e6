//! The size of files and functions, and the first line of each file.

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::Finding;
use super::source::{Source, only_in_tests};

const MAX_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 80;

pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let first = source.text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    if !first.starts_with("//!") {
        let what = "the file has no caption; open it with `//!`: what it knows and what it refuses to know";
        findings.push(Finding::new(&source.path, 1, "caption", what));
    }
    if !source.is_production() {
        return findings;
    }
    let lines = source.production_lines;
    if lines > MAX_FILE_LINES {
        let what = format!(
            "{lines} lines of production code, {MAX_FILE_LINES} allowed; split it by what its parts know into modules below it"
        );
        findings.push(Finding::new(&source.path, MAX_FILE_LINES + 1, "file-length", what));
    }
    let mut functions = Functions { source, findings };
    functions.visit_file(&source.tree);
    functions.findings
}

struct Functions<'a> {
    source: &'a Source,
    findings: Vec<Finding>,
}

impl Functions<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let first = signature.span().start().line;
        let lines = block.span().end().line.saturating_sub(first) + 1;
        if lines > MAX_FUNCTION_LINES {
            let what = format!(
                "`{}` has {lines} lines, {MAX_FUNCTION_LINES} allowed; give its steps names of their own",
                signature.ident
            );
            self.findings.push(Finding::new(&self.source.path, first, "function-length", what));
        }
    }
}

impl<'ast> Visit<'ast> for Functions<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !only_in_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !only_in_tests(&item.attrs) {
            self.measure(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !only_in_tests(&item.attrs) {
            self.measure(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::source::sample;
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&sample(path, text)).into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn a_file_without_a_caption_is_found() {
        assert_eq!(rules("a/src/x.rs", "\n//! X.\nfn a() {}\n"), [""; 0]);
        assert_eq!(rules("a/src/x.rs", "// X.\nfn a() {}\n"), ["caption"]);
        assert_eq!(rules("a/tests/x.rs", "fn a() {}\n"), ["caption"]);
    }

    #[test]
    fn a_long_file_is_found_and_its_tests_do_not_count() {
        let body = "const A: u8 = 1;\n".repeat(499);
        let tests = "#[cfg(test)]\nmod tests {}\n".repeat(100);
        assert_eq!(rules("a/src/x.rs", &format!("//! X.\n{body}{tests}")), [""; 0]);
        assert_eq!(rules("a/src/x.rs", &format!("//! X.\n{body}\nfn a() {{}}\n{tests}")), ["file-length"]);
        assert_eq!(rules("a/tests/x.rs", &format!("//! X.\n{body}{body}")), [""; 0]);
    }

    #[test]
    fn long_functions_are_found_wherever_they_stand() {
        let function = |lines: usize| format!("fn f() {{\n{}}}\n", "let _ = 1;\n".repeat(lines - 2));
        let wraps = ["", "mod m {", "impl X {", "trait X {", "fn outer() {"];
        for wrap in wraps {
            let close = if wrap.is_empty() { "" } else { "}" };
            let text = |lines| format!("//! X.\n{wrap}\n{}{close}\n", function(lines));
            let outer = usize::from(wrap == "fn outer() {");
            assert_eq!(rules("a/src/x.rs", &text(78)), [""; 0], "{wrap}");
            assert_eq!(rules("a/src/x.rs", &text(81)), vec!["function-length"; 1 + outer], "{wrap}");
        }
        let text = format!("//! X.\n#[cfg(test)]\nmod tests {{ {} }}\n", function(100));
        assert_eq!(rules("a/src/x.rs", &text), [""; 0]);
    }

    #[test]
    fn a_finding_says_where_and_how_to_mend() {
        let text = format!("//! X.\n\n/// F.\nfn long() {{\n{}}}\n", "();\n".repeat(100));
        let finding = check(&sample("a/src/x.rs", &text)).remove(0).to_string();
        let expected = "a/src/x.rs:4: function-length: `long` has 102 lines, 80 allowed; give its steps names of their own";
        assert_eq!(finding, expected);
    }
}
