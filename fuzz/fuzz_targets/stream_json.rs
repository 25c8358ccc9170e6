//! See [`orch_fuzz::targets::stream_json`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orch_fuzz::targets::stream_json(bytes));
