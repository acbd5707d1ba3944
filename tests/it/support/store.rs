//! `Store`: a repository in a folder of its own, driven through the library, with defaults that a test changes in one
//! place.

use super::plain;
use std::{
    collections::BTreeSet,
    fs,
    io::{self},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;
use xsnap::{
    archive::{
        backup::{Request, backup},
        request::{RestoreRequest, Restored, Selected},
        verify::verify,
    },
    error::Result,
    id::SnapshotId,
    progress::{Event, Progress},
    repo::{
        check::{ReadData, check},
        config::Config,
        listing::find,
        opening::Access,
        prune::{PruneOptions, Pruned, prune},
        repository::Repository,
        snapshot::Snapshot,
        sweep::{MaxUnused, SweepLimits},
        tree::Entry,
    },
};

/// Longer than the coarsest grain of a file system's clock and all that is added to it, so that times are trusted.
pub const SETTLED: Duration = Duration::from_millis(3_200);

/// Takes notice of everything, and asks for a stop after so many events if told to.
#[derive(Debug, Default)]
pub struct Told {
    problems: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
    done: Mutex<u64>,
    stop_after: Option<u64>,
}

impl Told {
    /// Asks for a stop once so many entries are done.
    pub fn stopping_after(entries: u64) -> Self {
        Self { stop_after: Some(entries), ..Self::default() }
    }

    /// What could not be done, each as path, verb and cause.
    pub fn problems(&self) -> Vec<String> {
        self.problems.lock().unwrap().clone()
    }

    /// What was told besides.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().unwrap().clone()
    }
}

impl Progress for Told {
    fn tell(&self, event: Event<'_>) {
        match event {
            Event::Problem { path, verb, cause } => {
                self.problems.lock().unwrap().push(format!("{}: {verb}: {cause}", path.escape_ascii()));
            }
            Event::Note(text) => self.notes.lock().unwrap().push(text.to_owned()),
            Event::Done { entries, .. } => *self.done.lock().unwrap() += entries,
            _ => {}
        }
    }

    fn stop_wanted(&self) -> bool {
        self.stop_after.is_some_and(|limit| *self.done.lock().unwrap() >= limit)
    }
}

/// Takes notice of everything, and does something of the test's own at each event before the work goes on.
pub struct Acting<F> {
    told: Told,
    act: F,
}

impl<F: Fn(&Event<'_>) + Send + Sync> Acting<F> {
    /// Does this at each event.
    pub fn new(act: F) -> Self {
        Self { told: Told::default(), act }
    }

    /// As [`Told::problems`].
    pub fn problems(&self) -> Vec<String> {
        self.told.problems()
    }
}

impl<F: Fn(&Event<'_>) + Send + Sync> Progress for Acting<F> {
    fn tell(&self, event: Event<'_>) {
        (self.act)(&event);
        self.told.tell(event);
    }
}

/// A folder for a test, whose path has no links on the way.
pub fn place() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().canonicalize().unwrap();
    (place, path)
}

/// A repository in a folder.
pub struct Store {
    pub path: PathBuf,
    pub threads: usize,
    password: Option<&'static str>,
}

impl Store {
    /// Makes a repository at `path`, encrypted or not.
    pub fn init(path: PathBuf, password: Option<&'static str>) -> Self {
        drop(plain::init(&plain::local(&path), Config::default(), password).unwrap());
        Self { path, threads: 2, password }
    }

    /// A repository that the program has made, not encrypted.
    pub fn open_at(path: &Path) -> Self {
        Self { path: path.into(), threads: 2, password: None }
    }

    /// A repository that the program has made, encrypted.
    pub fn open_with(path: &Path, password: &'static str) -> Self {
        Self { password: Some(password), ..Self::open_at(path) }
    }

    /// Opens the repository.
    pub fn open(&self, access: Access) -> Repository {
        plain::open(&plain::local(&self.path), self.password, access).unwrap()
    }

    /// Takes the catalogue away.
    pub fn forget_catalogue(&self) {
        fs::remove_file(self.path.join("index.sqlite")).unwrap();
    }

    /// What a backup of these sources asks for.
    pub fn request(&self, sources: &[&Path]) -> Request {
        Request { threads: self.threads, ..plain::request(sources) }
    }

    /// Backs a folder up without a problem.
    pub fn backup(&self, source: &Path) -> Snapshot {
        self.backup_as(&self.request(&[source]))
    }

    /// Backs up what is asked for without a problem.
    pub fn backup_as(&self, request: &Request) -> Snapshot {
        let told = Told::default();
        let snapshot = backup(&mut self.open(Access::Write), request, &told).unwrap();
        assert_eq!(told.problems(), Vec::<String>::new());
        assert!(snapshot.complete && snapshot.problems.is_empty());
        snapshot
    }

    /// What a snapshot has at a path: the same for equal content and metadata, whatever became of the folders above.
    pub fn entry(&self, snapshot: &Snapshot, path: &Path) -> Entry {
        let repository = self.open(Access::Read);
        let reader = repository.reader(Arc::new(repository.index().unwrap()));
        find(&reader, &snapshot.root, path.as_os_str().as_bytes()).unwrap().expect("the path in the snapshot")
    }

    /// Restores the contents of a folder of a snapshot, or one file, into `target`, which is made if missing.
    pub fn try_restore(
        &self,
        id: SnapshotId,
        path: &Path,
        target: &Path,
        told: &dyn Progress,
        shape: impl FnOnce(&mut RestoreRequest),
    ) -> Result<Restored> {
        fs::create_dir_all(target).unwrap();
        self.restore_below(id, path, fs::File::open(target).unwrap().as_fd(), told, shape)
    }

    /// As [`Store::try_restore`], into an open folder.
    pub fn restore_below(
        &self,
        id: SnapshotId,
        path: &Path,
        root: BorrowedFd<'_>,
        told: &dyn Progress,
        shape: impl FnOnce(&mut RestoreRequest),
    ) -> Result<Restored> {
        let repository = self.open(Access::Read);
        let snapshot = repository.snapshots().iter().find(|s| s.id == id).expect("the snapshot");
        plain::restore(&repository, snapshot, in_snapshot(path), root, &self.restore_request(shape), told)
    }

    /// Restores without a problem.
    pub fn restore(&self, id: SnapshotId, path: &Path, target: &Path) -> Restored {
        self.restore_as(id, path, target, |_| {})
    }

    /// Restores without a problem, in the way that `shape` asks for.
    pub fn restore_as(
        &self,
        id: SnapshotId,
        path: &Path,
        target: &Path,
        shape: impl FnOnce(&mut RestoreRequest),
    ) -> Restored {
        let told = Told::default();
        let restored = self.try_restore(id, path, target, &told, shape).unwrap();
        assert_eq!(told.problems(), Vec::<String>::new());
        assert_eq!(restored.problems, 0);
        restored
    }

    /// Reads a restored folder back; returns how many entries differ, and what was said of them.
    pub fn verify(&self, id: SnapshotId, path: &Path, target: &Path) -> (u64, Vec<String>) {
        let told = Told::default();
        let repository = self.open(Access::Read);
        let snapshot = repository.snapshots().iter().find(|s| s.id == id).expect("the snapshot");
        let reader = repository.reader(Arc::new(repository.index().unwrap()));
        let path = in_snapshot(path);
        let entry = find(&reader, &snapshot.root, path).unwrap().expect("the path in the snapshot");
        let selected = Selected { entry: &entry, path, sources: &snapshot.sources };
        let root = fs::File::open(target).unwrap();
        let differing = verify(&reader, &selected, root.as_fd(), &self.restore_request(|_| {}), &told);
        (differing.unwrap(), told.problems())
    }

    fn restore_request(&self, shape: impl FnOnce(&mut RestoreRequest)) -> RestoreRequest {
        let mut request = RestoreRequest { by_name: true, threads: self.threads, ..plain::restore_request() };
        shape(&mut request);
        request
    }

    /// Gives back what no snapshot needs, alone with the repository.
    pub fn prune(&self, max_unused: MaxUnused) -> Pruned {
        prune(&self.open(Access::Exclusive), &prune_options(max_unused), &Told::default()).unwrap()
    }

    /// Proves every byte of the repository, and fails where anything is wrong with it.
    pub fn assert_whole(&self) {
        let repository = self.open(Access::Read);
        let report = check(&repository, ReadData::All, &Told::default()).unwrap();
        assert!(!report.has_damage(), "{:#?} {:#?}", report.findings, report.touched);
        assert_eq!(repository.damaged_snapshots().len(), 0);
    }

    /// The bytes of all files of the repository.
    pub fn total_bytes(&self) -> u64 {
        total_bytes(&self.path)
    }
}

/// A live path as snapshots have it.
fn in_snapshot(path: &Path) -> &[u8] {
    let path = path.as_os_str().as_bytes();
    path.strip_suffix(b"/").unwrap_or(path)
}

/// What a prune asks for that may leave so much unused.
pub fn prune_options(max_unused: MaxUnused) -> PruneOptions {
    let limits = SweepLimits { max_unused, small_bytes: None, max_repack_bytes: None, only_damaged: false };
    PruneOptions { damaged: BTreeSet::new(), limits, threads: 2, dry_run: false }
}

/// The bytes of all files below a folder.
pub fn total_bytes(path: &Path) -> u64 {
    let files = walkdir::WalkDir::new(path).into_iter().filter_map(io_ok);
    files.filter(|e| e.file_type().is_file()).filter_map(|e| e.metadata().ok()).map(|m| m.len()).sum()
}

fn io_ok<T, E: Into<io::Error>>(result: std::result::Result<T, E>) -> Option<T> {
    result.ok()
}
