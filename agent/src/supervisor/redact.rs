//! Known secrets overwritten in a byte stream, same length, wherever the chunks are cut: as they are, as JSON and URLs
//! spell them, in base64 and in hexadecimal, also when those are broken into lines or groups.
//! More secrets may become known on the way. Knows no pipe and no file; it cannot find a secret that was spelled in another
//! way.

use std::collections::BTreeSet;
use std::fmt;
use std::mem;
use std::sync::Arc;

use self::automaton::{Automaton, State};

mod automaton;
mod spelling;

/// Secrets shorter than this are not looked for: they would blot out ordinary text.
pub const SHORTEST_SECRET: usize = 6;

/// Secrets beyond these many bytes in all are looked for as they are only: every spelling costs memory in every
/// supervisor. Keys and tokens have about a hundred bytes.
const MOST_ENCODED_BYTES: usize = 8 * 1024;

/// Base64 and hexadecimal that is interrupted for longer than this is no longer one text.
const LONGEST_GAP: u32 = 64;

/// Replaces a secret's bytes.
const BLOT: u8 = b'*';

/// Mark of a byte that belongs to a secret. The lowest bits are the tracks that read it.
const IS_SECRET: u8 = 0x80;

/// Mark of a byte that follows a backslash.
const IS_ESCAPED: u8 = 0x40;

/// Overwrites secrets in a stream. Bytes that could be the beginning of a secret are held back until the next chunk
/// tells. A line that ends in anything but a letter, a digit or a sign of base64 is never held back, so no line of JSON
/// is.
#[derive(Clone, Default)]
pub struct Redactor {
    patterns: Arc<Patterns>,
    tracks: [Track; 3],
    /// Raw bytes not handed out yet.
    held: Vec<u8>,
    /// A mark for each of them.
    marks: Vec<u8>,
    /// The byte before the next.
    last: u8,
}

/// What is looked for; the same for every stream of an attempt.
pub struct Patterns {
    secrets: usize,
    readings: [(Reading, Automaton); 3],
    /// Whether a byte can begin anything.
    begins: [bool; 256],
}

/// How a text is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// Every byte counts.
    Exact,
    /// Line breaks and blanks count nothing, also those that JSON spells as `\n`.
    Base64,
    /// The same; neither do `:`, `%`, `,`, `\x`; and case counts nothing.
    Hexadecimal,
}

/// How far one reading has come.
#[derive(Clone, Copy)]
struct Track {
    state: State,
    /// Bytes that counted nothing since the last one that did.
    gap: u32,
}

impl Default for Track {
    fn default() -> Self {
        Self { state: State::ROOT, gap: 0 }
    }
}

impl Default for Patterns {
    fn default() -> Self {
        Self::new([])
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({} secrets)", self.patterns.secrets)
    }
}

impl fmt::Debug for Patterns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patterns({} secrets)", self.secrets)
    }
}

impl Reading {
    /// Whether a byte counts nothing in this reading.
    const fn passes_over(self, byte: u8, last: u8) -> bool {
        if matches!(self, Self::Exact) {
            return false;
        }
        let blank = matches!(byte, b'\n' | b'\r' | b'\t' | b' ' | b'\\');
        let spelled_blank = last == b'\\' && matches!(byte, b'n' | b'r' | b't');
        let grouping = matches!(self, Self::Hexadecimal) && matches!(byte, b':' | b'%' | b',' | b'x' | b'X');
        blank || spelled_blank || grouping
    }

    const fn reads(self, byte: u8) -> u8 {
        if matches!(self, Self::Hexadecimal) { byte.to_ascii_lowercase() } else { byte }
    }
}

impl Patterns {
    /// Looks for secrets in all their spellings. Where there are too many for that, the first ones count.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut seen = BTreeSet::new();
        let long = secrets.into_iter().map(str::trim).filter(|secret| secret.len() >= SHORTEST_SECRET);
        let secrets: Vec<&str> = long.filter(|secret| seen.insert(*secret)).collect();
        let (mut exact, mut base64, mut hexadecimal) = (Vec::new(), Vec::new(), Vec::new());
        let mut encoded_bytes = 0;
        for secret in &secrets {
            exact.extend(spelling::plain(secret).into_iter().filter(|text| !text.contains(&b'\n')));
            encoded_bytes += secret.len();
            if encoded_bytes <= MOST_ENCODED_BYTES {
                base64.extend(spelling::base64(secret));
                hexadecimal.push(spelling::hexadecimal(secret));
            }
        }
        let readings = [
            (Reading::Exact, Automaton::new(&exact)),
            (Reading::Base64, Automaton::new(&base64)),
            (Reading::Hexadecimal, Automaton::new(&hexadecimal)),
        ];
        let mut begins = [false; 256];
        // Of nothing no byte is the beginning.
        let all = if secrets.is_empty() { &mut [] } else { &mut begins[..] };
        for (byte, begins) in (0..=u8::MAX).zip(all) {
            *begins = readings.iter().any(|(reading, automaton)| automaton.begins_with(reading.reads(byte)));
        }
        Self { secrets: secrets.len(), readings, begins }
    }
}

impl Redactor {
    /// Looks for each secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        Self::of(Arc::new(Patterns::new(secrets)))
    }

    /// Looks for what is known already.
    #[must_use]
    pub fn of(patterns: Arc<Patterns>) -> Self {
        Self { patterns, ..Self::default() }
    }

    /// Looks for something else from here on. What was held back is read again: it may hold the beginning of what is
    /// new, and what was found in it stays found.
    pub fn look_for(&mut self, patterns: &Arc<Patterns>) {
        if Arc::ptr_eq(&self.patterns, patterns) {
            return;
        }
        self.patterns = Arc::clone(patterns);
        self.tracks = Default::default();
        let (held, marks) = (mem::take(&mut self.held), mem::take(&mut self.marks));
        if let Some(first) = marks.first() {
            self.last = if first & IS_ESCAPED == 0 { 0 } else { b'\\' };
        }
        for (byte, mark) in held.into_iter().zip(marks) {
            self.read(byte, patterns);
            if let Some(read) = self.marks.last_mut() {
                *read |= mark & IS_SECRET;
            }
        }
    }

    /// Takes a chunk and appends to `out` all that is certain.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        if self.patterns.secrets == 0 {
            out.append(&mut self.held);
            self.marks.clear();
            out.extend_from_slice(chunk);
            self.last = chunk.last().copied().unwrap_or(self.last);
            return;
        }
        let patterns = Arc::clone(&self.patterns);
        let mut rest = chunk;
        while let Some(byte) = rest.first() {
            if self.tracks.iter().all(|track| track.state == State::ROOT) {
                let idle =
                    rest.iter().position(|byte| patterns.begins[usize::from(*byte)]).unwrap_or(rest.len());
                if let Some((passed, more)) =
                    rest.split_at_checked(idle).filter(|(passed, _)| !passed.is_empty())
                {
                    self.held.extend_from_slice(passed);
                    self.marks.resize(self.held.len(), 0);
                    self.last = passed.last().copied().unwrap_or_default();
                    rest = more;
                    continue;
                }
            }
            self.read(*byte, &patterns);
            rest = rest.get(1..).unwrap_or_default();
        }
        let certain = self.held.len() - self.open_end(&patterns);
        self.release(certain, out);
    }

    /// The stream ended: appends what was held back.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.release(self.held.len(), out);
        self.tracks = Default::default();
    }

    fn read(&mut self, byte: u8, patterns: &Patterns) {
        self.held.push(byte);
        self.marks.push(if self.last == b'\\' { IS_ESCAPED } else { 0 });
        for (index, (reading, automaton)) in patterns.readings.iter().enumerate() {
            let track = &mut self.tracks[index];
            if reading.passes_over(byte, self.last) {
                track.gap += 1;
                if track.gap > LONGEST_GAP {
                    track.state = State::ROOT;
                }
                continue;
            }
            track.gap = 0;
            track.state = automaton.step(track.state, reading.reads(byte));
            if let Some(mark) = self.marks.last_mut() {
                *mark |= 1 << index;
            }
            let found = automaton.ending(track.state);
            if found > 0 {
                self.blot(index, found, *reading);
            }
        }
        self.last = byte;
    }

    /// Marks the last `count` bytes that a track read. One that follows a backslash stays in an encoded text: it may be
    /// half of what JSON takes for one character.
    fn blot(&mut self, track: usize, mut count: usize, reading: Reading) {
        for at in (0..self.held.len()).rev() {
            if self.marks[at] & 1 << track == 0 {
                continue;
            }
            if reading == Reading::Exact || self.marks[at] & IS_ESCAPED == 0 {
                self.marks[at] |= IS_SECRET;
            }
            count -= 1;
            if count == 0 {
                return;
            }
        }
    }

    /// How many of the last bytes could still become a secret.
    fn open_end(&self, patterns: &Patterns) -> usize {
        let of_track = |index: usize, automaton: &Automaton| {
            let depth = automaton.depth(self.tracks[index].state);
            let read = self.marks.iter().rev().enumerate().filter(|(_, mark)| **mark & 1 << index != 0);
            // The last to be counted is the first that must stay.
            depth.checked_sub(1).and_then(|last| read.map(|(at, _)| at + 1).nth(last)).unwrap_or(0)
        };
        let open =
            patterns.readings.iter().enumerate().map(|(index, (_, automaton))| of_track(index, automaton));
        open.max().unwrap_or(0)
    }

    fn release(&mut self, count: usize, out: &mut Vec<u8>) {
        let clean = self.held.iter().zip(&self.marks).take(count);
        out.extend(clean.map(|(byte, mark)| if mark & IS_SECRET == 0 { *byte } else { BLOT }));
        self.held.drain(..count);
        self.marks.drain(..count);
    }
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

    const KEY: &str = "sk-ant-api03-Zk/9+x_Q7-canary";

    fn base64_of(text: &[u8], wrap: usize, line_break: &str) -> String {
        const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut all = String::new();
        for group in text.chunks(3) {
            let value = group
                .iter()
                .chain([&0, &0])
                .take(3)
                .fold(0_usize, |value, byte| value << 8 | usize::from(*byte));
            for sign in 0..=group.len() {
                all.push(char::from(SIGNS[value >> (18 - 6 * sign) & 63]));
            }
        }
        let lines: Vec<&str> =
            all.as_bytes().chunks(wrap).map(|line| std::str::from_utf8(line).unwrap()).collect();
        lines.join(line_break)
    }

    /// What is left of the secret when the stars, and whatever is between lines and groups, are taken away.
    fn spelled_out(text: &[u8], between: &[u8]) -> usize {
        text.split(|byte| *byte == b'*')
            .map(|part| part.iter().filter(|byte| !between.contains(byte)).count())
            .max()
            .unwrap()
    }

    #[test]
    fn base64_of_anything_that_holds_the_secret_is_overwritten_wherever_it_lies_and_is_cut() {
        for before in 0..4 {
            let text = format!("{}{KEY}=", "x".repeat(before));
            for (wrap, line_break) in
                [(999, ""), (20, "\n"), (7, "\r\n"), (20, "\\n"), (20, "\\\\n"), (20, "\n    ")]
            {
                let encoded = base64_of(text.as_bytes(), wrap, line_break);
                let whole = redact(&[KEY], &[encoded.as_bytes()]);
                assert_eq!(whole.len(), encoded.len());
                // What its neighbours have a share in may stay: fewer than two signs at each end.
                let stars = whole.iter().filter(|byte| **byte == b'*').count();
                assert!(
                    stars * 6 >= KEY.len() * 8 - 10,
                    "{encoded:?} became {:?}",
                    String::from_utf8_lossy(&whole)
                );
                assert_eq!(
                    whole.iter().filter(|byte| **byte == b'\n').count(),
                    encoded.matches('\n').count()
                );
                for cut in 0..=encoded.len() {
                    let (one, two) = encoded.as_bytes().split_at(cut);
                    assert_eq!(redact(&[KEY], &[one, two]), whole, "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn hexadecimal_is_overwritten_in_the_forms_of_the_usual_tools() {
        let digits: Vec<String> = KEY.bytes().map(|byte| format!("{byte:02x}")).collect();
        let forms = [
            digits.concat(),
            digits.concat().to_uppercase(),
            digits.join(" "),
            digits.join(":"),
            digits.chunks(16).map(|line| line.join(" ")).collect::<Vec<_>>().join("\n "),
            digits.iter().map(|digit| format!("\\x{digit}")).collect(),
            digits.iter().map(|digit| format!("%{digit}")).collect(),
        ];
        for form in forms {
            let whole = redact(&[KEY], &[form.as_bytes()]);
            assert_eq!(spelled_out(&whole, b" \n:%\\x"), 0, "{form}: {}", String::from_utf8_lossy(&whole));
            for cut in 0..=form.len() {
                let (one, two) = form.as_bytes().split_at(cut);
                assert_eq!(redact(&[KEY], &[one, two]), whole, "cut at {cut}");
            }
        }
    }

    #[test]
    fn url_and_nested_json_spellings_are_overwritten() {
        for text in
            [r"pass\\\\word/1", "pass%5Cword%2F1", "pass%5cword%2f1", r"pass\\word\/1", r"pass\word/1"]
        {
            let whole = redact(&["pass\\word/1"], &[text.as_bytes()]);
            assert!(whole.iter().all(|byte| *byte == b'*'), "{text}: {}", String::from_utf8_lossy(&whole));
        }
    }

    #[test]
    fn json_stays_json() {
        let line = format!(r#"{{"env":"{}","b":"\b\f\/"}}"#, base64_of(KEY.as_bytes(), 20, r"\n"));
        let clean = redact(&[KEY], &[line.as_bytes()]);
        let json: serde_json::Value = serde_json::from_slice(&clean).unwrap();
        assert_eq!(json["b"], "\u{8}\u{c}/");
        assert!(json["env"].as_str().unwrap().contains("***\n***"));
    }

    #[test]
    fn a_finished_line_of_json_is_never_held_back() {
        let mut redactor = Redactor::new(["sk-canary"]);
        let mut out = Vec::new();
        redactor.push(b"{\"text\":\"ends in sk-cana", &mut out);
        assert_eq!(out, b"{\"text\":\"ends in ");
        redactor.push(b"\"}\n", &mut out);
        assert_eq!(out, b"{\"text\":\"ends in sk-cana\"}\n");
    }

    #[test]
    fn an_endless_gap_is_not_remembered() {
        let mut redactor = Redactor::new([KEY]);
        let mut out = Vec::new();
        let begun = base64_of(KEY.as_bytes(), 10, "\n");
        redactor.push(begun.get(..25).unwrap().as_bytes(), &mut out);
        redactor.push(&[b' '; 10_000], &mut out);
        assert_eq!(out.len(), 25 + 10_000, "nothing is held");
    }

    #[test]
    fn short_or_empty_secrets_do_not_blot_ordinary_text() {
        assert_eq!(redact(&["", "a", "12345"], &[b"a 12345"]), b"a 12345");
    }

    #[test]
    fn many_long_secrets_cost_no_more_than_their_own_text() {
        let long: Vec<String> = (0..20).map(|n| format!("{n:04}{}", "y".repeat(1_000))).collect();
        let text = long.join(" ");
        let clean = redact(&long.iter().map(String::as_str).collect::<Vec<_>>(), &[text.as_bytes()]);
        assert!(clean.iter().all(|byte| matches!(byte, b'*' | b' ')));
    }

    #[test]
    fn a_secret_that_becomes_known_is_found_at_every_cut_and_the_old_ones_stay() {
        let text =
            format!("old-one-1 {KEY} {} old-one-1 new\\\\word-2.", base64_of(KEY.as_bytes(), 20, "\\n"));
        let all: Vec<&str> = vec!["old-one-1", KEY, "new\\word-2"];
        let whole = redact(&all, &[text.as_bytes()]);
        assert!(spelled_out(&whole, b" \\n.") <= 2, "{}", String::from_utf8_lossy(&whole));
        let known = Arc::new(Patterns::new(all.iter().copied()));
        let more = Arc::new(Patterns::new(all.into_iter().chain(["third-3"])));
        let (begin, rest) = text.as_bytes().split_at(4);
        for cut in 0..=rest.len() {
            let (mut redactor, mut out) = (Redactor::new(["old-one-1"]), Vec::new());
            redactor.push(begin, &mut out);
            redactor.look_for(&known);
            redactor.push(&rest[..cut], &mut out);
            redactor.look_for(&more);
            redactor.push(&rest[cut..], &mut out);
            redactor.finish(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&whole), "cut at {cut}");
        }
    }

    #[test]
    fn what_was_held_back_is_read_again_for_what_became_known() {
        let mut redactor = Redactor::new(["new-one-0"]);
        let mut out = Vec::new();
        redactor.push(b"a new-o", &mut out);
        assert_eq!(out, b"a ");
        redactor.look_for(&Arc::new(Patterns::new(["new-other-1"])));
        redactor.push(b"ther-1 new-one-0", &mut out);
        redactor.finish(&mut out);
        assert_eq!(out, b"a *********** new-one-0", "one is known, the other no longer");
    }

    #[test]
    fn its_debug_output_tells_no_secret() {
        assert_eq!(format!("{:?}", Redactor::new(["sk-canary"])), "Redactor(1 secrets)");
    }

    fn holds(hay: &[u8], needle: &[u8]) -> bool {
        hay.windows(needle.len()).any(|window| window == needle)
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
                prop_assert!(!holds(&pieces, secret.as_bytes()));
            }
        }

        /// Whatever surrounds it and wherever it is cut, neither the secret nor its encodings survive.
        #[test]
        fn no_spelling_survives(before in "[a-zA-Z0-9+/ =\"]{0,20}", after in "[a-zA-Z0-9+/ =\"]{0,20}",
                                wrap in 4_usize..90, cuts in prop::collection::vec(0_usize..400, 0..6)) {
            let inner = format!("{before}{KEY}{after}");
            let text = format!("{inner}\n{}\n{}\n", base64_of(inner.as_bytes(), wrap, "\n"), hex::encode(&inner));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            let mut chunks = Vec::new();
            let mut from = 0;
            for cut in cuts {
                chunks.push(&text.as_bytes()[from..cut]);
                from = cut;
            }
            chunks.push(&text.as_bytes()[from..]);
            let pieces = redact(&[KEY], &chunks);
            prop_assert_eq!(&pieces, &redact(&[KEY], &[text.as_bytes()]));
            prop_assert!(!holds(&pieces, KEY.as_bytes()) && !holds(&pieces, hex::encode(KEY).as_bytes()));
            let unbroken: Vec<u8> = pieces.iter().copied().filter(|byte| *byte != b'\n').collect();
            for spelling in spelling::base64(KEY) {
                prop_assert!(!holds(&unbroken, &spelling));
            }
        }
    }
}
