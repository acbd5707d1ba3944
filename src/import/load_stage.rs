//! The database of a snapshot as it was brought into the stage: which it is, its tables, and whether this xCAT can hold them.

use crate::{
    error::{Error, Result},
    import::load_asked::{LoadRequest, Refusal, TableWord},
    mn::{
        csv_folder::{LOGS, Proof},
        database::CSV_FOLDER,
        engine::{CFGLOC, Engine, Server},
        inside::Inside,
        machine::MAX_FILE_BYTES,
        packages::version,
        schema::Schema,
        tables::{Row, Table, is_table_name, parse_csv},
    },
};
use std::{
    borrow::Cow,
    collections::BTreeSet,
    io::{BufRead, BufReader, Read},
    net::IpAddr,
};
use zeroize::Zeroizing;

/// How long the CSV of a table may be: all of it is held in memory.
const MAX_CSV_BYTES: u64 = 1 << 30;
/// How long its first line may be.
const MAX_HEADER_BYTES: u64 = 256 << 10;
/// How long cfgloc may be.
const MAX_CFGLOC_BYTES: u64 = 64 << 10;

/// The database of a snapshot, brought into the stage.
#[derive(Debug)]
pub struct Staged<'a> {
    /// What is asked.
    pub request: LoadRequest<'a>,
    /// The stage.
    pub inside: Inside,
    /// The database that the machine will have: the captured one, on the host that was named for it.
    pub engine: Engine,
    /// What cfgloc will say; nothing where there will be none.
    pub cfgloc: Option<Zeroizing<Vec<u8>>>,
    /// The tables that the machine's xCAT has, and those that users of the captured one had described.
    pub schema: Schema,
    /// The machine has an xCAT whose schema can be read.
    pub is_schema_known: bool,
}

impl<'a> Staged<'a> {
    /// Reads what the stage and the machine say.
    ///
    /// # Errors
    /// `File` where the stage cannot be read; `Damaged` where its cfgloc makes no sense.
    pub fn of(request: &LoadRequest<'a>) -> Result<Self> {
        let inside = Inside::open(request.stage)?;
        let captured = inside.read_if_there(CFGLOC, MAX_CFGLOC_BYTES);
        let captured = captured.map_err(|e| Error::file("read", inside.live_path(CFGLOC), e))?.map(Zeroizing::new);
        let mut engine = Engine::of(&inside)?;
        let mut cfgloc = captured;
        if let (Engine::Postgres(server) | Engine::Mysql(server), Some(host)) = (&mut engine, request.database_host)
            && server.host.as_deref() != Some(host)
        {
            cfgloc = cfgloc.map(|text| Zeroizing::new(with_host(&text, host)));
            server.host = Some(host.to_owned());
        }
        let (mut schema, unread) = Schema::of(&request.machine.inside, engine.schema_suffix());
        let is_schema_known = unread.is_empty() && schema.tables.values().any(|table| !table.is_users);
        let (captured_schema, _) = Schema::of(&inside, engine.schema_suffix());
        for (name, table) in captured_schema.tables.into_iter().filter(|(_, table)| table.is_users) {
            schema.tables.entry(name).or_insert(table);
        }
        Ok(Self { request: *request, inside, engine, cfgloc, schema, is_schema_known })
    }

    /// The server that holds the tables, if one does.
    pub fn server(&self) -> Option<&Server> {
        match &self.engine {
            Engine::Postgres(server) | Engine::Mysql(server) => Some(server),
            _ => None,
        }
    }

    /// Whether the tables are held by a server on a machine that is neither this one nor the captured one.
    pub fn is_external(&self) -> bool {
        let Some(host) = self.server().and_then(|server| server.host.as_deref()) else { return false };
        !self.is_own_host(host)
    }

    /// Whether a host is this machine: by name or address, as it is or as it was where it was captured.
    fn is_own_host(&self, host: &str) -> bool {
        if host.is_empty() || host.starts_with('/') || host.eq_ignore_ascii_case("localhost") {
            return true;
        }
        let machine = &self.request.manifest.machine;
        let captured = machine.network.iter().flat_map(|nic| &nic.addresses);
        let mut addresses = captured.chain(self.request.own_addresses).map(|address| bare(address));
        if let Ok(wanted) = host.parse::<IpAddr>() {
            return wanted.is_loopback() || addresses.any(|address| address.parse() == Ok(wanted));
        }
        let name = String::from_utf8_lossy(&machine.host_name.bytes()).to_lowercase();
        let short = name.split('.').next().unwrap_or_default();
        let host = host.to_lowercase();
        !short.is_empty() && [name.clone(), short.to_owned(), format!("{short}.{}", machine.domain)].contains(&host)
    }

    /// The names of the tables whose CSVs are in the stage, in order.
    ///
    /// # Errors
    /// `File` where the folder cannot be read.
    pub fn csv_names(&self) -> Result<BTreeSet<String>> {
        let names = match self.inside.names(CSV_FOLDER) {
            Ok(names) => names,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(Error::file("list", self.inside.live_path(CSV_FOLDER), e)),
        };
        let names = names.iter().filter_map(|name| name.strip_suffix(b".csv")).filter(|name| is_table_name(name));
        Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// The columns of a table, as the first line of its CSV names them.
    ///
    /// # Errors
    /// `File` where it cannot be read; `Damaged` where it is no header.
    pub fn columns(&self, name: &str) -> Result<Vec<String>> {
        let path = csv_path(name);
        let failed = |e| Error::file("read", self.inside.live_path(&path), e);
        let file = self.inside.open_file(&path).map_err(failed)?;
        let mut header = Vec::new();
        BufReader::new(file.take(MAX_HEADER_BYTES)).read_until(b'\n', &mut header).map_err(failed)?;
        Ok(parse_csv(name, &header)?.columns)
    }

    /// A table, held against what the manifest says of it.
    ///
    /// # Errors
    /// `File` where it cannot be read; `Damaged` where it is not what was captured.
    pub fn table(&self, name: &str) -> Result<Table> {
        let path = csv_path(name);
        let failed = |e| Error::file("read", self.inside.live_path(&path), e);
        let table = parse_csv(name, &self.inside.read(&path, MAX_CSV_BYTES).map_err(failed)?)?;
        match self.proof(name) {
            Some(proof) if (proof.rows, &proof.digest) != (table.rows.len() as u64, &table.digest()) => {
                Err(Error::damaged(format!("table {name}"), "what was brought of it is not what was captured"))
            }
            _ => Ok(table),
        }
    }

    /// What the manifest says that a table holds.
    pub fn proof(&self, name: &str) -> Option<Proof> {
        let words = self.request.manifest.database.tables.iter().find(|table| table.name == name)?;
        Some(Proof { table: words.name.clone(), rows: words.rows, digest: words.digest.clone() })
    }

    /// The addresses of the cluster's service nodes, and the names of those whose address nothing tells: from the tables
    /// servicenode, nodelist and hosts, and from the captured hosts file.
    pub fn service_nodes(&self) -> (BTreeSet<IpAddr>, BTreeSet<String>) {
        let table = |name: &str| self.table(name).unwrap_or_default();
        let (serving, list, hosts) = (table("servicenode"), table("nodelist"), table("hosts"));
        let mut names = BTreeSet::new();
        for wanted in serving.enabled().filter_map(|row| row.text("node")) {
            let in_group = |row: &Row<'_>| {
                row.text("node").is_some_and(|node| node == wanted)
                    || row.text("groups").is_some_and(|groups| groups.split(',').any(|group| group.trim() == wanted))
            };
            let found = list.enabled().filter(in_group).filter_map(|row| row.text("node").map(Cow::into_owned));
            names.extend(found);
        }
        let file = self.inside.read_if_there(b"/etc/hosts", MAX_FILE_BYTES).ok().flatten().unwrap_or_default();
        let file = String::from_utf8_lossy(&file).into_owned();
        let (mut addresses, mut unknown) = (BTreeSet::new(), BTreeSet::new());
        for name in names {
            let row = hosts.enabled().find(|row| row.text("node").is_some_and(|node| node == name));
            let told = row.and_then(|row| row.text("ip").map(Cow::into_owned)).unwrap_or_default();
            let lines = file.lines().map(|line| line.split('#').next().unwrap_or_default());
            let is_of = |line: &&str| line.split_whitespace().skip(1).any(|n| n == name);
            let named = lines.filter(is_of).filter_map(|line| line.split_whitespace().next());
            let found: Vec<IpAddr> = told.split(',').chain(named).filter_map(|text| text.trim().parse().ok()).collect();
            if found.is_empty() {
                unknown.insert(name);
            }
            addresses.extend(found);
        }
        (addresses, unknown)
    }

    /// Why a table of the machine that the snapshot lacks stays as it is.
    pub fn why_kept(&self, name: &str) -> TableWord {
        let why = if self.request.manifest.database.left_out.iter().any(|left_out| left_out == name) {
            "the capture was asked to leave it out: this machine's own stays"
        } else if LOGS.contains(&name) {
            "it records what was done on this machine, and the snapshot has none"
        } else if self.schema.tables.get(name).is_some_and(|table| table.is_users) || name.starts_with("x_") {
            "it is a user's table that the captured node did not have"
        } else {
            "the captured xCAT did not have it: it keeps what the installation has put there"
        };
        TableWord::new(name, why)
    }

    /// What stands against loading these tables, whatever database it is.
    ///
    /// # Errors
    /// `File` where the stage cannot be read.
    pub fn refusals(&self) -> Result<Vec<Refusal>> {
        let mut refusals = Vec::new();
        match &self.engine {
            Engine::Db2 => refusals.push(Refusal::new(
                "DB2",
                "the captured node has its tables in DB2, which xsnap cannot load",
                "import with --skip-db, and load the tables with xCAT's own commands",
            )),
            Engine::Csv { .. } => refusals.push(Refusal::new(
                "tables in text files",
                "the captured node has its tables in text files, which nothing proves",
                "import with --skip-db, and put the files back by hand",
            )),
            _ => {}
        }
        let database = &self.request.manifest.database;
        if self.server().is_some() {
            refusals.extend(self.out_of_reach());
            if database.unproved {
                refusals.push(self.without_tables());
                return Ok(refusals);
            }
        }
        let names = self.csv_names()?;
        let missing = database.tables.iter().filter(|table| !names.contains(&table.name));
        for table in missing.filter(|_| !self.request.accept_incomplete) {
            refusals.push(Refusal::new(
                format!("table {}", table.name),
                "the snapshot's manifest names it, and it is not among what was brought",
                "check the repository (xsnap check), or take what there is (--accept-incomplete)",
            ));
        }
        if matches!(self.engine, Engine::Sqlite { .. } | Engine::Postgres(_) | Engine::Mysql(_)) {
            self.refuse_newer(&mut refusals);
            for name in &names {
                self.refuse_columns(name, &mut refusals);
            }
        }
        Ok(refusals)
    }

    /// A server that was not reached when the node was captured.
    fn without_tables(&self) -> Refusal {
        let what = "the captured tables";
        if self.is_external() {
            let why = "the server could not be reached when they were captured: there is no table";
            return Refusal::new(
                what,
                why,
                "capture the node while its database can be reached, or import with --skip-db",
            );
        }
        let why = "the server did not run when they were captured: there is its data directory, and no table";
        let way_on = "put the data directory back by hand, or capture the node while its database runs";
        Refusal::new(what, why, way_on)
    }

    /// A server that must not be touched, or cannot be.
    fn out_of_reach(&self) -> Option<Refusal> {
        if self.is_external() && self.request.database_host.is_none() {
            let host = self.server().and_then(|server| server.host.clone()).unwrap_or_default();
            return Some(Refusal::new(
                format!("the database at {host}"),
                "it is on another machine, which may serve others: it is not touched because cfgloc names it",
                format!("name the host that shall have the tables: --database-host {host}"),
            ));
        }
        (!self.is_external() && !self.request.machine.is_live()).then(|| {
            let way_on = "import with --skip-db, and once it has started, import there with --part database";
            Refusal::new(self.engine.to_string(), "this system does not run, and neither does its database", way_on)
        })
    }

    /// An older xCAT does not know what a newer one has written.
    fn refuse_newer(&self, refusals: &mut Vec<Refusal>) {
        let captured = &self.request.manifest.xcat.version;
        let Ok(Some(here)) = version(self.request.machine) else { return };
        if numbers(captured) > numbers(&here.number) {
            refusals.push(Refusal::new(
                format!("xCAT {}", here.number),
                format!("the tables were written by xCAT {captured}, which is newer"),
                "install the xCAT of the snapshot, or a newer one (--xcat-core)",
            ));
        }
    }

    /// Columns that this xCAT does not have: a load that leaves them out loses what is in them.
    fn refuse_columns(&self, name: &str, refusals: &mut Vec<Refusal>) {
        // Tables of records may be large: they are read when they are loaded.
        let columns = match LOGS.contains(&name) {
            true => self.columns(name),
            false => self.table(name).map(|table| table.columns),
        };
        let columns = match columns {
            Ok(columns) => columns,
            Err(e) => {
                let way_on = "check the repository (xsnap check), and take another snapshot";
                refusals.push(Refusal::new(format!("table {name}"), e.to_string(), way_on));
                return;
            }
        };
        let Some(described) = self.schema.tables.get(name).filter(|_| self.is_schema_known) else { return };
        let unknown: Vec<_> = columns.iter().filter(|column| !described.columns.contains(column)).cloned().collect();
        if !unknown.is_empty() {
            refusals.push(Refusal::new(
                format!("table {name}"),
                format!("this xCAT's table has no column {}", unknown.join(", ")),
                "install the xCAT of the snapshot, or a newer one (--xcat-core)",
            ));
        }
    }

    /// The values that xCAT's `tabrestore` does not bring back as they were.
    ///
    /// # Errors
    /// `File` where the stage cannot be read.
    pub fn would_change(&self) -> Result<Vec<TableWord>> {
        let mut words = BTreeSet::new();
        for name in self.csv_names()?.iter().filter(|name| !LOGS.contains(&name.as_str())) {
            // One that cannot be read is refused.
            let Ok(table) = self.table(name) else { continue };
            for row in table.rows() {
                let changed = table.columns.iter().filter_map(|column| Some((column, fault(row.value(column)?)?)));
                let key = table.columns.first().and_then(|first| row.text(first)).unwrap_or_default();
                for (column, why) in changed {
                    words.insert(TableWord::new(name, format!("row {key}, column {column}: {why}")));
                }
            }
        }
        Ok(words.into_iter().collect())
    }
}

/// Why `tabrestore` does not bring a value back as it was, if it does not.
fn fault(value: &[u8]) -> Option<&'static str> {
    if value.contains(&b'\r') {
        return Some("a carriage return ends a line there");
    }
    let lines: Vec<_> = value.split(|b| *b == b'\n').collect();
    // The first line of a value stands behind a quote, and the last one before one.
    let inner = lines.get(1..lines.len().saturating_sub(1)).unwrap_or_default();
    if inner.iter().any(|line| line.trim_ascii().is_empty()) {
        return Some("a blank line within it is lost");
    }
    let ends = lines.split_last().map_or(&[][..], |(_, before)| before);
    let is_cut = |line: &&[u8]| line.ends_with(b" ") || line.ends_with(b"\t");
    ends.iter().any(is_cut).then_some("blanks at the end of a line are lost")
}

/// Where the CSV of a table stands in a snapshot.
pub fn csv_path(name: &str) -> Vec<u8> {
    [CSV_FOLDER, b"/", name.as_bytes(), b".csv"].concat()
}

/// An address without the length of its prefix.
pub fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

/// The numbers of a version, to be compared.
fn numbers(version: &str) -> Vec<u64> {
    let digits = version.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    digits.map(|part| part.parse().unwrap_or(u64::MAX)).collect()
}

/// The text of a cfgloc with another host.
fn with_host(cfgloc: &[u8], host: &str) -> Vec<u8> {
    let end = cfgloc.iter().position(|b| *b == b'|').unwrap_or(cfgloc.len());
    let (source, rest) = cfgloc.split_at(end);
    let start = source.iter().position(|b| *b == b':').map_or(0, |at| at + 1);
    let (kind, settings) = source.split_at(start);
    let named = [b"host=", host.as_bytes()].concat();
    let settings = settings.split(|b| matches!(b, b';' | b' ')).filter(|setting| !setting.starts_with(b"host"));
    let settings: Vec<&[u8]> = settings.chain([named.as_slice()]).collect();
    [kind, &settings.join(&b';'), rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tabrestore_would_change_is_named() {
        for (value, fault_word) in [
            (&b"plain \n text\n"[..], Some("blanks")),
            (b"a\n\nb", Some("blank line")),
            (b"a\n \n", Some("blank line")),
            (b"  \na", Some("blanks")),
            (b"\na\n", None),
            (b"a\t\nb", Some("blanks")),
            (b"a\rb", Some("carriage")),
            (b"one line with blanks at its end  ", None),
            (b"two\nlines, \"quoted\" \\ $x #\n", None),
        ] {
            let found = fault(value);
            assert_eq!(found.is_some(), fault_word.is_some(), "{value:?}");
            assert!(fault_word.is_none_or(|word| found.unwrap().contains(word)), "{value:?}: {found:?}");
        }
    }

    #[test]
    fn a_host_is_put_into_a_cfgloc_and_nothing_else_is_changed() {
        let changed = |text: &str| String::from_utf8(with_host(text.as_bytes(), "h2")).unwrap();
        assert_eq!(
            changed("Pg:dbname=xcatdb;host=10.0.0.1|xcatadm|a;b|c\n"),
            "Pg:dbname=xcatdb;host=h2|xcatadm|a;b|c\n"
        );
        assert_eq!(changed("Pg:host=10.0.0.1;dbname=xcatdb|u|p"), "Pg:dbname=xcatdb;host=h2|u|p");
        assert_eq!(changed("mysql:xcatdb;port=3307|u|p"), "mysql:xcatdb;port=3307;host=h2|u|p");
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        assert!(numbers("2.19.0") > numbers("2.9.4") && numbers("2.17.0") == numbers("2.17.0"));
    }
}
