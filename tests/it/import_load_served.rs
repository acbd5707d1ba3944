//! The tables of a captured node in real database servers: made ready on a bare machine, loaded as one, or refused.

use crate::support::{
    brought::{Brought, StopAt, Target, make_odd},
    own_server::{Kind, OwnServer},
    servers::PASSWORD,
    xcat::{Node, Told, data, names, problems},
};
use rusqlite::Connection;
use std::{fs, os::unix::fs::PermissionsExt};
use xsnap::{
    error::Error,
    import::load::{Difference, LoadRequest},
    mn::tables::parse_csv,
};

/// A schema of the sample's tables as xCAT's own, with keys and numbers that count on.
fn schema() -> String {
    let mut text = "package xCAT::Schema;\n%tabspec = (\n".to_owned();
    for name in names(&data().join("sqlite")) {
        let table = name.trim_end_matches(".sqlite");
        let db = Connection::open(data().join("sqlite").join(&name)).unwrap();
        let mut all = db.prepare(&format!("PRAGMA table_info({table})")).unwrap();
        let columns: Vec<(String, i64)> =
            all.query_map([], |row| Ok((row.get(1)?, row.get(5)?))).unwrap().map(Result::unwrap).collect();
        let all: Vec<_> = columns.iter().map(|(column, _)| column.as_str()).collect();
        let keys: Vec<_> = columns.iter().filter(|(_, key)| *key > 0).map(|(column, _)| column.as_str()).collect();
        let types = match table {
            "auditlog" | "eventlog" => "types => { recid => 'INTEGER AUTO_INCREMENT' }, engine => 'InnoDB',",
            "osdistroupdate" => "types => { osupdatename => 'VARCHAR(1024)' },",
            "kvm_masterdata" => "types => { xml => 'VARCHAR(16000)' },",
            _ => "",
        };
        text.push_str(&format!(
            "  {table} => {{ cols => [qw({})], keys => [qw({})], {types} }},\n",
            all.join(" "),
            keys.join(" ")
        ));
    }
    text + ");\n1;\n"
}

/// A node with odd values, captured and brought, its tables in this server.
pub(crate) fn brought(cfgloc: &str) -> Brought {
    let node = Node::sample();
    make_odd(&node);
    node.write("opt/xcat/lib/perl/xCAT/Schema.pm", &schema());
    let dump = node.dump(true, true);
    assert_eq!(problems(&dump), [""; 0]);
    let brought = Brought::of(&node, &dump);
    for name in names(&brought.stage().join("etc/xcat")) {
        fs::remove_file(brought.stage().join("etc/xcat").join(name)).unwrap();
    }
    fs::write(brought.stage().join("etc/xcat/cfgloc"), cfgloc).unwrap();
    brought
}

/// A machine on which xCAT was installed, with tables in files.
pub(crate) fn bare() -> Node {
    let node = Node::sample();
    node.write("opt/xcat/lib/perl/xCAT/Schema.pm", &schema());
    node
}

fn tables(differences: &[Difference]) -> Vec<&str> {
    let mut tables: Vec<_> = differences.iter().map(|difference| difference.table.as_str()).collect();
    tables.dedup();
    tables
}

/// Nobody who lists programs sees the password, and cfgloc is there for root alone.
fn is_discreet(server: &OwnServer, node: &Node) {
    assert!(!server.log().concat().contains("sesame") && !server.log().concat().contains("se'sa"));
    let cfgloc = node.tables().join("cfgloc");
    assert!(fs::read_to_string(&cfgloc).unwrap().contains(PASSWORD));
    assert_eq!(fs::metadata(cfgloc).unwrap().permissions().mode() & 0o7777, 0o600);
}

/// What holds for a loaded server of either kind: nothing is lost by whatever cuts a load short, and nothing that is
/// somebody's is replaced without a word.
fn is_safe(server: &OwnServer, target: &Target<'_>) {
    let brought = target.brought;
    // What an import has loaded is no reason to refuse it, and what somebody has changed is.
    assert_eq!(target.refused(), [""; 0]);
    server.say("UPDATE site SET value = 'somebody else' WHERE value = '/install'");
    server.say("DELETE FROM nodelist");
    let refused = target.refused();
    assert!(refused.len() == 1 && refused[0].contains("its tables are not empty"), "{refused:?}");
    let error = target.load().unwrap_err();
    assert!(error.to_string().contains("--replace-database"), "{error}");
    let changed = target.compare();
    assert_eq!(tables(&changed), ["nodelist", "site"]);

    let replacing = Target { change: &|request| request.replace_database = true, ..*target };
    let stopped = replacing.load_told(&StopAt(60, Told::default()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert_eq!(target.compare(), changed, "what is cut short leaves the old rows");

    // A value that does not fit, in the middle of the tables.
    let csv = brought.csv("kvm_masterdata");
    let (good, proof) = (fs::read(&csv).unwrap(), brought.manifest.database.tables.clone());
    let long = [good.as_slice(), format!("\"long\",\"{}\",,\n", "x".repeat(16001)).as_bytes()].concat();
    fs::write(&csv, &long).unwrap();
    let mut manifest = brought.manifest.clone();
    let table = parse_csv("kvm_masterdata", &long).unwrap();
    let words = manifest.database.tables.iter_mut().find(|words| words.name == "kvm_masterdata").unwrap();
    (words.rows, words.digest) = (table.rows.len() as u64, table.digest());
    let failed = target.ask(|request| {
        let request = LoadRequest { manifest: &manifest, replace_database: true, ..*request };
        xsnap::import::load::load(&request, &Told::default()).unwrap_err()
    });
    let why = std::error::Error::source(&failed).unwrap().to_string();
    assert!(
        why.starts_with("table kvm_masterdata: ") && !format!("{failed} {why}").contains("sesame"),
        "{failed}: {why}"
    );
    fs::write(&csv, &good).unwrap();
    assert_eq!(proof, brought.manifest.database.tables);
    assert_eq!(target.compare(), changed, "what the server refuses leaves the old rows");

    replacing.load().unwrap();
    assert_eq!(target.compare(), []);
}

#[test]
fn postgresql_is_made_ready_on_a_bare_machine_and_holds_every_value() {
    let node = bare();
    let Some(server) = OwnServer::installed(Kind::Postgres, &node) else { return };
    let cfgloc = format!("Pg:dbname=xcatdb;host=127.0.0.5;port={}|xcatadm|{PASSWORD}", server.port);
    let brought = brought(&cfgloc);
    let captured = "local all postgres peer\nhost all all 127.0.0.1/32 ident\n# a word\nhost    all   all  10.20.0.9/32   md5\n\
                    host replication all 10.20.0.8/32 md5\n";
    let folder = brought.stage().join("var/lib/pgsql/data");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("pg_hba.conf"), captured).unwrap();
    fs::write(
        folder.join("postgresql.conf"),
        "listen_addresses = 'localhost' # old\nlisten_addresses = 'localhost,127.0.0.6'\n",
    )
    .unwrap();
    let target = Target { programs: &server, ..Target::new(&node, &brought) };

    let examined = target.examine();
    assert!(examined.refusals.is_empty() && !examined.is_external && examined.is_schema_known, "{examined:?}");
    assert!(
        examined.engine_changes.iter().any(|words| words.contains("localhost, 127.0.0.6, 127.0.0.5")),
        "{examined:?}"
    );
    let asks = |words: &String| words.starts_with("runuser");
    assert!(server.log().iter().all(asks) && !node.tables().join("cfgloc").exists(), "nothing is touched by looking");
    assert!(target.load().is_err());

    target.prepare().unwrap();
    let log = server.log();
    let order: Vec<_> = log.iter().filter(|words| !words.starts_with("runuser")).map(String::as_str).collect();
    let expected = [
        "postgresql-setup --initdb",
        "systemctl start postgresql",
        "systemctl enable postgresql",
        "systemctl restart postgresql",
    ];
    assert_eq!(order, expected);
    is_discreet(&server, &node);
    let rules = node.root().join("var/lib/pgsql/data/pg_hba.conf");
    let (text, meta) = (fs::read_to_string(&rules).unwrap(), fs::metadata(&rules).unwrap());
    assert!(text.starts_with("# xsnap: begin") && text.contains("\nhost    all   all  10.20.0.9/32   md5\n"), "{text}");
    assert!(!text.contains("10.20.0.8") && text.contains("local   all             all"), "{text}");
    assert!(
        meta.permissions().mode() & 0o7777 == 0o600
            && server.say("SHOW listen_addresses").ends_with(",127.0.0.6,127.0.0.5")
    );

    let loaded = target.load().unwrap();
    assert_eq!((loaded.tables.len(), loaded.kept.len(), loaded.notes.len()), (73, 0, 0), "{loaded:?}");
    assert_eq!(target.compare(), []);
    let staging = node.staging();
    target.ask(|request| xsnap::import::load::compare(request, &staging, &Told::default()).unwrap());
    for name in names(&staging.join("xcatdb")) {
        let again = fs::read(staging.join("xcatdb").join(&name)).unwrap();
        assert!(again == fs::read(brought.stage().join(".xsnap/xcatdb").join(&name)).unwrap(), "{name}");
    }
    assert_eq!(server.say("SELECT count(*) FROM switch WHERE port = '' AND node IN ('cn9', 'cn014')"), "2");
    let next = "INSERT INTO auditlog (audittime) VALUES ('now') RETURNING recid";
    assert_eq!(server.say(next), "42");
    server.say("DELETE FROM auditlog WHERE audittime = 'now'");
    assert_eq!(server.say("SELECT count(*) FROM pg_tables WHERE tablename = 'xsnap_import'"), "0");

    // Once more, as an import that was killed would, and over tables of a server that has its own.
    target.prepare().unwrap();
    assert_eq!(fs::read_to_string(&rules).unwrap(), text, "nothing is there twice");
    server.say("CREATE TABLE x_own (node text); INSERT INTO x_own VALUES ('n'); ALTER TABLE x_own OWNER TO xcatadm");
    let loaded = target.load().unwrap();
    assert!(loaded.kept.len() == 1 && loaded.kept[0].table == "x_own", "{loaded:?}");
    assert_eq!((server.say("SELECT node FROM x_own"), target.compare()), ("n".into(), vec![]));
    server.say("DROP TABLE x_own");
    is_safe(&server, &target);

    // An import that was killed once xcatd had made its tables in the new database.
    server
        .say("CREATE TABLE xsnap_import (made text); ALTER TABLE xsnap_import OWNER TO xcatadm; DELETE FROM nodetype");
    assert_eq!(target.refused(), [""; 0]);
    target.load().unwrap();
    assert_eq!(target.compare(), []);
}

#[test]
fn mariadb_is_made_ready_on_a_bare_machine_and_holds_every_value() {
    let node = bare();
    node.write("etc/my.cnf", "[mysqld]\nbind-address = 127.0.0.1\n");
    let Some(server) = OwnServer::installed(Kind::Mariadb, &node) else { return };
    let cfgloc = format!("mysql:dbname=xcatdb;host=127.0.0.5;port={}|xcatadmin|{PASSWORD}", server.port);
    let brought = brought(&cfgloc);
    let target = Target { programs: &server, ..Target::new(&node, &brought) };
    assert_eq!(target.refused(), [""; 0]);

    target.prepare().unwrap();
    let log = server.log();
    let order: Vec<_> = log.iter().filter(|words| words.starts_with("systemctl")).map(String::as_str).collect();
    assert_eq!(order, ["systemctl start mariadb", "systemctl enable mariadb", "systemctl restart mariadb"]);
    is_discreet(&server, &node);
    assert_eq!(
        fs::read_to_string(node.root().join("etc/my.cnf")).unwrap(),
        "[mysqld]\n#xsnap: bind-address = 127.0.0.1\n"
    );

    let loaded = target.load().unwrap();
    assert_eq!((loaded.tables.len(), loaded.kept.len(), loaded.notes.len()), (73, 0, 0), "{loaded:?}");
    assert_eq!(target.compare(), []);
    assert_eq!(server.say("SELECT count(*) FROM switch WHERE port = '' AND node IN ('cn9', 'cn014')"), "2");
    server.say("INSERT INTO auditlog (audittime) VALUES ('now')");
    assert_eq!(server.say("SELECT recid FROM auditlog WHERE audittime = 'now'"), "42");
    server.say("DELETE FROM auditlog WHERE audittime = 'now'");
    assert_eq!(server.say("SHOW TABLES LIKE 'xsnap_import'"), "");
    target.prepare().unwrap();
    is_safe(&server, &target);
}

#[test]
fn service_nodes_are_let_in_by_what_the_tables_say_where_no_rules_were_captured() {
    let node = bare();
    let brought = brought("Pg:dbname=xcatdb;host=10.20.0.1|xcatadm|sesame");
    let write = |table: &str, text: &str| {
        fs::write(brought.csv(table), text).unwrap();
    };
    write("servicenode", "#node,nameserver\n\"service\",\"1\"\n\"sn9\",\"1\"\n");
    write("nodelist", "#node,groups\n\"sn1\",\"all,service\"\n\"sn2\",\"service\"\n\"sn9\",\"all\"\n\"cn1\",\"all\"\n");
    write("hosts", "#node,ip\n\"sn1\",\"10.20.1.1\"\n\"sn2\",\"|\\D+(\\d+)|10.20.1.($1)|\"\n");
    fs::create_dir_all(brought.stage().join("etc")).unwrap();
    fs::write(brought.stage().join("etc/hosts"), "127.0.0.1 localhost\n10.20.1.2 sn2.cluster sn2 # made\n").unwrap();
    let mut manifest = brought.manifest.clone();
    manifest.database.tables.retain(|table| !["servicenode", "nodelist", "hosts"].contains(&table.name.as_str()));
    let changes = Target::new(&node, &brought).ask(|request| {
        let request = LoadRequest { manifest: &manifest, ..*request };
        xsnap::import::load::examine(&request).unwrap().engine_changes
    });
    assert!(changes.iter().any(|words| words.starts_with("2 addresses of service nodes")), "{changes:?}");
    assert!(changes.iter().any(|words| words.ends_with("not let in: sn9")), "{changes:?}");
}

#[test]
fn a_database_that_is_not_this_machines_is_never_touched_because_cfgloc_names_it() {
    let node = bare();
    for cfgloc in [
        "Pg:dbname=xcatdb;host=192.0.2.7;port=1|xcatadm|sesame",
        "mysql:dbname=xcatdb;host=db1.example.com;port=1|u|sesame",
    ] {
        let brought = brought(cfgloc);
        let target = Target::new(&node, &brought);
        let examined = target.examine();
        assert!(examined.is_external && examined.refusals.len() == 1, "{examined:?}");
        assert!(examined.refusals[0].way_on.contains("--database-host"), "{examined:?}");
        assert!(target.prepare().is_err() && target.load().is_err() && !node.tables().join("cfgloc").exists());
        // Where it is named, it is asked; nobody answers there.
        let named = Target { change: &|request| request.database_host = Some("127.0.0.7"), ..target };
        let refused = named.refused();
        assert!(
            !named.examine().is_external && refused.len() == 1 && refused[0].contains("no such server"),
            "{refused:?}"
        );
    }
    // The captured node's own address and name are this machine's.
    for host in ["10.20.0.1", "localhost", "mn1", "MN1.cluster"] {
        let mut brought = brought(&format!("Pg:dbname=xcatdb;host={host};port=1|xcatadm|sesame"));
        brought.manifest.machine.host_name = b"mn1.cluster".as_slice().into();
        let examined = Target::new(&node, &brought).examine();
        assert!(!examined.is_external, "{host}: {examined:?}");
    }
}

#[test]
fn where_xsnap_cannot_get_in_xcats_own_command_is_the_last_resort() {
    let node = bare();
    let brought = brought("Pg:dbname=xcatdb;host=127.0.0.1;port=1|xcatadm|sesame");
    let calls = node.root().join("calls");
    let programs = Scripted { calls: calls.clone(), fails_at: "site.csv" };
    let target = Target { programs: &programs, ..Target::new(&node, &brought) };
    let why = target.load().unwrap_err();
    assert!(why.to_string().starts_with("cannot get into PostgreSQL xcatdb at 127.0.0.1") && !calls.exists(), "{why}");
    let last = Target { change: &|request| request.last_resort = true, ..target };
    let why = last.load().unwrap_err();
    let why = std::error::Error::source(&why).unwrap().to_string();
    assert!(why.contains("table site: tabrestore: exit code 4: no such row"), "{why}");
    let good = Scripted { calls: calls.clone(), fails_at: "none" };
    let loaded = Target { programs: &good, ..last }.load().unwrap();
    assert_eq!(loaded.tables.len(), 73);
    assert!(
        loaded.notes.iter().any(|note| note.starts_with("table site: row odd0, column value: a blank line")),
        "{loaded:?}"
    );
    let calls = fs::read_to_string(calls).unwrap();
    assert!(calls.lines().all(|line| line.starts_with("XCATBYPASS=1 /opt/xcat/sbin/tabrestore /")), "{calls}");
    // A header that this xCAT does not know never gets there: tabrestore would leave the table empty.
    node.write("opt/xcat/lib/perl/xCAT/Schema.pm", &schema().replace(" environvar", ""));
    assert!(Target { programs: &good, ..last }.load().unwrap_err().to_string().contains("no column environvar"));
}

/// Programs that keep what they were called with, of which one fails.
#[derive(Debug)]
struct Scripted {
    calls: std::path::PathBuf,
    fails_at: &'static str,
}

impl xsnap::mn::host::Programs for Scripted {
    fn run(&self, order: xsnap::mn::host::Order) -> std::io::Result<xsnap::mn::host::Outcome> {
        let mut words: Vec<_> =
            order.environment.iter().map(|(k, v)| format!("{}={}", k.display(), v.display())).collect();
        words.push(order.program.display().to_string());
        words.extend(order.arguments.iter().map(|word| word.display().to_string()));
        let mut calls = fs::read_to_string(&self.calls).unwrap_or_default();
        calls.push_str(&format!("{}\n", words.join(" ")));
        fs::write(&self.calls, calls).unwrap();
        let fails = words.concat().ends_with(self.fails_at);
        let complaints = if fails { b"no such row\n".to_vec() } else { Vec::new() };
        Ok(xsnap::mn::host::Outcome { code: Some(if fails { 4 } else { 0 }), complaints, ..Default::default() })
    }
}
