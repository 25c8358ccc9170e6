//! Limits and money of a whole fleet: real processes against a Messages API stand-in that enforces limits, models the prompt
//! cache and keeps a ledger of its own. Every row has a short budget by default and a long one by `ORCH_LIMITS_…`
//! (docs/reliability.md), and says its figures in a line that begins with `limits:`.

#![expect(clippy::expect_used, reason = "in a test what must not happen ends the test")]

mod canary;
mod kills;
mod ledger;
mod overhead;
mod rates;
mod spending;
mod stage;
mod warm;
mod windows;
