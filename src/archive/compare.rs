//! Two listings side by side, in the order of names, and two stored states compared with it.
//!
//! A folder whose list is the same on both sides is not walked, nor is a piece that both have. What a lost piece would
//! have said is not guessed. `archive/drift` puts live files on one side.

use crate::{
    archive::{
        changes::{Both, Comparison, Findings, aspects},
        filter::Patterns,
        request::Selected,
    },
    blobs::reader::Reader,
    error::{Error, Result},
    id::BlobId,
    progress::{Event, Progress},
    repo::{
        content::{Content, Run},
        listing::{Listing, listing, runs},
        tree::{Entry, Node, Stat},
    },
};
use std::{cmp::Ordering, collections::HashSet, io, sync::Arc};

/// Compares a part of one stored state with a part of another. Damage that hides a part of a listing is told as a problem.
/// Equal bytes that were stored as other runs, because holes have come or gone, count as changed.
///
/// # Errors
/// `Interrupted`, and storage errors that are no damage.
pub fn compare(
    reader: &Reader,
    before: &Selected<'_>,
    after: &Selected<'_>,
    exclude: &Patterns,
    progress: &dyn Progress,
) -> Result<Comparison> {
    let mut walk = Walk { reader, exclude, progress, found: Findings::new(before, after), below: Vec::new() };
    walk.run(before.entry, after.entry)?;
    Ok(walk.found.finish())
}

/// Something that has a name in a folder.
pub trait Named {
    /// The name.
    fn name(&self) -> &[u8];
}

impl Named for (Entry, Option<Stat>) {
    fn name(&self) -> &[u8] {
        &self.0.name
    }
}

/// What two folders have under one name.
#[derive(Debug)]
pub enum Pair<L, R> {
    /// Both have it.
    Both(L, R),
    /// The left one has it.
    Left(L),
    /// The right one has it.
    Right(R),
    /// One has it, and what the other one has is not known: that part of its list is lost.
    Unknown,
}

/// One side of a merge, looked at one entry ahead.
struct Ahead<T, I> {
    source: I,
    next: Option<T>,
    ended: bool,
    /// Something is missing before the next entry, or before the end.
    gap: bool,
}

impl<T, I: Iterator<Item = Result<T>>> Ahead<T, I> {
    fn new(source: I) -> Self {
        Self { source, next: None, ended: false, gap: false }
    }

    fn look(&mut self, damaged: &mut dyn FnMut(Error)) -> Result<()> {
        while self.next.is_none() && !self.ended {
            match self.source.next() {
                None => self.ended = true,
                Some(Ok(item)) => self.next = Some(item),
                Some(Err(e)) if e.is_damage() => {
                    self.gap = true;
                    damaged(e);
                }
                Some(Err(e)) => return Err(e),
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<T> {
        self.gap = false;
        self.next.take()
    }
}

/// Two listings in the order of names, merged.
pub struct SideBySide<L, R, I, J> {
    left: Ahead<L, I>,
    right: Ahead<R, J>,
}

impl<L: Named, R: Named, I: Iterator<Item = Result<L>>, J: Iterator<Item = Result<R>>> SideBySide<L, R, I, J> {
    /// Merges two listings.
    pub fn new(left: I, right: J) -> Self {
        Self { left: Ahead::new(left), right: Ahead::new(right) }
    }

    /// The next name; damage on the way is handed on, and the merge goes on behind it.
    ///
    /// # Errors
    /// Those of the listings that are no damage.
    pub fn step(&mut self, damaged: &mut dyn FnMut(Error)) -> Result<Option<Pair<L, R>>> {
        self.left.look(damaged)?;
        self.right.look(damaged)?;
        let order = match (&self.left.next, &self.right.next) {
            (None, None) => return Ok(None),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(left), Some(right)) => left.name().cmp(right.name()),
        };
        let pair = match order {
            Ordering::Equal => self.left.take().zip(self.right.take()).map(|(l, r)| Pair::Both(l, r)),
            Ordering::Less if self.right.gap => self.left.take().map(|_| Pair::Unknown),
            Ordering::Less => self.left.take().map(Pair::Left),
            Ordering::Greater if self.left.gap => self.right.take().map(|_| Pair::Unknown),
            Ordering::Greater => self.right.take().map(Pair::Right),
        };
        Ok(pair)
    }
}

/// A walk through two stored states.
struct Walk<'a> {
    reader: &'a Reader,
    exclude: &'a Patterns,
    progress: &'a dyn Progress,
    found: Findings<'a>,
    /// The path below both parts.
    below: Vec<u8>,
}

type Stored = (Entry, Option<Stat>);

struct Level<'a> {
    below_bytes: usize,
    sides: SideBySide<Stored, Stored, Listing<'a>, Listing<'a>>,
    /// Whether something was left out of the earlier folder, and of the later.
    partial: (bool, bool),
}

impl<'a> Walk<'a> {
    fn run(&mut self, before: &Entry, after: &Entry) -> Result<()> {
        let mut levels = Vec::new();
        levels.extend(self.entry(Some(before.clone()), Some(after.clone()), (false, false)));
        while let Some(level) = levels.last_mut() {
            if self.progress.stop_wanted() {
                return Err(Error::Interrupted);
            }
            self.below.truncate(level.below_bytes);
            let mut damaged = |e: Error| tell_lost(self.progress, &self.found.path(&self.below), e);
            let (before, after) = match level.sides.step(&mut damaged)? {
                None => {
                    levels.pop();
                    continue;
                }
                Some(Pair::Both(before, after)) => (Some(before.0), Some(after.0)),
                Some(Pair::Left(before)) => (Some(before.0), None),
                Some(Pair::Right(after)) => (None, Some(after.0)),
                Some(Pair::Unknown) => {
                    self.found.count_unknown();
                    continue;
                }
            };
            let partial = level.partial;
            if let Some(one) = after.as_ref().or(before.as_ref()) {
                self.below.push(b'/');
                self.below.extend_from_slice(&one.name);
            }
            levels.extend(self.entry(before, after, partial));
        }
        Ok(())
    }

    /// Takes what both sides have at the present path; returns the folder to walk next, if there is one.
    fn entry(&mut self, before: Option<Entry>, after: Option<Entry>, partial: (bool, bool)) -> Option<Level<'a>> {
        let is_folder = after.as_ref().or(before.as_ref()).is_some_and(|one| matches!(one.node, Node::Folder { .. }));
        if !self.exclude.is_empty() && self.exclude.matches(&self.found.path(&self.below), is_folder) {
            return None;
        }
        let perhaps = (before.is_none() && partial.0) || (after.is_none() && partial.1);
        let level = self.level(before.as_ref(), after.as_ref(), perhaps);
        let aspects = match (&before, &after) {
            (Some(before), Some(after)) => aspects(before, after, self.found.same_place()),
            _ => Vec::new(),
        };
        self.found.take(&self.below, Both { before, after, aspects, perhaps });
        level
    }

    fn level(&self, before: Option<&Entry>, after: Option<&Entry>, perhaps: bool) -> Option<Level<'a>> {
        let (old, new) = (list_of(before), list_of(after));
        if old == new {
            return None;
        }
        let shared = match (old, new) {
            (Some(old), Some(new)) => shared_pieces(self.reader, old, new),
            _ => Arc::default(),
        };
        let side = |list: Option<&Content>| {
            listing(self.reader, list.unwrap_or(&Content::default()), None).without(Arc::clone(&shared))
        };
        let partial = |entry: Option<&Entry>| entry.map_or(perhaps, |entry| entry.partial);
        let (sides, partial) = (SideBySide::new(side(old), side(new)), (partial(before), partial(after)));
        Some(Level { below_bytes: self.below.len(), sides, partial })
    }
}

/// The list of a folder.
pub fn list_of(entry: Option<&Entry>) -> Option<&Content> {
    match &entry?.node {
        Node::Folder { content } => Some(content),
        _ => None,
    }
}

/// Pieces that two folders both have: whatever is in them is the same on both sides.
fn shared_pieces(reader: &Reader, old: &Content, new: &Content) -> Arc<HashSet<BlobId>> {
    if old.depth == 0 && new.depth == 0 && (old.runs.len() < 2 || new.runs.len() < 2) {
        return Arc::default();
    }
    let pieces = |list: &Content| -> HashSet<BlobId> {
        let ids = runs(reader, list).map_while(|run| match run.ok()? {
            Run::Data { id, .. } => Some(id),
            Run::Hole { .. } => None,
        });
        ids.collect()
    };
    Arc::new(pieces(old).intersection(&pieces(new)).copied().collect())
}

/// Tells that a part of the list of a folder is lost.
pub fn tell_lost(progress: &dyn Progress, path: &[u8], e: Error) {
    let path = if path.is_empty() { b"/" } else { path };
    progress.tell(Event::Problem { path, verb: "list", cause: &io::Error::other(e) });
}
