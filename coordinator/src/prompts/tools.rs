//! Tool entries of a prompt file, and the three tool flags of the CLI that follow from them.
//!
//! Knows how CLI 2.1 treats tools when nobody can be asked, as observed with the real binary: `--tools`
//! decides what the model is offered, sub-agents included; inside the working directories Read, Glob and
//! Grep need no rule, and Write and Edit need none in mode `acceptEdits`; a rule without a path
//! (`--allowedTools Read`) opens the whole file system; everything else needs a rule; a deny rule beats an
//! allow rule, inside command lists too; `Agent` needs no rule, and the built-in sub-agents go away only by
//! a deny rule each. Refuses to know files and prompts.

use std::collections::BTreeSet;

use thiserror::Error;

use super::error::PromptErrorKind;
use super::names;

/// Longest tool entry, in bytes. Entries travel as single arguments of the CLI.
const MAX_ENTRY_BYTES: usize = 256;

/// What names of tools of tool servers begin with: `mcp__server__tool`.
const MCP: &str = "mcp__";

/// The tool by which the model starts sub-agents.
pub(super) const AGENT: &str = "Agent";

/// Tools that act on paths. The permission mode grants them within the working directories.
const PATH_TOOLS: [&str; 6] = ["Edit", "Glob", "Grep", "NotebookEdit", "Read", "Write"];

/// Path tools that change files: granted by mode `acceptEdits` only.
const WRITING_TOOLS: [&str; 3] = ["Edit", "NotebookEdit", "Write"];

/// Tools of CLI 2.1.197, for suggestions. A name that resembles none of them is taken as it is: a newer
/// CLI may have it.
const KNOWN_TOOLS: [&str; 28] = [
    "Agent",
    "AskUserQuestion",
    "Bash",
    "CronCreate",
    "CronDelete",
    "CronList",
    "Edit",
    "EnterWorktree",
    "ExitWorktree",
    "Glob",
    "Grep",
    "NotebookEdit",
    "Read",
    "ReportFindings",
    "ScheduleWakeup",
    "SendMessage",
    "Skill",
    "StructuredOutput",
    "TaskCreate",
    "TaskGet",
    "TaskList",
    "TaskOutput",
    "TaskStop",
    "TaskUpdate",
    "WebFetch",
    "WebSearch",
    "Workflow",
    "Write",
];

/// Sub-agents built into CLI 2.1.197. They run on the worker's own model, without a turn limit and with all
/// its tools, so a worker gets only the sub-agents it names.
pub(super) const BUILT_IN_SUBAGENTS: [&str; 5] =
    ["Explore", "Plan", "claude", "general-purpose", "statusline-setup"];

/// One entry of `tools` or `disallowed_tools`: `Name` or `Name(rule)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ToolEntry {
    name: String,
    rule: Option<String>,
}

impl ToolEntry {
    /// Reads an entry and checks its name against the CLI's.
    pub(super) fn parse(entry: &str) -> Result<Self, PromptErrorKind> {
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(PromptErrorKind::TooLong {
                what: "a tool entry",
                bytes: entry.len(),
                limit: MAX_ENTRY_BYTES,
            });
        }
        let problem = |problem| PromptErrorKind::Tool { tool: entry.to_owned(), problem };
        let (name, rule) = match entry.split_once('(') {
            None => (entry, None),
            Some((name, rest)) => {
                let rule = rest.strip_suffix(')').filter(|rule| !rule.trim().is_empty());
                (name, Some(rule.ok_or_else(|| problem(ToolProblem::Malformed))?.to_owned()))
            }
        };
        let well_formed = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(well_formed) {
            return Err(problem(ToolProblem::Malformed));
        }
        if let Some(rest) = name.strip_prefix(MCP) {
            // Rules of such tools know no arguments; a server without a tool means all of its tools.
            let shaped = rule.is_none() && rest.split("__").all(|part| !part.is_empty());
            let entry = Self { name: name.to_owned(), rule: None };
            return if shaped { Ok(entry) } else { Err(problem(ToolProblem::Malformed)) };
        }
        match misspelt(name) {
            Some(nearest) => Err(problem(ToolProblem::Unknown { nearest: nearest.to_owned() })),
            None => Ok(Self { name: name.to_owned(), rule }),
        }
    }

    /// The tool, without its rule.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The tool server of an MCP tool.
    pub(super) fn server(&self) -> Option<&str> {
        self.name.strip_prefix(MCP).and_then(|rest| rest.split("__").next())
    }

    pub(super) fn has_rule(&self) -> bool {
        self.rule.is_some()
    }

    /// The entry as the CLI reads it.
    pub(super) fn text(&self) -> String {
        match &self.rule {
            None => self.name.clone(),
            Some(rule) => format!("{}({rule})", self.name),
        }
    }

    pub(super) fn error(&self, problem: ToolProblem) -> PromptErrorKind {
        PromptErrorKind::Tool { tool: self.text(), problem }
    }

    /// Offered, but no rule and no mode lets a call through.
    pub(super) fn is_always_refused(&self, mode_accepts_edits: bool) -> bool {
        self.rule.is_none() && !mode_accepts_edits && WRITING_TOOLS.contains(&self.name())
    }

    /// Needs a rule of its own to be granted.
    fn is_rule(&self) -> bool {
        self.rule.is_some() || (self.name != AGENT && !PATH_TOOLS.contains(&self.name()))
    }
}

/// The tool flags of one worker, each sorted and without repetition.
pub(super) struct ToolFlags {
    pub(super) tools: Vec<String>,
    pub(super) allowed_tools: Vec<String>,
    pub(super) disallowed_tools: Vec<String>,
}

/// Derives the CLI's flags from a worker's lists.
pub(super) fn flags(tools: &[ToolEntry], disallowed: &[ToolEntry]) -> ToolFlags {
    // `--tools` is about the CLI's own; those of a tool server are there when it is, and need a grant.
    let offered: BTreeSet<String> =
        tools.iter().filter(|entry| entry.server().is_none()).map(|entry| entry.name.clone()).collect();
    let allowed: BTreeSet<String> =
        tools.iter().filter(|entry| entry.is_rule()).map(ToolEntry::text).collect();
    let mut denied: BTreeSet<String> = disallowed.iter().map(ToolEntry::text).collect();
    if offered.contains(AGENT) {
        denied.extend(BUILT_IN_SUBAGENTS.map(|name| format!("{AGENT}({name})")));
    }
    ToolFlags {
        tools: offered.into_iter().collect(),
        allowed_tools: allowed.into_iter().collect(),
        disallowed_tools: denied.into_iter().collect(),
    }
}

/// The known tool that `name` was probably meant to be; `None` if it is one, or resembles none.
fn misspelt(name: &str) -> Option<&'static str> {
    // The CLI's first event still says `Task`, its requests and flags say `Agent`.
    if name == "Task" {
        return Some(AGENT);
    }
    names::nearest(name, KNOWN_TOOLS).filter(|known| *known != name)
}

/// What is wrong with an entry of `tools` or `disallowed_tools`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ToolProblem {
    /// Not of the form `Name` or `Name(rule)`.
    #[error("not of the form `Name` or `Name(rule)`")]
    Malformed,
    /// Nearly the name of a tool of the CLI.
    #[error("the CLI has no such tool")]
    Unknown {
        /// The tool it resembles.
        nearest: String,
    },
    /// An MCP tool where no MCP server is connected.
    #[error("no tool server is connected: `mcp_config` is not set")]
    Mcp,
    /// A tool of a server that the worker's file does not have.
    #[error("`mcp_config` has no server `{server}`")]
    NoServer {
        /// The server.
        server: String,
        /// The server it resembles.
        nearest: Option<String>,
    },
    /// A sub-agent's tool with a rule; rules hold for the whole process and are the worker's.
    #[error("a sub-agent lists plain tool names; rules stand in its worker's `tools`")]
    RuleInSubAgent,
    /// A sub-agent that could start sub-agents.
    #[error("a sub-agent cannot start sub-agents")]
    NestedAgents,
    /// `Agent` without any sub-agent to start.
    #[error("there is nothing to start: `subagents` is empty")]
    AgentWithoutSubAgents,
    /// Sub-agents without `Agent`, the tool that starts them.
    #[error("`subagents` is given, but the tool that starts them is not listed")]
    SubAgentsWithoutAgent,
    /// Offered to the model, yet refused at every call.
    #[error("every call would be refused in permission mode `{mode}`")]
    AlwaysRefused {
        /// The worker's permission mode.
        mode: &'static str,
    },
    /// Both offered and forbidden.
    #[error("listed in `tools` and in `disallowed_tools`")]
    Contradiction,
}

impl ToolProblem {
    pub(super) fn hint(&self) -> Option<String> {
        match self {
            Self::Malformed => Some("put an entry that holds a comma in quotes: \"Bash(a, b)\"".to_owned()),
            Self::Unknown { nearest } => Some(format!("did you mean `{nearest}`?")),
            Self::AgentWithoutSubAgents => Some("remove Agent, or name sub-agents".to_owned()),
            Self::SubAgentsWithoutAgent => Some("add Agent to `tools`".to_owned()),
            Self::AlwaysRefused { .. } => Some(
                "use `permission_mode: acceptEdits`, or a rule with a path such as Write(//srv/out/**)"
                    .to_owned(),
            ),
            Self::Mcp => {
                Some("write the server into `mcp/FILE.json` and name it: `mcp_config: FILE.json`".to_owned())
            }
            Self::NoServer { nearest, .. } => {
                nearest.as_ref().map(|server| format!("did you mean `mcp__{server}`?"))
            }
            Self::RuleInSubAgent | Self::NestedAgents | Self::Contradiction => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(texts: &[&str]) -> Vec<ToolEntry> {
        texts.iter().map(|text| ToolEntry::parse(text).unwrap()).collect()
    }

    fn problem(text: &str) -> ToolProblem {
        let error = ToolEntry::parse(text).unwrap_err();
        let PromptErrorKind::Tool { problem, .. } = error else { panic!("{error}") };
        problem
    }

    #[test]
    fn path_tools_become_rules_only_with_a_path() {
        let flags = flags(
            &entries(&["Write", "Read", "Read(//srv/notes/**)", "Bash(git log *)", "Bash", "WebSearch"]),
            &[],
        );
        assert_eq!(flags.tools, ["Bash", "Read", "WebSearch", "Write"]);
        assert_eq!(flags.allowed_tools, ["Bash", "Bash(git log *)", "Read(//srv/notes/**)", "WebSearch"]);
        assert!(flags.disallowed_tools.is_empty());
    }

    #[test]
    fn offering_agent_denies_every_built_in_sub_agent() {
        let flags = flags(&entries(&["Agent"]), &entries(&["Bash(git push *)"]));
        assert_eq!(flags.tools, ["Agent"]);
        assert!(flags.allowed_tools.is_empty());
        for name in BUILT_IN_SUBAGENTS {
            assert!(flags.disallowed_tools.contains(&format!("Agent({name})")), "{name}");
        }
        assert_eq!(flags.disallowed_tools.len(), BUILT_IN_SUBAGENTS.len() + 1);
    }

    #[test]
    fn entries_are_a_name_and_perhaps_a_rule() {
        for good in ["Read", "Bash(npm run test:*)", "Bash(echo (a))", "SomethingNew", "Edit(//srv/é/**)"] {
            assert_eq!(ToolEntry::parse(good).unwrap().text(), good);
        }
        for bad in ["", "Bash(", "Bash()", "Bash( )", "Bash(ls) ", "9Lives", "-p", "Read,Write", "Bash(a"] {
            assert_eq!(problem(bad), ToolProblem::Malformed, "{bad:?}");
        }
        for mcp in ["mcp__crm", "mcp__crm__find", "mcp__crm__find_all-2"] {
            assert_eq!(ToolEntry::parse(mcp).unwrap().server(), Some("crm"));
        }
        for bad in ["mcp__", "mcp____find", "mcp__crm__", "mcp__crm__find(x)"] {
            assert_eq!(problem(bad), ToolProblem::Malformed, "{bad}");
        }
        let long = format!("Bash({})", "x".repeat(MAX_ENTRY_BYTES));
        assert!(matches!(ToolEntry::parse(&long), Err(PromptErrorKind::TooLong { .. })));
    }

    #[test]
    fn near_misses_of_tool_names_are_suggested() {
        for (written, meant) in
            [("bash", "Bash"), ("Gerp", "Grep"), ("Websearch", "WebSearch"), ("Task", "Agent")]
        {
            assert_eq!(problem(written), ToolProblem::Unknown { nearest: meant.into() }, "{written}");
        }
    }

    #[test]
    fn writing_without_a_path_is_refused_unless_edits_are_accepted() {
        let [write, scoped, read] =
            ["Write", "Write(//srv/out/**)", "Read"].map(|text| ToolEntry::parse(text).unwrap());
        assert!(write.is_always_refused(false));
        assert!(!write.is_always_refused(true));
        assert!(!scoped.is_always_refused(false));
        assert!(!read.is_always_refused(false));
    }
}
