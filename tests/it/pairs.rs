//! Objects of two files: the next writing command makes a damaged one anew, and a config that is newer is obeyed.

use crate::support::{
    crash::{Crashing, CutOff},
    damage::Action,
    random::Random,
    small::{self, Small},
    storage::Memory,
};
use std::sync::Arc;
use xsnap::{
    blobs::seal::Secrets,
    error::Error,
    id::{Generation, ObjectName},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        config::{self, Clear, Config},
        opening::{Access, probe},
    },
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, Storage},
    },
};

/// Damages that leave a file with another length.
const CUTS: [Action; 4] = [Action::Empty, Action::Half, Action::LastByteGone, Action::Append];

fn small_objects(disk: &Memory) -> Vec<(Folder, ObjectName)> {
    let all = disk.objects().into_iter().map(|(folder, name, _)| (folder, name));
    all.filter(|(folder, _)| *folder != Folder::Packs).collect()
}

#[test]
fn a_file_of_another_length_than_its_whole_twin_is_made_anew_by_the_next_writer() {
    let small = Small::build(31, 2, Some("secret"));
    let mut random = Random::new("pairs", 0);
    for (folder, name) in small_objects(&small.disk) {
        for action in CUTS {
            let disk = small.disk.snapshot();
            let what = action.apply(&disk, (folder, &name), &Memory::new(), &mut random).unwrap();
            let storage: Arc<dyn Storage> = Arc::new(disk.clone());
            drop(small.open(&storage, Access::Read).unwrap());
            assert_ne!(disk.objects(), small.disk.objects(), "{what}: a reader mends nothing");
            let repository = small.open(&storage, Access::Write).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert!(disk.objects() == small.disk.objects(), "{what}: it is not as it was");
            assert!(!check(&repository, ReadData::No, &Silent).unwrap().has_damage(), "{what}");
        }
    }
}

#[test]
fn a_crash_while_a_damaged_file_is_made_anew_leaves_the_whole_one() {
    let small = Small::build(31, 2, Some("secret"));
    let mut random = Random::new("pairs in a crash", 0);
    let mut crashes = 0;
    for (folder, name) in small_objects(&small.disk) {
        let disk = small.disk.snapshot();
        Action::Half.apply(&disk, (folder, &name), &Memory::new(), &mut random).unwrap();
        for n in 0.. {
            let machine = Crashing::new(&disk);
            machine.crash_after(n);
            let opened = small.open(&(Arc::new(machine.clone()) as Arc<dyn Storage>), Access::Write).map(drop);
            if !machine.crashed() {
                opened.unwrap();
                break;
            }
            crashes += 1;
            for cut_off in CutOff::HONEST {
                let case = format!("{} after {n} changes, {cut_off:?}", folder.object(&name));
                let after = machine.survivors(cut_off);
                let storage: Arc<dyn Storage> = Arc::new(after.clone());
                let repository = small.open(&storage, Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
                assert_eq!(repository.snapshots().len(), 2, "{case}");
                drop(repository);
                small.open(&storage, Access::Write).map(drop).unwrap_or_else(|e| panic!("{case}: {e}"));
                assert!(after.objects() == small.disk.objects(), "{case}");
            }
        }
    }
    assert!(crashes > 30, "{crashes}");
}

#[test]
fn what_proves_itself_is_not_deleted_where_another_object_was_expected() {
    let small = Small::build(31, 2, None);
    let label = |name: &ObjectName| Label {
        kind: Kind::Snapshot,
        repository: xsnap::id::RepositoryId([9; 16]),
        name: name.clone(),
    };
    for (folder, name) in small_objects(&small.disk).into_iter().filter(|(folder, _)| *folder == Folder::Snapshots) {
        for place in [folder, Folder::Mirror] {
            let disk = small.disk.snapshot();
            disk.remove(place, &name);
            envelope::put(&disk, place, &label(&name), b"somebody else's").unwrap();
            let before = disk.objects();
            let storage: Arc<dyn Storage> = Arc::new(disk.clone());
            assert_eq!(small.open(&storage, Access::Write).unwrap().snapshots().len(), 2);
            assert!(disk.objects() == before, "{}", place.object(&name));
        }
    }
}

/// A repository whose newest config asks for what this version does not know.
fn with_second_config(features: [u32; 3], files: &[Folder]) -> (Memory, ObjectName) {
    let disk = Memory::new();
    let repository = small::init(&(Arc::new(disk.clone()) as Arc<dyn Storage>), None).unwrap();
    let name = config::object_name(Generation::FIRST.next().unwrap()).unwrap();
    let clear = Clear { features, encrypted: false };
    let body = Config { level: 4, ..small::small_config() }.seal(clear, &Secrets::plain(), &name).unwrap();
    let label = Label { kind: Kind::Config, repository: repository.id(), name: name.clone() };
    for folder in files {
        envelope::put(&disk, *folder, &label, &body).unwrap();
    }
    (disk, name)
}

#[test]
fn a_newest_config_that_is_newer_is_obeyed_and_not_passed_over() {
    for files in [&[Folder::Config, Folder::Mirror][..], &[Folder::Config], &[Folder::Mirror]] {
        let (disk, name) = with_second_config([0, 0, 1], files);
        let storage: Arc<dyn Storage> = Arc::new(disk.snapshot());
        assert!(matches!(probe(storage.as_ref()), Err(Error::Newer { .. })));
        for access in [Access::Read, Access::Write] {
            let opened = small::open(&storage, None, access);
            assert!(matches!(opened, Err(Error::Newer { .. })), "{files:?}: {:?}", opened.map(|r| r.config().level));
        }
        // Its bits are damaged: nothing is proven, and the generation before it counts.
        files.iter().for_each(|folder| disk.flip(*folder, &name, 72, 2));
        let storage: Arc<dyn Storage> = Arc::new(disk);
        assert_ne!(small::open(&storage, None, Access::Read).unwrap().config().level, 4);
    }
    let (disk, name) = with_second_config([0, 0, 0], &[Folder::Config, Folder::Mirror]);
    let open = |disk: &Memory| small::open(&(Arc::new(disk.snapshot()) as Arc<dyn Storage>), None, Access::Read);
    assert_eq!(open(&disk).unwrap().config().level, 4);
    // A flipped version of the envelope is no newer object; one that was written so is.
    [Folder::Config, Folder::Mirror].iter().for_each(|folder| disk.flip(*folder, &name, 8, 3));
    assert_ne!(open(&disk).unwrap().config().level, 4);
    for folder in [Folder::Config, Folder::Mirror] {
        let mut bytes = disk.bytes(folder, &name).unwrap();
        let proven = bytes.len() - 32;
        let proof = *blake3::hash(&bytes[..proven]).as_bytes();
        bytes[proven..].copy_from_slice(&proof);
        disk.replace(folder, &name, bytes);
    }
    assert!(matches!(open(&disk), Err(Error::Newer { .. })));
}
