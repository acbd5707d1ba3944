//! Rows into PostgreSQL: all tables in one transaction, so that whoever looks sees the old ones or the new ones.
//!
//! A restore of the server's own dump would need the same schema and a server that is no older; rows need neither.

use crate::{
    error::{Error, Result},
    import::{
        load_asked::{Loaded, TableWord},
        load_stage::Staged,
        load_tables::{Dialect, Held, MARKER, counts, described, refuse_held, refused, ways},
    },
    mn::{
        engine::Server,
        postgres::{Failure, ask, connect, tables, within},
        tables::{Cells, Table, is_table_name},
    },
    progress::{Event, Progress},
};
use futures_util::SinkExt;
use std::{collections::BTreeMap, future::Future, io::Cursor, pin::pin, time::Duration};
use tokio_postgres::Client;

const SQL: Dialect = Dialect::Postgres;
/// How much is sent at once.
const PIECE_BYTES: usize = 256 << 10;
/// How long the end of a table, and of the transaction, may take.
const END_LIMIT: Duration = Duration::from_secs(600);
/// Somebody who holds a table, an xcatd on a service node say, is not waited for without end.
const BEGIN: &str = "SET synchronize_seqscans = off; SET statement_timeout = 0; SET lock_timeout = 60000; \
     SET client_min_messages = warning; BEGIN";

fn run<T>(what: impl Future<Output = Result<T, Failure>>) -> Result<Result<T, String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::file("prepare a connection to", "PostgreSQL", e))?;
    match runtime.block_on(what) {
        Ok(done) => Ok(Ok(done)),
        Err(Failure::Server(why)) => Ok(Err(why)),
        Err(Failure::Ours(e)) => Err(e),
    }
}

/// The first way by which one gets in; or why the first does not lead there.
///
/// # Errors
/// `File` where no connection can be prepared.
pub fn way_in(staged: &Staged<'_>, server: &Server) -> Result<Result<Server, String>> {
    let mut first = None;
    for way in ways(staged, server) {
        match run(async { connect(&way).await.map(|_| ()) })? {
            Ok(()) => return Ok(Ok(way)),
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
    let held = run(async { held_by(&connect(way).await?).await })?;
    held.map_err(|why| refused("look at the tables in", staged, why))
}

async fn held_by(client: &Client) -> Result<Held, Failure> {
    let mut held = Held::default();
    for (name, _) in tables(client).await? {
        if name == MARKER {
            held.is_ours = true;
        }
        if counts(&name) && is_table_name(name.as_bytes()) {
            let full = ask(client, &format!("SELECT 1 FROM {} LIMIT 1", SQL.name(&name))).await?;
            held.full.extend((!full.is_empty()).then_some(name));
        }
    }
    Ok(held)
}

/// Loads all tables in one transaction. Durable when it returns, as far as the server is set up to be.
///
/// # Errors
/// `Usage` where the tables are somebody else's; `Damaged` where what was brought is not what was captured; `File` where the
/// server refuses: then all is as it was; `Interrupted`, likewise.
pub fn load(staged: &Staged<'_>, server: &Server, progress: &dyn Progress) -> Result<Loaded> {
    let way = way_in(staged, server)?.map_err(|why| refused("load the tables into", staged, why))?;
    if let Some(refusal) = refuse_held(staged, &way, &held(staged, &way)?)? {
        return Err(refusal.error());
    }
    let mut loaded = run(async { all(staged, &way, progress).await })?
        .map_err(|why| refused("load the tables into", staged, why))?;
    if way.host != server.host {
        loaded.notes.push(format!("{} was reached locally: the address in cfgloc does not answer yet", staged.engine));
    }
    Ok(loaded)
}

async fn all(staged: &Staged<'_>, way: &Server, progress: &dyn Progress) -> Result<Loaded, Failure> {
    let client = connect(way).await?;
    within(client.batch_execute(BEGIN)).await?;
    let there: BTreeMap<String, Vec<String>> = tables(&client).await?.into_iter().collect();
    let names = staged.csv_names()?;
    let mut loaded = Loaded::default();
    for name in &names {
        if progress.stop_wanted() {
            return Err(Error::Interrupted.into());
        }
        progress.tell(Event::Path(name.as_bytes()));
        let table = staged.table(name)?;
        let rows = one(&client, staged, &table, there.get(name)).await;
        // A transaction that failed says in every answer that it has; the first one says why.
        let rows = rows.map_err(|e| match e {
            Failure::Server(why) => Failure::Server(format!("table {name}: {why}")),
            ours => ours,
        })?;
        loaded.tables.push((name.clone(), rows));
    }
    let kept = there.keys().filter(|name| !names.contains(*name) && is_table_name(name.as_bytes()));
    loaded.kept = kept.filter(|name| *name != MARKER).map(|name| staged.why_kept(name)).collect::<Vec<TableWord>>();
    if there.contains_key(MARKER) {
        within(client.batch_execute(&format!("DROP TABLE {}", SQL.name(MARKER)))).await?;
    }
    ended(client.batch_execute("COMMIT")).await?;
    Ok(loaded)
}

/// Waits for something that may take long.
async fn ended<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    let late = |_| Failure::Server(format!("the server did not answer within {} seconds", END_LIMIT.as_secs()));
    Ok(tokio::time::timeout(END_LIMIT, answer).await.map_err(late)??)
}

/// Makes a table as it should be and fills it; returns how many rows it has.
async fn one(client: &Client, staged: &Staged<'_>, table: &Table, there: Option<&Vec<String>>) -> Result<u64, Failure> {
    let name = SQL.name(&table.name);
    let known = described(staged, &table.name, &table.columns);
    match there {
        None => within(client.batch_execute(&SQL.make(&table.name, &known))).await?,
        Some(there) => {
            // As xcatd adds at its start what a schema has gained.
            for column in known.columns.iter().filter(|column| !there.contains(column)) {
                let kind = SQL.kind(column, &known);
                let add = format!("ALTER TABLE {name} ADD COLUMN {} {kind}", SQL.name(column));
                within(client.batch_execute(&add)).await?;
            }
        }
    }
    // A table that is cut to nothing gets its rows in their order; rows that are deleted leave gaps, which others fill.
    let may_cut = ask(client, &format!("SELECT has_table_privilege({}, 'TRUNCATE')", SQL.text(&name))).await?;
    let may_cut = may_cut.iter().flatten().any(|answer| answer == "t");
    let empty = if may_cut { format!("TRUNCATE {name}") } else { format!("DELETE FROM {name}") };
    ended(client.batch_execute(&empty)).await?;
    let needed = ask(client, &needed(&name)).await?.into_iter().flatten().collect::<Vec<_>>();
    let is_needed: Vec<_> = table.columns.iter().map(|column| needed.contains(column)).collect();
    let copy = format!("COPY {name} ({}) FROM STDIN", SQL.names(&table.columns));
    let mut sink = pin!(within(client.copy_in::<_, Cursor<Vec<u8>>>(&copy)).await?);
    let mut piece = Vec::new();
    for row in &table.rows {
        encode(row, &is_needed, &mut piece);
        if piece.len() >= PIECE_BYTES {
            ended(sink.send(Cursor::new(std::mem::take(&mut piece)))).await?;
        }
    }
    ended(sink.send(Cursor::new(piece))).await?;
    let rows = ended(sink.as_mut().finish()).await?;
    if rows != table.rows.len() as u64 {
        return Err(Failure::Server(format!("it took {rows} of {} rows", table.rows.len())));
    }
    number_on(client, &table.name).await?;
    Ok(rows)
}

/// Columns that may not be unset: xCAT leaves parts of keys unset, which only SQLite allows, and takes an empty text for unset.
fn needed(name: &str) -> String {
    format!(
        "SELECT attname FROM pg_attribute WHERE attrelid = {}::regclass AND attnum > 0 AND attnotnull AND NOT attisdropped",
        SQL.text(name)
    )
}

/// Numbers that the server gives out go on behind those that were loaded.
async fn number_on(client: &Client, table: &str) -> Result<(), Failure> {
    let name = SQL.name(table);
    let numbered = format!(
        "SELECT attname FROM pg_attribute WHERE attrelid = {0}::regclass AND attnum > 0 AND NOT attisdropped \
         AND pg_get_serial_sequence({0}, attname) IS NOT NULL",
        SQL.text(&name)
    );
    for column in ask(client, &numbered).await?.into_iter().flatten() {
        let sequence = format!("pg_get_serial_sequence({}, {})", SQL.text(&name), SQL.text(&column));
        let column = SQL.name(&column);
        let set =
            format!("SELECT setval({sequence}, coalesce(max({column}), 1), max({column}) IS NOT NULL) FROM {name}");
        ask(client, &set).await?;
    }
    Ok(())
}

/// A row as COPY reads it.
fn encode(row: &Cells, is_needed: &[bool], to: &mut Vec<u8>) {
    for (at, cell) in row.iter().enumerate() {
        if at > 0 {
            to.push(b'\t');
        }
        match cell {
            None if is_needed.get(at).is_some_and(|needed| *needed) => {}
            None => to.extend_from_slice(b"\\N"),
            Some(value) => value.iter().for_each(|byte| match byte {
                b'\\' => to.extend_from_slice(b"\\\\"),
                b'\n' => to.extend_from_slice(b"\\n"),
                b'\r' => to.extend_from_slice(b"\\r"),
                b'\t' => to.extend_from_slice(b"\\t"),
                other => to.push(*other),
            }),
        }
    }
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_written_so_that_nothing_in_it_is_taken_for_its_end() {
        let mut text = Vec::new();
        let row = vec![Some(b"a\tb\n\\N\r"[..].into()), None, None];
        encode(&row, &[false, false, true], &mut text);
        assert_eq!(text, b"a\\tb\\n\\\\N\\r\t\\N\t\n");
    }
}
