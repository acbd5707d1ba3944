//! What snapshots need: every blob that their trees, lists, stats and files are made of.
//!
//! One walk for everybody who asks: prune keeps what is visited, copy brings it over. Equal folders are walked once.

use crate::{
    blobs::reader::Reader,
    error::{Error, Result},
    id::BlobId,
    progress::Progress,
    repo::{
        content::{Content, Run},
        listing::{SeenLists, fresh_runs, listing, runs},
        snapshot::Snapshot,
        tree::Node,
    },
};
use std::collections::HashSet;

/// Which stream a blob belongs to. One blob may be needed for several: the last of them says most of where it must lie, and
/// how much is lost without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// What only change detection needs; a snapshot is whole without it.
    Stats,
    /// Content of a file.
    Data,
    /// A piece of a tree, or a list. Whoever knows only tree packs looks for it in them.
    Tree,
}

/// Who is shown what a walk meets.
pub trait Visitor {
    /// A blob that is needed. It may be shown more than once.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn blob(&mut self, id: &BlobId, role: Role) -> Result<()>;

    /// A tree or a list that could not be read: what it leads to is not known.
    ///
    /// # Errors
    /// Whatever ends the walk.
    fn lost(&mut self, path: &[u8], why: Error) -> Result<()>;

    /// The file or folder that is looked at from now on.
    fn at(&mut self, _path: &[u8]) {}
}

/// What has been walked before, over several snapshots. Where something was lost, it is walked again only by whoever
/// begins anew: what is lost is told once.
#[derive(Debug, Default)]
pub struct Walked {
    folders: HashSet<(blake3::Hash, Option<blake3::Hash>)>,
    lists: SeenLists,
}

struct Level {
    path_bytes: usize,
    folder: Content,
    stats: Option<Content>,
}

/// Walks everything that a snapshot is made of and that was not walked before.
///
/// # Errors
/// `Interrupted`, those of the visitor, and storage errors that are no damage.
pub fn walk(
    reader: &Reader,
    snapshot: &Snapshot,
    walked: &mut Walked,
    visitor: &mut dyn Visitor,
    progress: &dyn Progress,
) -> Result<()> {
    let Node::Folder { content } = &snapshot.root.node else { return Ok(()) };
    let mut waiting =
        vec![(Vec::new(), Level { path_bytes: 0, folder: content.clone(), stats: snapshot.root_stat.folder.clone() })];
    while let Some((mut path, level)) = waiting.pop() {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        if !walked.folders.insert((level.folder.key(), level.stats.as_ref().map(Content::key))) {
            continue;
        }
        visitor.at(&path);
        if let Some(stats) = &level.stats {
            stats_of(reader, stats, visitor)?;
        }
        let mut entries = listing(reader, &level.folder, level.stats.as_ref());
        while let Some(entry) = entries.next() {
            let blobs = entries.take_blobs();
            path.truncate(level.path_bytes);
            if !blobs.is_empty() || entry.is_err() {
                visitor.at(&path);
            }
            // A piece that cannot be read is needed as much as one that can.
            blobs.iter().try_for_each(|id| visitor.blob(id, Role::Tree))?;
            let (entry, stat) = match entry {
                Ok(found) => found,
                Err(e) if e.is_damage() => {
                    visitor.lost(&path, e)?;
                    continue;
                }
                Err(e) => return Err(e),
            };
            path.push(b'/');
            path.extend_from_slice(&entry.name);
            match entry.node {
                Node::File { content, .. } => file(reader, &content, &path, &mut walked.lists, visitor)?,
                Node::Folder { content } => {
                    let stats = stat.and_then(|stat| stat.folder);
                    waiting.push((path.clone(), Level { path_bytes: path.len(), folder: content, stats }));
                }
                _ => {}
            }
        }
        path.truncate(level.path_bytes);
        visitor.at(&path);
        entries.take_blobs().iter().try_for_each(|id| visitor.blob(id, Role::Tree))?;
    }
    Ok(())
}

/// The pieces of a stats stream, and its lists. What cannot be read is done without, as a backup does.
fn stats_of(reader: &Reader, stats: &Content, visitor: &mut dyn Visitor) -> Result<()> {
    let mut pieces = runs(reader, stats);
    while let Some(run) = pieces.next() {
        pieces.take_lists().iter().try_for_each(|id| visitor.blob(id, Role::Stats))?;
        match run {
            Ok(Run::Data { id, .. }) => visitor.blob(&id, Role::Stats)?,
            Ok(Run::Hole { .. }) => {}
            Err(e) if e.is_damage() => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn file(
    reader: &Reader,
    content: &Content,
    path: &[u8],
    lists: &mut SeenLists,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    visitor.at(path);
    let mut whole = true;
    let mut fresh = fresh_runs(reader, content, lists);
    while let Some(run) = fresh.next() {
        fresh.take_lists().iter().try_for_each(|id| visitor.blob(id, Role::Tree))?;
        match run {
            Ok(Run::Data { id, .. }) => visitor.blob(&id, Role::Data)?,
            Ok(Run::Hole { .. }) => {}
            Err(e) if e.is_damage() => {
                whole = false;
                visitor.lost(path, e)?;
            }
            Err(e) => return Err(e),
        }
    }
    // The last list of lists may hold nothing but lists that were walked before, and so no run.
    fresh.take_lists().iter().try_for_each(|id| visitor.blob(id, Role::Tree))?;
    let opened = fresh.into_seen();
    if whole {
        lists.extend(opened);
    }
    Ok(())
}
