//! Whether two trees are the same in everything that a backup is to bring back, and in what they differ.
//!
//! Works by descriptors, so that paths may be longer than `PATH_MAX`. The times of last access and of last status
//! change, and the length of folders, are not compared: nobody can restore them.

use super::node;
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat},
    io::Errno,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

/// What is not compared.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Mode, owner, times and attributes of the two topmost folders themselves.
    pub ignore_root: bool,
}

/// Every difference between two trees, the topmost folders included, in words.
pub fn differences(a: &Path, b: &Path) -> Vec<String> {
    differences_with(a, b, Options::default())
}

/// As [`differences`], but for what the options leave out.
pub fn differences_with(a: &Path, b: &Path, options: Options) -> Vec<String> {
    let found = differing_with(a, b, options).into_iter();
    found.map(|Difference { path, what }| format!("{}: {what}", path.escape_ascii())).collect()
}

/// A path, and in what it differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Below the two roots; the roots themselves are the empty path.
    pub path: Vec<u8>,
    /// In words.
    pub what: String,
}

/// As [`differences`], for those who look at the paths.
pub fn differing(a: &Path, b: &Path) -> Vec<Difference> {
    differing_with(a, b, Options::default())
}

fn differing_with(a: &Path, b: &Path, options: Options) -> Vec<Difference> {
    let (a, b) = (Tree::read(a).unwrap(), Tree::read(b).unwrap());
    let paths: BTreeSet<&Vec<u8>> = a.entries.keys().chain(b.entries.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let mut push = |what: String| found.push(Difference { path: path.clone(), what });
        match (a.entries.get(path), b.entries.get(path)) {
            (Some(_), None) => push("only in a".into()),
            (None, Some(_)) => push("only in b".into()),
            (Some(a), Some(b)) if !(options.ignore_root && path.is_empty()) => a.differences(b).for_each(push),
            _ => {}
        }
    }
    found
}

/// Fails with the first differences, if there are any.
pub fn assert_same(a: &Path, b: &Path) {
    let found = differences(a, b);
    let first: Vec<&str> = found.iter().take(25).map(String::as_str).collect();
    assert!(found.is_empty(), "{} differences:\n{}", found.len(), first.join("\n"));
}

/// Everything about one tree, by path; the topmost folder is the empty path.
#[derive(Default)]
struct Tree {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// The first path of every file that has several names.
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

struct Entry {
    /// What is compared, as text, under the name of what it is.
    facts: Vec<(&'static str, String)>,
    length_bytes: u64,
    allocated_bytes: u64,
}

impl Tree {
    fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let root = node::open_folder(root)?;
        tree.add(&root, b".", Vec::new())?;
        tree.descend(root, b"")?;
        Ok(tree)
    }

    /// Adds what is in an open folder, depth first.
    fn descend(&mut self, folder: OwnedFd, path: &[u8]) -> io::Result<()> {
        for name in node::names(&folder)? {
            let path = if path.is_empty() { name.clone() } else { [path, &name].join(&b'/') };
            if self.add(&folder, &name, path.clone())? == FileType::Directory {
                self.descend(node::subfolder(&folder, &name)?, &path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, folder: &OwnedFd, name: &[u8], path: Vec<u8>) -> io::Result<FileType> {
        let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let mut facts = facts_of(&stat, kind);
        facts.push(("content", content(folder, name, kind, stat.st_size)?));
        facts.push(("xattrs", shown_xattrs(node::xattrs(folder, name)?)));
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let first = self.first_names.entry((stat.st_dev, stat.st_ino)).or_insert_with(|| path.clone());
            facts.push(("hard link", first.escape_ascii().to_string()));
        } else {
            facts.push(("hard link", path.escape_ascii().to_string()));
        }
        let length_bytes = if kind == FileType::RegularFile { u64::try_from(stat.st_size).unwrap() } else { 0 };
        let allocated_bytes = u64::try_from(stat.st_blocks).unwrap() * 512;
        self.entries.insert(path, Entry { facts, length_bytes, allocated_bytes });
        Ok(kind)
    }
}

impl Entry {
    fn differences<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = String> + 'a {
        let facts = self.facts.iter().zip(&other.facts);
        let unequal = facts.filter(|(a, b)| a != b).map(|((what, a), (_, b))| format!("{what}: {a} in a, {b} in b"));
        unequal.chain(self.lost_holes(other))
    }

    /// A file with holes may not come back full. More holes than before are no difference: nobody can see them.
    fn lost_holes(&self, other: &Self) -> Option<String> {
        const SLACK_BYTES: u64 = 64 << 10;
        let sparse = self.allocated_bytes + SLACK_BYTES < self.length_bytes;
        let (a, b) = (self.allocated_bytes, other.allocated_bytes);
        (sparse && b > a + SLACK_BYTES).then(|| format!("holes: {a} bytes allocated in a, {b} in b"))
    }
}

fn facts_of(stat: &Stat, kind: FileType) -> Vec<(&'static str, String)> {
    let device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let length = if kind == FileType::Directory { 0 } else { stat.st_size };
    vec![
        ("type", format!("{kind:?}")),
        ("mode", format!("{:04o}", stat.st_mode & 0o7777)),
        ("uid", stat.st_uid.to_string()),
        ("gid", stat.st_gid.to_string()),
        ("size", length.to_string()),
        ("mtime", format!("{}s {}ns", stat.st_mtime, stat.st_mtime_nsec)),
        ("device", if device { format!("{:#x}", stat.st_rdev) } else { String::new() }),
    ]
}

/// The hash of a file's bytes, or the target of a link; nothing else is opened.
fn content(folder: &OwnedFd, name: &[u8], kind: FileType, length: i64) -> io::Result<String> {
    match kind {
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = rustix::fs::openat(folder.as_fd(), name, flags, Mode::empty())?;
            hash_of(&File::from(file), u64::try_from(length).unwrap())
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(folder, name, Vec::new())?;
            Ok(target.as_bytes().escape_ascii().to_string())
        }
        _ => Ok(String::new()),
    }
}

/// A hash over every block that is not all zeros, and where it is: the same with holes and without, and quick for both.
fn hash_of(file: &File, length_bytes: u64) -> io::Result<String> {
    const BLOCK_BYTES: usize = 64 << 10;
    let mut hasher = blake3::Hasher::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut at = 0;
    while at < length_bytes {
        let data = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            data => data?,
        };
        at = data - data % BLOCK_BYTES as u64;
        let wanted = usize::try_from(length_bytes - at).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        file.read_exact_at(&mut block[..wanted], at)?;
        if block[..wanted].iter().any(|byte| *byte != 0) {
            hasher.update(&at.to_le_bytes()).update(&block[..wanted]);
        }
        at += wanted as u64;
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn shown_xattrs(xattrs: BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let one = |(key, value): (Vec<u8>, Vec<u8>)| format!("{}=\"{}\"", key.escape_ascii(), value.escape_ascii());
    xattrs.into_iter().map(one).collect::<Vec<_>>().join(" ")
}

mod tests {
    use super::*;
    use rustix::fs::{CWD, makedev};
    use std::{
        fs,
        os::unix::{ffi::OsStrExt, fs::symlink},
    };

    const TIME: (i64, u32) = (1_000_000_000, 5);

    /// A small tree with something of every kind that any user can make, every time the same.
    fn build(root: &Path) {
        fs::create_dir_all(root.join("folder")).unwrap();
        for name in ["file", "other", "folder/inside", "linked"] {
            fs::write(root.join(name), name).unwrap();
        }
        fs::hard_link(root.join("linked"), root.join("link")).unwrap();
        symlink("file", root.join("symlink")).unwrap();
        let sparse = File::create(root.join("sparse")).unwrap();
        sparse.set_len(1 << 20).unwrap();
        sparse.write_all_at(b"data", 500_000).unwrap();
        node::set_xattr(CWD, at(root, "file").as_bytes(), "user.key", b"a\0b").unwrap();
        node::set_xattr(CWD, at(root, "folder").as_bytes(), "user.key", b"").unwrap();
        special(root, "fifo", FileType::Fifo, 0);
        if node::privileged() {
            special(root, "device", FileType::CharacterDevice, makedev(1, 3));
        }
        settle(root);
    }

    fn at(root: &Path, name: &str) -> std::ffi::OsString {
        root.join(name).into_os_string()
    }

    fn special(root: &Path, name: &str, kind: FileType, device: u64) {
        rustix::fs::mknodat(CWD, root.join(name), kind, Mode::from_raw_mode(0o600), device).unwrap();
    }

    /// Gives everything one time, so that an alteration shows only itself and not the clock.
    fn settle(root: &Path) {
        for path in super::super::edits::entries(root).iter().map(|path| path.as_path()).chain([root]) {
            node::set_time(CWD, path.as_os_str().as_bytes(), TIME).unwrap();
        }
    }

    /// The differences after an alteration of the second of two equal trees.
    fn after(alter: impl Fn(&Path)) -> Vec<String> {
        let place = tempfile::tempdir().unwrap();
        let (a, b) = (place.path().join("a"), place.path().join("b"));
        build(&a);
        build(&b);
        assert_eq!(differences(&a, &b), Vec::<String>::new());
        alter(&b);
        differences(&a, &b)
    }

    /// Checks that an alteration is seen as exactly the differences that begin as given.
    fn seen(expected: &[&str], alter: impl Fn(&Path)) {
        let found = after(alter);
        let beginnings: Vec<&str> =
            found.iter().filter_map(|f| expected.iter().find(|e| f.starts_with(**e))).copied().collect();
        assert_eq!((beginnings.as_slice(), found.len()), (expected, expected.len()), "{found:#?}");
    }

    /// As [`seen`], for alterations that move times which are not what is looked at.
    fn seen_settled(expected: &[&str], alter: impl Fn(&Path)) {
        seen(expected, |root| {
            alter(root);
            settle(root);
        });
    }

    #[test]
    fn content_and_length_are_compared() {
        seen_settled(&["file: content"], |root| fs::write(root.join("file"), "fill").unwrap());
        seen_settled(&["other: size", "other: content"], |root| fs::write(root.join("other"), "more bytes").unwrap());
        seen_settled(&["symlink: size", "symlink: content"], |root| retarget(root, "folder"));
        seen_settled(&["symlink: content"], |root| retarget(root, "fifo"));
    }

    fn retarget(root: &Path, target: &str) {
        fs::remove_file(root.join("symlink")).unwrap();
        symlink(target, root.join("symlink")).unwrap();
    }

    #[test]
    fn names_are_compared() {
        seen_settled(&["folder/inside: only in a"], |root| fs::remove_file(root.join("folder/inside")).unwrap());
        seen_settled(&["\\xff: only in b"], |root| {
            fs::write(root.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap()
        });
        seen_settled(&["other: only in a", "other : only in b"], |root| {
            fs::rename(root.join("other"), root.join("other ")).unwrap();
        });
    }

    #[test]
    fn modes_and_times_are_compared() {
        let mode =
            |name: &'static str, mode| move |root: &Path| node::set_mode(CWD, at(root, name).as_bytes(), mode).unwrap();
        seen(&["file: mode"], mode("file", 0o4644));
        seen(&["folder: mode"], mode("folder", 0o1755));
        seen(&[": mode"], mode("", 0o700));
        for name in ["file", "folder", "symlink", "fifo"] {
            for time in [(TIME.0, TIME.1 + 1), (TIME.0 + 1, TIME.1), (-1, TIME.1)] {
                let set = |root: &Path| node::set_time(CWD, at(root, name).as_bytes(), time).unwrap();
                seen(&[&format!("{name}: mtime")], set);
            }
        }
    }

    #[test]
    fn attributes_are_compared() {
        for (name, key, value) in [("file", "user.key", "a\0c"), ("file", "user.new", ""), ("folder", "user.key", "x")]
        {
            let set = |root: &Path| node::set_xattr(CWD, at(root, name).as_bytes(), key, value.as_bytes()).unwrap();
            seen(&[&format!("{name}: xattrs")], set);
        }
        seen(&["file: xattrs"], |root| rustix::fs::lremovexattr(root.join("file"), "user.key").unwrap());
        if node::privileged() {
            let set = |root: &Path| node::set_xattr(CWD, at(root, "symlink").as_bytes(), "trusted.key", b"x").unwrap();
            seen(&["symlink: xattrs"], set);
        }
    }

    #[test]
    fn owners_and_devices_are_compared() {
        if !node::privileged() {
            return;
        }
        for (name, uid, gid, what) in [("file", 5, 0, "uid"), ("folder", 0, 5, "gid"), ("symlink", 5, 0, "uid")] {
            let set = |root: &Path| node::set_owner(CWD, at(root, name).as_bytes(), uid, gid).unwrap();
            seen(&[&format!("{name}: {what}")], set);
        }
        seen_settled(&["device: device"], |root| {
            fs::remove_file(root.join("device")).unwrap();
            special(root, "device", FileType::CharacterDevice, makedev(1, 5));
        });
        seen_settled(&["device: type"], |root| {
            fs::remove_file(root.join("device")).unwrap();
            special(root, "device", FileType::BlockDevice, makedev(1, 3));
        });
    }

    #[test]
    fn types_are_compared() {
        seen_settled(&["fifo: type"], |root| {
            fs::remove_file(root.join("fifo")).unwrap();
            special(root, "fifo", FileType::Socket, 0);
        });
        let found = after(|root| {
            fs::remove_file(root.join("other")).unwrap();
            fs::create_dir(root.join("other")).unwrap();
        });
        assert!(found.iter().any(|f| f.starts_with("other: type")), "{found:#?}");
    }

    #[test]
    fn hard_links_are_compared() {
        seen_settled(&["linked: hard link"], |root| {
            fs::remove_file(root.join("linked")).unwrap();
            fs::write(root.join("linked"), "linked").unwrap();
        });
        let found = after(|root| {
            fs::remove_file(root.join("other")).unwrap();
            fs::hard_link(root.join("file"), root.join("other")).unwrap();
        });
        assert!(found.iter().any(|f| f.starts_with("other: hard link")), "{found:#?}");
    }

    #[test]
    fn lost_holes_are_seen_and_new_ones_are_not() {
        seen_settled(&["sparse: holes"], |root| {
            let bytes = fs::read(root.join("sparse")).unwrap();
            fs::write(root.join("sparse"), bytes).unwrap();
        });
        seen_settled(&["sparse: content"], |root| {
            File::options().write(true).open(root.join("sparse")).unwrap().write_all_at(&[0; 4], 500_000).unwrap();
        });
    }

    #[test]
    fn the_topmost_folders_can_be_left_out() {
        let place = tempfile::tempdir().unwrap();
        let (a, b) = (place.path().join("a"), place.path().join("b"));
        build(&a);
        build(&b);
        node::set_mode(CWD, at(&b, "").as_bytes(), 0o711).unwrap();
        assert_eq!(differences_with(&a, &b, Options { ignore_root: true }), Vec::<String>::new());
        fs::remove_file(b.join("file")).unwrap();
        assert_eq!(differences_with(&a, &b, Options { ignore_root: true }), ["file: only in a"]);
    }
}
