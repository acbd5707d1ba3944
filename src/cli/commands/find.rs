//! find.

use crate::cli::{
    commands::{
        compare::{JsonState, json_state, size_of},
        show::{kind, mode_text, owner_text},
    },
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, selection, time_text},
    words::compare::Find,
};
use anyhow::Result;
use serde::Serialize;
use std::collections::HashMap;
use xsnap::{
    archive::{
        filter::Patterns,
        versions::{Found, Version, Versions, Wanted, versions},
    },
    id::SnapshotId,
    repo::{
        choice::{Selection, choose},
        opening::Access,
        repository::Repository,
        snapshot::Snapshot,
        tree::{Entry, Node},
    },
};

/// How much is written at once: every write to a standard output that ends in a line end is a call of the system.
const PAGE_BYTES: usize = 64 << 10;

/// The snapshots that ids and a selection choose: those named, else all that are selected.
pub fn chosen<'r>(repository: &'r Repository, named: &[String], selection: &Selection) -> Result<Vec<&'r Snapshot>> {
    let all = repository.snapshots();
    if named.is_empty() {
        return Ok(all.iter().filter(|snapshot| selection.takes(snapshot)).collect());
    }
    let mut found = Vec::new();
    for word in named {
        found.push(choose(all, word, selection)?.snapshot);
    }
    found.sort_by_key(|snapshot| (snapshot.commit, snapshot.time, snapshot.id));
    found.dedup_by_key(|snapshot| snapshot.id);
    Ok(found)
}

#[derive(Serialize)]
struct JsonVersion {
    message: &'static str,
    path: JsonBytes,
    #[serde(flatten)]
    state: JsonState,
    content: Option<String>,
    count: u64,
    first: String,
    first_time: String,
    last: String,
    last_time: String,
    hosts: Vec<JsonBytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshots: Option<Vec<String>>,
}

#[derive(Serialize)]
struct JsonFind {
    message: &'static str,
    paths: usize,
    versions: usize,
    snapshots: usize,
    problems: u64,
}

/// Looks for names in many snapshots.
pub fn find(session: &Session<'_>, words: &Find) -> Result<u8> {
    let patterns =
        if words.ignore_case { Patterns::ignoring_case(&words.patterns)? } else { Patterns::new(&words.patterns)? };
    let repository = session.open(Access::Read)?;
    let snapshots = chosen(&repository, &words.snapshot, &selection(&words.choice))?;
    let reader = repository.tree_reader()?;
    session.screen.begin("look");
    let found = versions(&reader, &snapshots, &Wanted { patterns: &patterns, by_metadata: words.long }, session.screen);
    session.screen.end();
    let all = found?;
    let (mut text, mut moments) = (String::new(), Moments::new());
    for found in &all.found {
        add_found(&mut text, session, words, &all, found, &mut moments)?;
        if text.len() >= PAGE_BYTES {
            session.screen.line(text.trim_end_matches('\n'))?;
            text.clear();
        }
    }
    if !text.is_empty() {
        session.screen.line(text.trim_end_matches('\n'))?;
    }
    let (paths, versions) = (all.found.len(), all.found.iter().map(|found| found.versions.len()).sum());
    let problems = session.screen.problems();
    session.screen.object(&JsonFind { message: "find", paths, versions, snapshots: snapshots.len(), problems })?;
    let searched = count(snapshots.len() as u64, "snapshot");
    session.screen.say(&match paths {
        0 => format!("nothing of that name in {searched}"),
        _ => format!("{}, {} in {searched}", count(paths as u64, "path"), count(versions as u64, "version")),
    })?;
    Ok(if problems == 0 { 0 } else { 3 })
}

/// Adds the lines for a path to what is written next.
fn add_found(
    text: &mut String,
    session: &Session<'_>,
    words: &Find,
    all: &Versions<'_>,
    found: &Found,
    moments: &mut Moments,
) -> Result<()> {
    if !session.screen.is_json() {
        text.extend([&clean(&found.path), "\n"]);
    }
    for version in &found.versions {
        let Some(holders) = Holders::of(all, version) else { continue };
        let line = if session.screen.is_json() {
            let snapshots = words.long.then(|| all.snapshots_of(version).map(|s| s.id.to_string()).collect());
            serde_json::to_string(&json_version(found, version, &holders, snapshots))?
        } else {
            version_line(words, version, &holders, moments)
        };
        text.extend([&line, "\n"]);
    }
    Ok(())
}

/// Who has a version.
struct Holders<'a> {
    count: u64,
    first: &'a Snapshot,
    last: &'a Snapshot,
    hosts: Vec<&'a [u8]>,
}

impl<'a> Holders<'a> {
    fn of(all: &Versions<'a>, version: &Version) -> Option<Self> {
        let any = all.snapshots_of(version).next()?;
        let mut holders = Self { count: 0, first: any, last: any, hosts: Vec::new() };
        // Those of one machine come one after the other.
        for own in all.stretches_of(version) {
            let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
            holders.count += own.len() as u64;
            if first.commit < holders.first.commit {
                holders.first = first;
            }
            if last.commit > holders.last.commit {
                holders.last = last;
            }
            if holders.hosts.last() != Some(&first.host.as_slice()) {
                holders.hosts.push(&first.host);
            }
        }
        Some(holders)
    }
}

fn content_key(entry: &Entry) -> Option<String> {
    match &entry.node {
        Node::File { content, .. } => Some(content.key().to_hex().to_string()),
        _ => None,
    }
}

fn json_version(
    found: &Found,
    version: &Version,
    holders: &Holders<'_>,
    snapshots: Option<Vec<String>>,
) -> JsonVersion {
    let time = |s: &Snapshot| {
        let stamp = jiff::Timestamp::new(s.time.seconds, i32::try_from(s.time.nanoseconds).unwrap_or_default());
        stamp.map(|t| t.to_string()).unwrap_or_default()
    };
    JsonVersion {
        message: "version",
        path: json_bytes(&found.path),
        state: json_state(&version.entry),
        content: content_key(&version.entry),
        count: holders.count,
        first: holders.first.id.to_string(),
        first_time: time(holders.first),
        last: holders.last.id.to_string(),
        last_time: time(holders.last),
        hosts: holders.hosts.iter().map(|host| json_bytes(host)).collect(),
        snapshots,
    }
}

/// What is written of a snapshot: many versions begin or end with the same few.
type Moments = HashMap<SnapshotId, String>;

fn version_line(words: &Find, version: &Version, holders: &Holders<'_>, moments: &mut Moments) -> String {
    let entry = &version.entry;
    let what = size_of(entry).map_or_else(|| kind(&entry.node).0.into(), size);
    let detail = match (&entry.node, words.long) {
        (Node::Symlink { target }, _) => format!("  -> {}", clean(target)),
        (Node::File { .. }, true) => format!("  {:.16}", content_key(entry).unwrap_or_default()),
        _ => String::new(),
    };
    let metadata = if words.long {
        format!("{} {}  ", mode_text(kind(&entry.node).1, entry.metadata.mode), owner_text(&entry.metadata.owner))
    } else {
        String::new()
    };
    let mut one = |s: &Snapshot| {
        let text = moments.entry(s.id).or_insert_with(|| format!("{} of {}", s.id.short(), time_text(s.time)));
        text.clone()
    };
    let span = match holders.count {
        1 => one(holders.first),
        _ => format!("{} to {}", one(holders.first), one(holders.last)),
    };
    let hosts: Vec<String> = holders.hosts.iter().map(|host| clean(host)).collect();
    let (mtime, many) = (time_text(entry.metadata.mtime), count(holders.count, "snapshot"));
    format!("  {metadata}{what:>10}  {mtime}{detail}  in {many} of {}: {span}", hosts.join(", "))
}
