//! The log over both of its halves: what is in memory and what is only in the store.

use super::*;
use crate::store::{Batch, MemoryStore};
use orch_core::effect::{Change, Notice};
use orch_core::ids::{EventSeq, RunId, TaskIndex, TaskKey, TenantId};
use orch_core::state::TaskState;
use orch_core::time::{Now, Span, Tick, Wall};
use prost::Message as _;

fn notice(seq: u64, detail: &str) -> Notice {
    let change = Change::Task {
        task: TaskKey { run: RunId(1), index: TaskIndex(0) },
        run_ref: Arc::from("adhoc/1"),
        task_id: Arc::from("task"),
        state: TaskState::Running,
        attempt: 1,
        agent: Arc::from("box-1"),
        outcome: None,
        detail: Arc::from(detail),
        cost_micro_usd: 0,
        execution_time: None,
        retry_at: None,
        waited: None,
    };
    let at = Now { tick: Tick(seq), wall: Wall(1_000) };
    Notice { seq: EventSeq(seq), tenant: TenantId(1), at, change }
}

/// A log and what is needed to write it as the engine does.
struct Bench {
    store: Arc<MemoryStore>,
    writer: EventWriter,
}

impl Bench {
    fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new()), LogExtent::default())
    }

    fn on(store: Arc<MemoryStore>, extent: LogExtent) -> Self {
        let writer = EventWriter::open(store.clone(), BlockingPool::default(), extent);
        Self { store, writer }
    }

    fn write(&mut self, seqs: impl IntoIterator<Item = u64>, tick: u64) -> Vec<Page> {
        let notices: Vec<_> = seqs.into_iter().map(|seq| notice(seq, "")).collect();
        let pages = page::pack(&notices, Tick(tick));
        let mut ops = Vec::new();
        for page in &pages {
            page.to_draft().fill(&*self.store, &mut ops).unwrap();
        }
        self.store.commit(Batch { expect_epoch: 0, ops }).unwrap();
        self.writer.publish(pages.clone());
        pages
    }

    fn source(&self) -> WatchSource {
        WatchSource::new(self.writer.log(), Activities::default())
    }
}

async fn read_to(subscription: &mut Subscription, newest: u64) -> Vec<u64> {
    let mut seqs = Vec::new();
    while seqs.last().is_none_or(|last| *last < newest) {
        let slice = subscription.next().await.unwrap();
        seqs.extend(slice.events().map(|(event, _)| event.seq));
        assert_eq!(slice.next_seq(), subscription.next_seq());
    }
    seqs
}

#[test]
fn pages_fit_their_value_and_come_back() {
    let long = "é".repeat(3_000);
    let notices: Vec<_> = (1..=500).map(|seq| notice(seq, if seq % 3 == 0 { &long } else { "" })).collect();
    let pages = page::pack(&notices, Tick(7));
    let mut expected = 1;
    for page in &pages {
        assert_eq!(page.first(), expected);
        expected = page.last() + 1;
        let draft = page.to_draft();
        let crate::persist::Draft::Whole { value, .. } = draft else { panic!("{draft:?}") };
        assert!(value.len() <= crate::store::MAX_VALUE_BYTES, "{}", value.len());
        assert_eq!(Page::decode(page.first(), &value).as_ref(), Ok(page));
        assert!(page.range().count() <= MAX_PAGE_EVENTS);
    }
    assert_eq!(expected, 501);
    assert_eq!(page::pack(&[], Tick(0)), []);
}

#[tokio::test]
async fn what_followed_meanwhile_is_there_at_once_and_nothing_comes_twice() {
    let mut bench = Bench::new();
    let mut subscription = bench.source().subscribe(1).unwrap();
    assert!(subscription.more().is_none(), "nothing happened yet");
    for start in (1..200).step_by(20) {
        bench.write(start..start + 20, 1);
    }
    let mut slices = vec![subscription.next().await.unwrap()];
    slices.extend(std::iter::from_fn(|| subscription.more()));
    let seqs = slices.iter().flat_map(|slice| slice.events().map(|(event, _)| event.seq));
    assert_eq!(seqs.collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert_eq!(subscription.next_seq(), 201);
    bench.write(201..=201, 1);
    assert_eq!(subscription.more().unwrap().next_seq(), 202);
}

#[tokio::test]
async fn an_encoded_page_is_what_was_wanted_of_it() {
    let mut bench = Bench::new();
    bench.write(1..=30, 1);
    let slice = bench.source().subscribe(4).unwrap().next().await.unwrap();
    for (step, pieces) in [(1, 1), (5, 6), (100, 0)] {
        let wanted = |event: &v1::WatchEvent, tenant| tenant == 1 && event.seq % step < step.min(4);
        let wanted = |event: &v1::WatchEvent, tenant| step < 100 && wanted(event, tenant);
        let mut encoded = Vec::new();
        slice.encoded(wanted, &mut encoded);
        assert_eq!(encoded.len(), pieces, "what follows each other is one piece");
        let frame = v1::WatchRunsResponse::decode(encoded.concat().as_slice()).unwrap();
        let expected = slice.events().filter(|(event, tenant)| wanted(event, *tenant));
        assert_eq!(frame.events, expected.map(|(event, _)| event.clone()).collect::<Vec<_>>());
    }
}

#[test]
fn a_page_under_another_key_or_cut_short_is_refused() {
    let pages = page::pack(&[notice(5, ""), notice(6, "")], Tick(7));
    let crate::persist::Draft::Whole { value, .. } = pages[0].to_draft() else { panic!() };
    assert_eq!(Page::decode(4, &value), Err(PageError::Malformed { first: 4 }));
    assert_eq!(Page::decode(5, &value[..value.len() - 1]), Err(PageError::Malformed { first: 5 }));
    assert_eq!(Page::decode(5, &[]), Err(PageError::Malformed { first: 5 }));
}

#[tokio::test]
async fn every_sequence_can_be_read_from_memory_and_from_the_store() {
    let mut bench = Bench::new();
    for start in (1..1_000).step_by(90) {
        bench.write(start..start + 90, 1);
    }
    let newest = bench.source().newest();
    let restarted = Bench::on(bench.store.clone(), LogExtent { oldest: 1, newest, bytes: 0, pages: 0 });
    for from in (1..=newest).step_by(7) {
        let all: Vec<_> = (from..=newest).collect();
        for source in [bench.source(), restarted.source()] {
            assert_eq!(read_to(&mut source.subscribe(from).unwrap(), newest).await, all, "from {from}");
        }
    }
}

#[tokio::test]
async fn a_reader_passes_from_the_store_to_memory_without_a_gap() {
    let mut before = Bench::new();
    before.write(1..=100, 1);
    let extent = before.writer.log().extent();
    let mut after = Bench::on(before.store.clone(), extent);
    let mut subscription = after.source().subscribe(1).unwrap();
    after.write(101..=300, 2);
    assert_eq!(read_to(&mut subscription, 300).await, (1..=300).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_reader_waits_for_what_is_not_durable_yet() {
    let mut bench = Bench::new();
    bench.write(1..=3, 1);
    let mut subscription = bench.source().subscribe(0).unwrap();
    let mut next = Box::pin(subscription.next());
    assert!(futures_util::poll!(&mut next).is_pending());
    bench.write([4], 1);
    let slice = next.await.unwrap();
    assert_eq!(slice.events().map(|(event, tenant)| (event.seq, tenant)).collect::<Vec<_>>(), [(4, 1)]);
}

#[tokio::test]
async fn numbers_that_are_skipped_are_passed_over() {
    let mut bench = Bench::new();
    bench.write(1..=3, 1);
    bench.write(1_000_003..=1_000_005, 1);
    for from in [2, 4, 500_000, 1_000_003] {
        let mut seqs = read_to(&mut bench.source().subscribe(from).unwrap(), 1_000_005).await;
        seqs.retain(|seq| *seq > 3);
        assert_eq!(seqs, [1_000_003, 1_000_004, 1_000_005], "from {from}");
    }
}

#[tokio::test]
async fn what_is_no_longer_kept_and_what_never_was_are_refused_with_the_bounds() {
    let mut bench = Bench::new();
    let pages = bench.write(1..=200, 1);
    let mut behind = bench.source().subscribe(1).unwrap();
    let oldest = pages[0].last() + 1;
    bench.writer.forget(&Trim { firsts: vec![1], bytes: pages[0].bytes() as u64, oldest });
    let refused = |from| bench.source().subscribe(from).map(|_| ()).unwrap_err().to_string();
    assert_eq!(refused(1), format!("events before {oldest} are no longer kept"));
    assert_eq!(refused(202), "the newest event is 200");
    assert!(bench.source().subscribe(201).is_ok());
    assert!(
        matches!(behind.next().await, Err(WatchError::Expired { .. })),
        "also when it was subscribed before"
    );
}

#[tokio::test]
async fn a_reader_learns_that_the_coordinator_stopped_after_the_last_event() {
    let mut bench = Bench::new();
    bench.write(1..=3, 1);
    let mut subscription = bench.source().subscribe(1).unwrap();
    drop(bench);
    assert_eq!(read_to(&mut subscription, 3).await, [1, 2, 3]);
    assert!(matches!(subscription.next().await, Err(WatchError::Stopped)));
}

#[tokio::test]
async fn old_pages_and_too_many_bytes_are_due_but_never_the_newest_page() {
    let mut bench = Bench::new();
    let first = bench.write(1..=100, 1_000);
    let second = bench.write(101..=200, 5_000);
    let log = bench.writer.log();
    let keep = |age, bytes| retention::EventRetention { age: Span(age), bytes };
    let due = async |keep, now| retention::due(&log, keep, Tick(now)).await.unwrap();
    assert_eq!(due(keep(10_000, 1 << 30), 6_000).await, None);
    let old = due(keep(3_000, 1 << 30), 6_000).await.unwrap();
    assert_eq!(old.oldest, 101);
    assert_eq!(old.firsts, first.iter().map(Page::first).collect::<Vec<_>>());
    let all = due(keep(0, 0), 60_000).await.unwrap();
    assert_eq!(all.oldest, second.last().unwrap().first(), "the newest page stays");
    let bytes = log.extent().bytes;
    let one = due(keep(1 << 40, bytes - 1), 6_000).await.unwrap();
    assert_eq!(one.firsts, [1], "only as much as is too much");
}
