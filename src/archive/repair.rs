//! What a check finds and what can be mended of it: second files, lost blobs from elsewhere, damaged packs, and snapshots
//! without what stays lost.
//!
//! In this order, each step durable before the next relies on it. Killed anywhere, nothing is worse than before, and
//! another repair goes on. See `format-spec/10-repair.md`.

use crate::{
    archive::salvage::{Lost, salvage},
    blobs::{
        reader::Reader,
        writer::{Filler, Stream},
    },
    error::{Error, Result},
    id::{BlobId, ObjectName, SnapshotId},
    progress::Progress,
    repo::{
        check::{ReadData, Report, check},
        content::Run,
        copy::There,
        listing::{find, runs},
        needed::{Role, Visitor, Walked, walk},
        paired::Care,
        prune::{PruneOptions, prune},
        repository::Repository,
        snapshot::Snapshot,
        sweep::SweepLimits,
        tree::{Entry, Node},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// Somewhere else where lost bytes may be. Whatever it brings is compared with the id it was asked for by.
pub trait Source: Sync {
    /// The bytes of a blob, by its id.
    ///
    /// # Errors
    /// Those on which the whole repair ends; that it is not there, or damaged there, is none.
    fn blob(&self, id: &BlobId) -> Result<Option<Vec<u8>>>;

    /// A stretch of the file that stood at a path of a snapshot.
    ///
    /// # Errors
    /// As `blob`.
    fn part(&self, snapshot: &Snapshot, path: &[u8], offset_bytes: u64, length_bytes: usize)
    -> Result<Option<Vec<u8>>>;

    /// The record of a snapshot whose blobs have the ids that they have here.
    fn snapshot(&self, id: &SnapshotId) -> Option<Snapshot>;

    /// Stores everything that a snapshot is made of once more, named and cut as here, and returns its record as it is
    /// here. What a backup of the same files stores has the same ids each time.
    ///
    /// # Errors
    /// As `blob`.
    fn bring(&self, _: &SnapshotId, _: There<'_>, _: &dyn Progress) -> Result<Option<Snapshot>> {
        Ok(None)
    }
}

/// How a repository is repaired.
#[derive(Debug, Clone, Copy)]
pub struct RepairOptions {
    /// How many threads compress.
    pub threads: usize,
    /// Take out of snapshots what is lost for good, so that they are whole without it and marked incomplete.
    pub drop_lost: bool,
}

/// What a repair has done.
#[derive(Debug, Default)]
pub struct Repaired {
    /// Small objects whose second file was made again.
    pub completed: Vec<ObjectName>,
    /// Lost blobs that were found elsewhere.
    pub recovered_blobs: u64,
    /// Snapshots whose record was found elsewhere.
    pub revived: Vec<SnapshotId>,
    /// Snapshots that are now without what was lost, and how much that was.
    pub reduced: Vec<(SnapshotId, u64)>,
    /// Damaged packs that went; what was needed of them is in new ones.
    pub replaced_packs: u64,
    /// What is still lost, because it was not to be dropped or a pack cannot be read at this time.
    pub left: Report,
}

/// Mends what can be mended of what a check has found. On return what it says is done, durably.
///
/// # Errors
/// `Usage` unless the repository was opened for exclusive access; `Interrupted`, and storage errors.
pub fn repair(
    repository: &mut Repository,
    found: &Report,
    sources: &[&dyn Source],
    options: RepairOptions,
    progress: &dyn Progress,
) -> Result<Repaired> {
    if !repository.is_alone() {
        return Err(Error::Usage("a repair must be alone with the repository".into()));
    }
    let mut repaired = Repaired { completed: repository.complete_pairs(Care::Bytes)?, ..Repaired::default() };
    repaired.completed.extend(repository.settle_records()?);
    // Nothing is given up for a mark, nor for a pack that could not be read when the repository was opened.
    repository.prove_marks()?;
    let unknown_packs = repository.unknown_packs()?;
    let mut lost_records = revivable(repository, sources);
    let missed: BTreeSet<SnapshotId> =
        lost_ids(repository).into_iter().filter(|id| lost_records.iter().all(|s| s.id != *id)).collect();
    lost_records.extend(bring_again(repository, &missed, sources, options, progress)?);
    recover(repository, &lost_records, found, sources, options, progress, &mut repaired)?;
    for record in &lost_records {
        repository.revive(record)?;
        repaired.revived.push(record.id);
    }
    let mut left = check(repository, ReadData::No, progress)?;
    // What cannot be read at this time may be read at another, or by another machine: nothing is given up for it.
    let was_read = found.unread_packs.is_empty() && unknown_packs.is_empty();
    // A check names no more than so many files: what is left then is the next round's.
    while options.drop_lost && was_read && left.unread_packs.is_empty() && !left.touched.is_empty() {
        let before = left.touched;
        let found = Report { touched: before.clone(), ..Report::default() };
        reduce(repository, &found, options, progress, &mut repaired)?;
        left = check(repository, ReadData::No, progress)?;
        if left.touched == before {
            break;
        }
    }
    let damaged: BTreeSet<ObjectName> = found.damaged_packs.union(&left.damaged_packs).cloned().collect();
    if left.touched.is_empty() && repository.damaged_snapshots().is_empty() && !damaged.is_empty() {
        let options = PruneOptions { limits: SweepLimits::DAMAGED, damaged, threads: options.threads, dry_run: false };
        let pruned = prune(repository, &options, progress)?;
        repaired.replaced_packs = pruned.deleted_packs + pruned.repacked_packs;
        left = check(repository, ReadData::No, progress)?;
    }
    repaired.left = left;
    Ok(repaired)
}

/// Snapshots whose records cannot be read here any more.
fn lost_ids(repository: &Repository) -> BTreeSet<SnapshotId> {
    let readable: HashSet<SnapshotId> = repository.snapshots().iter().map(|s| s.id).collect();
    let damaged = repository.damaged_snapshots().iter().filter(|d| !d.newer);
    let ids = damaged.filter_map(|d| Some(SnapshotId::from_object(&d.name)?.0));
    ids.filter(|id| !readable.contains(id)).collect()
}

/// Of those, the records that a source has.
fn revivable(repository: &Repository, sources: &[&dyn Source]) -> Vec<Snapshot> {
    let of = |id: &SnapshotId| sources.iter().find_map(|source| source.snapshot(id));
    lost_ids(repository).iter().filter_map(of).collect()
}

/// Lets sources store snapshots once more. Returns the records of those that one has.
fn bring_again(
    repository: &Repository,
    ids: &BTreeSet<SnapshotId>,
    sources: &[&dyn Source],
    options: RepairOptions,
    progress: &dyn Progress,
) -> Result<Vec<Snapshot>> {
    let mut records = Vec::new();
    for id in ids {
        for source in sources {
            let index = Arc::new(repository.index()?);
            let writer = repository.writer(Arc::clone(&index), options.threads, false)?;
            let there = There { repository, index: &index, writer: &writer, dry_run: false };
            let brought = source.bring(id, there, progress);
            let brought = repository.end(writer, brought)?;
            if let Some(record) = brought {
                records.push(record);
                break;
            }
        }
    }
    Ok(records)
}

/// Blobs that are needed and lie in no healthy place.
#[derive(Default)]
struct Lacking {
    blobs: BTreeMap<BlobId, Stream>,
    known: Option<Arc<crate::blobs::index::Index>>,
}

impl Visitor for Lacking {
    fn blob(&mut self, id: &BlobId, role: Role) -> Result<()> {
        if self.known.as_ref().is_some_and(|index| !index.is_known(id)) {
            match role {
                Role::Data => drop(self.blobs.entry(*id).or_insert(Stream::Data)),
                // What is a tree as well belongs among trees.
                Role::Tree | Role::Stats => drop(self.blobs.insert(*id, Stream::Tree)),
            }
        }
        Ok(())
    }

    fn lost(&mut self, _: &[u8], _: Error) -> Result<()> {
        Ok(())
    }
}

/// Stores again what sources have of what is lost. A tree that comes back shows what else is lacking, so this goes on
/// until nothing more comes.
fn recover(
    repository: &Repository,
    lost_records: &[Snapshot],
    found: &Report,
    sources: &[&dyn Source],
    options: RepairOptions,
    progress: &dyn Progress,
    repaired: &mut Repaired,
) -> Result<()> {
    let mut touched = found.touched.iter().map(|t| (t.snapshot, t.path.clone())).collect::<BTreeSet<_>>();
    let mut brought = false;
    while !sources.is_empty() {
        let index = Arc::new(repository.index()?);
        let reader = repository.reader(Arc::clone(&index));
        let (mut lacking, mut walked) =
            (Lacking { known: Some(Arc::clone(&index)), ..Lacking::default() }, Walked::default());
        for snapshot in repository.snapshots().iter().chain(lost_records) {
            walk(&reader, snapshot, &mut walked, &mut lacking, progress)?;
        }
        if lacking.blobs.is_empty() {
            return Ok(());
        }
        let writer = repository.writer(index, options.threads, false)?;
        let mut mender = Mender {
            repository,
            sources,
            data: writer.filler(Stream::Data),
            trees: writer.filler(Stream::Tree),
            mended: HashSet::new(),
        };
        let mended = mender.by_id(&lacking.blobs, progress).and_then(|()| {
            let of = |id: &SnapshotId| repository.snapshots().iter().find(|s| s.id == *id);
            let files = touched.iter().filter_map(|(id, path)| Some((of(id)?, path.as_slice())));
            files.into_iter().try_for_each(|(snapshot, path)| mender.file(&reader, snapshot, path, progress))
        });
        let Mender { mut data, mut trees, mended: blobs, .. } = mender;
        let flushed = data.flush().and_then(|()| trees.flush());
        drop((data, trees));
        repository.end(writer, mended.and(flushed))?;
        if blobs.is_empty() {
            if brought {
                return Ok(());
            }
            // Trees have other ids in a repository of another key; stored once more, they have the ids of here.
            brought = true;
            let ids = touched.iter().map(|(id, _)| *id).collect();
            bring_again(repository, &ids, sources, options, progress)?;
            let index = repository.index()?;
            repaired.recovered_blobs += lacking.blobs.keys().filter(|id| index.is_known(id)).count() as u64;
        }
        repaired.recovered_blobs += blobs.len() as u64;
        // Folders that can be listed again may hold files that nobody could name before.
        let report = check(repository, ReadData::No, progress)?;
        touched = report.touched.into_iter().map(|t| (t.snapshot, t.path)).collect();
    }
    Ok(())
}

/// Brings lost blobs back, each compared with its id.
struct Mender<'a> {
    repository: &'a Repository,
    sources: &'a [&'a dyn Source],
    data: Filler,
    trees: Filler,
    mended: HashSet<BlobId>,
}

impl Mender<'_> {
    fn put(&mut self, id: &BlobId, bytes: &[u8], stream: Stream) -> Result<bool> {
        if self.repository.secrets().blob_id(bytes) != *id {
            return Ok(false);
        }
        (if stream == Stream::Data { &mut self.data } else { &mut self.trees }).put(bytes)?;
        self.mended.insert(*id);
        Ok(true)
    }

    fn by_id(&mut self, lacking: &BTreeMap<BlobId, Stream>, progress: &dyn Progress) -> Result<()> {
        for (id, stream) in lacking {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            for source in self.sources {
                if let Some(bytes) = source.blob(id)?
                    && self.put(id, &bytes, *stream)?
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks for what a file lacks in files that stand at its path elsewhere.
    fn file(&mut self, reader: &Reader, snapshot: &Snapshot, path: &[u8], progress: &dyn Progress) -> Result<()> {
        let content = match find(reader, &snapshot.root, path) {
            Ok(Some(Entry { node: Node::File { content, .. }, .. })) => content,
            Ok(_) => return Ok(()),
            Err(e) if e.is_damage() => return Ok(()),
            Err(e) => return Err(e),
        };
        let mut offset_bytes = 0_u64;
        for run in runs(reader, &content) {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            // Behind a list that is lost nobody knows where in the file a run lies.
            let Ok(run) = run else { break };
            if let Run::Data { id, length_bytes } = run
                && !reader.index().is_known(&id)
                && !self.mended.contains(&id)
                && let Ok(length) = usize::try_from(length_bytes)
                && length <= crate::blobs::frame::MAX_RAW_BYTES
            {
                for source in self.sources {
                    if let Some(bytes) = source.part(snapshot, path, offset_bytes, length)?
                        && self.put(&id, &bytes, Stream::Data)?
                    {
                        break;
                    }
                }
            }
            offset_bytes = offset_bytes.saturating_add(run.length_bytes());
        }
        Ok(())
    }
}

/// Rewrites every snapshot that lacks something without it.
fn reduce(
    repository: &mut Repository,
    left: &Report,
    options: RepairOptions,
    progress: &dyn Progress,
    repaired: &mut Repaired,
) -> Result<()> {
    let mut by_snapshot = BTreeMap::<SnapshotId, Lost>::new();
    for touched in &left.touched {
        by_snapshot.entry(touched.snapshot).or_default().insert(touched.path.clone(), touched.why.clone());
    }
    for (id, lost) in by_snapshot {
        let Some(snapshot) = repository.snapshots().iter().find(|s| s.id == id).cloned() else { continue };
        let index = Arc::new(repository.index()?);
        let reader = repository.reader(Arc::clone(&index));
        let writer = repository.writer(index, options.threads, false)?;
        let salvaged = salvage(&reader, &writer, &snapshot, &lost, progress);
        let assembled = repository.end(writer, salvaged)?;
        let dropped = assembled.counts.problems;
        repository.rewrite(&id, &|snapshot: &mut Snapshot| {
            snapshot.root = assembled.root.clone();
            snapshot.root_stat = assembled.root_stat.clone();
            snapshot.complete = false;
            snapshot.counts.problems = snapshot.counts.problems.saturating_add(dropped);
            snapshot.problems.extend(assembled.problems.iter().cloned());
        })?;
        repaired.reduced.push((id, dropped));
    }
    Ok(())
}
