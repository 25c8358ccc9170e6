//! One output pipe of the child on its way to the disk: read, look for new secrets, redact, cut into segments, and, on
//! standard output, look for result lines. Knows no limit and no client.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::known::Known;
use super::redact::Redactor;
use super::result_line::ResultSpotter;
use super::segments::SegmentWriter;

/// Read at most this much before the others get their turn.
const TURN_BYTES: usize = 1024 * 1024;

/// Read at once from the pipe: the kernel's default size of one.
const READ_BYTES: usize = 64 * 1024;

/// Read at first: most looks find little or nothing, and memory that is touched for them costs more than they do.
const LOOK_BYTES: usize = 4 * 1024;

/// A pipe, and where its bytes go.
#[derive(Debug)]
pub struct Output {
    pipe: Option<OwnedFd>,
    redactor: Redactor,
    writer: SegmentWriter,
    spotter: Option<ResultSpotter>,
    /// As it was read; empty between turns.
    raw: Vec<u8>,
    clean: Vec<u8>,
    trouble: Option<io::Error>,
}

/// What one turn brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Whether anything was read.
    pub heard: bool,
    /// Result lines that were finished.
    pub results: usize,
}

impl Output {
    /// Connects a pipe with its segments. `spotter` is for standard output of a conversation.
    #[must_use]
    pub fn new(
        pipe: OwnedFd,
        redactor: Redactor,
        writer: SegmentWriter,
        spotter: Option<ResultSpotter>,
    ) -> Self {
        Self {
            pipe: Some(pipe),
            redactor,
            writer,
            spotter,
            raw: Vec::new(),
            clean: Vec::new(),
            trouble: None,
        }
    }

    /// The descriptor to poll; `None` once the pipe ended.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Bytes written to segments so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.writer.len()
    }

    /// The error that kept bytes from being written. They are read on all the same: a child must not hang
    /// because our disk is full.
    pub fn take_trouble(&mut self) -> Option<io::Error> {
        self.trouble.take()
    }

    /// Moves what is there. What is `known` is looked at between reading and writing: a token that was in the login file
    /// before it was printed is known by then.
    pub fn turn(&mut self, known: &mut Known) -> Turn {
        let mut turn = Turn::default();
        if self.read(&mut [0; LOOK_BYTES], LOOK_BYTES, &mut turn) {
            self.read_on(&mut turn);
        }
        if turn.heard {
            known.look();
        }
        self.redactor.look_for(&known.patterns());
        self.redactor.push(&self.raw, &mut self.clean);
        self.raw.clear();
        self.raw.shrink_to(READ_BYTES);
        if self.pipe.is_none() {
            self.redactor.finish(&mut self.clean);
        }
        turn.results = self.store();
        turn
    }

    #[inline(never)]
    fn read_on(&mut self, turn: &mut Turn) {
        self.read(&mut [0; READ_BYTES], TURN_BYTES, turn);
    }

    /// Reads until `upto` bytes wait, and says whether there may be more.
    fn read(&mut self, chunk: &mut [u8], upto: usize, turn: &mut Turn) -> bool {
        while self.raw.len() < upto {
            let Some(pipe) = &self.pipe else { return false };
            match rustix::io::read(pipe, &mut *chunk) {
                Ok(0) => self.pipe = None,
                Ok(read) => {
                    turn.heard = true;
                    self.raw.extend_from_slice(&chunk[..read]);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return false,
                Err(_) => self.pipe = None,
            }
        }
        true
    }

    fn store(&mut self) -> usize {
        let results = self.spotter.as_mut().map_or(0, |spotter| spotter.push(&self.clean));
        if let Err(error) = self.writer.append(&self.clean) {
            self.trouble.get_or_insert(error);
        }
        self.clean.clear();
        // A burst must not keep its memory for the rest of the attempt.
        self.clean.shrink_to(TURN_BYTES);
        results
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::segments::{Channel, SEGMENT_BYTES, tail};
    use super::super::spec::Secrets;
    use super::*;

    fn piped(dir: &std::path::Path, secrets: &[&str]) -> (Output, Known, io::PipeWriter) {
        let (reader, writer) = io::pipe().unwrap();
        let pipe = OwnedFd::from(reader);
        rustix::io::ioctl_fionbio(&pipe, true).unwrap();
        let segments = SegmentWriter::new(dir.to_owned(), Channel::Stdout, SEGMENT_BYTES);
        let secrets = Secrets {
            redact: secrets.iter().map(ToString::to_string).collect(),
            login: Some(dir.join("login")),
            ..Secrets::default()
        };
        let known = Known::new(&secrets);
        (Output::new(pipe, known.redactor(), segments, Some(ResultSpotter::default())), known, writer)
    }

    #[test]
    fn a_secret_cut_between_two_reads_never_reaches_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (mut output, mut known, mut writer) = piped(dir.path(), &["sk-canary"]);
        writer.write_all(b"key sk-ca").unwrap();
        assert_eq!(output.turn(&mut known), Turn { heard: true, results: 0 });
        assert_eq!(output.written(), 4);
        writer.write_all(b"nary.").unwrap();
        drop(writer);
        output.turn(&mut known);
        assert!(output.descriptor().is_none());
        assert_eq!(tail(dir.path(), Channel::Stdout, SEGMENT_BYTES, output.written(), 99), b"key *********.");
    }

    #[test]
    fn a_token_that_lay_in_the_login_before_it_was_printed_never_reaches_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (mut output, mut known, mut writer) = piped(dir.path(), &["sk-canary"]);
        writer.write_all(b"sk-ca").unwrap();
        output.turn(&mut known);
        let login = r#"{"claudeAiOauth":{"accessToken":"sk-canary-Renewed-0001"}}"#;
        std::fs::write(dir.path().join("login"), login).unwrap();
        writer.write_all(b"nary, sk-canary-Ren").unwrap();
        output.turn(&mut known);
        std::fs::remove_file(dir.path().join("login")).unwrap();
        writer.write_all(b"ewed-0001.").unwrap();
        drop(writer);
        output.turn(&mut known);
        let written = tail(dir.path(), Channel::Stdout, SEGMENT_BYTES, output.written(), 99);
        assert_eq!(String::from_utf8_lossy(&written), "*********, **********************.");
    }

    #[test]
    fn results_are_counted_and_an_empty_pipe_is_no_end() {
        let dir = tempfile::tempdir().unwrap();
        let (mut output, mut known, mut writer) = piped(dir.path(), &[]);
        assert_eq!(output.turn(&mut known), Turn::default());
        writer.write_all(b"{\"type\":\"result\"}\n").unwrap();
        assert_eq!(output.turn(&mut known), Turn { heard: true, results: 1 });
        assert!(output.descriptor().is_some());
    }

    #[test]
    fn a_disk_that_refuses_does_not_stop_the_reading() {
        let (mut output, mut known, mut writer) = piped(std::path::Path::new("/nonexistent/dir"), &[]);
        writer.write_all(b"x").unwrap();
        assert!(output.turn(&mut known).heard);
        assert_eq!(output.take_trouble().unwrap().kind(), io::ErrorKind::NotFound);
        assert!(output.take_trouble().is_none());
        assert_eq!(output.written(), 0);
    }
}
