//! Why a prompt file is refused: what, where, and what to write instead.
//!
//! Knows no file system and no gRPC. Every message is a lowercase fragment; the way out is a separate
//! [`PromptError::hint`], so that a command line can print it as its own `help:` line.

use thiserror::Error;

use super::front_matter::SyntaxError;
use super::tools::ToolProblem;

/// A place in a prompt file; both counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    /// Line within the file.
    pub line: u32,
    /// Character within the line.
    pub column: u32,
}

/// A prompt file that cannot be used, with the place of the mistake.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{file}:{line}:{column}: {kind}", line = .at.line, column = .at.column)]
pub struct PromptError {
    /// The file as its layer names it, e.g. `/etc/orch/prompts/workers/DANCE.md`.
    pub file: String,
    /// Where in the file; the first character where the whole file is meant.
    pub at: Spot,
    /// What is wrong.
    pub kind: PromptErrorKind,
}

impl PromptError {
    /// What to write instead, where one sentence can say it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        self.kind.hint()
    }
}

/// What is wrong with a prompt file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PromptErrorKind {
    /// The front matter is not of the supported form.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The file holds a character that has no place in a prompt (NUL, ESC, a lone CR …).
    #[error("control character U+{code:04X}")]
    ControlCharacter {
        /// The character's code point.
        code: u32,
    },
    /// A text is longer than allowed.
    #[error("{what} has {bytes} bytes; the limit is {limit}")]
    TooLong {
        /// What is too long, with its article.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The most it may have.
        limit: usize,
    },
    /// A list has more items than allowed.
    #[error("`{key}` has {count} items; the limit is {limit}")]
    TooMany {
        /// The list's key.
        key: &'static str,
        /// Its length.
        count: usize,
        /// The most it may have.
        limit: usize,
    },
    /// A key that this kind of file does not have.
    #[error("unknown key `{key}`")]
    UnknownKey {
        /// The key as written.
        key: String,
        /// The known key it resembles.
        nearest: Option<String>,
        /// All keys of this kind of file.
        known: &'static [&'static str],
    },
    /// A key that must be there is not.
    #[error("the key `{key}` is missing")]
    MissingKey {
        /// The missing key.
        key: &'static str,
    },
    /// A list stands where text is wanted, or the like.
    #[error("`{key}` must be {expected}, not {found}")]
    WrongShape {
        /// The key.
        key: &'static str,
        /// What it takes, with its article.
        expected: &'static str,
        /// What stands there, with its article.
        found: &'static str,
    },
    /// A value that its key does not take.
    #[error("{value:?} is no valid `{key}`: expected {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value as written.
        value: String,
        /// What the key takes.
        expected: &'static str,
        /// The valid value it resembles.
        nearest: Option<String>,
    },
    /// A list names something twice.
    #[error("`{value}` stands in `{key}` twice")]
    Repeated {
        /// The list's key.
        key: &'static str,
        /// The repeated item.
        value: String,
    },
    /// A tool entry that the CLI would not understand or never grant.
    #[error("tool {tool:?}: {problem}")]
    Tool {
        /// The entry as written.
        tool: String,
        /// What is wrong with it.
        problem: ToolProblem,
    },
    /// Nothing follows the front matter.
    #[error("the file has no prompt after its front matter")]
    EmptyBody,
    /// `{{` without `}}` on the same line.
    #[error("a `{{{{` marker is not closed on its line")]
    UnclosedMarker,
    /// A marker that is neither `{{template NAME}}` nor `{{workers}}`, or stands where none may.
    #[error("unknown marker `{{{{{marker}}}}}`")]
    UnknownMarker {
        /// The text between the braces.
        marker: String,
    },
    /// A marker names a template that `templates` does not list.
    #[error("the template `{name}` is used but not listed in `templates`")]
    TemplateNotListed {
        /// The template.
        name: String,
    },
    /// `templates` lists a template that no marker uses.
    #[error("the template `{name}` is listed but never used")]
    TemplateNotUsed {
        /// The template.
        name: String,
    },
    /// A name in a list, or of a file, that no layer defines.
    #[error("there is no {what} `{name}`")]
    Unresolved {
        /// `sub-agent`, `template`, `context file` …
        what: &'static str,
        /// The name as written.
        name: String,
        /// The known name it resembles.
        nearest: Option<String>,
    },
    /// A context file that a worker names cannot be used.
    #[error("the context file `{name}` {why}")]
    BadContext {
        /// The name as written.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// A file is not JSON.
    #[error("not valid JSON: {reason}")]
    BadJson {
        /// What the parser says.
        reason: String,
    },
    /// JSON of another shape.
    #[error("must be {expected}")]
    WrongJson {
        /// What is wanted, with its article.
        expected: &'static str,
    },
    /// A sub-agent wants a tool that its worker does not offer, so that the CLI would silently drop it.
    #[error("the sub-agent `{subagent}` needs the tool {tool}, which this worker does not list")]
    SubAgentToolNotOffered {
        /// The sub-agent.
        subagent: String,
        /// The tool.
        tool: String,
    },
}

impl PromptErrorKind {
    fn hint(&self) -> Option<String> {
        let did_you_mean =
            |nearest: &Option<String>| nearest.as_ref().map(|name| format!("did you mean `{name}`?"));
        match self {
            Self::Syntax(error) => error.hint().map(str::to_owned),
            Self::UnknownKey { nearest, known, .. } => {
                did_you_mean(nearest).or_else(|| Some(format!("known keys: {}", known.join(", "))))
            }
            Self::MissingKey { key: "tools" } => {
                Some("list the tools the CLI may offer, or write `tools: []` for none".to_owned())
            }
            Self::WrongShape { expected: "a list", .. } => {
                Some("write `[one, two]`, or one `- item` a line".to_owned())
            }
            Self::BadValue { nearest, .. } | Self::Unresolved { nearest, .. } => did_you_mean(nearest),
            Self::Tool { problem, .. } => problem.hint(),
            Self::UnclosedMarker | Self::UnknownMarker { .. } => {
                let markers = r"markers are `{{template NAME}}` and `{{workers}}`, in workers only";
                Some(format!(r"{markers}; write `\{{{{` for plain braces"))
            }
            Self::TemplateNotListed { name } => Some(format!("add `{name}` to `templates`")),
            Self::TemplateNotUsed { name } => {
                Some(format!("write `{{{{template {name}}}}}` where its text should stand"))
            }
            Self::SubAgentToolNotOffered { tool, .. } => {
                Some(format!("add {tool} to `tools`: a sub-agent has only what its worker has"))
            }
            Self::ControlCharacter { .. } => Some("remove it; line ends are LF or CRLF".to_owned()),
            Self::TooLong { .. }
            | Self::TooMany { .. }
            | Self::MissingKey { .. }
            | Self::WrongShape { .. }
            | Self::Repeated { .. }
            | Self::BadContext { .. }
            | Self::BadJson { .. }
            | Self::WrongJson { .. }
            | Self::EmptyBody => None,
        }
    }
}
