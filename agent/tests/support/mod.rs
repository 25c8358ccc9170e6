//! What the tests of supervised processes share: a place of their own, fakes written in sh, and waiting for a
//! condition with a deadline. The fakes are fakes: they imitate single habits of a child, not the CLI.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use orch_agent::procfs;
use orch_agent::reexec::SelfExe;
use orch_agent::supervisor::client::{End, Launcher, Supervised};
use orch_agent::supervisor::exit::ExitRecord;
use orch_agent::supervisor::ladder::LadderPlan;
use orch_agent::supervisor::spec::{Input, Limits, MARK_VARIABLE, SPEC_VERSION, Secrets, SuperviseSpec};
use orch_agent::supervisor::wire::Event;

pub(crate) mod agent;

/// Long enough for a loaded machine, short enough to notice.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The line fakes take for an interrupt.
pub(crate) const INTERRUPT: &str = "{\"interrupt\":true}";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory with everything one attempt needs; removed at the end, with every process of it.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) launcher: Launcher,
    pub(crate) spec: SuperviseSpec,
}

impl Place {
    /// An attempt that runs `script` in sh.
    pub(crate) fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let exe = SelfExe::Named(PathBuf::from(env!("CARGO_BIN_EXE_orch-agent")));
        let launcher = Launcher::new(exe, dir.path().join("runtime"), dir.path().join("data")).unwrap();
        let attempt_dir = dir.path().join("attempt");
        std::fs::create_dir(&attempt_dir).unwrap();
        let id = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let spec = SuperviseSpec {
            version: SPEC_VERSION,
            id,
            owner: dir.path().join("data"),
            reference: "adhoc/1/main".to_owned(),
            runtime_dir: dir.path().join("runtime"),
            attempt_dir,
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".to_owned(), script.to_owned()],
            env: [("PATH".to_owned(), "/usr/bin:/bin".to_owned())].into(),
            cwd: dir.path().to_owned(),
            input: Input::Closed,
            ladder: LadderPlan { interrupt_line: None, int: false, step_ms: 200 },
            limits: Limits::default(),
            sandbox: None,
            durable: false,
            gateway: None,
        };
        Self { dir, launcher, spec }
    }

    /// Makes it a conversation that begins with `first`.
    pub(crate) fn conversation(mut self, first: &str) -> Self {
        let path = self.spec.attempt_dir.join("first");
        std::fs::write(&path, first).unwrap();
        self.spec.input = Input::Conversation { first: path };
        self.spec.ladder = LadderPlan { interrupt_line: Some(INTERRUPT.to_owned()), int: true, step_ms: 300 };
        self
    }

    /// Changes the limits.
    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.spec.limits);
        self
    }

    pub(crate) async fn start(&self) -> Supervised {
        self.start_with(&Secrets::default()).await
    }

    pub(crate) async fn start_with(&self, secrets: &Secrets) -> Supervised {
        self.launcher.start(&self.spec, secrets).await.unwrap()
    }

    /// The variable that marks every process of this attempt.
    pub(crate) fn mark(&self) -> String {
        format!("{MARK_VARIABLE}={}", self.spec.id)
    }

    /// Processes of this attempt that still run.
    pub(crate) fn processes(&self) -> Vec<procfs::ProcStat> {
        let mut all = procfs::with_environment(&self.mark()).unwrap();
        all.retain(|stat| !stat.is_zombie());
        all
    }

    pub(crate) fn stdout(&self) -> String {
        read_all(&self.spec.attempt_dir, "stdout")
    }

    pub(crate) fn stderr(&self) -> String {
        read_all(&self.spec.attempt_dir, "stderr")
    }

    /// Waits until the child has written `text` on its standard output.
    pub(crate) async fn until_stdout_has(&self, text: &str) {
        until(&format!("the child writes {text:?}"), || self.stdout().contains(text)).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        orch_agent::supervisor::tree::kill_marked(&self.mark(), Duration::from_secs(5));
    }
}

/// Listens until the supervisor has nothing more to say, and returns its record.
pub(crate) async fn see_through(mut supervised: Supervised) -> (Vec<Event>, ExitRecord) {
    let mut events = Vec::new();
    let listen = async {
        while let Some(event) = supervised.next_event().await {
            events.push(event);
        }
        supervised.finish().await
    };
    match tokio::time::timeout(PATIENCE, listen).await.expect("the supervisor ends") {
        End::Recorded(record) => (events, *record),
        End::Lost { detail } => panic!("lost: {detail}"),
    }
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn read_all(dir: &Path, stream: &str) -> String {
    let mut bytes = Vec::new();
    for number in 0_u64.. {
        match std::fs::read(dir.join(format!("{stream}.{number:06}"))) {
            Ok(part) => bytes.extend(part),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
