//! What can only be done once all files are written: further names of files, metadata of folders.

use crate::{
    archive::{
        fill::Tally,
        live::{self, Folder, Opener},
        metadata::{self, ApplyOptions, Handle, Owners},
        request::RestoreRequest,
    },
    progress::{Event, Progress},
    repo::tree::Metadata,
};
use rustix::fs::{AtFlags, FileType, Stat};
use std::{
    io,
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
}

/// What can only be done once all files are written.
#[derive(Default)]
pub struct Late {
    /// Further names of files.
    pub links: Vec<LateLink>,
    /// Folders that get their metadata, each after the one that it is in.
    pub folders: Vec<(Arc<Folder>, Metadata)>,
}

/// Removes a folder where something else belongs: an empty one always, a full one only if removing was asked for.
///
/// # Errors
/// The file system's own; `ENOTEMPTY` where removing was not asked for.
pub fn make_way(folder: BorrowedFd<'_>, name: &[u8], stat: &Stat, request: &RestoreRequest) -> io::Result<()> {
    if request.dry_run {
        return Ok(());
    }
    if request.delete {
        return live::remove(folder, name, stat.st_dev, name, &|_, _| false).map(drop);
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
    pub fn apply_to_folders(&mut self, folders: &[(Arc<Folder>, Metadata)]) {
        if self.request.dry_run {
            return;
        }
        let options = ApplyOptions { by_name: self.request.by_name, is_symlink: false, bare: false };
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
