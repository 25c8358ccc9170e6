//! Knows where the CLI keeps a session (`CONFIG/projects/<cwd>/<id>.jsonl`) and keeps there what the
//! stand-in needs to behave like it: that a session exists, for which directory, and how many turns it
//! had. Refuses to store answers.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use uuid::Uuid;

use super::settings::{Conversation, Settings};
use crate::script;

/// The session's file, when there is one.
#[derive(Debug)]
pub(super) struct History {
    path: Option<PathBuf>,
    /// Turns before this process.
    pub(super) turns: u64,
    /// What the latest prompt that foresaw the next one (directive `then`) has for it.
    foreseen: Option<String>,
    /// The latest prompt with directives, which a note of an interruption asks to go on with.
    scripted: Option<String>,
}

impl History {
    /// Opens the session that `settings` name.
    ///
    /// # Errors
    /// The text for stderr: a new session's id is in use, or an earlier session does not exist here.
    pub(super) fn open(settings: &Settings) -> Result<Self, String> {
        let place = |id: Uuid| {
            let config = settings.env.config_dir.as_deref()?;
            Some(config.join("projects").join(mangled(&settings.env.cwd)).join(format!("{id}.jsonl")))
        };
        let keep = |path: Option<PathBuf>| path.filter(|_| settings.persist);
        let earlier = |id: Uuid| {
            let path = place(id).filter(|path| path.is_file());
            path.ok_or_else(|| format!("No conversation found with session ID: {id}"))
        };
        match settings.conversation {
            Conversation::New(id) => {
                let path = place(id);
                if path.as_ref().is_some_and(|path| path.exists()) {
                    return Err(format!("Error: Session ID {id} is already in use."));
                }
                Ok(Self { path: keep(path), turns: 0, foreseen: None, scripted: None })
            }
            Conversation::Resume(id) => {
                let path = earlier(id)?;
                let earlier = Earlier::read(&path);
                Ok(Self::after(earlier, keep(Some(path))))
            }
            Conversation::Fork { from, to } => {
                let (old, new) = (earlier(from)?, place(to));
                if let Some(new) = keep(new.clone()) {
                    fs::copy(&old, &new)
                        .map_err(|error| format!("Error: cannot copy the session: {error}"))?;
                }
                Ok(Self::after(Earlier::read(&old), keep(new)))
            }
        }
    }

    fn after(earlier: Earlier, path: Option<PathBuf>) -> Self {
        let Earlier { turns, foreseen, scripted } = earlier;
        Self { path, turns, foreseen, scripted }
    }

    /// Where the messages are kept that were sent to an endpoint, beside the session.
    pub(super) fn messages_file(&self) -> Option<PathBuf> {
        self.path.as_ref().map(|path| path.with_extension("messages"))
    }

    /// Notes a turn and gives the prompt that counts for it: one without directives may have been foreseen, and a note
    /// of an interruption begins the latest script anew. An unusable configuration directory is no error, as observed.
    pub(super) fn note(&mut self, prompt: &str) -> String {
        if let Some(path) = &self.path {
            let _ = append(path, prompt);
        }
        self.turns += 1;
        let directives = script::parse(prompt).unwrap_or_default();
        let counts = match &self.foreseen {
            Some(foreseen) if directives.is_empty() => foreseen.clone(),
            Some(_) | None => {
                let scripted = self.scripted.as_ref().filter(|_| script::is_note(prompt));
                scripted.map_or_else(|| prompt.to_owned(), Clone::clone)
            }
        };
        if !directives.is_empty() {
            self.scripted = Some(prompt.to_owned());
        }
        self.foreseen = then(prompt).or_else(|| self.foreseen.take());
        counts
    }
}

fn append(path: &Path, prompt: &str) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    let line = json!({"type": "user", "orch_standin": true, "message": {"role": "user", "content": prompt}});
    writeln!(file, "{line}")
}

/// What `prompt` has for the next one.
fn then(prompt: &str) -> Option<String> {
    let directives = script::parse(prompt).ok()?;
    let then = directives.iter().find(|directive| directive.name == "then")?;
    then.text("prompt").map(ToOwned::to_owned)
}

/// What a session file tells.
#[derive(Debug, Default)]
struct Earlier {
    turns: u64,
    foreseen: Option<String>,
    scripted: Option<String>,
}

impl Earlier {
    fn read(path: &Path) -> Self {
        let Ok(text) = fs::read_to_string(path) else { return Self::default() };
        let lines = text.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let prompts: Vec<String> =
            lines.filter_map(|line| Some(line["message"]["content"].as_str()?.to_owned())).collect();
        Self {
            turns: text.lines().count() as u64,
            foreseen: prompts.iter().find_map(|prompt| then(prompt)),
            scripted: prompts
                .into_iter()
                .find(|prompt| script::parse(prompt).is_ok_and(|found| !found.is_empty())),
        }
    }
}

/// The directory's name as the CLI writes it: everything but letters and digits becomes `-`.
fn mangled(cwd: &Path) -> String {
    cwd.to_string_lossy().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::History;
    use crate::claude::args::Args;
    use crate::claude::environment::Environment;
    use crate::claude::settings::Settings;

    const ID: &str = "11111111-2222-4333-8444-555555555555";

    #[test]
    fn a_session_exists_for_its_directory_only_and_its_id_is_taken_once() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |flag: &str, cwd: &str| {
            let args = Args::parse(["-p", flag, ID].map(ToOwned::to_owned)).unwrap();
            let mut env = Environment::for_tests();
            (env.config_dir, env.cwd) = (Some(dir.path().to_owned()), cwd.into());
            Settings::build(&args, Vec::new(), env).unwrap()
        };
        let open = |flag: &str, cwd: &str| History::open(&settings(flag, cwd));
        assert!(open("--resume", "/a").unwrap_err().starts_with("No conversation found"));
        open("--session-id", "/a").unwrap().note("one");
        assert!(open("--session-id", "/a").unwrap_err().contains("already in use"));
        assert!(open("--resume", "/b").is_err());
        assert_eq!(open("--resume", "/a").unwrap().turns, 1);
    }

    #[test]
    fn a_prompt_without_directives_is_taken_for_the_one_foreseen_also_by_an_earlier_process() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |flag: &str| {
            let args = Args::parse(["-p", flag, ID].map(ToOwned::to_owned)).unwrap();
            let mut env = Environment::for_tests();
            env.config_dir = Some(dir.path().to_owned());
            Settings::build(&args, Vec::new(), env).unwrap()
        };
        let first = r#"[[text]][[then {"prompt":"[[text {\"text\":\"two\"}]]"}]]"#;
        assert_eq!(History::open(&settings("--session-id")).unwrap().note(first), first);
        let mut resumed = History::open(&settings("--resume")).unwrap();
        assert_eq!(resumed.note("mend it"), r#"[[text {"text":"two"}]]"#);
        assert_eq!(resumed.note("[[text]]"), "[[text]]");
    }

    #[test]
    fn a_note_of_an_interruption_begins_the_script_anew() {
        let dir = tempfile::tempdir().unwrap();
        let settings = |flag: &str| {
            let args = Args::parse(["-p", flag, ID].map(ToOwned::to_owned)).unwrap();
            let mut env = Environment::for_tests();
            env.config_dir = Some(dir.path().to_owned());
            Settings::build(&args, Vec::new(), env).unwrap()
        };
        let note =
            "\nYou were interrupted while you worked on this task (it was lost), and are going on now.";
        History::open(&settings("--session-id")).unwrap().note("[[text]]");
        for _ in 0..2 {
            assert_eq!(History::open(&settings("--resume")).unwrap().note(note), "[[text]]");
        }
    }
}
