//! The tables of a management node as CSV: what xCAT's own dump has, and what the schema says of them.

use crate::support::xcat::{Node, Told, csv, data, names, problems, staged};
use rusqlite::params_from_iter;
use std::fs;
use xsnap::{
    error::Error,
    mn::{
        database::{DumpOptions, dump},
        engine::Engine,
        host::OwnPrograms,
        machine::Machine,
        tables::{encode_csv, parse_csv},
    },
};

#[test]
fn every_csv_is_what_xcats_own_dump_wrote() {
    let node = Node::sample();
    let expected = names(&data().join("dump"));
    assert_eq!(expected.len(), 73);
    for is_live in [false, true] {
        let dump = node.dump(is_live, true);
        assert_eq!(problems(&dump), [""; 0]);
        let folder = &dump.grafts.iter().find(|g| g.at == b"/.xsnap/xcatdb").unwrap().from;
        assert_eq!(names(folder), expected, "nothing but tables is in the folder that xCAT loads");
        for name in &expected {
            let (ours, xcats) =
                (fs::read(folder.join(name)).unwrap(), fs::read(data().join("dump").join(name)).unwrap());
            assert!(ours == xcats, "{name} differs: {}", String::from_utf8_lossy(&ours));
        }
    }
}

#[test]
fn what_xcat_dumped_is_read_back_and_proves_the_same() {
    let dump = Node::sample().dump(false, true);
    assert_eq!((dump.tables.len(), dump.proofs.len()), (71, 73));
    for proof in &dump.proofs {
        let bytes = fs::read(data().join("dump").join(format!("{}.csv", proof.table))).unwrap();
        let table = parse_csv(&proof.table, &bytes).unwrap();
        assert_eq!(encode_csv(&table), bytes);
        assert_eq!((table.rows.len() as u64, table.digest()), (proof.rows, proof.digest.clone()), "{}", proof.table);
    }
    assert_eq!(dump.tables.node_count(), dump.tables.get("nodelist").unwrap().enabled().count() as u64);
    assert_eq!(dump.tables.site("installdir").as_deref(), Some("/install"));
}

#[test]
fn odd_values_go_through_the_files_and_the_csv() {
    let odd = fs::read(data().join("nodelist-edge-values.csv")).unwrap();
    let table = parse_csv("nodelist", &odd).unwrap();
    let node = Node::sample();
    let db = node.open("nodelist");
    db.execute("DELETE FROM nodelist", []).unwrap();
    let marks = vec!["?"; table.columns.len()].join(",");
    for row in &table.rows {
        let values = row.iter().map(|cell| cell.as_ref().map(|v| String::from_utf8(v.to_vec()).unwrap()));
        db.execute(&format!("INSERT INTO nodelist VALUES ({marks})"), params_from_iter(values)).unwrap();
    }
    drop(db);
    let dump = node.dump(true, false);
    assert!(csv(&dump, "nodelist").unwrap() == odd);
    assert_eq!(dump.tables.get("nodelist").unwrap(), &table);
}

#[test]
fn a_text_of_one_newline_is_unset_as_xcat_dumps_it() {
    let node = Node::sample();
    node.open("site").execute_batch("INSERT INTO site VALUES ('k', char(10), '', 0)").unwrap();
    let dump = node.dump(true, false);
    assert!(csv(&dump, "site").unwrap().ends_with(b"\n\"k\",,,\"0\"\n"));
}

#[test]
fn a_table_that_the_schema_has_and_the_machine_has_not_is_a_problem() {
    let node = Node::sample();
    node.describe(&[("site", "key value comments disable"), ("vanished", "node disable"), ("eventlog", "recid")]);
    node.write("opt/xcat/lib/perl/xCAT_schema/own.pm", "%tabspec = ( x_own => { cols => ['node'] } );");
    node.write("opt/xcat/lib/perl/xCAT_schema/other_mysql.pm", "%tabspec = ( x_mysql => { cols => ['node'] } );");
    fs::remove_file(node.table("eventlog")).unwrap();
    let expected = ["vanished", "x_own"].map(|t| format!("cannot find /etc/xcat/{t}.sqlite: the table {t} is missing"));
    assert_eq!(problems(&node.dump(true, false)), expected);
    assert_eq!(node.dump(false, true).problems.len(), 3, "a log that was asked for is missing too");
}

#[test]
fn without_a_schema_the_few_that_every_machine_has_must_be_there() {
    let node = Node::sample();
    for table in ["policy", "nodelist", "switch"] {
        fs::remove_file(node.table(table)).unwrap();
    }
    let missing = problems(&node.dump(false, false));
    assert!(missing.len() == 2 && missing[0].contains("nodelist") && missing[1].contains("policy"), "{missing:?}");
    node.write("opt/xcat/lib/perl/xCAT/Schema.pm", "1;");
    let unread = problems(&node.dump(false, false));
    assert!(unread.len() == 3 && unread[0].contains("Schema.pm: no tables are described"), "{unread:?}");
}

#[test]
fn columns_stand_in_the_order_of_the_schema_and_unknown_ones_are_told() {
    let node = Node::sample();
    node.describe(&[("site", "disable key newer value comments")]);
    node.open("site").execute_batch("ALTER TABLE site ADD COLUMN older TEXT; UPDATE site SET older = 'x';").unwrap();
    let (told, machine) = (Told::default(), Machine::running(&node.root(), &OwnPrograms).unwrap());
    let dump = dump(&machine, &node.staging(), &DumpOptions::default(), &told).unwrap();
    let text = String::from_utf8(csv(&dump, "site").unwrap()).unwrap();
    assert!(text.starts_with("#disable,key,newer,value,comments\n,\"blademaxp\",,\"64\",\n"), "{text}");
    assert_eq!(problems(&dump), [""; 0]);
    assert!(told.words().iter().any(|word| word.contains("table site") && word.contains("older")));
}

#[test]
fn logs_are_left_out_until_they_are_asked_for() {
    let node = Node::sample();
    let without = node.dump(true, false);
    assert_eq!(without.left_out, ["auditlog", "eventlog"]);
    let with = node.dump(true, true);
    assert!(with.left_out.is_empty());
    for table in ["auditlog", "eventlog"] {
        let file = format!("/etc/xcat/{table}.sqlite");
        assert!(csv(&without, table).is_none() && staged(&without, &file).is_none());
        assert!(csv(&with, table).is_some() && staged(&with, &file).is_some());
        assert!([&without, &with].iter().all(|dump| dump.hidden.contains(&file.clone().into_bytes())));
    }
}

#[test]
fn a_database_that_cannot_be_captured_is_named() {
    let node = Node::sample();
    node.write("etc/xcat/cfgloc", "DB2:xcatdb|xcatdb|sesame\n");
    let machine = Machine::mounted(&node.root(), &OwnPrograms).unwrap();
    let refused = dump(&machine, &node.staging(), &DumpOptions::default(), &Told::default()).unwrap_err();
    assert!(matches!(&refused, Error::Usage(words) if words.contains("DB2")), "{refused}");
    node.write("etc/xcat/cfgloc", "CSV:/etc/tables\n");
    let raw = node.dump(false, false);
    assert_eq!(raw.engine, Engine::Csv { dir: b"/etc/tables".to_vec() });
    assert!(raw.unproved && raw.raw == [b"/etc/tables".to_vec()] && raw.problems.len() == 1);
}
