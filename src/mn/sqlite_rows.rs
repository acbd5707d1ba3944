//! The rows of a copied table file, and whether it is a whole database.

use crate::{
    error::{Error, Result},
    mn::{
        csv_folder::{Columns, CsvFolder, Time, Written},
        schema::Described,
        tables::Cell,
    },
};
use rusqlite::{Connection, OpenFlags, config::DbConfig, types::ValueRef};
use std::path::Path;

/// Why a file that nobody writes to any more is no whole database, if it is none.
pub fn fault(path: &Path) -> Option<String> {
    let ask = |db: Connection| db.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    match open_copy(path).and_then(ask) {
        Ok(answer) if answer == "ok" => None,
        Ok(answer) => Some(format!("it is damaged: {answer}")),
        Err(e) => Some(e.to_string()),
    }
}

/// Opens a copy that nobody writes to any more, and leaves no file beside it.
fn open_copy(copy: &Path) -> rusqlite::Result<Connection> {
    use std::os::unix::ffi::OsStrExt;
    let mut uri = "file:".to_owned();
    for byte in copy.as_os_str().as_bytes() {
        let is_plain = byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
        if is_plain { uri.push(char::from(*byte)) } else { uri.push_str(&format!("%{byte:02x}")) }
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(format!("{uri}?immutable=1"), flags)?;
    harden(&db)?;
    Ok(db)
}

/// Writes the table of a copied file, last modified at this time, as CSV; returns the columns, or why it cannot be read.
///
/// # Errors
/// `File` where the CSV cannot be written.
pub fn dump(
    (copy, time): (&Path, Time),
    name: &str,
    described: Option<&Described>,
    to: &CsvFolder,
) -> Result<Result<(Columns, Written), String>> {
    let db = open_copy(copy).map_err(Failure::from);
    match db.and_then(|db| dump_rows(&db, name, described, to, time)) {
        Ok(written) => Ok(Ok(written)),
        Err(Failure::Reading(e)) => Ok(Err(e.to_string())),
        Err(Failure::NoTable) => Ok(Err("the file holds no table of its name".into())),
        Err(Failure::Writing(e)) => Err(e),
    }
}

/// Why a table is not written.
enum Failure {
    Reading(rusqlite::Error),
    NoTable,
    Writing(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(e: rusqlite::Error) -> Self {
        Self::Reading(e)
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Writing(e)
    }
}

fn dump_rows(
    db: &Connection,
    name: &str,
    described: Option<&Described>,
    to: &CsvFolder,
    time: Time,
) -> Result<(Columns, Written), Failure> {
    let is_table = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND lower(name) = lower(?1)";
    if db.query_row(is_table, [name], |row| row.get::<_, i64>(0))? == 0 {
        return Err(Failure::NoTable);
    }
    // All columns, so that rows come as they are stored: of some columns only, an index might be read instead.
    let mut statement = db.prepare(&format!("SELECT * FROM \"{name}\""))?;
    let stored: Vec<_> = statement.column_names().map(str::to_owned).collect();
    let columns = Columns::new(&stored, described);
    let mut csv = to.begin(name, &columns)?;
    let written = (|| {
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            csv.row(columns.cells(|at| text(db, row.get_ref(at)?))?)?;
        }
        Ok(())
    })();
    match written {
        Ok(()) => Ok((columns, csv.finish(time)?)),
        Err(e) => {
            csv.abandon()?;
            Err(e)
        }
    }
}

/// A value as text, as Perl shows it.
fn text(db: &Connection, value: ValueRef<'_>) -> rusqlite::Result<Option<Cell>> {
    Ok(match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string().into_bytes().into()),
        ValueRef::Real(number) => Some(
            db.query_row("SELECT printf('%.15g', ?1)", [number], |row| row.get::<_, String>(0))?.into_bytes().into(),
        ),
        ValueRef::Text(text) | ValueRef::Blob(text) => Some(text.into()),
    })
}

/// Has a file that may be anybody's do nothing but hold rows.
///
/// # Errors
/// Those of SQLite.
pub fn harden(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    db.execute_batch("PRAGMA cell_size_check = ON")
}
