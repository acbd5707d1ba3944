//! `Crashing`: a storage whose machine loses power at the change that a test chooses, and what is there afterwards.
//!
//! It counts changes rather than seconds, so that a test can try every place at which work can be cut off.

use super::storage::{Memory, take};
use rustix::io::Errno;
use std::{
    io,
    sync::{Arc, Mutex},
};
use xsnap::{
    id::ObjectName,
    storage::object::{Folder, Listed, LockMode, Locking, Storage, Upload},
};

/// How the change that was cut off by the crash is found afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutOff {
    /// As if it had never been asked for.
    Undone,
    /// As if it had returned.
    Done,
    /// The name is there with only the first half of its bytes. An honest medium cannot leave this; one that lies about
    /// having written can.
    Torn,
}

impl CutOff {
    /// What an honest medium can leave.
    pub const HONEST: [Self; 2] = [Self::Undone, Self::Done];
    /// What any medium can leave.
    pub const ALL: [Self; 3] = [Self::Undone, Self::Done, Self::Torn];
}

/// A storage whose machine loses power at a chosen change. Changes are create, append, finish and delete; an object is
/// durable when its `finish` has returned, and gone when its `delete` has.
#[derive(Debug, Clone, Default)]
pub struct Crashing {
    /// What is durable; unfinished objects are not here.
    disk: Memory,
    power: Arc<Mutex<Power>>,
}

#[derive(Debug, Default)]
struct Power {
    changes: u64,
    allowed: Option<u64>,
    cut_off: Option<Change>,
    crashed: bool,
}

/// A change of what is durable.
#[derive(Debug)]
enum Change {
    Publish(Folder, ObjectName, Vec<u8>),
    Delete(Folder, ObjectName),
}

impl Crashing {
    /// A machine that begins with the objects of `disk`; the medium itself is left as it is.
    pub fn new(disk: &Memory) -> Self {
        Self { disk: disk.snapshot(), power: Arc::default() }
    }

    /// Lets `n` more changes happen; the one after them is cut off, and from then on every call fails, reads too.
    pub fn crash_after(&self, n: u64) {
        let mut power = take(&self.power);
        power.allowed = Some(power.changes + n);
    }

    /// How many changes have happened.
    pub fn changes(&self) -> u64 {
        take(&self.power).changes
    }

    /// Whether the power has failed.
    pub fn crashed(&self) -> bool {
        take(&self.power).crashed
    }

    /// What is there after the crash, or would be after one now. Locks died with their holders.
    pub fn survivors(&self, cut_off: CutOff) -> Memory {
        let disk = self.disk.snapshot();
        match (&take(&self.power).cut_off, cut_off) {
            (None, _) | (_, CutOff::Undone) => {}
            (Some(Change::Publish(folder, name, bytes)), _) => {
                let kept = if cut_off == CutOff::Torn { bytes.len() / 2 } else { bytes.len() };
                // A name that is taken stays with its first owner, whatever becomes of the second.
                let _ = disk.publish(*folder, name, bytes[..kept].to_vec());
            }
            (Some(Change::Delete(folder, name)), CutOff::Done) => drop(disk.remove(*folder, name)),
            (Some(Change::Delete(folder, name)), CutOff::Torn) => {
                if let Some(mut bytes) = disk.bytes(*folder, name) {
                    bytes.truncate(bytes.len() / 2);
                    disk.replace(*folder, name, bytes);
                }
            }
        }
        disk
    }

    /// Fails every call of a machine that has no power.
    fn alive(&self) -> io::Result<()> {
        if take(&self.power).crashed { Err(no_power()) } else { Ok(()) }
    }

    /// Counts a change and carries it out, or cuts it off. Both happen under one lock, so that no later change of
    /// another thread becomes durable while an earlier one is lost.
    fn change<T>(&self, durable: Option<Change>, deed: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut power = take(&self.power);
        if power.crashed {
            return Err(no_power());
        }
        if power.allowed.is_some_and(|allowed| power.changes >= allowed) {
            power.crashed = true;
            power.cut_off = durable;
            return Err(no_power());
        }
        power.changes += 1;
        deed()
    }
}

fn no_power() -> io::Error {
    Errno::IO.into()
}

impl Storage for Crashing {
    fn location(&self) -> String {
        "a machine that may lose power".to_owned()
    }

    fn prepare(&self) -> io::Result<()> {
        self.alive()
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        self.change(None, || Ok(()))?;
        Ok(Box::new(CrashingUpload { machine: self.clone(), folder, name: name.clone(), bytes: Vec::new() }))
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        self.alive()?;
        self.disk.read(folder, name, offset_bytes, length_bytes)
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        self.alive()?;
        self.disk.list(folder)
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        self.change(Some(Change::Delete(folder, name.clone())), || self.disk.delete(folder, name))
    }

    fn sync(&self, _folder: Folder) -> io::Result<()> {
        self.alive()
    }

    fn sweep(&self) -> io::Result<u64> {
        self.alive()?;
        self.disk.sweep()
    }

    fn lock(&self, mode: LockMode) -> io::Result<Locking> {
        self.alive()?;
        self.disk.lock(mode)
    }
}

struct CrashingUpload {
    machine: Crashing,
    folder: Folder,
    name: ObjectName,
    bytes: Vec<u8>,
}

impl Upload for CrashingUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.machine.change(None, || Ok(()))?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { machine, folder, name, bytes } = *self;
        let change = Change::Publish(folder, name.clone(), bytes.clone());
        machine.change(Some(change), || machine.disk.publish(folder, &name, bytes))
    }
}

mod tests {
    use super::*;

    fn name(text: &str) -> ObjectName {
        ObjectName::parse(text).unwrap()
    }

    fn put(storage: &dyn Storage, text: &str) -> io::Result<()> {
        let mut upload = storage.create(Folder::Packs, &name(text))?;
        upload.append(b"four")?;
        upload.finish()
    }

    #[test]
    fn a_crash_keeps_what_was_finished_and_loses_what_was_not() {
        // Three changes put one object: the fourth to sixth put the second.
        for (n, whole) in [(0, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2)] {
            let machine = Crashing::default();
            machine.crash_after(n);
            let _ = put(&machine, "a").and_then(|()| put(&machine, "b"));
            assert_eq!(machine.crashed(), n < 6);
            assert_eq!(machine.list(Folder::Packs).is_err(), n < 6, "a machine without power answers nothing");
            assert_eq!(machine.survivors(CutOff::Undone).objects().len(), whole);
            let cut_off_finish = usize::from(n == 2 || n == 5);
            assert_eq!(machine.survivors(CutOff::Done).objects().len(), whole + cut_off_finish);
            let torn = machine.survivors(CutOff::Torn).objects();
            assert_eq!(torn.iter().filter(|(_, _, bytes)| bytes == b"fo").count(), cut_off_finish);
        }
    }

    #[test]
    fn a_deletion_that_is_cut_off_is_done_or_not_or_torn() {
        let disk = Memory::new();
        disk.replace(Folder::Packs, &name("a"), b"four".to_vec());
        let machine = Crashing::new(&disk);
        machine.crash_after(0);
        machine.delete(Folder::Packs, &name("a")).unwrap_err();
        let after = |cut_off| machine.survivors(cut_off).bytes(Folder::Packs, &name("a"));
        assert_eq!(CutOff::ALL.map(after), [Some(b"four".to_vec()), None, Some(b"fo".to_vec())]);
        assert!(disk.bytes(Folder::Packs, &name("a")).is_some(), "the medium it began with is left as it is");
    }
}
