//! What an import replaces, kept first in a repository of this machine's own, and brought back.
//!
//! Two states are kept: what was there before anything was changed, and what the installation of packages made of it. To
//! undo is to bring back the second, exactly, and the first over it: packages stay, and everything else is as it was.

use crate::{
    archive::{
        accounts::Directory,
        backup::{Caution, Request, backup},
        filter::Patterns,
        live,
        plan::View,
        request::{Overwrite, RestoreRequest, Selected},
        restore::restore,
    },
    error::{Error, Result},
    import::{asked::Asked, placed::put, target::Target},
    mn::units::services,
    progress::Progress,
    repo::{
        config::Config,
        init::{InitOptions, Naming},
        keys::Cost,
        opening::{Access, Credentials, Presence, probe},
        repository::Repository,
        snapshot::Snapshot,
    },
    storage::{local::LocalStorage, object::Storage},
};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::Path,
    sync::Arc,
};

/// Which of the two states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Before anything was changed.
    Before,
    /// After the packages were installed.
    Installed,
}

impl Kept {
    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Installed => "installed",
        }
    }
}

/// What is kept beside the repository.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Notes {
    /// The snapshot that was imported.
    snapshot: String,
    /// The word by which what was kept for this import is found.
    token: String,
    /// The import was taken back: what is kept for the next one is new.
    undone: bool,
    /// Services, whether they start by themselves and whether they ran.
    units: Vec<(String, String, Option<bool>)>,
    /// Paths at which nothing was.
    absent: Vec<Vec<u8>>,
}

/// The files of accounts, which stay as the packages have made them: files of theirs belong to those users.
const ACCOUNTS: [&[u8]; 4] = [b"/etc/passwd", b"/etc/group", b"/etc/shadow", b"/etc/gshadow"];
const NOTES: &str = "notes.json";

/// Keeps the state of what is at these paths, if it was not kept before for this import. On return it is durable.
///
/// # Errors
/// Those of a backup; `File` where there is no room for it.
pub fn keep(
    target: &Target<'_>,
    kept: Kept,
    roots: &BTreeSet<Vec<u8>>,
    snapshot: &str,
    asked: &Asked,
    progress: &dyn Progress,
) -> Result<Vec<String>> {
    let folder = target.own("undo")?;
    let mut repository = open(&folder)?;
    let before = notes(&folder)?;
    let is_new = before.snapshot != snapshot || before.undone;
    let token = if is_new { format!("{snapshot}-{}", asked.now.seconds) } else { before.token };
    if !is_new && state(&repository, kept, &token).is_some() {
        return Ok(vec!["it is kept already".into()]);
    }
    let (mut sources, mut absent) = (BTreeSet::new(), BTreeSet::new());
    for path in roots.iter().map(Vec::as_slice).chain(ACCOUNTS) {
        let followed = target.inside().follow(path);
        match followed.stat {
            Ok(_) => drop(sources.insert(followed.path)),
            Err(_) => drop(absent.insert(topmost_absent(target, path))),
        }
        sources.extend(followed.links.into_iter().map(|link| link.path));
    }
    if is_new {
        let units = services(target.machine).units;
        let units = units.into_iter().map(|unit| (unit.name, unit.enabled, unit.active)).collect();
        write_notes(
            &folder,
            &Notes { snapshot: snapshot.to_owned(), token: token.clone(), units, ..Notes::default() },
        )?;
    }
    if kept == Kept::Installed {
        let absent = absent.into_iter().collect();
        write_notes(&folder, &Notes { absent, ..notes(&folder)? })?;
    }
    let own = rustix::fs::stat(&folder).map_err(|e| Error::file("look at", &folder, e))?;
    let request = Request {
        sources: sources.into_iter().collect(),
        host: b"this machine".to_vec(),
        time: asked.now,
        tags: vec![kept.word().to_owned(), token],
        label: format!("{} the import of {snapshot}", if kept == Kept::Before { "before" } else { "packages of" }),
        cluster: None,
        exclude: Patterns::default(),
        exclude_caches: false,
        one_file_system: false,
        read_all: false,
        skip: vec![(own.st_dev, own.st_ino)],
        dry_run: false,
        threads: asked.threads,
        caution: Caution::default(),
        view: View { root: target.inside().base().to_owned(), ..View::default() },
    };
    let made = backup(&mut repository, &request, progress)?;
    Ok(vec![format!("{} files kept in {}", made.counts.files, folder.display())])
}

/// The highest folder on the way to a path at which nothing is.
fn topmost_absent(target: &Target<'_>, path: &[u8]) -> Vec<u8> {
    let mut at = Vec::new();
    for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        at.extend([b"/", name].concat());
        if target.inside().follow_to(&at).stat.is_err() {
            break;
        }
    }
    at
}

fn open(folder: &Path) -> Result<Repository> {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(folder.join("repository")));
    if probe(storage.as_ref())? == Presence::Nothing {
        let options =
            InitOptions { config: Config::default(), password: None, naming: Naming::Own, cost: Cost::DEFAULT };
        return Repository::init(storage, options);
    }
    Repository::open(storage, Credentials::Ask(&|| Err(Error::PasswordNeeded)), Access::Write)
}

fn state<'r>(repository: &'r Repository, kept: Kept, token: &str) -> Option<&'r Snapshot> {
    let has = |s: &&Snapshot, tag: &str| s.tags.iter().any(|t| t == tag);
    repository.snapshots().iter().rev().find(|s| has(s, kept.word()) && has(s, token))
}

fn notes(folder: &Path) -> Result<Notes> {
    let path = folder.join(NOTES);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| Error::file("read", path, std::io::Error::from(e))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Notes::default()),
        Err(e) => Err(Error::file("read", path, e)),
    }
}

fn write_notes(folder: &Path, notes: &Notes) -> Result<()> {
    let path = folder.join(NOTES);
    let bytes = serde_json::to_vec(notes).map_err(|e| Error::file("write", &path, std::io::Error::from(e)))?;
    put(&path, &bytes, 0o600)
}

/// Services that start at boot by now and did not before the import.
///
/// # Errors
/// `File` where what was kept cannot be read.
pub fn enabled_since(target: &Target<'_>) -> Result<Vec<String>> {
    let notes = notes(&target.own("undo")?)?;
    let was = |name: &str| notes.units.iter().any(|(unit, enabled, _)| unit == name && enabled == "enabled");
    let units = services(target.machine).units.into_iter();
    Ok(units.filter(|unit| unit.enabled == "enabled" && !was(&unit.name)).map(|unit| unit.name).collect())
}

/// What an undo has done.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Undone {
    /// The snapshot whose import was undone.
    pub snapshot: String,
    /// What was done, for people.
    pub told: Vec<String>,
    /// What could not be brought back, for people.
    pub failed: Vec<String>,
}

/// Brings files and services back as they were before the last import. Its daemons have been stopped.
///
/// # Errors
/// `Usage` where nothing was kept; those of a restore. Running it again goes on.
pub fn undo(target: &Target<'_>, asked: &Asked, progress: &dyn Progress) -> Result<Undone> {
    let nothing = || {
        Error::Usage(format!(
            "nothing was imported here that could be taken back: {} holds no state from before an import",
            target.live(crate::import::target::OWN).join("undo").display()
        ))
    };
    let folder = target.live(crate::import::target::OWN).join("undo");
    if !folder.join(NOTES).exists() {
        return Err(nothing());
    }
    let (repository, notes) = (open(&folder)?, notes(&folder)?);
    let before = state(&repository, Kept::Before, &notes.token).ok_or_else(nothing)?;
    let installed = state(&repository, Kept::Installed, &notes.token);
    let mut undone = Undone { snapshot: notes.snapshot.clone(), ..Undone::default() };
    if let Some(installed) = installed {
        put_back(target, &repository, installed, true, asked, progress, &mut undone)?;
        for path in &notes.absent {
            remove(target, path, &mut undone);
        }
    }
    put_back(target, &repository, before, false, asked, progress, &mut undone)?;
    settle(target, &notes, &mut undone);
    write_notes(&folder, &Notes { undone: true, ..notes })?;
    Ok(undone)
}

fn put_back(
    target: &Target<'_>,
    repository: &Repository,
    snapshot: &Snapshot,
    is_installed: bool,
    asked: &Asked,
    progress: &dyn Progress,
    undone: &mut Undone,
) -> Result<()> {
    let exclude = if is_installed {
        Vec::new()
    } else {
        ACCOUNTS.map(|path| String::from_utf8_lossy(path).into_owned()).to_vec()
    };
    let request = RestoreRequest {
        only: None,
        include: Patterns::default(),
        exclude: Patterns::new(exclude)?,
        overwrite: Overwrite::Always,
        delete: is_installed,
        dry_run: false,
        by_name: false,
        directory: Directory::Own,
        threads: asked.threads,
        root_metadata: false,
        in_place: true,
        spare: Vec::new(),
    };
    let reader = repository.reader_of(&snapshot.root)?;
    let selected = Selected { entry: &snapshot.root, path: b"", sources: &snapshot.sources };
    let done = restore(&reader, &selected, target.root.as_fd(), &request, progress)?;
    let (files, deleted) = (done.files, done.deleted);
    undone.told.push(format!(
        "{files} files and {deleted} removals: as {}",
        if is_installed { "the packages left it" } else { "it was before" }
    ));
    if done.problems > 0 {
        undone.failed.push(format!("{} entries could not be brought back exactly; each was told", done.problems));
    }
    Ok(())
}

/// Removes what was not there, without following links or entering other file systems.
fn remove(target: &Target<'_>, path: &[u8], undone: &mut Undone) {
    let at = target.live(path);
    let gone = match (at.symlink_metadata(), at.parent(), at.file_name()) {
        (Ok(meta), Some(parent), Some(name)) => {
            rustix::fs::open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, rustix::fs::Mode::empty())
                .map_err(std::io::Error::from)
                .and_then(|parent| live::remove(parent.as_fd(), name.as_bytes(), meta.dev(), path, &|_, _| false))
        }
        (Err(e), ..) if e.kind() == std::io::ErrorKind::NotFound => return,
        (Err(e), ..) => Err(e),
        _ => return,
    };
    match gone {
        Ok(_) => undone.told.push(format!("{} is gone, as it was not there before", at.display())),
        Err(e) => undone.failed.push(format!("{} cannot be removed: {e}", at.display())),
    }
}

/// Services as they were; those that came with the packages are off.
fn settle(target: &Target<'_>, notes: &Notes, undone: &mut Undone) {
    for unit in services(target.machine).units {
        let was = notes.units.iter().find(|(name, ..)| *name == unit.name);
        let (enabled, active) =
            was.map_or(("disabled", Some(false)), |(_, enabled, active)| (enabled.as_str(), *active));
        let mut words = Vec::new();
        match enabled {
            "enabled" if unit.enabled != "enabled" => words.push("enable"),
            "disabled" if unit.enabled == "enabled" => words.push("disable"),
            _ => {}
        }
        match active {
            Some(true) => words.push("restart"),
            Some(false) if unit.active == Some(true) => words.push("stop"),
            _ => {}
        }
        for word in words {
            match target.run("systemctl", [word, &unit.name]) {
                Ok(_) => undone.told.push(format!("{word}: {}", unit.name)),
                Err(why) => undone.failed.push(why),
            }
        }
    }
}
