//! Proof that everything referenced exists and is what it claims to be; and which files are touched where it is not.
//!
//! Objects first, each file of each pair; then packs, their tables or all of their bytes; then every snapshot's trees,
//! of which each is walked once as long as nothing in it is lost. Frames found bad are marked in the catalogue, so that
//! the next backup stores their blobs again; so are the snapshots that something is lost of, so that a list can say so.

use crate::{
    blobs::{
        index::Index,
        pack::{self, Toc},
        reader::{BadFrame, Reader},
    },
    error::{Error, Result},
    id::{ObjectName, SnapshotId},
    progress::{Event, Progress},
    repo::{
        config,
        content::{Content, Run, max_runs},
        keys,
        listing::{Listing, SeenLists, fresh_runs, listing},
        paired,
        repository::Repository,
        snapshot::Snapshot,
        tree::Node,
    },
    storage::{
        envelope::Kind,
        object::{Folder, Listed, met_unreadable, unreadable_as_damage},
    },
};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// Which packs are read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadData {
    /// None: only their tables.
    No,
    /// All.
    All,
    /// The n-th of m parts, n from 1; which pack is in which part depends on its name.
    Part(u32, u32),
}

/// How many touched files are named one by one; beyond that, each folder is walked once more and no more.
const MAX_TOUCHED: usize = 1 << 18;

/// What a finding means for the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// An interruption's remains; the next writing command completes it.
    Note,
    /// Bytes are damaged, and another copy of them is whole.
    Mendable,
    /// Bytes are lost.
    Loss,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which object, or which part of it.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// What it means.
    pub severity: Severity,
}

/// A file that cannot be restored whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    /// The snapshot that it is in.
    pub snapshot: SnapshotId,
    /// Its path in the snapshot.
    pub path: Vec<u8>,
    /// What of it is lost.
    pub why: String,
}

/// What a check has found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is not as it should be.
    pub findings: Vec<Finding>,
    /// Files that cannot be restored whole: the first quarter of a million of them.
    pub touched: Vec<Touched>,
    /// Every snapshot that has such files.
    pub damaged_snapshots: BTreeSet<SnapshotId>,
    /// Objects looked at.
    pub objects: u64,
    /// Packs of which every byte was read.
    pub packs_read: u64,
    /// Snapshots walked.
    pub snapshots: u64,
    /// Bytes of packs that were read.
    pub bytes_read: u64,
    /// Packs of which anything is damaged.
    pub damaged_packs: BTreeSet<ObjectName>,
    /// Packs of which the medium could read nothing at all; another attempt may bring more.
    pub unread_packs: BTreeSet<ObjectName>,
    /// Whether a pack vanished meanwhile, which only a prune from where no lock reaches can do: what was found may be
    /// out of date, and another check of a repository that is opened anew tells.
    pub vanished: bool,
}

impl Report {
    /// Whether any byte is damaged or lost.
    pub fn has_damage(&self) -> bool {
        !self.touched.is_empty() || self.findings.iter().any(|f| f.severity > Severity::Note)
    }
}

/// Checks a repository. Damage is no error: it is in the report.
///
/// # Errors
/// `Interrupted`, and storage errors that are no damage.
pub fn check(repository: &Repository, read: ReadData, progress: &dyn Progress) -> Result<Report> {
    let mut report = Report::default();
    check_pairs(repository, progress, &mut report)?;
    check_packs(repository, read, progress, &mut report)?;
    check_snapshots(repository, progress, &mut report)?;
    if !report.vanished {
        repository.mark_damaged(&report.damaged_snapshots)?;
    }
    Ok(report)
}

/// Says which names of the mirror belong to a folder.
type IsOwn<'a> = &'a dyn Fn(&ObjectName) -> bool;

/// Every file of every pair.
fn check_pairs(repository: &Repository, progress: &dyn Progress, report: &mut Report) -> Result<()> {
    let is_config = |name: &ObjectName| config::generation_of(name).is_some();
    let is_snapshot = |name: &ObjectName| SnapshotId::from_object(name).is_some();
    let folders: [(Folder, Kind, IsOwn<'_>); 3] = [
        (Folder::Config, Kind::Config, &is_config),
        (Folder::Keys, Kind::Key, &keys::is_slot_name),
        (Folder::Snapshots, Kind::Snapshot, &is_snapshot),
    ];
    let storage = repository.storage().as_ref();
    for (folder, kind, is_own) in folders {
        for (name, pair) in paired::list(storage, folder, is_own)? {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            let mut whole = 0;
            let mut bad = Vec::new();
            for (place, length_bytes) in [(folder, pair.primary_bytes), (Folder::Mirror, pair.mirror_bytes)] {
                report.objects += u64::from(length_bytes.is_some());
                let object = place.object(&name);
                let get = |l| paired::get_from(storage, place, kind, Some(repository.id()), &name, l);
                match length_bytes.map(|l| get(l).map_err(|e| unreadable_as_damage(storage, e))) {
                    Some(Ok(_)) => whole += 1,
                    Some(Err(e)) if e.is_damage() => {
                        bad.push((object, e.to_string(), Severity::Mendable));
                    }
                    Some(Err(e)) => return Err(e),
                    None if place == Folder::Mirror => {
                        bad.push((
                            object,
                            "the second copy is missing; the next backup makes it again".into(),
                            Severity::Note,
                        ));
                    }
                    None => bad.push((object, "it is gone; its mirror is there".into(), Severity::Mendable)),
                }
            }
            for (object, why, severity) in bad {
                let severity = if whole == 0 { Severity::Loss } else { severity };
                report.findings.push(Finding { object, why, severity });
            }
        }
    }
    Ok(())
}

/// What came of looking at one pack.
#[derive(Default)]
pub(crate) struct PackOutcome {
    pub(crate) findings: Vec<Finding>,
    pub(crate) bad: Vec<BadFrame>,
    read_bytes: u64,
    /// Nothing of it could be read.
    pub(crate) unread: Option<Error>,
    /// It is not there any more.
    vanished: bool,
}

fn check_packs(repository: &Repository, read: ReadData, progress: &dyn Progress, report: &mut Report) -> Result<()> {
    let listed =
        repository.storage().list(Folder::Packs).map_err(|e| Error::storage("list", Folder::Packs.as_str(), e))?;
    let is_read = |l: &Listed| match read {
        ReadData::No => false,
        ReadData::All => true,
        ReadData::Part(n, of) => part_of(&l.name, of) + 1 == n,
    };
    let bytes = listed.iter().filter(|l| is_read(l)).map(|l| l.length_bytes).sum();
    progress.tell(Event::Total { entries: listed.len() as u64, bytes });
    let index = Arc::new(repository.index_unmarked()?);
    let reader = repository.reader(Arc::clone(&index));
    let frames = first_frames(&index);
    let look = |l: &Listed| {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let outcome = match check_pack(repository, &reader, &frames, l, is_read(l), progress) {
            Err(e) if e.is_absence() && !repository.is_locked() => PackOutcome { vanished: true, ..Default::default() },
            outcome => outcome?,
        };
        progress.tell(Event::Done { entries: 1, bytes: outcome.read_bytes });
        Ok(outcome)
    };
    let mut outcomes: Vec<PackOutcome> = listed.par_iter().map(look).collect::<Result<_>>()?;
    // Where no pack at all can be read, it is the medium that is gone.
    if outcomes.iter().all(|outcome| outcome.unread.is_some())
        && let Some(e) = outcomes.first_mut().and_then(|outcome| outcome.unread.take())
    {
        return Err(e);
    }
    for (l, outcome) in listed.iter().zip(outcomes) {
        report.objects += 1;
        report.vanished |= outcome.vanished;
        if outcome.unread.is_some() {
            report.unread_packs.insert(l.name.clone());
        } else if !outcome.findings.is_empty() {
            report.damaged_packs.insert(l.name.clone());
        }
        report.packs_read += u64::from(outcome.read_bytes > 0);
        report.bytes_read += outcome.read_bytes;
        if outcome.read_bytes > 0 {
            repository.unmark(&l.name)?;
        }
        repository.mark_bad(&outcome.bad)?;
        report.findings.extend(outcome.findings);
    }
    Ok(())
}

/// Which of `of` parts a pack is in, from 0.
fn part_of(name: &ObjectName, of: u32) -> u32 {
    let hash = blake3::hash(name.as_str().as_bytes());
    hash.as_bytes().first_chunk().map_or(0, |b| u32::from_le_bytes(*b) % of.max(1))
}

/// The number of each pack's first frame among all frames of an index.
pub(crate) fn first_frames(index: &Index) -> BTreeMap<ObjectName, u32> {
    index.packs().iter().map(|pack| (pack.name.clone(), pack.first_frame)).collect()
}

/// The frames of a pack that an index knows: their numbers among all frames, and in the pack. Empty places, where a
/// search found frames missing, are none.
fn frames_of<'a>(
    index: &'a Index,
    name: &'a ObjectName,
    frames: &BTreeMap<ObjectName, u32>,
) -> impl Iterator<Item = (u32, u32)> + 'a {
    let first = frames.get(name).copied();
    let all = first.into_iter().flat_map(|first| first..=u32::MAX);
    let own = all.map_while(move |at| index.frame(at).filter(|(_, pack, _)| pack.name == *name).map(|f| (at, f)));
    own.filter(|(_, (frame, ..))| frame.frame_bytes > 0).map(|(at, (_, _, number))| (at, number))
}

/// Looks at the table of one pack, and where it is to be read, at every byte of it.
pub(crate) fn check_pack(
    repository: &Repository,
    reader: &Reader,
    frames: &BTreeMap<ObjectName, u32>,
    l: &Listed,
    read: bool,
    progress: &dyn Progress,
) -> Result<PackOutcome> {
    let mut outcome = PackOutcome::default();
    let (storage, secrets) = (repository.storage().as_ref(), repository.secrets());
    let object = Folder::Packs.object(&l.name);
    let (toc, mended) = match pack::read_toc(storage, secrets, repository.id(), &l.name, l.length_bytes) {
        Err(e) if met_unreadable(storage, &e) => {
            outcome.unread = Some(e);
            (Toc::default(), Some(format!("the medium cannot read {object}")))
        }
        found => found.map(|found| (found.toc, found.mended))?,
    };
    if let Some(why) = mended {
        let severity = if toc.frames.is_empty() { Severity::Loss } else { Severity::Mendable };
        outcome.findings.push(Finding { object: object.clone(), why, severity });
    }
    if !read {
        return Ok(outcome);
    }
    let (mut bad_frames, mut seen) = (HashSet::new(), HashSet::new());
    let mut lost = |number: u32, e: &Error, outcome: &mut PackOutcome| {
        outcome.findings.push(Finding { object: object.clone(), why: e.to_string(), severity: Severity::Loss });
        bad_frames.insert(number);
    };
    let proven = pack::read_whole(storage, &l.name, l.length_bytes, &toc, |number, bytes| {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        seen.insert(number);
        let opened = frames.get(&l.name).and_then(|first| first.checked_add(number)).map(|at| reader.prove(at, bytes));
        match opened {
            Some(Err(e)) if e.is_damage() => lost(number, &e, &mut outcome),
            Some(proven) => proven?,
            None => {}
        }
        Ok(())
    });
    // The catalogue may know frames that nothing in the pack tells of any more: files hang on them all the same.
    for (at, number) in frames_of(reader.index(), &l.name, frames).filter(|(_, number)| !seen.contains(number)) {
        match reader.frame(at) {
            Err(e) if e.is_damage() => lost(number, &e, &mut outcome),
            opened => drop(opened?),
        }
    }
    outcome.read_bytes = l.length_bytes;
    match proven {
        // The frame that the damage hit has been named already.
        Err(e) if e.is_damage() && bad_frames.is_empty() => {
            outcome.findings.push(Finding { object: object.clone(), why: e.to_string(), severity: Severity::Mendable });
        }
        Err(e) if !e.is_damage() => return Err(e),
        _ => {}
    }
    outcome.bad = bad_frames.into_iter().map(|number| (l.name.clone(), number)).collect();
    Ok(outcome)
}

fn check_snapshots(repository: &Repository, progress: &dyn Progress, report: &mut Report) -> Result<()> {
    let index = Arc::new(repository.index()?);
    let reader = repository.reader(index);
    let mut walk = Walk {
        reader: &reader,
        clean: HashSet::new(),
        lossy: HashSet::new(),
        clean_lists: SeenLists::new(),
        touched: Vec::new(),
        losses: 0,
        progress,
    };
    for snapshot in repository.snapshots() {
        let before = walk.losses;
        walk.snapshot(snapshot)?;
        report.snapshots += 1;
        if walk.losses > before {
            report.damaged_snapshots.insert(snapshot.id);
        }
    }
    report.touched = walk.touched;
    repository.mark_bad(&reader.take_bad_frames())
}

/// Walks the trees of one snapshot after the other.
struct Walk<'a> {
    reader: &'a Reader,
    /// Folders of which everything was found, by a hash of their content lists.
    clean: HashSet<blake3::Hash>,
    /// Folders of which something is lost and nothing more is named.
    lossy: HashSet<blake3::Hash>,
    /// Lists of files of which everything was found.
    clean_lists: SeenLists,
    touched: Vec<Touched>,
    /// How often something lost was met, named or not.
    losses: u64,
    progress: &'a dyn Progress,
}

struct Level<'a> {
    path_bytes: usize,
    listing: Listing<'a>,
    key: blake3::Hash,
    losses_before: u64,
}

impl Walk<'_> {
    fn snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        let reader = self.reader;
        let mut path = Vec::new();
        let mut levels: Vec<Level<'_>> = Vec::new();
        let enter = |content: &Content, key: blake3::Hash, path_bytes: usize, losses_before: u64| Level {
            path_bytes,
            listing: listing(reader, content, None),
            key,
            losses_before,
        };
        if let Node::Folder { content } = &snapshot.root.node {
            levels.push(enter(content, content.key(), 0, self.losses));
        }
        while let Some(level) = levels.last_mut() {
            if self.progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            path.truncate(level.path_bytes);
            match level.listing.next() {
                None => {
                    // Folders that hold each other many times can be touched in more paths than anybody could walk.
                    if self.losses == level.losses_before {
                        self.clean.insert(level.key);
                    } else if self.touched.len() >= MAX_TOUCHED {
                        self.lossy.insert(level.key);
                    }
                    levels.pop();
                }
                Some(Err(e)) if e.is_damage() => self.touch(snapshot, &path, &format!("part of its list is lost: {e}")),
                Some(Err(e)) => return Err(e),
                Some(Ok((entry, _))) => {
                    path.push(b'/');
                    path.extend_from_slice(&entry.name);
                    match &entry.node {
                        Node::Folder { content } => {
                            let key = content.key();
                            if self.lossy.contains(&key) {
                                self.losses += 1;
                            } else if !self.clean.contains(&key) {
                                levels.push(enter(content, key, path.len(), self.losses));
                            }
                        }
                        Node::File { size_bytes, content } => self.file(snapshot, &path, *size_bytes, content)?,
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Everything that a file is made of lies in a healthy place and is as long as its list says.
    fn file(&mut self, snapshot: &Snapshot, path: &[u8], size_bytes: u64, content: &Content) -> Result<()> {
        let (index, progress) = (self.reader.index(), self.progress);
        let mut fresh = fresh_runs(self.reader, content, &self.clean_lists);
        let lost = |run: Result<Run>| {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            let (id, length_bytes) = match run {
                Err(e) if e.is_damage() => return Ok(Some(e.to_string())),
                Err(e) => return Err(e),
                Ok(Run::Hole { .. }) => return Ok(None),
                Ok(Run::Data { id, length_bytes }) => (id, length_bytes),
            };
            let places = index.places(&id);
            let mut healthy = places.iter().filter(|p| index.is_healthy(p.frame));
            let what = if places.is_empty() { "is missing" } else { "lies in a damaged frame" };
            let found = healthy.any(|p| u64::from(p.length_bytes) == length_bytes);
            Ok((!found).then(|| format!("blob {id} {what}")))
        };
        let mut left = max_runs(size_bytes);
        let too_many = || Ok(Some("it has more runs than a file of its length can have".to_owned()));
        let found = fresh.by_ref().map(|run| {
            left = left.saturating_sub(1);
            if left == 0 { too_many() } else { lost(run) }
        });
        match found.filter_map(Result::transpose).next().transpose()? {
            Some(why) => self.touch(snapshot, path, &why),
            None => {
                let opened = fresh.into_seen();
                self.clean_lists.extend(opened);
            }
        }
        Ok(())
    }

    fn touch(&mut self, snapshot: &Snapshot, path: &[u8], why: &str) {
        self.losses += 1;
        if self.touched.len() >= MAX_TOUCHED {
            return;
        }
        let path = if path.is_empty() { b"/" } else { path };
        self.touched.push(Touched { snapshot: snapshot.id, path: path.to_vec(), why: why.to_owned() });
    }
}
