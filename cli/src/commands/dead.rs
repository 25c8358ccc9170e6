//! Dead letters: tasks that were given up because they took their agents down. `ls --dead` lists them with what is known
//! of each end, `retry --dead` gives them another chance.

use orch_proto::v1::{Attempt, Outcome as Ending, Task};

use super::{bulk, shown};
use crate::args::work::{LsArgs, RetryArgs};
use crate::ask::agreed_meanwhile;
use crate::client::Client;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::Out;
use crate::output::figures::{moment, plural};
use crate::output::safe::one_line;
use crate::output::table::{Cell, Column, Table};
use crate::output::view::operate::DeadView;
use crate::session::Session;

/// Longest reference told.
const TOLD: usize = 300;
/// Tasks looked into for their attempts; of more, the list itself has to do.
const LOOKED_INTO: usize = 100;

/// What is known of a dead letter.
pub(crate) struct Dead {
    /// The task, with its attempts where they were looked into.
    pub(crate) task: Task,
}

impl Dead {
    /// Attempts that count as crashes.
    pub(crate) fn crashes(&self) -> usize {
        self.crashed().count()
    }

    /// The agents they were on, in order.
    pub(crate) fn agents(&self) -> Vec<&str> {
        let mut agents: Vec<&str> = Vec::new();
        for attempt in self.crashed() {
            if !agents.contains(&attempt.agent.as_str()) {
                agents.push(&attempt.agent);
            }
        }
        if agents.is_empty() && !self.task.agent.is_empty() {
            agents.push(&self.task.agent);
        }
        agents
    }

    /// What the last crash looked like.
    pub(crate) fn cause(&self) -> &str {
        let last = self.crashed().last().map(|attempt| attempt.detail.as_str());
        last.filter(|detail| !detail.is_empty()).unwrap_or(&self.task.detail)
    }

    fn crashed(&self) -> impl Iterator<Item = &Attempt> {
        let counts = |attempt: &&Attempt| attempt.outcome().row().is_some_and(|row| row.counts_as_crash);
        self.task.attempts.iter().filter(counts)
    }
}

/// `orchctl ls --dead`.
pub(super) async fn list(session: &Session, out: &Out, args: &LsArgs) -> Outcome {
    let client = session.client()?;
    let limit = if args.limit == 0 { usize::MAX } else { args.limit };
    let (tasks, more) = client.dead_tasks(limit).await?;
    let mut dead = Vec::new();
    for (index, task) in tasks.into_iter().enumerate() {
        // Lists leave attempts out.
        let task = if index < LOOKED_INTO && task.attempts.is_empty() {
            // One that was tried again or removed meanwhile is told as it was.
            client.task(&task.r#ref).await.ok().filter(|now| now.outcome() == Ending::Poison).unwrap_or(task)
        } else {
            task
        };
        dead.push(Dead { task });
    }
    let views: Vec<_> = dead.iter().map(DeadView::from).collect();
    shown::list(out, &views, dead.iter().map(|dead| dead.task.r#ref.as_str()), || {
        if dead.is_empty() {
            out.note("no dead letters: no task was given up for taking its agents down");
            return Ok(());
        }
        out.data(&table(&dead, out).render(out.stdout()))?;
        out.hint(&match dead.as_slice() {
            [only] => format!("try it again: orchctl retry --dead {}", one_line(&only.task.r#ref, TOLD)),
            _ => "try again: orchctl retry --dead REF, or all of them: orchctl retry --dead --all".to_owned(),
        });
        Ok(())
    })?;
    if more {
        out.hint(&format!("the newest {} are shown; --limit 0 lists all", dead.len()));
    }
    Ok(exit::DONE)
}

fn table(dead: &[Dead], out: &Out) -> Table {
    let mut table = Table::new([
        Column::Whole("TASK"),
        Column::Figures("CRASHES"),
        Column::Words("AGENTS"),
        Column::Figures(out.times.title("AGE", "ENDED")),
        Column::Words("WHY"),
    ]);
    for dead in dead {
        let crashes = dead.crashes();
        table.row([
            Cell::from(&dead.task.r#ref),
            Cell::from(if crashes == 0 { String::new() } else { crashes.to_string() }),
            Cell::from(dead.agents().join(",")),
            Cell::from(out.times.cell(moment(dead.task.finished_at))),
            Cell::dim(dead.cause()),
        ]);
    }
    table
}

/// `orchctl retry --dead`: what each of the references names, or everything there is.
pub(super) async fn references(session: &Session, client: &Client, args: &RetryArgs) -> Outcome<Vec<String>> {
    if !args.all {
        return Ok(args.references.clone());
    }
    let (tasks, _) = client.dead_tasks(usize::MAX).await?;
    let mut runs: Vec<String> = Vec::new();
    for task in &tasks {
        let run = task.r#ref.rsplit_once('/').map_or(task.r#ref.as_str(), |(run, _)| run);
        if runs.last().is_none_or(|last| last != run) && !runs.iter().any(|known| known == run) {
            runs.push(run.to_owned());
        }
    }
    if tasks.len() > 1 {
        let (letters, of) = (plural(tasks.len() as u64, "dead letter"), plural(runs.len() as u64, "run"));
        let question = format!("Try {letters} of {of} again ({})?", bulk::listed(&runs));
        if !agreed_meanwhile(&session.out, &question, &format!("--all tries {letters} again")).await? {
            session.out.note("nothing was tried again");
            return Err(Failure::silent(exit::CANCELLED));
        }
    }
    Ok(runs)
}
