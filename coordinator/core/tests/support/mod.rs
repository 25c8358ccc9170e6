//! What the tests of the core share: a coordinator without I/O, agents as names, tasks as lines of text.
//! Every event is followed by a check of all invariants.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "every test binary uses another part of it")]
#![allow(
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at what it did not expect"
)]

mod spec;

pub use spec::{inventory, reload, tasks};

use orch_core::budgets::{Allowance, Bill};
use orch_core::config::Config;
use orch_core::effect::{Action, Change, CloseReason, Effects, ReportResult, StopReason, Verdict, Write};
use orch_core::event::{
    AgentHello, Consultation, Event, Expansion, HeldAttempt, Labelling, PlanDecision, Report, RunTarget,
    Submit, Target,
};
use orch_core::ids::{AttemptKey, Epoch, RunId, SessionId, TaskIndex, TaskKey, TenantId, Token};
use orch_core::outcome::{Outcome, OutcomeRule, OutcomeRules};
use orch_core::query::{
    AgentView, Answer, Query, Question, QuestionKind, Reason, Refusal, RunView, StatusView, TaskView,
};
use orch_core::state::{State, TaskState};
use orch_core::time::{Now, Span, Tick, Wall};
use orch_core::usage::Usage;
use orch_core::{apply, check_invariants, next_deadline};
use std::collections::BTreeMap;
use std::sync::Arc;

pub const ONE: TenantId = TenantId(1);
pub const CRASH: Outcome = Outcome(15);
pub const API_ERROR: Outcome = Outcome(14);
pub const TIMEOUT: Outcome = Outcome(11);

/// The decision columns of the product's table.
pub fn rules() -> OutcomeRules {
    let mut rules = vec![OutcomeRule::default(); 21];
    for retryable in [6, 10, 14, 15, 16, 19] {
        rules[retryable].retryable = true;
    }
    for crash in [15, 16] {
        rules[crash].counts_as_crash = true;
    }
    for left in [6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17] {
        rules[left].goes_on = true;
    }
    OutcomeRules(rules)
}

/// A coordinator, its agents' streams, and everything it said.
pub struct Env {
    pub state: State,
    pub now: Now,
    /// Events so far, for replays.
    pub log: Vec<(Now, Event)>,
    /// What left, in plain words, since [`Env::sent`] was asked last.
    sent: Vec<String>,
    /// What watchers saw, in plain words, since [`Env::told`] was asked last.
    told: Vec<String>,
    pub writes: Vec<Write>,
    /// What was put into the ledger.
    pub bills: Vec<Bill>,
    /// What attempts were told that they may spend, after their grants.
    pub allowances: Vec<(AttemptKey, Allowance)>,
    answers: BTreeMap<Token, Answer>,
    sessions: BTreeMap<String, SessionId>,
    names: BTreeMap<SessionId, String>,
    next_session: u64,
    next_token: u64,
    /// What the heartbeats of agents say of their load.
    pub load: BTreeMap<String, u32>,
    /// Whether everything that must hold is checked after each event, which takes time for each task.
    pub checked: bool,
}

impl Env {
    pub fn new() -> Self {
        Self::with(Config::new(rules()))
    }

    pub fn with(config: Config) -> Self {
        let mut env = Self::unstarted(State::new(config));
        env.apply(Event::Started { epoch: Epoch(1) });
        env
    }

    pub fn unstarted(state: State) -> Self {
        Self {
            state,
            now: Now { tick: Tick(1_000_000), wall: Wall(1_700_000_000_000) },
            log: Vec::new(),
            sent: Vec::new(),
            told: Vec::new(),
            writes: Vec::new(),
            bills: Vec::new(),
            allowances: Vec::new(),
            answers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            names: BTreeMap::new(),
            next_session: 1,
            next_token: 1,
            load: BTreeMap::new(),
            checked: true,
        }
    }

    /// Applies an event and checks everything that must hold after it.
    pub fn apply(&mut self, event: Event) {
        self.log.push((self.now, event.clone()));
        let shown = if self.checked { format!("{event:?}") } else { String::new() };
        let effects = apply(&mut self.state, self.now, event);
        if self.checked
            && let Err(violation) = check_invariants(&self.state)
        {
            panic!("after {shown}: {violation}");
        }
        self.note(effects);
    }

    fn note(&mut self, effects: Effects) {
        for notice in &effects.notices {
            assert!(notice.at == self.now, "a notice of another moment");
        }
        self.told.extend(effects.notices.iter().map(|notice| change(&notice.change)));
        self.writes.extend(effects.writes);
        self.bills.extend(effects.bills);
        for action in effects.actions {
            if let Action::Reply { token, answer } = action {
                let before = self.answers.insert(token, *answer);
                assert!(before.is_none(), "{token} was answered twice");
            } else {
                if let Action::Allowance { attempt, allowance, .. } = &action {
                    self.allowances.push((*attempt, (**allowance).clone()));
                }
                let said = self.action(&action);
                self.sent.push(said);
            }
        }
    }

    /// Everything that left to agents since the last call, a line each.
    pub fn sent(&mut self) -> String {
        std::mem::take(&mut self.sent).join("\n")
    }

    /// Everything watchers saw since the last call, a line each.
    pub fn told(&mut self) -> String {
        std::mem::take(&mut self.told).join("\n")
    }

    pub fn written(&mut self) -> Vec<Write> {
        std::mem::take(&mut self.writes)
    }

    /// Lets time pass, and wakes the core whenever it asked to be.
    pub fn pass(&mut self, span: Span) {
        let until = self.now.tick + span;
        while let Some(due) = next_deadline(&self.state).filter(|due| *due <= until) {
            self.jump(due.max(self.now.tick));
            self.apply(Event::TimePassed);
        }
        self.jump(until);
    }

    pub fn pass_seconds(&mut self, seconds: u64) {
        self.pass(Span::seconds(seconds));
    }

    /// Lets time pass while the agents named keep sending heartbeats with what they hold.
    pub fn pass_with_heartbeats(&mut self, seconds: u64, agents: &[&str]) {
        for _ in 0..seconds.div_ceil(5) {
            for agent in agents {
                self.heartbeat_all(agent);
            }
            self.pass_seconds(5);
        }
    }

    /// Lets time pass until a task is granted again. Returns the agent and the attempt.
    pub fn pass_until_granted(&mut self, task: &str, agents: &[&str]) -> (String, String) {
        for _ in 0..1_000 {
            let view = self.task(task);
            if view.state == TaskState::Leased {
                return (view.agent.to_string(), format!("{task}#{}", view.attempt));
            }
            self.pass_with_heartbeats(5, agents);
        }
        panic!("{task} is not granted again");
    }

    fn jump(&mut self, tick: Tick) {
        self.now.wall.0 += (tick - self.now.tick).0 as i64;
        self.now.tick = tick;
    }

    fn ask_token(&mut self) -> Token {
        self.next_token += 1;
        Token(self.next_token)
    }

    pub fn answer(&mut self, event: impl FnOnce(Token) -> Event) -> Answer {
        let token = self.ask_token();
        self.apply(event(token));
        self.answers.remove(&token).expect("an answer")
    }

    pub fn ask(&mut self, query: Query) -> Answer {
        self.answer(|token| Event::Asked { token, tenant: ONE, query })
    }

    pub fn submit_as(&mut self, change: impl FnOnce(&mut Submit), lines: &str) -> Answer {
        let token = self.ask_token();
        let mut submit = submission(token, lines);
        change(&mut submit);
        self.apply(Event::Submitted(Box::new(submit)));
        self.answers.remove(&token).expect("an answer")
    }

    /// Submits a run, a task a line; returns its number under the name `adhoc`.
    pub fn submit(&mut self, lines: &str) -> u64 {
        match self.submit_as(|_| {}, lines) {
            Answer::Submitted { run: Some(run), .. } => number(&run),
            other => panic!("not submitted: {other:?}"),
        }
    }

    pub fn refused(&mut self, lines: &str) -> Refusal {
        match self.submit_as(|_| {}, lines) {
            Answer::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    pub fn join(&mut self, name: &str, slots: u32, capabilities: &str) -> SessionId {
        self.join_as(name, slots, capabilities, |_| {})
    }

    pub fn join_as(
        &mut self,
        name: &str,
        slots: u32,
        capabilities: &str,
        change: impl FnOnce(&mut AgentHello),
    ) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        self.sessions.insert(name.to_owned(), session);
        self.names.insert(session, name.to_owned());
        let mut capabilities: Vec<Arc<str>> = capabilities.split_whitespace().map(Arc::from).collect();
        capabilities.sort();
        let mut hello = AgentHello {
            session,
            tenant: ONE,
            name: name.into(),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots,
            capabilities,
            inventory: Vec::new(),
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        change(&mut hello);
        self.apply(Event::AgentJoined(Box::new(hello)));
        session
    }

    pub fn session(&self, agent: &str) -> SessionId {
        self.sessions[agent]
    }

    /// `run/task#attempt`, the run as a number under `adhoc`.
    pub fn attempt(&self, text: &str) -> AttemptKey {
        let (task, attempt) = text.split_once('#').expect("run/task#attempt");
        AttemptKey::new(self.key(task), attempt.parse().expect("a number"))
    }

    /// `run/task`, the run as a number under `adhoc`.
    pub fn key(&self, text: &str) -> TaskKey {
        let (run, task) = text.split_once('/').expect("run/task");
        let run = self.run_id(run.parse().expect("a number"));
        let index = (0u32..)
            .map(TaskIndex)
            .find(|index| {
                *self.state.task_record(TaskKey { run, index: *index }).expect("task").task_id == task.into()
            })
            .expect("a task of that name");
        TaskKey { run, index }
    }

    pub fn run_id(&self, number: u64) -> RunId {
        self.state.resolve(&run_target(number)).expect("a run of that number").0
    }

    pub fn accept(&mut self, agent: &str, attempt: &str) {
        let event = Event::AttemptAccepted { session: self.session(agent), attempt: self.attempt(attempt) };
        self.apply(event);
    }

    pub fn reject(&mut self, agent: &str, attempt: &str) {
        let event = Event::AttemptRejected {
            session: self.session(agent),
            attempt: self.attempt(attempt),
            reason: "disk is full".into(),
        };
        self.apply(event);
    }

    pub fn report(&mut self, agent: &str, attempt: &str, outcome: Outcome) {
        self.report_as(agent, attempt, outcome, |_| {});
    }

    pub fn report_as(
        &mut self,
        agent: &str,
        attempt: &str,
        outcome: Outcome,
        change: impl FnOnce(&mut Report),
    ) {
        let mut report = report(self.attempt(attempt), outcome);
        change(&mut report);
        let event = Event::AttemptReported { session: self.session(agent), report: Box::new(report) };
        self.apply(event);
    }

    pub fn heartbeat(&mut self, agent: &str, held: &[&str]) {
        let held = held.iter().map(|text| self.attempt(text)).collect();
        self.heartbeat_keys(agent, held);
    }

    /// A heartbeat that lists everything the core thinks the agent accepted.
    pub fn heartbeat_all(&mut self, agent: &str) {
        let held = self.held_by(agent);
        self.heartbeat_keys(agent, held);
    }

    pub fn heartbeat_keys(&mut self, agent: &str, held: Vec<AttemptKey>) {
        let held = held
            .into_iter()
            .map(|attempt| HeldAttempt { attempt, num_turns: 1, cost_micro_usd: 500 })
            .collect();
        let session = self.session(agent);
        let load_millis = self.load.get(agent).copied().unwrap_or(0);
        self.apply(Event::HeartbeatReceived { session, seq: 1, held, load_millis });
    }

    /// Accepted attempts of an agent, as the records say.
    pub fn held_by(&self, agent: &str) -> Vec<AttemptKey> {
        let mut held = Vec::new();
        for run in (1..=self.state.last_run().0).map(RunId) {
            let Some(record) = self.state.run_record(run) else { continue };
            for index in (0..record.task_count).map(TaskIndex) {
                let key = TaskKey { run, index };
                let task = self.state.task_record(key).expect("a task");
                let here = task.agent.is_some_and(|name| **name == *agent);
                if here && task.state == TaskState::Running {
                    held.push(AttemptKey { task: key, attempt: task.attempt });
                }
            }
        }
        held
    }

    pub fn leave(&mut self, agent: &str) {
        let session = self.session(agent);
        self.apply(Event::SessionEnded { session });
    }

    pub fn cancel(&mut self, target: &str) -> Answer {
        let target = target_of(target);
        self.answer(|token| Event::CancelRequested { token, target, reason: "not needed".into() })
    }

    pub fn retry(&mut self, target: &str, force: bool) -> Answer {
        let target = target_of(target);
        self.retry_as(target, force, None, "", [0; 32])
    }

    /// Has what ended as poison tried again, of a run or the one task.
    pub fn retry_dead(&mut self, target: &str, request_id: &str) -> Answer {
        let (target, request_id) = (target_of(target), Arc::from(request_id));
        self.answer(|token| {
            let (force, from, dead, digest) = (false, None, true, [0; 32]);
            Event::RetryRequested { token, target, force, from, dead, request_id, digest }
        })
    }

    /// What ended as poison, `run/task` or the number of those that a run has that is not live, from a place on.
    pub fn dead(&mut self, from: (RunId, TaskIndex), limit: usize) -> Vec<String> {
        let Answer::Dead(runs) = self.ask(Query::Dead { from, limit }) else { panic!("another answer") };
        let shown = runs.into_iter().flat_map(|dead| match dead.live {
            Some((run, tasks)) => {
                tasks.iter().map(|task| format!("{}/{}", number(&run), task.id)).collect::<Vec<_>>()
            }
            None => vec![format!("run {}: {}", dead.run, dead.count)],
        });
        shown.collect()
    }

    /// Has an agent forgotten.
    pub fn forget(&mut self, agent: &str) -> Answer {
        let agent = agent.into();
        self.answer(|token| Event::ForgetRequested { token, tenant: ONE, agent })
    }

    /// Has a run go back to a task.
    pub fn retry_from(&mut self, run: &str, from: &str) -> Answer {
        self.retry_as(target_of(run), false, Some(from), "", [0; 32])
    }

    pub fn retry_as(
        &mut self,
        target: Target,
        force: bool,
        from: Option<&str>,
        request_id: &str,
        digest: [u8; 32],
    ) -> Answer {
        let (from, request_id) = (from.map(Arc::from), Arc::from(request_id));
        let dead = false;
        self.answer(|token| Event::RetryRequested { token, target, force, from, dead, request_id, digest })
    }

    pub fn drain(&mut self, agent: &str, reason: &str) -> Answer {
        let (agent, reason) = (agent.into(), reason.into());
        self.answer(|token| Event::DrainRequested { token, tenant: ONE, agent, reason })
    }

    pub fn resume(&mut self, agent: &str) -> Answer {
        let agent = agent.into();
        self.answer(|token| Event::ResumeRequested { token, tenant: ONE, agent })
    }

    /// Words with `=` are set, others are keys to remove, `!` restores.
    pub fn label(&mut self, agent: &str, words: &str) -> Answer {
        let change = labelling(words);
        let agent = agent.into();
        self.answer(|token| Event::LabelRequested { token, tenant: ONE, agent, change })
    }

    pub fn task(&mut self, target: &str) -> TaskView {
        match self.ask(Query::Task(target_of(target))) {
            Answer::Task { task, .. } => task,
            other => panic!("no task {target}: {other:?}"),
        }
    }

    /// Whether there is such a task.
    pub fn has(&mut self, target: &str) -> bool {
        matches!(self.ask(Query::Task(target_of(target))), Answer::Task { .. })
    }

    /// What only payloads tell.
    pub fn questions(&mut self) -> Vec<Question> {
        match self.ask(Query::Questions { limit: 100 }) {
            Answer::Questions(questions) => questions,
            other => panic!("no questions: {other:?}"),
        }
    }

    /// Open questions in plain words, a line each.
    pub fn asked(&mut self) -> String {
        let questions = self.questions();
        let said = questions.into_iter().map(|question| {
            let kind = match question.kind {
                QuestionKind::Conditions => "conditions".to_owned(),
                QuestionKind::Plan => "plan".to_owned(),
                QuestionKind::Review { by } => {
                    let by = TaskKey { index: by, ..question.task };
                    format!("review by {}", self.state.task_record(by).expect("a task").task_id)
                }
            };
            let name = self.name_of(AttemptKey { task: question.task, attempt: question.attempt });
            format!("{name} {kind}, {} repairs left", question.repairs_left)
        });
        said.collect::<Vec<_>>().join("\n")
    }

    /// The driver answers what is asked of a task.
    pub fn consult(&mut self, task: &str, answer: Consultation) {
        let task = self.key(task);
        let attempt = self.state.task_record(task).expect("a task").attempt;
        self.apply(Event::Consulted { task, attempt, answer });
    }

    /// A person answers the plan of a run; `None` rejects it.
    pub fn decide(&mut self, run: u64, plan: Option<Expansion>) -> Answer {
        let decision = plan.map_or(PlanDecision::Reject, |plan| PlanDecision::Approve(Box::new(plan)));
        let target = run_target(run);
        self.answer(|token| decided(token, target, decision, ""))
    }

    /// The same under a request id, which is digest and id in one.
    pub fn decide_once(&mut self, run: u64, plan: Option<Expansion>, id: &str) -> Answer {
        let decision = plan.map_or(PlanDecision::Reject, |plan| PlanDecision::Approve(Box::new(plan)));
        let target = run_target(run);
        self.answer(|token| decided(token, target, decision, id))
    }

    /// State of a task as a word.
    pub fn state_of(&mut self, target: &str) -> &'static str {
        self.task(target).state.word()
    }

    pub fn run(&mut self, number: u64) -> RunView {
        match self.ask(Query::Run(run_target(number))) {
            Answer::Run(run) => run,
            other => panic!("no run {number}: {other:?}"),
        }
    }

    pub fn status(&mut self) -> StatusView {
        match self.ask(Query::Status) {
            Answer::Status(status) => status,
            other => panic!("no status: {other:?}"),
        }
    }

    pub fn agent(&mut self, name: &str) -> AgentView {
        match self.ask(Query::Agents { after: None, limit: 100 }) {
            Answer::Agents(agents) => {
                agents.into_iter().find(|agent| *agent.name == *name).expect("the agent")
            }
            other => panic!("no agents: {other:?}"),
        }
    }

    /// Summary, reasons, and whether it is impossible.
    pub fn explain(&mut self, target: &str) -> (String, Vec<Reason>, bool) {
        match self.ask(Query::Explain(target_of(target))) {
            Answer::Explained { summary, reasons, impossible, .. } => (summary, reasons, impossible),
            other => panic!("no explanation of {target}: {other:?}"),
        }
    }

    fn action(&self, action: &Action) -> String {
        let agent =
            |session: &SessionId| self.names.get(session).cloned().unwrap_or_else(|| session.to_string());
        match action {
            Action::Reply { .. } => "reply".to_owned(),
            Action::Consult => "consult".to_owned(),
            Action::Welcome { session, verdicts } => {
                let verdicts: Vec<String> = verdicts
                    .iter()
                    .map(|(attempt, verdict)| {
                        let verdict = match verdict {
                            Verdict::Keep => "keep",
                            Verdict::Cancel => "cancel",
                            Verdict::SendReport => "send report",
                        };
                        format!(" {verdict} {}", self.name_of(*attempt))
                    })
                    .collect();
                format!("welcome {}{}", agent(session), verdicts.join(","))
            }
            Action::Grant { session, attempt } => {
                format!("grant {} {}", agent(session), self.name_of(*attempt))
            }
            Action::Stop { session, attempt, reason } => {
                let reason = match reason {
                    StopReason::Cancelled => "cancelled",
                    StopReason::Fenced => "fenced",
                    StopReason::Revoked => "revoked",
                };
                format!("stop {} {} {reason}", agent(session), self.name_of(*attempt))
            }
            Action::HeartbeatAck { session, unknown, .. } => {
                let unknown: Vec<String> =
                    unknown.iter().map(|key| format!(" unknown {}", self.name_of(*key))).collect();
                format!("ack {}{}", agent(session), unknown.join(","))
            }
            Action::ReportVerdict { session, attempt, result } => {
                let result = match result {
                    ReportResult::Recorded => "recorded",
                    ReportResult::Fenced => "fenced",
                    ReportResult::Conflict => "conflict",
                };
                format!("verdict {} {} {result}", agent(session), self.name_of(*attempt))
            }
            Action::LimitGrant { session, meter, granted } => {
                format!("credit {} {} {granted:?}", agent(session), meter.pool)
            }
            Action::PoolNotice { session, notice } => {
                format!("pool {} {} {:?}", agent(session), notice.pool, notice.state)
            }
            Action::Allowance { session, attempt, allowance } => {
                format!("allowance {} {} {allowance:?}", agent(session), self.name_of(*attempt))
            }
            Action::Close { session, reason } => {
                let reason = match reason {
                    CloseReason::Superseded => "superseded",
                    CloseReason::ClonedIdentity => "cloned identity",
                    CloseReason::ProtocolViolation => "protocol violation",
                    CloseReason::Capacity => "capacity",
                };
                format!("close {} {reason}", agent(session))
            }
        }
    }

    /// `run/task#attempt`.
    pub fn name_of(&self, attempt: AttemptKey) -> String {
        let number = self.state.run_record(attempt.task.run).map(|run| run.number);
        let task = self.state.task_record(attempt.task).map(|task| task.task_id.to_string());
        match (number, task) {
            (Some(number), Some(task)) => format!("{number}/{task}#{}", attempt.attempt),
            (None | Some(_), None) | (None, Some(_)) => attempt.to_string(),
        }
    }
}

fn decided(token: Token, target: Target, decision: PlanDecision, id: &str) -> Event {
    let (reason, request_id) = ("too dear".into(), id.split('#').next().unwrap_or_default().into());
    let digest = [u8::try_from(id.len()).unwrap_or_default(); 32];
    Event::PlanDecided { token, target, decision, reason, request_id, digest }
}

fn change(change: &Change) -> String {
    match change {
        Change::Run { run_ref, state, .. } => format!("{run_ref} {state}"),
        Change::Task { run_ref, task_id, state, attempt, agent, .. } => {
            format!("{run_ref}/{task_id} {state} #{attempt} {agent}").trim_end().to_owned()
        }
        Change::Budget { budget, run_ref, text, .. } => format!("budget {budget} {run_ref} {text}"),
        Change::Agent { agent, state } => format!("{agent} {state:?}").to_lowercase(),
    }
}

/// See [`Env::label`].
pub fn labelling(words: &str) -> Labelling {
    let mut change = Labelling::default();
    for word in words.split_whitespace() {
        match word {
            "!" => change.restore = true,
            label if label.contains('=') => change.set.push(label.into()),
            key => change.remove.push(key.into()),
        }
    }
    change
}

/// What a client called `me` submits under the name `adhoc`, a task a line.
pub fn submission(token: Token, lines: &str) -> Submit {
    Submit {
        token,
        tenant: ONE,
        name: "adhoc".into(),
        submitted_by: "client/default/me".into(),
        request_id: "".into(),
        spec_digest: [7; 32],
        labels: Vec::new(),
        tasks: tasks(lines),
        validate_only: false,
        shape: orch_core::event::Shape::default(),
    }
}

pub fn number(run: &RunView) -> u64 {
    run.run_ref.rsplit_once('/').expect("name/number").1.parse().expect("a number")
}

pub fn report(attempt: AttemptKey, outcome: Outcome) -> Report {
    Report {
        attempt,
        outcome,
        detail: if outcome == Outcome::OK { "".into() } else { "it went wrong".into() },
        usage: Usage { cost_micro_usd: 1_000, ..Usage::default() },
        digest: [outcome.0; 32],
        duration: Span::seconds(2),
        retry_after: None,
        payload: Arc::from([1u8].as_slice()),
        pool: "".into(),
        limit: None,
    }
}

pub fn run_target(number: u64) -> Target {
    Target { tenant: ONE, run: RunTarget::Ref { name: "adhoc".into(), number }, task: None }
}

/// `run` or `run/task`.
pub fn target_of(text: &str) -> Target {
    let (run, task) = match text.split_once('/') {
        Some((run, task)) => (run, Some(Arc::from(task))),
        None => (text, None),
    };
    Target { task, ..run_target(run.parse().expect("a number")) }
}
