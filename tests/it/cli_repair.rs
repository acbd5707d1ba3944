//! repair, as a person runs it.

use crate::support::{
    program::{copy, finish, on, run},
    random::Random,
    same::assert_same,
    store::place,
};
use std::{
    fs,
    path::{Path, PathBuf},
};

struct Scene {
    _place: tempfile::TempDir,
    path: PathBuf,
    repo: PathBuf,
    source: PathBuf,
    /// The file that is lost, and the one that is not.
    names: [&'static str; 2],
}

impl Scene {
    /// A repository of one snapshot of two files; a frame that holds one of them is damaged.
    fn damaged() -> Self {
        let (_place, path) = place();
        let [repo, source] = ["repository", "source"].map(|name| path.join(name));
        fs::create_dir(&source).unwrap();
        // More than a frame holds, so that not both are in one.
        fs::write(source.join("first"), Random::new("repair", 1).bytes(3 << 20)).unwrap();
        fs::write(source.join("second"), Random::new("repair", 2).bytes(3 << 20)).unwrap();
        run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
        let mut scene = Self { _place, path, repo, source, names: ["first", "second"] };
        copy(&scene.repo, &scene.path.join("second-repository"));
        let pack = scene.packs().into_iter().max_by_key(|pack| pack.metadata().unwrap().len()).unwrap();
        let mut bytes = fs::read(&pack).unwrap();
        bytes[100_000] ^= 1;
        fs::write(&pack, bytes).unwrap();
        let touched = run(&scene.repo, ["check", "--read-data", "--json"]).expect(1).message("touched");
        // Which of them is stored first depends on whose thread is faster.
        if touched["path"].as_str().unwrap().ends_with("second") {
            scene.names.reverse();
        }
        scene
    }

    fn packs(&self) -> Vec<PathBuf> {
        fs::read_dir(self.repo.join("packs")).unwrap().map(|pack| pack.unwrap().path()).collect()
    }

    fn is_whole(&self) {
        run(&self.repo, ["check", "--read-data"]).expect(0);
        let what = format!("latest:{}", self.source.display());
        run(&self.repo, ["restore", &what, "--target", self.path.join("target").to_str().unwrap()]).expect(0);
        assert_same(&self.source, &self.path.join("target"));
    }
}

#[test]
fn repair_says_what_it_will_do_and_does_nothing_in_a_dry_run() {
    let scene = Scene::damaged();
    let before = scene.packs();
    let text = run(&scene.repo, ["repair", "--dry-run"]).expect(1).text();
    let [lost, whole] = scene.names.map(|name| format!("/{name}: "));
    for said in ["touched: ", &lost, "what would be done:", "--from or --live", "1 damaged pack"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains(&whole), "{text}");
    assert_eq!(scene.packs(), before);
    let plan = run(&scene.repo, ["repair", "--dry-run", "--json"]).expect(1).message("plan");
    assert_eq!((&plan["damaged_packs"], &plan["lost_files"]), (&1.into(), &1.into()));
}

#[test]
fn live_files_and_a_second_repository_bring_back_what_is_lost() {
    for from in [&["--live"][..], &["--from"]] {
        let scene = Scene::damaged();
        let second = scene.path.join("second-repository");
        let words = ["repair", "--json"].iter().chain(from).map(Path::new);
        let second = (from == ["--from"]).then_some(second.as_path());
        let ran = run(&scene.repo, words.chain(second)).expect(0);
        let done = ran.message("repair");
        assert!(done["recovered_blobs"].as_u64() > Some(0) && done["still_damaged"] == false, "{done}");
        scene.is_whole();
    }
}

#[test]
fn what_is_found_nowhere_is_taken_out_only_when_that_is_said() {
    let scene = Scene::damaged();
    let text = run(&scene.repo, ["repair"]).expect(1).text();
    assert!(text.contains("damage is left: 1 file"), "{text}");
    let text = run(&scene.repo, ["repair", "--drop-lost"]).expect(0).text();
    assert!(text.contains("is incomplete now") && text.contains("no damage is left"), "{text}");
    run(&scene.repo, ["check", "--read-data"]).expect(0);
    let listed = run(&scene.repo, ["list", "--json"]).expect(0).message("snapshot");
    assert_eq!((&listed["complete"], &listed["damaged"]), (&false.into(), &false.into()));
    let files = run(&scene.repo, ["ls", &format!("latest:{}", scene.source.display())]).expect(0).text();
    let [lost, whole] = scene.names;
    assert!(files.contains(whole) && !files.contains(lost), "{files}");
    let what = format!("latest:{}/{whole}", scene.source.display());
    assert_eq!(run(&scene.repo, ["cat", &what]).expect(0).out, fs::read(scene.source.join(whole)).unwrap());
}

/// What is marked is what the last check has found.
#[test]
fn a_snapshot_that_a_check_found_damaged_is_marked_in_the_list_until_it_is_mended() {
    let scene = Scene::damaged();
    fs::write(scene.path.join("other"), "whole").unwrap();
    run(&scene.repo, ["backup", scene.path.join("other").to_str().unwrap()]).expect(0);
    let marks = |marked: [bool; 2], case: &str| {
        let listed = run(&scene.repo, ["list", "--json"]).expect(0).json();
        let found: Vec<bool> = listed.iter().filter_map(|object| object["damaged"].as_bool()).collect();
        assert_eq!(found, marked, "{case}");
        let text = run(&scene.repo, ["list"]).expect(0).text();
        assert_eq!(text.matches("(damaged)").count(), marked.iter().filter(|m| **m).count(), "{case}: {text}");
        assert_eq!(text.contains("`xsnap repair`"), marked.contains(&true), "{case}: {text}");
    };
    marks([true, false], "found by the check");
    run(&scene.repo, ["tag", "--add", "kept", "latest"]).expect(0);
    run(&scene.repo, ["repair"]).expect(1);
    marks([true, false], "a repair that finds nothing");
    fs::remove_file(scene.repo.join("index.sqlite")).unwrap();
    marks([false, false], "nobody has checked");
    run(&scene.repo, ["check"]).expect(0);
    marks([false, false], "the check has not read the data");
    run(&scene.repo, ["check", "--read-data"]).expect(1);
    marks([true, false], "it has");
    let first = run(&scene.repo, ["list", "--json"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
    run(&scene.repo, ["label", &first, "still damaged"]).expect(0);
    marks([true, false], "its record was written anew");
    run(&scene.repo, ["backup", scene.source.to_str().unwrap()]).expect(0);
    run(&scene.repo, ["forget", "latest"]).expect(0);
    run(&scene.repo, ["check"]).expect(0);
    marks([false, false], "a backup has stored again what was lost");
    run(&scene.repo, ["repair"]).expect(0);
    marks([false, false], "mended");
}

#[test]
fn a_password_of_the_second_repository_can_be_given_by_itself() {
    let scene = Scene::damaged();
    let other = scene.path.join("encrypted");
    let password = scene.path.join("password");
    fs::write(&password, "secret\n").unwrap();
    let make = ["backup", scene.source.to_str().unwrap(), "--password-file", password.to_str().unwrap()];
    run(&other, make).expect(0);
    let words = ["repair", "--from", other.to_str().unwrap(), "--from-password-file", password.to_str().unwrap()];
    // Another snapshot of another key: nothing of it helps, and that is no error of the password.
    let ran = run(&scene.repo, words).expect(1);
    assert!(ran.text().contains("0 blobs recovered"), "{}", ran.text());
    let mut without = on(&scene.repo, ["repair", "--from", other.to_str().unwrap()]);
    finish(&mut without).expect(12);
}

/// With them goes all knowledge of what is needed: the next prune would take every pack.
#[test]
fn where_both_folders_of_snapshots_are_gone_nothing_is_written_and_no_pack_goes() {
    let scene = Scene::damaged();
    let kept = scene.path.join("kept");
    fs::create_dir(&kept).unwrap();
    for name in ["snapshots", "mirror"] {
        fs::rename(scene.repo.join(name), kept.join(name)).unwrap();
    }
    let packs = scene.packs();
    for words in [&["prune"][..], &["backup", scene.source.to_str().unwrap()], &["repair"]] {
        let ran = run(&scene.repo, words).expect(1);
        assert!(ran.complaint().contains("snapshots and mirror are gone"), "{}", ran.complaint());
    }
    assert_eq!(scene.packs(), packs);
    for name in ["snapshots", "mirror"] {
        fs::rename(kept.join(name), scene.repo.join(name)).unwrap();
    }
    run(&scene.repo, ["repair", "--live"]).expect(0);
    scene.is_whole();
}
