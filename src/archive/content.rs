//! The bytes of one live file into blobs: opening, holes, cutting, and noticing a change meanwhile.
//!
//! A file that changes while it is read is read again; if it does not hold still, that is a problem and what was read
//! last is kept.

use crate::{
    archive::metadata::{self, Handle, Owners},
    blobs::{chunker::Chunker, writer::Filler},
    error::{Error, Result},
    progress::Progress,
    repo::{
        content::{Content, Run, fold},
        tree::{Metadata, Time},
    },
};
use rustix::{
    fs::{FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// How often a file that changes meanwhile is read before that is a problem.
const TRIES: usize = 3;

/// A live file, read.
#[derive(Debug)]
pub struct ReadFile {
    /// Its metadata as of the reading.
    pub metadata: Metadata,
    /// The inode as it was when reading began.
    pub stat: Stat,
    /// When reading began.
    pub began: Time,
    /// How many bytes were read, holes included.
    pub size_bytes: u64,
    /// Where they are now.
    pub content: Content,
    /// Whether it changed while it was read.
    pub unsteady: bool,
    /// Why attributes are missing, if any could not be read.
    pub lacks: Option<String>,
}

/// Why a file could not be read: its own fault, or the whole operation's.
#[derive(Debug)]
pub enum Failure {
    /// The file alone is at fault: what was tried, and the cause.
    File(&'static str, io::Error),
    /// The medium, or the user's wish to stop.
    Whole(Error),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Self::Whole(e)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Self::File("read", e)
    }
}

/// Reads files into blobs; one for each thread.
pub struct ContentReader<'a> {
    /// Decides the cuts.
    pub chunker: &'a Chunker,
    /// Names of owners.
    pub owners: &'a Owners,
    /// Takes content.
    pub data: Filler,
    /// Takes lists.
    pub lists: Filler,
    /// Room that is used again from file to file.
    pub buffer: Vec<u8>,
    /// Who may ask for a stop, in the middle of a large file, too.
    pub progress: &'a dyn Progress,
}

/// The time by the clock that file systems stamp with.
pub fn now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    Time { seconds: now.tv_sec, nanoseconds: u32::try_from(now.tv_nsec).unwrap_or_default() }
}

/// Opens a name for reading without waiting on pipes, following links, or touching its access time.
///
/// # Errors
/// The file system's own.
pub fn open_file(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may leave the access time alone.
        Err(Errno::PERM) => Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?),
        opened => Ok(opened?),
    }
}

impl ContentReader<'_> {
    /// Reads the file of a name.
    ///
    /// # Errors
    /// `File` where the file is at fault, `Whole` where nothing more can be read or written.
    pub fn read(&mut self, folder: BorrowedFd<'_>, name: &[u8]) -> Result<ReadFile, Failure> {
        let file = File::from(open_file(folder, name).map_err(|e| Failure::File("open", e))?);
        let mut tries = 0;
        loop {
            let began = now();
            let before = stat(&file)?;
            if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
                return Err(Failure::File("read", io::Error::other("it is no regular file any more")));
            }
            let (xattrs, lacks) = match metadata::read_xattrs(Handle::Open(file.as_fd())) {
                Ok(xattrs) => (xattrs, None),
                // The content counts for more than its attributes.
                Err(e) => (Arc::default(), Some(e.to_string())),
            };
            let (size_bytes, content) = self.read_content(&file, &before)?;
            let after = stat(&file)?;
            tries += 1;
            let same = |of: fn(&Stat) -> Time| of(&before) == of(&after);
            let unsteady = before.st_size != after.st_size || !same(metadata::mtime) || !same(metadata::ctime);
            if !unsteady || tries == TRIES {
                let metadata = metadata::metadata(&before, self.owners, xattrs);
                return Ok(ReadFile { metadata, stat: before, began, size_bytes, content, unsteady, lacks });
            }
        }
    }

    fn read_content(&mut self, file: &File, stat: &Stat) -> Result<(u64, Content), Failure> {
        let size = u64::try_from(stat.st_size).unwrap_or_default();
        let stored = u64::try_from(stat.st_blocks).unwrap_or_default().saturating_mul(512);
        let mut runs = Vec::new();
        if size > 0 && size <= self.chunker.whole_bytes() as u64 && stored >= size {
            self.read_small(file, size, &mut runs)?;
        } else if stored < size {
            self.read_with_holes(file, size, &mut runs)?;
        } else {
            self.read_stretch(file, 0, u64::MAX, &mut runs)?;
        }
        let size_bytes = runs.iter().map(Run::length_bytes).sum();
        let lists = &mut self.lists;
        Ok((size_bytes, fold(runs, |list| lists.put(list))?))
    }

    /// One blob, read in one call: whether the file has grown is seen by its size afterwards.
    fn read_small(&mut self, file: &File, size_bytes: u64, runs: &mut Vec<Run>) -> Result<(), Failure> {
        self.buffer.resize(usize::try_from(size_bytes).unwrap_or_default(), 0);
        let mut filled = 0;
        while let Some(room) = self.buffer.get_mut(filled..).filter(|room| !room.is_empty()) {
            match rustix::io::pread(file, room, filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(Errno::INTR) => {}
                Err(e) => return Err(io::Error::from(e).into()),
            }
        }
        let bytes = self.buffer.get(..filled).unwrap_or_default();
        if !bytes.is_empty() {
            runs.push(Run::Data { id: self.data.put(bytes)?, length_bytes: bytes.len() as u64 });
        }
        Ok(())
    }

    /// Stretches of data and holes, as the file system tells them.
    fn read_with_holes(&mut self, file: &File, size_bytes: u64, runs: &mut Vec<Run>) -> Result<(), Failure> {
        let mut at = 0;
        while at < size_bytes {
            let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
                Ok(data) => data.min(size_bytes),
                Err(Errno::NXIO) => size_bytes,
                // A file system that cannot tell has no holes to tell of.
                Err(_) => return self.read_stretch(file, at, u64::MAX, runs).map(drop),
            };
            if data > at {
                runs.push(Run::Hole { length_bytes: data - at });
            }
            if data >= size_bytes {
                break;
            }
            let hole = rustix::fs::seek(file, SeekFrom::Hole(data)).map_err(io::Error::from)?;
            let read = self.read_stretch(file, data, hole.saturating_sub(data), runs)?;
            if read == 0 {
                break;
            }
            at = data + read;
        }
        Ok(())
    }

    fn read_stretch(&mut self, file: &File, from: u64, limit_bytes: u64, runs: &mut Vec<Run>) -> Result<u64, Failure> {
        let (data, progress) = (&mut self.data, self.progress);
        self.chunker.cut(Stretch { file, at: from }, limit_bytes, &mut self.buffer, |chunk| {
            if progress.stop_wanted() {
                return Err(Failure::Whole(Error::Interrupted));
            }
            runs.push(Run::Data { id: data.put(chunk)?, length_bytes: chunk.len() as u64 });
            Ok::<(), Failure>(())
        })
    }
}

/// Reads on from an offset, without moving the descriptor that the search for holes moves.
struct Stretch<'a> {
    file: &'a File,
    at: u64,
}

impl Read for Stretch<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let read = rustix::io::pread(self.file, room, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

fn stat(file: &File) -> io::Result<Stat> {
    Ok(rustix::fs::fstat(file)?)
}
