//! What a file or a folder's list consists of: runs of blobs and holes, and lists of lists where that would be long.
//!
//! Types and both directions of their encoding. A record keeps its ids together at its end, where they disturb the
//! compressor least, in the order of its data runs. See `format-spec/04-trees.md`, "Content".

use crate::{
    blobs::codec::{self, Extensions},
    error::{Error, Result},
    id::BlobId,
};
use bincode::{Decode, Encode};

/// A stretch of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Run {
    /// Bytes that a blob holds, or that the list in a blob stands for.
    Data {
        /// The blob.
        id: BlobId,
        /// How many bytes of content it stands for.
        length_bytes: u64,
    },
    /// Zeros that take no room.
    Hole {
        /// How many.
        length_bytes: u64,
    },
}

impl Run {
    /// How many bytes of content it stands for.
    pub fn length_bytes(&self) -> u64 {
        match self {
            Self::Data { length_bytes, .. } | Self::Hole { length_bytes } => *length_bytes,
        }
    }
}

/// Content as a list of runs; where that would be long, a list of lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// How many levels of list blobs are between this list and the blobs themselves.
    pub depth: u8,
    /// The runs, in order.
    pub runs: Vec<Run>,
}

impl Content {
    /// A hash of all that it is made of: equal contents are walked once.
    pub fn key(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[self.depth]).update(&encode_list(&self.runs)).finalize()
    }
}

/// How many runs a file of a length may have: a writer makes runs of many bytes, except where stretches of data end.
pub fn max_runs(size_bytes: u64) -> u64 {
    size_bytes / 64 + 1_000_000
}

/// No list is nested deeper: 128 runs a list make more than 10^14 bytes at depth six.
pub const MAX_DEPTH: u8 = 8;

/// A run as a record holds it; its id stands in the record's column of ids.
#[derive(Encode, Decode)]
pub enum StoredRun {
    /// Bytes.
    Data {
        /// How many.
        length_bytes: u64,
    },
    /// Zeros.
    Hole {
        /// How many.
        length_bytes: u64,
    },
}

/// Content as a record holds it.
#[derive(Encode, Decode)]
pub struct StoredContent {
    depth: u8,
    runs: Vec<StoredRun>,
}

#[derive(Encode, Decode)]
struct StoredList {
    runs: Vec<StoredRun>,
    ids: Vec<u8>,
    extensions: Extensions,
}

fn store_runs(runs: &[Run], ids: &mut Vec<u8>) -> Vec<StoredRun> {
    let store = |run: &Run| match run {
        Run::Data { id, length_bytes } => {
            ids.extend_from_slice(&id.0);
            StoredRun::Data { length_bytes: *length_bytes }
        }
        Run::Hole { length_bytes } => StoredRun::Hole { length_bytes: *length_bytes },
    };
    runs.iter().map(store).collect()
}

/// Takes content apart: its ids go to the column of ids.
pub fn store_content(content: &Content, ids: &mut Vec<u8>) -> StoredContent {
    StoredContent { depth: content.depth, runs: store_runs(&content.runs, ids) }
}

/// The ids of a record, handed out in order.
pub struct Ids<'a> {
    rest: &'a [[u8; 32]],
    object: &'a str,
}

impl<'a> Ids<'a> {
    /// The column of ids of a record.
    ///
    /// # Errors
    /// `Damaged`, naming `object`, where it is no whole number of ids.
    pub fn new(bytes: &'a [u8], object: &'a str) -> Result<Self> {
        match bytes.as_chunks() {
            (rest, []) => Ok(Self { rest, object }),
            _ => Err(Error::damaged(object, "its column of ids is cut short")),
        }
    }

    fn runs(&mut self, stored: Vec<StoredRun>) -> Result<Vec<Run>> {
        let (mut total, mut runs) = (0_u64, Vec::with_capacity(stored.len()));
        for run in stored {
            let run = match run {
                StoredRun::Hole { length_bytes } => Run::Hole { length_bytes },
                StoredRun::Data { length_bytes } => {
                    let (id, rest) = self.rest.split_first().ok_or_else(|| self.bad("it has too few ids"))?;
                    self.rest = rest;
                    Run::Data { id: BlobId(*id), length_bytes }
                }
            };
            let sum = total.checked_add(run.length_bytes()).filter(|_| run.length_bytes() > 0);
            total = sum.ok_or_else(|| self.bad("a run of its content has an impossible length"))?;
            runs.push(run);
        }
        Ok(runs)
    }

    /// Puts content together again.
    ///
    /// # Errors
    /// `Damaged` where lengths are impossible or ids too few.
    pub fn content(&mut self, stored: StoredContent) -> Result<Content> {
        if stored.depth > MAX_DEPTH {
            return Err(self.bad("its lists are nested too deeply"));
        }
        Ok(Content { depth: stored.depth, runs: self.runs(stored.runs)? })
    }

    /// Every id has been handed out.
    ///
    /// # Errors
    /// `Damaged` where some are left.
    pub fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("it has more ids than runs")) }
    }

    fn bad(&self, why: &str) -> Error {
        Error::damaged(self.object, why)
    }
}

/// Encodes a list blob.
pub fn encode_list(runs: &[Run]) -> Vec<u8> {
    let mut ids = Vec::new();
    let runs = store_runs(runs, &mut ids);
    codec::encode(&StoredList { runs, ids, extensions: Vec::new() })
}

/// Decodes a list blob.
///
/// # Errors
/// `Damaged`, naming `object`.
pub fn decode_list(bytes: &[u8], object: &str) -> Result<Vec<Run>> {
    let stored: StoredList = codec::decode(bytes, object)?;
    let mut ids = Ids::new(&stored.ids, object)?;
    let runs = ids.runs(stored.runs)?;
    ids.end()?;
    Ok(runs)
}

/// Content that has more runs than this goes into list blobs.
const MAX_INLINE_RUNS: usize = 128;
/// No list blob is made with more runs.
const MAX_LIST_RUNS: usize = 512;

/// Makes content of runs. Long lists go, cut by content, into list blobs that `put` stores, until few runs are left.
///
/// # Errors
/// Those of `put`.
pub fn fold(mut runs: Vec<Run>, mut put: impl FnMut(&[u8]) -> Result<BlobId>) -> Result<Content> {
    let mut depth = 0;
    while runs.len() > MAX_INLINE_RUNS && depth < MAX_DEPTH {
        let (mut lists, mut open) = (Vec::new(), Vec::new());
        for run in runs {
            open.push(run);
            let marked = matches!(run, Run::Data { id, .. } if id.0.last().is_some_and(|b| b % 32 == 0));
            if marked || open.len() >= MAX_LIST_RUNS {
                lists.push(std::mem::take(&mut open));
            }
        }
        lists.extend((!open.is_empty()).then_some(open));
        let mut store = |list: Vec<Run>| {
            let length_bytes = list.iter().map(Run::length_bytes).sum();
            Ok(Run::Data { id: put(&encode_list(&list))?, length_bytes })
        };
        runs = lists.into_iter().map(&mut store).collect::<Result<_>>()?;
        depth += 1;
    }
    Ok(Content { depth, runs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn a_long_list_is_folded_and_a_changed_run_changes_few_lists() {
        let runs = |changed: usize| -> Vec<Run> {
            let id = |n: usize| {
                BlobId(*blake3::hash(&[n.to_le_bytes(), usize::from(n == changed).to_le_bytes()].concat()).as_bytes())
            };
            (0..100_000).map(|n| Run::Data { id: id(n), length_bytes: 10 }).collect()
        };
        let fold_into = |runs, blobs: &mut HashMap<BlobId, Vec<u8>>| {
            fold(runs, |bytes| {
                let id = BlobId(*blake3::hash(bytes).as_bytes());
                blobs.insert(id, bytes.to_vec());
                Ok(id)
            })
            .unwrap()
        };
        let mut blobs = HashMap::new();
        let content = fold_into(runs(usize::MAX), &mut blobs);
        assert!(content.runs.len() <= MAX_INLINE_RUNS && content.depth == 2);
        assert_eq!(content.runs.iter().map(Run::length_bytes).sum::<u64>(), 1_000_000);
        let before = blobs.len();
        fold_into(runs(50_000), &mut blobs);
        assert!(blobs.len() - before <= 4, "{}", blobs.len() - before);
    }
}
