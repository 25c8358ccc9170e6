//! What the daemon does about what a coordinator says, without a coordinator: frames go in, frames come out.

mod stopping;

use super::*;
use crate::daemon::phase::Ways;
use crate::runner::{AttemptLink, AttemptSpec, Renewal, RunFuture, Runner, Work};
use crate::session::dial::{Dial, Dialling};
use crate::session::link::Bulk;
use crate::spool::memory::{MemoryDisk, MemorySpool};
use crate::supervisor::stop::StopCause;
use orch_proto::v1::agent_item::Item as Said;
use orch_proto::v1::blob_service_client::BlobServiceClient;
use orch_proto::v1::coordinator_item::Item;
use orch_proto::v1::transcript_service_client::TranscriptServiceClient;
use tonic::transport::Endpoint;

const EPOCH: u64 = 5;

/// Does what its program is called: `wait` until it is stopped, or `panic`.
#[derive(Debug)]
struct Actor;

impl Runner for Actor {
    fn name(&self) -> &'static str {
        "command"
    }

    fn run(&self, spec: AttemptSpec, mut link: AttemptLink) -> RunFuture<'_> {
        Box::pin(async move {
            let Work::Command(command) = spec.work else { panic!("not a command") };
            assert_eq!(command.program, "wait", "told to panic");
            let cause = link.stop.wait_for(Option::is_some).await.unwrap().unwrap();
            AttemptReport::stopped(cause)
        })
    }
}

/// Reaches nobody.
#[derive(Debug)]
struct Nowhere;

impl Dial for Nowhere {
    fn dial(&self, _uri: http::Uri) -> Dialling {
        Box::pin(std::future::pending())
    }
}

struct Bench {
    daemon: Daemon,
    data: tempfile::TempDir,
    disk: MemoryDisk,
}

impl Bench {
    fn new() -> Self {
        Self::with(None)
    }

    fn with(claude: Option<Arc<dyn Runner>>) -> Self {
        let (data, disk) = (tempfile::tempdir().unwrap(), MemoryDisk::default());
        let daemon = Daemon::new(Parts {
            identity: Identity { name: "box-1".to_owned(), incarnation: [1; 16], host: "host".to_owned() },
            offer: Offer { slots: 2, ..Offer::default() },
            coordinators: Coordinators::new(&["https://nowhere:1".to_owned()], Arc::new(Nowhere)).unwrap(),
            runners: Runners::new(claude, Some(Arc::new(Actor))),
            pools: Pools::default(),
            homes: Arc::new(Homes::open(data.path()).unwrap()),
            spool: Box::new(MemorySpool::open(disk.clone())),
            host: HostProbe::new(data.path().to_owned()),
            limits: Broker::default(),
            status: StatusFile::new(None, "box-1"),
            seed: 1,
        });
        Self { daemon, data, disk }
    }

    /// One that was welcomed.
    fn welcomed() -> Self {
        let mut bench = Self::new();
        bench.says([Item::Welcome(welcome(EPOCH, b"a"))]).unwrap();
        bench
    }

    fn says(&mut self, items: impl IntoIterator<Item = Item>) -> Result<(), Leave> {
        let items = items.into_iter().map(|item| v1::CoordinatorItem { item: Some(item) });
        let taken = self.daemon.take_frame(Some(ways()), v1::CoordinatorMessage { items: items.collect() });
        if taken.is_ok() {
            self.daemon.start_waiting();
        }
        taken
    }

    fn said(&mut self) -> Vec<Said> {
        let mut said = Vec::new();
        while self.daemon.outbox.has_items() {
            said.extend(self.daemon.outbox.frame().items.into_iter().filter_map(|item| item.item));
        }
        said
    }

    /// What is said after these items, in words.
    fn answer(&mut self, items: impl IntoIterator<Item = Item>) -> Vec<String> {
        self.says(items).unwrap();
        self.words()
    }

    fn words(&mut self) -> Vec<String> {
        let task = |id: Option<v1::AttemptId>| id.unwrap().task_index;
        let word = |said| match said {
            Said::Accepted(accepted) => format!("accepted {}", task(accepted.attempt)),
            Said::Rejected(rejected) => format!("rejected {}: {}", task(rejected.attempt), rejected.reason),
            Said::Report(report) => format!("report {} {}", task(report.attempt), report.outcome().word()),
            Said::Draining(_) => "draining".to_owned(),
            Said::Heartbeat(_) => "heartbeat".to_owned(),
            Said::Hello(_) => "hello".to_owned(),
            Said::Facts(_) => "facts".to_owned(),
            Said::Limits(_) => "limits".to_owned(),
            Said::LimitSignal(_) => "limit signal".to_owned(),
            Said::Spending(_) => "spending".to_owned(),
            Said::Warmed(_) => "warmed".to_owned(),
        };
        self.said().into_iter().map(word).collect()
    }

    /// Waits for the end of an attempt.
    async fn attempt_ends(&mut self) {
        let done = self.daemon.running.join_next().await.unwrap();
        self.daemon.attempt_done(done);
    }

    /// The session breaks off and another begins.
    fn reconnects(&mut self, welcome: v1::Welcome) -> Vec<String> {
        let phase = Phase::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO)));
        self.daemon.session_down(&phase, Leave::Lost("cut".to_owned()));
        self.answer([Item::Welcome(welcome)])
    }
}

fn ways() -> Ways {
    let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let bulk = Bulk {
        blobs: BlobServiceClient::new(channel.clone()),
        transcripts: TranscriptServiceClient::new(channel),
    };
    Ways { outbound: mpsc::channel(1).0, bulk }
}

fn welcome(epoch: u64, cluster: &[u8]) -> v1::Welcome {
    v1::Welcome { epoch, cluster_id: cluster.to_vec(), ..v1::Welcome::default() }
}

fn id(task: u32) -> Option<v1::AttemptId> {
    Some(v1::AttemptId { run_id: 7, task_index: task, attempt: 1 })
}

fn assign(task: u32, runner: v1::assignment::Runner, epoch: u64) -> Item {
    Item::Assign(v1::Assignment {
        attempt: id(task),
        runner: Some(runner),
        epoch,
        ..v1::Assignment::default()
    })
}

fn command(task: u32, program: &str) -> Item {
    let command = v1::CommandTask { program: program.to_owned(), args: Vec::new() };
    assign(task, v1::assignment::Runner::Command(command), EPOCH)
}

fn noop(task: u32) -> Item {
    assign(task, v1::assignment::Runner::Noop(v1::NoopTask {}), EPOCH)
}

fn cancel(task: u32) -> Item {
    Item::Stop(v1::StopAttempt { attempt: id(task), reason: v1::StopReason::Cancelled.into() })
}

fn verdict(task: u32, result: v1::ReportResult) -> Item {
    Item::ReportVerdict(v1::ReportVerdict { attempt: id(task), result: result.into() })
}

#[tokio::test]
async fn a_noop_is_accepted_and_reported_in_one_go() {
    let mut bench = Bench::welcomed();
    assert_eq!(bench.answer([noop(1), noop(2)]), ["accepted 1", "report 1 ok", "accepted 2", "report 2 ok"]);
    assert_eq!(bench.answer([noop(1)]), ["report 1 ok"], "a repeated one is answered from what is held");
}

#[tokio::test]
async fn a_repeated_assignment_of_what_runs_is_accepted_again_even_while_stopping() {
    let mut bench = Bench::welcomed();
    assert_eq!(bench.answer([command(1, "wait"), command(1, "wait")]), ["accepted 1", "accepted 1"]);
    bench.daemon.obey(Order::End);
    assert_eq!(
        bench.answer([command(1, "wait"), command(2, "wait")]),
        ["draining", "accepted 1", "rejected 2: the agent is stopping"]
    );
}

#[tokio::test]
async fn what_a_lower_epoch_says_is_not_obeyed() {
    let mut bench = Bench::welcomed();
    let former = assign(1, v1::assignment::Runner::Noop(v1::NoopTask {}), EPOCH - 1);
    assert_eq!(bench.answer([former]), [""; 0]);
    let phase = Phase::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO)));
    bench.daemon.session_down(&phase, Leave::Lost("cut".to_owned()));
    let refused = bench.says([Item::Welcome(welcome(EPOCH - 1, b"a"))]);
    assert_eq!(refused, Err(Leave::Lost("a coordinator of the past answered".to_owned())));
    assert!(bench.daemon.outbound.is_none(), "nothing is said to it");
    bench.says([Item::Welcome(welcome(EPOCH - 1, b"another cluster"))]).unwrap();
}

#[tokio::test]
async fn assignments_that_make_no_sense_or_cannot_run_here_are_rejected() {
    let mut bench = Bench::welcomed();
    let empty = Item::Assign(v1::Assignment { attempt: id(1), epoch: EPOCH, ..v1::Assignment::default() });
    let claude = assign(2, v1::assignment::Runner::Claude(v1::ClaudeAssignment::default()), EPOCH);
    assert_eq!(
        bench.answer([empty, claude]),
        ["rejected 1: the assignment has no usable runner", "rejected 2: this agent has no claude CLI"]
    );
}

#[tokio::test]
async fn an_attempt_that_waits_is_cancelled_at_once_and_one_that_runs_when_it_has_ended() {
    let mut bench = Bench::welcomed();
    let mut answer = bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    answer.extend(bench.answer([cancel(3), cancel(1)]));
    assert_eq!(answer, ["accepted 1", "accepted 2", "accepted 3", "report 3 cancelled"]);
    bench.attempt_ends().await;
    assert_eq!(bench.words(), ["report 1 cancelled"]);
}

#[tokio::test]
async fn what_a_heartbeat_answer_calls_unknown_is_ended() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    let unknown = [1, 3].into_iter().filter_map(id).collect();
    let ack = Item::HeartbeatAck(v1::HeartbeatAck { seq: 0, unknown });
    assert_eq!(bench.answer([ack]), ["report 3 cancelled"], "one that waits is reported at once");
    bench.attempt_ends().await;
    assert_eq!(bench.words(), ["report 1 cancelled"]);
}

#[tokio::test]
async fn a_runner_that_panics_is_a_report_and_frees_its_slot() {
    let mut bench = Bench::welcomed();
    bench.answer([command(1, "panic")]);
    assert_eq!(bench.daemon.table.free_slots(), 1);
    bench.attempt_ends().await;
    assert_eq!(bench.words(), ["report 1 crash"]);
    assert_eq!(bench.daemon.table.free_slots(), 2);
}

#[tokio::test]
async fn reports_are_sent_again_after_a_cut_until_they_are_answered() {
    let mut bench = Bench::welcomed();
    bench.answer([noop(1), noop(2), noop(3), command(4, "wait")]);
    let answers = [v1::ReportResult::Recorded, v1::ReportResult::Unspecified, v1::ReportResult::Fenced];
    bench.answer([verdict(1, answers[0]), verdict(2, answers[1]), verdict(3, answers[2])]);
    assert_eq!(bench.reconnects(welcome(EPOCH, b"a")), ["report 2 ok"]);
    bench.answer([verdict(2, v1::ReportResult::Conflict)]);
    assert_eq!(bench.reconnects(welcome(EPOCH + 1, b"a")), [""; 0]);
    let held: Vec<_> = bench.daemon.table.inventory().iter().map(|item| item.attempt).collect();
    assert_eq!(held, [id(4)], "what runs goes on through all of it");
}

#[tokio::test]
async fn a_verdict_ends_what_is_no_longer_ours_and_every_report_is_sent() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    bench.answer([noop(4)]);
    let no_longer = |task| v1::InventoryVerdict { attempt: id(task), verdict: v1::Verdict::Cancel.into() };
    let verdicts = [1, 3, 4].map(no_longer).to_vec();
    let welcome = v1::Welcome { verdicts, ..welcome(EPOCH, b"a") };
    assert_eq!(bench.reconnects(welcome), ["report 3 cancelled", "report 4 ok"]);
    bench.attempt_ends().await;
    assert_eq!(bench.words(), ["report 1 cancelled"]);
}

#[tokio::test]
async fn another_cluster_gets_nothing_of_the_former_ones_and_its_work_only_when_that_has_ended() {
    let mut bench = Bench::welcomed();
    bench.answer([command(1, "wait"), noop(2)]);
    let homes = Arc::clone(&bench.daemon.homes);
    for task in [1, 2, 3] {
        homes.conversation(ConversationKey { run: 7, task }).unwrap();
    }
    assert_eq!(bench.reconnects(welcome(1, b"b")), [""; 0]);
    assert_eq!(
        homes.kept().unwrap(),
        [ConversationKey { run: 7, task: 1 }],
        "only what still runs has a place"
    );
    let again = assign(1, v1::assignment::Runner::Noop(v1::NoopTask {}), 1);
    assert_eq!(
        bench.answer([again.clone()]),
        ["rejected 1: the agent is still ending what another cluster gave it"]
    );
    // Somebody still worked in a conversation that is not his own when the other cluster came.
    homes.conversation(ConversationKey { run: 3, task: 9 }).unwrap();
    bench.attempt_ends().await;
    assert_eq!(bench.words(), [""; 0], "nobody is owed that report");
    assert!(homes.kept().unwrap().is_empty());
    assert_eq!(bench.answer([again]), ["accepted 1", "report 1 ok"]);
    drop(bench.data);
}

#[tokio::test]
async fn renewals_count_from_when_the_heartbeat_was_sent() {
    let mut bench = Bench::new();
    let stop_after = prost_types::Duration { seconds: 9, nanos: 0 };
    bench
        .says([Item::Welcome(v1::Welcome { stop_after: Some(stop_after), ..welcome(EPOCH, b"a") })])
        .unwrap();
    bench.answer([command(1, "wait")]);
    bench.daemon.heartbeats = VecDeque::from([(3, BootMillis(30)), (5, BootMillis(50)), (6, BootMillis(60))]);
    let ack = |seq| Item::HeartbeatAck(v1::HeartbeatAck { seq, unknown: Vec::new() });
    let key = AttemptKey { run: 7, task: 1, attempt: 1 };
    let renewed = |bench: &Bench| bench.daemon.table.renewal(key).map(|renewal| renewal.sent);
    bench.answer([ack(2)]);
    assert_eq!(renewed(&bench), None, "an answer to a heartbeat nobody remembers renews nothing");
    bench.answer([ack(4)]);
    assert_eq!(renewed(&bench), Some(BootMillis(30)), "the last one before it counts");
    bench.answer([ack(5)]);
    assert_eq!(renewed(&bench), Some(BootMillis(50)));
    assert_eq!(bench.daemon.heartbeats, [(6, BootMillis(60))]);
}

#[tokio::test]
async fn an_attempt_that_welcome_keeps_is_renewed_as_of_hello() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2].map(|task| command(task, "wait")));
    let key = |task| AttemptKey { run: 7, task, attempt: 1 };
    let renewed = |bench: &Bench, task| bench.daemon.table.renewal(key(task));
    bench.daemon.hello_at = BootMillis(70);
    let kept = v1::InventoryVerdict { attempt: id(1), verdict: v1::Verdict::Keep.into() };
    let stop_after = Some(prost_types::Duration { seconds: 9, nanos: 0 });
    bench.reconnects(v1::Welcome { verdicts: vec![kept], stop_after, ..welcome(EPOCH, b"a") });
    let renewal = Renewal { sent: BootMillis(70), stop_after: Duration::from_secs(9) };
    assert_eq!((renewed(&bench, 1), renewed(&bench, 2)), (Some(renewal), None));
    let before = BootMillis::now();
    let _opening = bench.daemon.dial();
    assert!(bench.daemon.hello_at >= before, "each Hello counts from when it is made");
}

#[tokio::test]
async fn a_coordinator_that_answers_no_heartbeat_for_long_is_left() {
    let mut bench = Bench::new();
    let every = |nanos| Some(prost_types::Duration { seconds: 0, nanos });
    let quick = v1::Welcome { heartbeat_interval: every(400_000_000), ..welcome(EPOCH, b"a") };
    bench.says([Item::Welcome(quick)]).unwrap();
    for _ in 0..=UNANSWERED_HEARTBEATS {
        assert_eq!(bench.daemon.is_unheard(), None);
        bench.daemon.send_heartbeat();
    }
    assert_eq!(bench.daemon.is_unheard(), None, "they followed each other quickly");
    let ago = |ms| BootMillis(BootMillis::now().0 - ms);
    bench.daemon.heartbeats[0].1 = ago(1_100);
    assert_eq!(bench.daemon.is_unheard(), None, "not yet three intervals");
    bench.daemon.heartbeats[0].1 = ago(1_200);
    assert_eq!(bench.daemon.is_unheard(), Some("the coordinator answers no heartbeat"));
    let last = bench.daemon.heartbeats.pop_back();
    assert_eq!(bench.daemon.is_unheard(), None, "the agent itself was away");
    bench.daemon.heartbeats.extend(last);
    bench.daemon.heartbeat = heartbeat_every(SHORTEST_HEARTBEAT);
    bench.daemon.heartbeats[0].1 = ago(500);
    assert_eq!(bench.daemon.is_unheard(), None, "a busy host is late by that much");
    bench.daemon.heartbeats[0].1 = BootMillis(0);
    for _ in 0..2 * HEARTBEATS_KEPT {
        bench.daemon.send_heartbeat();
    }
    assert_eq!(
        (bench.daemon.heartbeats.len(), bench.daemon.heartbeats[0].1),
        (HEARTBEATS_KEPT, BootMillis(0))
    );
    assert_eq!(bench.words(), ["heartbeat"], "only the latest waits to be sent");
}

#[tokio::test]
async fn a_coordinator_begins_with_welcome_and_says_it_once() {
    let lost = |why: &str| Err(Leave::Lost(why.to_owned()));
    assert_eq!(Bench::new().says([noop(1)]), lost("the coordinator did not begin with Welcome"));
    let again = Bench::welcomed().says([Item::Welcome(welcome(EPOCH, b"a"))]);
    assert_eq!(again, lost("the coordinator said Welcome twice"));
}

#[tokio::test]
async fn going_away_leaves_with_the_spread_that_was_named() {
    let mut bench = Bench::welcomed();
    let spread = prost_types::Duration { seconds: 30, nanos: 0 };
    let bye = v1::GoAway { spread: Some(spread), reason: "restart".to_owned() };
    let left = bench.says([noop(1), Item::GoAway(bye), noop(2)]);
    assert_eq!(left, Err(Leave::SentAway { why: "restart".to_owned(), spread: Duration::from_secs(30) }));
    assert_eq!(
        bench.words(),
        ["accepted 1", "report 1 ok"],
        "what came before is carried out, what follows is not"
    );
    let bare = bench.says([Item::GoAway(v1::GoAway::default())]);
    assert!(matches!(bare, Err(Leave::SentAway { .. })));
}

#[tokio::test]
async fn nothing_begins_without_a_session() {
    let mut bench = Bench::welcomed();
    bench.answer([1, 2, 3].map(|task| command(task, "wait")));
    let phase = Phase::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO)));
    bench.daemon.session_down(&phase, Leave::Lost("cut".to_owned()));
    bench.daemon.table.stop(AttemptKey { run: 7, task: 1, attempt: 1 }, StopCause::Cancelled);
    bench.attempt_ends().await;
    bench.daemon.start_waiting();
    assert_eq!((bench.daemon.table.free_slots(), bench.daemon.running.len()), (1, 1));
    bench.says([Item::Welcome(welcome(EPOCH, b"a"))]).unwrap();
    assert_eq!(bench.daemon.running.len(), 2);
}

#[tokio::test]
async fn hello_names_what_is_held_and_the_latest_conversations() {
    let mut bench = Bench::welcomed();
    bench.answer([noop(1)]);
    for task in [1, 2] {
        bench.daemon.homes.conversation(ConversationKey { run: 7, task }).unwrap();
    }
    let Some(Said::Hello(hello)) = bench.daemon.hello().items.remove(0).item else { panic!("no Hello") };
    assert_eq!((hello.epoch_seen, hello.agent.as_str(), hello.slots), (EPOCH, "box-1", 2));
    assert_eq!(
        hello.inventory,
        [v1::InventoryItem { attempt: id(1), state: v1::HeldState::Finished.into() }]
    );
    assert_eq!(hello.conversations.iter().map(|kept| kept.task_index).collect::<Vec<_>>(), [2, 1]);
}

#[tokio::test]
async fn a_prompt_that_cannot_be_fetched_yet_is_waited_for_and_a_stop_ends_the_wait() {
    let mut bench = Bench::with(Some(Arc::new(Actor)));
    bench.says([Item::Welcome(welcome(EPOCH, b"a"))]).unwrap();
    let worker = Some(v1::BlobRef { digest: vec![1], size: 1, ..v1::BlobRef::default() });
    let claude = v1::ClaudeAssignment { worker, ..v1::ClaudeAssignment::default() };
    let answer = bench.answer([assign(1, v1::assignment::Runner::Claude(claude), EPOCH)]);
    assert_eq!(answer, ["accepted 1"]);
    // The connection of this bench leads nowhere, so the first try fails at once.
    let early = tokio::time::timeout(Duration::from_millis(200), bench.daemon.running.join_next()).await;
    assert!(early.is_err(), "it was given up: {early:?}");
    bench.answer([cancel(1)]);
    bench.attempt_ends().await;
    assert_eq!(bench.words(), ["report 1 cancelled"]);
}

#[tokio::test]
async fn an_agent_with_work_hurries_back_unless_it_was_sent_away() {
    let mut bench = Bench::welcomed();
    let phase = || Phase::Waiting(Box::pin(tokio::time::sleep(Duration::ZERO)));
    let leave = |bench: &mut Bench, leave| {
        bench.daemon.session_down(&phase(), leave);
        bench.daemon.policy.holding
    };
    let cut = || Leave::Lost("cut".to_owned());
    assert!(!leave(&mut bench, cut()), "nothing is held");
    bench.says([Item::Welcome(welcome(EPOCH, b"a")), noop(1)]).unwrap();
    assert!(leave(&mut bench, cut()), "a result that is not recorded is work as well");
    let away = Leave::SentAway { why: String::new(), spread: Duration::from_secs(1) };
    assert!(!leave(&mut bench, away));
    assert!(!leave(&mut bench, cut()), "it has not been welcomed since");
    bench.says([Item::Welcome(welcome(EPOCH, b"a"))]).unwrap();
    assert!(leave(&mut bench, cut()));
}
