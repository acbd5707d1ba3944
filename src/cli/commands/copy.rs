//! copy.

use crate::cli::{
    commands::{
        aboard::Cargo,
        backup::{is_confirmed, make},
        show::keep_latest,
    },
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, password_from, selection, shown, time_text},
    words::copy::Copy,
};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::{collections::HashSet, ffi::OsStr, io::IsTerminal, os::unix::fs::MetadataExt, path::Path, sync::Arc};
use xsnap::{
    archive::copy::copy as bring,
    error::Error,
    id::SnapshotId,
    repo::{
        config::Config,
        copy::{CopyOptions, Fate, Losses, Moved, are_alike},
        init::{InitOptions, Naming},
        keys::Cost,
        opening::{Access, Presence, probe},
        repository::Repository,
        snapshot::Snapshot,
        usage::usage,
    },
    storage::{
        local::LocalStorage,
        object::{Reserve, Storage},
    },
};

#[derive(Serialize)]
struct JsonLost<'a> {
    path: JsonBytes,
    why: &'a str,
}

#[derive(Serialize)]
struct JsonCopied<'a> {
    message: &'static str,
    id: String,
    short_id: String,
    fate: &'static str,
    read_bytes: u64,
    added_blobs: u64,
    added_raw_bytes: u64,
    added_stored_bytes: u64,
    lost_paths: u64,
    lost: Vec<JsonLost<'a>>,
}

#[derive(Serialize)]
struct JsonCopy {
    message: &'static str,
    dry_run: bool,
    verified: bool,
    from: String,
    to: String,
    by_id: bool,
    copied: u64,
    there: u64,
    newer: u64,
    updated: u64,
    lost: u64,
    read_bytes: u64,
    added_blobs: u64,
    added_raw_bytes: u64,
    added_stored_bytes: u64,
}

/// Brings snapshots into another repository.
pub fn copy(session: &Session<'_>, words: &Copy) -> Result<u8> {
    let path = session.repo_path()?;
    refuse_same(path, &words.to)?;
    let writes = |wanted: bool| if wanted && !words.dry_run { Access::Write } else { Access::Read };
    let opened = session.open(writes(words.both));
    let mut source = opened.with_context(|| format!("cannot copy from {}", shown(path)))?;
    let ids = chosen(session, &source, words)?;
    let opened = open_or_make(session, words, &source, writes(true));
    let (mut target, is_new) = opened.with_context(|| format!("cannot copy to {}", shown(&words.to)))?;
    let cluster = words.choice.cluster.as_deref().filter(|_| !words.among_others);
    if let Some(cluster) = cluster {
        refuse_others(&target, cluster)?;
    }
    for (from, to) in [(&source, &target), (&target, &source)].into_iter().take(1 + usize::from(words.both)) {
        if from.is_encrypted() && !to.is_encrypted() {
            let (from, to) = (from.storage().location(), to.storage().location());
            session.screen.note(&format!(
                "{from} is encrypted and {to} is NOT: whoever has it can read everything that is copied to it"
            ));
        }
    }
    let there = one_way(session, words, &source, &mut target, &ids)?;
    if !words.both {
        let leftovers = cluster.filter(|_| !is_new && !words.dry_run).map(|_| tell_leftovers(session, &target));
        return Ok(leftovers.transpose()?.map_or(there, |code| code.max(there)));
    }
    let ids = chosen(session, &target, words)?;
    Ok(one_way(session, words, &target, &mut source, &ids)?.max(there))
}

/// A repository is not copied to itself, whatever its paths are called.
fn refuse_same(from: &Path, to: &Path) -> Result<()> {
    let of = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    if of(from).is_some_and(|inode| of(to) == Some(inode)) {
        bail!(Error::Usage(format!("{} and {} are the same repository", shown(from), shown(to))));
    }
    Ok(())
}

/// A repository that is to hold a cluster and nothing else holds no other snapshots. Of a damaged one nobody knows.
fn refuse_others(target: &Repository, cluster: &str) -> Result<()> {
    let is_other = |s: &&Snapshot| s.cluster.as_ref().is_none_or(|of| of.name != cluster);
    let others = target.snapshots().iter().filter(is_other).count() + target.damaged_snapshots().len();
    if others > 0 {
        let (others, place) = (count(others as u64, "snapshot"), target.storage().location());
        bail!(Error::Usage(format!(
            "{place} holds {others} that {cluster} is not known to have: to give it away, copy to a fresh repository \
             (forgetting leaves much behind); else say --among-others"
        )));
    }
    Ok(())
}

/// Whether a repository that was there before holds what no snapshot needs, which may have been of others.
fn tell_leftovers(session: &Session<'_>, target: &Repository) -> Result<u8> {
    let unneeded = usage(target, &|_| true, session.screen)?.packs.unneeded;
    if unneeded.blobs == 0 {
        return Ok(0);
    }
    let (blobs, bytes) = (count(unneeded.blobs, "blob"), size(unneeded.stored_bytes));
    session.screen.alarm(&format!(
        "there are {blobs} ({bytes}) that no snapshot needs, and they may be of others: before it is given away, \
         `xsnap prune --max-unused 0`, or copy to a fresh repository"
    ))?;
    Ok(3)
}

/// The snapshots that some words name, or choose where they name none.
fn chosen(session: &Session<'_>, source: &Repository, words: &Copy) -> Result<HashSet<SnapshotId>> {
    if words.ids.is_empty() {
        let selection = selection(&words.choice);
        let mut found: Vec<&Snapshot> = source.snapshots().iter().filter(|s| selection.takes(s)).collect();
        if let Some(latest) = words.latest {
            keep_latest(&mut found, latest);
        }
        return Ok(found.into_iter().map(|s| s.id).collect());
    }
    let one = |word: &String| {
        if word.contains(':') {
            bail!(Error::Usage(format!("{word}: name a snapshot, without a path in it")));
        }
        let found = session.chosen(source, OsStr::new(word), &words.choice)?.0;
        let of = found.cluster.as_ref().map(|cluster| cluster.name.as_str());
        match words.choice.cluster.as_deref() {
            Some(cluster) if of != Some(cluster) => {
                bail!(Error::Usage(format!("{word} is no snapshot of {cluster}")))
            }
            _ => Ok(found.id),
        }
    };
    words.ids.iter().map(one).collect()
}

/// Opens the repository to copy to, or makes it where there is none, but not for a dry run, which writes nothing. Says
/// whether it was made.
fn open_or_make(
    session: &Session<'_>,
    words: &Copy,
    source: &Repository,
    access: Access,
) -> Result<(Repository, bool)> {
    let cargo = Cargo::read(&words.aboard)?;
    let path = words.to.as_path();
    session.refuse_unmounted(path, words.allow_unmounted)?;
    if path.metadata().is_ok_and(|m| !m.is_dir()) {
        bail!(Error::Usage(format!("{} is a file, and a repository is a folder", shown(path))));
    }
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::new(path));
    let (file, command) = (words.to_password_file.as_deref(), words.to_password_command.as_deref());
    let password = password_from(file, command, "XSNAP_TO_PASSWORD")?;
    if probe(storage.as_ref())? != Presence::Nothing {
        let opened = session.open_asking(storage, access, password, "Password of the repository to copy to: ")?;
        return Ok((opened, false));
    }
    if words.dry_run {
        bail!(Error::NoRepository { location: storage.location() });
    }
    if password.is_none() {
        let confirmed = if std::io::stdin().is_terminal() { is_confirmed(path)? } else { !source.is_encrypted() };
        if !confirmed {
            bail!(Error::Usage(
                "nothing was made: give a password for it with --to-password-file, --to-password-command or \
                 XSNAP_TO_PASSWORD, or make it with `xsnap init`"
                    .into()
            ));
        }
    }
    // An identity key must not lie in clear, and names that nobody keyed are not for a repository that hides things.
    let likeness = source.likeness();
    // Nor does a customer get a key that tells of the content of other repositories.
    let is_shared =
        source.is_encrypted() == password.is_some() && (words.choice.cluster.is_none() || password.is_none());
    let naming = if is_shared { Naming::Like(likeness.0) } else { Naming::Own };
    let config = Config { chunks: likeness.1, ..Config::default() };
    let made = make(session, storage, InitOptions { config, password, naming, cost: Cost::DEFAULT })?;
    cargo.load(session, path)?;
    Ok((made, true))
}

/// Copies in one direction, and says what came of it.
fn one_way(
    session: &Session<'_>,
    words: &Copy,
    source: &Repository,
    target: &mut Repository,
    ids: &HashSet<SnapshotId>,
) -> Result<u8> {
    let screen = session.screen;
    let (from, to) = (source.storage().location(), target.storage().location());
    let options = CopyOptions {
        update: words.update,
        verify: words.verify,
        reserve: words.reserve.map_or(Reserve::Usual, Reserve::Bytes),
        threads: session.threads(),
        dry_run: words.dry_run,
    };
    let mut sum = JsonCopy {
        message: "copy",
        dry_run: words.dry_run,
        verified: words.verify,
        from,
        to,
        by_id: are_alike(source, target),
        copied: 0,
        there: 0,
        newer: 0,
        updated: 0,
        lost: 0,
        read_bytes: 0,
        added_blobs: 0,
        added_raw_bytes: 0,
        added_stored_bytes: 0,
    };
    let mut unshown = None;
    screen.begin("copy");
    let mut told = |snapshot: &Snapshot, fate: &Fate, moved: Moved| {
        let counter = match fate {
            Fate::Copied => &mut sum.copied,
            Fate::There => &mut sum.there,
            Fate::Newer => &mut sum.newer,
            Fate::Updated => &mut sum.updated,
            Fate::Lost(_) => &mut sum.lost,
        };
        *counter += 1;
        sum.read_bytes += moved.read_bytes;
        sum.added_blobs += moved.added.blobs;
        sum.added_raw_bytes += moved.added.raw_bytes;
        sum.added_stored_bytes += moved.added.stored_bytes;
        let shown = show(session, words.dry_run, snapshot, fate, moved);
        unshown = unshown.take().or(shown.err());
    };
    let copied = bring(source, target, ids, &options, (screen, &mut told));
    screen.end();
    copied?;
    if let Some(e) = unshown {
        return Err(e);
    }
    // What the medium cannot promise may have turned out only while writing.
    target.notes().iter().for_each(|note| screen.note(note));
    let is_in = |repository: &Repository, id| repository.snapshots().iter().any(|s| s.id == id);
    let unreadable = source.damaged_snapshots().iter().filter_map(|d| Some(SnapshotId::from_object(&d.name)?.0));
    let left_out = unreadable.filter(|id| !is_in(source, *id) && !is_in(target, *id)).count();
    let code = conclude(session, &sum)?;
    Ok(if left_out > 0 && words.ids.is_empty() { 3 } else { code })
}

fn fate_word(fate: &Fate) -> &'static str {
    match fate {
        Fate::Copied => "copied",
        Fate::There => "there",
        Fate::Newer => "newer",
        Fate::Updated => "updated",
        Fate::Lost(_) => "lost",
    }
}

/// Says what became of a snapshot; of those that were there, only programs are told.
fn show(session: &Session<'_>, dry_run: bool, snapshot: &Snapshot, fate: &Fate, moved: Moved) -> Result<()> {
    let none = Losses::default();
    let losses = if let Fate::Lost(losses) = fate { losses } else { &none };
    session.screen.object(&JsonCopied {
        message: "copied snapshot",
        id: snapshot.id.to_string(),
        short_id: snapshot.id.short(),
        fate: fate_word(fate),
        read_bytes: moved.read_bytes,
        added_blobs: moved.added.blobs,
        added_raw_bytes: moved.added.raw_bytes,
        added_stored_bytes: moved.added.stored_bytes,
        lost_paths: losses.count,
        lost: losses.paths.iter().map(|(path, why)| JsonLost { path: json_bytes(path), why }).collect(),
    })?;
    let would = if dry_run { "would be " } else { "" };
    let name = format!("{} of {}, {}", snapshot.id.short(), clean(&snapshot.host), time_text(snapshot.time));
    match fate {
        Fate::There => Ok(()),
        Fate::Copied => {
            let (raw, stored) = (size(moved.added.raw_bytes), size(moved.added.stored_bytes));
            session.screen.say(&format!("{name}: {would}copied, {raw} added ({stored} stored)"))
        }
        Fate::Updated => session.screen.say(&format!("{name}: tags, label and protection {would}taken over")),
        Fate::Newer => session.screen.say(&format!(
            "{name}: it is there, and its tags, label or protection were changed since (--update takes them over)"
        )),
        Fate::Lost(losses) => {
            let lost = count(losses.count, "lost path");
            session.screen.alarm(&format!("{name}: NOT copied, for it is damaged: {lost}"))?;
            let line = |(path, why): &(Vec<u8>, String)| {
                session.screen.alarm(&format!("  lost: {}: {}", clean(path), clean(why.as_bytes())))
            };
            losses.paths.iter().try_for_each(line)
        }
    }
}

fn conclude(session: &Session<'_>, sum: &JsonCopy) -> Result<u8> {
    session.screen.object(sum)?;
    let (would, about) = if sum.dry_run { ("would be ", "about ") } else { ("", "") };
    let to = clean(sum.to.as_bytes());
    let also = [(sum.updated, "updated"), (sum.newer, "changed since and not updated"), (sum.lost, "not copied")];
    let also: String = also.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!(", {n} {what}")).collect();
    let copied = count(sum.copied, "snapshot");
    session.screen.say(&format!("{copied} {would}copied to {to}, {} there already{also}", sum.there))?;
    session.screen.say(&format!(
        "{about}{} {would}read, {about}{} {would}added ({} stored)",
        size(sum.read_bytes),
        size(sum.added_raw_bytes),
        size(sum.added_stored_bytes)
    ))?;
    if sum.verified && sum.copied > 0 {
        session.screen.say("everything written was read back and is right")?;
    }
    if sum.lost > 0 {
        session.screen.say("what is lost may be found again: see `xsnap repair --help`; another copy then goes on")?;
    }
    Ok(if sum.lost > 0 { 3 } else { 0 })
}
