//! A whole backup and a whole restore of a small tree, in memory where there is a file system for that.
//! `cargo bench --bench whole`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a bench is no part of the library"
)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::{
    fs,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::Path,
    time::Duration,
};
use tempfile::TempDir;
use xsnap::{
    archive::{
        backup::{Request, backup},
        request::RestoreRequest,
    },
    progress::Silent,
    repo::{config::Config, opening::Access, repository::Repository},
};

#[allow(dead_code, reason = "the kit of the tests serves more than this bench")]
#[path = "../tests/it/support/plain.rs"]
mod plain;

const FILES: u32 = 2_000;

fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Files of some kilobytes of lines, twenty a folder, and a few megabytes that do not compress. Returns their bytes.
fn build(root: &Path) -> u64 {
    let mut total = 0;
    let mut write = |path: &Path, bytes: &[u8]| {
        total += bytes.len() as u64;
        fs::write(path, bytes).unwrap();
    };
    for number in 0..FILES {
        let folder = root.join(format!("folder{:03}", number / 20));
        fs::create_dir_all(&folder).unwrap();
        let line = format!("{number} {}\n", blake3::hash(&number.to_le_bytes()));
        write(&folder.join(format!("file{number}")), line.repeat(1 + number as usize % 200).as_bytes());
    }
    let mut large = vec![0; 8 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    write(&root.join("large"), &large);
    total
}

fn init(root: &Path, encrypted: bool) -> Repository {
    plain::init(&plain::local(root), Config::default(), encrypted.then_some("bench")).unwrap()
}

fn request(source: &Path) -> Request {
    Request { read_all: true, ..plain::request(&[source]) }
}

fn restore_all(repository: &Repository, source: &Path, target: &Path) {
    let snapshot = &repository.snapshots()[0];
    let root = fs::File::open(target).unwrap();
    let path = source.as_os_str().as_bytes();
    let request = RestoreRequest { root_metadata: false, ..plain::restore_request() };
    let done = plain::restore(repository, snapshot, path, root.as_fd(), &request, &Silent).unwrap();
    assert_eq!((done.files, done.problems), (u64::from(FILES) + 1, 0));
}

fn whole(c: &mut Criterion) {
    let source = folder();
    let bytes = build(source.path());
    let mut group = c.benchmark_group("whole");
    group.throughput(Throughput::Bytes(bytes));
    for (mode, encrypted) in [("plain", false), ("encrypted", true)] {
        let fresh = || {
            let target = folder();
            let repository = init(target.path(), encrypted);
            (target, repository)
        };
        group.bench_function(format!("first backup, {mode}"), |b| {
            b.iter_batched(
                fresh,
                |(target, mut repository)| {
                    backup(&mut repository, &request(source.path()), &Silent).unwrap();
                    (target, repository)
                },
                BatchSize::PerIteration,
            );
        });
        let (_folder, mut repository) = fresh();
        backup(&mut repository, &request(source.path()), &Silent).unwrap();
        group.bench_function(format!("restore, {mode}"), |b| {
            b.iter_batched(
                folder,
                |target| {
                    restore_all(&repository, source.path(), target.path());
                    target
                },
                BatchSize::PerIteration,
            );
        });
    }
    let stored = folder();
    let mut repository = init(stored.path(), false);
    backup(&mut repository, &request(source.path()), &Silent).unwrap();
    drop(repository);
    group.bench_function("open", |b| {
        b.iter(|| plain::open(&plain::local(stored.path()), None, Access::Read).unwrap());
    });
}

fn short() -> Criterion {
    let short = Criterion::default().warm_up_time(Duration::from_millis(300));
    short.measurement_time(Duration::from_secs(2)).sample_size(10).without_plots()
}

criterion_group!(name = benches; config = short(); targets = whole);
criterion_main!(benches);
