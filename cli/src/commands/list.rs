//! `ls`: runs, or the tasks of one.

use jiff::Timestamp;
use orch_proto::v1::{RunState, TaskState};

use super::tables;
use crate::args::Format;
use crate::args::parse::StateWord;
use crate::args::work::LsArgs;
use crate::client::TaskQuery;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::view::{RunView, TaskView};
use crate::session::Session;

/// `orchctl ls`.
pub(crate) async fn run(session: &Session, args: LsArgs) -> Outcome {
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    match &args.reference {
        Some(reference) => tasks(session, reference, &args.state, limit).await,
        None => runs(session, &args, limit).await,
    }
}

async fn runs(session: &Session, args: &LsArgs, limit: usize) -> Outcome {
    let out = &session.out;
    let states: Vec<RunState> = states(&args.state, StateWord::run, "runs")?;
    let name = args.name.as_deref().unwrap_or_default();
    let (runs, more) = session.client()?.list_runs(&states, name, limit).await?;
    match out.format {
        Format::Table if runs.is_empty() => out.note("no runs"),
        Format::Table => out.data(&tables::runs(&runs, Timestamp::now()).render(out.stdout()))?,
        Format::Json | Format::Jsonl => out.json_list(&runs.iter().map(RunView::from).collect::<Vec<_>>())?,
        Format::Name => runs.iter().try_for_each(|run| out.line(&run.r#ref))?,
        Format::None => {}
    }
    if more {
        out.hint(&tables::more(runs.len()));
    }
    Ok(exit::DONE)
}

async fn tasks(session: &Session, reference: &str, state: &[StateWord], limit: usize) -> Outcome {
    let out = &session.out;
    let states: Vec<TaskState> = states(state, StateWord::task, "tasks")?;
    let client = session.client()?;
    let reference = client.resolve(reference).await?;
    let tasks = match &reference.task {
        Some(_) => vec![client.task(&reference.to_string()).await?],
        None => {
            client
                .tasks(&TaskQuery { run: &reference.run, states: &states, limit, with_answers: false })
                .await?
        }
    };
    match out.format {
        Format::Table if tasks.is_empty() => out.note("no such tasks"),
        Format::Table => out.data(&tables::tasks(&tasks).render(out.stdout()))?,
        Format::Json | Format::Jsonl => {
            out.json_list(&tasks.iter().map(TaskView::from).collect::<Vec<_>>())?
        }
        Format::Name => tasks.iter().try_for_each(|task| out.line(&task.r#ref))?,
        Format::None => {}
    }
    if tasks.len() == limit {
        out.hint(&format!("at most {limit} tasks are shown; --limit 0 lists all"));
    }
    Ok(exit::DONE)
}

fn states<T>(words: &[StateWord], read: fn(&StateWord) -> Option<T>, of: &str) -> Outcome<Vec<T>> {
    words
        .iter()
        .map(|word| read(word).ok_or_else(|| Failure::usage(format!("{} is not a state of {of}", word.0))))
        .collect()
}
