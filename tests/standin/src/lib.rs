//! Knows how to stand in, in tests and rehearsals, for the two things orch does not own: the `claude`
//! command line ([`claude`]) and the Messages API behind it ([`api`]). Both are scripted by directives in
//! the prompt ([`script`]) and labelled as stand-ins wherever a user could see them. Refuses to be
//! mistaken for Claude, and to be linked into a package: only `orchctl` with its feature `dev`, and
//! the tests, use it.
#![doc = ""]
#![doc = include_str!("../README.md")]

pub mod api;
pub mod claude;
pub mod ids;
pub mod models;
pub mod rehearsal;
pub mod schema;
pub mod script;
