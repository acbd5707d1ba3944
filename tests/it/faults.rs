//! A medium that refuses: the n-th call fails, for every n, once and from then on, in every command.

use crate::support::{
    faults::{Fault, Faulty, Verb},
    same::differing,
    small::{self, Outcome, backup, restore_path},
    storage::Memory,
};
use rustix::io::Errno;
use std::{fs, os::unix::ffi::OsStrExt, path::PathBuf, sync::Arc, time::Duration};
use xsnap::{
    blobs::writer::Stream,
    error::{Error, Result},
    id::SnapshotId,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::{Access, Presence, probe},
    },
    storage::object::{Folder, Storage},
};

/// A repository with one snapshot, and the tree that it was made of, changed a little since.
struct Bench {
    disk: Memory,
    live: PathBuf,
    copy: PathBuf,
    snapshot: SnapshotId,
    place: tempfile::TempDir,
}

impl Bench {
    fn build() -> Self {
        let (disk, place) = (Memory::new(), small::quick_place());
        let (live, copy) = (place.path().join("live"), place.path().join("copy"));
        fs::create_dir_all(live.join("folder")).unwrap();
        fs::write(live.join("file"), "some bytes").unwrap();
        fs::write(live.join("folder/inside"), vec![7; 100_000]).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let mut repository = small::init(&storage, None).unwrap();
        let snapshot = backup(&mut repository, &live).unwrap().id;
        let done = restore_path(&repository, &repository.snapshots()[0], live.as_os_str().as_bytes(), &copy).unwrap();
        assert!(done.problems.is_empty() && differing(&live, &copy).is_empty());
        fs::write(live.join("new"), "more bytes").unwrap();
        Self { disk, live, copy, snapshot, place }
    }

    fn restore(&self, storage: &Arc<dyn Storage>) -> Result<Outcome> {
        let target = self.place.path().join("target");
        let _ = fs::remove_dir_all(&target);
        let repository = small::open(storage, None, Access::Read)?;
        let snapshot = repository.snapshots().iter().find(|s| s.id == self.snapshot);
        restore_path(&repository, snapshot.expect("it is listed"), self.live.as_os_str().as_bytes(), &target)
    }

    fn backup(&self, storage: &Arc<dyn Storage>) -> Result<()> {
        backup(&mut small::open(storage, None, Access::Write)?, &self.live).map(drop)
    }

    /// The earlier snapshot restores as it was, nothing is damaged, and the next backup works.
    fn goes_on(&self, disk: &Memory, case: &str) {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let done = self.restore(&storage).unwrap_or_else(|e| panic!("{case}: the restore afterwards: {e}"));
        assert!(done.problems.is_empty(), "{case}: {:?}", done.problems);
        assert_eq!(differing(&self.copy, &self.place.path().join("target")), [], "{case}");
        self.backup(&storage).unwrap_or_else(|e| panic!("{case}: the backup afterwards: {e}"));
        let repository = small::open(&storage, None, Access::Read).unwrap();
        let report = check(&repository, ReadData::All, &Silent).unwrap();
        assert!(!report.has_damage(), "{case}: {:?}", report.findings);
    }
}

const ERRNOS: [Errno; 3] = [Errno::IO, Errno::NOSPC, Errno::ROFS];

/// Runs a command with a fault at every call that it makes, until no fault is met. Says how many there were.
pub fn at_every_call(
    begin: &Memory,
    command: impl Fn(&Arc<dyn Storage>) -> Result<()>,
    after: impl Fn(&Memory, bool, &str),
) -> u64 {
    let mut met = 0;
    for errno in ERRNOS {
        for lasting in [false, true] {
            for n in 0.. {
                let disk = begin.snapshot();
                let faulty = Faulty::new(Arc::new(disk.clone()));
                faulty.fail(if lasting { Fault::from_then_on(n, errno) } else { Fault::once(n, errno) });
                let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
                let case = format!("call {n}, {errno:?}, lasting: {lasting}");
                let done = command(&storage);
                if let Err(e) = &done {
                    assert_eq!(e.exit_code(), 13, "{case}: {e:?}");
                }
                if faulty.failed() == 0 {
                    done.unwrap_or_else(|e| panic!("{case}: failed without a fault: {e}"));
                    break;
                }
                let writes =
                    |call: &crate::support::faults::Call| matches!(call.verb, Verb::Append | Verb::Finish | Verb::Sync);
                let hit = faulty.calls().get(usize::try_from(n).unwrap()).cloned().unwrap();
                assert!(done.is_err() || !writes(&hit), "{case}: a failed {:?} was taken for a success", hit.verb);
                met += 1;
                drop(storage);
                after(&disk, done.is_ok(), &case);
            }
        }
    }
    met
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_backup_costs_only_that_backup() {
    let bench = Bench::build();
    let met = at_every_call(&bench.disk, |storage| bench.backup(storage), |disk, _, case| bench.goes_on(disk, case));
    assert!(met > 6 * 30, "{met}");
}

#[test]
fn a_medium_that_fails_at_any_call_of_an_init_leaves_nothing_or_a_repository() {
    let init = |storage: &Arc<dyn Storage>| small::init(storage, Some("secret")).map(drop);
    let met = at_every_call(&Memory::new(), init, |disk, done, case| {
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        match probe(storage.as_ref()).unwrap_or_else(|e| panic!("{case}: {e}")) {
            Presence::Nothing => {
                assert!(!done, "{case}: said to be done");
                init(&storage).unwrap_or_else(|e| panic!("{case}: {e}"));
            }
            Presence::Repository { encrypted } => assert!(encrypted, "{case}"),
        }
        small::open(&storage, Some("secret"), Access::Write).unwrap_or_else(|e| panic!("{case}: {e}"));
    });
    assert!(met > 6 * 15, "{met}");
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_restore_never_leaves_a_wrong_tree_unsaid() {
    let bench = Bench::build();
    let command = |storage: &Arc<dyn Storage>| {
        let done = bench.restore(storage)?;
        let same = differing(&bench.copy, &bench.place.path().join("target")).is_empty();
        assert!(same || !done.problems.is_empty(), "a wrong tree and no problem");
        Ok(())
    };
    let met = at_every_call(&bench.disk, command, |disk, _, case| {
        assert_eq!(disk.objects(), bench.disk.objects(), "{case}: a restore writes nothing to the medium");
    });
    assert!(met > 6 * 10, "{met}");
}

#[test]
fn a_medium_that_fails_at_any_call_of_a_check_is_not_taken_for_damage_everywhere() {
    let bench = Bench::build();
    let command = |storage: &Arc<dyn Storage>| {
        let repository = small::open(storage, None, Access::Read)?;
        let report = check(&repository, ReadData::All, &Silent)?;
        assert!(report.touched.is_empty(), "{:?}", report.touched);
        Ok(())
    };
    let met = at_every_call(&bench.disk, command, |disk, _, case| {
        assert_eq!(disk.objects(), bench.disk.objects(), "{case}: a check writes nothing to the medium");
    });
    assert!(met > 6 * 10, "{met}");
}

/// As when the answer of a write is lost on its way: the object is there and its writer was told that it is not.
#[test]
fn a_write_that_succeeded_and_was_reported_as_failed_does_no_harm() {
    let bench = Bench::build();
    for verb in [Verb::Finish, Verb::Append, Verb::Create, Verb::Sync] {
        for n in 0.. {
            let disk = bench.disk.snapshot();
            let faulty = Faulty::new(Arc::new(disk.clone()));
            faulty.fail(Fault::once(n, Errno::IO).of(verb).after_the_deed());
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let done = bench.backup(&storage);
            if faulty.failed() == 0 {
                break;
            }
            let case = format!("{verb:?} {n}");
            assert_eq!(done.expect_err("a failed write is an error").exit_code(), 13, "{case}");
            bench.goes_on(&disk, &case);
        }
    }
}

#[test]
fn after_a_failed_write_the_writer_refuses_everything() {
    for n in 0.. {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
        let repository = small::init(&storage, None).unwrap();
        let index = Arc::new(repository.index().unwrap());
        faulty.forget_calls();
        faulty.fail(Fault::once(n, Errno::NOSPC));
        let writer = repository.writer(index, 2, false).unwrap();
        let mut filler = writer.filler(Stream::Data);
        let mut refused = false;
        for seed in 0..5_u64 {
            let blob = crate::support::random::Random::new("refused", seed).bytes(700_000);
            let put = filler.put(&blob).and_then(|_| filler.flush());
            assert!(!refused || matches!(put, Err(Error::Refused)), "call {n}: {put:?} after a refusal");
            refused |= put.is_err();
            // The packer works beside: it is waited for until it has taken the frame or given up.
            (0..200).take_while(|_| faulty.count() <= seed && faulty.failed() == 0).for_each(|_| {
                std::thread::sleep(Duration::from_millis(1));
            });
        }
        drop(filler);
        let finished = writer.finish();
        if faulty.failed() == 0 {
            finished.unwrap();
            assert!(n > 10, "{n} calls");
            break;
        }
        assert_eq!(finished.expect_err("a failed write is an error").exit_code(), 13, "call {n}");
        assert_eq!(faulty.count(), n + 1, "nothing is asked of the medium after call {n}: {:?}", faulty.calls());
    }
}

/// Deduplication must not outrun durability: packs that were found count as much as packs that were written.
#[test]
fn every_pack_is_made_durable_before_a_snapshot_names_it() {
    let bench = Bench::build();
    let faulty = Faulty::new(Arc::new(bench.disk.snapshot()));
    let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
    for changed in [true, false] {
        faulty.forget_calls();
        bench.backup(&storage).unwrap();
        let calls = faulty.calls();
        let last = |verb, folder| calls.iter().rposition(|call| call.verb == verb && call.folder == Some(folder));
        let named = calls.iter().position(|call| call.verb == Verb::Create && call.folder == Some(Folder::Snapshots));
        let (named, synced) = (named.unwrap(), last(Verb::Sync, Folder::Packs).unwrap());
        assert!(synced < named, "changed: {changed}: {calls:?}");
        assert!(last(Verb::Finish, Folder::Packs).is_none_or(|finished| finished < synced), "{calls:?}");
        let mirrored = calls.iter().position(|call| call.verb == Verb::Create && call.folder == Some(Folder::Mirror));
        assert!(last(Verb::Finish, Folder::Snapshots) < mirrored, "the mirror follows the primary: {calls:?}");
    }
}
