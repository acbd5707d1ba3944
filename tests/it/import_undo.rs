//! An import is taken back: the machine is what it was, but for what packages own and what their manager keeps.

use crate::{
    import::{captured, is_that_node, words},
    support::{
        bare::Bare,
        inner::Inner,
        program::{copy, installed},
        roots::{apt_root, rpm_root},
        same::{Difference, differing},
        standin::Manager,
    },
};
use rusqlite::Connection;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// What is not of the machine itself: what runs, logs, what xsnap keeps, and what the tests have lent it.
const OTHERS: [&str; 6] = ["run", "tmp", "var/log", "var/lib/xsnap", "xsnap-lib", "usr/bin/strace"];
/// What managers of packages keep for themselves.
const OF_MANAGERS: [&str; 9] = [
    "usr/lib/sysimage/rpm",
    "var/cache",
    "var/lib/apt",
    "var/lib/dnf",
    "var/lib/dpkg",
    "var/lib/rpm",
    // The scripts of Debian's own packages make these.
    "etc/inputrc",
    "etc/ld.so.cache",
    // dnf notes in their attributes that it has proved the distributor's packages.
    "srv/distributor",
];
/// Accounts, which packages make, with their homes and with what their services keep.
const OF_ACCOUNTS: [&str; 6] =
    ["etc/group", "etc/gshadow", "etc/passwd", "etc/shadow", "home/conserver", "var/lib/conserver"];

/// The files of a machine at one time.
struct Was {
    dir: tempfile::TempDir,
}

impl Was {
    fn of(bare: &Bare) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy(bare.root.path(), &dir.path().join("root"));
        Self { dir }
    }

    /// What differs now, but for times of folders and what is of others.
    fn differing(&self, bare: &Bare) -> Vec<Difference> {
        let was = self.dir.path().join("root");
        let mut found = differing(&was, bare.root.path());
        let is_folder = |path: &Path| was.join(path).is_dir();
        // systemctl makes its links anew, of which only the time tells.
        let is_link = |path: &[u8]| path.starts_with(b"etc/systemd/system/") && path.ends_with(b".service");
        let is_time = |d: &Difference| d.what.starts_with("mtime") && (is_folder(path_of(d)) || is_link(&d.path));
        found.retain(|d| !is_below(&d.path, &OTHERS) && !is_time(d));
        found
    }
}

fn path_of(difference: &Difference) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(&difference.path))
}

fn is_below(path: &[u8], folders: &[&str]) -> bool {
    let below =
        |folder: &&str| path.strip_prefix(folder.as_bytes()).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
    folders.iter().any(below)
}

fn shown(difference: &Difference) -> String {
    format!("{}: {}", difference.path.escape_ascii(), difference.what)
}

/// The files that packages own, and the folders that lead to them, where they are.
fn owned(bare: &Bare) -> BTreeSet<PathBuf> {
    let listed = match bare.root.manager {
        Manager::Rpm => bare.sh("/usr/bin/rpm -qal"),
        Manager::Dpkg => bare.sh("cat /var/lib/dpkg/info/*.list"),
    };
    let root = bare.root.path().canonicalize().unwrap();
    let mut owned = BTreeSet::new();
    for path in listed.lines().filter(|line| line.len() > 1 && line.starts_with('/')).map(|line| bare.at(line)) {
        let Ok(folder) = path.parent().unwrap().canonicalize() else { continue };
        let Ok(folder) = folder.strip_prefix(&root) else { continue };
        owned.insert(folder.join(path.file_name().unwrap()));
        owned.extend(folder.ancestors().map(Path::to_owned));
    }
    assert!(owned.contains(Path::new("opt/xcat/sbin/xcatconfig")));
    owned
}

/// Nothing but what packages, their manager and the accounts that they made have left.
fn is_as_it_was(was: &Was, bare: &Bare) {
    let owned = owned(bare);
    let may_differ = |d: &&Difference| {
        let is_left = d.what == "only in b" && owned.contains(path_of(d));
        is_left || is_below(&d.path, &OF_MANAGERS) || is_below(&d.path, &OF_ACCOUNTS)
    };
    let found: Vec<String> = was.differing(bare).iter().filter(|d| !may_differ(d)).map(shown).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(bare.at("/var/lib/conserver").is_dir(), "the package stays, and needs it");
    for path in ["/etc/passwd", "/etc/group"] {
        let before = fs::read_to_string(was.dir.path().join("root").join(&path[1..])).unwrap();
        let added = bare.text(path).strip_prefix(&before).map(str::to_owned);
        let added = added.unwrap_or_else(|| panic!("{path} has lost lines: {}", bare.text(path)));
        assert!(added.lines().all(|line| line.starts_with("conserver:")), "{path}: {added}");
    }
}

/// A machine with some state of its own in the way of an import.
fn lived_in(node: &Inner) -> Bare {
    let bare = Bare::like(node);
    for (path, text) in [
        ("/root/.ssh/authorized_keys", "ssh-rsa AAAAtechnician here\n"),
        ("/root/.ssh/id_rsa", "a key of the technician's own\n"),
        ("/etc/hosts", "127.0.0.1 localhost\n10.99.0.1 mn.standin.test mn\n192.0.2.7 printer\n"),
        ("/etc/exports", "/home *(ro)\n"),
        ("/etc/goconserver/server.conf", "global:\n  host: of this host's own\n"),
        ("/etc/sysctl.d/99-xcat.conf", "# of another xCAT\n"),
        ("/install/custom/own", "kept here before\n"),
        ("/etc/hostname", "other.standin.test\n"),
    ] {
        fs::create_dir_all(bare.at(path).parent().unwrap()).unwrap();
        fs::write(bare.at(path), text).unwrap();
    }
    // Every installed system has it.
    fs::create_dir_all(bare.at("/etc/systemd/system/multi-user.target.wants")).unwrap();
    bare.unit("httpd", "");
    bare.sh("hostname other.standin.test; systemctl enable --now httpd");
    bare
}

#[test]
fn an_import_of_rpms_is_taken_back_as_a_whole() {
    let Some(node) = captured(rpm_root()) else { return };
    is_taken_back_as_a_whole(&node);
}

#[test]
fn an_import_of_debian_packages_is_taken_back_as_a_whole() {
    let Some(node) = captured(apt_root()) else { return };
    is_taken_back_as_a_whole(&node);
}

fn is_taken_back_as_a_whole(node: &Inner) {
    let bare = lived_in(node);
    let was = Was::of(&bare);
    bare.xsnap(&words(&["import", "latest", "--take-name"])).expect(0);
    assert_eq!(bare.sh("hostname"), "mn.standin.test\n");
    let undone = bare.xsnap(&["import", "--undo", "--json"]).expect(0).message("undo");
    is_as_it_was(&was, &bare);
    assert_eq!(bare.sh("hostname"), "other.standin.test\n");
    let state = "systemctl is-active xcatd httpd; systemctl is-enabled xcatd httpd; true";
    assert_eq!(bare.sh(state), "inactive\nactive\ndisabled\nenabled\n");
    let packages: Vec<&str> = undone["packages"].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
    let has = |name: &str| packages.iter().any(|package| package.to_ascii_lowercase().starts_with(name));
    assert!(has("xcat 4:2.17.0-") && has("goconserver 0:0.3.3-") && has("sqlite"), "{packages:?}");
    assert!(!has("basesystem") && !has("dpkg "), "{packages:?}");

    // What is done to the machine since is not taken back a second time.
    fs::write(bare.at("/etc/hosts"), "10.99.0.1 mn.standin.test\n").unwrap();
    let again = bare.xsnap(&["import", "--undo"]).expect(0);
    assert!(again.text().contains("taken back before"), "{}", again.text());
    assert_eq!(bare.text("/etc/hosts"), "10.99.0.1 mn.standin.test\n");

    // The packages that stay are set up again.
    bare.xsnap(&words(&["import", "latest", "--take-name"])).expect(0);
    is_that_node(node, &bare);
}

#[test]
fn an_import_that_was_cut_off_is_taken_back_from_where_it_was() {
    if !installed("strace", "strace") {
        return;
    }
    let Some(node) = captured(rpm_root()) else { return };
    let bare = lived_in(&node);
    let was = Was::of(&bare);
    // Before the journal says that a step is done, of which each is two lines: repositories, install, accounts, files, database.
    for step in [3, 4, 7, 8, 11] {
        let at = ("write", 2 * step, "/var/lib/xsnap/import/journal");
        let ran = bare.xsnap_until(at, &words(&["import", "latest", "--take-name"]));
        assert_eq!(ran.code, -1, "{}\n{}", ran.text(), ran.complaint());
        bare.xsnap(&["import", "--undo"]).expect(0);
        if bare.at("/opt/xcat").exists() {
            is_as_it_was(&was, &bare);
        } else {
            let found: Vec<String> = was.differing(&bare).iter().map(shown).collect();
            assert!(found.iter().all(|line| OF_MANAGERS.iter().any(|own| line.starts_with(own))), "{found:#?}");
        }
    }
}

/// Where an undo is killed: at the n-th call of this kind in any of its threads. Files take the place of others by the one, and
/// go by the other.
const KILLS: [(&str, usize); 7] = [
    ("renameat", 1),
    ("renameat", 2),
    ("renameat", 4),
    ("renameat", 8),
    ("unlinkat", 1),
    ("unlinkat", 2),
    ("unlinkat", 4),
];

#[test]
fn an_undo_that_is_killed_anywhere_goes_on_to_the_same_end() {
    if !installed("strace", "strace") {
        return;
    }
    let Some(node) = captured(rpm_root()) else { return };
    let bare = lived_in(&node);
    let was = Was::of(&bare);
    bare.xsnap(&words(&["import", "latest", "--take-name"])).expect(0);
    for (call, number) in KILLS {
        let ran = bare.xsnap_until((call, number, ""), &["import", "--undo"]);
        assert_eq!(ran.code, -1, "not killed at {call} {number}: {}\n{}", ran.text(), ran.complaint());
    }
    bare.xsnap(&["import", "--undo"]).expect(0);
    is_as_it_was(&was, &bare);
    let state = "systemctl is-active xcatd httpd; systemctl is-enabled xcatd httpd; true";
    assert_eq!(bare.sh(state), "inactive\nactive\ndisabled\nenabled\n");
}

#[test]
fn a_node_that_was_replaced_is_brought_back_with_its_tables() {
    let Some(node) = captured(rpm_root()) else { return };
    let bare = Bare::like(&node);
    bare.xsnap(&words(&["import", "latest"])).expect(0);
    // What was imported lives on, and so does the captured node.
    let nodes = |at: PathBuf| Connection::open(at.join("nodelist.sqlite")).unwrap();
    let old = "INSERT INTO nodelist (node, groups) VALUES ('old1', 'all');";
    nodes(bare.at("/etc/xcat")).execute_batch(old).unwrap();
    fs::write(bare.at("/etc/xcat/own.sqlite.backup"), "of the old node\n").unwrap();
    fs::write(bare.at("/install/custom/old"), "of the old node\n").unwrap();
    fs::remove_file(bare.at("/install/custom/compute.synclist")).unwrap();
    fs::write(bare.at("/etc/xcat/ca/index"), "V\t330101000000Z\t\t0a\tunknown\t/CN=bob\n").unwrap();
    let new = "INSERT INTO nodelist (node, groups) VALUES ('cn3', 'all');";
    nodes(node.root.at("/etc/xcat")).execute_batch(new).unwrap();
    fs::write(node.root.at("/install/custom/new"), "of the new node\n").unwrap();
    node.xsnap(&words(&["backup", "--cluster", "alpha"])).expect(0);

    let was = Was::of(&bare);
    bare.xsnap(&words(&["import", "latest"])).expect(2);
    bare.xsnap(&words(&["import", "latest", "--replace"])).expect(0);
    is_that_node(&node, &bare);
    let undone = bare.xsnap(&["import", "--undo", "--json"]).expect(0).message("undo");
    assert_eq!(undone["packages"].as_array().unwrap().len(), 0);
    let found = was.differing(&bare);
    let found: Vec<String> = found.iter().filter(|d| !is_below(&d.path, &OF_MANAGERS)).map(shown).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert_eq!(bare.sh("systemctl is-active xcatd"), "active\n");
}
