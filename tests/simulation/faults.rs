//! What goes wrong: kinds of faults, drawn from the seed. Each seed uses some kinds and not others, so that rare
//! combinations are met undisturbed; each fault ends, and after the last one nothing goes wrong any more.

use crate::net::COORDINATOR;
use crate::trace::Event;
use crate::world::{Draw, World};
use orch_coordinator::store::memory::FailAt;
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;
use turmoil::Sim;

/// How often what happened.
pub(crate) type Fired = BTreeMap<String, u32>;

/// Latency of a slow link, at most.
const SLOW: Duration = Duration::from_millis(1_500);

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    KillCoordinator,
    StopCoordinator,
    FailDisk,
    Suspend,
    WrongClock,
    KillAgent,
    LosePower,
    StopAgent,
    Partition,
    PartitionUp,
    PartitionDown,
    Hold,
    Slow,
    Twin,
    CutWatch,
}

const KINDS: [(Kind, &str); 15] = [
    (Kind::KillCoordinator, "coordinator killed"),
    (Kind::StopCoordinator, "coordinator stopped with GoAway"),
    (Kind::FailDisk, "disk failed"),
    (Kind::Suspend, "coordinator suspended"),
    (Kind::WrongClock, "wall clock wrong"),
    (Kind::KillAgent, "agent killed"),
    (Kind::LosePower, "agent lost power"),
    (Kind::StopAgent, "agent stopped"),
    (Kind::Partition, "partition both ways"),
    (Kind::PartitionUp, "partition to the coordinator"),
    (Kind::PartitionDown, "partition from the coordinator"),
    (Kind::Hold, "link held"),
    (Kind::Slow, "link slow"),
    (Kind::Twin, "identity doubled"),
    (Kind::CutWatch, "watch cut"),
];

/// Everything that must have happened over a budget, besides the kinds of faults.
pub(crate) const DEEDS: [&str; 16] = [
    "spool lost what was not synced",
    "batch lost at a kill",
    "batch kept at a kill",
    "submit repeated",
    "submit doubled",
    "submit contradicted",
    "run cancelled",
    "run retried",
    "watch resumed",
    "report recorded",
    "report not recorded",
    "attempt after a lost one",
    "task poisoned",
    "child survived its agent",
    "child ended by its dead-man switch",
    "bulk answer recorded",
];

/// Names of all kinds.
pub(crate) fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|(_, name)| *name)
}

/// What ends a fault.
#[derive(Debug, Clone)]
enum End {
    Coordinator,
    Agent(usize),
    Link(String),
    Held(String),
    Slow(String),
    Clock,
}

/// The faults of a seed.
pub(crate) struct Faults {
    draw: Draw,
    kinds: Vec<(Kind, &'static str)>,
    gap: Duration,
    until: Duration,
    next: Duration,
    ends: Vec<(Duration, End)>,
    /// Coordinator and agents that are down.
    coordinator_down: bool,
    agents_down: Vec<usize>,
    links: Vec<String>,
    /// What is to happen as soon as it hurts: the coordinator is killed while a batch is under way, an agent loses its
    /// power while its spool is not synced.
    kill_when_busy: bool,
    lose_when_unsynced: Option<usize>,
    /// The disk was made to fail: an end of the coordinator is no surprise.
    disk_fails: bool,
    pub(crate) fired: Fired,
}

impl Faults {
    pub(crate) fn new(draw: Draw, until: Duration) -> Self {
        let mut kinds: Vec<_> = KINDS.into_iter().filter(|_| draw.chance(0.35)).collect();
        if kinds.is_empty() {
            kinds.push(KINDS[draw.below(KINDS.len())]);
        }
        let gap = Duration::from_millis(250) + draw.within(Duration::from_secs(3));
        let next = Duration::from_secs(1) + draw.within(gap);
        Self {
            draw,
            kinds,
            gap,
            until,
            next,
            ends: Vec::new(),
            coordinator_down: false,
            agents_down: Vec::new(),
            links: Vec::new(),
            kill_when_busy: false,
            lose_when_unsynced: None,
            disk_fails: false,
            fired: Fired::new(),
        }
    }

    /// Whether every fault has ended and none will come.
    pub(crate) fn are_over(&self) -> bool {
        self.next > self.until
            && self.ends.is_empty()
            && !self.coordinator_down
            && self.agents_down.is_empty()
    }

    /// Ends what is to end now, and begins what is to begin.
    pub(crate) fn step(&mut self, sim: &mut Sim<'_>, world: &World) {
        let now = sim.elapsed();
        self.notice_ends(sim, world);
        let due: Vec<_> = self.ends.extract_if(.., |(at, _)| *at <= now).map(|(_, end)| end).collect();
        for end in due {
            self.end(sim, world, end);
        }
        self.look_for_a_bad_moment(sim, world);
        if now >= self.next && self.next <= self.until {
            self.next = now + Duration::from_millis(50) + self.draw.within(self.gap * 2);
            let (kind, name) = self.kinds[self.draw.below(self.kinds.len())];
            if self.begin(sim, world, kind) {
                *self.fired.entry(name.to_owned()).or_default() += 1;
            }
        }
    }

    /// Does what waited until it hurts.
    fn look_for_a_bad_moment(&mut self, sim: &mut Sim<'_>, world: &World) {
        if self.kill_when_busy && !self.coordinator_down && world.coordinator.disk.is_busy() {
            self.kill_when_busy = false;
            self.kill_coordinator(sim, world);
        }
        if let Some(number) = self.lose_when_unsynced
            && !self.agents_down.contains(&number)
            && world.agents[number].is_unsynced()
        {
            self.lose_when_unsynced = None;
            self.agents_down.push(number);
            self.lose_power(sim, world, number);
        }
        if self.next > self.until {
            (self.kill_when_busy, self.lose_when_unsynced) = (false, None);
        }
    }

    fn kill_coordinator(&mut self, sim: &mut Sim<'_>, world: &World) {
        world.trace.fault("coordinator killed");
        self.coordinator_down = true;
        sim.crash(COORDINATOR);
        let most = if self.draw.chance(0.12) { 40 } else { 5 };
        self.later(sim, End::Coordinator, Duration::from_secs(most));
    }

    fn lose_power(&mut self, sim: &mut Sim<'_>, world: &World, number: usize) {
        let agent = &world.agents[number];
        world.trace.fault(format!("{} loses its power", agent.name));
        agent.let_children_survive(false);
        sim.crash(agent.name.as_str());
        if agent.lose_power() {
            *self.fired.entry("spool lost what was not synced".to_owned()).or_default() += 1;
        }
        let most = if self.draw.chance(0.12) { 70 } else { 6 };
        self.later(sim, End::Agent(number), Duration::from_secs(most));
    }

    /// A coordinator that ended by itself is started again, as a service manager does.
    fn notice_ends(&mut self, sim: &mut Sim<'_>, world: &World) {
        if self.coordinator_down || !world.coordinator.down.swap(false, Ordering::Relaxed) {
            return;
        }
        self.disk_fails = false;
        self.coordinator_down = true;
        sim.crash(COORDINATOR);
        self.later(sim, End::Coordinator, Duration::from_secs(6));
    }

    fn later(&mut self, sim: &Sim<'_>, end: End, most: Duration) {
        let at = sim.elapsed() + Duration::from_millis(20) + self.draw.within(most);
        self.ends.push((at, end));
    }

    fn begin(&mut self, sim: &mut Sim<'_>, world: &World, kind: Kind) -> bool {
        match kind {
            Kind::KillCoordinator
            | Kind::StopCoordinator
            | Kind::FailDisk
            | Kind::Suspend
            | Kind::WrongClock => self.coordinator(sim, world, kind),
            Kind::KillAgent | Kind::LosePower | Kind::StopAgent => self.agent(sim, world, kind),
            Kind::Partition | Kind::PartitionUp | Kind::PartitionDown | Kind::Hold | Kind::Slow => {
                self.link(sim, world, kind)
            }
            Kind::Twin => {
                let agent = &world.agents[self.draw.below(world.agents.len())];
                world.trace.fault(format!("twin of {}", agent.name));
                let mut name = world.twin.name.lock().unwrap_or_else(PoisonError::into_inner);
                *name = Some(agent.name.clone());
                world.twin.given.notify_one();
                true
            }
            Kind::CutWatch => {
                let client = &world.clients[self.draw.below(world.clients.len())];
                world.trace.fault(format!("watch of {} cut", client.name));
                client.cut.store(true, Ordering::Relaxed);
                true
            }
        }
    }

    fn coordinator(&mut self, sim: &mut Sim<'_>, world: &World, kind: Kind) -> bool {
        if self.coordinator_down || self.disk_fails {
            return false;
        }
        match kind {
            Kind::StopCoordinator => {
                world.trace.fault("coordinator is asked to stop");
                world.coordinator.stop();
            }
            Kind::FailDisk => {
                let at = [FailAt::BeforeWrite, FailAt::BeforeSync, FailAt::AfterSync][self.draw.below(3)];
                world.trace.fault(format!("disk fails {at:?}"));
                world.coordinator.disk.fail_next(at);
                self.disk_fails = true;
            }
            Kind::Suspend => {
                let span = self.draw.within(Duration::from_secs(40));
                world.trace.fault(format!("coordinator suspended for {span:?}"));
                world.coordinator.clock.suspend(span);
            }
            Kind::WrongClock => {
                let by = self.draw.within(Duration::from_hours(48));
                world.trace.fault(format!("wall clock wrong by {by:?}"));
                world.coordinator.clock.set_wrong(by);
                self.later(sim, End::Clock, Duration::from_secs(10));
            }
            _ if self.draw.chance(0.6) => self.kill_when_busy = true,
            _ => self.kill_coordinator(sim, world),
        }
        true
    }

    fn agent(&mut self, sim: &mut Sim<'_>, world: &World, kind: Kind) -> bool {
        let number = self.draw.below(world.agents.len());
        if self.agents_down.contains(&number) {
            return false;
        }
        if kind == Kind::LosePower && self.draw.chance(0.6) {
            self.lose_when_unsynced = Some(number);
            return true;
        }
        let agent = &world.agents[number];
        self.agents_down.push(number);
        let survive = kind == Kind::KillAgent && self.draw.chance(0.5);
        match kind {
            Kind::StopAgent => {
                world.trace.fault(format!("{} is asked to stop", agent.name));
                agent.stop();
                // Time for its children and reports, and not always enough.
                let at =
                    sim.elapsed() + Duration::from_millis(100) + self.draw.within(Duration::from_secs(8));
                self.ends.push((at, End::Agent(number)));
                return true;
            }
            Kind::LosePower => {
                self.lose_power(sim, world, number);
                return true;
            }
            _ => {
                world.trace.fault(format!("{} killed, its children survive: {survive}", agent.name));
                agent.let_children_survive(survive);
                sim.crash(agent.name.as_str());
                if survive {
                    *self.fired.entry("child survived its agent".to_owned()).or_default() +=
                        u32::try_from(agent.busy().0).unwrap_or(0);
                }
            }
        }
        let most = if self.draw.chance(0.12) { 70 } else { 6 };
        self.later(sim, End::Agent(number), Duration::from_secs(most));
        true
    }

    fn link(&mut self, sim: &mut Sim<'_>, world: &World, kind: Kind) -> bool {
        let agents = world.agents.iter().map(|agent| &agent.name);
        let clients = world.clients.iter().map(|client| &client.name);
        let peers: Vec<_> = agents.clone().chain(agents).chain(clients).collect();
        let peer = peers[self.draw.below(peers.len())].clone();
        if self.links.contains(&peer) {
            return false;
        }
        world.trace.fault(format!("{kind:?} of {peer}"));
        self.links.push(peer.clone());
        let most = Duration::from_secs(if self.draw.chance(0.12) { 80 } else { 6 });
        let end = match kind {
            Kind::Hold => {
                sim.hold(peer.as_str(), COORDINATOR);
                End::Held(peer)
            }
            Kind::Slow => {
                sim.set_link_latency(peer.as_str(), COORDINATOR, self.draw.within(SLOW));
                End::Slow(peer)
            }
            Kind::PartitionUp => {
                sim.partition_oneway(peer.as_str(), COORDINATOR);
                End::Link(peer)
            }
            Kind::PartitionDown => {
                sim.partition_oneway(COORDINATOR, peer.as_str());
                End::Link(peer)
            }
            _ => {
                sim.partition(peer.as_str(), COORDINATOR);
                End::Link(peer)
            }
        };
        self.later(sim, end, most);
        true
    }

    fn end(&mut self, sim: &mut Sim<'_>, world: &World, end: End) {
        world.trace.fault(format!("over: {end:?}"));
        match end {
            End::Coordinator => {
                self.coordinator_down = false;
                sim.bounce(COORDINATOR);
            }
            End::Agent(number) => {
                self.agents_down.retain(|down| *down != number);
                let agent = &world.agents[number];
                if sim.is_host_running(agent.name.as_str()) {
                    // It was asked to stop: whatever it has not done by now it does not do.
                    agent.let_children_survive(false);
                    sim.crash(agent.name.as_str());
                }
                sim.bounce(agent.name.as_str());
            }
            End::Link(peer) => {
                sim.repair(peer.as_str(), COORDINATOR);
                self.links.retain(|link| *link != peer);
            }
            End::Held(peer) => {
                sim.release(peer.as_str(), COORDINATOR);
                self.links.retain(|link| *link != peer);
            }
            End::Slow(peer) => {
                sim.set_link_latency(peer.as_str(), COORDINATOR, Duration::from_millis(20));
                self.links.retain(|link| *link != peer);
            }
            End::Clock => world.coordinator.clock.set_wrong(Duration::ZERO),
        }
    }

    /// Whether the coordinator failed without a reason.
    pub(crate) fn is_surprise(events: &[(Duration, Event)]) -> bool {
        let mut reason = false;
        events.iter().any(|(_, event)| match event {
            Event::Fault { what } if what.starts_with("disk fails") => {
                reason = true;
                false
            }
            Event::Process { what: "fails", .. } => !std::mem::take(&mut reason),
            _ => false,
        })
    }
}
