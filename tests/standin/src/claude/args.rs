//! Knows the command line of `claude` 2.1.197: every documented option, the hidden ones orch passes, and how
//! bad ones are refused (the wording of its parser, exit 1). Refuses to know what an option means.

use std::collections::BTreeMap;

/// How many values an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// None.
    Nothing,
    /// One.
    One,
    /// One, or none when the next argument is an option.
    Maybe,
    /// All up to the next option (`--allowedTools A B`): it swallows a prompt that follows.
    Many,
}

struct Opt {
    /// The name it is stored under.
    name: &'static str,
    /// Other spellings.
    also: &'static [&'static str],
    takes: Takes,
    /// What the parser calls its value in errors.
    value: &'static str,
    choices: &'static [&'static str],
}

const fn opt(name: &'static str, also: &'static [&'static str], takes: Takes, value: &'static str) -> Opt {
    Opt { name, also, takes, value, choices: &[] }
}

const fn switch(name: &'static str) -> Opt {
    opt(name, &[], Takes::Nothing, "")
}

const fn one(name: &'static str, value: &'static str) -> Opt {
    opt(name, &[], Takes::One, value)
}

const MODES: &[&str] = &["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"];

const OPTIONS: &[Opt] = &[
    opt("--print", &["-p"], Takes::Nothing, ""),
    Opt { choices: &["text", "json", "stream-json"], ..one("--output-format", "<format>") },
    Opt { choices: &["text", "stream-json"], ..one("--input-format", "<format>") },
    Opt { choices: MODES, ..one("--permission-mode", "<mode>") },
    switch("--verbose"),
    switch("--include-partial-messages"),
    switch("--include-hook-events"),
    switch("--replay-user-messages"),
    one("--model", "<model>"),
    one("--fallback-model", "<model>"),
    one("--effort", "<level>"),
    one("--session-id", "<uuid>"),
    opt("--resume", &["-r"], Takes::Maybe, "[value]"),
    opt("--continue", &["-c"], Takes::Nothing, ""),
    switch("--fork-session"),
    switch("--no-session-persistence"),
    one("--setting-sources", "<sources>"),
    one("--settings", "<file-or-json>"),
    opt("--mcp-config", &[], Takes::Many, "<configs...>"),
    switch("--strict-mcp-config"),
    opt("--tools", &[], Takes::Many, "<tools...>"),
    opt("--allowedTools", &["--allowed-tools"], Takes::Many, "<tools...>"),
    opt("--disallowedTools", &["--disallowed-tools"], Takes::Many, "<tools...>"),
    one("--permission-prompt-tool", "<tool>"),
    opt("--add-dir", &[], Takes::Many, "<directories...>"),
    one("--max-turns", "<turns>"),
    one("--max-budget-usd", "<amount>"),
    one("--agents", "<json>"),
    one("--agent", "<agent>"),
    one("--json-schema", "<schema>"),
    one("--system-prompt", "<prompt>"),
    one("--system-prompt-file", "<file>"),
    one("--append-system-prompt", "<prompt>"),
    one("--append-system-prompt-file", "<file>"),
    switch("--exclude-dynamic-system-prompt-sections"),
    switch("--dangerously-skip-permissions"),
    switch("--allow-dangerously-skip-permissions"),
    switch("--bare"),
    switch("--safe-mode"),
    switch("--disable-slash-commands"),
    opt("--betas", &[], Takes::Many, "<betas...>"),
    switch("--brief"),
    switch("--ide"),
    switch("--chrome"),
    switch("--no-chrome"),
    opt("--debug", &["-d"], Takes::Maybe, "[filter]"),
    one("--debug-file", "<path>"),
    opt("--file", &[], Takes::Many, "<specs...>"),
    opt("--name", &["-n"], Takes::One, "<name>"),
    one("--plugin-dir", "<path>"),
    one("--plugin-url", "<url>"),
    opt("--prompt-suggestions", &[], Takes::Maybe, "[value]"),
    one("--thinking", "<mode>"),
    one("--max-thinking-tokens", "<tokens>"),
    opt("--version", &["-v"], Takes::Nothing, ""),
    opt("--help", &["-h"], Takes::Nothing, ""),
    // Not of the CLI: prints the table of directives.
    switch("--standin-help"),
];

/// A parsed command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Args {
    values: BTreeMap<&'static str, Vec<String>>,
    /// Words that are no options: a prompt, or a sub-command.
    pub(super) words: Vec<String>,
}

impl Args {
    /// Whether the option was given.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The option's (last) value.
    pub(super) fn one(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    /// All of the option's values.
    pub(super) fn many(&self, name: &str) -> &[String] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Parses the arguments after the program's name.
    ///
    /// # Errors
    /// The line the CLI prints for them.
    pub(super) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self::default();
        let mut rest = args.into_iter().peekable();
        let mut options_over = false;
        while let Some(arg) = rest.next() {
            if options_over || !arg.starts_with('-') || arg == "-" {
                parsed.words.push(arg);
                continue;
            }
            if arg == "--" {
                options_over = true;
                continue;
            }
            let (name, inline) = match arg.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name.to_owned(), Some(value.to_owned())),
                _ => (arg.clone(), None),
            };
            let known = OPTIONS.iter().find(|opt| opt.name == name || opt.also.contains(&name.as_str()));
            let Some(opt) = known else { return Err(format!("error: unknown option '{arg}'")) };
            let values = parsed.values.entry(opt.name).or_default();
            let value_follows = |next: Option<&String>| next.is_some_and(|next| !next.starts_with('-'));
            match (opt.takes, inline) {
                (Takes::Nothing, _) => {}
                (Takes::One | Takes::Maybe | Takes::Many, Some(value)) => values.push(value),
                (Takes::One, None) => {
                    let missing = || format!("error: option '{} {}' argument missing", opt.name, opt.value);
                    values.push(rest.next().ok_or_else(missing)?);
                }
                (Takes::Maybe, None) => {
                    if value_follows(rest.peek()) {
                        values.extend(rest.next());
                    }
                }
                (Takes::Many, None) => {
                    let missing = || format!("error: option '{} {}' argument missing", opt.name, opt.value);
                    values.push(rest.next().ok_or_else(missing)?);
                    while value_follows(rest.peek()) {
                        values.extend(rest.next());
                    }
                }
            }
            check_choice(opt, values.last())?;
        }
        Ok(parsed)
    }
}

fn check_choice(opt: &Opt, value: Option<&String>) -> Result<(), String> {
    let Some(value) = value else { return Ok(()) };
    if opt.choices.is_empty() || opt.choices.contains(&value.as_str()) {
        return Ok(());
    }
    let choices = opt.choices.join(", ");
    Err(format!(
        "error: option '{} {}' argument '{value}' is invalid. Allowed choices are {choices}.",
        opt.name, opt.value
    ))
}

/// Splits a list of rules at commas and spaces outside parentheses: `Bash(touch *), Write`.
pub(super) fn split_rules(values: &[String]) -> Vec<String> {
    let mut rules = Vec::new();
    for value in values {
        let mut rule = String::new();
        let mut depth = 0_usize;
        for c in value.chars() {
            match c {
                ',' | ' ' if depth == 0 => rules.push(std::mem::take(&mut rule)),
                _ => {
                    depth = match c {
                        '(' => depth + 1,
                        ')' => depth.saturating_sub(1),
                        _ => depth,
                    };
                    rule.push(c);
                }
            }
        }
        rules.push(rule);
    }
    rules.retain(|rule| !rule.is_empty());
    rules
}

#[cfg(test)]
mod tests {
    use super::{Args, split_rules};

    fn parse(line: &[&str]) -> Result<Args, String> {
        Args::parse(line.iter().map(ToString::to_string))
    }

    #[test]
    fn what_the_runner_passes_is_understood() {
        let args = parse(&[
            "-p",
            "--output-format",
            "stream-json",
            "--input-format",
            "stream-json",
            "--verbose",
            "--model",
            "sonnet",
            "--session-id",
            "s",
            "--setting-sources",
            "",
            "--strict-mcp-config",
            "--tools",
            "",
            "--allowedTools",
            "Bash",
            "Write",
            "--max-budget-usd",
            "1",
            "--add-dir",
            "/a",
            "/b",
            "--",
            "-prompt",
        ])
        .unwrap();
        assert!(args.has("--print") && args.has("--strict-mcp-config") && !args.has("--bare"));
        assert_eq!(args.one("--setting-sources"), Some(""));
        assert_eq!(args.many("--tools"), [""]);
        assert_eq!(args.many("--allowedTools"), ["Bash", "Write"]);
        assert_eq!(args.words, ["-prompt"]);
    }

    #[test]
    fn bad_options_are_refused_in_the_words_of_the_cli() {
        assert_eq!(
            parse(&["-p", "x", "--no-such-flag"]).unwrap_err(),
            "error: unknown option '--no-such-flag'"
        );
        assert_eq!(parse(&["--model"]).unwrap_err(), "error: option '--model <model>' argument missing");
        assert!(parse(&["--permission-mode", "nonsense"]).unwrap_err().ends_with("default, dontAsk, plan."));
    }

    #[test]
    fn rules_are_split_outside_parentheses() {
        let rules =
            split_rules(&["Bash(touch *),Write Read".to_owned(), "mcp__a__b".to_owned(), String::new()]);
        assert_eq!(rules, ["Bash(touch *)", "Write", "Read", "mcp__a__b"]);
    }
}
