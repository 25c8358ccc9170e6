//! `doctor`: numbered checks from this terminal to the last agent, each with the line that mends it. Works without a
//! coordinator and without any configuration: what cannot be looked at is skipped.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orch_proto::v1::{RunState, TaskState};

use crate::args::Format;
use crate::client::{Client, TaskQuery};
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::plural;
use crate::output::rows::fold;
use crate::output::safe::one_line;
use crate::output::view::operate::{CheckState, CheckView, DoctorView};
use crate::output::words::{BAD, DIM, GOOD, WARN};
use crate::session::Session;
use fleet::{Asked, Fleet};

mod fleet;
mod local;

/// Longest sentence told.
const TOLD: usize = 400;
/// Columns in front of what a check found.
const HANG: usize = 27;
/// What it found gets at least so many.
const LEAST: usize = 24;
/// Queued tasks asked about.
const SAMPLE: usize = 20;
/// Active runs looked through for queued tasks.
const RUNS: usize = 100;

/// `orchctl doctor`.
pub(crate) async fn run(session: &Session) -> Outcome {
    let out = &session.out;
    let local = local::look(session);
    let mut checks = local.checks();
    match local.reach(session).await {
        Ok((network, client)) => {
            let asked = ask(&client).await;
            checks.push(network);
            match asked {
                Ok(fleet) => checks.extend(fleet::checks(&fleet)),
                Err(failure) => {
                    checks.push(failed("coordinator", &failure));
                    checks.extend(fleet::skipped("the coordinator did not answer"));
                }
            }
        }
        Err(network) => {
            let why = if network.state == CheckState::Skipped {
                "there is no certificate to ask a coordinator with"
            } else {
                "the coordinator cannot be reached"
            };
            checks.push(network);
            checks.extend(fleet::skipped(why));
        }
    }
    report(out, checks)
}

/// Everything that the coordinator is asked.
async fn ask(client: &Client) -> Outcome<Fleet> {
    // The first call makes the connection; the second is what a call costs.
    client.status().await?;
    let (sent, began) = (Timestamp::now(), Instant::now());
    let status = client.status().await?;
    let asked = Asked { sent, round_trip: began.elapsed() };
    let agents = client.agents().await?;
    let workers = client.workers().await?;
    let impossible = impossible(client).await?;
    // A coordinator of an older version knows neither; the checks say so.
    let storage = client.storage().await.ok();
    let dead = client.dead_tasks(SAMPLE).await.ok().map(|(tasks, _)| tasks.len());
    let limits = client.limits("").await.ok();
    Ok(Fleet { status, agents, workers, impossible, storage, dead, limits, asked })
}

/// Queued tasks that can run nowhere as things stand, with the reason; of many, a sample.
async fn impossible(client: &Client) -> Outcome<Vec<String>> {
    let (runs, _) = client.list_runs(&[RunState::Running], "", RUNS).await?;
    let queued =
        |count: &orch_proto::v1::TaskStateCount| count.state() == TaskState::Queued && count.count > 0;
    let mut found = Vec::new();
    let mut left = SAMPLE;
    for run in runs.iter().filter(|run| run.counts.iter().any(queued)) {
        if left == 0 {
            break;
        }
        let query = TaskQuery { states: &[TaskState::Queued], limit: left, ..TaskQuery::all(&run.r#ref) };
        for task in client.tasks(&query).await? {
            left -= 1;
            let explained = client.explain(&task.r#ref).await?;
            if explained.impossible {
                found.push(format!("{}: {}", task.r#ref, explained.summary));
            }
        }
    }
    Ok(found)
}

/// A check that found what it should.
fn ok(name: &'static str, found: impl Into<String>) -> CheckView {
    CheckView { name, state: CheckState::Ok, found: found.into(), fixes: Vec::new() }
}

/// A check that found what wants attention, or does not work.
fn wrong(
    name: &'static str,
    state: CheckState,
    found: impl Into<String>,
    fixes: impl IntoIterator<Item = String>,
) -> CheckView {
    CheckView { name, state, found: found.into(), fixes: fixes.into_iter().collect() }
}

/// A check that failed with the failure that a command would have ended with.
fn failed(name: &'static str, failure: &crate::failure::Failure) -> CheckView {
    let causes = failure.causes().iter().map(|cause| format!("; {cause}")).collect::<String>();
    let found = format!("{}{causes}", failure.message());
    wrong(name, CheckState::Failed, found, failure.helps().iter().cloned())
}

/// A check that could not be made.
fn skip(name: &'static str, why: &str) -> CheckView {
    wrong(name, CheckState::Skipped, why, [])
}

fn report(out: &Out, checks: Vec<CheckView>) -> Outcome {
    let count = |state: CheckState| checks.iter().filter(|check| check.state == state).count();
    let (errors, warnings, skipped) =
        (count(CheckState::Failed), count(CheckState::Warning), count(CheckState::Skipped));
    let code = if errors > 0 { exit::FAILED } else { exit::DONE };
    match out.format {
        Format::Json | Format::Jsonl => {
            out.json(&DoctorView { healthy: errors == 0, errors, warnings, checks })?;
        }
        Format::Name => {
            let failed = checks.iter().filter(|check| check.state == CheckState::Failed);
            failed.into_iter().try_for_each(|check| out.line(check.name))?;
        }
        Format::None => {}
        Format::Table => {
            out.data(&text(out, &checks))?;
            let mut sums = vec![plural(errors as u64, "error"), plural(warnings as u64, "warning")];
            if skipped > 0 {
                sums.push(format!("{skipped} skipped"));
            }
            out.line(&sums.join(", "))?;
        }
    }
    Ok(code)
}

fn text(out: &Out, checks: &[CheckView]) -> String {
    let mut text = String::new();
    for (index, check) in checks.iter().enumerate() {
        let (glyph, word, style) = match check.state {
            CheckState::Ok => ("✔", "ok", GOOD),
            CheckState::Warning => ("!", "warning", WARN),
            CheckState::Failed => ("✗", "failed", BAD),
            CheckState::Skipped => ("-", "skipped", DIM),
        };
        let state = out.paint(style, &format!("{glyph} {word:<7}"));
        let room = |taken| out.stdout().width().map(|width| width.saturating_sub(taken).max(LEAST));
        let found = fold(&one_line(&check.found, TOLD), room(HANG)).join(&format!("\n{:HANG$}", ""));
        // Writing to a String cannot fail, here and below.
        let _ = writeln!(text, "{:>2} {state}  {:<12} {found}", index + 1, check.name);
        for fix in &check.fixes {
            let fix = fold(&one_line(fix, TOLD), room(HANG + 2)).join(&format!("\n{:HANG$}  ", ""));
            let _ = writeln!(text, "{:HANG$}→ {fix}", "");
        }
    }
    text
}

/// How far a moment is away, in days.
fn days(duration: Duration) -> u64 {
    duration.as_secs() / 86_400
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::ValueEnum;

    use super::*;
    use crate::args::OutputFormat;
    use crate::output::testing;
    use crate::settings::Settings;

    #[test]
    fn every_look_of_the_report_is_as_it_was() {
        let fixes = || ["on the agent's host: orch-agent login --pool team".to_owned()];
        let checks = || {
            vec![
                ok("network", "box-0.example:7443, TLS 1.3, connected in 12ms"),
                wrong("credentials", CheckState::Warning, "pool team is signed out on box-1, box-2", fixes()),
                wrong("agents", CheckState::Failed, "1 of 7 unreachable: box-7", ["orchctl agents".into()]),
                skip("disk", "the coordinator did not answer"),
            ]
        };
        let mut text = String::new();
        let looks = OutputFormat::value_variants().iter().map(|output| (*output, None));
        for (output, width) in looks.chain([(OutputFormat::Table, Some(60))]) {
            let settings = Settings { output, ..Settings::default() };
            let (out, stdout, _) = testing::with(&settings, testing::Look { width, ..Default::default() });
            assert_eq!(report(&out, checks()).unwrap(), exit::FAILED);
            let _ = write!(text, "──── -o {output:?} {width:?}\n{}", stdout.text());
        }
        insta::assert_snapshot!("doctor", text);
    }
}
