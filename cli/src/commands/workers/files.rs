//! The files of a directory of prompts, read as they are. Knows folders and sizes; what a file may say, the coordinator
//! knows.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use orch_proto::codes::ErrorCode;
use orch_proto::v1::PromptFile;

use crate::failure::{Failure, Outcome};

/// Most bytes together, from the wire's documentation.
const MAX_BYTES: usize = 900 << 10;
/// Most files, as a coordinator takes them: a wrong directory is refused before it is read through.
const MAX_FILES: usize = 1000;
/// Folders that hold Markdown alone; other files in them are nobody's.
const MARKDOWN: [&str; 3] = ["workers", "subagents", "templates"];
/// A folder that belongs to the same tree and is not about workers.
const WORKFLOWS: &str = "workflows";
/// About a folder, not of it.
const README: &str = "README.md";

/// The folder of context files: any name, at any depth.
const CONTEXT: &str = "context";
/// Deepest folder looked into; nothing people write comes near.
const MAX_DEPTH: usize = 16;

/// Reads the folders of `dir`, in order of path. Hidden files are left out, and `README.md` where it is about the folder.
///
/// # Errors
/// A directory that is none, holds no prompts, or holds too much.
pub(super) fn read(dir: &Path) -> Outcome<Vec<PromptFile>> {
    if !dir.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", dir.display()))
            .help("name the directory that has workers/ in it"));
    }
    let mut paths = Vec::new();
    for folder in entries(dir)?.into_iter().filter(|path| path.is_dir()) {
        match shown_name(&folder).as_str() {
            WORKFLOWS => {}
            CONTEXT => below(&folder, CONTEXT, MAX_DEPTH, &mut paths)?,
            name => {
                let mut found = Vec::new();
                below(&folder, name, 0, &mut found)?;
                let markdown = |path: &Path| path.extension().is_some_and(|extension| extension == "md");
                found.retain(|(path, _)| shown_name(path) != README);
                found.retain(|(path, _)| !MARKDOWN.contains(&name) || markdown(path));
                paths.append(&mut found);
            }
        }
    }
    if paths.is_empty() {
        return Err(Failure::usage(format!("{} holds no prompts", dir.display()))
            .help("workers lie in workers/*.md, their sub-agents in subagents/*.md below it"));
    }
    if paths.len() > MAX_FILES {
        return Err(too_much(dir, &format!("more than {MAX_FILES} files")));
    }
    let mut room = MAX_BYTES;
    let mut files = Vec::new();
    for (path, name) in paths {
        let content = content(&path, room)?;
        room = room.saturating_sub(content.len() + name.len());
        files.push(PromptFile { path: name, content });
    }
    Ok(files)
}

/// The files of a folder with their names below the directory; of its folders too, down to a depth.
fn below(folder: &Path, name: &str, depth: usize, into: &mut Vec<(PathBuf, String)>) -> Outcome<()> {
    for path in entries(folder)? {
        let name = format!("{name}/{}", shown_name(&path));
        if path.is_dir() && depth > 0 {
            below(&path, &name, depth - 1, into)?;
        } else if path.is_file() && into.len() <= MAX_FILES {
            into.push((path, name));
        }
    }
    Ok(())
}

/// What lies in a directory, in order of name.
fn entries(dir: &Path) -> Outcome<Vec<PathBuf>> {
    let failed = |error| Failure::usage(format!("cannot read {}", dir.display())).cause(error);
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !shown_name(&path).starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn content(path: &Path, room: usize) -> Outcome<Vec<u8>> {
    let failed = |error| Failure::usage(format!("cannot read {}", path.display())).cause(error);
    let mut content = Vec::new();
    fs::File::open(path).map_err(failed)?.take(room as u64 + 1).read_to_end(&mut content).map_err(failed)?;
    if content.len() > room {
        return Err(too_much(path, "the files together have more than 900 KiB"));
    }
    Ok(content)
}

fn too_much(path: &Path, what: &str) -> Failure {
    Failure::coded(ErrorCode::TooLarge, format!("{}: {what}", path.display()))
        .help("name a directory that holds prompts alone")
}

fn shown_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn prompts_are_read_in_order_and_everything_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "README.md",
            "workers/nadia.md",
            "workers/README.md",
            "workers/notes.txt",
            "workers/.hidden.md",
            "subagents/reader.md",
            "context/house.txt",
            "context/style/README.md",
            "workflows/release.json",
            ".git/workers.md",
        ] {
            write(dir.path(), name, name);
        }
        let files = read(dir.path()).unwrap();
        let paths: Vec<_> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            ["context/house.txt", "context/style/README.md", "subagents/reader.md", "workers/nadia.md"]
        );
        assert_eq!(files[3].content, b"workers/nadia.md");
    }

    #[test]
    fn what_is_no_directory_of_prompts_is_refused_with_advice() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(&dir.path().join("missing")).unwrap_err().message().ends_with("is not a directory"));
        assert!(read(dir.path()).unwrap_err().text(false).contains("workers/*.md"));
        write(dir.path(), "workers/big.md", &"x".repeat(MAX_BYTES + 1));
        assert_eq!(read(dir.path()).unwrap_err().code(), Some("E0109"));
    }
}
