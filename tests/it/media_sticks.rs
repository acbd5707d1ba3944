//! Sticks as they are sold: FAT32 and exFAT, with what other systems leave on them, pulled out in the middle of a write.

use crate::support::{
    edits::random_edits,
    image::{FileSystem, Image, Plugged},
    odd::odd_tree,
    program::{copy, end, on, run, start},
    random::Random,
    same::{assert_same, differences},
    store::{Store, place, total_bytes},
    tree::random_tree,
};
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};
use xsnap::repo::sweep::MaxUnused;

const STICKS: [FileSystem; 2] = [FileSystem::Fat32, FileSystem::Exfat];

/// What Windows, macOS and repair programs leave on a medium, and what a pull leaves in the middle of a write.
fn leave_foreign_things(stick: &Path, repo: &Path) {
    fs::create_dir_all(stick.join("System Volume Information")).unwrap();
    fs::write(stick.join("System Volume Information/IndexerVolumeGuid"), "{}").unwrap();
    fs::create_dir_all(stick.join("FOUND.000")).unwrap();
    for name in ["FSCK0000.REC", "._x", ".DS_Store"] {
        fs::write(stick.join(name), name).unwrap();
    }
    for folder in ["packs", "mirror", "snapshots", "keys", "config"].map(|name| repo.join(name)) {
        if folder.is_dir() {
            for name in ["FSCK0001.REC", "._y", "tmp-0123456789ab", ".fuse_hidden0000000100000001"] {
                fs::write(folder.join(name), "").unwrap();
            }
        }
    }
}

/// Restores the latest snapshot of a folder and compares it with what it was made of.
fn comes_back(repo: &Path, source: &Path, target: &Path) {
    let what = format!("latest:{}", source.display());
    run(repo, ["restore", &what, "--target", target.to_str().unwrap()]).expect(0);
    assert_same(source, target);
    fs::remove_dir_all(target).unwrap();
}

#[test]
fn the_odd_tree_comes_back_from_fat32_and_from_exfat() {
    for kind in STICKS {
        let (_place, path) = place();
        let [source, stick, target] = ["source", "stick", "target"].map(|name| path.join(name));
        let Some(image) = Image::make(kind, &path.join("image"), 200 << 20) else { return };
        fs::create_dir(&source).unwrap();
        assert_eq!(odd_tree(&source), Vec::<String>::new());
        let plugged = image.mount(&stick);
        leave_foreign_things(&stick, &stick);
        let source_word = source.to_str().unwrap();
        let made = run(&stick, ["init"]).expect(0);
        assert!(made.text().contains("made repository"), "{kind:?}: {}", made.text());
        run(&stick, ["backup", source_word]).expect(0);
        for large in ["5 MB random", "5 MB random, moved"] {
            fs::remove_file(source.join("sizes").join(large)).unwrap();
        }
        let second = run(&stick, ["backup", "--json", source_word]).expect(0).message("backup");
        let added = second["added_stored_bytes"].as_u64().unwrap();
        assert!(added < 300_000, "{kind:?}: nothing is new, and {added} bytes were added");
        let largest = walkdir::WalkDir::new(&stick).into_iter().map(|e| e.unwrap().metadata().unwrap().len()).max();
        assert!(largest.unwrap() < 100 << 20, "{kind:?}: a file of 5 GiB makes no file of {largest:?} bytes");
        // The first snapshot goes, and with it what only it needed.
        let first = run(&stick, ["list", "--json"]).expect(0).json()[0]["id"].as_str().unwrap().to_owned();
        run(&stick, ["forget", &first]).expect(0);
        let before_bytes = total_bytes(&stick.join("packs"));
        let pruned = Store::open_at(&stick).prune(MaxUnused::Bytes(0));
        assert_eq!((pruned.before_bytes, pruned.unused_bytes), (before_bytes, 0), "{kind:?}");
        assert_eq!(pruned.after_bytes, total_bytes(&stick.join("packs")), "{kind:?}");
        assert!(pruned.freed_bytes() > 4 << 20, "{kind:?}: {pruned:?}");
        plugged.unplug();
        let plugged = image.mount(&stick);
        comes_back(&stick, &source, &target);
        run(&stick, ["check", "--read-data"]).expect(0);
        fs::remove_file(stick.join("index.sqlite")).unwrap();
        run(&stick, ["backup", source_word]).expect(0);
        comes_back(&stick, &source, &target);
        drop(plugged);
    }
}

/// A stick, what is on the machine, and every state of it that a backup that has ended is of.
struct Pulled {
    path: PathBuf,
    live: PathBuf,
    states: Vec<String>,
}

impl Pulled {
    /// Changes the live tree, keeps a copy of it, and returns the copy's name.
    fn change(&self, round: u64) -> String {
        let state = format!("state-{round}");
        random_edits(round, &self.live);
        fs::write(self.live.join(format!("new {round}")), Random::new("pulled", round).bytes(1_500_000)).unwrap();
        copy(&self.live, &self.path.join(&state));
        state
    }

    /// Plugs in what was on the stick when it was pulled, and looks at every snapshot that was there for sure.
    fn plug_in_again(&self, round: u64, image: &Image) {
        let said = image.mend();
        let stick = self.path.join("pulled");
        let plugged = image.mount(&stick);
        let case = format!("round {round}, fsck: {said}");
        leave_foreign_things(&stick, &stick.join("repository"));
        let repo = stick.join("repository");
        self.states.iter().for_each(|state| self.state_comes_back(&repo, state, &case));
        // The work goes on, and what was there stays there.
        run(&repo, ["backup", "--tag", "after", self.live.to_str().unwrap()]).expect(0);
        comes_back(&repo, &self.live, &self.path.join("target"));
        let checked = run(&repo, ["check", "--read-data", "--json"]);
        let touched = checked.json().into_iter().filter(|object| object["message"] == "touched").count();
        assert_eq!(touched, 0, "{case}: {}", checked.text());
        plugged.unplug();
        fs::remove_file(self.path.join("pulled image")).unwrap();
    }

    /// Every third round the oldest state goes, and the stick is pulled in the middle of the prune.
    fn forget_and_prune(&mut self, round: u64, image: &Image, plugged: &Plugged) {
        if round % 3 != 2 {
            return;
        }
        let (oldest, repo) = (self.states.remove(0), self.path.join("stick/repository"));
        let listed = run(&repo, ["list", "--tag", &oldest, "--json"]).expect(0).json();
        run(&repo, ["forget", listed[0]["id"].as_str().unwrap()]).expect(0);
        let pruning = start(&mut on(&repo, ["prune", "--max-unused", "0", "--json"]));
        sleep(Duration::from_micros(Random::new("prune", round).below(60_000)));
        let image = plugged.frozen(|| image.copy(&self.path.join("pulled image")));
        self.plug_in_again(round, &image);
        let pruned = end(pruning).expect(0);
        assert!(pruned.message("prune")["freed_bytes"].as_u64().unwrap() > 0, "{}", pruned.text());
    }

    fn state_comes_back(&self, repo: &Path, state: &str, case: &str) {
        let (what, target) = (format!("latest:{}", self.live.display()), self.path.join("target"));
        run(repo, ["restore", "--tag", state, &what, "--target", target.to_str().unwrap()]).expect(0);
        let found = differences(&self.path.join(state), &target);
        assert!(found.is_empty(), "{state}, {case}: {found:#?}");
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn a_stick_that_is_pulled_while_it_is_written_keeps_every_snapshot() {
    let rounds = if std::env::var_os("XSNAP_TEST_LONG").is_some() { 50 } else { 5 };
    for kind in STICKS {
        let (_place, path) = place();
        let Some(image) = Image::make(kind, &path.join("image"), 100 << 20) else { return };
        let (live, stick) = (path.join("live"), path.join("stick"));
        random_tree(20, &live);
        let plugged = image.mount(&stick);
        let repo = stick.join("repository");
        let mut pulled = Pulled { path, live, states: Vec::new() };
        let mut random = Random::new("pulled", 1_000);
        let mut longest = Duration::ZERO;
        for round in 0..=rounds {
            let state = pulled.change(round);
            let began = Instant::now();
            let words = ["backup", "--tag", &state, pulled.live.to_str().unwrap()];
            let running = start(&mut on(&repo, words));
            if round > 0 {
                sleep(longest.mul_f64(random.below(1_000) as f64 / 1_000.0));
                // Late writes are in it, perhaps without earlier ones.
                pulled.plug_in_again(round, &image.copy(&pulled.path.join("pulled image")));
            }
            end(running).expect(0);
            if round == 0 {
                longest = began.elapsed();
            }
            pulled.states.push(state);
            pulled.forget_and_prune(round, &image, &plugged);
        }
        plugged.unplug();
    }
}
