//! What differs between two snapshots, or a snapshot and the live files; and what it costs to find out.

use super::store::Store;
use std::sync::atomic::{AtomicU64, Ordering};
use xsnap::{
    archive::{
        changes::Comparison,
        compare::compare,
        drift::{DriftRequest, drift},
        filter::Patterns,
        request::Selected,
    },
    id::SnapshotId,
    progress::{Event, Progress},
    repo::{listing::find, opening::Access, repository::Repository, snapshot::Snapshot},
};

/// Compares a path of two snapshots.
pub fn of(
    repository: &Repository,
    before: SnapshotId,
    after: SnapshotId,
    path: &[u8],
    told: &dyn Progress,
) -> Comparison {
    let reader = repository.tree_reader().unwrap();
    let snapshot = |id| repository.snapshots().iter().find(|s: &&Snapshot| s.id == id).unwrap();
    let (before, after) = (snapshot(before), snapshot(after));
    let entry = |snapshot: &Snapshot| find(&reader, &snapshot.root, path).unwrap().unwrap();
    let (old, new) = (entry(before), entry(after));
    let before = Selected { entry: &old, path, sources: &before.sources };
    let after = Selected { entry: &new, path, sources: &after.sources };
    compare(&reader, &before, &after, &Patterns::default(), told).unwrap()
}

/// Compares a path of a snapshot with the live files.
pub fn drifted(store: &Store, snapshot: &Snapshot, path: &[u8], read_all: bool, told: &dyn Progress) -> Comparison {
    let repository = store.open(Access::Read);
    let exclude = Patterns::default();
    let request = DriftRequest { snapshot, path, exclude: &exclude, exclude_caches: false, read_all, skip: &[] };
    drift(&repository.tree_reader().unwrap(), &request, told).unwrap()
}

/// Counts how often it is asked whether to stop, which a walk does for everything that it looks at.
#[derive(Default)]
pub struct Steps(AtomicU64);

impl Steps {
    /// How often so far, from now on from 0.
    pub fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Progress for Steps {
    fn tell(&self, event: Event<'_>) {
        assert!(!matches!(event, Event::Problem { .. }), "{event:?}");
    }

    fn stop_wanted(&self) -> bool {
        self.0.fetch_add(1, Ordering::Relaxed);
        false
    }
}
