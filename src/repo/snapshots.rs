//! All snapshots of a repository: of each the highest generation that is whole; putting, rewriting, forgetting one.
//!
//! Knows nothing of the catalogue's file nor of blobs. See
//! `format-spec/06-snapshots.md`, "Generations", and `09-pruning.md`.

use crate::{
    blobs::writer::Target,
    error::{Error, Result},
    id::{Generation, ObjectName, SnapshotId},
    repo::{paired, snapshot::Snapshot},
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, met_unreadable, unreadable_as_damage},
    },
};
use std::collections::{BTreeMap, HashMap};

/// A snapshot object that cannot be read from either of its files, and no later generation of which is whole.
#[derive(Debug, Clone)]
pub struct DamagedSnapshot {
    /// Its name.
    pub name: ObjectName,
    /// What is wrong with it.
    pub why: String,
    /// It is not damaged at all: a newer version has put it, and proven it.
    pub newer: bool,
    /// It could not be asked for, and may be whole.
    pub unread: bool,
}

/// All snapshots of a repository, as they were when they were loaded.
#[derive(Debug, Default)]
pub struct Snapshots {
    list: Vec<Snapshot>,
    /// Every generation of every snapshot that has a file, whole or not, the lowest first.
    objects: BTreeMap<SnapshotId, Vec<Generation>>,
    /// The highest generation that is whole.
    whole: HashMap<SnapshotId, Generation>,
    damaged: Vec<DamagedSnapshot>,
}

/// What loading found that the catalogue's rows did not say.
#[derive(Debug, Default)]
pub struct Changed {
    /// Objects without a row, or whose row does not prove itself: the snapshot, and the object's bytes.
    pub fresh: Vec<(ObjectName, Snapshot, Vec<u8>)>,
    /// Rows without an object.
    pub gone: Vec<ObjectName>,
}

fn is_snapshot(name: &ObjectName) -> bool {
    SnapshotId::from_object(name).is_some()
}

/// The pairs of files that snapshots lie in.
///
/// # Errors
/// A storage error.
pub fn pairs(target: &Target) -> Result<BTreeMap<ObjectName, paired::Pair>> {
    paired::list(target.storage.as_ref(), Folder::Snapshots, is_snapshot)
}

fn open(target: &Target, name: &ObjectName, bytes: &[u8]) -> Result<Snapshot> {
    let object = Folder::Snapshots.object(name);
    let (label, body) = envelope::open(bytes, &object)?;
    envelope::expect(&label, Kind::Snapshot, Some(target.repository), name, &object)?;
    Snapshot::open(&target.secrets, name, body, &object)
}

fn read(target: &Target, name: &ObjectName, pair: &paired::Pair) -> Result<(Snapshot, Vec<u8>)> {
    let (storage, repository) = (target.storage.as_ref(), Some(target.repository));
    let bytes = paired::get(storage, Folder::Snapshots, Kind::Snapshot, repository, name, pair)?;
    Ok((open(target, name, &bytes)?, bytes))
}

/// Whether either file proves that it is of a newer version.
fn is_newer(target: &Target, name: &ObjectName, pair: &paired::Pair) -> bool {
    let files = [(Folder::Snapshots, pair.primary_bytes), (Folder::Mirror, pair.mirror_bytes)];
    let is_newer = |(place, length_bytes): (Folder, Option<u64>)| {
        let verified = length_bytes.map(|l| envelope::verify(target.storage.as_ref(), place, name, l));
        matches!(verified, Some(Err(Error::Newer { .. })))
    };
    files.into_iter().any(is_newer)
}

impl Snapshots {
    /// Loads every snapshot: from its row where that proves itself, else from the medium. One that vanishes meanwhile
    /// is left out.
    ///
    /// # Errors
    /// `Newer`, and storage errors. Damage is none.
    pub fn load(target: &Target, rows: &HashMap<ObjectName, Vec<u8>>) -> Result<(Self, Changed)> {
        let pairs = pairs(target)?;
        let (mut all, mut changed) = (Self::default(), Changed::default());
        let mut found = BTreeMap::<SnapshotId, Snapshot>::new();
        let mut absent = Vec::new();
        for (name, pair) in &pairs {
            let Some((id, generation)) = SnapshotId::from_object(name) else { continue };
            let from_row = rows.get(name).and_then(|bytes| open(target, name, bytes).ok());
            let loaded = match from_row {
                Some(snapshot) => Ok(snapshot),
                None => read(target, name, pair).map(|(snapshot, bytes)| {
                    changed.fresh.push((name.clone(), snapshot.clone(), bytes));
                    snapshot
                }),
            };
            let unread = loaded.as_ref().is_err_and(|e| met_unreadable(target.storage.as_ref(), e));
            match loaded.map_err(|e| unreadable_as_damage(target.storage.as_ref(), e)) {
                // Generations come in order, so the last one that is whole stays.
                Ok(snapshot) => {
                    found.insert(id, snapshot);
                    all.whole.insert(id, generation);
                }
                Err(e) if e.is_absence() => {
                    absent.push((name, e));
                    continue;
                }
                Err(e) if e.is_damage() => {
                    let newer = is_newer(target, name, pair);
                    all.damaged.push(DamagedSnapshot { name: name.clone(), why: e.to_string(), newer, unread });
                }
                Err(e) => return Err(e),
            }
            all.objects.entry(id).or_default().push(generation);
        }
        // What is still listed has not been forgotten: a file system that is damaged may list what it cannot open.
        let listed = if absent.is_empty() { BTreeMap::new() } else { self::pairs(target)? };
        for (name, e) in absent.into_iter().filter(|(name, _)| listed.contains_key(name)) {
            all.damaged.push(DamagedSnapshot { name: name.clone(), why: e.to_string(), newer: false, unread: true });
            let Some((id, generation)) = SnapshotId::from_object(name) else { continue };
            let generations = all.objects.entry(id).or_default();
            generations.push(generation);
            generations.sort_unstable();
        }
        let superseded = |d: &DamagedSnapshot| {
            SnapshotId::from_object(&d.name).is_some_and(|(id, g)| all.whole.get(&id).is_some_and(|whole| g < *whole))
        };
        all.damaged = std::mem::take(&mut all.damaged).into_iter().filter(|d| !superseded(d)).collect();
        all.list = found.into_values().collect();
        all.list.sort_by_key(|s| (s.commit, s.time, s.id));
        changed.gone = rows.keys().filter(|name| !pairs.contains_key(name)).cloned().collect();
        Ok((all, changed))
    }

    /// Every snapshot, the oldest commit first.
    pub fn list(&self) -> &[Snapshot] {
        &self.list
    }

    /// Objects that cannot be read and that no later generation stands for.
    pub fn damaged(&self) -> &[DamagedSnapshot] {
        &self.damaged
    }

    /// Makes sure that no record of a snapshot that a newer version has put would be replaced or deleted: it may say
    /// what this version does not know.
    ///
    /// # Errors
    /// `Newer`.
    pub fn refuse_newer(&self, id: &SnapshotId) -> Result<()> {
        let is_of = |d: &&DamagedSnapshot| SnapshotId::from_object(&d.name).is_some_and(|(of, _)| of == *id);
        match self.damaged.iter().filter(is_of).find(|d| d.newer) {
            Some(d) => Err(Error::Newer { object: Folder::Snapshots.object(&d.name), why: d.why.clone() }),
            None => Ok(()),
        }
    }

    /// Snapshots whose record counts although it is not whole on the medium, or below a later one that is damaged; not
    /// those of which a later one may be whole.
    ///
    /// # Errors
    /// Storage errors.
    pub fn unsettled(&self, target: &Target) -> Result<Vec<SnapshotId>> {
        let (storage, pairs) = (target.storage.as_ref(), pairs(target)?);
        let mut unsettled = Vec::new();
        for snapshot in &self.list {
            let (Some(whole), Ok(generations)) = (self.whole.get(&snapshot.id), self.generations(&snapshot.id)) else {
                continue;
            };
            let name = snapshot.id.object(*whole);
            let pair = pairs.get(&name).cloned().unwrap_or_default();
            let on_medium = match read(target, &name, &pair).map_err(|e| unreadable_as_damage(storage, e)) {
                Err(e) if e.is_damage() => false,
                Err(e) if e.is_absence() => continue,
                read => read.map(|_| true)?,
            };
            let may_be_whole = |d: &DamagedSnapshot| d.newer || d.unread;
            let is_of = |d: &DamagedSnapshot| SnapshotId::from_object(&d.name).is_some_and(|(of, _)| of == snapshot.id);
            let later = self.damaged.iter().any(|d| is_of(d) && may_be_whole(d));
            if (!on_medium || generations.last() > Some(whole)) && !later {
                unsettled.push(snapshot.id);
            }
        }
        Ok(unsettled)
    }

    /// The snapshot of an id.
    pub fn get(&self, id: &SnapshotId) -> Option<&Snapshot> {
        self.list.iter().find(|s| s.id == *id)
    }

    /// Whether a record of a snapshot is damaged that is newer than the one that counts: what was changed last is lost.
    pub fn is_doubtful(&self, id: &SnapshotId) -> bool {
        let is_of_it = |d: &DamagedSnapshot| SnapshotId::from_object(&d.name).is_some_and(|(of, _)| of == *id);
        self.whole.contains_key(id) && self.damaged.iter().any(is_of_it)
    }

    /// The generation of a snapshot that counts.
    pub fn generation(&self, id: &SnapshotId) -> Option<Generation> {
        self.whole.get(id).copied()
    }

    /// The number that the next commit gets.
    pub fn next_commit(&self) -> u64 {
        self.list.iter().map(|s| s.commit).max().unwrap_or(0).saturating_add(1)
    }

    /// The generation that the next rewriting of a snapshot gets: above every one that has a file.
    ///
    /// # Errors
    /// `Usage` after a billion rewritings.
    pub fn next_generation(&self, id: &SnapshotId) -> Result<Generation> {
        match self.objects.get(id).and_then(|generations| generations.last()) {
            None => Ok(Generation::FIRST),
            Some(last) => last.next().ok_or_else(|| Error::Usage(format!("snapshot {id} was rewritten too often"))),
        }
    }

    /// Deletes the generations of a snapshot below the one that counts, each durably; that one is read first, from the
    /// medium.
    ///
    /// # Errors
    /// `Damaged` where the one that counts is not whole on the medium after all; storage errors.
    pub fn delete_superseded(&self, target: &Target, id: &SnapshotId) -> Result<()> {
        let (Some(whole), Some(generations)) = (self.whole.get(id), self.objects.get(id)) else { return Ok(()) };
        let old: Vec<&Generation> = generations.iter().filter(|g| *g < whole).collect();
        if old.is_empty() {
            return Ok(());
        }
        let name = id.object(*whole);
        let pair = pairs(target)?.remove(&name).unwrap_or_default();
        read(target, &name, &pair)?;
        old.into_iter().try_for_each(|g| paired::delete(target.storage.as_ref(), Folder::Snapshots, &id.object(*g)))
    }

    /// Deletes what is left of rewritings that were interrupted.
    ///
    /// # Errors
    /// Storage errors. Where damage stands in the way, nothing is deleted.
    pub fn tidy(&self, target: &Target) -> Result<()> {
        self.objects.iter().filter(|(_, generations)| generations.len() > 1).try_for_each(|(id, _)| {
            match self.delete_superseded(target, id).map_err(|e| unreadable_as_damage(target.storage.as_ref(), e)) {
                Err(e) if e.is_damage() => Ok(()),
                done => done,
            }
        })
    }

    /// Deletes every generation of a snapshot, the lowest first, so that no older one comes to count meanwhile. On
    /// return it is gone durably.
    ///
    /// # Errors
    /// `NoSnapshot`, and storage errors.
    pub fn forget(&self, target: &Target, id: &SnapshotId) -> Result<()> {
        let delete = |g: &Generation| paired::delete(target.storage.as_ref(), Folder::Snapshots, &id.object(*g));
        self.generations(id)?.iter().try_for_each(delete)
    }

    /// Every generation of a snapshot that has a file, whole or not, the lowest first.
    ///
    /// # Errors
    /// `NoSnapshot`.
    pub fn generations(&self, id: &SnapshotId) -> Result<&[Generation]> {
        let generations = self.objects.get(id).map(Vec::as_slice);
        generations.ok_or_else(|| Error::NoSnapshot { wanted: id.to_string() })
    }
}

/// Puts a generation of a snapshot whose blobs are all durable. On return it is there, durably, twice.
///
/// # Errors
/// A storage error, `AlreadyExists` where somebody else has put this generation. After one on the mirror the snapshot is
/// there.
pub fn put(target: &Target, snapshot: &Snapshot, generation: Generation) -> Result<()> {
    let name = snapshot.id.object(generation);
    let body = snapshot.seal(&target.secrets, &name)?;
    // Packs that were found rather than written may be known by names that were never made durable.
    target.storage.sync(Folder::Packs).map_err(|e| Error::storage("sync", Folder::Packs.as_str(), e))?;
    let label = Label { kind: Kind::Snapshot, repository: target.repository, name };
    paired::put(target.storage.as_ref(), Folder::Snapshots, &label, &body).map(drop)
}
