//! A stored tree without what is lost: everything else as it was, each loss a problem that is recorded.
//!
//! Reads trees and writes trees; content stays where it is. See `format-spec/06-snapshots.md`, "Incomplete".

use crate::{
    archive::{
        assemble::{Assembled, Assembler, Item},
        content::ReadFile,
    },
    blobs::{
        reader::Reader,
        writer::{Filler, Stream, Writer},
    },
    error::{Error, Result},
    progress::Progress,
    repo::{
        content::Content,
        listing::{Listing, listing},
        snapshot::{Problem, Snapshot},
        tree::{Entry, Node, Stat},
    },
};
use std::collections::{BTreeMap, VecDeque};

/// What of a snapshot is lost: why, by path; the root is `/`. A folder's path stands for a part of its list.
pub type Lost = BTreeMap<Vec<u8>, String>;

/// Writes the tree of a snapshot without what is lost. Its blobs are durable once the writer has finished.
///
/// # Errors
/// `Interrupted`, storage errors, and damage to a list that is not among what is lost.
pub fn salvage(
    reader: &Reader,
    writer: &Writer,
    snapshot: &Snapshot,
    lost: &Lost,
    progress: &dyn Progress,
) -> Result<Assembled> {
    let (tell, trust) = (|_: &Problem| {}, |_: &ReadFile| Stat::default());
    let trees: Filler = writer.filler(Stream::Tree);
    let mut failure = None;
    let items = Salvage::new(reader, snapshot, lost).map_while(|item| match item {
        Ok(_) if progress.stop_wanted() => None,
        Ok(item) => Some(item),
        Err(e) => {
            failure = Some(e);
            None
        }
    });
    let assembled = Assembler::new(trees, &tell, &trust).run(items);
    match failure {
        Some(e) => Err(e),
        None => assembled,
    }
}

struct Level<'a> {
    entry: Entry,
    stat: Stat,
    path_bytes: usize,
    listing: Listing<'a>,
}

/// The items of a tree, in stored order.
struct Salvage<'a> {
    reader: &'a Reader,
    lost: &'a Lost,
    path: Vec<u8>,
    levels: Vec<Level<'a>>,
    ready: VecDeque<Item>,
}

impl<'a> Salvage<'a> {
    fn new(reader: &'a Reader, snapshot: &Snapshot, lost: &'a Lost) -> Self {
        let mut salvage = Self { reader, lost, path: Vec::new(), levels: Vec::new(), ready: VecDeque::new() };
        if let Node::Folder { content } = &snapshot.root.node {
            salvage.open(snapshot.root.clone(), content, snapshot.root_stat.clone());
        }
        salvage
    }

    fn open(&mut self, entry: Entry, content: &Content, stat: Stat) {
        let listing = listing(self.reader, content, stat.folder.as_ref());
        self.levels.push(Level { entry, stat, path_bytes: self.path.len(), listing });
        self.ready.push_back(Item::Open);
    }

    /// Whether anything at or below the path is lost.
    fn is_touched(&self) -> bool {
        let below = [self.path.as_slice(), b"/"].concat();
        self.lost.contains_key(&self.path)
            || self.lost.range(below.clone()..).next().is_some_and(|(path, _)| path.starts_with(&below))
    }

    /// Whether the folder at the path is known to lack a part of its list.
    fn is_lost(&self) -> bool {
        self.lost.contains_key(if self.path.is_empty() { b"/".as_slice() } else { &self.path })
    }

    fn problem(&mut self, verb: &str, cause: &str) {
        let path = if self.path.is_empty() { b"/".to_vec() } else { self.path.clone() };
        self.ready.push_back(Item::Problem(Problem { path, verb: verb.into(), cause: cause.into() }));
    }

    /// Takes one step through the tree.
    fn step(&mut self) -> Result<()> {
        let Some(level) = self.levels.last_mut() else { return Ok(()) };
        self.path.truncate(level.path_bytes);
        match level.listing.next() {
            None => {
                if let Some(level) = self.levels.pop() {
                    self.ready.push_back(Item::Close(level.entry, level.stat));
                }
            }
            // What was not lost when everything was looked at may not be lost the next time either.
            Some(Err(e)) if e.is_damage() && self.is_lost() => self.problem("list all of", &e.to_string()),
            Some(Err(e)) => return Err(e),
            Some(Ok((entry, stat))) => {
                self.path.push(b'/');
                self.path.extend_from_slice(&entry.name);
                self.take(entry, stat.unwrap_or_default());
            }
        }
        Ok(())
    }

    fn take(&mut self, entry: Entry, stat: Stat) {
        match &entry.node {
            Node::Folder { content } if self.is_touched() => {
                let content = content.clone();
                self.open(entry, &content, stat);
            }
            Node::File { .. } => match self.lost.get(&self.path) {
                Some(why) => self.problem("keep", &why.clone()),
                None => self.ready.push_back(Item::Whole(entry, stat)),
            },
            _ => self.ready.push_back(Item::Whole(entry, stat)),
        }
    }
}

impl Iterator for Salvage<'_> {
    type Item = Result<Item, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.levels.is_empty() {
            if let Err(e) = self.step() {
                return Some(Err(e));
            }
        }
        self.ready.pop_front().map(Ok)
    }
}
