//! What happened in one simulated run: events with their simulated times, in the order in which they happened. There is
//! one thread, so there is one order. The hash of it is what makes two runs the same.

use orch_agent::runner::AttemptKey;
use orch_proto::v1::{Outcome, RunState, TaskState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A task: number of its run, index.
pub(crate) type TaskKey = (u64, u32);

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client sends a submit; `other` is a different spec under the same id.
    Submitting { request: String, other: bool },
    /// A client was told that its submit is durable.
    Acknowledged { request: String, run: String },
    /// A client was refused.
    Refused { request: String, code: String },
    /// A client asks for a cancel or a retry.
    Steering { what: &'static str, run: String },
    /// It was answered.
    Steered { what: &'static str, run: String, count: u32 },
    /// A record of a run is durable.
    Run { number: u64, named: String, request: String, state: RunState },
    /// A record of a task is durable.
    Task { task: TaskKey, seen: Seen },
    /// An agent took an attempt over.
    Accepted { agent: String, key: AttemptKey },
    /// An agent started a child.
    Started { agent: String, key: AttemptKey, waits: bool },
    /// A child ended, in whatever way, its agent's death included.
    Ended { agent: String, key: AttemptKey, how: String },
    /// An agent owes a report.
    Finished { agent: String, key: AttemptKey, outcome: Outcome },
    /// The report was answered for good.
    Settled { agent: String, key: AttemptKey },
    /// A watcher was told an event of the log; `what` is a digest of it.
    Watched { watcher: String, seq: u64, what: u64 },
    /// A watcher comes back and asks from `seq` on.
    Watching { watcher: String, seq: u64 },
    /// A fault was injected, or its end.
    Fault { what: String },
    /// A process began or ended.
    Process { host: String, what: &'static str },
}

/// What a task's record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) state: TaskState,
    pub(crate) attempt: u32,
    pub(crate) agent: String,
    pub(crate) outcome: Outcome,
    pub(crate) attempts: Vec<Past>,
    /// The latest recorded answer; what is bulk is told by its digest.
    pub(crate) answer: String,
}

/// An ended attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Past {
    pub(crate) number: u32,
    pub(crate) agent: String,
    pub(crate) outcome: Outcome,
    /// Hexadecimal digest of the report that was recorded; empty without one.
    pub(crate) digest: String,
    pub(crate) awaits_bill: bool,
}

/// The trace of a run. Clones are the same trace.
#[derive(Debug, Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    now: Duration,
    events: Vec<(Duration, Event)>,
    hash: u64,
    shown: bool,
}

impl Trace {
    /// An empty trace; a shown one is printed as it grows.
    pub(crate) fn new(shown: bool) -> Self {
        let inner = Inner { now: Duration::ZERO, events: Vec::new(), hash: 0xcbf2_9ce4_8422_2325, shown };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// The time outside of every host.
    pub(crate) fn time_is(&self, now: Duration) {
        self.inner().now = now;
    }

    /// Simulated time.
    pub(crate) fn now(&self) -> Duration {
        turmoil::sim_elapsed().unwrap_or_else(|| self.inner().now)
    }

    /// Adds an event.
    #[expect(clippy::print_stdout, reason = "a trace that is shown")]
    pub(crate) fn note(&self, event: Event) {
        let now = self.now();
        let mut inner = self.inner();
        let line = format!("{:>9.3} {event:?}", now.as_secs_f64());
        for byte in line.bytes() {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if inner.shown {
            println!("{line}");
        }
        inner.events.push((now, event));
    }

    /// Adds a fault.
    pub(crate) fn fault(&self, what: impl Into<String>) {
        self.note(Event::Fault { what: what.into() });
    }

    /// Everything so far.
    pub(crate) fn events(&self) -> Vec<(Duration, Event)> {
        self.inner().events.clone()
    }

    /// Hash of everything so far.
    pub(crate) fn hash(&self) -> u64 {
        self.inner().hash
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
