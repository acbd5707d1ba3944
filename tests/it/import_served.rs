//! Another machine becomes a captured node whose tables are in a database server, and is taken back: by the real binary, with
//! real PostgreSQL and MariaDB on both machines.

use crate::support::{
    bare::Bare,
    inner::Inner,
    own_server::Kind,
    roots::rpm_root,
    served::{LOGS, Served, node, other},
    servers::PASSWORD,
    standin::{Manager, tables},
};
use rusqlite::Connection;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
};

const REPO: [&str; 2] = ["--repo", "/media/usb"];

fn words<'w>(more: &[&'w str]) -> Vec<&'w str> {
    REPO.iter().copied().chain(more.iter().copied()).collect()
}

#[test]
fn a_debian_becomes_the_node_whose_tables_are_in_postgresql_and_is_taken_back() {
    becomes(Manager::Dpkg, Kind::Postgres);
}

#[test]
fn an_rpm_machine_becomes_the_node_whose_tables_are_in_mariadb_and_is_taken_back() {
    becomes(Manager::Rpm, Kind::Mariadb);
}

#[test]
fn a_debian_becomes_the_node_whose_tables_are_in_mariadb_and_is_taken_back() {
    becomes(Manager::Dpkg, Kind::Mariadb);
}

#[test]
fn an_rpm_machine_becomes_the_node_whose_tables_are_in_postgresql_and_is_taken_back() {
    becomes(Manager::Rpm, Kind::Postgres);
}

fn becomes(manager: Manager, kind: Kind) {
    let Some((captured, usb)) = node(manager, kind) else { return };
    let wanted = captured.rows();
    assert!(wanted.len() == tables().len() - LOGS.len() && wanted.values().all(|rows| !rows.is_empty()), "{wanted:?}");
    captured.bare.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    let cfgloc = captured.bare.text("/etc/xcat/cfgloc");
    drop(captured);
    let served = other(manager, kind, usb.path()).unwrap();
    // What the server holds is only seen where it runs.
    let runs = manager == Manager::Dpkg;
    let before = (served.unit_state(), runs.then(|| served.content()));
    let ran = served.bare.xsnap(&words(&["import", "latest", "--json"])).expect(0);
    assert_eq!(ran.message("import")["holds"], true);
    is_that_node(&served, kind, &cfgloc);
    are_equal(&served.rows(), &wanted);
    does_nothing_again(&served);
    are_equal(&served.rows(), &wanted);

    served.bare.xsnap(&["import", "--undo"]).expect(0);
    assert_eq!(served.unit_state(), before.0);
    if !runs {
        served.bare.sh(&format!("systemctl start {}", served.unit()));
    }
    let after = served.content();
    assert!(!after.contains("xcat") && !after.contains("xsnap"), "{after}");
    before.1.into_iter().for_each(|before| assert_eq!(after, before));
    served.bare.xsnap(&["import", "--undo"]).expect(0);

    is_brought_back(&served, &wanted);
}

type Rows = BTreeMap<String, Vec<String>>;

fn are_equal(rows: &Rows, wanted: &Rows) {
    assert!(rows.keys().eq(wanted.keys()), "{:?} {:?}", rows.keys(), wanted.keys());
    wanted.iter().for_each(|(table, wanted)| assert_eq!(&rows[table], wanted, "{table}"));
}

fn is_that_node(served: &Served, kind: Kind, cfgloc: &str) {
    assert_eq!(served.bare.text("/etc/xcat/cfgloc"), cfgloc);
    assert_eq!(served.unit_state(), "enabled\nactive\n");
    assert!(served.lets_in(PASSWORD) && !served.lets_in("other"));
    if kind == Kind::Postgres {
        let rules = served.bare.text(&format!("{}/pg_hba.conf", served.config()));
        assert!(rules.contains("\nhost    all   all   10.99.0.9/32   md5\n"), "{rules}");
        assert_eq!(served.say("xcatdb", "SHOW listen_addresses"), "localhost,10.99.0.1\n");
        assert_eq!(
            served.say("xcatdb", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'xcatdb'"),
            "xcatadm\n"
        );
    } else {
        // The service node gets in too.
        let grants = served.say("mysql", "SHOW GRANTS FOR xcatadm@'10.99.0.9'");
        assert!(grants.contains("ON `xcatdb`.*"), "{grants}");
    }
}

fn does_nothing_again(served: &Served) {
    let touched = || served.bare.calls().iter().filter(|call| call.ends_with(served.unit())).count();
    let before = touched();
    let again = served.bare.xsnap(&words(&["import", "latest"])).expect(0).text();
    assert!(again.contains("engine: done before") && again.contains("database: done before"), "{again}");
    assert_eq!(touched(), before);
}

/// A machine whose server has a database of that name, of somebody else's.
fn is_brought_back(served: &Served, wanted: &Rows) {
    served.bare.sh(&format!("systemctl start {}", served.unit()));
    served.somebodys();
    let (content, unit) = (served.content(), served.unit_state());
    let refused = served.bare.xsnap(&words(&["import", "latest"])).expect(2);
    assert!((refused.text() + &refused.complaint()).contains("its tables are not empty"));
    assert_eq!((served.content(), served.unit_state()), (content.clone(), unit.clone()));

    served.bare.xsnap(&words(&["import", "latest", "--replace-database"])).expect(0);
    let mut rows = served.rows();
    assert_eq!(rows.remove("x_own"), Some(vec!["n1".to_owned()]));
    are_equal(&rows, wanted);
    assert!(served.lets_in(PASSWORD));

    // Killed before the tables are back, once they are, and once they are no longer kept.
    for (call, file) in [("openat", "database.sql"), ("unlink", "database.json"), ("unlink", "database.sql")] {
        let path = format!("/var/lib/xsnap/undo/{file}");
        let ran = served.bare.xsnap_until((call, 1, &path), &["import", "--undo"]);
        assert_eq!(ran.code, -1, "not killed at {call} of {file}: {}\n{}", ran.text(), ran.complaint());
    }
    served.bare.xsnap(&["import", "--undo"]).expect(0);
    assert_eq!(served.content(), content);
    assert_eq!(served.unit_state(), unit);
    assert!(
        !served.bare.at("/etc/xcat/cfgloc").exists() && !served.bare.at("/var/lib/xsnap/undo/database.sql").exists()
    );
}

#[test]
fn a_node_with_tables_in_files_that_was_replaced_is_brought_back() {
    let Some(root) = rpm_root() else { return };
    let captured = Inner::new(root);
    captured.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    let bare = Bare::like(&captured);
    fs::create_dir_all(bare.at("/etc/xcat")).unwrap();
    for (table, columns, row) in [
        ("site", "key, value", "'master', '10.1.1.1'"),
        ("nodelist", "node, groups", "'old1', 'all'"),
        ("x_own", "node, own", "'old1', 'a user''s'"),
    ] {
        let db = Connection::open(bare.at(&format!("/etc/xcat/{table}.sqlite"))).unwrap();
        let text = format!("CREATE TABLE {table} ({columns}); INSERT INTO {table} VALUES ({row})");
        db.execute_batch(&text).unwrap();
    }
    let files = || {
        let entries = fs::read_dir(bare.at("/etc/xcat")).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.path().is_file());
        let told = files.map(|entry| {
            let meta = entry.metadata().unwrap();
            (entry.file_name(), meta.mode(), meta.mtime(), fs::read(entry.path()).unwrap())
        });
        told.collect::<BTreeSet<_>>()
    };
    let before = files();
    assert_eq!(before.len(), 3);
    bare.xsnap(&words(&["import", "latest"])).expect(2);
    assert!(files() == before);
    bare.xsnap(&words(&["import", "latest", "--replace"])).expect(0);
    let db = Connection::open(bare.at("/etc/xcat/nodelist.sqlite")).unwrap();
    let node: String = db.query_row("SELECT min(node) FROM nodelist", [], |row| row.get(0)).unwrap();
    drop(db);
    assert_eq!(node, "cn1");
    bare.xsnap(&["import", "--undo"]).expect(0);
    let after = files();
    // Tables that the packages have made stay, as their other files do.
    let lost: Vec<_> = before.difference(&after).map(|(name, ..)| name).collect();
    assert!(lost.is_empty(), "{lost:?}");
}
