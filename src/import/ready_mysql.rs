//! MySQL or MariaDB made ready for xCAT: database, user, and from where it is let in, the service nodes too.
//!
//! The password goes to the server over its client's standard input, never on a command line.

use crate::{
    error::{Error, Result},
    import::{
        client::Client,
        load_mysql::way_in,
        load_stage::{Staged, bare},
        load_tables::{Dialect, MARKER, refused},
        ready_postgres::edit,
    },
    mn::{engine::Server, inside::Inside},
};
use std::collections::BTreeSet;

const SQL: Dialect = Dialect::Mysql;
/// Where a distribution may say that it listens to this machine only; besides every file of `/etc/my.cnf.d`.
const FILES: [&[u8]; 5] = [
    b"/etc/my.cnf",
    b"/etc/mysql/my.cnf",
    b"/etc/mysql/mariadb.conf.d/50-server.cnf",
    b"/etc/mysql/mysql.conf.d/mysqld.cnf",
    b"/etc/mysql/mariadb.cnf",
];
const MORE_FILES: &[u8] = b"/etc/my.cnf.d";
/// What stands before a line of a file that does not count any more.
const OFF: &str = "#xsnap: ";

/// The server of this machine, spoken to as its master.
pub fn client<'a>(staged: &Staged<'a>) -> Client<'a> {
    Client { machine: staged.request.machine, dialect: SQL, role: None }
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
        return vec![format!("nothing is set up at {}: user and database must be there", staged.engine)];
    }
    let unknown = staged.service_nodes().1;
    let mut changes = vec![
        format!("the database {} is made if it is missing", server.database),
        format!(
            "{} gets the captured password, and is let in from {}",
            server.user,
            hosts(staged, server).into_iter().collect::<Vec<_>>().join(", ")
        ),
        "a bind-address in its configuration files does not count any more".into(),
    ];
    if !unknown.is_empty() {
        let names = unknown.into_iter().collect::<Vec<_>>().join(", ");
        changes.push(format!("nothing tells the addresses of these service nodes, which are let in by name: {names}"));
    }
    changes
}

/// The files of the server that may be changed.
pub fn files(inside: &Inside) -> Vec<Vec<u8>> {
    let mut files: Vec<_> = FILES.iter().map(|path| path.to_vec()).collect();
    let more = inside.names(MORE_FILES).unwrap_or_default().into_iter().filter(|name| name.ends_with(b".cnf"));
    files.extend(more.map(|name| [MORE_FILES, b"/", &name].concat()));
    files.retain(|path| inside.exists(path));
    files
}

/// From where the user is let in: this machine by all its names, and the service nodes.
pub fn hosts(staged: &Staged<'_>, server: &Server) -> BTreeSet<String> {
    let (addresses, names) = staged.service_nodes();
    let mut hosts: BTreeSet<String> = ["localhost", "127.0.0.1"].map(str::to_owned).into();
    hosts.extend(server.host.clone().filter(|host| !host.starts_with('/')));
    hosts.extend(addresses.iter().map(ToString::to_string).chain(names));
    // Whoever connects to an address of this machine comes from one, which need not be the same.
    let own = staged.request.own_addresses.iter().map(|address| bare(address).to_owned());
    hosts.extend(own.filter(|address| address.parse::<std::net::IpAddr>().is_ok()));
    hosts
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
        self.database()?;
        self.let_in()?;
        self.listen()
    }

    fn failed(&self, why: impl Into<String>) -> Error {
        refused("set up", self.staged, why)
    }

    fn say(&self, words: &str) -> Result<String> {
        self.client.say("", words).map_err(|why| self.failed(why))
    }

    fn unit(&self, verb: &str) -> Result<()> {
        self.client.tell_unit(verb).map_err(|why| self.failed(why))
    }

    /// A new database says that an import has made it, until its tables are loaded. Its character set is that of xCAT's own
    /// setup: in another one, keys of a thousand characters are too long.
    fn database(&self) -> Result<()> {
        let (name, text) = (SQL.name(&self.server.database), SQL.text(&self.server.database));
        let there = format!("SELECT 1 FROM information_schema.schemata WHERE schema_name = {text};\n");
        if self.say(&there)?.is_empty() {
            let marker = SQL.name(MARKER);
            let make = format!(
                "CREATE DATABASE {name} DEFAULT CHARACTER SET latin1; CREATE TABLE {name}.{marker} (made TEXT);\n"
            );
            self.say(&make)?;
        }
        Ok(())
    }

    fn let_in(&self) -> Result<()> {
        let version = self.say("SELECT version();\n")?;
        let numbers: Vec<u32> = version.split(['.', '-']).map_while(|part| part.parse().ok()).collect();
        // MySQL has forgotten how to do both at once, and did not know before how to do one after the other.
        let is_apart = !version.contains("MariaDB") && numbers.as_slice() >= [5, 7].as_slice();
        let (database, password) = (SQL.name(&self.server.database), SQL.text(self.server.password.reveal()));
        let mut words = String::new();
        for host in hosts(self.staged, self.server) {
            let user = format!("{}@{}", SQL.text(&self.server.user), SQL.text(&host));
            if is_apart {
                words.push_str(&format!("CREATE USER IF NOT EXISTS {user} IDENTIFIED BY {password};\n"));
                words.push_str(&format!("ALTER USER {user} IDENTIFIED BY {password};\n"));
                words.push_str(&format!("GRANT ALL ON {database}.* TO {user};\n"));
            } else {
                words.push_str(&format!("GRANT ALL ON {database}.* TO {user} IDENTIFIED BY {password};\n"));
            }
        }
        self.say(&format!("{words}FLUSH PRIVILEGES;\n")).map(|_| ())
    }

    /// Has the server listen everywhere, as xCAT's own setup does.
    fn listen(&self) -> Result<()> {
        let inside = &self.staged.request.machine.inside;
        for path in files(inside) {
            edit(inside, &path, everywhere)?;
        }
        // A restart that a killed import owes is told by the server itself, and not by what was written before.
        let now = self.say("SELECT @@bind_address;\n").unwrap_or_default();
        if matches!(now.as_str(), "127.0.0.1" | "::1" | "localhost") {
            self.unit("restart")?;
            self.client.wait().map_err(|why| self.failed(why))?;
        }
        Ok(())
    }
}

/// The text of a configuration file in which no address to listen at counts.
fn everywhere(text: &str) -> String {
    let is_bound = |line: &str| {
        let name = line.trim_start().split(['=', ' ', '\t']).next().unwrap_or_default();
        name.replace('_', "-").eq_ignore_ascii_case("bind-address")
    };
    let line = |line: &str| if is_bound(line) { format!("{OFF}{line}") } else { line.to_owned() };
    text.split_inclusive('\n').map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_to_listen_at_counts_and_nothing_else_is_changed() {
        let text = "[mysqld]\nbind-address            = 127.0.0.1\n bind_address=::1\n#bind-address = x\nport=3307\n";
        let changed = everywhere(text);
        assert_eq!(
            changed,
            "[mysqld]\n#xsnap: bind-address            = 127.0.0.1\n#xsnap:  bind_address=::1\n#bind-address = x\nport=3307\n"
        );
        assert_eq!(everywhere(&changed), changed);
    }
}
