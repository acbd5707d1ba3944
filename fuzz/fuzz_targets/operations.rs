//! See `tests/it/fuzz_operations.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xsnap_fuzz::fuzz_operations::operations(data));
