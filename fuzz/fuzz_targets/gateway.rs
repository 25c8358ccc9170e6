//! See [`orch_fuzz::targets::gateway`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orch_fuzz::targets::gateway(bytes));
