//! Inodes with several names, as they were when one of them was met: the others are stored as links to it.

use crate::{
    archive::{batch::Batch, metadata},
    repo::tree::{Node, Time},
};
use rustix::fs::Stat;
use std::{collections::HashMap, sync::Arc};

/// Where the content of an inode with several names is, once its first name was met.
#[derive(Clone)]
pub enum Linked {
    /// All of it is known.
    Whole(Node),
    /// It is being read: as this file of this batch.
    Reading(Arc<Batch>, usize),
}

/// What is known of an inode. The number is the id that all its names share.
pub enum Known {
    /// It has one name.
    Alone,
    /// This is the first of its names.
    First(u64),
    /// It is as it was when another of its names was met.
    Again(u64, Linked),
    /// It has changed since, or its number serves another file by now: it begins anew.
    Changed(u64),
}

struct Inode {
    link: u64,
    size: i64,
    mtime: Time,
    ctime: Time,
    linked: Linked,
}

impl Inode {
    fn is_as(&self, stat: &Stat) -> bool {
        (self.size, self.mtime, self.ctime) == (stat.st_size, metadata::mtime(stat), metadata::ctime(stat))
    }
}

/// The inodes with several names that were met, by device and number.
#[derive(Default)]
pub struct Links(HashMap<(u64, u64), Inode>);

impl Links {
    /// What is known of the inode that was met at a path.
    pub fn find(&self, stat: &Stat, path: &[u8]) -> Known {
        if stat.st_nlink < 2 {
            return Known::Alone;
        }
        let own = blake3::hash(path).as_bytes().first_chunk().map_or(0, |b| u64::from_le_bytes(*b));
        match self.0.get(&(stat.st_dev, stat.st_ino)) {
            Some(inode) if inode.is_as(stat) => Known::Again(inode.link, inode.linked.clone()),
            None => Known::First(own),
            Some(_) => Known::Changed(own),
        }
    }

    /// Remembers where the content is, if the inode has several names.
    pub fn remember(&mut self, stat: &Stat, link: Option<u64>, linked: Linked) {
        if let Some(link) = link {
            let (size, mtime, ctime) = (stat.st_size, metadata::mtime(stat), metadata::ctime(stat));
            self.0.insert((stat.st_dev, stat.st_ino), Inode { link, size, mtime, ctime, linked });
        }
    }
}
