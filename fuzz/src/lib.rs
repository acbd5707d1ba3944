//! The bodies that the tests run too, for cargo-fuzz: `cargo +nightly fuzz run piece`.
//!
//! They lie in `tests/it` and are compiled here once more. Seeds are those of `tests/it/fuzzing.rs`; the vectors of
//! `format-spec/vectors` make good ones too.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../tests/it/fuzz_bodies.rs"]
pub mod fuzz_bodies;

#[path = "../../tests/it/fuzz_operations.rs"]
pub mod fuzz_operations;

#[path = "../../tests/it/support"]
mod support {
    pub mod plain;
    pub mod reference;
    pub mod samples;
    pub mod storage;
}
