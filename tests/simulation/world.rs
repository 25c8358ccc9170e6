//! One seed: who there is, what goes wrong when, and whether everything ended well. Knows hosts by name; how they work is
//! theirs, and what must hold is the checker's.

use crate::agent;
use crate::check;
use crate::client::{self, Client, Deeds, SlotsUsed};
use crate::coordinator;
use crate::disk::Disk;
use crate::entropy;
use crate::faults::{Faults, Fired};
use crate::net::COORDINATOR;
use crate::trace::Trace;
use crate::twin;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// A step of simulated time: hosts take turns this often.
const STEP: Duration = Duration::from_millis(40);
/// Longest way of a message on a healthy link.
const FAR: Duration = Duration::from_millis(70);
/// Everything ends within this time after the last fault: `lost_after` of 60 s twice, the longest pause of a reconnect,
/// the grace of a start, and the work itself.
const BOUND: Duration = Duration::from_secs(300);
/// What is not yet told by then is never told.
const SETTLED: Duration = Duration::from_secs(90);

/// Random choices of one part of a seed: what another part draws changes nothing here.
#[derive(Debug, Clone)]
pub(crate) struct Draw {
    origin: u64,
    state: Arc<Mutex<u64>>,
}

impl Draw {
    pub(crate) fn new(seed: u64) -> Self {
        Self { origin: seed, state: Arc::new(Mutex::new(seed)) }
    }

    /// Choices of a part.
    pub(crate) fn child(&self, part: &str) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        (self.origin, part).hash(&mut hasher);
        Self::new(hasher.finish())
    }

    pub(crate) fn next(&self) -> u64 {
        entropy::next(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Below `limit`, which is not 0.
    pub(crate) fn below(&self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or(0)
    }

    /// From 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a random fraction")]
    pub(crate) fn unit(&self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(crate) fn chance(&self, of: f64) -> bool {
        self.unit() < of
    }

    /// From nothing to `most`, in whole milliseconds.
    pub(crate) fn within(&self, most: Duration) -> Duration {
        let millis = u64::try_from(most.as_millis()).unwrap_or(u64::MAX);
        Duration::from_millis(self.next() % (millis + 1))
    }
}

/// What became of a seed.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct Ran {
    pub(crate) seed: u64,
    /// Of the trace.
    pub(crate) hash: u64,
    pub(crate) events: usize,
    /// Simulated time.
    pub(crate) millis: u64,
    pub(crate) violations: Vec<String>,
    /// How often what happened.
    pub(crate) fired: Fired,
}

impl Ran {
    /// A seed whose process did not come to its end.
    pub(crate) fn broken_off(seed: u64, how: String) -> Self {
        Self { seed, hash: 0, events: 0, millis: 0, violations: vec![how], fired: Fired::new() }
    }
}

/// Hosts of a seed, as faults meet them.
pub(crate) struct World {
    pub(crate) coordinator: coordinator::Host,
    pub(crate) agents: Vec<agent::Host>,
    pub(crate) clients: Vec<Client>,
    pub(crate) twin: twin::Orders,
    pub(crate) trace: Trace,
}

/// Runs a seed on this thread, which must be fresh: the randomness of the standard library is per thread.
pub(crate) fn run(seed: u64, shown: bool) -> Ran {
    entropy::seed_this_thread(seed);
    orch_agent::boottime::simulate(agent::clock);
    orch_agent::blocking::work_in_place();
    orch_coordinator::engine::pool::work_in_place();

    let dir = tempfile::tempdir().expect("a directory");
    let (draw, trace) = (Draw::new(seed), Trace::new(shown));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(STEP)
        .min_message_latency(Duration::ZERO)
        .max_message_latency(FAR)
        .simulation_duration(Duration::from_secs(100_000))
        .tcp_capacity(4_096)
        .build();
    let within = Duration::from_secs(4) + draw.within(Duration::from_secs(8));
    let slots_used = SlotsUsed::default();
    let deeds = Arc::new(Deeds::default());
    let world = people(&draw, &trace, dir.path(), within, &deeds);
    let coordinator = world.coordinator.clone();
    sim.host(COORDINATOR, move || coordinator.clone().run());
    for host in &world.agents {
        let run = host.clone();
        sim.host(host.name.as_str(), move || run.clone().run());
    }
    for client in &world.clients {
        let run = client.clone();
        sim.host(client.name.as_str(), move || run.clone().run());
    }
    let (orders, choices) = (world.twin.clone(), draw.child("twin"));
    let found = Arc::clone(&slots_used);
    sim.host("elsewhere", move || {
        let (orders, choices, found) = (orders.clone(), choices.clone(), Arc::clone(&found));
        async move {
            tokio::select! {
                ended = twin::run(orders, choices) => ended,
                ended = client::audit(found) => ended,
            }
        }
    });

    let mut faults = Faults::new(draw.child("faults"), within + Duration::from_secs(6));
    let (mut violations, mut done_at, mut calm_at) = (Vec::new(), None, None);
    loop {
        trace.time_is(sim.elapsed());
        if let Err(error) = sim.step() {
            violations.push(format!("a host failed: {error}"));
            break;
        }
        let now = sim.elapsed();
        trace.time_is(now);
        world.agents.iter().for_each(agent::Host::look_at_orphans);
        faults.step(&mut sim, &world);
        if faults.are_over() && calm_at.is_none() {
            calm_at = Some(now);
            trace.fault("no more faults");
        }
        let done = world.clients.iter().all(|client| client.done.load(Ordering::Relaxed));
        if done && done_at.is_none() {
            done_at = Some(now);
        }
        let (Some(calm), done) = (calm_at, done_at) else { continue };
        match done.map(|done| done.max(calm)) {
            None if now > calm + BOUND => {
                violations.push(format!("not everything ended within {} s", BOUND.as_secs()));
                break;
            }
            Some(_) if world.is_idle(&slots_used) => break,
            Some(done) if now > done + SETTLED => {
                violations.extend(world.busy(&slots_used));
                break;
            }
            None | Some(_) => {}
        }
    }
    let millis = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (hash, events) = (trace.hash(), trace.events());
    let mut fired = faults.fired;
    count(&mut fired, &world, &deeds);
    // What hosts do when they are dropped is no part of the run.
    drop(sim);
    let checked = check::check(&events, &world.coordinator.disk, &mut fired);
    violations.extend(checked);
    Ran { seed, hash, events: events.len(), millis, violations, fired }
}

fn people(draw: &Draw, trace: &Trace, dir: &std::path::Path, within: Duration, deeds: &Arc<Deeds>) -> World {
    let disk = Disk::new(draw.child("disk"), trace.clone());
    let agent = |number: usize| {
        let name = format!("agent-{number}");
        let (slots, home) = (1 + draw.below(3), dir.join(&name));
        let slots = u32::try_from(slots).unwrap_or(1);
        agent::Host::new(&name, slots, draw.child(&name), trace.clone(), home)
    };
    let agents = (1..=2 + draw.below(4)).map(agent).collect();
    let client = |number: usize| {
        let name = format!("client-{number}");
        Client {
            draw: draw.child(&name),
            name,
            trace: trace.clone(),
            deeds: Arc::clone(deeds),
            within,
            runs: 1 + draw.below(3),
            done: Arc::new(AtomicBool::new(false)),
            cut: Arc::default(),
        }
    };
    let clients = (1..=2 + draw.below(3)).map(client).collect();
    let coordinator = coordinator::Host::new(disk, trace.clone(), dir.join("coordinator"));
    World { coordinator, agents, clients, twin: twin::Orders::default(), trace: trace.clone() }
}

impl World {
    /// Whether nothing runs, nothing is owed and every slot is free.
    fn is_idle(&self, slots_used: &SlotsUsed) -> bool {
        let used = slots_used.lock().unwrap_or_else(PoisonError::into_inner);
        let all_free = used.as_ref().is_some_and(|used| used.values().all(|used| *used == 0));
        all_free && self.agents.iter().all(|agent| agent.busy() == (0, 0))
    }

    fn busy(&self, slots_used: &SlotsUsed) -> Vec<String> {
        let mut busy = Vec::new();
        for agent in &self.agents {
            let (children, owed) = agent.busy();
            if (children, owed) != (0, 0) {
                busy.push(format!("{} still has {children} children and owes {owed} reports", agent.name));
            }
        }
        let used = slots_used.lock().unwrap_or_else(PoisonError::into_inner);
        busy.push(format!("slots in use in the end: {used:?}"));
        busy
    }
}

fn count(fired: &mut Fired, world: &World, deeds: &Deeds) {
    let (lost, kept) = *world.coordinator.disk.torn.lock().unwrap_or_else(PoisonError::into_inner);
    for (what, count) in [
        ("batch lost at a kill", lost),
        ("batch kept at a kill", kept),
        ("submit repeated", deeds.resubmits.load(Ordering::Relaxed)),
        ("submit doubled", deeds.doubled.load(Ordering::Relaxed)),
        ("submit contradicted", deeds.contradictions.load(Ordering::Relaxed)),
        ("run cancelled", deeds.cancels.load(Ordering::Relaxed)),
        ("run retried", deeds.retries.load(Ordering::Relaxed)),
        ("watch resumed", deeds.resumed_watches.load(Ordering::Relaxed)),
    ] {
        *fired.entry(what.to_owned()).or_default() += count;
    }
}
