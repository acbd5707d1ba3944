//! How much is at paths of a machine and below them: entries and bytes, counted by many threads at once.
//!
//! Folders are opened by descriptor, one name at a time, and no link is followed. A folder says of most names what they
//! are: only files, for their size, and folders, for their file system, are looked at. Every capture does this before it
//! walks the same files once more, so it has to be quick. Knows nothing of xCAT.

use crate::{archive::plan::Size, mn::inside::Inside};
use rayon::Scope;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Stat};
use std::{
    collections::HashMap,
    ffi::CStr,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// How many bytes of a folder's names are read at once.
const LIST_BYTES: usize = 32 << 10;
/// How many bytes of names are looked at by one thread: a few hundred names.
const LOOK_BYTES: usize = 8 << 10;

/// Paths that are not counted, with all that is below them: as they are, without links on the way.
#[derive(Debug, Default)]
pub struct Without {
    is_whole: bool,
    below: HashMap<Vec<u8>, Without>,
}

impl Without {
    /// Leaves these paths out, and what the machine is never asked for.
    pub fn new<'p>(inside: &'p Inside, paths: impl IntoIterator<Item = &'p Vec<u8>>) -> Self {
        let mut root = Self::default();
        for path in paths.into_iter().chain(inside.shunned()) {
            let names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
            let end = names.fold(&mut root, |at, name| at.below.entry(name.to_vec()).or_default());
            end.is_whole = true;
        }
        root
    }

    /// What is left out below a path.
    fn at(&self, path: &[u8]) -> Option<&Self> {
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty());
        names.try_fold(self, |at, name| at.below.get(name))
    }
}

/// A size that many threads add to.
#[derive(Debug, Default)]
struct Count {
    entries: AtomicU64,
    bytes: AtomicU64,
}

impl Count {
    fn add(&self, size: Size) {
        for (sum, more) in [(&self.entries, size.entries), (&self.bytes, size.bytes)] {
            let add = |sum: u64| Some(sum.saturating_add(more));
            // It never declines.
            let _ = sum.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        }
    }

    fn into_size(self) -> Size {
        Size { entries: self.entries.into_inner(), bytes: self.bytes.into_inner() }
    }
}

/// How much is at each of some paths, which lead through no link, and below it on the same file system, without what is
/// left out below it. What cannot be looked at counts nothing; a link in the last place is a link.
pub fn measure(inside: &Inside, paths: &[&[u8]], without: &Without) -> Vec<Size> {
    let counts: Vec<Count> = paths.iter().map(|_| Count::default()).collect();
    rayon::scope(|scope| {
        for (path, count) in paths.iter().zip(&counts) {
            scope.spawn(move |scope| begin(scope, inside, path, count, without.at(path)));
        }
    });
    counts.into_iter().map(Count::into_size).collect()
}

/// A folder whose names are counted.
struct Walk<'s> {
    folder: OwnedFd,
    device: u64,
    count: &'s Count,
    without: Option<&'s Without>,
}

fn begin<'s>(scope: &Scope<'s>, inside: &Inside, path: &[u8], count: &'s Count, without: Option<&'s Without>) {
    let path = inside.live_path(path);
    let Ok(stat) = rustix::fs::lstat(&path) else { return };
    count.add(size_of(&stat));
    if kind_of(&stat) == FileType::Directory {
        let opened = rustix::fs::openat(CWD, path.as_os_str().as_bytes(), FOLDER, Mode::empty());
        opened.into_iter().for_each(|folder| list(scope, Walk { folder, device: stat.st_dev, count, without }));
    }
}

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn size_of(stat: &Stat) -> Size {
    let is_file = kind_of(stat) == FileType::RegularFile;
    Size { entries: 1, bytes: if is_file { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 } }
}

/// Counts the names in a folder, or has them counted.
fn list<'s>(scope: &Scope<'s>, walk: Walk<'s>) {
    let walk = Arc::new(walk);
    let (mut buffer, mut names, mut others) = ([MaybeUninit::uninit(); LIST_BYTES], Vec::new(), 0);
    let mut listed = RawDir::new(&walk.folder, &mut buffer);
    while let Some(Ok(entry)) = listed.next() {
        let name = entry.file_name();
        let is_out = || walk.without.is_some_and(|w| w.below.get(name.to_bytes()).is_some_and(|w| w.is_whole));
        if matches!(name.to_bytes(), b"." | b"..") || is_out() {
            continue;
        }
        match entry.file_type() {
            FileType::RegularFile | FileType::Directory | FileType::Unknown => {
                names.extend_from_slice(name.to_bytes_with_nul());
            }
            _ => others += 1,
        }
        if names.len() >= LOOK_BYTES {
            let (walk, names) = (Arc::clone(&walk), std::mem::take(&mut names));
            scope.spawn(move |scope| look(scope, &walk, &names));
        }
    }
    walk.count.add(Size { entries: others, bytes: 0 });
    look(scope, &walk, &names);
}

/// Looks at names in a folder, each with its NUL, and has the folders among them listed.
fn look<'s>(scope: &Scope<'s>, walk: &Arc<Walk<'s>>, names: &[u8]) {
    let mut size = Size::default();
    for name in names.split_inclusive(|b| *b == 0).filter_map(|name| CStr::from_bytes_with_nul(name).ok()) {
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let Ok(stat) = rustix::fs::statat(&walk.folder, name, flags) else { continue };
        size += size_of(&stat);
        if kind_of(&stat) == FileType::Directory && stat.st_dev == walk.device {
            let (walk, name) = (Arc::clone(walk), name.to_owned());
            scope.spawn(move |scope| {
                let without = walk.without.and_then(|without| without.below.get(name.to_bytes()));
                let Ok(folder) = rustix::fs::openat(&walk.folder, &name, FOLDER, Mode::empty()) else { return };
                let (device, count) = (walk.device, walk.count);
                // The folder above need not stay open while this one is listed.
                drop(walk);
                list(scope, Walk { folder, device, count, without });
            });
        }
    }
    walk.count.add(size);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, os::unix::fs::symlink};

    /// A root with a tree of folders, one of them of many names.
    fn made() -> (tempfile::TempDir, Inside) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/many/deep/er")).unwrap();
        fs::create_dir_all(at("tree/out/below")).unwrap();
        for n in 0..2_000 {
            fs::write(at(&format!("tree/many/a-name-of-some-length-{n:05}")), vec![b'x'; n % 7]).unwrap();
        }
        fs::write(at("tree/many/deep/er/file"), b"12345").unwrap();
        fs::write(at("tree/out/below/file"), b"1234567").unwrap();
        fs::write(at("tree/out/kept"), b"123").unwrap();
        symlink("/tree/many", at("tree/link")).unwrap();
        symlink("nowhere", at("tree/dangling")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        (dir, inside)
    }

    fn measured(inside: &Inside, path: &str, out: &[&str]) -> (u64, u64) {
        let out: Vec<Vec<u8>> = out.iter().map(|path| path.as_bytes().to_vec()).collect();
        let sizes = measure(inside, &[path.as_bytes()], &Without::new(inside, &out));
        assert_eq!(sizes.len(), 1);
        (sizes[0].entries, sizes[0].bytes)
    }

    #[test]
    fn every_entry_counts_once_and_links_lead_nowhere() {
        let (_dir, inside) = made();
        let bytes: u64 = (0..2_000).map(|n| n % 7).sum();
        assert_eq!(measured(&inside, "/tree/many", &[]), (2_004 - 1 + 1, bytes + 5));
        assert_eq!(measured(&inside, "/tree", &[]), (1 + 2_004 + 2 + 5 - 1, bytes + 5 + 7 + 3));
        assert_eq!(measured(&inside, "/tree/link", &[]), (1, 0));
        assert_eq!(measured(&inside, "/tree/out/kept", &[]), (1, 3));
        assert_eq!(measured(&inside, "/tree/none", &[]), (0, 0));
        let sizes = measure(&inside, &[b"/tree/out", b"/tree/many/deep", b"/"], &Without::default());
        assert_eq!((sizes[0].entries, sizes[1].entries, sizes[2].entries), (4, 3, 2_012));
    }

    #[test]
    fn what_is_left_out_counts_nothing_unless_it_is_what_was_asked_for() {
        let (_dir, mut inside) = made();
        assert_eq!(measured(&inside, "/tree/out", &["/tree/out/below", "/elsewhere"]), (2, 3));
        assert_eq!(measured(&inside, "/tree/out", &["/tree/out", "/tree/out/kept"]), (3, 7));
        assert_eq!(measured(&inside, "/tree/out/below", &["/tree/out"]), (2, 7));
        let all = measured(&inside, "/tree", &[]);
        let below = measured(&inside, "/tree", &["/tree/out/below"]);
        assert_eq!((all.0 - below.0, all.1 - below.1), (2, 7));
        inside.shun(b"/tree/out");
        let shunned = measured(&inside, "/tree", &[]);
        assert_eq!((all.0 - shunned.0, all.1 - shunned.1), (4, 10));
    }
}
