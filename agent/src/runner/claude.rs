//! The runner of the Claude Code CLI: prepares a conversation's directories and command line, follows the
//! CLI through its event lines, and judges how it ended. The parts that know the CLI are pure and lie
//! beneath; this file knows where things are.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::causes::one_line;
use crate::homes::{ConversationKey, HomeError, Homes};
use crate::secret::{SecretError, read_key_file};
use crate::supervisor::client::{End, Launcher};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::ladder::LadderPlan;
use crate::supervisor::spec::{Input, SPEC_VERSION, Secrets, SuperviseSpec};

use self::args::{ArgsError, Place};
use self::judge::{Terms, judge};
use self::observer::{Demands, Facts, Observer};
use super::environment::{EnvironmentError, HostEnvironment};
use super::supervised::{self, Action, Ended, Watcher, supervisor_id, with_end};
use super::{
    AttemptLink, AttemptReport, AttemptSpec, ClaudeWork, LONGEST_ANSWER, Live, Outcome, Prompt, RunFuture,
    Runner, Work, program, shorten,
};

pub mod args;
pub mod event;
pub mod judge;
pub mod lines;
pub mod money;
pub mod observer;
pub mod stream;
pub mod version;

/// What the agent gives to every attempt.
#[derive(Debug, Clone)]
pub struct ClaudeSettings {
    /// The CLI: a path, or a name to be found in the search path.
    pub program: String,
    /// File of the API key. It is read for each attempt, so it may be replaced at any time.
    pub api_key_file: Option<PathBuf>,
    /// Where the API is, when not at its usual place.
    pub api_base_url: Option<String>,
    /// The agent's environment, as far as children see it.
    pub host: HostEnvironment,
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
    Key(#[from] SecretError),
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
            Self::Key(_) => Outcome::Auth,
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

impl ClaudeRunner {
    /// Runs attempts in `homes` under supervisors of `launcher`.
    #[must_use]
    pub fn new(launcher: Launcher, homes: Arc<Homes>, settings: ClaudeSettings) -> Self {
        Self { launcher, homes, settings: Arc::new(settings) }
    }

    async fn attempt(&self, spec: AttemptSpec, link: AttemptLink) -> AttemptReport {
        let conversation = ConversationKey { run: spec.key.run, task: spec.key.task };
        let Work::Claude(work) = &spec.work else { return refusal(&PrepareError::OtherWork) };
        let demands = Demands { structured: work.output_schema.is_some(), max_turns: work.max_turns };
        let terms = Terms { structured: demands.structured, denial_fails: work.denial_fails };
        let this = self.clone();
        let prepared = match spawn_blocking(move || this.prepare(&spec)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return refusal(&error),
            Err(error) => return refusal(&PrepareError::Io(io::Error::other(error))),
        };
        let mut watcher = ClaudeWatcher(Observer::new(demands));
        let (supervise, secrets) = &prepared;
        let ended = supervised::run(&self.launcher, supervise, secrets, link, &mut watcher).await;
        if let Err(error) = self.homes.note_end(conversation) {
            tracing::warn!(%error, "the end of a conversation could not be noted");
        }
        match ended {
            Ok(ended) => report(watcher.0.finish(), terms, &ended),
            Err(error) => AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
        }
    }

    /// Everything that touches the disk before the start.
    fn prepare(&self, spec: &AttemptSpec) -> Result<(SuperviseSpec, Secrets), PrepareError> {
        let Work::Claude(work) = &spec.work else { return Err(PrepareError::OtherWork) };
        let prompt = prompt(work)?;
        let secrets = self.secrets()?;
        let program = program::find(&self.settings.program, self.settings.host.path())
            .ok_or_else(|| PrepareError::NoProgram(self.settings.program.clone()))?;
        let env = self.settings.host.for_attempt(spec)?;
        let id = supervisor_id(self.launcher.owner(), spec.key);
        self.launcher.refuse_running(&id).map_err(io::Error::other)?;
        let conversation =
            self.homes.conversation(ConversationKey { run: spec.key.run, task: spec.key.task })?;
        let attempt_dir = conversation.fresh_attempt(spec.key.attempt)?;
        let system_prompt = attempt_dir.join("system-prompt.md");
        write_private(&system_prompt, work.worker.system_prompt.as_bytes())?;
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
            system_prompt: &system_prompt,
            resume: conversation.has_session(&work.session.to_string()),
        };
        let supervise = SuperviseSpec {
            version: SPEC_VERSION,
            id,
            owner: self.launcher.owner().to_owned(),
            reference: spec.reference.clone(),
            runtime_dir: self.launcher.runtime_dir().to_owned(),
            attempt_dir,
            program,
            args: args::arguments(work, place)?,
            env: args::environment(env, place, self.settings.api_base_url.as_deref())?,
            cwd,
            input: Input::Conversation { first },
            ladder: LadderPlan::claude(lines::interrupt()),
            limits: supervised::limits(&spec.limits),
            sandbox: None,
        };
        Ok((supervise, secrets))
    }

    fn secrets(&self) -> Result<Secrets, SecretError> {
        let mut secrets = Secrets::default();
        if let Some(file) = &self.settings.api_key_file {
            let key = read_key_file(file)?;
            secrets.env.insert("ANTHROPIC_API_KEY".to_owned(), key.reveal().to_owned());
            secrets.redact.push(key.reveal().to_owned());
        }
        Ok(secrets)
    }
}

impl Runner for ClaudeRunner {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_> {
        Box::pin(self.attempt(spec, link))
    }

    fn judge_left(&self, attempt_dir: &Path, structured: bool) -> Option<AttemptReport> {
        let mut observer = Observer::new(Demands { structured, max_turns: None });
        let ended = supervised::left(attempt_dir, |bytes| drop(observer.push(bytes)))?;
        Some(report(observer.finish(), Terms { structured, denial_fails: false }, &ended))
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
            report.answer = result.text.map(|text| shorten(text, LONGEST_ANSWER));
        }
    }
    with_end(report, &ended.end)
}
