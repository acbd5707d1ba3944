//! The snapshot that a walk compares with, and what the next one may rely on. What cannot be read of it is as if it were not
//! there.

use crate::{
    archive::metadata,
    blobs::reader::Reader,
    repo::{
        content::{Content, Run},
        listing::{Listing, listing, runs},
        tree::{Entry, Node, Stat, Time},
    },
};
use std::iter::Peekable;

/// File systems stamp times in grains; FAT's, of two seconds, is the coarsest. A file that was changed within a grain of
/// being read may change once more without showing it, so its times are not trusted the next time.
const GRAIN_SECONDS: i64 = 2;

/// What reads the snapshot, if there is one.
pub struct Parent<'a>(pub Option<&'a Reader>);

impl<'a> Parent<'a> {
    /// The entries of a folder of it, each with its stat.
    pub fn listing(&self, folder: Option<(&Entry, &Stat)>) -> Option<Peekable<Listing<'a>>> {
        let (reader, (entry, stat)) = self.0.zip(folder)?;
        match &entry.node {
            Node::Folder { content } => Some(listing(reader, content, stat.folder.as_ref()).peekable()),
            _ => None,
        }
    }

    /// Whether all of a content can still be had.
    pub fn has(&self, content: &Content) -> bool {
        let Some(reader) = self.0 else { return false };
        let known = |run: &Run| match run {
            Run::Data { id, .. } => reader.index().is_known(id),
            Run::Hole { .. } => true,
        };
        let is_known = content.runs.iter().all(known);
        if content.depth == 0 || !is_known {
            return is_known;
        }
        let mut inner = runs(reader, content);
        inner.all(|run| run.is_ok_and(|run| known(&run)))
            && inner.take_lists().iter().all(|id| reader.index().is_known(id))
    }
}

/// Moves a listing up to a name and takes the entry, if it is there with its stat.
pub fn advance(listing: &mut Peekable<Listing<'_>>, name: &[u8]) -> Option<(Entry, Stat)> {
    loop {
        match listing.peek()? {
            Ok((entry, _)) if entry.name.as_slice() > name => return None,
            Ok((entry, _)) if entry.name.as_slice() == name => {
                let (entry, stat) = listing.next()?.ok()?;
                return Some((entry, stat.unwrap_or_default()));
            }
            _ => drop(listing.next()),
        }
    }
}

/// What of an inode may be relied on the next time, if it was looked at then.
pub fn trusted(stat: &rustix::fs::Stat, looked: Time) -> Stat {
    let ctime = metadata::ctime(stat);
    let settled = ctime.seconds.saturating_add(GRAIN_SECONDS) < looked.seconds;
    Stat { ctime: settled.then_some(ctime), inode: stat.st_ino, device: stat.st_dev, folder: None }
}
