//! Limits hold: many agents with delays between them, the coordinator and an API that enforces its limits to the unit.
//! Time is simulated and every run is the same.
//!
//! A few minutes each; `ORCH_TORTURE_LIMITS=60` simulates so many.
#![expect(unreachable_pub, reason = "a test binary has no outside")]
#![expect(clippy::expect_used, reason = "a test stops at what it did not expect")]
#![expect(clippy::wildcard_enum_match_arm, reason = "an agent takes what concerns limits")]

mod api;
mod gateway;
#[path = "../support/mod.rs"]
mod support;

use api::Api;
use gateway::{Gateway, Request};
use orch_core::effect::Action;
use orch_core::event::{AgentHello, Event};
use orch_core::ids::{Epoch, SessionId, TenantId};
use orch_core::limits::{
    AgentPool, Amounts, BucketSettings, LimitReport, LimitSignal, PoolNotice, PoolSettings, SignalKind,
};
use orch_core::state::State;
use orch_core::time::{Now, Span, Tick, Wall};
use orch_core::{Config, apply, check_invariants, next_deadline};
use std::collections::BTreeMap;

const AGENTS: usize = 10;
/// Requests that each agent's tasks have going at once, as far as they may.
const CONVERSATIONS: u32 = 6;
const BEGIN: u64 = 1_000_000;

#[derive(Debug)]
enum Happens {
    Ask(usize, Request),
    Arrive(usize, Request),
    Begun(usize, Request, Option<orch_core::limits::LimitHeaders>),
    Refused(usize, Request, Span),
    Ended(usize, Request),
    Reported(LimitReport, SessionId),
    Signalled(LimitSignal, SessionId),
    Credit(usize, Amounts),
    Told(usize, PoolNotice),
    Try(usize),
    Idle(usize),
}

/// What requests are like: the most they take of input, of output, and how long they last at most.
#[derive(Clone, Copy)]
struct Load {
    input: u64,
    output: u64,
    millis: u64,
}

struct World {
    state: State,
    api: Api,
    agents: Vec<Gateway>,
    queue: BTreeMap<(u64, u64), Happens>,
    /// When the latest message arrives, by agent and direction: streams keep order.
    streams: [Vec<u64>; 2],
    now: u64,
    serial: u64,
    seed: u64,
    load: Load,
    events: u64,
}

impl World {
    fn new(limits: [u64; 3], tells: bool, known: Option<[u64; 3]>, load: Load) -> Self {
        let mut state = State::new(Config::new(support::rules()));
        let at = Now { tick: Tick(BEGIN), wall: Wall(1_700_000_000_000) };
        apply(&mut state, at, Event::Started { epoch: Epoch(1) });
        if let Some([requests, input, output]) = known {
            let row = BucketSettings { requests: Some(requests), input: Some(input), output: Some(output) };
            let settings = PoolSettings { buckets: vec![("".into(), row)], ..PoolSettings::default() };
            apply(&mut state, at, Event::LimitsConfigured { pools: vec![("*".into(), settings)] });
        }
        let agents = (0..AGENTS).map(|index| Gateway::new(SessionId(index as u64 + 1))).collect();
        let mut world = Self {
            state,
            api: Api::new(limits, tells),
            agents,
            queue: BTreeMap::new(),
            streams: [vec![0; AGENTS], vec![0; AGENTS]],
            now: BEGIN,
            serial: 0,
            seed: 7,
            load,
            events: 0,
        };
        world.api.at_start(BEGIN);
        for index in 0..AGENTS {
            let pool = AgentPool {
                name: "team".into(),
                workers: Vec::new(),
                gateway: true,
                fingerprint: Vec::new(),
            };
            let hello = AgentHello {
                session: SessionId(index as u64 + 1),
                tenant: TenantId(1),
                name: format!("box-{index}").into(),
                incarnation: [1; 16],
                keeps_allowances: true,
                slots: CONVERSATIONS,
                capabilities: Vec::new(),
                inventory: Vec::new(),
                conversations: Vec::new(),
                pools: vec![pool],
            };
            world.apply(Event::AgentJoined(Box::new(hello)));
            for conversation in 0..CONVERSATIONS {
                let request = world.request(conversation);
                let after = world.random(2_000);
                world.happen(after, Happens::Ask(index, request));
            }
            world.happen(1_500, Happens::Idle(index));
        }
        world
    }

    /// Below `bound`, the same in every run.
    fn random(&mut self, bound: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn request(&mut self, conversation: u32) -> Request {
        let input = self.load.input / 8 + self.random(self.load.input * 7 / 8);
        let output = self.load.output / 8 + self.random(self.load.output * 7 / 8);
        // Mostly thought to be more than it is, by half at most; one of twenty is thought to be a tenth less.
        let wrong = |world: &mut Self, is: u64| {
            let low = world.random(20) == 0;
            if low { is * 9 / 10 } else { is + world.random(is / 2) }
        };
        let need =
            Amounts { requests: 1, input: wrong(self, input), output: wrong(self, output), concurrent: 1 };
        Request { conversation, input, output, need }
    }

    fn happen(&mut self, after: u64, what: Happens) {
        self.serial += 1;
        self.queue.insert((self.now + after, self.serial), what);
    }

    /// On a stream of an agent, in order, up to 50 ms later.
    fn send(&mut self, agent: usize, direction: usize, what: Happens) {
        let at = (self.now + 1 + self.random(50)).max(self.streams[direction][agent]);
        self.streams[direction][agent] = at;
        self.happen(at - self.now, what);
    }

    fn apply(&mut self, event: Event) {
        self.events += 1;
        let at = Now { tick: Tick(self.now), wall: Wall(1_700_000_000_000 + self.now as i64) };
        let effects = apply(&mut self.state, at, event);
        if self.events.is_multiple_of(16) {
            check_invariants(&self.state).expect("every rule holds");
        }
        for action in effects.actions {
            match action {
                Action::LimitGrant { session, granted, .. } => {
                    let agent = session.0 as usize - 1;
                    self.send(agent, 1, Happens::Credit(agent, granted));
                }
                Action::PoolNotice { session, notice } => {
                    let agent = session.0 as usize - 1;
                    self.send(agent, 1, Happens::Told(agent, *notice));
                }
                _ => {}
            }
        }
    }

    fn report(&mut self, agent: usize) {
        let report = self.agents[agent].report();
        let session = self.agents[agent].session;
        self.send(agent, 0, Happens::Reported(report, session));
    }

    /// Lets go what may go.
    fn attempt(&mut self, agent: usize) {
        while let Some(request) = self.agents[agent].go(self.now) {
            let after = 5 + self.random(45);
            self.happen(after, Happens::Arrive(agent, request));
        }
        let until = self.agents[agent].paused_until();
        if until > self.now {
            self.happen(until - self.now, Happens::Try(agent));
        }
    }

    fn step(&mut self, what: Happens) {
        match what {
            Happens::Ask(agent, request) => {
                self.agents[agent].wait(request);
                self.attempt(agent);
                self.report(agent);
            }
            Happens::Arrive(agent, request) => {
                let after = 5 + self.random(45);
                match self.api.ask(self.now, request.input) {
                    Ok(()) => {
                        let headers = self.api.headers();
                        self.happen(after, Happens::Begun(agent, request, headers));
                        let lasts = after + 500 + self.random(self.load.millis);
                        self.happen(lasts, Happens::Ended(agent, request));
                    }
                    Err(wait) => self.happen(after, Happens::Refused(agent, request, wait)),
                }
            }
            Happens::Begun(agent, request, headers) => {
                self.agents[agent].begun(request, headers);
                self.attempt(agent);
                self.report(agent);
            }
            Happens::Refused(agent, request, wait) => {
                self.agents[agent].refused(request, wait.0, self.now);
                let signal = LimitSignal {
                    pool: "team".into(),
                    model_class: "opus".into(),
                    kind: SignalKind::Throttled,
                    retry_after: Some(wait),
                    window: "".into(),
                    detail: "".into(),
                };
                let session = self.agents[agent].session;
                self.send(agent, 0, Happens::Signalled(signal, session));
                self.report(agent);
                self.attempt(agent);
            }
            Happens::Ended(agent, request) => {
                self.api.end(self.now, request.output);
                self.agents[agent].ended(request);
                let (next, pause) = (self.request(request.conversation), self.random(200));
                self.happen(pause, Happens::Ask(agent, next));
                self.attempt(agent);
                self.report(agent);
            }
            Happens::Reported(report, session) => {
                self.apply(Event::LimitsReported { session, report: Box::new(report) });
            }
            Happens::Signalled(signal, session) => {
                self.apply(Event::LimitSignalled { session, signal: Box::new(signal) });
            }
            Happens::Credit(agent, granted) => {
                self.agents[agent].credit(granted);
                self.attempt(agent);
            }
            Happens::Told(agent, notice) => {
                let now = self.now;
                self.agents[agent].told(&notice, now);
                self.attempt(agent);
                self.report(agent);
            }
            Happens::Try(agent) => self.attempt(agent),
            Happens::Idle(agent) => {
                if self.agents[agent].give_back() {
                    self.report(agent);
                }
                self.happen(1_500, Happens::Idle(agent));
            }
        }
    }

    fn run(&mut self, millis: u64) {
        let until = self.now + millis;
        // Heartbeats keep sessions heard; reports do that here, and silence would only hide the agents from grants.
        loop {
            let timer = next_deadline(&self.state).map(|tick| tick.0.max(self.now));
            let next = self.queue.first_key_value().map(|((at, _), _)| *at);
            let Some(at) = timer.into_iter().chain(next).min().filter(|at| *at <= until) else { break };
            self.now = at;
            if next == Some(at) {
                let ((_, _), what) = self.queue.pop_first().expect("something happens");
                self.step(what);
            } else {
                self.apply(Event::TimePassed);
            }
        }
        self.now = until;
    }
}

/// What came of a run.
#[derive(Debug)]
struct Figures {
    /// Part of the limit that was used, the largest of the three, in percent.
    used: f64,
    /// Part of the requests that were refused, in percent.
    refused: f64,
    overdrawn: u64,
}

#[expect(clippy::disallowed_methods, reason = "how long to simulate is for whoever runs the test to say")]
fn minutes() -> u64 {
    std::env::var("ORCH_TORTURE_LIMITS").ok().and_then(|text| text.parse().ok()).unwrap_or(3)
}

/// Lets it run for a minute, so that buckets that were full are not, and then measures.
fn measure(mut world: World, limits: [u64; 3], warm_up: u64) -> Figures {
    world.run(warm_up * 60_000);
    let before = world.api.clone();
    let minutes = minutes();
    world.run(minutes * 60_000);
    let api = &world.api;
    let used = (0..3)
        .map(|unit| (api.taken[unit] - before.taken[unit]) as f64 / (limits[unit] * minutes) as f64 * 100.0)
        .fold(0.0, f64::max);
    let refused = api.refused as f64 / (api.served + api.refused) as f64 * 100.0;
    check_invariants(&world.state).expect("every rule holds");
    Figures { used, refused, overdrawn: api.overdrawn }
}

const LIMITS: [u64; 3] = [4_000, 400_000, 80_000];
/// Input is what there is too little of.
const READS: Load = Load { input: 4_000, output: 400, millis: 6_000 };
/// Output is.
const WRITES: Load = Load { input: 1_000, output: 800, millis: 8_000 };
/// Requests are.
const ASKS: Load = Load { input: 60, output: 10, millis: 300 };

#[test]
fn with_known_limits_nothing_is_refused_and_more_than_95_percent_is_used() {
    for load in [READS, WRITES, ASKS] {
        for tells in [true, false] {
            let figures = measure(World::new(LIMITS, tells, Some(LIMITS), load), LIMITS, 1);
            assert_eq!((figures.refused, figures.overdrawn), (0.0, 0), "{figures:?}");
            assert!(figures.used >= 95.0, "{figures:?}");
        }
    }
}

#[test]
fn limits_that_are_wrong_by_half_or_unknown_are_learned_from_headers() {
    let double = LIMITS.map(|limit| limit * 2);
    let half = LIMITS.map(|limit| limit / 2);
    for known in [Some(double), Some(half), None] {
        for load in [READS, WRITES] {
            let figures = measure(World::new(LIMITS, true, known, load), LIMITS, 1);
            assert!(figures.refused <= 1.0 && figures.used >= 85.0, "{known:?}: {figures:?}");
        }
    }
}

#[test]
fn limits_that_nobody_tells_are_found_by_what_is_refused() {
    let double = LIMITS.map(|limit| limit * 2);
    for known in [Some(double), None] {
        for load in [READS, WRITES] {
            let figures = measure(World::new(LIMITS, false, known, load), LIMITS, 3);
            assert!(figures.refused <= 2.0 && figures.used >= 85.0, "{known:?}: {figures:?}");
        }
    }
}
