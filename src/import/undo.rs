//! What an import replaces, kept first in a repository of this machine's own, and brought back.
//!
//! Two states are kept: what was there before anything was changed, and what the installation of packages made of it. To
//! undo is to bring back the second, exactly, to take away what is in it, was not in the first and belongs to no package, and
//! to bring the first back over it: packages stay, and everything else is as it was.

use crate::{
    archive::{
        accounts::Directory,
        backup::{Caution, Request, backup},
        changes::Change,
        compare::compare,
        filter::Patterns,
        live,
        plan::View,
        request::{Overwrite, RestoreRequest, Selected},
        restore::restore,
    },
    error::{Error, Result},
    import::{asked::Asked, placed::put, placement::DATABASE_SERVER, services::systemctl, target::Target},
    mn::{
        dpkg::folder_of,
        identity,
        packages::installed,
        profile::{Class, Profile, Variables, expand},
        units::services,
    },
    progress::Progress,
    repo::{
        config::Config,
        init::{InitOptions, Naming},
        keys::Cost,
        listing::find,
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
    io,
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
    /// Folders on the way to these that were not there.
    above: BTreeSet<Vec<u8>>,
    /// What this host was called.
    host_name: Vec<u8>,
    /// This host was a management node: the setup of xCAT has run long before.
    was_node: bool,
    /// The packages that were installed, each with its version.
    packages: BTreeSet<String>,
}

/// The files of accounts, which stay as the packages have made them: files of theirs belong to those users.
const ACCOUNTS: [&[u8]; 5] = [b"/etc/passwd", b"/etc/group", b"/etc/shadow", b"/etc/gshadow", b"/etc/.pwd.lock"];
/// What the setup of xCAT writes beside what a capture takes.
const OF_SETUP: [&str; 4] = ["/root/.ssh", "/root/.xcat", "/home/conserver/.xcat", "/etc/selinux/config"];
/// Parts that are large on a management node, whose setup is done: of these only what the import takes is kept.
const LARGE: [&str; 2] = ["install", "tftp"];
const NOTES: &str = "notes.json";
/// Where packages that stay have the folders and the state that their scripts made.
const KEPT_BY_SCRIPTS: &[u8] = b"/var/lib/";
/// Where rpm's books would be copied to: the machine's own programs read them, and nothing is copied.
const NOWHERE: &str = "/nonexistent";

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
    let token = if is_new { format!("{snapshot}-{}", asked.now.seconds) } else { before.token.clone() };
    if !is_new && state(&repository, kept, &token).is_some() {
        return Ok(vec!["it is kept already".into()]);
    }
    let (mut sources, mut absent, mut above) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let now = match is_new {
        true => Notes { snapshot: snapshot.to_owned(), token: token.clone(), ..look_around(target) },
        false => before,
    };
    let own = of_setup(target, &now)?;
    for path in roots.iter().chain(&own).map(Vec::as_slice).chain(ACCOUNTS) {
        let followed = target.inside().follow(path);
        if followed.stat.is_ok() {
            sources.insert(followed.path);
        } else {
            above.extend(missing_above(target, &followed.path));
            absent.insert(followed.path);
        }
        sources.extend(followed.links.into_iter().map(|link| link.path));
    }
    if is_new {
        write_notes(&folder, &Notes { absent: absent.into_iter().collect(), above, ..now })?;
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

/// What xCAT's own setup and commands write to, whatever the snapshot holds: what a capture would take here.
fn of_setup(target: &Target<'_>, notes: &Notes) -> Result<BTreeSet<Vec<u8>>> {
    let variables = [("installdir", "/install"), ("tftpdir", "/tftpboot")].map(|(name, path)| (name, path.to_owned()));
    let variables = Variables(variables.into());
    let parts = Profile::built_in()?.parts.into_iter();
    let parts = parts.filter(|part| matches!(part.class, Class::Must | Class::Regenerable));
    // What a database server has is kept once it runs, and brought back with its tables.
    let parts = parts.filter(|part| part.name != DATABASE_SERVER);
    let parts = parts.filter(|part| !notes.was_node || !LARGE.contains(&part.name.as_str()));
    let paths = parts.flat_map(|part| part.paths).chain(OF_SETUP.map(str::to_owned));
    Ok(paths.filter_map(|path| variables.fill(&path)).flat_map(|path| expand(target.inside(), &path)).collect())
}

/// What of the machine is noted before an import.
fn look_around(target: &Target<'_>) -> Notes {
    let units = services(target.machine).units;
    Notes {
        units: units.into_iter().map(|unit| (unit.name, unit.enabled, unit.active)).collect(),
        host_name: identity::host_name(target.machine),
        was_node: [&b"/etc/xcat/site.sqlite"[..], b"/etc/xcat/cfgloc"].iter().any(|path| target.inside().exists(path)),
        packages: packages(target),
        ..Notes::default()
    }
}

/// The packages that are installed.
fn packages(target: &Target<'_>) -> BTreeSet<String> {
    installed(target.machine, Path::new(NOWHERE)).packages.iter().map(|package| package.full_name()).collect()
}

/// The folders on the way to a path that are not there.
fn missing_above(target: &Target<'_>, path: &[u8]) -> Vec<Vec<u8>> {
    let ends = path.iter().enumerate().filter(|(at, byte)| *at > 0 && **byte == b'/').map(|(at, _)| at);
    let above = ends.filter_map(|end| path.get(..end)).map(<[u8]>::to_vec);
    above.filter(|path| target.inside().follow_to(path).stat.is_err()).collect()
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

/// The snapshot whose import can be taken back, and the word by which what was kept for it is found. Nothing where there is
/// none, or where it was taken back.
///
/// # Errors
/// `File` where what was kept cannot be read.
pub fn last(target: &Target<'_>) -> Result<Option<(String, String)>> {
    let notes = notes(&target.live(crate::import::target::OWN).join("undo"))?;
    Ok((!notes.token.is_empty() && !notes.undone).then_some((notes.snapshot, notes.token)))
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
    /// The packages that the import has installed, which stay.
    pub packages: Vec<String>,
}

/// Brings files and services back as they were before the last import, which may have been cut off anywhere. Its daemons have
/// been stopped.
/// Where that was done as a whole already, nothing is done.
///
/// # Errors
/// `Usage` where nothing was kept; those of a restore. Running it again goes on.
pub fn undo(target: &Target<'_>, asked: &Asked, progress: &dyn Progress) -> Result<Undone> {
    let folder = target.live(crate::import::target::OWN).join("undo");
    let nothing = || {
        Error::Usage(format!(
            "nothing was imported here that could be taken back: {} holds no state from before an import",
            folder.display()
        ))
    };
    if !folder.join(NOTES).exists() {
        return Err(nothing());
    }
    let (mut repository, notes) = (open(&folder)?, notes(&folder)?);
    let before = state(&repository, Kept::Before, &notes.token).ok_or_else(nothing)?.clone();
    let mut undone = Undone { snapshot: notes.snapshot.clone(), ..Undone::default() };
    undone.packages = packages(target).difference(&notes.packages).cloned().collect();
    if notes.undone {
        undone.told.push("it was taken back before: nothing is done".into());
        return Ok(undone);
    }
    if state(&repository, Kept::Installed, &notes.token).is_none() {
        // Nothing was put in place yet: what is there was there before, or packages have made it.
        let roots = before.sources.iter().chain(&notes.absent).cloned().collect();
        drop(repository);
        keep(target, Kept::Installed, &roots, &notes.snapshot, asked, progress)?;
        repository = open(&folder)?;
    }
    let installed = state(&repository, Kept::Installed, &notes.token).ok_or_else(nothing)?.clone();
    put_back(target, &repository, &installed, true, asked, progress, &mut undone)?;
    let reader = repository.tree_reader()?;
    let appeared = of_setup(target, &notes)?.into_iter().map(|path| target.inside().follow_to(&path).path);
    for path in notes.absent.iter().cloned().chain(appeared) {
        // What the packages have made is another matter.
        if find(&reader, &before.root, &path)?.is_none() && find(&reader, &installed.root, &path)?.is_none() {
            remove(target, &path, &mut undone);
        }
    }
    take_away(target, &repository, [&before, &installed], &notes.above, progress, &mut undone)?;
    put_back(target, &repository, &before, false, asked, progress, &mut undone)?;
    settle(target, &notes, &mut undone);
    let is_whole = undone.failed.is_empty();
    write_notes(&folder, &Notes { undone: is_whole, ..notes })?;
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

/// Takes away what the packages have made when they were installed, and do not own: keys, tables, what is exported; and folders
/// that were made on the way and are empty by now.
fn take_away(
    target: &Target<'_>,
    repository: &Repository,
    [before, installed]: [&Snapshot; 2],
    above: &BTreeSet<Vec<u8>>,
    progress: &dyn Progress,
    undone: &mut Undone,
) -> Result<()> {
    let [earlier, later] = [before, installed].map(|s| Selected { entry: &s.root, path: b"", sources: &s.sources });
    let found = compare(&repository.tree_reader()?, &earlier, &later, &Patterns::default(), progress)?;
    let is_added = |change: &Change| matches!(change, Change::Added | Change::Renamed { .. });
    let added = found.differences.into_iter().filter(|one| is_added(&one.change) && !one.perhaps);
    let added = added.map(|one| one.path).filter(|path| !ACCOUNTS.contains(&path.as_slice()));
    // What scripts of packages keep for themselves stays with the packages: without it some do not start again.
    let added = added.filter(|path| !path.starts_with(KEPT_BY_SCRIPTS));
    let added: BTreeSet<Vec<u8>> = added.chain(above.iter().cloned()).collect();
    let owned = match owned(target, &added) {
        Ok(owned) => owned,
        Err(why) => {
            undone.failed.push(format!("what the setup of the packages has made stays: {why}"));
            return Ok(());
        }
    };
    let mut count = 0_u64;
    // What is in a folder goes before it.
    for path in added.iter().rev().filter(|path| !owned.contains(*path)) {
        let at = target.live(path);
        let is_folder = at.symlink_metadata().is_ok_and(|there| there.is_dir());
        match if is_folder { std::fs::remove_dir(&at) } else { std::fs::remove_file(&at) } {
            Ok(()) => count += 1,
            Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => {}
            Err(e) => undone.failed.push(format!("{} cannot be removed: {e}", at.display())),
        }
    }
    undone.told.push(format!("{count} removals: what the setup of the packages had made"));
    Ok(())
}

/// Which of these paths packages own; why that is not known, for people.
fn owned(target: &Target<'_>, paths: &BTreeSet<Vec<u8>>) -> std::result::Result<BTreeSet<Vec<u8>>, String> {
    let inside = target.inside();
    let folders: BTreeSet<Vec<u8>> = paths.iter().map(|path| folder_of(path).to_vec()).collect();
    if folders.is_empty() {
        return Ok(BTreeSet::new());
    }
    let here = installed(target.machine, Path::new(NOWHERE));
    let (owned, problems) = here.owned(target.machine, &mut |folder| folders.contains(&inside.follow(folder).path));
    // What is not known to be nobody's is not taken away.
    let unread = here.problems.iter().filter(|problem| problem.path.starts_with(b"/"));
    if let Some(problem) = unread.chain(&problems).next() {
        return Err(format!("{}: {}", String::from_utf8_lossy(&problem.path), problem.cause));
    }
    Ok(owned.into_iter().map(|file| inside.follow_to(&file.path).path).collect())
}

/// Services and the host's name as they were; services that came with the packages are off.
fn settle(target: &Target<'_>, notes: &Notes, undone: &mut Undone) {
    let name = String::from_utf8_lossy(&notes.host_name);
    if !name.is_empty() && identity::host_name(target.machine) != notes.host_name {
        match target.run("hostname", [&*name]) {
            Ok(_) => undone.told.push(format!("this host is called {name}")),
            Err(why) => undone.failed.push(why),
        }
    }
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
            match systemctl(target, word, &unit.name) {
                Ok(()) => undone.told.push(format!("{word}: {}", unit.name)),
                Err(why) => undone.failed.push(why),
            }
        }
    }
}
