//! Which program a gate runs, and where. In a sandbox any that it can see, without one only those that the agent allows.
//! Knows paths; starts nothing.

use std::fs;
use std::path::{Component, Path, PathBuf};

use crate::runner::command::AllowedPrograms;
use crate::runner::{GateCommand, program};
use crate::sandbox::{Bounds, Plan};

/// A program and where it runs, absolute paths.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) program: PathBuf,
    pub(super) cwd: PathBuf,
}

/// Where programs are looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) allowed: &'a AllowedPrograms,
    pub(super) path: &'a str,
    /// The sandbox it runs in; absent: none.
    pub(super) plan: Option<&'a Plan>,
    /// The working directory, and what the attempt may write.
    pub(super) work: &'a Path,
    pub(super) bounds: &'a Bounds,
}

/// Finds what `command` asks for.
///
/// # Errors
/// Why it cannot be run, for whoever wrote the gate.
pub(super) fn find(command: &GateCommand, search: Search<'_>) -> Result<Found, String> {
    let cwd = directory(search.work, &command.dir)?;
    let program = match (search.allowed.path(&command.program), search.plan) {
        (Some(path), _) => path.clone(),
        (None, None) => return Err(not_allowed(&command.program)),
        (None, Some(plan)) => visible(&command.program, &cwd, plan, search)?,
    };
    Ok(Found { program, cwd })
}

/// Why a program is not run where there is no sandbox.
pub(super) fn not_allowed(program: &str) -> String {
    format!(
        "this agent has no sandbox, and outside of one it does not allow the program {program:?}; it is started with \
         --allow-command for each"
    )
}

/// The directory beneath `work`. What the worker made may lead anywhere, so the way there may hold no link out of it.
fn directory(work: &Path, dir: &str) -> Result<PathBuf, String> {
    let asked = Path::new(dir);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let missing = || format!("there is no directory {dir:?} in the working directory");
    if !asked.components().all(plain) {
        return Err(format!("the directory {dir:?} does not lie in the working directory"));
    }
    let root = fs::canonicalize(work).map_err(|_| missing())?;
    let real = fs::canonicalize(root.join(asked)).map_err(|_| missing())?;
    if !real.is_dir() {
        return Err(missing());
    }
    if !real.starts_with(&root) {
        return Err(format!("the directory {dir:?} leads out of the working directory"));
    }
    Ok(real)
}

/// A program that the sandbox shows. The directory around a program is shown with it, so one that lies in a hidden place
/// is none, nor one that a link leads to from where the worker may write.
fn visible(name: &str, cwd: &Path, plan: &Plan, search: Search<'_>) -> Result<PathBuf, String> {
    let missing = || format!("there is no program {name:?}");
    if !name.contains('/') {
        return program::find(name, search.path).ok_or_else(missing);
    }
    let named = program::find(&cwd.join(name).to_string_lossy(), "").ok_or_else(missing)?;
    let real = fs::canonicalize(&named).map_err(|_| missing())?;
    let beneath = |dirs: &[PathBuf], path: &Path| {
        dirs.iter().any(|dir| fs::canonicalize(dir).is_ok_and(|dir| path.starts_with(dir)))
    };
    let own = |path: &Path| beneath(&search.bounds.writable, path);
    let hidden = |path: &Path| beneath(&plan.hidden, path);
    // Such as those of the workspace.
    let given = beneath(&search.bounds.readable, &real);
    match (own(&named), own(&real)) {
        // Without the links on the way to it.
        (_, true) => Ok(real),
        (_, false) if given => Ok(real),
        (true, false) => Err(format!("the program {name:?} leads out of the attempt's directories")),
        (false, false) if hidden(&named) || hidden(&real) => Err(missing()),
        (false, false) => Ok(named),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Place {
        dir: tempfile::TempDir,
        plan: Plan,
        bounds: Bounds,
    }

    impl Place {
        /// `work`, and beside it a hidden `secret`; in each a program `check`.
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let root = fs::canonicalize(dir.path()).unwrap();
            for sub in ["work", "secret", "open", "secret/workspace"] {
                fs::create_dir(root.join(sub)).unwrap();
                let file = root.join(sub).join("check");
                fs::write(&file, "#!/bin/sh\n").unwrap();
                fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
            }
            let readable = vec![root.join("secret/workspace")];
            let bounds = Bounds { writable: vec![root.join("work")], readable };
            let plan = Plan {
                bwrap: None,
                by_itself: false,
                landlock: true,
                hidden: vec![root.join("secret")],
                writable: bounds.writable.clone(),
                readable: Vec::new(),
            };
            Self { dir, plan, bounds }
        }

        fn root(&self) -> PathBuf {
            fs::canonicalize(self.dir.path()).unwrap()
        }

        fn find(&self, program: &str, dir: &str, sandboxed: bool) -> Result<Found, String> {
            let allowed = AllowedPrograms::find(&["sh".to_owned()], "/bin").unwrap();
            let command = GateCommand { program: program.into(), dir: dir.into(), ..GateCommand::default() };
            let search = Search {
                allowed: &allowed,
                path: "/bin",
                plan: sandboxed.then_some(&self.plan),
                work: &self.dir.path().join("work"),
                bounds: &self.bounds,
            };
            find(&command, search)
        }
    }

    #[test]
    fn a_sandbox_runs_what_it_shows_and_without_one_only_listed_programs_run() {
        let place = Place::new();
        let program = |asked: &str, sandboxed| place.find(asked, "", sandboxed).map(|found| found.program);
        assert_eq!(program("cat", true), Ok("/bin/cat".into()));
        assert_eq!(program("./check", true), Ok(place.root().join("work/check")));
        let open = place.root().join("open/check");
        assert_eq!(program(open.to_str().unwrap(), true), Ok(open.clone()));
        assert_eq!(program("sh", false), Ok("/bin/sh".into()));
        for asked in ["cat", "./check", open.to_str().unwrap()] {
            let why = program(asked, false).unwrap_err();
            assert!(why.contains("--allow-command"), "{why}");
        }
        assert_eq!(program("nope", true).unwrap_err(), "there is no program \"nope\"");
        assert_eq!(program("./nope", true).unwrap_err(), "there is no program \"./nope\"");
    }

    #[test]
    fn nothing_hidden_is_shown_by_naming_a_program_in_it() {
        let place = Place::new();
        let (root, work) = (place.root(), place.root().join("work"));
        symlink(root.join("secret/check"), work.join("link")).unwrap();
        symlink(root.join("secret"), work.join("dir")).unwrap();
        symlink("/bin/cat", work.join("cat")).unwrap();
        symlink("check", work.join("same")).unwrap();
        let program = |asked: &str| place.find(asked, "", true).map(|found| found.program);
        let hidden = root.join("secret/check");
        assert!(program(hidden.to_str().unwrap()).unwrap_err().starts_with("there is no program"));
        assert!(program("../secret/check").is_err());
        for link in ["./link", "dir/check", "./cat"] {
            assert!(program(link).unwrap_err().contains("leads out"), "{link}");
        }
        assert_eq!(program("./same"), Ok(work.join("check")));
        let given = root.join("secret/workspace");
        symlink(&given, work.join("workspace")).unwrap();
        assert_eq!(program("workspace/check"), Ok(given.join("check")));
        assert_eq!(program(given.join("check").to_str().unwrap()), Ok(given.join("check")));
    }

    #[test]
    fn a_gate_runs_beneath_the_working_directory_only() {
        let place = Place::new();
        let work = place.root().join("work");
        fs::create_dir(work.join("sub")).unwrap();
        symlink(place.root(), work.join("out")).unwrap();
        let cwd = |dir: &str| place.find("sh", dir, false).map(|found| found.cwd);
        assert_eq!((cwd(""), cwd("./sub")), (Ok(work.clone()), Ok(work.join("sub"))));
        for dir in ["..", "/", "/tmp", "sub/../..", "out", "check", "none"] {
            assert!(cwd(dir).is_err(), "{dir}");
        }
    }
}
