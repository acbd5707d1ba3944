//! Every fuzzing body with a fixed number of seeded inputs, so that a stable toolchain covers them on every test run.
//!
//! Inputs are changes of valid encodings, and a few of nothing but noise. `XSNAP_FUZZ_TIMES=100` runs a hundred times as many.

use crate::{
    fuzz_bodies::{self as bodies, Body},
    fuzz_operations::operations,
    support::{
        faults::Faulty,
        random::Random,
        reference,
        samples::{self, REPOSITORY, pack_name},
        storage::Memory,
    },
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};
use xsnap::{
    blobs::{codec, pack, seal::Secrets},
    repo::{
        catalog::{Catalog, PackRow},
        content::encode_list,
        tree::{encode_piece, encode_stats},
    },
    storage::{envelope::Kind, object::Folder},
};

/// Runs a body on each seed as it is, and on so many changes of them.
fn fuzz(name: &str, body: Body, seeds: &[Vec<u8>], count: u64) {
    let mut random = Random::new(name, 0);
    let run = |input: &[u8]| {
        let shown = || input.iter().take(2_000).map(|byte| format!("{byte:02x}")).collect::<String>();
        assert!(catch_unwind(AssertUnwindSafe(|| body(input))).is_ok(), "{name} fails on {}", shown());
    };
    seeds.iter().for_each(|seed| run(seed));
    run(&[]);
    let times: u64 = std::env::var("XSNAP_FUZZ_TIMES").map_or(1, |times| times.parse().unwrap());
    for _ in 0..count * times {
        let seed = random.pick(seeds).clone();
        run(&changed(&mut random, seed, seeds));
    }
}

/// A few changes of some bytes: bits, numbers at their limits, pieces cut, doubled, moved in from another seed; or noise.
fn changed(random: &mut Random, mut bytes: Vec<u8>, seeds: &[Vec<u8>]) -> Vec<u8> {
    if random.one_in(20) {
        let length = random.index(300);
        return random.bytes(length);
    }
    for _ in 0..=random.index(4) {
        let at = random.index(bytes.len().max(1)).min(bytes.len());
        let piece = 1 + random.index(16);
        let end = (at + piece).min(bytes.len());
        match random.below(7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            2 if at < bytes.len() => bytes[at] = *random.pick(&[0, 1, 0x7f, 0xfa, 0xfb, 0xfc, 0xfd, 0xfe, 0xff]),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..end)),
            5 => {
                let doubled = bytes[at..end].to_vec();
                bytes.splice(at..at, doubled);
            }
            _ => {
                let other = random.pick(seeds);
                let from = random.index(other.len().max(1)).min(other.len());
                let to = (from + piece * 4).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes
}

#[test]
fn envelopes_and_names_withstand_any_bytes() {
    let object = reference::envelope(3, REPOSITORY.0, samples::snapshot_name().as_str(), b"the body");
    let bodies = [object[..64].to_vec(), object, samples::pack_object(&Secrets::plain())];
    fuzz("envelope", bodies::envelope, &bodies, 20_000);
    let names = [samples::snapshot_name(), samples::config_name(), samples::slot_name(), pack_name()];
    let names: Vec<Vec<u8>> = names.iter().map(|name| name.as_str().into()).collect();
    fuzz("label", bodies::label, &[bodies.to_vec(), names].concat(), 20_000);
}

#[test]
fn configs_key_slots_and_snapshots_withstand_any_bytes() {
    let configs = [samples::config_body(None), codec::encode(&samples::config())];
    fuzz("config", bodies::config, &configs, 20_000);
    let keys = codec::encode(&(samples::SEAL_KEY, Some(samples::IDENTITY_KEY)));
    fuzz("key slot", bodies::key_slot, &[samples::slot_body(), keys], 3_000);
    fuzz("snapshot", bodies::snapshot, &[samples::snapshot_record()], 20_000);
}

#[test]
fn frames_tables_and_packs_withstand_any_bytes() {
    let secrets = Secrets::plain();
    let frames: Vec<Vec<u8>> = (0..3).map(|number| samples::frame_bytes(number, &secrets)).collect();
    fuzz("toc", bodies::toc, &[samples::toc_record(&frames, &secrets)], 20_000);
    let opened = |number: u32, bytes: &Vec<u8>| {
        let sealer = secrets.sealer(&pack_name());
        let head_end = 16 + u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) as usize;
        let head = sealer.open(2 * u64::from(number), &bytes[..16], &bytes[16..head_end]).unwrap();
        let data = sealer.open(2 * u64::from(number) + 1, &bytes[16..head_end], &bytes[head_end..]).unwrap();
        [&[u8::try_from(head.len()).unwrap()][..], &head, &data].concat()
    };
    let inside: Vec<Vec<u8>> = (0..3).zip(&frames).map(|(number, bytes)| opened(number, bytes)).collect();
    fuzz("frame", bodies::frame, &[frames, inside].concat(), 20_000);
    let whole = samples::pack_object(&secrets);
    fuzz("pack search", bodies::pack_search, &[whole[64..].to_vec(), whole], 4_000);
}

#[test]
fn a_pack_full_of_what_looks_like_frames_is_searched_with_few_reads() {
    let secrets = Secrets::plain();
    let frame = samples::frame_bytes(0, &secrets);
    let magics = b"xFr1".repeat(1 << 18);
    let prefix = [b"xFr1".as_slice(), &[0; 4], &(1_u32 << 21).to_le_bytes(), &(1_u32 << 24).to_le_bytes()].concat();
    for filling in [magics, prefix.repeat(1 << 16)] {
        // What is whole is found in front of such a filling, whatever comes behind it.
        let body = [&frame[..], &filling].concat();
        let memory = Memory::new();
        memory.replace(Folder::Packs, &pack_name(), reference::envelope(4, REPOSITORY.0, pack_name().as_str(), &body));
        let length_bytes = body.len() as u64 + 104;
        let storage = Faulty::new(Arc::new(memory));
        let found = pack::read_toc(&storage, &secrets, REPOSITORY, &pack_name(), length_bytes).unwrap();
        assert_eq!(found.toc.frames.len(), 1);
        let read_bytes: u64 = storage.calls().iter().map(|call| call.length_bytes as u64).sum();
        assert!(read_bytes < 24 * length_bytes + (80 << 20), "{read_bytes} bytes were read");
    }
}

#[test]
fn pieces_stats_and_lists_withstand_any_bytes() {
    fuzz("piece", bodies::piece, &[encode_piece(&samples::entries())], 40_000);
    fuzz("stats", bodies::stats, &[encode_stats(&samples::stats())], 40_000);
    fuzz("list", bodies::list, &[encode_list(&samples::runs())], 40_000);
}

#[test]
fn a_catalogue_of_any_bytes_becomes_one_that_works() {
    let folder = bodies::in_memory_folder();
    let path = folder.path().join("index.sqlite");
    let catalog = Catalog::open(Some(&path), REPOSITORY).unwrap();
    let row = PackRow { name: pack_name(), length_bytes: 1000, kind: Kind::DataPack, toc: vec![7; 300] };
    catalog.put_pack(&row).unwrap();
    catalog.put_snapshot(&samples::snapshot_name(), &[8; 200], None).unwrap();
    catalog.mark_bad([(&pack_name(), 1)]).unwrap();
    drop(catalog);
    fuzz("catalogue", bodies::catalogue, &[std::fs::read(&path).unwrap()], 400);
}

#[test]
fn patterns_withstand_any_text() {
    let seeds = [&b"*.tmp\n!keep.tmp\n/a/**/b/\n"[..], b"[a-z]?{x,y}\\*\n", b"a/b\n\n"].map(Vec::from);
    fuzz("patterns", bodies::patterns, &seeds, 3_000);
}

#[test]
fn no_sequence_of_operations_brings_back_a_wrong_byte() {
    let mut random = Random::new("operations", 0);
    let seeds: Vec<Vec<u8>> = (0..24).map(|_| random.bytes(60)).collect();
    fuzz("operations", operations, &seeds, 60);
}
