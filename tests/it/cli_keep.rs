//! forget, tag, label and protect, as a person runs them.

use crate::support::{
    program::{Ran, finish, on, run},
    same::assert_same,
    store::{Store, place},
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};
use xsnap::{error::Error, repo::opening::Access};

/// A repository with the nights of one machine, and a day's snapshot of another.
struct Scene {
    _place: tempfile::TempDir,
    path: PathBuf,
    repo: PathBuf,
    source: PathBuf,
}

impl Scene {
    /// One snapshot each of so many days of May 2026, at 23:00 UTC; each has a file that says which day it is.
    fn nights(days: u32) -> Self {
        let (_place, path) = place();
        let [repo, source] = ["repository", "source"].map(|name| path.join(name));
        fs::create_dir(&source).unwrap();
        let scene = Self { _place, path, repo, source };
        (1..=days).for_each(|day| scene.backup("mn1", &format!("2026-05-{day:02}T23:00:00Z"), &format!("night {day}")));
        scene
    }

    fn backup(&self, host: &str, time: &str, label: &str) {
        fs::write(self.source.join("file"), label).unwrap();
        let words = ["backup", "--host", host, "--time", time, "--label", label, self.source.to_str().unwrap()];
        run(&self.repo, words).expect(0);
    }

    fn run(&self, words: &[&str]) -> Ran {
        finish(on(&self.repo, words).env("TZ", "UTC"))
    }

    fn snapshots(&self) -> Vec<Value> {
        let listed = self.run(&["list", "--json"]).expect(0).json().into_iter();
        listed.filter(|object| object["message"] == "snapshot").collect()
    }

    /// The labels of all snapshots, the oldest commit first.
    fn labels(&self) -> Vec<String> {
        self.snapshots().iter().map(|s| s["label"].as_str().unwrap().to_owned()).collect()
    }

    /// The id of the snapshot with a label.
    fn id(&self, label: &str) -> String {
        let snapshots = self.snapshots();
        let found = snapshots.iter().find(|s| s["label"] == label).expect("a snapshot of this label");
        found["id"].as_str().unwrap().to_owned()
    }

    /// The files of a snapshot's object: the one that counts, and its mirror.
    fn objects(&self, id: &str) -> Vec<PathBuf> {
        let folders = ["snapshots", "mirror"].map(|folder| fs::read_dir(self.repo.join(folder)).unwrap());
        let files = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
        files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(id)).collect()
    }

    /// Checks that words are refused with exit code 2, for this reason, and change nothing.
    #[track_caller]
    fn assert_refused(&self, words: &[&str], reason: &str) {
        let before = self.snapshots();
        let ran = self.run(words).expect(2);
        assert!(ran.complaint().contains(reason) && ran.out.is_empty(), "{}{}", ran.complaint(), ran.text());
        assert_eq!(self.snapshots(), before);
    }
}

/// What becomes of each snapshot by its label, with the reasons.
fn verdicts(ran: &Ran) -> Vec<(String, bool, Vec<String>)> {
    let of = |s: &Value| {
        let reasons = s["reasons"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned());
        (s["label"].as_str().unwrap().to_owned(), s["kept"].as_bool().unwrap(), reasons.collect())
    };
    ran.json().iter().filter(|object| object["message"] == "snapshot").map(of).collect()
}

fn text_of(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_policy_forgets_what_no_rule_keeps_and_says_why_the_rest_is_kept() {
    let scene = Scene::nights(12);
    let words = ["forget", "--keep-daily", "3", "--keep-weekly", "2", "--json"];
    let dry = scene.run(&[&words[..], &["--dry-run"]].concat()).expect(0);
    assert_eq!(scene.labels().len(), 12, "a dry run changes nothing");
    let kept: Vec<(String, Vec<String>)> =
        verdicts(&dry).into_iter().filter(|v| v.1).map(|(label, _, reasons)| (label, reasons)).collect();
    let expected = [
        ("night 10", &["daily 3: 2026-05-10", "weekly 2: 2026-W19"][..]),
        ("night 11", &["daily 2: 2026-05-11"]),
        ("night 12", &["latest", "daily 1: 2026-05-12", "weekly 1: 2026-W20"]),
    ];
    let expected = expected.map(|(label, why)| (label.to_owned(), why.iter().map(|&w| w.to_owned()).collect()));
    assert_eq!(kept, expected);
    let last = dry.message("forget");
    assert_eq!((&last["kept"], &last["forgotten"], &last["dry_run"]), (&3.into(), &9.into(), &true.into()));
    let group = &dry.json()[0]["group"];
    assert_eq!((&group["host"], &group["tags"]), (&"mn1".into(), &Value::Null));
    assert_eq!(group["paths"][0], scene.source.to_str().unwrap());
    let text = scene.run(&["forget", "--keep-daily", "3", "--dry-run"]).expect(0).text();
    for shown in ["host mn1", "forget", "keep", "daily 3: 2026-05-10", "would be forgotten"] {
        assert!(text.contains(shown), "{shown} in {text}");
    }
    assert_eq!(verdicts(&scene.run(&words).expect(0)), verdicts(&dry), "it does what it said");
    assert_eq!(scene.labels(), ["night 10", "night 11", "night 12"]);
    scene.run(&words).expect(0);
    assert_eq!(scene.labels().len(), 3, "and nothing more when it is said again");
    assert!(scene.run(&["forget", "--keep-daily", "3", "--quiet"]).expect(0).out.is_empty());
    let store = Store::open_at(&scene.repo);
    store.assert_whole();
    let target = scene.path.join("restored");
    let what = format!("latest:{}", scene.source.display());
    scene.run(&["restore", &what, "--target", target.to_str().unwrap()]).expect(0);
    assert_same(&scene.source, &target);
}

#[test]
fn days_end_when_they_end_where_the_machine_is() {
    let scene = Scene::nights(4);
    // 23:00 UTC is 1:00 of the next day in the east, and 23:00 of the day before the next in the west.
    let words = ["forget", "--keep-daily", "1", "--dry-run", "--json"];
    let in_zone = |zone: &str| verdicts(&finish(on(&scene.repo, words).env("TZ", zone)).expect(0));
    let reason = |zone: &str| in_zone(zone).last().unwrap().2[1].clone();
    assert_eq!(reason("EET-2"), "daily 1: 2026-05-05");
    assert_eq!(reason("EST5"), "daily 1: 2026-05-04");
}

#[test]
fn what_would_forget_everything_is_refused() {
    let scene = Scene::nights(3);
    scene.assert_refused(&["forget"], "nothing says what is to be kept");
    scene.assert_refused(&["forget", "--host", "mn1"], "--keep-daily");
    scene.assert_refused(&["forget", "--keep-last", "0"], "nothing says");
    scene.assert_refused(&["forget", "--allow-forget-all"], "nothing says");
    scene.assert_refused(&["forget", "--keep-tag", "no-such-word"], "no rule keeps anything of host mn1");
    for words in [
        ["--keep-last", "many"],
        ["--keep-last", "-2"],
        ["--keep-within", "soon"],
        ["--keep-within", "0d"],
        ["--group-by", "host,size"],
    ] {
        scene.assert_refused(&["forget", words[0], words[1]], words[0]);
    }
    scene.run(&["forget", "--keep-tag", "no-such-word", "--allow-forget-all"]).expect(0);
    assert_eq!(scene.labels(), ["night 3"], "the latest is kept wherever there is a rule");
    scene.run(&["protect", "latest"]).expect(0);
    scene.backup("mn1", "2026-05-04T23:00:00Z", "night 4");
    scene.backup("mn2", "2026-05-04T23:00:00Z", "other");
    scene.run(&["forget", "--host", "mn1", "--allow-forget-all"]).expect(0);
    assert_eq!(scene.labels(), ["night 3", "other"], "all of the host but what is protected");
    scene.run(&["forget", "--keep-last", "unlimited", "--keep-daily=-1"]).expect(0);
    assert_eq!(scene.labels().len(), 2);
}

#[test]
fn snapshots_that_are_named_are_forgotten_whatever_the_rules_say() {
    let scene = Scene::nights(6);
    let (second, third) = (scene.id("night 2"), scene.id("night 3"));
    scene.assert_refused(&["forget", "latest", "zzzzzzzz"], "no snapshot matches zzzzzzzz");
    scene.assert_refused(&["forget", "latest:/etc"], "without a path");
    let dry = scene.run(&["forget", "latest", "--dry-run", "--json"]).expect(0);
    assert_eq!(verdicts(&dry), [("night 6".to_owned(), false, Vec::new())]);
    assert!(dry.json()[0]["named"].as_bool().unwrap() && scene.labels().len() == 6);
    let ran = scene.run(&["forget", "latest", &second[..8], &second.to_uppercase()]).expect(0);
    assert!(ran.text().contains("2 snapshots forgotten"), "{}", ran.text());
    assert_eq!(scene.labels(), ["night 1", "night 3", "night 4", "night 5"]);
    scene.run(&["forget", &third, "--keep-last", "2"]).expect(0);
    assert_eq!(scene.labels(), ["night 4", "night 5"], "the rules choose among the others");
    scene.backup("mn2", "2026-05-07T23:00:00Z", "other");
    scene.run(&["forget", "latest", "--host", "mn1"]).expect(0);
    assert_eq!(scene.labels(), ["night 4", "other"], "the latest of those that were chosen");
}

#[test]
fn what_is_protected_is_never_forgotten_and_nothing_else_with_it() {
    let scene = Scene::nights(5);
    let (first, second) = (scene.id("night 1"), scene.id("night 2"));
    let ran = scene.run(&["protect", &first, "--json"]).expect(0);
    let changed = ran.message("changed");
    assert_eq!((&changed["id"], &changed["changed"]), (&first.as_str().into(), &true.into()));
    assert_eq!((&changed["protected"], &ran.message("protect")["changed"]), (&true.into(), &1.into()));
    assert!(scene.run(&["protect", &first]).expect(0).text().contains("as before"));
    assert!(scene.run(&["list"]).expect(0).text().contains("night 1 (protected)"));
    assert_eq!(scene.snapshots()[0]["protected"], true);
    scene.assert_refused(&["forget", &second, &first], "protected");
    scene.assert_refused(&["forget", &second, &first, "--keep-last", "9", "--dry-run"], "xsnap unprotect");
    scene.run(&["forget", "--keep-last", "1"]).expect(0);
    assert_eq!(scene.labels(), ["night 1", "night 5"]);
    assert!(scene.run(&["unprotect", &first]).expect(0).text().contains("not protected"));
    scene.run(&["forget", &first]).expect(0);
    assert_eq!(scene.labels(), ["night 5"]);
}

#[test]
fn groups_are_made_of_hosts_paths_and_tags_or_not_at_all() {
    let scene = Scene::nights(2);
    scene.backup("mn2", "2026-05-03T23:00:00Z", "other");
    scene.run(&["tag", "latest", "--add", "golden"]).expect(0);
    let kept = |by: &str| {
        let ran = scene.run(&["forget", "--keep-last", "1", "--group-by", by, "--dry-run", "--json"]).expect(0);
        verdicts(&ran).into_iter().filter(|v| v.1).map(|v| v.0).collect::<Vec<_>>()
    };
    assert_eq!(kept("host"), ["night 2", "other"]);
    assert_eq!(kept("host, paths"), ["night 2", "other"]);
    assert_eq!(kept("tags"), ["night 2", "other"]);
    assert_eq!(kept(""), ["other"]);
    assert_eq!(kept("paths"), ["other"]);
    scene.run(&["forget", "--keep-last", "1", "--group-by", "", "--host", "mn1"]).expect(0);
    assert_eq!(scene.labels(), ["night 2", "other"], "hosts that were not chosen are not touched");
}

#[test]
fn a_snapshot_whose_object_is_lost_can_be_forgotten_by_its_whole_id() {
    let scene = Scene::nights(3);
    let id = scene.id("night 2");
    let files = scene.objects(&id);
    assert_eq!(files.len(), 2);
    files.iter().for_each(|file| fs::write(file, "nothing that proves itself").unwrap());
    fs::remove_file(scene.repo.join("index.sqlite")).unwrap();
    let ran = scene.run(&["list"]).expect(0);
    assert!(ran.complaint().contains(&format!("`xsnap forget {id}`")), "{}", ran.complaint());
    scene.run(&["forget", &id[..10]]).expect(2);
    scene.run(&["forget", "--keep-last", "9"]).expect(0);
    assert_eq!(scene.objects(&id).len(), 2, "a policy does not touch what it cannot judge");
    let ran = scene.run(&["forget", &id, "--dry-run", "--json"]).expect(0);
    assert_eq!(ran.message("damaged snapshot")["id"], id.as_str());
    assert_eq!(scene.objects(&id).len(), 2);
    scene.run(&["forget", &id]).expect(0);
    assert_eq!(scene.objects(&id).len(), 0);
    assert!(scene.run(&["list"]).expect(0).err.is_empty());
    assert_eq!(scene.labels(), ["night 1", "night 3"]);
}

/// As a `protect` leaves it whose new record was damaged before the old one was deleted.
#[test]
fn a_snapshot_whose_newer_record_is_damaged_is_kept_by_every_policy_and_forgotten_by_its_id_only() {
    let scene = Scene::nights(3);
    let id = scene.id("night 1");
    let old: Vec<(PathBuf, Vec<u8>)> =
        scene.objects(&id).into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    scene.run(&["protect", &id]).expect(0);
    scene.objects(&id).iter().for_each(|file| fs::write(file, "nothing that proves itself").unwrap());
    old.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    fs::remove_file(scene.repo.join("index.sqlite")).unwrap();
    let dry = scene.run(&["forget", "--keep-last", "1", "--dry-run", "--json"]).expect(0);
    let reason = "a newer record of it is damaged, and may have protected it";
    assert!(verdicts(&dry).contains(&("night 1".into(), true, vec![reason.into()])), "{}", dry.text());
    scene.run(&["forget", "--keep-last", "1"]).expect(0);
    assert_eq!(scene.labels(), ["night 1", "night 3"]);
    scene.run(&["forget", "--host", "mn1", "--allow-forget-all"]).expect(0);
    assert_eq!(scene.labels(), ["night 1"]);
    let mut repository = Store::open_at(&scene.repo).open(Access::Write);
    let chosen = [repository.snapshots()[0].id];
    let refused = repository.forget_chosen(&[], &chosen).unwrap_err();
    assert!(matches!(&refused, Error::Usage(why) if why.contains("newer record")), "{refused}");
    drop(repository);
    scene.run(&["forget", &id]).expect(0);
    assert_eq!((scene.labels().len(), scene.objects(&id).len()), (0, 0));
}

#[test]
fn tags_and_labels_change_and_the_snapshot_stays_the_same() {
    let scene = Scene::nights(3);
    let before = scene.snapshots();
    let id = scene.id("night 2");
    let tags = |words: &[&str]| {
        let ran = scene.run(&[&["tag", &id[..8], "--json"], words].concat()).expect(0);
        ran.message("changed")["tags"].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect()
    };
    let words: Vec<String> = tags(&["--add", "a,b", "--add", "c"]);
    assert_eq!(words, ["a", "b", "c"]);
    let words: Vec<String> = tags(&["--add", "d", "--add", "a", "--remove", "b"]);
    assert_eq!(words, ["a", "c", "d"]);
    let words: Vec<String> = tags(&["--set", "x,y,x"]);
    assert_eq!(words, ["x", "y"]);
    let ran = scene.run(&["tag", &id, "--add", "x", "--json"]).expect(0);
    assert_eq!((&ran.message("changed")["changed"], &ran.message("tag")["unchanged"]), (&false.into(), &1.into()));
    scene.run(&["label", &id, "before the update"]).expect(0);
    let after = scene.snapshots();
    assert_eq!((&after[1]["label"], &after[1]["tags"][1]), (&"before the update".into(), &"y".into()));
    for key in ["id", "commit", "time", "host", "sources", "files", "bytes", "parent", "protected"] {
        assert_eq!(after[1][key], before[1][key], "{key}");
    }
    assert_eq!((&after[0], &after[2]), (&before[0], &before[2]));
    assert_eq!(scene.objects(&id).len(), 2, "the older records are gone");
    let words: Vec<String> = tags(&["--set", ""]);
    assert_eq!(words, [""; 0]);
    assert!(scene.run(&["label", &id, ""]).expect(0).text().contains("(none)"));
    let shown = scene.run(&["cat", &format!("{id}:{}", scene.source.join("file").display())]).expect(0);
    assert_eq!(shown.text(), "night 2");
    assert_eq!(text_of(&scene.source.join("file")), "night 3");
    Store::open_at(&scene.repo).assert_whole();
}

#[test]
fn many_snapshots_are_chosen_by_host_tag_and_path() {
    let scene = Scene::nights(3);
    scene.backup("mn2", "2026-05-04T23:00:00Z", "other");
    let changed = |words: &[&str]| scene.run(&[words, &["--json"]].concat()).expect(0).json().last().cloned().unwrap();
    assert_eq!(changed(&["tag", "--host", "mn1", "--add", "site"])["changed"], 3);
    assert_eq!(changed(&["tag", "latest", "--tag", "site", "--remove", "site"])["changed"], 1);
    assert_eq!(changed(&["protect", "--tag", "site"])["changed"], 2);
    assert_eq!(changed(&["unprotect", "--path", "/"])["unchanged"], 2);
    let twice = scene.id("night 1");
    assert_eq!(changed(&["protect", &twice, &twice[..8]])["changed"], 1);
    for words in [
        &["tag", "--add", "x"][..],
        &["tag", "latest"],
        &["tag", "latest", "--set", "x", "--add", "y"],
        &["protect"],
        &["unprotect", "--host", "mn3"],
        &["label", "latest"],
        &["label", "unknown", "x"],
    ] {
        scene.assert_refused(words, "");
    }
    let odd = scene.run(&["label", "latest", "esc \u{1b}[31m"]).expect(0);
    assert!(!odd.out.contains(&0x1b) && !scene.run(&["forget", "--keep-last", "9"]).expect(0).out.contains(&0x1b));
}

#[test]
fn forget_and_prune_free_room_and_say_how_much() {
    let scene = Scene::nights(6);
    let size = || -> u64 {
        let packs = fs::read_dir(scene.repo.join("packs")).unwrap();
        packs.map(|pack| pack.unwrap().metadata().unwrap().len()).sum()
    };
    let noise = crate::support::random::Random::new("prune", 1).bytes(300_000);
    fs::write(scene.source.join("noise"), noise).unwrap();
    scene.backup("mn1", "2026-05-07T23:00:00Z", "with noise");
    fs::remove_file(scene.source.join("noise")).unwrap();
    scene.backup("mn1", "2026-05-08T23:00:00Z", "last");
    let before = size();
    let nothing = scene.run(&["prune", "--json"]).expect(0).message("prune");
    assert_eq!((nothing["freed_bytes"].as_u64(), size()), (Some(0), before));
    scene.run(&["forget", &scene.id("with noise")]).expect(0);
    let dry = scene.run(&["prune", "--dry-run"]).expect(0).text();
    assert!(dry.contains("would be freed") && size() == before, "{dry}");
    let pruned = scene.run(&["prune", "--max-unused", "0", "--json"]).expect(0).message("prune");
    assert_eq!(pruned["freed_bytes"].as_u64(), Some(before - size()));
    assert!(before - size() > 290_000, "{before} {}", size());
    let words = ["forget", "--keep-last", "1", "--group-by", "host", "--prune", "--max-unused", "0", "--json"];
    let ran = scene.run(&words).expect(0);
    assert_eq!(ran.message("forget")["forgotten"], 6);
    assert_eq!(ran.message("prune")["unused_bytes"], 0);
    assert_eq!(scene.labels(), ["last"]);
    let target = scene.path.join("target");
    let from = format!("latest:{}", scene.source.display());
    scene.run(&["restore", &from, "--target", target.to_str().unwrap()]).expect(0);
    assert_same(&scene.source, &target);
    scene.run(&["check", "--read-data"]).expect(0);
}
