//! What a restore and a backup must leave alone, and what they must not take for something else.

use crate::support::{
    mounted::Mounted,
    node,
    program::{on, run, start},
    scene::Scene,
};
use std::{
    fs,
    io::Write,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::Path,
};

#[test]
fn removing_spares_what_the_backup_left_out() {
    let scene = Scene::new();
    fs::write(scene.source.join("sub/kept.log"), "left out by a pattern").unwrap();
    scene.backup(&["--exclude", "*.log"]).expect(0);
    fs::write(scene.source.join("extra"), "not in the snapshot").unwrap();
    scene.put_back(&["--delete"]).expect(0);
    assert!(scene.source.join("sub/kept.log").exists());
    assert!(!scene.source.join("extra").exists());
}

#[test]
fn removing_spares_mounted_file_systems_whether_they_were_there_before_or_not() {
    if !node::privileged() {
        return;
    }
    let scene = Scene::new();
    let (before, after) = (scene.source.join("before"), scene.source.join("after"));
    fs::create_dir(&before).unwrap();
    let _before = Mounted::tmpfs(&before, 1 << 20);
    fs::write(before.join("file"), "on another file system").unwrap();
    scene.backup(&["--one-file-system"]).expect(0);
    fs::create_dir(&after).unwrap();
    let _after = Mounted::tmpfs(&after, 1 << 20);
    fs::write(after.join("file"), "on yet another one").unwrap();
    run(&scene.repo, ["restore", "latest", "--target", "/", "--delete"]);
    assert!(before.join("file").exists() && after.join("file").exists());
}

#[test]
fn removing_spares_the_repository_wherever_it_is() {
    let mut scene = Scene::new();
    scene.backup(&[]).expect(0);
    let moved = scene.source.join("repository");
    fs::rename(&scene.repo, &moved).unwrap();
    scene.repo = moved;
    scene.put_back(&["--delete"]).expect(0);
    run(&scene.repo, ["check", "--read-data"]).expect(0);
    scene.backup(&[]).expect(0);
    scene.put_back(&["--delete"]).expect(0);
    run(&scene.repo, ["check", "--read-data"]).expect(0);
}

#[test]
fn a_part_that_is_put_back_changes_nothing_else() {
    let scene = Scene::new();
    fs::create_dir(scene.source.join("moved")).unwrap();
    scene.backup(&[]).expect(0);
    fs::remove_dir(scene.source.join("moved")).unwrap();
    symlink("/nowhere", scene.source.join("moved")).unwrap();
    let file = scene.source.join("sub/other");
    fs::write(&file, "changed").unwrap();
    run(&scene.repo, ["restore", &format!("latest:{}", file.display()), "--target", "/"]).expect(0);
    assert_eq!(fs::read(&file).unwrap(), b"another file");
    assert_eq!(fs::read_link(scene.source.join("moved")).unwrap(), Path::new("/nowhere"));
}

#[test]
fn what_is_the_same_already_is_not_touched() {
    let scene = Scene::new();
    let program = scene.source.join("program");
    fs::write(&program, "runs as somebody else").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).unwrap();
    scene.backup(&[]).expect(0);
    let before = fs::metadata(&program).unwrap();
    scene.put_back(&["--verify"]).expect(0);
    let after = fs::metadata(&program).unwrap();
    assert_eq!((before.ctime(), before.ctime_nsec()), (after.ctime(), after.ctime_nsec()));
}

#[test]
fn a_stream_whose_producer_was_stopped_is_no_snapshot() {
    let scene = Scene::new();
    scene.backup(&[]).expect(0);
    let mut child = start(on(&scene.repo, ["backup", "--stdin", "dump"]).stdin(std::process::Stdio::piped()));
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(&[7; 3 << 20]).unwrap();
    // Long enough for the program to have its handler, and to have read what there is.
    std::thread::sleep(std::time::Duration::from_millis(500));
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(200));
    drop(pipe);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(run(&scene.repo, ["list", "--json"]).expect(0).json().len(), 1);
}

#[test]
fn a_repository_behind_a_link_keeps_its_catalogue() {
    let mut scene = Scene::new();
    let link = scene.path.join("link");
    fs::create_dir(scene.path.join("behind")).unwrap();
    symlink(scene.path.join("behind"), &link).unwrap();
    scene.repo = link.join("repository");
    scene.backup(&[]).expect(0);
    let catalogue = fs::metadata(scene.path.join("behind/repository/index.sqlite")).unwrap();
    assert!(catalogue.len() > 0);
}

#[test]
fn a_plain_config_among_keys_is_refused() {
    let scene = Scene::new();
    let sealed = scene.path.join("sealed");
    let password = scene.path.join("password");
    fs::write(&password, "a password\n").unwrap();
    let words = ["init", "--encrypt", "--password-file", password.to_str().unwrap()];
    run(&sealed, words).expect(0);
    run(&scene.repo, ["init"]).expect(0);
    for folder in ["config", "mirror"] {
        let plain = scene.repo.join(folder).join("config-000001");
        fs::copy(plain, sealed.join(folder).join("config-000001")).unwrap();
    }
    run(&sealed, ["backup", scene.source.to_str().unwrap()]).expect(1);
    assert_eq!(fs::read_dir(sealed.join("packs")).unwrap().count(), 0);
}

#[test]
fn a_backup_that_meets_damage_stores_what_is_lost_at_once() {
    let scene = Scene::quiet();
    scene.backup(&[]).expect(0);
    let catalogue = rusqlite::Connection::open(scene.repo.join("index.sqlite")).unwrap();
    let query = "SELECT name, length_bytes FROM pack WHERE kind = 'tree'";
    let (name, length): (String, i64) = catalogue.query_row(query, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    drop(catalogue);
    let pack = scene.repo.join("packs").join(name);
    let mut bytes = fs::read(&pack).unwrap();
    assert_eq!(bytes.len(), usize::try_from(length).unwrap());
    // In the data of the one frame of trees, behind the pack's header and the frame's own.
    bytes[64 + 16 + 200] ^= 1;
    fs::write(&pack, bytes).unwrap();
    scene.backup(&[]).expect(0);
    let checked = run(&scene.repo, ["check", "--read-data", "--json"]).expect(1);
    assert_eq!(checked.message("check")["touched"], 0, "both snapshots are whole again");
    fs::remove_dir_all(scene.source.join("sub")).unwrap();
    scene.put_back(&["--verify"]).expect(0);
    assert!(scene.source.join("sub/other").exists());
}
