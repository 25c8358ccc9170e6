//! Whether a directory may be offered as a workspace: it is there, and shows nothing that no task may see.
//! Looks at the disk once, at the start.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::runner::Workspace;
use crate::sandbox::Sandbox;

/// Why a workspace cannot be offered.
#[derive(Debug, Error)]
pub enum Unusable {
    /// Its directory cannot be used.
    #[error("the workspace {name} cannot be offered: {} cannot be used; make the directory, or leave --workspace out", dir.display())]
    Missing {
        /// Its name.
        name: String,
        /// The directory.
        dir: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is no directory.
    #[error("the workspace {name} cannot be offered: {} is no directory", dir.display())]
    NoDirectory {
        /// Its name.
        name: String,
        /// What it is.
        dir: PathBuf,
    },
    /// It and something of the agent's own lie in each other.
    #[error(
        "the workspace {name} cannot be offered: {} holds or lies in {}, which is the agent's own; keep the two apart",
        dir.display(), place.display()
    )]
    OfTheAgent {
        /// Its name.
        name: String,
        /// The directory.
        dir: PathBuf,
        /// What is the agent's own.
        place: PathBuf,
    },
    /// It holds what no task may see.
    #[error(
        "the workspace {name} cannot be offered: {} holds {}, which no task may see; offer a directory within it",
        dir.display(), place.display()
    )]
    Uncovers {
        /// Its name.
        name: String,
        /// The directory.
        dir: PathBuf,
        /// What would be seen.
        place: PathBuf,
    },
}

/// The workspaces as they really are, without links. `own`: places of the agent.
///
/// # Errors
/// Names the first that cannot be offered.
pub fn find(asked: &[Workspace], own: &[PathBuf]) -> Result<Vec<Workspace>, Unusable> {
    asked.iter().map(|workspace| find_one(workspace, own)).collect()
}

fn find_one(asked: &Workspace, own: &[PathBuf]) -> Result<Workspace, Unusable> {
    let Workspace { name, dir } = asked.clone();
    let real = fs::canonicalize(&dir).map_err(|source| Unusable::Missing {
        name: name.clone(),
        dir: dir.clone(),
        source,
    })?;
    if !real.is_dir() {
        return Err(Unusable::NoDirectory { name, dir });
    }
    for place in own {
        let there = real_or_future(place);
        if there.starts_with(&real) || (real.starts_with(&there) && !there.is_file()) {
            return Err(Unusable::OfTheAgent { name, dir, place: place.clone() });
        }
    }
    Ok(Workspace { name, dir: real })
}

/// A place without links, as far as it exists.
fn real_or_future(place: &Path) -> PathBuf {
    for known in place.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(known), place.strip_prefix(known)) {
            // Joining nothing would add a slash.
            return if rest.as_os_str().is_empty() { real } else { real.join(rest) };
        }
    }
    place.to_owned()
}

/// Refuses workspaces that hold what the sandbox hides from every task: they could not be shown.
///
/// # Errors
/// Names the first.
pub fn refuse_uncovering(found: &[Workspace], sandbox: &Sandbox) -> Result<(), Unusable> {
    for workspace in found {
        if let Some(place) = sandbox.uncovered_by(&workspace.dir) {
            let Workspace { name, dir } = workspace.clone();
            return Err(Unusable::Uncovers { name, dir, place });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::sandbox::Settings;

    fn offered(dir: &Path, own: &[PathBuf]) -> Result<PathBuf, String> {
        let asked = Workspace { name: "dance".into(), dir: dir.to_owned() };
        let found = find(&[asked], own).map_err(|error| error.to_string())?;
        Ok(found[0].dir.clone())
    }

    #[test]
    fn a_directory_is_offered_as_it_really_is() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir(real.join("dance")).unwrap();
        symlink("dance", real.join("link")).unwrap();
        assert_eq!(offered(&real.join("link"), &[]).unwrap(), real.join("dance"));
        fs::write(real.join("file"), "").unwrap();
        assert!(offered(&real.join("file"), &[]).unwrap_err().ends_with("is no directory"));
        assert!(offered(&real.join("none"), &[]).unwrap_err().contains("make the directory"));
    }

    #[test]
    fn what_holds_or_lies_in_the_agents_own_is_refused_also_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(real.join("data/sub")).unwrap();
        fs::create_dir_all(real.join("certs")).unwrap();
        fs::create_dir(real.join("dance")).unwrap();
        fs::write(real.join("certs/key"), "").unwrap();
        symlink("data/sub", real.join("link")).unwrap();
        let own = [real.join("data"), real.join("certs/key"), real.join("certs/later/key")];
        for bad in ["data", "data/sub", "link", "certs", ""] {
            let refused = offered(&real.join(bad), &own).unwrap_err();
            assert!(refused.contains("the agent's own"), "{bad}: {refused}");
        }
        assert!(offered(Path::new("/"), &own).is_err());
        assert!(offered(&real.join("dance"), &own).is_ok());
        symlink("dance", real.join("alias")).unwrap();
        assert!(offered(&real.join("dance"), &[real.join("alias/key")]).is_err());
    }

    #[test]
    fn what_would_uncover_a_hidden_place_is_refused_and_beneath_one_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        let real = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(real.join("home/secret")).unwrap();
        fs::create_dir_all(real.join("home/secret/dance")).unwrap();
        let settings = Settings { hidden: vec![real.join("home/secret")], ..Settings::default() };
        let sandbox = Sandbox::probe(settings).unwrap();
        let check = |name: &str| {
            refuse_uncovering(&[Workspace { name: "dance".into(), dir: real.join(name) }], &sandbox)
        };
        assert!(check("home").unwrap_err().to_string().contains("which no task may see"));
        assert!(check("home/secret").is_err());
        assert!(check("home/secret/dance").is_ok());
    }
}
