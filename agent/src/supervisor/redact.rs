//! Known secrets overwritten in a byte stream, same length, wherever the chunks are cut.
//! Knows no pipe and no file; it cannot find a secret that was encoded in a way it was not told of.

use std::fmt;

/// Secrets shorter than this are not looked for: they would blot out ordinary text.
pub const SHORTEST_SECRET: usize = 6;

/// Replaces a secret's bytes.
const BLOT: u8 = b'*';

/// Overwrites secrets in a stream. Bytes that could be the beginning of a secret are held back until the
/// next chunk tells; a secret holds no line break, so a finished line is never held back.
#[derive(Clone, Default)]
pub struct Redactor {
    patterns: Vec<Vec<u8>>,
    /// Raw bytes not handed out yet.
    held: Vec<u8>,
    /// How many of the first bytes in `held` belong to a secret that was already found.
    blotted: usize,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} patterns)", self.patterns.len())
    }
}

impl Redactor {
    /// Looks for each secret as it is and as JSON text would spell it.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut patterns = Vec::new();
        for secret in secrets {
            let quoted = serde_json::Value::from(secret).to_string();
            let in_json = quoted.get(1..quoted.len() - 1).unwrap_or_default();
            for spelling in [secret.trim(), in_json] {
                let fits = spelling.len() >= SHORTEST_SECRET && !spelling.contains('\n');
                if fits && !patterns.iter().any(|known| known == spelling.as_bytes()) {
                    patterns.push(spelling.as_bytes().to_vec());
                }
            }
        }
        Self { patterns, held: Vec::new(), blotted: 0 }
    }

    /// Takes a chunk and appends to `out` all that is certain.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.patterns.is_empty() {
            out.extend_from_slice(chunk);
            return;
        }
        self.held.extend_from_slice(chunk);
        let ranges = self.found();
        let keep_from = self.held.len() - self.open_end();
        let start = out.len();
        out.extend_from_slice(&self.held[..keep_from]);
        let mut blotted_until = 0;
        for (from, to) in ranges {
            out[start + from.min(keep_from)..start + to.min(keep_from)].fill(BLOT);
            blotted_until = blotted_until.max(to);
        }
        self.held.drain(..keep_from);
        self.blotted = blotted_until.saturating_sub(keep_from);
    }

    /// The stream ended: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        let start = out.len();
        out.append(&mut self.held);
        out[start..start + self.blotted].fill(BLOT);
        self.blotted = 0;
    }

    /// Every occurrence in `held`, overlapping ones included, and what an earlier chunk already blotted.
    fn found(&self) -> Vec<(usize, usize)> {
        let mut ranges = vec![(0, self.blotted)];
        for pattern in &self.patterns {
            let mut from = 0;
            while let Some(at) = find(&self.held[from..], pattern) {
                ranges.push((from + at, from + at + pattern.len()));
                from += at + 1;
            }
        }
        ranges
    }

    /// Length of the longest end of `held` that begins a secret without completing it.
    fn open_end(&self) -> usize {
        let longest = |pattern: &Vec<u8>| {
            let most = (pattern.len() - 1).min(self.held.len());
            (1..=most).rev().find(|length| self.held.ends_with(&pattern[..*length])).unwrap_or(0)
        };
        self.patterns.iter().map(longest).max().unwrap_or(0)
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    let (first, rest) = needle.split_first()?;
    let mut from = 0;
    while let Some(at) = hay.get(from..)?.iter().position(|byte| byte == first) {
        if hay[from + at + 1..].starts_with(rest) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn redact(secrets: &[&str], chunks: &[&[u8]]) -> Vec<u8> {
        let mut redactor = Redactor::new(secrets.iter().copied());
        let mut out = Vec::new();
        for chunk in chunks {
            redactor.push(chunk, &mut out);
        }
        redactor.finish(&mut out);
        out
    }

    #[test]
    fn a_secret_is_found_at_every_split_of_one_and_of_two_cuts() {
        let text = b"key=sk-canary-77 and sk-canary-sk-canary-77sk-canary-77.";
        let whole = redact(&["sk-canary-77"], &[text]);
        assert_eq!(whole, b"key=************ and sk-canary-************************.");
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let chunks = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(redact(&["sk-canary-77"], &chunks), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_secret_that_overlaps_itself_leaves_no_half_behind() {
        let text = b"xabababababx abababax";
        let whole = redact(&["ababab"], &[text]);
        assert_eq!(whole, b"x**********x ******ax");
        for cut in 0..=text.len() {
            assert_eq!(redact(&["ababab"], &[&text[..cut], &text[cut..]]), whole, "cut at {cut}");
        }
    }

    #[test]
    fn the_json_spelling_is_found_too() {
        assert_eq!(redact(&["pass\"word\\1"], &[br#"{"a":"pass\"word\\1"}"#]), br#"{"a":"*************"}"#);
    }

    #[test]
    fn a_finished_line_is_never_held_back() {
        let mut redactor = Redactor::new(["sk-canary"]);
        let mut out = Vec::new();
        redactor.push(b"ends in sk-cana", &mut out);
        assert_eq!(out, b"ends in ");
        redactor.push(b"\n", &mut out);
        assert_eq!(out, b"ends in sk-cana\n");
    }

    #[test]
    fn short_or_empty_secrets_do_not_blot_ordinary_text() {
        assert_eq!(redact(&["", "a", "12345"], &[b"a 12345"]), b"a 12345");
    }

    #[test]
    fn its_debug_output_tells_no_secret() {
        assert_eq!(format!("{:?}", Redactor::new(["sk-canary"])), "Redactor(1 patterns)");
    }

    proptest! {
        /// Cutting a stream never changes the outcome, and no secret survives, whatever surrounds it.
        #[test]
        fn cutting_never_matters(text in "[ab\n]{0,60}", one in "[ab]{6,9}", two in "[ab]{6,9}",
                                 cuts in prop::collection::vec(0_usize..61, 0..8)) {
            let secrets = [one.as_str(), two.as_str()];
            let whole = redact(&secrets, &[text.as_bytes()]);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&text.as_bytes()[from..]);
            let pieces = redact(&secrets, &chunks);
            prop_assert_eq!(&pieces, &whole);
            prop_assert_eq!(pieces.len(), text.len());
            for secret in secrets {
                prop_assert!(find(&pieces, secret.as_bytes()).is_none());
            }
        }
    }
}
