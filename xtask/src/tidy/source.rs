//! A Rust file as the rules see it: text, syntax tree, flat tokens, and where production code ends.
//!
//! Knows Rust's syntax. Refuses to know any rule.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned as _;

/// One token with its line. Groups are flattened; their brackets are tokens of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

/// A parsed file.
pub(super) struct Source {
    /// Relative to the repository, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) tree: syn::File,
    /// Without comments; a documentation comment is the tokens `#[doc = "..."]`.
    pub(super) tokens: Vec<Token>,
    /// The line after which only items under `#[cfg(test)]` follow.
    pub(super) production_lines: usize,
    /// Set if another file declares this one under `#[cfg(test)]`; see [`mark_test_modules`].
    test_module: bool,
}

/// Why a file does not parse.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) what: String,
}

impl Source {
    pub(super) fn parse(path: &str, text: &str) -> Result<Self, SyntaxError> {
        let fail =
            |error: &syn::Error| SyntaxError { line: error.span().start().line, what: error.to_string() };
        let tree = syn::parse_file(text).map_err(|error| fail(&error))?;
        let stream: TokenStream = text.parse().map_err(|error: proc_macro2::LexError| fail(&error.into()))?;
        let mut tokens = Vec::new();
        flatten(stream, &mut tokens);
        let production_lines = production_lines(&tree, text);
        Ok(Self {
            path: path.to_owned(),
            text: text.to_owned(),
            tree,
            tokens,
            production_lines,
            test_module: false,
        })
    }

    /// Whether this file ships: not tests, benchmarks, fuzzing or the test harness.
    pub(super) fn is_production(&self) -> bool {
        let parts = || self.path.split('/');
        !self.test_module
            && parts().any(|part| part == "src")
            && !parts().any(|part| matches!(part, "tests" | "benches" | "fuzz" | "gen"))
    }

    /// The files of modules that this file declares under `#[cfg(test)]` without a body: `a/b` stands for `a/b.rs` and
    /// everything below `a/b/`.
    fn test_modules(&self) -> Vec<String> {
        let (dir, file) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let stem = file.trim_end_matches(".rs");
        let below =
            if matches!(stem, "lib" | "main" | "mod") { dir.to_owned() } else { format!("{dir}/{stem}") };
        let modules = self.tree.items.iter().filter_map(|item| {
            let syn::Item::Mod(item) = item else { return None };
            (item.content.is_none() && only_in_tests(&item.attrs)).then_some(item)
        });
        modules
            .map(|item| match path_attribute(&item.attrs) {
                Some(path) => format!("{dir}/{}", path.trim_end_matches(".rs")),
                None => format!("{below}/{}", item.ident),
            })
            .collect()
    }

    /// The tokens before the trailing tests.
    pub(super) fn production_tokens(&self) -> &[Token] {
        let end = self.tokens.iter().position(|token| token.line > self.production_lines);
        self.tokens.get(..end.unwrap_or(self.tokens.len())).unwrap_or_default()
    }
}

/// Tells each file whether it is a test module of another.
pub(super) fn mark_test_modules(sources: &mut [Source]) {
    let modules: Vec<_> = sources.iter().flat_map(Source::test_modules).collect();
    for source in sources {
        let stem = source.path.trim_end_matches(".rs");
        source.test_module = modules.iter().any(|m| stem == m || source.path.starts_with(&format!("{m}/")));
    }
}

/// Whether `#[cfg(test)]`, exactly so, is among the attributes.
pub(super) fn only_in_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_test = || attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"));
        attribute.path().is_ident("cfg") && is_test()
    })
}

/// The value of `#[path = "..."]`.
fn path_attribute(attributes: &[syn::Attribute]) -> Option<String> {
    let named = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(value), .. }) =
        &named.meta.require_name_value().ok()?.value
    else {
        return None;
    };
    Some(value.value())
}

fn production_lines(tree: &syn::File, text: &str) -> usize {
    let trailing = tree.items.iter().rev().take_while(|item| only_in_tests(attributes(item)));
    match trailing.last() {
        Some(first) => first.span().start().line.saturating_sub(1),
        None => text.lines().count(),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a foreign, open enum; other items are never under cfg(test) alone"
)]
fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        _ => &[],
    }
}

fn flatten(stream: TokenStream, tokens: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                tokens.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), tokens);
                tokens.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            TokenTree::Ident(ident) => tokens.push(Token { text: ident.to_string(), line }),
            TokenTree::Punct(punct) => tokens.push(Token { text: punct.as_char().to_string(), line }),
            TokenTree::Literal(literal) => tokens.push(Token { text: literal.to_string(), line }),
        }
    }
}

#[cfg(test)]
pub(super) fn sample(path: &str, text: &str) -> Source {
    Source::parse(path, text).unwrap_or_else(|error| panic!("{path}:{}: {}", error.line, error.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn production_ends_where_only_tests_follow() {
        let source = sample(
            "a/src/x.rs",
            "//! X.\nfn a() {}\n#[cfg(test)]\nuse b;\n#[cfg(test)]\nmod tests {\n fn t() {}\n}\n",
        );
        assert_eq!(source.production_lines, 2);
        let words: Vec<_> = source.production_tokens().iter().map(|token| token.text.as_str()).collect();
        assert!(words.ends_with(&["fn", "a", "(", ")", "{", "}"]), "{words:?}");
        let source = sample("a/src/x.rs", "#[cfg(test)]\nmod early {}\nfn a() {}\n");
        assert_eq!(source.production_lines, 3);
        assert_eq!(sample("a/src/x.rs", "#[cfg(not(test))]\nfn a() {}\n").production_lines, 2);
    }

    #[test]
    fn tests_and_generated_files_are_not_production() {
        let is_production = |path| sample(path, "").is_production();
        assert!(is_production("coordinator/src/engine.rs") && is_production("coordinator/core/src/lib.rs"));
        for path in ["tests/src/lib.rs", "agent/tests/x.rs", "proto/src/gen/x.rs", "a/benches/x.rs"] {
            assert!(!is_production(path), "{path}");
        }
    }

    #[test]
    fn modules_declared_for_tests_only_are_not_production() {
        let parent = "mod real;\n#[cfg(test)]\nmod checks;\n#[cfg(test)]\n#[path = \"odd.rs\"]\nmod renamed;";
        let files = [
            "src/x.rs",
            "src/x/real.rs",
            "src/x/checks.rs",
            "src/x/checks/more.rs",
            "src/odd.rs",
            "src/checks.rs",
        ];
        let mut sources: Vec<_> =
            files.iter().map(|path| sample(path, if *path == "src/x.rs" { parent } else { "" })).collect();
        mark_test_modules(&mut sources);
        let production: Vec<_> = sources.iter().map(Source::is_production).collect();
        assert_eq!(production, [true, true, false, false, false, true]);
    }

    #[test]
    fn a_file_that_does_not_parse_is_an_error_with_its_line() {
        let error = Source::parse("x.rs", "//! X.\nfn (").err().unwrap();
        assert_eq!(error.line, 2);
    }
}
