//! The stretches that a file is written in: from the stored content to places in the file.

use crate::{
    archive::live,
    blobs::reader::Reader,
    error::{Error, Result},
    id::BlobId,
    repo::{
        content::{Content, Run},
        listing::runs,
    },
};
use rustix::fs::FallocateFlags;
use std::{
    fs::File,
    io,
    os::{fd::BorrowedFd, unix::fs::FileExt},
};

/// A stretch of a file.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// Where in the file, in bytes.
    pub offset_bytes: u64,
    /// How long, in bytes.
    pub length_bytes: u64,
    /// The blob that holds it; nothing for a hole.
    pub id: Option<BlobId>,
}

/// No file is restored in more stretches, for they are held in memory while it is: two TiB in chunks of the usual size.
/// Lists that hold each other many times can claim any number.
const MAX_PIECES: usize = 1 << 24;

/// The stretches that a stored content is made of.
///
/// # Errors
/// Damage of the lists that name them, and storage errors.
pub fn pieces(reader: &Reader, content: &Content) -> Result<Vec<Piece>> {
    let (mut offset_bytes, mut pieces) = (0, Vec::with_capacity(content.runs.len()));
    for run in runs(reader, content) {
        let (id, length_bytes) = match run? {
            Run::Data { id, length_bytes } => (Some(id), length_bytes),
            Run::Hole { length_bytes } => (None, length_bytes),
        };
        if pieces.len() >= MAX_PIECES {
            return Err(Error::damaged("a file's list", format!("it is made of more than {MAX_PIECES} runs")));
        }
        pieces.push(Piece { offset_bytes, length_bytes, id });
        offset_bytes += length_bytes;
    }
    Ok(pieces)
}

/// Whether a live file holds what its pieces say, and nothing after it.
///
/// # Errors
/// Those of reading it.
pub fn is_same(reader: &Reader, folder: BorrowedFd<'_>, name: &[u8], pieces: &[Piece]) -> io::Result<bool> {
    let file = File::from(live::open_existing(folder, name, false)?);
    let mut buffer = Vec::new();
    for piece in pieces {
        if !reader.holds_at(&file, piece.offset_bytes, piece.length_bytes, piece.id.as_ref(), &mut buffer)? {
            return Ok(false);
        }
    }
    Ok(file.metadata()?.len() == pieces.last().map_or(0, |last| last.offset_bytes + last.length_bytes))
}

/// Makes a stretch of a file zeros, without room where the file system can.
///
/// # Errors
/// The file system's own.
pub fn make_hole(file: &File, hole: &Piece) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(file, flags, hole.offset_bytes, hole.length_bytes).is_ok() {
        return Ok(());
    }
    let zeros = vec![0; 1 << 20];
    let (mut at, end) = (hole.offset_bytes, hole.offset_bytes + hole.length_bytes);
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(zeros.get(..length).unwrap_or_default(), at)?;
        at += length as u64;
    }
    Ok(())
}
