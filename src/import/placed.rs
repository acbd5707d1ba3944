//! Files of a machine put in place so that each is the old one or the new one, whenever the power fails.

use crate::{
    error::{Error, Result},
    mn::inside::Inside,
};
use rustix::fs::{AtFlags, CWD, Gid, Mode, Stat, Uid};
use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

/// How the names of files begin that are not in place yet.
pub const UNFINISHED: &str = ".xsnap-new-";

/// A file that is written and not in place yet. Dropped before it is, it is removed.
#[derive(Debug)]
pub struct Beside {
    path: PathBuf,
    to: PathBuf,
    is_placed: bool,
}

/// Where a path of the machine leads on this one, its last name too.
pub fn live(inside: &Inside, path: &[u8]) -> PathBuf {
    inside.live_path(&inside.follow(path).path)
}

impl Beside {
    /// Writes a file beside the place where it goes, durably: with the mode, and with the owner of what is there now.
    ///
    /// # Errors
    /// `File` where it cannot be written.
    pub fn write(to: &Path, from: &mut dyn Read, mode: u32) -> Result<Self> {
        let name = to.file_name().ok_or_else(|| Error::file("put a file at", to, io::ErrorKind::InvalidInput))?;
        let mut beside = std::ffi::OsString::from(UNFINISHED);
        beside.push(name);
        let path = to.with_file_name(beside);
        let failed = |e: io::Error| Error::file("write", &path, e);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Error::file("remove", &path, e)),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        let written = Self { path: path.clone(), to: to.to_owned(), is_placed: false };
        io::copy(from, &mut file).map_err(failed)?;
        if let Ok(stat) = rustix::fs::stat(to) {
            own_as(&path, &stat).map_err(|e| Error::file("give its owner to", &path, e))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(mode)).map_err(|e| Error::file("set the mode of", &path, e))?;
        file.sync_all().map_err(failed)?;
        Ok(written)
    }

    /// Where it is as long as it is not in place.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it goes.
    pub fn to(&self) -> &Path {
        &self.to
    }

    /// Puts it in place, over what is there. Durable once the folder is: see `make_durable`.
    ///
    /// # Errors
    /// `File` where it cannot be moved.
    pub fn place(mut self) -> Result<()> {
        std::fs::rename(&self.path, &self.to).map_err(|e| Error::file("put in place", &self.to, e))?;
        self.is_placed = true;
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.is_placed {
            // One that stays is written over by the next try.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn own_as(path: &Path, stat: &Stat) -> io::Result<()> {
    let own = rustix::fs::stat(path)?;
    if (own.st_uid, own.st_gid) == (stat.st_uid, stat.st_gid) {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    Ok(rustix::fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes what was renamed and removed in a folder durable.
///
/// # Errors
/// `File` where the file system refuses.
pub fn make_durable(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| Error::file("make durable", folder, e))
}

/// Puts bytes at a place, durably, with a mode, and with the owner of what is there now.
///
/// # Errors
/// `File` where that fails; then what was there is there.
pub fn put(to: &Path, mut bytes: &[u8], mode: u32) -> Result<()> {
    Beside::write(to, &mut bytes, mode)?.place()?;
    to.parent().map_or(Ok(()), make_durable)
}

/// Removes a file, durably, if it is there.
///
/// # Errors
/// `File` where it cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), make_durable),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::file("remove", path, e)),
    }
}

/// Makes a folder and those above it, where they are missing.
///
/// # Errors
/// `File` where they cannot be made.
pub fn make_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.map_err(|e| Error::file("make", path, e))?;
    path.parent().map_or(Ok(()), make_durable)
}

/// Removes what an earlier try has left in a folder.
///
/// # Errors
/// `File` where the folder cannot be read, or something in it not be removed.
pub fn sweep(folder: &Path) -> Result<()> {
    let failed = |e| Error::file("list", folder, e);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_bytes().starts_with(UNFINISHED.as_bytes()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|e| Error::file("remove", path, e))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_in_place_as_a_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("cfgloc");
        put(&at, b"old", 0o644).unwrap();
        drop(Beside::write(&at, &mut &b"never"[..], 0o600).unwrap());
        assert_eq!(std::fs::read(&at).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        put(&at, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&at).unwrap(), b"new");
        assert_eq!(at.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        std::fs::write(dir.path().join(".xsnap-new-left"), b"left by a try that was killed").unwrap();
        sweep(dir.path()).unwrap();
        remove(&at).unwrap();
        remove(&at).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
