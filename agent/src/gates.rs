//! What must hold before a good end counts as done: activity, files, commands, in this order. Every gate is checked,
//! also after one that failed, because the worker is sent back once and should then know everything that is wrong.
//!
//! The CLI has ended by then and its process tree is empty, so however long a gate takes, no CLI is held in memory for
//! it; when a gate is red the conversation is resumed by another attempt. A command runs as the attempt did: the same
//! directories, sandbox and supervisor, the same limits on memory and output, the same link for renewals and stops. But it
//! gets no credential, and a time limit of its own: that of the attempt is for the worker.
//!
//! Knows directories and processes; refuses to know the CLI and what becomes of the task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use crate::artifacts;
use crate::boottime::BootMillis;
use crate::causes::one_line;
use crate::homes::private_dir;
use crate::runner::command::{AllowedPrograms, with_memory};
use crate::runner::limits::AgentLimits;
use crate::runner::share::OutputShare;
use crate::runner::supervised::{self, Action, Ended, Watcher};
use crate::runner::waiting::left_to_live;
use crate::runner::{
    AttemptKey, AttemptLimits, AttemptLink, AttemptReport, GateCommand, GateKind, GateResult, Gates, Live,
    Outcome, outcome_of_stop, shorten,
};
use crate::sandbox::{Bounds, Sandbox};
use crate::supervisor::client::{End, Launcher};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::ladder::LadderPlan;
use crate::supervisor::segments::{Channel, tail};
use crate::supervisor::spec::{Input, SPEC_VERSION, Secrets, SuperviseSpec};
use crate::supervisor::stop::StopCause;

use self::program::{Found, Search};

mod files;
mod pattern;
mod program;
mod words;

/// Time limit of a command that names none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Longest time limit of a command.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Read of each output of a command; its log holds less.
const TAIL_BYTES: u64 = 16 * 1024;

/// How the directories of commands begin, within that of their attempt.
pub(crate) const GATE_PREFIX: &str = "gate-";

/// Longest description of what an attempt is doing, in characters.
const LONGEST_NOW: usize = 120;

/// Checks gates for the runners of an agent.
#[derive(Debug, Clone)]
pub struct Gatekeeper {
    /// Starts the supervisors of commands.
    pub launcher: Launcher,
    /// The only programs that run where there is no sandbox.
    pub allowed: Arc<AllowedPrograms>,
    /// What confines commands.
    pub sandbox: Sandbox,
    /// Limits of every command.
    pub limits: AgentLimits,
    /// What all attempts may write together.
    pub share: OutputShare,
    /// Where programs are.
    pub search_path: String,
}

/// What an attempt that ended well left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tree {
    /// `name/number/task`.
    pub reference: String,
    /// The attempt's own directory, outside of what its child was shown.
    pub attempt_dir: PathBuf,
    /// Its working directory.
    pub work: PathBuf,
    /// What it hands over.
    pub out: PathBuf,
    /// The environment its child had, which holds no credential.
    pub env: BTreeMap<String, String>,
    /// What its child could touch.
    pub bounds: Bounds,
    /// Texts that must not be seen in what commands write. Never kept.
    #[serde(skip)]
    pub redact: Vec<String>,
    /// Tool calls, sub-agents' included.
    pub tool_calls: u32,
}

/// How long an attempt may go on without renewals.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    /// Its limits.
    pub limits: AttemptLimits,
    /// When it was accepted.
    pub accepted: BootMillis,
}

/// How the check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Checked {
    /// All were checked.
    Through(Vec<GateResult>),
    /// The attempt was stopped while this one was checked.
    Stopped(StopCause, String),
    /// The agent could not check.
    Broken(String),
}

/// How one command ended.
enum CommandEnd {
    Found(GateResult),
    Stopped(StopCause),
    Broken(String),
}

impl Gatekeeper {
    /// Refuses gates that this agent cannot check whatever the worker does, so that nothing is spent on it.
    ///
    /// # Errors
    /// Why, in plain English.
    pub fn refuse(&self, gates: &Gates) -> Result<(), String> {
        for command in &gates.commands {
            let texts = [&command.program, &command.dir].into_iter().chain(&command.args);
            if command.program.is_empty() || texts.into_iter().any(|text| text.contains('\0')) {
                return Err("a gate names no program, or holds a NUL byte".to_owned());
            }
            if !self.sandbox.is_in_force() && self.allowed.path(&command.program).is_none() {
                return Err(format!("a gate cannot be checked: {}", program::not_allowed(&command.program)));
            }
        }
        Ok(())
    }

    /// Checks the gates of an attempt that ended with `report`, and gives the report that follows. Only an `ok` one is
    /// checked.
    pub async fn judge(
        &self,
        report: AttemptReport,
        (key, gates): (AttemptKey, &Gates),
        tree: &Tree,
        life: Life,
        link: &mut AttemptLink,
    ) -> AttemptReport {
        if gates.is_empty() || report.outcome != Outcome::Ok {
            return report;
        }
        let began = BootMillis::now();
        let checked = self.check((key, gates), tree, life, link).await;
        let mut report = conclude(report, checked);
        report.duration += BootMillis::now().since(began);
        report
    }

    async fn check(
        &self,
        (key, gates): (AttemptKey, &Gates),
        tree: &Tree,
        life: Life,
        link: &mut AttemptLink,
    ) -> Checked {
        let mut results = Vec::new();
        if gates.min_tool_calls > 0 {
            results.push(activity(tree.tool_calls, gates.min_tool_calls));
        }
        let (out, patterns) = (tree.out.clone(), gates.required_artifacts.clone());
        match spawn_blocking(move || handed_over(&out, &patterns)).await {
            Ok(found) => results.extend(found),
            Err(error) => return Checked::Broken(one_line(&error)),
        }
        for (number, command) in gates.commands.iter().enumerate() {
            let name = words::command_name(command);
            link.live
                .send_modify(|live| live.now = format!("gate: {name}").chars().take(LONGEST_NOW).collect());
            match self.command((key, number), command, tree, life, link).await {
                CommandEnd::Found(result) => results.push(result),
                CommandEnd::Stopped(cause) => return Checked::Stopped(cause, name),
                CommandEnd::Broken(why) => return Checked::Broken(format!("{name}: {why}")),
            }
        }
        Checked::Through(results)
    }

    async fn command(
        &self,
        (key, number): (AttemptKey, usize),
        command: &GateCommand,
        tree: &Tree,
        life: Life,
        link: &mut AttemptLink,
    ) -> CommandEnd {
        let left = left_to_live(link, &life.limits, life.accepted, BootMillis::now());
        let overdue = left.filter(Duration::is_zero).map(|_| StopCause::LostAgent);
        let asked = *link.stop.borrow();
        if let Some(cause) = asked.or(overdue) {
            return CommandEnd::Stopped(cause);
        }
        let this = self.clone();
        let (asked, given) = (command.clone(), tree.clone());
        let prepared = spawn_blocking(move || this.prepare((key, number), &asked, &given, left)).await;
        let supervise = match prepared {
            Ok(Ok(Ok(supervise))) => supervise,
            // Somebody wrote a gate that cannot be run, or the worker did not make what it was to make.
            Ok(Ok(Err(why))) => return CommandEnd::Found(red(command, &why, Duration::ZERO)),
            Ok(Err(error)) => return CommandEnd::Broken(one_line(&error)),
            Err(error) => return CommandEnd::Broken(one_line(&error)),
        };
        let secrets = Secrets { redact: tree.redact.clone(), ..Secrets::default() };
        let seat = self.share.take_seat();
        let ended = supervised::run(&self.launcher, &supervise, &secrets, seat, link, &mut Unread).await;
        let dir = supervise.attempt_dir;
        match ended {
            Ok(ended) => {
                let command = command.clone();
                let told = spawn_blocking(move || {
                    let end = told(&command, &ended, &dir);
                    // Its log is in the report; what else it wrote would only take room.
                    let _ = std::fs::remove_dir_all(&dir);
                    end
                });
                told.await.unwrap_or_else(|error| CommandEnd::Broken(one_line(&error)))
            }
            Err(error) => CommandEnd::Broken(one_line(&error)),
        }
    }

    /// Everything that touches the disk before the start. The inner error is for whoever wrote the gate.
    fn prepare(
        &self,
        (key, number): (AttemptKey, usize),
        command: &GateCommand,
        tree: &Tree,
        left: Option<Duration>,
    ) -> std::io::Result<Result<SuperviseSpec, String>> {
        let confined = self.sandbox.plan(tree.bounds.clone());
        let search = Search {
            allowed: &self.allowed,
            path: &self.search_path,
            plan: confined.as_ref().filter(|_| self.sandbox.is_in_force()),
            work: &tree.work,
            bounds: &tree.bounds,
        };
        let Found { program, cwd } = match program::find(command, search) {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        let attempt_dir = tree.attempt_dir.join(format!("{GATE_PREFIX}{number}"));
        // One that a former agent had begun to check is checked anew; nothing of it runs any more.
        artifacts::clear(&attempt_dir)?;
        private_dir(&attempt_dir).map_err(std::io::Error::other)?;
        let limits = AttemptLimits { timeout: Some(timeout(command)), silence: None, stop_after: left };
        Ok(Ok(SuperviseSpec {
            version: SPEC_VERSION,
            id: gate_id(self.launcher.owner(), key, number),
            owner: self.launcher.owner().to_owned(),
            reference: format!("{} (gate)", tree.reference),
            runtime_dir: self.launcher.runtime_dir().to_owned(),
            attempt_dir,
            program,
            args: command.args.clone(),
            env: tree.env.clone(),
            cwd,
            input: Input::Closed,
            ladder: LadderPlan::program(),
            limits: supervised::limits(&limits, &self.limits),
            sandbox: confined,
            durable: false,
            gateway: None,
        }))
    }
}

/// The supervisor's id for a gate: as unlike every attempt's as those are unlike each other.
fn gate_id(owner: &Path, key: AttemptKey, number: usize) -> String {
    let mut hash = Sha256::new();
    hash.update(supervised::supervisor_id(owner, key));
    hash.update(b"gate");
    hash.update(number.to_be_bytes());
    let digest = hash.finalize();
    hex::encode(digest.get(..10).unwrap_or_default())
}

fn timeout(command: &GateCommand) -> Duration {
    command.timeout.unwrap_or(DEFAULT_TIMEOUT).min(LONGEST_TIMEOUT)
}

/// Nobody reads what a gate writes while it runs.
struct Unread;

impl Watcher for Unread {
    fn stdout(&mut self, _bytes: &[u8]) -> Vec<Action> {
        Vec::new()
    }

    fn stopping(&mut self) {}

    fn describe(&self, _live: &mut Live) {}

    fn is_transcript(&self) -> bool {
        false
    }
}

fn activity(made: u32, least: u32) -> GateResult {
    GateResult {
        kind: GateKind::Activity,
        name: format!("at least {least} tool calls"),
        passed: made >= least,
        log: format!("{made} of at least {least} tool calls were made"),
        duration: Duration::ZERO,
    }
}

/// Blocks as long as the look takes.
fn handed_over(out: &Path, patterns: &[String]) -> Vec<GateResult> {
    if patterns.is_empty() {
        return Vec::new();
    }
    let began = BootMillis::now();
    let found = files::present(out, patterns);
    let duration = BootMillis::now().since(began);
    let result = |(pattern, passed): (&String, bool)| GateResult {
        kind: GateKind::Artifact,
        name: shorten(pattern.clone(), 200),
        passed,
        log: if passed {
            "it is there".to_owned()
        } else {
            format!("no file that is not empty matches it in the output directory {}", out.display())
        },
        duration,
    };
    patterns.iter().zip(found).map(result).collect()
}

fn red(command: &GateCommand, why: &str, duration: Duration) -> GateResult {
    let (kind, name) = (GateKind::Command, words::command_name(command));
    GateResult { kind, name, passed: false, log: words::log(why, b"", b"", false), duration }
}

/// What the end of a command means. Blocks as long as reading the end of its output takes.
fn told(command: &GateCommand, ended: &Ended, dir: &Path) -> CommandEnd {
    let record = match &ended.end {
        End::Recorded(record) => record,
        End::Lost { detail } => return CommandEnd::Broken(detail.clone()),
    };
    let duration = Duration::from_millis(record.duration_ms);
    let (passed, how) = match (record.stop.map(|stop| stop.cause), &record.spawn_error) {
        (_, Some(error)) => (false, format!("it could not be started: {error}")),
        (Some(cause), None) if is_of_the_attempt(cause) => return CommandEnd::Stopped(cause),
        (Some(StopCause::Timeout), None) => {
            (false, format!("it did not end within {} and was stopped", words::time(timeout(command))))
        }
        (Some(cause), None) => {
            let why = outcome_of_stop(cause).map_or("it was stopped", |(_, why)| why);
            (false, with_memory(why, record))
        }
        (None, None) => by_exit(record),
    };
    let read = |channel, len| tail(dir, channel, crate::supervisor::segments::SEGMENT_BYTES, len, TAIL_BYTES);
    let (out, err) = (read(Channel::Stdout, record.stdout_len), read(Channel::Stderr, record.stderr_len));
    let (kind, name) = (GateKind::Command, words::command_name(command));
    CommandEnd::Found(GateResult { kind, name, passed, log: words::log(&how, &out, &err, passed), duration })
}

fn by_exit(record: &ExitRecord) -> (bool, String) {
    match (record.code, record.signal) {
        (Some(code), _) => (code == 0, format!("exit code {code}")),
        (None, Some(signal)) => (false, format!("it was ended by signal {signal}")),
        (None, None) => (false, "it ended in an unknown way".to_owned()),
    }
}

/// Whether a stop was meant for the attempt, and not only for this command.
fn is_of_the_attempt(cause: StopCause) -> bool {
    match cause {
        StopCause::Cancelled
        | StopCause::Unknown
        | StopCause::Fenced
        | StopCause::LostAgent
        | StopCause::AgentStopping => true,
        StopCause::Timeout
        | StopCause::Hang
        | StopCause::NoFirstEvent
        | StopCause::ClosedOutput
        | StopCause::Memory
        | StopCause::LimitOutput
        | StopCause::AgentOutput
        | StopCause::Misread
        | StopCause::TranscriptLost
        | StopCause::MaxTurns
        | StopCause::Budget
        | StopCause::Lingering => false,
    }
}

/// The report of an attempt whose gates were checked. What it answered stays in it when a gate is red, so that people see
/// what was found wanting.
fn conclude(mut report: AttemptReport, checked: Checked) -> AttemptReport {
    match checked {
        Checked::Through(gates) => {
            if gates.iter().any(|gate| !gate.passed) {
                report.outcome = Outcome::GateFailed;
                report.detail = words::detail(&gates);
                report.feedback = Some(words::feedback(&gates));
            }
            report.gates = gates;
        }
        Checked::Stopped(cause, name) => {
            let stopped = AttemptReport::stopped(cause);
            report.outcome = stopped.outcome;
            report.detail = shorten(format!("{} while the gate {name} ran", stopped.detail), 4_000);
            report.structured = None;
            report.artifacts_from = None;
        }
        Checked::Broken(why) => {
            report.outcome = Outcome::SpawnFailed;
            report.detail = shorten(format!("its gates could not be checked: {why}"), 4_000);
            report.structured = None;
            report.artifacts_from = None;
        }
    }
    report
}
