//! Finding a repository and getting in: the newest whole config, the lock, the keys.
//!
//! Everything that happens before there is a handle. See `format-spec/01-objects.md` and `05-secrets.md`.

use crate::{
    blobs::seal::Secrets,
    error::{Error, Result},
    id::{ObjectName, RepositoryId},
    repo::{
        config::{self, Clear},
        keys::{self, Password},
        paired,
    },
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, Guard, Listed, LockMode, Locking, Storage, unreadable_as_damage},
    },
};

/// What an opened repository will be used for; decides which lock is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading only. On a medium without locks, or one that cannot be written, it goes on without.
    Read,
    /// Adding. Others may read and add at the same time.
    Write,
    /// Alone with the repository.
    Exclusive,
}

/// Where a password comes from.
pub enum Credentials<'a> {
    /// It was given. For a repository that is not encrypted that is an error.
    Given(Password),
    /// Somebody can be asked, once it turns out to be needed.
    Ask(&'a dyn Fn() -> Result<Password>),
}

/// What is found where a repository could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Nothing that xsnap wrote, or no more than an interrupted `init` leaves.
    Nothing,
    /// A repository, encrypted or not.
    Repository {
        /// Whether a password is needed.
        encrypted: bool,
    },
}

/// A config object that was found whole.
pub struct FoundConfig {
    /// Its name.
    pub name: ObjectName,
    /// Whose it is.
    pub repository: RepositoryId,
    /// What can be read without a key.
    pub clear: Clear,
    /// Its body.
    pub body: Vec<u8>,
}

/// Lists a folder.
///
/// # Errors
/// A storage error.
pub fn listed(storage: &dyn Storage, folder: Folder) -> Result<Vec<Listed>> {
    storage.list(folder).map_err(|e| Error::storage("list", folder.as_str(), e))
}

/// Finds the config of the highest generation that is whole. One that is proven to be newer ends the search: an older
/// generation would let this version do what a newer one has forbidden.
///
/// # Errors
/// `Damaged` where there are remains of a repository and no whole config; `Newer`; storage errors.
pub fn find_config(storage: &dyn Storage) -> Result<Option<FoundConfig>> {
    let pairs = paired::list(storage, Folder::Config, |name| config::generation_of(name).is_some())?;
    let mut failure = None;
    for (name, pair) in pairs.iter().rev() {
        let (mut whole, mut newer) = (Vec::new(), None);
        for (place, length_bytes) in [(Folder::Config, pair.primary_bytes), (Folder::Mirror, pair.mirror_bytes)] {
            let Some(length_bytes) = length_bytes else { continue };
            match read_config(storage, place, name, length_bytes) {
                Ok(found) => whole.push(found),
                Err(e @ Error::Newer { .. }) if envelope::is_proven(storage, place, name, length_bytes) => {
                    newer = Some(e)
                }
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        if let Some(found) = own_config(storage, whole)? {
            return Ok(Some(found));
        }
        if let Some(newer) = newer {
            return Err(newer);
        }
    }
    match failure {
        Some(e) => Err(e),
        None if holds_data(storage)? => Err(Error::damaged(
            storage.location(),
            "it holds packs or snapshots of xsnap but no config; it is not taken for empty",
        )),
        None => Ok(None),
    }
}

fn read_config(storage: &dyn Storage, place: Folder, name: &ObjectName, length_bytes: u64) -> Result<FoundConfig> {
    let object = place.object(name);
    let bytes = paired::get_from(storage, place, Kind::Config, None, name, length_bytes)?;
    let (label, body) = envelope::open(&bytes, &object)?;
    let clear = Clear::decode(body, &object)?;
    Ok(FoundConfig { name: name.clone(), repository: label.repository, clear, body: body.to_vec() })
}

/// Of a config and its mirror, both whole, the one that belongs here. A config says itself whose it is; where another
/// repository's has taken the place of one of the two, the other objects tell which.
fn own_config(storage: &dyn Storage, mut whole: Vec<FoundConfig>) -> Result<Option<FoundConfig>> {
    const ASKED: usize = 16;
    let disagree = whole.windows(2).any(|pair| matches!(pair, [a, b] if a.repository != b.repository));
    if disagree {
        let mut labels = Vec::new();
        for folder in [Folder::Keys, Folder::Snapshots, Folder::Packs] {
            for l in listed(storage, folder)?.iter().take(ASKED) {
                let header = storage.read(folder, &l.name, 0, envelope::HEADER_BYTES);
                labels.extend(header.ok().and_then(|h| Label::decode(&h, &folder.object(&l.name)).ok()));
            }
        }
        let votes = |found: &FoundConfig| labels.iter().filter(|l| l.repository == found.repository).count();
        // Stable, so that the primary comes first where nobody can tell.
        whole.sort_by_key(|found| std::cmp::Reverse(votes(found)));
    }
    Ok(whole.into_iter().next())
}

/// Whether there is anything that `init` does not leave when it is interrupted.
fn holds_data(storage: &dyn Storage) -> Result<bool> {
    let mirrored = listed(storage, Folder::Mirror)?.iter().any(|l| !keys::is_slot_name(&l.name));
    Ok(mirrored || !listed(storage, Folder::Packs)?.is_empty() || !listed(storage, Folder::Snapshots)?.is_empty())
}

/// Looks what is at a place, without any password.
///
/// # Errors
/// `Damaged` where there are remains of a repository, `Newer`, and storage errors.
pub fn probe(storage: &dyn Storage) -> Result<Presence> {
    Ok(match find_config(storage)? {
        None => Presence::Nothing,
        Some(found) => Presence::Repository { encrypted: found.clear.encrypted },
    })
}

/// Takes the repository's one lock. What people should know about a medium without locks goes to `notes`.
///
/// # Errors
/// `Locked` where somebody else holds it; a storage error where being alone cannot be had.
pub fn take_lock(storage: &dyn Storage, access: Access, notes: &mut Vec<String>) -> Result<Option<Box<dyn Guard>>> {
    let mode = if access == Access::Exclusive { LockMode::Exclusive } else { LockMode::Shared };
    match storage.lock(mode).map_err(|e| Error::storage("lock", "the repository", e))? {
        Locking::Held(guard) => Ok(Some(guard)),
        Locking::Busy => {
            let other = if access == Access::Exclusive {
                "another xsnap is using it"
            } else {
                "another xsnap is alone with it"
            };
            Err(Error::Locked { location: storage.location(), why: other.into() })
        }
        Locking::Impossible(e) if access == Access::Exclusive => Err(Error::storage("lock", "the repository", e)),
        Locking::Impossible(e) => {
            if access == Access::Write {
                notes.push(format!("this medium has no locks ({e}): do not prune it from another machine meanwhile"));
            }
            Ok(None)
        }
    }
}

/// Tries a password on every key slot.
///
/// # Errors
/// `WrongPassword`; `Damaged` or `Missing` where no slot is whole; storage errors.
pub fn unlock(storage: &dyn Storage, repository: RepositoryId, password: &Password) -> Result<Secrets> {
    let pairs = paired::list(storage, Folder::Keys, keys::is_slot_name)?;
    let (mut slots, mut failure) = (0, None);
    for (name, pair) in &pairs {
        let opened = paired::get(storage, Folder::Keys, Kind::Key, Some(repository), name, pair).and_then(|bytes| {
            let object = Folder::Keys.object(name);
            let (_, body) = envelope::open(&bytes, &object)?;
            keys::open_slot(body, password, name, &object)
        });
        match opened.map_err(|e| unreadable_as_damage(storage, e)) {
            Ok(Some(secrets)) => return Ok(secrets),
            Ok(None) => slots += 1,
            Err(e) if e.is_damage() => failure = Some(e),
            Err(e) => return Err(e),
        }
    }
    match failure {
        Some(e) if slots == 0 => Err(e),
        None if slots == 0 => Err(Error::Missing { what: "every key slot".into() }),
        _ => Err(Error::WrongPassword { slots }),
    }
}
