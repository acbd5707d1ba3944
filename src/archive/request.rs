//! What is restored, how, and what came of it: the words that the rooms of a restore share.

use crate::{archive::filter::Patterns, repo::tree::Entry};

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
    /// Owners by name where this machine knows the names, else by number.
    pub by_name: bool,
    /// How many threads write.
    pub threads: usize,
    /// Whether the selected folder's own metadata is put on the root of the target.
    pub root_metadata: bool,
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
