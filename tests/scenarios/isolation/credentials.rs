//! Two workers with two credentials on one agent: neither child reads the other's, and no credential shows anywhere but
//! where the operator put it.

use super::{bash, confined, conversation};
use orch_proto::v1::{self, Outcome};
use orch_tests::client::{Client, answer, run, worker};
use orch_tests::fleet::Fleet;
use orch_tests::gate::{self, Gate};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The credential of worker marie, an API key. As long as base64 leaves on one line.
const KEY: &str = "sk-ant-canary-Mk7qLx2vRz9TnW4bYc8JdF6hGs3P";
/// The credential of worker anga, a token.
const TOKEN: &str = "sk-ant-canary-Aw5eUi1oXm8CvB2nQy7KtZ4rDj6L";
/// The first login of worker fabien, and the one the CLI replaces it with.
const LOGIN: &str = "sk-ant-canary-Fp3sHg9dLk1TzN6xVb4RmQ8cWy2E";
const FRESH: &str = "sk-ant-canary-Rj8sHg9dLk1TzN6xVb4RmQ8cWy2E";

/// Spellings of a secret that must not be found.
fn spellings(secret: &str) -> Vec<Vec<u8>> {
    let hex = |upper: bool| -> String {
        secret.bytes().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect()
    };
    vec![
        secret.as_bytes().to_vec(),
        base64(secret.as_bytes()).into_bytes(),
        hex(false).into_bytes(),
        hex(true).into_bytes(),
    ]
}

/// Base64 without its last, incomplete group: what stands before or after a secret does not change the rest.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let groups = bytes.chunks_exact(3).flat_map(|group| {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(LETTERS[bits >> shift & 63]))
    });
    groups.collect()
}

/// The files of the operator that hold the credentials.
struct Kept {
    dir: PathBuf,
}

impl Kept {
    fn new(fleet: &Path) -> Self {
        let dir = fleet.join("credentials");
        std::fs::DirBuilder::new().mode(0o700).create(&dir).expect("a directory");
        std::fs::DirBuilder::new().mode(0o700).create(dir.join("fabien")).expect("a directory");
        let kept = Self { dir };
        kept.write("marie.key", KEY);
        kept.write("anga.token", TOKEN);
        kept.write("fabien/.credentials.json", &login(LOGIN, 4_000_000_000_000));
        std::fs::create_dir_all(dir_of_workers(&kept.dir)).expect("a directory");
        for name in ["marie", "anga", "fabien"] {
            // As the built-in ones, but all with a shell.
            let worker = format!(
                "---\nname: {name}\ndescription: \"Has a shell.\"\nmodel: sonnet\ntools: [Bash]\npermission_mode: acceptEdits\n---\n\nDo it.\n"
            );
            kept.write(&format!("prompts/workers/{name}.md"), &worker);
        }
        kept
    }

    fn write(&self, name: &str, content: &str) {
        let mut options = std::fs::File::options();
        let mut file =
            options.write(true).create_new(true).mode(0o600).open(self.dir.join(name)).expect("a file");
        file.write_all(content.as_bytes()).expect("written");
    }

    fn flags(&self) -> Vec<String> {
        let dir = self.dir.display();
        vec![
            "--pool".into(),
            format!("keys=api-key:{dir}/marie.key"),
            "--pool".into(),
            format!("tokens=token:{dir}/anga.token"),
            "--pool".into(),
            format!("logins=login:{dir}/fabien"),
            "--pool-workers".into(),
            "keys=marie".into(),
            "--pool-workers".into(),
            "tokens=anga".into(),
            "--pool-workers".into(),
            "logins=fabien".into(),
        ]
    }
}

fn dir_of_workers(dir: &Path) -> PathBuf {
    dir.join("prompts/workers")
}

/// A login as the CLI writes it.
fn login(token: &str, expires_at: u64) -> String {
    let oauth = serde_json::json!({"accessToken": token, "refreshToken": format!("{token}-r"), "expiresAt": expires_at,
        "scopes": ["user:inference"], "subscriptionType": "max"});
    serde_json::json!({ "claudeAiOauth": oauth }).to_string()
}

/// What each task does with the secret that the shell finds with `secret`: says it in every spelling and on every
/// channel. Its own credential it may know; nobody else may learn it.
fn blab(secret: &str) -> String {
    format!(
        "S=$({secret}); echo $S; echo $S >&2; printf %s $S | base64; printf %s $S | base64 -w0; \
         printf %s $S | od -An -tx1 | tr -d ' \\n'; printf %s $S | od -An -tx1 | tr -d ' \\n' | tr a-f A-F"
    )
}

/// How a shell finds every credential it can see: in variables and files, of its own and of others. Prints digests,
/// which betray nothing.
fn search(kept: &Kept, fleet: &Fleet) -> String {
    format!(
        "{{ cat /proc/[0-9]*/environ $HOME/.claude/.credentials.json 2>/dev/null; \
         cat {}/*.key {}/*.token {}/*/.cred* 2>/dev/null; grep -rashE 'sk-ant-[c]anary' {} 2>/dev/null; }} \
         | grep -aoE 'sk-ant-[c]anary-[A-Za-z0-9]{{28}}' | sort -u | while read s; do printf %s $s | sha256sum; done > found",
        kept.dir.display(),
        kept.dir.display(),
        kept.dir.display(),
        fleet.agent_dir("box-1").display()
    )
}

/// Digest as `sha256sum` prints it.
fn digest(secret: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(secret.as_bytes());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How a shell finds the login of its own pool.
const OWN_LOGIN: &str =
    "grep -oE 'sk-ant-[c]anary-[A-Za-z0-9]{28}' $HOME/.claude/.credentials.json | head -1";

/// How a shell replaces it, as the CLI does when a login is about to expire. The new one is made from the old, so that
/// no prompt holds it.
const REFRESH: &str = "cd $HOME/.claude && sed 's/canary-Fp3/canary-Rj8/g; s/4000000000000/4100000000000/' .credentials.json > new \
                       && chmod 600 new && mv new .credentials.json";

/// A fleet of one agent with three pools for three workers.
struct Pooled {
    fleet: Fleet,
    client: Client,
    kept: Kept,
    _outside: tempfile::TempDir,
}

async fn pooled(test: &str) -> Option<Pooled> {
    let outside =
        tempfile::Builder::new().prefix("orch-keys-").tempdir_in(super::place()).expect("a directory");
    let kept = Kept::new(outside.path());
    let flags = kept.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let prompts = kept.dir.join("prompts").display().to_string();
    let (fleet, client) = confined(test, &["--prompts", &prompts], &flags).await?;
    Some(Pooled { fleet, client, kept, _outside: outside })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_with_pools_of_their_own_see_one_credential_each_and_nobody_else_sees_any() {
    let test = "workers_with_pools_of_their_own_see_one_credential_each_and_nobody_else_sees_any";
    let Some(mut pooled) = pooled(test).await else { return };
    let gate = Gate::closed();
    let (search, wait) = (search(&pooled.kept, &pooled.fleet), gate.wait());
    let task = |secret: &str| {
        // Twice: what the tool prints passes through its own events, and through the answer, cut.
        format!("{}{}", bash(&format!("{wait}; {search}; {}", blab(secret))), bash(&blab(secret)))
    };
    let submitted = pooled
        .client
        .submit(run(vec![
            worker("marie", "marie", &task("printf %s $ANTHROPIC_API_KEY")),
            worker("anga", "anga", &task("printf %s $CLAUDE_CODE_OAUTH_TOKEN")),
            worker("fabien", "fabien", &format!("{}{}", task(OWN_LOGIN), bash(REFRESH))),
        ]))
        .await;
    // All three live at the same time, so each has every chance to see the others'.
    gate::open(gate.gather(3).await);
    let tasks = ended_well(&mut pooled.client, &submitted.r#ref).await;
    for (at, (task, secret)) in tasks.iter().zip([KEY, TOKEN, LOGIN]).enumerate() {
        let found = conversation(&pooled.fleet, submitted.run_id, at).join("work/found");
        let found = std::fs::read_to_string(found).expect("what was found");
        let found: Vec<&str> = found.lines().filter_map(|line| line.split(' ').next()).collect();
        // The gateway keeps the key of an API; who works with it sees none at all.
        let own = if secret == KEY { Vec::new() } else { vec![digest(secret)] };
        assert_eq!(found, own, "{} sees its own credential and no other", task.r#ref);
        assert!(answer(task).starts_with("done: "), "{task:?}");
    }
    let taken_back =
        std::fs::read_to_string(pooled.kept.dir.join("fabien/.credentials.json")).expect("the login");
    assert!(taken_back.contains(FRESH), "the refreshed login is kept");
    nowhere_to_be_found(&mut pooled, &submitted.r#ref, &tasks).await;
}

/// A login that the CLI renews in the middle of an attempt is a secret from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_is_renewed_while_an_attempt_runs_is_not_told_either() {
    let test = "a_login_that_is_renewed_while_an_attempt_runs_is_not_told_either";
    let Some(mut pooled) = pooled(test).await else { return };
    let text = format!("{}{}", bash(REFRESH), bash(&blab(OWN_LOGIN)));
    let submitted = pooled.client.submit(run(vec![worker("fabien", "fabien", &text)])).await;
    let tasks = ended_well(&mut pooled.client, &submitted.r#ref).await;
    assert!(answer(&tasks[0]).starts_with("done: "), "{tasks:?}");
    nowhere_to_be_found(&mut pooled, &submitted.r#ref, &tasks).await;
}

async fn ended_well(client: &mut Client, run_ref: &str) -> Vec<v1::Task> {
    client.finished(run_ref).await;
    let tasks = client.tasks(run_ref).await;
    for task in &tasks {
        assert_eq!((task.outcome(), task.attempt), (Outcome::Ok, 1), "{task:?}");
    }
    tasks
}

/// Looks for every spelling of every secret in all that the fleet ever wrote or says.
async fn nowhere_to_be_found(pooled: &mut Pooled, run_ref: &str, tasks: &[v1::Task]) {
    let Pooled { fleet, client, .. } = pooled;
    let spellings: Vec<Vec<u8>> = [KEY, TOKEN, LOGIN, FRESH].into_iter().flat_map(spellings).collect();
    let mut found = Vec::new();
    let mut look = |what: &str, bytes: &[u8]| {
        found.extend(
            spellings
                .iter()
                .filter(|spelling| contains(bytes, spelling))
                .map(|spelling| format!("{what} holds {}", String::from_utf8_lossy(spelling))),
        );
    };
    let mut files = Vec::new();
    walk(fleet.dir(), &mut files);
    assert!(files.len() > 20, "{files:?}");
    for file in &files {
        // Sockets and files that are gone by now hold nothing.
        let Ok(bytes) = std::fs::read(file) else { continue };
        look(&file.display().to_string(), &bytes);
    }
    look("the answers", format!("{tasks:?}").as_bytes());
    look("the run", format!("{:?}", client.run(run_ref).await).as_bytes());
    let agents = client.admin.list_agents(v1::ListAgentsRequest::default()).await.expect("agents");
    look("the list of agents", format!("{agents:?}").as_bytes());
    look("the metrics", &metrics(&fleet.ports().probe));
    for task in tasks {
        let mut command = fleet.orchctl(&["logs", &task.r#ref]);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("joined")
            .expect("orchctl ran");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        look("orchctl logs", &output.stdout);
        look("orchctl's stderr", &output.stderr);
    }
    // Command lines of what still runs: none holds a secret.
    for pid in [fleet.agent_process("box-1").id(), fleet.coordinator().id()] {
        look("a command line", &std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default());
    }
    assert!(found.is_empty(), "{found:#?}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    let Some(&first) = part.first() else { return false };
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == first);
    starts.into_iter().any(|(at, _)| bytes[at..].starts_with(part))
}

/// All files below `dir`. Links are not followed.
fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
}

/// What the coordinator shows at `/metrics`.
fn metrics(probe: &str) -> Vec<u8> {
    let mut stream = std::net::TcpStream::connect(probe).expect("connected");
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("read");
    assert!(contains(&answer, b"orch_tasks"), "no metrics");
    answer
}

#[test]
fn spellings_are_those_of_the_tools() {
    assert_eq!(base64(b"abcdef"), "YWJjZGVm");
    assert_eq!(spellings("ab")[2], b"6162");
    assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}
