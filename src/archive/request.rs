//! What is restored, how, and what came of it: the words that the rooms of a restore share.

use crate::{
    archive::{
        accounts::Directory,
        fill::{IN_PLACE_BYTES, Way},
        filter::Patterns,
        live, metadata,
    },
    repo::tree::{Entry, Metadata},
};
use rustix::fs::{FileType, Stat};

/// When a file that is there already is written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Whenever its content differs; the content is read to find out.
    Always,
    /// When its size or its time differ; else its content is taken to be the same.
    IfChanged,
    /// When the snapshot's is newer.
    IfNewer,
    /// Never.
    Never,
}

/// What is restored, and how.
#[derive(Debug)]
pub struct RestoreRequest {
    /// What is taken, if not everything: the entry of this path and what is below it.
    pub only: Option<Vec<u8>>,
    /// What is taken, if not everything: patterns on paths as they were backed up.
    pub include: Patterns,
    /// What is left out.
    pub exclude: Patterns,
    /// When files that are there are written over.
    pub overwrite: Overwrite,
    /// Remove what the snapshot does not have, below folders that were sources.
    pub delete: bool,
    /// Change nothing; count what would be done.
    pub dry_run: bool,
    /// Owners by name where the directory knows the names, else by number.
    pub by_name: bool,
    /// Whose accounts owners are looked up among.
    pub directory: Directory,
    /// How many threads write.
    pub threads: usize,
    /// Whether the selected folder's own metadata is put on the root of the target.
    pub root_metadata: bool,
    /// Whether everything goes back to where it came from. Folders on the way to the sources are then left as they are.
    pub in_place: bool,
    /// Folders, by device and inode, that are never removed: the repository itself.
    pub spare: Vec<(u64, u64)>,
}

impl RestoreRequest {
    /// Whether everything is taken.
    pub fn takes_all(&self) -> bool {
        self.only.is_none() && self.include.is_empty()
    }

    /// Whether an entry is taken, for its own sake and not for that of a folder above it.
    pub fn takes(&self, path: &[u8], is_folder: bool) -> bool {
        self.takes_all() || self.only.as_deref() == Some(path) || self.include.matches(path, is_folder)
    }

    /// Whether a folder that was there before gets the metadata of the snapshot's.
    pub fn owns_folder(&self, path: &[u8], sources: &[Vec<u8>]) -> bool {
        !self.in_place || is_within(path, sources)
    }

    /// Whether something that is there may make way.
    pub fn may_replace(&self, wanted: &Metadata, there: &Stat) -> bool {
        match self.overwrite {
            Overwrite::Always | Overwrite::IfChanged => true,
            Overwrite::IfNewer => wanted.mtime > metadata::mtime(there),
            Overwrite::Never => false,
        }
    }

    /// How a file gets its bytes where something but a folder is there.
    pub fn way_over(&self, stat: &Stat, entry: &Entry, size_bytes: u64) -> Way {
        let same_size = i64::try_from(size_bytes).ok() == Some(stat.st_size);
        if live::kind_of(stat) != FileType::RegularFile {
            return Way::Write;
        }
        let same = same_size && metadata::mtime(stat) == entry.metadata.mtime;
        if same && self.overwrite == Overwrite::IfChanged && (stat.st_nlink > 1) == entry.link.is_some() {
            return Way::Keep;
        }
        // A file with other names would take them along; the snapshot says which names belong together.
        if stat.st_nlink > 1 && entry.link.is_none() {
            return Way::Write;
        }
        // What may be running, or mapped by what runs, is not to be changed under it.
        let may_run = (stat.st_mode | entry.metadata.mode) & 0o111 != 0;
        if size_bytes > IN_PLACE_BYTES && stat.st_nlink == 1 && entry.link.is_none() && !may_run {
            return Way::InPlace;
        }
        if same_size { Way::Compare } else { Way::Write }
    }
}

/// Whether a path of a snapshot is one of its sources, or below one.
pub fn is_within(path: &[u8], sources: &[Vec<u8>]) -> bool {
    sources.iter().any(|source| {
        let source = source.strip_suffix(b"/").unwrap_or(source);
        path.strip_prefix(source).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

/// The part of a snapshot that is restored.
#[derive(Debug)]
pub struct Selected<'a> {
    /// The folder whose contents go into the target, or the one file or other entry that does.
    pub entry: &'a Entry,
    /// Its path in the snapshot, with a leading `/`; empty for the root.
    pub path: &'a [u8],
    /// The absolute paths that were backed up.
    pub sources: &'a [Vec<u8>],
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files written.
    pub files: u64,
    /// Files that were the same already.
    pub same: u64,
    /// Entries that were there and were left alone.
    pub skipped: u64,
    /// Folders made.
    pub folders: u64,
    /// Links, devices, pipes and sockets made.
    pub others: u64,
    /// Entries removed because the snapshot does not have them.
    pub deleted: u64,
    /// Bytes of content written.
    pub bytes: u64,
    /// Entries that could not be restored, or not exactly.
    pub problems: u64,
}
