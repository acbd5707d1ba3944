//! A plain repository, backup and restore: what is asked for where a test means nothing special. What it does mean, it
//! changes in what is returned here. Benches and fuzz targets use it too.

use std::{
    os::{fd::BorrowedFd, unix::ffi::OsStrExt},
    path::Path,
    sync::Arc,
};
use xsnap::{
    archive::{
        accounts::Directory,
        backup::{Caution, Request},
        filter::Patterns,
        plan::View,
        request::{Overwrite, RestoreRequest, Restored, Selected},
        restore,
    },
    error::{Error, Result},
    progress::Progress,
    repo::{
        config::Config,
        init::{InitOptions, Naming},
        keys::{Cost, Password},
        listing::find,
        opening::{Access, Credentials},
        repository::Repository,
        snapshot::Snapshot,
        tree::Time,
    },
    storage::{local::LocalStorage, object::Storage},
};

/// The cheapest key slot that is allowed: tests open repositories often.
pub const CHEAP: Cost = Cost { memory_kib: 8, passes: 1, lanes: 1 };

/// Objects as files below a folder.
pub fn local(path: &Path) -> Arc<dyn Storage> {
    Arc::new(LocalStorage::new(path))
}

/// Makes a repository, encrypted if there is a password.
pub fn init(storage: &Arc<dyn Storage>, config: Config, password: Option<&str>) -> Result<Repository> {
    let password = password.map(|p| Password::new(p.into()));
    let options = InitOptions { config, password, naming: Naming::Own, cost: CHEAP };
    Repository::init(Arc::clone(storage), options)
}

/// Opens a repository.
pub fn open(storage: &Arc<dyn Storage>, password: Option<&str>, access: Access) -> Result<Repository> {
    let credentials = match password {
        Some(password) => Credentials::Given(Password::new(password.into())),
        None => Credentials::Ask(&|| Err(Error::PasswordNeeded)),
    };
    Repository::open(Arc::clone(storage), credentials, access)
}

/// What a backup of these sources asks for.
pub fn request(sources: &[&Path]) -> Request {
    let mut sources: Vec<Vec<u8>> = sources.iter().map(|source| source.as_os_str().as_bytes().to_vec()).collect();
    sources.sort();
    Request {
        sources,
        host: b"host".to_vec(),
        time: Time { seconds: 1_700_000_000, nanoseconds: 0 },
        tags: Vec::new(),
        label: String::new(),
        cluster: None,
        exclude: Patterns::default(),
        exclude_caches: false,
        one_file_system: false,
        read_all: false,
        skip: Vec::new(),
        dry_run: false,
        threads: 2,
        caution: Caution::default(),
        view: View::default(),
    }
}

/// What a restore of everything asks for.
pub fn restore_request() -> RestoreRequest {
    RestoreRequest {
        only: None,
        include: Patterns::default(),
        exclude: Patterns::default(),
        overwrite: Overwrite::Always,
        delete: false,
        dry_run: false,
        by_name: false,
        directory: Directory::Own,
        threads: 2,
        root_metadata: true,
        in_place: false,
        spare: Vec::new(),
    }
}

/// Restores a path of a snapshot below an open folder. Frames found damaged are marked, as the program does it.
pub fn restore(
    repository: &Repository,
    snapshot: &Snapshot,
    path: &[u8],
    root: BorrowedFd<'_>,
    request: &RestoreRequest,
    progress: &dyn Progress,
) -> Result<Restored> {
    let reader = repository.reader(Arc::new(repository.index()?));
    let entry = find(&reader, &snapshot.root, path)?.expect("the path is in the snapshot");
    let selected = Selected { entry: &entry, path, sources: &snapshot.sources };
    let done = restore::restore(&reader, &selected, root, request, progress);
    repository.mark_bad(&reader.take_bad_frames())?;
    done
}
