//! Every unary call that reads, or changes nothing that stays, one after the other, on a fleet that is at work: agents that
//! this program plays hold a task each meanwhile. Refuses to know what the answers say.

use std::collections::BTreeMap;
use std::time::Duration;

use orch_proto::v1::{
    self, Budget, BudgetLimit, BudgetMode, BudgetPeriod, BudgetScope, LabelAgentRequest, RunState,
    WorkflowCall,
};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::played::{self, Authority};
use super::{Bench, Percentiles, Place, Progress, print, process, spec, staffed, submit_run};
use crate::client::submission::Submission;
use crate::client::{Client, TaskQuery, new_request_id};
use crate::exit;
use crate::failure::Outcome;
use crate::refs::Reference;

/// Calls of each kind without a word about them.
const CALLS: u32 = 100;
/// Tasks a second that an agent reports at the end: all it holds, at once.
const AT_ONCE: u32 = 1_000;
/// What whoever leaves in the middle should know.
const LEFT: &str = "agents named bench-… stay behind as offline: orchctl agents remove NAME";

/// What calls take.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CallsReport {
    pub(super) scenario: &'static str,
    /// Agents, each of which held one task.
    pub(super) held: u32,
    /// Calls of each kind.
    pub(super) times: u32,
    /// By name of the call.
    pub(super) calls: BTreeMap<&'static str, CallTimes>,
    /// Of the slowest call.
    pub(super) worst_p50_ms: f64,
    pub(super) worst_p95_ms: f64,
    #[serde(flatten)]
    pub(super) place: Place,
}

/// What one kind of call takes, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize, JsonSchema)]
pub(crate) struct CallTimes {
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) max_ms: f64,
}

impl CallsReport {
    fn new(held: u32, times: u32, calls: BTreeMap<&'static str, CallTimes>, place: Place) -> Self {
        let worst = |of: fn(&CallTimes) -> f64| calls.values().map(of).fold(0.0, f64::max);
        Self {
            scenario: "calls",
            held,
            times,
            worst_p50_ms: worst(|call| call.p50_ms),
            worst_p95_ms: worst(|call| call.p95_ms),
            calls,
            place,
        }
    }

    #[cfg(test)]
    pub(super) fn sample(place: Place) -> Self {
        let times = |p50_ms| CallTimes { p50_ms, p95_ms: p50_ms * 2.0, max_ms: p50_ms * 4.0 };
        Self::new(100, 100, [("GetRun", times(0.25)), ("ListAgents", times(1.5))].into(), place)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "each call {} times, one after the other, with {} agents that held a task each; the slowest: p50 {:.2} ms, p95 \
             {:.2} ms",
            self.times, self.held, self.worst_p50_ms, self.worst_p95_ms
        )];
        lines.extend(self.calls.iter().map(|(name, call)| {
            format!(
                "{name:<20}  p50 {:>6.2} ms  p95 {:>6.2} ms  max {:>6.2} ms",
                call.p50_ms, call.p95_ms, call.max_ms
            )
        }));
        lines
    }
}

pub(super) async fn run(bench: &Bench<'_>) -> Outcome {
    let place = Place::of(&bench.client).await?;
    let authority = Authority::open(bench)?;
    process::open_many_files();
    bench.session.when_left(LEFT);
    let mut progress = Progress::new(bench.out());
    let tag = authority.tag();
    let seats = (1..=bench.args.agents).map(|number| authority.agent(number)).collect::<Outcome<Vec<_>>>()?;
    let names: Vec<String> = seats.iter().map(|seat| seat.name.clone()).collect();
    let agents = played::join_all(seats, &staffed::offer(tag), bench.args.at_once, &mut progress).await;
    let (pace, paced) = watch::channel(0);
    let (stop, stopped) = watch::channel(false);
    let mut playing = JoinSet::new();
    let measured = match agents {
        Ok(agents) => {
            for agent in agents {
                playing.spawn(agent.hold(paced.clone(), stopped.clone()));
            }
            measure(bench, tag, &names, &pace, &mut progress).await
        }
        Err(failure) => Err(failure),
    };
    // Whoever is gone needs no word.
    let _ = stop.send(true);
    playing.join_all().await;
    let left = played::forget(bench, names).await;
    if left > 0 {
        bench.out().note(&format!("{left} agents named bench-{tag}-… stay behind as offline"));
    }
    let report = CallsReport::new(bench.args.agents, bench.tasks(CALLS), measured?, place);
    print(bench.out(), &report, "", &report.place, &report.lines())?;
    Ok(exit::DONE)
}

async fn measure(
    bench: &Bench<'_>,
    tag: &str,
    agents: &[String],
    pace: &watch::Sender<u32>,
    progress: &mut Progress<'_>,
) -> Outcome<BTreeMap<&'static str, CallTimes>> {
    let held = staffed::occupied(bench, tag, bench.args.agents).await?;
    let mut calls = Calls { times: bench.tasks(CALLS), found: BTreeMap::new(), progress };
    let client = &bench.client;
    let run = held.r#ref.as_str();
    let agent = agents.first().map_or("", String::as_str);
    reads_of_runs(client, run, tag, &mut calls).await?;
    reads_of_fleet(client, agent, &mut calls).await?;
    reads_of_money(client, &mut calls).await?;
    changes_of_runs(client, tag, &mut calls).await?;
    changes_of_fleet(client, agent, tag, &mut calls).await?;
    let found = calls.found;
    pace.send_replace(AT_ONCE);
    staffed::finished(bench, &held).await?;
    Ok(found)
}

/// What was measured so far.
struct Calls<'a, 'b> {
    times: u32,
    found: BTreeMap<&'static str, CallTimes>,
    progress: &'a mut Progress<'b>,
}

impl Calls<'_, '_> {
    /// Makes one kind of call, again and again.
    async fn make<T>(&mut self, name: &'static str, call: impl AsyncFn() -> Outcome<T>) -> Outcome<()> {
        let mut took = Vec::new();
        for _ in 0..self.times {
            let start = Instant::now();
            call().await.map_err(|failure| failure.and_help(format!("it was measured as {name}")))?;
            took.push(start.elapsed());
            self.progress.tell(|| name.to_owned());
        }
        self.add(name, took);
        Ok(())
    }

    /// Makes two that undo each other.
    async fn make_both<T, U>(
        &mut self,
        names: [&'static str; 2],
        first: impl AsyncFn() -> Outcome<T>,
        second: impl AsyncFn(T) -> Outcome<U>,
    ) -> Outcome<()> {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..self.times {
            let start = Instant::now();
            let made = first().await?;
            took[0].push(start.elapsed());
            let start = Instant::now();
            second(made).await?;
            took[1].push(start.elapsed());
            self.progress.tell(|| names.join(", "));
        }
        for (name, took) in names.into_iter().zip(took) {
            self.add(name, took);
        }
        Ok(())
    }

    fn add(&mut self, name: &'static str, took: Vec<Duration>) {
        let p95_ms = Percentiles::at(&took, 95);
        let figures = Percentiles::of(took);
        self.found.insert(name, CallTimes { p50_ms: figures.p50, p95_ms, max_ms: figures.max });
    }
}

async fn reads_of_runs(client: &Client, run: &str, tag: &str, calls: &mut Calls<'_, '_>) -> Outcome<()> {
    let reference = Reference::parse(run)?;
    let task = format!("{run}/n0");
    calls.make("GetRun", async || client.run(&reference).await).await?;
    calls.make("ListRuns", async || client.list_runs(&[], "", 50).await).await?;
    let active = [RunState::Running];
    calls.make("ListRuns running", async || client.list_runs(&active, "", 50).await).await?;
    calls.make("GetTask", async || client.task(&task).await).await?;
    calls.make("ListTasks", async || client.tasks(&TaskQuery::all(run)).await).await?;
    calls.make("ExplainTask", async || client.explain(&task).await).await?;
    calls.make("ListDeadTasks", async || client.dead_tasks(50).await).await?;
    calls.make("ListArtifacts", async || client.artifacts(run).await).await?;
    let request = || Submission {
        spec: spec(1, || staffed::task(tag)),
        request_id: new_request_id(),
        validate_only: true,
    };
    calls.make("SubmitRun validate", async || client.submit(request()).await).await
}

async fn reads_of_fleet(client: &Client, agent: &str, calls: &mut Calls<'_, '_>) -> Outcome<()> {
    calls.make("GetStatus", async || client.status().await).await?;
    calls.make("ListAgents", async || client.agents().await).await?;
    calls.make("GetAgent", async || client.agent(agent).await).await?;
    calls.make("ListWorkers", async || client.workers().await).await?;
    calls.make("GetStorage", async || client.storage().await).await?;
    calls.make("ValidateWorkers", async || client.validate_workers(Vec::new()).await).await?;
    if let Some(worker) = client.workers().await?.first() {
        calls.make("GetWorker", async || client.worker(&worker.name).await).await?;
    }
    calls.make("ListWorkflows", async || client.workflows().await).await?;
    let flows = client.workflows().await?.workflows;
    if let Some(flow) = flows.first() {
        calls.make("GetWorkflow", async || client.workflow(&flow.name).await).await?;
        let call = WorkflowCall { name: flow.name.clone(), ..WorkflowCall::default() };
        calls.make("CompileWorkflow", async || client.compile(&call, true).await).await?;
    }
    Ok(())
}

async fn reads_of_money(client: &Client, calls: &mut Calls<'_, '_>) -> Outcome<()> {
    let query = v1::QueryCostsRequest::default();
    calls.make("QueryCosts", async || client.costs(&query).await).await?;
    calls.make("ListBudgets", async || client.budgets(true).await).await?;
    calls.make("GetLimits", async || client.limits("").await).await
}

async fn changes_of_runs(client: &Client, tag: &str, calls: &mut Calls<'_, '_>) -> Outcome<()> {
    let waiting = || spec(1, || staffed::task(tag));
    let cancel = async |run: v1::Run| client.cancel(&run.r#ref, "the measurement is over").await;
    calls.make_both(["SubmitRun", "CancelRun"], async || submit_run(client, waiting()).await, cancel).await
}

async fn changes_of_fleet(client: &Client, agent: &str, tag: &str, calls: &mut Calls<'_, '_>) -> Outcome<()> {
    let resume = async |_| client.resume(agent).await;
    calls
        .make_both(["DrainAgent", "ResumeAgent"], async || client.drain(agent, "bench").await, resume)
        .await?;
    let restored =
        || LabelAgentRequest { name: agent.to_owned(), restore: true, ..LabelAgentRequest::default() };
    calls.make("LabelAgent", async || client.label(restored()).await).await?;
    let name = format!("bench-{tag}");
    let budget = || Budget {
        name: name.clone(),
        // Nobody works by this name.
        scope: Some(BudgetScope { scope: Some(v1::budget_scope::Scope::Name(name.clone())) }),
        period: BudgetPeriod::Day.into(),
        limit: Some(BudgetLimit { runs: Some(1), mode: BudgetMode::Soft.into(), ..BudgetLimit::default() }),
    };
    let remove = async |_| client.remove_budget(&name).await;
    calls
        .make_both(["SetBudget", "RemoveBudget"], async || client.set_budget(budget()).await, remove)
        .await?;
    calls.make("ReloadWorkers", async || client.reload_workers().await).await
}
