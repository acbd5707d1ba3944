//! What is asked of the database of an import, and what came of it.

use crate::{
    error::Error,
    mn::{engine::Engine, machine::Machine, manifest::Manifest},
};
use std::path::Path;

/// A database to be loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoadRequest<'a> {
    /// The machine that gets it.
    pub machine: &'a Machine<'a>,
    /// The private folder into which the snapshot's files for it were brought, each at its path in the snapshot.
    pub stage: &'a Path,
    /// The snapshot's manifest.
    pub manifest: &'a Manifest,
    /// The host of a database that is not on this machine, if somebody names one.
    pub database_host: Option<&'a str>,
    /// Tables of a server that are not empty may be replaced.
    pub replace_database: bool,
    /// The addresses of this machine, with or without the lengths of their prefixes.
    pub own_addresses: &'a [String],
    /// Tables of which the snapshot has no whole copy are left out, and are no reason to load nothing.
    pub accept_incomplete: bool,
    /// The server is to start at boot.
    pub enable: bool,
    /// Where xsnap itself cannot reach the server, xCAT's `tabrestore` loads one table after the other.
    pub last_resort: bool,
}

/// A reason to change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it is about.
    pub what: String,
    /// Why it is refused.
    pub why: String,
    /// What can be done about it.
    pub way_on: String,
}

/// A table, and what people should know of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableWord {
    /// The table.
    pub table: String,
    /// What there is to know.
    pub why: String,
}

/// What was found before anything is changed.
#[derive(Debug)]
pub struct Examined {
    /// The database that the machine will have.
    pub engine: Engine,
    /// It is a server on a machine that is neither this one nor the captured one.
    pub is_external: bool,
    /// The machine has a schema to hold the tables against: xCAT is installed.
    pub is_schema_known: bool,
    /// Why nothing may be changed, if anything says so.
    pub refusals: Vec<Refusal>,
    /// What preparing the engine will change.
    pub engine_changes: Vec<String>,
    /// What loading will change.
    pub table_changes: Vec<String>,
    /// What people should know.
    pub notes: Vec<String>,
    /// The values that xCAT's `tabrestore` would change, which is asked only where nothing else is left.
    pub would_change: Vec<TableWord>,
}

/// What was loaded.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// The tables, with how many rows each has.
    pub tables: Vec<(String, u64)>,
    /// Tables of the machine that are as they were, and why.
    pub kept: Vec<TableWord>,
    /// What people should know.
    pub notes: Vec<String>,
}

/// How a table of the machine is not what the snapshot says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The key of the row; empty where it is about the whole table.
    pub key: String,
    /// What differs. What is secret is not told.
    pub what: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(what: impl Into<String>, why: impl Into<String>, way_on: impl Into<String>) -> Self {
        Self { what: what.into(), why: why.into(), way_on: way_on.into() }
    }

    /// The failure of whoever goes on all the same.
    pub fn error(self) -> Error {
        let Self { what, why, way_on } = self;
        Error::Usage(format!("the tables are not loaded: {what}: {why}. The way on: {way_on}"))
    }
}

impl TableWord {
    /// A table with what there is to know of it.
    pub fn new(table: impl Into<String>, why: impl Into<String>) -> Self {
        Self { table: table.into(), why: why.into() }
    }
}
