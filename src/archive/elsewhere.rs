//! Where a repair looks for what is lost: another repository, and the files of this machine.

use crate::{
    archive::{
        copy::bring_anew,
        live::{Folder, Opener, kind_of, look, open_existing},
        repair::Source,
    },
    blobs::reader::Reader,
    error::{Error, Result},
    id::{BlobId, SnapshotId},
    progress::Progress,
    repo::{
        content::Run,
        copy::There,
        listing::{find, runs},
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Node},
    },
};
use rustix::fs::FileType;
use std::{
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    sync::{Arc, Mutex, PoisonError},
};

/// Another repository. Blobs are asked for by id where both name them alike; files by snapshot and path in any case.
#[derive(Debug)]
pub struct OtherRepository {
    repository: Repository,
    reader: Reader,
    alike: bool,
    /// The file that was asked for last: stretches of one file are asked for one after the other.
    last: Mutex<Option<LastFile>>,
}

#[derive(Debug)]
struct LastFile {
    snapshot: SnapshotId,
    path: Vec<u8>,
    /// Each with where it begins, in bytes.
    runs: Vec<(u64, Run)>,
}

impl OtherRepository {
    /// Looks in a repository for what `mended` lacks.
    ///
    /// # Errors
    /// A storage error.
    pub fn new(repository: Repository, mended: &Repository) -> Result<Self> {
        let reader = repository.reader(Arc::new(repository.index()?));
        let alike = repository.likeness().0 == mended.likeness().0;
        Ok(Self { repository, reader, alike, last: Mutex::default() })
    }

    /// Whether both repositories name equal blobs alike.
    pub fn is_alike(&self) -> bool {
        self.alike
    }

    fn runs_of(&self, id: &SnapshotId, path: &[u8]) -> Result<Vec<(u64, Run)>> {
        let Some(snapshot) = self.repository.snapshots().iter().find(|s| s.id == *id) else { return Ok(Vec::new()) };
        let content = match find(&self.reader, &snapshot.root, path) {
            Ok(Some(Entry { node: Node::File { content, .. }, .. })) => content,
            Ok(_) => return Ok(Vec::new()),
            Err(e) if e.is_damage() => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let (mut all, mut at) = (Vec::new(), 0_u64);
        for run in runs(&self.reader, &content) {
            match run {
                Ok(run) => {
                    all.push((at, run));
                    at = at.saturating_add(run.length_bytes());
                }
                Err(e) if e.is_damage() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// The bytes of a stretch, put together from the runs that it lies in.
    fn stretch(&self, runs: &[(u64, Run)], offset_bytes: u64, length_bytes: usize) -> Result<Option<Vec<u8>>> {
        let end = offset_bytes.saturating_add(length_bytes as u64);
        let first = runs.partition_point(|(at, run)| at.saturating_add(run.length_bytes()) <= offset_bytes);
        let mut bytes = Vec::with_capacity(length_bytes);
        for (at, run) in runs.iter().skip(first).take_while(|(at, _)| *at < end) {
            let from = usize::try_from(offset_bytes.saturating_sub(*at)).unwrap_or(usize::MAX);
            let to = usize::try_from(end.min(at.saturating_add(run.length_bytes())) - at).unwrap_or(usize::MAX);
            match run {
                Run::Hole { .. } => bytes.resize(bytes.len() + to.saturating_sub(from).min(length_bytes), 0),
                Run::Data { id, .. } => match self.reader.blob(id) {
                    Ok(blob) => bytes.extend_from_slice(blob.get(from..to).unwrap_or_default()),
                    Err(e) if e.is_damage() => return Ok(None),
                    Err(e) => return Err(e),
                },
            }
        }
        Ok((bytes.len() == length_bytes).then_some(bytes))
    }
}

impl Source for OtherRepository {
    fn blob(&self, id: &BlobId) -> Result<Option<Vec<u8>>> {
        match self.alike.then(|| self.reader.blob(id)) {
            None => Ok(None),
            Some(Ok(bytes)) => Ok(Some(bytes)),
            Some(Err(e)) if e.is_damage() => Ok(None),
            Some(Err(e)) => Err(e),
        }
    }

    fn part(
        &self,
        snapshot: &Snapshot,
        path: &[u8],
        offset_bytes: u64,
        length_bytes: usize,
    ) -> Result<Option<Vec<u8>>> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match last.take().filter(|last| last.snapshot == snapshot.id && last.path == path) {
            Some(file) => file,
            None => LastFile { snapshot: snapshot.id, path: path.to_vec(), runs: self.runs_of(&snapshot.id, path)? },
        };
        let bytes = self.stretch(&file.runs, offset_bytes, length_bytes);
        *last = Some(file);
        bytes
    }

    fn snapshot(&self, id: &SnapshotId) -> Option<Snapshot> {
        self.repository.snapshots().iter().filter(|_| self.alike).find(|s| s.id == *id).cloned()
    }

    fn bring(&self, id: &SnapshotId, there: There<'_>, progress: &dyn Progress) -> Result<Option<Snapshot>> {
        let own = self.repository.snapshots().iter().find(|s| s.id == *id).filter(|_| !self.alike);
        let Some(snapshot) = own else { return Ok(None) };
        let brought = bring_anew(&self.repository, snapshot, there, progress)?;
        let record = Snapshot { root: brought.root, root_stat: brought.root_stat, ..snapshot.clone() };
        Ok((brought.losses.count == 0).then_some(record))
    }
}

/// The files of this machine, at the paths where they were backed up.
#[derive(Debug)]
pub struct LiveFiles {
    root: OwnedFd,
}

impl LiveFiles {
    /// Looks below an open folder, which stands for `/`.
    pub fn new(root: OwnedFd) -> Self {
        Self { root }
    }

    fn read(&self, path: &[u8], offset_bytes: u64, length_bytes: usize) -> io::Result<Option<Vec<u8>>> {
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        let Some(name) = names.next_back() else { return Ok(None) };
        let folder = names.fold(Folder::root(b""), |folder, name| folder.child(name));
        let mut opener = Opener::new(self.root.as_fd());
        let open = opener.open(&folder)?;
        if look(open.as_fd(), name)?.is_none_or(|stat| kind_of(&stat) != FileType::RegularFile) {
            return Ok(None);
        }
        let file = File::from(open_existing(open.as_fd(), name, false)?);
        let mut bytes = vec![0; length_bytes];
        file.read_exact_at(&mut bytes, offset_bytes)?;
        Ok(Some(bytes))
    }
}

impl Source for LiveFiles {
    fn blob(&self, _: &BlobId) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    /// What cannot be read is not there.
    fn part(
        &self,
        _: &Snapshot,
        path: &[u8],
        offset_bytes: u64,
        length_bytes: usize,
    ) -> Result<Option<Vec<u8>>, Error> {
        Ok(self.read(path, offset_bytes, length_bytes).unwrap_or_default())
    }

    fn snapshot(&self, _: &SnapshotId) -> Option<Snapshot> {
        None
    }
}
