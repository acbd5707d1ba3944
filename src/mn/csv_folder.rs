//! A folder of tables as CSV, written as their rows come from whichever database holds them, counted and proved.
//!
//! The files are made so that an unchanged table is an unchanged file: mode 0600, and a time that is the table's own.

use crate::{
    error::{Error, Result},
    mn::{
        schema::Described,
        tables::{Cell, Cells, Table, Tables, Tally, cell, encode_header, encode_row},
    },
};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// How much of a file is gathered before it is written.
const BUFFER_BYTES: usize = 256 << 10;
/// The tables of records about what was done, which grow without end and are part of no cluster's state.
pub const LOGS: [&str; 2] = ["auditlog", "eventlog"];

/// What a table held when it was dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Its name.
    pub table: String,
    /// How many rows it has.
    pub rows: u64,
    /// What proves them: see [`Tally`].
    pub digest: String,
}

/// A time as the kernel has it: seconds since 1970, and nanoseconds.
pub type Time = (i64, i64);

/// The folder, and what is in it.
#[derive(Debug)]
pub struct CsvFolder {
    dir: PathBuf,
    newest: Time,
    /// The tables, but for those of records, which may be larger than the memory.
    pub tables: Tables,
    /// A proof for each table, those of records too, in the order of their names.
    pub proofs: Vec<Proof>,
}

/// Which of a row's stored values become cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Columns {
    /// The columns of the CSV.
    pub names: Vec<String>,
    /// Stored columns that the schema does not have, and the CSV neither: loading one with a column that is not known would
    /// leave the table empty.
    pub unknown: Vec<String>,
    /// Where each column is among the stored ones, if it is.
    from: Vec<Option<usize>>,
}

impl Columns {
    /// Stored columns put in the order of the schema; in their own order where it says nothing of this table.
    pub fn new(stored: &[String], described: Option<&Described>) -> Self {
        let names = described.map_or(stored, |d| d.columns.as_slice()).to_vec();
        let from = names.iter().map(|name| stored.iter().position(|s| s == name)).collect();
        let unknown = stored.iter().filter(|s| !names.contains(s)).cloned().collect();
        Self { names, unknown, from }
    }

    /// What people should know of the columns that are in no CSV, if there are any.
    pub fn unknown_in(&self, table: &str) -> Option<String> {
        let which = self.unknown.join(", ");
        (!which.is_empty()).then(|| format!("table {table}: not in this xCAT's schema, and so in no CSV: {which}"))
    }

    /// The cells of a row, whose stored values are asked for by where they stand.
    ///
    /// # Errors
    /// Those of the asking.
    pub fn cells<E>(&self, mut value: impl FnMut(usize) -> Result<Option<Cell>, E>) -> Result<Cells, E> {
        let cells = self.from.iter().map(|from| from.map_or(Ok(None), &mut value).map(cell));
        cells.collect()
    }
}

/// A table that is written to its end.
#[derive(Debug)]
pub struct Written {
    proof: Proof,
    /// The table itself, unless it is one of records.
    table: Option<Table>,
    time: Time,
}

/// A table that is being written.
#[derive(Debug)]
pub struct CsvFile {
    path: PathBuf,
    file: File,
    pending: Vec<u8>,
    tally: Tally,
    kept: Table,
    is_kept: bool,
}

impl CsvFolder {
    /// A new folder.
    ///
    /// # Errors
    /// `File` where it cannot be made.
    pub fn create(dir: &Path) -> Result<Self> {
        DirBuilder::new().mode(0o700).create(dir).map_err(|e| Error::file("make", dir, e))?;
        Ok(Self { dir: dir.to_owned(), newest: (0, 0), tables: Tables::default(), proofs: Vec::new() })
    }

    /// Begins a table.
    ///
    /// # Errors
    /// `File` where its file cannot be made.
    pub fn begin(&self, name: &str, columns: &Columns) -> Result<CsvFile> {
        let path = self.dir.join(format!("{name}.csv"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(|e| Error::file("make", &path, e))?;
        Ok(CsvFile {
            path,
            file,
            pending: encode_header(&columns.names),
            tally: Tally::new(&columns.names),
            kept: Table::new(name, columns.names.clone()),
            is_kept: !LOGS.contains(&name),
        })
    }

    /// Takes a table in that is written to its end.
    pub fn take(&mut self, written: Written) {
        let Written { proof, table, time } = written;
        self.newest = self.newest.max(time);
        let at = self.proofs.partition_point(|other| other.table < proof.table);
        self.proofs.insert(at, proof);
        table.into_iter().for_each(|table| self.tables.insert(table));
    }

    /// Gives the folder the time of its newest table, and hands out what was read.
    ///
    /// # Errors
    /// `File` where it cannot be given.
    pub fn close(self) -> Result<(Tables, Vec<Proof>)> {
        set_time(&self.dir, self.newest)?;
        Ok((self.tables, self.proofs))
    }
}

impl CsvFile {
    /// Writes a row.
    ///
    /// # Errors
    /// `File` where it cannot be written.
    pub fn row(&mut self, cells: Cells) -> Result<()> {
        self.tally.add(&cells);
        encode_row(&cells, &mut self.pending);
        if self.is_kept {
            self.kept.rows.push(cells);
        }
        if self.pending.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Ends a table, with the time that its file gets.
    ///
    /// # Errors
    /// `File` where the end of it cannot be written.
    pub fn finish(mut self, time: Time) -> Result<Written> {
        self.flush()?;
        set_time(&self.path, time)?;
        let (rows, digest) = self.tally.finish();
        let proof = Proof { table: self.kept.name.clone(), rows, digest };
        Ok(Written { proof, table: self.is_kept.then_some(self.kept), time })
    }

    /// Gives a table up that could not be read to its end: half a table looks like a whole one.
    ///
    /// # Errors
    /// `File` where its file cannot be removed.
    pub fn abandon(self) -> Result<()> {
        std::fs::remove_file(&self.path).map_err(|e| Error::file("remove", &self.path, e))
    }

    fn flush(&mut self) -> Result<()> {
        self.file.write_all(&self.pending).map_err(|e| Error::file("write", &self.path, e))?;
        self.pending.clear();
        Ok(())
    }
}

/// Sets both times of a file or folder.
///
/// # Errors
/// `File` where they cannot be set.
pub fn set_time(path: &Path, (seconds, nanoseconds): Time) -> Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| Error::file("set the time of", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_follow_the_schema_and_unknown_ones_are_told() {
        let names = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let described = Described { columns: names(&["a", "b", "new"]), ..Described::default() };
        let columns = Columns::new(&names(&["b", "old", "a"]), Some(&described));
        assert_eq!((columns.names.clone(), columns.unknown.clone()), (names(&["a", "b", "new"]), names(&["old"])));
        let cells = columns.cells(|at| Ok::<_, ()>(Some(at.to_string().into_bytes().into()))).unwrap();
        assert_eq!(cells, [Some(Cell::from(&b"2"[..])), Some(Cell::from(&b"0"[..])), None]);
        assert_eq!(Columns::new(&names(&["b", "a"]), None).names, ["b", "a"]);
    }

    #[test]
    fn a_table_that_is_given_up_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = CsvFolder::create(&dir.path().join("xcatdb")).unwrap();
        let columns = Columns::new(&["a".to_owned()], None);
        let mut half = folder.begin("half", &columns).unwrap();
        half.row(vec![Some(vec![b'x'; BUFFER_BYTES].into())]).unwrap();
        half.abandon().unwrap();
        let whole = folder.begin("whole", &columns).unwrap();
        folder.take(whole.finish((1_000, 5)).unwrap());
        let (tables, proofs) = folder.close().unwrap();
        assert_eq!((tables.len(), proofs.len(), proofs[0].rows), (1, 1, 0));
        let names: Vec<_> =
            std::fs::read_dir(dir.path().join("xcatdb")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["whole.csv"]);
        assert_eq!(std::fs::read(dir.path().join("xcatdb/whole.csv")).unwrap(), b"#a\n");
    }
}
