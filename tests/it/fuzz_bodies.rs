//! What fuzzing does with any bytes, for every decoder: it must end, must not panic, and what is accepted must be what it
//! claims to be. `fuzz/` feeds these by coverage, `fuzzing` with a fixed number of inputs on every test run.
//!
//! Most layouts are proven by hashes, behind which no random change would ever come. So the same bytes are also taken for
//! what is inside, and proven as a forger of an unencrypted repository would.

use crate::support::{
    reference,
    samples::{self, REPOSITORY, SALT, pack_name},
    storage::Memory,
};
use std::{collections::HashSet, sync::Arc};
use xsnap::{
    archive::filter::Patterns,
    blobs::{
        codec::{self, Extensions},
        frame::{self, Prefix},
        index::Index,
        pack::{self, Toc},
        reader::Reader,
        seal::Secrets,
    },
    id::{ObjectName, SnapshotId},
    repo::{
        catalog::Catalog,
        config::{self, Clear, Config},
        content::{decode_list, encode_list},
        keys::{self, Cost, Password},
        snapshot::Snapshot,
        tree::{decode_piece, decode_stats, encode_piece, encode_stats},
    },
    storage::{
        envelope::{self, Kind, Label},
        object::Folder,
    },
};

/// A body: it fails by panicking.
pub type Body = fn(&[u8]);

/// An object's envelope, as it is and with a proof that fits.
pub fn envelope(data: &[u8]) {
    let _ = envelope::open(data, "fuzz");
    let mut proven = data.to_vec();
    proven.extend((data.len() as u64 + 40).to_le_bytes());
    let proof = blake3::hash(&proven);
    proven.extend(proof.as_bytes());
    match (envelope::open(&proven, "fuzz"), Label::decode(data, "fuzz")) {
        (Ok((label, body)), Ok(decoded)) => assert_eq!((label, body), (decoded, &data[64..])),
        (Err(_), Err(_)) => {}
        (opened, decoded) => panic!("{opened:?} and {decoded:?}"),
    }
}

/// A header, and the names in it.
pub fn label(data: &[u8]) {
    if let Ok(label) = Label::decode(data, "fuzz") {
        let body = data.get(64..).unwrap_or_default();
        let again = reference::envelope(label.kind.byte(), label.repository.0, label.name.as_str(), body);
        assert_eq!(Label::decode(&again, "fuzz").unwrap(), label);
    }
    let Some(name) = ObjectName::parse(&String::from_utf8_lossy(data)) else { return };
    assert!(name.as_str().len() <= ObjectName::MAX_CHARS && !name.as_str().contains(['/', '.']));
    if let Some((id, generation)) = SnapshotId::from_object(&name) {
        assert_eq!(id.object(generation), name);
    }
    if let Some(generation) = config::generation_of(&name) {
        assert_eq!(config::object_name(generation), Some(name));
    }
}

/// The body of a config, and its record.
pub fn config(data: &[u8]) {
    let (secrets, name) = (Secrets::plain(), samples::config_name());
    let _ = Clear::decode(data, "fuzz");
    let _ = Config::open(&secrets, &name, data, "fuzz");
    let sealed = reference::seal_body(None, name.as_str(), SALT, &[0; 13], data);
    if let Ok(config) = Config::open(&secrets, &name, &[&[0; 13][..], &sealed].concat(), "fuzz") {
        assert!(config.chunks.are_sane());
        let again: Config = codec::decode(&codec::encode(&config), "fuzz").unwrap();
        assert_eq!(again, config);
        let cutter = xsnap::blobs::chunker::Chunker::new(config.chunks, None);
        let take = |_: &[u8]| Ok::<(), std::io::Error>(());
        cutter.cut(&samples::stream(3_000)[..], u64::MAX, &mut Vec::new(), take).unwrap();
    }
}

/// The body of a key slot, and the record of its keys. What costs time on purpose is left out.
pub fn key_slot(data: &[u8]) {
    let name = samples::slot_name();
    let password = || Password::new(samples::PASSWORD.to_vec());
    let cost = codec::decode::<(Cost, [u8; 32], Vec<u8>, Extensions)>(data, "fuzz").map(|slot| slot.0);
    if !cost.is_ok_and(|cost| cost.memory_kib.saturating_mul(cost.passes) > 1024) {
        let _ = keys::open_slot(data, &password(), &name, "fuzz");
    }
    let sealed = reference::seal_body(Some(samples::slot_key()), name.as_str(), SALT, &[], data);
    let body = codec::encode(&(samples::COST, [5_u8; 32], sealed, Extensions::new()));
    let _ = keys::open_slot(&body, &password(), &name, "fuzz");
}

/// The body of a snapshot, and its record.
pub fn snapshot(data: &[u8]) {
    let (secrets, name) = (Secrets::plain(), samples::snapshot_name());
    let _ = Snapshot::open(&secrets, &name, data, "fuzz");
    let body = reference::seal_body(None, name.as_str(), SALT, &[], data);
    if let Ok(snapshot) = Snapshot::open(&secrets, &name, &body, "fuzz") {
        let again = snapshot.seal(&secrets, &name).unwrap();
        assert_eq!(Snapshot::open(&secrets, &name, &again, "fuzz").unwrap(), snapshot);
    }
}

/// A table of contents, sealed and as its record.
pub fn toc(data: &[u8]) {
    let sealer = Secrets::plain().sealer(&pack_name());
    let _ = Toc::open(&sealer, Kind::DataPack, data, 1 << 30, "fuzz");
    let mut sealed = data.to_vec();
    sealer.seal(u64::MAX, &[Kind::DataPack.byte()], &mut sealed, 0);
    let Ok(toc) = Toc::open(&sealer, Kind::DataPack, &sealed, 1 << 30, "fuzz") else { return };
    assert_eq!(toc.ids().len(), toc.lengths.len());
    let mut index = Index::default();
    index.add(&pack_name(), Kind::DataPack, &toc, &HashSet::from([0]), None);
    assert_eq!(index.len(), toc.lengths.len());
    for (id, place) in index.iter() {
        assert!(index.places(&id).contains(&place) && index.frame(place.frame).is_some());
        let _ = (index.is_known(&id), index.is_healthy(place.frame));
    }
}

/// A frame as it is; and with the bytes taken for head and data, sealed as they should be.
pub fn frame(data: &[u8]) {
    let secrets = Secrets::plain();
    let sealer = secrets.sealer(&pack_name());
    let bases = |_: &[xsnap::id::BlobId]| Ok(samples::bases().concat());
    let _ = Prefix::decode(data);
    let _ = frame::open_head(&sealer, 0, data, "fuzz");
    let _ = frame::open(&sealer, 0, data, "fuzz", bases);
    let Some((at, rest)) = data.split_first() else { return };
    let (head, body) = rest.split_at(usize::from(*at).min(rest.len()));
    let length = |bytes: &[u8]| u32::try_from(bytes.len() + 16).unwrap().to_le_bytes();
    let mut bytes = [b"xFr1".as_slice(), &[0; 4], &length(head), &length(body), head].concat();
    let clear = bytes[..16].to_vec();
    sealer.seal(0, &clear, &mut bytes, 16);
    let (sealed_head, from) = (bytes[16..].to_vec(), bytes.len());
    bytes.extend(body);
    sealer.seal(1, &sealed_head, &mut bytes, from);
    let head = frame::open_head(&sealer, 0, &bytes, "fuzz");
    if let Ok(frame) = frame::open(&sealer, 0, &bytes, "fuzz", bases) {
        let lengths: Vec<u32> =
            (0..frame.len()).map(|n| u32::try_from(frame.blob(n).unwrap().len()).unwrap()).collect();
        assert_eq!(lengths, head.unwrap().1.lengths);
        assert!(frame.raw_bytes() <= frame::MAX_RAW_BYTES);
    }
}

/// A piece of a folder.
pub fn piece(data: &[u8]) {
    let Ok(entries) = decode_piece(data, "fuzz") else { return };
    for entry in &entries {
        assert!(xsnap::repo::tree::is_legal_name(&entry.name));
    }
    assert!(entries.windows(2).all(|pair| pair[0].name < pair[1].name));
    assert_eq!(decode_piece(&encode_piece(&entries), "fuzz").unwrap(), entries);
}

/// A stats piece.
pub fn stats(data: &[u8]) {
    let Ok(stats) = decode_stats(data, "fuzz") else { return };
    assert_eq!(decode_stats(&encode_stats(&stats), "fuzz").unwrap(), stats);
}

/// A list.
pub fn list(data: &[u8]) {
    let Ok(runs) = decode_list(data, "fuzz") else { return };
    assert_eq!(decode_list(&encode_list(&runs), "fuzz").unwrap(), runs);
}

/// A file that claims to be the catalogue. Whatever it is, one that works comes of it.
pub fn catalogue(data: &[u8]) {
    let folder = in_memory_folder();
    let path = folder.path().join("index.sqlite");
    std::fs::write(&path, data).unwrap();
    let catalog = Catalog::open(Some(&path), REPOSITORY).unwrap();
    let _ = catalog.pack_lengths();
    let _ = catalog.snapshots();
    let _ = catalog.bad_frames();
    for name in catalog.pack_names(None).unwrap_or_default() {
        if let Ok(Some(row)) = catalog.pack(&name) {
            let _ = Toc::open(&Secrets::plain().sealer(&row.name), row.kind, &row.toc, row.length_bytes, "fuzz");
        }
    }
    let _ = catalog.put_snapshot(&samples::snapshot_name(), b"object", None);
    let _ = catalog.mark_bad([(&pack_name(), 7)]);
    let _ = catalog.drop_pack(&pack_name());
}

/// A folder on a file system in memory, where there is one.
pub fn in_memory_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A pack: its table, or the search for frames; and every blob of it that can be had is what its id says.
pub fn pack_search(data: &[u8]) {
    let (memory, secrets) = (Memory::new(), Arc::new(Secrets::plain()));
    memory.replace(Folder::Packs, &pack_name(), data.to_vec());
    let Ok(found) = pack::read_toc(&memory, &secrets, REPOSITORY, &pack_name(), data.len() as u64) else { return };
    let mut frames = 0;
    let _ = pack::read_whole(&memory, &pack_name(), data.len() as u64, &found.toc, |_, _| {
        frames += 1;
        Ok(())
    });
    assert!(frames <= found.toc.frames.len());
    let mut index = Index::default();
    index.add(&pack_name(), found.kind, &found.toc, &HashSet::new(), None);
    let index = Arc::new(index);
    let reader = Reader::new(Arc::new(memory), Arc::clone(&secrets), Arc::clone(&index));
    for (id, _) in index.iter() {
        if let Ok(bytes) = reader.blob(&id) {
            assert_eq!(secrets.blob_id(&bytes), id);
        }
    }
}

/// Patterns, one a line, and a path to match.
pub fn patterns(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(patterns) = Patterns::new(text.lines().take(16)) else { return };
    assert_eq!(patterns.is_empty(), text.lines().next().is_none());
    let path = [b"/", data].concat();
    let _ = (patterns.matches(&path, true), patterns.matches(&path, false), patterns.matches(b"/a/b.tmp", false));
}
