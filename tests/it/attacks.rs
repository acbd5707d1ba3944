//! What a hostile or unlucky medium, machine or user can do to what is pruned, repaired and forgotten: nothing that a
//! listed snapshot needs goes, and nothing that is gone comes back.

use crate::support::{
    faults::Faulty,
    forge,
    random::Random,
    small,
    storage::{Memory, take},
};
use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, Mutex},
};
use xsnap::{
    archive::{
        elsewhere::OtherRepository,
        repair::{RepairOptions, Repaired, Source, repair},
        salvage::salvage,
    },
    blobs::{frame::Compressor, pack::PackBuilder},
    error::{Error, Result},
    id::{Generation, ObjectName, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        content::{Content, Run, encode_list},
        listing::listing,
        opening::Access,
        prune::{PruneOptions, Pruned, prune},
        repository::Repository,
        snapshot::{Counts, Snapshot},
        sweep::{MaxUnused, SweepLimits},
        tree::{Entry, Node, Stat, encode_piece},
    },
    storage::{
        envelope::Kind,
        local::LocalStorage,
        object::{Folder, Listed, LockMode, Locking, Storage, Upload},
    },
};

/// Everything that is not needed goes.
const ALL: PruneOptions = PruneOptions {
    limits: SweepLimits {
        max_unused: MaxUnused::Bytes(0),
        small_bytes: None,
        max_repack_bytes: None,
        only_damaged: false,
    },
    damaged: BTreeSet::new(),
    threads: 2,
    dry_run: false,
};

fn on(disk: &Memory) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

fn open(disk: &Memory, access: Access) -> Repository {
    small::open(&on(disk), None, access).unwrap()
}

fn prune_all(disk: &Memory) -> Result<Pruned> {
    prune(&open(disk, Access::Exclusive), &ALL, &Silent)
}

fn is_whole(disk: &Memory, snapshots: usize) {
    let repository = open(disk, Access::Read);
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(report.touched.is_empty(), "{:?}", report.touched);
    assert_eq!((report.snapshots, repository.snapshots().len()), (snapshots as u64, snapshots));
}

/// Stores one pack of content with one frame, as any writer may.
fn pack(repository: &Repository, blobs: &[&[u8]], bases: &[&[u8]]) -> ObjectName {
    let secrets = repository.secrets();
    let ids = |blobs: &[&[u8]]| blobs.iter().map(|b| secrets.blob_id(b)).collect::<Vec<_>>();
    let lengths = blobs.iter().map(|b| b.len() as u32).collect();
    let packed = Compressor::new(3).pack(blobs.concat(), lengths, ids(blobs), ids(bases), &bases.concat());
    assert_eq!(packed.head.bases.is_empty(), bases.is_empty());
    let storage = repository.storage().as_ref();
    let mut builder = PackBuilder::begin(storage, secrets, repository.id(), Kind::DataPack).unwrap();
    builder.append(packed).unwrap();
    let published = builder.finish().unwrap();
    repository.catalogue_packs(std::slice::from_ref(&published)).unwrap();
    published.name
}

fn noise(seed: u64) -> Vec<u8> {
    Random::new("attacks", seed).bytes(50_000)
}

/// Files of one chunk that repeats, of different lengths: their lists of lists differ, and all lists in them are equal.
#[test]
fn a_list_of_lists_that_were_all_walked_before_is_needed_all_the_same() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    for times in [3, 4] {
        forge::put(&mut repository, |forge| {
            let list = encode_list(&[forge.run(b"one chunk", 9)]);
            let lists = encode_list(&vec![forge.tree_run(&list, 9); times]);
            let content = Content { depth: 2, runs: vec![forge.tree_run(&lists, 9 * times as u64)] };
            let entries = [forge::file(b"file", content)];
            forge.folder(&entries)
        });
    }
    drop(repository);
    is_whole(&disk, 2);
    prune_all(&disk).unwrap();
    is_whole(&disk, 2);
}

/// The base of a frame lies in two packs and is needed for nothing else; one copy is damaged, and nobody has met that.
#[test]
fn of_two_copies_of_a_base_the_one_that_is_whole_stays() {
    for (beside, damages_first) in [(false, true), (false, false), (true, true), (true, false)] {
        let disk = Memory::new();
        let mut repository = small::init(&on(&disk), None).unwrap();
        let base = noise(1);
        let content = [&base[..40_000], b"another end"].concat();
        let unneeded = [noise(2), base.clone()].concat();
        let blobs: &[&[u8]] = if beside { &[&content, &unneeded[..60_000]] } else { &[&content] };
        pack(&repository, blobs, &[&base]);
        let mut copies = [pack(&repository, &[&base], &[]), pack(&repository, &[&base], &[])];
        copies.sort();
        let run = Run::Data { id: repository.secrets().blob_id(&content), length_bytes: content.len() as u64 };
        let entries = [forge::file(b"file", Content { depth: 0, runs: vec![run] })];
        forge::put(&mut repository, |forge| forge.folder(&entries));
        drop(repository);
        disk.flip(Folder::Packs, &copies[usize::from(!damages_first)], 20_000, 1);
        prune_all(&disk).unwrap();
        let repository = open(&disk, Access::Read);
        let reader = repository.reader(Arc::new(repository.index().unwrap()));
        let bytes = reader.blob(&repository.secrets().blob_id(&content));
        assert_eq!(bytes.unwrap(), content, "beside: {beside}, the first is damaged: {damages_first}");
    }
}

/// Anybody whose files are backed up can have a file that holds what a folder's list will be.
#[test]
fn a_tree_that_lies_among_content_too_is_found_by_whoever_knows_only_trees() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let piece = encode_piece(&[forge::symlink(b"link", b"target")]);
    let lists = |repository: &Repository, case: &str| {
        let reader = repository.tree_reader().unwrap();
        for snapshot in repository.snapshots() {
            let Node::Folder { content } = &snapshot.root.node else { panic!("{case}") };
            for entry in listing(&reader, content, None).map(|entry| entry.unwrap_or_else(|e| panic!("{case}: {e}")).0)
            {
                let Node::Folder { content } = &entry.node else { continue };
                let names: Vec<Result<Entry>> = listing(&reader, content, None).map(|e| e.map(|e| e.0)).collect();
                assert!(matches!(&names[..], [Ok(link)] if link.name == b"link"), "{case}: {names:?}");
            }
        }
    };
    let with_folder = |forge: &mut forge::Forge, beside: &[u8]| {
        let content = forge.content(&piece);
        let beside = forge.content(beside);
        let folder = forge.tree_run(&piece, piece.len() as u64);
        let folder = forge::folder(b"folder", Content { depth: 0, runs: vec![folder] });
        let entries = [forge::file(b"a", content), forge::file(b"b", beside), folder];
        forge.folder(&entries)
    };
    forge::put(&mut repository, |forge| with_folder(forge, &noise(1)));
    lists(&repository, "in one backup");
    forge::put(&mut repository, |forge| with_folder(forge, &noise(2)));
    drop(repository);
    prune_all(&disk).unwrap();
    is_whole(&disk, 2);
    lists(&open(&disk, Access::Read), "pruned");
}

#[test]
fn a_lost_blob_is_missed_although_stats_name_it_too() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let bytes = noise(1);
    let (name, id) = (pack(&repository, &[&bytes], &[]), repository.secrets().blob_id(&bytes));
    let both = Content { depth: 0, runs: vec![Run::Data { id, length_bytes: bytes.len() as u64 }] };
    let entries = [forge::file(b"file", both.clone())];
    let root = forge::folder(b"", forge::store(&repository, |forge| forge.folder(&entries)));
    let root_stat = Stat { folder: Some(both), ..Stat::default() };
    repository.put_snapshot(Snapshot { root_stat, ..forge::snapshot_of(root) }).unwrap();
    drop(repository);
    let repository = open(&disk, Access::Exclusive);
    repository.mark_bad(&[(name, 0)]).unwrap();
    let before = disk.objects();
    let e = prune(&repository, &ALL, &Silent).expect_err("a file is lost");
    assert!(matches!(e, Error::Missing { .. }), "{e}");
    assert_eq!(disk.objects(), before);
}

#[test]
fn stats_that_lie_in_two_damaged_places_keep_nobody_from_pruning() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let bytes = noise(1);
    let id = repository.secrets().blob_id(&bytes);
    let copies = [pack(&repository, &[&bytes], &[]), pack(&repository, &[&bytes], &[])];
    let stats = Content { depth: 0, runs: vec![Run::Data { id, length_bytes: bytes.len() as u64 }] };
    let root = forge::folder(b"", forge::store(&repository, |forge| forge.folder(&[forge::symlink(b"a", b"b")])));
    let root_stat = Stat { folder: Some(stats), ..Stat::default() };
    repository.put_snapshot(Snapshot { root_stat, ..forge::snapshot_of(root) }).unwrap();
    drop(repository);
    copies.iter().for_each(|name| disk.flip(Folder::Packs, name, 20_000, 1));
    assert_eq!(prune_all(&disk).unwrap().deleted_packs, 2);
    is_whole(&disk, 1);
}

/// Damage that nobody had met stops a prune in its middle; it is remembered, so that the next backup stores again what it
/// hit, and the next prune says what is lost before it begins.
#[test]
fn damage_that_stops_a_prune_is_remembered() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let (needed, unneeded) = (noise(1), noise(2));
    let name = pack(&repository, &[&needed, &unneeded], &[]);
    forge::put(&mut repository, |forge| {
        let entries = [forge::file(b"file", forge.content(&needed))];
        forge.folder(&entries)
    });
    drop(repository);
    disk.flip(Folder::Packs, &name, 20_000, 1);
    let repository = open(&disk, Access::Exclusive);
    let id = repository.secrets().blob_id(&needed);
    assert!(repository.index().unwrap().is_known(&id));
    let before = disk.objects();
    assert!(prune(&repository, &ALL, &Silent).expect_err("what is needed is damaged").is_damage());
    assert!(!repository.index().unwrap().is_known(&id));
    let e = prune(&repository, &ALL, &Silent).expect_err("it still is");
    assert!(e.to_string().starts_with("nothing was pruned"), "{e}");
    assert_eq!(disk.objects(), before);
}

/// A repository with one snapshot.
fn one_snapshot() -> (Memory, SnapshotId) {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let snapshot = forge::put(&mut repository, |forge| {
        let entries = [forge::file(b"file", forge.content(b"content"))];
        forge.folder(&entries)
    });
    (disk, snapshot.id)
}

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

/// Repairs, and says how many records have come back.
fn repair_from(disk: &Memory, other: Option<&Memory>) -> usize {
    let mut repository = open(disk, Access::Exclusive);
    let other = other.map(|other| OtherRepository::new(open(other, Access::Read), &repository).unwrap());
    let found = check(&repository, ReadData::All, &Silent).unwrap();
    let sources: Vec<&dyn Source> = other.iter().map(|other| other as &dyn Source).collect();
    let options = RepairOptions { threads: 1, drop_lost: false };
    repair(&mut repository, &found, &sources, options, &Silent).unwrap().revived.len()
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

/// Repairs without any source and drops what is lost.
fn drop_lost(repository: &mut Repository) -> Repaired {
    let found = check(repository, ReadData::No, &Silent).unwrap();
    repair(repository, &found, &[], RepairOptions { threads: 1, drop_lost: true }, &Silent).unwrap()
}

/// A mark of the catalogue proves nothing: a loose plug has made it, or somebody who has written to the medium.
#[test]
fn nothing_is_dropped_for_a_mark_of_a_frame_that_is_whole() {
    let (disk, _) = one_snapshot();
    let mut repository = open(&disk, Access::Exclusive);
    let marks = disk.objects_in(Folder::Packs).into_iter().flat_map(|(name, _)| [(name.clone(), 0), (name, 77)]);
    repository.mark_bad(&marks.collect::<Vec<_>>()).unwrap();
    let before = disk.objects();
    let repaired = drop_lost(&mut repository);
    assert!(repaired.reduced.is_empty() && !repaired.left.has_damage(), "{repaired:?}");
    assert!(repository.snapshots()[0].complete);
    assert_eq!(disk.objects(), before);
}

#[test]
fn no_forged_count_or_size_stops_a_repair() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let root = forge::store(&repository, |forge| {
        let huge = Content { depth: 0, runs: vec![Run::Hole { length_bytes: u64::MAX }] };
        let lost = Content { depth: 0, runs: vec![forge.nowhere(5)] };
        let entries = [forge::file(b"a", huge.clone()), forge::file(b"b", huge), forge::file(b"c", lost)];
        forge.folder(&entries)
    });
    let counts = Counts { problems: u64::MAX, files: u64::MAX, ..Counts::default() };
    let forged = Snapshot { counts, ..forge::snapshot_of(forge::folder(b"", root)) };
    repository.put_snapshot(forged).unwrap();
    drop(repository);
    let mut repository = open(&disk, Access::Exclusive);
    let repaired = drop_lost(&mut repository);
    assert_eq!((repaired.reduced.len(), repaired.left.has_damage()), (1, false), "{repaired:?}");
    let snapshot = &repository.snapshots()[0];
    assert_eq!((snapshot.counts.problems, snapshot.problems.len()), (u64::MAX, 1));
}

/// A repository whose catalogue stays from one opening to the next, and the names of its packs of content.
fn with_catalogue() -> (tempfile::TempDir, Arc<dyn Storage>, Vec<ObjectName>) {
    let place = small::quick_place();
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(place.path().join("repository")));
    let mut repository = small::init(&storage, None).unwrap();
    let contents = [noise(1), noise(2)];
    let packs = contents.iter().map(|bytes| pack(&repository, &[bytes], &[])).collect();
    forge::put(&mut repository, |forge| {
        let entries = [forge::file(b"a", forge.content(&contents[0])), forge::file(b"b", forge.content(&contents[1]))];
        forge.folder(&entries)
    });
    drop(repository);
    (place, storage, packs)
}

/// At the second opening, the catalogue knows every other pack, and none of those is asked for.
#[test]
fn one_pack_that_cannot_be_read_keeps_nobody_out_however_often_it_is_opened() {
    let (place, storage, packs) = with_catalogue();
    std::fs::remove_file(place.path().join("repository/index.sqlite")).unwrap();
    let faulty = Faulty::new(storage);
    faulty.spoil(Folder::Packs, &packs[0], 0..u64::MAX);
    let spoilt: Arc<dyn Storage> = Arc::new(faulty.clone());
    for n in 0..3 {
        let repository = small::open(&spoilt, None, Access::Write).unwrap_or_else(|e| panic!("opening {n}: {e}"));
        assert_eq!(repository.index().unwrap().packs().len(), 2, "opening {n}");
    }
    faulty.heal();
    assert_eq!(small::open(&spoilt, None, Access::Read).unwrap().index().unwrap().packs().len(), 3);
}

/// A pack could not be read when the repository was opened, and can be by now.
#[test]
fn nothing_is_dropped_for_a_pack_that_could_not_be_read_for_a_while() {
    for comes_back_before_repair in [false, true] {
        let (place, storage, packs) = with_catalogue();
        std::fs::remove_file(place.path().join("repository/index.sqlite")).unwrap();
        let faulty = Faulty::new(storage);
        faulty.spoil(Folder::Packs, &packs[0], 0..u64::MAX);
        let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
        let mut repository = small::open(&storage, None, Access::Exclusive).unwrap();
        faulty.heal();
        let found = check(&repository, ReadData::All, &Silent).unwrap();
        assert!(found.unread_packs.is_empty());
        if !comes_back_before_repair {
            faulty.spoil(Folder::Packs, &packs[0], 0..u64::MAX);
        }
        let options = RepairOptions { threads: 1, drop_lost: true };
        let repaired = repair(&mut repository, &found, &[], options, &Silent).unwrap();
        assert!(repaired.reduced.is_empty() && repository.snapshots()[0].complete, "{repaired:?}");
        assert_eq!(repaired.left.touched.is_empty(), comes_back_before_repair, "{repaired:?}");
    }
}

/// A list that could be read when everything was looked at, and cannot be when the snapshot is written anew.
#[test]
fn only_what_was_found_lost_is_left_out_of_a_snapshot() {
    let (repository, snapshot) = forge::forged(|forge| {
        let lost = Content { depth: 0, runs: vec![forge.nowhere(50)] };
        let entries = [forge::file(b"file", forge.content(b"content")), forge::folder(b"folder", lost)];
        forge.folder(&entries)
    });
    let salvage_without = |lost: &[&[u8]]| {
        let index = Arc::new(repository.index().unwrap());
        let writer = repository.writer(Arc::clone(&index), 1, false).unwrap();
        let lost = lost.iter().map(|path| (path.to_vec(), "lost".to_owned())).collect();
        let salvaged = salvage(&repository.reader(index), &writer, &snapshot, &lost, &Silent);
        let _ = writer.finish();
        salvaged.map(|assembled| assembled.problems.len())
    };
    assert_eq!(salvage_without(&[b"/file", b"/folder"]).unwrap(), 2);
    assert!(salvage_without(&[b"/file", b"/folder/below"]).expect_err("a list is damaged").is_damage());
}
