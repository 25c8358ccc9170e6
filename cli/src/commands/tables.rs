//! The tables of the commands: which columns a run, a task, an agent or a plan has. Knows the wire's messages.

use orch_proto::v1::{Agent, Run, RunSpec, SubmitRunResponse, Task, TaskSpec, TaskState};

use super::submit::executor;
use crate::args::parse::{run_state_word, task_state_word};
use crate::output::figures::{between, count, moment, plural, short, span, spent};
use crate::output::table::{Cell, Column, Table};
use crate::output::times::Times;
use crate::output::view::{Tokens, outcome_word, reason};
use crate::output::words::{BAD, agent_look, run_ended, run_look, task_look};

/// Runs, one a line.
pub(super) fn runs(runs: &[Run], times: &Times) -> Table {
    let mut table = Table::new([
        Column::Whole("REF"),
        Column::Whole("STATE"),
        Column::Figures("DONE"),
        Column::Figures("TIME"),
        Column::Figures("COST"),
        Column::Figures(times.title("AGE", "CREATED")),
        Column::Extra("LABELS"),
        Column::Wide("BY"),
    ]);
    for run in runs {
        let (glyph, style) = run_look(run.state());
        let done: u32 =
            run.counts.iter().filter(|c| c.state() == TaskState::Succeeded).map(|c| c.count).sum();
        let until = if run_ended(run.state()) { moment(run.finished_at) } else { Some(times.now()) };
        let created = moment(run.created_at);
        let labels: Vec<_> = run.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.row([
            Cell::from(&run.r#ref),
            Cell::styled(format!("{glyph} {}", run_state_word(run.state())), style),
            Cell::from(format!("{done}/{}", run.task_count)),
            Cell::from(created.zip(until).map(|(from, to)| short(between(from, to))).unwrap_or_default()),
            Cell::from(spent(run.usage.as_ref())),
            Cell::from(times.cell(created)),
            Cell::dim(labels.join(",")),
            Cell::dim(&run.submitted_by),
        ]);
    }
    table
}

/// Tasks, one a line.
pub(super) fn tasks(tasks: &[Task], times: &Times) -> Table {
    let mut table = Table::new([
        Column::Whole("TASK"),
        Column::Whole("STATE"),
        Column::Words("BY"),
        Column::Figures("TIME"),
        Column::Figures("COST"),
        Column::Figures("TRY"),
        Column::Words("AGENT"),
        Column::Words("WHY"),
        Column::Wide("POOL"),
        Column::Wide("AFTER"),
        Column::Wide("TURNS"),
        Column::Wide("TOKENS"),
        Column::Wide("SESSION"),
    ]);
    for task in tasks {
        let (glyph, style) = task_look(task.state());
        let why = match outcome_word(task.outcome()) {
            Some("ok") => String::new(),
            _ if task.state() == TaskState::Parked => parked(task, times),
            _ => reason(task.outcome(), &task.detail),
        };
        table.row([
            Cell::from(&task.task_id),
            Cell::styled(format!("{glyph} {}", task_state_word(task.state())), style),
            Cell::from(if task.worker.is_empty() { &task.runner } else { &task.worker }),
            Cell::from(span(task.execution_time).map(short).unwrap_or_default()),
            Cell::from(spent(task.usage.as_ref())),
            Cell::from(if task.attempt == 0 { String::new() } else { task.attempt.to_string() }),
            Cell::from(&task.agent),
            Cell::dim(why),
            Cell::dim(&task.pool),
            Cell::dim(task.dependencies.join(",")),
            Cell::dim(if task.num_turns == 0 { String::new() } else { task.num_turns.to_string() }),
            Cell::dim(task.usage.as_ref().map(|usage| count(Tokens::of(usage).total)).unwrap_or_default()),
            Cell::dim(&task.session_id),
        ]);
    }
    table
}

/// Until when a parked conversation waits, and for what.
pub(crate) fn parked(task: &Task, times: &Times) -> String {
    let until = moment(task.retry_at)
        .map(|at| format!("until {} (in {})", times.stamp(at), short(between(times.now(), at))));
    let why = match (task.detail.as_str(), task.pool.as_str()) {
        ("", "") => String::new(),
        ("", pool) => format!("pool {pool}"),
        (detail, _) => detail.to_owned(),
    };
    [until.unwrap_or_default(), why]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(": ")
}

/// The attempts of a task, one a line.
pub(super) fn attempts(task: &Task, times: &Times) -> Table {
    let mut table = Table::new([
        Column::Figures("ATTEMPT"),
        Column::Words("AGENT"),
        Column::Whole("OUTCOME"),
        Column::Figures("TIME"),
        Column::Figures("COST"),
        Column::Words("DETAIL"),
    ]);
    for attempt in &task.attempts {
        let until = moment(attempt.finished_at).unwrap_or_else(|| times.now());
        table.row([
            Cell::from(attempt.number.to_string()),
            Cell::from(&attempt.agent),
            Cell::from(outcome_word(attempt.outcome()).unwrap_or("running")),
            Cell::from(
                moment(attempt.started_at).map(|from| short(between(from, until))).unwrap_or_default(),
            ),
            Cell::from(spent(attempt.usage.as_ref())),
            Cell::dim(&attempt.detail),
        ]);
    }
    table
}

/// Agents, one a line.
pub(super) fn agents(agents: &[Agent], times: &Times) -> Table {
    let mut table = Table::new([
        Column::Whole("NAME"),
        Column::Whole("STATE"),
        Column::Figures("SLOTS"),
        Column::Words("NOW"),
        Column::Extra("OFFERS"),
        Column::Extra("VERSION"),
        Column::Extra("CLI"),
        Column::Figures("LOAD"),
        Column::Figures(times.title("SEEN", "LAST SEEN")),
    ]);
    for agent in agents {
        let (state, style) = agent_look(agent.state());
        let running = match agent.running.as_slice() {
            [] => String::new(),
            [one] => one.clone(),
            [first, more @ ..] => format!("{first} +{}", more.len()),
        };
        let load = agent.host.as_ref().map(|host| format!("{:.2}", f64::from(host.load_millis) / 1e3));
        table.row([
            Cell::from(&agent.name),
            Cell::styled(state, style),
            Cell::from(format!("{}/{}", agent.slots_used, agent.slots)),
            Cell::from(running),
            Cell::dim(agent.capabilities.join(",")),
            Cell::dim(&agent.version),
            Cell::dim(&agent.cli_version),
            Cell::from(load.unwrap_or_default()),
            Cell::from(times.cell(moment(agent.last_seen))),
        ]);
    }
    table
}

/// What a dry run would place, one task a line.
pub(super) fn plan(spec: &RunSpec, answer: &SubmitRunResponse) -> Table {
    let mut table = Table::new([
        Column::Whole("TASK"),
        Column::Words("NEEDS"),
        Column::Words("BY"),
        Column::Words("REQUIRES"),
        Column::Words("RUNS ON"),
    ]);
    for task in &spec.tasks {
        let name = task_name(task);
        let impossible = answer.impossible.iter().find(|impossible| impossible.task_id == name);
        let requires: Vec<_> = task.requires.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let place = match (impossible, task.agent.as_str()) {
            (Some(impossible), _) => Cell::styled(format!("none: {}", impossible.reason), BAD),
            (None, "") => Cell::from("any agent that offers it"),
            (None, agent) => Cell::from(agent),
        };
        table.row([
            Cell::from(name),
            Cell::from(task.dependencies.join(",")),
            Cell::from(executor(task)),
            Cell::from(requires.join(",")),
            place,
        ]);
    }
    table
}

/// The name of a task; a lone one may have none and is then called `task`.
pub(super) fn task_name(task: &TaskSpec) -> &str {
    if task.task_id.is_empty() { "task" } else { &task.task_id }
}

/// A line that says how many were left out.
pub(super) fn more(shown: usize) -> String {
    format!("the newest {} are shown; --limit 0 lists all", plural(shown as u64, "run"))
}
