//! Knows every directive's name, who understands it and its one-line description: the table that
//! the README repeats and `standin-claude --standin-help` prints. Refuses to act on any of them.

/// Who carries a directive out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// What a model would answer: both stand-ins.
    Model,
    /// What the CLI process itself does, mostly badly: the scripted CLI alone.
    Cli,
}

/// One row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The name inside `[[…]]`.
    pub name: &'static str,
    /// Who understands it.
    pub side: Side,
    /// Its fields, all optional unless said otherwise.
    pub fields: &'static str,
    /// What it does.
    pub does: &'static str,
}

const fn model(name: &'static str, fields: &'static str, does: &'static str) -> Entry {
    Entry { name, side: Side::Model, fields, does }
}

const fn cli(name: &'static str, fields: &'static str, does: &'static str) -> Entry {
    Entry { name, side: Side::Cli, fields, does }
}

/// All directives. Adding one here without a README row fails a test.
pub const CATALOGUE: &[Entry] = &[
    model(
        "text",
        "text, usage, headers, delay_ms",
        "answer with this text (default `ok`); before a tool call it is the same message's preamble",
    ),
    model("think", "thinking, text, usage", "a thinking block, then the text"),
    model("echo", "", "answer with the prompt exactly as the model saw it"),
    model(
        "tool",
        "name, input, text, usage",
        "call one tool: Bash, Write, Edit and Read really act, in the working directory",
    ),
    model("tools", "calls: [{name, input}], text, usage", "several tool calls in one message"),
    model(
        "agent",
        "type, prompt, description, model, text, usage, input",
        "call the Agent tool; `prompt` may hold directives for the sub-agent",
    ),
    model("subagent", "as agent", "the same as `agent`"),
    model("structured", "the object itself", "call StructuredOutput with the argument as its input"),
    model("loop", "name, input, times, usage", "call the tool again and again: `times` times, or for ever"),
    model("slow", "chunks, delay_ms", "a text that comes in pieces, with a pause before each"),
    model(
        "usage",
        "input, output, cache_read, cache_write",
        "tokens of every following answer (default 100 in, 20 out)",
    ),
    model(
        "api",
        "calls, input, output, grow, forever, subagents, subagent: {…}",
        "really ask the API at `ANTHROPIC_BASE_URL`: so many requests with so many tokens, after those of sub-agents",
    ),
    model("sleep", "ms", "wait before the next answer"),
    model(
        "error",
        "status, message, headers, retry_after, times, only_model",
        "an API error; with `times` the request succeeds after so many failures",
    ),
    model("hang", "times", "no answer at all; after a tool this is the silence after a tool result"),
    model("hangmid", "times", "the answer starts, then falls silent"),
    model("cut", "times", "the connection is lost in the middle of an answer"),
    model("reset", "times", "the connection is lost before any answer"),
    model("refusal", "text", "the model refuses (stop_reason refusal)"),
    model("maxtok", "text", "the answer always stops at the output limit"),
    model(
        "rate_limit",
        "status, resets_at, resets_in, type, utilization",
        "a subscription's window: status `rejected` (default) ends the run with 429, any other is told with the next answer",
    ),
    model(
        "plan",
        "the plan itself",
        "what the rehearsed planner answers; whoever plays another part takes no note of it",
    ),
    model(
        "then",
        "prompt",
        "read the next prompt that holds no directives as this one, such as the runner's repair line",
    ),
    cli("deny", "tool, input, message", "a tool call that is refused and counted in permission_denials"),
    cli(
        "report",
        "values",
        "answer with JSON: argv, cwd, environment names (with `values` their values), system prompt, agents",
    ),
    cli(
        "replay",
        "stream (needed), delay_ms",
        "print a recorded stream with this session's id and end as it ended",
    ),
    cli(
        "result",
        "any field of the result",
        "change fields of the final result, null removes one; `is_error: true` is the success that is none",
    ),
    cli("event", "any object", "print one more event of any shape"),
    cli("grow", "factor, input, output", "usage multiplied by `factor` with every turn of the conversation"),
    cli("silent", "code", "exit at once, without a single event"),
    cli("hang_start", "", "never print the first event"),
    cli("no_result", "code", "exit without a result event"),
    cli("hang_after_result", "", "print the result and never exit, not even at the end of stdin"),
    cli("exit", "code, stderr", "exit with this code, here and now"),
    cli("signal", "name", "send this signal to itself (KILL, SEGV, ABRT, TERM, …)"),
    cli(
        "ignore",
        "signals, interrupt, eof",
        "ignore these signals (default INT, TERM, HUP), interrupt requests, the end of stdin",
    ),
    cli(
        "daemon",
        "seconds, pid_file, hold_stdout",
        "leave a double-forked process behind: own session, deaf to INT, TERM and HUP",
    ),
    cli("close_stdout", "", "close stdout and live on"),
    cli("flood", "events, bytes", "so many filler events of so many bytes, as fast as they are read"),
    cli("big_line", "bytes", "one event line of so many bytes (default 100 MiB)"),
    cli("bad_utf8", "", "an event line with bytes that are not UTF-8"),
    cli("half_line", "code", "half an event line without its newline, then exit"),
    cli("login", "file, content", "rewrite the login file in the configuration directory"),
    cli("alloc", "mib", "hold so much memory until the end"),
    cli("stderr", "text, lines", "so many lines on stderr"),
];

/// The table as Markdown, exactly as it stands in the README.
pub fn markdown() -> String {
    let mut table = String::from("| Directive | Fields | What it does | Who |\n|---|---|---|---|\n");
    for entry in CATALOGUE {
        let who = match entry.side {
            Side::Model => "both",
            Side::Cli => "CLI",
        };
        let fields = entry.fields;
        table.push_str(&format!("| `{}` | {fields} | {} | {who} |\n", entry.name, entry.does));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{CATALOGUE, markdown};

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = CATALOGUE.iter().map(|entry| entry.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CATALOGUE.len());
    }

    #[test]
    fn every_name_is_read_as_a_directive() {
        for entry in CATALOGUE {
            let found = crate::script::parse(&format!("[[{}]]", entry.name)).unwrap();
            assert_eq!(found.len(), 1, "{}", entry.name);
        }
    }

    #[test]
    fn the_readme_holds_this_table() {
        let readme = include_str!("../../README.md");
        assert!(readme.contains(&markdown()), "the README's table is stale; expected:\n{}", markdown());
    }
}
