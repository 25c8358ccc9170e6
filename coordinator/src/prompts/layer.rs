//! Where prompt files come from: the binary itself, or a directory.
//!
//! Knows folders, file names and sizes. Refuses to know what is in a file beyond its being UTF-8; sets of
//! layers are put together in [`super`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;

use super::fields::MAX_FILE_BYTES;
use super::material::{ContextFile, context_file, is_context_path, read_context};
use super::names;
use super::problem::CatalogueProblem;
use super::workflow_files::{self, WorkflowFile};

/// Prompt files a directory may have. Far above any studio; bounds the work of a wrong `--prompts /`.
const MAX_FILES: usize = 1000;

/// The folders of a prompt directory.
const FOLDERS: &[&str] = &["workers", "subagents", "templates", "workflows", "settings", "mcp", CONTEXT];

/// The folder of context files, which are kept apart: any name, any depth, and no mistake unless a worker names them.
const CONTEXT: &str = "context";

/// How errors name what is built in.
pub const EMBEDDED: &str = "embedded:";

/// The prompts this program was built with.
#[derive(RustEmbed)]
#[folder = "../prompts"]
struct Embedded;

/// What a prompt file defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Worker,
    SubAgent,
    Template,
    Settings,
    Mcp,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Worker, Self::SubAgent, Self::Template, Self::Settings, Self::Mcp];

    fn folder(self) -> &'static str {
        match self {
            Self::Worker => "workers",
            Self::SubAgent => "subagents",
            Self::Template => "templates",
            Self::Settings => "settings",
            Self::Mcp => "mcp",
        }
    }

    /// The name by which a file of this kind is referred to, if it is one: without `.md`, or with `.json`. Hidden files
    /// (editors, mounted config maps) and READMEs are none.
    fn stem(self, name: &str) -> Option<&str> {
        let (stem, shown) = match self {
            Self::Worker | Self::SubAgent | Self::Template => {
                let stem = name.strip_suffix(".md")?;
                (stem, stem)
            }
            Self::Settings | Self::Mcp => (name.strip_suffix(".json")?, name),
        };
        (!stem.is_empty() && !stem.starts_with('.') && stem != "README").then_some(shown)
    }
}

/// One file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PromptFile {
    pub(super) kind: Kind,
    /// How errors name it.
    pub(super) path: String,
    /// Its name without folder; without `.md`, with `.json`.
    pub(super) stem: String,
    pub(super) text: String,
}

/// A directory with prompts that go before those built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptDir {
    path: PathBuf,
    required: bool,
}

impl PromptDir {
    /// A directory that somebody asked for: an error if it is not there or holds no prompts.
    #[must_use]
    pub fn required(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), required: true }
    }

    /// A directory that may be absent.
    #[must_use]
    pub fn optional(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), required: false }
    }
}

/// Prompt files that stand on one level of precedence, in order of kind and path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer {
    pub(super) files: Vec<PromptFile>,
    /// Context files by their path below the folder.
    pub(super) context: BTreeMap<String, ContextFile>,
    /// By path.
    pub(super) workflows: Vec<WorkflowFile>,
}

impl Layer {
    /// The prompts built into this program, named `embedded:workers/DANCE.md` and so on in errors.
    ///
    /// # Errors
    /// A file is too large or not UTF-8; the tests of this crate rule that out for a release.
    pub fn embedded() -> Result<Self, Vec<CatalogueProblem>> {
        let files = Embedded::iter().filter_map(|path| Embedded::get(&path).map(|file| (path, file.data)));
        Self::from_files(EMBEDDED, files)
    }

    /// Files in memory, each with its path below the prompt directory; `prefix` goes before it in errors.
    /// Paths that no prompt file can have are passed over.
    ///
    /// # Errors
    /// Everything that is wrong with the files, not just the first.
    pub fn from_files<P: AsRef<str>, C: AsRef<[u8]>>(
        prefix: &str,
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Result<Self, Vec<CatalogueProblem>> {
        let (mut layer, mut problems) = (Self::default(), Vec::new());
        for (path, content) in files {
            let Some((folder, name)) = path.as_ref().split_once('/') else { continue };
            if folder == workflow_files::FOLDER {
                layer.workflows.extend(workflow_files::in_memory(prefix, path.as_ref(), content.as_ref()));
                continue;
            }
            if folder == CONTEXT && is_context_path(name) {
                layer.context.insert(name.to_owned(), context_file(content.as_ref()));
                continue;
            }
            let Some(kind) = Kind::ALL.into_iter().find(|kind| kind.folder() == folder) else { continue };
            let Some(stem) = kind.stem(name).filter(|stem| !stem.contains('/')) else { continue };
            match prompt_file(kind, format!("{prefix}{folder}/{name}"), stem, content.as_ref()) {
                Ok(file) => layer.files.push(file),
                Err(problem) => problems.push(problem),
            }
        }
        layer.files.sort_by(|a, b| (a.kind, &a.path).cmp(&(b.kind, &b.path)));
        layer.workflows.sort_by(|a, b| a.path.cmp(&b.path));
        if problems.is_empty() { Ok(layer) } else { Err(problems) }
    }

    /// Files that somebody sent, as a directory of theirs would be read.
    ///
    /// # Errors
    /// Everything that is wrong with the files, folders that are not read included.
    pub fn sent<P: AsRef<str>, C: AsRef<[u8]>>(
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Result<Self, Vec<CatalogueProblem>> {
        let files: Vec<(P, C)> = files.into_iter().collect();
        let folder = |(path, _): &(P, C)| path.as_ref().split_once('/').map(|(folder, _)| folder.to_owned());
        let folders: BTreeSet<String> = files.iter().filter_map(folder).collect();
        let mut problems = misspelt_folders(Path::new(""), &folders);
        if problems.is_empty() && FOLDERS.iter().all(|folder| !folders.contains(*folder)) {
            problems.push(CatalogueProblem::NoPrompts { path: ".".to_owned(), folders: FOLDERS });
        }
        match (Self::from_files("", files), problems.is_empty()) {
            (Ok(layer), true) => Ok(layer),
            (Ok(_), false) => Err(problems),
            (Err(found), _) => Err(problems.into_iter().chain(found).collect()),
        }
    }

    /// The prompts of a directory. An optional one that is absent is an empty layer.
    ///
    /// # Errors
    /// Everything that is wrong with the directory, not just the first file.
    pub fn read(dir: &PromptDir) -> Result<Self, Vec<CatalogueProblem>> {
        let folders = match sub_folders(&dir.path) {
            Ok(folders) => folders,
            Err(error) if !dir.required && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(source) => return Err(vec![CatalogueProblem::Unreadable { path: shown(&dir.path), source }]),
        };
        let mut problems = misspelt_folders(&dir.path, &folders);
        if dir.required && problems.is_empty() && FOLDERS.iter().all(|folder| !folders.contains(*folder)) {
            problems.push(CatalogueProblem::NoPrompts { path: shown(&dir.path), folders: FOLDERS });
        }
        let mut layer = Self::default();
        for kind in Kind::ALL.into_iter().filter(|kind| folders.contains(kind.folder())) {
            let folder = dir.path.join(kind.folder());
            match prompt_files(kind, &folder) {
                Ok(paths) if layer.files.len() + paths.len() > MAX_FILES => {
                    problems
                        .push(CatalogueProblem::TooManyFiles { path: shown(&dir.path), limit: MAX_FILES });
                    break;
                }
                Ok(paths) => layer.read_files(kind, paths, &mut problems),
                Err(source) => problems.push(CatalogueProblem::Unreadable { path: shown(&folder), source }),
            }
        }
        if folders.contains(CONTEXT) {
            layer.read_context(&dir.path, &mut problems);
        }
        if folders.contains(workflow_files::FOLDER) {
            layer.read_workflows(&dir.path, &mut problems);
        }
        if problems.is_empty() { Ok(layer) } else { Err(problems) }
    }

    fn read_context(&mut self, dir: &Path, problems: &mut Vec<CatalogueProblem>) {
        let folder = dir.join(CONTEXT);
        match read_context(&folder, MAX_FILES) {
            Ok(Some(files)) => self.context = files,
            Ok(None) => {
                problems.push(CatalogueProblem::TooManyFiles { path: shown(&folder), limit: MAX_FILES });
            }
            Err(source) => problems.push(CatalogueProblem::Unreadable { path: shown(&folder), source }),
        }
    }

    fn read_workflows(&mut self, dir: &Path, problems: &mut Vec<CatalogueProblem>) {
        let folder = dir.join(workflow_files::FOLDER);
        match workflow_files::read(&folder, MAX_FILES) {
            Ok(Some(files)) => self.workflows = files,
            Ok(None) => {
                problems.push(CatalogueProblem::TooManyFiles { path: shown(&folder), limit: MAX_FILES });
            }
            Err(source) => problems.push(CatalogueProblem::Unreadable { path: shown(&folder), source }),
        }
    }

    fn read_files(
        &mut self,
        kind: Kind,
        paths: Vec<(PathBuf, String)>,
        problems: &mut Vec<CatalogueProblem>,
    ) {
        for (path, stem) in paths {
            match read_capped(&path).and_then(|content| prompt_file(kind, shown(&path), &stem, &content)) {
                Ok(file) => self.files.push(file),
                Err(problem) => problems.push(problem),
            }
        }
    }
}

fn prompt_file(kind: Kind, path: String, stem: &str, content: &[u8]) -> Result<PromptFile, CatalogueProblem> {
    if content.len() > MAX_FILE_BYTES {
        return Err(CatalogueProblem::FileTooLarge { path, limit: MAX_FILE_BYTES });
    }
    if kind == Kind::Template && !names::is_valid(stem) {
        return Err(CatalogueProblem::BadTemplateName { path });
    }
    match std::str::from_utf8(content) {
        Ok(text) => Ok(PromptFile { kind, path, stem: stem.to_owned(), text: text.to_owned() }),
        Err(error) => Err(CatalogueProblem::NotUtf8 { path, offset: error.valid_up_to() }),
    }
}

/// Directories in `path`, symbolic links to directories included: mounted config maps are such links.
fn sub_folders(path: &Path) -> io::Result<BTreeSet<String>> {
    let mut folders = BTreeSet::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if let Ok(name) = entry.file_name().into_string()
            && fs::metadata(entry.path()).is_ok_and(|meta| meta.is_dir())
        {
            folders.insert(name);
        }
    }
    Ok(folders)
}

fn misspelt_folders(path: &Path, folders: &BTreeSet<String>) -> Vec<CatalogueProblem> {
    let misspelt = |name: &String| {
        let nearest = names::nearest(name, FOLDERS.iter().copied()).filter(|known| known != name)?;
        Some(CatalogueProblem::MisspeltFolder { path: shown(&path.join(name)), nearest })
    };
    folders.iter().filter_map(misspelt).collect()
}

/// The prompt files directly in `folder`, sorted, each with its stem. Names that are not UTF-8 are none.
fn prompt_files(kind: Kind, folder: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if let Some(stem) = entry.file_name().to_str().and_then(|name| kind.stem(name)) {
            files.push((entry.path(), stem.to_owned()));
        }
        if files.len() > MAX_FILES {
            break;
        }
    }
    files.sort();
    Ok(files)
}

/// A regular file's content, at most one byte over the limit. Opening a pipe would wait for its writer.
fn read_capped(path: &Path) -> Result<Vec<u8>, CatalogueProblem> {
    let unreadable = |source| CatalogueProblem::Unreadable { path: shown(path), source };
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(CatalogueProblem::NotAFile { path: shown(path) });
    }
    let mut content = Vec::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)).map_err(unreadable)?;
    Ok(content)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        dir
    }

    fn problems(dir: &tempfile::TempDir) -> Vec<String> {
        let problems = Layer::read(&PromptDir::required(dir.path())).unwrap_err();
        let root = shown(dir.path());
        problems.iter().map(|problem| problem.to_string().replace(&root, "DIR")).collect()
    }

    #[test]
    fn every_file_of_the_folders_is_read_and_nothing_else() {
        let dir = dir(&[
            ("workers/B.md", "b"),
            ("workers/A.md", "a"),
            ("workers/README.md", "no"),
            ("workers/.hidden.md", "no"),
            ("workers/note.txt", "no"),
            ("subagents/s.md", "s"),
            ("templates/t.md", "t"),
            ("workflows/w.json", "{}"),
            ("docs/x.md", "no"),
            ("x.md", "no"),
        ]);
        let layer = Layer::read(&PromptDir::required(dir.path())).unwrap();
        let read: Vec<_> =
            layer.files.iter().map(|file| (file.kind, file.stem.as_str(), file.text.as_str())).collect();
        assert_eq!(
            read,
            [
                (Kind::Worker, "A", "a"),
                (Kind::Worker, "B", "b"),
                (Kind::SubAgent, "s", "s"),
                (Kind::Template, "t", "t")
            ]
        );
        let workflows: Vec<_> = layer.workflows.iter().map(|file| file.stem.as_str()).collect();
        assert_eq!(workflows, ["w"]);
    }

    #[test]
    fn links_are_followed_as_in_a_mounted_config_map() {
        let dir = dir(&[("..data/workers/A.md", "a")]);
        std::os::unix::fs::symlink("..data/workers", dir.path().join("workers")).unwrap();
        let layer = Layer::read(&PromptDir::required(dir.path())).unwrap();
        assert_eq!(layer.files.len(), 1);
    }

    #[test]
    fn an_optional_directory_may_be_absent_and_a_required_one_may_not() {
        let dir = dir(&[]);
        let absent = dir.path().join("absent");
        assert_eq!(Layer::read(&PromptDir::optional(&absent)).unwrap(), Layer::default());
        let problems = Layer::read(&PromptDir::required(&absent)).unwrap_err();
        assert!(matches!(problems.as_slice(), [CatalogueProblem::Unreadable { .. }]), "{problems:?}");
    }

    #[test]
    fn a_directory_that_is_no_prompt_directory_is_refused() {
        assert_eq!(
            problems(&dir(&[("src/main.rs", "")])),
            ["DIR has none of the folders workers, subagents, templates, workflows, settings, mcp, context"]
        );
        assert_eq!(
            problems(&dir(&[("worker/a.md", ""), ("templates/t.md", "t")])),
            ["DIR/worker is not read; did you mean `workers`?"]
        );
    }

    #[test]
    fn bad_files_are_all_reported_and_none_is_read_whole_or_waited_for() {
        let dir = dir(&[("templates/Bad Name.md", "x"), ("workers/big.md", &"x".repeat(MAX_FILE_BYTES + 1))]);
        fs::write(dir.path().join("workers/latin1.md"), b"ab\xe9").unwrap();
        let pipe = dir.path().join("workers/pipe.md");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(
            problems(&dir),
            [
                format!("DIR/workers/big.md has more than {MAX_FILE_BYTES} bytes"),
                "DIR/workers/latin1.md is not UTF-8 from byte 2 on".to_owned(),
                "DIR/workers/pipe.md is not a regular file".to_owned(),
                "DIR/templates/Bad Name.md: a template is named by its file, and this name is not of \
                 the form `a-z`, `0-9`, `-`"
                    .to_owned(),
            ]
        );
    }

    #[test]
    fn too_many_files_are_refused() {
        let dir = dir(&[("workers/a.md", "")]);
        for number in 0..MAX_FILES {
            fs::write(dir.path().join(format!("workers/{number}.md")), "").unwrap();
        }
        assert_eq!(problems(&dir), [format!("DIR has more than {MAX_FILES} prompt files")]);
    }
}
