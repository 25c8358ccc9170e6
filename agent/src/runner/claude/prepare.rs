//! Everything of an attempt that lies on the disk before its start, but for the credential: its directories, what the
//! CLI is given and what is said first. Knows where things are; starts nothing.
//!
//! | Conversation | Begins with | `work/` and `out/` |
//! |---|---|---|
//! | new, or its session is not kept | the task; then, where the task is sent back, what was found | emptied |
//! | kept, sent back | only what was found | as they were left: the worker mends them |
//! | kept, interrupted: its agent was lost, or it took too long | only a note of that: it may be half done | as they were left |
//! | kept, a plain retry | the task once more | as they were left |
//! | of another task that this one follows up | as the two above; not kept: refused | as they were left |
//!
//! A plain retry says the whole task again, although its session holds it: nobody knows how much of the session a crash
//! or a limit left, and the model sees from what comes before how far it is.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use thiserror::Error;

use crate::boottime::boot_id;
use crate::credentials::LeaseError;
use crate::gates::Tree;
use crate::homes::{Conversation, ConversationKey, HomeError, private_dir};
use crate::inputs;
use crate::runner::environment::EnvironmentError;
use crate::runner::note::{ClaudeNote, Note, Shown, WorkNote};
use crate::runner::supervised::{self, supervisor_id};
use crate::runner::surroundings::{self, SurroundingsError};
use crate::runner::{AttemptSpec, ClaudeWork, Gates, Outcome, Prompt, Work, WorkerSettings, program};
use crate::sandbox::Bounds;
use crate::supervisor::ladder::LadderPlan;
use crate::supervisor::spec::{Input, Limits, SPEC_VERSION, SuperviseSpec};

use super::ClaudeRunner;
use super::args::{self, ArgsError, Place};
use super::checks;
use super::judge::Terms;
use super::lines;
use super::observer::Demands;
use super::takeover::Given;

/// Why an attempt is not started.
#[derive(Debug, Error)]
pub(super) enum PrepareError {
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
    #[error(transparent)]
    Surroundings(#[from] SurroundingsError),
    #[error("{0}")]
    Gates(String),
    #[error("cannot prepare the attempt")]
    Io(#[from] io::Error),
}

impl PrepareError {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Lease(error) => error.outcome(),
            Self::Place(_) => Outcome::Auth,
            Self::Args(ArgsError::NoBudget) => Outcome::Budget,
            Self::OtherWork
            | Self::NoProgram(_)
            | Self::Args(_)
            | Self::Environment(_)
            | Self::Home(_)
            | Self::Surroundings(_)
            | Self::Gates(_)
            | Self::Io(_) => Outcome::SpawnFailed,
        }
    }
}

/// What was prepared.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) supervise: SuperviseSpec,
    pub(super) claude: ClaudeNote,
    pub(super) gates: Gates,
    /// What gates are checked on.
    pub(super) tree: Tree,
}

/// The conversation an attempt works in: its own, or the one it follows up.
pub(super) fn conversation_of(spec: &AttemptSpec) -> ConversationKey {
    let own = ConversationKey { run: spec.key.run, task: spec.key.task };
    match &spec.work {
        Work::Claude(work) => work.conversation.unwrap_or(own),
        Work::Command(_) | Work::Noop | Work::Publish(_) => own,
    }
}

impl ClaudeRunner {
    /// Everything that touches the disk before the start, but for the credential. The conversation is claimed.
    pub(super) fn prepare(&self, spec: &AttemptSpec) -> Result<Prepared, PrepareError> {
        let Work::Claude(work) = &spec.work else { return Err(PrepareError::OtherWork) };
        let prompt = prompt(work)?;
        self.gatekeeper().refuse(&spec.gates).map_err(PrepareError::Gates)?;
        let program = program::find(&self.settings.program, self.settings.host.path())
            .ok_or_else(|| PrepareError::NoProgram(self.settings.program.clone()))?;
        let mut env = self.settings.host.for_attempt(spec)?;
        let id = supervisor_id(self.launcher.owner(), spec.key);
        self.launcher.refuse_running(&id).map_err(io::Error::other)?;
        let (conversation, resume) = self.conversation(spec, work)?;
        let own = ConversationKey { run: spec.key.run, task: spec.key.task };
        let attempt_dir = self.homes.fresh_attempt(own, spec.key.attempt)?;
        let files = Files::write(&attempt_dir, &work.worker)?;
        let mut bounds = bounds(&conversation, &files.dir, &program);
        surroundings::place(spec, &conversation.work(), &attempt_dir, &mut env, &mut bounds)?;
        let prompt = with_inputs(prompt, &inputs::section(&spec.inputs));
        let first = attempt_dir.join("input.jsonl");
        write_private(&first, first_line(work, &prompt, &conversation, resume)?.as_bytes())?;
        let dirs = Dirs::of(&conversation);
        let place = dirs.place(&files, spec, resume);
        let env = args::environment(env, place, self.settings.api_base_url.as_deref())?;
        let args = args::arguments(work, place)?;
        let terms = Terms {
            structured: work.output_schema.is_some(),
            denial_fails: work.denial_fails,
            goes_on: resume && work.interrupted.is_some(),
        };
        let tree = Tree {
            reference: spec.reference.clone(),
            attempt_dir: attempt_dir.clone(),
            work: conversation.work(),
            out: dirs.out.clone(),
            env: env.clone(),
            bounds: bounds.clone(),
            ..Tree::default()
        };
        let limits = self.limits(spec, &dirs.config);
        let claude = ClaudeNote {
            demands: demands(work, terms)?,
            terms,
            worker: work.worker.name.clone(),
            pool: work.worker.pool.clone(),
            config: dirs.config,
            allowance: work.allowance.clone(),
        };
        let note = Note {
            boot_id: boot_id(),
            reference: spec.reference.clone(),
            conversation: conversation_of(spec),
            limits: spec.limits,
            gates: spec.gates.clone(),
            tree,
            shown: Shown::of(spec),
            segment_bytes: limits.segment_bytes,
            work: WorkNote::Claude(Box::new(claude.clone())),
        };
        note.write(&attempt_dir)?;
        let supervise = SuperviseSpec {
            version: SPEC_VERSION,
            id,
            owner: self.launcher.owner().to_owned(),
            reference: spec.reference.clone(),
            runtime_dir: self.launcher.runtime_dir().to_owned(),
            attempt_dir,
            args,
            env,
            sandbox: self.settings.sandbox.plan(bounds),
            durable: true,
            gateway: None,
            program,
            cwd: conversation.work(),
            input: Input::Conversation { first },
            ladder: LadderPlan::claude(lines::interrupt()),
            limits,
        };
        let Note { gates, tree, .. } = note;
        Ok(Prepared { supervise, claude, gates, tree })
    }

    /// The directories to work in, and whether there is a session to resume in them.
    fn conversation(
        &self,
        spec: &AttemptSpec,
        work: &ClaudeWork,
    ) -> Result<(Conversation, bool), PrepareError> {
        let own = ConversationKey { run: spec.key.run, task: spec.key.task };
        let (key, session) = (conversation_of(spec), work.session.to_string());
        if key != own {
            let conversation = self.homes.kept_conversation(key)?;
            if !conversation.has_session(&session)? {
                return Err(HomeError::Gone.into());
            }
            // It is kept from now on, whatever becomes of this agent meanwhile.
            self.homes.note_end(key)?;
            return Ok((conversation, true));
        }
        let conversation = self.homes.conversation(own)?;
        let resume = conversation.has_session(&session)?;
        if !resume {
            conversation.clear_session(&session)?;
            self.homes.start_afresh(&[conversation.work(), conversation.out()])?;
        }
        Ok((conversation, resume))
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

/// Directories of a conversation that the CLI is told.
struct Dirs {
    home: PathBuf,
    config: PathBuf,
    tmp: PathBuf,
    out: PathBuf,
}

impl Dirs {
    fn of(conversation: &Conversation) -> Self {
        Self {
            home: conversation.home(),
            config: conversation.config(),
            tmp: conversation.tmp(),
            out: conversation.out(),
        }
    }

    fn place<'a>(&'a self, files: &'a Files, spec: &'a AttemptSpec, resume: bool) -> Place<'a> {
        Place {
            home: &self.home,
            config: &self.config,
            tmp: &self.tmp,
            out: &self.out,
            workspace: spec.workspace.as_ref().map(|workspace| workspace.dir.as_path()),
            system_prompt: &files.system_prompt,
            settings: files.settings.as_deref(),
            mcp_config: files.mcp_config.as_deref(),
            resume,
        }
    }
}

/// What is asked of the process.
fn demands(work: &ClaudeWork, terms: Terms) -> Result<Demands, ArgsError> {
    Ok(Demands {
        structured: terms.structured,
        max_turns: work.max_turns,
        budget_micro_usd: work.budget_micro_usd,
        given: Some(given(&work.worker)?),
    })
}

/// The task, then what it is given.
fn with_inputs(prompt: String, section: &str) -> String {
    if section.is_empty() { prompt } else { format!("{}\n\n{section}", prompt.trim_end_matches('\n')) }
}

/// What is said first.
fn first_line(
    work: &ClaudeWork,
    prompt: &str,
    conversation: &Conversation,
    resume: bool,
) -> Result<String, ArgsError> {
    let cwd = args::path("the working directory", &conversation.work())?;
    let out = args::path("the output directory", &conversation.out())?;
    let structured = work.output_schema.is_some();
    Ok(match (&work.feedback, &work.interrupted) {
        (feedback, Some(why)) if resume => {
            lines::user(&lines::interrupted(why, structured, feedback.as_deref()))
        }
        (Some(feedback), _) if resume => lines::user(feedback),
        (Some(feedback), _) => lines::task(&lines::with_feedback(prompt, feedback), &cwd, &out),
        (None, _) => lines::task(prompt, &cwd, &out),
    })
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
