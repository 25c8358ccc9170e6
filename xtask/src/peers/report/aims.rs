//! What orch is to reach, held against what was measured, each with the command that measures it alone. Refuses to know the
//! peers.

use super::{P50, P99, PER_S};
use crate::measure::results::Results;
use crate::measure::table::{Aim, against};

const AIMS: &[Aim] = &[
    Aim {
        what: "no-op tasks, one run, submit to last result recorded",
        row: "noop",
        figures: PER_S,
        unit: "/s",
        rising: true,
        reach: Some((12_000.0, "12,000")),
    },
    Aim {
        what: "tasks that spawn `true`, supervision included, of the spawn limit that bench measured beside them",
        row: "spawn",
        figures: &["share_of_limit"],
        unit: "",
        rising: true,
        reach: Some((0.6, "0.60")),
    },
    Aim {
        what: "lone no-op task, submit to result at the client, p50",
        row: "latency",
        figures: P50,
        unit: " ms",
        rising: false,
        reach: Some((1.0, "1.0")),
    },
    Aim {
        what: "… p99", row: "latency", figures: P99, unit: " ms", rising: false, reach: Some((3.0, "3"))
    },
    Aim {
        what: "… submit to acknowledgement, p50",
        row: "latency",
        figures: &["ack_p50_ms", "submit_ms.p50"],
        unit: " ms",
        rising: false,
        reach: None,
    },
    Aim {
        what: "single submits, 64 clients",
        row: "submit",
        figures: &["submits_per_s"],
        unit: "/s",
        rising: true,
        reach: Some((15_000.0, "15,000")),
    },
    Aim {
        what: "a paced run under watchers, its slowdown",
        row: "watch",
        figures: &["slowdown_ratio"],
        unit: "",
        rising: false,
        reach: Some((1.2, "1.2")),
    },
    Aim {
        what: "idle agents, bytes each at the coordinator",
        row: "agents",
        figures: &["bytes_per_agent"],
        unit: " B",
        rising: false,
        reach: Some((64_000.0, "64,000")),
    },
    Aim {
        what: "… the coordinator's processor time for 1,000 of them, in percent of a core",
        row: "agents",
        figures: &["cpu_percent_per_1000"],
        unit: " %",
        rising: false,
        reach: Some((1.0, "1")),
    },
    Aim {
        what: "agents that connect at once, Welcome p99",
        row: "agents",
        figures: &["welcome_p99_ms"],
        unit: " ms",
        rising: false,
        reach: Some((60_000.0, "60,000")),
    },
    Aim {
        what: "coordinator above idle, a full queue",
        row: "memory",
        figures: &["above_idle_mb"],
        unit: " MB",
        rising: false,
        reach: Some((60.0, "60")),
    },
    Aim {
        what: "that queue as one run: the whole of `orchctl submit --file`, reading included",
        row: "memory",
        figures: &["submit_s"],
        unit: " s",
        rising: false,
        reach: Some((2.0, "2")),
    },
    Aim {
        what: "`orchctl status` from cold, p50",
        row: "status",
        figures: P50,
        unit: " ms",
        rising: false,
        reach: Some((20.0, "20")),
    },
];

/// The table; nothing where orch was not measured.
pub(super) fn table(results: &Results) -> String {
    if !results.samples.iter().any(|sample| sample.subject == "ours") {
        return String::new();
    }
    against(results, "ours", AIMS)
}
