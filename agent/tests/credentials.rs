//! Credential pools with real processes: what a child is given, what it leaves behind, what of it can be seen afterwards,
//! and the two commands an operator has. The CLI here is a fake in sh that imitates single habits; the whole system is
//! tried elsewhere with the scripted stand-in.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use orch_agent::credentials::Pools;
use orch_agent::credentials::health::Checker;
use orch_agent::credentials::settings::{Gateway, PoolSettings, Source};
use orch_agent::homes::{ConversationKey, Homes};
use orch_agent::reexec::SelfExe;
use orch_agent::runner::claude::{ClaudeRunner, ClaudeSettings};
use orch_agent::runner::environment::HostEnvironment;
use orch_agent::runner::{
    AttemptKey, AttemptLimits, AttemptReport, AttemptSpec, ClaudeWork, Gates, OnLoss, Outcome, Prompt,
    Runner, Work, WorkerSettings, link,
};
use orch_agent::supervisor::client::Launcher;
use orch_agent::supervisor::stop::StopCause;
use support::{PATIENCE, until};
use tokio::task::JoinSet;
use uuid::Uuid;

const AGENT: &str = env!("CARGO_BIN_EXE_orch-agent");
const INIT: &str = r#"echo '{"type":"system","subtype":"init","session_id":"s-1"}'"#;
/// A result whose text is the value of `$answer`.
const DONE: &str = r#"printf '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"%s","total_cost_usd":0,"modelUsage":{}}\n' "$answer""#;

/// An agent's data, pools and a fake CLI.
struct Agent {
    dir: tempfile::TempDir,
    homes: Arc<Homes>,
    launcher: Launcher,
    pools: Vec<PoolSettings>,
}

impl Agent {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let homes = Arc::new(Homes::open(&data).unwrap());
        let launcher = Launcher::new(SelfExe::Named(AGENT.into()), dir.path().join("run"), data).unwrap();
        Self { dir, homes, launcher, pools: Vec::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn private(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn pool(&mut self, name: &str, source: Source, workers: &[&str]) {
        let workers = workers.iter().map(ToString::to_string).collect();
        self.pools.push(PoolSettings {
            name: name.into(),
            source,
            workers,
            base_url: None,
            gateway: Some(Gateway::Off),
        });
    }

    fn cli(&self, script: &str) -> PathBuf {
        let program = self.path("claude");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn runner(&self, script: &str) -> ClaudeRunner {
        let settings = ClaudeSettings {
            program: self.cli(script).to_str().unwrap().to_owned(),
            host: HostEnvironment::pick([]),
            pools: Pools::open(&self.pools, &self.path("data"), Checker::default()).unwrap(),
            ..ClaudeSettings::default()
        };
        ClaudeRunner::new(self.launcher.clone(), Arc::clone(&self.homes), settings)
    }

    /// What a task left in its working directory.
    fn left(&self, task: u32, name: &str) -> String {
        fs::read_to_string(self.path(&format!("data/tasks/7-{task}/work/{name}"))).unwrap()
    }

    fn config(&self, task: u32) -> PathBuf {
        self.homes.config_dir(ConversationKey { run: 7, task })
    }
}

fn spec(task: u32, worker: &str, pool: &str) -> AttemptSpec {
    let worker = WorkerSettings {
        name: worker.to_owned(),
        model: "haiku".to_owned(),
        system_prompt: "You help.".to_owned(),
        pool: pool.to_owned(),
        ..WorkerSettings::default()
    };
    let work = ClaudeWork {
        worker,
        prompt: Prompt::Text("do it".to_owned()),
        session: Uuid::from_u128(u128::from(task)),
        output_schema: None,
        budget_micro_usd: None,
        max_turns: None,
        denial_fails: false,
        feedback: None,
        interrupted: None,
        conversation: None,
        allowance: None,
    };
    AttemptSpec {
        key: AttemptKey { run: 7, task, attempt: 1 },
        reference: format!("adhoc/7/t{task}"),
        work: Work::Claude(Box::new(work)),
        limits: AttemptLimits { timeout: Some(PATIENCE * 4), ..AttemptLimits::default() },
        on_loss: OnLoss::Fast,
        env: BTreeMap::new(),
        inputs: Vec::new(),
        workspace: None,
        tree: None,
        gates: Gates::default(),
        reuse: Vec::new(),
    }
}

async fn end(runner: &dyn Runner, spec: AttemptSpec) -> AttemptReport {
    let (_handle, link) = link();
    tokio::time::timeout(PATIENCE * 4, runner.run(spec, link)).await.expect("the attempt ends")
}

fn login(n: u32) -> String {
    format!(
        r#"{{"claudeAiOauth":{{"accessToken":"canary-access-{n:04}","refreshToken":"canary-refresh-{n:04}","expiresAt":{n}}}}}"#
    )
}

#[tokio::test]
async fn each_child_gets_the_credential_of_its_own_pool_and_no_other() {
    let mut agent = Agent::new();
    agent.pool("blue", Source::ApiKey(agent.private("blue", "sk-canary-blue\n")), &["marie"]);
    agent.pool("red", Source::Token(agent.private("red", "sk-ant-oat01-canary-red\n")), &["anga"]);
    let max = agent.private("max/.credentials.json", &login(1));
    agent.pool("max", Source::Login(max.parent().unwrap().to_owned()), &[]);
    let runner = agent.runner(&format!(
        r#"env > env; cat "$CLAUDE_CONFIG_DIR/.credentials.json" > login 2>/dev/null; stat -c %a "$CLAUDE_CONFIG_DIR/.credentials.json" > mode 2>/dev/null
           read -r line; {INIT}; answer=ok; {DONE}; cat >/dev/null"#
    ));
    let runs = [(0, "marie", ""), (1, "anga", ""), (2, "fabien", ""), (3, "marie", "red")];
    let mut attempts = JoinSet::new();
    for (task, worker, pool) in runs {
        let runner = runner.clone();
        attempts.spawn(async move { end(&runner, spec(task, worker, pool)).await.outcome });
    }
    assert_eq!(attempts.join_all().await, [Outcome::Ok; 4]);
    let (blue, red) = ("ANTHROPIC_API_KEY=sk-canary-blue", "CLAUDE_CODE_OAUTH_TOKEN=sk-ant-oat01-canary-red");
    let has = |task: u32, text: &str| agent.left(task, "env").lines().any(|line| line == text);
    assert_eq!([has(0, blue), has(0, red)], [true, false]);
    assert_eq!([has(1, blue), has(1, red)], [false, true]);
    assert_eq!([has(2, blue), has(2, red)], [false, false]);
    assert_eq!([has(3, blue), has(3, red)], [false, true]);
    assert_eq!((agent.left(2, "login"), agent.left(2, "mode").trim()), (login(1), "600"));
    for task in [0, 1, 3] {
        assert_eq!(agent.left(task, "login"), "");
    }
    for task in 0..4 {
        assert_eq!(agent.left(task, "env").matches("canary").count(), usize::from(task != 2));
        assert!(!agent.config(task).join(".credentials.json").exists());
    }
}

#[tokio::test]
async fn no_credential_is_an_auth_outcome_that_says_what_to_do() {
    let mut agent = Agent::new();
    agent.pool("blue", Source::ApiKey(agent.private("blue", "sk-canary\n")), &["marie"]);
    agent.pool("max", Source::Login(agent.path("max")), &["fabien"]);
    let runner = agent.runner("exit 9");
    let of = async |worker: &str, pool: &str| {
        let report = end(&runner, spec(0, worker, pool)).await;
        assert_eq!(report.outcome, Outcome::Auth);
        report.detail
    };
    let detail = of("anga", "").await;
    assert!(
        detail.starts_with("no credential pool of this agent serves worker anga (it has blue, max)"),
        "{detail}"
    );
    let detail = of("anga", "green").await;
    assert!(detail.starts_with("this agent has no credential pool \"green\""), "{detail}");
    let detail = of("fabien", "").await;
    assert!(detail.contains("run orch-agent login --pool max"), "{detail}");
}

#[tokio::test]
async fn fifty_at_once_use_a_login_one_at_a_time_and_the_last_refresh_is_kept() {
    let mut agent = Agent::new();
    let file = agent.private("max/.credentials.json", &login(0));
    agent.pool("max", Source::Login(file.parent().unwrap().to_owned()), &[]);
    let busy = agent.path("busy");
    // Every one counts the login up by one, as a refresh would; two at a time would be noticed by the directory.
    let runner = agent.runner(&format!(
        r#"mkdir {busy} || exit 9
           f="$CLAUDE_CONFIG_DIR/.credentials.json"
           n=$(sed 's/.*"expiresAt":\([0-9]*\).*/\1/' "$f"); n=$((n + 1))
           printf '{{"claudeAiOauth":{{"accessToken":"canary-access-%04d","refreshToken":"canary-refresh-%04d","expiresAt":%d}}}}' $n $n $n > "$f.new"
           mv "$f.new" "$f"
           read -r line; {INIT}; answer=$n; rmdir {busy}; {DONE}; cat >/dev/null"#,
        busy = busy.display()
    ));
    let mut attempts = JoinSet::new();
    for task in 0..50 {
        let runner = runner.clone();
        attempts.spawn(async move { end(&runner, spec(task, "marie", "")).await });
    }
    let reports = attempts.join_all().await;
    let mut answers: Vec<u32> = Vec::new();
    for report in &reports {
        assert_eq!(report.outcome, Outcome::Ok, "{}", report.detail);
        answers.push(report.answer.as_ref().unwrap().parse().unwrap());
    }
    answers.sort_unstable();
    assert_eq!(answers, (1..=50).collect::<Vec<_>>(), "each had what the one before left");
    assert_eq!(fs::read_to_string(&file).unwrap(), login(50));
    for task in 0..50 {
        assert!(!agent.config(task).join(".credentials.json").exists());
    }
}

#[tokio::test]
async fn whoever_waits_for_a_login_says_so_and_can_be_cancelled() {
    let mut agent = Agent::new();
    let file = agent.private("max/.credentials.json", &login(0));
    agent.pool("max", Source::Login(file.parent().unwrap().to_owned()), &[]);
    let go = agent.path("go");
    let runner = agent.runner(&format!(
        r#"read -r line; {INIT}; while [ ! -e {} ]; do sleep 0.05; done; answer=ok; {DONE}; cat >/dev/null"#,
        go.display()
    ));
    let mut attempts = JoinSet::new();
    let mut begin = |task: u32| {
        let ((handle, link), runner) = (link(), runner.clone());
        attempts.spawn(async move { (task, runner.run(spec(task, "marie", ""), link).await) });
        handle
    };
    let first = begin(0);
    until("the first runs", || first.live.borrow().supervisor_pid.is_some()).await;
    let second = begin(1);
    let waiting = "waiting for the login of pool max (used by adhoc/7/t0)";
    until("the second says that it waits", || second.live.borrow().now == waiting).await;
    assert_eq!(second.live.borrow().supervisor_pid, None);
    second.stop.send_replace(Some(StopCause::Cancelled));
    let (task, report) = attempts.join_next().await.unwrap().unwrap();
    assert_eq!((task, report.outcome), (1, Outcome::Cancelled));
    fs::write(&go, "").unwrap();
    let (_, report) = attempts.join_next().await.unwrap().unwrap();
    assert_eq!(report.outcome, Outcome::Ok, "{}", report.detail);
}

/// Everything that was logged by this process.
fn logged() -> &'static Mutex<Vec<u8>> {
    #[derive(Clone, Copy)]
    struct Log;
    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            LOGGED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    static LOGGED: OnceLock<Mutex<Vec<u8>>> = OnceLock::new();
    static STARTED: OnceLock<()> = OnceLock::new();
    STARTED.get_or_init(|| {
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(|| Log).init();
    });
    LOGGED.get_or_init(Mutex::default)
}

/// Every file below a directory.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
    found
}

#[tokio::test]
async fn a_known_secret_is_nowhere_to_be_seen_whatever_the_child_prints() {
    let logs = logged();
    let mut agent = Agent::new();
    let key = "sk-ant-api03-Canary0Key1Canary2Key3Canary4";
    let token = "sk-ant-oat01-Canary0Token1Canary2Token3Canary4";
    agent.pool("key", Source::ApiKey(agent.private("key", key)), &[]);
    agent.pool("token", Source::Token(agent.private("token", token)), &[]);
    let file = agent.private("max/.credentials.json", &login(7));
    agent.pool("max", Source::Login(file.parent().unwrap().to_owned()), &[]);
    let runner = agent.runner(&format!(
        r#"read -r line; {INIT}
           secret="$ANTHROPIC_API_KEY$CLAUDE_CODE_OAUTH_TOKEN$(cat "$CLAUDE_CONFIG_DIR/.credentials.json" 2>/dev/null)"
           show() {{ env; cat "$CLAUDE_CONFIG_DIR/.credentials.json" 2>/dev/null; }}
           show >&2; show | base64 >&2; show | base64 -w0 >&2; echo >&2; show | od -An -tx1 >&2; show | od -An -tx1 -w99 | tr -d ' \n' >&2; echo >&2
           for form in "$(show | base64 | tr '\n' ' ')" "$(show | base64 -w0)" "$(show | tr -d '\n\"\\')" "$(show | od -An -tx1 | tr -d '\n')"; do
               printf '{{"type":"user","message":{{"content":[{{"type":"tool_result","content":"%s"}}]}}}}\n' "$form"
           done
           half=$(( ${{#secret}} / 2 ))
           printf '%s' "$(printf '%s' "$secret" | cut -c1-$half)" >&2; sleep 0.2; printf '%s\n' "$(printf '%s' "$secret" | cut -c$((half + 1))-)" >&2
           answer="the secret is $(printf '%s' "$secret" | tr -d '\"{{}}') and $(printf '%s' "$secret" | base64 -w0)"; {DONE}; cat >/dev/null"#
    ));
    let secrets = [key, token, "canary-access-0007", "canary-refresh-0007"];
    // What no encoding of a whole secret can lack: a middle of each.
    let canaries: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| spellings(secret)).collect();
    let leaks = |bytes: &[u8]| {
        let unbroken: Vec<u8> = bytes.iter().copied().filter(|byte| !matches!(byte, b'\n' | b' ')).collect();
        canaries.iter().any(|canary| {
            [bytes, &unbroken].iter().any(|text| text.windows(canary.len()).any(|part| part == canary))
        })
    };
    assert!(
        leaks(format!("x{key}").as_bytes()) && leaks(hex::encode(token).as_bytes()),
        "the test sees leaks"
    );
    for (task, pool) in [(0, "key"), (1, "token"), (2, "max")] {
        let report = end(&runner, spec(task, "marie", pool)).await;
        assert_eq!(report.outcome, Outcome::Ok, "{}", report.detail);
        let answer = report.answer.clone().unwrap();
        assert!(answer.contains("the secret is") && answer.contains("***"), "{answer}");
        assert!(!leaks(format!("{report:?}").as_bytes()), "the report of {pool}");
        let stderr = fs::read(agent.path(&format!("data/tasks/7-{task}/attempts/1/stderr.000000"))).unwrap();
        assert!(
            stderr.windows(12).filter(|part| part == b"************").count() > 4,
            "the child printed nothing"
        );
    }
    for path in files(&agent.path("data")).into_iter().chain(files(&agent.path("run"))) {
        assert!(!leaks(&fs::read(&path).unwrap()), "{}", path.display());
    }
    let logs = logs.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(!logs.is_empty() && !leaks(&logs), "the log");
}

/// The middle of a secret as it is, in hexadecimal, and in base64 at each of the three alignments.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut found = vec![secret.as_bytes().to_vec(), hex::encode(secret).into_bytes()];
    for skipped in 0..3 {
        let whole_groups = secret.as_bytes()[skipped..].chunks_exact(3);
        let signs = whole_groups.flat_map(|group| {
            let value = group.iter().fold(0_usize, |value, byte| value << 8 | usize::from(*byte));
            [18, 12, 6, 0].map(|shift| SIGNS[value >> shift & 63])
        });
        found.push(signs.collect());
    }
    found
}

/// Runs a command of the agent with one pool.
fn agent_command(data: &Path, cli: &Path, pool: &str, words: &[&str], input: &str) -> Output {
    let mut child = Command::new(AGENT)
        .arg("--data-dir")
        .arg(data)
        .arg("--claude-bin")
        .arg(cli)
        .args(["--pool", pool])
        .args(words)
        .env("ANTHROPIC_API_KEY", "sk-of-the-operator")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn said(output: &Output) -> (bool, String) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

const SIGNING_IN: &str = r#"
[ -z "$ANTHROPIC_API_KEY" ] || [ "$1 $2" = "auth status" ] || exit 8
f="$CLAUDE_CONFIG_DIR/.credentials.json"
case "$1 $2" in
"auth login") printf '{"claudeAiOauth":{"accessToken":"canary-a","refreshToken":"canary-r","expiresAt":4102444800000}}' > "$f" ;;
"auth status")
    if grep -q canary-a "$f" 2>/dev/null; then echo '{"loggedIn":true,"authMethod":"claude.ai","subscriptionType":"max"}'
    elif [ -n "$CLAUDE_CODE_OAUTH_TOKEN" ]; then echo '{"loggedIn":true,"authMethod":"oauth_token"}'
    else echo '{"loggedIn":false,"authMethod":"none"}'; exit 1; fi ;;
"setup-token "*) echo "your token: (shown once)" ;;
*) exit 9 ;;
esac"#;

#[tokio::test]
async fn an_operator_signs_in_and_sees_the_pools() {
    let agent = Agent::new();
    let (cli, data) = (agent.cli(SIGNING_IN), agent.path("other"));
    let run = |words: &[&str]| said(&agent_command(&data, &cli, "max=login", words, ""));
    let (ok, text) = run(&["pools"]);
    assert!(!ok && text.contains("signed-out") && text.contains("orch-agent login --pool max"), "{text}");
    assert_eq!(
        run(&["login", "--pool", "max"]),
        (true, "pool max: signed in, by subscription (max)\n".to_owned())
    );
    let file = data.join("pools/max/.credentials.json");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(data.join("pools/max")).unwrap().permissions().mode() & 0o777, 0o700);
    let (ok, text) = run(&["pools", "--json"]);
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(ok, "{text}");
    assert_eq!(
        (&rows[0]["name"], &rows[0]["kind"], &rows[0]["health"]),
        (&"max".into(), &"login".into(), &"ready".into())
    );
    assert!(!text.contains("canary"), "{text}");
    let (ok, text) = run(&["login", "--pool", "min"]);
    assert!(!ok && text.contains("it has max"), "{text}");
}

#[tokio::test]
async fn nobody_signs_in_to_a_login_that_an_attempt_uses() {
    let mut agent = Agent::new();
    let file = agent.private("max/.credentials.json", &login(0));
    let dir = file.parent().unwrap().to_owned();
    agent.pool("max", Source::Login(dir.clone()), &[]);
    let pools = Pools::open(&agent.pools, &agent.path("data"), Checker::default()).unwrap();
    let lease = pools.lease(None, "marie", "adhoc/7/t0").await.unwrap();
    let config = agent.path("config");
    fs::create_dir(&config).unwrap();
    lease.place(&config).unwrap();
    let (cli, data, pool) =
        (agent.cli(SIGNING_IN), agent.path("other"), format!("max=login:{}", dir.display()));
    let (ok, text) = said(&agent_command(&data, &cli, &pool, &["login"], ""));
    assert!(!ok && text.contains("the login of pool max is used by adhoc/7/t0"), "{text}");
    let (_, text) = said(&agent_command(&data, &cli, &pool, &["pools"], ""));
    assert!(text.contains("used by adhoc/7/t0"), "{text}");
    lease.take_back(&config);
    assert!(said(&agent_command(&data, &cli, &pool, &["login"], "")).0);
}

#[test]
fn a_token_is_taken_from_whoever_was_shown_it_and_kept_private() {
    let agent = Agent::new();
    let (cli, file) = (agent.cli(SIGNING_IN), agent.path("token"));
    let pool = format!("team=token:{}", file.display());
    let (ok, text) =
        said(&agent_command(&agent.path("other"), &cli, &pool, &["login"], "sk-ant-oat01-canary\n"));
    assert!(ok && text.contains("pool team: token of a subscription"), "{text}");
    assert!(!text.contains("canary"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "sk-ant-oat01-canary");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let (ok, text) = said(&agent_command(&agent.path("other"), &cli, &pool, &["login"], "no token\n"));
    assert!(!ok && text.contains("nothing was written"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "sk-ant-oat01-canary");
    let key = format!("team=api-key:{}", file.display());
    let (ok, text) = said(&agent_command(&agent.path("other"), &cli, &key, &["login", "--pool", "team"], ""));
    assert!(!ok && text.contains("chmod 600"), "{text}");
}
