//! Forged bytes: every decoder, frames and packs, key slots. Bad bytes are an error that names the object; never a
//! wrong byte, a panic, a hang, or memory without bounds.

use crate::support::{
    forge::{file, folder, forged, snapshot_of, symlink},
    random::Random,
    small,
    storage::Memory,
};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};
use xsnap::{
    blobs::{
        codec,
        frame::{self, Codec, Compressor, Head},
        index::Index,
        pack::{PackBuilder, Published, Toc, read_toc},
        reader::Reader,
        seal::{Sealer, Secrets},
    },
    error::{Error, Result},
    id::{BlobId, Generation, ObjectName, RepositoryId},
    repo::{
        config::{self, Clear, Config},
        content::{Content, Run, decode_list, encode_list},
        keys::{self, Password},
        opening::Access,
        snapshot::Snapshot,
        tree::{Stat, decode_piece, decode_stats, encode_piece, encode_stats},
    },
    storage::{
        envelope::{self, Kind, Label},
        object::{Folder, Storage},
    },
};

const REPOSITORY: RepositoryId = RepositoryId([9; 16]);

fn name(text: &str) -> ObjectName {
    ObjectName::parse(text).unwrap()
}

/// Takes bytes in and says whether they are what they claim to be.
type Decode = Box<dyn Fn(&[u8]) -> Result<()>>;

/// A decoder, by what it decodes, and bytes that it takes.
struct Decoder {
    what: &'static str,
    valid: Vec<u8>,
    decode: Decode,
}

/// Every decoder of records, behind whatever seal it has: a forger of a plain repository can make any seal.
fn decoders() -> Vec<Decoder> {
    let decoder = |what, valid, decode| Decoder { what, valid, decode };
    let data = |n| Run::Data { id: BlobId([n; 32]), length_bytes: u64::from(n) + 300 };
    let content = Content { depth: 1, runs: vec![data(1), Run::Hole { length_bytes: 1 << 33 }, data(2)] };
    let mut entries = vec![file(b"a", content.clone()), folder(b"b", content.clone()), symlink(b"c", b"target")];
    entries[0].metadata.xattrs = Arc::new(vec![(b"user.x".to_vec(), b"value".to_vec()); 3]);
    let stat = Stat { ctime: None, inode: 70_000, device: 9, folder: Some(content.clone()) };
    let snapshot = snapshot_of(folder(b"", content.clone()));
    let snapshot_name = snapshot.id.object(Generation::FIRST);
    let config_name = config::object_name(Generation::FIRST).unwrap();
    let (plain, pack) = (Secrets::plain(), name("pack"));
    let open_body =
        |name: &ObjectName, body: &[u8], clear: &[u8]| Secrets::plain().open_body(name, clear, body).unwrap();
    let snapshot_record = open_body(&snapshot_name, &snapshot.seal(&plain, &snapshot_name).unwrap(), b"");
    let config_body = Config::default().seal(Clear::new(false), &plain, &config_name).unwrap();
    let config_record = open_body(&config_name, &config_body[13..], &config_body[..13]);
    let clear = config_body[..13].to_vec();
    let head = Head {
        codec: Codec::Zstd,
        lengths: vec![300; 3],
        bases: vec![BlobId([3; 32])],
        extensions: vec![(1, vec![2])],
    };
    let slot = codec::encode(&((8_u32, 1_u32, 1_u32), [7_u8; 32], vec![1_u8; 60], vec![(1_u32, vec![2_u8])]));
    let toc = published(&Memory::new(), &[b"one", b"two"]).toc;
    vec![
        decoder("piece", encode_piece(&entries), Box::new(|b| decode_piece(b, "it").map(drop))),
        decoder("stats", encode_stats(&[stat, Stat::default()]), Box::new(|b| decode_stats(b, "it").map(drop))),
        decoder("list", encode_list(&content.runs), Box::new(|b| decode_list(b, "it").map(drop))),
        decoder(
            "snapshot",
            snapshot_record,
            Box::new(move |b| {
                let body = Secrets::plain().seal_body(&snapshot_name, &[], b)?;
                Snapshot::open(&Secrets::plain(), &snapshot_name, &body, "it").map(drop)
            }),
        ),
        decoder(
            "config",
            config_record,
            Box::new(move |b| {
                let body = [clear.clone(), Secrets::plain().seal_body(&config_name, &clear, b)?].concat();
                Config::open(&Secrets::plain(), &config_name, &body, "it").map(drop)
            }),
        ),
        decoder(
            "head",
            codec::encode(&head),
            Box::new(move |b| {
                let sealer = Secrets::plain().sealer(&name("pack"));
                frame::open_head(&sealer, 0, &frame_of(&sealer, 0, b, b""), "it").map(drop)
            }),
        ),
        decoder(
            "table",
            codec::encode(&toc),
            Box::new(move |b| {
                let (sealer, mut sealed) = (Secrets::plain().sealer(&pack), b.to_vec());
                sealer.seal(u64::MAX, &[Kind::DataPack.byte()], &mut sealed, 0);
                Toc::open(&sealer, Kind::DataPack, &sealed, 1 << 20, "it").map(drop)
            }),
        ),
        decoder(
            "slot",
            slot,
            Box::new(|b| keys::open_slot(b, &Password::new(b"x".into()), &name("key-a"), "it").map(drop)),
        ),
    ]
}

/// A frame with any head and any data, sealed as a frame is.
fn frame_of(sealer: &Sealer, number: u32, head: &[u8], data: &[u8]) -> Vec<u8> {
    let word = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
    let mut out = [*b"xFr1", number.to_le_bytes(), word(head.len() + 16), word(data.len() + 16)].concat();
    let clear = out.clone();
    out.extend_from_slice(head);
    sealer.seal(2 * u64::from(number), &clear, &mut out, 16);
    let (sealed_head, from) = (out[16..].to_vec(), out.len());
    out.extend_from_slice(data);
    sealer.seal(2 * u64::from(number) + 1, &sealed_head, &mut out, from);
    out
}

/// Numbers as records hold them, from just above what fits to 2^64 - 1; and one of 128 bits.
fn bombs() -> Vec<Vec<u8>> {
    let wide = |n: u64| [&[253][..], &n.to_le_bytes()].concat();
    let narrow = |n: u32| [&[252][..], &n.to_le_bytes()].concat();
    vec![
        wide(1 << 60),
        wide(u64::MAX),
        wide((64 << 20) + 1),
        narrow(63 << 20),
        narrow(1 << 21),
        narrow(u32::MAX),
        [&[254][..], &[255; 16]].concat(),
    ]
}

/// Every number of every record is replaced by a bomb, in a process of its own whose memory can be measured.
#[test]
fn lengths_that_no_record_can_have_take_no_memory() {
    const CHILD: &str = "XSNAP_TEST_BOMBS";
    if std::env::var_os(CHILD).is_some() {
        for decoder in decoders() {
            (decoder.decode)(&decoder.valid).unwrap_or_else(|e| panic!("{}: {e}", decoder.what));
            for at in 0..decoder.valid.len() {
                for bomb in bombs() {
                    let forged = [&decoder.valid[..at], &bomb, &decoder.valid[at + 1..]].concat();
                    drop((decoder.decode)(&forged));
                    drop((decoder.decode)(&[&decoder.valid[..at], &bomb].concat()));
                }
            }
        }
        return;
    }
    let own = "hostile_bytes::lengths_that_no_record_can_have_take_no_memory";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args([own, "--exact", "--test-threads=1"]).env(CHILD, "1").env_remove("RUST_BACKTRACE");
    let began = Instant::now();
    let mut child = child.stdout(std::process::Stdio::null()).spawn().unwrap();
    let (mut peak_kib, status) = (0, format!("/proc/{}/status", child.id()));
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak_kib = peak_kib.max(kib.unwrap_or(0));
        if let Some(ended) = child.try_wait().unwrap() {
            break ended;
        }
        if began.elapsed() > Duration::from_secs(100) || peak_kib > 2 << 20 {
            child.kill().unwrap();
            panic!("stopped after {:?} with {peak_kib} KiB", began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success(), "a decoder panicked");
    assert!((1_000..300_000).contains(&peak_kib), "{peak_kib} KiB");
}

#[test]
fn every_flipped_byte_of_every_record_is_decoded_or_refused() {
    let mut random = Random::new("records", 0);
    for decoder in decoders() {
        for at in 0..decoder.valid.len() {
            for _ in 0..16 {
                let mut forged = decoder.valid.clone();
                forged[at] = u8::try_from(random.below(256)).unwrap();
                drop((decoder.decode)(&forged));
            }
            assert!((decoder.decode)(&decoder.valid[..at]).is_err(), "{} cut to {at}", decoder.what);
        }
        let longer = [decoder.valid.as_slice(), b"\0"].concat();
        let e = (decoder.decode)(&longer).expect_err(decoder.what);
        assert!(e.is_damage() && e.to_string().contains("it"), "{}: {e}", decoder.what);
    }
}

#[test]
fn a_frame_that_unpacks_to_more_than_it_says_is_damage() {
    let sealer = Secrets::plain().sealer(&name("pack"));
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 200 << 20), 1).unwrap();
    let no_bases = |_: &[BlobId]| -> Result<Vec<u8>> { panic!("no bases") };
    for lengths in [vec![10], vec![0], vec![], vec![16 << 20], vec![u32::MAX; 3], vec![(16 << 20) + 1], vec![1; 70_000]]
    {
        for codec in [Codec::Zstd, Codec::Stored] {
            let head = Head { codec, lengths: lengths.clone(), bases: Vec::new(), extensions: Vec::new() };
            let bytes = frame_of(&sealer, 0, &codec::encode(&head), &bomb);
            let opened = frame::open(&sealer, 0, &bytes, "the frame", no_bases);
            assert!(
                matches!(&opened, Err(Error::Damaged { object, .. }) if object == "the frame"),
                "{lengths:?} {codec:?}"
            );
        }
    }
}

/// Publishes a pack with a frame for each blob.
fn published(disk: &Memory, blobs: &[&[u8]]) -> Published {
    let mut pack = PackBuilder::begin(disk, &Secrets::plain(), REPOSITORY, Kind::DataPack).unwrap();
    blobs.iter().for_each(|blob| pack.append(packed(blob, &[])).unwrap());
    pack.finish().unwrap()
}

/// A frame of one blob that leans on others.
fn packed(blob: &[u8], bases: &[&[u8]]) -> frame::Packed {
    let ids = |blobs: &[&[u8]]| blobs.iter().map(|b| Secrets::plain().blob_id(b)).collect::<Vec<_>>();
    let lengths = vec![u32::try_from(blob.len()).unwrap()];
    Compressor::new(3).pack(blob.to_vec(), lengths, ids(&[blob]), ids(bases), &bases.concat())
}

fn leaning(disk: &Memory, frames: &[(&[u8], &[&[u8]])]) -> Published {
    let mut pack = PackBuilder::begin(disk, &Secrets::plain(), REPOSITORY, Kind::DataPack).unwrap();
    frames.iter().for_each(|(blob, bases)| pack.append(packed(blob, bases)).unwrap());
    pack.finish().unwrap()
}

fn reader_of(disk: &Memory, packs: &[&Published], bad: &HashSet<(ObjectName, u32)>) -> Reader {
    let mut index = Index::default();
    for pack in packs {
        let bad = bad.iter().filter(|(name, _)| *name == pack.name).map(|(_, frame)| *frame).collect();
        index.add(&pack.name, pack.kind, &pack.toc, &bad, None);
    }
    Reader::new(Arc::new(disk.clone()), Arc::new(Secrets::plain()), Arc::new(index))
}

fn noise(seed: u64) -> Vec<u8> {
    Random::new("hostile", seed).bytes(20_000)
}

/// Bytes that compress to next to nothing against a base.
fn like(base: &[u8]) -> Vec<u8> {
    let mut blob = base.to_vec();
    blob[1_000] ^= 1;
    blob
}

#[test]
fn a_leaning_frame_is_read_through_its_base_and_lost_with_it() {
    let (disk, base) = (Memory::new(), noise(1));
    let blob = like(&base);
    let id = Secrets::plain().blob_id(&blob);
    let below = published(&disk, &[&base]);
    let above = leaning(&disk, &[(&blob, &[&base])]);
    assert!(above.length_bytes < 2_000, "it leans: {}", above.length_bytes);
    let reader = reader_of(&disk, &[&below, &above], &HashSet::new());
    assert_eq!(reader.blob(&id).unwrap(), blob);
    assert!(reader.index().is_known(&id));
    // A second copy of the base in another pack serves when the first is damaged.
    let spare = published(&disk, &[&base]);
    disk.flip(Folder::Packs, &below.name, 200, 4);
    assert_eq!(reader_of(&disk, &[&below, &spare, &above], &HashSet::new()).blob(&id).unwrap(), blob);
    let reader = reader_of(&disk, &[&below, &above], &HashSet::new());
    let e = reader.blob(&id).expect_err("its base is damaged");
    assert!(e.is_damage(), "{e}");
    let bad: HashSet<_> = reader.take_bad_frames().into_iter().collect();
    assert!(bad.contains(&(below.name.clone(), 0)), "{bad:?}");
    let marked = reader_of(&disk, &[&below, &above], &HashSet::from([(below.name.clone(), 0)]));
    assert!(!marked.index().is_known(&id), "a blob is known only if its base is healthy");
    let with_spare = reader_of(&disk, &[&below, &spare, &above], &HashSet::from([(below.name.clone(), 0)]));
    assert!(with_spare.index().is_known(&id));
    disk.remove(Folder::Packs, &below.name);
    let reader = reader_of(&disk, &[&above], &HashSet::new());
    assert!(!reader.index().is_known(&id) && reader.blob(&id).is_err_and(|e| e.is_damage()));
}

#[test]
fn frames_that_lean_on_themselves_or_on_each_other_are_damage_and_not_known() {
    let (disk, a, b) = (Memory::new(), noise(1), noise(2));
    let (like_a, like_b) = (like(&a), like(&b));
    let circle = leaning(&disk, &[(&a, &[&a]), (&b, &[&like_b]), (&like_b, &[&b]), (&like_a, &[&a])]);
    let reader = reader_of(&disk, &[&circle], &HashSet::new());
    for blob in [&a, &b, &like_a, &like_b] {
        let id = Secrets::plain().blob_id(blob);
        assert!(!reader.index().is_known(&id));
        assert!(reader.blob(&id).is_err_and(|e| e.is_damage()));
        (0..4).for_each(|frame| assert!(reader.frame(frame).is_err_and(|e| e.is_damage())));
    }
}

#[test]
fn a_table_that_hides_the_bases_of_a_frame_or_misnames_its_blobs_brings_no_wrong_byte() {
    let (disk, base) = (Memory::new(), noise(1));
    let blob = like(&base);
    let below = published(&disk, &[&base]);
    let mut above = leaning(&disk, &[(&blob, &[&base])]);
    above.toc.frames[0].bases.clear();
    let id = Secrets::plain().blob_id(&blob);
    let reader = reader_of(&disk, &[&below, &above], &HashSet::new());
    assert!(reader.blob(&id).is_err_and(|e| e.is_damage()));
    let (mut one, mut other) = (published(&disk, &[b"one", b"two"]), published(&disk, &[b"two", b"one"]));
    other.toc.frames = one.toc.frames;
    one.toc = other.toc;
    let reader = reader_of(&disk, &[&one], &HashSet::new());
    for text in [b"one", b"two"] {
        assert!(reader.blob(&Secrets::plain().blob_id(text)).is_err_and(|e| e.is_damage()));
    }
}

/// Tables whose frames overlap, lie outside, or lean on nothing are refused, and the pack is searched instead.
#[test]
fn a_pack_with_an_impossible_table_is_searched_for_its_frames() {
    type Forgery = fn(&mut Toc);
    let forgeries: [Forgery; 8] = [
        |toc| toc.frames[1].offset_bytes = toc.frames[0].offset_bytes + 1,
        |toc| toc.frames[1].offset_bytes = u64::MAX,
        |toc| toc.frames[1].offset_bytes = 1 << 30,
        |toc| toc.frames[0].offset_bytes = 0,
        |toc| toc.frames[1].frame_bytes = u32::MAX,
        |toc| toc.frames[1].bases = vec![0],
        |toc| toc.frames[1].blobs = u32::MAX,
        |toc| toc.lengths.truncate(1),
    ];
    for (number, forge) in forgeries.into_iter().enumerate() {
        let disk = Memory::new();
        let pack = published(&disk, &[b"one", &noise(3)]);
        let sealer = Secrets::plain().sealer(&pack.name);
        let mut toc = pack.toc.clone();
        forge(&mut toc);
        let sealed = toc.seal(&sealer, pack.kind);
        let refused = Toc::open(&sealer, pack.kind, &sealed, pack.length_bytes, "it");
        assert!(refused.is_err_and(|e| e.is_damage()), "forgery {number}");
        let whole = disk.bytes(Folder::Packs, &pack.name).unwrap();
        let frames_end = whole.len() - 40 - 8 - pack.sealed_toc.len();
        let length = u32::try_from(sealed.len()).unwrap().to_le_bytes();
        let body = [&whole[64..frames_end], &sealed, &length, b"xToc"].concat();
        disk.remove(Folder::Packs, &pack.name);
        let label = Label { kind: pack.kind, repository: REPOSITORY, name: pack.name.clone() };
        let length_bytes = envelope::put(&disk, Folder::Packs, &label, &body).unwrap();
        let found = read_toc(&disk, &Secrets::plain(), REPOSITORY, &pack.name, length_bytes).unwrap();
        assert!(found.mended.is_some(), "forgery {number}");
        let ids = |toc: &Toc| toc.ids().collect::<Vec<_>>();
        assert_eq!(ids(&found.toc), ids(&pack.toc), "forgery {number}");
    }
}

/// The table of a pack is lost; a frame that leans is found if its bases lie in plain frames before it.
#[test]
fn a_search_finds_frames_that_lean_on_bases_of_the_same_pack() {
    let (disk, base, other) = (Memory::new(), noise(1), noise(2));
    let (near, far, last) = (like(&base), like(&other), noise(3));
    let both = [&base[..], &near].concat();
    let frames: [(&[u8], &[&[u8]]); 5] =
        [(&base, &[]), (&near, &[&base]), (&far, &[&other]), (&both, &[&base, &near]), (&last, &[])];
    let pack = leaning(&disk, &frames);
    let read = || read_toc(&disk, &Secrets::plain(), REPOSITORY, &pack.name, pack.length_bytes).unwrap();
    assert!(read().mended.is_none());
    let tail = usize::try_from(pack.length_bytes).unwrap() - 44;
    disk.flip(Folder::Packs, &pack.name, tail, 1);
    let found = read();
    assert!(found.mended.is_some());
    let known: Vec<_> = found.toc.ids().collect();
    let id = |blob: &[u8]| Secrets::plain().blob_id(blob);
    // The third leans on a base of another pack, the fourth on a blob of a frame that leans itself.
    assert_eq!(known, [id(&base), id(&near), id(&last)]);
    let numbers: Vec<u32> = (0..).zip(&found.toc.frames).filter(|(_, f)| f.frame_bytes > 0).map(|(n, _)| n).collect();
    assert_eq!(numbers, [0, 1, 4], "each has kept its number");
    let searched = Published { toc: found.toc, ..pack.clone() };
    let reader = reader_of(&disk, &[&searched], &HashSet::new());
    assert_eq!(reader.blob(&id(&near)).unwrap(), near);
    assert!(reader.index().is_known(&id(&near)));
}

/// Blobs that lean on bases in the same pack, in another pack, and on one that is nowhere.
#[test]
fn a_reader_of_one_folder_holds_the_bases_that_it_needs_and_each_frame_once() {
    let (base, other, absent) = (noise(1), noise(2), noise(3));
    let blobs = [like(&base), like(&other), like(&absent)];
    let (repository, snapshot) = forged(|forge| {
        let content = |blob: &Vec<u8>| {
            let id = Secrets::plain().blob_id(blob);
            Content { depth: 0, runs: vec![Run::Data { id, length_bytes: blob.len() as u64 }] }
        };
        let [near, far, lost] = blobs.each_ref().map(content);
        forge.folder(&[file(b"far", far), file(b"lost", lost), file(b"near", near)])
    });
    let storage = repository.storage().as_ref();
    let pack = |frames: &[(&[u8], &[&[u8]])]| {
        let mut pack = PackBuilder::begin(storage, &Secrets::plain(), repository.id(), Kind::DataPack).unwrap();
        frames.iter().for_each(|(blob, bases)| pack.append(packed(blob, bases)).unwrap());
        pack.finish().unwrap()
    };
    let above = pack(&[(&base, &[]), (&blobs[0], &[&base]), (&blobs[1], &[&other]), (&blobs[2], &[&absent])]);
    let below = pack(&[(&other, &[]), (&noise(4), &[])]);
    repository.catalogue_packs(&[above.clone(), below.clone()]).unwrap();
    let reader = repository.reader_of(&snapshot.root).unwrap();
    for (blob, whole) in blobs.iter().zip([true, true, false]) {
        assert_eq!(reader.blob(&Secrets::plain().blob_id(blob)).ok().as_ref(), whole.then_some(blob));
    }
    for (name, frames) in [(&above.name, 4), (&below.name, 2)] {
        let all = (0..).map_while(|at| reader.index().frame(at));
        assert_eq!(all.filter(|(_, pack, _)| pack.name == *name).count(), frames);
    }
}

/// A slot that asks for more than a machine has, or for what argon2 cannot do, is damage; the others are tried.
#[test]
fn a_key_slot_that_asks_for_the_impossible_keeps_nobody_out() {
    let costs =
        [(u32::MAX, 1, 1), (8, u32::MAX, 1), (1 << 20, 1, u32::MAX), (8, 1, 64), (0, 0, 0), (1 << 21, 1, 1), (8, 0, 1)];
    for cost in costs {
        let disk = Memory::new();
        let storage: Arc<dyn Storage> = Arc::new(disk.clone());
        let repository = small::init(&storage, Some("right")).unwrap().id();
        let body = codec::encode(&(cost, [7_u8; 32], vec![1_u8; 60], Vec::<(u32, Vec<u8>)>::new()));
        for forged in ["key-00000000000000000000", "key-zzzzzzzzzzzzzzzzzzzz"] {
            let label = Label { kind: Kind::Key, repository, name: name(forged) };
            envelope::put(&disk, Folder::Keys, &label, &body).unwrap();
        }
        let began = Instant::now();
        let opened = small::open(&storage, Some("right"), Access::Read);
        assert!(opened.is_ok(), "{cost:?}: {}", opened.unwrap_err());
        let wrong = small::open(&storage, Some("wrong"), Access::Read).unwrap_err();
        assert_eq!(wrong.exit_code(), 12, "{cost:?}: {wrong}");
        assert!(began.elapsed() < Duration::from_secs(5), "{cost:?}: {:?}", began.elapsed());
        let e = keys::open_slot(&body, &Password::new(b"right".into()), &name("key-a"), "the slot").unwrap_err();
        assert!(e.is_damage() && e.to_string().contains("the slot"), "{cost:?}: {e}");
    }
}

/// A number of a time that the system call would take for a word of its own.
#[test]
fn a_snapshot_whose_root_has_an_impossible_time_is_damaged() {
    let mut snapshot = snapshot_of(folder(b"", Content::default()));
    snapshot.root.metadata.mtime.nanoseconds = 1_073_741_822;
    let name = snapshot.id.object(Generation::FIRST);
    let body = snapshot.seal(&Secrets::plain(), &name).unwrap();
    assert!(Snapshot::open(&Secrets::plain(), &name, &body, "it").is_err_and(|e| e.is_damage()));
}
