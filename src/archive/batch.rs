//! Files that one thread reads together: gathered by the walk, handed out, read, and their outcomes told.

use crate::{
    archive::content::{Failure, ReadFile},
    error::{Error, Result},
};
use std::{
    os::fd::OwnedFd,
    sync::{Arc, Condvar, Mutex, PoisonError},
};

/// A batch is handed out once it holds this many bytes, files or folders, or this many items were told since it began.
const BATCH_BYTES: u64 = 1 << 20;
const BATCH_FILES: usize = 128;
const BATCH_FOLDERS: usize = 16;
const BATCH_ITEMS: usize = 1024;
/// So many items are sent to the trees together: each sending may wake who takes them.
pub const TOLD_ITEMS: usize = 64;
/// How many times that many the queue to the trees holds: more than a batch waits for, or both would wait.
pub const QUEUE_LENGTH: usize = 4 * BATCH_ITEMS / TOLD_ITEMS;

/// A file's content, read by another thread.
pub type Outcome = Result<Arc<ReadFile>, Arc<Failure>>;

/// Files that one thread reads together; their outcomes are there once all of them are.
#[derive(Debug, Default)]
pub struct Batch {
    outcomes: Mutex<Option<Vec<Outcome>>>,
    ready: Condvar,
}

impl Batch {
    /// Tells the outcomes to whoever waits.
    pub fn finish(&self, outcomes: Vec<Outcome>) {
        *self.outcomes.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcomes);
        self.ready.notify_all();
    }

    /// Waits for the outcome of the file at a position.
    pub fn wait(&self, position: usize) -> Option<Outcome> {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match outcomes.as_ref() {
                Some(outcomes) => return outcomes.get(position).cloned(),
                None => outcomes = self.ready.wait(outcomes).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// A file to be read: the open folder that it is in, and its name.
pub type FileName = (Arc<OwnedFd>, Vec<u8>);

/// A batch that is handed out to be read by one thread. Dropped before it is finished, it says so to whoever waits.
pub struct Job {
    batch: Arc<Batch>,
    /// The files, in order.
    pub files: Vec<FileName>,
}

impl Job {
    /// Tells the outcomes.
    pub fn finish(mut self, outcomes: Vec<Outcome>) {
        self.files.clear();
        self.batch.finish(outcomes);
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if !self.files.is_empty() {
            let refused = || Err(Arc::new(Failure::Whole(Error::Refused)));
            self.batch.finish(self.files.iter().map(|_| refused()).collect());
        }
    }
}

/// A batch that is being filled.
#[derive(Debug, Default)]
pub struct OpenBatch {
    batch: Arc<Batch>,
    files: Vec<FileName>,
    folders: usize,
    bytes: u64,
    items: usize,
}

impl OpenBatch {
    /// Adds a file; says where its outcome will be.
    pub fn add(&mut self, folder: Arc<OwnedFd>, name: Vec<u8>, size_bytes: u64) -> (Arc<Batch>, usize) {
        self.folders += usize::from(self.files.last().is_none_or(|(last, _)| !Arc::ptr_eq(last, &folder)));
        self.bytes += size_bytes;
        self.files.push((folder, name));
        (Arc::clone(&self.batch), self.files.len() - 1)
    }

    /// Takes note of an item told since the batch was begun.
    pub fn count_item(&mut self) {
        self.items += 1;
    }

    /// Whether it should be handed out now: it holds enough, or somebody may soon wait for it.
    pub fn is_due(&self) -> bool {
        let full = self.bytes >= BATCH_BYTES || self.files.len() >= BATCH_FILES || self.folders >= BATCH_FOLDERS;
        full || self.items >= BATCH_ITEMS
    }

    /// What is to be handed out, if there is any file in it, and begins anew.
    pub fn take(&mut self) -> Option<Job> {
        let open = std::mem::take(self);
        (!open.files.is_empty()).then(|| Job { batch: open.batch, files: open.files })
    }
}
