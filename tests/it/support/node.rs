//! Files by descriptor and name: what paths longer than `PATH_MAX`, links and special files need.
//!
//! Every function takes an open folder and one name in it; the name `.` is the folder itself. Links are not followed.

use rustix::fs::{AtFlags, CWD, Dir, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// Opens a folder by path.
pub fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    subfolder(CWD, path.as_os_str().as_bytes())
}

/// Opens a folder in a folder.
pub fn subfolder(folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// Makes a folder in a folder and opens it.
pub fn make_subfolder(folder: impl AsFd, name: &[u8]) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(&folder, name, Mode::from_raw_mode(0o755))?;
    subfolder(folder, name)
}

/// Writes a new file.
pub fn write_file(folder: impl AsFd, name: &[u8], bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o644))?;
    io::Write::write_all(&mut std::fs::File::from(file), bytes)
}

/// The names in a folder in the order of their bytes, without `.` and `..`.
pub fn names(folder: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Sets the time of last modification and leaves the other one.
pub fn set_time(folder: impl AsFd, name: &[u8], (seconds, nanoseconds): (i64, u32)) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() },
    };
    Ok(rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets the mode; not for links, which have none.
pub fn set_mode(folder: impl AsFd, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(folder, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Sets the owner and the group.
pub fn set_owner(folder: impl AsFd, name: &[u8], uid: u32, gid: u32) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Sets an extended attribute.
pub fn set_xattr(folder: impl AsFd, name: &[u8], key: &str, value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::lsetxattr(through_proc(folder, name), key, value, XattrFlags::empty())?)
}

/// Every extended attribute. A file system that has none is one with no attributes.
pub fn xattrs(folder: impl AsFd, name: &[u8]) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    const MAX_BYTES: usize = 64 << 10;
    let path = through_proc(folder, name);
    let mut list = vec![0; MAX_BYTES];
    let length = match rustix::fs::llistxattr(&path, &mut list[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(BTreeMap::new()),
        length => length?,
    };
    let mut found = BTreeMap::new();
    for key in list[..length].split(|b| *b == 0).filter(|key| !key.is_empty()) {
        let mut value = vec![0; MAX_BYTES];
        let length = rustix::fs::lgetxattr(&path, key, &mut value[..])?;
        value.truncate(length);
        found.insert(key.to_vec(), value);
    }
    Ok(found)
}

/// A short path to a name in an open folder: the calls for attributes of links and special files know paths only.
fn through_proc(folder: impl AsFd, name: &[u8]) -> PathBuf {
    let folder = folder.as_fd().as_raw_fd().to_string();
    ["/proc/self/fd", &folder].iter().collect::<PathBuf>().join(OsStr::from_bytes(name))
}

/// Whether this process may do what only root can: give files away, make devices, set `trusted.*`.
///
/// A test that needs it says so and passes without it, but not where everything is to be tested.
pub fn privileged() -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var_os("CI").is_none(), "this test needs root, and CI must leave none out");
    if !root {
        eprintln!("not tested: this needs root");
    }
    root
}
