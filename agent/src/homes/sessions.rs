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
use rustix::io::Errno;
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
    ///
    /// # Errors
    /// When that cannot be found out: for want of open files, or of a disk that reads. Nothing may be begun anew then.
    pub fn has_session(&self, id: &str) -> io::Result<bool> {
        for file in self.session_files(id)? {
            if has_begun(&file)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes room for a new session `id`: removes what was begun under that name and never came to be one. To be called
    /// where there is none.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn clear_session(&self, id: &str) -> io::Result<()> {
        self.session_files(id)?.iter().try_for_each(fs::remove_file)
    }

    fn session_files(&self, id: &str) -> io::Result<Vec<PathBuf>> {
        let projects = match fs::read_dir(self.config().join("projects")) {
            Ok(projects) => projects,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut files = Vec::new();
        for project in projects {
            let project = project?;
            let file = project.path().join(format!("{id}.jsonl"));
            if project.file_type()?.is_dir() {
                match fs::symlink_metadata(&file) {
                    Ok(_) => files.push(file),
                    Err(error) if is_absent(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(files)
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether a file holds a whole line of a user. One that is longer than anything that can stand before that line has it.
fn has_begun(file: &Path) -> io::Result<bool> {
    let Some(file) = open(file)? else { return Ok(false) };
    let is_long = file.metadata()?.len() > MOST_BYTES;
    let mut lines = BufReader::new(file.take(MOST_BYTES));
    let mut line = Vec::new();
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line)? == 0 {
            return Ok(is_long);
        }
        if serde_json::from_slice::<Line>(&line).is_ok_and(|line| line.kind == "user") {
            return Ok(true);
        }
    }
}

/// A file; `None` where a child has put something else in its place.
fn open(file: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(file) {
        Ok(file) => file,
        // A link, or a socket.
        Err(error)
            if [Errno::LOOP, Errno::NXIO]
                .map(Errno::raw_os_error)
                .map(Some)
                .contains(&error.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Some(file).filter(|file| file.metadata().is_ok_and(|found| found.is_file())))
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
            assert_eq!(conversation.has_session("5a").unwrap(), begun, "{text:?}");
        }
        conversation.clear_session("5a").unwrap();
        assert!(!file.exists() && !conversation.has_session("5a").unwrap());
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
        assert!(!conversation.has_session("5a").unwrap(), "a link");
        conversation.clear_session("5a").unwrap();
        assert!(elsewhere.exists());
        let made = std::process::Command::new("mkfifo").arg(&file).status().unwrap();
        assert!(made.success() && !conversation.has_session("5a").unwrap(), "a pipe");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(!conversation.has_session("5a").unwrap(), "a directory");
    }

    #[test]
    fn a_session_that_cannot_be_looked_at_is_neither_begun_nor_gone() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes::open(dir.path()).unwrap();
        let conversation = homes.conversation(ConversationKey { run: 1, task: 0 }).unwrap();
        let projects = conversation.config().join("projects");
        // A name too long for the disk stands for every look that fails for a reason other than that nothing is there.
        fs::create_dir_all(projects.join("-w")).unwrap();
        let id = "5".repeat(300);
        assert!(conversation.has_session(&id).is_err() && conversation.clear_session(&id).is_err());
        let file = File::create(projects.join("-w/5a.jsonl")).unwrap();
        file.set_len(MOST_BYTES + 1).unwrap();
        assert!(conversation.has_session("5a").unwrap(), "nothing so long is a session that never began");
    }
}
