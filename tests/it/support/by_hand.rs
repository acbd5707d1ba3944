//! Repositories in memory that are made by hand, pruned and repaired.

use super::{
    forge,
    random::Random,
    small,
    storage::{Memory, on},
};
use std::collections::BTreeSet;
use xsnap::{
    archive::{
        elsewhere::OtherRepository,
        repair::{RepairOptions, Source, repair},
    },
    blobs::{frame::Compressor, pack::PackBuilder},
    error::Result,
    id::{ObjectName, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        copy::CopyOptions,
        opening::Access,
        prune::{PruneOptions, Pruned, prune},
        repository::Repository,
        sweep::{MaxUnused, SweepLimits},
    },
    storage::{envelope::Kind, object::Reserve},
};

/// A copy as it is made where nothing else is said.
pub const PLAINLY: CopyOptions =
    CopyOptions { update: false, verify: false, reserve: Reserve::Usual, threads: 2, dry_run: false };

/// Everything that is not needed goes.
pub const ALL: PruneOptions = PruneOptions {
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

/// Opens what needs no password.
pub fn open(disk: &Memory, access: Access) -> Repository {
    small::open(&on(disk), None, access).unwrap()
}

/// Gives back everything that is not needed.
pub fn prune_all(disk: &Memory) -> Result<Pruned> {
    prune(&open(disk, Access::Exclusive), &ALL, &Silent)
}

/// So many snapshots are there, and nothing of them is lost.
pub fn is_whole(disk: &Memory, snapshots: usize) {
    let repository = open(disk, Access::Read);
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(report.touched.is_empty(), "{:?}", report.touched);
    assert_eq!((report.snapshots, repository.snapshots().len()), (snapshots as u64, snapshots));
}

/// Stores one pack of content with one frame, as any writer may.
pub fn pack(repository: &Repository, blobs: &[&[u8]], bases: &[&[u8]]) -> ObjectName {
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

/// Bytes that do not compress.
pub fn noise(seed: u64) -> Vec<u8> {
    Random::new("attacks", seed).bytes(50_000)
}

/// A repository with one snapshot.
pub fn one_snapshot() -> (Memory, SnapshotId) {
    let disk = Memory::new();
    let mut repository = small::init(&on(&disk), None).unwrap();
    let snapshot = forge::put(&mut repository, |forge| {
        let entries = [forge::file(b"file", forge.content(b"content"))];
        forge.folder(&entries)
    });
    (disk, snapshot.id)
}

/// Repairs, and says how many records have come back.
pub fn repair_from(disk: &Memory, other: Option<&Memory>) -> usize {
    let mut repository = open(disk, Access::Exclusive);
    let other = other.map(|other| OtherRepository::new(open(other, Access::Read), &repository).unwrap());
    let found = check(&repository, ReadData::All, &Silent).unwrap();
    let sources: Vec<&dyn Source> = other.iter().map(|other| other as &dyn Source).collect();
    let options = RepairOptions { threads: 1, drop_lost: false };
    repair(&mut repository, &found, &sources, options, &Silent).unwrap().revived.len()
}
