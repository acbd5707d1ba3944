//! The outer bytes of every object: what it is, whose it is, what it is called, how long it is, and its proof.
//!
//! Both directions of the layout live here. Knows nothing of the body. See `format-spec/01-objects.md`:
//!
//! ```text
//!  0  8  magic 89 "xsnap" 0d 0a        32 32  name, padded with zeros
//!  8  1  envelope version, 1           64  n  body
//!  9  1  kind                           +  8  length of the whole object
//! 10  6  zeros                          + 32  BLAKE3 of every byte before it
//! 16 16  repository id
//! ```

use crate::{
    error::{Error, Result},
    id::{ObjectName, RepositoryId},
    storage::object::{Folder, Storage, Upload},
};

/// What kind of object a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The repository's own parameters.
    Config,
    /// A key slot.
    Key,
    /// A snapshot.
    Snapshot,
    /// A pack of file content.
    DataPack,
    /// A pack of trees and lists.
    TreePack,
}

impl Kind {
    /// The byte that stands for this kind.
    pub fn byte(self) -> u8 {
        match self {
            Self::Config => 1,
            Self::Key => 2,
            Self::Snapshot => 3,
            Self::DataPack => 4,
            Self::TreePack => 5,
        }
    }

    /// The kind that a byte stands for.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Config, Self::Key, Self::Snapshot, Self::DataPack, Self::TreePack].into_iter().find(|k| k.byte() == byte)
    }
}

/// The first bytes of every object. Not text, so that a transfer that mends line ends breaks it visibly.
pub const MAGIC: [u8; 8] = *b"\x89xsnap\r\n";
/// The version of this layout.
pub const VERSION: u8 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 64;
/// Bytes after the body.
pub const TRAILER_BYTES: usize = 40;
/// The largest object that is read whole: everything but packs.
pub const MAX_SMALL_BYTES: u64 = 64 << 20;

/// What an object says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// What it is.
    pub kind: Kind,
    /// Whose it is.
    pub repository: RepositoryId,
    /// What it is called.
    pub name: ObjectName,
}

impl Label {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (fixed, name) = bytes.split_at_mut(32);
        let parts: [&[u8]; 4] = [&MAGIC, &[VERSION, self.kind.byte()], &[0; 6], &self.repository.0];
        fixed.iter_mut().zip(parts.concat()).for_each(|(to, from)| *to = from);
        name.iter_mut().zip(self.name.as_str().bytes()).for_each(|(to, from)| *to = from);
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// `Damaged` where it is no header, `Newer` where only its version is not known. `object` names it in both.
    pub fn decode(bytes: &[u8], object: &str) -> Result<Self> {
        let bad = |why: &str| Error::damaged(object, why);
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(|| bad("it is shorter than a header"))?;
        let [magic @ .., _, _, _, _, _, _, _, _] = header.first_chunk::<16>().ok_or_else(|| bad("no header"))?;
        if *magic != MAGIC {
            return Err(bad("it does not begin as an xsnap object does"));
        }
        let [version, kind, zeros @ ..] =
            header.get(8..16).and_then(|b| b.first_chunk::<8>()).ok_or_else(|| bad("no header"))?;
        if *version != VERSION {
            return Err(Error::Newer { object: object.into(), why: format!("envelope version {version}") });
        }
        let kind = Kind::from_byte(*kind)
            .ok_or_else(|| Error::Newer { object: object.into(), why: format!("object kind {kind}") })?;
        let repository = header.get(16..32).and_then(|b| b.try_into().ok()).map(RepositoryId);
        let name = header.get(32..64).map(|b| b.iter().copied().take_while(|b| *b != 0).collect::<Vec<u8>>());
        let name = name.and_then(|b| ObjectName::parse(&String::from_utf8_lossy(&b)));
        match (repository, name) {
            (Some(repository), Some(name)) if *zeros == [0; 6] => Ok(Self { kind, repository, name }),
            _ => Err(bad("its header is garbled")),
        }
    }
}

/// Writes one object: header at once, body as it comes, proof at the end.
pub struct ObjectWriter {
    upload: Box<dyn Upload>,
    hasher: blake3::Hasher,
    object: String,
    length_bytes: u64,
}

impl ObjectWriter {
    /// Begins an object. Nothing is durable yet.
    ///
    /// # Errors
    /// A storage error.
    pub fn begin(storage: &dyn Storage, folder: Folder, label: &Label) -> Result<Self> {
        let object = folder.object(&label.name);
        let upload = storage.create(folder, &label.name).map_err(|e| Error::storage("create", &object, e))?;
        let mut writer = Self { upload, hasher: blake3::Hasher::new(), object, length_bytes: 0 };
        writer.append(&label.encode())?;
        Ok(writer)
    }

    /// Appends bytes of the body. Nothing is durable yet.
    ///
    /// # Errors
    /// A storage error.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.length_bytes += bytes.len() as u64;
        self.upload.append(bytes).map_err(|e| Error::storage("write", &self.object, e))
    }

    /// Bytes written so far, header included: the offset of what comes next.
    pub fn length_bytes(&self) -> u64 {
        self.length_bytes
    }

    /// Ends and publishes the object; durable on return. Returns its length in bytes.
    ///
    /// # Errors
    /// A storage error. The object may or may not be there then; if it is, it is whole.
    pub fn finish(mut self) -> Result<u64> {
        let total = self.length_bytes + TRAILER_BYTES as u64;
        self.append(&total.to_le_bytes())?;
        let proof = *self.hasher.finalize().as_bytes();
        self.append(&proof)?;
        self.upload.finish().map_err(|e| Error::storage("publish", &self.object, e))?;
        Ok(total)
    }
}

/// Puts a whole object; durable on return.
///
/// # Errors
/// A storage error.
pub fn put(storage: &dyn Storage, folder: Folder, label: &Label, body: &[u8]) -> Result<u64> {
    let mut writer = ObjectWriter::begin(storage, folder, label)?;
    writer.append(body)?;
    writer.finish()
}

/// Checks the bytes of a whole object and returns what it says of itself, and its body.
///
/// # Errors
/// `Damaged` or `Newer`, naming `object`.
pub fn open<'a>(bytes: &'a [u8], object: &str) -> Result<(Label, &'a [u8])> {
    let label = Label::decode(bytes, object)?;
    let bad = |why: &str| Error::damaged(object, why);
    let (proven, proof) = bytes.split_last_chunk::<32>().ok_or_else(|| bad("it is cut short"))?;
    let (rest, length) = proven.split_last_chunk::<8>().ok_or_else(|| bad("it is cut short"))?;
    let body = rest.get(HEADER_BYTES..).ok_or_else(|| bad("it is cut short"))?;
    if u64::from_le_bytes(*length) != bytes.len() as u64 {
        return Err(bad("its length is not the one it was written with"));
    }
    if blake3::hash(proven) != blake3::Hash::from_bytes(*proof) {
        return Err(bad("its bytes do not match its proof"));
    }
    Ok((label, body))
}

/// Checks that an object is the one that its place says it is.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn expect(
    label: &Label,
    kind: Kind,
    repository: Option<RepositoryId>,
    name: &ObjectName,
    object: &str,
) -> Result<()> {
    let bad = |why: &str| Err(Error::damaged(object, why));
    if label.kind != kind {
        return bad("it is of another kind than its folder holds");
    }
    if label.name != *name {
        return bad("it was written under another name");
    }
    match repository {
        Some(id) if id != label.repository => bad("it belongs to another repository"),
        _ => Ok(()),
    }
}

/// Reads and checks a small object whole: its bytes, and where its body lies in them.
///
/// # Errors
/// `Damaged`, `Newer`, or a storage error.
pub fn get(storage: &dyn Storage, folder: Folder, name: &ObjectName, length_bytes: u64) -> Result<Vec<u8>> {
    let object = folder.object(name);
    let length = usize::try_from(length_bytes.min(MAX_SMALL_BYTES + 1)).unwrap_or(usize::MAX);
    if length as u64 > MAX_SMALL_BYTES {
        return Err(Error::damaged(object, "it is larger than an object of its kind can be"));
    }
    let bytes = storage.read(folder, name, 0, length).map_err(|e| Error::storage("read", &object, e))?;
    open(&bytes, &object)?;
    Ok(bytes)
}

/// Checks a whole object of any size against its proof, piece by piece, and only then asks what it says of itself:
/// what is newer is proven to be so, and never merely damaged.
///
/// # Errors
/// `Damaged`, `Newer`, or a storage error.
pub fn verify(storage: &dyn Storage, folder: Folder, name: &ObjectName, length_bytes: u64) -> Result<Label> {
    const PIECE_BYTES: u64 = 4 << 20;
    let object = folder.object(name);
    let read = |offset: u64, length: u64| {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        storage.read(folder, name, offset, length).map_err(|e| Error::storage("read", &object, e))
    };
    let proven_bytes = length_bytes
        .checked_sub(32)
        .filter(|n| *n >= (HEADER_BYTES + 8) as u64)
        .ok_or_else(|| Error::damaged(&object, "it is cut short"))?;
    let mut hasher = blake3::Hasher::new();
    let mut at = 0;
    while at < proven_bytes {
        let piece = read(at, PIECE_BYTES.min(proven_bytes - at))?;
        hasher.update(&piece);
        at += piece.len() as u64;
    }
    let end = read(proven_bytes - 8, 40)?;
    let (length, proof) = end.split_first_chunk::<8>().ok_or_else(|| Error::damaged(&object, "it is cut short"))?;
    if u64::from_le_bytes(*length) != length_bytes {
        return Err(Error::damaged(object, "its length is not the one it was written with"));
    }
    if hasher.finalize().as_bytes().as_slice() != proof {
        return Err(Error::damaged(object, "its bytes do not match its proof"));
    }
    Label::decode(&read(0, HEADER_BYTES as u64)?, &object)
}

/// Whether a whole object of any size matches its proof, whatever it says of itself: no flipped bit makes one newer.
pub fn is_proven(storage: &dyn Storage, folder: Folder, name: &ObjectName, length_bytes: u64) -> bool {
    matches!(verify(storage, folder, name, length_bytes), Ok(_) | Err(Error::Newer { .. }))
}
