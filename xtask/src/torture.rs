//! The long budget: every suite that looks for what is lost, within the minutes there are.
//!
//! Knows how suites are run and when one has had its time. Refuses to know what they test: each says that itself, in lines that
//! begin with `torture:`.

mod plan;
mod report;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use self::plan::{Job, plan};
use self::report::{Row, Verdict, table};

/// What a suite may go on for after its time before it is killed.
const KILL_AFTER: &str = "--kill-after=20";
/// What `timeout` ends with when the time was over.
const OUT_OF_TIME: [i32; 2] = [124, 137];

/// Runs everything within `minutes`, prints the table, and writes it to `write` if there is one.
pub(crate) fn run(root: &Path, minutes: u64, only: &[String], write: Option<&Path>) -> anyhow::Result<()> {
    let logs = root.join("target/torture");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let began = Instant::now();
    let time = Duration::from_secs(minutes.max(1) * 60);
    build(root)?;
    // What building took is gone; a run that only built has shown nothing.
    let left = time.saturating_sub(began.elapsed()).max(Duration::from_secs(60));
    let jobs = plan(left, |job| only.is_empty() || only.iter().any(|word| job.contains(word.as_str())));
    if jobs.is_empty() {
        bail!("no suite is named like {only:?}; there are {:?}", plan::names());
    }
    let end = began + time.max(left);
    let mut rows = Vec::new();
    for job in &jobs {
        crate::say(&format!("{} ({} s): {}", job.name, job.share.as_secs(), job.shown()));
        let row = carry_out(root, &logs, job, end.saturating_duration_since(Instant::now()))?;
        crate::say(&row.line());
        rows.push(row);
    }
    let text = table(&rows, began.elapsed());
    crate::say(&text);
    if let Some(path) = write {
        std::fs::write(path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failed = rows.iter().filter(|row| row.verdict.is_bad()).count();
    if failed > 0 {
        bail!("{failed} of {} suites failed; their output lies in {}", rows.len(), logs.display());
    }
    Ok(())
}

fn build(root: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("cargo");
    command.args(["test", "--locked", "--quiet", "--package", "orch-tests", "--no-run"]).current_dir(root);
    let status = command.stdin(Stdio::null()).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the suites do not build");
    }
    Ok(())
}

/// Runs a suite for at most `left`, with its output in a file.
fn carry_out(root: &Path, logs: &Path, job: &Job, left: Duration) -> anyhow::Result<Row> {
    let row = |verdict, took, figures| Row { name: job.name, budget: job.shown(), took, verdict, figures };
    if left < Duration::from_secs(5) {
        return Ok(row(Verdict::NoTime, Duration::ZERO, Vec::new()));
    }
    if let Some(why) = job.cannot_run(root) {
        return Ok(row(Verdict::Skipped(why), Duration::ZERO, Vec::new()));
    }
    let path = logs.join(format!("{}.log", job.name));
    let log = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut command = Command::new("timeout");
    command.args([KILL_AFTER, &left.min(job.limit()).as_secs().to_string()]).args(&job.command);
    command.envs(job.variables.iter().map(|(name, value)| (*name, value.to_string()))).current_dir(root);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let began = Instant::now();
    let status = command.status().context("cannot run `timeout`")?;
    let verdict = match status.code() {
        Some(0) => Verdict::Passed,
        Some(code) if OUT_OF_TIME.contains(&code) => Verdict::OutOfTime,
        Some(code) => Verdict::Failed(code),
        None => Verdict::OutOfTime,
    };
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    Ok(row(verdict, began.elapsed(), report::figures(&text)))
}
