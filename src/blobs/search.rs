//! Frames found in a pack whose table is lost, by their magic and their proofs.
//!
//! Knows nothing of tables. Whatever cannot be read is stepped over. See `format-spec/03-packs.md`, "When the table is
//! lost".

use crate::{
    blobs::{
        frame::{self, Head, Prefix},
        seal::{Sealer, Secrets},
    },
    error::{Error, Result},
    id::{BlobId, ObjectName},
    storage::object::{Folder, Storage, read_again, unreadable_as_damage},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

/// How much of a pack is looked through at once.
const STEP_BYTES: u64 = 4 << 20;
/// What is stepped over at least where bytes cannot be read: what a medium reads or loses together.
const SECTOR_BYTES: u64 = 4 << 10;
/// What is stepped over at most, once many reads in a row have failed: each may take a medium many seconds.
const MAX_SKIP_BYTES: u64 = 1 << 20;
/// A search ends when so many places in a row cannot be read.
const MAX_FAILURES: u32 = 64;

/// A pack to search, and what opens its frames.
pub struct Search<'a> {
    /// Where it is.
    pub storage: &'a dyn Storage,
    /// What names its blobs.
    pub secrets: &'a Secrets,
    /// What opens its parts.
    pub sealer: &'a Sealer,
    /// Its name.
    pub name: &'a ObjectName,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// Where a blob that a frame may lean on was found: which frame, and which blob of it.
#[derive(Clone, Copy)]
struct BasePlace {
    offset_bytes: u64,
    prefix: Prefix,
    position: usize,
}

/// What a search knows while it runs.
struct State<'a> {
    search: &'a Search<'a>,
    object: String,
    /// How much may still be read of what looks like a frame: a forger can make every sixteen bytes look like the start
    /// of a long one.
    patience_bytes: Cell<u64>,
    plain: HashMap<BlobId, BasePlace>,
    /// The frame that a base was taken from last.
    open: RefCell<Option<(u64, frame::Frame)>>,
    unread: Cell<bool>,
}

impl Search<'_> {
    /// Hands on every whole frame, with the ids of its blobs. A frame that leans on bases is found if they lie in plain
    /// frames before it in the same pack. Says whether any bytes could not be read.
    ///
    /// # Errors
    /// Storage errors other than that bytes cannot be read.
    pub fn run(&self, mut take: impl FnMut(u64, Prefix, &Head, &[BlobId])) -> Result<bool> {
        let patience_bytes = Cell::new(self.length_bytes.saturating_mul(16).saturating_add(64 << 20));
        let object = Folder::Packs.object(self.name);
        let (plain, open, unread) = (HashMap::new(), RefCell::default(), Cell::new(false));
        let mut state = State { search: self, object, patience_bytes, plain, open, unread };
        let (mut at, mut piece, mut start) = (0, Vec::new(), 0);
        loop {
            let rest = |piece: &[u8], at: u64, start: u64| {
                usize::try_from(at - start).ok().and_then(|from| piece.len().checked_sub(from)).unwrap_or_default()
            };
            if rest(&piece, at, start) < frame::MAGIC.len() {
                (start, piece) = state.piece(at)?;
                at = start;
            }
            let from = usize::try_from(at - start).unwrap_or(usize::MAX);
            let bytes = piece.get(from..).unwrap_or_default();
            if bytes.len() < frame::MAGIC.len() {
                at += bytes.len() as u64;
                // What is left may end at bytes that cannot be read, or at the end of the pack.
                if at >= self.length_bytes || bytes.is_empty() {
                    return Ok(state.unread.get());
                }
                continue;
            }
            let Some(found) = bytes.windows(4).position(|w| *w == frame::MAGIC) else {
                at = start + (piece.len() - 3) as u64;
                continue;
            };
            at += found as u64;
            match state.frame(at) {
                Ok((prefix, head, frame)) => {
                    let blobs = (0..frame.len()).filter_map(|n| frame.blob(n));
                    let ids: Vec<BlobId> = blobs.map(|b| self.secrets.blob_id(b)).collect();
                    state.remember(at, prefix, &head, &ids);
                    take(at, prefix, &head, &ids);
                    at += prefix.frame_bytes() as u64;
                }
                Err(e) if e.is_damage() => at += 1,
                Err(e) => return Err(e),
            }
        }
    }
}

impl State<'_> {
    /// Reads up to the end of the pack; bytes that cannot be read are damage here.
    fn read(&self, offset_bytes: u64, length_bytes: u64) -> Result<Vec<u8>> {
        let search = self.search;
        let length = length_bytes.min(search.length_bytes.saturating_sub(offset_bytes));
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let read = read_again(search.storage, Folder::Packs, search.name, offset_bytes, length);
        read.map_err(|e| {
            let e = unreadable_as_damage(search.storage, Error::storage("read", &self.object, e));
            self.unread.set(self.unread.get() || e.is_damage());
            e
        })
    }

    /// The next bytes from `at` on that can be read, and where they begin; none at the end.
    fn piece(&self, mut at: u64) -> Result<(u64, Vec<u8>)> {
        let (mut want, mut skip, mut failures) = (STEP_BYTES, SECTOR_BYTES, 0);
        let sector_end = |at: u64| (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
        while at < self.search.length_bytes && failures < MAX_FAILURES {
            let length = if want > SECTOR_BYTES { want } else { sector_end(at) - at };
            match self.read(at, length) {
                Err(e) if e.is_damage() && want > SECTOR_BYTES => want = (want / 16).max(SECTOR_BYTES),
                Err(e) if e.is_damage() => {
                    failures += 1;
                    at = sector_end(at) + skip - SECTOR_BYTES;
                    skip = (2 * skip).min(MAX_SKIP_BYTES);
                }
                read => return Ok((at, read?)),
            }
        }
        Ok((at, Vec::new()))
    }

    /// Opens what may be a frame; its head first, for most of what looks like a frame is none.
    fn frame(&self, at: u64) -> Result<(Prefix, Head, frame::Frame)> {
        let prefix = self.read(at, frame::PREFIX_BYTES as u64)?;
        let prefix = Prefix::decode(&prefix).ok_or_else(|| self.bad("it does not begin as a frame does"))?;
        let head = self.patient(at, frame::PREFIX_BYTES + prefix.head_bytes as usize)?;
        let (_, head) = frame::open_head(self.search.sealer, prefix.number, &head, &self.object)?;
        let bytes = self.patient(at, prefix.frame_bytes())?;
        let frame = frame::open(self.search.sealer, prefix.number, &bytes, &self.object, |ids| self.bases(ids))?;
        Ok((prefix, head, frame))
    }

    fn patient(&self, at: u64, length: usize) -> Result<Vec<u8>> {
        match self.patience_bytes.get().checked_sub(length as u64) {
            Some(left) => {
                self.patience_bytes.set(left);
                self.read(at, length as u64)
            }
            None => Err(self.bad("too much of it looks like a frame and is none")),
        }
    }

    fn remember(&mut self, offset_bytes: u64, prefix: Prefix, head: &Head, ids: &[BlobId]) {
        if head.bases.is_empty() {
            let places = (0..).map(|position| BasePlace { offset_bytes, prefix, position });
            self.plain.extend(ids.iter().copied().zip(places));
        }
    }

    /// The bytes of bases, one after the other, from plain frames that were found before.
    fn bases(&self, ids: &[BlobId]) -> Result<Vec<u8>> {
        let mut joined = Vec::new();
        for id in ids {
            let missing = || Error::Missing { what: format!("base {id}") };
            let place = *self.plain.get(id).ok_or_else(missing)?;
            let mut open = self.open.borrow_mut();
            let frame = match open.take() {
                Some((offset, frame)) if offset == place.offset_bytes => frame,
                _ => {
                    let bytes = self.patient(place.offset_bytes, place.prefix.frame_bytes())?;
                    let plain = |_: &[BlobId]| Err(missing());
                    frame::open(self.search.sealer, place.prefix.number, &bytes, &self.object, plain)?
                }
            };
            joined.extend_from_slice(frame.blob(place.position).ok_or_else(missing)?);
            *open = Some((place.offset_bytes, frame));
            if joined.len() > frame::MAX_BASE_BYTES {
                return Err(self.bad("the bases of a frame are longer than is allowed"));
            }
        }
        Ok(joined)
    }

    fn bad(&self, why: &str) -> Error {
        Error::damaged(&self.object, why)
    }
}
