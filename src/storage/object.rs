//! The contract of every storage: named objects in five flat folders, put once, read whole or in part.
//!
//! Knows nothing of what is inside an object. Synchronous; every call says what is durable when it returns.
//! See `format-spec/01-objects.md`.

use crate::{error::Error, id::ObjectName};
use rustix::io::Errno;
use std::{fmt::Debug, io, path::PathBuf};

/// A flat folder of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Folder {
    /// Generations of the repository's own parameters.
    Config,
    /// Key slots.
    Keys,
    /// Generations of snapshots.
    Snapshots,
    /// Packs of blobs.
    Packs,
    /// Second copies of the objects of the first three folders.
    Mirror,
}

impl Folder {
    /// Every folder, in the order in which a repository is made.
    pub const ALL: [Self; 5] = [Self::Packs, Self::Mirror, Self::Snapshots, Self::Keys, Self::Config];

    /// The folder's name on the medium.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Keys => "keys",
            Self::Snapshots => "snapshots",
            Self::Packs => "packs",
            Self::Mirror => "mirror",
        }
    }

    /// How an object of this folder is named to people.
    pub fn object(self, name: &ObjectName) -> String {
        format!("{}/{name}", self.as_str())
    }
}

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Its name.
    pub name: ObjectName,
    /// Its length in bytes.
    pub length_bytes: u64,
}

/// How much room a medium has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What can still be written, in bytes.
    pub free_bytes: u64,
    /// What it holds altogether, in bytes.
    pub total_bytes: u64,
}

/// How much of a medium is left free by those who add to it.
///
/// Deleting must always work, and so must the catalogue and a small repack: a file system with a journal or copies on
/// write needs room even to delete, and SQLite keeps what it changes twice for a moment. That takes some megabytes,
/// however large the medium is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reserve {
    /// 32 MiB, or the hundredth part of a medium so small that this is less.
    #[default]
    Usual,
    /// So many bytes; with 0, the medium is not even asked.
    Bytes(u64),
}

impl Reserve {
    /// The usual reserve of a medium that is not small, in bytes.
    pub const USUAL_BYTES: u64 = 32 << 20;

    /// How much is left free of a medium of this length, in bytes.
    pub fn of(self, total_bytes: u64) -> u64 {
        match self {
            Self::Usual => Self::USUAL_BYTES.min(total_bytes / 100),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// How a lock is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockMode {
    /// Together with other readers and writers.
    Shared,
    /// Alone with the repository.
    Exclusive,
}

/// A lock that is held until this is dropped or the process dies.
pub trait Guard: Send + Sync + Debug {}

/// What came of asking for a lock.
#[derive(Debug)]
pub enum Locking {
    /// The lock is held.
    Held(Box<dyn Guard>),
    /// Another process holds it.
    Busy,
    /// This medium has no locks, or cannot be written and has no lock file.
    Impossible(io::Error),
}

/// An object that is being written. Dropped before `finish`, it leaves nothing behind.
pub trait Upload: Send {
    /// Appends bytes. Nothing is durable yet.
    ///
    /// # Errors
    /// The medium's own error; the upload is then useless.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Publishes the object under its name. On return its bytes and its name are durable, as far as the medium can
    /// promise.
    ///
    /// # Errors
    /// `AlreadyExists` when the name is taken. After any other error the object may or may not be there, whole.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A medium that keeps named objects.
pub trait Storage: Send + Sync + Debug {
    /// Where this is, for people.
    fn location(&self) -> String;

    /// Makes the folders, durably. Existing ones are no error.
    ///
    /// # Errors
    /// The medium's own error.
    fn prepare(&self) -> io::Result<()>;

    /// Whether a folder is there, empty or not.
    fn has_folder(&self, _: Folder) -> bool {
        true
    }

    /// Begins an object.
    ///
    /// # Errors
    /// The medium's own error.
    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>>;

    /// Reads exactly `length_bytes` from `offset_bytes` on.
    ///
    /// # Errors
    /// `NotFound` without the object, `UnexpectedEof` where it is shorter, else the medium's own error.
    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>>;

    /// Every object of a folder in the order of names. Foreign names are left out; a folder that is missing is empty.
    ///
    /// # Errors
    /// The medium's own error.
    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>>;

    /// Removes an object. On return its absence is durable.
    ///
    /// # Errors
    /// `NotFound` without the object, else the medium's own error.
    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()>;

    /// Makes every name of a folder durable, whoever put it there.
    ///
    /// # Errors
    /// The medium's own error.
    fn sync(&self, folder: Folder) -> io::Result<()>;

    /// Removes what killed writers left unfinished, and returns how many there were. What a living writer holds stays.
    ///
    /// # Errors
    /// The medium's own error.
    fn sweep(&self) -> io::Result<u64>;

    /// Asks for the repository's one lock, without waiting.
    ///
    /// # Errors
    /// Only what is neither "busy" nor "impossible".
    fn lock(&self, mode: LockMode) -> io::Result<Locking>;

    /// Drops an object from the system's cache, so that the next read brings what is on the medium. What was written
    /// is on the medium, as far as it can promise, when this returns. Where there is no cache, nothing is to be done.
    ///
    /// # Errors
    /// `NotFound` without the object, else the medium's own error.
    fn uncache(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        let _ = (folder, name);
        Ok(())
    }

    /// How much room the medium has, if it knows.
    ///
    /// # Errors
    /// The medium's own error.
    fn room(&self) -> io::Result<Option<Room>> {
        Ok(None)
    }

    /// What a medium of this kind cannot promise, in words for people who are about to rely on it.
    fn kind_cannot_promise(&self) -> Vec<String> {
        Vec::new()
    }

    /// What this medium cannot promise, found out so far, in words for people.
    fn cannot_promise(&self) -> Vec<String> {
        Vec::new()
    }

    /// Whether anything but objects and their folders is here; a repository is not made on top of it.
    ///
    /// # Errors
    /// The medium's own error.
    fn holds_foreign(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// A place for the catalogue that lies with the objects, where there is one.
    fn catalog_file(&self) -> Option<PathBuf> {
        None
    }
}

/// Whether a read failed because the medium could not bring the bytes: a bad sector, what the file system knows of a
/// file being damaged, or a medium that is gone.
pub fn is_unreadable(e: &io::Error) -> bool {
    const UNREADABLE: [Errno; 5] = [Errno::IO, Errno::NODATA, Errno::REMOTEIO, Errno::BADMSG, Errno::UCLEAN];
    Errno::from_io_error(e).is_some_and(|errno| UNREADABLE.contains(&errno))
}

/// Whether a failed call met bytes that cannot be read, on a medium that is still there: it can list its packs.
pub fn met_unreadable(storage: &dyn Storage, e: &Error) -> bool {
    matches!(e, Error::MediumGone { source, .. } if is_unreadable(source)) && storage.list(Folder::Packs).is_ok()
}

/// Bytes that cannot be read, on a medium that is still there, are damage; every other failure stays what it is.
pub fn unreadable_as_damage(storage: &dyn Storage, e: Error) -> Error {
    if !met_unreadable(storage, &e) {
        return e;
    }
    match e {
        Error::MediumGone { object, source, .. } => {
            Error::damaged(object, format!("the medium cannot read it ({source})"))
        }
        e => e,
    }
}

/// Reads as [`Storage::read`] does, and once more where the bytes could not be read: a loose plug is no bad sector.
///
/// # Errors
/// As [`Storage::read`].
pub fn read_again(
    storage: &dyn Storage,
    folder: Folder,
    name: &ObjectName,
    offset_bytes: u64,
    length_bytes: usize,
) -> io::Result<Vec<u8>> {
    match storage.read(folder, name, offset_bytes, length_bytes) {
        Err(e) if is_unreadable(&e) => storage.read(folder, name, offset_bytes, length_bytes),
        read => read,
    }
}
