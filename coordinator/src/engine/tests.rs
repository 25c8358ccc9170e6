//! The engine with its committer, on a store in memory that can be made to wait and to fail.

mod budgets;
mod commits;
mod life;
mod orders;
mod plans;
mod replay;
mod sessions;
pub(crate) mod support;
