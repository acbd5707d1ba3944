//! Random trees of files, decided by a seed alone.
//!
//! Any user can build them; what needs root is in `odd`. Every time that a test could compare is set from the seed, so
//! that two builds of one seed are the same.

use super::{node, random::Random};
use rustix::fs::CWD;
use std::{
    ffi::OsStr,
    fs::{self, File, FileType},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, symlink},
    },
    path::{Path, PathBuf},
};

const MAX_DEPTH: usize = 4;

/// Fills the folder `root`, made if missing, with folders, files, links, hard links and sparse files.
pub fn random_tree(seed: u64, root: &Path) {
    fs::create_dir_all(root).unwrap();
    Builder { random: Random::new("tree", seed), files: Vec::new() }.fill(root, 0);
}

struct Builder {
    random: Random,
    /// Files that a hard link can be made to.
    files: Vec<PathBuf>,
}

impl Builder {
    /// Fills one folder; the topmost one gets at least one entry of every kind.
    fn fill(&mut self, folder: &Path, depth: usize) {
        let entries = self.random.below(8) + if depth == 0 { 8 } else { 0 };
        for n in 0..entries {
            let path = folder.join(odd_name(&mut self.random, n));
            let kind = if depth == 0 && n < 6 { n } else { self.random.below(16) };
            match kind {
                1 => write_sparse(&mut self.random, &path),
                2 => symlink(random_target(&mut self.random), &path).unwrap(),
                3 if !self.files.is_empty() => {
                    // A link shares mode and time with the file it was made to, which has both already.
                    fs::hard_link(self.random.pick(&self.files), &path).unwrap();
                    continue;
                }
                4..=6 if depth < MAX_DEPTH => {
                    fs::create_dir(&path).unwrap();
                    self.fill(&path, depth + 1);
                    continue;
                }
                _ => {
                    fs::write(&path, random_content(&mut self.random)).unwrap();
                    self.files.push(path.clone());
                }
            }
            stamp(&mut self.random, &path);
        }
        stamp(&mut self.random, folder);
    }
}

/// Gives a file, folder or link a mode, where it has one, and a time.
pub(super) fn stamp(random: &mut Random, path: &Path) {
    let kind = path.symlink_metadata().unwrap().file_type();
    if !kind.is_symlink() {
        random_mode(random, path, kind);
    }
    node::set_time(CWD, path.as_os_str().as_bytes(), random.time()).unwrap();
}

/// An odd mode that leaves its owner able to read and edit, so that any user can run these tests.
fn random_mode(random: &mut Random, path: &Path, kind: FileType) {
    let kept = if kind.is_dir() { 0o700 } else { 0o600 };
    let odd = *random.pick(&[0o644, 0o755, 0o600, 0o4755, 0o2755, 0o1777, 0o7777, 0o137]);
    node::set_mode(CWD, path.as_os_str().as_bytes(), odd | kept).unwrap();
}

/// A name of odd bytes; `n` keeps the names of one folder apart.
pub(super) fn odd_name(random: &mut Random, n: u64) -> PathBuf {
    let stems: [&[u8]; 12] = [
        b"plain",
        b"two words",
        b" blank",
        b"-dash",
        b"new\nline",
        b"\xff\xfe",
        b"\xc3\xa4\xe2\x82\xac",
        b"\x1b[31m",
        b"back\\slash",
        b".hidden",
        b"\xe9t\xe9",
        b"*?[]$'\"",
    ];
    let mut name = random.pick(&stems).to_vec();
    name.extend_from_slice(n.to_string().as_bytes());
    name.extend_from_slice(random.pick::<&[u8]>(&[b"", b" ", b".txt", b"~", b"\xa0", b"\t"]));
    OsStr::from_bytes(&name).into()
}

pub(super) fn random_target(random: &mut Random) -> PathBuf {
    let targets: [&[u8]; 6] = [b"plain0", b"../..", b"/etc/hosts", b"nowhere/at all", b"\xff\n", b"."];
    let target: &[u8] = random.pick::<&[u8]>(&targets);
    OsStr::from_bytes(target).into()
}

/// Mostly small content: empty, a few bytes, some pages, and once in a while up to 3 MB.
pub(super) fn random_content(random: &mut Random) -> Vec<u8> {
    let limit = *random.pick(&[1, 200, 200, 5_000, 5_000, 5_000, 70_000, 70_000, 150_000, 600_000]);
    let limit = if random.one_in(40) { 3_000_000 } else { limit };
    let length = random.index(limit);
    match random.below(5) {
        0 => vec![0; length],
        1 | 2 => random.text(length),
        _ => random.bytes(length),
    }
}

/// A file of up to 3 MB with one piece of data somewhere in it.
fn write_sparse(random: &mut Random, path: &Path) {
    let file = File::create(path).unwrap();
    file.set_len(500_000 + random.below(2_500_000)).unwrap();
    let piece_bytes = 1 + random.index(20_000);
    let piece = random.bytes(piece_bytes);
    file.write_all_at(&piece, random.below(400_000)).unwrap();
}

mod tests {
    use super::*;
    use crate::support::{edits::random_edits, same::differences};

    #[test]
    fn one_seed_builds_one_tree_and_edits_it_in_one_way() {
        let [a, b] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for seed in 0..6 {
            let [a, b] = [&a, &b].map(|dir| dir.path().join(seed.to_string()));
            random_tree(seed, &a);
            random_tree(seed, &b);
            assert_eq!(differences(&a, &b), Vec::<String>::new(), "seed {seed}");
            let before = a.with_extension("before");
            random_tree(seed, &before);
            assert!(random_edits(seed, &a).len() >= 10);
            random_edits(seed, &b);
            assert_eq!(differences(&a, &b), Vec::<String>::new(), "seed {seed}, edited");
            assert!(differences(&a, &before).len() > 5, "edits of seed {seed} change something");
        }
    }
}
