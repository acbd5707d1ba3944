//! Table files copied while they are in use, cut short, damaged, or on a disk that is only mounted.

use crate::support::xcat::{Node, Told, csv, data, problems, staged};
use rusqlite::Connection;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use xsnap::mn::{
    database::{Dump, DumpOptions, dump},
    host::OwnPrograms,
    machine::Machine,
};

#[test]
fn copies_of_an_unchanged_machine_are_the_same_bytes_with_the_same_times() {
    let node = Node::sample();
    for is_live in [true, false] {
        let (one, other) = (node.dump(is_live, true), node.dump(is_live, true));
        assert_eq!((one.grafts.len(), one.hidden.len()), (74, 73));
        for (one, other) in one.grafts.iter().zip(&other.grafts) {
            assert_eq!(one.at, other.at);
            assert_eq!(told(&one.from), told(&other.from), "{}", String::from_utf8_lossy(&one.at));
        }
        let meta = fs::metadata(&one.grafts.iter().find(|g| g.at.ends_with(b"/site.sqlite")).unwrap().from).unwrap();
        let live = fs::metadata(node.table("site")).unwrap();
        assert_eq!((meta.mode(), meta.uid(), meta.mtime_nsec()), (live.mode(), live.uid(), 123));
        assert_eq!(rows(&one, "site"), rows(&other, "site"));
    }
}

/// What a later capture would see of a file or folder.
fn told(path: &Path) -> Vec<(String, u32, i64, i64, Vec<u8>)> {
    let entries = walkdir::WalkDir::new(path).sort_by_file_name().into_iter().map(Result::unwrap);
    let told = entries.map(|entry| {
        let meta = entry.metadata().unwrap();
        let bytes = if meta.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        let below = entry.path().strip_prefix(path).unwrap().to_str().unwrap().to_owned();
        (below, meta.mode(), meta.mtime(), meta.mtime_nsec(), bytes)
    });
    told.collect()
}

/// What the copied file of a table holds.
fn rows(dump: &Dump, table: &str) -> Vec<String> {
    let at = format!("/etc/xcat/{table}.sqlite").into_bytes();
    let db = Connection::open(&dump.grafts.iter().find(|g| g.at == at).unwrap().from).unwrap();
    let mut statement = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
    let width = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        let cells = (0..width).map(|at| format!("{:?}", row.get_ref(at).unwrap()));
        Ok(cells.collect::<Vec<_>>().join("|"))
    };
    statement.query_map([], row).unwrap().map(Result::unwrap).collect()
}

/// Ends a thread that looks at it.
struct Ended<'a>(&'a AtomicBool);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn tables_agree_with_each_other_while_somebody_writes_to_them() {
    let node = Node::sample();
    let is_over = AtomicBool::new(false);
    // bootparams is among the first to be copied and zone among the last.
    for table in ["bootparams", "zone"] {
        node.open(table).execute_batch("CREATE TABLE turn (n INTEGER); INSERT INTO turn VALUES (0);").unwrap();
    }
    let turn = |dump: &Dump, table: &str| -> i64 {
        let at = format!("/etc/xcat/{table}.sqlite").into_bytes();
        let db = Connection::open(&dump.grafts.iter().find(|g| g.at == at).unwrap().from).unwrap();
        db.query_row("SELECT n FROM turn", [], |row| row.get(0)).unwrap()
    };
    thread::scope(|scope| {
        let files = ["bootparams", "zone"].map(|table| node.open(table));
        let writer = scope.spawn(|| {
            let files = files;
            files.iter().for_each(|db| db.busy_timeout(Duration::from_secs(5)).unwrap());
            let mut turns = 0;
            while !is_over.load(Ordering::Relaxed) {
                turns += 1;
                // One after the other: at any moment they are of the same turn, or the first is one ahead.
                files.iter().for_each(|db| assert_eq!(db.execute("UPDATE turn SET n = ?1", [turns]).unwrap(), 1));
            }
            turns
        });
        // The writer ends also where a promise below is broken.
        let ended = Ended(&is_over);
        let mut last = 0;
        for _ in 0..12 {
            let dump = node.dump(true, false);
            let (first, second) = (turn(&dump, "bootparams"), turn(&dump, "zone"));
            assert!(first == second || first == second + 1, "turn {first} beside turn {second}");
            assert_eq!(problems(&dump), [""; 0]);
            assert!(dump.held > Duration::ZERO && dump.held < Duration::from_secs(5), "{:?}", dump.held);
            last = second;
        }
        drop(ended);
        let turns = writer.join().unwrap();
        assert!(turns > last && last > 0, "the writer wrote on, {turns} turns in all, and the copies saw it: {last}");
    });
}

#[test]
fn when_the_time_is_over_files_are_let_go_and_copied_later() {
    let node = Node::sample();
    let machine = Machine::running(&node.root(), &OwnPrograms).unwrap();
    let options = DumpOptions { logs: true, lock_limit: Duration::ZERO };
    let dump = dump(&machine, &node.staging(), &options, &Told::default()).unwrap();
    assert!(dump.held < Duration::from_secs(2), "{:?}", dump.held);
    let told = problems(&dump);
    assert_eq!(told.len(), 71, "all but the logs may not agree: {told:?}");
    assert!(told.iter().all(|words| words.contains("copied later than the others")));
    assert_eq!(dump.proofs.len(), 73, "and all are copied");
    let xcats = fs::read(data().join("dump/nodelist.csv")).unwrap();
    assert!(csv(&dump, "nodelist").unwrap() == xcats);
}

#[test]
fn a_file_that_somebody_keeps_locked_is_a_problem_of_its_own() {
    let node = Node::sample();
    let holder = node.open("zone");
    holder.execute_batch("BEGIN EXCLUSIVE; UPDATE zone SET comments = 'half';").unwrap();
    let began = Instant::now();
    let dump = node.dump(true, false);
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let told = problems(&dump);
    assert!(told.len() == 1 && told[0].contains("/etc/xcat/zone.sqlite") && told[0].contains("locked"), "{told:?}");
    assert_eq!((dump.proofs.len(), csv(&dump, "zone")), (70, None));
    assert!(staged(&dump, "/etc/xcat/zone.sqlite").is_some(), "its bytes are kept");
    drop(holder);
    assert_eq!(problems(&node.dump(true, false)), [""; 0]);
}

/// Leaves a table as a program does that is killed within a transaction when part of it is in the file already.
fn cut_short(node: &Node, table: &str) {
    let file = node.table(table);
    let journal = node.tables().join(format!("{table}.sqlite-journal"));
    let before = fs::read(&file).unwrap();
    let db = Connection::open(&file).unwrap();
    db.execute_batch("PRAGMA cache_size = 1; PRAGMA cache_spill = 1; BEGIN;").unwrap();
    db.execute(&format!("UPDATE {table} SET comments = hex(randomblob(500))"), []).unwrap();
    let (half, hot) = (fs::read(&file).unwrap(), fs::read(&journal).unwrap());
    assert!(half != before && hot.len() > 512, "part of it must be in the file");
    drop(db);
    fs::write(file, half).unwrap();
    fs::write(journal, hot).unwrap();
}

#[test]
fn a_transaction_that_was_cut_short_is_rolled_back_in_the_copy_only() {
    let node = Node::sample();
    cut_short(&node, "nodelist");
    let before = told(&node.root());
    let dump = node.dump(false, false);
    assert!(told(&node.root()) == before, "nothing is written where the disk is mounted");
    assert_eq!(problems(&dump), [""; 0]);
    let xcats = fs::read(data().join("dump/nodelist.csv")).unwrap();
    assert!(csv(&dump, "nodelist").unwrap() == xcats);
    assert!(staged(&dump, "/etc/xcat/nodelist.sqlite-journal").is_none());
    assert!(dump.hidden.contains(&b"/etc/xcat/nodelist.sqlite-journal".to_vec()));
    let again = node.dump(false, false);
    assert_eq!(staged(&dump, "/etc/xcat/nodelist.sqlite"), staged(&again, "/etc/xcat/nodelist.sqlite"));
}

#[test]
fn a_running_machine_rolls_back_itself_what_was_cut_short() {
    let node = Node::sample();
    cut_short(&node, "nodelist");
    let dump = node.dump(true, false);
    assert_eq!(problems(&dump), [""; 0]);
    assert!(csv(&dump, "nodelist").unwrap() == fs::read(data().join("dump/nodelist.csv")).unwrap());
}

#[test]
fn what_a_write_ahead_log_holds_is_in_the_copy() {
    let node = Node::sample();
    let db = node.open("site");
    db.execute_batch("PRAGMA journal_mode = WAL; INSERT INTO site VALUES ('k', 'v', NULL, NULL);").unwrap();
    assert!(node.tables().join("site.sqlite-wal").metadata().unwrap().len() > 0);
    for is_live in [false, true] {
        let dump = node.dump(is_live, false);
        assert_eq!(problems(&dump), [""; 0]);
        assert!(csv(&dump, "site").unwrap().ends_with(b"\n\"k\",\"v\",,\n"), "live: {is_live}");
        assert!(staged(&dump, "/etc/xcat/site.sqlite-wal").is_none());
    }
}

#[test]
fn a_damaged_file_is_a_problem_and_its_bytes_are_kept() {
    let node = Node::sample();
    let mut torn = fs::read(node.table("nodelist")).unwrap();
    let half = torn.len() / 2;
    torn[half..].fill(0xa5);
    let damaged: [(&str, &[u8]); 4] = [
        ("nodelist", &torn),
        ("site", b"this is no database, but longer than the magic of one"),
        ("policy", b""),
        ("mac", &torn[..half - 100]),
    ];
    for (table, bytes) in damaged {
        fs::write(node.table(table), bytes).unwrap();
    }
    for is_live in [true, false] {
        let dump = node.dump(is_live, false);
        let told = problems(&dump);
        assert_eq!(told.len(), damaged.len(), "{told:?}");
        for (table, bytes) in damaged {
            let file = format!("/etc/xcat/{table}.sqlite");
            assert!(told.iter().any(|words| words.contains(&format!("{file}: table {table}: "))), "{told:?}");
            assert_eq!(csv(&dump, table), None, "half a table looks like a whole one");
            assert!(staged(&dump, &file).unwrap() == bytes, "{table}, live: {is_live}");
        }
        assert_eq!(dump.proofs.len(), 71 - damaged.len());
    }
}

#[test]
fn a_journal_that_cannot_help_is_kept_beside_its_file() {
    let node = Node::sample();
    cut_short(&node, "nodelist");
    let journal = fs::read(node.tables().join("nodelist.sqlite-journal")).unwrap();
    fs::write(node.table("nodelist"), b"what was here is gone, whatever the journal says of it").unwrap();
    fs::write(node.tables().join("nodelist.sqlite-journal"), &journal[..600]).unwrap();
    let dump = node.dump(false, false);
    let told = problems(&dump);
    assert!(told.len() == 1 && told[0].contains("table nodelist"), "{told:?}");
    assert_eq!(staged(&dump, "/etc/xcat/nodelist.sqlite-journal").unwrap(), journal[..600]);
    assert_eq!(staged(&dump, "/etc/xcat/nodelist.sqlite").unwrap(), fs::read(node.table("nodelist")).unwrap());
}

#[test]
fn a_table_folder_behind_a_link_is_found_where_it_is() {
    let node = Node::sample();
    fs::create_dir(node.root().join("shared")).unwrap();
    fs::rename(node.tables(), node.root().join("shared/xcat")).unwrap();
    symlink("/shared/xcat", node.tables()).unwrap();
    for is_live in [true, false] {
        let dump = node.dump(is_live, false);
        assert_eq!(problems(&dump), [""; 0]);
        assert!(staged(&dump, "/shared/xcat/site.sqlite").is_some());
        assert!(dump.hidden.iter().all(|path| path.starts_with(b"/shared/xcat/")));
    }
}

#[test]
fn what_is_no_file_is_a_problem_and_nobody_waits_for_it() {
    let node = Node::sample();
    fs::remove_file(node.table("site")).unwrap();
    fs::remove_file(node.table("policy")).unwrap();
    fs::create_dir(node.table("site")).unwrap();
    symlink("/nowhere", node.table("policy")).unwrap();
    for is_live in [true, false] {
        let told = problems(&node.dump(is_live, false));
        assert!(told.len() == 2 && told[0].contains("policy.sqlite") && told[1].contains("site.sqlite"), "{told:?}");
    }
}
