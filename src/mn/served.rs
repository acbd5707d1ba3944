//! Tables that a database server holds: what is asked of it, whichever it is, and what came of that.

use crate::{
    error::{Error, Result},
    mn::{
        csv_folder::Columns,
        engine::Server,
        host::{Order, Programs},
        schema::Schema,
    },
    progress::Progress,
};
use std::{
    fs::{File, OpenOptions},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// What is asked of a server.
#[derive(Clone)]
pub struct Request<'a> {
    /// The way in.
    pub server: &'a Server,
    /// The tables that there should be.
    pub schema: &'a Schema,
    /// The tables of records too.
    pub logs: bool,
    /// Where the dump in the server's own format goes, if one is wanted.
    pub archive: Option<PathBuf>,
    /// Who runs the program that makes it.
    pub programs: &'a dyn Programs,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Found {
    /// The server's version.
    pub version: Option<String>,
    /// The tables that it has.
    pub tables: Vec<String>,
    /// Those that were left out as asked.
    pub left_out: Vec<String>,
    /// Tables that could not be read, and why; without a name where it is about all of them.
    pub unread: Vec<(Option<String>, String)>,
    /// What people should know, and what is no problem.
    pub notes: Vec<String>,
}

impl Request<'_> {
    /// The first of some programs that is there; the first of all where none is.
    pub fn first_of<const N: usize>(&self, names: [&'static str; N]) -> &'static str {
        let is_there = |name: &&str| self.programs.run(Order::new(name, ["--version"])).is_ok();
        names.into_iter().find(is_there).or(names.first().copied()).unwrap_or_default()
    }

    /// Runs the program that writes the dump. What it has written when it fails is removed: half a dump looks like a whole one.
    ///
    /// # Errors
    /// Why there is no dump, in words for people.
    pub fn run(&self, name: &str, archive: &Path, order: Order) -> Result<(), String> {
        let why = match self.programs.run(order) {
            Ok(outcome) if outcome.is_good() => return Ok(()),
            Ok(outcome) => outcome.why(),
            Err(e) => e.to_string(),
        };
        // What is left is not captured, for the caller is told.
        let _ = std::fs::remove_file(archive);
        Err(format!("{name} has made no dump: {why}"))
    }
}

/// Makes the file for a dump.
///
/// # Errors
/// `File` where it cannot be made.
pub fn create_archive(archive: &Path) -> Result<File> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(archive);
    file.map_err(|e| Error::file("make", archive, e))
}

impl Found {
    /// Notes columns that are in no CSV because the schema does not have them.
    pub fn note_unknown(&mut self, table: &str, columns: &Columns) {
        self.notes.extend(columns.unknown_in(table));
    }
}
