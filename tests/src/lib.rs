//! Tools for whole-system tests: a fleet of real processes with real certificates on loopback, clients of it, and
//! ways to hurt it. Knows how daemons are started and what they announce; refuses to know how they work inside.

#![expect(clippy::expect_used, reason = "what these tools cannot do is to end the test that needs it")]

pub mod budget;
pub mod client;
pub mod faults;
pub mod files;
pub mod fleet;
pub mod gate;
pub mod history;
pub mod matrix;
pub mod process;
pub mod wait;
pub mod wire;

/// The test binaries of this package, as a test file of this package knows them.
#[macro_export]
macro_rules! binaries {
    () => {
        $crate::fleet::Binaries {
            orchd: env!("CARGO_BIN_EXE_test-orchd").into(),
            agent: env!("CARGO_BIN_EXE_test-orch-agent").into(),
            orchctl: env!("CARGO_BIN_EXE_test-orchctl").into(),
            claude: env!("CARGO_BIN_EXE_test-claude").into(),
        }
    };
}

/// Says on the real standard error that a test did nothing, and why: the test runner hides what passing tests print.
pub fn skipped(test: &str, why: &str) {
    // Where the line cannot be written, nobody reads it.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("skipped: {test}: {why}\n").as_bytes());
}
