//! Digests of files that were computed before, so that a file which has not changed since is not read again.
//!
//! A file is the same if its path, size, times of modification and of change, inode and device are: the time of change cannot
//! be set back by a program, as that of modification can. A file that was changed just before it was read is not remembered.
//! A cache that is damaged, of another version or not there is an empty one; what it holds for a path that is not asked for
//! again is dropped. It proves nothing that is restored: only what is worth capturing hangs on it.

use crate::{
    archive::metadata,
    mn::{inside::Inside, package::Algorithm},
};
use bincode::{Decode, Encode};
use rustix::fs::Stat;
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

const MAGIC: &[u8] = b"xsnap verified 1\n";
const PROOF_BYTES: usize = blake3::OUT_LEN;
const MAX_BYTES: u64 = 256 << 20;
/// File systems stamp times in grains, the coarsest of two seconds.
const GRAIN_SECONDS: i64 = 2;

/// What tells a file from one that was changed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
struct Shape {
    size_bytes: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    inode: u64,
    device: u64,
    algorithm: u8,
}

/// Digests of files, those that were computed before and those that are computed now.
#[derive(Debug, Default)]
pub struct Verified {
    before: BTreeMap<Vec<u8>, (Shape, String)>,
    now: BTreeMap<Vec<u8>, (Shape, String)>,
    /// Where they are kept; the file that will replace it, and when that was made, in seconds by the file system's clock.
    kept: Option<(PathBuf, PathBuf, File, i64)>,
    /// How many files were read.
    pub files_read: u64,
}

impl Verified {
    /// The digests that are kept at `path`. Without a path, and where nothing can be kept there, none are.
    pub fn load(path: Option<&Path>) -> Self {
        let Some(path) = path else { return Self::default() };
        let kept = begin(path).ok();
        let before = if kept.is_some() { read(path).unwrap_or_default() } else { BTreeMap::new() };
        Self { before, now: BTreeMap::new(), kept, files_read: 0 }
    }

    /// The digest of a regular file, of which `stat` was just taken.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn digest(&mut self, inside: &Inside, path: &[u8], stat: &Stat, algorithm: Algorithm) -> io::Result<String> {
        let shape = Shape::of(stat, algorithm);
        if let Some((_, digest)) = self.before.get(path).filter(|(before, _)| *before == shape) {
            let digest = digest.clone();
            self.now.insert(path.to_vec(), (shape, digest.clone()));
            return Ok(digest);
        }
        self.files_read += 1;
        let mut file = inside.open_file(path)?;
        let digest = algorithm.of(&mut file)?;
        let after = Shape::of(&rustix::fs::fstat(&file)?, algorithm);
        let began = self.kept.as_ref().map_or(i64::MIN, |(.., began)| *began);
        if after == shape && shape.changed.0.saturating_add(GRAIN_SECONDS) < began {
            self.now.insert(path.to_vec(), (shape, digest.clone()));
        }
        Ok(digest)
    }

    /// Keeps the digests; those of paths for which `is_asked` does not hold as they were. They are not made durable: a
    /// cache that was torn is found out.
    ///
    /// # Errors
    /// Where they cannot be kept: then the next time is slower, and nothing worse.
    pub fn save(mut self, is_asked: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        let Some((path, new, mut file, _)) = self.kept.take() else { return Ok(()) };
        let others = std::mem::take(&mut self.before).into_iter().filter(|(path, _)| !is_asked(path));
        let all: BTreeMap<Vec<u8>, (Shape, String)> = others.chain(std::mem::take(&mut self.now)).collect();
        let encoded = bincode::encode_to_vec(&all, bincode::config::standard()).map_err(io::Error::other)?;
        let bytes = [MAGIC, &encoded].concat();
        file.write_all(&bytes)?;
        file.write_all(blake3::hash(&bytes).as_bytes())?;
        fs::rename(new, path)
    }
}

impl Drop for Verified {
    fn drop(&mut self) {
        if let Some((_, new, ..)) = &self.kept {
            // One that stays is removed by the next run.
            let _ = fs::remove_file(new);
        }
    }
}

impl Shape {
    fn of(stat: &Stat, algorithm: Algorithm) -> Self {
        let (modified, changed) = (metadata::mtime(stat), metadata::ctime(stat));
        Self {
            size_bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (modified.seconds, modified.nanoseconds),
            changed: (changed.seconds, changed.nanoseconds),
            inode: stat.st_ino,
            device: stat.st_dev,
            algorithm: algorithm.number(),
        }
    }
}

/// Makes the file that will replace the cache.
fn begin(path: &Path) -> io::Result<(PathBuf, PathBuf, File, i64)> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    // One that a killed run has left.
    let _ = fs::remove_file(&new);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    let began = metadata::ctime(&rustix::fs::fstat(&file)?).seconds;
    Ok((path.to_owned(), new, file, began))
}

/// What is kept; nothing where that is not what was written.
fn read(path: &Path) -> Option<BTreeMap<Vec<u8>, (Shape, String)>> {
    let mut bytes = Vec::new();
    let file = OpenOptions::new().read(true).custom_flags(nofollow()).open(path).ok()?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    let (written, proof) = bytes.split_at_checked(bytes.len().checked_sub(PROOF_BYTES)?)?;
    let encoded = written.strip_prefix(MAGIC)?;
    if blake3::hash(written).as_bytes() != proof {
        return None;
    }
    Some(bincode::decode_from_slice(encoded, bincode::config::standard()).ok()?.0)
}

/// A link or a pipe in the place of the cache is no cache.
fn nofollow() -> i32 {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    i32::try_from(flags.bits()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    /// A file of which the digest can be remembered at once: it was changed long ago by the cache's clock.
    struct Scene {
        dir: tempfile::TempDir,
        inside: Inside,
    }

    impl Scene {
        fn made() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join("file"), b"abc").unwrap();
            let inside = Inside::open(dir.path()).unwrap();
            Self { dir, inside }
        }

        fn cache(&self) -> PathBuf {
            self.dir.path().join("cache")
        }

        fn loaded(&self) -> Verified {
            let mut verified = Verified::load(Some(&self.cache()));
            if let Some((.., began)) = &mut verified.kept {
                *began += 10;
            }
            verified
        }

        /// How many files are read for the digest of the one, and what it is.
        fn run(&self) -> (u64, String) {
            let mut verified = self.loaded();
            let stat = self.inside.stat(b"/file").unwrap();
            let digest = verified.digest(&self.inside, b"/file", &stat, Algorithm::Md5).unwrap();
            let read = verified.files_read;
            verified.save(|_| true).unwrap();
            (read, digest)
        }
    }

    #[test]
    fn a_file_is_read_once_and_again_when_only_its_time_of_change_tells() {
        let scene = Scene::made();
        let abc = "900150983cd24fb0d6963f7d28e17f72".to_owned();
        assert_eq!(scene.run(), (1, abc.clone()));
        assert_eq!(scene.run(), (0, abc));
        let path = scene.dir.path().join("file");
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(&path, b"abd").unwrap();
        File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
        let (read, digest) = scene.run();
        assert_eq!((read, digest.as_str()), (1, "4911e516e5aa21d327512e0c8b197616"));
    }

    #[test]
    fn a_file_that_was_changed_just_now_is_not_remembered() {
        let scene = Scene::made();
        for _ in 0..2 {
            let mut verified = Verified::load(Some(&scene.cache()));
            let stat = scene.inside.stat(b"/file").unwrap();
            verified.digest(&scene.inside, b"/file", &stat, Algorithm::Md5).unwrap();
            assert_eq!(verified.files_read, 1);
            verified.save(|_| true).unwrap();
        }
    }

    #[test]
    fn a_damaged_cache_is_an_empty_one_whatever_byte_is_hit() {
        let scene = Scene::made();
        scene.run();
        let good = fs::read(scene.cache()).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(scene.cache(), &bad).unwrap();
            assert!(read(&scene.cache()).is_none(), "byte {at}");
            fs::write(scene.cache(), &good[..at]).unwrap();
            assert!(read(&scene.cache()).is_none(), "{at} bytes");
        }
        fs::remove_file(scene.cache()).unwrap();
        std::os::unix::fs::symlink("file", scene.cache()).unwrap();
        assert!(read(&scene.cache()).is_none());
        assert_eq!(scene.run().0, 1);
        assert_eq!(scene.run().0, 0);
    }

    #[test]
    fn what_was_not_asked_for_stays_and_what_was_and_is_gone_goes() {
        let scene = Scene::made();
        scene.run();
        let verified = scene.loaded();
        verified.save(|path| path != b"/file").unwrap();
        assert_eq!(scene.run().0, 0);
        scene.loaded().save(|_| true).unwrap();
        assert_eq!(scene.run().0, 1);
        let mode = fs::metadata(scene.cache()).unwrap();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);
        assert!(mode.modified().unwrap() <= SystemTime::now());
        drop(scene.loaded());
        assert!(!scene.dir.path().join("cache.new").exists());
    }
}
