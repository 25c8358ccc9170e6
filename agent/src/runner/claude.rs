//! The runner of the Claude Code CLI: prepares a conversation's directories and command line, follows the
//! CLI through its event lines, and judges how it ended. The parts that know the CLI are pure and lie
//! beneath; this file knows where things are.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::boottime::BootMillis;
use crate::causes::one_line;
use crate::credentials::{Lease, LeaseError, Pools};
use crate::homes::{Conversation, ConversationKey, HomeError, Homes, private_dir};
use crate::sandbox::{Bounds, Sandbox};
use crate::supervisor::client::{End, Launcher};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::ladder::LadderPlan;
use crate::supervisor::spec::{Input, Limits, SPEC_VERSION, SuperviseSpec};

use self::args::{ArgsError, Place};
use self::judge::{Terms, judge};
use self::observer::{Demands, Facts, Observer};
use self::takeover::Given;
use super::environment::{EnvironmentError, HostEnvironment};
use super::limits::AgentLimits;
use super::share::OutputShare;
use super::supervised::{self, Action, Ended, Watcher, supervisor_id, with_end};
use super::waiting::{left_to_live, wait_for};
use super::{
    AttemptLimits, AttemptLink, AttemptReport, AttemptSpec, ClaudeWork, LONGEST_ANSWER, Live, Outcome,
    Prompt, RunFuture, Runner, Work, WorkerSettings, program, shorten,
};

/// In the directory of an attempt: a denied tool fails it. Kept there for an agent that did not see its end.
const DENIAL_FAILS: &str = "denial-fails";

pub mod args;
pub mod checks;
pub mod event;
pub mod failure;
pub mod judge;
pub mod lines;
pub mod money;
pub mod observer;
pub mod stream;
pub mod takeover;
pub mod version;

/// What the agent gives to every attempt.
#[derive(Debug, Clone)]
pub struct ClaudeSettings {
    /// The CLI: a path, or a name to be found in the search path.
    pub program: String,
    /// Where the API is, when not at its usual place.
    pub api_base_url: Option<String>,
    /// The agent's environment, as far as children see it.
    pub host: HostEnvironment,
    /// Credentials.
    pub pools: Pools,
    /// What confines attempts.
    pub sandbox: Sandbox,
    /// Limits of every attempt.
    pub limits: AgentLimits,
    /// What all attempts may write together.
    pub share: OutputShare,
}

impl Default for ClaudeSettings {
    /// The CLI of the search path, without any credential, unconfined.
    fn default() -> Self {
        let limits = AgentLimits::default();
        Self {
            program: "claude".to_owned(),
            api_base_url: None,
            host: HostEnvironment::default(),
            pools: Pools::default(),
            sandbox: Sandbox::default(),
            limits,
            share: OutputShare::new(limits.agent_output_bytes),
        }
    }
}

/// Runs the CLI.
#[derive(Debug, Clone)]
pub struct ClaudeRunner {
    launcher: Launcher,
    homes: Arc<Homes>,
    settings: Arc<ClaudeSettings>,
}

#[derive(Debug, Error)]
enum PrepareError {
    #[error("this work is not for the claude runner")]
    OtherWork,
    #[error("the CLI {0:?} was not found")]
    NoProgram(String),
    #[error(transparent)]
    Lease(#[from] LeaseError),
    #[error("cannot place the credential")]
    Place(#[source] io::Error),
    #[error(transparent)]
    Args(#[from] ArgsError),
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    #[error(transparent)]
    Home(#[from] HomeError),
    #[error("cannot prepare the attempt")]
    Io(#[from] io::Error),
}

impl PrepareError {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Lease(error) => error.outcome(),
            Self::Place(_) => Outcome::Auth,
            Self::Args(ArgsError::NoBudget) => Outcome::Budget,
            Self::OtherWork
            | Self::NoProgram(_)
            | Self::Args(_)
            | Self::Environment(_)
            | Self::Home(_)
            | Self::Io(_) => Outcome::SpawnFailed,
        }
    }
}

/// Everything of an attempt that lies on the disk before its start.
#[derive(Debug)]
struct Prepared {
    supervise: SuperviseSpec,
    demands: Demands,
    terms: Terms,
    /// Name of the worker, and the credential pool it asks for, which may be none.
    worker: String,
    pool: String,
    /// Where the CLI keeps its configuration, and a login while it is lent.
    config: PathBuf,
}

impl ClaudeRunner {
    /// Runs attempts in `homes` under supervisors of `launcher`.
    #[must_use]
    pub fn new(launcher: Launcher, homes: Arc<Homes>, settings: ClaudeSettings) -> Self {
        Self { launcher, homes, settings: Arc::new(settings) }
    }

    async fn attempt(&self, spec: AttemptSpec, mut link: AttemptLink) -> AttemptReport {
        let accepted = BootMillis::now();
        let conversation = ConversationKey { run: spec.key.run, task: spec.key.task };
        let limits = spec.limits;
        let this = self.clone();
        let prepared = match spawn_blocking(move || this.prepare(&spec)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return refusal(&error),
            Err(error) => return refusal(&PrepareError::Io(io::Error::other(error))),
        };
        let lease = self.lease(&prepared, &limits, &mut link).await;
        let report = match lease {
            Ok(lease) => {
                let left = left_to_live(&link, &limits, accepted, BootMillis::now());
                self.attempt_with(lease, prepared, left, link).await
            }
            Err(report) => *report,
        };
        if let Err(error) = self.homes.note_end(conversation) {
            tracing::warn!(%error, "the end of a conversation could not be noted");
        }
        report
    }

    /// A credential, once there is one; or the report of an attempt that gets none.
    async fn lease(
        &self,
        prepared: &Prepared,
        limits: &AttemptLimits,
        link: &mut AttemptLink,
    ) -> Result<Lease, Box<AttemptReport>> {
        let live = link.live.clone();
        let tell = move |what: &str| live.send_modify(|live| what.clone_into(&mut live.now));
        let pool = Some(prepared.pool.as_str()).filter(|pool| !pool.is_empty());
        let reference = &prepared.supervise.reference;
        let lease = self.settings.pools.lease_telling(pool, &prepared.worker, reference, tell);
        match wait_for(lease, link, limits).await {
            Ok(Ok(lease)) => Ok(lease),
            Ok(Err(error)) => Err(Box::new(refusal(&PrepareError::Lease(error)))),
            Err(cause) => {
                let mut report = AttemptReport::stopped(cause);
                report.detail.push_str(" while it waited for a credential");
                Err(Box::new(report))
            }
        }
    }

    /// Runs it with a credential. `left` is how long it may go on without another renewal.
    async fn attempt_with(
        &self,
        lease: Lease,
        prepared: Prepared,
        left: Option<Duration>,
        link: AttemptLink,
    ) -> AttemptReport {
        let Prepared { mut supervise, demands, terms, config, .. } = prepared;
        supervise.limits.stop_after_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let place = config.clone();
        let placed = spawn_blocking(move || (lease.place(&place), lease)).await;
        let (placed, lease) = match placed {
            Ok(placed) => placed,
            Err(error) => return refusal(&PrepareError::Place(io::Error::other(error))),
        };
        let report = match placed {
            Ok(()) => {
                let mut watcher = ClaudeWatcher(Observer::new(demands));
                let (seat, secrets) = (self.settings.share.take_seat(), lease.secrets(&config));
                let ended =
                    supervised::run(&self.launcher, &supervise, &secrets, seat, link, &mut watcher).await;
                match ended {
                    Ok(ended) => report(watcher.0.finish(), terms, &ended),
                    Err(error) => AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
                }
            }
            Err(error) => refusal(&PrepareError::Place(error)),
        };
        lease.note_outcome(report.outcome);
        if let Err(error) = spawn_blocking(move || lease.take_back(&config)).await {
            tracing::error!(%error, "a credential was not taken back");
        }
        report
    }

    /// Everything that touches the disk before the start, but for the credential.
    fn prepare(&self, spec: &AttemptSpec) -> Result<Prepared, PrepareError> {
        let Work::Claude(work) = &spec.work else { return Err(PrepareError::OtherWork) };
        let prompt = prompt(work)?;
        let program = program::find(&self.settings.program, self.settings.host.path())
            .ok_or_else(|| PrepareError::NoProgram(self.settings.program.clone()))?;
        let env = self.settings.host.for_attempt(spec)?;
        let id = supervisor_id(self.launcher.owner(), spec.key);
        self.launcher.refuse_running(&id).map_err(io::Error::other)?;
        let conversation =
            self.homes.conversation(ConversationKey { run: spec.key.run, task: spec.key.task })?;
        let attempt_dir = conversation.fresh_attempt(spec.key.attempt)?;
        let files = Files::write(&attempt_dir, &work.worker)?;
        let first = attempt_dir.join("input.jsonl");
        let (cwd, out) = (conversation.work(), conversation.out());
        let (told_cwd, told_out) =
            (args::path("the working directory", &cwd)?, args::path("the output directory", &out)?);
        write_private(&first, lines::task(&prompt, &told_cwd, &told_out).as_bytes())?;
        let (home, config, tmp) = (conversation.home(), conversation.config(), conversation.tmp());
        let place = Place {
            home: &home,
            config: &config,
            tmp: &tmp,
            out: &out,
            system_prompt: &files.system_prompt,
            settings: files.settings.as_deref(),
            mcp_config: files.mcp_config.as_deref(),
            resume: conversation.has_session(&work.session.to_string()),
        };
        let supervise = SuperviseSpec {
            version: SPEC_VERSION,
            id,
            owner: self.launcher.owner().to_owned(),
            reference: spec.reference.clone(),
            runtime_dir: self.launcher.runtime_dir().to_owned(),
            attempt_dir,
            args: args::arguments(work, place)?,
            env: args::environment(env, place, self.settings.api_base_url.as_deref())?,
            sandbox: self.settings.sandbox.plan(bounds(&conversation, &files.dir, &program)),
            program,
            cwd,
            input: Input::Conversation { first },
            ladder: LadderPlan::claude(lines::interrupt()),
            limits: self.limits(spec, &config),
        };
        let terms = Terms { structured: work.output_schema.is_some(), denial_fails: work.denial_fails };
        if terms.denial_fails {
            write_private(&supervise.attempt_dir.join(DENIAL_FAILS), b"")?;
        }
        let demands = Demands {
            structured: terms.structured,
            max_turns: work.max_turns,
            budget_micro_usd: work.budget_micro_usd,
            given: Some(given(&work.worker)?),
        };
        let (worker, pool) = (work.worker.name.clone(), work.worker.pool.clone());
        Ok(Prepared { supervise, demands, terms, worker, pool, config })
    }

    fn limits(&self, spec: &AttemptSpec, config: &Path) -> Limits {
        let limits = &self.settings.limits;
        let start = u64::try_from(limits.start.as_millis()).unwrap_or(u64::MAX);
        Limits {
            start_ms: Some(start),
            life_dir: Some(config.join("projects")),
            ..supervised::limits(&spec.limits, limits)
        }
    }
}

/// What an attempt may touch.
fn bounds(conversation: &Conversation, given: &Path, program: &Path) -> Bounds {
    Bounds {
        writable: vec![conversation.home(), conversation.work(), conversation.out()],
        readable: vec![given.to_owned(), program.to_owned()],
    }
}

/// Files that the CLI reads at its start: the only ones of an attempt's directory that it is shown.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
    system_prompt: PathBuf,
    settings: Option<PathBuf>,
    mcp_config: Option<PathBuf>,
}

impl Files {
    fn write(attempt_dir: &Path, worker: &WorkerSettings) -> Result<Self, PrepareError> {
        let settings = checks::settings(&worker.settings_json)?;
        let mcp_config = checks::tool_servers(&worker.mcp_config_json)?;
        let dir = attempt_dir.join("given");
        private_dir(&dir)?;
        let system_prompt = dir.join("system-prompt.md");
        write_private(&system_prompt, system_prompt_text(worker).as_bytes())?;
        let json = |name: &str, value: Option<Value>| {
            let Some(value) = value else { return Ok(None) };
            let path = dir.join(name);
            write_private(&path, value.to_string().as_bytes()).map(|()| Some(path))
        };
        let settings = json("settings.json", settings)?;
        let mcp_config = json("mcp.json", mcp_config)?;
        Ok(Self { system_prompt, settings, mcp_config, dir })
    }
}

/// The worker's prompt, then the run's context files: the same bytes for all tasks of a worker in a run, so that the API
/// can serve them from its cache.
fn system_prompt_text(worker: &WorkerSettings) -> String {
    if worker.context_files.is_empty() {
        return worker.system_prompt.clone();
    }
    let (prompt, files) = (&worker.system_prompt, &worker.context_files);
    format!("{}\n\n{}", prompt.trim_end_matches('\n'), files.trim_start_matches('\n'))
}

/// What the CLI's first event should repeat of what it is given.
fn given(worker: &WorkerSettings) -> Result<Given, ArgsError> {
    let names = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_object).into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let agents = match worker.subagents_json.trim() {
        "" => Vec::new(),
        text => names(Some(&checks::subagents(text)?)),
    };
    let servers = checks::tool_servers(&worker.mcp_config_json)?;
    Ok(Given {
        agents,
        // One that is also denied by its bare name is not offered, as it should be.
        tools: worker.tools.iter().filter(|tool| !worker.disallowed_tools.contains(tool)).cloned().collect(),
        mcp_servers: names(servers.as_ref().and_then(|config| config.get("mcpServers"))),
        permission_mode: args::permission_mode(&worker.permission_mode)?,
    })
}

impl Runner for ClaudeRunner {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_> {
        Box::pin(self.attempt(spec, link))
    }

    fn judge_left(&self, attempt_dir: &Path, structured: bool) -> Option<AttemptReport> {
        let mut observer = Observer::new(Demands { structured, ..Demands::default() });
        let ended = supervised::left(attempt_dir, |bytes| drop(observer.push(bytes)))?;
        let denial_fails = attempt_dir.join(DENIAL_FAILS).exists();
        Some(report(observer.finish(), Terms { structured, denial_fails }, &ended))
    }
}

struct ClaudeWatcher(Observer);

impl Watcher for ClaudeWatcher {
    fn stdout(&mut self, bytes: &[u8]) -> Vec<Action> {
        self.0.push(bytes)
    }

    fn stopping(&mut self) {
        self.0.stopping();
    }

    fn describe(&self, live: &mut Live) {
        self.0.describe(live);
    }
}

fn refusal(error: &PrepareError) -> AttemptReport {
    AttemptReport::of(error.outcome(), one_line(error))
}

fn prompt(work: &ClaudeWork) -> Result<String, PrepareError> {
    let prompt = match &work.prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::File(path) => std::fs::read_to_string(path)?,
    };
    args::check_prompt(&prompt)?;
    Ok(prompt)
}

fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

fn report(facts: Facts, terms: Terms, ended: &Ended) -> AttemptReport {
    let unix_now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let lost = ExitRecord::default();
    let exit = match &ended.end {
        End::Recorded(record) => record,
        End::Lost { .. } => &lost,
    };
    let verdict = judge(&facts, terms, exit, &ended.stderr, unix_now);
    let mut report = AttemptReport::of(verdict.outcome, verdict.detail);
    report.retry_after = verdict.retry_after;
    report.usage = facts.ledger.total(facts.is_cut_off());
    report.num_turns = facts.turns;
    report.session_id = facts.init.and_then(|init| init.session_id);
    if let Some((result, _)) = facts.result {
        report.denied_tools = judge::denied(&result);
        report.session_id = result.session_id.or(report.session_id);
        if result.is_error == Some(false) {
            report.structured = result.structured.filter(|_| verdict.outcome == Outcome::Ok);
            let text = result.text.filter(|text| !text.trim().is_empty());
            report.answer = text.map(|text| shorten(text, LONGEST_ANSWER));
        }
    }
    with_end(report, &ended.end)
}
