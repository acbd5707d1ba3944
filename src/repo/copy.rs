//! Snapshots brought into another repository: which ones, in what order, and when each of them counts there; and the
//! way by ids, where both repositories cut and name alike.
//!
//! Each snapshot is put once everything that it needs is durable, so that whatever ends a copy costs only what was under
//! way, and the blobs of that are found by the next. A snapshot of which anything is lost is not put. Nothing is ever
//! deleted. See `format-spec/06-snapshots.md`, "Copies".

use crate::{
    blobs::{
        index::{Index, Place},
        reader::{BadFrame, Reader},
        writer::{Added, Filler, Stream, Writer},
    },
    error::{Error, Result},
    id::{BlobId, Generation, SnapshotId},
    progress::{Event, Progress},
    repo::{
        needed::{Role, Visitor, Walked, walk},
        readback::{prove_packs, prove_pair},
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Stat},
    },
    storage::{
        envelope::Kind,
        object::{Folder, Reserve},
    },
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

/// How many lost paths of a snapshot are named; the rest is counted.
const MAX_NAMED: usize = 1000;

/// How snapshots are copied.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions {
    /// Of snapshots that are there already, take over tags, label and protection where they were changed more often in
    /// the source.
    pub update: bool,
    /// Read back what was written, past the system's cache, before a snapshot that rests on it is put.
    pub verify: bool,
    /// How much of the target's medium is left free.
    pub reserve: Reserve,
    /// How many threads compress.
    pub threads: usize,
    /// Change nothing; find out what would be done.
    pub dry_run: bool,
}

/// Paths of a snapshot of which anything is lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Losses {
    /// The first of them, each with what is lost.
    pub paths: Vec<(Vec<u8>, String)>,
    /// How many there are.
    pub count: u64,
}

impl Losses {
    /// Takes note of a path; of the last path only once.
    pub fn add(&mut self, path: &[u8], why: &str) {
        let path = if path.is_empty() { b"/" } else { path };
        if self.paths.last().is_some_and(|(last, _)| last == path) {
            return;
        }
        self.count += 1;
        if self.paths.len() < MAX_NAMED {
            self.paths.push((path.to_vec(), why.to_owned()));
        }
    }
}

/// What became of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is there now.
    Copied,
    /// It was there before.
    There,
    /// It was there before, and its tags, label or protection were changed in the source since; they were not taken over.
    Newer,
    /// It was there before, and tags, label and protection are the source's now.
    Updated,
    /// It is not there, for something of it is lost in the source.
    Lost(Losses),
}

/// What was moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of frames that were read from the source.
    pub read_bytes: u64,
    /// What was added to the target.
    pub added: Added,
}

impl std::ops::AddAssign for Moved {
    fn add_assign(&mut self, more: Self) {
        self.read_bytes += more.read_bytes;
        self.added += more.added;
    }
}

/// Who is told what became of each snapshot, and what that moved.
pub type Tell<'a> = &'a mut dyn FnMut(&Snapshot, &Fate, Moved);

/// What a carrier has brought of a snapshot.
#[derive(Debug)]
pub struct Brought {
    /// The root folder as the target has it.
    pub root: Entry,
    /// Its stats as the target has them.
    pub root_stat: Stat,
    /// What is lost in the source; what was brought is not the snapshot then.
    pub losses: Losses,
    /// Bytes of frames that were read from the source, or would be.
    pub read_bytes: u64,
    /// What would be added, where nothing is given to the writer because nothing is to be read.
    pub foreseen: Added,
}

/// The target of a copy, as it is while one snapshot is brought.
#[derive(Debug, Clone, Copy)]
pub struct There<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What lies in it. Nobody may keep it beyond the call.
    pub index: &'a Arc<Index>,
    /// What takes blobs that it lacks.
    pub writer: &'a Writer,
    /// Whether nothing is written.
    pub dry_run: bool,
}

/// Brings what a snapshot is made of, one snapshot after the other.
pub trait Carrier {
    /// Gives the target's writer what the target lacks of a snapshot.
    ///
    /// # Errors
    /// `Interrupted`, `Refused` where the writer refuses, and storage errors of the source that are no damage.
    fn bring(&mut self, snapshot: &Snapshot, there: There<'_>, progress: &dyn Progress) -> Result<Brought>;

    /// Takes the frames of the source that were found damaged.
    fn take_bad_frames(&mut self) -> Vec<BadFrame>;
}

/// Whether two repositories name equal blobs alike and cut equal streams alike.
pub fn are_alike(a: &Repository, b: &Repository) -> bool {
    a.likeness() == b.likeness()
}

/// The same failure, with the repository that it happened in: two are in use, whose objects have names alike.
pub fn named(repository: &Repository, e: Error) -> Error {
    let of = |object: String| format!("{object} of {}", repository.storage().location());
    match e {
        Error::Storage { verb, object, source } => Error::Storage { verb, object: of(object), source },
        Error::MediumGone { verb, object, source } => Error::MediumGone { verb, object: of(object), source },
        Error::MediumReadOnly { verb, object, source } => Error::MediumReadOnly { verb, object: of(object), source },
        Error::MediumFull { verb, object, source } => Error::MediumFull { verb, object: of(object), source },
        Error::Damaged { object, why } => Error::Damaged { object: of(object), why },
        Error::NotKept { object, why } => Error::NotKept { object: of(object), why },
        Error::Newer { object, why } => Error::Newer { object: of(object), why },
        e => e,
    }
}

/// What the target has of a snapshot of the source.
fn standing(source: &Repository, target: &Repository, snapshot: &Snapshot) -> Option<Fate> {
    let there = target.snapshots().iter().find(|s| s.id == snapshot.id)?;
    let words = |s: &Snapshot| (s.tags.clone(), s.label.clone(), s.protected);
    let newer = source.generation(&snapshot.id) > target.generation(&snapshot.id) && words(there) != words(snapshot);
    Some(if newer { Fate::Newer } else { Fate::There })
}

/// Copies snapshots of a source in the order of its commits, and tells of each what became of it. On return those that
/// were told as copied are in the target, durably. The target is to be open for writing, unless this is a dry run.
///
/// # Errors
/// `Interrupted`, `NotKept` where the target's medium did not keep what it took, and storage errors of either
/// repository; what was told until then is as it was told. Damage of the source is no error.
pub fn copy_by(
    carrier: &mut dyn Carrier,
    source: &Repository,
    target: &mut Repository,
    ids: &HashSet<SnapshotId>,
    options: &CopyOptions,
    (progress, told): (&dyn Progress, Tell<'_>),
) -> Result<()> {
    let mut index = None;
    for snapshot in source.snapshots().iter().filter(|s| ids.contains(&s.id)) {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let (fate, moved) = match standing(source, target, snapshot) {
            Some(Fate::Newer) if options.update => {
                if !options.dry_run {
                    take_over(source, target, snapshot).map_err(|e| named(target, e))?;
                }
                (Fate::Updated, Moved::default())
            }
            Some(fate) => (fate, Moved::default()),
            None => {
                let known = match index.take() {
                    Some(index) => index,
                    None => Arc::new(target.index().map_err(|e| named(target, e))?),
                };
                let (fate, moved, known) = copy_one(carrier, (source, target), (snapshot, known), options, progress)?;
                index = Some(known);
                (fate, moved)
            }
        };
        told(snapshot, &fate, moved);
    }
    Ok(())
}

/// Takes over what can be changed of a snapshot; what it is made of stays.
fn take_over(source: &Repository, target: &mut Repository, from: &Snapshot) -> Result<()> {
    let generation = source.generation(&from.id).unwrap_or(Generation::FIRST);
    let change = |to: &mut Snapshot| {
        to.tags.clone_from(&from.tags);
        to.label.clone_from(&from.label);
        to.protected = from.protected;
    };
    target.rewrite_as(&from.id, generation, &change).map(drop)
}

/// Brings one snapshot and puts it. Returns the index with what is there now.
fn copy_one(
    carrier: &mut dyn Carrier,
    (source, target): (&Repository, &mut Repository),
    (snapshot, index): (&Snapshot, Arc<Index>),
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<(Fate, Moved, Arc<Index>)> {
    let writer = target.writer_leaving(options.reserve, Arc::clone(&index), options.threads, options.dry_run)?;
    let there = There { repository: target, index: &index, writer: &writer, dry_run: options.dry_run };
    let brought = carrier.bring(snapshot, there, progress);
    // Ended whatever came of the bringing, so that nothing that was packed is lost.
    let finished = writer.finish().map_err(|e| named(target, e));
    source.mark_bad(&carrier.take_bad_frames())?;
    let (published, mut added) = match (finished, &brought) {
        (Err(Error::Refused), Err(_)) => (Vec::new(), Added::default()),
        (finished, _) => finished?,
    };
    target.catalogue_packs(&published)?;
    let brought = brought?;
    added += brought.foreseen;
    let moved = Moved { read_bytes: brought.read_bytes, added };
    let mut index = index;
    match Arc::get_mut(&mut index) {
        Some(index) => published.iter().for_each(|p| index.add(&p.name, p.kind, &p.toc, &HashSet::new(), None)),
        None => index = Arc::new(target.index().map_err(|e| named(target, e))?),
    }
    if brought.losses.count > 0 {
        return Ok((Fate::Lost(brought.losses), moved, index));
    }
    if options.verify {
        prove_packs(target, &published, progress).map_err(|e| named(target, e))?;
    }
    if !options.dry_run {
        let copy = Snapshot { root: brought.root, root_stat: brought.root_stat, ..snapshot.clone() };
        let generation = source.generation(&snapshot.id).unwrap_or(Generation::FIRST);
        target.put_copy(copy, generation).map_err(|e| named(target, e))?;
    }
    if let Some(generation) = target.generation(&snapshot.id).filter(|_| options.verify) {
        let proven = prove_pair(target, Folder::Snapshots, Kind::Snapshot, &snapshot.id.object(generation));
        proven.map_err(|e| named(target, e))?;
    }
    Ok((Fate::Copied, moved, index))
}

/// The way by ids: blobs that the target lacks are brought as they are, frame after frame, in the order of the medium.
#[derive(Debug)]
pub struct ById<'a> {
    source: &'a Repository,
    reader: Reader,
    walked: Walked,
    /// In a dry run, what an earlier snapshot would have brought.
    foreseen: HashSet<BlobId>,
    /// How many bytes of blobs were met so far.
    told_bytes: u64,
}

impl<'a> ById<'a> {
    /// A carrier between repositories that are alike.
    ///
    /// # Errors
    /// A storage error.
    pub fn new(source: &'a Repository) -> Result<Self> {
        let reader = source.reader(Arc::new(source.index().map_err(|e| named(source, e))?));
        Ok(Self { source, reader, walked: Walked::default(), foreseen: HashSet::new(), told_bytes: 0 })
    }

    /// Gives what is missing to the writer. Returns the blobs that turned out to be lost.
    fn read(
        &self,
        missing: BTreeMap<u32, Vec<Wanted>>,
        writer: &Writer,
        progress: &dyn Progress,
    ) -> Result<HashMap<BlobId, String>> {
        let (mut data, mut trees) = (writer.filler(Stream::Data), writer.filler(Stream::Tree));
        let mut lost = HashMap::new();
        for (frame, wanted) in missing {
            if progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            let opened = self.reader.frame(frame);
            for Wanted { place, id, role } in wanted {
                let filler = if role == Role::Data { &mut data } else { &mut trees };
                let whole = opened.as_ref().ok().and_then(|opened| self.reader.verified(opened, place, &id).ok());
                match whole.map_or_else(|| self.reader.blob(&id), |bytes| Ok(bytes.to_vec())) {
                    Ok(bytes) => put(filler, &bytes, &id)?,
                    // Without stats the next backup reads every file, and nothing else is lost.
                    Err(e) if e.is_damage() && role == Role::Stats => {}
                    Err(e) if e.is_damage() => drop(lost.insert(id, e.to_string())),
                    Err(e) => return Err(named(self.source, e)),
                }
                progress.tell(Event::Done { entries: 0, bytes: u64::from(place.length_bytes) });
            }
        }
        data.flush()?;
        trees.flush()?;
        Ok(lost)
    }

    /// What reading would cost and bring: about, for nobody knows what a frame of other neighbours will weigh.
    fn foresee(&mut self, missing: &BTreeMap<u32, Vec<Wanted>>) -> (u64, Added) {
        let (mut read_bytes, mut added) = (0, Added::default());
        for (frame, wanted) in missing {
            let frame_bytes = self.reader.index().frame(*frame).map_or(0, |(f, ..)| u64::from(f.frame_bytes));
            let whole_bytes = self.reader.index().blobs_of(*frame).map(|(_, p)| u64::from(p.length_bytes)).sum::<u64>();
            let raw_bytes = wanted.iter().map(|w| u64::from(w.place.length_bytes)).sum::<u64>();
            let share = u128::from(frame_bytes) * u128::from(raw_bytes) / u128::from(whole_bytes.max(1));
            read_bytes += frame_bytes;
            let stored_bytes = u64::try_from(share).unwrap_or(frame_bytes);
            added += Added { blobs: wanted.len() as u64, raw_bytes, stored_bytes };
            self.foreseen.extend(wanted.iter().map(|w| w.id));
        }
        (read_bytes, added)
    }
}

fn put(filler: &mut Filler, bytes: &[u8], id: &BlobId) -> Result<()> {
    match filler.put(bytes)? {
        put if put == *id => Ok(()),
        put => Err(Error::damaged(format!("blob {id}"), format!("the target calls it {put}: they are not alike"))),
    }
}

impl Carrier for ById<'_> {
    fn bring(&mut self, snapshot: &Snapshot, there: There<'_>, progress: &dyn Progress) -> Result<Brought> {
        let fetched_before = self.reader.fetched_bytes();
        let mut missing = Missing::new(self.reader.index(), there.index, &self.foreseen);
        let walked = walk(&self.reader, snapshot, &mut self.walked, &mut missing, progress);
        walked.map_err(|e| named(self.source, e))?;
        let lists_lost = missing.lists_lost;
        let (wanted, mut lost) = missing.places();
        self.told_bytes += wanted.values().flatten().map(|w| u64::from(w.place.length_bytes)).sum::<u64>();
        let entries = snapshot.counts.files + snapshot.counts.folders + snapshot.counts.others;
        progress.tell(Event::Total { entries, bytes: self.told_bytes });
        let mut foreseen = (0, Added::default());
        if there.dry_run {
            foreseen = self.foresee(&wanted);
        } else {
            lost.extend(self.read(wanted, there.writer, progress)?);
        }
        let mut losses = Losses::default();
        if lists_lost || !lost.is_empty() {
            // What is lost is told once in a walk, and another snapshot may need it too.
            self.walked = Walked::default();
            let mut naming = Naming { lost: &lost, losses: &mut losses, path: Vec::new() };
            let walked = walk(&self.reader, snapshot, &mut Walked::default(), &mut naming, progress);
            walked.map_err(|e| named(self.source, e))?;
        }
        Ok(Brought {
            root: snapshot.root.clone(),
            root_stat: snapshot.root_stat.clone(),
            losses,
            read_bytes: self.reader.fetched_bytes() - fetched_before + foreseen.0,
            foreseen: foreseen.1,
        })
    }

    fn take_bad_frames(&mut self) -> Vec<BadFrame> {
        self.reader.take_bad_frames()
    }
}

/// A blob that the target lacks, and where it is read.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    place: Place,
    id: BlobId,
    role: Role,
}

/// Gathers what the target lacks, by the frames that it is read from.
struct Missing<'a> {
    source: &'a Index,
    target: &'a Index,
    foreseen: &'a HashSet<BlobId>,
    /// What each is needed for: the most that any of those who name it need it for.
    roles: HashMap<BlobId, Role>,
    lists_lost: bool,
}

impl<'a> Missing<'a> {
    fn new(source: &'a Index, target: &'a Index, foreseen: &'a HashSet<BlobId>) -> Self {
        Self { source, target, foreseen, roles: HashMap::new(), lists_lost: false }
    }

    /// Where each is read, and what lies nowhere.
    fn places(self) -> (BTreeMap<u32, Vec<Wanted>>, HashMap<BlobId, String>) {
        let (mut wanted, mut lost) = (BTreeMap::<u32, Vec<Wanted>>::new(), HashMap::new());
        for (id, role) in self.roles {
            let places = self.source.places(&id);
            // A mark is a hint: where nothing better is, what it says is found out by reading.
            match places.iter().find(|place| self.source.is_healthy(place.frame)).or(places.first()) {
                Some(place) => wanted.entry(place.frame).or_default().push(Wanted { place: *place, id, role }),
                None if role == Role::Stats => {}
                None => drop(lost.insert(id, format!("blob {id} is missing"))),
            }
        }
        // The order of the medium, which is the same each time.
        wanted.values_mut().for_each(|wanted| wanted.sort_unstable_by_key(|w| w.place));
        (wanted, lost)
    }
}

impl Visitor for Missing<'_> {
    fn blob(&mut self, id: &BlobId, role: Role) -> Result<()> {
        let known = if role == Role::Data { self.target.is_known(id) } else { self.target.is_known_tree(id) };
        if !known && !self.foreseen.contains(id) {
            self.roles.entry(*id).and_modify(|most| *most = role.max(*most)).or_insert(role);
        }
        Ok(())
    }

    fn lost(&mut self, _: &[u8], _: Error) -> Result<()> {
        self.lists_lost = true;
        Ok(())
    }
}

/// Finds the paths of blobs that turned out to be lost.
struct Naming<'a> {
    lost: &'a HashMap<BlobId, String>,
    losses: &'a mut Losses,
    path: Vec<u8>,
}

impl Visitor for Naming<'_> {
    fn at(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(path);
    }

    fn blob(&mut self, id: &BlobId, role: Role) -> Result<()> {
        if let Some(why) = self.lost.get(id).filter(|_| role != Role::Stats) {
            self.losses.add(&self.path, why);
        }
        Ok(())
    }

    fn lost(&mut self, path: &[u8], why: Error) -> Result<()> {
        self.losses.add(path, &format!("part of its list is lost: {why}"));
        Ok(())
    }
}
