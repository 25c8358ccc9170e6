//! What attempts may spend is durable before it is said, and a crash forgets none of it.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever else comes fails the test")]

use super::support::*;
use crate::engine::Outbound;
use crate::store::{Key, Store as _, Tenant};
use crate::submission::CheckedRun;
use orch_core::budgets::{
    Allowance, Budget, BudgetLimit, BudgetPeriod, BudgetScope, BudgetView, Spending, Spent,
};
use orch_core::event::{AgentHello, Event};
use orch_core::ids::AttemptKey;
use orch_core::query::{Answer, Query};
use orch_proto::store::v1 as record;
use prost::Message as _;
use std::sync::Arc;
use tokio::sync::mpsc;

fn usd(micro_usd: u64) -> BudgetLimit {
    BudgetLimit { micro_usd: Some(micro_usd), ..BudgetLimit::default() }
}

/// Two tasks that ask an API, as far as the core sees, under a budget.
fn costly() -> CheckedRun {
    let mut run = noops(2);
    for task in &mut run.tasks {
        task.requires = ["runner=claude".to_owned()].into();
    }
    run.budget = Some(usd(8_000_000));
    run
}

async fn claude(bench: &Bench) -> Agent {
    let (outbound, words) = mpsc::channel(64);
    let session = bench.handle.open_session(outbound).await.unwrap();
    let hello = AgentHello {
        session,
        tenant: TENANT,
        name: Arc::from("box-1"),
        incarnation: [1; 16],
        keeps_allowances: true,
        slots: 1,
        capabilities: vec![Arc::from("runner=claude")],
        inventory: Vec::new(),
        conversations: Vec::new(),
        pools: Vec::new(),
    };
    bench.handle.apply(Event::AgentJoined(Box::new(hello))).await.unwrap();
    let mut agent = Agent::new(session, words, bench.handle.clone());
    agent.welcome().await;
    agent
}

async fn wants(bench: &Bench, agent: &Agent, attempt: AttemptKey, micro_usd: u64) {
    let wanted = Spent { micro_usd, ..Spent::default() };
    let none = Spent::default();
    let spending = Spending {
        attempt,
        spent: none,
        bound: none,
        wanted,
        in_flight: 0,
        estimated: false,
        seen: u64::MAX >> 1,
    };
    let event = Event::SpendingReported { session: agent.session, spending };
    bench.handle.apply(event).await.unwrap();
}

async fn allowance(agent: &mut Agent) -> Allowance {
    match agent.word().await {
        Outbound::Allowance { allowance, .. } => allowance,
        other => panic!("{other:?}"),
    }
}

async fn budgets(bench: &Bench) -> Vec<BudgetView> {
    match bench.ask(Query::Budgets(true)).await {
        Answer::Budgets(views) => views,
        other => panic!("{other:?}"),
    }
}

/// What the store says that an attempt was promised.
fn promised(bench: &Bench, attempt: AttemptKey) -> u64 {
    let key = Key::task(Tenant::DEFAULT, attempt.task.run.0, attempt.task.index.0);
    let payload = bench.store.get(&key).unwrap().unwrap();
    record::TaskRecord::decode(&*payload).unwrap().allowed_micro_usd
}

#[tokio::test]
async fn no_allowance_leaves_before_its_promise_is_durable() {
    let bench = Bench::start().await;
    let mut agent = claude(&bench).await;
    bench.submit(costly(), "").await;
    let attempt = agent.grant().await;
    assert_eq!(promised(&bench, attempt), 1_000_000, "the first is recorded with the grant");
    let ahead = agent.grant().await;
    assert_eq!(promised(&bench, ahead), 437_500, "a 16th of the rest");
    bench.store.close();
    wants(&bench, &agent, attempt, 3_000_000).await;
    bench.store.commit_waits().await;
    assert!(agent.words.try_recv().is_err(), "the batch is not durable yet");
    bench.store.open();
    let told = allowance(&mut agent).await;
    assert!(told.micro_usd >= Some(3_000_000));
    assert_eq!(told.micro_usd, Some(promised(&bench, attempt)));
}

#[tokio::test]
async fn budgets_and_what_is_reserved_outlive_a_crash() {
    let bench = Bench::start().await;
    let nightly = Budget {
        name: "nightly".into(),
        scope: BudgetScope::Tenant,
        period: BudgetPeriod::Day,
        limit: usd(9_000_000),
    };
    let gone = Budget { name: "gone".into(), ..nightly.clone() };
    for budget in [nightly, gone] {
        let set = |token| Event::BudgetSet { token, tenant: TENANT, budget: Box::new(budget) };
        let answer = soon("the answer", bench.handle.request(set)).await.unwrap();
        assert!(matches!(answer, Answer::BudgetSet { replaced: false, .. }), "{answer:?}");
    }
    let remove = |token| Event::BudgetRemoved { token, tenant: TENANT, name: "gone".into() };
    assert!(matches!(soon("the answer", bench.handle.request(remove)).await.unwrap(), Answer::BudgetRemoved));
    let mut agent = claude(&bench).await;
    bench.submit(costly(), "").await;
    let attempt = agent.grant().await;
    let ahead = agent.grant().await;
    wants(&bench, &agent, attempt, 3_000_000).await;
    let told = allowance(&mut agent).await;
    let before = budgets(&bench).await;
    let reserved =
        |views: &[BudgetView]| views.iter().map(|view| view.reserved.micro_usd).collect::<Vec<_>>();
    assert_eq!(reserved(&before), [told.micro_usd.unwrap() + promised(&bench, ahead); 2]);

    let bench = bench.crash_and_restart(5).await;
    let after = budgets(&bench).await;
    let of = |view: &BudgetView| view.budget.as_ref().map(|budget| budget.name.to_string());
    assert_eq!(after.iter().map(of).collect::<Vec<_>>(), [Some("nightly".to_owned()), None]);
    assert_eq!(reserved(&after), reserved(&before));
    assert_eq!(after[1].limit, usd(8_000_000));
    assert_eq!(bench.run("adhoc/1").await.budget.map(|view| view.limit), Some(usd(8_000_000)));
}
