//! The daemons of a development fleet together: started in order, tended, stopped in reverse. Knows processes and the
//! files they announce themselves in; what is said about them is [`super`]'s.

use std::collections::{BTreeMap, HashSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::time::Instant;

use super::daemon::{Daemon, Program, log_tail};
use super::layout::{AgentPlan, COORDINATOR, CoordinatorPlan, Layout, agent_args, coordinator_args};
use super::notice::{self, AgentStatus, CoordinatorReady, Endpoints, Notice, Pids};
use super::orphans;
use super::restart::{Decision, History};
use super::setup::Setup;
use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Outcome};

mod end;
#[cfg(test)]
mod tests;

/// Longest wait for a daemon to announce itself: an upgrade of a large store takes its time.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// How often announcements are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often dead orphans are buried.
const BURY: Duration = Duration::from_secs(1);
/// All daemons.
pub(crate) struct Fleet {
    layout: Layout,
    programs: Programs,
    coordinator: CoordinatorPlan,
    agents: BTreeMap<String, AgentPlan>,
    members: BTreeMap<String, Member>,
    endpoints: Endpoints,
    ready_file: Option<PathBuf>,
    owns_orphans: bool,
    next_burial: Instant,
    /// Held as long as the fleet lives: one `dev` a directory.
    _lock: std::fs::File,
}

/// The programs that daemons run.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) coordinator: Program,
    pub(crate) agent: Program,
}

/// A daemon and its life so far.
struct Member {
    state: State,
    history: History,
}

enum State {
    Starting {
        daemon: Daemon,
        since: Instant,
    },
    Ready {
        daemon: Daemon,
    },
    /// Dead, to be started again.
    Waiting {
        until: Instant,
    },
}

impl State {
    fn daemon(&mut self) -> Option<&mut Daemon> {
        match self {
            Self::Starting { daemon, .. } | Self::Ready { daemon } => Some(daemon),
            Self::Waiting { .. } => None,
        }
    }
}

/// Something a person should hear of.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A daemon ended and will be started again.
    Died {
        /// Which.
        name: String,
        /// How it ended.
        how: String,
        /// When it is started again.
        wait: Duration,
    },
    /// It runs again.
    Back {
        /// Which.
        name: String,
        /// Its new process id.
        pid: u32,
        /// How often it was started again in all.
        restarts: u32,
    },
}

impl Fleet {
    /// Starts everything and returns once the coordinator is ready and every agent connected. On failure nothing stays.
    pub(crate) async fn start(setup: Setup) -> Outcome<Self> {
        let Setup { layout, programs, coordinator, agents, ready_file, owns_orphans, lock } = setup;
        if owns_orphans {
            orphans::adopt();
        }
        let endpoints = Endpoints { grpc: coordinator.listen, probe: coordinator.probe };
        let agents = agents.into_iter().map(|plan| (plan.name.clone(), plan)).collect();
        let mut fleet = Self {
            layout,
            programs,
            coordinator,
            agents,
            members: BTreeMap::new(),
            endpoints,
            ready_file,
            owns_orphans,
            next_burial: Instant::now() + BURY,
            _lock: lock,
        };
        // What an earlier fleet promised is not there any more.
        fleet.unannounce();
        match fleet.start_all().await {
            Ok(()) => Ok(fleet),
            Err(failure) => {
                fleet.kill().await;
                Err(failure)
            }
        }
    }

    async fn start_all(&mut self) -> Outcome<()> {
        self.launch(COORDINATOR)?;
        self.first_ready(&[COORDINATOR.to_owned()]).await?;
        let names: Vec<_> = self.agents.keys().cloned().collect();
        for name in &names {
            self.launch(name)?;
        }
        self.first_ready(&names).await?;
        self.announce()
    }

    /// Waits until daemons are ready for the first time; one that ends before is not tried again.
    async fn first_ready(&mut self, names: &[String]) -> Outcome<()> {
        loop {
            for name in names {
                self.look(name)?;
            }
            if names.iter().all(|name| self.is_ready(name)) {
                return Ok(());
            }
            tokio::select! {
                (name, how) = self.any_end() => return Err(self.did_not_come_up(&name, &how)),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Waits for the next thing worth telling, and does what it asks for.
    ///
    /// # Errors
    /// A daemon that cannot be brought up again.
    pub(crate) async fn tend(&mut self) -> Outcome<News> {
        loop {
            if let Some(news) = self.progress()? {
                return Ok(news);
            }
            let wake = self.wake_at();
            tokio::select! {
                (name, how) = self.any_end() => {
                    if let Some(news) = self.bury_daemon(&name, how)? {
                        return Ok(news);
                    }
                }
                () = tokio::time::sleep_until(wake) => {
                    if Instant::now() >= self.next_burial {
                        self.next_burial = Instant::now() + BURY;
                        if self.owns_orphans {
                            orphans::bury(&self.pids());
                        }
                    }
                }
            }
        }
    }

    /// Starts what is due and looks at what is starting.
    fn progress(&mut self) -> Outcome<Option<News>> {
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            let due = match self.members.get(&name).map(|member| &member.state) {
                Some(State::Waiting { until }) => Instant::now() >= *until,
                Some(State::Starting { .. }) => {
                    if self.look(&name)? {
                        self.announce()?;
                        return Ok(Some(self.back(name)));
                    }
                    false
                }
                Some(State::Ready { .. }) | None => false,
            };
            if due {
                self.launch(&name)?;
            }
        }
        Ok(None)
    }

    fn back(&mut self, name: String) -> News {
        let member = self.members.get_mut(&name);
        let restarts = member.as_ref().map_or(0, |member| member.history.restarts);
        let pid =
            member.and_then(|member| member.state.daemon().map(|daemon| daemon.pid())).unwrap_or_default();
        News::Back { name, pid, restarts }
    }

    fn bury_daemon(&mut self, name: &str, how: String) -> Outcome<Option<News>> {
        let Some(member) = self.members.get_mut(name) else { return Ok(None) };
        let was_ready = matches!(member.state, State::Ready { .. });
        match member.history.ended(was_ready) {
            Decision::Restart(wait) => {
                member.state = State::Waiting { until: Instant::now() + wait };
                Ok(Some(News::Died { name: name.to_owned(), how, wait }))
            }
            Decision::GiveUp => Err(self.did_not_come_up(name, &how)),
        }
    }

    fn wake_at(&self) -> Instant {
        let soonest = self.members.values().map(|member| match member.state {
            State::Starting { .. } => Instant::now() + LOOK,
            State::Waiting { until } => until,
            State::Ready { .. } => self.next_burial,
        });
        soonest.min().unwrap_or(self.next_burial).min(self.next_burial)
    }

    /// The first daemon to end, and how.
    async fn any_end(&mut self) -> (String, String) {
        type End<'a> = Pin<Box<dyn Future<Output = (String, String)> + 'a>>;
        let ends: Vec<End<'_>> = self
            .members
            .iter_mut()
            .filter_map(|(name, member)| {
                let daemon = member.state.daemon()?;
                let name = name.clone();
                Some(Box::pin(async move { (name, daemon.ended().await) }) as End<'_>)
            })
            .collect();
        if ends.is_empty() {
            return std::future::pending().await;
        }
        select_all(ends).await.0
    }

    /// Starts a daemon, for the first time or again with what it had.
    fn launch(&mut self, name: &str) -> Outcome<()> {
        let (program, args) = match self.agents.get(name) {
            Some(plan) => (&self.programs.agent, agent_args(&self.layout, plan, self.endpoints.grpc)),
            None => (&self.programs.coordinator, coordinator_args(&self.layout, &self.coordinator)),
        };
        let (log, state) = (self.layout.log_file(name), self.layout.state_file(name));
        let daemon = Daemon::start(program, &args, &log, &state)?;
        let history = self.members.get(name).map(|member| member.history).unwrap_or_default();
        let state = State::Starting { daemon, since: Instant::now() };
        self.members.insert(name.to_owned(), Member { state, history });
        Ok(())
    }

    /// Whether a daemon that was starting has announced itself by now.
    fn look(&mut self, name: &str) -> Outcome<bool> {
        let path = self.layout.state_file(name);
        let is_agent = self.agents.contains_key(name);
        let Some(member) = self.members.get_mut(name) else { return Ok(false) };
        let State::Starting { daemon, since } = &member.state else { return Ok(false) };
        let (pid, since) = (daemon.pid(), *since);
        let ready = if is_agent {
            notice::read::<AgentStatus>(&path)
                .is_some_and(|status| status.pid == pid && status.is_connected())
        } else {
            match notice::read::<CoordinatorReady>(&path).filter(|ready| ready.pid == pid) {
                Some(ready) => {
                    self.endpoints = ready.endpoints;
                    true
                }
                None => false,
            }
        };
        if !ready {
            if since.elapsed() > READY_LIMIT {
                return Err(
                    self.did_not_come_up(name, &format!("not ready within {} s", READY_LIMIT.as_secs()))
                );
            }
            return Ok(false);
        }
        member.history.became_ready();
        let starting = std::mem::replace(&mut member.state, State::Waiting { until: since });
        if let State::Starting { daemon, .. } = starting {
            member.state = State::Ready { daemon };
        }
        if !is_agent {
            self.keep_ports()?;
        }
        Ok(true)
    }

    /// Later starts use the ports of the first.
    fn keep_ports(&mut self) -> Outcome<()> {
        self.coordinator.listen = self.endpoints.grpc;
        self.coordinator.probe = self.endpoints.probe;
        notice::write(&self.layout.ports_file(), &self.endpoints)?;
        notice::write_context(&self.layout, self.endpoints)
    }

    fn announce(&mut self) -> Outcome<()> {
        let all_ready = self.members.values().all(|member| matches!(member.state, State::Ready { .. }));
        match &self.ready_file {
            // Between a death and the return there is nothing new to say: the old one's id helps nobody.
            Some(path) if all_ready => notice::write(path, &self.notice()),
            Some(_) | None => Ok(()),
        }
    }

    fn is_ready(&self, name: &str) -> bool {
        matches!(self.members.get(name), Some(Member { state: State::Ready { .. }, .. }))
    }

    fn pids(&mut self) -> HashSet<u32> {
        self.members
            .values_mut()
            .filter_map(|member| member.state.daemon().map(|daemon| daemon.pid()))
            .collect()
    }

    /// Addresses and process ids of what runs now.
    pub(crate) fn running(&self) -> (Endpoints, Pids) {
        let mut pids = Pids::default();
        for (name, member) in &self.members {
            let (State::Ready { daemon } | State::Starting { daemon, .. }) = &member.state else { continue };
            if name == COORDINATOR {
                pids.coordinator = daemon.pid();
            } else {
                pids.agents.insert(name.clone(), daemon.pid());
            }
        }
        (self.endpoints, pids)
    }

    /// What the ready file says.
    pub(crate) fn notice(&self) -> Notice {
        let (endpoints, pids) = self.running();
        Notice { endpoints, context: self.layout.context_file(), pids }
    }

    /// Where everything lies.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How to reach the coordinator.
    pub(crate) fn context(&self) -> Context {
        Context {
            endpoint: format!("https://{}", self.endpoints.grpc),
            tls: self.layout.admin_tls(),
            name: None,
            origin: "this fleet".to_owned(),
            notes: Vec::new(),
            confirm: false,
        }
    }

    fn did_not_come_up(&self, name: &str, how: &str) -> Failure {
        let log = self.layout.log_file(name);
        let failure = Failure::new(exit::FAILED, format!("{name} does not come up: {how}"));
        let failure = match log_tail(&log) {
            tail if tail.trim().is_empty() => failure,
            tail => failure.cause(tail),
        };
        let failure = failure.help(format!("its log is {}", log.display()));
        if name == COORDINATOR {
            return failure.and_help("if a port is taken: --listen 127.0.0.1:0 --probe 127.0.0.1:0");
        }
        failure
    }
}
