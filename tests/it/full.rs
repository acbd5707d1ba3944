//! Media that fill up: the backup stops cleanly, frees what it had begun, and leaves enough room that deleting works.

use crate::support::{
    faults::{Fault, Faulty, Verb},
    mounted::Mounted,
    node,
    program::run,
    random::Random,
    same::{assert_same, differing},
    small,
    store::{Store, place, prune_options, total_bytes},
};
use rustix::io::Errno;
use std::{
    fs::{self, File},
    io::Write,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};
use xsnap::{
    error::Error,
    progress::Silent,
    repo::{
        check::{ReadData, check},
        opening::Access,
        prune::prune,
        sweep::MaxUnused,
    },
    storage::{
        local::LocalStorage,
        object::{Folder, Reserve, Storage},
    },
};

/// Unfinished objects anywhere in a repository.
fn unfinished(repo: &Path) -> usize {
    let files = walkdir::WalkDir::new(repo).into_iter().map(Result::unwrap);
    files.filter(|entry| entry.file_name().to_string_lossy().starts_with("tmp-")).count()
}

#[test]
fn a_medium_that_is_full_at_any_write_is_left_clean_and_the_next_backup_succeeds() {
    let place = small::quick_place();
    let [live, target, first] = ["live", "target", "first"].map(|name| place.path().join(name));
    fs::create_dir_all(live.join("folder")).unwrap();
    fs::write(live.join("file"), "some bytes").unwrap();
    let local = |repo: &Path| Arc::new(LocalStorage::new(repo)) as Arc<dyn Storage>;
    let begin = place.path().join("begin");
    let mut repository = small::init(&local(&begin), None).unwrap();
    let known = small::backup(&mut repository, &live).unwrap();
    small::restore_path(&repository, &known, live.as_os_str().as_bytes(), &first).unwrap();
    drop(repository);
    for n in 0..3 {
        fs::write(live.join(format!("new {n}")), Random::new("full", n).bytes(900_000)).unwrap();
    }
    let mut met = 0;
    for verb in [Verb::Create, Verb::Append, Verb::Finish] {
        for n in 0.. {
            let repo = place.path().join("repository");
            let _ = fs::remove_dir_all(&repo);
            crate::support::program::copy(&begin, &repo);
            let faulty = Faulty::new(local(&repo));
            faulty.fail(Fault::from_then_on(n, Errno::NOSPC).of(verb));
            let storage: Arc<dyn Storage> = Arc::new(faulty.clone());
            let done = small::open(&storage, None, Access::Write).and_then(|mut r| small::backup(&mut r, &live));
            let case = format!("{verb:?} {n}");
            if faulty.failed() == 0 {
                done.unwrap();
                break;
            }
            met += 1;
            let e = done.expect_err(&case);
            assert!(matches!(e, Error::MediumFull { .. }), "{case}: {e:?}");
            assert_eq!((e.exit_code(), unfinished(&repo)), (13, 0), "{case}");
            let repository = small::open(&local(&repo), None, Access::Read).unwrap();
            let _ = fs::remove_dir_all(&target);
            small::restore_path(&repository, &known, live.as_os_str().as_bytes(), &target).unwrap();
            assert_eq!(differing(&first, &target), [], "{case}");
            drop(repository);
            if n % 2 == 0 {
                prune_when_nothing_can_be_written(&local(&repo), &case);
            }
            let mut repository = small::open(&local(&repo), None, Access::Write).unwrap();
            let next = small::backup(&mut repository, &live).unwrap_or_else(|e| panic!("{case}: {e}"));
            fs::remove_dir_all(&target).unwrap();
            small::restore_path(&repository, &next, live.as_os_str().as_bytes(), &target).unwrap();
            assert_eq!(differing(&live, &target), [], "{case}");
            assert!(!check(&repository, ReadData::All, &Silent).unwrap().has_damage(), "{case}");
        }
    }
    assert!(met > 15, "{met} writes");
}

/// A prune needs no room to delete what nothing needs: here, what the backup that was broken off has left.
fn prune_when_nothing_can_be_written(storage: &Arc<dyn Storage>, case: &str) {
    let before = storage.list(Folder::Packs).unwrap().len();
    let faulty = Faulty::new(Arc::clone(storage));
    faulty.fail(Fault::from_then_on(0, Errno::NOSPC).of(Verb::Append));
    let repository = small::open(&(Arc::new(faulty.clone()) as Arc<dyn Storage>), None, Access::Exclusive).unwrap();
    let pruned =
        prune(&repository, &prune_options(MaxUnused::Unlimited), &Silent).unwrap_or_else(|e| panic!("{case}: {e}"));
    let left = storage.list(Folder::Packs).unwrap().len();
    assert_eq!(pruned.deleted_packs as usize, before - left, "{case}");
    assert!(left >= 2, "{case}: what the snapshot needs stays");
}

/// Leaves so many bytes free on a medium, by filling the rest.
fn leave(stick: &Path, free_bytes: u64) {
    let ballast = stick.join("ballast");
    let _ = fs::remove_file(&ballast);
    let excess = free_on(stick) - free_bytes;
    File::create(&ballast).unwrap().write_all(&vec![1; usize::try_from(excess).unwrap()]).unwrap();
}

fn free_on(stick: &Path) -> u64 {
    let stat = rustix::fs::statvfs(stick).unwrap();
    stat.f_bavail * stat.f_frsize
}

#[test]
fn a_medium_with_any_room_at_all_is_filled_cleanly_and_goes_on_with_more() {
    if !node::privileged() {
        return;
    }
    let (_place, path) = place();
    let [source, stick, target] = ["source", "stick", "target"].map(|name| path.join(name));
    let mounted = Mounted::tmpfs(&stick, 8 << 20);
    let repo = stick.join("repository");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("known"), "known").unwrap();
    run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
    for n in 0..40 {
        fs::write(source.join(format!("new {n}")), Random::new("room", n).bytes(50_000)).unwrap();
    }
    let what = format!("latest:{}", source.display());
    let restore = || {
        run(&repo, ["restore", &what, "--target", target.to_str().unwrap()]).expect(0);
    };
    let mut stopped = 0;
    for step in 0.. {
        leave(&stick, step * (160 << 10));
        let ran = run(&repo, ["backup", "--reserve", "0", source.to_str().unwrap()]);
        assert_eq!(unfinished(&repo), 0, "with room for {step} steps: {}", ran.complaint());
        if ran.code == 0 {
            break;
        }
        stopped += 1;
        let ran = ran.expect(13);
        assert!(ran.complaint().contains("the medium is full"), "{}", ran.complaint());
        assert_eq!(run(&repo, ["list", "--json"]).expect(0).json().len(), 1);
        run(&repo, ["check", "--read-data"]).expect(0);
        restore();
        assert_eq!(fs::read(target.join("known")).unwrap(), b"known");
        fs::remove_dir_all(&target).unwrap();
        if step % 5 == 4 {
            // Not one byte is free.
            leave(&stick, 0);
            let packed_bytes = total_bytes(&repo.join("packs"));
            let pruned = Store::open_at(&repo).prune(MaxUnused::Unlimited);
            assert_eq!(pruned.freed_bytes(), packed_bytes - total_bytes(&repo.join("packs")));
            assert!(free_on(&stick) >= pruned.freed_bytes(), "{pruned:?}");
            run(&repo, ["check", "--read-data"]).expect(0);
        }
    }
    assert!((5..30).contains(&stopped), "{stopped}");
    restore();
    assert_same(&source, &target);
    run(&repo, ["check", "--read-data"]).expect(0);
    drop(mounted);
}

#[test]
fn the_reserve_stays_free_and_what_it_was_kept_for_works() {
    if !node::privileged() {
        return;
    }
    let (_place, path) = place();
    let [source, stick] = ["source", "stick"].map(|name| path.join(name));
    let mounted = Mounted::tmpfs(&stick, 60 << 20);
    let repo = stick.join("repository");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("known"), "known").unwrap();
    run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
    for n in 0..30 {
        fs::write(source.join(format!("new {n}")), Random::new("reserve", n).bytes(2 << 20)).unwrap();
    }
    // The usual reserve of a medium of 60 MiB is the hundredth part of it.
    for (words, reserve_bytes) in
        [(&["--reserve", "45M"][..], 45 << 20), (&["--reserve", "30M"], 30 << 20), (&[], 600 << 10)]
    {
        let words = [&["backup"], words, &[source.to_str().unwrap()]].concat();
        let ran = run(&repo, words).expect(13);
        assert!(ran.complaint().contains("so that deleting always works"), "{}", ran.complaint());
        let free_bytes = free_on(&stick);
        assert!(free_bytes > reserve_bytes - (200 << 10), "{free_bytes} of {reserve_bytes} bytes are left");
        assert_eq!(unfinished(&repo), 0);
        assert_eq!(run(&repo, ["list", "--json"]).expect(0).json().len(), 1);
        run(&repo, ["check", "--read-data"]).expect(0);
        assert!(!fs::exists(repo.join("index.sqlite-journal")).unwrap());
    }
    let pruned = Store::open_at(&repo).prune(MaxUnused::Bytes(0));
    assert!(pruned.freed_bytes() > 40 << 20 && free_on(&stick) > 50 << 20, "{pruned:?}");
    run(&repo, ["check", "--read-data"]).expect(0);
    mounted.remount(&format!("size={}", 200 << 20));
    run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
    run(&repo, ["check", "--read-data"]).expect(0);
}

#[test]
fn the_usual_reserve_is_small_against_any_medium() {
    assert_eq!(Reserve::Usual.of(8 << 30), 32 << 20);
    assert_eq!(Reserve::Usual.of(1 << 40), 32 << 20);
    assert_eq!(Reserve::Usual.of(100 << 20), 1 << 20);
    assert_eq!(Reserve::Bytes(7).of(1 << 40), 7);
}
