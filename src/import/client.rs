//! A database server spoken to by its own client programs: on this machine as its master, over the local socket; on another
//! one as xCAT's role.
//!
//! A password goes to the server over standard input or the environment of its client, never on a command line.

use crate::{
    import::load_tables::Dialect,
    mn::{
        engine::Server,
        host::{Order, Outcome},
        inside::Inside,
        machine::{Family, Machine},
    },
};
use std::{
    collections::BTreeSet,
    fs::File,
    io, thread,
    time::{Duration, Instant},
};

/// The folders in which units are described.
const UNIT_FOLDERS: [&[u8]; 3] = [b"/etc/systemd/system", b"/usr/lib/systemd/system", b"/lib/systemd/system"];
/// What the unit of MySQL or MariaDB is called, by distribution and maker.
const UNITS_OF_MYSQL: [&str; 3] = ["mariadb", "mysqld", "mysql"];
/// How long it may take until a unit is started, and until the server answers once it is.
const UNIT_LIMIT: Duration = Duration::from_secs(180);
const START_LIMIT: Duration = Duration::from_secs(60);
const NAP: Duration = Duration::from_millis(200);
/// How long a dump may take, and what is done with one.
const DUMP_LIMIT: Duration = Duration::from_secs(3600);
/// The tables of a database of PostgreSQL: named as SQL does, and by their names alone.
const TABLES_OF_POSTGRES: &str = "SELECT format('%I.%I', n.nspname, c.relname), c.relname FROM pg_class c \
     JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') \
     AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'";
/// What is said is written into no log, whatever the server is set to log, and means what it says.
const QUIET_POSTGRES: &str = "SET log_statement = 'none'; SET log_min_duration_statement = -1; SET log_min_error_statement = panic;\n\
     SET standard_conforming_strings = on; SET client_min_messages = warning;\n";
const QUIET_MYSQL: &str = "SET SESSION sql_log_off = 1, sql_log_bin = 0, sql_mode = '';\n";
/// The same for xCAT's role, which may not decide on logs.
const PLAIN_POSTGRES: &str = "SET standard_conforming_strings = on; SET client_min_messages = warning;\n";
const PLAIN_MYSQL: &str = "SET SESSION sql_mode = '';\n";

/// A server, and as whom it is spoken to.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The machine whose programs are run.
    pub machine: &'a Machine<'a>,
    /// Which server it is.
    pub dialect: Dialect,
    /// xCAT's role in a server on another machine; the master of this machine's own where there is none.
    pub role: Option<&'a Server>,
}

/// What a client program reads and writes beside its words.
#[derive(Default)]
struct Speech {
    input: Vec<u8>,
    input_from: Option<File>,
    output: Option<File>,
    limit: Option<Duration>,
}

/// The unit of PostgreSQL on a machine, and the folder of its data; none where no server is installed.
pub fn unit_of_postgres(inside: &Inside) -> Option<(String, Vec<u8>)> {
    let names = unit_files(inside);
    if names.contains(b"postgresql.service".as_slice()) {
        return Some(("postgresql".into(), b"/var/lib/pgsql/data".to_vec()));
    }
    // As PostgreSQL's own packages call it: postgresql-9.6, postgresql-15.
    let versions = names.iter().filter_map(|name| {
        let version =
            String::from_utf8_lossy(name.strip_prefix(b"postgresql-")?.strip_suffix(b".service")?).into_owned();
        let numbers: Option<Vec<u32>> = version.split('.').map(|part| part.parse().ok()).collect();
        Some((numbers?, version))
    });
    let (_, version) = versions.max()?;
    Some((format!("postgresql-{version}"), format!("/var/lib/pgsql/{version}/data").into_bytes()))
}

/// The unit of MySQL or MariaDB on a machine; none where no server is installed.
pub fn unit_of_mysql(inside: &Inside) -> Option<&'static str> {
    let names = unit_files(inside);
    UNITS_OF_MYSQL.into_iter().find(|unit| names.contains(format!("{unit}.service").as_bytes()))
}

fn unit_files(inside: &Inside) -> BTreeSet<Vec<u8>> {
    UNIT_FOLDERS.iter().flat_map(|folder| inside.names(folder).unwrap_or_default()).collect()
}

impl Client<'_> {
    /// What is said first.
    pub fn quiet(&self) -> &'static str {
        match (self.dialect, self.role) {
            (Dialect::Postgres, None) => QUIET_POSTGRES,
            (Dialect::Postgres, Some(_)) => PLAIN_POSTGRES,
            (Dialect::Mysql, None) => QUIET_MYSQL,
            (Dialect::Mysql, Some(_)) => PLAIN_MYSQL,
        }
    }

    /// Says something to a database of the server, or to none of them; what it answers, without blanks around.
    ///
    /// # Errors
    /// How the client failed, in a line. It may hold what was said.
    pub fn say(&self, database: &str, words: &str) -> Result<String, String> {
        let speech = Speech { input: format!("{}{words}", self.quiet()).into_bytes(), ..Speech::default() };
        let outcome = self.tell(database, &[], &speech)?;
        Ok(String::from_utf8_lossy(&outcome.output).trim().to_owned())
    }

    /// The question for the tables of a database: named as SQL does, and by their names alone.
    pub fn question_for_tables(&self, database: &str) -> String {
        match self.dialect {
            Dialect::Postgres => TABLES_OF_POSTGRES.to_owned(),
            Dialect::Mysql => format!(
                "SELECT concat('`', replace(table_name, '`', '``'), '`'), table_name FROM information_schema.tables \
                 WHERE table_schema = {} AND table_type = 'BASE TABLE'",
                self.dialect.text(database)
            ),
        }
    }

    /// The tables of a database, named as SQL does, and by their names alone; nothing where there is no such database.
    ///
    /// # Errors
    /// How the client failed, in a line.
    pub fn tables(&self, database: &str) -> Result<Option<Vec<(String, String)>>, String> {
        let name = self.dialect.text(database);
        let there = match self.dialect {
            Dialect::Postgres => format!("SELECT 1 FROM pg_database WHERE datname = {name};\n"),
            Dialect::Mysql => format!("SELECT 1 FROM information_schema.schemata WHERE schema_name = {name};\n"),
        };
        // A role may see no database but its own.
        if self.role.is_none() && self.say(self.nowhere(), &there)?.is_empty() {
            return Ok(None);
        }
        let told = self.say(database, &format!("{};\n", self.question_for_tables(database)))?;
        let both = |line: &str| line.rsplit_once(['|', '\t']).map(|(sql, name)| (sql.to_owned(), name.to_owned()));
        Ok(Some(told.lines().filter_map(both).collect()))
    }

    /// The names of those tables of a database that have rows.
    ///
    /// # Errors
    /// How the client failed, in a line.
    pub fn full_tables(&self, database: &str) -> Result<Vec<String>, String> {
        let tables = self.tables(database)?.unwrap_or_default();
        let ask = |(sql, name): (String, String)| format!("SELECT {} FROM {sql} LIMIT 1;\n", self.dialect.text(&name));
        let questions: String = tables.into_iter().map(ask).collect();
        Ok(self.say(database, &questions)?.lines().map(str::to_owned).collect())
    }

    /// Has a database read a file of statements: PostgreSQL in one transaction.
    ///
    /// # Errors
    /// How the client failed, in a line.
    pub fn read(&self, database: &str, script: File) -> Result<(), String> {
        let more: &[&str] = if self.dialect == Dialect::Postgres { &["--single-transaction"] } else { &[] };
        let speech = Speech { input_from: Some(script), limit: Some(DUMP_LIMIT), ..Speech::default() };
        self.tell(database, more, &speech).map(drop)
    }

    /// Writes statements to the end of a file that make tables as they are now, over whatever there is of them. PostgreSQL's
    /// tables are named as SQL does; MySQL's are all of the database.
    ///
    /// # Errors
    /// How the program that makes them failed, in a line.
    pub fn dump(&self, database: &str, tables: &[String], to: File) -> Result<(), String> {
        let speech = Speech { output: Some(to), limit: Some(DUMP_LIMIT), ..Speech::default() };
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self.dialect {
            Dialect::Postgres => {
                let mut all = words(&["pg_dump", "--clean", "--if-exists", "--no-password", "--dbname", database]);
                all.extend(tables.iter().map(|table| format!("--table={table}")));
                self.as_postgres(&all, &speech)
            }
            Dialect::Mysql => {
                let mut all = self.way_of_mysql();
                let options = ["--single-transaction", "--quick", "--skip-dump-date", "--no-tablespaces", "--hex-blob"];
                all.extend(words(&options));
                all.extend(words(&["--default-character-set=utf8mb4", database]));
                self.first_of(["mariadb-dump", "mysqldump"], &all, &speech)
            }
        }
        .map(drop)
    }

    fn tell(&self, database: &str, more: &[&str], speech: &Speech) -> Result<Outcome, String> {
        match self.dialect {
            Dialect::Postgres => {
                let psql = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=terse", "-d"];
                let words = psql.iter().chain([&database]).chain(more).map(|word| (*word).to_owned());
                self.as_postgres(&words.collect::<Vec<_>>(), speech)
            }
            Dialect::Mysql => {
                let mut words = self.way_of_mysql();
                words.extend(["--batch", "--raw", "--skip-column-names"].map(str::to_owned));
                words.extend((!database.is_empty()).then(|| format!("--database={database}")));
                self.first_of(["mariadb", "mysql"], &words, speech)
            }
        }
    }

    /// Runs a program of PostgreSQL's: as the user of the system who is its master, or with the way to another machine.
    fn as_postgres(&self, words: &[String], speech: &Speech) -> Result<Outcome, String> {
        let name = words.first().map(String::as_str).unwrap_or_default();
        if let Some(server) = self.role {
            let mut order = speech.order(name, words.get(1..).unwrap_or_default())?;
            let port = server.port.map(|port| port.to_string());
            let way = [("PGHOST", server.host.as_deref()), ("PGPORT", port.as_deref())];
            for (key, value) in way.into_iter().filter_map(|(key, value)| Some((key, value?))) {
                order = order.with(key, value);
            }
            let order = order.with("PGUSER", &server.user).with("PGPASSWORD", server.password.reveal());
            return ended(name, self.machine.programs().run(order.with("PGCONNECT_TIMEOUT", "10")));
        }
        let programs = self.machine.programs();
        let before = ["-u", "postgres", "--"].map(str::to_owned);
        let ran = match programs.run(speech.order("runuser", &[&before, words].concat())?) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let line = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''")));
                let line = line.collect::<Vec<_>>().join(" ");
                let words = ["postgres", "-s", "/bin/sh", "-c", &line].map(str::to_owned);
                programs.run(speech.order("su", &words)?)
            }
            ran => ran,
        };
        ended(&format!("{name} as user postgres"), ran)
    }

    /// The options that lead MySQL's programs to the server. Of a password nothing is in them.
    fn way_of_mysql(&self) -> Vec<String> {
        let Some(server) = self.role else { return ["--user=root", "--protocol=socket"].map(str::to_owned).into() };
        let mut way = vec![format!("--user={}", server.user)];
        way.extend(server.host.iter().map(|host| format!("--host={host}")));
        way.extend(server.port.iter().map(|port| format!("--port={port}")));
        way
    }

    /// Runs the first of two programs of MySQL's that is there.
    fn first_of(&self, names: [&str; 2], words: &[String], speech: &Speech) -> Result<Outcome, String> {
        let mut missing = String::new();
        for name in names {
            let mut order = speech.order(name, words)?;
            if let Some(server) = self.role {
                order = order.with("MYSQL_PWD", server.password.reveal());
            }
            match self.machine.programs().run(order) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => missing = format!("{name}: {e}"),
                ran => return ended(name, ran),
            }
        }
        Err(missing)
    }

    /// What its unit is called on this machine.
    pub fn unit(&self) -> String {
        match self.dialect {
            Dialect::Postgres => unit_of_postgres(&self.machine.inside).map_or("postgresql".into(), |(unit, _)| unit),
            Dialect::Mysql => unit_of_mysql(&self.machine.inside).unwrap_or("mariadb").into(),
        }
    }

    /// Tells systemd something of the server's unit.
    ///
    /// # Errors
    /// How that failed, in a line.
    pub fn tell_unit(&self, verb: &str) -> Result<(), String> {
        self.run("systemctl", &[verb, &self.unit()])
    }

    /// Runs another program, which must end well.
    fn run(&self, program: &str, words: &[&str]) -> Result<(), String> {
        let order = Order::new(program, words).within(UNIT_LIMIT);
        ended(&format!("{program} {}", words.join(" ")), self.machine.programs().run(order)).map(drop)
    }

    /// A question that every server answers.
    fn is_up(&self) -> Result<(), String> {
        self.say(self.nowhere(), "SELECT 1;\n").map(drop)
    }

    /// The database to speak to where it is about none.
    pub fn nowhere(&self) -> &'static str {
        if self.dialect == Dialect::Postgres { "postgres" } else { "" }
    }

    /// Starts the server of this machine if it does not answer; where PostgreSQL has no data yet, these are made first.
    ///
    /// # Errors
    /// How that failed, in a line.
    pub fn start(&self) -> Result<(), String> {
        if self.is_up().is_ok() {
            return Ok(());
        }
        let inside = &self.machine.inside;
        let data = unit_of_postgres(inside).map(|(_, data)| data).filter(|_| self.dialect == Dialect::Postgres);
        let is_new = data.is_some_and(|data| !inside.exists(&[&data, b"/PG_VERSION".as_slice()].concat()));
        if is_new && self.machine.distribution().family == Family::Rhel {
            self.run("postgresql-setup", &["--initdb"])?;
        }
        self.tell_unit("start")?;
        self.wait()
    }

    /// Waits until the server answers.
    ///
    /// # Errors
    /// Why it does not, in a line.
    pub fn wait(&self) -> Result<(), String> {
        let began = Instant::now();
        loop {
            match self.is_up() {
                Ok(()) => return Ok(()),
                Err(why) if began.elapsed() >= START_LIMIT => return Err(why),
                Err(_) => thread::sleep(NAP),
            }
        }
    }
}

impl Speech {
    fn order(&self, program: &str, words: &[String]) -> Result<Order, String> {
        let copy = |file: &Option<File>| file.as_ref().map(File::try_clone).transpose().map_err(|e| e.to_string());
        let mut order = Order::new(program, words);
        order.input = self.input.clone();
        (order.input_from, order.output) = (copy(&self.input_from)?, copy(&self.output)?);
        order.folder = Some("/".into());
        Ok(order.within(self.limit.unwrap_or(Duration::from_secs(60))))
    }
}

fn ended(what: &str, ran: io::Result<Outcome>) -> Result<Outcome, String> {
    match ran {
        Ok(outcome) if outcome.is_good() => Ok(outcome),
        Ok(outcome) => Err(format!("{what}: {}", outcome.why())),
        Err(e) => Err(format!("{what}: {e}")),
    }
}
