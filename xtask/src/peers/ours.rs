//! This system: `orchctl bench` against a coordinator and an agent that `orchctl dev` started, and what needs no bench: memory of
//! a full queue, and the start of `orchctl status`.
//!
//! Knows orchctl's command line. Refuses to know how its figures are made.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Signal;
use tempfile::TempDir;

use super::session::{Bench, CLIENT_LIMIT, Take};
use super::subject::{Counts, Row};
use crate::measure::machine::memory_mb;
use crate::measure::orchctl::{connection, plain, read};
use crate::measure::process::{Daemon, output};
use crate::measure::results::Sample;

/// Two workers' worth, as every peer has.
const SLOTS: &str = "2";
/// Until coordinator and agent are connected.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// What makes a queued task distinct and about as large as those of the peers.
const BODY_BYTES: usize = 200;

/// Every scenario once, each fleet in an empty directory; memory in the first round only, as of the peers.
pub(super) fn measure(bench: &Bench<'_>, first_round: bool, take: &mut Take<'_>) -> anyhow::Result<()> {
    match Fleet::start(bench, "1") {
        Ok(fleet) => {
            for (scenario, flags) in scenarios(&bench.counts) {
                take(scenario, fleet.scenario(scenario, &flags));
                bench.interrupt.check()?;
            }
            take("status", fleet.status(bench.counts.starts));
        }
        Err(error) => take("start", Err(error)),
    }
    bench.interrupt.check()?;
    take(Row::Submit.name(), submits(bench));
    bench.interrupt.check()?;
    if first_round {
        take(Row::Memory.name(), memory(bench));
    }
    bench.interrupt.check()
}

/// Scenarios of `orchctl bench` with their sizes, in the order in which they are measured: those that leave many agents or
/// watchers behind come last.
fn scenarios(counts: &Counts) -> Vec<(&'static str, Vec<String>)> {
    let flag = |name: &str, value: u32| vec![name.to_owned(), value.to_string()];
    vec![
        ("noop", flag("--tasks", counts.noop)),
        ("spawn", flag("--tasks", counts.spawn)),
        ("latency", flag("--tasks", counts.latency)),
        ("watch", [flag("--watchers", counts.watchers), flag("--tasks", counts.watched)].concat()),
        (
            "agents",
            [flag("--agents", counts.agents), vec!["--hold".to_owned(), format!("{}s", counts.hold)]]
                .concat(),
        ),
    ]
}

/// Single submits to a coordinator without agents, as the peers are without workers meanwhile.
fn submits(bench: &Bench<'_>) -> anyhow::Result<Sample> {
    let fleet = Fleet::start(bench, "0")?;
    bench.settle();
    let flags = ["--tasks".to_owned(), bench.counts.submit.to_string(), "--clients".into(), "64".into()];
    fleet.scenario(Row::Submit.name(), &flags)
}

/// A coordinator without agents, filled.
fn memory(bench: &Bench<'_>) -> anyhow::Result<Sample> {
    let fleet = Fleet::start(bench, "0")?;
    bench.settle();
    let idle_mb = memory_mb(fleet.coordinator);
    let file = fleet.dir.path().join("run.json");
    write_run(&file, bench.counts.queued).with_context(|| format!("cannot write {}", file.display()))?;
    let start = Instant::now();
    let mut submit = fleet.orchctl();
    submit.args(["submit", "-o", "json", "--file"]).arg(&file);
    output(submit, &bench.log("ours-client"), CLIENT_LIMIT, bench.interrupt)?;
    let submit_s = start.elapsed().as_secs_f64();
    bench.settle();
    let full_mb = memory_mb(fleet.coordinator);
    let found = [
        ("queued", f64::from(bench.counts.queued)),
        ("idle_mb", idle_mb),
        ("full_mb", full_mb),
        ("above_idle_mb", full_mb - idle_mb),
        ("submit_s", submit_s),
    ];
    let command = format!("orchctl submit --file run.json, of {} tasks", bench.counts.queued);
    Ok(Sample::of(found, command))
}

/// One run of `count` commands, each with an argument of its own.
fn write_run(path: &Path, count: u32) -> std::io::Result<()> {
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    file.write_all(b"{\"name\": \"queued\", \"tasks\": [")?;
    for number in 0..count {
        let comma = if number == 0 { "" } else { "," };
        let body = format!("{number:.<BODY_BYTES$}");
        write!(
            file,
            "{comma}\n{{\"task_id\": \"n{number}\", \"runner\": \"command\", \"program\": \"true\", \"args\": [\"{body}\"]}}"
        )?;
    }
    file.write_all(b"\n]}\n")?;
    file.flush()
}

/// A coordinator with agents. What is declared first ends first.
struct Fleet<'a> {
    _daemons: Daemon,
    coordinator: u32,
    connection: Vec<OsString>,
    bench: &'a Bench<'a>,
    dir: TempDir,
}

impl<'a> Fleet<'a> {
    fn start(bench: &'a Bench<'a>, agents: &str) -> anyhow::Result<Self> {
        let dir = bench.fresh()?;
        let ready = dir.path().join("ready.json");
        let mut command = plain(&bench.orchctl);
        command.args(["dev", "--no-input", "--agents", agents, "--slots", SLOTS, "--allow-command", "true"]);
        command.args(["--listen", "127.0.0.1:0", "--probe", "127.0.0.1:0", "--data-dir"]);
        command.arg(dir.path().join("data")).arg("--ready-file").arg(&ready).current_dir(dir.path());
        let mut daemons = Daemon::start(command, &bench.log("ours-server"), Signal::TERM)?;
        let mut notice = None;
        bench.interrupt.wait("orchctl dev is ready", READY_LIMIT, || {
            daemons.check()?;
            notice = read(&ready);
            Ok(notice.is_some())
        })?;
        let notice = notice.context("the ready file is gone")?;
        let pid = notice["pids"]["coordinator"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let coordinator = pid.context("the ready file names no coordinator")?;
        let context = notice["context"].as_str().and_then(|path| read(Path::new(path)));
        let connection = connection(&context.context("there is no context file")?);
        Ok(Self { _daemons: daemons, coordinator, connection, bench, dir })
    }

    fn orchctl(&self) -> Command {
        let mut command = plain(&self.bench.orchctl);
        command.args(&self.connection).current_dir(self.dir.path());
        command
    }

    fn scenario(&self, scenario: &str, flags: &[String]) -> anyhow::Result<Sample> {
        let mut command = self.orchctl();
        command.args(["bench", "--scenario", scenario, "-o", "json"]).args(flags);
        let shown = format!("orchctl bench --scenario {scenario} {}", flags.join(" "));
        let printed = output(command, &self.bench.log("ours-client"), CLIENT_LIMIT, self.bench.interrupt)?;
        Sample::read(&printed, shown.trim_end())
    }

    /// Times of whole processes, from their start to their end.
    fn status(&self, starts: u32) -> anyhow::Result<Sample> {
        let mut took = Vec::new();
        for _ in 0..starts.max(1) {
            let mut command = self.orchctl();
            command.arg("status").stdin(std::process::Stdio::null());
            let start = Instant::now();
            let ended = command.output().context("cannot run orchctl")?;
            took.push(start.elapsed());
            anyhow::ensure!(ended.status.success(), "orchctl status ended with {}", ended.status);
        }
        took.sort_unstable();
        let p50 = took.get((took.len() - 1) / 2).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Ok(Sample::of([("p50_ms", p50)], format!("orchctl status, {starts} times")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_holds_distinct_tasks_of_one_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run.json");
        write_run(&path, 3).unwrap();
        let run = read(&path).unwrap();
        let bodies: Vec<_> = (0..3).map(|task| run["tasks"][task]["args"][0].as_str().unwrap()).collect();
        assert!(bodies.iter().all(|body| body.len() == BODY_BYTES) && bodies[1] != bodies[2]);
        assert_eq!(run["tasks"].as_array().unwrap().len(), 3);
    }
}
