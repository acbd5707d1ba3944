//! Many snapshots looked at together: the versions of a file, and what each snapshot takes; both the same as a slow and
//! plain count finds, and with every listing opened once.

use crate::support::{
    compared::Steps,
    edits::random_edits,
    faults::{Faulty, Verb},
    store::{Store, Told, place},
    tree::random_tree,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::Arc,
};
use xsnap::{
    archive::{
        filter::Patterns,
        versions::{Wanted, versions},
    },
    blobs::{index::Index, reader::Reader},
    error::Error,
    id::{BlobId, SnapshotId},
    repo::{
        content::{Content, Run},
        listing::{listing, runs},
        opening::{Access, Credentials},
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Node, decode_stats},
        usage::{Held, usage},
    },
    storage::{local::LocalStorage, object::Folder},
};

/// A repository of the nights of two machines, taken in turns, of which one forgets a night.
fn nights(path: &Path, seeds: u64) -> (Store, Vec<SnapshotId>) {
    let store = Store::init(path.join("repository"), None);
    let mut ids = Vec::new();
    for seed in 0..seeds {
        for host in ["one", "two"] {
            let source = path.join("source").join(host);
            if seed == 0 {
                random_tree(if host == "one" { 1 } else { 2 }, &source);
                fs::write(source.join("shared"), "both have it".repeat(50)).unwrap();
            } else {
                random_edits(seed, &source);
            }
            let mut request = store.request(&[&source]);
            request.host = host.into();
            ids.push(store.backup_as(&request).id);
        }
    }
    (store, ids)
}

/// Takes a snapshot away, as forgetting does.
fn forget(store: &Store, id: SnapshotId) {
    let name = id.object(xsnap::id::Generation::FIRST);
    for folder in ["mirror", "snapshots"] {
        fs::remove_file(store.path.join(folder).join(name.as_str())).unwrap();
    }
}

/// Every entry of a snapshot, by path.
fn entries(reader: &Reader, snapshot: &Snapshot) -> BTreeMap<Vec<u8>, Entry> {
    fn walk(reader: &Reader, path: &[u8], folder: &Entry, all: &mut BTreeMap<Vec<u8>, Entry>) {
        let Node::Folder { content } = &folder.node else { return };
        for entry in listing(reader, content, None) {
            let entry = entry.unwrap().0;
            let path = [path, b"/", &entry.name].concat();
            walk(reader, &path, &entry, all);
            all.insert(path, entry);
        }
    }
    let mut all = BTreeMap::new();
    walk(reader, b"", &snapshot.root, &mut all);
    all
}

#[test]
fn the_versions_of_a_name_are_those_that_the_snapshots_have() {
    let (_place, path) = place();
    let (store, ids) = nights(&path, 6);
    forget(&store, ids[5]);
    let repository = store.open(Access::Read);
    let reader = repository.tree_reader().unwrap();
    let all: Vec<&Snapshot> = repository.snapshots().iter().collect();
    let trees: HashMap<SnapshotId, BTreeMap<Vec<u8>, Entry>> =
        all.iter().map(|snapshot| (snapshot.id, entries(&reader, snapshot))).collect();
    for (patterns, chosen) in [
        (vec!["*"], all.clone()),
        (vec!["*.txt", "shared"], all.clone()),
        (vec!["/**/*0*", "!*.txt"], all[2..7].to_vec()),
    ] {
        for by_metadata in [false, true] {
            let patterns = Patterns::new(&patterns).unwrap();
            let told = Told::default();
            let wanted = Wanted { patterns: &patterns, by_metadata };
            let found = versions(&reader, &chosen, &wanted, &told).unwrap();
            assert_eq!(told.problems(), [""; 0]);
            let mut expected = BTreeMap::<Vec<u8>, BTreeSet<SnapshotId>>::new();
            for snapshot in &chosen {
                for (path, entry) in &trees[&snapshot.id] {
                    if patterns.matches(path, matches!(entry.node, Node::Folder { .. })) {
                        expected.entry(path.clone()).or_default().insert(snapshot.id);
                    }
                }
            }
            assert!(expected.len() > 1 && expected.values().any(|ids| ids.len() > 1));
            let paths: Vec<&Vec<u8>> = found.found.iter().map(|found| &found.path).collect();
            assert_eq!(paths, expected.keys().collect::<Vec<_>>(), "in order");
            for path in &found.found {
                let mut holders: Vec<SnapshotId> = Vec::new();
                let mut firsts = Vec::new();
                for (at, version) in path.versions.iter().enumerate() {
                    let own: Vec<&Snapshot> = found.snapshots_of(version).collect();
                    firsts.push(own.iter().map(|s| s.commit).min().unwrap());
                    for snapshot in own {
                        holders.push(snapshot.id);
                        let entry = &trees[&snapshot.id][&path.path];
                        assert!(is_same(entry, &version.entry, by_metadata));
                        let others = path.versions.iter().enumerate().filter(|(other, _)| *other != at);
                        others.for_each(|(_, other)| assert!(!is_same(entry, &other.entry, by_metadata)));
                    }
                }
                assert!(firsts.is_sorted(), "the first to come comes first");
                let holders_once: BTreeSet<SnapshotId> = holders.iter().copied().collect();
                assert_eq!((holders.len(), &holders_once), (holders_once.len(), &expected[&path.path]));
            }
        }
    }
}

fn is_same(a: &Entry, b: &Entry, by_metadata: bool) -> bool {
    let node = match (&a.node, &b.node) {
        (Node::Folder { .. }, Node::Folder { .. }) => true,
        (a, b) => a == b,
    };
    let (m, n) = (&a.metadata, &b.metadata);
    node && m.mtime == n.mtime && (!by_metadata || (m.mode, &m.owner, &m.xattrs) == (n.mode, &n.owner, &n.xattrs))
}

/// Every blob that a snapshot holds, and whether it is content.
fn holds(reader: &Reader, snapshot: &Snapshot) -> HashMap<BlobId, bool> {
    fn add(reader: &Reader, content: &Content, is_data: bool, all: &mut HashMap<BlobId, bool>) -> Vec<BlobId> {
        let mut own = Vec::new();
        let mut walk = runs(reader, content);
        for run in walk.by_ref() {
            if let Run::Data { id, .. } = run.unwrap() {
                all.insert(id, is_data);
                own.push(id);
            }
        }
        all.extend(walk.take_lists().into_iter().map(|id| (id, false)));
        own
    }
    fn walk(reader: &Reader, folder: &Content, stats: Option<&Content>, all: &mut HashMap<BlobId, bool>) {
        add(reader, folder, false, all);
        for piece in stats.iter().flat_map(|stats| add(reader, stats, false, all)) {
            decode_stats(&reader.blob(&piece).unwrap(), "stats").unwrap();
        }
        for entry in listing(reader, folder, stats) {
            let (entry, stat) = entry.unwrap();
            match &entry.node {
                Node::File { content, .. } => drop(add(reader, content, true, all)),
                Node::Folder { content } => walk(reader, content, stat.unwrap().folder.as_ref(), all),
                _ => {}
            }
        }
    }
    let mut all = HashMap::new();
    let Node::Folder { content } = &snapshot.root.node else { panic!("a folder") };
    walk(reader, content, snapshot.root_stat.folder.as_ref(), &mut all);
    all
}

/// Compares what is held with what a set of blobs is; the share of what is stored may be off by what is rounded.
#[track_caller]
fn assert_held(held: Held, blobs: &HashSet<BlobId>, index: &Index, frames: &HashMap<u32, u64>) {
    let raw: u64 = blobs.iter().map(|id| u64::from(index.places(id)[0].length_bytes)).sum();
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let share = |id: &BlobId| {
        let place = index.places(id)[0];
        let frame = index.frame(place.frame).unwrap().0.frame_bytes;
        f64::from(frame) * f64::from(place.length_bytes) / frames[&place.frame] as f64
    };
    let stored: f64 = blobs.iter().map(share).sum();
    assert_eq!((held.blobs, held.raw_bytes), (blobs.len() as u64, raw));
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let off = (held.stored_bytes as f64 - stored).abs();
    assert!(off <= 1.0 + held.raw_bytes.min(held.blobs) as f64 / 256.0, "{held:?} and {stored}");
}

#[test]
fn what_each_snapshot_takes_is_what_a_plain_count_finds() {
    let (_place, path) = place();
    let (store, ids) = nights(&path, 5);
    for forgotten in [None, Some(ids[3]), Some(ids[8])] {
        forgotten.into_iter().for_each(|id| forget(&store, id));
        let repository = store.open(Access::Read);
        let index = Arc::new(repository.index().unwrap());
        let reader = repository.reader(Arc::clone(&index));
        let mut frames = HashMap::<u32, u64>::new();
        index.iter().for_each(|(_, place)| *frames.entry(place.frame).or_default() += u64::from(place.length_bytes));
        let all = repository.snapshots();
        let held: Vec<HashMap<BlobId, bool>> = all.iter().map(|snapshot| holds(&reader, snapshot)).collect();
        let union = |of: &dyn Fn(usize) -> bool| -> HashSet<BlobId> {
            held.iter().enumerate().filter(|(at, _)| of(*at)).flat_map(|(_, own)| own.keys().copied()).collect()
        };
        let minus = |a: HashSet<BlobId>, b: &HashSet<BlobId>| -> HashSet<BlobId> { a.difference(b).copied().collect() };
        for chosen in [vec![0], vec![1, 2, 4], (0..all.len()).collect::<Vec<_>>()] {
            let is_chosen = |s: &Snapshot| chosen.iter().any(|at| all[*at].id == s.id);
            let usage = usage(&repository, &is_chosen, &Told::default()).unwrap();
            assert_eq!((usage.snapshots.len(), usage.missing), (chosen.len(), 0));
            for (snapshot, at) in usage.snapshots.iter().zip(&chosen) {
                assert_eq!(snapshot.snapshot.id, all[*at].id);
                let alone = minus(union(&|n| n == *at), &union(&|n| n != *at));
                assert_held(snapshot.alone, &alone, &index, &frames);
                let added = minus(union(&|n| n == *at), &union(&|n| n < *at));
                assert_held(snapshot.added, &added, &index, &frames);
            }
            let mine = union(&|n| chosen.contains(&n));
            assert_held(usage.alone, &minus(mine.clone(), &union(&|n| !chosen.contains(&n))), &index, &frames);
            let is_data = |id: &BlobId| held.iter().find_map(|own| own.get(id)).copied().unwrap();
            let (data, trees): (HashSet<BlobId>, HashSet<BlobId>) = mine.into_iter().partition(is_data);
            assert_held(usage.data, &data, &index, &frames);
            assert_held(usage.trees, &trees, &index, &frames);
            for host in &usage.hosts {
                let own = |n: usize| all[n].host == host.host;
                assert_held(host.alone, &minus(union(&own), &union(&|n| !own(n))), &index, &frames);
                assert_eq!(host.snapshots, (0..all.len()).filter(|n| own(*n)).count() as u64);
            }
            let known: HashSet<BlobId> = index.iter().map(|(id, _)| id).collect();
            let unneeded = minus(known, &union(&|_| true));
            assert_eq!(usage.packs.unneeded.blobs, unneeded.len() as u64);
            assert_eq!(unneeded.is_empty(), forgotten.is_none());
            assert_held(usage.packs.unneeded, &unneeded, &index, &frames);
            let needed_packs: HashSet<u32> =
                union(&|_| true).iter().map(|id| index.frame(index.places(id)[0].frame).unwrap().0.pack).collect();
            assert_eq!(usage.packs.packs - usage.packs.unneeded_packs, needed_packs.len() as u64);
            let listed = repository.storage().list(Folder::Packs).unwrap();
            assert_eq!(usage.packs.bytes, listed.iter().map(|l| l.length_bytes).sum::<u64>());
        }
    }
}

/// A shelf of many nights of which each changes little, counted in storage reads and opened listings rather than seconds.
#[test]
fn a_hundred_nights_cost_little_more_than_what_they_changed() {
    const NIGHTS: u64 = 100;
    let (_place, path) = place();
    let source = path.join("source");
    let file = |n: u64| source.join(format!("{}/{}/{n}", n % 5, n % 30));
    for n in 0..600 {
        fs::create_dir_all(file(n).parent().unwrap()).unwrap();
        fs::write(file(n), n.to_string()).unwrap();
    }
    let store = Store::init(path.join("repository"), None);
    let request = store.request(&[&source]);
    let mut repository = store.open(Access::Write);
    for night in 0..NIGHTS {
        fs::write(file(night), format!("night {night}")).unwrap();
        xsnap::archive::backup::backup(&mut repository, &request, &Told::default()).unwrap();
    }
    drop(repository);
    let faulty = Arc::new(Faulty::new(Arc::new(LocalStorage::new(&store.path))));
    let open =
        || Repository::open(faulty.clone(), Credentials::Ask(&|| Err(Error::PasswordNeeded)), Access::Read).unwrap();
    drop(open());
    faulty.forget_calls();
    let repository = open();
    // Config, and its mirror; snapshots and tables come from the catalogue.
    assert!(faulty.count_of(Verb::Read) <= 4, "{}", faulty.count_of(Verb::Read));
    assert!(faulty.count_of(Verb::List) <= 12, "{}", faulty.count_of(Verb::List));
    let all: Vec<&Snapshot> = repository.snapshots().iter().collect();
    assert_eq!(all.len() as u64, NIGHTS);

    // Folders on the way to the source, the source, 5 in it, 30 in these; then of these one, and those above it, a night.
    let way = source.components().count() as u64;
    let listings = way + 35 + (NIGHTS - 1) * (way + 2);
    let reader = repository.tree_reader().unwrap();
    let steps = Steps::default();
    faulty.forget_calls();
    let patterns = Patterns::new(["5", "7"]).unwrap();
    let wanted = Wanted { patterns: &patterns, by_metadata: false };
    let found = versions(&reader, &all, &wanted, &steps).unwrap();
    // A folder whose names say so is cut in two.
    let opened = steps.take();
    assert!((listings..listings + 100).contains(&opened), "{opened} of {listings}: each listing is opened once");
    assert!(faulty.count_of(Verb::Read) <= NIGHTS, "each frame is read once");
    let numbers: Vec<(&[u8], usize)> = found.found.iter().map(|f| (f.path.as_slice(), f.versions.len())).collect();
    let name = |n: u64| file(n).as_os_str().as_bytes().to_vec();
    let folder = |text: &str| source.join(text).as_os_str().as_bytes().to_vec();
    let expected = [(name(5), 2), (folder("0/5"), 1), (name(7), 2), (folder("2/7"), 1)];
    let mut expected: Vec<(&[u8], usize)> = expected.iter().map(|(path, n)| (path.as_slice(), *n)).collect();
    expected.sort_unstable();
    assert_eq!(numbers, expected);
    for path in &found.found {
        let holders: Vec<u64> = path.versions.iter().flat_map(|v| found.snapshots_of(v)).map(|s| s.commit).collect();
        assert_eq!(holders, (1..=NIGHTS).collect::<Vec<_>>(), "each night has one version, in order");
    }

    faulty.forget_calls();
    let usage = usage(&repository, &|_| true, &steps).unwrap();
    assert!(steps.take() <= 2 * opened, "each listing, and the stats beside it, is opened once");
    assert!(faulty.count_of(Verb::Read) <= NIGHTS, "each frame of listings is read once, and no content");
    assert_eq!(usage.snapshots.len() as u64, NIGHTS);
}
