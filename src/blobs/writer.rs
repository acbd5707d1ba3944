//! The way in: identify, skip the known, fill frames, compress in parallel, pack, put.
//!
//! Blobs pass through bounded queues: fillers (one for each thread that brings blobs) → compressors → one packer, which
//! alone writes to the medium. After a failed write everything is refused. Knows nothing of files or trees beyond the
//! two streams that go into packs of their own.

use crate::{
    blobs::{
        frame::{self, Compressor, Packed},
        index::Index,
        pack::{PackBuilder, Published},
        seal::Secrets,
    },
    error::{Error, Result},
    id::{BlobId, RepositoryId},
    storage::{
        envelope::Kind,
        object::{Folder, Reserve, Storage},
    },
};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::{
    collections::HashSet,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
};

/// About how many raw bytes are gathered in a frame of trees: less than of content, for damage to one costs more.
const TREE_FRAME_BYTES: usize = 256 << 10;
/// How many compressed bytes of trees are held until a pack of them is written.
const HELD_TREE_BYTES: usize = 16 << 20;
/// How much is written at most until the medium is asked again how much room it has.
const UNASKED_BYTES: u64 = 64 << 20;

/// Which packs a blob goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// File content.
    Data,
    /// Trees and lists.
    Tree,
}

/// How a writer works; decided by who opens the repository.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// zstd level.
    pub level: i32,
    /// A pack is ended once it is this long, in bytes.
    pub pack_bytes: u64,
    /// How many threads compress.
    pub threads: usize,
    /// Write nothing; only count what would be written.
    pub dry_run: bool,
    /// How much of the medium is left free.
    pub reserve: Reserve,
}

/// Where a writer puts what, and under which keys.
#[derive(Debug, Clone)]
pub struct Target {
    /// The medium.
    pub storage: Arc<dyn Storage>,
    /// The keys.
    pub secrets: Arc<Secrets>,
    /// Whose packs they are.
    pub repository: RepositoryId,
}

/// What has been added so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Blobs that were not known.
    pub blobs: u64,
    /// Their bytes.
    pub raw_bytes: u64,
    /// Bytes of the packs that hold them.
    pub stored_bytes: u64,
}

impl std::ops::AddAssign for Added {
    fn add_assign(&mut self, more: Self) {
        self.blobs += more.blobs;
        self.raw_bytes += more.raw_bytes;
        self.stored_bytes += more.stored_bytes;
    }
}

#[derive(Debug)]
struct Shared {
    secrets: Arc<Secrets>,
    index: Arc<Index>,
    under_way: Mutex<HashSet<(BlobId, Stream)>>,
    failed: AtomicBool,
    blobs: AtomicU64,
    raw_bytes: AtomicU64,
}

impl Shared {
    /// Whether a blob is to be stored. A tree is, even where the same bytes are known as content: whoever wants trees
    /// looks for them among trees, and anybody can have a file that holds what a folder's list will be.
    fn is_new(&self, id: &BlobId, stream: Stream) -> bool {
        let known = match stream {
            Stream::Tree => self.index.is_known_tree(id),
            Stream::Data => self.index.is_known(id),
        };
        if known {
            return false;
        }
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        !under_way.contains(&(*id, Stream::Tree)) && under_way.insert((*id, stream))
    }
}

struct Raw {
    stream: Stream,
    bytes: Vec<u8>,
    lengths: Vec<u32>,
    ids: Vec<BlobId>,
}

/// The way in. Blobs are durable once `finish` has returned, and not before.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    raw: Sender<Raw>,
    compressors: Vec<JoinHandle<()>>,
    packer: JoinHandle<Result<(Vec<Published>, u64)>>,
}

impl Writer {
    /// Starts the threads of a writer. Blobs that `index` knows are not written again.
    ///
    /// # Errors
    /// `File` where no thread can be started.
    pub fn start(target: Target, index: Arc<Index>, options: WriterOptions) -> Result<Self> {
        let shared = Arc::new(Shared {
            secrets: Arc::clone(&target.secrets),
            index,
            under_way: Mutex::default(),
            failed: AtomicBool::new(false),
            blobs: AtomicU64::new(0),
            raw_bytes: AtomicU64::new(0),
        });
        let (raw, raws) = bounded::<Raw>(options.threads);
        let (packed, packeds) = bounded::<(Stream, Packed)>(4);
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name(name.into()).spawn(work).map_err(|e| Error::file("start", "a thread", e))
        };
        let mut compressors = Vec::new();
        for _ in 0..options.threads.max(1) {
            let (raws, packed, level) = (raws.clone(), packed.clone(), options.level);
            compressors.push(spawn("compress", Box::new(move || compress(&raws, &packed, level)))?);
        }
        drop(packed);
        let for_packer = Arc::clone(&shared);
        let packer = std::thread::Builder::new().name("pack".into());
        let packer = packer.spawn(move || {
            let packed = Packer {
                target,
                options,
                allowed_bytes: 0,
                data: None,
                trees: Vec::new(),
                held_bytes: 0,
                done: Vec::new(),
                would_store_bytes: 0,
            };
            let result = packed.run(&packeds);
            for_packer.failed.store(result.is_err(), Ordering::Release);
            // What is still under way is taken and dropped, so that nobody waits for a packer that has given up.
            packeds.iter().for_each(drop);
            result
        });
        let packer = packer.map_err(|e| Error::file("start", "a thread", e))?;
        Ok(Self { shared, raw, compressors, packer })
    }

    /// A way to bring blobs of one stream, for one thread.
    pub fn filler(&self, stream: Stream) -> Filler {
        let target_bytes = match stream {
            Stream::Data => frame::TARGET_BYTES,
            Stream::Tree => TREE_FRAME_BYTES,
        };
        let raw = Raw { stream, bytes: Vec::new(), lengths: Vec::new(), ids: Vec::new() };
        Filler { shared: Arc::clone(&self.shared), send: self.raw.clone(), target_bytes, raw }
    }

    /// Ends the packs under way. On return every blob that a filler has flushed is durable, and so is every name in
    /// the folder of packs. Every filler must be gone by now.
    ///
    /// # Errors
    /// The first storage error that any write met.
    pub fn finish(self) -> Result<(Vec<Published>, Added)> {
        drop(self.raw);
        let halted = self.compressors.into_iter().any(|thread| thread.join().is_err());
        let (published, stored_bytes) = self.packer.join().map_err(|_| Error::Refused)??;
        if halted {
            return Err(Error::Refused);
        }
        let added = Added {
            blobs: self.shared.blobs.load(Ordering::Relaxed),
            raw_bytes: self.shared.raw_bytes.load(Ordering::Relaxed),
            stored_bytes,
        };
        Ok((published, added))
    }
}

/// Brings blobs of one stream into a writer, from one thread.
#[derive(Debug)]
pub struct Filler {
    shared: Arc<Shared>,
    send: Sender<Raw>,
    target_bytes: usize,
    raw: Raw,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} blobs", self.ids.len())
    }
}

impl Filler {
    /// Takes a blob, of at most `frame::MAX_RAW_BYTES`, unless it is known. Not durable before `Writer::finish`.
    ///
    /// # Errors
    /// `Usage` where it is longer: no reader would open its frame. `Refused` after any write has failed.
    pub fn put(&mut self, bytes: &[u8]) -> Result<BlobId> {
        if bytes.len() > frame::MAX_RAW_BYTES {
            return Err(Error::Usage(format!("a blob of {} bytes is more than a frame can hold", bytes.len())));
        }
        let id = self.shared.secrets.blob_id(bytes);
        if self.shared.is_new(&id, self.raw.stream) {
            let full = self.raw.bytes.len() + bytes.len() > self.target_bytes || self.raw.ids.len() >= frame::MAX_BLOBS;
            if full {
                self.flush()?;
            }
            self.raw.bytes.extend_from_slice(bytes);
            self.raw.lengths.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
            self.raw.ids.push(id);
            self.shared.blobs.fetch_add(1, Ordering::Relaxed);
            self.shared.raw_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        Ok(id)
    }

    /// Sends on what is held. To be called before a filler is dropped.
    ///
    /// # Errors
    /// `Refused` after any write has failed.
    pub fn flush(&mut self) -> Result<()> {
        if self.shared.failed.load(Ordering::Acquire) {
            return Err(Error::Refused);
        }
        if self.raw.ids.is_empty() {
            return Ok(());
        }
        let empty = Raw {
            stream: self.raw.stream,
            bytes: Vec::with_capacity(self.target_bytes),
            lengths: Vec::new(),
            ids: Vec::new(),
        };
        self.send.send(std::mem::replace(&mut self.raw, empty)).map_err(|_| Error::Refused)
    }
}

fn compress(raws: &Receiver<Raw>, packed: &Sender<(Stream, Packed)>, level: i32) {
    let mut compressor = Compressor::new(level);
    for raw in raws {
        let frame = compressor.pack(raw.bytes, raw.lengths, raw.ids, Vec::new(), &[]);
        if packed.send((raw.stream, frame)).is_err() {
            return;
        }
    }
}

/// The one writer to the medium: a pack of content is open at a time; frames of trees are held until there are enough
/// of them for a pack, which is then written between two packs of content.
struct Packer {
    target: Target,
    options: WriterOptions,
    would_store_bytes: u64,
    /// How much may be written before the medium is asked again how much room it has.
    allowed_bytes: u64,
    data: Option<PackBuilder>,
    trees: Vec<Packed>,
    held_bytes: usize,
    done: Vec<Published>,
}

impl Packer {
    fn run(mut self, packeds: &Receiver<(Stream, Packed)>) -> Result<(Vec<Published>, u64)> {
        for (stream, packed) in packeds {
            match stream {
                _ if self.options.dry_run => self.would_store_bytes += packed.stored_bytes() as u64,
                Stream::Data => self.add_data(packed)?,
                Stream::Tree => self.add_tree(packed)?,
            }
        }
        self.end_data()?;
        self.write_trees()?;
        if !self.options.dry_run {
            let synced = self.target.storage.sync(Folder::Packs);
            synced.map_err(|e| Error::storage("sync", Folder::Packs.as_str(), e))?;
        }
        let stored_bytes = self.done.iter().map(|p| p.length_bytes).sum::<u64>() + self.would_store_bytes;
        Ok((self.done, stored_bytes))
    }

    fn begin(&self, kind: Kind) -> Result<PackBuilder> {
        PackBuilder::begin(self.target.storage.as_ref(), &self.target.secrets, self.target.repository, kind)
    }

    /// Sees to it that the reserve stays free when so many bytes more are written. A pack under way is given up where
    /// it does not: what it holds is freed.
    fn make_sure_of_room(&mut self, bytes: usize) -> Result<()> {
        let bytes = bytes as u64;
        if self.options.reserve == Reserve::Bytes(0) {
            return Ok(());
        }
        if bytes > self.allowed_bytes {
            let storage = self.target.storage.as_ref();
            let room = storage.room().map_err(|e| Error::storage("ask for the room on", storage.location(), e))?;
            let Some(room) = room else {
                self.allowed_bytes = u64::MAX;
                return Ok(());
            };
            let reserve_bytes = self.options.reserve.of(room.total_bytes);
            let spare_bytes = room.free_bytes.saturating_sub(reserve_bytes);
            if bytes > spare_bytes {
                let (free, kept) = (room.free_bytes >> 10, reserve_bytes >> 10);
                let why = format!("{free} KiB are free, and {kept} KiB are kept free, so that deleting always works");
                return Err(Error::MediumFull {
                    verb: "write another pack to",
                    object: storage.location(),
                    source: io::Error::other(why),
                });
            }
            self.allowed_bytes = spare_bytes.min(UNASKED_BYTES.max(bytes));
        }
        self.allowed_bytes -= bytes;
        Ok(())
    }

    fn add_data(&mut self, packed: Packed) -> Result<()> {
        self.make_sure_of_room(packed.stored_bytes())?;
        let mut pack = match self.data.take() {
            Some(pack) => pack,
            None => self.begin(Kind::DataPack)?,
        };
        pack.append(packed)?;
        let full = pack.length_bytes() >= self.options.pack_bytes || pack.is_full();
        self.data = Some(pack);
        if full { self.end_data() } else { Ok(()) }
    }

    fn end_data(&mut self) -> Result<()> {
        if let Some(pack) = self.data.take() {
            self.done.push(pack.finish()?);
        }
        Ok(())
    }

    fn add_tree(&mut self, packed: Packed) -> Result<()> {
        self.held_bytes += packed.stored_bytes();
        self.trees.push(packed);
        if self.held_bytes < HELD_TREE_BYTES {
            return Ok(());
        }
        self.end_data()?;
        self.write_trees()
    }

    fn write_trees(&mut self) -> Result<()> {
        if self.trees.is_empty() {
            return Ok(());
        }
        self.held_bytes = 0;
        let mut pack = self.begin(Kind::TreePack)?;
        for packed in std::mem::take(&mut self.trees) {
            if pack.is_full() {
                self.done.push(pack.finish()?);
                pack = self.begin(Kind::TreePack)?;
            }
            self.make_sure_of_room(packed.stored_bytes())?;
            pack.append(packed)?;
        }
        self.done.push(pack.finish()?);
        Ok(())
    }
}
