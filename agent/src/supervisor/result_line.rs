//! Spots the end of a turn: a line of the CLI's output whose `type` is `result`. Understands nothing else of
//! that language, so that a supervisor without its agent can still close the child's input.

use serde::Deserialize;

/// How much of a line is kept to be parsed. Longer lines are judged by their beginning: the CLI writes
/// `type` first.
const HEAD_BYTES: usize = 1024 * 1024;

/// Watches a byte stream for result lines.
#[derive(Debug, Default)]
pub struct ResultSpotter {
    head: Vec<u8>,
    cut: bool,
}

#[derive(Deserialize)]
struct TypeOnly<'a> {
    #[serde(borrow, default)]
    r#type: Option<std::borrow::Cow<'a, str>>,
}

impl ResultSpotter {
    /// Takes the next bytes; returns how many result lines they finished.
    pub fn push(&mut self, mut chunk: &[u8]) -> usize {
        let mut results = 0;
        while let Some(end) = chunk.iter().position(|byte| *byte == b'\n') {
            self.keep(&chunk[..end]);
            results += usize::from(self.is_result());
            self.head.clear();
            self.cut = false;
            chunk = &chunk[end + 1..];
        }
        self.keep(chunk);
        results
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES - self.head.len();
        self.cut |= bytes.len() > room;
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn is_result(&self) -> bool {
        if self.cut {
            let dense = self.head.iter().copied().filter(|byte| !byte.is_ascii_whitespace());
            return dense.take(BEGINNING.len()).eq(BEGINNING.iter().copied());
        }
        // The cheap look first: almost every line is something else.
        self.head.windows(NEEDLE.len()).any(|window| window == NEEDLE)
            && serde_json::from_slice::<TypeOnly<'_>>(&self.head)
                .is_ok_and(|line| line.r#type.as_deref() == Some("result"))
    }
}

const BEGINNING: &[u8] = br#"{"type":"result""#;
const NEEDLE: &[u8] = br#""result""#;

#[cfg(test)]
mod tests {
    use super::*;

    fn count(chunks: &[&[u8]]) -> usize {
        let mut spotter = ResultSpotter::default();
        chunks.iter().map(|chunk| spotter.push(chunk)).sum()
    }

    #[test]
    fn a_result_line_is_spotted_wherever_it_is_cut() {
        let text = b"{\"type\":\"assistant\",\"x\":\"result\"}\n{ \"a\":1, \"type\" : \"result\" }\n";
        assert_eq!(count(&[text]), 1);
        for cut in 0..=text.len() {
            assert_eq!(count(&[&text[..cut], &text[cut..]]), 1, "cut at {cut}");
        }
    }

    #[test]
    fn talk_about_results_is_not_a_result() {
        assert_eq!(count(&[b"{\"type\":\"user\",\"message\":{\"type\":\"result\"}}\n"]), 0);
        assert_eq!(
            count(&[b"the \"type\":\"result\" line\n", b"{\"type\":\"result\"\n", b"\xff\xfe\"result\"\n"]),
            0
        );
        assert_eq!(count(&[b"{\"type\":\"result\"}"]), 0, "a line without its end is not there yet");
    }

    #[test]
    fn a_huge_result_line_is_judged_by_its_beginning() {
        let mut line = b"{\"type\": \"result\",\"result\":\"".to_vec();
        line.resize(3 * HEAD_BYTES, b'x');
        line.extend_from_slice(b"\"}\n{\"type\":\"result\"}\n");
        assert_eq!(count(&[&line]), 2);
        let mut other = b"{\"type\":\"user\",\"text\":\"\\\"result\\\"".to_vec();
        other.resize(3 * HEAD_BYTES, b'x');
        other.push(b'\n');
        assert_eq!(count(&[&other]), 0);
    }
}
