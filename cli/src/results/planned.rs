//! The end of a planned run as a person reads it: the answer, who did what and where it went, what did not work, what
//! follows, what it cost. Knows text; refuses to fetch anything.

use std::fmt::Write as _;

use orch_proto::v1::{RunState, Task, TaskRole, TaskState};

use super::told::{point, points, trouble};
use super::{RunResult, TaskResult, is_work};
use crate::args::parse::{run_state_word, task_state_word};
use crate::failure::Outcome;
use crate::output::Out;
use crate::output::figures::{between, count, dollars, moment, plural, short, span, spent};
use crate::output::safe::{one_line, safe};
use crate::output::table::{Cell, Column, Table, cut};
use crate::output::view::Tokens;
use crate::output::view::outcome_word;
use crate::output::view::result::SynthesisView;
use crate::output::words::{BOLD, run_look, task_look};
use crate::plan;

/// Longest detail told.
const DETAIL: usize = 4096;
/// Columns of what a task came to: the answer says more.
const LINE: usize = 100;

/// Prints it: stdout has all of it.
pub(super) fn print(out: &Out, result: &RunResult) -> Outcome<()> {
    let synthesis = result.synthesis();
    let mut text = String::new();
    if let Some(synthesis) = &synthesis {
        let answer = if synthesis.answer.trim().is_empty() { &synthesis.summary } else { &synthesis.answer };
        let _ = write!(text, "{}\n\n", markdown(out, answer.trim()));
    }
    if let Some(plan) = &result.plan {
        text.push_str(&plan::text(plan, out.stdout()));
        text.push('\n');
    }
    if result.tasks.iter().any(|result| is_work(result.task.role())) {
        text.push_str(&table(result, synthesis.as_ref()).render(out.stdout()));
        text.push('\n');
    }
    for task in &result.tasks {
        let told = result.plan.as_ref().is_some_and(|plan| !plan.problems.is_empty());
        text.push_str(&failed(out, &task.task, told));
    }
    if let Some(synthesis) = &synthesis {
        let mut further = points("conflicts", synthesis.conflicts.iter().map(point));
        further.push_str(&points("gaps", synthesis.gaps.iter().map(point)));
        let steps = synthesis.next_steps.iter().map(|next| match next.impact.as_str() {
            "" => next.step.clone(),
            impact => format!("[{impact}] {}", next.step),
        });
        further.push_str(&points("next steps", steps));
        if !further.is_empty() {
            let _ = writeln!(text, "{}", further.trim_start());
        }
    }
    if !result.run.detail.is_empty() {
        let _ = writeln!(text, "{}", one_line(&result.run.detail, DETAIL));
    }
    let _ = writeln!(text, "{}", total(out, result));
    out.data(&text)?;
    if result.tasks.iter().any(|task| !task.artifacts.is_empty()) {
        out.hint(&format!(
            "files: orchctl artifacts get {} --all -d DIR",
            one_line(&result.run.r#ref, DETAIL)
        ));
    }
    // Of a plan that could not be made, another request is more use.
    if result.run.state() == RunState::Failed && result.tasks.iter().any(|task| is_work(task.task.role())) {
        out.hint(&format!(
            "again, what did not succeed: orchctl retry {}",
            one_line(&result.run.r#ref, DETAIL)
        ));
    }
    Ok(())
}

/// Markdown as text: headings stand plain, everything else as it was written.
fn markdown(out: &Out, text: &str) -> String {
    let mut shown = String::new();
    let mut fenced = false;
    for line in safe(text).lines() {
        let bare = line.trim_start();
        if bare.starts_with("```") || bare.starts_with("~~~") {
            fenced = !fenced;
        }
        let hashes = line.bytes().take_while(|byte| *byte == b'#').count();
        let heading = line[hashes..].strip_prefix(' ').filter(|_| !fenced && (1..=6).contains(&hashes));
        match heading {
            Some(title) => {
                shown.push_str(&out.paint(BOLD, title.trim().trim_end_matches('#').trim_end()));
            }
            None => shown.push_str(line.trim_end()),
        }
        shown.push('\n');
    }
    shown.trim_end().to_owned()
}

/// Who did what, and where it went.
fn table(result: &RunResult, synthesis: Option<&SynthesisView>) -> Table {
    let columns = [
        Column::Whole("TASK"),
        Column::Words("WORKER"),
        Column::Whole("STATE"),
        Column::Words("AGENT"),
        Column::Figures("TIME"),
        Column::Figures("COST"),
        // Paths are typed again, or clicked.
        Column::Whole("FILES"),
        Column::Extra("RESULT"),
    ];
    let mut table = Table::new(columns);
    for one in result.tasks.iter().filter(|result| is_work(result.task.role())) {
        let task = &one.task;
        let (glyph, style) = task_look(task.state());
        let said =
            synthesis.and_then(|synthesis| synthesis.tasks.iter().find(|line| line.id == task.task_id));
        let line = said.map_or(task.summary.as_str(), |said| said.line.as_str());
        table.row([
            Cell::from(&task.task_id),
            Cell::from(if task.worker.is_empty() { &task.runner } else { &task.worker }),
            Cell::styled(format!("{glyph} {}", state(task)), style),
            Cell::from(&task.agent),
            Cell::from(span(task.execution_time).map(short).unwrap_or_default()),
            Cell::from(spent(task.usage.as_ref())),
            Cell::from(files(one)),
            Cell::dim(cut(line, LINE)),
        ]);
    }
    table
}

/// The state, and the worker's own word where that says less.
fn state(task: &Task) -> String {
    let state = task_state_word(task.state());
    match task.result_status.as_str() {
        "" | "complete" => state,
        word => format!("{state}, {word}"),
    }
}

/// Where its first file was published, or else its own path, and how many more there are. Published ones come first.
fn files(result: &TaskResult) -> String {
    let published = result.artifacts.iter().filter_map(|file| file.published.clone());
    let others = result.artifacts.iter().filter(|file| file.published.is_none());
    let mut paths = published.chain(others.map(|file| format!("out/{}", file.path)));
    let Some(first) = paths.next() else { return String::new() };
    match paths.count() {
        0 => first,
        more => format!("{first} +{more}"),
    }
}

/// A branch that did not work, by name: why, and what to do. Of a plan, what is wrong may have been told with it.
fn failed(out: &Out, task: &Task, plan_told: bool) -> String {
    // Nothing was to be summed up of a run that was only planned, and nobody misses it where the run was stopped.
    let unmissed = task.role() == TaskRole::Synthesis;
    let tell = match task.state() {
        TaskState::Failed => true,
        TaskState::Cancelled | TaskState::Skipped => !unmissed,
        TaskState::Unspecified
        | TaskState::Blocked
        | TaskState::Queued
        | TaskState::Leased
        | TaskState::Running
        | TaskState::Verifying
        | TaskState::WaitingRetry
        | TaskState::Parked
        | TaskState::Succeeded => false,
    };
    if !tell {
        return String::new();
    }
    let (glyph, style) = task_look(task.state());
    let mut text = format!(
        "{} {} {}\n",
        out.paint(style, glyph),
        out.paint(BOLD, &one_line(&task.task_id, DETAIL)),
        task_state_word(task.state())
    );
    if task.state() == TaskState::Skipped {
        let why = if task.detail.is_empty() {
            outcome_word(task.outcome()).unwrap_or_default().to_owned()
        } else {
            one_line(&task.detail, DETAIL)
        };
        let _ = writeln!(text, "  {why}");
        return text + "\n";
    }
    if task.role() == TaskRole::Plan && plan_told {
        let sent_back = if task.repairs > 0 { ", also after it was sent back" } else { "" };
        let _ = writeln!(text, "  what is wrong with its plan stands above{sent_back}");
        return text + "  help:  ask in other words; orchctl schema plan shows what a plan may hold\n\n";
    }
    for line in trouble(task) {
        let _ = writeln!(text, "  {line}");
    }
    text + "\n"
}

/// The last line: how it ended, what it cost, how long it took.
fn total(out: &Out, result: &RunResult) -> String {
    let run = &result.run;
    let (glyph, style) = run_look(run.state());
    let work = || result.tasks.iter().filter(|result| is_work(result.task.role()));
    let done = work().filter(|result| result.task.state() == TaskState::Succeeded).count();
    let mut tokens = Tokens::default();
    let (mut cost, mut estimated) = (0, false);
    for usage in result.tasks.iter().filter_map(|result| result.task.usage.as_ref()) {
        tokens = tokens.plus(Tokens::of(usage));
        cost += usage.cost_micro_usd;
        estimated |= usage.estimated;
    }
    if let Some(usage) = &run.usage {
        cost = cost.max(usage.cost_micro_usd);
        estimated |= usage.estimated;
    }
    let mut parts = vec![
        format!("{} {}", out.paint(style, glyph), out.paint(BOLD, &one_line(&run.r#ref, DETAIL))),
        out.paint(style, &run_state_word(run.state())),
    ];
    if let Some(word) = outcome_word(run.outcome()).filter(|_| run.state() == RunState::Failed) {
        parts.push(word.to_owned());
    }
    if work().next().is_some() {
        // The plan's own tasks: planning, publishing and summing up are not what was asked for.
        parts.push(format!("{done} of {} done", plural(work().count() as u64, "task")));
    }
    if cost > 0 {
        parts.push(dollars(cost, estimated));
    }
    if tokens.total > 0 {
        parts.push(format!(
            "{} tokens (in {}, out {}, cache {})",
            count(tokens.total),
            count(tokens.input),
            count(tokens.output),
            count(tokens.cache_read + tokens.cache_write)
        ));
    }
    if let Some((from, to)) = moment(run.created_at).zip(moment(run.finished_at)) {
        parts.push(format!("took {}", short(between(from, to))));
    }
    parts.join("  ")
}
