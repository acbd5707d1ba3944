//! What `diff`, `find` and `stats` promise to people and to scripts: words, lines, objects and exit codes.

use crate::support::{
    program::{Ran, finish, run},
    store::place,
};
use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

/// A folder that was backed up twice, with changes between.
struct Scene {
    _place: tempfile::TempDir,
    repo: PathBuf,
    source: PathBuf,
    first: String,
}

impl Scene {
    fn new() -> Self {
        let (_place, path) = place();
        let [repo, source] = ["repository", "source"].map(|name| path.join(name));
        fs::create_dir(&source).unwrap();
        for (name, text) in [("changed", "one"), ("gone", "gone"), ("old name", "moved"), ("mode", "mode")] {
            fs::write(source.join(name), text).unwrap();
        }
        let host = ["--host", "mn1", "--time", "2026-01-01T10:00:00Z"];
        backup(&repo, &source, &host);
        let listed = run(&repo, ["list", "--json"]).expect(0).json();
        let first = listed[0]["short_id"].as_str().unwrap().to_owned();
        fs::write(source.join("changed"), "two!").unwrap();
        fs::remove_file(source.join("gone")).unwrap();
        fs::rename(source.join("old name"), source.join("new name")).unwrap();
        fs::set_permissions(source.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(source.join("added"), "added").unwrap();
        Self { _place, repo, source, first }
    }

    fn backup_again(&self) {
        backup(&self.repo, &self.source, &["--host", "mn2", "--time", "2026-01-02T10:00:00Z"]);
    }

    fn path(&self, name: &str) -> String {
        self.source.join(name).to_str().unwrap().to_owned()
    }
}

fn backup(repo: &Path, source: &Path, words: &[&str]) {
    run(repo, ["backup"].iter().chain(words).copied().chain([source.to_str().unwrap()])).expect(0);
}

/// What a diff says, as sign and path.
fn signs(ran: &Ran) -> Vec<String> {
    let text = ran.text();
    let signed = text.lines().filter(|line| line.chars().nth(2) == Some(' '));
    signed.map(|line| line.split("  (").next().unwrap().to_owned()).collect()
}

#[test]
fn diff_says_the_same_of_two_snapshots_and_of_one_and_this_machine() {
    let scene = Scene::new();
    let live = run(&scene.repo, ["diff", "latest", "--live"]).expect(0);
    assert!(live.complaint().contains("mn1"), "of another machine: {}", live.complaint());
    let read = run(&scene.repo, ["diff", "latest", "--live", "--read-all"]).expect(0);
    scene.backup_again();
    let stored = run(&scene.repo, ["diff", &scene.first, "latest"]).expect(0);
    let renamed = format!("R  {} -> {}", scene.path("old name"), scene.path("new name"));
    let mut expected = vec![
        format!("M  {}", scene.source.display()),
        format!("+  {}", scene.path("added")),
        format!("C  {}", scene.path("changed")),
        format!("-  {}", scene.path("gone")),
        format!("M  {}", scene.path("mode")),
        renamed,
    ];
    for ran in [&live, &read, &stored] {
        assert_eq!(signs(ran), expected);
        for text in ["content 3 B -> 4 B", "mode 0644 -> 0600", "1 added (5 B)", "1 removed (4 B)", "1 renamed (5 B)"] {
            assert!(ran.text().contains(text), "{text} in {}", ran.text());
        }
    }
    expected.retain(|line| !line.starts_with('M'));
    assert_eq!(signs(&run(&scene.repo, ["diff", &scene.first, "latest", "--no-metadata"]).expect(0)), expected);
    let same = run(&scene.repo, ["diff", "latest", "latest"]).expect(0);
    assert_eq!(same.text(), "no differences\n");
    let quiet = run(&scene.repo, ["diff", "latest", "latest", "--quiet"]).expect(0);
    assert_eq!(quiet.text(), "");
}

#[test]
fn diff_takes_a_path_for_both_and_leaves_out_what_a_pattern_matches() {
    let scene = Scene::new();
    scene.backup_again();
    let one = |word: &str| format!("{word}:{}", scene.path("changed"));
    let only = [format!("C  {}", scene.path("changed"))];
    for words in
        [[one(&scene.first), "latest".into()], [scene.first.clone(), one("latest")], [one(&scene.first), one("latest")]]
    {
        assert_eq!(
            signs(&run(&scene.repo, ["diff"].into_iter().chain(words.iter().map(String::as_str))).expect(0)),
            only
        );
    }
    let others = ["--exclude", "added", "--exclude", "*name", "-e", "gone", "-e", "mode", "--no-metadata"];
    assert_eq!(signs(&run(&scene.repo, ["diff", &scene.first, "latest"].iter().chain(&others)).expect(0)), only);
    let crossed = [format!("latest:{}", scene.path("mode")), format!("latest:{}", scene.path("added"))];
    let ran = run(&scene.repo, ["diff", &crossed[0], &crossed[1]]).expect(0);
    assert_eq!(signs(&ran), [format!("C  {}", scene.path("added"))], "two files under different names");
    for (words, code) in [
        (vec!["diff", "latest"], 2),
        (vec!["diff", "latest", "latest", "--live"], 2),
        (vec!["diff", "latest", "latest", "--read-all"], 2),
        (vec!["diff", "nothing", "latest"], 2),
        (vec!["diff", "latest:/nowhere", "latest"], 2),
        (vec!["diff", "latest:/nowhere", "--live"], 2),
        (vec!["diff", "latest", "latest", "-e", "["], 2),
        (vec!["find"], 2),
        (vec!["find", "["], 2),
        (vec!["find", "x", "--snapshot", "nothing"], 2),
        (vec!["stats", "nothing"], 2),
    ] {
        run(&scene.repo, words).expect(code);
    }
}

#[test]
fn diff_tells_programs_what_was_and_what_is() {
    let scene = Scene::new();
    scene.backup_again();
    let ran = run(&scene.repo, ["diff", &scene.first, "latest", "--json"]).expect(0);
    let all = ran.json();
    let of = |name: &str| all.iter().find(|object| object["path"] == scene.path(name).as_str()).unwrap();
    assert_eq!(of("changed")["change"], "changed");
    assert_eq!(of("changed")["aspects"][0], "content");
    assert_eq!((&of("changed")["before"]["size"], &of("changed")["after"]["size"]), (&3.into(), &4.into()));
    assert_eq!((&of("mode")["change"], &of("mode")["aspects"]), (&"metadata".into(), &vec!["mode"].into()));
    assert_eq!(of("mode")["after"]["mode"], 0o600);
    assert_eq!(
        (&of("new name")["change"], &of("new name")["from"]),
        (&"renamed".into(), &scene.path("old name").into())
    );
    assert!(of("added")["before"].is_null() && of("gone")["after"].is_null());
    let summary = ran.message("diff");
    for (key, count) in [("added", 1), ("removed", 1), ("renamed", 1), ("changed_before", 1), ("changed_after", 1)] {
        assert_eq!(summary[key]["files"], count, "{key}");
    }
    assert_eq!((&summary["metadata"], &summary["perhaps"], &summary["problems"]), (&2.into(), &0.into(), &0.into()));
    assert_eq!(summary["changed_after"]["bytes"], 4);
}

#[test]
fn what_a_backup_left_out_is_marked_and_a_pattern_takes_it_away() {
    let (_place, path) = place();
    let [repo, source] = ["repository", "source"].map(|name| path.join(name));
    fs::create_dir_all(source.join("cache")).unwrap();
    fs::write(source.join("cache/CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55").unwrap();
    fs::write(source.join("cache/cached"), "cached").unwrap();
    fs::write(source.join("x.tmp"), "x").unwrap();
    backup(&repo, &source, &["--exclude", "*.tmp", "--exclude-caches"]);
    let ran = run(&repo, ["diff", "latest", "--live"]).expect(0);
    let expected = ["cache/cached", "x.tmp"].map(|name| format!("+? {}", source.join(name).display()));
    assert_eq!(signs(&ran), expected);
    assert!(ran.complaint().contains("--exclude"), "{}", ran.complaint());
    let ran = run(&repo, ["diff", "latest", "--live", "--exclude", "*.tmp", "--exclude-caches"]).expect(0);
    assert_eq!(ran.text(), "no differences\n");
}

#[test]
fn find_shows_each_version_once_with_who_has_it() {
    let scene = Scene::new();
    scene.backup_again();
    backup(&scene.repo, &scene.source, &["--host", "mn2", "--time", "2026-01-03T10:00:00Z"]);
    let ran = run(&scene.repo, ["find", "changed"]).expect(0);
    let text = ran.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0]), (4, scene.path("changed").as_str()));
    assert!(lines[1].contains("3 B") && lines[1].contains("in 1 snapshot of mn1"), "{text}");
    assert!(lines[2].contains("4 B") && lines[2].contains("in 2 snapshots of mn2"), "{text}");
    assert_eq!(lines[3], "1 path, 2 versions in 3 snapshots");

    let json = |words: &[&str]| run(&scene.repo, ["find", "--json"].iter().chain(words)).expect(0).json();
    let found = json(&["changed"]);
    let listed = run(&scene.repo, ["list", "--json"]).expect(0).json();
    assert_eq!((&found[0]["size"], &found[0]["count"], &found[0]["first"]), (&3.into(), &1.into(), &listed[0]["id"]));
    assert_eq!((&found[1]["first"], &found[1]["last"]), (&listed[1]["id"], &listed[2]["id"]));
    assert_eq!(found[1]["last_time"], "2026-01-03T10:00:00Z");
    assert!(found[0]["content"] != found[1]["content"] && found[0].get("snapshots").is_none());
    assert_eq!(json(&["changed", "--long"])[1]["snapshots"].as_array().unwrap().len(), 2);

    let count = |words: &[&str]| json(words).last().unwrap()["versions"].as_u64().unwrap();
    assert_eq!(count(&["mode"]), 1, "a mode alone makes no version");
    assert_eq!(count(&["mode", "--long"]), 2, "unless it is shown");
    assert_eq!(count(&["CHANGED"]), 0);
    assert_eq!(count(&["CHANGED", "--ignore-case"]), 2);
    assert_eq!(count(&["changed", "--host", "mn2"]), 1);
    assert_eq!(count(&["changed", "--snapshot", &scene.first]), 1);
    assert_eq!(count(&["changed", "--snapshot", "latest", "--snapshot", &scene.first]), 2);
    assert_eq!(count(&["changed", "--path", "/nowhere"]), 0);
    assert_eq!(count(&[&scene.path("*name")]), 2);
    let nothing = run(&scene.repo, ["find", "no such name"]).expect(0);
    assert_eq!(nothing.text(), "nothing of that name in 3 snapshots\n");
}

#[test]
fn stats_say_what_each_snapshot_takes_and_what_none_needs() {
    let scene = Scene::new();
    scene.backup_again();
    let ran = run(&scene.repo, ["stats", "--json"]).expect(0);
    let all = ran.json();
    let of = |kind: &str| all.iter().filter(|object| object["message"] == kind).count();
    assert_eq!((of("snapshot_stats"), of("host_stats")), (2, 2));
    let stats = ran.message("stats");
    // gone, mode and moved are in both; one, then two! and added.
    assert_eq!(stats["data"]["raw_bytes"], 4 + 4 + 5 + 3 + 4 + 5);
    assert_eq!((&stats["bytes"], &stats["files"]), (&(16 + 18).into(), &8.into()));
    assert_eq!((&stats["unneeded"]["blobs"], &stats["missing_blobs"]), (&0.into(), &0.into()));
    let text = run(&scene.repo, ["stats"]).expect(0).text();
    for shown in ["Alone", "mn1", "mn2", "2 snapshots with 8 files", "in 0 packs"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    let one = run(&scene.repo, ["stats", &scene.first, "--json"]).expect(0);
    let added = run(&scene.repo, ["stats", "--host", "mn2", "--json"]).expect(0);
    assert_eq!(one.message("snapshot_stats")["alone"], one.message("stats")["alone"]);
    assert_eq!(one.message("stats")["data"]["raw_bytes"], 16);
    assert_eq!(added.message("snapshot_stats")["commit"], 2);
    assert_eq!(added.message("snapshot_stats")["added"], added.message("snapshot_stats")["alone"], "the last of all");
    let (_place, path) = place();
    run(&path.join("empty"), ["init"]).expect(0);
    let empty = run(&path.join("empty"), ["stats"]).expect(0).text();
    assert!(empty.contains("0 snapshots with 0 files"), "{empty}");
}

#[test]
fn damage_met_on_the_way_is_a_problem_and_not_the_end() {
    let scene = Scene::new();
    scene.backup_again();
    let packs = fs::read_dir(scene.repo.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    for pack in packs {
        let mut bytes = fs::read(&pack).unwrap();
        let at = bytes.len() / 3;
        bytes[at] ^= 1;
        fs::write(&pack, bytes).unwrap();
    }
    for words in [&["diff", &scene.first, "latest"][..], &["diff", "latest", "--live"], &["find", "*"], &["stats"]] {
        let ran = run(&scene.repo, words).expect(3);
        assert!(ran.complaint().contains("damaged"), "{}", ran.complaint());
        assert!(signs(&ran).iter().all(|line| !line.starts_with('+')), "nothing was added by damage: {}", ran.text());
        let json = run(&scene.repo, words.iter().chain(&["--json"])).expect(3);
        let problems = json.json().iter().filter_map(|object| object["problems"].as_u64()).next().unwrap();
        assert!(problems > 0, "{words:?}");
    }
}

#[test]
fn no_name_speaks_to_the_terminal_and_each_is_exact_for_programs() {
    let (_place, path) = place();
    let [repo, source] = ["repository", "source"].map(|name| path.join(name));
    let odd = source.join(std::ffi::OsStr::from_bytes(b"odd\x1b\xff"));
    fs::create_dir_all(&odd).unwrap();
    fs::write(odd.join("file"), "x").unwrap();
    backup(&repo, &source, &[]);
    fs::remove_dir_all(&odd).unwrap();
    let ran = run(&repo, ["diff", "latest", "--live", "--no-metadata"]).expect(0);
    assert!(!ran.text().contains('\x1b') && signs(&ran).len() == 2, "{}", ran.text());
    let json = run(&repo, ["diff", "latest", "--live", "--json"]).expect(0).json();
    assert!(json.iter().any(|object| object["path"]["hex"].is_string()));
}

#[test]
fn what_cannot_be_read_is_neither_here_nor_there() {
    let (_place, path) = place();
    let [repo, source, program] = ["repository", "source", "xsnap"].map(|name| path.join(name));
    fs::create_dir_all(source.join("closed")).unwrap();
    for name in ["secret", "open", "closed/inner"] {
        fs::write(source.join(name), "before").unwrap();
    }
    backup(&repo, &source, &[]);
    for name in ["secret", "open", "closed/inner"] {
        fs::write(source.join(name), "after it").unwrap();
    }
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    fs::write(source.join("secret"), "AFTER!").unwrap();
    mode(&source.join("secret"), 0);
    mode(&source.join("closed"), 0);
    // Root may read everything, and so somebody else looks, with a copy of the program in a place open to all.
    fs::copy(env!("CARGO_BIN_EXE_xsnap"), &program).unwrap();
    mode(&path, 0o755);
    let mut command = Command::new(&program);
    command.env_clear().arg("--repo").arg(&repo).args(["diff", "latest", "--live"]);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    let ran = finish(&mut command);
    mode(&source.join("closed"), 0o700);
    let ran = ran.expect(3);
    assert_eq!(
        signs(&ran),
        [format!("M  {}", source.join("closed").display()), format!("C  {}", source.join("open").display())]
    );
    for told in [format!("cannot read {}", source.join("secret").display()), "cannot open".into()] {
        assert!(ran.complaint().contains(&told), "{told} in {}", ran.complaint());
    }
}
