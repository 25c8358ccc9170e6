//! What tasks carry beside the skeleton that the core knows: prompts, arguments, schemas, answers.
//!
//! On its way in ([`prepare`]) a submit is split: the core gets what it decides by, the store gets pages of specs, and
//! whatever is too long for a page goes into a pack file that is durable before the engine hears of the submit. On the
//! way out, specs are read for dispatch ([`specs`]) and runs, tasks and results for people ([`archive`]), on a few
//! threads of their own and never through the engine.
//!
//! Knows where bytes lie; decides nothing about runs.

pub mod archive;
pub mod bulk;
mod cache;
mod cache_key;
pub mod inputs;
mod pages;
pub mod prepare;
pub mod references;
mod spec;
pub mod specs;

use std::sync::Arc;

pub use self::archive::{Archive, ArchiveError, RunFilter, RunsPage, TasksPage};
pub use self::cache::{CachedPage, SpecCache};
pub use self::inputs::{DispatchError, ResultReader};
pub use self::pages::PageError;
pub(crate) use self::pages::open_page;
pub use self::prepare::{Joining, PrepareError, Preparer, Request};
pub use self::specs::{SpecError, SpecReader};

/// What a submit brings for the store: its bulk is durable already, these pages become so with the run.
#[derive(Debug, Default)]
pub struct SubmitPayload {
    /// Encoded spec pages.
    pub(crate) records: SpecRecords,
    /// The first pages whole, so that dispatching what was just submitted reads nothing.
    pub(crate) pages: Vec<Arc<CachedPage>>,
}

/// Encoded spec pages of a run, by where they will lie.
#[derive(Debug)]
pub(crate) enum SpecRecords {
    /// The only page of a run of one task: in the run's record.
    Inside(Arc<[u8]>),
    /// Under keys of their own, in order.
    Pages(Vec<Vec<u8>>),
}

impl Default for SpecRecords {
    fn default() -> Self {
        Self::Pages(Vec::new())
    }
}
