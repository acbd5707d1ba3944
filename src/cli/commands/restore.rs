//! restore.

use crate::cli::{
    args::{OverwriteWord, Restore},
    commands::show::no_path,
    render::{clean, count, size},
    session::{Session, shown, time_text},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};
use xsnap::{
    archive::{
        accounts::Directory,
        filter::Patterns,
        request::{Overwrite, RestoreRequest, Restored, Selected},
        restore::restore as bring_back,
        verify::verify,
    },
    error::Error,
    progress::{Event, Progress},
    repo::{listing::find, opening::Access, repository::Repository, snapshot::Snapshot, tree::Entry},
};

/// The folder that only xsnap knows in the snapshot of a management node: it never lands in the root of a machine.
const OWN_FOLDER: &str = "/.xsnap";

/// Where a restore goes.
struct Place {
    path: PathBuf,
    root: OwnedFd,
    /// Whether it was made, or was empty: then it gets the metadata of the folder that is restored into it.
    fresh: bool,
}

/// Brings files of a snapshot back.
pub fn restore(session: &Session<'_>, words: &Restore) -> Result<u8> {
    let repository = session.open(Access::Read)?;
    let (snapshot, path) = session.chosen(&repository, &words.what, &words.choice)?;
    let found = find(&repository.tree_reader()?, &snapshot.root, &path)?;
    let entry = found.ok_or_else(|| no_path(snapshot, &path))?;
    announce(session, snapshot, &repository, words)?;
    let in_place = words.target.as_deref().is_some_and(is_root);
    if in_place && snapshot.cluster.is_some() && !words.files_only {
        bail!(Error::Usage(
            "this is the snapshot of a management node, and files alone do not make this machine that node: use \
             `xsnap import`. To write the files over those of this machine all the same, add --files-only"
                .into()
        ));
    }
    let Some(place) = place(words, &snapshot.id.short())? else {
        session.screen.say("the target does not exist: everything would be restored")?;
        return Ok(0);
    };
    // In place everything goes back to where it came from, a part of a snapshot too.
    let (selected_entry, selected_path, only): (&Entry, &[u8], _) =
        if in_place && !path.is_empty() { (&snapshot.root, &[], Some(path.clone())) } else { (&entry, &path, None) };
    if only.is_some() && !words.include.is_empty() {
        bail!(Error::Usage("with --target / and a path, --include has no use: name the path alone".into()));
    }
    let own = session.repo_path()?.metadata()?;
    let target = rustix::fs::fstat(&place.root)?;
    if (target.st_dev, target.st_ino) == (own.dev(), own.ino()) {
        bail!(Error::Usage("the target is the repository itself: take another folder".into()));
    }
    let root_is_source = snapshot.sources.iter().any(|s| s == b"/");
    let request = RestoreRequest {
        only,
        include: Patterns::new(&words.include)?,
        exclude: exclude(words, in_place)?,
        overwrite: overwrite(words.overwrite),
        delete: words.delete,
        dry_run: words.dry_run,
        by_name: !words.numeric_ids,
        directory: Directory::Own,
        threads: session.threads(),
        root_metadata: if in_place { root_is_source } else { place.fresh && (!path.is_empty() || root_is_source) },
        in_place,
        spare: vec![(own.dev(), own.ino())],
    };
    let selected = Selected { entry: selected_entry, path: selected_path, sources: &snapshot.sources };
    let counts = snapshot.counts;
    session.screen.begin("restore");
    if path.is_empty() && words.include.is_empty() {
        let entries = counts.files.saturating_add(counts.folders).saturating_add(counts.others);
        session.screen.tell(Event::Total { entries, bytes: counts.bytes });
    }
    let reader = repository.reader_of(&entry)?;
    let done = bring_back(&reader, &selected, place.root.as_fd(), &request, session.screen);
    repository.mark_bad(&reader.take_bad_frames())?;
    let mut done = done?;
    if words.verify && !words.dry_run {
        session.screen.begin("verify");
        done.problems += verify(&reader, &selected, place.root.as_fd(), &request, session.screen)?;
    }
    session.screen.end();
    report(session, &place.path, &snapshot.id.short(), done, words)?;
    Ok(if done.problems == 0 { 0 } else { 3 })
}

/// Whether a path is the root of this machine.
fn is_root(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|path| path == Path::new("/"))
}

/// What is left out; in place, what only xsnap knows in a snapshot too.
fn exclude(words: &Restore, in_place: bool) -> Result<Patterns, Error> {
    let own = in_place.then(|| OWN_FOLDER.to_owned());
    Patterns::new(words.exclude.iter().cloned().chain(own))
}

fn overwrite(word: OverwriteWord) -> Overwrite {
    match word {
        OverwriteWord::Always => Overwrite::Always,
        OverwriteWord::IfChanged => Overwrite::IfChanged,
        OverwriteWord::IfNewer => Overwrite::IfNewer,
        OverwriteWord::Never => Overwrite::Never,
    }
}

/// Says what is about to be restored, and what of it people may not expect.
fn announce(session: &Session<'_>, snapshot: &Snapshot, repository: &Repository, words: &Restore) -> Result<()> {
    let (id, host) = (snapshot.id.short(), clean(&snapshot.host));
    session.screen.say(&format!("snapshot {id} of {host}, {}", time_text(snapshot.time)))?;
    if !snapshot.complete {
        let problems = count(snapshot.counts.problems, "problem");
        session.screen.note(&format!("this snapshot is incomplete: {problems} when it was made"));
    }
    if !words.numeric_ids && find(&repository.tree_reader()?, &snapshot.root, b"/etc/passwd").is_ok_and(|e| e.is_some())
    {
        session.screen.note(
            "owners are set by the names that this machine knows; to bring back a whole system, from a rescue system \
             or onto a fresh one, use --numeric-ids",
        );
    }
    Ok(())
}

/// Opens the target, or makes it; nothing where a dry run would have to make it. Without one, a new folder is made, and
/// never anything written over.
fn place(words: &Restore, id: &str) -> Result<Option<Place>> {
    let path = words.target.clone().unwrap_or_else(|| PathBuf::from(format!("xsnap-{id}")));
    let what = || format!("cannot make the folder {}", shown(&path));
    let mut fresh = false;
    if words.target.is_none() || !path.exists() {
        if words.dry_run {
            return Ok(None);
        }
        let made = if words.target.is_some() { std::fs::create_dir_all(&path) } else { std::fs::create_dir(&path) };
        if let Err(e) = &made
            && e.kind() == std::io::ErrorKind::AlreadyExists
        {
            let shown = shown(&path);
            bail!(Error::Usage(format!("{shown} is there already; --target {shown} goes on with it")));
        }
        made.with_context(what)?;
        fresh = true;
    }
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
    let root = opened.with_context(|| format!("cannot open the target {}", shown(&path)))?;
    fresh = fresh || std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
    Ok(Some(Place { path, root, fresh }))
}

#[derive(Serialize)]
struct JsonRestore {
    message: &'static str,
    dry_run: bool,
    target: crate::cli::render::JsonBytes,
    snapshot: String,
    files: u64,
    same: u64,
    skipped: u64,
    folders: u64,
    others: u64,
    deleted: u64,
    bytes: u64,
    problems: u64,
}

fn report(session: &Session<'_>, target: &Path, id: &str, done: Restored, words: &Restore) -> Result<()> {
    let would = if words.dry_run { "would restore" } else { "restored" };
    let mut text = format!("{would} {}, {}, into {}", count(done.files, "file"), size(done.bytes), shown(target));
    let (same, skipped) = (count(done.same, "file"), count(done.skipped, "entry"));
    let deleted = if words.dry_run { "to be removed" } else { "removed" };
    for (number, line) in [
        (done.same, format!("{same} the same already")),
        (done.skipped, format!("{skipped} left as they were")),
        (done.deleted, format!("{} {deleted}, for the snapshot does not have them", count(done.deleted, "entry"))),
    ] {
        if number > 0 {
            text.push('\n');
            text.push_str(&line);
        }
    }
    if !words.include.is_empty() && done.files + done.same + done.skipped + done.folders + done.others == 0 {
        session.screen.note("no pattern of --include matched anything");
    }
    if words.verify && done.problems == 0 {
        text.push_str("\neverything was read back and is as in the snapshot");
    }
    session.screen.say(&text)?;
    if done.problems > 0 {
        session.screen.note(&format!(
            "{} could not be restored, or not exactly: see above (with --json, all are named)",
            count(done.problems, "entry")
        ));
    }
    session.screen.object(&JsonRestore {
        message: "restore",
        dry_run: words.dry_run,
        target: crate::cli::render::json_bytes(std::os::unix::ffi::OsStrExt::as_bytes(target.as_os_str())),
        snapshot: id.to_owned(),
        files: done.files,
        same: done.same,
        skipped: done.skipped,
        folders: done.folders,
        others: done.others,
        deleted: done.deleted,
        bytes: done.bytes,
        problems: done.problems,
    })
}
