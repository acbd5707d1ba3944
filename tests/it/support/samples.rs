//! A value of everything that is stored, always the same: what the vectors hold and what fuzzing begins with.

use super::reference;
use std::sync::Arc;
use xsnap::{
    blobs::{
        chunker::ChunkSizes,
        codec,
        frame::{self, Compressor, Packed},
        pack::{Toc, TocFrame},
        seal::Secrets,
    },
    id::{BlobId, Generation, ObjectName, RepositoryId, SnapshotId},
    repo::{
        cluster::Cluster,
        config::Config,
        content::{Content, Run},
        keys::Cost,
        snapshot::{Counts, Problem, Snapshot},
        tree::{Entry, Metadata, Node, Owner, Stat, Time},
    },
    storage::envelope::Kind,
};

/// Whose everything is.
pub const REPOSITORY: RepositoryId = RepositoryId(*b"repository of 16");
/// Names blobs in the sealed samples.
pub const IDENTITY_KEY: [u8; 32] = *b"identity key, 32 bytes of length";
/// Seals the sealed samples.
pub const SEAL_KEY: [u8; 32] = *b"the seal key, 32 bytes of length";
/// The salt of every body that has one.
pub const SALT: [u8; 16] = *b"salt of 16 bytes";
/// Opens the sample key slot.
pub const PASSWORD: &[u8] = b"correct horse";

/// The first bytes of BLAKE3's extendable output of no input at all.
pub fn stream(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// A checked name.
pub fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).unwrap()
}

/// The name of the sample pack.
pub fn pack_name() -> ObjectName {
    name("0123456789abcdefghjkmnpqrs")
}

/// The name of the sample config.
pub fn config_name() -> ObjectName {
    name("config-000001")
}

/// The name of the sample key slot.
pub fn slot_name() -> ObjectName {
    name("key-0123456789abcdefghjk")
}

/// The name of the sample snapshot's second generation.
pub fn snapshot_name() -> ObjectName {
    snapshot().id.object(Generation::FIRST.next().unwrap())
}

/// Keys of a repository that is not encrypted and of one that is, with what to call them.
pub fn both() -> [(&'static str, Secrets); 2] {
    [("plain", Secrets::plain()), ("sealed", Secrets::sealed(Some(IDENTITY_KEY), SEAL_KEY))]
}

/// An id that names nothing.
pub fn id(byte: u8) -> BlobId {
    BlobId([byte; 32])
}

fn data(byte: u8, length_bytes: u64) -> Run {
    Run::Data { id: id(byte), length_bytes }
}

/// Runs as a list holds them.
pub fn runs() -> Vec<Run> {
    vec![data(1, 131_072), Run::Hole { length_bytes: 1 << 40 }, data(2, 250), data(1, 1)]
}

fn metadata(mode: u32, seconds: i64, xattrs: &[(&str, &[u8])]) -> Metadata {
    let owner = Owner { uid: 1000, gid: 65_536, user: b"user".into(), group: b"".into() };
    Metadata {
        mode,
        owner: Arc::new(if mode & 0o4000 != 0 { Owner::default() } else { owner }),
        mtime: Time { seconds, nanoseconds: 999_999_999 },
        xattrs: Arc::new(xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.to_vec())).collect()),
    }
}

/// One entry of every kind.
pub fn entries() -> Vec<Entry> {
    let file = |runs: Vec<Run>| Node::File {
        size_bytes: runs.iter().map(Run::length_bytes).sum(),
        content: Content { depth: 0, runs },
    };
    let entry = |name: &[u8], metadata, node, link| Entry {
        name: name.into(),
        metadata,
        node,
        link,
        partial: false,
        extensions: Vec::new(),
    };
    let plain = || metadata(0o644, 1_700_000_000, &[]);
    let odd = || metadata(0o4755, -1, &[("security.capability", &[1, 0, 0, 2]), ("user.a", b"")]);
    let lists = Content { depth: 2, runs: vec![data(7, 1 << 33)] };
    vec![
        entry(b"block", plain(), Node::BlockDevice { device: (8, 1) }, None),
        entry(b"char", plain(), Node::CharDevice { device: (1, 1_000_000) }, None),
        entry(b"empty", odd(), file(Vec::new()), None),
        entry(b"fifo", plain(), Node::Fifo, None),
        entry(b"file", odd(), file(runs()), Some(0x0123_4567_89ab_cdef)),
        entry(b"folder", plain(), Node::Folder { content: Content { depth: 0, runs: vec![data(9, 300)] } }, None),
        entry(b"huge", plain(), Node::File { size_bytes: 1 << 33, content: lists }, None),
        entry(b"socket", plain(), Node::Socket, None),
        entry(b"\xff\n", metadata(0o777, 1 << 33, &[]), Node::Symlink { target: b"../\xfe".into() }, None),
    ]
}

/// The stats beside the entries.
pub fn stats() -> Vec<Stat> {
    let stat = |n: u64, entry: &Entry| Stat {
        ctime: (n != 2).then_some(Time { seconds: 1_700_000_000, nanoseconds: 5 }),
        inode: n << 32,
        device: if n == 3 { 2049 } else { 64_768 },
        folder: matches!(entry.node, Node::Folder { .. }).then(|| Content { depth: 0, runs: vec![data(10, 40)] }),
    };
    (0_u64..).zip(&entries()).map(|(n, entry)| stat(n, entry)).collect()
}

/// A snapshot with something in every field.
pub fn snapshot() -> Snapshot {
    let content = Content { depth: 1, runs: vec![data(3, 70_000), data(4, 5)] };
    Snapshot {
        id: SnapshotId(*b"snapshot id."),
        time: Time { seconds: 1_767_225_600, nanoseconds: 250 },
        commit: 300,
        host: b"mn1".into(),
        sources: vec![b"/etc".into(), b"/srv/\xff".into()],
        tags: vec!["nightly".into(), "ä".into()],
        label: "before the update".into(),
        parent: Some(SnapshotId([0xee; 12])),
        root: Entry {
            name: Vec::new(),
            metadata: metadata(0o755, 0, &[("user.b", b"\0")]),
            node: Node::Folder { content },
            link: None,
            partial: false,
            extensions: Vec::new(),
        },
        root_stat: Stat {
            ctime: Some(Time { seconds: 1, nanoseconds: 2 }),
            inode: 2,
            device: 64_768,
            folder: Some(Content { depth: 0, runs: vec![data(5, 6)] }),
        },
        counts: Counts {
            files: 1,
            folders: 2,
            others: 3,
            bytes: 1 << 40,
            files_read: 5,
            problems: 1,
            added_blobs: 6,
            added_raw_bytes: 70_000,
            added_stored_bytes: 251,
        },
        complete: false,
        problems: vec![Problem { path: b"/etc/x".into(), verb: "open".into(), cause: "refused".into() }],
        protected: true,
        program: "xsnap 0.1.0".into(),
        cluster: None,
        extensions: vec![(7, b"later".into())],
    }
}

/// A cluster with something in every field.
pub fn cluster() -> Cluster {
    Cluster {
        name: "alpha".into(),
        customer: "Ä & Söhne".into(),
        order: "4711".into(),
        serials: vec!["SN1".into(), "SN2".into()],
        xcat: "2.17.0".into(),
        distribution: "Rocky Linux 9.4".into(),
        nodes: 2000,
        extensions: vec![(9, b"later".into())],
    }
}

/// A config that is not the default one.
pub fn config() -> Config {
    let chunks = ChunkSizes { min_bytes: 1024, avg_bytes: 4096, max_bytes: 65_536 };
    Config { chunks, level: -3, pack_bytes: 1 << 25, extensions: vec![(1, Vec::new()), (300, b"x".into())] }
}

/// The body of the config object, with the fixed salt.
pub fn config_body(seal_key: Option<[u8; 32]>) -> Vec<u8> {
    let mut clear = [0; 13];
    clear[0] = 2;
    clear[12] = seal_key.is_some().into();
    let record = codec::encode(&config());
    [&clear[..], &reference::seal_body(seal_key, config_name().as_str(), SALT, &clear, &record)].concat()
}

/// What the sample slot costs: next to nothing.
pub const COST: Cost = Cost { memory_kib: 64, passes: 1, lanes: 2 };

/// The key that the password of the sample slot makes.
pub fn slot_key() -> [u8; 32] {
    let params = argon2::Params::new(COST.memory_kib, COST.passes, COST.lanes, Some(32)).unwrap();
    let mut key = [0; 32];
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    argon2.hash_password_into(PASSWORD, &[5; 32], &mut key).unwrap();
    key
}

/// The body of a key slot.
pub fn slot_body() -> Vec<u8> {
    let keys = codec::encode(&(SEAL_KEY, Some(IDENTITY_KEY)));
    let sealed = reference::seal_body(Some(slot_key()), slot_name().as_str(), SALT, &[], &keys);
    codec::encode(&(COST, [5_u8; 32], sealed, codec::Extensions::new()))
}

/// Blobs of the sample frames: the first does not compress, the second does, the third leans on the first two.
pub fn frame_blobs() -> [Vec<Vec<u8>>; 3] {
    let (noise, text) = (stream(300), b"compute nodes boot from the management node. ".repeat(20));
    let mut leaning = [&noise[..], &text].concat();
    leaning[100] ^= 1;
    [vec![noise, Vec::new()], vec![text, b"the second blob of a frame".to_vec()], vec![leaning]]
}

/// The first blob of each of the two frames before.
pub fn bases() -> Vec<Vec<u8>> {
    let [first, second, _] = frame_blobs();
    vec![first[0].clone(), second[0].clone()]
}

/// A frame before it is sealed.
pub fn packed(number: usize, secrets: &Secrets) -> Packed {
    let blobs = frame_blobs()[number].clone();
    let lengths = blobs.iter().map(|blob| u32::try_from(blob.len()).unwrap()).collect();
    let ids = |blobs: &[Vec<u8>]| blobs.iter().map(|blob| secrets.blob_id(blob)).collect::<Vec<_>>();
    let (bases, prefix) = if number == 2 { (ids(&bases()), bases().concat()) } else { (Vec::new(), Vec::new()) };
    Compressor::new(3).pack(blobs.concat(), lengths, ids(&blobs), bases, &prefix)
}

/// A sealed frame.
pub fn frame_bytes(number: usize, secrets: &Secrets) -> Vec<u8> {
    let mut out = Vec::new();
    let number_u32 = u32::try_from(number).unwrap();
    frame::seal(&secrets.sealer(&pack_name()), number_u32, packed(number, secrets), &mut out);
    out
}

/// The table of a pack of these frames, as its record.
pub fn toc_record(frames: &[Vec<u8>], secrets: &Secrets) -> Vec<u8> {
    let mut offset_bytes = 64;
    let blobs = frame_blobs();
    let of = |(number, bytes): (usize, &Vec<u8>)| {
        let frame_bytes = u32::try_from(bytes.len()).unwrap();
        let bases = if number == 2 { vec![0, 1] } else { Vec::new() };
        let frame = TocFrame { offset_bytes, frame_bytes, blobs: u32::try_from(blobs[number].len()).unwrap(), bases };
        offset_bytes += u64::from(frame_bytes);
        frame
    };
    let table: Vec<TocFrame> = frames.iter().enumerate().map(of).collect();
    let all: Vec<&Vec<u8>> = blobs.iter().take(frames.len()).flatten().collect();
    let lengths: Vec<u32> = all.iter().map(|blob| u32::try_from(blob.len()).unwrap()).collect();
    let ids: Vec<u8> = all.iter().flat_map(|blob| secrets.blob_id(blob).0).collect();
    let base_ids: Vec<u8> = bases().iter().flat_map(|base| secrets.blob_id(base).0).collect();
    codec::encode(&(table, lengths, ids, base_ids, codec::Extensions::new()))
}

/// The body of a pack of these frames: frames, sealed table, footer.
pub fn pack_body(frames: &[Vec<u8>], secrets: &Secrets) -> Vec<u8> {
    let toc: Toc = codec::decode(&toc_record(frames, secrets), "sample").unwrap();
    let sealed = toc.seal(&secrets.sealer(&pack_name()), Kind::DataPack);
    let length = u32::try_from(sealed.len()).unwrap().to_le_bytes();
    [frames.concat(), sealed, length.to_vec(), b"xToc".to_vec()].concat()
}

/// A whole pack object.
pub fn pack_object(secrets: &Secrets) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = (0..3).map(|number| frame_bytes(number, secrets)).collect();
    reference::envelope(4, REPOSITORY.0, pack_name().as_str(), &pack_body(&frames, secrets))
}

/// The record of the sample snapshot, as its own program seals it.
pub fn snapshot_record() -> Vec<u8> {
    let (secrets, name) = (Secrets::plain(), snapshot_name());
    let body = snapshot().seal(&secrets, &name).unwrap();
    secrets.open_body(&name, &[], &body).unwrap()
}
