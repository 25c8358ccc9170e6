//! `explain`: why a task is where it is, and what would move it; of a run with several, why those wait that could go on.

use jiff::Timestamp;
use orch_proto::codes::ErrorCode;
use orch_proto::outcome::OUTCOMES;

use orch_proto::v1::{ExplainTaskResponse, Run, RunState, Task, TaskState};

use crate::args::Format;
use crate::args::parse::run_state_word;
use crate::args::work::ExplainArgs;
use crate::client::{Client, TaskQuery};
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{between, moment, plural, short, span};
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::fleet::ExplainView;
use crate::output::words::{BAD, GOOD, task_ended};
use crate::refs::Reference;
use crate::session::Session;

/// Longest sentence told.
const TOLD: usize = 500;
/// Tasks of a run explained at a time.
const TASKS: usize = 20;
/// The kind of reason of a task that has ended.
const TERMINAL: &str = "terminal";

/// Says where to look if it is the name of something else that somebody wants explained.
async fn no_reference(client: &Client, name: &str, failure: Failure) -> Failure {
    if failure.code() != Some(ErrorCode::InvalidRef.code()) {
        return failure;
    }
    let named = |known: &str| known == name;
    if client.agents().await.is_ok_and(|agents| agents.iter().any(|agent| named(&agent.name))) {
        return failure.help(format!("it is an agent: orchctl agents show {name}"));
    }
    if client.workers().await.is_ok_and(|workers| workers.iter().any(|worker| named(&worker.name))) {
        return failure.help(format!("it is a worker: orchctl workers show {name}"));
    }
    let code = name.len() == 5 && name.starts_with('E');
    if code || OUTCOMES.iter().any(|outcome| named(outcome.word)) {
        return failure.help(format!("orchctl help {name}"));
    }
    failure
}

/// `orchctl explain`.
pub(crate) async fn run(session: &Session, args: ExplainArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let reference = match client.resolve(&args.reference).await {
        Ok(reference) => reference,
        Err(failure) => return Err(no_reference(&client, &args.reference, failure).await),
    };
    if reference.task.is_none() {
        let run = client.run(&reference).await?;
        if run.task_count > 1 {
            return several(out, &client, &reference, &run).await;
        }
    }
    let reference = reference.to_string();
    let explained = client.explain(&reference).await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&ExplainView::from(&explained))?,
        Format::Name => out.name(&reference)?,
        Format::None => {}
        Format::Table => {
            tell(out, &reference, &explained)?;
        }
    }
    Ok(if explained.impossible { exit::IMPOSSIBLE } else { exit::DONE })
}

fn tell(out: &Out, reference: &str, explained: &ExplainTaskResponse) -> Outcome<()> {
    let ended = explained.reasons.iter().any(|reason| reason.kind == TERMINAL);
    let since = span(explained.since).map(short).filter(|since| !since.is_empty());
    let since = since.map(|since| if ended { format!(" ({since} ago)") } else { format!(", for {since}") });
    let summary = one_line(&explained.summary, TOLD);
    out.line(&format!("{reference}: {summary}{}", since.unwrap_or_default()))?;
    for reason in &explained.reasons {
        let (glyph, style) = if reason.satisfied { ("✔", GOOD) } else { ("✗", BAD) };
        let left = span(reason.left).filter(|left| !left.is_zero());
        let until = left.map_or_else(String::new, |left| format!(" ({})", out.times.until(left)));
        let text = format!("{}{until}", one_line(&reason.text, TOLD));
        out.line(&format!("  {} {:<14} {text}", out.paint(style, glyph), one_line(&reason.kind, 40)))?;
    }
    // What the coordinator reckoned is right whatever the clock here says; one of an older release does not say it.
    let by_clock = |task: &Task| moment(task.retry_at).map(|at| between(out.times.now(), at));
    let parked = explained.task.as_ref().filter(|task| task.state() == TaskState::Parked);
    let reckoned = explained.reasons.iter().find_map(|reason| span(reason.left));
    if let Some(left) = parked.and_then(|task| reckoned.or_else(|| by_clock(task))) {
        let at = out.times.stamp(out.times.now().checked_add(left).unwrap_or(Timestamp::MAX));
        out.line(&format!("next: its conversation goes on at {at} (in {})", short(left)))?;
    }
    if !explained.help.is_empty() {
        out.hint(&format!("help: {}", one_line(&explained.help.replace("REF", reference), TOLD)));
    }
    Ok(())
}

/// A run of several tasks: what it is, and each task that could be next and is not. Tasks that wait for those are left out.
async fn several(out: &Out, client: &Client, reference: &Reference, run: &Run) -> Outcome {
    let tasks = client.tasks(&TaskQuery::all(&run.r#ref)).await?;
    let waits = |task: &&Task| !task_ended(task.state());
    let next = |task: &&Task| {
        let open = |id: &String| tasks.iter().any(|other| other.task_id == *id && !task_ended(other.state()));
        !task.dependencies.iter().any(open)
    };
    let mut explained = Vec::new();
    for task in tasks.iter().filter(waits).filter(next).take(TASKS) {
        explained.push((task, client.explain(&task.r#ref).await?));
    }
    let impossible = !explained.is_empty() && explained.iter().all(|(_, explained)| explained.impossible);
    match out.format {
        Format::Json | Format::Jsonl => {
            let views: Vec<_> = explained.iter().map(|(_, explained)| ExplainView::from(explained)).collect();
            out.json_list(&views)?;
        }
        Format::Name => explained.iter().try_for_each(|(task, _)| out.name(&task.r#ref))?,
        Format::None => {}
        Format::Table => {
            let left = tasks.iter().filter(waits).count() as u64;
            let state = run_state_word(run.state());
            let left = if left == 0 { String::new() } else { format!(", {} to go", plural(left, "task")) };
            out.line(&format!("{reference} is {state}{left}"))?;
            if run.state() == RunState::WaitingApproval {
                super::approval::how(out, &run.r#ref);
                return Ok(exit::DONE);
            }
            let mut table = Table::new([Column::Whole("TASK"), Column::Words("WHY"), Column::Figures("FOR")]);
            for (task, explained) in &explained {
                let since = span(explained.since).map(short).unwrap_or_default();
                let why = one_line(&explained.summary, TOLD);
                table.row([Cell::from(&task.task_id), Cell::from(why), Cell::from(since)]);
            }
            match explained.first() {
                None => out
                    .hint(&format!("help: orchctl result {reference}, or orchctl explain {reference}/TASK")),
                Some((task, _)) => {
                    out.data(&table.render(out.stdout()))?;
                    out.hint(&format!("more of one: orchctl explain {}", one_line(&task.r#ref, TOLD)));
                }
            }
        }
    }
    Ok(if impossible { exit::IMPOSSIBLE } else { exit::DONE })
}
