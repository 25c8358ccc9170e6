//! What happened in a run of faults, one JSON line an event, and a checker of what must hold whatever happened.
//!
//! Lines of one task stand in the order in which the coordinator made them durable; what clients acknowledge may stand
//! anywhere. Knows the promises of orch as sets and orders, all checked in linear time; refuses to know where a history comes
//! from: a simulation writes the same events as real processes.

pub mod check;
mod watched;

pub use self::check::{Checker, Violation, check};
pub use self::watched::{REQUEST_LABEL, recorded_by, stored_in};

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

/// Something that happened. Tasks are named by their refs, `name/number/task`, runs by `name/number`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A client sent a submit. Repeating it is no news.
    Submitted {
        /// Its request id.
        request: String,
    },
    /// A client was told that its submit is durable.
    Acknowledged {
        /// Its request id.
        request: String,
        /// The run it was given.
        run: String,
    },
    /// A lease was granted.
    Granted {
        /// The task.
        task: String,
        /// The attempt, from 1.
        attempt: u32,
        /// To whom.
        agent: String,
    },
    /// The agent took the attempt over.
    Accepted {
        /// The task.
        task: String,
        /// The attempt.
        attempt: u32,
    },
    /// An agent reported the end of an attempt, for the first time or again.
    Reported {
        /// The task.
        task: String,
        /// The attempt.
        attempt: u32,
    },
    /// An attempt ended without deciding the task: it was lost, crashed, or will be tried again.
    Ended {
        /// The task.
        task: String,
        /// The attempt.
        attempt: u32,
        /// Whether it counts as a crash.
        crash: bool,
    },
    /// The result that decides a task was made durable.
    Recorded {
        /// The task.
        task: String,
        /// The attempt whose result it is.
        attempt: u32,
        /// Its outcome, as the outcome table names it.
        outcome: String,
    },
    /// A report was refused because its attempt was no longer the current one.
    Fenced {
        /// The task.
        task: String,
        /// The attempt.
        attempt: u32,
    },
    /// A person asked for another attempt of a task that had ended.
    Retried {
        /// The task.
        task: String,
    },
    /// Bytes of a transcript reached a reader.
    Chunk {
        /// Who reads.
        reader: String,
        /// The task.
        task: String,
        /// The attempt.
        attempt: u32,
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: u64,
    },
    /// A run that the store held when it was looked at in the end.
    Stored {
        /// The run.
        run: String,
        /// The request id it was submitted with.
        request: String,
        /// Whether it had ended.
        ended: bool,
    },
}

/// A history that is written as it grows.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Begins or continues a history in a file.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(File::options().create(true).append(true).open(path)?))
    }

    /// Writes an event, which a crash of this process survives.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        self.0.write_all(&line)
    }

    /// Writes an event that survives a power loss, too: what a client counts as acknowledged.
    ///
    /// # Errors
    /// When it cannot be written or synced.
    pub fn write_synced(&mut self, event: &Event) -> io::Result<()> {
        self.write(event)?;
        self.0.sync_data()
    }
}

/// Reads a history.
///
/// # Errors
/// When a line is no event, or the file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Event>> {
    let lines = BufReader::new(File::open(path)?).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_line_by_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history.jsonl");
        let events = [
            Event::Submitted { request: "r1".into() },
            Event::Acknowledged { request: "r1".into(), run: "adhoc/1".into() },
            Event::Recorded { task: "adhoc/1/a".into(), attempt: 1, outcome: "ok".into() },
        ];
        let mut log = Log::open(&path).expect("a log");
        log.write(&events[0]).expect("written");
        log.write_synced(&events[1]).expect("written");
        drop(log);
        Log::open(&path).expect("the same log").write(&events[2]).expect("written");
        assert_eq!(read(&path).expect("read"), events);
        let text = std::fs::read_to_string(&path).expect("text");
        assert_eq!(text.lines().next(), Some(r#"{"event":"submitted","request":"r1"}"#));
    }
}
