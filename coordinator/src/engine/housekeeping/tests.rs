//! What goes when its time has come, and what does not.

use super::*;
use crate::blobs::{BlobError, BlobLocation, Blobs as _, Digest, SWEEP_MIN_AGE};
use crate::engine::tests::support::{Bench, TENANT, commands, eventually, noops};
use crate::events::WatchError;
use crate::store::Tenant;
use crate::submission::{CheckedContext, CheckedRun, CheckedRunner, CheckedWorkerTask, PinnedWorker};
use orch_core::ids::{TaskIndex, TaskKey};
use tokio::task::JoinSet;

#[tokio::test]
async fn old_events_are_deleted_with_small_batches_and_their_readers_told() {
    let bench = Bench::start().await;
    for _ in 0..300 {
        bench.submit(noops(1), "").await;
    }
    let before = bench.handle.watch().extent();
    assert!(before.pages >= 300);
    let keep = EventRetention { bytes: 1, ..EventRetention::default() };
    let mut rounds = 0;
    while trim(&bench.handle, keep).await.unwrap() {
        rounds += 1;
    }
    assert!(rounds >= 3, "{rounds}");
    assert!(bench.store.commits().iter().all(|keys| *keys <= 512));
    let after = bench.handle.watch().extent();
    assert_eq!((after.pages, after.newest, after.oldest > before.oldest), (1, before.newest, true));
    assert!(matches!(bench.handle.watch().subscribe(1), Err(WatchError::Expired { .. })));

    let bench = bench.crash_and_restart(0).await;
    let again = bench.handle.watch().extent();
    assert_eq!((again.oldest, again.newest, again.pages), (after.oldest, after.newest, 1));
}

#[tokio::test]
async fn figures_follow_the_state_and_the_keeper_ends_with_the_engine() {
    let bench = Bench::start().await;
    bench.submit(noops(7), "").await;
    let mut keeper = JoinSet::new();
    keeper.spawn(run(bench.handle.clone(), EventRetention::default(), ledger::KEEP));
    let metrics = bench.handle.metrics();
    let queued = || metrics.encode().unwrap().contains("orch_tasks{state=\"queued\"} 7");
    eventually("the queued tasks in the metrics", queued).await;
    bench.stop().await.unwrap();
    // Nothing but the keeper's own timers is left to wait for.
    tokio::time::pause();
    keeper.join_next().await.unwrap().unwrap();
}

/// A run for a worker, with a context file.
fn run_with_context() -> (CheckedRun, CheckedContext) {
    let file = orch_proto::v1::ContextFile { name: "terms.md".into(), text: "Say it so.".into() };
    let context = CheckedContext::check(vec![file]).unwrap().unwrap();
    let worker = PinnedWorker {
        name: "anga".into(),
        definition: Arc::from(&b"definition"[..]),
        digest: Digest::of(b"definition").0,
        model: "opus".into(),
        max_turns: 0,
        budget_micro_usd: None,
        timeout_ms: None,
        requires: std::collections::BTreeSet::new(),
        on_loss: orch_proto::v1::OnLoss::Fast,
    };
    let mut run = noops(1);
    run.context = Some(context.clone());
    run.tasks[0].runner = CheckedRunner::Worker(Box::new(CheckedWorkerTask {
        worker: Arc::new(worker),
        prompt: "go".into(),
        model: "opus".into(),
        output_schema: String::new(),
        budget_micro_usd: None,
        max_turns: 0,
        contract: false,
        continues: None,
    }));
    (run, context)
}

#[tokio::test]
async fn only_blobs_that_no_record_names_are_removed() {
    let bench = Bench::start().await;
    let mut kept = Vec::new();
    for (count, bytes) in [(1, 2_000), (1, 10_000), (70, 300), (40, 5_000)] {
        let (run, _) = bench.submit(commands(count, bytes), "").await;
        kept.push(run);
    }
    let blobs = Arc::clone(&bench.blobs.blobs);
    let (with_context, context) = run_with_context();
    bench.submit(with_context, "").await;
    let orphan = blobs.put(Tenant::DEFAULT, b"nobody names me").unwrap();
    let store: Arc<dyn crate::store::Store> = bench.store.clone();
    let pool = crate::engine::pool::BlockingPool::default();

    let young = references::sweep(Arc::clone(&store), blobs.clone(), &pool, SystemTime::now()).await.unwrap();
    assert_eq!(young.files, 0);
    let later = SystemTime::now() + SWEEP_MIN_AGE + Duration::from_secs(60);
    let old = references::sweep(store, blobs.clone(), &pool, later).await.unwrap();
    assert_eq!(old.files, 1);
    let gone = blobs.read(Tenant::DEFAULT, &orphan.location, 100);
    assert!(matches!(gone, Err(BlobError::NotFound { .. })));
    let kept_context = blobs.read(Tenant::DEFAULT, &BlobLocation::Blob(Digest(context.digest)), 1 << 20);
    assert_eq!(kept_context.unwrap(), context.text.as_bytes());

    let bench = bench.crash_and_restart(0).await;
    for run in kept {
        for index in 0..run.task_count {
            let task = TaskKey { run: run.id, index: TaskIndex(index) };
            bench.handle.spec_reader().dispatch_spec(TENANT, task).await.unwrap();
        }
    }
}
