//! Objects as files below one directory: what is done for durability, and locks.
//!
//! Knows nothing of what is inside an object. An object is written under a temporary name that its writer holds locked,
//! synced, renamed to its name, and its folder synced. See `format-spec/01-objects.md`.

use crate::{
    id::{ObjectName, random},
    storage::{
        aboard, filesystem,
        object::{Folder, Guard, Listed, LockMode, Locking, Room, Storage, Upload},
    },
};
use data_encoding::HEXLOWER;
use rustix::{
    fs::{FlockOperation, Mode, OFlags, RenameFlags},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Write},
    os::{
        fd::AsFd,
        unix::fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// The name of the file that the repository's one lock is taken on.
const LOCK_FILE: &str = "lock";
/// The name of the catalogue file.
const CATALOG_FILE: &str = "index.sqlite";

/// Objects as files below one directory.
#[derive(Debug)]
pub struct LocalStorage {
    root: PathBuf,
    promises: Arc<Promises>,
}

/// What the file system has refused to promise.
#[derive(Debug, Default)]
struct Promises {
    unsynced: AtomicBool,
    renamed_in_two_steps: AtomicBool,
}

impl LocalStorage {
    /// A storage below `root`, which need not exist yet. Touches nothing.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), promises: Arc::default() }
    }

    fn folder(&self, folder: Folder) -> PathBuf {
        self.root.join(folder.as_str())
    }

    fn path(&self, folder: Folder, name: &ObjectName) -> PathBuf {
        self.folder(folder).join(name.as_str())
    }

    fn read_once(
        &self,
        folder: Folder,
        name: &ObjectName,
        offset_bytes: u64,
        length_bytes: usize,
    ) -> io::Result<Vec<u8>> {
        let file = File::open(self.path(folder, name))?;
        let end = offset_bytes.checked_add(length_bytes as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if file.metadata()?.len() < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = vec![0; length_bytes];
        file.read_exact_at(&mut bytes, offset_bytes)?;
        Ok(bytes)
    }
}

impl Promises {
    /// Syncs, and takes note where the file system says that it has no such thing.
    fn sync(&self, file: &File) -> io::Result<()> {
        match rustix::fs::fsync(file) {
            Err(Errno::INVAL | Errno::NOTSUP | Errno::NOSYS | Errno::NOTTY) => {
                self.unsynced.store(true, Ordering::Relaxed);
                Ok(())
            }
            result => Ok(result?),
        }
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.sync(&File::open(path)?)
    }
}

impl Storage for LocalStorage {
    fn location(&self) -> String {
        self.root.display().to_string()
    }

    fn prepare(&self) -> io::Result<()> {
        make_folder(&self.promises, &self.root)?;
        Folder::ALL.into_iter().try_for_each(|folder| make_folder(&self.promises, &self.folder(folder)))?;
        File::options().create(true).append(true).open(self.root.join(LOCK_FILE))?;
        self.promises.sync_folder(&self.root)
    }

    fn has_folder(&self, folder: Folder) -> bool {
        self.folder(folder).is_dir()
    }

    fn create(&self, folder: Folder, name: &ObjectName) -> io::Result<Box<dyn Upload>> {
        let (temporary, file) = create_temporary(&self.folder(folder))?;
        let upload = LocalUpload {
            file,
            temporary: Some(temporary),
            path: self.path(folder, name),
            folder: self.folder(folder),
            promises: Arc::clone(&self.promises),
        };
        Ok(Box::new(upload))
    }

    fn read(&self, folder: Folder, name: &ObjectName, offset_bytes: u64, length_bytes: usize) -> io::Result<Vec<u8>> {
        match self.read_once(folder, name, offset_bytes, length_bytes) {
            // On a share, another machine may have deleted what was just opened here: asked by name again, the answer
            // is that it is not there.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::STALE) => {
                self.read_once(folder, name, offset_bytes, length_bytes)
            }
            read => read,
        }
    }

    fn list(&self, folder: Folder) -> io::Result<Vec<Listed>> {
        let mut listed = Vec::new();
        for entry in walkdir::WalkDir::new(self.folder(folder)).min_depth(1).max_depth(1) {
            let entry = match entry {
                Ok(entry) => entry,
                Err(e) if e.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => continue,
                Err(e) => return Err(e.into_io_error().unwrap_or_else(|| io::Error::other("a loop of links"))),
            };
            let Some(name) = entry.file_name().to_str().and_then(ObjectName::parse) else { continue };
            if entry.file_type().is_file() {
                let length_bytes = entry.metadata().map_err(io::Error::from)?.len();
                listed.push(Listed { name, length_bytes });
            }
        }
        listed.sort();
        Ok(listed)
    }

    fn delete(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        std::fs::remove_file(self.path(folder, name))?;
        self.sync(folder)
    }

    fn sync(&self, folder: Folder) -> io::Result<()> {
        self.promises.sync_folder(&self.folder(folder))
    }

    fn sweep(&self) -> io::Result<u64> {
        let mut swept = 0;
        for folder in Folder::ALL {
            let entries = match std::fs::read_dir(self.folder(folder)) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let unfinished = entry.file_name().to_str().is_some_and(|n| n.starts_with(ObjectName::TEMPORARY));
                swept += u64::from(unfinished && sweep_one(&entry.path())?);
            }
        }
        Ok(swept)
    }

    fn lock(&self, mode: LockMode) -> io::Result<Locking> {
        let path = self.root.join(LOCK_FILE);
        let writable = File::options().append(true).open(&path);
        let file = match writable.or_else(|_| File::open(&path)) {
            Ok(file) => file,
            Err(e) => return Ok(Locking::Impossible(e)),
        };
        let operation = match mode {
            LockMode::Shared => FlockOperation::NonBlockingLockShared,
            LockMode::Exclusive => FlockOperation::NonBlockingLockExclusive,
        };
        Ok(match rustix::fs::flock(&file, operation) {
            Ok(()) => Locking::Held(Box::new(LocalGuard { file })),
            Err(Errno::WOULDBLOCK) => Locking::Busy,
            Err(e) => Locking::Impossible(e.into()),
        })
    }

    fn uncache(&self, folder: Folder, name: &ObjectName) -> io::Result<()> {
        let file = File::open(self.path(folder, name))?;
        self.promises.sync(&file)?;
        filesystem::uncache(&file)
    }

    fn room(&self) -> io::Result<Option<Room>> {
        filesystem::room(&self.root)
    }

    fn kind_cannot_promise(&self) -> Vec<String> {
        let mut words = filesystem::shortcomings(&self.root);
        if self.promises.renamed_in_two_steps.load(Ordering::Relaxed) {
            words.push("it cannot give a file its name only where that is free, in one step: names are drawn so that no two are the same".into());
        }
        words
    }

    fn cannot_promise(&self) -> Vec<String> {
        let unsynced = self.promises.unsynced.load(Ordering::Relaxed);
        let words = "this file system cannot promise that what is written survives a power cut (it has no fsync)";
        unsynced.then(|| words.to_owned()).into_iter().collect()
    }

    fn holds_foreign(&self) -> io::Result<bool> {
        let own = |name: &str| {
            name == LOCK_FILE || name.starts_with(CATALOG_FILE) || Folder::ALL.iter().any(|f| f.as_str() == name)
        };
        let of_the_medium = |name: &str| {
            let name = name.to_ascii_lowercase();
            let left_by_repair = name.starts_with("fsck") && name.ends_with(".rec");
            let found =
                name.strip_prefix("found.").is_some_and(|n| n.len() == 3 && n.bytes().all(|b| b.is_ascii_digit()));
            let known = [
                "lost+found",
                "lost.dir",
                "system volume information",
                "$recycle.bin",
                "recycler",
                "recycled",
                "desktop.ini",
                "thumbs.db",
            ];
            name.starts_with('.') || left_by_repair || found || known.contains(&name.as_str())
        };
        match std::fs::read_dir(&self.root) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            entries => {
                for entry in entries? {
                    let name = entry?.file_name().to_string_lossy().into_owned();
                    if !own(&name) && !of_the_medium(&name) && !aboard::is_own(&self.root, &name) {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn catalog_file(&self) -> Option<PathBuf> {
        Some(self.root.join(CATALOG_FILE))
    }
}

/// A held lock: the open file description is the lock.
#[derive(Debug)]
struct LocalGuard {
    file: File,
}

impl Guard for LocalGuard {}

impl Drop for LocalGuard {
    /// Closing alone would not do: a process that another thread is just starting shares the description for a moment.
    fn drop(&mut self) {
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

struct LocalUpload {
    file: File,
    temporary: Option<PathBuf>,
    path: PathBuf,
    folder: PathBuf,
    promises: Arc<Promises>,
}

impl Upload for LocalUpload {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.promises.sync(&self.file)?;
        let Some(temporary) = &self.temporary else { return Ok(()) };
        self.publish(temporary)?;
        self.temporary = None;
        self.promises.sync_folder(&self.folder)
    }
}

impl LocalUpload {
    /// Renames to the final name, which must not exist. Where the file system cannot do both in one step, existence is
    /// asked first: names are drawn at random or chosen under a lock.
    fn publish(&self, temporary: &Path) -> io::Result<()> {
        match rustix::fs::renameat_with(rustix::fs::CWD, temporary, rustix::fs::CWD, &self.path, RenameFlags::NOREPLACE)
        {
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            renamed => return Ok(renamed?),
        }
        self.promises.renamed_in_two_steps.store(true, Ordering::Relaxed);
        match self.path.symlink_metadata() {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        match std::fs::rename(temporary, &self.path) {
            // A server whose answer was lost is asked again, and then knows nothing of the old name.
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.has_its_name() => Ok(()),
            renamed => renamed,
        }
    }

    /// Whether the final name leads to this very file.
    fn has_its_name(&self) -> bool {
        let own = self.file.metadata();
        let named = self.path.symlink_metadata();
        own.ok().zip(named.ok()).is_some_and(|(own, named)| (own.dev(), own.ino()) == (named.dev(), named.ino()))
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        let Some(temporary) = &self.temporary else { return };
        // Where even removing takes room that is not there, the bytes go first. What stays is swept by the next writer.
        if std::fs::remove_file(temporary).is_err() && self.file.set_len(0).is_ok() {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Makes a folder and its missing parents, each durable in the one above it.
fn make_folder(promises: &Promises, path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(promises, parent)?;
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(e),
        _ => promises.sync_folder(parent),
    }
}

/// Creates a file under a temporary name and locks it, so that no sweeper takes it for a dead writer's. A sweeper may
/// win the moment between the two; the name is then gone and another one is drawn.
fn create_temporary(folder: &Path) -> io::Result<(PathBuf, File)> {
    loop {
        let path = folder.join(format!("{}{}", ObjectName::TEMPORARY, HEXLOWER.encode(&random::<6>()?)));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = match rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH) {
            Err(Errno::EXIST) => continue,
            file => File::from(file?),
        };
        // On a medium without locks nobody can sweep either.
        if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
            continue;
        }
        if rustix::fs::fstat(&file)?.st_nlink > 0 {
            return Ok((path, file));
        }
    }
}

/// Removes an unfinished object if no living writer holds it.
fn sweep_one(path: &Path) -> io::Result<bool> {
    let file = match File::options().append(true).open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if rustix::fs::flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}
