//! Whether the CLI took over what it was given, by what its first event says: it ignores much without a word. Pure.
//! What must not be missing ends the attempt; the rest is told with its report.

use serde::{Deserialize, Serialize};

use super::event::Init;

/// What the CLI was given, as far as its first event repeats it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Given {
    /// Names of the sub-agents.
    pub agents: Vec<String>,
    /// The exact set of built-in tools.
    pub tools: Vec<String>,
    /// Names of the tool servers.
    pub mcp_servers: Vec<String>,
    /// Permission mode.
    pub permission_mode: String,
}

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Differences {
    /// Work without it would be other work, or work without its limits.
    pub fatal: Vec<String>,
    /// Worth telling.
    pub notes: Vec<String>,
}

/// The tool for structured answers, offered with a schema.
const STRUCTURED_OUTPUT: &str = "StructuredOutput";

/// The tool for sub-agents has two names.
fn tool_name(name: &str) -> &str {
    if name == "Task" { "Agent" } else { name }
}

/// Compares. What the event does not speak of is taken for granted.
#[must_use]
pub fn compare(given: &Given, init: &Init) -> Differences {
    let mut found = Differences::default();
    if let Some(agents) = &init.agents {
        let missing = given.agents.iter().filter(|name| !agents.contains(name));
        found.fatal.extend(missing.map(|name| format!("the sub-agent {name:?} is missing")));
    }
    if let Some(mode) = init.permission_mode.as_ref().filter(|mode| **mode != given.permission_mode) {
        found.fatal.push(format!("the permission mode is {mode} instead of {}", given.permission_mode));
    }
    if let Some(tools) = &init.tools {
        compare_tools(given, tools, &mut found.notes);
    }
    compare_servers(given, init, &mut found.notes);
    found
}

fn compare_tools(given: &Given, tools: &[String], notes: &mut Vec<String>) {
    let missing =
        given.tools.iter().filter(|name| !tools.iter().any(|tool| tool_name(tool) == tool_name(name)));
    notes.extend(missing.map(|name| format!("the CLI has no tool {name:?}")));
    let is_given = |tool: &&String| {
        let known = given.tools.iter().any(|name| tool_name(name) == tool_name(tool));
        let of_servers = tool.starts_with("mcp__") || tool.contains("McpResource");
        known || of_servers || tool.as_str() == STRUCTURED_OUTPUT
    };
    notes.extend(
        tools
            .iter()
            .filter(|tool| !is_given(tool))
            .map(|tool| format!("the CLI offers the tool {tool:?} unasked")),
    );
}

fn compare_servers(given: &Given, init: &Init, notes: &mut Vec<String>) {
    for name in &given.mcp_servers {
        match init.mcp_servers.iter().find(|(server, _)| server == name) {
            None => notes.push(format!("the tool server {name:?} was not started")),
            Some((_, status)) if matches!(status.as_str(), "connected" | "pending") => {}
            Some((_, status)) => notes.push(format!("the tool server {name:?} is not there: {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    fn given() -> Given {
        Given {
            agents: texts(&["helper"]),
            tools: texts(&["Agent", "Bash"]),
            mcp_servers: texts(&["demo"]),
            permission_mode: "dontAsk".to_owned(),
        }
    }

    fn init() -> Init {
        Init {
            agents: Some(texts(&["Explore", "helper"])),
            tools: Some(texts(&["Task", "Bash", "StructuredOutput", "mcp__demo__add"])),
            mcp_servers: vec![("demo".to_owned(), "connected".to_owned())],
            permission_mode: Some("dontAsk".to_owned()),
            ..Init::default()
        }
    }

    #[test]
    fn what_was_taken_over_and_what_is_not_spoken_of_is_fine() {
        assert_eq!(compare(&given(), &init()), Differences::default());
        let quiet = Given { mcp_servers: Vec::new(), ..given() };
        assert_eq!(compare(&quiet, &Init::default()), Differences::default());
    }

    #[test]
    fn a_missing_sub_agent_and_another_permission_mode_are_fatal() {
        let told = Init {
            agents: Some(texts(&["Explore"])),
            permission_mode: Some("bypassPermissions".to_owned()),
            ..init()
        };
        assert_eq!(
            compare(&given(), &told).fatal,
            [
                "the sub-agent \"helper\" is missing",
                "the permission mode is bypassPermissions instead of dontAsk"
            ]
        );
    }

    #[test]
    fn tools_and_tool_servers_that_are_not_there_are_told() {
        let told = Init {
            tools: Some(texts(&["Task", "WebFetch"])),
            mcp_servers: vec![("demo".to_owned(), "failed".to_owned())],
            ..init()
        };
        let found = compare(&given(), &told);
        assert_eq!(found.fatal, Vec::<String>::new());
        assert_eq!(
            found.notes,
            [
                "the CLI has no tool \"Bash\"",
                "the CLI offers the tool \"WebFetch\" unasked",
                "the tool server \"demo\" is not there: failed"
            ]
        );
        let none = Init { mcp_servers: Vec::new(), ..init() };
        assert_eq!(compare(&given(), &none).notes, ["the tool server \"demo\" was not started"]);
    }
}
