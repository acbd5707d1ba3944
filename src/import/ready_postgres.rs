//! PostgreSQL made ready for xCAT: cluster, role, database, addresses, and who is let in, on every distribution.
//!
//! xCAT's own setup does nothing, and says that all is well, once there is a cfgloc; and it knows neither a newer Debian nor
//! what service nodes need. The password goes to the server over its standard input, never on a command line.

use crate::{
    error::{Error, Result},
    import::{
        client::Client,
        load_postgres::way_in,
        load_stage::Staged,
        load_tables::{Dialect, MARKER, refused},
        placed::{live, put},
    },
    mn::{engine::Server, inside::Inside, machine::MAX_FILE_BYTES},
};
use std::{collections::BTreeSet, io};

const SQL: Dialect = Dialect::Postgres;
/// What our lines in a file of the server stand between.
const BEGIN: &str = "# xsnap: begin (what xCAT and its service nodes need)";
const END: &str = "# xsnap: end";
/// The server of this machine, spoken to as its master.
pub fn client<'a>(staged: &Staged<'a>) -> Client<'a> {
    Client { machine: staged.request.machine, dialect: SQL, role: None }
}

/// The files of the server that are changed.
///
/// # Errors
/// `File` where the server does not say which they are.
pub fn files(staged: &Staged<'_>) -> Result<Vec<Vec<u8>>> {
    let ask = |what: &str| client(staged).say("postgres", &format!("SHOW {what};\n"));
    let paths = [ask("config_file"), ask("hba_file")].into_iter().map(|path| path.map(String::into_bytes));
    paths.collect::<Result<_, _>>().map_err(|why| refused("set up", staged, why))
}

/// Makes the server ready. Where it is on another machine, only looks whether one gets in.
///
/// # Errors
/// `File` where it cannot be started, asked or set up, or where one does not get in.
pub fn prepare(staged: &Staged<'_>, server: &Server) -> Result<()> {
    if !staged.is_external() {
        Ready { staged, server, client: client(staged) }.make()?;
    }
    way_in(staged, server)?.map(|_| ()).map_err(|why| refused("get into", staged, why))
}

/// What will be changed, for people.
pub fn changes(staged: &Staged<'_>, server: &Server) -> Vec<String> {
    if staged.is_external() {
        return vec![format!("nothing is set up at {}: role and database must be there", staged.engine)];
    }
    let (addresses, unknown) = staged.service_nodes();
    let lines = rules(staged, server).len();
    let mut changes = vec![
        format!("the role {} gets the captured password; it is made if it is missing", server.user),
        format!("the database {} is made if it is missing, and becomes that role's", server.database),
        format!("pg_hba.conf gets {lines} lines in front of its own"),
        format!("the server listens at {}", wanted_addresses(staged, server).join(", ")),
    ];
    if captured_rules(staged).is_empty() && !addresses.is_empty() {
        changes.push(format!("{} addresses of service nodes are let in", addresses.len()));
    }
    if captured_rules(staged).is_empty() && !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        changes.push(format!("nothing tells the addresses of these service nodes, which are not let in: {names}"));
    }
    changes
}

/// A server of this machine that is being made ready.
struct Ready<'a> {
    staged: &'a Staged<'a>,
    server: &'a Server,
    client: Client<'a>,
}

impl Ready<'_> {
    fn make(&self) -> Result<()> {
        self.client.start().map_err(|why| self.failed(why))?;
        if self.staged.request.enable {
            self.unit("enable")?;
        }
        self.role()?;
        self.database()?;
        let needs_restart = self.addresses()?;
        self.let_in()?;
        if needs_restart {
            self.unit("restart")?;
            self.client.wait().map_err(|why| self.failed(why))
        } else {
            self.say("postgres", "SELECT pg_reload_conf();\n").map(|_| ())
        }
    }

    fn failed(&self, why: impl Into<String>) -> Error {
        refused("set up", self.staged, why)
    }

    fn say(&self, database: &str, words: &str) -> Result<String> {
        self.client.say(database, words).map_err(|why| self.failed(why))
    }

    fn unit(&self, verb: &str) -> Result<()> {
        self.client.tell_unit(verb).map_err(|why| self.failed(why))
    }

    fn role(&self) -> Result<()> {
        let (name, password) = (SQL.name(&self.server.user), SQL.text(self.server.password.reveal()));
        let there = format!("SELECT 1 FROM pg_roles WHERE rolname = {};\n", SQL.text(&self.server.user));
        let verb = if self.say("postgres", &there)?.is_empty() { "CREATE" } else { "ALTER" };
        self.say("postgres", &format!("{verb} ROLE {name} LOGIN PASSWORD {password};\n")).map(|_| ())
    }

    /// A new database says that an import has made it, until its tables are loaded.
    fn database(&self) -> Result<()> {
        let (name, user) = (SQL.name(&self.server.database), SQL.name(&self.server.user));
        let there = format!("SELECT 1 FROM pg_database WHERE datname = {};\n", SQL.text(&self.server.database));
        if self.say("postgres", &there)?.is_empty() {
            // What the server was made for may be no UTF-8: then the database has no language, in which UTF-8 always goes.
            let is_utf8 = self.say("postgres", "SHOW server_encoding;\n")? == "UTF8";
            let language = if is_utf8 { "" } else { " LC_COLLATE 'C' LC_CTYPE 'C'" };
            let make = format!("CREATE DATABASE {name} OWNER {user} ENCODING 'UTF8' TEMPLATE template0{language};\n");
            self.say("postgres", &make)?;
            let marker = SQL.name(MARKER);
            let mark = format!("CREATE TABLE {marker} (made text); ALTER TABLE {marker} OWNER TO {user};\n");
            return self.say(&self.server.database, &mark).map(|_| ());
        }
        // Before version 15 everybody may make tables there; since then, only those who are told.
        self.say("postgres", &format!("ALTER DATABASE {name} OWNER TO {user};\n"))?;
        self.say(&self.server.database, &format!("GRANT ALL ON SCHEMA public TO {user};\n")).map(|_| ())
    }

    /// Has the server listen where the captured one did; whether it has to be restarted for that.
    fn addresses(&self) -> Result<bool> {
        let now = self.say("postgres", "SHOW listen_addresses;\n")?;
        let mut all: Vec<_> = now.split(',').map(|address| address.trim().to_owned()).collect();
        all.retain(|address| !address.is_empty());
        let missing: Vec<_> =
            wanted_addresses(self.staged, self.server).into_iter().filter(|a| !all.contains(a)).collect();
        if all.iter().any(|address| address == "*") || missing.is_empty() {
            return Ok(false);
        }
        all.extend(missing);
        let lines = format!("#setup by xCAT\nlisten_addresses = {}\n", SQL.text(&all.join(",")));
        let path = self.say("postgres", "SHOW config_file;\n")?;
        self.edit(&path, |text| format!("{}\n{BEGIN}\n{lines}{END}\n", without_ours(text).trim_end()))?;
        Ok(true)
    }

    /// Lets in xCAT, and the service nodes.
    fn let_in(&self) -> Result<()> {
        let path = self.say("postgres", "SHOW hba_file;\n")?;
        let lines = rules(self.staged, self.server).join("\n");
        // The first line that fits counts.
        self.edit(&path, |text| format!("{BEGIN}\n{lines}\n{END}\n{}", without_ours(text)))
    }

    fn edit(&self, path: &str, change: impl Fn(&str) -> String) -> Result<()> {
        edit(&self.staged.request.machine.inside, path.as_bytes(), change)
    }
}

/// Changes the text of a configuration file, durably; its mode and owner stay. Nothing is written where nothing changes.
///
/// # Errors
/// `File` where it cannot be read or written.
pub fn edit(inside: &Inside, path: &[u8], change: impl Fn(&str) -> String) -> Result<()> {
    let to = live(inside, path);
    let text = inside.read(path, MAX_FILE_BYTES).map_err(|e| Error::file("read", &to, e))?;
    let old = String::from_utf8(text).map_err(|e| Error::file("read", &to, io::Error::other(e)))?;
    let new = change(&old);
    if new == old {
        return Ok(());
    }
    let mode = inside.stat(path).map_err(|e| Error::file("read", &to, e))?.st_mode & 0o7777;
    put(&to, new.as_bytes(), mode)
}

/// A file without the lines that an earlier import has put there.
fn without_ours(text: &str) -> String {
    let (mut kept, mut is_ours) = (String::new(), false);
    for line in text.split_inclusive('\n') {
        match line.trim_end() {
            BEGIN => is_ours = true,
            END if is_ours => is_ours = false,
            _ if is_ours => {}
            _ => kept.push_str(line),
        }
    }
    kept
}

/// Configuration files of the captured server with this name, wherever a distribution keeps them.
fn captured(staged: &Staged<'_>, name: &str) -> Vec<String> {
    let below = |folder: &[u8], rest: &[u8]| {
        let names = staged.inside.names(folder).unwrap_or_default().into_iter();
        names.map(|name| [folder, b"/", &name, rest].concat()).collect::<Vec<_>>()
    };
    let mut folders = vec![b"/var/lib/pgsql/data".to_vec()];
    folders.extend(below(b"/var/lib/pgsql", b"/data"));
    folders.extend(below(b"/etc/postgresql", b"/main"));
    let read = |folder: &Vec<u8>| {
        staged.inside.read(&[folder, b"/".as_slice(), name.as_bytes()].concat(), MAX_FILE_BYTES).ok()
    };
    folders.iter().filter_map(read).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

/// Where the captured server listened; else on this machine and at the address that cfgloc names.
fn wanted_addresses(staged: &Staged<'_>, server: &Server) -> Vec<String> {
    let mut wanted = vec!["localhost".to_owned()];
    for text in captured(staged, "postgresql.conf") {
        let settings = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let mut told = settings.filter_map(|line| line.strip_prefix("listen_addresses"));
        let told =
            told.next_back().map(|value| value.trim_matches([' ', '\t', '=', '\'']).to_owned()).unwrap_or_default();
        wanted.extend(told.split(',').map(|address| address.trim().to_owned()));
    }
    wanted.extend(server.host.clone().filter(|host| !host.starts_with('/')));
    let mut seen = BTreeSet::new();
    wanted.retain(|address| !address.is_empty() && seen.insert(address.clone()));
    wanted
}

/// The lines by which the captured server let other machines in.
fn captured_rules(staged: &Staged<'_>) -> Vec<String> {
    let mut rules = Vec::new();
    for text in captured(staged, "pg_hba.conf") {
        for line in text.lines().map(str::trim) {
            let words: Vec<_> = line.split_whitespace().collect();
            let [kind, database, _, address, _, ..] = words.as_slice() else { continue };
            let is_own = address.starts_with("127.") || address.starts_with("::1") || *address == "localhost";
            if kind.starts_with("host") && *database != "replication" && !is_own && !rules.contains(&line.to_owned()) {
                rules.push(line.to_owned());
            }
        }
    }
    rules
}

/// The lines of `pg_hba.conf` that xCAT needs. A password that the server keeps in a newer way is asked for in that way by
/// `md5` too; servers of old know no other.
fn rules(staged: &Staged<'_>, server: &Server) -> Vec<String> {
    let (database, user) = (SQL.name(&server.database), SQL.name(&server.user));
    let host = |address: &str| format!("host {database} {user} {address} md5");
    let mut rules = vec![format!("local {database} {user} md5"), host("127.0.0.1/32"), host("::1/128")];
    rules.extend(server.host.as_deref().and_then(|address| address.parse().ok()).map(|ip| host(&whole(ip))));
    let captured = captured_rules(staged);
    if captured.is_empty() {
        rules.extend(staged.service_nodes().0.into_iter().map(|ip| host(&whole(ip))));
    }
    rules.extend(captured);
    let mut seen = BTreeSet::new();
    rules.retain(|rule| seen.insert(rule.clone()));
    rules
}

/// An address as a network of its own.
fn whole(address: std::net::IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
