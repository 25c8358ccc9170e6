//! The sandbox as settings: flags, file and defaults put together. Knows names and paths; confines nothing.

use std::path::PathBuf;

use clap::Args;

use super::{ConfigError, absolute};
use crate::sandbox::SandboxMode;

/// The sandbox as flags and environment give it.
#[derive(Debug, Args, Default)]
pub struct SandboxFlags {
    /// What to do where attempts cannot be confined: warn, refuse to start, or confine nothing anywhere [default: auto].
    #[arg(long, env = "ORCH_AGENT_SANDBOX", value_enum, value_name = "MODE")]
    pub sandbox: Option<SandboxMode>,
    /// Place that attempts may read although it lies below a hidden one, for example tools in a home; repeat for
    /// several, in the environment with `:` between them.
    #[arg(long, env = "ORCH_AGENT_SANDBOX_READ", value_name = "PATH", value_delimiter = ':')]
    pub sandbox_read: Vec<PathBuf>,
    /// Further place that attempts must not see; repeat for several, in the environment with `:` between them.
    #[arg(long, env = "ORCH_AGENT_SANDBOX_HIDE", value_name = "PATH", value_delimiter = ':')]
    pub sandbox_hide: Vec<PathBuf>,
}

/// The sandbox in force. Paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxSettings {
    /// What the operator demands.
    pub mode: SandboxMode,
    /// Places below hidden ones that attempts may read.
    pub readable: Vec<PathBuf>,
    /// Places that attempts must not see, besides those of the agent.
    pub hidden: Vec<PathBuf>,
}

impl SandboxFlags {
    /// These settings, else those of `file`, else the defaults.
    ///
    /// # Errors
    /// When a path makes no sense.
    pub fn resolve(self, file: Self) -> Result<SandboxSettings, ConfigError> {
        let list = |name, flags: Vec<PathBuf>, file: Vec<PathBuf>| {
            let chosen = if flags.is_empty() { file } else { flags };
            chosen.into_iter().map(|path| absolute(name, path)).collect::<Result<Vec<_>, _>>()
        };
        Ok(SandboxSettings {
            mode: self.sandbox.or(file.sandbox).unwrap_or_default(),
            readable: list("sandbox_read", self.sandbox_read, file.sandbox_read)?,
            hidden: list("sandbox_hide", self.sandbox_hide, file.sandbox_hide)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_the_file_and_paths_become_absolute() {
        let file = || SandboxFlags {
            sandbox: Some(SandboxMode::Require),
            sandbox_read: vec!["/a".into()],
            sandbox_hide: vec!["/b".into()],
        };
        let flags = SandboxFlags { sandbox_read: vec!["c".into()], ..SandboxFlags::default() };
        let settings = flags.resolve(file()).unwrap();
        assert_eq!((settings.mode, settings.hidden), (SandboxMode::Require, vec![PathBuf::from("/b")]));
        assert!(settings.readable[0].is_absolute() && settings.readable[0].ends_with("c"));
        let flags = SandboxFlags { sandbox: Some(SandboxMode::Off), ..SandboxFlags::default() };
        assert_eq!(flags.resolve(file()).unwrap().mode, SandboxMode::Off);
        assert_eq!(SandboxFlags::default().resolve(SandboxFlags::default()).unwrap().mode, SandboxMode::Auto);
    }
}
