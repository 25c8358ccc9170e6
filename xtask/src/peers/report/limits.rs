//! The table of what the machine can do. Refuses to know who comes how near to it.

use std::fmt::Write as _;

use super::cell;
use crate::measure::results::Results;

/// Title, and the names of p50, p99 and rate where there are such figures.
const ROWS: &[(&str, &str)] = &[
    ("4 KiB appended and `fdatasync`", "fdatasync"),
    ("64 bytes there and back over TCP on loopback, in the clear", "loopback"),
    ("`true` started and waited for, 1 thread", "spawn_1"),
    ("the same, 2 threads", "spawn_2"),
    ("connection with mTLS", "rpc.connect"),
    ("tonic call of 200 bytes, mTLS, one at a time", "rpc.unary_1"),
    ("the same, 64 at a time on one connection", "rpc.unary_64"),
    ("message of a tonic stream there and back, mTLS, one at a time", "rpc.bidi"),
    ("the same, as fast as they go", "rpc.bidi_pipelined"),
];

pub(super) fn table(results: &Results) -> String {
    if results.values("limits", "limits", &["fdatasync.p50_us"]).is_empty() {
        return String::new();
    }
    let mut text =
        String::from("\n| Limit of the machine | p50 µs | p99 µs | a second |\n|---|---|---|---|\n");
    for (title, name) in ROWS {
        let cell = |figure: &str| cell(results, "limits", "limits", &[format!("{name}.{figure}").as_str()]);
        let _ = writeln!(text, "| {title} | {} | {} | {} |", cell("p50_us"), cell("p99_us"), cell("per_s"));
    }
    text
}
