//! An agent without a coordinator: its data, its runners, and a fake CLI in sh that imitates single habits of the real
//! one. What attempts leave is removed with it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use orch_agent::boottime::BootMillis;
use orch_agent::credentials::Pools;
use orch_agent::credentials::health::Checker;
use orch_agent::credentials::settings::{Gateway, PoolSettings, Source};
use orch_agent::homes::Homes;
use orch_agent::homes::claims::Occupied;
use orch_agent::reexec::SelfExe;
use orch_agent::runner::claude::{ClaudeRunner, ClaudeSettings};
use orch_agent::runner::command::{AllowedPrograms, CommandRunner};
use orch_agent::runner::environment::HostEnvironment;
use orch_agent::runner::limits::AgentLimits;
use orch_agent::runner::share::OutputShare;
use orch_agent::runner::{
    AttemptHandle, AttemptKey, AttemptLimits, AttemptReport, AttemptSpec, ClaudeWork, CommandWork, Gates,
    OnLoss, Prompt, Renewal, Runner, Work, WorkerSettings, link,
};
use orch_agent::sandbox::{Sandbox, Settings};
use orch_agent::supervisor::client::{Launcher, Survivor};
use uuid::Uuid;

use super::PATIENCE;

/// An agent's data and a fake CLI.
pub(crate) struct Agent {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) homes: Arc<Homes>,
}

impl Agent {
    pub(crate) fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    /// The same in a directory of the caller's choice.
    pub(crate) fn within(dir: tempfile::TempDir) -> Self {
        let data = dir.path().join("data");
        let homes = Arc::new(Homes::open(&data).unwrap());
        let exe = SelfExe::Named(PathBuf::from(env!("CARGO_BIN_EXE_orch-agent")));
        let launcher = Launcher::new(exe, dir.path().join("runtime"), data).unwrap();
        Self { dir, launcher, homes }
    }

    pub(crate) fn claude(&self, script: &str) -> ClaudeRunner {
        let program = self.dir.path().join("claude");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let key = self.dir.path().join("key");
        fs::write(&key, "sk-canary-0123456789\n").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        ClaudeRunner::new(self.launcher.clone(), Arc::clone(&self.homes), self.settings(&program, key))
    }

    /// The same with limits of the agent.
    pub(crate) fn limited(&self, script: &str, limits: AgentLimits) -> ClaudeRunner {
        drop(self.claude(script));
        let (program, key) = (self.dir.path().join("claude"), self.dir.path().join("key"));
        let share = OutputShare::new(limits.agent_output_bytes);
        let settings = ClaudeSettings { limits, share, ..self.settings(&program, key) };
        ClaudeRunner::new(self.launcher.clone(), Arc::clone(&self.homes), settings)
    }

    /// The same in a sandbox that hides the agent's data, its key and `secret`; `None` on a host that offers none. The
    /// agent must not lie below `/tmp`, which every attempt has its own of.
    pub(crate) fn sandboxed(&self, script: &str) -> Option<ClaudeRunner> {
        let hidden = ["data", "key", "secret"].map(|name| self.dir.path().join(name)).to_vec();
        let search_path = "/usr/bin:/bin".to_owned();
        let sandbox = Sandbox::probe(Settings { hidden, search_path, ..Settings::default() }).unwrap();
        let layers = sandbox.layers();
        if !layers.iter().any(|layer| layer == "mount-namespace" || layer == "landlock") {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"skipped: no sandbox on this host\n");
            return None;
        }
        drop(self.claude(script));
        let (program, key) = (self.dir.path().join("claude"), self.dir.path().join("key"));
        let settings = ClaudeSettings { sandbox, ..self.settings(&program, key) };
        Some(ClaudeRunner::new(self.launcher.clone(), Arc::clone(&self.homes), settings))
    }

    /// An agent that can be [`Self::sandboxed`].
    pub(crate) fn outside_of_tmp() -> Self {
        Self::within(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
    }

    pub(crate) fn settings(&self, program: &Path, key: PathBuf) -> ClaudeSettings {
        ClaudeSettings {
            program: program.to_str().unwrap().to_owned(),
            api_base_url: Some("http://127.0.0.1:9".to_owned()),
            host: HostEnvironment::pick([]),
            pools: self.pools(Source::ApiKey(key)),
            ..ClaudeSettings::default()
        }
    }

    /// A pool `default` with this credential.
    pub(crate) fn pools(&self, source: Source) -> Pools {
        // What plays the CLI here asks no API.
        let gateway = Some(Gateway::Off);
        let pool = PoolSettings { gateway, ..PoolSettings::new("default", source) };
        Pools::open(&[pool], &self.dir.path().join("data"), Checker::default()).unwrap()
    }

    pub(crate) fn command(&self) -> CommandRunner {
        let allowed = AllowedPrograms::find(&["sh".to_owned(), "echo".to_owned()], "/bin").unwrap();
        CommandRunner::new(self.launcher.clone(), Arc::clone(&self.homes), allowed, HostEnvironment::pick([]))
    }

    pub(crate) fn work_dir(&self) -> PathBuf {
        self.dir.path().join("data/tasks/7-0/work")
    }
}

pub(crate) fn spec(work: Work) -> AttemptSpec {
    AttemptSpec {
        key: AttemptKey { run: 7, task: 0, attempt: 1 },
        reference: "adhoc/7/main".to_owned(),
        work,
        limits: AttemptLimits { timeout: Some(PATIENCE), ..AttemptLimits::default() },
        on_loss: OnLoss::Fast,
        env: BTreeMap::new(),
        inputs: Vec::new(),
        workspace: None,
        tree: None,
        gates: Gates::default(),
        reuse: Vec::new(),
    }
}

pub(crate) fn claude_work(prompt: &str) -> ClaudeWork {
    ClaudeWork {
        worker: WorkerSettings {
            model: "haiku".to_owned(),
            system_prompt: "You are Anga.".to_owned(),
            ..WorkerSettings::default()
        },
        prompt: Prompt::Text(prompt.to_owned()),
        session: Uuid::from_u128(7),
        output_schema: None,
        budget_micro_usd: None,
        max_turns: None,
        denial_fails: false,
        feedback: None,
        interrupted: None,
        conversation: None,
        allowance: None,
    }
}

pub(crate) fn command(program: &str, args: &[&str]) -> AttemptSpec {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    spec(Work::Command(CommandWork { program: program.to_owned(), args }))
}

pub(crate) async fn end(runner: &dyn Runner, spec: AttemptSpec) -> AttemptReport {
    let (_handle, link) = link();
    let report = tokio::time::timeout(PATIENCE, runner.run(spec, link)).await.expect("the attempt ends");
    collected(report)
}

/// The report of an attempt that a former agent started, as whoever goes on with it gives it; `None` when it cannot. The
/// coordinator confirms it at once.
pub(crate) async fn gone_on_with(
    runner: &dyn Runner,
    key: AttemptKey,
    survivor: Survivor,
) -> Option<AttemptReport> {
    let (handle, link) = link();
    let adopted = runner.adopt(key, survivor, link)?;
    let renewal = Renewal { sent: BootMillis::now(), stop_after: PATIENCE };
    handle.renewals.send_replace(Some(renewal));
    let report = tokio::time::timeout(PATIENCE, adopted.run).await.expect("the attempt ends");
    Some(collected(report))
}

/// An attempt whose supervisor is gone.
pub(crate) fn without_supervisor(attempt_dir: PathBuf) -> Survivor {
    Survivor { id: "gone".to_owned(), attempt_dir, process: None }
}

/// The report of an attempt whose files nobody needs any more.
fn collected(report: AttemptReport) -> AttemptReport {
    AttemptReport { occupied: Occupied::default(), ..report }
}

/// Starts an attempt beside the test.
pub(crate) fn start(
    runner: impl Runner + 'static,
    spec: AttemptSpec,
) -> (AttemptHandle, tokio::task::JoinSet<AttemptReport>) {
    let (handle, link) = link();
    let mut attempts = tokio::task::JoinSet::new();
    attempts.spawn(async move { runner.run(spec, link).await });
    (handle, attempts)
}

pub(crate) async fn joined(mut attempts: tokio::task::JoinSet<AttemptReport>) -> AttemptReport {
    let report = tokio::time::timeout(PATIENCE, attempts.join_next()).await;
    collected(report.expect("the attempt ends").unwrap().unwrap())
}

pub(crate) const INIT: &str = r#"echo '{"type":"system","subtype":"init","session_id":"s-1"}'"#;
pub(crate) const DONE: &str = r#"echo '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"done","total_cost_usd":0.25,"modelUsage":{"m":{"inputTokens":3,"outputTokens":4,"costUSD":0.25}}}'"#;
