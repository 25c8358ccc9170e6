//! A fleet that spends: two workflows with their bill, budgets with room and without, a pool that is used up and one
//! that nobody knows limits of, a run under a ceiling with a conversation that is parked.

use prost_types::{Duration, Timestamp};

use super::*;

/// Seconds of 2026-11-20T21:26:53Z.
const START: i64 = 1_795_210_013;
/// Midnight after it, UTC.
const MIDNIGHT: i64 = 1_795_219_200;
/// 2026-12-01, UTC.
const DECEMBER: i64 = 1_796_083_200;

fn at(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

/// A stage on which the scene is set.
pub(super) fn stage() -> Stage {
    let stage = scene::stage();
    {
        let mut held = stage.fake.held();
        held.money.costs = costs();
        held.money.budgets = budgets();
        held.money.pools = pools();
        held.money.estimate = Some(CostEstimate {
            p50_micro_usd: 420_000,
            p90_micro_usd: 900_000,
            samples: 37,
            unknown_tasks: 2,
        });
        let (run, tasks) = parked();
        held.explained.insert("nightly/9/audit".into(), explained(&tasks[0]));
        held.runs.push((run, tasks));
        held.specs.push(RunSpec::default());
        held.request_ids.push(String::new());
        let warn = |seq, run: &str, budget: &str, text: &str, mode: BudgetMode| WatchEvent {
            seq,
            run_ref: run.into(),
            time: at(START),
            change: Some(watch_event::Change::Budget(BudgetWarning {
                budget: budget.into(),
                text: text.into(),
                mode: mode.into(),
            })),
        };
        held.events = vec![
            warn(1, "nightly/9", "", "$4.00 of $5.00 of the run are spent", BudgetMode::Hard),
            warn(2, "", "team", "$40.00 of $50.00 a day are spent", BudgetMode::Drain),
            warn(
                3,
                "nightly/9",
                "",
                "audit has cost $0.90, three times what was expected",
                BudgetMode::Unspecified,
            ),
        ];
        held.status.0.event_seq = 3;
        held.agents.0[0].pools =
            vec![pool("team", PoolKind::ApiKey, true), pool("solo", PoolKind::Login, false)];
    }
    stage
}

fn pool(name: &str, kind: PoolKind, gateway: bool) -> Pool {
    let health = PoolHealth::Ready.into();
    Pool { name: name.into(), kind: kind.into(), health, gateway, exclusive: !gateway, ..Pool::default() }
}

fn row(keys: &[&str], attempts: [u64; 3], micro: u64, estimated: u64) -> CostRow {
    let [runs, attempts, attempts_ok] = attempts;
    let usage = ModelUsage {
        input_tokens: micro / 40,
        output_tokens: micro / 50,
        cache_read_tokens: micro / 4,
        cache_write_tokens: micro / 50,
        cost_micro_usd: micro,
        ..ModelUsage::default()
    };
    CostRow {
        keys: keys.iter().map(ToString::to_string).collect(),
        usage: Some(usage),
        estimated_micro_usd: estimated,
        attempts,
        attempts_ok,
        runs,
    }
}

fn costs() -> QueryCostsResponse {
    QueryCostsResponse {
        rows: vec![
            row(&["release-notes", "marie", "claude-sonnet"], [41, 164, 156], 71_200_000, 0),
            row(&["nightly", "anga", "claude-opus"], [14, 71, 56], 60_030_000, 410_000),
            row(&["adhoc", "fabien", "claude-haiku"], [212, 212, 212], 1_600, 0),
            row(&["=cmd|' /C calc'!A0, \"x\"", "", ""], [1, 1, 0], 0, 0),
        ],
        total: Some(row(&[], [268, 448, 424], 131_231_600, 410_000)),
        more: 3,
        forecast: Some(CostForecast {
            today_micro_usd: 11_020_000,
            day_micro_usd: 14_100_000,
            month_so_far_micro_usd: 151_330_000,
            month_micro_usd: 226_900_000,
            basis: "the last 7 days".into(),
        }),
        prices_as_of: "2026-11-20".into(),
        running_micro_usd: 1_230_000,
        warnings: vec![
            "anga: 4% of its input came from the cache since its prompt changed, 81% before".into(),
        ],
        kept_since: at(START - 30 * 86_400),
    }
}

fn budgets() -> Vec<BudgetUse> {
    use budget_scope::Scope;
    let standing = |name: &str, scope: Scope, period: BudgetPeriod, limit: BudgetLimit| Budget {
        name: name.into(),
        scope: Some(BudgetScope { scope: Some(scope) }),
        period: period.into(),
        limit: Some(limit),
    };
    let spent = |micro_usd, tokens, runs| Some(Spent { micro_usd, tokens, runs });
    let usd = |micro_usd, mode: BudgetMode| BudgetLimit {
        micro_usd: Some(micro_usd),
        mode: mode.into(),
        ..BudgetLimit::default()
    };
    let nightly = BudgetLimit {
        tokens: Some(40_000_000),
        runs: Some(20),
        mode: BudgetMode::Drain.into(),
        ..BudgetLimit::default()
    };
    vec![
        BudgetUse {
            budget: Some(standing(
                "marie",
                Scope::Worker("marie".into()),
                BudgetPeriod::Month,
                usd(200_000_000, BudgetMode::Soft),
            )),
            spent: spent(71_200_000, 0, 0),
            resets_at: at(DECEMBER),
            ..BudgetUse::default()
        },
        BudgetUse {
            budget: Some(standing("nightly", Scope::Name("nightly".into()), BudgetPeriod::Day, nightly)),
            spent: spent(60_030_000, 33_400_000, 20),
            reserved: spent(0, 200_000, 0),
            resets_at: at(MIDNIGHT),
            state: "20 of 20 runs: no run of this name is taken until midnight UTC".into(),
            ..BudgetUse::default()
        },
        BudgetUse {
            budget: Some(standing(
                "old",
                Scope::Pool("team".into()),
                BudgetPeriod::Total,
                usd(1_000_000, BudgetMode::Hard),
            )),
            spent: spent(1_010_000, 0, 0),
            estimated_micro_usd: 10_000,
            state: "$1.01 of $1.00: 4 tasks wait".into(),
            ..BudgetUse::default()
        },
        of_the_run(),
    ]
}

fn of_the_run() -> BudgetUse {
    BudgetUse {
        spent: Some(Spent { micro_usd: 3_100_000, tokens: 0, runs: 0 }),
        reserved: Some(Spent { micro_usd: 400_000, tokens: 0, runs: 0 }),
        limit: Some(BudgetLimit { micro_usd: Some(5_000_000), ..BudgetLimit::default() }),
        run_ref: "nightly/9".into(),
        ..BudgetUse::default()
    }
}

fn pools() -> Vec<PoolLimits> {
    let bucket = |class: &str, worker: &str, unit: &str, limit: u64, free: u64| BucketView {
        model_class: class.into(),
        worker: worker.into(),
        unit: unit.into(),
        limit,
        free,
        leased: limit / 50,
        used: limit - free - limit / 50,
        source: "configured".into(),
        pace_permille: 1000,
    };
    let team = PoolLimits {
        pool: "team".into(),
        state: PoolState::Exhausted.into(),
        until: at(START + 367),
        left: Some(Duration { seconds: 180, nanos: 0 }),
        detail: "window five_hour is used up".into(),
        buckets: vec![
            bucket("", "", "requests", 4_000, 3_100),
            bucket("", "", "input tokens", 400_000, 120_000),
            bucket("opus", "marie", "input tokens", 100_000, 40_000),
            BucketView {
                pace_permille: 500,
                source: "headers".into(),
                ..bucket("opus", "marie", "output tokens", 20_000, 0)
            },
        ],
        agents: vec!["box-1".into(), "box-2".into()],
        waiting: 3,
        in_flight: 2,
        max_in_flight: 8,
        parked: 4,
        warnings: vec!["box-1 and box-2 hold different credentials under this name".into()],
        throttled: 1,
        share_permille: 500,
    };
    let solo = PoolLimits { pool: "solo".into(), agents: vec!["box-3".into()], ..PoolLimits::default() };
    vec![solo, team]
}

fn parked() -> (Run, Vec<Task>) {
    let usage = Usage { cost_micro_usd: 3_100_000, estimated: true, ..Usage::default() };
    let task = Task {
        r#ref: "nightly/9/audit".into(),
        task_id: "audit".into(),
        state: TaskState::Parked.into(),
        worker: "anga".into(),
        runner: "claude".into(),
        attempt: 1,
        agent: "box-1".into(),
        pool: "team".into(),
        detail: "window five_hour of pool team is used up".into(),
        retry_at: at(START + 367),
        usage: Some(usage.clone()),
        expected_cost_micro_usd: Some(300_000),
        ..Task::default()
    };
    let run = Run {
        r#ref: "nightly/9".into(),
        state: RunState::Running.into(),
        created_at: at(START),
        task_count: 1,
        usage: Some(usage),
        budget: Some(of_the_run()),
        ..Run::default()
    };
    (run, vec![task])
}

fn explained(task: &Task) -> ExplainTaskResponse {
    let reason = |kind: &str, satisfied, text: &str| Reason {
        kind: kind.into(),
        satisfied,
        text: text.into(),
        left: None,
    };
    let closed = Reason {
        left: Some(Duration { seconds: 180, nanos: 0 }),
        ..reason("limit", false, "window five_hour of pool team is used up for another 3 min")
    };
    ExplainTaskResponse {
        task: Some(task.clone()),
        summary: "parked: window five_hour of pool team is used up".into(),
        reasons: vec![
            reason("budget", true, "$3.10 of $5.00 of the run are spent"),
            closed,
            reason("warming", true, "the prompt cache knows its beginning"),
        ],
        help: "orchctl limits team".into(),
        since: Some(Duration { seconds: 187, nanos: 0 }),
        ..ExplainTaskResponse::default()
    }
}

#[tokio::test]
async fn a_query_says_what_was_asked_and_from_when() {
    let stage = stage();
    let line = "costs --by worker,model --since 7d --until 2026-11-20 --filter worker=marie --filter day=2026-11-19 \
                --limit 3";
    assert_eq!(stage.run(line).await.code, exit::DONE);
    let held = stage.fake.held();
    let query = &held.money.queries[0];
    assert_eq!(query.by, [i32::from(CostDimension::Worker), i32::from(CostDimension::Model)]);
    let day = 86_400;
    let seconds = |at: Option<Timestamp>| at.unwrap().seconds;
    assert_eq!(seconds(query.until), MIDNIGHT - day);
    assert_eq!(seconds(query.since), "2026-11-13T21:30:00Z".parse::<jiff::Timestamp>().unwrap().as_second());
    assert_eq!(
        (query.filters.as_slice(), query.limit),
        (&["worker=marie".into(), "day=2026-11-19".into()][..], 3)
    );
}

#[tokio::test]
async fn wrong_input_is_told_before_anybody_is_asked() {
    let stage = stage();
    for line in [
        "costs --by worker,worker",
        "costs --by worker,model,day,agent",
        "costs --since 2026-11-20 --until 2026-11-01",
        "budgets set Team --usd 5",
        "budgets set nightly/9 5 --per day",
        "budgets set nightly/9 5 --on worker=anga",
        "budgets set nightly/9/audit 5",
        "budgets set nightly/x 5",
        "budgets remove nightly/9/audit",
        "submit --runner noop --budget 5",
        "watch adhoc/2 -o csv",
    ] {
        let ran = stage.run(line).await;
        assert_eq!(ran.code, exit::USAGE, "{line}: {}", ran.stderr);
    }
    assert!(stage.fake.held().calls.is_empty());
    for line in [
        "costs --by nonsense",
        "costs --since yesterday",
        "costs --filter marie",
        "costs --filter size=3",
        "budgets set team",
        "budgets set team --usd much",
        "budgets set team --usd 5 --on marie",
        "budgets set team --usd 5 --per week",
        "budgets set team --runs 0",
        "budgets set team 5 --usd 6",
        "budgets set team 5eur",
        "retry nightly/9 --budget much",
        "run --budget 5eur x",
        "run --budget-mode soft x",
    ] {
        let parsed = Cli::try_parse_from(words(line)).map(|_| ()).unwrap_err();
        assert_eq!(parsed.exit_code(), i32::from(exit::USAGE), "{line}");
    }
}

#[tokio::test]
async fn a_spreadsheet_gets_rows_and_no_formula() {
    let ran = stage().run("costs --by name,worker -o csv").await;
    let mut lines = ran.stdout.lines();
    let header = "name,worker,runs,attempts,attempts_ok,cost_usd,estimated_usd,tokens.input,tokens.output,\
                  tokens.cache_read,tokens.cache_write,cache_hit";
    assert_eq!(lines.next(), Some(header));
    let odd = ran.stdout.lines().last().unwrap();
    assert_eq!(odd, r#""'=cmd|' /C calc'!A0, ""x""",,1,1,0,0.0,0.0,0,0,0,0,"#);
    assert_eq!(ran.stdout.lines().count(), 5, "sums are reckoned in the spreadsheet");
    let empty = scene::stage().run("costs --by day -o csv").await;
    assert_eq!(empty.stdout, header.replace("name,worker", "day") + "\n");
    let chosen = stage().run("costs --fields name,tokens.output -o csv").await;
    assert!(chosen.stdout.starts_with("name,tokens.output\nrelease-notes,1424000\n"), "{}", chosen.stdout);
}

#[tokio::test]
async fn a_submit_without_room_in_a_budget_exits_7() {
    let stage = stage();
    let refusal =
        errors::refusal(orch_proto::codes::ErrorCode::OverBudget, "budget nightly: 20 of 20 runs a day");
    stage.fake.held().failures.push_back(refusal);
    let ran = stage.run("submit --worker anga hello").await;
    assert_eq!(ran.code, 7, "{}", ran.stderr);
    assert!(ran.stderr.contains("error[E0406]: budget nightly"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_ceiling_of_flags_reaches_runs_files_and_workflows() {
    let stage = workflows::stage();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("run.json");
    std::fs::write(
        &file,
        r#"{"budget_usd":9,"budget_mode":"soft","tasks":[{"worker":"anga","description":"x"}]}"#,
    )
    .unwrap();
    let file = file.display();
    for line in [
        "submit --worker anga hello --budget 5".to_owned(),
        "submit --budget 5 --budget-mode drain Evaluate".to_owned(),
        format!("submit -f {file}"),
        format!("submit -f {file} --budget 200ktok"),
        "workflows run complex-choreography --set title=Dawn --detach --budget 5".to_owned(),
        "batch batch-evaluation --roster src/commands/tests/students.csv --detach --budget 5".to_owned(),
    ] {
        let ran = stage.run(&line).await;
        assert_eq!(ran.code, exit::DONE, "{line}: {}", ran.stderr);
    }
    let held = stage.fake.held();
    let limits: Vec<_> = held.specs.iter().rev().take(6).rev().map(|spec| spec.budget.unwrap()).collect();
    let said: Vec<_> = limits.iter().map(|limit| (limit.micro_usd, limit.tokens, limit.mode())).collect();
    let five = (Some(5_000_000), None, BudgetMode::Hard);
    let of_the_file = (Some(9_000_000), None, BudgetMode::Soft);
    let tokens = (None, Some(200_000), BudgetMode::Hard);
    let drain = (Some(5_000_000), None, BudgetMode::Drain);
    assert_eq!(said, [five, drain, of_the_file, tokens, five, five]);
    let single = &held.specs[held.specs.len() - 6].tasks[0];
    let Some(task_spec::Runner::Worker(work)) = &single.runner else { panic!("no worker") };
    assert_eq!(work.budget_micro_usd, Some(5_000_000), "the CLI keeps to it as well");
}

#[tokio::test]
async fn the_budget_of_a_run_is_changed_by_its_reference_and_by_what_is_said_alone() {
    let stage = stage();
    let ran = stage.run("budgets set nightly/9 10usd").await;
    assert_eq!(ran.code, exit::DONE, "{}", ran.stderr);
    assert_eq!(ran.stdout, "budget of nightly/9: changed; $3.10 of $10.00, $0.40 held\n");
    let said = |stage: &Stage| {
        let limit = stage.fake.held().money.run_limits.pop().unwrap();
        (limit.micro_usd, limit.tokens, limit.runs, limit.mode())
    };
    assert_eq!(said(&stage), (Some(10_000_000), None, None, BudgetMode::Unspecified));
    stage.run("budgets set nightly/9 --tokens 2M --runs 7 --mode drain").await;
    assert_eq!(said(&stage), (None, Some(2_000_000), Some(7), BudgetMode::Drain));
    let removed = stage.run("budgets remove nightly/9").await;
    assert_eq!(removed.stdout, "budget of nightly/9: removed; it limits nothing any more\n");
    assert_eq!(stage.run("budgets remove nightly/9").await.code, exit::NOT_FOUND);
    assert_eq!(stage.run("retry nightly/9 --budget 5usd,1Mtok").await.code, exit::DONE);
    let retried = stage.fake.held().retried.pop().unwrap().budget.unwrap();
    assert_eq!((retried.micro_usd, retried.tokens), (Some(5_000_000), Some(1_000_000)));
    assert_eq!(retried.mode(), BudgetMode::Unspecified, "what is not said stays");
}

#[tokio::test]
async fn the_clock_of_this_machine_decides_nothing_about_limits() {
    // The moment of the coordinator is 367 s after the scene began, the clock of this machine elsewhere: 180 s are left.
    let shown = stage().run("limits team --time iso").await.stdout;
    let at = "2026-11-20T21:33:00Z";
    assert!(shown.contains(&format!("exhausted  for 3m00s (until {at})")), "{shown}");
    let explained = stage().run("explain nightly/9/audit --time iso").await.stdout;
    assert!(explained.contains(&format!("for another 3 min (until {at})")), "{explained}");
    assert!(explained.contains(&format!("goes on at {at} (in 3m00s)")), "{explained}");
}

#[tokio::test]
async fn status_tells_of_pools_only_when_one_is_not_as_it_should_be() {
    let ran = stage().run("status").await;
    assert!(
        ran.stdout.contains("pools    team used up for 3m00s (until 21:33:00), 4 parked\n"),
        "{}",
        ran.stdout
    );
    let well = scene::stage().run("status").await;
    assert!(!well.stdout.contains("pools"), "{}", well.stdout);
}

#[tokio::test]
async fn events_that_are_late_are_told_all_the_same() {
    let stage = stage();
    stage.fake.held().silence = std::time::Duration::from_millis(1_500);
    let ran = stage.run("events").await;
    assert_eq!((ran.code, ran.stdout.lines().count()), (exit::DONE, 3), "{}", ran.stdout);
    assert_eq!(ran.stderr, "", "no terminal waits here");
}

#[tokio::test]
async fn limits_are_shown_again_and_again() {
    let stage = stage();
    let line = "limits solo --watch";
    let watched = tokio::time::timeout(std::time::Duration::from_secs(20), async {
        let run = stage.run(line);
        tokio::pin!(run);
        loop {
            tokio::select! {
                ran = &mut run => return ran.code,
                () = tokio::time::sleep(std::time::Duration::from_millis(20)) => {}
            }
            let mut held = stage.fake.held();
            if held.calls.iter().filter(|call| **call == "limits").count() >= 2 {
                held.failures.push_back(Status::invalid_argument("enough"));
            }
        }
    });
    assert_eq!(watched.await.unwrap(), exit::USAGE, "what is wrong ends it");
}
