//! Links, devices, pipes and sockets: everything that is all in its inode, made and put in place in one go.

use crate::{
    archive::{
        finish::make_way,
        live,
        metadata::{self, ApplyOptions, Handle, Owners, Shortfalls},
        request::RestoreRequest,
    },
    repo::tree::{Entry, Node},
};
use rustix::fs::{AtFlags, Dev, FileType, Mode, Stat};
use std::{io, os::fd::BorrowedFd};

/// The highest numbers that a device can have: 12 bits and 20 bits.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

/// Something without content that is made in one call.
#[derive(Debug, Clone, Copy)]
pub enum Special<'a> {
    /// A symbolic link to a target.
    Symlink(&'a [u8]),
    /// A device, pipe or socket.
    Node(FileType, Dev),
}

impl<'a> Special<'a> {
    /// What a stored node is, if it is something without content.
    pub fn of(node: &'a Node) -> Option<Self> {
        let device = |(major, minor): (u32, u32)| rustix::fs::makedev(major, minor);
        match node {
            Node::File { .. } | Node::Folder { .. } => None,
            Node::Symlink { target } => Some(Self::Symlink(target)),
            Node::CharDevice { device: numbers } => Some(Self::Node(FileType::CharacterDevice, device(*numbers))),
            Node::BlockDevice { device: numbers } => Some(Self::Node(FileType::BlockDevice, device(*numbers))),
            Node::Fifo => Some(Self::Node(FileType::Fifo, 0)),
            Node::Socket => Some(Self::Node(FileType::Socket, 0)),
        }
    }

    /// Makes it under a name that must not exist.
    ///
    /// # Errors
    /// The file system's own.
    pub fn make(self, folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        match self {
            // The system call would cut such numbers down and make another device.
            Self::Node(_, device) if rustix::fs::major(device) > MAX_MAJOR || rustix::fs::minor(device) > MAX_MINOR => {
                return Err(io::Error::other("Linux has no device of these numbers"));
            }
            Self::Symlink(target) => rustix::fs::symlinkat(target, folder, name)?,
            Self::Node(kind, device) => rustix::fs::mknodat(folder, name, kind, Mode::RUSR | Mode::WUSR, device)?,
        }
        Ok(())
    }

    /// Whether this is what stands under a name already.
    pub fn is_at(self, folder: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> bool {
        match self {
            Self::Symlink(target) => {
                live::kind_of(stat) == FileType::Symlink && metadata::read_link(folder, name).is_ok_and(|t| t == target)
            }
            Self::Node(kind, device) => {
                let has_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
                live::kind_of(stat) == kind && (!has_device || stat.st_rdev == device)
            }
        }
    }
}

/// Puts an entry without content in its place, over whatever is there, and gives it its metadata. What is there already
/// as it should be is kept. Returns what of the metadata could not be put on it.
///
/// # Errors
/// The file system's own; nothing has changed then, or what was there is gone as was asked for.
pub fn put(
    folder: BorrowedFd<'_>,
    entry: &Entry,
    there: Option<Stat>,
    request: &RestoreRequest,
    owners: &Owners,
) -> io::Result<Shortfalls> {
    let (name, Some(special)) = (entry.name.as_slice(), Special::of(&entry.node)) else { return Ok(Shortfalls::new()) };
    let shared = there.as_ref().is_some_and(|stat| stat.st_nlink > 1) != entry.link.is_some();
    let mut kept = None;
    match there {
        None => special.make(folder, name)?,
        Some(stat) if special.is_at(folder, name, &stat) && !shared => kept = Some(stat),
        Some(stat) if live::kind_of(&stat) == FileType::Directory => {
            make_way(folder, name, request)?;
            special.make(folder, name)?;
        }
        Some(_) => {
            let beside = live::unfinished_name(name);
            let _ = rustix::fs::unlinkat(folder, beside.as_slice(), AtFlags::empty());
            special.make(folder, &beside)?;
            live::rename_over(folder, &beside, name)?;
        }
    }
    let is_symlink = matches!(special, Special::Symlink(_));
    let options = ApplyOptions { there: kept.as_ref(), by_name: request.by_name, is_symlink, bare: false };
    Ok(metadata::apply(Handle::At(folder, name), &entry.metadata, owners, options))
}
