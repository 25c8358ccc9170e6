//! The metering gateway: a loopback reverse proxy of one attempt, between the CLI and the API. It runs in the attempt's
//! supervisor, so that it outlives the agent as the attempt does; it adds the credential, so that the child never holds
//! one; it counts every request and asks the agent before each.
//!
//! ```text
//! CLI ──HTTP, a word of this attempt──▶ gateway ──TLS, the credential──▶ API
//!                                         │  ▲
//!                              JSON lines ▼  │ RUNTIME/ID.gw
//!                                        agent: credit, allowances, prices
//! ```
//!
//! Knows HTTP and the shape of usage and of limits in it; refuses to know prices, budgets and pools.

pub mod body;
pub mod connect;
pub mod desk;
pub mod door;
pub mod forward;
pub mod intake;
pub mod ledger;
pub mod patience;
pub mod question;
pub mod recorder;
pub mod signs;
pub mod spec;
pub mod sse;
pub mod talk;
pub mod thread;
pub mod trust;
pub mod upstream;
pub mod usage;
pub mod warmth;
pub mod wire;
