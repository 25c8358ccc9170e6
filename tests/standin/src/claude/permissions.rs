//! Knows which tool calls a permission mode and its rules let through, as far as `claude` 2.1.197 was observed
//! (headless, so whatever would be asked is refused), and the wording of refusals. Refuses to be a
//! security boundary: it imitates one.

use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::settings::Settings;

/// What becomes of a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It runs.
    Allow,
    /// A person would be asked; without one it is refused with this text.
    Ask(String),
    /// It is refused with this text, whoever might be asked.
    Deny(String),
}

/// Commands that only look.
const READ_ONLY: &[&str] = &[
    "cat", "cd", "cut", "date", "diff", "echo", "false", "file", "find", "grep", "head", "id", "ls", "nproc",
    "printf", "pwd", "sleep", "sort", "stat", "tail", "tr", "true", "uniq", "wc", "which", "whoami",
];
/// Commands that count as edits.
const EDITS: &[&str] = &["cp", "mkdir", "mv", "rm", "rmdir", "sed", "touch"];

/// Judges a call of `tool` with `input` under `mode`.
pub(super) fn judge(settings: &Settings, mode: &str, tool: &str, input: &Value) -> Verdict {
    let field = |name: &str| input.get(name).and_then(Value::as_str).unwrap_or_default();
    let (command, path) = (field("command"), absolute(&settings.env.cwd, field("file_path")));
    if settings.disallowed.iter().any(|rule| covers(rule, tool, command, &path, Any::Part)) {
        return Verdict::Deny(denied(tool, command));
    }
    if matches!(tool, "Agent" | "StructuredOutput") || mode == "bypassPermissions" {
        return Verdict::Allow;
    }
    if settings.allowed.iter().any(|rule| covers(rule, tool, command, &path, Any::Whole)) {
        return Verdict::Allow;
    }
    match tool {
        "Bash" => bash(settings, mode, command),
        "Read" | "Glob" | "Grep" if inside(settings, &path) => Verdict::Allow,
        "Write" | "Edit" if mode == "plan" => {
            Verdict::Deny(format!("Cannot write to {} while in plan mode.", path.display()))
        }
        "Write" | "Edit" if mode == "acceptEdits" && inside(settings, &path) => Verdict::Allow,
        _ if mode == "dontAsk" => Verdict::Deny(dont_ask(tool)),
        "Write" | "Edit" => Verdict::Ask(format!(
            "Claude requested permissions to write to {}, but you haven't granted it yet.",
            path.display()
        )),
        _ => Verdict::Ask(format!(
            "Claude requested permissions to use {tool}, but you haven't granted it yet."
        )),
    }
}

fn bash(settings: &Settings, mode: &str, command: &str) -> Verdict {
    let parts = parts(command);
    let edits_ok = mode == "acceptEdits";
    let harmless = |part: &&str| {
        let word = part.split_whitespace().next().unwrap_or_default();
        let redirected = part.contains('>') && !part.contains("2>&1") && !part.contains(">/dev/null");
        (READ_ONLY.contains(&word) || (edits_ok && EDITS.contains(&word))) && (edits_ok || !redirected)
    };
    let rule_for = |part: &&str| {
        let none = Path::new("");
        settings.allowed.iter().any(|rule| covers(rule, "Bash", part, none, Any::Whole))
    };
    let open: Vec<&str> = parts.iter().copied().filter(|part| !harmless(part) && !rule_for(part)).collect();
    match open.as_slice() {
        [] => Verdict::Allow,
        _ if mode == "dontAsk" => Verdict::Deny(dont_ask("Bash")),
        [only] if parts.len() > 1 => Verdict::Ask(format!(
            "This Bash command contains multiple operations. The following part requires approval: {only}"
        )),
        _ => Verdict::Ask("This command requires approval".to_owned()),
    }
}

/// How much of a command a rule must cover.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Any {
    /// All of it: an allow rule.
    Whole,
    /// Any part of it: a deny rule.
    Part,
}

/// Whether `rule` (`Tool`, `Bash(prefix *)`, `Write(//abs/path)`) covers the call.
fn covers(rule: &str, tool: &str, command: &str, path: &Path, how: Any) -> bool {
    let Some((name, pattern)) = rule.split_once('(') else { return canonical(rule) == tool };
    let pattern = pattern.trim_end_matches(')');
    if canonical(name) != tool {
        return false;
    }
    if tool == "Bash" {
        let prefix = pattern.strip_suffix('*').map(|prefix| prefix.trim_end_matches([':', ' ']));
        let fits = |part: &&str| match prefix {
            Some(prefix) => *part == prefix || part.starts_with(&format!("{prefix} ")),
            None => *part == pattern,
        };
        let parts = parts(command);
        return match how {
            Any::Whole => !parts.is_empty() && parts.iter().all(fits),
            Any::Part => parts.iter().any(fits),
        };
    }
    let pattern = pattern.strip_prefix('/').filter(|rest| rest.starts_with('/')).unwrap_or(pattern);
    match pattern.strip_suffix("/**") {
        Some(dir) => path.starts_with(dir),
        None => path == Path::new(pattern),
    }
}

/// The tool a rule names; `Task` is the old name of `Agent`.
pub(super) fn canonical(name: &str) -> &str {
    if name == "Task" { "Agent" } else { name }
}

/// The commands of a compound command.
fn parts(command: &str) -> Vec<&str> {
    let pieces =
        command.split("&&").flat_map(|part| part.split("||")).flat_map(|part| part.split([';', '|', '\n']));
    pieces.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn inside(settings: &Settings, path: &Path) -> bool {
    path.starts_with(&settings.env.cwd) || settings.add_dirs.iter().any(|dir| path.starts_with(dir))
}

/// `path` below `cwd` when it is relative, with `.` and `..` resolved by name.
pub(super) fn absolute(cwd: &Path, path: &str) -> PathBuf {
    let mut whole = PathBuf::new();
    for component in cwd.join(path).components() {
        match component {
            Component::ParentDir => {
                whole.pop();
            }
            Component::CurDir => {}
            Component::Prefix(_) | Component::RootDir | Component::Normal(_) => whole.push(component),
        }
    }
    whole
}

fn denied(tool: &str, command: &str) -> String {
    if tool == "Bash" {
        format!("Permission to use Bash with command {command} has been denied.")
    } else {
        format!("Permission to use {tool} has been denied.")
    }
}

fn dont_ask(tool: &str) -> String {
    format!("Permission to use {tool} has been denied because Claude Code is running in don't ask mode.")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Verdict, judge};
    use crate::claude::args::Args;
    use crate::claude::environment::Environment;
    use crate::claude::settings::Settings;

    fn settings(more: &[&str]) -> Settings {
        let all = ["-p"].iter().chain(more).map(ToString::to_string);
        Settings::build(&Args::parse(all).unwrap(), Vec::new(), Environment::for_tests()).unwrap()
    }

    fn bash(command: &str) -> Value {
        json!({"command": command})
    }

    fn write(path: &str) -> Value {
        json!({"file_path": path, "content": "x"})
    }

    #[test]
    fn modes_let_through_what_the_observed_table_says() {
        let plain = settings(&[]);
        let allows =
            |mode: &str, tool: &str, input: &Value| judge(&plain, mode, tool, input) == Verdict::Allow;
        for (mode, inside, outside, look, touch, other) in [
            ("default", false, false, true, false, false),
            ("acceptEdits", true, false, true, true, false),
            ("dontAsk", false, false, true, false, false),
            ("plan", false, false, true, false, false),
            ("bypassPermissions", true, true, true, true, true),
        ] {
            assert_eq!(allows(mode, "Write", &write("a.txt")), inside, "{mode} inside");
            assert_eq!(allows(mode, "Write", &write("../a.txt")), outside, "{mode} outside");
            assert_eq!(allows(mode, "Bash", &bash("cat a; id")), look, "{mode} look");
            assert_eq!(allows(mode, "Bash", &bash("touch a && ls")), touch, "{mode} touch");
            assert_eq!(allows(mode, "Bash", &bash("python3 -c 1")), other, "{mode} other");
        }
        assert!(!allows("default", "Bash", &bash("echo a > b")));
    }

    #[test]
    fn rules_cover_every_part_and_deny_beats_allow() {
        let touch = settings(&["--allowedTools", "Bash(touch *)", "Write(//tmp/x)"]);
        assert_eq!(judge(&touch, "dontAsk", "Bash", &bash("touch a")), Verdict::Allow);
        assert_eq!(judge(&touch, "dontAsk", "Write", &write("/tmp/x")), Verdict::Allow);
        let Verdict::Ask(text) = judge(&touch, "default", "Bash", &bash("touch a && python3 -c 1")) else {
            panic!()
        };
        assert!(text.ends_with("requires approval: python3 -c 1"));
        let both = settings(&["--allowedTools", "Bash", "--disallowedTools", "Bash(touch *)"]);
        assert!(matches!(judge(&both, "default", "Bash", &bash("touch a && ls")), Verdict::Deny(_)));
        assert_eq!(judge(&both, "default", "Bash", &bash("make")), Verdict::Allow);
    }
}
