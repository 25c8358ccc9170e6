//! Cuts the CLI's output into lines and each line into an event. Pure and incremental: bytes in any cut, no
//! panic on anything, every field optional, unknown types passed over.
//! Knows the language (`stream-json`), not what follows from it.

use super::event::Event;

/// Longest line that is understood, in bytes. A tool result of 2 MB makes a line of 2 MB; a longer line than
/// this is skipped and counted, and the transcript has all of it. Nothing else is kept of a stream, so an attempt takes
/// this much memory, and while a line is parsed up to four times as much, whatever its child writes.
pub const LONGEST_LINE: usize = 32 * 1024 * 1024;

/// An event and where its line ended in the stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Located {
    /// The event.
    pub event: Event,
    /// Offset just after the line break.
    pub end: u64,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct StreamParser {
    line: Vec<u8>,
    skipping: bool,
    offset: u64,
}

impl StreamParser {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, mut chunk: &[u8]) -> Vec<Located> {
        let mut events = Vec::new();
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.keep(&chunk[..end]);
            self.offset += 1;
            events.extend(self.finish_line());
            chunk = &chunk[end + 1..];
        }
        self.keep(chunk);
        events
    }

    /// The stream ended: a last line without its line break.
    pub fn finish(&mut self) -> Option<Located> {
        self.finish_line()
    }

    /// Bytes taken so far.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        if self.skipping || self.line.len() + bytes.len() > LONGEST_LINE {
            self.skipping = true;
            self.line = Vec::new();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn finish_line(&mut self) -> Option<Located> {
        let event = if std::mem::take(&mut self.skipping) {
            Some(Event::Oversized)
        } else {
            let line = std::mem::take(&mut self.line);
            (!line.trim_ascii().is_empty()).then(|| Event::parse(&line))
        };
        event.map(|event| Located { event, end: self.offset })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(chunks: &[&[u8]]) -> Vec<Event> {
        let mut parser = StreamParser::default();
        let mut found: Vec<Located> = chunks.iter().flat_map(|chunk| parser.push(chunk)).collect();
        found.extend(parser.finish());
        found.into_iter().map(|located| located.event).collect()
    }

    #[test]
    fn events_are_located_by_the_end_of_their_line() {
        let mut parser = StreamParser::default();
        let found = parser.push(b"{\"type\":\"x\"}\n\n{\"type\":\"y\"}\n{\"type\":");
        assert_eq!(found.iter().map(|located| located.end).collect::<Vec<_>>(), [13, 27]);
        assert_eq!(parser.offset(), 35);
        assert_eq!(parser.finish().unwrap().event, Event::Malformed);
    }

    #[test]
    fn garbage_is_counted_and_what_follows_is_understood() {
        let text = b"\xff\xfe\x00\n{\"type\":\n[1,2]\nnull\n{\"type\":3}\n{}\n{\"type\":\"system\",\"subtype\":\"new\"}\n";
        let found = events(&[text]);
        assert_eq!(found[..4], [Event::Malformed, Event::Malformed, Event::Malformed, Event::Malformed]);
        assert!(matches!(&found[6], Event::Other { kind } if kind == "system/new"), "{found:?}");
    }

    #[test]
    fn a_line_over_the_limit_is_skipped_whole() {
        let mut parser = StreamParser::default();
        let piece = vec![b'x'; 1024 * 1024];
        for _ in 0..=LONGEST_LINE / piece.len() {
            assert_eq!(parser.push(&piece), []);
        }
        let found = parser.push(b"\n{\"type\":\"x\"}\n");
        assert_eq!(found[0].event, Event::Oversized);
        assert!(matches!(found[1].event, Event::Other { .. }));
    }

    #[test]
    fn a_line_of_sixteen_mebibytes_is_understood() {
        let mut line = br#"{"type":"result","is_error":false,"result":""#.to_vec();
        line.resize(16 * 1024 * 1024, b'x');
        line.extend_from_slice(b"\"}\n");
        assert!(matches!(events(&[&line])[..], [Event::Result(_)]));
    }

    #[test]
    fn nesting_without_end_is_malformed_and_no_overflow() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(events(&[deep.as_bytes(), b"\n"]), [Event::Malformed]);
    }

    proptest! {
        /// No bytes, in any cut, make the parser panic, and cuts never change what it finds.
        #[test]
        fn cuts_never_matter(bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'{'), Just(b'"'), any::<u8>()], 0..200),
                             cut in 0_usize..200) {
            let cut = cut.min(bytes.len());
            prop_assert_eq!(events(&[&bytes]), events(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
