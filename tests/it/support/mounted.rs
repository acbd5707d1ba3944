//! Mounted file systems for tests, taken away again when the test ends. Needs root.

use super::program::system;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

/// Something that is mounted until this is dropped.
pub struct Mounted {
    path: PathBuf,
}

impl Mounted {
    /// An empty file system in memory that holds so many bytes.
    pub fn tmpfs(path: &Path, size_bytes: u64) -> Self {
        Self::new(path, &["-t", "tmpfs", "-o", &format!("size={size_bytes}"), "tmpfs"])
    }

    /// A folder once more, at another path and only for reading.
    pub fn read_only(from: &Path, path: &Path) -> Self {
        let mounted = Self::new(path, &["--bind", from.to_str().unwrap()]);
        mounted.remount("bind,ro");
        mounted
    }

    /// The file system in an image.
    pub fn image(image: &Path, path: &Path) -> Self {
        Self::new(path, &["-o", "loop,ro", image.to_str().unwrap()])
    }

    fn new(path: &Path, words: &[&str]) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
        system("mount", &words);
        Self { path: path.into() }
    }

    /// Changes how it is mounted.
    pub fn remount(&self, options: &str) {
        system("mount", &["-o".as_ref(), format!("remount,{options}").as_ref(), self.path.as_os_str()]);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, so that a failing test that still holds a file open does not hide why it failed.
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}
