//! The API's ledger against ours: whatever happened to a run, the tokens that it is billed are those that the API counted.

use crate::stage::{Stage, figures, spec, until};
use orch_proto::v1::{self, CancelRunRequest, CostDimension, Outcome, QueryCostsRequest, RunSpec};
use orch_standin::api::{CacheRules, Ending, Entry, KeyRule, Latency, Setup};
use orch_tests::process::at_home_in;
use orch_tests::wait::until_async;
use std::time::Duration;

const POOL: &str = "north";
const PATIENCE: Duration = Duration::from_secs(120);
/// Of what was estimated, so much may be wrong, in thousandths.
const TOLERANCE: u64 = 50;

/// Input, output, read, written.
type Tokens = [u64; 4];

fn of_api(entries: &[Entry]) -> Tokens {
    entries.iter().fold([0; 4], |[input, output, read, written], entry| {
        let usage = entry.usage;
        [input + usage.input, output + usage.output, read + usage.cache_read, written + usage.cache_write]
    })
}

/// What we say a run has cost: tokens, and whether part of that is estimated.
async fn of_ours(stage: &Stage, run_ref: &str) -> (Tokens, bool, u64) {
    let query = QueryCostsRequest {
        by: vec![CostDimension::Run.into()],
        filters: vec![format!("run={run_ref}")],
        ..QueryCostsRequest::default()
    };
    let answer = stage.costs().query_costs(query).await.expect("costs").into_inner();
    let total = answer.total.unwrap_or_default();
    let usage = total.usage.unwrap_or_default();
    let tokens = [usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens];
    (tokens, total.estimated_micro_usd > 0, usage.cost_micro_usd)
}

fn far_off(ours: Tokens, api: Tokens) -> bool {
    let (ours, api): (u64, u64) = (ours.iter().sum(), api.iter().sum());
    ours.abs_diff(api) * 1_000 > api * TOLERANCE
}

/// What is done to a run while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meanwhile {
    Nothing,
    /// The API calls requests bad until the attempt has failed.
    Fails,
    /// A window is used up for two seconds.
    Window,
    /// The agent is killed and started again.
    AgentKilled,
    /// The CLI is killed in the middle of an answer.
    CliKilled,
    /// The run is cancelled in the middle of an answer.
    Cancelled,
}

struct Row {
    name: &'static str,
    directive: &'static str,
    schema: &'static str,
    meanwhile: Meanwhile,
    /// A result was seen of everything that was spent.
    exact: bool,
}

const fn row(name: &'static str, directive: &'static str, meanwhile: Meanwhile, exact: bool) -> Row {
    Row { name, directive, schema: "", meanwhile, exact }
}

const LONG: &str = r#"[[api {"calls":8,"input":400,"output":120,"grow":100}]]"#;

const ROWS: &[Row] = &[
    row("plain", r#"[[api {"calls":3,"input":500,"output":60,"grow":200}]]"#, Meanwhile::Nothing, true),
    row(
        "sub-agents",
        r#"[[api {"calls":2,"output":50,"subagents":2,"subagent":{"calls":3,"output":40,"grow":80}}]]"#,
        Meanwhile::Nothing,
        true,
    ),
    row(
        "retries of the CLI",
        r#"[[tool {"name":"StandinPad","input":{"tokens":50}}]][[error {"status":500,"times":2}]][[api {"calls":2,"output":30}]]"#,
        Meanwhile::Nothing,
        true,
    ),
    Row {
        name: "a repair",
        directive: r#"[[api {"calls":2,"output":40}]][[then {"prompt":"[[structured {\"n\":1}]]"}]]"#,
        schema: r#"{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"]}"#,
        meanwhile: Meanwhile::Nothing,
        exact: true,
    },
    row("another attempt", LONG, Meanwhile::Fails, true),
    row("parked and resumed", LONG, Meanwhile::Window, true),
    row("the agent killed", LONG, Meanwhile::AgentKilled, true),
    row("the CLI killed", LONG, Meanwhile::CliKilled, false),
    row("cancelled", LONG, Meanwhile::Cancelled, false),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_we_say_a_run_has_cost_is_what_the_api_counted() {
    let latency = Latency { first_byte: Duration::from_millis(60), tokens_per_second: Some(600) };
    let setup = Setup { cache: Some(CacheRules::default()), latency, ..Setup::default() };
    let mut stage = Stage::set("", setup, &[POOL]).await;
    stage.agent("box-1", POOL, &["--slots", "2"]);
    let mut wrong = Vec::new();
    for row in ROWS {
        let before = stage.api.entries().len();
        let mut spec = RunSpec { name: "ledger".to_owned(), ..spec(&[row.directive.to_owned()]) };
        if let Some(v1::task_spec::Runner::Worker(task)) = spec.tasks[0].runner.as_mut() {
            row.schema.clone_into(&mut task.output_schema);
        }
        let submitted = stage.client.submit(spec).await;
        hurt(&mut stage, row.meanwhile, before, &submitted.r#ref).await;
        stage.ended(&submitted.r#ref, PATIENCE).await;
        until("every request to end", || {
            let all = stage.api.entries();
            all.iter().all(|entry| entry.ending != Ending::Open).then_some(())
        })
        .await;
        let entries = stage.api.entries().split_off(before);
        wrong.extend(compare(&mut stage, row, &submitted.r#ref, &entries).await);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Says what both ledgers hold of a run, and what is wrong with ours.
async fn compare(stage: &mut Stage, row: &Row, run_ref: &str, entries: &[Entry]) -> Option<String> {
    let task = stage.client.tasks(run_ref).await.remove(0);
    let api = of_api(entries);
    if row.meanwhile == Meanwhile::Cancelled {
        // The bill of what is cancelled comes with the report of its end, after the run's; till then heartbeats count.
        let said = &*stage;
        until_async("the bill of a cancelled attempt", || async move {
            of_ours(said, run_ref).await.0.iter().any(|tokens| *tokens > 0).then_some(())
        })
        .await;
    }
    let (ours, estimated, micro_usd) = of_ours(stage, run_ref).await;
    let price: u64 = entries.iter().map(crate::stage::micro_usd).sum();
    figures(
        "ledger",
        &format!(
            "{}: {} requests, {} attempts, outcome {:?}: API {api:?}, ours {ours:?}{}; {price} against {micro_usd} millionths",
            row.name,
            entries.len(),
            task.attempt,
            task.outcome(),
            if estimated { " (estimated)" } else { "" },
        ),
    );
    let name = row.name;
    if row.meanwhile != Meanwhile::Cancelled && task.outcome() != Outcome::Ok {
        return Some(format!("{name}: {:?}: {}", task.outcome(), task.detail));
    }
    if row.exact || !estimated {
        let money = price.abs_diff(micro_usd) > entries.len() as u64;
        return (ours != api || estimated || money)
            .then(|| format!("{name}: {ours:?} instead of {api:?}, estimated {estimated}"));
    }
    let far = far_off(ours, api) || micro_usd.abs_diff(price) * 1_000 > price * TOLERANCE;
    far.then(|| format!("{name}: {ours:?} is far from {api:?}, or {micro_usd} from {price}"))
}

/// Waits until so many requests of a run have ended.
async fn answered(stage: &Stage, before: usize, count: usize) {
    until("requests of the run", || {
        let done =
            stage.api.entries().into_iter().skip(before).filter(|entry| entry.ending == Ending::Completed);
        (done.count() >= count).then_some(())
    })
    .await;
}

/// Waits until an answer is under way.
async fn answering(stage: &Stage, before: usize) {
    until("an answer under way", || {
        let mut open = stage.api.entries().into_iter().skip(before);
        open.any(|entry| entry.ending == Ending::Open && entry.begun.is_some()).then_some(())
    })
    .await;
}

async fn hurt(stage: &mut Stage, how: Meanwhile, before: usize, run_ref: &str) {
    match how {
        Meanwhile::Nothing => {}
        Meanwhile::Fails => {
            answered(stage, before, 2).await;
            stage.rule(POOL, KeyRule::Refuse(400));
            let task_ref = format!("{run_ref}/t0");
            let client = stage.client.clone();
            until_async("the attempt to fail", || {
                let (mut client, r#ref) = (client.clone(), task_ref.clone());
                async move {
                    let task =
                        client.runs.get_task(v1::GetTaskRequest { r#ref }).await.ok()?.into_inner().task?;
                    task.attempts.iter().any(|one| one.finished_at.is_some()).then_some(())
                }
            })
            .await;
            stage.rule(POOL, KeyRule::Serve);
        }
        Meanwhile::Window => {
            answered(stage, before, 2).await;
            stage.api.exhaust(POOL, "five_hour", 0, Duration::from_secs(2));
        }
        Meanwhile::AgentKilled => {
            answered(stage, before, 2).await;
            stage.fleet.agent_process("box-1").kill();
            stage.agent("box-1", POOL, &["--slots", "2"]);
        }
        Meanwhile::CliKilled => {
            answered(stage, before, 2).await;
            answering(stage, before).await;
            let dir = stage.fleet.agent_dir("box-1");
            for pid in at_home_in(&dir) {
                let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
                // One that is gone by now needs no signal.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        Meanwhile::Cancelled => {
            answered(stage, before, 2).await;
            answering(stage, before).await;
            let request = CancelRunRequest { r#ref: run_ref.to_owned(), ..CancelRunRequest::default() };
            stage.client.runs.cancel_run(request).await.expect("cancelled");
        }
    }
}
