//! From a request in plain language to tasks: what the planner is told, and what is made of its answer.
//!
//! [`compose`] writes the prompts of the tasks `plan` and `synthesis` when a request is submitted. [`judge`] reads the
//! plan that came back: [`examine`] turns it into checked tasks or into everything that speaks against it, and the answer
//! follows from that. The rules of a plan are [`orch_core::plan`]'s, those of tasks [`crate::submission`]'s; what people
//! should know of both stands in `docs/planning.md`.
//!
//! Refuses to know the queue, the store and the network.

mod catalogue;
mod compose;
mod examine;
mod judge;
mod read;
pub mod schemas;
mod specs;

pub use catalogue::{Catalogue, Known};
pub use compose::{Asked, PlannedTasks, compose};
pub use examine::{Examined, Objection, examine, limits};
pub use judge::{Judgement, judge};
pub use read::read_plan;
pub use specs::task_specs;

#[cfg(test)]
mod tests;
