//! Random histories of attempts that share budgets: gateways that ask and spend, words that are late or lost, agents that
//! are lost, a coordinator that is killed at any moment. Whatever happens, no budget is passed by more than one request, and
//! once nothing lives nothing is reserved.

#![expect(clippy::wildcard_enum_match_arm, reason = "a test stops at what it did not expect")]

#[path = "model/store.rs"]
#[expect(dead_code, unreachable_pub, clippy::expect_used, reason = "the store of the model, as it is there")]
mod store;
mod support;

use orch_core::budgets::{
    Allowance, Budget, BudgetLimit, BudgetPeriod, BudgetScope, BudgetView, Spending, Spent,
};
use orch_core::effect::Action;
use orch_core::event::{AgentHello, Event, HeldAttempt, HeldState, InventoryItem, NewTask, Report};
use orch_core::ids::{AttemptKey, Epoch, SessionId, Token};
use orch_core::outcome::Outcome;
use orch_core::query::{Answer, Query};
use orch_core::state::State;
use orch_core::time::{Now, Span, Tick, Wall};
use orch_core::usage::{ModelUsage, Usage};
use orch_core::{Config, apply, check_invariants, next_deadline};
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use store::Store;
use support::{ONE, report, rules, submission};

/// The most that one request can cost.
const REQUEST: u64 = 100;
const RUN_LIMIT: u64 = 200;
const ALL_LIMIT: u64 = 260;
const AGENTS: usize = 3;

#[derive(Debug, Clone)]
enum Op {
    Submit {
        tasks: u8,
    },
    /// The CLI of an attempt wants a request of at most so much, of which it will cost a part.
    Ask {
        agent: u8,
        pick: u8,
        bound: u8,
        percent: u8,
    },
    /// A request ends.
    Answered {
        agent: u8,
        pick: u8,
    },
    /// The next word of the coordinator arrives.
    Deliver {
        agent: u8,
    },
    Heartbeat {
        agent: u8,
    },
    End {
        agent: u8,
        pick: u8,
        budget: bool,
    },
    Cancel {
        run: u8,
    },
    /// The stream is cut: what is on its way is lost.
    Cut {
        agent: u8,
    },
    Join {
        agent: u8,
    },
    /// The host is gone with everything on it.
    Die {
        agent: u8,
    },
    Restart,
    Pass {
        seconds: u8,
    },
}

/// An attempt on its agent, with its gateway.
#[derive(Debug, Clone, Default)]
struct Child {
    allowed: Option<u64>,
    one_more: bool,
    over: bool,
    seq: u64,
    spent: u64,
    /// Bound and cost of each request in flight.
    flying: Vec<(u64, u64)>,
    /// A request that waits.
    waits: Option<(u64, u64)>,
}

impl Child {
    fn bound(&self) -> u64 {
        self.spent + self.flying.iter().map(|(bound, _)| bound).sum::<u64>()
    }

    fn hear(&mut self, told: &Allowance) {
        if told.seq > self.seq {
            self.seq = told.seq;
            self.allowed = told.micro_usd;
            self.one_more = told.one_more;
            self.over = told.spent;
        }
    }

    /// Lets the waiting request go if it may.
    fn try_go(&mut self) {
        let Some((bound, cost)) = self.waits else { return };
        if self.over {
            self.waits = None;
            return;
        }
        let fits = self.allowed.is_none_or(|allowed| self.bound() + bound <= allowed);
        let last =
            self.one_more && self.flying.is_empty() && self.allowed.is_some_and(|most| self.spent < most);
        if fits || last {
            self.one_more &= fits;
            self.waits = None;
            self.flying.push((bound, cost));
        }
    }
}

#[derive(Debug, Default)]
struct Host {
    session: Option<SessionId>,
    children: BTreeMap<AttemptKey, Child>,
    /// Reports that nobody acknowledged.
    reports: BTreeMap<AttemptKey, Report>,
    inbox: VecDeque<Action>,
}

struct World {
    state: State,
    store: Store,
    now: Now,
    hosts: Vec<Host>,
    sessions: u64,
    epoch: u64,
    /// What was really spent, by anybody, ever: in all, and by run.
    truth: u64,
    by_run: BTreeMap<u64, u64>,
    answers: Vec<Answer>,
    fired: BTreeMap<&'static str, u32>,
}

fn config() -> Config {
    let mut config = Config::new(rules());
    config.lost_after = Span::seconds(60);
    config
}

fn money(micro_usd: u64) -> Spent {
    Spent { micro_usd, ..Spent::default() }
}

fn usage(cost_micro_usd: u64) -> Usage {
    let row = ModelUsage {
        model: "opus".into(),
        input: cost_micro_usd,
        output: 0,
        cache_read: 0,
        cache_write: 0,
        cost_micro_usd,
    };
    if cost_micro_usd == 0 {
        return Usage::default();
    }
    Usage { models: vec![row], cost_micro_usd, estimated: false }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: State::new(config()),
            store: Store::default(),
            now: Now { tick: Tick(5_000), wall: Wall(1_700_000_000_000) },
            hosts: (0..AGENTS).map(|_| Host::default()).collect(),
            sessions: 0,
            epoch: 0,
            truth: 0,
            by_run: BTreeMap::new(),
            answers: Vec::new(),
            fired: BTreeMap::new(),
        };
        world.start();
        let limit = BudgetLimit { micro_usd: Some(ALL_LIMIT), ..BudgetLimit::default() };
        let (name, scope, period) = ("all".into(), BudgetScope::Tenant, BudgetPeriod::Total);
        let budget = Box::new(Budget { name, scope, period, limit });
        world.apply(Event::BudgetSet { token: Token(1), tenant: ONE, budget }, None);
        for agent in 0..AGENTS {
            world.join(agent);
        }
        world.submit(4);
        world.submit(4);
        world
    }

    fn start(&mut self) {
        self.epoch += 1;
        self.apply(Event::Started { epoch: Epoch(self.epoch) }, None);
    }

    fn fire(&mut self, what: &'static str) {
        *self.fired.entry(what).or_default() += 1;
    }

    fn apply(&mut self, event: Event, specs: Option<Vec<NewTask>>) {
        let shown = format!("{event:?}");
        let effects = apply(&mut self.state, self.now, event);
        if let Err(violation) = check_invariants(&self.state) {
            panic!("after {shown}: {violation}");
        }
        self.store.commit(&self.state, &effects.writes, specs);
        for action in effects.actions {
            let session = match &action {
                Action::Reply { answer, .. } => {
                    self.answers.push((**answer).clone());
                    continue;
                }
                Action::Grant { session, .. }
                | Action::Allowance { session, .. }
                | Action::Stop { session, .. }
                | Action::Welcome { session, .. }
                | Action::HeartbeatAck { session, .. }
                | Action::ReportVerdict { session, .. } => *session,
                Action::LimitGrant { .. }
                | Action::PoolNotice { .. }
                | Action::Consult
                | Action::Close { .. } => {
                    continue;
                }
            };
            if let Some(host) = self.hosts.iter_mut().find(|host| host.session == Some(session)) {
                host.inbox.push_back(action);
            }
        }
        self.check();
    }

    /// However late anything is: what was really spent passes no budget by more than a request.
    fn check(&self) {
        assert!(self.truth < ALL_LIMIT + REQUEST, "{} of {ALL_LIMIT} were spent", self.truth);
        for (run, spent) in &self.by_run {
            assert!(*spent < RUN_LIMIT + REQUEST, "{spent} of {RUN_LIMIT} were spent by run {run}");
        }
    }

    fn join(&mut self, agent: usize) {
        self.sessions += 1;
        let session = SessionId(self.sessions);
        let host = &mut self.hosts[agent];
        host.session = Some(session);
        host.inbox.clear();
        let held = host.children.keys().map(|attempt| (*attempt, HeldState::Running));
        let ended = host.reports.keys().map(|attempt| (*attempt, HeldState::Finished));
        let inventory: Vec<InventoryItem> =
            held.chain(ended).map(|(attempt, state)| InventoryItem { attempt, state }).collect();
        let hello = AgentHello {
            session,
            tenant: ONE,
            name: format!("host-{agent}").into(),
            incarnation: [1; 16],
            keeps_allowances: true,
            slots: 4,
            capabilities: vec!["runner=claude".into()],
            inventory,
            conversations: Vec::new(),
            pools: Vec::new(),
        };
        self.apply(Event::AgentJoined(Box::new(hello)), None);
    }

    fn deliver(&mut self, agent: usize) -> bool {
        let Some(action) = self.hosts[agent].inbox.pop_front() else { return false };
        match action {
            Action::Grant { session, attempt } => {
                let Some(view) = self.state.grant_view(attempt) else { return true };
                let mut child = Child::default();
                if let Some(told) = view.allowance {
                    child.hear(&told);
                }
                self.hosts[agent].children.insert(attempt, child);
                self.apply(Event::AttemptAccepted { session, attempt }, None);
            }
            Action::Allowance { attempt, allowance, .. } => {
                let Some(child) = self.hosts[agent].children.get_mut(&attempt) else { return true };
                child.hear(&allowance);
                child.try_go();
                self.say(agent, attempt);
            }
            Action::Stop { attempt, .. } => self.end(agent, attempt, Outcome::CANCELLED),
            Action::Welcome { verdicts, .. } => {
                for (attempt, verdict) in verdicts {
                    match verdict {
                        orch_core::effect::Verdict::Keep => {}
                        orch_core::effect::Verdict::SendReport => self.send(agent, attempt),
                        orch_core::effect::Verdict::Cancel => self.end(agent, attempt, Outcome::CANCELLED),
                    }
                }
                let late: Vec<AttemptKey> = self.hosts[agent].reports.keys().copied().collect();
                for attempt in late {
                    self.send(agent, attempt);
                }
            }
            Action::ReportVerdict { attempt, .. } => {
                self.hosts[agent].reports.remove(&attempt);
            }
            _ => {}
        }
        true
    }

    fn say(&mut self, agent: usize, attempt: AttemptKey) {
        let host = &self.hosts[agent];
        let (Some(session), Some(child)) = (host.session, host.children.get(&attempt)) else { return };
        let spending = Spending {
            attempt,
            spent: money(child.spent),
            bound: money(child.bound()),
            wanted: money(child.waits.map_or(0, |(bound, _)| child.bound() + bound)),
            in_flight: child.flying.len() as u32,
            estimated: false,
            seen: child.seq,
        };
        self.apply(Event::SpendingReported { session, spending }, None);
    }

    fn heartbeat(&mut self, agent: usize) {
        let Some(session) = self.hosts[agent].session else { return };
        let children = &self.hosts[agent].children;
        let item = |(attempt, child): (&AttemptKey, &Child)| HeldAttempt {
            attempt: *attempt,
            num_turns: 1,
            cost_micro_usd: child.spent,
        };
        let held: Vec<HeldAttempt> = children.iter().map(item).collect();
        let attempts: Vec<AttemptKey> = children.keys().copied().collect();
        self.apply(Event::HeartbeatReceived { session, seq: 1, held, load_millis: 0 }, None);
        for attempt in attempts {
            self.say(agent, attempt);
        }
    }

    fn picked(&self, agent: usize, pick: u8) -> Option<AttemptKey> {
        let children = &self.hosts[agent].children;
        children.keys().nth(usize::from(pick) % children.len().max(1)).copied()
    }

    fn ask(&mut self, agent: usize, pick: u8, bound: u64, percent: u64) {
        let Some(attempt) = self.picked(agent, pick) else { return };
        let Some(child) = self.hosts[agent].children.get_mut(&attempt) else { return };
        if child.waits.is_some() || child.over {
            return;
        }
        child.waits = Some((bound, bound * percent / 100));
        child.try_go();
        if child.waits.is_some() {
            self.fire("asked");
            self.say(agent, attempt);
        }
    }

    fn answered(&mut self, agent: usize, pick: u8) {
        let Some(attempt) = self.picked(agent, pick) else { return };
        let Some(child) = self.hosts[agent].children.get_mut(&attempt) else { return };
        if child.flying.is_empty() {
            return;
        }
        let (_, cost) = child.flying.remove(usize::from(pick) % child.flying.len());
        child.spent += cost;
        child.try_go();
        self.truth += cost;
        *self.by_run.entry(attempt.task.run.0).or_default() += cost;
        self.say(agent, attempt);
        self.check();
    }

    /// An attempt ends: what is in flight costs what it costs.
    fn end(&mut self, agent: usize, attempt: AttemptKey, outcome: Outcome) {
        let Some(child) = self.hosts[agent].children.remove(&attempt) else { return };
        let rest: u64 = child.flying.iter().map(|(_, cost)| cost).sum();
        self.truth += rest;
        *self.by_run.entry(attempt.task.run.0).or_default() += rest;
        let mut made = report(attempt, outcome);
        made.usage = usage(child.spent + rest);
        self.hosts[agent].reports.insert(attempt, made);
        self.send(agent, attempt);
    }

    fn send(&mut self, agent: usize, attempt: AttemptKey) {
        let host = &self.hosts[agent];
        let (Some(session), Some(made)) = (host.session, host.reports.get(&attempt).cloned()) else { return };
        self.apply(Event::AttemptReported { session, report: Box::new(made) }, None);
    }

    fn pass(&mut self, span: Span) {
        let until = self.now.tick + span;
        while let Some(due) = next_deadline(&self.state).filter(|due| *due <= until) {
            self.jump(due.max(self.now.tick));
            self.apply(Event::TimePassed, None);
        }
        self.jump(until);
    }

    fn jump(&mut self, tick: Tick) {
        self.now.wall.0 += (tick - self.now.tick).0 as i64;
        self.now.tick = tick;
    }

    fn submit(&mut self, count: u8) {
        let lines: Vec<String> =
            (0..count).map(|at| format!("t{at} needs runner=claude retries 1")).collect();
        let mut submit = submission(Token(9), &lines.join("\n"));
        let tasks = submit.tasks.clone();
        submit.shape.budget = Some(BudgetLimit { micro_usd: Some(RUN_LIMIT), ..BudgetLimit::default() });
        self.apply(Event::Submitted(Box::new(submit)), Some(tasks));
    }

    fn views(&mut self) -> Vec<BudgetView> {
        self.answers.clear();
        self.apply(Event::Asked { token: Token(3), tenant: ONE, query: Query::Budgets(true) }, None);
        match self.answers.pop() {
            Some(Answer::Budgets(views)) => views,
            other => panic!("no budgets: {other:?}"),
        }
    }

    fn restart(&mut self) {
        self.fire("restart");
        let before = self.views();
        // Runs that ended are left where they are by every other start, as a coordinator does.
        self.state = self.store.load(config(), self.epoch.is_multiple_of(2));
        for host in &mut self.hosts {
            host.session = None;
            host.inbox.clear();
        }
        self.start();
        let after = self.views();
        for (was, is) in before.iter().zip(&after) {
            // What is open of runs that ended counts as spent, estimated.
            let counted = |view: &BudgetView| view.spent.micro_usd - view.estimated_micro_usd;
            assert_eq!(counted(was), counted(is), "another sum after a restart");
            assert!(was.spent.micro_usd <= is.spent.micro_usd, "{was:?} became {is:?}");
            let promised = |view: &BudgetView| view.spent.micro_usd + view.reserved.micro_usd;
            assert!(promised(is) <= promised(was), "{was:?} became {is:?}");
        }
    }

    fn run(&mut self, op: &Op) {
        let host = |agent: &u8| usize::from(*agent) % AGENTS;
        match op {
            Op::Submit { tasks } => self.submit(tasks % 4 + 1),
            Op::Ask { agent, pick, bound, percent } => {
                let bound = u64::from(*bound) % REQUEST + 1;
                self.ask(host(agent), *pick, bound, u64::from(*percent) % 101);
            }
            Op::Answered { agent, pick } => self.answered(host(agent), *pick),
            Op::Deliver { agent } => {
                for _ in 0..=agent / 64 {
                    self.deliver(host(agent));
                }
            }
            Op::Heartbeat { agent } => self.heartbeat(host(agent)),
            Op::End { agent, pick, budget } => {
                let outcome = if *budget { Outcome::BUDGET } else { Outcome::OK };
                if let Some(attempt) = self.picked(host(agent), *pick) {
                    self.end(host(agent), attempt, outcome);
                }
            }
            Op::Cancel { run } => {
                let run =
                    orch_core::event::RunTarget::Ref { name: "adhoc".into(), number: u64::from(run % 6) + 1 };
                let target = orch_core::event::Target { tenant: ONE, run, task: None };
                self.apply(Event::CancelRequested { token: Token(4), target, reason: "so".into() }, None);
            }
            Op::Cut { agent } => {
                if let Some(session) = self.hosts[host(agent)].session.take() {
                    self.fire("cut");
                    self.hosts[host(agent)].inbox.clear();
                    self.apply(Event::SessionEnded { session }, None);
                }
            }
            Op::Join { agent } => {
                if self.hosts[host(agent)].session.is_none() {
                    self.join(host(agent));
                }
            }
            Op::Die { agent } => self.die(host(agent)),
            Op::Restart => self.restart(),
            Op::Pass { seconds } => self.pass(Span::seconds(u64::from(seconds % 40))),
        }
    }

    /// Nothing of it is ever heard again; what was in flight was spent.
    fn die(&mut self, agent: usize) {
        self.fire("died");
        let host = std::mem::take(&mut self.hosts[agent]);
        for (attempt, child) in host.children {
            let rest: u64 = child.flying.iter().map(|(_, cost)| cost).sum();
            self.truth += rest;
            *self.by_run.entry(attempt.task.run.0).or_default() += rest;
        }
        if let Some(session) = host.session {
            self.apply(Event::SessionEnded { session }, None);
        }
        self.check();
    }

    /// Everybody comes back and spends as much as it may.
    fn spend_all(&mut self) {
        for _ in 0..12 {
            for agent in 0..AGENTS {
                if self.hosts[agent].session.is_none() {
                    self.join(agent);
                }
                while self.deliver(agent) {}
                for pick in 0..self.hosts[agent].children.len() {
                    self.ask(agent, pick as u8, REQUEST, 100);
                }
                while self.deliver(agent) {}
                for pick in 0..self.hosts[agent].children.len() {
                    self.answered(agent, pick as u8);
                }
            }
        }
    }

    /// Everybody comes back and ends what there is.
    fn heal(&mut self) {
        for _ in 0..60 {
            for agent in 0..AGENTS {
                if self.hosts[agent].session.is_none() {
                    self.join(agent);
                }
                while self.deliver(agent) {}
                while let Some(attempt) = self.picked(agent, 0) {
                    self.end(agent, attempt, Outcome::OK);
                    while self.deliver(agent) {}
                }
            }
            self.pass(Span::seconds(10));
        }
        for view in self.views() {
            assert_eq!(view.reserved, Spent::default(), "{view:?}: nobody lives, something is reserved");
        }
    }
}

fn any_op() -> impl Strategy<Value = Op> {
    let small = any::<u8>;
    prop_oneof![
        2 => small().prop_map(|tasks| Op::Submit { tasks }),
        24 => (small(), small(), small(), small())
            .prop_map(|(agent, pick, bound, percent)| Op::Ask { agent, pick, bound, percent }),
        16 => (small(), small()).prop_map(|(agent, pick)| Op::Answered { agent, pick }),
        24 => small().prop_map(|agent| Op::Deliver { agent }),
        3 => small().prop_map(|agent| Op::Heartbeat { agent }),
        2 => (small(), small(), any::<bool>()).prop_map(|(agent, pick, budget)| Op::End { agent, pick, budget }),
        1 => small().prop_map(|run| Op::Cancel { run }),
        1 => small().prop_map(|agent| Op::Cut { agent }),
        6 => small().prop_map(|agent| Op::Join { agent }),
        1 => (128_u8..131).prop_map(|agent| Op::Die { agent }),
        1 => Just(Op::Restart),
        1 => small().prop_map(|seconds| Op::Pass { seconds }),
    ]
}

/// Histories of a short run; `ORCH_TORTURE_BUDGETS=n` for more.
#[expect(clippy::disallowed_methods, reason = "the count of a long run is asked for by the environment")]
fn cases() -> u32 {
    std::env::var("ORCH_TORTURE_BUDGETS").ok().and_then(|text| text.parse().ok()).unwrap_or(96)
}

#[test]
#[expect(
    clippy::disallowed_types,
    reason = "what happened in all histories together is counted in one place"
)]
fn no_history_passes_a_budget_by_more_than_one_request_or_leaks_a_reservation() {
    let mut fired: BTreeMap<&'static str, u32> = BTreeMap::new();
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let all = std::cell::RefCell::new(&mut fired);
    let histories = proptest::collection::vec(any_op(), 60..300);
    runner
        .run(&histories, |ops| {
            let mut world = World::new();
            for op in &ops {
                world.run(op);
            }
            world.spend_all();
            world.heal();
            let mut all = all.borrow_mut();
            for (what, count) in world.fired {
                *all.entry(what).or_default() += count;
            }
            if world.truth >= ALL_LIMIT || world.by_run.values().any(|spent| *spent >= RUN_LIMIT) {
                *all.entry("all spent").or_default() += 1;
            }
            Ok(())
        })
        .expect("every history holds");
    for kind in ["asked", "restart", "cut", "died", "all spent"] {
        assert!(fired.get(kind).is_some_and(|count| *count > 0), "{kind} never happened: {fired:?}");
    }
}
