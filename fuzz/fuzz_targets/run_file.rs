//! See [`orch_fuzz::targets::run_file`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orch_fuzz::targets::run_file(bytes));
