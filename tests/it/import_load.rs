//! The tables of a captured node as files: put in place whole, or refused, whatever they hold and whenever it is cut short.

use crate::support::{
    brought::{Brought, ODD, StopAt, Target, make_odd},
    xcat::{Node, Told, csv, data, names, problems},
};
use rusqlite::Connection;
use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
    process::Command,
};
use xsnap::error::Error;

/// The node that is captured.
fn captured() -> (Node, Brought) {
    let node = Node::sample();
    make_odd(&node);
    let dump = node.dump(true, true);
    assert_eq!(problems(&dump), [""; 0]);
    let brought = Brought::of(&node, &dump);
    (node, brought)
}

/// A machine on which xCAT was just installed: its own rows in its tables, and one table that the captured node lacks.
fn fresh() -> Node {
    let node = Node::sample();
    for table in ["site", "nodelist", "policy", "switch"] {
        node.open(table).execute_batch(&format!("DELETE FROM {table}")).unwrap();
    }
    node.open("site").execute_batch("INSERT INTO site (key, value) VALUES ('master', '10.9.9.9');").unwrap();
    let newer = Connection::open(node.table("newer")).unwrap();
    newer.execute_batch("CREATE TABLE newer (node TEXT); INSERT INTO newer VALUES ('n');").unwrap();
    node
}

/// Every table of one node is in the other, byte for byte as xCAT would dump it.
#[track_caller]
fn are_equal(one: &Node, other: &Node) {
    let (one, other) = (one.dump(true, true), other.dump(true, true));
    assert_eq!(problems(&other), [""; 0]);
    for proof in &one.proofs {
        assert!(csv(&one, &proof.table).unwrap() == csv(&other, &proof.table).unwrap(), "{}", proof.table);
    }
}

fn kept(loaded: &xsnap::import::load::Loaded) -> Vec<&str> {
    loaded.kept.iter().map(|word| word.table.as_str()).collect()
}

/// Everything below a folder: names, modes and bytes.
fn told(path: &Path) -> Vec<(String, u32, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(path).sort_by_file_name().into_iter().map(Result::unwrap);
    let told = entries.map(|entry| {
        let meta = entry.metadata().unwrap();
        let bytes = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        (entry.path().display().to_string(), meta.mode(), bytes)
    });
    told.collect()
}

/// Leaves a table as a program does that is killed within a transaction when part of it is in the file already.
fn cut_short(node: &Node, table: &str) {
    let (file, journal) = (node.table(table), node.tables().join(format!("{table}.sqlite-journal")));
    let db = Connection::open(&file).unwrap();
    db.execute_batch("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN;").unwrap();
    db.execute(&format!("UPDATE {table} SET comments = hex(randomblob(500))"), []).unwrap();
    let (half, hot) = (fs::read(&file).unwrap(), fs::read(&journal).unwrap());
    assert!(hot.len() > 512, "the journal must be hot");
    drop(db);
    fs::write(file, half).unwrap();
    fs::write(journal, hot).unwrap();
}

#[test]
fn table_files_come_back_with_every_byte_over_whatever_is_there() {
    let ((node, brought), other) = (captured(), fresh());
    let before = told(&other.root());
    let target = Target::new(&other, &brought);
    let examined = target.examine();
    assert!(examined.refusals.is_empty() && !examined.is_external, "{examined:?}");
    assert!(examined.table_changes[0].starts_with("73 table files of /etc/xcat"), "{examined:?}");
    assert!(told(&other.root()) == before, "nothing is changed by looking");
    assert!(!target.compare().is_empty());

    // What the old files would do to the new ones: journals that are rolled back, a log that is taken in.
    fs::set_permissions(other.table("nodetype"), fs::Permissions::from_mode(0o644)).unwrap();
    cut_short(&other, "nodetype");
    let log = other.open("mac");
    log.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO mac (node) VALUES ('of the old one');").unwrap();
    let wal = fs::read(other.tables().join("mac.sqlite-wal")).unwrap();
    drop(log);
    fs::write(other.tables().join("mac.sqlite-wal"), wal).unwrap();
    fs::write(other.tables().join("cfgloc"), "SQLite:/nowhere").unwrap();

    target.prepare().unwrap();
    let loaded = target.load().unwrap();
    assert_eq!((loaded.tables.len(), kept(&loaded), loaded.notes.len()), (73, vec!["newer"], 0));
    for name in names(&data().join("sqlite")) {
        let (from, to) = (brought.stage().join("etc/xcat").join(&name), other.tables().join(&name));
        assert!(fs::read(from).unwrap() == fs::read(&to).unwrap(), "{name}");
        let meta = fs::metadata(to).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid()), (0o600, rustix::process::geteuid().as_raw()), "{name}");
    }
    let left = names(&other.tables());
    assert!(left.len() == 74 && left.iter().all(|name| name.ends_with(".sqlite")), "{left:?}");
    assert_eq!(target.compare(), []);
    are_equal(&node, &other);
    let odd: i64 =
        other.open("site").query_row("SELECT count(*) FROM site WHERE key LIKE 'odd%'", [], |row| row.get(0)).unwrap();
    assert_eq!(odd, ODD.len() as i64);
    let rows: Vec<String> = {
        let db = other.open("site");
        let mut all =
            db.prepare("SELECT quote(value) FROM site WHERE key IN ('empty', 'feed', 'null') ORDER BY key").unwrap();
        all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(rows, ["''", "'\n'", "NULL"], "what a dump cannot tell apart is as it was");

    // Once more, for an import that was killed goes on.
    let again = target.load().unwrap();
    assert_eq!(again, loaded);
    assert_eq!(target.compare(), []);
}

#[test]
fn a_cfgloc_comes_back_readable_by_its_owner_only() {
    let node = Node::sample();
    node.write("etc/xcat/cfgloc", "SQLite:/etc/xcat\n");
    let brought = Brought::of(&node, &node.dump(true, false));
    let other = fresh();
    let loaded = Target::new(&other, &brought).load().unwrap();
    assert_eq!(kept(&loaded), ["auditlog", "eventlog", "newer"]);
    assert!(loaded.kept[0].why.contains("leave it out"), "{loaded:?}");
    let cfgloc = other.tables().join("cfgloc");
    assert_eq!(fs::read(&cfgloc).unwrap(), b"SQLite:/etc/xcat\n");
    assert_eq!(fs::metadata(cfgloc).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(Target::new(&other, &brought).compare(), []);
}

#[test]
fn a_load_that_is_cut_short_leaves_whole_tables_and_is_gone_on_with() {
    let ((node, brought), other) = (captured(), fresh());
    let target = Target::new(&other, &brought);
    let before = told(&other.root());
    let stopped = target.load_told(&StopAt(40, Told::default()));
    assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
    assert!(told(&other.root()) == before, "until all new files are written, none is replaced");

    // Somebody holds a table in the middle: those before it are new, those after it old, and all are whole.
    let holder = other.open("nodelist");
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    fs::write(other.tables().join(".xsnap-new-left.sqlite"), b"left by a try that was killed").unwrap();
    let refused = target.load().unwrap_err();
    assert!(matches!(&refused, Error::File { source, .. } if source.to_string().contains("xcatd")), "{refused:?}");
    assert!(names(&other.tables()).iter().all(|name| name.ends_with(".sqlite") && !name.starts_with('.')));
    let file = |node: &Path, name: &str| fs::read(node.join("etc/xcat").join(format!("{name}.sqlite"))).unwrap();
    assert!(file(&other.root(), "mac") == file(brought.stage(), "mac"));
    assert!(file(&other.root(), "site") != file(brought.stage(), "site"));
    drop(holder);
    assert_eq!(problems(&other.dump(true, true)), [""; 0]);
    let differing: Vec<_> = target.compare().into_iter().map(|difference| difference.table).collect();
    assert!(differing.contains(&"site".to_owned()) && !differing.contains(&"mac".to_owned()), "{differing:?}");

    target.load().unwrap();
    assert_eq!(target.compare(), []);
    are_equal(&node, &other);
}

#[test]
fn what_this_xcat_could_not_hold_is_refused_and_nothing_is_touched() {
    let (node, mut brought) = captured();
    let other = fresh();
    let columns = |table: &str| {
        let csv = fs::read_to_string(brought.csv(table)).unwrap();
        csv.lines().next().unwrap().trim_start_matches('#').replace(',', " ")
    };
    let (site, image) = (columns("site"), columns("osimage"));
    let older = image.replace(" environvar", "");
    assert_ne!(image, older);
    other.describe(&[("site", &site), ("osimage", &older)]);
    let version = |number: &str| {
        let text = format!("sub Version {{ return 'Version {number} (git commit abc, built today)'; }}\n");
        other.write("opt/xcat/lib/perl/xCAT/Version.pm", &text);
    };
    version("2.16.5");
    let before = told(&other.root());
    {
        let target = Target::new(&other, &brought);
        let told_of = target.refused();
        assert_eq!(told_of.len(), 2, "{told_of:?}");
        assert!(told_of[0].contains("xCAT 2.16.5") && told_of[0].contains("2.17.0, which is newer"), "{told_of:?}");
        assert!(told_of[1].starts_with("table osimage") && told_of[1].contains("no column environvar"), "{told_of:?}");
        assert!(target.load().unwrap_err().to_string().contains("The way on: install the xCAT of the snapshot"));
        assert!(told(&other.root()) == before);
    }

    // A newer xCAT with more columns takes all of it.
    version("2.19.0");
    other.describe(&[("site", &site), ("osimage", &format!("{image} nfsrootopts"))]);
    assert_eq!(Target::new(&other, &brought).refused(), [""; 0]);

    // What is missing, changed or damaged in the stage is named.
    fs::remove_file(brought.csv("zone")).unwrap();
    let damaged = brought.stage().join("etc/xcat/mac.sqlite");
    let mut bytes = fs::read(&damaged).unwrap();
    bytes.truncate(bytes.len() - 4096);
    fs::write(&damaged, bytes).unwrap();
    let before = told(&other.root());
    let told_of = Target::new(&other, &brought).refused();
    assert_eq!(told_of.len(), 2, "{told_of:?}");
    assert!(told_of[0].starts_with("table zone") && told_of[1].starts_with("table mac"), "{told_of:?}");
    assert!(Target::new(&other, &brought).load().is_err() && told(&other.root()) == before);
    let accepting = Target { change: &|request| request.accept_incomplete = true, ..Target::new(&other, &brought) };
    let loaded = accepting.load().unwrap();
    assert!(loaded.tables.len() == 72 && kept(&loaded) == ["mac", "newer"], "{loaded:?}");
    drop(node);

    // Where the captured tables lay on a file system of their own, and nothing is mounted here.
    brought.manifest.machine.mounts =
        serde_json::from_str(r#"[{"at": "/etc/xcat", "kind": "xfs", "source": "/dev/drbd0"}]"#).unwrap();
    let told_of = Target::new(&other, &brought).refused();
    assert!(told_of.iter().any(|words| words.contains("nothing is mounted there")), "{told_of:?}");
}

#[test]
fn tables_in_db2_and_in_text_files_are_refused() {
    let (node, brought) = captured();
    for (cfgloc, word) in [("DB2:xcatdb|xcatdb|sesame", "DB2"), ("CSV:/etc/xcat/csv", "text files")] {
        fs::write(brought.stage().join("etc/xcat/cfgloc"), cfgloc).unwrap();
        let refused = Target::new(&node, &brought).refused();
        assert!(
            refused.iter().any(|words| words.contains(word)) && !refused.concat().contains("sesame"),
            "{refused:?}"
        );
        assert!(Target::new(&node, &brought).load().is_err());
    }
}

#[test]
fn every_row_that_differs_is_named_and_no_secret_is_told() {
    let ((_node, brought), other) = (captured(), Node::sample());
    let target = Target::new(&other, &brought);
    target.load().unwrap();
    other.open("passwd").execute_batch("UPDATE passwd SET password = 'sesame' WHERE key = 'system';").unwrap();
    other.open("site").execute_batch("UPDATE site SET value = 'other' WHERE key = 'odd0'; DELETE FROM site WHERE key = 'odd1'; INSERT INTO site (key) VALUES ('more'), ('most');").unwrap();
    fs::remove_file(other.table("zone")).unwrap();
    let differences = target.compare();
    let words: Vec<_> = differences.iter().map(|d| format!("{} {} {}", d.table, d.key, d.what)).collect();
    for expected in [
        "passwd key=system username=root password: a secret here, a secret captured",
        "site key=odd0 value: other here, one\n\n\ntwo captured",
        "site key=odd1 it was captured and is not here",
        "site key=more it is here and was not captured",
    ] {
        assert!(words.iter().any(|w| w == expected), "{expected}: {words:#?}");
    }
    assert!(words.iter().any(|w| w.starts_with("zone ")) && !words.concat().contains("sesame"), "{words:?}");
}

/// What xCAT's own command does to the same values: this is why the tables are not loaded by it.
#[test]
fn the_naive_way_loses_what_this_one_brings_back() {
    if Command::new("sqlite3").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "sqlite3 is needed");
        eprintln!("NOT RUN: sqlite3 is needed for this test");
        return;
    }
    let ((node, brought), other) = (captured(), fresh());
    let standin = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/data/standin");
    let to = other.root().join("opt/xcat/lib/standin");
    fs::create_dir_all(&to).unwrap();
    for name in ["common.sh", "servers.sh", "tables.txt"] {
        fs::copy(standin.join(name), to.join(name)).unwrap();
    }
    let naive = to.join("tabrestore");
    symlink(standin.join("commands.sh"), &naive).unwrap();
    let mut command = Command::new("sh");
    command.arg(&naive).arg(brought.csv("site")).env("STANDIN_ROOT", other.root()).env("XCATBYPASS", "1");
    assert!(command.status().unwrap().success(), "and it says that all is well");

    let target = Target::new(&other, &brought);
    let site = |differences: &[xsnap::import::load::Difference]| {
        let of_site = differences.iter().filter(|d| d.table == "site" && d.what.starts_with("value:"));
        of_site.map(|d| d.key.clone()).collect::<Vec<_>>()
    };
    let lost = site(&target.compare());
    assert_eq!(lost, ["key=odd0", "key=odd1", "key=odd2"]);
    let named: Vec<_> = target.examine().would_change.into_iter().filter(|word| word.table == "site").collect();
    for key in ["odd0", "odd1", "odd2"] {
        assert!(named.iter().any(|word| word.why.starts_with(&format!("row {key}, column value"))), "{named:?}");
    }
    assert_eq!(named.len(), 6, "value and comments of these three, and nothing else: {named:?}");
    target.load().unwrap();
    assert_eq!(target.compare(), []);
    are_equal(&node, &other);
}
