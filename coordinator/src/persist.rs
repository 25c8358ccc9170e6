//! Between the core's records and the store's: what is written of a run, a task, an agent, and how it is read back.
//!
//! Knows both forms and that a value has at most 4 KiB; decides nothing, and refuses to know when something is written.
//!
//! # What fits, and why
//!
//! Everything that may be long was moved to files before ([`crate::payloads`]); what remains is bounded here, so that no
//! record can outgrow its value however long names and details are, and a test builds the worst of each.
//!
//! A run of one task is one record: head, spec page and task lie in it together. Should they once not fit, the task
//! moves to a key of its own; a run's record without a task means: look there.

pub mod budget;
pub(crate) mod cached;
pub mod decode;
pub(crate) mod draft;
pub mod encode;
pub mod fit;
pub mod meter;
pub mod page;
pub mod show;

pub(crate) use self::draft::{Draft, Part};
pub use self::page::{PAGE_SPECS, StoredPage};

/// Longest encoded labels of a run, in bytes.
pub const MAX_LABELS_BYTES: usize = 2_560;

/// Longest encoded `ResultRecord`, in bytes.
pub const MAX_RESULT_BYTES: usize = 2_700;

/// Longest spec page inside the record of a run of one task: beside it, the longest result usually fits too.
pub(crate) const LONE_PAGE_BYTES: usize = 1_024;

/// Longest encoded `PlanningRecord`, in bytes: beside the longest labels, which a planned run has too.
pub const MAX_PLANNING_BYTES: usize = 480;

/// Tags and lengths around the parts of a record that is put together from parts.
pub(crate) const PART_OVERHEAD_BYTES: usize = 12;
