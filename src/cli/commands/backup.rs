//! init and backup.

use crate::cli::{
    args::{Backup, Init},
    commands::aboard::Cargo,
    render::{clean, count, json_bytes, size},
    session::{Session, normal_path, now, password_of_file, shown},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    io::{BufRead, IsTerminal, Write},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use xsnap::{
    archive::{
        backup::{Caution, Request, backup as back_up, backup_stream},
        filter::Patterns,
        plan::View,
    },
    error::Error,
    repo::{
        config::Config,
        init::{InitOptions, Naming},
        keys::{Cost, Password},
        opening::{Access, Credentials, Presence, probe},
        repository::Repository,
        snapshot::Snapshot,
        tree::Time,
    },
    storage::{
        local::LocalStorage,
        object::{Reserve, Storage},
    },
};

#[derive(Serialize)]
struct JsonInit {
    message: &'static str,
    id: String,
    location: String,
    encrypted: bool,
}

/// Makes a repository.
pub fn init(session: &Session<'_>, words: &Init) -> Result<u8> {
    let path = session.repo_path()?;
    session.refuse_unmounted(path, words.allow_unmounted)?;
    let cargo = Cargo::read(&words.aboard)?;
    let storage = session.storage()?;
    let mut config = Config { level: words.compression, ..Config::default() };
    let given = session.given_password()?;
    let mut naming = Naming::Own;
    if let Some(other) = &words.like {
        let likeness =
            like(other, words.like_password_file.as_deref(), given.clone(), words.encrypt || given.is_some())?;
        (naming, config.chunks) = (Naming::Like(likeness.0), likeness.1);
    }
    let password = match given {
        Some(password) => Some(password),
        None if words.encrypt => Some(session.ask_new_password("Password for the new repository: ")?),
        None => None,
    };
    make(session, storage, InitOptions { config, password, naming, cost: Cost::DEFAULT })?;
    cargo.load(session, path)?;
    Ok(0)
}

/// What the other repository names its blobs by, and where it cuts.
fn like(
    other: &Path,
    password_file: Option<&Path>,
    given: Option<Password>,
    encrypt: bool,
) -> Result<(Option<[u8; 32]>, xsnap::blobs::chunker::ChunkSizes)> {
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(other));
    let what = || format!("cannot take over from {}", shown(other));
    let encrypted = probe(storage.as_ref()).with_context(what)? == Presence::Repository { encrypted: true };
    if encrypted && !encrypt {
        bail!(Error::Usage(
            "the other repository is encrypted, and its identity key must not lie in clear: add --encrypt".into()
        ));
    }
    let other_password = password_file.map(password_of_file).transpose()?;
    let repository = match (encrypted, other_password.or(given)) {
        (true, Some(password)) => {
            Repository::open(storage, Credentials::Given(password), Access::Read).with_context(what)?
        }
        _ => Repository::open(storage, Credentials::Ask(&|| Err(Error::PasswordNeeded)), Access::Read)
            .with_context(what)?,
    };
    Ok(repository.likeness())
}

/// Makes a repository, and says so.
///
/// # Errors
/// What `Repository::init` says.
pub fn make(session: &Session<'_>, storage: Arc<dyn Storage>, options: InitOptions) -> Result<Repository> {
    let repository = Repository::init(storage, options)?;
    let location = repository.storage().location();
    let encrypted = repository.is_encrypted();
    let how = if encrypted { "encrypted" } else { "NOT encrypted: whoever has it can read everything in it" };
    let place = clean(location.as_bytes());
    session.screen.say(&format!("made repository {} at {place}, {how}", repository.id()))?;
    for note in repository.notes().into_iter().chain(repository.storage().kind_cannot_promise()) {
        session.screen.note(&note);
    }
    session.screen.object(&JsonInit { message: "init", id: repository.id().to_string(), location, encrypted })?;
    Ok(repository)
}

/// Opens the repository, or makes it where there is none, but not for a dry run, which writes nothing.
pub fn open_or_make(session: &Session<'_>, words: &Backup, cargo: &Cargo) -> Result<Repository> {
    let path = session.repo_path()?;
    session.refuse_unmounted(path, words.allow_unmounted)?;
    let storage = session.storage()?;
    if probe(storage.as_ref())? != Presence::Nothing {
        let access = if words.dry_run { Access::Read } else { Access::Write };
        return session.open_at(storage, access);
    }
    if words.dry_run || words.existing {
        bail!(Error::NoRepository { location: storage.location() });
    }
    let password = session.given_password()?;
    if password.is_none() && std::io::stdin().is_terminal() && !is_confirmed(path)? {
        bail!(Error::Usage("nothing was made; `xsnap init --encrypt` makes an encrypted repository".into()));
    }
    let options = InitOptions { config: Config::default(), password, naming: Naming::Own, cost: Cost::DEFAULT };
    let made = make(session, storage, options)?;
    cargo.load(session, path)?;
    Ok(made)
}

/// Asks whether a repository that is not encrypted is to be made.
///
/// # Errors
/// Those of the terminal.
pub fn is_confirmed(path: &Path) -> Result<bool> {
    write!(std::io::stderr(), "There is no repository at {}. Make one that is not encrypted? [y/N] ", shown(path))?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Takes a snapshot.
pub fn backup(session: &Session<'_>, words: &Backup) -> Result<u8> {
    let mut request = request(session, words)?;
    let cargo = Cargo::read(&words.aboard)?;
    let mut repository = open_or_make(session, words, &cargo)?;
    request.skip = own_folder(session)?;
    session.screen.begin("backup");
    let made = match &words.stdin {
        Some(name) => {
            backup_stream(&mut repository, &request, name.as_bytes(), std::io::stdin().lock(), session.screen)
        }
        None => back_up(&mut repository, &request, session.screen),
    };
    session.screen.end();
    let snapshot = made?;
    if words.stdin.is_some() && snapshot.counts.bytes == 0 {
        session.screen.note("the standard input was empty: the snapshot holds an empty file");
    }
    finish(session, (&repository, &cargo), &snapshot, words)
}

/// Tells what came of a backup, and refreshes what the repository carries; returns the exit code.
///
/// # Errors
/// Those of the screen.
pub fn finish(
    session: &Session<'_>,
    (repository, cargo): (&Repository, &Cargo),
    snapshot: &Snapshot,
    words: &Backup,
) -> Result<u8> {
    // What the medium cannot promise may have turned out only while writing.
    repository.notes().iter().for_each(|note| session.screen.note(note));
    report(session, snapshot, words)?;
    if !words.dry_run {
        cargo.refresh(session, session.repo_path()?)?;
    }
    Ok(if snapshot.complete { 0 } else { 3 })
}

/// The repository's own folder, by device and inode: it is not backed up. Asked once it is there.
///
/// # Errors
/// `Usage` where nobody said where the repository is.
pub fn own_folder(session: &Session<'_>) -> Result<Vec<(u64, u64)>> {
    Ok(session.repo_path()?.metadata().map(|m| (m.dev(), m.ino())).into_iter().collect())
}

fn request(session: &Session<'_>, words: &Backup) -> Result<Request> {
    let sources = match &words.stdin {
        Some(name) => {
            let name = name.as_bytes();
            if !xsnap::repo::tree::is_legal_name(name) {
                bail!(Error::Usage(
                    "the name for the standard input is no file name: write it as in --stdin database.sql".into()
                ));
            }
            vec![[b"/", name].concat()]
        }
        None => sources(session, &words.paths)?,
    };
    request_of(session, words, sources)
}

/// What a backup of these sources asks for, as the words say.
///
/// # Errors
/// `Usage` for words that make no sense, and where files of patterns cannot be read.
pub fn request_of(session: &Session<'_>, words: &Backup, sources: Vec<Vec<u8>>) -> Result<Request> {
    let mut patterns = words.exclude.clone();
    for path in &words.exclude_from {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read patterns from {}", shown(path)))?;
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
        patterns.extend(lines.map(str::to_owned));
    }
    Ok(Request {
        sources,
        host: words.host.as_ref().map_or_else(host_name, |host| host.as_bytes().to_vec()),
        time: words.time.as_deref().map_or_else(|| Ok(now()), parse_time)?,
        tags: words.tag.iter().filter(|tag| !tag.is_empty()).cloned().collect(),
        label: words.label.clone(),
        cluster: None,
        exclude: Patterns::new(&patterns)?,
        exclude_caches: words.exclude_caches,
        one_file_system: words.one_file_system,
        read_all: words.read_all,
        skip: Vec::new(),
        dry_run: words.dry_run,
        threads: session.threads(),
        caution: Caution { verify: words.verify, reserve: words.reserve.map_or(Reserve::Usual, Reserve::Bytes) },
        view: View::default(),
    })
}

/// Absolute paths without links on the way; the last name is taken as it is, a link as a link.
fn sources(session: &Session<'_>, paths: &[PathBuf]) -> Result<Vec<Vec<u8>>> {
    let mut sources = Vec::new();
    for path in paths {
        let plain = match (path.file_name(), path.parent()) {
            (Some(name), Some(parent)) => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                parent.canonicalize().map(|parent| parent.join(name))
            }
            _ => path.canonicalize(),
        };
        match plain.and_then(|plain| plain.symlink_metadata().map(|meta| (plain, meta))) {
            Ok((plain, meta)) => {
                if meta.is_symlink() {
                    let shown = shown(&plain);
                    session.screen.note(&format!(
                        "{shown} is a link and stored as one: name its target to store what it leads to"
                    ));
                }
                sources.push(plain.as_os_str().as_bytes().to_vec());
            }
            Err(e) if !paths.iter().any(|path| path.symlink_metadata().is_ok()) => {
                return Err(e).with_context(|| format!("cannot find {}", shown(path)));
            }
            // Kept among the sources, so that the walk reports it and the snapshot records it.
            Err(_) => sources.push(absent(path)?),
        }
    }
    sources.sort();
    sources.dedup();
    Ok(sources)
}

/// The absolute path, without dots, of something that is not there.
fn absent(path: &Path) -> std::io::Result<Vec<u8>> {
    let real =
        path.file_name().zip(path.parent()).and_then(|(name, parent)| Some(parent.canonicalize().ok()?.join(name)));
    let whole = real.map_or_else(|| std::path::absolute(path), Ok)?;
    Ok(normal_path(whole.as_os_str().as_bytes()))
}

/// What this machine calls itself.
pub fn host_name() -> Vec<u8> {
    rustix::system::uname().nodename().to_bytes().to_vec()
}

fn parse_time(text: &str) -> Result<Time> {
    let local = || {
        text.parse::<jiff::civil::DateTime>()
            .and_then(|t| t.to_zoned_datetime(jiff::tz::TimeZone::system()))
            .map(|z| z.timestamp())
    };
    let stamp = text.parse::<jiff::Timestamp>().or_else(|_| local());
    let stamp =
        stamp.map_err(|e| Error::Usage(format!("{text:?} is no time ({e}); write it as in '2026-05-31 23:59'")))?;
    Ok(Time { seconds: stamp.as_second(), nanoseconds: u32::try_from(stamp.subsec_nanosecond()).unwrap_or_default() })
}

#[derive(Serialize)]
struct JsonBackup {
    message: &'static str,
    dry_run: bool,
    /// Everything that was written was read back and is right.
    verified: bool,
    id: String,
    complete: bool,
    files: u64,
    folders: u64,
    others: u64,
    bytes: u64,
    files_read: u64,
    problems: u64,
    added_blobs: u64,
    added_raw_bytes: u64,
    added_stored_bytes: u64,
    sources: Vec<crate::cli::render::JsonBytes>,
}

fn report(session: &Session<'_>, snapshot: &Snapshot, words: &Backup) -> Result<()> {
    let dry_run = words.dry_run;
    let c = &snapshot.counts;
    let (files, folders, others) = (count(c.files, "file"), count(c.folders, "folder"), count(c.others, "other"));
    let entries = format!("{files}, {folders}, {others}, {}", size(c.bytes));
    let verb = if dry_run { "would add" } else { "added" };
    let added = format!(
        "read {}; {verb} {} ({} stored)",
        count(c.files_read, "file"),
        size(c.added_raw_bytes),
        size(c.added_stored_bytes)
    );
    session.screen.say(&format!("{entries}\n{added}"))?;
    if !dry_run {
        let proof = if words.verify { ", and everything written was read back and is right" } else { "" };
        session.screen.say(&format!("snapshot {} is stored{proof}", snapshot.id.short()))?;
    }
    if !snapshot.complete {
        session.screen.note(&format!("it is incomplete: {}, recorded in the snapshot", count(c.problems, "problem")));
    }
    session.screen.object(&JsonBackup {
        message: "backup",
        dry_run,
        verified: words.verify,
        id: snapshot.id.to_string(),
        complete: snapshot.complete,
        files: c.files,
        folders: c.folders,
        others: c.others,
        bytes: c.bytes,
        files_read: c.files_read,
        problems: c.problems,
        added_blobs: c.added_blobs,
        added_raw_bytes: c.added_raw_bytes,
        added_stored_bytes: c.added_stored_bytes,
        sources: snapshot.sources.iter().map(|s| json_bytes(s)).collect(),
    })
}
