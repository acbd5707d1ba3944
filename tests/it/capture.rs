//! A management node that does not run is captured from its disk by the program: what is taken, left out, missing, refused.

use crate::support::{
    node::privileged,
    program::{Ran, on, run, xsnap},
    same::differences,
    store::{place, total_bytes},
    xcat::{Node, data, names},
};
use rusqlite::Connection;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

/// A management node of files, whose tables name what is there, and a place for a repository.
struct Scene {
    node: Node,
    _place: tempfile::TempDir,
    path: PathBuf,
    repo: PathBuf,
}

/// Files that make the node whole, but for a database of packages.
const FILES: [(&str, &str); 27] = [
    ("etc/os-release", "ID=\"rhel\"\nVERSION_ID=\"8.10\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 8.10\"\n"),
    ("etc/hostname", "mn1\n"),
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nal:x:1000:1000::/home/al:/bin/sh\n"),
    ("etc/group", "root:x:0:\nal:x:1000:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n10.20.0.1 mn1\n"),
    ("etc/exports", "/install *(rw)\n"),
    ("etc/xcat/ca/index", "V\t300101000000Z\t\t01\tunknown\t/CN=al\n"),
    ("etc/xcat/ca/private/ca-key.pem", "a key"),
    ("home/al/.xcat/client-cred.pem", "al's key"),
    ("home/al/private", "not xCAT's"),
    ("root/.ssh/id_rsa", "root's key"),
    ("root/.xcat/client-cred.pem", "root's certificate"),
    ("install/custom/own.tmpl", "a template"),
    ("install/postscripts/mine", "#!/bin/sh\n"),
    ("install/postscripts/confignics", "#!/bin/sh\n"),
    ("install/postscripts/mypost", "#!/bin/sh\n"),
    ("install/postscripts/otherpkgs", "#!/bin/sh\n"),
    ("install/postscripts/remoteshell", "#!/bin/sh\n"),
    ("install/postscripts/servicenode", "#!/bin/sh\n"),
    ("install/postscripts/syncfiles", "#!/bin/sh\n"),
    ("install/postscripts/syslog", "#!/bin/sh\n"),
    ("install/copied/x86_64/.treeinfo", "[general]\n"),
    ("install/copied/x86_64/Packages/a.rpm", "a package of the distributor's"),
    ("tftpboot/xcat/genesis.fs.x86_64.gz", "discovery"),
    ("tftpboot/xcat/xnba/nodes/cn1", "#!gpxe\n"),
    ("usr/local/bin/tool", "#!/bin/sh\n"),
    ("var/lib/dhcpd/dhcpd.leases", "host cn1 {}\n"),
];

/// What is changed, how, and what names it then.
type Change = (&'static str, fn(&Scene), &'static str);

/// What this scene lacks on purpose: a database of packages.
const NO_PACKAGES: &str = "neither rpm's nor dpkg's database is there";

impl Scene {
    fn new() -> Self {
        let node = Node::sample();
        FILES.iter().for_each(|(path, text)| node.write(path, text));
        for (table, words) in [
            ("osimage", "DELETE FROM osimage"),
            ("linuximage", "DELETE FROM linuximage"),
            ("osdistro", "DELETE FROM osdistro"),
            ("policy", "DELETE FROM policy WHERE name IS NOT NULL AND name <> 'root'"),
            ("kit", "DELETE FROM kit"),
            ("notification", "DELETE FROM notification"),
            ("osdistro", "INSERT INTO osdistro (osdistroname, dirpaths) VALUES ('copied', '/install/copied/x86_64')"),
        ] {
            node.open(table).execute_batch(words).unwrap();
        }
        let (_place, path) = place();
        let repo = path.join("repository");
        Self { node, _place, path, repo }
    }

    fn set_site(&self, key: &str, value: &str) {
        let site = self.node.open("site");
        site.execute("DELETE FROM site WHERE key = ?1", [key]).unwrap();
        site.execute("INSERT INTO site (key, value) VALUES (?1, ?2)", [key, value]).unwrap();
    }

    fn capture(&self, words: &[&str]) -> Ran {
        let root = self.node.root();
        let staging = self.path.to_str().unwrap();
        let own = ["backup", "--root", root.to_str().unwrap(), "--staging", staging];
        run(&self.repo, own.iter().chain(words).copied())
    }

    /// What a dry run tells as missing, but for what this scene lacks on purpose.
    fn missing(&self, words: &[&str]) -> Vec<String> {
        let ran = self.capture(&[&["--dry-run", "--json"], words].concat());
        assert_eq!(ran.code, 3, "{}", ran.complaint());
        let missing = ran.json().into_iter().filter(|line| line["message"] == "missing");
        let lines =
            missing.map(|line| format!("{}: {}", line["path"].as_str().unwrap(), line["why"].as_str().unwrap()));
        lines.filter(|line| !line.contains(NO_PACKAGES)).collect()
    }

    fn restored(&self) -> PathBuf {
        let target = self.path.join("restored");
        run(&self.repo, ["restore", "latest", "--target", target.to_str().unwrap()]).expect(0);
        target
    }
}

fn of<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["message"] == message).collect()
}

#[test]
fn the_manifest_says_how_much_of_every_part_was_stored_and_a_dry_run_says_the_same() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let planned = scene.capture(&["--dry-run", "--json"]).expect(3).json();
    let planned = of(&planned, "part").into_iter().map(|line| (line["part"].to_string(), line["bytes"].clone()));
    let planned: BTreeMap<String, Value> = planned.collect();
    scene.capture(&[]).expect(3);
    let shown = run(&scene.repo, ["show", "latest", "--json"]).expect(0).message("show");
    let parts = shown["manifest"]["parts"].as_array().unwrap();
    let stored: BTreeMap<String, Value> =
        parts.iter().map(|part| (part["name"].to_string(), part["bytes"].clone())).collect();
    // Copies of the tables stand among what is xCAT's.
    let tables = "\"xcat\"";
    assert!(stored[tables].as_u64() > planned[tables].as_u64(), "{stored:?} {planned:?}");
    let without = |mut parts: BTreeMap<String, Value>| {
        parts.remove(tables);
        parts
    };
    assert_eq!(without(stored.clone()), without(planned));
    assert!(stored.values().filter(|bytes| bytes.as_u64().unwrap() > 0).count() > 3, "{stored:?}");
    // The manifest was walked last and stands where it always stood; what is unchanged is not read again.
    let target = scene.restored();
    assert!(target.join(".xsnap/manifest.json").exists() && target.join(".xsnap/xcatdb/site.csv").exists());
    run(&scene.repo, ["check", "--read-data"]).expect(0);
}

#[test]
fn a_mounted_management_node_comes_back_with_tables_and_without_what_can_be_made_again() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let ran = scene.capture(&["--json", "--customer", "ACME", "--order", "4711"]).expect(3);
    let lines = ran.json();
    let left: Vec<&str> = of(&lines, "left out").iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert_eq!(left, ["/install/copied/x86_64", "/tftpboot/xcat/genesis.fs.x86_64.gz"]);
    assert!(of(&lines, "left out")[0]["again"].as_str().unwrap().starts_with("copycds -o "));
    assert!(of(&lines, "left out")[0]["bytes"].as_u64().unwrap() > 0);
    let seen: Vec<&str> = of(&lines, "seen").iter().map(|line| line["path"].as_str().unwrap()).collect();
    assert!(seen.contains(&"/usr/local/bin"), "{seen:?}");
    let missing = of(&lines, "missing");
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(missing[0]["why"].as_str().unwrap().contains(NO_PACKAGES));
    let target = scene.restored();
    assert!(!target.join("install/copied/x86_64").exists() && !target.join("home/al/private").exists());
    for path in
        ["root/.ssh/id_rsa", "home/al/.xcat/client-cred.pem", "install/custom/own.tmpl", "tftpboot/xcat/xnba/nodes/cn1"]
    {
        assert_eq!(fs::read(target.join(path)).unwrap(), fs::read(scene.node.root().join(path)).unwrap(), "{path}");
    }
    // Every table, but for the logs, which were not asked for.
    let logs = ["auditlog.sqlite", "eventlog.sqlite"];
    let wanted: Vec<String> =
        names(&data().join("sqlite")).into_iter().filter(|n| !logs.contains(&n.as_str())).collect();
    let tables = target.join("etc/xcat");
    assert_eq!(names(&tables).into_iter().filter(|name| name.ends_with(".sqlite")).collect::<Vec<_>>(), wanted);
    for name in &wanted {
        let table = name.strip_suffix(".sqlite").unwrap();
        let copy = Connection::open(tables.join(name)).unwrap();
        let rows = |db: &Connection| -> i64 {
            db.query_row(&format!("SELECT count(*) FROM {table}"), [], |r| r.get(0)).unwrap()
        };
        assert_eq!(rows(&copy), rows(&scene.node.open(table)), "{table}");
    }
    let csvs = target.join(".xsnap/xcatdb");
    assert_eq!(names(&csvs).len(), wanted.len());
    assert_eq!(fs::read(csvs.join("nodehm.csv")).unwrap(), fs::read(data().join("dump/nodehm.csv")).unwrap());
    let manifest: Value = serde_json::from_slice(&fs::read(target.join(".xsnap/manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["cluster"]["customer"], "ACME");
    assert_eq!(manifest["machine"]["host_name"], "mn1");
    assert_eq!(manifest["machine"]["level"], "8.10");
    assert_eq!(manifest["database"]["engine"], "SQLite");
    let listed = run(&scene.repo, ["list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["cluster"]["customer"], "ACME");
    assert_eq!(listed[0]["cluster"]["distribution"], "Red Hat Enterprise Linux 8.10");
    assert!(listed[0]["cluster"]["nodes"].as_u64().unwrap() > 100);
    assert!(names(&scene.path).iter().all(|name| !name.starts_with("xsnap-staging")), "the staging folder stayed");
}

#[test]
fn a_second_capture_of_the_same_adds_next_to_nothing_and_restores_the_same() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    scene.capture(&[]).expect(3);
    let one = scene.restored();
    fs::rename(&one, scene.path.join("one")).unwrap();
    let before = total_bytes(&scene.repo.join("packs"));
    scene.capture(&[]).expect(3);
    let added = total_bytes(&scene.repo.join("packs")) - before;
    assert!(added < 50_000, "{added}");
    let two = scene.restored();
    let differences = differences(&scene.path.join("one"), &two);
    let differences: Vec<&String> =
        differences.iter().filter(|line| !line.contains(".xsnap") && !line.starts_with(": mtime")).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    let manifest = |root: &Path| fs::read(root.join(".xsnap/manifest.json")).unwrap();
    assert!(manifest(&two) == manifest(&scene.path.join("one")), "equal states have equal manifests");
}

#[test]
fn an_encrypted_repository_is_opened_while_the_plan_is_made_and_a_wrong_password_leaves_nothing() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let [right, wrong] = ["right", "wrong"].map(|name| {
        fs::write(scene.path.join(name), name).unwrap();
        scene.path.join(name).to_str().unwrap().to_owned()
    });
    run(&scene.repo, ["init", "--encrypt", "--password-file", &right]).expect(0);
    let ran = scene.capture(&["--password-file", &wrong]).expect(12);
    assert!(ran.complaint().contains("password"), "{}", ran.complaint());
    assert!(names(&scene.path).iter().all(|name| !name.starts_with("xsnap-staging")), "the staging folder stayed");
    scene.capture(&["--password-file", &right]).expect(3);
    // With a password that nothing asked for, and with none: both are told after the plan as before it.
    let plain = scene.path.join("plain");
    run(&plain, ["init"]).expect(0);
    let root = scene.node.root();
    let words = ["backup", "--root", root.to_str().unwrap(), "--password-file", &right];
    let ran = run(&plain, words).expect(2);
    assert!(ran.complaint().contains("not encrypted"), "{}", ran.complaint());
    let ran = scene.capture(&[]).expect(12);
    assert!(ran.complaint().contains("password"), "{}", ran.complaint());
    let listed = run(&scene.repo, ["list", "--json", "--password-file", &right]).expect(0).json();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[test]
fn what_is_not_as_it_should_be_is_named_and_makes_the_capture_incomplete() {
    if !privileged() {
        return;
    }
    let changes: [Change; 8] = [
        ("a table that is gone", |s| fs::remove_file(s.node.table("nodelist")).unwrap(), "nodelist"),
        ("a damaged table", |s| fs::write(s.node.table("hosts"), vec![7; 8192]).unwrap(), "hosts.sqlite"),
        ("an empty root", |s| s.set_site("tftpdir", "/empty"), "/empty"),
        ("a dangling root", |s| s.set_site("installdir", "/dangling"), "leads to /nowhere"),
        ("no root at all", |s| s.set_site("installdir", "/missing"), "/missing"),
        (
            "what fstab has and nobody mounted",
            |s| s.node.write("etc/fstab", "filer:/vol/install /install nfs defaults 0 0\n"),
            "filer:/vol/install",
        ),
        (
            "a file that a table names",
            |s| {
                let words = "INSERT INTO linuximage (imagename, template) VALUES ('x', '/install/custom/gone.tmpl')";
                s.node.open("linuximage").execute_batch(words).unwrap();
            },
            "/install/custom/gone.tmpl",
        ),
        ("a home that is gone", |s| fs::remove_dir_all(s.node.root().join("home/al")).unwrap(), "/home/al"),
    ];
    for (what, change, word) in changes {
        let scene = Scene::new();
        fs::create_dir(scene.node.root().join("empty")).unwrap();
        symlink("/nowhere", scene.node.root().join("dangling")).unwrap();
        assert_eq!(scene.missing(&[]), Vec::<String>::new(), "before: {what}");
        change(&scene);
        let missing = scene.missing(&[]);
        assert!(missing.iter().any(|line| line.contains(word)), "{what}: {missing:#?}");
    }
}

#[test]
fn roots_that_are_links_are_taken_with_what_lies_behind_them() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let root = scene.node.root();
    fs::create_dir(root.join("drbd")).unwrap();
    fs::rename(root.join("install"), root.join("drbd/install")).unwrap();
    symlink("/drbd/install", root.join("install")).unwrap();
    fs::write(root.join("drbd/other"), "nobody's").unwrap();
    let ran = scene.capture(&["--json"]).expect(3);
    let left: Vec<String> =
        of(&ran.json(), "left out").iter().map(|line| line["path"].as_str().unwrap().to_owned()).collect();
    assert!(left.contains(&"/drbd/install/copied/x86_64".to_owned()), "{left:?}");
    let target = scene.restored();
    assert_eq!(fs::read_link(target.join("install")).unwrap(), Path::new("/drbd/install"));
    assert_eq!(fs::read(target.join("drbd/install/custom/own.tmpl")).unwrap(), b"a template");
    assert!(!target.join("drbd/install/copied/x86_64").exists() && !target.join("drbd/other").exists());
}

#[test]
fn parts_are_chosen_added_and_left_out_by_name() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let parts = |words: &[&str]| -> Vec<String> {
        let ran = scene.capture(&[&["--dry-run", "--json"], words].concat());
        of(&ran.json(), "part").iter().map(|line| line["part"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(parts(&["--part", "hosts,nfs"]), ["hosts", "nfs"]);
    assert!(!parts(&["--skip-part", "install"]).contains(&"install".to_owned()));
    assert!(!parts(&[]).contains(&"host-names".to_owned()));
    assert!(parts(&["--include-host"]).contains(&"host-names".to_owned()));
    assert!(parts(&["--also", "/usr/local"]).contains(&"also".to_owned()));
    let refused = scene.capture(&["--dry-run", "--part", "hots"]).expect(2).complaint();
    assert!(refused.contains("no part hots") && refused.contains("hosts"), "{refused}");
    let refused = scene.capture(&["--dry-run", "--with", "kernels"]).expect(2).complaint();
    assert!(refused.contains("images, "), "{refused}");
    let profile = scene.path.join("more.toml");
    fs::write(&profile, "[[part]]\nname = 'tools'\nclass = 'must'\nwhy = 'ours'\npaths = ['/usr/local/bin']\n")
        .unwrap();
    assert!(parts(&["--profile", profile.to_str().unwrap()]).contains(&"tools".to_owned()));
    fs::write(&profile, "[[part]]\nname = 'tools'\nclass = 'perhaps'\n").unwrap();
    let refused = scene.capture(&["--dry-run", "--profile", profile.to_str().unwrap()]).expect(2).complaint();
    assert!(refused.contains("more.toml") && refused.contains("perhaps"), "{refused}");
    assert!(String::from_utf8(run(&scene.repo, ["profile", "show"]).expect(0).out).unwrap().contains("[[part]]"));
}

#[test]
fn a_machine_that_is_no_management_node_is_refused_with_the_way_on() {
    if !privileged() {
        return;
    }
    let (_place, path) = place();
    let repo = path.join("repository");
    if !Path::new("/etc/xCATMN").exists() {
        let refused = run(&repo, ["backup"]).expect(2).complaint();
        assert!(refused.contains("backup PATH") && refused.contains("--root"), "{refused}");
    }
    let root = path.join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    let root = root.to_str().unwrap();
    let refused = run(&repo, ["backup", "--root", root]).expect(2).complaint();
    assert!(refused.contains("etc/xcat/site.sqlite"), "{refused}");
    fs::write(path.join("root/etc/xCATSN"), "").unwrap();
    let refused = run(&repo, ["backup", "--root", root]).expect(2).complaint();
    assert!(refused.contains("service node"), "{refused}");
    let refused = run(&repo, ["backup", "--root", root, "/etc"]).expect(2).complaint();
    assert!(refused.contains("--root"), "{refused}");
    assert!(!repo.exists());
    xsnap();
}

#[test]
fn files_of_a_management_node_are_never_written_over_a_machine_by_mistake() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    scene.capture(&[]).expect(3);
    for target in ["/", "//", "/."] {
        let refused = run(&scene.repo, ["restore", "latest", "--target", target]).expect(2).complaint();
        assert!(refused.contains("xsnap import") && refused.contains("--files-only"), "{refused}");
    }
    let words = ["restore", "latest", "--target", "/", "--files-only", "--dry-run", "--json"];
    let ran = on(&scene.repo, words).output().unwrap();
    assert!(!String::from_utf8_lossy(&ran.stdout).contains(".xsnap"));
}

#[test]
fn what_is_not_the_distributions_in_its_copy_is_warned_of_by_name() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    let copy = "install/copied/x86_64";
    scene.node.write(&format!("{copy}/.discinfo"), "1700000000.1\n8.10\nx86_64\n");
    let left_out = |words: &[&str]| -> Vec<Value> {
        let lines = scene.capture(&[&["--dry-run", "--json"], words].concat()).expect(3).json();
        of(&lines, "left out").into_iter().filter(|line| line["class"] == "distro").cloned().collect()
    };
    // Without any list of its files nobody can say whose they are.
    let out = left_out(&[]);
    assert_eq!((out.len(), &out[0]["unlisted"], out[0]["unsure"].as_array().unwrap().len()), (1, &0.into(), 1));
    let list = format!("{}  ./Packages/a.rpm\n", "0".repeat(32));
    scene.node.write(&format!("{copy}/md5sum.txt"), &list);
    let told = scene.capture(&["--dry-run"]).expect(3).complaint();
    assert!(!told.contains("not the distribution's"), "a disc as it was made: {told}");
    // What a table names is taken, and is not lost.
    for name in ["Packages/mine.rpm", "post.sh", "own.tmpl"] {
        scene.node.write(&format!("{copy}/{name}"), "mine");
    }
    let row = format!("INSERT INTO linuximage (imagename, template) VALUES ('x', '/{copy}/own.tmpl')");
    scene.node.open("linuximage").execute_batch(&row).unwrap();
    let told = scene.capture(&[]).expect(3).complaint();
    let lost = format!(
        "2 files that are not the distribution's, so that no copycds brings them back: /{copy}/Packages/mine.rpm, /{copy}/post.sh"
    );
    assert_eq!(told.lines().filter(|line| line.contains(&lost)).count(), 1, "{told}");
    let target = scene.restored();
    assert!(target.join(copy).join("own.tmpl").exists() && !target.join(copy).join("post.sh").exists());
    let shown = run(&scene.repo, ["show", "latest"]).expect(0).text();
    assert!(shown.contains(&format!("lost with it: 2 files, /{copy}/Packages/mine.rpm, /{copy}/post.sh")), "{shown}");
    assert!(shown.contains(".discinfo: 1700000000.1 | 8.10 | x86_64; .treeinfo: [general]"), "{shown}");
    let manifest = |repo: &Path| run(repo, ["show", "latest", "--json"]).expect(0).message("show")["manifest"].clone();
    let found = manifest(&scene.repo);
    assert_eq!(found["left_out"][0]["unlisted"], 2);
    let marks = &found["machine"]["copies"][0];
    assert_eq!((&marks["path"], &marks["marks"][0]["lines"][1]), (&format!("/{copy}").into(), &"8.10".into()));
    // The marks of a copy that is taken are recorded as well, and nothing is lost.
    assert!(left_out(&["--with", "distro"]).is_empty());
    let told = scene.capture(&["--with", "distro"]).expect(3).complaint();
    assert!(!told.contains("not the distribution's"), "{told}");
    assert_eq!(manifest(&scene.repo)["machine"]["copies"], found["machine"]["copies"]);
}

#[test]
fn what_is_wrong_with_the_database_is_told_once() {
    if !privileged() {
        return;
    }
    let scene = Scene::new();
    fs::remove_file(scene.node.table("nodelist")).unwrap();
    fs::write(scene.node.table("hosts"), vec![7; 8192]).unwrap();
    for words in [&[][..], &["--json"], &["--dry-run"], &["--dry-run", "--json"], &["--quiet"]] {
        let ran = scene.capture(words).expect(3);
        let told = ran.text() + &ran.complaint();
        for file in ["/nodelist.sqlite", "/hosts.sqlite"] {
            let lines: Vec<&str> = told.lines().filter(|line| line.contains(file)).collect();
            assert_eq!(lines.len(), 1, "{words:?}: {lines:#?}");
        }
    }
}
