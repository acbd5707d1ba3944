//! Mounts of this machine: what is there, below a disk too, and a server that never answers.

use crate::support::{mounted::Mounted, node::privileged};
use std::time::{Duration, Instant};
use xsnap::mn::{host::OwnPrograms, inside::Inside, machine::Machine, mounts, mounts::Mounts};

const SHORT: Duration = Duration::from_millis(200);
/// Far more than what does answer ever needs, so that a busy machine fails no test.
const LONG: Duration = Duration::from_secs(60);

#[test]
fn this_machine_has_a_root_and_it_answers() {
    let machine = Machine::this(&OwnPrograms).unwrap();
    let mounts = Mounts::of(&machine);
    assert!(mounts.problems.is_empty(), "{:?}", mounts.problems);
    assert_eq!(mounts.holding(b"/proc/self").unwrap().kind, "proc");
    assert!(mounts.holding(b"/etc").is_some());
    assert!(mounts::answers("/".as_ref(), LONG));
}

#[test]
fn mounts_below_a_disk_are_seen_from_its_own_root() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::create_dir_all(disk.join("etc")).unwrap();
    let line = "/dev/sdq1 /install xfs defaults 0 0\n/dev/sdq2 /lacking xfs defaults 0 0\n";
    std::fs::write(disk.join("etc/fstab"), line).unwrap();
    let _install = Mounted::tmpfs(&disk.join("install"), 1 << 20);
    std::os::unix::fs::symlink("disk", dir.path().join("way")).unwrap();
    // The kernel names mounts by their real places, whichever way led there.
    let machine = Machine::mounted(&dir.path().join("way"), &OwnPrograms).unwrap();
    let mounts = Mounts::of(&machine);
    let places: Vec<_> = mounts.mounted.iter().map(|m| m.at.as_slice()).collect();
    assert_eq!(places, [&b"/"[..], b"/install"]);
    assert!(mounts.holding(b"/install/x").unwrap().is_memory());
    let lacking: Vec<_> = mounts.not_mounted(&machine.inside).map(|m| m.at).collect();
    assert_eq!(lacking, [b"/lacking".to_vec()]);
}

#[test]
fn a_server_that_never_answers_costs_its_limit_and_no_more() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mute, fine) = (dir.path().join("mute"), dir.path().join("fine"));
    let _mute = Mounted::never_answering(&mute);
    let _fine = Mounted::tmpfs(&fine, 1 << 20);
    std::os::unix::fs::symlink("/mute/deep", dir.path().join("install")).unwrap();

    let began = Instant::now();
    assert!(!mounts::answers(&mute, SHORT));
    assert!(!mounts::answers(&mute.join("deep"), SHORT));
    assert!(mounts::answers(&fine, LONG));

    let mut machine = Machine::mounted(dir.path(), &OwnPrograms).unwrap();
    let found = Mounts::of(&machine);
    let silent: Vec<_> = found.silent(&machine.inside, SHORT).iter().map(|m| m.at.clone()).collect();
    assert_eq!(silent, [b"/mute".to_vec()]);
    silent.iter().for_each(|at| machine.inside.shun(at));
    // Whichever way leads there, nobody waits any more.
    let told = machine.inside.stat(b"/install").unwrap_err();
    assert_eq!(told.kind(), std::io::ErrorKind::TimedOut);
    assert!(machine.inside.is_folder(b"/fine"));
    assert!(began.elapsed() < LONG, "{:?}", began.elapsed());
}

#[test]
fn a_server_that_is_gone_does_not_answer() {
    if !privileged() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone");
    let mut mute = Mounted::never_answering(&path);
    mute.hang_up();
    let began = Instant::now();
    assert!(!mounts::answers(&path, LONG));
    assert!(began.elapsed() < LONG, "it says so at once");
    assert!(Inside::open(dir.path()).unwrap().stat(b"/gone").is_err());
}
