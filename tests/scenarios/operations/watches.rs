//! A watch tells everything once, over restarts too, and ends with the first end of its run.

use orch_proto::v1::{self, RunState, WatchEvent, watch_event::Change};
use orch_tests::client::{Client, after, command, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wait::{PATIENCE, until_async};
use tonic::Code;

fn request(run_ref: &str, from_seq: u64) -> v1::WatchRunsRequest {
    v1::WatchRunsRequest { r#ref: run_ref.into(), from_seq, until_terminal: true, with_activity: false }
}

/// What a watch tells, from a sequence on: the events, what to ask for next, and whether it ended in order.
async fn watch(client: &mut Client, run_ref: &str, from_seq: u64) -> (Vec<WatchEvent>, u64, bool) {
    let told = tokio::time::timeout(PATIENCE, watch_to_its_end(client, run_ref, from_seq));
    told.await.expect("the watch ends with its run")
}

async fn watch_to_its_end(client: &mut Client, run_ref: &str, from_seq: u64) -> (Vec<WatchEvent>, u64, bool) {
    let mut stream = client.runs.watch_runs(request(run_ref, from_seq)).await.expect("a watch").into_inner();
    let (mut events, mut next) = (Vec::new(), from_seq);
    loop {
        match stream.message().await {
            Ok(Some(frame)) => {
                events.extend(frame.events);
                next = frame.next_seq.max(next);
            }
            Ok(None) => return (events, next, true),
            Err(_) => return (events, next, false),
        }
    }
}

fn ends(events: &[WatchEvent]) -> usize {
    let over = |event: &&WatchEvent| {
        let Some(Change::Run(run)) = &event.change else { return false };
        matches!(run.state(), RunState::Succeeded | RunState::Failed | RunState::Cancelled)
    };
    events.iter().filter(over).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_after_a_kill_without_gap_or_repetition() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--slots", "1"]);
    let mut client = fleet.client().await;
    let step = |name: &str| worker(name, "anga", "[[sleep {\"ms\":300}]] [[text {\"text\":\"done\"}]]");
    let chain = vec![step("a"), after(step("b"), &["a"]), after(step("c"), &["b"]), after(step("d"), &["c"])];
    let submitted = client.submit(run(chain)).await;
    let run_ref = submitted.r#ref.clone();

    // Until the first task has ended, then the coordinator is gone.
    let mut stream = client.runs.watch_runs(request(&run_ref, 1)).await.expect("a watch").into_inner();
    let (mut told, mut next) = (Vec::new(), 0);
    while !told.iter().any(|event| matches!(event, WatchEvent { change: Some(Change::Task(task)), .. } if task.state() == v1::TaskState::Succeeded)) {
        let frame = stream.message().await.expect("a frame").expect("the watch goes on");
        next = frame.next_seq;
        told.extend(frame.events);
    }
    fleet.kill_coordinator();
    // What was under way when it died was durable before it was sent, and counts.
    while let Ok(Some(frame)) = stream.message().await {
        next = frame.next_seq;
        told.extend(frame.events);
    }
    fleet.start_coordinator();

    let mut client = fleet.client().await;
    let (rest, next, in_order) = watch(&mut client, &run_ref, next).await;
    assert!(in_order && ends(&rest) == 1, "{rest:?}");
    told.extend(rest);
    let (all, _, _) = watch(&mut client, &run_ref, 1).await;
    assert_eq!(told, all);
    assert!(all.windows(2).all(|pair| pair[0].seq < pair[1].seq));

    let (nothing, _, in_order) = watch(&mut client, &run_ref, next).await;
    assert!(nothing.is_empty() && in_order, "a run that has ended ends its watch at once: {nothing:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_at_the_first_end_of_its_run_and_another_follows_the_retry() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--allow-command", "false"]);
    let mut client = fleet.client().await;
    let mut fails = command("t", "false", &[]);
    fails.retries = Some(0);
    let submitted = client.submit(run(vec![fails])).await;
    let run_ref = submitted.r#ref.clone();
    client.finished(&run_ref).await;
    let retry = v1::RetryRunRequest { r#ref: run_ref.clone(), ..Default::default() };
    client.runs.retry_run(retry).await.expect("tried again");
    until_async("the second end", || {
        let (mut client, run_ref) = (client.clone(), run_ref.clone());
        async move {
            let task = client.tasks(&run_ref).await.pop()?;
            (task.attempt == 2 && task.state() == v1::TaskState::Failed).then_some(())
        }
    })
    .await;

    let (first, next, in_order) = watch(&mut client, &run_ref, 1).await;
    assert!(in_order && ends(&first) >= 1, "{first:?}");
    let (second, _, in_order) = watch(&mut client, &run_ref, next).await;
    assert!(in_order);
    let mut told = first;
    told.extend(second);
    assert_eq!(ends(&told), 2, "{told:?}");
    let seqs: Vec<_> = told.iter().map(|event| event.seq).collect();
    let mut sorted = seqs.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(seqs, sorted, "nothing twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_does_not_exist_gets_a_snapshot_and_the_right_one() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    fleet.agent("box-1", &["--allow-command", "true"]);
    let mut client = fleet.client().await;
    let submitted = client.submit(run(vec![command("t", "true", &[])])).await;
    client.finished(&submitted.r#ref).await;
    let mut stream =
        client.runs.watch_runs(request(&submitted.r#ref, 1_000_000)).await.expect("a watch").into_inner();
    let frame = stream.message().await.expect("a frame").expect("a snapshot");
    assert_eq!(frame.run.expect("the run").state(), RunState::Succeeded);
    assert!(frame.snapshot_complete && frame.tasks.len() == 1);
    let status = stream.message().await.expect_err("then the refusal");
    assert_eq!(status.code(), Code::OutOfRange);
    let (rest, _, in_order) = watch(&mut client, &submitted.r#ref, frame.next_seq).await;
    assert!(rest.is_empty() && in_order, "{rest:?}");
}
