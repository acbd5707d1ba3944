//! A medium that cannot read some of its bytes any more: what lay there is lost, and nothing else ends for it.

use crate::{
    bitflips::named_rightly,
    support::{
        faults::Faulty,
        small::{self, FrameRef, Small},
        storage::Memory,
    },
};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};
use xsnap::{
    blobs::{
        frame::Compressor,
        index::Index,
        pack::{PackBuilder, Published},
        reader::Reader,
        seal::Secrets,
    },
    error::Error,
    id::{BlobId, ObjectName, RepositoryId},
    progress::Silent,
    repo::{
        check::{ReadData, Report, check},
        opening::Access,
        repository::Repository,
    },
    storage::{
        envelope::Kind,
        local::LocalStorage,
        object::{Folder, Storage},
    },
};

/// A medium with the objects of a small repository, which can be spoilt.
fn faulty(small: &Small) -> (Faulty, Arc<dyn Storage>) {
    let faulty = Faulty::new(Arc::new(small.disk.snapshot()));
    (faulty.clone(), Arc::new(faulty))
}

fn open(small: &Small, storage: &Arc<dyn Storage>, case: &str) -> Repository {
    small.open(storage, Access::Read).unwrap_or_else(|e| panic!("{case}: cannot open: {e}"))
}

fn checked(repository: &Repository, case: &str) -> Report {
    check(repository, ReadData::All, &Silent).unwrap_or_else(|e| panic!("{case}: cannot check: {e}"))
}

fn all_whole(small: &Small, repository: &Repository, lost: &HashSet<FrameRef>, case: &str) -> bool {
    let whole: Vec<bool> = small.versions.iter().map(|v| small.judge(repository, v, lost, case)).collect();
    whole.iter().all(|whole| *whole)
}

fn packs(small: &Small) -> Vec<(ObjectName, u64)> {
    let packs = small.disk.objects_in(Folder::Packs).into_iter();
    packs.map(|(name, bytes)| (name, bytes.len() as u64)).collect()
}

#[test]
fn a_bad_sector_costs_the_frame_that_it_lies_in() {
    let small = Small::build(21, 2, None);
    let step = (small.frames.len() / 8).max(1);
    for place in small.frames.iter().step_by(step) {
        let (faulty, storage) = faulty(&small);
        let repository = open(&small, &storage, "before");
        let middle = (place.offset + place.length / 2) as u64;
        faulty.spoil(Folder::Packs, &place.frame.0, middle..middle + 1);
        let (lost, case) = (HashSet::from([place.frame.clone()]), format!("{:?}", place.frame));
        let report = checked(&repository, &case);
        let named = format!("frame {} of packs/{}", place.frame.1, place.frame.0);
        let is_named = report.findings.iter().any(|f| f.why.contains(&named) && f.why.contains("cannot read"));
        assert!(is_named, "{case}: {:?}", report.findings);
        named_rightly(&small, &report, &lost, &case);
        all_whole(&small, &repository, &lost, &case);
        // What was marked is looked at again once the medium reads it.
        faulty.heal();
        assert!(!checked(&repository, &case).has_damage(), "{case}");
        assert!(all_whole(&small, &repository, &HashSet::new(), &case), "{case}");
    }
}

#[test]
fn a_bad_sector_outside_of_the_frames_costs_nothing() {
    let small = Small::build(21, 2, Some("secret"));
    let mut costless = 0;
    for (name, length) in packs(&small) {
        let frames_end = small.frames.iter().filter(|p| p.frame.0 == name).map(|p| p.offset + p.length).max().unwrap();
        for at in [0, 40, frames_end as u64, length - 90, length - 45, length - 1] {
            let case = format!("byte {at} of {length} of {name}");
            let (faulty, storage) = faulty(&small);
            faulty.spoil(Folder::Packs, &name, at..at + 1);
            // Without the table, a frame that begins in the sector cannot be searched for either.
            let sector = at / 4096 * 4096..(at / 4096 + 1) * 4096;
            let begins_there = |p: &&small::FramePlace| p.frame.0 == name && sector.contains(&(p.offset as u64));
            let needs_search = at >= frames_end as u64 && at != length - 1;
            let lost: HashSet<FrameRef> =
                small.frames.iter().filter(begins_there).filter(|_| needs_search).map(|p| p.frame.clone()).collect();
            costless += u32::from(lost.is_empty());
            let repository = open(&small, &storage, &case);
            assert!(all_whole(&small, &repository, &lost, &case) || !lost.is_empty(), "{case}");
            let report = checked(&repository, &case);
            assert!(report.has_damage(), "{case}: {:?}", report.findings);
            assert!(report.touched.is_empty() || !lost.is_empty(), "{case}: {:?}", report.touched);
        }
    }
    assert!(costless >= 8, "{costless}");
}

#[test]
fn a_search_steps_over_what_cannot_be_read() {
    let small = Small::build(21, 2, None);
    for (name, length) in packs(&small) {
        let own: Vec<_> = small.frames.iter().filter(|p| p.frame.0 == name).collect();
        for place in [own[0], own[own.len() / 2], own[own.len() - 1]] {
            let (faulty, storage) = faulty(&small);
            faulty.spoil(Folder::Packs, &name, length - 1_000..length);
            let middle = (place.offset + place.length / 2) as u64;
            faulty.spoil(Folder::Packs, &name, middle..middle + 1);
            let case = format!("frame {} and table of {name}", place.frame.1);
            // Frames that share the sector with the bad byte may be lost as well, the others are found.
            let sector = middle / 4096 * 4096..(middle / 4096 + 1) * 4096;
            let hit = |p: &&&small::FramePlace| {
                (p.offset as u64) < sector.end && sector.start < (p.offset + p.length) as u64
                    || (p.offset + p.length) as u64 > length - 1_000
            };
            let lost: HashSet<FrameRef> = own.iter().filter(hit).map(|p| p.frame.clone()).collect();
            if lost.len() == own.len() {
                continue;
            }
            let repository = open(&small, &storage, &case);
            let known: BTreeSet<u32> = frames_known(&repository, &name);
            for p in own.iter().filter(|p| !lost.contains(&p.frame)) {
                assert!(known.contains(&p.frame.1), "{case}: frame {} was not found: {known:?}", p.frame.1);
            }
            all_whole(&small, &repository, &lost, &case);
        }
    }
}

fn frames_known(repository: &Repository, name: &ObjectName) -> BTreeSet<u32> {
    let index = repository.index().unwrap();
    let own =
        (0..).map_while(|at| index.frame(at)).filter(|(frame, pack, _)| pack.name == *name && frame.frame_bytes > 0);
    own.map(|(_, _, number)| number).collect()
}

#[test]
fn a_pack_of_which_nothing_can_be_read_ends_neither_open_nor_check_nor_restore() {
    let small = Small::build(21, 2, None);
    for (name, length) in packs(&small) {
        let (faulty, storage) = faulty(&small);
        let case = format!("all of {name}");
        let before = open(&small, &storage, &case);
        faulty.spoil(Folder::Packs, &name, 0..length);
        let lost: HashSet<FrameRef> =
            small.frames.iter().filter(|p| p.frame.0 == name).map(|p| p.frame.clone()).collect();
        for repository in [before, open(&small, &storage, &case)] {
            all_whole(&small, &repository, &lost, &case);
            let report = checked(&repository, &case);
            assert!(report.has_damage(), "{case}");
            named_rightly(&small, &report, &lost, &case);
        }
    }
}

#[test]
fn a_medium_of_which_no_pack_can_be_read_is_gone_and_not_damaged() {
    let small = Small::build(21, 2, None);
    let (faulty, storage) = faulty(&small);
    packs(&small).iter().for_each(|(name, length)| faulty.spoil(Folder::Packs, name, 0..*length));
    assert_eq!(small.open(&storage, Access::Read).map(drop).expect_err("no table").exit_code(), 13);
    faulty.heal();
    let repository = open(&small, &storage, "healed");
    packs(&small).iter().for_each(|(name, length)| faulty.spoil(Folder::Packs, name, 0..*length));
    assert_eq!(check(&repository, ReadData::No, &Silent).map(drop).expect_err("no pack").exit_code(), 13);
}

#[test]
fn a_bad_sector_in_one_of_two_files_costs_nothing() {
    let small = Small::build(21, 2, Some("secret"));
    for (folder, name, bytes) in small.disk.objects().into_iter().filter(|(folder, ..)| *folder != Folder::Packs) {
        let (faulty, storage) = faulty(&small);
        faulty.spoil(folder, &name, 0..bytes.len() as u64);
        let case = folder.object(&name);
        let repository = open(&small, &storage, &case);
        assert_eq!(repository.snapshots().len(), 2, "{case}");
        let report = checked(&repository, &case);
        assert!(report.has_damage() && report.touched.is_empty(), "{case}: {:?}", report.findings);
    }
}

#[test]
fn what_a_catalogue_could_not_read_it_looks_for_again() {
    let small = Small::build(21, 2, None);
    let place = small.fresh("stick");
    let local: Arc<dyn Storage> = Arc::new(LocalStorage::new(&place));
    local.prepare().unwrap();
    for (folder, name, bytes) in small.disk.objects() {
        let mut upload = local.create(folder, &name).unwrap();
        upload.append(&bytes).unwrap();
        upload.finish().unwrap();
    }
    let faulty = Faulty::new(Arc::clone(&local));
    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
    for (name, length) in packs(&small) {
        faulty.spoil(Folder::Packs, &name, 64..length / 2);
        faulty.spoil(Folder::Packs, &name, length - 60..length);
    }
    let blobs = small.open(&storage, Access::Read).map_or(0, |repository| repository.index().unwrap().len());
    assert!(blobs < small.blobs, "some blobs lie in what cannot be read");
    faulty.heal();
    let repository = open(&small, &storage, "healed");
    assert_eq!(repository.index().unwrap().len(), small.blobs);
    assert!(all_whole(&small, &repository, &HashSet::new(), "healed"));
}

const REPOSITORY: RepositoryId = RepositoryId([7; 16]);

/// A pack of so many frames of one blob each.
fn pack_of(disk: &Memory, frames: u32, word: &str) -> (Published, Vec<BlobId>) {
    let mut pack = PackBuilder::begin(disk, &Secrets::plain(), REPOSITORY, Kind::DataPack).unwrap();
    let blob = |n: u32| format!("{word} {n}").into_bytes();
    let ids: Vec<BlobId> = (0..frames).map(|n| Secrets::plain().blob_id(&blob(n))).collect();
    for (n, id) in (0..frames).zip(&ids) {
        let lengths = vec![u32::try_from(blob(n).len()).unwrap()];
        pack.append(Compressor::new(3).pack(blob(n), lengths, vec![*id], Vec::new(), &[])).unwrap();
    }
    (pack.finish().unwrap(), ids)
}

/// The listing of a stick that was pulled out may still come from memory.
#[test]
fn a_medium_that_lists_and_reads_nothing_any_more_is_gone() {
    for others in [false, true] {
        let disk = Memory::new();
        let (pack, ids) = pack_of(&disk, 40, "lost");
        let (other, _) = pack_of(&disk, 1, "other");
        let faulty = Faulty::new(Arc::new(disk));
        faulty.spoil(Folder::Packs, &pack.name, 0..pack.length_bytes);
        if !others {
            faulty.spoil(Folder::Packs, &other.name, 0..other.length_bytes);
        }
        let mut index = Index::default();
        for pack in [&pack, &other] {
            index.add(&pack.name, pack.kind, &pack.toc, &HashSet::new(), None);
        }
        let reader = Reader::new(Arc::new(faulty), Arc::new(Secrets::plain()), Arc::new(index));
        let failures: Vec<Error> = ids.iter().map(|id| reader.blob(id).expect_err("it cannot be read")).collect();
        let damaged = failures.iter().take_while(|e| e.is_damage()).count();
        assert_eq!(damaged, if others { 40 } else { 31 }, "{failures:?}");
        assert!(failures.iter().skip(damaged).all(|e| matches!(e, Error::MediumGone { .. })), "{failures:?}");
    }
}
