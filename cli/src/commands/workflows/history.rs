//! `workflows history`: the runs of a workflow, and how each of its tasks went in the newest of them.

use futures_util::future::try_join_all;
use orch_proto::v1::{Run, Task};

use crate::args::Format;
use crate::args::parse::task_state_word;
use crate::args::workflows::HistoryArgs;
use crate::client::{Client, TaskQuery};
use crate::commands::tables;
use crate::exit;
use crate::failure::Outcome;
use crate::output::safe::one_line;
use crate::output::table::{Cell, Table};
use crate::output::view::RunView;
use crate::output::view::workflow::PastView;
use crate::output::words::task_look;
use crate::session::Session;

/// Runs side by side in the matrix.
const SIDE_BY_SIDE: usize = 8;
/// Tasks below each other in it; larger runs are not looked into.
const MAX_TASKS: u32 = 60;
/// Longest name told.
const TOLD: usize = 500;

pub(super) async fn run(session: &Session, args: &HistoryArgs) -> Outcome {
    let out = &session.out;
    let client = session.client()?;
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let (mut runs, more) = client.list_runs(&[], &args.name, limit).await?;
    // A run may have the name of a workflow and be none of its.
    runs.retain(|run| run.workflow == args.name);
    if runs.is_empty() {
        client.workflow(&args.name).await?;
        out.note(&format!("{} has not run yet", one_line(&args.name, TOLD)));
    }
    let tasks = tasks(&client, &runs).await?;
    match out.format {
        Format::Json | Format::Jsonl => {
            let past = |(run, tasks): (&Run, &Vec<Task>)| PastView {
                run: RunView::from(run),
                tasks: tasks
                    .iter()
                    .map(|task| (task.task_id.clone(), task_state_word(task.state())))
                    .collect(),
            };
            out.json_list(&runs.iter().zip(&tasks).map(past).collect::<Vec<_>>())?;
        }
        Format::Name => runs.iter().try_for_each(|run| out.name(&run.r#ref))?,
        Format::None => {}
        Format::Table if runs.is_empty() => {}
        Format::Table => {
            out.data(&tables::runs(&runs, &out.times).render(out.stdout()))?;
            if let Some(matrix) = matrix(&runs, &tasks) {
                out.data(&format!("\n{}", matrix.render(out.stdout())))?;
            }
        }
    }
    if more {
        out.hint(&tables::more(runs.len()));
    }
    Ok(exit::DONE)
}

/// The tasks of the newest runs, as far as they are small; of the others none.
async fn tasks(client: &Client, runs: &[Run]) -> Outcome<Vec<Vec<Task>>> {
    let asked = runs.iter().enumerate().map(async |(index, run)| {
        if index >= SIDE_BY_SIDE || run.task_count > MAX_TASKS {
            return Ok(Vec::new());
        }
        client.tasks(&TaskQuery::all(&run.r#ref)).await
    });
    try_join_all(asked).await
}

/// A row for each task, a column for each run.
fn matrix(runs: &[Run], tasks: &[Vec<Task>]) -> Option<Table> {
    let columns: Vec<_> =
        runs.iter().zip(tasks).filter(|(_, tasks)| !tasks.is_empty()).take(SIDE_BY_SIDE).collect();
    if columns.is_empty() {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for (_, tasks) in &columns {
        for task in *tasks {
            if !names.contains(&task.task_id.as_str()) {
                names.push(&task.task_id);
            }
        }
    }
    let number = |run: &Run| run.r#ref.rsplit('/').next().unwrap_or_default().to_owned();
    let titles = std::iter::once("TASK".to_owned()).chain(columns.iter().map(|(run, _)| number(run)));
    let mut table = Table::titled(titles);
    for name in names.into_iter().take(MAX_TASKS as usize) {
        let cells = columns.iter().map(|(_, tasks)| {
            let task = tasks.iter().find(|task| task.task_id == name);
            task.map_or_else(
                || Cell::from(""),
                |task| {
                    let (glyph, style) = task_look(task.state());
                    Cell::styled(glyph, style)
                },
            )
        });
        table.row(std::iter::once(Cell::from(name)).chain(cells).collect::<Vec<_>>());
    }
    Some(table)
}
