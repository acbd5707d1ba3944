//! See `tests/it/fuzz_bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| xsnap_fuzz::fuzz_bodies::pack_search(data));
