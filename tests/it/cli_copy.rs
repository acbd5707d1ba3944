//! copy as people and scripts run it: words in, text, JSON and exit codes out; and copies killed at any moment.

use crate::support::{
    edits::random_edits,
    plain,
    program::{Ran, copy as copy_tree, end, finish, on, run, start},
    random::Random,
    same::{assert_same, differences},
    scene::Scene,
    small,
    store::{Store, place},
    tree::random_tree,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// Two places for repositories beside a source that has a snapshot.
struct Two {
    scene: Scene,
    to: PathBuf,
}

impl Two {
    fn new() -> Self {
        let scene = Scene::backed_up();
        let to = scene.path.join("second");
        Self { scene, to }
    }

    fn copy(&self, words: &[&str]) -> Ran {
        run(&self.scene.repo, ["copy", "--to", self.to.to_str().unwrap()].iter().chain(words))
    }

    /// As [`Two::copy`], with variables of the environment.
    fn copy_with(&self, variables: &[(&str, &str)], words: &[&str]) -> Ran {
        let mut command = on(&self.scene.repo, ["copy", "--to", self.to.to_str().unwrap()].iter().chain(words));
        finish(command.envs(variables.iter().copied()))
    }
}

/// Ids and tags of what a repository lists.
fn listed(repo: &Path) -> Vec<(String, Value)> {
    let listed = run(repo, ["list", "--json"]).expect(0).json();
    listed.into_iter().map(|s| (s["id"].as_str().unwrap().to_owned(), s["tags"].clone())).collect()
}

#[test]
fn a_copy_says_what_it_did_and_the_copy_restores() {
    let two = Two::new();
    two.scene.backup(&["--tag", "second"]).expect(0);
    let dry = two.copy(&["--dry-run"]).expect(10);
    assert!(dry.complaint().contains("cannot copy to") && !two.to.exists(), "{}", dry.complaint());
    let said = two.copy(&[]).expect(0).text();
    assert!(said.contains("made repository") && said.contains("NOT encrypted"), "{said}");
    assert!(said.contains("2 snapshots copied to") && said.contains("0 there already"), "{said}");
    assert_eq!(listed(&two.to), listed(&two.scene.repo));
    let restored = two.scene.path.join("restored");
    let what = format!("latest:{}", two.scene.source.display());
    run(&two.to, ["restore", &what, "--target", restored.to_str().unwrap(), "--verify"]).expect(0);
    assert_same(&two.scene.source, &restored);
    let said = two.copy(&[]).expect(0).text();
    assert!(said.contains("0 snapshots copied to") && said.contains("2 there already"), "{said}");
    assert_eq!(two.copy(&["--quiet"]).expect(0).text(), "");
    two.scene.backup(&["--tag", "third"]).expect(0);
    let said = two.copy(&["--dry-run"]).expect(0).text();
    assert!(said.contains("1 snapshot would be copied") && listed(&two.to).len() == 2, "{said}");
    let ran = two.copy(&["--json", "--verify"]).expect(0);
    let fates: Vec<Value> = ran.json().into_iter().filter(|o| o["message"] == "copied snapshot").collect();
    assert_eq!(fates.iter().map(|o| o["fate"].as_str().unwrap()).collect::<Vec<_>>(), ["there", "there", "copied"]);
    let sum = ran.message("copy");
    let numbers = ["copied", "there", "newer", "updated", "lost"].map(|key| sum[key].as_u64().unwrap());
    assert_eq!((numbers, &sum["by_id"], &sum["dry_run"]), ([1, 2, 0, 0, 0], &true.into(), &false.into()));
    assert_eq!(sum["verified"], true);
    two.copy(&["--verify", "--dry-run"]).expect(2);
    assert!(sum["read_bytes"].as_u64().unwrap() > 0 && sum["added_raw_bytes"].as_u64().unwrap() > 0, "{sum}");
    run(&two.to, ["check", "--read-data"]).expect(0);
}

#[test]
fn what_is_copied_can_be_chosen() {
    let two = Two::new();
    for (host, tag) in [("a", "x"), ("a", "y"), ("b", "x")] {
        two.scene.backup(&["--host", host, "--tag", tag]).expect(0);
    }
    let all = listed(&two.scene.repo);
    two.copy(&["--host", "a", "--latest", "1"]).expect(0);
    assert_eq!(listed(&two.to), [all[2].clone()]);
    two.copy(&["--tag", "x"]).expect(0);
    assert_eq!(listed(&two.to), [2, 1, 3].map(|n| all[n].clone()));
    two.copy(&[&all[0].0[..8], &all[2].0]).expect(0);
    assert_eq!(listed(&two.to).len(), 4);
    // The order of commits is the target's own.
    assert_eq!(listed(&two.to)[3], all[0]);
    assert!(two.copy(&["zzzzzz"]).expect(2).complaint().contains("no snapshot matches"));
    two.copy(&["latest:/etc"]).expect(2);
    two.copy(&["latest", "--both"]).expect(2);
    two.copy(&["latest", "--latest", "2"]).expect(2);
    let same = run(&two.scene.repo, ["copy", "--to", two.scene.repo.to_str().unwrap()]).expect(2);
    assert!(same.complaint().contains("the same repository"), "{}", same.complaint());
    let file = two.scene.source.join("file");
    run(&two.scene.repo, ["copy", "--to", file.to_str().unwrap()]).expect(2);
    run(&two.scene.path.join("nothing"), ["copy", "--to", two.to.to_str().unwrap()]).expect(10);
}

#[test]
fn each_of_two_repositories_has_a_password_of_its_own() {
    let scene = Scene::new();
    let to = scene.path.join("second");
    let two = Two { scene, to };
    let from = [("XSNAP_PASSWORD", "one")];
    let source = two.scene.source.to_str().unwrap();
    finish(on(&two.scene.repo, ["backup", source]).envs(from)).expect(0);
    let said = two.copy_with(&from, &[]).expect(2).complaint();
    assert!(said.contains("nothing was made") && !two.to.exists(), "secrets are not put in clear unasked: {said}");
    two.copy(&[]).expect(12);
    let file = two.scene.path.join("password");
    fs::write(&file, "two\n").unwrap();
    let words = ["--to-password-file", file.to_str().unwrap()];
    assert_eq!(two.copy_with(&from, &[&words[..], &["--json"]].concat()).expect(0).message("copy")["by_id"], true);
    assert!(two.copy_with(&from, &[]).expect(12).complaint().contains("cannot copy to"));
    let both = |other| [from[0], ("XSNAP_TO_PASSWORD", other)];
    two.copy_with(&both("two"), &[]).expect(0);
    two.copy_with(&both("one"), &[]).expect(12);
    two.copy_with(&from, &["--to-password-command", "echo two"]).expect(0);
    finish(on(&two.to, ["list"]).env("XSNAP_PASSWORD", "one")).expect(12);
    let restored = two.scene.path.join("restored");
    let words = ["restore", &format!("latest:{source}"), "--target", restored.to_str().unwrap()].map(str::to_owned);
    finish(on(&two.to, words).env("XSNAP_PASSWORD", "two")).expect(0);
    assert_same(&two.scene.source, &restored);
    // Into one that hides nothing, if that is what somebody has made.
    let plain = Two { scene: two.scene, to: restored.join("plain") };
    run(&plain.to, ["init"]).expect(0);
    assert!(plain.copy_with(&both("two"), &[]).expect(2).complaint().contains("not encrypted"));
    let said = plain.copy_with(&from, &[]).expect(0).complaint();
    assert!(said.contains("is encrypted and") && said.contains("is NOT"), "{said}");
    run(&plain.to, ["check", "--read-data"]).expect(0);
}

#[test]
fn two_repositories_are_made_equal() {
    let two = Two::new();
    two.copy(&[]).expect(0);
    two.scene.backup(&["--tag", "here"]).expect(0);
    run(&two.to, ["backup", "--tag", "there", two.scene.source.to_str().unwrap()]).expect(0);
    let ran = two.copy(&["--both", "--json"]).expect(0);
    let sums: Vec<Value> = ran.json().into_iter().filter(|o| o["message"] == "copy").collect();
    assert_eq!(sums.iter().map(|sum| sum["copied"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 1]);
    assert_eq!((&sums[0]["from"], &sums[0]["to"]), (&sums[1]["to"], &sums[1]["from"]));
    let sorted = |repo: &Path| {
        let mut listed = listed(repo);
        listed.sort_by(|a, b| a.0.cmp(&b.0));
        listed
    };
    assert_eq!((sorted(&two.scene.repo).len(), sorted(&two.scene.repo)), (3, sorted(&two.to)));
    // A record that was changed on one side is told, and taken over where that is asked for.
    run(&two.to, ["tag", "--tag", "there", "--add", "golden"]).expect(0);
    assert!(two.copy(&["--both"]).expect(0).text().contains("--update takes them over"));
    assert_ne!(sorted(&two.scene.repo), sorted(&two.to));
    assert!(two.copy(&["--both", "--update"]).expect(0).text().contains("1 updated"));
    assert_eq!(sorted(&two.scene.repo), sorted(&two.to));
    // A stick and a copy of all its files are one repository twice, until they part.
    let twin = Two { to: two.scene.path.join("twin"), scene: two.scene };
    copy_tree(&twin.scene.repo, &twin.to);
    run(&twin.to, ["backup", "--tag", "twin", twin.scene.source.to_str().unwrap()]).expect(0);
    twin.scene.backup(&["--tag", "here again"]).expect(0);
    twin.copy(&["--both"]).expect(0);
    assert_eq!((sorted(&twin.to).len(), sorted(&twin.to)), (5, sorted(&twin.scene.repo)));
    for repo in [&twin.scene.repo, &two.to, &twin.to] {
        run(repo, ["check", "--read-data"]).expect(0);
    }
}

#[test]
fn what_is_lost_in_the_source_is_named_and_the_rest_is_copied() {
    let two = Two::new();
    fs::write(two.scene.source.join("later"), Random::new("lost", 0).bytes(40_000)).unwrap();
    two.scene.backup(&["--tag", "damaged"]).expect(0);
    let packs = walkdir::WalkDir::new(two.scene.repo.join("packs")).into_iter().map(Result::unwrap);
    let largest = packs.filter(|e| e.file_type().is_file()).max_by_key(|e| e.metadata().unwrap().len()).unwrap();
    let mut bytes = fs::read(largest.path()).unwrap();
    bytes[20_000] ^= 1;
    fs::write(largest.path(), bytes).unwrap();
    let ran = two.copy(&[]).expect(3);
    assert!(ran.text().contains("NOT copied") && ran.text().contains("/later"), "{}", ran.text());
    assert!(ran.text().contains("1 snapshot copied") && ran.text().contains("1 not copied"), "{}", ran.text());
    assert_eq!(listed(&two.to), [listed(&two.scene.repo)[0].clone()]);
    let ran = two.copy(&["--json"]).expect(3);
    let lost = ran.json().into_iter().find(|o| o["fate"] == "lost").unwrap();
    assert!(lost["lost"][0]["path"].as_str().unwrap().ends_with("/later") && lost["lost_paths"] == 1, "{lost}");
    run(&two.to, ["check", "--read-data"]).expect(0);
    // Stored again, it is whole.
    two.scene.backup(&[]).expect(0);
    two.copy(&[]).expect(0);
    assert_eq!(listed(&two.to).len(), 3);
}

/// What is listed of a copy comes back as the state that its tag names.
fn prove(repo: &Path, live: &Path, path: &Path, which: impl Fn(usize) -> bool) -> usize {
    let listed = listed(repo);
    for (n, (id, tags)) in listed.iter().enumerate().filter(|(n, _)| which(*n)) {
        let (restored, what) = (path.join("restored"), format!("{id}:{}", live.display()));
        run(repo, ["restore", &what, "--target", restored.to_str().unwrap()]).expect(0);
        let found = differences(&path.join(tags[0].as_str().unwrap()), &restored);
        assert!(found.is_empty(), "snapshot {n} ({tags}): {found:#?}");
        fs::remove_dir_all(restored).unwrap();
    }
    listed.len()
}

/// One kind of target is alike and is copied to by ids, the other is cut anew.
#[test]
fn a_copy_killed_at_any_moment_leaves_whole_snapshots_and_goes_on() {
    let (_place, path) = place();
    let [live, repo] = ["live", "repository"].map(|name| path.join(name));
    random_tree(31, &live);
    let targets = [path.join("alike"), path.join("other sizes")];
    drop(Store::init(targets[0].clone(), None));
    drop(plain::init(&plain::local(&targets[1]), small::small_config(), None).unwrap());
    let mut random = Random::new("killed copy", 0);
    let kills = if std::env::var_os("XSNAP_TEST_LONG").is_some() { 100 } else { 8 };
    let mut longest = [Duration::ZERO; 2];
    let (mut killed, mut there) = (0, [0; 2]);
    for round in 0..kills {
        // Two more snapshots a round, so that a kill may come between them.
        for half in 0..2_u64 {
            random_edits(2 * round + half, &live);
            let n = 2 * round + half;
            fs::write(live.join(format!("new {n}")), random.bytes(1_500_000)).unwrap();
            // It goes again, unless an edit has made something else of it, for every state of the tree is kept here.
            let _ = n.checked_sub(4).map(|old| fs::remove_file(live.join(format!("new {old}"))));
            let state = format!("state {round} {half}");
            copy_tree(&live, &path.join(&state));
            run(&repo, ["backup", "--tag", &state, live.to_str().unwrap()]).expect(0);
        }
        let which = random.index(2);
        let words = ["copy", "--to", targets[which].to_str().unwrap()];
        let began = Instant::now();
        let mut child = start(&mut on(&repo, words));
        if longest[which] > Duration::ZERO {
            sleep(longest[which].mul_f64(random.below(1_300) as f64 / 1_000.0));
            child.kill().unwrap();
        }
        let ended = end(child).code == 0;
        longest[which] = if longest[which].is_zero() { began.elapsed() } else { longest[which] };
        killed += u32::from(!ended);
        run(&targets[which], ["check", "--read-data"]).expect(0);
        let (before, chosen) = (there[which], random.index(there[which] + 1));
        there[which] = prove(&targets[which], &live, &path, |n| n == 0 || n == chosen || n + 2 > before);
        assert!(there[which] >= before, "nothing is lost");
        assert!(!ended || there[which] == 2 * round as usize + 2, "a copy that ended well is whole");
    }
    assert!(killed > 0 || kills < 20, "some copies were killed: {killed}");
    for target in &targets {
        run(&repo, ["copy", "--to", target.to_str().unwrap()]).expect(0);
        assert_eq!(prove(target, &live, &path, |_| true), 2 * kills as usize);
        run(target, ["check", "--read-data"]).expect(0);
    }
}
