//! What is said between the program and its supervisor by whoever stands between them: whether the program began,
//! and, in a PID namespace, how it ended. JSON lines on a pipe. Knows no process.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

/// Longest reason that is told, in characters: all words together must fit into the pipe, because nobody may be
/// reading yet.
const LONGEST_REASON: usize = 1_000;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The program could not be executed.
    Failed {
        /// Why, for people.
        why: String,
    },
    /// The program runs in a PID namespace.
    Began {
        /// Its pid in there.
        pid: i32,
    },
    /// The program in the namespace ended.
    Ended {
        /// Exit code, when it exited.
        code: Option<i32>,
        /// Signal, when one ended it.
        signal: Option<i32>,
        /// Processes that were still there and die with the namespace.
        left: u32,
    },
}

/// Says words.
#[derive(Debug)]
pub struct Reporter(File);

impl Reporter {
    /// Says them into `pipe`.
    #[must_use]
    pub fn new(pipe: File) -> Self {
        Self(pipe)
    }

    /// Whether anybody listens: the supervisor alone does, and it does as long as it lives.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        let mut pipe = [PollFd::new(&self.0, PollFlags::empty())];
        let asked = poll(&mut pipe, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        asked.is_ok() && !pipe[0].revents().contains(PollFlags::ERR)
    }

    /// Says one. A supervisor that is gone hears nothing, and its death ends the speaker too.
    pub fn say(&mut self, word: &Word) {
        let word = match word {
            Word::Failed { why } => Word::Failed { why: why.chars().take(LONGEST_REASON).collect() },
            Word::Began { .. } | Word::Ended { .. } => word.clone(),
        };
        let mut line = serde_json::to_vec(&word).unwrap_or_default();
        line.push(b'\n');
        let _ = self.0.write_all(&line);
    }
}

/// Hears words.
#[derive(Debug)]
pub struct Reports {
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    words: Vec<Word>,
}

impl Reports {
    /// Hears them from `pipe`, which does not block.
    #[must_use]
    pub fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Some(pipe), bytes: Vec::new(), words: Vec::new() }
    }

    /// Everything said so far.
    pub fn words(&mut self) -> &[Word] {
        let mut chunk = [0; 4096];
        while let Some(pipe) = &self.pipe {
            match rustix::io::read(pipe, &mut chunk) {
                Ok(read) if read > 0 => self.bytes.extend_from_slice(&chunk[..read]),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Ok(_) | Err(_) => self.pipe = None,
            }
        }
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.words.extend(serde_json::from_slice::<Word>(&line));
        }
        &self.words
    }
}

/// A pipe for words: where they are heard, and the end that is handed down.
///
/// # Errors
/// When the process has too many open files.
pub fn channel() -> io::Result<(Reports, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let reader = OwnedFd::from(reader);
    rustix::io::ioctl_fionbio(&reader, true)?;
    Ok((Reports::new(reader), OwnedFd::from(writer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_heard_in_order_and_a_long_reason_is_cut() {
        let (mut reports, writer) = channel().unwrap();
        assert_eq!(reports.words(), []);
        let mut reporter = Reporter::new(File::from(writer));
        assert!(reporter.is_heard());
        reporter.say(&Word::Began { pid: 2 });
        reporter.say(&Word::Failed { why: "x".repeat(5_000) });
        let ended = Word::Ended { code: None, signal: Some(9), left: 3 };
        reporter.say(&ended);
        assert_eq!(reports.words().first(), Some(&Word::Began { pid: 2 }));
        assert_eq!(reports.words()[1], Word::Failed { why: "x".repeat(LONGEST_REASON) });
        assert_eq!(reports.words().last(), Some(&ended));
        drop(reporter);
        assert_eq!(reports.words().len(), 3);
    }

    #[test]
    fn nobody_listens_once_the_supervisor_is_gone() {
        let (reports, writer) = channel().unwrap();
        let reporter = Reporter::new(File::from(writer));
        drop(reports);
        assert!(!reporter.is_heard());
    }
}
