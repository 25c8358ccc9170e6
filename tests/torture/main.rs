//! What must hold whatever is killed, cut off or flooded, with real processes. Every row has a short budget by default and a
//! long one by `ORCH_TORTURE_…` (docs/reliability.md), and says its figures in a line that begins with `torture:`.

#![expect(clippy::expect_used, reason = "in a test what must not happen ends the test")]

mod agents;
mod disk;
mod kills;
mod load;
mod mixed;
mod partitions;
mod restarts;
mod storms;
mod transcripts;
mod watchers;
