//! The real `claude` CLI, pinned, against the Messages API stand-in on loopback, through coordinator and agent: whatever it
//! does, a typed ending, the exact bill, and nothing left behind. Rows are data (`orch_tests::matrix::real`). Each test is
//! skipped with one clear line where the CLI is not installed under `target/claude-cli`; `.ci/run` installs it.

use orch_proto::v1::{self, Outcome};
use orch_standin::api::{ApiHandle, ApiStandin, Recorded};
use orch_tests::client::{Client, answer, run};
use orch_tests::files::{private_file, without_fallback};
use orch_tests::fleet::Fleet;
use orch_tests::matrix::Row;
use orch_tests::process::{at_home_in, supervisors_in};
use orch_tests::wait::until;
use std::path::PathBuf;

mod credentials;
mod endings;
mod metered;
mod orchestration;
mod prompts;
mod resume;
mod silence;
mod stops;
mod worker_files;

/// The agent that all rows run on unless they say otherwise.
const AGENT: &str = "box-1";

/// What the API counted where the CLI's own bill is too low: the answer with which it gives up is missing there.
const UNBILLED: [(&str, (u64, u64)); 1] = [("structured answers that never fit", (500, 100))];

/// A fleet of one agent that runs the real CLI, and the API it talks to.
struct Real {
    fleet: Fleet,
    api: ApiHandle,
    cli: String,
}

/// A row that was played: how it ended for a client.
struct Played {
    row: Row,
    task: v1::Task,
    requests: Vec<Recorded>,
}

/// Where `.ci/run` puts the pinned CLI.
fn real_cli() -> Option<PathBuf> {
    let named = std::env::var_os("ORCH_TEST_CLAUDE").map(PathBuf::from);
    let package = "claude-cli/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
    let found = named
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")).join(package));
    found.is_file().then_some(found)
}

impl Real {
    /// A fleet of one agent with two slots and an API key; `None`, and a line that says so, where there is no CLI.
    async fn start(test: &str) -> Option<Self> {
        let mut real = Self::without_agents(test).await?;
        real.agent(AGENT, &["--slots", "2"]);
        Some(real)
    }

    /// One agent with two slots and an API key whose workers have no other model to fall back to: what the CLI makes of the
    /// API's failures by itself. The directory holds the workers.
    async fn alone_with_its_model(test: &str, extra: &[&str]) -> Option<(Self, tempfile::TempDir)> {
        let prompts = tempfile::tempdir().expect("a directory");
        without_fallback(prompts.path());
        let dir = prompts.path().display().to_string();
        let mut real = Self::with_coordinator(test, &["--prompts", &dir]).await?;
        real.agent(AGENT, &[&["--slots", "2"], extra].concat());
        Some((real, prompts))
    }

    /// The same without an agent.
    async fn without_agents(test: &str) -> Option<Self> {
        Self::with_coordinator(test, &[]).await
    }

    /// The same without an agent and with further arguments of the coordinator.
    async fn with_coordinator(test: &str, args: &[&str]) -> Option<Self> {
        Self::with_heartbeat(test, "200ms", args).await
    }

    /// The same with another heartbeat interval: an agent may be away for ten of them.
    async fn with_heartbeat(test: &str, heartbeat: &'static str, args: &[&str]) -> Option<Self> {
        let Some(cli) = real_cli() else {
            orch_tests::skipped(test, "the real claude CLI is not installed under target/claude-cli");
            return None;
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let api = ApiStandin::start(listener).expect("the stand-in API");
        let fleet = Fleet::start_in(&std::env::temp_dir(), orch_tests::binaries!(), heartbeat, "info", args);
        private_file(&fleet.dir().join("api.key"), "sk-stand-in-not-a-key\n");
        Some(Self { fleet, api, cli: cli.display().to_string() })
    }

    /// Starts an agent with an API key.
    fn agent(&mut self, name: &str, extra: &[&str]) {
        let url = self.api.url();
        self.agent_at(name, &url, extra);
    }

    /// Starts an agent with an API key that looks for the API at `url`.
    fn agent_at(&mut self, name: &str, url: &str, extra: &[&str]) {
        let key = self.fleet.dir().join("api.key").display().to_string();
        let args = ["--claude-bin", &self.cli, "--api-base-url", url, "--api-key-file", &key];
        self.fleet.agent(name, &[&args[..], extra].concat());
    }

    /// Starts an agent without a credential.
    fn agent_without_key(&mut self, name: &str, extra: &[&str]) {
        let args = ["--claude-bin", &self.cli, "--api-base-url", &self.api.url()];
        self.fleet.agent(name, &[&args[..], extra].concat());
    }

    /// Plays every row as a run of its own, all at once, and compares ending, bill and exit code with the row. Says every
    /// difference at once. Those that park come last: nothing begins in their pool after them.
    async fn play(&self, rows: &[Row]) -> Vec<Played> {
        let mut client = self.fleet.client().await;
        let placed = |row: &Row| if row.ask.agent.is_empty() { row.on(AGENT) } else { *row };
        let (parking, ending): (Vec<Row>, Vec<Row>) = rows.iter().map(placed).partition(|row| row.parked);
        let mut runs = Vec::new();
        for row in ending {
            runs.push((row, Some(client.submit(run(vec![row.task("t")])).await.r#ref)));
        }
        runs.extend(parking.into_iter().map(|row| (row, None)));
        let mut played = Vec::new();
        let mut wrong = Vec::new();
        for (row, run_ref) in runs {
            let run_ref = match run_ref {
                Some(run_ref) => run_ref,
                None => client.submit(run(vec![row.task("t")])).await.r#ref,
            };
            let task = client.settled(&run_ref, row.parked).await;
            if let Err(difference) = row.check(&task) {
                wrong.push(difference + &attempts(&mut client, &task).await);
            }
            if !row.parked {
                wrong.extend(self.wrong_exit_code(&row, &run_ref));
            }
            let requests = self.requests_of(&task);
            wrong.extend(wrong_bill(&row, &requests));
            played.push(Played { row, task, requests });
        }
        let what = wrong.join("\n");
        assert!(wrong.is_empty(), "{} of {} rows differ:\n{what}", wrong.len(), rows.len());
        self.nothing_left();
        played
    }

    /// The exit code of `orchctl wait` against the table.
    fn wrong_exit_code(&self, row: &Row, run_ref: &str) -> Option<String> {
        let ended = self.fleet.orchctl(&["wait", run_ref]).output().expect("orchctl runs");
        let expected = row.outcome.row().map_or(1, |known| i32::from(known.exit_code));
        let code = ended.status.code();
        (code != Some(expected))
            .then(|| format!("{}: exit code {code:?} instead of {expected}", row.scenario))
    }

    /// The requests of a task's conversation, in order.
    fn requests_of(&self, task: &v1::Task) -> Vec<Recorded> {
        let mine = |request: &Recorded| request.session_id.as_deref() == Some(task.session_id.as_str());
        self.api.requests().into_iter().filter(mine).collect()
    }

    /// Waits until nothing of any attempt is left: no CLI, none of its tools' processes, no supervisor.
    fn nothing_left(&self) {
        let dir = self.fleet.dir().join("agents");
        until("every process of every attempt to be gone", || {
            (at_home_in(&dir).is_empty() && supervisors_in(&dir).is_empty()).then_some(())
        });
    }
}

/// One line for each attempt of a task, with how it ended.
async fn attempts(client: &mut Client, task: &v1::Task) -> String {
    let request = v1::GetTaskRequest { r#ref: task.r#ref.clone() };
    let whole = client.runs.get_task(request).await.expect("the task").into_inner().task.expect("the task");
    let line = |attempt: &v1::Attempt| {
        format!("\n  attempt {}: {}: {}", attempt.number, attempt.outcome().as_str_name(), attempt.detail)
    };
    whole.attempts.iter().map(line).collect()
}

/// What the API counted against what the row says was billed. Where a budget ends it, an answer may be on its way.
fn wrong_bill(row: &Row, requests: &[Recorded]) -> Option<String> {
    let expected = UNBILLED.iter().find(|(scenario, _)| *scenario == row.scenario).map(|(_, tokens)| *tokens);
    let expected = expected.or(row.tokens).filter(|_| row.outcome != Outcome::Budget)?;
    let counted = requests
        .iter()
        .fold((0, 0), |sum, request| (sum.0 + request.usage.input, sum.1 + request.usage.output));
    (counted != expected).then(|| format!("{}: the API counted {counted:?} tokens", row.scenario))
}

/// The played row of this name.
fn of<'a>(played: &'a [Played], scenario: &str) -> &'a Played {
    played.iter().find(|one| one.row.scenario == scenario).expect("the row was played")
}

impl Played {
    fn answer(&self) -> &str {
        answer(&self.task)
    }

    fn run_ref(&self) -> &str {
        self.task.r#ref.rsplit_once('/').map_or("", |(run, _)| run)
    }
}

/// Everything the CLI printed in an attempt.
async fn transcript(client: &Client, task_ref: &str, attempt: u32) -> String {
    let mut transcripts = v1::transcript_service_client::TranscriptServiceClient::new(client.channel.clone());
    let request = v1::ReadTranscriptRequest { r#ref: task_ref.into(), attempt, offset: 0, follow: true };
    let mut stream = transcripts.read_transcript(request).await.expect("a transcript").into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = stream.message().await.expect("a piece") {
        bytes.extend_from_slice(&piece.data);
    }
    String::from_utf8(bytes).expect("a transcript is UTF-8")
}

#[test]
fn every_row_has_a_name_of_its_own_and_a_test_that_plays_it() {
    use orch_tests::matrix::real::{LARGE, RESUMED, ROWS, STOPS};
    let names: std::collections::BTreeSet<_> = ROWS.iter().map(|row| row.scenario).collect();
    assert_eq!(names.len(), ROWS.len(), "two rows have the same name");
    // The other groups are played as they are.
    let tests = concat!(
        include_str!("real_cli/prompts.rs"),
        include_str!("real_cli/resume.rs"),
        include_str!("real_cli/stops.rs")
    );
    for row in [LARGE, RESUMED, STOPS].concat() {
        assert!(tests.contains(&format!("\"{}\"", row.scenario)), "nothing plays {:?}", row.scenario);
    }
}
