//! What is recorded of a snapshot changes in one step, and a forgotten one never comes back.

use crate::support::{
    crash::{Crashing, CutOff},
    faults::{Fault, Faulty},
    small::{self, Small},
    storage::{Memory, on},
};
use rustix::io::Errno;
use std::{collections::HashSet, sync::Arc};
use xsnap::{
    error::{Error, Result},
    id::{Generation, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::Access,
        snapshot::Snapshot,
    },
    storage::object::{Folder, Storage},
};

fn protect(snapshot: &mut Snapshot) {
    snapshot.protected = true;
    snapshot.tags = vec!["golden".to_owned()];
}

fn rewrite(bench: &Small, storage: &Arc<dyn Storage>, id: SnapshotId) -> Result<Snapshot> {
    bench.open(storage, Access::Write)?.rewrite(&id, &protect)
}

/// The names of all objects of a snapshot, in its folder and in the mirror.
fn objects(disk: &Memory, id: SnapshotId) -> [Vec<String>; 2] {
    [Folder::Snapshots, Folder::Mirror].map(|folder| {
        let own = disk.objects_in(folder).into_iter().map(|(name, _)| name);
        let own = own.filter(|name| SnapshotId::from_object(name).is_some_and(|(i, _)| i == id));
        own.map(|name| name.to_string()).collect()
    })
}

#[test]
fn a_change_keeps_the_id_and_the_place_and_leaves_one_generation() {
    let bench = Small::build(31, 2, Some("secret"));
    let id = bench.versions[0].id;
    let before = bench.open(&on(&bench.disk), Access::Read).unwrap().snapshots()[0].clone();
    let after = rewrite(&bench, &on(&bench.disk), id).unwrap();
    assert_eq!((after.id, after.commit, &after.root), (id, before.commit, &before.root));
    let second = id.object(Generation::FIRST.next().unwrap()).to_string();
    assert_eq!(objects(&bench.disk, id), [vec![second.clone()], vec![second]]);
    let mut repository = bench.open(&on(&bench.disk), Access::Write).unwrap();
    assert_eq!(repository.snapshots()[0], after);
    assert!(matches!(repository.forget(&[bench.versions[1].id, id]), Err(Error::Usage(_))));
    assert_eq!(repository.snapshots().len(), 2, "where one is protected nothing is forgotten");
    // The same change once more is none.
    let objects_before = bench.disk.objects();
    repository.rewrite(&id, &protect).unwrap();
    assert_eq!(bench.disk.objects(), objects_before);
    let nobody = repository.rewrite(&SnapshotId::random().unwrap(), &protect);
    assert!(matches!(nobody, Err(Error::NoSnapshot { .. })));
    for version in &bench.versions {
        assert!(bench.judge(&repository, version, &HashSet::new(), "rewritten"));
    }
}

#[test]
fn a_power_cut_at_any_change_of_a_rewriting_leaves_the_old_record_or_the_new_one() {
    let bench = Small::build(32, 1, None);
    let id = bench.versions[0].id;
    let (mut old, mut new) = (0, 0);
    for n in 0.. {
        let machine = Crashing::new(&bench.disk);
        machine.crash_after(n);
        let storage: Arc<dyn Storage> = Arc::new(machine.clone());
        let done = rewrite(&bench, &storage, id);
        if !machine.crashed() {
            done.unwrap();
            break;
        }
        for cut_off in CutOff::ALL {
            let case = format!("change {n}, {cut_off:?}");
            let disk = machine.survivors(cut_off);
            let repository = bench.open(&on(&disk), Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
            let [snapshot] = repository.snapshots() else { panic!("{case}: {:?}", repository.snapshots()) };
            let changed = snapshot.protected;
            assert_eq!(snapshot.tags.is_empty(), !changed, "{case}");
            *(if changed { &mut new } else { &mut old }) += 1;
            assert!(bench.judge(&repository, &bench.versions[0], &HashSet::new(), &case));
            drop(repository);
            // The next writer leaves one generation, whole and twice, unless a lying medium has torn another.
            let repository = bench.open(&on(&disk), Access::Write).unwrap();
            assert_eq!(repository.snapshots()[0].protected, changed, "{case}");
            drop(repository);
            let [own, mirror] = objects(&disk, id);
            assert!(own == mirror || cut_off == CutOff::Torn, "{case}: {own:?} {mirror:?}");
            assert!(own.len() == 1 || cut_off == CutOff::Torn, "{case}: {own:?}");
            // And the change can be made now.
            assert!(rewrite(&bench, &on(&disk), id).unwrap().protected, "{case}");
            let repository = bench.open(&on(&disk), Access::Read).unwrap();
            assert!(repository.snapshots()[0].protected, "{case}");
            let report = check(&repository, ReadData::All, &Silent).unwrap();
            assert!(!report.has_damage() || cut_off == CutOff::Torn, "{case}: {:?}", report.findings);
        }
    }
    assert!(old > 5 && new > 5, "{old} {new}");
}

#[test]
fn a_power_cut_at_any_change_of_a_forgetting_never_brings_an_older_record_back() {
    let bench = Small::build(33, 2, None);
    let id = bench.versions[0].id;
    // Both generations are there: the medium failed before the older one could be deleted.
    let both = (0..).find_map(|n| {
        let machine = Crashing::new(&bench.disk);
        machine.crash_after(n);
        let storage: Arc<dyn Storage> = Arc::new(machine.clone());
        let _ = rewrite(&bench, &storage, id);
        let disk = machine.survivors(CutOff::Undone);
        let [own, mirror] = objects(&disk, id);
        (own.len() == 2 && mirror.len() == 2).then_some(disk)
    });
    let both = both.unwrap();
    for n in 0.. {
        let machine = Crashing::new(&both);
        let storage: Arc<dyn Storage> = Arc::new(machine.clone());
        // Opened for reading, nobody tidies up before.
        let mut repository = bench.open(&storage, Access::Read).unwrap();
        repository.rewrite(&id, &|s: &mut Snapshot| s.protected = false).unwrap();
        drop(repository);
        let machine = Crashing::new(&machine.survivors(CutOff::Undone));
        let storage: Arc<dyn Storage> = Arc::new(machine.clone());
        let mut repository = bench.open(&storage, Access::Read).unwrap();
        machine.crash_after(n);
        let done = repository.forget(&[id]);
        if !machine.crashed() {
            done.unwrap();
            assert_eq!(objects(&machine.survivors(CutOff::Undone), id), [vec![], Vec::<String>::new()]);
            break;
        }
        for cut_off in CutOff::HONEST {
            let disk = machine.survivors(cut_off);
            let repository = bench.open(&on(&disk), Access::Write).unwrap();
            for snapshot in repository.snapshots().iter().filter(|s| s.id == id) {
                assert_eq!(snapshot.tags, ["golden"], "change {n}, {cut_off:?}: an older record counts again");
            }
            assert!(bench.judge(&repository, &bench.versions[1], &HashSet::new(), "the other one"));
        }
    }
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_rewriting_leaves_the_old_record_or_the_new_one() {
    let bench = Small::build(34, 1, None);
    let id = bench.versions[0].id;
    for (errno, lasting) in [(Errno::IO, false), (Errno::IO, true), (Errno::NOSPC, false)] {
        for n in 0.. {
            let disk = bench.disk.snapshot();
            let faulty = Faulty::new(Arc::new(disk.clone()));
            faulty.fail(if lasting { Fault::from_then_on(n, errno) } else { Fault::once(n, errno) });
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let done = rewrite(&bench, &storage, id);
            if faulty.failed() == 0 {
                done.unwrap();
                break;
            }
            drop(storage);
            let repository = bench.open(&on(&disk), Access::Write).unwrap();
            let snapshot = &repository.snapshots()[0];
            assert!(done.is_err() || snapshot.protected, "call {n}, {errno:?}");
            drop(repository);
            assert!(rewrite(&bench, &on(&disk), id).unwrap().protected);
            let repository = bench.open(&on(&disk), Access::Read).unwrap();
            assert!(!check(&repository, ReadData::All, &Silent).unwrap().has_damage(), "call {n}, {errno:?}");
        }
    }
}

/// Where a rewriting was interrupted and the older record is all that is left whole, it serves.
#[test]
fn the_highest_generation_that_is_whole_counts_and_the_next_goes_above_all() {
    let bench = Small::build(35, 1, None);
    let id = bench.versions[0].id;
    let machine = Crashing::new(&bench.disk);
    machine.crash_after(0);
    let disk = bench.disk.snapshot();
    let second = id.object(Generation::FIRST.next().unwrap());
    for folder in [Folder::Snapshots, Folder::Mirror] {
        disk.replace(folder, &second, vec![7; 100]);
    }
    let repository = bench.open(&on(&disk), Access::Write).unwrap();
    assert_eq!((repository.snapshots().len(), repository.damaged_snapshots().len()), (1, 1));
    drop(repository);
    rewrite(&bench, &on(&disk), id).unwrap();
    let third = Generation::FIRST.next().and_then(Generation::next).unwrap();
    let repository = small::open(&on(&disk), None, Access::Read).unwrap();
    assert!(repository.snapshots()[0].protected && repository.damaged_snapshots().is_empty());
    assert_eq!(objects(&disk, id)[0], [id.object(third).to_string()]);
}
