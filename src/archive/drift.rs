//! Live files compared with a snapshot: what has become of them since.
//!
//! The walk goes from the root of the file system along what the snapshot was made of, by descriptor, as a backup does. A
//! file that size, times and inode show to be as it was is not read; any other is compared by the ids of its blobs, so
//! that nothing is read from the repository but its trees.

use crate::{
    archive::{
        changes::{Aspect, Both, Comparison, Findings, aspects},
        compare::{Named, Pair, SideBySide, list_of, tell_lost},
        content::open_file,
        filter::{CACHE_TAG_NAME, Patterns},
        found::is_cache_tag,
        live::{self, Folder, Opener, kind_of, names_of},
        metadata::{self, Handle, Owners},
        plan::{EVERYTHING, Plan, View},
        request::{Selected, is_within},
    },
    blobs::reader::Reader,
    error::{Error, Result},
    progress::{Event, Progress},
    repo::{
        content::{Content, Run},
        listing::{Listing, listing, runs},
        snapshot::Snapshot,
        tree::{Entry, Node, Stat},
    },
};
use rustix::{
    fs::{FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
    vec,
};

/// What live files are compared with, and how.
#[derive(Debug)]
pub struct DriftRequest<'a> {
    /// The snapshot.
    pub snapshot: &'a Snapshot,
    /// What of it: a path that it has, with a leading `/`; empty for everything.
    pub path: &'a [u8],
    /// What is left out on both sides.
    pub exclude: &'a Patterns,
    /// Leave the contents of tagged caches out.
    pub exclude_caches: bool,
    /// Read every file, whatever its times say.
    pub read_all: bool,
    /// Folders, by device and inode, whose contents are left out: the repository itself.
    pub skip: &'a [(u64, u64)],
}

/// Compares a snapshot with the files of this machine, where they came from. What cannot be read is told as a problem and
/// is neither here nor there.
///
/// # Errors
/// `Interrupted`, `File` where the root of the file system cannot be opened, storage errors that are no damage.
pub fn drift(reader: &Reader, request: &DriftRequest<'_>, progress: &dyn Progress) -> Result<Comparison> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty()).map_err(|e| Error::file("open", "/", e))?;
    let plan = plan(&request.snapshot.sources, request.path);
    let selected = Selected { entry: &request.snapshot.root, path: b"", sources: &request.snapshot.sources };
    let (found, owners) = (Findings::new(&selected, &selected).keeping_gone(), Owners::default());
    let opener = Opener::new(root.as_fd());
    let (path, buffer, lone) = (Vec::new(), Vec::new(), Vec::new());
    let mut walk = Walk { reader, request, progress, owners: &owners, opener, found, lone, path, buffer };
    walk.run(&plan)?;
    walk.recognise()?;
    Ok(walk.found.finish())
}

/// What leads to those sources that are below a path, or to the path where a source is above it.
fn plan(sources: &[Vec<u8>], path: &[u8]) -> Plan {
    let whole = [path.to_vec()];
    let (exclude, view) = (Patterns::default(), View::default());
    if !path.is_empty() && is_within(path, sources) {
        return Plan::new(&whole, &exclude, &view);
    }
    let below: Vec<Vec<u8>> =
        sources.iter().filter(|source| path.is_empty() || is_within(source, &whole)).cloned().collect();
    Plan::new(&below, &exclude, &view)
}

/// A name of a live folder.
struct Found {
    name: Vec<u8>,
    /// Nothing where it could not be looked at.
    stat: Option<rustix::fs::Stat>,
}

impl Named for Found {
    fn name(&self) -> &[u8] {
        &self.name
    }
}

type Stored = (Entry, Option<Stat>);
type Live = vec::IntoIter<Result<Found>>;

struct Level<'a> {
    path_bytes: usize,
    /// The live folder, if there is one.
    folder: Option<Arc<Folder>>,
    device: u64,
    sides: SideBySide<Stored, Found, Listing<'a>, Live>,
    plan: &'a Plan,
    /// Whether the snapshot says that something was left out.
    partial: bool,
    /// Names that count; all, where there are none.
    only: Option<&'static [u8]>,
}

/// A live file that the snapshot does not have under its path.
struct Lone {
    difference: usize,
    folder: Arc<Folder>,
    name: Vec<u8>,
    size_bytes: u64,
}

struct Walk<'a> {
    reader: &'a Reader,
    request: &'a DriftRequest<'a>,
    progress: &'a dyn Progress,
    owners: &'a Owners,
    opener: Opener<'a>,
    found: Findings<'a>,
    lone: Vec<Lone>,
    path: Vec<u8>,
    buffer: Vec<u8>,
}

impl<'a> Walk<'a> {
    fn run(&mut self, plan: &'a Plan) -> Result<()> {
        let snapshot = self.request.snapshot;
        let root = Folder::root(b"");
        let stat = self.opener.open(&root).and_then(|open| Ok(rustix::fs::fstat(open.as_fd())?));
        let stat = stat.map_err(|e| Error::file("look at", "/", e))?;
        let mut levels = Vec::new();
        let stored = (snapshot.root.clone(), Some(snapshot.root_stat.clone()));
        if let Some((after, aspects)) = self.compare(&root, b".", &stat, Some(&stored)) {
            self.found.take(b"", Both { before: Some(stored.0.clone()), after: Some(after), aspects, perhaps: false });
        }
        levels.extend(self.level(Some(&stored), Some((root, stat)), plan, None));
        while let Some(level) = levels.last_mut() {
            if self.progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            self.path.truncate(level.path_bytes);
            let (stored, live) = match level.sides.step(&mut |e| tell_lost(self.progress, &self.path, e))? {
                None => {
                    levels.pop();
                    continue;
                }
                Some(Pair::Both(stored, live)) => (Some(stored), Some(live)),
                Some(Pair::Left(stored)) => (Some(stored), None),
                Some(Pair::Right(live)) => (None, Some(live)),
                Some(Pair::Unknown) => {
                    self.found.count_unknown();
                    continue;
                }
            };
            let next = self.entry(level, stored, live);
            levels.extend(next);
        }
        Ok(())
    }

    fn problem(&self, verb: &str, cause: &io::Error) {
        self.progress.tell(Event::Problem { path: &self.path, verb, cause });
    }

    /// Takes what both sides have under one name; returns the folder to walk next, if there is one.
    fn entry(&mut self, level: &Level<'a>, stored: Option<Stored>, live: Option<Found>) -> Option<Level<'a>> {
        let name = live.as_ref().map(|found| &found.name).or(stored.as_ref().map(|(entry, _)| &entry.name))?.clone();
        let plan = match level.plan.names.get(&name) {
            Some(plan) => plan,
            None if level.plan.is_source => &EVERYTHING,
            // What no way leads through is not asked about.
            None => return None,
        };
        if level.only.is_some_and(|only| only != name) {
            return None;
        }
        self.path.push(b'/');
        self.path.extend_from_slice(&name);
        let stat = match live {
            Some(Found { stat: None, .. }) => return None,
            Some(Found { stat, .. }) => stat,
            None => None,
        };
        let is_folder = stat.as_ref().map(kind_of) == Some(FileType::Directory)
            || (stat.is_none() && list_of(stored.as_ref().map(|(entry, _)| entry)).is_some());
        if level.plan.is_source && self.request.exclude.matches(&self.path, is_folder) {
            return None;
        }
        let perhaps = stored.is_none() && level.partial;
        let place = level.folder.as_ref().zip(stat);
        let both = place.map(|(folder, stat)| self.compare(folder, &name, &stat, stored.as_ref()));
        let (after, aspects) = match both {
            // What could not be read is neither here nor there.
            Some(None) => return None,
            Some(Some((after, aspects))) => (Some(after), aspects),
            None => (None, Vec::new()),
        };
        if let (None, Some(Node::File { size_bytes: size_bytes @ 1.., .. }), Some((folder, _))) =
            (&stored, after.as_ref().map(|entry| &entry.node), place)
        {
            let (folder, difference) = (Arc::clone(folder), self.found.count());
            self.lone.push(Lone { difference, folder, name: name.clone(), size_bytes: *size_bytes });
        }
        let inner = place.map(|(folder, stat)| (folder.child(&name), stat));
        let next = self.level(stored.as_ref(), inner, plan, Some((level, perhaps)));
        self.found.take(&self.path, Both { before: stored.map(|(entry, _)| entry), after, aspects, perhaps });
        next
    }

    /// Enters a folder on whichever side it is one.
    fn level(
        &mut self,
        stored: Option<&Stored>,
        live: Option<(Arc<Folder>, rustix::fs::Stat)>,
        plan: &'a Plan,
        above: Option<(&Level<'a>, bool)>,
    ) -> Option<Level<'a>> {
        let live = live.filter(|(_, stat)| kind_of(stat) == FileType::Directory);
        let entry = stored.map(|(entry, _)| entry);
        let list = list_of(entry);
        if list.is_none() && live.is_none() {
            return None;
        }
        // What a source is mounted on is no border.
        let device_above = above.filter(|(level, _)| level.plan.is_source).map(|(level, _)| level.device);
        let mut only = None;
        let mut names = Vec::new();
        if let Some((folder, stat)) = &live {
            if self.request.skip.contains(&(stat.st_dev, stat.st_ino)) {
                return None;
            }
            match self.list(folder, stat, entry, plan, device_above) {
                Ok(Some(found)) => (names, only) = found,
                Ok(None) => return None,
                Err((verb, e)) => {
                    self.problem(verb, &e);
                    return None;
                }
            }
        }
        let stats = stored.and_then(|(_, stat)| stat.as_ref()?.folder.as_ref()).filter(|_| list.is_some());
        let stored = listing(self.reader, list.unwrap_or(&Content::default()), stats);
        let device = live.as_ref().map_or(0, |(_, stat)| stat.st_dev);
        let partial = entry.map_or(above.is_some_and(|(_, perhaps)| perhaps), |entry| entry.partial);
        let sides = SideBySide::new(stored, names.into_iter());
        let folder = live.map(|(folder, _)| folder);
        Some(Level { path_bytes: self.path.len(), folder, device, sides, plan, partial, only })
    }

    /// The names of a live folder in stored order, and the only one that counts, if one alone does. Nothing where the
    /// folder is not entered: the kernel makes up what is in it, or the snapshot has stopped at its border, too.
    #[expect(clippy::type_complexity, reason = "used once, right above")]
    fn list(
        &mut self,
        folder: &Arc<Folder>,
        stat: &rustix::fs::Stat,
        entry: Option<&Entry>,
        plan: &Plan,
        device_above: Option<u64>,
    ) -> Result<Option<(Vec<Result<Found>>, Option<&'static [u8]>)>, (&'static str, io::Error)> {
        let open = self.opener.open(folder).map_err(|e| ("open", e))?;
        let crosses = device_above.is_some_and(|device| device != stat.st_dev);
        let stopped = entry.is_some_and(|e| e.partial) && list_of(entry).is_some_and(|list| list.runs.is_empty());
        if crosses && (stopped || live::is_made_up(open.as_fd())) {
            return Ok(None);
        }
        let mut names = if plan.is_source {
            names_of(open.as_fd()).map_err(|e| ("list", e))?
        } else {
            plan.names.keys().cloned().collect()
        };
        names.sort_unstable();
        let tag = CACHE_TAG_NAME.as_bytes();
        let tagged = self.request.exclude_caches && names.iter().any(|name| name == tag);
        let only = (tagged && is_cache_tag(open.as_fd())).then_some(tag);
        let mut found = Vec::with_capacity(names.len());
        for name in names.into_iter().filter(|name| only.is_none_or(|only| only == name)) {
            match live::look(open.as_fd(), &name) {
                Ok(None) => {}
                Ok(stat) => found.push(Ok(Found { name, stat })),
                Err(e) => {
                    let path_bytes = self.path.len();
                    self.path.push(b'/');
                    self.path.extend_from_slice(&name);
                    self.problem("look at", &e);
                    self.path.truncate(path_bytes);
                    found.push(Ok(Found { name, stat: None }));
                }
            }
        }
        Ok(Some((found, only)))
    }

    /// What a live name is, and in what it differs from what is stored; nothing where that cannot be found out, which is
    /// told.
    fn compare(
        &mut self,
        folder: &Arc<Folder>,
        name: &[u8],
        stat: &rustix::fs::Stat,
        stored: Option<&Stored>,
    ) -> Option<(Entry, Vec<Aspect>)> {
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        let open = match self.opener.open(folder) {
            Ok(open) => open,
            Err(e) => {
                self.problem("open", &e);
                return None;
            }
        };
        let unchanged = stored.filter(|(entry, was)| {
            !self.request.read_all && was.as_ref().is_some_and(|was| is_unchanged(entry, was, stat))
        });
        let mut live = match unchanged {
            // The inode has not changed, so neither have mode, owner and attributes; but names of owners may have.
            Some((entry, _)) => Entry {
                metadata: metadata::metadata(stat, self.owners, Arc::clone(&entry.metadata.xattrs)),
                ..entry.clone()
            },
            None => match live_entry(open.as_fd(), name, stat, self.owners, stored.map(|(entry, _)| entry)) {
                Ok(entry) => entry,
                Err((verb, e)) => {
                    self.problem(verb, &e);
                    return None;
                }
            },
        };
        let Some((entry, _)) = stored else { return Some((live, Vec::new())) };
        live.link = match (entry.link, stat.st_nlink > 1 && kind_of(stat) != FileType::Directory) {
            (Some(link), true) => Some(link),
            (_, linked) => linked.then_some(0),
        };
        if let (Node::File { content, size_bytes }, Node::File { content: of_live, size_bytes: length }, None) =
            (&entry.node, &mut live.node, unchanged)
            && size_bytes == length
        {
            match self.holds(open.as_fd(), name, content) {
                Ok(true) => of_live.clone_from(content),
                // Anything but what is stored.
                Ok(false) => *of_live = Content { depth: u8::MAX, runs: Vec::new() },
                Err(_) if self.progress.stop_wanted() => return None,
                Err(e) => {
                    self.problem("read", &e);
                    return None;
                }
            }
        }
        let differing = aspects(entry, &live, true);
        if let Node::File { content, .. } = &mut live.node {
            *content = Content::default();
        }
        Some((live, differing))
    }

    /// Whether a live file of the same length holds a content.
    fn holds(&mut self, folder: BorrowedFd<'_>, name: &[u8], content: &Content) -> io::Result<bool> {
        let file = File::from(open_file(folder, name)?);
        let mut at = 0;
        for run in runs(self.reader, content) {
            if self.progress.stop_wanted() {
                return Err(io::Error::from(Errno::INTR));
            }
            let (id, length_bytes) = match run.map_err(io::Error::other)? {
                Run::Data { id, length_bytes } => (Some(id), length_bytes),
                Run::Hole { length_bytes } => (None, length_bytes),
            };
            if !self.reader.holds_at(&file, at, length_bytes, id.as_ref(), &mut self.buffer)? {
                return Ok(false);
            }
            self.progress.tell(Event::Done { entries: 0, bytes: length_bytes });
            at += length_bytes;
        }
        Ok(true)
    }

    /// Finds out which live files that the snapshot has not under their paths it has under others: those that hold what a
    /// file held that is gone, of the same length.
    fn recognise(&mut self) -> Result<()> {
        let gone = self.found.take_gone();
        for lone in std::mem::take(&mut self.lone) {
            if self.progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            for (key, content) in gone.get(&lone.size_bytes).into_iter().flatten() {
                let held =
                    self.opener.open(&lone.folder).and_then(|open| self.holds(open.as_fd(), &lone.name, content));
                // One that cannot be read stays what it was taken for: a file that has been added.
                if held.unwrap_or(false) {
                    self.found.recognise(lone.difference, *key);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Whether everything that an inode shows is as it was, as a backup relies on it.
fn is_unchanged(entry: &Entry, was: &Stat, stat: &rustix::fs::Stat) -> bool {
    let Node::File { size_bytes, .. } = &entry.node else { return false };
    i64::try_from(*size_bytes).ok() == Some(stat.st_size)
        && kind_of(stat) == FileType::RegularFile
        && entry.metadata.mtime == metadata::mtime(stat)
        && was.ctime == Some(metadata::ctime(stat))
        && was.inode == stat.st_ino
}

/// A live name as an entry, without its content.
fn live_entry(
    folder: BorrowedFd<'_>,
    name: &[u8],
    stat: &rustix::fs::Stat,
    owners: &Owners,
    stored: Option<&Entry>,
) -> Result<Entry, (&'static str, io::Error)> {
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    let node = match kind_of(stat) {
        FileType::RegularFile => {
            let size_bytes = u64::try_from(stat.st_size).unwrap_or_default();
            Node::File { size_bytes, content: Content::default() }
        }
        FileType::Directory => Node::Folder { content: Content::default() },
        FileType::Symlink => {
            Node::Symlink { target: metadata::read_link(folder, name).map_err(|e| ("read the link", e))? }
        }
        FileType::CharacterDevice => Node::CharDevice { device },
        FileType::BlockDevice => Node::BlockDevice { device },
        FileType::Fifo => Node::Fifo,
        FileType::Socket => Node::Socket,
        _ => return Err(("compare", io::Error::other("it is of a kind that xsnap does not know"))),
    };
    // What only the live side has is shown without its attributes.
    let xattrs = match stored {
        Some(_) => metadata::read_xattrs(Handle::At(folder, name)).map_err(|e| ("read the attributes of", e))?,
        None => Arc::default(),
    };
    let metadata = metadata::metadata(stat, owners, xattrs);
    Ok(Entry { name: name.to_vec(), metadata, node, link: None, partial: false, extensions: Vec::new() })
}
