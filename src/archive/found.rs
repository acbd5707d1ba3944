//! A name that the walk has found, and where it is; what marks a folder as a cache.

use crate::archive::{
    content::open_file,
    filter::{CACHE_TAG_NAME, CACHE_TAG_START},
};
use rustix::{
    fs::{AtFlags, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    io,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    sync::Arc,
};

/// A name of a live folder and its inode, and where it is if not in that folder.
#[derive(Debug)]
pub struct Found {
    /// The name in the snapshot.
    pub name: Vec<u8>,
    /// The inode.
    pub stat: Stat,
    /// The folder that it is in, and its name there, if it is elsewhere.
    pub elsewhere: Option<(Arc<OwnedFd>, Vec<u8>)>,
}

impl Found {
    /// A name of an open folder.
    ///
    /// # Errors
    /// The name, and what the kernel says.
    pub fn here(folder: &OwnedFd, name: Vec<u8>) -> Result<Self, (Vec<u8>, io::Error)> {
        match rustix::fs::statat(folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Self { name, stat, elsewhere: None }),
            Err(e) => Err((name, e.into())),
        }
    }

    /// What is at a path that stands for a name. Links on the way are followed.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn elsewhere(name: &[u8], from: &Path) -> io::Result<Self> {
        let (folder, last) = (from.parent().ok_or(Errno::INVAL)?, from.file_name().ok_or(Errno::INVAL)?);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(folder, flags, Mode::empty())?;
        let stat = rustix::fs::statat(&folder, last, AtFlags::SYMLINK_NOFOLLOW)?;
        Ok(Self { name: name.to_vec(), stat, elsewhere: Some((Arc::new(folder), last.as_bytes().to_vec())) })
    }

    /// The folder that it is in, and its name there.
    pub fn place<'f>(&'f self, folder: &'f Arc<OwnedFd>) -> (&'f Arc<OwnedFd>, &'f [u8]) {
        self.elsewhere.as_ref().map_or((folder, &self.name), |(folder, name)| (folder, name))
    }
}

/// Whether an open folder holds a tag that marks it as a cache.
pub fn is_cache_tag(folder: BorrowedFd<'_>) -> bool {
    let mut start = vec![0; CACHE_TAG_START.len()];
    let read =
        open_file(folder, CACHE_TAG_NAME.as_bytes()).and_then(|file| Ok(rustix::io::pread(file, &mut start, 0)?));
    read.is_ok_and(|length| start.get(..length) == Some(CACHE_TAG_START))
}
