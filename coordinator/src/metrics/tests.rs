//! What a scrape shows, and that nobody from outside can make it grow.

use super::money::{MAX_MODELS, MAX_NAME_BYTES};
use super::*;
use orch_proto::v1;

const MILLIS_A_DAY: i64 = 86_400_000;

fn spent(model: &str) -> LedgerEntry {
    let row = v1::ModelUsage {
        model: model.to_owned(),
        input_tokens: 10,
        output_tokens: 20,
        cache_read_tokens: 30,
        cache_write_tokens: 40,
        cost_micro_usd: 1_500_000,
    };
    let usage = v1::Usage { models: vec![row], cost_micro_usd: 1_500_000, estimated: false };
    LedgerEntry { usage: Some(usage), attempt: 1, ..LedgerEntry::default() }
}

#[test]
fn everything_that_can_be_named_is_there_from_the_start() {
    let text = Metrics::new("1.2.3").encode().unwrap();
    for line in [
        "orch_build_info{version=\"1.2.3\"} 1",
        "orch_tasks{state=\"queued\"} 0",
        "orch_agents{state=\"unreachable\"} 0",
        "orch_agent_slots{state=\"free\"} 0",
        "orch_task_attempts_total{outcome=\"lost_agent\"} 0",
        "orch_task_ends_total{state=\"skipped\"} 0",
        "orch_store_bytes 0",
        "orch_events_seq 0",
        "orch_sessions 0",
        "# EOF",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn no_two_metrics_share_a_name() {
    let text = Metrics::new("1").encode().unwrap();
    let mut names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    names.sort_unstable();
    let all = names.len();
    names.dedup_by_key(|line| line.split(' ').next());
    assert_eq!(names.len(), all);
}

#[test]
fn figures_of_the_state_are_taken_over() {
    let metrics = Metrics::new("1");
    let status =
        StatusView { queued: 7, slots: 10, slots_used: 4, agents: [1, 2, 3, 4, 5], ..Default::default() };
    metrics.set_status(&status);
    let text = metrics.encode().unwrap();
    for line in [
        "orch_tasks{state=\"queued\"} 7",
        "orch_agent_slots{state=\"used\"} 4",
        "orch_agent_slots{state=\"free\"} 6",
        "orch_agents{state=\"offline\"} 4",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn waits_are_counted_in_seconds_and_the_certificate_has_its_end() {
    let metrics = Metrics::new("1");
    metrics.task_waited(2_500);
    metrics.set_certificate(Some(UNIX_EPOCH + Duration::from_secs(1_800_000_000)));
    let text = metrics.encode().unwrap();
    for line in [
        "orch_task_wait_seconds_sum 2.5",
        "orch_task_wait_seconds_count 1",
        "orch_task_wait_seconds_bucket{le=\"1.0\"} 0",
        "orch_certificate_expiry_seconds 1800000000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn models_from_outside_are_bounded_and_harmless() {
    let metrics = Metrics::new("1");
    for n in 0..10 * MAX_MODELS {
        metrics.billed(&spent(&format!("model-{n}")));
    }
    metrics.billed(&spent("line\nbreak"));
    metrics.billed(&spent(&"x".repeat(MAX_NAME_BYTES + 1)));
    let text = metrics.encode().unwrap();
    let series = text.lines().filter(|line| line.starts_with("orch_cost_usd_total{")).count();
    assert_eq!(series, MAX_MODELS + 1);
    let other = (9 * MAX_MODELS + 2) as f64 * 1.5;
    assert!(text.contains(&format!("orch_cost_usd_total{{model=\"other\"}} {other:.1}")), "{text}");
    assert!(!text.contains("break"));
}

#[test]
fn what_is_put_right_is_not_counted_twice() {
    let metrics = Metrics::new("1");
    let guess = v1::Usage { cost_micro_usd: 1_000_000, estimated: true, ..v1::Usage::default() };
    metrics.billed(&LedgerEntry { usage: Some(guess), attempt: 1, ..LedgerEntry::default() });
    metrics.billed(&LedgerEntry { attempt: 0, taken_back_micro_usd: 1_000_000, ..spent("opus") });
    let text = metrics.encode().unwrap();
    for line in ["orch_cost_usd_total{model=\"unknown\"} 1.0", "orch_cost_usd_total{model=\"opus\"} 0.5"] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
    assert_eq!(metrics.cost_today_micro_usd(), 1_500_000);
}

#[test]
fn workers_of_series_are_bounded() {
    let metrics = Metrics::new("1");
    for index in 0..1_000 {
        metrics.set_cache_read_ratio(&format!("worker-{index}"), 250);
    }
    metrics.set_cache_read_ratio("line\nbreak", 1);
    let text = metrics.encode().unwrap();
    let series = text.lines().filter(|line| line.starts_with("orch_cache_read_ratio{")).count();
    assert_eq!(series, 100);
    assert!(text.contains("orch_cache_read_ratio{worker=\"worker-1\"} 0.25"), "{text}");
    assert!(!text.contains("break"));
}

#[test]
fn a_day_starts_at_nothing() {
    let metrics = Metrics::new("1");
    let day = Wall(MILLIS_A_DAY * 20_000);
    metrics.spent_today(5, day);
    metrics.spent_today(6, Wall(day.0 + MILLIS_A_DAY - 1));
    assert_eq!(metrics.cost_today_micro_usd(), 11);
    metrics.spent_today(0, Wall(day.0 + MILLIS_A_DAY));
    assert_eq!(metrics.cost_today_micro_usd(), 0);
    metrics.spent_today(7, day);
    assert_eq!(metrics.cost_today_micro_usd(), 0, "yesterday is over");
}
