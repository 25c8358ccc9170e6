//! What orch adds to a run of the real Claude CLI: the same arguments, variables and words once alone and once through
//! coordinator and agent, in turns, against the stand-in of the Messages API on loopback. Nothing else is ever asked.
//!
//! Knows how the CLI was started by an agent, because a wrapper wrote it down. Refuses to know what the arguments mean.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::Signal;

use super::stage::{Agent, Coordinator, Stage};
use crate::measure::orchctl::recorded_after;
use crate::measure::process::Daemon;
use crate::measure::results::Sample;

/// Where tests/conformance puts the pinned CLI.
const CLI: &str = "target/claude-cli/node_modules/@anthropic-ai/claude-code-linux-x64/claude";
/// What a worker is asked.
const PROMPT: &str = "Say hello.";
/// What stands for a credential; the stand-in takes anything.
const KEY: &str = "sk-stand-in-not-a-key";
/// Runs of each kind.
const RUNS: u32 = 9;
/// Longest run of the CLI alone.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// How often it is looked at: a thousandth of what it takes.
const LOOK: Duration = Duration::from_micros(500);
/// Variables that name directories of a run.
const PLACES: [&str; 4] = ["HOME", "CLAUDE_CONFIG_DIR", "CLAUDE_CODE_TMPDIR", "TMPDIR"];

pub(super) fn measure(stage: &Stage<'_>) -> anyhow::Result<Sample> {
    let cli = stage.root.join(CLI);
    ensure!(cli.is_file(), "there is no {}; tests/conformance puts it there", cli.display());
    let coordinator = Coordinator::start(stage)?;
    let api = Api::start(stage, &coordinator)?;
    let worker = worker(&coordinator)?;
    let wrapper = wrapper(coordinator.dir(), &cli)?;
    {
        let _agent = agent(&coordinator, &api, &wrapper, &["--sandbox=off"])?;
        through(&coordinator, &worker)?;
    }
    let start = Recorded::read(coordinator.dir())?;
    let _agent = agent(&coordinator, &api, &cli, &[])?;
    // Both once in vain: from then on the CLI lies in memory.
    through(&coordinator, &worker)?;
    start.alone(&cli, &api.url, coordinator.dir())?;
    let (mut alone, mut recorded, mut at_client) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..stage.count(RUNS, 1) {
        alone.push(start.alone(&cli, &api.url, coordinator.dir())?);
        let (took, whole) = through(&coordinator, &worker)?;
        recorded.push(took);
        at_client.push(whole);
        stage.interrupt.check()?;
    }
    let (alone, through, at_client) = (middle(alone), middle(recorded), middle(at_client));
    let figures = [
        ("alone_s", alone),
        ("through_s", through),
        ("at_client_s", at_client),
        ("overhead_ms", (through - alone) * 1e3),
        ("overhead_percent", (through / alone - 1.0) * 100.0),
    ];
    Ok(Sample::of(figures, "cargo xtask scale --only claude"))
}

fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The stand-in of the Messages API.
struct Api {
    _daemon: Daemon,
    url: String,
}

impl Api {
    fn start(stage: &Stage<'_>, coordinator: &Coordinator<'_>) -> anyhow::Result<Self> {
        let built =
            ["target/release/standin-api", "target/debug/standin-api"].map(|path| stage.root.join(path));
        let Some(program) = built.iter().find(|path| path.is_file()) else {
            bail!("there is no standin-api; cargo build -p orch-standin --bin standin-api builds it");
        };
        let said = coordinator.dir().join("api.log");
        let daemon = Daemon::start(Command::new(program), &said, Signal::TERM)?;
        let mut url = None;
        stage.interrupt.wait("the stand-in of the API listens", RUN_LIMIT, || {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            url =
                text.split_whitespace().find(|word| word.starts_with("http://127.0.0.1:")).map(str::to_owned);
            Ok(url.is_some())
        })?;
        Ok(Self { _daemon: daemon, url: url.context("the stand-in said no address")? })
    }
}

/// The first worker that is no planner.
fn worker(coordinator: &Coordinator<'_>) -> anyhow::Result<String> {
    let workers = coordinator.value(&["workers"])?;
    let names = workers.as_array().into_iter().flatten().filter_map(|worker| worker["name"].as_str());
    names.into_iter().find(|name| *name != "orchestrator").map(str::to_owned).context("there is no worker")
}

/// An agent with an API key whose CLI is `cli`.
fn agent(coordinator: &Coordinator<'_>, api: &Api, cli: &Path, more: &[&str]) -> anyhow::Result<Agent> {
    let key = coordinator.dir().join("api.key");
    std::fs::write(&key, KEY)?;
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
    let mut flags: Vec<OsString> = more.iter().map(OsString::from).collect();
    for (flag, value) in [
        ("--claude-bin", cli.as_os_str()),
        ("--api-base-url", api.url.as_ref()),
        ("--api-key-file", key.as_os_str()),
    ] {
        flags.extend([flag.into(), value.to_owned()]);
    }
    Agent::start(coordinator, 1, &[], &flags)
}

/// A run of one task: from its submit to its recorded end by the coordinator's clock, and the whole of orchctl; in seconds.
fn through(coordinator: &Coordinator<'_>, worker: &str) -> anyhow::Result<(f64, f64)> {
    let mut command = coordinator.orchctl();
    command.args(["run", "--worker", worker, "--progress", "none", "-o", "json", PROMPT]);
    command.stdin(Stdio::null());
    let start = Instant::now();
    let ended = command.output().context("cannot run orchctl")?;
    let whole = start.elapsed().as_secs_f64();
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "orchctl run ended with {}: {}", ended.status, said.trim());
    let run = coordinator.value(&["status", "@last"])?;
    Ok((recorded_after(&run).context("the run tells no times")?, whole))
}

/// A program that starts the CLI and writes down how it was itself started.
fn wrapper(dir: &Path, cli: &Path) -> anyhow::Result<PathBuf> {
    let path = dir.join("wrapper");
    let (dir, cli) = (dir.display(), cli.display());
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = -p ]; then printf '%s\\0' \"$@\" > '{dir}/argv'; env -0 > '{dir}/env'; fi\nexec '{cli}' \"$@\"\n"
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// How an agent started the CLI.
struct Recorded {
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    system_prompt: Option<String>,
}

impl Recorded {
    fn read(dir: &Path) -> anyhow::Result<Self> {
        let words = |name: &str| -> anyhow::Result<Vec<String>> {
            let path = dir.join(name);
            let text = std::fs::read_to_string(&path).with_context(|| {
                format!("the agent did not start the CLI: there is no {}", path.display())
            })?;
            Ok(text.split_terminator('\0').map(str::to_owned).collect())
        };
        let arguments = words("argv")?;
        let pairs = words("env")?;
        let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let mut after = arguments.iter().skip_while(|argument| *argument != "--system-prompt-file").skip(1);
        let system_prompt = after.next().map(std::fs::read_to_string).transpose()?;
        Ok(Self { arguments, variables, system_prompt })
    }

    /// Runs the CLI like that in directories of its own, and gives the seconds it took.
    fn alone(&self, cli: &Path, api: &str, dir: &Path) -> anyhow::Result<f64> {
        let place = tempfile::tempdir_in(dir)?;
        let mut command = Command::new(cli);
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("ANTHROPIC_BASE_URL", api).env("ANTHROPIC_API_KEY", KEY);
        for name in PLACES {
            let path = place.path().join(name);
            std::fs::create_dir(&path)?;
            command.env(name, path);
        }
        let mut before = "";
        for argument in &self.arguments {
            match before {
                "--session-id" => {
                    let id = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
                    command.arg(id.trim())
                }
                "--add-dir" => command.arg(place.path()),
                "--system-prompt-file" => {
                    let path = place.path().join("system-prompt.md");
                    std::fs::write(&path, self.system_prompt.as_deref().unwrap_or_default())?;
                    command.arg(path)
                }
                _ => command.arg(argument),
            };
            before = argument;
        }
        let content = serde_json::json!([{"type": "text", "text": format!("\n{PROMPT}")}]);
        let line = serde_json::json!({"type": "user", "message": {"role": "user", "content": content}});
        let told = place.path().join("told");
        // The CLI takes no regular file for its lines.
        command.current_dir(place.path()).stdin(Stdio::piped());
        command.stdout(File::create(&told)?).stderr(File::create(place.path().join("errors"))?);
        let took = ended(command, &format!("{line}\n"))?;
        let told = std::fs::read_to_string(&told)?;
        let result = told.lines().rev().find(|line| line.contains("\"type\":\"result\"")).unwrap_or_default();
        if !result.contains("\"is_error\":false") {
            let errors = std::fs::read_to_string(place.path().join("errors")).unwrap_or_default();
            bail!("the CLI alone ended otherwise than well: {result} {}", errors.trim());
        }
        Ok(took)
    }
}

/// Says a line to it and runs it to its end, within the limit.
fn ended(mut command: Command, line: &str) -> anyhow::Result<f64> {
    let start = Instant::now();
    let mut child = command.spawn().context("cannot run the CLI")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(line.as_bytes())?;
    }
    while child.try_wait()?.is_none() {
        if start.elapsed() > RUN_LIMIT {
            child.kill()?;
            child.wait()?;
            bail!("the CLI alone took more than {} s", RUN_LIMIT.as_secs());
        }
        std::thread::sleep(LOOK);
    }
    Ok(start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrapper_writes_down_how_it_was_started() {
        let dir = tempfile::tempdir().unwrap();
        let wrapper = wrapper(dir.path(), Path::new("/bin/true")).unwrap();
        let status = Command::new(wrapper).args(["-p", "--model", "a b"]).env("ONE", "1 2").status().unwrap();
        assert!(status.success());
        let recorded = Recorded::read(dir.path()).unwrap();
        assert_eq!(recorded.arguments, ["-p", "--model", "a b"]);
        assert!(recorded.variables.contains(&("ONE".to_owned(), "1 2".to_owned())));
    }
}
