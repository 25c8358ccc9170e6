//! Workspaces as settings: flags, file and their names put together. Knows how they are written; whether a directory is
//! there and may be shown is found out when the agent is put together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;

use super::{ConfigError, absolute, refused};
use crate::runner::Workspace;

/// Longest name, in bytes.
const LONGEST_NAME: usize = 63;

const SETTING: &str = "workspace";

/// Workspaces as flags and environment give them.
#[derive(Debug, Args, Default)]
pub struct WorkspaceFlags {
    /// Directory that tasks which name it are shown read-only, and that results are published into; repeat for several, in
    /// the environment with `;` between them. Other tasks do not see it.
    #[arg(long, global = true, env = "ORCH_AGENT_WORKSPACE", value_name = "NAME=DIR", value_delimiter = ';')]
    pub workspace: Vec<String>,
}

impl WorkspaceFlags {
    /// These workspaces, else those of `file`, by name. Paths are absolute.
    ///
    /// # Errors
    /// When one is not written as it must be, or a name comes twice.
    pub fn resolve(self, file: BTreeMap<String, PathBuf>) -> Result<Vec<Workspace>, ConfigError> {
        let pairs: Vec<(String, PathBuf)> = if self.workspace.is_empty() {
            file.into_iter().collect()
        } else {
            self.workspace.into_iter().map(pair).collect::<Result<_, _>>()?
        };
        let mut all: BTreeMap<String, PathBuf> = BTreeMap::new();
        for (name, dir) in pairs {
            if !is_name(&name) {
                let reason =
                    "a name is 1 to 63 small letters, digits and dashes, beginning with a letter or digit";
                return Err(refused(SETTING, name, reason));
            }
            if dir.as_os_str().is_empty() {
                return Err(refused(SETTING, name, "must be NAME=DIR, for example dance=/srv/dance"));
            }
            let dir = absolute(SETTING, dir)?;
            if all.insert(name.clone(), dir).is_some() {
                return Err(refused(SETTING, name, "comes twice; each name has one directory"));
            }
        }
        Ok(all.into_iter().map(|(name, dir)| Workspace { name, dir }).collect())
    }
}

fn pair(text: String) -> Result<(String, PathBuf), ConfigError> {
    match text.split_once('=') {
        Some((name, dir)) => Ok((name.to_owned(), PathBuf::from(dir))),
        None => Err(refused(SETTING, text, "must be NAME=DIR, for example dance=/srv/dance")),
    }
}

fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST_NAME).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &[&str], file: &[(&str, &str)]) -> Result<Vec<(String, PathBuf)>, String> {
        let flags = WorkspaceFlags { workspace: flags.iter().map(|&flag| flag.to_owned()).collect() };
        let file = file.iter().map(|&(name, dir)| (name.to_owned(), dir.into())).collect();
        let all = flags.resolve(file).map_err(|error| error.to_string())?;
        Ok(all.into_iter().map(|workspace| (workspace.name, workspace.dir)).collect())
    }

    #[test]
    fn flags_beat_the_file_and_paths_become_absolute() {
        let one = |name: &str, dir: &str| (name.to_owned(), PathBuf::from(dir));
        assert_eq!(resolve(&[], &[("dance", "/srv/dance")]).unwrap(), [one("dance", "/srv/dance")]);
        assert_eq!(
            resolve(&["music=/srv/a=b", "dance=/d"], &[("other", "/o")]).unwrap(),
            [one("dance", "/d"), one("music", "/srv/a=b")]
        );
        assert!(resolve(&["dance=here"], &[]).unwrap()[0].1.is_absolute());
    }

    #[test]
    fn names_and_forms_that_make_no_sense_are_refused_with_the_reason() {
        for bad in ["Dance=/d", "-a=/d", "=/d", "a b=/d", "ü=/d", "a_b=/d", &format!("{}=/d", "x".repeat(64))]
        {
            assert!(resolve(&[bad], &[]).unwrap_err().contains("a name is 1 to 63"), "{bad}");
        }
        for bad in ["dance", "dance="] {
            assert!(resolve(&[bad], &[]).unwrap_err().contains("must be NAME=DIR"), "{bad}");
        }
        assert!(resolve(&["a=/x", "a=/y"], &[]).unwrap_err().contains("comes twice"));
    }
}
