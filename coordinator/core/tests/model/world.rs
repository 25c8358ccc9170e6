//! A coordinator, its store, its agents and its clients, and one way to make something happen.

use crate::fleet::{Agent, Stage, stream};
use crate::history::History;
use crate::limits;
use crate::ops::{LABELS, Lost, OFFERS, Op, Task};
use crate::shapes::{Parts, answer, expansion, good_answer};
use crate::store::Store;
use crate::support::{ONE, labelling, report, rules};
use orch_core::effect::{Action, Effects};
use orch_core::event::{
    AgentHello, Consultation, Event, Expansion, HeldAttempt, NewTask, PlanDecision, RunTarget, Submit, Target,
};
use orch_core::ids::{AttemptKey, AttemptNo, Epoch, RunId, SessionId, TaskIndex, TaskKey, Token};
use orch_core::limits::LimitHit;
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query, Question};
use orch_core::state::{RestoredRun, RunState, State, TaskState};
use orch_core::time::{Now, Span, Tick, Wall};
use orch_core::{Config, apply, check_invariants, next_deadline, state_hash};
use std::collections::BTreeMap;
use std::sync::Arc;

pub struct World {
    state: State,
    now: Now,
    store: Store,
    fleet: Vec<Agent>,
    history: History,
    /// What was durable at the latest start, whether finished runs were loaded whole, and every event since.
    base: (Store, bool),
    log: Vec<(Now, Event)>,
    /// Every attempt ever granted.
    granted: Vec<AttemptKey>,
    epoch: u64,
    sessions: u64,
    tokens: u64,
    answers: BTreeMap<Token, Answer>,
    /// Retries that were answered, by request id.
    requests: BTreeMap<String, Known>,
}

/// The answer to a retry.
struct Known {
    run: RunId,
    digest: [u8; 32],
    count: u32,
    at: Tick,
}

/// The product's deadlines, the long ones cut so that a world heals in a few simulated minutes.
fn config() -> Config {
    let mut config = Config::new(rules());
    config.lost_after = Span::seconds(60);
    config.timeout_margin = Span::seconds(90);
    config.retry_cap = Span::seconds(20);
    config.crash_cap = Span::seconds(20);
    config.retry_after_cap = Span::seconds(40);
    config.max_finished = 3;
    config.keep_runs = Span::minutes(20);
    config.keep_requests = Span::minutes(10);
    // As little as makes a quarantine likely in a short world.
    config.quarantine_window = 4;
    config.quarantine_crashes = 2;
    config.quarantine_tasks = 2;
    config.max_tenant_tasks = 40;
    config
}

impl World {
    pub fn new() -> Self {
        let names = ["agent-0", "agent-1", "agent-2"];
        let mut world = Self {
            state: State::new(config()),
            now: Now { tick: Tick(5_000), wall: Wall(1_700_000_000_000) },
            store: Store::default(),
            fleet: names.map(Agent::new).into(),
            history: History::default(),
            base: (Store::default(), true),
            log: Vec::new(),
            granted: Vec::new(),
            epoch: 0,
            sessions: 0,
            tokens: 0,
            answers: BTreeMap::new(),
            requests: BTreeMap::new(),
        };
        world.start();
        world
    }

    fn start(&mut self) {
        self.epoch += 1;
        self.apply(Event::Started { epoch: Epoch(self.epoch) });
    }

    fn apply(&mut self, event: Event) {
        self.log.push((self.now, event.clone()));
        let specs = self.specs_of(&event);
        let effects = apply(&mut self.state, self.now, event.clone());
        if let Err(violation) = check_invariants(&self.state) {
            panic!("after {event:?}: {violation}");
        }
        self.store.commit(&self.state, &effects.writes, specs);
        self.history.check(&self.state, &event, &effects);
        let granted: Vec<String> = effects.actions.iter().filter_map(|action| self.metered(action)).collect();
        limits::check_grants(&mut self.state, self.now, &granted);
        self.deliver(&effects);
    }

    /// The agent that was granted something new that asks an API.
    fn metered(&self, action: &Action) -> Option<String> {
        let Action::Grant { session, attempt } = action else { return None };
        let spec = &self.store.run(attempt.task.run)?.tasks.get(attempt.task.index.0 as usize)?.spec;
        spec.meter.as_ref().filter(|_| !self.granted.contains(attempt))?;
        let agent = self.fleet.iter().find(|agent| agent.session == Some(*session))?;
        Some(agent.name.clone())
    }

    /// Everybody leaves: nothing of what agents were given stays with them.
    pub fn desert(&mut self) {
        for agent in 0..self.fleet.len() {
            if let Some(session) = self.fleet[agent].session.take() {
                self.apply(Event::SessionEnded { session });
            }
        }
        self.pass(Span::minutes(2));
        for view in limits::views(&mut self.state, self.now) {
            assert_eq!((view.in_flight, view.waiting), (0, 0), "{view:?}");
            assert!(view.buckets.iter().all(|bucket| bucket.leased == 0), "{view:?}");
        }
    }

    /// Specs that the driver has ready with an event: those of a submit, or all of a run that tasks join.
    fn specs_of(&self, event: &Event) -> Option<Vec<NewTask>> {
        if let Event::Submitted(submit) = event {
            return Some(submit.tasks.clone());
        }
        let (run, expansion) =
            if let Event::Consulted { task, answer: Consultation::Expand(expansion), .. } = event {
                (task.run, expansion)
            } else if let Event::PlanDecided { target, decision: PlanDecision::Approve(plan), .. } = event {
                (self.state.resolve(target)?.0, plan)
            } else {
                return None;
            };
        let mut specs: Vec<NewTask> =
            self.store.run(run)?.tasks.iter().map(|task| task.spec.clone()).collect();
        for (index, row) in &expansion.rewired {
            specs.get_mut(index.0 as usize)?.dependencies.clone_from(row);
        }
        specs.extend(expansion.tasks.iter().cloned());
        Some(specs)
    }

    fn questions(&mut self) -> Vec<Question> {
        let token = self.token();
        self.apply(Event::Asked { token, tenant: ONE, query: Query::Questions { limit: 100 } });
        match self.answers.remove(&token) {
            Some(Answer::Questions(questions)) => questions,
            other => panic!("no questions: {other:?}"),
        }
    }

    fn consult(&mut self, pick: u8, word: u8, stale: bool, tasks: &[Task], flaw: u8) {
        let questions = self.questions();
        let Some(question) = questions.get(usize::from(pick) % questions.len().max(1)) else { return };
        let answer = answer(question, word, tasks, flaw);
        let attempt = AttemptNo(question.attempt.0 + u32::from(stale));
        let before = self.store.tasks(&self.state);
        let event = Event::Consulted { task: question.task, attempt, answer };
        self.apply(event.clone());
        assert!(!stale || before == self.store.tasks(&self.state), "an answer to no question did something");
        // The same answer again finds no question, unless the answer was none.
        let asked = self.questions();
        if !asked.contains(question) {
            let before = self.store.tasks(&self.state);
            self.apply(event);
            assert_eq!(before, self.store.tasks(&self.state), "an answer was taken twice");
        }
    }

    fn decide(&mut self, target: Target, expansion: Option<Expansion>) {
        let token = self.token();
        let decision =
            expansion.map_or(PlanDecision::Reject, |expansion| PlanDecision::Approve(Box::new(expansion)));
        let (reason, request_id, digest) = ("so it is".into(), Arc::from(""), [0; 32]);
        self.apply(Event::PlanDecided { token, target, decision, reason, request_id, digest });
        assert!(self.answers.contains_key(&token), "a decision is answered");
    }

    /// Answers everything so that it goes on.
    fn direct(&mut self) {
        for question in self.questions() {
            let planning = self.state.run_record(question.task.run).and_then(|run| run.shape.planning);
            let answer = good_answer(&question, planning);
            self.apply(Event::Consulted { task: question.task, attempt: question.attempt, answer });
        }
        let waits = |run: &&RestoredRun| run.state == RunState::WaitingApproval;
        let waiting: Vec<u64> = self.store.runs().filter(waits).map(|run| run.number).collect();
        for number in waiting {
            let run = RunTarget::Ref { name: "adhoc".into(), number };
            let plan = expansion(&[crate::ops::plain(0)], 9);
            self.decide(Target { tenant: ONE, run, task: None }, Some(plan));
        }
    }

    fn deliver(&mut self, effects: &Effects) {
        for action in &effects.actions {
            if let Action::Reply { token, answer } = action {
                self.answers.insert(*token, (**answer).clone());
            }
            if let Action::Grant { attempt, .. } = action {
                self.granted.push(*attempt);
            }
            let Some(session) = stream(action) else { continue };
            if let Some(agent) = self.fleet.iter_mut().find(|agent| agent.session == Some(session)) {
                agent.receive(action);
            }
        }
    }

    /// The same events on the same records give the same state.
    pub fn replay(&self) {
        let (store, live) = &self.base;
        let mut state = store.load(config(), *live);
        for (now, event) in &self.log {
            apply(&mut state, *now, event.clone());
        }
        assert_eq!(state_hash(&state), state_hash(&self.state), "a replay differs");
    }

    pub fn play(&mut self, op: Op) {
        match op {
            Op::Submit { tasks, parts, request } => self.submit(&tasks, parts, request),
            Op::Consult { pick, word, stale, tasks, flaw } => self.consult(pick, word, stale, &tasks, flaw),
            Op::Decide { run, approve, tasks, flaw } => {
                let run = self.target(run, None);
                self.decide(run, approve.then(|| expansion(&tasks, flaw)));
            }
            Op::Join { agent, slots, capabilities, honest, new_process, twin } => {
                let held = &mut self.fleet[usize::from(agent)];
                held.slots = u32::from(slots);
                held.capabilities = OFFERS[usize::from(capabilities) % OFFERS.len()].to_owned();
                if new_process {
                    held.restart();
                }
                if !honest {
                    held.held.pop_first();
                }
                if twin {
                    held.incarnation ^= 0x80;
                }
                self.join(usize::from(agent));
            }
            Op::Cut { agent } => self.fleet[usize::from(agent)].session = None,
            Op::SessionEnded { session } => {
                let session = SessionId(u64::from(session) % (self.sessions + 1));
                for agent in &mut self.fleet {
                    if agent.session == Some(session) {
                        agent.session = None;
                    }
                }
                self.apply(Event::SessionEnded { session });
            }
            Op::Drain { agent } => {
                if let Some(session) = self.fleet[usize::from(agent)].session {
                    self.apply(Event::AgentDraining { session });
                }
            }
            Op::Heartbeat { agent, forgets } => self.heartbeat(usize::from(agent), forgets),
            Op::Accept { agent, pick } => self.accept(usize::from(agent), pick),
            Op::Reject { agent, pick } => self.reject(usize::from(agent), pick),
            Op::Report { agent, pick, outcome, retry_after, lost } => {
                self.report(usize::from(agent), pick, Outcome(outcome), retry_after, lost);
            }
            Op::Work { agent, outcome } => self.work(usize::from(agent), Outcome(outcome)),
            Op::Slander { agent, pick, invented, kind, digest } => {
                self.slander(usize::from(agent), self.anybodys(pick, invented), kind, digest);
            }
            Op::Pass { millis } => self.pass(Span(u64::from(millis))),
            Op::Stall { millis } => self.stall(Span(u64::from(millis))),
            Op::Cancel { run, task } => {
                let target = self.target(run, task);
                let token = self.token();
                self.apply(Event::CancelRequested { token, target, reason: "changed my mind".into() });
            }
            Op::GiveBack { agent } => self.give_back(usize::from(agent)),
            Op::Retry { run, task, force, from, dead, request } => {
                self.retry(run, task, (force, from, dead), request);
            }
            Op::Order { agent, kind } => self.order(agent, kind),
            Op::Explain { run, task } => self.ask(run, task),
            Op::Restart { live } => self.restart(live),
            Op::Recall { run } => self.recall(run),
            Op::Limit { agent, kind, number } => {
                let agent = usize::from(agent);
                if let Some(event) = limits::event(agent, self.fleet[agent].session, kind, number) {
                    self.apply(event);
                }
            }
            Op::Warmed { agent, pick } => {
                if let Some((session, attempt)) = self.picked(usize::from(agent), pick, |_| true) {
                    self.apply(Event::AttemptWarmed { session, attempt });
                }
            }
            Op::DrainStarted => self.apply(Event::DrainStarted),
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    fn target(&self, run: u8, task: Option<u8>) -> Target {
        let number = u64::from(run) % self.state.last_run().0.max(1) + 1;
        Target {
            tenant: ONE,
            run: RunTarget::Ref { name: "adhoc".into(), number },
            task: task.map(|task| format!("t{task}").into()),
        }
    }

    /// A request that was answered is answered again the same, does nothing, and is no other request.
    fn retry(&mut self, run: u8, task: Option<u8>, (force, from, dead): (bool, bool, bool), request: u8) {
        let mut target = self.target(run, task);
        let from = if from && !dead { target.task.take() } else { None };
        let request_id = if request < 4 { format!("again-{}", request / 2) } else { String::new() };
        let digest = [request % 2; 32];
        let token = self.token();
        let (request_id, id) = (request_id.as_str().into(), request_id);
        let before = self.store.tasks(&self.state);
        self.apply(Event::RetryRequested { token, target, force, from, dead, request_id, digest });
        let Some(Answer::Retried { run, count, existing }) = self.answers.remove(&token) else { return };
        let known = self.requests.get(&id).filter(|known| known.at + config().keep_requests > self.now.tick);
        if let Some(known) = known.filter(|known| self.store.run(known.run).is_some()) {
            assert!(existing, "{id} was answered before");
            assert_eq!((known.run, known.digest, known.count), (run.id, digest, count));
            assert_eq!(before, self.store.tasks(&self.state), "a repetition changed something");
        } else if !id.is_empty() && !existing {
            self.requests.insert(id, Known { run: run.id, digest, count, at: self.now.tick });
        }
    }

    fn order(&mut self, agent: u8, kind: u8) {
        let name = format!("agent-{agent}").into();
        let token = self.token();
        self.apply(match kind % 5 {
            4 => Event::ForgetRequested { token, tenant: ONE, agent: name },
            0 => Event::DrainRequested { token, tenant: ONE, agent: name, reason: "drained by me".into() },
            1 => Event::ResumeRequested { token, tenant: ONE, agent: name },
            _ => {
                let change = labelling(LABELS[usize::from(kind / 5) % LABELS.len()]);
                Event::LabelRequested { token, tenant: ONE, agent: name, change }
            }
        });
    }

    fn submit(&mut self, tasks: &[Task], parts: Parts, request: u8) {
        let token = self.token();
        let before = self.state.last_run();
        // Request ids from 8 on are none; the others come again, half of them with another content.
        let request_id = if request < 8 { format!("key-{}", request / 2) } else { String::new() };
        self.apply(Event::Submitted(Box::new(Submit {
            token,
            tenant: ONE,
            name: "adhoc".into(),
            submitted_by: "client/default/me".into(),
            request_id: request_id.into(),
            spec_digest: [request % 2; 32],
            labels: Vec::new(),
            tasks: parts.tasks(tasks),
            validate_only: request == 11,
            shape: parts.shape(),
        })));
        assert!(self.state.last_run().0 <= before.0 + 1);
    }

    fn join(&mut self, agent: usize) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let held = &mut self.fleet[agent];
        held.held.retain(|_, stage| *stage != Stage::Offered);
        held.session = Some(session);
        let hello = AgentHello {
            session,
            tenant: ONE,
            name: held.name.as_str().into(),
            incarnation: [held.incarnation; 16],
            keeps_allowances: true,
            slots: held.slots,
            capabilities: held.capabilities.split_whitespace().map(Into::into).collect(),
            inventory: held.inventory(),
            conversations: held.held.keys().map(|attempt| attempt.task).collect(),
            pools: limits::pools(agent),
        };
        self.apply(Event::AgentJoined(Box::new(hello)));
    }

    fn heartbeat(&mut self, agent: usize, forgets: bool) {
        let held = &mut self.fleet[agent];
        let Some(session) = held.session else { return };
        if forgets {
            held.held.pop_last();
        }
        let listed = held.in_stage(|stage| stage != Stage::Offered);
        let item = |attempt| HeldAttempt { attempt, num_turns: 1, cost_micro_usd: 10 };
        let held = listed.into_iter().map(item).collect();
        self.apply(Event::HeartbeatReceived { session, seq: 1, held, load_millis: 100 });
    }

    fn picked(
        &self,
        agent: usize,
        pick: u8,
        wanted: impl Fn(Stage) -> bool,
    ) -> Option<(SessionId, AttemptKey)> {
        let found = self.fleet[agent].in_stage(wanted);
        let attempt = found.get(usize::from(pick) % found.len().max(1))?;
        Some((self.fleet[agent].session?, *attempt))
    }

    fn accept(&mut self, agent: usize, pick: u8) {
        let Some((session, attempt)) = self.picked(agent, pick, |stage| stage == Stage::Offered) else {
            return;
        };
        self.fleet[agent].held.insert(attempt, Stage::Running);
        self.apply(Event::AttemptAccepted { session, attempt });
    }

    fn reject(&mut self, agent: usize, pick: u8) {
        let Some((session, attempt)) = self.picked(agent, pick, |stage| stage == Stage::Offered) else {
            return;
        };
        self.fleet[agent].held.remove(&attempt);
        self.apply(Event::AttemptRejected { session, attempt, reason: "full".into() });
    }

    fn give_back(&mut self, agent: usize) {
        let held = &mut self.fleet[agent];
        let (Some(session), revoked) = (held.session, std::mem::take(&mut held.revoked)) else { return };
        for attempt in revoked {
            if matches!(self.fleet[agent].held.get(&attempt), Some(Stage::Offered | Stage::Running)) {
                self.fleet[agent].held.remove(&attempt);
                let current = self.state.grant_view(attempt).is_some();
                self.apply(Event::AttemptRejected { session, attempt, reason: "not begun".into() });
                assert!(!current || self.state.grant_view(attempt).is_none(), "{attempt} was given back");
            }
        }
    }

    fn report(&mut self, agent: usize, pick: u8, outcome: Outcome, retry_after: Option<u16>, lost: Lost) {
        let Some((session, attempt)) = self.picked(agent, pick, |_| true) else { return };
        let outcome = match self.fleet[agent].held[&attempt] {
            Stage::Finished(outcome) => outcome,
            Stage::Offered | Stage::Running => outcome,
        };
        self.fleet[agent].held.insert(attempt, Stage::Finished(outcome));
        if lost == Lost::Report {
            return;
        }
        let mut report = report(attempt, outcome);
        report.retry_after = retry_after.map(|millis| Span(u64::from(millis)));
        // Half of them because a window is used up.
        let exhausted = pick.is_multiple_of(2);
        let pool = limits::pools(agent).remove(0).name;
        let window = "five_hour".into();
        report.limit = (outcome == Outcome::RATE_LIMITED).then_some(LimitHit { pool, window, exhausted });
        self.apply(Event::AttemptReported { session, report: Box::new(report) });
        if lost == Lost::Answer {
            self.fleet[agent].held.insert(attempt, Stage::Finished(outcome));
        }
    }

    /// An agent that is able and honest for a moment.
    fn work(&mut self, agent: usize, outcome: Outcome) {
        if self.fleet[agent].session.is_none() {
            self.fleet[agent].slots = 3;
            self.fleet[agent].capabilities = OFFERS[0].to_owned();
            self.join(agent);
        }
        while self.picked(agent, 0, |stage| stage == Stage::Offered).is_some() {
            self.accept(agent, 0);
        }
        let held = self.fleet[agent].held.len();
        for _ in 0..held {
            self.report(agent, 0, outcome, None, Lost::Nothing);
        }
    }

    /// An attempt that was anybody's once, or one that never was.
    fn anybodys(&self, pick: u8, invented: bool) -> AttemptKey {
        let past = self.granted.get(usize::from(pick) % self.granted.len().max(1));
        let nobodys = TaskKey { run: RunId(u64::from(pick % 5)), index: TaskIndex(u32::from(pick / 5 % 5)) };
        match past {
            Some(attempt) if invented => AttemptKey::new(attempt.task, attempt.attempt.0 + 1),
            Some(attempt) => *attempt,
            None => AttemptKey::new(nobodys, 1),
        }
    }

    fn slander(&mut self, agent: usize, attempt: AttemptKey, kind: u8, digest: u8) {
        let Some(session) = self.fleet[agent].session else { return };
        match kind {
            0 => self.apply(Event::AttemptAccepted { session, attempt }),
            1 => self.apply(Event::AttemptRejected { session, attempt, reason: "no".into() }),
            2 => {
                let held = vec![HeldAttempt { attempt, num_turns: 0, cost_micro_usd: 1 }];
                self.apply(Event::HeartbeatReceived { session, seq: 2, held, load_millis: 0 });
            }
            _ => {
                let mut report = report(attempt, Outcome(digest));
                report.digest = [100 + digest; 32];
                self.apply(Event::AttemptReported { session, report: Box::new(report) });
            }
        }
    }

    fn pass(&mut self, span: Span) {
        let until = self.now.tick + span;
        while let Some(due) = next_deadline(&self.state).filter(|due| *due <= until) {
            self.jump(due.max(self.now.tick));
            self.apply(Event::TimePassed);
        }
        self.jump(until);
    }

    /// Whoever held something still holds it, whatever is due.
    fn stall(&mut self, away: Span) {
        let current = |world: &Self| -> Vec<AttemptKey> {
            let granted = world.granted.iter().copied();
            granted.filter(|attempt| world.state.grant_view(*attempt).is_some()).collect()
        };
        let before = current(self);
        self.jump(self.now.tick + away);
        self.apply(Event::Stalled { away });
        self.apply(Event::TimePassed);
        let after = current(self);
        assert!(before.iter().all(|attempt| after.contains(attempt)), "{before:?} became {after:?}");
    }

    fn jump(&mut self, tick: Tick) {
        self.now.wall.0 += i64::try_from((tick - self.now.tick).0).expect("short");
        self.now.tick = tick;
    }

    fn ask(&mut self, run: u8, task: u8) {
        let target = self.target(run, Some(task));
        let whole = Target { task: None, ..target.clone() };
        let tasks = Query::Tasks { target: whole.clone(), from: TaskIndex(0), limit: 9, states: Vec::new() };
        let queries = [
            Query::Questions { limit: 3 },
            Query::Explain(target.clone()),
            Query::Task(target),
            Query::Run(whole),
            tasks,
            Query::Status,
            Query::Dead { from: (RunId(u64::MAX), TaskIndex(0)), limit: 3 },
            Query::Agents { after: None, limit: 9 },
            Query::Agent("agent-1".into()),
            Query::Runs { below: None, limit: 9, states: Vec::new(), name: None },
        ];
        // The state knows the latest moment; the first question may bring a new one.
        let mut before = None;
        for query in queries {
            let token = self.token();
            self.apply(Event::Asked { token, tenant: ONE, query });
            let after = state_hash(&self.state);
            assert_eq!(*before.get_or_insert(after), after, "a question changed something");
        }
    }

    fn restart(&mut self, live: bool) {
        let mut before = self.store.tasks(&self.state);
        self.state = self.store.load(config(), live);
        let after = self.store.tasks(&self.state);
        // Finished runs may have left, or come back; everything else is as it was.
        before.retain(|key, _| after.contains_key(key));
        for (key, task) in &before {
            assert_eq!(task, &after[key], "task {key} is another after a restart");
        }
        assert!(after.iter().all(|(key, task)| task.state.is_terminal() || before.contains_key(key)));
        self.base = (self.store.clone(), live);
        self.log.clear();
        for agent in &mut self.fleet {
            agent.session = None;
        }
        self.start();
    }

    fn recall(&mut self, run: u8) {
        let run = RunId(u64::from(run) % self.state.last_run().0.max(1) + 1);
        if let Some(run) = self.store.run(run).cloned() {
            self.apply(Event::RunRecalled(Box::new(run)));
        }
    }

    /// Faults stop: the coordinator starts once more, every agent is there, honest and able. Then everything must end.
    pub fn heal(&mut self) {
        self.restart(true);
        self.pass(Span::minutes(3));
        for agent in 0..self.fleet.len() {
            self.fleet[agent].slots = 3;
            self.fleet[agent].capabilities = "disk=big gpu=yes runner=claude runner=noop".to_owned();
            self.join(agent);
            let name: Arc<str> = format!("agent-{agent}").into();
            let (resume, label) = (self.token(), self.token());
            self.apply(Event::ResumeRequested { token: resume, tenant: ONE, agent: name.clone() });
            let change = labelling("!");
            self.apply(Event::LabelRequested { token: label, tenant: ONE, agent: name, change });
        }
        for _ in 0..200 {
            for agent in 0..self.fleet.len() {
                while self.picked(agent, 0, |stage| stage == Stage::Offered).is_some() {
                    self.accept(agent, 0);
                }
                self.heartbeat(agent, false);
                while self.picked(agent, 0, |_| true).is_some() {
                    self.report(agent, 0, Outcome::OK, None, Lost::Nothing);
                }
            }
            self.direct();
            if self.open().is_empty() {
                return;
            }
            self.pass(Span::seconds(5));
        }
        panic!("these never end: {:?}", self.open());
    }

    /// Live tasks that are not terminal.
    fn open(&self) -> Vec<(TaskKey, TaskState)> {
        let keys = self
            .store
            .runs()
            .flat_map(|run| (0..run.task_count).map(TaskIndex).map(|index| TaskKey { run: run.id, index }));
        keys.filter_map(|key| Some((key, self.state.task_record(key)?.state)))
            .filter(|(_, state)| !state.is_terminal())
            .collect()
    }

    /// States of all tasks, in order.
    pub fn outcomes(&self) -> Vec<&'static str> {
        let tasks = self.store.runs().flat_map(|run| &run.tasks);
        tasks
            .map(|task| task.progress.as_ref().map_or("unwritten", |progress| progress.state.word()))
            .collect()
    }
}
