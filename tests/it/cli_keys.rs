//! key list, add, remove and passwd, as a person runs them.

use crate::support::{
    program::{Ran, finish, on, run},
    store::{Store, place},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// An encrypted repository, and the files that some passwords lie in.
struct Scene {
    _place: tempfile::TempDir,
    path: PathBuf,
    repo: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (_place, path) = place();
        let repo = path.join("repository");
        drop(Store::init(repo.clone(), Some("old")));
        ["old", "new", "third", ""].iter().for_each(|word| fs::write(path.join(format!("{word}.txt")), word).unwrap());
        Self { _place, path, repo }
    }

    fn file(&self, password: &str) -> String {
        self.path.join(format!("{password}.txt")).to_str().unwrap().to_owned()
    }

    fn key(&self, password: &str, words: &[&str]) -> Ran {
        finish(on(&self.repo, ["key"].iter().chain(words)).env("XSNAP_PASSWORD", password))
    }

    fn opens(&self, password: &str) -> bool {
        match finish(on(&self.repo, ["list"]).env("XSNAP_PASSWORD", password)).code {
            0 => true,
            12 => false,
            code => panic!("{code}"),
        }
    }

    fn slots(&self) -> usize {
        fs::read_dir(self.repo.join("keys")).unwrap().count()
    }
}

fn keys_of(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_second_password_opens_the_repository_until_its_slot_is_removed() {
    let scene = Scene::new();
    let words = ["add", "--new-password-file", &scene.file("new"), "--label", "the night shift"];
    let ran = scene.key("old", &words).expect(0);
    assert!(ran.text().contains("added"), "{}", ran.text());
    assert!(scene.opens("old") && scene.opens("new"));
    let again = scene.key("old", &words).expect(2);
    assert!(again.complaint().contains("already"), "{}", again.complaint());
    let listed = scene.key("old", &["list", "--json"]).expect(0).json();
    let find = |opens: bool| listed.iter().find(|key| key["opens"] == opens).unwrap();
    let (mine, theirs) = (find(true), find(false));
    assert_eq!((listed.len(), &mine["time"], &mine["damaged"]), (2, &serde_json::Value::Null, &false.into()));
    assert_eq!((&theirs["label"], &theirs["passes"]), (&"the night shift".into(), &3.into()));
    assert!(theirs["time"].as_str().unwrap().starts_with("20"), "{theirs}");
    let text = scene.key("new", &["list"]).expect(0).text();
    let marked = text.lines().find(|line| line.trim_start().starts_with('*')).unwrap_or_else(|| panic!("{text}"));
    assert!(marked.contains("the night shift") && text.contains("2 key slots"), "{text}");
    let [mine, theirs] = [mine, theirs].map(|key| key["short_name"].as_str().unwrap());
    let refused = scene.key("old", &["remove", mine]).expect(2);
    assert!(refused.complaint().contains("only key slot that the given password opens"), "{}", refused.complaint());
    let ran = scene.key("old", &["remove", theirs, "--json"]).expect(0).message("key remove");
    assert!(ran["removed"][0].as_str().unwrap().contains(theirs), "{ran}");
    assert!(scene.opens("old") && !scene.opens("new"));
    let refused = scene.key("old", &["remove", mine]).expect(2);
    assert!(refused.complaint().contains("last key slot"), "{}", refused.complaint());
    scene.key("old", &["remove", "nosuch"]).expect(2);
}

#[test]
fn a_changed_password_opens_the_repository_and_the_old_one_does_not() {
    let scene = Scene::new();
    let ran = scene.key("old", &["passwd", "--new-password-command", "echo new", "--json"]).expect(0);
    let changed = ran.message("key passwd");
    assert_eq!(changed["removed"].as_array().unwrap().len(), 1);
    assert!(!scene.opens("old") && scene.opens("new"));
    assert_eq!(scene.slots(), 1);
    scene.key("old", &["passwd", "--new-password-file", &scene.file("third")]).expect(12);
    let same = scene.key("new", &["passwd", "--new-password-file", &scene.file("new")]).expect(2);
    assert!(same.complaint().contains("the new password is the old one"), "{}", same.complaint());
    // A change that was interrupted between its steps goes on.
    scene.key("new", &["add", "--new-password-file", &scene.file("third"), "--label", "mine"]).expect(0);
    let ran = scene.key("new", &["passwd", "--new-password-file", &scene.file("third")]).expect(0);
    assert!(ran.text().contains("changed"), "{}", ran.text());
    assert!(!scene.opens("new") && scene.opens("third"));
    scene.key("third", &["passwd", "--new-password-file", &scene.file("old")]).expect(0);
    assert_eq!(scene.key("old", &["list", "--json"]).expect(0).message("key")["label"], "mine", "the label stays");
    assert_eq!(scene.slots(), 1);
}

#[test]
fn a_new_password_must_come_from_somewhere_and_be_one() {
    let scene = Scene::new();
    for verb in ["add", "passwd"] {
        scene.key("old", &[verb]).expect(12);
        scene.key("old", &[verb, "--new-password-file", &scene.file("")]).expect(2);
        scene.key("old", &[verb, "--new-password-file", "/no/such/file"]).expect(1);
        scene.key("old", &[verb, "--new-password-command", "exit 3"]).expect(1);
        scene.key("wrong", &[verb, "--new-password-file", &scene.file("new")]).expect(12);
        run(&scene.repo, ["key", verb, "--new-password-file", &scene.file("new")]).expect(12);
    }
    run(&scene.repo, ["key"]).expect(2);
    assert_eq!(scene.slots(), 1);
    assert!(scene.opens("old"));
}

#[test]
fn a_damaged_slot_is_listed_as_damaged_and_can_be_taken_away() {
    let scene = Scene::new();
    scene.key("old", &["add", "--new-password-file", &scene.file("new")]).expect(0);
    let listed = scene.key("old", &["list", "--json"]).expect(0).json();
    let theirs = listed.iter().find(|key| key["opens"] == false).unwrap()["name"].as_str().unwrap();
    for folder in ["keys", "mirror"] {
        let path = keys_of(&scene.repo.join(folder)).into_iter().find(|path| path.ends_with(theirs)).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes[70] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let text = scene.key("old", &["list"]).expect(0).text();
    assert!(text.contains("damaged"), "{text}");
    let ran = scene.key("old", &["passwd", "--new-password-file", &scene.file("third")]).expect(0);
    assert!(ran.complaint().contains("xsnap key remove"), "{}", ran.complaint());
    scene.key("third", &["remove", theirs]).expect(0);
    assert_eq!(scene.slots(), 1);
    finish(on(&scene.repo, ["check"]).env("XSNAP_PASSWORD", "third")).expect(0);
}

#[test]
fn a_repository_without_encryption_has_no_keys_and_says_what_can_be_done() {
    let scene = Scene::new();
    let plain = scene.path.join("plain");
    run(&plain, ["init"]).expect(0);
    for words in [&["list"][..], &["add", "--new-password-command", "echo x"], &["passwd"], &["remove", "x"]] {
        let ran = run(&plain, ["key"].iter().chain(words)).expect(2);
        let said = ran.complaint();
        assert!(said.contains("not encrypted") && said.contains("init --encrypt"), "{said}");
    }
    assert_eq!(fs::read_dir(plain.join("keys")).unwrap().count(), 0);
    let nowhere = scene.path.join("nowhere");
    run(&nowhere, ["key", "list"]).expect(10);
    assert!(!nowhere.exists());
}

#[test]
fn keys_are_not_changed_while_somebody_else_uses_the_repository() {
    let scene = Scene::new();
    let lock = fs::File::options().append(true).open(scene.repo.join("lock")).unwrap();
    lock.lock_shared().unwrap();
    scene.key("old", &["list"]).expect(0);
    scene.key("old", &["add", "--new-password-file", &scene.file("new")]).expect(11);
    scene.key("old", &["passwd", "--new-password-file", &scene.file("new")]).expect(11);
    lock.unlock().unwrap();
    assert!(!scene.opens("new") && scene.slots() == 1);
}
