//! The supervisor itself: one child, its pipes, its limits, and the agents that listen. Every step is
//! non-blocking; the loop around it is in `run`, the end in `ending`.
//! Knows no coordinator, no task and no outcome.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Signal, WaitStatus};

use crate::boottime::BootMillis;
use crate::gateway::thread::{Bound, Gateway, Place};
use crate::procfs;

use super::child;
use super::control::Control;
use super::deadlines::{Allowed, Deadlines};
use super::input::{InputFeed, first_words};
use super::known::Known;
use super::ladder::Ladder;
use super::life::{LifeSigns, work_ticks};
use super::output::Output;
use super::program::Program;
use super::result_line::ResultSpotter;
use super::segments::{Channel, SegmentWriter};
use super::spec::{Input, Secrets, SuperviseSpec};
use super::stop::{Rung, StopCause, StopFact};
use super::tree::{kill_descendants, reap};
use super::wire::{Command, Event, Status, WIRE_VERSION};

/// How long one attempt to empty the tree may take before others get their turn.
const TREE_KILL_LIMIT: Duration = Duration::from_secs(5);

/// With a PID namespace the CLI is the third of its chain: the program that made the namespace, the first process in
/// it, and the CLI.
const WRAPPED_LINKS: usize = 3;

/// How often memory is sampled where nothing depends on it.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

/// How often memory is sampled where it has a limit.
const SAMPLE_LIMITED_EVERY: Duration = Duration::from_millis(500);

/// The first sample comes early: most of the CLI's memory is there after half a second.
const FIRST_SAMPLE: Duration = Duration::from_millis(500);

/// Everything one supervisor holds.
#[derive(Debug)]
pub struct Supervisor {
    pub(super) spec: SuperviseSpec,
    pub(super) control: Control,
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    pub(super) program: Program,
    pub(super) stdout: Output,
    pub(super) stderr: Output,
    known: Known,
    pub(super) input: InputFeed,
    deadlines: Deadlines,
    life: Option<LifeSigns>,
    ladder: Ladder,
    pub(super) stop: Option<StopFact>,
    pub(super) status: Option<WaitStatus>,
    pub(super) results: u64,
    /// Lines that agents said to the child.
    said: u64,
    /// Since when a finished turn waits for more to be said.
    idle_since: Option<BootMillis>,
    /// Since when a child with a result and without input has been silent.
    lingering_since: Option<BootMillis>,
    /// Since when a conversation without a result has had no output any more.
    speechless_since: Option<BootMillis>,
    pub(super) started: BootMillis,
    next_sample: BootMillis,
    pub(super) peak_memory: u64,
    pub(super) trouble: Option<String>,
    pub(super) gateway: Option<Gateway>,
}

impl Supervisor {
    /// Starts the child of `spec`. The caller is its subreaper already and `control` listens.
    ///
    /// # Errors
    /// When the child cannot be started or its first words cannot be read.
    pub fn start(spec: SuperviseSpec, secrets: &Secrets, control: Control) -> io::Result<Self> {
        let first = match &spec.input {
            Input::Closed => None,
            Input::Conversation { first } => Some(first_words(first)?),
        };
        let gateway = bind_gateway(&spec, secrets)?;
        let variables = gateway.as_ref().map(|gateway| gateway.variables(&spec.env)).unwrap_or_default();
        let child = child::start(&spec, secrets, &variables)?;
        // Only now: whoever forks a child that is to die with it must not be a thread that ends sooner.
        let gateway = gateway.map(Bound::start).transpose()?;
        let now = BootMillis::now();
        let known = Known::new(secrets);
        let segments =
            |channel| SegmentWriter::new(spec.attempt_dir.clone(), channel, spec.limits.segment_bytes);
        let spotter = first.is_some().then(ResultSpotter::default);
        let mut input = InputFeed::new(child.stdin);
        input.say(&first.unwrap_or_default());
        let millis = |limit: Option<u64>| limit.map(Duration::from_millis);
        let limits = &spec.limits;
        let allowed = Allowed {
            attempt: millis(limits.attempt_ms),
            start: millis(limits.start_ms),
            silence: millis(limits.silence_ms),
            stop_after: millis(limits.stop_after_ms),
        };
        Ok(Self {
            deadlines: Deadlines::new(now, allowed),
            life: allowed.silence.map(|silence| LifeSigns::new(now, silence, limits.life_dir.clone())),
            ladder: Ladder::new(spec.ladder.clone()),
            program: child.program,
            stdout: Output::new(child.stdout, known.redactor(), segments(Channel::Stdout), spotter),
            stderr: Output::new(child.stderr, known.redactor(), segments(Channel::Stderr), None),
            known,
            pid: child.pid,
            pidfd: child.pidfd,
            input,
            control,
            stop: None,
            status: None,
            results: 0,
            said: 0,
            idle_since: None,
            lingering_since: None,
            speechless_since: None,
            started: now,
            next_sample: now.plus(FIRST_SAMPLE),
            peak_memory: 0,
            trouble: None,
            gateway,
            spec,
        })
    }

    /// Everything that can be done at `now` without waiting.
    pub fn step(&mut self, now: BootMillis) {
        self.listen_to_child(now);
        for command in self.serve_agents() {
            self.obey(now, command);
        }
        self.input.feed();
        self.reap();
        if now >= self.next_sample {
            self.sample_memory();
            self.next_sample = now.plus(self.sample_every());
        }
        if self.status.is_none() {
            self.heed_gateway(now);
            self.look_for_life(now);
            self.keep_limits(now);
            self.end_conversation(now);
            if let Some(rung) = self.ladder.climb(now) {
                self.act(now, rung);
            }
        }
    }

    /// The next moment at which [`Self::step`] has something to do by itself.
    #[must_use]
    pub fn next_moment(&self) -> BootMillis {
        let idle = self.idle_since.map(|since| since.plus(self.idle_limit()));
        let linger = self.lingering_since.map(|since| since.plus(self.linger_limit()));
        let speechless = self.speechless_since.map(|since| since.plus(self.linger_limit()));
        let life = self.life.as_ref().map(LifeSigns::next);
        let moments = [self.deadlines.next(), life, speechless, self.ladder.next_at(), idle, linger];
        // A deadline that already led to a stop lies in the past and must not make the loop spin.
        let open = if self.stop.is_some() { &moments[3..] } else { &moments[..] };
        open.iter().flatten().copied().min().unwrap_or(self.next_sample).min(self.next_sample)
    }

    /// Reaps the child and every orphan that ended.
    pub fn reap(&mut self) {
        reap(|pid, status| {
            if pid == self.pid {
                self.status = Some(status);
            }
        });
    }

    /// Reads both pipes once; returns whether anything came.
    pub fn listen_to_child(&mut self, now: BootMillis) -> bool {
        let before = (self.stdout.written(), self.stderr.written());
        let (out, err) = (self.stdout.turn(&mut self.known), self.stderr.turn(&mut self.known));
        if !out.heard && !err.heard {
            // A login that is renewed twice in silence was there in between.
            self.known.look();
        }
        if self.stdout.written() > before.0 {
            self.tell_progress(Channel::Stdout, self.stdout.written());
        }
        if self.stderr.written() > before.1 {
            self.tell_progress(Channel::Stderr, self.stderr.written());
        }
        if out.heard {
            self.deadlines.begun();
        }
        if out.heard || err.heard {
            self.deadlines.alive(now);
            self.idle_since = self.idle_since.map(|_| now);
            self.lingering_since = self.lingering_since.map(|_| now);
        }
        if out.results > 0 {
            self.results += out.results as u64;
            self.idle_since = Some(now);
            // Short conversations end before the next sample is due.
            self.sample_memory();
        }
        if let Some(error) = self.stdout.take_trouble().or_else(|| self.stderr.take_trouble()) {
            self.trouble.get_or_insert_with(|| format!("cannot write the transcript: {error}"));
            self.stop(now, StopCause::TranscriptLost, Rung::Interrupt);
        }
        out.heard || err.heard
    }

    fn tell_progress(&mut self, channel: Channel, len: u64) {
        self.control.broadcast_lossy(&Event::Progress { channel, len });
    }

    /// Takes in agents that wait and returns what all of them say.
    pub fn serve_agents(&mut self) -> Vec<Command> {
        let (id, situation) = (&self.spec.id, self.situation());
        let hello = || Event::Hello { version: WIRE_VERSION, id: id.clone() };
        self.control.serve(|| [hello(), Event::Status(situation.clone())])
    }

    fn situation(&self) -> Status {
        Status {
            child: self.status.is_none().then_some(self.pid),
            stdout_len: self.stdout.written(),
            stderr_len: self.stderr.written(),
            results: self.results,
            stdin_closed: self.input.is_closed(),
            stop: self.stop,
            said: Some(self.said),
        }
    }

    fn obey(&mut self, now: BootMillis, command: Command) {
        match command {
            Command::Hello { .. } | Command::Unknown => {}
            Command::Renew { stop_after_ms } => {
                self.deadlines.renewed(now, Duration::from_millis(stop_after_ms));
            }
            Command::Stdin { line } => {
                self.input.say(line.as_bytes());
                self.input.say(b"\n");
                self.said += 1;
                self.idle_since = None;
            }
            Command::CloseStdin => self.close_input(now),
            Command::Stop { cause, from } => self.stop(now, cause, from),
            Command::Status => self.control.broadcast(&Event::Status(self.situation())),
            Command::Ack { channel, segment } => self.release(channel, segment),
        }
    }

    /// Deletes a segment that is kept elsewhere. The one being written, and later ones, stay.
    fn release(&self, channel: Channel, segment: u64) {
        let len = match channel {
            Channel::Stdout => self.stdout.written(),
            Channel::Stderr => self.stderr.written(),
        };
        if segment < len / self.spec.limits.segment_bytes.max(1) {
            // One that is gone already was released before.
            let _ = std::fs::remove_file(channel.segment(&self.spec.attempt_dir, segment));
        }
    }

    /// A child whose request waits for its admission waits for us. One that waits for the API does not.
    fn heed_gateway(&mut self, now: BootMillis) {
        let Some(gateway) = &self.gateway else { return };
        if gateway.is_waiting() {
            self.deadlines.held(now);
        }
        if self.trouble.is_none() {
            // Its requests fail from here on, and the child ends by that.
            self.trouble = gateway.trouble();
        }
    }

    /// Silence is no hang while the child shows otherwise that it is at work.
    fn look_for_life(&mut self, now: BootMillis) {
        let Some(life) = self.life.as_mut().filter(|life| self.stop.is_none() && life.next() <= now) else {
            return;
        };
        let me = rustix::process::getpid().as_raw_nonzero().get();
        // A look that fails is made again; the silence limit lies several looks away.
        let below = procfs::all().map(|all| procfs::descendants_of(&all, me)).unwrap_or_default();
        let is_wrapped = self.spec.sandbox.as_ref().is_some_and(|plan| plan.bwrap.is_some());
        let links = match (&self.spec.input, is_wrapped) {
            (Input::Closed, _) => 0,
            (Input::Conversation { .. }, false) => 1,
            (Input::Conversation { .. }, true) => WRAPPED_LINKS,
        };
        let reaped = procfs::read_stat(me).map_or(0, |stat| stat.children_cpu_ticks);
        let ticks = work_ticks(&below, self.pid, links).saturating_add(reaped);
        if life.look(now, ticks, rustix::param::clock_ticks_per_second()) {
            self.deadlines.alive(now);
        }
    }

    fn keep_limits(&mut self, now: BootMillis) {
        if self.stop.is_some() {
            return;
        }
        let without_output = self.stdout.descriptor().is_none() && !matches!(self.spec.input, Input::Closed);
        if without_output && self.results == 0 {
            self.speechless_since.get_or_insert(now);
        }
        if self.stdout.written().saturating_add(self.stderr.written()) > self.spec.limits.output_bytes {
            // No gentler rung: a child that floods would go on while it is asked.
            self.stop(now, StopCause::LimitOutput, Rung::TreeKill);
        } else if self.spec.limits.memory_bytes.is_some_and(|most| self.peak_memory > most) {
            // Nor here: it would grow on, and the host may have no room for that.
            self.stop(now, StopCause::Memory, Rung::TreeKill);
        } else if let Some(cause) = self.deadlines.passed(now) {
            // One that has not begun to speak does not listen either.
            let from = if cause == StopCause::NoFirstEvent { Rung::Term } else { Rung::Interrupt };
            self.stop(now, cause, from);
        } else if self.speechless_since.is_some_and(|since| now.since(since) >= self.linger_limit()) {
            self.stop(now, StopCause::ClosedOutput, Rung::Int);
        }
    }

    /// Closes the input of a conversation that has its result and nobody who speaks, and ends a child that
    /// does not leave after that.
    fn end_conversation(&mut self, now: BootMillis) {
        let idle = self.idle_since.map(|since| now.since(since));
        if idle.is_some_and(|idle| self.stop.is_some() || idle >= self.idle_limit()) {
            self.idle_since = None;
            self.close_input(now);
        }
        if self.lingering_since.is_some_and(|since| now.since(since) >= self.linger_limit()) {
            self.lingering_since = None;
            self.stop(now, StopCause::Lingering, Rung::Term);
        }
    }

    fn idle_limit(&self) -> Duration {
        Duration::from_millis(self.spec.limits.result_idle_ms)
    }

    fn linger_limit(&self) -> Duration {
        Duration::from_millis(self.spec.limits.linger_ms)
    }

    fn close_input(&mut self, now: BootMillis) {
        if !self.input.is_closed() {
            self.input.close();
            self.control.broadcast(&Event::StdinClosed);
        }
        if self.results > 0 {
            self.deadlines.silence_no_longer_counts();
            self.lingering_since.get_or_insert(now);
        }
    }

    fn stop(&mut self, now: BootMillis, cause: StopCause, from: Rung) {
        // A child that has just ended has ended by itself.
        self.reap();
        if self.status.is_some() {
            return;
        }
        if self.stop.is_none() {
            self.stop = Some(StopFact { cause, stdout_len: self.stdout.written(), rung: from });
        }
        // A child that has not said a word is starting: it would read a request only afterwards, and has nothing to save.
        let from = if self.stdout.written() == 0 { from.max(Rung::Term) } else { from };
        if let Some(rung) = self.ladder.begin(now, from) {
            self.act(now, rung);
        }
        if let Some(fact) = self.stop {
            self.control.broadcast(&Event::Stopping(fact));
        }
    }

    fn act(&mut self, now: BootMillis, rung: Rung) {
        match rung {
            Rung::Interrupt => {
                let line = format!("{}\n", self.ladder.interrupt_line().unwrap_or_default());
                if !self.input.say(line.as_bytes()) {
                    // Nobody can be asked through a closed input.
                    let next = self.ladder.begin(now, Rung::Int).unwrap_or(Rung::TreeKill);
                    return self.act(now, next);
                }
                self.input.feed();
            }
            Rung::Int => self.signal(Signal::INT),
            Rung::Term => self.signal(Signal::TERM),
            Rung::TreeKill => self.kill_tree(),
        }
        if let Some(fact) = &mut self.stop {
            fact.rung = fact.rung.max(rung);
        }
    }

    fn signal(&mut self, signal: Signal) {
        if let Err(error) = self.program.signal(signal) {
            self.trouble.get_or_insert_with(|| format!("cannot signal the child: {error}"));
        }
    }

    fn kill_tree(&mut self) {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let mut status = None;
        let child = self.pid;
        self.program.kill_namespace();
        kill_descendants(me, TREE_KILL_LIMIT, || {
            reap(|pid, ended| {
                if pid == child {
                    status = Some(ended);
                }
            });
        });
        self.status = self.status.or(status);
    }

    fn sample_every(&self) -> Duration {
        if self.spec.limits.memory_bytes.is_some() { SAMPLE_LIMITED_EVERY } else { SAMPLE_EVERY }
    }

    fn sample_memory(&mut self) {
        let me = rustix::process::getpid().as_raw_nonzero().get();
        let own = procfs::read_stat(me).map_or(0, |stat| stat.rss_bytes);
        self.peak_memory = self.peak_memory.max(procfs::tree_usage(me).rss_bytes.saturating_sub(own));
    }
}

fn bind_gateway(spec: &SuperviseSpec, secrets: &Secrets) -> io::Result<Option<Bound>> {
    let Some(gateway) = &spec.gateway else { return Ok(None) };
    let place = Place {
        runtime_dir: &spec.runtime_dir,
        id: &spec.id,
        attempt_dir: &spec.attempt_dir,
        env: &spec.env,
    };
    let words = secrets.gateway.clone().unwrap_or_default();
    Bound::new(gateway, &words, place).map(Some)
}
