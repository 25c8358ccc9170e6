//! The process between the agent and a child: parent, reader of its pipes, dead-man switch, and the one who
//! empties its process tree. It exists because the CLI's tools run in sessions of their own and survive a
//! kill of the CLI, because the CLI goes on spending when its reader is gone, and because an attempt must
//! not depend on the life of the agent.
//!
//! ```text
//! agent ──spec file, secrets on stdin──▶ __supervise ──▶ __supervise-child ──exec──▶ program
//!   ▲                                        │  ▲                                     │
//!   └── JSON lines on RUNTIME/ID.sock ◀──────┘  └──────── stdout, stderr ◀────────────┘
//!                                            ▼
//!              attempt directory: stdout.000000…, stderr.000000…, exit.json
//! ```
//!
//! A child ends by itself, or by the ladder: interrupt, SIGINT, SIGTERM, tree kill. Causes are a deadline
//! on `CLOCK_BOOTTIME` (`timeout`), silence (`hang`), no renewal (`lost_agent`), too much output
//! (`limit_output`), or an agent that asks. The end is: child reaped, tree empty, pipes drained.
//!
//! The client side for the agent is in [`client`]. Nothing here knows tasks, models or outcomes.

pub mod child;
pub mod client;
pub mod control;
pub mod deadlines;
pub mod ending;
pub mod exit;
pub mod input;
pub mod ladder;
pub mod machine;
pub mod output;
pub mod record;
pub mod redact;
pub mod result_line;
pub mod run;
pub mod segments;
pub mod spec;
pub mod stop;
pub mod tree;
pub mod wire;
