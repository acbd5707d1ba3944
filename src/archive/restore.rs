//! A snapshot into live files: plan a window of files, fill it, go on; folders get their metadata last.
//!
//! The plan walks the stored tree and makes folders, links and devices at once; files are gathered in windows that
//! another thread fills meanwhile (`archive/fill`). A problem with one entry is reported and the others go on.

use crate::{
    archive::{
        fill::{FileTask, Filling, IN_PLACE_BYTES, Piece, Tally, Way},
        filter::Patterns,
        live::{self, Folder, Opener, Special},
        metadata::{self, ApplyOptions, Handle, Owners},
    },
    blobs::reader::Reader,
    error::{Error, Result},
    progress::{Event, Progress},
    repo::{
        listing::{Listing, listing, runs},
        tree::{Content, Entry, Metadata, Node, Run},
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

/// When a file that is there already is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Whenever its content differs; the content is read to find out.
    Always,
    /// When its size or its time differ; else its content is taken to be the same.
    IfChanged,
    /// When the snapshot's is newer.
    IfNewer,
    /// Never.
    Never,
}

/// What is restored, and how.
#[derive(Debug)]
pub struct RestoreRequest {
    /// What is taken, if not everything: patterns on paths as they were backed up.
    pub include: Patterns,
    /// What is left out.
    pub exclude: Patterns,
    /// When files that are there are written over.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not have, below folders that were sources.
    pub delete: bool,
    /// Change nothing; count what would be done.
    pub dry_run: bool,
    /// Owners by name where this machine knows the names, else by number.
    pub by_name: bool,
    /// How many threads write.
    pub threads: usize,
    /// Whether the selected folder's own metadata is put on the root of the target.
    pub root_metadata: bool,
}

/// The part of a snapshot that is restored.
#[derive(Debug)]
pub struct Selected<'a> {
    /// The folder whose contents go into the target, or the one file or other entry that does.
    pub entry: &'a Entry,
    /// Its path in the snapshot, with a leading `/`; empty for the root.
    pub path: &'a [u8],
    /// The absolute paths that were backed up.
    pub sources: &'a [Vec<u8>],
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files written.
    pub files: u64,
    /// Files that were the same already.
    pub same: u64,
    /// Entries that were there and were left alone.
    pub skipped: u64,
    /// Folders made.
    pub folders: u64,
    /// Links, devices, pipes and sockets made.
    pub others: u64,
    /// Entries removed because the snapshot does not have them.
    pub deleted: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that could not be restored, or not exactly.
    pub problems: u64,
}

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
    let (owners, tally) = (Owners::default(), Tally::default());
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
    finisher.apply_to_folders(&late.folders);
    if !request.dry_run {
        // Whatever the file system refuses here it has refused to promise; the bytes are written.
        let _ = rustix::fs::syncfs(root);
    }
    done.files += tally.files.load(Ordering::Relaxed);
    done.same += tally.same.load(Ordering::Relaxed);
    done.bytes += tally.bytes.load(Ordering::Relaxed);
    done.problems = tally.problems.load(Ordering::Relaxed);
    Ok(done)
}

/// A name that becomes a link once the file that it shares its inode with is complete.
struct LateLink {
    first: (Arc<Folder>, Vec<u8>),
    folder: Arc<Folder>,
    name: Vec<u8>,
}

/// What can only be done once all files are written.
#[derive(Default)]
struct Late {
    links: Vec<LateLink>,
    folders: Vec<(Arc<Folder>, Metadata)>,
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
    /// Whether the folder is there, in a dry run.
    exists: bool,
}

struct Planner<'a> {
    reader: &'a Reader,
    request: &'a RestoreRequest,
    sources: &'a [Vec<u8>],
    opener: Opener<'a>,
    owners: &'a Owners,
    tally: &'a Tally,
    progress: &'a dyn Progress,
    windows: Option<Sender<Vec<FileTask>>>,
    window: Vec<FileTask>,
    window_pieces: usize,
    links: HashMap<u64, (Arc<Folder>, Vec<u8>, Node)>,
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
            late: Late::default(),
            path: selected.path.to_vec(),
            levels: Vec::new(),
            done: Restored::default(),
        }
    }

    fn run(&mut self, selected: &Selected<'_>) -> Result<Restored> {
        let root = Folder::root();
        match &selected.entry.node {
            Node::Folder { content } => {
                if self.request.root_metadata {
                    self.late.folders.push((Arc::clone(&root), selected.entry.metadata.clone()));
                }
                self.enter(root, content, true, self.request.include.is_empty());
                while let Some(level) = self.levels.last_mut() {
                    self.path.truncate(level.path_bytes);
                    match level.listing.next() {
                        Some(Ok((entry, _))) => self.take(entry)?,
                        Some(Err(e)) => self.damaged(e)?,
                        None => self.leave(),
                    }
                }
            }
            _ => {
                self.path.truncate(self.path.iter().rposition(|b| *b == b'/').unwrap_or_default());
                self.place(&root, true, selected.entry.clone())?;
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
        self.progress.tell(Event::Problem { path: &self.path, verb, cause });
    }

    fn enter(&mut self, folder: Arc<Folder>, content: &Content, exists: bool, included: bool) {
        let names = (self.request.delete && exists && self.is_in_source()).then(HashSet::new);
        let listing = listing(self.reader, content, None);
        self.levels.push(Level { folder, path_bytes: self.path.len(), listing, included, names, exists });
    }

    fn is_in_source(&self) -> bool {
        self.sources.iter().any(|source| {
            let source = source.strip_suffix(b"/").unwrap_or(source);
            self.path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        })
    }

    fn leave(&mut self) {
        let Some(level) = self.levels.pop() else { return };
        if let Some(names) = &level.names
            && let Err(e) = self.delete_others(&level, names)
        {
            self.problem("remove what the snapshot does not have from", &e);
        }
    }

    fn delete_others(&mut self, level: &Level<'_>, names: &HashSet<Vec<u8>>) -> io::Result<()> {
        let folder = self.opener.open(&level.folder)?;
        let device = rustix::fs::fstat(folder.as_fd())?.st_dev;
        for name in live::names_of(folder.as_fd())? {
            if names.contains(&name) {
                continue;
            }
            let Some(stat) = live::look(folder.as_fd(), &name)? else { continue };
            self.path.truncate(level.path_bytes);
            self.step_into(&name);
            let is_folder = live::kind_of(&stat) == FileType::Directory;
            let included = level.included || self.request.include.matches(&self.path, is_folder);
            if !live::is_unfinished(&name) && (!included || self.request.exclude.matches(&self.path, is_folder)) {
                continue;
            }
            if self.request.dry_run {
                self.done.deleted += 1;
                continue;
            }
            match live::remove(folder.as_fd(), &name, device) {
                Ok(removed) => self.done.deleted += removed,
                Err(e) => self.problem("remove", &e),
            }
        }
        Ok(())
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
        let included = level.included || self.request.include.matches(&self.path, is_folder);
        let (folder, exists) = (Arc::clone(&level.folder), level.exists);
        match &entry.node {
            Node::Folder { content } => {
                let placed = self.place_folder(&folder, exists, &entry, included);
                match placed {
                    Ok(Some(now_exists)) => self.enter(folder.child(&entry.name), content, now_exists, included),
                    Ok(None) => {}
                    Err(e) => self.problem("make the folder", &e),
                }
                Ok(())
            }
            _ if included => self.place(&folder, exists, entry),
            _ => Ok(()),
        }
    }

    /// Makes a folder, or takes the one that is there. Says whether it is there now, or nothing where it is left out.
    fn place_folder(
        &mut self,
        parent: &Arc<Folder>,
        exists: bool,
        entry: &Entry,
        included: bool,
    ) -> io::Result<Option<bool>> {
        if !exists {
            self.done.folders += 1;
            return Ok(Some(false));
        }
        let open = self.opener.open(parent)?;
        let found = live::look(open.as_fd(), &entry.name)?;
        let is_there = found.as_ref().is_some_and(|stat| live::kind_of(stat) == FileType::Directory);
        if !is_there {
            if let Some(stat) = found {
                if !self.may_replace(&entry.metadata, &stat) {
                    self.done.skipped += 1;
                    return Ok(None);
                }
                if !self.request.dry_run {
                    rustix::fs::unlinkat(open.as_fd(), entry.name.as_slice(), AtFlags::empty())?;
                }
            }
            self.done.folders += 1;
            if self.request.dry_run {
                return Ok(Some(false));
            }
            live::make_folder(open.as_fd(), &entry.name)?;
        }
        if !is_there || (included && self.is_in_source()) {
            self.late.folders.push((parent.child(&entry.name), entry.metadata.clone()));
        }
        Ok(Some(true))
    }

    /// Whether something that is there may make way.
    fn may_replace(&self, wanted: &Metadata, there: &Stat) -> bool {
        match self.request.overwrite {
            Overwrite::Always | Overwrite::IfChanged => true,
            Overwrite::IfNewer => wanted.mtime > metadata::mtime(there),
            Overwrite::Never => false,
        }
    }

    /// Puts anything but a folder in its place, or plans to.
    fn place(&mut self, folder: &Arc<Folder>, exists: bool, entry: Entry) -> Result<()> {
        self.progress.tell(Event::Path(&self.path));
        let there = if exists {
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
        if there.as_ref().is_some_and(|stat| !self.may_replace(&entry.metadata, stat)) {
            self.done.skipped += 1;
            return Ok(());
        }
        if let Some(id) = entry.link {
            match self.links.get(&id) {
                // Two snapshots of the same id with other content would be a forgery: then it is a file of its own.
                Some((first_folder, first_name, node)) if *node == entry.node => {
                    let first = (Arc::clone(first_folder), first_name.clone());
                    self.late.links.push(LateLink { first, folder: Arc::clone(folder), name: entry.name });
                    return Ok(());
                }
                Some(_) => {}
                None => drop(self.links.insert(id, (Arc::clone(folder), entry.name.clone(), entry.node.clone()))),
            }
        }
        match &entry.node {
            Node::File { size_bytes, content } => self.plan_file(folder, there, &entry, *size_bytes, content),
            _ => {
                if let Err(e) = self.make_special(folder, there, &entry) {
                    self.problem("make", &e);
                }
                Ok(())
            }
        }
    }

    fn plan_file(
        &mut self,
        folder: &Arc<Folder>,
        there: Option<Stat>,
        entry: &Entry,
        size: u64,
        content: &Content,
    ) -> Result<()> {
        let way = match there {
            None => Way::Create,
            Some(stat) if live::kind_of(&stat) == FileType::Directory => {
                let open = self.opener.open(folder);
                let removed = open.and_then(|open| make_way(open.as_fd(), &entry.name, &stat, self.request));
                if let Err(e) = removed {
                    self.problem("make way for", &e);
                    return Ok(());
                }
                Way::Create
            }
            Some(stat) => self.way_over(&stat, entry, size),
        };
        if self.request.dry_run {
            *(if way == Way::Keep { &mut self.done.same } else { &mut self.done.files }) += 1;
            self.done.bytes += if way == Way::Keep { 0 } else { size };
            return Ok(());
        }
        let pieces = match self.pieces(content) {
            Ok(pieces) => pieces,
            Err(e) if e.is_damage() => {
                self.problem("restore", &io::Error::other(e));
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        self.window_pieces += pieces.len();
        let task = FileTask::new(Arc::clone(folder), entry.name.clone(), entry.metadata.clone(), size, pieces, way);
        self.window.push(task);
        if self.window.len() >= WINDOW_FILES || self.window_pieces >= WINDOW_PIECES { self.send() } else { Ok(()) }
    }

    /// How a file gets its bytes where something but a folder is there.
    fn way_over(&self, stat: &Stat, entry: &Entry, size_bytes: u64) -> Way {
        let same_size = i64::try_from(size_bytes).ok() == Some(stat.st_size);
        if live::kind_of(stat) != FileType::RegularFile {
            return Way::Replace;
        }
        let same = same_size && metadata::mtime(stat) == entry.metadata.mtime;
        if same && self.request.overwrite == Overwrite::IfChanged && (stat.st_nlink > 1) == entry.link.is_some() {
            return Way::Keep;
        }
        // A file with other names would take them along; the snapshot says which names belong together.
        if stat.st_nlink > 1 && entry.link.is_none() {
            return Way::Replace;
        }
        if size_bytes > IN_PLACE_BYTES && stat.st_nlink == 1 && entry.link.is_none() {
            return Way::InPlace;
        }
        if same_size { Way::Compare } else { Way::Replace }
    }

    fn pieces(&self, content: &Content) -> Result<Vec<Piece>> {
        let mut offset_bytes = 0;
        let mut pieces = Vec::with_capacity(content.runs.len());
        for run in runs(self.reader, content) {
            let (id, length_bytes) = match run? {
                Run::Data { id, length_bytes } => (Some(id), length_bytes),
                Run::Hole { length_bytes } => (None, length_bytes),
            };
            pieces.push(Piece { offset_bytes, length_bytes, id });
            offset_bytes += length_bytes;
        }
        Ok(pieces)
    }

    fn make_special(&mut self, folder: &Arc<Folder>, there: Option<Stat>, entry: &Entry) -> io::Result<()> {
        let device = |(major, minor): (u32, u32)| rustix::fs::makedev(major, minor);
        let special = match &entry.node {
            Node::Symlink { target } => Special::Symlink(target),
            Node::CharDevice { device: numbers } => Special::Node(FileType::CharacterDevice, device(*numbers)),
            Node::BlockDevice { device: numbers } => Special::Node(FileType::BlockDevice, device(*numbers)),
            Node::Fifo => Special::Node(FileType::Fifo, 0),
            Node::Socket => Special::Node(FileType::Socket, 0),
            Node::File { .. } | Node::Folder { .. } => return Ok(()),
        };
        self.done.others += 1;
        if self.request.dry_run {
            return Ok(());
        }
        let open = self.opener.open(folder)?;
        let (at, name) = (open.as_fd(), entry.name.as_slice());
        let shared = there.as_ref().is_some_and(|stat| stat.st_nlink > 1) != entry.link.is_some();
        match there {
            None => special.make(at, name)?,
            Some(stat) if special.is_at(at, name, &stat) && !shared => {}
            Some(stat) => {
                if live::kind_of(&stat) == FileType::Directory {
                    make_way(at, name, &stat, self.request)?;
                    special.make(at, name)?;
                } else {
                    let beside = live::unfinished_name(name);
                    let _ = rustix::fs::unlinkat(at, beside.as_slice(), AtFlags::empty());
                    special.make(at, &beside)?;
                    live::rename_over(at, &beside, name)?;
                }
            }
        }
        let options =
            ApplyOptions { by_name: self.request.by_name, is_symlink: matches!(special, Special::Symlink(_)) };
        let shortfalls = metadata::apply(special.handle(at, name), &entry.metadata, self.owners, options);
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

/// Removes a folder where something else belongs: an empty one always, a full one only if removing was asked for.
fn make_way(folder: BorrowedFd<'_>, name: &[u8], stat: &Stat, request: &RestoreRequest) -> io::Result<()> {
    if request.dry_run {
        return Ok(());
    }
    if request.delete {
        return live::remove(folder, name, stat.st_dev).map(drop);
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Does what can only be done once all files are written.
struct Finisher<'a> {
    root: BorrowedFd<'a>,
    opener: Opener<'a>,
    owners: &'a Owners,
    request: &'a RestoreRequest,
    tally: &'a Tally,
    progress: &'a dyn Progress,
}

impl Finisher<'_> {
    fn problem(&self, path: &[u8], verb: &str, cause: &io::Error) {
        Tally::add(&self.tally.problems, 1);
        self.progress.tell(Event::Problem { path, verb, cause });
    }

    /// Gives every further name to its inode. Returns how many there were.
    fn link(&mut self, links: &[LateLink]) -> u64 {
        let mut made = 0;
        for link in links {
            let done = if self.request.dry_run { Ok(()) } else { self.link_one(link) };
            match done {
                Ok(()) => made += 1,
                Err(e) => self.problem(&link.folder.path_of(&link.name), "link", &e),
            }
        }
        made
    }

    fn link_one(&mut self, link: &LateLink) -> io::Result<()> {
        let (first_folder, first_name) = (self.opener.open(&link.first.0)?, link.first.1.as_slice());
        let folder = self.opener.open(&link.folder)?;
        let make =
            |name: &[u8]| rustix::fs::linkat(first_folder.as_fd(), first_name, folder.as_fd(), name, AtFlags::empty());
        let Some(there) = live::look(folder.as_fd(), &link.name)? else { return Ok(make(&link.name)?) };
        let first = live::look(first_folder.as_fd(), first_name)?;
        if first.is_some_and(|first| (first.st_dev, first.st_ino) == (there.st_dev, there.st_ino)) {
            return Ok(());
        }
        if live::kind_of(&there) == FileType::Directory {
            make_way(folder.as_fd(), &link.name, &there, self.request)?;
            return Ok(make(&link.name)?);
        }
        let beside = live::unfinished_name(&link.name);
        let _ = rustix::fs::unlinkat(folder.as_fd(), beside.as_slice(), AtFlags::empty());
        make(&beside)?;
        live::rename_over(folder.as_fd(), &beside, &link.name)
    }

    /// Folders get their metadata from the leaves to the root, for making an entry changes its folder's time.
    fn apply_to_folders(&mut self, folders: &[(Arc<Folder>, Metadata)]) {
        if self.request.dry_run {
            return;
        }
        let options = ApplyOptions { by_name: self.request.by_name, is_symlink: false };
        for (folder, wanted) in folders.iter().rev() {
            let shortfalls = match folder.place() {
                None => metadata::apply(Handle::Open(self.root), wanted, self.owners, options),
                Some(_) => match self.opener.open(folder) {
                    Ok(open) => metadata::apply(Handle::Open(open.as_fd()), wanted, self.owners, options),
                    Err(e) => vec![("open".to_owned(), e)],
                },
            };
            for (verb, cause) in shortfalls {
                self.problem(&folder.path_of(b""), &verb, &cause);
            }
            self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        }
    }
}
