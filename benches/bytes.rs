//! What is done to every byte: cutting, naming, compressing, sealing. `cargo bench --bench bytes`.
//!
//! The last group compares the cipher in use with AES-GCM, which is faster where the processor has instructions for it and
//! far slower, or open to timing, where it has none.
#![allow(missing_docs, clippy::unwrap_used, clippy::indexing_slicing, reason = "a bench is no part of the library")]

use aes_gcm::{Aes256Gcm, aead::AeadInOut as _};
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::{hint::black_box, time::Duration};
use xsnap::{
    blobs::{
        chunker::{ChunkSizes, Chunker},
        frame::{self, Compressor, Packed},
        seal::Secrets,
    },
    id::ObjectName,
};

const MIB: usize = 1 << 20;

fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Lines that compress about as well as sources and settings do.
fn text(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 64);
    for seed in noise(length).as_chunks::<4>().0 {
        let line = format!("node{:04} 10.0.{}.{} state={:02x}\n", seed[0], seed[1], seed[2], seed[3] % 8);
        bytes.extend_from_slice(line.as_bytes());
        if bytes.len() >= length {
            break;
        }
    }
    bytes.truncate(length);
    bytes
}

fn sealed() -> Secrets {
    Secrets::sealed(Some([1; 32]), [2; 32])
}

fn chunking(c: &mut Criterion) {
    let bytes = noise(16 * MIB);
    let mut group = c.benchmark_group("chunking");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    for (name, gear) in [("plain", None), ("keyed", sealed().gear())] {
        let chunker = Chunker::new(ChunkSizes::DEFAULT, gear);
        let mut buffer = Vec::new();
        group.bench_function(name, |b| {
            b.iter(|| {
                let take = |chunk: &[u8]| {
                    black_box(chunk.len());
                    Ok::<(), std::io::Error>(())
                };
                chunker.cut(&bytes[..], u64::MAX, &mut buffer, take).unwrap()
            });
        });
    }
}

fn hashing(c: &mut Criterion) {
    let mut group = c.benchmark_group("blob ids");
    for length in [4 << 10, 128 << 10] {
        let bytes = noise(length);
        group.throughput(Throughput::Bytes(length as u64));
        for (name, secrets) in [("plain", Secrets::plain()), ("keyed", sealed())] {
            group.bench_function(format!("{name}, {} KiB", length >> 10), |b| b.iter(|| secrets.blob_id(&bytes)));
        }
    }
}

/// A frame of sixteen blobs, not yet sealed.
fn packed(compressor: &mut Compressor, raw: &[u8], secrets: &Secrets) -> Packed {
    let blobs: Vec<&[u8]> = raw.chunks(raw.len() / 16).collect();
    let lengths = blobs.iter().map(|blob| blob.len() as u32).collect();
    let ids = blobs.iter().map(|blob| secrets.blob_id(blob)).collect();
    compressor.pack(raw.to_vec(), lengths, ids, Vec::new(), &[])
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    let name = ObjectName::parse("pack").unwrap();
    for (kind, raw) in [("text", text(MIB)), ("noise", noise(MIB))] {
        group.throughput(Throughput::Bytes(raw.len() as u64));
        let mut compressor = Compressor::new(3);
        group.bench_function(format!("compress {kind}"), |b| {
            b.iter(|| packed(&mut compressor, &raw, &Secrets::plain()).stored_bytes());
        });
        for (mode, secrets) in [("plain", Secrets::plain()), ("sealed", sealed())] {
            let (sealer, packed) = (secrets.sealer(&name), packed(&mut compressor, &raw, &secrets));
            let mut stored = Vec::new();
            frame::seal(&sealer, 0, packed.clone(), &mut stored);
            group.bench_function(format!("seal {kind}, {mode}"), |b| {
                b.iter_batched(
                    || (packed.clone(), Vec::with_capacity(2 * MIB)),
                    |(packed, mut out)| drop(black_box((frame::seal(&sealer, 0, packed, &mut out), out))),
                    BatchSize::LargeInput,
                );
            });
            group.bench_function(format!("open {kind}, {mode}"), |b| {
                b.iter(|| frame::open(&sealer, 0, &stored, "bench", |_| Ok(Vec::new())).unwrap());
            });
        }
    }
}

fn ciphers(c: &mut Criterion) {
    let mut group = c.benchmark_group("sealing");
    for length in [256 << 10, MIB] {
        let mut bytes = noise(length);
        group.throughput(Throughput::Bytes(length as u64));
        let (chacha, aes) = (ChaCha20Poly1305::new(&[7; 32].into()), Aes256Gcm::new(&[7; 32].into()));
        group.bench_function(format!("chacha20poly1305, {} KiB", length >> 10), |b| {
            b.iter(|| chacha.encrypt_inout_detached(&[1; 12].into(), b"clear", bytes.as_mut_slice().into()).unwrap());
        });
        group.bench_function(format!("aes256gcm, {} KiB", length >> 10), |b| {
            b.iter(|| aes.encrypt_inout_detached(&[1; 12].into(), b"clear", bytes.as_mut_slice().into()).unwrap());
        });
    }
}

fn short() -> Criterion {
    let short = Criterion::default().warm_up_time(Duration::from_millis(300));
    short.measurement_time(Duration::from_secs(1)).sample_size(10).without_plots()
}

criterion_group!(name = benches; config = short(); targets = chunking, hashing, frames, ciphers);
criterion_main!(benches);
