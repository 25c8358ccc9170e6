//! Sums of a ledger in memory, against sums made by hand and by a slow and simple program.

use super::super::page::tests::{bill, usage};
use super::super::page::{MILLIS_A_DAY, entry, pack};
use super::*;
use crate::persist::Draft;
use crate::store::{Batch, EpochStep, MemoryStore, Op};
use orch_core::budgets::Bill;
use orch_core::ids::TenantId;
use orch_core::outcome::Outcome as CoreOutcome;
use orch_core::time::{Tick, Wall};
use orch_core::usage::Usage as CoreUsage;
use std::time::Instant;

/// 2025-11-21, 12:00 UTC.
const NOON: i64 = 1_763_726_400_000;

fn store(entries: &[LedgerEntry]) -> MemoryStore {
    let store = MemoryStore::new();
    store.begin_epoch(EpochStep::Start, 1).unwrap();
    let mut next = 1;
    for part in entries.chunks(5_000) {
        let put = |draft| {
            let Draft::Whole { key, value } = draft else { panic!("{draft:?}") };
            Op::Put { key, value }
        };
        let ops = pack(part, Tick(1), &mut next).into_iter().map(put).collect();
        store.commit(Batch { expect_epoch: 1, ops }).unwrap();
    }
    store
}

fn asked(by: &[Dimension]) -> Question {
    Question {
        tenant: TenantId(1),
        tenant_name: "default".to_owned(),
        by: by.to_vec(),
        since: None,
        until: None,
        filters: Vec::new(),
        limit: 1_000,
    }
}

fn only(filters: &[&str]) -> Question {
    let filters = filters.iter().map(|text| super::super::question::filter(text).unwrap()).collect();
    Question { filters, ..asked(&[]) }
}

fn made(bill: &Bill, at: i64) -> LedgerEntry {
    entry(bill, Wall(at)).unwrap()
}

/// Two models of one attempt, a lost attempt and its late bill a day later, another worker, another tenant.
fn some() -> Vec<LedgerEntry> {
    let mut two = usage("claude-opus-4-8", 100, 1_000);
    two.add(&usage("claude-haiku-4-5", 50, 10));
    let lost = Bill { outcome: CoreOutcome(16), ..bill(2, 1, CoreUsage::estimate(700)) };
    let late = Bill { taken_back_micro_usd: Some(700), ..bill(2, 1, usage("claude-opus-4-8", 30, 900)) };
    let anga = Bill { worker: "anga".into(), run_ref: "daily/3".into(), ..bill(3, 1, usage("m", 5, 50)) };
    let foreign = Bill { tenant: TenantId(2), ..bill(4, 1, usage("m", 5, 99_999)) };
    vec![
        made(&bill(1, 1, two), NOON),
        made(&lost, NOON),
        made(&foreign, NOON),
        made(&late, NOON + MILLIS_A_DAY),
        made(&anga, NOON + MILLIS_A_DAY),
    ]
}

fn cells(answer: &Answer) -> Vec<(String, i128, i128, u64, u64)> {
    let rows = answer.rows.iter();
    rows.map(|row| {
        let Sums { micro_usd, estimated, attempts, runs, .. } = row.sums;
        (row.keys.join("|"), micro_usd, estimated, attempts, runs)
    })
    .collect()
}

#[test]
fn a_lost_attempt_and_its_late_bill_make_what_was_spent_in_every_sum() {
    let store = store(&some());
    let answer = split(&store, &asked(&[])).unwrap();
    let total = answer.total;
    assert_eq!((total.micro_usd, total.estimated), (1_010 + 900 + 50, 0));
    assert_eq!((total.attempts, total.attempts_ok, total.runs), (3, 2, 3), "a correction is no attempt");
    assert_eq!((total.input, total.output), (100 + 50 + 30 + 5, 20 + 10 + 6 + 1));
    assert!(answer.rows.is_empty() && answer.kept_since.is_none());

    let by_worker = split(&store, &asked(&[Dimension::Worker])).unwrap();
    assert_eq!(cells(&by_worker), [("marie".into(), 1_910, 0, 2, 2), ("anga".into(), 50, 0, 1, 1)]);
    let by_day = split(&store, &asked(&[Dimension::Day])).unwrap();
    assert_eq!(
        cells(&by_day),
        [("2025-11-21".into(), 1_710, 700, 2, 2), ("2025-11-22".into(), 250, -700, 1, 2)]
    );
    let by_model = split(&store, &asked(&[Dimension::Model])).unwrap();
    let expected = [
        ("claude-opus-4-8".into(), 1_900, 0, 1, 2),
        ("m".into(), 50, 0, 1, 1),
        ("claude-haiku-4-5".into(), 10, 0, 1, 1),
        // What no model's row had, and what took it back.
        (String::new(), 0, 0, 1, 1),
    ];
    assert_eq!(cells(&by_model), expected);
    assert_eq!(by_model.total, split(&store, &asked(&[])).unwrap().total);
}

#[test]
fn rows_have_their_keys_in_the_order_asked_for_and_days_come_in_order() {
    let store = store(&some());
    let answer = split(&store, &asked(&[Dimension::Worker, Dimension::Day, Dimension::Name])).unwrap();
    let keys: Vec<_> = cells(&answer).into_iter().map(|cell| cell.0).collect();
    assert_eq!(keys, ["marie|2025-11-21|adhoc", "marie|2025-11-22|adhoc", "anga|2025-11-22|daily"]);
    let one = Question { limit: 1, ..asked(&[Dimension::Task]) };
    let answer = split(&store, &one).unwrap();
    assert_eq!((answer.more, answer.rows[0].keys[0].as_str()), (2, "adhoc/1/t"));
    let more = [Dimension::Outcome, Dimension::Pool, Dimension::Agent];
    assert_eq!(split(&store, &asked(&more)).unwrap().rows[0].keys, ["ok", "main", "box-1"]);
    assert_eq!(split(&store, &asked(&[Dimension::Tenant])).unwrap().rows[0].keys, ["default"]);
}

#[test]
fn filters_and_times_take_what_they_name() {
    let store = store(&some());
    let total = |question: &Question| split(&store, question).unwrap().total.micro_usd;
    assert_eq!(total(&only(&["worker=anga"])), 50);
    assert_eq!(total(&only(&["worker=anga", "worker=marie"])), 1_960, "any of them");
    assert_eq!(total(&only(&["worker=anga", "name=adhoc"])), 0, "each of them");
    assert_eq!(total(&only(&["run=daily/3", "task=daily/3/t", "day=2025-11-22"])), 50);
    assert_eq!(total(&only(&["model=claude-haiku-4-5"])), 10);
    let both = ["model=claude-haiku-4-5", "model=claude-opus-4-8"];
    let question = Question { by: vec![Dimension::Worker], ..only(&both) };
    let answer = split(&store, &question).unwrap();
    assert_eq!(cells(&answer), [("marie".into(), 1_910, 0, 1, 2)], "an attempt of two models is one");
    let when = |since, until| Question { since, until, ..asked(&[]) };
    assert_eq!(total(&when(Some(NOON + 1), None)), 250);
    assert_eq!(total(&when(None, Some(NOON + 1))), 1_710);
    assert_eq!(total(&when(Some(NOON), Some(NOON + MILLIS_A_DAY))), 1_710);
    assert_eq!(total(&when(Some(i64::MIN), Some(-5))), 0);
}

#[test]
fn what_is_too_much_for_memory_is_refused_with_advice() {
    let many = |count: u64| -> Vec<_> {
        (0..count).map(|run| made(&bill(run, 1, usage("m", 1, 1)), NOON)).collect()
    };
    let store = store(&many(MAX_KEYS as u64 + 1));
    let error = split(&store, &asked(&[Dimension::Run])).unwrap_err().to_string();
    assert!(error.contains("more than 100000 rows: ask for fewer dimensions"), "{error}");
    let total = split(&store, &asked(&[])).unwrap().total;
    assert_eq!((total.runs, total.attempts), (MAX_KEYS as u64 + 1, MAX_KEYS as u64 + 1));
}

#[test]
fn sums_are_those_of_a_simple_program() {
    let workers = ["anga", "marie", "fabien"];
    let entries: Vec<_> = (0..3_000_u64)
        .map(|index| {
            let spent = usage(["a", "b", "c", "d"][(index % 4) as usize], index, index * 7 % 1_000 + 1);
            let bill = Bill {
                worker: workers[(index % 3) as usize].into(),
                outcome: CoreOutcome(if index % 5 == 0 { 2 } else { 1 }),
                ..bill(index % 100, 1, spent)
            };
            made(&bill, NOON + (index as i64 % 7) * MILLIS_A_DAY)
        })
        .collect();
    let store = store(&entries);
    let answer = split(&store, &asked(&[Dimension::Worker, Dimension::Model])).unwrap();
    assert_eq!(answer.rows.len(), 12);
    for row in &answer.rows {
        let fits = |entry: &&LedgerEntry| {
            entry.worker == row.keys[0] && entry.usage.as_ref().unwrap().models[0].model == row.keys[1]
        };
        let micro: i128 = entries.iter().filter(fits).map(|entry| money_of(entry).micro_usd).sum();
        let runs: HashSet<_> = entries.iter().filter(fits).map(|entry| entry.run_id).collect();
        assert_eq!((row.sums.micro_usd, row.sums.runs), (micro, runs.len() as u64), "{:?}", row.keys);
    }
    let all: i128 = answer.rows.iter().map(|row| row.sums.micro_usd).sum();
    assert_eq!(all, answer.total.micro_usd);
}

/// The figure that counts is that of a release build; this one shows that nothing grows faster than the ledger.
#[test]
fn a_hundred_thousand_attempts_are_answered_in_seconds_even_by_a_debug_build() {
    let entries: Vec<_> = (0..100_000_u64)
        .map(|index| made(&bill(index / 10, 1, usage("claude-opus-4-8", 100, 1_000)), NOON))
        .collect();
    let store = store(&entries);
    let before = Instant::now();
    let answer = split(&store, &asked(&[Dimension::Worker, Dimension::Model, Dimension::Day])).unwrap();
    let took = before.elapsed();
    assert_eq!((answer.total.attempts, answer.total.runs), (100_000, 10_000));
    assert!(took.as_secs() < 20, "{took:?}");
}
