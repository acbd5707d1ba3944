//! `Unlocked`: a storage without locks, as some network shares and read-only media are.

use rustix::io::Errno;
use std::{io, sync::Arc};
use xsnap::{
    id::ObjectName,
    storage::object::{Folder, Listed, LockMode, Locking, Storage, Upload},
};

/// Another storage, whose lock cannot be taken.
#[derive(Debug, Clone)]
pub struct Unlocked(pub Arc<dyn Storage>);

impl Storage for Unlocked {
    fn location(&self) -> String {
        self.0.location()
    }

    fn prepare(&self) -> io::Result<()> {
        self.0.prepare()
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        self.0.create(folder, name)
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        self.0.read(folder, name, offset_bytes, length_bytes)
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        self.0.list(folder)
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        self.0.delete(folder, name)
    }

    fn sync(&self, folder: Folder) -> io::Result<()> {
        self.0.sync(folder)
    }

    fn sweep(&self) -> io::Result<u64> {
        self.0.sweep()
    }

    fn lock(&self, _: LockMode) -> io::Result<Locking> {
        Ok(Locking::Impossible(Errno::NOLCK.into()))
    }
}
