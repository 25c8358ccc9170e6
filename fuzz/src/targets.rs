//! The targets, by what they read.
//!
//! | Module | Whose words |
//! |---|---|
//! | `wire` | agents, clients and coordinators: protobuf |
//! | `cli` | the Claude CLI, the API behind a gateway, and the supervisor of an attempt: JSON lines |
//! | `kept` | what was on a disk: spool, store records, exports |
//! | `written` | people and models: workflows, plans, workers, run files |

mod cli;
mod kept;
mod wire;
mod written;

pub use cli::{gateway, stream_json, supervisor};
pub use kept::{persist, spool, store_record, transfer};
pub use wire::{hello, session, submission, wire};
pub use written::{front_matter, plan, run_file, workflow};
