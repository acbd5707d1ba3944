//! What was backed up comes back: trees of oddities, random trees and their edits, folders of many names, parts.

use crate::support::{
    edits::{entries, random_edits},
    node,
    odd::odd_tree,
    program::{copy, run},
    random::Random,
    same::{Options, assert_same, differences, differences_with},
    store::{SETTLED, Store, Told, place},
    tree::random_tree,
};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread::sleep,
};
use xsnap::{
    archive::{filter::Patterns, request::Overwrite},
    error::Error,
    id::{BlobId, SnapshotId},
    repo::{content::Run, listing::runs, opening::Access, snapshot::Snapshot, tree::Node},
};

#[test]
fn a_tree_of_oddities_comes_back_exactly_encrypted_or_not() {
    if !node::privileged() {
        return;
    }
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    assert_eq!(odd_tree(&source), Vec::<String>::new(), "everything odd can be made here");
    for (password, threads) in [(None, 1), (Some("secret"), 4)] {
        let mut store = Store::init(path.join(format!("repository {threads}")), password);
        store.threads = threads;
        let first = store.backup(&source);
        let restored = path.join(format!("restored {threads}"));
        store.restore(first.id, &source, &restored);
        assert_same(&source, &restored);
        assert_eq!(store.verify(first.id, &source, &restored), (0, Vec::new()));
        // Over what is there already, from a catalogue that had to be made again.
        store.forget_catalogue();
        let again = store.restore(first.id, &source, &restored);
        assert_eq!((again.files, again.bytes), (0, 0), "a file is never written where it is the same already");
        assert_same(&source, &restored);
        let second = store.backup(&source);
        let [first, second] = [first, second].map(|snapshot| store.entry(&snapshot, &source));
        assert_eq!(second, first, "an unchanged tree is stored as the same tree");
        store.assert_whole();
    }
}

/// A random tree, the states that it went through, and the repository that is to remember them.
struct Case {
    seed: u64,
    folder: PathBuf,
    store: Store,
    states: Vec<(SnapshotId, PathBuf)>,
}

impl Case {
    fn new(seed: u64, place: &Path) -> Self {
        let folder = place.join(format!("case {seed}"));
        fs::create_dir(&folder).unwrap();
        let mut store = Store::init(folder.join("repository"), (seed % 2 == 1).then_some("secret"));
        store.threads = if seed % 4 < 2 { 1 } else { 4 };
        random_tree(seed, &folder.join("live"));
        Self { seed, folder, store, states: Vec::new() }
    }

    fn live(&self) -> PathBuf {
        self.folder.join("live")
    }

    /// Takes a snapshot, and keeps a copy of what was there.
    fn remember(&mut self) {
        let copied = self.folder.join(format!("state {}", self.states.len()));
        copy(&self.live(), &copied);
        assert_same(&self.live(), &copied);
        let snapshot = self.store.backup(&self.live());
        self.states.push((snapshot.id, copied));
    }

    /// Every snapshot restores as the copy that was made with it.
    fn prove(&self, when: &str) {
        for (n, (id, copied)) in self.states.iter().enumerate() {
            let restored = self.folder.join("restored");
            self.store.restore(*id, &self.live(), &restored);
            let found = differences(copied, &restored);
            assert!(found.is_empty(), "seed {}, snapshot {n}, {when}: {found:#?}", self.seed);
            fs::remove_dir_all(restored).unwrap();
        }
    }
}

#[test]
fn every_state_of_a_random_tree_comes_back_whatever_was_edited_later() {
    let (_place, path) = place();
    let mut cases: Vec<Case> = (0..20).map(|seed| Case::new(seed, &path)).collect();
    // From here on the first backup's times are trusted, so that the edits must be noticed and are not stumbled upon.
    sleep(SETTLED);
    for case in &mut cases {
        case.remember();
        for edit in 0..2 {
            random_edits(case.seed * 2 + edit, &case.live());
            case.remember();
        }
        case.prove("all snapshots there");
        case.store.forget_catalogue();
        case.prove("without the catalogue");
        case.store.assert_whole();
    }
}

#[test]
fn every_state_comes_back_through_the_program_too() {
    for (seed, threads) in [(100, "1"), (101, "4"), (102, "1"), (103, "4")] {
        let (_place, path) = place();
        let [live, repo] = ["live", "repository"].map(|name| path.join(name));
        random_tree(seed, &live);
        for n in 0..2 {
            if n > 0 {
                random_edits(seed, &live);
            }
            copy(&live, &path.join(format!("state {n}")));
            run(&repo, ["backup", "--threads", threads, "--tag", &format!("n{n}"), live.to_str().unwrap()]).expect(0);
        }
        for n in 0..2 {
            let (restored, what) = (path.join(format!("restored {n}")), format!("latest:{}", live.display()));
            let tag = format!("n{n}");
            let words = ["restore", "--threads", threads, "--verify", "--tag", &tag, &what, "--target"];
            run(&repo, words.iter().map(AsRef::as_ref).chain([restored.as_os_str()])).expect(0);
            assert_same(&path.join(format!("state {n}")), &restored);
        }
        run(&repo, ["check", "--read-data"]).expect(0);
    }
}

/// The ids of the pieces that a folder is stored as.
fn pieces(store: &Store, snapshot: &Snapshot, folder: &Path) -> HashSet<BlobId> {
    let repository = store.open(Access::Read);
    let reader = repository.reader(Arc::new(repository.index().unwrap()));
    let Node::Folder { content } = store.entry(snapshot, folder).node else { panic!("a folder") };
    let id = |run| match run {
        Run::Data { id, .. } => id,
        Run::Hole { .. } => panic!("a folder has no holes"),
    };
    runs(&reader, &content).map(|run| id(run.unwrap())).collect()
}

#[test]
fn one_name_more_among_100_000_rewrites_one_place_of_the_folder() {
    const NAMES: usize = 100_000;
    let (_place, path) = place();
    let folder = path.join("folder");
    fs::create_dir(&folder).unwrap();
    for n in 0..NAMES {
        fs::File::create(folder.join(format!("node{n:06}.cfg"))).unwrap();
    }
    sleep(SETTLED);
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&folder);
    assert_eq!(first.counts.files, NAMES as u64);
    let before = store.total_bytes();
    fs::write(folder.join("node050000.new"), b"one more").unwrap();
    let second = store.backup(&folder);
    assert_eq!(second.counts.files_read, 1);
    let added = store.total_bytes() - before;
    assert!(added < 20_000, "one name more added {added} bytes");
    let (old, new) = (pieces(&store, &first, &folder), pieces(&store, &second, &folder));
    assert!(old.len() > 10, "the folder is cut");
    // One piece becomes another; a name that is itself a place to cut leaves two; and where more than a thousand names
    // have no such place, the piece after it moves too.
    let (added, gone) = (new.difference(&old).count(), old.difference(&new).count());
    assert!(gone <= 2 && added <= gone + 1, "{added} pieces instead of {gone}, of {}", new.len());
    let restored = path.join("restored");
    store.restore(second.id, &folder, &restored);
    assert_same(&folder, &restored);
}

#[test]
fn a_folder_or_a_file_of_a_snapshot_can_be_restored_alone() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir_all(source.join("a/b")).unwrap();
    fs::write(source.join("a/b/file"), "file").unwrap();
    fs::write(source.join("a/other"), "other").unwrap();
    let repo = path.join("repository");
    run(&repo, ["backup", source.to_str().unwrap()]).expect(0);
    let restore = |what: &str, target: &Path| {
        let what = format!("latest:{}/{what}", source.display());
        run(&repo, ["restore", &what, "--target", target.to_str().unwrap(), "--verify"]).expect(0)
    };
    restore("a", &path.join("folder"));
    assert_same(&source.join("a"), &path.join("folder"));
    restore("a/b/file", &path.join("one file"));
    assert_eq!(fs::read_dir(path.join("one file")).unwrap().count(), 1);
    let ignore_root = Options { ignore_root: true };
    assert_eq!(differences_with(&source.join("a/b"), &path.join("one file"), ignore_root), Vec::<String>::new());
    let missing = format!("latest:{}/a/none", source.display());
    let ran = run(&repo, ["restore", &missing, "--target", path.join("none").to_str().unwrap()]).expect(2);
    assert!(ran.complaint().contains("a/none"), "{}", ran.complaint());
    assert!(!path.join("none").exists());
}

/// Paths below a folder, without the folder's own.
fn names(folder: &Path) -> Vec<String> {
    entries(folder).iter().map(|p| p.strip_prefix(folder).unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn patterns_choose_what_is_restored() {
    let (_place, path) = place();
    let source = path.join("source");
    for file in ["a/1.cfg", "a/1.log", "b/2.cfg", "b/keep.log", "b/deep/3.cfg"] {
        fs::create_dir_all(source.join(file).parent().unwrap()).unwrap();
        fs::write(source.join(file), file).unwrap();
    }
    let store = Store::init(path.join("repository"), None);
    let id = store.backup(&source).id;
    let restored = |include: &[&str], exclude: &[&str]| {
        let target = tempfile::tempdir().unwrap();
        store.restore_as(id, &source, target.path(), |request| {
            request.include = Patterns::new(include).unwrap();
            request.exclude = Patterns::new(exclude).unwrap();
        });
        let files = |name: &String| !target.path().join(name).is_dir();
        names(target.path()).into_iter().filter(files).collect::<Vec<_>>()
    };
    assert_eq!(restored(&[], &["*.log", "!keep.log"]), ["a/1.cfg", "b/2.cfg", "b/deep/3.cfg", "b/keep.log"]);
    assert_eq!(restored(&["*.log"], &[]), ["a/1.log", "b/keep.log"]);
    assert_eq!(restored(&[&format!("{}/b", source.display())], &["deep/"]), ["b/2.cfg", "b/keep.log"]);
    assert_eq!(restored(&["deep"], &[]), ["b/deep/3.cfg"]);
    let target = path.join("only what leads there");
    store.restore_as(id, &source, &target, |request| request.include = Patterns::new(["1.cfg"]).unwrap());
    assert_eq!(names(&target), ["a", "a/1.cfg"], "no folder is made in which nothing is restored");
}

#[test]
fn a_restore_that_was_interrupted_goes_on_whatever_it_may_overwrite() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    let mut random = Random::new("interrupted", 0);
    for n in 0..60 {
        fs::write(source.join(format!("file {n:02}")), random.bytes(700_000)).unwrap();
    }
    let mut store = Store::init(path.join("repository"), None);
    store.threads = 1;
    let id = store.backup(&source).id;
    for overwrite in [Overwrite::Always, Overwrite::IfChanged, Overwrite::IfNewer, Overwrite::Never] {
        let target = path.join(format!("target {overwrite:?}"));
        for entries in [7, 23] {
            let told = Told::stopping_after(entries);
            let stopped = store.try_restore(id, &source, &target, &told, |request| request.overwrite = overwrite);
            assert!(matches!(stopped, Err(Error::Interrupted)), "{stopped:?}");
        }
        assert!(differences(&source, &target).len() > 10, "it was interrupted in the middle");
        store.restore_as(id, &source, &target, |request| request.overwrite = overwrite);
        assert_same(&source, &target);
    }
}
