//! The vectors of `format-spec/vectors`: made again byte for byte, decoded to what stands beside them, encoded again.
//!
//! What stands beside the bytes comes from `support/samples`; salts are fixed by sealing with `support/reference`.
//! `make_the_vectors` wrote the files once. A failing test here means that the format has changed; only what a new release
//! of zstd makes of the same bytes may change in `frames.json` and `packs.json`, and still opens as before.

use crate::support::{
    reference,
    samples::{self, REPOSITORY, SALT, both, pack_name, stream},
    storage::Memory,
};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use std::path::PathBuf;
use xsnap::{
    blobs::{
        chunker::{ChunkSizes, Chunker},
        codec,
        frame::{self, Codec, Head, Prefix},
        pack::{self, Toc},
        seal::Secrets,
    },
    id::{Generation, ObjectName, RepositoryId, SnapshotId},
    repo::{
        cluster::Cluster,
        config::{Clear, Config},
        content::{decode_list, encode_list},
        keys::{self, Password},
        snapshot::Snapshot,
        tree::{decode_piece, decode_stats, encode_piece, encode_stats},
    },
    storage::{
        envelope::{self, Kind, Label},
        object::Folder,
    },
};

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

fn path(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "format-spec", "vectors", file].iter().collect()
}

/// A committed file of vectors.
fn committed(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path(file)).unwrap()).unwrap()
}

/// The bytes of a committed vector.
fn vector(file: &str, name: &str) -> Vec<u8> {
    let all = committed(file);
    let text = all[name]["hex"].as_str().unwrap_or_else(|| panic!("{file} has no {name}"));
    HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// Every file of vectors as this program makes it.
fn made() -> Vec<(&'static str, Value)> {
    vec![
        ("names.json", names()),
        ("records.json", records()),
        ("blobs.json", blobs()),
        ("cuts.json", cuts()),
        ("sealing.json", sealing()),
        ("objects.json", objects()),
        ("frames.json", frames()),
        ("packs.json", packs()),
        ("trees.json", trees()),
        ("snapshots.json", snapshots()),
    ]
}

#[test]
#[ignore = "writes the committed vectors; to be run only when the format is meant to change"]
fn make_the_vectors() {
    for (file, value) in made() {
        std::fs::write(path(file), format!("{value:#}\n")).unwrap();
    }
}

#[test]
fn every_vector_is_made_again_byte_for_byte() {
    for (file, value) in made() {
        let committed = committed(file);
        let differing = value.as_object().unwrap().iter().find(|(name, made)| committed[name.as_str()] != **made);
        assert_eq!(differing.map(|(name, _)| name), None, "{file}: what the program makes has changed");
        assert_eq!(committed.as_object().unwrap().len(), value.as_object().unwrap().len(), "{file}");
    }
}

fn names() -> Value {
    let generation = |text: &str| Generation::parse(text).unwrap();
    let next = |text: &str| generation(text).next().unwrap().to_string();
    let snapshot = samples::snapshot().id;
    json!({
        "repository id": { "hex": hex(&REPOSITORY.0), "text": REPOSITORY.to_string() },
        "ones": { "hex": hex(&[0xff; 16]), "text": RepositoryId([0xff; 16]).to_string() },
        "snapshot id": { "hex": hex(&snapshot.0), "text": snapshot.to_string() },
        "snapshot object, generation 2": { "text": samples::snapshot_name().as_str() },
        "after generation 000001": { "text": next("000001") },
        "after generation 00000z": { "text": next("00000z") },
        "after generation 0zzzzz": { "text": next("0zzzzz") },
    })
}

#[test]
fn names_are_read_as_they_are_written() {
    let all = committed("names.json");
    let text = |name: &str| all[name]["text"].as_str().unwrap().to_owned();
    let object = ObjectName::parse(&text("snapshot object, generation 2")).unwrap();
    let (id, generation) = SnapshotId::from_object(&object).unwrap();
    assert_eq!((id.to_string(), generation.to_string()), (text("snapshot id"), "000002".to_owned()));
    assert_eq!(hex(&id.0), all["snapshot id"]["hex"]);
    // The fill bits of the last of twenty characters are zeros.
    assert!(ObjectName::parse("zzzzzzzzzzzzzzzzzzzz000001").is_some_and(|n| SnapshotId::from_object(&n).is_none()));
}

/// One of each kind of value that a record can hold.
type Everything = (Vec<u64>, Vec<i64>, u32, i32, bool, String, Vec<u8>, Option<u64>, Option<u64>, [u8; 3], Codec);

fn everything() -> Everything {
    (
        vec![0, 250, 251, 65_535, 65_536, u64::from(u32::MAX), 1 << 32, u64::MAX],
        vec![0, -1, 1, -125, 125, -126, i64::MIN, i64::MAX],
        u32::MAX,
        -3,
        true,
        "tmp ä".into(),
        vec![0, 255],
        None,
        Some(7),
        [1, 2, 3],
        Codec::Zstd,
    )
}

fn records() -> Value {
    json!({
        "one of each kind": {
            "fields": "Vec<u64>, Vec<i64>, u32, i32, bool, String, bytes, Option<u64>, Option<u64>, [u8; 3], enum (variant 1)",
            "values": "[0, 250, 251, 65535, 65536, 4294967295, 4294967296, 18446744073709551615], \
                [0, -1, 1, -125, 125, -126, -9223372036854775808, 9223372036854775807], 4294967295, -3, true, \
                \"tmp ä\", 00ff, none, 7, 010203, 1",
            "hex": hex(&codec::encode(&everything())),
        },
        "extensions": {
            "values": "[(7, \"later\"), (300, nothing)]",
            "hex": hex(&codec::encode(&vec![(7_u32, b"later".to_vec()), (300, Vec::new())])),
        },
    })
}

#[test]
fn records_are_read_as_they_are_written_and_nothing_else_is() {
    let bytes = vector("records.json", "one of each kind");
    assert_eq!(codec::decode::<Everything>(&bytes, "v").unwrap(), everything());
    assert!(codec::decode::<Everything>(&[&bytes[..], &[0]].concat(), "v").is_err(), "a byte too many");
    assert!(codec::decode::<Everything>(&bytes[..bytes.len() - 1], "v").is_err(), "a byte too few");
    let extensions: codec::Extensions = codec::decode(&vector("records.json", "extensions"), "v").unwrap();
    assert_eq!(extensions, [(7, b"later".to_vec()), (300, Vec::new())]);
    assert!(codec::decode::<bool>(&[2], "v").is_err(), "neither true nor false");
    assert!(codec::decode::<u32>(&[0xfd, 1, 0, 0, 0, 0, 0, 0, 0], "v").is_err(), "eight bytes for a u32");
    assert!(codec::decode::<Vec<u64>>(&[0xfd, 255, 255, 255, 255, 255, 255, 0, 0], "v").is_err(), "a huge length");
}

fn blobs() -> Value {
    let [(_, plain), (_, sealed)] = both();
    let of =
        |bytes: &[u8]| json!({ "hash": plain.blob_id(bytes).to_string(), "keyed": sealed.blob_id(bytes).to_string() });
    json!({
        "identity key": { "hex": hex(&samples::IDENTITY_KEY) },
        "id of nothing": of(b""),
        "id of abc": of(b"abc"),
        "id of the first 100,000 bytes of the extendable output of BLAKE3 of nothing": of(&stream(100_000)),
    })
}

/// Sizes of chunks, and how long a stream is cut with them.
const CUTS: [(u32, u32, u32, usize); 4] = [
    (64, 256, 1024, 20_001),
    (1000, 3000, 9000, 200_000),
    (4096, 16_384, 65_536, 1_000_001),
    (32_768, 131_072, 524_288, 3_000_000),
];

fn cut(gear: Option<Vec<u64>>, (min_bytes, avg_bytes, max_bytes, length): (u32, u32, u32, usize)) -> Vec<usize> {
    let chunker = Chunker::new(ChunkSizes { min_bytes, avg_bytes, max_bytes }, gear);
    let mut lengths = Vec::new();
    let take = |chunk: &[u8]| {
        lengths.push(chunk.len());
        Ok::<(), std::io::Error>(())
    };
    chunker.cut(&stream(length)[..], u64::MAX, &mut Vec::new(), take).unwrap();
    lengths
}

fn gears() -> [Vec<u64>; 2] {
    let keyed = both()[1].1.gear().unwrap();
    [fastcdc::v2020::get_gear_with_seed(0).0.into_owned(), keyed]
}

fn cuts() -> Value {
    let shown = |gear: &[u64]| gear.iter().map(|number| format!("{number:016x}")).collect::<Vec<_>>();
    let [plain, keyed] = gears();
    let cuts = |sizes: (u32, u32, u32, usize)| {
        let (min, avg, max, length) = sizes;
        json!({
            "min_bytes": min, "avg_bytes": avg, "max_bytes": max, "length of the stream": length,
            "chunks": cut(None, sizes), "chunks, keyed": cut(Some(keyed.clone()), sizes),
        })
    };
    json!({
        "stream": "the extendable output of BLAKE3 of nothing",
        "gear": shown(&plain),
        "gear, keyed": shown(&keyed),
        "cuts": CUTS.map(cuts),
    })
}

#[test]
fn streams_are_cut_where_the_text_says() {
    let [plain, keyed] = gears();
    assert_eq!(keyed, reference::keyed_gear(samples::IDENTITY_KEY));
    for sizes in CUTS {
        let of = [sizes.0, sizes.1, sizes.2].map(|n| n as usize);
        assert_eq!(cut(None, sizes), reference::cuts(&plain, of, &stream(sizes.3)), "{sizes:?}");
        assert_eq!(cut(Some(keyed.clone()), sizes), reference::cuts(&keyed, of, &stream(sizes.3)), "{sizes:?}");
    }
}

fn sealing() -> Value {
    let part = |secrets: &Secrets, part: u64| {
        let mut bytes = b"text".to_vec();
        secrets.sealer(&pack_name()).seal(part, b"clear", &mut bytes, 0);
        json!({ "text": "text", "clear": "clear", "part": part.to_string(), "name": pack_name().as_str(), "hex": hex(&bytes) })
    };
    let body = |key| hex(&reference::seal_body(key, "name", SALT, b"clear", b"text"));
    let [(_, plain), (_, sealed)] = both();
    json!({
        "seal key": { "hex": hex(&samples::SEAL_KEY) },
        "part, plain": part(&plain, 3),
        "part, sealed": part(&sealed, 3),
        "last part, sealed": part(&sealed, u64::MAX),
        "body, plain": { "salt": hex(&SALT), "name": "name", "clear": "clear", "text": "text", "hex": body(None) },
        "body, sealed": { "salt": hex(&SALT), "name": "name", "clear": "clear", "text": "text", "hex": body(Some(samples::SEAL_KEY)) },
    })
}

#[test]
fn sealed_parts_and_bodies_open_and_are_what_the_text_says() {
    for (kind, secrets) in both() {
        let sealer = secrets.sealer(&pack_name());
        let part = vector("sealing.json", &format!("part, {kind}"));
        assert_eq!(sealer.open(3, b"clear", &part).unwrap(), b"text");
        assert_eq!(part, reference::seal(secrets.seal_key(), pack_name().as_str(), b"", 3, b"clear", b"text"));
        assert!(sealer.open(2, b"clear", &part).is_none() && sealer.open(3, b"", &part).is_none());
        let body = vector("sealing.json", &format!("body, {kind}"));
        assert_eq!(secrets.open_body(&samples::name("name"), b"clear", &body).unwrap(), b"text");
    }
}

fn objects() -> Value {
    let config = samples::config();
    let fields = json!({
        "features": [2, 0, 0], "name": samples::config_name().as_str(), "salt": hex(&SALT),
        "min_bytes": config.chunks.min_bytes, "avg_bytes": config.chunks.avg_bytes,
        "max_bytes": config.chunks.max_bytes, "level": config.level, "pack_bytes": config.pack_bytes,
        "extensions": "[(1, nothing), (300, \"x\")]",
    });
    let with = |bytes: &[u8]| {
        let mut value = fields.clone();
        value["hex"] = hex(bytes).into();
        value
    };
    let label = Label { kind: Kind::Snapshot, repository: REPOSITORY, name: samples::name("name") };
    let memory = Memory::new();
    envelope::put(&memory, Folder::Snapshots, &label, b"body").unwrap();
    let object = memory.bytes(Folder::Snapshots, &label.name).unwrap();
    json!({
        "object": { "kind": 3, "repository": REPOSITORY.to_string(), "name": "name", "body": "body", "hex": hex(&object) },
        "config record": with(&codec::encode(&config)),
        "config body, plain": with(&samples::config_body(None)),
        "config body, sealed": with(&samples::config_body(Some(samples::SEAL_KEY))),
        "key slot body": {
            "name": samples::slot_name().as_str(), "password": String::from_utf8_lossy(samples::PASSWORD),
            "memory_kib": samples::COST.memory_kib, "passes": samples::COST.passes, "lanes": samples::COST.lanes,
            "salt of the password": hex(&[5; 32]), "slot key": hex(&samples::slot_key()), "salt": hex(&SALT),
            "seal key": hex(&samples::SEAL_KEY), "identity key": hex(&samples::IDENTITY_KEY),
            "hex": hex(&samples::slot_body()),
        },
    })
}

#[test]
fn an_object_proves_itself_and_is_what_the_text_says() {
    let bytes = vector("objects.json", "object");
    let (label, body) = envelope::open(&bytes, "v").unwrap();
    assert_eq!((label.kind, label.repository, label.name.as_str()), (Kind::Snapshot, REPOSITORY, "name"));
    assert_eq!(body, b"body");
    assert_eq!(bytes, reference::envelope(3, REPOSITORY.0, "name", b"body"));
}

#[test]
fn configs_and_key_slots_open() {
    let record: Config = codec::decode(&vector("objects.json", "config record"), "v").unwrap();
    assert_eq!(record, samples::config());
    for (kind, secrets) in both() {
        let body = vector("objects.json", &format!("config body, {kind}"));
        let clear = Clear::decode(&body, "v").unwrap();
        assert_eq!((clear.features, clear.encrypted), ([2, 0, 0], secrets.is_sealed()));
        assert_eq!(Config::open(&secrets, &samples::config_name(), &body, "v").unwrap(), samples::config());
        let again = samples::config().seal(clear, &secrets, &samples::config_name()).unwrap();
        assert_eq!((again.len(), &again[..13]), (body.len(), &body[..13]), "all but the salt and what hangs on it");
    }
    let body = vector("objects.json", "key slot body");
    let open = |password: &[u8]| {
        keys::open_slot(&body, &Password::new(password.to_vec()), &samples::slot_name(), "v").unwrap()
    };
    let secrets = open(samples::PASSWORD).unwrap();
    assert_eq!((secrets.seal_key(), secrets.identity()), (Some(samples::SEAL_KEY), Some(samples::IDENTITY_KEY)));
    assert!(open(b"another").is_none());
}

/// The names of the sample frames.
const FRAMES: [&str; 3] = ["stored", "zstd", "with bases"];

fn frames() -> Value {
    let mut all = serde_json::Map::new();
    let blobs = samples::frame_blobs();
    for (kind, secrets) in both() {
        for (number, name) in FRAMES.into_iter().enumerate() {
            let bases: Vec<String> =
                samples::packed(number, &secrets).head.bases.iter().map(ToString::to_string).collect();
            let value = json!({
                "pack": pack_name().as_str(), "number": number, "bases": bases,
                "blobs": blobs[number].iter().map(|blob| hex(blob)).collect::<Vec<_>>(),
                "hex": hex(&samples::frame_bytes(number, &secrets)),
            });
            all.insert(format!("{name}, {kind}"), value);
        }
    }
    all.into()
}

#[test]
fn frames_open_and_are_what_the_text_says() {
    for (kind, secrets) in both() {
        let sealer = secrets.sealer(&pack_name());
        for (number, name) in (0_u32..).zip(FRAMES) {
            let bytes = vector("frames.json", &format!("{name}, {kind}"));
            let (prefix, head) = frame::open_head(&sealer, number, &bytes, "v").unwrap();
            let frame = frame::open(&sealer, number, &bytes, "v", |ids| {
                let bases = samples::bases();
                assert_eq!(ids, bases.iter().map(|base| secrets.blob_id(base)).collect::<Vec<_>>());
                Ok(bases.concat())
            });
            let frame = frame.unwrap();
            let blobs: Vec<&[u8]> = (0..frame.len()).map(|n| frame.blob(n).unwrap()).collect();
            assert_eq!(blobs, samples::frame_blobs()[number as usize]);
            assert_eq!(head.codec, if number == 0 { Codec::Stored } else { Codec::Zstd });
            assert_eq!(bytes, sealed_again(&secrets, number, prefix, &head, &bytes), "{name}, {kind}");
        }
    }
}

/// A frame put together from its opened parts by the words of the text, whatever the compressor would make today.
fn sealed_again(secrets: &Secrets, number: u32, prefix: Prefix, head: &Head, bytes: &[u8]) -> Vec<u8> {
    let (key, name, part) = (secrets.seal_key(), pack_name(), u64::from(number));
    let data_at = 16 + prefix.head_bytes as usize;
    let data = secrets.sealer(&name).open(2 * part + 1, &bytes[16..data_at], &bytes[data_at..]).unwrap();
    let head = codec::encode(head);
    let lengths = [head.len(), data.len()].map(|length| u32::try_from(length + 16).unwrap().to_le_bytes());
    let clear = [b"xFr1".as_slice(), &number.to_le_bytes(), &lengths[0], &lengths[1]].concat();
    let head = reference::seal(key, name.as_str(), b"", 2 * part, &clear, &head);
    let data = reference::seal(key, name.as_str(), b"", 2 * part + 1, &head, &data);
    [clear, head, data].concat()
}

fn packs() -> Value {
    let of = |secrets: &Secrets| {
        let frames: Vec<Vec<u8>> = (0..3).map(|number| samples::frame_bytes(number, secrets)).collect();
        let record = samples::toc_record(&frames, secrets);
        json!({ "frames": "those of frames.json", "table": hex(&record), "hex": hex(&samples::pack_object(secrets)) })
    };
    let [(_, plain), (_, sealed)] = both();
    json!({ "pack, plain": of(&plain), "pack, sealed": of(&sealed) })
}

#[test]
fn packs_are_read_from_the_end_and_searched_where_their_table_is_lost() {
    for (kind, secrets) in both() {
        let bytes = vector("packs.json", &format!("pack, {kind}"));
        let memory = Memory::new();
        memory.replace(Folder::Packs, &pack_name(), bytes.clone());
        let read = || pack::read_toc(&memory, &secrets, REPOSITORY, &pack_name(), bytes.len() as u64).unwrap();
        let found = read();
        assert_eq!((found.kind, found.mended, found.toc.frames.len()), (Kind::DataPack, None, 3));
        let table = committed("packs.json")[format!("pack, {kind}")]["table"].as_str().unwrap().to_owned();
        assert_eq!(hex(&codec::encode(&found.toc)), table);
        assert_eq!(found.toc.seal(&secrets.sealer(&pack_name()), Kind::DataPack), found.sealed_toc);
        let again: Toc = codec::decode(&HEXLOWER.decode(table.as_bytes()).unwrap(), "v").unwrap();
        assert_eq!(again, found.toc);

        memory.flip(Folder::Packs, &pack_name(), bytes.len() - 60, 1);
        let searched = read();
        assert!(searched.mended.is_some());
        assert_eq!(searched.toc, found.toc, "the frame that leans too, for its base lies before it");

        // A table that is made again is another text: under the same key and number it would give both away.
        let (kind, length) = (Kind::DataPack, bytes.len() as u64);
        let kept = |sealed: &[u8]| Toc::open_kept(&secrets, &pack_name(), kind, sealed, length, "v").unwrap().0;
        assert_eq!((kept(&searched.sealed_toc), kept(&found.sealed_toc)), (searched.toc, found.toc));
        let own = secrets.sealer(&pack_name());
        assert!(
            Toc::open(&own, kind, &searched.sealed_toc, length, "v").is_err()
                && searched.sealed_toc != read().sealed_toc
        );
    }
}

fn trees() -> Value {
    json!({
        "list": { "runs": format!("{:?}", samples::runs()), "hex": hex(&encode_list(&samples::runs())) },
        "piece": {
            "entries": samples::entries().iter().map(|entry| format!("{entry:?}")).collect::<Vec<_>>(),
            "hex": hex(&encode_piece(&samples::entries())),
        },
        "stats": {
            "stats": samples::stats().iter().map(|stat| format!("{stat:?}")).collect::<Vec<_>>(),
            "hex": hex(&encode_stats(&samples::stats())),
        },
    })
}

#[test]
fn lists_pieces_and_stats_are_read_as_they_are_written() {
    let (list, piece, stats) =
        (vector("trees.json", "list"), vector("trees.json", "piece"), vector("trees.json", "stats"));
    assert_eq!(decode_list(&list, "v").unwrap(), samples::runs());
    assert_eq!(decode_piece(&piece, "v").unwrap(), samples::entries());
    assert_eq!(decode_stats(&stats, "v").unwrap(), samples::stats());
}

fn snapshots() -> Value {
    let snapshot = samples::snapshot();
    let secrets = Secrets::plain();
    let record = samples::snapshot_record();
    let name = samples::snapshot_name();
    let body = |key| hex(&reference::seal_body(key, name.as_str(), SALT, &[], &record));
    assert!(secrets.seal_key().is_none());
    json!({
        "record": { "fields": format!("{snapshot:?}"), "hex": hex(&record) },
        "cluster": { "fields": format!("{:?}", samples::cluster()), "hex": hex(&samples::cluster().encode().unwrap()) },
        "body, plain": { "name": name.as_str(), "salt": hex(&SALT), "hex": body(None) },
        "body, sealed": { "name": name.as_str(), "salt": hex(&SALT), "hex": body(Some(samples::SEAL_KEY)) },
    })
}

#[test]
fn snapshots_are_read_as_they_are_written() {
    for (kind, secrets) in both() {
        let body = vector("snapshots.json", &format!("body, {kind}"));
        let name = samples::snapshot_name();
        assert_eq!(Snapshot::open(&secrets, &name, &body, "v").unwrap(), samples::snapshot());
        let other = SnapshotId([1; 12]).object(Generation::FIRST);
        assert!(Snapshot::open(&secrets, &other, &body, "v").is_err(), "under another name");
    }
    assert_eq!(samples::snapshot_record(), vector("snapshots.json", "record"));
    assert_eq!(Cluster::decode(&vector("snapshots.json", "cluster")), Some(samples::cluster()));
}
