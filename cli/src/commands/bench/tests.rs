//! How figures are reckoned, and every look of every report.

use clap::ValueEnum;
use serde_json::Value;

use super::*;
use crate::args::OutputFormat;
use crate::commands::schema::KINDS;
use crate::output::testing;
use crate::settings::Settings;

#[test]
fn percentiles_are_nearest_ranks() {
    let times = (1..=100).rev().map(Duration::from_millis).collect();
    assert_eq!(Percentiles::of(times), Percentiles { p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 });
    assert_eq!(Percentiles::of(vec![Duration::from_millis(3)]).p99, 3.0);
    assert_eq!(Percentiles::of(Vec::new()).p50, 0.0);
}

fn place() -> Place {
    Place {
        coordinator_version: "0.1.0".into(),
        client_version: "0.1.0".into(),
        agents: 2,
        slots: 8,
        free_slots: 7,
        client_cores: 4,
        load_average: Some(0.5),
        durable: true,
    }
}

fn noop() -> NoopReport {
    NoopReport {
        scenario: "noop",
        tasks: 20_000,
        succeeded: 20_000,
        tasks_per_s: 16_000.0,
        seconds: 1.25,
        acknowledged_ms: 41.5,
        place: place(),
    }
}

fn spawn(share_of_limit: Option<f64>) -> SpawnReport {
    SpawnReport {
        scenario: "spawn",
        tasks: 2_000,
        succeeded: 2_000,
        tasks_per_s: 1_600.0,
        seconds: 1.25,
        spawn_limit_per_s: 2_500.0,
        share_of_limit,
        spawn_slots: 8,
        place: place(),
    }
}

fn submit() -> SubmitReport {
    SubmitReport {
        scenario: "submit",
        tasks: 20_000,
        clients: 64,
        connections: 64,
        submits_per_s: 16_000.0,
        seconds: 1.25,
        p50_ms: 4.1,
        p90_ms: 5.25,
        p99_ms: 9.0,
        max_ms: 31.5,
        place: place(),
    }
}

fn agents(bytes_per_agent: Option<u64>) -> AgentsReport {
    AgentsReport {
        scenario: "agents",
        held: 999,
        lost: 1,
        at_once: 64,
        welcome_p50_ms: 4.1,
        welcome_p99_ms: 9.0,
        welcome_max_ms: 31.5,
        joined_seconds: 3.25,
        held_seconds: 15.0,
        bytes_per_agent,
        cpu_percent_per_1000: bytes_per_agent.map(|_| 0.75),
        reconnected: None,
        place: place(),
    }
}

fn reconnected() -> AgentsReport {
    let reconnected = agents::reconnect::Reconnected {
        times: 2,
        missing: 0,
        p50_ms: 1_250.0,
        p99_ms: 4_100.0,
        max_ms: 4_500.0,
        leases: 1_000,
        leases_lost: 0,
    };
    AgentsReport { reconnected: Some(reconnected), ..agents(None) }
}

fn queue() -> QueueReport {
    let meanwhile = queue::Meanwhile {
        submits: 1_000,
        submit_p50_ms: 1.25,
        submit_p99_ms: 9.0,
        submit_max_ms: 31.5,
        lookup_p50_ms: 0.5,
        lookup_p99_ms: 4.1,
    };
    QueueReport {
        scenario: "queue",
        tasks: 100_000,
        runs: 3,
        acknowledged_ms: 480.0,
        acknowledged_max_ms: 510.0,
        seconds: 1.5,
        meanwhile: Some(meanwhile),
        place: place(),
    }
}

fn watch() -> WatchReport {
    WatchReport {
        scenario: "watch",
        tasks: 10_000,
        watchers: 500,
        connections: 500,
        pace_per_s: 1_000,
        alone_seconds: 10.0,
        watched_seconds: 10.75,
        slowdown_ratio: 1.075,
        last_heard_ms: 120.0,
        final_states_equal: true,
        place: place(),
    }
}

#[test]
fn every_look_of_the_reports_is_as_it_was() {
    let times = || Percentiles { p50: 4.1, p90: 5.25, p99: 9.0, max: 31.5 };
    let latency = LatencyReport::new(1_000, times(), times(), place());
    let mut text = String::new();
    for output in OutputFormat::value_variants() {
        let settings = Settings { output: *output, ..Settings::default() };
        let (out, stdout, _) = testing::with(&settings, testing::Look::default());
        print(&out, &noop(), "bench/7", &place(), &noop().lines()).unwrap();
        for report in [spawn(Some(0.64)), spawn(None)] {
            print(&out, &report, "bench/8", &place(), &report.lines()).unwrap();
        }
        print(&out, &latency, "", &place(), &latency.lines()).unwrap();
        print(&out, &submit(), "", &place(), &submit().lines()).unwrap();
        for report in [agents(Some(45_000)), agents(None), reconnected()] {
            print(&out, &report, "", &place(), &report.lines()).unwrap();
        }
        print(&out, &watch(), "", &place(), &watch().lines()).unwrap();
        print(&out, &queue(), "", &place(), &queue().lines()).unwrap();
        let calls = CallsReport::sample(place());
        print(&out, &calls, "", &place(), &calls.lines()).unwrap();
        text.push_str(&format!("──── -o {output:?}\n{}", stdout.text()));
    }
    insta::assert_snapshot!("bench", text);
}

#[test]
fn every_report_has_the_fields_of_its_schema_and_names_its_scenario() {
    let times = || Percentiles { p50: 4.1, p90: 5.25, p99: 9.0, max: 31.5 };
    let reports = [
        serde_json::to_value(noop()),
        serde_json::to_value(spawn(None)),
        serde_json::to_value(LatencyReport::new(1_000, times(), times(), place())),
        serde_json::to_value(submit()),
        serde_json::to_value(agents(None)),
        serde_json::to_value(reconnected()),
        serde_json::to_value(queue()),
        serde_json::to_value(CallsReport::sample(place())),
        serde_json::to_value(watch()),
    ];
    for report in reports {
        let report: Value = report.unwrap();
        let kind = format!("bench-{}", report["scenario"].as_str().unwrap());
        let schema = KINDS.iter().find(|known| known.name == kind).unwrap().schema;
        let schema = schema();
        for key in report.as_object().unwrap().keys() {
            assert!(schema["properties"].get(key).is_some(), "{kind} has {key}, its schema has not");
        }
        assert_eq!(report["durable"], true, "{kind}");
    }
}
