//! A private folder on this machine for what a capture makes on its way: copies of tables, dumps, fetched packages.
//!
//! Only its owner may enter it. It goes when the capture ends; where that was killed, the next one sweeps: whoever lives
//! holds a lock on the folder, and what nobody holds is removed.

use crate::error::{Error, Result};
use data_encoding::HEXLOWER;
use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use std::{
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

/// How the names of staging folders begin.
const START: &str = "xsnap-staging-";
/// How often a place is tried.
const TRIES: u32 = 16;

/// A staging folder, removed when this is dropped.
#[derive(Debug)]
pub struct Staging {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Staging {
    /// Makes one below `parent`, and removes those there that nobody uses any more.
    ///
    /// # Errors
    /// `File` where it cannot be made.
    pub fn make(parent: &Path) -> Result<Self> {
        sweep(parent);
        for _ in 0..TRIES {
            let mut random = [0; 8];
            getrandom::fill(&mut random)
                .map_err(|e| Error::file("read", "the system's random source", std::io::Error::other(e)))?;
            let path = parent.join(format!("{START}{}", HEXLOWER.encode(&random)));
            std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|e| Error::file("make", &path, e))?;
            // Whoever sweeps just now may have been faster; then this folder is gone.
            match lock(&path) {
                Ok(lock) if path.exists() => return Ok(Self { path, _lock: lock }),
                Ok(_) | Err(Errno::NOENT | Errno::WOULDBLOCK) => {}
                Err(e) => return Err(Error::file("lock", path, e)),
            }
        }
        Err(Error::file("make a staging folder in", parent, Errno::AGAIN))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // What stays is swept by the next capture.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn lock(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
    Ok(folder)
}

/// Removes the staging folders of this user below `parent` that nobody holds: those of captures and imports that were killed.
pub fn sweep(parent: &Path) {
    let own = rustix::process::geteuid().as_raw();
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_own = entry.metadata().is_ok_and(|m| m.is_dir() && m.uid() == own);
        if is_own && entry.file_name().to_string_lossy().starts_with(START) {
            // Held until it is removed, so that nobody begins to use it.
            if let Ok(_lock) = lock(&entry.path()) {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_staging_folder_is_private_and_goes_and_what_a_killed_one_left_is_swept() {
        let place = tempfile::tempdir().unwrap();
        let left = place.path().join(format!("{START}left"));
        std::fs::create_dir_all(left.join("tables")).unwrap();
        std::fs::write(left.join("tables/passwd.csv"), b"secret").unwrap();
        let other = place.path().join("xsnap-other");
        std::fs::create_dir(&other).unwrap();
        let one = Staging::make(place.path()).unwrap();
        let two = Staging::make(place.path()).unwrap();
        assert!(!left.exists() && other.exists());
        assert!(one.path().exists() && two.path().exists(), "one that is in use is not swept");
        assert_eq!(one.path().metadata().unwrap().permissions().mode() & 0o7777, 0o700);
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists() && two.path().exists());
    }
}
