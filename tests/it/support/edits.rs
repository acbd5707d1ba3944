//! Random edits of a tree, decided by a seed alone: what a day of work on a machine does to its files.

use super::{
    node,
    random::Random,
    tree::{odd_name, random_content, random_target, stamp},
};
use rustix::fs::CWD;
use std::{
    fs::{self, FileType, OpenOptions},
    io::Write,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, symlink},
    },
    path::{Path, PathBuf},
};

/// Makes one edit after the other; `path` and `kind` are what the next one is made on.
struct Editor {
    random: Random,
    root: PathBuf,
    path: PathBuf,
    kind: FileType,
}

/// What an edit can be. Each returns nothing, and does nothing, where it does not fit the path it was drawn for.
type Deed = fn(&mut Editor) -> Option<()>;

const DEEDS: [(&str, Deed); 14] = [
    ("overwrite a piece of", Editor::overwrite),
    ("overwrite a piece of, and put the time back on", Editor::overwrite_unseen),
    ("append to", Editor::append),
    ("truncate", Editor::truncate),
    ("write anew and rename over", Editor::rewrite),
    ("rename", Editor::rename),
    ("move to another folder", Editor::move_away),
    ("remove", Editor::remove),
    ("create a file beside", Editor::create),
    ("change the mode of", Editor::change_mode),
    ("touch", Editor::touch),
    ("replace by a folder", Editor::become_folder),
    ("replace by a file", Editor::become_file),
    ("retarget", Editor::retarget),
];

/// Edits a tree that `random_tree` built: every kind of edit once, if the tree has something it fits, and then about
/// one entry in four. Says what it did, so that a failing test can show it.
pub fn random_edits(seed: u64, root: &Path) -> Vec<String> {
    let more = entries(root).len() / 4;
    let kind = root.symlink_metadata().unwrap().file_type();
    let mut editor = Editor { random: Random::new("edits", seed), root: root.into(), path: root.into(), kind };
    let mut done: Vec<String> = DEEDS.iter().filter_map(|deed| editor.edit(deed)).collect();
    for _ in 0..more {
        let deed = editor.random.pick(&DEEDS);
        done.extend(editor.edit(deed));
    }
    done
}

/// Everything below `root`, in the order of paths.
pub fn entries(root: &Path) -> Vec<PathBuf> {
    let walk = walkdir::WalkDir::new(root).min_depth(1).sort_by_file_name();
    walk.into_iter().map(|entry| entry.unwrap().into_path()).collect()
}

impl Editor {
    /// Makes one edit, on the first path drawn that it fits.
    fn edit(&mut self, (what, deed): &(&str, Deed)) -> Option<String> {
        let paths = entries(&self.root);
        for _ in 0..if paths.is_empty() { 0 } else { 50 } {
            self.path.clone_from(self.random.pick(&paths));
            self.kind = self.path.symlink_metadata().unwrap().file_type();
            if deed(self).is_some() {
                self.restamp();
                return Some(format!("{what} {}", self.path.display()));
            }
        }
        None
    }

    /// Replaces every time that the clock has just set, of folders too, by one from the seed.
    fn restamp(&mut self) {
        for path in entries(&self.root).iter().chain([&self.root.clone()]) {
            let age = path.symlink_metadata().unwrap().modified().unwrap().elapsed();
            if age.is_ok_and(|age| age.as_secs() < 3600) {
                node::set_time(CWD, path.as_os_str().as_bytes(), self.random.time()).unwrap();
            }
        }
    }

    /// The length of a file that holds something.
    fn length(&self) -> Option<u64> {
        let length = self.path.symlink_metadata().unwrap().len();
        (self.kind.is_file() && length > 0).then_some(length)
    }

    /// A path beside the present one whose name is new in every folder of the tree.
    fn new_path(&mut self) -> PathBuf {
        let n = 1_000 + self.random.below(1 << 40);
        self.path.with_file_name(odd_name(&mut self.random, n))
    }

    fn overwrite(&mut self) -> Option<()> {
        let length = self.length()?;
        let at = self.random.below(length);
        let most = usize::try_from(length - at).unwrap().min(3_000);
        let piece_bytes = 1 + self.random.index(most);
        let piece = self.random.bytes(piece_bytes);
        OpenOptions::new().write(true).open(&self.path).unwrap().write_all_at(&piece, at).unwrap();
        Some(())
    }

    /// The edit that only the time of the last status change shows: the length and the time of modification stay.
    fn overwrite_unseen(&mut self) -> Option<()> {
        let before = self.path.symlink_metadata().unwrap();
        self.overwrite()?;
        let time = (before.mtime(), u32::try_from(before.mtime_nsec()).unwrap());
        node::set_time(CWD, self.path.as_os_str().as_bytes(), time).unwrap();
        Some(())
    }

    fn append(&mut self) -> Option<()> {
        self.length()?;
        let piece_bytes = 1 + self.random.index(100_000);
        let piece = self.random.bytes(piece_bytes);
        OpenOptions::new().append(true).open(&self.path).unwrap().write_all(&piece).unwrap();
        Some(())
    }

    fn truncate(&mut self) -> Option<()> {
        let length = self.random.below(self.length()?);
        OpenOptions::new().write(true).open(&self.path).unwrap().set_len(length).unwrap();
        Some(())
    }

    /// What editors do: a new file takes the name, and the hard links of the old one keep the old content.
    fn rewrite(&mut self) -> Option<()> {
        self.length()?;
        let new = self.new_path();
        fs::write(&new, random_content(&mut self.random)).unwrap();
        fs::rename(&new, &self.path).unwrap();
        stamp(&mut self.random, &self.path);
        Some(())
    }

    fn rename(&mut self) -> Option<()> {
        let new = self.new_path();
        fs::rename(&self.path, new).unwrap();
        Some(())
    }

    fn move_away(&mut self) -> Option<()> {
        let outside =
            |folder: &PathBuf| !folder.starts_with(&self.path) && Some(folder.as_path()) != self.path.parent();
        let mut folders: Vec<PathBuf> = entries(&self.root).into_iter().filter(|path| is_folder(path)).collect();
        folders.push(self.root.to_path_buf());
        folders.retain(outside);
        if folders.is_empty() {
            return None;
        }
        let new = self.new_path();
        let folder = self.random.pick(&folders);
        fs::rename(&self.path, folder.join(new.file_name()?)).unwrap();
        Some(())
    }

    fn remove(&mut self) -> Option<()> {
        if self.kind.is_dir() {
            fs::remove_dir_all(&self.path).unwrap()
        } else {
            fs::remove_file(&self.path).unwrap()
        }
        Some(())
    }

    fn create(&mut self) -> Option<()> {
        let new = self.new_path();
        fs::write(&new, random_content(&mut self.random)).unwrap();
        stamp(&mut self.random, &new);
        Some(())
    }

    fn change_mode(&mut self) -> Option<()> {
        if self.kind.is_symlink() {
            return None;
        }
        let time = self.path.symlink_metadata().unwrap();
        stamp(&mut self.random, &self.path);
        let time = (time.mtime(), u32::try_from(time.mtime_nsec()).unwrap());
        node::set_time(CWD, self.path.as_os_str().as_bytes(), time).unwrap();
        Some(())
    }

    fn touch(&mut self) -> Option<()> {
        node::set_time(CWD, self.path.as_os_str().as_bytes(), self.random.time()).unwrap();
        Some(())
    }

    fn become_folder(&mut self) -> Option<()> {
        if self.kind.is_dir() {
            return None;
        }
        self.remove()?;
        fs::create_dir(&self.path).unwrap();
        fs::write(self.path.join("inside"), random_content(&mut self.random)).unwrap();
        stamp(&mut self.random, &self.path);
        Some(())
    }

    fn become_file(&mut self) -> Option<()> {
        if !self.kind.is_dir() {
            return None;
        }
        self.remove()?;
        fs::write(&self.path, random_content(&mut self.random)).unwrap();
        stamp(&mut self.random, &self.path);
        Some(())
    }

    fn retarget(&mut self) -> Option<()> {
        if !self.kind.is_symlink() {
            return None;
        }
        let old = fs::read_link(&self.path).unwrap();
        self.remove()?;
        let new = random_target(&mut self.random);
        symlink(if new == old { "another target".into() } else { new }, &self.path).unwrap();
        Some(())
    }
}

fn is_folder(path: &Path) -> bool {
    path.symlink_metadata().unwrap().is_dir()
}
