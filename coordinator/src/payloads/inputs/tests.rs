//! What a task is dispatched with, from what is recorded.

use super::bench::{ResultBench, TENANT, key, spec, succeeded};
use super::*;
use crate::blobs::{BlobError, SWEEP_MIN_AGE};
use crate::payloads::bulk::text;
use crate::payloads::references;
use crate::store::{Batch, Key, Op};
use orch_core::ids::RunId;
use orch_proto::store::v1 as record;
use std::time::{Duration, SystemTime};

const T: Tenant = Tenant::DEFAULT;

fn answered(answer: &str) -> ResultRecord {
    ResultRecord { answer: text(answer.into()), ..Default::default() }
}

fn with_status(structured: &str) -> ResultRecord {
    let said = bulk::contract::read(structured);
    ResultRecord {
        structured: text(structured.into()),
        result_status: said.status.unwrap_or_default().into(),
        summary: bulk::contract::short(&said.summary.unwrap_or_default()),
        ..Default::default()
    }
}

fn role(mut spec: StoredSpec, role: v1::TaskRole, of: u32) -> StoredSpec {
    spec.role = role.into();
    spec.of = of;
    spec
}

fn publish(task_id: &str, of: u32, files: &[(&str, &str)]) -> StoredSpec {
    let files = files.iter().map(|(artifact, to)| v1::Publication {
        artifact: (*artifact).to_owned(),
        to: (*to).to_owned(),
        replace: false,
    });
    let stored = record::StoredPublish { workspace: "dance".into(), files: files.collect() };
    let mut spec = role(spec(task_id, &[of]), v1::TaskRole::Publish, of);
    spec.runner = Some(stored_spec::Runner::Publish(stored));
    spec
}

fn ended(state: v1::TaskState, outcome: v1::Outcome, detail: &str) -> record::TaskRecord {
    let attempt = record::AttemptRecord {
        number: 1,
        outcome: outcome.into(),
        detail: detail.into(),
        ..Default::default()
    };
    record::TaskRecord {
        state: state.into(),
        outcome: outcome.into(),
        attempt: 1,
        attempts: if detail.is_empty() { Vec::new() } else { vec![attempt] },
        ..Default::default()
    }
}

#[tokio::test]
async fn a_task_gets_the_results_of_its_dependencies_in_order_whatever_became_of_them() {
    let bench = ResultBench::new();
    let mut last = spec("synthesis", &[0, 1, 2, 3]);
    last.after = v1::After::End.into();
    bench.run(1, vec![spec("a", &[]), spec("b", &[]), spec("c", &[]), spec("d", &[]), last]);
    let files = bench.files(&[("report.md", "text")]);
    let good = with_status(r#"{"status": "partial", "summary": "Two of three."}"#);
    bench.task(key(1, 0), &succeeded(ResultRecord { artifacts: Some(files.clone()), ..good }));
    bench.task(key(1, 1), &succeeded(answered("The answer is yes.")));
    bench.task(key(1, 2), &ended(v1::TaskState::Failed, v1::Outcome::Timeout, "passed its deadline"));
    bench.task(key(1, 3), &ended(v1::TaskState::Skipped, v1::Outcome::Skipped, ""));
    let inputs = bench.inputs(key(1, 4)).await;
    let names: Vec<_> = inputs.iter().map(|input| input.task_id.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    let [a, b, c, d] = <[v1::Input; 4]>::try_from(inputs).unwrap();
    assert_eq!(
        (a.r#ref.as_str(), a.worker.as_str(), a.summary.as_str()),
        ("adhoc/1/a", "marie", "Two of three.")
    );
    assert_eq!((a.artifacts, a.detail.as_str()), (Some(files), ""));
    assert_eq!((b.summary.as_str(), b.answer), ("The answer is yes.", text("The answer is yes.".into())));
    assert_eq!(
        (c.state(), c.outcome(), c.detail.as_str()),
        (v1::TaskState::Failed, v1::Outcome::Timeout, "passed its deadline")
    );
    assert_eq!((d.state(), d.outcome()), (v1::TaskState::Skipped, v1::Outcome::Skipped));
    assert!(!d.detail.is_empty(), "what was never run says why, too");
}

#[tokio::test]
async fn a_synthesis_is_not_shown_the_plan_that_its_results_come_from() {
    let bench = ResultBench::new();
    let plan = role(spec("plan", &[]), v1::TaskRole::Plan, 0);
    let synthesis = role(spec("synthesis", &[0, 2]), v1::TaskRole::Synthesis, 0);
    bench.run(1, vec![plan, synthesis, spec("a", &[])]);
    bench.task(key(1, 0), &succeeded(answered("{\"tasks\": []}")));
    bench.task(key(1, 2), &succeeded(answered("done")));
    let inputs = bench.inputs(key(1, 1)).await;
    assert_eq!(inputs.iter().map(|input| input.task_id.as_str()).collect::<Vec<_>>(), ["a"]);
}

#[tokio::test]
async fn long_answers_travel_by_reference_and_their_summary_says_that_it_is_cut() {
    let bench = ResultBench::new();
    bench.run(1, vec![spec("a", &[]), spec("b", &[]), spec("c", &[0, 1])]);
    let answer = "é".repeat(40_000);
    let long = ResultRecord { answer: bench.long(&answer), ..Default::default() };
    bench.task(key(1, 0), &succeeded(long.clone()));
    let summary = "s".repeat(3_000);
    let structured = format!(r#"{{"status": "complete", "summary": "{summary}"}}"#);
    let contract = ResultRecord { structured: bench.long(&structured), ..with_status(&structured) };
    let contract = ResultRecord { structured: bench.long(&structured), ..contract };
    bench.task(key(1, 1), &succeeded(contract));
    let inputs = bench.inputs(key(1, 2)).await;
    assert_eq!(inputs[0].answer, long.answer);
    let cut = &inputs[0].summary;
    assert!(cut.len() <= 4 << 10 && cut.starts_with("éé") && cut.contains("cut here"), "{}", cut.len());
    assert_eq!(inputs[1].summary, summary, "up to 4 KiB it is whole, longer than the record keeps");
}

#[tokio::test]
async fn a_summary_survives_the_loss_of_the_bytes_it_was_taken_from() {
    let bench = ResultBench::new();
    bench.run(1, vec![spec("a", &[]), spec("b", &[0])]);
    let nowhere = v1::BlobRef { location: format!("b:{}", "0".repeat(64)), size: 9, digest: vec![0; 32] };
    let lost = ResultRecord {
        answer: bulk::by_reference(nowhere),
        summary: "how it began…".into(),
        ..Default::default()
    };
    bench.task(key(1, 0), &succeeded(lost));
    assert_eq!(bench.inputs(key(1, 1)).await[0].summary, "how it began…");
}

#[tokio::test]
async fn ten_thousand_inputs_travel_as_one_blob_and_each_is_there() {
    let bench = ResultBench::new();
    let count = 10_000;
    let mut specs: Vec<_> = (0..count).map(|at| spec(&format!("t{at}"), &[])).collect();
    specs.push(spec("last", &Vec::from_iter(0..count)));
    bench.run(1, specs);
    let result = succeeded(answered(&"x".repeat(900)));
    let ops =
        (0..count).map(|at| Op::Put { key: Key::task(T, 1, at), value: result.encode_to_vec() }).collect();
    Store::commit(&*bench.store, Batch { expect_epoch: 0, ops }).unwrap();
    let dispatch = bench.dispatch(key(1, count), 1, false).await;
    let Inputs::Blob(blob) = dispatch.inputs else { panic!("inside the message") };
    assert!(blob.size < 64 << 20, "{}", blob.size);
    let inputs = bench.inputs(key(1, count)).await;
    assert_eq!(inputs.len(), count as usize);
    assert!(inputs.iter().enumerate().all(|(at, input)| input.task_id == format!("t{at}")));
    assert!(inputs.iter().all(|input| input.summary.len() <= 900 && input.summary.contains("cut here")));
}

#[tokio::test]
async fn what_was_published_is_told_with_the_task_whose_files_they_are() {
    let bench = ResultBench::new();
    let specs = vec![
        spec("a", &[]),
        publish("a.publish", 0, &[("e.md", "students/emma/e.md")]),
        spec("b", &[]),
        publish("b.publish", 2, &[("l.md", "students/lucas/l.md")]),
        spec("synthesis", &[0, 1, 2, 3]),
        spec("other", &[1]),
    ];
    bench.run(1, specs);
    for task in [0, 1, 2] {
        bench.task(key(1, task), &succeeded(answered("done")));
    }
    bench.task(key(1, 3), &ended(v1::TaskState::Failed, v1::Outcome::GateFailed, "a file is there"));
    let inputs = bench.inputs(key(1, 4)).await;
    let names: Vec<_> = inputs.iter().map(|input| input.task_id.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(inputs[0].published, ["students/emma/e.md"]);
    assert_eq!((inputs[1].published.len(), inputs[1].state()), (0, v1::TaskState::Succeeded));
    assert_eq!(inputs[1].detail, "its files were not published: a file is there");
    let alone = bench.inputs(key(1, 5)).await;
    assert_eq!((alone[0].task_id.as_str(), alone[0].published.len()), ("a.publish", 1));
}

#[tokio::test]
async fn a_reviewer_sees_the_latest_result_of_what_it_judges() {
    let bench = ResultBench::new();
    bench.run(1, vec![spec("a", &[]), role(spec("a.review", &[0]), v1::TaskRole::Review, 0)]);
    let mut judged = succeeded(answered("second try"));
    judged.state = v1::TaskState::Verifying.into();
    judged.outcome = 0;
    bench.task(key(1, 0), &judged);
    let inputs = bench.inputs(key(1, 1)).await;
    assert_eq!((inputs[0].state(), inputs[0].outcome()), (v1::TaskState::Verifying, v1::Outcome::Ok));
    assert_eq!(inputs[0].summary, "second try");
}

#[tokio::test]
async fn a_publication_gets_the_bytes_of_each_file_and_names_what_was_not_handed_over() {
    let bench = ResultBench::new();
    let files = [("e.md", "students/emma/e.md"), ("missing.md", "m.md")];
    bench.run(1, vec![spec("a", &[]), publish("a.publish", 0, &files)]);
    let artifacts = Some(bench.files(&[("e.md", "evaluation"), ("other.md", "x")]));
    bench.task(key(1, 0), &succeeded(ResultRecord { artifacts, ..Default::default() }));
    let dispatch = bench.dispatch(key(1, 1), 1, false).await;
    assert_eq!(dispatch.inputs, Inputs::Inline(Vec::new()));
    let [found, missing] = <[v1::PublishFile; 2]>::try_from(dispatch.publish).unwrap();
    let bytes = bulk::read(&*bench.blobs, T, &found.blob.unwrap(), 100).unwrap();
    assert_eq!((found.to.as_str(), bytes.as_slice()), ("students/emma/e.md", &b"evaluation"[..]));
    assert_eq!((missing.artifact.as_str(), missing.blob), ("missing.md", None));
}

#[tokio::test]
async fn a_task_that_was_sent_back_is_told_what_its_record_says() {
    let bench = ResultBench::new();
    bench.run(1, vec![spec("a", &[]), spec("b", &[])]);
    let red = ResultRecord { feedback: bench.long("the tests are red"), ..Default::default() };
    bench.task(key(1, 0), &record::TaskRecord { result: Some(red), attempt: 2, ..Default::default() });
    assert_eq!(bench.dispatch(key(1, 0), 2, true).await.feedback, text("the tests are red".into()));
    assert_eq!(bench.dispatch(key(1, 0), 2, false).await.feedback, None);
}

#[tokio::test]
async fn a_dependency_without_a_record_is_an_error_and_no_empty_input() {
    let bench = ResultBench::new();
    bench.run(1, vec![spec("a", &[]), spec("b", &[0])]);
    let attempt = AttemptKey::new(key(1, 1), 1);
    let error = bench.reader.dispatch(TENANT, attempt, "adhoc/1".into(), false).await.unwrap_err();
    assert!(matches!(error, DispatchError::NoRecord(task) if task == key(1, 0)), "{error}");
}

/// A task whose results may be used again, and one before it.
fn cached(bench: &ResultBench, run: u64, before: &ResultRecord) -> TaskKey {
    let mut second = spec("b", &[0]);
    second.cache_key = vec![3; 32];
    bench.run(run, vec![spec("a", &[]), second]);
    bench.task(key(run, 0), &succeeded(before.clone()));
    key(run, 1)
}

/// Notes a result in the index, as the committer does.
async fn note(bench: &ResultBench, task: TaskKey, tree: u8) {
    let digest = bench.reader.cache_key(TENANT, task).await.unwrap().unwrap();
    let entry = record::CacheEntry {
        task: Some(v1::TaskId { run_id: task.run.0, task_index: task.index.0 }),
        attempt: 1,
        tree: vec![tree; 32],
        recorded_ms: 1,
    };
    let mut ops = Vec::new();
    crate::persist::Draft::Cached { key: Key::cache(T, &digest), entry }
        .fill(&*bench.store, &mut ops)
        .unwrap();
    Store::commit(&*bench.store, Batch { expect_epoch: 0, ops }).unwrap();
}

#[tokio::test]
async fn the_same_work_on_the_same_inputs_is_offered_earlier_results_and_other_work_is_not() {
    let bench = ResultBench::new();
    let first = cached(&bench, 1, &answered("the same"));
    assert_eq!(bench.dispatch(first, 1, false).await.reuse, []);
    bench.task(first, &succeeded(answered("recorded")));
    note(&bench, first, 7).await;
    // The same text by reference is the same input, and so is that of another run.
    let by_reference = ResultRecord { answer: bench.long("the same"), ..Default::default() };
    let again = cached(&bench, 2, &by_reference);
    let offer = v1::Reuse { r#ref: "adhoc/1/b".into(), tree: vec![7; 32] };
    assert_eq!(bench.dispatch(again, 1, false).await.reuse, [offer]);
    assert_eq!(bench.dispatch(again, 2, false).await.reuse, [], "whoever tries again wants it run");
    let other = cached(&bench, 3, &answered("something else"));
    assert_eq!(bench.dispatch(other, 1, false).await.reuse, []);

    let found = bench.reader.reused(TENANT, again, vec![7; 32]).await.unwrap().unwrap();
    assert_eq!((found.task_ref.as_str(), found.result), ("adhoc/1/b", answered("recorded")));
    assert_eq!(bench.reader.reused(TENANT, again, vec![8; 32]).await.unwrap(), None);
}

#[tokio::test]
async fn results_that_did_not_count_after_all_or_are_deleted_are_not_offered() {
    let bench = ResultBench::new();
    let again = cached(&bench, 9, &answered("x"));
    for (run, change) in [(1_u64, 0), (2, 1), (3, 2), (4, 3)] {
        let task = cached(&bench, run, &answered("x"));
        let mut stored = succeeded(answered("y"));
        bench.task(task, &stored);
        note(&bench, task, u8::try_from(run).unwrap()).await;
        match change {
            0 => continue,
            1 => stored.state = v1::TaskState::Failed.into(),
            2 => stored.attempt = 2,
            _ => {
                let ops = vec![Op::Delete { key: Key::run(T, run) }];
                Store::commit(&*bench.store, Batch { expect_epoch: 0, ops }).unwrap();
            }
        }
        bench.task(task, &stored);
    }
    let offers = bench.dispatch(again, 1, false).await.reuse;
    assert_eq!(offers.iter().map(|offer| offer.r#ref.as_str()).collect::<Vec<_>>(), ["adhoc/1/b"]);
}

#[tokio::test]
async fn files_are_listed_by_task_with_where_they_went_in_pages_that_fit() {
    let bench = ResultBench::new();
    let mut a = spec("a", &[]);
    a.workspace = "dance".into();
    bench.run(
        1,
        vec![spec("none", &[]), a, publish("a.publish", 1, &[("e.md", "emma/e.md")]), spec("many", &[])],
    );
    let with_files = |files| succeeded(ResultRecord { artifacts: Some(files), ..Default::default() });
    bench.task(key(1, 0), &succeeded(answered("no files")));
    bench.task(key(1, 1), &with_files(bench.files(&[("d.md", "d"), ("e.md", "e")])));
    bench.task(key(1, 2), &succeeded(ResultRecord::default()));
    let long = "x".repeat(900);
    let paths: Vec<String> = (0..1_000).map(|at| format!("{at:04}{long}")).collect();
    let many: Vec<_> = paths.iter().map(|path| (path.as_str(), "same")).collect();
    bench.task(key(1, 3), &with_files(bench.files(&many)));
    let (mut from, mut rows, mut pages) = (Place::default(), Vec::new(), 0);
    loop {
        let page = bench.reader.artifacts(TENANT, RunId(1), None, from, 50).await.unwrap().unwrap();
        let size: usize = page.artifacts.iter().map(|row| row.encoded_len()).sum();
        assert!(size <= 512 << 10, "{size}");
        rows.extend(page.artifacts);
        pages += 1;
        let Some(next) = page.next else { break };
        from = next;
    }
    assert!(pages >= 2, "{pages}");
    let published = |at: usize| (rows[at].task_id.as_str(), rows[at].published.as_str());
    assert_eq!((published(0), published(1)), (("a", ""), ("a", "emma/e.md")));
    let listed: Vec<_> = rows[2..].iter().map(|row| row.artifact.as_ref().unwrap().path.clone()).collect();
    assert_eq!(listed, paths, "each once, over the cuts of pages");

    let one = |name: &str| bench.reader.artifacts(TENANT, RunId(1), Some(name.into()), Place::default(), 50);
    assert_eq!(one("a").await.unwrap().unwrap().artifacts.len(), 2);
    assert_eq!(one("none").await.unwrap(), Some(ArtifactsPage::default()));
    assert_eq!(one("nobody").await.unwrap(), None);
    let first = bench.reader.artifacts(TENANT, RunId(1), None, Place::default(), 1).await.unwrap().unwrap();
    assert_eq!((first.artifacts.len(), first.next), (2, Some(Place { task: 3, file: 0 })));
}

#[tokio::test]
async fn a_sweep_takes_nothing_that_a_kept_run_names_and_everything_once_it_is_gone() {
    let bench = ResultBench::new();
    let store: Arc<dyn Store> = bench.store.clone();
    bench.run(1, vec![spec("a", &[]), spec("b", &[])]);
    let blob = |bytes: &str| bulk::reference(&bench.blobs.put(T, bytes.as_bytes()).unwrap());
    let result = ResultRecord {
        answer: bench.long("answer"),
        structured: bench.long("{}"),
        feedback: bench.long("feedback"),
        gates: Some(blob("gates")),
        artifacts: Some(bench.files(&[("a", "file a"), ("b", "file b")])),
        ..Default::default()
    };
    bench.task(key(1, 0), &succeeded(result.clone()));
    let orphan = blob("nobody's");
    let pool = BlockingPool::default();
    let later = SystemTime::now() + SWEEP_MIN_AGE + Duration::from_hours(1);
    let swept = references::sweep(Arc::clone(&store), bench.blobs.clone(), &pool, later).await.unwrap();
    assert_eq!(swept.files, 1);
    let gone = bulk::read(&*bench.blobs, T, &orphan, 100).unwrap_err();
    assert!(matches!(gone, BulkError::Blob(BlobError::NotFound { .. })));
    let manifest = result.artifacts.and_then(|artifacts| artifacts.manifest).unwrap();
    for artifact in manifest::open(&*bench.blobs, T, &manifest).unwrap().artifacts {
        bulk::read(&*bench.blobs, T, &artifact.blob.unwrap(), 100).unwrap();
    }
    // The index of results keeps no bytes.
    let entry = record::CacheEntry {
        task: Some(v1::TaskId { run_id: 1, task_index: 0 }),
        attempt: 1,
        ..Default::default()
    };
    bench.put(Key::cache(T, &[1; 32]), record::CacheRecord { entries: vec![entry] }.encode_to_vec());
    let ops = vec![Op::Delete { key: Key::task(T, 1, 0) }];
    store.commit(Batch { expect_epoch: 0, ops }).unwrap();
    let swept = references::sweep(store, bench.blobs.clone(), &pool, later).await.unwrap();
    assert_eq!(swept.files, 7);
}
