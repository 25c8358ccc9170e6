//! The workflow files of a layer, as they are. Knows the folder, sizes and UTF-8; what is in a file, and what happens to one
//! that cannot be read, is [`crate::workflows`]': unlike a worker, a broken workflow keeps no daemon from starting.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

/// The folder that workflows are read from.
pub(super) const FOLDER: &str = "workflows";
/// Largest workflow file, in bytes.
const MAX_BYTES: usize = 4 << 20;

/// A file with a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowFile {
    /// How messages name it.
    pub path: String,
    /// Its name without folder and `.json`.
    pub stem: String,
    /// Its text, or why it cannot be had.
    pub text: Result<String, String>,
}

/// A file in memory, by its path below the prompt directory; `None` for a path that no workflow can have.
pub(super) fn in_memory(prefix: &str, path: &str, content: &[u8]) -> Option<WorkflowFile> {
    let (folder, name) = path.split_once('/')?;
    let stem = stem(name).filter(|stem| folder == FOLDER && !stem.contains('/'))?;
    Some(WorkflowFile { path: format!("{prefix}{path}"), stem: stem.to_owned(), text: text(content) })
}

/// The workflows directly in `folder`, by name. `None` if there are more than `limit`.
pub(super) fn read(folder: &Path, limit: usize) -> io::Result<Option<Vec<WorkflowFile>>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(stem) = name.to_str().and_then(stem) else { continue };
        if files.len() == limit {
            return Ok(None);
        }
        let path = entry.path();
        let text = read_capped(&path).unwrap_or_else(|error| Err(format!("cannot be read: {error}")));
        files.push(WorkflowFile { path: path.display().to_string(), stem: stem.to_owned(), text });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(Some(files))
}

/// Hidden files (editors, mounted config maps) are none.
fn stem(name: &str) -> Option<&str> {
    name.strip_suffix(".json").filter(|stem| !stem.is_empty() && !stem.starts_with('.'))
}

/// Opening a pipe would wait for its writer.
fn read_capped(path: &Path) -> io::Result<Result<String, String>> {
    if !fs::metadata(path)?.is_file() {
        return Ok(Err("is not a regular file".to_owned()));
    }
    let mut content = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut content)?;
    Ok(text(&content))
}

fn text(content: &[u8]) -> Result<String, String> {
    if content.len() > MAX_BYTES {
        return Err(format!("has more than {MAX_BYTES} bytes"));
    }
    match std::str::from_utf8(content) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not UTF-8 from byte {} on", error.valid_up_to())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_json_file_is_read_and_none_is_read_whole_or_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content).unwrap();
        write("b.json", b"{}");
        write("a.json", b"\xff");
        write("big.json", &vec![b' '; MAX_BYTES + 1]);
        write(".hidden.json", b"{}");
        write("README.md", b"no");
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe.json"), rustix::fs::Mode::RUSR).unwrap();
        let files = read(dir.path(), 10).unwrap().unwrap();
        let told: Vec<_> = files.iter().map(|file| (file.stem.as_str(), file.text.as_deref())).collect();
        let large = format!("has more than {MAX_BYTES} bytes");
        assert_eq!(told[0], ("a", Err(&"is not UTF-8 from byte 0 on".to_owned())));
        assert_eq!(told[1], ("b", Ok("{}")));
        assert_eq!(told[2], ("big", Err(&large)));
        assert_eq!(told[3], ("pipe", Err(&"is not a regular file".to_owned())));
        assert_eq!(read(dir.path(), 2).unwrap(), None);
    }

    #[test]
    fn files_in_memory_are_those_of_the_folder() {
        let stem = |path: &str| in_memory("p:", path, b"{}").map(|file| file.stem);
        assert_eq!(stem("workflows/a.json").as_deref(), Some("a"));
        for path in ["workers/a.json", "a.json", "workflows/x/a.json", "workflows/.a.json", "workflows/a.md"]
        {
            assert_eq!(stem(path), None, "{path}");
        }
    }
}
