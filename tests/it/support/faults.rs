//! `Faulty`: a storage that fails the call that a test chooses, and keeps a log of every call.
//!
//! It counts calls rather than seconds, so that a test can try every place at which a medium can refuse.

use super::storage::take;
use rustix::io::Errno;
use std::{
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex},
};
use xsnap::{
    id::ObjectName,
    storage::object::{Folder, Listed, LockMode, Locking, Room, Storage, Upload},
};

/// What was asked of a storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    Prepare,
    Create,
    Append,
    Finish,
    Read,
    List,
    Delete,
    Sync,
    Sweep,
    Lock,
    HoldsForeign,
    Uncache,
}

/// One call, as the log keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub verb: Verb,
    pub folder: Option<Folder>,
    pub name: Option<ObjectName>,
    /// Bytes read or appended; 0 for other verbs.
    pub length_bytes: usize,
}

/// Which call fails, and how.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// Counted from 0 when the fault is set; only calls of `verb` are counted where one is given.
    pub at: u64,
    pub verb: Option<Verb>,
    pub errno: Errno,
    /// Every later call that counts fails too, as on a stick that was pulled out.
    pub lasting: bool,
    /// The call is carried out and reported as failed all the same, as when an answer is lost on the way.
    pub after_the_deed: bool,
}

impl Fault {
    /// The n-th call of all, from 0, fails once.
    pub fn once(at: u64, errno: Errno) -> Self {
        Self { at, verb: None, errno, lasting: false, after_the_deed: false }
    }

    /// The n-th call of all, from 0, and every later one fail.
    pub fn from_then_on(at: u64, errno: Errno) -> Self {
        Self { lasting: true, ..Self::once(at, errno) }
    }

    /// Counts, and fails, only calls of one verb.
    pub fn of(self, verb: Verb) -> Self {
        Self { verb: Some(verb), ..self }
    }

    /// Lets the call do its work before it fails.
    pub fn after_the_deed(self) -> Self {
        Self { after_the_deed: true, ..self }
    }
}

/// A storage that hands every call on, keeps a log of them, and fails the one that it was told to fail.
#[derive(Debug, Clone)]
pub struct Faulty {
    inner: Arc<dyn Storage>,
    script: Arc<Mutex<Script>>,
}

/// Bytes of an object that no read that touches them brings back.
type BadRange = (Folder, ObjectName, Range<u64>);

#[derive(Debug, Default)]
struct Script {
    fault: Option<Fault>,
    bad_ranges: Vec<BadRange>,
    counted: u64,
    failed: u64,
    calls: Vec<Call>,
}

impl Faulty {
    /// A storage that has no fault yet.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Sets the fault, and counts calls for it from 0. The log goes on.
    pub fn fail(&self, fault: Fault) {
        let mut script = take(&self.script);
        script.fault = Some(fault);
        script.counted = 0;
    }

    /// Takes the fault away, and every spoilt byte.
    pub fn heal(&self) {
        let mut script = take(&self.script);
        script.fault = None;
        script.bad_ranges.clear();
    }

    /// From now on every read that touches one of these bytes fails as at a bad sector.
    pub fn spoil(&self, folder: Folder, name: &ObjectName, range: Range<u64>) {
        take(&self.script).bad_ranges.push((folder, name.clone(), range));
    }

    fn is_spoilt(&self, folder: Folder, name: &ObjectName, read: &Range<u64>) -> bool {
        let touches = |bad: &Range<u64>| bad.start < read.end && read.start < bad.end;
        take(&self.script).bad_ranges.iter().any(|(f, n, bad)| *f == folder && n == name && touches(bad))
    }

    /// How many calls have failed by the script so far.
    pub fn failed(&self) -> u64 {
        take(&self.script).failed
    }

    /// How many calls the log holds.
    pub fn count(&self) -> u64 {
        take(&self.script).calls.len() as u64
    }

    /// How many calls of one verb the log holds.
    pub fn count_of(&self, verb: Verb) -> u64 {
        take(&self.script).calls.iter().filter(|call| call.verb == verb).count() as u64
    }

    /// The log.
    pub fn calls(&self) -> Vec<Call> {
        take(&self.script).calls.clone()
    }

    /// Empties the log.
    pub fn forget_calls(&self) {
        take(&self.script).calls.clear();
    }

    /// Writes a call down and carries it out, unless the script says that it fails.
    fn call<T>(&self, call: Call, deed: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let fault = {
            let mut script = take(&self.script);
            let fault = script.due(call.verb);
            script.calls.push(call);
            fault
        };
        match fault {
            None => deed(),
            Some(fault) => {
                if fault.after_the_deed {
                    drop(deed());
                }
                Err(fault.errno.into())
            }
        }
    }
}

impl Script {
    fn due(&mut self, verb: Verb) -> Option<Fault> {
        let fault = self.fault.filter(|fault| fault.verb.is_none_or(|v| v == verb))?;
        let position = self.counted;
        self.counted += 1;
        let fails = position == fault.at || (fault.lasting && position > fault.at);
        self.failed += u64::from(fails);
        fails.then_some(fault)
    }
}

fn call(verb: Verb) -> Call {
    Call { verb, folder: None, name: None, length_bytes: 0 }
}

fn call_on(verb: Verb, folder: Folder, name: Option<&ObjectName>, length_bytes: usize) -> Call {
    Call { verb, folder: Some(folder), name: name.cloned(), length_bytes }
}

impl Storage for Faulty {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn prepare(&self) -> io::Result<()> {
        self.call(call(Verb::Prepare), || self.inner.prepare())
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        let upload = self.call(call_on(Verb::Create, folder, Some(name), 0), || self.inner.create(folder, name))?;
        Ok(Box::new(FaultyUpload { upload, faulty: self.clone(), folder, name: name.clone() }))
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        let call = call_on(Verb::Read, folder, Some(name), length_bytes);
        if self.is_spoilt(folder, name, &(offset_bytes..offset_bytes.saturating_add(length_bytes as u64))) {
            return self.call(call, || Err(Errno::IO.into()));
        }
        self.call(call, || self.inner.read(folder, name, offset_bytes, length_bytes))
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        self.call(call_on(Verb::List, folder, None, 0), || self.inner.list(folder))
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        self.call(call_on(Verb::Delete, folder, Some(name), 0), || self.inner.delete(folder, name))
    }

    fn sync(&self, folder: Folder) -> io::Result<()> {
        self.call(call_on(Verb::Sync, folder, None, 0), || self.inner.sync(folder))
    }

    fn sweep(&self) -> io::Result<u64> {
        self.call(call(Verb::Sweep), || self.inner.sweep())
    }

    fn lock(&self, mode: LockMode) -> io::Result<Locking> {
        self.call(call(Verb::Lock), || self.inner.lock(mode))
    }

    fn uncache(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        self.call(call_on(Verb::Uncache, folder, Some(name), 0), || self.inner.uncache(folder, name))
    }

    fn room(&self) -> io::Result<Option<Room>> {
        self.inner.room()
    }

    fn cannot_promise(&self) -> Vec<String> {
        self.inner.cannot_promise()
    }

    fn holds_foreign(&self) -> io::Result<bool> {
        self.call(call(Verb::HoldsForeign), || self.inner.holds_foreign())
    }

    fn catalog_file(&self) -> Option<PathBuf> {
        self.inner.catalog_file()
    }
}

struct FaultyUpload {
    upload: Box<dyn Upload>,
    faulty: Faulty,
    folder: Folder,
    name: ObjectName,
}

impl Upload for FaultyUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let call = call_on(Verb::Append, self.folder, Some(&self.name), bytes.len());
        self.faulty.call(call, || self.upload.append(bytes))
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        let Self { upload, faulty, folder, name } = *self;
        faulty.call(call_on(Verb::Finish, folder, Some(&name), 0), || upload.finish())
    }
}

mod tests {
    use super::*;
    use crate::support::storage::Memory;

    fn name(text: &str) -> ObjectName {
        ObjectName::parse(text).unwrap()
    }

    fn put(storage: &dyn Storage, text: &str) -> io::Result<()> {
        let mut upload = storage.create(Folder::Packs, &name(text))?;
        upload.append(b"four")?;
        upload.finish()
    }

    #[test]
    fn the_chosen_call_fails_and_no_other() {
        for at in 0..3 {
            let memory = Memory::new();
            let faulty = Faulty::new(Arc::new(memory.clone()));
            faulty.fail(Fault::once(at, Errno::NOSPC));
            let error = put(&faulty, "a").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
            assert_eq!((faulty.count(), faulty.failed(), memory.objects().len()), (at + 1, 1, 0));
            put(&faulty, "a").unwrap();
        }
    }

    #[test]
    fn a_lasting_fault_of_one_verb_leaves_the_others_alone() {
        let faulty = Faulty::new(Arc::new(Memory::new()));
        faulty.fail(Fault::from_then_on(1, Errno::IO).of(Verb::Finish));
        put(&faulty, "a").unwrap();
        put(&faulty, "b").unwrap_err();
        put(&faulty, "c").unwrap_err();
        assert_eq!(faulty.list(Folder::Packs).unwrap().len(), 1);
        faulty.heal();
        put(&faulty, "c").unwrap();
        assert_eq!((faulty.count_of(Verb::Finish), faulty.count_of(Verb::List)), (4, 1));
        assert_eq!(faulty.calls()[1], call_on(Verb::Append, Folder::Packs, Some(&name("a")), 4));
    }

    #[test]
    fn a_lost_answer_fails_a_call_that_was_carried_out() {
        let memory = Memory::new();
        let faulty = Faulty::new(Arc::new(memory.clone()));
        faulty.fail(Fault::once(0, Errno::TIMEDOUT).of(Verb::Finish).after_the_deed());
        put(&faulty, "a").unwrap_err();
        assert_eq!(memory.bytes(Folder::Packs, &name("a")), Some(b"four".to_vec()));
    }
}
