//! Forged snapshots: trees that no backup makes, stored as a backup would store them.

use super::{small, storage::Memory};
use std::sync::Arc;
use xsnap::{
    blobs::writer::{Filler, Stream},
    id::{BlobId, SnapshotId},
    repo::{
        content::{Content, Run},
        repository::Repository,
        snapshot::{Counts, Snapshot},
        tree::{Entry, Metadata, Node, Owner, Stat, Time, encode_piece},
    },
    storage::object::Storage,
};

/// Stores blobs for a forged tree.
pub struct Forge {
    data: Filler,
    trees: Filler,
}

impl Forge {
    /// Stores bytes as content, and claims that they are of a certain length.
    pub fn run(&mut self, bytes: &[u8], length_bytes: u64) -> Run {
        Run::Data { id: self.data.put(bytes).unwrap(), length_bytes }
    }

    /// Stores bytes as a tree or list, and claims that they are of a certain length.
    pub fn tree_run(&mut self, bytes: &[u8], length_bytes: u64) -> Run {
        Run::Data { id: self.trees.put(bytes).unwrap(), length_bytes }
    }

    /// A blob that is stored nowhere.
    pub fn nowhere(&self, length_bytes: u64) -> Run {
        Run::Data { id: BlobId([0x5a; 32]), length_bytes }
    }

    /// The content of a file that holds these bytes.
    pub fn content(&mut self, bytes: &[u8]) -> Content {
        Content { depth: 0, runs: vec![self.run(bytes, bytes.len() as u64)] }
    }

    /// A folder of one piece.
    pub fn folder(&mut self, entries: &[Entry]) -> Content {
        self.pieces(&[entries])
    }

    /// A folder of several pieces, whatever is in them.
    pub fn pieces(&mut self, pieces: &[&[Entry]]) -> Content {
        let store = |piece: &&[Entry]| {
            let bytes = encode_piece(piece);
            self.tree_run(&bytes, bytes.len() as u64)
        };
        Content { depth: 0, runs: pieces.iter().map(store).collect() }
    }
}

fn entry(name: &[u8], node: Node) -> Entry {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = Arc::new(Owner { uid, gid, user: Vec::new(), group: Vec::new() });
    let mtime = Time { seconds: 1_000_000_000, nanoseconds: 1 };
    Entry {
        name: name.to_vec(),
        metadata: Metadata { mode: 0o755, owner, mtime, xattrs: Arc::default() },
        node,
        link: None,
        partial: false,
        extensions: Vec::new(),
    }
}

/// A file as a folder's list has it.
pub fn file(name: &[u8], content: Content) -> Entry {
    let size_bytes = content.runs.iter().map(Run::length_bytes).sum();
    entry(name, Node::File { size_bytes, content })
}

/// A folder as a folder's list has it.
pub fn folder(name: &[u8], content: Content) -> Entry {
    entry(name, Node::Folder { content })
}

/// A symbolic link as a folder's list has it.
pub fn symlink(name: &[u8], target: &[u8]) -> Entry {
    entry(name, Node::Symlink { target: target.to_vec() })
}

/// A repository with one snapshot, whose root is the folder that `build` makes.
pub fn forged(build: impl FnOnce(&mut Forge) -> Content) -> (Repository, Snapshot) {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let mut repository = small::init(&storage, None).unwrap();
    let snapshot = put(&mut repository, build);
    (repository, snapshot)
}

/// Puts a snapshot whose root is the folder that `build` makes; its blobs are in packs of their own.
pub fn put(repository: &mut Repository, build: impl FnOnce(&mut Forge) -> Content) -> Snapshot {
    let root = folder(b"", store(repository, build));
    repository.put_snapshot(snapshot_of(root)).unwrap()
}

/// Stores what `build` makes and is not known yet, in packs of its own.
pub fn store<T>(repository: &Repository, build: impl FnOnce(&mut Forge) -> T) -> T {
    let index = Arc::new(repository.index().unwrap());
    let writer = repository.writer(index, 2, false).unwrap();
    let mut forge = Forge { data: writer.filler(Stream::Data), trees: writer.filler(Stream::Tree) };
    let built = build(&mut forge);
    forge.data.flush().unwrap();
    forge.trees.flush().unwrap();
    drop(forge);
    let (published, _) = writer.finish().unwrap();
    repository.catalogue_packs(&published).unwrap();
    built
}

/// A snapshot with this root.
pub fn snapshot_of(root: Entry) -> Snapshot {
    Snapshot {
        id: SnapshotId::random().unwrap(),
        time: Time::default(),
        commit: 0,
        host: b"forged".to_vec(),
        sources: vec![b"/".to_vec()],
        tags: Vec::new(),
        label: String::new(),
        parent: None,
        root,
        root_stat: Stat::default(),
        counts: Counts::default(),
        complete: true,
        problems: Vec::new(),
        protected: false,
        program: "forgery".to_owned(),
        cluster: None,
        extensions: Vec::new(),
    }
}
