//! A machine looked at otherwise than it lies: below another root, with files from elsewhere, without what is left out.

use crate::support::{
    node::privileged,
    same::{assert_same, differences},
    store::{Store, place},
};
use std::{
    fs,
    os::unix::fs::{MetadataExt, chown, symlink},
    path::Path,
    sync::Arc,
};
use xsnap::{
    archive::{
        accounts::Directory,
        backup::{Request, backup},
        plan::{Graft, Late, Size, Sizes, View},
    },
    error::Error,
    progress::Silent,
    repo::{
        opening::Access,
        snapshot::{Problem, Snapshot},
    },
};

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A machine's disk, and a folder beside it.
fn disk(place: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (disk, beside) = (place.join("disk"), place.join("beside"));
    for (path, text) in [
        ("etc/xcat/cfgloc", "SQLite:/etc/xcat"),
        ("etc/xcat/site.sqlite", "live"),
        ("etc/xcat/site.sqlite-journal", "hot"),
        ("install/custom/mine", "kept"),
        ("install/os/x86_64/packages/a.rpm", "copied"),
        ("install/os/x86_64/packages/mine.rpm", "added"),
        ("install/os/*/x", "a name that is also a pattern"),
        ("var/log/messages", "not asked for"),
    ] {
        write(&disk.join(path), text);
    }
    symlink("../install", disk.join("etc/link")).unwrap();
    write(&beside.join("copies/site"), "staged");
    write(&beside.join("own/manifest.json"), "{}");
    write(&beside.join("own/xcatdb/site.csv"), "#key\n");
    (disk, beside)
}

fn request(store: &Store, sources: &[&str], view: View) -> Request {
    let paths: Vec<&Path> = sources.iter().map(Path::new).collect();
    Request { view, ..store.request(&paths) }
}

fn capture(store: &Store, disk: &Path, beside: &Path) -> Snapshot {
    let graft = |at: &str, from: &str| Graft { at: at.as_bytes().to_vec(), from: beside.join(from) };
    let left_out = ["/etc/xcat/site.sqlite", "/etc/xcat/site.sqlite-journal", "/install/os"];
    let view = View {
        root: disk.to_owned(),
        grafts: vec![graft("/etc/xcat/site.sqlite", "copies/site"), graft("/.xsnap", "own")],
        left_out: left_out.iter().map(|path| path.as_bytes().to_vec()).collect(),
        ..View::default()
    };
    let sources = ["/etc", "/install", "/install/os/x86_64/packages/mine.rpm"];
    store.backup_as(&request(store, &sources, view))
}

#[test]
fn another_root_grafts_and_what_is_left_out_come_back_as_they_were_meant() {
    let (place, path) = place();
    let (disk, beside) = disk(&path);
    let store = Store::init(path.join("repository"), None);
    let snapshot = capture(&store, &disk, &beside);
    assert!(snapshot.complete, "{:?}", snapshot.problems);
    let wanted = path.join("wanted");
    write(&wanted.join("etc/xcat/cfgloc"), "SQLite:/etc/xcat");
    write(&wanted.join("etc/xcat/site.sqlite"), "staged");
    symlink("../install", wanted.join("etc/link")).unwrap();
    write(&wanted.join("install/custom/mine"), "kept");
    write(&wanted.join("install/os/x86_64/packages/mine.rpm"), "added");
    write(&wanted.join(".xsnap/manifest.json"), "{}");
    write(&wanted.join(".xsnap/xcatdb/site.csv"), "#key\n");
    let target = path.join("target");
    store.restore(snapshot.id, Path::new("/"), &target);
    let differences: Vec<String> =
        differences(&wanted, &target).into_iter().filter(|line| !line.contains("mtime")).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    // What only leads to a source is marked, so that a restore removes nothing beside it.
    assert!(store.entry(&snapshot, Path::new("/install/os")).partial);
    assert!(!store.entry(&snapshot, Path::new("/install")).partial);
    drop(place);
}

#[test]
fn what_is_walked_last_is_told_what_was_met_and_stands_where_its_name_belongs() {
    let (place, path) = place();
    let (disk, beside) = disk(&path);
    let store = Store::init(path.join("repository"), None);
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let snapshots: Vec<Snapshot> = (0..2)
        .map(|_| {
            let own = beside.join("own");
            let make = move |sizes: &Sizes| {
                let told = |(path, size): (&Vec<u8>, &Size)| {
                    format!("{} {} {}", String::from_utf8_lossy(path), size.entries, size.bytes)
                };
                let mut lines: Vec<String> = sizes.iter().map(told).collect();
                lines.sort();
                fs::write(own.join("manifest.json"), lines.join("\n")).unwrap();
                Ok(())
            };
            let view = View {
                root: disk.clone(),
                grafts: vec![Graft { at: b"/.xsnap".to_vec(), from: beside.join("own") }],
                left_out: [b"/install/os".to_vec()].into(),
                late: Some(Late { name: b".xsnap".to_vec(), make: Arc::new(make) }),
                ..View::default()
            };
            store.backup_as(&request(&store, &["/etc", "/install", "/install/custom", "/var/log/messages"], view))
        })
        .collect();
    let target = path.join("target");
    store.restore(snapshots[1].id, Path::new("/"), &target);
    assert_eq!(
        fs::read_to_string(target.join(".xsnap/manifest.json")).unwrap(),
        "/etc 6 23\n/install 3 4\n/install/custom 2 4\n/var 3 13\n/var/log 2 13\n/var/log/messages 1 13"
    );
    assert_eq!(fs::read_to_string(target.join(".xsnap/xcatdb/site.csv")).unwrap(), "#key\n");
    // Of what is walked last, too, only what has changed is read again.
    assert_eq!(snapshots[1].counts.files_read, 1);
    let failing = Late { name: b".xsnap".to_vec(), make: Arc::new(|_: &Sizes| Err(Error::Usage("no".into()))) };
    let view = View { root: disk, late: Some(failing), ..View::default() };
    let graft = Graft { at: b"/.xsnap".to_vec(), from: beside.join("own") };
    let view = View { grafts: vec![graft], ..view };
    let mut repository = store.open(Access::Write);
    let failed = backup(&mut repository, &request(&store, &["/etc"], view), &Silent).unwrap_err();
    assert!(matches!(failed, Error::Usage(_)), "{failed}");
    drop(place);
}

#[test]
fn owners_have_the_names_of_the_disk_and_the_numbers_of_the_machine_that_they_come_to() {
    if !privileged() {
        return;
    }
    let (place, path) = place();
    let (disk, _) = disk(&path);
    let of = |passwd: &str, group: &str| Directory::of(passwd.as_bytes(), group.as_bytes());
    // This machine knows neither, and has another user of that number.
    chown(disk.join("install/custom/mine"), Some(33), Some(4_001)).unwrap();
    let store = Store::init(path.join("repository"), None);
    let there = of("root:x:0:0::/:/bin/sh\nxs-alice:x:33:4001::/:/bin/sh\n", "root:x:0:\nxs-crew:x:4001:\n");
    let view = View { root: disk, directory: there, ..View::default() };
    let snapshot = store.backup_as(&request(&store, &["/install"], view));
    let owner = &store.entry(&snapshot, Path::new("/install/custom/mine")).metadata.owner;
    assert_eq!((owner.uid, owner.gid, &*owner.user, &*owner.group), (33, 4_001, &b"xs-alice"[..], &b"xs-crew"[..]));
    for (directory, numbers) in [
        (of("xs-alice:x:5005:1::/:/bin/sh\n", "xs-crew:x:5006:\n"), (5_005, 5_006)),
        (of("root:x:0:0::/:/bin/sh\n", ""), (33, 4_001)),
    ] {
        let target = path.join(numbers.0.to_string());
        store.restore_as(snapshot.id, Path::new("/"), &target, |request| request.directory = directory);
        let meta = target.join("install/custom/mine").metadata().unwrap();
        assert_eq!((meta.uid(), meta.gid()), numbers);
    }
    drop(place);
}

#[test]
fn a_second_capture_reads_only_what_has_changed_and_stores_the_same() {
    let (place, path) = place();
    let (disk, beside) = disk(&path);
    let store = Store::init(path.join("repository"), None);
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let first = capture(&store, &disk, &beside);
    let second = capture(&store, &disk, &beside);
    assert_eq!((second.counts.files_read, second.counts.added_blobs), (0, 0));
    assert_eq!(first.root.node, second.root.node);
    let (one, two) = (path.join("one"), path.join("two"));
    store.restore(first.id, Path::new("/"), &one);
    store.restore(second.id, Path::new("/"), &two);
    assert_same(&one, &two);
    drop(place);
}

#[test]
fn what_is_known_not_to_be_captured_makes_the_snapshot_incomplete_and_is_named() {
    let (place, path) = place();
    let (disk, _) = disk(&path);
    let store = Store::init(path.join("repository"), None);
    let problem =
        Problem { path: b"/etc/xcat/nodelist.sqlite".to_vec(), verb: "find".into(), cause: "no such table".into() };
    let missing = Graft { at: b"/etc/xcat/gone".to_vec(), from: path.join("gone") };
    let view = View { root: disk, problems: vec![problem.clone()], grafts: vec![missing], ..View::default() };
    let snapshot = backup(&mut store.open(Access::Write), &request(&store, &["/etc"], view), &Silent).unwrap();
    assert!(!snapshot.complete);
    assert_eq!(snapshot.counts.problems, 2);
    assert_eq!(snapshot.problems[0], problem);
    assert_eq!(snapshot.problems[1].path, b"/etc/xcat/gone");
    drop(place);
}
