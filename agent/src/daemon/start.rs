//! From an accepted assignment to a running attempt: fetches its bulk, picks its runner.
//! Knows runners by trait; refuses to know processes.

use crate::causes::one_line;
use crate::daemon::supply::{Fetched, Supplies, reusable};
use crate::inputs::InputError;
use crate::runner::note::{Note, WorkNote};
use crate::runner::{
    Adopted, AttemptHandle, AttemptKey, AttemptLink, AttemptReport, AttemptSpec, Input, Live, Outcome,
    Prompt, Runner, Shown, Work, Workspace, link, noop::NoopRunner,
};
use crate::session::bulk::{self, BulkError};
use crate::session::convert::{self, Assigned, AssignedWork, AssignmentError};
use crate::session::link::Bulk;
use crate::supervisor::client::Survivor;
use crate::supervisor::stop::StopCause;
use crate::workspaces::WorkspaceError;
use futures_util::FutureExt as _;
use orch_proto::{protocol_max, protocol_min, v1};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tracing::Instrument as _;

/// Worker definitions kept: a fleet has a handful.
const MAX_DEFINITIONS: usize = 64;
/// How often bulk is asked for again while the coordinator is out of reach: together a little less than the time after
/// which it would give the attempt to somebody else.
pub(super) const FETCH_TRIES: u32 = 20;
/// Pause between two of them.
pub(super) const FETCH_PAUSE: Duration = Duration::from_secs(1);

/// Who the agent is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Name of the certificate.
    pub name: String,
    /// Random per process.
    pub incarnation: [u8; 16],
    /// Host name.
    pub host: String,
}

/// What the agent offers.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// Slots.
    pub slots: u32,
    /// Capabilities, each `key=value`.
    pub capabilities: Vec<String>,
    /// Version line of the CLI; empty when there is none.
    pub cli_version: String,
    /// Missing protections and other facts for people.
    pub warnings: Vec<String>,
    /// Runners on offer.
    pub runners: Vec<String>,
    /// Layers between attempts and the host.
    pub isolation: Vec<String>,
}

impl Identity {
    /// The Hello of this agent, without what it holds.
    #[must_use]
    pub fn hello(&self, offer: &Offer) -> v1::Hello {
        v1::Hello {
            protocol_min: protocol_min(),
            protocol_max: protocol_max(),
            agent: self.name.clone(),
            incarnation: self.incarnation.to_vec(),
            slots: offer.slots,
            capabilities: offer.capabilities.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cli_version: offer.cli_version.clone(),
            warnings: offer.warnings.clone(),
            runners: offer.runners.clone(),
            host: self.host.clone(),
            isolation: offer.isolation.clone(),
            ..v1::Hello::default()
        }
    }
}

/// What executes attempts.
#[derive(Debug, Clone)]
pub struct Runners {
    /// The Claude CLI, when there is one.
    pub claude: Option<Arc<dyn Runner>>,
    /// Listed programs, when there are any.
    pub command: Option<Arc<dyn Runner>>,
    /// Publications, where there is a workspace.
    publish: Option<Arc<dyn Runner>>,
    supplies: Option<Supplies>,
    definitions: Arc<Mutex<Definitions>>,
}

/// What became of the preparation of an attempt.
enum Ready {
    Work(Box<Prepared>),
    /// It need not be made.
    Reused(Box<AttemptReport>),
}

/// An attempt with everything it needs.
struct Prepared {
    work: Work,
    inputs: Vec<Input>,
    workspace: Option<Workspace>,
    /// State of the workspace.
    tree: Option<[u8; 32]>,
    /// Kept until the attempt has ended.
    fetched: Option<Fetched>,
}

/// Worker definitions by digest.
type Definitions = BTreeMap<Vec<u8>, Arc<[u8]>>;

/// An attempt about to run.
pub(super) struct Attempt {
    pub(super) key: AttemptKey,
    pub(super) run: Pin<Box<dyn Future<Output = (AttemptKey, AttemptReport)> + Send>>,
}

/// What the daemon gives to every attempt it starts.
pub(super) struct Terms {
    /// How long it may go on without a renewal.
    pub(super) stop_after: Duration,
    /// The cluster whose attempt it is.
    pub(super) cluster: Vec<u8>,
    /// Where bulk comes from.
    pub(super) bulk: Option<Bulk>,
}

/// Why an attempt could not be prepared.
#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("there was no connection to fetch the prompt by")]
    NoBulk,
    #[error("cannot fetch the {0}")]
    Fetch(&'static str, #[source] BulkError),
    #[error(transparent)]
    Assignment(#[from] AssignmentError),
    #[error("the {0} is not UTF-8")]
    NotText(&'static str),
    #[error("the {0} cannot be read")]
    Unreadable(&'static str),
    #[error("its inputs are too much: {0}; depend on fewer tasks, or have them hand over less")]
    TooMuch(String),
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
    #[error(transparent)]
    Inputs(#[from] InputError),
    #[error("this agent has no directory for inputs")]
    NoSupplies,
    #[error("cannot make a directory for inputs")]
    Io(#[from] std::io::Error),
}

impl PrepareError {
    fn outcome(&self) -> Outcome {
        match self {
            // Another agent could not do better, nor this one later.
            Self::TooMuch(_) => Outcome::LimitOutput,
            Self::NoBulk
            | Self::Fetch(..)
            | Self::Assignment(_)
            | Self::NotText(_)
            | Self::Unreadable(_)
            | Self::Workspace(_)
            | Self::Inputs(_)
            | Self::NoSupplies
            | Self::Io(_) => Outcome::SpawnFailed,
        }
    }
}

impl Runners {
    /// The given runners, and `noop`.
    #[must_use]
    pub fn new(claude: Option<Arc<dyn Runner>>, command: Option<Arc<dyn Runner>>) -> Self {
        Self { claude, command, publish: None, supplies: None, definitions: Arc::default() }
    }

    /// The same with the stores of the agent and, where it offers workspaces, what publishes into them.
    #[must_use]
    pub fn supplied(self, supplies: Supplies, publish: Option<Arc<dyn Runner>>) -> Self {
        Self { publish, supplies: Some(supplies), ..self }
    }

    /// The stores of the agent.
    pub(super) const fn supplies(&self) -> Option<&Supplies> {
        self.supplies.as_ref()
    }

    /// Whether an assignment can be run here.
    ///
    /// # Errors
    /// Why not, in plain English.
    pub(super) fn can_run(&self, assigned: &Assigned) -> Result<(), String> {
        let offers = |name: &str| {
            let all = self.supplies.as_ref().map(|supplies| supplies.workspaces().all());
            all.unwrap_or_default().iter().any(|workspace| workspace.name == name)
        };
        if !assigned.workspace.is_empty() && !offers(&assigned.workspace) {
            return Err(format!("this agent offers no workspace {:?}", assigned.workspace));
        }
        match &assigned.work {
            AssignedWork::Claude(_) if self.claude.is_none() => {
                Err("this agent has no claude CLI".to_owned())
            }
            AssignedWork::Command(_) if self.command.is_none() => {
                Err("this agent allows no program".to_owned())
            }
            AssignedWork::Publish(_) if self.publish.is_none() => {
                Err("this agent offers no workspace".to_owned())
            }
            AssignedWork::Claude(_)
            | AssignedWork::Command(_)
            | AssignedWork::Noop
            | AssignedWork::Publish(_) => Ok(()),
        }
    }

    /// Starts an attempt. The future ends with its report, whatever happens.
    pub(super) fn start(&self, assigned: Assigned, terms: Terms) -> (AttemptHandle, Attempt) {
        let (handle, link) = link();
        let (this, key) = (self.clone(), assigned.key);
        (handle, Attempt::of(key, async move { this.execute(assigned, terms, link).await }))
    }

    /// Goes on with an attempt that a former process started; `None` when its runner cannot.
    pub(super) fn adopt(
        &self,
        key: AttemptKey,
        assigned: Option<&Assigned>,
        survivor: Survivor,
    ) -> Option<(AttemptHandle, Attempt)> {
        // An assignment that a former version wrote may not be understood; the note of what runs was.
        let runner = match assigned.map(|assigned| &assigned.work) {
            Some(AssignedWork::Claude(_)) => self.claude.as_ref(),
            Some(AssignedWork::Command(_)) => self.command.as_ref(),
            Some(AssignedWork::Noop | AssignedWork::Publish(_)) => None,
            None => match Note::read(&survivor.attempt_dir)?.work {
                WorkNote::Claude(_) => self.claude.as_ref(),
                WorkNote::Command => self.command.as_ref(),
            },
        };
        let (handle, link) = link();
        let live = link.live.clone();
        let Adopted { run, shown } = runner?.adopt(key, survivor, link)?;
        let supplies = self.supplies.clone();
        let run = async move {
            let report = run.await;
            finish(key, report, supplies.as_ref(), shown, &live).await
        };
        Some((handle, Attempt::of(key, run)))
    }

    async fn execute(self, assigned: Assigned, terms: Terms, link: AttemptLink) -> AttemptReport {
        let mut stop = link.stop.clone();
        let stop_after = terms.stop_after;
        let prepared = tokio::select! {
            // What was stopped before it began does not begin.
            biased;
            cause = asked_to_stop(&mut stop) => return AttemptReport::stopped(cause),
            prepared = self.prepare(&assigned, terms) => prepared,
        };
        let Prepared { work, inputs, workspace, tree, fetched } = match prepared {
            Ok(Ready::Work(prepared)) => *prepared,
            Ok(Ready::Reused(report)) => return *report,
            Err(error) => return AttemptReport::of(error.outcome(), one_line(&error)),
        };
        let runner = match &work {
            Work::Claude(_) => self.claude,
            Work::Command(_) => self.command,
            Work::Noop => Some(Arc::new(NoopRunner) as Arc<dyn Runner>),
            Work::Publish(_) => self.publish,
        };
        let Some(runner) = runner else {
            return AttemptReport::of(Outcome::SpawnFailed, "this agent has no such runner");
        };
        let spec = AttemptSpec { inputs, workspace, tree, ..convert::spec(&assigned, work, stop_after) };
        let (live, shown) = (link.live.clone(), Shown::of(&spec));
        let report = runner.run(spec, link).await;
        if let Some(fetched) = fetched {
            // There may be very many files.
            let _ = crate::blocking::run(move || drop(fetched)).await;
        }
        finish(assigned.key, report, self.supplies.as_ref(), shown, &live).await
    }

    /// Everything an attempt needs; or the report of one that need not be made.
    async fn prepare(&self, assigned: &Assigned, terms: Terms) -> Result<Ready, PrepareError> {
        let (workspace, tree) = self.workspace(assigned).await?;
        if let Some(report) = reusable(assigned, tree) {
            return Ok(Ready::Reused(Box::new(report)));
        }
        let (mut bulk, mut fetched) = (terms.bulk, None);
        let mut inputs = Vec::new();
        if !assigned.inputs.is_empty() {
            let bulk = bulk.as_mut().ok_or(PrepareError::NoBulk)?;
            let place = fetched.insert(self.fetched(assigned.key)?);
            inputs = place.inputs(&assigned.inputs, bulk).await?;
        }
        let work = match &assigned.work {
            AssignedWork::Noop => Work::Noop,
            AssignedWork::Command(command) => Work::Command(command.clone()),
            AssignedWork::Claude(claude) => {
                self.claude_work(claude, bulk.as_mut().ok_or(PrepareError::NoBulk)?).await?
            }
            AssignedWork::Publish(publish) => {
                let bulk = bulk.as_mut().ok_or(PrepareError::NoBulk)?;
                let place = match &mut fetched {
                    Some(place) => place,
                    none => none.insert(self.fetched(assigned.key)?),
                };
                Work::Publish(place.publication(publish, &terms.cluster, bulk).await?)
            }
        };
        Ok(Ready::Work(Box::new(Prepared { work, inputs, workspace, tree, fetched })))
    }

    /// The workspace that an assignment names, and its state where somebody reads it.
    async fn workspace(
        &self,
        assigned: &Assigned,
    ) -> Result<(Option<Workspace>, Option<[u8; 32]>), PrepareError> {
        let name = assigned.workspace.as_str();
        if name.is_empty() {
            return Ok((None, None));
        }
        let unknown = || WorkspaceError::Unknown(name.to_owned());
        let supplies = self.supplies.as_ref().ok_or_else(unknown)?;
        let workspace = supplies.workspaces().find(name)?.clone();
        let tree = match assigned.work {
            AssignedWork::Publish(_) => None,
            AssignedWork::Claude(_) | AssignedWork::Command(_) | AssignedWork::Noop => {
                supplies.state(&workspace).await
            }
        };
        Ok((Some(workspace), tree))
    }

    fn fetched(&self, key: AttemptKey) -> Result<Fetched, PrepareError> {
        Ok(self.supplies.as_ref().ok_or(PrepareError::NoSupplies)?.fetched(key)?)
    }

    async fn claude_work(
        &self,
        claude: &v1::ClaudeAssignment,
        bulk: &mut Bulk,
    ) -> Result<Work, PrepareError> {
        let definition = self.definition(claude.worker.as_ref(), bulk).await?;
        let prompt = text("prompt", claude.prompt.as_ref(), bulk).await?;
        let prompt = prompt.ok_or(AssignmentError::Missing("prompt"))?;
        let schema = text("output schema", claude.output_schema.as_ref(), bulk).await?;
        let files = text("context files", claude.context_files.as_ref(), bulk).await?;
        let feedback = text("feedback", claude.feedback.as_ref(), bulk).await?;
        let (prompt, files) = (Prompt::Text(prompt), files.unwrap_or_default());
        Ok(convert::claude_work(claude, &definition, prompt, schema.unwrap_or_default(), files, feedback)?)
    }

    async fn definition(
        &self,
        blob: Option<&v1::BlobRef>,
        bulk: &mut Bulk,
    ) -> Result<Arc<[u8]>, PrepareError> {
        let blob = blob.ok_or(AssignmentError::Missing("worker"))?;
        if let Some(known) = self.known().get(&blob.digest) {
            return Ok(Arc::clone(known));
        }
        let bytes: Arc<[u8]> = Arc::from(fetch("worker", blob, bulk).await?);
        let mut known = self.known();
        if known.len() >= MAX_DEFINITIONS {
            known.clear();
        }
        known.insert(blob.digest.clone(), Arc::clone(&bytes));
        Ok(bytes)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Definitions> {
        self.definitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attempt {
    /// One that ends with its report also where a runner breaks off.
    fn of(key: AttemptKey, run: impl Future<Output = AttemptReport> + Send + 'static) -> Self {
        let run = async move {
            let report = AssertUnwindSafe(run).catch_unwind().await.unwrap_or_else(|_| {
                tracing::error!("a runner broke off, which is a mistake in the agent");
                AttemptReport::of(
                    Outcome::Crash,
                    "the agent broke off while it ran, which is a mistake in the agent",
                )
            });
            (key, report)
        };
        Self { key, run: Box::pin(run.instrument(key.span())) }
    }
}

/// What is done after a runner: the workspace is looked at once more, and files are collected.
async fn finish(
    key: AttemptKey,
    mut report: AttemptReport,
    supplies: Option<&Supplies>,
    shown: Option<Shown>,
    live: &watch::Sender<Live>,
) -> AttemptReport {
    let Some(supplies) = supplies else { return report };
    if let Some(Shown { workspace, tree }) = shown {
        // One that changed meanwhile was seen in no single state: its result is not used again.
        report.tree = supplies.state(&workspace).await.filter(|after| tree == *after);
    }
    if report.artifacts_from.is_none() {
        return report;
    }
    live.send_modify(|live| "collecting what it hands over".clone_into(&mut live.now));
    supplies.collect(key, report).await
}

/// A text of an assignment, which may be bulk.
async fn text(
    what: &'static str,
    text: Option<&v1::Text>,
    bulk: &mut Bulk,
) -> Result<Option<String>, PrepareError> {
    match text.and_then(|text| text.body.as_ref()) {
        Some(v1::text::Body::Inline(text)) => Ok(Some(text.clone())),
        Some(v1::text::Body::Blob(blob)) => {
            let text = String::from_utf8(fetch(what, blob, bulk).await?);
            Ok(Some(text.map_err(|_| PrepareError::NotText(what))?))
        }
        None => Ok(None),
    }
}

/// Fetches bulk, again and again while the coordinator is out of reach for a moment: that is nothing an attempt should
/// fail for.
pub(super) async fn fetch(
    what: &'static str,
    blob: &v1::BlobRef,
    bulk: &mut Bulk,
) -> Result<Vec<u8>, PrepareError> {
    let mut tries = 1;
    loop {
        match bulk::get(&mut bulk.blobs, blob).await {
            Ok(bytes) => return Ok(bytes),
            Err(error) if error.is_passing() && tries < FETCH_TRIES => {
                tracing::warn!(what, %error, "cannot fetch bulk yet");
                tries += 1;
                tokio::time::sleep(FETCH_PAUSE).await;
            }
            Err(error) => return Err(PrepareError::Fetch(what, error)),
        }
    }
}

/// Waits for the order to stop; for ever once nobody can give it.
async fn asked_to_stop(stop: &mut watch::Receiver<Option<StopCause>>) -> StopCause {
    let cause = stop.wait_for(Option::is_some).await.ok().and_then(|cause| *cause);
    match cause {
        Some(cause) => cause,
        None => std::future::pending().await,
    }
}

/// The report of a task that does nothing.
pub(super) fn noop_report(assigned: &Assigned) -> AttemptReport {
    NoopRunner::end(&convert::spec(assigned, Work::Noop, Duration::ZERO))
}
