//! Proof that the medium has kept what was just written: read back past the system's cache, and proven like everything
//! that a check reads.
//!
//! For whoever is about to let something rest on it: the commit of a backup, or the end of a copy.

use crate::{
    blobs::pack::Published,
    error::{Error, Result},
    id::ObjectName,
    progress::Progress,
    repo::{
        check::{PackOutcome, check_pack, first_frames},
        paired,
        repository::Repository,
    },
    storage::{
        envelope::Kind,
        object::{Folder, Listed, unreadable_as_damage},
    },
};
use rayon::iter::{IntoParallelRefIterator, ParallelIterator};
use std::{collections::HashMap, sync::Arc};

/// Reads packs back that were just published and catalogued, and proves every byte and every frame of them. Frames
/// that are not whole are marked, so that the next backup stores their blobs again. On return every one of the packs is
/// on the medium as it was written.
///
/// # Errors
/// `NotKept` with the first of what came back otherwise, `Interrupted`, and storage errors; among them that nothing can
/// be read any more.
pub fn prove_packs(repository: &Repository, published: &[Published], progress: &dyn Progress) -> Result<()> {
    if published.is_empty() {
        return Ok(());
    }
    let index = Arc::new(repository.index_unmarked()?);
    let reader = repository.reader(Arc::clone(&index));
    let frames = first_frames(&index);
    published.iter().try_for_each(|pack| uncache(repository, Folder::Packs, &pack.name))?;
    let lengths = lengths_in(repository, Folder::Packs)?;
    let look = |pack: &Published| {
        if progress.stop_wanted() {
            return Err(Error::Interrupted);
        }
        let listed = Listed { name: pack.name.clone(), length_bytes: pack.length_bytes };
        match lengths.get(&pack.name) {
            None => Ok(Looked::Otherwise("it is not there".into())),
            Some(length) if *length != pack.length_bytes => {
                let words = format!("it is {length} bytes long, and was {} bytes long", pack.length_bytes);
                Ok(Looked::Otherwise(words))
            }
            Some(_) => check_pack(repository, &reader, &frames, &listed, true, progress).map(Looked::Proven),
        }
    };
    let looked: Vec<Looked> = published.par_iter().map(look).collect::<Result<_>>()?;
    let (mut failure, mut unread) = (None, None);
    let mut answers = false;
    for (pack, looked) in published.iter().zip(looked) {
        let object = Folder::Packs.object(&pack.name);
        let why = match looked {
            Looked::Otherwise(why) => Some(why),
            Looked::Proven(outcome) => {
                repository.mark_bad(&outcome.bad)?;
                answers |= outcome.unread.is_none();
                unread = unread.or(outcome.unread);
                outcome.findings.into_iter().next().map(|finding| finding.why)
            }
        };
        failure = failure.or(why.map(|why| Error::NotKept { object, why }));
    }
    match (failure, unread) {
        // Where nothing at all can be read, it is the medium that is gone.
        (Some(_), Some(e)) if !answers => Err(e),
        (Some(e), _) => Err(e),
        (None, _) => Ok(()),
    }
}

/// What came of looking at one pack.
enum Looked {
    /// It was read and proven, or not.
    Proven(PackOutcome),
    /// It need not be read to see that it is not what was written.
    Otherwise(String),
}

/// Reads both files of an object back that was just put. On return both are on the medium, whole.
///
/// # Errors
/// `NotKept`, and storage errors. The object may be there all the same, in one of its two places.
pub fn prove_pair(repository: &Repository, folder: Folder, kind: Kind, name: &ObjectName) -> Result<()> {
    let storage = repository.storage().as_ref();
    for place in [folder, Folder::Mirror] {
        let object = place.object(name);
        uncache(repository, place, name)?;
        let Some(length_bytes) = lengths_in(repository, place)?.get(name).copied() else {
            return Err(Error::NotKept { object, why: "it is not there".into() });
        };
        let read = paired::get_from(storage, place, kind, Some(repository.id()), name, length_bytes);
        match read.map_err(|e| unreadable_as_damage(storage, e)) {
            Ok(_) => {}
            Err(e) if e.is_damage() => return Err(Error::NotKept { object, why: e.to_string() }),
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Drops an object from the cache. One that is not there any more is found missing by whoever reads it.
fn uncache(repository: &Repository, folder: Folder, name: &ObjectName) -> Result<()> {
    match repository.storage().uncache(folder, name) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(|e| Error::storage("sync", folder.object(name), e)),
    }
}

fn lengths_in(repository: &Repository, folder: Folder) -> Result<HashMap<ObjectName, u64>> {
    let listed = repository.storage().list(folder).map_err(|e| Error::storage("list", folder.as_str(), e))?;
    Ok(listed.into_iter().map(|l| (l.name, l.length_bytes)).collect())
}
