//! How an agent ends, drains, leaves and gives back: what it still says, and when it is done.

use super::*;

#[tokio::test]
async fn a_stopping_agent_is_done_when_all_is_answered_or_nobody_listens() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    bench.daemon.obey(Order::End);
    assert_eq!(bench.words(), ["draining", "report 3 lost_agent"], "also what had not begun is reported");
    for _ in 0..2 {
        assert!(!bench.daemon.is_done(), "children are still there");
        bench.attempt_ends().await;
    }
    bench.daemon.outbox.drop_transcripts();
    assert_eq!(bench.words().len(), 2);
    assert!(!bench.daemon.is_done(), "no report is answered");
    let ending = bench.daemon.stopping.replace(Stopping::Ending(tokio::time::Instant::now()));
    assert!(bench.daemon.is_done(), "but that is not waited for for ever");
    bench.daemon.stopping = ending;
    let phase = Phase::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO)));
    bench.daemon.session_down(&phase, Leave::Lost("cut".to_owned()));
    assert!(bench.daemon.is_done(), "reports are kept for the next start");
    let answer = bench.answer([Item::Welcome(welcome(EPOCH, b"a"))]);
    assert_eq!(answer, ["draining", "report 1 lost_agent", "report 2 lost_agent", "report 3 lost_agent"]);
    bench.answer([1, 2, 3].map(|task| verdict(task, v1::ReportResult::Recorded)));
    assert!(bench.daemon.is_done());
}

fn revoke(task: u32) -> Item {
    let reason = v1::StopReason::Revoked.into();
    Item::Stop(v1::StopAttempt { attempt: id(task), reason })
}

#[tokio::test]
async fn a_revoked_attempt_is_given_back_unless_it_has_begun() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    let answer = bench.answer([revoke(1), revoke(3), revoke(3), revoke(9)]);
    assert_eq!(answer, ["rejected 3: revoked"]);
    assert_eq!((bench.daemon.running.len(), bench.daemon.table.len()), (2, 2), "what runs goes on");
}

#[tokio::test]
async fn a_draining_agent_finishes_what_runs_gives_back_what_waits_and_never_turns_back() {
    let mut bench = Bench::new();
    bench.says([Item::Welcome(v1::Welcome { protocol: 2, ..welcome(EPOCH, b"a") })]).unwrap();
    bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    bench.daemon.obey(Order::Drain { within: Duration::from_secs(60) });
    assert_eq!(bench.words(), ["draining", "rejected 3: the agent is draining"]);
    assert_eq!(bench.answer([noop(4)]), ["rejected 4: the agent is stopping"]);
    bench.daemon.obey(Order::Leave);
    assert!(!bench.daemon.is_done() && matches!(bench.daemon.stopping, Some(Stopping::Draining(_))));
    bench.daemon.send_heartbeat();
    assert_eq!(bench.words(), ["heartbeat"], "to the end");
    bench.daemon.stopping = Some(Stopping::Draining(tokio::time::Instant::now()));
    assert!(!bench.daemon.is_done() && matches!(bench.daemon.stopping, Some(Stopping::Ending(_))));
    for _ in 0..2 {
        bench.attempt_ends().await;
    }
    assert_eq!(
        bench.words(),
        ["report 1 lost_agent", "report 2 lost_agent"],
        "what was not finished in time"
    );
}

#[tokio::test]
async fn an_agent_that_leaves_says_nothing_and_is_done_at_once() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2].map(|task| command(task, "wait")));
    bench.daemon.obey(Order::Leave);
    assert!(bench.daemon.is_done() && bench.words().is_empty());
    bench.daemon.obey(Order::End);
    assert_eq!(bench.daemon.stopping, Some(Stopping::Leaving));
    // One ends while it leaves.
    bench.daemon.table.stop(AttemptKey { run: 7, task: 1, attempt: 1 }, StopCause::Cancelled);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let phase = Phase::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO)));
    bench.daemon.depart(phase).await.unwrap();
    let kept: Vec<_> = bench.disk.inventory().held().values().map(|held| held.phase).collect();
    assert_eq!(
        kept,
        [crate::spool::Phase::Finished, crate::spool::Phase::Accepted],
        "what has ended is not begun again"
    );
}
