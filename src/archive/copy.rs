//! Snapshots copied into another repository, whatever its keys and chunk sizes: by ids where both are alike, else every
//! file is cut again, and named, as a backup into the target would have done it.
//!
//! What a snapshot shares with one that both have is neither read nor cut again (`archive/pairs`).

use crate::{
    archive::{
        assemble::{Assembler, Item},
        content::{Failure, ReadFile},
        pairs::{FolderKey, Pairs, Sides, folder_key, pair},
    },
    blobs::{
        chunker::Chunker,
        reader::{BadFrame, Reader},
        writer::{Added, Filler, Stream},
    },
    error::{Error, Result},
    id::SnapshotId,
    progress::{Event, Progress},
    repo::{
        content::{Content, Run, fold, max_runs},
        copy::{Brought, ById, Carrier, CopyOptions, Losses, Tell, There, are_alike, copy_by, named},
        listing::{Listing, Runs, listing, runs},
        repository::Repository,
        snapshot::{Problem, Snapshot},
        tree::{Entry, Node, Stat},
    },
};
use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    iter::Peekable,
    sync::{Arc, Mutex, PoisonError},
};

/// No file is cut into more runs, or made of more, for they are held in memory while it is cut or restored. Lists that
/// hold each other many times can claim any number.
const MAX_RUNS: usize = 1 << 24;

/// Copies snapshots of a source in the order of its commits, and tells of each what became of it. On return those that
/// were told as copied are in the target, durably.
///
/// # Errors
/// As [`copy_by`].
pub fn copy(
    source: &Repository,
    target: &mut Repository,
    ids: &HashSet<SnapshotId>,
    options: &CopyOptions,
    (progress, told): (&dyn Progress, Tell<'_>),
) -> Result<()> {
    if are_alike(source, target) {
        return copy_by(&mut ById::new(source)?, source, target, ids, options, (progress, told));
    }
    copy_by(&mut Anew::new(source, target)?, source, target, ids, options, (progress, told))
}

/// Gives the target's writer everything that a snapshot of a source is made of and that the target lacks, named and cut
/// as the target does it. Nothing that the target has already is relied on, for it may be damaged.
///
/// # Errors
/// As [`Carrier::bring`].
pub fn bring_anew(
    source: &Repository,
    snapshot: &Snapshot,
    there: There<'_>,
    progress: &dyn Progress,
) -> Result<Brought> {
    Anew { shares: false, ..Anew::new(source, there.repository)? }.bring(snapshot, there, progress)
}

/// The way between repositories that are not alike.
#[derive(Debug)]
struct Anew<'a> {
    source: &'a Repository,
    reader: Reader,
    chunker: Chunker,
    pairs: Pairs,
    paired: HashSet<SnapshotId>,
    /// Whether what the target has is looked at.
    shares: bool,
}

impl<'a> Anew<'a> {
    fn new(source: &'a Repository, target: &Repository) -> Result<Self> {
        let reader = source.reader(Arc::new(source.index().map_err(|e| named(source, e))?));
        let (pairs, paired) = (Pairs::default(), HashSet::new());
        Ok(Self { source, reader, chunker: target.chunker(), pairs, paired, shares: true })
    }

    /// Pairs what the snapshot may share: its parent, and the latest of every machine and set of paths that both have.
    fn pair(&mut self, snapshot: &Snapshot, there: There<'_>, progress: &dyn Progress) -> Result<()> {
        let theirs: HashMap<SnapshotId, &Snapshot> = there.repository.snapshots().iter().map(|s| (s.id, s)).collect();
        let both = self.source.snapshots().iter().filter(|s| theirs.contains_key(&s.id));
        let mut latest = HashMap::new();
        for ours in both {
            let group = (snapshot.parent == Some(ours.id)).then_some(ours.id);
            latest.insert((&ours.host, &ours.sources, group), ours);
        }
        let target = there.repository.reader(Arc::clone(there.index));
        for ours in latest.into_values() {
            let Some(theirs) = theirs.get(&ours.id).filter(|_| self.paired.insert(ours.id)) else { continue };
            pair(&self.pairs, Sides { source: &self.reader, target: &target }, (ours, theirs), progress)?;
        }
        there.repository.mark_bad(&target.take_bad_frames())
    }
}

impl Carrier for Anew<'_> {
    fn bring(&mut self, snapshot: &Snapshot, there: There<'_>, progress: &dyn Progress) -> Result<Brought> {
        let fetched_before = self.reader.fetched_bytes();
        if self.shares {
            self.pair(snapshot, there, progress)?;
        }
        let closing = Mutex::new(None);
        let mut walk = Rewalk {
            source: self.source,
            reader: &self.reader,
            chunker: &self.chunker,
            pairs: &self.pairs,
            closing: &closing,
            data: there.writer.filler(Stream::Data),
            lists: there.writer.filler(Stream::Tree),
            begun: false,
            levels: Vec::new(),
            path: Vec::new(),
            buffer: Vec::new(),
            losses: Losses::default(),
            failure: None,
            snapshot,
            progress,
        };
        let refused = Mutex::new(Losses::default());
        let tell = |problem: &Problem| {
            refused.lock().unwrap_or_else(PoisonError::into_inner).add(&problem.path, &problem.cause);
        };
        let trust = |_: &ReadFile| Stat::default();
        let closed = |entry: &Entry, stat: &Stat| {
            let key = closing.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let (Some(key), Node::Folder { content }) = (key, &entry.node) {
                self.pairs.add_folder(key, (content.clone(), stat.folder.clone()));
            }
        };
        let assembler = Assembler::new(there.writer.filler(Stream::Tree), &tell, &trust).showing(&closed);
        let assembled = assembler.run(&mut walk);
        if let Some(e) = walk.failure.take() {
            return Err(e);
        }
        let assembled = assembled?;
        walk.data.flush()?;
        walk.lists.flush()?;
        let mut losses = walk.losses;
        let refused = refused.into_inner().unwrap_or_else(PoisonError::into_inner);
        refused.paths.iter().for_each(|(path, why)| losses.add(path, why));
        Ok(Brought {
            root: assembled.root,
            root_stat: assembled.root_stat,
            losses,
            read_bytes: self.reader.fetched_bytes() - fetched_before,
            foreseen: Added::default(),
        })
    }

    fn take_bad_frames(&mut self) -> Vec<BadFrame> {
        self.reader.take_bad_frames()
    }
}

struct Level<'a> {
    path_bytes: usize,
    listing: Listing<'a>,
    key: FolderKey,
    own: (Entry, Stat),
    lost_before: u64,
}

/// A stored snapshot as the items that its trees are made of, each file in it cut and named by the target.
struct Rewalk<'a> {
    source: &'a Repository,
    reader: &'a Reader,
    chunker: &'a Chunker,
    pairs: &'a Pairs,
    /// What the folder is known by that is closed next, if all of it was found.
    closing: &'a Mutex<Option<FolderKey>>,
    data: Filler,
    lists: Filler,
    begun: bool,
    levels: Vec<Level<'a>>,
    path: Vec<u8>,
    buffer: Vec<u8>,
    losses: Losses,
    failure: Option<Error>,
    snapshot: &'a Snapshot,
    progress: &'a dyn Progress,
}

impl Iterator for Rewalk<'_> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        match self.step() {
            Ok(item) => item,
            Err(e) => {
                self.failure = Some(e);
                None
            }
        }
    }
}

impl Rewalk<'_> {
    fn step(&mut self) -> Result<Option<Item>> {
        if !self.begun {
            self.begun = true;
            let (root, stat) = (self.snapshot.root.clone(), self.snapshot.root_stat.clone());
            return Ok(self.enter(root, stat));
        }
        loop {
            if self.progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            self.path.truncate(level.path_bytes);
            let (entry, stat) = match level.listing.next() {
                None => return Ok(self.leave()),
                Some(Ok((entry, stat))) => (entry, stat.unwrap_or_default()),
                Some(Err(e)) if e.is_damage() => {
                    self.losses.add(&self.path, &format!("part of its list is lost: {e}"));
                    continue;
                }
                Some(Err(e)) => return Err(named(self.source, e)),
            };
            self.path.push(b'/');
            self.path.extend_from_slice(&entry.name);
            if let Some(item) = self.entry(entry, stat)? {
                return Ok(Some(item));
            }
        }
    }

    /// An entry as the target has it; nothing where anything of it is lost.
    fn entry(&mut self, entry: Entry, stat: Stat) -> Result<Option<Item>> {
        let (size_bytes, content) = match &entry.node {
            Node::Folder { .. } => return Ok(self.enter(entry, stat)),
            Node::File { size_bytes, content } => (*size_bytes, content),
            _ => return Ok(Some(Item::Whole(entry, stat))),
        };
        match self.file(size_bytes, content) {
            Ok(content) => {
                let node = Node::File { size_bytes, content };
                Ok(Some(Item::Whole(Entry { node, ..entry }, stat)))
            }
            Err(e) if e.is_damage() => {
                self.losses.add(&self.path, &e.to_string());
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    /// A folder as the target calls it, or the beginning of one that it does not know.
    fn enter(&mut self, entry: Entry, stat: Stat) -> Option<Item> {
        let Node::Folder { content } = &entry.node else { return None };
        let key = folder_key(content, stat.folder.as_ref());
        let is_root = self.levels.is_empty();
        if let Some((content, stats)) = self.pairs.folder(&key).filter(|_| !is_root) {
            let entry = Entry { node: Node::Folder { content }, ..entry };
            return Some(Item::Whole(entry, Stat { folder: stats, ..stat }));
        }
        self.progress.tell(Event::Path(&self.path));
        let listing = listing(self.reader, content, stat.folder.as_ref());
        let own = (entry, stat);
        let (path_bytes, lost_before) = (self.path.len(), self.losses.count);
        self.levels.push(Level { path_bytes, listing, key, own, lost_before });
        Some(Item::Open)
    }

    fn leave(&mut self) -> Option<Item> {
        let level = self.levels.pop()?;
        let whole = self.losses.count == level.lost_before;
        *self.closing.lock().unwrap_or_else(PoisonError::into_inner) = whole.then_some(level.key);
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        Some(Item::Close(level.own.0, level.own.1))
    }

    /// What the target calls a file's content: known, or cut anew.
    fn file(&mut self, size_bytes: u64, content: &Content) -> Result<Content> {
        if content.runs.is_empty() {
            return Ok(Content::default());
        }
        if let Some(known) = self.pairs.file(content) {
            return Ok(known);
        }
        let mut stored = Stored::new(self.source, self.reader, (size_bytes, content));
        let mut cut: Vec<Run> = Vec::new();
        while let Some(next) = stored.next()? {
            match next {
                Stretch::Hole { length_bytes } => cut.push(Run::Hole { length_bytes }),
                Stretch::Data => {
                    let (data, progress) = (&mut self.data, self.progress);
                    let read = self.chunker.cut(&mut stored, u64::MAX, &mut self.buffer, |chunk| {
                        if progress.stop_wanted() {
                            return Err(Failure::Whole(Error::Interrupted));
                        }
                        let length_bytes = chunk.len() as u64;
                        cut.push(Run::Data { id: data.put(chunk)?, length_bytes });
                        progress.tell(Event::Done { entries: 0, bytes: length_bytes });
                        Ok::<(), Failure>(())
                    });
                    match read {
                        Ok(_) => {}
                        Err(Failure::Whole(e)) => return Err(e),
                        Err(Failure::File(verb, e)) => {
                            return Err(stored.failure.take().unwrap_or_else(|| Error::file(verb, "a stored file", e)));
                        }
                    }
                }
            }
            if cut.len() > MAX_RUNS {
                return Err(Error::damaged("a file's list", format!("it is made of more than {MAX_RUNS} runs")));
            }
        }
        let lists = &mut self.lists;
        let theirs = fold(cut, |list| lists.put(list))?;
        self.pairs.add_file(content, theirs.clone());
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        Ok(theirs)
    }
}

/// What comes next of a stored file.
enum Stretch {
    /// A hole; where two lie side by side, both.
    Hole { length_bytes: u64 },
    /// Bytes, to be read until the next hole.
    Data,
}

/// A stored file, a stretch at a time.
struct Stored<'a> {
    source: &'a Repository,
    reader: &'a Reader,
    runs: Peekable<Runs<'a>>,
    /// How many more runs it may have.
    left: u64,
    bytes: Vec<u8>,
    at: usize,
    failure: Option<Error>,
}

impl<'a> Stored<'a> {
    fn new(source: &'a Repository, reader: &'a Reader, (size_bytes, content): (u64, &Content)) -> Self {
        let (runs, left) = (runs(reader, content).peekable(), max_runs(size_bytes).min(MAX_RUNS as u64));
        Self { source, reader, runs, left, bytes: Vec::new(), at: 0, failure: None }
    }

    fn next(&mut self) -> Result<Option<Stretch>> {
        let mut hole_bytes = 0;
        while let Some(Ok(Run::Hole { length_bytes })) = self.runs.next_if(|run| matches!(run, Ok(Run::Hole { .. }))) {
            hole_bytes += length_bytes;
            self.count()?;
        }
        match self.runs.peek() {
            _ if hole_bytes > 0 => Ok(Some(Stretch::Hole { length_bytes: hole_bytes })),
            None => Ok(None),
            Some(_) => Ok(Some(Stretch::Data)),
        }
    }

    fn count(&mut self) -> Result<()> {
        self.left = self.left.saturating_sub(1);
        let why = "it has more runs than a file of its length can have";
        if self.left > 0 { Ok(()) } else { Err(Error::damaged("a file's list", why)) }
    }

    /// Fetches the next run of data; says whether there was one before the next hole.
    fn fill(&mut self) -> Result<bool> {
        let Some(run) = self.runs.next_if(|run| !matches!(run, Ok(Run::Hole { .. }))) else { return Ok(false) };
        let Run::Data { id, length_bytes } = run.map_err(|e| named(self.source, e))? else { return Ok(false) };
        self.count()?;
        (self.bytes, self.at) = (self.reader.blob(&id).map_err(|e| named(self.source, e))?, 0);
        if self.bytes.len() as u64 != length_bytes {
            return Err(Error::damaged(format!("blob {id}"), "it is not as long as the file's list says"));
        }
        Ok(true)
    }
}

impl Read for Stored<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        while self.at >= self.bytes.len() {
            match self.fill() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(e) => {
                    let said = io::Error::other(e.to_string());
                    self.failure = Some(e);
                    return Err(said);
                }
            }
        }
        let left = self.bytes.get(self.at..).unwrap_or_default();
        let length = left.len().min(room.len());
        if let (Some(to), Some(from)) = (room.get_mut(..length), left.get(..length)) {
            to.copy_from_slice(from);
        }
        self.at += length;
        Ok(length)
    }
}
