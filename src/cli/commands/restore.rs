//! restore.

use crate::cli::{
    args::{OverwriteWord, Restore},
    render::{count, size},
    session::{Session, shown},
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};
use xsnap::{
    archive::{
        filter::Patterns,
        request::{Overwrite, RestoreRequest, Restored, Selected},
        restore::restore as bring_back,
        verify::verify,
    },
    error::Error,
    progress::{Event, Progress},
    repo::{listing::find, opening::Access, tree::Entry},
};

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
    let entry = found.ok_or_else(|| {
        Error::Usage(format!("snapshot {} has no {}", snapshot.id.short(), crate::cli::render::clean(&path)))
    })?;
    let in_place = words.target.as_deref() == Some(Path::new("/"));
    let place = place(words, &snapshot.id.short())?;
    // In place everything goes back to where it came from, a part of a snapshot too.
    let (selected_entry, selected_path, include): (&Entry, &[u8], _) = if in_place && !path.is_empty() {
        (&snapshot.root, &[], Some(exact_pattern(&path)))
    } else {
        (&entry, &path, None)
    };
    let root_is_source = snapshot.sources.iter().any(|s| s == b"/");
    let request = RestoreRequest {
        include: Patterns::new(include.iter().chain(&words.include))?,
        exclude: Patterns::new(&words.exclude)?,
        overwrite: overwrite(words.overwrite),
        delete: words.delete,
        dry_run: words.dry_run,
        by_name: !words.numeric_ids,
        threads: session.threads(),
        root_metadata: if selected_path.is_empty() { root_is_source && (place.fresh || in_place) } else { place.fresh },
    };
    if include.is_some() && !words.include.is_empty() {
        bail!(Error::Usage("with --target / and a path, --include has no use: name the path alone".into()));
    }
    let selected = Selected { entry: selected_entry, path: selected_path, sources: &snapshot.sources };
    let counts = snapshot.counts;
    session.screen.begin("restore");
    if path.is_empty() && words.include.is_empty() {
        session
            .screen
            .tell(Event::Total { entries: counts.files + counts.folders + counts.others, bytes: counts.bytes });
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

fn overwrite(word: OverwriteWord) -> Overwrite {
    match word {
        OverwriteWord::Always => Overwrite::Always,
        OverwriteWord::IfChanged => Overwrite::IfChanged,
        OverwriteWord::IfNewer => Overwrite::IfNewer,
        OverwriteWord::Never => Overwrite::Never,
    }
}

/// A pattern that matches one path and nothing else.
fn exact_pattern(path: &[u8]) -> String {
    let mut pattern = String::new();
    for c in String::from_utf8_lossy(path).chars() {
        match c {
            '*' | '?' | '[' | ']' | '{' | '}' | '\\' => pattern.extend(['\\', c]),
            '\u{fffd}' => pattern.push('?'),
            c => pattern.push(c),
        }
    }
    pattern
}

/// Opens the target, or makes it. Without one, a new folder is made, and never anything written over.
fn place(words: &Restore, id: &str) -> Result<Place> {
    let path = words.target.clone().unwrap_or_else(|| PathBuf::from(format!("xsnap-{id}")));
    let what = || format!("cannot make the folder {}", shown(&path));
    let mut fresh = false;
    if words.target.is_none() || !path.exists() {
        if words.dry_run {
            bail!(Error::Usage(format!("{} does not exist: everything would be restored", shown(&path))));
        }
        let made = if words.target.is_some() { std::fs::create_dir_all(&path) } else { std::fs::create_dir(&path) };
        made.with_context(what)?;
        fresh = true;
    }
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, rustix::fs::Mode::empty());
    let root = opened.with_context(|| format!("cannot open the target {}", shown(&path)))?;
    fresh = fresh || std::fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
    Ok(Place { path, root, fresh })
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
    for (count, words) in [
        (done.same, "files were the same already"),
        (done.skipped, "that were there were left alone"),
        (done.deleted, "that the snapshot does not have were removed"),
    ] {
        if count > 0 {
            text.push_str(&format!("\n{count} {words}"));
        }
    }
    if words.verify && done.problems == 0 {
        text.push_str("\neverything was read back and is as in the snapshot");
    }
    session.screen.say(&text)?;
    if done.problems > 0 {
        session.screen.note(&format!("{} entries could not be restored, or not exactly; see above", done.problems));
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
