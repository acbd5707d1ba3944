//! A machine's own database server: real PostgreSQL or MariaDB with its files below the machine's root, started by the test's
//! `systemctl`, and reached by the machine's programs as it would be there.

use crate::support::{servers::account, xcat::Node};
use std::{
    fs, io,
    net::TcpListener,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
};
use xsnap::mn::host::{Order, Outcome, OwnPrograms, Programs};

/// Which server it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Postgres,
    Mariadb,
}

/// The server, which ends with the test.
#[derive(Debug)]
pub struct OwnServer {
    kind: Kind,
    root: PathBuf,
    bin: PathBuf,
    pub port: u16,
    child: Mutex<Option<Child>>,
    log: Mutex<Vec<String>>,
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        self.stop();
    }
}

impl OwnServer {
    /// A server that is installed below the root of a node, and was never started. None where this machine has no such
    /// server; in CI that fails.
    pub fn installed(kind: Kind, node: &Node) -> Option<Self> {
        let bin = match kind {
            Kind::Postgres => {
                let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().map(|e| e.unwrap().path());
                versions.max().map(|version| version.join("bin"))
            }
            Kind::Mariadb => Some(PathBuf::from("/usr/sbin")).filter(|dir| dir.join("mariadbd").exists()),
        };
        if bin.is_none() || !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "{kind:?} and root are needed");
            eprintln!("NOT RUN: {kind:?} and root are needed for this test");
            return None;
        }
        let root = node.root();
        node.write("etc/os-release", "ID=rhel\nVERSION_ID=\"8.10\"\n");
        let (unit, user, data) = match kind {
            Kind::Postgres => ("postgresql", "postgres", "var/lib/pgsql"),
            Kind::Mariadb => ("mariadb", "mysql", "var/lib/mysql"),
        };
        node.write(&format!("usr/lib/systemd/system/{unit}.service"), "[Unit]\n");
        let folder = root.join(data);
        fs::create_dir_all(&folder).unwrap();
        let (uid, gid) = account(user).unwrap();
        chown(&folder, Some(uid), Some(gid)).unwrap();
        // The server's own user has to get to its folder.
        fs::set_permissions(root.parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (child, log) = (Mutex::new(None), Mutex::new(Vec::new()));
        Some(Self { kind, root, bin: bin.unwrap(), port, child, log })
    }

    /// Everything that was run, with its arguments.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    fn folder(&self) -> PathBuf {
        self.root.join(if self.kind == Kind::Postgres { "var/lib/pgsql" } else { "var/lib/mysql" })
    }

    fn as_user(&self, program: &str, arguments: &[String]) -> Command {
        let user = if self.kind == Kind::Postgres { "postgres" } else { "mysql" };
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups", "--"]);
        command.arg(self.bin.join(program)).args(arguments).current_dir("/").stdin(Stdio::null()).env("LC_ALL", "C");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// As `postgresql-setup` or the unit's own preparation does: nobody but the system's own users gets in.
    fn initialize(&self) -> bool {
        let data = self.folder().join("data").display().to_string();
        if Path::new(&data).exists() {
            return true;
        }
        if self.kind == Kind::Postgres {
            let options = ["-D", &data, "--auth-local=peer", "--auth-host=ident", "--no-sync"].map(str::to_owned);
            return self.as_user("initdb", &options).status().unwrap().success();
        }
        let options = ["--no-defaults", &format!("--datadir={data}"), "--skip-test-db"].map(str::to_owned);
        let mut command = self.as_user("../bin/mariadb-install-db", &options);
        command.arg("--auth-root-authentication-method=socket").status().unwrap().success()
    }

    fn start(&self) -> bool {
        let folder = self.folder().display().to_string();
        let port = self.port;
        let is_there = self.initialize_unless_setup_does() && self.folder().join("data").exists();
        let mut command = match self.kind {
            Kind::Postgres => {
                let options =
                    ["-D", &format!("{folder}/data"), "-k", &folder, "-c", "fsync=off", "-p", &port.to_string()];
                self.as_user("postgres", &options.map(str::to_owned))
            }
            Kind::Mariadb => {
                let options = [
                    format!("--defaults-file={}", self.root.join("etc/my.cnf").display()),
                    format!("--datadir={folder}/data"),
                    format!("--socket={folder}/sock"),
                    format!("--port={port}"),
                    format!("--pid-file={folder}/pid"),
                    "--innodb-flush-log-at-trx-commit=0".to_owned(),
                    "--innodb-buffer-pool-size=16M".to_owned(),
                ];
                self.as_user("mariadbd", &options)
            }
        };
        if is_there {
            *self.child.lock().unwrap() = Some(command.spawn().unwrap());
        }
        is_there
    }

    /// MariaDB's unit makes the data where there is none; PostgreSQL's does not.
    fn initialize_unless_setup_does(&self) -> bool {
        self.kind == Kind::Postgres || self.initialize()
    }

    fn stop(&self) {
        let Some(mut child) = self.child.lock().unwrap().take() else { return };
        let signal = if self.kind == Kind::Postgres { "-INT" } else { "-TERM" };
        let _ = Command::new("kill").args([signal, &child.id().to_string()]).status();
        let _ = child.wait();
    }

    /// Says something to the server about xCAT's database as its master; what it answers.
    pub fn say(&self, words: &str) -> String {
        let output = self.told("xcatdb", words);
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// What tells PostgreSQL's own programs where the server is.
    pub fn environment(&self) -> [(&'static str, String); 2] {
        [("PGHOST", self.folder().display().to_string()), ("PGPORT", self.port.to_string())]
    }

    /// How many roles PostgreSQL has that may log in, beside its master; nothing while it does not answer.
    pub fn roles(&self) -> Option<String> {
        let words = "SELECT count(*) FROM pg_roles WHERE rolcanlogin AND rolname <> 'postgres'";
        let output = self.told("postgres", words);
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn told(&self, database: &str, words: &str) -> Output {
        let folder = self.folder().display().to_string();
        let mut command = match self.kind {
            Kind::Postgres => {
                let mut command = Command::new("runuser");
                command.args(["-u", "postgres", "--", "psql", "-X", "-q", "-A", "-t", "-h", &folder, "-d", database]);
                command.args(["-v", "ON_ERROR_STOP=1", "-p", &self.port.to_string(), "-c", words]).current_dir("/");
                command
            }
            Kind::Mariadb => {
                let mut command = Command::new("mariadb");
                command.args(["--no-defaults", "-u", "root", &format!("--socket={folder}/sock"), "-N", "-B"]);
                command.args([database, "-e", words]);
                command
            }
        };
        command.output().unwrap()
    }
}

impl Programs for OwnServer {
    fn run(&self, order: Order) -> io::Result<Outcome> {
        let mut words = vec![order.program.to_string_lossy().into_owned()];
        words.extend(order.arguments.iter().map(|word| word.to_string_lossy().into_owned()));
        self.log.lock().unwrap().push(words.join(" "));
        let ended = |is_good: bool| Ok(Outcome { code: Some(i32::from(!is_good)), ..Outcome::default() });
        let folder = self.folder().display().to_string();
        match (words[0].as_str(), words.get(1).map(String::as_str)) {
            ("systemctl", Some("start")) => ended(self.start()),
            ("systemctl", Some("restart")) => {
                self.stop();
                ended(self.start())
            }
            ("systemctl", Some("enable")) => ended(true),
            ("postgresql-setup", Some("--initdb")) => ended(self.initialize()),
            ("runuser", _) => {
                let order = order.with("PGHOST", &folder).with("PGPORT", self.port.to_string());
                let mut outcome = OwnPrograms.run(order)?;
                // Its paths are those of the machine, whose root the server knows nothing of here.
                let root = self.root.display().to_string();
                outcome.output = String::from_utf8_lossy(&outcome.output).replace(&root, "").into_bytes();
                Ok(outcome)
            }
            ("mariadb", _) => {
                let mut order = order;
                order.arguments.push(format!("--socket={folder}/sock").into());
                OwnPrograms.run(order)
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
