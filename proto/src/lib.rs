//! The words of orch: wire messages, store records, the outcome table and the error-code table.
//! Knows names, numbers and sentences; refuses to know what anybody does with them.
//!
//! Everything under [`v1`] and [`store`] is generated from `orch/**/*.proto` by `cargo xtask codegen` and
//! checked in; a test fails when the two differ.

pub mod codec;
pub mod codes;
pub mod outcome;
pub mod parts;
pub mod prices;
pub mod slug;

/// Messages and services of package `orch.v1`.
#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::wildcard_enum_match_arm,
    unused_qualifications,
    reason = "generated code, not ours to style"
)]
pub mod v1 {
    include!("gen/orch.v1.rs");
}

/// Records of the coordinator's store.
pub mod store {
    /// Records of package `orch.store.v1`.
    #[allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        clippy::use_self,
        unused_qualifications,
        reason = "generated code, not ours to style"
    )]
    pub mod v1 {
        include!("gen/orch.store.v1.rs");
    }
}

/// Encoded `FileDescriptorSet` of everything above, for reflection and for tests.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/orch.fds.bin");

/// Lowest session protocol this build speaks.
pub const PROTOCOL_MIN: u32 = 1;

/// Highest session protocol this build speaks.
pub const PROTOCOL_MAX: u32 = 3;

/// Lowest session protocol that a daemon offers: [`PROTOCOL_MIN`].
///
/// Builds of the tests (feature `test-util` with debug assertions) take another from `ORCH_TEST_PROTOCOL_MIN`.
#[must_use]
pub fn protocol_min() -> u32 {
    told_by_a_test("ORCH_TEST_PROTOCOL_MIN").unwrap_or(PROTOCOL_MIN)
}

/// Highest session protocol that a daemon offers: [`PROTOCOL_MAX`].
///
/// Builds of the tests (feature `test-util` with debug assertions) take another from `ORCH_TEST_PROTOCOL_MAX`, so that
/// one build can stand for an older release and for a newer one.
#[must_use]
pub fn protocol_max() -> u32 {
    told_by_a_test("ORCH_TEST_PROTOCOL_MAX").unwrap_or(PROTOCOL_MAX)
}

#[cfg(all(feature = "test-util", debug_assertions))]
fn told_by_a_test(name: &str) -> Option<u32> {
    std::env::var(name).ok()?.parse().ok()
}

#[cfg(not(all(feature = "test-util", debug_assertions)))]
const fn told_by_a_test(_: &str) -> Option<u32> {
    None
}
