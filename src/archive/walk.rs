//! The live tree in stored order, compared with the parent snapshot as it goes.
//!
//! One thread walks, and has the names of a large folder looked at by several; what has not changed since the parent is
//! passed on whole, files that have are handed out to be read in batches. Folders are opened by descriptor, one name at a
//! time, so that no path is too long and no link is followed.

use crate::{
    archive::{
        ahead::{Ahead, Looked, MANY_NAMES},
        assemble::Item,
        batch::{Job, OpenBatch, TOLD_ITEMS},
        content::now,
        filter::{CACHE_TAG_NAME, Patterns},
        found::{Found, is_cache_tag},
        links::{Known, Linked, Links},
        live::{self, names_of},
        metadata::{self, Handle, Owners},
        parent::{Parent, advance, trusted},
        plan::{EVERYTHING, Late, Plan, Size, Sizes, View},
    },
    blobs::reader::Reader,
    error::{Error, Result},
    progress::{Event, Progress},
    repo::{
        content::Content,
        listing::Listing,
        snapshot::Problem,
        tree::{Entry, Metadata, Node, Stat, Xattrs},
    },
};
use crossbeam_channel::Sender;
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::{HashMap, HashSet},
    io,
    iter::Peekable,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

/// What is walked, and how.
#[derive(Debug)]
pub struct WalkOptions<'a> {
    /// What is left out.
    pub exclude: &'a Patterns,
    /// Leave the contents of tagged caches out.
    pub exclude_caches: bool,
    /// Stay on the file system of each source.
    pub one_file_system: bool,
    /// Read every file, whatever its times say.
    pub read_all: bool,
    /// Folders, by device and inode, whose contents are left out: the repository itself.
    pub skip: &'a [(u64, u64)],
    /// How the machine is looked at.
    pub view: &'a View,
}

struct Level<'a> {
    folder: Arc<OwnedFd>,
    path_bytes: usize,
    found: Ahead,
    parent: Option<Peekable<Listing<'a>>>,
    plan: &'a Plan,
    device: u64,
    own: (Entry, Stat),
    /// How much was met in it and below it.
    size: Size,
    /// Whether it was named, as a source or on the way to one.
    is_named: bool,
}

/// Walks live folders.
pub struct Walker<'a> {
    options: &'a WalkOptions<'a>,
    parent: Parent<'a>,
    owners: &'a Owners,
    progress: &'a dyn Progress,
    items: Sender<Vec<Item>>,
    jobs: Sender<Job>,
    open: OpenBatch,
    told: Vec<Item>,
    /// What is left out: the paths of folders, and the names in each.
    left_out: HashMap<&'a [u8], HashSet<&'a [u8]>>,
    links: Links,
    sizes: Sizes,
    /// What the parent has of what is walked last.
    late: Option<(Entry, Stat)>,
    failed: Option<Error>,
    path: Vec<u8>,
    levels: Vec<Level<'a>>,
}

/// The walk was ended from outside: the queues are closed, or the user wishes to stop.
struct Ended;

impl<'a> Walker<'a> {
    /// A walk that tells what it finds to `items` and hands files out to `jobs`.
    pub fn new(
        options: &'a WalkOptions<'a>,
        parent: Option<&'a Reader>,
        owners: &'a Owners,
        progress: &'a dyn Progress,
        items: Sender<Vec<Item>>,
        jobs: Sender<Job>,
    ) -> Self {
        Self {
            options,
            parent: Parent(parent),
            owners,
            progress,
            items,
            jobs,
            open: OpenBatch::default(),
            told: Vec::with_capacity(TOLD_ITEMS),
            left_out: options.view.left_out_of_folders(),
            links: Links::default(),
            sizes: Sizes::new(),
            late: None,
            failed: None,
            path: Vec::new(),
            levels: Vec::new(),
        }
    }

    /// Walks from the root of the file system to everything that is planned. `parent` is the root of the snapshot to
    /// compare with. Ends early, without closing the root, where the work is stopped.
    ///
    /// # Errors
    /// `File` where the root itself cannot be opened; that of what is made late.
    pub fn run(mut self, plan: &'a Plan, parent: Option<(&Entry, &Stat)>) -> Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = &self.options.view.root;
        let root = rustix::fs::open(base, flags, Mode::empty()).map_err(|e| Error::file("open", base, e))?;
        let stat = rustix::fs::fstat(&root).map_err(|e| Error::file("look at", base, e))?;
        if self.enter(Ok(root), Found { name: Vec::new(), stat, elsewhere: None }, parent, plan).is_ok() {
            let _ = self.walk();
        }
        self.failed.take().map_or(Ok(()), Err)
    }

    fn walk(&mut self) -> Result<(), Ended> {
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path_bytes);
            match level.found.next() {
                Some(Ok(found)) => self.take(found)?,
                Some(Err((name, e))) => self.miss(&name, &e)?,
                None => self.leave()?,
            }
        }
        Ok(())
    }

    fn tell(&mut self, item: Item) -> Result<(), Ended> {
        self.open.count_item();
        self.told.push(item);
        if self.told.len() >= TOLD_ITEMS {
            self.send()?;
        }
        if self.open.is_due() { self.hand_out() } else { Ok(()) }
    }

    /// Sends what was told.
    fn send(&mut self) -> Result<(), Ended> {
        if self.told.is_empty() {
            return Ok(());
        }
        self.items.send(std::mem::replace(&mut self.told, Vec::with_capacity(TOLD_ITEMS))).map_err(|_| Ended)
    }

    fn problem(&mut self, verb: &str, cause: &io::Error) -> Result<(), Ended> {
        let path = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        self.tell(Item::Problem(Problem { path, verb: verb.into(), cause: cause.to_string() }))
    }

    /// Hands the open batch out to be read. What was told goes before it: who makes room for more may wait for that.
    fn hand_out(&mut self) -> Result<(), Ended> {
        self.send()?;
        self.open.take().map_or(Ok(()), |job| self.jobs.send(job).map_err(|_| Ended))
    }

    /// Begins a folder. One that cannot be opened or read is kept, empty, and reported.
    fn enter(
        &mut self,
        opened: io::Result<OwnedFd>,
        found: Found,
        parent: Option<(&Entry, &Stat)>,
        plan: &'a Plan,
    ) -> Result<(), Ended> {
        let looked = now();
        self.tell(Item::Open)?;
        let opened = opened.map(Arc::new);
        let (mut names, mut xattrs) = (None, Arc::default());
        match &opened {
            Ok(folder) => {
                match metadata::read_xattrs(Handle::Open(folder.as_fd())) {
                    Ok(read) => xattrs = read,
                    Err(e) => self.problem("read the attributes of", &e)?,
                }
                names = Some(self.list(folder, plan, &found, parent)?);
                if !plan.is_source && self.levels.last().is_some_and(|level| level.plan.is_source) {
                    self.tell(Item::LeftOut)?;
                }
            }
            Err(e) => self.problem("open", e)?,
        }
        let metadata = metadata::metadata(&found.stat, self.owners, xattrs);
        let node = Node::Folder { content: Content::default() };
        let own = (
            Entry { name: found.name, metadata, node, link: None, partial: false, extensions: Vec::new() },
            trusted(&found.stat, looked),
        );
        let (Ok(folder), Some(names)) = (opened, names) else { return self.tell(Item::Close(own.0, own.1)) };
        let parent = self.parent.listing(parent);
        let device = match self.levels.last() {
            Some(level) if plan.is_source && plan.from.is_none() && level.plan.is_source => level.device,
            _ => found.stat.st_dev,
        };
        let is_named = self.levels.last().is_none_or(|level| level.plan.names.contains_key(&own.0.name));
        let (path_bytes, size) = (self.path.len(), Size::default());
        self.levels.push(Level { folder, path_bytes, found: names, parent, plan, device, own, size, is_named });
        Ok(())
    }

    fn leave(&mut self) -> Result<(), Ended> {
        let Some(level) = self.levels.pop() else { return Ok(()) };
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        self.count(level.is_named, Size { entries: level.size.entries + 1, bytes: level.size.bytes });
        self.tell(Item::Close(level.own.0, level.own.1))
    }

    /// Counts what is at the path that the walk is at, and below it.
    fn count(&mut self, is_named: bool, size: Size) {
        if is_named {
            self.sizes.insert(self.path.clone(), size);
        }
        self.levels.last_mut().into_iter().for_each(|level| level.size += size);
    }

    /// Puts what is walked last behind all else in the root, and keeps what the parent has of it.
    fn defer(&mut self, looked: &mut [Looked], parent: Option<(&Entry, &Stat)>) {
        let Some(late) = &self.options.view.late else { return };
        looked.sort_by_key(|looked| looked.as_ref().is_ok_and(|found| found.name == late.name));
        self.late = self.parent.listing(parent).and_then(|mut parent| advance(&mut parent, &late.name));
    }

    /// Has what is walked last put together, and looks at it anew.
    fn make(&mut self, late: &Late, found: Found) -> Result<Found, Ended> {
        let made = (late.make)(&self.sizes);
        let from = self.levels.last().and_then(|level| level.plan.names.get(&found.name)?.from.as_deref());
        match (made, from.map(|from| Found::elsewhere(&found.name, from))) {
            (Ok(()), Some(Ok(found))) => Ok(found),
            (Ok(()), Some(Err(e))) => self.problem("look at", &e).map(|()| found),
            (Ok(()), None) => Ok(found),
            (Err(e), _) => {
                self.failed = Some(e);
                Err(Ended)
            }
        }
    }

    /// Names of an open folder that are wanted, in stored order, each with its inode.
    fn list(
        &mut self,
        folder: &Arc<OwnedFd>,
        plan: &Plan,
        own: &Found,
        parent: Option<(&Entry, &Stat)>,
    ) -> Result<Ahead, Ended> {
        if self.options.skip.contains(&(own.stat.st_dev, own.stat.st_ino)) {
            let path = String::from_utf8_lossy(&self.path);
            self.progress.tell(Event::Note(&format!("{path} is left out: it is the repository itself")));
            return self.tell(Item::LeftOut).map(|()| Ahead::known(Arc::clone(folder), Vec::new()));
        }
        let mut names: Vec<Vec<u8>> = plan.names.keys().cloned().collect();
        if plan.is_source {
            match names_of(folder.as_fd()) {
                Ok(all) => names.extend(all),
                Err(e) => self.problem("list", &e)?,
            }
        }
        names.sort_unstable();
        names.dedup();
        self.drop_left_out(&mut names, plan)?;
        let tag = CACHE_TAG_NAME.as_bytes();
        if self.options.exclude_caches && names.iter().any(|n| n == tag) && is_cache_tag(folder.as_fd()) {
            names.retain(|n| n == tag || plan.names.contains_key(n));
            self.tell(Item::LeftOut)?;
        }
        if names.len() >= MANY_NAMES && !self.levels.is_empty() && plan.names.values().all(|plan| plan.from.is_none()) {
            return Ok(Ahead::new(Arc::clone(folder), names));
        }
        let look = |name: Vec<u8>| match plan.names.get(&name) {
            Some(Plan { from: Some(from), .. }) => Found::elsewhere(&name, from).map_err(|e| (name, e)),
            _ => Found::here(folder, name),
        };
        let mut looked: Vec<Looked> = names.into_iter().map(look).collect();
        if self.levels.is_empty() {
            self.defer(&mut looked, parent);
        }
        Ok(Ahead::known(Arc::clone(folder), looked))
    }

    /// A name that could not be looked at. One that is gone since its folder was listed is as if it had gone a moment earlier.
    fn miss(&mut self, name: &[u8], e: &io::Error) -> Result<(), Ended> {
        let is_named = self.levels.last().is_some_and(|level| level.plan.names.contains_key(name));
        if e.kind() == io::ErrorKind::NotFound && !is_named {
            return Ok(());
        }
        self.step_into(name);
        self.problem("look at", e)
    }

    /// Takes out what is left out of a folder. It is not even looked at: its file system may be one that never answers.
    fn drop_left_out(&mut self, names: &mut Vec<Vec<u8>>, plan: &Plan) -> Result<(), Ended> {
        let (Some(out), before) = (self.left_out.get(self.path.as_slice()), names.len()) else { return Ok(()) };
        names.retain(|name| plan.names.contains_key(name) || !out.contains(name.as_slice()));
        if names.len() < before { self.tell(Item::LeftOut) } else { Ok(()) }
    }

    fn step_into(&mut self, name: &[u8]) {
        self.path.push(b'/');
        self.path.extend_from_slice(name);
    }

    fn take(&mut self, found: Found) -> Result<(), Ended> {
        if self.progress.stop_wanted() {
            return Err(Ended);
        }
        self.step_into(&found.name);
        let late = self.options.view.late.as_ref().filter(|late| self.levels.len() == 1 && late.name == found.name);
        let found = match late {
            Some(late) => self.make(late, found)?,
            None => found,
        };
        let kind = FileType::from_raw_mode(found.stat.st_mode);
        let is_folder = kind == FileType::Directory;
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        let own = level.plan.names.get(&found.name);
        if own.is_none() && self.options.exclude.matches(&self.path, is_folder) {
            return self.tell(Item::LeftOut);
        }
        let plan = own.unwrap_or(&EVERYTHING);
        let listed = level.parent.as_mut().and_then(|parent| advance(parent, &found.name));
        let parent = late.and_then(|_| self.late.take()).or(listed);
        if is_folder {
            return self.take_folder(found, parent, plan);
        }
        if !plan.is_source {
            return self.problem("enter", &io::Error::other("it is no folder"));
        }
        self.progress.tell(Event::Path(&self.path));
        let is_file = kind == FileType::RegularFile;
        let bytes = if is_file { u64::try_from(found.stat.st_size).unwrap_or_default() } else { 0 };
        self.count(own.is_some(), Size { entries: 1, bytes });
        if is_file {
            return self.take_file(found, parent);
        }
        self.take_other(found, kind)
    }

    fn take_folder(&mut self, found: Found, parent: Option<(Entry, Stat)>, plan: &'a Plan) -> Result<(), Ended> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let inside_source = level.plan.is_source && !level.plan.names.contains_key(&found.name);
        if self.options.one_file_system && inside_source && found.stat.st_dev != level.device {
            return self.take_boundary(found);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let (folder, name) = found.place(&level.folder);
        let open = |flags| rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty());
        let opened = match open(flags | OFlags::NOATIME) {
            Err(Errno::PERM) => open(flags),
            opened => opened,
        };
        let crosses = inside_source && found.stat.st_dev != level.own.1.device;
        if crosses && opened.as_ref().is_ok_and(|folder| live::is_made_up(folder.as_fd())) {
            let path = String::from_utf8_lossy(&self.path);
            self.progress.tell(Event::Note(&format!("{path} is left out: the kernel makes it up")));
            return self.take_boundary(found);
        }
        let parent = parent.as_ref().map(|(entry, stat)| (entry, stat));
        self.enter(opened.map_err(io::Error::from), found, parent, plan)
    }

    /// Keeps a folder whose contents are on another file system, without them.
    fn take_boundary(&mut self, found: Found) -> Result<(), Ended> {
        let metadata = metadata::metadata(&found.stat, self.owners, Arc::default());
        let node = Node::Folder { content: Content::default() };
        self.tell(Item::Open)?;
        let entry = Entry { name: found.name, metadata, node, link: None, partial: true, extensions: Vec::new() };
        self.tell(Item::Close(entry, trusted(&found.stat, now())))
    }

    /// The id that all names of an inode share, and where its content is if this is not its first name.
    fn link(&mut self, stat: &rustix::fs::Stat) -> Result<(Option<u64>, Option<Linked>), Ended> {
        match self.links.find(stat, &self.path) {
            Known::Alone => Ok((None, None)),
            Known::First(link) => Ok((Some(link), None)),
            Known::Again(link, linked) => Ok((Some(link), Some(linked))),
            Known::Changed(link) => {
                let cause = io::Error::other("it has changed since its other names were stored");
                self.problem("keep the link of", &cause).map(|()| (Some(link), None))
            }
        }
    }

    fn take_file(&mut self, found: Found, parent: Option<(Entry, Stat)>) -> Result<(), Ended> {
        let size = u64::try_from(found.stat.st_size).unwrap_or_default();
        let (link, known) = self.link(&found.stat)?;
        if let Some(Linked::Reading(batch, position)) = known {
            let (path, inode) = (self.path.clone(), (found.stat.st_ino, false));
            return self.tell(Item::Reading { name: found.name, link, batch, position, inode, path });
        }
        let looked = now();
        if let Some((entry, stat)) = parent.and_then(|parent| self.unchanged(&found, parent)) {
            self.progress.tell(Event::Done { entries: 1, bytes: size });
            self.links.remember(&found.stat, link, Linked::Whole(entry.node.clone()));
            return self.tell(Item::Whole(Entry { link, ..entry }, stat));
        }
        if let Some(Linked::Whole(node)) = known {
            let xattrs = self.xattrs_of(&found)?;
            let mut stat = trusted(&found.stat, looked);
            // The next backup is not to take what is missing for what is there.
            stat.ctime = stat.ctime.filter(|_| xattrs.is_some());
            let metadata = metadata::metadata(&found.stat, self.owners, xattrs.unwrap_or_default());
            let entry = Entry { name: found.name, metadata, node, link, partial: false, extensions: Vec::new() };
            return self.tell(Item::Whole(entry, stat));
        }
        let Some(level) = self.levels.last() else { return Ok(()) };
        let (folder, name) = found.place(&level.folder);
        let (batch, position) = self.open.add(Arc::clone(folder), name.to_vec(), size);
        self.links.remember(&found.stat, link, Linked::Reading(Arc::clone(&batch), position));
        let (path, inode) = (self.path.clone(), (found.stat.st_ino, true));
        self.tell(Item::Reading { name: found.name, link, batch, position, inode, path })
    }

    /// The entry as the parent has it, if nothing says that it has changed and all of its content can still be had.
    fn unchanged(&self, found: &Found, (entry, stat): (Entry, Stat)) -> Option<(Entry, Stat)> {
        let Node::File { size_bytes, content } = &entry.node else { return None };
        let same = !self.options.read_all
            && i64::try_from(*size_bytes).ok() == Some(found.stat.st_size)
            && entry.metadata.mtime == metadata::mtime(&found.stat)
            && stat.ctime == Some(metadata::ctime(&found.stat))
            && stat.inode == found.stat.st_ino;
        if !same || !self.parent.has(content) {
            return None;
        }
        // The inode has not changed, so neither have mode, owner and attributes; but names of owners may have.
        let metadata = metadata::metadata(&found.stat, self.owners, Arc::clone(&entry.metadata.xattrs));
        let stat = Stat { device: found.stat.st_dev, ..stat };
        Some((Entry { metadata, ..entry }, stat))
    }

    /// The attributes of a name; nothing where they cannot be read, which is told.
    fn xattrs_of(&mut self, found: &Found) -> Result<Option<Arc<Xattrs>>, Ended> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let (folder, name) = found.place(&level.folder);
        match metadata::read_xattrs(Handle::At(folder.as_fd(), name)) {
            Ok(xattrs) => Ok(Some(xattrs)),
            Err(e) => self.problem("read the attributes of", &e).map(|()| None),
        }
    }

    /// Links, devices, pipes and sockets: all of them is in the inode.
    fn take_other(&mut self, found: Found, kind: FileType) -> Result<(), Ended> {
        let Some(level) = self.levels.last() else { return Ok(()) };
        let (folder, name) = found.place(&level.folder);
        let device = (rustix::fs::major(found.stat.st_rdev), rustix::fs::minor(found.stat.st_rdev));
        let node = match kind {
            FileType::Symlink => match metadata::read_link(folder.as_fd(), name) {
                Ok(target) => Node::Symlink { target },
                Err(e) => return self.problem("read the link", &e),
            },
            FileType::CharacterDevice => Node::CharDevice { device },
            FileType::BlockDevice => Node::BlockDevice { device },
            FileType::Fifo => Node::Fifo,
            FileType::Socket => Node::Socket,
            _ => return self.problem("store", &io::Error::other("it is of a kind that xsnap does not know")),
        };
        let xattrs = self.xattrs_of(&found)?.unwrap_or_default();
        let (link, _) = self.link(&found.stat)?;
        self.links.remember(&found.stat, link, Linked::Whole(node.clone()));
        let metadata: Metadata = metadata::metadata(&found.stat, self.owners, xattrs);
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        let entry = Entry { name: found.name, metadata, node, link, partial: false, extensions: Vec::new() };
        self.tell(Item::Whole(entry, trusted(&found.stat, now())))
    }
}

impl Drop for Walker<'_> {
    /// Hands out what is still open, so that the trees can be finished.
    fn drop(&mut self) {
        let _ = self.hand_out();
    }
}
