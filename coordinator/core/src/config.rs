//! Every interval and limit the core decides by, with the defaults of the product.
//! Knows no file and no flag: the driver fills it in.

use crate::outcome::OutcomeRules;
use crate::time::Span;

/// Intervals and limits. All fields may be changed before [`crate::state::State::new`]; none changes afterwards.
///
/// Deadlines of the session protocol are multiples of the heartbeat interval ([`Config::with_heartbeat`]), so that a
/// test with short heartbeats sees the same order of events in seconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Config {
    /// How often agents send heartbeats.
    pub heartbeat: Span,
    /// Silence after which an agent is shown as unreachable and gets no new work. 3 heartbeats.
    pub silence: Span,
    /// Time since an attempt was last heard of after which it is requeued when its task says `fast`. 5 heartbeats.
    pub requeue_fast: Span,
    /// The same when its task says `wait`. 120 heartbeats: longer than the agent's own `stop_after` of 96.
    pub lost_after: Span,
    /// What every lease gets after a start of the coordinator before anything is requeued. 24 heartbeats.
    pub start_grace: Span,
    /// What every lease gets beyond its deadline after the coordinator was stopped for a while. 3 heartbeats.
    pub stall_grace: Span,
    /// Time in which a grant must be accepted while its agent is connected. 6 heartbeats.
    pub accept_within: Span,
    /// How long an agent that rejected a task is avoided for tasks of the same class. 6 heartbeats.
    pub reject_pause: Span,
    /// How long a task waits for the agent that keeps its conversation before any agent will do. 6 heartbeats.
    pub affinity_wait: Span,
    /// Window in which displacements of one agent identity count as a clone, and for which both are then refused.
    /// 12 heartbeats.
    pub clone_window: Span,
    /// How far an attempt may pass its own time limit before it is taken for lost, although its agent lists it: the
    /// supervisor that should have ended it is wedged. 120 heartbeats.
    pub timeout_margin: Span,
    /// First delay before another attempt; doubled by each further failure.
    pub retry_base: Span,
    /// Longest delay of that doubling.
    pub retry_cap: Span,
    /// The same two after an outcome that counts as a crash.
    pub crash_base: Span,
    /// Longest delay of that doubling.
    pub crash_cap: Span,
    /// Longest `retry_after` of a report that is believed: beyond a weekly window it is a mistake.
    pub retry_after_cap: Span,
    /// Crashes on at least [`Config::poison_agents`] distinct agents that make a task poison.
    pub poison_crashes: u32,
    /// See [`Config::poison_crashes`].
    pub poison_agents: u32,
    /// Crashes that make a task poison wherever they were: a fleet of one agent never has two.
    pub poison_crashes_anywhere: u32,
    /// Of so many ended attempts of an agent, its latest, ...
    pub quarantine_window: usize,
    /// ... so many must have crashed for a quarantine, ...
    pub quarantine_crashes: usize,
    /// ... of so many different tasks, none of which crashed anywhere else.
    pub quarantine_tasks: usize,
    /// Waiting time that raises a task by one level ([`Config::ageing_step`]), up to `high`.
    pub ageing: Span,
    /// A level: the distance between `high` (100) and `medium` (50).
    pub ageing_step: u32,
    /// Priority above which ageing never lifts a task.
    pub ageing_ceiling: i32,
    /// Tasks that are not terminal, in all runs.
    pub max_tasks: usize,
    /// Those of one tenant: fewer, so that nobody can take the place of everybody.
    pub max_tenant_tasks: usize,
    /// Different requirement sets of tasks in the state.
    pub max_classes: usize,
    /// Agents known.
    pub max_agents: usize,
    /// Bytes of labels and hidden keys of one agent: they must fit its record.
    pub max_label_bytes: usize,
    /// Ended attempts kept a task, the latest.
    pub max_attempts_kept: usize,
    /// How long a finished run stays in the state.
    pub finished_stay: Span,
    /// Finished runs in the state; above it the oldest leave early.
    pub max_finished: usize,
    /// But none leaves earlier than this: its last record must have been encoded from the state.
    pub finished_stay_least: Span,
    /// How long a finished run is kept in the store.
    pub keep_runs: Span,
    /// How long a request id is remembered.
    pub keep_requests: Span,
    /// Keys that one event may ask the store to delete; a single larger run goes alone.
    pub forget_keys: u32,
    /// Pause between such events.
    pub forget_pause: Span,
    /// Decision columns of the outcome table.
    pub outcomes: OutcomeRules,
}

impl Config {
    /// The product's defaults, with the outcome table of the driver.
    #[must_use]
    pub fn new(outcomes: OutcomeRules) -> Self {
        Self {
            heartbeat: Span(0),
            silence: Span(0),
            requeue_fast: Span(0),
            lost_after: Span(0),
            start_grace: Span(0),
            stall_grace: Span(0),
            accept_within: Span(0),
            reject_pause: Span(0),
            affinity_wait: Span(0),
            clone_window: Span(0),
            timeout_margin: Span(0),
            retry_base: Span(0),
            retry_cap: Span(0),
            crash_base: Span(0),
            crash_cap: Span(0),
            retry_after_cap: Span::days(8),
            poison_crashes: 3,
            poison_agents: 2,
            poison_crashes_anywhere: 5,
            quarantine_window: 10,
            quarantine_crashes: 5,
            quarantine_tasks: 3,
            ageing: Span::minutes(10),
            ageing_step: 50,
            ageing_ceiling: 100,
            max_tasks: 1_000_000,
            max_tenant_tasks: 800_000,
            max_classes: 4_096,
            max_agents: 100_000,
            max_label_bytes: 1_024,
            max_attempts_kept: 16,
            finished_stay: Span::minutes(10),
            max_finished: 10_000,
            finished_stay_least: Span::seconds(10),
            keep_runs: Span::days(30),
            keep_requests: Span::days(7),
            forget_keys: 128,
            forget_pause: Span(20),
            outcomes,
        }
        .with_heartbeat(Span::seconds(5))
    }

    /// The same with another heartbeat interval, and every deadline of the session protocol and every retry delay
    /// in proportion. Limits, ageing and retention stay.
    #[must_use]
    pub fn with_heartbeat(mut self, heartbeat: Span) -> Self {
        let times = |n: u64| Span(heartbeat.0.saturating_mul(n));
        self.heartbeat = heartbeat;
        self.silence = times(3);
        self.requeue_fast = times(5);
        self.lost_after = times(120);
        self.start_grace = times(24);
        self.stall_grace = times(3);
        self.accept_within = times(6);
        self.reject_pause = times(6);
        self.affinity_wait = times(6);
        self.clone_window = times(12);
        self.timeout_margin = times(120);
        self.retry_base = times(1);
        self.retry_cap = times(60);
        self.crash_base = times(2);
        self.crash_cap = times(60);
        self
    }
}
