//! `Lying`: a medium that says it has written and has not. What it took is read back right as long as the system's
//! cache serves it, and wrong once it does not.

use super::storage::take;
use rustix::io::Errno;
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};
use xsnap::{
    id::ObjectName,
    storage::{
        local::LocalStorage,
        object::{Folder, Listed, LockMode, Locking, Storage, Upload},
    },
};

/// What has become of an object on the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// One bit in the middle is another.
    Flip,
    /// One bit in the last byte is another.
    FlipLast,
    /// Its second half is zeros.
    Zeros,
    /// Its second half is not there.
    Cut,
    /// It is not there.
    Lost,
    /// None of its bytes can be read.
    Unreadable,
}

impl Lie {
    pub const ALL: [Self; 6] = [Self::Flip, Self::FlipLast, Self::Zeros, Self::Cut, Self::Lost, Self::Unreadable];
}

/// A storage below a folder that tells one lie.
#[derive(Debug, Clone)]
pub struct Lying {
    inner: Arc<LocalStorage>,
    root: PathBuf,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    /// Which of the objects that are dropped from the cache is hit, from 0, and how.
    lie: Option<(usize, Lie)>,
    uncached: Vec<(Folder, ObjectName)>,
    unreadable: Vec<(Folder, ObjectName)>,
}

impl Lying {
    /// A storage below `root` that lies about the n-th object that is dropped from the cache, from 0.
    pub fn about(root: &Path, n: usize, lie: Lie) -> Self {
        let script = Script { lie: Some((n, lie)), ..Script::default() };
        Self { inner: Arc::new(LocalStorage::new(root)), root: root.into(), script: Arc::new(Mutex::new(script)) }
    }

    /// Every object that was dropped from the cache.
    pub fn uncached(&self) -> Vec<(Folder, ObjectName)> {
        take(&self.script).uncached.clone()
    }

    fn come_true(&self, folder: Folder, name: &ObjectName, lie: Lie) {
        let path = self.root.join(folder.as_str()).join(name.as_str());
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        match lie {
            Lie::Flip => bytes[middle] ^= 4,
            Lie::FlipLast => *bytes.last_mut().unwrap() ^= 1,
            Lie::Zeros => bytes[middle..].fill(0),
            Lie::Cut => bytes.truncate(middle),
            Lie::Lost => return fs::remove_file(path).unwrap(),
            Lie::Unreadable => take(&self.script).unreadable.push((folder, name.clone())),
        }
        fs::write(path, bytes).unwrap();
    }
}

impl Storage for Lying {
    fn location(&self) -> String {
        "a medium that lies".to_owned()
    }

    fn prepare(&self) -> io::Result<()> {
        self.inner.prepare()
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        self.inner.create(folder, name)
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        if take(&self.script).unreadable.iter().any(|(f, n)| *f == folder && n == name) {
            return Err(Errno::IO.into());
        }
        self.inner.read(folder, name, offset_bytes, length_bytes)
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        self.inner.delete(folder, name)
    }

    fn sync(&self, folder: Folder) -> io::Result<()> {
        self.inner.sync(folder)
    }

    fn sweep(&self) -> io::Result<u64> {
        self.inner.sweep()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Locking> {
        self.inner.lock(mode)
    }

    fn uncache(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        let hit = {
            let mut script = take(&self.script);
            let n = script.uncached.len();
            script.uncached.push((folder, name.clone()));
            script.lie.filter(|(at, _)| *at == n)
        };
        if let Some((_, lie)) = hit {
            self.come_true(folder, name, lie);
        }
        self.inner.uncache(folder, name)
    }

    fn catalog_file(&self) -> Option<PathBuf> {
        self.inner.catalog_file()
    }
}
