//! What two repositories that name and cut differently call the same folders and files: found by walking both sides of
//! snapshots that both have.
//!
//! A pair is believed only where both sides say the same of everything but ids, and where what the target has is there.
//! One entry for each distinct folder or file is held.

use crate::{
    blobs::{index::Index, reader::Reader},
    error::{Error, Result},
    progress::Progress,
    repo::{
        content::{Content, Run},
        listing::{Listing, listing, runs},
        snapshot::Snapshot,
        tree::{Entry, Node, Stat},
    },
};
use std::{
    collections::HashMap,
    iter::Peekable,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A folder by its tree and its stats.
pub type FolderKey = (blake3::Hash, Option<blake3::Hash>);

/// A folder of the target: its tree and its stats.
pub type PairedFolder = (Content, Option<Content>);

/// What the target calls folders and files of the source.
#[derive(Debug, Default)]
pub struct Pairs {
    files: Mutex<HashMap<blake3::Hash, Content>>,
    folders: Mutex<HashMap<FolderKey, PairedFolder>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a folder is known by.
pub fn folder_key(content: &Content, stats: Option<&Content>) -> FolderKey {
    (content.key(), stats.map(Content::key))
}

impl Pairs {
    /// What the target calls a file's content.
    pub fn file(&self, content: &Content) -> Option<Content> {
        lock(&self.files).get(&content.key()).cloned()
    }

    /// What the target calls a folder.
    pub fn folder(&self, key: &FolderKey) -> Option<PairedFolder> {
        lock(&self.folders).get(key).cloned()
    }

    /// Takes note of what the target calls a file's content.
    pub fn add_file(&self, ours: &Content, theirs: Content) {
        lock(&self.files).insert(ours.key(), theirs);
    }

    /// Takes note of what the target calls a folder.
    pub fn add_folder(&self, key: FolderKey, theirs: PairedFolder) {
        lock(&self.folders).insert(key, theirs);
    }

    fn has_folder(&self, key: &FolderKey) -> bool {
        lock(&self.folders).contains_key(key)
    }
}

/// The two sides of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Sides<'a> {
    /// Where the snapshots come from.
    pub source: &'a Reader,
    /// Where they are, too.
    pub target: &'a Reader,
}

struct Level<'a> {
    ours: Listing<'a>,
    theirs: Peekable<Listing<'a>>,
    key: FolderKey,
    folder: PairedFolder,
    /// Whether everything so far was found on both sides.
    whole: bool,
}

impl<'a> Level<'a> {
    fn new(sides: Sides<'a>, ours: (&Content, Option<&Content>), theirs: PairedFolder) -> Self {
        Self {
            ours: listing(sides.source, ours.0, ours.1),
            theirs: listing(sides.target, &theirs.0, theirs.1.as_ref()).peekable(),
            key: folder_key(ours.0, ours.1),
            folder: theirs,
            whole: true,
        }
    }

    /// The entry of the other side that has this name.
    fn counterpart(&mut self, name: &[u8]) -> Result<Option<(Entry, Option<Stat>)>> {
        loop {
            let is_behind = |next: &Result<(Entry, Option<Stat>)>| match next {
                Ok((entry, _)) => entry.name.as_slice() <= name,
                Err(_) => true,
            };
            match self.theirs.next_if(is_behind) {
                None => return Ok(None),
                Some(Ok(found)) if found.0.name == name => return Ok(Some(found)),
                // What only they have, and what they have lost, makes the folders differ.
                Some(Ok(_)) => self.whole = false,
                Some(Err(e)) if e.is_damage() => self.whole = false,
                Some(Err(e)) => return Err(e),
            }
        }
    }
}

/// Walks a snapshot on both sides and takes note of what is the same.
///
/// # Errors
/// `Interrupted`, and storage errors that are no damage: what is damaged on either side is no pair.
pub fn pair(
    pairs: &Pairs,
    sides: Sides<'_>,
    (ours, theirs): (&Snapshot, &Snapshot),
    progress: &dyn Progress,
) -> Result<()> {
    let (Node::Folder { content }, Node::Folder { content: their_content }) = (&ours.root.node, &theirs.root.node)
    else {
        return Ok(());
    };
    let (stats, their_stats) = (ours.root_stat.folder.as_ref(), theirs.root_stat.folder.clone());
    if pairs.has_folder(&folder_key(content, stats)) {
        return Ok(());
    }
    let mut levels = vec![Level::new(sides, (content, stats), (their_content.clone(), their_stats))];
    while let Some(level) = levels.last_mut() {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let (entry, stat) = match level.ours.next() {
            None => {
                leave(pairs, &mut levels);
                continue;
            }
            Some(Err(e)) if e.is_damage() => {
                level.whole = false;
                continue;
            }
            Some(found) => found?,
        };
        let Some((other, other_stat)) = level.counterpart(&entry.name)? else {
            level.whole = false;
            continue;
        };
        let (stat, other_stat) = (stat.unwrap_or_default(), other_stat.unwrap_or_default());
        let same = is_same(&entry, &other);
        level.whole &= same && is_same_stat(&stat, &other_stat);
        match (&entry.node, other.node) {
            (Node::File { content, .. }, Node::File { content: theirs, .. }) if same => {
                level.whole &= pairs.file(content).is_some() || add_file(pairs, sides.target, content, theirs)?;
            }
            (Node::Folder { content }, Node::Folder { content: theirs })
                if !pairs.has_folder(&folder_key(content, stat.folder.as_ref())) =>
            {
                let ours = (content, stat.folder.as_ref());
                levels.push(Level::new(sides, ours, (theirs, other_stat.folder)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends the folder that was entered last; where it differs, the folder above does too.
fn leave(pairs: &Pairs, levels: &mut Vec<Level<'_>>) {
    let Some(mut level) = levels.pop() else { return };
    if level.whole && level.theirs.next().is_none() {
        pairs.add_folder(level.key, level.folder);
    } else {
        levels.last_mut().into_iter().for_each(|above| above.whole = false);
    }
}

/// Whether two entries say the same of everything but ids and what is below.
fn is_same(a: &Entry, b: &Entry) -> bool {
    let kinds = match (&a.node, &b.node) {
        (Node::File { size_bytes: a, .. }, Node::File { size_bytes: b, .. }) => a == b,
        (Node::Folder { .. }, Node::Folder { .. }) => true,
        (a, b) => a == b,
    };
    let rest = |e: &Entry| (e.link, e.partial, e.extensions.clone());
    kinds && a.metadata == b.metadata && rest(a) == rest(b)
}

fn is_same_stat(a: &Stat, b: &Stat) -> bool {
    (a.ctime, a.inode, a.device, a.folder.is_some()) == (b.ctime, b.inode, b.device, b.folder.is_some())
}

/// Takes note of a file, if all of it is there. Says whether it is.
fn add_file(pairs: &Pairs, target: &Reader, ours: &Content, theirs: Content) -> Result<bool> {
    for run in runs(target, &theirs) {
        match run {
            Ok(Run::Data { id, length_bytes }) if !is_there(target.index(), &id, length_bytes) => return Ok(false),
            Ok(_) => {}
            Err(e) if e.is_damage() => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    pairs.add_file(ours, theirs);
    Ok(true)
}

fn is_there(index: &Index, id: &crate::id::BlobId, length_bytes: u64) -> bool {
    let places = index.places(id);
    places.iter().any(|place| u64::from(place.length_bytes) == length_bytes && index.is_healthy(place.frame))
}
