//! The stick stands alone: what a repository carries beside its objects, and the script that starts it from any shell.

use crate::support::{
    program::{Ran, finish, installed, on, run},
    scene::Scene,
    store::place,
};
use sha2::{Digest, Sha256};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};
use xsnap::storage::aboard::{Program, Version, carried, damaged, put};

/// A program that says that it is for a machine and of a version, and is as static as one can be.
fn made_up(number: u8, version: &str, more: &str) -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    file.extend([2, 0, number, 0, 1, 0, 0, 0]);
    for address in [0x40_0000_u64, 64, 0] {
        file.extend(address.to_le_bytes());
    }
    file.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0]);
    file.resize(64, 0);
    file.push(1);
    file.resize(120, 0);
    file.extend(format!("[xsnap version ?] [xsnap version {version}] {more}").into_bytes());
    file
}

fn program(number: u8, version: &str, more: &str) -> Program {
    Program::new(made_up(number, version, more)).unwrap()
}

const X86_64: u8 = 62;
const AARCH64: u8 = 183;

/// What is carried, as machine and version.
fn aboard(root: &Path) -> Vec<(String, String)> {
    carried(root).unwrap().into_iter().map(|c| (c.machine, c.version.to_string())).collect()
}

fn programs(root: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(root.join("xsnap-alone")).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = files.filter(|p| p.file_name().unwrap() != "MANUAL.txt").collect();
    files.sort();
    files
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn newer_programs_take_the_place_of_older_ones_and_never_the_other_way_round() {
    let (_place, root) = place();
    let first = put(&root, &[program(X86_64, "0.2.0", "")], "a manual").unwrap();
    assert_eq!(first.len(), 4, "{first:?}");
    assert_eq!(aboard(&root), [("x86_64".to_owned(), "0.2.0".to_owned())]);
    let again = |version, insisted: bool| {
        let program = program(X86_64, version, "");
        put(&root, &[if insisted { program.insisted() } else { program }], "a manual").unwrap()
    };
    assert_eq!(again("0.2.0", false), Vec::<String>::new());
    assert_eq!(again("0.1.9", false), Vec::<String>::new());
    assert_eq!(again("0.10.0", false).len(), 2, "the program and the script");
    assert_eq!(aboard(&root), [("x86_64".to_owned(), "0.10.0".to_owned())]);
    put(&root, &[program(AARCH64, "0.3.0", "")], "a manual").unwrap();
    assert_eq!(aboard(&root).len(), 2);
    assert!(text(&root.join("xsnap.sh")).contains("machines='aarch64 x86_64'"));
    // Who names a file means it.
    again("0.3.0", true);
    assert_eq!(aboard(&root)[1].1, "0.3.0");
    assert_eq!(programs(&root).len(), 2);
    assert_eq!(put(&root, &[], "another manual").unwrap(), ["MANUAL.txt"]);
}

#[test]
fn texts_of_a_later_version_stay_and_nobody_elses_are_touched() {
    let (_place, root) = place();
    put(&root, &[program(X86_64, "0.2.0", "")], "a manual").unwrap();
    let script = root.join("xsnap.sh");
    let own = format!("# xsnap {}:", Version::own());
    let later = text(&script).replace(&own, "# xsnap 99.0.0:");
    fs::write(&script, later).unwrap();
    fs::write(root.join("README.txt"), "xsnap 99.0.0 wrote this file. Later.").unwrap();
    put(&root, &[program(X86_64, "0.3.0", "")], "an older manual").unwrap();
    assert!(text(&script).contains("xsnap-x86_64-0.3.0-") && text(&script).contains("# xsnap 99.0.0:"));
    assert!(text(&root.join("README.txt")).ends_with("Later."));
    assert_eq!(text(&root.join("xsnap-alone/MANUAL.txt")), "a manual");
    let (_place, other) = place();
    fs::write(other.join("README.txt"), "xsnap is what this stick is for").unwrap();
    fs::write(other.join("xsnap.sh"), "#!/bin/sh\necho mine\n").unwrap();
    put(&other, &[program(X86_64, "0.2.0", "")], "a manual").unwrap();
    assert_eq!(text(&other.join("README.txt")), "xsnap is what this stick is for");
    assert_eq!(text(&other.join("xsnap.sh")), "#!/bin/sh\necho mine\n");
}

#[test]
fn a_damaged_program_is_told_and_written_anew() {
    let (_place, root) = place();
    let whole = program(X86_64, "0.2.0", "whole");
    put(&root, std::slice::from_ref(&whole), "").unwrap();
    assert_eq!(damaged(&root).unwrap(), Vec::<String>::new());
    let file = &programs(&root)[0];
    let sum = Sha256::digest(fs::read(file).unwrap()).iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert!(sum.starts_with(file.to_str().unwrap().rsplit('-').next().unwrap()), "{sum}");
    fs::write(file, made_up(X86_64, "0.2.0", "w_ole")).unwrap();
    assert_eq!(damaged(&root).unwrap().len(), 1);
    put(&root, &[whole], "").unwrap();
    assert_eq!(damaged(&root).unwrap(), Vec::<String>::new());
    // What an interrupted writer has left goes, and links lead nowhere.
    fs::write(root.join("xsnap-alone/tmp-00"), "x").unwrap();
    let name = file.file_name().unwrap();
    fs::remove_file(file).unwrap();
    fs::write(root.join("elsewhere"), "precious").unwrap();
    std::os::unix::fs::symlink(root.join("elsewhere"), file).unwrap();
    put(&root, &[program(X86_64, "0.2.0", "whole")], "").unwrap();
    assert_eq!(text(&root.join("elsewhere")), "precious");
    assert_eq!(programs(&root), [root.join("xsnap-alone").join(name)]);
}

#[test]
fn what_cannot_be_carried_is_refused_before_anything_is_made() {
    let scene = Scene::new();
    let file = scene.path.join("program");
    for (bytes, why) in [
        (b"#!/bin/sh\n".to_vec(), "no Linux program"),
        (fs::read("/bin/sh").unwrap(), "needs libraries"),
        (made_up(X86_64, "none", ""), "it is no xsnap"),
    ] {
        fs::write(&file, bytes).unwrap();
        for command in ["init", "backup"] {
            let words = [command, "--self", file.to_str().unwrap()];
            let words = words.into_iter().chain((command == "backup").then(|| scene.source.to_str().unwrap()));
            let said = run(&scene.repo, words).expect(2).complaint();
            assert!(said.contains(why) && !scene.repo.exists(), "{said}");
        }
    }
}

/// A repository in `scene.repo` that carries these programs.
fn carrying(scene: &Scene, program: &[u8]) {
    let file = scene.path.join("program");
    fs::write(&file, program).unwrap();
    run(&scene.repo, ["init", "--self", file.to_str().unwrap()]).expect(0);
}

#[test]
fn nothing_that_a_repository_carries_is_taken_for_a_part_of_it() {
    let scene = Scene::new();
    carrying(&scene, &made_up(X86_64, "0.2.0", ""));
    for name in ["xsnap.sh", "README.txt", "xsnap-alone/MANUAL.txt"] {
        assert!(scene.repo.join(name).is_file(), "{name}");
    }
    let manual = text(&scene.repo.join("xsnap-alone/MANUAL.txt"));
    for word in ["xsnap key add\n", "--keep-daily", "Exit codes:"] {
        assert!(manual.contains(word), "{word}");
    }
    scene.backup(&[]).expect(0);
    scene.restored(&["--verify"]).expect(0);
    run(&scene.repo, ["check", "--read-data"]).expect(0);
    run(&scene.repo, ["forget", "--keep-last", "1"]).expect(0);
    run(&scene.repo, ["prune"]).expect(0);
    assert_eq!(aboard(&scene.repo).len(), 1);
    // A damaged one is told by a check, and by nothing else.
    let file = &programs(&scene.repo)[0];
    fs::write(file, "torn").unwrap();
    let said = run(&scene.repo, ["check"]).expect(1).text();
    assert!(
        said.contains("a program that the repository carries, is damaged") && said.contains("no damage found"),
        "{said}"
    );
    run(&scene.repo, ["list"]).expect(0);
    let named = scene.path.join("program");
    scene.backup(&["--self", named.to_str().unwrap()]).expect(0);
    run(&scene.repo, ["check"]).expect(0);
    // What an interrupted init has left is no foreign folder.
    let (_place, half) = place();
    put(&half, &[program(X86_64, "0.2.0", "")], "").unwrap();
    run(&half, ["init", "--no-self"]).expect(0);
    let (_place, foreign) = place();
    fs::write(foreign.join("README.txt"), "pictures of 2019").unwrap();
    run(&foreign, ["init"]).expect(2);
    fs::remove_file(foreign.join("README.txt")).unwrap();
    run(&foreign, ["init", "--self", named.to_str().unwrap(), "--no-self"]).expect(2);
    run(&foreign, ["init", "--no-self"]).expect(0);
    assert!(!foreign.join("xsnap.sh").exists());
}

#[test]
fn a_stick_without_room_for_a_program_takes_the_snapshot_all_the_same() {
    if !crate::support::node::privileged() {
        return;
    }
    let scene = Scene::new();
    let _stick = crate::support::mounted::Mounted::tmpfs(&scene.repo, 8 << 20);
    run(&scene.repo, ["init", "--no-self"]).expect(0);
    let big = scene.path.join("program");
    fs::write(&big, made_up(X86_64, "0.2.0", &"x".repeat(16 << 20))).unwrap();
    let ran = scene.backup(&["--self", big.to_str().unwrap(), "--reserve", "0"]).expect(0);
    assert!(ran.complaint().contains("which costs nothing else"), "{}", ran.complaint());
    assert_eq!(run(&scene.repo, ["list", "--json"]).expect(0).json().len(), 1);
    assert_eq!(fs::read_dir(scene.repo.join("xsnap-alone")).unwrap().count(), 0, "no half of it stays");
    run(&scene.repo, ["check", "--read-data"]).expect(0);
}

/// The shells that rescue systems have.
fn shells() -> Vec<Vec<&'static str>> {
    let mut shells = vec![vec!["sh"], vec!["bash", "--posix"]];
    if installed("busybox", "busybox-static") {
        shells.push(vec!["busybox", "sh"]);
    }
    shells
}

/// A repository that carries a script in place of a program: it says how it was called, and ends with 7.
pub fn with_stand_in(root: &Path) -> PathBuf {
    let machine = rustix::system::uname().machine().to_str().unwrap().to_owned();
    let script =
        "#!/bin/sh\n[ \"$1\" = --version ] && exit 0\nprintf '%s\\n' \"$XSNAP_REPO\" \"$0\" \"$@\"\numask\nexit 7\n";
    let sum = Sha256::digest(script).iter().map(|b| format!("{b:02x}")).collect::<String>();
    let folder = root.join("xsnap-alone");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(format!("xsnap-{machine}-0.2.0-{}", &sum[..32]));
    fs::write(&program, script).unwrap();
    // On a stick nothing is executable.
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    put(root, &[], "").unwrap();
    program
}

fn start(shell: &[&str], script: &str, folder: &Path, temporary: &Path, words: &[&str]) -> Ran {
    let mut command = Command::new(shell[0]);
    command
        .args(&shell[1..])
        .arg(script)
        .args(words)
        .current_dir(folder)
        .env("TMPDIR", temporary)
        .env("XSNAP_REPO", "/else");
    finish(&mut command)
}

#[test]
fn the_script_starts_the_program_that_fits_from_every_shell() {
    for shell in shells() {
        let (_place, path) = place();
        let [root, temporary] = ["my stick's $HOME", "for programs"].map(|name| path.join(name));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&temporary).unwrap();
        with_stand_in(&root);
        let full = root.join("xsnap.sh");
        let words = ["restore", "latest:/a b", "--target", "*", ""];
        for (script, folder) in [(full.to_str().unwrap(), path.as_path()), ("xsnap.sh", &root), ("./xsnap.sh", &root)] {
            let ran = start(&shell, script, folder, &temporary, &words).expect(7);
            let text = ran.text();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines[0], root.to_str().unwrap(), "{shell:?}");
            assert!(lines[1].starts_with(temporary.to_str().unwrap()), "{lines:?}");
            assert_eq!(lines[2..7], words, "{shell:?}");
            assert_eq!(lines[7].trim_start_matches('0'), "22", "the mask is the caller's");
            assert_eq!(ran.complaint(), "", "{shell:?}");
            assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "nothing is left behind");
        }
    }
}

#[test]
fn the_script_starts_nothing_that_is_damaged_or_of_another_machine() {
    for shell in shells() {
        let (_place, root) = place();
        let temporary = root.join("temporary");
        fs::create_dir(&temporary).unwrap();
        let program = with_stand_in(&root);
        let script = root.join("xsnap.sh");
        let started = || start(&shell, script.to_str().unwrap(), &root, &temporary, &["list"]);
        let whole = fs::read(&program).unwrap();
        fs::write(&program, [&whole[..], b"#"].concat()).unwrap();
        let ran = started().expect(1);
        assert!(
            ran.complaint().contains("is damaged, and is not started") && ran.out.is_empty(),
            "{}",
            ran.complaint()
        );
        fs::remove_file(&program).unwrap();
        assert!(started().expect(1).complaint().contains("cannot be read"));
        fs::write(&program, &whole).unwrap();
        let machine = rustix::system::uname().machine().to_str().unwrap().to_owned();
        fs::write(&script, text(&script).replace(&machine, "pdp11")).unwrap();
        let said = started().expect(1).complaint();
        assert!(said.contains("carries no xsnap for") && said.contains("only for: pdp11"), "{said}");
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
    }
}

/// As sticks and /tmp often are mounted.
#[test]
fn the_script_finds_a_folder_that_may_execute() {
    if !crate::support::node::privileged() {
        return;
    }
    let (_place, root) = place();
    let temporary = root.join("temporary");
    let mounted = crate::support::mounted::Mounted::tmpfs(&temporary, 1 << 20);
    mounted.remount("noexec");
    with_stand_in(&root);
    let script = root.join("xsnap.sh");
    let ran = start(&["sh"], script.to_str().unwrap(), &root, &temporary, &["list"]).expect(7);
    assert!(!ran.text().contains(temporary.to_str().unwrap()), "{}", ran.text());
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
}

/// A rescue shell that has nothing but what busybox is.
#[test]
fn the_script_needs_nothing_but_busybox() {
    if !installed("busybox", "busybox-static") {
        return;
    }
    let (_place, path) = place();
    let [bin, root, temporary] = ["bin", "stick", "temporary"].map(|name| path.join(name));
    [&bin, &root, &temporary].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    with_stand_in(&root);
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    fs::copy(busybox, bin.join("busybox")).unwrap();
    let mut command = Command::new(bin.join("busybox"));
    command.args(["sh", root.join("xsnap.sh").to_str().unwrap(), "list"]).env_clear();
    command.env("PATH", &bin).env("TMPDIR", &temporary);
    let ran = finish(&mut command).expect(7);
    assert_eq!(ran.complaint(), "", "it is verified");
    assert!(ran.text().contains("\nlist\n"), "{}", ran.text());
}

#[test]
fn a_copy_carries_what_it_is_told_to() {
    let scene = Scene::backed_up();
    let (file, to) = (scene.path.join("program"), scene.path.join("second"));
    fs::write(&file, made_up(X86_64, "0.2.0", "")).unwrap();
    let words = ["copy", "--to", to.to_str().unwrap(), "--self", file.to_str().unwrap()];
    finish(&mut on(&scene.repo, words)).expect(0);
    assert_eq!(aboard(&to).len(), 1);
    assert_eq!(aboard(&scene.repo).len(), 0);
}
