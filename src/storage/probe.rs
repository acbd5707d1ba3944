//! Whether a medium keeps as much as it says: blocks that tell their own place are written until it is full, and read
//! back past the system's cache.
//!
//! A medium that lies about its capacity drops what is too much for it, or writes it over what it took before. Both show
//! in the blocks: one that tells another place than its own has gone around. Knows nothing of objects. Everything is
//! written into files in one folder of its own, which is removed at the end, whatever that is, and by the next test
//! where this one was killed. What a lying medium destroys when it is filled, no program can prevent.

use crate::{
    error::{Error, Result},
    id::random,
    progress::{Event, Progress},
    storage::{
        filesystem,
        object::{Reserve, Room},
    },
};
use rustix::{fs::FlockOperation, io::Errno};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

/// The folder that the files lie in. Its name begins with a dot, so that no one takes it for foreign data.
pub const FOLDER: &str = ".xsnap-medium-test";
/// The smallest part of a medium that tells where it is.
pub const BLOCK_BYTES: usize = 4 << 10;
/// How much is written or read at once.
const STEP_BYTES: usize = 1 << 20;
/// The length of each file but the last: no file system is too small for it.
const FILE_BYTES: u64 = 256 << 20;
/// How many steps are looked at again after each file, so that a lie is found out early.
const SAMPLES: u64 = 16;
const MAGIC: [u8; 8] = *b"xsnapblk";

/// Where blocks are written and read back. Positions are counted from 0, in bytes, over all files.
pub trait Ground {
    /// Writes a step; steps come one after the other, without a gap.
    ///
    /// # Errors
    /// The medium's own error.
    fn write(&mut self, at_bytes: u64, bytes: &[u8]) -> io::Result<()>;

    /// Has everything written so far on the medium, and none of it in the system's cache.
    ///
    /// # Errors
    /// The medium's own error.
    fn settle(&mut self) -> io::Result<()>;

    /// Reads what was written.
    ///
    /// # Errors
    /// The medium's own error.
    fn read(&mut self, at_bytes: u64, bytes: &mut [u8]) -> io::Result<()>;
}

/// What a test has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// How much was written.
    pub written_bytes: u64,
    /// How much of it came back right.
    pub right_bytes: u64,
    /// Where the first byte was written that did not come back right.
    pub first_wrong_bytes: Option<u64>,
    /// How far apart two places are that turned out to be one.
    pub repeats_after_bytes: Option<u64>,
    /// Why nothing more could be written, where that was not for want of room.
    pub write_failure: Option<String>,
    /// How long writing took, syncing included.
    pub write_time: Duration,
    /// How long reading back took.
    pub read_time: Duration,
}

impl Kept {
    /// Whether everything came back as it was written.
    pub fn is_honest(&self) -> bool {
        self.first_wrong_bytes.is_none() && self.write_failure.is_none()
    }

    /// How much the medium keeps of what is written to it, as far as the test has shown.
    pub fn capacity_bytes(&self) -> u64 {
        let failed = self.write_failure.as_ref().map(|_| self.written_bytes);
        // A medium that goes around loses what was written first: its capacity is the way around.
        let found = [self.repeats_after_bytes.or(self.first_wrong_bytes), failed];
        found.into_iter().flatten().min().unwrap_or(self.written_bytes)
    }
}

/// The content of blocks: what a run writes where.
#[derive(Debug, Clone, Copy)]
struct Pattern {
    run: [u8; 16],
}

impl Pattern {
    fn fill(&self, at_bytes: u64, bytes: &mut [u8]) {
        for (n, block) in (0_u64..).zip(bytes.chunks_mut(BLOCK_BYTES)) {
            let at = at_bytes + n * BLOCK_BYTES as u64;
            let head = [&MAGIC[..], &self.run, &at.to_le_bytes()].concat();
            let (told, noise) = block.split_at_mut(head.len().min(block.len()));
            told.iter_mut().zip(&head).for_each(|(to, from)| *to = *from);
            blake3::Hasher::new().update(&head).finalize_xof().fill(noise);
        }
    }

    /// The place that a block tells, if it is one of this run and whole.
    fn place_of(&self, block: &[u8]) -> Option<u64> {
        let told = block.strip_prefix(&MAGIC)?.strip_prefix(&self.run)?.first_chunk::<8>()?;
        let at = u64::from_le_bytes(*told);
        let mut whole = vec![0; block.len()];
        self.fill(at, &mut whole);
        (whole == block).then_some(at)
    }
}

/// Writes up to so many bytes, reads them back and compares. Samples are looked at in between: once one of them is wrong,
/// nothing more is written. `clock` tells the time since any moment.
///
/// # Errors
/// `Interrupted`, `MediumGone` or `MediumReadOnly` where nothing can be done any more.
pub fn probe(
    ground: &mut dyn Ground,
    wanted_bytes: u64,
    clock: &dyn Fn() -> Duration,
    progress: &dyn Progress,
) -> Result<Kept> {
    let run = random().map_err(|e| Error::file("read", "the system's random source", e))?;
    let mut probe = Probe { ground, pattern: Pattern { run }, kept: Kept::default(), progress };
    // What is written is read again, so that both halves of the work count.
    progress.tell(Event::Total { entries: 0, bytes: wanted_bytes.saturating_mul(2) });
    let began = clock();
    probe.write(wanted_bytes)?;
    let between = clock();
    probe.read()?;
    let Kept { write_time, read_time, .. } = &mut probe.kept;
    (*write_time, *read_time) = (between.saturating_sub(began), clock().saturating_sub(between));
    Ok(probe.kept)
}

struct Probe<'a> {
    ground: &'a mut dyn Ground,
    pattern: Pattern,
    kept: Kept,
    progress: &'a dyn Progress,
}

impl Probe<'_> {
    fn write(&mut self, wanted_bytes: u64) -> Result<()> {
        let mut step = vec![0; STEP_BYTES];
        while self.kept.written_bytes < wanted_bytes {
            self.go_on()?;
            let at = self.kept.written_bytes;
            let length = usize::try_from(wanted_bytes - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
            let bytes = step.get_mut(..length).unwrap_or_default();
            self.pattern.fill(at, bytes);
            match self.ground.write(at, bytes) {
                Ok(()) => self.kept.written_bytes += length as u64,
                Err(e) if is_full(&e) => break,
                Err(e) => return self.failed_to_write(e),
            }
            self.progress.tell(Event::Done { entries: 0, bytes: length as u64 });
            if self.kept.written_bytes.is_multiple_of(FILE_BYTES) && !self.samples_are_right()? {
                return Ok(());
            }
        }
        match self.ground.settle() {
            Err(e) => self.failed_to_write(e),
            Ok(()) => Ok(()),
        }
    }

    /// A write that fails, or a medium that is full before it is, may be the end of what there really is: what was
    /// written before is still read back, which tells it from a medium that is gone.
    fn failed_to_write(&mut self, e: io::Error) -> Result<()> {
        if self.kept.written_bytes == 0 {
            return Err(Error::storage("write to", FOLDER, e));
        }
        self.kept.write_failure = Some(e.to_string());
        // What reached the medium before is to be read from there all the same.
        let _ = self.ground.settle();
        Ok(())
    }

    /// Looks at the first and the last of what was written, and at some of it in between.
    fn samples_are_right(&mut self) -> Result<bool> {
        if let Err(e) = self.ground.settle() {
            return self.failed_to_write(e).map(|()| false);
        }
        let steps = self.kept.written_bytes / STEP_BYTES as u64;
        let mut step = vec![0; STEP_BYTES];
        for n in 0..=SAMPLES {
            let at = (steps - 1) * n / SAMPLES * STEP_BYTES as u64;
            if self.ground.read(at, &mut step).is_err() || self.wrong_in(at, &step).is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn read(&mut self) -> Result<()> {
        let mut step = vec![0; STEP_BYTES];
        let (mut at, mut unread) = (0, None);
        while at < self.kept.written_bytes {
            self.go_on()?;
            let length = usize::try_from(self.kept.written_bytes - at).unwrap_or(STEP_BYTES).min(STEP_BYTES);
            let bytes = step.get_mut(..length).unwrap_or_default();
            match self.ground.read(at, bytes) {
                Ok(()) => self.compare(at, bytes),
                Err(e) => {
                    self.kept.first_wrong_bytes.get_or_insert(at);
                    unread = Some(e);
                }
            }
            self.progress.tell(Event::Done { entries: 0, bytes: length as u64 });
            at += length as u64;
        }
        match unread {
            // Nothing of anything: that is no capacity, but a medium that is not there.
            Some(e) if self.kept.right_bytes == 0 && self.kept.repeats_after_bytes.is_none() => {
                Err(Error::storage("read back from", FOLDER, e))
            }
            _ => Ok(()),
        }
    }

    fn compare(&mut self, at_bytes: u64, step: &[u8]) {
        let Some(_) = self.wrong_in(at_bytes, step) else {
            self.kept.right_bytes += step.len() as u64;
            return;
        };
        for (n, block) in (0_u64..).zip(step.chunks(BLOCK_BYTES)) {
            let at = at_bytes + n * BLOCK_BYTES as u64;
            match self.pattern.place_of(block) {
                Some(place) if place == at => self.kept.right_bytes += block.len() as u64,
                told => {
                    self.kept.first_wrong_bytes.get_or_insert(at);
                    let apart = told.map(|place| place.abs_diff(at));
                    self.kept.repeats_after_bytes = self.kept.repeats_after_bytes.into_iter().chain(apart).min();
                }
            }
        }
    }

    /// Where the first wrong block of a step begins.
    fn wrong_in(&self, at_bytes: u64, step: &[u8]) -> Option<u64> {
        let mut right = vec![0; step.len()];
        self.pattern.fill(at_bytes, &mut right);
        let mut pairs = (0_u64..).zip(step.chunks(BLOCK_BYTES).zip(right.chunks(BLOCK_BYTES)));
        pairs.find(|(_, (found, right))| found != right).map(|(n, _)| at_bytes + n * BLOCK_BYTES as u64)
    }

    fn go_on(&self) -> Result<()> {
        if self.progress.stop_wanted() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

fn is_full(e: &io::Error) -> bool {
    matches!(Errno::from_io_error(e), Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG))
}

/// Files in a folder of their own, on a medium. Dropped, they are gone.
#[derive(Debug)]
pub struct Files {
    folder: PathBuf,
    /// Locked, so that no other test takes the files for those of a dead one.
    lock: File,
    open: Vec<File>,
}

impl Files {
    /// Makes the folder in `root`; what a test that was killed has left in it is removed first.
    ///
    /// # Errors
    /// `Locked` where another test is at work there, and storage errors.
    pub fn make_in(root: &Path) -> Result<Self> {
        let folder = root.join(FOLDER);
        let failed = |verb| move |e: io::Error| Error::storage(verb, FOLDER, e);
        match std::fs::create_dir(&folder) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(failed("make")(e)),
            _ => {}
        }
        let lock = File::open(&folder).map_err(failed("open"))?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            let location = root.display().to_string();
            return Err(Error::Locked { location, why: "another test of this medium is at work".into() });
        }
        let files = Self { folder, lock, open: Vec::new() };
        files.remove_all().map_err(failed("clear"))?;
        Ok(files)
    }

    /// How much room there is on the medium, if it knows.
    ///
    /// # Errors
    /// A storage error.
    pub fn room(&self) -> Result<Option<Room>> {
        filesystem::room(&self.folder).map_err(|e| Error::storage("ask for the room on", FOLDER, e))
    }

    /// How much can be written so that deleting still works: everything but the usual reserve.
    pub fn spare_bytes(room: Room) -> u64 {
        let spare_bytes = room.free_bytes.saturating_sub(Reserve::Usual.of(room.total_bytes));
        spare_bytes - spare_bytes % BLOCK_BYTES as u64
    }

    fn path(&self, number: u64) -> PathBuf {
        self.folder.join(format!("{number:06}.blk"))
    }

    /// Removes every file of this or an earlier test, and nothing else.
    fn remove_all(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let is_own = |name: &str| {
                name.strip_suffix(".blk").is_some_and(|n| n.len() == 6 && n.bytes().all(|b| b.is_ascii_digit()))
            };
            if entry.file_name().to_str().is_some_and(is_own) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    fn file(&self, at_bytes: u64) -> io::Result<(&File, u64)> {
        let number = usize::try_from(at_bytes / FILE_BYTES).unwrap_or(usize::MAX);
        let file = self.open.get(number).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((file, at_bytes % FILE_BYTES))
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        self.open.clear();
        // What cannot be removed now is removed by the next test; a folder in which somebody else has put something stays.
        let _ = self.remove_all();
        let _ = std::fs::remove_dir(&self.folder);
        let _ = rustix::fs::flock(&self.lock, FlockOperation::Unlock);
    }
}

impl Ground for Files {
    fn write(&mut self, at_bytes: u64, bytes: &[u8]) -> io::Result<()> {
        if at_bytes.is_multiple_of(FILE_BYTES) {
            let path = self.path(at_bytes / FILE_BYTES);
            self.open.push(File::options().read(true).write(true).create_new(true).open(path)?);
        }
        let (file, at_bytes) = self.file(at_bytes)?;
        file.write_all_at(bytes, at_bytes)
    }

    fn settle(&mut self) -> io::Result<()> {
        // All of them, whatever becomes of one: what was not written is not to be read from the cache either.
        let settled: Vec<io::Result<()>> = self.open.iter().map(filesystem::uncache).collect();
        settled.into_iter().collect()
    }

    fn read(&mut self, at_bytes: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (file, at_bytes) = self.file(at_bytes)?;
        file.read_exact_at(bytes, at_bytes)
    }
}
