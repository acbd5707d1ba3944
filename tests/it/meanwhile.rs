//! What changes, is refused or fails in the middle of a backup or a restore: told, and never taken for something else.
//!
//! The other program that changes things meanwhile is the test itself, at an event that the work tells: so it happens at
//! the same moment every time.

use crate::support::{
    mounted::Mounted,
    node,
    random::Random,
    same::{assert_same, differences},
    store::{Acting, SETTLED, Store, Told, place},
};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{FileExt, MetadataExt},
        },
    },
    path::{Path, PathBuf},
    sync::{Mutex, Once},
    thread::sleep,
};
use xsnap::{
    archive::backup::backup,
    progress::Event,
    repo::{opening::Access, snapshot::Snapshot},
};

/// A source, a place to restore it to, and a repository, all empty.
struct Scene {
    _place: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    store: Store,
}

impl Scene {
    fn new() -> Self {
        let (_place, path) = place();
        let [source, target] = ["source", "target"].map(|name| path.join(name));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        // One thread, so that what happens when is the same every time.
        let mut store = Store::init(path.join("repository"), None);
        store.threads = 1;
        Self { _place, source, target, store }
    }

    /// Backs the source up and does something of its own, once, when a path is come to. Returns what was told, too.
    fn backup_acting_at(&self, name: &str, act: impl Fn() + Send + Sync) -> (Snapshot, Vec<String>) {
        let (at, once) = (self.source.join(name), Once::new());
        let told = Acting::new(|event| {
            if matches!(event, Event::Path(path) if *path == at.as_os_str().as_bytes()) {
                once.call_once(&act);
            }
        });
        let request = self.store.request(&[&self.source]);
        let snapshot = backup(&mut self.store.open(Access::Write), &request, &told).unwrap();
        assert!(once.is_completed(), "{name} was never come to");
        assert_eq!(snapshot.counts.problems, told.problems().len() as u64);
        (snapshot, told.problems())
    }

    /// What is told of a name in the source.
    fn of(&self, name: &str, what: &str) -> String {
        format!("{}: {what}", self.source.join(name).display())
    }
}

#[test]
fn another_file_in_the_place_of_a_first_name_is_not_taken_for_the_other_names() {
    let scene = Scene::new();
    let [first, other, new] = ["first", "other", "../new"].map(|name| scene.source.join(name));
    fs::write(&first, "of both names").unwrap();
    fs::hard_link(&first, &other).unwrap();
    fs::write(&new, "of a new file").unwrap();
    // The folder is listed by now and the files wait to be read.
    let (snapshot, problems) = scene.backup_acting_at("other", || fs::rename(&new, &first).unwrap());
    let said = "read: another file took the place of its first name; the next backup reads it";
    assert_eq!(problems, [scene.of("other", said)]);
    assert!(!snapshot.complete);
    assert_eq!(scene.store.entry(&snapshot, &first).link, None, "it has one name");
    scene.store.restore(snapshot.id, &scene.source, &scene.target);
    let [first, other] = ["first", "other"].map(|name| scene.target.join(name));
    assert_eq!(fs::read_to_string(first).unwrap(), "of a new file");
    assert!(!other.exists(), "what it holds was not read");
    let next = scene.store.backup(&scene.source);
    scene.store.restore(next.id, &scene.source, &scene.target);
    assert_same(&scene.source, &scene.target);
}

#[test]
fn an_inode_that_changes_between_its_names_is_told_and_each_state_of_it_stored() {
    let scene = Scene::new();
    let names = ["a", "b/later", "c/latest"];
    let [first, later, latest] = names.map(|name| scene.source.join(name));
    fs::create_dir(scene.source.join("b")).unwrap();
    fs::create_dir(scene.source.join("c")).unwrap();
    fs::write(&first, "content").unwrap();
    fs::hard_link(&first, &later).unwrap();
    fs::hard_link(&first, &latest).unwrap();
    let grow = || OpenOptions::new().append(true).open(&first).unwrap().write_all(b", and more").unwrap();
    let (snapshot, problems) = scene.backup_acting_at("a", grow);
    let said = "keep the link of: it has changed since its other names were stored";
    assert_eq!(problems, [scene.of("b/later", said)]);
    scene.store.restore(snapshot.id, &scene.source, &scene.target);
    for name in names {
        assert_eq!(fs::read_to_string(scene.target.join(name)).unwrap(), "content, and more", "{name}");
    }
    let inodes = names.map(|name| fs::metadata(scene.target.join(name)).unwrap().ino());
    assert!(inodes[0] != inodes[1] && inodes[1] == inodes[2], "{inodes:?}");
}

/// Gives a name more attributes than the kernel lists: together their names are longer than 64 KiB.
fn make_attributes_unreadable(path: &Path) {
    for n in 0..280 {
        let key = format!("trusted.{n:0>240}");
        node::set_xattr(CWD, path.as_os_str().as_bytes(), &key, b"x").unwrap();
    }
}

#[test]
fn attributes_that_cannot_be_read_are_told_by_every_backup_and_the_content_is_stored() {
    if !node::privileged() {
        return;
    }
    let scene = Scene::new();
    let _mounted = Mounted::tmpfs(&scene.source, 16 << 20);
    let names = ["file", "folder", "link", "one", "two"];
    fs::create_dir(scene.source.join("folder")).unwrap();
    std::os::unix::fs::symlink("file", scene.source.join("link")).unwrap();
    fs::write(scene.source.join("file"), "content").unwrap();
    fs::write(scene.source.join("one"), "of two names").unwrap();
    fs::hard_link(scene.source.join("one"), scene.source.join("two")).unwrap();
    fs::write(scene.source.join("whole"), "whole").unwrap();
    names[..4].iter().for_each(|name| make_attributes_unreadable(&scene.source.join(name)));
    sleep(SETTLED);
    let paths = |said: Vec<String>| {
        let mut paths: Vec<String> = said.iter().map(|said| said.split(": Arg").next().unwrap().to_owned()).collect();
        paths.sort();
        paths
    };
    let expected = names.map(|name| scene.of(name, "read the attributes of"));
    // A file whose times have not changed is not read again, but its attributes are missing as they were.
    for attempt in 0..3 {
        let told = Told::default();
        let request = scene.store.request(&[&scene.source]);
        let snapshot = backup(&mut scene.store.open(Access::Write), &request, &told).unwrap();
        assert_eq!(paths(told.problems()), expected, "backup {attempt}");
        assert_eq!((snapshot.complete, snapshot.counts.problems), (false, 5), "backup {attempt}");
        let restored = scene.target.join(attempt.to_string());
        scene.store.restore(snapshot.id, &scene.source, &restored);
        for (name, content) in [("file", "content"), ("two", "of two names"), ("whole", "whole")] {
            assert_eq!(fs::read_to_string(restored.join(name)).unwrap(), content, "backup {attempt}");
        }
    }
}

#[test]
fn names_that_cannot_be_linked_become_files_of_their_own_and_are_told() {
    if !node::privileged() {
        return;
    }
    let scene = Scene::new();
    let (a, b) = (scene.source.join("a"), scene.source.join("b"));
    fs::create_dir(&a).unwrap();
    fs::create_dir(&b).unwrap();
    fs::write(a.join("file"), Random::new("link or copy", 0).bytes(300_000)).unwrap();
    let sparse = File::create(a.join("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"in the middle", 20 << 20).unwrap();
    rustix::fs::mknodat(CWD, a.join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["file", "sparse"] {
        let path = a.join(name).into_os_string();
        node::set_owner(CWD, path.as_bytes(), 5, 6).unwrap();
        node::set_mode(CWD, path.as_bytes(), 0o4751).unwrap();
        node::set_xattr(CWD, path.as_bytes(), "trusted.key", b"value").unwrap();
        node::set_time(CWD, path.as_bytes(), (1_000_000_000, 7)).unwrap();
    }
    ["file", "sparse", "pipe"].iter().for_each(|name| fs::hard_link(a.join(name), b.join(name)).unwrap());
    let id = scene.store.backup(&scene.source).id;
    // No link leads from one file system to another; and this one is too small for a file without its holes.
    let _mounted = Mounted::tmpfs(&scene.target.join("b"), 16 << 20);
    let told = Told::default();
    let restored = scene.store.try_restore(id, &scene.source, &scene.target, &told, |_| {}).unwrap();
    let mut problems = told.problems();
    problems.sort();
    let refusal = "Invalid cross-device link (os error 18)";
    let expected = [
        scene.of("b/file", &format!("keep the link of: {refusal}")),
        scene.of("b/pipe", &format!("link: {refusal}")),
        scene.of("b/sparse", &format!("keep the link of: {refusal}")),
    ];
    assert_eq!((problems.as_slice(), restored.problems), (&expected[..], 3));
    let found = differences(&scene.source, &scene.target);
    let expected = [
        "b/file: hard link: a/file in a, b/file in b",
        "b/pipe: only in a",
        "b/sparse: hard link: a/sparse in a, b/sparse in b",
    ];
    assert_eq!(found, expected, "everything else of them is as it was");
}

/// The name of the file that is being written in a folder.
fn unfinished_in(folder: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    names.into_iter().find(|path| path.file_name().unwrap().as_bytes().starts_with(b".xsnap-"))
}

/// Puts another name of somebody's file in the place of one.
fn put_in_the_place_of(path: &Path, precious: &Path) {
    fs::remove_file(path).unwrap();
    fs::hard_link(precious, path).unwrap();
}

#[test]
fn another_file_in_the_place_of_one_that_is_being_written_is_left_alone() {
    let scene = Scene::new();
    // Of several frames: in between it is closed.
    fs::write(scene.source.join("large"), Random::new("of frames", 0).bytes(12 << 20)).unwrap();
    let id = scene.store.backup(&scene.source).id;
    let precious = scene.target.with_file_name("precious");
    fs::write(&precious, "precious").unwrap();
    let once = Once::new();
    let told = Acting::new(|event| {
        if matches!(event, Event::Done { entries: 0, .. }) {
            once.call_once(|| put_in_the_place_of(&unfinished_in(&scene.target).unwrap(), &precious));
        }
    });
    scene.store.try_restore(id, &scene.source, &scene.target, &told, |_| {}).unwrap();
    assert_eq!(told.problems(), [scene.of("large", "write: somebody has put another file in its place")]);
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    assert_eq!(fs::metadata(&precious).unwrap().nlink(), 2, "what somebody has put there is his to remove");
    assert!(!scene.target.join("large").exists());
    scene.store.restore(id, &scene.source, &scene.target);
    assert_same(&scene.source, &scene.target);
}

#[test]
fn another_file_in_the_place_of_one_that_is_changed_in_place_is_left_alone() {
    const SIZE: usize = 66 << 20;
    let scene = Scene::new();
    fs::write(scene.source.join("large"), Random::new("in place", 0).bytes(SIZE)).unwrap();
    fs::write(scene.source.join("small"), "small").unwrap();
    let id = scene.store.backup(&scene.source).id;
    let (large, precious) = (scene.target.join("large"), scene.target.with_file_name("precious"));
    // Before the first byte is written to it: when the file that is looked at after it is found to be the same. And then
    // between two of its blocks.
    for entries in [1, 0] {
        scene.store.restore(id, &scene.source, &scene.target);
        let file = File::options().write(true).open(&large).unwrap();
        [5_000_000, 60_000_000].iter().for_each(|at| file.write_all_at(b"changed", *at).unwrap());
        let before = Random::new("precious", entries).bytes(SIZE);
        fs::write(&precious, &before).unwrap();
        let once = Once::new();
        let told = Acting::new(|event| {
            if matches!(event, Event::Done { entries: n, .. } if *n == entries) {
                once.call_once(|| put_in_the_place_of(&large, &precious));
            }
        });
        scene.store.try_restore(id, &scene.source, &scene.target, &told, |_| {}).unwrap();
        assert_eq!(told.problems(), [scene.of("large", "write: somebody has put another file in its place")]);
        assert!(fs::read(&precious).unwrap() == before, "it was written to");
        assert_eq!(fs::metadata(&large).unwrap().ino(), fs::metadata(&precious).unwrap().ino());
        fs::remove_file(&large).unwrap();
    }
}

#[test]
fn what_cannot_be_made_durable_is_told() {
    let scene = Scene::new();
    fs::write(scene.source.join("file"), "content").unwrap();
    let id = scene.store.backup(&scene.source).id;
    // Through such a descriptor everything can be reached, but the file system cannot be told to write out.
    let root = rustix::fs::open(&scene.target, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    assert!(rustix::fs::syncfs(&root).is_err());
    let told = Told::default();
    let restore = |dry_run| {
        scene.store.restore_below(id, &scene.source, root.as_fd(), &told, |request| {
            (request.root_metadata, request.dry_run) = (false, dry_run);
        })
    };
    assert_eq!(restore(true).unwrap().problems, 0);
    assert_eq!(restore(false).unwrap().problems, 1);
    let said = "make durable what was restored on the file system of: Bad file descriptor (os error 9)";
    assert_eq!(told.problems(), [format!("{}: {said}", scene.source.display())]);
    assert_eq!(fs::read_to_string(scene.target.join("file")).unwrap(), "content");
}

#[test]
fn what_is_mounted_below_the_target_is_made_durable_too() {
    if !node::privileged() {
        return;
    }
    let scene = Scene::new();
    fs::create_dir(scene.source.join("mounted")).unwrap();
    fs::write(scene.source.join("mounted/file"), "content").unwrap();
    let id = scene.store.backup(&scene.source).id;
    let place = scene.target.join("mounted");
    let mounted = Mutex::new(Some(Mounted::tmpfs(&place, 1 << 20)));
    // Its only file is written by then, and nothing is written out yet.
    let once = Once::new();
    let told = Acting::new(|event| {
        if matches!(event, Event::Done { entries: 1, bytes: 0 }) {
            once.call_once(|| {
                assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "content");
                drop(mounted.lock().unwrap().take());
                fs::remove_dir(&place).unwrap();
            });
        }
    });
    scene.store.try_restore(id, &scene.source, &scene.target, &told, |_| {}).unwrap();
    let told = told.problems();
    let said = "make durable what was restored on the file system of: No such file or directory (os error 2)";
    assert!(told.contains(&scene.of("mounted", said)), "{told:?}");
}

#[test]
fn an_index_that_was_made_ready_is_handed_out_once_and_what_others_add_is_in_the_next() {
    let scene = Scene::new();
    fs::write(scene.source.join("one"), "the first file").unwrap();
    let waiting = scene.store.open(Access::Write);
    waiting.ready_index().unwrap();
    scene.store.backup(&scene.source);
    assert_eq!(waiting.index().unwrap().packs().len(), 0, "as it was when it was made ready");
    assert!(!waiting.index().unwrap().packs().is_empty());
}
