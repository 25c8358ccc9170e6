//! Files that the workers of a run are given after their system prompt: named on the command line or in a run file, read
//! once, here. Knows paths and sizes; refuses to know what a file says.

use std::fs;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use orch_proto::codes::ErrorCode;
use orch_proto::v1::task_spec::Runner;
use orch_proto::v1::{ContextFile, RunSpec};

use crate::failure::{Failure, Outcome};

/// Most bytes together, from the wire's documentation.
const MAX_BYTES: usize = 256 << 10;
/// Longest name, from the wire's documentation.
const MAX_NAME: usize = 255;

/// Fills in the texts of a run's files: those that its file names, relative to `dir`, and then `further`, relative to
/// the working directory. A name is the path as it was given, without detours, so that the same command gives the same
/// bytes on every machine.
///
/// # Errors
/// A file that cannot be read or is not text, too many bytes, a name twice, or nobody in the run to read them.
pub(crate) fn fill(spec: &mut RunSpec, dir: &Path, further: &[PathBuf]) -> Outcome<()> {
    let named = std::mem::take(&mut spec.context_files);
    let named = named.into_iter().map(|file| (dir.join(&file.name), PathBuf::from(file.name)));
    let further = further.iter().map(|path| (path.clone(), path.clone()));
    let mut room = MAX_BYTES;
    for (path, given) in named.chain(further) {
        let text = text(&path, room)?;
        room -= text.len();
        let name = name(&given)?;
        if spec.context_files.iter().any(|file| file.name == name) {
            return Err(Failure::coded(
                ErrorCode::InvalidField,
                format!("the context file {name} is there twice"),
            )
            .help("name each file once"));
        }
        spec.context_files.push(ContextFile { name, text });
    }
    let names_one = spec.tasks.iter().any(|task| matches!(task.runner, Some(Runner::Worker(_))));
    let has_worker = names_one || spec.request.is_some();
    if !spec.context_files.is_empty() && !has_worker {
        return Err(Failure::usage("context files are for workers, and the run has none")
            .help("leave them out, or name a --worker"));
    }
    Ok(())
}

fn text(path: &Path, room: usize) -> Outcome<String> {
    let failed =
        |error| Failure::usage(format!("cannot read the context file {}", path.display())).cause(error);
    let mut bytes = Vec::new();
    fs::File::open(path).map_err(failed)?.take(room as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > room {
        return Err(Failure::coded(
            ErrorCode::TooLarge,
            format!("with {} the context files have more than 256 KiB", path.display()),
        )
        .help("every task pays for them; give what all need, and put the rest into --context"));
    }
    String::from_utf8(bytes).map_err(|_| {
        Failure::coded(
            ErrorCode::InvalidField,
            format!("the context file {} is not UTF-8 text", path.display()),
        )
    })
}

/// The path without `.` and with `..` taken back where something stands before it.
fn name(given: &Path) -> Outcome<String> {
    let mut parts: Vec<Component<'_>> = Vec::new();
    for part in given.components() {
        match (part, parts.last()) {
            (Component::CurDir, _) => {}
            (Component::ParentDir, Some(Component::Normal(_))) => drop(parts.pop()),
            (part, _) => parts.push(part),
        }
    }
    let name = parts.iter().collect::<PathBuf>();
    match name.to_str() {
        Some(name) if !name.is_empty() && name.len() <= MAX_NAME => Ok(name.to_owned()),
        Some(_) | None => Err(Failure::coded(
            ErrorCode::InvalidName,
            format!("{} is no name for a context file", given.display()),
        )
        .help(format!("give it a path of 1 to {MAX_NAME} bytes of UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use orch_proto::v1::{NoopTask, TaskSpec, WorkerTask};

    use super::*;

    fn run(runner: Runner, names: &[&str]) -> RunSpec {
        let named = |name: &&str| ContextFile { name: (*name).to_owned(), text: String::new() };
        RunSpec {
            tasks: vec![TaskSpec { runner: Some(runner), ..TaskSpec::default() }],
            context_files: names.iter().map(named).collect(),
            ..RunSpec::default()
        }
    }

    fn worker() -> Runner {
        Runner::Worker(WorkerTask::default())
    }

    #[test]
    fn files_of_a_run_lie_beside_it_and_those_of_flags_follow() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("style")).unwrap();
        fs::write(dir.path().join("style/house.md"), "Be brief.").unwrap();
        fs::write(dir.path().join("more.md"), "And exact.").unwrap();
        let mut spec = run(worker(), &["./style/../style/house.md"]);
        fill(&mut spec, dir.path(), &[dir.path().join("more.md")]).unwrap();
        assert_eq!(
            spec.context_files[0],
            ContextFile { name: "style/house.md".into(), text: "Be brief.".into() }
        );
        assert_eq!(spec.context_files[1].text, "And exact.");
    }

    #[test]
    fn what_cannot_be_given_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
        write("a.md", b"a");
        write("binary", b"\xff");
        write("big", &vec![b'x'; MAX_BYTES + 1]);
        let refused = |runner, names: &[&str]| fill(&mut run(runner, names), dir.path(), &[]).unwrap_err();
        assert!(refused(worker(), &["a.md", "./a.md"]).message().contains("twice"));
        assert_eq!(refused(worker(), &["binary"]).code(), Some("E0101"));
        assert_eq!(refused(worker(), &["big"]).code(), Some("E0109"));
        assert!(refused(worker(), &["missing"]).message().contains("cannot read"));
        assert!(refused(Runner::Noop(NoopTask {}), &["a.md"]).message().contains("for workers"));
    }

    #[test]
    fn a_name_keeps_what_leads_out_of_the_directory() {
        assert_eq!(name(Path::new("../x/./y.md")).unwrap(), "../x/y.md");
        assert_eq!(name(Path::new("/etc/x.md")).unwrap(), "/etc/x.md");
        assert!(name(Path::new(".")).is_err());
    }
}
