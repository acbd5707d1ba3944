//! What a second backup reads: everything that may have changed, and nothing else; and what it says of the unreadable.

use crate::support::{
    node,
    program::{on, run},
    random::Random,
    same::assert_same,
    store::{SETTLED, Store, Told, place},
    tree::random_tree,
};
use rustix::fs::CWD;
use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread::sleep,
};
use xsnap::{archive::backup::backup, repo::opening::Access};

#[test]
fn an_unchanged_tree_is_not_read_and_adds_next_to_nothing() {
    let (_place, path) = place();
    let trees = path.join("trees");
    for seed in 0..8 {
        random_tree(seed, &trees.join(seed.to_string()));
    }
    sleep(SETTLED);
    for password in [None, Some("secret")] {
        let store = Store::init(path.join(format!("repository {}", password.is_some())), password);
        let first = store.backup(&trees);
        assert!(first.counts.files > 50 && first.counts.files_read > 50);
        let before = store.total_bytes();
        let second = store.backup(&trees);
        assert_eq!(second.counts.files_read, 0);
        assert_eq!(second.counts.files, first.counts.files);
        let added = store.total_bytes() - before;
        assert!(added < 10_000, "an unchanged tree added {added} bytes");
        let mut request = store.request(&[&trees]);
        request.read_all = true;
        let third = store.backup_as(&request);
        assert_eq!(third.counts.files_read, first.counts.files_read, "--read-all distrusts every time");
        assert_eq!(store.entry(&third, &trees), store.entry(&first, &trees));
    }
}

fn time_of(path: &Path) -> (i64, u32) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.mtime(), u32::try_from(metadata.mtime_nsec()).unwrap())
}

fn set_time(path: &Path, time: (i64, u32)) {
    node::set_time(CWD, path.as_os_str().as_bytes(), time).unwrap();
}

#[test]
fn whatever_an_inode_shows_of_a_change_makes_the_file_be_read() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    let file = |name: &str| source.join(name);
    let names = ["same size and time", "longer", "touched", "replaced", "mode", "untouched"];
    for name in names {
        fs::write(file(name), "content").unwrap();
    }
    sleep(SETTLED);
    let store = Store::init(path.join("repository"), None);
    store.backup(&source);
    let time = time_of(&file("same size and time"));
    File::options().write(true).open(file("same size and time")).unwrap().write_all_at(b"CONTENT", 0).unwrap();
    set_time(&file("same size and time"), time);
    let time = time_of(&file("longer"));
    OpenOptions::new().append(true).open(file("longer")).unwrap().write_all(b"more").unwrap();
    set_time(&file("longer"), time);
    set_time(&file("touched"), (5, 5));
    // Another inode with the same size and time, moved to the name.
    let time = time_of(&file("replaced"));
    fs::write(path.join("new"), "CONTENT").unwrap();
    set_time(&path.join("new"), time);
    fs::rename(path.join("new"), file("replaced")).unwrap();
    node::set_mode(CWD, file("mode").as_os_str().as_bytes(), 0o600).unwrap();
    let second = store.backup(&source);
    assert_eq!(second.counts.files_read, 5);
    store.restore(second.id, &source, &path.join("restored"));
    assert_same(&source, &path.join("restored"));
}

#[test]
fn a_file_changed_within_the_clocks_grain_is_read_again_until_it_has_settled() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "first").unwrap();
    let store = Store::init(path.join("repository"), None);
    store.backup(&source);
    // A change that leaves no trace: a coarse clock gives it the times that the file had already.
    assert_eq!(store.backup(&source).counts.files_read, 1, "it may have changed within the grain");
    sleep(SETTLED);
    assert_eq!(store.backup(&source).counts.files_read, 1, "what was read within the grain is not trusted later");
    assert_eq!(store.backup(&source).counts.files_read, 0, "read after it had settled, it is trusted");
}

#[test]
fn names_of_one_inode_are_read_once() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    fs::write(source.join("one"), "content").unwrap();
    fs::hard_link(source.join("one"), source.join("folder/two")).unwrap();
    fs::hard_link(source.join("one"), source.join("three")).unwrap();
    sleep(SETTLED);
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&source);
    assert_eq!((first.counts.files, first.counts.added_raw_bytes >= 7), (3, true));
    assert_eq!(store.backup(&source).counts.files_read, 0);
    // A new name for a known inode changes the inode's ctime, so it is read again, once or for each name.
    fs::hard_link(source.join("one"), source.join("folder/a new name")).unwrap();
    let third = store.backup(&source);
    assert_eq!(third.counts.files, 4);
    store.restore(third.id, &source, &path.join("restored"));
    assert_same(&source, &path.join("restored"));
}

#[test]
fn a_file_that_never_holds_still_is_reported_and_its_snapshot_is_incomplete() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("steady"), "steady").unwrap();
    let growing = source.join("growing");
    fs::write(&growing, Random::new("growing", 0).bytes(32 << 20)).unwrap();
    let repo = path.join("repository");
    let done = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = OpenOptions::new().append(true).open(&growing).unwrap();
            while !done.load(Ordering::Relaxed) {
                file.write_all(b"x").unwrap();
            }
        });
        // On a busy machine whoever appends may not get a turn while the file is read: then it was steady for once.
        let backups = (0..20).map(|_| run(&repo, ["backup", "--json", source.to_str().unwrap()]));
        let ran = backups.into_iter().find(|ran| ran.code != 0);
        done.store(true, Ordering::Relaxed);
        ran
    });
    let ran = ran.expect("a file that changes while it is read").expect(3);
    let problem = ran.message("problem");
    assert_eq!(problem["path"], growing.to_str().unwrap());
    assert!(problem["cause"].as_str().unwrap().contains("changed"), "{problem}");
    let report = ran.message("backup");
    assert_eq!((&report["complete"], &report["problems"]), (&false.into(), &1.into()));
    let listed = run(&repo, ["list", "--json", "--latest", "1"]).expect(0).message("snapshot");
    assert_eq!((&listed["complete"], &listed["problems"]), (&false.into(), &1.into()));
    assert!(run(&repo, ["list"]).expect(0).text().contains("incomplete"));
    // What was read last is kept, and is whole as far as it goes.
    let what = format!("latest:{}", growing.display());
    let kept = run(&repo, ["cat", &what]).expect(0).out;
    assert!(kept.len() >= 32 << 20 && fs::read(&growing).unwrap().starts_with(&kept));
}

#[test]
fn a_source_that_is_not_there_is_a_problem_beside_one_that_is_and_an_error_alone() {
    let (_place, path) = place();
    let (source, repo) = (path.join("there"), path.join("repository"));
    fs::create_dir_all(source.join("inner")).unwrap();
    fs::write(source.join("file"), "file").unwrap();
    let missing: [&str; 3] = ["not there", "not there/deeper", "there/inner/../../not there either"];
    for (n, missing) in missing.iter().enumerate() {
        let ran = on(&repo, ["backup", "--json", "there", missing]).current_dir(&path).output().unwrap();
        assert_eq!(ran.status.code(), Some(3), "{}", String::from_utf8_lossy(&ran.stderr));
        let listed = run(&repo, ["list", "--json"]).expect(0).json();
        assert_eq!((&listed[n]["problems"], &listed[n]["complete"]), (&1.into(), &false.into()));
        let store = Store::open_at(&repo);
        let snapshot = store.open(Access::Read).snapshots()[n].clone();
        assert!(snapshot.problems[0].path.starts_with(path.join("not there").as_os_str().as_bytes()));
        assert_eq!(snapshot.sources.len(), 2);
        let restored = path.join(format!("restored {n}"));
        store.restore(snapshot.id, &source, &restored);
        assert_same(&source, &restored);
    }
    run(&repo, ["check", "--read-data"]).expect(0);
    let ran = on(&repo, ["backup", "not there"]).current_dir(&path).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ran.stderr).contains("not there"));
    assert_eq!(run(&repo, ["list", "--json"]).expect(0).json().len(), 3, "nothing was stored");
}

/// A file of the kernel that can be opened but not read, even by root: there is no process 0 to read.
fn unreadable() -> Option<PathBuf> {
    let candidates = ["/proc/self/mem", "/proc/self/attr/fscreate", "/proc/self/clear_refs"];
    let refuses =
        |path: &&&str| File::open(path).is_ok_and(|mut f| std::io::copy(&mut f, &mut std::io::sink()).is_err());
    candidates.iter().find(refuses).map(PathBuf::from)
}

#[test]
fn a_file_that_refuses_to_be_read_is_a_problem_and_the_others_are_stored() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "file").unwrap();
    let unreadable = unreadable().expect("the memory of a process at address 0 cannot be read");
    let unreadable = unreadable.parent().unwrap().canonicalize().unwrap().join(unreadable.file_name().unwrap());
    let store = Store::init(path.join("repository"), None);
    let told = Told::default();
    let request = store.request(&[&source, &unreadable]);
    let snapshot = backup(&mut store.open(Access::Write), &request, &told).unwrap();
    assert!(!snapshot.complete);
    assert_eq!((snapshot.counts.problems, told.problems().len()), (1, 1));
    assert_eq!(snapshot.problems[0].path, unreadable.as_os_str().as_bytes());
    assert_eq!(snapshot.problems[0].verb, "read");
    let stored = store.open(Access::Read).snapshots()[0].clone();
    assert_eq!((stored.problems, stored.complete), (snapshot.problems, false));
    store.restore(snapshot.id, &source, &path.join("restored"));
    assert_same(&source, &path.join("restored"));
    store.assert_whole();
}
