//! Every recorded output of the CLI through the parser and the judge: what was seen once must be understood
//! the same way for good. The streams and the outcomes they stand for are listed in the stand-in's folder.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::PathBuf;

use orch_agent::runner::claude::judge::{self, Terms, judge};
use orch_agent::runner::claude::observer::{Demands, Facts, Observer};
use orch_agent::runner::{Live, Outcome};
use orch_agent::supervisor::exit::ExitRecord;
use orch_agent::supervisor::stop::{Rung, StopCause, StopFact};

/// About when the streams were recorded, in Unix seconds: times of resets lie after it.
const RECORDED: u64 = 1_795_210_000;

/// One row of the index.
struct Row {
    name: String,
    exit: i32,
    outcome: Outcome,
    denials: usize,
    bytes: Vec<u8>,
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/standin/streams")
}

fn rows() -> Vec<Row> {
    let index = fs::read_to_string(folder().join("INDEX.tsv")).unwrap();
    let lines = index.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let outcome = format!("OUTCOME_{}", fields[2].to_uppercase());
            Row {
                name: fields[0].to_owned(),
                exit: fields[1].parse().unwrap(),
                outcome: Outcome::from_str_name(&outcome).unwrap_or_else(|| panic!("unknown {outcome}")),
                denials: fields[3].parse().unwrap(),
                bytes: fs::read(folder().join(format!("{}.jsonl", fields[0]))).unwrap(),
            }
        })
        .collect()
}

fn terms(row: &Row) -> Terms {
    Terms { structured: row.name.contains("schema"), denial_fails: false, goes_on: false }
}

fn facts(row: &Row, chunk: usize) -> Facts {
    let mut observer = Observer::new(Demands { structured: terms(row).structured, ..Demands::default() });
    for piece in row.bytes.chunks(chunk) {
        observer.push(piece);
    }
    observer.finish()
}

fn exit(row: &Row) -> ExitRecord {
    // What was cancelled says so after the stop; what hung or took too long had said everything before.
    let len = row.bytes.len() as u64;
    let stopped = |cause, stdout_len| Some(StopFact { cause, stdout_len, rung: Rung::Interrupt });
    let stop = match row.outcome.word() {
        "cancelled" => stopped(StopCause::Cancelled, 0),
        "hang" => stopped(StopCause::Hang, len),
        "timeout" => stopped(StopCause::Timeout, len),
        _ => None,
    };
    let (code, signal) = if row.exit < 0 { (None, Some(-row.exit)) } else { (Some(row.exit), None) };
    ExitRecord { code, signal, stop, stdout_len: len, ..ExitRecord::default() }
}

#[test]
fn every_recorded_stream_is_judged_as_listed() {
    let rows = rows();
    assert!(rows.len() >= 210, "only {} streams are listed", rows.len());
    let mut wrong = Vec::new();
    for row in rows.iter().filter(|row| row.name != "input_stream_json_bad") {
        let facts = facts(row, usize::MAX);
        let verdict = judge(&facts, terms(row), &exit(row), "", 0);
        let denials = facts.result.as_ref().map_or(0, |(result, _)| result.denied_tools.len());
        if (verdict.outcome, denials) != (row.outcome, row.denials) {
            wrong.push(format!(
                "{}: {} ({}), {denials} denials",
                row.name,
                verdict.outcome.word(),
                verdict.detail
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One line a stream: what is made of it, word for word, with turns, tokens and money. A change of any of these is a
/// change of what people are told, and shows here.
#[test]
fn every_verdict_stays_as_it_was_reviewed() {
    let mut lines =
        vec!["stream | outcome | turns | tokens in/out/read/write | micro-USD | denied | detail".to_owned()];
    for row in rows() {
        let facts = facts(&row, usize::MAX);
        let verdict = judge(&facts, terms(&row), &exit(&row), "", RECORDED);
        let wait =
            verdict.retry_after.map_or_else(String::new, |wait| format!(" [after {} s]", wait.as_secs()));
        let usage = facts.ledger.total(facts.is_cut_off());
        let tokens = usage.models.values().fold([0; 4], |sum, model| {
            let of =
                [model.input_tokens, model.output_tokens, model.cache_read_tokens, model.cache_write_tokens];
            [0, 1, 2, 3].map(|at| sum[at] + of[at])
        });
        let denied =
            facts.result.as_ref().map_or_else(String::new, |(result, _)| judge::denied(result).join(","));
        let (outcome, estimated) = (verdict.outcome.word(), if usage.estimated { "~" } else { "" });
        let cells = [
            row.name.clone(),
            outcome.to_owned(),
            facts.turns.to_string(),
            tokens.map(|count| count.to_string()).join("/"),
            format!("{estimated}{}", usage.cost_micro_usd),
            denied,
            format!("{}{wait}", verdict.detail.replace('\n', "\\n")),
        ];
        lines.push(cells.join(" | ").trim_end().to_owned());
    }
    insta::assert_snapshot!("verdicts", lines.join("\n"));
}

/// The recording was shortened to be kept; here its lines have their 2 MB again.
#[test]
fn lines_of_megabytes_are_understood() {
    let mut row = rows().into_iter().find(|row| row.name == "big_write").unwrap();
    let text = String::from_utf8(row.bytes).unwrap();
    row.bytes = text.replace(&"z".repeat(1_000), &"z".repeat(2_000_000)).into_bytes();
    assert!(row.bytes.len() > 4_000_000);
    for chunk in [usize::MAX, 65_536] {
        let facts = facts(&row, chunk);
        assert_eq!((facts.malformed, facts.turns), (0, 2));
        assert_eq!(judge(&facts, terms(&row), &exit(&row), "", 0).outcome, Outcome::Ok);
    }
}

/// Listed as a crash; without a word on standard output it cannot be told from refused arguments.
#[test]
fn a_cli_that_ends_without_a_word_did_not_start() {
    let rows = rows();
    let row = rows.iter().find(|row| row.name == "input_stream_json_bad").unwrap();
    let stderr = "Error parsing streaming input line: garbage";
    let verdict = judge(&facts(row, usize::MAX), terms(row), &exit(row), stderr, 0);
    assert_eq!(verdict.outcome, Outcome::SpawnFailed);
    assert!(verdict.detail.ends_with(stderr), "{}", verdict.detail);
}

#[test]
fn the_cut_of_the_chunks_never_matters() {
    for row in rows().iter().filter(|row| row.bytes.len() < 100_000) {
        let whole = judge(&facts(row, usize::MAX), terms(row), &exit(row), "", 0);
        for chunk in [1, 7, 4_096] {
            assert_eq!(
                judge(&facts(row, chunk), terms(row), &exit(row), "", 0),
                whole,
                "{} by {chunk}",
                row.name
            );
        }
    }
}

#[test]
fn a_stream_that_breaks_off_anywhere_is_never_a_false_success_and_never_a_panic() {
    for row in rows().iter().filter(|row| row.bytes.len() < 40_000) {
        for end in (0..row.bytes.len()).step_by(97) {
            let cut = Row { name: row.name.clone(), bytes: row.bytes[..end].to_vec(), ..*row };
            let outcome = judge(&facts(&cut, usize::MAX), terms(&cut), &exit(&cut), "", 0).outcome;
            let complete = String::from_utf8_lossy(&cut.bytes).contains("\"is_error\":false")
                || String::from_utf8_lossy(&cut.bytes).contains("\"is_error\": false");
            assert!(outcome != Outcome::Ok || complete, "{} cut at {end}", row.name);
        }
    }
}

#[test]
fn money_is_the_last_figure_of_the_process() {
    for (name, micro_usd, models) in [
        ("input_stream_json", 2_000, 1),
        ("control_protocol", 5_200, 2),
        ("recommended", 1_600, 2),
        ("cache_usage", 28_800, 1),
        ("max_budget", 151_500, 1),
    ] {
        let rows = rows();
        let row = rows.iter().find(|row| row.name == name).unwrap();
        let usage = facts(row, usize::MAX).ledger.total(false);
        assert_eq!(
            (usage.cost_micro_usd, usage.models.len(), usage.estimated),
            (micro_usd, models, false),
            "{name}"
        );
    }
}

#[test]
fn a_killed_process_is_estimated_from_its_messages() {
    let rows = rows();
    let row = rows.iter().find(|row| row.name == "sig_kill_pid_tool").unwrap();
    let facts = facts(row, usize::MAX);
    assert!(facts.is_cut_off());
    let usage = facts.ledger.total(facts.is_cut_off());
    assert!(usage.estimated && usage.cost_micro_usd >= 500, "{usage:?}");
}

/// What people are told while a stream goes by, without what is told twice in a row.
fn told(name: &str) -> Vec<String> {
    let rows = rows();
    let row = rows.iter().find(|row| row.name == name).unwrap();
    let mut observer = Observer::new(Demands::default());
    let mut told: Vec<String> = Vec::new();
    for line in row.bytes.split_inclusive(|byte| *byte == b'\n') {
        observer.push(line);
        let mut live = Live::default();
        observer.describe(&mut live);
        assert!(live.now.chars().count() <= 120, "{}", live.now);
        if told.last() != Some(&live.now) {
            told.push(live.now);
        }
    }
    told
}

#[test]
fn people_are_told_which_sub_agent_uses_which_tool() {
    assert_eq!(
        told("ctl_partial_subagent_bash"),
        [
            "asking the model",
            "using Agent",
            "sub-agent general-purpose",
            "general-purpose ▸ Bash echo inner",
            "writing",
            "finishing"
        ]
    );
    let rows = rows();
    let nested = rows.iter().find(|row| row.name == "agent_nested").unwrap();
    assert_eq!(facts(nested, usize::MAX).tool_calls, 3, "two sub-agents and the inner one's Bash");
    // Recorded: of the inner one's call nothing but its progress is told.
    assert_eq!(
        told("agent_nested"),
        [
            "asking the model",
            "using Agent",
            "sub-agent reviewer",
            "sub-agent test-runner",
            "reviewer ▸ Agent test-runner",
            "reviewer ▸ test-runner ▸ Bash",
            "writing",
            "finishing"
        ]
    );
}
