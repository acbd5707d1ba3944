//! One moment of one machine: what is recorded of it.
//!
//! Both directions of the encoding live here. Knows nothing of where snapshots lie (`repo/repository`), nor of choosing one (`repo/choice`). See
//! `format-spec/06-snapshots.md`.

use crate::{
    blobs::{
        codec::{self, Extensions},
        seal::Secrets,
    },
    error::{Error, Result},
    id::{ObjectName, SnapshotId},
    repo::{
        cluster::Cluster,
        content::{Content, MAX_DEPTH, decode_list, encode_list},
        tree::{Entry, Metadata, Node, Owner, Stat, Time},
    },
    storage::envelope::{HEADER_BYTES, MAX_SMALL_BYTES, TRAILER_BYTES},
};
use bincode::{Decode, Encode};
use std::sync::Arc;

/// Something that could not be captured as it was.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Problem {
    /// The path, as bytes.
    pub path: Vec<u8>,
    /// What was tried.
    pub verb: String,
    /// Why it failed.
    pub cause: String,
}

/// What was counted while a snapshot was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Counts {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Everything else.
    pub others: u64,
    /// Bytes of content, holes included, each name of a hard-linked file counted.
    pub bytes: u64,
    /// Files whose content had to be read.
    pub files_read: u64,
    /// Problems, of which only the first are recorded one by one.
    pub problems: u64,
    /// Blobs that were new.
    pub added_blobs: u64,
    /// Their bytes before compression.
    pub added_raw_bytes: u64,
    /// Bytes of the packs that were written.
    pub added_stored_bytes: u64,
}

/// What kind of thing a snapshot is of, and everything recorded of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Random; survives copies and changes of tags.
    pub id: SnapshotId,
    /// When the backup began.
    pub time: Time,
    /// One more than the highest number that was in the repository when this was put.
    pub commit: u64,
    /// Name of the machine.
    pub host: Vec<u8>,
    /// The paths that were asked for, absolute.
    pub sources: Vec<Vec<u8>>,
    /// Words to choose by.
    pub tags: Vec<String>,
    /// A line for people.
    pub label: String,
    /// The snapshot that this one was compared with while it was made.
    pub parent: Option<SnapshotId>,
    /// The root folder, with an empty name.
    pub root: Entry,
    /// The stats of the root folder.
    pub root_stat: Stat,
    /// What was counted.
    pub counts: Counts,
    /// Whether everything that was asked for is in it.
    pub complete: bool,
    /// What is not in it as it was, and why: the first thousand, of at most 1 MiB together.
    pub problems: Vec<Problem>,
    /// Never to be forgotten by a policy.
    pub protected: bool,
    /// The version of xsnap that made it.
    pub program: String,
    /// The cluster that the machine manages, if it was captured as a management node.
    pub cluster: Option<Cluster>,
    /// Room for later versions; kept by copies.
    pub extensions: Extensions,
}

/// The extension that says that something that was in the root folder is not here; it has no bytes.
const PARTIAL_ROOT_TAG: u32 = 1;
/// The extension that holds the cluster. One that makes no sense here is kept among the others as it is.
const CLUSTER_TAG: u32 = 2;

/// How many problems are recorded one by one.
pub const MAX_PROBLEMS: usize = 1000;
/// How many bytes their paths and words may have together: a path may be longer than a snapshot should be.
pub const MAX_PROBLEMS_BYTES: usize = 1 << 20;

/// Problems that a snapshot records one by one: the first, within a budget. All are to be counted elsewhere.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    kept: Vec<Problem>,
    held_bytes: usize,
}

impl Problems {
    /// Keeps a problem if there is room for it.
    pub fn push(&mut self, problem: Problem) {
        let bytes = problem.path.len() + problem.verb.len() + problem.cause.len() + 16;
        if self.kept.len() < MAX_PROBLEMS && self.held_bytes + bytes <= MAX_PROBLEMS_BYTES {
            self.held_bytes += bytes;
            self.kept.push(problem);
        }
    }

    /// What was kept.
    pub fn into_kept(self) -> Vec<Problem> {
        self.kept
    }
}

impl FromIterator<Problem> for Problems {
    fn from_iter<I: IntoIterator<Item = Problem>>(problems: I) -> Self {
        let mut kept = Self::default();
        problems.into_iter().for_each(|problem| kept.push(problem));
        kept
    }
}

/// The snapshot as stored. Its root is kept as a piece of one entry named `/`, so that trees have one encoding.
#[derive(Encode, Decode)]
struct Stored {
    id: SnapshotId,
    time: Time,
    commit: u64,
    host: Vec<u8>,
    sources: Vec<Vec<u8>>,
    tags: Vec<String>,
    label: String,
    parent: Option<SnapshotId>,
    mode: u32,
    owner: Owner,
    mtime: Time,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    content: StoredContent,
    ctime: Option<Time>,
    inode: u64,
    device: u64,
    stats: Option<StoredContent>,
    counts: Counts,
    complete: bool,
    problems: Vec<Problem>,
    protected: bool,
    program: String,
    extensions: Extensions,
}

/// Content as a snapshot holds it: depth, and a list blob's bytes.
type StoredContent = (u8, Vec<u8>);

fn store_content(content: &Content) -> StoredContent {
    (content.depth, encode_list(&content.runs))
}

fn load_content(stored: &StoredContent, object: &str) -> Result<Content> {
    let runs = decode_list(&stored.1, object)?;
    if stored.0 > MAX_DEPTH {
        return Err(Error::damaged(object, "its lists are nested too deeply"));
    }
    Ok(Content { depth: stored.0, runs })
}

/// Takes the cluster out of the extensions, if there is one that makes sense.
fn take_cluster(extensions: &mut Extensions) -> Option<Cluster> {
    let of = |(tag, bytes): &(u32, Vec<u8>)| (*tag == CLUSTER_TAG).then(|| Cluster::decode(bytes)).flatten();
    let (at, cluster) = extensions.iter().enumerate().find_map(|(at, extension)| Some((at, of(extension)?)))?;
    extensions.remove(at);
    Some(cluster)
}

impl Snapshot {
    /// The paths that somebody asked for, which tell series of snapshots apart: none for one of a cluster, for which it was
    /// found out what to take.
    pub fn asked_for(&self) -> &[Vec<u8>] {
        if self.cluster.is_some() { &[] } else { &self.sources }
    }

    /// The body of the object of this name that holds this snapshot, sealed; of its problems, those that fit.
    ///
    /// # Errors
    /// `Usage` where it would be larger than a reader accepts. `File` when the system has no randomness.
    pub fn seal(&self, secrets: &Secrets, name: &ObjectName) -> Result<Vec<u8>> {
        let Node::Folder { content } = &self.root.node else {
            return Err(Error::Usage("the root of a snapshot is a folder".into()));
        };
        let partial = self.root.partial.then_some((PARTIAL_ROOT_TAG, Vec::new())).into_iter();
        let cluster = self.cluster.as_ref().map(|cluster| Ok((CLUSTER_TAG, cluster.encode()?))).transpose()?;
        let stored = Stored {
            id: self.id,
            time: self.time,
            commit: self.commit,
            host: self.host.clone(),
            sources: self.sources.clone(),
            tags: self.tags.clone(),
            label: self.label.clone(),
            parent: self.parent,
            mode: self.root.metadata.mode,
            owner: Owner::clone(&self.root.metadata.owner),
            mtime: self.root.metadata.mtime,
            xattrs: self.root.metadata.xattrs.to_vec(),
            content: store_content(content),
            ctime: self.root_stat.ctime,
            inode: self.root_stat.inode,
            device: self.root_stat.device,
            stats: self.root_stat.folder.as_ref().map(store_content),
            counts: self.counts,
            complete: self.complete,
            problems: self.problems.iter().cloned().collect::<Problems>().into_kept(),
            protected: self.protected,
            program: self.program.clone(),
            extensions: partial.chain(cluster).chain(self.extensions.iter().cloned()).collect(),
        };
        let body = secrets.seal_body(name, &[], &codec::encode_bounded(&stored, "the snapshot")?)?;
        if (HEADER_BYTES + body.len() + TRAILER_BYTES) as u64 > MAX_SMALL_BYTES {
            return Err(Error::Usage(format!("the snapshot is too large to be stored ({} bytes)", body.len())));
        }
        Ok(body)
    }

    /// Opens the body of a snapshot object.
    ///
    /// # Errors
    /// `Damaged`, naming `object`.
    pub fn open(secrets: &Secrets, name: &ObjectName, body: &[u8], object: &str) -> Result<Self> {
        let bytes = secrets.open_body(name, &[], body);
        let bytes = bytes.ok_or_else(|| Error::damaged(object, "its body does not match its proof"))?;
        let s: Stored = codec::decode(&bytes, object)?;
        if SnapshotId::from_object(name).map(|(id, _)| id) != Some(s.id) {
            return Err(Error::damaged(object, "it holds another snapshot than its name says"));
        }
        if s.mtime.nanoseconds >= 1_000_000_000 {
            return Err(Error::damaged(object, "its root has an impossible time"));
        }
        let xattrs = Arc::new(s.xattrs);
        let metadata = Metadata { mode: s.mode & 0o7777, owner: Arc::new(s.owner), mtime: s.mtime, xattrs };
        let node = Node::Folder { content: load_content(&s.content, object)? };
        let stats = s.stats.as_ref().map(|stats| load_content(stats, object)).transpose()?;
        let (partial, mut extensions) =
            s.extensions.into_iter().partition::<Extensions, _>(|(tag, _)| *tag == PARTIAL_ROOT_TAG);
        let partial = !partial.is_empty();
        let cluster = take_cluster(&mut extensions);
        Ok(Self {
            id: s.id,
            time: s.time,
            commit: s.commit,
            host: s.host,
            sources: s.sources,
            tags: s.tags,
            label: s.label,
            parent: s.parent,
            root: Entry { name: Vec::new(), metadata, node, link: None, partial, extensions: Vec::new() },
            root_stat: Stat { ctime: s.ctime, inode: s.inode, device: s.device, folder: stats },
            counts: s.counts,
            complete: s.complete,
            problems: s.problems,
            protected: s.protected,
            program: s.program,
            cluster,
            extensions,
        })
    }

    /// Whether one of the sources is `path` or lies above or below it.
    pub fn touches(&self, path: &[u8]) -> bool {
        let within = |inner: &[u8], outer: &[u8]| {
            let outer = outer.strip_suffix(b"/").unwrap_or(outer);
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        };
        self.sources.iter().any(|source| within(source, path) || within(path, source))
    }
}
