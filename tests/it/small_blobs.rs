//! Blobs of a few bytes each, in numbers that reach the limits of a frame and of a table before those of their lengths.

use crate::support::storage::Memory;
use std::{collections::HashSet, sync::Arc};
use xsnap::{
    blobs::{
        index::Index,
        reader::Reader,
        seal::Secrets,
        writer::{Stream, Target, Writer, WriterOptions},
    },
    id::RepositoryId,
    storage::object::{Folder, Reserve, Storage},
};

/// Puts so many numbers, each a blob of four bytes, and hands back how many blobs each pack got.
fn blobs_a_pack(stream: Stream, count: u32, probe: u32) -> Vec<usize> {
    let storage: Arc<dyn Storage> = Arc::new(Memory::new());
    let secrets = Arc::new(Secrets::plain());
    let target =
        Target { storage: Arc::clone(&storage), secrets: Arc::clone(&secrets), repository: RepositoryId([1; 16]) };
    let options = WriterOptions { level: 1, pack_bytes: 1 << 30, threads: 1, dry_run: false, reserve: Reserve::Usual };
    let writer = Writer::start(target, Arc::default(), options).unwrap();
    let mut filler = writer.filler(stream);
    for number in 0..count {
        filler.put(&number.to_le_bytes()).unwrap();
    }
    filler.flush().unwrap();
    drop(filler);
    let (published, added) = writer.finish().unwrap();
    assert_eq!(added.blobs, u64::from(count));

    let mut index = Index::default();
    for pack in &published {
        index.add(&pack.name, pack.kind, &pack.toc, &HashSet::new(), None);
    }
    assert_eq!(storage.list(Folder::Packs).unwrap().len(), published.len());
    let reader = Reader::new(storage, Arc::clone(&secrets), Arc::new(index));
    for number in (0..count).step_by(probe as usize) {
        let bytes = number.to_le_bytes();
        assert_eq!(reader.blob(&secrets.blob_id(&bytes)).unwrap(), bytes);
    }
    published.iter().map(|pack| pack.toc.lengths.len()).collect()
}

#[test]
fn more_tiny_files_than_a_frame_may_hold_come_back() {
    assert_eq!(blobs_a_pack(Stream::Data, 140_000, 7_919), [140_000]);
}

#[test]
fn a_pack_is_ended_before_its_table_is_too_long_to_be_read() {
    for stream in [Stream::Data, Stream::Tree] {
        let packs = blobs_a_pack(stream, 700_000, 99_991);
        assert_eq!(packs.iter().sum::<usize>(), 700_000);
        assert!(packs.len() == 2 && packs[0] < 600_000, "{packs:?}");
    }
}
