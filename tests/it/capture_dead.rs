//! A management node that no longer boots, captured from its mounted disk: file systems that do not answer, and a package
//! database that nothing here can read.

use crate::support::{
    inner::Inner,
    mounted::Mounted,
    node::privileged,
    program::{Ran, end, finish, installed, on, run, start, system, xsnap},
    roots::rpm_root,
    store::place,
    xcat::Node,
};
use serde_json::Value;
use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::chown,
    path::Path,
    time::{Duration, Instant},
};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(120);

/// A disc with one file.
fn disc(folder: &Path) -> std::path::PathBuf {
    let (content, image) = (folder.join("disc"), folder.join("disc.iso"));
    fs::create_dir(&content).unwrap();
    fs::write(content.join("file"), "on a disc").unwrap();
    let words = ["-as", "mkisofs", "-quiet", "-o"].map(OsStr::new);
    system("xorriso", &[&words[..], &[image.as_os_str(), content.as_os_str()]].concat());
    image
}

#[test]
fn file_systems_that_do_not_answer_end_in_a_time_out_and_are_named() {
    if !privileged() || !installed("xorriso", "xorriso") || !installed("fuseiso", "fuseiso") {
        return;
    }
    let (node, (_place, path)) = (Node::sample(), place());
    let root = node.root();
    for (file, text) in [
        ("etc/hosts", "127.0.0.1 localhost\n"),
        ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n"),
        ("install/custom/own.tmpl", "a template"),
        ("install/copied/x86_64/.treeinfo", "[general]\n"),
        ("opt/xcat/lib/own", "an own file"),
        ("tftpboot/xcat/xnba/nodes/cn1", "#!gpxe\n"),
    ] {
        node.write(file, text);
    }
    let row =
        "DELETE FROM osdistro; INSERT INTO osdistro (osdistroname, dirpaths) VALUES ('c', '/install/copied/x86_64')";
    node.open("osdistro").execute_batch(row).unwrap();
    // In a part, in what is left out, among what packages bring, in a home, and instead of a whole part.
    let places = ["/install/copied/x86_64/deep", "/opt/xcat/share", "/root/.xcat", "/var/lib/dhcpd"];
    let at = |place: &str| root.join(place.trim_start_matches('/'));
    let _mute = places.map(|place| Mounted::never_answering(&at(place)));
    let _stopped = Mounted::stopped_iso(&disc(&path), &at("/install/iso"));

    let repo = path.join("repository");
    let words = ["backup", "--root", root.to_str().unwrap(), "--staging", path.to_str().unwrap()];
    let began = Instant::now();
    let mut child = start(&mut on(&repo, words));
    while child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < LONG, "it hangs");
        std::thread::sleep(Duration::from_millis(20));
    }
    let ran = end(child).expect(3);
    let told = ran.text() + &ran.complaint();
    for place in places.iter().chain(&["/install/iso"]) {
        let line = format!("cannot look at {place}: its file system did not answer within 10 seconds");
        assert_eq!(told.lines().filter(|told| told.trim() == line).count(), 1, "{place}: {told}");
    }
    let target = path.join("restored");
    run(&repo, ["restore", "latest", "--target", target.to_str().unwrap()]).expect(0);
    for file in ["install/custom/own.tmpl", "opt/xcat/lib/own", "tftpboot/xcat/xnba/nodes/cn1"] {
        assert_eq!(fs::read(target.join(file)).unwrap(), fs::read(root.join(file)).unwrap(), "{file}");
    }
}

#[test]
fn owners_on_a_dead_nodes_disk_have_the_names_that_it_knew_them_by() {
    if !privileged() {
        return;
    }
    let (node, (_place, path)) = (Node::sample(), place());
    node.write("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nxs-alice:x:33:4001::/home/alice:/bin/sh\n");
    node.write("etc/group", "root:x:0:\nxs-crew:x:4001:\n");
    node.write("install/custom/own.tmpl", "a template");
    chown(node.root().join("install/custom/own.tmpl"), Some(33), Some(4001)).unwrap();
    let repo = path.join("repository");
    let root = node.root();
    run(&repo, ["backup", "--root", root.to_str().unwrap(), "--staging", path.to_str().unwrap()]);
    let listed = run(&repo, ["ls", "--json", "latest:/install/custom"]).expect(0).text();
    let line = listed.lines().find(|line| line.contains("own.tmpl")).unwrap();
    assert!(line.contains("xs-alice") && line.contains("xs-crew"), "{line}");
}

/// The packages that the manifest of the newest snapshot lists.
fn packages(repo: &Path) -> Value {
    run(repo, ["show", "latest", "--json"]).expect(0).message("show")["manifest"]["packages"].clone()
}

#[test]
fn what_a_dead_nodes_package_database_does_not_tell_its_newest_snapshot_does() {
    let Some(root) = rpm_root() else { return };
    let (node, (_place, path)) = (Inner::new(root), place());
    let repo = path.join("repository");
    // A rescue system with no program that could read any package database.
    let capture = |repo: &Path, words: &[&str]| -> Ran {
        let own = ["backup", "--root", node.root.path().to_str().unwrap(), "--staging", path.to_str().unwrap()];
        finish(on(repo, own.iter().chain(words).copied()).env("PATH", "/nowhere"))
    };
    capture(&repo, &[]).expect(0);
    let known = packages(&repo);
    let id = run(&repo, ["show", "latest", "--json"]).expect(0).message("show")["snapshot"]["id"].clone();
    let id = id.as_str().unwrap();
    assert!(known["installed"].as_array().unwrap().len() > 10 && known.get("recalled_from").is_none(), "{known}");

    let books = node.root.at("/var/lib/rpm");
    for name in ["rpmdb.sqlite", "rpmdb.sqlite-wal", "rpmdb.sqlite-shm"] {
        let _ = fs::remove_file(books.join(name));
    }
    fs::write(books.join("Packages"), vec![7; 8192]).unwrap();
    for words in [&["--dry-run"][..], &[], &[]] {
        let ran = capture(&repo, words).expect(0);
        let told = ran.text() + &ran.complaint();
        let is_it = |line: &&str| line.contains("what is installed is taken from snapshot") && line.contains(id);
        assert_eq!(told.lines().filter(is_it).count(), 1, "{words:?}: {told}");
    }
    let mut recalled = packages(&repo);
    assert_eq!(recalled.as_object_mut().unwrap().remove("recalled_from").unwrap(), id);
    assert_eq!(recalled, known);
    assert!(run(&repo, ["show", "latest"]).expect(0).text().contains(&format!("as snapshot {id} lists them")));

    // Without such a snapshot it is incomplete, and says why.
    let other = path.join("other");
    for (repo, words) in [(&repo, &["--cluster", "another", "--dry-run"][..]), (&other, &["--dry-run"]), (&other, &[])]
    {
        let ran = capture(repo, words).expect(3);
        let told = ran.text() + &ran.complaint();
        let is_it = |line: &&str| {
            line.contains("cannot find out what is installed") && line.contains("no complete snapshot of")
        };
        assert_eq!(told.lines().filter(is_it).count(), 1, "{words:?}: {told}");
    }
    let root = node.root.path().to_str().unwrap();
    let words = ["backup", "--root", root, "--staging", path.to_str().unwrap(), "--dry-run"];
    let told = finish(xsnap().args(words).env("PATH", "/nowhere")).expect(3);
    assert!(told.text().contains("cannot find out what is installed"), "a dry run needs no repository");
    // One that is incomplete itself is none.
    capture(&other, &[]).expect(3);
}
