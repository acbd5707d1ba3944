//! What the snapshots take: how much each holds that no other does, what each added, and what none needs.
//!
//! Every listing is opened once, and of what it refers to only numbers are kept, four bytes each. Who holds what is then
//! handed down from the snapshots, each blob being met at most twice: by its first owner, and by the first other one.
//! Changes nothing.

use crate::{
    blobs::{index::Index, reader::Reader},
    error::{Error, Result},
    id::BlobId,
    progress::{Event, Progress},
    repo::{
        content::{Content, Run, decode_list},
        opening::listed,
        repository::Repository,
        snapshot::Snapshot,
        tree::{Node, decode_piece, decode_stats},
    },
    storage::object::Folder,
};
use rayon::iter::{IndexedParallelIterator, IntoParallelRefIterator, ParallelIterator};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    io,
    ops::{AddAssign, Range},
    sync::Arc,
};

/// Blobs, each counted once, and what they take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// How many.
    pub blobs: u64,
    /// Their bytes before compression.
    pub raw_bytes: u64,
    /// Their share of the bytes of the frames that they lie in.
    pub stored_bytes: u64,
}

/// What one snapshot takes.
#[derive(Debug, Clone)]
pub struct SnapshotUsage<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What no other snapshot of the repository holds: what would be free if it were forgotten.
    pub alone: Held,
    /// What no snapshot that was committed before it holds.
    pub added: Held,
}

/// What the snapshots of one machine take.
#[derive(Debug, Clone, Default)]
pub struct HostUsage {
    /// The machine.
    pub host: Vec<u8>,
    /// How many snapshots of it there are.
    pub snapshots: u64,
    /// Bytes of the files of all of them.
    pub bytes: u64,
    /// What no snapshot of another machine holds.
    pub alone: Held,
    /// What they added, in the order of commits.
    pub added: Held,
}

/// What lies on the medium.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackUsage {
    /// How many packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of them hold nothing that any snapshot needs.
    pub unneeded_packs: u64,
    /// The bytes of those.
    pub unneeded_pack_bytes: u64,
    /// What no snapshot needs in any pack, second copies included, and its share of the frames. A blob that only serves
    /// others as a base counts as not needed.
    pub unneeded: Held,
}

/// What the snapshots take.
#[derive(Debug)]
pub struct Usage<'a> {
    /// The chosen snapshots, the oldest commit first.
    pub snapshots: Vec<SnapshotUsage<'a>>,
    /// The machines of the chosen snapshots, by name; what they hold is counted in all of their snapshots.
    pub hosts: Vec<HostUsage>,
    /// Content that the chosen snapshots hold.
    pub data: Held,
    /// Listings that the chosen snapshots hold.
    pub trees: Held,
    /// What only chosen snapshots hold: what would be free if they were forgotten.
    pub alone: Held,
    /// The packs of the whole repository.
    pub packs: PackUsage,
    /// Blobs that snapshots need and that are in no pack.
    pub missing: u64,
}

/// Finds out what some snapshots take, among all. Listings that are lost are told as problems, and what they named is not
/// counted.
///
/// # Errors
/// `Interrupted`, and storage errors that are no damage.
pub fn usage<'a>(
    repository: &'a Repository,
    chosen: &dyn Fn(&Snapshot) -> bool,
    progress: &dyn Progress,
) -> Result<Usage<'a>> {
    let all = repository.snapshots();
    let index = Arc::new(repository.index()?);
    let graph = Graph::of(&repository.reader(Arc::clone(&index)), all, progress)?;
    let places = Places::of(&index, &graph);
    let numbers: Vec<u32> = (0..).take(all.len()).collect();
    let each = graph.owners(&numbers, &places);
    let (alone, added) = (each.alone, each.added);
    let host_names: BTreeMap<&[u8], u32> = all.iter().map(|s| (s.host.as_slice(), 0)).collect();
    let host_names: BTreeMap<&[u8], u32> = host_names.into_keys().zip(0..).collect();
    let host_of = |s: &Snapshot| host_names.get(s.host.as_slice()).copied().unwrap_or_default();
    let of_hosts = graph.owners(&all.iter().map(host_of).collect::<Vec<_>>(), &places);
    let is_chosen: Vec<bool> = all.iter().map(chosen).collect();
    let groups = graph.owners(&is_chosen.iter().map(|chosen| u32::from(!chosen)).collect::<Vec<_>>(), &places);

    let mut hosts = BTreeMap::<u32, HostUsage>::new();
    let mut snapshots = Vec::new();
    for (at, snapshot) in all.iter().enumerate() {
        let held = |sums: &[Sum]| sums.get(at).copied().unwrap_or_default().held();
        let host = hosts.entry(host_of(snapshot)).or_default();
        host.host.clone_from(&snapshot.host);
        host.snapshots += 1;
        host.bytes += snapshot.counts.bytes;
        if is_chosen.get(at) == Some(&true) {
            snapshots.push(SnapshotUsage { snapshot, alone: held(&alone), added: held(&added) });
        }
    }
    for (number, host) in &mut hosts {
        let held = |sums: &[Sum]| sums.get(*number as usize).copied().unwrap_or_default().held();
        (host.alone, host.added) = (held(&of_hosts.alone), held(&of_hosts.added));
    }
    let wanted: HashSet<&[u8]> = snapshots.iter().map(|s| s.snapshot.host.as_slice()).collect();
    let hosts = hosts.into_values().filter(|host| wanted.contains(host.host.as_slice())).collect();
    let (data, trees) = graph.held_by_first_group(&groups.owner, &places);
    let (alone, packs) = (groups.alone.first().copied().unwrap_or_default().held(), places.packs(repository, &index)?);
    let missing = places.of.iter().filter(|place| place.is_none()).count() as u64;
    Ok(Usage { snapshots, hosts, data, trees, alone, packs, missing })
}

/// Sums of blobs; what is stored is counted in parts of a byte, for many blobs are smaller than what rounding would lose.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    blobs: u64,
    raw_bytes: u64,
    parts: u64,
}

const PARTS_A_BYTE: u64 = 256;

impl Sum {
    fn held(self) -> Held {
        Held { blobs: self.blobs, raw_bytes: self.raw_bytes, stored_bytes: self.parts.div_ceil(PARTS_A_BYTE) }
    }
}

impl AddAssign<Blob> for Sum {
    fn add_assign(&mut self, blob: Blob) {
        self.blobs += 1;
        self.raw_bytes += u64::from(blob.raw_bytes);
        self.parts += blob.parts;
    }
}

/// A blob where it lies.
#[derive(Debug, Clone, Copy)]
struct Blob {
    frame: u32,
    raw_bytes: u32,
    /// Its share of its frame as stored.
    parts: u64,
}

/// Where the blobs of a graph lie.
struct Places {
    /// By number.
    of: Vec<Option<Blob>>,
    /// Everything in each frame.
    frames: Vec<Sum>,
}

impl Places {
    fn of(index: &Index, graph: &Graph) -> Self {
        let mut frames: Vec<Sum> = Vec::new();
        for (_, place) in index.iter() {
            let at = place.frame as usize;
            if frames.len() <= at {
                frames.resize(at + 1, Sum::default());
            }
            if let Some(sum) = frames.get_mut(at) {
                sum.blobs += 1;
                sum.raw_bytes += u64::from(place.length_bytes);
            }
        }
        for (number, sum) in (0..).zip(&mut frames) {
            sum.parts = index.frame(number).map_or(0, |(frame, ..)| u64::from(frame.frame_bytes) * PARTS_A_BYTE);
        }
        let mut of = vec![None; graph.numbers.len()];
        for (id, number) in &graph.numbers {
            let places = index.places(id);
            let place = places.iter().find(|p| index.is_healthy(p.frame)).or(places.first());
            let blob = place.and_then(|place| {
                let sum = frames.get(place.frame as usize)?;
                let share = u128::from(sum.parts) * u128::from(place.length_bytes) / u128::from(sum.raw_bytes.max(1));
                let parts = u64::try_from(share).unwrap_or(u64::MAX);
                Some(Blob { frame: place.frame, raw_bytes: place.length_bytes, parts })
            });
            of.get_mut(*number as usize).into_iter().for_each(|of| *of = blob);
        }
        Self { of, frames }
    }

    fn packs(&self, repository: &Repository, index: &Index) -> Result<PackUsage> {
        let mut needed = vec![Sum::default(); self.frames.len()];
        for blob in self.of.iter().flatten() {
            needed.get_mut(blob.frame as usize).into_iter().for_each(|sum| *sum += *blob);
        }
        let (mut unneeded, mut wanted) = (Sum::default(), HashSet::new());
        for (number, (all, needed)) in (0..).zip(self.frames.iter().zip(&needed)) {
            if needed.blobs > 0 {
                wanted.extend(index.frame(number).map(|(_, pack, _)| pack.name.clone()));
            }
            unneeded.blobs += all.blobs.saturating_sub(needed.blobs);
            unneeded.raw_bytes += all.raw_bytes.saturating_sub(needed.raw_bytes);
            // What rounding has left of a frame that is needed whole is no waste.
            if needed.blobs < all.blobs {
                unneeded.parts += all.parts.saturating_sub(needed.parts);
            }
        }
        let mut packs = PackUsage { unneeded: unneeded.held(), ..PackUsage::default() };
        for pack in listed(repository.storage().as_ref(), Folder::Packs)? {
            packs.packs += 1;
            packs.bytes += pack.length_bytes;
            if !wanted.contains(&pack.name) {
                packs.unneeded_packs += 1;
                packs.unneeded_pack_bytes += pack.length_bytes;
            }
        }
        Ok(packs)
    }
}

/// What a blob is, as far as it leads further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaf {
    Data,
    Piece,
    Stats,
}

/// Ids are hashes already: eight of their bytes are as good as any hash of them.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(self.0, |b| u64::from_le_bytes(*b));
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What holds what, by numbers of blobs.
#[derive(Default)]
struct Graph {
    numbers: HashMap<BlobId, u32, BuildHasherDefault<IdHasher>>,
    /// Which are content.
    is_data: Vec<bool>,
    /// Where among `below` what each one holds stands.
    spans: Vec<Range<usize>>,
    below: Vec<u32>,
    /// What each snapshot holds itself.
    roots: Vec<Range<usize>>,
}

/// How many snapshots are looked at side by side: those whose new listings fit into a reader's memory.
const BATCH: usize = 16;
/// How many listings are opened before what they lead to.
const ROUND: usize = 4096;

/// No owner yet.
const NOBODY: u32 = u32::MAX;
/// More than one owner.
const SEVERAL: u32 = u32::MAX - 1;

/// Who holds what.
struct Owners {
    /// By number of blob.
    owner: Vec<u32>,
    /// What each owner holds alone.
    alone: Vec<Sum>,
    /// What each owner was the first to hold.
    added: Vec<Sum>,
}

impl Graph {
    /// Opens every listing of every snapshot once.
    fn of(reader: &Reader, snapshots: &[Snapshot], progress: &dyn Progress) -> Result<Self> {
        let mut graph = Self::default();
        for batch in snapshots.chunks(BATCH) {
            let mut pending = Vec::new();
            for snapshot in batch {
                let mut references = Vec::new();
                if let Node::Folder { content } = &snapshot.root.node {
                    references.push((Leaf::Piece, content.clone()));
                }
                references.extend(snapshot.root_stat.folder.iter().map(|stats| (Leaf::Stats, stats.clone())));
                let span = graph.refer(&references, &mut pending);
                graph.roots.push(span);
            }
            graph.run(reader, pending, progress)?;
        }
        Ok(graph)
    }

    /// Opens listings, and whatever they lead to that is new.
    fn run(&mut self, reader: &Reader, mut pending: Vec<Listed>, progress: &dyn Progress) -> Result<()> {
        while !pending.is_empty() {
            let round = pending.split_off(pending.len().saturating_sub(ROUND));
            let open = |listed: &Listed| {
                if progress.stop_wanted() { Err(Error::Interrupted) } else { listed.open(reader) }
            };
            let opened: Vec<Result<Vec<Reference>>> = round.par_iter().with_min_len(4).map(open).collect();
            for (listed, references) in round.iter().zip(opened) {
                let span = match references {
                    Ok(references) => self.refer(&references, &mut pending),
                    // A snapshot is whole without what only change detection needs.
                    Err(e) if e.is_damage() && listed.leaf == Leaf::Stats => continue,
                    Err(e) if e.is_damage() => {
                        let (path, cause) = (format!("tree {}", listed.id), io::Error::other(e));
                        progress.tell(Event::Problem { path: path.as_bytes(), verb: "read", cause: &cause });
                        continue;
                    }
                    Err(e) => return Err(e),
                };
                self.spans.get_mut(listed.number as usize).into_iter().for_each(|own| *own = span.clone());
            }
        }
        Ok(())
    }

    /// Notes what contents are made of, and where that is noted; listings among it that are new are to be opened.
    fn refer(&mut self, references: &[Reference], pending: &mut Vec<Listed>) -> Range<usize> {
        let from = self.below.len();
        for (leaf, content) in references {
            for run in &content.runs {
                let Run::Data { id, .. } = run else { continue };
                let fresh = u32::try_from(self.is_data.len()).unwrap_or(NOBODY);
                let number = *self.numbers.entry(*id).or_insert(fresh);
                if number == fresh {
                    let is_data = *leaf == Leaf::Data && content.depth == 0;
                    self.is_data.push(is_data);
                    self.spans.push(0..0);
                    if !is_data {
                        pending.push(Listed { number, id: *id, leaf: *leaf, depth: content.depth });
                    }
                }
                self.below.push(number);
            }
        }
        from..self.below.len()
    }

    /// Hands down who holds what. Each snapshot has an owner, by number; one owner may have several.
    fn owners(&self, owner_of: &[u32], places: &Places) -> Owners {
        let owners = owner_of.iter().max().map_or(0, |max| *max as usize + 1);
        let mut owner = vec![NOBODY; self.spans.len()];
        let (mut alone, mut added) = (vec![Sum::default(); owners], vec![Sum::default(); owners]);
        let blob = |number: u32| places.of.get(number as usize).copied().flatten();
        let mut to_visit = Vec::new();
        for (roots, own) in self.roots.iter().zip(owner_of) {
            to_visit.extend_from_slice(self.below.get(roots.clone()).unwrap_or_default());
            while let Some(number) = to_visit.pop() {
                let Some(of) = owner.get_mut(number as usize) else { continue };
                if *of == *own || *of == SEVERAL {
                    continue;
                }
                if *of == NOBODY {
                    *of = *own;
                    added.get_mut(*own as usize).zip(blob(number)).into_iter().for_each(|(sum, blob)| *sum += blob);
                } else {
                    *of = SEVERAL;
                }
                let span = self.spans.get(number as usize).cloned().unwrap_or_default();
                to_visit.extend_from_slice(self.below.get(span).unwrap_or_default());
            }
        }
        for (number, of) in (0..).zip(&owner) {
            alone.get_mut(*of as usize).zip(blob(number)).into_iter().for_each(|(sum, blob)| *sum += blob);
        }
        Owners { owner, alone, added }
    }

    /// Content and listings that the owner 0 of two holds, alone or not.
    fn held_by_first_group(&self, owner: &[u32], places: &Places) -> (Held, Held) {
        let (mut data, mut trees) = (Sum::default(), Sum::default());
        for ((of, blob), is_data) in owner.iter().zip(&places.of).zip(&self.is_data) {
            let Some(blob) = blob.filter(|_| *of == 0 || *of == SEVERAL) else { continue };
            *(if *is_data { &mut data } else { &mut trees }) += blob;
        }
        (data.held(), trees.held())
    }
}

/// A content, and what its lists lead to.
type Reference = (Leaf, Content);

/// A listing that is to be opened.
struct Listed {
    number: u32,
    id: BlobId,
    leaf: Leaf,
    /// How deep below it what it leads to lies.
    depth: u8,
}

impl Listed {
    fn open(&self, reader: &Reader) -> Result<Vec<Reference>> {
        let (bytes, object) = (reader.blob(&self.id)?, format!("tree {}", self.id));
        if let Some(depth) = self.depth.checked_sub(1) {
            return Ok(vec![(self.leaf, Content { depth, runs: decode_list(&bytes, &object)? })]);
        }
        let of_node = |node| match node {
            Node::File { content, .. } => Some((Leaf::Data, content)),
            Node::Folder { content } => Some((Leaf::Piece, content)),
            _ => None,
        };
        if self.leaf == Leaf::Piece {
            return Ok(decode_piece(&bytes, &object)?.into_iter().filter_map(|entry| of_node(entry.node)).collect());
        }
        let folders = decode_stats(&bytes, &object)?.into_iter().filter_map(|stat| stat.folder);
        Ok(folders.map(|stats| (Leaf::Stats, stats)).collect())
    }
}
