//! The pure core of orch: what happened goes in, what to do comes out.
//! No clock, no I/O, no randomness, no transport, no store: time, ids and outcomes are arguments, and the
//! same events give the same state.
//!
//! A driver feeds [`event::Event`]s to [`apply`] one at a time, makes the [`effect::Effects`]' writes durable,
//! and only then lets the rest of them leave.

pub mod budgets;
pub mod config;
pub mod effect;
pub mod event;
pub mod ids;
pub mod invariants;
pub mod limits;
pub mod machine;
pub mod outcome;
pub mod plan;
pub mod query;
pub mod run;
pub mod state;
pub mod task;
pub mod time;
pub mod usage;

mod agents;
mod graph;
mod names;
mod register;
mod schedule;
mod timers;

pub use config::Config;
pub use invariants::{Violation, check_invariants, state_hash};
pub use machine::{apply, next_deadline};
pub use state::State;
