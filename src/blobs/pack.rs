//! Many frames in one object: builder, table of contents, and the search for frames where the table is lost.
//!
//! Knows nothing of what the blobs mean. See `format-spec/03-packs.md`:
//!
//! ```text
//! header · frame 0 · frame 1 · … · table of contents, sealed · its length (4) · "xToc" (4) · trailer
//! ```

use crate::{
    blobs::{
        codec::{self, Extensions},
        frame::{self, Head, Packed, Prefix},
        seal::{Sealer, Secrets},
        search::Search,
    },
    error::{Error, Result},
    id::{BlobId, ObjectName, RepositoryId},
    storage::{
        envelope::{self, HEADER_BYTES, Kind, Label, ObjectWriter, TRAILER_BYTES},
        object::{Folder, Storage, met_unreadable, read_again, unreadable_as_damage},
    },
};
use bincode::{Decode, Encode};
use std::collections::HashMap;

/// The part number that the table of contents is sealed under; no frame has it.
const TOC_PART: u64 = u64::MAX;
/// Bytes after the table: its length and a magic.
const FOOTER_BYTES: usize = 8;
const TOC_MAGIC: [u8; 4] = *b"xToc";
/// How much of a pack is read at once between frames.
const STEP_BYTES: u64 = 4 << 20;
/// No table is longer, as stored.
const MAX_TOC_BYTES: usize = 48 << 20;
/// A pack is ended once it holds this many blobs: their ids, and those of one more frame, fit well into a table.
const FULL_BLOBS: usize = 1 << 19;
/// So no pack holds more than this.
const MAX_PACK_BLOBS: usize = FULL_BLOBS + frame::MAX_BLOBS;

/// A table that is made by searching names no more bases, each use counted: a forger can make frames that name many.
const MAX_FOUND_BASES: usize = 1 << 17;

/// Where a frame lies in its pack and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TocFrame {
    /// From the start of the object, in bytes.
    pub offset_bytes: u64,
    /// Length of the whole frame as stored, in bytes.
    pub frame_bytes: u32,
    /// How many of the table's ids are this frame's.
    pub blobs: u32,
    /// The blobs it leans on, as positions in the table's list of bases.
    pub bases: Vec<u32>,
}

/// A pack's table of contents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Toc {
    /// Every frame, by number.
    pub frames: Vec<TocFrame>,
    /// Lengths of all blobs in bytes, frame after frame.
    pub lengths: Vec<u32>,
    /// Ids of all blobs, 32 bytes each, frame after frame.
    ids: Vec<u8>,
    /// Ids of all bases, 32 bytes each, each once.
    bases: Vec<u8>,
    /// Room for later versions.
    pub extensions: Extensions,
}

/// Where the ids of bases stand in the list of a table that is being made.
#[derive(Default)]
struct Positions {
    of: HashMap<BlobId, u32>,
    /// How often frames lean on any of them.
    uses: usize,
}

impl Toc {
    /// Ids of all blobs, frame after frame.
    pub fn ids(&self) -> impl ExactSizeIterator<Item = BlobId> {
        self.ids.as_chunks().0.iter().map(|id| BlobId(*id))
    }

    /// The id of the base at a position of the list.
    pub fn base(&self, position: u32) -> Option<BlobId> {
        self.bases.as_chunks().0.get(position as usize).map(|id| BlobId(*id))
    }

    fn push(&mut self, positions: &mut Positions, offset_bytes: u64, prefix: Prefix, head: &Head, ids: &[BlobId]) {
        positions.uses += head.bases.len();
        let bases = head.bases.iter().map(|base| {
            *positions.of.entry(*base).or_insert_with(|| {
                self.bases.extend_from_slice(&base.0);
                u32::try_from(self.bases.len() / BlobId::BYTES - 1).unwrap_or(u32::MAX)
            })
        });
        let bases = bases.collect();
        let frame_bytes = u32::try_from(prefix.frame_bytes()).unwrap_or(u32::MAX);
        let blobs = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        self.frames.push(TocFrame { offset_bytes, frame_bytes, blobs, bases });
        self.lengths.extend_from_slice(&head.lengths);
        ids.iter().for_each(|id| self.ids.extend_from_slice(&id.0));
    }

    /// Seals the table under its pack's name and kind.
    pub fn seal(&self, sealer: &Sealer, kind: Kind) -> Vec<u8> {
        let mut bytes = codec::encode(self);
        sealer.seal(TOC_PART, &[kind.byte()], &mut bytes, 0);
        bytes
    }

    /// Seals a table that was made again, under a fresh salt: its pack's own table, which may be another one, has been
    /// sealed under the pack's key and the number that is for tables.
    fn seal_again(&self, secrets: &Secrets, name: &ObjectName, kind: Kind) -> Result<Vec<u8>> {
        secrets.seal_body(name, &[kind.byte()], &codec::encode(self))
    }

    /// Opens what a reader of packs keeps of one: its own table as it was sealed, or one that was made again, which the
    /// second value says.
    ///
    /// # Errors
    /// `Damaged`, naming `object`.
    pub fn open_kept(
        secrets: &Secrets,
        name: &ObjectName,
        kind: Kind,
        sealed: &[u8],
        pack_bytes: u64,
        object: &str,
    ) -> Result<(Self, bool)> {
        match secrets.open_body(name, &[kind.byte()], sealed) {
            Some(bytes) => Ok((Self::decode(&bytes, pack_bytes, object)?, true)),
            None => Ok((Self::open(&secrets.sealer(name), kind, sealed, pack_bytes, object)?, false)),
        }
    }

    /// Opens a sealed table and checks that its parts agree with each other and fit into a pack of `pack_bytes`.
    ///
    /// # Errors
    /// `Damaged`, naming `object`.
    pub fn open(sealer: &Sealer, kind: Kind, sealed: &[u8], pack_bytes: u64, object: &str) -> Result<Self> {
        let bytes = sealer.open(TOC_PART, &[kind.byte()], sealed);
        let bytes = bytes.ok_or_else(|| Error::damaged(object, "its table does not match its proof"))?;
        Self::decode(&bytes, pack_bytes, object)
    }

    fn decode(bytes: &[u8], pack_bytes: u64, object: &str) -> Result<Self> {
        let bad = |why: &str| Error::damaged(object, why);
        let toc: Self = codec::decode(bytes, object)?;
        let blobs = toc.frames.iter().try_fold(0_usize, |sum, f| sum.checked_add(f.blobs as usize));
        let whole = toc.ids.len().is_multiple_of(BlobId::BYTES) && toc.bases.len().is_multiple_of(BlobId::BYTES);
        if !whole || blobs != Some(toc.lengths.len()) || blobs != Some(toc.ids.len() / BlobId::BYTES) {
            return Err(bad("the columns of its table are of different lengths"));
        }
        let mut free_bytes = HEADER_BYTES as u64;
        for frame in &toc.frames {
            let end = frame.offset_bytes.checked_add(u64::from(frame.frame_bytes)).filter(|end| *end <= pack_bytes);
            let end = end.ok_or_else(|| bad("its table leads outside"))?;
            let sane = frame.frame_bytes as usize <= frame::MAX_FRAME_BYTES;
            if !sane || frame.offset_bytes < free_bytes || frame.bases.iter().any(|b| toc.base(*b).is_none()) {
                return Err(bad("its table contradicts itself"));
            }
            free_bytes = end;
        }
        Ok(toc)
    }
}

/// A pack that has been published.
#[derive(Debug, Clone)]
pub struct Published {
    /// Its name.
    pub name: ObjectName,
    /// What kind of blobs are in it.
    pub kind: Kind,
    /// Length of the object in bytes.
    pub length_bytes: u64,
    /// Its table.
    pub toc: Toc,
    /// Its table as sealed.
    pub sealed_toc: Vec<u8>,
}

/// Writes one pack: frames as they come, the table at the end.
pub struct PackBuilder {
    writer: ObjectWriter,
    name: ObjectName,
    kind: Kind,
    sealer: Sealer,
    toc: Toc,
    positions: Positions,
    buffer: Vec<u8>,
}

impl PackBuilder {
    /// Begins a pack under a fresh random name. Nothing is durable yet.
    ///
    /// # Errors
    /// A storage error.
    pub fn begin(storage: &dyn Storage, secrets: &Secrets, repository: RepositoryId, kind: Kind) -> Result<Self> {
        let name = ObjectName::random().map_err(|e| Error::file("read", "the system's random source", e))?;
        let label = Label { kind, repository, name: name.clone() };
        let writer = ObjectWriter::begin(storage, Folder::Packs, &label)?;
        let sealer = secrets.sealer(&name);
        Ok(Self {
            writer,
            name,
            kind,
            sealer,
            toc: Toc::default(),
            positions: Positions::default(),
            buffer: Vec::new(),
        })
    }

    /// Appends a frame. Nothing is durable yet.
    ///
    /// # Errors
    /// A storage error.
    pub fn append(&mut self, packed: Packed) -> Result<()> {
        let number = u32::try_from(self.toc.frames.len()).unwrap_or(u32::MAX);
        let offset_bytes = self.writer.length_bytes();
        self.buffer.clear();
        let (prefix, head, ids) = frame::seal(&self.sealer, number, packed, &mut self.buffer);
        self.toc.push(&mut self.positions, offset_bytes, prefix, &head, &ids);
        self.writer.append(&self.buffer)
    }

    /// Bytes written so far.
    pub fn length_bytes(&self) -> u64 {
        self.writer.length_bytes()
    }

    /// Whether its table has become so long that the pack should be ended, however short the pack is.
    pub fn is_full(&self) -> bool {
        self.toc.lengths.len() >= FULL_BLOBS
    }

    /// Writes the table and publishes the pack; durable on return.
    ///
    /// # Errors
    /// A storage error. The pack may or may not be there then; if it is, it is whole.
    pub fn finish(mut self) -> Result<Published> {
        let sealed_toc = self.toc.seal(&self.sealer, self.kind);
        self.writer.append(&sealed_toc)?;
        self.writer.append(&u32::try_from(sealed_toc.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.writer.append(&TOC_MAGIC)?;
        let length_bytes = self.writer.finish()?;
        Ok(Published { name: self.name, kind: self.kind, length_bytes, toc: self.toc, sealed_toc })
    }
}

/// A pack's table as found in the pack itself.
#[derive(Debug)]
pub struct FoundToc {
    /// What kind of blobs the pack holds.
    pub kind: Kind,
    /// The table.
    pub toc: Toc,
    /// The table as sealed, to be opened with `Toc::open_kept`.
    pub sealed_toc: Vec<u8>,
    /// What was wrong, where the table had to be made again from the frames.
    pub mended: Option<String>,
    /// Whether bytes could not be read while it was made again: another attempt may find more.
    pub unread: bool,
}

/// Reads a pack's table; where it or the bytes around it are damaged or cannot be read, searches the pack for whole
/// frames and makes the table again from them.
///
/// # Errors
/// `Newer`, and storage errors; among them that the table cannot be read, where no frame is found either. Damage is no
/// error: what is whole is found.
pub fn read_toc(
    storage: &dyn Storage,
    secrets: &Secrets,
    repository: RepositoryId,
    name: &ObjectName,
    length_bytes: u64,
) -> Result<FoundToc> {
    let sealer = secrets.sealer(name);
    let object = Folder::Packs.object(name);
    let kind = read_kind(storage, repository, name, &object);
    let own = read_own_toc(storage, &sealer, kind.as_ref().ok().copied(), name, length_bytes);
    let failure = match own {
        // A table that opens is of this version, whatever the header says.
        Ok((found, toc, sealed_toc)) => {
            let mended = kind.err().map(|e| e.to_string());
            return Ok(FoundToc { kind: found, toc, sealed_toc, mended, unread: false });
        }
        Err(e) => e,
    };
    let unreadable = met_unreadable(storage, &failure);
    if !unreadable && !matches!(failure, Error::Damaged { .. }) {
        return Err(failure);
    }
    if let (Err(Error::Newer { .. }), Err(newer @ Error::Newer { .. })) =
        (&kind, envelope::verify(storage, Folder::Packs, name, length_bytes))
    {
        return Err(newer);
    }
    let (toc, unread) = table_of_found(&Search { storage, secrets, sealer: &sealer, name, length_bytes })?;
    if unreadable && toc.frames.is_empty() {
        return Err(failure);
    }
    // A pack of unknown kind is looked through whenever trees are wanted, and whenever everything is.
    let kind = kind.unwrap_or(Kind::TreePack);
    let sealed_toc = toc.seal_again(secrets, name, kind)?;
    let mended = Some(unreadable_as_damage(storage, failure).to_string());
    Ok(FoundToc { kind, sealed_toc, toc, mended, unread: unread || unreadable })
}

fn read_kind(storage: &dyn Storage, repository: RepositoryId, name: &ObjectName, object: &str) -> Result<Kind> {
    let header = read_again(storage, Folder::Packs, name, 0, HEADER_BYTES);
    let header = header.map_err(|_| Error::damaged(object, "its header cannot be read"))?;
    let label = Label::decode(&header, object)?;
    if !matches!(label.kind, Kind::DataPack | Kind::TreePack) {
        return Err(Error::damaged(object, "it is of another kind than its folder holds"));
    }
    envelope::expect(&label, label.kind, Some(repository), name, object)?;
    Ok(label.kind)
}

/// Reads the table from the end of a pack. It says itself which kind of pack it is of, if the header cannot.
fn read_own_toc(
    storage: &dyn Storage,
    sealer: &Sealer,
    kind: Option<Kind>,
    name: &ObjectName,
    length_bytes: u64,
) -> Result<(Kind, Toc, Vec<u8>)> {
    let object = Folder::Packs.object(name);
    let read = |offset: u64, length: usize| {
        read_again(storage, Folder::Packs, name, offset, length).map_err(|e| Error::storage("read", &object, e))
    };
    let bad = |why: &str| Error::damaged(&object, why);
    let tail_bytes = (FOOTER_BYTES + TRAILER_BYTES) as u64;
    if length_bytes < HEADER_BYTES as u64 + tail_bytes {
        return Err(bad("it is cut short"));
    }
    let tail = read(length_bytes - tail_bytes, FOOTER_BYTES)?;
    let (toc_bytes, magic) = tail.split_first_chunk::<4>().ok_or_else(|| bad("it is cut short"))?;
    let toc_bytes = u32::from_le_bytes(*toc_bytes) as usize;
    if *magic != TOC_MAGIC || toc_bytes > MAX_TOC_BYTES {
        return Err(bad("it does not end as a pack does"));
    }
    let start = (length_bytes - tail_bytes).checked_sub(toc_bytes as u64);
    let sealed_toc = read(start.ok_or_else(|| bad("its table is longer than itself"))?, toc_bytes)?;
    let kinds = kind.map_or(vec![Kind::DataPack, Kind::TreePack], |kind| vec![kind]);
    let mut failure = bad("its table does not match its proof");
    for kind in kinds {
        match Toc::open(sealer, kind, &sealed_toc, length_bytes, &object) {
            Ok(toc) => return Ok((kind, toc, sealed_toc)),
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

/// Reads every byte of a pack once, from the start to the end, hands each frame on, and compares the whole with its
/// proof. A frame that cannot be read is not handed on.
///
/// # Errors
/// `Damaged` where the whole does not match its proof or not all of it can be read, after all frames were handed on;
/// those of `take`; storage errors.
pub fn read_whole(
    storage: &dyn Storage,
    name: &ObjectName,
    length_bytes: u64,
    toc: &Toc,
    mut take: impl FnMut(u32, &[u8]) -> Result<()>,
) -> Result<()> {
    let object = Folder::Packs.object(name);
    let bad = |why: &str| Error::damaged(&object, why);
    let mut whole = Whole { storage, name, object: &object, hasher: blake3::Hasher::new(), at: 0, unread: false };
    for (number, frame) in (0_u32..).zip(&toc.frames).filter(|(_, f)| f.frame_bytes > 0) {
        whole.hash_up_to(frame.offset_bytes)?;
        if let Some(bytes) = whole.next(u64::from(frame.frame_bytes))? {
            take(number, &bytes)?;
        }
    }
    let proven_bytes = length_bytes.saturating_sub(32);
    whole.hash_up_to(proven_bytes)?;
    let hash = whole.hasher.finalize();
    whole.at = proven_bytes.saturating_sub(8);
    let end = whole.next(length_bytes - whole.at)?.filter(|_| !whole.unread);
    let end = end.ok_or_else(|| bad("not all of it can be read"))?;
    let (length, proof) = end.split_first_chunk::<8>().ok_or_else(|| bad("it is cut short"))?;
    if u64::from_le_bytes(*length) != length_bytes {
        return Err(bad("its length is not the one it was written with"));
    }
    if hash.as_bytes().as_slice() != proof {
        return Err(bad("its bytes do not match its proof"));
    }
    Ok(())
}

/// A pack on its way past a hasher.
struct Whole<'a> {
    storage: &'a dyn Storage,
    name: &'a ObjectName,
    object: &'a str,
    hasher: blake3::Hasher,
    at: u64,
    /// Whether some of it could not be read.
    unread: bool,
}

impl Whole<'_> {
    /// The next bytes, or nothing where they cannot be read and the medium is still there.
    fn next(&mut self, length_bytes: u64) -> Result<Option<Vec<u8>>> {
        let length = usize::try_from(length_bytes).unwrap_or(usize::MAX);
        let read = read_again(self.storage, Folder::Packs, self.name, self.at, length);
        self.at += length_bytes;
        match read.map_err(|e| Error::storage("read", self.object, e)) {
            Ok(bytes) => {
                self.hasher.update(&bytes);
                Ok(Some(bytes))
            }
            Err(e) if met_unreadable(self.storage, &e) => {
                self.unread = true;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn hash_up_to(&mut self, end: u64) -> Result<()> {
        while self.at < end {
            self.next(STEP_BYTES.min(end - self.at))?;
        }
        Ok(())
    }
}

/// Makes a table from every whole frame that a search finds.
fn table_of_found(search: &Search<'_>) -> Result<(Toc, bool)> {
    let (mut toc, mut positions) = (Toc::default(), Positions::default());
    let unread = search.run(|at, prefix, head, ids| toc.push_numbered(&mut positions, at, prefix, head, ids))?;
    Ok((toc, unread))
}

impl Toc {
    /// Adds a found frame under its own number; lost frames before it leave empty places.
    fn push_numbered(
        &mut self,
        positions: &mut Positions,
        offset_bytes: u64,
        prefix: Prefix,
        head: &Head,
        ids: &[BlobId],
    ) {
        let last_end = self.frames.last().map_or(HEADER_BYTES as u64, |f| f.offset_bytes + u64::from(f.frame_bytes));
        let gap = (prefix.number as usize).checked_sub(self.frames.len());
        // A frame cannot be shorter than its prefix and two proofs: more lost ones than fit are a forgery.
        let Some(gap) = gap.filter(|gap| *gap as u64 * 48 <= offset_bytes.saturating_sub(last_end)) else { return };
        // Nor does any pack have more blobs, and so frames, than is_full lets in.
        let too_many = prefix.number as usize >= MAX_PACK_BLOBS
            || self.lengths.len() + ids.len() > MAX_PACK_BLOBS
            || positions.uses + head.bases.len() > MAX_FOUND_BASES;
        if too_many {
            return;
        }
        let lost = TocFrame { offset_bytes: last_end, frame_bytes: 0, blobs: 0, bases: Vec::new() };
        self.frames.extend(std::iter::repeat_n(lost, gap));
        self.push(positions, offset_bytes, prefix, head, ids);
    }
}
