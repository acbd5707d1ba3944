//! xCAT's tables in MySQL or MariaDB: read as one state over a connection of our own, and dumped by `mysqldump`.
//!
//! Every step has a limit of time. A server that does not answer is a problem, not an end without end.

use crate::{
    error::{Error, Result},
    mn::{
        csv_folder::{Columns, CsvFolder, LOGS},
        engine::Server,
        host::Order,
        served::{Found, Request, create_archive},
        tables::{Cell, is_table_name},
    },
    progress::Event,
};
use mysql::{Conn, OptsBuilder, Value, prelude::Queryable};
use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};
use zeroize::Zeroizing;

/// How long it may take to get in, and how long each answer of the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// How long `mysqldump` may take.
const DUMP_LIMIT: Duration = Duration::from_secs(3600);
const PORT: u16 = 3306;
/// The time of a file that has none of its own: an unchanged table is an unchanged file.
const NO_TIME: (i64, i64) = (0, 0);

/// Values come as what most tables of today are: four bytes of UTF-8.
const UTF8: &str = "--default-character-set=utf8mb4";

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

impl From<mysql::Error> for Failure {
    fn from(e: mysql::Error) -> Self {
        Self::Server(match e {
            mysql::Error::MySqlError(told) => told.message,
            mysql::Error::IoError(e) => e.to_string(),
            other => other.to_string(),
        })
    }
}

/// Writes every table as CSV, and the whole database as statements of SQL.
///
/// # Errors
/// `File` where they cannot be written; `Interrupted`. What the server refuses is told in what is returned.
pub fn dump(request: &Request<'_>, csvs: &mut CsvFolder) -> Result<Found> {
    let mut found = Found::default();
    match all(request, csvs, &mut found) {
        Ok(()) => Ok(found),
        Err(Failure::Server(cause)) => {
            found.unread.push((None, cause));
            Ok(found)
        }
        Err(Failure::Ours(e)) => Err(e),
    }
}

fn all(request: &Request<'_>, csvs: &mut CsvFolder, found: &mut Found) -> Result<(), Failure> {
    let mut db = Conn::new(options(request.server))?;
    db.query_drop("SET NAMES utf8mb4")?;
    db.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")?;
    db.query_drop("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")?;
    found.version = db.query_first("SELECT version()")?;
    let kinds: Vec<(String, Option<String>)> = db.query(
        "SELECT table_name, engine FROM information_schema.tables \
         WHERE table_schema = database() AND table_type = 'BASE TABLE' ORDER BY table_name",
    )?;
    for (name, kind) in kinds {
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
        if kind.as_deref().is_some_and(|kind| !kind.eq_ignore_ascii_case("InnoDB")) {
            found.notes.push(format!("table {name} knows no transactions: it may not agree with the others"));
        }
        match table(&mut db, &name, request, csvs) {
            Err(Failure::Server(cause)) => found.unread.push((Some(name), cause)),
            other => found.note_unknown(&name, &other?),
        }
    }
    let Some(path) = &request.archive else { return Ok(()) };
    match archive(request, path) {
        Err(Failure::Server(cause)) => found.unread.push((None, cause)),
        other => other?,
    }
    Ok(())
}

/// The address in the form that `mysql` clients know: without a host, or for `localhost`, the local socket.
pub fn options(server: &Server) -> OptsBuilder {
    const SOCKETS: [&str; 3] = ["/var/lib/mysql/mysql.sock", "/var/run/mysqld/mysqld.sock", "/run/mysql/mysql.sock"];
    let is_local = server.host.as_deref().is_none_or(|host| host == "localhost");
    let found = || SOCKETS.into_iter().find(|path| std::path::Path::new(path).exists()).map(str::to_owned);
    let socket = server.socket.clone().or_else(|| if is_local { found() } else { None });
    let host = server.host.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
    OptsBuilder::new()
        .prefer_socket(false)
        .socket(socket)
        .ip_or_hostname(Some(host))
        .tcp_port(server.port.unwrap_or(PORT))
        .user(Some(&server.user))
        .pass(Some(server.password.reveal()))
        .db_name(Some(&server.database))
        .tcp_connect_timeout(Some(CONNECT_LIMIT))
        .read_timeout(Some(ANSWER_LIMIT))
        .write_timeout(Some(ANSWER_LIMIT))
}

fn table(db: &mut Conn, name: &str, request: &Request<'_>, csvs: &mut CsvFolder) -> Result<Columns, Failure> {
    let mut rows = db.query_iter(format!("SELECT * FROM `{name}`"))?;
    let stored: Vec<_> = rows.columns().as_ref().iter().map(|column| column.name_str().into_owned()).collect();
    let columns = Columns::new(&stored, request.schema.tables.get(name));
    let mut csv = csvs.begin(name, &columns)?;
    let written = rows.by_ref().try_for_each(|row| {
        let mut values = row?.unwrap_raw();
        let value = |at: usize| text(values.get_mut(at).and_then(Option::take));
        Ok(csv.row(columns.cells(value)?)?)
    });
    match written {
        Ok(()) => csvs.take(csv.finish(NO_TIME)?),
        Err(e) => {
            csv.abandon()?;
            return Err(e);
        }
    }
    Ok(columns)
}

/// A value in text, which is how all values come that answer a plain question.
fn text(value: Option<Value>) -> Result<Option<Cell>, Failure> {
    match value {
        None | Some(Value::NULL) => Ok(None),
        Some(Value::Bytes(bytes)) => Ok(Some(bytes.into())),
        Some(_) => Err(Failure::Server("the server sent a value that is no text".to_owned())),
    }
}

/// The whole database as `mysqldump` writes it, without the time at which it did.
fn archive(request: &Request<'_>, path: &Path) -> Result<(), Failure> {
    let server = request.server;
    let secret = path.with_extension("cnf");
    let failed = |e| Error::file("write", &secret, e);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&secret);
    file.and_then(|mut file| file.write_all(client_options(server).as_bytes())).map_err(failed)?;
    let program = request.first_of(["mysqldump", "mariadb-dump"]);
    // This option counts only if it is the first, and then no other file counts: root may have one with another way in.
    let mut order = Order::new(program, [""; 0]).within(DUMP_LIMIT);
    let mut first = std::ffi::OsString::from("--defaults-file=");
    first.push(&secret);
    order.arguments.push(first);
    let options = ["--single-transaction", "--quick", "--skip-dump-date", "--no-tablespaces", "--hex-blob", UTF8];
    order.arguments.extend(options.map(Into::into));
    let logs = LOGS.iter().filter(|_| !request.logs);
    order.arguments.extend(logs.map(|log| format!("--ignore-table={}.{log}", server.database).into()));
    order.arguments.push(server.database.clone().into());
    order.output = Some(create_archive(path)?);
    let ran = request.run(program, path, order);
    std::fs::remove_file(&secret).map_err(|e| Error::file("remove", &secret, e))?;
    ran.map_err(Failure::Server)
}

/// The way in, for a file that only root can read: what stands in a command line can be read by everybody.
fn client_options(server: &Server) -> Zeroizing<String> {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let password = Zeroizing::new(quoted(server.password.reveal()));
    let mut text = Zeroizing::new(format!("[client]\nuser={}\npassword={}\n", quoted(&server.user), *password));
    for (key, value) in [("host", &server.host), ("socket", &server.socket)] {
        value.iter().for_each(|value| text.push_str(&format!("{key}={}\n", quoted(value))));
    }
    server.port.iter().for_each(|port| text.push_str(&format!("port={port}\n")));
    text
}
