//! xCAT's tables in PostgreSQL: read as one state over a connection of our own, and dumped by `pg_dump` from the same one.
//!
//! Every step has a limit of time. A server that does not answer is a problem, not an end without end.

use crate::{
    error::{Error, Result},
    mn::{
        csv_folder::{Columns, CsvFolder, LOGS},
        engine::Server,
        host::Order,
        served::{Found, Request, create_archive},
        tables::{Cell, Cells, is_table_name},
    },
    progress::Event,
};
use futures_util::StreamExt;
use std::{future::Future, path::Path, pin::pin, time::Duration};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// How long it may take to get in, and how long each answer of the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long `pg_dump` may take.
const DUMP_LIMIT: Duration = Duration::from_secs(3600);
/// Where the server's socket is when no host is named.
const SOCKET_FOLDER: &str = "/var/run/postgresql";
const PORT: u16 = 5432;
/// The time of a file that has none of its own: an unchanged table is an unchanged file.
const NO_TIME: (i64, i64) = (0, 0);

/// One state for all tables. Rows come in the order in which they are stored only if no scan begins in the middle, where
/// another one happens to be.
const BEGIN: &str = "SET synchronize_seqscans = off; SET statement_timeout = 600000; SET lock_timeout = 10000; \
     BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY, DEFERRABLE";
/// The tables that a query without the name of a schema would find, and their columns.
const COLUMNS: &str = "SELECT c.relname, a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) \
     AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND a.attnum > 0 AND NOT a.attisdropped \
     ORDER BY c.relname, a.attnum";

/// Why something was not read or written.
#[derive(Debug)]
pub enum Failure {
    /// The server refused it, or could not be reached.
    Server(String),
    /// It is no fault of the server's.
    Ours(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Ours(e)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(e: tokio_postgres::Error) -> Self {
        Self::Server(match (e.as_db_error(), std::error::Error::source(&e)) {
            (Some(told), _) => told.to_string(),
            (None, Some(source)) => format!("{e}: {source}"),
            (None, None) => e.to_string(),
        })
    }
}

/// Writes every table as CSV, and the whole database in PostgreSQL's own format.
///
/// # Errors
/// `File` where they cannot be written; `Interrupted`. What the server refuses is told in what is returned.
pub fn dump(request: &Request<'_>, csvs: &mut CsvFolder) -> Result<Found> {
    let mut found = Found::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::file("prepare a connection to", &request.server.database, e))?;
    match runtime.block_on(all(request, csvs, &mut found)) {
        Ok(()) => Ok(found),
        Err(Failure::Server(cause)) => {
            found.unread.push((None, cause));
            Ok(found)
        }
        Err(Failure::Ours(e)) => Err(e),
    }
}

async fn all(request: &Request<'_>, csvs: &mut CsvFolder, found: &mut Found) -> Result<(), Failure> {
    let client = connect(request.server).await?;
    within(client.batch_execute(BEGIN)).await?;
    found.version = ask(&client, "SHOW server_version").await?.into_iter().flatten().next();
    // Not on a standby, which has nothing to hand out.
    let snapshot = ask(&client, "SELECT CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_export_snapshot() END").await;
    let snapshot = snapshot.ok().and_then(|rows| rows.into_iter().flatten().next());
    for (name, stored) in tables(&client).await? {
        if request.progress.stop_wanted() {
            return Err(Error::Interrupted.into());
        }
        found.tables.push(name.clone());
        if !is_table_name(name.as_bytes()) {
            found.notes.push(format!("{name} is no table of xCAT: it is in the dump of the database only"));
            continue;
        }
        if !request.logs && LOGS.contains(&name.as_str()) {
            found.left_out.push(name);
            continue;
        }
        request.progress.tell(Event::Path(name.as_bytes()));
        let columns = Columns::new(&stored, request.schema.tables.get(&name));
        // A table that cannot be read must not end the transaction for the others.
        within(client.batch_execute("SAVEPOINT one")).await?;
        match table(&client, &name, &columns, csvs).await {
            Err(Failure::Server(cause)) => {
                found.unread.push((Some(name), cause));
                within(client.batch_execute("ROLLBACK TO SAVEPOINT one")).await?;
            }
            other => {
                other?;
                found.note_unknown(&name, &columns);
                within(client.batch_execute("RELEASE SAVEPOINT one")).await?;
            }
        }
    }
    let Some(path) = &request.archive else { return Ok(()) };
    match archive(request, path, snapshot.as_deref()) {
        Err(Failure::Server(cause)) => found.unread.push((None, cause)),
        other => other?,
    }
    Ok(())
}

/// The tables that a query would find, each with its columns in their order.
///
/// # Errors
/// What the server says.
pub async fn tables(client: &Client) -> Result<Vec<(String, Vec<String>)>, Failure> {
    let mut tables: Vec<(String, Vec<String>)> = Vec::new();
    for row in ask(client, COLUMNS).await? {
        let [table, column] = row.as_slice() else { continue };
        match tables.last_mut() {
            Some((last, columns)) if last == table => columns.push(column.clone()),
            _ => tables.push((table.clone(), vec![column.clone()])),
        }
    }
    Ok(tables)
}

/// Gets in.
///
/// # Errors
/// What the server says, or that it does not answer in time.
pub async fn connect(server: &Server) -> Result<Client, Failure> {
    let mut config = Config::new();
    config.host(server.host.as_deref().unwrap_or(SOCKET_FOLDER)).port(server.port.unwrap_or(PORT));
    config.user(&server.user).password(server.password.reveal()).dbname(&server.database);
    config.connect_timeout(CONNECT_LIMIT).keepalives_idle(Duration::from_secs(10)).application_name("xsnap");
    let limit = tokio::time::timeout(CONNECT_LIMIT, config.connect(NoTls));
    let (client, connection) = limit.await.map_err(|_| too_slow(CONNECT_LIMIT))??;
    // How it ends is told by the client's next call.
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(client)
}

/// Waits for an answer, but not without end.
///
/// # Errors
/// What the server says, or that it does not answer in time.
pub async fn within<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failure> {
    Ok(tokio::time::timeout(ANSWER_LIMIT, answer).await.map_err(|_| too_slow(ANSWER_LIMIT))??)
}

fn too_slow(limit: Duration) -> Failure {
    Failure::Server(format!("the server did not answer within {} seconds", limit.as_secs()))
}

/// The rows that answer a question, without what is unset in them.
///
/// # Errors
/// What the server says, or that it does not answer in time.
pub async fn ask(client: &Client, question: &str) -> Result<Vec<Vec<String>>, Failure> {
    let messages = within(client.simple_query(question)).await?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).filter_map(|at| row.get(at).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

async fn table(client: &Client, name: &str, columns: &Columns, csvs: &mut CsvFolder) -> Result<(), Failure> {
    let mut csv = csvs.begin(name, columns)?;
    let written: Result<(), Failure> = async {
        let stream = within(client.copy_out(&format!("COPY \"{name}\" TO STDOUT"))).await?;
        let (mut stream, mut pending) = (pin!(stream), Vec::new());
        loop {
            let next = tokio::time::timeout(ANSWER_LIMIT, stream.next()).await.map_err(|_| too_slow(ANSWER_LIMIT))?;
            let Some(piece) = next.transpose()? else { return Ok(()) };
            pending.extend_from_slice(&piece);
            let Some(end) = pending.iter().rposition(|b| *b == b'\n') else { continue };
            let rest = pending.split_off(end + 1);
            for line in pending.split_inclusive(|b| *b == b'\n') {
                csv.row(cells(line.strip_suffix(b"\n").unwrap_or(line), columns))?;
            }
            pending = rest;
        }
    }
    .await;
    match written {
        Ok(()) => {
            csvs.take(csv.finish(NO_TIME)?);
            Ok(())
        }
        Err(e) => {
            csv.abandon()?;
            Err(e)
        }
    }
}

/// A line of what COPY gives: values between tabs, with what would be mistaken behind a backslash.
fn cells(line: &[u8], columns: &Columns) -> Cells {
    let values: Vec<_> = line.split(|b| *b == b'\t').collect();
    let value = |at: usize| Ok::<_, std::convert::Infallible>(values.get(at).and_then(|value| unescaped(value)));
    match columns.cells(value) {
        Ok(cells) => cells,
        Err(never) => match never {},
    }
}

fn unescaped(value: &[u8]) -> Option<Cell> {
    if value == b"\\N" {
        return None;
    }
    let mut text = Cell::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        if *byte != b'\\' {
            text.push(*byte);
            continue;
        }
        text.extend(bytes.next().map(|escaped| match escaped {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            itself => *itself,
        }));
    }
    Some(text)
}

/// The whole database as `pg_dump` writes it: not compressed, for then it is like the last one.
fn archive(request: &Request<'_>, path: &Path, snapshot: Option<&str>) -> Result<(), Failure> {
    let server = request.server;
    let mut order = Order::new("pg_dump", ["--format=custom", "--compress=0", "--no-password"]).within(DUMP_LIMIT);
    let mut add = |option: &str, value: &str| order.arguments.push(format!("--{option}={value}").into());
    add("host", server.host.as_deref().unwrap_or(SOCKET_FOLDER));
    add("port", &server.port.unwrap_or(PORT).to_string());
    add("username", &server.user);
    add("dbname", &server.database);
    snapshot.into_iter().for_each(|snapshot| add("snapshot", snapshot));
    LOGS.iter().filter(|_| !request.logs).for_each(|log| add("exclude-table-data", &format!("*.{log}")));
    let mut order = order.with("PGPASSWORD", server.password.reveal()).with("PGCONNECT_TIMEOUT", "10");
    order.output = Some(create_archive(path)?);
    request.run("pg_dump", path, order).map_err(Failure::Server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_copy_writes_is_read_back() {
        assert_eq!(unescaped(b"\\N"), None);
        assert_eq!(unescaped(b"\\\\N"), Some(Cell::from(&b"\\N"[..])));
        assert_eq!(unescaped(b"a\\tb\\n\\r\\\\\\b\\f\\v\\x"), Some(Cell::from(&b"a\tb\n\r\\\x08\x0c\x0bx"[..])));
        let columns = Columns::new(&["a", "b", "c"].map(str::to_owned), None);
        assert_eq!(cells(b"1\t\\N\t", &columns), [Some(Cell::from(&b"1"[..])), None, None]);
    }
}
