//! Names of an open folder, each with its inode, in their order. Of a large folder the next ones are looked at by other threads
//! while the first are taken: what takes the time is the kernel's work for each.

use crate::archive::found::Found;
use crossbeam_channel::{Receiver, bounded};
use std::{collections::VecDeque, io, os::fd::OwnedFd, sync::Arc, vec};

/// A folder of so many names is large; so many are looked at together.
pub const MANY_NAMES: usize = 256;
/// So many times that many are looked at before they are asked for.
const AHEAD: usize = 4;

/// A name that was looked at; one that could not be looked at, and why.
pub type Looked = Result<Found, (Vec<u8>, io::Error)>;

/// Names with their inodes.
pub struct Ahead {
    folder: Arc<OwnedFd>,
    here: vec::IntoIter<Looked>,
    under_way: VecDeque<Receiver<Vec<Looked>>>,
    names: vec::IntoIter<Vec<u8>>,
}

impl Ahead {
    /// Names of a folder that were looked at already.
    pub fn known(folder: Arc<OwnedFd>, looked: Vec<Looked>) -> Self {
        Self { folder, here: looked.into_iter(), under_way: VecDeque::new(), names: Vec::new().into_iter() }
    }

    /// Names of a large folder.
    pub fn new(folder: Arc<OwnedFd>, names: Vec<Vec<u8>>) -> Self {
        Self { names: names.into_iter(), ..Self::known(folder, Vec::new()) }
    }

    /// Has as many names looked at as may be.
    fn fill(&mut self) {
        while self.under_way.len() < AHEAD {
            let names: Vec<Vec<u8>> = self.names.by_ref().take(MANY_NAMES).collect();
            if names.is_empty() {
                return;
            }
            let (folder, (done, result)) = (Arc::clone(&self.folder), bounded(1));
            self.under_way.push_back(result);
            rayon::spawn(move || {
                let looked = names.into_iter().map(|name| Found::here(&folder, name)).collect();
                // Nobody waits for it where the walk was ended.
                let _ = done.send(looked);
            });
        }
    }
}

impl Iterator for Ahead {
    type Item = Looked;

    fn next(&mut self) -> Option<Looked> {
        loop {
            if let Some(looked) = self.here.next() {
                return Some(looked);
            }
            self.fill();
            match self.under_way.pop_front()?.recv() {
                Ok(looked) => self.here = looked.into_iter(),
                Err(e) => return Some(Err((Vec::new(), io::Error::other(e)))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_large_folder_comes_in_its_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut names: Vec<Vec<u8>> = (0..3 * MANY_NAMES * AHEAD + 7).map(|n| format!("{n:06}").into_bytes()).collect();
        for name in &names {
            std::fs::write(dir.path().join(std::str::from_utf8(name).unwrap()), b"").unwrap();
        }
        names.insert(300, b"000299-gone".to_vec());
        let folder = Arc::new(OwnedFd::from(std::fs::File::open(dir.path()).unwrap()));
        let looked: Vec<Looked> = Ahead::new(folder, names.clone()).collect();
        let told: Vec<&Vec<u8>> =
            looked.iter().map(|l| l.as_ref().map_or_else(|(name, _)| name, |f| &f.name)).collect();
        assert_eq!(told, names.iter().collect::<Vec<_>>());
        assert_eq!(looked.iter().filter(|looked| looked.is_err()).count(), 1);
        assert_eq!(looked[300].as_ref().unwrap_err().1.kind(), io::ErrorKind::NotFound);
    }
}
