//! What a scrape shows, and that nobody from outside can make it grow.

use super::*;
use orch_core::usage::ModelUsage;
use std::sync::Arc;

fn usage(model: &str) -> Usage {
    let row = ModelUsage {
        model: Arc::from(model),
        input: 10,
        output: 20,
        cache_read: 30,
        cache_write: 40,
        cost_micro_usd: 1_500_000,
    };
    Usage { models: vec![row], cost_micro_usd: 1_500_000, estimated: false }
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
        metrics.spent(&usage(&format!("model-{n}")), Wall(0));
    }
    metrics.spent(&usage("line\nbreak"), Wall(0));
    metrics.spent(&usage(&"x".repeat(MAX_MODEL_BYTES + 1)), Wall(0));
    let text = metrics.encode().unwrap();
    let series = text.lines().filter(|line| line.starts_with("orch_cost_usd_total{")).count();
    assert_eq!(series, MAX_MODELS + 1);
    let other = (9 * MAX_MODELS + 2) as f64 * 1.5;
    assert!(text.contains(&format!("orch_cost_usd_total{{model=\"other\"}} {other:.1}")), "{text}");
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
