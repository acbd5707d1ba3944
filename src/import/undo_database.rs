//! What a database server held before an import is kept, and brought back: tables, accounts, and its own files.
//!
//! SQLite's tables are files like others. Of a server, its own program writes the tables down as statements; besides them is
//! kept how the accounts were made that the import changes, and the text of the configuration files that it edits. All of it is
//! durable before the server is told anything else.

use crate::{
    error::{Error, Result},
    import::{
        asked::Asked,
        client::Client,
        load::LoadRequest,
        load_stage::Staged,
        load_tables::{Dialect, refused},
        placed::{live, make_durable, put, remove},
        ready_mysql, ready_postgres,
        services::stop,
        target::{OWN, Target},
        undo::{self, Undone},
    },
    mn::{
        engine::{Engine, Server},
        machine::MAX_FILE_BYTES,
    },
    progress::Progress,
};
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

/// The statements that make the tables again, and what is known besides. The second is written last.
const SCRIPT: &str = "database.sql";
const NOTES: &str = "database.json";
/// What is known of the server besides its tables.
#[derive(Debug, Serialize, Deserialize)]
struct Notes {
    /// The word by which what was kept for the import is found.
    token: String,
    is_postgres: bool,
    /// The server is on another machine: it has tables from the import, and nothing else.
    is_external: bool,
    database: String,
    /// The tables that the database had; nothing where there was no such database.
    tables: Option<Vec<String>>,
    /// Statements about the database, which come before the accounts.
    statements: Vec<String>,
    accounts: Vec<Account>,
    /// Configuration files, with their paths.
    files: Vec<(Vec<u8>, String)>,
}

/// An account of the server that the import makes or changes.
#[derive(Debug, Serialize, Deserialize)]
struct Account {
    /// The question whether it is there, which is answered if it is.
    is_there: String,
    /// What removes it if it is there.
    drop: String,
    /// What makes it as it was.
    make: String,
}

/// Keeps what the server holds that the tables of an import go to, if it was not kept before for this import. The server runs.
/// On return it is durable.
///
/// # Errors
/// `File` where the server does not tell, or where it cannot be written.
pub fn keep(target: &Target<'_>, request: &LoadRequest<'_>, snapshot: &str) -> Result<Vec<String>> {
    let staged = Staged::of(request)?;
    let Some(server) = staged.server() else { return Ok(Vec::new()) };
    let Some((_, token)) = undo::last(target)?.filter(|(last, _)| last == snapshot) else {
        return Ok(vec!["what the server holds is not kept: the step keep was left out".into()]);
    };
    let folder = target.own("undo")?;
    if notes(&folder)?.is_some_and(|notes| notes.token == token) {
        return Ok(vec!["what the server held is kept already".into()]);
    }
    let dialect = if matches!(staged.engine, Engine::Postgres(_)) { Dialect::Postgres } else { Dialect::Mysql };
    let role = staged.is_external().then_some(server);
    let client = Client { machine: request.machine, dialect, role };
    Held { staged: &staged, server, client }.keep(&folder, token)
}

/// A server whose state is kept.
struct Held<'a> {
    staged: &'a Staged<'a>,
    server: &'a Server,
    client: Client<'a>,
}

impl Held<'_> {
    fn keep(&self, folder: &Path, token: String) -> Result<Vec<String>> {
        let database = &self.server.database;
        let tables = self.client.tables(database).map_err(|why| refused("keep what is in", self.staged, why))?;
        let tables = tables.map(|tables| tables.into_iter().map(|(sql, _)| sql).collect::<Vec<_>>());
        if let Some(tables) = &tables {
            self.write_script(folder, tables)?;
        }
        let is_postgres = self.client.dialect == Dialect::Postgres;
        let is_external = self.client.role.is_some();
        let (statements, accounts) = match (is_external, is_postgres) {
            (true, _) => (Vec::new(), Vec::new()),
            (false, true) => (self.owner(tables.is_some())?, vec![self.role()?]),
            (false, false) => (Vec::new(), self.users()?),
        };
        let told = match &tables {
            Some(tables) => {
                format!("{} tables of {} are kept in {}", tables.len(), self.staged.engine, folder.display())
            }
            None => format!("there is no database {database} yet: an undo removes it"),
        };
        let files = if is_external { Vec::new() } else { self.files()? };
        let database = database.clone();
        let notes = Notes { token, is_postgres, is_external, database, tables, statements, accounts, files };
        let path = folder.join(NOTES);
        let bytes = serde_json::to_vec(&notes).map_err(|e| Error::file("write", &path, io::Error::from(e)))?;
        put(&path, &bytes, 0o600)?;
        Ok(vec![told])
    }

    fn ask(&self, database: &str, question: &str) -> Result<String> {
        self.client.say(database, question).map_err(|why| refused("keep what is in", self.staged, why))
    }

    fn text(&self, text: &str) -> String {
        self.client.dialect.text(text)
    }

    /// Writes the statements that make the tables again.
    fn write_script(&self, folder: &Path, tables: &[String]) -> Result<()> {
        let (path, new) = (folder.join(SCRIPT), folder.join(format!("{SCRIPT}.new")));
        let failed = |e| Error::file("write", &new, e);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new);
        let mut file = file.map_err(failed)?;
        let first = format!("{}{}", self.client.quiet(), self.without_others(tables));
        file.write_all(first.as_bytes()).map_err(failed)?;
        if !tables.is_empty() {
            let to = file.try_clone().map_err(failed)?;
            let made = self.client.dump(&self.server.database, tables, to);
            made.map_err(|why| refused("keep the tables of", self.staged, why))?;
        }
        file.sync_all().map_err(failed)?;
        std::fs::rename(&new, &path).map_err(|e| Error::file("put in place", &path, e))?;
        make_durable(folder)
    }

    /// What removes the tables that are not among these, in the transaction that brings these back. MySQL has no such thing.
    fn without_others(&self, tables: &[String]) -> String {
        if self.client.dialect == Dialect::Mysql {
            return String::new();
        }
        let names = tables.iter().map(|table| self.text(table)).chain(["''".to_owned()]).collect::<Vec<_>>().join(", ");
        format!(
            "DO $xsnap$ DECLARE name text; BEGIN FOR name IN SELECT t FROM ({}) AS those (t, n) \
             WHERE t NOT IN ({names}) LOOP EXECUTE 'DROP TABLE ' || name; END LOOP; END $xsnap$;\n",
            self.client.question_for_tables(&self.server.database)
        )
    }

    /// What gives a database of PostgreSQL back to its owner, and takes from xCAT's role what it had not.
    fn owner(&self, is_there: bool) -> Result<Vec<String>> {
        let (database, user) = (self.text(&self.server.database), self.text(&self.server.user));
        if !is_there {
            return Ok(Vec::new());
        }
        let owner =
            "SELECT format('ALTER DATABASE %I OWNER TO %I;', datname, pg_get_userbyid(datdba)) FROM pg_database";
        let mut statements = vec![self.ask("postgres", &format!("{owner} WHERE datname = {database};\n"))?];
        let rights = format!(
            "SELECT r.rolname, coalesce((SELECT string_agg(a.privilege_type, ', ') FROM pg_namespace n, \
             aclexplode(n.nspacl) a WHERE n.nspname = 'public' AND a.grantee = r.oid), '') \
             FROM pg_roles r WHERE r.rolname = {user};\n"
        );
        let rights = self.ask(&self.server.database, &rights)?;
        if let Some((_, rights)) = rights.rsplit_once('|') {
            let name = Dialect::Postgres.name(&self.server.user);
            statements.push(format!("REVOKE ALL ON SCHEMA public FROM {name};"));
            statements.extend((!rights.is_empty()).then(|| format!("GRANT {rights} ON SCHEMA public TO {name};")));
        }
        Ok(statements)
    }

    /// The role of xCAT in PostgreSQL.
    fn role(&self) -> Result<Account> {
        let (text, name) = (self.text(&self.server.user), Dialect::Postgres.name(&self.server.user));
        let question = format!(
            "SELECT format('ALTER ROLE %I %s PASSWORD %s;', rolname, CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, \
             coalesce(quote_literal(rolpassword), 'NULL')) FROM pg_authid WHERE rolname = {text};\n"
        );
        let make = self.ask("postgres", &question)?;
        let is_new = make.is_empty();
        let drop = if is_new { format!("DROP OWNED BY {name}; DROP ROLE {name};\n") } else { String::new() };
        Ok(Account { is_there: format!("SELECT 1 FROM pg_roles WHERE rolname = {text};\n"), drop, make })
    }

    /// The users of MySQL: one for each host that xCAT comes from.
    fn users(&self) -> Result<Vec<Account>> {
        let user = self.text(&self.server.user);
        let account = |host: String| {
            let host = self.text(&host);
            let is_there = format!("SELECT 1 FROM mysql.user WHERE user = {user} AND host = {host};\n");
            let name = format!("{user}@{host}");
            let make = if self.ask("", &is_there)?.is_empty() { String::new() } else { self.user(&name)? };
            Ok(Account { is_there, drop: format!("DROP USER {name};\n"), make })
        };
        ready_mysql::hosts(self.staged, self.server).into_iter().map(account).collect()
    }

    /// The statements that make a user of MySQL. Servers of old tell all of it with the rights.
    fn user(&self, name: &str) -> Result<String> {
        let made = [
            // A digest that is no text.
            format!("SET SESSION print_identified_with_as_hex = 1; SHOW CREATE USER {name};\n"),
            format!("SHOW CREATE USER {name};\n"),
        ];
        let made = made.iter().find_map(|question| self.client.say("", question).ok()).unwrap_or_default();
        let rights = self.ask("", &format!("SHOW GRANTS FOR {name};\n"))?;
        Ok(made.lines().chain(rights.lines()).map(|line| format!("{line};\n")).collect())
    }

    /// The configuration files that the import may edit.
    fn files(&self) -> Result<Vec<(Vec<u8>, String)>> {
        let inside = &self.staged.request.machine.inside;
        let paths = match self.client.dialect {
            Dialect::Postgres => ready_postgres::files(self.staged)?,
            Dialect::Mysql => ready_mysql::files(inside),
        };
        let read = |path: Vec<u8>| {
            let bytes = inside.read(&path, MAX_FILE_BYTES);
            let text = bytes.and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
            text.map(|text| (path.clone(), text)).map_err(|e| Error::file("read", live(inside, &path), e))
        };
        paths.into_iter().map(read).collect()
    }
}

fn notes(folder: &Path) -> Result<Option<Notes>> {
    let path = folder.join(NOTES);
    match std::fs::read(&path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|e| Error::file("read", path, io::Error::from(e)))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::file("read", path, e)),
    }
}

/// Stops daemons, and takes the last import back: what its database server held, then files and services.
///
/// # Errors
/// Those of `undo::undo`; `File` where the server does not answer or does not take its tables back: then no file was changed.
/// Running it again goes on.
pub fn take_back(target: &Target<'_>, asked: &Asked, progress: &dyn Progress) -> Result<Undone> {
    let mut first = Undone::default();
    let last = undo::last(target)?;
    if last.is_some() && !asked.offline {
        // A daemon that runs has the tables open, and would write over files.
        let stopped = stop(target);
        first.told.extend(stopped.err().map(|why| format!("not every daemon could be stopped: {why}")));
    }
    if let Some((_, token)) = last.filter(|_| !asked.skip_db) {
        let folder = target.live(OWN).join("undo");
        match notes(&folder)? {
            Some(notes) if notes.token == token => bring_back(target, &folder, &notes, &mut first)?,
            Some(_) => {}
            // An import that was cut off before it said what it keeps, or an undo before it had removed all of that.
            None => remove(&folder.join(SCRIPT))?,
        }
    }
    let undone = undo::undo(target, asked, progress)?;
    first.told.extend(undone.told);
    first.failed.extend(undone.failed);
    Ok(Undone { told: first.told, failed: first.failed, ..undone })
}

fn bring_back(target: &Target<'_>, folder: &Path, notes: &Notes, undone: &mut Undone) -> Result<()> {
    let dialect = if notes.is_postgres { Dialect::Postgres } else { Dialect::Mysql };
    let here = Engine::of(target.inside()).ok();
    let role = match &here {
        _ if !notes.is_external => None,
        Some(Engine::Postgres(server) | Engine::Mysql(server)) if server.database == notes.database => Some(server),
        // The import was stopped before it said which database it has; before that it loads none.
        _ => return forget(folder),
    };
    let client = Client { machine: target.machine, dialect, role };
    let place = format!("{} {}", if notes.is_postgres { "PostgreSQL" } else { "MySQL" }, notes.database);
    let failed = |why: String| {
        let why =
            format!("{why}; no file was changed. The same command tries again; with --skip-db it leaves the database");
        Error::file("bring back the tables of", &place, io::Error::other(why))
    };
    if role.is_none() {
        client.start().map_err(failed)?;
    }
    match &notes.tables {
        None => {
            drop_database(&client, &notes.database).map_err(failed)?;
            undone.told.push(format!("{place} is gone, as it was not there before"));
        }
        Some(tables) => {
            let script = folder.join(SCRIPT);
            let script = File::open(&script).map_err(|e| Error::file("open", &script, e))?;
            client.read(&notes.database, script).map_err(failed)?;
            drop_others(&client, &notes.database, tables).map_err(failed)?;
            undone.told.push(format!("{place} has its {} tables as they were", tables.len()));
        }
    }
    accounts(&client, notes, undone);
    files(target, &client, notes, undone)?;
    forget(folder)
}

/// What was kept has served; an undo that is gone on with does not bring it back once more.
fn forget(folder: &Path) -> Result<()> {
    remove(&folder.join(NOTES))?;
    remove(&folder.join(SCRIPT))
}

fn drop_database(client: &Client<'_>, database: &str) -> Result<(), String> {
    let (name, text) = (client.dialect.name(database), client.dialect.text(database));
    let others = match client.dialect {
        Dialect::Postgres => {
            format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {text};\n")
        }
        Dialect::Mysql => String::new(),
    };
    client.say(client.nowhere(), &format!("{others}DROP DATABASE IF EXISTS {name};\n")).map(drop)
}

/// Removes the tables of MySQL that were not there. Those of PostgreSQL are gone by now.
fn drop_others(client: &Client<'_>, database: &str, before: &[String]) -> Result<(), String> {
    if client.dialect == Dialect::Postgres {
        return Ok(());
    }
    let tables = client.tables(database)?.unwrap_or_default().into_iter();
    let others = tables.filter(|(sql, _)| !before.contains(sql)).map(|(sql, _)| format!("DROP TABLE {sql};\n"));
    client.say(database, &others.collect::<String>()).map(drop)
}

/// Makes the accounts as they were.
fn accounts(client: &Client<'_>, notes: &Notes, undone: &mut Undone) {
    let of_postgres = notes.is_postgres && notes.tables.is_some();
    let place = if of_postgres { notes.database.as_str() } else { client.nowhere() };
    let said = client.say(place, &notes.statements.join("\n"));
    undone.failed.extend(said.err());
    for account in &notes.accounts {
        let make = || {
            if !account.drop.is_empty() && !client.say(place, &account.is_there)?.is_empty() {
                client.say(place, &account.drop)?;
            }
            if account.make.is_empty() { Ok(String::new()) } else { client.say(place, &account.make) }
        };
        undone.failed.extend(make().err().map(|why| format!("an account of the database is not as it was: {why}")));
    }
}

/// Puts the server's own files back, and has it read them.
fn files(target: &Target<'_>, client: &Client<'_>, notes: &Notes, undone: &mut Undone) -> Result<()> {
    let mut is_changed = false;
    for (path, text) in &notes.files {
        if target.read(path)?.as_deref() == Some(text.as_bytes()) {
            continue;
        }
        let to = live(target.inside(), path);
        let mode = to.metadata().map_or(0o600, |there| there.mode() & 0o7777);
        put(&to, text.as_bytes(), mode)?;
        is_changed = true;
        undone.told.push(format!("{} is as it was", to.display()));
    }
    if is_changed {
        undone.failed.extend(client.tell_unit("restart").and_then(|()| client.wait()).err());
    }
    Ok(())
}
