//! `Memory`: a storage in memory, into which a test can reach to damage what is stored.
//!
//! It keeps the same contract as every storage (`storage_contract`) and knows nothing of what is inside an object.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use xsnap::{
    id::ObjectName,
    storage::object::{Folder, Guard, Listed, LockMode, Locking, Storage, Upload},
};

/// Objects in memory. A clone is another handle on the same medium; [`Memory::snapshot`] is another medium.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    medium: Arc<Medium>,
}

/// The key is a text rather than a checked name, so that foreign names can lie here as they can on a stick.
type Objects = BTreeMap<(Folder, String), Arc<Vec<u8>>>;

#[derive(Debug, Default)]
struct Medium {
    objects: Mutex<Objects>,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    shared: usize,
    exclusive: bool,
}

/// Takes a mutex even after a panic of another thread: the test that panicked has already failed, and a second panic
/// would only hide the first.
pub fn take<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The medium as a repository takes it.
pub fn on(disk: &Memory) -> Arc<dyn Storage> {
    Arc::new(disk.clone())
}

impl Memory {
    /// An empty medium.
    pub fn new() -> Self {
        Self::default()
    }

    /// Every object: folder, name and bytes, in the order of folders and names.
    pub fn objects(&self) -> Vec<(Folder, ObjectName, Vec<u8>)> {
        let objects = take(&self.medium.objects);
        let checked = |((folder, name), bytes): (&(Folder, String), &Arc<Vec<u8>>)| {
            Some((*folder, ObjectName::parse(name)?, bytes.to_vec()))
        };
        objects.iter().filter_map(checked).collect()
    }

    /// Every object of one folder: name and bytes, in the order of names.
    pub fn objects_in(&self, folder: Folder) -> Vec<(ObjectName, Vec<u8>)> {
        self.objects().into_iter().filter(|(f, ..)| *f == folder).map(|(_, name, bytes)| (name, bytes)).collect()
    }

    /// The bytes of one object, if it is there.
    pub fn bytes(&self, folder: Folder, name: &ObjectName) -> Option<Vec<u8>> {
        take(&self.medium.objects).get(&key(folder, name)).map(|bytes| bytes.to_vec())
    }

    /// The bytes of all objects together.
    pub fn total_bytes(&self) -> u64 {
        take(&self.medium.objects).values().map(|bytes| bytes.len() as u64).sum()
    }

    /// Puts other bytes where an object is, or puts an object there; no writer is asked.
    pub fn replace(&self, folder: Folder, name: &ObjectName, bytes: Vec<u8>) {
        self.plant(folder, name.as_str(), bytes);
    }

    /// Flips bits of one byte of an object, as a worn medium does.
    pub fn flip(&self, folder: Folder, name: &ObjectName, offset: usize, bits: u8) {
        let mut bytes = self.bytes(folder, name).expect("an object to damage");
        bytes[offset] ^= bits;
        self.replace(folder, name, bytes);
    }

    /// Takes an object away, and says whether it was there.
    pub fn remove(&self, folder: Folder, name: &ObjectName) -> bool {
        take(&self.medium.objects).remove(&key(folder, name)).is_some()
    }

    /// Puts bytes under any name, legal or not, as other systems leave their files on a stick.
    pub fn plant(&self, folder: Folder, name: &str, bytes: Vec<u8>) {
        take(&self.medium.objects).insert((folder, name.to_owned()), Arc::new(bytes));
    }

    /// Another medium with the same objects, on which nobody holds a lock: what a copy of the stick would be.
    pub fn snapshot(&self) -> Self {
        let objects = take(&self.medium.objects).clone();
        Self { medium: Arc::new(Medium { objects: Mutex::new(objects), holders: Mutex::default() }) }
    }

    /// Publishes an object under a name that must be free.
    pub(super) fn publish(&self, folder: Folder, name: &ObjectName, bytes: Vec<u8>) -> io::Result<()> {
        let mut objects = take(&self.medium.objects);
        if objects.contains_key(&key(folder, name)) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        objects.insert(key(folder, name), Arc::new(bytes));
        Ok(())
    }
}

fn key(folder: Folder, name: &ObjectName) -> (Folder, String) {
    (folder, name.as_str().to_owned())
}

impl Storage for Memory {
    fn location(&self) -> String {
        "memory".to_owned()
    }

    fn prepare(&self) -> io::Result<()> {
        Ok(())
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        Ok(Box::new(MemoryUpload { memory: self.clone(), folder, name: name.clone(), bytes: Vec::new() }))
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        let objects = take(&self.medium.objects);
        let bytes = objects.get(&key(folder, name)).ok_or(io::ErrorKind::NotFound)?;
        let range = usize::try_from(offset_bytes).ok().and_then(|from| Some(from..from.checked_add(length_bytes)?));
        let part = range.and_then(|range| bytes.get(range)).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(part.to_vec())
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        let objects = take(&self.medium.objects);
        let inside = objects.iter().filter(|((f, _), _)| *f == folder);
        Ok(inside
            .filter_map(|((_, name), bytes)| {
                Some(Listed { name: ObjectName::parse(name)?, length_bytes: bytes.len() as u64 })
            })
            .collect())
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        if self.remove(folder, name) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    fn sync(&self, _folder: Folder) -> io::Result<()> {
        Ok(())
    }

    fn sweep(&self) -> io::Result<u64> {
        Ok(0)
    }

    fn lock(&self, mode: LockMode) -> io::Result<Locking> {
        let mut holders = take(&self.medium.holders);
        let free = !holders.exclusive && (mode == LockMode::Shared || holders.shared == 0);
        if !free {
            return Ok(Locking::Busy);
        }
        match mode {
            LockMode::Shared => holders.shared += 1,
            LockMode::Exclusive => holders.exclusive = true,
        }
        Ok(Locking::Held(Box::new(MemoryGuard { medium: Arc::clone(&self.medium), mode })))
    }
}

#[derive(Debug)]
struct MemoryGuard {
    medium: Arc<Medium>,
    mode: LockMode,
}

impl Guard for MemoryGuard {}

impl Drop for MemoryGuard {
    fn drop(&mut self) {
        let mut holders = take(&self.medium.holders);
        match self.mode {
            LockMode::Shared => holders.shared -= 1,
            LockMode::Exclusive => holders.exclusive = false,
        }
    }
}

/// An unfinished object lives in its writer only, so that dropping it leaves nothing behind.
struct MemoryUpload {
    memory: Memory,
    folder: Folder,
    name: ObjectName,
    bytes: Vec<u8>,
}

impl Upload for MemoryUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.memory.publish(self.folder, &self.name, self.bytes)
    }
}

mod tests {
    use super::*;

    #[test]
    fn a_snapshot_shares_neither_objects_nor_locks() {
        let memory = Memory::new();
        let name = ObjectName::parse("a").unwrap();
        memory.replace(Folder::Packs, &name, vec![1, 2, 3]);
        let held = memory.lock(LockMode::Exclusive).unwrap();
        let copy = memory.snapshot();
        assert!(matches!(copy.lock(LockMode::Exclusive).unwrap(), Locking::Held(_)));
        memory.flip(Folder::Packs, &name, 1, 0x80);
        assert_eq!(copy.bytes(Folder::Packs, &name), Some(vec![1, 2, 3]));
        assert_eq!(memory.bytes(Folder::Packs, &name), Some(vec![1, 0x82, 3]));
        assert!(memory.remove(Folder::Packs, &name) && memory.objects().is_empty());
        drop(held);
    }
}
