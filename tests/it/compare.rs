//! What differs between two snapshots, and between one and the live files: the same as a plain walk of both trees finds,
//! whatever was done to them.

use crate::support::{
    compared::{drifted, of},
    edits::random_edits,
    faults::Faulty,
    store::{Store, Told, place},
    tree::random_tree,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    archive::{
        changes::{Aspect, Change, Comparison, Difference},
        compare::{Named, Pair, SideBySide},
        drift::{DriftRequest, drift},
        filter::Patterns,
    },
    error::{Error, Result},
    id::SnapshotId,
    progress::Progress,
    repo::{
        opening::{Access, Credentials},
        repository::Repository,
    },
    storage::{local::LocalStorage, object::Folder},
};

/// What a plain walk sees of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    kind: u32,
    bytes: Option<Vec<u8>>,
    target: Option<PathBuf>,
    mode: u32,
    time: (i64, i64),
}

/// Everything at and below a folder, by path.
fn picture(root: &Path) -> BTreeMap<Vec<u8>, Seen> {
    let seen = |path: &Path| {
        let meta = path.symlink_metadata().unwrap();
        let kind = meta.mode() & 0o170_000;
        Seen {
            kind,
            bytes: meta.is_file().then(|| fs::read(path).unwrap()),
            target: meta.is_symlink().then(|| fs::read_link(path).unwrap()),
            mode: if meta.is_symlink() { 0 } else { meta.mode() & 0o7777 },
            time: (meta.mtime(), meta.mtime_nsec()),
        }
    };
    let paths = walkdir::WalkDir::new(root).into_iter().map(|entry| entry.unwrap().into_path());
    paths.map(|path| (path.as_os_str().as_bytes().to_vec(), seen(&path))).collect()
}

/// A path, what became of it, and in what it differs.
type Line = (Vec<u8>, char, BTreeSet<Aspect>);

/// What two pictures differ in; which other names a file is linked with is not looked at.
fn expected(before: &BTreeMap<Vec<u8>, Seen>, after: &BTreeMap<Vec<u8>, Seen>) -> BTreeSet<Line> {
    let mut lines = BTreeSet::new();
    for path in before.keys().chain(after.keys()) {
        let line = match (before.get(path), after.get(path)) {
            (Some(_), None) => ('-', BTreeSet::new()),
            (None, _) => ('+', BTreeSet::new()),
            (Some(a), Some(b)) => {
                let mut aspects = BTreeSet::new();
                let same_kind = a.kind == b.kind;
                aspects.extend((!same_kind).then_some(Aspect::Kind));
                aspects.extend((same_kind && a.bytes != b.bytes).then_some(Aspect::Content));
                aspects.extend((same_kind && a.target != b.target).then_some(Aspect::Target));
                aspects.extend((same_kind && a.mode != b.mode).then_some(Aspect::Mode));
                aspects.extend((a.time != b.time).then_some(Aspect::Time));
                ('c', aspects)
            }
        };
        if line.0 != 'c' || !line.1.is_empty() {
            lines.insert((path.clone(), line.0, line.1));
        }
    }
    lines
}

/// What a comparison says, each renamed file as one that went and one that came. Checks on the way that renames are what
/// they claim to be.
fn said(comparison: &Comparison, before: &BTreeMap<Vec<u8>, Seen>, after: &BTreeMap<Vec<u8>, Seen>) -> BTreeSet<Line> {
    let mut lines = BTreeSet::new();
    let mut say = |path: &[u8], sign, aspects| assert!(lines.insert((path.to_vec(), sign, aspects)), "told twice");
    for difference in &comparison.differences {
        assert!(!difference.perhaps);
        match &difference.change {
            Change::Added => say(&difference.path, '+', BTreeSet::new()),
            Change::Removed => say(&difference.path, '-', BTreeSet::new()),
            Change::Renamed { from } => {
                let (old, new) = (before[from].bytes.as_ref(), after[&difference.path].bytes.as_ref());
                assert!(old == new && old.is_some_and(|bytes| !bytes.is_empty()));
                say(from, '-', BTreeSet::new());
                say(&difference.path, '+', BTreeSet::new());
            }
            Change::Changed => {
                let mut aspects: BTreeSet<Aspect> = difference.aspects.iter().copied().collect();
                let links = aspects.remove(&Aspect::Links);
                // The kind says it all; a mode is told beside it, but links have none of their own.
                if aspects.contains(&Aspect::Kind) {
                    aspects.remove(&Aspect::Mode);
                }
                if !links || !aspects.is_empty() {
                    say(&difference.path, 'c', aspects);
                }
            }
        }
    }
    lines
}

/// How many files of equal content could be paired, and how many were.
fn renames(
    comparison: &Comparison,
    expected: &BTreeSet<Line>,
    pictures: [&BTreeMap<Vec<u8>, Seen>; 2],
) -> (usize, usize) {
    let contents = |sign: char, picture: &BTreeMap<Vec<u8>, Seen>| {
        let mut contents: HashMap<Vec<u8>, usize> = HashMap::new();
        for (path, ..) in expected.iter().filter(|line| line.1 == sign) {
            if let Some(bytes) = picture[path].bytes.clone().filter(|bytes| !bytes.is_empty()) {
                *contents.entry(bytes).or_default() += 1;
            }
        }
        contents
    };
    let (old, new) = (contents('-', pictures[0]), contents('+', pictures[1]));
    let possible = old.iter().map(|(bytes, count)| *count.min(new.get(bytes).unwrap_or(&0))).sum();
    let done = comparison.differences.iter().filter(|d| matches!(d.change, Change::Renamed { .. })).count();
    (possible, done)
}

/// Compares a path of two snapshots.
fn compared(store: &Store, before: SnapshotId, after: SnapshotId, path: &[u8], told: &dyn Progress) -> Comparison {
    let repository = store.open(Access::Read);
    of(&repository, before, after, path, told)
}

#[test]
fn whatever_was_done_to_a_tree_is_told_and_nothing_else() {
    let (_place, path) = place();
    for seed in 0..12 {
        let source = path.join(format!("source {seed}"));
        random_tree(seed, &source);
        let store = Store::init(path.join(format!("repository {seed}")), (seed == 3).then_some("secret"));
        let first = store.backup(&source);
        let before = picture(&source);
        let told = Told::default();
        for read_all in [false, true] {
            assert!(drifted(&store, &first, b"", read_all, &told).differences.is_empty());
        }
        let edits = random_edits(seed, &source);
        let after = picture(&source);
        let lines = expected(&before, &after);
        assert!(lines.len() > 5, "{edits:?}");
        let live = drifted(&store, &first, b"", seed % 2 == 0, &told);
        let second = store.backup(&source);
        let stored = compared(&store, first.id, second.id, b"", &told);
        for comparison in [&live, &stored] {
            assert_eq!(said(comparison, &before, &after), lines, "seed {seed}: {edits:#?}");
            let (possible, done) = renames(comparison, &lines, [&before, &after]);
            assert_eq!(possible, done, "seed {seed}");
        }
        let back = compared(&store, second.id, first.id, b"", &told);
        assert_eq!(said(&back, &after, &before), expected(&after, &before));
        assert_eq!(told.problems(), [""; 0]);
        assert!(compared(&store, second.id, second.id, b"", &told).differences.is_empty());
    }
}

/// What is told of a path, as a person would say it.
fn by_path<'a>(comparison: &'a Comparison, path: &Path) -> &'a Difference {
    let mut own = comparison.differences.iter().filter(|d| d.path == path.as_os_str().as_bytes());
    own.next().unwrap_or_else(|| panic!("{} is not told of", path.display()))
}

#[test]
fn a_file_under_another_name_is_renamed_and_each_is_paired_once_with_its_own_name_first() {
    let (_place, path) = place();
    let source = path.join("source");
    for folder in ["a", "b", "c"] {
        fs::create_dir_all(source.join(folder)).unwrap();
    }
    for file in ["a/one", "a/two", "a/three"] {
        fs::write(source.join(file), "the same in all").unwrap();
    }
    fs::write(source.join("a/empty"), "").unwrap();
    fs::write(source.join("a/other"), "other").unwrap();
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&source);
    fs::remove_dir_all(source.join("a")).unwrap();
    fs::write(source.join("b/new"), "the same in all").unwrap();
    fs::write(source.join("c/two"), "the same in all").unwrap();
    fs::write(source.join("c/empty"), "").unwrap();
    fs::write(source.join("c/other"), "OTHER").unwrap();
    let told = Told::default();
    let live = drifted(&store, &first, b"", false, &told);
    let second = store.backup(&source);
    for comparison in [live, compared(&store, first.id, second.id, b"", &told)] {
        let from = |file: &str| match &by_path(&comparison, &source.join(file)).change {
            Change::Renamed { from } => Path::new(std::ffi::OsStr::from_bytes(from)).to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(from("c/two"), source.join("a/two"));
        assert_eq!(from("b/new"), source.join("a/one"));
        let totals = comparison.totals();
        assert_eq!((totals.renamed.files, totals.renamed.bytes), (2, 30));
        assert_eq!(
            (totals.removed.entries, totals.removed.files, totals.removed.bytes),
            (4, 3, 20),
            "a, three, empty, other"
        );
        assert_eq!((totals.added.files, totals.added.bytes), (2, 5), "empty, other");
    }
}

#[test]
fn every_aspect_is_named() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir(&source).unwrap();
    let at = |name: &str| source.join(name);
    for name in ["content", "mode", "time", "attribute", "linked", "kind"] {
        fs::write(at(name), "something").unwrap();
    }
    symlink("here", at("link")).unwrap();
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&source);
    let mtime = fs::metadata(at("attribute")).unwrap().modified().unwrap();
    fs::write(at("content"), "SOMETHING").unwrap();
    fs::set_permissions(at("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
    fs::File::options().write(true).open(at("time")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    rustix::fs::setxattr(at("attribute"), "user.colour", b"red", rustix::fs::XattrFlags::empty()).unwrap();
    fs::File::options().write(true).open(at("attribute")).unwrap().set_modified(mtime).unwrap();
    fs::hard_link(at("linked"), at("second name")).unwrap();
    fs::remove_file(at("kind")).unwrap();
    fs::create_dir(at("kind")).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("there", at("link")).unwrap();
    let told = Told::default();
    let live = drifted(&store, &first, b"", false, &told);
    let second = store.backup(&source);
    for comparison in [live, compared(&store, first.id, second.id, b"", &told)] {
        let has = |name: &str, aspect| by_path(&comparison, &at(name)).aspects.contains(&aspect);
        let only = |name: &str, aspect| by_path(&comparison, &at(name)).aspects == [aspect];
        assert!(has("content", Aspect::Content) && has("kind", Aspect::Kind) && has("link", Aspect::Target));
        assert!(only("mode", Aspect::Mode) && only("time", Aspect::Time) && only("attribute", Aspect::Attributes));
        assert!(only("linked", Aspect::Links) && by_path(&comparison, &at("second name")).change == Change::Added);
        let metadata: Vec<bool> = ["content", "mode", "time", "attribute", "linked", "kind", "link"]
            .map(|name| by_path(&comparison, &at(name)).is_metadata_only())
            .into();
        assert_eq!(metadata, [false, true, true, true, true, false, false]);
        let mut without = Comparison { differences: comparison.differences.clone(), unknown: 0 };
        without.without_metadata();
        assert_eq!(comparison.differences.len() - without.differences.len(), 5, "four files and their folder");
    }
    assert_eq!(told.problems(), [""; 0]);
}

#[test]
fn a_part_is_compared_alone_and_folders_on_the_way_say_nothing() {
    let (_place, path) = place();
    let top = path.join("top");
    let [one, two] = ["one", "two"].map(|name| top.join(name));
    for folder in [&one, &two] {
        fs::create_dir_all(folder.join("inner")).unwrap();
        fs::write(folder.join("inner/file"), "before").unwrap();
    }
    let store = Store::init(path.join("repository"), None);
    let sources = store.request(&[&one, &two.join("inner/file")]);
    let first = store.backup_as(&sources);
    for folder in [&one, &two] {
        fs::write(folder.join("inner/file"), "after it").unwrap();
    }
    fs::write(top.join("beside"), "never backed up").unwrap();
    let second = store.backup_as(&sources);
    let told = Told::default();
    let paths = |comparison: &Comparison| -> Vec<PathBuf> {
        let path = |d: &Difference| PathBuf::from(std::ffi::OsStr::from_bytes(&d.path));
        comparison.differences.iter().map(path).collect()
    };
    let file = |folder: &Path| folder.join("inner/file");
    let bytes = |path: &Path| path.as_os_str().as_bytes().to_vec();
    for (part, found) in [
        (Vec::new(), vec![file(&one), file(&two)]),
        (bytes(&top), vec![file(&one), file(&two)]),
        (bytes(&one), vec![file(&one)]),
        (bytes(&two), vec![file(&two)]),
        (bytes(&file(&one)), vec![file(&one)]),
        (bytes(&file(&two)), vec![file(&two)]),
    ] {
        assert_eq!(paths(&compared(&store, first.id, second.id, &part, &told)), found);
        assert_eq!(paths(&drifted(&store, &first, &part, false, &told)), found);
        assert!(drifted(&store, &second, &part, true, &told).differences.is_empty());
    }
    fs::remove_dir_all(&two).unwrap();
    symlink("one", &two).unwrap();
    let gone = drifted(&store, &first, b"", false, &told);
    assert_eq!(paths(&gone), [file(&one), two.clone(), file(&two)], "a link is not followed");
    assert_eq!(by_path(&gone, &two).aspects, [Aspect::Kind]);
    assert_eq!(by_path(&gone, &file(&two)).change, Change::Removed);
}

#[test]
fn what_was_left_out_is_gone_only_perhaps() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir_all(source.join("deep")).unwrap();
    fs::write(source.join("kept"), "kept").unwrap();
    fs::write(source.join("scratch.tmp"), "scratch").unwrap();
    let store = Store::init(source.join("repository"), None);
    let own = fs::metadata(&store.path).unwrap();
    let mut request = store.request(&[&source]);
    request.exclude = Patterns::new(["*.tmp"]).unwrap();
    request.skip = vec![(own.dev(), own.ino())];
    let first = store.backup_as(&request);
    fs::write(source.join("deep/new"), "new").unwrap();
    let told = Told::default();
    let repository = store.open(Access::Read);
    let reader = repository.tree_reader().unwrap();
    for patterns in [Patterns::default(), Patterns::new(["*.tmp"]).unwrap()] {
        let skip = request.skip.as_slice();
        let asked = DriftRequest {
            snapshot: &first,
            path: b"",
            exclude: &patterns,
            exclude_caches: false,
            read_all: false,
            skip,
        };
        let live = drift(&reader, &asked, &told).unwrap();
        let mut perhaps: Vec<&[u8]> =
            live.differences.iter().filter(|d| d.perhaps).map(|d| d.path.as_slice()).collect();
        perhaps.sort_unstable();
        let scratch = source.join("scratch.tmp");
        assert_eq!(perhaps, [scratch.as_os_str().as_bytes()][usize::from(!patterns.is_empty())..]);
        assert!(!by_path(&live, &source.join("deep/new")).perhaps);
        assert!(live.differences.iter().all(|d| !d.path.starts_with(store.path.join("packs").as_os_str().as_bytes())));
    }
    request.exclude = Patterns::default();
    let second = store.backup_as(&request);
    let stored = compared(&store, first.id, second.id, b"", &told);
    assert!(by_path(&stored, &source.join("scratch.tmp")).perhaps);
    assert_eq!(stored.totals().perhaps, 1);
}

#[derive(Debug)]
struct Name(&'static str);

impl Named for Name {
    fn name(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[test]
fn what_a_lost_piece_would_have_said_is_not_guessed() {
    let names = |names: &[&'static str]| -> Vec<Result<Name>> {
        let lost = || Err(Error::damaged("tree", "lost"));
        names.iter().map(|name| if *name == "!" { lost() } else { Ok(Name(name)) }).collect()
    };
    let merged = |left: &[&'static str], right: &[&'static str]| {
        let mut merge = SideBySide::new(names(left).into_iter(), names(right).into_iter());
        let (mut text, mut lost) = (String::new(), 0);
        while let Some(pair) = merge.step(&mut |_| lost += 1).unwrap() {
            text.push_str(&match pair {
                Pair::Both(a, b) => format!("{}={} ", a.0, b.0),
                Pair::Left(a) => format!("-{} ", a.0),
                Pair::Right(b) => format!("+{} ", b.0),
                Pair::Unknown => "? ".into(),
            });
        }
        (text, lost)
    };
    assert_eq!(merged(&["a", "c"], &["b", "c", "d"]), ("-a +b c=c +d ".into(), 0));
    assert_eq!(merged(&["b", "!", "e"], &["a", "b", "c", "d", "e", "f"]), ("+a b=b ? ? e=e +f ".into(), 1));
    assert_eq!(merged(&["a", "b", "c"], &["!", "b"]), ("? b=b -c ".into(), 1));
    assert_eq!(merged(&["a", "b", "c"], &["a", "!"]), ("a=a ? ? ".into(), 1));
    assert_eq!(merged(&["!"], &["!", "x"]), ("? ".into(), 2));
    assert_eq!(merged(&["a", "!", "!", "z"], &["m", "z"]), ("-a ? z=z ".into(), 2));
    let broken: Result<Name> = Err(Error::Interrupted);
    let mut merge = SideBySide::new(vec![broken].into_iter(), names(&["a"]).into_iter());
    assert!(merge.step(&mut |_| {}).is_err(), "what is no damage ends it");
}

#[test]
fn damage_is_a_problem_told_and_nothing_is_added_or_removed_by_it() {
    let (_place, path) = place();
    let source = path.join("source");
    fs::create_dir_all(source.join("folder")).unwrap();
    for n in 0..20 {
        fs::write(source.join(format!("folder/{n}")), n.to_string()).unwrap();
    }
    let store = Store::init(path.join("repository"), None);
    let first = store.backup(&source);
    fs::write(source.join("folder/3"), "changed").unwrap();
    let second = store.backup(&source);
    let faulty = Arc::new(Faulty::new(Arc::new(LocalStorage::new(&store.path))));
    let repository =
        Repository::open(faulty.clone(), Credentials::Ask(&|| Err(Error::PasswordNeeded)), Access::Read).unwrap();
    let index = repository.index().unwrap();
    let trees = |pack: &&xsnap::blobs::index::IndexedPack| pack.kind == xsnap::storage::envelope::Kind::TreePack;
    let pack = index.packs().iter().find(trees).unwrap();
    faulty.spoil(Folder::Packs, &pack.name, 100..u64::MAX);
    for (before, after) in [(first.id, second.id), (second.id, first.id)] {
        let told = Told::default();
        let comparison = of(&repository, before, after, b"", &told);
        assert_eq!(comparison.differences.len(), 0, "{:#?}", comparison.differences);
        assert_eq!(told.problems().len(), 1, "{:?}", told.problems());
        assert!(comparison.unknown > 0);
    }
}
