//! Real database servers of this machine's distribution, each in a folder of its own, with the sample's tables in them.

use crate::support::xcat::data;
use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};
use xsnap::mn::tables::{Table, parse_csv};

/// The password of xCAT's role in all of them: with what is hard to quote.
pub const PASSWORD: &str = r#"se'sa"me\ #1"#;

/// A server, which ends with the test.
pub struct Server {
    dir: tempfile::TempDir,
    child: Child,
    client: Vec<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // PostgreSQL's way to go at once; MariaDB may take its time, of which a test has none.
        let signal = if self.client[0].ends_with("psql") { "-QUIT" } else { "-KILL" };
        let _ = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

/// A user of the system by name, without whom a server does not run; both numbers.
pub fn account(name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string("/etc/passwd").unwrap();
    let line = text.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2).map(|n| n.parse().unwrap());
    Some((numbers.next().unwrap(), numbers.next().unwrap()))
}

/// Where programs of a server are; without them the test is not run, and says so. In CI it fails.
fn programs(what: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() || !rustix::process::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "{what} and root are needed");
        eprintln!("NOT RUN: {what} and root are needed for this test");
        return None;
    }
    found
}

/// A folder that the server's own user can reach.
fn folder(user: (u32, u32)) -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("xs").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    chown(dir.path(), Some(user.0), Some(user.1)).unwrap();
    dir
}

fn run_as(user: &str, program: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"]);
    command.arg(program).args(arguments).current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The tables of the sample.
pub fn sample() -> Vec<Table> {
    let mut paths: Vec<_> = fs::read_dir(data().join("dump")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let parse =
        |path: &PathBuf| parse_csv(path.file_stem().unwrap().to_str().unwrap(), &fs::read(path).unwrap()).unwrap();
    paths.iter().map(parse).collect()
}

impl Server {
    /// PostgreSQL with a database xcatdb and the role xcatadm, and no tables.
    pub fn postgres() -> Option<Self> {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|entry| entry.unwrap().path());
        let bin = programs("postgresql", versions.max().map(|version| version.join("bin")))?;
        let dir = folder(account("postgres").unwrap());
        let base = dir.path().to_str().unwrap().to_owned();
        let data = format!("{base}/data");
        let init = ["-D", &data, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"];
        assert!(run_as("postgres", &bin.join("initdb"), &init).status().unwrap().success());
        let rules = "local all postgres trust\nlocal all all scram-sha-256\n";
        fs::write(format!("{data}/pg_hba.conf"), rules).unwrap();
        let options = ["-D", &data, "-k", &base, "-c", "listen_addresses=", "-c", "fsync=off"];
        let child = run_as("postgres", &bin.join("postgres"), &options).spawn().unwrap();
        let client = ["psql", "-q", "-v", "ON_ERROR_STOP=1", "-h", &base, "-U", "postgres"].map(str::to_owned);
        let server = Self { dir, child, client: client.into() };
        server.wait("SELECT 1");
        let quoted = PASSWORD.replace('\'', "''");
        server.say(&format!("CREATE ROLE xcatadm LOGIN PASSWORD '{quoted}'; CREATE DATABASE xcatdb OWNER xcatadm;"));
        Some(server)
    }

    /// MariaDB with a database xcatdb and the user xcatadm, and no tables.
    pub fn mariadb() -> Option<Self> {
        let program =
            programs("mariadb-server", Some("/usr/sbin/mariadbd".into()).filter(|path: &PathBuf| path.exists()))?;
        let dir = folder(account("mysql").unwrap());
        let base = dir.path().to_str().unwrap().to_owned();
        let data = format!("--datadir={base}/data");
        let install = ["--no-defaults", &data, "--skip-test-db", "--auth-root-authentication-method=normal"];
        let installed = run_as("mysql", Path::new("/usr/bin/mariadb-install-db"), &install).status();
        assert!(installed.unwrap().success());
        let socket = format!("--socket={base}/sock");
        let quick = ["--skip-networking", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M"];
        let options = [["--no-defaults", &data, &socket].as_slice(), &quick].concat();
        let child = run_as("mysql", &program, &options).spawn().unwrap();
        let client =
            ["mariadb", "--no-defaults", "-u", "root", "--default-character-set=utf8mb4", &socket].map(str::to_owned);
        let server = Self { dir, child, client: client.into() };
        server.wait("SELECT 1");
        let quoted = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
        server.say(&format!(
            "CREATE DATABASE xcatdb CHARACTER SET utf8mb4; CREATE USER xcatadm@localhost IDENTIFIED BY '{quoted}'; \
             GRANT ALL ON xcatdb.* TO xcatadm@localhost;"
        ));
        Some(server)
    }

    /// Its folder: the socket is in it.
    pub fn folder(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    fn client(&self, database: Option<&str>) -> Child {
        let mut command = Command::new(&self.client[0]);
        command
            .args(&self.client[1..])
            .args(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    }

    fn ask(&self, database: Option<&str>, words: &str) -> Result<(), String> {
        let mut client = self.client(database);
        client.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
        let output = client.wait_with_output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    fn wait(&self, words: &str) {
        let began = Instant::now();
        while let Err(why) = self.ask(None, words) {
            assert!(began.elapsed() < Duration::from_secs(30), "the server does not come up: {why}");
            sleep(Duration::from_millis(50));
        }
    }

    /// Says something to the server as its own master.
    pub fn say(&self, words: &str) {
        self.ask(None, words).unwrap();
    }

    /// Says something about the database of xCAT.
    pub fn tell(&self, words: &str) {
        let database = if self.client[0] == "psql" { "--dbname=xcatdb" } else { "--database=xcatdb" };
        self.ask(Some(database), words).unwrap();
    }

    /// Makes tables as xCAT does and fills them. `quote` is what stands around names.
    pub fn fill(&self, tables: &[Table], quote: char, serial: &str) {
        self.tell(&tables.iter().map(|table| statements(table, quote, serial)).collect::<String>());
    }
}

/// The statements that make and fill a table whose keys are in front. `quote` is what stands around names.
pub fn statements(table: &Table, quote: char, serial: &str) -> String {
    let name = |name: &str| format!("{quote}{name}{quote}");
    let columns = table.columns.iter().enumerate().map(|(at, column)| match (column.as_str(), at) {
        ("recid", 0) => format!("{} {serial} PRIMARY KEY", name(column)),
        (_, 0) => format!("{} VARCHAR(128)", name(column)),
        _ => format!("{} TEXT", name(column)),
    });
    let mut sql = format!("CREATE TABLE {} ({});\n", name(&table.name), columns.collect::<Vec<_>>().join(", "));
    for row in &table.rows {
        let values = row.iter().map(|cell| match cell {
            None => "NULL".to_owned(),
            Some(value) => {
                let text = String::from_utf8(value.to_vec()).unwrap().replace('\'', "''");
                format!("'{}'", if quote == '`' { text.replace('\\', "\\\\") } else { text })
            }
        });
        sql.push_str(&format!(
            "INSERT INTO {} VALUES ({});\n",
            name(&table.name),
            values.collect::<Vec<_>>().join(",")
        ));
    }
    sql
}
