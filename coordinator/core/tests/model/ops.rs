//! What can happen, as small random values. Numbers pick among what exists and are taken modulo its size.

use crate::shapes::{Parts, any_parts};
use orch_core::event::{NewTask, OnLoss};
use orch_core::time::Span;
use proptest::collection::vec;
use proptest::prelude::*;

/// One thing that happens.
#[derive(Debug, Clone)]
pub enum Op {
    Submit {
        tasks: Vec<Task>,
        parts: Parts,
        request: u8,
    },
    /// `twin` is another process with the same identity.
    Join {
        agent: u8,
        slots: u8,
        capabilities: u8,
        honest: bool,
        new_process: bool,
        twin: bool,
    },
    /// The stream ends and nobody notices at the other end: messages on it are lost.
    Cut {
        agent: u8,
    },
    /// The end of any stream there ever was is noticed.
    SessionEnded {
        session: u8,
    },
    Drain {
        agent: u8,
    },
    Heartbeat {
        agent: u8,
        forgets: bool,
    },
    Accept {
        agent: u8,
        pick: u8,
    },
    Reject {
        agent: u8,
        pick: u8,
    },
    /// An agent gives back what it was asked for.
    GiveBack {
        agent: u8,
    },
    /// An attempt ends; its report gets through, or not, or its answer does not.
    Report {
        agent: u8,
        pick: u8,
        outcome: u8,
        retry_after: Option<u16>,
        lost: Lost,
    },
    /// An agent joins if it is away, and ends everything it has, with this outcome.
    Work {
        agent: u8,
        outcome: u8,
    },
    /// Something is said of an attempt that was anybody's once, or never.
    Slander {
        agent: u8,
        pick: u8,
        invented: bool,
        kind: u8,
        digest: u8,
    },
    Pass {
        millis: u32,
    },
    /// Time passes while the coordinator is stopped.
    Stall {
        millis: u32,
    },
    Cancel {
        run: u8,
        task: Option<u8>,
    },
    /// Request ids from 4 on are none. `from` goes back to a task.
    Retry {
        run: u8,
        task: Option<u8>,
        force: bool,
        from: bool,
        dead: bool,
        request: u8,
    },
    /// An operator drains, resumes, labels or forgets an agent that may not be known.
    Order {
        agent: u8,
        kind: u8,
    },
    Explain {
        run: u8,
        task: u8,
    },
    /// The coordinator is killed and loads what it wrote. `live` keeps finished runs with their tasks.
    Restart {
        live: bool,
    },
    /// A director answers a question, or one that is no longer asked.
    Consult {
        pick: u8,
        word: u8,
        stale: bool,
        tasks: Vec<Task>,
        flaw: u8,
    },
    /// A person answers a plan.
    Decide {
        run: u8,
        approve: bool,
        tasks: Vec<Task>,
        flaw: u8,
    },
    /// A finished run is read back.
    Recall {
        run: u8,
    },
    /// An agent or an operator says something of limits.
    Limit {
        agent: u8,
        kind: u8,
        number: u16,
    },
    /// The beginning of an attempt is in the cache.
    Warmed {
        agent: u8,
        pick: u8,
    },
    DrainStarted,
}

/// What is lost of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    Nothing,
    Report,
    Answer,
}

/// One task of a submit.
#[derive(Debug, Clone)]
pub struct Task {
    /// Bits of the tasks before it that it waits for.
    pub after: u8,
    pub priority: i32,
    pub retries: u8,
    pub kind: u8,
    pub wait: bool,
    pub end: bool,
    pub conditional: bool,
    pub reviewed: bool,
    pub repairs: u8,
}

pub fn plain(after: u8) -> Task {
    let (end, conditional, reviewed) = (false, false, false);
    Task { after, priority: 50, retries: 2, kind: 0, wait: false, end, conditional, reviewed, repairs: 0 }
}

/// What tasks may need, and whether they are pinned or may be held ahead.
const KINDS: [(&str, Option<&str>, u32); 6] = [
    ("", None, 0),
    ("runner=noop", None, 2),
    ("gpu=yes", None, 0),
    ("runner=claude", None, 0),
    ("", Some("agent-1"), 0),
    ("gpu=yes runner=claude", None, 0),
];

/// What agents may offer.
pub const OFFERS: [&str; 4] =
    ["gpu=yes runner=claude runner=noop", "runner=claude runner=noop", "gpu=yes", "disk=big runner=noop"];

/// What operators may say of labels, in the words of the support.
pub const LABELS: [&str; 6] = ["gpu=yes", "gpu", "!", "gpu=no", "disk=big gpu", "! gpu=yes"];

impl Task {
    pub fn task(&self, index: usize) -> NewTask {
        let (requires, pinned, prefetch) = KINDS[usize::from(self.kind) % KINDS.len()];
        NewTask {
            id: format!("t{index}").into(),
            worker: "noop".into(),
            dependencies: Vec::new(),
            priority: self.priority,
            timeout: Span::seconds(120),
            retries: u32::from(self.retries),
            requires: requires.split_whitespace().map(Into::into).collect(),
            pinned: pinned.map(Into::into),
            on_loss: if self.wait { OnLoss::Wait } else { OnLoss::Fast },
            prefetch,
            flow: orch_core::event::Flow::default(),
            meter: crate::limits::meter(self.kind),
            expected_micro_usd: None,
        }
    }
}

fn any_task() -> impl Strategy<Value = Task> {
    let rarely = prop::bool::weighted;
    let flow = (rarely(0.2), rarely(0.15), rarely(0.25), 0..3u8);
    let priority = prop::sample::select(vec![10, 50, 50, 60, 100]);
    (any::<u8>(), priority, 0..4u8, 0..12u8, any::<bool>(), flow).prop_map(
        |(after, priority, retries, kind, wait, (end, conditional, reviewed, repairs))| {
            // Half of the tasks are of the plain kind, so that queues grow.
            let (after, kind) = (after & 0b101, kind.saturating_sub(6));
            Task { after, priority, retries, kind, wait, end, conditional, reviewed, repairs }
        },
    )
}

fn any_outcome() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(1u8), 2 => Just(14), 4 => Just(15), 1 => Just(16), 3 => Just(6), 1 => Just(11), 2 => Just(2), 1 => Just(17), 1 => 0..30u8]
}

pub fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![20 => agents(), 35 => attempts(), 12 => limits(), 24 => clients(), 16 => directors(), 4 => coordinator()]
}

fn agents() -> impl Strategy<Value = Op> {
    let agent = || 0..3u8;
    let rarely = prop::bool::weighted;
    prop_oneof![
        5 => (agent(), 0..4u8, any::<u8>(), rarely(0.8), rarely(0.3), rarely(0.2)).prop_map(
            |(agent, slots, capabilities, honest, new_process, twin)| {
                Op::Join { agent, slots, capabilities, honest, new_process, twin }
            }
        ),
        1 => agent().prop_map(|agent| Op::Cut { agent }),
        2 => any::<u8>().prop_map(|session| Op::SessionEnded { session }),
        1 => agent().prop_map(|agent| Op::Drain { agent }),
        6 => (agent(), rarely(0.1)).prop_map(|(agent, forgets)| Op::Heartbeat { agent, forgets }),
    ]
}

fn attempts() -> impl Strategy<Value = Op> {
    let agent = || 0..3u8;
    let ended = prop_oneof![8 => Just(1u8), 1 => Just(2), 1 => Just(11)];
    let lost = prop_oneof![4 => Just(Lost::Nothing), 1 => Just(Lost::Report), 1 => Just(Lost::Answer)];
    prop_oneof![
        8 => (agent(), any::<u8>()).prop_map(|(agent, pick)| Op::Accept { agent, pick }),
        1 => (agent(), any::<u8>()).prop_map(|(agent, pick)| Op::Reject { agent, pick }),
        2 => agent().prop_map(|agent| Op::GiveBack { agent }),
        14 => (agent(), ended).prop_map(|(agent, outcome)| Op::Work { agent, outcome }),
        12 => (agent(), any::<u8>(), any_outcome(), proptest::option::weighted(0.2, 0..40_000u16), lost).prop_map(
            |(agent, pick, outcome, retry_after, lost)| Op::Report { agent, pick, outcome, retry_after, lost }
        ),
        5 => (agent(), any::<u8>(), prop::bool::weighted(0.2), 0..5u8, 0..3u8).prop_map(
            |(agent, pick, invented, kind, digest)| Op::Slander { agent, pick, invented, kind, digest }
        ),
    ]
}

fn limits() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0..3u8, 0..12u8, any::<u16>()).prop_map(|(agent, kind, number)| Op::Limit { agent, kind, number }),
        1 => (0..3u8, any::<u8>()).prop_map(|(agent, pick)| Op::Warmed { agent, pick }),
    ]
}

fn clients() -> impl Strategy<Value = Op> {
    let pick = any::<u8>;
    let task = || proptest::option::of(0..7u8);
    prop_oneof![
        6 => (vec(any_task(), 1..5), any_parts(), 0..12u8)
            .prop_map(|(tasks, parts, request)| Op::Submit { tasks, parts, request }),
        6 => prop_oneof![3 => 0..6_000u32, 2 => 0..40_000u32, 1 => 0..1_500_000u32]
            .prop_map(|millis| Op::Pass { millis }),
        1 => (0..1_500_000u32).prop_map(|millis| Op::Stall { millis }),
        2 => (pick(), task()).prop_map(|(run, task)| Op::Cancel { run, task }),
        5 => (pick(), task(), any::<bool>(), any::<bool>(), prop::bool::weighted(0.2), 0..8u8).prop_map(
            |(run, task, force, from, dead, request)| Op::Retry { run, task, force, from, dead, request }
        ),
        3 => (0..4u8, any::<u8>()).prop_map(|(agent, kind)| Op::Order { agent, kind }),
        1 => (pick(), 0..5u8).prop_map(|(run, task)| Op::Explain { run, task }),
    ]
}

fn directors() -> impl Strategy<Value = Op> {
    let tasks = || vec(any_task(), 1..4);
    let pick = any::<u8>;
    prop_oneof![
        5 => (pick(), pick(), prop::bool::weighted(0.1), tasks(), 0..12u8)
            .prop_map(|(pick, word, stale, tasks, flaw)| Op::Consult { pick, word, stale, tasks, flaw }),
        1 => (pick(), prop::bool::weighted(0.7), tasks(), 0..12u8)
            .prop_map(|(run, approve, tasks, flaw)| Op::Decide { run, approve, tasks, flaw }),
    ]
}

fn coordinator() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any::<bool>().prop_map(|live| Op::Restart { live }),
        4 => any::<u8>().prop_map(|run| Op::Recall { run }),
        1 => Just(Op::DrainStarted),
    ]
}
