//! Indexes, tables of contents and trees. `cargo bench --bench structures`.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench is no part of the library")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::{collections::HashSet, sync::Arc, time::Duration};
use xsnap::{
    blobs::{
        codec::{self, Extensions},
        index::Index,
        pack::{Toc, TocFrame},
        seal::Secrets,
    },
    id::{BlobId, ObjectName},
    repo::{
        content::{Content, Run, decode_list, encode_list},
        tree::{Entry, Metadata, Node, Owner, Stat, Time, decode_piece, decode_stats, encode_piece, encode_stats},
    },
    storage::envelope::Kind,
};

fn id(number: u32) -> BlobId {
    BlobId(*blake3::hash(&number.to_le_bytes()).as_bytes())
}

/// A table of so many frames of a hundred blobs each.
fn toc(frames: u32) -> Toc {
    let of = |number: u32| TocFrame {
        offset_bytes: 64 + u64::from(number) * 300_000,
        frame_bytes: 300_000,
        blobs: 100,
        bases: Vec::new(),
    };
    let all = 0..frames * 100;
    let ids: Vec<u8> = all.clone().flat_map(|number| id(number).0).collect();
    let lengths: Vec<u32> = all.map(|number| 5_000 + number % 10_000).collect();
    let record = ((0..frames).map(of).collect::<Vec<_>>(), lengths, ids, Vec::<u8>::new(), Extensions::new());
    codec::decode(&codec::encode(&record), "bench").unwrap()
}

fn packs_and_index(c: &mut Criterion) {
    let (toc, name) = (toc(150), ObjectName::parse("pack").unwrap());
    let blobs = toc.lengths.len();
    let mut group = c.benchmark_group("tables and index");
    group.throughput(Throughput::Elements(blobs as u64));
    for (mode, secrets) in [("plain", Secrets::plain()), ("sealed", Secrets::sealed(None, [2; 32]))] {
        let sealer = secrets.sealer(&name);
        let sealed = toc.seal(&sealer, Kind::DataPack);
        group.bench_function(format!("open a table, {mode}"), |b| {
            b.iter(|| Toc::open(&sealer, Kind::DataPack, &sealed, 1 << 30, "bench").unwrap());
        });
    }
    let none = HashSet::new();
    group.bench_function("add a table to an index", |b| {
        b.iter(|| {
            let mut index = Index::default();
            index.add(&name, Kind::DataPack, &toc, &none, None);
            index
        });
    });
    let mut index = Index::default();
    index.add(&name, Kind::DataPack, &toc, &none, None);
    let wanted: Vec<BlobId> = toc.ids().collect();
    group.bench_function("look up known blobs", |b| {
        b.iter(|| wanted.iter().filter(|id| index.is_known(id)).count());
    });
    let unknown: Vec<BlobId> = (1 << 20..(1 << 20) + blobs as u32).map(id).collect();
    group.bench_function("look up unknown blobs", |b| {
        b.iter(|| unknown.iter().filter(|id| index.is_known(id)).count());
    });
}

fn trees(c: &mut Criterion) {
    let owner = Arc::new(Owner { uid: 1, gid: 1, user: b"daemon".into(), group: b"daemon".into() });
    let entry = |number: u32| {
        let runs = vec![Run::Data { id: id(number), length_bytes: 5_000 }];
        let mtime = Time { seconds: 1_700_000_000 + i64::from(number), nanoseconds: number };
        Entry {
            name: format!("some-file-{number:06}.txt").into_bytes(),
            metadata: Metadata { mode: 0o644, owner: Arc::clone(&owner), mtime, xattrs: Arc::default() },
            node: Node::File { size_bytes: 5_000, content: Content { depth: 0, runs } },
            link: None,
            partial: false,
            extensions: Vec::new(),
        }
    };
    let entries: Vec<Entry> = (0..1_000).map(entry).collect();
    let ctime = Some(Time { seconds: 1_700_000_000, nanoseconds: 7 });
    let stats: Vec<Stat> = (0..1_000).map(|inode| Stat { ctime, inode, device: 64_768, folder: None }).collect();
    let runs: Vec<Run> = (0..1_000).map(|n| Run::Data { id: id(n), length_bytes: 131_072 }).collect();
    let mut group = c.benchmark_group("trees of 1,000 entries");
    group.throughput(Throughput::Elements(1_000));
    let (piece, stat, list) = (encode_piece(&entries), encode_stats(&stats), encode_list(&runs));
    group.bench_function("encode a piece", |b| b.iter(|| encode_piece(&entries)));
    group.bench_function("decode a piece", |b| b.iter(|| decode_piece(&piece, "bench").unwrap()));
    group.bench_function("encode stats", |b| b.iter(|| encode_stats(&stats)));
    group.bench_function("decode stats", |b| b.iter(|| decode_stats(&stat, "bench").unwrap()));
    group.bench_function("encode a list", |b| b.iter(|| encode_list(&runs)));
    group.bench_function("decode a list", |b| b.iter(|| decode_list(&list, "bench").unwrap()));
}

fn short() -> Criterion {
    let short = Criterion::default().warm_up_time(Duration::from_millis(300));
    short.measurement_time(Duration::from_secs(1)).sample_size(10).without_plots()
}

criterion_group!(name = benches; config = short(); targets = packs_and_index, trees);
criterion_main!(benches);
