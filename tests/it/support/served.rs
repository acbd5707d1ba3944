//! A root with a database server as its distribution would set it up. The server's programs are this machine's, its files the
//! root's; it is started as a unit of the root, in the root's own namespaces.

use super::{
    bare::Bare,
    brought::ODD,
    inner::{Inner, lend, lend_at, write},
    own_server::Kind,
    roots::{Root, apt_root, rpm_root},
    servers::{PASSWORD, statements},
    standin::{Manager, tables},
};
use rusqlite::{Connection, types::Value};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};
use xsnap::mn::tables::{Cell, Table};

const POSTGRESQL: &str = include_str!("../data/bare/postgresql.sh");
const MARIADB: &str = include_str!("../data/bare/mariadb.sh");
/// As util-linux has it, without PAM.
const RUNUSER: &str =
    "#!/bin/sh\nuser=$2\nshift 3\nexec /usr/bin/setpriv --reuid=\"$user\" --regid=\"$user\" --clear-groups -- \"$@\"\n";
/// The tables of records.
pub const LOGS: [&str; 2] = ["auditlog", "eventlog"];

/// A machine with a database server, which its package has just set up: Debian's runs, others' have no data yet.
pub struct Served {
    pub bare: Bare,
    kind: Kind,
    version: String,
}

/// Where the server's programs are on this machine, and its version. Without them a test is not run, and says so.
fn programs(kind: Kind) -> Option<(PathBuf, String)> {
    let found = match kind {
        Kind::Postgres => {
            let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|e| e.unwrap().file_name());
            let newest = versions.filter_map(|name| name.to_str()?.parse::<u32>().ok()).max();
            newest.map(|version| (format!("/usr/lib/postgresql/{version}/bin").into(), version.to_string()))
        }
        Kind::Mariadb => Path::new("/usr/sbin/mariadbd").exists().then(|| ("/usr/bin".into(), String::new())),
    };
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{kind:?} is needed");
        eprintln!("NOT RUN: {kind:?} is needed for this test");
    }
    found
}

/// A management node whose tables are in a server, with a row with odd values in each of them; and its stick.
pub fn node(manager: Manager, kind: Kind) -> Option<(Served, tempfile::TempDir)> {
    let (bin, version) = programs(kind)?;
    let root = if manager == Manager::Dpkg { apt_root() } else { rpm_root() };
    let (root, usb) = Inner::new(root?).into_parts();
    let tables = all_tables(&root);
    let bare = Bare::beside_the_machine(root, usb.path());
    let served = Served { bare, kind, version };
    served.install(&bin);
    if (manager, kind) == (Manager::Rpm, Kind::Postgres) {
        served.bare.sh("postgresql-setup --initdb");
    }
    served.bare.sh(&format!("systemctl enable --now {}", served.unit()));
    served.set_up(&tables);
    Some((served, usb))
}

/// A machine with the distribution of a node, and its stick.
pub fn other(manager: Manager, kind: Kind, usb: &Path) -> Option<Served> {
    let (bin, version) = programs(kind)?;
    let root = Bare::root_of(manager)?;
    let served = Served { bare: Bare::beside_the_machine(root, usb), kind, version };
    served.install(&bin);
    if manager == Manager::Dpkg {
        served.bare.sh(&format!("systemctl enable --now {}", served.unit()));
    }
    Some(served)
}

/// The tables of a node as they are in files, with more rows.
fn all_tables(root: &Root) -> Vec<Table> {
    let read = |(name, keys, columns): (&'static str, usize, Vec<&'static str>)| {
        let db = Connection::open(root.at(&format!("/etc/xcat/{name}.sqlite"))).unwrap();
        let mut all = db.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
        let cell = |value: Value| match value {
            Value::Null => None,
            Value::Text(text) => Some(text.into_bytes()),
            Value::Integer(number) => Some(number.to_string().into_bytes()),
            other => panic!("{name}: {other:?}"),
        };
        // A key may not be unset in a server, and xCAT's dumps tell no other empty text from an unset one.
        let needed = |at: usize, cell: Option<Vec<u8>>| {
            if at < keys { cell.or(Some(Vec::new())) } else { cell.filter(|text| !text.is_empty()) }
        };
        let row = |row: &rusqlite::Row<'_>| {
            (0..columns.len()).map(|at| row.get(at).map(|value| needed(at, cell(value)).map(Cell::from))).collect()
        };
        let mut rows: Vec<_> = all.query_map([], row).unwrap().map(Result::unwrap).collect();
        let odd = ODD[name.len() % ODD.len()].as_bytes().to_vec();
        let more = |value: &dyn Fn(usize) -> Option<Vec<u8>>| {
            (0..columns.len()).map(|at| value(at).map(Cell::from)).collect::<Vec<_>>()
        };
        rows.push(more(&|at| match columns[at] {
            "recid" => Some(b"41".to_vec()),
            "comments" => Some(odd.clone()),
            column if at < keys => Some(format!("odd-{column}").into_bytes()),
            _ => None,
        }));
        let service_node = |column: &str| match (name, column) {
            ("nodelist" | "servicenode" | "hosts", "node") => Some(b"sn1".to_vec()),
            ("nodelist", "groups") => Some(b"service".to_vec()),
            ("hosts", "ip") => Some(b"10.99.0.9".to_vec()),
            _ => None,
        };
        if service_node("node").is_some() {
            rows.push(more(&|at| service_node(columns[at])));
        }
        Table { name: name.into(), columns: columns.iter().map(|column| (*column).to_owned()).collect(), rows }
    };
    tables().into_iter().map(read).collect()
}

impl Served {
    fn manager(&self) -> Manager {
        self.bare.root.manager
    }

    /// What its unit is called.
    pub fn unit(&self) -> &'static str {
        if self.kind == Kind::Postgres { "postgresql" } else { "mariadb" }
    }

    fn data(&self) -> String {
        match (self.kind, self.manager()) {
            (Kind::Mariadb, _) => "/var/lib/mysql".into(),
            (Kind::Postgres, Manager::Rpm) => "/var/lib/pgsql/data".into(),
            (Kind::Postgres, Manager::Dpkg) => format!("/var/lib/postgresql/{}/main", self.version),
        }
    }

    /// Where PostgreSQL's configuration is.
    pub fn config(&self) -> String {
        match self.manager() {
            Manager::Rpm => self.data(),
            Manager::Dpkg => format!("/etc/postgresql/{}/main", self.version),
        }
    }

    /// The files of configuration that an import edits.
    fn files(&self) -> Vec<String> {
        match (self.kind, self.manager()) {
            (Kind::Postgres, _) => {
                ["postgresql.conf", "pg_hba.conf"].map(|name| format!("{}/{name}", self.config())).into()
            }
            (Kind::Mariadb, Manager::Rpm) => vec!["/etc/my.cnf.d/mariadb-server.cnf".into()],
            (Kind::Mariadb, Manager::Dpkg) => vec!["/etc/mysql/mariadb.conf.d/50-server.cnf".into()],
        }
    }

    /// Does what the package of the server would do.
    fn install(&self, bin: &Path) {
        let root = &self.bare.root;
        let (user, uid) = if self.kind == Kind::Postgres { ("postgres", 326) } else { ("mysql", 327) };
        for (path, line) in [
            ("/etc/passwd", format!("{user}:x:{uid}:{uid}::/:/bin/sh\n")),
            ("/etc/group", format!("{user}:x:{uid}:\n")),
        ] {
            fs::write(root.at(path), self.bare.text(path) + &line).unwrap();
        }
        fs::set_permissions(root.at("/tmp"), PermissionsExt::from_mode(0o1777)).unwrap();
        if !root.at("/var/run").exists() {
            std::os::unix::fs::symlink("../run", root.at("/var/run")).unwrap();
        }
        fs::create_dir_all(root.at(&self.data())).unwrap();
        chown(root.at(&self.data()), Some(uid), Some(uid)).unwrap();
        let loader = super::inner::libraries(root, Path::new(env!("CARGO_BIN_EXE_xsnap")));
        let clients = if self.kind == Kind::Postgres { ["psql", "pg_dump"] } else { ["mariadb", "mariadb-dump"] };
        for name in clients {
            lend_at(root, &loader, &bin.join(name), name, "");
        }
        if self.manager() == Manager::Rpm {
            lend(root, &loader, "setpriv", "");
            write(&root.at("/usr/bin/runuser"), RUNUSER, 0o755);
        }
        if self.kind == Kind::Postgres { self.install_postgresql(bin, uid) } else { self.install_mariadb() }
    }

    fn install_postgresql(&self, bin: &Path, uid: u32) {
        let script = POSTGRESQL.replace("@BIN@", bin.to_str().unwrap());
        let script = script.replace("@DATA@", &self.data()).replace("@CONFIG@", &self.config());
        self.bare.unit("postgresql", &script);
        let initialize = "/usr/lib/systemctl/postgresql initdb";
        if self.manager() == Manager::Rpm {
            let setup = format!("#!/bin/sh\n[ \"$1\" = --initdb ] && exec {initialize}\n");
            return write(&self.bare.at("/usr/bin/postgresql-setup"), &setup, 0o755);
        }
        let (data, config) = (self.data(), self.config());
        self.bare.sh(&format!(
            "{initialize} && mkdir -p {config} && mv {data}/*.conf {config}/ && {{ echo \"data_directory = '{data}'\"; \
             echo \"hba_file = '{config}/pg_hba.conf'\"; echo \"ident_file = '{config}/pg_ident.conf'\"; }} >> {config}/postgresql.conf"
        ));
        chown(self.bare.at(&config), Some(uid), Some(uid)).unwrap();
    }

    fn install_mariadb(&self) {
        let (main, socket, folder) = match self.manager() {
            Manager::Rpm => ("/etc/my.cnf", "/var/lib/mysql/mysql.sock", "/etc/my.cnf.d"),
            Manager::Dpkg => ("/etc/mysql/my.cnf", "/run/mysqld/mysqld.sock", "/etc/mysql/mariadb.conf.d"),
        };
        fs::create_dir_all(self.bare.at(folder)).unwrap();
        let text = format!("[client-server]\nsocket = {socket}\n!includedir {folder}\n");
        write(&self.bare.at(main), &text, 0o644);
        write(&self.bare.at(&self.files()[0]), "[mariadbd]\nbind-address            = 127.0.0.1\n", 0o644);
        self.bare.unit("mariadb", &MARIADB.replace("@SOCKET@", socket));
    }

    /// Says something to a database of the server as its master; what it answers.
    pub fn say(&self, database: &str, words: &str) -> String {
        write(&self.bare.at("/tmp/words.sql"), words, 0o644);
        match self.kind {
            Kind::Postgres => self.bare.sh(&format!(
                "runuser -u postgres -- psql -X -q -A -t -v ON_ERROR_STOP=1 -d {database} -f /tmp/words.sql"
            )),
            Kind::Mariadb => {
                self.bare.sh(&format!("mariadb --user=root --batch --skip-column-names {database} < /tmp/words.sql"))
            }
        }
    }

    /// Whether the role of xCAT gets in with a password, at the address that nodes know.
    pub fn lets_in(&self, password: &str) -> bool {
        let quoted = password.replace('\'', "'\\''");
        let client = match self.kind {
            Kind::Postgres => format!("PGPASSWORD='{quoted}' psql -X -h 10.99.0.1 -U xcatadm -d xcatdb -c 'SELECT 1'"),
            Kind::Mariadb => format!("MYSQL_PWD='{quoted}' mariadb -h 10.99.0.1 -u xcatadm xcatdb -e 'SELECT 1'"),
        };
        self.bare.sh(&format!("if {client} > /dev/null 2>&1; then echo yes; else echo no; fi")) == "yes\n"
    }

    fn nowhere(&self) -> &'static str {
        if self.kind == Kind::Postgres { "postgres" } else { "mysql" }
    }

    /// The database of a management node, with these tables.
    fn set_up(&self, tables: &[Table]) {
        self.make_database(PASSWORD);
        let (quote, serial) =
            if self.kind == Kind::Postgres { ('"', "SERIAL") } else { ('`', "INTEGER AUTO_INCREMENT") };
        let all: String = tables.iter().map(|table| statements(table, quote, serial)).collect();
        self.say("xcatdb", &format!("{}{all}", self.as_role()));
        let edit = |path: &str, change: &dyn Fn(&str) -> String| {
            fs::write(self.bare.at(path), change(&self.bare.text(path))).unwrap();
        };
        if self.kind == Kind::Postgres {
            edit(&self.files()[0], &|text| format!("{text}listen_addresses = 'localhost,10.99.0.1' # xCAT\n"));
            let rules =
                "local xcatdb xcatadm md5\nhost all all 10.99.0.1/32 md5\nhost    all   all   10.99.0.9/32   md5\n";
            edit(&self.files()[1], &|text| format!("{rules}{text}"));
        } else {
            edit(&self.files()[0], &|text| text.replace("bind-address", "#bind-address"));
        }
        self.bare.sh(&format!("systemctl restart {}", self.unit()));
        let kind = if self.kind == Kind::Postgres { "Pg" } else { "mysql" };
        let cfgloc = format!("{kind}:dbname=xcatdb;host=10.99.0.1|xcatadm|{PASSWORD}");
        write(&self.bare.at("/etc/xcat/cfgloc"), &cfgloc, 0o600);
    }

    fn as_role(&self) -> &'static str {
        if self.kind == Kind::Postgres { "SET ROLE xcatadm;\n" } else { "" }
    }

    /// The role of xCAT and an empty database of its own.
    fn make_database(&self, password: &str) {
        let words = match self.kind {
            Kind::Postgres => {
                let quoted = password.replace('\'', "''");
                format!("CREATE ROLE xcatadm LOGIN PASSWORD '{quoted}';\nCREATE DATABASE xcatdb OWNER xcatadm;\n")
            }
            Kind::Mariadb => {
                let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
                let grant =
                    |host: &str| format!("GRANT ALL ON xcatdb.* TO xcatadm@'{host}' IDENTIFIED BY '{quoted}';\n");
                format!("CREATE DATABASE xcatdb CHARACTER SET utf8mb4;\n{}{}", grant("localhost"), grant("10.99.0.1"))
            }
        };
        self.say(self.nowhere(), &words);
    }

    /// Somebody's tables of the same names, a table and a view of their own, and another password.
    pub fn somebodys(&self) {
        self.make_database("other");
        let quote = if self.kind == Kind::Postgres { "\"" } else { "`" };
        let numbered = if self.kind == Kind::Postgres { "SERIAL" } else { "INTEGER AUTO_INCREMENT" };
        self.say(
            "xcatdb",
            &format!(
                "{}CREATE TABLE site ({quote}key{quote} VARCHAR(128) PRIMARY KEY, value TEXT);\n\
                 INSERT INTO site VALUES ('master', '10.1.1.1'), ('odd', 'two\n\nlines\t'), ('unset', NULL), ('empty', '');\n\
                 CREATE TABLE auditlog (recid {numbered} PRIMARY KEY, audittime TEXT);\n\
                 INSERT INTO auditlog (recid, audittime) VALUES (7, 'then');\n\
                 CREATE TABLE x_own (node TEXT);\nINSERT INTO x_own VALUES ('n1');\n",
                self.as_role()
            ),
        );
    }

    /// The rows of every table but those of records, as the server writes them.
    pub fn rows(&self) -> BTreeMap<String, Vec<String>> {
        let list = match self.kind {
            Kind::Postgres => "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
            Kind::Mariadb => "SELECT table_name FROM information_schema.tables WHERE table_schema = 'xcatdb'",
        };
        let names = self.say("xcatdb", list);
        let ask = |name: &str| match self.kind {
            Kind::Postgres => format!("SELECT '@@{name}';\nCOPY (SELECT * FROM \"{name}\") TO STDOUT;\n"),
            Kind::Mariadb => format!("SELECT '@@{name}';\nSELECT * FROM `{name}`;\n"),
        };
        let questions: String = names.lines().filter(|name| !LOGS.contains(name)).map(ask).collect();
        let mut tables = BTreeMap::<String, Vec<String>>::new();
        let mut last = String::new();
        for line in self.say("xcatdb", &questions).lines() {
            match line.strip_prefix("@@") {
                Some(name) => last = name.to_owned(),
                None => tables.entry(last.clone()).or_default().push(line.to_owned()),
            }
        }
        tables.values_mut().for_each(|rows| rows.sort());
        tables
    }

    /// Whether the server starts by itself, and whether it runs.
    pub fn unit_state(&self) -> String {
        self.bare.sh(&format!("systemctl is-enabled {0} || true; systemctl is-active {0} || true", self.unit()))
    }

    /// Everything that the server holds of accounts and of xCAT's database, and its files with owners and modes.
    pub fn content(&self) -> String {
        let mut content = self.accounts();
        if self.has_database() {
            let dumped = match self.kind {
                Kind::Postgres => self.bare.sh("cd / && runuser -u postgres -- pg_dump xcatdb"),
                Kind::Mariadb => self.bare.sh("mariadb-dump --user=root --skip-dump-date xcatdb"),
            };
            // Two lines of a dump are never the same twice.
            content.extend(dumped.split_inclusive('\n').filter(|line| !line.contains("restrict ")));
        }
        for path in self.files() {
            let meta = self.bare.at(&path).metadata().unwrap();
            content.push_str(&format!("{path} {:o} {} {}", meta.mode(), meta.uid(), self.bare.text(&path)));
        }
        content
    }

    fn has_database(&self) -> bool {
        let question = match self.kind {
            Kind::Postgres => "SELECT 1 FROM pg_database WHERE datname = 'xcatdb'",
            Kind::Mariadb => "SELECT 1 FROM information_schema.schemata WHERE schema_name = 'xcatdb'",
        };
        !self.say(self.nowhere(), question).is_empty()
    }

    fn accounts(&self) -> String {
        if self.kind == Kind::Postgres {
            let roles = "SELECT rolname, rolcanlogin, rolpassword FROM pg_authid ORDER BY 1;\n";
            let databases = "SELECT datname, pg_get_userbyid(datdba), datacl FROM pg_database ORDER BY 1;\n";
            return self.say("postgres", &format!("{roles}{databases}"));
        }
        let users = self.say("mysql", "SELECT concat(quote(user), '@', quote(host)) FROM user ORDER BY 1");
        let ask = |user: &str| format!("SHOW CREATE USER {user}; SHOW GRANTS FOR {user};\n");
        users.clone() + &self.say("mysql", &users.lines().map(ask).collect::<String>())
    }
}
