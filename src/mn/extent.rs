//! How much is at a place, by a walk that tells all that it meets: whoever wants to know more needs no second one.
//!
//! It follows no link, stays on its file system, and looks at nothing that is shunned. Knows nothing of xCAT.

use crate::{archive::plan::Size, mn::inside::Inside};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use std::os::fd::OwnedFd;

/// How much is at a path and below it on the same file system; tells each entry as it is met: its path, and what is there.
/// The path leads through no link. What cannot be looked at counts nothing.
pub fn measure_telling(inside: &Inside, path: &[u8], tell: &mut dyn FnMut(&[u8], &Stat)) -> Size {
    let mut size = Size::default();
    let mut meet = |path: &[u8], stat: &Stat| {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let bytes = if is_file { u64::try_from(stat.st_size).unwrap_or_default() } else { 0 };
        size += Size { entries: 1, bytes };
        tell(path, stat);
    };
    let Ok(stat) = inside.follow_to(path).stat else { return size };
    meet(path, &stat);
    let Some(folder) = is_folder(&stat).then(|| inside.open_folder(path).ok()).flatten() else { return size };
    let mut walk = Walk { inside, device: stat.st_dev, meet: &mut meet };
    let mut levels = vec![walk.look(folder, path.to_vec())];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.waiting.pop() else {
            levels.pop();
            continue;
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let path = joined(&level.path, &name);
        if let Ok(folder) = rustix::fs::openat(&level.folder, name, flags, Mode::empty()) {
            levels.push(walk.look(folder, path));
        }
    }
    size
}

/// What the way to every entry has in common.
struct Walk<'a> {
    inside: &'a Inside,
    device: u64,
    meet: &'a mut dyn FnMut(&[u8], &Stat),
}

/// A folder on the way down, and the names of those in it that are still to be looked into.
struct Level {
    folder: OwnedFd,
    path: Vec<u8>,
    waiting: Vec<Vec<u8>>,
}

impl Walk<'_> {
    /// Meets all that is in a folder.
    fn look(&mut self, folder: OwnedFd, path: Vec<u8>) -> Level {
        let mut waiting = Vec::new();
        for entry in Dir::read_from(&folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_bytes();
            let path = joined(&path, name);
            if name == b"." || name == b".." || self.inside.is_shunned(&path) {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&folder, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            (self.meet)(&path, &stat);
            if is_folder(&stat) && stat.st_dev == self.device {
                waiting.push(name.to_vec());
            }
        }
        Level { folder, path, waiting }
    }
}

fn is_folder(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn joined(folder: &[u8], name: &[u8]) -> Vec<u8> {
    let folder = folder.strip_suffix(b"/").unwrap_or(folder);
    [folder, b"/", name].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn everything_is_told_but_what_is_shunned_or_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        for (path, length) in [("a/b/file", 5), ("a/b/more", 7), ("a/mute/file", 1000), ("own", 9)] {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, vec![0; length]).unwrap();
        }
        std::os::unix::fs::symlink("/own", dir.path().join("a/link")).unwrap();
        let mut inside = Inside::open(dir.path()).unwrap();
        inside.shun(b"/a/mute");
        let mut met = Vec::new();
        let size = measure_telling(&inside, b"/a", &mut |path, _| met.push(path.to_vec()));
        met.sort();
        assert_eq!(met, [&b"/a"[..], b"/a/b", b"/a/b/file", b"/a/b/more", b"/a/link"]);
        assert_eq!(size, Size { entries: 5, bytes: 12 });
        let measured = |path: &[u8]| measure_telling(&inside, path, &mut |_, _| {});
        assert_eq!(measured(b"/own"), Size { entries: 1, bytes: 9 });
        assert_eq!(measured(b"/a/link"), Size { entries: 1, bytes: 0 });
        assert_eq!(measured(b"/a/mute"), Size::default());
        assert_eq!(measured(b"/none"), Size::default());
        // The root, with a slash of its own: everything but what is shunned.
        assert_eq!(measured(b"/"), Size { entries: 7, bytes: 21 });
    }
}
