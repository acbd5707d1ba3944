//! The database of an import: what would be changed, the engine made ready, the tables loaded, and compared with the snapshot.
//!
//! Each of these may be done again after it was cut short anywhere, and leads to the same end.

pub use crate::import::load_asked::{Difference, Examined, LoadRequest, Loaded, Refusal, TableWord};
use crate::{
    error::{Error, Result},
    import::{
        client::{self, Client},
        load_last, load_mysql, load_postgres, load_sqlite,
        load_stage::{Staged, csv_path},
        load_tables::{self, Again, Held, refuse_full, refuse_held, refused},
        placed::{live, put, remove},
        ready_mysql, ready_postgres,
    },
    mn::{
        csv_folder::LOGS,
        database::{self, DumpOptions},
        engine::{CFGLOC, Engine, Server},
        rows::{Became, RowDifference, Told, compare_rows},
        tables::Tables,
    },
    progress::Progress,
};
use std::path::Path;

/// The mode of cfgloc: it holds a password.
const CFGLOC_MODE: u32 = 0o600;
/// How many rows of a table are told that differ.
const MAX_TOLD_ROWS: usize = 100;

/// Finds out what loading would do, and what stands against it. Changes nothing.
///
/// # Errors
/// `File` where the stage cannot be read; `Damaged` where its cfgloc makes no sense.
pub fn examine(request: &LoadRequest<'_>) -> Result<Examined> {
    let staged = Staged::of(request)?;
    let mut examined = Examined {
        engine: staged.engine.clone(),
        is_external: staged.is_external(),
        is_schema_known: staged.is_schema_known,
        refusals: staged.refusals()?,
        engine_changes: Vec::new(),
        table_changes: Vec::new(),
        notes: Vec::new(),
        would_change: staged.would_change()?,
    };
    let names = staged.csv_names()?;
    if !staged.is_schema_known {
        let note = "there is no xCAT here yet: its schema is held against the tables once it is installed";
        examined.notes.push(note.into());
    }
    let unknown = names.iter().filter(|name| staged.is_schema_known && !staged.schema.tables.contains_key(*name));
    for name in unknown {
        examined.notes.push(format!("table {name}: this xCAT does not know it; it is loaded all the same"));
    }
    match &staged.engine {
        Engine::Sqlite { dir } => {
            examined.refusals.extend(load_sqlite::refusals(&staged, dir)?);
            let (files, dir) = (load_sqlite::staged_files(&staged, dir)?.len(), String::from_utf8_lossy(dir));
            let files = format!("{files} table files of {dir} are replaced by the captured ones, mode 0600");
            examined.table_changes.push(files);
        }
        Engine::Postgres(server) | Engine::Mysql(server) => examine_server(&staged, server, &mut examined)?,
        _ => {}
    }
    examined.table_changes.push(match &staged.cfgloc {
        Some(_) => "cfgloc is put back as captured".into(),
        None => "a cfgloc that is here is removed: the captured node had none".to_owned(),
    });
    Ok(examined)
}

/// What can be found out of a server without touching it. One that is refused is not even asked.
fn examine_server(staged: &Staged<'_>, server: &Server, examined: &mut Examined) -> Result<()> {
    let inside = &staged.request.machine.inside;
    let is_postgres = matches!(staged.engine, Engine::Postgres(_));
    examined.engine_changes = match is_postgres {
        true => ready_postgres::changes(staged, server),
        false => ready_mysql::changes(staged, server),
    };
    let rows: u64 = staged.request.manifest.database.tables.iter().map(|table| table.rows).sum();
    let tables = staged.csv_names()?.len();
    let change = format!("the rows of {tables} tables are replaced by the {rows} captured ones, in one transaction");
    examined.table_changes.push(change);
    if !examined.refusals.is_empty() {
        return Ok(());
    }
    let unit = if is_postgres {
        client::unit_of_postgres(inside).map(|(unit, _)| unit)
    } else {
        client::unit_of_mysql(inside).map(Into::into)
    };
    match (way_in(staged, server)?, unit) {
        (Ok(way), _) => examined.refusals.extend(refuse_held(staged, &way, &held(staged, &way)?)?),
        (Err(why), _) if examined.is_external => {
            let way_on = "have its administrator make role and database, or import with --skip-db";
            examined.refusals.push(Refusal::new(staged.engine.to_string(), why, way_on));
        }
        (Err(_), None) => {
            let way_on = "install the distribution's own packages of it (its server and its client) first";
            examined.refusals.push(Refusal::new(staged.engine.name(), "no such server is installed here", way_on));
        }
        (Err(_), Some(unit)) => {
            examined.refusals.extend(refuse_unreached(staged, server)?);
            examined.engine_changes.insert(0, format!("{unit} is started where it does not run, and set up"));
        }
    }
    Ok(())
}

fn held(staged: &Staged<'_>, way: &Server) -> Result<Held> {
    match &staged.engine {
        Engine::Postgres(_) => load_postgres::held(staged, way),
        _ => load_mysql::held(staged, way),
    }
}

/// Starts the server of this machine that is to have the tables, where it does not answer. Nothing else is changed.
///
/// # Errors
/// `Usage` with the first thing that stands against the load, tables of somebody else's among it; `File` where the server cannot
/// be started.
pub fn start(request: &LoadRequest<'_>) -> Result<()> {
    let staged = Staged::of(request)?;
    refuse(staged.refusals()?)?;
    let Some(server) = staged.server().filter(|_| !staged.is_external()) else { return Ok(()) };
    master(&staged).start().map_err(|why| refused("start", &staged, why))?;
    // What a server holds that did not run could not be looked at before.
    let refusal = match way_in(&staged, server)? {
        Ok(way) => refuse_held(&staged, &way, &held(&staged, &way)?)?,
        Err(_) => refuse_unreached(&staged, server)?,
    };
    refusal.map_or(Ok(()), |refusal| Err(refusal.error()))
}

/// The server of this machine, spoken to as its master.
fn master<'a>(staged: &Staged<'a>) -> Client<'a> {
    match &staged.engine {
        Engine::Postgres(_) => ready_postgres::client(staged),
        _ => ready_mysql::client(staged),
    }
}

fn way_in(staged: &Staged<'_>, server: &Server) -> Result<Result<Server, String>> {
    match &staged.engine {
        Engine::Postgres(_) => load_postgres::way_in(staged, server),
        _ => load_mysql::way_in(staged, server),
    }
}

/// Whose tables would be replaced where xCAT's role does not get in yet: the master of this machine's server sees them. One
/// that does not run is not started to be asked.
fn refuse_unreached(staged: &Staged<'_>, server: &Server) -> Result<Option<Refusal>> {
    let full = master(staged).full_tables(&server.database).unwrap_or_default();
    refuse_full(staged, &Held { full, ..Held::default() })
}

/// Makes the engine ready, and then puts cfgloc in place. For tables in files there is nothing to make ready.
///
/// # Errors
/// `Usage` with the first thing that stands against it; `File` where the server cannot be started, reached or set up.
pub fn prepare(request: &LoadRequest<'_>) -> Result<()> {
    let staged = Staged::of(request)?;
    refuse(staged.refusals()?)?;
    match &staged.engine {
        Engine::Postgres(server) => ready_postgres::prepare(&staged, server)?,
        Engine::Mysql(server) => ready_mysql::prepare(&staged, server)?,
        _ => return Ok(()),
    }
    put_cfgloc(&staged)
}

/// Loads the tables. xcatd does not run. Durable when it returns.
///
/// # Errors
/// `Usage` with the first thing that stands against it; `Damaged` where what was brought is not what was captured; `File`
/// where it cannot be read, written or sent; `Interrupted`.
pub fn load(request: &LoadRequest<'_>, progress: &dyn Progress) -> Result<Loaded> {
    let staged = Staged::of(request)?;
    refuse(staged.refusals()?)?;
    match &staged.engine {
        Engine::Sqlite { dir } => {
            refuse(load_sqlite::refusals(&staged, dir)?)?;
            let loaded = load_sqlite::load(&staged, dir, progress)?;
            put_cfgloc(&staged)?;
            Ok(loaded)
        }
        Engine::Postgres(server) => {
            let way = way_in(&staged, server)?;
            served(&staged, way, || load_postgres::load(&staged, server, progress), progress)
        }
        Engine::Mysql(server) => {
            let way = way_in(&staged, server)?;
            served(&staged, way, || load_mysql::load(&staged, server, progress), progress)
        }
        // Refused above.
        Engine::Db2 | Engine::Csv { .. } => Err(Error::Usage(format!("tables in {} are not loaded", staged.engine))),
    }
}

/// Loads by xsnap's own connection; by xCAT's command only where there is none, and where that was asked for.
fn served(
    staged: &Staged<'_>,
    way: Result<Server, String>,
    own: impl FnOnce() -> Result<Loaded>,
    progress: &dyn Progress,
) -> Result<Loaded> {
    match way {
        Err(_) if staged.request.last_resort => load_last::load(staged, progress),
        Err(why) => Err(refused("get into", staged, why)),
        Ok(_) => own(),
    }
}

fn refuse(refusals: Vec<Refusal>) -> Result<()> {
    refusals.into_iter().next().map_or(Ok(()), |refusal| Err(refusal.error()))
}

/// Says to xCAT which database it has, as the captured node said it.
fn put_cfgloc(staged: &Staged<'_>) -> Result<()> {
    let path = live(&staged.request.machine.inside, CFGLOC);
    match &staged.cfgloc {
        Some(text) => put(&path, text, CFGLOC_MODE),
        None => remove(&path),
    }
}

/// Dumps the tables once more into an empty folder and compares them with the snapshot. Tables that the snapshot lacks do not
/// count. The tables of records grow as soon as xcatd runs: compared before, they are equal.
///
/// # Errors
/// `File` where the folder cannot be written or the stage not be read; `Interrupted`.
pub fn compare(request: &LoadRequest<'_>, staging: &Path, progress: &dyn Progress) -> Result<Vec<Difference>> {
    let staged = Staged::of(request)?;
    let mut found = Vec::new();
    let mut tell = |table: &str, key: String, what: String| found.push(Difference { table: table.into(), key, what });
    let here = Engine::of(&request.machine.inside)?;
    if here != staged.engine {
        let what = format!("cfgloc names {here}, and the tables are in {}", staged.engine);
        tell("", String::new(), what);
        return Ok(found);
    }
    let again = match staged.server() {
        Some(server) => read_again(&staged, server, staging, progress)?,
        None => dump_again(&staged, staging, progress)?,
    };
    for table in &request.manifest.database.tables {
        let Some(own) = again.proofs.iter().find(|proof| proof.table == table.name) else {
            tell(&table.name, String::new(), again.why_missing(&table.name));
            continue;
        };
        if (own.rows, &own.digest) == (table.rows, &table.digest) {
            continue;
        }
        let told = found_in_rows(&staged, &table.name, &again.tables)?;
        if own.rows != table.rows || told.is_empty() {
            tell(&table.name, String::new(), counts(table.rows, own.rows));
        }
        told.into_iter().for_each(|(key, what)| tell(&table.name, key, what));
    }
    Ok(found)
}

fn counts(captured: u64, here: u64) -> String {
    if captured == here {
        "its digest is not the captured one".into()
    } else {
        format!("{here} rows, and {captured} were captured")
    }
}

fn dump_again(staged: &Staged<'_>, staging: &Path, progress: &dyn Progress) -> Result<Again> {
    let options = DumpOptions { logs: true, ..DumpOptions::default() };
    let dump = database::dump(staged.request.machine, staging, &options, progress)?;
    let problem = |problem: crate::repo::snapshot::Problem| {
        (String::from_utf8_lossy(&problem.path).into_owned(), format!("cannot {}: {}", problem.verb, problem.cause))
    };
    Ok(Again { tables: dump.tables, proofs: dump.proofs, problems: dump.problems.into_iter().map(problem).collect() })
}

/// The same of a server, which is reached as it was for loading.
fn read_again(staged: &Staged<'_>, server: &Server, staging: &Path, progress: &dyn Progress) -> Result<Again> {
    // One that is reached in no way says so once more.
    let way = way_in(staged, server)?.unwrap_or_else(|_| server.clone());
    load_tables::read(staged, &way, staging, progress)
}

/// The rows of a table that are not as captured: key, and what differs.
fn found_in_rows(staged: &Staged<'_>, name: &str, tables: &Tables) -> Result<Vec<(String, String)>> {
    let Some(own) = tables.get(name).filter(|_| !LOGS.contains(&name)) else { return Ok(Vec::new()) };
    if !staged.inside.exists(&csv_path(name)) {
        return Ok(Vec::new());
    }
    let rows = compare_rows(name, &staged.table(name)?, own);
    let mut told: Vec<_> =
        rows.rows.iter().take(MAX_TOLD_ROWS).map(|row| (words_of(&row.key), difference(row))).collect();
    let more = rows.rows.len().saturating_sub(MAX_TOLD_ROWS);
    if more > 0 {
        told.push((String::new(), format!("{more} more rows differ")));
    }
    if rows.status_rows > 0 {
        told.push((String::new(), format!("{} rows differ in a state that xCAT itself keeps", rows.status_rows)));
    }
    Ok(told)
}

fn difference(row: &RowDifference) -> String {
    let cell = |cell: &crate::mn::rows::CellDifference| {
        format!("{}: {} here, {} captured", cell.column, word(&cell.after), word(&cell.before))
    };
    match row.became {
        Became::Added => "it is here and was not captured".into(),
        Became::Removed => "it was captured and is not here".into(),
        Became::Changed => row.cells.iter().map(cell).collect::<Vec<_>>().join("; "),
    }
}

fn words_of(key: &[(String, Told)]) -> String {
    key.iter().map(|(column, told)| format!("{column}={}", word(told))).collect::<Vec<_>>().join(" ")
}

fn word(told: &Told) -> String {
    match told {
        Told::Unset => "nothing".into(),
        Told::Value(value) => String::from_utf8_lossy(value).into_owned(),
        Told::Secret => "a secret".into(),
    }
}
