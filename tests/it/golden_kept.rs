//! What keeping takes, done to the golden repositories: changed, forgotten from, pruned, copied and mended by this version.

use crate::golden::{assert_golden, assert_snapshot, copy, fast_folder, open};
use std::collections::BTreeSet;
use xsnap::{
    archive::{
        copy::copy as copy_snapshots,
        elsewhere::OtherRepository,
        repair::{RepairOptions, repair},
    },
    progress::Silent,
    repo::{
        check::{ReadData, check},
        copy::CopyOptions,
        opening::Access,
        prune::{PruneOptions, prune},
        snapshot::Snapshot,
        sweep::{MaxUnused, SweepLimits},
    },
    storage::object::Reserve,
};

#[test]
fn golden_repositories_are_changed_forgotten_from_and_pruned() {
    let limits =
        SweepLimits { max_unused: MaxUnused::Bytes(0), small_bytes: None, max_repack_bytes: None, only_damaged: false };
    let options = PruneOptions { damaged: BTreeSet::new(), limits, threads: 2, dry_run: false };
    for (name, encrypted) in [("v1-plain", false), ("v1-encrypted", true)] {
        let folder = fast_folder();
        copy(name, folder.path());
        let mut repository = open(folder.path(), encrypted, Access::Exclusive);
        let [first, second] = [0, 1].map(|n: usize| repository.snapshots()[n].id);
        repository.rewrite(&second, &|s: &mut Snapshot| s.protected = true).unwrap();
        repository.forget(&[first]).unwrap();
        let pruned = prune(&repository, &options, &Silent).unwrap();
        assert!(pruned.freed_bytes() > 0 && pruned.unused_bytes == 0, "{name}: {pruned:?}");
        drop(repository);
        let repository = open(folder.path(), encrypted, Access::Read);
        let report = check(&repository, ReadData::All, &Silent).unwrap();
        assert!(report.findings.is_empty() && report.touched.is_empty(), "{name}: {report:?}");
        let [snapshot] = repository.snapshots() else { panic!("{name}: one snapshot is kept") };
        assert!(snapshot.protected && snapshot.id == second, "{name}");
        assert_snapshot(&repository, snapshot);
    }
}

#[test]
fn the_golden_damaged_repository_is_made_whole_by_the_golden_whole_one() {
    let (damaged, whole) = (fast_folder(), fast_folder());
    copy("v1-damaged", damaged.path());
    copy("v1-plain", whole.path());
    let mut repository = open(damaged.path(), false, Access::Exclusive);
    let found = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(found.has_damage());
    let other = OtherRepository::new(open(whole.path(), false, Access::Read), &repository).unwrap();
    let options = RepairOptions { threads: 2, drop_lost: false };
    let repaired = repair(&mut repository, &found, &[&other], options, &Silent).unwrap();
    assert!(repaired.recovered_blobs > 0 && !repaired.left.has_damage(), "{:?}", repaired.left);
    drop(repository);
    assert_golden(damaged.path(), false, Access::Read);
}

#[test]
fn golden_snapshots_are_copied_under_another_key_and_come_back() {
    let (plain, encrypted) = (fast_folder(), fast_folder());
    copy("v1-plain", plain.path());
    copy("v1-encrypted", encrypted.path());
    let source = open(plain.path(), false, Access::Read);
    let mut target = open(encrypted.path(), true, Access::Write);
    let ids = source.snapshots().iter().map(|s| s.id).collect();
    let options = CopyOptions { update: false, verify: true, reserve: Reserve::Bytes(0), threads: 2, dry_run: false };
    copy_snapshots(&source, &mut target, &ids, &options, (&Silent, &mut |_, _, _| {})).unwrap();
    drop(target);
    let target = open(encrypted.path(), true, Access::Read);
    assert_eq!(target.snapshots().len(), 4);
    target.snapshots().iter().for_each(|snapshot| assert_snapshot(&target, snapshot));
}
