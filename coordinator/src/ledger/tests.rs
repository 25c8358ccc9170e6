//! The ledger under a real engine: in the same commit as the record, equal to it whatever crashes, and forgotten in time.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use super::*;
use crate::engine::Outbound;
use crate::engine::tests::support::{Agent, Bench, TENANT, noops, soon, target};
use crate::store::{Key, Kind, Prefix, Tenant};
use orch_core::event::{Event, HeldAttempt, Report};
use orch_core::ids::AttemptKey;
use orch_core::outcome::Outcome;
use orch_core::query::{Answer as Answered, Query};
use orch_core::time::Span;
use orch_core::usage::{ModelUsage, Usage};
use orch_proto::store::v1::RunRecord;
use orch_proto::v1;
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::collections::BTreeMap;

fn spent(model: &str, input: u64, micro_usd: u64) -> Usage {
    let row = ModelUsage {
        model: Arc::from(model),
        input,
        output: 2 * input,
        cache_read: 3 * input,
        cache_write: 4,
        cost_micro_usd: micro_usd,
    };
    Usage { models: vec![row], cost_micro_usd: micro_usd, estimated: false }
}

async fn report(bench: &Bench, agent: &Agent, attempt: AttemptKey, usage: Usage) {
    let report = Report {
        attempt,
        outcome: Outcome::OK,
        detail: Arc::from(""),
        usage,
        digest: [2; 32],
        duration: Span(5),
        retry_after: None,
        payload: Arc::from(&b""[..]),
        pool: "main".into(),
        limit: None,
    };
    let accepted = Event::AttemptAccepted { session: agent.session, attempt };
    let reported = Event::AttemptReported { session: agent.session, report: Box::new(report) };
    bench.handle.apply_all(vec![accepted, reported]).await.unwrap();
}

fn by(dimensions: &[Dimension]) -> Question {
    Question {
        tenant: TENANT,
        tenant_name: "default".to_owned(),
        by: dimensions.to_vec(),
        since: None,
        until: None,
        filters: Vec::new(),
        limit: MAX_ROWS,
    }
}

async fn pages(bench: &Bench) -> usize {
    bench.status().await;
    let prefix = Prefix::kind(Tenant::CLUSTER, Kind::Ledger);
    bench.store.inner.scan(&prefix, None, 1_000).unwrap().len()
}

#[tokio::test]
async fn what_an_attempt_cost_is_found_once_its_report_is_acknowledged_and_after_a_crash() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 4, 64).await;
    agent.welcome().await;
    bench.submit(noops(2), "").await;
    let (first, second) = (agent.grant().await, agent.grant().await);
    report(&bench, &agent, first, spent("claude-opus-4-8", 10, 700)).await;
    while !matches!(agent.word().await, Outbound::ReportVerdict { .. }) {}
    let answer = bench.handle.ledger().split(by(&[Dimension::Task, Dimension::Pool])).await.unwrap();
    assert_eq!(answer.rows[0].keys, ["adhoc/1/t0", "main"]);
    assert_eq!((answer.total.micro_usd, answer.total.cache_read), (700, 30));
    assert_eq!(pages(&bench).await, 1);
    report(&bench, &agent, second, Usage::default()).await;
    while !matches!(agent.word().await, Outbound::ReportVerdict { .. }) {}
    assert_eq!(pages(&bench).await, 1, "what cost nothing has no page");
    let today = bench.handle.metrics().cost_today_micro_usd();
    assert_eq!(today, 700);

    let bench = bench.crash_and_restart(1).await;
    let again = bench.handle.ledger().split(by(&[])).await.unwrap();
    assert_eq!(again.total, answer.total);
    assert_eq!(bench.handle.metrics().cost_today_micro_usd(), 700, "a start finds what was spent today");
    assert!(bench.handle.ledger().book().forecast(TENANT, bench.handle.wall()).is_some());
}

/// A coordinator, an agent, and what was submitted: one step of chance at a time.
struct Chance {
    bench: Bench,
    agent: Agent,
    held: Vec<AttemptKey>,
    /// Cancelled or lost, and not yet billed.
    owed: Vec<AttemptKey>,
    runs: Vec<String>,
    random: StdRng,
    seq: u64,
    crashes: u32,
    late_bills: u32,
}

impl Chance {
    async fn begin(seed: u64) -> Self {
        let bench = Bench::start().await;
        let mut agent = bench.agent("box-1", 8, 4_096).await;
        agent.welcome().await;
        let random = StdRng::seed_from_u64(seed);
        Self {
            bench,
            agent,
            held: Vec::new(),
            owed: Vec::new(),
            runs: Vec::new(),
            random,
            seq: 0,
            crashes: 0,
            late_bills: 0,
        }
    }

    fn usage(&mut self) -> Usage {
        let model = ["claude-opus-4-8", "claude-haiku-4-5"][self.random.random_range(0..2)];
        let micro = self.random.random_range(0..5_000);
        let mut usage = spent(model, self.random.random_range(0..900), micro);
        usage.estimated = self.random.random_bool(0.2);
        usage
    }

    fn take_words(&mut self) {
        while let Ok(word) = self.agent.words.try_recv() {
            match word {
                Outbound::Grant { attempt, .. } => self.held.push(attempt),
                Outbound::Stop { attempt, .. } => {
                    self.held.retain(|held| *held != attempt);
                    self.owed.push(attempt);
                }
                _ => {}
            }
        }
    }

    async fn step(mut self) -> Self {
        self.bench.clock.advance(Span(self.random.random_range(1..2_000)));
        self.take_words();
        match self.random.random_range(0..12) {
            0..3 => {
                let (run, _) = self.bench.submit(noops(self.random.random_range(1..4)), "").await;
                self.runs.push(run.run_ref.to_string());
            }
            3..7 => {
                if let Some(attempt) = self.held.pop() {
                    let usage = self.usage();
                    report(&self.bench, &self.agent, attempt, usage).await;
                }
            }
            7..9 => {
                self.seq += 1;
                let cost_micro_usd = 40 + self.seq;
                let held =
                    |attempt: &AttemptKey| HeldAttempt { attempt: *attempt, num_turns: 1, cost_micro_usd };
                let (session, held) = (self.agent.session, self.held.iter().map(held).collect());
                let beat = Event::HeartbeatReceived { session, seq: self.seq, held, load_millis: 0 };
                self.bench.handle.apply(beat).await.unwrap();
            }
            9 => {
                if let Some(run_ref) = self.runs.last() {
                    let target = target(run_ref, None);
                    let cancel =
                        move |token| Event::CancelRequested { token, target, reason: Arc::from("chance") };
                    soon("a cancel", self.bench.handle.request(cancel)).await.unwrap();
                }
            }
            10 => {
                if let Some(attempt) = self.owed.pop() {
                    let usage = self.usage();
                    report(&self.bench, &self.agent, attempt, usage).await;
                    self.late_bills += 1;
                }
            }
            _ => self = self.crash().await,
        }
        self
    }

    async fn crash(mut self) -> Self {
        let seed = self.random.random();
        self.bench = self.bench.crash_and_restart(seed).await;
        self.agent = self.bench.agent("box-1", 8, 4_096).await;
        self.held.clear();
        self.crashes += 1;
        self
    }

    /// What the record of a run says it cost, wherever the run is now.
    async fn recorded(&self, run_ref: &str) -> v1::Usage {
        if let Answered::Run(run) = self.bench.ask(Query::Run(target(run_ref, None))).await {
            return crate::rpc::convert::usage(&run.usage);
        }
        let found = self.bench.handle.resolve(target(run_ref, None)).await.unwrap();
        let key = Key::run(Tenant::DEFAULT, found.unwrap().0.0);
        let record = RunRecord::decode(&*self.bench.store.inner.get(&key).unwrap().unwrap()).unwrap();
        record.task.map_or(record.usage, |task| task.usage).unwrap_or_default()
    }

    /// Every run's sum in the ledger is that of its record.
    async fn check(&self) {
        self.bench.status().await;
        let answer = self.bench.handle.ledger().split(by(&[Dimension::Run])).await.unwrap();
        let rows: BTreeMap<_, _> =
            answer.rows.into_iter().map(|row| (row.keys[0].clone(), row.sums)).collect();
        for run_ref in &self.runs {
            let usage = self.recorded(run_ref).await;
            let sums = rows.get(run_ref).cloned().unwrap_or_default();
            let total = |part: fn(&v1::ModelUsage) -> u64| usage.models.iter().map(part).sum::<u64>();
            assert_eq!(sums.micro_usd, i128::from(usage.cost_micro_usd), "{run_ref}");
            assert_eq!(sums.input, total(|row| row.input_tokens), "{run_ref}");
            assert_eq!(sums.output, total(|row| row.output_tokens), "{run_ref}");
            assert_eq!(sums.cache_read, total(|row| row.cache_read_tokens), "{run_ref}");
            assert_eq!(sums.cache_write, total(|row| row.cache_write_tokens), "{run_ref}");
            assert!(sums.estimated >= 0 && sums.estimated <= sums.micro_usd, "{run_ref}: {sums:?}");
        }
    }
}

#[tokio::test]
async fn the_ledger_is_the_sum_of_the_records_whatever_ends_and_whenever_the_coordinator_is_killed() {
    let seeds = std::env::var("ORCH_TORTURE_LEDGER").ok().and_then(|text| text.parse().ok()).unwrap_or(6);
    let (mut crashes, mut late_bills) = (0, 0);
    for seed in 0..seeds {
        let mut chance = Chance::begin(seed).await;
        for step in 0..60 {
            chance = chance.step().await;
            if step % 10 == 0 {
                chance.check().await;
            }
        }
        chance = chance.crash().await;
        chance.check().await;
        crashes += chance.crashes;
        late_bills += chance.late_bills;
    }
    assert!(crashes > 5 && late_bills > 5, "{crashes} crashes, {late_bills} late bills");
}

#[tokio::test]
async fn old_pages_are_forgotten_by_their_ticks_and_not_by_a_wrong_wall_clock() {
    let bench = Bench::start().await;
    let mut agent = bench.agent("box-1", 4, 256).await;
    agent.welcome().await;
    for _ in 0..3 {
        bench.submit(noops(1), "").await;
        let attempt = agent.grant().await;
        report(&bench, &agent, attempt, spent("m", 1, 5)).await;
        while !matches!(agent.word().await, Outbound::ReportVerdict { .. }) {}
        bench.clock.advance(Span::seconds(10));
    }
    let ledger = bench.handle.ledger();
    let due = |keep, now| retention::due(&ledger, keep, now);
    let now = bench.status().await.tick;
    assert_eq!(due(retention::KEEP, now).await.unwrap(), []);
    let old = due(Span::seconds(15), now).await.unwrap();
    assert_eq!(old.len(), 2, "{old:?}");
    assert_eq!(ledger.split(by(&[])).await.unwrap().kept_since, None);
    bench.handle.forget(old).await.unwrap();
    assert_eq!(pages(&bench).await, 1);
    assert!(ledger.split(by(&[])).await.unwrap().kept_since.is_some(), "something is gone");
    // The number of a page that is gone is not used again.
    let bench = bench.crash_and_restart(0).await;
    let mut agent = bench.agent("box-1", 4, 256).await;
    agent.welcome().await;
    bench.submit(noops(1), "").await;
    let attempt = agent.grant().await;
    report(&bench, &agent, attempt, spent("m", 1, 5)).await;
    while !matches!(agent.word().await, Outbound::ReportVerdict { .. }) {}
    let prefix = Prefix::kind(Tenant::CLUSTER, Kind::Ledger);
    let keys: Vec<Key> =
        bench.store.inner.scan(&prefix, None, 10).unwrap().into_iter().map(|(key, _)| key).collect();
    let numbers: Vec<_> = keys
        .iter()
        .map(|key| match key.entity() {
            Ok(crate::store::Entity::LedgerPage { number, .. }) => number,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(numbers, [3, 4]);
}
