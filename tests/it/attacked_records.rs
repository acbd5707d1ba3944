//! What a hostile or unlucky medium, another machine or a newer version can do to the records of snapshots: nothing that
//! is gone comes back, and nothing that is there is forgotten or replaced unasked.

use crate::support::{
    by_hand::{ALL, is_whole, one_snapshot, open, prune_all, repair_from},
    small,
    storage::{Memory, take},
};
use std::{
    io,
    sync::{Arc, Mutex},
};
use xsnap::{
    archive::repair::{RepairOptions, repair},
    error::{Error, Result},
    id::{Generation, ObjectName, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::Access,
        prune::prune,
        repository::Repository,
        snapshot::Snapshot,
    },
    storage::object::{Folder, Listed, LockMode, Locking, Storage, Upload},
};

/// Puts the second generation of a snapshot as a newer version does: another envelope, and proven.
fn put_newer(disk: &Memory, id: SnapshotId, proven: bool) -> ObjectName {
    let first = disk.bytes(Folder::Snapshots, &id.object(Generation::FIRST)).unwrap();
    let name = id.object(Generation::FIRST.next().unwrap());
    let mut bytes = first;
    bytes[8] = 2;
    bytes[32..32 + name.as_str().len()].copy_from_slice(name.as_str().as_bytes());
    let end = bytes.len() - 32;
    let proof = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(proof.as_bytes());
    bytes[end] ^= u8::from(!proven);
    for folder in [Folder::Snapshots, Folder::Mirror] {
        disk.replace(folder, &name, bytes.clone());
    }
    name
}

#[test]
fn the_record_that_a_newer_version_has_put_is_neither_replaced_nor_forgotten() {
    let (disk, id) = one_snapshot();
    let other = disk.snapshot();
    put_newer(&disk, id, true);
    let untouched = |disk: &Memory, case: &str, work: &dyn Fn(&mut Repository) -> Result<()>| {
        let before = disk.objects();
        let done = work(&mut open(disk, Access::Exclusive));
        assert!(matches!(done, Err(Error::Newer { .. })), "{case}: {done:?}");
        assert_eq!(disk.objects(), before, "{case}");
    };
    let only_newer = disk.snapshot();
    for folder in [Folder::Snapshots, Folder::Mirror] {
        only_newer.remove(folder, &id.object(Generation::FIRST));
    }
    untouched(&disk, "rewrite", &|r| r.rewrite(&id, &|s| s.tags = vec!["t".into()]).map(drop));
    untouched(&disk, "forget", &|r| r.forget(&[id]));
    untouched(&only_newer, "forget what only a newer version reads", &|r| r.forget(&[id]));
    let record = open(&other, Access::Read).snapshots()[0].clone();
    untouched(&only_newer, "revive", &|r| r.revive(&record));
    for disk in [&disk, &only_newer] {
        let before = disk.objects();
        assert!(prune_all(disk).expect_err("what it needs is not known").is_damage());
        assert_eq!(repair_from(disk, Some(&other)), 0);
        assert_eq!(disk.objects(), before);
    }
}

#[test]
fn a_record_that_only_says_that_it_is_newer_is_damaged() {
    let (disk, id) = one_snapshot();
    put_newer(&disk, id, false);
    let mut repository = open(&disk, Access::Write);
    repository.rewrite(&id, &|s| s.tags = vec!["t".into()]).unwrap();
    assert!(repository.damaged_snapshots().is_empty());
    repository.forget(&[id]).unwrap();
}

/// A rewriting that a power cut has torn leaves the older record, which counts. Nothing else tells that it does.
#[test]
fn a_repair_puts_the_record_that_counts_in_the_place_of_a_later_one_that_is_damaged() {
    let (disk, id) = one_snapshot();
    let second = id.object(Generation::FIRST.next().unwrap());
    disk.replace(Folder::Snapshots, &second, Vec::new());
    assert!(prune_all(&disk).is_err());
    repair_from(&disk, None);
    let repository = open(&disk, Access::Read);
    assert!(repository.damaged_snapshots().is_empty());
    assert!(repository.snapshots()[0].protected, "the lost change may have been that");
    assert!(!check(&repository, ReadData::All, &Silent).unwrap().has_damage());
    drop(repository);
    prune_all(&disk).unwrap();
    is_whole(&disk, 1);
}

/// Both files of a record are damaged, and the catalogue still has its bytes.
#[test]
fn a_repair_puts_a_record_again_that_only_the_catalogue_has() {
    let (disk, id) = one_snapshot();
    let mut repository = open(&disk, Access::Exclusive);
    for folder in [Folder::Snapshots, Folder::Mirror] {
        disk.flip(folder, &id.object(Generation::FIRST), 150, 1);
    }
    let found = check(&repository, ReadData::All, &Silent).unwrap();
    let options = RepairOptions { threads: 1, drop_lost: false };
    let repaired = repair(&mut repository, &found, &[], options, &Silent).unwrap();
    assert!(!repaired.left.has_damage(), "{:?}", repaired.left.findings);
    drop(repository);
    // A medium in memory keeps no catalogue.
    is_whole(&disk, 1);
}

/// What happens on the medium before a call on an object.
type Deed = Box<dyn FnOnce() + Send>;

/// A deed, and the call that it comes before.
type Awaited = (&'static str, Folder, Deed);

/// Another storage, before one call of which somebody else does something; and which lists what it cannot open.
#[derive(Clone)]
struct Meanwhile {
    inner: Memory,
    deed: Arc<Mutex<Option<Awaited>>>,
    unopened: Option<Folder>,
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meanwhile")
    }
}

impl Meanwhile {
    fn new(inner: &Memory, verb: &'static str, folder: Folder, deed: impl FnOnce() + Send + 'static) -> Self {
        let deed: Deed = Box::new(deed);
        Self { inner: inner.clone(), deed: Arc::new(Mutex::new(Some((verb, folder, deed)))), unopened: None }
    }

    fn before(&self, verb: &str, folder: Folder) {
        let due = take(&self.deed).take_if(|(v, f, _)| *v == verb && *f == folder);
        due.into_iter().for_each(|(_, _, deed)| deed());
    }

    fn is_done(&self) -> bool {
        take(&self.deed).is_none()
    }
}

impl Storage for Meanwhile {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn prepare(&self) -> io::Result<()> {
        self.inner.prepare()
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        self.before("create", folder);
        self.inner.create(folder, name)
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        let is_snapshot = SnapshotId::from_object(name).is_some();
        if self.unopened.is_some() && (self.unopened == Some(folder) || is_snapshot) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.inner.read(folder, name, offset_bytes, length_bytes)
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        self.before("delete", folder);
        self.inner.delete(folder, name)
    }

    fn sync(&self, folder: Folder) -> io::Result<()> {
        self.inner.sync(folder)
    }

    fn sweep(&self) -> io::Result<u64> {
        self.inner.sweep()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Locking> {
        self.inner.lock(mode)
    }
}

fn forget_on(disk: &Memory, id: SnapshotId) {
    // Opened for reading, nobody completes what is half there before.
    open(disk, Access::Read).forget(&[id]).unwrap();
}

fn is_gone(disk: &Memory, id: SnapshotId, case: &str) {
    let repository = open(disk, Access::Write);
    assert!(!repository.has(&id), "{case}: it is back");
}

/// Both hold the shared lock, or there is none.
#[test]
fn a_writer_that_completes_a_snapshot_while_another_forgets_it_does_not_bring_it_back() {
    let (disk, id) = one_snapshot();
    let half = disk.snapshot();
    half.remove(Folder::Mirror, &id.object(Generation::FIRST));
    // It is forgotten before the missing file is put again.
    let first = half.snapshot();
    let forgotten = first.clone();
    let storage = Meanwhile::new(&first, "create", Folder::Mirror, move || forget_on(&forgotten, id));
    small::open(&(Arc::new(storage.clone()) as Arc<dyn Storage>), None, Access::Write).unwrap();
    assert!(storage.is_done());
    is_gone(&first, id, "forgotten before the second file was put");
    // Its missing file is put again between the two deletions of a forgetting.
    let second = half.snapshot();
    let completed = second.clone();
    let storage = Meanwhile::new(&second, "delete", Folder::Snapshots, move || drop(open(&completed, Access::Write)));
    let mut repository = small::open(&(Arc::new(storage.clone()) as Arc<dyn Storage>), None, Access::Read).unwrap();
    repository.forget(&[id]).unwrap();
    assert!(storage.is_done());
    drop(repository);
    is_gone(&second, id, "completed while it was forgotten");
}

#[test]
fn a_change_to_a_snapshot_that_is_put_while_another_forgets_it_does_not_bring_it_back() {
    let (disk, id) = one_snapshot();
    for protects in [false, true] {
        let disk = disk.snapshot();
        let changed = disk.clone();
        let storage = Meanwhile::new(&disk, "delete", Folder::Snapshots, move || {
            let change = |s: &mut Snapshot| (s.tags, s.protected) = (vec!["tag".into()], protects);
            open(&changed, Access::Read).rewrite(&id, &change).map(drop).unwrap();
        });
        let storage = Arc::new(storage);
        let mut repository = small::open(&(storage.clone() as Arc<dyn Storage>), None, Access::Read).unwrap();
        let done = repository.forget(&[id]);
        assert!(storage.is_done());
        drop(repository);
        // What is protected by then stays, and who forgets it is told.
        assert_eq!(done.is_ok(), !protects, "{done:?}");
        assert_eq!(open(&disk, Access::Write).has(&id), protects);
    }
}

/// On a file system that is damaged, a name can be listed and not be opened.
#[test]
fn a_snapshot_that_is_listed_and_cannot_be_opened_is_not_taken_for_forgotten() {
    let (disk, _) = one_snapshot();
    let mut storage = Meanwhile::new(&disk, "never", Folder::Packs, || ());
    storage.unopened = Some(Folder::Snapshots);
    let before = disk.objects();
    let repository = small::open(&(Arc::new(storage) as Arc<dyn Storage>), None, Access::Exclusive).unwrap();
    assert_eq!((repository.snapshots().len(), repository.damaged_snapshots().len()), (0, 1));
    assert!(prune(&repository, &ALL, &Silent).expect_err("what it needs is not known").is_damage());
    assert_eq!(disk.objects(), before);
}
