//! Tables in real database servers: every one of one state, and what a server refuses is named.

use crate::support::{
    servers::{PASSWORD, Server, sample},
    xcat::{Node, csv, data, problems, staged},
};
use std::{fs, thread, time::Duration};
use xsnap::mn::{database::Dump, tables::Table};

/// Every table is dumped, and none of the words that are told holds the password.
#[track_caller]
fn is_whole(dump: &Dump) {
    assert_eq!(problems(dump), [""; 0]);
    let tables: Vec<_> = dump.proofs.iter().map(|proof| proof.table.clone()).collect();
    assert_eq!(tables, sample().iter().map(|table| table.name.clone()).collect::<Vec<_>>());
    assert!(!format!("{dump:?}").contains(PASSWORD) && !format!("{}", dump.engine).contains("sesame"));
}

/// A node whose database is a server.
fn node(cfgloc: &str) -> Node {
    let node = Node::sample();
    let described: Vec<_> = sample().iter().map(|t| (t.name.clone(), t.columns.join(" "))).collect();
    let described: Vec<_> = described.iter().map(|(name, columns)| (name.as_str(), columns.as_str())).collect();
    node.describe(&described);
    node.write("etc/xcat/cfgloc", cfgloc);
    node
}

fn table(name: &str, columns: &[&str], rows: &[&[&str]]) -> Table {
    let cell = |value: &&str| Some(value.as_bytes().into());
    let rows = rows.iter().map(|row| row.iter().map(cell).collect()).collect();
    Table { name: name.into(), columns: columns.iter().map(|c| (*c).to_owned()).collect(), rows }
}

/// Values that are hard to carry, in a table of a user's own.
fn odd() -> Table {
    let odd = ["tab\tline\nquote\"back\\slash\\N\\.", "é – \u{1f600}\r", "it's, ", " blank "];
    table("x_odd", &["node", "a", "b", "c"], &[&odd, &["n", "\\N", "\\", "\u{8}\u{c}\u{b}"]])
}

#[test]
fn postgresql_gives_every_table_as_xcat_would_dump_it() {
    let Some(server) = Server::postgres() else { return };
    let as_xcat = |words: &str| server.tell(&format!("SET SESSION AUTHORIZATION xcatadm; {words}"));
    server.tell("GRANT ALL ON SCHEMA public TO xcatadm;");
    server.fill(&sample(), '"', "SERIAL");
    server.tell(
        "GRANT ALL ON ALL TABLES IN SCHEMA public TO xcatadm; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO xcatadm;",
    );
    let node = node(&format!("Pg:dbname=xcatdb;host={}|xcatadm|{PASSWORD}", server.folder()));

    let dump = node.dump(true, true);
    is_whole(&dump);
    assert!(
        dump.version.as_deref().is_some_and(|version| version.as_bytes()[0].is_ascii_digit()),
        "{:?}",
        dump.version
    );
    for table in sample() {
        let xcats = fs::read(data().join(format!("dump/{}.csv", table.name))).unwrap();
        assert!(csv(&dump, &table.name).unwrap() == xcats, "{}", table.name);
    }
    assert!(staged(&dump, "/.xsnap/database/xcatdb.pgdump").unwrap().starts_with(b"PGDMP"));

    // Logs are left out until they are asked for, and odd values go through.
    server.fill(&[odd()], '"', "SERIAL");
    server.tell("GRANT ALL ON x_odd TO xcatadm");
    let dump = node.dump(true, false);
    assert_eq!(problems(&dump), [""; 0]);
    assert_eq!(dump.left_out, ["auditlog", "eventlog"]);
    assert!(csv(&dump, "auditlog").is_none());
    assert_eq!(dump.tables.get("x_odd").unwrap(), &odd());

    // What is written while the tables are read is in none of them.
    as_xcat(
        "CREATE TABLE aa_turn (n INTEGER); CREATE TABLE zz_turn (n INTEGER); INSERT INTO aa_turn VALUES (0); INSERT INTO zz_turn VALUES (0);",
    );
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let turn = |n| format!("BEGIN; UPDATE aa_turn SET n = {n}; UPDATE zz_turn SET n = {n}; COMMIT;\n");
            as_xcat(&(1..4000).map(turn).collect::<String>());
        });
        while !writer.is_finished() {
            let dump = node.dump(true, false);
            let turn = |name: &str| dump.tables.get(name).unwrap().value(0, "n").map(<[u8]>::to_vec);
            assert_eq!(turn("aa_turn"), turn("zz_turn"));
        }
        writer.join().unwrap();
    });

    // A table that is missing, and one that xCAT's role may not read, are named; all others are there.
    server.tell("DROP TABLE switch; REVOKE ALL ON policy FROM xcatadm;");
    let dump = node.dump(true, true);
    let told = problems(&dump);
    assert!(
        told.iter()
            .any(|words| words.contains("read /.xsnap/xcatdb/policy.csv") && words.contains("permission denied")),
        "{told:?}"
    );
    assert!(told.iter().any(|words| words.contains("the table switch is missing")), "{told:?}");
    assert!(told.iter().any(|words| words.contains("pg_dump has made no dump")), "{told:?}");
    assert_eq!((told.len(), dump.proofs.len()), (3, 71 + 3));
    assert!(csv(&dump, "policy").is_none() && staged(&dump, "/.xsnap/database/xcatdb.pgdump").is_none());

    node.write("etc/xcat/cfgloc", &format!("Pg:dbname=xcatdb;host={}|xcatadm|wrong-sesame", server.folder()));
    is_refused(&node.dump(true, true), "password authentication failed");
    drop(server);
    is_refused(&node.dump(true, true), "");
}

#[track_caller]
fn is_refused(dump: &Dump, why: &str) {
    let told = problems(dump);
    assert!(dump.unproved && told.len() == 1 && told[0].contains("xcatadm") && told[0].contains(why), "{told:?}");
    assert!(!told[0].contains("sesame") && dump.proofs.is_empty());
}

#[test]
fn mariadb_gives_every_table_as_xcat_would_dump_it() {
    let Some(server) = Server::mariadb() else { return };
    server.fill(&sample(), '`', "INTEGER AUTO_INCREMENT");
    let node = node(&format!("mysql:dbname=xcatdb;mysql_socket={}/sock|xcatadm|{PASSWORD}", server.folder()));

    let dump = node.dump(true, true);
    is_whole(&dump);
    assert!(dump.version.as_deref().is_some_and(|version| version.contains("MariaDB")), "{:?}", dump.version);
    for table in sample() {
        let proof = dump.proofs.iter().find(|proof| proof.table == table.name).unwrap();
        assert_eq!((proof.rows, &proof.digest), (table.rows.len() as u64, &table.digest()), "{}", table.name);
    }
    let xcats = fs::read(data().join("dump/nodelist.csv")).unwrap();
    assert!(csv(&dump, "nodelist").unwrap() == xcats);
    let sql = String::from_utf8(staged(&dump, "/.xsnap/database/xcatdb.sql").unwrap()).unwrap();
    assert!(sql.contains("CREATE TABLE `nodelist`") && sql.contains("-- Dump completed"), "{sql}");

    server.fill(&[odd()], '`', "INTEGER AUTO_INCREMENT");
    let (one, other) = (node.dump(true, false), node.dump(true, false));
    assert_eq!((problems(&one).len(), one.left_out.len()), (0, 2), "{:?}", problems(&one));
    assert_eq!(one.tables.get("x_odd").unwrap(), &odd());
    let archive = "/.xsnap/database/xcatdb.sql";
    assert!(staged(&one, archive) == staged(&other, archive), "an unchanged database is an unchanged file");
    assert!(!String::from_utf8(staged(&one, archive).unwrap()).unwrap().contains("auditlog"));

    server.tell("CREATE TABLE aa_turn (n INTEGER); CREATE TABLE zz_turn (n INTEGER); INSERT INTO aa_turn VALUES (0); INSERT INTO zz_turn VALUES (0);");
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let turn = |n| format!("BEGIN; UPDATE aa_turn SET n = {n}; UPDATE zz_turn SET n = {n}; COMMIT;\n");
            server.tell(&(1..4000).map(turn).collect::<String>());
        });
        while !writer.is_finished() {
            let dump = node.dump(true, false);
            let turn = |name: &str| dump.tables.get(name).unwrap().value(0, "n").map(<[u8]>::to_vec);
            assert_eq!(turn("aa_turn"), turn("zz_turn"));
        }
        writer.join().unwrap();
    });

    server.tell("DROP TABLE switch;");
    let told = problems(&node.dump(true, true));
    assert!(told.len() == 1 && told[0].contains("the table switch is missing"), "{told:?}");

    node.write(
        "etc/xcat/cfgloc",
        &format!("mysql:dbname=xcatdb;mysql_socket={}/sock|xcatadm|wrong-sesame", server.folder()),
    );
    is_refused(&node.dump(true, true), "Access denied");
    drop(server);
    is_refused(&node.dump(true, true), "");
}

#[test]
fn of_a_machine_that_does_not_run_the_servers_data_is_captured_as_it_is() {
    let node = node("Pg:dbname=xcatdb;host=10.0.0.1|xcatadm|sesame");
    is_refused(&node.dump(false, true), "no data directory");
    node.write("var/lib/pgsql/data/PG_VERSION", "13\n");
    let dump = node.dump(false, true);
    assert_eq!((dump.raw.clone(), dump.version.as_deref()), (vec![b"/var/lib/pgsql/data".to_vec()], Some("13")));
    assert!(
        dump.unproved && problems(&dump)[0].contains("PostgreSQL 13 is captured as it is"),
        "{:?}",
        problems(&dump)
    );
    node.write("etc/xcat/cfgloc", "mysql:dbname=xcatdb;host=10.0.0.1|xcatadm|sesame");
    node.write("var/lib/mysql/mysql_upgrade_info", "10.5.22-MariaDB");
    let dump = node.dump(false, true);
    assert_eq!(
        (dump.raw.clone(), dump.version.as_deref()),
        (vec![b"/var/lib/mysql".to_vec()], Some("10.5.22-MariaDB"))
    );
}

#[test]
fn a_server_that_is_not_there_does_not_hold_the_capture_up() {
    let node = node("Pg:dbname=xcatdb;host=127.0.0.1;port=1|xcatadm|sesame");
    let began = std::time::Instant::now();
    is_refused(&node.dump(true, true), "");
    node.write("etc/xcat/cfgloc", "mysql:dbname=xcatdb;host=127.0.0.1;port=1|xcatadm|sesame");
    is_refused(&node.dump(true, true), "");
    assert!(began.elapsed() < Duration::from_secs(10));
}
