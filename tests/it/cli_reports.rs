//! What the program shows: lists and their filters, JSON, archives, and no name that speaks to a terminal.

use crate::support::{
    node,
    odd::odd_tree,
    program::{Ran, finish, installed, on, run},
    same::{Options, differences_with},
    store::{Store, place},
};
use rustix::fs::CWD;
use std::{
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A repository with snapshots of two hosts, several tags, sources and times.
struct Scene {
    _place: tempfile::TempDir,
    path: PathBuf,
    repo: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (_place, path) = place();
        let repo = path.join("repository");
        for source in ["etc", "home"] {
            fs::create_dir(path.join(source)).unwrap();
            fs::write(path.join(source).join("file"), source).unwrap();
        }
        let scene = Self { _place, path, repo };
        scene.backup("etc", &["--host", "mn1", "--tag", "daily,a", "--time", "2026-01-01T10:00:00Z"]);
        scene.backup("etc", &["--host", "mn1", "--tag", "daily", "--time", "2026-01-02T10:00:00Z"]);
        scene.backup(
            "home",
            &["--host", "mn1", "--tag", "weekly", "--label", "before it", "--time", "2026-01-03T10:00:00Z"],
        );
        scene.backup("etc", &["--host", "mn2", "--tag", "daily", "--tag", "b", "--time", "2026-01-04 10:00"]);
        scene
    }

    fn backup(&self, source: &str, words: &[&str]) {
        let source = self.path.join(source);
        run(&self.repo, ["backup"].iter().chain(words).copied().chain([source.to_str().unwrap()])).expect(0);
    }

    /// The numbers of the snapshots that are listed with these words, by their commits.
    fn listed(&self, words: &[&str]) -> Vec<u64> {
        let ran = run(&self.repo, ["list", "--json"].iter().chain(words)).expect(0);
        ran.json().iter().map(|snapshot| snapshot["commit"].as_u64().unwrap()).collect()
    }

    /// The text of the file that `latest` with these words has.
    fn latest(&self, file: &str, words: &[&str]) -> Ran {
        let what = format!("latest:{}", self.path.join(file).display());
        run(&self.repo, ["cat", &what].iter().chain(words))
    }
}

#[test]
fn lists_are_filtered_by_host_tag_and_path() {
    let scene = Scene::new();
    assert_eq!(scene.listed(&[]), [1, 2, 3, 4]);
    assert_eq!(scene.listed(&["--host", "mn1"]), [1, 2, 3]);
    assert_eq!(scene.listed(&["--tag", "daily"]), [1, 2, 4]);
    assert_eq!(scene.listed(&["--tag", "daily,b"]), [4]);
    assert_eq!(scene.listed(&["--tag", "daily", "--host", "mn1"]), [1, 2]);
    assert_eq!(scene.listed(&["--path", scene.path.join("home").to_str().unwrap()]), [3]);
    assert_eq!(scene.listed(&["--path", scene.path.join("home/file").to_str().unwrap()]), [3]);
    assert_eq!(scene.listed(&["--path", "/"]), [1, 2, 3, 4]);
    assert_eq!(scene.listed(&["--path", "/nowhere"]), [0; 0]);
    assert_eq!(scene.listed(&["--latest", "1"]), [2, 3, 4], "one of each host and set of paths");
    assert_eq!(scene.listed(&["--latest", "1", "--tag", "a"]), [1]);
    let text = run(&scene.repo, ["snapshots"]).expect(0).text();
    assert_eq!(text, run(&scene.repo, ["list"]).expect(0).text(), "an alias");
    for shown in ["mn2", "daily,b", "before it", "2026-01-0", "4 snapshots", scene.path.join("home").to_str().unwrap()]
    {
        assert!(text.contains(shown), "{shown} in {text}");
    }
}

#[test]
fn latest_means_the_last_made_of_what_was_asked_for_and_warns_of_a_wrong_clock() {
    let scene = Scene::new();
    fs::write(scene.path.join("etc/file"), "newer").unwrap();
    scene.backup("etc", &["--host", "mn1", "--tag", "daily"]);
    assert_eq!(scene.latest("etc/file", &[]).expect(0).out, b"newer");
    assert_eq!(scene.latest("etc/file", &["--host", "mn2"]).expect(0).out, b"etc");
    assert_eq!(scene.latest("etc/file", &["--tag", "a"]).expect(0).out, b"etc");
    let home = scene.path.join("home");
    assert_eq!(scene.latest("home/file", &["--path", home.to_str().unwrap()]).expect(0).out, b"home");
    scene.latest("home/file", &[]).expect(2);
    scene.latest("etc/file", &["--host", "mn3"]).expect(2);
    assert!(scene.latest("etc/file", &[]).err.is_empty(), "no clock was wrong yet");
    fs::write(scene.path.join("etc/file"), "made last").unwrap();
    scene.backup("etc", &["--host", "mn1", "--time", "2001-01-01T00:00:00Z"]);
    let ran = scene.latest("etc/file", &[]).expect(0);
    assert_eq!(ran.out, b"made last");
    assert!(ran.complaint().contains("clock"), "{}", ran.complaint());
    let listed = run(&scene.repo, ["list", "--json"]).expect(0).json();
    let [short, whole] = ["short_id", "id"].map(|key| listed[2][key].as_str().unwrap().to_owned());
    for id in [&short, &whole, &whole.to_uppercase()] {
        assert_eq!(run(&scene.repo, ["cat", &format!("{id}:{}", home.join("file").display())]).expect(0).out, b"home");
    }
}

#[test]
fn every_report_is_valid_json_where_json_is_wanted() {
    let (_place, path) = place();
    let [source, repo] = ["source", "repository"].map(|name| path.join(name));
    fs::create_dir(&source).unwrap();
    fs::write(source.join(std::ffi::OsStr::from_bytes(b"odd \xff\n\x1b\"name")), "x").unwrap();
    std::os::unix::fs::symlink("target", source.join("link")).unwrap();
    let latest = format!("latest:{}", source.display());
    let target = path.join("restored");
    let target = target.to_str().unwrap();
    let kinds = |words: &[&str], code: i32| -> Vec<String> {
        let ran = run(&repo, words.iter().chain(&["--json"])).expect(code);
        assert!(ran.err.is_empty(), "{words:?}: {}", ran.complaint());
        ran.json().iter().map(|object| object["message"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(kinds(&["list"], 10), ["error"]);
    // What the file system cannot promise is said here, if there is anything: the tests may run in memory.
    assert_eq!(kinds(&["init"], 0).iter().filter(|kind| *kind != "note").collect::<Vec<_>>(), ["init"]);
    assert_eq!(kinds(&["list"], 0), [""; 0]);
    assert_eq!(kinds(&["backup", source.to_str().unwrap()], 0), ["backup"]);
    assert_eq!(kinds(&["backup", source.to_str().unwrap(), "/no/such/path"], 3), ["problem", "note", "backup"]);
    assert_eq!(kinds(&["list"], 0), ["snapshot"; 2]);
    assert_eq!(kinds(&["ls", &latest], 0), ["entry"; 3]);
    // The snapshot is incomplete, which whoever restores it is told.
    assert_eq!(kinds(&["restore", &latest, "--target", target], 0), ["note", "restore"]);
    let words = ["restore", &latest, "--target", target, "--verify", "--dry-run"];
    assert_eq!(kinds(&words, 0), ["note", "restore"]);
    assert_eq!(kinds(&["check"], 0), ["check"]);
    assert_eq!(kinds(&["check", "--read-data"], 0), ["check"]);
    assert_eq!(kinds(&["restore", "unknown"], 2), ["error"]);
    let entries = run(&repo, ["ls", &latest, "--json"]).expect(0).json();
    let odd = entries.iter().find(|entry| entry["path"]["hex"].is_string()).expect("bytes that are no text, exactly");
    assert!(odd["path"]["hex"].as_str().unwrap().ends_with("6f646420ff0a1b226e616d65"), "{odd}");
}

#[test]
fn no_name_reaches_a_terminal_raw() {
    let (_place, path) = place();
    let evil = |name: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(name));
    let source = path.join(evil(b"evil \x1b[31m \xc2\x9b31m \xe2\x80\xae\x07"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join(evil(b"\x1b]0;title\x07\n\x08file")), "x").unwrap();
    std::os::unix::fs::symlink(evil(b"\x1b[2Jtarget"), source.join("link")).unwrap();
    let repo = path.join(evil(b"repository \x1b[1m"));
    let tag = "tag \u{1b}[7m";
    let mut latest = b"latest:".to_vec();
    latest.extend_from_slice(source.as_os_str().as_bytes());
    let latest = evil(&latest);
    let target = path.join(evil(b"target \x1b[5m"));
    let missing = source.join(evil(b"missing \x1b[31m"));
    let words: [&[&std::ffi::OsStr]; 10] = [
        &[
            "backup".as_ref(),
            "--tag".as_ref(),
            tag.as_ref(),
            "--label".as_ref(),
            "\u{1b}[3m".as_ref(),
            "--host".as_ref(),
            "h\u{1b}[9m".as_ref(),
            source.as_ref(),
        ],
        &["backup".as_ref(), source.as_ref(), missing.as_ref()],
        &["list".as_ref()],
        &["ls".as_ref(), latest.as_ref()],
        &["ls".as_ref(), "-l".as_ref(), latest.as_ref()],
        &["restore".as_ref(), latest.as_ref(), "--target".as_ref(), target.as_ref()],
        &["cat".as_ref(), latest.as_ref()],
        &["check".as_ref()],
        &["cat".as_ref(), missing.as_ref()],
        &["init".as_ref()],
    ];
    for words in words {
        for json in [false, true] {
            let mut command = on(&repo, words);
            let ran = finish(if json { command.arg("--json") } else { &mut command });
            for (stream, bytes) in [("stdout", &ran.out), ("stderr", &ran.err)] {
                let text = std::str::from_utf8(bytes).unwrap();
                let bad: Vec<char> = text.chars().filter(|c| c.is_control() && *c != '\n').collect();
                assert!(
                    bad.is_empty() || (json && !bad.contains(&'\u{1b}')),
                    "{words:?}: {bad:?} on {stream}: {text:?}"
                );
                assert!(!text.contains('\u{202e}') || json, "{words:?}: {text:?}");
            }
        }
    }
}

#[test]
fn quiet_runs_say_nothing() {
    let scene = Scene::new();
    let [source, target] = ["etc", "target"].map(|name| scene.path.join(name).to_str().unwrap().to_owned());
    let new = scene.path.join("new repository");
    for (repo, words) in [
        (&new, &["init"][..]),
        (&scene.repo, &["backup", &source]),
        (&scene.repo, &["restore", "latest", "--target", &target]),
        (&scene.repo, &["restore", "latest", "--target", &target, "--verify"]),
        (&scene.repo, &["check", "--read-data"]),
    ] {
        let ran = run(repo, words.iter().chain(&["--quiet"])).expect(0);
        assert_eq!((ran.text(), ran.complaint()), (String::new(), String::new()), "{words:?}");
    }
    let ran = run(&scene.repo, ["-q", "backup", &source, "/no/such/path"]).expect(3);
    assert!(
        ran.out.is_empty() && ran.complaint().contains("cannot look at /no"),
        "errors are told: {}",
        ran.complaint()
    );
}

#[test]
fn a_long_list_shows_mode_owner_size_and_target() {
    let (_place, path) = place();
    let [source, repo] = ["source", "repository"].map(|name| path.join(name));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "12345").unwrap();
    std::os::unix::fs::symlink("some target", source.join("link")).unwrap();
    node::set_mode(CWD, source.join("file").as_os_str().as_bytes(), 0o4750).unwrap();
    node::set_mode(CWD, source.as_os_str().as_bytes(), 0o1777).unwrap();
    node::set_time(CWD, source.join("file").as_os_str().as_bytes(), (1_700_000_000, 0)).unwrap();
    run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
    let what = format!("latest:{}", source.display());
    let ran = finish(on(&repo, ["ls", "-l", &what]).env("TZ", "UTC")).expect(0).text();
    let lines: Vec<&str> = ran.lines().collect();
    assert!(lines[0].starts_with("drwxrwxrwt ") && lines[0].ends_with("/source"), "{ran}");
    let file: Vec<&str> = lines[1].split_whitespace().collect();
    assert_eq!((file[0], file[3], file[4], file[5]), ("-rwsr-x---", "5", "2023-11-14", "22:13:20"), "{ran}");
    assert!(lines[2].starts_with("lrwx") && lines[2].ends_with("/source/link -> some target"), "{ran}");
    assert_eq!(run(&repo, ["cat", &format!("{what}/file"), &format!("{what}/file")]).expect(0).out, b"1234512345");
    run(&repo, ["cat", &format!("{what}/link")]).expect(2);
    run(&repo, ["cat", &what]).expect(2);
    assert_eq!(run(&repo, ["dump", &format!("{what}/file")]).expect(0).out, b"12345");
}

/// Unpacks an archive with the system's tar.
fn unpack(archive: &[u8], into: &Path) {
    fs::create_dir(into).unwrap();
    let words = [
        "-x",
        "-p",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--same-owner",
        "--numeric-owner",
        "--warning=no-timestamp",
        "-C",
    ];
    let mut tar =
        Command::new("tar").args(words).arg(into).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = tar.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || std::io::Write::write_all(&mut input, archive).unwrap());
    });
    let output = tar.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tar: {said}");
    assert_eq!(said, "", "tar finds nothing to remark on");
}

#[test]
fn a_folder_is_dumped_as_an_archive_that_tar_unpacks_exactly() {
    if !node::privileged() || !installed("tar", "tar") {
        return;
    }
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    odd_tree(&source);
    // What tar cannot hold or its unpacker cannot make: sockets, paths beyond PATH_MAX, gigabytes of zeros. And names
    // that no system unpacks twice.
    fs::remove_dir_all(source.join("deep")).unwrap();
    fs::remove_file(source.join("special/socket")).unwrap();
    fs::remove_file(source.join("holes/more than 32 bits of length")).unwrap();
    let store = Store::init(path.join("repository"), None);
    store.backup(&source);
    let archive = run(&store.path, ["dump", &format!("latest:{}", source.display())]).expect(0).out;
    let unpacked = path.join("unpacked");
    unpack(&archive, &unpacked);
    let found = differences_with(&source, &unpacked, Options { ignore_root: true });
    // Holes come as zeros; everything else is to be as it was.
    let found: Vec<&String> = found.iter().filter(|difference| !difference.contains(": holes: ")).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn what_an_archive_cannot_hold_is_told() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(source.join("socket")).unwrap();
    fs::write(source.join("file"), "file").unwrap();
    let store = Store::init(path.join("repository"), None);
    store.backup(&source);
    let ran = run(&store.path, ["dump", &format!("latest:{}", source.display())]).expect(3);
    assert!(ran.complaint().contains("socket"), "{}", ran.complaint());
    unpack(&ran.out, &path.join("unpacked"));
    assert_eq!(fs::read(path.join("unpacked/file")).unwrap(), b"file");
}
