//! Group commit without a runtime: events go in, batches come out, and what may leave comes back when one is durable.
//!
//! ```text
//!            apply, apply, apply …        (in memory, while the batch before is being flushed)
//!  open batch ───────────────── close ──▶ in flight ── complete ──▶ pages published, words and answers leave
//! ```
//!
//! At most one batch is in flight. What belongs to the open one waits, reads included: their answers show what was
//! applied before them, and must not be seen before it is durable. An open batch that changes nothing costs no commit.
//!
//! Knows the order of things; refuses to know threads, channels and clocks.

use std::sync::Arc;

use orch_core::effect::{Change, Effects, Notice, Write};
use orch_core::event::Event;
use orch_core::ids::{Epoch, RunId};
use orch_core::machine;
use orch_core::state::State;
use orch_core::time::{Now, Span, Tick};

use super::commit::CommitJob;
use super::dirty::Dirty;
use super::release::Release;
use crate::events::page::{self, Page};
use crate::events::retention::Trim;
use crate::ledger::LedgerWriter;
use crate::metrics::Metrics;
use crate::payloads::{SpecCache, SpecRecords, SubmitPayload};
use crate::store::{Key, KeyError};

/// Longest time between two durable ticks while something is committed. A crash takes the coordinator's clock back by
/// at most this plus its idle time, which only makes deadlines later.
const TICK_EVERY: Span = Span::seconds(10);

/// How long an open batch waits for company when all that happened is that agents took assignments over. Nobody waits
/// for that, and a short task ends within it, so that it costs two commits and not three; watchers see it this much
/// later at most.
const RIDE_ALONG: Span = Span(50);

/// Events of an open batch after which the engine stops taking more until the batch before is durable: what waits for
/// one flush must fit one flush.
const MAX_BATCH_EVENTS: usize = 8_192;

/// State, the open batch and the one in flight.
#[derive(Debug)]
pub(super) struct Batcher {
    state: State,
    epoch: Epoch,
    open: Open,
    dirty: Dirty,
    in_flight: Option<InFlight>,
    tick_written: Tick,
    specs: SpecCache,
    ledger: LedgerWriter,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Open {
    notices: Vec<Notice>,
    releases: Vec<Release>,
    events: usize,
    /// Runs that tasks joined.
    expanded: Vec<RunId>,
    /// Somebody may be waiting for it.
    awaited: bool,
    /// When it is closed although nobody is.
    ride_until: Option<Tick>,
}

#[derive(Debug)]
struct InFlight {
    pages: Vec<Page>,
    releases: Vec<Release>,
    trims: Vec<Trim>,
    events: usize,
    expanded: Vec<RunId>,
}

/// What is to be done now.
#[derive(Debug)]
pub(super) enum Turn {
    /// Nothing: the batch in flight is not durable yet, or there is nothing to say.
    Wait,
    /// Let these leave; everything before them is durable.
    Leave(Vec<Release>),
    /// Make this durable, then call [`Batcher::complete`].
    Commit(CommitJob),
}

/// What may happen because a batch is durable.
#[derive(Debug, Default)]
pub(super) struct Completed {
    /// Events to be shown, before anything leaves.
    pub(super) pages: Vec<Page>,
    /// Event pages that are gone.
    pub(super) trims: Vec<Trim>,
    /// To leave, in order.
    pub(super) releases: Vec<Release>,
    /// Events that shared the batch.
    pub(super) events: usize,
}

impl Batcher {
    pub(super) fn new(
        state: State,
        epoch: Epoch,
        tick: Tick,
        specs: SpecCache,
        ledger: LedgerWriter,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            state,
            epoch,
            open: Open::default(),
            dirty: Dirty::default(),
            in_flight: None,
            tick_written: tick,
            specs,
            ledger,
            metrics,
        }
    }

    pub(super) const fn state(&self) -> &State {
        &self.state
    }

    /// Whether a batch is in flight.
    pub(super) const fn is_busy(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Whether no more may be taken until the batch in flight is durable.
    pub(super) const fn is_full(&self) -> bool {
        self.open.events >= MAX_BATCH_EVENTS && self.is_busy()
    }

    /// Whether the open batch is closed at the next turn, and somebody waits for it.
    pub(super) const fn is_to_be_closed(&self) -> bool {
        self.open.awaited && !self.is_busy()
    }

    /// When the core is to be told that time passed.
    pub(super) fn next_deadline(&self) -> Option<Tick> {
        machine::next_deadline(&self.state)
    }

    /// When the open batch is to be closed, if nothing happens before.
    pub(super) const fn ride_until(&self) -> Option<Tick> {
        self.open.ride_until
    }

    /// Applies an event.
    pub(super) fn apply(&mut self, now: Now, event: Event) {
        let rides_along = matches!(event, Event::AttemptAccepted { .. });
        let effects = machine::apply(&mut self.state, now, event);
        if rides_along && effects.actions.is_empty() {
            self.open.ride_until.get_or_insert(now.tick + RIDE_ALONG);
        } else {
            self.open.awaited = true;
        }
        self.gather(now, effects, &mut SpecRecords::default());
    }

    /// Applies a submit, or what has tasks join a run; `payload` is what is written of them if they do.
    pub(super) fn apply_with_specs(&mut self, now: Now, event: Event, payload: SubmitPayload) {
        let effects = machine::apply(&mut self.state, now, event);
        self.open.awaited = true;
        let SubmitPayload { mut records, pages } = payload;
        if let Some((run, expanded)) = grown_run(&effects) {
            if expanded {
                self.specs.forget(run);
                self.open.expanded.push(run);
            }
            for (number, page) in (0_u32..).zip(pages) {
                self.specs.insert((run, number), page);
            }
        }
        self.gather(now, effects, &mut records);
    }

    fn gather(&mut self, now: Now, effects: Effects, records: &mut SpecRecords) {
        self.open.events += 1;
        self.ledger.note(&effects.bills, now.wall);
        for write in effects.writes {
            self.dirty.note(write, records);
        }
        for notice in &effects.notices {
            count(&self.metrics, notice);
        }
        self.open.notices.extend(effects.notices);
        let actions = effects.actions.into_iter();
        let releases = actions.filter_map(|action| Release::of(action, &self.state, self.epoch));
        self.open.releases.extend(releases);
    }

    /// Lets something leave that no event caused, when everything before it may.
    pub(super) fn release_in_turn(&mut self, release: Release) {
        self.open.releases.push(release);
        self.open.awaited = true;
    }

    /// Makes the open batch wait for nothing but the one before it.
    pub(super) const fn hurry(&mut self) {
        self.open.awaited = true;
    }

    /// Event pages to be deleted with the next batches.
    pub(super) fn trim(&mut self, trim: Trim) {
        self.dirty.note_trim(trim);
    }

    /// Records to be deleted with the next batches.
    pub(super) fn forget(&mut self, keys: Vec<Key>) {
        self.dirty.note_gone(keys);
    }

    /// Closes the open batch, if none is in flight.
    ///
    /// # Errors
    /// When a name does not fit a key, which checked names do.
    pub(super) fn turn(&mut self, now: Now) -> Result<Turn, KeyError> {
        if self.is_busy() {
            return Ok(Turn::Wait);
        }
        if self.dirty.is_empty() && self.open.notices.is_empty() && self.ledger.is_empty() {
            let open = std::mem::take(&mut self.open);
            return Ok(if open.releases.is_empty() { Turn::Wait } else { Turn::Leave(open.releases) });
        }
        if !self.open.awaited && self.open.ride_until.is_some_and(|until| now.tick < until) {
            return Ok(Turn::Wait);
        }
        let Open { notices, releases, events, expanded, .. } = std::mem::take(&mut self.open);
        let mut writes = self.dirty.close(&self.state)?;
        let pages = page::pack(&notices, now.tick);
        writes.drafts.extend(pages.iter().map(Page::to_draft));
        writes.drafts.extend(self.ledger.close(now.tick));
        self.in_flight = Some(InFlight { pages, releases, trims: writes.trims, events, expanded });
        let due = now.tick - self.tick_written >= TICK_EVERY;
        if due {
            self.tick_written = now.tick;
        }
        let tick = due.then_some(now.tick.0);
        Ok(Turn::Commit(CommitJob { epoch: self.epoch.0, drafts: writes.drafts, tick, last: false }))
    }

    /// The batch in flight is durable.
    pub(super) fn complete(&mut self) -> Completed {
        let Some(InFlight { pages, releases, trims, events, expanded }) = self.in_flight.take() else {
            return Completed::default();
        };
        for run in expanded {
            self.specs.forget(run);
        }
        self.ledger.durable();
        Completed { pages, trims, releases, events }
    }
}

/// The run whose specs are new, and whether it had others before.
fn grown_run(effects: &Effects) -> Option<(RunId, bool)> {
    effects.writes.iter().find_map(|write| match write {
        Write::NewRun(run) => Some((*run, false)),
        Write::Expanded(run) => Some((*run, true)),
        Write::Run(_)
        | Write::Task { .. }
        | Write::ForgetRun { .. }
        | Write::Agent(_)
        | Write::ForgetAgent { .. }
        | Write::Budget { .. }
        | Write::ForgetBudget { .. }
        | Write::Request { .. }
        | Write::ForgetRequest { .. } => None,
    })
}

fn count(metrics: &Metrics, notice: &Notice) {
    let Change::Task { state, outcome, execution_time, waited, .. } = &notice.change else { return };
    if let Some(waited) = waited {
        metrics.task_waited(waited.0);
    }
    if let (Some(outcome), Some(length)) = (outcome, execution_time) {
        metrics.attempt_ended(*outcome, Some(length.0));
    }
    if state.is_terminal() {
        metrics.task_ended(state.word());
    }
}
