//! A run of which every task lies with an agent that this program plays: submitted, seen to run, and finished when it is asked
//! for. Refuses to know what is measured meanwhile.

use std::time::Duration;

use orch_proto::v1::{Run, Task, TaskSpec, TaskState};
use tokio::time::Instant;

use super::played::{CAPABILITY, Offer};
use super::{Bench, POLL, noop, spec, submit_run};
use crate::client::TaskQuery;
use crate::exit;
use crate::failure::{Failure, Outcome};
use crate::output::words::run_ended;
use crate::refs::Reference;

/// Longest wait until every task lies with an agent, and until all have ended.
const LIMIT: Duration = Duration::from_secs(60);

/// What an agent offers that takes one of the tasks.
pub(super) fn offer(tag: &str) -> Offer {
    Offer { slots: 1, runners: vec!["noop".to_owned()], capabilities: vec![format!("{CAPABILITY}={tag}")] }
}

/// A task that only those agents take.
pub(super) fn task(tag: &str) -> TaskSpec {
    TaskSpec { requires: [(CAPABILITY.to_owned(), tag.to_owned())].into(), ..noop::task() }
}

/// Submits so many tasks and waits until all of them run.
pub(super) async fn occupied(bench: &Bench<'_>, tag: &str, tasks: u32) -> Outcome<Run> {
    let run = submit_run(&bench.client, spec(tasks, || task(tag))).await?;
    until(bench, &run, |run| in_state(run, TaskState::Running) >= tasks, "to run").await
}

/// Waits until a run ended, and gives its tasks.
pub(super) async fn finished(bench: &Bench<'_>, run: &Run) -> Outcome<Vec<Task>> {
    until(bench, run, |run| run_ended(run.state()), "to end").await?;
    bench.client.tasks(&TaskQuery::all(&run.r#ref)).await
}

async fn until(bench: &Bench<'_>, run: &Run, reached: impl Fn(&Run) -> bool, what: &str) -> Outcome<Run> {
    let reference = Reference::parse(&run.r#ref)?;
    let start = Instant::now();
    loop {
        let run = bench.client.run(&reference).await?;
        if reached(&run) {
            return Ok(run);
        }
        if start.elapsed() > LIMIT {
            let waited = format!("the tasks of {} took more than {} s {what}", run.r#ref, LIMIT.as_secs());
            return Err(Failure::new(exit::TIMED_OUT, waited));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn in_state(run: &Run, state: TaskState) -> u32 {
    run.counts.iter().filter(|count| count.state() == state).map(|count| count.count).sum()
}
