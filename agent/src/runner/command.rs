//! The runner of plain programs: only those the agent lists, by absolute path, without a shell, in the same
//! directories and under the same supervisor as the CLI. Knows no model.
//!
//! `work/` is as an earlier attempt left it, so that a program can go on; `out/` begins empty, because all of it is handed
//! over. A red gate ends the task: there is nobody to be told what is wrong.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use tokio::task::spawn_blocking;

use crate::boottime::{BootMillis, boot_id};
use crate::causes::one_line;
use crate::gates::{Gatekeeper, Life, Tree};
use crate::homes::claims::{Holder, Occupied};
use crate::homes::{ConversationKey, HomeError, Homes};
use crate::sandbox::{Bounds, Sandbox};
use crate::supervisor::client::{End, Launcher, Survivor};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::ladder::LadderPlan;
use crate::supervisor::spec::{Input, SPEC_VERSION, Secrets, SuperviseSpec};
use crate::supervisor::stop::StopCause;

use super::adopted;
use super::environment::{EnvironmentError, HostEnvironment};
use super::limits::{AgentLimits, show_size};
use super::note::{Note, Shown, WorkNote};
use super::share::OutputShare;
use super::supervised::{self, Action, Ended, Watcher, supervisor_id, with_end};
use super::surroundings::{self, SurroundingsError};
use super::waiting::{left_to_live, wait_for};
use super::{
    Adopted, AttemptKey, AttemptLink, AttemptReport, AttemptSpec, LONGEST_ANSWER, Live, Outcome, RunFuture,
    Runner, Work, outcome_of_stop, program, shorten,
};

/// The programs an agent offers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedPrograms(BTreeMap<String, PathBuf>);

/// Why a listed program cannot be offered.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the program {0:?} was not found")]
pub struct NotFound(pub String);

impl AllowedPrograms {
    /// Finds each listed program now, so that nothing else is executed under its name later.
    ///
    /// # Errors
    /// Names the first program that is not there.
    pub fn find(listed: &[String], search_path: &str) -> Result<Self, NotFound> {
        let find = |name: &String| {
            let path = program::find(name, search_path).ok_or_else(|| NotFound(name.clone()))?;
            Ok((name.clone(), path))
        };
        listed.iter().map(find).collect::<Result<_, _>>().map(Self)
    }

    /// Whether none is offered: the runner is off.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A program asked for as it is listed, or by the path it was found at.
    #[must_use]
    pub fn path(&self, asked: &str) -> Option<&PathBuf> {
        self.0.get(asked).or_else(|| self.0.values().find(|path| path.as_os_str() == asked))
    }
}

/// Runs listed programs.
#[derive(Debug, Clone)]
pub struct CommandRunner {
    launcher: Launcher,
    homes: Arc<Homes>,
    allowed: Arc<AllowedPrograms>,
    host: Arc<HostEnvironment>,
    sandbox: Sandbox,
    limits: AgentLimits,
    share: OutputShare,
}

#[derive(Debug, Error)]
enum PrepareError {
    #[error("this work is not for the command runner")]
    OtherWork,
    #[error("the agent does not allow the program {0:?}; it is started with --allow-command for each")]
    NotAllowed(String),
    #[error("an argument holds a NUL byte")]
    Nul,
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

impl CommandRunner {
    /// Runs the programs of `allowed` in `homes` under supervisors of `launcher`.
    #[must_use]
    pub fn new(
        launcher: Launcher,
        homes: Arc<Homes>,
        allowed: AllowedPrograms,
        host: HostEnvironment,
    ) -> Self {
        let limits = AgentLimits::default();
        Self {
            launcher,
            homes,
            allowed: Arc::new(allowed),
            host: Arc::new(host),
            sandbox: Sandbox::default(),
            limits,
            share: OutputShare::new(limits.agent_output_bytes),
        }
    }

    /// The same, confined by `sandbox`, with the agent's limits, and with a part of what all attempts may write.
    #[must_use]
    pub fn bounded(self, sandbox: Sandbox, limits: AgentLimits, share: OutputShare) -> Self {
        Self { sandbox, limits, share, ..self }
    }

    fn gatekeeper(&self) -> Gatekeeper {
        Gatekeeper {
            launcher: self.launcher.clone(),
            allowed: Arc::clone(&self.allowed),
            sandbox: self.sandbox.clone(),
            limits: self.limits,
            share: self.share.clone(),
            search_path: self.host.path().to_owned(),
        }
    }

    async fn attempt(&self, spec: AttemptSpec, mut link: AttemptLink) -> AttemptReport {
        let life = Life { limits: spec.limits, accepted: BootMillis::now() };
        let (key, gates) = (spec.key, spec.gates.clone());
        let own = ConversationKey { run: key.run, task: key.task };
        let by = Holder { task: own, reference: spec.reference.clone() };
        let claim = match wait_for(self.homes.claim(own, by), &mut link, &life.limits).await {
            Ok(Ok(claim)) => claim,
            Ok(Err(error)) => return AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
            Err(cause) => return AttemptReport::stopped(cause),
        };
        let this = self.clone();
        let (mut supervise, tree) = match spawn_blocking(move || this.prepare(&spec)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
            Err(error) => return AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
        };
        let left = left_to_live(&link, &life.limits, life.accepted, BootMillis::now());
        supervise.limits.stop_after_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let (mut watcher, seat) = (Collector::default(), self.share.take_seat());
        let (launcher, secrets) = (&self.launcher, Secrets::default());
        let ended = supervised::run(launcher, &supervise, &secrets, seat, &mut link, &mut watcher).await;
        let mut report = match ended {
            Ok(ended) => {
                let report = report(watcher, &ended).handing_over(&tree.out);
                let mut judged = self.gatekeeper().judge(report, (key, &gates), &tree, life, &mut link).await;
                judged.feedback = None;
                judged
            }
            Err(error) => AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
        };
        self.note_end(own);
        report.occupied = Occupied::by(claim);
        report
    }

    fn prepare(&self, spec: &AttemptSpec) -> Result<(SuperviseSpec, Tree), PrepareError> {
        let Work::Command(work) = &spec.work else { return Err(PrepareError::OtherWork) };
        let path = self.allowed.path(&work.program);
        let program = path.ok_or_else(|| PrepareError::NotAllowed(work.program.clone()))?.clone();
        if work.args.iter().any(|arg| arg.contains('\0')) {
            return Err(PrepareError::Nul);
        }
        self.gatekeeper().refuse(&spec.gates).map_err(PrepareError::Gates)?;
        let mut env = self.host.for_attempt(spec)?;
        let id = supervisor_id(self.launcher.owner(), spec.key);
        self.launcher.refuse_running(&id).map_err(io::Error::other)?;
        let conversation =
            self.homes.workplace(ConversationKey { run: spec.key.run, task: spec.key.task })?;
        self.homes.start_afresh(&[conversation.out()])?;
        for (name, dir) in [("HOME", conversation.home()), ("TMPDIR", conversation.tmp())] {
            env.insert(name.to_owned(), dir.to_string_lossy().into_owned());
        }
        let attempt_dir = conversation.fresh_attempt(spec.key.attempt)?;
        let mut bounds = Bounds {
            writable: vec![conversation.home(), conversation.work(), conversation.out()],
            readable: vec![program.clone()],
        };
        surroundings::place(spec, &conversation.work(), &attempt_dir, &mut env, &mut bounds)?;
        let tree = Tree {
            reference: spec.reference.clone(),
            attempt_dir: attempt_dir.clone(),
            work: conversation.work(),
            out: conversation.out(),
            env: env.clone(),
            bounds: bounds.clone(),
            ..Tree::default()
        };
        let limits = supervised::limits(&spec.limits, &self.limits);
        let note = Note {
            boot_id: boot_id(),
            reference: spec.reference.clone(),
            conversation: ConversationKey { run: spec.key.run, task: spec.key.task },
            limits: spec.limits,
            gates: spec.gates.clone(),
            tree,
            shown: Shown::of(spec),
            segment_bytes: limits.segment_bytes,
            work: WorkNote::Command,
        };
        note.write(&attempt_dir)?;
        let supervise = SuperviseSpec {
            version: SPEC_VERSION,
            id,
            owner: self.launcher.owner().to_owned(),
            reference: spec.reference.clone(),
            runtime_dir: self.launcher.runtime_dir().to_owned(),
            attempt_dir,
            program,
            args: work.args.clone(),
            env,
            cwd: conversation.work(),
            input: Input::Closed,
            ladder: LadderPlan::program(),
            limits,
            sandbox: self.sandbox.plan(bounds),
            durable: false,
            gateway: None,
        };
        Ok((supervise, note.tree))
    }

    /// See [`Runner::adopt`].
    fn go_on(&self, key: AttemptKey, survivor: Survivor, mut link: AttemptLink) -> Option<Adopted> {
        let note = Note::read(&survivor.attempt_dir)?;
        if note.work != WorkNote::Command {
            return None;
        }
        let (claim, seat) = (adopted::claim(&self.homes, key, &note)?, self.share.take_seat());
        let (this, shown) = (self.clone(), note.shown.clone());
        let run = async move {
            let mut watcher = Collector::default();
            let (launcher, segment_bytes) = (&this.launcher, note.segment_bytes);
            let ended =
                supervised::adopt(launcher, &survivor, segment_bytes, seat, &mut link, &mut watcher).await;
            let report = adopted::reworded(report(watcher, &ended), &ended, &note);
            let mut report = report.handing_over(&note.tree.out);
            if report.outcome == Outcome::Ok {
                report = match adopted::confirmed(&note, &mut link).await {
                    Ok(life) => {
                        let gates = (key, &note.gates);
                        this.gatekeeper().judge(report, gates, &note.tree, life, &mut link).await
                    }
                    Err(cause) => adopted::given_up(report, cause),
                };
            }
            report.feedback = None;
            this.note_end(note.conversation);
            report.occupied = Occupied::by(claim);
            report
        };
        Some(Adopted { run: Box::pin(run), shown })
    }

    fn note_end(&self, ended: ConversationKey) {
        if let Err(error) = self.homes.note_end(ended) {
            tracing::warn!(%error, "the end of a conversation could not be noted");
        }
    }
}

impl Runner for CommandRunner {
    fn name(&self) -> &'static str {
        "command"
    }

    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_> {
        Box::pin(self.attempt(spec, link))
    }

    fn adopt(&self, key: AttemptKey, survivor: Survivor, link: AttemptLink) -> Option<Adopted> {
        self.go_on(key, survivor, link)
    }
}

fn report(collector: Collector, ended: &Ended) -> AttemptReport {
    let (outcome, detail) = match &ended.end {
        End::Recorded(record) => judge(record, &ended.stderr),
        End::Lost { detail } => (Outcome::Crash, detail.clone()),
    };
    let mut report = AttemptReport::of(outcome, detail);
    report.answer = Some(collector.answer());
    with_end(report, ended)
}

/// Keeps the beginning of the output: it is the answer.
#[derive(Debug, Default)]
struct Collector {
    kept: Vec<u8>,
    seen: u64,
}

impl Collector {
    fn answer(self) -> String {
        let text = String::from_utf8_lossy(&self.kept).into_owned();
        let text = text.strip_suffix('\n').map(str::to_owned).unwrap_or(text);
        shorten(text, LONGEST_ANSWER)
    }
}

impl Watcher for Collector {
    fn stdout(&mut self, bytes: &[u8]) -> Vec<Action> {
        self.seen += bytes.len() as u64;
        // One byte more than fits, so that the cut is marked.
        let room = (LONGEST_ANSWER + 1).saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Vec::new()
    }

    fn stopping(&mut self) {}

    fn describe(&self, live: &mut Live) {
        "running".clone_into(&mut live.now);
        live.transcript_bytes = self.seen;
    }
}

/// A program's own verdict is its exit code, so a code other than 0 is a check that did not pass; a signal
/// that was not ours is a crash.
fn judge(record: &ExitRecord, stderr: &str) -> (Outcome, String) {
    if let Some(error) = &record.spawn_error {
        return (Outcome::SpawnFailed, error.clone());
    }
    if let Some((outcome, why)) = record.stop.and_then(|stop| outcome_of_stop(stop.cause)) {
        return (outcome, with_memory(why, record));
    }
    let said = stderr.trim();
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    match (record.code, record.signal) {
        (Some(0), _) => (Outcome::Ok, String::new()),
        (Some(code), _) => (Outcome::GateFailed, format!("the program ended with exit code {code}{said}")),
        (None, Some(signal)) => (Outcome::Crash, format!("the program was ended by signal {signal}{said}")),
        (None, None) => (Outcome::Crash, format!("the program ended in an unknown way{said}")),
    }
}

/// The reason of a stop, with the figures where memory was it.
pub(crate) fn with_memory(why: &str, record: &ExitRecord) -> String {
    let over_memory = record.stop.is_some_and(|stop| stop.cause == StopCause::Memory);
    match record.memory_limit_bytes.filter(|_| over_memory) {
        Some(limit) => {
            format!("{why} ({} of {})", show_size(record.peak_memory_bytes), show_size(limit))
        }
        None => why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_programs_are_offered_under_their_name_or_path() {
        let listed = ["sh".to_owned(), "/bin/echo".to_owned()];
        let allowed = AllowedPrograms::find(&listed, "/bin").unwrap();
        assert_eq!(allowed.path("sh"), Some(&PathBuf::from("/bin/sh")));
        assert_eq!(allowed.path("/bin/sh"), Some(&PathBuf::from("/bin/sh")));
        for asked in ["echo", "/usr/bin/env", "../bin/sh", "sh -c", ""] {
            assert_eq!(allowed.path(asked), None, "{asked}");
        }
        assert_eq!(AllowedPrograms::find(&["nope".to_owned()], "/bin"), Err(NotFound("nope".to_owned())));
        assert!(AllowedPrograms::default().is_empty());
    }

    #[test]
    fn an_exit_code_is_the_programs_verdict() {
        let ended = |code, signal| ExitRecord { code, signal, ..ExitRecord::default() };
        assert_eq!(judge(&ended(Some(0), None), "noise"), (Outcome::Ok, String::new()));
        let (outcome, detail) = judge(&ended(Some(3), None), "no such thing\n");
        assert_eq!(
            (outcome, detail.as_str()),
            (Outcome::GateFailed, "the program ended with exit code 3: no such thing")
        );
        assert_eq!(judge(&ended(None, Some(11)), "").0, Outcome::Crash);
    }

    #[test]
    fn the_answer_is_cut_where_it_gets_too_long() {
        let mut collector = Collector::default();
        for _ in 0..17 {
            collector.stdout(&vec![b'x'; 1024 * 1024]);
        }
        let answer = collector.answer();
        assert!(answer.len() <= LONGEST_ANSWER && answer.ends_with(" […]"));
        let mut short = Collector::default();
        short.stdout(b"a\nb\n");
        assert_eq!(short.answer(), "a\nb");
    }
}
