//! The small objects on which everything hangs, each kept as two files in two folders.
//!
//! The put into its own folder is the commit, the one into the mirror follows; deleting goes the other way round. So a
//! primary without a mirror is an interruption and a mirror without a primary is damage; the next writing command
//! completes either, and puts a file again that damage has made shorter or longer. See `format-spec/01-objects.md`, "Mirror".

use crate::{
    error::{Error, Result},
    id::{ObjectName, RepositoryId},
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, Listed, Storage, unreadable_as_damage},
    },
};
use std::{collections::BTreeMap, io};

/// One object and where its two files are found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pair {
    /// Length of the file in its own folder, if it is there.
    pub primary_bytes: Option<u64>,
    /// Length of the file in the mirror, if it is there.
    pub mirror_bytes: Option<u64>,
}

/// Finds the pairs of a folder. `is_own` says which names of the mirror belong to it.
///
/// # Errors
/// A storage error.
pub fn list(
    storage: &dyn Storage,
    folder: Folder,
    is_own: impl Fn(&ObjectName) -> bool,
) -> Result<BTreeMap<ObjectName, Pair>> {
    let mut pairs = BTreeMap::<ObjectName, Pair>::new();
    for (place, mirror) in [(folder, false), (Folder::Mirror, true)] {
        let listed = storage.list(place).map_err(|e| Error::storage("list", place.as_str(), e))?;
        for Listed { name, length_bytes } in listed.into_iter().filter(|l| is_own(&l.name)) {
            let pair = pairs.entry(name).or_default();
            let field = if mirror { &mut pair.mirror_bytes } else { &mut pair.primary_bytes };
            *field = Some(length_bytes);
        }
    }
    Ok(pairs)
}

/// Reads an object from whichever of its files is whole. Returns the bytes of the whole file.
///
/// # Errors
/// `Damaged` or `Newer` where neither is whole, and storage errors.
pub fn get(
    storage: &dyn Storage,
    folder: Folder,
    kind: Kind,
    repository: Option<RepositoryId>,
    name: &ObjectName,
    pair: &Pair,
) -> Result<Vec<u8>> {
    let mut failure = None;
    for (place, length_bytes) in [(folder, pair.primary_bytes), (Folder::Mirror, pair.mirror_bytes)] {
        let Some(length_bytes) = length_bytes else { continue };
        match get_from(storage, place, kind, repository, name, length_bytes) {
            Ok(bytes) => return Ok(bytes),
            Err(e) => failure = failure.or(Some(e)),
        }
    }
    Err(failure.unwrap_or_else(|| Error::Missing { what: folder.object(name) }))
}

/// Reads and checks one file of a pair.
///
/// # Errors
/// `Damaged`, `Newer`, or a storage error.
pub fn get_from(
    storage: &dyn Storage,
    place: Folder,
    kind: Kind,
    repository: Option<RepositoryId>,
    name: &ObjectName,
    length_bytes: u64,
) -> Result<Vec<u8>> {
    let bytes = envelope::get(storage, place, name, length_bytes)?;
    let (label, _) = envelope::open(&bytes, &place.object(name))?;
    envelope::expect(&label, kind, repository, name, &place.object(name))?;
    Ok(bytes)
}

/// Puts both files; the object is there, durably, once the first is, and both are on return.
///
/// # Errors
/// A storage error. After one on the second file the object is there.
pub fn put(storage: &dyn Storage, folder: Folder, label: &Label, body: &[u8]) -> Result<u64> {
    let length_bytes = envelope::put(storage, folder, label, body)?;
    match envelope::put(storage, Folder::Mirror, label, body) {
        Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => Ok(length_bytes),
        put => put.map(|_| length_bytes),
    }
}

/// Removes both files, the mirror first; and the mirror once more, should another writer have completed the pair in
/// between. On return the object is gone durably.
///
/// # Errors
/// A storage error.
pub fn delete(storage: &dyn Storage, folder: Folder, name: &ObjectName) -> Result<()> {
    for place in [Folder::Mirror, folder, Folder::Mirror] {
        match storage.delete(place, name) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            deleted => deleted.map_err(|e| Error::storage("delete", place.object(name), e))?,
        }
    }
    Ok(())
}

fn is_listed(storage: &dyn Storage, folder: Folder, name: &ObjectName) -> Result<bool> {
    let listed = storage.list(folder).map_err(|e| Error::storage("list", folder.as_str(), e))?;
    Ok(listed.iter().any(|l| l.name == *name))
}

/// How closely the files of pairs are looked at before they are completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// Files of one length are taken to be whole, so that opening need not read them.
    Lengths,
    /// Every file is read.
    Bytes,
}

/// Completes every pair of a folder of which one file is whole and the other is missing or damaged. A damaged file is
/// removed and put again from the whole one, which stays where it is all the while. Durable on return. Where only
/// lengths are looked at, what there is no room for is left for the next time. Returns the names of what was completed.
///
/// # Errors
/// A storage error.
pub fn complete(
    storage: &dyn Storage,
    folder: Folder,
    kind: Kind,
    repository: RepositoryId,
    pairs: &BTreeMap<ObjectName, Pair>,
    care: Care,
) -> Result<Vec<ObjectName>> {
    let mut completed = Vec::new();
    let looked_at = |p: &Pair| care == Care::Bytes || p.primary_bytes != p.mirror_bytes;
    for (name, pair) in pairs.iter().filter(|(_, p)| looked_at(p)) {
        let read = |place: Folder, length_bytes: Option<u64>| {
            let read = length_bytes.map(|l| get_from(storage, place, kind, Some(repository), name, l));
            read.map(|read| read.map_err(|e| unreadable_as_damage(storage, e)))
        };
        let length_bytes = |place| if place == folder { pair.primary_bytes } else { pair.mirror_bytes }.unwrap_or(0);
        let (primary, mirror) = (read(folder, pair.primary_bytes), read(Folder::Mirror, pair.mirror_bytes));
        let (bytes, bad, place) = match (primary, mirror) {
            (Some(Ok(bytes)), bad @ (None | Some(Err(_)))) => (bytes, bad, Folder::Mirror),
            (bad @ (None | Some(Err(_))), Some(Ok(bytes))) => (bytes, bad, folder),
            _ => continue,
        };
        match bad {
            None => {}
            // What proves itself, though it is newer or does not belong here, may be dear to somebody; and what could
            // not be asked for may be whole.
            Some(Err(Error::Damaged { .. } | Error::Newer { .. }))
                if !envelope::is_proven(storage, place, name, length_bytes(place)) =>
            {
                match storage.delete(place, name) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    deleted => deleted.map_err(|e| Error::storage("delete", place.object(name), e))?,
                }
            }
            Some(_) => continue,
        }
        let (label, body) = envelope::open(&bytes, &folder.object(name))?;
        match envelope::put(storage, place, &label, body) {
            // Another writer has completed it in the meantime.
            Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            // A full medium must be opened to make room on it: the next writing command has the room, or says so.
            Err(Error::MediumFull { .. }) if care == Care::Lengths => continue,
            put => drop(put?),
        }
        // Whoever deletes the object meanwhile takes the mirror first: then this one has come too late.
        if place == Folder::Mirror && !is_listed(storage, folder, name)? {
            delete(storage, folder, name)?;
            continue;
        }
        completed.push(name.clone());
    }
    Ok(completed)
}
