//! What no snapshot needs is given back: packs that nothing needs go, packs of which little is needed are packed anew.
//!
//! Nothing is deleted before everything that is needed was found, and nothing that is needed before its new copy is
//! durable: killed anywhere, every snapshot is whole, and the next prune goes on. Packs that nothing needs go first, so
//! that a full medium can be pruned. See `format-spec/09-pruning.md`.

use crate::{
    blobs::{
        index::{Index, Place},
        reader::Reader,
        writer::{Stream, Writer},
    },
    error::{Error, Result},
    id::{BlobId, ObjectName},
    progress::{Event, Progress},
    repo::{
        needed::{Role, Visitor, Walked, walk},
        repository::Repository,
        sweep::{self, Sweep, SweepLimits, Swept},
    },
    storage::envelope::Kind,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// About how many used bytes are packed anew before the packs that they came from are deleted: the room that a prune
/// needs for a while.
const ROUND_BYTES: u64 = 256 << 20;
/// How many lost things an error names; the rest is counted.
const MAX_NAMED: usize = 5;

/// What a prune may do.
#[derive(Debug, Clone)]
pub struct PruneOptions {
    /// Packs that a check has found damaged, beside those of which the catalogue knows it.
    pub damaged: BTreeSet<ObjectName>,
    /// What of the packs may be written anew, and how much may stay unused.
    pub limits: SweepLimits,
    /// How many threads compress.
    pub threads: usize,
    /// Change nothing; find out what would be done.
    pub dry_run: bool,
}

/// What a prune has done, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Packs that nothing needed, deleted.
    pub deleted_packs: u64,
    /// Packs of which the needed part was written anew, deleted.
    pub repacked_packs: u64,
    /// Packs that stayed as they were.
    pub kept_packs: u64,
    /// Bytes of all packs before.
    pub before_bytes: u64,
    /// Bytes of all packs afterwards; in a dry run, about.
    pub after_bytes: u64,
    /// Bytes of packs that stayed and that nothing needs, about.
    pub unused_bytes: u64,
}

impl Pruned {
    /// Bytes that were freed.
    pub fn freed_bytes(&self) -> u64 {
        self.before_bytes.saturating_sub(self.after_bytes)
    }
}

/// Gives back what no snapshot needs. On return what it says is done, durably.
///
/// # Errors
/// `Usage` unless the repository was opened for exclusive access. `Damaged` where a snapshot cannot be read and
/// `Missing` where one lacks something, with nothing changed: what else it needs is not known then. `Interrupted`,
/// `MediumFull` and other storage errors, after which every snapshot is as whole as before.
pub fn prune(repository: &Repository, options: &PruneOptions, progress: &dyn Progress) -> Result<Pruned> {
    if !repository.is_alone() {
        return Err(Error::Usage("a prune must be alone with the repository".into()));
    }
    let mut index = repository.index()?;
    options.damaged.iter().for_each(|name| index.mark_pack(name));
    let reader = repository.reader(Arc::new(index));
    let pruned = prune_with(repository, &reader, options, progress);
    if pruned.is_err() {
        // What ended it may be damage that nobody had met: the next backup is to store again what lies there.
        repository.mark_bad(&reader.take_bad_frames())?;
    }
    pruned
}

fn prune_with(
    repository: &Repository,
    reader: &Reader,
    options: &PruneOptions,
    progress: &dyn Progress,
) -> Result<Pruned> {
    let chosen = choose_places(reader, &needed(repository, reader, progress)?)?;
    repository.mark_bad(&reader.take_bad_frames())?;
    let lengths = repository.pack_lengths()?;
    let sweep = sweep::plan(reader.index(), &chosen, &lengths, options.limits);
    let repacked_bytes: u64 = sweep.repack.iter().map(|p| p.used_bytes).sum();
    let gone_bytes: u64 = sweep.delete.iter().chain(&sweep.delete_late).map(|p| p.length_bytes).sum();
    let replaced_bytes: u64 = sweep.repack.iter().map(|p| p.length_bytes).sum();
    let before_bytes: u64 = lengths.values().sum();
    let mut pruned = Pruned {
        deleted_packs: (sweep.delete.len() + sweep.delete_late.len()) as u64,
        repacked_packs: sweep.repack.len() as u64,
        kept_packs: sweep.keep.len() as u64,
        before_bytes,
        after_bytes: (before_bytes + repacked_bytes).saturating_sub(gone_bytes + replaced_bytes),
        unused_bytes: sweep.unused_bytes(),
    };
    if !options.dry_run {
        run(repository, reader, &sweep, options.threads, progress)?;
        pruned.after_bytes = repository.pack_lengths()?.values().sum();
    }
    Ok(pruned)
}

/// What a blob is needed for: the most that any of those who name it need it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Nothing,
    /// Change detection, which goes without.
    Stats,
    Data,
    /// Whoever knows only tree packs looks for it in them.
    Tree,
}

impl From<Role> for Need {
    fn from(role: Role) -> Self {
        match role {
            Role::Stats => Self::Stats,
            Role::Data => Self::Data,
            Role::Tree => Self::Tree,
        }
    }
}

/// What all snapshots need, by the numbers of an index: at the first number of each needed blob.
fn needed(repository: &Repository, reader: &Reader, progress: &dyn Progress) -> Result<Vec<Need>> {
    if let Some(damaged) = repository.damaged_snapshots().first() {
        let why = format!("what it needs is not known, so nothing may be pruned ({})", damaged.why);
        return Err(Error::damaged(format!("snapshot object {}", damaged.name), why));
    }
    let mut marks = Marks::new(reader.index());
    let mut walked = Walked::default();
    for snapshot in repository.snapshots() {
        marks.snapshot = snapshot.id.short();
        walk(reader, snapshot, &mut walked, &mut marks, progress)?;
    }
    if marks.lost.is_empty() { Ok(marks.needed) } else { Err(nothing_pruned(&marks.lost, marks.lost_count)) }
}

fn nothing_pruned(lost: &[String], count: usize) -> Error {
    let more = count.saturating_sub(lost.len());
    let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
    Error::Missing { what: format!("nothing was pruned: {}{more}", lost.join(", ")) }
}

/// Marks what is needed.
struct Marks<'a> {
    index: &'a Index,
    needed: Vec<Need>,
    lost: Vec<String>,
    lost_count: usize,
    snapshot: String,
    path: Vec<u8>,
}

impl<'a> Marks<'a> {
    fn new(index: &'a Index) -> Self {
        let needed = vec![Need::Nothing; index.len()];
        Self { index, needed, lost: Vec::new(), lost_count: 0, snapshot: String::new(), path: Vec::new() }
    }

    fn lack(&mut self, what: &str) {
        self.lost_count += 1;
        if self.lost.len() < MAX_NAMED {
            self.lost.push(format!("{what} of {}:{}", self.snapshot, String::from_utf8_lossy(&self.path)));
        }
    }
}

impl Visitor for Marks<'_> {
    fn at(&mut self, path: &[u8]) {
        self.path.clear();
        self.path.extend_from_slice(path);
    }

    fn blob(&mut self, id: &BlobId, role: Role) -> Result<()> {
        let need = Need::from(role);
        let known = self.index.number(id).and_then(|n| self.needed.get_mut(n as usize));
        let before = known.map_or(Need::Nothing, |known| std::mem::replace(known, need.max(*known)));
        if before <= Need::Stats && need > Need::Stats && !self.index.is_known(id) {
            self.lack(&format!("blob {id}"));
        }
        Ok(())
    }

    fn lost(&mut self, _: &[u8], why: Error) -> Result<()> {
        self.lack(&format!("a list ({why})"));
        Ok(())
    }
}

/// Of each needed blob the one place where it will be kept. Where there are several, the place that stays is read and
/// proven before any other may go: a second copy is often there because the first was damaged, and the mark that said
/// so can be lost with the catalogue.
fn choose_places(reader: &Reader, needed: &[Need]) -> Result<Vec<bool>> {
    let index = reader.index();
    let (mut chosen, mut several) = (vec![false; index.len()], Vec::new());
    let mut weights = HashMap::<u32, u64>::new();
    let all = index.iter().zip(needed).enumerate().filter(|(_, (_, need))| **need > Need::Nothing);
    for (number, ((id, _), need)) in all {
        let places = index.numbered_places(&id);
        for (_, place) in &places {
            *weights.entry(pack_of(index, *place)).or_default() += u64::from(place.length_bytes) + 1;
        }
        match (places.len(), chosen.get_mut(number)) {
            (1, Some(chosen)) => *chosen = index.is_healthy(pack_frame(&places)),
            _ => several.push((id, places, *need)),
        }
    }
    let damaged: Vec<bool> = (0_u32..).zip(index.packs()).map(|(pack, _)| index.is_damaged(pack)).collect();
    let (mut proven, mut lost) = (BTreeMap::new(), Vec::new());
    for (id, mut places, need) in several {
        // A tree among trees, a copy in a pack that is whole, and one that leans on nothing, is the better one; then the
        // one whose pack is needed most.
        places.sort_by_cached_key(|(n, place)| {
            let pack = pack_of(index, *place);
            let of_data = index.packs().get(pack as usize).is_none_or(|p| p.kind != Kind::TreePack);
            let damaged = damaged.get(pack as usize).is_none_or(|damaged| *damaged);
            let weight = weights.get(&pack).copied().unwrap_or_default();
            (need == Need::Tree && of_data, damaged, index.leans(place.frame), std::cmp::Reverse(weight), *n)
        });
        match first_whole(reader, &places, &mut proven)?.and_then(|n| chosen.get_mut(n as usize)) {
            Some(chosen) => *chosen = true,
            None if need > Need::Stats => lost.push(format!("blob {id}")),
            None => {}
        }
    }
    // Of a base the first plain copy that is not known to be damaged will be kept: those before the one that is whole are
    // marked by reading them.
    for id in sweep::bases_of(index, &chosen, &BTreeSet::new()).into_keys() {
        let places = sweep::plain_places(index, &chosen, &id);
        if places.len() != 1 && first_whole(reader, &places, &mut proven)?.is_none() {
            lost.push(format!("base {id}"));
        }
    }
    if lost.is_empty() { Ok(chosen) } else { Err(nothing_pruned(lost.get(..MAX_NAMED).unwrap_or(&lost), lost.len())) }
}

/// The number of the first of some places whose frame is whole.
fn first_whole(reader: &Reader, places: &[(u32, Place)], proven: &mut BTreeMap<u32, bool>) -> Result<Option<u32>> {
    for (number, place) in places {
        if prove(reader, place.frame, proven)? {
            return Ok(Some(*number));
        }
    }
    Ok(None)
}

fn pack_of(index: &Index, place: Place) -> u32 {
    index.frames().get(place.frame as usize).map_or(u32::MAX, |frame| frame.pack)
}

fn pack_frame(places: &[(u32, Place)]) -> u32 {
    places.first().map_or(u32::MAX, |(_, place)| place.frame)
}

/// Whether every blob of a frame is what its id says, by reading it.
fn prove(reader: &Reader, frame: u32, proven: &mut BTreeMap<u32, bool>) -> Result<bool> {
    if let Some(proven) = proven.get(&frame) {
        return Ok(*proven);
    }
    let whole = reader.index().is_healthy(frame) && {
        match reader.prove_frame(frame) {
            Ok(()) => true,
            Err(e) if e.is_damage() => {
                reader.index().mark_bad(frame);
                false
            }
            Err(e) => return Err(e),
        }
    };
    proven.insert(frame, whole);
    Ok(whole)
}

/// Does what a plan says.
fn run(repository: &Repository, reader: &Reader, sweep: &Sweep, threads: usize, progress: &dyn Progress) -> Result<()> {
    let bytes = sweep.repack.iter().map(|p| p.used_bytes).sum();
    let entries = (sweep.delete.len() + sweep.repack.len() + sweep.delete_late.len()) as u64;
    progress.tell(Event::Total { entries, bytes });
    delete(repository, &sweep.delete, progress)?;
    if sweep.repack.is_empty() {
        return Ok(());
    }
    let leans = |pack: &Swept| frames_of(reader.index(), pack.pack).any(|frame| reader.index().leans(frame));
    // What leans may lean on what another round has deleted; then there is one round only.
    let in_one_round = !sweep.delete_late.is_empty() || sweep.repack.iter().any(leans);
    let (mut round, mut round_bytes) = (Vec::new(), 0);
    for pack in &sweep.repack {
        round_bytes += pack.used_bytes;
        round.push(pack.clone());
        if round_bytes >= ROUND_BYTES && !in_one_round {
            repack(repository, reader, &sweep.kept, std::mem::take(&mut round), threads, progress)?;
            round_bytes = 0;
        }
    }
    repack(repository, reader, &sweep.kept, round, threads, progress)?;
    delete(repository, &sweep.delete_late, progress)
}

fn delete(repository: &Repository, packs: &[Swept], progress: &dyn Progress) -> Result<()> {
    for pack in packs {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        repository.delete_packs([&pack.name])?;
        progress.tell(Event::Done { entries: 1, bytes: 0 });
    }
    Ok(())
}

fn frames_of(index: &Index, pack: u32) -> impl Iterator<Item = u32> + '_ {
    let first = index.packs().get(pack as usize).map_or(u32::MAX, |pack| pack.first_frame);
    (first..).take_while(move |frame| index.frames().get(*frame as usize).is_some_and(|f| f.pack == pack))
}

/// Writes what is kept of some packs into new ones, and deletes them once that is durable.
fn repack(
    repository: &Repository,
    reader: &Reader,
    kept: &[bool],
    packs: Vec<Swept>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    // Nothing counts as known: what is kept was chosen in one place, and another copy of it has not been proven.
    let writer = repository.writer(Arc::new(Index::default()), threads, false)?;
    let moved = packs.iter().try_for_each(|pack| move_pack(reader, &writer, kept, pack, progress));
    // What was written is whole and durable even where the rest was not: the next prune finds it.
    repository.end(writer, moved)?;
    repository.mark_bad(&reader.take_bad_frames())?;
    delete(repository, &sweep::leaning_first(reader.index(), packs), progress)
}

/// Brings what is kept of one pack into a writer, frame after frame.
fn move_pack(reader: &Reader, writer: &Writer, kept: &[bool], pack: &Swept, progress: &dyn Progress) -> Result<()> {
    let index = reader.index();
    let is_tree = index.packs().get(pack.pack as usize).is_some_and(|p| p.kind == Kind::TreePack);
    let mut filler = writer.filler(if is_tree { Stream::Tree } else { Stream::Data });
    for frame in frames_of(index, pack.pack) {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let wanted: Vec<(BlobId, Place)> = index
            .numbered_blobs_of(frame)
            .filter_map(|(number, id, place)| {
                kept.get(number as usize).is_some_and(|kept| *kept).then_some((id, place))
            })
            .collect();
        if wanted.is_empty() {
            continue;
        }
        let opened = reader.frame(frame);
        for (id, place) in wanted {
            let whole = opened.as_ref().ok().and_then(|opened| reader.verified(opened, place, &id).ok());
            let put = match whole {
                Some(bytes) => filler.put(bytes)?,
                // Elsewhere there may be another copy; where there is none, nothing of this pack goes.
                None => filler.put(&reader.blob(&id)?)?,
            };
            debug_assert_eq!(put, id, "a blob is named by its bytes");
            progress.tell(Event::Done { entries: 0, bytes: u64::from(place.length_bytes) });
        }
    }
    filler.flush()
}
