//! The CLI's session files in a conversation: whether one can be resumed. A CLI that was killed leaves its file in any state.
//!
//! | The file ends | `--resume` | `--session-id` |
//! |---|---|---|
//! | before or within its first user line | "No conversation found", every time | "already in use", every time |
//! | anywhere behind that line, also within a line or in zeros | goes on with what is whole | the same |
//!
//! (Seen of CLI 2.1.) So a file of the first kind is no session, and must go before a new one can begin under its name. Knows
//! the place and the first lines of these files; a child may write there, so no link is followed and nothing is waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;

use super::Conversation;

/// How much of a file is looked at: far more than lies before the first user line, and more than the longest prompt.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// What is read of a line.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
}

impl Conversation {
    /// Whether the CLI has a session `id` here that can be resumed.
    #[must_use]
    pub fn has_session(&self, id: &str) -> bool {
        self.session_files(id).iter().any(|file| has_begun(file))
    }

    /// Makes room for a new session `id`: removes what was begun under that name and never came to be one. To be called
    /// where there is none.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn clear_session(&self, id: &str) -> io::Result<()> {
        self.session_files(id).iter().try_for_each(fs::remove_file)
    }

    fn session_files(&self, id: &str) -> Vec<PathBuf> {
        let file = format!("{id}.jsonl");
        let projects = fs::read_dir(self.config().join("projects")).into_iter().flatten().flatten();
        let dirs = projects.filter(|project| project.file_type().is_ok_and(|kind| kind.is_dir()));
        dirs.map(|dir| dir.path().join(&file)).filter(|file| fs::symlink_metadata(file).is_ok()).collect()
    }
}

/// Whether a file holds a whole line of a user.
fn has_begun(file: &Path) -> bool {
    let Ok(file) = open(file) else { return false };
    let mut lines = BufReader::new(file.take(MOST_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
        if serde_json::from_slice::<Line>(&line).is_ok_and(|line| line.kind == "user") {
            return true;
        }
    }
}

fn open(file: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::super::{ConversationKey, Homes};
    use super::*;

    const QUEUED: &str = "{\"type\":\"queue-operation\",\"operation\":\"enqueue\"}\n";
    const USER: &str = "{\"parentUuid\":null,\"type\":\"user\",\"message\":{\"role\":\"user\"}}";

    #[test]
    fn a_session_has_begun_once_its_first_user_line_is_whole_however_the_rest_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let conversation = homes.conversation(ConversationKey { run: 1, task: 0 }).unwrap();
        let project = conversation.config().join("projects/-w");
        fs::create_dir_all(&project).unwrap();
        let file = project.join("5a.jsonl");
        for (text, begun) in [
            (String::new(), false),
            (QUEUED.to_owned(), false),
            (format!("{QUEUED}{}", &USER[..40]), false),
            (format!("{QUEUED}{USER}"), true),
            (format!("{QUEUED}{USER}\n{{\"type\":\"assist"), true),
            (format!("{QUEUED}{USER}\n\0\0\0"), true),
        ] {
            fs::write(&file, &text).unwrap();
            assert_eq!(conversation.has_session("5a"), begun, "{text:?}");
        }
        conversation.clear_session("5a").unwrap();
        assert!(!file.exists() && !conversation.has_session("5a"));
        conversation.clear_session("5a").unwrap();
    }

    #[test]
    fn what_a_child_puts_in_its_place_is_no_session_and_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let conversation = homes.conversation(ConversationKey { run: 1, task: 0 }).unwrap();
        let project = conversation.config().join("projects/-w");
        fs::create_dir_all(&project).unwrap();
        let (file, elsewhere) = (project.join("5a.jsonl"), dir.path().join("elsewhere"));
        fs::write(&elsewhere, USER).unwrap();
        symlink(&elsewhere, &file).unwrap();
        assert!(!conversation.has_session("5a"), "a link");
        conversation.clear_session("5a").unwrap();
        assert!(elsewhere.exists());
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success() && !conversation.has_session("5a"), "a pipe");
    }
}
