//! list, ls, cat, dump.

use crate::cli::{
    args::{Cat, Dump, List, Ls},
    render::{JsonBytes, clean, count, json_bytes, size},
    session::{Session, selection, time_text},
};
use anyhow::{Result, bail};
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use std::{
    collections::{BTreeSet, HashMap},
    io::{IsTerminal, Write},
};
use xsnap::{
    archive::dump::{dump_file, dump_folder},
    blobs::reader::Reader,
    error::Error,
    id::SnapshotId,
    repo::{
        cluster::Cluster,
        listing::{Listing, find, listing},
        opening::Access,
        snapshot::Snapshot,
        tree::{Entry, Node, Owner},
    },
};

/// A snapshot as programs see it.
#[derive(Serialize)]
pub struct JsonSnapshot<'a> {
    message: &'static str,
    id: String,
    short_id: String,
    time: String,
    commit: u64,
    host: JsonBytes,
    tags: &'a [String],
    label: &'a str,
    sources: Vec<JsonBytes>,
    parent: Option<String>,
    complete: bool,
    protected: bool,
    files: u64,
    folders: u64,
    others: u64,
    bytes: u64,
    problems: u64,
    added_raw_bytes: u64,
    added_stored_bytes: u64,
    program: &'a str,
    cluster: Option<JsonCluster<'a>>,
}

/// The cluster of a snapshot as programs see it.
#[derive(Serialize)]
struct JsonCluster<'a> {
    name: &'a str,
    customer: &'a str,
    order: &'a str,
    serials: &'a [String],
    xcat: &'a str,
    distribution: &'a str,
    nodes: u64,
}

#[derive(Serialize)]
struct JsonListed<'a> {
    #[serde(flatten)]
    snapshot: JsonSnapshot<'a>,
    damaged: bool,
}

/// Lists the snapshots, and marks those that the last check has found damaged.
pub fn list(session: &Session<'_>, words: &List) -> Result<u8> {
    let repository = session.open(Access::Read)?;
    let chosen = selection(&words.choice);
    let mut snapshots: Vec<&Snapshot> = repository.snapshots().iter().filter(|s| chosen.takes(s)).collect();
    if let Some(latest) = words.latest {
        keep_latest(&mut snapshots, latest);
    }
    let damaged = repository.marked_damaged()?;
    if session.screen.is_json() {
        snapshots.iter().try_for_each(|s| {
            session.screen.object(&JsonListed { snapshot: json_snapshot(s), damaged: damaged.contains(&s.id) })
        })?;
        return Ok(0);
    }
    if snapshots.is_empty() {
        session.screen.say("no snapshots")?;
        return Ok(0);
    }
    session.screen.line(&table(&snapshots, &damaged))?;
    session.screen.say(&count(snapshots.len() as u64, "snapshot"))?;
    match snapshots.iter().filter(|s| damaged.contains(&s.id)).count() as u64 {
        0 => {}
        n => session.screen.alarm(&format!(
            "{} found damaged by the last check: `xsnap check` names what is lost, `xsnap repair` mends what can be mended",
            count(n, "snapshot")
        ))?,
    }
    Ok(0)
}

/// Keeps the latest of each cluster, machine and set of paths.
pub fn keep_latest(snapshots: &mut Vec<&Snapshot>, latest: usize) {
    let mut seen = HashMap::new();
    snapshots.reverse();
    snapshots.retain(|s| {
        let cluster = s.cluster.as_ref().map(|cluster| cluster.name.clone());
        let count = seen.entry((cluster, s.host.clone(), s.asked_for().to_vec())).or_insert(0_usize);
        *count += 1;
        *count <= latest
    });
    snapshots.reverse();
}

fn table(snapshots: &[&Snapshot], damaged: &BTreeSet<SnapshotId>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let has_clusters = snapshots.iter().any(|s| s.cluster.is_some());
    let of_cluster = has_clusters.then_some(["Cluster", "Customer", "xCAT", "Distribution", "Nodes"]);
    let of_all = ["Tags", "Label", "Files", "Size", "Added", "Paths"];
    let header = ["Time", "Id", "Host"].into_iter().chain(of_cluster.into_iter().flatten()).chain(of_all);
    let header: Vec<&str> = header.collect();
    let numbers = header.iter().enumerate().filter(|(_, h)| ["Nodes", "Files", "Size", "Added"].contains(*h));
    let numbers: Vec<usize> = numbers.map(|(at, _)| at).collect();
    table.set_header(header);
    for s in snapshots {
        let is_damaged = damaged.contains(&s.id);
        let marks = [(is_damaged, " (damaged)"), (!s.complete, " (incomplete)"), (s.protected, " (protected)")];
        let marks: String = marks.into_iter().filter_map(|(has, mark)| has.then_some(mark)).collect();
        let mut paths: Vec<String> = s.asked_for().iter().map(|p| clean(p)).collect();
        if s.cluster.is_some() {
            paths.push(format!("management node ({})", count(s.sources.len() as u64, "path")));
        }
        let mut row = vec![time_text(s.time), s.id.short(), clean(&s.host)];
        row.extend(has_clusters.then(|| cluster_cells(s.cluster.as_ref())).into_iter().flatten());
        row.extend([
            clean(s.tags.join(",").as_bytes()),
            clean(format!("{}{marks}", s.label).trim_start().as_bytes()),
            s.counts.files.to_string(),
            size(s.counts.bytes),
            size(s.counts.added_stored_bytes),
            paths.join("\n"),
        ]);
        table.add_row(row);
    }
    for column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// What a list tells of a cluster.
fn cluster_cells(cluster: Option<&Cluster>) -> [String; 5] {
    let Some(c) = cluster else { return Default::default() };
    let [name, customer, xcat, distribution] =
        [&c.name, &c.customer, &c.xcat, &c.distribution].map(|word| clean(word.as_bytes()));
    [name, customer, xcat, distribution, c.nodes.to_string()]
}

/// A snapshot as programs see it.
pub fn json_snapshot(s: &Snapshot) -> JsonSnapshot<'_> {
    let stamp = jiff::Timestamp::new(s.time.seconds, i32::try_from(s.time.nanoseconds).unwrap_or_default());
    JsonSnapshot {
        message: "snapshot",
        id: s.id.to_string(),
        short_id: s.id.short(),
        time: stamp.map(|t| t.to_string()).unwrap_or_default(),
        commit: s.commit,
        host: json_bytes(&s.host),
        tags: &s.tags,
        label: &s.label,
        sources: s.sources.iter().map(|p| json_bytes(p)).collect(),
        parent: s.parent.map(|p| p.to_string()),
        complete: s.complete,
        protected: s.protected,
        files: s.counts.files,
        folders: s.counts.folders,
        others: s.counts.others,
        bytes: s.counts.bytes,
        problems: s.counts.problems,
        added_raw_bytes: s.counts.added_raw_bytes,
        added_stored_bytes: s.counts.added_stored_bytes,
        program: &s.program,
        cluster: s.cluster.as_ref().map(|c| JsonCluster {
            name: &c.name,
            customer: &c.customer,
            order: &c.order,
            serials: &c.serials,
            xcat: &c.xcat,
            distribution: &c.distribution,
            nodes: c.nodes,
        }),
    }
}

fn entry_at(reader: &Reader, snapshot: &Snapshot, path: &[u8]) -> Result<Entry> {
    let found = find(reader, &snapshot.root, path)?;
    Ok(found.ok_or_else(|| no_path(snapshot, path))?)
}

/// What is said where a snapshot does not have a path.
pub fn no_path(snapshot: &Snapshot, path: &[u8]) -> Error {
    let (id, path) = (snapshot.id.short(), clean(path));
    Error::Usage(format!("snapshot {id} has no {path}; `xsnap ls {id}` lists what it has"))
}

#[derive(Serialize)]
struct JsonEntry {
    message: &'static str,
    path: JsonBytes,
    kind: &'static str,
    mode: u32,
    uid: u32,
    gid: u32,
    user: JsonBytes,
    group: JsonBytes,
    size: Option<u64>,
    mtime_seconds: i64,
    mtime_nanoseconds: u32,
    target: Option<JsonBytes>,
    device: Option<(u32, u32)>,
    link: Option<u64>,
    xattrs: Vec<(JsonBytes, JsonBytes)>,
}

/// The word and the letter for what an entry is.
pub fn kind(node: &Node) -> (&'static str, char) {
    match node {
        Node::File { .. } => ("file", '-'),
        Node::Folder { .. } => ("folder", 'd'),
        Node::Symlink { .. } => ("symlink", 'l'),
        Node::CharDevice { .. } => ("char device", 'c'),
        Node::BlockDevice { .. } => ("block device", 'b'),
        Node::Fifo => ("fifo", 'p'),
        Node::Socket => ("socket", 's'),
    }
}

/// Lists what is in a snapshot.
pub fn ls(session: &Session<'_>, words: &Ls) -> Result<u8> {
    let repository = session.open(Access::Read)?;
    let (snapshot, mut path) = session.chosen(&repository, &words.what, &words.choice)?;
    let reader = repository.tree_reader()?;
    let top = entry_at(&reader, snapshot, &path)?;
    let mut damaged = false;
    let mut levels: Vec<(usize, Listing<'_>)> = Vec::new();
    show_entry(session, words, &path, &top)?;
    if let Node::Folder { content } = &top.node {
        levels.push((path.len(), listing(&reader, content, None)));
    }
    while let Some((path_bytes, level)) = levels.last_mut() {
        path.truncate(*path_bytes);
        match level.next() {
            None => drop(levels.pop()),
            Some(Err(e)) if e.is_damage() => {
                damaged = true;
                session.screen.note(&format!("part of the list of {} is lost: {e}", clean(&path)));
            }
            Some(Err(e)) => return Err(e.into()),
            Some(Ok((entry, _))) => {
                path.push(b'/');
                path.extend_from_slice(&entry.name);
                show_entry(session, words, &path, &entry)?;
                if let Node::Folder { content } = &entry.node {
                    levels.push((path.len(), listing(&reader, content, None)));
                }
            }
        }
    }
    Ok(if damaged { 3 } else { 0 })
}

fn show_entry(session: &Session<'_>, words: &Ls, path: &[u8], entry: &Entry) -> Result<()> {
    let path = if path.is_empty() { b"/" } else { path };
    if session.screen.is_json() {
        return session.screen.object(&json_entry(path, entry));
    }
    if !words.long {
        return session.screen.line(&clean(path));
    }
    let owner = &entry.metadata.owner;
    let name = |name: &[u8], id: u32| if name.is_empty() { id.to_string() } else { clean(name) };
    let detail = match &entry.node {
        Node::File { size_bytes, .. } => size_bytes.to_string(),
        Node::CharDevice { device } | Node::BlockDevice { device } => format!("{}, {}", device.0, device.1),
        _ => "-".into(),
    };
    let target = match &entry.node {
        Node::Symlink { target } => format!(" -> {}", clean(target)),
        _ => String::new(),
    };
    session.screen.line(&format!(
        "{} {:<8} {:<8} {detail:>12} {} {}{target}",
        mode_text(kind(&entry.node).1, entry.metadata.mode),
        name(&owner.user, owner.uid),
        name(&owner.group, owner.gid),
        time_text(entry.metadata.mtime),
        clean(path),
    ))
}

/// User and group, by name where they have one.
pub fn owner_text(owner: &Owner) -> String {
    let name = |name: &[u8], id: u32| if name.is_empty() { id.to_string() } else { clean(name) };
    format!("{}:{}", name(&owner.user, owner.uid), name(&owner.group, owner.gid))
}

/// A mode as `ls -l` writes it.
pub fn mode_text(kind: char, mode: u32) -> String {
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn json_entry(path: &[u8], entry: &Entry) -> JsonEntry {
    let m = &entry.metadata;
    let pair = |(name, value): &(Vec<u8>, Vec<u8>)| (json_bytes(name), json_bytes(value));
    JsonEntry {
        message: "entry",
        path: json_bytes(path),
        kind: kind(&entry.node).0,
        mode: m.mode,
        uid: m.owner.uid,
        gid: m.owner.gid,
        user: json_bytes(&m.owner.user),
        group: json_bytes(&m.owner.group),
        size: if let Node::File { size_bytes, .. } = entry.node { Some(size_bytes) } else { None },
        mtime_seconds: m.mtime.seconds,
        mtime_nanoseconds: m.mtime.nanoseconds,
        target: if let Node::Symlink { target } = &entry.node { Some(json_bytes(target)) } else { None },
        device: match entry.node {
            Node::CharDevice { device } | Node::BlockDevice { device } => Some(device),
            _ => None,
        },
        link: entry.link,
        xattrs: m.xattrs.iter().map(pair).collect(),
    }
}

/// Writes files to the standard output.
pub fn cat(session: &Session<'_>, words: &Cat) -> Result<u8> {
    session.screen.give_output_away();
    let repository = session.open(Access::Read)?;
    let trees = repository.tree_reader()?;
    let mut out = std::io::stdout().lock();
    for what in &words.what {
        let (snapshot, path) = session.chosen(&repository, what, &words.choice)?;
        if path.is_empty() {
            bail!(Error::Usage("name a file, as in latest:/etc/hosts".into()));
        }
        let entry = entry_at(&trees, snapshot, &path)?;
        match &entry.node {
            Node::File { content, .. } => dump_file(&repository.reader_of(&entry)?, content, &mut out)?,
            _ => bail!(Error::Usage(format!("{} is no file; `xsnap dump` writes folders as tar", clean(&path)))),
        }
    }
    out.flush()?;
    Ok(0)
}

/// Writes a file, or a folder as tar, to the standard output.
pub fn dump(session: &Session<'_>, words: &Dump) -> Result<u8> {
    session.screen.give_output_away();
    let repository = session.open(Access::Read)?;
    let (snapshot, path) = session.chosen(&repository, &words.what, &words.choice)?;
    let entry = entry_at(&repository.tree_reader()?, snapshot, &path)?;
    if matches!(entry.node, Node::Folder { .. }) && std::io::stdout().is_terminal() {
        bail!(Error::Usage("a tar archive is nothing for a terminal: send it to a file or a program".into()));
    }
    let reader = repository.reader_of(&entry)?;
    let mut out = std::io::BufWriter::with_capacity(1 << 20, std::io::stdout().lock());
    match &entry.node {
        Node::File { content, .. } => dump_file(&reader, content, &mut out)?,
        Node::Folder { .. } => dump_folder(&reader, &entry, &mut out, session.screen)?,
        _ => bail!(Error::Usage(format!("{} is neither a file nor a folder", clean(&path)))),
    }
    out.flush()?;
    Ok(if session.screen.problems() == 0 { 0 } else { 3 })
}
