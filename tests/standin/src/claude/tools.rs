//! Knows how the tools act: Write, Edit and Read on files, Bash as a real process in a session of its
//! own (as the observed CLI starts it, which is why it outlives a kill of the CLI), and how their results
//! are worded. Refuses to decide whether a call is permitted.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::permissions::absolute;
use crate::script::steps::head;

/// Largest file Read shows, as observed.
const MAX_READ: u64 = 256 << 10;
/// Characters of Bash output that are shown, as observed.
const MAX_OUTPUT: usize = 30_000;

/// What a tool gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    /// `content` of the tool_result: text or blocks.
    pub(super) content: Value,
    /// `is_error` of the tool_result; none: the field is left out, as some tools do.
    pub(super) is_error: Option<bool>,
    /// `tool_use_result` of the event.
    pub(super) detail: Value,
}

impl Outcome {
    /// A success without `is_error`.
    pub(super) fn ok(text: &str, detail: Value) -> Self {
        Self { content: json!(text), is_error: None, detail }
    }

    /// A failure.
    pub(super) fn error(text: &str) -> Self {
        Self { content: json!(text), is_error: Some(true), detail: json!(format!("Error: {text}")) }
    }

    /// A failure of the call itself, wrapped as the CLI wraps those.
    pub(super) fn misuse(text: &str) -> Self {
        let content = json!(format!("<tool_use_error>{text}</tool_use_error>"));
        Self {
            content,
            is_error: Some(true),
            detail: json!(format!("Error: {}", text.trim_start_matches("Error: "))),
        }
    }

    /// The content as one text.
    pub(super) fn text(&self) -> String {
        let blocks = self.content.as_array().into_iter().flatten().filter_map(|block| block["text"].as_str());
        self.content.as_str().into_iter().chain(blocks).collect::<Vec<_>>().join("\n")
    }
}

/// Carries out a call of a tool other than Bash and Agent.
pub(super) fn file_tool(cwd: &Path, tool: &str, input: &Value) -> Outcome {
    let given = input["file_path"].as_str().unwrap_or_default();
    let path = absolute(cwd, given);
    match tool {
        "Write" => write(&path, given, input["content"].as_str().unwrap_or_default()),
        "Edit" => edit(&path, given, input),
        "Read" => read(cwd, &path),
        other => Outcome::ok(&format!("(the stand-in does nothing for {other})"), json!({"standin": other})),
    }
}

fn write(path: &PathBuf, given: &str, content: &str) -> Outcome {
    let original = fs::read_to_string(path).ok();
    let made = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(path, content));
    if let Err(error) = made {
        return Outcome::error(&format!("{}: {error}", path.display()));
    }
    let (kind, text) = match original {
        None => ("create", format!("File created successfully at: {given}")),
        Some(_) => ("update", format!("The file {given} has been updated successfully.")),
    };
    let text = format!("{text} (file state is current in your context — no need to Read it back)");
    let detail = json!({"type": kind, "filePath": given, "content": content, "structuredPatch": [],
        "originalFile": original, "userModified": false});
    Outcome::ok(&text, detail)
}

fn edit(path: &Path, given: &str, input: &Value) -> Outcome {
    let field = |name: &str| input[name].as_str().unwrap_or_default();
    let (old, new) = (field("old_string"), field("new_string"));
    let Ok(original) = fs::read_to_string(path) else { return Outcome::misuse("File does not exist.") };
    if old.is_empty() || !original.contains(old) {
        return Outcome::misuse(&format!("String to replace not found in file.\nString: {old}"));
    }
    let all = input["replace_all"].as_bool().unwrap_or(false);
    let changed = if all { original.replace(old, new) } else { original.replacen(old, new, 1) };
    if let Err(error) = fs::write(path, changed) {
        return Outcome::error(&format!("{}: {error}", path.display()));
    }
    let text = format!(
        "The file {given} has been updated successfully. (file state is current in your context — no need to Read it back)"
    );
    let detail = json!({"filePath": given, "oldString": old, "newString": new, "originalFile": original,
        "structuredPatch": [], "userModified": false, "replaceAll": all});
    Outcome::ok(&text, detail)
}

fn read(cwd: &Path, path: &Path) -> Outcome {
    let Ok(meta) = fs::metadata(path) else {
        let note = format!("File does not exist. Note: your current working directory is {}.", cwd.display());
        return Outcome::error(&note);
    };
    if meta.len() > MAX_READ {
        let megabytes = meta.len() as f64 / f64::from(1 << 20);
        return Outcome::error(&format!(
            "File content ({megabytes:.1}MB) exceeds maximum allowed size (256KB)."
        ));
    }
    let Ok(bytes) = fs::read(path) else { return Outcome::error(&format!("cannot read {}", path.display())) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let lines: Vec<&str> = text.split('\n').collect();
    let numbered: Vec<String> =
        lines.iter().enumerate().map(|(at, line)| format!("{}\t{line}", at + 1)).collect();
    let file = json!({"filePath": path, "content": text, "numLines": lines.len(), "startLine": 1, "totalLines": lines.len()});
    Outcome::ok(&numbered.join("\n"), json!({"type": "text", "file": file}))
}

/// A running Bash command.
#[derive(Debug)]
pub(super) struct Bash {
    child: Child,
    pid: Option<Pid>,
    /// Where stdout and stderr go, merged. A file in memory: reading it never waits for processes that
    /// the command left behind with its output open.
    output: File,
}

impl Bash {
    /// Starts `command` in `cwd` in a new session, by way of setsid(1): the standard library can only
    /// make process groups, and a session needs code between fork and exec that Rust calls unsafe.
    /// Without that program the command gets a group of its own only.
    pub(super) fn start(cwd: &Path, command: &str) -> io::Result<Self> {
        let output = File::from(rustix::fs::memfd_create("bash-output", rustix::fs::MemfdFlags::CLOEXEC)?);
        let prepare = |mut start: Command| -> io::Result<Command> {
            start.args(["-c", command]).current_dir(cwd).env("CLAUDECODE", "1").stdin(Stdio::null());
            start.stdout(output.try_clone()?).stderr(output.try_clone()?);
            Ok(start)
        };
        let mut own_session = Command::new("setsid");
        own_session.arg("bash");
        let child = match prepare(own_session)?.spawn() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut own_group = Command::new("bash");
                own_group.process_group(0);
                prepare(own_group)?.spawn()?
            }
            started => started?,
        };
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok(Self { child, pid, output })
    }

    /// Waits for the command itself, not for what it leaves behind.
    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Kills the command's processes. The process alone as well: it may not have made its group yet.
    pub(super) fn kill(&self) {
        if let Some(pid) = self.pid {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// What it has printed, as far as it is shown.
    fn printed(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = self.output.rewind().and_then(|()| self.output.read_to_end(&mut bytes));
        let text = if read.is_ok() { String::from_utf8_lossy(&bytes).into_owned() } else { String::new() };
        let text = text.trim_end_matches('\n');
        let shown = head(text, MAX_OUTPUT);
        if shown.len() == text.len() {
            text.to_owned()
        } else {
            format!("{shown}\n[output cut by the stand-in]")
        }
    }

    /// The result of a finished command.
    pub(super) fn finished(mut self, status: ExitStatus) -> Outcome {
        use std::os::unix::process::ExitStatusExt as _;
        let printed = self.printed();
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(-1);
        if code != 0 {
            return Outcome::error(format!("Exit code {code}\n{printed}").trim_end());
        }
        let shown = if printed.is_empty() { "(Bash completed with no output)" } else { &printed };
        let detail = json!({"stdout": printed, "stderr": "", "interrupted": false, "isImage": false, "noOutputExpected": false});
        Outcome { content: json!(shown), is_error: Some(false), detail }
    }

    /// The result of a command that took too long.
    pub(super) fn timed_out(mut self, seconds: u64) -> Outcome {
        self.kill();
        let printed = self.printed();
        Outcome::error(format!("Exit code 143\n{printed}\nCommand timed out after {seconds}s").trim())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::file_tool;

    #[test]
    fn files_are_written_edited_and_read_as_the_cli_words_it() {
        let dir = tempfile::tempdir().unwrap();
        let run = |tool: &str, input| file_tool(dir.path(), tool, &input);
        let made = run("Write", json!({"file_path": "sub/a.txt", "content": "one\ntwo\n"}));
        assert!(made.text().starts_with("File created successfully at: sub/a.txt"), "{made:?}");
        assert_eq!(run("Read", json!({"file_path": "sub/a.txt"})).text(), "1\tone\n2\ttwo\n3\t");
        let edited =
            run("Edit", json!({"file_path": "sub/a.txt", "old_string": "two", "new_string": "three"}));
        assert_eq!(edited.is_error, None);
        assert_eq!(std::fs::read_to_string(dir.path().join("sub/a.txt")).unwrap(), "one\nthree\n");
        let missing = run("Edit", json!({"file_path": "sub/a.txt", "old_string": "zzz", "new_string": ""}));
        assert!(missing.text().starts_with("<tool_use_error>String to replace not found"));
        assert!(run("Read", json!({"file_path": "none"})).text().starts_with("File does not exist."));
    }
}
