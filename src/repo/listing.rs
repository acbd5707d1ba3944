//! Stored folders and contents read back as streams: runs out of lists, entries out of pieces.
//!
//! The one place that follows ids through the lists; restore, check, compare and ls all walk with it. A damaged piece or
//! list is one error in the stream, and the stream goes on behind it. See `format-spec/04-trees.md`.

use crate::{
    blobs::reader::Reader,
    error::{Error, Result},
    id::BlobId,
    repo::{
        content::{Content, MAX_DEPTH, Run, decode_list},
        tree::{Entry, Node, Stat, decode_piece, decode_stats},
    },
};
use std::{collections::HashSet, sync::Arc, vec};

/// The runs of a content, one after the other, however deep its lists are.
#[derive(Debug)]
pub struct Runs<'a> {
    reader: &'a Reader,
    levels: Vec<(u8, vec::IntoIter<Run>)>,
    lists: Vec<BlobId>,
    repeats: Repeats<'a>,
}

/// What becomes of a list that was walked before: lists that hold each other many times can stand for more runs than
/// anybody could walk.
#[derive(Debug)]
enum Repeats<'a> {
    /// It is walked again.
    Walked,
    /// It is stepped over; so are those that somebody has seen before.
    Skipped(&'a SeenLists, SeenLists),
    /// It is damage.
    Refused(SeenLists),
}

/// Lists that have been walked: how deep the runs in them lie, which blob, and for how many bytes it stands.
pub type SeenLists = HashSet<(u8, BlobId, u64)>;

/// Walks the runs of a content.
pub fn runs<'a>(reader: &'a Reader, content: &Content) -> Runs<'a> {
    let levels = vec![(content.depth.min(MAX_DEPTH), content.runs.clone().into_iter())];
    Runs { reader, levels, lists: Vec::new(), repeats: Repeats::Walked }
}

/// Walks the runs of a content, but steps over lists that were seen before, or come again.
pub fn fresh_runs<'a>(reader: &'a Reader, content: &Content, seen: &'a SeenLists) -> Runs<'a> {
    Runs { repeats: Repeats::Skipped(seen, SeenLists::new()), ..runs(reader, content) }
}

impl Runs<'_> {
    fn open(&self, id: &BlobId, length_bytes: u64) -> Result<Vec<Run>> {
        let object = format!("list {id}");
        let runs = decode_list(&self.reader.blob(id)?, &object)?;
        if runs.iter().map(Run::length_bytes).sum::<u64>() != length_bytes {
            return Err(Error::damaged(object, "it stands for another length than its list says"));
        }
        Ok(runs)
    }

    /// Whether a list has been walked before; from now on it has.
    fn repeats(&mut self, list: (u8, BlobId, u64)) -> bool {
        match &mut self.repeats {
            Repeats::Walked => false,
            Repeats::Skipped(before, own) => before.contains(&list) || !own.insert(list),
            Repeats::Refused(own) => !own.insert(list),
        }
    }

    /// The lists that were opened and had not been seen before.
    pub fn into_seen(self) -> SeenLists {
        match self.repeats {
            Repeats::Walked => SeenLists::new(),
            Repeats::Skipped(_, own) | Repeats::Refused(own) => own,
        }
    }

    /// Takes the ids of the list blobs that were opened since the last call.
    pub fn take_lists(&mut self) -> Vec<BlobId> {
        std::mem::take(&mut self.lists)
    }
}

impl Iterator for Runs<'_> {
    type Item = Result<Run>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (depth, level) = self.levels.last_mut()?;
            match (*depth, level.next()) {
                (_, None) => drop(self.levels.pop()),
                (0, Some(run)) => return Some(Ok(run)),
                (_, Some(hole @ Run::Hole { .. })) => return Some(Ok(hole)),
                (depth, Some(Run::Data { id, length_bytes })) if self.repeats((depth, id, length_bytes)) => {
                    if matches!(self.repeats, Repeats::Refused(_)) {
                        return Some(Err(Error::damaged(format!("list {id}"), "it comes twice in one folder")));
                    }
                }
                (depth, Some(Run::Data { id, length_bytes })) => {
                    self.lists.push(id);
                    match self.open(&id, length_bytes) {
                        Ok(runs) => self.levels.push((depth - 1, runs.into_iter())),
                        Err(e) => return Some(Err(e)),
                    }
                }
            }
        }
    }
}

/// The entries of a folder, in the order of names, with the stats that go with them where those are there.
#[derive(Debug)]
pub struct Listing<'a> {
    pieces: Runs<'a>,
    stats: Option<Runs<'a>>,
    open: vec::IntoIter<Entry>,
    open_stats: vec::IntoIter<Stat>,
    last: Vec<u8>,
    blobs: Vec<BlobId>,
    without: Arc<HashSet<BlobId>>,
}

/// Walks the entries of a folder. `stats` is the parallel stream, if wanted.
pub fn listing<'a>(reader: &'a Reader, folder: &Content, stats: Option<&Content>) -> Listing<'a> {
    Listing {
        // No name comes twice in a folder, so no list of its pieces does.
        pieces: Runs { repeats: Repeats::Refused(SeenLists::new()), ..runs(reader, folder) },
        stats: stats.map(|stats| runs(reader, stats)),
        open: Vec::new().into_iter(),
        open_stats: Vec::new().into_iter(),
        last: Vec::new(),
        blobs: Vec::new(),
        without: Arc::default(),
    }
}

impl Listing<'_> {
    /// The same walk, which steps over some pieces without opening them.
    pub fn without(self, pieces: Arc<HashSet<BlobId>>) -> Self {
        Self { without: pieces, ..self }
    }

    /// Opens the next piece and the stats beside it. Stats that cannot be read, or do not fit, are done without.
    fn open_next(&mut self) -> Option<Result<()>> {
        let run = self.pieces.next()?;
        let stats = self.stats.as_mut().and_then(Iterator::next);
        Some(run.and_then(|run| {
            let Run::Data { id, .. } = run else {
                return Err(Error::damaged("a folder's list", "there is a hole in it"));
            };
            if self.without.contains(&id) {
                return Ok(());
            }
            self.blobs.push(id);
            let object = format!("tree {id}");
            let entries = decode_piece(&self.pieces.reader.blob(&id)?, &object)?;
            if entries.first().is_some_and(|first| !self.last.is_empty() && first.name <= self.last) {
                return Err(Error::damaged(object, "its names do not follow those of the piece before it"));
            }
            if let Some(last) = entries.last() {
                self.last.clone_from(&last.name);
            }
            let stats = self.stats_of(stats, entries.len());
            (self.open, self.open_stats) = (entries.into_iter(), stats.into_iter());
            Ok(())
        }))
    }

    fn stats_of(&mut self, run: Option<Result<Run>>, entries: usize) -> Vec<Stat> {
        let Some(Ok(Run::Data { id, .. })) = run else { return Vec::new() };
        let bytes = self.pieces.reader.blob(&id);
        let stats = bytes.and_then(|bytes| decode_stats(&bytes, "stats")).unwrap_or_default();
        if stats.len() == entries { stats } else { Vec::new() }
    }

    /// Takes the ids of the pieces and lists that were opened since the last call.
    pub fn take_blobs(&mut self) -> Vec<BlobId> {
        let mut blobs = std::mem::take(&mut self.blobs);
        blobs.append(&mut self.pieces.take_lists());
        blobs
    }
}

impl Iterator for Listing<'_> {
    type Item = Result<(Entry, Option<Stat>)>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.open.next() {
                return Some(Ok((entry, self.open_stats.next())));
            }
            if let Err(e) = self.open_next()? {
                return Some(Err(e));
            }
        }
    }
}

/// Finds the entry at a path in a snapshot, with a leading `/`; the root itself for an empty path.
///
/// # Errors
/// `Damaged` or `Missing` where the list that could name it is lost; storage errors. Nothing where it is not there.
pub fn find(reader: &Reader, root: &Entry, path: &[u8]) -> Result<Option<Entry>> {
    let mut at = root.clone();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        let Node::Folder { content } = &at.node else { return Ok(None) };
        let (mut found, mut failure) = (None, None);
        for entry in listing(reader, content, None) {
            match entry {
                Ok((entry, _)) if entry.name == name => found = Some(entry),
                Ok((entry, _)) if entry.name.as_slice() < name => continue,
                Ok(_) => {}
                Err(e) => {
                    failure = Some(e);
                    continue;
                }
            }
            break;
        }
        match (found, failure) {
            (Some(entry), _) => at = entry,
            (None, Some(e)) => return Err(e),
            (None, None) => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The blobs of content that an entry, and everything below it, is made of. What cannot be listed is left out.
///
/// # Errors
/// Storage errors that are no damage.
pub fn blobs_of(reader: &Reader, entry: &Entry) -> Result<HashSet<BlobId>> {
    let (mut blobs, mut seen) = (HashSet::new(), SeenLists::new());
    let mut add = |content: &Content| -> Result<()> {
        let mut fresh = fresh_runs(reader, content, &seen);
        for run in fresh.by_ref() {
            match run {
                Ok(Run::Data { id, .. }) => drop(blobs.insert(id)),
                Ok(Run::Hole { .. }) => {}
                Err(e) if e.is_damage() => {}
                Err(e) => return Err(e),
            }
        }
        let opened = fresh.into_seen();
        seen.extend(opened);
        Ok(())
    };
    let (mut folders, mut walked) = (Vec::new(), HashSet::new());
    match &entry.node {
        Node::File { content, .. } => add(content)?,
        Node::Folder { content } => folders.push(content.clone()),
        _ => {}
    }
    while let Some(folder) = folders.pop() {
        if !walked.insert(folder.key()) {
            continue;
        }
        for entry in listing(reader, &folder, None) {
            match entry.map(|(entry, _)| entry.node) {
                Ok(Node::File { content, .. }) => add(&content)?,
                Ok(Node::Folder { content }) => folders.push(content),
                Ok(_) => {}
                Err(e) if e.is_damage() => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(blobs)
}
