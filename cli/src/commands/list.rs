//! `ls`: runs, the tasks of one, or dead letters.

use orch_proto::v1::{RunState, TaskState};

use super::{dead, tables, watching};
use crate::args::Format;
use crate::args::parse::StateWord;
use crate::args::work::LsArgs;
use crate::client::TaskQuery;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::view::{RunView, TaskView};
use crate::session::Session;

/// `orchctl ls`.
pub(crate) async fn run(session: &Session, args: LsArgs) -> Outcome {
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    if args.dead {
        return watching::show(session, args.watching, async |out| dead::list(session, out, &args).await)
            .await;
    }
    watching::show(session, args.watching, async |out| match &args.reference {
        Some(reference) => tasks(session, out, reference, &args.state, limit).await,
        None => runs(session, out, &args, limit).await,
    })
    .await
}

async fn runs(session: &Session, out: &Out, args: &LsArgs, limit: usize) -> Outcome {
    let states: Vec<RunState> = states(&args.state, StateWord::run, "runs")?;
    let name = args.name.as_deref().unwrap_or_default();
    let (runs, more) = session.client()?.list_runs(&states, name, limit).await?;
    match out.format {
        Format::Table if runs.is_empty() => out.note("no runs"),
        Format::Table => out.data(&tables::runs(&runs, &out.times).render(out.stdout()))?,
        Format::Json | Format::Jsonl => out.json_list(&runs.iter().map(RunView::from).collect::<Vec<_>>())?,
        Format::Name => runs.iter().try_for_each(|run| out.name(&run.r#ref))?,
        Format::None => {}
    }
    if more {
        out.hint(&tables::more(runs.len()));
    }
    Ok(exit::DONE)
}

async fn tasks(session: &Session, out: &Out, reference: &str, state: &[StateWord], limit: usize) -> Outcome {
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
        Format::Table => out.data(&tables::tasks(&tasks, &out.times).render(out.stdout()))?,
        Format::Json | Format::Jsonl => {
            out.json_list(&tasks.iter().map(TaskView::from).collect::<Vec<_>>())?
        }
        Format::Name => tasks.iter().try_for_each(|task| out.name(&task.r#ref))?,
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
