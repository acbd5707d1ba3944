//! What a snapshot holds for an import: its manifest, single files, and whole folders brought below an open one.

use crate::{
    archive::{
        accounts::Directory,
        filter::Patterns,
        request::{Overwrite, RestoreRequest, Restored, Selected},
        restore::restore,
        verify::verify_in_use,
    },
    error::{Error, Result},
    mn::{manifest::Manifest, recalled},
    progress::Progress,
    repo::{
        listing::{find, listing},
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Node},
    },
};
use rustix::fs::{Mode, OFlags};
use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// What the database of an import needs in its stage beside the tables.
const STAGED_PART: &str = "database-server";

/// How long a file may be that is merged or compared.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// A snapshot of a management node, opened to make another machine of it.
#[derive(Debug)]
pub struct Brought<'a> {
    /// Where it is.
    pub repository: &'a Repository,
    /// It.
    pub snapshot: &'a Snapshot,
    /// What it says of the management node.
    pub manifest: Manifest,
}

/// What is brought of a snapshot, as patterns on its paths.
#[derive(Debug, Default)]
pub struct Choice {
    /// Only this path and what is below it, if one is named.
    pub only: Option<Vec<u8>>,
    /// What is taken, if not everything.
    pub include: Patterns,
    /// What is left out.
    pub exclude: Patterns,
    /// What the snapshot does not have goes.
    pub exact: bool,
    /// Owners by name, as these accounts have them; else by number.
    pub owners: Option<Directory>,
}

impl<'a> Brought<'a> {
    /// Opens a snapshot.
    ///
    /// # Errors
    /// `Usage` where it is not of a management node; those of the repository.
    pub fn open(repository: &'a Repository, snapshot: &'a Snapshot) -> Result<Self> {
        let manifest = recalled::manifest(repository, snapshot)?.ok_or_else(|| {
            Error::Usage(format!(
                "snapshot {} is not of a management node: `xsnap restore` brings its files back, and `xsnap list` shows \
                 which snapshots have a cluster",
                snapshot.id.short()
            ))
        })?;
        Ok(Self { repository, snapshot, manifest })
    }

    /// Whether the snapshot has that path.
    ///
    /// # Errors
    /// Those of the repository.
    pub fn find(&self, path: &[u8]) -> Result<Option<Entry>> {
        find(&self.repository.tree_reader()?, &self.snapshot.root, path)
    }

    /// Where the captured node had file systems of their own that hold anything of the snapshot.
    ///
    /// # Errors
    /// Those of the repository.
    pub fn mounts(&self) -> Result<BTreeSet<Vec<u8>>> {
        let reader = self.repository.tree_reader()?;
        let mut held = BTreeSet::new();
        for at in self.manifest.machine.mounts.iter().map(|mount| mount.at.bytes()) {
            let found = find(&reader, &self.snapshot.root, &at)?;
            if let Some(Node::Folder { content }) = found.map(|entry| entry.node)
                && listing(&reader, &content, None).next().is_some()
            {
                held.insert(at);
            }
        }
        Ok(held)
    }

    /// The bytes of a file; nothing where the snapshot has none of that path.
    ///
    /// # Errors
    /// `Damaged` for what is no file or longer than 64 MiB; those of the repository.
    pub fn bytes(&self, path: &[u8]) -> Result<Option<Vec<u8>>> {
        recalled::file(self.repository, self.snapshot, path, MAX_FILE_BYTES)
    }

    /// Brings what is chosen back to where it was, below the root of a machine. On return it is durable where the file
    /// system can promise that. What could not be brought exactly was told as problems and is counted.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn place(
        &self,
        choice: &Choice,
        root: BorrowedFd<'_>,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Restored> {
        let request = request(choice, true, threads);
        let reader = self.repository.reader_of(&self.snapshot.root)?;
        let selected = Selected { entry: &self.snapshot.root, path: b"", sources: &self.snapshot.sources };
        let done = restore(&reader, &selected, root, &request, progress);
        self.repository.mark_bad(&reader.take_bad_frames())?;
        done
    }

    /// Compares what is chosen with what is there, as `place` would put it, but for the times of folders in which services
    /// work. Returns how many entries differ; each was told
    /// as a problem.
    ///
    /// # Errors
    /// Those of the repository.
    pub fn differing(
        &self,
        choice: &Choice,
        root: BorrowedFd<'_>,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<u64> {
        let request = request(choice, true, threads);
        let reader = self.repository.reader_of(&self.snapshot.root)?;
        let selected = Selected { entry: &self.snapshot.root, path: b"", sources: &self.snapshot.sources };
        verify_in_use(&reader, &selected, root, &request, progress)
    }

    /// Brings what the database of an import needs into a private folder: everything of the snapshot's own but the packages,
    /// xCAT's folder, and the settings of the database server, each at its path in the snapshot.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn stage(&self, stage: &Path, threads: usize, progress: &dyn Progress) -> Result<()> {
        let mut include = vec!["/.xsnap".to_owned(), "/etc/xcat".to_owned()];
        for part in self.manifest.parts.iter().filter(|part| part.name == STAGED_PART) {
            include.extend(part.roots.iter().map(|root| literal(&root.real.bytes())));
        }
        let tables = self.snapshot.sources.iter().filter(|source| source.ends_with(b".sqlite"));
        include.extend(tables.map(|source| literal(source)));
        let choice = Choice {
            include: Patterns::new(include)?,
            exclude: Patterns::new(["/.xsnap/packages"])?,
            ..Choice::default()
        };
        self.unpack(b"", &choice, open_folder(stage)?.as_fd(), threads, progress).map(drop)
    }

    /// Brings what a folder of the snapshot holds, or one file, into an open folder. Nothing where the snapshot has no such
    /// path.
    ///
    /// # Errors
    /// Those of a restore.
    pub fn unpack(
        &self,
        path: &[u8],
        choice: &Choice,
        into: BorrowedFd<'_>,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Option<Restored>> {
        let Some(entry) = self.find(path)? else { return Ok(None) };
        let request = request(choice, false, threads);
        let reader = self.repository.reader_of(&entry)?;
        let selected = Selected { entry: &entry, path, sources: &self.snapshot.sources };
        let done = restore(&reader, &selected, into, &request, progress);
        self.repository.mark_bad(&reader.take_bad_frames())?;
        done.map(Some)
    }
}

/// Opens a folder for bringing something into it.
///
/// # Errors
/// `File` where that cannot be done.
pub fn open_folder(folder: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::empty()).map_err(|e| Error::file("open", folder, e))
}

fn request(choice: &Choice, in_place: bool, threads: usize) -> RestoreRequest {
    RestoreRequest {
        only: choice.only.clone(),
        include: choice.include.clone(),
        exclude: choice.exclude.clone(),
        overwrite: Overwrite::Always,
        delete: choice.exact,
        dry_run: false,
        by_name: choice.owners.is_some(),
        directory: choice.owners.clone().unwrap_or_default(),
        threads,
        root_metadata: !in_place && choice.only.is_none() && choice.include.is_empty(),
        in_place,
        spare: Vec::new(),
    }
}

/// A pattern that matches one path and nothing else. Bytes that are no text match any.
pub fn literal(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.split(char::REPLACEMENT_CHARACTER).map(globset::escape).collect::<Vec<_>>().join("?")
}
