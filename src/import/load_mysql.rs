//! Rows into MySQL or MariaDB: all tables in one transaction, so that whoever looks sees the old rows or the new ones.
//!
//! What makes or changes a table ends a transaction there; so it is done before, and harms nobody: a table that was missing is
//! there and empty.

use crate::{
    error::{Error, Result},
    import::{
        load_asked::Loaded,
        load_stage::Staged,
        load_tables::{Dialect, Held, MARKER, counts, described, refuse_held, refused, ways},
    },
    mn::{
        engine::Server,
        mysql::{Failure, options},
        tables::{Cell, Table, is_table_name},
    },
    progress::{Event, Progress},
};
use mysql::{Conn, Value, prelude::Queryable};
use std::collections::{BTreeMap, BTreeSet};

const SQL: Dialect = Dialect::Mysql;
/// How many values, and about how many bytes, a statement may have: servers take 65,535, and of old ones a megabyte.
const MAX_VALUES: usize = 30_000;
const MAX_BYTES: usize = 400 << 10;
/// A value that does not fit is refused, not cut; a number that is zero is no wish for the next one.
const BEGIN: &str = "SET NAMES utf8mb4; SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_AUTO_VALUE_ON_ZERO'; \
     SET SESSION innodb_lock_wait_timeout = 50";
const TABLES: &str = "SELECT c.table_name, c.column_name, c.is_nullable, t.engine \
     FROM information_schema.columns c JOIN information_schema.tables t \
     ON t.table_schema = c.table_schema AND t.table_name = c.table_name \
     WHERE c.table_schema = database() AND t.table_type = 'BASE TABLE' ORDER BY c.table_name, c.ordinal_position";

/// A table as the server has it.
#[derive(Debug, Default)]
struct There {
    columns: Vec<String>,
    needed: BTreeSet<String>,
    is_safe: bool,
}

fn told<T>(what: Result<T, Failure>) -> Result<Result<T, String>> {
    match what {
        Ok(done) => Ok(Ok(done)),
        Err(Failure::Server(why)) => Ok(Err(why)),
        Err(Failure::Ours(e)) => Err(e),
    }
}

fn connect(server: &Server) -> Result<Conn, Failure> {
    Ok(Conn::new(options(server))?)
}

/// The first way by which one gets in; or why the first does not lead there.
///
/// # Errors
/// None that is known.
pub fn way_in(staged: &Staged<'_>, server: &Server) -> Result<Result<Server, String>> {
    let mut first = None;
    for way in ways(staged, server) {
        match told(connect(&way))? {
            Ok(_) => return Ok(Ok(way)),
            Err(why) => first = first.or(Some(why)),
        }
    }
    Ok(Err(first.unwrap_or_default()))
}

/// What the server holds.
///
/// # Errors
/// `File` where it does not say.
pub fn held(staged: &Staged<'_>, way: &Server) -> Result<Held> {
    told(held_by(way))?.map_err(|why| refused("look at the tables in", staged, why))
}

fn held_by(way: &Server) -> Result<Held, Failure> {
    let mut db = connect(way)?;
    let mut held = Held::default();
    for name in tables(&mut db)?.into_keys() {
        if name == MARKER {
            held.is_ours = true;
        }
        if counts(&name) && is_table_name(name.as_bytes()) {
            let full: Option<u8> = db.query_first(format!("SELECT 1 FROM {} LIMIT 1", SQL.name(&name)))?;
            held.full.extend(full.map(|_| name));
        }
    }
    Ok(held)
}

fn tables(db: &mut Conn) -> Result<BTreeMap<String, There>, Failure> {
    let mut tables = BTreeMap::<String, There>::new();
    let rows: Vec<(String, String, String, Option<String>)> = db.query(TABLES)?;
    for (table, column, is_nullable, engine) in rows {
        let there = tables.entry(table).or_default();
        there.is_safe = engine.is_some_and(|engine| engine.eq_ignore_ascii_case("InnoDB"));
        if is_nullable.eq_ignore_ascii_case("no") {
            there.needed.insert(column.clone());
        }
        there.columns.push(column);
    }
    Ok(tables)
}

/// Loads all tables in one transaction. Durable when it returns, as far as the server is set up to be.
///
/// # Errors
/// `Usage` where the tables are somebody else's; `Damaged` where what was brought is not what was captured; `File` where the
/// server refuses: then all rows are as they were; `Interrupted`, likewise.
pub fn load(staged: &Staged<'_>, server: &Server, progress: &dyn Progress) -> Result<Loaded> {
    let way = way_in(staged, server)?.map_err(|why| refused("load the tables into", staged, why))?;
    if let Some(refusal) = refuse_held(staged, &way, &held(staged, &way)?)? {
        return Err(refusal.error());
    }
    let mut loaded = told(all(staged, &way, progress))?.map_err(|why| refused("load the tables into", staged, why))?;
    if way.host != server.host {
        loaded.notes.push(format!("{} was reached locally: the address in cfgloc does not answer yet", staged.engine));
    }
    Ok(loaded)
}

fn all(staged: &Staged<'_>, way: &Server, progress: &dyn Progress) -> Result<Loaded, Failure> {
    let mut db = connect(way)?;
    for statement in BEGIN.split("; ") {
        db.query_drop(statement)?;
    }
    let names = staged.csv_names()?;
    let before = tables(&mut db)?;
    for name in &names {
        shape(&mut db, staged, name, before.get(name)).map_err(|e| of_table(name, e))?;
    }
    let there = tables(&mut db)?;
    let mut loaded = Loaded::default();
    db.query_drop("START TRANSACTION")?;
    for name in &names {
        if progress.stop_wanted() {
            return Err(Error::Interrupted.into());
        }
        progress.tell(Event::Path(name.as_bytes()));
        let table = staged.table(name)?;
        let here = there.get(name).ok_or_else(|| of_table(name, Failure::Server("it cannot be made".into())))?;
        fill(&mut db, &table, here).map_err(|e| of_table(name, e))?;
        if !here.is_safe {
            loaded
                .notes
                .push(format!("table {name} knows no transactions: it alone is not as it was, had this failed"));
        }
        loaded.tables.push((name.clone(), table.rows.len() as u64));
    }
    db.query_drop("COMMIT")?;
    let kept = there.keys().filter(|name| !names.contains(*name) && is_table_name(name.as_bytes()));
    loaded.kept = kept.filter(|name| *name != MARKER).map(|name| staged.why_kept(name)).collect();
    db.query_drop(format!("DROP TABLE IF EXISTS {}", SQL.name(MARKER)))?;
    Ok(loaded)
}

fn of_table(name: &str, e: Failure) -> Failure {
    match e {
        Failure::Server(why) => Failure::Server(format!("table {name}: {why}")),
        ours => ours,
    }
}

/// Makes a table that is missing, and adds columns that it lacks, as xcatd does at its start.
fn shape(db: &mut Conn, staged: &Staged<'_>, name: &str, there: Option<&There>) -> Result<(), Failure> {
    let known = described(staged, name, &staged.columns(name)?);
    let Some(there) = there else { return make(db, staged, name, &SQL.make(name, &known)) };
    for column in known.columns.iter().filter(|column| !there.columns.contains(column)) {
        let kind = SQL.kind(column, &known);
        db.query_drop(format!("ALTER TABLE {} ADD COLUMN {} {kind}", SQL.name(name), SQL.name(column)))?;
    }
    Ok(())
}

/// Makes a table in the database's own character set, which for xCAT is latin1: keys of a thousand characters are too long in
/// another. A table with a value that latin1 does not know is made in UTF-8.
fn make(db: &mut Conn, staged: &Staged<'_>, name: &str, statement: &str) -> Result<(), Failure> {
    let table = staged.table(name)?;
    let mut cells = table.rows.iter().flatten().flatten();
    let is_wide = |cell: &Cell| std::str::from_utf8(cell).is_ok_and(|text| text.chars().any(|c| c > '\u{ff}'));
    let charset = if cells.any(is_wide) { " DEFAULT CHARACTER SET utf8mb4" } else { "" };
    Ok(db.query_drop(format!("{statement}{charset}"))?)
}

fn fill(db: &mut Conn, table: &Table, there: &There) -> Result<(), Failure> {
    let name = SQL.name(&table.name);
    db.query_drop(format!("DELETE FROM {name}"))?;
    let is_needed: Vec<_> = table.columns.iter().map(|column| there.needed.contains(column)).collect();
    let marks = format!("({})", vec!["?"; table.columns.len()].join(","));
    let into = format!("INSERT INTO {name} ({}) VALUES ", SQL.names(&table.columns));
    let mut rows = table.rows.iter().peekable();
    while rows.peek().is_some() {
        let (mut values, mut bytes, mut count) = (Vec::new(), 0, 0);
        while let Some(row) =
            rows.next_if(|row| count == 0 || (values.len() + row.len() <= MAX_VALUES && bytes < MAX_BYTES))
        {
            bytes += row.iter().flatten().map(Cell::len).sum::<usize>();
            values.extend(row.iter().zip(&is_needed).map(|(cell, is_needed)| match cell {
                Some(value) => Value::Bytes(value.to_vec()),
                // xCAT leaves parts of keys unset, which only SQLite allows, and takes an empty text for unset.
                None if *is_needed => Value::Bytes(Vec::new()),
                None => Value::NULL,
            }));
            count += 1;
        }
        db.exec_drop(format!("{into}{}", vec![marks.as_str(); count].join(",")), values)?;
    }
    Ok(())
}
