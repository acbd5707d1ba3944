//! A copy holds what the source holds: between repositories that are alike and others, whatever is cut off or fails on
//! either side, and it costs no more than what is missing.

use crate::support::{
    by_hand::PLAINLY,
    crash::{Crashing, CutOff},
    faults::{Fault, Faulty, Verb},
    lying::{Lie, Lying},
    plain::{self, CHEAP},
    program,
    small::{self, Small, Version, ancestors},
    storage::{Memory, on},
};
use rustix::io::Errno;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};
use xsnap::{
    archive::copy::copy,
    blobs::chunker::ChunkSizes,
    error::{Error, Result},
    id::{ObjectName, SnapshotId},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        config::Config,
        copy::{CopyOptions, Fate, Moved, are_alike},
        init::{InitOptions, Naming},
        keys::Password,
        listing::find,
        opening::Access,
        repository::Repository,
        snapshot::Snapshot,
    },
    storage::{
        envelope::Kind,
        object::{Folder, Storage},
    },
};

/// What the target of a copy is, beside its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Made like the source: its identity key and its chunk sizes.
    Alike,
    /// Encrypted, with keys of its own.
    Sealed,
    /// Not encrypted, with chunks of other sizes.
    Plain,
}

impl Target {
    const ALL: [Self; 3] = [Self::Alike, Self::Sealed, Self::Plain];

    fn password(self, source: &Small) -> Option<&'static str> {
        match self {
            Self::Alike => source.password.map(|_| "of the copy"),
            Self::Sealed => Some("of the copy"),
            Self::Plain => None,
        }
    }

    /// Makes an empty repository.
    fn init(self, source: &Small) -> Memory {
        let disk = Memory::new();
        self.init_on(source, on(&disk));
        disk
    }

    fn init_on(self, source: &Small, storage: Arc<dyn Storage>) {
        let (identity, chunks) = source.open(&on(&source.disk), Access::Read).unwrap().likeness();
        let (naming, chunks) = match self {
            Self::Alike => (Naming::Like(identity), chunks),
            Self::Sealed => (Naming::Own, chunks),
            Self::Plain => (Naming::Own, ChunkSizes { min_bytes: 512, avg_bytes: 3 << 10, max_bytes: 6 << 10 }),
        };
        let config = Config { chunks, level: 1, ..small::small_config() };
        let password = self.password(source).map(|p| Password::new(p.into()));
        Repository::init(storage, InitOptions { config, password, naming, cost: CHEAP }).unwrap();
    }
}

type Told = Vec<(SnapshotId, Fate, Moved)>;

/// A source, a target, and how they are opened.
struct Bench {
    source: Small,
    target: Target,
}

impl Bench {
    fn build(seed: u64, snapshots: u64, password: Option<&'static str>, target: Target) -> Self {
        Self { source: Small::build(seed, snapshots, password), target }
    }

    fn ids(&self, versions: &[usize]) -> HashSet<SnapshotId> {
        versions.iter().map(|n| self.source.versions[*n].id).collect()
    }

    fn all(&self) -> HashSet<SnapshotId> {
        self.source.versions.iter().map(|v| v.id).collect()
    }

    fn open_target(&self, storage: &Arc<dyn Storage>, access: Access) -> Result<Repository> {
        small::open(storage, self.target.password(&self.source), access)
    }

    fn copy(&self, from: &Arc<dyn Storage>, to: &Arc<dyn Storage>, ids: &HashSet<SnapshotId>) -> Result<Told> {
        self.copy_as(from, to, ids, &PLAINLY)
    }

    fn copy_as(
        &self,
        from: &Arc<dyn Storage>,
        to: &Arc<dyn Storage>,
        ids: &HashSet<SnapshotId>,
        options: &CopyOptions,
    ) -> Result<Told> {
        let source = self.source.open(from, Access::Read)?;
        let mut target = self.open_target(to, if options.dry_run { Access::Read } else { Access::Write })?;
        assert_eq!(are_alike(&source, &target), self.target == Target::Alike);
        let mut told = Vec::new();
        let mut tell = |s: &Snapshot, fate: &Fate, moved: Moved| told.push((s.id, fate.clone(), moved));
        copy(&source, &mut target, ids, options, (&Silent, &mut tell))?;
        Ok(told)
    }

    /// Takes one more snapshot, of a tree that one file was added to.
    fn add_small_version(&mut self) -> SnapshotId {
        std::fs::write(self.source.live.join("a new file"), [7; 5_000]).unwrap();
        let mut repository = self.source.open(&on(&self.source.disk), Access::Write).unwrap();
        let id = small::backup(&mut repository, &self.source.live).unwrap().id;
        let source = self.source.fresh("later");
        program::copy(&self.source.live, &source);
        self.source.versions.push(Version { id, source, paths: BTreeMap::new() });
        id
    }

    /// Every listed snapshot of the target is the source's, and comes back as it was, and there is no damage on an
    /// honest medium. Returns which there are.
    fn is_whole(&self, disk: &Memory, honest: bool, case: &str) -> HashSet<SnapshotId> {
        let ids = self.is_sound(disk, honest, case);
        let target = self.open_target(&on(disk), Access::Read).unwrap();
        for version in self.source.versions.iter().filter(|v| ids.contains(&v.id)) {
            assert!(self.source.judge(&target, version, &HashSet::new(), case), "{case}");
        }
        ids
    }

    /// As [`Self::is_whole`], without restoring anything.
    fn is_sound(&self, disk: &Memory, honest: bool, case: &str) -> HashSet<SnapshotId> {
        let target = self.open_target(&on(disk), Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
        let source = self.source.open(&on(&self.source.disk), Access::Read).unwrap();
        for copy in target.snapshots() {
            let original = source.snapshots().iter().find(|s| s.id == copy.id).expect("a snapshot of the source");
            let (root, root_stat, commit) = (copy.root.clone(), copy.root_stat.clone(), copy.commit);
            assert_eq!(*copy, Snapshot { root, root_stat, commit, ..original.clone() }, "{case}");
            let (a, b) = (&copy.root, &original.root);
            assert_eq!((&a.metadata, a.partial), (&b.metadata, b.partial), "{case}");
        }
        let report = check(&target, ReadData::All, &Silent).unwrap();
        assert!(report.touched.is_empty(), "{case}: {:?}", report.touched);
        assert!(!honest || !report.has_damage(), "{case}: {:?}", report.findings);
        target.snapshots().iter().map(|s| s.id).collect()
    }
}

fn fates(told: &Told) -> Vec<&Fate> {
    told.iter().map(|(_, fate, _)| fate).collect()
}

/// Bytes that were read of packs of a kind of a medium.
fn read_of(faulty: &Faulty, disk: &Memory, kind: Kind) -> usize {
    let is_of = |name: &ObjectName| {
        let bytes = disk.bytes(Folder::Packs, name).unwrap();
        xsnap::storage::envelope::Label::decode(&bytes, "pack").unwrap().kind == kind
    };
    let reads = faulty.calls().into_iter().filter(|c| c.verb == Verb::Read && c.folder == Some(Folder::Packs));
    reads.filter(|c| is_of(c.name.as_ref().unwrap())).map(|c| c.length_bytes).sum()
}

#[test]
fn a_copy_holds_what_its_source_holds_whatever_either_is() {
    for (seed, password) in [(21, None), (22, Some("secret"))] {
        for target in Target::ALL {
            let case = format!("seed {seed}, {target:?}");
            let bench = Bench::build(seed, 3, password, target);
            let (from, disk) = (on(&bench.source.disk), target.init(&bench.source));
            let before = bench.source.disk.objects();
            let dry =
                bench.copy_as(&from, &on(&disk), &bench.all(), &CopyOptions { dry_run: true, ..PLAINLY }).unwrap();
            assert_eq!(bench.is_whole(&disk, true, &case), HashSet::new(), "{case}: a dry run copies nothing");
            let told = bench.copy(&from, &on(&disk), &bench.all()).unwrap();
            assert_eq!(fates(&told), [&Fate::Copied; 3], "{case}");
            assert_eq!(fates(&dry), fates(&told), "{case}");
            assert_eq!(bench.is_whole(&disk, true, &case), bench.all(), "{case}");
            let (blobs, foreseen) = (told[0].2.added.blobs, dry[0].2.added.blobs);
            assert_eq!(blobs, foreseen, "{case}: a dry run foresees what is added");
            assert_eq!(bench.source.disk.objects(), before, "{case}: nothing is written to the source");
            // Once more: nothing is added and nothing is read but what opening reads.
            let there = disk.objects();
            let again = bench.copy(&from, &on(&disk), &bench.all()).unwrap();
            assert!(again.iter().all(|(_, fate, moved)| *fate == Fate::There && *moved == Moved::default()), "{case}");
            assert_eq!(disk.objects(), there, "{case}");
        }
    }
}

#[test]
fn a_later_copy_reads_and_adds_only_what_is_new() {
    for target in Target::ALL {
        let case = format!("{target:?}");
        let mut bench = Bench::build(23, 3, Some("secret"), target);
        let disk = target.init(&bench.source);
        let (all, new) = (bench.all(), bench.add_small_version());
        let reading = Faulty::new(on(&bench.source.disk));
        let from: Arc<dyn Storage> = Arc::new(reading.clone());
        let measured = |ids: &HashSet<SnapshotId>| {
            reading.forget_calls();
            let told = bench.copy(&from, &on(&disk), ids).unwrap();
            assert!(told.iter().all(|(_, fate, _)| *fate == Fate::Copied), "{case}");
            let added_bytes = told.iter().map(|(.., moved)| moved.added.raw_bytes).sum::<u64>();
            let read_bytes = told.iter().map(|(.., moved)| moved.read_bytes).sum::<u64>();
            (read_of(&reading, &bench.source.disk, Kind::DataPack), read_bytes, added_bytes)
        };
        let (opening, first) = (measured(&HashSet::new()).0, measured(&all));
        let later = measured(&[new].into());
        // The new file shrinks to some hundred bytes; trees and tables are read and written besides.
        let data_bytes = later.0 - opening;
        for verb in [Verb::Prepare, Verb::Create, Verb::Delete, Verb::Sync, Verb::Sweep] {
            assert_eq!(reading.count_of(verb), 0, "{case}: a source that cannot be written serves as well");
        }
        assert!(first.0 > 300_000 && (1..2_000).contains(&data_bytes), "{case}: {opening} {first:?} {later:?}");
        assert!(later.1 * 3 < first.1 && (5_000..100_000).contains(&later.2), "{case}: {first:?} {later:?}");
        bench.is_whole(&disk, true, &case);
    }
}

#[test]
fn a_copy_is_named_alike_whatever_it_began_with() {
    for target in Target::ALL {
        let case = format!("{target:?}");
        let bench = Bench::build(24, 4, Some("secret"), target);
        let one = target.init(&bench.source);
        let other = one.snapshot();
        bench.copy(&on(&bench.source.disk), &on(&one), &bench.all()).unwrap();
        for ids in [&[3][..], &[0, 2], &[1]] {
            bench.copy(&on(&bench.source.disk), &on(&other), &bench.ids(ids)).unwrap();
        }
        let roots = |disk: &Memory| -> BTreeSet<String> {
            let target = bench.open_target(&on(disk), Access::Read).unwrap();
            target.snapshots().iter().map(|s| format!("{:?} {:?} {:?}", s.id, s.root, s.root_stat)).collect()
        };
        bench.is_whole(&other, true, &case);
        assert_eq!(roots(&one), roots(&other), "{case}");
    }
}

/// A backup into a repository, and a copy of the same backup into one with the same keys and sizes, store the same.
#[test]
fn a_copy_that_is_cut_anew_is_what_a_backup_would_have_stored() {
    let bench = Bench::build(25, 1, None, Target::Sealed);
    let copied = Target::Sealed.init(&bench.source);
    let direct = copied.snapshot();
    bench.copy(&on(&bench.source.disk), &on(&copied), &bench.all()).unwrap();
    let mut repository = bench.open_target(&on(&direct), Access::Write).unwrap();
    let backup = small::backup(&mut repository, &bench.source.live).unwrap();
    let copy = bench.open_target(&on(&copied), Access::Read).unwrap().snapshots()[0].clone();
    let reader = |repository: &Repository| repository.reader(Arc::new(repository.index().unwrap()));
    let source_of = |repository: &Repository, snapshot: &Snapshot| {
        find(&reader(repository), &snapshot.root, bench.source.path()).unwrap().expect("the source")
    };
    let copied = bench.open_target(&on(&copied), Access::Read).unwrap();
    assert_eq!(source_of(&repository, &backup), source_of(&copied, &copy));
}

#[test]
fn a_power_cut_at_any_change_of_the_target_costs_only_what_was_under_way() {
    for target in [Target::Alike, Target::Sealed] {
        let bench = Bench::build(26, 3, Some("secret"), target);
        let (from, begun) = (on(&bench.source.disk), target.init(&bench.source));
        bench.copy(&from, &on(&begun), &bench.ids(&[0])).unwrap();
        let mut kept = 0;
        for n in 0.. {
            let machine = Crashing::new(&begun);
            machine.crash_after(n);
            let done = bench.copy(&from, &(Arc::new(machine.clone()) as Arc<dyn Storage>), &bench.all());
            if !machine.crashed() {
                done.unwrap();
                assert!(n > 20, "{n}");
                break;
            }
            let e = done.expect_err("a machine without power copies nothing");
            assert_eq!(e.exit_code(), 13, "change {n}");
            assert!(e.to_string().contains("of a machine that may lose power"), "it says which of the two: {e}");
            for cut_off in CutOff::ALL {
                let case = format!("{target:?}, change {n}, {cut_off:?}");
                let disk = machine.survivors(cut_off);
                let honest = CutOff::HONEST.contains(&cut_off);
                let there = bench.is_sound(&disk, honest, &case);
                assert!(there.is_superset(&bench.ids(&[0])), "{case}");
                kept += usize::from(there.len() == 2);
                let told = bench.copy(&from, &on(&disk), &bench.all()).unwrap_or_else(|e| panic!("{case}: {e}"));
                let copied = told.iter().filter(|(_, fate, _)| *fate == Fate::Copied).count();
                assert_eq!(copied, 3 - there.len(), "{case}: what was finished is kept");
                let all =
                    if n % 5 == 0 { bench.is_whole(&disk, false, &case) } else { bench.is_sound(&disk, false, &case) };
                assert_eq!(all, bench.all(), "{case}");
            }
        }
        assert!(kept > 10, "{target:?}: {kept}");
    }
}

#[test]
fn a_medium_that_fails_at_any_call_on_either_side_costs_only_what_was_under_way() {
    for target in [Target::Alike, Target::Sealed] {
        let bench = Bench::build(27, 2, Some("secret"), target);
        let begun = target.init(&bench.source);
        bench.copy(&on(&bench.source.disk), &on(&begun), &bench.ids(&[0])).unwrap();
        let cases = [
            (true, Errno::IO, false),
            (true, Errno::NODEV, true),
            (false, Errno::NOSPC, false),
            (false, Errno::IO, true),
        ];
        for (of_source, errno, lasting) in cases {
            for n in 0.. {
                let (disk, source) = (begun.snapshot(), bench.source.disk.snapshot());
                let faulty = Faulty::new(on(if of_source { &source } else { &disk }));
                faulty.fail(if lasting { Fault::from_then_on(n, errno) } else { Fault::once(n, errno) });
                let failing: Arc<dyn Storage> = Arc::new(faulty.clone());
                let (from, to) = if of_source { (failing, on(&disk)) } else { (on(&source), failing) };
                let case = format!("{target:?}, of source: {of_source}, call {n}, {errno:?}, lasting: {lasting}");
                let done = bench.copy(&from, &to, &bench.all());
                if let Err(e) = &done {
                    assert_eq!(e.exit_code(), 13, "{case}: {e:?}");
                }
                if faulty.failed() == 0 {
                    done.unwrap_or_else(|e| panic!("{case}: {e}"));
                    assert!(n > 12, "{n}");
                    break;
                }
                drop((from, to));
                assert_eq!(source.objects(), bench.source.disk.objects(), "{case}");
                let there = bench.is_sound(&disk, true, &case);
                assert!(there.is_superset(&bench.ids(&[0])), "{case}");
                assert!(done.is_err() || there == bench.all(), "{case}: {done:?}");
                bench.copy(&on(&source), &on(&disk), &bench.all()).unwrap_or_else(|e| panic!("{case}: {e}"));
                assert_eq!(bench.is_sound(&disk, true, &case), bench.all(), "{case}");
            }
        }
    }
}

#[test]
fn of_a_damaged_source_what_is_whole_is_copied_and_what_is_not_is_named() {
    for target in Target::ALL {
        let bench = Bench::build(28, 3, Some("secret"), target);
        let mut lost_versions = 0;
        for (n, frame) in bench.source.frames.iter().enumerate() {
            let (case, damaged) = (format!("{target:?}, {:?}", frame.frame), bench.source.disk.snapshot());
            damaged.flip(Folder::Packs, &frame.frame.0, frame.offset + frame.length / 2, 1);
            let lost = bench.source.lost_frames(&damaged);
            let disk = target.init(&bench.source);
            let told = bench.copy(&on(&damaged), &on(&disk), &bench.all()).unwrap_or_else(|e| panic!("{case}: {e}"));
            let mut whole = HashSet::new();
            for (id, fate, _) in &told {
                let version = bench.source.versions.iter().find(|v| v.id == *id).unwrap();
                let lost: Vec<Vec<u8>> =
                    version.paths.keys().filter(|path| version.is_lost(path, &lost)).cloned().collect();
                match fate {
                    Fate::Copied => {
                        assert_eq!(lost, Vec::<Vec<u8>>::new(), "{case}");
                        whole.insert(*id);
                    }
                    Fate::Lost(losses) => {
                        lost_versions += 1;
                        assert!(losses.count > 0 && losses.count >= losses.paths.len() as u64, "{case}");
                        let lost: Vec<Vec<u8>> = lost.iter().map(|p| [bench.source.path(), b"/", p].concat()).collect();
                        for (named, why) in &losses.paths {
                            let above =
                                |path: &&Vec<u8>| named == b"/" || ancestors(path).any(|a| a == named.as_slice());
                            assert!(lost.iter().any(|path| above(&path)), "{case}: {}: {why}", named.escape_ascii());
                        }
                    }
                    fate => panic!("{case}: {fate:?}"),
                }
            }
            let there =
                if n % 6 == 0 { bench.is_whole(&disk, true, &case) } else { bench.is_sound(&disk, true, &case) };
            assert_eq!(there, whole, "{case}");
            // From a source that is whole again the copy goes on.
            bench.copy(&on(&bench.source.disk), &on(&disk), &bench.all()).unwrap();
            assert_eq!(bench.is_sound(&disk, true, &case), bench.all(), "{case}");
        }
        assert!(lost_versions > bench.source.frames.len() / 2, "{target:?}: {lost_versions}");
    }
}

#[test]
fn a_medium_that_does_not_keep_what_it_took_is_found_out_before_a_copy_rests_on_it() {
    let (bench, place) = (Bench::build(31, 2, Some("secret"), Target::Alike), small::quick_place());
    let (from, verified) = (on(&bench.source.disk), CopyOptions { verify: true, ..PLAINLY });
    for lie in [Lie::Flip, Lie::Cut, Lie::Unreadable] {
        for n in 0.. {
            let path = place.path().join(format!("{lie:?} {n}"));
            bench.target.init_on(&bench.source, plain::local(&path));
            let lying = Lying::about(&path, n, lie);
            let done = bench.copy_as(&from, &(Arc::new(lying.clone()) as Arc<dyn Storage>), &bench.all(), &verified);
            let Some((folder, name)) = lying.uncached().get(n).cloned() else {
                done.unwrap();
                assert!(n >= 8, "two packs and two files of a record for each snapshot: {n}");
                break;
            };
            let object = folder.object(&name);
            let (case, e) = (format!("{lie:?} of {object}"), done.expect_err("it was found out"));
            assert!(matches!(&e, Error::NotKept { object: told, .. } if told.starts_with(&object)), "{case}: {e}");
            let prove = |access: Access| {
                let repository = bench.open_target(&plain::local(&path), access).unwrap();
                let report = check(&repository, ReadData::All, &Silent).unwrap();
                assert!(report.touched.is_empty(), "{case}: a snapshot rests on it: {:?}", report.touched);
                repository.snapshots().len()
            };
            prove(Access::Read);
            bench
                .copy_as(&from, &plain::local(&path), &bench.all(), &verified)
                .unwrap_or_else(|e| panic!("{case}: {e}"));
            assert_eq!(prove(Access::Write), 2, "{case}");
        }
    }
}

#[test]
fn a_record_that_was_changed_since_is_taken_over_when_that_is_asked_for() {
    let bench = Bench::build(29, 2, None, Target::Sealed);
    let (from, to) = (on(&bench.source.disk), on(&Target::Sealed.init(&bench.source)));
    let update = CopyOptions { update: true, ..PLAINLY };
    let fates_of = |options: &CopyOptions| -> Vec<Fate> {
        bench.copy_as(&from, &to, &bench.all(), options).unwrap().into_iter().map(|(_, fate, _)| fate).collect()
    };
    assert_eq!(fates_of(&update), [Fate::Copied, Fate::Copied]);
    let [first, second] = [0, 1].map(|n| bench.source.versions[n].id);
    let mut source = bench.source.open(&from, Access::Write).unwrap();
    source.rewrite(&first, &|s| s.label = "by hand".into()).unwrap();
    source.rewrite(&first, &|s| (s.tags, s.protected) = (vec!["golden".into()], true)).unwrap();
    drop(source);
    let record = |id| {
        let target = bench.open_target(&to, Access::Read).unwrap();
        let snapshot = target.snapshots().iter().find(|s| s.id == id).unwrap().clone();
        (snapshot.tags, snapshot.label, snapshot.protected)
    };
    assert_eq!(fates_of(&PLAINLY), [Fate::Newer, Fate::There]);
    assert_eq!(record(first), (Vec::new(), String::new(), false));
    assert_eq!(fates_of(&CopyOptions { dry_run: true, ..update }), [Fate::Updated, Fate::There]);
    assert_eq!(record(first), (Vec::new(), String::new(), false));
    assert_eq!(fates_of(&update), [Fate::Updated, Fate::There]);
    assert_eq!(record(first), (vec!["golden".into()], "by hand".into(), true));
    assert_eq!(fates_of(&update), [Fate::There, Fate::There]);
    // What was changed in the copy is not undone.
    let mut target = bench.open_target(&to, Access::Write).unwrap();
    target.rewrite(&second, &|s| s.label = "in the copy".into()).unwrap();
    drop(target);
    assert_eq!(fates_of(&update), [Fate::There, Fate::There]);
    assert_eq!(record(second).1, "in the copy");
}

#[test]
fn a_snapshot_whose_record_is_damaged_in_the_target_is_copied_again() {
    let bench = Bench::build(30, 2, None, Target::Plain);
    let (from, disk) = (on(&bench.source.disk), Target::Plain.init(&bench.source));
    bench.copy(&from, &on(&disk), &bench.all()).unwrap();
    let (name, bytes) = disk.objects_in(Folder::Snapshots).remove(0);
    for folder in [Folder::Snapshots, Folder::Mirror] {
        disk.flip(folder, &name, bytes.len() / 2, 1);
    }
    assert_eq!(bench.is_sound(&disk, false, "damaged").len(), 1);
    let told = bench.copy(&from, &on(&disk), &bench.all()).unwrap();
    assert_eq!(told.iter().filter(|(_, fate, _)| *fate == Fate::Copied).count(), 1);
    assert_eq!(bench.is_whole(&disk, true, "copied again"), bench.all());
}
