//! Another machine becomes the captured management node: by the real binary, from a stick, in namespaces of its own.

use crate::support::{
    bare::{Bare, SLES},
    import_plan,
    inner::{Inner, KEYS},
    program::installed,
    roots::{Root, apt_root, rpm_root},
};
use rusqlite::Connection;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

const REPO: [&str; 2] = ["--repo", "/media/usb"];

pub(crate) fn words<'w>(more: &[&'w str]) -> Vec<&'w str> {
    REPO.iter().copied().chain(more.iter().copied()).collect()
}

/// A captured management node.
pub(crate) fn captured(root: Option<Root>) -> Option<Inner> {
    let node = Inner::new(root?);
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    Some(node)
}

/// The rows of every table, as text.
pub(crate) fn rows(root: &Root) -> BTreeMap<String, Vec<String>> {
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

pub(crate) fn is_that_node(node: &Inner, bare: &Bare) {
    import_plan::is_there(node, bare);
    has_what_it_is_known_by(node, bare);
}

/// Tables, and keys with the copies that nodes fetch.
pub(crate) fn has_what_it_is_known_by(node: &Inner, bare: &Bare) {
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
    let meta = path.symlink_metadata().unwrap();
    (meta.mode(), meta.uid(), meta.gid())
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
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

#[test]
fn an_rpm_machine_that_zypper_installs_on_becomes_the_captured_node() {
    if !installed("zypper", "zypper") {
        return;
    }
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    fs::write(node.root.at("/usr/lib/os-release"), SLES).unwrap();
    fs::create_dir_all(node.root.at("/etc/zypp")).unwrap();
    fs::rename(node.root.at("/etc/yum.repos.d"), node.root.at("/etc/zypp/repos.d")).unwrap();
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    becomes(&node);
}

fn becomes(node: &Inner) {
    let bare = Bare::like(node);
    // The technician is logged in through this key, and the host has a line of its own.
    fs::create_dir_all(bare.at("/root/.ssh")).unwrap();
    fs::write(bare.at("/root/.ssh/authorized_keys"), "ssh-rsa AAAAtechnician here\n").unwrap();
    let hosts = bare.text("/etc/hosts") + "192.0.2.7 printer\n";
    fs::write(bare.at("/etc/hosts"), &hosts).unwrap();
    let before = state(&bare);
    let planned = bare.xsnap(&words(&["import", "latest", "--dry-run"])).expect(0);
    assert!(planned.text().contains("makeknownhosts cn1,cn2"), "{}", planned.text());
    is_as_before(&bare, &before, "a plan changes nothing");
    let ran = bare.xsnap(&words(&["import", "latest", "--json"])).expect(0);
    assert_eq!(ran.message("import")["holds"], true);
    is_that_node(node, &bare);
    let keys = bare.text("/root/.ssh/authorized_keys");
    assert!(keys.starts_with("ssh-rsa AAAAtechnician here\n") && keys.lines().count() > 1, "{keys}");
    assert!(bare.text("/etc/hosts").contains("192.0.2.7 printer\n"));
    steps_are_in_order(&bare);
    let again = bare.xsnap(&words(&["import", "latest"])).expect(0);
    assert!(again.text().contains("database: done before") && again.text().contains("install: done before"));
    is_that_node(node, &bare);
    bare.xsnap(&["import", "--undo"]).expect(0);
    assert_eq!(bare.text("/etc/hosts"), hosts);
    assert_eq!(bare.text("/root/.ssh/authorized_keys"), "ssh-rsa AAAAtechnician here\n");
    for path in ["/home/alice", "/srv/site", "/etc/munge", "/etc/goconserver.xsnap-orig"] {
        assert!(!bare.at(path).exists(), "{path} was not there");
    }
    assert_eq!(bare.sh("systemctl is-active xcatd || true"), "inactive\n");
}

/// Every file of a machine, with its owner, size, mode and time, and every folder; without what programs remember for
/// themselves.
pub(crate) fn state(bare: &Bare) -> Vec<String> {
    const OTHERS: [&str; 11] = [
        "proc",
        "host",
        "xsnap-lib",
        "var/log",
        "var/cache",
        "tmp",
        "run",
        // dnf opens the books for writing even where it is only asked.
        "var/lib/dnf",
        "var/lib/rpm/rpmdb.sqlite-shm",
        "usr/lib/sysimage/rpm/rpmdb.sqlite-shm",
        "var/lib/zypp",
    ];
    let root = bare.root.path();
    let walk = walkdir::WalkDir::new(root).sort_by_file_name().into_iter();
    let walk = walk.filter_entry(|e| !OTHERS.iter().any(|other| e.path() == root.join(other)));
    let line = |e: walkdir::DirEntry| {
        let meta = e.metadata().unwrap();
        let own = format!("{} {:o} {}:{}", e.path().display(), meta.mode(), meta.uid(), meta.gid());
        // A folder's time is told by what is in it.
        if meta.is_dir() { own } else { format!("{own} {} {}.{}", meta.len(), meta.mtime(), meta.mtime_nsec()) }
    };
    let lines: Vec<String> = walk.map(Result::unwrap).map(line).collect();
    assert!(lines.len() > 20, "{lines:?}");
    lines
}

pub(crate) fn is_as_before(bare: &Bare, before: &[String], why: &str) {
    let now = state(bare);
    let gone: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    let new: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    assert!(gone.is_empty() && new.is_empty(), "{why}: {gone:?} {new:?}");
}

/// Packages, then the daemon is stopped, then it is started once everything is there.
fn steps_are_in_order(bare: &Bare) {
    let calls = bare.calls();
    let at = |wanted: &str| {
        calls.iter().position(|call| call.contains(wanted)).unwrap_or_else(|| panic!("{wanted}: {calls:?}"))
    };
    assert!(at("stop xcatd") < at("restart xcatd"), "{calls:?}");
    let commands = bare.text("/var/log/xcat-standin.log");
    let at = |wanted: &str| {
        commands.lines().position(|line| line.starts_with(wanted)).unwrap_or_else(|| panic!("{wanted}: {commands}"))
    };
    assert!(at("xcatconfig -i") < at("makehosts") && at("makehosts") < at("makegocons"), "{commands}");
    assert!(at("makegocons") < at("mknb") && at("mknb") < at("makeknownhosts"), "{commands}");
    assert_eq!(commands.matches("xcatconfig").count(), 1, "the keys that it makes would not be the snapshot's");
    assert!(!commands.contains("restorexCATdb") && !commands.contains("tabrestore"), "{commands}");
}

#[test]
fn an_import_killed_at_any_step_goes_on_to_the_same_end() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    // In each round the import is killed a little later than in the one before, until it is through.
    let mut through = false;
    for round in 1..60_u64 {
        let mut started = bare.start(&words(&["import", "latest"]));
        let until = Instant::now() + Duration::from_millis(200 * round);
        while Instant::now() < until && started.try_wait().unwrap().is_none() {
            sleep(Duration::from_millis(5));
        }
        through = started.try_wait().unwrap().is_some();
        bare.kill(started);
        if through {
            break;
        }
    }
    assert!(through);
    bare.xsnap(&words(&["import", "latest"])).expect(0);
    is_that_node(&node, &bare);
}

#[test]
fn a_daemon_on_another_port_is_waited_for_on_that_port() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    node.sql("site", "UPDATE site SET value = '3005' WHERE key = 'xcatdport'");
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);
    let bare = Bare::like(&node);
    let answers = |port: u16| {
        let listens = |line: &str| line.contains(&format!(":{port:04X} ")) && line.contains(":0000 0A ");
        bare.sh("cat /proc/net/tcp /proc/net/tcp6").lines().any(listens)
    };
    let ran = bare.xsnap(&words(&["import", "latest"])).expect(0);
    assert!(ran.text().contains("xcatd answers on port 3005"), "{}", ran.text());
    assert!(answers(3005) && !answers(3001));
    let starts = |bare: &Bare| bare.calls().iter().filter(|call| *call == "restart xcatd").count();
    let before = starts(&bare);
    bare.xsnap(&words(&["import", "latest"])).expect(0);
    assert_eq!(starts(&bare), before, "what answers there is running");
    // Not before it has let go of that port are tables changed again.
    let undone = bare.xsnap(&["import", "--undo"]).expect(0);
    assert!(!undone.text().contains("could not be stopped"), "{}", undone.text());
    assert!(!answers(3005) && !answers(3001));
}

#[test]
fn a_drill_starts_nothing_and_makes_nothing_anew() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    bare.xsnap(&words(&["import", "latest", "--no-start"])).expect(0);
    is_that_node(&node, &bare);
    let commands = bare.text("/var/log/xcat-standin.log");
    assert!(!commands.contains("make") && !commands.contains("mknb"), "{commands}");
    let calls = bare.calls();
    let started =
        calls.iter().filter(|call| ["start", "enable"].iter().any(|verb| call.split(' ').any(|word| word == *verb)));
    assert_eq!(started.count(), 0, "{calls:?}");
    assert_eq!(bare.sh("systemctl is-active xcatd || true"), "inactive\n");
    assert_eq!(bare.sh("systemctl is-enabled xcatd || true"), "disabled\n");
}

#[test]
fn what_speaks_against_an_import_is_found_before_anything_is_changed() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    let refused = |more: &[&str], reason: &str| {
        let before = state(&bare);
        let ran = bare.xsnap(&words(&[&["import", "latest"], more].concat())).expect(2);
        let told = ran.text() + &ran.complaint();
        assert!(told.contains(reason), "{reason}: {told}");
        is_as_before(&bare, &before, reason);
    };
    bare.sh("hostname other.standin.test");
    refused(&[], "--take-name");
    refused(&["--keep-name"], "does not do");
    bare.sh("hostname mn.standin.test");
    let hosts = bare.text("/etc/hosts");
    fs::write(bare.at("/etc/hosts"), "127.0.0.1 localhost mn.standin.test\n").unwrap();
    refused(&[], "without a master");
    fs::write(bare.at("/etc/hosts"), &hosts).unwrap();
    let release = bare.text("/usr/lib/os-release");
    for (from, to, reason) in [
        ("9.4", "8.10", "the captured node runs rocky 9.4"),
        ("\"rocky\"", "\"sles\"", "the captured node runs rocky 9.4"),
    ] {
        let other =
            release.replace(from, to).replace("rhel centos fedora", if to.contains("sles") { "suse" } else { "rhel" });
        fs::write(bare.at("/usr/lib/os-release"), other).unwrap();
        refused(&[], reason);
    }
    fs::write(bare.at("/usr/lib/os-release"), release.replace("9.4", "9.5")).unwrap();
    refused(&["--strict"], "rocky 9.5");
    fs::write(bare.at("/usr/lib/os-release"), &release).unwrap();
    refused(&["--part", "no-such-part"], "has no part");
    // A management node with nodes of its own.
    fs::create_dir_all(bare.at("/etc/xcat")).unwrap();
    let tables = Connection::open(bare.at("/etc/xcat/nodelist.sqlite")).unwrap();
    tables.execute_batch("CREATE TABLE nodelist (node TEXT); INSERT INTO nodelist VALUES ('cn1');").unwrap();
    drop(tables);
    refused(&[], "--replace");
    fs::remove_dir_all(bare.at("/etc/xcat")).unwrap();
}

#[test]
fn an_incomplete_snapshot_is_only_imported_when_that_is_accepted() {
    let Some(root) = rpm_root() else { return };
    let node = Inner::new(root);
    fs::remove_file(node.root.at("/etc/munge/munge.key")).unwrap();
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(3);
    let bare = Bare::like(&node);
    let ran = bare.xsnap(&words(&["import", "latest"])).expect(2);
    assert!((ran.text() + &ran.complaint()).contains("munge.key"));
    assert!(!bare.at("/opt/xcat").exists() && !bare.at("/var/lib/xsnap").exists());
    bare.xsnap(&words(&["import", "latest", "--accept-incomplete"])).expect(0);
}
