//! The agent's side of the wire: how to reach the coordinator, and how things look on the way.
//! Knows messages and connections; what to do about them is the [`crate::daemon`]'s.

pub mod bulk;
pub mod convert;
pub mod dial;
pub mod link;
pub mod reconnect;
pub mod transcript;
