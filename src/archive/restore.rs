//! A snapshot into live files: plan a window of files, fill it, go on; folders get their metadata last.
//!
//! Folders, links and devices are made while the stored tree is walked; files are gathered in windows that another
//! thread fills meanwhile (`archive/fill`). A problem with one entry is reported and the others go on.

use crate::{
    archive::{
        fill::{FileTask, Filling, Tally, Way},
        finish::{Cleaning, Finisher, Late, LateLink, make_way},
        live::{self, Folder, OpenFolder, Opener},
        metadata::{self, ApplyOptions, Handle, Owners},
        piece,
        request::{RestoreRequest, Restored, Selected, is_within},
        special,
    },
    blobs::reader::Reader,
    error::{Error, Result},
    progress::{Event, Progress},
    repo::{
        content::Content,
        listing::{Listing, listing},
        tree::{Entry, Metadata, Node},
    },
};
use crossbeam_channel::{Sender, bounded};
use rustix::fs::{AtFlags, FileType, Stat};
use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, atomic::Ordering},
};

/// A window is filled once it holds this many files or pieces.
const WINDOW_FILES: usize = 16 << 10;
const WINDOW_PIECES: usize = 64 << 10;

/// Restores a part of a snapshot below an open folder. On return everything is written and, where the file system can
/// promise it, durable. What could not be restored exactly was told as problems and is counted.
///
/// # Errors
/// `Interrupted`; a target that is full or gone; storage errors that are no damage. Running it again goes on.
pub fn restore(
    reader: &Reader,
    selected: &Selected<'_>,
    root: BorrowedFd<'_>,
    request: &RestoreRequest,
    progress: &dyn Progress,
) -> Result<Restored> {
    let (owners, tally) = (Owners::new(request.directory.clone()), Tally::default());
    let threads = request.threads;
    let filling = Filling { root, reader, owners: &owners, by_name: request.by_name, threads, tally: &tally };
    let (windows, to_fill) = bounded::<Vec<FileTask>>(1);
    let (planned, late) = std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            let filled = to_fill.iter().try_for_each(|window| filling.fill(&window, progress));
            drop(to_fill);
            filled
        });
        let mut planner = Planner::new(reader, request, selected, root, &owners, &tally, progress, windows);
        let planned = planner.run(selected);
        let late = planner.end();
        let filled = filler.join().map_err(|_| Error::Refused)?;
        Ok::<_, Error>((filled.and(planned)?, late))
    })?;
    let mut done: Restored = planned;
    let mut finisher = Finisher { root, opener: Opener::new(root), owners: &owners, request, tally: &tally, progress };
    done.others += finisher.link(&late.links);
    done.deleted += finisher.clean(&late.cleanings);
    finisher.apply_to_folders(&late.folders);
    if !request.dry_run {
        finisher.sync(&late.devices);
    }
    done.files += tally.files.load(Ordering::Relaxed);
    done.same += tally.same.load(Ordering::Relaxed);
    done.bytes += tally.bytes.load(Ordering::Relaxed);
    done.problems = tally.problems.load(Ordering::Relaxed);
    Ok(done)
}

/// A stored folder that is being walked.
struct Level<'a> {
    folder: Arc<Folder>,
    path_bytes: usize,
    listing: Listing<'a>,
    /// Everything below a pattern that includes it is included.
    included: bool,
    /// Names that the snapshot has here, where others are to be removed.
    names: Option<HashSet<Vec<u8>>>,
    state: State,
    waits: Waits,
}

/// Whether a folder is made only once something in it is to be restored: no pattern includes the folder itself.
enum Waits {
    /// It is there, or was never to wait.
    No,
    /// It is not there, and this is what it shall be.
    Yes(Box<Entry>),
    /// What stands in its place stays, or it could not be made, which was told.
    InVain,
}

/// What is known of a live folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It is not there, and a dry run makes none.
    Absent,
    /// It was there before.
    Old,
    /// It was made just now and is empty. Bare, what is made in it has no attributes that nobody gave it.
    New { bare: bool },
}

struct Planner<'a> {
    reader: &'a Reader,
    request: &'a RestoreRequest,
    sources: &'a [Vec<u8>],
    root: BorrowedFd<'a>,
    opener: Opener<'a>,
    owners: &'a Owners,
    tally: &'a Tally,
    progress: &'a dyn Progress,
    windows: Option<Sender<Vec<FileTask>>>,
    window: Vec<FileTask>,
    window_pieces: usize,
    links: HashMap<u64, (Arc<Folder>, Vec<u8>, Node)>,
    claimed: HashMap<(u64, u64), u64>,
    late: Late,
    path: Vec<u8>,
    levels: Vec<Level<'a>>,
    done: Restored,
}

impl<'a> Planner<'a> {
    #[expect(clippy::too_many_arguments, reason = "the parts of one restore, put together in one place")]
    fn new(
        reader: &'a Reader,
        request: &'a RestoreRequest,
        selected: &Selected<'a>,
        root: BorrowedFd<'a>,
        owners: &'a Owners,
        tally: &'a Tally,
        progress: &'a dyn Progress,
        windows: Sender<Vec<FileTask>>,
    ) -> Self {
        Self {
            reader,
            request,
            sources: selected.sources,
            opener: Opener::new(root),
            owners,
            tally,
            progress,
            windows: Some(windows),
            window: Vec::new(),
            window_pieces: 0,
            links: HashMap::new(),
            claimed: HashMap::new(),
            root,
            late: Late::default(),
            path: selected.path.to_vec(),
            levels: Vec::new(),
            done: Restored::default(),
        }
    }

    fn run(&mut self, selected: &Selected<'_>) -> Result<Restored> {
        let is_folder = matches!(selected.entry.node, Node::Folder { .. });
        if !is_folder {
            self.path.truncate(self.path.iter().rposition(|b| *b == b'/').unwrap_or_default());
        }
        let root = Folder::root(&self.path);
        if let Ok(stat) = rustix::fs::fstat(self.root) {
            self.late.devices.insert(stat.st_dev, Arc::clone(&root));
        }
        if is_folder {
            if self.request.root_metadata {
                self.late.folders.push((Arc::clone(&root), selected.entry.metadata.clone()));
            }
            self.enter(root, selected.entry, State::Old, self.request.takes_all(), Waits::No);
        } else {
            self.place(&root, State::Old, selected.entry.clone())?;
        }
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path_bytes);
            match level.listing.next() {
                Some(Ok((entry, _))) => self.take(entry)?,
                Some(Err(e)) => self.damaged(e)?,
                None => self.leave(),
            }
        }
        self.send()?;
        Ok(self.done)
    }

    /// Closes the queue to the filler and hands over what is left to do after it.
    fn end(mut self) -> Late {
        self.windows = None;
        self.late
    }

    /// Part of a folder's list is lost: what stood in it cannot be named, and nothing is removed here.
    fn damaged(&mut self, e: Error) -> Result<()> {
        if !e.is_damage() {
            return Err(e);
        }
        if let Some(level) = self.levels.last_mut() {
            level.names = None;
        }
        self.problem("list", &io::Error::other(e));
        Ok(())
    }

    fn problem(&self, verb: &str, cause: &io::Error) {
        Tally::add(&self.tally.problems, 1);
        let path = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
        self.progress.tell(Event::Problem { path, verb, cause });
    }

    fn enter(&mut self, folder: Arc<Folder>, entry: &Entry, state: State, included: bool, waits: Waits) {
        let Node::Folder { content } = &entry.node else { return };
        // What is missing from a folder of which something was left out may be what was left out.
        let clean = self.request.delete && state == State::Old && !entry.partial;
        let names = (clean && is_within(&self.path, self.sources)).then(HashSet::new);
        let listing = listing(self.reader, content, None);
        self.levels.push(Level { folder, path_bytes: self.path.len(), listing, included, names, state, waits });
    }

    fn leave(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        if let Some(names) = level.names {
            let (folder, path, included) = (level.folder, self.path.clone(), level.included);
            self.late.cleanings.push(Cleaning { folder, path, names, included });
        }
    }

    fn step_into(&mut self, name: &[u8]) {
        self.path.push(b'/');
        self.path.extend_from_slice(name);
    }

    fn take(&mut self, entry: Entry) -> Result<()> {
        if self.progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        self.step_into(&entry.name);
        let is_folder = matches!(entry.node, Node::Folder { .. });
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        if let Some(names) = &mut level.names {
            names.insert(entry.name.clone());
        }
        if self.request.exclude.matches(&self.path, is_folder) {
            return Ok(());
        }
        let included = level.included || self.request.takes(&self.path, is_folder);
        if included && !self.end_waiting() {
            return Ok(());
        }
        let Some(level) = self.levels.last() else { return Ok(()) };
        let (folder, state) = (Arc::clone(&level.folder), level.state);
        match &entry.node {
            Node::Folder { .. } if !included => {
                let (state, waits) = match self.has_folder(&folder, state, &entry.name) {
                    true => (State::Old, Waits::No),
                    false => (State::Absent, Waits::Yes(Box::new(entry.clone()))),
                };
                self.enter(folder.child(&entry.name), &entry, state, false, waits);
                Ok(())
            }
            Node::Folder { .. } => {
                let placed = self.place_folder(&folder, state, &entry);
                match placed {
                    Ok(Some(now)) => self.enter(folder.child(&entry.name), &entry, now, true, Waits::No),
                    Ok(None) => {}
                    Err(e) => self.problem("make the folder", &e),
                }
                Ok(())
            }
            _ if included => self.place(&folder, state, entry),
            _ => Ok(()),
        }
    }

    /// Whether a folder stands under a name.
    fn has_folder(&mut self, parent: &Arc<Folder>, state: State, name: &[u8]) -> bool {
        let look = || self.opener.open(parent).and_then(|open| live::look(open.as_fd(), name));
        let found = (state == State::Old).then(look);
        matches!(found, Some(Ok(Some(stat))) if live::kind_of(&stat) == FileType::Directory)
    }

    /// Makes the folders that wait on the way to something that is to be restored. Says whether they are there.
    fn end_waiting(&mut self) -> bool {
        // In a folder that waits every folder waits, so that where the last one does not, none does.
        if self.levels.last().is_none_or(|level| matches!(level.waits, Waits::No)) {
            return true;
        }
        for n in 1..self.levels.len() {
            let Some([above, level]) = self.levels.get_mut(n - 1..=n) else { return false };
            if matches!(level.waits, Waits::No) {
                continue;
            }
            let (parent, state) = (Arc::clone(&above.folder), above.state);
            let Waits::Yes(entry) = std::mem::replace(&mut level.waits, Waits::InVain) else { return false };
            match self.place_folder(&parent, state, &entry) {
                Ok(Some(now)) => {
                    let Some(level) = self.levels.get_mut(n) else { return false };
                    (level.state, level.waits) = (now, Waits::No);
                }
                Ok(None) => return false,
                Err(e) => {
                    self.problem("make the folder for", &e);
                    return false;
                }
            }
        }
        true
    }

    /// Makes a folder, or takes the one that is there. Says what is known of it then, or nothing where it is left out.
    fn place_folder(&mut self, parent: &Arc<Folder>, state: State, entry: &Entry) -> io::Result<Option<State>> {
        if state == State::Absent {
            self.done.folders += 1;
            return Ok(Some(State::Absent));
        }
        let open = self.opener.open(parent)?;
        let found = if state == State::Old { live::look(open.as_fd(), &entry.name)? } else { None };
        if let Some(stat) = found.as_ref().filter(|stat| live::kind_of(stat) == FileType::Directory) {
            let folder = parent.child(&entry.name);
            if self.request.owns_folder(&self.path, self.sources) {
                self.late.folders.push((Arc::clone(&folder), entry.metadata.clone()));
            }
            self.late.devices.entry(stat.st_dev).or_insert(folder);
            return Ok(Some(State::Old));
        }
        if let Some(stat) = found {
            if !self.request.may_replace(&entry.metadata, &stat) {
                self.done.skipped += 1;
                return Ok(None);
            }
            if !self.request.dry_run {
                rustix::fs::unlinkat(open.as_fd(), entry.name.as_slice(), AtFlags::empty())?;
            }
        }
        self.done.folders += 1;
        if self.request.dry_run {
            return Ok(Some(State::Absent));
        }
        live::make_folder(open.as_fd(), &entry.name)?;
        self.late.folders.push((parent.child(&entry.name), entry.metadata.clone()));
        // A label or a default ACL that the new folder has got would be given to what is made in it, too.
        let made = live::open_folder(open.as_fd(), &entry.name)?;
        let bare = metadata::read_xattrs(Handle::Open(made.as_fd())).is_ok_and(|xattrs| xattrs.is_empty());
        if self.request.in_place && !is_within(&self.path, self.sources) {
            // Going on after an interruption leaves such a folder as it is; so it gets what it needs at once.
            let mode = entry.metadata.mode | 0o700;
            let options = ApplyOptions { there: None, by_name: self.request.by_name, is_symlink: false, bare };
            metadata::apply(
                Handle::Open(made.as_fd()),
                &Metadata { mode, ..entry.metadata.clone() },
                self.owners,
                options,
            );
        }
        Ok(Some(State::New { bare }))
    }

    /// Puts anything but a folder in its place, or plans to.
    fn place(&mut self, folder: &Arc<Folder>, state: State, entry: Entry) -> Result<()> {
        self.progress.tell(Event::Path(&self.path));
        let there = if state == State::Old {
            match self.opener.open(folder).and_then(|open| live::look(open.as_fd(), &entry.name)) {
                Ok(there) => there,
                Err(e) => {
                    self.problem("look at", &e);
                    return Ok(());
                }
            }
        } else {
            None
        };
        if there.as_ref().is_some_and(|stat| !self.request.may_replace(&entry.metadata, stat)) {
            self.done.skipped += 1;
            return Ok(());
        }
        if let Some(id) = entry.link {
            match self.links.get(&id) {
                // Two snapshots of the same id with other content would be a forgery: then it is a file of its own.
                Some((first_folder, first_name, node)) if *node == entry.node => {
                    let first = (Arc::clone(first_folder), first_name.clone());
                    let (name, metadata) = (entry.name, entry.metadata);
                    self.late.links.push(LateLink { first, folder: Arc::clone(folder), name, metadata });
                    return Ok(());
                }
                Some(_) => {}
                None => drop(self.links.insert(id, (Arc::clone(folder), entry.name.clone(), entry.node.clone()))),
            }
        }
        match &entry.node {
            Node::File { size_bytes, content } => {
                let bare = state == State::New { bare: true };
                self.plan_file((folder, bare), there, &entry, *size_bytes, content)
            }
            _ => {
                if let Err(e) = self.make_special(folder, there, &entry) {
                    self.failed(&entry, "make", &e);
                }
                Ok(())
            }
        }
    }

    /// Takes an inode with several names for the names of one link id; says whether it was free or that id's already.
    fn claim(&mut self, stat: &Stat, entry: &Entry) -> bool {
        let Some(id) = entry.link else { return true };
        *self.claimed.entry((stat.st_dev, stat.st_ino)).or_insert(id) == id
    }

    /// Gives an entry up, and with it the names that would be linked to it.
    fn failed(&self, entry: &Entry, verb: &str, cause: &io::Error) {
        if entry.link.is_some() {
            self.tally.note_failed(self.path.clone());
        }
        self.problem(verb, cause);
    }

    fn plan_file(
        &mut self,
        (folder, bare): (&Arc<Folder>, bool),
        there: Option<Stat>,
        entry: &Entry,
        size: u64,
        content: &Content,
    ) -> Result<()> {
        let way = match there {
            None => Way::Write,
            Some(stat) if live::kind_of(&stat) == FileType::Directory => {
                let open = self.opener.open(folder);
                let removed = open.and_then(|open| make_way(open.as_fd(), &entry.name, self.request));
                if let Err(e) = removed {
                    self.failed(entry, "make way for", &e);
                    return Ok(());
                }
                Way::Write
            }
            // The inode of another set of names: two sets that are equal by now are not to become one.
            Some(stat) if stat.st_nlink > 1 && !self.claim(&stat, entry) => Way::Write,
            Some(stat) => self.request.way_over(&stat, entry, size),
        };
        let pieces = match piece::pieces(self.reader, content) {
            Ok(pieces) => pieces,
            Err(e) if e.is_damage() => {
                self.failed(entry, "restore", &io::Error::other(e));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        if self.request.dry_run {
            let compare = |open: OpenFolder<'_>| piece::is_same(self.reader, open.as_fd(), &entry.name, &pieces);
            let may_be = way != Way::Write && self.opener.open(folder).and_then(compare).unwrap_or(false);
            let same = way == Way::Keep || may_be;
            *(if same { &mut self.done.same } else { &mut self.done.files }) += 1;
            self.done.bytes += if same { 0 } else { size };
            return Ok(());
        }
        self.window_pieces += pieces.len();
        let way = (way, entry.link.is_some());
        let mut task = FileTask::new(Arc::clone(folder), entry.name.clone(), entry.metadata.clone(), size, pieces, way);
        task.bare = bare;
        self.window.push(task);
        if self.window.len() >= WINDOW_FILES || self.window_pieces >= WINDOW_PIECES { self.send() } else { Ok(()) }
    }

    fn make_special(&mut self, folder: &Arc<Folder>, there: Option<Stat>, entry: &Entry) -> io::Result<()> {
        self.done.others += 1;
        if self.request.dry_run {
            return Ok(());
        }
        let open = self.opener.open(folder)?;
        let shortfalls = special::put(open.as_fd(), entry, there, self.request, self.owners)?;
        Tally::add(&self.tally.problems, u64::from(!shortfalls.is_empty()));
        for (verb, cause) in shortfalls {
            self.progress.tell(Event::Problem { path: &self.path, verb: &verb, cause: &cause });
        }
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        Ok(())
    }

    /// Hands the window over. A filler that has given up says why itself.
    fn send(&mut self) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        self.window_pieces = 0;
        match &self.windows {
            Some(windows) => windows.send(window).map_err(|_| Error::Refused),
            None => Err(Error::Refused),
        }
    }
}
