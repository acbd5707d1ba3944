//! How much room an import needs on each file system of the machine.
//!
//! The snapshot's files count where they are going to lie here, whatever file systems the captured node had. What is there
//! already is not needed twice: an import that goes on needs room for what is left of it.

use crate::{
    archive::request::is_within,
    error::Result,
    import::{
        asked::Asked,
        brought::Brought,
        placement::Placement,
        steps::Step,
        target::{OWN, PACKAGES, Target},
    },
    mn::{
        measured::{Without, measure},
        mounts::Mounts,
    },
    repo::{
        content::Run,
        listing::{listing, runs},
        tree::{Entry, Node},
    },
    storage::filesystem::room,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    slice,
};

/// Where a snapshot has packages.
const CAPTURED_PACKAGES: &[u8] = b"/.xsnap/packages";
/// Where they are put down while the package manager is asked.
const ASKED_PACKAGES: &[u8] = b"/var/tmp";
/// What is only xsnap's own in a snapshot.
const OF_XSNAP: &[u8] = b"/.xsnap";
/// A file takes whole blocks.
const BLOCK_BYTES: u64 = 4096;
/// What a file system needs beside the files themselves.
const SPARE_BYTES: u64 = 64 << 20;

/// A file system that has not the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Short {
    /// Where it is mounted.
    pub at: PathBuf,
    /// How many bytes the import needs there.
    pub needed_bytes: u64,
    /// How many are free.
    pub free_bytes: u64,
}

/// What an import puts down beside the files of the snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    /// The package manager is asked before anything is changed: it is shown packages that do not stay.
    pub asks_manager: bool,
    /// Paths at which what is there is kept first.
    pub kept: &'a BTreeSet<Vec<u8>>,
}

struct Measure<'a> {
    target: &'a Target<'a>,
    brought: &'a Brought<'a>,
    placement: &'a Placement,
    asked: &'a Asked,
    beside: Beside<'a>,
    mounts: Mounts,
    /// Bytes by device, with where that is mounted.
    needed: BTreeMap<u64, (PathBuf, u64)>,
    /// Inodes of several names that were counted.
    counted: HashSet<u64>,
}

/// Where the files of a folder are going to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    device: u64,
    is_there: bool,
}

/// The file systems of the machine that have not the room that an import needs there. Changes nothing.
///
/// # Errors
/// Those of the repository, but for damage, which the steps tell that meet it.
pub fn short(
    target: &Target<'_>,
    brought: &Brought<'_>,
    placement: &Placement,
    asked: &Asked,
    beside: Beside<'_>,
) -> Result<Vec<Short>> {
    let (mounts, needed, counted) = (Mounts::of(target.machine), BTreeMap::new(), HashSet::new());
    let mut measure = Measure { target, brought, placement, asked, beside, mounts, needed, counted };
    measure.walk()?;
    measure.keep();
    let mut found = Vec::new();
    for (at, needed_bytes) in measure.needed.into_values().filter(|(_, bytes)| *bytes > 0) {
        // A file system that does not say how much it has is tried.
        let Ok(Some(room)) = room(&at) else { continue };
        if room.free_bytes < needed_bytes.saturating_add(SPARE_BYTES) {
            found.push(Short { at, needed_bytes, free_bytes: room.free_bytes });
        }
    }
    Ok(found)
}

impl Measure<'_> {
    fn walk(&mut self) -> Result<()> {
        let reader = self.brought.repository.tree_reader()?;
        let root = Place { device: 0, is_there: true };
        let mut folders = vec![(Vec::new(), self.brought.snapshot.root.clone(), root)];
        while let Some((path, entry, above)) = folders.pop() {
            let Node::Folder { content } = &entry.node else { continue };
            if is_within(&path, &self.placement.not_mounted) {
                continue;
            }
            let place = self.place(&path, above);
            for entry in listing(&reader, content, None) {
                let entry = match entry {
                    Ok((entry, _)) => entry,
                    Err(e) if e.is_damage() => continue,
                    Err(e) => return Err(e),
                };
                let path = [&path, b"/".as_slice(), &entry.name].concat();
                match &entry.node {
                    Node::Folder { .. } => folders.push((path, entry, place)),
                    Node::File { content, .. } if self.is_first(&entry) => {
                        let bytes = runs(&reader, content).filter_map(Result::ok).map(|run| stored(&run)).sum();
                        self.add(&path, bytes, place);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Where a folder is, or the nearest one above it that is there.
    fn place(&mut self, path: &[u8], above: Place) -> Place {
        let followed = self.target.inside().follow(if path.is_empty() { b"/" } else { path });
        match followed.stat {
            Ok(stat) => {
                let holding = self.mounts.holding(&followed.path).map_or(b"/".as_slice(), |mount| &mount.at);
                let at = self.target.live(holding);
                self.needed.entry(stat.st_dev).or_insert((at, 0));
                Place { device: stat.st_dev, is_there: true }
            }
            Err(_) => Place { is_there: false, ..above },
        }
    }

    fn is_first(&mut self, entry: &Entry) -> bool {
        entry.link.is_none_or(|link| self.counted.insert(link))
    }

    /// Counts a file where it is going to lie.
    fn add(&mut self, path: &[u8], bytes: u64, place: Place) {
        let is_left_out = |step| self.asked.leaves_out(step).is_some();
        if let Some(rest) = path.strip_prefix(CAPTURED_PACKAGES) {
            if !is_left_out(Step::Unpack) {
                let snapshot = self.brought.snapshot.id.short();
                let stays = [OWN, b"/", PACKAGES.as_bytes(), b"/", snapshot.as_bytes(), rest].concat();
                self.add_at(&stays, bytes);
            }
            if self.beside.asks_manager {
                self.add_at(&[ASKED_PACKAGES, rest].concat(), bytes);
            }
        } else if !is_within(path, &[OF_XSNAP.to_vec()]) && !is_left_out(Step::Files) {
            let is_beside = self.placement.beside.iter().any(|(root, _)| is_within(path, slice::from_ref(root)));
            if self.placement.takes(path) || is_beside {
                let there = if place.is_there && !is_beside { self.size(path) } else { 0 };
                self.count(place.device, bytes, there);
            }
        }
    }

    /// Counts what is kept: all that is there, for nothing says how much of it is the same twice.
    fn keep(&mut self) {
        if self.asked.leaves_out(Step::Keep).is_some() {
            return;
        }
        let inside = self.target.inside();
        let roots: BTreeSet<Vec<u8>> = self.beside.kept.iter().map(|path| inside.follow(path).path).collect();
        // What is below another one is counted with it.
        let is_below = |path: &Vec<u8>| roots.iter().any(|root| root != path && is_within(path, slice::from_ref(root)));
        let mut paths: BTreeSet<&[u8]> = roots.iter().filter(|path| !is_below(path)).map(Vec::as_slice).collect();
        for root in &roots {
            paths.extend(self.mounts.below(root).map(|mount| mount.at.as_slice()));
        }
        let paths: Vec<&[u8]> = paths.into_iter().collect();
        let without = Without::new(inside, []);
        let bytes = measure(inside, &paths, &without).iter().map(|size| size.bytes).sum();
        self.add_at(&[OWN, b"/undo"].concat(), bytes);
    }

    /// Counts a file that lies elsewhere than in the snapshot.
    fn add_at(&mut self, path: &[u8], bytes: u64) {
        let mut above = path;
        while let Some(end) = above.iter().rposition(|b| *b == b'/') {
            above = above.get(..end).unwrap_or_default();
            let place = self.place(above, Place { device: 0, is_there: false });
            if place.is_there {
                let there = self.size(path);
                return self.count(place.device, bytes, there);
            }
        }
    }

    fn count(&mut self, device: u64, bytes: u64, there: u64) {
        if let Some((_, needed)) = self.needed.get_mut(&device) {
            let blocks = |bytes: u64| bytes.next_multiple_of(BLOCK_BYTES);
            *needed = needed.saturating_add(blocks(bytes).saturating_sub(blocks(there)));
        }
    }

    /// How long the file is that is there.
    fn size(&self, path: &[u8]) -> u64 {
        self.target.inside().stat(path).ok().and_then(|stat| u64::try_from(stat.st_size).ok()).unwrap_or_default()
    }
}

/// How many bytes of a run take room.
fn stored(run: &Run) -> u64 {
    match run {
        Run::Data { length_bytes, .. } => *length_bytes,
        Run::Hole { .. } => 0,
    }
}
