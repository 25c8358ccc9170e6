//! Requests of an attempt, one JSON object a line in the attempt's directory: each when its answer begins, marked as open,
//! and when it has ended. So a supervisor that is killed leaves behind what ended exactly, and of what was in flight an
//! estimate. Knows tokens; refuses to know money.
//!
//! ```json
//! {"request":1,"model":"claude-sonnet-5","tokens":{"input":10,"output":50,"cache_read":30000,"cache_write":2000},
//!  "status":200,"estimated":false,"sub_agent":false,"ended_ms":1795210000000,"took_ms":1830}
//! ```
//!
//! `tokens` has `cache_write_1h`, those of `cache_write` that live for an hour, and `searches`, where there were any.
//! Fields that are not known are ignored, missing ones are as in an empty entry. A request that the gateway asked again
//! after a throttle has an entry for each time. What the API answered with an error cost nothing and is here all the same.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::wire::{ModelTotal, Tokens};

/// Name of the file in an attempt's directory.
pub const LEDGER_FILE: &str = "ledger.jsonl";

/// A request that ended, or whose answer has begun.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Its number within the attempt.
    pub request: u64,
    /// The model, as it was asked for.
    pub model: String,
    /// Its tokens.
    pub tokens: Tokens,
    /// Status of the answer; 0 without one.
    pub status: u16,
    /// Its end was not seen: tokens are estimated.
    pub estimated: bool,
    /// It had not ended when this was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// A sub-agent asked.
    pub sub_agent: bool,
    /// When it ended, milliseconds since the Unix epoch.
    pub ended_ms: u64,
    /// From its admission to its end, milliseconds.
    pub took_ms: u64,
}

/// The open file.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// Opens the file of an attempt, private to the user.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(attempt_dir: &Path) -> io::Result<Self> {
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(attempt_dir.join(LEDGER_FILE))?;
        Ok(Self { file })
    }

    /// Adds an entry. It is with the kernel when this returns, so only a crash of the host can lose it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        self.file.write_all(&line)
    }
}

/// Adds an entry to the totals by model.
pub fn count(totals: &mut BTreeMap<String, ModelTotal>, entry: &Entry) {
    let total = totals
        .entry(entry.model.clone())
        .or_insert_with(|| ModelTotal { model: entry.model.clone(), ..ModelTotal::default() });
    let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
    add(&mut total.tokens.input, entry.tokens.input);
    add(&mut total.tokens.output, entry.tokens.output);
    add(&mut total.tokens.cache_read, entry.tokens.cache_read);
    add(&mut total.tokens.cache_write, entry.tokens.cache_write);
    add(&mut total.tokens.cache_write_1h, entry.tokens.cache_write_1h);
    add(&mut total.tokens.searches, entry.tokens.searches);
    total.requests += 1;
    total.sub_agent_requests += u64::from(entry.sub_agent);
    total.estimated_requests += u64::from(entry.estimated);
}

/// The totals of an attempt by model, in order of its name; none where there was no gateway. A last line that was not
/// written to its end is passed over.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn totals(attempt_dir: &Path) -> io::Result<Vec<ModelTotal>> {
    let mut totals = BTreeMap::new();
    entries(attempt_dir, |entry| count(&mut totals, &entry))?;
    Ok(totals.into_values().collect())
}

/// Passes every request of an attempt to `each` once, in the order in which they ended; then those whose end nobody lived to
/// write, as estimated.
///
/// # Errors
/// As [`totals`].
pub fn entries(attempt_dir: &Path, mut each: impl FnMut(Entry)) -> io::Result<()> {
    let file = match File::open(attempt_dir.join(LEDGER_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let mut open = BTreeMap::new();
    for line in BufReader::new(file).split(b'\n') {
        let Ok(entry) = serde_json::from_slice::<Entry>(&line?) else { continue };
        if entry.open {
            open.insert(entry.request, entry);
        } else {
            open.remove(&entry.request);
            each(entry);
        }
    }
    for entry in open.into_values() {
        each(Entry { estimated: true, open: false, ..entry });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(model: &str, input: u64, estimated: bool) -> Entry {
        let tokens =
            Tokens { input, output: 2, cache_read: 3, cache_write: 4, cache_write_1h: 1, searches: 0 };
        Entry { request: 1, model: model.to_owned(), tokens, status: 200, estimated, ..Entry::default() }
    }

    #[test]
    fn entries_are_summed_by_model_and_a_torn_line_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(totals(dir.path()).unwrap(), []);
        let mut ledger = Ledger::open(dir.path()).unwrap();
        ledger.add(&entry("b", 1, false)).unwrap();
        ledger.add(&Entry { sub_agent: true, ..entry("a", 10, true) }).unwrap();
        drop(ledger);
        Ledger::open(dir.path()).unwrap().add(&entry("b", 5, false)).unwrap();
        let mut file = OpenOptions::new().append(true).open(dir.path().join(LEDGER_FILE)).unwrap();
        file.write_all(br#"{"request":9,"model":"b","tok"#).unwrap();
        let totals = totals(dir.path()).unwrap();
        assert_eq!(totals.len(), 2);
        let a = &totals[0];
        assert_eq!((a.requests, a.sub_agent_requests, a.estimated_requests, a.tokens.input), (1, 1, 1, 10));
        let b = &totals[1];
        let tokens =
            Tokens { input: 6, output: 4, cache_read: 6, cache_write: 8, cache_write_1h: 2, searches: 0 };
        assert_eq!((b.model.as_str(), b.requests, b.estimated_requests, b.tokens), ("b", 2, 0, tokens));
    }

    #[test]
    fn a_request_counts_once_by_its_end_or_else_by_what_was_known_when_its_answer_began() {
        let dir = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(dir.path()).unwrap();
        for (request, open) in [(1, true), (2, true), (1, false)] {
            ledger.add(&Entry { request, open, ..entry("a", 10 * request, false) }).unwrap();
        }
        let mut found = Vec::new();
        entries(dir.path(), |entry| found.push((entry.request, entry.estimated, entry.tokens.input)))
            .unwrap();
        assert_eq!(found, [(1, false, 10), (2, true, 20)]);
        let text = std::fs::read_to_string(dir.path().join(LEDGER_FILE)).unwrap();
        assert_eq!(text.matches("\"open\":true").count(), 2, "{text}");
    }
}
