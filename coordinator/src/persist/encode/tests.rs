//! The worst of each record, built and measured; and every record there and back.

use super::*;
use crate::persist::decode::{self, Interner};
use crate::persist::{MAX_LABELS_BYTES, MAX_PLANNING_BYTES};
use crate::store::{MemoryStore, Op};
use orch_core::budgets::{BudgetLimit, BudgetMode, OpenBill, Spent};
use orch_core::event::{FailurePolicy, Planning, Shape};
use orch_core::ids::{AttemptNo, RunId, TaskIndex, TaskKey, TenantId};
use orch_core::limits::LimitHit;
use orch_core::outcome::Outcome;
use orch_core::state::{RunState, TaskCounts, TaskState};
use orch_core::time::{Now, Tick, Wall};
use orch_core::usage::{ModelUsage, Usage};

const HUGE: u64 = u64::MAX;

/// A name as long as names get.
fn name(n: usize) -> Arc<str> {
    Arc::from(format!("{n:0>63}"))
}

fn huge_usage(models: usize) -> Usage {
    let row = |n| ModelUsage {
        model: Arc::from(format!("{n:0>200}")),
        input: HUGE,
        output: HUGE,
        cache_read: HUGE,
        cache_write: HUGE,
        cost_micro_usd: HUGE,
    };
    Usage { models: (0..models).map(row).collect(), cost_micro_usd: HUGE, estimated: true }
}

fn huge_attempts() -> Vec<EndedAttempt> {
    let attempt = |n: u32| EndedAttempt {
        number: AttemptNo(u32::MAX - 16 + n),
        agent: name(n as usize),
        started: Wall(i64::MAX),
        finished: Wall(i64::MAX),
        outcome: Outcome(20),
        detail: Arc::from("ß".repeat(2_000)),
        cost_micro_usd: HUGE,
        digest: Some([0xFF; 32]),
        awaits_bill: true,
        duration: None,
    };
    (0..16).map(attempt).collect()
}

/// One of as many open bills as a task has.
fn worst_open(n: u32) -> OpenBill {
    OpenBill {
        attempt: AttemptNo(u32::MAX - n),
        most: Spent { micro_usd: HUGE, tokens: HUGE, runs: 0 },
        pool: name(n as usize),
    }
}

/// The longest names that a request may give, and those of a workspace and a workflow.
fn worst_shape() -> Shape {
    let planning = record::PlanningRecord {
        approve: true,
        plan_only: true,
        max_tasks: u32::MAX,
        workers: (0..6).map(|n| format!("{n:0>62}")).collect(),
        expanded: false,
        workspace: "w".repeat(63),
    };
    assert!(planning.encoded_len() + 2 <= MAX_PLANNING_BYTES, "{} bytes", planning.encoded_len());
    Shape {
        policy: FailurePolicy::BestEffort,
        max_parallel: u32::MAX,
        planning: Some(Planning { approve: true, plan_only: true, expanded: true }),
        workflow: Some(name(4)),
        first_budget_micro_usd: Some(u64::MAX),
        budget: Some(BudgetLimit {
            micro_usd: Some(HUGE),
            tokens: Some(HUGE),
            runs: Some(HUGE),
            mode: BudgetMode::Drain,
        }),
        settings: planning.encode_to_vec().into(),
    }
}

struct Worst {
    name: Arc<str>,
    submitted_by: Arc<str>,
    request_id: Arc<str>,
    labels: Vec<(Arc<str>, Arc<str>)>,
    usage: Usage,
    attempts: Vec<EndedAttempt>,
    crashed_on: Vec<Arc<str>>,
    shape: Shape,
    /// That of a run of one task, which nobody planned.
    lone_shape: Shape,
    detail: Arc<str>,
    hit: LimitHit,
}

impl Worst {
    fn new() -> Self {
        let label = |n: usize| (Arc::from(format!("{n:0>48}")), Arc::from("v".repeat(24)));
        Self {
            name: name(1),
            submitted_by: Arc::from(format!("coordinator/{}/{}", name(2), name(3))),
            request_id: Arc::from("r".repeat(128)),
            hit: LimitHit { pool: name(5), window: "é".repeat(64).into(), exhausted: true },
            labels: (0..32).map(label).collect(),
            usage: huge_usage(50),
            attempts: huge_attempts(),
            crashed_on: (0..16).map(name).collect(),
            shape: worst_shape(),
            lone_shape: Shape { planning: None, ..worst_shape() },
            detail: Arc::from("ß".repeat(2_000)),
        }
    }

    fn run(&self, task_count: u32) -> RunRecordView<'_> {
        let moment = Now { tick: Tick(HUGE), wall: Wall(i64::MAX) };
        RunRecordView {
            id: RunId(HUGE),
            tenant: TenantId(1),
            name: &self.name,
            number: HUGE,
            submitted_by: &self.submitted_by,
            created: moment,
            state: RunState::Cancelled,
            finished: Some(moment),
            task_count,
            labels: &self.labels,
            request_id: &self.request_id,
            spec_digest: &[0xFF; 32],
            outcome: Some(Outcome(20)),
            usage: &self.usage,
            counts: TaskCounts::default(),
            shape: if task_count == 1 { &self.lone_shape } else { &self.shape },
            detail: &self.detail,
            dead: u32::MAX,
        }
    }

    fn task(&self, task_count: u32) -> TaskRecordView<'_> {
        TaskRecordView {
            key: TaskKey { run: RunId(HUGE), index: TaskIndex(0) },
            tenant: TenantId(1),
            task_count,
            task_id: &self.name,
            state: TaskState::Parked,
            attempt: AttemptNo(u32::MAX),
            agent: self.crashed_on.last(),
            granted: Some(Now { tick: Tick(HUGE), wall: Wall(i64::MAX) }),
            finished: Some(Wall(i64::MAX)),
            outcome: Some(Outcome(20)),
            crashes: u32::MAX,
            failures: u32::MAX,
            retry: Some(Tick(HUGE)),
            attempts: &self.attempts,
            usage: &self.usage,
            since: Tick(HUGE),
            crashed_on: &self.crashed_on,
            repairs: u32::MAX,
            afresh: AttemptNo(u32::MAX),
            note: Some(&self.detail),
            parked: Some(&self.hit),
            allowed: Spent { micro_usd: HUGE, tokens: HUGE, runs: 0 },
            pool: None,
            open: (1..5).map(worst_open).collect(),
        }
    }

    fn texts(&self) -> RunTexts<'_> {
        RunTexts {
            name: &self.name,
            submitted_by: &self.submitted_by,
            request_id: &self.request_id,
            labels: &self.labels,
        }
    }
}

fn values(draft: Draft) -> Vec<Vec<u8>> {
    let mut ops = Vec::new();
    draft.fill(&MemoryStore::new(), &mut ops).unwrap();
    let value = |op| match op {
        Op::Put { value, .. } => value,
        Op::Delete { .. } | Op::SetTick(_) => panic!("{op:?}"),
    };
    ops.into_iter().map(value).collect()
}

fn filler(bytes: usize) -> Part {
    Part::Given(Arc::from(vec![0; bytes]))
}

#[test]
fn the_worst_run_task_and_agent_fit_their_values() {
    let worst = Worst::new();
    assert!(worst.texts().labels_bytes() <= MAX_LABELS_BYTES);
    assert!(worst.texts().labels_bytes() > MAX_LABELS_BYTES - 100, "the worst labels that are taken");
    let page = filler(worst.texts().lone_page_bytes());
    assert!(worst.texts().lone_page_bytes() > 400, "a page that rests in a file needs less");
    let result = filler(MAX_RESULT_BYTES);
    let capabilities: Vec<Arc<str>> = (0..256).map(|n| Arc::from(format!("{n:0>320}"))).collect();
    let labels: Vec<Arc<str>> = (0..1_024 / 16).map(|n| Arc::from(format!("key-{n:0>6}=yes12"))).collect();
    let drain: Arc<str> = "w".repeat(1_200).into();
    let quarantine: Arc<str> = "q".repeat(300).into();
    let fleet = AgentRecordView {
        tenant: TenantId(1),
        name: &worst.name,
        slots: u32::MAX,
        capabilities: &capabilities,
        last_seen: Wall(i64::MAX),
        labels: &labels,
        hidden: &[],
        drain: Some(&drain),
        quarantine: Some(&quarantine),
    };
    for draft in [
        run(&worst.run(2)),
        task(&worst.task(2), result.clone()),
        lone_run(&worst.run(1), page, &worst.task(1), result),
        agent(&fleet).unwrap(),
    ] {
        for value in values(draft) {
            assert!(value.len() <= MAX_VALUE_BYTES, "{} bytes", value.len());
        }
    }
}

#[test]
fn what_decides_survives_when_room_is_short() {
    let worst = Worst::new();
    let stored = values(task(&worst.task(2), filler(MAX_RESULT_BYTES))).remove(0);
    let stored = record::TaskRecord::decode(&stored[..stored.len() - MAX_RESULT_BYTES - 3]).unwrap();
    let last = stored.attempts.last().unwrap();
    assert_eq!((last.number, last.digest.as_slice()), (u32::MAX - 1, &[0xFF; 32][..]));
    assert!(stored.crashed_on.len() >= 2);
    assert_eq!(stored.open.len(), 4, "what may have been spent decides too");
    assert_eq!((stored.crashes, stored.failures, stored.attempt), (u32::MAX, u32::MAX, u32::MAX));
    assert_eq!(stored.usage.unwrap().cost_micro_usd, HUGE);
}

#[test]
fn an_ordinary_task_keeps_everything_and_comes_back() {
    let mut worst = Worst::new();
    worst.usage = huge_usage(0);
    worst.usage.models.push(ModelUsage {
        model: Arc::from("claude-sonnet"),
        input: 1,
        output: 2,
        cache_read: 3,
        cache_write: 4,
        cost_micro_usd: 5,
    });
    worst.attempts.truncate(2);
    for attempt in &mut worst.attempts {
        attempt.detail = Arc::from("the child ended without a result");
    }
    worst.crashed_on.truncate(3);
    worst.detail = Arc::from("somebody cancelled it");
    let view = worst.task(2);
    let stored = values(task(&view, Part::Absent)).remove(0);
    let stored = record::TaskRecord::decode(stored.as_slice()).unwrap();
    let progress = decode::task_progress(&stored, &mut Interner::default()).unwrap();
    assert_eq!(progress, view.to_progress());
}

#[test]
fn a_run_comes_back() {
    let mut worst = Worst::new();
    worst.detail = Arc::from("2 of 5 tasks did not succeed: a, b");
    let view = worst.run(2);
    let stored = values(run(&view)).remove(0);
    let stored = record::RunRecord::decode(stored.as_slice()).unwrap();
    let back = decode::run(view.tenant, view.id, &stored, &mut Interner::default()).unwrap();
    assert_eq!((&back.name, back.number, back.state), (view.name, view.number, view.state));
    assert_eq!((back.created, back.finished), (view.created, view.finished));
    assert_eq!((back.labels.as_slice(), &back.request_id), (view.labels, view.request_id));
    assert_eq!((&back.shape, &back.detail), (view.shape, view.detail));
    assert_eq!((&back.spec_digest, back.outcome, back.task_count), (view.spec_digest, view.outcome, 2));
}
