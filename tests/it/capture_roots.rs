//! A management node that a package manager installed is captured by the plain command, inside its root: every part of it, and
//! nothing that packages bring as it is; and whatever is taken away from it is told by name.

use crate::support::{
    inner::{Change, Inner, KEYS, USB},
    program::Ran,
    roots::{CORE, DEPENDENCIES, Root, apt_root, rpm_root},
    standin::{Manager, tables},
};
use rusqlite::{Connection, types::Value as Cell};
use rustix::fs::inotify;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    mem::MaybeUninit,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);
const BACKUP: [&str; 3] = ["backup", "--repo", USB];

#[test]
fn a_node_that_apt_installed_is_captured_whole_and_comes_back() {
    apt_root().into_iter().for_each(|root| comes_back(&Inner::new(root)));
}

#[test]
fn a_node_that_dnf_installed_is_captured_whole_and_comes_back() {
    rpm_root().into_iter().for_each(|root| comes_back(&Inner::new(root)));
}

#[test]
fn whatever_is_missing_from_a_node_that_apt_installed_is_named() {
    apt_root().into_iter().for_each(|root| is_named(&Inner::new(root)));
}

#[test]
fn whatever_is_missing_from_a_node_that_dnf_installed_is_named() {
    rpm_root().into_iter().for_each(|root| is_named(&Inner::new(root)));
}

#[test]
fn what_root_may_not_read_is_named_and_all_else_is_captured() {
    rpm_root().into_iter().for_each(|root| is_unreadable(&Inner::new(root)));
}

#[test]
fn a_second_capture_of_what_apt_installed_reads_no_packaged_file_and_adds_little() {
    apt_root().into_iter().for_each(|root| is_remembered(&Inner::new(root)));
}

#[test]
fn a_second_capture_of_what_dnf_installed_reads_no_packaged_file_and_adds_little() {
    rpm_root().into_iter().for_each(|root| is_remembered(&Inner::new(root)));
}

#[test]
fn a_capture_shows_no_secret_and_leaves_nothing_behind_even_when_it_is_killed() {
    rpm_root().into_iter().for_each(|root| is_discreet(&Inner::new(root)));
}

/// The JSON objects of one kind.
fn objects(ran: &Ran, kind: &str) -> Vec<Value> {
    ran.json().into_iter().filter(|object| object["message"] == kind).collect()
}

fn texts(values: &Value, key: &str) -> BTreeSet<String> {
    values.as_array().unwrap().iter().map(|value| value[key].as_str().unwrap().to_owned()).collect()
}

fn comes_back(node: &Inner) {
    let planned = node.xsnap(&["--json", "backup", "--repo", USB, "--dry-run"]).expect(0);
    assert_eq!(objects(&planned, "missing"), [] as [Value; 0]);
    node.xsnap(&BACKUP).expect(0);
    let list = node.xsnap(&["list", "--repo", USB]).expect(0).text();
    let distribution = if node.root.manager == Manager::Rpm { "Rocky Linux 9.4" } else { "Debian GNU/Linux 12" };
    for word in ["mn.standin.test", "2.17.0", distribution] {
        assert!(list.contains(word), "{word}: {list}");
    }
    let listed = node.xsnap(&["--json", "list", "--repo", USB]).expect(0).json();
    let cluster = listed.iter().find_map(|line| line.get("cluster").filter(|cluster| cluster.is_object())).unwrap();
    assert_eq!((&cluster["nodes"], &cluster["xcat"]), (&2.into(), &"2.17.0".into()), "{cluster}");
    node.xsnap(&["restore", "latest", "--repo", USB, "--target", "/back"]).expect(0);
    tables_are_back(node);
    files_are_back(node);
    packages_are_back(node);
    manifest_is_right(node);
    assert_eq!(node.staged(), [] as [PathBuf; 0]);
}

/// Every row of a table's file, in the order in which they lie there.
fn rows(path: &Path, table: &str) -> Vec<Vec<Cell>> {
    let open = Connection::open(path).unwrap();
    let found: String = open.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok", "{}", path.display());
    let mut asked = open.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
    let columns = asked.column_count();
    let row = |row: &rusqlite::Row<'_>| (0..columns).map(|at| row.get(at)).collect::<Result<Vec<Cell>, _>>();
    asked.query_map([], row).unwrap().map(Result::unwrap).collect()
}

fn tables_are_back(node: &Inner) {
    let logs = ["auditlog", "eventlog"];
    for (name, ..) in tables().into_iter().filter(|(name, ..)| !logs.contains(name)) {
        let path = format!("/etc/xcat/{name}.sqlite");
        let (live, back) = (node.root.at(&path), node.root.at(&format!("/back{path}")));
        assert_eq!(rows(&back, name), rows(&live, name), "{name}");
        assert_eq!(back.metadata().unwrap().mode() & 0o7777, 0o600, "{name}");
        let csv = fs::read_to_string(node.root.at(&format!("/back/.xsnap/xcatdb/{name}.csv"))).unwrap();
        let (_, _, columns) = tables().into_iter().find(|(other, ..)| other == &name).unwrap();
        assert_eq!(csv.lines().next().unwrap(), format!("#{}", columns.join(",")));
    }
    for name in ["site", "policy", "linuximage", "osimage", "passwd", "nodelist"] {
        let csv = fs::read_to_string(node.root.at(&format!("/back/.xsnap/xcatdb/{name}.csv"))).unwrap();
        assert_eq!(csv, node.standin(&["tabdump", name]), "{name}");
    }
}

fn files_are_back(node: &Inner) {
    let same = [
        "/etc/xcat/ca/index",
        "/etc/hosts",
        "/etc/exports",
        "/etc/goconserver/server.conf",
        "/etc/munge/munge.key",
        "/home/alice/.xcat/client-key.pem",
        "/install/custom/compute.pkglist",
        "/install/custom/compute.synclist",
        "/install/postscripts/_ssh/authorized_keys",
        "/install/postscripts/syslog",
        "/opt/xcat/lib/perl/xCAT_plugin/site.pm",
        "/opt/xcat/share/xcat/install/rh/compute.rhels9.tmpl",
        "/srv/site/postinstall",
        "/tftpboot/xcat/xnba.kpxe",
    ];
    for path in same.iter().chain(&KEYS) {
        let (live, back) = (node.root.at(path), node.root.at(&format!("/back{path}")));
        assert!(back.is_file(), "{path} is not back");
        assert_eq!(fs::read(&back).unwrap(), fs::read(&live).unwrap(), "{path}");
        let shape = |path: &Path| path.metadata().map(|m| (m.mode(), m.uid(), m.gid(), m.mtime())).unwrap();
        assert_eq!(shape(&back), shape(&live), "{path}");
    }
    for path in [
        "/install/postscripts/remoteshell",
        "/opt/xcat/sbin/xcatconfig",
        "/opt/xcat/lib/perl/xCAT/Schema.pm",
        "/opt/xcat/share/xcat/ca/openssl.cnf.tmpl",
        "/install/rocky9.4/x86_64/.discinfo",
        "/etc/shadow",
        "/home/alice/.profile",
        "/usr/bin/sqlite3",
    ] {
        assert!(!node.root.at(&format!("/back{path}")).exists(), "{path} is in the snapshot");
    }
}

/// The packages of each of the folders that xsnap makes, by the beginning of their names in lower case.
fn packages_are_back(node: &Inner) {
    let arch = node.root.manager.arch();
    let (scripts, base) = (format!("xcat-genesis-scripts-{arch}"), format!("xcat-genesis-base-{arch}"));
    let core = ["perl-xcat", "xcat", "xcat-client", &scripts, "xcat-probe", "xcat-server"];
    let dependencies = ["conserver-xcat", "goconserver", &base, "xnba-undi"];
    let extra = ["perl-standin-builder", "perl-standin-extra"];
    for (repository, expected) in [("xcat-core", &core[..]), ("xcat-dep", &dependencies), ("extra", &extra)] {
        let folder = node.root.at(&format!("/back/.xsnap/packages/{repository}"));
        let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let names: Vec<String> = names.map(|name| name.to_ascii_lowercase()).collect();
        let metadata = if node.root.manager == Manager::Rpm { "repodata" } else { "packages" };
        assert!(names.iter().any(|name| name == metadata), "{names:?}");
        let packages = names.iter().filter(|name| name.ends_with(".rpm") || name.ends_with(".deb"));
        let packages: BTreeSet<&str> = packages.map(|name| start_of(name)).collect();
        assert_eq!(packages, BTreeSet::from_iter(expected.iter().copied()), "{repository}");
    }
}

/// The name of a package in the name of its file: all that comes before its version.
fn start_of(name: &str) -> &str {
    match name.strip_suffix(".rpm") {
        Some(name) => name.rsplitn(3, '-').last().unwrap(),
        None => name.split('_').next().unwrap(),
    }
}

fn manifest_is_right(node: &Inner) {
    let text = fs::read(node.root.at("/back/.xsnap/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&text).unwrap();
    let is_rpm = node.root.manager == Manager::Rpm;
    assert_eq!(manifest["cluster"]["name"], "mn.standin.test");
    assert_eq!(manifest["cluster"]["nodes"], 2);
    assert!(manifest["cluster"]["serials"].as_array().unwrap().contains(&"SERIAL-OF-CN1".into()));
    assert_eq!(manifest["machine"]["distribution"], if is_rpm { "rocky" } else { "debian" });
    assert_eq!(
        (&manifest["xcat"]["version"], &manifest["xcat"]["commit"]),
        (&"2.17.0".into(), &"0123456789abcdef".into())
    );
    assert_eq!(manifest["database"]["engine"], "SQLite");
    assert_eq!(manifest["database"]["tables"].as_array().unwrap().len(), tables().len() - 2);
    let packages = &manifest["packages"];
    assert_eq!(packages["manager"], if is_rpm { "rpm" } else { "dpkg" });
    let count = |key: &str| packages[key].as_array().unwrap().len();
    assert_eq!((count("xcat"), count("foreign"), count("captured")), (10, 2, 12), "{packages}");
    assert_eq!((count("missing"), &packages["installs_by_itself"]), (0, &true.into()));
    assert!(texts(&manifest["units"], "name").contains("xcatd"));
    let people = ["alice", "conserver", "root"].map(str::to_owned);
    assert_eq!(texts(&manifest["accounts"], "name"), BTreeSet::from(people));
    let parts = texts(&manifest["parts"], "name");
    for part in ["xcat", "install", "tftp", "hosts", "nfs", "repositories", "consoles", "credentials", "named"] {
        assert!(parts.contains(part), "{part}: {parts:?}");
    }
    assert!(parts.contains("postscripts") && parts.contains("xcat-changes"), "{parts:?}");
    let left_out = manifest["left_out"].as_array().unwrap().iter().find(|out| out["class"] == "distro").unwrap();
    assert_eq!(left_out["path"], "/install/rocky9.4/x86_64");
    assert_eq!(left_out["again"], "copycds -o -n rocky9.4 -a x86_64 -p /install/rocky9.4/x86_64 ISO");
}

/// The file of a package, in whichever repository of the root it lies.
fn package_file(root: &Root, start: &str) -> String {
    let mut folders = vec![root.at(CORE), root.at(DEPENDENCIES), root.at("/srv/extra")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap().to_ascii_lowercase();
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if name.starts_with(start) && (name.ends_with(".rpm") || name.ends_with(".deb")) {
                return format!("/{}", entry.path().strip_prefix(root.path()).unwrap().display());
            }
        }
    }
    panic!("there is no package {start}");
}

/// What can be taken away, with words that one line has to have.
fn changes(root: &Root) -> Vec<(Change, &'static [&'static str])> {
    let gone = |path: &str| Change::Gone(path.to_owned());
    let fstab = "/dev/vda1 / xfs defaults 0 1\nnas:/export/install /install nfs defaults 0 0\n";
    vec![
        (gone(&package_file(root, "xcat-probe")), &["xcat-probe", "2.17.0"]),
        (gone(&package_file(root, "goconserver")), &["goconserver", "0.3.3"]),
        (gone(&package_file(root, "perl-standin-builder")), &["perl-standin-builder", "0.9-1"]),
        (gone("/etc/xcat/mac.sqlite"), &["mac", "table"]),
        (gone("/etc/xcat/nodelist.sqlite"), &["nodelist", "table"]),
        (Change::Damaged("/etc/xcat/networks.sqlite".into()), &["/etc/xcat/networks.sqlite"]),
        (Change::Link("/install".into(), "/shared/install"), &["/install", "leads to /shared/install"]),
        (Change::Emptied("/install".into()), &["/install", "it is empty"]),
        (gone("/tftpboot"), &["/tftpboot", "not there"]),
        (Change::Link("/etc/xcat/cert".into(), "/shared/cert"), &["/etc/xcat/cert", "/shared/cert"]),
        (Change::Link("/root/.xcat".into(), "/shared/root.xcat"), &["/root/.xcat", "/shared/root.xcat"]),
        (
            gone("/install/custom/compute.pkglist"),
            &["/install/custom/compute.pkglist", "linuximage.pkglist of compute"],
        ),
        (gone("/srv/site/postinstall"), &["/srv/site/postinstall", "linuximage.postinstall of compute"]),
        (gone("/etc/munge/munge.key"), &["/etc/munge/munge.key", "compute.synclist"]),
        (gone("/home/alice"), &["/home/alice", "home of", "alice"]),
        (Change::Text("/etc/fstab".into(), fstab), &["/install", "nas:/export/install", "not mounted"]),
    ]
}

fn is_named(node: &Inner) {
    let mut wrong = Vec::new();
    for (change, words) in changes(&node.root) {
        let _undo = node.change(&change);
        let has = |line: &str| words.iter().all(|word| line.to_ascii_lowercase().contains(&word.to_ascii_lowercase()));
        let shown = node.xsnap(&["backup", "--repo", USB, "--dry-run"]);
        let lines = shown.text() + &shown.complaint();
        if shown.code != 3 || !lines.lines().any(has) {
            wrong.push(format!("{change:?}: code {}, nowhere {words:?}: {lines}", shown.code));
        }
        let told = node.xsnap(&["--json", "backup", "--repo", USB, "--dry-run"]);
        if told.code != 3 || !objects(&told, "missing").iter().any(|object| has(&object.to_string())) {
            wrong.push(format!("{change:?}: code {}, nowhere {words:?}: {}", told.code, told.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    node.xsnap(&["backup", "--repo", USB, "--dry-run"]).expect(0);
    let service = Change::Text("/etc/xCATSN".into(), "");
    for (change, words) in [
        (service, &["/etc/xCATSN", "service node", "backup PATH"][..]),
        (Change::Gone("/etc/xCATMN".into()), &["/etc/xCATMN", "backup PATH", "--root"]),
    ] {
        let _undo = node.change(&change);
        let told = node.xsnap(&BACKUP).expect(2).complaint();
        assert!(words.iter().all(|word| told.contains(word)), "{told}");
    }
    // What is missing is recorded with the snapshot, too.
    let _undo = node.change(&Change::Gone(package_file(&node.root, "xnba-undi")));
    let told = node.xsnap(&BACKUP).expect(3);
    assert!((told.text() + &told.complaint()).to_ascii_lowercase().contains("xnba-undi-1.21.1-1"), "{told:?}");
    assert!(node.xsnap(&["list", "--repo", USB]).expect(0).text().contains("(incomplete)"));
}

/// Root of the node, to whom a file server or a hardened unit shows no more than any user may see.
fn is_unreadable(node: &Inner) {
    let key = "/etc/xcat/hostkeys/ssh_host_ed25519_key";
    chown(node.root.at(key), Some(1001), Some(100)).unwrap();
    let told = node.xsnap_squashed(&["--json", "backup", "--repo", USB]).expect(3);
    for (path, word) in [(key, "denied"), ("/home/alice", "alice")] {
        let is_it = |line: &Value| line.to_string().contains(path) && line.to_string().contains(word);
        assert!(told.json().iter().any(is_it), "{path}: {}{}", told.text(), told.complaint());
    }
    let told = node.xsnap_squashed(&BACKUP).expect(3);
    let lines = told.text() + &told.complaint();
    for path in [key, "/home/alice"] {
        assert!(lines.lines().any(|line| line.contains(path) && line.contains("cannot")), "{path}: {lines}");
    }
    node.xsnap(&["restore", "latest", "--repo", USB, "--target", "/back"]);
    assert!(node.root.at("/back/etc/xcat/hostkeys/ssh_host_rsa_key").exists());
    assert!(!node.root.at(&format!("/back{key}")).exists());
}

/// Notes which files below a folder are read.
struct Watch {
    notes: OwnedFd,
    folders: Vec<(i32, PathBuf)>,
}

impl Watch {
    fn below(top: &Path) -> Self {
        let notes = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        let (mut folders, mut rest) = (Vec::new(), vec![top.to_owned()]);
        while let Some(folder) = rest.pop() {
            folders.push((inotify::add_watch(&notes, &folder, inotify::WatchFlags::ACCESS).unwrap(), folder.clone()));
            let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
            rest.extend(entries.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
        }
        while Self::next(&notes).is_some() {}
        Self { notes, folders }
    }

    fn next(notes: &OwnedFd) -> Option<Vec<(i32, String)>> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(notes, &mut buffer);
        let mut found = Vec::new();
        loop {
            let event = reader.next().ok()?;
            assert!(!event.events().contains(inotify::ReadFlags::QUEUE_OVERFLOW));
            if !event.events().contains(inotify::ReadFlags::ISDIR) {
                let name = event.file_name().map(|name| name.to_string_lossy().into_owned());
                found.push((event.wd(), name.unwrap_or_default()));
            }
            if reader.is_buffer_empty() {
                return Some(found);
            }
        }
    }

    /// The files that were read since it was asked before.
    fn read(&self) -> BTreeSet<PathBuf> {
        let events = std::iter::from_fn(|| Self::next(&self.notes)).flatten();
        let path = |(number, name): (i32, String)| {
            let folder = self.folders.iter().find(|(other, _)| *other == number).unwrap();
            folder.1.join(name)
        };
        events.map(path).collect()
    }
}

fn is_remembered(node: &Inner) {
    // What has just been made is not trusted yet.
    std::thread::sleep(Duration::from_millis(3100));
    let watch = Watch::below(&node.root.at("/opt/xcat"));
    node.xsnap(&BACKUP).expect(0);
    // What says which xCAT it is, and which tables there are, is read each time.
    let told = ["xCAT/Version.pm", "xCAT/Schema.pm"].map(|name| node.root.at("/opt/xcat/lib/perl").join(name));
    let read = |watch: &Watch| watch.read().into_iter().filter(|path| !told.contains(path)).collect::<Vec<_>>();
    let first = read(&watch);
    assert!(first.len() > 10, "{first:?}");
    let second = node.xsnap(&["--json", "backup", "--repo", USB]).expect(0).message("backup");
    assert_eq!(read(&watch), [] as [PathBuf; 0]);
    let added = second["added_stored_bytes"].as_u64().unwrap();
    assert!(added < 50_000, "{added} bytes were added");
    let cache = node.root.at("/var/cache/xsnap");
    assert_eq!(cache.metadata().unwrap().mode() & 0o7777, 0o700);
    assert!(cache.join("verified").is_file());
}

fn is_discreet(node: &Inner) {
    let secrets = node.secrets();
    for words in [
        &["backup", "--repo", USB, "--dry-run"][..],
        &["--json", "backup", "--repo", USB, "--dry-run"],
        &BACKUP,
        &["--json", "backup", "--repo", USB],
        &["--json", "list", "--repo", USB],
    ] {
        let ran = node.xsnap(words).expect(0);
        let told = ran.text() + &ran.complaint();
        assert!(!secrets.iter().any(|secret| told.contains(secret)), "{words:?} shows a secret");
        assert_eq!(node.staged(), [] as [PathBuf; 0], "{words:?}");
    }
    // It is killed while it waits for another program, when its copies of tables are made.
    let script = "#!/bin/sh\necho $$ > /tmp/waits.new\nmv /tmp/waits.new /tmp/waits\nexec sleep 60\n";
    let waits = node.root.at("/tmp/waits");
    let undo = node.change(&Change::Text("/usr/bin/ip".into(), script));
    fs::set_permissions(node.root.at("/usr/bin/ip"), PermissionsExt::from_mode(0o755)).unwrap();
    let mut child = node.start(&BACKUP);
    let began = Instant::now();
    while !waits.exists() {
        assert!(began.elapsed() < LONG && child.try_wait().unwrap().is_none(), "it never asked for addresses");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let other: i32 = fs::read_to_string(&waits).unwrap().trim().parse().unwrap();
    let _ =
        rustix::process::kill_process(rustix::process::Pid::from_raw(other).unwrap(), rustix::process::Signal::KILL);
    drop(undo);
    let left = node.staged();
    assert_eq!(left.len(), 1, "killed in the middle");
    assert_eq!(left[0].metadata().unwrap().mode() & 0o7777, 0o700);
    assert!(fs::read_dir(&left[0]).unwrap().count() > 0);
    node.xsnap(&BACKUP).expect(0);
    assert_eq!(node.staged(), [] as [PathBuf; 0]);
}
