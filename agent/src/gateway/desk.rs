//! Where requests wait for their admission and are entered in the books: asked, let go or refused, begun, ended. Every
//! agent that is connected is told; one that comes later is told where things stand. A request that is given up at
//! any point is withdrawn or entered by its guard.
//! Knows requests; refuses to know HTTP and sockets.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::supervisor::wire::spell;

use super::ledger::{self, Entry, Ledger};
use super::question::Question;
use super::warmth::Warmth;
use super::wire::{Ask, Command, Event, Headers, ModelTotal, Tokens, WIRE_VERSION};

/// Most requests at once, those that wait included. The CLI has a few, each sub-agent one. Each holds two or three open
/// files, of which a process has 1,024 where nobody raised that, and the supervisor needs some itself.
pub const MOST_REQUESTS: usize = 256;

/// Lines an agent may leave unread; beyond, it is cut off, connects again and is told where things stand. Above
/// [`MOST_REQUESTS`], which are all told at the beginning.
const MOST_UNREAD: usize = 8 * MOST_REQUESTS;

/// Most models of an attempt, by what it calls them. The CLI has three or four; what is asked for is kept and told, so
/// made-up names must not fill anybody's memory.
const MOST_MODELS: usize = 64;

/// Agents at once: one, its successor, and people who look.
const MOST_AGENTS: usize = 8;

/// What the supervisor's loop sees of its gateway.
#[derive(Debug, Default)]
pub struct Life {
    waiting: AtomicU32,
    broken: AtomicBool,
}

impl Life {
    /// Whether a request waits for its admission: the child is alive however silent it is.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Whether it ended before it was asked to.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    pub(super) fn break_off(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Counts as a wait until it is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waits {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waits(Arc::clone(self))
    }
}

/// A wait; see [`Life::wait`].
#[derive(Debug)]
pub(super) struct Waits(Arc<Life>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is answered in place of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Status.
    pub status: u16,
    /// `error.type`.
    pub kind: String,
    /// `error.message`.
    pub message: String,
    /// `retry-after` in seconds.
    pub retry_after_s: Option<u64>,
}

/// The books of one attempt.
#[derive(Debug)]
pub struct Desk {
    inside: Mutex<Inside>,
    life: Arc<Life>,
}

#[derive(Debug)]
struct Inside {
    id: String,
    last: u64,
    waiting: BTreeMap<u64, (Ask, oneshot::Sender<Result<(), Refusal>>)>,
    flying: BTreeMap<u64, Ask>,
    totals: BTreeMap<String, ModelTotal>,
    ledger: Ledger,
    warmth: Warmth,
    agents: Vec<mpsc::Sender<Bytes>>,
    /// Why the books are not complete.
    trouble: Option<String>,
}

impl Desk {
    /// The books of the attempt in `attempt_dir`, whose supervisor is `id`.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn open(attempt_dir: &Path, id: &str, life: Arc<Life>) -> io::Result<Arc<Self>> {
        let inside = Inside {
            id: id.to_owned(),
            last: 0,
            waiting: BTreeMap::new(),
            flying: BTreeMap::new(),
            totals: BTreeMap::new(),
            ledger: Ledger::open(attempt_dir)?,
            warmth: Warmth::default(),
            agents: Vec::new(),
            trouble: None,
        };
        Ok(Arc::new(Self { inside: Mutex::new(inside), life }))
    }

    /// Nothing of it is left half done by a panic.
    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) const fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// Why an entry could not be written, if one could not.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.inside().trouble.clone()
    }

    /// An agent has come: lines for it, the first of which say where things stand. `None` where there are too many.
    pub fn admit_agent(&self) -> Option<mpsc::Receiver<Bytes>> {
        let mut inside = self.inside();
        inside.agents.retain(|agent| !agent.is_closed());
        if inside.agents.len() >= MOST_AGENTS {
            return None;
        }
        let (agent, lines) = mpsc::channel(MOST_UNREAD);
        let hello = Event::Hello {
            version: WIRE_VERSION,
            id: inside.id.clone(),
            totals: inside.totals.values().cloned().collect(),
            in_flight: inside.flying.values().cloned().collect(),
        };
        let asks = inside.waiting.values().map(|(ask, _)| Event::Ask(ask.clone()));
        for event in std::iter::once(hello).chain(asks) {
            agent.try_send(spell(&event).into()).ok()?;
        }
        inside.agents.push(agent);
        Some(lines)
    }

    /// Nobody is told anything any more; what was said still leaves.
    pub fn dismiss_agents(&self) {
        self.inside().agents.clear();
    }

    /// An agent has spoken. A word about a request that is not waiting changes nothing.
    pub fn obey(&self, command: Command) {
        match command {
            Command::Go { request } => self.decide(request, Ok(())),
            Command::Refuse { request, status, kind, message, retry_after_s } => {
                self.decide(request, Err(Refusal { status, kind, message, retry_after_s }));
            }
            Command::Hello { .. } | Command::Credential { .. } | Command::Unknown => {}
        }
    }

    fn decide(&self, request: u64, decision: Result<(), Refusal>) {
        let mut inside = self.inside();
        let Some((ask, answer)) = inside.waiting.remove(&request) else { return };
        if decision.is_ok() {
            inside.flying.insert(request, ask);
        }
        // Whoever waited may have been given up: its guard finds the request wherever it is.
        let _ = answer.send(decision);
    }

    /// Whether a request for `model` can be entered.
    #[must_use]
    pub fn has_room_for(&self, model: &str) -> bool {
        let inside = self.inside();
        inside.totals.len() < MOST_MODELS || inside.totals.contains_key(model)
    }

    /// Tells every agent something that concerns everybody.
    pub fn signal(&self, event: &Event) {
        self.inside().tell(event);
    }

    /// Asks for a request's admission. `None` where there are too many.
    #[must_use]
    pub fn ask(self: &Arc<Self>, question: &Arc<Question>, sub_agent: bool) -> Option<Asked> {
        let mut inside = self.inside();
        if inside.waiting.len() + inside.flying.len() >= MOST_REQUESTS {
            return None;
        }
        inside.last += 1;
        let ask = Ask {
            request: inside.last,
            model: question.model.clone(),
            input_bound: Warmth::bound(question),
            likely_cached: inside.warmth.likely_cached(question, Instant::now()),
            output_bound: question.max_tokens,
            sub_agent,
            for_an_hour: question.for_an_hour,
        };
        let (answer, decision) = oneshot::channel();
        inside.tell(&Event::Ask(ask.clone()));
        let entry = Entry { request: ask.request, model: ask.model.clone(), sub_agent, ..Entry::default() };
        inside.waiting.insert(ask.request, (ask, answer));
        drop(inside);
        let flight = Flight {
            desk: Arc::clone(self),
            question: Arc::clone(question),
            entry,
            headers: None,
            since: Instant::now(),
            is_open: true,
        };
        Some(Asked { decision, flight: Some(flight) })
    }

    fn end(&self, entry: &mut Entry, headers: Option<Headers>, question: &Question) {
        let mut inside = self.inside();
        if inside.waiting.remove(&entry.request).is_some() {
            inside.tell(&Event::Withdrawn { request: entry.request });
            return;
        }
        if inside.flying.remove(&entry.request).is_none() {
            return;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        entry.ended_ms = millis(now);
        if !entry.estimated && entry.tokens.output > 0 {
            inside.warmth.ended(&question.model, entry.tokens.output);
        }
        ledger::count(&mut inside.totals, entry);
        inside.write(entry);
        inside.tell(&Event::Ended {
            request: entry.request,
            tokens: entry.tokens,
            estimated: entry.estimated,
            status: entry.status,
            headers: headers.unwrap_or_default(),
        });
    }
}

impl Inside {
    fn write(&mut self, entry: &Entry) {
        if let Err(error) = self.ledger.add(entry) {
            self.trouble.get_or_insert_with(|| format!("cannot write the ledger: {error}"));
        }
    }

    fn tell(&mut self, event: &Event) {
        if self.agents.is_empty() {
            return;
        }
        let line = Bytes::from(spell(event));
        self.agents.retain(|agent| agent.try_send(line.clone()).is_ok());
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A request that waits. Given up, it is withdrawn.
#[derive(Debug)]
pub struct Asked {
    decision: oneshot::Receiver<Result<(), Refusal>>,
    flight: Option<Flight>,
}

impl Asked {
    /// Waits for the decision, for ever where no agent comes. Cancel safe.
    pub async fn decided(&mut self) -> Result<Flight, Refusal> {
        match (&mut self.decision).await {
            Ok(Ok(())) => self.flight.take().ok_or_else(Refusal::ended),
            Ok(Err(refusal)) => Err(refusal),
            Err(_) => Err(Refusal::ended()),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // Let go or not: nothing was sent.
        if let Some(flight) = self.flight.take() {
            flight.end(Tokens::default());
        }
    }
}

impl Refusal {
    fn ended() -> Self {
        let (kind, message) = ("api_error".to_owned(), "the gateway ends".to_owned());
        Self { status: 503, kind, message, retry_after_s: None }
    }
}

/// A request that was let go. Given up, it is entered with what is known of it.
#[derive(Debug)]
pub struct Flight {
    desk: Arc<Desk>,
    question: Arc<Question>,
    entry: Entry,
    /// What the headers said, until it was told: of a long answer they are old when it ends.
    headers: Option<Headers>,
    since: Instant,
    is_open: bool,
}

impl Flight {
    /// The number of the request.
    #[must_use]
    pub const fn request(&self) -> u64 {
        self.entry.request
    }

    /// The status of the answer and what its headers say.
    pub const fn answered(&mut self, status: u16, headers: Headers) {
        self.entry.status = status;
        self.headers = Some(headers);
    }

    /// The input is known.
    pub fn begun(&mut self, tokens: Tokens) {
        let headers = self.headers.take().unwrap_or_default();
        let mut inside = self.desk.inside();
        inside.warmth.began(&self.question, tokens, Instant::now());
        let output = tokens.output.max(inside.warmth.guess(&self.question).output);
        inside.write(&Entry { tokens: Tokens { output, ..tokens }, open: true, ..self.entry.clone() });
        inside.tell(&Event::Begun { request: self.entry.request, tokens, headers });
    }

    /// The request ended, and what it took is known.
    pub fn end(mut self, tokens: Tokens) {
        self.close(tokens, false);
    }

    /// The request ended; what it took is known in part.
    pub fn end_estimated(mut self, tokens: Tokens) {
        self.close(tokens, true);
    }

    /// The request ended, and what it took was not said: `output` tokens at least went by.
    pub fn end_unseen_but(mut self, output: u64) {
        let mut guess = self.desk.inside().warmth.guess(&self.question);
        guess.output = guess.output.max(output);
        self.close(guess, true);
    }

    fn close(&mut self, tokens: Tokens, estimated: bool) {
        self.is_open = false;
        self.entry.tokens = tokens;
        self.entry.estimated = estimated;
        self.entry.took_ms = millis(self.since.elapsed());
        self.desk.end(&mut self.entry, self.headers.take(), &self.question);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.is_open {
            return;
        }
        // Before the head of its answer. That of a stream comes with the first token; any other one comes last of all, when
        // everything is done.
        let guess = if self.question.stream {
            Tokens::default()
        } else {
            self.desk.inside().warmth.guess(&self.question)
        };
        self.close(guess, true);
    }
}
