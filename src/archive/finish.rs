//! What can only be done once all files are written: further names of files, metadata of folders.

use crate::{
    archive::{
        fill::Tally,
        live::{self, Folder, Opener},
        metadata::{self, ApplyOptions, Handle, Owners, Shortfalls},
        request::RestoreRequest,
    },
    progress::{Event, Progress},
    repo::tree::Metadata,
};
use rustix::{
    fs::{AtFlags, FileType, SeekFrom, Stat},
    io::Errno,
};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

/// A name that becomes a link once the file that it shares its inode with is complete.
pub struct LateLink {
    /// Folder and name of the file.
    pub first: (Arc<Folder>, Vec<u8>),
    /// The folder of the further name.
    pub folder: Arc<Folder>,
    /// The further name.
    pub name: Vec<u8>,
    /// What it gets where it has to become a file of its own.
    pub metadata: Metadata,
}

/// A folder from which what the snapshot does not have is removed.
pub struct Cleaning {
    /// The folder.
    pub folder: Arc<Folder>,
    /// Its path in the snapshot.
    pub path: Vec<u8>,
    /// Names that the snapshot has in it.
    pub names: HashSet<Vec<u8>>,
    /// Whether everything in it is taken, or only what a pattern takes.
    pub included: bool,
}

/// What can only be done once all files are written.
#[derive(Default)]
pub struct Late {
    /// Further names of files.
    pub links: Vec<LateLink>,
    /// Folders that get their metadata, each after the one that it is in.
    pub folders: Vec<(Arc<Folder>, Metadata)>,
    /// Folders from which what the snapshot does not have is removed.
    pub cleanings: Vec<Cleaning>,
    /// A folder on each file system that was written to.
    pub devices: HashMap<u64, Arc<Folder>>,
}

/// Removes a folder where something else belongs: an empty one always, a full one only if removing was asked for.
///
/// # Errors
/// The file system's own; `ENOTEMPTY` where removing was not asked for.
pub fn make_way(folder: BorrowedFd<'_>, name: &[u8], request: &RestoreRequest) -> io::Result<()> {
    if request.dry_run {
        return Ok(());
    }
    if request.delete {
        // What is mounted there is on another device than the folder that it is mounted in.
        let device = rustix::fs::fstat(folder)?.st_dev;
        let is_spared = |_: &[u8], stat: &Stat| request.spare.contains(&(stat.st_dev, stat.st_ino));
        live::remove(folder, name, device, name, &is_spared)?;
        return match live::look(folder, name)? {
            None => Ok(()),
            Some(_) => Err(io::Error::other("something in it is not to be removed")),
        };
    }
    Ok(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)?)
}

/// Does what can only be done once all files are written.
pub struct Finisher<'a> {
    /// The root of the target.
    pub root: BorrowedFd<'a>,
    /// Opens its folders.
    pub opener: Opener<'a>,
    /// Names of owners.
    pub owners: &'a Owners,
    /// How it is restored.
    pub request: &'a RestoreRequest,
    /// What was done.
    pub tally: &'a Tally,
    /// Who is told.
    pub progress: &'a dyn Progress,
}

impl Finisher<'_> {
    fn problem(&self, path: &[u8], verb: &str, cause: &io::Error) {
        Tally::add(&self.tally.problems, 1);
        let path = if path.is_empty() { b"/" } else { path };
        self.progress.tell(Event::Problem { path, verb, cause });
    }

    /// Gives every further name to its inode. Returns how many there were.
    pub fn link(&mut self, links: &[LateLink]) -> u64 {
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
        if self.tally.has_failed(&link.first.0.path_of(&link.first.1)) {
            return Err(io::Error::other("the file that it is another name of could not be restored"));
        }
        let (first_folder, first_name) = (self.opener.open(&link.first.0)?, link.first.1.as_slice());
        let folder = self.opener.open(&link.folder)?;
        let beside = live::unfinished_name(&link.name);
        let make = || self.link_or_copy((first_folder.as_fd(), first_name), (folder.as_fd(), &beside), link);
        let first = live::look(first_folder.as_fd(), first_name)?;
        let Some(there) = live::look(folder.as_fd(), &link.name)? else {
            make()?;
            return live::rename_over(folder.as_fd(), &beside, &link.name);
        };
        if first.is_some_and(|first| (first.st_dev, first.st_ino) == (there.st_dev, there.st_ino)) {
            return Ok(());
        }
        if live::kind_of(&there) == FileType::Directory {
            make_way(folder.as_fd(), &link.name, self.request)?;
        }
        make()?;
        live::rename_over(folder.as_fd(), &beside, &link.name)
    }

    /// Makes another name of a file; where the file system has no such thing, or no more of it, or the two names are on
    /// two file systems, a file of its own with the same content, and says so.
    fn link_or_copy(
        &self,
        (first_folder, first_name): (BorrowedFd<'_>, &[u8]),
        (folder, name): (BorrowedFd<'_>, &[u8]),
        link: &LateLink,
    ) -> io::Result<()> {
        let _ = rustix::fs::unlinkat(folder, name, AtFlags::empty());
        let refusal = match rustix::fs::linkat(first_folder, first_name, folder, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(e @ (Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::NOTSUP)) => io::Error::from(e),
            Err(e) => return Err(e.into()),
        };
        let first = live::look(first_folder, first_name)?.ok_or(io::ErrorKind::NotFound)?;
        if live::kind_of(&first) != FileType::RegularFile {
            return Err(refusal);
        }
        let from = File::from(live::open_existing(first_folder, first_name, false)?);
        let to = File::from(live::create_file(folder, name)?);
        copy_with_holes(&from, &to)?;
        let path = link.folder.path_of(&link.name);
        let options = ApplyOptions { there: None, by_name: self.request.by_name, is_symlink: false, bare: false };
        for (verb, cause) in metadata::apply(Handle::Open(to.as_fd()), &link.metadata, self.owners, options) {
            self.problem(&path, &verb, &cause);
        }
        self.problem(&path, "keep the link of", &refusal);
        Ok(())
    }

    /// Removes what the snapshot does not have. Returns how many entries went.
    pub fn clean(&mut self, cleanings: &[Cleaning]) -> u64 {
        let mut deleted = 0;
        for cleaning in cleanings {
            match self.clean_one(cleaning) {
                Ok(n) => deleted += n,
                Err(e) => self.problem(&cleaning.path, "remove what the snapshot does not have from", &e),
            }
        }
        deleted
    }

    fn clean_one(&mut self, cleaning: &Cleaning) -> io::Result<u64> {
        let folder = self.opener.open(&cleaning.folder)?;
        let device = rustix::fs::fstat(folder.as_fd())?.st_dev;
        let (request, mut deleted) = (self.request, 0);
        let is_spared = |path: &[u8], stat: &Stat| {
            let is_folder = live::kind_of(stat) == FileType::Directory;
            request.exclude.matches(path, is_folder) || request.spare.contains(&(stat.st_dev, stat.st_ino))
        };
        for name in live::names_of(folder.as_fd())? {
            if cleaning.names.contains(&name) {
                continue;
            }
            let Some(stat) = live::look(folder.as_fd(), &name)? else { continue };
            let path = [cleaning.path.as_slice(), b"/", &name].concat();
            let taken = cleaning.included || request.takes(&path, live::kind_of(&stat) == FileType::Directory);
            if !live::is_unfinished(&name) && (!taken || is_spared(&path, &stat)) {
                continue;
            }
            if request.dry_run {
                deleted += 1;
                continue;
            }
            match live::remove(folder.as_fd(), &name, device, &path, &is_spared) {
                Ok(removed) => deleted += removed,
                Err(e) => self.problem(&path, "remove", &e),
            }
        }
        Ok(deleted)
    }

    /// Makes everything durable that was written, on every file system that was written to.
    pub fn sync(&mut self, devices: &HashMap<u64, Arc<Folder>>) {
        for folder in devices.values() {
            let synced = match folder.place() {
                None => rustix::fs::syncfs(self.root).map_err(io::Error::from),
                Some(_) => self.opener.open(folder).and_then(|open| Ok(rustix::fs::syncfs(open.as_fd())?)),
            };
            match synced {
                // A file system that has no such thing promises nothing, and never did.
                Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP)) => {}
                Err(e) => {
                    self.problem(&folder.path_of(b""), "make durable what was restored on the file system of", &e)
                }
                Ok(()) => {}
            }
        }
    }

    /// Folders get their metadata from the leaves to the root, for making an entry changes its folder's time.
    pub fn apply_to_folders(&mut self, folders: &[(Arc<Folder>, Metadata)]) {
        if self.request.dry_run {
            return;
        }
        for (folder, wanted) in folders.iter().rev() {
            let shortfalls = match folder.place() {
                None => self.apply_to(self.root, wanted),
                Some(_) => match self.opener.open(folder) {
                    Ok(open) => self.apply_to(open.as_fd(), wanted),
                    Err(e) => vec![("open".to_owned(), e)],
                },
            };
            for (verb, cause) in shortfalls {
                self.problem(&folder.path_of(b""), &verb, &cause);
            }
            self.progress.tell(Event::Done { entries: 1, bytes: 0 });
        }
    }

    fn apply_to(&self, folder: BorrowedFd<'_>, wanted: &Metadata) -> Shortfalls {
        let there = rustix::fs::fstat(folder).ok();
        let by_name = self.request.by_name;
        let options = ApplyOptions { there: there.as_ref(), by_name, is_symlink: false, bare: false };
        metadata::apply(Handle::Open(folder), wanted, self.owners, options)
    }
}

/// Fills a new file with the bytes of another one and leaves holes where that one has them.
fn copy_with_holes(from: &File, mut to: &File) -> io::Result<()> {
    let size_bytes = from.metadata()?.len();
    to.set_len(size_bytes)?;
    let mut at = 0;
    while at < size_bytes {
        let data = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            data => data?,
        };
        let hole = rustix::fs::seek(from, SeekFrom::Hole(data))?;
        rustix::fs::seek(from, SeekFrom::Start(data))?;
        rustix::fs::seek(to, SeekFrom::Start(data))?;
        if io::copy(&mut from.take(hole.saturating_sub(data)), &mut to)? == 0 {
            break;
        }
        at = hole;
    }
    Ok(())
}
