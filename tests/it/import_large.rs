//! An import of a node with 2,000 nodes: the report tells how long others have worked, and how long xsnap itself has.

use crate::support::{bare::Bare, inner::Inner, roots::rpm_root};
use std::{collections::BTreeSet, fs};

const NODES: usize = 2_000;
/// What is written for each node: a folder, and how the names of its files begin and end.
const FILES: [(&str, &str, &str); 7] = [
    ("/tftpboot/xcat/xnba/nodes", "", ""),
    ("/tftpboot/xcat/xnba/nodes", "", ".elilo"),
    ("/tftpboot/xcat/xnba/nodes", "", ".uefi"),
    ("/tftpboot/mypostscripts", "mypostscript.", ""),
    ("/install/autoinst", "", ""),
    ("/install/autoinst", "", ".pre"),
    ("/install/autoinst", "", ".post"),
];

/// A captured node with many nodes of its own.
fn large() -> Option<Inner> {
    let node = Inner::new(rpm_root()?);
    let mut tables = [("nodelist", String::new()), ("mac", String::new()), ("vpd", String::new())];
    for n in 0..NODES {
        let name = format!("cn{n:04}");
        let rows = [
            format!("INSERT INTO nodelist (node, groups) VALUES ('{name}', 'compute,all');"),
            format!("INSERT INTO mac (node, mac) VALUES ('{name}', '42:00:00:00:{:02x}:{:02x}');", n >> 8, n & 255),
            format!("INSERT INTO vpd (node, serial) VALUES ('{name}', 'S{n:07}');"),
        ];
        tables.iter_mut().zip(rows).for_each(|((_, all), row)| all.push_str(&row));
        for (folder, begin, end) in FILES {
            let folder = node.root.at(folder);
            fs::create_dir_all(&folder).unwrap();
            let lines: String = (0..40).map(|line| format!("# line {line} of {name}, as xCAT renders it\n")).collect();
            fs::write(folder.join(format!("{begin}{name}{end}")), lines).unwrap();
        }
    }
    tables.iter().for_each(|(table, rows)| node.sql(table, &format!("BEGIN; {rows} COMMIT;")));
    node.xsnap(&["backup", "--repo", "/media/usb", "--cluster", "alpha"]).expect(0);
    Some(node)
}

#[test]
fn the_time_of_an_import_of_2000_nodes_is_told_by_who_needed_it() {
    let Some(node) = large() else { return };
    let bare = Bare::like(&node);
    let ran = bare.xsnap(&["import", "latest", "--repo", "/media/usb", "--json"]).expect(0);
    let report = ran.message("import");
    let number = |key: &str| report[key].as_u64().unwrap();
    let (all, others) = (number("milliseconds"), number("others_milliseconds"));
    let of = |steps: &[&str]| -> u64 {
        let all = report["steps"].as_array().unwrap().iter();
        let named = all.filter(|step| steps.contains(&step["step"].as_str().unwrap()));
        named.map(|step| step["milliseconds"].as_u64().unwrap()).sum()
    };
    // Some steps only wait for others, and some for nobody.
    let (theirs, own) = (of(&["install", "makehosts", "mknb", "makeknownhosts"]), of(&["unpack", "files", "database"]));
    assert!(theirs > 0 && own > 0 && others > theirs * 9 / 10 && all - others > own * 9 / 10, "{report}");
    let folders: BTreeSet<&str> = FILES.iter().map(|(folder, ..)| *folder).collect();
    let there: usize = folders.iter().map(|folder| fs::read_dir(bare.at(folder)).unwrap().count()).sum();
    assert_eq!(there, FILES.len() * NODES);
}
