//! `status`: the fleet, a run or a task in one screen, in plain English.

use std::fmt::Write as _;

use orch_proto::v1::{
    ClusterStatus, FailurePolicy, PoolLimits, Run, RunState, Task, TaskRole, TaskState, Worker,
};

use super::{budgets, limits, tables, watching};
use crate::args::Format;
use crate::args::parse::{on_failure_word, run_state_word, task_state_word};
use crate::args::work::StatusArgs;
use crate::client::{Client, TaskQuery};
use crate::exit;
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{between, bytes, dollars, moment, plural, short, span, spent};
use crate::output::safe::{one_line, safe};
use crate::output::table::width_of;
use crate::output::view::fleet::StatusView;
use crate::output::view::{RunView, TaskView};
use crate::output::words::{
    BAD, BOLD, DIM, GOOD, WARN, agent_look, run_ended, run_look, task_ended, task_look,
};
use crate::plan;
use crate::refs::Reference;
use crate::results::denied;
use crate::session::Session;

/// Runs and tasks shown below the summary.
const SHOWN: usize = 20;
/// Longest sentence told.
const TOLD: usize = 500;

/// `orchctl status`.
pub(crate) async fn run(session: &Session, args: StatusArgs) -> Outcome {
    let client = session.client()?;
    let reference = match &args.reference {
        Some(reference) => Some(client.resolve(reference).await?),
        None => None,
    };
    watching::show(session, args.watching, async |out| match &reference {
        None => fleet(out, &client).await,
        Some(reference) if reference.task.is_some() => task(out, &client, reference).await,
        Some(reference) => one_run(out, &client, reference).await,
    })
    .await
}

async fn fleet(out: &Out, client: &Client) -> Outcome {
    let whole = out.format == Format::Table;
    let active = [RunState::Planning, RunState::WaitingApproval, RunState::Running, RunState::Synthesizing];
    // Asked at once, because each call is a way there and back.
    let pools = async { if whole { client.limits("").await } else { Ok(Vec::new()) } };
    let runs =
        async { if whole { client.list_runs(&active, "", SHOWN).await } else { Ok((Vec::new(), false)) } };
    let (status, workers, pools, runs) = tokio::join!(client.status(), client.workers(), pools, runs);
    let (status, workers) = (status?, workers?);
    if out.is_json() {
        out.json(&StatusView::new(&status, &workers))?;
        return Ok(exit::DONE);
    }
    if !whole {
        return Ok(exit::DONE);
    }
    // Of one that is too old to say it, the rest is shown all the same.
    let pools = pools.unwrap_or_default();
    out.data(&fleet_text(out, &status, &workers, &pools))?;
    let (runs, more) = runs?;
    if !runs.is_empty() {
        out.data("\n")?;
        out.data(&tables::runs(&runs, &out.times).render(out.stdout()))?;
    }
    if more {
        out.hint("more runs: orchctl ls --state running --limit 0");
    }
    Ok(exit::DONE)
}

/// The summary of the fleet.
fn fleet_text(out: &Out, status: &ClusterStatus, workers: &[Worker], pools: &[PoolLimits]) -> String {
    let mut text = String::new();
    let (health, style) = if status.draining { ("draining", WARN) } else { ("healthy", GOOD) };
    let up = span(status.uptime).map(short).unwrap_or_default();
    let wait = span(status.oldest_wait).filter(|wait| !wait.is_zero() && status.queued > 0);
    let wait = wait.map(|wait| format!(" (oldest {})", short(wait))).unwrap_or_default();
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "{}  orch {}  up {up}  epoch {}  store {}",
        out.paint(style, health),
        one_line(&status.version, 40),
        status.epoch,
        bytes(status.store_bytes)
    );
    let counts = [
        format!("{} active", status.active_runs),
        format!("queued {}{wait}", status.queued),
        format!("blocked {}", status.blocked),
        format!("running {}", status.running),
        format!("retrying {}", status.waiting_retry),
        format!("today {}", dollars(status.cost_today_micro_usd, false)),
    ];
    text.push_str(&filled(out, "runs   ", &counts));
    let agents: Vec<_> = status
        .agents
        .iter()
        .filter(|count| count.count > 0)
        .map(|count| {
            let (word, style) = agent_look(count.state());
            out.paint(style, &format!("{} {word}", count.count))
        })
        .collect();
    let agents = if agents.is_empty() { out.paint(BAD, "none") } else { agents.join("  ") };
    let _ = writeln!(
        text,
        "{}  {agents}  slots {}/{}",
        out.paint(BOLD, "agents "),
        status.slots_used,
        status.slots
    );
    let names: Vec<_> = workers.iter().map(|worker| one_line(&worker.name, 80)).collect();
    let _ = writeln!(
        text,
        "{}  {}",
        out.paint(BOLD, "workers"),
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
    let pools = limits::in_short(out, pools);
    if !pools.is_empty() {
        text.push_str(&filled(out, "pools  ", &pools));
    }
    for attention in &status.attention {
        let _ = writeln!(text, "{}", out.paint(WARN, &format!("! {}", one_line(attention, TOLD))));
    }
    text
}

/// A label and parts behind it, on as many lines as the terminal needs.
fn filled(out: &Out, label: &str, parts: &[String]) -> String {
    const GAP: &str = "  ";
    let start = width_of(label) + GAP.len();
    let limit = out.stdout().width().unwrap_or(usize::MAX);
    let mut text = format!("{}{GAP}", out.paint(BOLD, label));
    let mut used = start;
    for (index, part) in parts.iter().enumerate() {
        let wanted = width_of(part);
        if index > 0 && used + GAP.len() + wanted > limit {
            text.push_str(&format!("\n{}", " ".repeat(start)));
            used = start;
        } else if index > 0 {
            text.push_str(GAP);
            used += GAP.len();
        }
        text.push_str(part);
        used += wanted;
    }
    text + "\n"
}

async fn one_run(out: &Out, client: &Client, reference: &Reference) -> Outcome {
    let run = client.run(reference).await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&RunView::from(&run))?,
        Format::Name => out.name(&run.r#ref)?,
        Format::None => {}
        Format::Table => {
            let (glyph, style) = run_look(run.state());
            let until = if run_ended(run.state()) { moment(run.finished_at) } else { Some(out.times.now()) };
            let took = moment(run.created_at)
                .zip(until)
                .map(|(from, to)| short(between(from, to)))
                .unwrap_or_default();
            let cost = spent(run.usage.as_ref());
            let state = out.paint(style, &format!("{glyph} {}", run_state_word(run.state())));
            let name = out.paint(BOLD, &run.r#ref);
            out.line(&format!("{name}  {state}  {took}  {}  {cost}", plural(run.task_count.into(), "task")))?;
            out.line(&out.paint(DIM, &origin(&run)))?;
            if let Some(budget) = &run.budget {
                out.line(&format!("budget {}", budgets::of_run(budget)))?;
            }
            if !run.detail.is_empty() {
                out.line(&one_line(&run.detail, TOLD))?;
            }
            if let Some(row) = run.outcome().row().filter(|_| run.state() == RunState::Failed) {
                out.line(&format!("{}: {}", row.word, row.sentence))?;
            }
            let tasks = client.tasks(&TaskQuery { limit: SHOWN, ..TaskQuery::all(&run.r#ref) }).await?;
            out.data(&tables::tasks(&tasks, &out.times).render(out.stdout()))?;
            if run.state() == RunState::WaitingApproval {
                let plan = client.plan(&run.r#ref).await?;
                out.data(&format!("\nits plan\n{}", plan::text(&plan, out.stdout())))?;
                let name = one_line(&run.r#ref, TOLD);
                out.hint(&format!(
                    "it waits: orchctl approve {name}, orchctl edit {name}, orchctl reject {name}"
                ));
            }
            if run.task_count as usize > tasks.len() {
                out.hint(&format!("all tasks: orchctl ls {}", run.r#ref));
            }
        }
    }
    Ok(exit::DONE)
}

/// Where a run comes from, and what holds for it.
fn origin(run: &Run) -> String {
    let mut text = format!("submitted by {}", one_line(&run.submitted_by, TOLD));
    if run.planned {
        text.push_str(", a request that is planned");
    }
    if !run.workflow.is_empty() {
        text.push_str(&format!(", from the workflow {}", one_line(&run.workflow, TOLD)));
    }
    let policy = run.on_failure();
    if matches!(policy, FailurePolicy::FailFast | FailurePolicy::BestEffort) {
        text.push_str(&format!(", {}", on_failure_word(policy)));
    }
    if run.max_parallel > 0 {
        text.push_str(&format!(", at most {} at once", run.max_parallel));
    }
    text
}

async fn task(out: &Out, client: &Client, reference: &Reference) -> Outcome {
    let task = client.task(&reference.to_string()).await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&TaskView::from(&task))?,
        Format::Name => out.name(&task.r#ref)?,
        Format::None => {}
        Format::Table => {
            out.data(&task_text(out, &task))?;
            if task.state() == TaskState::Parked {
                let parked = format!("parked {}", one_line(&tables::parked(&task, &out.times), TOLD));
                out.line(&out.paint(WARN, &parked))?;
            }
            if !task_ended(task.state()) {
                let explained = client.explain(&task.r#ref).await?;
                if task.state() != TaskState::Parked {
                    out.line(&one_line(&explained.summary, TOLD))?;
                }
                if !explained.help.is_empty() {
                    out.hint(&format!(
                        "help: {}",
                        one_line(&explained.help.replace("REF", &task.r#ref), TOLD)
                    ));
                }
            }
            if !task.attempts.is_empty() {
                out.data(&tables::attempts(&task, &out.times).render(out.stdout()))?;
            }
            if task.attempt > 0 {
                out.hint(&format!("transcript: orchctl logs {0}    answer: orchctl result {0}", task.r#ref));
            }
        }
    }
    Ok(exit::DONE)
}

fn task_text(out: &Out, task: &Task) -> String {
    let (glyph, style) = task_look(task.state());
    let by = if task.worker.is_empty() { &task.runner } else { &task.worker };
    let state = out.paint(style, &format!("{glyph} {}", task_state_word(task.state())));
    let mut cost = spent(task.usage.as_ref());
    if let Some(expected) = task.expected_cost_micro_usd {
        let so_far = if cost.is_empty() { "nothing spent" } else { &cost };
        cost = format!("{so_far}, {} expected", dollars(expected, false));
    }
    if !task.pool.is_empty() {
        cost.push_str(&format!("  pool {}", one_line(&task.pool, TOLD)));
    }
    let name = out.paint(BOLD, &one_line(&task.r#ref, TOLD));
    let mut text = format!("{name}  {state}  by {}  {cost}\n", one_line(by, TOLD));
    if !task.dependencies.is_empty() {
        let _ = writeln!(text, "after {}", one_line(&task.dependencies.join(", "), TOLD));
    }
    let belongs = match task.role() {
        TaskRole::Plan => "plans the run".to_owned(),
        TaskRole::Synthesis => "sums the run up".to_owned(),
        TaskRole::Review => format!("reviews {}", one_line(&task.of, TOLD)),
        TaskRole::Publish => format!("publishes files of {}", one_line(&task.of, TOLD)),
        TaskRole::Unspecified | TaskRole::Work => String::new(),
    };
    let sent_back = if task.repairs > 0 { format!("sent back {}x", task.repairs) } else { String::new() };
    let reused = if task.reused_from.is_empty() {
        String::new()
    } else {
        format!("reused from {}", one_line(&task.reused_from, TOLD))
    };
    for line in [belongs, sent_back, reused].iter().filter(|line| !line.is_empty()) {
        let _ = writeln!(text, "{line}");
    }
    for gate in &task.gates {
        let (glyph, style) = if gate.passed { ("✔", GOOD) } else { ("✗", BAD) };
        let name = format!("{} {}", one_line(&gate.kind, TOLD), one_line(&gate.name, TOLD));
        let _ = writeln!(text, "{} {name}", out.paint(style, glyph));
        for line in safe(gate.log.trim_end()).lines().filter(|_| !gate.passed) {
            let _ = writeln!(text, "    {line}");
        }
    }
    if let Some(denied) = denied(task) {
        let _ = writeln!(text, "{}", out.paint(WARN, &denied));
    }
    if let Some(row) = task.outcome().row().filter(|row| row.exit_code != exit::DONE) {
        let _ = writeln!(text, "{}: {}", row.word, row.sentence);
        if !task.detail.is_empty() {
            let _ = writeln!(text, "cause: {}", one_line(&task.detail, TOLD));
        }
        let _ = writeln!(text, "help:  {}", row.remedy.replace("REF", &one_line(&task.r#ref, TOLD)));
    }
    text
}
