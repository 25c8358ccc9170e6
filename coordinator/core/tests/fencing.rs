//! Results are recorded exactly once and only from the current attempt, whatever is lost, late, repeated or out of order.
//!
//! 1,000 tasks; `ORCH_TORTURE_TASKS=10000` for the long look, `ORCH_TORTURE_SEED` for another history.
#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect, and tells its figures; its budget is in the environment; the rest of an enumeration is one case"
)]

mod support;

use orch_core::effect::{Action, Effects, ReportResult, Verdict};
use orch_core::event::{AgentHello, Event, HeldAttempt, HeldState, InventoryItem, OnLoss, Report, Submit};
use orch_core::ids::{AttemptKey, Epoch, RunId, SessionId, TaskKey, Token};
use orch_core::outcome::Outcome;
use orch_core::state::{State, TaskState};
use orch_core::time::{Now, Span, Tick, Wall};
use orch_core::{Config, apply, check_invariants, next_deadline};
use std::collections::{BTreeMap, BTreeSet};
use support::{ONE, report, rules, tasks};

const AGENTS: usize = 4;
const SLOTS: u32 = 16;
/// Every so many events everything that must hold is looked at, which takes time for each task.
const CHECKS: u64 = 1_009;

/// What goes wrong, and how often it did.
#[derive(Debug, Default)]
struct Faults {
    /// Leases that were made to run out, while the agent went on with the attempt.
    expired: u64,
    /// Reports said once more, at another time.
    duplicated: u64,
    /// Reports held back until their lease was over.
    late: u64,
    /// Reports said before the attempt was accepted, or after younger ones.
    reordered: u64,
    /// Reports said again with another content.
    contradicting: u64,
    /// Reports of an attempt by an agent that never had it.
    foreign: u64,
    /// Answers that the agent did not get.
    unanswered: u64,
    /// Streams that ended and came back with an inventory.
    reconnected: u64,
}

/// Splitmix64: the same history for the same seed, on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, count: usize) -> usize {
        usize::try_from(self.roll() % count.max(1) as u64).expect("small")
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll() % 100 < chance
    }
}

/// An attempt as its agent has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Offered,
    Running,
    /// Listed no more, so that its lease runs out; its report is to come all the same.
    Cut,
    Reported,
}

struct Fleet {
    state: State,
    now: Now,
    dice: Dice,
    faults: Faults,
    sessions: Vec<SessionId>,
    next_session: u64,
    held: Vec<BTreeMap<AttemptKey, Stage>>,
    /// Reports that were said once and may be said again, by whom.
    said: Vec<(usize, Report)>,
    /// What the answers were: how often an attempt was recorded with which digest, and what was fenced.
    recorded: BTreeMap<AttemptKey, BTreeSet<[u8; 32]>>,
    /// The attempts of which a result was recorded, by task, as the answers say.
    recorded_of: BTreeMap<TaskKey, BTreeSet<AttemptKey>>,
    fenced: u64,
    conflicts: u64,
    events: u64,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let mut fleet = Self {
            state: State::new(Config::new(rules())),
            now: Now { tick: Tick(1_000_000), wall: Wall(1_700_000_000_000) },
            dice: Dice(seed),
            faults: Faults::default(),
            sessions: vec![SessionId(0); AGENTS],
            next_session: 1,
            held: vec![BTreeMap::new(); AGENTS],
            said: Vec::new(),
            recorded: BTreeMap::new(),
            recorded_of: BTreeMap::new(),
            fenced: 0,
            conflicts: 0,
            events: 0,
        };
        fleet.apply(Event::Started { epoch: Epoch(1) });
        (0..AGENTS).for_each(|agent| fleet.join(agent));
        fleet
    }

    fn submit(&mut self, count: usize) {
        for first in (0..count).step_by(500) {
            let lines: String =
                (first..count.min(first + 500)).map(|at| format!("t{at} retries 99\n")).collect();
            let mut tasks = tasks(&lines);
            for task in &mut tasks {
                task.on_loss = if self.dice.percent(50) { OnLoss::Fast } else { OnLoss::Wait };
            }
            self.apply(Event::Submitted(Box::new(Submit {
                token: Token(first as u64 + 1),
                tenant: ONE,
                name: "adhoc".into(),
                submitted_by: "client/default/me".into(),
                request_id: "".into(),
                spec_digest: [0; 32],
                labels: Vec::new(),
                tasks,
                validate_only: false,
                shape: orch_core::event::Shape::default(),
            })));
        }
    }

    fn apply(&mut self, event: Event) -> Effects {
        self.events += 1;
        let effects = apply(&mut self.state, self.now, event);
        if self.events.is_multiple_of(CHECKS) {
            check_invariants(&self.state).expect("every rule holds");
        }
        for action in &effects.actions {
            self.obey(action);
        }
        effects
    }

    fn agent_on(&self, session: SessionId) -> Option<usize> {
        self.sessions.iter().position(|open| *open == session)
    }

    fn obey(&mut self, action: &Action) {
        match action {
            Action::Grant { session, attempt } => {
                let Some(agent) = self.agent_on(*session) else { return };
                self.held[agent].entry(*attempt).or_insert(Stage::Offered);
            }
            Action::Welcome { session, verdicts } => {
                let Some(agent) = self.agent_on(*session) else { return };
                for (attempt, verdict) in verdicts {
                    if *verdict == Verdict::Cancel {
                        self.cut(agent, *attempt);
                    }
                }
            }
            // An agent that is told to stop ends its child, and says how that ended.
            Action::Stop { session, attempt, .. } => {
                let Some(agent) = self.agent_on(*session) else { return };
                self.cut(agent, *attempt);
            }
            Action::ReportVerdict { .. }
            | Action::HeartbeatAck { .. }
            | Action::Reply { .. }
            | Action::Consult
            | Action::LimitGrant { .. }
            | Action::PoolNotice { .. }
            | Action::Allowance { .. }
            | Action::Close { .. } => {}
        }
    }

    fn cut(&mut self, agent: usize, attempt: AttemptKey) {
        if let Some(stage) = self.held[agent].get_mut(&attempt).filter(|stage| **stage != Stage::Reported) {
            *stage = Stage::Cut;
        }
    }

    fn join(&mut self, agent: usize) {
        self.sessions[agent] = SessionId(self.next_session);
        self.next_session += 1;
        self.held[agent].retain(|_, stage| *stage != Stage::Offered);
        let listed = self.held[agent].iter().filter(|(_, stage)| **stage != Stage::Reported);
        let inventory = listed.map(|(attempt, stage)| InventoryItem {
            attempt: *attempt,
            state: if *stage == Stage::Cut { HeldState::Finished } else { HeldState::Running },
        });
        let hello = AgentHello {
            session: self.sessions[agent],
            tenant: ONE,
            name: format!("agent-{agent}").into(),
            incarnation: [u8::try_from(agent).expect("few"); 16],
            keeps_allowances: true,
            slots: SLOTS,
            capabilities: Vec::new(),
            inventory: inventory.collect(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        self.apply(Event::AgentJoined(Box::new(hello)));
    }

    fn heartbeat(&mut self, agent: usize) {
        let listed = self.held[agent].iter().filter(|(_, stage)| **stage == Stage::Running);
        let held =
            listed.map(|(attempt, _)| HeldAttempt { attempt: *attempt, num_turns: 1, cost_micro_usd: 1 });
        let (session, held) = (self.sessions[agent], held.collect());
        self.apply(Event::HeartbeatReceived { session, seq: 1, held, load_millis: 0 });
    }

    /// Says a report, and looks at the answer as a referee who knows what was current before.
    fn say(&mut self, agent: usize, report: &Report) {
        let attempt = report.attempt;
        let task = self.state.task_record(attempt.task).expect("a task");
        let name = format!("agent-{agent}");
        let current = task.state.is_held()
            && task.attempt == attempt.attempt
            && task.agent.is_some_and(|holder| **holder == *name);
        let before = self.recorded.get(&attempt).cloned();
        let session = self.sessions[agent];
        let event = Event::AttemptReported { session, report: Box::new(report.clone()) };
        let effects = self.apply(event);
        let answer = effects.actions.iter().find_map(|action| match action {
            Action::ReportVerdict { attempt: of, result, .. } if *of == attempt => Some(*result),
            _ => None,
        });
        match (answer.expect("an answer"), before) {
            (ReportResult::Recorded, None) => {
                assert!(current, "{attempt} by {name} was recorded and is not current");
                self.recorded.entry(attempt).or_default().insert(report.digest);
                self.recorded_of.entry(attempt.task).or_default().insert(attempt);
            }
            (ReportResult::Recorded, Some(known)) => {
                assert!(known.contains(&report.digest), "{attempt} was recorded twice");
            }
            (ReportResult::Fenced, _) => {
                assert!(!current, "{attempt} by {name} was current and is fenced");
                self.fenced += 1;
            }
            (ReportResult::Conflict, known) => {
                assert!(known.is_some_and(|known| !known.contains(&report.digest)), "{attempt}");
                self.conflicts += 1;
            }
        }
    }

    /// An attempt ends in one of the ways that things go wrong, or well.
    fn end(&mut self, agent: usize, attempt: AttemptKey, stage: Stage) {
        let mut report = report(attempt, Outcome::OK);
        report.digest = [u8::try_from(attempt.attempt.0 % 251).expect("small"); 32];
        match stage {
            Stage::Offered if self.dice.percent(10) => self.faults.reordered += 1,
            Stage::Offered => {
                self.held[agent].insert(attempt, Stage::Running);
                self.apply(Event::AttemptAccepted { session: self.sessions[agent], attempt });
                return;
            }
            Stage::Running if self.dice.percent(30) => {
                self.held[agent].insert(attempt, Stage::Cut);
                self.faults.expired += 1;
                return;
            }
            Stage::Running => {}
            Stage::Cut => self.faults.late += 1,
            Stage::Reported => return,
        }
        self.held[agent].insert(attempt, Stage::Reported);
        self.say(agent, &report);
        self.said.push((agent, report));
    }

    /// Something that was said is said again: the same, in another order, with another content, or by somebody else.
    fn repeat(&mut self) {
        let at = self.dice.below(self.said.len());
        let Some((agent, mut report)) = self.said.get(at).cloned() else { return };
        if at + 1 < self.said.len() {
            self.faults.reordered += 1;
        }
        match self.dice.below(10) {
            0..6 => {
                self.faults.duplicated += 1;
                self.say(agent, &report);
            }
            6 => {
                self.faults.contradicting += 1;
                report.digest = [255; 32];
                self.say(agent, &report);
            }
            7 => {
                self.faults.foreign += 1;
                self.say((agent + 1) % AGENTS, &report);
            }
            _ => {
                self.faults.unanswered += 1;
                self.held[agent].insert(report.attempt, Stage::Cut);
            }
        }
    }

    fn pass(&mut self, span: Span) {
        let until = self.now.tick + span;
        while let Some(due) = next_deadline(&self.state).filter(|due| *due <= until) {
            self.now.tick = due.max(self.now.tick);
            self.apply(Event::TimePassed);
        }
        self.now.tick = until;
    }

    /// Everything, until all tasks have ended.
    fn play(&mut self, count: usize) {
        for _ in 0..count * 100 {
            if (0..AGENTS).all(|agent| self.held[agent].values().all(|stage| *stage == Stage::Reported))
                && self.open() == 0
            {
                return;
            }
            for agent in 0..AGENTS {
                let held: Vec<(AttemptKey, Stage)> =
                    self.held[agent].iter().map(|(attempt, stage)| (*attempt, *stage)).collect();
                for (attempt, stage) in held {
                    // What was cut is mostly said when it is too late.
                    let chance = if stage == Stage::Cut { 15 } else { 70 };
                    if self.dice.percent(chance) {
                        self.end(agent, attempt, stage);
                    }
                    if self.dice.percent(8) {
                        self.repeat();
                    }
                }
                self.held[agent].retain(|_, stage| *stage != Stage::Reported);
                if self.dice.percent(2) {
                    self.faults.reconnected += 1;
                    self.join(agent);
                } else {
                    self.heartbeat(agent);
                }
            }
            let pause = if self.dice.percent(10) { 30 } else { 5 };
            self.pass(Span::seconds(pause));
        }
        panic!("{} tasks never end", self.open());
    }

    fn runs(&self) -> impl Iterator<Item = RunId> + use<> {
        (1..=self.state.last_run().0).map(RunId)
    }

    fn open(&self) -> usize {
        let done = |run: RunId| self.state.run_record(run).is_none_or(|run| run.state.is_terminal());
        self.runs().filter(|run| !done(*run)).count()
    }
}

fn budget(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_task_is_recorded_once_from_its_current_attempt_and_whatever_is_stale_is_fenced() {
    let count = usize::try_from(budget("ORCH_TORTURE_TASKS", 1_000)).expect("a count");
    let seed = budget("ORCH_TORTURE_SEED", 1);
    let mut config = Config::new(rules());
    config.finished_stay = Span::days(1);
    config.max_finished = usize::MAX;
    // A third of all attempts is lost on purpose here: that is no poison and no bad host.
    config.poison_crashes = u32::MAX;
    config.poison_crashes_anywhere = u32::MAX;
    config.quarantine_crashes = usize::MAX;
    let mut fleet = Fleet::new(seed);
    fleet.state = State::new(config);
    fleet.apply(Event::Started { epoch: Epoch(1) });
    (0..AGENTS).for_each(|agent| fleet.join(agent));
    fleet.submit(count);
    fleet.play(count);
    check_invariants(&fleet.state).expect("every rule holds");
    let mut ended = 0;
    for run in fleet.runs() {
        let tasks = fleet.state.run_record(run).expect("a live run").task_count;
        for index in (0..tasks).map(orch_core::ids::TaskIndex) {
            let key = TaskKey { run, index };
            let task = fleet.state.task_record(key).expect("a task");
            assert_eq!(task.state, TaskState::Succeeded, "{key}");
            let recorded = fleet.recorded_of.get(&key).map_or(0, BTreeSet::len);
            assert_eq!(recorded, 1, "{key} was recorded {recorded} times");
            ended += 1;
        }
    }
    assert_eq!(ended, count);
    println!("{ended} tasks, {} fenced, {} conflicts, {:?}", fleet.fenced, fleet.conflicts, fleet.faults);
    let Faults { expired, duplicated, late, reordered, contradicting, foreign, unanswered, reconnected } =
        fleet.faults;
    let fired = [expired, duplicated, late, reordered, contradicting, foreign, unanswered, reconnected];
    assert!(fired.iter().all(|times| *times > 0), "a fault never fired: {fired:?}");
    assert!(expired * 100 >= count as u64 * 25, "{expired} leases ran out");
    assert!(fleet.fenced > 0 && fleet.conflicts > 0);
}
