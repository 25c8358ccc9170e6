//! The engine: one task that owns the state of the coordinator.
//!
//! ```text
//! rpc / http / timer ──command──▶ engine (one task, owns State)
//!                                  │ apply (core, pure)
//!                                  │ gather what is waiting: one batch
//!                                  ▼
//!                                committer: one thread, one commit in flight
//!                                  ▼ only then
//!                                answers, words to agents, events to watchers
//! ```
//!
//! Nothing leaves before the batch that caused it is durable. An error of the store ends the engine: answers that wait
//! are dropped, nobody is told anything that may not be true, and a restart recovers what is durable.
//!
//! Knows the order of things and time; decides nothing about runs and agents, which is the core's.

mod batcher;
pub mod commit;
mod consult;
mod dirty;
mod handle;
mod heard;
pub mod housekeeping;
pub mod pool;
mod pulse;
pub mod recover;
mod release;
mod rounds;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use orch_core::event::Event;
use orch_core::ids::SessionId;
use orch_core::time::{Now, Span, Tick};
use tokio::sync::mpsc;

use self::batcher::{Batcher, Turn};
use self::commit::{CommitDone, CommitFailure, CommitJob, Committer};
pub use self::consult::Repeatable;
pub use self::handle::{ApplyError, AttemptActivity, EngineGone, Handle, INBOX, SubmitError};
use self::handle::{Command, Shared};
pub use self::pulse::LIVE_WITHIN;
pub use self::recover::{Parts, RecoverError, Recovered};
pub use self::release::Outbound;
use self::release::{Desk, Release};
use self::rounds::Rounds;
use crate::clock::Ticker;
use crate::events::{EventWriter, TenantActivity};
use crate::store::KeyError;

/// Commands taken at once before the batch is closed, so that one flood does not keep a finished commit's answers
/// waiting for long: some 10 ms of work.
const ROUND: usize = 1_024;

/// How often others are let run before a batch is closed, while they have something to say.
const LOOKS: usize = 4;

/// Why the engine ended before it was told to. Fatal to the process.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A batch did not become durable, as far as is known.
    #[error("cannot make a batch durable")]
    Commit(#[from] CommitFailure),
    /// A record has no key. Names are checked long before.
    #[error("a record has no key")]
    Key(#[from] KeyError),
}

/// The task that owns the state.
#[derive(Debug)]
pub struct Engine {
    batcher: Batcher,
    desk: Desk,
    inbox: mpsc::Receiver<Command>,
    committer: Box<dyn Committer>,
    ticker: Ticker,
    events: EventWriter,
    shared: Arc<Shared>,
    rounds: Rounds,
}

/// Says that the engine ended, however it did.
struct StopMark(Arc<Shared>);

impl Drop for StopMark {
    fn drop(&mut self) {
        self.0.pulse.stop();
    }
}

/// What woke the engine.
enum Woken {
    Committed(CommitDone),
    Commands(usize),
    Time,
    Shutdown,
}

impl Engine {
    /// Runs until `shutdown`, then takes what is waiting, makes it durable, notes a clean end and returns.
    ///
    /// # Errors
    /// [`EngineError`]; the process is to exit and start again.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), EngineError> {
        let _mark = StopMark(Arc::clone(&self.shared));
        let mut shutdown = pin!(shutdown);
        let mut commands = Vec::with_capacity(ROUND);
        let mut closing = false;
        let mut inbox_open = true;
        self.rounds = Rounds::begin(self.ticker.now().tick, self.heartbeat());
        self.turn()?;
        while inbox_open || self.batcher.is_busy() {
            self.shared.pulse.beat();
            let take = inbox_open && !self.batcher.is_full();
            let wake = self.next_wake();
            let woken = tokio::select! {
                biased;
                done = poll_fn(|context| self.committer.poll_done(context)), if self.batcher.is_busy() => {
                    Woken::Committed(done)
                }
                () = &mut shutdown, if !closing => Woken::Shutdown,
                count = self.inbox.recv_many(&mut commands, ROUND), if take => Woken::Commands(count),
                () = self.ticker.sleep_until(wake) => Woken::Time,
            };
            self.listen();
            match woken {
                Woken::Committed(done) => self.committed(done)?,
                Woken::Commands(0) => {
                    inbox_open = false;
                    self.batcher.hurry();
                }
                Woken::Commands(_) => self.take(&mut commands),
                Woken::Time => {}
                Woken::Shutdown => {
                    closing = true;
                    self.inbox.close();
                }
            }
            self.time_passed();
            self.wait_for_company(&mut commands).await;
            self.turn()?;
        }
        self.finish().await
    }

    /// Before a batch is closed that somebody waits for: lets everybody run who is ready to, and takes what they have. A commit
    /// costs as much for one event as for a hundred, and what comes right behind it would wait for its end.
    async fn wait_for_company(&mut self, commands: &mut Vec<Command>) {
        for _ in 0..LOOKS {
            if !self.batcher.is_to_be_closed() {
                return;
            }
            tokio::task::yield_now().await;
            if self.inbox.is_empty() {
                return;
            }
            self.inbox.recv_many(commands, ROUND).await;
            self.take(commands);
        }
    }

    /// Takes what sessions noted, before anything that depends on who was heard.
    fn listen(&mut self) {
        if let Some(heard) = self.shared.heard.take() {
            self.batcher.apply(self.ticker.now(), heard);
        }
    }

    fn heartbeat(&self) -> Span {
        self.batcher.state().config().heartbeat
    }

    /// The next deadline of the core or of the open batch, or the time for the next round.
    fn next_wake(&self) -> Tick {
        let beat = self.rounds.next(self.ticker.now().tick);
        let ride = self.batcher.ride_until().filter(|_| !self.batcher.is_busy());
        let deadline = self.batcher.next_deadline().map(|deadline| self.rounds.wake_for(deadline));
        [deadline, ride].into_iter().flatten().fold(beat, Tick::min)
    }

    /// Does what is due, also when commands never cease. What became due while nobody looked waits until agents could
    /// have been heard.
    fn time_passed(&mut self) {
        let now = self.ticker.now();
        if let Some(away) = self.rounds.go(now.tick) {
            tracing::warn!(
                away_ms = away.0,
                "the coordinator did not run for a while: it was stopped, or its host is overloaded; no attempt is given \
                 to another agent for that"
            );
            self.batcher.apply(now, Event::Stalled { away });
        }
        if self.rounds.inspects(now.tick) {
            for session in self.desk.deserted_sessions() {
                self.end_session(now, session);
            }
        }
        if self.batcher.next_deadline().is_some_and(|deadline| deadline <= now.tick) {
            self.rounds.passed(now.tick);
            self.batcher.apply(now, Event::TimePassed);
        }
    }

    fn take(&mut self, commands: &mut Vec<Command>) {
        let now = self.ticker.now();
        for command in commands.drain(..) {
            self.carry_out(now, command);
        }
    }

    fn carry_out(&mut self, now: Now, command: Command) {
        match command {
            Command::Apply(events) => {
                for event in events {
                    if let Event::SessionEnded { session } = &event {
                        self.desk.close_session(*session);
                    }
                    self.batcher.apply(now, event);
                }
            }
            Command::Request { event, reply } => {
                let event = event(self.desk.expect_answer(reply));
                self.batcher.apply(now, event);
            }
            Command::Submit { mut submit, payload, reply } => {
                submit.token = self.desk.expect_answer(reply);
                self.batcher.apply_with_specs(now, Event::Submitted(submit), *payload);
                self.shared.newest_run.store(self.batcher.state().last_run().0, Ordering::Relaxed);
            }
            Command::Consulted { event, payload } => self.batcher.apply_with_specs(now, *event, *payload),
            Command::DecidePlan { event, payload, reply } => {
                let event = event(self.desk.expect_answer(reply));
                self.batcher.apply_with_specs(now, event, *payload);
            }
            Command::OpenSession { outbound, reply } => {
                let session = self.desk.open_session(outbound);
                if reply.send(session).is_err() {
                    self.desk.close_session(session);
                }
            }
            Command::Resolve { target, reply } => {
                let found = self.batcher.state().resolve(&target);
                self.batcher.release_in_turn(Release::Resolved { reply, found });
            }
            Command::Activity(activity) => self.show(now, activity),
            Command::Trim { trim, reply } => {
                self.batcher.trim(trim);
                self.batcher.release_in_turn(Release::Passed { reply });
            }
            Command::Forget { keys, reply } => {
                self.batcher.forget(keys);
                self.batcher.release_in_turn(Release::Passed { reply });
            }
        }
    }

    fn show(&self, now: Now, activity: AttemptActivity) {
        if let Some(grant) = self.batcher.state().grant_view(activity.attempt) {
            self.shared.activities.show(TenantActivity::of(now, &grant, activity));
        }
    }

    fn end_session(&mut self, now: Now, session: SessionId) {
        self.desk.close_session(session);
        self.batcher.apply(now, Event::SessionEnded { session });
    }

    /// Closes the open batch if it can be, and lets leave what may.
    fn turn(&mut self) -> Result<(), EngineError> {
        // Letting words leave may end sessions that nobody reads, which changes the state, so that there may be
        // more to do; every round ends at least one session.
        loop {
            match self.batcher.turn(self.ticker.now())? {
                Turn::Wait => return Ok(()),
                Turn::Leave(releases) => self.leave(releases),
                Turn::Commit(job) => {
                    self.shared.pulse.commit_started();
                    self.committer.start(job);
                    return Ok(());
                }
            }
        }
    }

    fn committed(&mut self, done: CommitDone) -> Result<(), EngineError> {
        self.shared.pulse.commit_ended();
        let stats = done.result?;
        let completed = self.batcher.complete();
        self.shared.metrics.committed(completed.events, stats, done.took);
        for trim in &completed.trims {
            self.events.forget(trim);
        }
        self.events.publish(completed.pages);
        self.shared.metrics.set_events_seq(self.shared.log.extent().newest);
        self.leave(completed.releases);
        Ok(())
    }

    fn leave(&mut self, releases: Vec<Release>) {
        let now = self.ticker.now();
        for session in self.desk.release(releases) {
            self.batcher.apply(now, Event::SessionEnded { session });
        }
    }

    /// Notes that everything ended in order. Nothing is in flight and nothing is open.
    async fn finish(mut self) -> Result<(), EngineError> {
        let job = CommitJob {
            epoch: self.shared.epoch.0,
            tick: Some(self.ticker.now().tick.0),
            last: true,
            ..CommitJob::default()
        };
        self.committer.start(job);
        let done = poll_fn(|context| self.committer.poll_done(context)).await;
        done.result?;
        self.shared.readers.idle().await;
        self.shared.writers.idle().await;
        tracing::info!("everything is durable, the store is closed");
        Ok(())
    }
}

impl Handle {
    /// Whether too little of the data disk is free to take new runs.
    pub(crate) fn set_disk_low(&self, low: bool) {
        if self.shared().disk_low.swap(low, Ordering::Relaxed) != low {
            if low {
                tracing::error!(
                    "the data disk is nearly full: new runs are refused, results are still recorded"
                );
            } else {
                tracing::info!("the data disk has room again");
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
