//! Knows the life of one CLI process: it waits for whatever comes first (work, stdin, SIGINT), answers
//! control requests at once, takes user messages one turn after the other and ends with stdin. Refuses to
//! know what happens within a turn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use super::bill::Bill;
use super::history::History;
use super::input::{self, Input, UserLine};
use super::output::Out;
use super::remote::Remote;
use super::settings::{Output, Settings};
use crate::ids::Ids;

/// Lines read ahead from stdin while a turn runs. More wait in the pipe.
const READ_AHEAD: usize = 16;

/// Why work stops before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Somebody interrupted the turn.
    Interrupted(By),
    /// The process ends now with this code.
    Exit(u8),
}

/// Who interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    /// A control request: the process lives on.
    Request,
    /// SIGINT: the process ends.
    Signal,
}

/// What an interruption would hit.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum During {
    /// No answer has begun.
    Waiting,
    /// An answer is coming; the event for what has come so far, if any.
    Streaming(Option<Value>),
    /// The tool call with this id runs.
    Tool(String),
}

/// Signals the process was told to ignore.
#[derive(Debug, Default)]
pub(super) struct Deaf {
    pub(super) int: AtomicBool,
    pub(super) term: AtomicBool,
    pub(super) hup: AtomicBool,
}

/// One process's conversation.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) settings: Settings,
    pub(super) out: Out,
    pub(super) ids: Ids,
    /// The current model and permission mode; control requests change them between turns.
    pub(super) model: String,
    pub(super) mode: String,
    pub(super) bill: Bill,
    pub(super) history: History,
    /// The endpoint it asks, once a prompt wanted that.
    pub(super) remote: Option<Remote>,
    pub(super) during: During,
    pub(super) deaf: Arc<Deaf>,
    pub(super) ignores_requests: bool,
    pub(super) ignores_eof: bool,
    /// Whether the last result was an error: the exit code at the end of stdin.
    pub(super) failed: bool,
    /// Never exit, whatever happens.
    pub(super) lingers: bool,
    /// Memory held by the directive `alloc`.
    pub(super) held: Vec<Vec<u8>>,
    /// Events kept back for `--output-format json`.
    pub(super) kept: Vec<Value>,
    queue: VecDeque<UserLine>,
    /// Whether a turn is running.
    pub(super) running: bool,
    inputs: mpsc::Receiver<Input>,
    inputs_open: bool,
    interrupts: Signal,
    asks: HashMap<String, oneshot::Sender<Value>>,
}

impl Session {
    /// Sets up a session; in stream mode stdin is read from now on.
    ///
    /// # Errors
    /// Signals cannot be watched, or the conversation is not there (the text for stderr).
    pub(super) fn start(settings: Settings, out: Out, tasks: &TaskTracker) -> Result<Self, String> {
        let history = History::open(&settings)?;
        let watch =
            |kind: SignalKind| signal(kind).map_err(|error| format!("Error: cannot watch signals: {error}"));
        let (interrupts, term, hup) =
            (watch(SignalKind::interrupt())?, watch(SignalKind::terminate())?, watch(SignalKind::hangup())?);
        let deaf = Arc::new(Deaf::default());
        tasks.spawn(die_on_signals(term, hup, Arc::clone(&deaf)));
        let (lines, inputs) = mpsc::channel(READ_AHEAD);
        if settings.stream_input {
            tasks.spawn(input::read_lines(lines));
        }
        // A resumed session shares its seed with its earlier processes: leave their ids alone.
        let ids = Ids::new(settings.session_id(), history.turns << 32);
        Ok(Self {
            out,
            ids,
            model: settings.model.clone(),
            mode: settings.permission_mode.clone(),
            bill: Bill::default(),
            history,
            remote: None,
            during: During::Waiting,
            deaf,
            ignores_requests: false,
            ignores_eof: false,
            failed: false,
            lingers: false,
            held: Vec::new(),
            kept: Vec::new(),
            queue: VecDeque::new(),
            running: false,
            inputs_open: settings.stream_input,
            inputs,
            interrupts,
            asks: HashMap::new(),
            settings,
        })
    }

    /// Runs `first` (text mode) or the turns that stdin asks for, and gives the exit code.
    pub(super) async fn run(mut self, first: Option<String>) -> u8 {
        self.queue.extend(first.map(|text| {
            let message = json!({"role": "user", "content": [{"type": "text", "text": text}]});
            UserLine { text, message }
        }));
        let code = loop {
            let line = match self.next_line().await {
                Ok(Some(line)) => line,
                Ok(None) => break u8::from(self.failed),
                Err(Stop::Exit(code)) => break code,
                Err(Stop::Interrupted(By::Signal)) => break 0,
                Err(Stop::Interrupted(By::Request)) => continue,
            };
            self.running = true;
            let turn = self.turn(line).await;
            self.running = false;
            if let Err(code) = turn {
                break code;
            }
        };
        if let Some(text) = self.kept_output() {
            self.out.line(text).await;
        }
        if self.lingers {
            std::future::pending::<()>().await;
        }
        self.out.drain().await;
        code
    }

    /// What the formats other than stream-json print at the end.
    fn kept_output(&self) -> Option<String> {
        let result = self.kept.iter().rfind(|event| event["type"] == "result")?;
        match self.settings.output {
            Output::StreamJson => None,
            Output::Json if self.settings.verbose => Some(Value::Array(self.kept.clone()).to_string()),
            Output::Json => Some(result.to_string()),
            Output::Text => {
                let said = result["result"].as_str().or_else(|| result["errors"][0].as_str());
                Some(said.unwrap_or_default().to_owned())
            }
        }
    }

    async fn next_line(&mut self) -> Result<Option<UserLine>, Stop> {
        loop {
            if let Some(line) = self.queue.pop_front() {
                return Ok(Some(line));
            }
            if !self.inputs_open && !self.ignores_eof {
                return Ok(None);
            }
            tokio::select! {
                biased;
                _ = self.interrupts.recv() => self.interrupted()?,
                input = self.inputs.recv(), if self.inputs_open => self.take(input).await?,
                // With the end of stdin ignored there is nothing left to wait for but signals.
                () = std::future::pending::<()>() => {}
            }
        }
    }

    /// Waits for the end of stdin (or a signal), whatever else comes.
    pub(super) async fn wait_for_end_of_input(&mut self) {
        while let Ok(Some(_)) | Err(Stop::Interrupted(By::Request)) = self.next_line().await {}
    }

    /// Waits for `work`, answering control requests meanwhile.
    ///
    /// # Errors
    /// The turn was interrupted, or stdin said something the CLI dies of.
    pub(super) async fn wait<F: Future>(&mut self, work: F) -> Result<F::Output, Stop> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                _ = self.interrupts.recv() => self.interrupted()?,
                input = self.inputs.recv(), if self.inputs_open => self.take(input).await?,
                output = &mut work => return Ok(output),
            }
        }
    }

    /// Waits for `pause` and, on top, the configured pause between events.
    pub(super) async fn pause(&mut self, pause: Duration) -> Result<(), Stop> {
        let whole = pause + self.settings.delay();
        if whole.is_zero() {
            // Lets stdin be heard in a script without pauses.
            return self.wait(tokio::task::yield_now()).await;
        }
        self.wait(tokio::time::sleep(whole)).await
    }

    /// User messages that came while the turn ran. As observed, the CLI hands them to the running turn
    /// with the next tool result; they get no turn and no result of their own.
    pub(super) fn absorbed(&mut self) -> Vec<UserLine> {
        self.queue.drain(..).collect()
    }

    /// Asks on stdout and waits for the answer; null when stdin is closed.
    pub(super) async fn ask(&mut self, request: Value) -> Result<Value, Stop> {
        let id = self.ids.uuid().to_string();
        let (answer, answered) = oneshot::channel();
        if self.inputs_open {
            self.asks.insert(id.clone(), answer);
        } else {
            drop(answer);
        }
        self.out
            .line(json!({"type": "control_request", "request_id": id, "request": request}).to_string())
            .await;
        Ok(self.wait(answered).await?.unwrap_or(Value::Null))
    }

    /// Prints an event, completed by session id and uuid.
    ///
    /// # Errors
    /// As [`Session::wait`]: an event that waits for its reader can be interrupted.
    pub(super) async fn emit(&mut self, event: Value) -> Result<(), Stop> {
        let Some(line) = self.line_of(event) else { return Ok(()) };
        let out = self.out.clone();
        self.wait(async move { out.line(line).await }).await
    }

    /// Prints an event that no interruption may swallow.
    pub(super) async fn emit_surely(&mut self, event: Value) {
        if let Some(line) = self.line_of(event) {
            self.out.line(line).await;
        }
    }

    fn line_of(&mut self, mut event: Value) -> Option<String> {
        if event.get("session_id").is_none() {
            event["session_id"] = json!(self.settings.session_id());
        }
        if event.get("uuid").is_none() {
            event["uuid"] = json!(self.ids.uuid());
        }
        match self.settings.output {
            Output::StreamJson => Some(event.to_string()),
            Output::Json | Output::Text => {
                self.kept.push(event);
                None
            }
        }
    }

    fn interrupted(&self) -> Result<(), Stop> {
        if self.deaf.int.load(Ordering::Relaxed) { Ok(()) } else { Err(Stop::Interrupted(By::Signal)) }
    }

    /// Acts on something from stdin.
    async fn take(&mut self, input: Option<Input>) -> Result<(), Stop> {
        match input {
            None => {
                self.inputs_open = false;
                // Whoever waits for an answer learns that none will come.
                self.asks.clear();
            }
            Some(Input::User(line)) => self.queue.push_back(line),
            Some(Input::Answer { id, response }) => {
                if let Some(waiting) = self.asks.remove(&id) {
                    let _ = waiting.send(response);
                }
            }
            Some(Input::Control { id, request }) => self.control(&id, &request).await?,
            Some(Input::Bad(complaint)) => {
                super::complain(&complaint);
                return Err(Stop::Exit(1));
            }
        }
        Ok(())
    }
}

/// TERM and HUP end the process at once, tools left running: as observed, exit 143 and 129.
async fn die_on_signals(mut term: Signal, mut hup: Signal, deaf: Arc<Deaf>) {
    loop {
        let (ignored, code) = tokio::select! {
            _ = term.recv() => (deaf.term.load(Ordering::Relaxed), 143),
            _ = hup.recv() => (deaf.hup.load(Ordering::Relaxed), 129),
        };
        if !ignored {
            std::process::exit(code);
        }
    }
}
