//! Dead letters: tasks that ended as poison and were not tried again since, newest run first.
//! Knows both places where they lie, the engine's for live runs and the store's for others; decides nothing.

use crate::engine::Handle;
use crate::rpc::lookup::{Lookup, archive_status};
use crate::rpc::paging::{NumberPage, page_size};
use crate::rpc::{ask, unexpected};
use orch_core::ids::{RunId, TaskIndex, TenantId};
use orch_core::query::{Answer, DeadView, Query};
use orch_proto::v1::{self, ListDeadTasksRequest, ListDeadTasksResponse};
use prost::Message as _;
use tonic::Status;

/// The list whose page tokens these are.
const LIST: &str = "dead";
/// Bits of a page token that tell the task; a run has at most 100,000.
const INDEX_BITS: u32 = 20;
/// Tasks of one page together: the page ends early rather than pass the message limit.
const MAX_PAGE_BYTES: usize = 512 << 10;

/// A run, and a task of it from which on a list goes on.
type Place = (RunId, TaskIndex);

/// A page that fills.
struct Page {
    tasks: Vec<v1::Task>,
    bytes: usize,
    limit: usize,
}

impl Page {
    /// Takes a task; false when there is no room for it.
    fn take(&mut self, task: v1::Task) -> bool {
        self.bytes += task.encoded_len();
        let full = self.tasks.len() == self.limit || self.bytes > MAX_PAGE_BYTES && !self.tasks.is_empty();
        if !full {
            self.tasks.push(task);
        }
        !full
    }
}

/// A page of dead letters of a tenant.
///
/// # Errors
/// A page size or token that is none, and what engine and store say.
pub async fn list(
    engine: &Handle,
    lookup: &Lookup,
    tenant: TenantId,
    request: &ListDeadTasksRequest,
) -> Result<ListDeadTasksResponse, Status> {
    let limit = page_size(request.page_size)?;
    let token = NumberPage::parse(LIST, &request.page_token)?;
    let mut from = token.map_or((RunId(u64::MAX), TaskIndex(0)), place_of);
    let mut page = Page { tasks: Vec::new(), bytes: 0, limit };
    let next = loop {
        let query = Query::Dead { from, limit: limit + 1 };
        let Answer::Dead(runs) = ask(engine, tenant, query).await? else { return Err(unexpected()) };
        let Some(last) = runs.last().map(|dead| dead.run) else { break None };
        let full = fill(lookup, tenant, from, runs, &mut page).await?;
        if full.is_some() {
            break full;
        }
        let Some(before) = last.0.checked_sub(1) else { break None };
        from = (RunId(before), TaskIndex(0));
    };
    let next_page_token = NumberPage::token(LIST, next.map(number_of));
    Ok(ListDeadTasksResponse { tasks: page.tasks, next_page_token })
}

/// Puts what these runs have into the page. Where the list goes on, when that is full.
async fn fill(
    lookup: &Lookup,
    tenant: TenantId,
    from: Place,
    runs: Vec<DeadView>,
    page: &mut Page,
) -> Result<Option<Place>, Status> {
    for dead in runs {
        let begin = if dead.run == from.0 { from.1 } else { TaskIndex(0) };
        let Some((run, tasks)) = dead.live else {
            let full = fill_stored(lookup, tenant, (dead.run, begin), page).await?;
            if full.is_some() {
                return Ok(full);
            }
            continue;
        };
        for task in tasks {
            if !page.take(lookup.shown(&run, &task)) {
                return Ok(Some((run.id, task.index)));
            }
        }
    }
    Ok(None)
}

async fn fill_stored(
    lookup: &Lookup,
    tenant: TenantId,
    (run, begin): Place,
    page: &mut Page,
) -> Result<Option<Place>, Status> {
    let mut next = Some(begin);
    while let Some(from) = next {
        let limit = page.limit.saturating_sub(page.tasks.len()) + 1;
        let found = lookup.archive().dead_tasks(tenant, run, from, limit).await;
        let found = found.map_err(|error| archive_status(&error))?;
        for task in found.tasks {
            let index = TaskIndex(task.index);
            if !page.take(task) {
                return Ok(Some((run, index)));
            }
        }
        next = found.next;
    }
    Ok(None)
}

fn place_of(number: u64) -> Place {
    let index = u32::try_from(number & ((1 << INDEX_BITS) - 1)).unwrap_or(0);
    (RunId(number >> INDEX_BITS), TaskIndex(index))
}

const fn number_of((run, index): Place) -> u64 {
    run.0 << INDEX_BITS | index.0 as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Outbound;
    use crate::engine::tests::support::{Agent, Bench, TENANT, noops, soon, target};
    use orch_core::event::Event;
    use orch_core::outcome::Outcome;
    use std::sync::Arc;

    /// Ends whatever `agent` is given: `t1` well, anything else in five crashes.
    async fn poison(bench: &Bench, agent: &mut Agent, run_ref: &str, tasks: usize) {
        let mut left = (tasks - 1) * 5 + 1;
        while left > 0 {
            // Verdicts come between grants.
            let Outbound::Grant { attempt, .. } = agent.word().await else { continue };
            left -= 1;
            let dies = attempt.task.index != TaskIndex(1);
            agent.finish(attempt, if dies { Outcome::CRASH } else { Outcome::OK }, "").await;
            if dies && attempt.attempt.0 < 5 {
                let target = target(run_ref, Some(&format!("t{}", attempt.task.index.0)));
                let again = move |token| Event::RetryRequested {
                    token,
                    target,
                    force: false,
                    from: None,
                    dead: false,
                    request_id: "".into(),
                    digest: [0; 32],
                };
                soon("the answer to a retry", bench.handle.request(again)).await.unwrap();
            }
        }
    }

    async fn listed(bench: &Bench, page_size: i32) -> Vec<String> {
        let lookup = Lookup::new(bench.handle.clone(), Arc::new(bench.clock.clone()));
        let (mut refs, mut page_token) = (Vec::new(), String::new());
        for _ in 0..20 {
            let request = ListDeadTasksRequest { page_size, page_token };
            let page = list(&bench.handle, &lookup, TENANT, &request).await.unwrap();
            assert!(page.tasks.len() <= usize::try_from(page_size).unwrap());
            assert!(page.tasks.iter().all(|task| task.outcome() == v1::Outcome::Poison));
            refs.extend(page.tasks.into_iter().map(|task| task.r#ref));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                let other = TenantId(TENANT.0 + 1);
                let request = ListDeadTasksRequest::default();
                let page = list(&bench.handle, &lookup, other, &request).await.unwrap();
                assert_eq!(page, ListDeadTasksResponse::default(), "another tenant sees nothing of them");
                return refs;
            }
        }
        panic!("the list has no end");
    }

    #[tokio::test]
    async fn dead_letters_are_listed_from_engine_and_store_page_by_page() {
        let bench = Bench::start().await;
        let mut agent = bench.agent("box-1", 1, 64).await;
        agent.welcome().await;
        for tasks in [3, 2] {
            let mut spec = noops(tasks);
            spec.tasks.iter_mut().for_each(|task| task.retries = 9);
            let (run, _) = bench.submit(spec, "").await;
            poison(&bench, &mut agent, &run.run_ref, tasks as usize).await;
        }
        let all = ["adhoc/2/t0", "adhoc/1/t0", "adhoc/1/t2"];
        assert_eq!(listed(&bench, 10).await, all);
        assert_eq!(listed(&bench, 1).await, all);
        // A start leaves finished runs in the store; one that goes on is live.
        let bench = bench.crash_and_restart(3).await;
        assert_eq!(listed(&bench, 2).await, all);
        assert_eq!(listed(&bench, 1).await, all);
        assert_eq!(bench.status().await.dead, 3);
    }

    #[test]
    fn a_place_survives_its_token() {
        for place in [(RunId(1), TaskIndex(0)), (RunId(7_000_001), TaskIndex(99_999))] {
            assert_eq!(place_of(number_of(place)), place);
        }
    }

    #[test]
    fn a_full_page_takes_no_more_and_a_task_that_alone_is_too_long_is_taken() {
        let long = || v1::Task { detail: "x".repeat(MAX_PAGE_BYTES), ..v1::Task::default() };
        let mut page = Page { tasks: Vec::new(), bytes: 0, limit: 2 };
        assert!(page.take(long()) && !page.take(v1::Task::default()));
        let mut page = Page { tasks: Vec::new(), bytes: 0, limit: 1 };
        assert!(page.take(v1::Task::default()) && !page.take(v1::Task::default()));
    }
}
