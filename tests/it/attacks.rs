//! What a hostile or unlucky medium, machine or user can do to what is pruned and repaired: nothing that a listed snapshot
//! needs goes.

use crate::support::{
    by_hand::{ALL, is_whole, noise, one_snapshot, open, pack, prune_all, repair_from},
    faults::Faulty,
    forge, small,
    storage::{Memory, on},
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use xsnap::{
    archive::{
        repair::{RepairOptions, Repaired, repair},
        salvage::salvage,
    },
    error::{Error, Result},
    id::ObjectName,
    progress::{Event, Progress, Silent},
    repo::{
        check::{ReadData, check},
        content::{Content, Run, encode_list},
        listing::{find, listing},
        opening::Access,
        prune::prune,
        repository::Repository,
        snapshot::{Counts, Snapshot},
        tree::{Entry, Node, Stat, encode_piece},
    },
    storage::{
        local::LocalStorage,
        object::{Folder, Storage},
    },
};

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

/// Fails nothing until a check begins for the second time; from then on a pack cannot be read.
struct SpoilsLater {
    faulty: Faulty,
    pack: ObjectName,
    checks: AtomicU32,
}

impl Progress for SpoilsLater {
    fn tell(&self, event: Event<'_>) {
        if matches!(event, Event::Total { .. }) && self.checks.fetch_add(1, Ordering::Relaxed) == 1 {
            self.faulty.spoil(Folder::Packs, &self.pack, 0..u64::MAX);
        }
    }
}

#[test]
fn nothing_is_dropped_for_a_pack_that_cannot_be_read_once_something_has_been_dropped() {
    let faulty = Faulty::new(on(&Memory::new()));
    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
    let mut repository = small::init(&storage, None).unwrap();
    let folder = forge::store(&repository, |forge| forge.folder(&[forge::symlink(b"link", b"target")]));
    let pack = repository.index().unwrap().packs()[0].name.clone();
    forge::put(&mut repository, |forge| {
        let lost = forge::file(b"lost", Content { depth: 0, runs: vec![forge.nowhere(5)] });
        forge.folder(&[forge::folder(b"folder", folder.clone()), lost])
    });
    drop(repository);
    let mut repository = small::open(&storage, None, Access::Exclusive).unwrap();
    let found = check(&repository, ReadData::All, &Silent).unwrap();
    let progress = SpoilsLater { faulty: faulty.clone(), pack, checks: 0.into() };
    let repaired =
        repair(&mut repository, &found, &[], RepairOptions { threads: 1, drop_lost: true }, &progress).unwrap();
    assert_eq!(repaired.reduced.len(), 1, "the lost file, and nothing else: {repaired:?}");
    assert!(!repaired.left.touched.is_empty() && !repaired.left.unread_packs.is_empty(), "{repaired:?}");
    faulty.heal();
    assert!(check(&repository, ReadData::All, &Silent).unwrap().touched.is_empty());
    let reader = repository.tree_reader().unwrap();
    let root = &repository.snapshots()[0].root;
    assert!(find(&reader, root, b"/folder/link").unwrap().is_some());
    assert!(find(&reader, root, b"/lost").unwrap().is_none());
}

/// The one place among trees is damaged; a file that holds the same bytes is whole.
#[test]
fn a_tree_that_is_whole_only_among_content_is_found_all_the_same() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let piece = encode_piece(&[forge::symlink(b"link", b"target")]);
    let content = forge::store(&repository, |forge| forge.content(&piece));
    let before: BTreeSet<_> = disk.objects_in(Folder::Packs).into_iter().map(|(name, _)| name).collect();
    let folder =
        Content { depth: 0, runs: vec![forge::store(&repository, |f| f.tree_run(&piece, piece.len() as u64))] };
    let trees: Vec<_> = disk.objects_in(Folder::Packs).into_iter().filter(|(n, _)| !before.contains(n)).collect();
    forge::put(&mut repository, |forge| {
        forge.folder(&[forge::file(b"file", content.clone()), forge::folder(b"folder", folder.clone())])
    });
    drop(repository);
    let is_listed = |case: &str| {
        let repository = open(&disk, Access::Read);
        let snapshot = &repository.snapshots()[0];
        for reader in [repository.tree_reader().unwrap(), repository.reader_of(&snapshot.root).unwrap()] {
            let found = find(&reader, &snapshot.root, b"/folder/link");
            assert!(found.as_ref().is_ok_and(Option::is_some), "{case}: {found:?}");
        }
    };
    is_listed("whole");
    let [(name, bytes)] = &trees[..] else { panic!("one pack of trees") };
    disk.flip(Folder::Packs, name, bytes.windows(4).position(|magic| magic == b"link").unwrap_or(130), 1);
    is_listed("damaged");
    repair_from(&disk, None);
    assert!(disk.bytes(Folder::Packs, name).is_none(), "the damaged pack is replaced");
    is_listed("repaired");
    is_whole(&disk, 1);
}

/// Nothing is needed of it, and what is needed elsewhere leans on it.
#[test]
fn a_damaged_pack_that_holds_nothing_but_a_base_is_replaced() {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let base = noise(1);
    let content = [&base[..40_000], b"another end"].concat();
    let base_pack = pack(&repository, &[&base], &[]);
    pack(&repository, &[&content], &[&base]);
    let run = Run::Data { id: repository.secrets().blob_id(&content), length_bytes: content.len() as u64 };
    let entries = [forge::file(b"file", Content { depth: 0, runs: vec![run] })];
    forge::put(&mut repository, |forge| forge.folder(&entries));
    drop(repository);
    // Damage behind its frame, which costs nothing.
    let end = disk.bytes(Folder::Packs, &base_pack).unwrap().len();
    disk.flip(Folder::Packs, &base_pack, end - 10, 1);
    assert!(check(&open(&disk, Access::Read), ReadData::All, &Silent).unwrap().has_damage());
    repair_from(&disk, None);
    assert!(disk.bytes(Folder::Packs, &base_pack).is_none());
    is_whole(&disk, 1);
    assert!(!check(&open(&disk, Access::Read), ReadData::All, &Silent).unwrap().has_damage());
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
