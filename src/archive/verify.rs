//! A restored tree read back and compared with the snapshot, entry by entry.
//!
//! Content is compared by the ids of its blobs, so that nothing is read from the repository but its trees.

use crate::{
    archive::{
        live::{self, Folder, OpenFolder, Opener},
        metadata::{self, Handle, Owners},
        request::{RestoreRequest, Selected},
        special::Special,
    },
    blobs::reader::Reader,
    error::{Error, Result},
    progress::{Event, Progress},
    repo::{
        content::Run,
        listing::{Listing, listing, runs},
        tree::{Entry, Node},
    },
};
use rustix::fs::FileType;
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

/// Compares what a restore has put below an open folder with the snapshot. Returns how many entries differ; each was
/// told as a problem.
///
/// # Errors
/// `Interrupted`, and storage errors that are no damage.
pub fn verify(
    reader: &Reader,
    selected: &Selected<'_>,
    root: BorrowedFd<'_>,
    request: &RestoreRequest,
    progress: &dyn Progress,
) -> Result<u64> {
    compare(reader, selected, root, (request, true), progress)
}

/// As `verify`, where others have worked in the folders since: their times are not compared.
///
/// # Errors
/// As `verify`.
pub fn verify_in_use(
    reader: &Reader,
    selected: &Selected<'_>,
    root: BorrowedFd<'_>,
    request: &RestoreRequest,
    progress: &dyn Progress,
) -> Result<u64> {
    compare(reader, selected, root, (request, false), progress)
}

fn compare(
    reader: &Reader,
    selected: &Selected<'_>,
    root: BorrowedFd<'_>,
    (request, folder_times): (&RestoreRequest, bool),
    progress: &dyn Progress,
) -> Result<u64> {
    let (opener, owners) = (Opener::new(root), Owners::new(request.directory.clone()));
    let path = selected.path.to_vec();
    let mut verifier = Verifier {
        reader,
        request,
        folder_times,
        sources: selected.sources,
        opener,
        owners: &owners,
        progress,
        differing: 0,
        path,
        buffer: Vec::new(),
    };
    verifier.run(selected)?;
    Ok(verifier.differing)
}

struct Verifier<'a> {
    reader: &'a Reader,
    request: &'a RestoreRequest,
    folder_times: bool,
    sources: &'a [Vec<u8>],
    opener: Opener<'a>,
    owners: &'a Owners,
    progress: &'a dyn Progress,
    differing: u64,
    path: Vec<u8>,
    buffer: Vec<u8>,
}

struct Level<'a> {
    folder: Arc<Folder>,
    path_bytes: usize,
    listing: Listing<'a>,
    included: bool,
}

impl Verifier<'_> {
    fn run(&mut self, selected: &Selected<'_>) -> Result<()> {
        let Node::Folder { content } = &selected.entry.node else {
            self.compare(&Folder::root(selected.path), selected.entry);
            return Ok(());
        };
        let included = self.request.takes_all();
        let (path_bytes, reader) = (self.path.len(), self.reader);
        let mut levels = vec![Level {
            folder: Folder::root(selected.path),
            path_bytes,
            listing: listing(reader, content, None),
            included,
        }];
        while let Some(level) = levels.last_mut() {
            self.path.truncate(level.path_bytes);
            match level.listing.next() {
                None => drop(levels.pop()),
                Some(Err(e)) if e.is_damage() => self.differs("list", &io::Error::other(e)),
                Some(Err(e)) => return Err(e),
                Some(Ok((entry, _))) => {
                    if self.progress.stop_wanted() {
                        return Err(Error::Interrupted);
                    }
                    self.path.push(b'/');
                    self.path.extend_from_slice(&entry.name);
                    let is_folder = matches!(entry.node, Node::Folder { .. });
                    let included = level.included || self.request.takes(&self.path, is_folder);
                    if self.request.exclude.matches(&self.path, is_folder) {
                        continue;
                    }
                    if included {
                        self.compare(&level.folder, &entry);
                    }
                    if let Node::Folder { content } = &entry.node {
                        let (folder, path_bytes) = (level.folder.child(&entry.name), self.path.len());
                        levels.push(Level { folder, path_bytes, listing: listing(reader, content, None), included });
                    }
                }
            }
        }
        Ok(())
    }

    fn differs(&mut self, verb: &str, cause: &io::Error) {
        self.differing += 1;
        self.progress.tell(Event::Problem { path: &self.path, verb, cause });
    }

    fn compare(&mut self, folder: &Arc<Folder>, entry: &Entry) {
        let compared = self.opener.open(folder).and_then(|open| self.difference(&open, entry));
        match compared {
            Ok(None) => {}
            Ok(Some(what)) => {
                self.differs("verify", &io::Error::other(format!("its {what} is not as in the snapshot")))
            }
            Err(e) => self.differs("verify", &e),
        }
        self.progress.tell(Event::Done { entries: 1, bytes: 0 });
    }

    /// In what a live entry differs, if in anything.
    fn difference(&mut self, open: &OpenFolder<'_>, entry: &Entry) -> io::Result<Option<&'static str>> {
        let (at, name) = (open.as_fd(), entry.name.as_slice());
        let stat = live::look(at, name)?.ok_or(io::ErrorKind::NotFound)?;
        let same_kind = match (&entry.node, Special::of(&entry.node)) {
            (_, Some(special)) => special.is_at(at, name, &stat),
            (Node::Folder { .. }, _) => live::kind_of(&stat) == FileType::Directory,
            _ => live::kind_of(&stat) == FileType::RegularFile,
        };
        if !same_kind {
            return Ok(Some("kind"));
        }
        if live::kind_of(&stat) == FileType::Directory && !self.request.owns_folder(&self.path, self.sources) {
            return Ok(None);
        }
        let wanted = &entry.metadata;
        let owner = self.owners.numbers(&wanted.owner, self.request.by_name);
        if (stat.st_uid, stat.st_gid) != owner {
            return Ok(Some("owner"));
        }
        if live::kind_of(&stat) != FileType::Symlink && stat.st_mode & metadata::PERMISSION_BITS != wanted.mode {
            return Ok(Some("mode"));
        }
        let counts = self.folder_times || !matches!(entry.node, Node::Folder { .. });
        if counts && metadata::mtime(&stat) != wanted.mtime {
            return Ok(Some("time"));
        }
        let mut xattrs = metadata::read_xattrs(Handle::At(at, name))?.to_vec();
        if wanted.xattrs.iter().all(|(name, _)| name != b"security.selinux") {
            xattrs.retain(|(name, _)| name != b"security.selinux");
        }
        if xattrs != *wanted.xattrs {
            return Ok(Some("attributes"));
        }
        match &entry.node {
            Node::File { size_bytes, .. } if i64::try_from(*size_bytes).ok() != Some(stat.st_size) => Ok(Some("size")),
            Node::File { .. } => self.content_differs(at, entry).map(|differs| differs.then_some("content")),
            _ => Ok(None),
        }
    }

    fn content_differs(&mut self, folder: BorrowedFd<'_>, entry: &Entry) -> io::Result<bool> {
        let Node::File { content, .. } = &entry.node else { return Ok(true) };
        let file = File::from(live::open_existing(folder, &entry.name, false)?);
        // What is on the medium is to be compared, not what is still in memory.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let mut at = 0;
        for run in runs(self.reader, content) {
            let (id, length_bytes) = match run.map_err(io::Error::other)? {
                Run::Data { id, length_bytes } => (Some(id), length_bytes),
                Run::Hole { length_bytes } => (None, length_bytes),
            };
            if !self.reader.holds_at(&file, at, length_bytes, id.as_ref(), &mut self.buffer)? {
                return Ok(true);
            }
            at += length_bytes;
        }
        Ok(false)
    }
}
