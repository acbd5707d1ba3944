//! Repair mends whatever a check finds and can be mended: from a second repository, from the live files, or by giving up
//! what is lost, and nothing else.

use crate::{
    bitflips::named_rightly,
    support::{
        crash::{Crashing, CutOff},
        damage::Action,
        faults::{Fault, Faulty},
        random::Random,
        same::differing,
        small::{self, Small, ancestors},
        storage::{Memory, on},
    },
};
use rustix::{fs::Mode, fs::OFlags, io::Errno};
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};
use xsnap::{
    archive::{
        copy::copy,
        elsewhere::{LiveFiles, OtherRepository},
        repair::{RepairOptions, Repaired, Source, repair},
    },
    error::{Error, Result},
    id::SnapshotId,
    progress::Silent,
    repo::{
        check::{ReadData, Report, check},
        config,
        copy::CopyOptions,
        listing::find,
        opening::Access,
        repository::Repository,
        snapshot::Snapshot,
    },
    storage::object::{Folder, Reserve, Storage},
};

/// Checks everything and repairs it. Says what was found, and what was done.
fn mend(
    bench: &Small,
    storage: &Arc<dyn Storage>,
    second: Option<&Memory>,
    drop_lost: bool,
) -> Result<(Report, Repaired)> {
    let mut repository = bench.open(storage, Access::Exclusive)?;
    let found = check(&repository, ReadData::All, &Silent)?;
    let second = second.map(|disk| OtherRepository::new(bench.open(&on(disk), Access::Read)?, &repository));
    let second = second.transpose()?;
    let sources: Vec<&dyn Source> = second.iter().map(|second| second as &dyn Source).collect();
    let options = RepairOptions { threads: 2, drop_lost };
    let repaired = repair(&mut repository, &found, &sources, options, &Silent)?;
    Ok((found, repaired))
}

/// Every snapshot comes back as it was, and nothing is damaged any more.
fn is_as_new(bench: &Small, disk: &Memory, case: &str) {
    let repository = bench.open(&on(disk), Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(!report.has_damage() && repository.damaged_snapshots().is_empty(), "{case}: {:?}", report.findings);
    assert!(report.findings.is_empty(), "{case}: {:?}", report.findings);
    for version in &bench.versions {
        assert!(bench.judge(&repository, version, &HashSet::new(), case), "{case}: {}", version.id);
    }
}

/// Damages so many objects, but never both files of the config or of a key slot: without them nobody gets in.
fn damage(disk: &Memory, objects: usize, random: &mut Random) -> String {
    let (mut hit, mut what) = (BTreeSet::new(), Vec::new());
    while hit.len() < objects {
        let all = disk.objects();
        let (folder, name, _) = random.pick(&all);
        let key = (*folder, name.clone());
        let other = if *folder == Folder::Mirror { None } else { Some((Folder::Mirror, name.clone())) };
        let is_entrance = config::generation_of(name).is_some() || name.as_str().starts_with("key-");
        let hit_already = hit.iter().any(|(_, n)| n == name) && (is_entrance || hit.contains(&key));
        if hit_already || (is_entrance && other.is_some_and(|other| hit.contains(&other))) {
            // Small repositories have few objects: there may be nothing else left to hit.
            if random.one_in(40) {
                break;
            }
            continue;
        }
        let action = *random.pick(&[
            Action::FlipHeader,
            Action::FlipBody,
            Action::FlipBody,
            Action::FlipEnd,
            Action::FlipTrailer,
            Action::Half,
            Action::Empty,
            Action::LastByteGone,
            Action::Delete,
        ]);
        what.extend(action.apply(disk, (*folder, name), &Memory::new(), random));
        hit.insert(key);
    }
    what.join("; ")
}

/// A snapshot of which not even a name is left cannot be missed by anybody.
fn has_all(bench: &Small, disk: &Memory) -> bool {
    let named = |folder, id| {
        disk.objects_in(folder).iter().any(|(n, _)| SnapshotId::from_object(n).is_some_and(|(i, _)| i == id))
    };
    bench.versions.iter().all(|v| named(Folder::Snapshots, v.id) || named(Folder::Mirror, v.id))
}

#[test]
fn a_second_repository_makes_a_damaged_one_whole() {
    for password in [None, Some("secret")] {
        let bench = Small::build(21, 3, password);
        let (mut recovered, mut revived) = (0, 0);
        for case in 0..25 {
            let disk = bench.disk.snapshot();
            let mut random = Random::new("repair", case);
            let what = damage(&disk, 1 + random.index(9), &mut random);
            if !has_all(&bench, &disk) {
                continue;
            }
            let case = format!("case {case}, {what}");
            let (_, repaired) =
                mend(&bench, &on(&disk), Some(&bench.disk), false).unwrap_or_else(|e| panic!("{case}: {e}"));
            assert!(!repaired.left.has_damage() && repaired.reduced.is_empty(), "{case}: {:?}", repaired.left.findings);
            is_as_new(&bench, &disk, &case);
            recovered += repaired.recovered_blobs;
            revived += repaired.revived.len();
            let (found, again) = mend(&bench, &on(&disk), None, true).unwrap();
            assert!(found.findings.is_empty() && again.replaced_packs == 0 && again.completed.is_empty(), "{case}");
        }
        assert!(recovered > 100 && revived > 0, "{recovered} blobs, {revived} records");
    }
}

#[test]
fn without_a_second_one_what_was_hit_is_named_and_all_else_comes_back() {
    let bench = Small::build(22, 3, None);
    let mut reduced = 0;
    for case in 0..25 {
        let disk = bench.disk.snapshot();
        let mut random = Random::new("reduce", case);
        let what = damage(&disk, 1 + random.index(4), &mut random);
        let case = format!("case {case}, {what}");
        let lost = bench.lost_frames(&disk);
        let (found, repaired) = mend(&bench, &on(&disk), None, true).unwrap_or_else(|e| panic!("{case}: {e}"));
        let repository = bench.open(&on(&disk), Access::Read).unwrap();
        if !repository.damaged_snapshots().is_empty() {
            // A record that is lost may need anything: no pack goes before it is given up or found.
            assert_eq!(repaired.replaced_packs, 0, "{case}");
            continue;
        }
        if has_all(&bench, &disk) {
            named_rightly(&bench, &found, &lost, &case);
        }
        let report = check(&repository, ReadData::All, &Silent).unwrap();
        assert!(report.findings.is_empty() && report.touched.is_empty(), "{case}: {:?}", report.findings);
        for version in bench.versions.iter().filter(|v| repository.has(&v.id)) {
            let snapshot = repository.snapshots().iter().find(|s| s.id == version.id).unwrap();
            let named: BTreeSet<Vec<u8>> = snapshot.problems.iter().map(|p| p.path.clone()).collect();
            assert_eq!(snapshot.complete, named.is_empty(), "{case}");
            reduced += u64::from(!snapshot.complete);
            holds_all_but(&bench, &repository, snapshot, &named, &case);
        }
    }
    assert!(reduced > 10, "{reduced}");
}

/// A snapshot restores without a problem, and as it was but for what it names.
fn holds_all_but(bench: &Small, repository: &Repository, snapshot: &Snapshot, named: &BTreeSet<Vec<u8>>, case: &str) {
    let version = bench.versions.iter().find(|v| v.id == snapshot.id).unwrap();
    let above = ancestors(bench.path()).skip(1).any(|path| named.contains(path)) || named.contains(b"/".as_slice());
    let target = bench.fresh("target");
    let reader = repository.tree_reader().unwrap();
    if find(&reader, &snapshot.root, bench.path()).unwrap().is_none() {
        assert!(above, "{case}: the source is gone and nobody says so");
        return;
    }
    let outcome = small::restore_path(repository, snapshot, bench.path(), &target);
    let outcome = outcome.unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(outcome.done.problems, 0, "{case}: {:?}", outcome.problems);
    for difference in differing(&version.source, &target) {
        let whole = [bench.path(), b"/", &difference.path].concat();
        let is_named = above
            || named.iter().any(|path| whole.starts_with(path))
            || difference.what.starts_with("hard link")
            || named.contains(bench.path());
        // A folder whose list is cut short is not as it was either.
        let holds_named = named.iter().any(|path| path.starts_with(&whole));
        assert!(is_named || holds_named, "{case}: {}: {}", difference.path.escape_ascii(), difference.what);
    }
}

#[test]
fn what_is_lost_stays_named_until_it_is_to_be_dropped() {
    let bench = Small::build(23, 2, None);
    for frame in bench.frames.iter().step_by(5) {
        let disk = bench.disk.snapshot();
        disk.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
        let (found, repaired) = mend(&bench, &on(&disk), None, false).unwrap();
        assert_eq!(repaired.left.touched.len(), found.touched.len());
        assert!(repaired.reduced.is_empty() && (found.touched.is_empty() || repaired.replaced_packs == 0));
        let repository = bench.open(&on(&disk), Access::Read).unwrap();
        assert!(repository.snapshots().iter().all(|s| s.complete));
        drop(repository);
        // It comes back whole after all.
        mend(&bench, &on(&disk), Some(&bench.disk), false).unwrap();
        is_as_new(&bench, &disk, "found later");
    }
}

#[test]
fn live_files_that_are_still_as_they_were_bring_their_bytes_back() {
    let bench = Small::build(24, 1, Some("secret"));
    let mut recovered = 0;
    for frame in &bench.frames {
        let disk = bench.disk.snapshot();
        disk.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
        let mut repository = bench.open(&on(&disk), Access::Exclusive).unwrap();
        let found = check(&repository, ReadData::All, &Silent).unwrap();
        let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let options = RepairOptions { threads: 2, drop_lost: false };
        let repaired = repair(&mut repository, &found, &[&LiveFiles::new(root)], options, &Silent).unwrap();
        drop(repository);
        if repaired.left.touched.is_empty() {
            recovered += repaired.recovered_blobs;
            is_as_new(&bench, &disk, "live");
        }
    }
    assert!(recovered > 10, "{recovered}");
}

#[test]
fn a_power_cut_at_any_change_of_a_repair_makes_nothing_worse() {
    let bench = Small::build(25, 2, None);
    let damaged = bench.disk.snapshot();
    for frame in bench.frames.iter().step_by(3) {
        damaged.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
    }
    let (name, _) = damaged.objects_in(Folder::Snapshots).remove(0);
    damaged.flip(Folder::Mirror, &name, 100, 1);
    let lost = bench.lost_frames(&damaged);
    for second in [Some(&bench.disk), None] {
        for n in 0.. {
            let machine = Crashing::new(&damaged);
            machine.crash_after(n);
            let storage: Arc<dyn Storage> = Arc::new(machine.clone());
            let done = mend(&bench, &storage, second, second.is_none());
            if !machine.crashed() {
                done.unwrap();
                assert!(n > 10, "{n}");
                break;
            }
            for cut_off in CutOff::HONEST {
                let case = format!("change {n}, {cut_off:?}, second: {}", second.is_some());
                let disk = machine.survivors(cut_off);
                if second.is_some() {
                    let repository = bench.open(&on(&disk), Access::Read).unwrap();
                    for version in &bench.versions {
                        // What was lost may be back by now; what was not lost is there.
                        let target = bench.fresh("target");
                        let snapshot = repository.snapshots().iter().find(|s| s.id == version.id).unwrap();
                        let outcome = small::restore_path(&repository, snapshot, bench.path(), &target);
                        let Ok(outcome) = outcome else { continue };
                        for difference in differing(&version.source, &target) {
                            let expected = version.is_lost(&difference.path, &lost) && outcome.done.problems > 0;
                            let linked = difference.what.starts_with("hard link");
                            assert!(expected || linked, "{case}: {difference:?}");
                        }
                    }
                    drop(repository);
                    mend(&bench, &on(&disk), second, false).unwrap_or_else(|e| panic!("{case}: {e}"));
                    is_as_new(&bench, &disk, &case);
                } else {
                    let (_, repaired) = mend(&bench, &on(&disk), None, true).unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert!(!repaired.left.has_damage(), "{case}: {:?}", repaired.left.findings);
                    let repository = bench.open(&on(&disk), Access::Read).unwrap();
                    for snapshot in repository.snapshots() {
                        let named = snapshot.problems.iter().map(|p| p.path.clone()).collect();
                        holds_all_but(&bench, &repository, snapshot, &named, &case);
                    }
                }
            }
        }
    }
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_repair_makes_nothing_worse() {
    let bench = Small::build(26, 2, None);
    let damaged = bench.disk.snapshot();
    for frame in bench.frames.iter().step_by(4) {
        damaged.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
    }
    for (errno, lasting) in [(Errno::IO, true), (Errno::NOSPC, false)] {
        for n in 0.. {
            let disk = damaged.snapshot();
            let faulty = Faulty::new(Arc::new(disk.clone()));
            faulty.fail(if lasting { Fault::from_then_on(n, errno) } else { Fault::once(n, errno) });
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let case = format!("call {n}, {errno:?}");
            let done = mend(&bench, &storage, Some(&bench.disk), false);
            if faulty.failed() == 0 {
                done.unwrap_or_else(|e| panic!("{case}: {e}"));
                assert!(n > 20, "{n}");
                break;
            }
            drop(storage);
            mend(&bench, &on(&disk), Some(&bench.disk), false).unwrap_or_else(|e| panic!("{case}: {e}"));
            is_as_new(&bench, &disk, &case);
        }
    }
}

/// Where both repositories have names of their own, files are asked for by snapshot and path.
#[test]
fn a_second_repository_of_another_key_brings_content_back_by_path() {
    let bench = Small::build(27, 1, Some("secret"));
    let second = Memory::new();
    let mut other = small::init(&on(&second), Some("secret")).unwrap();
    let made = small::backup(&mut other, &bench.live).unwrap();
    other.put_snapshot(Snapshot { id: bench.versions[0].id, ..made }).unwrap();
    drop(other);
    let mut recovered = 0;
    for frame in &bench.frames {
        let disk = bench.disk.snapshot();
        disk.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
        let (_, repaired) = mend(&bench, &on(&disk), Some(&second), false).unwrap();
        recovered += repaired.recovered_blobs;
        if repaired.left.touched.is_empty() {
            is_as_new(&bench, &disk, "by path");
        }
    }
    assert!(recovered > 10, "{recovered}");
}

/// A copy in a repository of another key and other cuts: trees come back too, for what is stored once more has the ids that
/// it had.
#[test]
fn a_copy_under_another_key_makes_a_damaged_repository_whole() {
    let bench = Small::build(29, 2, None);
    let second = Memory::new();
    let mut other = small::init(&on(&second), Some("secret")).unwrap();
    let source = bench.open(&on(&bench.disk), Access::Read).unwrap();
    let ids = bench.versions.iter().map(|v| v.id).collect();
    let options = CopyOptions { dry_run: false, update: false, threads: 2, verify: false, reserve: Reserve::Bytes(0) };
    copy(&source, &mut other, &ids, &options, (&Silent, &mut |_, _, _| {})).unwrap();
    drop((source, other));
    for frame in &bench.frames {
        let disk = bench.disk.snapshot();
        disk.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
        let mut repository = bench.open(&on(&disk), Access::Exclusive).unwrap();
        let found = check(&repository, ReadData::All, &Silent).unwrap();
        let other = small::open(&on(&second), Some("secret"), Access::Read).unwrap();
        let other = OtherRepository::new(other, &repository).unwrap();
        let options = RepairOptions { threads: 2, drop_lost: false };
        let repaired = repair(&mut repository, &found, &[&other], options, &Silent).unwrap();
        drop(repository);
        assert!(!repaired.left.has_damage() && repaired.recovered_blobs > 0, "{frame:?}: {:?}", repaired.left.findings);
        is_as_new(&bench, &disk, "stored once more");
    }
    // And the record of a snapshot of which neither file is whole.
    let disk = bench.disk.snapshot();
    let (name, bytes) = disk.objects_in(Folder::Snapshots).remove(0);
    for folder in [Folder::Snapshots, Folder::Mirror] {
        disk.flip(folder, &name, bytes.len() / 2, 1);
    }
    let mut repository = bench.open(&on(&disk), Access::Exclusive).unwrap();
    let found = check(&repository, ReadData::All, &Silent).unwrap();
    let other = small::open(&on(&second), Some("secret"), Access::Read).unwrap();
    let other = OtherRepository::new(other, &repository).unwrap();
    let options = RepairOptions { threads: 2, drop_lost: false };
    let repaired = repair(&mut repository, &found, &[&other], options, &Silent).unwrap();
    assert_eq!(repaired.revived.len(), 1);
    drop(repository);
    is_as_new(&bench, &disk, "revived");
}

#[test]
fn only_who_is_alone_repairs() {
    let bench = Small::build(28, 1, None);
    let mut repository = bench.open(&on(&bench.disk), Access::Write).unwrap();
    let options = RepairOptions { threads: 1, drop_lost: true };
    let refused = repair(&mut repository, &Report::default(), &[], options, &Silent);
    assert!(matches!(refused, Err(Error::Usage(_))));
}
