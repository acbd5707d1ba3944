//! The one test binary: promises that need more than one file of the library, and the kit that they share.
//!
//! Unit tests lie beside the code they test; what lies here speaks through the public interface only.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test that meets what it does not expect shall fail at once, where it happens"
)]

mod attacked_records;

mod aboard;

mod attacks;

mod bad_sectors;

mod bare_roots;

mod bitflips;

mod compare;

mod compare_cost;

mod cluster_stick;

mod clusters;

mod capture_dead;
mod capture_roots;

mod copy;

mod copy_forged;

mod crash;

mod damage;

mod faults;

mod hooks;

mod import;

mod import_killed;

mod import_undo;

mod import_load;

mod import_refused;

mod import_traps;

mod import_load_served;

mod import_served;

mod import_names;

mod hostile;

mod hostile_bytes;

mod fuzz_bodies;

mod fuzz_operations;

mod fuzzing;

mod golden;

mod golden_kept;

mod kept;

mod installed;

mod import_install;

mod import_large;

mod import_offline;

mod keyring;

mod layers;

mod limits;

mod meanwhile;

mod mn_servers;

mod mn_sqlite;

mod mn_tables;

mod readme;

mod records;

mod small_blobs;

mod round_trip;

mod overwrite;

mod pairs;

mod prune;

mod repair;

mod policy;

mod change_detection;

mod cli;

mod cli_copy;

mod cli_keep;

mod cli_keys;

mod cli_manual;

mod cli_nodes;

mod cli_reports;

mod cli_repair;

mod cli_compare;

mod schedule;

mod shelf_figures;

mod view;

mod capture;

mod media;

mod media_sticks;

mod gone;

mod full;

mod readback;

mod medium;

mod stand_in;

mod mounts;

mod storage_contract;

mod supply;

mod supply_far;

mod vectors;

/// The kit: storages that fail on demand, trees that tools get wrong, and a comparator that sees every difference.
#[allow(dead_code, reason = "the kit is whole before every test that will use it is written")]
mod support {
    pub mod storage;

    pub mod faults;

    pub mod crash;

    pub mod lying;

    pub mod node;

    pub mod random;

    pub mod tree;

    pub mod edits;

    pub mod odd;

    pub mod same;

    pub mod source;

    pub mod plain;

    pub mod small;

    pub mod damage;

    pub mod forge;

    pub mod by_hand;

    pub mod reference;

    pub mod samples;

    pub mod store;

    pub mod compared;

    pub mod program;

    pub mod scene;

    pub mod mounted;

    pub mod image;
    pub mod unlocked;

    pub mod standin;

    pub mod roots;

    pub mod inner;

    pub mod bare;

    pub mod names;

    pub mod import_plan;

    pub mod xcat;

    pub mod brought;

    pub mod packaged;

    pub mod http;
    pub mod servers;

    pub mod own_server;

    pub mod served;
}
