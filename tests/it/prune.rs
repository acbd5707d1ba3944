//! Prune gives back what nothing needs, and nothing else: whatever is forgotten, wherever it is killed, whatever leans
//! on what.

use crate::support::{
    by_hand::{self, ALL, noise},
    crash::{Crashing, CutOff},
    faults::{Fault, Faulty, Verb},
    forge,
    small::{self, Small},
    storage::{Memory, on},
    unlocked::Unlocked,
};
use rustix::io::Errno;
use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};
use xsnap::{
    blobs::writer::Stream,
    error::{Error, Result},
    id::{BlobId, ObjectName, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        content::{Content, Run},
        needed::{Role, Visitor, Walked, walk},
        opening::Access,
        prune::{PruneOptions, Pruned, prune},
        repository::Repository,
        sweep::{MaxUnused, SweepLimits},
        tree::encode_piece,
    },
    storage::object::{Folder, Storage},
};

fn prune_on(bench: &Small, storage: &Arc<dyn Storage>, options: &PruneOptions) -> Result<Pruned> {
    prune(&bench.open(storage, Access::Exclusive)?, options, &Silent)
}

/// Forgets all versions but some.
fn keep_only(bench: &Small, disk: &Memory, kept: &[usize]) {
    let mut repository = bench.open(&on(disk), Access::Write).unwrap();
    let kept: Vec<SnapshotId> = kept.iter().map(|n| bench.versions[*n].id).collect();
    let ids: Vec<SnapshotId> = repository.snapshots().iter().map(|s| s.id).filter(|id| !kept.contains(id)).collect();
    repository.forget(&ids).unwrap();
}

/// The kept versions come back as they were, and there is no damage on an honest medium.
fn is_whole(bench: &Small, disk: &Memory, kept: &[usize], honest: bool, case: &str) {
    let repository = bench.open(&on(disk), Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
    assert_eq!(repository.snapshots().len(), kept.len(), "{case}");
    for n in kept {
        assert!(bench.judge(&repository, &bench.versions[*n], &HashSet::new(), case), "{case}: version {n}");
    }
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(report.touched.is_empty(), "{case}: {:?}", report.touched);
    assert!(!honest || !report.has_damage(), "{case}: {:?}", report.findings);
}

#[derive(Default)]
struct Ids(BTreeSet<BlobId>);

impl Visitor for Ids {
    fn blob(&mut self, id: &BlobId, _: Role) -> Result<()> {
        self.0.insert(*id);
        Ok(())
    }

    fn lost(&mut self, _: &[u8], why: Error) -> Result<()> {
        panic!("{why}")
    }
}

/// What lies in packs and is not needed, or lies there twice; and what is needed and does not.
fn superfluous(repository: &Repository) -> (Vec<BlobId>, Vec<BlobId>) {
    let reader = repository.reader(Arc::new(repository.index().unwrap()));
    let (mut needed, mut walked) = (Ids::default(), Walked::default());
    for snapshot in repository.snapshots() {
        walk(&reader, snapshot, &mut walked, &mut needed, &Silent).unwrap();
    }
    let mut seen = BTreeSet::new();
    let there = reader.index().iter().map(|(id, _)| id);
    let unneeded = there.filter(|id| !needed.0.contains(id) || !seen.insert(*id)).collect();
    let missing = needed.0.difference(&seen).copied().collect();
    (unneeded, missing)
}

#[test]
fn whatever_is_forgotten_a_prune_leaves_what_is_needed_and_nothing_else() {
    for (seed, password) in [(1, None), (2, Some("secret")), (3, None)] {
        let bench = Small::build(seed, 5, password);
        for kept in [&[0][..], &[4], &[1, 3], &[0, 1, 2, 3, 4], &[]] {
            let case = format!("seed {seed}, kept {kept:?}");
            let disk = bench.disk.snapshot();
            keep_only(&bench, &disk, kept);
            let before = disk.total_bytes();
            let dry = prune_on(&bench, &on(&disk), &PruneOptions { dry_run: true, ..ALL }).unwrap();
            assert_eq!(disk.total_bytes(), before, "{case}: a dry run changes nothing");
            let pruned = prune_on(&bench, &on(&disk), &ALL).unwrap();
            assert_eq!(
                (dry.deleted_packs, dry.repacked_packs),
                (pruned.deleted_packs, pruned.repacked_packs),
                "{case}"
            );
            assert_eq!(pruned.freed_bytes(), before - disk.total_bytes(), "{case}: what it says is what it freed");
            let repository = bench.open(&on(&disk), Access::Read).unwrap();
            assert_eq!(superfluous(&repository), (Vec::new(), Vec::new()), "{case}");
            drop(repository);
            is_whole(&bench, &disk, kept, true, &case);
            let again = prune_on(&bench, &on(&disk), &ALL).unwrap();
            assert_eq!((again.deleted_packs, again.repacked_packs, again.freed_bytes()), (0, 0, 0), "{case}");
            if kept.is_empty() {
                assert_eq!(disk.objects_in(Folder::Packs), [], "{case}");
            }
        }
    }
}

#[test]
fn limits_say_how_much_is_packed_anew() {
    let bench = Small::build(4, 5, None);
    keep_only(&bench, &bench.disk, &[4]);
    let with = |limits| prune_on(&bench, &on(&bench.disk.snapshot()), &PruneOptions { limits, ..ALL }).unwrap();
    let none = with(SweepLimits { max_unused: MaxUnused::Unlimited, ..ALL.limits });
    assert!(none.repacked_packs == 0 && none.unused_bytes > 0, "{none:?}");
    let all = with(ALL.limits);
    assert!(all.repacked_packs > 1 && all.unused_bytes == 0, "{all:?}");
    let some = with(SweepLimits { max_repack_bytes: Some(50_000), ..ALL.limits });
    assert!(some.repacked_packs < all.repacked_packs && some.unused_bytes > 0, "{some:?}");
    let share = with(SweepLimits { max_unused: MaxUnused::Percent(30.0), ..ALL.limits });
    assert!(share.unused_bytes * 10 <= share.after_bytes * 3, "{share:?}");
    assert!(share.repacked_packs <= all.repacked_packs, "{share:?}");
    let joined = with(SweepLimits { max_unused: MaxUnused::Unlimited, small_bytes: Some(1 << 30), ..ALL.limits });
    assert!(joined.kept_packs == 0 && joined.repacked_packs == none.kept_packs, "{joined:?}");
}

#[test]
fn a_power_cut_at_any_change_of_forget_and_prune_costs_no_snapshot_that_is_kept() {
    let bench = Small::build(5, 4, Some("secret"));
    let kept = [1, 3];
    let ids: Vec<SnapshotId> = [0, 2].map(|n| bench.versions[n].id).to_vec();
    let work = |storage: &Arc<dyn Storage>| {
        bench.open(storage, Access::Write)?.forget(&ids)?;
        prune_on(&bench, storage, &ALL)
    };
    for n in 0.. {
        let machine = Crashing::new(&bench.disk);
        machine.crash_after(n);
        let storage: Arc<dyn Storage> = Arc::new(machine.clone());
        let done = work(&storage);
        if !machine.crashed() {
            done.unwrap();
            assert!(n > 15, "{n}");
            break;
        }
        assert_eq!(done.expect_err("a machine without power prunes nothing").exit_code(), 13, "change {n}");
        for cut_off in CutOff::ALL {
            let case = format!("change {n}, {cut_off:?}");
            let disk = machine.survivors(cut_off);
            {
                let repository = bench.open(&on(&disk), Access::Read).unwrap();
                for version in kept {
                    assert!(bench.judge(&repository, &bench.versions[version], &HashSet::new(), &case), "{case}");
                }
            }
            // A torn snapshot object that nobody can read any more has to be forgotten first.
            let mut repository = bench.open(&on(&disk), Access::Write).unwrap();
            let left: Vec<SnapshotId> = ids.iter().copied().filter(|id| repository.has(id)).collect();
            repository.forget(&left).unwrap();
            drop(repository);
            prune_on(&bench, &on(&disk), &ALL).unwrap_or_else(|e| panic!("{case}: {e}"));
            is_whole(&bench, &disk, &kept, true, &case);
            assert_eq!(superfluous(&bench.open(&on(&disk), Access::Read).unwrap()), (Vec::new(), Vec::new()), "{case}");
        }
    }
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_prune_costs_no_snapshot() {
    let bench = Small::build(6, 3, None);
    keep_only(&bench, &bench.disk, &[0, 2]);
    for (errno, lasting) in [(Errno::IO, false), (Errno::IO, true), (Errno::NOSPC, false), (Errno::ROFS, true)] {
        for n in 0.. {
            let disk = bench.disk.snapshot();
            let faulty = Faulty::new(Arc::new(disk.clone()));
            faulty.fail(if lasting { Fault::from_then_on(n, errno) } else { Fault::once(n, errno) });
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let case = format!("call {n}, {errno:?}, lasting: {lasting}");
            let done = prune_on(&bench, &storage, &ALL);
            if faulty.failed() == 0 {
                done.unwrap_or_else(|e| panic!("{case}: {e}"));
                assert!(n > 20, "{n}");
                break;
            }
            drop(storage);
            is_whole(&bench, &disk, &[0, 2], true, &case);
            prune_on(&bench, &on(&disk), &ALL).unwrap_or_else(|e| panic!("{case}: {e}"));
            is_whole(&bench, &disk, &[0, 2], true, &case);
        }
    }
}

/// A medium that is full to the last byte takes nothing, and gives room back all the same.
#[test]
fn on_a_full_medium_what_nothing_needs_at_all_still_goes() {
    let bench = Small::build(4, 5, None);
    let disk = bench.disk.snapshot();
    keep_only(&bench, &disk, &[4]);
    let faulty = Faulty::new(Arc::new(disk.clone()));
    faulty.fail(Fault::from_then_on(0, Errno::NOSPC).of(Verb::Append));
    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
    let before = disk.total_bytes();
    let limits = SweepLimits { max_unused: MaxUnused::Unlimited, ..ALL.limits };
    let pruned = prune_on(&bench, &storage, &PruneOptions { limits, ..ALL }).unwrap();
    assert!(pruned.deleted_packs > 0 && disk.total_bytes() < before, "{pruned:?}");
    let e = prune_on(&bench, &storage, &ALL).expect_err("there is no room to pack anew");
    assert!(matches!(e, Error::MediumFull { .. }), "{e}");
    is_whole(&bench, &disk, &[4], true, "full");
}

#[test]
fn a_prune_that_misses_something_changes_nothing() {
    let bench = Small::build(8, 2, None);
    let refused = |disk: &Memory, case: &str| {
        let before = disk.objects();
        let e = prune_on(&bench, &on(disk), &ALL).expect_err(case);
        assert!(e.is_damage(), "{case}: {e}");
        assert_eq!(disk.objects(), before, "{case}");
        e.to_string()
    };
    for (name, _) in bench.disk.objects_in(Folder::Packs) {
        let disk = bench.disk.snapshot();
        disk.remove(Folder::Packs, &name);
        let text = refused(&disk, "a pack is gone");
        assert!(text.starts_with("nothing was pruned"), "{text}");
    }
    let disk = bench.disk.snapshot();
    let (name, bytes) = disk.objects_in(Folder::Snapshots).remove(0);
    for folder in [Folder::Snapshots, Folder::Mirror] {
        disk.flip(folder, &name, bytes.len() / 2, 1);
    }
    refused(&disk, "a snapshot cannot be read");
    let mut repository = bench.open(&on(&disk), Access::Write).unwrap();
    repository.forget(&[SnapshotId::from_object(&name).unwrap().0]).unwrap();
    drop(repository);
    prune_on(&bench, &on(&disk), &ALL).unwrap();
}

/// A damaged frame, stored again by a later backup: the mark that told the bad copy from the good one may be lost, and
/// the good one must not go for it.
#[test]
fn of_two_copies_the_one_that_is_whole_stays() {
    let bench = Small::build(9, 1, None);
    for frame in &bench.frames {
        let disk = bench.disk.snapshot();
        disk.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length - 3, 4);
        let mut repository = bench.open(&on(&disk), Access::Write).unwrap();
        check(&repository, ReadData::All, &Silent).unwrap();
        small::backup(&mut repository, &bench.live).unwrap();
        drop(repository);
        // A medium in memory keeps no catalogue: the marks are lost here.
        let Ok(_) = prune_on(&bench, &on(&disk), &ALL) else {
            // The trees of the first snapshot hold the times of folders above the source: those may be lost for good.
            continue;
        };
        let repository = bench.open(&on(&disk), Access::Read).unwrap();
        for version in &bench.versions {
            assert!(bench.judge(&repository, version, &HashSet::new(), "two copies"), "{frame:?}");
        }
        let report = check(&repository, ReadData::All, &Silent).unwrap();
        assert!(report.touched.is_empty(), "{frame:?}: {:?}", report.touched);
    }
}

#[test]
fn a_reader_without_a_lock_finds_again_what_a_prune_has_moved() {
    let bench = Small::build(4, 5, None);
    let disk = bench.disk.snapshot();
    keep_only(&bench, &disk, &[0, 4]);
    let reading: Arc<dyn Storage> = Arc::new(Unlocked(on(&disk)));
    let repository = bench.open(&reading, Access::Read).unwrap();
    assert!(!repository.is_locked());
    let pruned = prune_on(&bench, &on(&disk), &ALL).unwrap();
    assert!(pruned.repacked_packs > 0, "{pruned:?}");
    for n in [0, 4] {
        assert!(bench.judge(&repository, &bench.versions[n], &HashSet::new(), "without a lock"), "version {n}");
    }
}

#[test]
fn only_who_is_alone_prunes() {
    let bench = Small::build(11, 1, None);
    let storage = on(&bench.disk);
    let reading = bench.open(&storage, Access::Read).unwrap();
    assert!(matches!(bench.open(&storage, Access::Exclusive), Err(Error::Locked { .. })));
    assert!(matches!(prune(&reading, &ALL, &Silent), Err(Error::Usage(_))));
    assert!(matches!(reading.delete_packs([&bench.frames[0].frame.0]), Err(Error::Usage(_))));
    drop(reading);
    let unlocked: Arc<dyn Storage> = Arc::new(Unlocked(storage));
    assert_eq!(bench.open(&unlocked, Access::Exclusive).expect_err("no lock, no prune").exit_code(), 1);
}

/// A snapshot of one file whose only blob lies in a frame that leans on a blob of another pack, and a second pack of the
/// same kind that nothing needs.
struct Leaning {
    disk: Memory,
    snapshot: SnapshotId,
    content: Vec<u8>,
    /// Leaning packs and the packs they lean on: the needed pair, the unneeded pair.
    pairs: [(ObjectName, ObjectName); 2],
}

/// What lies beside what is needed, so that a pack is packed anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beside {
    Nothing,
    /// An unneeded blob in the frame that leans.
    Leaner,
    /// A needed and an unneeded blob in the pack of the base.
    Base,
}

impl Leaning {
    fn build(unneeded_beside: Beside) -> Self {
        let disk = Memory::new();
        let storage = on(&disk);
        let mut repository = small::init(&storage, Some("secret")).unwrap();
        let pack = |blobs: &[&[u8]], bases: &[&[u8]]| by_hand::pack(&repository, blobs, bases);
        let changed = |base: &[u8]| [&base[..40_000], b"another end"].concat();
        let (base, other) = (noise(1), noise(2));
        let content = changed(&base);
        let beside = [noise(3), base.clone()].concat();
        let (beside, extra) = (beside.get(..60_000).unwrap(), noise(4));
        let needed = match unneeded_beside {
            Beside::Nothing => (pack(&[&content], &[&base]), pack(&[&base], &[])),
            Beside::Leaner => (pack(&[&content, beside], &[&base]), pack(&[&base], &[])),
            Beside::Base => (pack(&[&content], &[&base]), pack(&[&base, &extra, beside], &[])),
        };
        let unneeded = (pack(&[&changed(&other)], &[&other]), pack(&[&other], &[]));
        let index = Arc::new(repository.index().unwrap());
        let writer = repository.writer(index, 1, false).unwrap();
        let mut trees = writer.filler(Stream::Tree);
        let file = |name: &[u8], bytes: &[u8]| {
            let run = Run::Data { id: repository.secrets().blob_id(bytes), length_bytes: bytes.len() as u64 };
            forge::file(name, Content { depth: 0, runs: vec![run] })
        };
        let mut files = vec![file(b"file", &content)];
        files.extend((unneeded_beside == Beside::Base).then(|| file(b"more", &extra)));
        let piece = encode_piece(&files);
        let run = Run::Data { id: trees.put(&piece).unwrap(), length_bytes: piece.len() as u64 };
        trees.flush().unwrap();
        drop(trees);
        let (published, _) = writer.finish().unwrap();
        repository.catalogue_packs(&published).unwrap();
        let root = forge::folder(b"", Content { depth: 0, runs: vec![run] });
        let snapshot = repository.put_snapshot(forge::snapshot_of(root)).unwrap().id;
        Self { disk, snapshot, content, pairs: [needed, unneeded] }
    }

    fn prune(&self, storage: &Arc<dyn Storage>) -> Result<Pruned> {
        prune(&small::open(storage, Some("secret"), Access::Exclusive)?, &ALL, &Silent)
    }

    fn is_whole(&self, disk: &Memory, case: &str) {
        let repository = small::open(&on(disk), Some("secret"), Access::Read).unwrap();
        let reader = repository.reader(Arc::new(repository.index().unwrap()));
        let bytes = reader.blob(&repository.secrets().blob_id(&self.content));
        assert_eq!(bytes.unwrap_or_else(|e| panic!("{case}: {e}")), self.content, "{case}");
        // Nobody takes for known what leans on something that is gone.
        let index = reader.index();
        for (id, _) in index.iter().filter(|(id, _)| index.is_known(id)) {
            reader.blob(&id).unwrap_or_else(|e| panic!("{case}: {id} is said to be known: {e}"));
        }
        let report = check(&repository, ReadData::All, &Silent).unwrap();
        assert!(report.touched.is_empty(), "{case}: {:?}", report.touched);
        assert_eq!(repository.snapshots().len(), 1, "{case}: {}", self.snapshot);
    }
}

#[test]
fn a_base_stays_as_long_as_what_leans_on_it_and_goes_after_what_leaned_on_it() {
    let leaning = Leaning::build(Beside::Nothing);
    let faulty = Faulty::new(Arc::new(leaning.disk.clone()));
    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
    leaning.prune(&storage).unwrap();
    let deleted: Vec<_> = faulty.calls().into_iter().filter(|call| call.verb == Verb::Delete).collect();
    let names: Vec<String> = deleted.iter().filter_map(|call| call.name.as_ref().map(ToString::to_string)).collect();
    let [_, (leaner, base)] = &leaning.pairs;
    assert_eq!(names, [leaner.to_string(), base.to_string()]);
    leaning.is_whole(&leaning.disk, "pruned");
    // What leans on nothing any more takes its base along.
    let mut repository = small::open(&on(&leaning.disk), Some("secret"), Access::Write).unwrap();
    repository.forget(&[leaning.snapshot]).unwrap();
    drop(repository);
    leaning.prune(&on(&leaning.disk)).unwrap();
    assert_eq!(leaning.disk.objects_in(Folder::Packs), []);
}

#[test]
fn a_power_cut_at_any_change_of_a_prune_leaves_nobody_leaning_on_what_is_gone() {
    for beside in [Beside::Nothing, Beside::Leaner, Beside::Base] {
        let leaning = Leaning::build(beside);
        for n in 0.. {
            let machine = Crashing::new(&leaning.disk);
            machine.crash_after(n);
            let storage: Arc<dyn Storage> = Arc::new(machine.clone());
            let done = leaning.prune(&storage);
            if !machine.crashed() {
                let pruned = done.unwrap();
                assert_eq!(pruned.repacked_packs > 0, beside != Beside::Nothing, "{pruned:?}");
                leaning.is_whole(&machine.survivors(CutOff::Undone), "undisturbed");
                break;
            }
            for cut_off in CutOff::ALL {
                let case = format!("change {n}, {cut_off:?}, beside: {beside:?}");
                let disk = machine.survivors(cut_off);
                leaning.is_whole(&disk, &case);
                leaning.prune(&on(&disk)).unwrap_or_else(|e| panic!("{case}: {e}"));
                leaning.is_whole(&disk, &case);
            }
        }
    }
}
