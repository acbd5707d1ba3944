//! A small repository with several snapshots, the trees that they were made of, and what each path of them hangs on.
//!
//! What a damage may cost is computed here from the tables of contents of the undamaged repository, so that a test can
//! tell "lost, and had to be" from "lost for nothing".

use super::{
    edits::random_edits,
    plain,
    same::{Difference, differing},
    storage::Memory,
    tree::random_tree,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use xsnap::{
    archive::{
        backup::{self, Request},
        request::{RestoreRequest, Restored},
    },
    blobs::{chunker::ChunkSizes, reader::Reader},
    error::Result,
    id::{BlobId, ObjectName, SnapshotId},
    progress::{Event, Progress, Silent},
    repo::{
        config::Config,
        content::Content,
        listing::{listing, runs},
        opening::Access,
        repository::Repository,
        snapshot::Snapshot,
        tree::Node,
    },
    storage::object::{Folder, Storage},
};

pub use super::plain::{open, restore_request};

/// Chunks so small that a file of some hundred kilobytes has lists of its own, and packs as short as they may be.
pub fn small_config() -> Config {
    let chunks = ChunkSizes { min_bytes: 256, avg_bytes: 2 << 10, max_bytes: 8 << 10 };
    Config { chunks, pack_bytes: 1 << 20, ..Config::default() }
}

/// A folder for the places of tests below one of the machine's. It stays when the tests end, so that the folder that it
/// is in does not change while others look at it.
fn places(base: &str, what: &str) -> PathBuf {
    let base = if Path::new(base).is_dir() { base.into() } else { std::env::temp_dir() };
    let place = base.join(format!("xsnap-{what}-{}", rustix::process::geteuid().as_raw()));
    fs::create_dir_all(&place).unwrap();
    place
}

/// A folder for trees that goes with the test; in memory where there is such a file system, for a restore syncs the
/// whole of it.
pub fn quick_place() -> tempfile::TempDir {
    tempfile::tempdir_in(places("/dev/shm", "tests")).unwrap()
}

/// A folder for one live tree, below folders that do not change when tests, or other programs, come and go.
#[derive(Debug)]
pub struct LivePlace {
    /// What it is in: of this test alone as long as it is held; the live tree is `live` in it.
    pub path: PathBuf,
    _held: fs::File,
}

impl LivePlace {
    /// The first one that no other test holds; the lock goes with its process, whatever becomes of it.
    pub fn take() -> Self {
        let operation = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        let free = (0..).find_map(|n| {
            let path = places("/var/tmp", "live").join(n.to_string());
            fs::create_dir_all(&path).unwrap();
            let held = fs::File::open(&path).unwrap();
            rustix::fs::flock(&held, operation).is_ok().then(|| Self { path, _held: held })
        });
        let place = free.unwrap();
        place.clear();
        place
    }

    fn clear(&self) {
        let _ = fs::remove_dir_all(self.path.join("live"));
    }
}

impl Drop for LivePlace {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Everything that a backup or restore told as a problem.
#[derive(Debug, Default)]
pub struct Heard {
    problems: Mutex<Vec<(Vec<u8>, String)>>,
}

impl Progress for Heard {
    fn tell(&self, event: Event<'_>) {
        if let Event::Problem { path, verb, cause } = event {
            self.problems.lock().unwrap().push((path.to_vec(), format!("{verb}: {cause}")));
        }
    }
}

/// Makes a repository of small chunks and packs.
pub fn init(storage: &Arc<dyn Storage>, password: Option<&str>) -> Result<Repository> {
    plain::init(storage, small_config(), password)
}

/// Backs one folder up.
pub fn backup(repository: &mut Repository, source: &Path) -> Result<Snapshot> {
    backup_as(repository, source, |_| {})
}

/// Backs one folder up in the way that `shape` asks for.
pub fn backup_as(repository: &mut Repository, source: &Path, shape: impl FnOnce(&mut Request)) -> Result<Snapshot> {
    let mut request = plain::request(&[source]);
    shape(&mut request);
    backup::backup(repository, &request, &Silent)
}

/// What came of a restore: what was done, and every problem by the path in the snapshot.
#[derive(Debug)]
pub struct Outcome {
    pub done: Restored,
    pub problems: Vec<(Vec<u8>, String)>,
}

/// Restores the folder of a path of a snapshot into a folder, made if missing. Frames found damaged are marked.
pub fn restore_path(repository: &Repository, snapshot: &Snapshot, path: &[u8], target: &Path) -> Result<Outcome> {
    restore_with(repository, snapshot, path, target, &restore_request())
}

/// As [`restore_path`], in the way that is asked for.
pub fn restore_with(
    repository: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    target: &Path,
    request: &RestoreRequest,
) -> Result<Outcome> {
    fs::create_dir_all(target).unwrap();
    let (root, heard) = (fs::File::open(target).unwrap(), Heard::default());
    let done = plain::restore(repository, snapshot, path, root.as_fd(), request, &heard)?;
    let problems = heard.problems.into_inner().unwrap();
    assert_eq!(done.problems > 0, !problems.is_empty(), "{} problems counted, told {problems:?}", done.problems);
    Ok(Outcome { done, problems })
}

/// A frame of a pack.
pub type FrameRef = (ObjectName, u32);

/// What one path of a snapshot hangs on: each blob of its content and of the lists that lead to it, by the frames that
/// hold it. One whole frame of each is enough.
#[derive(Debug, Clone)]
pub struct Needs {
    pub blobs: Vec<BTreeSet<FrameRef>>,
    pub link: Option<u64>,
    pub is_folder: bool,
}

/// One snapshot of the small repository.
#[derive(Debug)]
pub struct Version {
    pub id: SnapshotId,
    /// A second build of the tree that it was made of.
    pub source: PathBuf,
    /// By path below the source; the source itself is the empty path.
    pub paths: BTreeMap<Vec<u8>, Needs>,
}

/// Where a frame lies.
#[derive(Debug, Clone)]
pub struct FramePlace {
    pub frame: FrameRef,
    pub offset: usize,
    pub length: usize,
}

/// A repository of several snapshots of one changing tree.
#[derive(Debug)]
pub struct Small {
    pub disk: Memory,
    pub password: Option<&'static str>,
    pub live: PathBuf,
    pub versions: Vec<Version>,
    pub frames: Vec<FramePlace>,
    /// How many blobs it holds, each place counted.
    pub blobs: usize,
    place: tempfile::TempDir,
    /// Holds the live tree and nothing else, so that its time stays.
    live_place: LivePlace,
    surroundings: Vec<(i64, i64, u64)>,
}

impl Small {
    /// Builds a tree of this seed and backs it up as often as asked for, with edits in between.
    pub fn build(seed: u64, snapshots: u64, password: Option<&'static str>) -> Self {
        let (disk, place, live_place) = (Memory::new(), quick_place(), LivePlace::take());
        let live = live_place.path.join("live");
        fs::create_dir(&live).unwrap();
        let surroundings = above(&live);
        let mut repository = init(&(Arc::new(disk.clone()) as Arc<dyn Storage>), password).unwrap();
        let mut versions = Vec::new();
        random_tree(seed, &live);
        for n in 0..snapshots {
            let source = place.path().join(format!("source-{n}"));
            random_tree(seed, &source);
            (1..=n).for_each(|edit| drop(random_edits(seed + edit, &source)));
            if n > 0 {
                random_edits(seed + n, &live);
            }
            let snapshot = backup(&mut repository, &live).unwrap();
            versions.push(Version { id: snapshot.id, source, paths: BTreeMap::new() });
        }
        let reader = repository.reader(Arc::new(repository.index().unwrap()));
        for version in &mut versions {
            let snapshot = repository.snapshots().iter().find(|s| s.id == version.id).unwrap();
            version.paths = paths_of(&reader, snapshot, live.as_os_str().as_bytes());
        }
        let frames = frames_of(&reader);
        let blobs = reader.index().len();
        Self { disk, password, live, versions, frames, blobs, place, live_place, surroundings }
    }

    /// The path of the source in the snapshots.
    pub fn path(&self) -> &[u8] {
        self.live.as_os_str().as_bytes()
    }

    /// Whether the folders above the source are still as they were when it was backed up first: they are in the trees
    /// too, and when they change, what the old trees said of them cannot be stored again.
    pub fn is_undisturbed(&self) -> bool {
        above(&self.live) == self.surroundings
    }

    /// A folder of this name beside the trees; what was there before is gone.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.place.path().join(name);
        if path.exists() {
            fs::remove_dir_all(&path).unwrap();
        }
        path
    }

    /// Opens what is on a medium that began as this one.
    pub fn open(&self, storage: &Arc<dyn Storage>, access: Access) -> Result<Repository> {
        open(storage, self.password, access)
    }

    /// The frames whose bytes are not on another medium as they are on this one.
    pub fn lost_frames(&self, damaged: &Memory) -> HashSet<FrameRef> {
        let lost = |place: &&FramePlace| {
            let range = place.offset..place.offset + place.length;
            let [before, after] = [&self.disk, damaged].map(|disk| disk.bytes(Folder::Packs, &place.frame.0));
            let whole = before.unwrap();
            after.is_none_or(|after| after.get(range.clone()) != Some(&whole[range]))
        };
        self.frames.iter().filter(lost).map(|place| place.frame.clone()).collect()
    }

    /// Restores a version and holds the outcome against what had to be lost. Says whether it came back as it was.
    ///
    /// Promises: no problems means the same tree; whatever is not lost is the same; what differs was named, itself or a
    /// folder above it; and nothing is named that was not lost.
    pub fn judge(&self, repository: &Repository, version: &Version, lost: &HashSet<FrameRef>, case: &str) -> bool {
        let is_lost = |path: &[u8]| version.is_lost(path, lost);
        let Some(snapshot) = repository.snapshots().iter().find(|s| s.id == version.id) else {
            panic!("{case}: snapshot {} is not listed", version.id);
        };
        let target = self.fresh("target");
        let outcome = match restore_path(repository, snapshot, self.path(), &target) {
            Err(e) => {
                assert!(e.is_damage() && is_lost(b""), "{case}: the restore failed: {e}");
                return false;
            }
            Ok(outcome) => outcome,
        };
        let differing = differing(&version.source, &target);
        if outcome.done.problems == 0 {
            assert!(differing.is_empty(), "{case}: no problem was told, but {differing:?}");
        }
        let named: BTreeSet<Vec<u8>> = outcome.problems.iter().map(|(path, _)| self.below_source(path)).collect();
        for Difference { path, what } in &differing {
            let linked = what.starts_with("hard link") && version.link_is_lost(path, lost);
            assert!(linked || is_lost(path), "{case}: {} differs for nothing: {what}", path.escape_ascii());
            let above = ancestors(path).any(|ancestor| named.contains(ancestor));
            assert!(linked || above, "{case}: {} is not named: {what}", path.escape_ascii());
        }
        for path in &named {
            let lost_inside = version.paths.keys().any(|p| is_lost(p) && ancestors(p).any(|a| a == path.as_slice()));
            assert!(lost_inside, "{case}: {} is named for nothing: {:?}", path.escape_ascii(), outcome.problems);
        }
        outcome.done.problems == 0
    }

    /// A path of a snapshot as one below the source.
    pub fn below_source(&self, path: &[u8]) -> Vec<u8> {
        let below = path.strip_prefix(self.path()).unwrap_or_else(|| panic!("a path inside: {}", path.escape_ascii()));
        below.strip_prefix(b"/").unwrap_or(below).to_vec()
    }
}

impl Version {
    /// Whether a path cannot come back while these frames are lost.
    pub fn is_lost(&self, path: &[u8], frames: &HashSet<FrameRef>) -> bool {
        let needs = self.paths.get(path);
        needs.is_some_and(|needs| needs.blobs.iter().any(|places| places.iter().all(|place| frames.contains(place))))
    }

    /// Whether any name of a path's inode is lost.
    fn link_is_lost(&self, path: &[u8], frames: &HashSet<FrameRef>) -> bool {
        let Some(link) = self.paths.get(path).and_then(|needs| needs.link) else { return false };
        self.paths.iter().any(|(path, needs)| needs.link == Some(link) && self.is_lost(path, frames))
    }
}

fn above(path: &Path) -> Vec<(i64, i64, u64)> {
    let facts = |p: &Path| p.symlink_metadata().map(|m| (m.mtime(), m.mtime_nsec(), m.ino())).unwrap();
    path.ancestors().skip(1).map(facts).collect()
}

/// A path below a source and everything above it, the source itself (the empty path) included.
pub fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let slashes = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
    [0].into_iter().chain(slashes).chain([path.len()]).map(|end| &path[..end])
}

fn places_of(reader: &Reader, id: &BlobId) -> BTreeSet<FrameRef> {
    let frame = |frame| reader.index().frame(frame).map(|(_, pack, number)| (pack.name.clone(), number)).unwrap();
    reader.index().places(id).into_iter().map(|place| frame(place.frame)).collect()
}

/// What every path at or below `source` hangs on.
fn paths_of(reader: &Reader, snapshot: &Snapshot, source: &[u8]) -> BTreeMap<Vec<u8>, Needs> {
    let mut all = BTreeMap::new();
    if let Node::Folder { content } = &snapshot.root.node {
        walk(reader, content, &[], &[], &mut all);
    }
    let below = |(path, needs): (Vec<u8>, Needs)| {
        let below = path.strip_prefix(source)?;
        Some((below.strip_prefix(b"/").unwrap_or(below).to_vec(), needs))
    };
    all.into_iter().filter_map(below).collect()
}

fn walk(
    reader: &Reader,
    folder: &Content,
    path: &[u8],
    above: &[BTreeSet<FrameRef>],
    all: &mut BTreeMap<Vec<u8>, Needs>,
) {
    let mut entries = listing(reader, folder, None);
    let mut listed = Vec::new();
    while let Some(entry) = entries.next() {
        let (entry, _) = entry.unwrap();
        let opened = entries.take_blobs();
        if !opened.is_empty() {
            listed = above.to_vec();
            listed.extend(opened.iter().map(|id| places_of(reader, id)));
        }
        let path = [path, b"/", &entry.name].concat();
        let mut needs = Needs { blobs: listed.clone(), link: entry.link, is_folder: false };
        match &entry.node {
            Node::Folder { content } => {
                needs.is_folder = true;
                walk(reader, content, &path, &listed, all);
            }
            Node::File { content, .. } => {
                let mut inner = runs(reader, content);
                for run in inner.by_ref() {
                    if let xsnap::repo::content::Run::Data { id, .. } = run.unwrap() {
                        needs.blobs.push(places_of(reader, &id));
                    }
                }
                needs.blobs.extend(inner.take_lists().iter().map(|id| places_of(reader, id)));
            }
            _ => {}
        }
        all.insert(path, needs);
    }
}

fn frames_of(reader: &Reader) -> Vec<FramePlace> {
    let all = (0..).map_while(|frame| reader.index().frame(frame));
    let place =
        |(frame, pack, number): (&xsnap::blobs::index::IndexedFrame, &xsnap::blobs::index::IndexedPack, u32)| {
            let (offset, length) = (usize::try_from(frame.offset_bytes).unwrap(), frame.frame_bytes as usize);
            FramePlace { frame: (pack.name.clone(), number), offset, length }
        };
    all.map(place).collect()
}
