//! Knows the recorded streams of the real CLI (`tests/standin/streams`) and how to play one: its lines with this
//! session's id, then its end. Refuses to interpret them.

use std::time::Duration;

use rust_embed::RustEmbed;
use serde_json::{Value, json};

use super::session::{By, Session, Stop};
use crate::script::Directive;

/// The recordings, built in so that an installed program has them too.
#[derive(RustEmbed)]
#[folder = "streams"]
struct Streams;

/// What the index says of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Its name: the file without `.jsonl`.
    pub name: String,
    /// The CLI's exit code; negative: the signal that killed it.
    pub exit_code: i32,
    /// The outcome a judge should come to, in the words of the outcome table.
    pub outcome: String,
    /// Entries in the last result's permission_denials.
    pub denials: usize,
    /// Why, or what is special.
    pub note: String,
}

/// All recorded streams.
pub fn index() -> Vec<Recorded> {
    let Some(file) = Streams::get("INDEX.tsv") else { return Vec::new() };
    let text = String::from_utf8_lossy(&file.data).into_owned();
    let rows = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut cells = line.split('\t');
        Some(Recorded {
            name: cells.next()?.to_owned(),
            exit_code: cells.next()?.parse().ok()?,
            outcome: cells.next()?.to_owned(),
            denials: cells.next()?.parse().ok()?,
            note: cells.next().unwrap_or_default().to_owned(),
        })
    });
    rows.collect()
}

/// The raw stdout of a recorded stream.
pub fn stream(name: &str) -> Option<Vec<u8>> {
    Streams::get(&format!("{name}.jsonl")).map(|file| file.data.into_owned())
}

impl Session {
    /// Plays a stream in the place of the whole run; gives the exit code.
    pub(super) async fn replay(&mut self, directive: &Directive) -> u8 {
        let name = directive.text("stream").unwrap_or_default();
        let recorded = index().into_iter().find(|recorded| recorded.name == name);
        let (Some(recorded), Some(bytes)) = (recorded, stream(name)) else {
            super::complain(&format!("orch stand-in: no recorded stream named {name:?}"));
            return 1;
        };
        let pause = directive.number("delay_ms").map_or_else(|| self.settings.delay(), Duration::from_millis);
        let mut has_result = false;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (line, is_result) = self.with_own_session(line);
            has_result |= is_result;
            let out = self.out.clone();
            let printed = self.wait(async move {
                tokio::time::sleep(pause).await;
                out.bytes(line).await;
            });
            if let Err(code) = ended(printed.await) {
                return code;
            }
        }
        let Ok(code) = u8::try_from(recorded.exit_code) else {
            // It was killed: so this one waits to be.
            return ended(self.wait(std::future::pending::<()>()).await).err().unwrap_or_default();
        };
        if has_result && self.settings.stream_input {
            self.wait_for_end_of_input().await;
        }
        code
    }

    /// The line as this session would print it, and whether it is a result.
    fn with_own_session(&self, line: &[u8]) -> (Vec<u8>, bool) {
        let Ok(mut event) = serde_json::from_slice::<Value>(line) else { return (line.to_vec(), false) };
        let is_result = event["type"] == "result";
        if event.get("session_id").is_none() {
            return (line.to_vec(), is_result);
        }
        event["session_id"] = json!(self.settings.session_id());
        let mut bytes = event.to_string().into_bytes();
        bytes.push(b'\n');
        (bytes, is_result)
    }
}

fn ended(waited: Result<(), Stop>) -> Result<(), u8> {
    match waited {
        Ok(()) | Err(Stop::Interrupted(By::Request)) => Ok(()),
        Err(Stop::Interrupted(By::Signal)) => Err(0),
        Err(Stop::Exit(code)) => Err(code),
    }
}
