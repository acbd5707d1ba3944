//! Making a repository where there is none.

use crate::{
    blobs::seal::Secrets,
    error::{Error, Result},
    id::{Generation, RepositoryId, random},
    repo::{
        config::{self, Clear, Config},
        keys::{self, Cost, Password},
        opening::{Access, Presence, probe, take_lock},
        paired,
    },
    storage::{
        envelope::{Kind, Label},
        object::{Folder, Storage},
    },
};

/// What a new repository shall be.
#[derive(Debug)]
pub struct InitOptions {
    /// Its parameters.
    pub config: Config,
    /// Encrypted under this password, if any.
    pub password: Option<Password>,
    /// By which key its blobs are named.
    pub naming: Naming,
    /// What opening a key slot costs.
    pub cost: Cost,
}

/// By which key the blobs of a new repository are named.
#[derive(Debug, Clone, Copy)]
pub enum Naming {
    /// A key of its own where it is encrypted, else none.
    Own,
    /// As in another repository: by its identity key, or by none.
    Like(Option<[u8; 32]>),
}

/// Makes a repository. On return it is there, durably, config and keys twice. What an interrupted attempt has left goes.
///
/// # Errors
/// `Occupied` where a repository or foreign files are, `Locked`, `Damaged`, and storage errors.
pub fn make(storage: &dyn Storage, options: &InitOptions) -> Result<()> {
    let occupied = |why: &str| Error::Occupied { location: storage.location(), why: why.into() };
    if storage.holds_foreign().map_err(|e| Error::storage("list", storage.location(), e))? {
        return Err(occupied("other files are there"));
    }
    storage.prepare().map_err(|e| Error::storage("make", storage.location(), e))?;
    // A medium without locks can still be initialised: whoever loses the race finds the name taken.
    let _guard = match take_lock(storage, Access::Exclusive, &mut Vec::new()) {
        Err(e @ Error::Locked { .. }) => return Err(e),
        guard => guard.ok().flatten(),
    };
    if probe(storage)? != Presence::Nothing {
        return Err(occupied("a repository is there already"));
    }
    let stale = paired::list(storage, Folder::Keys, keys::is_slot_name)?;
    if !stale.is_empty() && options.password.is_none() {
        return Err(occupied("the key of an encrypted repository is there, whose making was interrupted"));
    }
    for name in stale.keys() {
        paired::delete(storage, Folder::Keys, name)?;
    }
    write_first(storage, options)
}

/// Key slot first, config last: its put is the commit.
fn write_first(storage: &dyn Storage, options: &InitOptions) -> Result<()> {
    let no_chance = |e| Error::file("read", "the system's random source", e);
    let repository = random().map(RepositoryId).map_err(no_chance)?;
    let secrets = match &options.password {
        None => Secrets::plain(),
        Some(password) => {
            let identity = match options.naming {
                Naming::Own => Some(random().map_err(no_chance)?),
                Naming::Like(identity) => identity,
            };
            let secrets = keys::draw(identity)?;
            let name = keys::draw_name()?;
            let body = keys::seal_slot(&secrets, password, options.cost, &name, None)?;
            paired::put(storage, Folder::Keys, &Label { kind: Kind::Key, repository, name }, &body)?;
            secrets
        }
    };
    let name = config::object_name(Generation::FIRST).ok_or(Error::Refused)?;
    let body = options.config.seal(Clear::new(secrets.is_sealed()), &secrets, &name)?;
    paired::put(storage, Folder::Config, &Label { kind: Kind::Config, repository, name }, &body).map(drop)
}
