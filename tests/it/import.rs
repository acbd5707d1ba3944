//! Another machine becomes the captured management node: by the real binary, from a stick, in namespaces of its own.

use crate::support::{
    bare::Bare,
    inner::{Inner, KEYS},
    program::Ran,
    roots::{Root, apt_root, rpm_root},
};
use rusqlite::Connection;
use std::{collections::BTreeMap, fs, path::Path};

const REPO: [&str; 2] = ["--repo", "/media/usb"];

fn words<'w>(more: &[&'w str]) -> Vec<&'w str> {
    REPO.iter().copied().chain(more.iter().copied()).collect()
}

/// A captured management node.
fn captured(root: Option<Root>) -> Option<Inner> {
    let node = Inner::new(root?);
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    Some(node)
}

/// The rows of every table, as text.
fn rows(root: &Root) -> BTreeMap<String, Vec<String>> {
    let folder = root.at("/etc/xcat");
    let mut tables = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let Some(table) = name.strip_suffix(".sqlite") else { continue };
        let connection = Connection::open(entry.path()).unwrap();
        let mut statement = connection.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = statement.column_count();
        let row = |row: &rusqlite::Row<'_>| {
            let cells = (0..columns).map(|n| row.get::<_, rusqlite::types::Value>(n).map(|value| format!("{value:?}")));
            cells.collect::<Result<Vec<_>, _>>().map(|cells| cells.join("|"))
        };
        let mut rows: Vec<String> = statement.query_map([], row).unwrap().map(Result::unwrap).collect();
        rows.sort();
        tables.insert(table.to_owned(), rows);
    }
    tables
}

fn is_that_node(node: &Inner, bare: &Bare) {
    assert_eq!(rows(&bare.root), rows(&node.root));
    for key in KEYS.iter().chain(&["/home/alice/.xcat/client-key.pem", "/etc/munge/munge.key", "/srv/site/postinstall"])
    {
        let (there, here) = (node.root.at(key), bare.at(key));
        assert_eq!(fs::read(&here).unwrap(), fs::read(&there).unwrap(), "{key}");
        assert_eq!(mode(&here), mode(&there), "{key}");
    }
    assert_eq!(names(&bare.at("/etc/xcat/hostkeys")), names(&node.root.at("/etc/xcat/hostkeys")));
    for copy in ["hostkeys/ssh_host_rsa_key.pub", "ca/ca-cert.pem", "_xcat/ca.pem"] {
        let path = format!("/install/postscripts/{copy}");
        assert_eq!(bare.text(&path), fs::read_to_string(node.root.at(&path)).unwrap(), "{path}");
    }
}

fn mode(path: &Path) -> (u32, u32, u32) {
    use std::os::unix::fs::MetadataExt;
    let meta = path.symlink_metadata().unwrap();
    (meta.mode(), meta.uid(), meta.gid())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn report(ran: &Ran) {
    eprintln!("{}\n{}", ran.text(), ran.complaint());
}

#[test]
fn a_debian_becomes_the_captured_node() {
    let Some(node) = captured(apt_root()) else { return };
    becomes(&node);
}

#[test]
fn an_rpm_machine_becomes_the_captured_node() {
    let Some(node) = captured(rpm_root()) else { return };
    becomes(&node);
}

fn becomes(node: &Inner) {
    let bare = Bare::like(node);
    let ran = bare.xsnap(&words(&["import", "latest"]));
    report(&ran);
    ran.expect(0);
    is_that_node(node, &bare);
}
