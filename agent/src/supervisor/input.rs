//! The child's standard input: lines that wait for room in the pipe, and its closing.
//! Knows no line's meaning.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Lines on their way to the child.
#[derive(Debug, Default)]
pub struct InputFeed {
    pipe: Option<OwnedFd>,
    pending: Vec<u8>,
    written: usize,
    closing: bool,
}

impl InputFeed {
    /// Feeds `pipe`; `None` for a child without input.
    #[must_use]
    pub fn new(pipe: Option<OwnedFd>) -> Self {
        Self { pipe, ..Self::default() }
    }

    /// Queues bytes. Returns false when the input is closed or closing: nothing more can be said.
    pub fn say(&mut self, bytes: &[u8]) -> bool {
        if self.is_closed() {
            return false;
        }
        self.pending.extend_from_slice(bytes);
        true
    }

    /// Closes the input once everything queued is written.
    pub fn close(&mut self) {
        self.closing = true;
        self.feed();
    }

    /// Whether nothing more can be said.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closing || self.pipe.is_none()
    }

    /// The descriptor to poll for room; `None` when nothing waits.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd)
    }

    /// Writes what there is room for. A child that closed its input is no error: its end tells more.
    pub fn feed(&mut self) {
        while let Some(pipe) = self.pipe.as_ref().filter(|_| self.written < self.pending.len()) {
            match rustix::io::write(pipe, &self.pending[self.written..]) {
                Ok(written) => self.written += written,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.pipe = None,
            }
        }
        self.pending = Vec::new();
        self.written = 0;
        if self.closing {
            self.pipe = None;
        }
    }
}

/// Reads what is to be said first.
///
/// # Errors
/// When the file cannot be read.
pub fn first_words(path: &std::path::Path) -> io::Result<Vec<u8>> {
    let mut bytes = std::fs::read(path)?;
    if bytes.last().is_some_and(|last| *last != b'\n') {
        bytes.push(b'\n');
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn piped() -> (InputFeed, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        let pipe = OwnedFd::from(writer);
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        (InputFeed::new(Some(pipe)), reader)
    }

    #[test]
    fn a_prompt_larger_than_the_pipe_arrives_whole_and_then_the_end() {
        let (mut feed, mut reader) = piped();
        let prompt = vec![b'x'; 300_000];
        assert!(feed.say(&prompt));
        feed.close();
        assert!(feed.descriptor().is_some(), "the pipe is full");
        assert!(!feed.say(b"late"));
        let reading = std::thread::spawn(move || {
            let mut got = Vec::new();
            reader.read_to_end(&mut got).unwrap();
            got
        });
        while feed.descriptor().is_some() {
            feed.feed();
            std::thread::yield_now();
        }
        assert_eq!(reading.join().unwrap(), prompt);
    }

    #[test]
    fn a_child_that_closed_its_input_is_noticed_and_no_error() {
        let (mut feed, reader) = piped();
        drop(reader);
        assert!(feed.say(b"x"));
        feed.feed();
        assert!(feed.is_closed());
        assert!(feed.descriptor().is_none());
    }

    #[test]
    fn first_words_end_with_a_line_break() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("first");
        std::fs::write(&path, "a").unwrap();
        assert_eq!(first_words(&path).unwrap(), b"a\n");
        std::fs::write(&path, "a\nb\n").unwrap();
        assert_eq!(first_words(&path).unwrap(), b"a\nb\n");
    }
}
