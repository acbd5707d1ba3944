//! Fuzzing of whole repositories: backups of a few files that are edited, damage, checks and restores, against a model.
//!
//! The model is a map from names to bytes for every snapshot. Whatever was damaged, a restore brings a file back as it was
//! or not at all, and says so in the latter case; without damage it brings back everything.

use crate::{fuzz_bodies::in_memory_folder, support::plain};
use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd,
    path::{Path, PathBuf},
};
use xsnap::{
    archive::{
        backup::{Request, backup},
        request::RestoreRequest,
    },
    blobs::chunker::ChunkSizes,
    error::{Error, Result},
    progress::Silent,
    repo::{
        check::{ReadData, check},
        config::Config,
        opening::Access,
        repository::Repository,
    },
};

/// Files by name; a name may have one folder before it.
type Files = BTreeMap<String, Vec<u8>>;

struct World {
    _folder: tempfile::TempDir,
    source: PathBuf,
    repository: PathBuf,
    files: Files,
    /// What each snapshot should hold; its label is the position.
    snapshots: Vec<Files>,
    damaged: bool,
}

/// Carries out the operations that the bytes stand for: three bytes each, at most 24 of them.
pub fn operations(data: &[u8]) {
    let mut world = World::new();
    for operation in data.chunks_exact(3).take(24) {
        let [what, which, how] = [operation[0], operation[1], operation[2]];
        let done = match what % 8 {
            0..=2 => world.edit(which, how),
            3 | 4 => world.back_up(),
            5 => world.restore(usize::from(which)),
            6 if how % 4 == 0 => world.forget_catalogue(),
            6 => world.damage(which, how),
            _ => world.check(),
        };
        match done {
            Ok(()) => {}
            // A repository may be damaged so that nothing can be done with it, and says so.
            Err(e) if world.damaged && (e.is_damage() || matches!(e, Error::NoRepository { .. })) => return,
            Err(e) => panic!("operation {operation:?}: {e:?}"),
        }
    }
    if world.check().is_ok() {
        let _ = (0..world.snapshots.len()).try_for_each(|n| world.restore(n));
    }
}

impl World {
    fn new() -> Self {
        let folder = in_memory_folder();
        let (source, repository) = (folder.path().join("source"), folder.path().join("repository"));
        fs::create_dir(&source).unwrap();
        let chunks = ChunkSizes { min_bytes: 64, avg_bytes: 256, max_bytes: 1024 };
        let config = Config { chunks, level: 1, ..Config::default() };
        drop(plain::init(&plain::local(&repository), config, None).unwrap());
        let source = source.canonicalize().unwrap();
        Self { _folder: folder, source, repository, files: Files::new(), snapshots: Vec::new(), damaged: false }
    }

    fn open(&self, access: Access) -> Result<Repository> {
        plain::open(&plain::local(&self.repository), None, access)
    }

    /// Writes, grows, changes or removes a file.
    #[expect(clippy::unnecessary_wraps, reason = "one signature for all operations")]
    fn edit(&mut self, which: u8, how: u8) -> Result<()> {
        let name = if which.is_multiple_of(2) { format!("f{}", which % 16) } else { format!("folder/f{}", which % 16) };
        let path = self.source.join(&name);
        let file = self.files.entry(name.clone()).or_default();
        match how % 4 {
            0 => *file = vec![which; usize::from(how)],
            1 => file.extend(blake3::hash(&[which, how]).as_bytes().repeat(usize::from(how))),
            2 => file.iter_mut().skip(usize::from(how) * 7).take(3).for_each(|byte| *byte ^= how),
            _ => {
                self.files.remove(&name);
                let _ = fs::remove_file(&path);
                return Ok(());
            }
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &self.files[&name]).unwrap();
        Ok(())
    }

    fn back_up(&mut self) -> Result<()> {
        let mut repository = self.open(Access::Write)?;
        let request =
            Request { label: self.snapshots.len().to_string(), threads: 1, ..plain::request(&[&self.source]) };
        let snapshot = backup(&mut repository, &request, &Silent)?;
        assert!(snapshot.complete, "{:?}", snapshot.problems);
        self.snapshots.push(self.files.clone());
        Ok(())
    }

    /// Restores a snapshot and compares it with the model.
    fn restore(&mut self, which: usize) -> Result<()> {
        let repository = self.open(Access::Read)?;
        assert!(self.damaged || repository.snapshots().len() == self.snapshots.len(), "a snapshot is lost");
        let Some(snapshot) = repository.snapshots().get(which % self.snapshots.len().max(1)) else { return Ok(()) };
        let expected = &self.snapshots[snapshot.label.parse::<usize>().unwrap()];
        let target = in_memory_folder();
        let root = fs::File::open(target.path()).unwrap();
        let request = RestoreRequest { threads: 1, root_metadata: false, ..plain::restore_request() };
        let path = self.source.to_str().unwrap().as_bytes();
        let done = plain::restore(&repository, snapshot, path, root.as_fd(), &request, &Silent)?;
        let came = files_below(target.path());
        for (name, bytes) in &came {
            assert!(expected.get(name) == Some(bytes), "{name} came back wrong");
        }
        assert!(self.damaged || done.problems == 0, "{done:?}");
        assert!(done.problems > 0 || came.len() == expected.len(), "files are missing and nothing says so");
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "one signature for all operations")]
    fn forget_catalogue(&mut self) -> Result<()> {
        let _ = fs::remove_file(self.repository.join("index.sqlite"));
        Ok(())
    }

    /// Flips a bit of a file of the repository, or cuts it short, or removes it.
    fn damage(&mut self, which: u8, how: u8) -> Result<()> {
        let walk =
            walkdir::WalkDir::new(&self.repository).sort_by_file_name().into_iter().map(std::result::Result::unwrap);
        let mut files: Vec<PathBuf> = walk.filter(|e| e.file_type().is_file()).map(|e| e.into_path()).collect();
        // Names are random: by length, the choice depends on little but the bytes.
        files.sort_by_key(|path| fs::metadata(path).unwrap().len());
        let path = &files[usize::from(which) % files.len()];
        let mut bytes = fs::read(path).unwrap();
        let at = bytes.len() * usize::from(how) / 256;
        self.damaged = true;
        match how % 4 {
            1 => return fs::remove_file(path).map_err(|e| Error::file("remove", path, e)),
            2 => bytes.truncate(at),
            _ if bytes.is_empty() => {}
            _ => bytes[at] ^= 1 << (which % 8),
        }
        fs::write(path, bytes).unwrap();
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let report = check(&self.open(Access::Read)?, ReadData::All, &Silent)?;
        assert!(self.damaged || !report.has_damage(), "{report:?}");
        Ok(())
    }
}

fn files_below(root: &Path) -> Files {
    let walk = walkdir::WalkDir::new(root).into_iter().map(std::result::Result::unwrap);
    let named = |path: &Path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    walk.filter(|e| e.file_type().is_file()).map(|e| (named(e.path()), fs::read(e.path()).unwrap())).collect()
}
