//! The recorded streams and their index belong together and hold nothing they should not.

use std::collections::BTreeSet;

use orch_standin::claude::{index, stream};
use serde_json::Value;

const OUTCOMES: &[&str] = &[
    "ok",
    "gate_failed",
    "schema_invalid",
    "permission_denied",
    "refused",
    "rate_limited",
    "budget",
    "max_turns",
    "limit_output",
    "hang",
    "timeout",
    "auth",
    "model_unavailable",
    "api_error",
    "crash",
    "lost_agent",
    "cancelled",
    "poison",
    "spawn_failed",
    "skipped",
];

/// The last result of a stream, as a judge finds it.
fn last_result(name: &str) -> Option<Value> {
    let bytes = stream(name)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .rfind(|event| event["type"] == "result")
}

#[test]
fn every_stream_is_indexed_once_with_a_known_outcome() {
    let rows = index();
    assert!(rows.len() > 100, "{} rows", rows.len());
    let names: BTreeSet<_> = rows.iter().map(|row| row.name.clone()).collect();
    assert_eq!(names.len(), rows.len());
    for row in &rows {
        assert!(stream(&row.name).is_some(), "{} has no file", row.name);
        assert!(OUTCOMES.contains(&row.outcome.as_str()), "{}: {}", row.name, row.outcome);
    }
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("streams");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files: BTreeSet<_> = files
        .filter(|path| path.extension().is_some_and(|ext| ext == "jsonl"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    assert_eq!(files, names);
}

#[test]
fn outcomes_agree_with_the_last_result_of_each_stream() {
    for row in index() {
        let result = last_result(&row.name);
        let denials = result.as_ref().and_then(|r| r["permission_denials"].as_array()).map_or(0, Vec::len);
        assert_eq!(denials, row.denials, "{}", row.name);
        let good =
            result.as_ref().is_some_and(|r| r["is_error"] == false && r["num_turns"].as_u64() > Some(0));
        match row.outcome.as_str() {
            "ok" => assert!(good, "{}", row.name),
            // The schema that was asked for is not in the stream.
            "schema_invalid" => {
                assert!(!good || result.unwrap().get("structured_output").is_none(), "{}", row.name)
            }
            _ => assert!(!good, "{}", row.name),
        }
    }
}

#[test]
fn streams_hold_no_secret_no_prompt_of_the_cli_and_no_stranger_path() {
    for row in index() {
        let text = String::from_utf8_lossy(&stream(&row.name).unwrap()).into_owned();
        for needle in [
            "sk-ant",
            "Bearer ",
            "x-api-key:",
            "You are Claude Code",
            "You are an interactive",
            "IMPORTANT:",
            "system-reminder",
        ] {
            assert!(!text.contains(needle), "{} contains {needle:?}", row.name);
        }
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            if let Some(cwd) = line["cwd"].as_str() {
                assert!(cwd.starts_with("/home/agent"), "{}: {cwd}", row.name);
            }
        }
    }
}
