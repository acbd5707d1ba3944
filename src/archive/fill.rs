//! Files of the target filled with their bytes: every frame read and opened once, in the order of the medium.
//!
//! Works on one window of files at a time. A file is written beside and renamed; a large one that is there is changed in
//! place, block by block. No byte is written that was not verified.

use crate::{
    archive::{
        live::{self, Folder, Opener},
        metadata::{self, ApplyOptions, Handle, Owners},
        piece::{Piece, make_hole},
    },
    blobs::{index::Place, reader::Reader},
    error::{Error, Result},
    progress::{Event, Progress},
    repo::tree::{Metadata, Time},
};
use rustix::fs::Stat;
use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::FileExt,
    },
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

/// Files longer than this, with one name, are changed in place.
pub const IN_PLACE_BYTES: u64 = 64 << 20;

/// How a file gets its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// It is written beside and renamed, whatever is there, so that under its own name it is never half there.
    Write,
    /// A file of its size is there; its content is compared, and where it differs it is written beside and renamed.
    Compare,
    /// It is large and has one name: the blocks that differ are written over.
    InPlace,
    /// Its content is taken to be the same: only its metadata is put back.
    Keep,
}

/// A file to be filled.
#[derive(Debug)]
pub struct FileTask {
    /// The folder that it is in.
    pub folder: Arc<Folder>,
    /// Its name.
    pub name: Vec<u8>,
    /// What it gets in the end.
    pub metadata: Metadata,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Its content.
    pub pieces: Vec<Piece>,
    /// How it gets its bytes.
    pub way: Way,
    /// Whether it has no attributes when it is made.
    pub bare: bool,
    /// Whether further names will be linked to it.
    pub linked: bool,
    state: Mutex<State>,
    needed: OnceLock<Vec<usize>>,
    missing: AtomicUsize,
    failed: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    file: Option<File>,
    begun: bool,
    /// Device and inode of the file that was begun, while it is closed: somebody may put another one in its place.
    inode: Option<(u64, u64)>,
}

impl FileTask {
    /// A file to be filled.
    pub fn new(
        folder: Arc<Folder>,
        name: Vec<u8>,
        metadata: Metadata,
        size_bytes: u64,
        pieces: Vec<Piece>,
        (way, linked): (Way, bool),
    ) -> Self {
        let (state, needed) = (Mutex::default(), OnceLock::new());
        let (missing, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { folder, name, metadata, size_bytes, pieces, way, bare: false, linked, state, needed, missing, failed }
    }

    fn path(&self) -> Vec<u8> {
        self.folder.path_of(&self.name)
    }

    /// The name that is written to.
    fn written_name(&self) -> Vec<u8> {
        match self.way {
            Way::Write | Way::Compare => live::unfinished_name(&self.name),
            Way::InPlace | Way::Keep => self.name.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was done, counted by many threads.
#[derive(Debug, Default)]
pub struct Tally {
    /// Files written.
    pub files: AtomicU64,
    /// Files that were the same already.
    pub same: AtomicU64,
    /// Bytes of content written.
    pub bytes: AtomicU64,
    /// Entries that could not be restored, or not exactly.
    pub problems: AtomicU64,
    /// Paths of entries with several names that could not be restored: whatever stands there is not to be linked to.
    failed: Mutex<HashSet<Vec<u8>>>,
}

impl Tally {
    /// Takes note that an entry with several names could not be restored.
    pub fn note_failed(&self, path: Vec<u8>) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }

    /// Whether an entry with several names could not be restored.
    pub fn has_failed(&self, path: &[u8]) -> bool {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

/// Fills files.
#[derive(Debug)]
pub struct Filling<'a> {
    /// The root of the target.
    pub root: BorrowedFd<'a>,
    /// Where the bytes come from.
    pub reader: &'a Reader,
    /// Names of owners.
    pub owners: &'a Owners,
    /// Owners by name.
    pub by_name: bool,
    /// How many threads.
    pub threads: usize,
    /// What was done.
    pub tally: &'a Tally,
}

/// Which pieces of which files one frame fills: task, piece, and place of the blob.
type Group = (u32, Vec<(usize, usize, Place)>);

impl Filling<'_> {
    /// Fills a window of files. A file that cannot be filled is a problem and the others go on.
    ///
    /// # Errors
    /// `Interrupted`, and storage errors that are no damage.
    pub fn fill(&self, tasks: &[FileTask], progress: &dyn Progress) -> Result<()> {
        let next = AtomicUsize::new(0);
        self.on_threads(|opener| {
            while let Some(task) = tasks.get(next.fetch_add(1, Ordering::Relaxed)) {
                check_stop(progress)?;
                self.prepare(opener, task, progress);
            }
            Ok(())
        })?;
        let groups = self.group(tasks, progress);
        let next = AtomicUsize::new(0);
        self.on_threads(|opener| {
            while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
                check_stop(progress)?;
                self.fill_from_frame(opener, tasks, group, progress)?;
            }
            Ok(())
        })
    }

    /// Runs the same work on every thread and returns the first error.
    fn on_threads(&self, work: impl Fn(&mut Opener<'_>) -> Result<()> + Sync) -> Result<()> {
        std::thread::scope(|scope| {
            let spawn = |_| scope.spawn(|| work(&mut Opener::new(self.root)));
            let threads: Vec<_> = (0..self.threads.max(1)).map(spawn).collect();
            threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| Error::Refused)?)
        })
    }

    /// Finds out which pieces are needed; a file that needs none is finished at once.
    fn prepare(&self, opener: &mut Opener<'_>, task: &FileTask, progress: &dyn Progress) {
        let needed = match task.way {
            Way::Keep => Ok(Vec::new()),
            Way::Write => Ok(all_pieces(task)),
            Way::Compare | Way::InPlace => self.differing(opener, task),
        };
        let done = needed.and_then(|needed| {
            if needed.is_empty() && task.way != Way::Write {
                return self.finish_same(opener, task, progress);
            }
            let has_data = |n: &usize| task.pieces.get(*n).is_some_and(|p| p.id.is_some());
            let needed: Vec<usize> = needed.into_iter().filter(has_data).collect();
            if needed.is_empty() {
                return self.finish(opener, task, progress);
            }
            task.missing.store(needed.len(), Ordering::Release);
            task.needed.get_or_init(|| needed);
            Ok(())
        });
        if let Err(e) = done {
            self.fail(opener, task, "restore", &e, progress);
        }
    }

    /// The pieces in which a live file differs. A file that has to be written beside differs in all or in none.
    fn differing(&self, opener: &mut Opener<'_>, task: &FileTask) -> io::Result<Vec<usize>> {
        let folder = opener.open(&task.folder)?;
        let in_place = task.way == Way::InPlace;
        let file = File::from(live::open_existing(folder.as_fd(), &task.name, false)?);
        let same_size = file.metadata()?.len() == task.size_bytes;
        let mut needed = Vec::new();
        let mut buffer = Vec::new();
        for (number, piece) in task.pieces.iter().enumerate() {
            if !self.reader.holds_at(&file, piece.offset_bytes, piece.length_bytes, piece.id.as_ref(), &mut buffer)? {
                needed.push(number);
                if !in_place {
                    break;
                }
            }
        }
        match (in_place, same_size && needed.is_empty()) {
            (_, true) => Ok(Vec::new()),
            (false, false) => Ok(all_pieces(task)),
            (true, false) => self.begin_in_place(folder.as_fd(), task, identity(&file)?, needed),
        }
    }

    /// Gives a file that is changed in place its length and its holes, and a time that no snapshot has until it is
    /// finished. Returns the pieces that have yet to be written.
    fn begin_in_place(
        &self,
        folder: BorrowedFd<'_>,
        task: &FileTask,
        compared: (u64, u64),
        mut needed: Vec<usize>,
    ) -> io::Result<Vec<usize>> {
        let file = open_again(folder, &task.name, Some(compared))?;
        task.state().inode = Some(compared);
        metadata::set_mtime(Handle::Open(file.as_fd()), Time::default())?;
        file.set_len(task.size_bytes)?;
        let holes = needed.iter().filter_map(|n| task.pieces.get(*n)).filter(|p| p.id.is_none());
        for hole in holes {
            make_hole(&file, hole)?;
        }
        needed.retain(|n| task.pieces.get(*n).is_some_and(|p| p.id.is_some()));
        Ok(needed)
    }

    /// Sorts the pieces that are missing by frame, in the order of the medium.
    fn group(&self, tasks: &[FileTask], progress: &dyn Progress) -> Vec<Group> {
        let mut groups = BTreeMap::<u32, Vec<(usize, usize, Place)>>::new();
        for (number, task) in tasks.iter().enumerate() {
            for piece_number in task.needed.get().into_iter().flatten() {
                let Some(id) = task.pieces.get(*piece_number).and_then(|p| p.id.as_ref()) else { continue };
                let index = self.reader.index();
                let places = index.places(id);
                let best = places.iter().find(|p| index.is_healthy(p.frame)).or(places.first());
                match best {
                    Some(place) => groups.entry(place.frame).or_default().push((number, *piece_number, *place)),
                    None => {
                        let missing = Error::Missing { what: format!("blob {id}") };
                        self.fail(&mut Opener::new(self.root), task, "restore", &io::Error::other(missing), progress);
                        break;
                    }
                }
            }
        }
        groups.into_iter().collect()
    }

    fn fill_from_frame(
        &self,
        opener: &mut Opener<'_>,
        tasks: &[FileTask],
        (frame, items): &Group,
        progress: &dyn Progress,
    ) -> Result<()> {
        let opened = match self.reader.frame(*frame) {
            Err(e) if !e.is_damage() => return Err(e),
            opened => opened,
        };
        for (number, piece_number, place) in items {
            let Some(task) = tasks.get(*number).filter(|t| !t.failed.load(Ordering::Acquire)) else { continue };
            let Some((piece, id)) = task.pieces.get(*piece_number).and_then(|p| Some((p, p.id.as_ref()?))) else {
                continue;
            };
            let direct = opened.as_ref().ok().and_then(|frame| self.reader.verified(frame, *place, id).ok());
            let elsewhere = match direct {
                Some(_) => Vec::new(),
                None => match self.reader.blob(id) {
                    Ok(bytes) => bytes,
                    Err(e) if e.is_damage() => {
                        self.fail(opener, task, "restore", &io::Error::other(e), progress);
                        continue;
                    }
                    Err(e) => return Err(e),
                },
            };
            let bytes = direct.unwrap_or(&elsewhere);
            if let Err(e) = self.write(opener, task, piece, bytes, progress) {
                if is_fatal(&e) {
                    return Err(Error::file("write", metadata::bytes_path(&task.path()), e));
                }
                self.fail(opener, task, "write", &e, progress);
            }
        }
        Ok(())
    }

    fn write(
        &self,
        opener: &mut Opener<'_>,
        task: &FileTask,
        piece: &Piece,
        bytes: &[u8],
        progress: &dyn Progress,
    ) -> io::Result<()> {
        if bytes.len() as u64 != piece.length_bytes {
            return Err(io::Error::other("a blob is not as long as the file's list says"));
        }
        self.with_file(opener, task, |file| file.write_all_at(bytes, piece.offset_bytes))?;
        Tally::add(&self.tally.bytes, piece.length_bytes);
        progress.tell(Event::Done { entries: 0, bytes: piece.length_bytes });
        if task.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.finish(opener, task, progress)?;
        } else {
            // Kept open only while it is written to: a window may hold many files that wait for a second frame.
            let mut state = task.state();
            if let Some(file) = state.file.take() {
                state.inode = Some(identity(&file)?);
            }
        }
        Ok(())
    }

    /// Does something with a file, which is made or opened for it.
    fn with_file(
        &self,
        opener: &mut Opener<'_>,
        task: &FileTask,
        work: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut state = task.state();
        if task.failed.load(Ordering::Acquire) {
            return Err(io::Error::other("it was given up"));
        }
        if state.file.is_none() {
            let folder = opener.open(&task.folder)?;
            let name = task.written_name();
            if state.begun || task.way == Way::InPlace {
                state.file = Some(open_again(folder.as_fd(), &name, state.inode)?);
            } else {
                let file = match live::create_file(folder.as_fd(), &name) {
                    // What an interrupted restore has left.
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                        rustix::fs::unlinkat(folder.as_fd(), name.as_slice(), rustix::fs::AtFlags::empty())?;
                        live::create_file(folder.as_fd(), &name)
                    }
                    created => created,
                };
                let file = File::from(file?);
                state.begun = true;
                let file = state.file.insert(file);
                if task.pieces.len() != 1 || task.pieces.iter().any(|p| p.id.is_none()) {
                    file.set_len(task.size_bytes)?;
                }
            }
        }
        state.file.as_ref().map_or(Ok(()), work)
    }

    /// The file has all its bytes: metadata, then its name.
    fn finish(&self, opener: &mut Opener<'_>, task: &FileTask, progress: &dyn Progress) -> io::Result<()> {
        self.with_file(opener, task, |file| {
            let there = if task.way == Way::InPlace { Some(rustix::fs::fstat(file)?) } else { None };
            self.apply(task, file, there.as_ref(), progress);
            Ok(())
        })?;
        task.state().file = None;
        let written = task.written_name();
        if written != task.name {
            live::rename_over(opener.open(&task.folder)?.as_fd(), &written, &task.name)?;
        }
        Tally::add(&self.tally.files, 1);
        progress.tell(Event::Done { entries: 1, bytes: 0 });
        Ok(())
    }

    fn finish_same(&self, opener: &mut Opener<'_>, task: &FileTask, progress: &dyn Progress) -> io::Result<()> {
        let folder = opener.open(&task.folder)?;
        let file = File::from(live::open_existing(folder.as_fd(), &task.name, false)?);
        self.apply(task, &file, Some(&rustix::fs::fstat(&file)?), progress);
        Tally::add(&self.tally.same, 1);
        progress.tell(Event::Done { entries: 1, bytes: task.size_bytes });
        Ok(())
    }

    fn apply(&self, task: &FileTask, file: &File, there: Option<&Stat>, progress: &dyn Progress) {
        let bare = task.bare && there.is_none();
        let options = ApplyOptions { there, by_name: self.by_name, is_symlink: false, bare };
        let shortfalls = metadata::apply(Handle::Open(file.as_fd()), &task.metadata, self.owners, options);
        Tally::add(&self.tally.problems, u64::from(!shortfalls.is_empty()));
        for (verb, cause) in shortfalls {
            progress.tell(Event::Problem { path: &task.path(), verb: &verb, cause: &cause });
        }
    }

    /// Gives a file up: what was written of it goes, what was there before stays.
    fn fail(&self, opener: &mut Opener<'_>, task: &FileTask, verb: &str, cause: &io::Error, progress: &dyn Progress) {
        if task.failed.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = task.state();
        let begun = state.file.take().map_or(state.inode, |file| identity(&file).ok());
        let beside = task.way != Way::InPlace && task.way != Way::Keep;
        if let (true, Some(begun), Ok(folder)) = (beside, begun, opener.open(&task.folder)) {
            let name = task.written_name();
            // What somebody has put in its place is not ours to remove.
            if matches!(live::look(folder.as_fd(), &name), Ok(Some(stat)) if (stat.st_dev, stat.st_ino) == begun) {
                let _ = rustix::fs::unlinkat(folder.as_fd(), name.as_slice(), rustix::fs::AtFlags::empty());
            }
        }
        Tally::add(&self.tally.problems, 1);
        if task.linked {
            self.tally.note_failed(task.path());
        }
        progress.tell(Event::Problem { path: &task.path(), verb, cause });
    }
}

/// Device and inode of an open file.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(file)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens a file for writing that was begun, or looked at, before.
fn open_again(folder: BorrowedFd<'_>, name: &[u8], known: Option<(u64, u64)>) -> io::Result<File> {
    let file = File::from(live::open_existing(folder, name, true)?);
    match known {
        Some(known) if identity(&file)? != known => Err(io::Error::other("somebody has put another file in its place")),
        _ => Ok(file),
    }
}

fn all_pieces(task: &FileTask) -> Vec<usize> {
    (0..task.pieces.len()).collect()
}

fn check_stop(progress: &dyn Progress) -> Result<()> {
    if progress.stop_wanted() { Err(Error::Interrupted) } else { Ok(()) }
}

/// Whether going on with other files makes no sense: the target is full or gone.
fn is_fatal(e: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(Errno::from_io_error(e), Some(Errno::NOSPC | Errno::DQUOT | Errno::ROFS | Errno::NODEV))
}
