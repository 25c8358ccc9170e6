//! Why a set of prompt directories is refused, in words for the person who starts the daemon.

use std::fmt;

use thiserror::Error;

use super::error::{PromptError, Spot};

/// A set of prompt directories that cannot be used. Nothing of it takes effect.
#[derive(Debug, Error)]
#[error("{}", List(.problems))]
pub struct CatalogueError {
    /// Everything found, in order of layer and path; never empty.
    pub problems: Vec<CatalogueProblem>,
}

/// One reason why a set of prompt directories cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CatalogueProblem {
    /// A file with a mistake in it.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The file system refused.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file or directory.
        path: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A `.md` entry that is a directory, a pipe, a device …
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The entry.
        path: String,
    },
    /// More bytes than a prompt file may have.
    #[error("{path} has more than {limit} bytes")]
    FileTooLarge {
        /// The file.
        path: String,
        /// The most it may have.
        limit: usize,
    },
    /// The file is not UTF-8.
    #[error("{path} is not UTF-8 from byte {offset} on")]
    NotUtf8 {
        /// The file.
        path: String,
        /// The first byte that is not.
        offset: usize,
    },
    /// A file name that cannot name a template.
    #[error("{path}: a template is named by its file, and this name is not of the form `a-z`, `0-9`, `-`")]
    BadTemplateName {
        /// The file.
        path: String,
    },
    /// Two files of one layer define the same name.
    #[error("{second}: the {what} `{name}` is already defined by {first}")]
    Duplicate {
        /// `worker` or `sub-agent`.
        what: &'static str,
        /// The name.
        name: String,
        /// The file that came first.
        first: String,
        /// The file that repeats it.
        second: String,
    },
    /// A folder whose name resembles one that is read.
    #[error("{path} is not read; did you mean `{nearest}`?")]
    MisspeltFolder {
        /// The folder.
        path: String,
        /// The folder that would be read.
        nearest: &'static str,
    },
    /// A prompt directory without any of the folders that are read.
    #[error("{path} has none of the folders {}", .folders.join(", "))]
    NoPrompts {
        /// The directory.
        path: String,
        /// The folders that are read.
        folders: &'static [&'static str],
    },
    /// More prompt files than a directory may have.
    #[error("{path} has more than {limit} prompt files")]
    TooManyFiles {
        /// The directory.
        path: String,
        /// The most it may have.
        limit: usize,
    },
}

/// Where a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    /// The file, or the directory.
    pub path: &'a str,
    /// Where in it, when that is known.
    pub at: Option<Spot>,
}

impl CatalogueProblem {
    /// Where it is.
    #[must_use]
    pub fn place(&self) -> Place<'_> {
        let (path, at) = match self {
            Self::Prompt(error) => (&error.file, Some(error.at)),
            Self::Unreadable { path, .. }
            | Self::NotAFile { path }
            | Self::FileTooLarge { path, .. }
            | Self::NotUtf8 { path, .. }
            | Self::BadTemplateName { path }
            | Self::Duplicate { second: path, .. }
            | Self::MisspeltFolder { path, .. }
            | Self::NoPrompts { path, .. }
            | Self::TooManyFiles { path, .. } => (path, None),
        };
        Place { path, at }
    }

    /// What is wrong, without the place where that is shown apart.
    #[must_use]
    pub fn message(&self) -> String {
        match (self, std::error::Error::source(self)) {
            (Self::Prompt(error), _) => error.kind.to_string(),
            (_, Some(cause)) => format!("{self}: {cause}"),
            (_, None) => self.to_string(),
        }
    }

    /// What to do about it, where one sentence can say it.
    #[must_use]
    pub fn help(&self) -> Option<String> {
        if let Self::Prompt(error) = self { error.hint() } else { None }
    }
}

/// Problems one a line, hints and causes included: what a daemon prints before it refuses to start.
struct List<'a>(&'a [CatalogueProblem]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
            if let Some(cause) = std::error::Error::source(problem) {
                write!(f, ": {cause}")?;
            }
            if let CatalogueProblem::Prompt(error) = problem
                && let Some(hint) = error.hint()
            {
                write!(f, " ({hint})")?;
            }
        }
        Ok(())
    }
}
