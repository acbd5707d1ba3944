//! diff.

use crate::cli::{
    commands::{
        compare_nodes::compare_nodes,
        show::{kind, owner_text},
    },
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, time_text},
    words::compare::Diff,
};
use anyhow::Result;
use serde::Serialize;
use std::{
    ffi::OsStr,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
};
use xsnap::{
    archive::{
        changes::{Aspect, Change, Comparison, Difference, Tally, Totals},
        compare::compare,
        drift::{DriftRequest, drift},
        filter::Patterns,
        request::Selected,
    },
    blobs::reader::Reader,
    error::Error,
    repo::{
        listing,
        opening::Access,
        snapshot::Snapshot,
        tree::{Entry, Node},
    },
};

/// What a captured management node has otherwise than the machine.
const OF_CAPTURES: [&str; 3] = ["/.xsnap", "/etc/xcat/*.sqlite", "/etc/xcat/*.sqlite-*"];

/// Compares two snapshots, or one with this machine.
pub fn diff(session: &Session<'_>, words: &Diff) -> Result<u8> {
    let exclude = Patterns::new(&words.exclude)?;
    let repository = session.open(Access::Read)?;
    let reader = repository.tree_reader()?;
    let (before, before_path) = session.chosen(&repository, &words.before, &words.choice)?;
    let (comparison, after) = match &words.after {
        Some(word) => {
            let (after, after_path) = session.chosen(&repository, word, &words.choice)?;
            let has_path = |word: &OsStr| word.as_bytes().contains(&b':');
            let (before_path, after_path) = match (has_path(&words.before), has_path(word)) {
                (true, false) => (before_path.clone(), before_path),
                (false, true) => (after_path.clone(), after_path),
                _ => (before_path, after_path),
            };
            if before.sources != after.sources && before_path.is_empty() && after_path.is_empty() {
                session.screen.note("the two snapshots are of different paths");
            }
            // Of all the questions after an upgrade, the first: so it is answered before any file is looked at.
            if before_path.is_empty() && after_path.is_empty() {
                compare_nodes(session, &repository, before, after)?;
            }
            session.screen.begin("compare");
            let tops = (entry_at(&reader, before, &before_path)?, entry_at(&reader, after, &after_path)?);
            let before = Selected { entry: &tops.0, path: &before_path, sources: &before.sources };
            let selected = Selected { entry: &tops.1, path: &after_path, sources: &after.sources };
            (compare(&reader, &before, &selected, &exclude, session.screen), Some(after))
        }
        None => {
            let exclude = live_patterns(session, words, before, exclude)?;
            session.screen.begin("compare");
            (live(session, words, &exclude, &reader, (before, &before_path)), None)
        }
    };
    session.screen.end();
    let mut comparison = comparison?;
    if words.no_metadata {
        comparison.without_metadata();
    }
    show_comparison(session, &comparison, before, after)
}

fn entry_at(reader: &Reader, snapshot: &Snapshot, path: &[u8]) -> Result<Entry> {
    let found = listing::find(reader, &snapshot.root, path)?;
    Ok(found.ok_or_else(|| Error::Usage(format!("snapshot {} has no {}", snapshot.id.short(), clean(path))))?)
}

/// What is left out of a comparison with this machine: of a captured management node, also what only the snapshot has, and
/// copies of tables, which never are the same bytes as the files that a running database writes.
fn live_patterns(session: &Session<'_>, words: &Diff, before: &Snapshot, exclude: Patterns) -> Result<Patterns> {
    if before.cluster.is_none() {
        return Ok(exclude);
    }
    session.screen.note(
        "/.xsnap, which only the snapshot has, and the files of xCAT's tables, of which it has copies, are left out: \
         `xsnap backup` and a diff of two snapshots tell how tables differ",
    );
    let own = OF_CAPTURES.map(str::to_owned);
    Ok(Patterns::new(words.exclude.iter().cloned().chain(own))?)
}

fn live(
    session: &Session<'_>,
    words: &Diff,
    exclude: &Patterns,
    reader: &Reader,
    (snapshot, path): (&Snapshot, &[u8]),
) -> Result<Comparison, Error> {
    let found = listing::find(reader, &snapshot.root, path)?;
    found.ok_or_else(|| Error::Usage(format!("snapshot {} has no {}", snapshot.id.short(), clean(path))))?;
    let own_name = rustix::system::uname().nodename().to_bytes().to_vec();
    if snapshot.host != own_name {
        let (host, own_name) = (clean(&snapshot.host), clean(&own_name));
        session.screen.note(&format!("the snapshot is of {host}, and this machine calls itself {own_name}"));
    }
    let own = session.global.repo.as_ref().and_then(|path| path.metadata().ok());
    let skip: Vec<(u64, u64)> = own.map(|m| (m.dev(), m.ino())).into_iter().collect();
    let (exclude_caches, read_all) = (words.exclude_caches, words.read_all);
    let request = DriftRequest { snapshot, path, exclude, exclude_caches, read_all, skip: &skip };
    drift(reader, &request, session.screen)
}

#[derive(Serialize)]
pub struct JsonState {
    kind: &'static str,
    size: Option<u64>,
    mode: u32,
    uid: u32,
    gid: u32,
    user: JsonBytes,
    group: JsonBytes,
    mtime_seconds: i64,
    mtime_nanoseconds: u32,
    target: Option<JsonBytes>,
    device: Option<(u32, u32)>,
}

/// An entry as it was or is, for programs.
pub fn json_state(entry: &Entry) -> JsonState {
    let m = &entry.metadata;
    JsonState {
        kind: kind(&entry.node).0,
        size: size_of(entry),
        mode: m.mode,
        uid: m.owner.uid,
        gid: m.owner.gid,
        user: json_bytes(&m.owner.user),
        group: json_bytes(&m.owner.group),
        mtime_seconds: m.mtime.seconds,
        mtime_nanoseconds: m.mtime.nanoseconds,
        target: if let Node::Symlink { target } = &entry.node { Some(json_bytes(target)) } else { None },
        device: match entry.node {
            Node::CharDevice { device } | Node::BlockDevice { device } => Some(device),
            _ => None,
        },
    }
}

/// The length of a file.
pub fn size_of(entry: &Entry) -> Option<u64> {
    if let Node::File { size_bytes, .. } = entry.node { Some(size_bytes) } else { None }
}

#[derive(Serialize)]
struct JsonDifference {
    message: &'static str,
    change: &'static str,
    path: JsonBytes,
    from: Option<JsonBytes>,
    aspects: Vec<&'static str>,
    perhaps: bool,
    before: Option<JsonState>,
    after: Option<JsonState>,
}

#[derive(Serialize)]
struct JsonTally {
    entries: u64,
    files: u64,
    bytes: u64,
}

impl From<Tally> for JsonTally {
    fn from(t: Tally) -> Self {
        Self { entries: t.entries, files: t.files, bytes: t.bytes }
    }
}

#[derive(Serialize)]
struct JsonDiff {
    message: &'static str,
    before: String,
    after: Option<String>,
    added: JsonTally,
    removed: JsonTally,
    changed_before: JsonTally,
    changed_after: JsonTally,
    metadata: u64,
    renamed: JsonTally,
    perhaps: u64,
    unknown: u64,
    problems: u64,
}

/// The sign of a change, and its word for programs.
fn word_for(difference: &Difference) -> (char, &'static str) {
    match difference.change {
        Change::Added => ('+', "added"),
        Change::Removed => ('-', "removed"),
        Change::Renamed { .. } => ('R', "renamed"),
        Change::Changed if difference.is_metadata_only() => ('M', "metadata"),
        Change::Changed => ('C', "changed"),
    }
}

fn aspect_word(aspect: Aspect) -> &'static str {
    match aspect {
        Aspect::Kind => "kind",
        Aspect::Content => "content",
        Aspect::Target => "target",
        Aspect::Device => "device",
        Aspect::Mode => "mode",
        Aspect::Owner => "owner",
        Aspect::Time => "time",
        Aspect::Attributes => "attributes",
        Aspect::Links => "links",
    }
}

fn show_comparison(
    session: &Session<'_>,
    comparison: &Comparison,
    before: &Snapshot,
    after: Option<&Snapshot>,
) -> Result<u8> {
    for difference in &comparison.differences {
        if session.screen.is_json() {
            session.screen.object(&json_difference(difference))?;
        } else {
            session.screen.line(&line(difference))?;
        }
    }
    let t = comparison.totals();
    session.screen.object(&JsonDiff {
        message: "diff",
        before: before.id.to_string(),
        after: after.map(|after| after.id.to_string()),
        added: t.added.into(),
        removed: t.removed.into(),
        changed_before: t.changed_before.into(),
        changed_after: t.changed_after.into(),
        metadata: t.metadata,
        renamed: t.renamed.into(),
        perhaps: t.perhaps,
        unknown: t.unknown,
        problems: session.screen.problems(),
    })?;
    session.screen.say(&summary(&t))?;
    if t.perhaps > 0 {
        let perhaps = count(t.perhaps, "difference");
        let advice = if after.is_none() { "; --exclude leaves out here, too, what the backup left out" } else { "" };
        session.screen.note(&format!(
            "{perhaps} marked with ?: the other side has left something out in the same folder{advice}"
        ));
    }
    if t.unknown > 0 {
        session.screen.note(&format!("{} could not be compared", count(t.unknown, "name")));
    }
    Ok(if session.screen.problems() == 0 { 0 } else { 3 })
}

fn json_difference(difference: &Difference) -> JsonDifference {
    JsonDifference {
        message: "difference",
        change: word_for(difference).1,
        path: json_bytes(&difference.path),
        from: if let Change::Renamed { from } = &difference.change { Some(json_bytes(from)) } else { None },
        aspects: difference.aspects.iter().copied().map(aspect_word).collect(),
        perhaps: difference.perhaps,
        before: difference.before.as_ref().map(json_state),
        after: difference.after.as_ref().map(json_state),
    }
}

fn line(difference: &Difference) -> String {
    let mark = if difference.perhaps { '?' } else { ' ' };
    let from = match &difference.change {
        Change::Renamed { from } => format!("{} -> ", clean(from)),
        _ => String::new(),
    };
    let detail = match (&difference.before, &difference.after) {
        (Some(before), Some(after)) => {
            let details = difference.aspects.iter().map(|aspect| detail(*aspect, before, after));
            details.collect::<Vec<_>>().join(", ")
        }
        (Some(one), None) | (None, Some(one)) => size_of(one).map(size).unwrap_or_default(),
        _ => String::new(),
    };
    let detail = if detail.is_empty() { detail } else { format!("  ({detail})") };
    format!("{}{mark} {from}{}{detail}", word_for(difference).0, clean(&difference.path))
}

/// What an aspect was, and what it is.
fn detail(aspect: Aspect, before: &Entry, after: &Entry) -> String {
    let (a, b) = (&before.metadata, &after.metadata);
    let change = |a: String, b: String| format!("{} {a} -> {b}", aspect_word(aspect));
    let device = |entry: &Entry| match entry.node {
        Node::CharDevice { device: (major, minor) } | Node::BlockDevice { device: (major, minor) } => {
            format!("{major},{minor}")
        }
        _ => String::new(),
    };
    match (aspect, &before.node, &after.node) {
        (Aspect::Kind, a, b) => change(kind(a).0.into(), kind(b).0.into()),
        (Aspect::Content, Node::File { size_bytes: a, .. }, Node::File { size_bytes: b, .. }) if a != b => {
            change(size(*a), size(*b))
        }
        (Aspect::Target, Node::Symlink { target: a }, Node::Symlink { target: b }) => change(clean(a), clean(b)),
        (Aspect::Device, ..) => change(device(before), device(after)),
        (Aspect::Mode, ..) => change(format!("{:04o}", a.mode), format!("{:04o}", b.mode)),
        (Aspect::Owner, ..) => change(owner_text(&a.owner), owner_text(&b.owner)),
        (Aspect::Time, ..) => change(time_text(a.mtime), time_text(b.mtime)),
        _ => aspect_word(aspect).into(),
    }
}

fn summary(t: &Totals) -> String {
    let of = |tally: &Tally, word: &str| {
        (tally.entries > 0).then(|| format!("{} {word} ({})", tally.entries, size(tally.bytes)))
    };
    let changed = (t.changed_after.entries > 0).then(|| {
        let (before, after) = (size(t.changed_before.bytes), size(t.changed_after.bytes));
        format!("{} changed ({before} -> {after})", t.changed_after.entries)
    });
    let metadata = (t.metadata > 0).then(|| format!("{} in metadata only", t.metadata));
    let parts = [of(&t.added, "added"), of(&t.removed, "removed"), of(&t.renamed, "renamed"), changed, metadata];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "no differences".into() } else { parts.join(", ") }
}
