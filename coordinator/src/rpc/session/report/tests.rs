//! Reports, as agents send them and as they are recorded.

use super::*;
use crate::blobs::FileBlobs;
use crate::payloads::bulk::{manifest, read, reference};
use crate::payloads::inputs::bench::{ResultBench, TENANT, key, spec, succeeded};
use crate::store::{Batch, Key, Op, Store as _};
use orch_proto::store::v1::{CacheEntry, CacheRecord, GateLog};
use tonic_types::StatusExt as _;

const T: Tenant = Tenant::DEFAULT;

fn inline(text: &str) -> Option<v1::Text> {
    Some(v1::Text { body: Some(v1::text::Body::Inline(text.to_owned())) })
}

fn by_reference(blob: v1::BlobRef) -> Option<v1::Text> {
    Some(v1::Text { body: Some(v1::text::Body::Blob(blob)) })
}

fn report(answer: Option<v1::Text>, structured: Option<v1::Text>) -> v1::Report {
    v1::Report {
        attempt: Some(v1::AttemptId { run_id: 1, task_index: 0, attempt: 1 }),
        outcome: v1::Outcome::Ok.into(),
        digest: vec![7; 32],
        answer,
        structured,
        ..Default::default()
    }
}

struct Bench {
    intake: ReportIntake,
    blobs: Arc<FileBlobs>,
    results: ResultBench,
}

/// A run of two tasks, the results of the first of which may be used again.
fn bench() -> Bench {
    let results = ResultBench::new();
    let cached = orch_proto::store::v1::StoredSpec { cache_key: vec![3; 32], ..spec("a", &[]) };
    results.run(1, vec![cached, spec("b", &[])]);
    let blobs = results.blobs.clone();
    Bench { intake: ReportIntake::new(blobs.clone(), results.reader.clone()), blobs, results }
}

async fn recorded(bench: &Bench, report: v1::Report) -> Result<ResultRecord, Status> {
    let taken = bench.intake.take(TENANT, report).await?;
    assert!(taken.payload.len() <= MAX_RESULT_BYTES, "{}", taken.payload.len());
    Ok(ResultRecord::decode(&*taken.payload).unwrap())
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap().reason
}

#[tokio::test]
async fn short_answers_rest_in_the_record_and_long_ones_in_files_whatever_else_there_is() {
    let bench = bench();
    let record = recorded(&bench, report(inline("yes"), inline("{}"))).await.unwrap();
    assert_eq!((record.answer, record.structured), (inline("yes"), inline("{}")));
    let long = "a".repeat(INLINE_BYTES + 1);
    let record = recorded(&bench, report(inline(&long), None)).await.unwrap();
    let Some(v1::text::Body::Blob(blob)) = record.answer.unwrap().body else { panic!("not a blob") };
    assert_eq!(read(&*bench.blobs, T, &blob, 1 << 20).unwrap(), long.as_bytes());
}

#[tokio::test]
async fn the_fullest_report_there_can_be_fits_its_record() {
    let bench = bench();
    let gate = v1::GateResult {
        kind: "command".into(),
        name: "n".repeat(5_000),
        log: format!("{}the end", "l".repeat(9_000)),
        ..Default::default()
    };
    let structured = |bytes: usize| {
        format!(r#"{{"status": "complete", "summary": "{}", "x": "{}"}}"#, "é".repeat(300), "b".repeat(bytes))
    };
    for bytes in [0, 200, 700, 900, 1_500, 20_000] {
        let worst = v1::Report {
            session_id: "s".repeat(500),
            denied_tools: vec!["d".repeat(500); 500],
            num_turns: u32::MAX,
            transcript_bytes: u64::MAX,
            duration: Some(prost_types::Duration { seconds: i64::MAX, nanos: 0 }),
            artifacts: Some(bench.results.files(&[("a", "x")])),
            gates: vec![gate.clone(); 500],
            feedback: inline(&"f".repeat(bytes)),
            tree: vec![9; 32],
            ..report(inline(&"a".repeat(bytes)), inline(&structured(bytes)))
        };
        let record = recorded(&bench, worst).await.unwrap();
        assert!(record.answer.is_some() && record.structured.is_some() && record.feedback.is_some());
        assert_eq!(
            (record.result_status.as_str(), record.tree.len(), record.cache_key.len()),
            ("complete", 32, 32)
        );
        let log = read(&*bench.blobs, T, &record.gates.unwrap(), 1 << 20).unwrap();
        let log = GateLog::decode(log.as_slice()).unwrap();
        assert_eq!((log.gates.len(), log.gates[0].log.len(), log.gates[0].name.len()), (96, 4_096, 256));
        assert!(log.gates[0].log.ends_with("the end"));
    }
}

#[tokio::test]
async fn denied_tools_are_kept_in_the_record_and_shown_with_the_task() {
    let denied_tools = vec!["Bash(rm -rf /)".to_owned(), "Edit\u{1b}".to_owned()];
    let record =
        recorded(&bench(), v1::Report { denied_tools, ..report(inline("yes"), None) }).await.unwrap();
    let stored = orch_proto::store::v1::TaskRecord { result: Some(record), ..Default::default() };
    let mut task = v1::Task::default();
    crate::persist::show::add_result(&mut task, &stored);
    assert_eq!(task.denied_tools, ["Bash(rm -rf /)", "Edit "]);
}

#[tokio::test]
async fn status_and_summary_are_the_workers_or_the_beginning_of_its_answer() {
    let bench = bench();
    let said = r#"{"status": "failed", "summary": "No music was found.", "findings": []}"#;
    let record = recorded(&bench, report(inline("long story"), inline(said))).await.unwrap();
    assert_eq!((record.result_status.as_str(), record.summary.as_str()), ("failed", "No music was found."));
    let padded = format!("{{\"pad\": \"{}\", {}", "x".repeat(90_000), &said[1..]);
    let blob = reference(&bench.blobs.put(T, padded.as_bytes()).unwrap());
    let record = recorded(&bench, report(None, by_reference(blob))).await.unwrap();
    assert_eq!((record.result_status.as_str(), record.summary.as_str()), ("failed", "No music was found."));
    let record = recorded(&bench, report(inline("Yes,\n it is.\n"), None)).await.unwrap();
    assert_eq!((record.result_status.as_str(), record.summary.as_str()), ("", "Yes, it is."));
    let blob = reference(&bench.blobs.put(T, "é".repeat(9_000).as_bytes()).unwrap());
    let record = recorded(&bench, report(by_reference(blob), None)).await.unwrap();
    assert!(record.summary.starts_with("éé") && record.summary.ends_with('…'), "{}", record.summary);
}

#[tokio::test]
async fn files_are_counted_by_what_is_stored_and_not_by_what_is_said() {
    let bench = bench();
    let files = bench.results.files(&[("a.md", "four"), ("b/c.md", "seven77")]);
    let lie = v1::Artifacts { count: 9, bytes: 1 << 40, ..files.clone() };
    let record = recorded(&bench, v1::Report { artifacts: Some(lie), ..report(None, None) }).await.unwrap();
    assert_eq!(record.artifacts, Some(files));
}

#[tokio::test]
async fn files_that_nobody_can_have_handed_over_are_refused_with_a_reason() {
    let bench = bench();
    let refused = async |artifacts: v1::Artifacts| {
        let report = v1::Report { artifacts: Some(artifacts), ..report(None, None) };
        recorded(&bench, report).await.unwrap_err()
    };
    for path in ["../x", "/etc/passwd", "a\nb", "", "a//b"] {
        let status = refused(bench.results.files(&[(path, "x")])).await;
        assert_eq!(reason(&status), "PROTOCOL_VIOLATION", "{path:?}");
        assert!(status.message().contains("beneath `out/`"), "{status:?}");
    }
    let twice = refused(bench.results.files(&[("a", "x"), ("a", "y")])).await;
    assert_eq!(reason(&twice), "PROTOCOL_VIOLATION");
    let theirs = reference(&bench.blobs.put(Tenant::new(2), b"theirs").unwrap());
    let file = v1::Artifact { path: "a".into(), blob: Some(theirs), executable: false };
    let stolen = v1::Manifest { artifacts: vec![file.clone()] }.encode_to_vec();
    let named = |bytes: &[u8]| v1::Artifacts {
        manifest: Some(reference(&bench.blobs.put(T, bytes).unwrap())),
        ..Default::default()
    };
    assert_eq!(reason(&refused(named(&stolen)).await), "BLOB_NOT_FOUND");
    let million = v1::Manifest { artifacts: vec![file; manifest::MAX_FILES + 1] }.encode_to_vec();
    assert_eq!(reason(&refused(named(&million)).await), "TOO_LARGE");
    assert_eq!(reason(&refused(named(b"\xFF no manifest")).await), "PROTOCOL_VIOLATION");
    let huge = named(&vec![0; 13 << 20]);
    assert_eq!(reason(&refused(huge).await), "TOO_LARGE");
}

#[tokio::test]
async fn a_report_that_names_bytes_which_its_tenant_does_not_have_is_refused() {
    let bench = bench();
    let ours = reference(&bench.blobs.put(T, b"a long answer").unwrap());
    let theirs = reference(&bench.blobs.put(Tenant::new(2), b"somebody else's").unwrap());
    let lie = v1::BlobRef { size: 7, digest: vec![1], ..ours.clone() };
    let record = recorded(&bench, report(by_reference(lie), None)).await.unwrap();
    assert_eq!(record.answer, by_reference(ours.clone()), "length and digest are what is stored");
    let nowhere = v1::BlobRef { location: format!("b:{}", "0".repeat(64)), ..ours.clone() };
    let nonsense = v1::BlobRef { location: "../../etc/passwd".into(), ..ours };
    for blob in [theirs, nowhere, nonsense] {
        let status = recorded(&bench, report(None, by_reference(blob))).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
    }
}

#[tokio::test]
async fn only_results_that_may_be_used_again_say_where_they_are_found() {
    let bench = bench();
    let good = report(inline("yes"), None);
    let cached = recorded(&bench, good.clone()).await.unwrap();
    assert_eq!(cached.cache_key.len(), 32);
    let other = v1::AttemptId { run_id: 1, task_index: 1, attempt: 1 };
    let red = v1::Report { outcome: v1::Outcome::GateFailed.into(), ..good.clone() };
    for report in [v1::Report { attempt: Some(other), ..good }, red, report(None, None)] {
        assert_eq!(recorded(&bench, report).await.unwrap().cache_key, Vec::<u8>::new());
    }
}

#[tokio::test]
async fn a_late_report_of_a_run_that_is_deleted_is_taken_for_the_core_to_fence() {
    let bench = bench();
    let gone = v1::AttemptId { run_id: 77, task_index: 0, attempt: 1 };
    let late = v1::Report { attempt: Some(gone), ..report(inline("yes"), None) };
    assert_eq!(recorded(&bench, late.clone()).await.unwrap().cache_key, Vec::<u8>::new());
    let reused = v1::Report { reused: true, answer: None, ..late };
    assert_eq!(bench.intake.take(TENANT, reused).await.unwrap().outcome, Outcome::LOST_AGENT);
}

/// A second run of the same work after the first has recorded `result` with `tree`.
async fn second_run(bench: &Bench, result: ResultRecord) -> v1::Report {
    bench.results.task(key(1, 0), &succeeded(result.clone()));
    let entry = CacheEntry {
        task: Some(v1::TaskId { run_id: 1, task_index: 0 }),
        attempt: 1,
        tree: result.tree,
        recorded_ms: 1,
    };
    let digest = bench.results.reader.cache_key(TENANT, key(1, 0)).await.unwrap().unwrap();
    let known = CacheRecord { entries: vec![entry] };
    bench.results.put(Key::cache(T, &digest), known.encode_to_vec());
    let cached = orch_proto::store::v1::StoredSpec { cache_key: vec![3; 32], ..spec("again", &[]) };
    bench.results.run(2, vec![cached, spec("b", &[])]);
    v1::Report {
        attempt: Some(v1::AttemptId { run_id: 2, task_index: 0, attempt: 1 }),
        reused: true,
        tree: vec![5; 32],
        ..report(None, None)
    }
}

#[tokio::test]
async fn a_reused_result_is_recorded_whole_and_says_whose_it_is() {
    let bench = bench();
    let said = r#"{"status": "complete", "summary": "All good."}"#;
    let first = v1::Report {
        artifacts: Some(bench.results.files(&[("a.md", "text")])),
        tree: vec![5; 32],
        num_turns: 9,
        ..report(inline(&"long ".repeat(1_000)), inline(said))
    };
    let first = recorded(&bench, first).await.unwrap();
    let again = second_run(&bench, first.clone()).await;
    let taken = bench.intake.take(TENANT, again).await.unwrap();
    assert_eq!((taken.outcome, taken.usage.cost_micro_usd), (Outcome::OK, 0));
    let record = ResultRecord::decode(&*taken.payload).unwrap();
    assert_eq!(record.reused_from, "adhoc/1/a");
    assert_eq!(
        (&record.answer, &record.structured, &record.artifacts, &record.summary, &record.cache_key),
        (&first.answer, &first.structured, &first.artifacts, &first.summary, &first.cache_key)
    );
    assert_eq!((record.result_status.as_str(), record.num_turns), ("complete", 0));
}

#[tokio::test]
async fn a_result_that_went_away_meanwhile_sends_the_task_back_to_the_queue() {
    let bench = bench();
    let first = v1::Report { tree: vec![5; 32], ..report(inline("yes"), None) };
    let first = recorded(&bench, first).await.unwrap();
    let again = second_run(&bench, first).await;
    let other_tree = v1::Report { tree: vec![6; 32], ..again.clone() };
    let taken = bench.intake.take(TENANT, other_tree).await.unwrap();
    assert_eq!(taken.outcome, Outcome::LOST_AGENT);
    let ops = vec![Op::Delete { key: Key::run(T, 1) }];
    bench.results.store.commit(Batch { expect_epoch: 0, ops }).unwrap();
    let taken = bench.intake.take(TENANT, again).await.unwrap();
    assert_eq!((taken.outcome, &*taken.detail), (Outcome::LOST_AGENT, REUSE_GONE));
}

#[tokio::test]
async fn a_reused_result_that_was_never_offered_is_refused() {
    let bench = bench();
    let again = second_run(&bench, ResultRecord { tree: vec![5; 32], ..Default::default() }).await;
    let second = v1::AttemptId { attempt: 2, ..again.attempt.unwrap() };
    let failed = v1::Report { outcome: v1::Outcome::Crash.into(), ..again.clone() };
    for report in [v1::Report { attempt: Some(second), ..again }, failed] {
        let status = bench.intake.take(TENANT, report).await.unwrap_err();
        assert_eq!(reason(&status), "PROTOCOL_VIOLATION");
    }
}

#[tokio::test]
async fn a_report_without_attempt_outcome_or_digest_is_refused() {
    let bench = bench();
    let good = report(None, None);
    let bad = [
        v1::Report { attempt: None, ..good.clone() },
        v1::Report { outcome: 0, ..good.clone() },
        v1::Report { outcome: 999, ..good.clone() },
        v1::Report { digest: vec![1; 31], ..good.clone() },
        v1::Report { tree: vec![1; 31], ..good },
    ];
    for report in bad {
        let status = recorded(&bench, report).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status:?}");
    }
}

#[test]
fn text_is_cut_at_a_character_and_made_harmless() {
    assert_eq!(cut("aé", 2), "a");
    assert_eq!(cut("a\u{1b}b\nc", 9), "a b\nc");
}

#[test]
fn rows_beyond_the_limit_are_added_up_and_none_is_lost() {
    let row = |at: usize| v1::ModelUsage { model: format!("m{at}"), input_tokens: 1, ..Default::default() };
    let usage = v1::Usage { models: (0..20).map(row).collect(), ..Default::default() };
    let sum = usage_from_wire(&bounded(usage));
    assert_eq!(sum.models.len(), MAX_MODELS + 1);
    assert_eq!(sum.models.iter().map(|row| row.input).sum::<u64>(), 20);
}
