//! Which packs go, which are packed anew and which stay: the plan of a prune, from an index and what is needed.
//!
//! Reads and writes nothing. See `format-spec/09-pruning.md`.

use crate::{
    blobs::index::{Index, Place},
    id::{BlobId, ObjectName},
};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// How many unused bytes may stay, so that packs of which little is unused are not written anew.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MaxUnused {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what the packs take afterwards.
    Percent(f64),
    /// Whatever there is: only packs that nothing needs go.
    Unlimited,
}

impl MaxUnused {
    /// Whether so many unused bytes may stay beside so many used ones.
    fn allows(self, unused_bytes: u64, used_bytes: u64) -> bool {
        match self {
            Self::Bytes(limit) => unused_bytes <= limit,
            #[expect(clippy::cast_precision_loss, reason = "a share, not an amount")]
            Self::Percent(percent) => unused_bytes as f64 <= (unused_bytes + used_bytes) as f64 * percent / 100.0,
            Self::Unlimited => true,
        }
    }
}

/// What a sweep may do.
#[derive(Debug, Clone, Copy)]
pub struct SweepLimits {
    /// How much that is unused may stay.
    pub max_unused: MaxUnused,
    /// Packs shorter than this, in bytes, are joined, if there are several.
    pub small_bytes: Option<u64>,
    /// No more than so many bytes are packed anew; the rest waits for the next time.
    pub max_repack_bytes: Option<u64>,
    /// Only damaged packs are touched.
    pub only_damaged: bool,
}

impl SweepLimits {
    /// Only damaged packs: what is needed of them is packed anew, and they go.
    pub const DAMAGED: Self =
        Self { max_unused: MaxUnused::Unlimited, small_bytes: None, max_repack_bytes: None, only_damaged: true };
}

/// What becomes of one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Swept {
    /// Its number in the index.
    pub pack: u32,
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub length_bytes: u64,
    /// About how many of them are used.
    pub used_bytes: u64,
}

/// The plan of a prune.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Packs that nothing needs, in the order in which they may go: what leans on others goes before them.
    pub delete: Vec<Swept>,
    /// Packs of which only a part is needed, those with the most to gain first.
    pub repack: Vec<Swept>,
    /// Packs that nothing needs any more once all of those are packed anew, because frames in them lean on what is here.
    pub delete_late: Vec<Swept>,
    /// Packs that stay.
    pub keep: Vec<Swept>,
    /// For every number of the index: whether what lies there is to be kept, where its pack is packed anew.
    pub kept: Vec<bool>,
}

impl Sweep {
    /// Bytes of packs that stay as they are and that nothing needs, about.
    pub fn unused_bytes(&self) -> u64 {
        self.keep.iter().map(|p| p.length_bytes - p.used_bytes).sum()
    }
}

/// Plans a sweep. `chosen` says for every number of the index whether the blob there is needed, at this place and no
/// other; `lengths` are those of the packs, in bytes.
pub fn plan(index: &Index, chosen: &[bool], lengths: &HashMap<ObjectName, u64>, limits: SweepLimits) -> Sweep {
    let mut packs = shares(index, chosen, lengths);
    packs.sort_by(|a, b| {
        let share = |p: &Swept| p.used_bytes.saturating_mul(1 << 20) / p.length_bytes.max(1);
        share(a).cmp(&share(b)).then(a.pack.cmp(&b.pack))
    });
    let repack = choose(index, &packs, limits);
    let mut sweep = Sweep { kept: chosen.to_vec(), ..Sweep::default() };
    // Bases of frames that stay in their place are needed, wherever they lie; whoever lies in a pack that is packed anew
    // needs none, for it is written without.
    let (mut holds_bases, mut holds_bases_yet) = (HashSet::new(), HashSet::new());
    for (id, stays) in bases_of(index, chosen, &repack) {
        let plain = plain_places(index, chosen, &id);
        let Some((number, place)) = plain.first() else { continue };
        let pack = index.frames().get(place.frame as usize).map(|f| f.pack);
        if !stays {
            holds_bases_yet.extend(pack);
            continue;
        }
        holds_bases.extend(pack);
        if let Some(kept) = sweep.kept.get_mut(*number as usize) {
            *kept = true;
        }
    }
    let may_go = |pack: &Swept| !limits.only_damaged || index.is_damaged(pack.pack);
    for pack in packs {
        // A damaged pack goes in any case, and what leans on it leans on the new copy then.
        let holds_bases_of_it = index.is_damaged(pack.pack) && holds_bases.contains(&pack.pack);
        if repack.contains(&pack.pack) || holds_bases_of_it {
            sweep.repack.push(pack);
        } else if may_go(&pack) && pack.used_bytes == 0 && !holds_bases.contains(&pack.pack) {
            let late = holds_bases_yet.contains(&pack.pack);
            (if late { &mut sweep.delete_late } else { &mut sweep.delete }).push(pack);
        } else {
            sweep.keep.push(pack);
        }
    }
    sweep.delete = leaning_first(index, sweep.delete);
    sweep
}

/// How much of each pack is used: of each frame the share of its raw bytes that is needed.
fn shares(index: &Index, chosen: &[bool], lengths: &HashMap<ObjectName, u64>) -> Vec<Swept> {
    let mut raw = vec![(0_u64, 0_u64); index.frames().len()];
    let mut needed_packs = BTreeSet::new();
    for ((_, place), chosen) in index.iter().zip(chosen) {
        let Some((all, used)) = raw.get_mut(place.frame as usize) else { continue };
        // An empty blob is needed as much as any other.
        *all += u64::from(place.length_bytes) + 1;
        if *chosen {
            *used += u64::from(place.length_bytes) + 1;
            needed_packs.extend(index.frames().get(place.frame as usize).map(|f| f.pack));
        }
    }
    let mut used_bytes = vec![0_u64; index.packs().len()];
    let mut framed_bytes = vec![0_u64; index.packs().len()];
    for (frame, (all, used)) in index.frames().iter().zip(raw) {
        let stored = u128::from(frame.frame_bytes);
        let share = stored * u128::from(used) / u128::from(all.max(1));
        if let Some(bytes) = used_bytes.get_mut(frame.pack as usize) {
            *bytes += u64::try_from(share).unwrap_or(u64::MAX);
        }
        if let Some(bytes) = framed_bytes.get_mut(frame.pack as usize) {
            *bytes += u64::from(frame.frame_bytes);
        }
    }
    let swept = |(number, pack): (u32, &crate::blobs::index::IndexedPack)| {
        let framed_bytes = framed_bytes.get(number as usize).copied().unwrap_or_default();
        let used_bytes = used_bytes.get(number as usize).copied().unwrap_or_default();
        let length_bytes = lengths.get(&pack.name).copied().unwrap_or(framed_bytes);
        // What a pack holds beside its frames is as used as they are: a pack that is wholly needed has no unused byte.
        let used_bytes = match used_bytes {
            // Nor of one in which no frame was found can anything be needed.
            _ if !needed_packs.contains(&number) => 0,
            used if used >= framed_bytes => length_bytes,
            used => used.max(1),
        };
        Swept { pack: number, name: pack.name.clone(), length_bytes, used_bytes: used_bytes.min(length_bytes) }
    };
    (0_u32..).zip(index.packs()).map(swept).collect()
}

/// Which packs are packed anew: damaged ones in any case. Those with the smallest used share come first in `packs`.
fn choose(index: &Index, packs: &[Swept], limits: SweepLimits) -> BTreeSet<u32> {
    let partly = |p: &&Swept| p.used_bytes > 0;
    let is_damaged = |p: &&Swept| index.is_damaged(p.pack);
    let used_bytes: u64 = packs.iter().map(|p| p.used_bytes).sum();
    let mut unused_bytes: u64 =
        packs.iter().filter(partly).filter(|p| !is_damaged(p)).map(|p| p.length_bytes - p.used_bytes).sum();
    let mut repack: BTreeSet<u32> = packs.iter().filter(partly).filter(is_damaged).map(|p| p.pack).collect();
    let mut moved_bytes = 0_u64;
    let mut take = |pack: &Swept, repack: &mut BTreeSet<u32>| {
        let fits = limits.max_repack_bytes.is_none_or(|limit| moved_bytes.saturating_add(pack.used_bytes) <= limit);
        if fits {
            moved_bytes = moved_bytes.saturating_add(pack.used_bytes);
            repack.insert(pack.pack);
        }
        fits
    };
    let wasteful = |p: &&Swept| p.used_bytes < p.length_bytes && !is_damaged(p);
    for pack in packs.iter().filter(partly).filter(wasteful) {
        if limits.max_unused.allows(unused_bytes, used_bytes) {
            break;
        }
        if take(pack, &mut repack) {
            unused_bytes -= pack.length_bytes - pack.used_bytes;
        }
    }
    let is_small = |p: &&Swept| limits.small_bytes.is_some_and(|small| p.length_bytes < small);
    let small: Vec<&Swept> = packs.iter().filter(partly).filter(is_small).collect();
    if small.len() > 1 {
        for pack in small.into_iter().filter(|p| !repack.contains(&p.pack)).collect::<Vec<_>>() {
            take(pack, &mut repack);
        }
    }
    repack
}

/// The healthy places without bases of a base, and their numbers; the first is the one that is kept.
pub fn plain_places(index: &Index, chosen: &[bool], id: &BlobId) -> Vec<(u32, Place)> {
    let plain = index.numbered_places(id).into_iter().filter(|(_, p)| !index.leans(p.frame));
    let mut plain: Vec<_> = plain.filter(|(_, p)| index.is_healthy(p.frame)).collect();
    plain.sort_by_key(|(n, _)| (!chosen.get(*n as usize).is_some_and(|c| *c), *n));
    plain
}

/// The bases of every frame that holds something needed, and whether any of those frames stays in its place.
pub fn bases_of(index: &Index, chosen: &[bool], repack: &BTreeSet<u32>) -> BTreeMap<BlobId, bool> {
    let used_frames = index.iter().zip(chosen).filter(|(_, chosen)| **chosen).map(|((_, place), _)| place.frame);
    let used_frames: BTreeSet<u32> = used_frames.filter(|frame| index.leans(*frame)).collect();
    let mut bases = BTreeMap::new();
    for frame in used_frames.iter().filter_map(|frame| index.frames().get(*frame as usize)) {
        for id in frame.bases() {
            *bases.entry(*id).or_default() |= !repack.contains(&frame.pack);
        }
    }
    bases
}

/// Sorts packs so that one that leans on another comes before it, as far as that can be: killed in between, nobody is
/// left that leans on what is gone.
pub fn leaning_first(index: &Index, packs: Vec<Swept>) -> Vec<Swept> {
    let among: HashSet<u32> = packs.iter().map(|p| p.pack).collect();
    // How many of the packs that go lean on each; and on which each leans.
    let (mut leaners, mut leans_on) = (HashMap::<u32, usize>::new(), HashMap::<u32, BTreeSet<u32>>::new());
    for frame in index.frames().iter().filter(|f| among.contains(&f.pack)) {
        for place in frame.bases().iter().flat_map(|id| index.places(id)) {
            let Some(base) = index.frames().get(place.frame as usize).map(|f| f.pack) else { continue };
            if base != frame.pack && among.contains(&base) && leans_on.entry(frame.pack).or_default().insert(base) {
                *leaners.entry(base).or_default() += 1;
            }
        }
    }
    let mut left: BTreeMap<u32, Swept> = packs.into_iter().map(|p| (p.pack, p)).collect();
    let mut sorted = Vec::new();
    while !left.is_empty() {
        let is_free = |pack: &&u32| leaners.get(*pack).copied().unwrap_or_default() == 0;
        // Where packs lean on each other there is no order; whichever goes first, the others are not needed either.
        let Some(next) = left.keys().find(is_free).or(left.keys().next()).copied() else { break };
        for base in leans_on.remove(&next).unwrap_or_default() {
            if let Some(count) = leaners.get_mut(&base) {
                *count = count.saturating_sub(1);
            }
        }
        sorted.extend(left.remove(&next));
    }
    sorted
}
