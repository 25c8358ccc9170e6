//! Reads along while an answer streams by: lines are cut wherever the network cut them, three kinds of event are
//! understood, the length of what the model says is counted, and what is longer than a line may be is passed over.
//! Memory is bounded whatever comes. Knows the events' names and their usage; refuses to change or hold up a byte.

use std::borrow::Cow;

use serde::Deserialize;

use super::usage::Usage;
use super::wire::Tokens;

/// Longest line that is read. The events that count have a few hundred bytes; a piece of text has a few dozen, one of a
/// tool's input now and then thousands.
const LONGEST_LINE: usize = 64 * 1024;

/// Bytes of text in one output token, about: what was streamed of an answer whose end was not seen.
pub const BYTES_OF_TOKEN: u64 = 4;

/// What is known of an answer that streams.
#[derive(Debug, Default)]
pub struct SseScanner {
    line: Vec<u8>,
    /// The line is too long, and is passed over to its end.
    skips: bool,
    event: Kind,
    seen: Seen,
    text_bytes: u64,
}

/// What a stream has told so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// The first event came: the input is known.
    pub begun: bool,
    /// The last figures came: nothing of them is a guess.
    pub ended: bool,
    /// An error came in place of the rest.
    pub failed: bool,
    /// Tokens as they were told.
    pub tokens: Tokens,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Kind {
    #[default]
    None,
    Start,
    Delta,
    Text,
    Error,
    Other,
}

#[derive(Deserialize)]
struct Start {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Delta {
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct TextEvent<'a> {
    #[serde(borrow)]
    delta: TextDelta<'a>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TextDelta<'a> {
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow)]
    partial_json: Option<Cow<'a, str>>,
}

impl SseScanner {
    /// Takes the next bytes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (piece, rest) = bytes.split_at(end);
            self.add(piece);
            self.finish_line();
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.add(bytes);
    }

    /// What was told so far.
    #[must_use]
    pub const fn seen(&self) -> Seen {
        self.seen
    }

    /// Tokens so far; where the last figures have not come, the output is what went by, estimated by its length.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        let streamed = self.text_bytes.div_ceil(BYTES_OF_TOKEN);
        let mut tokens = self.seen.tokens;
        if !self.seen.ended {
            tokens.output = tokens.output.max(streamed);
        }
        tokens
    }

    fn add(&mut self, piece: &[u8]) {
        if self.skips || self.line.len() + piece.len() > LONGEST_LINE {
            self.skips = true;
            self.line.clear();
            // What is passed over was still said by the model.
            if self.event == Kind::Text {
                self.text_bytes = self.text_bytes.saturating_add(piece.len() as u64);
            }
        } else {
            self.line.extend_from_slice(piece);
        }
    }

    fn finish_line(&mut self) {
        let skipped = std::mem::take(&mut self.skips);
        let line = std::mem::take(&mut self.line);
        if !skipped {
            self.read(line.strip_suffix(b"\r").unwrap_or(&line));
        }
        self.line = line;
        self.line.clear();
        self.line.shrink_to(LONGEST_LINE / 16);
    }

    fn read(&mut self, line: &[u8]) {
        if line.is_empty() {
            self.event = Kind::None;
        } else if let Some(name) = field(line, b"event") {
            self.event = match name {
                b"message_start" => Kind::Start,
                b"message_delta" => Kind::Delta,
                b"content_block_delta" => Kind::Text,
                b"error" => Kind::Error,
                _ => Kind::Other,
            };
        } else if let Some(data) = field(line, b"data") {
            self.read_data(data);
        }
    }

    fn read_data(&mut self, data: &[u8]) {
        match self.event {
            Kind::Start => {
                if let Ok(start) = serde_json::from_slice::<Start>(data) {
                    self.seen.begun = true;
                    start.message.usage.overwrite(&mut self.seen.tokens);
                }
            }
            Kind::Delta => {
                if let Ok(delta) = serde_json::from_slice::<Delta>(data) {
                    delta.usage.overwrite(&mut self.seen.tokens);
                    self.seen.ended |= delta.usage.has_output();
                }
            }
            Kind::Text => {
                if let Ok(TextEvent { delta }) = serde_json::from_slice::<TextEvent<'_>>(data) {
                    let said = [delta.text, delta.thinking, delta.partial_json];
                    let bytes: usize = said.iter().flatten().map(|text| text.len()).sum();
                    self.text_bytes = self.text_bytes.saturating_add(bytes as u64);
                }
            }
            Kind::Error => self.seen.failed = true,
            Kind::None | Kind::Other => {}
        }
    }
}

/// The value of a field of an event: one space after the colon is not part of it.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let value = line.strip_prefix(name)?.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "event: message_start\r\n\
        data: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"usage\":{\"input_tokens\":10,\
        \"cache_creation_input_tokens\":2000,\"cache_read_input_tokens\":30000,\"output_tokens\":1}}}\r\n\r\n\
        event: ping\ndata: {\"type\": \"ping\"}\n\n\
        event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
        \"delta\":{\"type\":\"text_delta\",\"text\":\"twelve \\u00e4 bytes\"}}\n\n";

    const LAST: &str = "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\
        \"usage\":{\"output_tokens\":50}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n";

    fn scanned(text: &str, cut: usize) -> SseScanner {
        let mut scanner = SseScanner::default();
        text.as_bytes().chunks(cut).for_each(|piece| scanner.push(piece));
        scanner
    }

    #[test]
    fn a_stream_is_counted_wherever_it_is_cut() {
        let whole = format!("{STREAM}{LAST}");
        for cut in 1..whole.len() {
            let scanner = scanned(&whole, cut);
            let tokens =
                Tokens { input: 10, output: 50, cache_read: 30_000, cache_write: 2_000, ..Tokens::default() };
            assert_eq!(scanner.seen(), Seen { begun: true, ended: true, failed: false, tokens }, "{cut}");
            assert_eq!(scanner.tokens(), tokens);
        }
    }

    #[test]
    fn what_a_broken_stream_said_is_estimated_by_its_length() {
        let scanner = scanned(STREAM, 7);
        assert!(scanner.seen().begun && !scanner.seen().ended);
        assert_eq!(scanner.tokens().output, 4, "15 bytes");
        let failed = scanned("event: error\ndata: {\"type\":\"error\",\"error\":{}}\n\n", 5);
        assert!(failed.seen().failed);
    }

    #[test]
    fn a_line_without_end_takes_no_memory_and_the_next_one_is_read() {
        let mut scanner = SseScanner::default();
        scanner.push(b"event: content_block_delta\ndata: ");
        for _ in 0..64 {
            scanner.push(&[b'x'; LONGEST_LINE]);
            assert!(scanner.line.capacity() <= 2 * LONGEST_LINE);
        }
        scanner.push(b"\n\n");
        scanner.push(LAST.as_bytes());
        assert_eq!(scanner.tokens().output, 50);
    }

    #[test]
    fn events_of_other_names_and_nonsense_tell_nothing() {
        let text = "data: {\"usage\":{\"output_tokens\":9}}\n\nevent: other\ndata: {\"usage\":{\"output_tokens\":9}}\n\n\
                    event: message_delta\ndata: [1,\n\n: comment\n\nevent: message_delta\n\ndata: {\"usage\":{\"output_tokens\":9}}\n";
        assert_eq!(scanned(text, 11).seen(), Seen::default());
    }
}
