//! The way out: locate, fetch, open, verify.
//!
//! No byte leaves here that was not compared with the id it was asked for by. A blob may lie in several places; all are
//! tried. Frames found to be damaged are remembered, so that whoever owns the catalogue can mark them; a frame that the
//! medium cannot bring is one of them, as long as the medium brings others.

use crate::{
    blobs::{
        frame::{self, Frame},
        index::{Index, Place},
        seal::Secrets,
    },
    error::{Error, Result},
    id::{BlobId, ObjectName},
    storage::{
        envelope::HEADER_BYTES,
        object::{Folder, Storage, is_unreadable, met_unreadable, read_again, unreadable_as_damage},
    },
};
use lru::LruCache;
use std::{
    collections::HashSet,
    fmt::Debug,
    io::{self, ErrorKind},
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

/// Raw bytes of opened frames that are kept for the next question.
const CACHE_BYTES: usize = 24 << 20;

/// How much of a live hole is compared with zeros at once.
const HOLE_STEP_BYTES: u64 = 1 << 20;

/// When so many frames in a row could not be read, other packs are asked whether the medium is still there: its listing
/// may come from memory.
const MAX_UNREAD: u32 = 32;
/// How many other packs are asked.
const ASKED_PACKS: usize = 8;

/// A frame of a pack, found to be damaged.
pub type BadFrame = (ObjectName, u32);

/// Finds out anew where everything lies, for a reader under which packs may vanish: without a lock, somebody may prune.
pub trait Relist: Send + Sync + Debug {
    /// An index of what lies on the medium now.
    ///
    /// # Errors
    /// A storage error.
    fn relist(&self) -> Result<Index>;
}

/// The way out, for any number of threads.
#[derive(Debug)]
pub struct Reader {
    storage: Arc<dyn Storage>,
    secrets: Arc<Secrets>,
    index: Arc<Index>,
    cache: Mutex<Cache>,
    bad: Mutex<HashSet<BadFrame>>,
    /// Bytes of frames that the medium brought.
    fetched_bytes: AtomicU64,
    /// Frames in a row that could not be read.
    unread: AtomicU32,
    /// Whether a pack was not there any more.
    vanished: AtomicBool,
    relist: Option<Arc<dyn Relist>>,
    /// Whether there are packs that it does not know.
    is_partial: bool,
    /// A reader of all that was there after a pack had vanished, or when something was not found in a part of them.
    later: Mutex<Option<Arc<Reader>>>,
}

#[derive(Debug)]
struct Cache {
    frames: LruCache<u32, Arc<Frame>>,
    held_bytes: usize,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Reader {
    /// A reader of what `index` knows.
    pub fn new(storage: Arc<dyn Storage>, secrets: Arc<Secrets>, index: Arc<Index>) -> Self {
        let cache = Mutex::new(Cache { frames: LruCache::unbounded(), held_bytes: 0 });
        Self {
            storage,
            secrets,
            index,
            cache,
            bad: Mutex::default(),
            fetched_bytes: AtomicU64::new(0),
            unread: AtomicU32::new(0),
            vanished: AtomicBool::new(false),
            relist: None,
            is_partial: false,
            later: Mutex::default(),
        }
    }

    /// The same reader, which asks once where everything is when a pack has vanished.
    pub fn relisting(self, relist: Arc<dyn Relist>) -> Self {
        Self { relist: Some(relist), ..self }
    }

    /// The same reader, which knows a part of the packs: what is damaged or missing there it looks for in all of them.
    pub fn knowing_a_part(self, relist: Arc<dyn Relist>) -> Self {
        Self { relist: Some(relist), is_partial: true, ..self }
    }

    /// What this reader knows of places.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// How many bytes of frames the medium has brought so far.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// The bytes of a blob, verified. Frames are kept for the next call.
    ///
    /// # Errors
    /// `Missing` where it lies nowhere, `Damaged` where no place of it is whole, or a storage error.
    pub fn blob(&self, id: &BlobId) -> Result<Vec<u8>> {
        match self.blob_here(id) {
            Err(e) if e.is_damage() => match self.later() {
                // What a part of the packs lacks is lost, unless something better is known.
                Ok(None) => Err(e),
                Err(_) if self.is_partial => Err(e),
                later => later?.map_or(Err(e), |later| later.blob(id)),
            },
            found => found,
        }
    }

    /// The reader that knows where everything is, after a pack has vanished or where this one knows a part only; else
    /// nothing.
    fn later(&self) -> Result<Option<Arc<Self>>> {
        let is_due = self.is_partial || self.vanished.load(Ordering::Acquire);
        let Some(relist) = self.relist.as_ref().filter(|_| is_due) else {
            return Ok(None);
        };
        let mut later = lock(&self.later);
        if later.is_none() {
            let index = Arc::new(relist.relist()?);
            *later = Some(Arc::new(Self::new(Arc::clone(&self.storage), Arc::clone(&self.secrets), index)));
        }
        Ok(later.clone())
    }

    fn blob_here(&self, id: &BlobId) -> Result<Vec<u8>> {
        let mut failure = Error::Missing { what: format!("blob {id}") };
        for place in self.index.places(id) {
            match self.cached(place.frame).and_then(|frame| Ok(self.verified(&frame, place, id)?.to_vec())) {
                Err(e) if e.is_damage() => failure = e,
                found => return found,
            }
        }
        Err(failure)
    }

    /// The bytes of a blob of an opened frame, compared with its id.
    ///
    /// # Errors
    /// `Damaged` where they differ.
    pub fn verified<'a>(&self, frame: &'a Frame, place: Place, id: &BlobId) -> Result<&'a [u8]> {
        match frame.blob(place.position as usize) {
            Some(bytes) if self.secrets.blob_id(bytes) == *id => Ok(bytes),
            _ => {
                self.mark(place.frame);
                Err(Error::damaged(
                    self.name(place.frame),
                    format!("it does not hold blob {id} where its table says so"),
                ))
            }
        }
    }

    /// Whether a live stretch of bytes is what a blob holds, or zeros where there is no blob. `buffer` is room that may
    /// be used again.
    ///
    /// # Errors
    /// Those of reading the live bytes; a stretch that is too short is no error, it differs.
    pub fn holds_at(
        &self,
        live: &impl FileExt,
        offset_bytes: u64,
        length_bytes: u64,
        id: Option<&BlobId>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let (mut at, end) = (offset_bytes, offset_bytes.saturating_add(length_bytes));
        while at < end {
            let step = if id.is_some() { end - at } else { (end - at).min(HOLE_STEP_BYTES) };
            let Some(step) = usize::try_from(step).ok().filter(|n| *n <= frame::MAX_RAW_BYTES) else {
                return Ok(false);
            };
            buffer.resize(step, 0);
            match live.read_exact_at(buffer, at) {
                Err(e) if e.kind() == ErrorKind::UnexpectedEof => return Ok(false),
                read => read?,
            }
            let same = id.map_or_else(|| buffer.iter().all(|b| *b == 0), |id| self.secrets.blob_id(buffer) == *id);
            if !same {
                return Ok(false);
            }
            at += step as u64;
        }
        Ok(true)
    }

    /// Opens a frame, with the frames that it leans on.
    ///
    /// # Errors
    /// `Damaged` or `Missing`, or a storage error.
    pub fn frame(&self, frame: u32) -> Result<Frame> {
        let opened = self.fetch(frame).and_then(|(bytes, sealer, number)| {
            frame::open(&sealer, number, &bytes, &self.name(frame), |bases| self.bases(bases))
        });
        self.noticed(frame, opened)
    }

    /// Reads a frame and compares every blob of it with its id.
    ///
    /// # Errors
    /// `Damaged` or `Missing`, or a storage error.
    pub fn prove_frame(&self, frame: u32) -> Result<()> {
        let opened = self.frame(frame)?;
        self.index.blobs_of(frame).try_for_each(|(id, place)| self.verified(&opened, place, &id).map(drop))
    }

    /// Opens a frame from its bytes, which somebody else has read, and compares every blob of it with its id.
    ///
    /// # Errors
    /// `Damaged` or `Missing`; storage errors where it leans on bases.
    pub fn prove(&self, frame: u32, bytes: &[u8]) -> Result<()> {
        let missing = || Error::Missing { what: format!("frame {frame}") };
        let (_, pack, number) = self.index.frame(frame).ok_or_else(missing)?;
        let sealer = self.secrets.sealer(&pack.name);
        let opened = frame::open(&sealer, number, bytes, &self.name(frame), |bases| self.bases(bases));
        let opened = self.noticed(frame, opened)?;
        self.index.blobs_of(frame).try_for_each(|(id, place)| self.verified(&opened, place, &id).map(drop))
    }

    /// The bytes of bases, one after the other. Only frames without bases of their own are asked, so that no forgery
    /// can send this round in circles.
    fn bases(&self, bases: &[BlobId]) -> Result<Vec<u8>> {
        let mut joined = Vec::new();
        for id in bases {
            let mut failure = Error::Missing { what: format!("base {id}") };
            let found = self.index.places(id).into_iter().filter(|p| !self.index.leans(p.frame)).find_map(|place| {
                match self.cached(place.frame).and_then(|f| Ok(self.verified(&f, place, id)?.to_vec())) {
                    Ok(bytes) => Some(Ok(bytes)),
                    Err(e) if e.is_damage() => {
                        failure = e;
                        None
                    }
                    Err(e) => Some(Err(e)),
                }
            });
            joined.extend_from_slice(&found.unwrap_or(Err(failure))?);
            if joined.len() > frame::MAX_BASE_BYTES {
                return Err(Error::damaged(format!("base {id}"), "the bases of a frame are longer than is allowed"));
            }
        }
        Ok(joined)
    }

    fn cached(&self, frame: u32) -> Result<Arc<Frame>> {
        if let Some(found) = lock(&self.cache).frames.get(&frame) {
            return Ok(Arc::clone(found));
        }
        let opened = if self.index.leans(frame) { self.frame(frame) } else { self.plain_frame(frame) };
        let opened = Arc::new(opened?);
        let mut cache = lock(&self.cache);
        cache.held_bytes += opened.raw_bytes();
        if let Some((_, replaced)) = cache.frames.push(frame, Arc::clone(&opened)) {
            cache.held_bytes -= replaced.raw_bytes();
        }
        while cache.held_bytes > CACHE_BYTES && cache.frames.len() > 1 {
            let Some((_, oldest)) = cache.frames.pop_lru() else { break };
            cache.held_bytes -= oldest.raw_bytes();
        }
        Ok(opened)
    }

    /// Opens a frame whose table says that it has no bases; one that has some all the same is damage, not a detour.
    fn plain_frame(&self, frame: u32) -> Result<Frame> {
        let name = self.name(frame);
        let opened = self.fetch(frame).and_then(|(bytes, sealer, number)| {
            frame::open(&sealer, number, &bytes, &name, |_| {
                Err(Error::damaged(&name, "it leans on bases and its table says no"))
            })
        });
        self.noticed(frame, opened)
    }

    fn fetch(&self, frame: u32) -> Result<(Vec<u8>, crate::blobs::seal::Sealer, u32)> {
        let missing = || Error::Missing { what: format!("frame {frame}") };
        let (indexed, pack, number) = self.index.frame(frame).ok_or_else(missing)?;
        let (storage, object) = (self.storage.as_ref(), || Folder::Packs.object(&pack.name));
        let read = read_again(storage, Folder::Packs, &pack.name, indexed.offset_bytes, indexed.frame_bytes as usize);
        let bytes = read.map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                self.vanished.store(true, Ordering::Release);
                Error::Missing { what: object() }
            }
            ErrorKind::UnexpectedEof => Error::damaged(object(), "it is cut short"),
            _ if is_unreadable(&e) => self.unreadable(frame, &pack.name, e),
            _ => Error::storage("read", object(), e),
        })?;
        self.unread.store(0, Ordering::Relaxed);
        self.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok((bytes, self.secrets.sealer(&pack.name), number))
    }

    /// What it means that a frame cannot be read: it is damaged, or the medium is gone.
    fn unreadable(&self, frame: u32, pack: &ObjectName, e: io::Error) -> Error {
        let failure = Error::storage("read", self.name(frame), e);
        if !met_unreadable(self.storage.as_ref(), &failure) {
            return failure;
        }
        let unread = self.unread.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if unread >= MAX_UNREAD {
            if !self.another_answers(pack) {
                return failure;
            }
            self.unread.store(0, Ordering::Relaxed);
        }
        unreadable_as_damage(self.storage.as_ref(), failure)
    }

    /// Whether the start of any of some other packs can be read.
    fn another_answers(&self, than: &ObjectName) -> bool {
        let packs = self.index.packs();
        let others = packs.iter().step_by((packs.len() / ASKED_PACKS).max(1)).filter(|pack| pack.name != *than);
        others.into_iter().any(|pack| self.storage.read(Folder::Packs, &pack.name, 0, HEADER_BYTES).is_ok())
    }

    fn noticed(&self, frame: u32, opened: Result<Frame>) -> Result<Frame> {
        if matches!(opened, Err(Error::Damaged { .. })) {
            self.mark(frame);
        }
        opened
    }

    fn mark(&self, frame: u32) {
        self.index.mark_bad(frame);
        if let Some((_, pack, number)) = self.index.frame(frame) {
            lock(&self.bad).insert((pack.name.clone(), number));
        }
    }

    fn name(&self, frame: u32) -> String {
        match self.index.frame(frame) {
            Some((_, pack, number)) => format!("frame {number} of {}", Folder::Packs.object(&pack.name)),
            None => format!("frame {frame}"),
        }
    }

    /// Takes the frames that were found damaged so far.
    pub fn take_bad_frames(&self) -> Vec<BadFrame> {
        let mut bad: Vec<BadFrame> = lock(&self.bad).drain().collect();
        if let Some(later) = lock(&self.later).as_ref() {
            bad.append(&mut later.take_bad_frames());
        }
        bad
    }
}
