//! `backup --verify`: a medium that does not keep what it took is found out before anything rests on it.

use crate::support::{
    image::{FileSystem, Image},
    lying::{Lie, Lying},
    program::{copy, installed, run},
    random::Random,
    same::{assert_same, differing},
    small,
    store::place,
};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::{ffi::OsStrExt, fs::FileExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};
use xsnap::{
    error::{Error, Result},
    id::ObjectName,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::Access,
        snapshot::Snapshot,
    },
    storage::{
        local::LocalStorage,
        object::{Folder, Storage},
    },
};

fn local(repo: &Path) -> Arc<dyn Storage> {
    Arc::new(LocalStorage::new(repo))
}

/// A repository with one snapshot, and a live tree that has changed since.
struct Bench {
    begin: PathBuf,
    live: PathBuf,
    copy: PathBuf,
    place: tempfile::TempDir,
}

impl Bench {
    fn build() -> Self {
        let place = small::quick_place();
        let [begin, live, copy] = ["begin", "live", "copy"].map(|name| place.path().join(name));
        fs::create_dir_all(live.join("folder")).unwrap();
        fs::write(live.join("file"), "some bytes").unwrap();
        let mut repository = small::init(&local(&begin), None).unwrap();
        small::backup(&mut repository, &live).unwrap();
        let first = repository.snapshots()[0].clone();
        small::restore_path(&repository, &first, live.as_os_str().as_bytes(), &copy).unwrap();
        fs::write(live.join("folder/new"), Random::new("readback", 0).bytes(1_500_000)).unwrap();
        fs::write(live.join("more"), "more bytes").unwrap();
        Self { begin, live, copy, place }
    }

    /// A medium with the first snapshot on it.
    fn medium(&self) -> PathBuf {
        let repo = self.place.path().join("repository");
        let _ = fs::remove_dir_all(&repo);
        copy(&self.begin, &repo);
        repo
    }

    fn backup(&self, storage: &Arc<dyn Storage>, verify: bool) -> Result<Snapshot> {
        let mut repository = small::open(storage, None, Access::Write)?;
        small::backup_as(&mut repository, &self.live, |request| request.caution.verify = verify)
    }

    fn comes_back(&self, storage: &Arc<dyn Storage>, snapshot: &Snapshot, tree: &Path, case: &str) {
        let target = self.place.path().join("target");
        let _ = fs::remove_dir_all(&target);
        let repository = small::open(storage, None, Access::Read).unwrap();
        let done = small::restore_path(&repository, snapshot, self.live.as_os_str().as_bytes(), &target);
        assert!(done.unwrap_or_else(|e| panic!("{case}: {e}")).problems.is_empty(), "{case}");
        assert_eq!(differing(tree, &target), [], "{case}");
    }
}

#[test]
fn no_snapshot_rests_on_what_the_medium_has_not_kept() {
    let bench = Bench::build();
    let first = small::open(&local(&bench.begin), None, Access::Read).unwrap().snapshots()[0].clone();
    let (mut of_packs, mut of_snapshots) = (0, 0);
    for lie in Lie::ALL {
        for n in 0.. {
            let repo = bench.medium();
            let lying = Lying::about(&repo, n, lie);
            let storage: Arc<dyn Storage> = Arc::new(lying.clone());
            let done = bench.backup(&storage, true);
            let Some((folder, name)) = lying.uncached().get(n).cloned() else {
                done.unwrap();
                break;
            };
            let case = format!("{lie:?} of {} ({n})", folder.object(&name));
            let e = done.expect_err(&case);
            assert!(matches!(&e, Error::NotKept { object, .. } if *object == folder.object(&name)), "{case}: {e}");
            assert_eq!(e.exit_code(), 1, "{case}");
            // What is on it now is copied to an honest one.
            let storage = local(&repo);
            let listed = small::open(&storage, None, Access::Read).unwrap().snapshots().len();
            if folder == Folder::Packs {
                assert_eq!(listed, 1, "{case}: a snapshot was put");
                of_packs += 1;
            } else {
                of_snapshots += 1;
            }
            bench.comes_back(&storage, &first, &bench.copy, &case);
            let next = bench.backup(&storage, true).unwrap_or_else(|e| panic!("{case}: {e}"));
            bench.comes_back(&storage, &next, &bench.live, &case);
            let repository = small::open(&storage, None, Access::Read).unwrap();
            let report = check(&repository, ReadData::All, &Silent).unwrap();
            assert!(report.touched.is_empty(), "{case}: {:?}", report.touched);
        }
    }
    assert!(of_packs >= 2 * Lie::ALL.len() && of_snapshots == 2 * Lie::ALL.len(), "{of_packs}, {of_snapshots}");
}

#[test]
fn without_being_asked_a_backup_takes_the_medium_at_its_word() {
    let bench = Bench::build();
    let lying = Lying::about(&bench.medium(), 0, Lie::Zeros);
    let storage: Arc<dyn Storage> = Arc::new(lying.clone());
    bench.backup(&storage, false).unwrap();
    assert_eq!(lying.uncached(), []);
}

/// How much of a file the system's cache holds.
fn cached_bytes(path: &Path) -> u64 {
    let output = Command::new("fincore").args(["--bytes", "--noheadings", "--output", "RES"]).arg(path).output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().parse().unwrap()
}

/// Where some bytes lie in a large file that is mostly holes.
fn find(file: &Path, wanted: &[u8]) -> u64 {
    let mut bytes = Vec::new();
    File::open(file).unwrap().read_to_end(&mut bytes).unwrap();
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap() as u64
}

#[test]
fn what_is_read_back_comes_from_the_device_and_not_from_the_cache() {
    let (_place, path) = place();
    let file = path.join("image");
    let Some(image) = Image::make(FileSystem::Ext4, &file, 32 << 20) else { return };
    if !installed("fincore", "util-linux-extra") {
        return;
    }
    let stick = path.join("stick");
    let plugged = image.mount(&stick);
    let storage = LocalStorage::new(stick.join("repository"));
    storage.prepare().unwrap();
    let (name, bytes) = (ObjectName::parse("one").unwrap(), Random::new("device", 0).bytes(3 << 20));
    let mut upload = storage.create(Folder::Packs, &name).unwrap();
    upload.append(&bytes).unwrap();
    upload.finish().unwrap();
    let object = stick.join("repository/packs/one");
    assert_eq!(cached_bytes(&object), 3 << 20);
    // A byte changes on the device, as in a worn cell. The cache does not know.
    let at = find(&file, &bytes[1 << 20..(1 << 20) + 32]);
    File::options().write(true).open(&file).unwrap().write_all_at(&[bytes[1 << 20] ^ 1], at).unwrap();
    let read = || storage.read(Folder::Packs, &name, 0, 3 << 20).unwrap();
    assert!(read() == bytes, "the cache still serves it");
    storage.uncache(Folder::Packs, &name).unwrap();
    assert_eq!(cached_bytes(&object), 0);
    assert!(read() != bytes, "this is what is on the device");
    plugged.unplug();
}

#[test]
fn a_verified_backup_says_so_on_every_kind_of_medium() {
    let kinds = [(FileSystem::Fat32, 64), (FileSystem::Exfat, 32), (FileSystem::Ext4, 32), (FileSystem::Xfs, 300)];
    for (kind, megabytes) in kinds {
        let (_place, path) = place();
        let [source, stick, target] = ["source", "stick", "target"].map(|name| path.join(name));
        let Some(image) = Image::make(kind, &path.join("image"), megabytes << 20) else { continue };
        fs::create_dir(&source).unwrap();
        fs::write(source.join("file"), Random::new("verified", 0).bytes(3_000_000)).unwrap();
        let plugged = image.mount(&stick);
        let made = run(&stick, ["backup", "--verify", source.to_str().unwrap()]).expect(0);
        assert!(made.text().contains("was read back and is right"), "{kind:?}: {}", made.text());
        let keeps_no_journal = made.complaint().contains("unmount it before you pull it out");
        assert_eq!(keeps_no_journal, matches!(kind, FileSystem::Fat32 | FileSystem::Exfat), "{}", made.complaint());
        let again = run(&stick, ["backup", "--verify", "--json", source.to_str().unwrap()]).expect(0);
        assert_eq!(again.message("backup")["verified"], true);
        assert!(!again.complaint().contains("unmount it"), "that is said once, when a repository is made");
        let what = format!("latest:{}", source.display());
        run(&stick, ["restore", &what, "--target", target.to_str().unwrap()]).expect(0);
        assert_same(&source, &target);
        plugged.unplug();
    }
}
