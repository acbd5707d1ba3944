//! A folder with a source of two files and a place for a repository, for tests that run the program.

use super::{
    program::{Ran, run},
    small::LivePlace,
    store::place,
};
use std::{fs, path::PathBuf};

/// A source, and a repository that is not there yet.
pub struct Scene {
    _place: tempfile::TempDir,
    _quiet: Option<LivePlace>,
    /// The folder that both are in.
    pub path: PathBuf,
    /// What is backed up: `file`, and `sub/other`.
    pub source: PathBuf,
    /// Where the repository is.
    pub repo: PathBuf,
}

impl Scene {
    /// A source, and no repository.
    pub fn new() -> Self {
        let (_place, path) = place();
        let (source, repo) = (path.join("source"), path.join("repository"));
        Self { _place, _quiet: None, path, source, repo }.filled()
    }

    /// A source below folders that other tests leave alone: what is above a source is in its snapshots too, so that only
    /// here two backups of the same are the same.
    pub fn quiet() -> Self {
        let ((_place, path), quiet) = (place(), LivePlace::take());
        let (source, repo) = (quiet.path.join("live"), path.join("repository"));
        Self { _place, _quiet: Some(quiet), path, source, repo }.filled()
    }

    fn filled(self) -> Self {
        fs::create_dir_all(self.source.join("sub")).unwrap();
        fs::write(self.source.join("file"), "a file").unwrap();
        fs::write(self.source.join("sub/other"), "another file").unwrap();
        self
    }

    /// A source that has a snapshot.
    pub fn backed_up() -> Self {
        let scene = Self::new();
        scene.backup(&[]).expect(0);
        scene
    }

    /// Backs the source up.
    pub fn backup(&self, words: &[&str]) -> Ran {
        run(&self.repo, ["backup"].iter().chain(words).copied().chain([self.source.to_str().unwrap()]))
    }

    /// Restores what is in the source into the folder `restored`.
    pub fn restored(&self, words: &[&str]) -> Ran {
        let target = self.path.join("restored");
        let what = format!("latest:{}", self.source.display());
        let words = ["restore", &what, "--target", target.to_str().unwrap()].into_iter().chain(words.iter().copied());
        run(&self.repo, words)
    }

    /// Puts everything back where it came from.
    pub fn put_back(&self, words: &[&str]) -> Ran {
        run(&self.repo, ["restore", "latest", "--target", "/"].iter().chain(words))
    }
}
