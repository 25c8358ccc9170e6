//! See [`orch_fuzz::targets::store_record`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| orch_fuzz::targets::store_record(bytes));
