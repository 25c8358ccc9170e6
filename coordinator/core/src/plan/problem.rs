//! What can speak against a plan, in words that its author, a model or a person, can act on.
//! Knows how a problem reads; the rules are their checks'.

use std::fmt;

/// Names listed in one message; the rest is counted.
const LISTED: usize = 10;
/// Characters of a name or path in a message.
const SHOWN_CHARS: usize = 120;

/// Something that speaks against a plan. Sorted as they are shown: from the whole to the particulars. Names in it are
/// printable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PlanProblem {
    /// No task at all.
    #[error("the plan has no task: give at least one, or say in `missing` what only the requester can give")]
    Empty,
    /// More tasks than this run may have.
    #[error(
        "the plan has {count} tasks, at most {limit} are allowed: merge tasks, or plan only what matters most"
    )]
    TooManyTasks {
        /// How many it has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The expected costs together are too high.
    #[error("the tasks are expected to cost {} together, at most {} are allowed: plan fewer or smaller tasks", Usd(*.expected_micro_usd), Usd(*.limit_micro_usd))]
    TooExpensive {
        /// Their sum in millionths of a US dollar.
        expected_micro_usd: u64,
        /// The limit in millionths of a US dollar.
        limit_micro_usd: u64,
    },
    /// An id that is no name.
    #[error(
        "`{id}` is not a task id: letters, digits, dot, dash and underscore, starting with a letter or digit, no `..`, at most {} bytes",
        super::MAX_ID_BYTES
    )]
    BadId {
        /// The id.
        id: String,
    },
    /// Several tasks with one id.
    #[error("{count} tasks have the id `{id}`: give each its own")]
    DuplicateId {
        /// The id.
        id: String,
        /// How many have it.
        count: usize,
    },
    /// An id that means something else in the run.
    #[error(
        "the id `{id}` is taken: `plan`, `synthesis` and ids that end in `.review` or `.publish` belong to the run itself"
    )]
    TakenId {
        /// The id.
        id: String,
    },
    /// A task without words.
    #[error("task `{task}` has no description: say what is to be done")]
    MissingDescription {
        /// The task.
        task: String,
    },
    /// The planner among the workers or reviewers.
    #[error("{} `{planner}`, which only plans; the workers are: {}", Named(.tasks), Words(.known))]
    PlannerWorks {
        /// The tasks.
        tasks: Vec<String>,
        /// The planner.
        planner: String,
        /// Workers that may be named.
        known: Vec<String>,
    },
    /// A worker that does not exist, or that this request may not use.
    #[error("{} worker `{worker}`, which is none of the workers of this request{}; they are: {}", Named(.tasks), Meant(.nearest.as_deref()), Words(.known))]
    UnknownWorker {
        /// The tasks.
        tasks: Vec<String>,
        /// The name.
        worker: String,
        /// What was probably meant.
        nearest: Option<String>,
        /// Workers that may be named.
        known: Vec<String>,
    },
    /// No known agent can run it.
    #[error("{} cannot be run: {who} needs {} together, which no known agent offers", Of(.tasks), .needs.join(" and "))]
    Unsatisfiable {
        /// The tasks.
        tasks: Vec<String>,
        /// What needs it: a worker, or publishing.
        who: String,
        /// Capabilities, each `key=value`.
        needs: Vec<String>,
    },
    /// A dependency that is not in the plan.
    #[error("task `{task}` depends on `{dependency}`, which is not in the plan{}", Meant(.nearest.as_deref()))]
    UnknownDependency {
        /// The task.
        task: String,
        /// The name.
        dependency: String,
        /// What was probably meant.
        nearest: Option<String>,
    },
    /// Tasks that wait for each other.
    #[error("tasks wait for each other: {}; take one of these dependencies away", Row(.path))]
    Cycle {
        /// The circle, first id repeated at the end: each waits for the next.
        path: Vec<String>,
    },
    /// Too many tasks in a row.
    #[error("{depth} tasks wait for one another in a row ({}), at most {limit} are allowed: merge steps, or drop dependencies that need no result", Row(.path))]
    TooDeep {
        /// How many.
        depth: usize,
        /// How many may be.
        limit: usize,
        /// One such row, first to last.
        path: Vec<String>,
    },
    /// Too many tasks wait for one.
    #[error("{count} tasks depend directly on `{task}`, at most {limit} are allowed: group them")]
    FanOut {
        /// The task they wait for.
        task: String,
        /// How many.
        count: usize,
        /// How many may be.
        limit: usize,
    },
    /// The same work twice.
    #[error("{} ask worker `{worker}` for the same work, word for word: keep one", Of(.tasks))]
    SameWork {
        /// The tasks.
        tasks: Vec<String>,
        /// The worker.
        worker: String,
    },
    /// A path that is none.
    #[error("task `{task}`: {part} `{path}` {reason}")]
    BadPath {
        /// The task.
        task: String,
        /// What it is for.
        part: PathUse,
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: Reason,
    },
    /// Files of a run without a workspace cannot be published.
    #[error("{} would publish, but the run has no workspace: leave `publish` out, or submit with a workspace", Of(.tasks))]
    NoWorkspace {
        /// The tasks.
        tasks: Vec<String>,
    },
    /// Two files for one place.
    #[error("`{to}` would be published {count} times, by {}: one path, one file", Words(.tasks))]
    SamePath {
        /// Path beneath the workspace.
        to: String,
        /// How often.
        count: usize,
        /// The tasks.
        tasks: Vec<String>,
    },
    /// A file where another one needs a directory.
    #[error("`{file}` would be published by `{task}` as a file, while `{below}` needs it to be a directory")]
    FileInTheWay {
        /// Path of the file.
        file: String,
        /// The task that publishes it.
        task: String,
        /// The path beneath it.
        below: String,
    },
}

/// What a path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum PathUse {
    /// A file that a task must leave.
    #[error("the artifact")]
    Artifact,
    /// The file to be published.
    #[error("the published artifact")]
    Source,
    /// Where it goes.
    #[error("the place of publication")]
    Target,
}

/// What is wrong with a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// Not relative.
    #[error("begins with a slash: it counts from its directory")]
    Absolute,
    /// `.`, `..` or nothing between slashes.
    #[error("has an empty part, `.` or `..`: write the plain path")]
    Climbs,
    /// Control characters or a backslash.
    #[error("has a control character or a backslash")]
    Characters,
    /// Too long for a file system.
    #[error("is too long: at most 1,024 bytes, 255 between slashes")]
    TooLong,
    /// The directory itself at its beginning.
    #[error("counts from `out/` already: leave `out/` away")]
    FromOut,
    /// The workspace at its beginning.
    #[error("counts from the workspace already: leave `workspace/` away")]
    FromWorkspace,
    /// A place that nobody publishes to.
    #[error("has a part `.git` or `.claude`, or one that begins with `.orch`: nobody publishes there")]
    OffLimits,
    /// A placeholder that nobody fills.
    #[error(
        "has braces that nothing fills: only {{date}}, {{run}} and {{task}} are replaced, write the rest out"
    )]
    Placeholder,
}

/// A name from a plan, printable and of bounded length.
pub(super) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(SHOWN_CHARS).flat_map(char::escape_debug).collect();
    if name.chars().nth(SHOWN_CHARS).is_some() {
        text.push('…');
    }
    text
}

struct Usd(u64);

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Rounded up: a limit that is passed by less than a cent must not read as kept.
        let cents = self.0.div_ceil(10_000);
        write!(f, "${}.{:02}", cents / 100, cents % 100)
    }
}

/// `a, b and 3 more`.
struct Words<'a>(&'a [String]);

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("(none)");
        }
        f.write_str(&self.0[..self.0.len().min(LISTED)].join(", "))?;
        match self.0.len().checked_sub(LISTED) {
            None | Some(0) => Ok(()),
            Some(more) => write!(f, " and {more} more"),
        }
    }
}

/// `task a`, `tasks a, b`.
struct Of<'a>(&'a [String]);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let many = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "task{many} {}", Words(self.0))
    }
}

/// `task a names`, `tasks a, b name`.
struct Named<'a>(&'a [String]);

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.0.len() == 1 { "names" } else { "name" };
        write!(f, "{} {verb}", Of(self.0))
    }
}

/// `a -> b -> … -> z`.
struct Row<'a>(&'a [String]);

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arrow = " -> ";
        match self.0 {
            [first @ .., last] if first.len() > LISTED => {
                write!(f, "{}{arrow}…{arrow}{last}", first[..LISTED].join(arrow))
            }
            all => f.write_str(&all.join(arrow)),
        }
    }
}

struct Meant<'a>(Option<&'a str>);

impl fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |near| write!(f, "; did you mean `{near}`?"))
    }
}
