//! Files below one root, which may be the mounted disk of another machine: no link leads out of it.
//!
//! A path is followed by descriptor, one name after the other, and a link is read and followed by hand: an absolute one
//! begins at the root again, and `..` stops there. That is what the kernel calls `RESOLVE_IN_ROOT`; it is done here because
//! the kernels of EL8 do not have that call. Knows nothing of xCAT.

use crate::error::{Error, Result};
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

/// How many links a path may lead through, as the kernel has it.
const MAX_LINKS: usize = 40;

/// The root below which files are looked for.
#[derive(Debug)]
pub struct Inside {
    root: OwnedFd,
    base: PathBuf,
    /// The paths of what is never looked at.
    shunned: BTreeSet<Vec<u8>>,
}

/// A link that was met on the way to somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Where it is, without links on the way.
    pub path: Vec<u8>,
    /// What it says.
    pub target: Vec<u8>,
}

/// Where a path leads.
#[derive(Debug)]
pub struct Followed {
    /// The path without links on the way; as far as it could be followed, and then as it was asked for.
    pub path: Vec<u8>,
    /// The links on the way, each once, in the order in which they were met.
    pub links: Vec<Link>,
    /// What is there.
    pub stat: io::Result<Stat>,
    /// The folder that it is in, and its name there; `.` for the root.
    place: Option<(OwnedFd, Vec<u8>)>,
}

impl Inside {
    /// The files below `base`.
    ///
    /// # Errors
    /// `File` where it is no folder that can be opened.
    pub fn open(base: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(base, flags, Mode::empty()).map_err(|e| Error::file("open", base, e))?;
        Ok(Self { root, base: base.to_owned(), shunned: BTreeSet::new() })
    }

    /// From now on never looks at what is at this path, which leads through no link, nor at anything below: a file system
    /// that does not answer is mounted there, and the kernel would wait for it without end. Whoever is led there is told
    /// `ETIMEDOUT`.
    pub fn shun(&mut self, path: &[u8]) {
        self.shunned.insert(path.to_vec());
    }

    /// Whether a path is one that is never looked at. One below such a path is not.
    pub fn is_shunned(&self, path: &[u8]) -> bool {
        self.shunned.contains(path)
    }

    /// The paths at which nothing is ever looked at.
    pub fn shunned(&self) -> impl Iterator<Item = &Vec<u8>> {
        self.shunned.iter()
    }

    /// Where the root is on this machine.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Where a path below the root is on this machine. Links on the way are not followed: see `follow`.
    pub fn live_path(&self, path: &[u8]) -> PathBuf {
        let rest = path.strip_prefix(b"/").unwrap_or(path);
        self.base.join(std::ffi::OsStr::from_bytes(rest))
    }

    /// Follows a path, its last name too, as a process whose root this is would.
    pub fn follow(&self, path: &[u8]) -> Followed {
        self.walk(path, true)
    }

    /// The link for which nothing is at the end of a path that was followed, if it is a link's fault.
    pub fn dangling<'a>(&self, followed: &'a Followed) -> Option<&'a Link> {
        let is_missing = |stat: &io::Result<Stat>| matches!(stat, Err(e) if e.kind() == io::ErrorKind::NotFound);
        let last = followed.links.last().filter(|_| is_missing(&followed.stat))?;
        is_missing(&self.follow(&last.path).stat).then_some(last)
    }

    /// As `follow`, but takes a link in the last place for what it is.
    pub fn follow_to(&self, path: &[u8]) -> Followed {
        self.walk(path, false)
    }

    fn walk(&self, path: &[u8], last_too: bool) -> Followed {
        let mut way = Way { root: self.root.as_fd(), folders: Vec::new(), links: Vec::new() };
        let mut rest: VecDeque<Vec<u8>> = names(path).map(<[u8]>::to_vec).collect();
        let mut stat = rustix::fs::statat(&self.root, c"", AtFlags::EMPTY_PATH).map_err(io::Error::from);
        let mut place = None;
        let mut met = 0;
        while let Some(name) = rest.pop_front() {
            if name == b".." {
                way.folders.pop();
                (stat, place) = (way.stat_of_folder(), None);
                continue;
            }
            let is_shunned = !self.shunned.is_empty() && self.shunned.contains(&way.path_of(&name));
            let found = match is_shunned {
                true => Err(Errno::TIMEDOUT),
                false => rustix::fs::statat(way.folder(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW),
            };
            let is_link = found.as_ref().is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Symlink);
            if is_link && (last_too || !rest.is_empty()) {
                met += 1;
                match way.take_link(&name, &mut rest) {
                    Ok(()) if met <= MAX_LINKS => (stat, place) = (way.stat_of_folder(), None),
                    Ok(()) => return way.end(&name, &rest, Err(Errno::LOOP.into()), None),
                    Err(e) => return way.end(&name, &rest, Err(e.into()), None),
                }
                continue;
            }
            let entered = match found {
                Ok(_) if rest.is_empty() => {
                    let folder = rustix::io::fcntl_dupfd_cloexec(way.folder(), 0);
                    place = folder.ok().map(|folder| (folder, name.clone()));
                    return way.end(&name, &rest, found.map_err(io::Error::from), place);
                }
                Ok(_) => way.enter(&name),
                Err(e) => Err(e),
            };
            match entered {
                Ok(()) => (stat, place) = (way.stat_of_folder(), None),
                Err(e) => return way.end(&name, &rest, Err(e.into()), None),
            }
        }
        if place.is_none() {
            place = rustix::io::fcntl_dupfd_cloexec(way.folder(), 0).ok().map(|folder| (folder, b".".to_vec()));
        }
        Followed { path: way.path(), links: way.links, stat, place }
    }

    /// What a path leads to.
    ///
    /// # Errors
    /// What the kernel says; `ELOOP` for links that lead in circles.
    pub fn stat(&self, path: &[u8]) -> io::Result<Stat> {
        self.follow(path).stat
    }

    /// Whether a path leads to something.
    pub fn exists(&self, path: &[u8]) -> bool {
        self.stat(path).is_ok()
    }

    /// Whether a path leads to a folder.
    pub fn is_folder(&self, path: &[u8]) -> bool {
        self.stat(path).is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// What the kernel says; `InvalidInput` for what is no regular file, which is not opened: a pipe would wait.
    pub fn open_file(&self, path: &[u8]) -> io::Result<File> {
        let followed = self.follow(path);
        let stat = followed.stat?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        let (folder, name) = followed.place.ok_or(Errno::NOENT)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(folder, name, flags, Mode::empty())?))
    }

    /// The bytes of a regular file of at most `max_bytes`.
    ///
    /// # Errors
    /// As `open_file`; `InvalidData` where it is longer.
    pub fn read(&self, path: &[u8], max_bytes: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_file(path)?.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > max_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {max_bytes} bytes")));
        }
        Ok(bytes)
    }

    /// As `read`, and nothing where there is no such file.
    ///
    /// # Errors
    /// As `read`, but for a file that is not there.
    pub fn read_if_there(&self, path: &[u8], max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        match self.read(path, max_bytes) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens a folder for listing.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open_folder(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let followed = self.follow(path);
        followed.stat?;
        let (folder, name) = followed.place.ok_or(Errno::NOENT)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
    }

    /// The names in a folder, in ascending order, without `.` and `..`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn names(&self, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        let mut names = Vec::new();
        for entry in Dir::new(self.open_folder(path)?)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }
}

/// A way that is being followed.
struct Way<'a> {
    root: BorrowedFd<'a>,
    folders: Vec<(Vec<u8>, OwnedFd)>,
    links: Vec<Link>,
}

impl Way<'_> {
    fn folder(&self) -> BorrowedFd<'_> {
        self.folders.last().map_or(self.root, |(_, folder)| folder.as_fd())
    }

    fn stat_of_folder(&self) -> io::Result<Stat> {
        Ok(rustix::fs::statat(self.folder(), c"", AtFlags::EMPTY_PATH)?)
    }

    fn path(&self) -> Vec<u8> {
        let names = self.folders.iter().flat_map(|(name, _)| [b"/", name.as_slice()].concat());
        let path: Vec<u8> = names.collect();
        if path.is_empty() { b"/".to_vec() } else { path }
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let names = self.folders.iter().map(|(name, _)| name.as_slice()).chain([name]);
        names.flat_map(|name| [b"/", name].concat()).collect()
    }

    fn enter(&mut self, name: &[u8]) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::openat(self.folder(), name, flags, Mode::empty())?;
        self.folders.push((name.to_vec(), folder));
        Ok(())
    }

    /// Puts what a link says in front of what is still to be followed.
    fn take_link(&mut self, name: &[u8], rest: &mut VecDeque<Vec<u8>>) -> Result<(), Errno> {
        let target = rustix::fs::readlinkat(self.folder(), name, Vec::new())?.into_bytes();
        let link = Link { path: self.path_of(name), target };
        if link.target.starts_with(b"/") {
            self.folders.clear();
        }
        names(&link.target).rev().for_each(|name| rest.push_front(name.to_vec()));
        if !self.links.contains(&link) {
            self.links.push(link);
        }
        Ok(())
    }

    fn end(
        self,
        name: &[u8],
        rest: &VecDeque<Vec<u8>>,
        stat: io::Result<Stat>,
        place: Option<(OwnedFd, Vec<u8>)>,
    ) -> Followed {
        let mut path = self.path_of(name);
        rest.iter().for_each(|name| path.extend([b"/", name.as_slice()].concat()));
        Followed { path, links: self.links, stat, place }
    }
}

/// The names of a path; `.` is none.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|b| *b == b'/').filter(|name| !name.is_empty() && *name != b".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn made() -> (tempfile::TempDir, Inside) {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir_all(at("a/b")).unwrap();
        std::fs::write(at("a/b/file"), b"inside").unwrap();
        std::fs::write(at("secret"), b"top").unwrap();
        symlink("/a/b", at("absolute")).unwrap();
        symlink("../../../../secret", at("a/b/climbing")).unwrap();
        symlink("round", at("round")).unwrap();
        symlink("/nowhere/at/all", at("dangling")).unwrap();
        let inside = Inside::open(dir.path()).unwrap();
        (dir, inside)
    }

    #[test]
    fn links_resolve_below_the_root_and_never_climb_out_of_it() {
        let (_dir, inside) = made();
        assert_eq!(inside.read(b"/absolute/file", 100).unwrap(), b"inside");
        assert_eq!(inside.read(b"/a/b/climbing", 100).unwrap(), b"top");
        assert_eq!(inside.read(b"/../../../../secret", 100).unwrap(), b"top");
        assert_eq!(inside.read(b"/absolute/../b/./file", 100).unwrap(), b"inside");
        let followed = inside.follow(b"/absolute/file");
        assert_eq!(followed.path, b"/a/b/file");
        assert_eq!(followed.links, [Link { path: b"/absolute".to_vec(), target: b"/a/b".to_vec() }]);
        assert_eq!(inside.follow(b"/absolute").path, b"/a/b");
        assert_eq!(inside.follow_to(b"/absolute").path, b"/absolute");
        assert_eq!(inside.names(b"/absolute").unwrap(), [b"climbing".to_vec(), b"file".to_vec()]);
        assert_eq!(inside.follow(b"/").path, b"/");
    }

    #[test]
    fn what_is_shunned_is_never_looked_at_whichever_way_leads_there() {
        let (_dir, mut inside) = made();
        inside.shun(b"/a/b");
        let told = |path: &[u8]| inside.stat(path).map(|_| ()).map_err(|e| e.raw_os_error());
        for path in [&b"/a/b"[..], b"/a/b/file", b"/absolute/file", b"/absolute", b"/a/../a/b/file"] {
            assert_eq!(told(path), Err(Some(Errno::TIMEDOUT.raw_os_error())), "{path:?}");
        }
        assert!(inside.names(b"/absolute").is_err() && inside.read(b"/a/b/climbing", 10).is_err());
        assert_eq!(told(b"/a"), Ok(()));
        assert_eq!(inside.names(b"/a").unwrap(), [b"b".to_vec()]);
    }

    #[test]
    fn what_is_not_there_is_told_with_the_way_to_it() {
        let (_dir, inside) = made();
        let followed = inside.follow(b"/dangling/x");
        assert_eq!((followed.path.as_slice(), followed.links.len()), (&b"/nowhere/at/all/x"[..], 1));
        assert_eq!(followed.stat.unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(inside.follow(b"/round").stat.unwrap_err().raw_os_error(), Some(Errno::LOOP.raw_os_error()));
        assert!(inside.read_if_there(b"/a/none", 10).unwrap().is_none());
        assert!(inside.read_if_there(b"/secret/none", 10).unwrap().is_none());
        assert!(inside.read(b"/a", 10).is_err());
        assert_eq!(inside.read(b"/secret", 2).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
