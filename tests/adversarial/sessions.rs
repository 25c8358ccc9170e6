//! Agents that say what makes no sense, by the words of the protocol. Rows 1 to 14 of the list, and 26.

use crate::siege::Siege;
use orch_certs::Role;
use orch_proto::codes::ErrorCode;
use orch_proto::v1::{self, agent_item::Item, coordinator_item};
use orch_tests::client::{channel, command, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::wire::{self, HandAgent, call, hello};
use prost::Message as _;
use tonic::Status;
use tonic::transport::Channel;

const SESSION: &str = "/orch.v1.AgentService/Session";

/// A task that only agents of this test can run, so that nothing else takes it.
fn work() -> v1::RunSpec {
    run(vec![command("t", "sleep", &["60"])])
}

fn id(run_id: u64, task_index: u32, attempt: u32) -> v1::AttemptId {
    v1::AttemptId { run_id, task_index, attempt }
}

fn report(attempt: Option<v1::AttemptId>, digest: u8) -> Item {
    Item::Report(v1::Report {
        attempt,
        outcome: v1::Outcome::Ok.into(),
        digest: vec![digest; 32],
        answer: Some(v1::Text { body: Some(v1::text::Body::Inline("done".into())) }),
        ..Default::default()
    })
}

fn accepted(attempt: Option<v1::AttemptId>) -> Item {
    Item::Accepted(v1::Accepted { attempt })
}

fn heartbeat(seq: u64, held: &[v1::AttemptId]) -> Item {
    let held = held.iter().map(|attempt| v1::HeldAttempt { attempt: Some(*attempt), ..Default::default() });
    Item::Heartbeat(v1::Heartbeat { seq, held: held.collect(), ..Default::default() })
}

/// What a report of `attempt` is answered with.
async fn verdict(
    agent: &mut HandAgent,
    attempt: Option<v1::AttemptId>,
    digest: u8,
) -> Result<v1::ReportResult, Status> {
    agent.say(report(attempt, digest)).await;
    agent
        .until(|item| {
            let coordinator_item::Item::ReportVerdict(verdict) = item else { return None };
            (verdict.attempt == attempt).then(|| verdict.result())
        })
        .await
}

/// A Hello of an agent that runs programs only: the bystander's work is not for it.
fn greeting(name: &str) -> v1::Hello {
    v1::Hello { runners: vec!["command".into()], capabilities: vec!["program=sleep".into()], ..hello(name) }
}

async fn join(fleet: &Fleet, name: &str) -> HandAgent {
    HandAgent::join(fleet, greeting(name)).await.expect("a session")
}

fn is_violation(status: &Status) {
    assert_eq!(wire::code(status), Some(ErrorCode::ProtocolViolation), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_proper_beginning_is_refused_with_the_reason() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let channel = channel(&fleet.ports().grpc, &fleet.certificate(Role::Agent, "box-1"));
    let attack = async {
        let status = refusal(channel.clone(), vec![]).await;
        is_violation(&status);
        assert!(status.message().contains("Hello"), "{status:?}");
        is_violation(&refusal(channel.clone(), vec![Vec::new()]).await);
        // An item of nothing, in front of whatever else.
        is_violation(&refusal(channel.clone(), vec![vec![0x0a, 0]]).await);
    };
    siege.borne("streams without a Hello", attack).await;
}

/// Why a session of these frames is refused.
async fn refusal(channel: Channel, frames: Vec<Vec<u8>>) -> Status {
    call(channel, SESSION, tokio_stream::iter(frames)).await.expect_err("no session")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_of_too_much_is_refused_and_the_largest_that_fits_is_borne() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let item = |run_id, state: v1::HeldState| v1::InventoryItem {
        attempt: Some(id(run_id, 0, 1)),
        state: state.into(),
    };
    let hundred_thousand =
        v1::Hello { inventory: vec![item(1, v1::HeldState::Running); 100_000], ..greeting("box-1") };
    assert!(hundred_thousand.encoded_len() < 1 << 20, "it must reach the handler");
    let most = v1::Hello {
        inventory: (0..20_000).map(|run| item(run, v1::HeldState::Finished)).collect(),
        conversations: vec![v1::KeptConversation { run_id: 7, task_index: 7 }; 80_000],
        ..greeting("box-2")
    };
    let attack = async {
        for _ in 0..3 {
            is_violation(&HandAgent::join(&fleet, hundred_thousand.clone()).await.expect_err("too much"));
        }
        let mut agent = HandAgent::join(&fleet, most).await.expect("a session");
        let verdicts = agent.until(verdicts).await.expect("a Welcome");
        assert_eq!(verdicts.len(), 20_000);
    };
    siege.borne("a Hello of too much", attack).await;
}

fn verdicts(item: &coordinator_item::Item) -> Option<Vec<v1::InventoryVerdict>> {
    let coordinator_item::Item::Welcome(welcome) = item else { return None };
    Some(welcome.verdicts.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inventory_with_the_attempts_of_another_takes_nothing_from_it() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let mut owner = join(&fleet, "box-1").await;
    let submitted = client.submit(work()).await;
    let mine = owner.assignment().await.expect("an assignment").attempt;
    owner.say(accepted(mine)).await;
    let running = client.task_in(&format!("{}/t", submitted.r#ref), v1::TaskState::Running).await;
    let attack = async {
        for state in [v1::HeldState::Accepted, v1::HeldState::Running, v1::HeldState::Finished] {
            let claim = v1::InventoryItem { attempt: mine, state: state.into() };
            let thief = v1::Hello { inventory: vec![claim], ..greeting("box-2") };
            let mut thief = HandAgent::join(&fleet, thief).await.expect("a session");
            let verdicts = thief.until(verdicts).await.expect("a Welcome");
            assert_eq!(verdicts[0].verdict(), v1::Verdict::Cancel, "{state:?}");
            let said = verdict(&mut thief, mine, 9).await.expect("a verdict");
            assert_eq!(said, v1::ReportResult::Fenced);
        }
        owner.say(heartbeat(1, &[mine.expect("named")])).await;
        assert_eq!(verdict(&mut owner, mine, 1).await.expect("a verdict"), v1::ReportResult::Recorded);
    };
    siege.borne("an inventory of another agent's attempts", attack).await;
    let task = client.tasks(&submitted.r#ref).await.remove(0);
    assert_eq!((task.attempt, task.agent.as_str()), (running.attempt, "box-1"), "{task:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reports_that_nobody_waits_for_are_fenced_and_impossible_ones_end_the_session() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let queued = client.submit(run(vec![worker("t", "anga", "waits for ever")])).await;
    let mut agent = join(&fleet, "box-1").await;
    let done = client.submit(work()).await;
    let finished = agent.assignment().await.expect("an assignment").attempt;
    assert_eq!(verdict(&mut agent, finished, 1).await.expect("a verdict"), v1::ReportResult::Recorded);
    let cancelled = client.submit(work()).await;
    let stopped = agent.assignment().await.expect("an assignment").attempt;
    agent.say(accepted(stopped)).await;
    client
        .runs
        .cancel_run(v1::CancelRunRequest { r#ref: cancelled.r#ref.clone(), ..Default::default() })
        .await
        .expect("cancelled");
    let attack = async {
        let (run, task) = (done.run_id, 0);
        for (what, attempt, digest, expected) in [
            ("an unknown run", id(u64::MAX, 0, 1), 1, v1::ReportResult::Fenced),
            ("an unknown task", id(run, u32::MAX, 1), 1, v1::ReportResult::Fenced),
            ("a queued task", id(queued.run_id, 0, 1), 1, v1::ReportResult::Fenced),
            ("a later attempt", id(run, task, 2), 1, v1::ReportResult::Fenced),
            ("the last attempt there can be", id(run, task, u32::MAX), 1, v1::ReportResult::Fenced),
            ("the same again", finished.expect("named"), 1, v1::ReportResult::Recorded),
            ("the same with another digest", finished.expect("named"), 2, v1::ReportResult::Conflict),
            ("a cancelled task", stopped.expect("named"), 1, v1::ReportResult::Fenced),
        ] {
            let said = verdict(&mut agent, Some(attempt), digest).await.expect("a verdict");
            assert_eq!(said, expected, "{what}");
        }
        // An attempt of number 0 does not exist; whoever names it does not speak the protocol.
        for (at, item) in
            [report(Some(id(run, 0, 0)), 1), accepted(Some(id(run, 0, 0))), accepted(None), report(None, 1)]
                .into_iter()
                .enumerate()
        {
            let mut liar = join(&fleet, &format!("liar-{at}")).await;
            liar.say(item).await;
            is_violation(&liar.end().await);
        }
        let nothing = v1::InventoryItem { attempt: Some(id(run, 0, 0)), state: 1 };
        let hello = v1::Hello { inventory: vec![nothing], ..greeting("liar-9") };
        is_violation(&HandAgent::join(&fleet, hello).await.expect_err("an attempt of number 0"));
    };
    siege.borne("reports nobody waits for", attack).await;
    let task = client.tasks(&done.r#ref).await.remove(0);
    assert_eq!((task.attempt, task.attempts.len()), (1, 1), "{task:?}");
    let task = client.tasks(&queued.r#ref).await.remove(0);
    assert_eq!((task.state(), task.attempt), (v1::TaskState::Queued, 0), "{task:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_twice_late_or_only_by_its_report_is_one_attempt() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let mut agent = join(&fleet, "box-1").await;
    let attack = async {
        // A report before any acceptance.
        let first = client.submit(work()).await;
        let attempt = agent.assignment().await.expect("an assignment").attempt;
        assert_eq!(verdict(&mut agent, attempt, 1).await.expect("a verdict"), v1::ReportResult::Recorded);
        // Accepted after that, and again, and what was never given.
        for late in [attempt, attempt, Some(id(77, 0, 1))] {
            agent.say(accepted(late)).await;
        }
        // Accepted again and again.
        let second = client.submit(work()).await;
        let attempt = agent.assignment().await.expect("an assignment").attempt;
        for _ in 0..100 {
            agent.say(accepted(attempt)).await;
        }
        assert_eq!(verdict(&mut agent, attempt, 2).await.expect("a verdict"), v1::ReportResult::Recorded);
        for run in [first, second] {
            let task = client.tasks(&run.r#ref).await.remove(0);
            assert_eq!((task.state(), task.attempt), (v1::TaskState::Succeeded, 1), "{task:?}");
        }
    };
    siege.borne("acceptances out of order", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_heartbeat_and_a_report_after_the_lease_ended_are_told_so() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let mut client = fleet.client().await;
    let mut agent = join(&fleet, "box-1").await;
    let mut spec = work();
    spec.tasks[0].on_loss = v1::OnLoss::Fast.into();
    let submitted = client.submit(spec).await;
    let lost = agent.assignment().await.expect("an assignment").attempt;
    agent.say(accepted(lost)).await;
    let attack = async {
        // Silent until its lease is over; the stream stays.
        let task = format!("{}/t", submitted.r#ref);
        client.task_in(&task, v1::TaskState::Queued).await;
        agent.say(heartbeat(1, &[lost.expect("named")])).await;
        // It is told so, and given the next attempt, in whatever order.
        let (mut told, mut next) = (Vec::new(), None);
        let both = |item: &coordinator_item::Item| {
            match item {
                coordinator_item::Item::HeartbeatAck(ack) => told.extend(ack.unknown.iter().copied()),
                coordinator_item::Item::Assign(assignment) => next = assignment.attempt,
                coordinator_item::Item::Welcome(_)
                | coordinator_item::Item::Stop(_)
                | coordinator_item::Item::ReportVerdict(_)
                | coordinator_item::Item::LimitGrant(_)
                | coordinator_item::Item::PoolNotice(_)
                | coordinator_item::Item::Allowance(_)
                | coordinator_item::Item::GoAway(_) => {}
            }
            (!told.is_empty()).then_some(()).and(next)
        };
        let again = agent.until(both).await.ok();
        assert_eq!(told, [lost.expect("named")]);
        assert_eq!(verdict(&mut agent, lost, 1).await.expect("a verdict"), v1::ReportResult::Fenced);
        assert_eq!(again.map(|id| id.attempt), Some(2));
        // The earlier one while the later one runs: numbers that fall.
        assert_eq!(verdict(&mut agent, lost, 1).await.expect("a verdict"), v1::ReportResult::Fenced);
        assert_eq!(verdict(&mut agent, again, 2).await.expect("a verdict"), v1::ReportResult::Recorded);
        let task = client.tasks(&submitted.r#ref).await.remove(0);
        assert_eq!((task.state(), task.attempt), (v1::TaskState::Succeeded, 2), "{task:?}");
    };
    siege.borne("words after the lease ended", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_certificate_on_two_hosts_is_found_out_and_harms_nobody_else() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let attack = async {
        let mut refused = None;
        let mut last: Option<HandAgent> = None;
        for round in 0..8_u8 {
            let hello = v1::Hello { incarnation: vec![round % 2; 16], ..greeting("twin") };
            match HandAgent::join(&fleet, hello).await {
                Ok(mut agent) => match agent.until(verdicts).await {
                    Ok(_) => drop(last.replace(agent)),
                    Err(status) => {
                        refused = Some(status);
                        break;
                    }
                },
                Err(status) => {
                    refused = Some(status);
                    break;
                }
            }
        }
        let refused = refused.expect("both are refused in the end");
        assert_eq!(wire::code(&refused), Some(ErrorCode::Superseded), "{refused:?}");
        assert!(refused.message().contains("certificate"), "it says why: {refused:?}");
        join(&fleet, "box-1").await;
    };
    siege.borne("one certificate on two hosts", attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn epochs_and_protocols_of_other_times_are_taken_for_what_they_are() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let attack = async {
        // An agent that saw a later epoch, as after a restored copy: it is for the agent to refuse the coordinator.
        for epoch_seen in [0, 1, u64::MAX] {
            let hello = v1::Hello { epoch_seen, ..greeting("box-1") };
            let mut agent = HandAgent::join(&fleet, hello).await.expect("a session");
            agent.until(verdicts).await.expect("a Welcome");
        }
        for (protocol_min, protocol_max) in
            [(0, 0), (1_000, 1_001), (2, 1), (u32::MAX, u32::MAX), (u32::MAX, 0)]
        {
            let hello = v1::Hello { protocol_min, protocol_max, ..greeting("box-2") };
            let status = HandAgent::join(&fleet, hello).await.expect_err("no protocol in common");
            assert_eq!(wire::code(&status), Some(ErrorCode::ProtocolMismatch), "{status:?}");
        }
        // From before the first to after the last: what both speak is spoken.
        let hello = v1::Hello { protocol_min: 0, protocol_max: u32::MAX, ..greeting("box-3") };
        let mut agent = HandAgent::join(&fleet, hello).await.expect("a session");
        agent.until(verdicts).await.expect("a Welcome");
    };
    siege.borne("epochs and protocols of other times", attack).await;
}

fn of_pool(name: &str) -> v1::Hello {
    let pool = v1::Pool { name: "main".into(), gateway: true, ..v1::Pool::default() };
    v1::Hello { protocol_max: orch_proto::PROTOCOL_MAX, pools: vec![pool], ..greeting(name) }
}

fn credit(pool: &str, worker: &str, amount: u64) -> Item {
    let amounts = Some(v1::Amounts {
        requests: amount,
        input_tokens: amount,
        output_tokens: amount,
        concurrent: amount,
    });
    let meter = v1::MeterId { pool: pool.into(), model_class: "opus".into(), worker: worker.into() };
    Item::Limits(v1::LimitReport {
        meter: Some(meter),
        granted: amounts,
        used: amounts,
        returned: amounts,
        wanted: amounts,
        ..v1::LimitReport::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lies_about_limits_and_money_is_cut_off_or_gains_nothing() {
    let mut fleet = Fleet::start(orch_tests::binaries!());
    let siege = Siege::lay(&mut fleet).await;
    let attempt = Some(id(1, 0, 1));
    let attack = async {
        let lies = [
            credit("main", "marie", u64::MAX),
            credit("somebody-elses", "marie", 1),
            credit("main", "\u{1b}[31m", 1),
            Item::Limits(v1::LimitReport::default()),
            Item::LimitSignal(v1::LimitSignal { pool: "*".into(), ..v1::LimitSignal::default() }),
            Item::Spending(v1::Spending { attempt, wanted_micro_usd: u64::MAX, ..v1::Spending::default() }),
            Item::Spending(v1::Spending::default()),
            Item::Warmed(v1::Warmed { attempt: None }),
        ];
        for lie in lies {
            let mut liar = HandAgent::join(&fleet, of_pool("box-1")).await.expect("a session");
            liar.say(lie).await;
            is_violation(&liar.end().await);
        }
        // More meters than any agent can have.
        let mut many = HandAgent::join(&fleet, of_pool("box-1")).await.expect("a session");
        for at in 0..2_000 {
            many.say(credit("main", &format!("w{at}"), 1)).await;
        }
        is_violation(&many.end().await);
        // What is possible and not true: more used and given back than was ever lent, of attempts of nobody.
        let mut bold = HandAgent::join(&fleet, of_pool("box-1")).await.expect("a session");
        for round in 1..200 {
            bold.say(credit("main", "marie", round << 40)).await;
            bold.say(Item::Spending(v1::Spending { attempt, spent_micro_usd: round, ..Default::default() }))
                .await;
            bold.say(Item::Warmed(v1::Warmed { attempt })).await;
        }
        bold.say(heartbeat(7, &[])).await;
        let answered =
            bold.until(|item| matches!(item, coordinator_item::Item::HeartbeatAck(_)).then_some(()));
        answered.await.expect("it is still heard");
        // Whoever agreed on an older protocol has no word for any of it.
        let older = v1::Hello { protocol_max: 2, ..of_pool("box-2") };
        let mut older = HandAgent::join(&fleet, older).await.expect("a session");
        older.say(credit("main", "marie", 1)).await;
        is_violation(&older.end().await);
    };
    Box::pin(siege.borne("lies about limits and money", attack)).await;
}
