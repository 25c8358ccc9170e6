//! The process between the agent and a child: parent, reader of its pipes, dead-man switch, and the one who
//! empties its process tree. It exists because the CLI's tools run in sessions of their own and survive a
//! kill of the CLI, because the CLI goes on spending when its reader is gone, and because an attempt must
//! not depend on the life of the agent.
//!
//! ```text
//! agent ──stdin, stdout──▶ __fork-server
//!   │                           │ fork
//!   └─what to do, secrets──▶ supervisor ──▶ bwrap ──▶ __sandbox-init ──▶ program
//!   ▲                         │  ▲    ├ without secrets ──fork──▶ orch-first ──▶ program
//!   │                         │  │    └ without a namespace ──▶ __supervise-child ──exec──▶ program
//!   └─ JSON lines, ID.sock ◀──┘  └──────── stdout, stderr ◀──────────────────────────────────┘
//!                             ▼
//!              attempt directory: stdout.000000…, stderr.000000…, exit.json
//! ```
//!
//! A child ends by itself, or by the ladder: interrupt, SIGINT, SIGTERM, tree kill. Causes are a deadline
//! on `CLOCK_BOOTTIME` (`timeout`), no renewal (`lost_agent`), too much output (`limit_output`) or memory (`crash`),
//! an agent that asks, or a hang, each kind with its own timer and its own words:
//!
//! | Timer | Fires when | Cause |
//! |---|---|---|
//! | start, 60 s unless the agent is told otherwise | nothing came on standard output yet | `no_first_event` |
//! | silence, from the assignment | no output and no other sign of life (see [`life`]) | `hang` |
//! | linger, 10 s | a conversation closed its output before a result, and lives | `closed_output` |
//! | linger, 10 s | a result is there and the input closed, and it lives | `lingering`: no hang, the result stands |
//!
//! They bite without the agent. A child that is gone without a result is no hang: its runner calls it a crash. The
//! end is: child reaped, tree empty, pipes drained.
//!
//! The client side for the agent is in [`client`]. Nothing here knows tasks, models or outcomes.

pub mod child;
pub mod client;
pub mod control;
pub mod deadlines;
pub mod ending;
pub mod exit;
pub mod fork_server;
pub mod input;
pub mod known;
pub mod ladder;
pub mod life;
pub mod machine;
pub mod output;
pub mod peer;
pub mod program;
pub mod record;
pub mod redact;
pub mod report;
pub mod result_line;
pub mod run;
pub mod segments;
pub mod spec;
pub mod stop;
pub mod tree;
pub mod wire;
