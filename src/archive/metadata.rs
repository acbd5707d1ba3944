//! Owner, mode, times and extended attributes of a live entry: reading them and putting them back.
//!
//! Everything goes by descriptor and name, never by a long path and never through a link. ACLs and capabilities are
//! extended attributes to Linux and are treated as such. Knows nothing of content.

use crate::{
    archive::accounts::Directory,
    repo::tree::{Metadata, Owner, Time, Xattrs},
};
use rustix::{
    fs::{AtFlags, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags},
    io::Errno,
};
use std::{
    collections::HashMap,
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::ffi::OsStringExt,
    },
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The lower twelve bits of a mode: permissions, setuid, setgid, sticky.
pub const PERMISSION_BITS: u32 = 0o7777;

/// Setuid and setgid.
const SET_ID_BITS: u32 = 0o6000;

/// When a live entry's content was last changed.
pub fn mtime(stat: &Stat) -> Time {
    time(stat.st_mtime, stat.st_mtime_nsec)
}

/// When a live inode was last changed.
pub fn ctime(stat: &Stat) -> Time {
    time(stat.st_ctime, stat.st_ctime_nsec)
}

fn time(seconds: impl TryInto<i64>, nanoseconds: impl TryInto<u32>) -> Time {
    let seconds = seconds.try_into().unwrap_or_default();
    Time { seconds, nanoseconds: nanoseconds.try_into().unwrap_or_default() }
}

/// Names of users and groups, asked for once each.
#[derive(Debug, Default)]
pub struct Owners {
    directory: Directory,
    known: Mutex<HashMap<(u32, u32), Arc<Owner>>>,
    uids: Mutex<HashMap<Vec<u8>, Option<u32>>>,
    gids: Mutex<HashMap<Vec<u8>, Option<u32>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Owners {
    /// Names and numbers as this directory has them.
    pub fn new(directory: Directory) -> Self {
        Self { directory, ..Self::default() }
    }

    /// The owner of these numbers, with the names that the directory knows them by; empty where it knows none.
    pub fn named(&self, uid: u32, gid: u32) -> Arc<Owner> {
        let find = || {
            let (user, group) = (self.directory.user_name(uid), self.directory.group_name(gid));
            Arc::new(Owner { uid, gid, user: user.unwrap_or_default(), group: group.unwrap_or_default() })
        };
        Arc::clone(lock(&self.known).entry((uid, gid)).or_insert_with(find))
    }

    /// The numbers that an owner has in the directory: those of its names, where they are known there and
    /// `by_name` asks for it, else its own.
    pub fn numbers(&self, owner: &Owner, by_name: bool) -> (u32, u32) {
        if !by_name {
            return (owner.uid, owner.gid);
        }
        let uid = cached(&self.uids, &owner.user, |name| self.directory.uid(name));
        let gid = cached(&self.gids, &owner.group, |name| self.directory.gid(name));
        (uid.unwrap_or(owner.uid), gid.unwrap_or(owner.gid))
    }
}

fn cached(
    cache: &Mutex<HashMap<Vec<u8>, Option<u32>>>,
    name: &[u8],
    find: impl Fn(&[u8]) -> Option<u32>,
) -> Option<u32> {
    if name.is_empty() {
        return None;
    }
    if let Some(found) = lock(cache).get(name) {
        return *found;
    }
    let found = find(name);
    lock(cache).insert(name.to_vec(), found);
    found
}

/// What is opened to get at an entry's attributes.
#[derive(Debug, Clone, Copy)]
pub enum Handle<'a> {
    /// The entry itself, open for reading or writing.
    Open(BorrowedFd<'a>),
    /// A name in an open folder: a link, a device, a pipe or a socket.
    At(BorrowedFd<'a>, &'a [u8]),
}

/// A short path that names an entry of an open folder, for the calls that take neither a descriptor nor a folder.
fn proc_path(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<CString> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    Ok(CString::new(path)?)
}

impl Handle<'_> {
    fn list(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(match self {
            Self::Open(fd) => rustix::fs::flistxattr(fd, buffer)?,
            Self::At(folder, name) => rustix::fs::llistxattr(proc_path(*folder, name)?, buffer)?,
        })
    }

    fn get(&self, attribute: &[u8], buffer: &mut [u8]) -> io::Result<usize> {
        Ok(match self {
            Self::Open(fd) => rustix::fs::fgetxattr(fd, attribute, buffer)?,
            Self::At(folder, name) => rustix::fs::lgetxattr(proc_path(*folder, name)?, attribute, buffer)?,
        })
    }

    fn set(&self, attribute: &[u8], value: &[u8]) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fsetxattr(fd, attribute, value, XattrFlags::empty())?,
            Self::At(folder, name) => {
                rustix::fs::lsetxattr(proc_path(*folder, name)?, attribute, value, XattrFlags::empty())?;
            }
        }
        Ok(())
    }

    fn remove(&self, attribute: &[u8]) -> io::Result<()> {
        match self {
            Self::Open(fd) => rustix::fs::fremovexattr(fd, attribute)?,
            Self::At(folder, name) => rustix::fs::lremovexattr(proc_path(*folder, name)?, attribute)?,
        }
        Ok(())
    }
}

/// Calls until the buffer is large enough; most answers fit into the first, which is on the stack.
fn with_room(mut call: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<Vec<u8>> {
    let mut small = [0; 512];
    match call(&mut small) {
        Ok(length) => return Ok(small.get(..length).unwrap_or_default().to_vec()),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::RANGE) => {}
        Err(e) => return Err(e),
    }
    // Linux keeps no attribute and no list of names longer than 64 KiB.
    let mut large = vec![0; 1 << 16];
    let length = call(&mut large)?;
    large.truncate(length);
    Ok(large)
}

/// Reads all extended attributes, in the order of names. A file system without any has none.
///
/// # Errors
/// The file system's own.
pub fn read_xattrs(handle: Handle<'_>) -> io::Result<Arc<Xattrs>> {
    let names = match with_room(|buffer| handle.list(buffer)) {
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOTSUP | Errno::NOSYS)) => return Ok(Arc::default()),
        names => names?,
    };
    if names.is_empty() {
        return Ok(Arc::default());
    }
    let mut xattrs = Xattrs::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        match with_room(|buffer| handle.get(name, buffer)) {
            Ok(value) => xattrs.push((name.to_vec(), value)),
            // Removed since it was listed.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::NODATA) => {}
            Err(e) => return Err(e),
        }
    }
    xattrs.sort();
    Ok(Arc::new(xattrs))
}

/// What of a live entry goes into a tree, its attributes already read.
pub fn metadata(stat: &Stat, owners: &Owners, xattrs: Arc<Xattrs>) -> Metadata {
    let owner = owners.named(stat.st_uid, stat.st_gid);
    Metadata { mode: stat.st_mode & PERMISSION_BITS, owner, mtime: mtime(stat), xattrs }
}

/// What could not be put back: what was tried, and why it failed.
pub type Shortfalls = Vec<(String, io::Error)>;

/// How metadata is put back.
#[derive(Debug, Clone, Copy)]
pub struct ApplyOptions<'a> {
    /// What is there now, if it was there before: then only what differs is set, so that no program is without its
    /// setuid bit or its capability for a moment.
    pub there: Option<&'a Stat>,
    /// Owners by name where this machine knows the names.
    pub by_name: bool,
    /// Whether the entry is a symbolic link, which has no mode of its own.
    pub is_symlink: bool,
    /// Whether it is known to have no attributes yet, so that nobody need look.
    pub bare: bool,
}

/// Puts owner, mode, attributes and time back, in the order in which none undoes another: a new owner clears setuid
/// and capabilities, a mode changes the mask of an ACL, and everything changes the time.
pub fn apply(handle: Handle<'_>, wanted: &Metadata, owners: &Owners, options: ApplyOptions<'_>) -> Shortfalls {
    let mut shortfalls = Shortfalls::new();
    let mut note = |verb: &str, done: io::Result<()>| {
        if let Err(e) = done {
            shortfalls.push((verb.to_owned(), e));
        }
    };
    let (uid, gid) = owners.numbers(&wanted.owner, options.by_name);
    let same_owner = options.there.is_some_and(|stat| (stat.st_uid, stat.st_gid) == (uid, gid));
    let owned = if same_owner { Ok(()) } else { set_owner(handle, uid, gid) };
    // Whoever cannot give a file away must not make it run as himself either.
    let withheld = if owned.is_err() { wanted.mode & SET_ID_BITS } else { 0 };
    note("set the owner", owned);
    let same_mode = options.there.is_some_and(|stat| same_owner && stat.st_mode & PERMISSION_BITS == wanted.mode);
    if !options.is_symlink && !same_mode {
        note("set the mode", set_mode(handle, wanted.mode & !withheld));
        if withheld != 0 {
            note("set setuid or setgid", Err(io::Error::other("the file could not be given to its owner")));
        }
    }
    shortfalls.extend(set_xattrs(handle, &wanted.xattrs, options.bare));
    if options.there.is_none_or(|stat| mtime(stat) != wanted.mtime)
        && let Err(e) = set_mtime(handle, wanted.mtime)
    {
        shortfalls.push(("set the time".to_owned(), e));
    }
    shortfalls
}

fn set_owner(handle: Handle<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // To the system call this number means "leave it as it is".
    if uid == u32::MAX || gid == u32::MAX {
        return Err(io::Error::other("no user or group can have this number"));
    }
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match handle {
        Handle::Open(fd) => rustix::fs::fchown(fd, uid, gid)?,
        Handle::At(folder, name) => rustix::fs::chownat(folder, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?,
    }
    Ok(())
}

/// The mode of a device, pipe or socket, which xsnap itself has just made under this name: there is no link to follow.
fn set_mode(handle: Handle<'_>, mode: u32) -> io::Result<()> {
    let mode = Mode::from_raw_mode(mode & PERMISSION_BITS);
    match handle {
        Handle::Open(fd) => rustix::fs::fchmod(fd, mode)?,
        Handle::At(folder, name) => rustix::fs::chmodat(folder, name, mode, AtFlags::empty())?,
    }
    Ok(())
}

/// Sets the time of last change alone.
///
/// # Errors
/// The file system's own, one that cannot hold such a time included.
pub fn set_mtime(handle: Handle<'_>, mtime: Time) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: mtime.seconds, tv_nsec: mtime.nanoseconds.into() },
    };
    match handle {
        Handle::Open(fd) => rustix::fs::futimens(fd, &times)?,
        Handle::At(folder, name) => rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?,
    }
    Ok(())
}

/// Makes the attributes exactly those wanted. The label that SELinux gives where none is wanted stays.
fn set_xattrs(handle: Handle<'_>, wanted: &Xattrs, bare: bool) -> Shortfalls {
    let mut shortfalls = Shortfalls::new();
    let name_of = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let present = if bare { Ok(Arc::default()) } else { read_xattrs(handle) };
    let present = match present {
        Ok(present) => present,
        Err(e) => return vec![("read the attributes".to_owned(), e)],
    };
    for (name, _) in present.iter().filter(|(name, _)| wanted.iter().all(|(n, _)| n != name)) {
        match handle.remove(name) {
            Err(_) if name == b"security.selinux" => {}
            Err(e) => shortfalls.push((format!("remove the attribute {}", name_of(name)), e)),
            Ok(()) => {}
        }
    }
    for attribute in wanted.iter().filter(|attribute| !present.contains(attribute)) {
        if let Err(e) = handle.set(&attribute.0, &attribute.1) {
            shortfalls.push((format!("set the attribute {}", name_of(&attribute.0)), e));
        }
    }
    shortfalls
}

/// The target of a link in an open folder, as bytes.
///
/// # Errors
/// The file system's own.
pub fn read_link(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(folder.as_fd(), name, Vec::new())?.into_bytes())
}

/// The path of some bytes.
pub fn bytes_path(bytes: &[u8]) -> std::path::PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}
