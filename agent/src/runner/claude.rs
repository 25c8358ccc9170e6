//! The runner of the Claude Code CLI: claims a conversation, has everything prepared, follows the CLI through its event
//! lines, judges how it ended, and has its gates checked. The parts that know the CLI are pure and lie beneath, as does
//! what knows where things are; this file knows the order.
//!
//! A task that is sent back comes as another attempt, with what was found as `feedback`: no CLI waits for a verdict.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::task::spawn_blocking;

use crate::boottime::BootMillis;
use crate::causes::one_line;
use crate::credentials::{Lease, Pools};
use crate::gates::{Gatekeeper, Life};
use crate::homes::claims::{Claim, Holder, Occupied};
use crate::homes::{ConversationKey, Homes};
use crate::limits::Broker;
use crate::sandbox::Sandbox;
use crate::supervisor::client::{End, Launcher, Survivor};
use crate::supervisor::exit::ExitRecord;
use crate::supervisor::known::Known;
use crate::supervisor::spec::Secrets;

use self::asking::{Asking, Told};
use self::judge::{Terms, judge};
use self::observer::{Facts, Observer};
use self::prepare::{PrepareError, Prepared, conversation_of};
use super::command::AllowedPrograms;
use super::environment::HostEnvironment;
use super::limits::AgentLimits;
use super::share::OutputShare;
use super::supervised::{self, Ended, with_end};
use super::waiting::{left_to_live, wait_for};
use super::{
    Adopted, AttemptKey, AttemptLimits, AttemptLink, AttemptReport, AttemptSpec, Gates, LONGEST_ANSWER,
    Outcome, RunFuture, Runner, shorten,
};

mod adopt;
pub mod args;
mod asking;
mod branches;
pub mod checks;
pub mod event;
pub mod failure;
pub mod judge;
pub mod lines;
pub mod money;
pub mod observer;
mod prepare;
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
    /// Where they ask for credit, and tell what they spend.
    pub broker: Broker,
    /// Whether gateways record what is said to the API, in the directory of each attempt.
    pub record_exchanges: bool,
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
            broker: Broker::default(),
            record_exchanges: false,
        }
    }
}

/// Runs the CLI.
#[derive(Debug, Clone)]
pub struct ClaudeRunner {
    launcher: Launcher,
    homes: Arc<Homes>,
    settings: Arc<ClaudeSettings>,
    /// Programs that gates may run where there is no sandbox.
    allowed: Arc<AllowedPrograms>,
}

impl ClaudeRunner {
    /// Runs attempts in `homes` under supervisors of `launcher`.
    #[must_use]
    pub fn new(launcher: Launcher, homes: Arc<Homes>, settings: ClaudeSettings) -> Self {
        Self { launcher, homes, settings: Arc::new(settings), allowed: Arc::default() }
    }

    /// The same, whose gates may run these programs also where there is no sandbox.
    #[must_use]
    pub fn allowing(self, allowed: AllowedPrograms) -> Self {
        Self { allowed: Arc::new(allowed), ..self }
    }

    fn gatekeeper(&self) -> Gatekeeper {
        Gatekeeper {
            launcher: self.launcher.clone(),
            allowed: Arc::clone(&self.allowed),
            sandbox: self.settings.sandbox.clone(),
            limits: self.settings.limits,
            share: self.settings.share.clone(),
            search_path: self.settings.host.path().to_owned(),
        }
    }

    async fn attempt(&self, spec: AttemptSpec, mut link: AttemptLink) -> AttemptReport {
        let life = Life { limits: spec.limits, accepted: BootMillis::now() };
        let (key, conversation) = (spec.key, conversation_of(&spec));
        let own = ConversationKey { run: key.run, task: key.task };
        let claim = match self.claim(conversation, own, &spec, &mut link).await {
            Ok(claim) => claim,
            Err(report) => return *report,
        };
        let this = self.clone();
        let prepared = match spawn_blocking(move || this.prepare(&spec)).await {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return refusal(&error),
            Err(error) => return refusal(&PrepareError::Io(io::Error::other(error))),
        };
        let mut report = match self.lease(&prepared, &life.limits, &mut link).await {
            Ok(lease) => {
                let (gates, mut tree) = (prepared.gates.clone(), prepared.tree.clone());
                let (report, redact) = self.attempt_with(key, lease, prepared, life, &mut link).await;
                tree.redact = redact;
                tree.tool_calls = report.tool_calls;
                self.gatekeeper().judge(report, (key, &gates), &tree, life, &mut link).await
            }
            Err(report) => *report,
        };
        self.note_end([own, conversation]);
        report.occupied = Occupied::by(claim);
        report
    }

    fn note_end(&self, ended: [ConversationKey; 2]) {
        for ended in ended {
            if let Err(error) = self.homes.note_end(ended) {
                tracing::warn!(%error, "the end of a conversation could not be noted");
            }
        }
    }

    /// The right to work in the conversation; or the report of an attempt that does not get it.
    async fn claim(
        &self,
        conversation: ConversationKey,
        own: ConversationKey,
        spec: &AttemptSpec,
        link: &mut AttemptLink,
    ) -> Result<Claim, Box<AttemptReport>> {
        let by = Holder { task: own, reference: spec.reference.clone() };
        match wait_for(self.homes.claim(conversation, by), link, &spec.limits).await {
            Ok(Ok(claim)) => Ok(claim),
            Ok(Err(error)) => Err(Box::new(refusal(&PrepareError::Home(error)))),
            Err(cause) => {
                let mut report = AttemptReport::stopped(cause);
                report.detail.push_str(" while it waited for the end of an earlier attempt");
                Err(Box::new(report))
            }
        }
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
        let reference = &prepared.supervise.reference;
        let claude = &prepared.claude;
        let lease = self.settings.pools.lease_telling(Some(&claude.pool), &claude.worker, reference, tell);
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

    /// Runs it with a credential, which is given back at its end. Also gives the texts that must not be seen.
    async fn attempt_with(
        &self,
        key: AttemptKey,
        lease: Lease,
        prepared: Prepared,
        life: Life,
        link: &mut AttemptLink,
    ) -> (AttemptReport, Vec<String>) {
        let Prepared { mut supervise, claude, gates, tree } = prepared;
        let config = claude.config.clone();
        let left = left_to_live(link, &life.limits, life.accepted, BootMillis::now());
        supervise.limits.stop_after_ms = left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let place = config.clone();
        let placed = spawn_blocking(move || (lease.place(&place), lease)).await;
        let (placed, lease) = match placed {
            Ok(placed) => placed,
            Err(error) => return (refusal(&PrepareError::Place(io::Error::other(error))), Vec::new()),
        };
        let mut secrets = lease.secrets(&config);
        let judged = match placed {
            Ok(()) => {
                let asking =
                    Asking::begin(&self.settings, (key, &claude), &lease, (&mut supervise, &mut secrets));
                let mut watcher = asking.watcher(Observer::new(claude.demands));
                let (seat, live) = (self.settings.share.take_seat(), link.live.clone());
                let run = supervised::run(&self.launcher, &supervise, &secrets, seat, link, &mut watcher);
                let ended = asking.beside(run, &lease, live).await;
                let facts = watcher.finish();
                let told = Told::of(&facts, ended.as_ref().ok().map(|ended| &ended.end));
                let judged = match ended {
                    Ok(ended) => report(facts, claude.terms, &ended, &gates).handing_over(&tree.out),
                    Err(error) => AttemptReport::of(Outcome::SpawnFailed, one_line(&error)),
                };
                asking.settled(judged, told).await
            }
            Err(error) => refusal(&PrepareError::Place(error)),
        };
        let redact = give_back(lease, secrets, config, judged.outcome).await;
        (judged, redact)
    }
}

/// Gives a credential back after an attempt, and says which texts must not be seen.
async fn give_back(lease: Lease, secrets: Secrets, config: PathBuf, outcome: Outcome) -> Vec<String> {
    lease.note_outcome(outcome);
    let of_the_start = secrets.redact.clone();
    let given_back = spawn_blocking(move || {
        let mut known = Known::new(&secrets);
        known.look();
        lease.take_back(&config);
        known.texts()
    });
    given_back.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a credential was not taken back");
        of_the_start
    })
}

impl Runner for ClaudeRunner {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn run(&self, spec: AttemptSpec, link: AttemptLink) -> RunFuture<'_> {
        Box::pin(self.attempt(spec, link))
    }

    fn adopt(&self, key: AttemptKey, survivor: Survivor, link: AttemptLink) -> Option<Adopted> {
        self.go_on(key, survivor, link)
    }
}

fn refusal(error: &PrepareError) -> AttemptReport {
    AttemptReport::of(error.outcome(), one_line(error))
}

/// Gates say something about a tree only that nothing changes any more.
fn only_if_gone(mut report: AttemptReport, end: &End) -> AttemptReport {
    let survivors = match end {
        End::Recorded(record) => record.survivors,
        End::Lost { .. } => 0,
    };
    if report.outcome == Outcome::Ok && survivors > 0 {
        report.outcome = Outcome::Crash;
        report.detail =
            format!("{survivors} of its processes could not be ended, so its gates were not checked");
        report.structured = None;
        report.artifacts_from = None;
    }
    report
}

fn report(facts: Facts, terms: Terms, ended: &Ended, gates: &Gates) -> AttemptReport {
    let report = judged(facts, terms, ended);
    if gates.is_empty() { report } else { only_if_gone(report, &ended.end) }
}

fn judged(facts: Facts, terms: Terms, ended: &Ended) -> AttemptReport {
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
    report.tool_calls = facts.tool_calls;
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
    with_end(report, ended)
}
