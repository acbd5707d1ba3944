//! Media that are pulled out, turn read-only or stop answering in the middle of a write: the backup stops at once, says
//! so, and the next one goes on.

use crate::support::{
    faults::{Call, Fault, Faulty, Verb},
    image::{FileSystem, Image, Plugged},
    program::{Ran, end, installed, on, run, start, system},
    random::Random,
    same::{assert_same, differing},
    small,
    storage::Memory,
    store::place,
};
use rustix::io::Errno;
use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};
use xsnap::{
    error::Error,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::Access,
    },
    storage::object::Storage,
};

#[test]
fn a_medium_that_is_gone_at_any_call_stops_the_backup_at_once() {
    let (disk, place) = (Memory::new(), small::quick_place());
    let (live, target) = (place.path().join("live"), place.path().join("target"));
    fs::create_dir_all(live.join("folder")).unwrap();
    fs::write(live.join("file"), "some bytes").unwrap();
    let storage: Arc<dyn Storage> = Arc::new(disk.clone());
    let mut repository = small::init(&storage, None).unwrap();
    small::backup(&mut repository, &live).unwrap();
    drop(repository);
    fs::write(live.join("folder/new"), Random::new("gone", 0).bytes(1_500_000)).unwrap();
    for errno in [Errno::NODEV, Errno::NOTCONN, Errno::STALE] {
        for n in 0.. {
            let disk = disk.snapshot();
            let faulty = Faulty::new(Arc::new(disk.clone()));
            faulty.fail(Fault::from_then_on(n, errno));
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let done = small::open(&storage, None, Access::Write).and_then(|mut r| small::backup(&mut r, &live));
            let case = format!("call {n}, {errno}");
            if faulty.failed() == 0 {
                done.unwrap();
                assert!(n > 30, "{case}");
                break;
            }
            let e = done.expect_err(&case);
            assert!(matches!(e, Error::MediumGone { .. }), "{case}: {e:?}");
            assert_eq!(e.exit_code(), 13);
            // To read once more what could not be read, in each of the few packs, and to ask whether the medium is gone or
            // has one bad place, is not to go on. Whoever writes beside whoever reads meets it by himself, once.
            let later = faulty.calls().split_off(usize::try_from(n).unwrap() + 1);
            let writes = |call: &Call| {
                matches!(call.verb, Verb::Create | Verb::Append | Verb::Finish | Verb::Delete | Verb::Sync)
            };
            assert!(later.len() <= 24 && later.iter().filter(|call| writes(call)).count() <= 1, "{case}: {later:?}");
            let storage: Arc<dyn Storage> = Arc::new(disk);
            let mut repository = small::open(&storage, None, Access::Write).unwrap();
            let next = small::backup(&mut repository, &live).unwrap_or_else(|e| panic!("{case}: {e}"));
            let _ = fs::remove_dir_all(&target);
            small::restore_path(&repository, &next, live.as_os_str().as_bytes(), &target).unwrap();
            assert_eq!(differing(&live, &target), [], "{case}");
            assert!(!check(&repository, ReadData::All, &Silent).unwrap().has_damage(), "{case}");
        }
    }
}

/// A stick with one snapshot of a tree, and a tree that has grown so much since that a backup takes a while.
struct Bench {
    image: Image,
    stick: PathBuf,
    live: PathBuf,
    path: PathBuf,
    _place: tempfile::TempDir,
}

impl Bench {
    fn build(kind: FileSystem, megabytes: u64) -> Option<Self> {
        let (place, path) = place();
        let image = Image::make(kind, &path.join("image"), megabytes << 20)?;
        let (stick, live) = (path.join("stick"), path.join("live"));
        fs::create_dir(&live).unwrap();
        fs::write(live.join("first"), Random::new("pulled", 0).bytes(100_000)).unwrap();
        let plugged = image.mount(&stick);
        run(&stick.join("repository"), ["backup", live.to_str().unwrap()]).expect(0);
        plugged.unplug();
        Some(Self { image, stick, live, path, _place: place })
    }

    fn repo(&self) -> PathBuf {
        self.stick.join("repository")
    }

    /// Begins a backup of more than fits into one pack, waits until it is in the middle of writing one, has the
    /// medium do what it does, and waits for the end.
    fn in_the_middle(&self, deed: impl FnOnce()) -> Ran {
        for n in 0..12 {
            fs::write(self.live.join(format!("large {n}")), Random::new("gone", n).bytes(5 << 20)).unwrap();
        }
        let running = start(&mut on(&self.repo(), ["backup", self.live.to_str().unwrap()]));
        let began = Instant::now();
        while !is_writing(&self.repo().join("packs")) {
            assert!(began.elapsed() < Duration::from_secs(20), "no pack was begun");
            sleep(Duration::from_millis(1));
        }
        deed();
        end(running)
    }

    /// The earlier snapshot and the backup that was broken off, on the medium that has been plugged in again.
    fn goes_on(&self, options: &str) {
        self.image.mend();
        let plugged = self.image.mount_with(&self.stick, options);
        let repo = self.repo();
        let target = self.path.join("target");
        let restore = |what: &str| {
            let what = format!("{what}:{}", self.live.display());
            run(&repo, ["restore", &what, "--target", target.to_str().unwrap()]).expect(0);
        };
        assert_eq!(run(&repo, ["list", "--json"]).expect(0).json().len(), 1);
        restore("latest");
        assert_eq!(fs::read(target.join("first")).unwrap(), fs::read(self.live.join("first")).unwrap());
        fs::remove_dir_all(&target).unwrap();
        run(&repo, ["backup", self.live.to_str().unwrap()]).expect(0);
        restore("latest");
        assert_same(&self.live, &target);
        run(&repo, ["check", "--read-data"]).expect(0);
        assert!(!is_writing(&repo.join("packs")), "what was begun is swept");
        plugged.unplug();
    }
}

/// Whether a pack is under way.
fn is_writing(packs: &Path) -> bool {
    let begun = |entry: fs::DirEntry| entry.file_name().to_string_lossy().starts_with("tmp-");
    fs::read_dir(packs).is_ok_and(|entries| entries.flatten().any(begun))
}

#[test]
fn a_stick_whose_driver_dies_in_the_middle_of_a_write_is_said_to_be_gone() {
    for (kind, megabytes) in [(FileSystem::Exfat, 200), (FileSystem::Fat32, 200)] {
        let Some(bench) = Bench::build(kind, megabytes) else { continue };
        let mut plugged: Plugged = bench.image.mount(&bench.stick);
        let ran = bench.in_the_middle(|| plugged.kill_driver()).expect(13);
        assert!(ran.complaint().contains("the medium is gone"), "{kind:?}: {}", ran.complaint());
        assert!(ran.complaint().contains("Plug it in again"), "{kind:?}: {}", ran.complaint());
        drop(plugged);
        bench.goes_on("");
    }
}

#[test]
fn a_disk_that_turns_read_only_in_the_middle_of_a_write_is_said_to_be_so() {
    let Some(bench) = Bench::build(FileSystem::Ext4, 200) else { return };
    // What Linux does with a file system that it finds errors in; here it is told that it has found one.
    let plugged = bench.image.mount_with(&bench.stick, "errors=remount-ro");
    let device = plugged.device().file_name().unwrap().to_str().unwrap();
    let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
    let ran = bench.in_the_middle(|| fs::write(trigger, "a test").unwrap()).expect(13);
    let said = ran.complaint();
    assert!(said.contains("the medium is read-only") || said.contains("the medium is gone"), "{said}");
    plugged.unplug();
    bench.goes_on("");
}

#[test]
fn a_disk_that_fails_in_the_middle_of_a_write_is_said_to_be_gone() {
    if !installed("xfs_io", "xfsprogs") {
        return;
    }
    let Some(bench) = Bench::build(FileSystem::Xfs, 400) else { return };
    let plugged = bench.image.mount(&bench.stick);
    // Every call fails from now on, as after an error of the disk in the journal.
    let shut_down = || system("xfs_io", &["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), bench.stick.as_ref()]);
    let ran = bench.in_the_middle(shut_down).expect(13);
    assert!(ran.complaint().contains("the medium is gone"), "{}", ran.complaint());
    plugged.unplug();
    bench.goes_on("");
}
