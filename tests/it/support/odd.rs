//! A tree of everything that tools get wrong: odd names, modes, owners, times, holes, links, attributes and depths.
//!
//! Needs root, and a file system with attributes and access lists, for all of it; what is refused is returned. Two
//! builds are the same, so that one can be compared with the other.

use super::{
    node::{self, make_subfolder, set_mode, set_owner, set_time, set_xattr, write_file},
    random::Random,
};
use rustix::fs::{AtFlags, Dev, FileType, Mode, OFlags, makedev};
use std::{
    fmt::Display,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
};

/// Levels of the deep folder. With names of 250 bytes its paths are some 15 KB long; `PATH_MAX` is 4 KB.
pub const DEEP_LEVELS: usize = 60;
/// Files in the wide folder.
pub const WIDE_FILES: usize = 3_000;

/// Fills the empty folder `root` with odd things, and says what this user or this file system refused.
pub fn odd_tree(root: &Path) -> Vec<String> {
    let root = node::open_folder(root).unwrap();
    let mut odd = Odd { random: Random::new("odd", 0), refused: Vec::new() };
    let folder = |name: &str| make_subfolder(&root, name.as_bytes()).unwrap();
    odd.names(folder("names"));
    odd.sizes(folder("sizes"));
    odd.holes(folder("holes"));
    odd.hard_links(folder("hard links"));
    odd.links(folder("links"));
    odd.special(folder("special"));
    odd.deep(folder("deep"));
    odd.wide(folder("wide"));
    odd.owners(&folder("owners"));
    // Owners before modes and attributes: giving a file away takes its set-user-id bit and its capabilities.
    odd.modes(&folder("modes"));
    odd.attributes(&folder("attributes"));
    make_subfolder(&root, b"empty folder").unwrap();
    let times = folder("times");
    odd.timed(&times);
    settle(&root, b"").unwrap();
    odd.times(&times);
    odd.refused
}

struct Odd {
    random: Random,
    refused: Vec<String>,
}

impl Odd {
    /// Takes note of what is refused.
    fn attempt(&mut self, what: impl Display, result: io::Result<()>) {
        if let Err(e) = result {
            self.refused.push(format!("{what}: {e}"));
        }
    }

    fn names(&mut self, folder: OwnedFd) {
        let longest = [b'n'; 255];
        let names: [&[u8]; 22] = [
            b"not UTF-8 \xff\xfe\x80",
            b"new\nline",
            b" leading blank",
            b"trailing blank ",
            b"\ttab\t",
            b"\x1b[31mred\x1b[0m",
            b"-rf",
            b"--",
            b"back\\slash",
            b"\\134",
            b"quote'\"`$(true)",
            b"*",
            b"...",
            b".hidden",
            b"\x01\x7f",
            b"\r",
            b"NFC \xc3\xa9",
            b"NFD e\xcc\x81",
            b"con:aux|?<>",
            b"upper",
            b"UPPER",
            &longest,
        ];
        for name in names {
            let content = self.random.text(100);
            self.attempt(name.escape_ascii(), write_file(&folder, name, &content));
        }
        make_subfolder(&folder, b"folder \xff\n ").unwrap();
    }

    /// Sizes around those at which streams are cut or handled in another way, one large file that does not compress,
    /// and one that does.
    fn sizes(&mut self, folder: OwnedFd) {
        for around in [4 << 10, 64 << 10, 128 << 10, 512 << 10, 1 << 20] {
            for length in [around - 1, around, around + 1] {
                let content = self.random.bytes(length);
                write_file(&folder, length.to_string().as_bytes(), &content).unwrap();
            }
        }
        write_file(&folder, b"empty", b"").unwrap();
        write_file(&folder, b"one byte", b"1").unwrap();
        let incompressible = self.random.bytes(5_000_000);
        write_file(&folder, b"5 MB random", &incompressible).unwrap();
        // The same bytes once more, moved by a few: only cutting by content finds them again.
        write_file(&folder, b"5 MB random, moved", &[b"moved", incompressible.as_slice()].concat()).unwrap();
        let text = self.random.text(20_000_000);
        write_file(&folder, b"20 MB text", &text).unwrap();
    }

    fn holes(&mut self, folder: OwnedFd) {
        let mut sparse = |name: &str, length: u64, data: &[(u64, usize)]| {
            write_file(&folder, name.as_bytes(), b"").unwrap();
            let file = rustix::fs::openat(&folder, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            let file = File::from(file);
            file.set_len(length).unwrap();
            for (at, length) in data {
                file.write_all_at(&self.random.bytes(*length), *at).unwrap();
            }
        };
        sparse("data in the middle, hole at the end", 3_000_001, &[(1_000_000, 10_000)]);
        sparse("data at the end", 2_000_000, &[(1_990_000, 10_000)]);
        sparse("only a hole", 1 << 20, &[]);
        sparse("many holes", 8 << 20, &[(0, 1), (1 << 20, 4096), (3 << 20, 70_000), ((7 << 20) + 5, 3)]);
        sparse("more than 32 bits of length", 5 << 30, &[((4 << 30) + 10, 100)]);
        write_file(&folder, b"zeros without a hole", &vec![0; 300_000]).unwrap();
    }

    fn hard_links(&mut self, folder: OwnedFd) {
        let (a, b) = (make_subfolder(&folder, b"a").unwrap(), make_subfolder(&folder, b"b").unwrap());
        let content = self.random.bytes(100_000);
        write_file(&a, b"one", &content).unwrap();
        link((&a, b"one"), (&a, b"two"));
        link((&a, b"one"), (&b, b"three"));
        link((&a, b"one"), (&folder, b"four"));
        write_file(&b, b"same content, another file", &content).unwrap();
        write_file(&b, b"empty", b"").unwrap();
        link((&b, b"empty"), (&a, b"empty"));
        rustix::fs::symlinkat("target", &a, "link").unwrap();
        link((&a, b"link"), (&b, b"the same link"));
        self.attempt("fifo", make_special(&a, "fifo", FileType::Fifo, 0));
        link((&a, b"fifo"), (&b, b"the same fifo"));
    }

    fn links(&mut self, folder: OwnedFd) {
        let longest = "t/".repeat(2_047);
        let targets = [
            ("absolute", "/etc/hostname"),
            ("dangling", "no/such file"),
            ("loop", "loop"),
            ("ping", "pong"),
            ("pong", "ping"),
            ("to a folder", "../names"),
            ("blanks", " a\nb "),
            ("longest", &longest),
            ("up", "../../.."),
        ];
        for (name, target) in targets {
            self.attempt(name, rustix::fs::symlinkat(target, &folder, name).map_err(io::Error::from));
        }
        rustix::fs::symlinkat(&b"\xff\xfe"[..], &folder, "not UTF-8").unwrap();
    }

    fn special(&mut self, folder: OwnedFd) {
        let kinds = [
            ("fifo", FileType::Fifo, 0),
            ("socket", FileType::Socket, 0),
            ("null", FileType::CharacterDevice, makedev(1, 3)),
            ("loop", FileType::BlockDevice, makedev(7, 99)),
            ("large numbers", FileType::CharacterDevice, makedev(511, 1_000_000)),
        ];
        for (name, kind, device) in kinds {
            self.attempt(name, make_special(&folder, name, kind, device));
        }
    }

    fn deep(&mut self, folder: OwnedFd) {
        let mut here = folder;
        for level in 0..DEEP_LEVELS {
            let name = format!("{level:02}{}", "-deep-abc".repeat(28));
            here = make_subfolder(here, &name.as_bytes()[..250]).unwrap();
        }
        write_file(&here, b"bottom", b"at the bottom").unwrap();
        link((&here, b"bottom"), (&here, b"bottom again"));
        rustix::fs::symlinkat("bottom", &here, "link").unwrap();
        self.attempt("attribute at the bottom", set_xattr(&here, b"bottom", "user.deep", b"value"));
        self.attempt("fifo at the bottom", make_special(&here, "fifo", FileType::Fifo, 0));
    }

    fn wide(&mut self, folder: OwnedFd) {
        for n in 0..WIDE_FILES {
            write_file(&folder, format!("file {n}").as_bytes(), format!("content {n}").as_bytes()).unwrap();
        }
    }

    fn owners(&mut self, folder: &OwnedFd) {
        write_file(folder, b"file", b"").unwrap();
        write_file(folder, b"set-user-id", b"").unwrap();
        make_subfolder(folder, b"folder").unwrap();
        rustix::fs::symlinkat("file", folder, "link").unwrap();
        for (name, uid, gid) in [("file", 12_345, 54_321), ("folder", 0, 54_321), ("link", 12_345, 54_321)] {
            self.attempt(format!("owner of {name}"), set_owner(folder, name.as_bytes(), uid, gid));
        }
        self.attempt("largest owner", set_owner(folder, b"set-user-id", u32::MAX - 1, u32::MAX - 1));
        self.attempt("set-user-id", set_mode(folder, b"set-user-id", 0o6711));
    }

    fn modes(&mut self, folder: &OwnedFd) {
        for mode in [0o0000, 0o0200, 0o0444, 0o4755, 0o2755, 0o1777, 0o7777, 0o6000] {
            let (file, subfolder) = (format!("file {mode:04o}"), format!("folder {mode:04o}"));
            write_file(folder, file.as_bytes(), file.as_bytes()).unwrap();
            let inside = make_subfolder(folder, subfolder.as_bytes()).unwrap();
            write_file(inside, b"inside", b"").unwrap();
            for name in [file, subfolder] {
                self.attempt(&name, set_mode(folder, name.as_bytes(), mode));
            }
        }
    }

    fn attributes(&mut self, folder: &OwnedFd) {
        write_file(folder, b"file", b"content").unwrap();
        write_file(folder, b"listed", b"content").unwrap();
        write_file(folder, b"capable", b"program").unwrap();
        make_subfolder(folder, b"folder").unwrap();
        rustix::fs::symlinkat("file", folder, "link").unwrap();
        self.attempt("special file", make_special(folder, "fifo", FileType::Fifo, 0));
        let large = self.random.bytes(3_000);
        let wanted: [(&str, &str, &[u8]); 14] = [
            ("file", "user.zeros", b"a\0b\0\0"),
            ("file", "user.empty", b""),
            ("file", "user.name = odd", b"\xff\n"),
            ("file", "user.large", &large),
            ("file", "trusted.key", b"trusted"),
            ("file", "security.selinux", b"system_u:object_r:etc_t:s0\0"),
            ("capable", "security.capability", &capability()),
            ("listed", "system.posix_acl_access", &access_list()),
            ("folder", "system.posix_acl_access", &access_list()),
            ("folder", "system.posix_acl_default", &access_list()),
            ("folder", "user.key", b"of a folder"),
            ("link", "trusted.key", b"of a link"),
            ("link", "security.selinux", b"system_u:object_r:tmp_t:s0\0"),
            ("fifo", "trusted.key", b"of a fifo"),
        ];
        for (name, key, value) in wanted {
            self.attempt(format!("{key} on {name}"), set_xattr(folder, name.as_bytes(), key, value));
        }
    }

    /// What [`Odd::times`] gives its times to.
    fn timed(&mut self, folder: &OwnedFd) {
        for (name, _) in TIMES {
            write_file(folder, name.as_bytes(), b"").unwrap();
            make_subfolder(folder, format!("folder {name}").as_bytes()).unwrap();
            rustix::fs::symlinkat(name, folder, format!("link {name}")).unwrap();
        }
    }

    fn times(&mut self, folder: &OwnedFd) {
        for (name, time) in TIMES {
            for name in [name.to_owned(), format!("folder {name}"), format!("link {name}")] {
                self.attempt(format!("time {name}"), set_time(folder, name.as_bytes(), time));
            }
        }
    }
}

const TIMES: [(&str, (i64, u32)); 7] = [
    ("epoch", (0, 0)),
    ("a nanosecond before the epoch", (-1, 999_999_999)),
    ("1960", (-300_000_000, 123_456_789)),
    ("a nanosecond after 2001", (1_000_000_000, 1)),
    ("the last of 32 bits", (i32::MAX as i64, 999_999_999)),
    ("the first after 32 bits", (1 << 31, 0)),
    ("2100", (4_102_444_800, 500_000_000)),
];

fn link((from, old): (&OwnedFd, &[u8]), (to, new): (&OwnedFd, &[u8])) {
    rustix::fs::linkat(from, old, to, new, AtFlags::empty()).unwrap();
}

fn make_special(folder: &OwnedFd, name: &str, kind: FileType, device: Dev) -> io::Result<()> {
    Ok(rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(0o640), device)?)
}

/// `cap_net_raw=ep` as the kernel stores it, version 2: a word of version and "effective", then permitted and
/// inheritable sets in two halves.
fn capability() -> Vec<u8> {
    [0x0200_0001_u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// An access list, version 2, with a named user: every entry is a tag, a permission and an id.
fn access_list() -> Vec<u8> {
    const NOBODY_NAMED: u32 = u32::MAX;
    let entries: [(u16, u16, u32); 5] =
        [(1, 6, NOBODY_NAMED), (2, 4, 12_345), (4, 4, NOBODY_NAMED), (0x10, 6, NOBODY_NAMED), (0x20, 0, NOBODY_NAMED)];
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permission, id) in entries {
        bytes.extend([tag.to_le_bytes(), permission.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Gives everything in a folder, and then the folder, a time that follows from its path: two builds are the same.
fn settle(folder: &impl AsFd, path: &[u8]) -> io::Result<()> {
    for name in node::names(folder)? {
        let path = [path, name.as_slice()].join(&b'/');
        let stat = rustix::fs::statat(folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            settle(&node::subfolder(folder, &name)?, &path)?;
        } else {
            settle_one(folder.as_fd(), &name, &path)?;
        }
    }
    settle_one(folder.as_fd(), b".", path)
}

fn settle_one(folder: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> io::Result<()> {
    let digest = *blake3::hash(path).as_bytes();
    let number = |at: usize| u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
    set_time(folder, name, ((number(0) >> 1).into(), number(4) % 1_000_000_000))
}

mod tests {
    use super::*;
    use crate::support::same::{assert_same, differences};

    #[test]
    fn the_odd_tree_is_whole_and_two_builds_are_the_same() {
        if !node::privileged() {
            return;
        }
        let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        assert_eq!(odd_tree(a.path()), Vec::<String>::new());
        odd_tree(b.path());
        assert_same(a.path(), b.path());
        let below = node::open_folder(&b.path().join("attributes")).unwrap();
        set_xattr(&below, b"link", "trusted.key", b"changed").unwrap();
        assert_eq!(differences(a.path(), b.path()).len(), 1);
    }
}
