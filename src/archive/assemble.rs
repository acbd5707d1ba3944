//! Entries in stored order into trees: pieces, lists, folders, from the leaves to the root.
//!
//! Takes what the walk found in its order and waits where a file is still being read. Knows nothing of the live tree.

use crate::{
    archive::{
        batch::{Batch, Outcome},
        content::{Failure, ReadFile},
    },
    blobs::writer::Filler,
    error::{Error, Result},
    repo::{
        content::{Content, Run, fold},
        snapshot::{Counts, Problem, Problems},
        tree::{Entry, Node, PieceCutter, Stat, encode_piece, encode_stats, shed_excess},
    },
};
use std::{io, sync::Arc};

/// What the walk tells, in stored order; only the entries of the root may come in another one.
#[derive(Debug)]
pub enum Item {
    /// A folder begins.
    Open,
    /// An entry that is complete.
    Whole(Entry, Stat),
    /// A file that is being read: its name, its link, where its outcome will be, and its path.
    Reading {
        /// The entry's name.
        name: Vec<u8>,
        /// Shared by all names of its inode.
        link: Option<u64>,
        /// Where the outcome will be.
        batch: Arc<Batch>,
        /// Which of the batch's files it is.
        position: usize,
        /// The inode that the walk has seen under this name, and whether this is the name that is read.
        inode: (u64, bool),
        /// Its path, for a problem.
        path: Vec<u8>,
    },
    /// The folder that was opened last ends; it is this entry, whose content is yet to be filled in.
    Close(Entry, Stat),
    /// Something of the folder that was opened last is not captured, as was asked for.
    LeftOut,
    /// Something could not be captured.
    Problem(Problem),
}

/// The root of a finished tree and what was counted on the way.
#[derive(Debug)]
pub struct Assembled {
    /// The root folder.
    pub root: Entry,
    /// Its stats.
    pub root_stat: Stat,
    /// What was counted.
    pub counts: Counts,
    /// What could not be captured, the first thousand.
    pub problems: Vec<Problem>,
}

#[derive(Default)]
struct Folder {
    /// Entries of the root, which need not come in stored order; they are few.
    waiting: Vec<(Entry, Stat)>,
    cutter: PieceCutter,
    entries: Vec<Entry>,
    stats: Vec<Stat>,
    pieces: Vec<Run>,
    stat_pieces: Vec<Run>,
    partial: bool,
}

/// Who is shown every folder once it is whole, with its stats.
pub type Closed<'a> = &'a (dyn Fn(&Entry, &Stat) + Sync);

/// Makes trees of entries.
pub struct Assembler<'a> {
    trees: Filler,
    open: Vec<Folder>,
    counts: Counts,
    problems: Problems,
    tell: &'a (dyn Fn(&Problem) + Sync),
    trust: &'a (dyn Fn(&ReadFile) -> Stat + Sync),
    closed: Option<Closed<'a>>,
}

impl<'a> Assembler<'a> {
    /// Makes trees that go into `trees`. Problems are told as they are met; `trust` says what of a file's inode may be
    /// relied on the next time.
    pub fn new(
        trees: Filler,
        tell: &'a (dyn Fn(&Problem) + Sync),
        trust: &'a (dyn Fn(&ReadFile) -> Stat + Sync),
    ) -> Self {
        let (counts, problems) = (Counts::default(), Problems::default());
        Self { trees, open: Vec::new(), counts, problems, tell, trust, closed: None }
    }

    /// Shows every folder once it is whole, before the next item is taken.
    pub fn showing(self, closed: Closed<'a>) -> Self {
        Self { closed: Some(closed), ..self }
    }

    /// Takes every item. The last one closes the root, which is returned.
    ///
    /// # Errors
    /// `Interrupted` where the items end before the root is closed, and those of writing.
    pub fn run(mut self, items: impl IntoIterator<Item = Item>) -> Result<Assembled> {
        for item in items {
            match item {
                Item::Open => self.open.push(Folder::default()),
                Item::Whole(entry, stat) => self.push(entry, stat)?,
                Item::Reading { name, link, batch, position, inode, path } => {
                    let outcome = batch.wait(position).ok_or(Error::Refused)?;
                    self.read((name, link, inode), outcome, path)?;
                }
                Item::LeftOut => self.open.last_mut().into_iter().for_each(|folder| folder.partial = true),
                Item::Problem(problem) => self.problem(problem),
                Item::Close(entry, stat) => {
                    let (entry, stat) = self.close(entry, stat)?;
                    self.counts.folders += 1;
                    if self.open.is_empty() {
                        self.trees.flush()?;
                        return Ok(Assembled {
                            root: entry,
                            root_stat: stat,
                            counts: self.counts,
                            problems: self.problems.into_kept(),
                        });
                    }
                    self.put(entry, stat)?;
                }
            }
        }
        Err(Error::Interrupted)
    }

    fn read(
        &mut self,
        (name, mut link, (inode, is_first)): (Vec<u8>, Option<u64>, (u64, bool)),
        outcome: Outcome,
        path: Vec<u8>,
    ) -> Result<()> {
        match outcome {
            // The first name was replaced between the walk and the reading: what was read is not this file.
            Ok(file) if file.stat.st_ino != inode && !is_first => {
                let cause = "another file took the place of its first name; the next backup reads it".into();
                self.problem(Problem { path, verb: "read".into(), cause });
                Ok(())
            }
            Ok(file) => {
                if file.stat.st_ino != inode {
                    link = None;
                }
                self.counts.files_read += 1;
                let mut stat = (self.trust)(&file);
                if let Some(cause) = &file.lacks {
                    self.problem(Problem {
                        path: path.clone(),
                        verb: "read the attributes of".into(),
                        cause: cause.clone(),
                    });
                    // The next backup is not to take what is missing for what is there.
                    stat.ctime = None;
                }
                if file.unsteady {
                    let cause = io::Error::other("it changed each time it was read; what was read last is kept");
                    self.problem(Problem { path, verb: "read".into(), cause: cause.to_string() });
                }
                let node = Node::File { size_bytes: file.size_bytes, content: file.content.clone() };
                let entry =
                    Entry { name, metadata: file.metadata.clone(), node, link, partial: false, extensions: Vec::new() };
                self.push(entry, stat)
            }
            Err(failure) => match failure.as_ref() {
                Failure::File(verb, cause) => {
                    self.problem(Problem { path, verb: (*verb).into(), cause: cause.to_string() });
                    Ok(())
                }
                Failure::Whole(Error::Interrupted) => Err(Error::Interrupted),
                Failure::Whole(_) => Err(Error::Refused),
            },
        }
    }

    fn problem(&mut self, problem: Problem) {
        (self.tell)(&problem);
        self.open.last_mut().into_iter().for_each(|folder| folder.partial = true);
        self.counts.problems += 1;
        self.problems.push(problem);
    }

    fn push(&mut self, entry: Entry, stat: Stat) -> Result<()> {
        match &entry.node {
            Node::File { size_bytes, .. } => {
                self.counts.files += 1;
                // A forger can make files of any size.
                self.counts.bytes = self.counts.bytes.saturating_add(*size_bytes);
            }
            _ => self.counts.others += 1,
        }
        self.put(entry, stat)
    }

    fn put(&mut self, mut entry: Entry, mut stat: Stat) -> Result<()> {
        if let Some(cause) = shed_excess(&mut entry) {
            self.problem(Problem {
                path: entry.name.clone(),
                verb: "store the attributes of".into(),
                cause: cause.to_string(),
            });
            stat.ctime = None;
        }
        match self.open.as_mut_slice() {
            [] => return Err(Error::Refused),
            [root] => root.waiting.push((entry, stat)),
            [.., folder] => add(folder, entry, stat, &mut self.trees)?,
        }
        Ok(())
    }

    fn close(&mut self, mut entry: Entry, mut stat: Stat) -> Result<(Entry, Stat)> {
        let mut folder = self.open.pop().ok_or(Error::Refused)?;
        let mut waiting = std::mem::take(&mut folder.waiting);
        waiting.sort_by(|(one, _), (other, _)| one.name.cmp(&other.name));
        waiting.into_iter().try_for_each(|(entry, stat)| add(&mut folder, entry, stat, &mut self.trees))?;
        end_piece(&mut folder, &mut self.trees)?;
        let content = self.fold(folder.pieces)?;
        stat.folder = Some(self.fold(folder.stat_pieces)?);
        entry.node = Node::Folder { content };
        entry.partial |= folder.partial;
        self.closed.into_iter().for_each(|closed| closed(&entry, &stat));
        Ok((entry, stat))
    }

    fn fold(&mut self, runs: Vec<Run>) -> Result<Content> {
        fold(runs, |list| self.trees.put(list))
    }
}

/// Adds an entry in stored order.
fn add(folder: &mut Folder, entry: Entry, stat: Stat, trees: &mut Filler) -> Result<()> {
    let ends = folder.cutter.ends_after(&entry);
    folder.entries.push(entry);
    folder.stats.push(stat);
    if ends { end_piece(folder, trees) } else { Ok(()) }
}

/// Ends the piece under way and the stats beside it.
fn end_piece(folder: &mut Folder, trees: &mut Filler) -> Result<()> {
    if folder.entries.is_empty() {
        return Ok(());
    }
    let mut put =
        |bytes: Vec<u8>| Ok::<_, Error>(Run::Data { id: trees.put(&bytes)?, length_bytes: bytes.len() as u64 });
    folder.pieces.push(put(encode_piece(&folder.entries))?);
    folder.stat_pieces.push(put(encode_stats(&folder.stats))?);
    folder.entries.clear();
    folder.stats.clear();
    Ok(())
}
