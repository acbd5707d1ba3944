//! Where each blob lies, in memory, in about fifty bytes a blob.
//!
//! Holds the tables of contents of many packs. Knows nothing of where the tables came from. A blob may lie in several
//! places; a place counts as healthy if its frame is not marked bad and every base of its frame is healthy itself.

use crate::{
    blobs::pack::Toc,
    id::{BlobId, ObjectName},
    storage::envelope::Kind,
};
use hashbrown::HashTable;
use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

/// A pack as the index knows it.
#[derive(Debug)]
pub struct IndexedPack {
    /// Its name.
    pub name: ObjectName,
    /// What kind of blobs are in it.
    pub kind: Kind,
    /// The number of its first frame among all frames of the index.
    pub first_frame: u32,
    /// It is damaged outside of its frames: perhaps its table, which was made again from them.
    outside_damaged: bool,
}

/// A frame as the index knows it.
#[derive(Debug)]
pub struct IndexedFrame {
    /// Which pack of the index it lies in.
    pub pack: u32,
    /// Where in the pack, in bytes.
    pub offset_bytes: u64,
    /// How long it is there, in bytes.
    pub frame_bytes: u32,
    /// Known to be damaged: marked in the catalogue, or met by a reader since.
    bad: AtomicBool,
    /// The blobs it leans on.
    bases: Box<[BlobId]>,
}

impl IndexedFrame {
    /// The blobs it leans on.
    pub fn bases(&self) -> &[BlobId] {
        &self.bases
    }

    fn is_bad(&self) -> bool {
        self.bad.load(Ordering::Relaxed)
    }
}

/// One place where a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Number of the frame among all frames of the index: the order of the medium within a pack.
    pub frame: u32,
    /// Which blob of the frame it is.
    pub position: u32,
    /// How long the blob is, in bytes.
    pub length_bytes: u32,
}

/// Where each blob lies.
#[derive(Debug, Default)]
pub struct Index {
    packs: Vec<IndexedPack>,
    frames: Vec<IndexedFrame>,
    ids: Vec<BlobId>,
    lengths: Vec<u32>,
    frame_of: Vec<u32>,
    positions: Vec<u32>,
    table: HashTable<u32>,
}

/// Ids are hashes already: eight of their bytes are as good as any hash of them.
fn hash(id: &BlobId) -> u64 {
    id.0.first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b))
}

impl Index {
    /// Adds a pack. With `wanted`, only the blobs in it are taken; its frames all are.
    pub fn add(
        &mut self,
        name: &ObjectName,
        kind: Kind,
        toc: &Toc,
        bad: &HashSet<u32>,
        wanted: Option<&HashSet<BlobId>>,
    ) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let pack = count(self.packs.len());
        self.packs.push(IndexedPack {
            name: name.clone(),
            kind,
            first_frame: count(self.frames.len()),
            outside_damaged: false,
        });
        let mut blobs = toc.ids().zip(&toc.lengths);
        for (number, frame) in (0_u32..).zip(&toc.frames) {
            let at = count(self.frames.len());
            self.frames.push(IndexedFrame {
                pack,
                offset_bytes: frame.offset_bytes,
                frame_bytes: frame.frame_bytes,
                bad: AtomicBool::new(bad.contains(&number)),
                bases: frame.bases.iter().filter_map(|b| toc.base(*b)).collect(),
            });
            for (position, (id, length)) in (0_u32..).zip(blobs.by_ref().take(frame.blobs as usize)) {
                if wanted.is_none_or(|w| w.contains(&id)) {
                    self.push(id, *length, at, position);
                }
            }
        }
    }

    /// Says of the pack that was added last whether its table had to be made again.
    pub fn mark_last_pack(&mut self, made_again: bool) {
        if let Some(pack) = self.packs.last_mut() {
            pack.outside_damaged = made_again;
        }
    }

    /// Takes note that a pack was found damaged outside of its frames.
    pub fn mark_pack(&mut self, name: &ObjectName) {
        self.packs.iter_mut().filter(|pack| pack.name == *name).for_each(|pack| pack.outside_damaged = true);
    }

    /// Whether anything of a pack is known to be damaged.
    pub fn is_damaged(&self, pack: u32) -> bool {
        let Some(indexed) = self.packs.get(pack as usize) else { return false };
        let frames = self.frames.get(indexed.first_frame as usize..).unwrap_or_default();
        indexed.outside_damaged || frames.iter().take_while(|f| f.pack == pack).any(IndexedFrame::is_bad)
    }

    fn push(&mut self, id: BlobId, length: u32, frame: u32, position: u32) {
        let number = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        self.ids.push(id);
        self.lengths.push(length);
        self.frame_of.push(frame);
        self.positions.push(position);
        let ids = &self.ids;
        let rehash = |n: &u32| ids.get(*n as usize).map_or(0, hash);
        self.table.insert_unique(hash(&id), number, rehash);
    }

    /// Bases of frames that the index holds blobs of, which it holds no place of itself.
    pub fn unknown_bases(&self) -> HashSet<BlobId> {
        let leaning = self.frame_of.iter().filter_map(|f| self.frames.get(*f as usize)).flat_map(|f| f.bases.iter());
        leaning.filter(|id| self.places_iter(id).next().is_none()).copied().collect()
    }

    /// Every frame, in the order of the medium.
    pub fn frames(&self) -> &[IndexedFrame] {
        &self.frames
    }

    /// Number of blobs, each place counted.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no blob is known.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The number of a blob among all places of the index: of its first place, where it lies in several.
    pub fn number(&self, id: &BlobId) -> Option<u32> {
        let numbers = self.table.iter_hash(hash(id)).copied();
        numbers.filter(|n| self.ids.get(*n as usize) == Some(id)).min()
    }

    /// Every place of a blob with its number, in the order in which packs were added.
    pub fn numbered_places(&self, id: &BlobId) -> Vec<(u32, Place)> {
        let numbers = self.table.iter_hash(hash(id)).copied();
        let own = numbers.filter(|n| self.ids.get(*n as usize) == Some(id));
        let mut places: Vec<(u32, Place)> = own.filter_map(|n| Some((n, self.place(n as usize)?))).collect();
        places.sort_unstable();
        places
    }

    fn place(&self, number: usize) -> Option<Place> {
        let (frame, position) = (*self.frame_of.get(number)?, *self.positions.get(number)?);
        Some(Place { frame, position, length_bytes: *self.lengths.get(number)? })
    }

    /// Every place of a blob, healthy or not, in the order in which packs were added.
    pub fn places(&self, id: &BlobId) -> Vec<Place> {
        let mut places: Vec<Place> = self.places_iter(id).collect();
        places.sort_unstable();
        places
    }

    fn places_iter<'a>(&'a self, id: &'a BlobId) -> impl Iterator<Item = Place> + 'a {
        let numbers = self.table.iter_hash(hash(id)).map(|n| *n as usize);
        numbers.filter(move |n| self.ids.get(*n) == Some(id)).filter_map(|n| self.place(n))
    }

    /// Whether a blob can be had: it lies in a healthy place.
    pub fn is_known(&self, id: &BlobId) -> bool {
        self.places_iter(id).any(|place| self.is_healthy(place.frame))
    }

    /// Whether a blob can be had from a pack of trees.
    pub fn is_known_tree(&self, id: &BlobId) -> bool {
        let pack = |place: Place| self.packs.get(self.frames.get(place.frame as usize)?.pack as usize);
        let among_trees = |place: &Place| pack(*place).is_some_and(|pack| pack.kind == Kind::TreePack);
        self.places_iter(id).filter(among_trees).any(|place| self.is_healthy(place.frame))
    }

    /// Whether a frame is not marked bad and every base of it lies in a healthy frame without bases.
    pub fn is_healthy(&self, frame: u32) -> bool {
        let plain_place = |id: &BlobId| {
            let mut frames = self.places_iter(id).filter_map(|p| self.frames.get(p.frame as usize));
            frames.any(|f| !f.is_bad() && f.bases.is_empty())
        };
        self.frames.get(frame as usize).is_some_and(|f| !f.is_bad() && f.bases.iter().all(plain_place))
    }

    /// Takes note that a frame was found damaged: from now on what lies in it alone is not known.
    pub fn mark_bad(&self, frame: u32) {
        if let Some(frame) = self.frames.get(frame as usize) {
            frame.bad.store(true, Ordering::Relaxed);
        }
    }

    /// Whether a frame leans on others.
    pub fn leans(&self, frame: u32) -> bool {
        self.frames.get(frame as usize).is_some_and(|f| !f.bases.is_empty())
    }

    /// A frame, its pack, and its number in the pack.
    pub fn frame(&self, frame: u32) -> Option<(&IndexedFrame, &IndexedPack, u32)> {
        let indexed = self.frames.get(frame as usize)?;
        let pack = self.packs.get(indexed.pack as usize)?;
        Some((indexed, pack, frame.checked_sub(pack.first_frame)?))
    }

    /// The blobs of a frame that the index holds, with their places.
    pub fn blobs_of(&self, frame: u32) -> impl Iterator<Item = (BlobId, Place)> + '_ {
        self.numbered_blobs_of(frame).map(|(_, id, place)| (id, place))
    }

    /// The blobs of a frame that the index holds, with their numbers and places. Frames and blobs have one order.
    pub fn numbered_blobs_of(&self, frame: u32) -> impl Iterator<Item = (u32, BlobId, Place)> + '_ {
        let start = self.frame_of.partition_point(|f| *f < frame);
        let own = (start..self.ids.len()).take_while(move |n| self.frame_of.get(*n) == Some(&frame));
        own.filter_map(|n| Some((u32::try_from(n).ok()?, *self.ids.get(n)?, self.place(n)?)))
    }

    /// Every blob and its place, in the order of numbers, which is that of the medium.
    pub fn iter(&self) -> impl Iterator<Item = (BlobId, Place)> + '_ {
        let columns = self.ids.iter().zip(&self.lengths).zip(self.frame_of.iter().zip(&self.positions));
        columns.map(|((id, length), (frame, position))| {
            (*id, Place { frame: *frame, position: *position, length_bytes: *length })
        })
    }

    /// Every pack.
    pub fn packs(&self) -> &[IndexedPack] {
        &self.packs
    }
}
