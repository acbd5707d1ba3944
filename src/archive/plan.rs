//! Which folders lead from the root of the file system to the sources of a backup.

use std::{collections::BTreeMap, path::PathBuf};

/// Something that stands in a snapshot elsewhere than where it is: a file, or a folder with all that is below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graft {
    /// Where it stands in the snapshot: an absolute path without `.`, `..` or links on the way.
    pub at: Vec<u8>,
    /// Where it is on this machine.
    pub from: PathBuf,
}

/// Which folders lead to the sources.
#[derive(Debug)]
pub enum Plan {
    /// Everything from here on is wanted.
    Source,
    /// Only these names are.
    Through(BTreeMap<Vec<u8>, Plan>),
}

impl Plan {
    /// The plan for absolute paths without `.`, `..` or links on the way.
    pub fn new<'a>(sources: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut root = Self::Through(BTreeMap::new());
        for source in sources {
            let mut at = &mut root;
            for name in source.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
                match at {
                    Self::Source => break,
                    Self::Through(names) => at = names.entry(name.to_vec()).or_insert(Self::Through(BTreeMap::new())),
                }
            }
            *at = Self::Source;
        }
        root
    }
}
