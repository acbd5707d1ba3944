//! What `show` and `diff` promise of captured management nodes.

use crate::support::{
    program::{Ran, run},
    store::{Store, place},
    xcat::Node,
};
use std::{fs, os::unix::fs::symlink, path::PathBuf};
use xsnap::{
    archive::{
        backup::Request,
        plan::{Graft, View},
    },
    repo::cluster::Cluster,
};

/// Captures need root. Their absence is said loudly, and is a failure where nothing may be left out.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root");
    if !root {
        eprintln!("not tested: this needs root");
    }
    root
}

/// A management node that is captured into a repository.
struct Scene {
    _place: tempfile::TempDir,
    repo: PathBuf,
    node: Node,
}

impl Scene {
    fn new() -> Self {
        let (_place, path) = place();
        let node = Node::sample();
        node.write("etc/hostname", "mn1\n");
        node.write("usr/lib/systemd/system/xcatd.service", "");
        node.write("etc/xcat/cert/key.pem", "key");
        let scene = Self { _place, repo: path.join("repository"), node };
        scene.install("2.16.5");
        scene
    }

    /// Has the books say that this version of xCAT is installed.
    fn install(&self, version: &str) {
        let one = |name: &str, version: &str| {
            format!("Package: {name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {version}\n\n")
        };
        self.node.write("var/lib/dpkg/status", &[one("xcat", &format!("{version}-1")), one("bash", "5.2-1")].concat());
        for name in ["xcat", "bash"] {
            self.node.write(&format!("var/lib/dpkg/info/{name}.list"), "/.\n");
            self.node.write(&format!("var/lib/dpkg/info/{name}.md5sums"), "");
        }
        let text = format!("sub Version {{ return 'Version {version} (git commit c0ffee, built today)'; }}\n");
        self.node.write("opt/xcat/lib/perl/xCAT/Version.pm", &text);
    }

    /// Something is always missing from so small a machine.
    fn capture(&self) {
        let root = self.node.root();
        let words = [
            "backup",
            "--no-self",
            "--cluster",
            "alpha",
            "--customer",
            "Acme",
            "--order",
            "4711",
            "--root",
            root.to_str().unwrap(),
        ];
        run(&self.repo, words).expect(3);
    }

    fn run(&self, words: &[&str]) -> Ran {
        run(&self.repo, words)
    }

    fn sql(&self, table: &str, sql: &str) {
        self.node.open(table).execute_batch(sql).unwrap();
    }

    /// What an upgrade and a day's work change.
    fn change(&self) {
        self.sql("nodelist", "INSERT INTO nodelist (node, groups) VALUES ('new1', 'all'); DELETE FROM nodelist WHERE node = 'sn02'; UPDATE nodelist SET status = 'booted' WHERE node IN ('cn001', 'cn002');");
        self.sql("hosts", "UPDATE hosts SET ip = '10.99.0.1' WHERE node = 'sn01';");
        self.sql("passwd", "UPDATE passwd SET password = 'NewSecret' WHERE key = 'ipmi';");
        self.sql("site", "UPDATE site SET value = 'other.test' WHERE key = 'domain';");
        self.install("2.17.0");
        let wants = self.node.root().join("etc/systemd/system/multi-user.target.wants");
        fs::create_dir_all(&wants).unwrap();
        symlink("/usr/lib/systemd/system/xcatd.service", wants.join("xcatd.service")).unwrap();
    }
}

/// The line under a heading.
fn line(text: &str, heading: &str) -> String {
    let found = text.lines().find(|line| line.starts_with(&format!("{heading} ")));
    found.unwrap_or_else(|| panic!("no {heading} in:\n{text}")).to_owned()
}

#[test]
fn show_tells_people_what_a_management_node_was_and_programs_the_whole_manifest() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.capture();
    let text = scene.run(&["show", "latest"]).expect(0).text();
    for (heading, words) in [
        ("cluster", ["alpha (customer", "customer Acme", "order 4711"]),
        ("xCAT", ["2.16.5", "", ""]),
        ("host name", ["mn1", "domain cluster.test", ""]),
        ("database", ["SQLite", "71 tables", "with rows"]),
        ("packages", ["2 packages", "dpkg", "1 of xCAT"]),
        ("installs", ["not by itself", "", ""]),
        ("parts", ["", "", ""]),
        ("problems", ["cannot ", "", ""]),
    ] {
        let line = line(&text, heading);
        assert!(words.iter().all(|word| line.contains(word)), "{words:?} in {line}\n{text}");
    }
    assert!(text.contains("nodelist 199"), "{text}");
    let shown = scene.run(&["show", "latest", "--json"]).expect(0).message("show");
    let stored = scene.run(&["cat", "latest:/.xsnap/manifest.json"]).expect(0);
    assert_eq!(shown["manifest"], serde_json::from_slice::<serde_json::Value>(&stored.out).unwrap());
    assert_eq!(shown["snapshot"]["cluster"]["customer"], "Acme");
    scene.run(&["show", "latest:/etc"]).expect(2);
}

#[test]
fn show_of_other_files_tells_what_is_recorded_of_them() {
    let (_place, path) = place();
    let (repo, source) = (path.join("repository"), path.join("source"));
    fs::create_dir_all(source.join(".xsnap")).unwrap();
    fs::write(source.join("file"), "12345").unwrap();
    run(&repo, ["backup", "--host", "mn7", "--label", "a label", source.to_str().unwrap()]).expect(0);
    let text = run(&repo, ["show", "latest"]).expect(0).text();
    assert!(line(&text, "host").contains("mn7") && line(&text, "snapshot").contains("a label"), "{text}");
    assert!(line(&text, "paths").contains(source.to_str().unwrap()) && line(&text, "holds").contains("file"), "{text}");
    let shown = run(&repo, ["show", "latest", "--json"]).expect(0).message("show");
    assert!(shown["manifest"].is_null());
}

#[test]
fn a_manifest_that_makes_no_sense_or_is_of_a_newer_form_is_told_and_the_rest_is_shown() {
    let (_place, path) = place();
    let own = path.join("own");
    fs::create_dir_all(&own).unwrap();
    let source = path.join("source");
    fs::write(&source, "12345").unwrap();
    for (name, text, why) in [("a", "{\"form\": ", "damaged"), ("b", "{\"form\": 99}", "newer xsnap")] {
        let repo = path.join(name);
        fs::write(own.join("manifest.json"), text).unwrap();
        let store = Store::init(repo.clone(), None);
        let view = View { grafts: vec![Graft { at: b"/.xsnap".to_vec(), from: own.clone() }], ..View::default() };
        let cluster = Some(Cluster { name: "alpha".into(), ..Cluster::default() });
        let request = Request { view, cluster, ..store.request(&[&source]) };
        store.backup_as(&request);
        let diff = run(&repo, ["diff", "latest", "latest"]).expect(3);
        assert!(diff.complaint().contains(why) && diff.text() == "no differences\n", "{diff:?}");
        let ran = run(&repo, ["show", "latest"]).expect(3);
        assert!(ran.complaint().contains(why), "{}", ran.complaint());
        assert!(line(&ran.text(), "holds").contains("file"), "{}", ran.text());
        let shown = run(&repo, ["show", "latest", "--json"]).expect(3).message("show");
        assert!(shown["manifest"].is_null());
    }
}

#[test]
fn diff_answers_first_what_nodes_rows_packages_and_services_became_and_shows_no_secret() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.capture();
    let first = scene.run(&["list", "--json"]).expect(0).json()[0]["short_id"].as_str().unwrap().to_owned();
    scene.change();
    scene.capture();
    let text = scene.run(&["diff", &first, "latest"]).expect(0).text();
    for (heading, words) in [
        ("xCAT", "2.16.5 -> 2.17.0"),
        ("nodes", "1 added (new1); 1 removed (sn02); 1 changed (sn01); status of 2 nodes"),
        ("packages", "1 changed (xcat 0:2.16.5-1.amd64 -> 0:2.17.0-1.amd64)"),
        ("services", "xcatd: disabled -> enabled"),
    ] {
        let line = line(&text, heading);
        assert!(line.contains(words), "{words} in {line}\n{text}");
    }
    for words in [
        "hosts: 1 changed (sn01: ip 10.20.2.1 -> 10.99.0.1)",
        "passwd: 1 changed (ipmi/ADMIN: password changed)",
        "site: 1 changed (domain: value cluster.test -> other.test)",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    let file = text.find("C  /etc/xcat/site.sqlite").unwrap();
    assert!(text.find("services").unwrap() < file, "the files come last:\n{text}");
    let json = scene.run(&["diff", &first, "latest", "--json"]).expect(0);
    let total = json.message("management nodes");
    assert_eq!(
        [&total["nodes_added"], &total["nodes_removed"], &total["nodes_changed"], &total["status_nodes"]],
        [1, 1, 1, 2]
    );
    let password = json.json().into_iter().find(|o| o["message"] == "row" && o["table"] == "passwd").unwrap();
    assert_eq!(password["cells"][0]["after"], serde_json::json!({"secret": true}));
    for said in [&text, &json.text()] {
        assert!(!said.contains("NewSecret") && !said.contains("Adm,in"), "{said}");
    }
    let same = scene.run(&["diff", "latest", "latest"]).expect(0).text();
    assert_eq!(same, "the management nodes are the same: nodes, tables, packages, services\nno differences\n");
    let only = scene.run(&["diff", &format!("{first}:/etc/xcat"), "latest"]).expect(0).text();
    assert!(!only.contains("nodes ") && only.contains("site.sqlite"), "a path is of files alone:\n{only}");
}

#[test]
fn diff_with_this_machine_leaves_out_what_only_a_captured_node_has() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.capture();
    let live = scene.run(&["diff", "latest", "--live"]);
    assert!([0, 3].contains(&live.code), "{}", live.complaint());
    assert!(live.complaint().contains("/.xsnap"), "{}", live.complaint());
    assert!(!live.text().contains(".xsnap") && !live.text().contains(".sqlite"), "{}", live.text());
    assert!(live.text().contains("/etc/xcat/cert/key.pem"), "what else is gone is told:\n{}", live.text());
}
