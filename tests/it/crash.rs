//! Power cuts: at every change of a first backup, a second backup and an init, and in every way a medium can be left.

use crate::support::{
    crash::{Crashing, CutOff},
    faults::{Faulty, Verb},
    random::Random,
    same::differing,
    small::{self, LivePlace, backup, restore_path},
    storage::Memory,
};
use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    error::{Error, Result},
    id::SnapshotId,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::{Access, Presence, probe},
        repository::Repository,
    },
    storage::object::{Folder, Storage},
};

/// A repository and what its snapshots were made of; the last tree is not backed up yet.
struct Bench {
    disk: Memory,
    password: Option<&'static str>,
    live: PathBuf,
    known: Vec<(SnapshotId, PathBuf)>,
    place: tempfile::TempDir,
    /// Holds the live tree and nothing else, so that each run backs the same up.
    _live_place: LivePlace,
}

impl Bench {
    /// With this many snapshots, each of other content.
    fn build(snapshots: usize, password: Option<&'static str>) -> Self {
        let (disk, place, live_place) = (Memory::new(), small::quick_place(), LivePlace::take());
        let live = live_place.path.join("live");
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut repository = small::init(&storage, password).unwrap();
        let mut known = Vec::new();
        for n in 0..snapshots {
            write_tree(&live, n);
            let copy = place.path().join(format!("copy-{n}"));
            write_tree(&copy, n);
            known.push((backup(&mut repository, &live).unwrap().id, copy));
        }
        write_tree(&live, snapshots);
        Self { disk, password, live, known, place, _live_place: live_place }
    }

    fn open(&self, storage: &Arc<dyn Storage>, access: Access) -> Result<Repository> {
        small::open(storage, self.password, access)
    }

    /// A snapshot comes back as its tree was.
    fn restores(&self, repository: &Repository, id: SnapshotId, tree: &Path, case: &str) {
        let snapshot = repository.snapshots().iter().find(|s| s.id == id).unwrap_or_else(|| panic!("{case}: {id}"));
        let target = self.place.path().join("target");
        let _ = fs::remove_dir_all(&target);
        let done = restore_path(repository, snapshot, self.live.as_os_str().as_bytes(), &target);
        let done = done.unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(done.problems.is_empty(), "{case}: {:?}", done.problems);
        let differing = differing(tree, &target);
        assert!(differing.is_empty(), "{case}: {differing:?}");
    }

    /// Everything that was known is still there; no byte is damaged, if the medium was honest.
    fn is_whole(&self, repository: &Repository, cut_off: CutOff, case: &str) {
        for (id, tree) in &self.known {
            self.restores(repository, *id, tree, case);
        }
        let report = check(repository, ReadData::All, &Silent).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(report.touched.is_empty(), "{case}: {:?}", report.touched);
        let damaged = report.has_damage() || !repository.damaged_snapshots().is_empty();
        assert!(!damaged || cut_off == CutOff::Torn, "{case}: {:?}", report.findings);
    }
}

/// A tree of which each number shares some content with the others; more than one pack of it does not compress.
fn write_tree(root: &Path, n: usize) {
    let _ = fs::remove_dir_all(root);
    fs::create_dir_all(root.join("folder/inner")).unwrap();
    let noise = |seed: usize, length| Random::new("crash", seed as u64).bytes(length);
    fs::write(root.join("always"), "the same in each").unwrap();
    fs::write(root.join("folder/own"), format!("content number {n}")).unwrap();
    for part in 0..3 {
        fs::write(root.join(format!("folder/inner/noise-{part}")), noise(3 * n + part, 600_000)).unwrap();
    }
    fs::hard_link(root.join("always"), root.join("folder/again")).unwrap();
    let mut random = Random::new("crash times", n as u64);
    let walk = walkdir::WalkDir::new(root).sort_by_file_name().contents_first(true);
    for entry in walk.into_iter().map(std::result::Result::unwrap) {
        let path = entry.path();
        crate::support::node::set_time(rustix::fs::CWD, path.as_os_str().as_bytes(), random.time()).unwrap();
    }
}

/// Bytes appended to packs.
fn packed_bytes(faulty: &Faulty) -> u64 {
    let to_packs =
        |call: &&crate::support::faults::Call| call.verb == Verb::Append && call.folder == Some(Folder::Packs);
    faulty.calls().iter().filter(to_packs).map(|call| call.length_bytes as u64).sum()
}

/// Cuts a backup off at every change, looks at what is left in every way it can be, and goes on.
fn every_cut_of_a_backup(snapshots: usize, password: Option<&'static str>) {
    let bench = Bench::build(snapshots, password);
    let undisturbed = Crashing::new(&bench.disk);
    let storage: Arc<dyn Storage> = Arc::new(undisturbed.clone());
    backup(&mut bench.open(&storage, Access::Write).unwrap(), &bench.live).unwrap();
    let all_bytes = packs_of(&undisturbed.survivors(CutOff::Undone)) - packs_of(&bench.disk);
    // How many frames the threads make of the same content differs a little from run to run.
    assert!(undisturbed.changes() > 20);
    let (mut reused, mut committed) = (0, 0);
    for n in 0.. {
        let machine = Crashing::new(&bench.disk);
        machine.crash_after(n);
        let storage: Arc<dyn Storage> = Arc::new(machine.clone());
        let failed = bench.open(&storage, Access::Write).and_then(|mut r| backup(&mut r, &bench.live));
        if !machine.crashed() {
            failed.unwrap();
            break;
        }
        let e = failed.expect_err("a machine without power commits nothing");
        assert_eq!(e.exit_code(), 13, "change {n}: {e}");
        for cut_off in CutOff::ALL {
            let case = format!("change {n}, {cut_off:?}");
            let disk = machine.survivors(cut_off);
            let faulty = Faulty::new(Arc::new(disk.clone()));
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let repository = bench.open(&storage, Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
            let listed = repository.snapshots().len();
            assert!(listed == bench.known.len() || listed == bench.known.len() + 1, "{case}: {listed} snapshots");
            if let Some(new) = repository.snapshots().get(bench.known.len()) {
                committed += 1;
                bench.restores(&repository, new.id, &bench.live, &case);
            }
            bench.is_whole(&repository, cut_off, &case);
            drop(repository);
            let durable_bytes = if cut_off == CutOff::Torn { 0 } else { packs_of(&disk) - packs_of(&bench.disk) };
            faulty.forget_calls();
            let mut repository = bench.open(&storage, Access::Write).unwrap_or_else(|e| panic!("{case}: {e}"));
            let next = backup(&mut repository, &bench.live).unwrap_or_else(|e| panic!("{case}: {e}"));
            // Tables, tails and trees with another time in them are written once more.
            let slack_bytes = 20_000;
            let (again_bytes, new_bytes) = (packed_bytes(&faulty), all_bytes.saturating_sub(durable_bytes));
            assert!(again_bytes <= new_bytes + slack_bytes, "{case}: {again_bytes} bytes, {durable_bytes} were there");
            reused += u32::from(durable_bytes > 500_000);
            bench.restores(&repository, next.id, &bench.live, &case);
            bench.is_whole(&repository, cut_off, &case);
        }
    }
    assert!(reused > 3 && committed > 3, "{reused} times packs were reused, {committed} times the snapshot was there");
}

fn packs_of(disk: &Memory) -> u64 {
    disk.objects_in(Folder::Packs).iter().map(|(_, bytes)| bytes.len() as u64).sum()
}

#[test]
fn a_power_cut_at_any_change_of_a_first_backup_costs_only_that_backup() {
    every_cut_of_a_backup(0, None);
}

#[test]
fn a_power_cut_at_any_change_of_a_later_backup_leaves_the_earlier_snapshots_whole() {
    every_cut_of_a_backup(1, Some("secret"));
}

#[test]
fn a_power_cut_at_any_change_of_an_init_leaves_nothing_or_a_whole_repository() {
    for password in [None, Some("secret")] {
        let undisturbed = Crashing::default();
        let storage: Arc<dyn Storage> = Arc::new(undisturbed.clone());
        small::init(&storage, password).unwrap();
        for n in 0..undisturbed.changes() {
            let machine = Crashing::default();
            machine.crash_after(n);
            let storage: Arc<dyn Storage> = Arc::new(machine.clone());
            let e = small::init(&storage, password).expect_err("a machine without power makes nothing");
            assert_eq!(e.exit_code(), 13, "change {n}: {e}");
            for cut_off in CutOff::ALL {
                let case = format!("change {n}, {cut_off:?}, {password:?}");
                after_cut_init(&machine.survivors(cut_off), cut_off, password, &case);
            }
        }
    }
}

/// What an interrupted init has left is empty or a repository; either can be gone on with.
fn after_cut_init(disk: &Memory, cut_off: CutOff, password: Option<&str>, case: &str) {
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    match probe(storage.as_ref()) {
        Ok(Presence::Nothing) => drop(small::init(&storage, password).unwrap_or_else(|e| panic!("{case}: {e}"))),
        Ok(Presence::Repository { encrypted }) => {
            assert_eq!(encrypted, password.is_some(), "{case}");
            let again = small::init(&storage, password).err();
            assert!(matches!(again, Some(Error::Occupied { .. })), "{case}: {again:?}");
        }
        // A medium that lies about having written can leave half a config; whatever it is, it is not taken for empty.
        Err(e) => {
            assert!(cut_off == CutOff::Torn && e.is_damage(), "{case}: {e}");
            return;
        }
    }
    let repository = small::open(&storage, password, Access::Write).unwrap_or_else(|e| panic!("{case}: {e}"));
    drop(repository);
    let repository = small::open(&storage, password, Access::Read).unwrap_or_else(|e| panic!("{case}: {e}"));
    let report = check(&repository, ReadData::All, &Silent).unwrap();
    assert!(!report.has_damage() || cut_off == CutOff::Torn, "{case}: {:?}", report.findings);
}
