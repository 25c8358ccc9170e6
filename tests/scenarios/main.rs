//! Stories of a whole fleet, told with real processes, real certificates and real kills. One binary, because linking
//! all of orch once is enough.

#![expect(clippy::expect_used, reason = "in a test what must not happen ends the test")]

mod bad_input;
mod batch;
mod bridge;
mod cancel;
mod copies;
mod dead_letters;
mod dev;
mod drain;
mod durability;
mod happy_path;
mod isolation;
mod limits;
mod migration;
mod operations;
mod orchestration;
mod placement;
mod probes;
mod protocol;
mod real_cli;
mod replayed;
mod resumed;
mod scripted;
mod shutdown;
mod steering;
mod two_hosts;
mod workflows;
