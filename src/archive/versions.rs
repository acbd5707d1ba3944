//! Names looked for across snapshots, and the versions of each: which snapshots have which.
//!
//! Whatever is the same blob under the same path is opened and looked through once, however many snapshots have it. What
//! has it is then handed down from the snapshots to the pieces and from those to the versions, in spans of neighbours.

use crate::{
    archive::{compare::tell_lost, filter::Patterns},
    blobs::reader::Reader,
    error::{Error, Result},
    id::BlobId,
    progress::Progress,
    repo::{
        content::{Content, MAX_DEPTH, Run, decode_list},
        snapshot::Snapshot,
        tree::{Entry, Node, decode_piece},
    },
};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

/// How many snapshots are looked through side by side: those whose new listings fit into a reader's memory.
const BATCH: usize = 16;
/// How many blobs are looked through before what they lead to: no more paths wait than some times this.
const ROUND: usize = 4096;

/// What is looked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Names or whole paths.
    pub patterns: &'a Patterns,
    /// Whether another mode or owner makes another version.
    pub by_metadata: bool,
}

/// A version of an entry, and who has it.
#[derive(Debug)]
pub struct Version {
    /// The entry; the list of a folder is left out.
    pub entry: Entry,
    /// Neighbours among `Versions::snapshots` that have it: first and last of each span.
    spans: Vec<Span>,
}

/// From which to which, both included.
type Span = (u32, u32);

/// A path that was found, with its versions in the order of the commits that have them first.
#[derive(Debug)]
pub struct Found {
    /// The path.
    pub path: Vec<u8>,
    /// Its versions.
    pub versions: Vec<Version>,
}

/// What was found.
#[derive(Debug)]
pub struct Versions<'a> {
    /// The snapshots that were looked through, those of the same machine and paths beside each other.
    snapshots: Vec<&'a Snapshot>,
    /// For each of them, where those of the same machine and paths end.
    ends: Vec<usize>,
    /// What was found, in the order of paths.
    pub found: Vec<Found>,
}

impl<'a> Versions<'a> {
    /// The snapshots that have a version.
    pub fn snapshots_of<'s>(&'s self, version: &'s Version) -> impl Iterator<Item = &'a Snapshot> + 's {
        self.stretches_of(version).flatten().copied()
    }

    /// The snapshots that have a version, in stretches of one machine and its paths each, in the order of their commits.
    pub fn stretches_of<'s>(&'s self, version: &'s Version) -> impl Iterator<Item = &'s [&'a Snapshot]> + 's {
        version.spans.iter().flat_map(move |(from, to)| {
            let (mut at, end) = (*from as usize, *to as usize + 1);
            std::iter::from_fn(move || {
                let next = end.min(*self.ends.get(at)?);
                let stretch = self.snapshots.get(at..next).filter(|stretch| !stretch.is_empty());
                at = next;
                stretch
            })
        })
    }
}

/// Looks for names in snapshots. Damage that hides a part of a listing is told as a problem, once for each path.
///
/// # Errors
/// `Interrupted`, and storage errors that are no damage.
pub fn versions<'a>(
    reader: &Reader,
    snapshots: &[&'a Snapshot],
    wanted: &Wanted<'_>,
    progress: &dyn Progress,
) -> Result<Versions<'a>> {
    let mut snapshots = snapshots.to_vec();
    snapshots.sort_by(|a, b| (&a.host, &a.sources, a.commit, a.id).cmp(&(&b.host, &b.sources, b.commit, b.id)));
    let mut walk = Walk { reader, wanted, progress, looks: HashMap::new(), looked: Vec::new(), all: All::default() };
    let mut numbered = (0..).zip(&snapshots).peekable();
    while numbered.peek().is_some() {
        let mut pending = Vec::new();
        for (number, snapshot) in numbered.by_ref().take(BATCH) {
            let Node::Folder { content } = &snapshot.root.node else { continue };
            for look in walk.refer(&Arc::default(), content.depth, &content.runs, &mut pending) {
                walk.looked.get_mut(look as usize).into_iter().for_each(|look| look.spans.push((number, number)));
            }
        }
        walk.run(pending)?;
    }
    let Walk { looked, all, .. } = walk;
    let mut found = all.settle(looked);
    let machines = snapshots.chunk_by(|a, b| (&a.host, &a.sources) == (&b.host, &b.sources));
    let ends = machines.scan(0, |end, own| {
        *end += own.len();
        Some(std::iter::repeat_n(*end, own.len()))
    });
    let versions = Versions { ends: ends.flatten().collect(), snapshots, found: Vec::new() };
    for found in found.iter_mut().filter(|found| found.versions.len() > 1) {
        let first =
            |version: &Version| versions.stretches_of(version).filter_map(|own| Some(own.first()?.commit)).min();
        found.versions.sort_by_cached_key(first);
    }
    Ok(Versions { found, ..versions })
}

/// A blob of listings, looked through under one path.
struct Looked {
    /// How far from the root: a blob leads to blobs of higher ranks only.
    rank: usize,
    /// Blobs below it.
    below: Vec<u32>,
    /// Versions in it.
    versions: Vec<u32>,
    /// Which snapshots have it.
    spans: Vec<Span>,
}

/// Which blob, in which role, under which path: a hash of the three.
type LookKey = [u8; 16];

/// Numbers of versions by name.
type Names = BTreeMap<Vec<u8>, Vec<u32>>;

/// Every version that was met.
#[derive(Default)]
struct All {
    /// By the path of the folder, then by name: numbers of versions.
    folders: HashMap<Arc<[u8]>, Names>,
    versions: Vec<Version>,
}

impl All {
    /// The numbers of the versions of a piece of a folder, each of which is new or has been met in another piece.
    fn numbers(&mut self, folder: &Arc<[u8]>, entries: Vec<Entry>, by_metadata: bool) -> Vec<u32> {
        if entries.is_empty() {
            return Vec::new();
        }
        let names = match self.folders.get_mut(folder) {
            Some(names) => names,
            None => self.folders.entry(Arc::clone(folder)).or_default(),
        };
        let versions = &mut self.versions;
        entries.into_iter().map(|entry| number(names, versions, entry, by_metadata)).collect()
    }

    /// Hands down who has what, from the root on.
    fn settle(mut self, mut looked: Vec<Looked>) -> Vec<Found> {
        let mut order: Vec<usize> = (0..looked.len()).collect();
        order.sort_by_key(|at| looked.get(*at).map(|look| look.rank));
        for at in order {
            let Some(look) = looked.get_mut(at) else { continue };
            let spans = joined(std::mem::take(&mut look.spans));
            let (below, versions) = (std::mem::take(&mut look.below), std::mem::take(&mut look.versions));
            for below in below {
                looked.get_mut(below as usize).into_iter().for_each(|below| below.spans.extend_from_slice(&spans));
            }
            for version in versions {
                let version = self.versions.get_mut(version as usize);
                version.into_iter().for_each(|version| version.spans.extend_from_slice(&spans));
            }
        }
        let mut versions: Vec<Option<Version>> = self.versions.into_iter().map(Some).collect();
        let mut found: Vec<Found> = Vec::new();
        let named = self.folders.into_iter().flat_map(|(folder, names)| {
            names.into_iter().map(move |(name, numbers)| ([&folder, b"/".as_slice(), &name].concat(), numbers))
        });
        for (path, numbers) in named {
            let own = numbers.into_iter().filter_map(|n| versions.get_mut(n as usize)?.take());
            let own = own.map(|version| Version { spans: joined(version.spans), ..version }).collect();
            found.push(Found { path, versions: own });
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        found
    }
}

/// The one of some versions that an entry is. What was met last is most likely met again.
fn known(numbers: &[u32], versions: &[Version], entry: &Entry, by_metadata: bool) -> Option<u32> {
    let is_same = |n: &u32| {
        let Some(known) = versions.get(*n as usize).map(|version| &version.entry) else { return false };
        let (a, b) = (&known.metadata, &entry.metadata);
        let metadata = !by_metadata || (a.mode == b.mode && a.owner == b.owner && a.xattrs == b.xattrs);
        a.mtime == b.mtime && is_same_node(&known.node, &entry.node) && metadata
    };
    numbers.iter().rev().copied().find(is_same)
}

/// Whether two nodes are the same, whatever is in a folder.
fn is_same_node(a: &Node, b: &Node) -> bool {
    match (a, b) {
        (Node::Folder { .. }, Node::Folder { .. }) => true,
        (a, b) => a == b,
    }
}

/// The number of a version of a name.
fn number(names: &mut Names, versions: &mut Vec<Version>, mut entry: Entry, by_metadata: bool) -> u32 {
    let numbers = match names.get_mut(&entry.name) {
        Some(numbers) => numbers,
        None => names.entry(entry.name.clone()).or_default(),
    };
    if let Some(known) = known(numbers, versions, &entry, by_metadata) {
        return known;
    }
    if let Node::Folder { content } = &mut entry.node {
        *content = Content::default();
    }
    let fresh = u32::try_from(versions.len()).unwrap_or(u32::MAX);
    numbers.push(fresh);
    versions.push(Version { entry, spans: Vec::new() });
    fresh
}

/// Puts spans in order, and neighbours together.
fn joined(mut spans: Vec<Span>) -> Vec<Span> {
    spans.sort_unstable();
    let mut joined: Vec<Span> = Vec::with_capacity(1);
    for (from, to) in spans {
        match joined.last_mut() {
            Some(last) if from <= last.1.saturating_add(1) => last.1 = last.1.max(to),
            _ => joined.push((from, to)),
        }
    }
    joined
}

/// A blob to be looked through.
struct Look {
    number: u32,
    path: Arc<[u8]>,
    id: BlobId,
    /// How deep below it the pieces lie.
    depth: u8,
}

/// What was in a blob.
enum Inside {
    List(Vec<Run>),
    Piece(Piece),
}

#[derive(Default)]
struct Piece {
    /// Entries that were looked for: numbers of the versions that were known before this round, and what else there is.
    known: Vec<u32>,
    fresh: Vec<Entry>,
    folders: Vec<(Arc<[u8]>, Content)>,
}

struct Walk<'a> {
    reader: &'a Reader,
    wanted: &'a Wanted<'a>,
    progress: &'a dyn Progress,
    looks: HashMap<LookKey, u32>,
    looked: Vec<Looked>,
    all: All,
}

impl Walk<'_> {
    /// Numbers of the blobs that a list under a path refers to; those that are new are to be looked through.
    fn refer(&mut self, path: &Arc<[u8]>, depth: u8, runs: &[Run], pending: &mut Vec<Look>) -> Vec<u32> {
        let mut numbers = Vec::with_capacity(runs.len());
        for run in runs {
            let Run::Data { id, .. } = run else { continue };
            let mut hasher = blake3::Hasher::new();
            hasher.update(&id.0).update(&[depth]).update(path);
            let key: LookKey = hasher.finalize().as_bytes().first_chunk().copied().unwrap_or_default();
            let fresh = u32::try_from(self.looked.len()).unwrap_or(u32::MAX);
            let number = *self.looks.entry(key).or_insert(fresh);
            if number == fresh {
                let names = path.iter().filter(|b| **b == b'/').count();
                let rank = names * (usize::from(MAX_DEPTH) + 1) + usize::from(MAX_DEPTH.saturating_sub(depth));
                self.looked.push(Looked { rank, below: Vec::new(), versions: Vec::new(), spans: Vec::new() });
                pending.push(Look { number, path: Arc::clone(path), id: *id, depth });
            }
            numbers.push(number);
        }
        numbers
    }

    /// Looks blobs through, and whatever they lead to that is new.
    fn run(&mut self, mut pending: Vec<Look>) -> Result<()> {
        while !pending.is_empty() {
            let round = pending.split_off(pending.len().saturating_sub(ROUND));
            let (reader, wanted, progress, all) = (self.reader, self.wanted, self.progress, &self.all);
            let open = |look: &Look| {
                if progress.stop_wanted() { Err(Error::Interrupted) } else { look.open(reader, wanted, all) }
            };
            let opened: Vec<Result<Inside>> = round.par_iter().with_min_len(4).map(open).collect();
            for (look, inside) in round.iter().zip(opened) {
                let (mut below, mut versions) = (Vec::new(), Vec::new());
                match inside {
                    Err(e) if e.is_damage() => tell_lost(self.progress, &look.path, e),
                    Err(e) => return Err(e),
                    Ok(Inside::List(runs)) => {
                        below = self.refer(&look.path, look.depth.saturating_sub(1), &runs, &mut pending);
                    }
                    Ok(Inside::Piece(piece)) => {
                        for (path, content) in piece.folders {
                            below.extend(self.refer(&path, content.depth, &content.runs, &mut pending));
                        }
                        versions = piece.known;
                        versions.extend(self.all.numbers(&look.path, piece.fresh, wanted.by_metadata));
                    }
                }
                let looked = self.looked.get_mut(look.number as usize);
                looked.into_iter().for_each(|looked| {
                    (looked.below, looked.versions) = (std::mem::take(&mut below), std::mem::take(&mut versions))
                });
            }
        }
        Ok(())
    }
}

impl Look {
    /// Looks a blob through, on a thread of many: what is already known of its path is compared here, where most of what
    /// was looked for ends.
    fn open(&self, reader: &Reader, wanted: &Wanted<'_>, all: &All) -> Result<Inside> {
        let (bytes, object) = (reader.blob(&self.id)?, format!("tree {}", self.id));
        if self.depth > 0 {
            return Ok(Inside::List(decode_list(&bytes, &object)?));
        }
        let (mut piece, names) = (Piece::default(), all.folders.get(&self.path));
        let mut path = self.path.to_vec();
        for entry in decode_piece(&bytes, &object)? {
            path.truncate(self.path.len());
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            if let Node::Folder { content } = &entry.node {
                piece.folders.push((Arc::from(path.as_slice()), content.clone()));
            }
            let numbers = names.and_then(|names| names.get(&entry.name));
            // A known version is of the same kind and under the same path, so the patterns match it too.
            if let Some(known) = numbers.and_then(|numbers| known(numbers, &all.versions, &entry, wanted.by_metadata)) {
                piece.known.push(known);
            } else if wanted.patterns.matches(&path, matches!(entry.node, Node::Folder { .. })) {
                piece.fresh.push(entry);
            }
        }
        Ok(Inside::Piece(piece))
    }
}
