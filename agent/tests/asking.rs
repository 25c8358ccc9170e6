//! Attempts whose requests pass their gateway, and the agent that decides over them: the runner, a real supervisor with its
//! gateway, an API of the test's own. The test is the CLI where it asks, and the coordinator where it is asked.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::wildcard_enum_match_arm,
    reason = "a test that cannot go on has failed"
)]

#[allow(dead_code, reason = "each test binary uses a part of it")]
#[path = "gateway/scene.rs"]
mod scene;
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use orch_agent::adoption::find;
use orch_agent::boottime::BootMillis;
use orch_agent::credentials::Pools;
use orch_agent::credentials::health::Checker;
use orch_agent::credentials::settings::{PoolSettings, Source};
use orch_agent::limits::Broker;
use orch_agent::limits::purse::Allowance;
use orch_agent::runner::claude::{ClaudeRunner, ClaudeSettings};
use orch_agent::runner::{
    AttemptHandle, AttemptKey, AttemptReport, ClaudeWork, LimitHit, Outcome, Renewal, Runner, Work,
    WorkerSettings, link,
};
use orch_agent::spool::{Entry, Inventory};
use orch_agent::supervisor::stop::StopCause;
use orch_proto::v1::agent_item::Item;
use orch_proto::v1::{self, PoolState};
use scene::{Api, Cli, KEY, STREAM, live, rest, start as beginning, stop, text, whole};
use support::agent::{Agent, DONE, INIT, claude_work, joined, spec, start};
use support::{PATIENCE, until};
use tokio::task::JoinSet;

/// Leaves word of its gateway, waits to be told how it ends, and ends so.
const CLI: &str = r#"printf '%s %s' "$ANTHROPIC_BASE_URL" "$ANTHROPIC_API_KEY" > door.tmp; mv door.tmp door
    while ! test -e stop; do sleep 0.02; done; cat stop; cat >/dev/null"#;

const KEYS: AttemptKey = AttemptKey { run: 7, task: 0, attempt: 1 };

/// An agent with one pool of an API key, an API, and a desk that knows the coordinator's word.
struct Scene {
    agent: Agent,
    api: Api,
    pools: Pools,
}

impl Scene {
    async fn new() -> Self {
        let (agent, api) = (Agent::new(), Api::start().await);
        let key = agent.dir.path().join("team-key");
        fs::write(&key, KEY).unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        let pool = PoolSettings::new("team", Source::ApiKey(key));
        let pools = Pools::open(&[pool], &agent.dir.path().join("data"), Checker::default()).unwrap();
        Self { agent, api, pools }
    }

    /// A process of the agent: its runner and its desk.
    fn process(&self, metered: bool) -> (ClaudeRunner, Broker) {
        drop(self.agent.claude(&format!("read -r line; {INIT}; {CLI}")));
        let broker = Broker::default();
        broker.session_up(3, Vec::new(), &[notice(PoolState::Open, metered)]);
        let dir = self.agent.dir.path();
        let settings = ClaudeSettings {
            pools: self.pools.clone(),
            api_base_url: Some(self.api.url.clone()),
            broker: broker.clone(),
            record_exchanges: true,
            ..self.agent.settings(&dir.join("claude"), dir.join("key"))
        };
        let runner = ClaudeRunner::new(self.agent.launcher.clone(), Arc::clone(&self.agent.homes), settings);
        (runner, broker)
    }

    /// Connections of the CLI, once it is up.
    async fn cli<const N: usize>(&self) -> [Cli; N] {
        let file = self.agent.work_dir().join("door");
        until("the CLI knows its gateway", || file.exists()).await;
        let said = fs::read_to_string(file).unwrap();
        let (door, token) = said.split_once(' ').unwrap();
        assert_ne!(token, KEY);
        let mut connections = Vec::new();
        for _ in 0..N {
            connections.push(Cli::new(door.trim_start_matches("http://"), token).await);
        }
        connections.try_into().ok().unwrap()
    }

    fn ends(&self, line: &str) {
        let printed = std::process::Command::new("sh").args(["-c", line]).output().unwrap().stdout;
        let stop = self.agent.work_dir().join("stop");
        fs::write(stop.with_extension("tmp"), printed).unwrap();
        fs::rename(stop.with_extension("tmp"), stop).unwrap();
    }
}

fn notice(state: PoolState, metered: bool) -> v1::PoolNotice {
    let left =
        Some(prost_types::Duration { seconds: 900, nanos: 0 }).filter(|_| state == PoolState::Exhausted);
    let window = if left.is_some() { "five_hour".to_owned() } else { String::new() };
    v1::PoolNotice {
        pool: "team".to_owned(),
        state: state.into(),
        left,
        window,
        metered,
        ..v1::PoolNotice::default()
    }
}

fn work(allowance: Option<Allowance>) -> Work {
    let worker = WorkerSettings { name: "marie".to_owned(), ..claude_work("x").worker };
    Work::Claude(Box::new(ClaudeWork { allowance, worker, ..claude_work("x") }))
}

/// What the desk says next that `pick` is looking for.
async fn said<T>(broker: &Broker, mut pick: impl FnMut(Item) -> Option<T>) -> T {
    let listen = async {
        loop {
            broker.due().await;
            if let Some(found) = broker.say().items.into_iter().find_map(&mut pick) {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, listen).await.expect("the desk says it")
}

/// The report of a meter for which so many requests wait.
async fn waiting(broker: &Broker, count: u32) -> v1::LimitReport {
    let pick = |item| match item {
        Item::Limits(report) if report.waiting == count => Some(report),
        _ => None,
    };
    said(broker, pick).await
}

fn give(broker: &Broker, report: &v1::LimitReport) {
    broker.grant(&v1::LimitGrant { meter: report.meter.clone(), granted: report.wanted });
}

fn running(runner: &ClaudeRunner, work: Work) -> (AttemptHandle, JoinSet<AttemptReport>) {
    start(runner.clone(), spec(work))
}

fn answered(input: u64, output: u64) -> scene::Reply {
    let body = [beginning(input, 0), text("hello"), stop(output)].concat();
    whole(200, &[STREAM], body)
}

#[tokio::test]
async fn a_request_waits_for_credit_and_the_gateways_ledger_is_the_bill_of_a_cli_that_gives_none() {
    let scene = Scene::new().await;
    let (runner, broker) = scene.process(true);
    let (handle, attempt) = running(&runner, work(None));
    let [mut cli] = scene.cli().await;
    scene.api.will(answered(1_000, 20));
    let ask = async {
        let answer = cli.ask(true, "hello").await;
        rest(answer).await.unwrap()
    };
    let decide = async {
        let report = waiting(&broker, 1).await;
        let meter = report.meter.clone().unwrap();
        assert_eq!(
            (meter.pool.as_str(), meter.model_class.as_str(), meter.worker.as_str()),
            ("team", "sonnet", "marie")
        );
        until("people are told", || handle.live.borrow().now.contains("rate limit of credential pool team"))
            .await;
        assert!(scene.api.seen().is_empty(), "it has not been asked");
        give(&broker, &report);
    };
    let (answer, ()) = tokio::join!(ask, decide);
    assert!(answer.contains("hello"));
    let seen = scene.api.seen();
    assert_eq!(seen[0].headers["x-api-key"], KEY);
    let dir = handle.live.borrow().attempt_dir.clone().unwrap();
    let recorded = fs::read_to_string(dir.join("exchanges/000001.jsonl")).unwrap();
    assert!(recorded.contains("hello") && recorded.contains("whole") && !recorded.contains(KEY));
    let used = said(&broker, |item| match item {
        Item::Limits(report) if report.used.is_some_and(|used| used.output_tokens > 0) => Some(report),
        _ => None,
    })
    .await;
    let (was, owed) = (used.used.unwrap(), used.wanted.unwrap());
    assert_eq!((was.requests, was.output_tokens, used.waiting), (1, 20, 0));
    assert_eq!(was.input_tokens + owed.input_tokens, 1_000, "what the bound did not foresee is owed");
    let no_bill = DONE.replace(
        r#","total_cost_usd":0.25,"modelUsage":{"m":{"inputTokens":3,"outputTokens":4,"costUSD":0.25}}"#,
        "",
    );
    scene.ends(&no_bill);
    let report = joined(attempt).await;
    assert_eq!(
        (report.outcome, report.pool.as_str(), report.api_requests),
        (Outcome::Ok, "team", 1),
        "{report:?}"
    );
    assert_eq!((report.usage.cost_micro_usd, report.usage.estimated), (3_000 + 300, false));
}

#[tokio::test]
async fn a_budget_that_is_spent_ends_the_attempt_also_where_a_sub_agent_asked() {
    let scene = Scene::new().await;
    let (runner, broker) = scene.process(false);
    let first = Allowance { micro_usd: Some(0), ..Allowance::default() };
    let (handle, attempt) = running(&runner, work(Some(first.clone())));
    let [mut cli] = scene.cli().await;
    let ask = async {
        let mut request = cli.request("POST /v1/messages", scene::question(true, "x"));
        request.headers_mut().insert("x-claude-code-agent-id", "a1".parse().unwrap());
        cli.send(request).await.status().as_u16()
    };
    let decide = async {
        let wanted = said(&broker, |item| match item {
            Item::Spending(spending) => Some(spending).filter(|spending| spending.wanted_micro_usd > 0),
            _ => None,
        });
        assert_eq!(wanted.await.spent_micro_usd, 0);
        let detail = "budget of run adhoc/7: $5.00 of $5.00".to_owned();
        broker.allow(KEYS, Allowance { spent: true, detail, seq: 1, ..first });
        broker.due().await;
        assert_eq!(broker.say().stops, [KEYS]);
        // So does the daemon.
        handle.stop.send_replace(Some(StopCause::Budget));
    };
    let (status, ()) = tokio::join!(ask, decide);
    assert_eq!((status, scene.api.seen().len()), (400, 0));
    let report = joined(attempt).await;
    assert_eq!(report.outcome, Outcome::Budget, "{report:?}");
    assert_eq!(report.detail, "the budget is spent: budget of run adhoc/7: $5.00 of $5.00");
}

#[tokio::test]
async fn a_window_that_is_used_up_ends_the_attempt_for_now_with_its_time() {
    let scene = Scene::new().await;
    let (runner, broker) = scene.process(false);
    let (_handle, attempt) = running(&runner, work(None));
    let [mut cli] = scene.cli().await;
    broker.notice(&notice(PoolState::Exhausted, false));
    let answer = cli.ask(true, "x").await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["x-should-retry"].to_str().unwrap()),
        (429, "false")
    );
    scene.ends(
        r#"echo '{"type":"result","subtype":"success","is_error":true,"num_turns":1,"api_error_status":429,"result":"x"}'"#,
    );
    let report = joined(attempt).await;
    let hit = LimitHit { pool: "team".to_owned(), window: "five_hour".to_owned(), exhausted: true };
    assert_eq!((report.outcome, report.limit), (Outcome::RateLimited, Some(hit)));
    let left = report.retry_after.unwrap();
    assert!(left > Duration::from_secs(800) && left <= Duration::from_secs(900), "{left:?}");
}

#[tokio::test]
async fn an_agent_that_died_finds_what_streams_and_what_waits_and_counts_nothing_twice() {
    let scene = Scene::new().await;
    let (runner, broker) = scene.process(true);
    let (_handle, mut attempt) = running(&runner, work(None));
    let [mut streaming, mut asking, mut done] = scene.cli().await;
    scene.api.will(answered(2_000, 10));
    let (_, ()) = tokio::join!(async { rest(done.ask(true, "first").await).await.unwrap() }, async {
        give(&broker, &waiting(&broker, 1).await)
    });
    let (pieces, reply) = live(200, &[STREAM]);
    scene.api.will(reply);
    pieces.send(Ok(beginning(1_000, 0).into())).await.unwrap();
    let (mut stream, ()) = tokio::join!(streaming.ask(true, "second"), async {
        let report = waiting(&broker, 1).await;
        let more = v1::Amounts { requests: 9, input_tokens: 99_999, output_tokens: 9_999, concurrent: 9 };
        broker.grant(&v1::LimitGrant { meter: report.meter, granted: Some(more) });
    });
    broker.notice(&notice(PoolState::Throttled, true));
    let mut third = Box::pin(asking.ask(true, "third"));
    tokio::select! {
        _ = &mut third => panic!("it was not let go"),
        report = waiting(&broker, 1) => assert_eq!(report.waiting, 1),
    }
    // The agent dies; its supervisor and the gateway in it do not.
    attempt.shutdown().await;
    pieces.send(Ok(text("on").into())).await.unwrap();
    assert!(scene::piece(&mut stream).await.unwrap().unwrap().contains("message_start"));

    let (runner, broker) = scene.process(true);
    let mut inventory = Inventory::default();
    inventory.apply(Entry::Accepted { key: KEYS, payload: Vec::new() });
    let (found, _) = find(&inventory, &scene.agent.homes, &scene.agent.launcher, |_| true).unwrap();
    let survivor = found.into_iter().next().unwrap().1;
    let (handle, ends) = link();
    let adopted = runner.adopt(KEYS, survivor, ends).unwrap();
    handle.renewals.send_replace(Some(Renewal { sent: BootMillis::now(), stop_after: PATIENCE }));
    let mut going_on = JoinSet::new();
    going_on.spawn(adopted.run);
    let again = waiting(&broker, 1).await;
    assert_eq!(again.used, Some(v1::Amounts::default()), "what was before is the former session's");
    scene.api.will(answered(500, 5));
    give(&broker, &again);
    let answer = rest(third.await).await.unwrap();
    assert!(answer.contains("hello"));
    pieces.send(Ok(stop(30).into())).await.unwrap();
    drop(pieces);
    rest(stream).await.unwrap();
    scene.ends("true");
    handle.stop.send_replace(Some(StopCause::Cancelled));
    let report = joined(going_on).await;
    assert_eq!((report.outcome, report.api_requests), (Outcome::Cancelled, 3), "{report:?}");
    let row = report.usage.models["claude-sonnet-5"];
    assert_eq!((row.input_tokens, row.output_tokens, report.usage.estimated), (3_500, 45, false));
}
