//! Restores over what is there already: what is written over, what is left, what is removed, and what never changes.

use crate::support::{
    edits::entries,
    node,
    program::{copy, installed, run},
    random::Random,
    same::assert_same,
    store::{Store, Told, place},
    tree::random_tree,
};
use rustix::fs::CWD;
use std::{
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::Command,
};
use xsnap::{
    archive::{
        filter::Patterns,
        request::{Overwrite, RestoreRequest},
    },
    id::SnapshotId,
};

const KINDS: [Overwrite; 4] = [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never];
/// When the files of the snapshots here were changed last.
const STORED: (i64, u32) = (1_600_000_000, 7);

fn set_time(path: &Path, time: (i64, u32)) {
    node::set_time(CWD, path.as_os_str().as_bytes(), time).unwrap();
}

fn write_at(path: &Path, content: impl AsRef<[u8]>, time: (i64, u32)) {
    fs::write(path, content).unwrap();
    set_time(path, time);
}

/// A snapshot of a folder, and a place to restore it to.
struct Scene {
    _place: tempfile::TempDir,
    source: PathBuf,
    target: PathBuf,
    store: Store,
    id: SnapshotId,
}

impl Scene {
    /// Stores what `build` puts into a folder.
    fn new(build: impl FnOnce(&Path)) -> Self {
        let (_place, path) = place();
        let [source, target] = ["source", "target"].map(|name| path.join(name));
        fs::create_dir(&source).unwrap();
        fs::create_dir(&target).unwrap();
        build(&source);
        let store = Store::init(path.join("repository"), None);
        let id = store.backup(&source).id;
        Self { _place, source, target, store, id }
    }

    fn restore(&self, shape: impl FnOnce(&mut RestoreRequest)) -> xsnap::archive::request::Restored {
        self.store.restore_as(self.id, &self.source, &self.target, shape)
    }

    /// Restores with problems, which are returned.
    fn restore_badly(&self, shape: impl FnOnce(&mut RestoreRequest)) -> Vec<String> {
        let told = Told::default();
        let restored = self.store.try_restore(self.id, &self.source, &self.target, &told, shape).unwrap();
        assert_eq!(restored.problems, told.problems().len() as u64);
        told.problems()
    }
}

/// Whether a file of the snapshot wins over the one that is there, for every kind in turn.
fn wins(there: &str, time: (i64, u32)) -> [bool; 4] {
    KINDS.map(|overwrite| {
        let scene = Scene::new(|source| write_at(&source.join("file"), "stored", STORED));
        write_at(&scene.target.join("file"), there, time);
        scene.restore(|request| request.overwrite = overwrite);
        fs::read_to_string(scene.target.join("file")).unwrap() == "stored"
    })
}

#[test]
fn the_kind_of_overwriting_decides_whether_a_file_that_is_there_stays() {
    let (older, newer) = ((STORED.0 - 1, 0), (STORED.0 + 1, 0));
    assert_eq!(wins("other!", older), [true, true, true, false]);
    assert_eq!(wins("other!", newer), [true, true, false, false]);
    assert_eq!(wins("another length", older), [true, true, true, false]);
    // What only the bytes tell is found only where bytes are compared.
    assert_eq!(wins("other!", STORED), [true, false, false, false]);
    assert_eq!(wins("another length", STORED), [true, true, false, false]);
}

#[test]
fn a_file_that_is_the_same_already_is_not_written_and_gets_its_metadata_back() {
    for overwrite in [Overwrite::Always, Overwrite::IfChanged] {
        let scene = Scene::new(|source| write_at(&source.join("file"), "stored", STORED));
        scene.restore(|_| {});
        let file = scene.target.join("file");
        let inode = fs::metadata(&file).unwrap().ino();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        let restored = scene.restore(|request| request.overwrite = overwrite);
        assert_eq!((restored.files, restored.same, restored.bytes), (0, 1, 0));
        assert_eq!(fs::metadata(&file).unwrap().ino(), inode);
        assert_same(&scene.source, &scene.target);
    }
}

#[test]
fn something_of_another_kind_makes_way() {
    let build = |source: &Path| {
        fs::create_dir(source.join("folder")).unwrap();
        fs::write(source.join("folder/inside"), "inside").unwrap();
        fs::write(source.join("file"), "file").unwrap();
        symlink("file", source.join("link")).unwrap();
    };
    let scene = Scene::new(build);
    let outside = scene.source.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("inside"), "not to be touched").unwrap();
    type Obstacle = fn(&Path, &Path);
    let obstacles: [Obstacle; 5] = [
        |path, _| fs::create_dir(path).unwrap(),
        |path, _| fs::write(path, "a file").unwrap(),
        |path, outside| symlink(outside, path).unwrap(),
        |path, outside| symlink(outside.join("inside"), path).unwrap(),
        |path, _| {
            rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        },
    ];
    for obstacle in obstacles {
        for name in ["folder", "file", "link"] {
            fs::remove_dir_all(&scene.target).unwrap();
            fs::create_dir(&scene.target).unwrap();
            obstacle(&scene.target.join(name), &outside);
            scene.restore(|_| {});
            assert_same(&scene.source, &scene.target);
            assert_eq!(fs::read_to_string(outside.join("inside")).unwrap(), "not to be touched");
        }
    }
    for name in ["folder", "file", "link"] {
        fs::remove_dir_all(&scene.target).unwrap();
        fs::create_dir(&scene.target).unwrap();
        symlink("/nowhere", scene.target.join(name)).unwrap();
        scene.restore(|request| request.overwrite = Overwrite::Never);
        assert_eq!(fs::read_link(scene.target.join(name)).unwrap(), Path::new("/nowhere"));
    }
}

#[test]
fn a_folder_with_something_in_it_makes_way_only_where_removing_was_asked_for() {
    let scene = Scene::new(|source| {
        fs::write(source.join("file"), "file").unwrap();
        symlink("file", source.join("link")).unwrap();
    });
    for name in ["file", "link"] {
        fs::create_dir(scene.target.join(name)).unwrap();
        fs::write(scene.target.join(name).join("precious"), "precious").unwrap();
    }
    let problems = scene.restore_badly(|_| {});
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert_eq!(fs::read_to_string(scene.target.join("file/precious")).unwrap(), "precious");
    scene.restore(|request| request.delete = true);
    assert_same(&scene.source, &scene.target);
}

#[test]
fn removing_acts_only_below_what_was_backed_up_and_spares_what_is_excluded() {
    let (_place, path) = place();
    let source = path.join("deep/source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("sub/file"), "file").unwrap();
    let store = Store::init(path.join("repository"), None);
    let id = store.backup(&source).id;
    let target = path.join("target");
    store.restore(id, Path::new("/"), &target);
    let below = |relative: &str| target.join(source.strip_prefix("/").unwrap()).join(relative);
    let extra = [
        target.join("not a source"),
        below("../beside the source"),
        below("extra"),
        below("sub/extra"),
        below("sub/spared.log"),
        below("folder/spared.log"),
        below("folder/sub/gone"),
        below("other folder/gone"),
    ];
    for file in &extra {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, "extra").unwrap();
    }
    store.restore_as(id, Path::new("/"), &target, |request| {
        request.delete = true;
        request.exclude = Patterns::new(["*.log"]).unwrap();
    });
    let stay: Vec<bool> = extra.iter().map(|file| file.exists()).collect();
    assert_eq!(stay, [true, true, false, false, true, true, false, false]);
    assert!(!below("other folder").exists() && !below("folder/sub").exists());
    store.restore_as(id, Path::new("/"), &target, |request| request.delete = true);
    assert_same(&source, &below(""));
    assert!(extra[0].exists() && extra[1].exists());
}

#[test]
fn what_is_not_included_is_not_touched() {
    let scene = Scene::new(|source| {
        for file in ["a/wanted", "b/unwanted", "c/unwanted"] {
            fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
            fs::write(source.join(file), file).unwrap();
        }
    });
    fs::write(scene.target.join("b"), "a file where the snapshot has a folder").unwrap();
    fs::create_dir(scene.target.join("c")).unwrap();
    fs::write(scene.target.join("c/extra"), "extra").unwrap();
    let before = fingerprint(&scene.target.join("b"));
    let restored = scene.restore(|request| {
        request.include = Patterns::new(["wanted"]).unwrap();
        request.delete = true;
    });
    assert_eq!(restored.files, 1);
    assert_eq!(fs::read_to_string(scene.target.join("a/wanted")).unwrap(), "a/wanted");
    assert_eq!(fingerprint(&scene.target.join("b")), before);
    assert_eq!(fs::read_to_string(scene.target.join("c/extra")).unwrap(), "extra");
    // But it makes way for what is.
    scene.restore(|request| request.include = Patterns::new(["unwanted"]).unwrap());
    assert_eq!(fs::read_to_string(scene.target.join("b/unwanted")).unwrap(), "b/unwanted");
}

/// Everything about everything below a path that a look can show, the times of last access aside.
fn fingerprint(path: &Path) -> Vec<String> {
    // How many blocks a file takes is settled only once they are written out.
    rustix::fs::syncfs(File::open(path).unwrap()).unwrap();
    let one = |path: &PathBuf| {
        let m = path.symlink_metadata().unwrap();
        let times = (m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
        let content =
            if m.is_file() { blake3::hash(&fs::read(path).unwrap()).to_hex().to_string() } else { String::new() };
        let inode = (m.ino(), m.nlink(), m.size(), m.blocks());
        format!("{path:?} {:o} {}:{} {inode:?} {times:?} {content}", m.mode(), m.uid(), m.gid())
    };
    [path.to_owned()].iter().chain(&entries(path)).map(one).collect()
}

#[test]
fn a_dry_run_changes_nothing_at_all() {
    let scene = Scene::new(|source| {
        random_tree(7, source);
        File::create(source.join("large")).unwrap().set_len(70 << 20).unwrap();
    });
    random_tree(8, &scene.target);
    fs::create_dir(scene.target.join("extra")).unwrap();
    fs::write(scene.target.join("extra/file"), "extra").unwrap();
    fs::write(scene.target.join("large"), vec![1; 1000]).unwrap();
    let [target, repository] = [&scene.target, &scene.store.path].map(|path| fingerprint(path));
    for overwrite in KINDS {
        let would = scene.restore(|request| {
            (request.overwrite, request.delete, request.dry_run) = (overwrite, true, true);
        });
        assert!(would.deleted > 0 && would.files + would.skipped > 0, "{would:?}");
        assert!(fingerprint(&scene.target) == target, "a dry run with {overwrite:?} has changed the target");
    }
    let large = scene.target.join("large");
    fs::write(&large, vec![2; 66 << 20]).unwrap();
    let before = fingerprint(&large);
    scene.restore(|request| request.dry_run = true);
    assert!(fingerprint(&large) == before);
    assert!(fingerprint(&scene.store.path) == repository, "a dry run has changed the repository");
}

#[test]
fn a_large_file_is_changed_in_place_and_only_where_it_differs() {
    const SIZE: usize = 66 << 20;
    let scene = Scene::new(|source| {
        let mut content = Random::new("large", 0).bytes(SIZE);
        content[20 << 20..22 << 20].fill(0);
        fs::write(source.join("large"), content).unwrap();
    });
    scene.restore(|_| {});
    let large = scene.target.join("large");
    let inode = fs::metadata(&large).unwrap().ino();
    let damages: [&dyn Fn(&File); 4] = [
        &|file| file.write_all_at(b"changed", 50_000_000).unwrap(),
        &|file| file.set_len((60 << 20) + 5).unwrap(),
        &|file| file.write_all_at(b"longer", 67 << 20).unwrap(),
        &|file| file.write_all_at(b"where zeros were", 21 << 20).unwrap(),
    ];
    for (n, damage) in damages.iter().enumerate() {
        damage(&File::options().write(true).open(&large).unwrap());
        let restored = scene.restore(|_| {});
        let most = if n == 1 { 8 << 20 } else { 2 << 20 };
        assert!(restored.bytes <= most, "damage {n}: {} bytes were written", restored.bytes);
        assert_eq!(fs::metadata(&large).unwrap().ino(), inode, "damage {n}");
        assert_same(&scene.source, &scene.target);
    }
    // With a second name it is written beside, for the other name's content is not the snapshot's to change.
    let other = scene.target.with_file_name("other name");
    fs::hard_link(&large, &other).unwrap();
    File::options().write(true).open(&large).unwrap().write_all_at(b"changed", 9_000_000).unwrap();
    scene.restore(|_| {});
    assert_same(&scene.source, &scene.target);
    assert_eq!(fs::metadata(&other).unwrap().nlink(), 1);
    assert_eq!(fs::read(&other).unwrap()[9_000_000..9_000_007], *b"changed");
}

#[test]
fn a_hard_linked_file_is_not_written_through() {
    let scene = Scene::new(|source| {
        write_at(&source.join("same"), "same", STORED);
        write_at(&source.join("differs"), "stored", STORED);
        write_at(&source.join("one"), "linked", STORED);
        fs::hard_link(source.join("one"), source.join("two")).unwrap();
    });
    let outside = scene.target.with_file_name("outside");
    fs::create_dir(&outside).unwrap();
    for (name, content) in [("same", "same"), ("differs", "other!"), ("one", "tinker"), ("two", "tailor")] {
        write_at(&outside.join(name), content, (5, 5));
        fs::set_permissions(outside.join(name), fs::Permissions::from_mode(0o640)).unwrap();
        fs::hard_link(outside.join(name), scene.target.join(name)).unwrap();
    }
    let copied = scene.target.with_file_name("outside as it was");
    copy(&outside, &copied);
    scene.restore(|_| {});
    assert_same(&scene.source, &scene.target);
    assert_same(&copied, &outside);
    assert!(
        entries(&outside).iter().all(|path| fs::metadata(path).unwrap().nlink() == 1),
        "no name is shared any more"
    );
}

#[test]
fn a_program_that_is_running_is_restored_over() {
    if !installed("sleep", "coreutils") {
        return;
    }
    let program = Command::new("sh").args(["-c", "command -v sleep"]).output().unwrap().stdout;
    let program = PathBuf::from(String::from_utf8(program).unwrap().trim());
    let scene = Scene::new(|source| assert!(fs::copy(&program, source.join("program")).is_ok()));
    scene.restore(|_| {});
    let running = scene.target.join("program");
    let mut child = Command::new(&running).arg("60").spawn().unwrap();
    let same = scene.store.try_restore(scene.id, &scene.source, &scene.target, &Told::default(), |_| {});
    set_time(&running, (5, 5));
    let changed = scene.store.try_restore(scene.id, &scene.source, &scene.target, &Told::default(), |_| {});
    child.kill().unwrap();
    child.wait().unwrap();
    let (same, changed) = (same.unwrap(), changed.unwrap());
    assert_eq!((same.problems, same.same, changed.problems, changed.same), (0, 1, 0, 1));
    assert_same(&scene.source, &scene.target);
}

#[test]
fn reading_back_notices_every_change() {
    let scene = Scene::new(|source| {
        write_at(&source.join("file"), "content", STORED);
        fs::create_dir(source.join("folder")).unwrap();
        symlink("file", source.join("link")).unwrap();
    });
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("content", |t| write_at(&t.join("file"), "Content", STORED)),
        ("size", |t| write_at(&t.join("file"), "contents", STORED)),
        ("time", |t| set_time(&t.join("file"), (5, 5))),
        ("mode", |t| fs::set_permissions(t.join("folder"), fs::Permissions::from_mode(0o700)).unwrap()),
        ("kind", |t| {
            fs::remove_file(t.join("link")).unwrap();
            symlink("other", t.join("link")).unwrap();
        }),
        ("attributes", |t| {
            node::set_xattr(CWD, t.join("file").as_os_str().as_bytes(), "user.extra", b"").unwrap();
        }),
        ("file", |t| fs::remove_file(t.join("file")).unwrap()),
    ];
    for (what, change) in changes {
        fs::remove_dir_all(&scene.target).unwrap();
        scene.restore(|_| {});
        assert_eq!(scene.store.verify(scene.id, &scene.source, &scene.target), (0, Vec::new()));
        change(&scene.target);
        let (differing, told) = scene.store.verify(scene.id, &scene.source, &scene.target);
        assert_eq!(differing, 1, "{what}: {told:?}");
        assert!(told[0].contains(what), "{what}: {told:?}");
    }
    // The program says it with its exit code.
    let latest = format!("latest:{}", scene.source.display());
    let words = ["restore", &latest, "--verify", "--overwrite", "never", "--target", scene.target.to_str().unwrap()];
    run(&scene.store.path, words).expect(0);
    write_at(&scene.target.join("file"), "Content", STORED);
    let ran = run(&scene.store.path, words).expect(3);
    assert!(ran.complaint().contains("content"), "{}", ran.complaint());
}
