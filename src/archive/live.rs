//! Live folders by descriptor: opened, listed, walked into; entries made, replaced and removed in them.
//!
//! Nothing here follows a link or takes a long path: a folder is opened one name at a time from a root on, so that no
//! snapshot, whatever it says, reaches outside of the target. Knows nothing of blobs.
use lru::LruCache;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, Stat},
    io::Errno,
};
use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    rc::Rc,
    sync::Arc,
};

/// How many folders a thread keeps open.
const OPEN_FOLDERS: NonZeroUsize = NonZeroUsize::new(256).unwrap();
/// How the names of files that are not finished begin.
const UNFINISHED: &str = ".xsnap-";

/// A folder of the target, by its way from the root of the target. The root's name is its path in the snapshot.
#[derive(Debug)]
pub struct Folder {
    parent: Option<Arc<Folder>>,
    name: Vec<u8>,
}

impl Folder {
    /// The root of the target, into which the folder of this path of a snapshot goes; it has a leading `/`, or is empty.
    pub fn root(path: &[u8]) -> Arc<Self> {
        Arc::new(Self { parent: None, name: path.strip_prefix(b"/").unwrap_or(path).to_vec() })
    }

    /// A folder in this one.
    pub fn child(self: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self { parent: Some(Arc::clone(self)), name: name.to_vec() })
    }

    /// The folder that this one is in, and its name there; nothing for the root.
    pub fn place(&self) -> Option<(&Arc<Self>, &[u8])> {
        self.parent.as_ref().map(|parent| (parent, self.name.as_slice()))
    }

    /// The path in the snapshot of a name in this folder, with a leading `/`.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let (mut names, mut at) = (vec![name], self);
        while let Some((parent, name)) = at.place() {
            names.push(name);
            at = parent;
        }
        names.push(&at.name);
        names.iter().rev().filter(|name| !name.is_empty()).flat_map(|name| [b"/", *name].concat()).collect()
    }
}

impl Drop for Folder {
    /// One after the other, for a chain of many thousand folders would overflow the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut folder) = next.and_then(Arc::into_inner) {
            next = folder.parent.take();
        }
    }
}

/// Opens folders of the target; one for each thread, for it keeps the last ones open.
#[derive(Debug)]
pub struct Opener<'a> {
    root: BorrowedFd<'a>,
    open: LruCache<*const Folder, (Arc<Folder>, Rc<OwnedFd>)>,
}

/// An open folder: the root of the target, or one below it.
#[derive(Debug, Clone)]
pub enum OpenFolder<'a> {
    /// The root.
    Root(BorrowedFd<'a>),
    /// Another one.
    Below(Rc<OwnedFd>),
}

impl AsFd for OpenFolder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(fd) => *fd,
            Self::Below(fd) => fd.as_fd(),
        }
    }
}

impl<'a> Opener<'a> {
    /// Opens folders below an open root.
    pub fn new(root: BorrowedFd<'a>) -> Self {
        Self { root, open: LruCache::new(OPEN_FOLDERS) }
    }

    /// Opens a folder, from the nearest one on the way that is still open.
    ///
    /// # Errors
    /// The file system's own; `ELOOP` or `ENOTDIR` where something else is in the way.
    pub fn open(&mut self, folder: &Arc<Folder>) -> io::Result<OpenFolder<'a>> {
        let (mut closed, mut at) = (Vec::new(), folder);
        let mut open = loop {
            if let Some((_, fd)) = self.open.get(&Arc::as_ptr(at)) {
                break OpenFolder::Below(Rc::clone(fd));
            }
            match at.place() {
                None => break OpenFolder::Root(self.root),
                Some((parent, _)) => {
                    closed.push(at);
                    at = parent;
                }
            }
        };
        for folder in closed.into_iter().rev() {
            let fd = Rc::new(open_folder(open.as_fd(), &folder.name)?);
            self.open.put(Arc::as_ptr(folder), (Arc::clone(folder), Rc::clone(&fd)));
            open = OpenFolder::Below(fd);
        }
        Ok(open)
    }
}

/// Opens a folder in an open one, following nothing.
///
/// # Errors
/// The file system's own; `ENOTDIR` where it is something else.
pub fn open_folder(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// Looks at a name in an open folder; nothing where it does not exist.
///
/// # Errors
/// The file system's own.
pub fn look(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What kind of thing a stat is of.
pub fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The name under which the file of a name is written until it is finished. Always the same, so that whoever goes on
/// after an interruption finds it.
pub fn unfinished_name(name: &[u8]) -> Vec<u8> {
    format!("{UNFINISHED}{}", blake3::hash(name).to_hex().get(..24).unwrap_or_default()).into_bytes()
}

/// Whether a name is one that `unfinished_name` makes.
pub fn is_unfinished(name: &[u8]) -> bool {
    name.starts_with(UNFINISHED.as_bytes()) && name.len() == UNFINISHED.len() + 24
}

/// Makes a folder that only its owner can enter, until it gets its own metadata.
///
/// # Errors
/// The file system's own.
pub fn make_folder(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(folder, name, Mode::RWXU)?)
}

/// Creates a file that must not exist, readable to its owner only.
///
/// # Errors
/// The file system's own.
pub fn create_file(folder: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?)
}

/// Opens a file that exists, following nothing and waiting for nothing: for reading, which is enough to compare it and
/// to set its metadata even while it runs, or for writing, too.
///
/// # Errors
/// The file system's own.
pub fn open_existing(folder: BorrowedFd<'_>, name: &[u8], to_write: bool) -> io::Result<OwnedFd> {
    let access = if to_write { OFlags::RDWR } else { OFlags::RDONLY };
    let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?)
}

/// Whether an open folder is the root of a file system that the kernel makes up: processes, devices' settings, control
/// groups. Nothing in one can be brought back.
pub fn is_made_up(folder: BorrowedFd<'_>) -> bool {
    /// From linux/magic.h: proc, sysfs, cgroup, cgroup2, debugfs, tracefs, securityfs, bpf, pstore, efivarfs, selinuxfs,
    /// configfs, mqueue, hugetlbfs, binfmt_misc, devpts, rpc_pipefs, fusectl, nsfs, autofs.
    const MADE_UP: [u32; 20] = [
        0x9fa0,
        0x6265_6572,
        0x0027_e0eb,
        0x6367_7270,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0xcafe_4a11,
        0x6165_676c,
        0xde5e_81e4,
        0xf97c_ff8c,
        0x6265_6570,
        0x1980_0202,
        0x9584_58f6,
        0x4249_4e4d,
        0x1cd1,
        0x6759_6969,
        0x6573_5543,
        0x6e73_6673,
        0x0187,
    ];
    let kind = rustix::fs::fstatfs(folder).map(|stat| u32::try_from(stat.f_type & 0xffff_ffff).unwrap_or_default());
    kind.is_ok_and(|kind| MADE_UP.contains(&kind))
}

/// Moves a finished file to its name, over whatever but a folder is there.
///
/// # Errors
/// The file system's own.
pub fn rename_over(folder: BorrowedFd<'_>, from: &[u8], to: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::renameat(folder, from, folder, to)?)
}

/// A folder that is being removed.
struct Doomed {
    fd: OwnedFd,
    names: Vec<Vec<u8>>,
    name: Vec<u8>,
    path_bytes: usize,
    /// Something in it stays, and so does it.
    spared: bool,
}

/// Removes whatever stands under a name, a folder with everything in it, but nothing on another file system, and
/// nothing that is spared: that is asked by path, `path` being the one of the name, and by what is there.
/// Returns how many entries went.
///
/// # Errors
/// The file system's own; what has been removed until then stays removed.
pub fn remove(
    folder: BorrowedFd<'_>,
    name: &[u8],
    device: u64,
    path: &[u8],
    is_spared: &dyn Fn(&[u8], &Stat) -> bool,
) -> io::Result<u64> {
    let (mut open, mut path) = (Vec::<Doomed>::new(), path.to_vec());
    let (mut removed, mut next) = (0, Some(name.to_vec()));
    loop {
        let at = open.last().map_or(folder, |doomed| doomed.fd.as_fd());
        if let Some(name) = next.take() {
            if let Some(parent) = open.last() {
                path.truncate(parent.path_bytes);
                path.push(b'/');
                path.extend_from_slice(&name);
            }
            let Some(stat) = look(at, &name)? else { continue };
            let is_folder = kind_of(&stat) == FileType::Directory;
            if is_spared(&path, &stat) {
                open.last_mut().into_iter().for_each(|parent| parent.spared = true);
            } else if !is_folder {
                rustix::fs::unlinkat(at, name.as_slice(), AtFlags::empty())?;
                removed += 1;
            } else if stat.st_dev != device {
                return Err(io::Error::other("another file system is mounted there"));
            } else {
                let fd = open_folder(at, &name)?;
                let names = names_of(fd.as_fd())?;
                open.push(Doomed { fd, names, name, path_bytes: path.len(), spared: false });
            }
        } else if let Some(doomed) = open.last_mut() {
            next = doomed.names.pop();
            if next.is_none() {
                let Some(Doomed { name, spared, .. }) = open.pop() else { return Ok(removed) };
                if spared {
                    open.last_mut().into_iter().for_each(|parent| parent.spared = true);
                } else {
                    let at = open.last().map_or(folder, |doomed| doomed.fd.as_fd());
                    rustix::fs::unlinkat(at, name.as_slice(), AtFlags::REMOVEDIR)?;
                    removed += 1;
                }
            }
        } else {
            return Ok(removed);
        }
    }
}

/// Names in an open folder, in the file system's order.
///
/// # Errors
/// The file system's own.
pub fn names_of(folder: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    let mut buffer = vec![std::mem::MaybeUninit::uninit(); 64 << 10];
    // A descriptor of its own, for reading a folder moves the descriptor.
    let fresh = open_folder(folder, b".")?;
    let mut listed = rustix::fs::RawDir::new(fresh, &mut buffer);
    while let Some(entry) = listed.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}
