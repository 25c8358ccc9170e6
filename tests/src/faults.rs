//! Ways to hurt a fleet from outside. Each counts how often it did: a run in which one never fired proves nothing of it.

pub mod proxy;
